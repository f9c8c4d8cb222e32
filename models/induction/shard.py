"""One suffix array over documents: where a run of tokens occurs, and what follows it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap

import numpy as np
from jaxtyping import Int, Integer, UInt

from nextlens.models.induction.suffix_sorting import suffix_order

#: The text goes on with separators for so many bytes, so that a word of eight can be read at every token.
PAD = 8

#: The most tokens, separators counted, of one shard: places are four bytes.
LARGEST_SHARD = (1 << 32) - 16


def width_for(n_tokens: int) -> int:
    """How many bytes a token takes, with one id more, the largest, kept as the separator of documents.

    Raises
    ------
    ValueError
        If there are more than ``2**32 - 1`` tokens.

    Examples
    --------
    >>> width_for(255), width_for(256), width_for(65_535), width_for(65_536)
    (1, 2, 2, 4)
    """
    for width in (1, 2, 4):
        if n_tokens < 1 << 8 * width:
            return width
    raise ValueError(f"n_tokens={n_tokens} must be at most {2**32 - 1}: ids are four bytes, one of them the separator")


@dataclass(frozen=True, eq=False)
class Shard:
    """Documents one after another, each closed by a separator, and their places in the order of what follows.

    A separator is larger than every token and no query holds it: so no match goes across documents, places of
    separators come last and are not kept, and among equal suffixes those at the end of a document come last.

    Parameters
    ----------
    text : bytes or mmap
        Tokens, most significant byte first, so that bytes compare as tokens do; with :data:`PAD` bytes more.
    width : int
        Bytes a token.
    order : UInt32[np.ndarray, "token"]
        The suffix array.
    starts : Int64[np.ndarray, "document_plus_one"]
        Where in the text each document begins; the last is the end.
    heads : UInt32[np.ndarray, "distinct 2"]
        Each distinct token, and where in ``order`` the places that begin with it begin.
    """

    text: bytes | mmap
    width: int
    order: UInt[np.ndarray, " token"]
    starts: Int[np.ndarray, " document_plus_one"]
    heads: UInt[np.ndarray, "distinct 2"]

    @classmethod
    def build(cls, documents: Sequence[Integer[np.ndarray, " _"]], width: int, builder: str | None = None) -> Shard:
        """From documents whose tokens fit ``width``."""
        lengths = np.array([len(document) for document in documents], np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths + 1)])
        end, separator = int(starts[-1]), (1 << 8 * width) - 1
        tokens = np.full(end + PAD // width, separator, f"=u{width}")
        for start, document in zip(starts, documents, strict=False):
            tokens[start : start + len(document)] = document
        order = suffix_order(tokens[:end], builder)[: end - len(lengths)]
        return cls(tokens.astype(f">u{width}").tobytes(), width, order, starts, heads_of(tokens[:end], separator))

    def __reduce__(self) -> tuple[type[Shard], tuple[bytes, int, np.ndarray, np.ndarray, np.ndarray]]:
        """To another process whole: what is mapped is copied."""
        return Shard, (self.text[:], self.width, *(np.array(part) for part in (self.order, self.starts, self.heads)))

    @property
    def n_documents(self) -> int:
        return len(self.starts) - 1

    @property
    def n_places(self) -> int:
        """Tokens and document ends: how often the empty run occurs."""
        return int(self.starts[-1])

    @property
    def separator(self) -> int:
        return (1 << 8 * self.width) - 1

    @cached_property
    def tokens(self) -> UInt[np.ndarray, " place"]:
        """The text as big-endian numbers, separators among them."""
        return np.frombuffer(self.text, f">u{self.width}", count=self.n_places)

    @cached_property
    def words(self) -> UInt[np.ndarray, " place"]:
        """The eight bytes from each place on, as one big-endian number."""
        return np.ndarray((self.n_places,), ">u8", buffer=self.text, strides=(self.width,))

    @cached_property
    def _ordered(self) -> memoryview:
        return memoryview(self.order)

    @cached_property
    def _head_tokens(self) -> memoryview:
        return memoryview(np.ascontiguousarray(self.heads[:, 0]))

    @cached_property
    def _head_firsts(self) -> memoryview:
        return memoryview(np.append(self.heads[:, 1], np.uint32(len(self.order))))

    @cached_property
    def head_ranges(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """The distinct tokens, and where in ``order`` the places of each begin and end; then -1, which has none."""
        token, first = self.heads.astype(np.int64).T
        last = np.append(first[1:], len(self.order))[: len(first)]
        return np.append(token, -1), np.append(first, 0), np.append(last, 0)

    def encoded(self, tokens: Integer[np.ndarray, " n"]) -> bytes:
        """The end of ``tokens`` as bytes of this text, after the last one too large to stand in it."""
        if len(tokens) and int(tokens.max()) >= self.separator:
            tokens = tokens[np.flatnonzero(tokens >= self.separator)[-1] + 1 :]
        return tokens.astype(f">u{self.width}").tobytes()

    def head(self, pattern: bytes) -> tuple[int, int]:
        """The range of ``order`` that begins with the first token of ``pattern``."""
        token = int.from_bytes(pattern[: self.width], "big")
        at = bisect_left(self._head_tokens, token)
        if at == len(self._head_tokens) or self._head_tokens[at] != token:
            return 0, 0
        return self._head_firsts[at], self._head_firsts[at + 1]

    def lower(self, pattern: bytes, low: int, high: int) -> int:
        """The first of ``order[low:high]`` whose text is not before ``pattern``; ``high`` if all are."""
        text, order, width, length = self.text, self._ordered, self.width, len(pattern)
        while low < high:
            middle = (low + high) >> 1
            at = order[middle] * width
            if text[at : at + length] < pattern:
                low = middle + 1
            else:
                high = middle
        return low

    def upper(self, pattern: bytes, low: int, high: int) -> int:
        """One past the last of ``order[low:high]`` whose text begins with ``pattern``, as that at ``low`` does."""
        text, order, width, length = self.text, self._ordered, self.width, len(pattern)
        step = 1
        while low + step < high:
            at = order[low + step] * width
            if text[at : at + length] != pattern:
                high = low + step
                break
            low, step = low + step, 2 * step
        low += 1
        while low < high:
            middle = (low + high) >> 1
            at = order[middle] * width
            if text[at : at + length] == pattern:
                low = middle + 1
            else:
                high = middle
        return low

    def begins(self, pattern: bytes, at: int, high: int, followed: bool) -> bool:
        """Whether the text at ``order[at]`` begins with ``pattern``, and then goes on if ``followed``."""
        if at >= high:
            return False
        place, length = self._ordered[at] * self.width, len(pattern)
        if self.text[place : place + length] != pattern:
            return False
        return not followed or self.text[place + length : place + length + self.width] != b"\xff" * self.width

    def range_of(self, pattern: bytes) -> tuple[int, int]:
        """The range of ``order`` that begins with ``pattern``, empty if nothing does."""
        if not pattern:
            return 0, len(self.order)
        low, high = self.head(pattern)
        low = self.lower(pattern, low, high)
        return (low, self.upper(pattern, low, high)) if self.begins(pattern, low, high, False) else (low, low)

    def longest(self, prompt: bytes, followed: bool, known: int = 0) -> tuple[int, int, int]:
        """How many tokens at the end of ``prompt`` occur, and their range of ``order``.

        That a run occurs is monotone in its length, so it is doubled until nothing is found, and bisected.

        Parameters
        ----------
        prompt : bytes
        followed : bool
            Whether to ask for an occurrence that is not at the end of its document.
        known : int, default=0
            If fewer occur, the answer may be any smaller number: it is of no interest.
        """
        width = self.width
        longest = len(prompt) // width
        good, low, high, bad = 0, 0, len(self.order), longest + 1
        trial, doubling = known or 4, True
        while bad - good > 1:
            trial = min(trial, bad - 1)
            pattern = prompt[-trial * width :]
            first, last = self.head(pattern)
            first = self.lower(pattern, first, last)
            if self.begins(pattern, first, last, followed):
                good, low, high = trial, first, last
                trial = 2 * trial if doubling else (good + bad) >> 1
            elif trial == known:
                return 0, 0, len(self.order)
            else:
                bad, doubling = trial, False
                trial = (good + bad) >> 1
            if not doubling:
                trial = (good + bad) >> 1
        return good, low, self.upper(prompt[-good * width :], low, high) if good else high

    def narrowed(self, low: int, high: int, length: int, token: int) -> tuple[int, int]:
        """The part of a range of ``order`` that goes on, after ``length`` tokens, with ``token``."""
        text, order, width, ends = self.text, self._ordered, self.width, []
        if token >= self.separator:
            return low, low
        for bound in (token.to_bytes(width, "big"), (token + 1).to_bytes(width, "big")):
            first, last = low, high
            while first < last:
                middle = (first + last) >> 1
                at = (order[middle] + length) * width
                if text[at : at + width] < bound:
                    first = middle + 1
                else:
                    last = middle
            ends.append(first)
            low = first
        return ends[0], ends[1]

    def one_more(self, tokens: Integer[np.ndarray, " n"], low: int, high: int, followed: bool) -> tuple[int, int, int]:
        """:meth:`longest` for ``tokens``, where the range of all but the last is that answer for what is before it.

        The answer is at most one token longer than the last: ``n_{t+1} <= n_t + 1``.
        """
        length, token = len(tokens) - 1, int(tokens[-1])
        first, last = self.narrowed(low, high, length, token) if length else self.range_of(self.encoded(tokens[-1:]))
        if first < last and (not followed or int(self.tokens[self._ordered[first] + length + 1]) != self.separator):
            return length + 1, first, last
        return self.longest(self.encoded(tokens[1:]), followed)

    def tokens_at(self, low: int, high: int, length: int) -> list[int]:
        """The token ``length`` places after each of a range of ``order``, separators included: they do not fall."""
        text, width = self.text, self.width
        places = [(place + length) * width for place in self._ordered[low:high].tolist()]
        return [int.from_bytes(text[place : place + width], "big") for place in places]

    def places(self, low: int, high: int) -> Int[np.ndarray, " n"]:
        """The places of a range of ``order``."""
        return self.order[low:high].astype(np.int64)

    def located(self, places: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """The document of each place, and the offset in it."""
        document = np.searchsorted(self.starts, places, side="right") - 1
        return document, places - self.starts[document]


def heads_of(tokens: UInt[np.ndarray, " place"], separator: int) -> UInt[np.ndarray, "distinct 2"]:
    """Each distinct token but the separator, and how many places begin with a smaller one."""
    if tokens.dtype.itemsize <= 2:
        parts = (tokens[start : start + (1 << 20)] for start in range(0, len(tokens), 1 << 20))
        counts = sum(np.bincount(part, minlength=separator + 1)[:separator] for part in parts)
        distinct = np.flatnonzero(counts)
        counts = counts[distinct]
    else:
        distinct, counts = np.unique(tokens, return_counts=True)
        if distinct[-1] == separator:
            distinct, counts = distinct[:-1], counts[:-1]
    return np.stack([distinct, np.cumsum(counts) - counts], axis=1).astype(np.uint32)
