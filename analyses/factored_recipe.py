"""All that decides the numbers of a run on factored representations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nextlens.analyses.model_training import Training
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.processes import FactoredProcess, Process, bloch_walk, mess3
from nextlens.models.processes.blurred import BlurredProduct
from nextlens.models.processes.constructions import noisy_channel
from nextlens.models.transformer import TransformerConfig

#: What noise is tried on: two Mess3 that say a lot, so that there is something to lose.
NOISY_FACTORS = (mess3(0.85, 0.05), mess3(0.85, 0.05))
#: Where tokens are replaced and the belief is exact; and where the law is blurred and read on as if it were not.
CHANNEL, RECURSION = "exact channel", "public recursion"
NOISES = (CHANNEL, RECURSION)


class Setting(NamedTuple):
    """Factors, the transformer that learns them, and what is done if nothing else is said."""

    factors: Sequence[Process]
    architecture: Mapping[str, int]
    steps: int
    learning_rate: float
    seeds: tuple[int, ...]
    epsilons: tuple[float, ...]


#: "paper" is the product of arXiv 2602.02385 and its transformer, without the token at the beginning.
SETTINGS = {
    "small": Setting(
        (mess3(0.6, 0.15), mess3(0.6, 0.15), bloch_walk(1, 3)),
        {"n_layers": 3, "n_heads": 2, "d_model": 64, "n_ctx": 8},
        1500,
        3e-3,
        (0, 1, 2, 3),
        (0.0, 0.1, 0.2, 0.5),
    ),
    "paper": Setting(
        (*[mess3(0.6, 0.15)] * 3, *[bloch_walk(1, 3)] * 2),
        {"n_layers": 4, "n_heads": 3, "d_model": 120, "n_ctx": 8},
        1000,
        2e-3,
        (0,),
        (),
    ),
}
#: The transformer that learns :data:`NOISY_FACTORS`.
NOISY_ARCHITECTURE = {"n_layers": 2, "n_heads": 2, "d_model": 32, "n_ctx": 8}
NOISY_RATE = 5e-3


class Task(NamedTuple):
    """One model to train: on the product itself (``noise`` is None), or under noise."""

    noise: str | None
    epsilon: float
    seed: int
    training: Training
    factors: Sequence[Process]

    @property
    def site(self) -> str:
        """The last value of the residual stream, where dimensions are followed."""
        return f"blocks.{self.training.config.n_layers - 1}.hook_resid_post"


@dataclass(frozen=True)
class FactoredRecipe(WrittenRecipe):
    """All that decides the numbers of a run, and nothing else: JSON-able, compared by value.

    What is None becomes the value of :data:`SETTINGS` for ``factors``.

    Parameters
    ----------
    factors : {"small", "paper"}
        Two Mess3 and one Bloch walk, or the five factors of the paper.
    steps, batch_size : int
        Steps of Adam, and words in each batch.
    learning_rate : float, optional
        The largest: it rises over the first steps, then falls along half a cosine to 0.
    seeds : tuple of int, optional
        Each decides the first weights and the data of one transformer of a kind.
    epsilons : tuple of float, optional
        Noise that two Mess3 are learnt under, in both forms of :data:`NOISES`; at 0 they are one.
    noise_steps : int
        Steps of each of those.
    words : int
        Sampled words whose prefixes are measured.

    Raises
    ------
    ValueError
        If a value is out of range, or a name is unknown.
    """

    factors: str = "small"
    steps: int | None = None
    batch_size: int = 256
    learning_rate: float | None = None
    seeds: tuple[int, ...] | None = None
    epsilons: tuple[float, ...] | None = None
    noise_steps: int = 800
    words: int = 2000

    def __post_init__(self) -> None:
        usual = SETTINGS[one_of("factors", self.factors, tuple(SETTINGS))]
        for name in ("steps", "learning_rate", "seeds", "epsilons"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(usual, name))
        for name, least in (("steps", 2), ("batch_size", 1), ("noise_steps", 2), ("words", 20)):
            if at_least(name, getattr(self, name), least) != int(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be above 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must hold at least one seed, each once, none below 0")
        for epsilon in self.epsilons:
            between("epsilons", epsilon, 0, 1)
        if len(set(self.epsilons)) < len(self.epsilons):
            raise ValueError(f"epsilons={self.epsilons!r} must hold each number once")

    @property
    def setting(self) -> Setting:
        return SETTINGS[self.factors]

    @property
    def process(self) -> FactoredProcess:
        """The product that is learnt without noise."""
        return FactoredProcess(self.setting.factors)

    def tasks(self) -> list[Task]:
        """Every model to train: those without noise first, seed by seed."""
        factors, architecture = self.setting.factors, self.setting.architecture
        found = [
            Task(None, 0.0, seed, self._training(f"seed-{seed}", self.process, architecture, seed), factors)
            for seed in self.seeds
        ]
        for noise, epsilon in self.noises():
            process = noisy(noise, epsilon)
            for seed in self.seeds:
                name = f"{noise.replace(' ', '-')}-{epsilon:g}-seed-{seed}"
                training = self._training(name, process, NOISY_ARCHITECTURE, seed)
                found.append(Task(noise, epsilon, seed, training, NOISY_FACTORS))
        return found

    def noises(self) -> list[tuple[str, float]]:
        """The kinds and amounts of noise; without noise the two kinds are one."""
        return [(noise, e) for noise in NOISES for e in sorted(self.epsilons) if e > 0 or noise == CHANNEL]

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        usual = FactoredRecipe(self.factors)
        command = "nextlens belief factored"
        if self.factors != FactoredRecipe.factors:
            command += f" --factors {self.factors}"
        return repeating(command, self, usual)

    def _training(
        self, name: str, process: FactoredProcess | Process, architecture: Mapping[str, int], seed: int
    ) -> Training:
        config = TransformerConfig(n_tokens=process.n_tokens, seed=seed, **architecture)
        clean = architecture is self.setting.architecture
        steps, rate = (self.steps, self.learning_rate) if clean else (self.noise_steps, NOISY_RATE)
        return Training(name, process, config, steps, self.batch_size, rate)


def noisy(noise: str, epsilon: float) -> FactoredProcess | Process:
    """:data:`NOISY_FACTORS` under noise: a process through a channel, or the recursion that is none.

    Raises
    ------
    ValueError
        If ``noise`` is not one of :data:`NOISES`.
    """
    if one_of("noise", noise, NOISES) == CHANNEL:
        return noisy_channel(FactoredProcess(NOISY_FACTORS).joint(), epsilon)
    return BlurredProduct(NOISY_FACTORS, name=f"product blurred by {epsilon:g}", epsilon=epsilon)
