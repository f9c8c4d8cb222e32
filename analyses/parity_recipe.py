"""All that decides the numbers of a run on parity: next-token training, and what reinforcement follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.objectives.on_policy import Reward, chain_is_right, last_is_right
from nextlens.models.tasks.parity import Parity
from nextlens.models.transformer import Transformer, TransformerConfig

REWARDS: dict[str, Reward] = {"end": last_is_right, "chain": chain_is_right}
COUNTS = ("n_layers", "d_model", "n_heads", "d_mlp", "batch_size", "n_prompts", "n_samples", "epochs")


@dataclass(frozen=True)
class ParityRecipe(WrittenRecipe):
    """All that decides the numbers of a run, and nothing else: JSON-able, compared by value.

    Each seed trains a transformer on next tokens, and goes on from it by GRPO and by STaR; from an earlier
    moment of the same training by GRPO again; by STaR at a high temperature; and trains others on next tokens
    alone, with other shares of long answers.

    Parameters
    ----------
    n_bits : int
    p_chain : float
        The share of long answers of the model that reinforcement starts from.
    sweep : tuple of float
        Other shares, of models trained on next tokens alone.
    n_layers, d_model, n_heads, d_mlp : int
        Of every transformer; learned positions.
    steps, batch_size, learning_rate
        Of next-token training, with Adam on fresh data; the rate rises over 50 steps, then falls to 0.
    early : int
        The step of next-token training at which reinforcement starts too early.
    steps_policy, n_prompts, group, rate_policy, reward
        Of GRPO: steps, prompts of a batch, answers to each, learning rate, and whether the ``"end"`` or the
        whole ``"chain"`` is rewarded.
    rounds, n_samples, epochs
        Of STaR, whose learning rate is that of GRPO; the whole chain is rewarded.
    hot : float
        The temperature at which STaR with the end rewarded fails.
    seeds : tuple of int

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    n_bits: int = 16
    p_chain: float = 0.25
    sweep: tuple[float, ...] = (0.3, 0.4)
    n_layers: int = 2
    d_model: int = 64
    n_heads: int = 4
    d_mlp: int = 128
    steps: int = 400
    batch_size: int = 128
    learning_rate: float = 2e-3
    early: int = 60
    steps_policy: int = 40
    n_prompts: int = 32
    group: int = 8
    rate_policy: float = 3e-4
    reward: str = "end"
    rounds: int = 5
    n_samples: int = 1024
    epochs: int = 4
    hot: float = 3.0
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        for name in COUNTS:
            at_least(name, getattr(self, name), 1)
        for name, minimum in (("steps", 2), ("steps_policy", 1), ("group", 2), ("rounds", 1)):
            at_least(name, getattr(self, name), minimum)
        between("early", self.early, 1, self.steps)
        between("p_chain", self.p_chain, 0, 1)
        if self.p_chain in self.sweep or len(set(self.sweep)) < len(self.sweep):
            raise ValueError(f"sweep={self.sweep!r} must hold each share once, p_chain={self.p_chain!r} not among them")
        for share in self.sweep:
            between("sweep", share, 0, 1)
        one_of("reward", self.reward, tuple(REWARDS))
        for name in ("learning_rate", "rate_policy", "hot"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r} must be finite and above 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must hold at least one seed, each once, none below 0")
        self.task()
        self.model(self.seeds[0])

    @property
    def shares(self) -> tuple[float, ...]:
        """Every share of long answers that a model is trained with on next tokens, growing."""
        return tuple(sorted((self.p_chain, *self.sweep)))

    def task(self, p_chain: float | None = None) -> Parity:
        """At the recipe's own share of long answers, or another."""
        return Parity(self.n_bits, self.p_chain if p_chain is None else p_chain)

    def model(self, seed: int) -> Transformer:
        """Untrained."""
        return Transformer(
            TransformerConfig(
                n_tokens=self.task().n_tokens,
                n_layers=self.n_layers,
                n_heads=self.n_heads,
                d_model=self.d_model,
                d_mlp=self.d_mlp,
                n_ctx=2 * self.n_bits + 2,
                activation="gelu",
                seed=seed,
            )
        )

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating("nextlens parity", self, ParityRecipe)
