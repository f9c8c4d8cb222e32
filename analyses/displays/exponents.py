"""Exponents of several sources, a mark a series with its interval, beside those of shuffles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from nextlens.analyses.displays import style

MARKS = ("o", "s", "^", "D")


class ExponentsDisplay:
    """One block of lines a source, one line a series: the estimate, its interval, and a tick where shuffles are.

    Parameters
    ----------
    values : mapping of str to mapping of str to (value, low, high, shuffled)
        By source and series.
    words : mapping of str to str, optional
        Printed at the right of each source, such as its verdict.
    quantity : str
        Of the horizontal axis.
    caption : str, optional
        Printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and the marks of each series.

    Raises
    ------
    ValueError
        If there is no source, or a number is not finite.
    """

    def __init__(
        self,
        *,
        values: Mapping[str, Mapping[str, Sequence[float]]],
        words: Mapping[str, str] | None = None,
        quantity: str = "H by local Whittle, m = T^.5",
        caption: str | None = None,
    ):
        if not values:
            raise ValueError("values is empty; there is nothing to draw")
        self.values = {
            source: {
                name: style.finite(f"values[{source!r}][{name!r}]", one, "value, low, high, shuffled")
                for name, one in series.items()
            }
            for source, series in values.items()
        }
        for source, series in self.values.items():
            for name, one in series.items():
                style.same_shape(f"values[{source!r}][{name!r}]", one, "value, low, high, shuffled", (4,))
        self.words, self.quantity, self.caption = dict(words or {}), quantity, caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> ExponentsDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        series = list(dict.fromkeys(name for one in self.values.values() for name in one))
        with style.printed():
            if ax is None:
                height = 0.8 + 0.17 * len(series) * len(self.values)
                ax = style.new_figure(style.DOUBLE_COLUMN, height).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            places = -np.arange(len(self.values), dtype=float)
            self.artists_ = {}
            for k, name in enumerate(series):
                there = [i for i, one in enumerate(self.values.values()) if name in one]
                rows = np.array([one[name] for one in self.values.values() if name in one])
                at = places[there] + 0.25 - 0.5 * k / max(1, len(series) - 1)
                colour = style.OKABE_ITO[k]
                ax.hlines(at, rows[:, 1], rows[:, 2], color=colour, linewidth=0.9)
                ax.plot(rows[:, 3], at, "|", color=style.INK, markersize=6, markeredgewidth=0.9, zorder=3)
                (self.artists_[name],) = ax.plot(
                    rows[:, 0], at, MARKS[k % len(MARKS)], color=colour, markersize=3.5, label=name
                )
            ax.plot([], [], "|", color=style.INK, markersize=6, markeredgewidth=0.9, label="mean of shuffles")
            ax.set_yticks(places, list(self.values))
            ax.set(ylim=(places[-1] - 0.6, 0.6), xlabel=self.quantity)
            ax.axvline(0.5, color=style.GREY, linewidth=0.6, linestyle=style.DASHES[0], zorder=0)
            for place, source in zip(places, self.values, strict=True):
                if source in self.words:
                    ax.annotate(
                        self.words[source],
                        (1.02, place),
                        xycoords=("axes fraction", "data"),
                        va="center",
                        fontsize=style.SMALLEST_TEXT,
                        color=style.INK,
                    )
            ax.grid(axis="x", color="0.9", linewidth=0.5)
            ax.set_axisbelow(True)
            ax.legend(
                loc="lower center",
                bbox_to_anchor=(0.5, 1.0),
                ncols=len(series) + 1,
                frameon=False,
                fontsize=style.SMALLEST_TEXT,
            )
            if title is not None:
                ax.set_title(title, pad=18)
        self.ax_, self.figure_ = ax, ax.figure
        return self
