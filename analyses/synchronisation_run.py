"""Do models find out in their contexts what they read? Several sources, transformers and GRUs, in a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nextlens.analyses.model_training import Training, notes_of
from nextlens.analyses.prefix_rows import Prefixes, possible_words
from nextlens.analyses.results_folder import NUMBERS, begin, write_json
from nextlens.analyses.synchronisation import Source, loss_against_floor, read_components
from nextlens.analyses.synchronisation_figures import draw
from nextlens.analyses.synchronisation_numbers import Measured, sum_up
from nextlens.analyses.synchronisation_training import PROBED, SynchronisationRecipe, train_followed
from nextlens.models import checkpoints
from nextlens.models.training import over_seeds

#: More words than this are sampled.
MOST_LISTED = 20_000


def run(
    recipe: SynchronisationRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train models of every source, measure them, write figures and ``numbers.json``.

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
    train_followed(recipe, place, resume=resume, device=device, n_jobs=n_jobs, progress=progress)
    trainings = recipe.trainings()
    work = partial(_measure_one, recipe=recipe, jobs=list(trainings.items()), folder=place, device=device)
    results = dict(zip(trainings, over_seeds(work, range(len(trainings)), n_jobs=n_jobs), strict=True))
    numbers = sum_up(recipe, results)
    draw(recipe, results, place)
    write_json(place / NUMBERS, numbers)
    return numbers


def _measure_one(
    run: int,
    *,
    recipe: SynchronisationRecipe,
    jobs: Sequence[tuple[tuple[str, str], list[Training]]],
    folder: Path,
    device: str,
) -> Measured:
    (name, _), trainings = jobs[run]
    return measure(recipe.sources[name], trainings, folder, words=recipe.words, probe=name == PROBED, device=device)


def measure(
    source: Source, trainings: Sequence[Training], folder: Path, *, words: int, probe: bool, device: str = "cpu"
) -> Measured:
    """Measure the models of ``trainings`` as they lie in ``folder``, each beside its untrained twin.

    Prefixes are those of ``words`` sampled words, and all of them where there are not more; all models
    of a source are measured on the same.
    """
    prefixes = few_prefixes(source, words)
    losses, twins, readings, curves = [], [], [], []
    for training in trainings:
        path = training.path(folder)
        model = checkpoints.load(path, device=device)
        twin = model.untrained()
        losses.append(loss_against_floor(model, source, prefixes))
        twins.append(loss_against_floor(twin, source, prefixes))
        if probe:
            readings.append(read_components(model, twin, source, prefixes))
        curve = notes_of(path)["curve"]
        if curve:
            curves.append(curve)
    return Measured(losses, twins, readings, curves)


def few_prefixes(source: Source, words: int) -> Prefixes:
    """All prefixes where no more than :data:`MOST_LISTED` words hold them, else those of ``words`` sampled words."""
    if possible_words(source.process, source.n_ctx) <= MOST_LISTED:
        return Prefixes.of(source.process, source.n_ctx)
    return Prefixes.of(source.process, source.n_ctx, n_words=words, rng=np.random.default_rng(1))
