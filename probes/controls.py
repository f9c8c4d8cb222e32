"""Nulls: what a probe would score without the thing it is said to have found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import xarray as xr
from jaxtyping import Float, Float32, Int, Shaped

from nextlens.models.arguments import at_least
from nextlens.probes.belief import ALPHAS, held_out
from nextlens.probes.ridge import refuse_unequal_lengths

#: More cells than this make no dense design.
MOST_CELLS = 4096

Labelled = TypeVar("Labelled", np.ndarray, xr.DataArray)


def shuffled(
    Y: Shaped[np.ndarray, " sample *target"],
    within: Shaped[np.ndarray, " sample"],
    rng: np.random.Generator,
) -> Shaped[np.ndarray, " sample *target"]:
    """The rows of ``Y`` permuted at random among those of equal ``within``, such as a position.

    Every position keeps its rows, so what position alone tells is not broken. Held out, such targets
    must score about 0 or less; more is a leak in the pipeline.

    Raises
    ------
    ValueError
        If lengths differ, or no two rows share a value of ``within``.
    """
    refuse_unequal_lengths(Y=Y, within=within)
    _, cell, counts = np.unique(within, return_inverse=True, return_counts=True)
    if counts.max() < 2:
        raise ValueError(f"within has {len(counts)} values for {len(Y)} rows, no two alike; no row can move")
    moved = np.empty_like(Y)
    moved[np.argsort(cell, kind="stable")] = Y[np.lexsort((rng.random(len(Y)), cell))]
    return moved


def last_tokens(tokens: xr.DataArray, k: int) -> xr.DataArray:
    """Which words of at most ``k`` tokens end here: one column per word that occurs, 0 or 1.

    An affine map of it can give each word of ``k`` tokens, and each context shorter than that, a
    mean of its own: the best predictor that remembers ``k`` tokens. A word that no fitted row ends
    with falls back on its own ending. With a column for the whole word alone it would fall back on
    the mean of everything, and held out the null would be too weak: the opening of a sequence, one
    row of much weight, is always such a word.

    Parameters
    ----------
    tokens : integer DataArray, dims (sequence, position)
        Such as the coordinate ``token`` of a recording. Its coordinates, ``prefix`` among them, are
        carried over, so that the result can be paired like the activations of a site.
    k : int
        At least 1.

    Returns
    -------
    DataArray of float32, dims (sequence, position, feature)
        At position t the word ends with the token read at t.

    Raises
    ------
    ValueError
        If ``tokens`` are not integers along (sequence, position), ``k`` is below 1, or more than
        :data:`MOST_CELLS` words occur.
    """
    at_least("k", k, 1)
    if set(tokens.dims) != {"sequence", "position"} or tokens.dtype.kind not in "iu":
        raise ValueError(
            f"tokens have dims {tokens.dims} and hold {tokens.dtype}; they must be integers along "
            "(sequence, position), with every position that was read"
        )
    tokens = tokens.transpose("sequence", "position")
    cells = np.concatenate(list(_endings(tokens.values, k)), axis=-1)
    return xr.DataArray(cells, dims=(*tokens.dims, "feature"), coords=tokens.coords, name=f"last {k} tokens")


def next_token_features(log_probs: Labelled, log: bool = False, floor: float = 1e-6) -> Labelled:
    """Probabilities of the next token, or their logarithms, as features.

    What the unembedding needs anyway: of a process whose beliefs are an affine function of the
    next-token law, no linear probe can tell "beliefs" from "next token". Logarithms are the form in
    which a model holds it before its softmax.

    Parameters
    ----------
    log_probs : array or DataArray, vocabulary last
        In nats, a model's own or the ideal ones; -inf is allowed. Labels are kept.
    log : bool, default=False
    floor : float, default=1e-6
        With ``log``, probabilities below it are raised to it.

    Raises
    ------
    ValueError
        If a value is NaN or above 0, or ``floor`` is not above 0 and below 1.
    """
    values = np.asarray(log_probs)
    if np.isnan(values).any() or (values > 1e-5).any():
        raise ValueError(
            f"log_probs hold {values[np.isnan(values) | (values > 1e-5)][0]}; log-probabilities in nats are at most 0"
        )
    if not 0 < floor < 1:
        raise ValueError(f"floor={floor!r} must be above 0 and below 1")
    return np.maximum(log_probs, np.log(floor)) if log else np.exp(log_probs)


def random_features(n: int, width: int, rng: np.random.Generator) -> Float[np.ndarray, "{n} {width}"]:
    """Independent standard normal features, ``width`` for each of ``n`` rows.

    Raises
    ------
    ValueError
        If either is below 1.
    """
    return rng.standard_normal((int(at_least("n", n, 1)), int(at_least("width", width, 1))))


def compare(
    X: Float[np.ndarray, "sample feature"],
    Y: Float[np.ndarray, " sample *target"],
    groups: Shaped[np.ndarray, " sample"],
    nulls: Mapping[str, Float[np.ndarray, "sample feature"]],
    *,
    weights: Float[np.ndarray, " sample"] | None = None,
    position: Shaped[np.ndarray, " sample"],
    rng: np.random.Generator,
    n_splits: int = 5,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> xr.Dataset:
    """The held-out scores of a probe beside those of its nulls, all with the same folds.

    A probe is worth what it scores above the best of its nulls, not above 0.

    Parameters
    ----------
    X, Y, groups, weights, n_splits, alphas, seed
        As for :func:`nextlens.probes.belief.held_out`.
    nulls : mapping from a name to an array of shape (sample, any width)
        Other inputs, row for row those of ``X``: :func:`last_tokens`, :func:`next_token_features`,
        :func:`random_features`, and above all the *untrained twin*, the activations at the same
        site of a model of the same configuration that was never trained, recorded on the same
        batch and paired the same way.
    position : array of shape (sample,)
        Within which values targets are permuted for the null named "shuffle", which predicts and is
        scored on permuted targets.
    rng : numpy.random.Generator
        For that permutation.

    Returns
    -------
    Dataset
        ``r2``, ``mse`` and ``rmse`` along ``predictor``: "probe", the nulls in their order, "shuffle".
        Attributes say the protocol.

    Raises
    ------
    ValueError
        As ``held_out`` and :func:`shuffled`; if a null has other rows than ``X``, or takes one of
        the two names.
    """
    for name, features in nulls.items():
        if name in ("probe", "shuffle"):
            raise ValueError(f"nulls hold the name {name!r}, which is taken; call it something else")
        refuse_unequal_lengths(**{"X": X, f"nulls[{name!r}]": features})
    inputs = {"probe": (X, Y), **{name: (features, Y) for name, features in nulls.items()}}
    inputs["shuffle"] = (X, shuffled(Y, position, rng))
    found = [
        held_out(x, y, groups, weights=weights, n_splits=n_splits, alphas=alphas, seed=seed) for x, y in inputs.values()
    ]
    scores = {name: ("predictor", [getattr(one, name) for one in found]) for name in ("r2", "mse", "rmse")}
    attrs = {
        "protocol": "held-out",
        "in_sample": False,
        "n_splits": n_splits,
        "n_rows": len(X),
        "n_groups": len(np.unique(groups)),
        "weighted": weights is not None,
        "seed": seed,
    }
    return xr.Dataset(scores, coords={"predictor": list(inputs)}, attrs=attrs)


def _endings(
    tokens: Int[np.ndarray, "sequence position"], k: int
) -> Iterator[Float32[np.ndarray, "sequence position word"]]:
    """For every length up to ``k``, which word of that length ends at each position, if any."""
    total = 0
    word = token = np.unique(tokens, return_inverse=True)[1].reshape(tokens.shape)
    for length in range(1, min(k, tokens.shape[1]) + 1):
        if length > 1:
            longer = word[:, :-1] * (token.max() + 1) + token[:, length - 1 :]
            word = np.unique(longer, return_inverse=True)[1].reshape(longer.shape)
        n_words = int(word.max()) + 1
        total += n_words
        if total > MOST_CELLS:
            raise ValueError(
                f"k={k} gives {total} words or more in these tokens; at most {MOST_CELLS} make a dense design"
            )
        cells = np.zeros((*tokens.shape, n_words), dtype=np.float32)
        np.put_along_axis(cells[:, length - 1 :], word[..., None], 1.0, axis=-1)
        yield cells
