"""Exponents of the integral of a series: structure functions, Joseph, Higuchi, aggregated variance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg.blas import dasum

from nextlens.models.arguments import at_least, one_of
from nextlens.probes.fractal.estimate import Estimate, power_law
from nextlens.probes.fractal.series import Series, as_documents, chosen_scales
from nextlens.probes.fractal.windows import edges, summed, units, windows

#: Moments at which :func:`structure_functions` looks.
MOMENTS = (1.0, 2.0, 3.0, 4.0)
#: Values summed at a time, and what sums them.
BLOCK = 16
TRIANGLE = np.triu(np.ones((BLOCK, BLOCK)))


def structure_function(
    series: Series,
    q: float | int = 2.0,
    *,
    scales: Sequence[int] | Int[np.ndarray, " scale"] | None = None,
    centring: str = "global",
) -> Estimate:
    """``ζ(q) / q``, with ``E|X_{t+τ} - X_t|^q ~ τ^ζ(q)`` of the integral ``X = cumsum(x - mean)``.

    All overlapping increments count. A process of one exponent has ``ζ(q) = q H`` at every q; a
    multifractal one bends.

    Parameters
    ----------
    series : (time,) or (document, time)
    q : float, default=2
        Above 0.
    scales : whole numbers, default twelve from 4 to length // 16
    centring : {"global", "document"}
        Which mean is taken out. That of each document pins X to 0 at its end and lowers the exponent (white
        noise reads about .47 in documents of 2000); a single one lets levels that differ by document push
        it towards 1. Neither is right for both: see :func:`~nextlens.probes.fractal.pooled.pooled`.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.as_documents`; if the series is too short for the scales,
        or q is not above 0.
    """
    if not q > 0:
        raise ValueError(f"q={q!r} must be above 0")
    rows = _rows(series, centring)
    chosen = chosen_scales(scales, rows.shape[1], low=4, share=16, most=1 if len(rows) > 1 else 2)
    sums, counts, unit = increment_sums(rows, chosen, _moment(q), centring=centring)
    return power_law("H", f"structure function, q = {q:g}", chosen, sums, counts, unit=unit, factor=1 / q)


def structure_functions(
    series: Series,
    moments: Sequence[float | int] = MOMENTS,
    *,
    scales: Sequence[int] | Int[np.ndarray, " scale"] | None = None,
    centring: str = "global",
) -> dict[float, Estimate]:
    """``ζ(q)`` at several q: the slope itself, not divided by q. Parameters as :func:`structure_function`.

    Straight in q for one exponent; of the multifractal walk with λ², ``ζ(q) = q / 2 - λ² q (q - 2) / 2``.
    """
    found = {}
    for q in moments:
        if not q > 0:
            raise ValueError(f"moments={moments!r} must all be above 0")
        rows = _rows(series, centring)
        chosen = chosen_scales(scales, rows.shape[1], low=4, share=16, most=1 if len(rows) > 1 else 2)
        sums, counts, unit = increment_sums(rows, chosen, _moment(q), centring=centring)
        found[float(q)] = power_law("zeta", f"structure function, q = {q:g}", chosen, sums, counts, unit=unit)
    return found


def joseph(
    series: Series,
    *,
    scales: Sequence[int] | Int[np.ndarray, " scale"] | None = None,
    centring: str = "global",
) -> Estimate:
    """The Joseph exponent J: the root mean square increment grows as ``τ^J``.

    :func:`structure_function` at q = 2, whose parameters and refusals it has.

    Mandelbrot and Wallis, Water Resources Research 4, 1968; arXiv 2402.01825, section 2.
    """
    rows = _rows(series, centring)
    chosen = chosen_scales(scales, rows.shape[1], low=4, share=16, most=1 if len(rows) > 1 else 2)
    sums, counts, unit = increment_sums(rows, chosen, _moment(2.0), centring=centring)
    name = "root mean square increment" + (", mean of each document" if centring == "document" else "")
    return power_law("J", name, chosen, sums, counts, unit=unit, factor=0.5)


def higuchi(series: Series, *, lags: int = 64, centring: str = "global") -> Estimate:
    """H by Higuchi's curve length: the mean absolute increment of the integral at lags 1 .. ``lags``.

    Higuchi's fractal dimension of the integral is 2 less this. Only short lags are read, where short
    memory looks like long.

    Higuchi, Physica D 31, 1988.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.as_documents`; if lags are fewer than 4 or more than half
        of the length.
    """
    at_least("lags", lags, 4)
    rows = _rows(series, centring)
    chosen = chosen_scales(np.arange(1, lags + 1), rows.shape[1], low=1, share=2, most=2)
    sums, counts, unit = increment_sums(rows, chosen, _moment(1.0), centring=centring)
    return power_law("H", "Higuchi", chosen, sums, counts, unit=unit)


def aggregated_variance(series: Series, *, scales: Sequence[int] | Int[np.ndarray, " scale"] | None = None) -> Estimate:
    """H by 1 plus half the slope of the variance of means of blocks of n values, ``Var ~ n^(2H - 2)``.

    Biased low by about the variance of the mean of all, so it needs many blocks.

    Parameters
    ----------
    scales : whole numbers, default twelve from 8 to length // 32

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.as_documents`; if the series is too short for the scales.

    Beran, *Statistics for Long-Memory Processes*, 1994, section 4.4.
    """
    rows = as_documents(series)
    length = rows.shape[1]
    chosen = chosen_scales(scales, length, low=8, share=32, most=1 if len(rows) > 1 else 2)
    n_units, unit = units(rows, length // int(chosen[-1]))
    by_scale = []
    for size in chosen.tolist():
        means = windows(rows, size).mean(2)
        by_scale.append(summed((means - means.mean()) ** 2, n_units))
    sums, counts = (np.stack([one[i] for one in by_scale], axis=1) for i in (0, 1))
    return power_law("H", "aggregated variance", chosen, sums, counts, unit=unit, factor=0.5, shift=1.0)


def increment_sums(
    rows: Float[np.ndarray, "document time"],
    scales: Int[np.ndarray, " scale"],
    total: Callable[[Float[np.ndarray, " some"]], float],
    *,
    centring: str = "none",
) -> tuple[Float[np.ndarray, "unit scale"], Float[np.ndarray, "unit scale"], str]:
    """What ``total`` makes of the overlapping increments of the integral, by unit and lag; counts; the unit.

    Increments within documents only, each lag from lists of its own: nothing is carried from one to the next.
    ``centring`` takes a mean out first, "global" or of each "document".
    """
    integral = _integral(rows, centring)
    n_units, unit = units(rows, rows.shape[1] // int(scales[-1]))
    n_runs = 1 if len(rows) > 1 else n_units
    at = edges(integral.shape[1] - scales[:, None], n_runs)
    counts = np.broadcast_to(np.diff(at).T.astype(np.float64), (n_units, len(scales)))
    sums, room = np.empty((n_units, len(scales))), np.empty(integral.shape[1])
    for column, (lag, bounds) in enumerate(zip(scales.tolist(), at.tolist(), strict=True)):
        found: list[float] = []
        for row in integral:
            steps = np.subtract(row[lag:], row[:-lag], out=room[: len(row) - lag])
            found += [total(steps[start:end]) for start, end in pairwise(bounds)]
        sums[:, column] = found
    return sums, counts, unit


def _integral(rows: Float[np.ndarray, "document time"], centring: str) -> Float[np.ndarray, "document later"]:
    """``X_0 = 0, X_t = Σ_{s<=t} (x_s - mean)`` of each document.

    Within blocks by a product with a triangle of ones, which is twice as fast as adding one value after another.
    """
    n_documents, length = len(rows), rows.shape[1] + 1
    steps = np.zeros((n_documents, -(-length // BLOCK) * BLOCK))
    np.subtract(rows, _mean(rows, centring), out=steps[:, 1:length])
    blocks = steps.reshape(n_documents, -1, BLOCK) @ TRIANGLE
    blocks[:, 1:] += np.cumsum(blocks[:, :-1, -1], axis=1)[..., None]
    return blocks.reshape(n_documents, -1)[:, :length]


def _mean(rows: Float[np.ndarray, "document time"], centring: str) -> float | Float[np.ndarray, "document one"]:
    if centring == "none":
        return 0.0
    return float(rows.mean()) if centring == "global" else rows.mean(1, keepdims=True)


def _rows(series: Series, centring: str) -> Float[np.ndarray, "document time"]:
    one_of("centring", centring, ("global", "document"))
    return as_documents(series)


def _moment(q: float | int) -> Callable[[Float[np.ndarray, " some"]], float]:
    """The sum of ``|steps|^q``; may overwrite the steps."""
    if q == 2.0:
        return lambda steps: float(steps @ steps)
    if q == 1.0:
        return dasum
    return lambda steps: float((np.abs(steps, out=steps) ** q).sum())
