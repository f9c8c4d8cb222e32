"""A score of every head of a model, as a map of layers and heads."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from nextlens.analyses.displays import style

#: Of heads that are found, and of chance in the colour bar.
OUTLINE = "#D55E00"


class HeadMapDisplay:
    """Scores by layer (down) and head (across), from white to dark blue; heads that are found are outlined.

    Parameters
    ----------
    scores : array of shape (layer, head)
    quantity : str
        What the numbers are, with their unit.
    threshold : float, optional
        Heads that score so much or more are outlined.
    chance : float, optional
        What no skill scores: a line across the bar.
    caption : str, optional
        Printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, figure_, image_
        After :meth:`plot`.

    Raises
    ------
    ValueError
        If there are no scores, or one is not finite.
    """

    def __init__(
        self,
        *,
        scores: object,
        quantity: str = "score",
        threshold: float | None = None,
        chance: float | None = None,
        caption: str | None = None,
    ):
        self.scores = style.finite("scores", scores, "layer", "head")
        self.quantity, self.threshold, self.chance, self.caption = quantity, threshold, chance, caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> HeadMapDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                height = float(np.clip(0.9 + 0.085 * len(self.scores), 1.7, 3.6))
                ax = style.new_figure(style.SINGLE_COLUMN, height).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            top = max(1.0, float(self.scores.max()))
            self.image_ = ax.imshow(self.scores, cmap="Blues", vmin=0.0, vmax=top, aspect="auto")
            bar = ax.figure.colorbar(self.image_, ax=ax, label=self.quantity)
            if self.chance is not None:
                bar.ax.axhline(self.chance, color=OUTLINE, linewidth=1.0)
            found = [] if self.threshold is None else np.argwhere(self.scores >= self.threshold)
            for layer, head in found:
                box = Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor=OUTLINE, linewidth=1.2)
                ax.add_patch(box)
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            ax.set(xlabel="head", ylabel="layer")
            ax.spines[:].set_visible(False)
            if title is not None:
                ax.set_title(title)
        self.ax_, self.figure_ = ax, ax.figure
        return self
