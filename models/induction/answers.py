"""What the parts of a GIM answer in the same contexts, and who of them is heard under a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from nextlens.models.induction.votes import Votes

#: What may answer, in the order of the numbers that ``Answers.source`` gives.
SOURCES = ("corpus", "context", "similar")
CORPUS, CONTEXT, SIMILAR = range(3)


class Threshold(NamedTuple):
    """How long a match must be: ``n < corpus``, or ``n < context``, is too short, and what is alike answers.

    The published model has one number for both, tau. 0 trusts every match.
    """

    corpus: int
    context: int

    @classmethod
    def of(cls, value: Any) -> Threshold:
        """One number for both, or one for each: corpus, context.

        Raises
        ------
        ValueError
            If it is neither, a truth value, or a number below 0.
        """
        both = tuple(value) if isinstance(value, Sequence) else (value, value)
        whole = all(isinstance(one, int | np.integer) and not isinstance(one, bool) and one >= 0 for one in both)
        if len(both) != 2 or not whole:
            raise ValueError(f"threshold={value!r} must be a whole number from 0 up, or two: (corpus, context)")
        return cls(*map(int, both))

    def __str__(self) -> str:
        return str(self.corpus) if self.corpus == self.context else f"{self.corpus} (corpus), {self.context} (context)"


@dataclass(frozen=True, eq=False)
class Answers:
    """What each part of a GIM answers in the same contexts; whatever the threshold, what is said is one of these.

    Parameters
    ----------
    corpus, context, similar : Votes
        A part that is missing has no vote and length 0 in every row.
    """

    corpus: Votes
    context: Votes
    similar: Votes

    def __len__(self) -> int:
        return len(self.corpus)

    @property
    def length(self) -> Int[np.ndarray, " row"]:
        """The effective n: how long the match is of which :meth:`exact` says whose it is."""
        return np.where(self.exact() == CONTEXT, self.context.length, self.corpus.length)

    def exact(self) -> Int[np.ndarray, " row"]:
        """Which of the two exact parts has the longer match: ``CONTEXT`` where they tie and it has a vote."""
        context = (self.context.length >= self.corpus.length) & (self.context.counts > 0)
        return np.where(context | (self.corpus.counts == 0), CONTEXT, CORPUS)

    def short(self, threshold: int | tuple[int, int]) -> Int[np.ndarray, " some"]:
        """Rows whose match is below the threshold."""
        return np.flatnonzero(self.length < np.array(Threshold.of(threshold))[self.exact()])

    def source(self, threshold: int | tuple[int, int]) -> Int[np.ndarray, " row"]:
        """Who answers: ``CORPUS``, ``CONTEXT`` or ``SIMILAR``.

        What is alike answers below the threshold, if it has a vote.
        """
        source = self.exact()
        short = self.short(threshold)
        source[short[self.similar.counts[short] > 0]] = SIMILAR
        return source

    def votes(self, threshold: int | tuple[int, int]) -> Votes:
        """The votes of whoever answers."""
        return Votes.chosen([self.corpus, self.context, self.similar], self.source(threshold))

    def take(self, rows: Int[np.ndarray, " some"]) -> Answers:
        """Some of the rows, in the order given."""
        return Answers(*(part.take(rows) for part in (self.corpus, self.context, self.similar)))

    @staticmethod
    def joined(several: Sequence[Answers]) -> Answers:
        """The rows of all, one after another."""
        return Answers(*(Votes.joined([getattr(one, name) for one in several]) for name in SOURCES))


def silent(n_rows: int) -> Votes:
    """No vote in any row."""
    none = np.zeros(n_rows + 1, np.int64)
    return Votes(none[1:], none, np.empty(0, np.int64), np.empty(0))
