"""What error is bought at what cost: a mark a kernel, and a line a kernel as it sees more of its context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from nextlens.analyses.displays import style
from nextlens.analyses.displays.curves import PLAIN
from nextlens.analyses.displays.exponents import MARKS


class CostsDisplay:
    """Error against cost, on two logarithmic axes: lower left is better.

    Parameters
    ----------
    values : mapping of str to sequence of (cost, error)
        By kernel: one point, or several that are joined in their order. Costs and errors are above 0.
    words : mapping of str to sequence of str, optional
        What to write beside the points of a kernel.
    xlabel, ylabel : str
        With units.
    caption : str, optional
        Printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and each kernel's marks by its name.

    Raises
    ------
    ValueError
        If there is no kernel, a number is not finite or not above 0, or words are not one a point.
    """

    def __init__(
        self,
        *,
        values: Mapping[str, Sequence[Sequence[float]]],
        words: Mapping[str, Sequence[str]] | None = None,
        xlabel: str = "",
        ylabel: str = "",
        caption: str | None = None,
    ):
        if not values:
            raise ValueError("values is empty; there is nothing to draw")
        self.values = {
            name: style.finite(f"values[{name!r}]", points, "point", "cost, error") for name, points in values.items()
        }
        self.words = {name: list(some) for name, some in (words or {}).items()}
        for name, points in self.values.items():
            style.same_shape(f"values[{name!r}]", points, "point, (cost, error)", (len(points), 2))
            if not (points > 0).all():
                raise ValueError(f"values[{name!r}] holds {points.min():g}; logarithmic axes begin above 0")
            if name in self.words and len(self.words[name]) != len(points):
                raise ValueError(f"words[{name!r}] are {len(self.words[name])} for {len(points)} points")
        self.xlabel, self.ylabel, self.caption = xlabel, ylabel, caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> CostsDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN, 2.6).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            self.artists_ = {}
            for k, (name, points) in enumerate(self.values.items()):
                colour, mark = style.OKABE_ITO[k % len(style.OKABE_ITO)], MARKS[k % len(MARKS)]
                (self.artists_[name],) = ax.plot(
                    *points.T, marker=mark, color=colour, linewidth=0.8, markersize=4, label=name
                )
                for i, (at, word) in enumerate(zip(points, self.words.get(name, ()), strict=False)):
                    ax.annotate(
                        word,
                        at,
                        xytext=(3, 3) if i % 2 == 0 else (-7, -9),
                        textcoords="offset points",
                        fontsize=style.SMALLEST_TEXT,
                        color=colour,
                        annotation_clip=False,
                    )
            ax.set(xscale="log", yscale="log", xlabel=self.xlabel, ylabel=self.ylabel)
            ax.margins(0.12)
            for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
                if high < 100 * low:
                    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                    axis.set_major_formatter(PLAIN)
                    axis.set_minor_locator(NullLocator())
            ax.legend(
                loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=style.SMALLEST_TEXT
            )
            if title is not None:
                ax.set_title(title, pad=24)
        self.ax_, self.figure_ = ax, ax.figure
        return self
