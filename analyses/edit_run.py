"""Does the model use the belief? Transformers trained on one process, edited at every site, in a folder."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nextlens.analyses.belief_edit import belief_edit, penalty_sweep
from nextlens.analyses.belief_pairs import Pairs
from nextlens.analyses.belief_training import checkpoint_of
from nextlens.analyses.edit_numbers import SeedEdits, draw, sum_up
from nextlens.analyses.edit_recipe import EditRecipe
from nextlens.analyses.edit_scores import edit_scores
from nextlens.analyses.model_training import train_all
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.results_folder import NUMBERS, begin, write_json
from nextlens.analyses.subspace_ablation import subspace_ablation
from nextlens.models import checkpoints
from nextlens.models.training import over_seeds

#: Penalties of the sweep, in units of the mean variance of a feature.
SWEPT = (1e-6, 0.01, 0.1, 1.0)
#: Sampled words on which a subspace is found and the loss without it measured.
ABLATED_WORDS = 2000


def edit_seed(seed: int, *, recipe: EditRecipe, folder: Path, device: str = "cpu") -> SeedEdits:
    """Edit one trained transformer, and its untrained twin, at every site.

    The pairs, the directions and the words are drawn anew for each seed, so that an interval over seeds
    holds what they add.
    """
    model = checkpoints.load(checkpoint_of(folder, seed), device=device)
    process, sites, rng = recipe.trained.made, recipe.trained.probed(model), np.random.default_rng([seed, 3])
    prefixes = Prefixes.of(process, recipe.length, rng=rng)
    pairs = Pairs.of(prefixes, recipe.pairs, rng)

    def scored(found: xr.Dataset) -> xr.Dataset:
        return edit_scores(found, rng, n_resamples=1)

    edited, twin = (
        scored(belief_edit(each, pairs, sites=sites, ahead=recipe.ahead, rng=rng))
        for each in (model, model.untrained())
    )
    alike, degenerate = _degenerate(prefixes, recipe.pairs, rng), None
    if alike is not None:
        degenerate = scored(belief_edit(model, alike, sites=sites, ahead=recipe.ahead, rng=rng))
    words = Prefixes.of(process, model.config.n_ctx, n_words=ABLATED_WORDS, rng=rng)
    return SeedEdits(
        edited,
        twin,
        degenerate,
        scored(penalty_sweep(model, pairs, sites[-1], SWEPT, rng=rng)),
        subspace_ablation(model, words, sites=sites[-1:], rng=rng),
    )


def _degenerate(prefixes: Prefixes, n_pairs: int, rng: np.random.Generator) -> Pairs | None:
    return Pairs.degenerate(prefixes, n_pairs, rng) if Pairs.any_degenerate(prefixes) else None


def run(
    recipe: EditRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train, or take, one transformer a seed, edit it, and write ``edits.png`` and ``numbers.json``.

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
    place, seeds = begin(folder, recipe.as_json(), resume=resume), recipe.trained.seeds
    if recipe.source is None:
        trainings = [recipe.trained.training(seed) for seed in seeds]
        train_all(trainings, place, resume=resume, device=device, n_jobs=n_jobs, progress=progress)
    found = place if recipe.source is None else Path(recipe.source)
    measure = partial(edit_seed, recipe=recipe, folder=found, device=device)
    results = dict(zip(seeds, over_seeds(measure, seeds, n_jobs=n_jobs), strict=True))
    numbers = sum_up(recipe, results)
    draw(recipe, numbers, place)
    write_json(place / NUMBERS, numbers)
    return numbers
