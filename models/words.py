"""One token a word, of the words that are frequent enough."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int

from nextlens.models.arguments import at_least
from nextlens.models.vocabulary import in_range
from nextlens.models.whole_files import write_whole

#: What the file of a vocabulary of words says it is.
KIND = "nextlens words"


@dataclass(frozen=True, repr=False)
class Words:
    """One token a word, in the order given. Domain: these words, one space between each two; the empty text.

    Other texts are refused. :meth:`masked` brings a text into the domain, and is where rare words are lost:
    each is spelled as the ``unknown`` one from then on.

    Parameters
    ----------
    words : tuple of str
    unknown : str, optional
        The one of the words that stands for all that are not among them; None if none does.

    Raises
    ------
    ValueError
        If there is no word, one is empty, holds white space or is given twice, or ``unknown`` is not a word.

    Examples
    --------
    >>> words = Words.of(["the cat and the dog and the bird"], at_least=2, unknown="<unk>")
    >>> words.words, words.masked("and  then the end")
    (('<unk>', 'the', 'and'), 'and <unk> the <unk>')
    >>> words.encode("the <unk>").tolist(), words.decode([2, 1])
    ([1, 0], 'and the')
    """

    words: tuple[str, ...]
    unknown: str | None = None

    def __post_init__(self) -> None:
        if not self.words:
            raise ValueError("words is empty; a vocabulary needs at least one")
        if len(self._number) != len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ValueError(f"words hold {twice!r} twice")
        for word in self.words:
            if word.split() != [word]:
                raise ValueError(f"words hold {word!r}; a word is at least one character, none of them white space")
        if self.unknown is not None and self.unknown not in self._number:
            raise ValueError(f"unknown={self.unknown!r} is not one of the {len(self.words)} words")

    def __repr__(self) -> str:
        return f"Words(n_tokens={self.n_tokens}, unknown={self.unknown!r})"

    @classmethod
    def of(cls, texts: Iterable[str], at_least: int = 1, unknown: str | None = None) -> Words:
        """The words said ``at_least`` so often in all the texts, the frequent first, equals by the alphabet.

        Parameters
        ----------
        texts : iterable of str
            Split at white space.
        at_least : int, default=1
        unknown : str, optional
            Put before all others, as token 0.

        Raises
        ------
        ValueError
            If ``at_least`` is below 1, or no word is left.
        """
        _at_least_one(at_least)
        counts = Counter(word for text in texts for word in text.split())
        frequent = sorted((word for word, count in counts.items() if count >= at_least), key=lambda w: (-counts[w], w))
        if not frequent:
            raise ValueError(f"no word of the texts is said {at_least} times; they hold {len(counts)} words")
        if unknown is not None:
            frequent = [unknown, *(word for word in frequent if word != unknown)]
        return cls(tuple(frequent), unknown)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Words:
        """What :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no vocabulary of words.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no vocabulary at {str(path)!r}")
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            if found["kind"] != KIND or not all(isinstance(word, str) for word in found["words"]):
                raise ValueError("it is of another kind")
            return cls(tuple(found["words"]), found["unknown"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{str(path)!r} holds no vocabulary of words: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON, whole or not at all.

        Raises
        ------
        OSError
            If the file cannot be written, naming it.
        """
        content = {"kind": KIND, "words": self.words, "unknown": self.unknown}
        return write_whole(path, json.dumps(content, ensure_ascii=False, indent=0).encode())

    @property
    def n_tokens(self) -> int:
        return len(self.words)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def masked(self, text: str) -> str:
        """The text split at white space and joined by spaces, with ``unknown`` for every other word.

        Raises
        ------
        ValueError
            At the first word that is not in the vocabulary, if there is no unknown one.
        """
        said = text.split()
        if self.unknown is None:
            self._numbers(said)
        return " ".join(word if word in self._number else self.unknown for word in said)

    def encode(self, text: str) -> Int[np.ndarray, " time"]:
        """Token ids, int64.

        Raises
        ------
        ValueError
            At the first word that is not in the vocabulary, or if anything but one space stands between two.
        """
        said = text.split(" ") if text else []
        if "" in said:
            at = text.find("  ")
            raise ValueError(
                f"text has more than one space at {at}; masked(text) joins words by one"
                if at >= 0
                else "text begins or ends with a space; masked(text) joins words by one, with none outside"
            )
        return np.array(self._numbers(said), dtype=np.int64)

    def decode(self, tokens: Iterable[SupportsIndex]) -> str:
        """The words, one space between each two.

        Raises
        ------
        ValueError
            If a token is out of range.
        TypeError
            If a token is no integer.
        """
        return " ".join(self.words[token] for token in in_range(tokens, self.n_tokens))

    def _numbers(self, said: list[str]) -> list[int]:
        try:
            return [self._number[word] for word in said]
        except KeyError as error:
            at = said.index(error.args[0])
            raise ValueError(
                f"text has {said[at]!r} as word {at}, which is not one of the {self.n_tokens} words"
                + ("" if self.unknown is None else f"; masked(text) spells it {self.unknown!r}")
            ) from None


def _at_least_one(count: int) -> None:
    at_least("at_least", count, 1)
