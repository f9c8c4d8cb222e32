"""What a report reads: a text or the words of a process, as tokens, and what each of them spells."""

from __future__ import annotations

import hashlib
import string
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nextlens.analyses import checkpoint_passage
from nextlens.analyses.checkpoint_model import context_of
from nextlens.analyses.checkpoint_reading import Reading, pieces
from nextlens.models.batch import refuse_out_of_range, whole_numbers
from nextlens.models.hooked import Hooked
from nextlens.models.processes import Process
from nextlens.models.vocabulary import Bytes, Symbols, Vocabulary, fitting

#: One symbol a token, for processes.
LETTERS = string.digits + string.ascii_letters
#: Words of a process: as many as make about this many predictions, between the least and the most.
SAMPLED, LEAST_WORDS, MOST_WORDS = 4096, 64, 512


@dataclass(frozen=True, eq=False)
class Words:
    """Tokens to read, and what they spell.

    Attributes
    ----------
    tokens : int array of shape (sequence, length)
    spelled : list of list of str
        What each token of each sequence adds to its text.
    facts : dict
        JSON-able: where they are from, and how many there were.
    spells_text : bool
        Whether bytes mean anything.
    """

    tokens: Int[np.ndarray, "sequence length"]
    spelled: list[list[str]]
    facts: dict[str, Any]
    spells_text: bool

    def as_json(self) -> dict[str, Any]:
        """Where the words are from, how many there were and how many are read."""
        read = "".join("".join(one) for one in self.spelled)
        found = self.facts | {"tokens_read": int(self.tokens.size)}
        if self.spells_text:
            found |= {"bytes_read": len(read.encode()), "sha256": hashlib.sha256(read.encode()).hexdigest()}
        return found

    def bytes_of(self, reading: Reading) -> Int[np.ndarray, " row"] | None:
        """How many bytes the token said at each row adds; None if the tokens spell no text."""
        if not self.spells_text:
            return None
        sizes = np.array([[len(piece.encode()) for piece in one] for one in self.spelled], dtype=np.int64)
        return sizes[reading.sequence, reading.place + 1]

    def with_bits(self, reading: Reading, bits: Float[np.ndarray, " row"]) -> list[tuple[str, float | None]]:
        """Each token with its surprisal; sequences end in a line break."""
        found: list[tuple[str, float | None]] = []
        per = self.tokens.shape[1] - 1
        for s, one in enumerate(self.spelled):
            said = [None, *bits[s * per : (s + 1) * per].tolist()]
            found += list(zip(one, said, strict=True))
            if len(self.spelled) > 1:
                found.append(("\n", None))
        return found


def words_of(
    model: Hooked,
    text: str | np.ndarray | None,
    *,
    vocabulary: Vocabulary | None,
    process: Process | None,
    source: str | None,
    most_tokens: int,
) -> Words:
    """Tokens for ``model``: of a text, as given, or sampled from the process.

    Raises
    ------
    ValueError
        As :func:`~nextlens.analyses.checkpoint.report`.
    """
    if process is not None and process.n_tokens != model.n_tokens:
        raise ValueError(f"process {process.name!r} has {process.n_tokens} tokens; the model has {model.n_tokens}")
    given = vocabulary if vocabulary is not None else getattr(model, "vocabulary", None)
    if given is None and process is not None and model.n_tokens <= len(LETTERS):
        given = Symbols(LETTERS[: model.n_tokens])
    vocabulary = fitting(given, model.n_tokens)
    if text is None and process is not None:
        return _sampled(process, vocabulary, context_of(model))
    if text is not None and not isinstance(text, str):
        return _numbers(model, text, vocabulary, source, most_tokens)
    if vocabulary is None and model.n_tokens == Bytes().n_tokens:
        vocabulary = Bytes()
    if vocabulary is None:
        raise ValueError(
            f"vocabulary is not known: the model has {model.n_tokens} tokens and says not what they spell; "
            "give vocabulary=, a process, or text as token ids (--text ids.npy)"
        )
    if text is None:
        text, source = checkpoint_passage.PASSAGE, checkpoint_passage.SOURCE
    return _encoded(text, vocabulary, source, most_tokens)


def _encoded(text: str, vocabulary: Vocabulary, source: str | None, most: int) -> Words:
    if not text:
        raise ValueError("text is empty; there is nothing to read")
    tokens = vocabulary.encode(text)
    read, beginning = tokens[:most], getattr(vocabulary, "beginning", None)
    spelled = pieces(vocabulary, read)
    if beginning is not None:
        read, spelled = np.concatenate([[beginning], read]), ["", *spelled]
    facts = {
        "source": source or "given as a string",
        "characters": len(text),
        "bytes": len(text.encode()),
        "tokens": len(tokens),
        "vocabulary": type(vocabulary).__name__,
        "beginning_token": beginning,
    }
    return Words(read[None].astype(np.int64), [spelled], facts, spells_text=True)


def _numbers(model: Hooked, given: Any, vocabulary: Vocabulary | None, source: str | None, most: int) -> Words:
    tokens = np.atleast_2d(whole_numbers("text", given).numpy())
    if tokens.ndim != 2 or tokens.shape[1] < 2:
        raise ValueError(f"text has shape {tokens.shape}; token ids must be of shape (time,) or (sequence, time)")
    refuse_out_of_range("text", whole_numbers("text", tokens), model.n_tokens, limit_name="n_tokens")
    read = tokens[: max(1, most // tokens.shape[1]), :most]
    facts = {"source": source or "given as token ids", "tokens": int(tokens.size), "vocabulary": None}
    return Words(read, [_spelled(vocabulary, one) for one in read], facts, spells_text=False)


def _sampled(process: Process, vocabulary: Vocabulary | None, context: int | None) -> Words:
    length = min(context or 64, 64)
    n = int(np.clip(SAMPLED // length, LEAST_WORDS, MOST_WORDS))
    tokens = process.sample(n, length + 1, np.random.default_rng(0))
    facts = {
        "source": f"{n} words of {length + 1} tokens, sampled from the process {process.name!r} (seed 0)",
        "tokens": int(tokens.size),
        "vocabulary": None if vocabulary is None else type(vocabulary).__name__,
    }
    return Words(np.asarray(tokens, dtype=np.int64), [_spelled(vocabulary, one) for one in tokens], facts, False)


def _spelled(vocabulary: Vocabulary | None, tokens: Int[np.ndarray, " time"]) -> list[str]:
    return pieces(vocabulary, tokens) if vocabulary is not None else [f"{token} " for token in tokens.tolist()]
