"""How well each layer of a model predicts a brain, beside what needs no model: a panel a subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from nextlens.analyses.displays import style
from nextlens.analyses.displays.layers import short_site


class LayerProfileDisplay:
    """Mean correlation by site, with intervals of its difference from a baseline, the baseline's line, and the null.

    Parameters
    ----------
    sites : sequence of str
        In the order in which the model computes them.
    scores : mapping of str to array of shape (n_sites,)
        By subject.
    baseline : mapping of str to number
        By subject: what the intervals are differences from.
    intervals : mapping of str to array of shape (2, n_sites), optional
        By subject: ends of ``score - baseline``. Drawn as bars from ``baseline + low`` to ``baseline + high``.
    null : mapping of str to number, optional
        By subject: 95 % of the null of the mean.
    chosen : mapping of str to str, optional
        By subject: the site chosen on training stories; it is ringed.
    baseline_name : str, default="vectors"
    caption : str, optional

    Attributes
    ----------
    axes_, figure_
        After :meth:`plot`.

    Raises
    ------
    ValueError
        If there is no subject, a shape does not fit ``sites``, or a number is not finite.
    """

    def __init__(
        self,
        *,
        sites: Sequence[str],
        scores: Mapping[str, object],
        baseline: Mapping[str, float],
        intervals: Mapping[str, object] | None = None,
        null: Mapping[str, float] | None = None,
        chosen: Mapping[str, str] | None = None,
        baseline_name: str = "vectors",
        caption: str | None = None,
    ):
        self.sites = list(sites)
        if not scores or not self.sites:
            raise ValueError(f"sites={self.sites!r} and scores of {list(scores)!r}: each must hold at least one")
        self.scores = {name: self._row(f"scores[{name!r}]", one) for name, one in scores.items()}
        self.baseline = {name: float(style.finite("baseline", baseline[name])) for name in self.scores}
        self.intervals = {
            name: style.finite(f"intervals[{name!r}]", one, "end", "site") for name, one in (intervals or {}).items()
        }
        for name, one in self.intervals.items():
            style.same_shape(f"intervals[{name!r}]", one, "sites", (2, len(self.sites)))
        self.null, self.chosen = dict(null or {}), dict(chosen or {})
        self.baseline_name, self.caption = baseline_name, caption

    def plot(self) -> LayerProfileDisplay:
        """Draw on a figure of its own, a panel a subject, all with one vertical axis."""
        with style.printed():
            width = style.SINGLE_COLUMN if len(self.scores) == 1 else style.DOUBLE_COLUMN
            figure = style.new_figure(width, 2.3)
            self.axes_ = figure.subplots(1, len(self.scores), sharey=True, squeeze=False)[0]
            style.caption_beneath(figure, self.caption)
            for ax, name in zip(self.axes_, self.scores, strict=True):
                self._panel(ax, name)
                ax.set_title(name)
            self.axes_[0].set(ylabel="mean correlation r", ylim=(0, None))
            self.axes_[-1].legend(
                frameon=False, fontsize=style.SMALLEST_TEXT, loc="upper left", bbox_to_anchor=(1.0, 1.0)
            )
        self.figure_ = figure
        return self

    def _panel(self, ax, name: str) -> None:
        places, values, base = np.arange(len(self.sites)), self.scores[name], self.baseline[name]
        ax.axhline(base, color=style.OKABE_ITO[1], linestyle=style.DASHES[0], label=self.baseline_name)
        if name in self.null:
            ax.axhspan(0, self.null[name], color="0.85", linewidth=0, label="null, 95 %")
        if name in self.intervals:
            low, high = base + self.intervals[name]
            ax.vlines(places, low, high, color=style.OKABE_ITO[0], linewidth=0.8)
        ax.plot(places, values, "o-", color=style.OKABE_ITO[0], label="states")
        if name in self.chosen:
            at = self.sites.index(self.chosen[name])
            ax.plot([at], [values[at]], "o", markersize=8, markerfacecolor="none", color=style.INK, label="chosen")
        labels = [short_site(site).removesuffix(" post") for site in self.sites]
        ax.set_xticks(places, labels)
        ax.set_xlabel("after block" if any(site.endswith("resid_post") for site in self.sites) else "site")

    def _row(self, name: str, values: object) -> Float[np.ndarray, " site"]:
        found = style.finite(name, values, "site")
        style.same_shape(name, found, "sites", (len(self.sites),))
        return found
