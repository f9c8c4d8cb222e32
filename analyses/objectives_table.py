"""Several objectives on one task: a transformer for each and every seed, and the same measures of all in one table."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from nextlens.analyses.intervals import interval
from nextlens.analyses.model_training import progress_bar, steps_done
from nextlens.analyses.objectives_training import OBJECTIVES, Lesson, lesson_steps
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.analyses.results_folder import NUMBERS, begin, versions, write_json
from nextlens.models import checkpoints
from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.hooked import Hooked
from nextlens.models.tasks.prompted import PromptedTask
from nextlens.models.training import over_seeds
from nextlens.models.transformer import TransformerConfig


@dataclass(frozen=True)
class TableRecipe(WrittenRecipe, ABC):
    """All that decides the numbers of a run but the machine's speed: JSON-able, compared by value.

    Whoever inherits says the task, its size in fields of its own, and what is measured of a model.

    Parameters
    ----------
    objectives : tuple of str
        Of :data:`~nextlens.analyses.objectives_training.OBJECTIVES`.
    ahead : int
        Steps rolled out by NextLat, and the largest offset of heads and registers.
    share : float
        Of registers in the loss.
    n_layers, d_model, n_heads : int
    batch_size : int
    learning_rate, weight_decay : float
    cpu_seconds : float
        For each transformer.
    steps : int, optional
        Stop after so many at the latest.
    seeds : tuple of int

    Attributes
    ----------
    verb : str
        Of the command line.
    protocols : mapping of str to str
        What each measure is, by name.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    objectives: tuple[str, ...] = ("next-token", "multi-token", "next-latent", "registers")
    ahead: int = 4
    share: float | int = 0.3
    n_layers: int = 3
    d_model: int = 64
    n_heads: int = 4
    batch_size: int = 128
    learning_rate: float | int = 2e-3
    weight_decay: float | int = 0.01
    cpu_seconds: float | int = 40.0
    steps: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)

    verb: ClassVar[str]
    protocols: ClassVar[Mapping[str, str]]

    def __post_init__(self) -> None:
        for name in self.objectives:
            one_of("objectives", name, OBJECTIVES)
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives={self.objectives!r} must name at least one, each once")
        at_least("batch_size", self.batch_size, 1)
        between("ahead", self.ahead, 1, self.task.length - 2)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must hold at least one seed, each once, none below 0")
        for name in self.objectives:
            self.lesson(name, self.seeds[0])

    @property
    @abstractmethod
    def task(self) -> PromptedTask: ...

    @property
    @abstractmethod
    def about(self) -> str:
        """The task in a few words, for the first line of the summary."""

    @abstractmethod
    def measured(self, model: Hooked) -> dict[str, float]:
        """Every measure of one trained model, by name."""

    def lesson(self, objective: str, seed: int) -> Lesson:
        """The training of one transformer."""
        task = self.task
        config = TransformerConfig(
            n_tokens=task.n_tokens + 1,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            n_ctx=task.length,
            seed=seed,
        )
        names = ("cpu_seconds", "steps", "learning_rate", "weight_decay", "ahead", "share")
        own = {name: getattr(self, name) for name in names}
        name = f"{objective.replace(' ', '-')}-seed-{seed}"
        return Lesson(name, objective, config, partial(task.batches, self.batch_size), **own)

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating(f"nextlens objectives {self.verb}", self, type(self)())


def run(
    recipe: TableRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a transformer for each objective and seed, and put the measures of all in one table.

    Writes a checkpoint a model with its head, and ``numbers.json``, which is also what is returned.

    Raises
    ------
    OSError
        If nothing can be written into ``folder``; before any work is done.
    ValueError
        If ``folder`` holds what would be lost, or cannot be gone on with.
    """
    place = begin(folder, recipe.as_json(), resume=resume)
    wanted = [(objective, seed) for seed in recipe.seeds for objective in recipe.objectives]
    behind = [steps_done(recipe.lesson(*one).path(place)) if resume else 0 for one in wanted]
    with progress_bar(place, behind, (recipe.steps or 0) * len(wanted), show=progress) as report:
        job = partial(_one, wanted=wanted, recipe=recipe, folder=place, resume=resume, device=device, report=report)
        found = dict(zip(wanted, over_seeds(job, range(len(wanted)), n_jobs=n_jobs), strict=True))
    numbers = _sum_up(recipe, found)
    write_json(place / NUMBERS, numbers)
    return numbers


def _one(
    number: int,
    *,
    wanted: list[tuple[str, int]],
    recipe: TableRecipe,
    folder: Path,
    resume: bool,
    device: str,
    report: Callable[[int, int], None] | None,
) -> dict[str, float]:
    objective, seed = wanted[number]
    lesson, notes = recipe.lesson(objective, seed), {}
    whole = {name: value for name, value in recipe.as_json().items() if name not in ("objectives", "seeds")}
    made_by = {**whole, "objective": objective, "seed": seed}
    tell = None if report is None else partial(report, number)
    for _ in lesson_steps(lesson, folder, notes, recipe=made_by, resume=resume, device=device, report=tell):
        pass
    return {
        **recipe.measured(checkpoints.load(lesson.path(folder), device=device)),
        "steps": float(notes["steps"]),
        "CPU seconds": float(notes["cpu"]),
    }


def _sum_up(recipe: TableRecipe, found: Mapping[tuple[str, int], Mapping[str, float]]) -> dict[str, Any]:
    rows = list(found[recipe.objectives[0], recipe.seeds[0]])
    return {
        "measures": {
            row: {name: interval([found[name, seed][row] for seed in recipe.seeds]) for name in recipe.objectives}
            for row in rows
        },
        "protocols": dict(recipe.protocols),
        "seeds": list(recipe.seeds),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy"),
    }


def summary(recipe: TableRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """One table: measures by objective, each a mean over seeds with its interval."""
    width = max(map(len, numbers["measures"]))
    lines = [
        f"{recipe.about}; {len(recipe.seeds)} seeds, {recipe.cpu_seconds:g} CPU seconds each",
        f"{'':{width}s}" + "".join(f"{name:>24s}" for name in recipe.objectives),
    ]
    for row, found in numbers["measures"].items():
        lines.append(f"{row:{width}s}" + "".join(f"{_spelled(found[name]):>24s}" for name in recipe.objectives))
    lines.append(f"look at    {folder / NUMBERS}")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def _spelled(found: Mapping[str, Any]) -> str:
    mean, ends = found["mean"], found["interval_95"]
    digits = ".3f" if abs(mean) < 10 else ".1f"
    return f"{mean:{digits}}" + ("" if ends is None else f" [{ends[0]:{digits}}, {ends[1]:{digits}}]")
