"""The rescaled range of Hurst, plain and with the expectation of Anis and Lloyd taken out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import gammaln

from nextlens.models.arguments import one_of
from nextlens.probes.fractal.estimate import Estimate, power_law
from nextlens.probes.fractal.series import Series, as_documents, chosen_scales, constant_windows
from nextlens.probes.fractal.windows import summed, units, windows

#: About this many values at a time, so that what is computed stays near the processor.
BLOCK = 1 << 14


def rescaled_range(
    series: Series,
    *,
    scales: Sequence[int] | Int[np.ndarray, " scale"] | None = None,
    centre: str = "window",
    overlap: bool = False,
) -> Estimate:
    """H by the slope of the mean rescaled range, ``E[R / S] ~ n^H``.

    In a window of n values x, less their mean: ``Y = cumsum(x)``, ``R = max(0, Y) - min(0, Y)``, S the
    standard deviation (divided by n). Its slope on white noise is about .55 at windows of 25 to 300 values,
    not .5: compare it with a null, or take :func:`anis_lloyd`.

    Parameters
    ----------
    series : (time,) or (document, time)
        R / S is averaged over windows and documents before the logarithm.
    scales : whole numbers, default twelve from 16 to length // 8
    centre : {"window", "running"}
        Less the mean of the window, or less the mean of the window up to each value, as the text of arXiv
        2402.01825 has it, which reads higher.
    overlap : bool, default=False
        Windows half over one another instead of disjoint.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.as_documents`; if the series is too short for the scales;
        or at some scale every window is constant.

    References
    ----------
    Hurst, Transactions of the American Society of Civil Engineers 116, 1951.
    """
    return _fitted(series, scales, one_of("centre", centre, ("window", "running")), overlap, corrected=False)


def anis_lloyd(
    series: Series, *, scales: Sequence[int] | Int[np.ndarray, " scale"] | None = None, overlap: bool = False
) -> Estimate:
    """H by ½ plus the slope of the rescaled range over its expectation for white noise.

    :func:`expected_rescaled_range` divides; parameters and refusals are those of :func:`rescaled_range`.

    References
    ----------
    Anis and Lloyd, "The expected value of the adjusted rescaled Hurst range of independent normal
    summands", Biometrika 63, 1976.
    """
    return _fitted(series, scales, "window", overlap, corrected=True)


def expected_rescaled_range(sizes: Int[np.ndarray, " scale"]) -> Float[np.ndarray, " scale"]:
    """The mean R / S of n independent Gaussian values.

    ``Γ((n - 1) / 2) / (√π Γ(n / 2)) · Σ_{i<n} √((n - i) / i)``

    Anis and Lloyd, Biometrika 63, 1976; without the factor ``(n - ½) / n`` that Peters added.

    Examples
    --------
    >>> expected_rescaled_range(np.array([2, 3])).round(6).tolist()
    [1.0, 1.350474]
    """
    factor = np.exp(gammaln((sizes - 1) / 2) - gammaln(sizes / 2)) / np.sqrt(np.pi)
    below = (np.arange(1, n) for n in sizes.tolist())
    return factor * np.array([np.sqrt((n - i) / i).sum() for n, i in zip(sizes.tolist(), below, strict=True)])


def _fitted(
    series: Series,
    scales: Sequence[int] | Int[np.ndarray, " scale"] | None,
    centre: str,
    overlap: bool,
    *,
    corrected: bool,
) -> Estimate:
    rows = as_documents(series)
    length = rows.shape[1]
    chosen = chosen_scales(scales, length, low=16, share=8, most=1 if len(rows) > 1 else 2)
    n_units, unit = units(rows, length // int(chosen[-1]))
    found = [_ratios(rows, size, centre, overlap) for size in chosen.tolist()]
    for size, ratios in zip(chosen.tolist(), found, strict=True):
        if not np.isfinite(ratios).any():
            raise ValueError(f"every window of {size} values is constant; leave that scale out")
    by_unit = [summed(ratios, n_units) for ratios in found]
    sums, counts = (np.stack([one[i] for one in by_unit], axis=1) for i in (0, 1))
    return power_law(
        "H",
        "rescaled range" + (", Anis-Lloyd" if corrected else "") + (", running mean" if centre == "running" else ""),
        chosen,
        sums / (expected_rescaled_range(chosen) if corrected else 1.0),
        counts,
        unit=unit,
        shift=0.5 if corrected else 0.0,
        n_constant_windows=sum(int((~np.isfinite(ratios)).sum()) for ratios in found),
    )


def _ratios(
    rows: Float[np.ndarray, "document time"], size: int, centre: str, overlap: bool
) -> Float[np.ndarray, "document window"]:
    """R / S of every window; NaN where it is constant."""
    if overlap:
        laid = sliding_window_view(rows, size, axis=1)[:, :: max(1, size // 2)]
    else:
        laid = windows(rows, size)
    n_documents, n_windows = laid.shape[:2]
    ratios = np.empty((n_documents, n_windows))
    some, step = max(1, BLOCK // (n_windows * size)), max(1, BLOCK // size)
    for document in range(0, n_documents, some):
        for start in range(0, n_windows, step):
            part = laid[document : document + some, start : start + step]
            found = _ratio(part.reshape(-1, size), centre)
            ratios[document : document + some, start : start + step] = found.reshape(part.shape[:2])
    return ratios


def _ratio(part: Float[np.ndarray, "window time"], centre: str) -> Float[np.ndarray, " window"]:
    size = part.shape[1]
    centred = part - part.mean(1, keepdims=True)
    spread = np.sqrt(np.einsum("wt,wt->w", centred, centred) / size)
    constant = constant_windows(part, spread)
    if centre == "running":
        centred = part - np.cumsum(part, axis=1) / np.arange(1, size + 1)
    walk = np.cumsum(centred, axis=1)
    spanned = np.maximum(walk.max(1), 0.0) - np.minimum(walk.min(1), 0.0)
    return np.divide(spanned, spread, out=np.full(len(part), np.nan), where=~constant)
