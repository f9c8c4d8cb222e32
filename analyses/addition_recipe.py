"""All that decides the numbers of a run on addition: coupled positions, and the two baselines."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.models.arguments import at_least, one_of
from nextlens.models.tasks.addition import Addition
from nextlens.models.transformer import TransformerConfig

COUPLED, RANDOM_START, NO_POSITION = "coupled", "random start", "no position"
#: What models are trained with: how positions are given, and whether the model has a table of them.
KINDS = {COUPLED: ("coupled", "learned"), RANDOM_START: ("random start", "learned"), NO_POSITION: ("in order", "none")}
COUNTS = ("digits", "n_layers", "n_heads", "d_model", "d_head", "d_mlp", "steps", "steps_baseline", "batch_size")
#: How often the weights of a model are tried where the best are kept.
TRIALS = 40


@dataclass(frozen=True)
class AdditionRecipe(WrittenRecipe):
    """All that decides the numbers of a run, and nothing else: JSON-able, compared by value.

    Each seed trains three transformers on the same sums: with coupled positions, with positions one after another from
    a random start, and without any.

    Parameters
    ----------
    digits : int
        Of the longest operand in training.
    n_positions : int
        Ids of coupled positions; how long sums can be is decided by it.
    lengths : tuple of int
        Digits of the operands on which models are measured.
    start : int
        Of the position ids where models are measured; in training it is drawn for each sum.
    n_layers, n_heads, d_model, d_head, d_mlp : int
        Of every transformer, with gated GELU and RMSNorm.
    post_normalisation : bool
        Whether what each part adds is normalised too.
    steps, steps_baseline : int
        Of Adam: with coupled positions, and of either baseline.
    batch_size, learning_rate
        The rate rises over 50 steps, then falls along half a cosine to a tenth.
    select : int, optional
        Digits of sums, of a generator of their own, on which the loss is measured 40 times along the training; the
        weights of the least are kept, as in the paper, which selects at 200 digits. What is then found at this length
        was selected for. None keeps the last weights.
    seeds : tuple of int

    Raises
    ------
    ValueError
        If a value is out of range; if a length finds no place, with the longest that does.
    """

    digits: int = 10
    n_positions: int = 48
    lengths: tuple[int, ...] = (5, 8, 10, 11, 12, 13, 15, 20, 25, 30, 40)
    start: int = 4
    n_layers: int = 1
    n_heads: int = 4
    d_model: int = 128
    d_head: int = 32
    d_mlp: int = 192
    post_normalisation: bool = True
    steps: int = 600
    steps_baseline: int = 120
    batch_size: int = 100
    learning_rate: float = 2e-3
    select: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        for name in COUNTS:
            at_least(name, getattr(self, name), 1)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be finite and above 0")
        if not self.lengths or min(self.lengths) < 2 or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths={self.lengths!r} must be whole numbers of 2 or more, growing")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must hold at least one seed, each once, none below 0")
        self.task(COUPLED).refuse_longer(max(self.lengths), self.start)
        if self.select is not None:
            self.task(COUPLED).refuse_longer(at_least("select", self.select, 2), self.start)

    @property
    def longest(self) -> int:
        """Tokens of the longest sum that is measured."""
        return Addition(self.digits).length(max(*self.lengths, self.digits, self.select or 0))

    def task(self, kind: str) -> Addition:
        """The sums that models of this kind are trained on; the baselines have ids enough for all lengths."""
        places, _ = KINDS[one_of("kind", kind, tuple(KINDS))]
        enough = self.longest + self.start
        return Addition(self.digits, places=places, n_positions=self.n_positions if kind == COUPLED else enough)

    def config(self, kind: str, seed: int) -> TransformerConfig:
        """The transformer of this kind."""
        return TransformerConfig(
            n_tokens=self.task(kind).n_tokens,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            d_head=self.d_head,
            d_mlp=self.d_mlp,
            n_ctx=self.task(kind).n_positions,
            activation="gelu",
            gated=True,
            normalisation="RMSNorm",
            post_normalisation=self.post_normalisation,
            positions=KINDS[kind][1],
            seed=seed,
        )

    def steps_of(self, kind: str) -> int:
        """Steps of training."""
        return self.steps if kind == COUPLED else self.steps_baseline

    def trials(self, kind: str) -> range:
        """Steps done when weights are tried, the last among them; none if the last weights are kept."""
        steps = self.steps_of(kind)
        every = max(1, steps // TRIALS)
        return range(steps, 0, -every)[::-1] if self.select is not None else range(0)

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating("nextlens addition", self, AdditionRecipe)
