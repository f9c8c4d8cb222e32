"""Transformers trained on star graphs by one objective, followed until they solve them or time runs out."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from nextlens.analyses.objectives_training import OBJECTIVES, Lesson, lesson_steps
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.analyses.star_graph import PROBED, SWAPPED, answered, plan_by_block, swapped_plan
from nextlens.models import checkpoints
from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.tasks.star_graph import CleverHans, StarGraph
from nextlens.models.transformer import TransformerConfig

#: Graphs on which a model is followed, and measured at the end.
FOLLOWED, MEASURED = 512, 2000

#: What differs from one objective to another unless told otherwise.
BY_OBJECTIVE: Mapping[str, Mapping[str, Any]] = {
    "next-token": {"layout": "coupled", "cpu_seconds": 120.0},
    "multi-token": {"layout": "coupled", "cpu_seconds": 300.0},
    "joint multi-token": {"layout": "coupled", "cpu_seconds": 300.0},
    "next-latent": {"layout": "edges", "cpu_seconds": 300.0, "ahead": 2},
    "registers": {"layout": "coupled", "cpu_seconds": 600.0, "batch_size": 256, "learning_rate": 1e-3},
}


@dataclass(frozen=True)
class StarGraphRecipe(WrittenRecipe):
    """All that decides the numbers of a run but the machine's speed: JSON-able, compared by value.

    Parameters
    ----------
    objective : str
        One of :data:`~nextlens.analyses.objectives_training.OBJECTIVES`.
    layout, n_arms, arm_length, n_nodes
        Of :class:`~nextlens.models.tasks.star_graph.StarGraph`.
    ahead, fewest, share
        Of :class:`~nextlens.analyses.objectives_training.Lesson`; registers look 2 ahead or more, so that none of them
        learns to copy.
    n_layers, d_model, n_heads : int
    batch_size : int
    learning_rate, weight_decay : float
    cpu_seconds : float
        What each seed is given.
    steps : int, optional
        Stop after so many steps at the latest.
    solved_at : float
        A seed stops early once it solves so large a share of the graphs it is followed on, twice in a row.
    every : int
        Steps between two looks.
    seeds : tuple of int

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    objective: str = "next-latent"
    layout: str = "coupled"
    n_arms: int = 2
    arm_length: int = 4
    n_nodes: int = 10
    ahead: int = 3
    fewest: int = 2
    share: float | int = 0.5
    n_layers: int = 4
    d_model: int = 64
    n_heads: int = 4
    batch_size: int = 128
    learning_rate: float | int = 2e-3
    weight_decay: float | int = 0.1
    cpu_seconds: float | int = 300.0
    steps: int | None = None
    solved_at: float | int = 0.99
    every: int = 50
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        one_of("objective", self.objective, OBJECTIVES)
        at_least("every", self.every, 1)
        at_least("batch_size", self.batch_size, 1)
        between("solved_at", self.solved_at, 0, 1)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must hold at least one seed, each once, none below 0")
        between("ahead", self.ahead, 1, self.task.length - 2)
        self.lesson(self.seeds[0])

    @classmethod
    def of(cls, objective: str, **given: Any) -> StarGraphRecipe:
        """The recipe of an objective, its own settings taken where none is given."""
        return cls(**{"objective": one_of("objective", objective, OBJECTIVES), **BY_OBJECTIVE[objective], **given})

    @property
    def task(self) -> StarGraph:
        return StarGraph(self.n_arms, self.arm_length, self.n_nodes, self.layout)

    def lesson(self, seed: int) -> Lesson:
        """The training of one transformer."""
        task = self.task
        config = TransformerConfig(
            n_tokens=task.n_tokens + 1,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            d_mlp=2 * self.d_model,
            n_ctx=task.length,
            activation="gelu",
            gated=True,
            normalisation="RMSNorm",
            seed=seed,
        )
        names = ("cpu_seconds", "steps", "learning_rate", "weight_decay", "ahead", "share")
        fewest = self.fewest if self.objective == "registers" else 1
        stream = partial(task.batches, self.batch_size)
        own = {name: getattr(self, name) for name in names}
        return Lesson(f"seed-{seed}", self.objective, config, stream, fewest=fewest, **own)

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        command = f"nextlens objectives star-graph --objective {shlex.quote(self.objective)}"
        return repeating(command, self, StarGraphRecipe.of(self.objective), without=("objective",))


class StarGraphSeed(NamedTuple):
    """One transformer, trained and measured.

    Attributes
    ----------
    curve : Dataset
        Over ``step``: ``cpu`` (seconds of training), ``solved``, ``by_token`` (step, node).
    final : CleverHans
        On graphs that it was not followed on.
    plan : Dataset
        Of :func:`~nextlens.analyses.star_graph.plan_by_block`, and of the same model untrained in ``untrained``.
    swap : Dataset
        Of :func:`~nextlens.analyses.star_graph.swapped_plan`.
    cpu_seconds : float
        Of training.
    steps : int
    """

    curve: xr.Dataset
    final: CleverHans
    plan: xr.Dataset
    swap: xr.Dataset
    cpu_seconds: float
    steps: int


def train_and_measure(
    recipe: StarGraphRecipe,
    seed: int,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
) -> StarGraphSeed:
    """Train one transformer, follow it until it has solved the task, then read its plan off the residual stream.

    Raises
    ------
    ValueError
        If ``resume`` finds a checkpoint of another recipe.
    """
    lesson, task = recipe.lesson(seed), recipe.task
    followed = task.draw(FOLLOWED, np.random.default_rng([seed, 3]))
    notes: dict[str, Any] = {"curve": []}
    made_by = {**recipe.as_json(), "seeds": [seed]}
    for step in lesson_steps(lesson, folder, notes, recipe=made_by, resume=resume, device=device, report=report):
        done = step.index + 1
        if done % recipe.every == 0 or notes["ended"]:
            found = answered(step.model, followed)
            look = {"step": done, "cpu": notes["cpu"], "solved": found.solved, "by_token": found.by_token.tolist()}
            notes["curve"].append(look)
            last = [one["solved"] for one in notes["curve"][-2:]]
            notes["ended"] |= len(last) == 2 and min(last) >= recipe.solved_at
    model = checkpoints.load(lesson.path(folder), device=device)
    final = answered(model, task.draw(MEASURED, np.random.default_rng([seed, 4])))
    probed = task.draw(PROBED, np.random.default_rng([seed, 5]))
    plan = plan_by_block(model, probed)
    plan["untrained"] = plan_by_block(model.untrained(), probed).accuracy
    swap = swapped_plan(model, task.draw(SWAPPED, np.random.default_rng([seed, 6])))
    return StarGraphSeed(_curve(notes["curve"]), final, plan, swap, float(notes["cpu"]), int(notes["steps"]))


def _curve(found: list[Mapping[str, Any]]) -> xr.Dataset:
    return xr.Dataset(
        {
            "cpu": ("step", [one["cpu"] for one in found], {"units": "s"}),
            "solved": ("step", [one["solved"] for one in found]),
            "by_token": (("step", "node"), np.array([one["by_token"] for one in found])),
        },
        coords={"step": [one["step"] for one in found]},
    )
