"""The question on reinforcement as a job: transformers trained on parity and reinforced, in a folder."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from nextlens.analyses.model_training import each
from nextlens.analyses.parity_figures import draw
from nextlens.analyses.parity_numbers import sum_up
from nextlens.analyses.parity_recipe import ParityRecipe
from nextlens.analyses.parity_training import steps_of, train_and_reinforce
from nextlens.analyses.results_folder import NUMBERS, begin, write_json


def run(
    recipe: ParityRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train, reinforce, probe and steer for each seed; write figures, a checkpoint a training, and ``numbers.json``.

    Parameters
    ----------
    recipe : ParityRecipe
    folder : path
        Made if need be; results of a finished run of the same recipe in it are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``: trainings that were finished are not done again.
    device : str, default="cpu"
    n_jobs : int, optional
        Seeds at once; as many as there are processors if None.
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
    place = begin(folder, recipe.as_json(), resume=resume)
    job = partial(train_and_reinforce, recipe, folder=place, resume=resume, device=device)
    total = steps_of(recipe) * len(recipe.seeds)
    found = each(job, [(seed,) for seed in recipe.seeds], place, total, n_jobs=n_jobs, progress=progress)
    results = {seed: one for (seed,), one in found.items()}
    numbers = sum_up(recipe, results)
    draw(recipe, results, place)
    write_json(place / NUMBERS, numbers)
    return numbers
