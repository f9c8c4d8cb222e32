"""Attention heads: their scores as maps, the phase change in which they form, and what goes without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import TwoSlopeNorm
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from nextlens.analyses.displays import style
from nextlens.models.arguments import one_of

#: Colours of scores from 0 up, and of scores of either sign; both are read by colour-blind eyes and in grey.
UP, SIGNED = "cividis", "PuOr_r"
#: A map may be so wide or high, in inches; a cell is as large as that allows.
WIDEST, HIGHEST, CELL = 2.6, 4.6, 0.22


class HeadsDisplay:
    """Scores of every head: one map a score, layers upwards, heads to the right.

    A score from 0 up is shown from its chance level on, below which everything has the darkest colour; a
    score with values below 0 runs from -1 to 1 around white.

    Parameters
    ----------
    scores : mapping of str to array of shape (layer, head)
        At most 1 and at least -1.
    chance : mapping of str to number, optional
        What there would be without it, printed over the map.
    marked : sequence of (layer, head), optional
        Heads to be framed, in every map.
    layers : sequence of int, optional
        Numbers of the layers; from 0 on if None.
    caption : str, optional
        Tokens, sequences and seed, printed beneath figures that the display makes itself.

    Attributes
    ----------
    ax_, axes_, figure_, artists_
        After a ``plot`` method: axes, figure, and the image of each score drawn, by name.

    Raises
    ------
    ValueError
        If there is no score, shapes differ, a number is not finite or outside -1 to 1, or ``chance`` or
        ``marked`` names what is not there.
    """

    def __init__(
        self,
        *,
        scores: Mapping[str, object],
        chance: Mapping[str, float] | None = None,
        marked: Sequence[tuple[int, int]] = (),
        layers: Sequence[int] | None = None,
        caption: str | None = None,
    ):
        if not scores:
            raise ValueError("scores is empty; at least one is drawn")
        self.scores = {name: style.finite(f"scores[{name!r}]", one, "layer", "head") for name, one in scores.items()}
        first, shape = next((name, one.shape) for name, one in self.scores.items())
        for name, one in self.scores.items():
            style.same_shape(f"scores[{name!r}]", one, f"scores[{first!r}]", shape)
            if np.abs(one).max() > 1 + 1e-6:
                raise ValueError(
                    f"scores[{name!r}] reaches {one.flat[np.abs(one).argmax()]:.6g}; scores lie in -1 .. 1"
                )
        self.layers = list(range(shape[0]) if layers is None else layers)
        if len(self.layers) != shape[0]:
            raise ValueError(f"layers has {len(self.layers)} numbers; scores have {shape[0]} layers")
        self.chance = {one_of("chance", name, list(scores)): float(value) for name, value in (chance or {}).items()}
        self.marked = list(marked)
        for layer, head in self.marked:
            if layer not in self.layers or not 0 <= head < shape[1]:
                raise ValueError(f"marked holds {(layer, head)}; layers are {self.layers}, heads 0 .. {shape[1] - 1}")
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, which: str | None = None, title: str | None = None) -> HeadsDisplay:
        """Draw the map of one score, the first if ``which`` is None, on ``ax`` (a new figure if None)."""
        which = one_of("which", which or next(iter(self.scores)), list(self.scores))
        with style.printed():
            if ax is None:
                width, height = self._size()
                ax = style.new_figure(width + 1.1, height + 0.8).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            image = self._draw(ax, which, title)
        self.ax_, self.axes_, self.figure_, self.artists_ = ax, [ax], ax.figure, {which: image}
        return self

    def plot_grid(self, *, columns: int = 3) -> HeadsDisplay:
        """Draw the maps of all scores in a new figure, ``columns`` to a row."""
        rows = -(-len(self.scores) // columns)
        columns = min(columns, len(self.scores))
        with style.printed():
            width, height = self._size()
            figure = style.new_figure(columns * (width + 0.75) + 0.3, rows * (height + 0.55) + 0.3)
            style.caption_beneath(figure, self.caption)
            axes = figure.subplots(rows, columns, squeeze=False).flatten()
            self.artists_ = {name: self._draw(ax, name, None) for name, ax in zip(self.scores, axes, strict=False)}
            for ax in axes[len(self.scores) :]:
                ax.remove()
        self.axes_, self.ax_, self.figure_ = list(axes[: len(self.scores)]), axes[0], figure
        return self

    def _size(self) -> tuple[float, float]:
        n_layers, n_heads = next(iter(self.scores.values())).shape
        return max(1.3, min(WIDEST, CELL * n_heads)), max(0.6, min(HIGHEST, CELL * n_layers))

    def _draw(self, ax: Axes, which: str, title: str | None) -> AxesImage:
        values, chance = self.scores[which], self.chance.get(which)
        signed = values.min() < 0
        look = {"cmap": SIGNED, "norm": TwoSlopeNorm(0.0, -1.0, 1.0)} if signed else {"cmap": UP, "vmin": 0.0}
        if not signed:
            look["vmin"] = min(chance or 0.0, 0.95 * values.max())
        image = ax.imshow(values, aspect="auto", origin="lower", interpolation="nearest", **look)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.03, fraction=0.06, aspect=14)
        bar.outline.set_linewidth(0.4)
        bar.ax.yaxis.set_major_locator(MaxNLocator(4))
        for layer, head in self.marked:
            place = (head - 0.5, self.layers.index(layer) - 0.5)
            ax.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=style.OKABE_ITO[1], linewidth=1.2, zorder=3))
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        step = -(-len(self.layers) // 10)
        ax.set_yticks(range(0, len(self.layers), step), self.layers[::step])
        beside = "" if chance is None else f" (chance {chance:.2g})"
        ax.set(xlabel="head", ylabel="layer")
        ax.set_title(f"{which}{beside}" if title is None else title, fontsize=style.SMALLEST_TEXT)
        for side in ax.spines.values():
            side.set_visible(True)
        return image


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


class AblationDisplay:
    """How much of the in-context gain goes when heads are ablated: mean over seeds, and every seed a dot.

    Parameters
    ----------
    removed : mapping of str to array of shape (seed,)
        Shares, 1 if all goes; by what is ablated.
    claimed : sequence of str, optional
        Which of them are what is claimed, in colour; the others are controls, in grey.
    caption : str, optional

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and the dots of each bar, by name.

    Raises
    ------
    ValueError
        If there is nothing to draw, a number is not finite, or ``claimed`` names what is not there.
    """

    def __init__(self, *, removed: Mapping[str, object], claimed: Sequence[str] = (), caption: str | None = None):
        if not removed:
            raise ValueError("removed is empty; at least one ablation is drawn")
        self.removed = {name: style.finite(f"removed[{name!r}]", one, "seed") for name, one in removed.items()}
        self.claimed = [one_of("claimed", name, list(removed)) for name in claimed]
        self.caption = caption

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> AblationDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        with style.printed():
            if ax is None:
                ax = style.new_figure(style.SINGLE_COLUMN + 0.4, 0.8 + 0.3 * len(self.removed)).add_subplot()
                style.caption_beneath(ax.figure, self.caption)
            self.artists_: dict[str, PathCollection] = {}
            for place, (name, values) in enumerate(self.removed.items()):
                colour = style.OKABE_ITO[0] if name in self.claimed else "0.75"
                ax.barh(place, values.mean(), height=0.62, color=colour, alpha=0.85)
                spread = place + np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [place]
                self.artists_[name] = ax.scatter(values, spread, s=9, color=style.INK, zorder=3, linewidths=0)
            ax.axvline(0, color=style.INK, linewidth=0.6)
            ax.axvline(1, color=style.GREY, linestyle=style.DASHES[0], linewidth=0.8)
            ax.set_yticks(range(len(self.removed)), list(self.removed))
            ax.invert_yaxis()
            ax.set_xlabel("share of the in-context gain removed")
            if title is not None:
                ax.set_title(title)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _median(ax: Axes, steps: Float[np.ndarray, " step"], rows: Float[np.ndarray, "row step"], **look: object) -> Line2D:
    if len(rows) > 1:
        ax.plot(steps, rows.T, linewidth=0.5, alpha=0.5, **look)
    (line,) = ax.plot(steps, np.median(rows, axis=0), **look)
    return line
