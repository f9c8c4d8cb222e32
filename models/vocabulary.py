"""From text to tokens and back; the law is ``decode(encode(text)) == text`` on the stated domain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Int


@runtime_checkable
class Vocabulary(Protocol):
    """An encoder and its decoder.

    The law: ``decode(encode(text)) == text`` for every text of the domain; other texts are refused,
    never altered. The other way round need not hold: several token strings may spell one text.

    Attributes
    ----------
    n_tokens : int
        Tokens are ``0 .. n_tokens - 1``.
    """

    @property
    def n_tokens(self) -> int: ...

    def encode(self, text: str) -> Int[np.ndarray, " time"]:
        """Token ids, int64."""
        ...

    def decode(self, tokens: Iterable[SupportsIndex]) -> str:
        """The text that the tokens spell."""
        ...


@dataclass(frozen=True)
class Symbols:
    """One token a character, in the order given. Domain: texts made of these characters.

    Raises
    ------
    ValueError
        If a symbol is not one character, or is given twice.

    Examples
    --------
    >>> bits = Symbols("01")
    >>> bits.encode("0110").tolist(), bits.decode([1, 0])
    ([0, 1, 1, 0], '10')
    """

    symbols: str

    def __post_init__(self) -> None:
        if not self.symbols or len(set(self.symbols)) != len(self.symbols):
            raise ValueError(f"symbols={self.symbols!r} must hold at least one character, each once")

    @classmethod
    def of(cls, text: str) -> Symbols:
        """The characters of ``text``, sorted."""
        return cls("".join(sorted(set(text))))

    @property
    def n_tokens(self) -> int:
        return len(self.symbols)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    def encode(self, text: str) -> Int[np.ndarray, " time"]:
        """Token ids, int64.

        Raises
        ------
        ValueError
            At the first character that is not a symbol.
        """
        try:
            return np.array([self._number[character] for character in text], dtype=np.int64)
        except KeyError:
            at = next(i for i, character in enumerate(text) if character not in self._number)
            raise ValueError(f"text has {text[at]!r} at {at}, which is not one of {self.symbols!r}") from None

    def decode(self, tokens: Iterable[SupportsIndex]) -> str:
        """The text that the tokens spell.

        Raises
        ------
        ValueError
            If a token is out of range.
        TypeError
            If a token is no integer.
        """
        return "".join(self.symbols[token] for token in in_range(tokens, self.n_tokens))


@dataclass(frozen=True)
class Bytes:
    """One token a byte of UTF-8. Domain: every text that UTF-8 can hold (no lone surrogates).

    Examples
    --------
    >>> Bytes().encode("é").tolist(), Bytes().decode([195, 169])
    ([195, 169], 'é')
    """

    @property
    def n_tokens(self) -> int:
        return 256

    def encode(self, text: str) -> Int[np.ndarray, " time"]:
        """Token ids, int64.

        Raises
        ------
        ValueError
            If the text holds a lone surrogate.
        """
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)

    def decode(self, tokens: Iterable[SupportsIndex]) -> str:
        """The text that the bytes spell; bytes that are no UTF-8 become U+FFFD.

        Raises
        ------
        ValueError
            If a token is out of range.
        TypeError
            If a token is no integer.
        """
        return bytes(in_range(tokens, 256)).decode(errors="replace")


def fitting(vocabulary: Vocabulary | None, n_tokens: int) -> Vocabulary | None:
    """``vocabulary``, if a model of ``n_tokens`` can read all that it says.

    Raises
    ------
    ValueError
        If it holds more tokens than the model.

    Examples
    --------
    >>> fitting(Bytes(), 3)
    Traceback (most recent call last):
    ...
    ValueError: vocabulary holds 256 tokens and the model n_tokens=3: it is the vocabulary of another model
    """
    if vocabulary is not None and vocabulary.n_tokens > n_tokens:
        raise ValueError(
            f"vocabulary holds {vocabulary.n_tokens} tokens and the model n_tokens={n_tokens}: "
            "it is the vocabulary of another model"
        )
    return vocabulary


def in_range(tokens: Iterable[SupportsIndex], n_tokens: int) -> list[int]:
    ids = [index(token) for token in tokens]
    if ids and not (min(ids) >= 0 and max(ids) < n_tokens):
        worst = min(ids) if min(ids) < 0 else max(ids)
        raise ValueError(f"tokens hold {worst}; with n_tokens={n_tokens} they must lie in 0 .. {n_tokens - 1}")
    return ids
