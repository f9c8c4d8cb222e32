"""A score read at each site of a model, beside its nulls."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from nextlens.analyses.displays import style
from nextlens.models.arguments import one_of

_WHOLE_NAMES = {
    "embed": "embed",
    "pos_embed": "positions",
    "ln_final.normalized": "final norm",
    "final": "final norm",
}


class LayersDisplay:
    """Scores by site, in the order in which the model computes them: mean over seeds, and their range.

    A null that is one number is a horizontal line; one with a number per site is a lower, grey curve.
    Every curve is named at its right end.

    Parameters
    ----------
    sites : iterable of str
        Names of the model's sites, long (``blocks.0.hook_resid_post``) or short (``blocks.0.resid_post``).
    scores : mapping of str to array of shape (n_sites,) or (n_seeds, n_sites)
        What is claimed.
    nulls : mapping of str to number, or array of shape (n_sites,) or (n_seeds, n_sites), optional
        What there would be without it: an untrained twin, shuffled rows, the last token alone.
    quantity : str, default="R²"
        What the numbers are, with their unit if they have one.
    scale : {"linear", "log"}, default="linear"
        Of the vertical axis; with ``"log"`` every number must be above 0.
    caption : str, optional
        Protocol, folds and seeds, printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and the line of each entry of ``scores`` and ``nulls``, by name.

    Raises
    ------
    ValueError
        If nothing is scored, a shape does not fit ``sites``, a number is not finite, or a name is used twice.
    """

    def __init__(
        self,
        *,
        sites: Iterable[str],
        scores: Mapping[str, object],
        nulls: Mapping[str, object] | None = None,
        quantity: str = "R²",
        scale: str = "linear",
        caption: str | None = None,
    ):
        self.sites = list(sites)
        if not self.sites or not scores:
            raise ValueError(f"sites={self.sites!r} and scores of {list(scores)!r}: each must hold at least one")
        self.scores = {name: self._by_seed(f"scores[{name!r}]", values) for name, values in scores.items()}
        self.nulls = {name: self._null(f"nulls[{name!r}]", values) for name, values in (nulls or {}).items()}
        twice = sorted(self.scores.keys() & self.nulls.keys())
        if twice:
            raise ValueError(f"{twice[0]!r} names an entry of scores and one of nulls; each needs a name of its own")
        self.quantity = quantity
        self.scale = one_of("scale", scale, ("linear", "log"))
        for name, values in (self.scores | self.nulls).items():
            if scale == "log" and values.min() <= 0:
                raise ValueError(f"{name!r} reaches {values.min():.6g}; with scale='log' every number must be above 0")
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> LayersDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN, 2.3).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            self.artists_ = self._draw_nulls(ax) | self._draw_scores(ax)
            names = [short_site(site) for site in self.sites]
            crowded = sum(map(len, names)) > 28
            slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
            ax.set_xticks(range(len(names)), names, **slant)
            ax.set(xlim=(-0.4, len(names) - 0.6), ylabel=self.quantity)
            ax.set_yscale(self.scale)
            if title is not None:
                ax.set_title(title)
            lines = self.artists_.values()
            ends = [float(line.get_ydata()[-1]) for line in lines]
            style.label_ends(ax, list(self.artists_), ends, [line.get_color() for line in lines])
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_scores(self, ax: Axes) -> dict[str, Artist]:
        lines = {}
        for k, (name, values) in enumerate(self.scores.items()):
            colour = style.OKABE_ITO[k % len(style.OKABE_ITO)]
            lines[name] = _curve(ax, values, color=colour, marker="o")
        return lines

    def _draw_nulls(self, ax: Axes) -> dict[str, Artist]:
        lines = {}
        for k, (name, values) in enumerate(self.nulls.items()):
            look = {"color": style.GREY, "linestyle": style.DASHES[k % len(style.DASHES)], "linewidth": 0.9}
            if values.ndim == 0:
                lines[name] = ax.axhline(float(values), **look)
            else:
                lines[name] = _curve(ax, values, **look)
        return lines

    def _by_seed(self, name: str, values: object) -> Float[np.ndarray, "seed site"]:
        axes = ("seed", "site") if np.ndim(values) > 1 else ("site",)
        array = np.atleast_2d(style.finite(name, values, *axes))
        style.same_shape(name, array, "sites", (len(array), len(self.sites)))
        return array

    def _null(self, name: str, values: object) -> Float[np.ndarray, "*any"]:
        return style.finite(name, values) if np.ndim(values) == 0 else self._by_seed(name, values)


def _curve(ax: Axes, values: Float[np.ndarray, "seed site"], **look: object) -> Artist:
    places, mean = np.arange(values.shape[1]), values.mean(axis=0)
    (line,) = ax.plot(places, mean, **look)
    if len(values) > 1:
        ax.vlines(places, values.min(axis=0), values.max(axis=0), color=line.get_color(), linewidth=0.8)
    return line


def short_site(site: str) -> str:
    """A label of one or two words for a site; a name it does not know stays as it is.

    Examples
    --------
    >>> [short_site(name) for name in ("hook_embed", "blocks.0.hook_resid_mid", "blocks.3.attn.hook_z")]
    ['embed', '0 mid', '3 attn z']
    """
    name = site.replace("hook_", "")
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if block is None:
        return _WHOLE_NAMES.get(name, site)
    inside = block[2].removeprefix("resid_").replace(".", " ").replace("_", " ")
    return f"{block[1]} {inside}"
