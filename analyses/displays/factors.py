"""How many directions activations fill, on the way and at the end, and whether factors keep to their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from nextlens.analyses.displays import style

#: Below this an overlap is written, and coloured, as this.
LEAST_OVERLAP = 1e-4


class FactorsDisplay:
    """Dimensions over training, scree, overlap of factors, and dimensions by noise: a panel each.

    Parameters
    ----------
    steps : array of shape (n_steps,)
        Growing, above 0; the axis is logarithmic.
    dimensions : array of shape (n_steps,) or (n_seeds, n_steps)
        Principal components that hold ``share`` of the variance.
    levels : mapping of str to number
        What theories of the representation ask for: one dashed line each.
    shares : mapping of str to array of shape (n_components,)
        Share of the variance in the first components, 0 to 1; names may have different lengths. Those that
        are among ``levels`` take their dashes.
    overlap : array of shape (n_factors, n_factors)
        0 to 1, symmetric.
    factors : iterable of str
        Names of the factors.
    noise : mapping of str to mapping of float to sequence of float, optional
        For each kind of noise, by its amount, the dimensions of every seed.
    noise_levels : mapping of str to number, optional
        As ``levels``, for that panel.
    share : float, default=0.95
    caption : str, optional
        Protocol and seeds, printed beneath.

    Attributes
    ----------
    axes_, figure_, artists_
        After :meth:`plot`: the axes by panel, the figure, and what holds the numbers, by name.

    Raises
    ------
    ValueError
        If a shape does not fit, a number is not finite or out of range, or ``steps`` do not grow.
    """

    def __init__(
        self,
        *,
        steps,
        dimensions,
        levels: Mapping[str, float | int],
        shares: Mapping[str, object],
        overlap,
        factors: Iterable[str],
        noise: Mapping[str, Mapping[float | int, object]] | None = None,
        noise_levels: Mapping[str, float | int] | None = None,
        share: float = 0.95,
        caption: str | None = None,
    ):
        self.steps = style.finite("steps", steps, "step")
        if not (np.diff(self.steps, prepend=0.0) > 0).all():
            raise ValueError(f"steps={self.steps.tolist()} must be above 0 and grow")
        axes = ("seed", "step") if np.ndim(dimensions) > 1 else ("step",)
        self.dimensions = np.atleast_2d(style.finite("dimensions", dimensions, *axes))
        style.same_shape("dimensions", self.dimensions, "steps", (len(self.dimensions), len(self.steps)))
        self.levels, self.noise_levels = dict(levels), dict(noise_levels or {})
        self.shares = {name: _shares(f"shares[{name!r}]", values) for name, values in shares.items()}
        self.factors = list(factors)
        self.overlap = style.finite("overlap", overlap, "factor", "other")
        style.same_shape("overlap", self.overlap, "factors", (len(self.factors),) * 2)
        if self.overlap.min() < 0 or self.overlap.max() > 1 + 1e-9:
            raise ValueError(f"overlap runs from {self.overlap.min():.6g} to {self.overlap.max():.6g}; it is 0 to 1")
        self.noise = {
            kind: {float(e): style.finite(f"noise[{kind!r}][{e}]", seeds, "seed") for e, seeds in sorted(found.items())}
            for kind, found in (noise or {}).items()
        }
        self.share, self.caption = share, caption

    def plot(self, *, title: str | None = None) -> FactorsDisplay:
        """Draw the whole figure, a double column wide."""
        panels = ["dimensions", "scree", "overlap"] + ["noise"] * bool(self.noise)
        with style.printed():
            figure = style.new_figure(style.DOUBLE_COLUMN, 4.8)
            figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
            style.caption_beneath(figure, self.caption)
            if title is not None:
                figure.suptitle(title, fontsize=8)
            places = figure.subplots(2, 2).ravel()
            for spare in places[len(panels) :]:
                spare.remove()
            self.axes_ = dict(zip(panels, places, strict=False))
            self.artists_: dict[str, Artist] = {}
            for name, ax in self.axes_.items():
                self.artists_ |= getattr(self, f"_{name}")(ax)
        self.figure_ = figure
        return self

    def _dimensions(self, ax: Axes) -> dict[str, Artist]:
        artists = _dashed(ax, self.levels)
        ax.plot(self.steps, self.dimensions.T, color=style.OKABE_ITO[0], linewidth=0.5, alpha=0.5)
        (line,) = ax.plot(self.steps, np.median(self.dimensions, axis=0), color=style.OKABE_ITO[0])
        ax.set(xscale="log", xlabel="steps of training", ylabel=f"dimensions ({self.share:.0%} of variance)")
        ax.set_ylim(0, 1.05 * max(self.dimensions.max(), *self.levels.values()))
        artists["trained"] = line
        _labelled(ax, artists)
        return artists

    def _scree(self, ax: Axes) -> dict[str, Artist]:
        artists = {}
        for k, (name, shares) in enumerate(self.shares.items()):
            theory = name in self.levels
            dashes = style.DASHES[list(self.levels).index(name) % len(style.DASHES)] if theory else "-"
            colour = style.GREY if theory else style.OKABE_ITO[k % len(style.OKABE_ITO)]
            axis = np.arange(1, len(shares) + 1)
            (artists[name],) = ax.plot(axis, shares, color=colour, linestyle=dashes, linewidth=0.9 if theory else 1.2)
        ax.axhline(self.share, color="0.8", linewidth=0.6, zorder=0)
        ax.set(xlabel="principal components", ylabel="variance held", ylim=(0, 1.03), xscale="log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        ax.legend(artists.values(), artists, frameon=False, fontsize=style.SMALLEST_TEXT, loc="lower right")
        return artists

    def _overlap(self, ax: Axes) -> dict[str, Artist]:
        shown = np.log10(self.overlap.clip(LEAST_OVERLAP, 1.0))
        image = ax.imshow(shown, cmap="cividis_r", vmin=np.log10(LEAST_OVERLAP), vmax=0.0)
        for i, j in np.ndindex(*self.overlap.shape):
            text = f"{self.overlap[i, j]:.2g}" if self.overlap[i, j] >= LEAST_OVERLAP else f"< {LEAST_OVERLAP:g}"
            ax.text(j, i, text, ha="center", va="center", fontsize=style.SMALLEST_TEXT, color=_ink(shown[i, j]))
        names = [name.replace("_", " ") for name in self.factors]
        ax.set_xticks(range(len(names)), names, rotation=20, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), names)
        ax.set_title("overlap of the factors' first directions")
        ax.spines[:].set_visible(False)
        return {"overlap": image}

    def _noise(self, ax: Axes) -> dict[str, Artist]:
        artists = _dashed(ax, self.noise_levels)
        for k, (kind, found) in enumerate(self.noise.items()):
            colour, shift = style.OKABE_ITO[(k + 1) % len(style.OKABE_ITO)], 0.004 * (2 * k - 1)
            amounts = np.array(list(found)) + shift
            (artists[kind],) = ax.plot(amounts, [seeds.mean() for seeds in found.values()], color=colour, marker="o")
            for at, seeds in zip(amounts, found.values(), strict=True):
                ax.plot(np.full(len(seeds), at), seeds, color=colour, marker="_", linestyle="", markersize=5, alpha=0.6)
        ax.set(xlabel="noise ε", ylabel=f"dimensions ({self.share:.0%} of variance)")
        top = max(
            max(seeds.max() for found in self.noise.values() for seeds in found.values()), *self.noise_levels.values()
        )
        ax.set_ylim(0, 1.1 * top)
        _labelled(ax, artists)
        return artists


def _dashed(ax: Axes, levels: Mapping[str, float | int]) -> dict[str, Artist]:
    return {
        name: ax.axhline(level, color=style.GREY, linestyle=style.DASHES[k % len(style.DASHES)], linewidth=0.9)
        for k, (name, level) in enumerate(levels.items())
    }


def _labelled(ax: Axes, artists: Mapping[str, Artist]) -> None:
    ends = [float(line.get_ydata()[-1]) for line in artists.values()]
    style.label_ends(ax, list(artists), ends, [line.get_color() for line in artists.values()])


def _shares(name: str, values: object) -> Float[np.ndarray, " component"]:
    array = style.finite(name, values, "component")
    if array.min() < 0 or array.max() > 1 + 1e-9 or (np.diff(array) < -1e-9).any():
        raise ValueError(f"{name} must grow from at least 0 to at most 1; it runs {array[0]:.6g} .. {array[-1]:.6g}")
    return array


def _ink(log_overlap: float) -> str:
    """Dark on the pale end of the colours, pale on the dark one."""
    return "white" if log_overlap > -1.6 else "black"
