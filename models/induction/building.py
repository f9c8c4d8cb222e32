"""Documents into shards: as many at a time as a budget of memory allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Integer

from nextlens.models.arguments import at_least
from nextlens.models.induction.shard import LARGEST_SHARD, Shard, width_for
from nextlens.models.vocabulary import Vocabulary

#: Bytes of memory that building takes for each token, at most, by the bytes of a token.
MEMORY = {"pydivsufsort": {1: 20, 2: 28, 4: 70}, "numpy": {1: 115, 2: 118, 4: 126}}


def shards_of(
    documents: Iterable[Any], n_tokens: int, vocabulary: Vocabulary | None, memory: int | None, builder: str
) -> Iterator[Shard]:
    """Shards of as many whole documents as may be built at a time; the next is not begun before the last is taken.

    Parameters
    ----------
    documents : iterable
        Each a sequence of token ids, or a text if there is a vocabulary.
    n_tokens : int
        0 if it is to be seen from the documents.
    vocabulary : Vocabulary, optional
    memory : int, optional
        Bytes.
    builder : str

    Raises
    ------
    ValueError
        If a document is none, holds an id out of range, or alone needs more than ``memory``.
    """
    waiting: list[np.ndarray] = []
    taken, widest = 0, width_for(n_tokens) if n_tokens else 1
    for document in _arrays(documents, n_tokens, vocabulary):
        width = max(widest, document.dtype.itemsize)
        if waiting and taken + len(document) + 1 > _most(memory, width, builder):
            yield Shard.build(_drained(waiting), widest, builder)
            taken, width = 0, document.dtype.itemsize
        if len(document) + 1 > (most := _most(memory, width, builder)):
            raise ValueError(
                f"a document of {len(document):,} tokens needs {_needed(len(document), width, builder):,} bytes "
                f"to build; with memory={memory} a shard holds at most {most:,} tokens, and no document may be cut"
            )
        waiting.append(document)
        taken, widest = taken + len(document) + 1, width
    if waiting:
        yield Shard.build(_drained(waiting), widest, builder)


def _drained(waiting: list[np.ndarray]) -> list[np.ndarray]:
    documents = list(waiting)
    waiting.clear()
    return documents


def _needed(tokens: int, width: int, builder: str) -> int:
    return tokens * MEMORY[builder][width]


def _most(memory: int | None, width: int, builder: str) -> int:
    if memory is None:
        return LARGEST_SHARD
    return min(LARGEST_SHARD, int(at_least("memory", memory, 1)) // _needed(1, width, builder))


def _arrays(
    documents: Iterable[Any], n_tokens: int, vocabulary: Vocabulary | None
) -> Iterator[Integer[np.ndarray, " time"]]:
    """Each document in as few bytes a token as its shard will have.

    Raises
    ------
    ValueError
        If it is no sequence of token ids, naming its number.
    """
    if isinstance(documents, str | bytes):
        raise ValueError("documents is one text; give a list of documents")
    for number, document in enumerate(documents):
        if isinstance(document, str):
            if vocabulary is None:
                raise ValueError(f"document {number} is a text; give the vocabulary to read it with, or token ids")
            document = vocabulary.encode(document)
        found = np.asarray(document)
        if found.ndim == 0:
            raise ValueError(f"document {number} is {document!r}; documents is a list of them, each a sequence of ids")
        if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
            raise ValueError(f"document {number} is {found.dtype} of shape {found.shape}; it must be a sequence of ids")
        low, high = (int(found.min()), int(found.max())) if found.size else (0, 0)
        if low < 0 or (n_tokens and high >= n_tokens):
            worst = low if low < 0 else high
            may = f"0 .. {n_tokens - 1}" if n_tokens else "0 and up"
            raise ValueError(f"document {number} holds {worst}; tokens must lie in {may}")
        yield found.astype(f"u{width_for(n_tokens or high + 1)}")
