"""Least squares by a truncated pseudo-inverse, the cut-off cross-validated: the protocol of arXiv 2507.07432."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least
from nextlens.probes.belief import folds_by_group
from nextlens.probes.ridge import (
    BLOCK,
    best_penalty,
    mse,
    r2,
    refuse_not_finite,
    refuse_unequal_lengths,
    row_weights,
)

#: The cut-offs tried in arXiv 2507.07432, relative to the largest singular value.
CUTOFFS = (1e-15, 1e-10, 1e-5, *(10.0 ** (-8 + 5 * step / 49) for step in range(50)))


class Truncated(NamedTuple):
    """A fit by truncated pseudo-inverse, and its score on the rows it was fitted on.

    Attributes
    ----------
    prediction : Float[np.ndarray, "sample target"]
        ``X @ coefficients + intercept``.
    coefficients : Float[np.ndarray, "feature target"]
    intercept : Float[np.ndarray, " target"]
    cutoff : float
        The one chosen, as a share of the largest singular value.
    rank : int
        How many singular values it leaves.
    errors : Float[np.ndarray, " cutoff"]
        Held-out mean squared error of each cut-off, over rows by weight and over targets alike. The least
        of them has chosen ``cutoff``, so it flatters a little; ``mse``, in sample, flatters more.
    r2, mse, rmse : float
        Over all rows by weight, pooled over targets; ``rmse`` is the root of ``mse``.
    """

    prediction: Float[np.ndarray, "sample target"]
    coefficients: Float[np.ndarray, "feature target"]
    intercept: Float[np.ndarray, " target"]
    cutoff: float
    rank: int
    errors: Float[np.ndarray, " cutoff"]
    r2: float
    mse: float
    rmse: float
    in_sample = True


def truncated_least_squares(
    X: Float[np.ndarray, "sample feature"],
    Y: Float[np.ndarray, "sample target"],
    weights: Float[np.ndarray, " sample"] | None = None,
    *,
    cutoffs: Sequence[float] = CUTOFFS,
    n_splits: int = 10,
    seed: int = 0,
) -> Truncated:
    """Weighted least squares whose cut-off is chosen on held-out rows; then fitted, and scored, on every row.

    With D = diag(√w) [1, X] and its decomposition U S Vᵀ, the map at a cut-off c is ``V S⁺ Uᵀ diag(√w) Y``, where
    S⁺ inverts the singular values above ``c · max S`` and is 0 for the others. Folds are single rows: where
    equal prefixes stand in several rows, deduplicate first. Of cut-offs of equal error the largest wins.

    Rows are read once: each fold leaves a triangle (of D and Y together, by Householder's reflections), the
    triangles of the others give the singular values of what remains without it, one decomposition a fold
    for all cut-offs, and its own gives their held-out errors. The condition of X is never squared.

    Riechers et al., arXiv 2507.07432. Of the public code there are versions that cut the spectrum of D and
    some that cut that of DᵀD, and its error is the mean Euclidean distance; here it is D, and the
    squared error, whose root is what the paper prints.

    Raises
    ------
    ValueError
        If lengths differ, a value is not finite, a weight is negative or all are 0, there are fewer rows than
        folds or fewer than 2 folds, or a cut-off is not at least 0 and below 1.

    Examples
    --------
    >>> X = np.random.default_rng(0).standard_normal((50, 3))
    >>> fit = truncated_least_squares(X, X[:, :2] - 1.0)
    >>> round(fit.r2, 6), fit.rank
    (1.0, 4)
    """
    at_least("n_splits", n_splits, 2)
    refuse_unequal_lengths(X=X, Y=Y)
    refuse_not_finite(X=X, Y=Y)
    grid, share = _checked_cutoffs(cutoffs), row_weights(weights, len(X))
    if not share.sum() > 0:
        raise ValueError("weights are all zero; some row must count")
    share = share / share.sum()
    fold = folds_by_group(np.arange(len(X)), n_splits, np.random.default_rng(seed))
    triangles = [_triangle(X, Y, share, np.flatnonzero(fold == i)) for i in range(n_splits)]
    width = 1 + X.shape[1]
    held = sum(_errors(_joined(triangles, i), triangles[i], width, grid) for i in range(n_splits))
    errors = held / Y.shape[1]
    cutoff = best_penalty(grid, errors)
    left, kept, right = _decomposed(_joined(triangles), width)
    rank = int(_ranks(kept, np.array([cutoff]))[0])
    solution = left[:, :rank] @ right[:rank]
    prediction = X @ solution[1:] + solution[0]
    error = mse(Y, prediction, share)
    return Truncated(
        prediction, solution[1:], solution[0], cutoff, rank, errors, r2(Y, prediction, share), error, error**0.5
    )


def _triangle(
    X: Float[np.ndarray, "sample feature"],
    Y: Float[np.ndarray, "sample target"],
    share: Float[np.ndarray, " sample"],
    rows: Int[np.ndarray, " row"],
) -> Float[np.ndarray, "some column"]:
    """R of a QR decomposition of diag(√w) [1, X, Y], of some rows."""
    triangle = np.zeros((0, 1 + X.shape[1] + Y.shape[1]))
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        columns = np.hstack([np.ones((len(part), 1)), X[part], Y[part]]) * np.sqrt(share[part])[:, None]
        triangle = np.linalg.qr(np.vstack([triangle, columns]), mode="r")
    return triangle


def _joined(
    triangles: list[Float[np.ndarray, "_ column"]], left_out: int | None = None
) -> Float[np.ndarray, "some column"]:
    return np.linalg.qr(np.vstack([one for i, one in enumerate(triangles) if i != left_out]), mode="r")


def _decomposed(
    triangle: Float[np.ndarray, "some column"], width: int
) -> tuple[Float[np.ndarray, "design kept"], Float[np.ndarray, " kept"], Float[np.ndarray, "kept target"]]:
    """Right singular vectors V of the design, its singular values S, and S⁻¹ Uᵀ Y (0 where S is)."""
    U, S, Vt = np.linalg.svd(triangle[:, :width], full_matrices=False)
    inverse = np.divide(1.0, S, out=np.zeros_like(S), where=S > 0)
    return Vt.T, S, inverse[:, None] * (U.T @ triangle[:, width:])


def _ranks(singular: Float[np.ndarray, " kept"], cutoffs: Float[np.ndarray, " cutoff"]) -> Int[np.ndarray, " cutoff"]:
    """How many singular values lie above each cut-off."""
    return (singular > cutoffs[:, None] * singular[0]).sum(1)


def _errors(
    fitted: Float[np.ndarray, "some column"],
    scored: Float[np.ndarray, "other column"],
    width: int,
    cutoffs: Float[np.ndarray, " cutoff"],
) -> Float[np.ndarray, " cutoff"]:
    """Σ w |y - ŷ|² over the rows of one triangle, of the maps fitted on another, for every cut-off."""
    V, singular, coordinates = _decomposed(fitted, width)
    ranks = _ranks(singular, cutoffs)
    seen, residual, at, error = scored[:, :width] @ V, scored[:, width:].copy(), 0, {}
    for rank in np.unique(ranks).tolist():
        residual -= seen[:, at:rank] @ coordinates[at:rank]
        at, error[rank] = rank, float((residual**2).sum())
    return np.array([error[rank] for rank in ranks.tolist()])


def _checked_cutoffs(cutoffs: Sequence[float]) -> Float[np.ndarray, " cutoff"]:
    grid = np.asarray(cutoffs, dtype=np.float64)
    if grid.ndim != 1 or grid.size == 0 or not ((grid >= 0) & (grid < 1)).all():
        raise ValueError(f"cutoffs={cutoffs!r} must hold at least one number, each at least 0 and below 1")
    return grid
