"""Edits: what to add to activations so that a probe reads another belief; and subspaces to remove.

A probe reads ``X @ W + c``. Every edit returns the displacement, one row for each row of ``X``, in float64.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from nextlens.models.arguments import between
from nextlens.probes.ridge import refuse_not_finite, refuse_unequal_lengths

#: A direction whose variance, as a probe reads it, is a smaller share of the largest is rounding.
RANK = 1e-10


def minimum_norm_edit(
    X: Float[np.ndarray, "sample feature"],
    W: Float[np.ndarray, "feature state"],
    c: Float[np.ndarray, " state"],
    target: Float[np.ndarray, "sample state"],
) -> Float[np.ndarray, "sample feature"]:
    """The shortest displacement after which the probe reads ``target``::

        (target - X W - c) (Wᵀ W)⁺ Wᵀ

    A probe that predicts well may read directions in which activations hardly vary; then this is
    short, off the activations' cloud, and the network may not notice it. See :func:`covariance_edit`.

    Raises
    ------
    ValueError
        If lengths differ or a value is not finite.
    """
    return covariance_edit(X, W, c, target, np.eye(len(W)))


def covariance_edit(
    X: Float[np.ndarray, "sample feature"],
    W: Float[np.ndarray, "feature state"],
    c: Float[np.ndarray, " state"],
    target: Float[np.ndarray, "sample state"],
    covariance: Float[np.ndarray, "feature feature"],
) -> Float[np.ndarray, "sample feature"]:
    """The likeliest displacement after which the probe reads ``target``, Σ the activations' covariance::

        (target - X W - c) (Wᵀ Σ W)⁺ Wᵀ Σ

    Of all that make the probe read ``target`` it has the least Mahalanobis length ``Δ Σ⁻¹ Δᵀ``; it is
    also the regression of activations on what the probe reads, times the change of the reading.

    The reading is exact where the probe tells all the components of the change apart: beliefs that
    sum to 1, and a probe whose readings do, qualify.

    Raises
    ------
    ValueError
        If lengths differ or a value is not finite.
    """
    refuse_unequal_lengths(X=X, target=target)
    refuse_not_finite(X=X, target=target)
    refuse_not_finite(W=W)
    refuse_not_finite(c=c)
    refuse_not_finite(covariance=covariance)
    along = W.T @ covariance
    return (target - X @ W - c) @ np.linalg.pinv(along @ W, rcond=RANK, hermitian=True) @ along


def decoder_edit(
    D: Float[np.ndarray, "state feature"],
    belief: Float[np.ndarray, "sample state"],
    target: Float[np.ndarray, "sample state"],
) -> Float[np.ndarray, "sample feature"]:
    """``(target - belief) D``, D the regression of activations on the exact belief; it has no penalty.

    D is ``ordinary_least_squares(beliefs, activations)[0]``.

    Raises
    ------
    ValueError
        If lengths differ or a value is not finite.
    """
    refuse_unequal_lengths(belief=belief, target=target)
    refuse_not_finite(belief=belief, target=target)
    refuse_not_finite(D=D)
    return (target - belief) @ D


def random_edit(
    change: Float[np.ndarray, "sample feature"], rng: np.random.Generator
) -> Float[np.ndarray, "sample feature"]:
    """A displacement as long as each row of ``change``, in a direction drawn uniformly.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    return _as_long_as(change, rng.standard_normal(change.shape))


def unread_edit(
    change: Float[np.ndarray, "sample feature"], W: Float[np.ndarray, "feature state"], rng: np.random.Generator
) -> Float[np.ndarray, "sample feature"]:
    """A displacement as long as each row of ``change``, drawn uniformly from those that the probe does not see.

    Raises
    ------
    ValueError
        If a value is not finite, or the probe sees every direction.
    """
    seen = span(W)
    if seen.shape[1] == len(W):
        raise ValueError(f"W of shape {W.shape} reads every direction; none is left that the probe does not see")
    drawn = rng.standard_normal(change.shape)
    return _as_long_as(change, drawn - drawn @ seen @ seen.T)


def span(vectors: Float[np.ndarray, "feature vector"]) -> Float[np.ndarray, "feature rank"]:
    """An orthonormal basis, as columns, of the space that columns span; of a probe's W, what it reads.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    refuse_not_finite(vectors=vectors)
    left, size, _ = np.linalg.svd(vectors, full_matrices=False)
    return left[:, size > RANK**0.5 * size.max(initial=0.0)]


def random_span(n_features: int, rank: int, rng: np.random.Generator) -> Float[np.ndarray, "{n_features} {rank}"]:
    """An orthonormal basis of a ``rank``-dimensional space drawn uniformly from all there are.

    Raises
    ------
    ValueError
        If ``rank`` does not lie between 0 and ``n_features``.
    """
    between("rank", rank, 0, n_features)
    return np.linalg.qr(rng.standard_normal((n_features, rank)))[0]


def mean_ablated(
    X: Float[np.ndarray, "sample feature"],
    mean: Float[np.ndarray, " feature"],
    basis: Float[np.ndarray, "feature rank"],
) -> Float[np.ndarray, "sample feature"]:
    """``X`` with its part along an orthonormal ``basis`` replaced by that of ``mean``; the rest as it was.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    refuse_not_finite(X=X)
    refuse_not_finite(mean=mean)
    refuse_not_finite(basis=basis)
    return X - (X - mean) @ basis @ basis.T


def _as_long_as(
    change: Float[np.ndarray, "sample feature"], drawn: Float[np.ndarray, "sample feature"]
) -> Float[np.ndarray, "sample feature"]:
    refuse_not_finite(change=change)
    length = np.linalg.norm(change, axis=1, keepdims=True)
    return drawn * (length / np.linalg.norm(drawn, axis=1, keepdims=True))
