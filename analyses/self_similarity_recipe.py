"""All that decides the numbers of a run on self-similarity: texts, models, how they are read, and how much is drawn."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from nextlens.analyses.language_recipe import kind_of
from nextlens.analyses.model_training import Training
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.analyses.self_similarity_sources import MADE_HERE
from nextlens.models.arguments import at_least
from nextlens.models.processes import Process, process_by_name
from nextlens.models.tasks.corpus import Corpus
from nextlens.models.transformer import TransformerConfig

#: How a process is read where no texts are given: by itself, and by what sees its last token only.
EXACT, BIGRAM = "exact", "last token only"


@dataclass(frozen=True)
class SelfSimilarityRecipe(WrittenRecipe):
    """All that decides the numbers of a run, the texts included: JSON-able, compared by value.

    Parameters
    ----------
    texts : tuple of str
        Domains, each a path or ``name=path``: see :func:`~nextlens.analyses.self_similarity_sources.domain`. If
        there are none, ``process`` is read, and series whose memory is known.
    models : tuple of str
        ``trained``, a transformer; ``kneser-ney``, ``infini-gram``, ``gim``: each made from the texts that are not
        tested. Any other name is a checkpoint.
    process : str, default="mess3"
    documents, length, skip : int
        How many documents of how many positions, after so many that are left out at the start of each. 30 at
        least; ``power-law`` is called from 1000 positions on.
    context, stride : int
        Tokens seen before each, 0 for the whole document, and how far windows move.
    contexts : tuple of int
        Of the ablation: how the memory of surprisal grows with what the model sees.
    ablated : str
        The model it is done with; the first of ``models`` if empty.
    vocabulary : str, default="bpe:2048"
        Of models made here: ``bpe:N`` or ``bytes``.
    n_layers, n_heads, d_model, steps, batch_size, learning_rate
        Of the transformer, with rotary positions and the context that documents need.
    order, threshold : int
        Of Kneser-Ney; of the GIM.
    shuffles : int, default=399
    smoothing : float, default=0
        Of S, for surprisal of few values.
    seeds : tuple of int
        Each draws documents, splits texts and trains anew.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    texts: tuple[str, ...] = ()
    models: tuple[str, ...] = ("trained", "gim")
    process: str = "mess3"
    documents: int = 64
    length: int = 1024
    skip: int = 100
    context: int = 0
    stride: int = 1
    contexts: tuple[int, ...] = ()
    ablated: str = ""
    vocabulary: str = "bpe:2048"
    n_layers: int = 2
    n_heads: int = 4
    d_model: int = 128
    steps: int = 400
    batch_size: int = 2
    learning_rate: float = 3e-3
    order: int = 5
    threshold: int = 8
    shuffles: int = 399
    smoothing: float = 0.0
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        least = {"documents": 30, "length": 256, "skip": 0, "context": 0, "stride": 1, "steps": 2, "batch_size": 1}
        for name, minimum in {**least, "order": 1, "threshold": 0, "shuffles": 333}.items():
            at_least(name, getattr(self, name), minimum)
        if not (self.smoothing >= 0 and math.isfinite(self.smoothing)):
            raise ValueError(f"smoothing={self.smoothing!r} must be at least 0")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be finite and above 0")
        if not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(f"models={self.models!r} must hold at least one, each once")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must hold at least one seed, each once, none below 0")
        for k in self.contexts:
            at_least("contexts", k, 1)
        if self.stride > 1 and not self.context:
            raise ValueError(f"stride={self.stride} moves windows, and context=0 has none: the whole document is seen")
        if self.ablated and self.ablated not in self.read_by:
            raise ValueError(f"ablated={self.ablated!r} is none of {', '.join(self.read_by)}")
        process_by_name(self.process)
        kind, number = kind_of(self.vocabulary)
        if kind == "words":
            raise ValueError(f"vocabulary={self.vocabulary!r} must be bytes or bpe:N: every byte of a text is scored")
        self.config(number or 256, 0)

    @property
    def made(self) -> Process:
        """The process."""
        return process_by_name(self.process)

    @property
    def read_by(self) -> tuple[str, ...]:
        """Which models read, by name."""
        return self.models if self.texts else (EXACT, BIGRAM)

    @property
    def learns(self) -> bool:
        """Whether a model is made from texts."""
        return bool(set(self.models) & set(MADE_HERE))

    def config(self, n_tokens: int, seed: int) -> TransformerConfig:
        """The transformer's shape."""
        return TransformerConfig(
            n_tokens=n_tokens,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            n_ctx=self.skip + self.length,
            activation="gelu",
            positions="rotary",
            seed=seed,
        )

    def training(self, corpus: Corpus, name: str, seed: int) -> Training:
        """The training of the transformer of a domain."""
        config = self.config(corpus.n_tokens, seed)
        return Training(f"{name}-seed-{seed}", corpus, config, self.steps, self.batch_size, self.learning_rate)

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        command = " ".join(["nextlens fractal", *map(shlex.quote, self.texts)])
        return repeating(command, self, SelfSimilarityRecipe, without=("texts",), repeated={"models": "model"})
