"""Text as a task: documents of tokens, kept apart, and the windows that are cut from them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import index
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Int

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.processes.sampling import BatchStream
from nextlens.models.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Windows:
    """Places to predict from: ``context`` tokens of one document, and the one token that follows them.

    Parameters
    ----------
    context : int
    document : Int[np.ndarray, "window"]
        Which document of the corpus.
    start : Int[np.ndarray, "window"]
        Where in it the context begins; the target stands at ``start + context``.
    """

    context: int
    document: Int[np.ndarray, " window"]
    start: Int[np.ndarray, " window"]

    def __len__(self) -> int:
        return len(self.start)

    def take(self, windows: Int[np.ndarray, " some"] | Bool[np.ndarray, " window"]) -> Windows:
        """Some of them."""
        return Windows(self.context, self.document[windows], self.start[windows])


class Corpus:
    """Documents of tokens. Nothing is read, drawn or predicted across the end of one.

    Parameters
    ----------
    documents : sequence of integers of shape (time,)
        No separators: they are kept apart as they are. An empty one is refused.
    vocabulary : Vocabulary, optional
        What the tokens spell; None for symbols that spell nothing.
    names : sequence of str, optional
        One a document, each once; ``"0"``, ``"1"`` ... if None.
    n_tokens : int, optional
        Size of the vocabulary, if there is none to say it; one more than the largest token if None.

    Attributes
    ----------
    documents : tuple of Int[np.ndarray, "time"]
        Read-only views of one array.

    Raises
    ------
    ValueError
        If there is no document, one is empty, not of integers or holds a token that is not below
        ``n_tokens``, or the names do not fit. The document is named.

    Examples
    --------
    >>> corpus = Corpus([[0, 1, 2, 0, 1], [2, 2, 1]])
    >>> corpus
    <Corpus of 2 documents: 8 tokens of 3>
    >>> windows = corpus.windows(context=2, every=2)
    >>> corpus.contexts(windows).tolist(), corpus.targets(windows).tolist()
    ([[0, 1], [2, 0], [2, 2]], [2, 1, 1])
    """

    def __init__(
        self,
        documents: Sequence[Any],
        vocabulary: Vocabulary | None = None,
        *,
        names: Sequence[str] | None = None,
        n_tokens: int | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.names = tuple(map(str, range(len(documents)) if names is None else names))
        if not len(documents):
            raise ValueError("documents is empty; a corpus needs at least one")
        if len(self.names) != len(documents) or len(set(self.names)) != len(documents):
            raise ValueError(
                f"names are {len(set(self.names))} different ones for {len(documents)} documents; each has its own"
            )
        read = [_tokens(document, name) for document, name in zip(documents, self.names, strict=True)]
        if vocabulary is not None and n_tokens not in (None, vocabulary.n_tokens):
            raise ValueError(f"n_tokens={n_tokens} and the vocabulary's {vocabulary.n_tokens} differ; leave it out")
        if vocabulary is not None:
            n_tokens = vocabulary.n_tokens
        self.n_tokens = 1 + max(int(document.max()) for document in read) if n_tokens is None else int(n_tokens)
        for document, name in zip(read, self.names, strict=True):
            if document.max() >= self.n_tokens:
                raise ValueError(
                    f"document {name!r} holds {document.max()}; with n_tokens={self.n_tokens} "
                    f"tokens lie in 0 .. {self.n_tokens - 1}"
                )
        self._first = np.concatenate([[0], np.cumsum([len(document) for document in read])])
        self._tokens = np.concatenate(read, dtype=np.int32 if self.n_tokens <= 2**31 else np.int64, casting="unsafe")
        self._tokens.setflags(write=False)

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], vocabulary: Vocabulary) -> Corpus:
        """One document a text, encoded whole; see :func:`~nextlens.models.texts.read_texts`.

        Raises
        ------
        ValueError
            At the first text that is not of the vocabulary's domain, naming it.
        """
        documents = []
        for name, text in texts.items():
            try:
                documents.append(vocabulary.encode(text))
            except ValueError as error:
                raise ValueError(f"document {name!r}: {error}") from error
        return cls(documents, vocabulary, names=tuple(texts))

    def __repr__(self) -> str:
        return f"<Corpus of {len(self)} documents: {len(self._tokens)} tokens of {self.n_tokens}>"

    def __len__(self) -> int:
        """How many documents."""
        return len(self.names)

    def __iter__(self) -> Iterator[Int[np.ndarray, " time"]]:
        return iter(self.documents)

    @cached_property
    def documents(self) -> tuple[Int[np.ndarray, " _"], ...]:
        """The documents, one array each."""
        return tuple(np.split(self._tokens, self._first[1:-1]))

    @property
    def lengths(self) -> Int[np.ndarray, " document"]:
        """How many tokens each document has."""
        return np.diff(self._first)

    @property
    def size(self) -> int:
        """How many tokens there are in all."""
        return len(self._tokens)

    def text(self, document: int, start: int = 0, stop: int | None = None) -> str:
        """What ``documents[document][start:stop]`` spells; the tokens as numbers, if there is no vocabulary."""
        tokens = self.documents[document][max(0, start) : stop]
        return " ".join(map(str, tokens)) if self.vocabulary is None else self.vocabulary.decode(tokens)

    def take(self, documents: Iterable[SupportsIndex]) -> Corpus:
        """Some of the documents, by their numbers, in the order given.

        Raises
        ------
        ValueError
            If there is no such document.
        """
        chosen = [between("documents", index(number), 0, len(self) - 1) for number in documents]
        return Corpus(
            [self.documents[number] for number in chosen],
            self.vocabulary,
            names=[self.names[number] for number in chosen],
            n_tokens=self.n_tokens,
        )

    def named(self, *names: str) -> Corpus:
        """Some of the documents, by name.

        Raises
        ------
        ValueError
            If there is none of that name; the nearest are named.
        """
        return self.take(
            self.names.index(one_of("name", name, self.names, whole_list="corpus.names")) for name in names
        )

    def without(self, *names: str) -> Corpus:
        """All documents but these.

        Raises
        ------
        ValueError
            If there is none of that name, or none would be left.
        """
        left_out = {self._number_of(name) for name in names}
        return self.take(number for number in range(len(self)) if number not in left_out)

    def split(self, held_out: float, rng: np.random.Generator) -> tuple[Corpus, Corpus]:
        """Whole documents drawn apart: those to learn from, and those held out.

        Parameters
        ----------
        held_out : float
            Share of the documents, rounded, but at least one; one is always left to learn from.
        rng : numpy.random.Generator

        Raises
        ------
        ValueError
            If ``held_out`` is not within 0 and 1, or there is one document only.
        """
        between("held_out", held_out, 0, 1)
        if len(self) < 2:
            raise ValueError("a corpus of one document cannot be split by document")
        apart = min(len(self) - 1, max(1, round(held_out * len(self))))
        order = rng.permutation(len(self))
        return self.take(sorted(order[apart:])), self.take(sorted(order[:apart]))

    def batches(self, size: int, length: int, rng: np.random.Generator, tree: bool | None = False) -> BatchStream:
        """Batches without end, to train on: each sequence a window drawn uniformly from all of ``length`` tokens.

        Windows may overlap, and lie within one document each.

        Parameters
        ----------
        size, length : int
            ``length`` is one more than the context, so that its last position has a target.
        rng : numpy.random.Generator
            Give the stream one of its own: it draws ahead. The stream's ``state()`` and ``restore(state)``
            resume it exactly.
        tree : bool, optional
            Whether batches carry their prefix tree; None lets the first batch decide.

        Raises
        ------
        ValueError
            If ``size`` is below 1, ``length`` below 2, or no document has ``length`` tokens.

        Warns
        -----
        UserWarning
            If some documents are too short, and so never drawn from.
        """
        at_least("size", size, 1)
        at_least("length", length, 2)
        short = self.lengths < length
        if short.all():
            raise ValueError(f"length={length}, and the longest document has {self.lengths.max()} tokens")
        if short.any():
            lost = self.lengths[short].sum()
            warnings.warn(
                f"{short.sum()} of {len(self)} documents, {lost / self.size:.2%} of the tokens, are shorter than "
                f"length={length} and never drawn",
                stacklevel=2,
            )
        return BatchStream(partial(self._drawn, length), size, length, rng, tree)

    def windows(
        self, context: int, every: int = 512, *, limit: int | None = None, rng: np.random.Generator | None = None
    ) -> Windows:
        """Windows to evaluate on: in each document from its start on, one every so many tokens.

        Documents of fewer than ``context + 1`` tokens have none. One prediction a window.

        Parameters
        ----------
        context : int
            Tokens read before the target.
        every : int, default=512
            From the start of one window to that of the next; with 1, every token of which there is
            enough before it is a target once.
        limit : int, optional
            At most so many, drawn by ``rng`` without replacement; they stay in order.
        rng : numpy.random.Generator, optional

        Raises
        ------
        ValueError
            If a number is below 1, no document is long enough, or ``limit`` comes without ``rng``.
        """
        for name, value in (("context", context), ("every", every), ("limit", 1 if limit is None else limit)):
            at_least(name, value, 1)
        if limit is not None and rng is None:
            raise ValueError(f"limit={limit} draws windows, for which it needs rng")
        counts = np.maximum(0, -(-(self.lengths - context) // every))
        if not counts.any():
            raise ValueError(
                f"context={context} needs documents of {context + 1} tokens; the longest has {self.lengths.max()}"
            )
        document = np.repeat(np.arange(len(self)), counts)
        start = every * (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts))
        windows = Windows(context, document, start)
        if limit is not None and limit < len(windows):
            windows = windows.take(np.sort(rng.choice(len(windows), limit, replace=False)))
        return windows

    def contexts(self, windows: Windows) -> Int[np.ndarray, "window context"]:
        """The tokens read in each window, int64."""
        return self._cut(self._first[windows.document] + windows.start, windows.context)

    def targets(self, windows: Windows) -> Int[np.ndarray, " window"]:
        """The token that follows each window, int64."""
        return self._tokens[self._first[windows.document] + windows.start + windows.context].astype(np.int64)

    def _number_of(self, name: str) -> int:
        return self.names.index(one_of("name", name, self.names, whole_list="corpus.names"))

    def _cut(self, places: Int[np.ndarray, " window"], length: int) -> Int[np.ndarray, "window length"]:
        return self._tokens[places[:, None] + np.arange(length)].astype(np.int64)

    def _drawn(self, length: int, n_sequences: int, rng: np.random.Generator) -> Int[np.ndarray, "n_sequences length"]:
        room = np.maximum(0, self.lengths - length + 1)
        last = np.cumsum(room)
        drawn = rng.integers(last[-1], size=n_sequences)
        document = np.searchsorted(last, drawn, side="right")
        return self._cut(self._first[document] + drawn - (last - room)[document], length)


def _tokens(document: Any, name: str) -> Int[np.ndarray, " time"]:
    tokens = np.asarray(document)
    if tokens.size == 0:
        raise ValueError(f"document {name!r} is empty; leave it out")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise ValueError(f"document {name!r} is {tokens.dtype} of shape {tokens.shape}; it must be integers in one row")
    if tokens.min() < 0:
        raise ValueError(f"document {name!r} holds {tokens.min()}; token ids start at 0")
    return tokens
