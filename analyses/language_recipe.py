"""All that decides the numbers of a run on induction in language: texts, vocabulary, models, and where they predict."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nextlens.analyses.model_training import Training
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.models.arguments import at_least, one_of
from nextlens.models.byte_pairs import train_byte_pairs
from nextlens.models.tasks.corpus import Corpus
from nextlens.models.texts import read_texts
from nextlens.models.transformer import TransformerConfig
from nextlens.models.vocabulary import Bytes, Vocabulary
from nextlens.models.words import Words

#: What stands for words that are too rare, where the vocabulary is one of words.
UNKNOWN = "<unk>"


class Texts(NamedTuple):
    """Corpora of one vocabulary, no document in two of them but for ``both``.

    Attributes
    ----------
    vocabulary : Vocabulary
    references : dict of str to Corpus
        ``in-domain``; with other texts also ``out-of-domain`` and ``both``.
    validated, tested : Corpus
    """

    vocabulary: Vocabulary
    references: dict[str, Corpus]
    validated: Corpus
    tested: Corpus


@dataclass(frozen=True)
class LanguageRecipe(WrittenRecipe):
    """All that decides the numbers of a run, the texts in the folders included: JSON-able, compared by value.

    Parameters
    ----------
    texts : str
        A folder, see :func:`~nextlens.models.texts.read_texts`: documents of one kind, of which some are tested,
        some validated on, and the rest is the in-domain reference that the teacher is trained on.
    others : str, default=""
        A folder of texts of another kind: the out-of-domain reference. None if empty.
    tested, validated : tuple of str
        Names of documents. Where empty, six and three are drawn by the seed.
    vocabulary : str, default="bpe:4096"
        ``bpe:N``, trained on the in-domain reference; ``words:N``, words said N times there; or ``bytes``. With a
        ``checkpoint`` it is that of the checkpoint.
    checkpoint : str, default=""
        A language model to be teacher and matcher, as :func:`~nextlens.models.checkpoints.load` names it; if empty
        one is trained here.
    context, every, each : int
        A stretch of text has ``each`` predictions, one every so many tokens, the first after ``context`` tokens.
    stretches, validating : int
        How many stretches of the tested and of the validated documents, evenly over documents.
    n_layers, n_heads, d_model, n_ctx, steps, batch_size, learning_rate
        Of the teacher, with rotary positions, and its training.
    matching_steps : int, default=80
        Of each head, one after every block and one at the end, and of the matching model; 0 for none of them.
    reach : int, default=32
        Of the matching model, the published k; 0 for no such model. At most ``n_ctx``, which its teacher reads.
    order : int, default=5
        Of the Kneser-Ney model.
    datastore : int, default=60_000
        Positions of the in-domain reference among which the k nearest are sought; 0 for no such model.
    seed : int

    Raises
    ------
    ValueError
        If a value is out of range, or a matching model would reach further than a teacher trained here.
    """

    texts: str
    others: str = ""
    tested: tuple[str, ...] = ()
    validated: tuple[str, ...] = ()
    vocabulary: str = "bpe:4096"
    checkpoint: str = ""
    context: int = 1024
    every: int = 8
    each: int = 64
    stretches: int = 48
    validating: int = 18
    n_layers: int = 3
    n_heads: int = 4
    d_model: int = 192
    n_ctx: int = 256
    steps: int = 800
    batch_size: int = 4
    learning_rate: float = 2e-3
    matching_steps: int = 80
    reach: int = 32
    order: int = 5
    datastore: int = 60_000
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"context": 2, "every": 1, "each": 1, "stretches": 2, "validating": 2, "steps": 2, "batch_size": 1}
        for name, minimum in {**least, "matching_steps": 0, "reach": 0, "order": 1, "datastore": 0, "seed": 0}.items():
            at_least(name, getattr(self, name), minimum)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be finite and above 0")
        if self.matching_steps and not self.checkpoint and self.reach > self.n_ctx:
            raise ValueError(f"reach={self.reach} must be at most n_ctx={self.n_ctx}, all that the teacher reads")
        kind, number = kind_of(self.vocabulary)
        self.config(number if kind == "bpe" else 256)
        twice = set(self.tested) & set(self.validated)
        if twice:
            raise ValueError(f"{sorted(twice)[0]!r} is both tested and validated on")

    def config(self, n_tokens: int) -> TransformerConfig:
        """The teacher's shape."""
        return TransformerConfig(
            n_tokens=n_tokens,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            n_ctx=self.n_ctx,
            activation="gelu",
            positions="rotary",
            seed=self.seed,
        )

    def training(self, corpus: Corpus) -> Training:
        """The training of the teacher."""
        config = self.config(corpus.n_tokens)
        return Training("teacher", corpus, config, self.steps, self.batch_size, self.learning_rate)

    def read(self, vocabulary: Vocabulary | None = None) -> Texts:
        """The texts, split and encoded.

        Parameters
        ----------
        vocabulary : Vocabulary, optional
            In place of the recipe's own.

        Raises
        ------
        FileNotFoundError
            If a folder is not there.
        ValueError
            If a document that is named is not there, or none is left for reference.
        """
        whole, others = read_texts(self.texts), read_texts(self.others) if self.others else {}
        tested, validated = self._chosen(list(whole))
        apart = {*tested, *validated}
        reference = {name: text for name, text in whole.items() if name not in apart}
        if not reference:
            raise ValueError(f"texts={self.texts!r} has no document that is neither tested nor validated on")
        kind, number = kind_of(self.vocabulary)
        if vocabulary is None and kind == "bpe":
            vocabulary = train_byte_pairs(reference.values(), number)
        elif vocabulary is None:
            vocabulary = Bytes() if kind == "bytes" else Words.of(reference.values(), number, UNKNOWN)

        def corpus(texts: Mapping[str, str]) -> Corpus:
            masked = {n: vocabulary.masked(t) if isinstance(vocabulary, Words) else t for n, t in texts.items()}
            return Corpus.from_texts(masked, vocabulary)

        references = {"in-domain": corpus(reference)}
        if others:
            references["out-of-domain"] = corpus(others)
            references["both"] = corpus({**reference, **{f"others/{name}": text for name, text in others.items()}})
        parts = [corpus({name: whole[name] for name in names}) for names in (validated, tested)]
        return Texts(vocabulary, references, *parts)

    def _chosen(self, names: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Documents to test and to validate on."""
        for field in ("tested", "validated"):
            for name in getattr(self, field):
                one_of(field, name, names)
        left = [name for name in names if name not in {*self.tested, *self.validated}]
        drawn = np.random.default_rng([self.seed, 7]).permutation(len(left)).tolist()
        tested = self.tested or tuple(sorted(left[i] for i in drawn[: min(6, len(left) // 3)]))
        drawn = [i for i in drawn if left[i] not in tested]
        validated = self.validated or tuple(sorted(left[i] for i in drawn[: max(2, min(3, len(left) // 4))]))
        if not tested or len(validated) < 2:
            raise ValueError(
                f"texts={self.texts!r} holds {len(names)} documents; one is tested, two validated on at least"
            )
        return tested, validated

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        command = f"nextlens gim evaluate {shlex.quote(self.texts)}"
        return repeating(command, self, LanguageRecipe(self.texts), without=("texts",))


def kind_of(vocabulary: str) -> tuple[str, int]:
    """Of ``bpe:4096`` and the like, the kind and the number."""
    kind, _, number = vocabulary.partition(":")
    if kind == "bytes" and not number:
        return kind, 0
    if kind not in ("bpe", "words") or not number.isdigit() or int(number) < 1:
        raise ValueError(f"vocabulary={vocabulary!r} must be bytes, bpe:N or words:N, such as bpe:4096")
    return kind, int(number)


def named(folder: str | Path) -> str:
    """A folder as a short name, for captions."""
    return Path(folder).resolve().name
