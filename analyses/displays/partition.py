"""What each feature space gives: its share of one joint fit, and what is lost without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nextlens.analyses.displays import style


class PartitionDisplay:
    """Two panels over the bands: the product measure's share of r, and r lost when the band is left out.

    Parameters
    ----------
    bands : sequence of str
    shares : mapping of str to array of shape (n_bands,)
        By subject; they sum to the r of the joint fit.
    lost : mapping of str to mapping of str to (difference, low, high), optional
        By subject, then by band; a band that was never left out has none.
    caption : str, optional

    Attributes
    ----------
    axes_, figure_
        After :meth:`plot`.

    Raises
    ------
    ValueError
        If there is no subject or band, a shape does not fit, or a number is not finite.
    """

    def __init__(
        self,
        *,
        bands: Sequence[str],
        shares: Mapping[str, object],
        lost: Mapping[str, Mapping[str, tuple[float, float, float]]] | None = None,
        caption: str | None = None,
    ):
        self.bands = list(bands)
        if not self.bands or not shares:
            raise ValueError(f"bands={self.bands!r} and shares of {list(shares)!r}: each must hold at least one")
        self.shares = {name: style.finite(f"shares[{name!r}]", one, "band") for name, one in shares.items()}
        for name, one in self.shares.items():
            style.same_shape(f"shares[{name!r}]", one, "bands", (len(self.bands),))
        self.lost = {
            name: {band: style.finite(f"lost[{name!r}][{band!r}]", three, "number") for band, three in one.items()}
            for name, one in (lost or {}).items()
        }
        unknown = {band for one in self.lost.values() for band in one} - set(self.bands)
        if unknown:
            raise ValueError(f"lost names {min(unknown)!r}, which is not one of the bands {self.bands}")
        self.caption = caption

    def plot(self) -> PartitionDisplay:
        """Draw on a figure of its own."""
        with style.printed():
            figure = style.new_figure(style.DOUBLE_COLUMN, 0.9 + 0.32 * len(self.bands))
            self.axes_ = figure.subplots(1, 2, sharey=True)
            style.caption_beneath(figure, self.caption)
            places, n = np.arange(len(self.bands)), len(self.shares)
            for k, (name, values) in enumerate(self.shares.items()):
                shift = 0.0 if n == 1 else (k - (n - 1) / 2) * 0.5 / (n - 1)
                look = {"color": style.OKABE_ITO[k % len(style.OKABE_ITO)], "marker": "os^Dv<"[k % 6], "markersize": 4}
                self.axes_[0].plot(values, places + shift, linestyle="none", label=name, **look)
                for band, (gap, low, high) in self.lost.get(name, {}).items():
                    at = self.bands.index(band) + shift
                    self.axes_[1].plot([low, high], [at, at], color=look["color"], linewidth=0.9)
                    self.axes_[1].plot([gap], [at], **look)
            for ax, label in zip(self.axes_, ("share of r, joint fit", "r lost without it, 95 %"), strict=True):
                ax.axvline(0, color=style.GREY, linewidth=0.5, zorder=0)
                ax.set_xlabel(label)
                ax.margins(x=0.08)
            self.axes_[0].set_yticks(places, self.bands)
            self.axes_[0].set_ylim(len(self.bands) - 0.5, -0.5)
            self.axes_[1].legend(
                *self.axes_[0].get_legend_handles_labels(),
                frameon=False,
                fontsize=style.SMALLEST_TEXT,
                loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
            )
        self.figure_ = figure
        return self
