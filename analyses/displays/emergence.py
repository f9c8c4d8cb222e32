"""Belief geometry as it comes about in training: loss, probe error, and the cloud that becomes a fractal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from nextlens.analyses.displays import style
from nextlens.analyses.displays.simplex import SimplexDisplay


class EmergenceDisplay:
    """Loss over the optimum and the error of a belief probe, against tokens seen.

    The first panel shows ``loss / optimum - 1`` on a log axis, the second the probe's mean squared error, and
    ``1 - R²`` if ``r2`` is given. Thin lines are seeds, the thick one is their median. A panel with a
    number at or below 0 (a sampled loss may fall under the optimum) takes a linear axis instead.

    Parameters
    ----------
    tokens : array of shape (n_steps,)
        Tokens seen in training, growing and above 0.
    loss_over_optimum : array of shape (n_steps,) or (n_seeds, n_steps)
        Loss divided by the loss of the ideal observer; 1 is the optimum.
    mse : array of shape (n_steps,) or (n_seeds, n_steps)
        Mean squared error of the probed beliefs.
    r2 : array of shape (n_steps,) or (n_seeds, n_steps), optional
        Their R², at most 1.
    snapshots : sequence of (tokens, array of shape (n_points, n_states)), optional
        Probed beliefs at some moments, early to late.
    truth : array of shape (n_points, n_states), optional
        Exact beliefs of the same rows, which colour the snapshots; needed with them.
    weights : array of shape (n_points,), optional
        Probability of each row.
    caption : str, optional
        Protocol, folds and seeds, printed beneath figures that the display makes itself.

    Attributes
    ----------
    axes_, figure_, artists_
        After a ``plot`` method: axes, figure, and what holds the numbers (median lines, clouds).

    Raises
    ------
    ValueError
        If a shape does not fit ``tokens`` or ``truth``, a number is not finite, or ``tokens`` do not grow.
    """

    def __init__(
        self,
        *,
        tokens,
        loss_over_optimum,
        mse,
        r2=None,
        snapshots: Sequence[tuple[object, object]] = (),
        truth=None,
        weights=None,
        caption: str | None = None,
    ):
        self.tokens = _growing(style.finite("tokens", tokens, "step"))
        self.loss_over_optimum = self._by_seed("loss_over_optimum", loss_over_optimum)
        self.mse = self._by_seed("mse", mse)
        self.r2 = None if r2 is None else self._by_seed("r2", r2)
        if self.r2 is not None and self.r2.max() > 1:
            raise ValueError(f"r2 reaches {self.r2.max():.6g}; it is at most 1")
        if snapshots and truth is None:
            raise ValueError(f"truth=None with {len(snapshots)} snapshots; the exact beliefs colour them")
        self.snapshots = [_snapshot(k, seen, beliefs, truth, weights) for k, (seen, beliefs) in enumerate(snapshots)]
        self.caption = caption

    def plot(self, *, title: str | None = None) -> EmergenceDisplay:
        """Draw the whole figure: two curves above one row of snapshots, a single column wide."""
        with style.printed():
            figure = style.new_figure(style.SINGLE_COLUMN, 4.4 if self.snapshots else 3.2)
            style.caption_beneath(figure, self.caption)
            if title is not None:
                figure.suptitle(title, fontsize=8)
            curves, panels = _places(figure, len(self.snapshots))
            artists = self.plot_curves(curves).artists_
            if panels:
                artists = artists + self.plot_snapshots(panels).artists_
        self.axes_, self.figure_, self.artists_ = [*curves, *panels], figure, artists
        return self

    def plot_curves(self, axes: Iterable[Axes]) -> EmergenceDisplay:
        """Draw loss and probe error on two axes, one above the other."""
        upper, lower = axes = _one_each(axes, 2)
        with style.printed():
            for ax in axes:
                ax.set_xscale("log")
                ax.xaxis.set_major_formatter(_tick)
            lines = [_curves(upper, self.tokens, self.loss_over_optimum - 1.0, style.OKABE_ITO[0])]
            lines.append(_curves(lower, self.tokens, self.mse, style.OKABE_ITO[1]))
            if self.r2 is not None:
                lines.append(_curves(lower, self.tokens, 1.0 - self.r2, style.OKABE_ITO[2]))
            for ax, (seen, _) in product(axes, self.snapshots):
                ax.axvline(seen, color="0.8", linewidth=0.6, zorder=0)
            _scale(upper, self.loss_over_optimum - 1.0)
            _scale(lower, self.mse if self.r2 is None else np.concatenate([self.mse, 1.0 - self.r2]))
            upper.set_ylabel("loss / optimum − 1")
            lower.set(xlabel="tokens seen", ylabel="probe error" if len(lines) > 2 else "mean squared error")
            if len(lines) > 2:
                ends = [float(line.get_ydata()[-1]) for line in lines[1:]]
                style.label_ends(lower, ["MSE", "1 − R²"], ends, style.OKABE_ITO[1:3])
        self.axes_, self.figure_, self.artists_ = axes, upper.figure, lines
        return self

    def plot_snapshots(self, axes: Iterable[Axes]) -> EmergenceDisplay:
        """Draw the snapshots on one axes each, all in one window, with the tokens seen above."""
        axes = _one_each(axes, len(self.snapshots))
        windows = np.array([display.window for _, display in self.snapshots])
        low, high = windows[..., 0].min(axis=0), windows[..., 1].max(axis=0)
        artists: list[Artist] = []
        with style.printed():
            for ax, (seen, display) in zip(axes, self.snapshots, strict=True):
                artists += display.plot(ax, which="guess", corners=False).artists_
                ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
                ax.set_title(f"{count(seen)} tokens", fontsize=style.SMALLEST_TEXT)
            for ax in axes[1:]:
                ax.set_ylabel("")
        self.axes_, self.figure_, self.artists_ = axes, axes[0].figure, artists
        return self

    def _by_seed(self, name: str, values: object) -> Float[np.ndarray, "seed step"]:
        axes = ("seed", "step") if np.ndim(values) > 1 else ("step",)
        array = np.atleast_2d(style.finite(name, values, *axes))
        style.same_shape(name, array, "tokens", (len(array), len(self.tokens)))
        return array


def count(number: float | int) -> str:
    """``number`` to two digits, in thousands or millions.

    Examples
    --------
    >>> [count(number) for number in (640, 6_400, 915_200, 629_209_600)]
    ['640', '6.4k', '920k', '630M']
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.995 * size:
            return f"{float(f'{number / size:.2g}'):g}{letter}"
    return f"{number:.3g}"


def _snapshot(k: int, seen: object, beliefs: object, truth: object, weights: object) -> tuple[float, SimplexDisplay]:
    cloud = style.finite(f"snapshots[{k}][1]", beliefs, "point", "state")
    style.same_shape(f"snapshots[{k}][1]", cloud, "truth", np.shape(truth))
    return float(style.finite(f"snapshots[{k}][0]", seen)), SimplexDisplay(truth=truth, guess=cloud, weights=weights)


def _tick(seen: float | int, place: int | None) -> str:
    return count(seen)


def _curves(ax: Axes, tokens: np.ndarray, values: Float[np.ndarray, "seed step"], colour: str) -> Artist:
    (median,) = ax.plot(tokens, np.median(values, axis=0), color=colour, marker="o" if len(tokens) < 10 else "")
    if len(values) > 1:
        ax.plot(tokens, values.T, color=colour, linewidth=0.5, alpha=0.5)
    return median


def _scale(ax: Axes, values: np.ndarray) -> None:
    if values.min() > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.0, 0.4)))


def _places(figure: Figure, n_snapshots: int) -> tuple[list[Axes], list[Axes]]:
    if not n_snapshots:
        return list(figure.subplots(2, 1, sharex=True)), []
    rows = figure.add_gridspec(2, 1, height_ratios=(3.0, 1.0))
    curves = rows[0].subgridspec(2, 1).subplots(sharex=True)
    return list(curves), list(rows[1].subgridspec(1, n_snapshots).subplots(squeeze=False)[0])


def _growing(tokens: Float[np.ndarray, " step"]) -> Float[np.ndarray, " step"]:
    back = np.flatnonzero(np.diff(tokens, prepend=0.0) <= 0)
    if len(back):
        k = int(back[0])
        raise ValueError(f"tokens[{k}]={tokens[k]:g}; tokens must be above 0 and grow from step to step")
    return tokens


def _one_each(axes: Iterable[Axes], number: int) -> list[Axes]:
    axes = list(axes)
    if len(axes) != number or not number:
        raise ValueError(f"axes has {len(axes)} entries; there are {number} panels to draw")
    return axes
