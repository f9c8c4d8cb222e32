"""In-context exact induction: the longest run at the end of the context that stood in it before, and what followed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.lib.stride_tricks import sliding_window_view

from nextlens.models.arguments import at_least, between
from nextlens.models.induction.token_ids import checked
from nextlens.models.induction.votes import Matcher, Places, Reader, Votes

#: Candidates are looked at token by token so far back; what is still equal then is measured in linear time.
FILTERED = 48

#: So many votes are counted without NumPy.
FEW = 64

#: How many pairs of positions are compared at a time when every position is asked for.
PAIRS = 1 << 20


class ExactInduction(Matcher):
    """What followed the longest suffix of the context, wherever in the context it stood before.

    Candidates are the prefix ends ``i = 1 .. L-1``; candidate ``i`` proposes ``w[i+1]``::

        c_i = length of the common suffix of w[1..i] and w[1..L]        n = max_i c_i
        votes: one for w[i+1] from every i with c_i = n, if n > 0

    Occurrences may overlap: after ``9 9 9 9`` the match is of three tokens, and 9 is proposed. Without a match
    there is no vote.

    Parameters
    ----------
    n_tokens : int
    window : int, optional
        How many tokens back the context reaches; all of them if None.
    floor : float, default=0
        See :class:`~nextlens.models.induction.votes.Matcher`.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> votes = ExactInduction(10).votes(np.array([1, 2, 3, 1, 2]))
    >>> votes.length.tolist(), votes.token.tolist()
    ([0, 0, 0, 1, 2], [2, 3])
    """

    def __init__(self, n_tokens: int, *, window: int | None = None, floor: float = 0.0):
        self.n_tokens = int(at_least("n_tokens", n_tokens, 1))
        self.window = None if window is None else int(at_least("window", window, 1))
        self.floor = float(between("floor", floor, 0, 1))

    def votes(self, tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"] | None = None) -> Votes:
        """Row ``r`` follows ``tokens[: positions[r] + 1]``; every position if None.

        Raises
        ------
        ValueError
            If a token or a position is out of range.
        """
        tokens = checked("tokens", tokens, self.n_tokens)
        if not len(tokens):
            return Votes.of_rows([])
        if positions is None:
            return self._everywhere(tokens)
        positions = checked("positions", positions, len(tokens))
        return Votes.of_rows([self._at(tokens, end) for end in (positions + 1).tolist()])

    def places(self, tokens: Int[np.ndarray, " time"]) -> Places:
        """Every earlier place in the context where the longest suffix stood, in the order of the context."""
        tokens = checked("tokens", tokens, self.n_tokens)
        start = self._start(len(tokens))
        length, at = longest_match(tokens[start:])
        n = len(at)
        return Places("context", length, np.full(n, -1), at + start, tokens[at + start], np.ones(n))

    def reader(self) -> ExactReader:
        """Reads one token at a time, in time proportional to the context."""
        return ExactReader(self)

    def _start(self, end: int) -> int:
        return 0 if self.window is None else max(0, end - self.window)

    def _at(self, tokens: Int[np.ndarray, " time"], end: int) -> tuple[int, np.ndarray, np.ndarray]:
        context = tokens[self._start(end) : end]
        length, at = longest_match(context)
        return length, *_tally(context[at])

    def _everywhere(self, tokens: Int[np.ndarray, " time"]) -> Votes:
        """By the recurrence ``c_t[i] = (c_{t-1}[i-1] + 1) (w_i == w_t)``, for many ``t`` at a time."""
        reach = max(1, min(len(tokens), self.window or len(tokens)) - 1)
        padded = np.concatenate([np.full(reach, -1), tokens])
        differed = np.full(reach, -1)
        step, rows = max(1, PAIRS // reach), []
        for first in range(0, len(tokens), step):
            part = tokens[first : first + step]
            before = sliding_window_view(padded[first : first + len(part) + reach - 1], reach)
            runs, differed = _runs(part, before, first, differed)
            rows.append(self._voted(part, before, runs, reach))
        return Votes.joined(rows)

    def _voted(self, part: np.ndarray, before: np.ndarray, runs: np.ndarray, reach: int) -> Votes:
        """The votes of some positions; column ``j`` of ``before`` and ``runs`` is ``reach - j`` tokens earlier."""
        if self.window is not None:
            runs = np.minimum(runs, self.window - reach + np.arange(reach))
        length = runs.max(1)
        row, column = np.nonzero((runs == length[:, None]) & (length > 0)[:, None])
        after = np.concatenate([before[:, 1:], part[:, None]], axis=1)[row, column]
        (key, count) = np.unique(row * self.n_tokens + after, return_counts=True)
        row, token = np.divmod(key, self.n_tokens)
        first = np.searchsorted(row, np.arange(len(part) + 1))
        return Votes(length.astype(np.int64), first, token, count.astype(np.float64))


def _runs(
    part: Int[np.ndarray, " row"], before: Int[np.ndarray, "row lag"], first: int, differed: Int[np.ndarray, " lag"]
) -> tuple[Int[np.ndarray, "row lag"], Int[np.ndarray, " lag"]]:
    """For each position and each lag, how long a run of tokens equals the one so much earlier.

    ``differed`` is where each lag last saw two tokens that differ; so it is after the call, too.
    """
    now = np.arange(first, first + len(part))[:, None]
    last = np.where(before == part[:, None], -1, now)
    np.maximum(last[0], differed, out=last[0])
    np.maximum.accumulate(last, axis=0, out=last)
    return now - last, last[-1].copy()


class ExactReader(Reader):
    """What exact induction says as the tokens come in: the recurrence, one step a token."""

    def __init__(self, matcher: ExactInduction):
        super().__init__(matcher)
        self._read = np.zeros(16, np.int64)
        self._runs = np.zeros(16, np.int64)
        self._length = 0

    def read(self, token: int) -> Votes:
        """One row: what follows all the tokens read so far, this one the last of them.

        Raises
        ------
        ValueError
            If the token is out of range.
        """
        (token,) = checked("token", [token], self.matcher.n_tokens)
        if self._length == len(self._read):
            self._read, self._runs = (np.concatenate([one, np.zeros_like(one)]) for one in (self._read, self._runs))
        end = self._length
        self._read[end] = token
        self._length += 1
        # The run at lag d is kept at d - 1, so that it stays where it is from one token to the next.
        lags = end - self.matcher._start(end + 1)
        runs, earlier = self._runs[:lags], self._read[end - lags : end][::-1]
        runs += 1
        runs *= earlier == token
        usable = runs if self.matcher.window is None else np.minimum(runs, self.matcher.window - 1 - np.arange(lags))
        length = int(usable.max(initial=0))
        at = end - np.flatnonzero(usable == length) if length else np.zeros(0, np.int64)
        return Votes.of_rows([(length, *_tally(self._read[at]))])


def _tally(tokens: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """The distinct tokens, rising, and how often each comes; of a few, without NumPy."""
    if len(tokens) > FEW:
        distinct, counted = np.unique(tokens, return_counts=True)
        return distinct, counted.astype(np.float64)
    counts: dict[int, int] = {}
    for token in sorted(tokens.tolist()):
        counts[token] = counts.get(token, 0) + 1
    return np.array(list(counts), np.int64), np.array(list(counts.values()), np.float64)


def longest_match(context: Int[np.ndarray, " time"]) -> tuple[int, Int[np.ndarray, " match"]]:
    """How many tokens at the end of ``context`` stood there before, and the places of those that followed.

    All earlier places of the last token, then those of them with one more equal token before, until none is left.

    Examples
    --------
    >>> length, after = longest_match(np.array([9, 9, 9, 9]))
    >>> length, after.tolist()
    (3, [3])
    """
    end = len(context) - 1
    if end < 1:
        return 0, np.zeros(0, np.int64)
    left = np.flatnonzero(context[:end] == context[end])
    length, kept = 0, left
    while len(left):
        length, kept = length + 1, left
        if length > FILTERED:
            return _measured(context, kept)
        left = left[left >= length] if left[0] < length else left
        left = left[context[left - length] == context[end - length]]
    return length, kept + 1


def _measured(
    context: Int[np.ndarray, " time"], kept: Int[np.ndarray, " candidate"]
) -> tuple[int, Int[np.ndarray, " match"]]:
    """The longest of the candidates ``kept``, by the Z-function of the context read backwards: linear in its length."""
    backwards = context[::-1].tolist()
    n = len(backwards)
    common, left, right = [0] * n, 0, 0
    for i in range(1, n):
        equal = min(right - i, common[i - left]) if i < right else 0
        while i + equal < n and backwards[equal] == backwards[i + equal]:
            equal += 1
        common[i] = equal
        if i + equal > right:
            left, right = i, i + equal
    lengths = np.array(common)[n - 1 - kept]
    length = int(lengths.max())
    return length, kept[lengths == length] + 1
