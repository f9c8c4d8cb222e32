"""How a series scales: R/S by window with its slope beneath, and local Whittle by bandwidth, beside shuffles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from nextlens.analyses.displays import style
from nextlens.analyses.displays.curves import PLAIN

#: What the mappings of each series hold.
NEEDED = (
    "window",
    "rescaled",
    "rescaled_shuffled",
    "between",
    "slope",
    "slope_shuffled",
    "frequencies",
    "whittle",
    "whittle_interval",
    "whittle_shuffled",
)


class ScalingDisplay:
    """Points, not a fitted number: three panels of one source, a colour a series, the range of shuffles in grey.

    Parameters
    ----------
    curves : mapping of str to mapping
        For each series what :func:`~nextlens.analyses.self_similarity.scaling_curves` gives.
    names : mapping of str to str, optional
        What each series is called in the legend.
    caption : str, optional
        Printed beneath.

    Attributes
    ----------
    axes_, figure_, artists_
        After :meth:`plot`: the three axes, the figure, and the line of each series in each panel.

    Raises
    ------
    ValueError
        If there is no series, one lacks an entry, or a number is not finite.
    """

    def __init__(
        self,
        *,
        curves: Mapping[str, Mapping[str, Sequence[Any]]],
        names: Mapping[str, str] | None = None,
        caption: str | None = None,
    ):
        if not curves:
            raise ValueError("curves is empty; there is nothing to draw")
        self.names, self.caption = dict(names or {}), caption
        self.curves = {}
        for name, given in curves.items():
            missing = [entry for entry in NEEDED if entry not in given]
            if missing:
                raise ValueError(f"curves[{name!r}] lacks {missing[0]!r}")
            self.curves[name] = {
                entry: style.finite(f"curves[{name!r}][{entry!r}]", given[entry], *axes)
                for entry in NEEDED
                for axes in [("end", "place") if entry.endswith(("shuffled", "interval")) else ("place",)]
            }

    def plot(self) -> ScalingDisplay:
        """Draw a new figure, as wide as a page."""
        with style.printed():
            figure = style.new_figure(style.DOUBLE_COLUMN, 3.1)
            style.caption_beneath(figure, self.caption)
            grid = figure.add_gridspec(2, 2, height_ratios=(2, 1))
            upper, lower = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
            sweep = figure.add_subplot(grid[:, 1])
            self.axes_, self.figure_ = (upper, lower, sweep), figure
            self.artists_ = {
                "rescaled": self._panel(upper, "window", "rescaled", "rescaled_shuffled"),
                "slope": self._panel(lower, "between", "slope", "slope_shuffled"),
                "whittle": self._panel(sweep, "frequencies", "whittle", "whittle_shuffled"),
            }
            for colour, one in zip(style.OKABE_ITO, self.curves.values(), strict=False):
                sweep.vlines(one["frequencies"], *one["whittle_interval"], color=colour, linewidth=0.8)
            upper.set(yscale="log", ylabel="R/S")
            lower.set(xlabel="window, tokens", ylabel="local slope")
            sweep.set(xlabel="frequencies m, of the lowest", ylabel="H by local Whittle")
            for ax in (lower, sweep):
                ax.axhline(0.5, color=style.GREY, linewidth=0.6, linestyle=style.DASHES[0])
            for ax in self.axes_:
                ax.set_xscale("log", base=2)
                ax.xaxis.set_major_formatter(PLAIN)
                ax.xaxis.set_minor_locator(NullLocator())
            upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            upper.yaxis.set_major_formatter(PLAIN)
            upper.yaxis.set_minor_locator(NullLocator())
            upper.tick_params(labelbottom=False)
            lower.set_xlim(upper.get_xlim())
            self._key(sweep)
        return self

    def _panel(self, ax: Axes, x: str, y: str, null: str) -> dict[str, Line2D]:
        lines = {}
        for k, (name, one) in enumerate(self.curves.items()):
            ax.fill_between(one[x], *one[null], color="0.85", linewidth=0, zorder=0)
            (lines[name],) = ax.plot(one[x], one[y], "o-", color=style.OKABE_ITO[k], markersize=3, linewidth=0.9)
        return lines

    def _key(self, ax: Axes) -> None:
        marks = [
            Line2D([], [], marker="o", color=style.OKABE_ITO[k], markersize=3, linewidth=0.9)
            for k in range(len(self.curves))
        ]
        labels = [self.names.get(name, name) for name in self.curves]
        ax.legend(
            [*marks, Patch(color="0.85")],
            [*labels, "range of shuffles"],
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=2,
            frameon=False,
            fontsize=style.SMALLEST_TEXT,
        )
