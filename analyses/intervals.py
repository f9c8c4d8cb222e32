"""How sure a mean over seeds is: its 95 % interval by Student's t."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student


def student_interval(
    values: Float[np.ndarray, " seed *any"],
) -> tuple[Float[np.ndarray, "*any"], Float[np.ndarray, "*any"]]:
    """Mean over the first axis, and half the width of its 95 % interval: ``t_(n - 1) s / sqrt(n)``.

    ``s`` is the standard deviation that divides by ``n - 1``. The intervals of several numbers hold one
    at a time, not all at once.

    Raises
    ------
    ValueError
        If there are fewer than two seeds: one has no spread.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"values of {n} seed have no spread; an interval needs at least 2")
    half = student.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n)
    return np.asarray(values.mean(0)), np.asarray(half)


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds and its 95 % interval by Student's t; no interval from one seed.

    Examples
    --------
    >>> interval([1.0, 3.0])["mean"], interval([1.0])["interval_95"]
    (2.0, None)
    """
    array = np.asarray(values, dtype=float)
    ends = None
    if len(array) > 1:
        mean, half = student_interval(array)
        ends = [float(mean - half), float(mean + half)]
    return {"mean": float(array.mean()), "interval_95": ends, "by_seed": array.tolist()}
