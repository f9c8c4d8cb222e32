"""What reinforcement changed in a model: what probes read before and after, the decision, and how far states moved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from nextlens.analyses.displays import style

#: How before and after are drawn: colour, marker, line.
LOOKS = (
    {"color": style.OKABE_ITO[0], "marker": "o", "linestyle": "-"},
    {"color": style.OKABE_ITO[1], "marker": "s", "linestyle": (0, (2, 1.2))},
)


class ReinforcementDisplay:
    """Three panels: probes of the parity along the chain, the decision to go on, and how far the last state moved.

    Parameters
    ----------
    next_parity : mapping of str to array of shape (seed, place)
        Held-out accuracy of the parity that the next token of the chain says; place 0 is the separator. Two
        models, before and after.
    full_parity : mapping of str to array of shape (seed,)
        Of the parity of all bits, at the separator.
    stop : mapping of str to array of shape (seed,)
        P(END) after a first token that fits the chain.
    theory : number
        What ``stop`` is, in theory, before reinforcement.
    state : array of shape (seed, place)
        How far the last state moved, as a share of its length.
    caption : str, optional

    Attributes
    ----------
    axes_, figure_, artists_
        After :meth:`plot`: axes, figure, and lines or dots by panel and model.

    Raises
    ------
    ValueError
        If there are not two models, the same everywhere, a shape differs, or a number is not finite.
    """

    def __init__(
        self,
        *,
        next_parity: Mapping[str, object],
        full_parity: Mapping[str, object],
        stop: Mapping[str, object],
        theory: float,
        state: object,
        caption: str | None = None,
    ):
        names = list(next_parity)
        if len(names) != 2 or list(full_parity) != names or list(stop) != names:
            raise ValueError(
                f"next_parity has {names}, full_parity {list(full_parity)} and stop {list(stop)}; "
                "they must name the same two models"
            )
        self.state = style.finite("state", state, "seed", "place")
        shape = self.state.shape
        self.next_parity = {name: _of("next_parity", name, one, shape) for name, one in next_parity.items()}
        self.full_parity = {name: _of("full_parity", name, one, shape[:1]) for name, one in full_parity.items()}
        self.stop = {name: _of("stop", name, one, shape[:1]) for name, one in stop.items()}
        self.theory, self.caption = float(style.finite("theory", theory)), caption

    def plot(self) -> ReinforcementDisplay:
        """Draw in a new figure."""
        with style.printed():
            figure = style.new_figure(style.DOUBLE_COLUMN, 2.5)
            style.caption_beneath(figure, self.caption)
            axes = figure.subplots(1, 3, width_ratios=(2.2, 1, 1.7))
            self.artists_: dict[tuple[str, str], Artist] = {}
            self._draw_probes(axes[0])
            self._draw_decision(axes[1])
            self._draw_state(axes[2])
        self.axes_, self.figure_ = list(axes), figure
        return self

    def _draw_probes(self, ax: Axes) -> None:
        places = np.arange(self.state.shape[1])
        for k, ((name, rows), look) in enumerate(zip(self.next_parity.items(), LOOKS, strict=True)):
            (line,) = ax.plot(places, rows.mean(0), markersize=3, **look)
            ax.fill_between(places, rows.min(0), rows.max(0), color=look["color"], alpha=0.2, linewidth=0)
            self.artists_["next parity", name] = line
            spots = np.full(len(rows), -1.2 + 0.5 * k)
            dots = ax.scatter(
                spots, self.full_parity[name], s=14, color=look["color"], marker=look["marker"], label=name
            )
            self.artists_["full parity", name] = dots
        ax.axhline(0.5, color=style.GREY, linestyle=style.DASHES[0], linewidth=0.8)
        ax.annotate("chance", (places[-1], 0.5), (0, 3), textcoords="offset points", ha="right", **_small(style.GREY))
        ax.annotate("next parity", (places[-1] / 2, 1), (0, -11), textcoords="offset points", ha="center", **_small())
        highest = max(float(values.max()) for values in self.full_parity.values())
        words = "parity of all bits,\nread at the separator"
        ax.annotate(words, (-1.2, highest), (-3, 5), textcoords="offset points", va="bottom", **_small())
        ax.xaxis.set_major_locator(FixedLocator(places[:: max(1, len(places) // 5)]))
        ax.set(xlabel="token of the chain (0: separator)", ylabel="probe accuracy, held out", ylim=(0.4, 1.04))
        ax.legend(frameon=False, fontsize=style.SMALLEST_TEXT, loc="center right", title_fontsize=style.SMALLEST_TEXT)

    def _draw_decision(self, ax: Axes) -> None:
        for k, ((name, values), look) in enumerate(zip(self.stop.items(), LOOKS, strict=True)):
            ax.bar(k, values.mean(), width=0.6, color=look["color"], alpha=0.45)
            spread = k + np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.array([float(k)])
            self.artists_["stop", name] = ax.scatter(
                spread, values, s=12, color=look["color"], marker=look["marker"], zorder=3
            )
        ax.axhline(self.theory, color=style.GREY, linestyle=style.DASHES[0], linewidth=0.9)
        ax.annotate("theory", (1.45, self.theory), (0, 3), textcoords="offset points", ha="right", **_small(style.GREY))
        ax.set_xticks(range(len(self.stop)), list(self.stop))
        ax.set(ylabel="P(end | first token fits)", ylim=(0, 1), xlim=(-0.5, 1.5))

    def _draw_state(self, ax: Axes) -> None:
        places = np.arange(self.state.shape[1])
        (line,) = ax.plot(places, self.state.mean(0), color=style.INK, marker="o", markersize=3)
        ax.fill_between(places, self.state.min(0), self.state.max(0), color=style.INK, alpha=0.15, linewidth=0)
        self.artists_["state", "moved"] = line
        ax.set(xlabel="token of the chain (0: separator)", ylabel="last state moved (share of length)")
        ax.set_ylim(bottom=0)


def _of(what: str, name: str, values: object, shape: tuple[int, ...]) -> Float[np.ndarray, "*any"]:
    array = style.finite(f"{what}[{name!r}]", values, *("seed", "place")[: len(shape)])
    style.same_shape(f"{what}[{name!r}]", array, "state", shape)
    return array


def _small(colour: str = style.INK) -> dict[str, object]:
    return {"fontsize": style.SMALLEST_TEXT, "color": colour}
