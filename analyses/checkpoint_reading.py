"""A text cut into windows, so that a model of any context says each of its tokens once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.vocabulary import Vocabulary
from nextlens.probes.blocks import block_numbers

#: Fewer predictions than this give no interval worth printing.
LEAST_ROWS = 64
MOST_BLOCKS, LEAST_BLOCKS, LEAST_BLOCK = 20, 4, 16
#: Tokens before this one are enough to decode it as its neighbours make it: four bytes, and some room.
DECODED_WITH = 8
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


class Windows(NamedTuple):
    """Some windows as a batch, which of their positions are scored, and the rows that those are."""

    batch: Batch
    scored: Bool[np.ndarray, "window time"]
    rows: slice


@dataclass(frozen=True, eq=False)
class Reading:
    """Sequences of tokens, read in windows of one length.

    A *row* is one prediction: what is said after ``tokens[sequence, : place + 1]``, or after as much of that
    as the window holds, of ``tokens[sequence, place + 1]``. Rows run through the sequences in order. The
    first token of a sequence has no row: nothing was read before it. Windows overlap; a token is scored in
    the first that holds it, so all but the first window of a sequence give it at least ``window - stride``
    tokens to read.

    Parameters
    ----------
    tokens : int array of shape (sequence, length)
        One text, or independent words of a process.
    window : int
        Tokens read at a time; at most the context of the model.
    stride : int
        From the start of a window to that of the next.

    Raises
    ------
    ValueError
        If there are fewer than 64 rows, or ``window`` or ``stride`` is out of range.
    """

    tokens: Int[np.ndarray, "sequence length"]
    window: int
    stride: int

    def __post_init__(self) -> None:
        at_least("window", self.window, 1)
        at_least("stride", self.stride, 1)
        if self.stride > self.window:
            raise ValueError(f"stride={self.stride} must be at most window={self.window}, or tokens would be left out")
        n, length = self.tokens.shape
        if n * (length - 1) < LEAST_ROWS:
            raise ValueError(
                f"text has {n * length} tokens; a report needs {LEAST_ROWS} predictions at least, "
                f"so {LEAST_ROWS + 1} tokens of one text"
            )
        if 1 < n < LEAST_BLOCKS:
            raise ValueError(f"tokens hold {n} sequences; it must be one text, or {LEAST_BLOCKS} sequences at least")

    def __len__(self) -> int:
        """How many rows."""
        return self.tokens.shape[0] * (self.tokens.shape[1] - 1)

    @property
    def time(self) -> int:
        """Tokens that each window reads."""
        return min(self.window, self.tokens.shape[1] - 1)

    @cached_property
    def starts(self) -> Int[np.ndarray, " window"]:
        """Where in its sequence each window begins; the last one ends with the sequence."""
        last = self.tokens.shape[1] - 1 - self.time
        return np.append(np.arange(0, last, self.stride), last)

    @cached_property
    def sequence(self) -> Int[np.ndarray, " row"]:
        return np.repeat(np.arange(len(self.tokens)), self.tokens.shape[1] - 1)

    @cached_property
    def place(self) -> Int[np.ndarray, " row"]:
        """Index in its sequence of the token that has just been read."""
        return np.tile(np.arange(self.tokens.shape[1] - 1), len(self.tokens))

    @cached_property
    def read(self) -> Int[np.ndarray, " row"]:
        """The token just read."""
        return self.tokens[self.sequence, self.place]

    @cached_property
    def said(self) -> Int[np.ndarray, " row"]:
        """The token that comes next."""
        return self.tokens[self.sequence, self.place + 1]

    @cached_property
    def block(self) -> Int[np.ndarray, " row"]:
        """Neighbours: runs of one text, or whole sequences; what folds and intervals never split."""
        if len(self.tokens) > 1:
            return block_numbers(len(self.tokens), min(MOST_BLOCKS, len(self.tokens)))[self.sequence]
        return block_numbers(len(self), int(np.clip(len(self) // LEAST_BLOCK, LEAST_BLOCKS, MOST_BLOCKS)))

    @property
    def n_blocks(self) -> int:
        return int(self.block[-1]) + 1

    def ahead(self, k: int) -> Int[np.ndarray, " row"]:
        """The token ``k`` places after the one just read; -1 where the sequence has ended."""
        place = self.place + k
        length = self.tokens.shape[1]
        return np.where(place < length, self.tokens[self.sequence, place.clip(max=length - 1)], -1)

    def thinned(self, most: int) -> Bool[np.ndarray, " row"]:
        """At most ``most`` rows, evenly spread, none of them a first token.

        What a model does with the first token it reads is often unlike all else: some park attention there,
        in values a thousand times as large as any other.
        """
        rows = np.flatnonzero(self.place > 0)
        if len(rows) > most:
            rows = rows[np.arange(most) * len(rows) // most]
        keep = np.zeros(len(self), dtype=bool)
        keep[rows] = True
        return keep

    def windows(self, chunk: int) -> Iterator[Windows]:
        """``chunk`` windows at a time, in the order of their rows."""
        every = [(s, start, fresh) for s in range(len(self.tokens)) for start, fresh in self._fresh()]
        done = 0
        for first in range(0, len(every), chunk):
            some = every[first : first + chunk]
            cut = np.stack([self.tokens[s, start : start + self.time + 1] for s, start, _ in some])
            scored = np.arange(self.time) >= np.array([fresh for *_, fresh in some])[:, None]
            rows = slice(done, done + int(scored.sum()))
            done = rows.stop
            yield Windows(Batch.from_tokens(cut), scored, rows)

    def n_windows(self) -> int:
        return len(self.tokens) * len(self.starts)

    def _fresh(self) -> list[tuple[int, int]]:
        """Start of each window, and the first of its positions that no earlier window has scored."""
        ends = [0, *(int(start) + self.time for start in self.starts)]
        return [(int(start), ends[i] - int(start)) for i, start in enumerate(self.starts)]


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is empty, or not UTF-8: where the first wrong byte is.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no text file at {str(path)!r}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise ValueError(f"{str(path)!r} is not UTF-8: byte 0x{wrong:02x} at {error.start}; save it as UTF-8") from None
    if not text.strip():
        raise ValueError(f"{str(path)!r} holds no text")
    return text.replace("\r\n", "\n")


def read_ids(path: str | os.PathLike[str]) -> Int[np.ndarray, "*any"]:
    """Token ids from an ``.npy`` file, of shape (time,) or (sequence, time).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is truncated, needs code to be read, or holds no integers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no token ids at {str(path)!r}")
    try:
        ids = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no .npy file of numbers: {error}") from error
    if not (isinstance(ids, np.ndarray) and ids.dtype.kind in "iu"):
        raise ValueError(f"{str(path)!r} holds {getattr(ids, 'dtype', type(ids).__name__)}; token ids are integers")
    return ids


def pieces(vocabulary: Vocabulary, tokens: Int[np.ndarray, " time"]) -> list[str]:
    """What each token adds to the decoded text; joined they are the text.

    A character of several tokens belongs to the last of them, the others add nothing. Each is decoded
    behind its neighbours: some tokenizers drop the blank before a word that stands alone.
    """
    ids, found = tokens.tolist(), []
    before = ""
    for i in range(len(ids)):
        start = max(0, i + 1 - DECODED_WITH)
        if i + 1 > DECODED_WITH:
            before = vocabulary.decode(ids[start:i]).rstrip(UNREADABLE)
        now = vocabulary.decode(ids[start : i + 1]).rstrip(UNREADABLE)
        found.append(now[len(before) :])
        before = now
    return found
