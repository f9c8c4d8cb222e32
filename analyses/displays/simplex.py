"""Beliefs over hidden states as a picture: exact, read by a probe, and read from an untrained twin."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.patheffects import withStroke

from nextlens.analyses.displays import style
from nextlens.models.arguments import one_of

#: The triangle's corners, centred, so that a belief's place is ``belief @ CORNERS``; its side is 1.
CORNERS = np.array([[-0.5, -1.0], [0.5, -1.0], [0.0, 2.0]]) * [1.0, np.sqrt(3) / 6]

PANELS = {"truth": "exact", "guess": "probe", "untrained": "untrained"}

#: Up to this many points are drawn one by one; more become an image of small cells.
FEW = 5_000

#: Up to this many stay vectors in a PDF or SVG; of more, only the points become pixels.
VECTORS = 1_000
CELLS_PER_INCH = 180
BARS = 101

#: Share of a panel's points that may fall outside the window at each of its sides.
FARTHEST = 1 / 2000


class SimplexDisplay:
    """Beliefs, each drawn where it lies and coloured by the exact belief of the same row.

    Row ``n`` of every array is the same prefix. A probe that is right puts each colour where the exact panel
    has it. All panels share one window, which holds every point, also those that a linear probe
    sends out of the simplex.

    - *3 states*: the triangle. A point is ``sum_i belief[i] * corner[i]``, a colour the linear-light mixture
      of three corner colours in those shares.
    - *2 states*: a histogram over the belief in state 1, on bars common to all panels.
    - *More states*, or vectors that are no probabilities (generalized HMMs): the plane of the first two
      principal components of the exact beliefs (weighted). A colour tells the place in that plane.

    Up to 5,000 points are drawn one by one, the heaviest last, with areas that grow as the root of their weights.
    More become an image: each cell has the weighted mean colour of its points, and is the more opaque the
    higher its weight ranks among the cells, so that rare and frequent prefixes are both seen.

    Parameters
    ----------
    truth : array of shape (n_points, n_states)
        The ideal observer's beliefs.
    guess, untrained : array of shape (n_points, n_states), optional
        Predictions of a probe on the model, and on its untrained twin; held out, if they are to mean anything.
    weights : array of shape (n_points,), optional
        Probability of each row, in any unit; equal by default.
    caption : str, optional
        Protocol, folds and seeds, printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, axes_, figure_, artists_
        After :meth:`plot` or :meth:`plot_row`: axes, figure, and for each panel drawn what holds its points.

    Raises
    ------
    ValueError
        If shapes differ, a number is not finite, or a weight is negative.
    """

    def __init__(self, *, truth, guess=None, untrained=None, weights=None, caption: str | None = None):
        self.truth = style.finite("truth", truth, "point", "state")
        if self.truth.shape[1] < 2:
            raise ValueError(f"truth has shape {self.truth.shape}; beliefs need at least 2 states to differ")
        self.guess = _same_rows("guess", guess, self.truth)
        self.untrained = _same_rows("untrained", untrained, self.truth)
        self.weights = _weights(weights, len(self.truth))
        self.caption = caption
        self.frame = frame_of(self.truth, self.weights)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        which: str = "truth",
        corners: bool = True,
        title: str | None = None,
    ) -> SimplexDisplay:
        """Draw one panel on ``ax`` (a new figure if None).

        Parameters
        ----------
        which : {"truth", "guess", "untrained"}, default="truth"
            Whose beliefs to draw; colours are those of the truth in each.
        corners : bool, default=True
            Whether the triangle's corners are named.
        """
        self._held(which)
        with style.printed():
            if ax is None:
                height = 2.1 if self.frame.kind == "line" else 3.0
                ax = style.new_figure(style.SINGLE_COLUMN, height).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            self.artists_ = [self._draw(ax, which, corners)]
            if title is not None:
                ax.set_title(title)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def plot_row(self, axes: Iterable[Axes] | None = None, *, title: str | None = None) -> SimplexDisplay:
        """Draw every array given, side by side: exact, probe, untrained.

        Raises
        ------
        ValueError
            If the number of ``axes`` is not the number of arrays.
        """
        names = self.names
        with style.printed():
            if axes is None:
                height = 1.8 if self.frame.kind == "line" else 2.4
                figure = style.new_figure(style.DOUBLE_COLUMN * len(names) / len(PANELS), height)
                axes = figure.subplots(1, len(names), squeeze=False)[0]
                style.caption_beneath(figure, self.caption)
                if title is not None:
                    figure.suptitle(title, fontsize=8)
            axes = list(axes)
            if len(axes) != len(names):
                raise ValueError(f"axes has {len(axes)} entries; this display draws {len(names)}: {', '.join(names)}")
            self.artists_ = []
            for ax, name in zip(axes, names, strict=True):
                self.artists_.append(self._draw(ax, name, corners=name == "truth"))
                ax.set_title(PANELS[name], loc="left")
            for ax in axes[1:]:
                ax.set_ylabel("")
        self.axes_, self.ax_, self.figure_ = axes, axes[0], axes[0].figure
        return self

    def _held(self, which: str) -> Float[np.ndarray, "point state"]:
        beliefs = getattr(self, one_of("which", which, PANELS))
        if beliefs is None:
            raise ValueError(f"which={which!r}, but this display was made without {which}=")
        return beliefs

    def _draw(self, ax: Axes, which: str, corners: bool) -> Artist | BarContainer:
        points = self.frame.places(self._held(which))
        ax.set(xlim=self.window[0], ylim=self.window[1])
        if self.frame.kind == "triangle":
            _draw_triangle(ax, names=corners)
        else:
            ax.set(xlabel=self.frame.labels[0], ylabel=self.frame.labels[1])
        if self.frame.kind == "line":
            edges = np.linspace(*self.window[0], BARS + 1)
            return _draw_bars(ax, points[:, 0], self.colours, self.weights, edges)
        ax.set_aspect("equal")
        draw = _draw_points if len(points) <= FEW else _draw_cells
        return draw(ax, points, self.colours, self.weights)

    @cached_property
    def colours(self) -> Float[np.ndarray, "point channel"]:
        """Linear-light colour of each row, from the exact beliefs alone."""
        shares = self.truth
        if self.frame.kind == "plane":
            towards = self.frame.places(self.truth) @ CORNERS.T
            shares = (towards - towards.min(axis=0)) ** 2
        return style.mix(shares, style.CORNER_COLOURS[: shares.shape[1]])

    @cached_property
    def window(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Limits (horizontal, vertical) that hold the simplex, and each panel but for its most distant points.

        One in 2,000 at each side may fall outside: a single far reading would shrink every panel.
        """
        given = [self.frame.places(getattr(self, name)) for name in self.names]
        inner = [np.quantile(points, (FARTHEST, 1 - FARTHEST), axis=0) for points in given]
        everything = np.concatenate([*inner, self.frame.outline, self.frame.places(self.truth)])
        low, high = everything.min(axis=0), everything.max(axis=0)
        margin = 0.03 * (high - low).max()
        (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
        if self.frame.kind == "line":
            edges = np.linspace(left, right, BARS + 1)
            bars = [np.histogram(points[:, 0], bins=edges, weights=self.weights)[0] for points in given]
            bottom, top = 0.0, 1.05 * float(np.max(bars))
        return (left, right), (bottom, top)

    @property
    def names(self) -> list[str]:
        """The arrays that were given, in the order in which a row shows them."""
        return [name for name in PANELS if getattr(self, name) is not None]


@dataclass(frozen=True, eq=False)
class Frame:
    """Where a belief is drawn: ``(belief - origin) @ axes``, on a ``"line"``, a ``"triangle"`` or a ``"plane"``."""

    kind: str
    origin: Float[np.ndarray, " state"]
    axes: Float[np.ndarray, "state 2"]
    labels: tuple[str, str]
    outline: Float[np.ndarray, "corner 2"]

    def places(self, beliefs: Float[np.ndarray, "point state"]) -> Float[np.ndarray, "point 2"]:
        """Coordinates of ``beliefs``."""
        return (beliefs - self.origin) @ self.axes


def frame_of(truth: Float[np.ndarray, "point state"], weights: Float[np.ndarray, " point"]) -> Frame:
    """The frame that suits ``truth``: by its number of states, and by whether its rows are probabilities.

    Raises
    ------
    ValueError
        If principal components are called for and all rows are equal.
    """
    n_states = truth.shape[1]
    probabilities = truth.min() > -1e-6 and np.allclose(truth.sum(axis=1), 1.0, atol=1e-6)
    if probabilities and n_states == 2:
        axes = np.array([[0.0, 0.0], [1.0, 0.0]])
        return Frame("line", np.zeros(2), axes, ("belief in state 1", "probability"), axes)
    if probabilities and n_states == 3:
        return Frame("triangle", np.zeros(3), CORNERS, ("", ""), CORNERS)
    mean = np.average(truth, axis=0, weights=weights)
    variances, directions = np.linalg.eigh(np.cov(truth.T, aweights=weights, ddof=0))
    variances, directions = variances[::-1][:2], directions[:, ::-1][:, :2]
    total = np.trace(np.cov(truth.T, aweights=weights, ddof=0))
    if total < 1e-24:
        raise ValueError("truth holds the same belief in every row: it has no principal components to draw")
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, [0, 1]])
    labels = [f"component {k + 1} ({share:.0%} of variance)" for k, share in enumerate(variances / total)]
    return Frame("plane", mean, directions, (labels[0], labels[1]), np.zeros((1, 2)))


def _same_rows(name: str, values: object, truth: np.ndarray) -> np.ndarray | None:
    if values is None:
        return None
    array = style.finite(name, values, "point", "state")
    style.same_shape(name, array, "truth", truth.shape)
    return array


def _weights(weights: object, n_points: int) -> Float[np.ndarray, " point"]:
    if weights is None:
        return np.full(n_points, 1.0 / n_points)
    array = style.finite("weights", weights, "point")
    style.same_shape("weights", array, "truth", (n_points,))
    if array.min() < 0 or array.sum() == 0:
        worst = int(array.argmin())
        raise ValueError(f"weights[{worst}]={array[worst]}: weights must be 0 or more, and not all 0")
    return array / array.sum()


def _draw_triangle(ax: Axes, names: bool) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.fill(*CORNERS.T, facecolor="none", edgecolor="0.7", linewidth=0.5, zorder=0)
    if not names:
        return
    halo = [withStroke(linewidth=1.5, foreground="white")]
    sides = (((0, -3), "center", "top"), ((0, -3), "center", "top"), ((0, 3), "center", "bottom"))
    for state, (offset, across, upright) in enumerate(sides):
        where = {"textcoords": "offset points", "ha": across, "va": upright, "path_effects": halo}
        ax.annotate(f"state {state}", CORNERS[state], offset, fontsize=style.SMALLEST_TEXT, color=style.INK, **where)


def _draw_points(ax: Axes, points: np.ndarray, colours: np.ndarray, weights: np.ndarray) -> Artist:
    order = np.argsort(weights, kind="stable")
    area = np.clip(4_000 / len(points), 1.0, 16.0) * np.sqrt(np.clip(weights * len(points), 0.1, 8.0))
    rgb = style.to_srgb(colours)
    look = {"linewidths": 0, "alpha": 0.85, "rasterized": len(points) > VECTORS}
    return ax.scatter(*points[order].T, s=area[order], c=rgb[order], **look)


def _draw_cells(ax: Axes, points: np.ndarray, colours: np.ndarray, weights: np.ndarray) -> Artist:
    limits = np.array([ax.get_xlim(), ax.get_ylim()])
    spans = limits[:, 1] - limits[:, 0]
    inches = np.divide(ax.get_window_extent().size, ax.figure.dpi)
    shape = np.clip(CELLS_PER_INCH * spans * (inches / spans).min(), 40, 2_000).astype(int)
    weight, *light = (
        np.histogram2d(*points.T, bins=shape, range=limits, weights=w)[0].T
        for w in (weights, *(weights[:, None] * colours).T)
    )
    held = weight > 0
    image = np.zeros((*weight.shape, 4))
    image[held, :3] = style.to_srgb(np.stack(light, axis=-1)[held] / weight[held][:, None])
    image[held, 3] = 0.5 + 0.5 * weight[held].argsort().argsort() / held.sum()
    extent = (*limits[0], *limits[1])
    return ax.imshow(image, extent=extent, origin="lower", interpolation="antialiased", aspect="equal")


def _draw_bars(
    ax: Axes, beliefs: np.ndarray, colours: np.ndarray, weights: np.ndarray, edges: np.ndarray
) -> BarContainer:
    weight, *light = (
        np.histogram(beliefs, bins=edges, weights=w)[0] for w in (weights, *(weights[:, None] * colours).T)
    )
    held = weight > 0
    rgb = style.to_srgb(np.stack(light, axis=-1)[held] / weight[held][:, None])
    return ax.bar(edges[:-1][held], weight[held], np.diff(edges)[held], align="edge", color=rgb)
