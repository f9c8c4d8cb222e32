"""What goes when heads are ablated, beside controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

from nextlens.analyses.displays import style
from nextlens.models.arguments import one_of


class AblationDisplay:
    """How much of the in-context gain goes when heads are ablated: mean over seeds, and every seed a dot.

    Parameters
    ----------
    removed : mapping of str to array of shape (seed,)
        Shares, 1 if all goes; by what is ablated.
    claimed : sequence of str, optional
        Which of them are what is claimed, in colour; the others are controls, in grey.
    caption : str, optional

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and the dots of each bar, by name.

    Raises
    ------
    ValueError
        If there is nothing to draw, a number is not finite, or ``claimed`` names what is not there.
    """

    def __init__(self, *, removed: Mapping[str, object], claimed: Sequence[str] = (), caption: str | None = None):
        if not removed:
            raise ValueError("removed is empty; at least one ablation is drawn")
        self.removed = {name: style.finite(f"removed[{name!r}]", one, "seed") for name, one in removed.items()}
        self.claimed = [one_of("claimed", name, list(removed)) for name in claimed]
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> AblationDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN + 0.4, 0.8 + 0.3 * len(self.removed)).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            self.artists_: dict[str, PathCollection] = {}
            for place, (name, values) in enumerate(self.removed.items()):
                colour = style.OKABE_ITO[0] if name in self.claimed else "0.75"
                ax.barh(place, values.mean(), height=0.62, color=colour, alpha=0.85)
                spread = place + np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [place]
                self.artists_[name] = ax.scatter(values, spread, s=9, color=style.INK, zorder=3, linewidths=0)
            ax.axvline(0, color=style.INK, linewidth=0.6)
            ax.axvline(1, color=style.GREY, linestyle=style.DASHES[0], linewidth=0.8)
            ax.set_yticks(range(len(self.removed)), list(self.removed))
            ax.invert_yaxis()
            ax.set_xlabel("share of the in-context gain removed")
            if title is not None:
                ax.set_title(title)
        self.ax_, self.figure_ = ax, ax.figure
        return self
