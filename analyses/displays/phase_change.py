"""The phase change in which induction heads form: losses above, scores of heads below."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nextlens.analyses.displays import style


class PhaseChangeDisplay:
    """How the loss of late tokens falls away from that of early ones when induction heads form.

    Above, the loss of early and of late tokens against steps, for models that can and for a control that cannot;
    the least possible loss of late tokens is dashed. Below, the score of every head of those models. Thin
    lines are seeds, or heads; thick ones medians over seeds, or the highest head of each layer.

    Parameters
    ----------
    steps : array of shape (step,)
        Growing.
    early, late : mapping of str to array of shape (seed, step)
        Losses in nats, by model; the first is what the figure is about, the others are controls.
    best : number
        The least possible loss of late tokens.
    heads : mapping of str to array of shape (head, step), optional
        Scores of heads, by what they are called.
    quantity : str, default="head score"
        What the scores of heads are.
    caption : str, optional

    Attributes
    ----------
    axes_, figure_, artists_
        After :meth:`plot`: axes, figure, and the median lines, by ``(model, "early")`` and the like.

    Raises
    ------
    ValueError
        If ``steps`` do not grow, a shape does not fit them, a number is not finite, or models differ.
    """

    def __init__(
        self,
        *,
        steps: object,
        early: Mapping[str, object],
        late: Mapping[str, object],
        best: float,
        heads: Mapping[str, object] | None = None,
        quantity: str = "head score",
        caption: str | None = None,
    ):
        self.steps = style.finite("steps", steps, "step")
        if len(self.steps) < 2 or (np.diff(self.steps) <= 0).any():
            raise ValueError("steps must hold two or more numbers, each above the one before")
        if not early or list(early) != list(late):
            raise ValueError(
                f"early has {list(early)} and late {list(late)}; they must name the same models, at least one"
            )
        self.early = {name: self._rows(f"early[{name!r}]", one) for name, one in early.items()}
        self.late = {name: self._rows(f"late[{name!r}]", one) for name, one in late.items()}
        self.heads = {name: self._rows(f"heads[{name!r}]", one) for name, one in (heads or {}).items()}
        self.best = float(style.finite("best", best))
        self.quantity, self.caption = quantity, caption

    def plot(self) -> PhaseChangeDisplay:
        """Draw in a new figure."""
        with style.printed():
            figure = style.new_figure(style.SINGLE_COLUMN + 0.6, 4.0 if self.heads else 2.3)
            style.caption_beneath(figure, self.caption)
            axes = figure.subplots(2 if self.heads else 1, 1, sharex=True, squeeze=False)[:, 0]
            self.artists_: dict[tuple[str, str], Line2D] = {}
            self._draw_losses(axes[0])
            if self.heads:
                self._draw_heads(axes[1])
            axes[-1].set_xlabel("training steps")
            axes[0].set_xlim(self.steps[0], self.steps[-1])
        self.axes_, self.figure_ = list(axes), figure
        return self

    def _draw_losses(self, ax: Axes) -> None:
        names, heights, colours = [], [], []
        for k, model in enumerate(self.late):
            colour = style.OKABE_ITO[k % len(style.OKABE_ITO)]
            for kind, rows, dash in (("late", self.late[model], "-"), ("early", self.early[model], (0, (1, 1.2)))):
                line = _median(ax, self.steps, rows, color=colour, linestyle=dash)
                self.artists_[model, kind] = line
                names.append(f"{model}, {kind}")
                heights.append(float(line.get_ydata()[-1]))
                colours.append(colour)
        ax.axhline(self.best, color=style.GREY, linestyle=style.DASHES[0], linewidth=0.9)
        ax.set_ylabel("loss of tokens (nats)")
        ax.set_ylim(bottom=min(0.0, self.best) - 0.1)
        style.label_ends(ax, [*names, "least possible, late"], [*heights, self.best], [*colours, style.GREY])

    def _draw_heads(self, ax: Axes) -> None:
        names, heights, colours = [], [], []
        for k, (name, rows) in enumerate(self.heads.items()):
            colour = style.OKABE_ITO[(k + 2) % len(style.OKABE_ITO)]
            ax.plot(self.steps, rows.T, color=colour, linewidth=0.5, alpha=0.6)
            (line,) = ax.plot(self.steps, rows.max(0), color=colour)
            self.artists_[name, "highest"] = line
            names.append(name)
            heights.append(float(line.get_ydata()[-1]))
            colours.append(colour)
        ax.set(ylabel=self.quantity, ylim=(-0.02, 1.02))
        style.label_ends(ax, names, heights, colours)

    def _rows(self, name: str, values: object) -> Float[np.ndarray, "row step"]:
        rows = style.finite(name, np.atleast_2d(np.asarray(values, dtype=np.float64)), "row", "step")
        style.same_shape(name, rows, "steps", (len(rows), len(self.steps)))
        return rows


def _median(ax: Axes, steps: Float[np.ndarray, " step"], rows: Float[np.ndarray, "row step"], **look: object) -> Line2D:
    if len(rows) > 1:
        ax.plot(steps, rows.T, linewidth=0.5, alpha=0.5, **look)
    (line,) = ax.plot(steps, np.median(rows, axis=0), **look)
    return line
