"""Exponents read off the lowest frequencies: log-periodogram regression and local Whittle."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.fft import rfft

from nextlens.models.arguments import at_least
from nextlens.probes.fractal.estimate import Estimate, Line, Parts, jackknife, line, line_of
from nextlens.probes.fractal.series import Series, as_documents

#: Where the memory d = H - ½ is sought.
LEAST_MEMORY, MOST_MEMORY = -0.49, 0.99
#: Frequencies of a fit at least.
FEWEST = 4
#: Newton's steps at most; the function is convex and each halves at worst the interval left.
STEPS = 60


class Periodogram(NamedTuple):
    """Frequencies ``2πj / n``, j = 1 .. m, and the periodogram of each document there."""

    frequencies: Float[np.ndarray, " frequency"]
    power: Float[np.ndarray, "document frequency"]


def bandwidth(length: int, power: float) -> int:
    """The frequencies that ``length ** power`` comes to, rounded down.

    Examples
    --------
    >>> bandwidth(1948, 0.5), bandwidth(4096, 0.65)
    (44, 222)
    """
    if not 0 < power < 1:
        raise ValueError(f"power={power!r} must lie between 0 and 1")
    return int(length**power)


def periodogram(series: Series, n_frequencies: int | None = None) -> Periodogram:
    """``|Σ_t x_t e^{-iλt}|² / (2πn)`` of each document, at the ``n_frequencies`` lowest above 0.

    By default at all below the highest, which is left out, being real. The mean does not matter.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.as_documents`; if there are not so many frequencies.
    """
    rows = as_documents(series)
    n = rows.shape[1]
    most = (n - 1) // 2
    if most < FEWEST:
        raise ValueError(f"the series has {n} values; {FEWEST} frequencies, the fewest of a fit, need {2 * FEWEST + 1}")
    m = most if n_frequencies is None else n_frequencies
    if not FEWEST <= m <= most:
        raise ValueError(f"n_frequencies={m} must lie between {FEWEST} and {most}, of a series of {n} values")
    found = rfft(rows - rows.mean(1, keepdims=True), axis=1)[:, 1 : m + 1]
    return Periodogram(2 * np.pi / n * np.arange(1, m + 1), (found.real**2 + found.imag**2) / (2 * np.pi * n))


def geweke_porter_hudak(series: Series, *, n_frequencies: int | None = None) -> Estimate:
    """H by regression of the log periodogram on ``log(2 sin(λ / 2))``: ½ less half the slope.

    Documents: the periodogram is averaged before its logarithm.

    Parameters
    ----------
    n_frequencies : int, default length ** 0.5

    Geweke and Porter-Hudak, Journal of Time Series Analysis 4, 1983; the interval of a single series is
    ``± 1.96 · π / √(24 m)`` (Robinson, Annals of Statistics 23, 1995).
    """
    rows = as_documents(series)
    m = _lowest(rows.shape[1], 0.5) if n_frequencies is None else n_frequencies
    frequencies, power = periodogram(rows, m)
    _refuse_silent(power)
    sines = 2 * np.sin(frequencies / 2)
    fit = line_of(sines, power.mean(0))
    value = 0.5 - 0.5 * fit.slope
    parts = Parts(power, np.ones_like(power), partial(_regressed, np.log(sines)), "document")
    interval, by = _interval(parts, value, np.pi / np.sqrt(24 * m))
    return Estimate(
        "H", "log periodogram (GPH)", value, interval, by, sines, power.mean(0), fit, -0.5, 0.5, _several(parts)
    )


def local_whittle(series: Series, *, n_frequencies: int | None = None) -> Estimate:
    """H by Gaussian likelihood at the m lowest frequencies, where the spectrum is taken as ``G λ^{-2d}``.

    ``d = argmin log mean_j(λ_j^{2d} I_j) - 2 d mean_j log λ_j``, sought in (-.49, .99); H = d + ½. Of
    documents the periodogram I is averaged first. What short memory does at high frequencies is not seen,
    if m is small enough: look at several (:func:`~nextlens.probes.fractal.pooled.bandwidth_sweep`).

    Parameters
    ----------
    n_frequencies : int, default length ** 0.65
        m above.

    References
    ----------
    Robinson, "Gaussian semiparametric estimation of long range dependence", Annals of Statistics 23,
    1995; its interval of a single series, ``± 1.96 / (2 √m)``.
    """
    rows = as_documents(series)
    m = _lowest(rows.shape[1], 0.65) if n_frequencies is None else n_frequencies
    return local_whittle_of(periodogram(rows, m))


def local_whittle_of(found: Periodogram) -> Estimate:
    """:func:`local_whittle` of a periodogram at hand."""
    frequencies, power = found
    _refuse_silent(power)
    mean, m = power.mean(0), len(frequencies)
    d, bound = whittle_memory(np.log(frequencies), mean[None])
    value = float(d[0]) + 0.5
    parts = Parts(power, np.ones_like(power), partial(_memory, np.log(frequencies)), "document")
    interval, by = _interval(parts, value, 1 / (2 * np.sqrt(m)))
    level = np.log(np.mean(mean * frequencies ** (2 * d[0])))
    residual = np.sqrt(np.mean((np.log(mean) - level + 2 * d[0] * np.log(frequencies)) ** 2))
    return Estimate(
        "H",
        f"local Whittle, m = {m}",
        value,
        interval,
        by,
        frequencies,
        mean,
        Line(float(-2 * d[0]), float(level), float(residual)),
        -0.5,
        0.5,
        _several(parts),
        at_bound=bool(bound[0]),
    )


def whittle_memory(
    logs: Float[np.ndarray, " frequency"], power: Float[np.ndarray, "draw frequency"]
) -> tuple[Float[np.ndarray, " draw"], Bool[np.ndarray, " draw"]]:
    """d of each periodogram, by Newton's method kept between bounds, and whether it ended at one.

    The function is convex in d: its slope is twice the mean of ``log λ`` under weights
    ``λ^{2d} I``, less their plain mean.
    """
    centred = logs - logs.mean()
    low, high = np.full(len(power), LEAST_MEMORY), np.full(len(power), MOST_MEMORY)
    d = np.zeros(len(power))
    for _ in range(STEPS):
        weights = power * np.exp(2 * d[:, None] * centred)
        total = weights.sum(1)
        slope = weights @ centred / total
        curvature = 2 * (weights @ centred**2 / total - slope**2)
        low, high = np.where(slope < 0, d, low), np.where(slope < 0, high, d)
        step = d - np.divide(slope, curvature, out=np.full(len(d), np.inf), where=curvature > 0)
        after = np.where((step > low) & (step < high), step, (low + high) / 2)
        done = np.abs(after - d).max() < 1e-9
        d = after
        if done:
            break
    return d, (d < LEAST_MEMORY + 1e-6) | (d > MOST_MEMORY - 1e-6)


def _lowest(length: int, power: float) -> int:
    """The default number of frequencies, refused where it is too few for a fit."""
    m = bandwidth(length, power)
    if m < FEWEST:
        enough = math.ceil(FEWEST ** (1 / power))
        raise ValueError(f"the series has {length} values; reading length ** {power:g} frequencies needs {enough}")
    return m


def _memory(logs: Float[np.ndarray, " frequency"], means: Float[np.ndarray, "draw frequency"]) -> np.ndarray:
    return whittle_memory(logs, means)[0] + 0.5


def _regressed(logs: Float[np.ndarray, " frequency"], means: Float[np.ndarray, "draw frequency"]) -> np.ndarray:
    return 0.5 - 0.5 * line(logs, np.log(means))[0]


def _several(parts: Parts) -> Parts | None:
    return parts if len(parts.sums) > 1 else None


def _interval(parts: Parts, value: float, deviation: float) -> tuple[tuple[float, float], str]:
    """By leaving documents out, or of a single series the asymptotic one."""
    if len(parts.sums) > 1:
        return jackknife(parts, value)
    return (value - 1.96 * deviation, value + 1.96 * deviation), "asymptotic variance"


def _refuse_silent(power: Float[np.ndarray, "document frequency"]) -> None:
    at_least("number of frequencies", power.shape[1], FEWEST)
    mean = power.mean(0)
    if not (mean > 1e-28 * mean.max()).all():
        raise ValueError("the series has no power at some of its lowest frequencies; it is periodic, not scaling")
