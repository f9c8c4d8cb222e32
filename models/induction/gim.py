"""The Generalized Induction-Head Model: the longest match in context or corpus, or what is alike if none is long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.induction.votes import Matcher, Places, Reader, Votes

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
            If it is neither, or a number is below 0.
        """
        both = tuple(value) if isinstance(value, Sequence) else (value, value)
        if len(both) != 2 or not all(isinstance(one, int | np.integer) and one >= 0 for one in both):
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


class GIM(Matcher):
    """Prediction by pointing: at the longest match if it is long enough, else at everything that is alike.

    With ``n_context`` and ``n_corpus`` the lengths of the longest suffixes found in the context and in the corpus::

        if n_context >= n_corpus: the context answers, n = n_context       (ties go to the context)
        else:                     the corpus answers,  n = n_corpus
        if n < threshold:         what is alike answers instead; nothing is interpolated

    A part without a vote leaves the word to the others: an empty context to the corpus, whose n is then 0 and
    whose answer is how often each token occurs. If nothing votes, the law is uniform.

    Parameters
    ----------
    infinigram : Matcher, optional
        The longest match in a corpus: an :class:`~nextlens.models.induction.infinigram.InfiniGram`.
    exact : Matcher, optional
        The longest match in the context: an :class:`~nextlens.models.induction.exact.ExactInduction`.
    fuzzy : Matcher, optional
        What is alike: a :class:`~nextlens.models.induction.fuzzy.FuzzyInduction`, by whatever features.
    threshold : int or (int, int)
        The published tau, 8 for the tokens of GPT-2 and 9 for those of LLaMA-2; two for a threshold of the corpus
        and one of the context. It depends on tokens, corpus and matcher: see
        :func:`~nextlens.models.induction.threshold.fit_threshold`.
    floor : float, default=0
        See :class:`~nextlens.models.induction.votes.Matcher`; those of the parts count for nothing.

    Raises
    ------
    ValueError
        If there is no part, two parts have different vocabularies, or a number is out of range.

    Notes
    -----
    Kim et al., Interpretable next-token prediction via the Generalized Induction Head (arXiv:2411.00066); its code
    answers with the exact match at ``n == tau``, and so does this.
    """

    def __init__(
        self,
        infinigram: Matcher | None = None,
        exact: Matcher | None = None,
        fuzzy: Matcher | None = None,
        *,
        threshold: int | tuple[int, int],
        floor: float = 0.0,
    ):
        self.infinigram, self.exact, self.fuzzy = infinigram, exact, fuzzy
        sizes = {name: part.n_tokens for name, part in self.parts.items()}
        if not sizes:
            raise ValueError("infinigram, exact and fuzzy are all None; give at least one matcher")
        if len(set(sizes.values())) > 1:
            held = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ValueError(f"the parts have vocabularies of different sizes: {held}")
        self.n_tokens = next(iter(sizes.values()))
        self.threshold = Threshold.of(threshold)
        self.floor = between("floor", floor, 0, 1)

    @property
    def parts(self) -> dict[str, Matcher]:
        """The parts that there are, by source."""
        parts = zip(SOURCES, (self.infinigram, self.exact, self.fuzzy), strict=True)
        return {source: part for source, part in parts if part is not None}

    def with_(self, *, threshold: int | tuple[int, int] | None = None, floor: float | None = None) -> GIM:
        """The same parts under another threshold or floor."""
        chosen = self.threshold if threshold is None else threshold
        parts = (self.infinigram, self.exact, self.fuzzy)
        return GIM(*parts, threshold=chosen, floor=self.floor if floor is None else floor)

    def answers(self, tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"] | None = None) -> Answers:
        """What each part says, for every threshold at once.

        Raises
        ------
        ValueError
            If there is no token, or a position is none of ``tokens``.
        """
        positions = _positions(tokens, positions)
        return Answers(*(self._ask(name, tokens, positions) for name in SOURCES))

    def votes(self, tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"] | None = None) -> Votes:
        """Row ``r`` follows ``tokens[: positions[r] + 1]``; every position if None.

        Only rows whose match is too short are asked of the fuzzy part.

        Raises
        ------
        ValueError
            If there is no token, or a position is none of ``tokens``.
        """
        positions = _positions(tokens, positions)
        corpus, context = (self._ask(name, tokens, positions) for name in SOURCES[:SIMILAR])
        answers = Answers(corpus, context, _silent(len(positions)))
        short, choice = answers.short(self.threshold), answers.exact()
        similar = self._ask("similar", tokens, positions[short])
        options = Votes.joined([corpus, context, similar])
        row = choice * len(positions) + np.arange(len(positions))
        heard = similar.counts > 0
        row[short[heard]] = 2 * len(positions) + np.flatnonzero(heard)
        return options.take(row)

    def places(self, tokens: Int[np.ndarray, " time"]) -> Places:
        """The places of whoever answers after the whole of ``tokens``."""
        last = _positions(tokens, np.array([len(tokens) - 1]))
        return self.places_of(SOURCES[int(self.answers(tokens, last).source(self.threshold)[0])], tokens)

    def places_of(self, source: str, tokens: Int[np.ndarray, " time"]) -> Places:
        """The places that one part points at; none if it is missing."""
        part = self.parts.get(one_of("source", source, SOURCES))
        if part is None:
            none = np.empty(0, np.int64)
            return Places(source, 0, none, none, none, np.empty(0))
        return part.places(tokens)

    def reader(self) -> GIMReader:
        """Reads one token at a time; so does each part."""
        return GIMReader(self)

    def _ask(self, name: str, tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"]) -> Votes:
        part = self.parts.get(name)
        return _silent(len(positions)) if part is None or not len(positions) else part.votes(tokens, positions)


class GIMReader(Reader):
    """What a GIM says as the tokens come in.

    Parameters
    ----------
    gim : GIM

    Attributes
    ----------
    answers : Answers, optional
        What each part said after the last token; None before the first.
    """

    def __init__(self, gim: GIM):
        self.matcher = gim
        self.answers: Answers | None = None
        self._readers = {name: part.reader() for name, part in gim.parts.items()}

    def read(self, token: int) -> Votes:
        """One row: what follows all the tokens read so far, this one the last of them."""
        said = {name: reader.read(token) for name, reader in self._readers.items()}
        self.answers = Answers(*(said.get(name, _silent(1)) for name in SOURCES))
        return self.answers.votes(self.matcher.threshold)


def _silent(n_rows: int) -> Votes:
    """No vote in any row."""
    none = np.zeros(n_rows + 1, np.int64)
    return Votes(none[1:], none, np.empty(0, np.int64), np.empty(0))


def _positions(tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"] | None) -> Int[np.ndarray, " row"]:
    at_least("the number of tokens", len(tokens), 1)
    if positions is None:
        return np.arange(len(tokens))
    if len(positions) and not 0 <= positions.min() <= positions.max() < len(tokens):
        worst = positions.min() if positions.min() < 0 else positions.max()
        raise ValueError(f"positions hold {worst}; with {len(tokens)} tokens they must lie in 0 .. {len(tokens) - 1}")
    return positions
