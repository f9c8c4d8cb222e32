"""What correlations would be had the prediction nothing to do with the response: rolled, or its blocks permuted.

Both keep what a prediction is, its slowness and its size, and break only its hold on the moment. All targets are
moved alike, so what they share stays shared, and the null of a mean over targets is the mean of the null.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import false_discovery_control

from nextlens.models.arguments import at_least
from nextlens.probes.ridge import refuse_not_finite
from nextlens.probes.voxel_scores import correlations

#: Volumes that a prediction is rolled by at least: what is nearer may still be alike.
LEAST_SHIFT = 20
#: Volumes in a block to permute.
BLOCK = 20
SHORTEST_BLOCK = 10
DRAWS = 1000
#: A sum of squares less than this share of what it is the rest of is rounding.
ROUNDING = 1e-12

Stories = Sequence[Int[np.ndarray, " _"]]


class Null(NamedTuple):
    """Correlations of each draw and target, and whether the draws are all that there are."""

    draws: Float[np.ndarray, "draw target"]
    exhaustive: bool

    def p(self, r: Float[np.ndarray, " target"]) -> Float[np.ndarray, " target"]:
        """``(1 + #{null >= r}) / (1 + draws)``, never 0; NaN where ``r`` is."""
        return p_values(r, self.draws)

    def of_the_mean(self, kept: Bool[np.ndarray, " target"]) -> Float[np.ndarray, " draw"]:
        """The null of the mean over some targets."""
        return self.draws[:, kept].mean(1)

    @property
    def least_p(self) -> float:
        """The smallest p that these draws can give."""
        return 1.0 / (1 + len(self.draws))


def rolling_null(
    truth: Float[np.ndarray, "row target"],
    guess: Float[np.ndarray, "row target"],
    stories: Stories,
    rng: np.random.Generator,
    *,
    draws: int = DRAWS,
    least: int = LEAST_SHIFT,
) -> Null:
    """Correlations with the prediction of every story rolled round by a shift of its own.

    Shifts lie in ``[least, T - least]`` for a story of T rows, the same for all targets; r is of all rows together,
    as it was scored. Where there are no more than ``draws`` different combinations of shifts, each is taken once
    instead. One Fourier transform of each story gives all shifts, so a draw costs a sum.

    It asks whether the prediction belongs to this moment. It does not ask whether the model was fitted with care:
    where folds lie inside a story, refitted nulls can have a mean other than 0, which this one lacks.

    Parameters
    ----------
    truth, guess : arrays of shape (row, target)
    stories : sequence of integer arrays
        The rows of each story, in order of time.
    rng : numpy.random.Generator
    draws : int, default=1000
    least : int, default=20

    Raises
    ------
    ValueError
        If a story has fewer than ``2 * least`` rows, or a value is not finite.
    """
    _refuse_short(stories, 2 * at_least("least", least, 1), f"least={least}", "shifts")
    shifts, exhaustive = rolling_shifts([len(at) for at in stories], rng, draws=draws, least=least)
    scale, y, g = _scaled(truth, guess)
    total = np.zeros((len(shifts), truth.shape[1]))
    for number, at in enumerate(stories):
        n = len(at)
        spectrum = np.fft.rfft(y[at], axis=0) * np.conj(np.fft.rfft(g[at], axis=0))
        total += np.fft.irfft(spectrum, n=n, axis=0)[shifts[:, number]]
    return Null(total * scale, exhaustive)


def rolling_shifts(
    lengths: Sequence[int], rng: np.random.Generator, *, draws: int = DRAWS, least: int = LEAST_SHIFT
) -> tuple[Int[np.ndarray, "draw story"], bool]:
    """A shift for every draw and story; and whether these are all there are."""
    at_least("draws", draws, 1)
    choices = [n - 2 * least + 1 for n in lengths]
    if prod(choices) <= draws:
        return np.array(list(product(*(range(least, least + count) for count in choices)))), True
    return np.stack([rng.integers(least, least + count, size=draws) for count in choices], axis=1), False


def block_permutation_null(
    truth: Float[np.ndarray, "row target"],
    guess: Float[np.ndarray, "row target"],
    stories: Stories,
    rng: np.random.Generator,
    *,
    draws: int = DRAWS,
    block: int = BLOCK,
) -> Null:
    """Correlations with the blocks of every prediction put in another order inside its story.

    Blocks are drawn without replacement, never cross a story, and what remains at the end of a story stays there:
    every value of the prediction is used once. All targets are permuted alike.

    Parameters
    ----------
    truth, guess : arrays of shape (row, target)
    stories : sequence of integer arrays
        The rows of each story, in order of time.
    rng : numpy.random.Generator
    draws : int, default=1000
    block : int, default=20
        Rows in a block, at least 10.

    Raises
    ------
    ValueError
        If a story has fewer than two blocks, a block is shorter than 10, or a value is not finite.
    """
    at_least("block", block, SHORTEST_BLOCK)
    at_least("draws", draws, 1)
    _refuse_short(stories, 2 * block, f"block={block}", "blocks")
    scale, y, g = _scaled(truth, guess)
    total = np.zeros((draws, truth.shape[1]))
    for at in stories:
        n_blocks = len(at) // block
        rest = at[n_blocks * block :]
        total += (y[rest] * g[rest]).sum(0)
        cut = at[: n_blocks * block].reshape(n_blocks, block)
        order = rng.permuted(np.tile(np.arange(n_blocks), (draws, 1)), axis=1)
        for place in range(n_blocks):
            met = np.einsum("lt,blt->bt", y[cut[place]], g[cut])  # what each block would give at this place
            total += met[order[:, place]]
    return Null(total * scale, False)


def p_values(r: Float[np.ndarray, " target"], null: Float[np.ndarray, "draw target"]) -> Float[np.ndarray, " target"]:
    """``(1 + #{null >= r}) / (1 + draws)`` of each target; NaN where ``r`` or its null is."""
    above = (null >= r).sum(0)
    return np.where(np.isnan(r) | np.isnan(null).any(0), np.nan, (1 + above) / (1 + len(null)))


def false_discovery_rates(p: Float[np.ndarray, " target"]) -> Float[np.ndarray, " target"]:
    """Benjamini and Hochberg's q over the targets that have a p: targets with ``q < .05`` hold 5 % false ones or fewer.

    Benjamini and Hochberg, "Controlling the false discovery rate", JRSS B 57, 1995.
    """
    q = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    if known.any():
        q[known] = false_discovery_control(p[known], method="bh")
    return q


def difference_interval(
    truth: Float[np.ndarray, "row target"],
    one: Float[np.ndarray, "row target"],
    other: Float[np.ndarray, "row target"],
    stories: Stories,
    rng: np.random.Generator,
    *,
    draws: int = DRAWS,
    block: int = BLOCK,
) -> tuple[Float[np.ndarray, "end target"], Float[np.ndarray, " end"]]:
    """95 % intervals of ``r(one) - r(other)``, of each target and of the mean over targets: a paired block bootstrap.

    Blocks of ``block`` rows inside stories are drawn with replacement, as many as each story has, the same for both
    predictions and all targets, and both correlations are computed anew.

    Raises
    ------
    ValueError
        If a value is not finite, or there are fewer than two blocks.
    """
    cut = [part for at in stories for part in np.array_split(at, max(1, len(at) // block))]
    at_least("number of blocks", len(cut), 2)
    of_story = np.repeat(np.arange(len(stories)), [max(1, len(at) // block) for at in stories])
    times = np.concatenate(
        [
            rng.multinomial(count, np.full(count, 1 / count), size=draws)
            for count in np.bincount(of_story, minlength=len(stories))
        ],
        axis=1,
    )
    refuse_not_finite(truth=truth, one=one, other=other)
    gap = _resampled(truth, one, cut, times) - _resampled(truth, other, cut, times)
    ends = (0.025, 0.975)
    return np.nanquantile(gap, ends, axis=0), np.quantile(np.nanmean(gap, axis=1), ends)


def _resampled(
    truth: np.ndarray, guess: np.ndarray, blocks: Stories, times: Int[np.ndarray, "draw block"]
) -> Float[np.ndarray, "draw target"]:
    """r of every draw of blocks, from their sums; 0 where the guess does not vary, NaN where the truth does not."""
    y, g = (values.astype(np.float64) - values.mean(0) for values in (truth, guess))
    n, sy, sg, syy, sgg, syg = (
        times @ np.array([row.sum(0) for row in rows])
        for rows in (
            [np.ones((len(at), 1)) for at in blocks],
            [y[at] for at in blocks],
            [g[at] for at in blocks],
            [y[at] ** 2 for at in blocks],
            [g[at] ** 2 for at in blocks],
            [y[at] * g[at] for at in blocks],
        )
    )
    yy, gg = syy - sy**2 / n, sgg - sg**2 / n
    varies = (yy > ROUNDING * syy) & (gg > ROUNDING * sgg)
    found = np.divide(syg - sy * sg / n, np.sqrt((yy * gg).clip(0)), out=np.zeros(yy.shape), where=varies)
    return np.where(yy > ROUNDING * syy, found, np.nan)


def _scaled(truth: np.ndarray, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One over the norms of each target, which no rolling changes, and both sides centred."""
    undefined = np.isnan(correlations(truth, guess))
    y, g = (values.astype(np.float64) - values.astype(np.float64).mean(0) for values in (truth, guess))
    norm = np.sqrt((y**2).sum(0) * (g**2).sum(0))
    constant = np.ptp(guess, axis=0) == 0
    scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=(norm > 0) & ~constant)
    return np.where(undefined, np.nan, scale), y, g


def _refuse_short(stories: Stories, least: int, argument: str, what: str) -> None:
    for number, at in enumerate(stories):
        if len(at) < least:
            raise ValueError(
                f"story number {number} has {len(at)} rows to score; with {argument} at least {least} are needed for "
                f"its {what}"
            )
