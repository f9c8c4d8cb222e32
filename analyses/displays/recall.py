"""Copies of matched moments beside their controls, by configuration; and what a planted effect gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nextlens.analyses.displays import style


class RecallDisplay:
    """Differences with their intervals, a row a configuration, a panel a subject.

    Parameters
    ----------
    rows : sequence of str
        Configurations, the primary one first.
    differences : mapping of str to mapping of str to array of shape (n_rows, 3)
        By subject, then by what is subtracted: difference, low, high.
    quantity : str, default="r, matched less ..."
    caption : str, optional

    Attributes
    ----------
    axes_, figure_
        After :meth:`plot`.

    Raises
    ------
    ValueError
        If there is no row or subject, a shape does not fit, or a number is not finite.
    """

    def __init__(
        self,
        *,
        rows: Sequence[str],
        differences: Mapping[str, Mapping[str, object]],
        quantity: str = "r, matched less ...",
        caption: str | None = None,
    ):
        self.rows = list(rows)
        if not self.rows or not differences:
            raise ValueError(f"rows={self.rows!r}, differences of {list(differences)!r}: each must hold at least one")
        self.differences = {
            subject: {
                name: style.finite(f"differences[{subject!r}][{name!r}]", one, "row", "number")
                for name, one in several.items()
            }
            for subject, several in differences.items()
        }
        for several in self.differences.values():
            for name, one in several.items():
                style.same_shape(name, one, "rows", (len(self.rows), 3))
        self.quantity, self.caption = quantity, caption

    def plot(self) -> RecallDisplay:
        """Draw on a figure of its own."""
        with style.printed():
            n = len(self.differences)
            figure = style.new_figure(style.DOUBLE_COLUMN if n > 1 else 4.6, 1.1 + 0.28 * len(self.rows))
            self.axes_ = figure.subplots(1, n, sharey=True, sharex=True, squeeze=False)[0]
            style.caption_beneath(figure, self.caption)
            places = np.arange(len(self.rows))
            for ax, (subject, several) in zip(self.axes_, self.differences.items(), strict=True):
                ax.axvline(0, color=style.GREY, linewidth=0.5, zorder=0)
                for k, (name, values) in enumerate(several.items()):
                    shift = 0.0 if len(several) == 1 else (k / (len(several) - 1) - 0.5) * 0.36
                    colour = style.OKABE_ITO[k % len(style.OKABE_ITO)]
                    ax.hlines(places + shift, values[:, 1], values[:, 2], color=colour, linewidth=0.9)
                    ax.plot(values[:, 0], places + shift, "os^D"[k % 4], color=colour, markersize=3.5, label=name)
                ax.set_title(subject)
                ax.set_xlabel(self.quantity)
            self.axes_[0].set_yticks(places, self.rows)
            self.axes_[0].set_ylim(len(self.rows) - 0.5, -0.5)
            self.axes_[-1].legend(
                frameon=False, fontsize=style.SMALLEST_TEXT, loc="upper left", bbox_to_anchor=(1.0, 1.0)
            )
        self.figure_ = figure
        return self
