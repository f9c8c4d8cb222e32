"""One transformer for each objective and seed, all on the same hidden Markov process for the same CPU seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nextlens.analyses.next_latent import kl_to_exact, latent_geometry
from nextlens.analyses.objectives_training import OBJECTIVES, Lesson, lesson_steps
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.models.arguments import at_least, one_of
from nextlens.models.processes import Process
from nextlens.models.processes.zoo import process_by_name
from nextlens.models.transformer import TransformerConfig

#: Words on which a model is followed.
FOLLOWED = 256


@dataclass(frozen=True)
class ObjectivesRecipe(WrittenRecipe):
    """All that decides the numbers of a run but the machine's speed: JSON-able, compared by value.

    Parameters
    ----------
    process : str
        By name, with ``parameters``.
    objectives : tuple of str
        Of :data:`~nextlens.analyses.objectives_training.OBJECTIVES`.
    length : int
        Tokens that are read in training.
    beyond : int
        How many times as many the roll-out of NextLat's dynamics is followed.
    n_layers, d_model, n_heads : int
    positions : str
        Of :class:`~nextlens.models.transformer_config.TransformerConfig`. Where they are learned, those beyond
        ``length`` are untrained: choose ``beyond=1``.
    batch_size : int
    learning_rate : float
    cpu_seconds : float
        For each transformer.
    steps : int, optional
        Stop after so many at the latest.
    ahead : int
        The largest offset of registers and of multi-token heads.
    roll_out : int
        Steps over which NextLat's dynamics is trained.
    share : float
        Of the registers in the loss.
    every : int
        Steps between two looks.
    seeds : tuple of int

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    process: str = "mess3"
    parameters: Mapping[str, float | int] = field(default_factory=lambda: {"alpha": 0.6, "x": 0.15})
    objectives: tuple[str, ...] = ("next-token", "multi-token", "next-latent", "registers")
    length: int = 32
    beyond: int = 3
    n_layers: int = 2
    d_model: int = 64
    n_heads: int = 4
    positions: str = "rotary"
    batch_size: int = 128
    learning_rate: float | int = 1e-3
    cpu_seconds: float | int = 60.0
    steps: int | None = None
    ahead: int = 4
    roll_out: int = 1
    share: float | int = 0.3
    every: int = 50
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        for name in self.objectives:
            one_of("objectives", name, OBJECTIVES)
        if "next-token" not in self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives={self.objectives!r} must name next-token, the control, and each once")
        for name, minimum in (("length", 8), ("beyond", 1), ("batch_size", 1), ("roll_out", 1), ("every", 1)):
            at_least(name, getattr(self, name), minimum)
        at_least("length", self.length, max(self.ahead, self.roll_out) + 1)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must hold at least one seed, each once, none below 0")
        object.__setattr__(self, "parameters", dict(self.parameters))
        for name in self.objectives:
            self.lesson(name, self.seeds[0])

    @property
    def source(self) -> Process:
        return process_by_name(self.process, **self.parameters)

    def lesson(self, objective: str, seed: int) -> Lesson:
        """The training of one transformer."""
        process = self.source
        config = TransformerConfig(
            n_tokens=process.n_tokens + 1,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            n_ctx=self.length * self.beyond,
            positions=self.positions,
            seed=seed,
        )
        stream = partial(process.batches, self.batch_size, self.length + 1, tree=False)
        own = {name: getattr(self, name) for name in ("cpu_seconds", "steps", "learning_rate", "share")}
        ahead = self.roll_out if objective == "next-latent" else self.ahead
        name = f"{objective.replace(' ', '-')}-seed-{seed}"
        return Lesson(name, objective, config, stream, ahead=ahead, **own)

    def lesson_recipe(self, objective: str, seed: int) -> dict[str, Any]:
        """What decides one transformer."""
        whole = {name: value for name, value in self.as_json().items() if name not in ("objectives", "seeds")}
        return {**whole, "objective": objective, "seed": seed}

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating("nextlens objectives hmm", self, ObjectivesRecipe())


def train_and_follow(
    recipe: ObjectivesRecipe,
    objective: str,
    seed: int,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train one transformer; what was seen on the way, as notes.

    Returns
    -------
    dict
        ``cpu``, ``steps`` and ``curve``: a list of ``step``, ``cpu``, ``kl`` (nats to the exact law), ``rank`` and
        ``r2`` (effective rank of the final state, and R² of the belief from it).

    Raises
    ------
    ValueError
        If ``resume`` finds a checkpoint of another recipe.
    """
    process = recipe.source
    tokens = process.sample(FOLLOWED, recipe.length + 1, np.random.default_rng(3))
    notes: dict[str, Any] = {"curve": []}
    for step in lesson_steps(
        recipe.lesson(objective, seed),
        folder,
        notes,
        recipe=recipe.lesson_recipe(objective, seed),
        resume=resume,
        device=device,
        report=report,
    ):
        done = step.index + 1
        if done % recipe.every == 0 or notes["ended"]:
            look = {"step": done, "cpu": notes["cpu"], "kl": kl_to_exact(step.model, process, tokens)}
            geometry = latent_geometry(step.model, process, tokens, ["ln_final.hook_normalized"])
            look |= {"rank": geometry["ranks"][-1], "r2": geometry["r2"][-1]}
            notes["curve"].append(look)
    return notes
