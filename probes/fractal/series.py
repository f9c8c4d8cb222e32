"""What the estimators read: one series, or documents of equal length; and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int, Real

from nextlens.models.arguments import at_least

#: One series ``(time,)``, or documents ``(document, time)`` that are pooled before any logarithm is taken.
Series: TypeAlias = Real[np.ndarray, "..."] | xr.DataArray | Sequence

#: A spread below this share of the largest value is rounding, not a spread.
ROUNDING = 1e-13
#: Values beyond this, or all below its inverse, have squares and sums of them that a float does not hold.
HUGE = 1e120
#: With no more distinct values than this a series is called a lattice.
FEW_VALUES = 32
#: A fit takes this many scales at least, and their range doubles at least.
FEWEST_SCALES = 4


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents cut to one length, and what was lost by it.

    Attributes
    ----------
    values : Float[np.ndarray, "document time"]
    n_dropped : int
        Documents shorter than the length, left out.
    n_values_cut : int
        Values of the documents kept that were left out, at either end.
    """

    values: Float[np.ndarray, "document time"]
    n_dropped: int
    n_values_cut: int


def documents(series: Series, *, length: int, skip: int = 0) -> Documents:
    """Values ``skip .. skip + length - 1`` of every document that has so many; the others are counted.

    Averages over documents need equal lengths. The opening of a document, where a model has little
    context, is often skipped (arXiv 2402.01825 leaves out 100 tokens of 2048).

    Raises
    ------
    ValueError
        If no document is long enough (the longest is named), or a value is NaN or infinite.

    Examples
    --------
    >>> found = documents([[1.0, 2.0, 3.0], [4.0, 5.0], [6.0]], length=2)
    >>> found.values.tolist(), found.n_dropped, found.n_values_cut
    ([[1.0, 2.0], [4.0, 5.0]], 1, 1)
    """
    at_least("length", length, 2)
    at_least("skip", skip, 0)
    whole = [np.asarray(one, dtype=np.float64) for one in series]
    kept = [one for one in whole if len(one) >= skip + length]
    if not kept:
        longest = max(map(len, whole), default=0)
        raise ValueError(
            f"length={length} after skip={skip} leaves none of {len(whole)} documents; the longest has {longest} values"
        )
    values = np.stack([one[skip : skip + length] for one in kept])
    _refuse_not_finite(values)
    return Documents(values, len(whole) - len(kept), sum(map(len, kept)) - values.size)


def cut(series: Series, length: int) -> Documents:
    """One long series as documents: its stretches of ``length`` values, one after another.

    What is slower than a stretch is no longer seen.

    Raises
    ------
    ValueError
        If the series is not one of finite values, or holds fewer than two stretches.

    Examples
    --------
    >>> cut(np.arange(7.0), 3).values.tolist()
    [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    """
    rows = as_documents(series)
    if len(rows) > 1:
        raise ValueError(f"series holds {len(rows)} documents; only a single series is cut")
    at_least("length", length, 2)
    if rows.size < 2 * length:
        raise ValueError(
            f"length={length} cuts fewer than two stretches from {rows.size} values; at most {rows.size // 2}"
        )
    n = rows.size // length
    return Documents(rows[0, : n * length].reshape(n, length), 0, rows.size - n * length)


def as_documents(series: Series) -> Float[np.ndarray, "document time"]:
    """The series as rows of float64: a single one is a single row.

    Raises
    ------
    ValueError
        If documents differ in length, values are no real numbers, there are not one or two dimensions, a value is
        NaN or infinite (the first is named), all values are the same, or their squares would overflow.
    """
    try:
        given = np.asarray(series)
    except ValueError:
        lengths = sorted(len(one) for one in series)
        raise ValueError(
            f"documents have {lengths[0]} to {lengths[-1]} values; cut to one length with documents(series, length)"
        ) from None
    if given.dtype.kind not in "biuf":
        raise ValueError(f"series holds {given.dtype} values; it must hold real numbers")
    values = given.astype(np.float64, copy=False)
    if values.ndim not in (1, 2):
        raise ValueError(f"series has shape {values.shape}; it must be (time,) or (document, time)")
    rows = np.ascontiguousarray(np.atleast_2d(values))
    at_least("number of values", rows.shape[-1], 2)
    at_least("number of documents", len(rows), 1)
    low, high = float(rows.min()), float(rows.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        _refuse_not_finite(rows)
    if high - low <= ROUNDING * max(abs(low), abs(high)):
        raise ValueError(f"series is constant at {float(rows.flat[0])}; a constant has no exponent")
    largest = max(abs(low), abs(high))
    if not 1 / HUGE < largest < HUGE:
        raise ValueError(f"series reaches {largest:g}, whose square is no number; give it in another unit")
    return rows


def log_spaced(low: int, high: int, count: int = 12) -> Int[np.ndarray, " scale"]:
    """Whole numbers from ``low`` to ``high``, evenly spaced in logarithm, duplicates dropped.

    Examples
    --------
    >>> log_spaced(10, 500, 4).tolist()
    [10, 37, 136, 500]
    """
    return np.unique(np.round(np.exp(np.linspace(np.log(low), np.log(high), count))).astype(np.int64))


def chosen_scales(
    scales: Sequence[int] | Int[np.ndarray, " scale"] | None, length: int, *, low: int, share: int, most: int
) -> Int[np.ndarray, " scale"]:
    """The scales of a fit: those asked for, in order, or twelve from ``low`` to ``length // share``.

    Raises
    ------
    ValueError
        If the series is too short for them (the length that would do is named), there are fewer than
        four, or they are not distinct whole numbers of which the smallest is 1 or more.
    """
    if scales is None:
        needed = 2 * low * share
        if length < needed:
            raise ValueError(
                f"the series has {length} values; scales from {low} to a {share}th of it need at least {needed}"
            )
        return log_spaced(low, length // share)
    chosen = np.sort(np.asarray(scales))
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or len(chosen) < FEWEST_SCALES or (np.diff(chosen) < 1).any():
        raise ValueError(f"scales={scales!r} must be at least {FEWEST_SCALES} distinct whole numbers")
    at_least("smallest of scales", int(chosen[0]), 1)
    if chosen[-1] > length // most:
        raise ValueError(
            f"the series has {length} values; scales up to {chosen[-1]} need at least {most * int(chosen[-1])}"
        )
    return chosen.astype(np.int64)


def constant_windows(
    windows: Float[np.ndarray, "*any time"], spread: Float[np.ndarray, "*any"]
) -> Bool[np.ndarray, "*any"]:
    """Which windows hold one value only, up to rounding; their rescaled range is 0 / 0."""
    return spread <= ROUNDING * np.maximum(np.abs(windows[..., 0]), np.abs(windows[..., -1]))


def lattice_gap(rows: Float[np.ndarray, "document time"]) -> float | None:
    """The widest gap between neighbouring values if every document takes few distinct ones, else None."""
    gaps = []
    for row in rows:
        if len(np.unique(row[: 64 * FEW_VALUES])) > FEW_VALUES or len(values := np.unique(row)) > FEW_VALUES:
            return None
        gaps.extend(np.diff(values))
    return float(max(gaps))


def _refuse_not_finite(rows: Float[np.ndarray, "document time"]) -> None:
    wrong = ~np.isfinite(rows)
    if wrong.any():
        document, at = np.argwhere(wrong)[0]
        raise ValueError(
            f"series holds {int(wrong.sum())} NaN or infinite values, the first in document {document} at {at}; "
            "the surprisal of what a kernel forbids is infinite and has no exponent"
        )
