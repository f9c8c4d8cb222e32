"""Shares of the feature spaces to try: corners, the centre, random draws, and draws near what was good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least

#: Concentrations of the Dirichlet draws, in turn: few bands matter, or many do.
CONCENTRATIONS = (0.1, 1.0)

#: What a share of 0 is taken for when a draw near it is wanted.
NEARLY_NONE = 1e-3


def drawn_shares(n_bands: int, n_draws: int, rng: np.random.Generator) -> Float[np.ndarray, "candidate band"]:
    """The centre, each band alone, and ``n_draws`` from Dirichlet distributions; rows sum to 1.

    Every smaller model is among them, or near: a share of 0 leaves a band out. Dupré la Tour et al., NeuroImage
    264, 2022, draw with the same two concentrations.
    """
    at_least("candidates", n_draws, 0)
    if n_bands == 1:
        return np.ones((1, 1))
    drawn = [rng.dirichlet(np.full(n_bands, CONCENTRATIONS[i % len(CONCENTRATIONS)])) for i in range(n_draws)]
    return np.vstack([np.full((1, n_bands), 1.0 / n_bands), np.eye(n_bands), *drawn])


def near_shares(
    shares: Float[np.ndarray, "candidate band"],
    wanted: Int[np.ndarray, " candidate"],
    n_draws: int,
    spread: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draw band"]:
    """Shares near those that targets wanted: a parent by the number of its targets, each share times exp(normal).

    ``spread`` is the standard deviation of the logarithm.
    """
    parents = rng.choice(len(shares), size=n_draws, p=wanted / wanted.sum())
    moved = np.maximum(shares[parents], NEARLY_NONE) * np.exp(spread * rng.standard_normal((n_draws, shares.shape[1])))
    return moved / moved.sum(1, keepdims=True)


def given_shares(candidates: object, n_bands: int) -> Float[np.ndarray, "candidate band"]:
    """Shares that the user lists, each row divided by nothing: they must sum to 1.

    Raises
    ------
    ValueError
        If the shape is another, a share is negative or not finite, or a row does not sum to 1.
    """
    shares = np.asarray(candidates, dtype=np.float64)
    if shares.ndim != 2 or shares.shape[1] != n_bands or not len(shares):
        raise ValueError(
            f"candidates has shape {shares.shape}; it must be a number of draws, or (n_candidates, {n_bands}), "
            "a share for each band"
        )
    wrong = ~((shares >= 0).all(1) & (np.abs(shares.sum(1) - 1.0) < 1e-6))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"candidates[{row}]={shares[row].tolist()} must hold shares of at least 0 that sum to 1")
    return shares


def band_columns(bands: object, n_features: int) -> tuple[tuple[str, ...], tuple[Int[np.ndarray, " _"], ...]]:
    """Names and columns of the bands, or a refusal.

    Parameters
    ----------
    bands : mapping, sequence or None
        From a name to a slice or to column numbers; or such slices or numbers alone, which are named "0", "1", …;
        None for a single band of all columns.
    n_features : int

    Raises
    ------
    ValueError
        If a column is in no band or in several, or is not there.
    """
    if bands is None:
        bands = (slice(None),)
    if not isinstance(bands, Mapping | Sequence) or not len(bands):
        raise ValueError(f"bands={bands!r} must be a mapping from names to columns, or a list of columns")
    named = dict(bands) if isinstance(bands, Mapping) else {str(i): columns for i, columns in enumerate(bands)}
    found, owner = {}, np.full(n_features, -1)
    for i, (name, columns) in enumerate(named.items()):
        every = np.arange(n_features)
        try:
            found[name] = every[columns] if isinstance(columns, slice) else every[np.asarray(columns, dtype=np.int64)]
        except (IndexError, ValueError, TypeError) as wrong:
            raise ValueError(
                f"bands[{name!r}]={columns!r} must be a slice or numbers of the {n_features} columns of X: {wrong}"
            ) from None
        if not found[name].ndim == 1 or not len(found[name]):
            raise ValueError(f"bands[{name!r}]={columns!r} holds no column of the {n_features} of X")
        if isinstance(columns, slice) and columns.stop is not None and columns.stop > n_features:
            raise ValueError(f"bands[{name!r}]={columns!r} ends beyond the {n_features} columns of X")
        taken = (owner[found[name]] >= 0).any() or len(np.unique(found[name])) < len(found[name])
        if taken:
            raise ValueError(
                f"bands[{name!r}] holds a column that it or another band has already; bands may not overlap"
            )
        owner[found[name]] = i
    if (owner < 0).any():
        raise ValueError(
            f"{int((owner < 0).sum())} of the {n_features} columns of X are in no band, the first is "
            f"{int((owner < 0).argmax())}; every column needs one"
        )
    return tuple(map(str, found)), tuple(found.values())
