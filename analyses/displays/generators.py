"""Minimal generators against classical memory: a score of both by process and architecture, and how they fall."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from nextlens.analyses.displays import style
from nextlens.analyses.displays.emergence import count

MARKERS = ("o", "s", "^", "D")

#: One score of each target: ``{process: {architecture: {target: number of each seed}}}``.
Scores = Mapping[str, Mapping[str, Mapping[str, object]]]


class GeneratorsDisplay:
    """A score of each target by process and architecture: filled marks trained, open marks untrained twins.

    A mark is the mean over seeds, with a line over their range; a grey bar the published range. What lies
    outside the axis, such as a negative R² of an untrained twin, is drawn at its edge.

    Parameters
    ----------
    scores : mapping of process to mapping of architecture to mapping of target to array of shape (n_seeds,)
        Up to four targets, the same everywhere.
    untrained : mapping, optional
        The same for untrained twins.
    published : mapping of target to mapping of process to (low, high), optional
    quantity : str
        What the numbers are, at most 1.
    caption : str, optional
        Protocol, folds and seeds, printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and the marks of each target by its name.

    Raises
    ------
    ValueError
        If nothing is scored, models have different targets, or a number is not finite.
    """

    def __init__(
        self,
        *,
        scores: Scores,
        untrained: Scores | None = None,
        published: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
        quantity: str = "R² of cosines",
        caption: str | None = None,
    ):
        self.scores = _checked("scores", scores)
        self.untrained = {} if untrained is None else _checked("untrained", untrained)
        self.targets = list(next(iter(self.scores.values())))
        for name, group in (*self.scores.items(), *self.untrained.items()):
            if list(group) != self.targets or name not in self.scores:
                raise ValueError(
                    f"the model {name} has targets {list(group)}; each must have {self.targets}, and a trained model"
                )
        if len(self.targets) > len(MARKERS):
            raise ValueError(f"scores hold {len(self.targets)} targets; at most {len(MARKERS)} can be told apart")
        self.published = published or {}
        self.quantity, self.caption = quantity, caption

    def plot(self, ax: Axes | None = None, *, legend: bool = True, title: str | None = None) -> GeneratorsDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.DOUBLE_COLUMN, 2.6).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            places = self._places()
            ax.set(ylim=(-0.04, 1.04), xlim=(-0.6, max(places.values()) + 0.6), ylabel=self.quantity)
            self._draw_published(ax, places)
            self.artists_ = {target: self._draw_target(ax, places, i) for i, target in enumerate(self.targets)}
            ax.set_xticks(list(places.values()), [kind for _, kind in places], rotation=30, ha="right")
            ax.tick_params(axis="x", length=0)
            for name in dict.fromkeys(name for name, _ in places):
                at = [place for (of, _), place in places.items() if of == name]
                ax.text(np.mean(at), 1.02, name, transform=ax.get_xaxis_transform(), ha="center", va="bottom")
                if at[0] > 0:
                    ax.axvline(at[0] - 0.8, color="0.85", linewidth=0.6, zorder=0)
            if legend:
                ax.legend(handles=self._legend(), loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
            if title is not None:
                ax.set_title(title, pad=16, loc="left")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _places(self) -> dict[tuple[str, str], float]:
        """Where each model stands: architectures 1 apart, processes 1.6."""
        places, at, before = {}, 0.0, None
        for name, kind in self.scores:
            if before is not None:
                at += 1.0 if name == before else 1.6
            places[name, kind], before = at, name
        return places

    def _shift(self, index: int) -> float:
        return 0.3 * (index - (len(self.targets) - 1) / 2)

    def _draw_target(self, ax: Axes, places: Mapping[tuple[str, str], float], index: int) -> Artist:
        target, colour = self.targets[index], style.OKABE_ITO[index]
        look = {"marker": MARKERS[index], "color": colour, "linestyle": "", "clip_on": False}
        for model, group in self.untrained.items():
            at, low = places[model] + self._shift(index), float(group[target].mean().clip(ax.get_ylim()[0]))
            ax.plot([at], [low], **look, markerfacecolor="white", zorder=2)
        at = np.array([places[model] + self._shift(index) for model in self.scores])
        values = [group[target] for group in self.scores.values()]
        ends = np.array([(one.min(), one.max()) for one in values]).clip(*ax.get_ylim())
        ax.vlines(at, ends[:, 0], ends[:, 1], color=colour, linewidth=1.0, zorder=3)
        means = np.array([one.mean() for one in values]).clip(*ax.get_ylim())
        (marks,) = ax.plot(at, means, **look, zorder=4)
        return marks

    def _draw_published(self, ax: Axes, places: Mapping[tuple[str, str], float]) -> None:
        for index, target in enumerate(self.targets):
            for name, (low, high) in self.published.get(target, {}).items():
                at = [place + self._shift(index) for (of, _), place in places.items() if of == name]
                height = max(high - low, 0.012)
                ax.bar(at, height, 0.26, bottom=(low + high - height) / 2, color="0.82", zorder=1)

    def _legend(self) -> list[Artist]:
        handles: list[Artist] = [
            Line2D([], [], marker=MARKERS[i], color=style.OKABE_ITO[i], linestyle="", label=target)
            for i, target in enumerate(self.targets)
        ]
        if self.untrained:
            handles.append(
                Line2D([], [], marker="o", color=style.GREY, markerfacecolor="white", linestyle="", label="untrained")
            )
        if self.published:
            handles.append(Patch(color="0.82", label="published"))
        return handles


class RivalCurvesDisplay:
    """The error of each target against words seen in training, relative to that before it: a panel for each process.

    Colours are targets, dashes architectures; thin lines are seeds, thick ones their median.

    Parameters
    ----------
    words : mapping of process to mapping of architecture to array of shape (n_moments,)
        Words seen, growing from 0.
    errors : mapping of process to mapping of architecture to mapping of target to array (n_seeds, n_moments)
        Above 0 at the first moment.
    caption : str, optional

    Attributes
    ----------
    axes_, figure_, artists_
        After :meth:`plot`: axes, figure, and the median line of each (process, architecture, target).

    Raises
    ------
    ValueError
        If there is nothing to draw, a shape does not fit, words do not grow from 0, or an error is not finite, or
        not above 0 at first.
    """

    def __init__(
        self,
        *,
        words: Mapping[str, Mapping[str, object]],
        errors: Mapping[str, Mapping[str, Mapping[str, object]]],
        caption: str | None = None,
    ):
        self.curves: dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray]] = {}
        for name, kinds in errors.items():
            for kind, targets in kinds.items():
                seen = style.finite(f"words[{name!r}][{kind!r}]", words[name][kind], "moment")
                if seen[0] != 0 or (np.diff(seen) <= 0).any():
                    raise ValueError(f"words[{name!r}][{kind!r}]={seen.tolist()} must grow from 0")
                for target, values in targets.items():
                    called = f"errors[{name!r}][{kind!r}][{target!r}]"
                    array = style.finite(called, values, "seed", "moment")
                    style.same_shape(called, array, "words", (len(array), len(seen)))
                    if not (array[:, 0] > 0).all():
                        raise ValueError(f"{called} begins with {array[:, 0].min():g}; it must be above 0")
                    self.curves[name, kind, target] = seen, array / array[:, :1]
        if not self.curves:
            raise ValueError("errors is empty; there must be at least one model")
        self.caption = caption

    def plot(self, axes: Iterable[Axes] | None = None) -> RivalCurvesDisplay:
        """Draw one panel a process, side by side (in a new figure if ``axes`` is None).

        Raises
        ------
        ValueError
            If there is not one of ``axes`` for each process.
        """
        names = list(dict.fromkeys(name for name, _, _ in self.curves))
        with style.printed():
            if axes is None:
                figure = style.new_figure(max(style.SINGLE_COLUMN + 1.2, style.DOUBLE_COLUMN * len(names) / 4), 2.3)
                axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
                style.caption_beneath(figure, self.caption)
            axes = list(axes)
            if len(axes) != len(names):
                raise ValueError(f"axes has {len(axes)} entries; there are {len(names)} processes")
            self.artists_ = {}
            for ax, name in zip(axes, names, strict=True):
                self._panel(ax, name)
            axes[0].set_ylabel("RMSE / RMSE before training")
            axes[-1].legend(
                handles=self._legend(), loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=2.4
            )
        self.axes_, self.figure_ = axes, axes[0].figure
        return self

    def _panel(self, ax: Axes, name: str) -> None:
        for curve, (seen, values) in self.curves.items():
            if curve[0] != name:
                continue
            look = {"color": self._colour(curve[2]), "linestyle": self._dash(curve[1])}
            ax.plot(seen[1:], values[:, 1:].T, linewidth=0.4, alpha=0.5, **look)
            (self.artists_[curve],) = ax.plot(seen[1:], np.median(values, axis=0)[1:], **look)
        ax.set(xscale="log", xlabel="words seen", title=name)
        ax.xaxis.set_major_formatter(lambda seen, _: count(seen))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_ylim(0, None)

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(kind for _, kind, _ in self.curves))

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(target for _, _, target in self.curves))

    def _colour(self, target: str) -> str:
        return style.OKABE_ITO[self.targets.index(target)]

    def _dash(self, kind: str) -> object:
        return ("solid", *style.DASHES)[self.kinds.index(kind)]

    def _legend(self) -> list[Artist]:
        colours = [Line2D([], [], color=self._colour(target), label=target) for target in self.targets]
        return colours + [
            Line2D([], [], color=style.GREY, linestyle=self._dash(kind), label=kind) for kind in self.kinds
        ]


def _checked(name: str, scores: Scores) -> dict[tuple[str, str], dict[str, Float[np.ndarray, " seed"]]]:
    found = {
        (process, kind): {
            target: style.finite(f"{name}[{process!r}][{kind!r}][{target!r}]", values, "seed")
            for target, values in targets.items()
        }
        for process, kinds in scores.items()
        for kind, targets in kinds.items()
    }
    if not found or not all(found.values()):
        raise ValueError(f"{name} is empty; there must be at least one model with at least one target")
    return found
