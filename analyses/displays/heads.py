"""Scores of every head of a model, as maps of layers and heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from nextlens.analyses.displays import style
from nextlens.models.arguments import one_of

#: Colours of scores from 0 up, and of scores of either sign; both are read by colour-blind eyes and in grey.
UP, SIGNED = "Blues", "PuOr_r"
#: Scores that hardly rise above chance are not spread over all colours.
LEAST_RISE = 0.1
#: A map may be so wide or high, in inches; a cell is as large as that allows.
WIDEST, HIGHEST, CELL = 2.6, 3.0, 0.22


class HeadsDisplay:
    """Scores of every head: one map a score, layers upwards, heads to the right.

    A score from 0 up is shown from its chance level on, below which everything has the lightest colour; a
    score with values below 0 runs from -1 to 1 around white.

    Parameters
    ----------
    scores : mapping of str to array of shape (layer, head)
        At most 1 and at least -1.
    chance : mapping of str to number, optional
        What there would be without it, printed over the map.
    marked : sequence of (layer, head), optional
        Heads to be framed, in every map.
    layers : sequence of int, optional
        Numbers of the layers; from 0 on if None.
    caption : str, optional
        Tokens, sequences and seed, printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, axes_, figure_, artists_
        After a ``plot`` method: axes, figure, and the image of each score drawn, by name.

    Raises
    ------
    ValueError
        If there is no score, shapes differ, a number is not finite or outside -1 to 1, or ``chance`` or
        ``marked`` names what is not there.
    """

    def __init__(
        self,
        *,
        scores: Mapping[str, object],
        chance: Mapping[str, float] | None = None,
        marked: Sequence[tuple[int, int]] = (),
        layers: Sequence[int] | None = None,
        caption: str | None = None,
    ):
        if not scores:
            raise ValueError("scores is empty; at least one is drawn")
        self.scores = {name: style.finite(f"scores[{name!r}]", one, "layer", "head") for name, one in scores.items()}
        first, shape = next((name, one.shape) for name, one in self.scores.items())
        for name, one in self.scores.items():
            style.same_shape(f"scores[{name!r}]", one, f"scores[{first!r}]", shape)
            if np.abs(one).max() > 1 + 1e-6:
                raise ValueError(
                    f"scores[{name!r}] reaches {one.flat[np.abs(one).argmax()]:.6g}; scores lie in -1 .. 1"
                )
        self.layers = list(range(shape[0]) if layers is None else layers)
        if len(self.layers) != shape[0]:
            raise ValueError(f"layers has {len(self.layers)} numbers; scores have {shape[0]} layers")
        self.chance = {one_of("chance", name, list(scores)): float(value) for name, value in (chance or {}).items()}
        self.marked = list(marked)
        for layer, head in self.marked:
            if layer not in self.layers or not 0 <= head < shape[1]:
                raise ValueError(f"marked holds {(layer, head)}; layers are {self.layers}, heads 0 .. {shape[1] - 1}")
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, which: str | None = None, title: str | None = None) -> HeadsDisplay:
        """Draw the map of one score, the first if ``which`` is None, on ``ax`` (a new figure if None)."""
        which = one_of("which", which or next(iter(self.scores)), list(self.scores))
        with style.printed():
            if ax is None:
                width, height = self._size()
                ax = style.new_figure(width + 1.1, height + 0.95).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            image = self._draw(ax, which, title)
        self.ax_, self.axes_, self.figure_, self.artists_ = ax, [ax], ax.figure, {which: image}
        return self

    def plot_grid(self, *, columns: int = 3) -> HeadsDisplay:
        """Draw the maps of all scores in a new figure, ``columns`` to a row."""
        rows = -(-len(self.scores) // columns)
        columns = min(columns, len(self.scores))
        with style.printed():
            width, height = self._size()
            figure = style.new_figure(columns * (width + 0.75) + 0.3, rows * (height + 0.7) + 0.3)
            style.caption_beneath(figure, self.caption)
            axes = figure.subplots(rows, columns, squeeze=False).flatten()
            self.artists_ = {name: self._draw(ax, name, None) for name, ax in zip(self.scores, axes, strict=False)}
            for ax in axes[len(self.scores) :]:
                ax.remove()
        self.axes_, self.ax_, self.figure_ = list(axes[: len(self.scores)]), axes[0], figure
        return self

    def _size(self) -> tuple[float, float]:
        n_layers, n_heads = next(iter(self.scores.values())).shape
        return max(1.3, min(WIDEST, CELL * n_heads)), max(0.6, min(HIGHEST, CELL * n_layers))

    def _draw(self, ax: Axes, which: str, title: str | None) -> AxesImage:
        values, chance = self.scores[which], self.chance.get(which)
        signed = values.min() < 0
        look = {"cmap": SIGNED, "norm": TwoSlopeNorm(0.0, -1.0, 1.0)} if signed else {"cmap": UP, "vmin": 0.0}
        if not signed:
            floor = chance or 0.0
            look |= {"vmin": min(floor, 0.95 * values.max()), "vmax": max(floor + LEAST_RISE, values.max())}
        image = ax.imshow(values, aspect="auto", origin="lower", interpolation="nearest", **look)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.03, fraction=0.06, aspect=14)
        bar.outline.set_linewidth(0.4)
        bar.ax.yaxis.set_major_locator(MaxNLocator(4))
        for layer, head in self.marked:
            place = (head - 0.5, self.layers.index(layer) - 0.5)
            frame = Rectangle(place, 1, 1, fill=False, edgecolor=style.OKABE_ITO[1], linewidth=1.2, zorder=3)
            ax.add_patch(frame).set_clip_on(False)
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        step = -(-len(self.layers) // 10)
        ax.set_yticks(range(0, len(self.layers), step), self.layers[::step])
        beside = "" if chance is None else f"\nchance {chance:.2g}"
        ax.set(xlabel="head", ylabel="layer")
        ax.set_title(f"{which}{beside}" if title is None else title, fontsize=style.SMALLEST_TEXT)
        for side in ax.spines.values():
            side.set_visible(True)
        return image
