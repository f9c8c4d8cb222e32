"""The wavelet estimator of Abry and Veitch: energy of details by octave."""

from __future__ import annotations

from functools import partial

import numpy as np
from jaxtyping import Float
from scipy.special import digamma, zeta

from nextlens.models.arguments import at_least
from nextlens.probes.fractal.estimate import Estimate, Line, Parts, jackknife
from nextlens.probes.fractal.series import Series, as_documents

#: Daubechies' low-pass filter of two vanishing moments.
LOW = np.array([1 + 3**0.5, 3 + 3**0.5, 3 - 3**0.5, 1 - 3**0.5]) / (4 * 2**0.5)
#: The high-pass filter that goes with it.
HIGH = LOW[::-1] * np.array([1, -1, 1, -1])
#: An octave of fewer details than this is not used.
FEWEST_DETAILS = 8


def abry_veitch(series: Series, *, first: int = 3, last: int | None = None) -> Estimate:
    """H by weighted regression of log2 of the mean squared wavelet detail on the octave j: ½ (slope + 1).

    Daubechies' wavelet of two vanishing moments, the series closed to a circle; a trend of degree 1 leaves
    only its jump at the seam. At octave j with ``n_j`` details the logarithm is biased by ``ψ(n_j / 2) / ln 2 -
    log2(n_j / 2)``, which is taken out, and has the variance ``ζ(2, n_j / 2) / ln² 2``, by which it is weighted.

    Parameters
    ----------
    first : int, default=3
        The finest octave used, of windows of about ``2**first`` values.
    last : int, optional
        The coarsest; by default the last with 8 details or more in all documents.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.as_documents`; if there are fewer than 3 octaves from first
        to last (the length that would do is named).

    References
    ----------
    Abry and Veitch, IEEE Transactions on Information Theory 44, 1998; Veitch and Abry, 45, 1999. The interval of
    a single series is that of Gaussian details.
    """
    at_least("first", first, 1)
    rows = as_documents(series)
    sums, counts = _energies(rows)
    enough = int((counts.sum(0) >= FEWEST_DETAILS).sum())
    end = enough if last is None else last
    if end > enough or end - first < 2:
        raise ValueError(
            f"octaves {first} to {end} of {rows.shape[1]} values: at least 3 are needed, each of {FEWEST_DETAILS} "
            f"details or more; {FEWEST_DETAILS * 2 ** max(first + 2, end)} values would do"
        )
    chosen = slice(first - 1, end)
    octaves, sums, counts = np.arange(first, end + 1), sums[:, chosen], counts[:, chosen]
    total = counts.sum(0)
    energy = sums.sum(0) / total
    if not (energy > 0).all():
        raise ValueError("an octave holds no energy; the series is constant at that scale")
    slope, intercept, variance = _weighted(octaves, np.log2(energy)[None], total)
    value = float((slope[0] + 1) / 2)
    if len(rows) > 1:
        parts = Parts(sums, counts, partial(_refitted, octaves, total), "document")
        interval, by = jackknife(parts, value)
    else:
        parts, half = None, 0.98 * variance**0.5
        interval, by = (value - half, value + half), "variance of Gaussian details"
    residual = np.log2(energy) - _bias(total) - intercept[0] - slope[0] * octaves
    fit = Line(float(slope[0]), float(intercept[0] * np.log(2)), float(np.sqrt(np.mean(residual**2)) * np.log(2)))
    return Estimate("H", "wavelet (Abry-Veitch)", value, interval, by, 2.0**octaves, energy, fit, 0.5, 0.5, parts)


def _energies(
    rows: Float[np.ndarray, "document time"],
) -> tuple[Float[np.ndarray, "document octave"], Float[np.ndarray, "document octave"]]:
    """Sums of squared details and how many there are, by octave from the finest."""
    smooth, sums, counts = rows, [], []
    while smooth.shape[1] >= len(LOW):
        even = smooth[:, : smooth.shape[1] // 2 * 2]
        closed = np.concatenate([even, even[:, : len(LOW) - 2]], axis=1)
        half = even.shape[1] // 2
        taps = [closed[:, tap : tap + 2 * half : 2] for tap in range(len(LOW))]
        detail = sum(weight * one for weight, one in zip(HIGH, taps, strict=True))
        smooth = sum(weight * one for weight, one in zip(LOW, taps, strict=True))
        sums.append(np.einsum("dt,dt->d", detail, detail))
        counts.append(np.full(len(rows), float(half)))
    return np.stack(sums, axis=1), np.stack(counts, axis=1)


def _bias(counts: Float[np.ndarray, " octave"]) -> Float[np.ndarray, " octave"]:
    return digamma(counts / 2) / np.log(2) - np.log2(counts / 2)


def _weighted(
    octaves: np.ndarray, logs: Float[np.ndarray, "draw octave"], counts: Float[np.ndarray, " octave"]
) -> tuple[Float[np.ndarray, " draw"], Float[np.ndarray, " draw"], float]:
    """Slopes, intercepts, and the variance that a slope has when details are Gaussian."""
    weight = np.log(2) ** 2 / zeta(2, counts / 2)
    share = weight / weight.sum()
    centred = octaves - share @ octaves
    scatter = float(weight @ centred**2)
    y = logs - _bias(counts)
    slope = y @ (weight * centred) / scatter
    return slope, y @ share - slope * (share @ octaves), 1 / scatter


def _refitted(
    octaves: np.ndarray, counts: Float[np.ndarray, " octave"], means: Float[np.ndarray, "draw octave"]
) -> np.ndarray:
    return (_weighted(octaves, np.log2(means), counts)[0] + 1) / 2
