"""How a model synchronises: loss against the floor, what is read of the components, and plateaus in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from nextlens.analyses.displays import style


class SynchronisationDisplay:
    """Loss by how many tokens were read, against the least possible, which falls to the entropy rate.

    The floor is a line, seeds are open marks, the rate is dashed.

    Parameters
    ----------
    floor : array of shape (n_read,)
        Myopic entropies, nats: of the first token, of the second after one was read, and so on.
    losses : mapping of str to array of shape (n_read - 1,) or (n_seeds, n_read - 1)
        By architecture; models say no first token, so they begin where one was read.
    rate : float
        Entropy per token in the long run.
    caption : str, optional
        Printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and what holds "floor", "rate" and each of ``losses``.

    Raises
    ------
    ValueError
        If nothing has a loss, a shape does not fit ``floor``, or a number is not finite.
    """

    def __init__(self, *, floor, losses: Mapping[str, object], rate: float, caption: str | None = None):
        self.floor = style.finite("floor", floor, "read")
        self.rate = float(style.finite("rate", rate))
        if not losses:
            raise ValueError("losses must hold at least one entry")
        self.losses = {name: self._by_seed(f"losses[{name!r}]", values) for name, values in losses.items()}
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None, labels: bool = True) -> SynchronisationDisplay:
        """Draw on ``ax`` (a new figure if None).

        Parameters
        ----------
        labels : bool, default=True
            Whether axes and curves are named; in a grid one panel may speak for the rest.
        """
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN, 2.3).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            read = np.arange(len(self.floor))
            (floor,) = ax.plot(read, self.floor, color=style.INK, linewidth=0.9, label="floor $h_l$")
            rate = ax.axhline(self.rate, color=style.GREY, linestyle=style.DASHES[0], linewidth=0.8, label="rate $h$")
            self.artists_ = {"floor": floor, "rate": rate}
            for k, (name, losses) in enumerate(self.losses.items()):
                look = {"marker": "o^sD"[k % 4], "markersize": 3, "markerfacecolor": "none", "markeredgewidth": 0.7}
                colour = style.OKABE_ITO[k % len(style.OKABE_ITO)]
                lines = ax.plot(read[1:], losses.T, linestyle="", color=colour, **look)
                lines[0].set_label(name)
                self.artists_[name] = lines
            ax.set_xlim(-0.5, len(read) - 0.5)
            if labels:
                ax.set(xlabel="tokens read", ylabel="loss (nats)")
                ax.legend(frameon=False, fontsize=style.SMALLEST_TEXT, loc="upper right", handlelength=1.5)
            if title is not None:
                ax.set_title(title)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _by_seed(self, name: str, values: object) -> Float[np.ndarray, "seed read"]:
        axes = ("seed", "read") if np.ndim(values) > 1 else ("read",)
        array = np.atleast_2d(style.finite(name, values, *axes))
        style.same_shape(name, array, "floor", (len(array), len(self.floor) - 1))
        return array


class PosteriorDisplay:
    """R² of the posterior read off a model, by how many tokens were read.

    Thick lines are means over seeds, bars their range; points where the exact posterior does not vary are NaN, and
    left out.

    Parameters
    ----------
    read : array of shape (n_read,)
        How many tokens.
    scores : mapping of str to array of shape (n_seeds, n_read)
        R², at most 1; the first is in colour, the rest are nulls, grey.
    uncertainty : array of shape (n_read,), optional
        Entropy of the exact posterior over that of the prior, 1 to 0, dotted.
    caption : str, optional

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and the line of each entry, by name.

    Raises
    ------
    ValueError
        If nothing is scored, a shape does not fit ``read``, or a number is infinite.
    """

    def __init__(self, *, read, scores: Mapping[str, object], uncertainty=None, caption: str | None = None):
        self.read = style.finite("read", read, "read")
        if not scores:
            raise ValueError("scores must hold at least one entry")
        self.scores = {name: self._by_seed(f"scores[{name!r}]", values) for name, values in scores.items()}
        self.uncertainty = None if uncertainty is None else style.finite("uncertainty", uncertainty, "read")
        if self.uncertainty is not None:
            style.same_shape("uncertainty", self.uncertainty, "read", self.read.shape)
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> PosteriorDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN, 2.3).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            self.artists_ = {}
            for k, (name, values) in enumerate(self.scores.items()):
                known = ~np.isnan(values).any(0)
                look = {"color": style.OKABE_ITO[0], "marker": "o"} if k == 0 else {"color": style.GREY, "marker": ""}
                dashes = "-" if k == 0 else style.DASHES[(k - 1) % len(style.DASHES)]
                (line,) = ax.plot(self.read[known], values[:, known].mean(0), linestyle=dashes, **look)
                ends = values[:, known].min(0), values[:, known].max(0)
                ax.vlines(self.read[known], *ends, color=line.get_color(), linewidth=0.8)
                self.artists_[name] = line
            if self.uncertainty is not None:
                look = {"color": style.OKABE_ITO[1], "linestyle": style.DASHES[1], "linewidth": 1.0}
                (self.artists_["still unknown, exact"],) = ax.plot(self.read, self.uncertainty, **look)
            ax.set(xlabel="tokens read", ylabel="R² of the posterior", xlim=(0.5, self.read.max() + 0.5))
            if title is not None:
                ax.set_title(title)
            ends = [float(line.get_ydata()[-1]) for line in self.artists_.values()]
            style.label_ends(ax, list(self.artists_), ends, [line.get_color() for line in self.artists_.values()])
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _by_seed(self, name: str, values: object) -> Float[np.ndarray, "seed read"]:
        array = np.asarray(values, dtype=np.float64)
        style.finite(name, np.nan_to_num(array, nan=0.0, posinf=np.inf, neginf=-np.inf), "seed", "read")
        style.same_shape(name, array, "read", (len(array), len(self.read)))
        return array


class PlateauDisplay:
    """Excess loss late in the context during training, on logarithmic axes, beside levels of lesser predictors.

    Thin lines are seeds; levels, such as what a memory of one token gives, are dashed and named.

    Parameters
    ----------
    steps : array of shape (n_moments,)
        How many lie behind, growing and above 0.
    curves : mapping of str to array of shape (n_seeds, n_moments)
        Loss less the least possible, nats, above 0.
    levels : mapping of str to float, optional
    caption : str, optional

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and the lines of each of ``curves`` and ``levels``, by name.

    Raises
    ------
    ValueError
        If nothing is given, steps do not grow, a shape does not fit them, or a number is not above 0.
    """

    def __init__(
        self,
        *,
        steps,
        curves: Mapping[str, object],
        levels: Mapping[str, float] | None = None,
        caption: str | None = None,
    ):
        self.steps = style.finite("steps", steps, "moment")
        if not curves or self.steps[0] <= 0 or (np.diff(self.steps) <= 0).any():
            raise ValueError(
                f"curves of {list(curves)!r} at steps {self.steps[:3]}..: one at least, at growing steps above 0"
            )
        self.curves = {name: self._above_0(f"curves[{name!r}]", values) for name, values in curves.items()}
        self.levels = {name: float(style.finite(f"levels[{name!r}]", value)) for name, value in (levels or {}).items()}
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None, label: bool = True) -> PlateauDisplay:
        """Draw on ``ax`` (a new figure if None); ``label`` says whether the vertical axis is named."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN, 2.3).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            self.artists_ = {}
            for name, level in self.levels.items():
                self.artists_[name] = ax.axhline(level, color=style.GREY, linestyle=style.DASHES[0], linewidth=0.8)
            for k, (name, values) in enumerate(self.curves.items()):
                colour = style.OKABE_ITO[k % len(style.OKABE_ITO)]
                self.artists_[name] = ax.plot(self.steps, values.T, color=colour, linewidth=0.9)
            ax.set(xscale="log", yscale="log", xlabel="steps")
            if label:
                ax.set_ylabel("late excess loss (nats)")
            if title is not None:
                ax.set_title(title)
            names = [*self.levels, *self.curves]
            ends = [*self.levels.values(), *(float(values[:, -1].mean()) for values in self.curves.values())]
            colours = [style.GREY] * len(self.levels) + [self.artists_[name][0].get_color() for name in self.curves]
            style.label_ends(ax, names, ends, colours)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _above_0(self, name: str, values: object) -> Float[np.ndarray, "seed moment"]:
        array = style.finite(name, values, "seed", "moment")
        style.same_shape(name, array, "steps", (len(array), len(self.steps)))
        if array.min() <= 0:
            raise ValueError(f"{name} reaches {array.min():.6g}; on a log axis every number must be above 0")
        return array


def loss_grid(displays: Mapping[str, SynchronisationDisplay], columns: int = 4, caption: str | None = None):
    """All sources in one figure, a page wide: the figure."""
    rows = -(-len(displays) // columns)
    with style.printed():
        figure = style.new_figure(style.DOUBLE_COLUMN, 1.45 * rows + 0.3)
        axes = figure.subplots(rows, columns, squeeze=False)
        style.caption_beneath(figure, caption)
        for ax, (name, display) in zip(axes.flat, displays.items(), strict=False):
            display.plot(ax, title=name.replace("_", " "), labels=False)
        _name_axes(axes, len(displays))
        lines, names = _legend(axes.flat[: len(displays)])
        empty = axes.flat[len(displays) :]
        for ax in empty:
            ax.set_axis_off()
        where = empty[0] if len(empty) else figure
        where.legend(
            lines,
            names,
            frameon=False,
            fontsize=style.SMALLEST_TEXT,
            loc="center left" if len(empty) else "outside upper center",
        )
    return figure


def _name_axes(axes: np.ndarray, n: int) -> None:
    columns = axes.shape[1]
    for k, ax in enumerate(axes.flat[:n]):
        if k % columns == 0:
            ax.set_ylabel("loss (nats)")
        if k + columns >= n:
            ax.set_xlabel("tokens read")


def _legend(axes: Iterable[Axes]) -> tuple[list, Sequence[str]]:
    """Every label once, with what first bears it."""
    found: dict[str, object] = {}
    for ax in axes:
        for line, name in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(name, line)
    return list(found.values()), list(found)
