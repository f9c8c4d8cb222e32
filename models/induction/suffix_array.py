"""Where a run of tokens occurs in a corpus: suffix arrays, in memory or on disk, in one shard or several."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from nextlens.models.arguments import at_least, one_of
from nextlens.models.induction.building import shards_of
from nextlens.models.induction.index_files import Manifest, open_shard, verify, write_shard, writing
from nextlens.models.induction.shard import Shard, width_for
from nextlens.models.induction.suffix_sorting import BUILDERS, default_builder
from nextlens.models.induction.token_ids import checked
from nextlens.models.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Occurrence:
    """One place of a run of tokens, and what stands around it in its document.

    Attributes
    ----------
    document, offset : int
    before, found, after : Int[np.ndarray, "n"]
    """

    document: int
    offset: int
    before: Int[np.ndarray, " b"]
    found: Int[np.ndarray, " n"]
    after: Int[np.ndarray, " a"]


@dataclass(frozen=True, eq=False)
class SuffixArray:
    """The documents of a corpus, and their places sorted by what follows.

    Several shards, or several of these, count as one index over all their documents: no run goes across
    documents, so counts add.

    Parameters
    ----------
    shards : tuple of Shard
    n_tokens : int
        Tokens are ``0 .. n_tokens - 1``.
    fingerprint : str, optional
        Of the vocabulary.
    end : int, optional
        The token that stands for the end of a document.
    folder : Path, optional
        Where it is saved.
    """

    shards: tuple[Shard, ...]
    n_tokens: int
    fingerprint: str | None = None
    end: int | None = None
    folder: Path | None = None

    @classmethod
    def build(
        cls,
        documents: Iterable[Any],
        n_tokens: int | None = None,
        vocabulary: Vocabulary | None = None,
        memory: int | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        builder: str | None = None,
    ) -> SuffixArray:
        """Index documents: in memory, or at ``path``, which from then on holds this index and no other.

        At ``path`` a shard is written before the documents of the next are read. An index that was there stays
        whole until the new one is, whatever happens.

        Parameters
        ----------
        documents : iterable
            Each a sequence of token ids, or a text if there is a vocabulary.
        n_tokens : int, optional
            By default that of ``vocabulary``, else one more than the largest token.
        vocabulary : Vocabulary, optional
            Its fingerprint is kept: who opens the index with another is refused. If it has an ``eos``, that token
            stands for the end of a document.
        memory : int, optional
            Bytes to build in. What needs more is built in shards, each of whole documents; answers are the same.
        path : path, optional
        builder : {"pydivsufsort", "numpy"}, optional

        Raises
        ------
        ValueError
            If there is no token, a document is no sequence of integers, one holds an id out of range, or one alone
            needs more than ``memory``.
        OSError
            If the files cannot be written.

        Examples
        --------
        >>> index = SuffixArray.build([[1, 2, 1, 2, 3], [2, 1]])
        >>> index.count([2, 1]), index.count([3, 2]), index.n_tokens
        (2, 0, 4)
        """
        builder = one_of("builder", builder or default_builder(), BUILDERS)
        empty = cls((), _agreed(n_tokens, vocabulary), vocabulary and fingerprint(vocabulary), _end_of(vocabulary))
        parts = shards_of(documents, empty.n_tokens, vocabulary, memory, builder)
        return empty._with(parts, None if path is None else Path(path), replacing=True)

    def __reduce__(self) -> tuple[Callable[..., SuffixArray], tuple[Any, ...]]:
        """To another process: one in memory is copied, one that is saved is opened there."""
        if self.folder is not None:
            return SuffixArray.open, (self.folder,)
        return SuffixArray, (self.shards, self.n_tokens, self.fingerprint, self.end)

    @classmethod
    def open(cls, path: str | os.PathLike[str], vocabulary: Vocabulary | None = None) -> SuffixArray:
        """The index at ``path``, mapped: in milliseconds, whatever its size.

        Sizes of files are compared with what was written; for their content see :meth:`verify`.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If a file is damaged, naming it, or the index is of another vocabulary.
        """
        folder = Path(path)
        manifest = Manifest.of(folder)
        shards = tuple(open_shard(folder, entry) for entry in manifest.shards)
        index = cls(shards, manifest.n_tokens, manifest.vocabulary, manifest.end, folder)
        if vocabulary is not None:
            index.refuse_another(vocabulary)
        return index

    def save(self, path: str | os.PathLike[str]) -> SuffixArray:
        """Write all to ``path``, as :meth:`build` does, and open it there."""
        return replace(self, shards=(), folder=None)._with(iter(self.shards), Path(path), replacing=True)

    def add(
        self,
        documents: Iterable[Any],
        vocabulary: Vocabulary | None = None,
        memory: int | None = None,
        *,
        builder: str | None = None,
    ) -> SuffixArray:
        """The index with more documents, numbered on; one that is saved is so with them. Nothing is sorted again.

        Raises
        ------
        ValueError, OSError
            As :meth:`build`; also if ``vocabulary`` is not that of the index.
        """
        builder = one_of("builder", builder or default_builder(), BUILDERS)
        if vocabulary is not None:
            self.refuse_another(vocabulary)
        return self._with(shards_of(documents, self.n_tokens, vocabulary, memory, builder), self.folder)

    def _with(self, parts: Iterator[Shard], folder: Path | None, replacing: bool = False) -> SuffixArray:
        """With further shards; at ``folder``, written there as they come, and the manifest last."""
        if folder is None:
            return self._of((*self.shards, *parts))
        with writing(folder):
            entries = [] if replacing else list(Manifest.of(folder).shards)
            for shard in parts:
                entries.append(write_shard(folder, shard))
                del shard  # or it would stand beside the next one while that is sorted
            index = self._of(tuple(open_shard(folder, entry) for entry in entries))
            Manifest(index.n_tokens, self.fingerprint, self.end, entries).write(folder)
        return replace(index, folder=folder)

    def _of(self, shards: tuple[Shard, ...]) -> SuffixArray:
        """With these shards and no others."""
        largest = [int(shard.heads[-1, 0]) for shard in shards if len(shard.heads)]
        if not largest:
            raise ValueError("documents hold no token: there is nothing to index")
        return replace(self, shards=shards, n_tokens=self.n_tokens or 1 + max(largest))

    def verify(self) -> None:
        """Compare every file of a saved index with its checksum.

        Raises
        ------
        ValueError
            Naming the first file that is damaged; or if the index is not saved.
        """
        if self.folder is None:
            raise ValueError("the index is in memory alone: there is no file to verify")
        verify(self.folder)

    def refuse_another(self, vocabulary: Vocabulary) -> None:
        """Raise unless ``vocabulary`` is the one that the index was built with.

        Raises
        ------
        ValueError
            Then; of an index built without one, only if the number of tokens differs.
        """
        if vocabulary.n_tokens != self.n_tokens:
            raise ValueError(
                f"vocabulary holds {vocabulary.n_tokens} tokens and the index n_tokens={self.n_tokens}: "
                "it is the vocabulary of another index"
            )
        if self.fingerprint is not None and fingerprint(vocabulary) != self.fingerprint:
            raise ValueError("vocabulary is not the one that the index was built with: its tokens spell other texts")

    @property
    def n_documents(self) -> int:
        return sum(shard.n_documents for shard in self.shards)

    def __len__(self) -> int:
        """How many tokens there are in all documents."""
        return sum(len(shard.order) for shard in self.shards)

    def count(self, tokens: Any) -> int:
        """How often a run of tokens occurs; the empty one, before every token and at every end of a document.

        Raises
        ------
        ValueError
            If a token is out of range.
        """
        run = checked("tokens", tokens, self.n_tokens)
        if not len(run):
            return sum(shard.n_places for shard in self.shards)
        return sum(high - low for _, low, high in self._ranges(run))

    def find(self, tokens: Any) -> tuple[Int[np.ndarray, " place"], Int[np.ndarray, " place"]]:
        """Where a run occurs: its documents and its offsets in them, in the order of the corpus.

        Raises
        ------
        ValueError
            If a token is out of range, or there is none.
        """
        run = checked("tokens", tokens, self.n_tokens)
        if not len(run):
            raise ValueError("tokens are empty, and occur everywhere")
        document, offset, first = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for shard, low, high in self._ranges(run):
            found, at = shard.located(np.sort(shard.places(low, high)))
            document.append(found + first)
            offset.append(at)
            first += shard.n_documents
        return np.concatenate(document), np.concatenate(offset)

    def locate(self, tokens: Any, *, most: int = 10, around: int = 8) -> list[Occurrence]:
        """The first ``most`` occurrences of a run, each with ``around`` tokens before and after it.

        Raises
        ------
        ValueError
            As :meth:`find`, or if ``most`` or ``around`` is negative.
        """
        at_least("most", most, 0)
        at_least("around", around, 0)
        document, offset = self.find(tokens)
        n, found = len(np.asarray(tokens)), []
        for d, o in zip(document[:most].tolist(), offset[:most].tolist(), strict=True):
            text = self.document(d)
            found.append(Occurrence(d, o, text[max(0, o - around) : o], text[o : o + n], text[o + n : o + n + around]))
        return found

    def document(self, number: int) -> Int[np.ndarray, " time"]:
        """The tokens of one document.

        Raises
        ------
        ValueError
            If there is no such document.
        """
        at = number
        for shard in self.shards:
            if 0 <= at < shard.n_documents:
                return shard.tokens[shard.starts[at] : shard.starts[at + 1] - 1].astype(np.int64)
            at -= shard.n_documents
        raise ValueError(f"document={number} must lie in 0 .. {self.n_documents - 1}")

    def _ranges(self, run: Int[np.ndarray, " n"]) -> Iterator[tuple[Shard, int, int]]:
        for shard in self.shards:
            pattern = shard.encoded(run)
            whole = len(pattern) == len(run) * shard.width
            yield shard, *(shard.range_of(pattern) if whole else (0, 0))


def fingerprint(vocabulary: Vocabulary) -> str:
    """A hash of what each token spells; of a vocabulary that has an ``identity``, of that.

    Tokens that are parts of a character all spell U+FFFD, so of a tokenizer its own description is hashed.

    Examples
    --------
    >>> from nextlens.models.vocabulary import Symbols
    >>> fingerprint(Symbols("ab")) == fingerprint(Symbols("ba"))
    False
    """
    digest = hashlib.sha256(str(vocabulary.n_tokens).encode())
    identity: str | None = getattr(vocabulary, "identity", None)
    if identity is not None:
        digest.update(b"\0" + identity.encode())
        return f"sha256:{digest.hexdigest()}"
    for token in range(vocabulary.n_tokens):
        digest.update(b"\0" + vocabulary.decode([token]).encode(errors="surrogatepass"))
    return f"sha256:{digest.hexdigest()}"


def _agreed(n_tokens: int | None, vocabulary: Vocabulary | None) -> int:
    """How many tokens there are; 0 if nobody has said."""
    if n_tokens is not None:
        at_least("n_tokens", n_tokens, 1)
        width_for(n_tokens)
    if vocabulary is not None and n_tokens not in (None, vocabulary.n_tokens):
        raise ValueError(f"n_tokens={n_tokens}, and vocabulary holds {vocabulary.n_tokens}; leave n_tokens out")
    return vocabulary.n_tokens if vocabulary is not None else n_tokens or 0


def _end_of(vocabulary: Vocabulary | None) -> int | None:
    end = getattr(vocabulary, "eos", None)
    return None if end is None else int(end)
