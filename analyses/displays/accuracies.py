"""Accuracies of several models on the same predictions, each under two rules for ties, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from nextlens.analyses.displays import style


class AccuraciesDisplay:
    """One line a model: a full mark for the strict rule, a hollow one where every tie counts as right.

    Parameters
    ----------
    models : sequence of str
        From top to bottom.
    strict, inclusive : mapping of str to (mean, low, high)
        Shares, with the ends of their intervals.
    quantity : str
        Of the horizontal axis.
    caption : str, optional
        Printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and the marks of each rule.

    Raises
    ------
    ValueError
        If there is no model, a mapping lacks one, or a number is not finite.
    """

    RULES = ("strict", "tie-inclusive")

    def __init__(
        self,
        *,
        models: Sequence[str],
        strict: Mapping[str, Sequence[float]],
        inclusive: Mapping[str, Sequence[float]],
        quantity: str = "next tokens predicted, %",
        caption: str | None = None,
    ):
        if not models:
            raise ValueError("models is empty; there is nothing to draw")
        self.models, self.quantity, self.caption = list(models), quantity, caption
        self.values = {}
        for rule, given in zip(self.RULES, (strict, inclusive), strict=True):
            missing = [name for name in models if name not in given]
            if missing:
                raise ValueError(f"{rule} accuracies lack {missing[0]!r}; every model needs both")
            self.values[rule] = 100 * style.finite(rule, [given[name] for name in models], "model", "mean, low, high")
            if self.values[rule].shape[1] != 3:
                raise ValueError(f"{rule} holds {self.values[rule].shape[1]} numbers a model; give mean, low and high")

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> AccuraciesDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN, 0.7 + 0.21 * len(self.models)).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            places = np.arange(len(self.models))[::-1]
            self.artists_ = {}
            for rule, shift, colour, fill in (
                ("strict", 0.13, style.OKABE_ITO[0], style.OKABE_ITO[0]),
                ("tie-inclusive", -0.13, style.OKABE_ITO[1], "white"),
            ):
                mean, low, high = self.values[rule].T
                ax.hlines(places + shift, low, high, color=colour, linewidth=0.9)
                (self.artists_[rule],) = ax.plot(
                    mean, places + shift, "o", color=colour, markerfacecolor=fill, markersize=3.5, label=rule
                )
            ax.set_yticks(places, self.models)
            ax.set(ylim=(-0.6, len(self.models) - 0.4), xlabel=self.quantity)
            ax.set_xlim(left=min(0.0, *ax.get_xlim()))
            ax.grid(axis="x", color="0.9", linewidth=0.5)
            ax.set_axisbelow(True)
            ax.legend(
                loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=style.SMALLEST_TEXT
            )
            if title is not None:
                ax.set_title(title, pad=18)
        self.ax_, self.figure_ = ax, ax.figure
        return self
