"""Beliefs by addition and by multiplication, what is read of each in a model, and how attention decays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from nextlens.analyses.displays import style
from nextlens.analyses.displays.simplex import SimplexDisplay
from nextlens.models.arguments import one_of

CLOUDS = {
    "r_1": "r₁, exact",
    "read_r_1": "r₁, after attention",
    "belief": "belief, exact",
    "read_belief": "belief, after MLP",
}
CURVES = {"attention": "attention", "kernel": "what reaches r₁"}
#: Attention below this share of the nearest is not drawn.
FAINTEST = 1e-4


class ConstrainedDisplay:
    """Six panels: ``r_1``, its reading after attention, the belief, its reading after the MLP; attention; the kernel.

    Clouds share their colours, which are those of the exact belief, and each pair its window; see
    :class:`~nextlens.analyses.displays.simplex.SimplexDisplay`.

    - *attention*: ``A[s + n, s] / A[s + 1, s]`` by distance n on a log axis, a thin line for each key s and a thick
      one for the geometric mean, for each head; grey is the prediction, ``|zeta|^(n - 1)``.
    - *kernel*: how much of the displacement of token s reaches ``r_1`` n positions later, signed; grey is
      ``zeta^n``.

    Parameters
    ----------
    belief, r_1, read_belief, read_r_1 : array of shape (n_points, n_states)
        Row for row the same prefixes; readings held out, if they are to mean anything.
    pattern : array of shape (n_heads, n_positions, n_positions)
        Mean attention, rows are queries.
    kernel : array of shape (n_positions, n_positions)
    decay : float
        ``zeta``.
    weights : array of shape (n_points,), optional
    caption : str, optional
        Protocol, folds and seeds, printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, axes_, figure_, artists_
        After :meth:`plot` or :meth:`plot_all`: axes, figure, and what holds the data of each panel drawn.

    Raises
    ------
    ValueError
        If shapes differ, a number is not finite, or a weight of attention is below 0.
    """

    def __init__(
        self,
        *,
        belief,
        r_1,
        read_belief,
        read_r_1,
        pattern,
        kernel,
        decay: float,
        weights=None,
        caption: str | None = None,
    ):
        belief = style.finite("belief", belief, "point", "state")
        for name, cloud in (("r_1", r_1), ("read_r_1", read_r_1), ("read_belief", read_belief)):
            style.same_shape(name, style.finite(name, cloud, "point", "state"), "belief", belief.shape)
        self.first = SimplexDisplay(truth=belief, guess=r_1, untrained=read_r_1, weights=weights)
        self.second = SimplexDisplay(truth=belief, guess=read_belief, weights=weights)
        self.pattern = style.finite("pattern", pattern, "head", "position", "looked_at")
        self.kernel = style.finite("kernel", kernel, "position", "looked_at")
        n = self.pattern.shape[1]
        style.same_shape("pattern", self.pattern, "positions", (len(self.pattern), n, n))
        style.same_shape("kernel", self.kernel, "pattern", (n, n))
        if n < 3:
            raise ValueError(f"pattern has {n} positions; a decay needs at least 3")
        if self.pattern.min() < 0:
            raise ValueError(f"pattern reaches {self.pattern.min():.6g}; attention is at least 0")
        self.decay = float(style.finite("decay", decay))
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, which: str = "attention", title: str | None = None) -> ConstrainedDisplay:
        """Draw one panel on ``ax`` (a new figure if None): one of ``CLOUDS`` or ``CURVES``."""
        one_of("which", which, [*CLOUDS, *CURVES])
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN, 2.6).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            self.artists_ = {which: self._draw(ax, which)}
            if title is not None:
                ax.set_title(title)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def plot_all(self, *, title: str | None = None) -> ConstrainedDisplay:
        """Draw all panels in a new figure as wide as a page."""
        with style.printed():
            figure = style.new_figure(style.DOUBLE_COLUMN, 4.2)
            style.caption_beneath(figure, self.caption)
            if title is not None:
                figure.suptitle(title, fontsize=8)
            places = {
                **{name: (0, slice(k, k + 1)) for k, name in enumerate(CLOUDS)},
                **{name: (1, slice(2 * k, 2 * k + 2)) for k, name in enumerate(CURVES)},
            }
            grid = figure.add_gridspec(2, 4, height_ratios=[1, 1.15])
            self.axes_, self.artists_ = {}, {}
            for name, place in places.items():
                ax = self.axes_[name] = figure.add_subplot(grid[place])
                self.artists_[name] = self._draw(ax, name)
                ax.set_title((CLOUDS | CURVES)[name], loc="left", pad=12 if name in CLOUDS else None)
        self.ax_, self.figure_ = self.axes_["r_1"], figure
        return self

    def _draw(self, ax: Axes, which: str) -> Mapping[str, Artist] | Artist:
        if which == "attention":
            return self._draw_attention(ax)
        if which == "kernel":
            return self._draw_kernel(ax)
        display = self.second if which in ("belief", "read_belief") else self.first
        ax.set_anchor("N")
        shown = {"r_1": "guess", "read_r_1": "untrained", "belief": "truth", "read_belief": "guess"}[which]
        return display.plot(ax, which=shown, corners=which == "belief").artists_[0]

    def _draw_attention(self, ax: Axes) -> dict[str, Artist]:
        found: dict[str, Artist] = {}
        for head, pattern in enumerate(self.pattern):
            name = "attention" if len(self.pattern) == 1 else f"head {head}"
            look = {"color": style.OKABE_ITO[head % len(style.OKABE_ITO)]}
            found[name] = _curves(ax, _fading(pattern), 1, geometric=True, **look)
        distance = np.arange(1, self.pattern.shape[1])
        if self.decay != 0:
            (found["|ζ|ⁿ⁻¹"],) = ax.plot(distance, abs(self.decay) ** (distance - 1.0), **_PREDICTED)
        ax.set(yscale="log", xlabel="distance n", ylabel="A[s+n, s] / A[s+1, s]")
        _name(ax, found)
        return found

    def _draw_kernel(self, ax: Axes) -> dict[str, Artist]:
        n = len(self.kernel)
        found: dict[str, Artist] = {}
        ax.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        found["model"] = _curves(ax, _by_distance(self.kernel), 0, color=style.OKABE_ITO[0])
        (found["ζⁿ"],) = ax.plot(np.arange(n), self.decay ** np.arange(n), **_PREDICTED)
        ax.set(xlabel="distance n", ylabel="displacement kept")
        _name(ax, found)
        return found


_PREDICTED = {"color": style.GREY, "linestyle": style.DASHES[0], "marker": ".", "zorder": 3}


def _by_distance(weights: Float[np.ndarray, "position looked_at"]) -> Float[np.ndarray, "key distance"]:
    """Row s holds ``weights[s + n, s]`` over n, NaN where the context has ended."""
    n = len(weights)
    rows = np.full((n, n), np.nan)
    for s in range(n):
        rows[s, : n - s] = weights[s:, s]
    return rows


def _fading(pattern: Float[np.ndarray, "position looked_at"]) -> Float[np.ndarray, "key distance"]:
    """Attention to each key over that one step after it; NaN where it is too faint to draw."""
    rows = _by_distance(pattern)[:-1, 1:]
    ratio = np.divide(rows, rows[:, :1], out=np.full(rows.shape, np.nan), where=rows[:, :1] > 0)
    return np.where(ratio >= FAINTEST, ratio, np.nan)


def _curves(
    ax: Axes, rows: Float[np.ndarray, "key distance"], nearest: int, *, geometric: bool = False, **look: object
) -> Artist:
    """A thin line a key, and their mean over keys that reach so far."""
    distance = np.arange(nearest, nearest + rows.shape[1])
    ax.plot(distance, rows.T, linewidth=0.5, alpha=0.4, **look)
    values = np.log(rows) if geometric else rows
    known = np.isfinite(values)
    mean = np.divide(
        np.where(known, values, 0).sum(0), known.sum(0), out=np.full(len(distance), np.nan), where=known.any(0)
    )
    (line,) = ax.plot(distance, np.exp(mean) if geometric else mean, marker="o", **look)
    return line


def _name(ax: Axes, lines: Mapping[str, Artist]) -> None:
    look = {"fontsize": style.SMALLEST_TEXT, "handlelength": 2.2, "facecolor": "white", "edgecolor": "none"}
    ax.legend(lines.values(), lines.keys(), **look)
