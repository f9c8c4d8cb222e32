"""Scores of every target beside what chance and noise allow: few targets one by one, many by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from nextlens.analyses.displays import style

#: Targets that are shown one by one, at most.
FEW = 16


class TargetScoresDisplay:
    """Correlations of targets under some models, with the 95 % of the null and, where there is one, the ceiling.

    Few targets stand one by one: a dot a model, a grey bar from 0 to the null, a dash at the ceiling. Many are put in
    order of their score, for each model by itself, and the null and ceiling are those of the first model's order.

    Parameters
    ----------
    scores : mapping of str to array of shape (n_targets,)
        r by model; the first is the one that null and ceiling stand beside.
    null : array of shape (n_targets,)
        The 95 % quantile of each target's null.
    ceiling : array of shape (n_targets,), optional
        NaN where a target has none.
    names : sequence of str, optional
        Of targets, shown if they are few.
    caption : str, optional

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`.

    Raises
    ------
    ValueError
        If there is no model, shapes differ, or a score is not finite.
    """

    def __init__(
        self,
        *,
        scores: Mapping[str, object],
        null: object,
        ceiling: object | None = None,
        names: Sequence[str] | None = None,
        caption: str | None = None,
    ):
        if not scores:
            raise ValueError("scores is empty; at least one model is needed")
        self.scores = {name: style.finite(f"scores[{name!r}]", one, "target") for name, one in scores.items()}
        first = next(iter(self.scores.values()))
        self.null = style.finite("null", null, "target")
        for name, one in {**self.scores, "null": self.null}.items():
            style.same_shape(name, one, "the first model", first.shape)
        self.ceiling = None if ceiling is None else np.asarray(ceiling, dtype=np.float64)
        if self.ceiling is not None:
            style.same_shape("ceiling", self.ceiling, "the first model", first.shape)
        self.names = [str(name) for name in names] if names is not None else [str(i) for i in range(len(first))]
        if len(self.names) != len(first):
            raise ValueError(f"names has {len(self.names)} entries for {len(first)} targets")
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> TargetScoresDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(4.4, 2.4).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            few = len(self.null) <= FEW
            self.artists_ = self._one_by_one(ax) if few else self._by_rank(ax)
            ax.axhline(0, color=style.GREY, linewidth=0.5, zorder=0)
            ax.set_ylabel("correlation r")
            if title is not None:
                ax.set_title(title)
            ax.legend(frameon=False, fontsize=style.SMALLEST_TEXT, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _one_by_one(self, ax: Axes) -> dict[str, object]:
        places = np.arange(len(self.null))
        made: dict[str, object] = {}
        made["null, 95 %"] = ax.bar(places, self.null, width=0.7, color="0.85", label="null, 95 %", zorder=1)
        if self.ceiling is not None and np.isfinite(self.ceiling).any():
            made["ceiling"] = ax.hlines(
                self.ceiling, places - 0.35, places + 0.35, color=style.INK, linewidth=1.0, label="ceiling"
            )
        shifts = np.linspace(-0.2, 0.2, len(self.scores)) if len(self.scores) > 1 else np.zeros(1)
        for k, (name, values) in enumerate(self.scores.items()):
            colour = style.OKABE_ITO[k % len(style.OKABE_ITO)]
            (made[name],) = ax.plot(
                places + shifts[k], values, "os^Dv<"[k % 6], color=colour, label=name, markersize=4, zorder=3
            )
        slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if sum(map(len, self.names)) > 30 else {}
        ax.set_xticks(places, self.names, **slant)
        return made

    def _by_rank(self, ax: Axes) -> dict[str, object]:
        rank = np.arange(1, len(self.null) + 1)
        made: dict[str, object] = {}
        order = np.argsort(-next(iter(self.scores.values())), kind="stable")
        made["null, 95 %"] = ax.fill_between(
            rank, 0, self.null[order], color="0.85", linewidth=0, label="null, 95 %", zorder=1
        )
        if self.ceiling is not None and np.isfinite(self.ceiling).any():
            (made["ceiling"],) = ax.plot(
                rank, self.ceiling[order], ".", color=style.GREY, markersize=1.5, label="ceiling", zorder=2
            )
        for k, (name, values) in enumerate(self.scores.items()):
            look = {"color": style.OKABE_ITO[k % len(style.OKABE_ITO)], "label": f"{name}, mean {values.mean():.3f}"}
            (made[name],) = ax.plot(rank, np.sort(values)[::-1], zorder=3, **look)
        ax.set(xlabel="target, by rank", xlim=(1, len(rank)))
        return made
