"""Rides through a town of one-way streets: from a crossing to another, by moves that mostly lead there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy.sparse.csgraph import shortest_path

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.tasks.prompted import PromptedTask, labelled

#: What a move does to row and column.
MOVES = {"N": (-1, 0), "E": (0, 1), "S": (1, 0), "W": (0, -1)}
#: Behind the crossings and the four moves in the vocabulary.
N_MARKS = 2


@dataclass(frozen=True)
class StreetGrid(PromptedTask):
    """``from to move move .. end``: rides on a grid of which some streets may be driven in one direction only.

    At every crossing the driver makes, with probability ``wander``, a move at random among those allowed, and else one
    of those that begin a shortest way; a ride ends where it should, or after ``longest`` moves without an ``end``. So
    the law of the next move depends on the crossing and the goal alone, and is known exactly (:meth:`law`). The
    town is a small cousin of the Manhattan of Vafa et al. 2024 (arXiv:2406.03689, "noisy shortest paths").

    Parameters
    ----------
    height, width : int, default=5
        In crossings.
    one_way : float, default=0.3
        The share of streets that are made one-way, as far as every crossing can still be reached from every other.
    wander : float, default=0.5
    longest : int, default=20
    new : float, default=0.1
        The share of ordered pairs of crossings that no ride of the ``seen`` split begins and ends with.
    seed : int, default=0
        Of the town and of the pairs held out.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> town = StreetGrid()
    >>> print(town.spelled(town.draw(1, np.random.default_rng(0)).tokens.values[0]))
    21 to 7: N N N W E S E N end
    """

    height: int = 5
    width: int = 5
    one_way: float | int = 0.3
    wander: float | int = 0.5
    longest: int = 20
    new: float | int = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("height", self.height, 2)
        at_least("width", self.width, 2)
        at_least("longest", self.longest, 1)
        for name in ("one_way", "wander", "new"):
            between(name, getattr(self, name), 0, 1)
        if self.new == 1:
            raise ValueError("new=1 leaves no pair of crossings to train on; it must be below 1")

    @property
    def n_crossings(self) -> int:
        return self.height * self.width

    @property
    def n_tokens(self) -> int:
        return self.n_crossings + len(MOVES) + N_MARKS

    @property
    def end(self) -> int:
        """The token that says a ride is over."""
        return self.n_tokens - 2

    @property
    def padding(self) -> int:
        """What follows the end; never asked for."""
        return self.n_tokens - 1

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return 2 + self.longest + 1

    @cached_property
    def to(self) -> Int[np.ndarray, "crossing move"]:
        """Where each move leads from each crossing; -1 where it is not allowed."""
        rng = np.random.default_rng([self.seed, 0])
        row, column = np.divmod(np.arange(self.n_crossings), self.width)
        to = np.full((self.n_crossings, len(MOVES)), -1)
        for move, (down, right) in enumerate(MOVES.values()):
            y, x = row + down, column + right
            inside = (y >= 0) & (y < self.height) & (x >= 0) & (x < self.width)
            to[inside, move] = (y * self.width + x)[inside]
        streets = [(a, move) for a in range(self.n_crossings) for move in (1, 2) if to[a, move] >= 0]
        wanted = round(self.one_way * len(streets))
        for street in rng.permutation(len(streets)):
            if wanted == 0:
                break
            a, move = streets[street]
            closed = (a, move) if rng.random() < 0.5 else (int(to[a, move]), (move + 2) % 4)
            kept, to[closed] = to[closed], -1
            if np.isinf(_distances(to)).any():
                to[closed] = kept
            else:
                wanted -= 1
        return to

    @cached_property
    def distance(self) -> Int[np.ndarray, "start goal"]:
        """Moves of a shortest way."""
        return _distances(self.to).astype(int)

    @cached_property
    def moves(self) -> Float[np.ndarray, "crossing goal move"]:
        """The exact law of a move."""
        allowed = self.to >= 0
        nearer = self.distance[self.to] == self.distance[:, None] - 1
        best = allowed[:, :, None] & nearer
        best_share = best / np.maximum(best.sum(1, keepdims=True), 1)
        random_share = (allowed / allowed.sum(1, keepdims=True))[:, :, None]
        law = self.wander * random_share + (1 - self.wander) * best_share
        return law.transpose(0, 2, 1)

    @cached_property
    def held_out(self) -> Bool[np.ndarray, "start goal"]:
        """Pairs of crossings that no seen ride begins and ends with; a crossing and itself is no pair."""
        rng = np.random.default_rng([self.seed, 1])
        pairs = np.flatnonzero(~np.eye(self.n_crossings, dtype=bool))
        chosen = np.zeros(self.n_crossings**2, dtype=bool)
        chosen[rng.permutation(pairs)[: round(self.new * len(pairs))]] = True
        return chosen.reshape(self.n_crossings, self.n_crossings)

    def law(self, crossing: Int[np.ndarray, "*any"], goal: Int[np.ndarray, "*any"]) -> Float[np.ndarray, "*any token"]:
        """The exact law of the next token at a crossing: a move, or the end if it is the goal."""
        law = np.zeros((*crossing.shape, self.n_tokens))
        law[..., self.n_crossings : self.end] = self.moves[crossing, goal]
        there = crossing == goal
        law[there] = np.eye(self.n_tokens)[self.end]
        return law

    def allowed(
        self, crossing: Int[np.ndarray, "*any"], goal: Int[np.ndarray, "*any"]
    ) -> Bool[np.ndarray, "*any token"]:
        """Which tokens may come next: the moves that streets allow; at the goal, the end alone."""
        legal = np.zeros((*crossing.shape, self.n_tokens), dtype=bool)
        legal[..., self.n_crossings : self.end] = self.to[crossing] >= 0
        legal[crossing == goal] = np.eye(self.n_tokens, dtype=bool)[self.end]
        return legal

    def draw(self, n_sequences: int, rng: np.random.Generator, *, pairs: str = "seen") -> xr.Dataset:
        """See :meth:`PromptedTask.draw`; latents ``crossing`` (sequence, position) and ``goal`` (sequence).

        ``crossing`` is where the ride is when a token has been read; -1 before it begins and behind its end.

        Parameters
        ----------
        n_sequences : int
        rng : Generator
        pairs : {"seen", "new"}
            Between which crossings.

        Raises
        ------
        ValueError
            If there are no such pairs.
        """
        at_least("n_sequences", n_sequences, 1)
        start, goal = self._pairs(n_sequences, rng, pairs)
        tokens = np.full((n_sequences, self.length), self.padding)
        crossing = np.full(tokens.shape, -1)
        tokens[:, 0], tokens[:, 1], crossing[:, 1] = start, goal, start
        here, going = start.copy(), np.ones(n_sequences, dtype=bool)
        for step in range(2, self.length):
            arrived = going & (here == goal)
            tokens[arrived, step] = self.end
            going &= ~arrived
            if step == self.length - 1:
                break
            chosen = (rng.random((n_sequences, 1)) > self.moves[here, goal].cumsum(1)).sum(1).clip(max=3)
            tokens[going, step] = self.n_crossings + chosen[going]
            here = np.where(going, self.to[here, chosen], here)
            crossing[going, step] = here[going]
        answer = (np.arange(self.length) >= 2) & (tokens != self.padding)
        positions = np.broadcast_to(np.arange(self.length), tokens.shape)
        return labelled(
            tokens, positions, answer, crossing=(("sequence", "position"), crossing), goal=("sequence", goal)
        )

    def _pairs(
        self, n: int, rng: np.random.Generator, pairs: str
    ) -> tuple[Int[np.ndarray, " sequence"], Int[np.ndarray, " sequence"]]:
        off = ~np.eye(self.n_crossings, dtype=bool)
        wanted = self.held_out if one_of("pairs", pairs, ("seen", "new")) == "new" else off & ~self.held_out
        if not wanted.any():
            raise ValueError(f"pairs={pairs!r}: there are none with new={self.new:g}")
        start, goal = np.divmod(rng.choice(np.flatnonzero(wanted), n), self.n_crossings)
        return start, goal

    def spelled(self, tokens: Int[np.ndarray, " time"]) -> str:
        """Crossings as numbers, moves as points of the compass."""
        marks = [*map(str, range(self.n_crossings)), *MOVES, "end", ""]
        words = [marks[int(token)] for token in tokens]
        return f"{words[0]} to {words[1]}: {' '.join(words[2:])}".strip()


def _distances(to: Int[np.ndarray, "crossing move"]) -> Float[np.ndarray, "start goal"]:
    graph = np.zeros((len(to), len(to)))
    for move in range(to.shape[1]):
        open_ = to[:, move] >= 0
        graph[np.flatnonzero(open_), to[open_, move]] = 1
    return shortest_path(graph, unweighted=True)
