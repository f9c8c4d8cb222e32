"""How sure a number read off one text is: intervals over blocks of neighbouring rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student

from nextlens.models.arguments import at_least
from nextlens.probes.ridge import refuse_not_finite, refuse_unequal_lengths

#: How often blocks are drawn anew.
DRAWS = 2000
#: The share of draws that may hold nothing to divide by; they are left out.
MOST_EMPTY = 0.01


def block_numbers(n_rows: int, n_blocks: int) -> Int[np.ndarray, " row"]:
    """The block, ``0 .. n_blocks - 1``, of each of ``n_rows`` rows in order: neighbours, of nearly equal numbers.

    Raises
    ------
    ValueError
        If there are fewer than 2 blocks, or fewer rows than blocks.

    Examples
    --------
    >>> block_numbers(5, 2).tolist()
    [0, 0, 0, 1, 1]
    """
    at_least("n_blocks", n_blocks, 2)
    at_least("n_rows", n_rows, n_blocks)
    return np.arange(n_rows) * n_blocks // n_rows


def block_sums(
    values: Float[np.ndarray, " row *any"], block: Int[np.ndarray, " row"]
) -> Float[np.ndarray, " block *any"]:
    """The sum of ``values`` over the rows of each block.

    Raises
    ------
    ValueError
        If lengths differ, or a value is not finite.
    """
    refuse_unequal_lengths(values=values, block=block)
    refuse_not_finite(values=values)
    sums = np.zeros((int(block.max()) + 1, *values.shape[1:]))
    np.add.at(sums, block, values)
    return sums


def ratio_interval(
    top: Float[np.ndarray, " block *any"],
    bottom: Float[np.ndarray, " beneath *other"],
    rng: np.random.Generator,
    *,
    draws: int = DRAWS,
) -> Float[np.ndarray, " end *any"]:
    """The 95 % interval of ``Σ top / Σ bottom`` over blocks: percentiles of a block bootstrap.

    Blocks, not rows, are drawn with replacement, as many as there are, so what neighbours share is not
    counted as if it were independent. A mean is the ratio of a sum to a count; bits per byte that of bits
    to bytes; an explained share is one less that of two errors. Percentiles of few blocks are a little
    too narrow.

    Künsch, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics
    17, 1989.

    Returns
    -------
    array of shape (2, ...)
        The lower and the upper end.

    Raises
    ------
    ValueError
        If shapes differ, there are fewer than 2 blocks, or the blocks drawn have nothing beneath.
    """
    if top.shape != bottom.shape:
        raise ValueError(f"top has shape {top.shape} and bottom {bottom.shape}; they must agree")
    at_least("number of blocks", len(top), 2)
    times = rng.multinomial(len(top), np.full(len(top), 1 / len(top)), size=draws)
    above, beneath = (np.tensordot(times, sums, axes=1) for sums in (top, bottom))
    empty = ~(beneath > 0)
    if empty.mean(0).max() > MOST_EMPTY:
        raise ValueError(
            "bottom is zero in too many blocks; a draw of blocks must nearly always have something beneath"
        )
    ratios = np.divide(above, beneath, out=np.full(above.shape, np.nan), where=~empty)
    return np.nanquantile(ratios, (0.025, 0.975), axis=0)


def jackknife_interval(
    statistic: Callable[[Int[np.ndarray, " row"]], float], group: Int[np.ndarray, " row"], whole: float
) -> tuple[float, float]:
    """The 95 % interval of a statistic of all rows, from its values with each group of rows left out.

    ``whole ± t · s`` with ``s² = (g - 1) / g · Σ (value without group i - their mean)²`` and Student's t of
    ``g - 1`` degrees. For what a bootstrap would bias, such as a rank: rows drawn twice add no direction.
    ``statistic`` is told which rows remain.

    Tukey, "Bias and confidence in not quite large samples", Annals of Mathematical Statistics 29, 1958.

    Raises
    ------
    ValueError
        If there are fewer than 2 groups.
    """
    labels = np.unique(group)
    g = int(at_least("number of groups", len(labels), 2))
    without = np.array([statistic(np.flatnonzero(group != label)) for label in labels])
    half = float(student.ppf(0.975, g - 1) * np.sqrt((g - 1) / g * ((without - without.mean()) ** 2).sum()))
    return whole - half, whole + half
