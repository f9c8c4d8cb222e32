"""Matrices as heat maps side by side: attention of heads, scores of position ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.image import AxesImage

from nextlens.analyses.displays import style

#: More labels than this along an axis are thinned.
MOST_LABELS = 40
UP, SIGNED = "Blues", "RdBu_r"


class HeatMapsDisplay:
    """One map a matrix, rows downwards; signed ones are white at 0, others begin at 0.

    Parameters
    ----------
    maps : mapping of str to array of shape (row, column)
        By title.
    rows, columns : sequence of str, optional
        What each row and column is; numbers from ``first`` if None.
    first : int, default=0
    marked : mapping of str to boolean array of shape (row, column), optional
        Cells that are framed, by title.
    xlabel, ylabel, quantity : str
        Axes, and what the colours are, with its unit.
    caption : str, optional

    Attributes
    ----------
    axes_, figure_, artists_
        After :meth:`plot`: axes, figure, and each image by its title.

    Raises
    ------
    ValueError
        If there is no map, a number is not finite, or a shape does not fit.
    """

    def __init__(
        self,
        *,
        maps: Mapping[str, object],
        rows: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        first: int = 0,
        marked: Mapping[str, object] | None = None,
        xlabel: str = "",
        ylabel: str = "",
        quantity: str = "",
        caption: str | None = None,
    ):
        if not maps:
            raise ValueError("maps is empty; there is nothing to draw")
        self.maps = {name: style.finite(f"maps[{name!r}]", one, "row", "column") for name, one in maps.items()}
        shape = next(iter(self.maps.values())).shape
        for name, one in self.maps.items():
            style.same_shape(f"maps[{name!r}]", one, "the first map", shape)
        for what, labels, size in (("rows", rows, shape[0]), ("columns", columns, shape[1])):
            if labels is not None and len(labels) != size:
                raise ValueError(f"{what} has {len(labels)} labels; the maps have {size}")
        self.rows, self.columns, self.first = rows, columns, first
        self.marked = {name: np.asarray(one, dtype=bool) for name, one in (marked or {}).items()}
        for name, one in self.marked.items():
            if name not in self.maps or one.shape != shape:
                raise ValueError(f"marked[{name!r}] has shape {one.shape}; it must be a map of shape {shape}")
        self.xlabel, self.ylabel, self.quantity, self.caption = xlabel, ylabel, quantity, caption

    def plot(self) -> HeatMapsDisplay:
        """Draw in a new figure."""
        with style.printed():
            n = len(self.maps)
            figure = style.new_figure(min(style.DOUBLE_COLUMN, 0.4 + 3.2 * n), 3.2)
            style.caption_beneath(figure, self.caption)
            axes = figure.subplots(1, n, squeeze=False)[0]
            self.artists_: dict[str, AxesImage] = {}
            for ax, (name, values) in zip(axes, self.maps.items(), strict=True):
                self.artists_[name] = self._draw(ax, name, values)
            axes[0].set_ylabel(self.ylabel)
        self.axes_, self.figure_ = list(axes), figure
        return self

    def _draw(self, ax: Axes, name: str, values: np.ndarray) -> AxesImage:
        far = float(np.abs(values).max()) or 1.0
        signed = values.min() < 0
        look = (
            {"cmap": SIGNED, "norm": TwoSlopeNorm(0.0, -far, far)} if signed else {"cmap": UP, "vmin": 0.0, "vmax": far}
        )
        first = self.first
        extent = (
            None
            if self.rows or self.columns
            else (first - 0.5, first + values.shape[1] - 0.5, first + values.shape[0] - 0.5, first - 0.5)
        )
        image = ax.imshow(values, interpolation="nearest", aspect="auto", extent=extent, **look)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.02, fraction=0.05, aspect=18)
        bar.outline.set_linewidth(0.4)
        bar.set_label(self.quantity, fontsize=style.SMALLEST_TEXT)
        for row, column in np.argwhere(self.marked.get(name, np.zeros((0, 0)))):
            ax.plot(
                column,
                row,
                marker="s",
                markersize=4.2,
                markerfacecolor="none",
                markeredgewidth=0.8,
                color=style.OKABE_ITO[1],
            )
        for labels, place in ((self.rows, ax.yaxis), (self.columns, ax.xaxis)):
            if labels is not None:
                step = -(-len(labels) // MOST_LABELS)
                place.set_ticks(range(0, len(labels), step), labels[::step])
        ax.tick_params(length=0 if self.rows or self.columns else 2.5, pad=1.5)
        ax.set_xlabel(self.xlabel)
        ax.set_title(name)
        for side in ax.spines.values():
            side.set_visible(True)
        return image
