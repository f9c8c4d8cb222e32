"""How well each target is predicted: correlation and R², one number a target, never pooled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from nextlens.probes.ridge import refuse_not_finite, refuse_unequal_lengths

#: What a target can be, by number.
STATES = ("kept", "constant", "not finite")

#: Spread below this many roundings of the largest value is no variation.
ROUNDINGS = 4


def correlations(
    truth: Float[np.ndarray, "row target"], guess: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, " target"]:
    """Pearson's r of each target over all rows. A constant guess says nothing and scores 0; of a constant truth, NaN.

    Raises
    ------
    ValueError
        If shapes differ, or a value is not finite.
    """
    y, g = _centred_pair(truth, guess)
    yy, gg, yg = (y**2).sum(0), (g**2).sum(0), (y * g).sum(0)
    return _ratio(yg, np.sqrt(yy * gg), flat(truth), flat(guess))


def r_squared(
    truth: Float[np.ndarray, "row target"], guess: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, " target"]:
    """``1 - Σ (y - ŷ)² / Σ (y - ȳ)²`` of each target, ȳ the mean over these rows; of a constant truth, NaN.

    Raises
    ------
    ValueError
        If shapes differ, or a value is not finite.
    """
    y, _ = _centred_pair(truth, guess)
    error = ((truth.astype(np.float64) - guess) ** 2).sum(0)
    return 1.0 - _ratio(error, (y**2).sum(0), flat(truth), np.zeros(y.shape[1], dtype=bool))


def target_states(
    Y: Float[np.ndarray, "row target"], stories: Sequence[Int[np.ndarray, " _"]]
) -> Shaped[np.ndarray, " target"]:
    """What each target is: "kept", "not finite" if a value is NaN or infinite, "constant" if it is so in some story.

    Dead voxels are set apart, never filled with zeros: a zero is a number that a mean would count.
    """
    state = np.zeros(Y.shape[1], dtype=np.int64)
    for at in stories:
        part = Y[at]
        finite = np.isfinite(part).all(0)
        state[finite & (state == 0)] = np.where(flat(part[:, finite & (state == 0)]), 1, 0)
        state[~finite] = 2
    return np.array(STATES)[state]


def flat(values: Shaped[np.ndarray, "row target"]) -> Bool[np.ndarray, " target"]:
    """Which columns do not vary beyond the rounding of their own precision."""
    rounding = ROUNDINGS * np.finfo(values.dtype).eps if values.dtype.kind == "f" else 0.0
    return np.ptp(values, axis=0) <= rounding * np.abs(values).max(0)


def _centred_pair(truth: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    refuse_unequal_lengths(truth=truth, guess=guess)
    if truth.shape != guess.shape:
        raise ValueError(f"guess has shape {guess.shape}; truth has {truth.shape}, and they must agree")
    refuse_not_finite(truth=truth, guess=guess)
    y, g = (values.astype(np.float64) - values[0] for values in (truth, guess))
    return y - y.mean(0), g - g.mean(0)


def _ratio(top, bottom, undefined, nothing) -> Float[np.ndarray, " target"]:
    found = np.divide(top, bottom, out=np.zeros_like(top), where=(bottom > 0) & ~nothing)
    return np.where(undefined, np.nan, found)
