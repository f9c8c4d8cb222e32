"""The subword vocabulary of a tokenizer, as a ``Vocabulary``: refused texts rather than altered ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer

from nextlens.models.vocabulary import in_range
from nextlens.models.whole_files import write_whole


@dataclass(frozen=True, eq=False, repr=False)
class Subwords:
    """A tokenizer of the ``tokenizers`` library as a ``Vocabulary``.

    Domain: the texts that come back as they were. For a byte-level BPE (GPT-2, Llama 3, Pythia, SmolLM2)
    that is every text that UTF-8 can hold; a tokenizer that lower-cases, or normalises Unicode, has a
    smaller one. Nothing is put before or after the text: where a model expects a token before it, that
    token is :attr:`beginning`. A special token spelled out in the text is that one token.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer

    Raises
    ------
    ValueError
        If the tokenizer knows no token.
    """

    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        if not self._numbers:
            raise ValueError("tokenizer knows no token")
        object.__setattr__(self, "tokenizer", Tokenizer.from_str(self.tokenizer.to_str()))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def __repr__(self) -> str:
        return f"Subwords(n_tokens={self.n_tokens})"

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Subwords:
        """From a ``tokenizer.json``.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it describes no tokenizer.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no tokenizer at {str(path)!r}")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower class
            raise ValueError(f"{str(path)!r} describes no tokenizer: {error}") from error
        return cls(tokenizer)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a ``tokenizer.json``, whole or not at all; :meth:`from_file` reads it, and so do other programs.

        Raises
        ------
        OSError
            If the file cannot be written, naming it.
        """
        return write_whole(path, self.tokenizer.to_str(pretty=True).encode())

    @property
    def identity(self) -> str:
        """The tokenizer's own description, as JSON: equal after saving and loading."""
        return self.tokenizer.to_str()

    @cached_property
    def n_tokens(self) -> int:
        """One more than the largest token."""
        return 1 + max(self._numbers)

    @cached_property
    def _numbers(self) -> frozenset[int]:
        return frozenset(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @cached_property
    def beginning(self) -> int | None:
        """The token that the tokenizer itself puts before every text; None if it puts none."""
        plain, whole = self._ids("a"), self.tokenizer.encode("a").ids
        at_start = len(whole) > len(plain) and whole[0] != plain[0]
        return whole[0] if at_start else None

    def encode(self, text: str) -> Int[np.ndarray, " time"]:
        """Token ids, int64.

        Raises
        ------
        ValueError
            If the text would not come back as it is, naming the first place.
        """
        ids = self._ids(text)
        back = self.decode(ids)
        if back != text:
            at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, back, strict=False)))
            raise ValueError(
                f"text has {text[at : at + 12]!r} at {at}, which this tokenizer alters to {back[at : at + 12]!r}"
            )
        return np.array(ids, dtype=np.int64)

    def decode(self, tokens: Iterable[SupportsIndex]) -> str:
        """The text that the tokens spell, special tokens included; bytes that are no UTF-8 become U+FFFD.

        Raises
        ------
        ValueError
            If a token is out of range.
        TypeError
            If a token is no integer.
        """
        return self.tokenizer.decode(in_range(tokens, self.n_tokens), skip_special_tokens=False)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids
