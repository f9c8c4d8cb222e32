"""Does a loss fall at once, or stand on a plateau first and then drop?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

#: How far values of one plateau may lie apart, as a share of the least.
FLAT = 0.15
#: A plateau is below this share of the start, and above so many times the end: something was learnt, not all.
BELOW_START, ABOVE_END = 0.95, 3.0
#: What makes a phase change: a plateau that lasts so many times as long as it took to get there, then left by
#: so large a share of its level while steps double.
LASTS, FALLS = 2.0, 0.5


class PhaseChange(NamedTuple):
    """The longest plateau of a curve, and how it is left.

    ``level`` is the mean of the curve on it; ``begins`` and ``ends`` are steps; ``fall`` is the share of
    ``level`` that is lost before ``2 * ends``.
    """

    level: float
    begins: int
    ends: int
    fall: float

    @property
    def appears(self) -> bool:
        """Whether this is a phase change, by :data:`LASTS` and :data:`FALLS`."""
        return bool(self.ends >= LASTS * self.begins and self.fall >= FALLS)


def phase_change(steps: Int[np.ndarray, " moment"], excess: Float[np.ndarray, " moment"]) -> PhaseChange | None:
    """The plateau of a learning curve that lasts longest on a logarithmic axis of steps, or None if there is none.

    A power law has only short ones: while ``1 / t`` keeps within 15 %, ``t`` grows by 15 %.

    Parameters
    ----------
    steps : Int[np.ndarray, " moment"]
        How many lie behind, growing.
    excess : Float[np.ndarray, " moment"]
        Loss less its least, above 0.

    Raises
    ------
    ValueError
        If lengths differ, steps do not grow, or a value is not finite.

    Examples
    --------
    >>> steps = np.arange(1, 1001)
    >>> phase_change(steps, 1 / steps).appears
    False
    >>> phase_change(steps, 1 / steps + (steps < 300) * 0.3).appears
    True
    """
    if steps.shape != excess.shape or (np.diff(steps) <= 0).any() or not np.isfinite(excess).all():
        raise ValueError(
            f"steps of shape {steps.shape} must grow, and excess of shape {excess.shape} be as many, finite"
        )
    between = (excess <= BELOW_START * excess[0]) & (excess >= ABOVE_END * excess[-1]) & (steps > 0)
    longest, found = 1.0, None
    for first in np.flatnonzero(between):
        low = high = excess[first]
        for last in range(first + 1, len(steps)):
            low, high = min(low, excess[last]), max(high, excess[last])
            if not between[last] or high > (1 + FLAT) * low:
                break
            if steps[last] / steps[first] > longest:
                longest, found = steps[last] / steps[first], (first, last)
    if found is None:
        return None
    first, last = found
    level = float(excess[first : last + 1].mean())
    soon = excess[(steps >= steps[last]) & (steps <= 2 * steps[last])].min()
    return PhaseChange(level, int(steps[first]), int(steps[last]), float(1 - soon / level))
