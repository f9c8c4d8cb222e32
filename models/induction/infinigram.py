"""Infini-gram: what follows the longest run of tokens at the end of a prompt that occurs in a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least, between
from nextlens.models.induction import many_queries
from nextlens.models.induction.many_queries import Followers, Found, Queries, followers_of_one
from nextlens.models.induction.shard import Shard
from nextlens.models.induction.suffix_array import SuffixArray
from nextlens.models.induction.token_ids import checked
from nextlens.models.induction.votes import Matcher, Places, Reader, Votes

#: What stands for the end of a document among next tokens.
END = -1

#: With more occurrences than this, one place is named for each next token, with the weight of all.
MOST_PLACES = 100_000

#: At most so many queries are answered together.
TOGETHER = 2048


@dataclass(frozen=True, eq=False)
class Match:
    """The longest run at the end of a prompt that occurs, and all that follows it.

    Attributes
    ----------
    length : int
        How many tokens; 0 if the last one does not occur, or there is none.
    count : int
        How often they occur: the sum of ``counts``.
    tokens, counts : Int[np.ndarray, "n"]
        What follows, and how often, exactly; :data:`END` is the end of a document.
    """

    length: int
    count: int
    tokens: Int[np.ndarray, " n"]
    counts: Int[np.ndarray, " n"]

    @cached_property
    def next_counts(self) -> dict[int, int]:
        """How often each next token follows; -1 is the end of a document."""
        return dict(zip(self.tokens.tolist(), self.counts.tolist(), strict=True))

    @property
    def n_end(self) -> int:
        """How often the document ends there."""
        return self.next_counts.get(END, 0)


class InfiniGram(Matcher):
    """The law of what follows the longest suffix that occurs in a corpus: ``count(suffix y) / count(suffix)``.

    ``n = max{n : count(w[L-n+1..L]) > 0}``; of several indexes, the largest n counts, and at equal n the counts
    are added, which is what one index over all their documents would say. Nothing is approximated. For no match at
    all, n = 0, the law is how often each token occurs.

    The end of a document votes for the token ``end``. Where there is none it has no vote, and the suffix is then
    the longest that something follows; :meth:`match` says both as they are.

    Parameters
    ----------
    index : SuffixArray, or several
    n_tokens : int, optional
        By default that of the index.
    end : int, optional
        By default that of the index: the ``eos`` of its vocabulary.
    floor : float, default=0
        See :class:`~nextlens.models.induction.votes.Matcher`.

    Raises
    ------
    ValueError
        If there is no index, several are of different vocabularies, or a number is out of range.

    Examples
    --------
    >>> match = InfiniGram(SuffixArray.build([[5, 6, 7], [5, 6, 8], [6]])).match([1, 5, 6])
    >>> match.length, match.count, match.next_counts
    (2, 2, {7: 1, 8: 1})

    Notes
    -----
    Liu et al., Infini-gram: scaling unbounded n-gram language models to a trillion tokens (arXiv:2401.17377).
    """

    def __init__(
        self,
        index: SuffixArray | Sequence[SuffixArray],
        *,
        n_tokens: int | None = None,
        end: int | None = None,
        floor: float = 0.0,
    ):
        self.indexes = (index,) if isinstance(index, SuffixArray) else tuple(index)
        if not self.indexes:
            raise ValueError("index is an empty list; give at least one")
        _refuse_different(self.indexes)
        most = max(one.n_tokens for one in self.indexes)
        self.n_tokens = most if n_tokens is None else int(at_least("n_tokens", n_tokens, most))
        self.end = next((one.end for one in self.indexes), None) if end is None else end
        if self.end is not None:
            between("end", self.end, 0, self.n_tokens - 1)
        self.floor = float(between("floor", floor, 0, 1))
        self.shards = tuple(shard for one in self.indexes for shard in one.shards)
        self._first_document = np.cumsum([0, *(shard.n_documents for shard in self.shards)])

    def __reduce__(self) -> tuple[partial[InfiniGram], tuple[tuple[SuffixArray, ...]]]:
        """To another process, as its indexes go."""
        return partial(InfiniGram, n_tokens=self.n_tokens, end=self.end, floor=self.floor), (self.indexes,)

    def match(self, prompt: Any) -> Match:
        """The longest suffix of ``prompt`` that occurs, and what follows it; of an empty prompt, every token.

        Raises
        ------
        ValueError
            If a token is out of range.
        """
        length, ranges = self._longest(checked("prompt", prompt, self.n_tokens), followed=False)
        found = [followers_of_one(self.shards[number], length, low, high) for number, low, high in ranges]
        tokens, counts = found[0] if len(found) == 1 else _added(found)
        return Match(length, int(counts.sum()), tokens, counts)

    def matches(self, prompts: Sequence[Any], *, threads: int = 1) -> list[Match]:
        """:meth:`match` for many prompts, much faster than one by one.

        Parameters
        ----------
        prompts : sequence of prompts
        threads : int, default=1
            How many cores to use.

        Raises
        ------
        ValueError
            If a token is out of range, naming the prompt, or ``threads`` is below 1.
        """
        arrays = [np.asarray(prompt) for prompt in prompts]
        if not arrays:
            return []
        self._refuse_foreign(arrays)
        ends = [array[-many_queries.LONG :] for array in arrays]
        lengths = np.array([len(array) for array in ends])
        tokens = np.concatenate(ends).astype(np.int64)
        length, counted = self._answers(tokens, np.cumsum(lengths), lengths, followed=False, threads=threads)
        first = np.searchsorted(counted.row, np.arange(len(arrays) + 1))
        count = np.diff(np.concatenate([[0], np.cumsum(counted.count)])[first])
        found = []
        for array, n, total, (low, high) in zip(
            arrays, length.tolist(), count.tolist(), pairwise(first.tolist()), strict=True
        ):
            if many_queries.LONG <= n < len(array):
                found.append(self.match(array))
            else:
                found.append(Match(n, total, counted.token[low:high], counted.count[low:high]))
        return found

    def _refuse_foreign(self, prompts: list[np.ndarray]) -> None:
        """Raise unless all prompts are token ids in range, naming the first that is not."""
        plain = all(prompt.ndim == 1 and (prompt.dtype.kind in "iu" or not prompt.size) for prompt in prompts)
        together = np.concatenate(prompts) if plain else np.zeros(0)
        if plain and (not together.size or (together.min() >= 0 and together.max() < self.n_tokens)):
            return
        for number, prompt in enumerate(prompts):
            checked(f"prompts[{number}]", prompt, self.n_tokens)

    def votes(
        self, tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"] | None = None, *, threads: int = 1
    ) -> Votes:
        """Row ``r`` follows ``tokens[: positions[r] + 1]``; every position if None.

        Raises
        ------
        ValueError
            If a token or a position is out of range.
        """
        tokens = checked("tokens", tokens, self.n_tokens)
        ends = 1 + (np.arange(len(tokens)) if positions is None else checked("positions", positions, len(tokens)))
        length, counted = self._answers(tokens, ends, ends, followed=self.end is None, threads=threads)
        return self._voted(length, counted)

    def places(self, tokens: Int[np.ndarray, " time"]) -> Places:
        """Every occurrence of the longest suffix, in the order of the corpus.

        Beyond :data:`MOST_PLACES` of them, one for each next token, with the weight of all.
        """
        length, ranges = self._longest(checked("tokens", tokens, self.n_tokens), followed=self.end is None)
        listed = _all_of if sum(high - low for _, low, high in ranges) <= MOST_PLACES else _some_of
        parts = []
        for number, low, high in ranges:
            shard = self.shards[number]
            places, weight = listed(shard, length, low, high)
            document, offset = shard.located(places)
            token = shard.tokens[places + length].astype(np.int64)
            token[token == shard.separator] = END if self.end is None else self.end
            parts.append((document + self._first_document[number], offset + length, token, weight))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        keep = np.flatnonzero(columns[2] != END)
        return Places("corpus", length, *(column[keep] for column in columns))

    def reader(self) -> InfiniGramReader:
        """Reads one token at a time: the range of the last match is narrowed, or a shorter match sought."""
        return InfiniGramReader(self)

    def _longest(self, tokens: Int[np.ndarray, " time"], followed: bool) -> tuple[int, list[tuple[int, int, int]]]:
        """The largest n of all shards, and the numbers and ranges of those that have it."""
        best, ranges = 0, []
        for number, shard in enumerate(self.shards):
            length, low, high = shard.longest(shard.encoded(tokens), followed, known=best)
            if length > best:
                best, ranges = length, []
            if length == best:
                ranges.append((number, low, high))
        return best, ranges

    def _answers(
        self,
        tokens: Int[np.ndarray, " time"],
        ends: Int[np.ndarray, " row"],
        available: Int[np.ndarray, " row"],
        followed: bool,
        threads: int,
    ) -> tuple[Int[np.ndarray, " row"], Followers]:
        """For each run before ``ends``: the largest n of all shards, and the added counts of what follows."""
        at_least("threads", threads, 1)
        queries = [Queries(shard, tokens) for shard in self.shards]
        n_parts = threads * -(-len(ends) // (threads * TOGETHER))
        cuts = len(ends) * np.arange(n_parts + 1) // max(1, n_parts)
        parts = [slice(*pair) for pair in pairwise(cuts.tolist()) if pair[0] < pair[1]]

        def answer(rows: slice) -> tuple[np.ndarray, Followers]:
            found = [each.longest(ends[rows], available[rows], followed) for each in queries]
            best = np.max([each.length for each in found], axis=0)
            return best, _joined(queries, found, best, rows.start)

        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                answers = list(pool.map(answer, parts))
        else:
            answers = [answer(rows) for rows in parts]
        nothing = np.zeros(0, np.int64)
        lengths, counted = zip((nothing, Followers(nothing, nothing, nothing)), *answers, strict=True)
        return np.concatenate(lengths), _concatenated(counted)

    def _voted(self, length: Int[np.ndarray, " row"], counted: Followers) -> Votes:
        """The counts as votes: the end of a document as the token for it, or left out."""
        row, token, count = counted
        if self.end is None:
            row, token, count = (column[token != END] for column in counted)
        else:
            row, token, count = _summed(Followers(row, np.where(token == END, self.end, token), count))
        first = np.searchsorted(row, np.arange(len(length) + 1))
        return Votes(length, first, token, count.astype(np.float64))


class InfiniGramReader(Reader):
    """What an infini-gram says as the tokens come in."""

    def __init__(self, matcher: InfiniGram):
        super().__init__(matcher)
        self._read = np.zeros(16, np.int64)
        self._length = 0
        self._states = [(0, 0, len(shard.order)) for shard in matcher.shards]

    def read(self, token: int) -> Votes:
        """One row: what follows all the tokens read so far, this one the last of them.

        Raises
        ------
        ValueError
            If the token is out of range.
        """
        matcher = self.matcher
        (token,) = checked("token", [token], matcher.n_tokens)
        if self._length == len(self._read):
            self._read = np.concatenate([self._read, np.zeros_like(self._read)])
        self._read[self._length] = token
        self._length += 1
        self._states = [
            shard.one_more(self._read[self._length - 1 - length : self._length], low, high, matcher.end is None)
            for shard, (length, low, high) in zip(matcher.shards, self._states, strict=True)
        ]
        best = max(length for length, _, _ in self._states)
        found = [
            followers_of_one(shard, length, low, high)
            for shard, (length, low, high) in zip(matcher.shards, self._states, strict=True)
            if length == best
        ]
        tokens, counts = _added(found)
        return matcher._voted(np.array([best]), Followers(np.zeros(len(tokens), np.int64), tokens, counts))


def _refuse_different(indexes: tuple[SuffixArray, ...]) -> None:
    first = indexes[0]
    for number, other in enumerate(indexes):
        known = first.fingerprint is not None or other.fingerprint is not None
        if other.fingerprint != first.fingerprint or (known and other.n_tokens != first.n_tokens):
            raise ValueError(f"index[{number}] is of another vocabulary than index[0]; their tokens mean other things")
        if other.end != first.end:
            raise ValueError(f"index[{number}] ends documents with {other.end}, and index[0] with {first.end}")


def _joined(queries: list[Queries], found: list[Found], best: Int[np.ndarray, " row"], first: int) -> Followers:
    """What follows, of every shard that has the longest match, added; rows numbered from ``first``."""
    parts = []
    for query, each in zip(queries, found, strict=True):
        rows = np.flatnonzero(each.length == best)
        row, token, count = query.followers(Found(*(column[rows] for column in each)))
        parts.append(Followers(rows[row], np.where(token == query.shard.separator, END, token), count))
    row, token, count = parts[0] if len(parts) == 1 else _summed(_concatenated(parts))
    return Followers(row + first, token, count)


def _concatenated(parts: Sequence[Followers]) -> Followers:
    return Followers(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _summed(counted: Followers) -> Followers:
    """Counts of the same token in the same row, added."""
    order = np.lexsort((counted.token, counted.row))
    row, token, count = (column[order] for column in counted)
    new = np.flatnonzero(np.concatenate([[True], (row[1:] != row[:-1]) | (token[1:] != token[:-1])])[: len(row)])
    return Followers(row[new], token[new], np.add.reduceat(count, new) if len(new) else count)


def _added(found: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    token, count = (np.concatenate(columns) for columns in zip(*found, strict=True))
    _, token, count = _summed(Followers(np.zeros(len(token), np.int64), token, count))
    return token, count


def _all_of(shard: Shard, length: int, low: int, high: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The places of a range in the order of the corpus; without a match, every place and every end of a document."""
    places = np.sort(shard.places(low, high)) if length else np.arange(shard.n_places)
    return places, np.ones(len(places))


def _some_of(shard: Shard, length: int, low: int, high: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """One place for each token that follows the range, and how often it does."""
    _, counts = followers_of_one(shard, length, low, high)
    first = low + np.cumsum(counts) - counts
    ends = first >= len(shard.order)
    places = np.where(ends, shard.n_places - 1, shard.order[np.minimum(first, len(shard.order) - 1)])
    return places.astype(np.int64), counts.astype(np.float64)
