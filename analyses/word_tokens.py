"""Which tokens a word is made of: each token is of exactly one word, so what is said of tokens can be said of words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.vocabulary import Vocabulary

#: How the values of a word's tokens become the word's.
JOINED = ("last", "mean", "sum")


@dataclass(frozen=True, eq=False)
class WordTokens:
    """The tokens of one story, and the word that each is of.

    Attributes
    ----------
    tokens : Int[np.ndarray, "time"]
    word : Int[np.ndarray, "time"]
        Never falls, and misses no word: ``0 0 1 2 2 2 3`` and so on.
    """

    tokens: Int[np.ndarray, " time"]
    word: Int[np.ndarray, " time"]

    def __post_init__(self) -> None:
        steps = np.diff(self.word, prepend=-1)
        if not len(self.word) or not np.isin(steps, (0, 1)).all() or steps[0] != 1:
            raise ValueError(
                "word must begin with 0 and rise by 0 or 1 from token to token: a word has one token or more"
            )

    @classmethod
    def of(cls, texts: Sequence[str], vocabulary: Vocabulary, *, separator: str = " ") -> WordTokens:
        """Each word spelled by itself, with ``separator`` before all but the first.

        So no token can straddle two words, and the tokens together spell the words with a separator between each two.
        Tokenizers that cut texts at spaces anyway spell the whole text the same way.

        Parameters
        ----------
        texts : sequence of str
        vocabulary : Vocabulary
        separator : str, default=" "
            Empty for a vocabulary of whole words.

        Raises
        ------
        ValueError
            If there is no word, or one is spelled with no token.
        """
        if not len(texts):
            raise ValueError("texts is empty; at least one word is needed")
        spelled = [vocabulary.encode(text if number == 0 else separator + text) for number, text in enumerate(texts)]
        counts = np.array([len(tokens) for tokens in spelled])
        if not counts.all():
            number = int(counts.argmin())
            raise ValueError(f"word {number}, {texts[number]!r}, is spelled with no token; every word needs one")
        return cls(np.concatenate(spelled), np.repeat(np.arange(len(texts)), counts))

    @property
    def first(self) -> Int[np.ndarray, " word"]:
        """The first token of each word."""
        return np.flatnonzero(np.diff(self.word, prepend=-1))

    @property
    def last(self) -> Int[np.ndarray, " word"]:
        """The last token of each word."""
        return np.append(self.first[1:], len(self.tokens)) - 1

    def joined(self, values: Float[np.ndarray, " time *width"], how: str) -> Float[np.ndarray, " word *width"]:
        """Values of tokens as values of words.

        Parameters
        ----------
        values : array with one row a token
        how : {"last", "mean", "sum"}
            The value of a word's last token, at which all of the word has been read; or the mean or sum of all.

        Raises
        ------
        ValueError
            If there is not one row a token.
        """
        one_of("how", how, JOINED)
        if len(values) != len(self.tokens):
            raise ValueError(f"values has {len(values)} rows for {len(self.tokens)} tokens; they must be as many")
        if how == "last":
            return values[self.last]
        total = np.add.reduceat(values, self.first, axis=0)
        counts = np.diff(np.append(self.first, len(values)))
        return total / counts.reshape(-1, *[1] * (values.ndim - 1)) if how == "mean" else total


class Window(NamedTuple):
    """Tokens ``start .. end - 1`` are read together, and those from ``new`` on take their values from here."""

    start: int
    new: int
    end: int


def windows(n_tokens: int, length: int, stride: int) -> Iterator[Window]:
    """Windows of ``length`` tokens, each ``stride`` after the one before; every token is new in exactly one.

    A token that is new in a window has at least ``length - stride`` tokens before it there, unless it is near the
    beginning of the text. What no window reaches any more is forgotten: a model with a bounded context.

    Raises
    ------
    ValueError
        If ``n_tokens`` or ``length`` is below 1, or ``stride`` is not within 1 and ``length``.

    Examples
    --------
    >>> [tuple(one) for one in windows(10, 4, 3)]
    [(0, 0, 4), (3, 4, 7), (6, 7, 10)]
    """
    at_least("n_tokens", n_tokens, 1)
    between("stride", stride, 1, at_least("length", length, 1))
    start, new = 0, 0
    while new < n_tokens:
        end = min(start + length, n_tokens)
        yield Window(start, new, end)
        start, new = start + stride, end


def read_in_windows(
    tokens: Int[np.ndarray, " time"],
    read: Callable[[Int[np.ndarray, " some"]], Float[np.ndarray, " some *width"]],
    *,
    length: int,
    stride: int,
) -> Float[np.ndarray, " time *width"]:
    """What ``read`` makes of each token, read window by window (:func:`windows`); ``read`` gives one row a token."""
    parts = [read(tokens[one.start : one.end])[one.new - one.start :] for one in windows(len(tokens), length, stride)]
    return np.concatenate(parts)
