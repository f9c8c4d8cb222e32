"""Byte-pair encoding of a small alphabet of characters, merge by merge: few tokens, all of them strings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int

from nextlens.models.arguments import at_least
from nextlens.models.vocabulary import Symbols, in_range


@dataclass(frozen=True)
class Merges:
    """A vocabulary of characters, and of pairs that were joined, in order.

    Encoding splits a text into characters and applies every merge in its order, from the left. Domain: texts of these
    characters. Not every token string is one that encoding gives: several spell one text.

    Parameters
    ----------
    symbols : str
        The characters, each once: tokens 0, 1, ...
    pairs : tuple of (int, int)
        Token ``len(symbols) + i`` is the i-th pair joined.

    Raises
    ------
    ValueError
        If a pair joins a token that is not there yet, or is joined twice.

    Examples
    --------
    >>> ab = Merges("ab", ((0, 1), (2, 2)))
    >>> ab.encode("ababaab").tolist(), ab.pieces
    ([3, 0, 2], ('a', 'b', 'ab', 'abab'))
    """

    symbols: str
    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        first = Symbols(self.symbols).n_tokens
        if len(set(self.pairs)) < len(self.pairs):
            raise ValueError("pairs hold one pair twice; each is joined once")
        for i, pair in enumerate(self.pairs):
            if not 0 <= min(pair) <= max(pair) < first + i:
                raise ValueError(f"pairs[{i}]={pair} joins a token that is not one of 0 .. {first + i - 1} yet")

    @classmethod
    def trained(cls, text: str, n_merges: int, symbols: str | None = None) -> Merges:
        """The most frequent pair joined, and again; of equals, the larger pair of numbers.

        Raises
        ------
        ValueError
            If the text has no pair left to join.
        """
        at_least("n_merges", n_merges, 0)
        symbols = "".join(sorted(set(text))) if symbols is None else symbols
        tokens, pairs = Symbols(symbols).encode(text).tolist(), []
        for i in range(n_merges):
            counted = Counter(pairwise(tokens))
            if not counted:
                raise ValueError(f"n_merges={n_merges}, and after {i} the text is one token")
            pair = max(counted, key=lambda one: (counted[one], one))
            pairs.append(pair)
            tokens = _joined(tokens, pair, len(symbols) + i)
        return cls(symbols, tuple(pairs))

    @property
    def n_tokens(self) -> int:
        return len(self.symbols) + len(self.pairs)

    @cached_property
    def pieces(self) -> tuple[str, ...]:
        """What each token spells."""
        spelled = list(self.symbols)
        for left, right in self.pairs:
            spelled.append(spelled[left] + spelled[right])
        return tuple(spelled)

    def encode(self, text: str) -> Int[np.ndarray, " time"]:
        """Token ids, int64.

        Raises
        ------
        ValueError
            At the first character that is not a symbol.
        """
        tokens = Symbols(self.symbols).encode(text).tolist()
        for i, pair in enumerate(self.pairs):
            tokens = _joined(tokens, pair, len(self.symbols) + i)
        return np.array(tokens, dtype=np.int64)

    def decode(self, tokens: Iterable[SupportsIndex]) -> str:
        """The text that the tokens spell.

        Raises
        ------
        ValueError
            If a token is out of range.
        TypeError
            If a token is no integer.
        """
        return "".join(self.pieces[token] for token in in_range(tokens, self.n_tokens))


def _joined(tokens: list[int], pair: tuple[int, int], into: int) -> list[int]:
    found, i = [], 0
    while i < len(tokens):
        if i + 1 < len(tokens) and (tokens[i], tokens[i + 1]) == pair:
            found.append(into)
            i += 2
        else:
            found.append(tokens[i])
            i += 1
    return found
