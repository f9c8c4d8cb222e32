"""Stretches of text in which every model predicts the same tokens from the same contexts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from nextlens.models.arguments import at_least
from nextlens.models.induction.votes import Matcher, Votes
from nextlens.models.tasks.corpus import Corpus


@dataclass(frozen=True, eq=False)
class Stretches:
    """Pieces of documents, and where in them predictions are made.

    Parameters
    ----------
    tokens : tuple of Int[np.ndarray, "time"]
        All of one length.
    positions : Int[np.ndarray, "row"]
        The last token read for each prediction, in every stretch the same.
    context : int
        How many tokens a prediction is made from, that one the last of them.
    document : tuple of str
        Where each stretch is from.
    """

    tokens: tuple[Int[np.ndarray, " _"], ...]
    positions: Int[np.ndarray, " row"]
    context: int
    document: tuple[str, ...]

    def __len__(self) -> int:
        """How many stretches."""
        return len(self.tokens)

    @property
    def targets(self) -> Int[np.ndarray, " prediction"]:
        """What came, stretch by stretch."""
        return np.concatenate([tokens[self.positions + 1] for tokens in self.tokens])

    @property
    def stretch(self) -> Int[np.ndarray, " prediction"]:
        """The number of the stretch of each prediction."""
        return np.repeat(np.arange(len(self)), len(self.positions))

    @property
    def documents(self) -> np.ndarray:
        """The name of the document of each prediction."""
        return np.repeat(np.array(self.document), len(self.positions))

    @property
    def document_number(self) -> Int[np.ndarray, " prediction"]:
        """The number of the document of each prediction, in the order of their names."""
        return np.unique(self.documents, return_inverse=True)[1]

    def votes(self, matcher: Matcher) -> Votes:
        """What a matcher says at every prediction, of all of the stretch up to there.

        For matchers whose own window is the context, and for those that read a few tokens back.
        """
        return Votes.joined([matcher.votes(tokens[:-1], self.positions) for tokens in self.tokens])

    def windowed_votes(self, matcher: Matcher) -> Votes:
        """What a matcher says at every prediction, given the tokens of its context alone."""
        last = np.array([self.context - 1])
        return Votes.joined(
            [
                matcher.votes(tokens[at + 1 - self.context : at + 1], last)
                for tokens in self.tokens
                for at in self.positions
            ]
        )


def stretches_of(corpus: Corpus, n: int, *, context: int, every: int, each: int, rng: np.random.Generator) -> Stretches:
    """Stretches that do not overlap, drawn evenly over the documents.

    A stretch has ``context + every * (each - 1) + 1`` tokens; its predictions, one every so many, have contexts of
    ``context`` tokens each.

    Parameters
    ----------
    corpus : Corpus
    n : int
        How many. Documents that have too few leave them to the others.

    Raises
    ------
    ValueError
        If a number is below 1, or all documents together do not hold so many.
    """
    for name, value in (("n", n), ("context", context), ("every", every), ("each", each)):
        at_least(name, value, 1)
    length = context + every * (each - 1) + 1
    places = [rng.permutation(int(tokens) // length).tolist() for tokens in corpus.lengths]
    if sum(map(len, places)) < n:
        raise ValueError(
            f"n={n} stretches of {length} tokens are more than the {sum(map(len, places))} that the "
            f"{len(corpus)} documents hold; lower it, or context={context}"
        )
    chosen: list[tuple[int, int]] = []
    while len(chosen) < n:
        for document, left in enumerate(places):
            if left and len(chosen) < n:
                chosen.append((document, left.pop()))
    chosen.sort()
    tokens = tuple(corpus.documents[d][at * length : (at + 1) * length].astype(np.int64) for d, at in chosen)
    positions = context - 1 + every * np.arange(each)
    return Stretches(tokens, positions, context, tuple(corpus.names[d] for d, _ in chosen))
