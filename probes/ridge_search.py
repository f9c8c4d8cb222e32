"""Which penalty each target wants: every one tried, or a walk downhill from a good guess."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from nextlens.probes.ridge_device import Array
from nextlens.probes.ridge_systems import System

#: The error of one penalty, by its number, for some targets.
Error = Callable[[int, slice | Int[np.ndarray, " some"]], Float[np.ndarray, " some"]]


def every_penalty(error: Error, n_alphas: int, n_targets: int) -> Float[np.ndarray, "alpha target"]:
    """The error of every penalty for every target."""
    return np.array([error(alpha, slice(0, n_targets)) for alpha in range(n_alphas)])


def walked(
    error: Error, guess: Int[np.ndarray, " target"], nothing: Float[np.ndarray, " target"], n_alphas: int
) -> Float[np.ndarray, "alpha target"]:
    """Errors of the guess and its neighbours, then of whatever lies beside the best, until that is a minimum.

    NaN for what was not tried. The minimum is the one downhill of the guess; where an error has two, it may be the
    other. But where it is worse than ``nothing``, the error of predicting the mean, the target walks down from the
    largest penalty as well: that is where the other minimum of a target without signal is. ``guess`` ascends, so
    that neighbours are slices and nothing is copied.
    """
    tried = np.full((n_alphas, len(guess)), np.nan)
    centre = guess.clip(1, max(n_alphas - 2, 1))
    for alpha in range(n_alphas):
        start, stop = np.searchsorted(centre, alpha - 1), np.searchsorted(centre, alpha + 1, side="right")
        if stop > start:
            tried[alpha, start:stop] = error(alpha, slice(int(start), int(stop)))
    while True:
        best, walking = least(tried), False
        wanted = np.abs(best - np.arange(n_alphas)[:, None]) == 1
        wanted[-1] |= np.nanmin(tried, axis=0) > nothing
        wanted &= np.isnan(tried)
        for alpha in np.flatnonzero(wanted.any(1)).tolist():
            some = np.flatnonzero(wanted[alpha])
            tried[alpha, some] = error(alpha, some)
            walking = True
        if not walking:
            return tried


def least(errors: Float[np.ndarray, "alpha target"]) -> Int[np.ndarray, " target"]:
    """The number of the least error of each target, NaN aside; of several, the last, which is the largest penalty."""
    return len(errors) - 1 - np.nanargmin(errors[::-1], axis=0)


def generalised_guess(
    system: System,
    values: Float[np.ndarray, " kept"],
    turned: Float[Array, "kept target"],
    total: Float[np.ndarray, " target"],
    alphas: Float[np.ndarray, " alpha"],
) -> Int[np.ndarray, " target"]:
    """The penalty of least generalised cross-validation, which needs no fold.

    ``RSS(α) / (n - 1 - Σ λ / (λ + α))²``, where the residual sum of squares is a sum over eigenvectors: with
    coordinates b of a target, ``total - Σ b² (λ + 2α) / (λ + α)²`` over features and
    ``total - Σ b² (1 - α² / (λ + α)²)`` over rows. It trusts rows to be independent, so neighbours in time make it
    choose too small a penalty: a place to start from and no more. Golub, Heath and Wahba, Technometrics 21, 1979.
    """
    device, weight = system.device, float(system.rows.weights[-1])
    stiffness = values + alphas[:, None]
    if system.form == "primal":
        gains = (stiffness + alphas[:, None]) / stiffness**2
    else:
        gains = 1.0 - (alphas[:, None] / stiffness) ** 2
    free = np.maximum(weight - 1.0 - (values / stiffness).sum(1), 1.0)
    gained = device.fetch(device.put(gains.astype(system.rows.x.dtype)) @ turned**2)
    residual = np.maximum(total - gained, 0.0)
    return (residual / free[:, None] ** 2).argmin(0)
