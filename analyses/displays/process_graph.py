"""A process as a graph: states, and arrows labelled with what is emitted and how likely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from math import comb

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, TextArea, VPacker
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.path import Path

from nextlens.analyses.displays import style

#: Lengths in units of the circle's radius, which figures of our own draw ``RADIUS`` inches long.
NODE, LOOP, RADIUS = 0.18, 0.55, 0.85

#: Inches that a figure's layout leaves free around its axes.
PADDING = 0.09

#: Up to this many states, every order around the circle is tried.
ORDERED = 7


class ProcessDisplay:
    """States on a circle, and one arrow for each pair of states that some token joins.

    An arrow carries a line ``token: probability`` (three digits) per token, where the probability is
    ``transition[token, state, next_state]``, that of emitting the token and moving there. Its width grows
    with their sum; it has its token's colour if it has but one. States that are joined are neighbours on
    the circle as far as possible. Readable up to about six states.

    Parameters
    ----------
    transition : array of shape (n_tokens, n_states, n_states)
        Joint weights of token and next state given the state. Entries of a generalized HMM may be negative.
    state_names, token_names : sequence of str, optional
        Numbers from 0 by default.
    name : str, default=""
        Of the process, written in the picture's upper left corner.

    Attributes
    ----------
    ax_, figure_, artists_
        After :meth:`plot`: axes, figure, and the arrow of each ``(state, next_state)``.

    Raises
    ------
    ValueError
        If ``transition`` is not square in its last two axes or not finite, or names are too many or too few.
    """

    def __init__(
        self,
        *,
        transition,
        state_names: Sequence[str] | None = None,
        token_names: Sequence[str] | None = None,
        name: str = "",
    ):
        self.transition = style.finite("transition", transition, "token", "state", "next state")
        n_tokens, n_states, _ = self.transition.shape
        style.same_shape("transition", self.transition, "its second axis", (n_tokens, n_states, n_states))
        if not self.transition.any():
            raise ValueError(f"transition of shape {self.transition.shape} is zero everywhere: no token leads anywhere")
        self.state_names = _names("state_names", state_names, n_states)
        self.token_names = _names("token_names", token_names, n_tokens)
        self.name = name

    def plot(self, ax: Axes | None = None, *, title: str | None = None) -> ProcessDisplay:
        """Draw on ``ax`` (a new figure if None)."""
        low, high = self._limits()
        with style.printed():
            if ax is None:
                width, height = RADIUS * (high - low) + PADDING
                ax = style.new_figure(float(width), float(height)).add_subplot()
            ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
            ax.set_aspect("equal")
            ax.spines[:].set_visible(False)
            self.artists_ = {curve.ends: self._draw_arrow(ax, curve) for curve in self.curves}
            self._draw_labels(ax)
            self._draw_states(ax)
            if self.name:
                ax.text(0.0, 1.0, self.name, transform=ax.transAxes, ha="left", va="top", color=style.INK)
            if title is not None:
                ax.set_title(title)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def labels(self, state: int, next_state: int) -> list[tuple[int, str]]:
        """``(token, "token: probability")`` of every token that leads from ``state`` to ``next_state``."""
        weights = self.transition[:, state, next_state]
        return [(int(k), f"{self.token_names[k]}: {_brief(weights[k])}") for k in np.flatnonzero(weights)]

    @cached_property
    def joined(self) -> Bool[np.ndarray, "state state"]:
        """Whether any token leads from the first state to the second."""
        return (self.transition != 0).any(axis=0)

    @cached_property
    def places(self) -> Float[np.ndarray, "state 2"]:
        """Where each state stands."""
        return circle(self.joined)

    @cached_property
    def curves(self) -> list[Curve]:
        """One curve for each pair of joined states."""
        return [
            loop(self.places[state], state)
            if state == following
            else arc(self.places, state, following, returns=bool(self.joined[following, state]))
            for state, following in np.argwhere(self.joined).tolist()
        ]

    def _draw_arrow(self, ax: Axes, curve: Curve) -> FancyArrowPatch:
        weights = self.transition[:, *curve.ends]
        tokens = np.flatnonzero(weights)
        arrow = FancyArrowPatch(
            path=curve.path,
            arrowstyle="-|>,head_length=3.5,head_width=1.8",
            color=_colour(int(tokens[0])) if len(tokens) == 1 else "0.55",
            linewidth=0.6 + 1.2 * float(np.clip(np.abs(weights).sum(), 0.0, 1.0)),
            shrinkA=0,
            shrinkB=0,
            zorder=1,
        )
        return ax.add_patch(arrow)

    def _draw_labels(self, ax: Axes) -> None:
        spans = np.array([np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())])
        inch = float((np.divide(ax.get_window_extent().size, ax.figure.dpi) / spans).min())
        places = label_places(self.curves, self._label_sizes() / inch, self.places)
        for curve, place in zip(self.curves, places, strict=True):
            rows = [
                TextArea(text, textprops={"color": _colour(token), "size": style.SMALLEST_TEXT})
                for token, text in self.labels(*curve.ends)
            ]
            box = VPacker(children=rows, pad=0, sep=1, align="left")
            white = {"facecolor": "white", "edgecolor": "none"}
            ax.add_artist(AnnotationBbox(box, tuple(place), pad=0.08, bboxprops=white))

    def _label_sizes(self) -> Float[np.ndarray, "curve 2"]:
        texts = [[text for _, text in self.labels(*curve.ends)] for curve in self.curves]
        ems = np.array([(0.55 * max(map(len, lines)), 1.3 * len(lines)) for lines in texts])
        return ems * style.SMALLEST_TEXT / 72

    def _limits(self) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
        halves = self._label_sizes() / RADIUS / 2
        labels = np.array(label_places(self.curves, 2 * halves, self.places))
        lines = np.concatenate([curve.at(np.linspace(0.0, 1.0, 41)) for curve in self.curves])
        points = np.concatenate([labels - halves, labels + halves, lines, self.places - NODE, self.places + NODE])
        low, high = points.min(axis=0) - 0.05, points.max(axis=0) + 0.05
        missing = max(0.0, (style.SINGLE_COLUMN - PADDING) / RADIUS - (high - low)[0])
        sides = np.array([missing / 2, 0.0])
        return low - sides, high + sides + np.array([0.0, 0.25 if self.name else 0.0])

    def _draw_states(self, ax: Axes) -> None:
        for place, name in zip(self.places, self.state_names, strict=True):
            ax.add_patch(Circle(tuple(place), NODE, facecolor="0.94", edgecolor=style.INK, linewidth=0.8, zorder=3))
            ax.text(*place, name, ha="center", va="center", color=style.INK, zorder=4)


@dataclass(frozen=True, eq=False)
class Curve:
    """A Bézier curve from one state to another."""

    ends: tuple[int, int]
    controls: Float[np.ndarray, "control 2"]

    def at(self, t: Float[np.ndarray, " place"]) -> Float[np.ndarray, "place 2"]:
        """Points of the curve; ``t`` runs from 0 to 1."""
        degree = len(self.controls) - 1
        basis = [comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in range(degree + 1)]
        return np.stack(basis, axis=1) @ self.controls

    @property
    def path(self) -> Path:
        """The curve as matplotlib draws it."""
        code = Path.CURVE3 if len(self.controls) == 3 else Path.CURVE4
        return Path(self.controls, [Path.MOVETO, *[code] * (len(self.controls) - 1)])


def circle(joined: Bool[np.ndarray, "state state"]) -> Float[np.ndarray, "state 2"]:
    """Places on the unit circle such that joined states are near: the least total length of all chords."""
    n = len(joined)
    if n == 1:
        return np.zeros((1, 2))
    start = np.pi if n == 2 else np.pi / 2
    angles = start - 2 * np.pi * np.arange(n) / n
    spots = np.column_stack([np.cos(angles), np.sin(angles)])
    chords = np.linalg.norm(spots[:, None] - spots, axis=-1)

    def length(order: tuple[int, ...]) -> float:
        return round(float((joined * chords[np.ix_(order, order)]).sum()), 9)

    orders: Iterator[tuple[int, ...]] = permutations(range(1, n)) if n <= ORDERED else iter([tuple(range(1, n))])
    return spots[list(min(((0, *order) for order in orders), key=length))]


def loop(place: Float[np.ndarray, " 2"], state: int) -> Curve:
    """From a state to itself, on the side away from the circle's centre."""
    outward = np.arctan2(place[1], place[0]) if place.any() else np.pi / 2
    turns = np.array([0.5, 0.75, -0.75, -0.5]) + outward
    reach = np.array([NODE, NODE + LOOP, NODE + LOOP, NODE])
    return Curve((state, state), place + reach[:, None] * np.column_stack([np.cos(turns), np.sin(turns)]))


def arc(places: Float[np.ndarray, "state 2"], state: int, following: int, returns: bool) -> Curve:
    """From a state to another, bent outwards; the ways there and back never share a line.

    Of two ways between neighbours the inner one is straight; across the centre both bend to their right.
    """
    start, end = places[state], places[following]
    along = end - start
    right, middle = np.array([along[1], -along[0]]), (start + end) / 2
    outward = float(np.sign(np.round(right @ middle, 9)))
    bend = 0.22 + 0.22 * outward if returns else 0.12 * outward
    controls = np.array([start, middle + bend * right, end])
    whole = Curve((state, following), controls)
    t = np.linspace(0.0, 1.0, 201)
    points = whole.at(t)
    clear = np.flatnonzero(
        (np.linalg.norm(points - start, axis=1) > NODE) & (np.linalg.norm(points - end, axis=1) > NODE + 0.02)
    )
    first, last = t[clear[0]], t[clear[-1]]
    handle = np.array([(1 - first) * (1 - last), first + last - 2 * first * last, first * last]) @ controls
    return Curve(whole.ends, np.array([points[clear[0]], handle, points[clear[-1]]]))


def label_places(
    curves: Sequence[Curve], sizes: Float[np.ndarray, "curve 2"], states: Float[np.ndarray, "state 2"]
) -> list[Float[np.ndarray, " 2"]]:
    """One place at each curve for a label of the given width and height: on its line, or to the right of its way.

    Each label in turn takes the place where it hides least of other labels, states and curves; of equal places
    the one nearest the middle of the line. A second and a third turn mend what the first could not foresee.
    The label of a loop stands beyond its bend.
    """
    lines = [curve.at(np.linspace(0.0, 1.0, 41)) for curve in curves]
    places: dict[int, np.ndarray] = {}
    for k in [*range(len(curves))] * 3:
        half, is_loop = sizes[k] / 2, curves[k].ends[0] == curves[k].ends[1]
        spots, cost = _beyond(lines[k], half) if is_loop else _beside(lines[k], half)
        others = np.concatenate([*lines[:k], *lines[k + 1 :], np.empty((0, 2))])
        cost = cost + 2 * (np.abs(spots[:, None] - others) < half).all(axis=-1).sum(axis=1)
        cost += 20 * (np.abs(spots[:, None] - states) < half + NODE).all(axis=-1).sum(axis=1)
        for other in places.keys() - {k}:
            shared = (half + sizes[other] / 2 - np.abs(spots - places[other])).clip(0.0)
            cost += 100 * shared.prod(axis=1) / sizes[k].prod()
        places[k] = spots[np.argmin(cost)]
    return [places[k] for k in range(len(curves))]


def _beside(line: Float[np.ndarray, "spot 2"], half: Float[np.ndarray, " 2"]) -> tuple[np.ndarray, np.ndarray]:
    """Spots on the middle half of ``line`` and to its right, and how little each is liked."""
    middle = np.arange(len(line) // 4, len(line) - len(line) // 4)
    along = np.gradient(line, axis=0)[middle]
    right = np.column_stack([along[:, 1], -along[:, 0]])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    steps = (0.0, 0.5, 1.0)
    spots = [line[middle] + step * right * (np.abs(right) @ half)[:, None] for step in steps]
    dislike = [0.5 * step + 0.05 * np.abs(middle - len(line) // 2) for step in steps]
    return np.concatenate(spots), np.concatenate(dislike)


def _beyond(line: Float[np.ndarray, "spot 2"], half: Float[np.ndarray, " 2"]) -> tuple[np.ndarray, np.ndarray]:
    """The one spot outside the bend of a loop."""
    bend = line[len(line) // 2]
    away = bend - line[0] - (line[-1] - line[0]) / 2
    away = away / np.linalg.norm(away)
    return (bend + away * (half @ np.abs(away)))[None], np.zeros(1)


def _names(name: str, given: Sequence[str] | None, number: int) -> list[str]:
    names = [str(k) for k in range(number)] if given is None else [str(one) for one in given]
    if len(names) != number:
        raise ValueError(f"{name}={names!r} has {len(names)} entries; transition asks for {number}")
    return names


def _brief(weight: float) -> str:
    return f"{weight:.3g}".replace("0.", ".", 1) if abs(weight) < 1 else f"{weight:.3g}"


def _colour(token: int) -> str:
    return style.OKABE_ITO[token % len(style.OKABE_ITO)]
