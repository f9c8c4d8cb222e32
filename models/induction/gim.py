"""The Generalized Induction-Head Model: the longest match in context or corpus, or what is alike if none is long."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.induction.answers import SIMILAR, SOURCES, Answers, Threshold, silent
from nextlens.models.induction.explanation import Explanation, explain
from nextlens.models.induction.votes import Matcher, Places, Reader, Votes


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
        answers = Answers(corpus, context, silent(len(positions)))
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

    def explain(self, tokens: Int[np.ndarray, " time"], position: int | None = None, **how: Any) -> Explanation:
        """Who predicts what follows ``tokens[: position + 1]``, and from which places; after all tokens if None.

        Takes ``vocabulary``, ``names``, ``most`` and ``around`` as
        :func:`~nextlens.models.induction.explanation.explain` does.
        """
        return explain(self, tokens, position, **how)

    def reader(self) -> GIMReader:
        """Reads one token at a time; so does each part."""
        return GIMReader(self)

    def _ask(self, name: str, tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"]) -> Votes:
        part = self.parts.get(name)
        return silent(len(positions)) if part is None or not len(positions) else part.votes(tokens, positions)


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
        self.answers = Answers(*(said.get(name, silent(1)) for name in SOURCES))
        return self.answers.votes(self.matcher.threshold)


def _positions(tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"] | None) -> Int[np.ndarray, " row"]:
    at_least("the number of tokens", len(tokens), 1)
    if positions is None:
        return np.arange(len(tokens))
    positions = np.asarray(positions)
    if len(positions) and not 0 <= positions.min() <= positions.max() < len(tokens):
        worst = positions.min() if positions.min() < 0 else positions.max()
        raise ValueError(f"positions hold {worst}; with {len(tokens)} tokens they must lie in 0 .. {len(tokens) - 1}")
    return positions
