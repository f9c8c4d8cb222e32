"""What a model predicts after its belief was edited: KL to what must follow, by site, beside the controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from nextlens.analyses.displays import style
from nextlens.analyses.displays.layers import short_site


class EditsDisplay:
    """KL from the exact counterfactual law to the model's, by the site that is edited; log axis.

    Edits are coloured, controls grey and dashed. Bars are intervals.

    Parameters
    ----------
    sites : iterable of str
        In the order in which the model computes them.
    edits, controls : mapping of str to array of shape (n_sites,)
        KL in nats, above 0; what is claimed, and what would be there without it. A control that is the
        same at every site, such as the untouched model, is one line.
    intervals : mapping of str to array of shape (n_sites, 2), optional
        Low and high ends, for some of the names; a low end at or below 0 is drawn down to the axis.
    caption : str, optional
        Protocol, pairs and seeds, printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and the line of each edit and control, by name.

    Raises
    ------
    ValueError
        If nothing is edited, a shape does not fit ``sites``, a number is not above 0, or a name is used twice
        or has an interval and no values.
    """

    def __init__(
        self,
        *,
        sites: Iterable[str],
        edits: Mapping[str, object],
        controls: Mapping[str, object] | None = None,
        intervals: Mapping[str, object] | None = None,
        caption: str | None = None,
    ):
        self.sites = list(sites)
        if not self.sites or not edits:
            raise ValueError(f"sites={self.sites!r} and edits of {list(edits)!r}: each must hold at least one")
        self.edits = {name: self._by_site(f"edits[{name!r}]", values) for name, values in edits.items()}
        controls = controls or {}
        self.controls = {name: self._by_site(f"controls[{name!r}]", values) for name, values in controls.items()}
        twice = sorted(self.edits.keys() & self.controls.keys())
        if twice:
            raise ValueError(f"{twice[0]!r} names an entry of edits and one of controls; each needs a name of its own")
        intervals = intervals or {}
        self.intervals = {name: self._intervals(name, ends) for name, ends in intervals.items()}
        unknown = sorted(self.intervals.keys() - self.edits.keys() - self.controls.keys())
        if unknown:
            raise ValueError(f"intervals name {unknown[0]!r}, which is neither an edit nor a control")
        self.lowest = min(values.min() for values in (self.edits | self.controls).values()) / 2
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> EditsDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN, 2.6).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            lines: dict[str, Artist] = {}
            for k, (name, values) in enumerate(self.controls.items()):
                dashes = style.DASHES[k % len(style.DASHES)]
                lines[name] = self._draw(ax, name, values, color=style.GREY, linestyle=dashes, linewidth=0.9)
            for k, (name, values) in enumerate(self.edits.items()):
                lines[name] = self._draw(ax, name, values, color=style.OKABE_ITO[k % len(style.OKABE_ITO)], marker="o")
            ax.set_xticks(range(len(self.sites)), [short_site(site) for site in self.sites])
            ax.set(xlim=(-0.3, len(self.sites) - 0.7), xlabel="edited at", ylabel="KL (nats)")
            ax.set(yscale="log", ylim=(self.lowest, None))
            if title is not None:
                ax.set_title(title)
            ends = [float(line.get_ydata()[-1]) for line in lines.values()]
            style.label_ends(ax, list(lines), ends, [line.get_color() for line in lines.values()])
        self.ax_, self.figure_, self.artists_ = ax, ax.figure, lines
        return self

    def _draw(self, ax: Axes, name: str, values: Float[np.ndarray, " site"], **look: object) -> Artist:
        (line,) = ax.plot(range(len(values)), values, **look)
        if name in self.intervals:
            ends = self.intervals[name].clip(self.lowest)
            ax.vlines(range(len(values)), *ends.T, color=line.get_color(), linewidth=0.8)
        return line

    def _by_site(self, name: str, values: object) -> Float[np.ndarray, " site"]:
        array = style.finite(name, values, "site")
        style.same_shape(name, array, "sites", (len(self.sites),))
        if array.min() <= 0:
            raise ValueError(f"{name} reaches {array.min():.6g}; on a log axis every number must be above 0")
        return array

    def _intervals(self, name: str, ends: object) -> Float[np.ndarray, "site bound"]:
        array = style.finite(f"intervals[{name!r}]", ends, "site", "bound")
        style.same_shape(f"intervals[{name!r}]", array, "sites", (len(self.sites), 2))
        return array
