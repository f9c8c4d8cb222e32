"""An encoding run: every subject read, predicted and scored, in a folder that is whole or not there."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from joblib import parallel_config

from nextlens.analyses.encoding import scored_models
from nextlens.analyses.encoding_data import subjects_of
from nextlens.analyses.encoding_figures import draw, draw_cortex
from nextlens.analyses.encoding_numbers import of_subject, sum_up
from nextlens.analyses.encoding_recipe import EncodingRecipe
from nextlens.analyses.encoding_result import write_scores
from nextlens.analyses.encoding_spaces import Reader, spaces_of
from nextlens.analyses.results_folder import NUMBERS, begin, write_json
from nextlens.models.arguments import at_least

#: Where states of words are kept, unless told.
STATES = "states"


def run(
    recipe: EncodingRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
    states: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Predict every subject's responses from every feature space.

    Writes ``scores``, ``layers`` (with a checkpoint), ``partition`` and ``cortex`` (where it is known what a target
    is) as PNG, PDF and SVG, ``scores.npz`` and ``numbers.json``.

    Parameters
    ----------
    recipe : EncodingRecipe
    folder : path
        Made if need be; results of a finished run of the same recipe in it are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``: stories that the model has read are not read again.
    device : str, default="cpu"
        Of the model.
    n_jobs : int, optional
        Processes that blocks of targets are spread over. None leaves it to ``joblib.parallel_config``, which may name
        a cluster.
    progress : bool, default=False
    states : path, optional
        Where states of words are kept, to be shared by runs; ``states`` in ``folder`` if None.

    Returns
    -------
    dict
        What is written as ``numbers.json``.

    Raises
    ------
    FileNotFoundError, ImportError
        If data or a package is not there.
    OSError
        If nothing can be written into ``folder``; before any work is done.
    ValueError
        If ``folder`` holds what would be lost, or data are not what they should be.
    """
    place = begin(folder, recipe.as_json(), resume=resume)
    where = place / STATES if states is None else Path(states)
    reader = Reader(recipe, where, device, progress) if recipe.checkpoint else None
    numbers: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for subject in subjects_of(recipe):
        start = time.process_time()
        spaces = spaces_of(subject, recipe, reader)
        read = time.process_time()
        with spread_over(n_jobs):
            found = scored_models(subject, spaces, recipe)
        numbers[subject.name] = of_subject(subject, spaces, found, recipe)
        scores[subject.name] = {name: one.drop_dims("row") for name, one in found.models.items()}
        seconds[f"{subject.name}, features"] = round(read - start, 2)
        seconds[f"{subject.name}, fits"] = round(time.process_time() - read, 2)
        draw_cortex(subject, found, place)
    whole = sum_up(recipe, numbers, seconds)
    draw(whole, scores, place)
    write_scores(place, scores)
    write_json(place / NUMBERS, whole)
    return whole


def spread_over(n_jobs: int | None) -> AbstractContextManager[Any]:
    """Blocks of targets in so many processes; where joblib has been told to, if None.

    Raises
    ------
    ValueError
        If there are to be fewer than one.
    """
    return nullcontext() if n_jobs is None else parallel_config(n_jobs=at_least("jobs", n_jobs, 1))
