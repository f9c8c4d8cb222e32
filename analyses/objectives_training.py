"""One transformer trained on one of several objectives: saved with its head as it goes, for so many CPU seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nextlens.analyses.model_training import SAVE_EVERY, notes_of
from nextlens.models import checkpoints
from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.batch import Batch
from nextlens.models.objectives.multi_token import JointMultiToken, MultiToken
from nextlens.models.objectives.next_latent import NextLatent
from nextlens.models.objectives.next_token import Objective, next_token
from nextlens.models.objectives.registers import WithRegisters
from nextlens.models.training import Step, train
from nextlens.models.transformer import Transformer, TransformerConfig

#: By the names they have in tables.
OBJECTIVES = ("next-token", "multi-token", "joint multi-token", "next-latent", "registers")

#: Makes the batches that one model is trained on, without end.
Stream = Callable[[np.random.Generator], Iterable[Batch]]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one transformer reads, and what it is asked for: all that decides its weights, but for the clock.

    Every objective is given the same model: its last token is the register, which but one never see.

    Parameters
    ----------
    name : str
        Of the folder its checkpoint is kept in.
    objective : str
        One of :data:`OBJECTIVES`.
    config : TransformerConfig
        With one token more than the stream has; its seed decides the data too.
    stream : callable
        Generator -> batches without end, with ``state()`` and ``restore(state)``.
    cpu_seconds : float
        Of training; the step during which they run out is the last. What a caller does between steps is not counted.
    steps : int, optional
        Stop after so many, if the time allows them; then the weights do not depend on the machine's speed.
    learning_rate, weight_decay : float
        Of AdamW; the rate rises over ``warmup`` steps and then stays.
    warmup : int, default=50
    ahead : int, default=1
        How many steps NextLat rolls out, how many tokens the other objectives look ahead at most.
    fewest : int, default=1
        The smallest offset of a register.
    share : float, default=0.3
        Of the registers in the loss; below 1.
    weight_latent, weight_kl : float, default=1
        Of NextLat's terms.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    name: str
    objective: str
    config: TransformerConfig
    stream: Stream
    cpu_seconds: float | int
    steps: int | None = None
    learning_rate: float | int = 1e-3
    weight_decay: float | int = 0.0
    warmup: int = 50
    ahead: int = 1
    fewest: int = 1
    share: float | int = 0.3
    weight_latent: float | int = 1.0
    weight_kl: float | int = 1.0

    def __post_init__(self) -> None:
        one_of("objective", self.objective, OBJECTIVES)
        for name in ("cpu_seconds", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r} must be finite and above 0")
        if self.steps is not None:
            at_least("steps", self.steps, 1)
        for name, minimum in (("warmup", 0), ("fewest", 1), ("weight_decay", 0)):
            at_least(name, getattr(self, name), minimum)
        at_least("ahead", self.ahead, max(self.fewest, 2 if "multi" in self.objective else 1))
        between("share", self.share, 0, 1)
        if self.share == 1:
            raise ValueError("share=1 leaves nothing to the next token; it must be below 1")

    @property
    def register(self) -> int:
        return self.config.n_tokens - 1

    def path(self, folder: Path) -> Path:
        """Where its checkpoint is kept."""
        return folder / self.name / checkpoints.FILE_NAME

    def asked(self) -> Objective:
        """The objective, with a head of its own if it has one, untrained."""
        config, seed = self.config, self.config.seed
        if self.objective == "next-latent":
            weights = {"weight_latent": self.weight_latent, "weight_kl": self.weight_kl}
            return NextLatent(config.d_model, ahead=self.ahead, seed=seed, **weights)
        if self.objective == "multi-token":
            return MultiToken(config, ahead=self.ahead, seed=seed)
        if self.objective == "joint multi-token":
            return JointMultiToken(config, ahead=self.ahead, seed=seed)
        return next_token

    def batches(self) -> Iterable[Batch]:
        """What is read, with registers where they are the objective."""
        plain = self.stream(np.random.default_rng([self.config.seed, 1]))
        if self.objective != "registers":
            return plain
        how = {"ahead": self.ahead, "fewest": self.fewest, "weight": self.share}
        return WithRegisters(plain, register=self.register, rng=np.random.default_rng([self.config.seed, 2]), **how)

    def objective_of(self, folder: Path) -> Objective:
        """The objective with the head that was saved beside the model."""
        asked = self.asked()
        if isinstance(asked, nn.Module):
            asked.load_state_dict(checkpoints.load_training(self.path(folder)).objective)
        return asked


def lesson_steps(
    lesson: Lesson,
    folder: Path,
    notes: dict[str, Any],
    *,
    recipe: Mapping[str, Any],
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
) -> Iterator[Step]:
    """Train, and save every few seconds and at the end, after the caller has seen the step.

    Parameters
    ----------
    lesson : Lesson
    folder : Path
        Of all the lessons.
    notes : dict
        JSON-able; saved with every checkpoint and put back from the one that is gone on with. ``notes["cpu"]`` counts
        the CPU seconds of training, ``notes["steps"]`` the steps. A caller who has seen enough says
        ``notes["ended"] = True``.
    recipe : mapping
        JSON-able: what must agree for a run to be gone on with.
    resume : bool, default=False
    device : str, default="cpu"
    report : callable, optional
        Told after every step how many lie behind.

    Yields
    ------
    Step
        A lesson that had ended yields none.

    Raises
    ------
    ValueError
        If ``resume`` finds a checkpoint of another recipe.
    """
    path = lesson.path(folder)
    state = None
    if resume and path.exists():
        if checkpoints.recipe(path)["made_by"]["recipe"] != recipe:
            raise ValueError(f"resume: {str(path)!r} was made by another recipe; delete it, or choose another folder")
        notes.update(notes_of(path))
        if notes["ended"]:
            return
        state = checkpoints.load_training(path)
    model = (Transformer(lesson.config) if state is None else checkpoints.load(path)).to(device)
    objective = lesson.asked()
    if isinstance(objective, nn.Module):
        objective.to(device)
    notes.setdefault("cpu", 0.0)
    saved, clock = time.monotonic(), time.process_time()
    for step in train(
        model,
        lesson.batches(),
        steps=lesson.steps,
        objective=objective,
        optimiser=partial(torch.optim.AdamW, lr=lesson.learning_rate, weight_decay=lesson.weight_decay, fused=True),
        schedule=lambda index: min(1.0, (index + 1) / (lesson.warmup + 1)),
        resume=state,
    ):
        notes["cpu"] += time.process_time() - clock
        notes["steps"] = done = step.index + 1
        notes["ended"] = done == lesson.steps or notes["cpu"] >= lesson.cpu_seconds
        yield step
        if notes["ended"] or time.monotonic() - saved > SAVE_EVERY:
            made_by = {**notes, "recipe": recipe, "seed": lesson.config.seed, "step": done}
            checkpoints.save(path, step.model, made_by=made_by, training=step.state())
            saved = time.monotonic()
        if report is not None:
            report(done)
        if notes["ended"]:
            return
        clock = time.process_time()
