"""Disjoint windows of one series or of documents, and the unit each belongs to."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Shaped

#: A single series is looked at as at most so many stretches, from which its interval is made.
STRETCHES = 8


def units(rows: Shaped[np.ndarray, "document time"], windows_at_largest: int) -> tuple[int, str]:
    """How many units there are to resample, and what they are: documents, or stretches of a single one."""
    return (len(rows), "document") if len(rows) > 1 else (min(STRETCHES, windows_at_largest), "stretch")


def windows(
    rows: Float[np.ndarray, "document time"], size: int, *, from_end: bool = False
) -> Float[np.ndarray, "document window {size}"]:
    """The disjoint windows of ``size`` values, laid from the beginning or from the end."""
    n = rows.shape[1] // size
    start = rows.shape[1] - n * size if from_end else 0
    return rows[:, start : start + n * size].reshape(len(rows), n, size)


def constant_count(rows: Float[np.ndarray, "document time"], sizes: Int[np.ndarray, " scale"]) -> int:
    """How many disjoint windows of all these sizes hold one value only."""
    return sum(int((np.ptp(windows(rows, size), axis=2) == 0).sum()) for size in sizes.tolist())


def summed(
    values: Float[np.ndarray, "document window"], n_units: int
) -> tuple[Float[np.ndarray, " {n_units}"], Float[np.ndarray, " {n_units}"]]:
    """Sums and counts by unit of one value a window; NaN stands for a window that is left out."""
    there = np.isfinite(values)
    filled = np.where(there, values, 0.0)
    if len(values) > 1:
        return filled.sum(1), there.sum(1).astype(np.float64)
    at = edges(values.shape[1], n_units)[:-1]
    return np.add.reduceat(filled[0], at), np.add.reduceat(there[0].astype(np.float64), at)


def edges(n: int | Int[np.ndarray, "*any 1"], n_units: int) -> Int[np.ndarray, "*any edge"]:
    """Where each of ``n_units`` nearly equal runs of ``n`` neighbours begins, and the end of the last."""
    return np.arange(n_units + 1) * n // n_units
