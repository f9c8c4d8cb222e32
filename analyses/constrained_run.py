"""Transformers of one layer trained on Mess3, read for what their attention adds up, in a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nextlens.analyses.constrained_attention import attention_circuit
from nextlens.analyses.constrained_beliefs import constrained_geometry
from nextlens.analyses.constrained_numbers import Measured, draw, sum_up
from nextlens.analyses.constrained_recipe import ConstrainedRecipe
from nextlens.analyses.model_training import Training, train_all
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.analyses.results_folder import NUMBERS, begin, write_json
from nextlens.models import checkpoints
from nextlens.models.arguments import at_least
from nextlens.models.training import over_seeds


def measure(which: int, *, trainings: Sequence[Training], folder: Path, longest: int, device: str = "cpu") -> Measured:
    """Read one trained transformer and its untrained twin, after prefixes of up to ``longest`` tokens."""
    training = trainings[which]
    model = checkpoints.load(training.path(folder), device=device)
    prefixes, twin = Prefixes.of(training.process, longest), model.untrained()
    return Measured(
        excess_loss(model, prefixes),
        excess_loss(twin, prefixes),
        constrained_geometry(model, twin, prefixes, seed=training.config.seed),
        attention_circuit(model, prefixes),
        attention_circuit(twin, prefixes),
    )


def run(
    recipe: ConstrainedRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train one transformer a setting and seed, read it, and write a figure a setting and ``numbers.json``.

    Parameters
    ----------
    recipe : ConstrainedRecipe
    folder : path
        Made if need be; results of a finished run of the same recipe in it are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``, which must be of the same recipe.
    device : str, default="cpu"
    n_jobs : int, optional
        Transformers at once; as many as there are processors if None.
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
        If ``folder`` holds what would be lost, or cannot be gone on with.
    """
    if n_jobs is not None:
        at_least("n_jobs", n_jobs, 1)
    place, trainings = begin(folder, recipe.as_json(), resume=resume), recipe.trainings()
    train_all(trainings, place, resume=resume, device=device, n_jobs=n_jobs, progress=progress)
    job = partial(measure, trainings=trainings, folder=place, longest=recipe.longest, device=device)
    found = over_seeds(job, range(len(trainings)), n_jobs=n_jobs)
    n = len(recipe.seeds)
    results = {one: found[k * n : (k + 1) * n] for k, one in enumerate(recipe.settings)}
    numbers = sum_up(recipe, results)
    draw(recipe, results, place)
    write_json(place / NUMBERS, numbers)
    return numbers
