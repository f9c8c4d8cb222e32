"""All that decides the numbers of a run on minimal generators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nextlens.analyses.model_training import Training
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.models.arguments import at_least, one_of
from nextlens.models.processes import process_by_name
from nextlens.models.recurrent import LAYERS, RecurrentConfig
from nextlens.models.transformer import TransformerConfig

#: The published processes: classical, quantum, and two beyond; their defaults are the published parameters.
PROCESSES = ("mess3", "bloch_walk", "frdn", "moon")
ARCHITECTURES = ("transformer", *LAYERS)
#: Tokens that a model reads.
N_CTX = 8
#: More prefixes than this are those of sampled words, unless all are asked for.
MANY = 20_000
#: Sampled words that a training is followed by.
FOLLOWED_WORDS = 500
#: Where little is to be learnt from one token, more of them are needed.
STEPS = {"mess3": 500, "bloch_walk": 1200, "frdn": 500, "moon": 500}
LEARNING_RATES = {"transformer": 3e-3, "RNN": 2e-3, "LSTM": 5e-3, "GRU": 5e-3}


@dataclass(frozen=True)
class GeneratorsRecipe(WrittenRecipe):
    """All that decides the numbers of a run on minimal generators: JSON-able, compared by value.

    Parameters
    ----------
    processes : tuple of str
        Names of :data:`PROCESSES`.
    architectures : tuple of str
        Of :data:`ARCHITECTURES`; the published sizes: 4 layers, of width 64, that read 8 tokens, the
        transformer with 4 heads of 16 and MLPs of 256, the others on one-hot tokens.
    seeds : tuple of int
        Each decides first weights and data of one model of each architecture on each process.
    steps : int, optional
        Of Adam; 1,200 for the Bloch walk and 500 for the others if None.
    batch_size : int
        Words of 8 tokens in each batch.
    learning_rate : float, optional
        The largest; 0.003 for the transformer, 0.002 for the RNN, 0.005 for LSTM and GRU if None.
    words : int, optional
        Where a process has more than 20,000 prefixes (the Bloch walk has 87,380), those of so many sampled
        words are probed; all of them if None.
    order : int
        Tokens that the classical rival remembers.

    Raises
    ------
    ValueError
        If a value is out of range, or a name is unknown or given twice.
    """

    processes: tuple[str, ...] = PROCESSES
    architectures: tuple[str, ...] = ("transformer", "GRU")
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    steps: int | None = None
    batch_size: int = 128
    learning_rate: float | None = None
    words: int | None = 4000
    order: int = 3

    def __post_init__(self) -> None:
        for name, choices in (("processes", PROCESSES), ("architectures", ARCHITECTURES)):
            object.__setattr__(self, name, _each_once(name, getattr(self, name)))
            for value in getattr(self, name):
                one_of(name, value, choices)
        object.__setattr__(self, "seeds", _each_once("seeds", self.seeds))
        for name, minimum in (("steps", 2), ("batch_size", 1), ("words", 100), ("order", 1)):
            value = getattr(self, name)
            if value is not None and at_least(name, value, minimum) != int(value):
                raise ValueError(f"{name}={value!r} must be a whole number")
        self.trainings()

    def trainings(self) -> dict[tuple[str, str, int], Training]:
        """What is trained, by process, architecture and seed; the longest first."""
        each = [(p, a, s) for p in self.processes for a in self.architectures for s in self.seeds]
        each.sort(key=lambda one: (one[0] != "bloch_walk", one[1] != "transformer"))
        return {one: self._training(*one) for one in each}

    def _training(self, name: str, architecture: str, seed: int) -> Training:
        process = process_by_name(name)
        return Training(
            f"{name}-{architecture}-seed-{seed}",
            process,
            config_of(architecture, process.n_tokens, seed),
            STEPS[name] if self.steps is None else self.steps,
            self.batch_size,
            LEARNING_RATES[architecture] if self.learning_rate is None else self.learning_rate,
            length=N_CTX,
        )

    def prefixes(self, name: str) -> Prefixes:
        """What models on one process are probed on: all its prefixes, or those of sampled words."""
        process = process_by_name(name)
        if self.words is None or process.n_tokens**N_CTX <= MANY:
            return Prefixes.of(process, N_CTX)
        return Prefixes.of(process, N_CTX, n_words=self.words, rng=np.random.default_rng(4))

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        all_words = self.words is None
        usual = replace(GeneratorsRecipe(), words=None) if all_words else GeneratorsRecipe()
        repeated = {"processes": "process", "architectures": "architecture"}
        return repeating("nextlens belief generators", self, usual, repeated=repeated) + " --words all" * all_words


def config_of(architecture: str, n_tokens: int, seed: int) -> TransformerConfig | RecurrentConfig:
    """The published size of an architecture (arXiv 2507.07432)."""
    if architecture == "transformer":
        return TransformerConfig(
            n_tokens, n_layers=4, n_heads=4, d_model=64, d_head=16, d_mlp=256, n_ctx=N_CTX, seed=seed
        )
    return RecurrentConfig(n_tokens, kind=architecture, n_layers=4, d_model=64, one_hot=True, seed=seed)


def _each_once(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if isinstance(values, str) or not len(values) or len(set(values)) < len(values):
        raise ValueError(f"{name}={values!r} must hold at least one, each once")
    return tuple(values)
