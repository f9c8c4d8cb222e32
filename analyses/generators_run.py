"""Minimal generators against classical memory: models of several kinds on several processes, in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nextlens.analyses.emergence import measured_after
from nextlens.analyses.generators_numbers import ModelResult, draw, sum_up
from nextlens.analyses.generators_recipe import FOLLOWED_WORDS, N_CTX, GeneratorsRecipe
from nextlens.analyses.minimal_generators import (
    RIVALS,
    minimal_generators,
    published_scores,
    rival_targets,
)
from nextlens.analyses.model_training import Training, progress_bar, steps_done, training_steps
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.analyses.results_folder import NUMBERS, begin, write_json
from nextlens.models import checkpoints
from nextlens.models.hooked import Hooked
from nextlens.models.recording import record
from nextlens.models.training import over_seeds
from nextlens.probes.belief import held_out
from nextlens.probes.samples import pair

#: Moments in each decade of steps at which a training is followed.
MOMENTS = 3


def followed(model: Hooked, prefixes: Prefixes, order: int) -> dict[str, float]:
    """Loss over the optimum, and held-out R² and RMSE of both rivals at the last layer, at this moment."""
    site = [site for site in model.sites if site.endswith("hook_resid_post")][-1]
    acts, targets = record(model, prefixes.batch, [site], where=prefixes.first)[site], rival_targets(prefixes, order)
    moment = {"loss_over_optimum": excess_loss(model, prefixes).attrs["loss_over_optimum"]}
    for name in RIVALS:
        X, Y, groups = pair(acts, targets[name], groups="prefix")
        probe = held_out(X, Y, groups, weights=prefixes.weights)
        moment |= {f"r2 {name}": probe.r2, f"rmse {name}": probe.rmse}
    return moment


def train_and_measure(
    run: int,
    *,
    trainings: list[Training],
    recipe: GeneratorsRecipe,
    folder: Path,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int, int], None] | None = None,
) -> ModelResult:
    """Train one model, following it, then read both rivals off it and its untrained twin."""
    training = trainings[run]
    path, process, seed = training.path(folder), training.process, training.config.seed
    notes: dict[str, Any] = {"curve": []}
    words = Prefixes.of(process, N_CTX, n_words=FOLLOWED_WORDS, rng=np.random.default_rng(2))
    due = set(measured_after(training.steps, MOMENTS).tolist())
    if not (resume and path.exists()):
        start = followed(training.model().to(device), words, recipe.order)
        notes["curve"].append({"step": 0, "tokens": 0, **start})
    tell = None if report is None else partial(report, run)
    for step in training_steps(training, path, notes, resume=resume, device=device, report=tell):
        if (done := step.index + 1) in due:
            moment = followed(step.model, words, recipe.order)
            notes["curve"].append({"step": done, "tokens": step.tokens, **moment})
    model = checkpoints.load(path, device=device)
    twin, prefixes = model.untrained(), recipe.prefixes(process.name)
    return ModelResult(
        excess_loss(model, prefixes),
        excess_loss(twin, prefixes).attrs["loss_over_optimum"],
        published_scores(model, twin, prefixes, order=recipe.order, seed=seed),
        minimal_generators(model, twin, prefixes, order=recipe.order, seed=seed),
        notes["curve"],
        float(notes["cpu"]),
    )


def run(
    recipe: GeneratorsRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train and measure every model; write ``scores``, ``emergence``, a ``cloud`` of each process and ``numbers.json``.

    Returns
    -------
    dict
        What is written as ``numbers.json``.

    Raises
    ------
    OSError
        If nothing can be written into ``folder``; before any work is done.
    ValueError
        If ``folder`` holds what would be lost, or cannot be gone on with.
    """
    place, named = begin(folder, recipe.as_json(), resume=resume), recipe.trainings()
    trainings = list(named.values())
    behind = [steps_done(training.path(place)) if resume else 0 for training in trainings]
    total = sum(training.steps for training in trainings)
    with progress_bar(place, behind, total, show=progress) as report:
        job = partial(
            train_and_measure,
            trainings=trainings,
            recipe=recipe,
            folder=place,
            resume=resume,
            device=device,
            report=report,
        )
        results = dict(zip(named, over_seeds(job, range(len(trainings)), n_jobs=n_jobs), strict=True))
    numbers = sum_up(recipe, results)
    draw(recipe, numbers, results, place)
    write_json(place / NUMBERS, numbers)
    return numbers
