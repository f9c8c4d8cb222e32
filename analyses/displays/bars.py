"""Groups of bars with every seed a dot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

from nextlens.analyses.displays import style


class BarsDisplay:
    """Means over seeds as bars, in groups, and every seed as a dot.

    Parameters
    ----------
    bars : mapping of str to mapping of str to array of shape (seed,)
        By colour, then by place; every colour has the same places.
    xlabel, ylabel : str
    caption : str, optional

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and the dots by ``(colour, place)``.

    Raises
    ------
    ValueError
        If there is nothing to draw, places differ, or a number is not finite.
    """

    def __init__(
        self,
        *,
        bars: Mapping[str, Mapping[str, object]],
        xlabel: str = "",
        ylabel: str = "",
        caption: str | None = None,
    ):
        places = [list(one) for one in bars.values()]
        if not places or not places[0] or any(one != places[0] for one in places):
            raise ValueError(f"bars have the places {places}; there must be one or more, the same in every group")
        self.bars = {
            colour: {place: style.finite(f"bars[{colour!r}][{place!r}]", one, "seed") for place, one in group.items()}
            for colour, group in bars.items()
        }
        self.places = places[0]
        self.xlabel, self.ylabel, self.caption = xlabel, ylabel, caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> BarsDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                height = 0.9 + 0.22 * len(self.places) * len(self.bars)
                ax = style.new_figure(style.SINGLE_COLUMN + 0.6, height).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            self.artists_: dict[tuple[str, str], PathCollection] = {}
            width = 0.8 / len(self.bars)
            for k, (colour, group) in enumerate(self.bars.items()):
                ink = style.OKABE_ITO[k % len(style.OKABE_ITO)]
                for at, (place, values) in enumerate(group.items()):
                    middle = at + (k - (len(self.bars) - 1) / 2) * width
                    ax.barh(
                        middle, values.mean(), height=0.9 * width, color=ink, alpha=0.5, label=None if at else colour
                    )
                    spread = middle + width * (
                        np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1)
                    )
                    self.artists_[colour, place] = ax.scatter(
                        values, spread, s=8, color=style.INK, zorder=3, linewidths=0
                    )
            ax.set_yticks(range(len(self.places)), self.places)
            ax.invert_yaxis()
            ax.set(xlabel=self.xlabel, ylabel=self.ylabel)
            ax.legend(frameon=False, fontsize=style.SMALLEST_TEXT, loc="upper left", bbox_to_anchor=(1.0, 1.0))
            if title is not None:
                ax.set_title(title)
        self.ax_, self.figure_ = ax, ax.figure
        return self
