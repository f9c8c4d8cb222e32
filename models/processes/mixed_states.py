"""Every belief an observer can come to hold, and what they say of a process's entropies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import entr

from nextlens.models.arguments import at_least
from nextlens.models.processes.chain import long_run_law
from nextlens.models.processes.filtering import children
from nextlens.models.processes.gauge import ROUNDING
from nextlens.models.processes.process import EntropyRate, Process

#: No level of a tree may hold more numbers than this (a quarter of a gigabyte).
LARGEST_LEVEL = 2**25
#: Without a depth, bounds on an entropy rate are tightened until they took about so many beliefs.
BOUNDING_BELIEFS = 2**20
#: Beliefs this close in every component are one.
EQUAL = 1e-10


@dataclass(frozen=True, eq=False)
class Level:
    """The beliefs after all possible words of one length, in the order of the words.

    Attributes
    ----------
    beliefs : Float[np.ndarray, "node state"]
    probability : Float[np.ndarray, " node"]
        Of the word that leads there.
    parent : Int[np.ndarray, " node"]
        Index in the level above; neighbours share it.
    token : Int[np.ndarray, " node"]
        The last one read. At the root, parent and token are -1.
    """

    beliefs: Float[np.ndarray, "node state"]
    probability: Float[np.ndarray, " node"]
    parent: Int[np.ndarray, " node"]
    token: Int[np.ndarray, " node"]

    def __len__(self) -> int:
        return len(self.probability)


@dataclass(frozen=True, eq=False)
class BeliefTree:
    """Beliefs by word: ``levels[n]`` holds those after ``n`` tokens, ``levels[0]`` the root."""

    levels: tuple[Level, ...]

    def __len__(self) -> int:
        """How many nodes, the root included."""
        return sum(map(len, self.levels))

    def words(self, level: int) -> Int[np.ndarray, "node level"]:
        """The tokens that lead to each node of one level."""
        words = np.empty((len(self.levels[level]), level), dtype=np.int64)
        node = np.arange(len(words))
        for depth in range(level, 0, -1):
            words[:, depth - 1] = self.levels[depth].token[node]
            node = self.levels[depth].parent[node]
        return words


def belief_tree(process: Process, depth: int, cutoff: float = ROUNDING) -> BeliefTree:
    """The beliefs after every possible word of up to ``depth`` tokens, level by level.

    Parameters
    ----------
    process : Process
    depth : int
    cutoff : float, default=1e-12
        A token of this probability or less, after its prefix, is taken as impossible.

    Raises
    ------
    ValueError
        If ``depth`` is below 0, or a level would be too large to hold.

    Examples
    --------
    >>> from nextlens.models.processes import golden_mean
    >>> tree = belief_tree(golden_mean(), depth=2)
    >>> tree.words(2).tolist(), tree.levels[2].probability.round(3).tolist()
    ([[0, 0], [0, 1], [1, 0]], [0.333, 0.333, 0.333])
    """
    at_least("depth", depth, 0)
    levels = _levels(process, process.initial[None], np.ones(1), cutoff)
    return BeliefTree(tuple(islice(levels, depth + 1)))


def _levels(
    process: Process,
    beliefs: Float[np.ndarray, "node state"],
    probability: Float[np.ndarray, " node"],
    cutoff: float = ROUNDING,
) -> Iterator[Level]:
    """One level of the tree after another, from any beliefs on."""
    level = Level(beliefs, probability, *np.full((2, len(beliefs)), -1))
    while True:
        yield level
        level = _next_level(process, level, cutoff)


def _next_level(process: Process, level: Level, cutoff: float) -> Level:
    most = len(level) * process.n_tokens
    if most * process.n_states > LARGEST_LEVEL:
        raise ValueError(
            f"the belief tree of {process.name!r} is too large: after a level of {len(level)} beliefs the "
            f"next may hold {most}; ask for fewer tokens"
        )
    parent, token, beliefs, said = children(process.transition, process.functional, level.beliefs, cutoff=cutoff)
    return Level(beliefs, level.probability[parent] * said, parent, token)


def merged_levels(
    process: Process, beliefs: Float[np.ndarray, "node state"], probability: Float[np.ndarray, " node"]
) -> Iterator[Level]:
    """The same, with equal beliefs of a level made one and their probabilities summed."""
    level = Level(beliefs, probability, *np.full((2, len(beliefs)), -1))
    while True:
        yield level
        level = _next_level(process, level, ROUNDING)
        kept, node = np.unique(first_equal(level.beliefs, EQUAL), return_inverse=True)
        total = np.bincount(node, weights=level.probability)
        level = Level(level.beliefs[kept], total, level.parent[kept], level.token[kept])


def every_word(process: Process, length: int) -> tuple[Int[np.ndarray, "word length"], Float[np.ndarray, " word"]]:
    """All possible words of one length and their probabilities, in the order of the tree.

    Words that share a prefix are neighbours.

    Raises
    ------
    ValueError
        If ``length`` is below 1, or there are too many to hold.
    """
    tree = belief_tree(process, at_least("length", length, 1))
    return tree.words(length), tree.levels[length].probability


@dataclass(frozen=True, eq=False)
class MixedStates:
    """The distinct beliefs of a process and how tokens lead from one to another.

    Attributes
    ----------
    beliefs : Float[np.ndarray, "node state"]
        In the order in which they are reached; node 0 is the root.
    next_token : Float[np.ndarray, "node token"]
    successor : Int[np.ndarray, "node token"]
        The belief after a token; -1 where it is impossible or, in an open presentation, unexplored.
    depth : Int[np.ndarray, " node"]
        The fewest tokens that lead there, so ``np.bincount(depth)`` counts new beliefs by depth.
    closed : bool
        Whether these are all there are. If not, exploration stopped at ``max_states``.
    """

    beliefs: Float[np.ndarray, "node state"]
    next_token: Float[np.ndarray, "node token"]
    successor: Int[np.ndarray, "node token"]
    depth: Int[np.ndarray, " node"]
    closed: bool

    def __len__(self) -> int:
        return len(self.beliefs)

    @property
    def chain(self) -> Float[np.ndarray, "node node"]:
        """``chain[i, j]`` is the probability that belief ``j`` follows belief ``i``.

        Raises
        ------
        ValueError
            If the presentation is open: its last beliefs lead nowhere.
        """
        if not self.closed:
            raise ValueError(f"these {len(self)} mixed states are not all there are; an open list has no chain")
        chain = np.zeros((len(self), len(self)))
        node, token = np.nonzero(self.successor >= 0)
        np.add.at(chain, (node, self.successor[node, token]), self.next_token[node, token])
        return chain


def mixed_state_presentation(process: Process, tolerance: float = EQUAL, max_states: int = 1024) -> MixedStates:
    """Merge equal beliefs, level by level, until no new ones appear or there are ``max_states``.

    Closed means closed up to ``tolerance``: beliefs that converge without end to a limit are taken as
    that limit. Merged nodes stand for all words that lead to them, so the law over them after ``n``
    tokens is the root's, ``n`` steps along ``chain``.

    Parameters
    ----------
    process : Process
    tolerance : float, default=1e-10
        Beliefs this close in every component are one.
    max_states : int, default=1024

    Raises
    ------
    ValueError
        If ``tolerance`` is below the spacing of floats at 1, or ``max_states`` is below 1.

    Examples
    --------
    >>> from nextlens.models.processes import mess3, rrxor
    >>> states = mixed_state_presentation(rrxor())
    >>> len(states), states.closed
    (36, True)
    >>> mixed_state_presentation(mess3()).closed
    False
    """
    at_least("tolerance", tolerance, np.finfo(float).eps)
    at_least("max_states", max_states, 1)
    beliefs = process.initial[None]
    depths, successors = [np.zeros(1, int)], []
    frontier = np.zeros(1, int)
    while len(frontier):
        parent, token, reached, _ = children(process.transition, process.functional, beliefs[frontier], cutoff=ROUNDING)
        known = len(beliefs)
        same = first_equal(np.concatenate([beliefs, reached]), tolerance)[known:]
        new = np.unique(same[same >= known])
        if known + len(new) > max_states:
            break
        successor = np.full((len(frontier), process.n_tokens), -1)
        successor[parent, token] = np.where(same < known, same, known + np.searchsorted(new, same))
        successors.append(successor)
        depths.append(np.full(len(new), len(depths)))
        beliefs = np.concatenate([beliefs, reached[new - known]])
        frontier = np.arange(known, len(beliefs))
    unexplored = np.full((len(frontier), process.n_tokens), -1)
    return MixedStates(
        beliefs,
        process.next_token(beliefs),
        np.concatenate([*successors, unexplored]),
        np.concatenate(depths),
        closed=len(frontier) == 0,
    )


def first_equal(points: Float[np.ndarray, "row column"], tolerance: float) -> Int[np.ndarray, " row"]:
    """For every row the first row that it equals, up to ``tolerance``.

    Rows are hashed by the cell they fall in, on two grids half a cell apart: on one grid alone, equal
    points either side of a border would be told apart, and borders lie where beliefs like to be.
    """
    rows = np.arange(len(points))
    first = [_first_in_cell(points / (2 * tolerance) + shift) for shift in (0.0, 0.5)]
    edges = coo_array((np.ones(2 * len(rows), bool), (np.tile(rows, 2), np.concatenate(first))), shape=(len(rows),) * 2)
    _, member = connected_components(edges, directed=False)
    _, earliest = np.unique(member, return_index=True)
    return earliest[member]


def _first_in_cell(scaled: Float[np.ndarray, "row column"]) -> Int[np.ndarray, " row"]:
    """For every row the first row in the same unit cell."""
    odd = np.random.default_rng(0).integers(2**62, size=scaled.shape[1], dtype=np.uint64) * 2 + 1
    cell = np.floor(scaled).astype(np.int64).view(np.uint64)
    key = (cell * odd).sum(axis=1, dtype=np.uint64)
    _, first, number = np.unique(key, return_index=True, return_inverse=True)
    return first[number]


def entropies(laws: Float[np.ndarray, "*any token"]) -> Float[np.ndarray, "*any"]:
    """``-sum p log p`` over the last axis, in nats; a probability of 0 adds nothing."""
    return entr(laws).sum(axis=-1)


def myopic_entropies(process: Process, length: int) -> Float[np.ndarray, " length"]:
    """``h_1 .. h_length``: entropy of the next token given the ``l - 1`` before it, in nats.

    Exact: ``h_l = E[H(x | belief after l - 1 tokens)]``, over the mixed states where they are finite
    and over the levels of the tree where not. Index ``l - 1`` holds ``h_l``.

    Raises
    ------
    ValueError
        If ``length`` is below 1, or a level of the tree would be too large to hold.
    """
    at_least("length", length, 1)
    states = mixed_state_presentation(process)
    if not states.closed:
        levels = merged_levels(process, process.initial[None], np.ones(1))
        return np.array([_mean_entropy(process, level) for level in islice(levels, length)])
    chain, uncertain = states.chain, entropies(states.next_token)
    law = np.eye(1, len(states))[0]
    myopic = np.empty(length)
    for step in range(length):
        myopic[step] = law @ uncertain
        law = law @ chain
    return myopic


def _mean_entropy(process: Process, level: Level) -> float:
    return float(level.probability @ entropies(process.next_token(level.beliefs)))


def block_entropies(process: Process, length: int) -> Float[np.ndarray, " length"]:
    """``H(1) .. H(length)``: entropy of words of each length, in nats; ``H(l) = h_1 + ... + h_l``."""
    return myopic_entropies(process, length).cumsum()


def optimal_loss(process: Process, n_positions: int) -> Float[np.ndarray, " position"]:
    """The least expected next-token loss at each position of a context, in nats.

    Position ``t`` has read ``t + 1`` tokens and says the next, so it can do no better than
    ``h_(t + 2)``: the first token is never said.
    """
    return myopic_entropies(process, at_least("n_positions", n_positions, 1) + 1)[1:]


def entropy_rate(process: Process, *, depth: int | None = None, rng: np.random.Generator | None = None) -> EntropyRate:
    """Nats per token in the long run, as well as can be known.

    Exact where the mixed states are finite. Otherwise, for a hidden Markov process,
    ``H[X_l | X_<l, S_0] <= h <= H[X_l | X_<l]`` [1]_, and the value is their mean; for a generalized
    one, which has no hidden state to be told, the mean over sampled beliefs with an interval of 95 %.

    Parameters
    ----------
    process : Process
    depth : int, optional
        ``l`` in the bounds. None deepens them until they meet to 1e-9 or would take too long.
    rng : numpy.random.Generator, optional
        For sampled beliefs; None means a fixed one.

    Raises
    ------
    ValueError
        If ``depth`` is below 1.

    References
    ----------
    .. [1] Cover, T. M. and Thomas, J. A. Elements of Information Theory, section 4.5. Wiley, 2006.
    """
    if depth is not None:
        at_least("depth", depth, 1)
    states = mixed_state_presentation(process)
    if states.closed:
        rate = float(long_run_law(states.chain, np.eye(1, len(states))[0]) @ entropies(states.next_token))
        return EntropyRate(rate, rate, rate)
    if process.is_generalized:
        return _sampled_rate(process, rng or np.random.default_rng(0))
    return _bounded_rate(process, depth)


def _bounded_rate(process: Process, depth: int | None) -> EntropyRate:
    told = np.flatnonzero(process.stationary)
    above = merged_levels(process, process.stationary[None], np.ones(1))
    below = merged_levels(process, np.eye(process.n_states)[told], process.stationary[told])
    visited = 0
    for length, blind, informed in zip(count(1), above, below, strict=False):
        upper, lower = _mean_entropy(process, blind), _mean_entropy(process, informed)
        visited += len(blind) + len(informed)
        enough = upper - lower < 1e-9 or visited * process.n_tokens > BOUNDING_BELIEFS
        if length == depth or (depth is None and enough):
            break
    return EntropyRate((lower + upper) / 2, lower, upper)


def _sampled_rate(
    process: Process, rng: np.random.Generator, n_sequences: int = 1000, length: int = 1000, skip: int = 100
) -> EntropyRate:
    beliefs = process.beliefs(process.sample(n_sequences, length, rng))
    means = entropies(process.next_token(beliefs[:, skip:])).mean(axis=1)
    value, half = float(means.mean()), float(1.96 * means.std(ddof=1) / np.sqrt(n_sequences))
    return EntropyRate(value, value - half, value + half)
