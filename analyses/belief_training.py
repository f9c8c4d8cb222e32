"""Transformers trained on a process, followed on the way; interruptible at any moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nextlens.analyses.belief_protocols import FOLDS, PROTOCOLS, refuse_few_states, refuse_unfit
from nextlens.analyses.emergence import Moment, emergence_at, measured_after, snapshots_after
from nextlens.analyses.model_training import Training, training_steps
from nextlens.analyses.prefix_rows import Prefixes, listable
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.analyses.sites import probed_sites
from nextlens.models import checkpoints
from nextlens.models.arguments import at_least, one_of
from nextlens.models.batch import Batch
from nextlens.models.processes import Process, process_by_name
from nextlens.models.processes.mixed_states import optimal_loss
from nextlens.models.recording import record
from nextlens.models.transformer import Transformer, TransformerConfig, paper_mess3, paper_rrxor

#: Processes whose published transformer is not that of Mess3.
ARCHITECTURES = {"rrxor": paper_rrxor}
#: The rate that trains soonest: of the published Mess3 transformer, and of wider ones.
LEARNING_RATE, LEARNING_RATES = 5e-3, {"rrxor": 1e-3}
#: Sampled words that a run is followed by.
FOLLOWED_WORDS = 2000


@dataclass(frozen=True)
class BeliefRecipe(WrittenRecipe):
    """All that decides the numbers of a run, and nothing else: JSON-able, compared by value.

    Parameters
    ----------
    process : str
        A name in ``nextlens.models.processes.PROCESSES``.
    parameters : mapping of str to float
        Of the process; its defaults for the rest.
    steps, batch_size : int
        Steps of Adam, and words in each batch.
    learning_rate : float, optional
        The largest: it rises over ``warmup`` steps, then falls along half a cosine to 0. None becomes 0.005,
        or 0.001 for RRXOR's wider transformer.
    warmup : int, optional
        A tenth of the steps but at most 100 if None.
    seeds : tuple of int
        Each decides the first weights and the data of one transformer.
    sites : tuple of str, optional
        The embedding and every block's ``hook_resid_post`` if None; the last one is followed and drawn.
    protocol : {"held-out", "paper2024", "quantum2025"}
    folds : {"prefix", "suffix", "belief"}
        What is held out together.

    Raises
    ------
    ValueError
        If a value is out of range, a name is unknown, or the protocol does not fit the process.
    """

    process: str = "mess3"
    parameters: Mapping[str, float] = field(default_factory=dict)
    steps: int = 4000
    batch_size: int = 256
    learning_rate: float | None = None
    warmup: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    sites: tuple[str, ...] | None = None
    protocol: str = "held-out"
    folds: str = "prefix"

    def __post_init__(self) -> None:
        if self.warmup is None:
            object.__setattr__(self, "warmup", min(100, self.steps // 10))
        for name, minimum in (("steps", 2), ("batch_size", 1), ("warmup", 0)):
            if at_least(name, getattr(self, name), minimum) != int(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number")
        if self.warmup >= self.steps:
            raise ValueError(f"warmup={self.warmup} must be below steps={self.steps}")
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", LEARNING_RATES.get(self.process, LEARNING_RATE))
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate={self.learning_rate!r} must be above 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must hold at least one seed, each once, none below 0")
        one_of("protocol", self.protocol, PROTOCOLS)
        one_of("folds", self.folds, tuple(FOLDS))
        config = self.config(self.seeds[0])
        if self.made.n_states < 2 or optimal_loss(self.made, 2).sum() < 1e-9:
            raise ValueError(
                f"process={self.process!r} with {dict(self.parameters)!r} has one state, or says nothing uncertain: "
                "there is no belief to look for"
            )
        listed = self.protocol != "paper2024" or listable(self.made, config.n_ctx)
        refuse_unfit(self.protocol, self.folds, listed, self.process, config.n_ctx)
        if self.folds == "belief":
            refuse_few_states(Prefixes.of(self.made, config.n_ctx))
        model = Transformer(config)
        record(model, Batch.from_tokens([[0, 0]]), self.probed(model), where=np.ones((1, 1), dtype=bool))

    @property
    def reading(self) -> str:
        """The protocol, with the folds where they are not the usual ones."""
        return self.protocol + f" by {self.folds}" * (self.folds != "prefix")

    @property
    def made(self) -> Process:
        """The process itself."""
        return process_by_name(self.process, **self.parameters)

    def config(self, seed: int) -> TransformerConfig:
        """The published transformer of this process; of Mess3 where none was published."""
        return ARCHITECTURES.get(self.process, paper_mess3)(seed, n_tokens=self.made.n_tokens)

    def training(self, seed: int) -> Training:
        """What is trained on what."""
        return Training(
            f"seed-{seed}", self.made, self.config(seed), self.steps, self.batch_size, self.learning_rate, self.warmup
        )

    def probed(self, model: Transformer) -> list[str]:
        """Full names of the sites to probe."""
        return probed_sites(model, self.sites)

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        command = f"nextlens belief --process {self.process}"
        if self.steps != BeliefRecipe.steps:
            command += f" --steps {self.steps}"
        usual = BeliefRecipe(self.process, steps=self.steps)
        return repeating(command, self, usual, without=("process", "steps"), repeated={"sites": "site"})


@dataclass(frozen=True)
class Trained:
    """One transformer, and how it came to be.

    Attributes
    ----------
    model : Transformer
    curve : list of Moment
        The moments of :func:`~nextlens.analyses.emergence.emergence`.
    cpu_seconds : float
        Of training and following, resumed stretches included.
    """

    model: Transformer
    curve: list[Moment]
    cpu_seconds: float


def train_seed(
    seed: int,
    *,
    recipe: BeliefRecipe,
    folder: Path,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
) -> Trained:
    """Train one transformer; its checkpoint is kept at :func:`checkpoint_of`, its snapshots beside it.

    Saved every few seconds and at the end. With ``resume`` the run goes on from the last save, and on
    the CPU gives what it would have given uninterrupted, bit for bit.

    Parameters
    ----------
    report : callable, optional
        Told after every step how many lie behind.

    Raises
    ------
    ValueError
        If ``resume`` finds a checkpoint of another recipe.
    """
    path, training, notes = checkpoint_of(folder, seed), recipe.training(seed), {"curve": [], "cpu": 0.0}
    followed = Prefixes.of(training.process, training.length, n_words=FOLLOWED_WORDS, rng=np.random.default_rng(2))
    due, snapshots = set(measured_after(recipe.steps).tolist()), set(snapshots_after(recipe.steps))
    site = recipe.probed(training.model())[-1]

    def follow(model: Transformer, done: int, tokens: int) -> None:
        notes["curve"].append({"step": done, "tokens": tokens, **emergence_at(model, followed, site)})

    if not (resume and path.exists()):
        follow(training.model().to(device), 0, 0)
    for step in training_steps(
        training, path, notes, recipe=recipe.as_json(), resume=resume, device=device, report=report
    ):
        done = step.index + 1
        if done in due:
            follow(step.model, done, step.tokens)
        if done in snapshots:
            made_by = {"recipe": recipe.as_json(), "seed": seed, "step": done}
            checkpoints.save(snapshot_of(folder, seed, done), step.model, made_by=made_by)
    return Trained(checkpoints.load(path, device=device), notes["curve"], notes["cpu"])


def checkpoint_of(folder: Path, seed: int) -> Path:
    """Where the last checkpoint of a seed is."""
    return folder / f"seed-{seed}" / checkpoints.FILE_NAME


def snapshot_of(folder: Path, seed: int, done: int) -> Path:
    """Where the checkpoint after ``done`` steps is, if that is a snapshot."""
    return folder / f"seed-{seed}" / f"step-{done}.safetensors"
