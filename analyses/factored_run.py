"""Transformers trained on independent factors, followed, read and summed up in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nextlens.analyses.displays import style
from nextlens.analyses.factored_numbers import FactoredResult, display_of, prefixes_of, sum_up
from nextlens.analyses.factored_prefixes import loss_over_optimum
from nextlens.analyses.factored_recipe import FactoredRecipe
from nextlens.analyses.factored_representations import freeze_and_vary, moment, representation
from nextlens.analyses.model_training import progress_bar, steps_done, training_steps
from nextlens.analyses.results_folder import NUMBERS, begin, write_json
from nextlens.models import checkpoints
from nextlens.models.arguments import at_least
from nextlens.models.training import over_seeds

#: Sampled words that a run is followed by, and moments at which it is.
FOLLOWED_WORDS, MOMENTS = 500, 16
FIGURE = "factors"


def run(
    recipe: FactoredRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train, follow and read every model; write a figure, checkpoints and ``numbers.json``.

    Parameters
    ----------
    recipe : FactoredRecipe
    folder : path
        Made if need be; results of a finished run of the same recipe are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``, which must be of the same recipe.
    device : str, default="cpu"
    n_jobs : int, optional
        Models at once; as many as there are processors if None.
    progress : bool, default=False

    Returns
    -------
    dict
        What is written as ``numbers.json``.

    Raises
    ------
    OSError
        If nothing can be written into ``folder``; before any work is done.
    ValueError
        If ``folder`` holds an unfinished run and ``resume`` is False, or a run of another recipe and it
        is True.
    """
    if n_jobs is not None:
        at_least("n_jobs", n_jobs, 1)
    place = begin(folder, recipe.as_json(), resume=resume)
    tasks = recipe.tasks()
    behind = [steps_done(task.training.path(place)) if resume else 0 for task in tasks]
    total = sum(task.training.steps for task in tasks)
    with progress_bar(place, behind, total, show=progress) as report:
        job = partial(run_task, recipe=recipe, folder=place, resume=resume, device=device, report=report)
        results = over_seeds(job, range(len(tasks)), n_jobs=n_jobs)
    numbers = sum_up(recipe, results)
    write_json(place / NUMBERS, numbers)
    style.save(display_of(recipe, numbers).plot().figure_, place / FIGURE)
    return numbers


def run_task(
    index: int,
    *,
    recipe: FactoredRecipe,
    folder: Path,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int, int], None] | None = None,
) -> FactoredResult:
    """Train one model of the recipe, following it, then read it beside its untrained twin."""
    task = recipe.tasks()[index]
    training, notes = task.training, {"curve": [], "cpu": 0.0}
    path, tell = training.path(folder), None if report is None else partial(report, index)
    followed = prefixes_of(task, FOLLOWED_WORDS, seed=2)
    due = set(moments_after(training.steps))
    if not (resume and path.exists()):
        notes["curve"].append(moment(training.model().to(device), followed, task.site, step=0, tokens=0))
    for step in training_steps(training, path, notes, resume=resume, device=device, report=tell):
        if (done := step.index + 1) in due:
            notes["curve"].append(moment(step.model, followed, task.site, step=done, tokens=step.tokens))
    if resume and not notes["curve"]:
        notes = checkpoints.recipe(path)["made_by"]
    model = checkpoints.load(path, device=device)
    twin, prefixes = model.untrained(), prefixes_of(task, recipe.words)
    layers = range(training.config.n_layers)
    sites = ["hook_embed", *(f"blocks.{i}.hook_resid_post" for i in layers)] if task.noise is None else [task.site]
    varied = None
    if task.noise is None:
        varied = {
            who: freeze_and_vary(one, recipe.process, training.length, task.site, np.random.default_rng(4))
            for who, one in (("trained", model), ("untrained twin", twin))
        }
    return FactoredResult(
        task,
        loss_over_optimum(model, prefixes),
        loss_over_optimum(twin, prefixes),
        representation(model, twin, prefixes, sites),
        varied,
        notes["curve"],
        notes["cpu"],
    )


def moments_after(steps: int) -> list[int]:
    """After how many steps a run is looked at: from 5 on, evenly on a log axis, and at the end."""
    return np.unique(np.geomspace(min(5, steps), steps, MOMENTS).round().astype(int)).tolist()
