"""The question on addition as a job: transformers with coupled positions and their baselines, in a folder."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from nextlens.analyses.addition_figures import draw
from nextlens.analyses.addition_numbers import sum_up
from nextlens.analyses.addition_recipe import KINDS, AdditionRecipe
from nextlens.analyses.addition_training import train_and_measure
from nextlens.analyses.model_training import each
from nextlens.analyses.results_folder import NUMBERS, begin, write_json


def run(
    recipe: AdditionRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train models of all kinds for each seed, measure and open them; write figures, checkpoints and ``numbers.json``.

    Parameters
    ----------
    recipe : AdditionRecipe
    folder : path
        Made if need be; results of a finished run of the same recipe in it are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``: models whose training was finished are not trained again.
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
        If ``folder`` holds what would be lost, or cannot be gone on with.
    """
    place = begin(folder, recipe.as_json(), resume=resume)
    wanted = [(kind, seed) for seed in recipe.seeds for kind in KINDS]
    total = sum(recipe.steps_of(kind) for kind, _ in wanted)
    job = partial(train_and_measure, recipe, folder=place, resume=resume, device=device)
    results = each(job, wanted, place, total, n_jobs=n_jobs, progress=progress)
    numbers = sum_up(recipe, results)
    draw(recipe, results, place)
    write_json(place / NUMBERS, numbers)
    return numbers
