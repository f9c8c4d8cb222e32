"""Drawing words: by hidden edge, by filtering, or whole from a table; and an endless stream of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt

from nextlens.models.arguments import between
from nextlens.models.batch import Batch
from nextlens.models.prefixes import number_prefixes
from nextlens.models.processes.filtering import children

#: Words of one length that may be listed in a table to draw from.
LISTABLE_WORDS = 2**20
#: Tokens drawn at a time by a stream of batches.
BLOCK_TOKENS = 2**18


def listable(n_tokens: int, length: int, limit: int = LISTABLE_WORDS) -> bool:
    """Whether all words of ``length`` tokens are few enough to be listed."""
    return length <= 64 and n_tokens**length <= limit


@dataclass(frozen=True, eq=False)
class AliasTable:
    """Draws from many finite laws in constant time each, exactly.

    Every law over ``n_outcomes`` outcomes is cut into as many buckets of equal mass, each shared by
    at most two outcomes [1]_. Buckets and outcomes of law ``i`` are numbered from
    ``i * n_outcomes``. An outcome of probability 0 is never drawn.

    References
    ----------
    .. [1] Walker, A. J. An efficient method for generating discrete random variables with general
       distributions. ACM Transactions on Mathematical Software 3, 253-256, 1977.
    """

    share: Float[np.ndarray, " bucket"]
    alias: Int[np.ndarray, " bucket"]
    n_outcomes: int

    @classmethod
    def of(cls, laws: Float[np.ndarray, "law outcome"]) -> AliasTable:
        """The table of laws whose rows sum to 1."""
        rows = [_shares(law / law.sum()) for law in laws]
        n = laws.shape[1]
        return cls(
            np.concatenate([share for share, _ in rows]),
            np.concatenate([alias + i * n for i, (_, alias) in enumerate(rows)]),
            n,
        )

    def draw(
        self, size: int, rng: np.random.Generator, first: Int[np.ndarray, " size"] | int = 0
    ) -> Int[np.ndarray, " size"]:
        """``size`` outcomes, each of the law whose buckets begin at ``first``."""
        point = rng.random(size)
        point *= self.n_outcomes
        bucket = point.astype(np.int64)
        point -= bucket
        bucket += first
        return np.where(point < self.share[bucket], bucket, self.alias[bucket])


def _shares(
    law: Float[np.ndarray, " outcome"],
) -> tuple[Float[np.ndarray, " outcome"], Int[np.ndarray, " outcome"]]:
    """Each bucket's own share, and who has the rest of it.

    What light outcomes leave free is filled by the heavy ones in order: running sums of what is
    free and of what is over say which heavy outcome is being spent, so no loop is needed.
    """
    weight = law * len(law)
    share, alias = np.ones(len(law)), np.arange(len(law))
    light, heavy = np.flatnonzero(weight < 1), np.flatnonzero(weight >= 1)
    if len(light) == 0 or len(heavy) == 0:
        return share, alias
    free, over = np.cumsum(1 - weight[light]), np.cumsum(weight[heavy] - 1)
    share[light] = weight[light]
    before = np.r_[0, free[:-1]]
    alias[light] = heavy[np.searchsorted(over, before, side="left").clip(max=len(heavy) - 1)]
    spent = np.searchsorted(free, over, side="right")
    run_out = np.flatnonzero(spent < len(free))
    run_out = run_out[run_out < len(heavy) - 1]
    share[heavy[run_out]] = 1 + over[run_out] - free[spent[run_out]]
    alias[heavy[run_out]] = heavy[run_out + 1]
    return share, alias


@dataclass(frozen=True, eq=False)
class EdgeSampler:
    """Follows the hidden states of a hidden Markov process, all sequences at once."""

    start: AliasTable
    edges: AliasTable
    token: Int[np.ndarray, " edge"]
    first: Int[np.ndarray, " edge"]

    @classmethod
    def of(
        cls, transition: Float[np.ndarray, "token state state"], initial: Float[np.ndarray, " state"]
    ) -> EdgeSampler:
        n_tokens, n_states, _ = transition.shape
        laws = transition.transpose(1, 0, 2).reshape(n_states, -1)
        token, arrived = np.divmod(np.arange(n_tokens * n_states), n_states)
        return cls(
            start=AliasTable.of(initial[None]),
            edges=AliasTable.of(laws),
            token=np.tile(token, n_states),
            first=np.tile(arrived, n_states) * laws.shape[1],
        )

    def draw(self, n_sequences: int, rng: np.random.Generator, length: int) -> Int[np.ndarray, "n_sequences length"]:
        """Words of ``length`` tokens."""
        tokens = np.empty((length, n_sequences), dtype=np.int64)
        first = self.start.draw(n_sequences, rng) * self.edges.n_outcomes
        for said in tokens:
            edge = self.edges.draw(n_sequences, rng, first)
            said[:] = self.token[edge]
            first = self.first[edge]
        return np.ascontiguousarray(tokens.T)


@dataclass(frozen=True, eq=False)
class FilterSampler:
    """Draws each token from the law that the belief gives it: for tensors that have no hidden path."""

    transition: Float[np.ndarray, "token state state"]
    functional: Float[np.ndarray, " state"]
    initial: Float[np.ndarray, " state"]
    impossible: float

    def draw(self, n_sequences: int, rng: np.random.Generator, length: int) -> Int[np.ndarray, "n_sequences length"]:
        """Words of ``length`` tokens."""
        tokens = np.empty((n_sequences, length), dtype=np.int64)
        emission = (self.transition @ self.functional).T
        belief = np.broadcast_to(self.initial, (n_sequences, len(self.initial)))
        for t in range(length):
            law = belief @ emission
            law[law <= self.impossible] = 0
            mass = law.cumsum(axis=1)
            point = rng.random(n_sequences) * mass[:, -1]
            tokens[:, t] = (point[:, None] >= mass[:, :-1]).sum(axis=1)
            joint = (belief[:, None] @ self.transition[tokens[:, t]])[:, 0]
            belief = joint / (joint @ self.functional)[:, None]
        return tokens


@dataclass(frozen=True, eq=False)
class WordSampler:
    """Draws whole words from the list of all that are possible."""

    words: UInt[np.ndarray, "word length"]
    table: AliasTable

    @classmethod
    def of(
        cls,
        transition: Float[np.ndarray, "token state state"],
        functional: Float[np.ndarray, " state"],
        initial: Float[np.ndarray, " state"],
        length: int,
        *,
        cutoff: float,
    ) -> WordSampler:
        words = np.zeros((1, 0), dtype=np.min_scalar_type(len(transition)))
        beliefs, probability = initial[None], np.ones(1)
        for _ in range(length):
            parent, token, beliefs, said = children(transition, functional, beliefs, cutoff=cutoff)
            words = np.column_stack([words[parent], token.astype(words.dtype)])
            probability = probability[parent] * said
        return cls(words, AliasTable.of(probability[None]))

    def draw(self, n_sequences: int, rng: np.random.Generator) -> Int[np.ndarray, "n_sequences length"]:
        """Words, as int64."""
        return self.words[self.table.draw(n_sequences, rng)].astype(np.int64)


class BatchStream(Iterator[Batch]):
    """Batches without end, drawn in blocks and handed out in slices; it resumes exactly.

    Parameters
    ----------
    draw : callable
        ``draw(n_sequences, rng)`` gives tokens of shape (n_sequences, length).
    size : int
        Sequences per batch.
    length : int
        Tokens per sequence, so ``length - 1`` positions.
    rng : numpy.random.Generator
        Advanced by whole blocks: give the stream one of its own.
    tree : bool, optional
        Whether batches carry their prefix tree. None decides once, by the first batch: yes if it
        has at most two thirds as many distinct prefixes as positions.

    Examples
    --------
    >>> from nextlens.models.processes import mess3
    >>> stream = mess3().batches(64, length=11, rng=np.random.default_rng(0))
    >>> next(stream).tokens.shape
    torch.Size([64, 10])
    """

    def __init__(
        self,
        draw: Callable[[int, np.random.Generator], Int[np.ndarray, "n_sequences length"]],
        size: int,
        length: int,
        rng: np.random.Generator,
        tree: bool | None = None,
    ) -> None:
        self.size, self.length = size, length
        self._draw, self._rng, self._tree = draw, rng, tree
        self._per_block = max(1, BLOCK_TOKENS // (size * length))
        self._taken = self._per_block

    def __next__(self) -> Batch:
        if self._taken == self._per_block:
            self._draw_block()
        start = self._taken * self.size
        self._taken += 1
        return self._batch(self._block[start : start + self.size])

    def state(self) -> dict[str, Any]:
        """Where the stream stands: plain numbers, strings and lists, fit for JSON."""
        spent = self._taken == self._per_block
        return {
            "size": self.size,
            "length": self.length,
            "batches_per_block": self._per_block,
            "taken": 0 if spent else self._taken,
            "tree": self._tree,
            "generator": _plain(self._rng.bit_generator.state if spent else self._drawn_from),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go where another stream of the same process stood: what follows is equal, token for token.

        Raises
        ------
        ValueError
            If ``state`` was taken from a stream of another size, length, block or kind of generator.
        """
        here = self.state()
        for name in ("size", "length", "batches_per_block"):
            if state[name] != here[name]:
                raise ValueError(f"state has {name}={state[name]!r}; this stream has {here[name]!r}")
        kinds = [one["generator"]["bit_generator"] for one in (state, here)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"state is of a {kinds[0]} generator; this stream draws from a {kinds[1]}")
        self._rng.bit_generator.state = state["generator"]
        self._tree = state["tree"]
        self._taken = self._per_block
        if state["taken"]:
            self._draw_block()
            self._taken = between("taken", state["taken"], 0, self._per_block)

    def _draw_block(self) -> None:
        self._drawn_from = self._rng.bit_generator.state
        self._block = self._draw(self._per_block * self.size, self._rng)
        self._taken = 0

    def _batch(self, tokens: Int[np.ndarray, "size length"]) -> Batch:
        if self._tree is not None:
            return Batch.from_tokens(tokens, tree=self._tree)
        read = Batch.from_tokens(tokens).tokens
        self._tree = 3 * (int(number_prefixes(read).max()) + 1) <= 2 * read.numel()
        return self._batch(tokens)


def _plain(value: Any) -> Any:
    """The same generator state with lists for arrays."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
