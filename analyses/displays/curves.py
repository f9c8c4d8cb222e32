"""Curves along tokens, components or layers, each with its interval, beside what there would be without it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from nextlens.analyses.displays import style
from nextlens.models.arguments import one_of

#: More labels than this along the horizontal axis are thinned.
MOST_TICKS = 9
#: Numbers along an axis of powers as they are written.
PLAIN = StrMethodFormatter("{x:g}")


class CurvesDisplay:
    """Numbers along one axis, with their intervals as bands, beside references in grey.

    A reference that is one number is a horizontal line. Every curve is named at its right end.

    Parameters
    ----------
    along : numbers or words
        Where the values are; words (layers, say) are put at equal distances and become the labels.
    values : mapping of str to array of shape (place,)
        What was measured.
    intervals : mapping of str to array of shape (2, place), optional
        Lower and upper ends, for some or all of ``values``.
    references : mapping of str to number or array of shape (place,), optional
        Nulls and bounds: what values are to be read beside.
    xlabel, ylabel : str
        What the axes hold, with units.
    xscale, yscale : {"linear", "log"}
        A logarithmic horizontal axis has its ticks at powers of 2.
    caption : str, optional
        Printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and each line by its name.

    Raises
    ------
    ValueError
        If nothing is given, a shape does not fit ``along``, a number is not finite, a name is used twice, or
        an interval belongs to no curve.
    """

    def __init__(
        self,
        *,
        along: Iterable[object],
        values: Mapping[str, object],
        intervals: Mapping[str, object] | None = None,
        references: Mapping[str, object] | None = None,
        xlabel: str = "",
        ylabel: str = "",
        xscale: str = "linear",
        yscale: str = "linear",
        caption: str | None = None,
    ):
        places = list(along)
        self.labels = places if places and isinstance(places[0], str) else None
        self.along = style.finite("along", range(len(places)) if self.labels else places, "place")
        if not values:
            raise ValueError("values is empty; there is nothing to draw")
        self.values = {name: self._curve(f"values[{name!r}]", one) for name, one in values.items()}
        self.intervals = {name: self._band(name, ends) for name, ends in (intervals or {}).items()}
        self.references = {
            name: style.finite(f"references[{name!r}]", one) if np.ndim(one) == 0 else self._curve(name, one)
            for name, one in (references or {}).items()
        }
        twice = sorted(self.values.keys() & self.references.keys())
        if twice:
            raise ValueError(f"{twice[0]!r} names a curve and a reference; each needs a name of its own")
        self.xlabel, self.ylabel, self.caption = xlabel, ylabel, caption
        self.xscale = one_of("xscale", xscale, ("linear", "log"))
        self.yscale = one_of("yscale", yscale, ("linear", "log"))

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> CurvesDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN, 2.3).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            self.artists_ = self._draw_references(ax) | self._draw_values(ax)
            ax.set_xscale(self.xscale, **({"base": 2} if self.xscale == "log" else {}))
            ax.set(yscale=self.yscale, xlabel=self.xlabel, ylabel=self.ylabel)
            self._tick(ax)
            if title is not None:
                ax.set_title(title)
            lines = self.artists_.values()
            ends = [float(line.get_ydata()[-1]) for line in lines]
            style.label_ends(ax, list(self.artists_), ends, [line.get_color() for line in lines])
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_values(self, ax: Axes) -> dict:
        lines = {}
        for k, (name, values) in enumerate(self.values.items()):
            colour = style.OKABE_ITO[k % len(style.OKABE_ITO)]
            dots = {"marker": "o", "markersize": 2.5} if len(values) <= 40 else {}
            (lines[name],) = ax.plot(self.along, values, color=colour, **dots)
            if name in self.intervals:
                ax.fill_between(self.along, *self.intervals[name], color=colour, alpha=0.2, linewidth=0)
        return lines

    def _draw_references(self, ax: Axes) -> dict:
        lines = {}
        for k, (name, values) in enumerate(self.references.items()):
            look = {"color": style.GREY, "linestyle": style.DASHES[k % len(style.DASHES)], "linewidth": 0.9}
            if values.ndim == 0:
                lines[name] = ax.axhline(float(values), **look)
            else:
                (lines[name],) = ax.plot(self.along, values, **look)
        return lines

    def _tick(self, ax: Axes) -> None:
        if self.labels:
            step = -(-len(self.labels) // MOST_TICKS)
            shown = range(0, len(self.labels), step)
            crowded = max(len(self.labels[i]) for i in shown) > 3
            slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
            ax.set_xticks(list(shown), [self.labels[i] for i in shown], **slant)
        elif self.xscale == "log":
            ax.xaxis.set_major_formatter(PLAIN)
            ax.xaxis.set_minor_locator(NullLocator())
        low, high = ax.get_ylim()
        if self.yscale == "log" and high < 100 * low:
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter(PLAIN)
            ax.yaxis.set_minor_locator(NullLocator())

    def _curve(self, name: str, values: object) -> Float[np.ndarray, " place"]:
        array = style.finite(name, values, "place")
        style.same_shape(name, array, "along", self.along.shape)
        return array

    def _band(self, name: str, ends: object) -> Float[np.ndarray, "end place"]:
        if name not in self.values:
            raise ValueError(f"intervals[{name!r}] belong to none of the curves {list(self.values)}")
        array = style.finite(f"intervals[{name!r}]", ends, "end", "place")
        style.same_shape(f"intervals[{name!r}]", array, "along", (2, len(self.along)))
        return array
