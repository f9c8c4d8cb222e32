"""What each site gives of the belief, and all of them together, under rules that ask more and more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nextlens.analyses.displays import style
from nextlens.analyses.displays.layers import short_site


class SpreadDisplay:
    """R² by features, one colour a reading: filled for the trained model, hollow for its untrained twin.

    Parameters
    ----------
    scores : mapping of str to DataArray
        By the title of the panel; over (seed, model, reading, features), as
        :func:`~nextlens.analyses.spread_over_layers.spread_over_layers` gives ``r2`` for each seed. Models
        are "trained" and "untrained".
    caption : str, optional
        Printed beneath a figure that the display makes itself.

    Attributes
    ----------
    axes_, figure_
        After :meth:`plot`.

    Raises
    ------
    ValueError
        If there is no panel, a dimension is missing, or a score is not finite.
    """

    def __init__(self, *, scores: Mapping[str, xr.DataArray], caption: str | None = None):
        if not scores:
            raise ValueError("scores is empty; it must hold at least one panel")
        for title, panel in scores.items():
            missing = {"seed", "model", "reading", "features"} - set(panel.dims)
            if missing:
                raise ValueError(f"scores[{title!r}] has dims {panel.dims}; {sorted(missing)} must be among them")
            if not np.isfinite(panel.values).all():
                raise ValueError(f"scores[{title!r}] hold values that are not finite")
        self.scores = dict(scores)
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, panel: str | None = None) -> SpreadDisplay:
        """Draw one ``panel`` (the first if None) on ``ax``; or, without ``ax``, all on a figure of their own."""
        with style.printed():
            if ax is not None:
                self.axes_ = [self._panel(ax, panel or next(iter(self.scores)))]
                self.figure_ = ax.figure
                return self
            figure: Figure = style.new_figure(style.DOUBLE_COLUMN, 2.9)
            axes = figure.subplots(1, len(self.scores), sharey=True, squeeze=False)[0]
            self.axes_ = [self._panel(one, title) for one, title in zip(axes, self.scores, strict=True)]
            for other in self.axes_[1:]:
                other.set_ylabel("")
            handles, names = self.axes_[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False, fontsize=7)
            style.caption_beneath(figure, self.caption)
            self.figure_ = figure
        return self

    def _panel(self, ax: Axes, title: str) -> Axes:
        panel = self.scores[title].transpose("seed", "model", "reading", "features")
        places, n = np.arange(panel.sizes["features"]), panel.sizes["reading"]
        for k, reading in enumerate(panel.reading.values):
            shift, colour = (k - (n - 1) / 2) * 0.14, style.OKABE_ITO[k % len(style.OKABE_ITO)]
            for model, filled in (("untrained", False), ("trained", True)):
                values = panel.sel(model=model, reading=reading).values
                ax.vlines(places + shift, values.min(0), values.max(0), color=colour, linewidth=0.8)
                ax.plot(
                    places + shift,
                    values.mean(0),
                    linestyle="none",
                    marker="o",
                    markersize=3.5,
                    color=colour,
                    markerfacecolor=colour if filled else "white",
                    label=str(reading) if filled else None,
                )
        ax.axhline(0.0, color=style.GREY, linewidth=0.6)
        names = [short_site(str(one)).replace(", rank of one", "\n(rank of one)") for one in panel.features.values]
        ax.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
        ax.set(title=title, ylabel="R² of the belief", ylim=(min(-0.25, float(panel.min()) - 0.05), 1.02))
        return ax
