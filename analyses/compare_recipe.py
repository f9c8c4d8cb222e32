"""All that decides the numbers of a comparison of kernels: which, on what, and how much of it is read."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from nextlens.analyses.compare_kernels import refuse_unknown
from nextlens.analyses.formulation_memory import forbids
from nextlens.analyses.language_recipe import kind_of
from nextlens.analyses.model_training import Source, Training
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.models.arguments import at_least
from nextlens.models.processes import Process, process_by_name
from nextlens.models.transformer import TransformerConfig


@dataclass(frozen=True)
class CompareRecipe(WrittenRecipe):
    """All that decides the numbers of a comparison, the texts included: JSON-able, compared by value.

    Parameters
    ----------
    kernels : tuple of str
        Of a process ``exact``, ``bigram``, ``markov:k``, ``trained``, ``gim``, ``infini-gram``, ``kneser-ney``; of
        texts the last four; or a checkpoint. Each may be deployed, ``exact@top-p=.9``.
    texts : str
        A domain, see :func:`~nextlens.analyses.self_similarity_sources.domain`; if empty, ``process`` is read.
    process : str, default="mess3"
    sequences, length, skip : int
        What is measured: sequences of so many positions after so many left out.
    reference : int
        Words of the process that counting kernels see.
    passages : int
        Of texts: sequences on which the loss gap, influence and edits are sampled.
    words : int
        Tokens of the words on which memory and influence are exact, of a process.
    contexts, lags : tuple of int
        Of the loss gap with a cut context, and of influence, on texts.
    maps : tuple of str
        Deployment maps whose effect on the first kernel is measured.
    n_layers, n_heads, d_model, steps, batch_size, learning_rate
        Of the transformer. On a process, learned positions; on texts, rotary ones.
    vocabulary, order, threshold
        Of texts; of Kneser-Ney; of the GIM.
    timed : int
        Repeats of every timing.
    seeds : tuple of int

    Raises
    ------
    ValueError
        If a value is out of range or a kernel unknown.
    """

    kernels: tuple[str, ...] = ("exact", "trained", "bigram", "gim")
    texts: str = ""
    process: str = "mess3"
    sequences: int = 200
    length: int = 32
    skip: int = 8
    reference: int = 400
    passages: int = 40
    words: int = 7
    contexts: tuple[int, ...] = (1, 4, 16)
    lags: tuple[int, ...] = (1, 8, 32)
    maps: tuple[str, ...] = ("temperature=.5", "temperature=2", "top-k=2", "top-p=.8", "min-p=.2")
    n_layers: int = 2
    n_heads: int = 1
    d_model: int = 64
    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 3e-3
    vocabulary: str = "bpe:1024"
    order: int = 5
    threshold: int = 8
    timed: int = 5
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        least = {
            "sequences": 2,
            "length": 4,
            "skip": 0,
            "reference": 3,
            "passages": 2,
            "words": 2,
            "steps": 2,
            "batch_size": 1,
        }
        for name, minimum in {**least, "order": 1, "threshold": 0, "timed": 3}.items():
            at_least(name, getattr(self, name), minimum)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be finite and above 0")
        if not self.kernels or len(set(self.kernels)) < len(self.kernels):
            raise ValueError(f"kernels={self.kernels!r} must hold at least one, each once")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must hold at least one seed, each once, none below 0")
        process_by_name(self.process)
        refuse_unknown(self.kernels, of_process=not self.texts)
        refuse_unknown(
            tuple(f"{self.kernels[0].partition('@')[0]}@{one}" for one in self.maps), of_process=not self.texts
        )
        pointing = any(name.partition("@")[0] == "gim" for name in self.kernels)
        if not self.texts and pointing and forbids(self.made, self.words):
            raise ValueError(
                f"kernels={self.kernels!r}: the GIM of a process compares beliefs, and there is none after what "
                f"{self.process} cannot say and a GIM does; it is made of processes that forbid nothing"
            )
        kind, number = kind_of(self.vocabulary)
        if kind == "words":
            raise ValueError(f"vocabulary={self.vocabulary!r} must be bytes or bpe:N: every byte of a text is scored")
        if self.texts and max(*self.contexts, *self.lags) >= self.skip + self.length:
            raise ValueError(
                f"contexts={self.contexts} and lags={self.lags} must be below the {self.skip + self.length} tokens read"
            )
        self.config(number or 256, 0)

    @property
    def made(self) -> Process:
        """The process."""
        return process_by_name(self.process)

    def config(self, n_tokens: int, seed: int) -> TransformerConfig:
        """The transformer's shape."""
        return TransformerConfig(
            n_tokens=n_tokens,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            n_ctx=self.skip + self.length,
            activation="gelu" if self.texts else "relu",
            positions="rotary" if self.texts else "learned",
            seed=seed,
        )

    def training(self, source: Source, seed: int) -> Training:
        """The training of the transformer."""
        config = self.config(source.n_tokens, seed)
        return Training(f"trained-seed-{seed}", source, config, self.steps, self.batch_size, self.learning_rate)

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        command = " ".join(["nextlens compare", *map(shlex.quote, self.kernels)])
        return repeating(command, self, CompareRecipe, without=("kernels",), repeated={"maps": "map"})
