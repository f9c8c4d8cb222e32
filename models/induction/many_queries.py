"""Many queries of one shard at once: every step of the search is taken for all of them together, by NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from nextlens.models.induction.shard import Shard

#: Matches longer than this are told apart one by one: comparing them in step would be slow.
LONG = 128

#: A range of at most so many places is read whole; a longer one is cut where its ends differ.
READ_WHOLE = 32

#: One range of at most so many places is counted without NumPy.
FEW = 24

#: One range of at most so many places is read whole when it is the only one.
READ_AT_ONCE = 4096

#: Into how many pieces.
PIECES = 8


class Found(NamedTuple):
    """For each query: how many tokens at its end occur, and their range of the suffix array."""

    length: Int[np.ndarray, " query"]
    low: Int[np.ndarray, " query"]
    high: Int[np.ndarray, " query"]


class Followers(NamedTuple):
    """Which tokens follow in each range, and how often; rows in order, tokens rising within a row."""

    row: Int[np.ndarray, " n"]
    token: Int[np.ndarray, " n"]
    count: Int[np.ndarray, " n"]


class Queries:
    """Runs of tokens, each a stretch of one array of tokens, put to one shard.

    Parameters
    ----------
    shard : Shard
    tokens : Int[np.ndarray, "time"]
        What the runs are stretches of. Tokens that the shard cannot hold occur nowhere in it.
    """

    def __init__(self, shard: Shard, tokens: Int[np.ndarray, " time"]):
        self.shard, self.tokens = shard, tokens
        text = np.minimum(tokens, shard.separator).astype(f">u{shard.width}").tobytes() + bytes(8)
        self.words = np.ndarray((len(tokens),), ">u8", buffer=text, strides=(shard.width,))
        self.per_word = 8 // shard.width
        self.masks = np.array(
            [(1 << 64) - (1 << 8 * (8 - shard.width * n)) for n in range(self.per_word + 1)], dtype=np.uint64
        )
        foreign = np.flatnonzero(tokens >= shard.separator)
        self.readable_from = np.concatenate([[0], foreign + 1])

    def heads(self, at: Int[np.ndarray, " query"]) -> tuple[Int[np.ndarray, " query"], Int[np.ndarray, " query"]]:
        """The range of places that begin with the token at ``at``; empty if it does not occur."""
        known, first, last = self.shard.head_ranges
        token = self.tokens[at]
        found = np.searchsorted(known[:-1], token)
        there = known[found] == token
        return np.where(there, first[found], 0), np.where(there, last[found], 0)

    def sign(
        self, places: Int[np.ndarray, " query"], at: Int[np.ndarray, " query"], length: Int[np.ndarray, " query"]
    ) -> Int[np.ndarray, " query"]:
        """-1, 0, 1 where the text at a place, cut to ``length``, is before, equal to or after the run at ``at``."""
        mask = self.masks[np.minimum(length, self.per_word)]
        theirs = self.shard.words[places].astype(np.uint64) & mask
        ours = self.words[at].astype(np.uint64) & mask
        sign = (theirs > ours).astype(np.int8) - (theirs < ours)
        equal = np.flatnonzero((sign == 0) & (length > self.per_word))
        if len(equal):
            step = self.per_word
            sign[equal] = self.sign(places[equal] + step, at[equal] + step, length[equal] - step)
        return sign

    def bisect(
        self,
        at: Int[np.ndarray, " query"],
        length: Int[np.ndarray, " query"],
        low: Int[np.ndarray, " query"],
        high: Int[np.ndarray, " query"],
        past: bool,
    ) -> Int[np.ndarray, " query"]:
        """The first place of each range that is not before the run; with ``past``, the first that is after it."""
        answer = low.copy()
        rows = np.flatnonzero(low < high)
        at, length, low, high = at[rows], length[rows], low[rows], high[rows]
        while len(rows):
            middle = (low + high) >> 1
            sign = self.sign(self.shard.order[middle].astype(np.int64), at, length)
            right = sign <= 0 if past else sign < 0
            low = np.where(right, middle + 1, low)
            high = np.where(right, high, middle)
            going = low < high
            if not going.all():
                answer[rows[~going]] = low[~going]
                rows, at, length, low, high = (values[going] for values in (rows, at, length, low, high))
        return answer

    def occurs(
        self,
        at: Int[np.ndarray, " query"],
        length: Int[np.ndarray, " query"],
        followed: bool,
    ) -> tuple[Int[np.ndarray, " query"], np.ndarray]:
        """Where in the suffix array each run would stand, and whether it does."""
        first, last = self.heads(at)
        low = self.bisect(at, length, first, last, past=False)
        there = low < last
        rows = np.flatnonzero(there)
        places = self.shard.order[low[rows]].astype(np.int64)
        match = self.sign(places, at[rows], length[rows]) == 0
        if followed:
            match &= self.shard.tokens[np.where(match, places + length[rows], 0)] != self.shard.separator
        there[rows] = match
        return low, there

    def longest(self, ends: Int[np.ndarray, " query"], available: Int[np.ndarray, " query"], followed: bool) -> Found:
        """The longest run that ends before ``ends``, of at most ``available`` tokens, and occurs.

        Searched as :meth:`Shard.longest` does, all queries in step; what is longer than :data:`LONG`, by it.
        """
        good, low = np.zeros(len(ends), np.int64), np.zeros(len(ends), np.int64)
        start = self.readable_from[np.searchsorted(self.readable_from, ends, side="right") - 1]
        available = np.minimum(available, ends - start)
        bad = np.minimum(available, LONG) + 1
        trial, doubling = np.full(len(ends), 4), np.ones(len(ends), bool)
        rows = np.flatnonzero(bad - good > 1)
        while len(rows):
            length = np.minimum(trial[rows], bad[rows] - 1)
            place, there = self.occurs(ends[rows] - length, length, followed)
            yes, no = rows[there], rows[~there]
            good[yes], low[yes], trial[yes] = length[there], place[there], 2 * length[there]
            bad[no], doubling[no] = length[~there], False
            bisecting = rows[~doubling[rows]]
            trial[bisecting] = (good[bisecting] + bad[bisecting]) >> 1
            rows = rows[bad[rows] - good[rows] > 1]
        high = np.full(len(ends), len(self.shard.order))
        some = np.flatnonzero(good)
        at = ends[some] - good[some]
        high[some] = self.bisect(at, good[some], low[some], self.heads(at)[1], past=True)
        found = Found(good, low, high)
        self._lengthen(found, ends, available, followed)
        return found

    def _lengthen(self, found: Found, ends: np.ndarray, available: np.ndarray, followed: bool) -> None:
        """Go on, one by one, where more than :data:`LONG` tokens occur: from the answer a token earlier, if known."""
        before = (-1, 0, 0, 0)
        for row in np.flatnonzero((found.length == LONG) & (available > LONG)):
            end, start = int(ends[row]), int(ends[row] - available[row])
            if before[0] == end - 1 and start <= end - 1 - before[1]:
                answer = self.shard.one_more(self.tokens[end - 1 - before[1] : end], *before[2:], followed)
            else:
                answer = self.shard.longest(self.shard.encoded(self.tokens[start:end]), followed, known=LONG)
            for values, value in zip(found, answer, strict=True):
                values[row] = value
            before = (end, *answer)

    def followers(self, found: Found) -> Followers:
        """What follows each range, ends of documents as separators. Equal ranges are looked at once."""
        keys = np.stack(found)
        key = keys[0] * (len(self.shard.order) + 1) + keys[1]
        _, first, same = np.unique(key, return_index=True, return_inverse=True)
        some = followers(self.shard, Found(*keys[:, first]))
        counts = np.bincount(some.row, minlength=len(first))
        begin = np.cumsum(counts) - counts
        wide = counts[same]
        at = np.arange(wide.sum()) - np.repeat(np.cumsum(wide) - wide, wide) + np.repeat(begin[same], wide)
        return Followers(np.repeat(np.arange(len(same)), wide), some.token[at], some.count[at])


def followers(shard: Shard, found: Found) -> Followers:
    """The distinct tokens after each range, and how often each comes: they stand sorted in the suffix array.

    A piece of a range of which both ends are followed by the same token is counted unread; so a common token
    costs as much as a rare one, and no long range is read whole.
    """
    row, low, high, same = _pieces(shard, found)
    read = np.where(same, 1, high - low)
    at = np.arange(read.sum()) - np.repeat(np.cumsum(read) - read, read) + np.repeat(low, read)
    row = np.repeat(row, read)
    token = _follower(shard, at, found.length[row])
    weight = np.repeat(np.where(same, high - low, 1), read)
    new = np.flatnonzero(np.concatenate([[True], (token[1:] != token[:-1]) | (row[1:] != row[:-1])])[: len(token)])
    counted = Followers(row[new], token[new], np.add.reduceat(weight, new) if len(new) else weight)
    return _with_unigrams(shard, np.flatnonzero(found.length == 0), counted)


def _pieces(shard: Shard, found: Found) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The ranges in pieces that are short, or have one follower: row, low, high, and which; in order."""
    row = np.flatnonzero(found.length)
    low, high, done = found.low[row], found.high[row], []
    while True:
        length = found.length[row]
        same = _follower(shard, low, length) == _follower(shard, high - 1, length)
        ready = same | (high - low <= READ_WHOLE)
        done.append((row[ready], low[ready], high[ready], same[ready]))
        if ready.all():
            break
        row, low, high = row[~ready], low[~ready], high[~ready]
        cuts = low[:, None] + (high - low)[:, None] * np.arange(PIECES + 1) // PIECES
        row, low, high = np.repeat(row, PIECES), cuts[:, :-1].ravel(), cuts[:, 1:].ravel()
    row, low, high, same = (np.concatenate(parts) for parts in zip(*done, strict=True))
    order = np.lexsort((low, row))
    return row[order], low[order], high[order], same[order]


def _follower(shard: Shard, at: Int[np.ndarray, " n"], length: Int[np.ndarray, " n"] | int) -> Int[np.ndarray, " n"]:
    return shard.tokens[shard.order[at].astype(np.int64) + length].astype(np.int64)


def _with_unigrams(shard: Shard, rows: Int[np.ndarray, " row"], counted: Followers) -> Followers:
    """The same with, for rows of which no token was found, how often each token occurs, and ends of documents."""
    if not len(rows):
        return counted
    token = np.append(shard.heads[:, 0].astype(np.int64), shard.separator)
    count = np.diff(np.append(shard.heads[:, 1].astype(np.int64), [len(shard.order), shard.n_places]))
    row = np.concatenate([counted.row, np.repeat(rows, len(token))])
    order = np.argsort(row, kind="stable")
    parts = ((counted.token, token), (counted.count, count))
    return Followers(row[order], *(np.concatenate([one, np.tile(all_, len(rows))])[order] for one, all_ in parts))


def followers_of_one(
    shard: Shard, length: int, low: int, high: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The distinct tokens after one range, rising, and how often each comes; the end of a document, as -1, last."""
    if length and high - low <= FEW:
        return _counted(shard.tokens_at(low, high, length), shard.separator)
    if length and high - low <= READ_AT_ONCE:
        every = _follower(shard, np.arange(low, high), length)
        last = np.flatnonzero(np.append(every[1:] != every[:-1], True))
        token, count = every[last], np.diff(last, prepend=-1)
    else:
        _, token, count = followers(shard, Found(np.array([length]), np.array([low]), np.array([high])))
    if len(token) and token[-1] == shard.separator:
        token[-1] = -1
    return token, count


def _counted(tokens: list[int], separator: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Each of a few tokens that stand in order, and how often; the separator as -1."""
    counts: dict[int, int] = {}
    for token in tokens:
        counts[token] = counts.get(token, 0) + 1
    if separator in counts:
        counts[-1] = counts.pop(separator)
    return np.array(list(counts), np.int64), np.array(list(counts.values()), np.int64)
