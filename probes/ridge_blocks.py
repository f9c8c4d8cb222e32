"""A block of targets, from responses as they come to its errors on held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from nextlens.probes.ridge_device import Array
from nextlens.probes.ridge_rows import Rows
from nextlens.probes.ridge_search import every_penalty, least, walked
from nextlens.probes.ridge_systems import Fold, System


class Screened(NamedTuple):
    """Targets made comparable: mean 0 and largest absolute value 1; those that cannot be fitted are 0 throughout.

    Attributes
    ----------
    values : Float[np.ndarray, "row target"]
    mean, scale : Float[np.ndarray, " target"]
        ``values · scale + mean`` is what came in; the mean of a missing target is NaN.
    missing, constant : Bool[np.ndarray, " target"]
        With a NaN or an infinite value; with one value only.
    """

    values: Float[np.ndarray, "row target"]
    mean: Float[np.ndarray, " target"]
    scale: Float[np.ndarray, " target"]
    missing: Bool[np.ndarray, " target"]
    constant: Bool[np.ndarray, " target"]


def screened(Y: np.ndarray, dtype: np.dtype) -> Screened:
    """Centre and scale the targets of a block, and set apart what holds nothing to fit."""
    values = np.array(Y, dtype=np.result_type(Y.dtype, dtype))
    high, low = values.max(0), values.min(0)
    missing = ~(np.isfinite(high) & np.isfinite(low))
    values[:, missing] = 0.0
    constant = ~missing & (high == low)
    mean = np.where(constant, low, values.mean(0, dtype=np.float64)).astype(np.float64)
    values -= mean.astype(values.dtype)
    scale = np.maximum(np.abs(values.max(0)), np.abs(values.min(0))).astype(np.float64)
    idle = missing | constant | (scale == 0)
    scale[idle] = 1.0
    values[:, idle] = 0.0
    values /= scale.astype(values.dtype)
    mean[missing] = np.nan
    return Screened(values.astype(dtype, copy=False), mean, scale, missing, idle & ~missing)


@dataclass(frozen=True, eq=False)
class Block:
    """Targets ready to be solved.

    Attributes
    ----------
    y : Float[Array, "reduced target"]
        On the device of the system, as the coordinates are.
    means : Float[np.ndarray, "set target"]
        Over what each fold trains on, and last over all rows.
    coordinates : list of Float[Array, "_ target"]
        Of each fold, and last of all rows: see :mod:`nextlens.probes.ridge_systems`.
    lost : Float[np.ndarray, " target"]
        Of the squared error on held-out rows, what no penalty can change.
    spread : Float[np.ndarray, " target"]
        Squares of the held-out rows about their mean.
    total : Float[np.ndarray, " target"]
        Squares of all rows about their mean.
    """

    y: Float[Array, "reduced target"]
    means: Float[np.ndarray, "set target"]
    coordinates: list[Float[Array, "_ target"]]
    lost: Float[np.ndarray, " target"]
    spread: Float[np.ndarray, " target"]
    total: Float[np.ndarray, " target"]

    def part(self, some: slice) -> Block:
        """Some of the targets, nothing copied."""
        return Block(
            self.y[:, some],
            self.means[:, some],
            [one[:, some] for one in self.coordinates],
            self.lost[some],
            self.spread[some],
            self.total[some],
        )


def block_of(system: System, Y: Float[np.ndarray, "row target"]) -> Block:
    """Everything the folds need of centred targets: one pass over the rows."""
    rows, device = system.rows, system.device
    y, lost = _reduced(system, device.put(Y))
    ones = device.put(rows.ones.astype(rows.x.dtype))
    sums = np.array([device.fetch(ones[part.at] @ y[part.at]) for part in rows.stretches], dtype=np.float64)
    own = np.array([device.squares(y[part.at]) for part in rows.stretches]) + lost
    tested, n_rows = _times_tested(rows)
    means = _membership(rows) @ sums / rows.weights[:, None]
    return Block(
        y=y,
        means=means,
        coordinates=system.coordinates(y, means),
        lost=tested @ lost,
        spread=np.maximum(tested @ own - (tested @ sums) ** 2 / (tested @ n_rows), 0.0),
        total=np.maximum(own.sum(0) - sums.sum(0) ** 2 / n_rows.sum(), 0.0),
    )


def held_out_errors(
    system: System,
    folds: list[Fold],
    block: Block,
    guess: Int[np.ndarray, " target"] | None,
) -> Float[np.ndarray, "alpha target"]:
    """Squared error over all rows tested, of every penalty, or by a walk from a guess; NaN where not tried.

    What no penalty can change is left out: see ``Block.lost``.
    """
    rows, device, n_alphas, dtype = system.rows, system.device, folds[0].maps.shape[1], system.rows.x.dtype
    order = slice(None) if guess is None else np.argsort(guess, kind="stable")
    there, turned, truth = device.at(order), [], []
    for i, fold in enumerate(folds):
        turned.append(fold.turned(block.coordinates[i])[:, there])
        held = block.y[device.at(rows.test[i])]
        ones = device.put(rows.ones[rows.test[i]].astype(dtype))
        held -= ones[:, None] * device.put(block.means[i].astype(dtype))
        truth.append(held[:, there])

    def error(alpha: int, some: slice | Int[np.ndarray, " some"]) -> Float[np.ndarray, " some"]:
        total, some = 0.0, device.at(some)
        for fold, coordinates, held in zip(folds, turned, truth, strict=True):
            residual = fold.predicted(alpha, coordinates[:, some])
            residual -= held[:, some]
            total = total + device.squares(residual)
        return total

    if guess is None:
        return every_penalty(error, n_alphas, block.y.shape[1])
    errors, nothing = np.empty((n_alphas, len(guess))), np.sum([device.squares(held) for held in truth], axis=0)
    errors[:, order] = walked(error, guess[order], nothing, n_alphas)
    return errors


def chosen(errors: Float[np.ndarray, "alpha target"], block: Block) -> tuple[np.ndarray, np.ndarray]:
    """The number of the best penalty of each target, and its R² over all rows tested."""
    best = least(errors)
    error = np.take_along_axis(errors, best[None], axis=0)[0] + block.lost
    return best, explained_of(error, block.spread)


def explained_of(
    error: Float[np.ndarray, " *any target"], spread: Float[np.ndarray, " target"]
) -> Float[np.ndarray, " *any target"]:
    """``1 - error / spread``; NaN where there is no spread."""
    return 1.0 - np.divide(error, spread, out=np.full(np.shape(error), np.nan), where=spread > 0)


def _reduced(
    system: System, Y: Float[Array, "row target"]
) -> tuple[Float[Array, "reduced target"], Float[np.ndarray, "stretch target"]]:
    """The targets as the system has its features, and the sum of squares that each stretch has lost by that."""
    rows, device = system.rows, system.device
    y = device.empty((len(rows.x), Y.shape[1]), rows.x.dtype)
    lost = np.zeros((len(rows.stretches), Y.shape[1]))
    for i, (part, turn) in enumerate(zip(rows.stretches, system.turns, strict=True)):
        taken = Y[device.at(part.rows)]
        if turn is None:
            y[part.at] = taken
        else:
            y[part.at] = turn.T @ taken
            lost[i] = np.maximum(device.squares(taken) - device.squares(y[part.at]), 0.0)
    return y, lost


def _times_tested(rows: Rows) -> tuple[Float[np.ndarray, " stretch"], Float[np.ndarray, " stretch"]]:
    """How often each stretch is tested, and its number of rows."""
    return (
        np.array([float(len(part.test)) for part in rows.stretches]),
        np.array([float(len(part.rows)) for part in rows.stretches]),
    )


def _membership(rows: Rows) -> Float[np.ndarray, "set stretch"]:
    """Which stretches each fold trains on; last, all."""
    member = np.ones((rows.n_folds + 1, len(rows.stretches)))
    for i, part in enumerate(rows.stretches):
        member[:-1, i] = [fold in part.train for fold in range(rows.n_folds)]
    return member
