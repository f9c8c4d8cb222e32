"""The main job: several transformers trained on one process, probed, drawn and summed up in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nextlens.analyses.belief_figures import draw
from nextlens.analyses.belief_geometry import belief_geometry, paper2024_mse
from nextlens.analyses.belief_numbers import SeedResult, sum_up
from nextlens.analyses.belief_training import BeliefRecipe, checkpoint_of, train_seed
from nextlens.analyses.model_training import progress_bar, steps_done
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.analyses.results_folder import NUMBERS, begin, write_json
from nextlens.models.arguments import at_least
from nextlens.models.training import over_seeds


def run_seed(
    seed: int,
    *,
    recipe: BeliefRecipe,
    folder: Path,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int, int], None] | None = None,
) -> SeedResult:
    """Train one transformer, following it, then probe it beside its untrained twin."""
    tell = None if report is None else partial(report, recipe.seeds.index(seed))
    trained = train_seed(seed, recipe=recipe, folder=folder, resume=resume, device=device, report=tell)
    model, sites = trained.model, recipe.probed(trained.model)
    prefixes = Prefixes.of(recipe.made, model.config.n_ctx)
    twin = model.untrained()
    rules = {"protocol": recipe.protocol, "folds": recipe.folds}
    geometry = held_out = belief_geometry(model, twin, prefixes, sites=sites, **rules)
    if recipe.reading != "held-out":
        held_out = belief_geometry(model, twin, prefixes, sites=sites[-1:])
    return SeedResult(
        excess_loss(model, prefixes),
        excess_loss(twin, prefixes).attrs["loss_over_optimum"],
        geometry,
        held_out,
        paper2024_mse(model, prefixes, sites[-1]).mse if prefixes.listed else None,
        trained.curve,
        sum(parameter.numel() for parameter in model.parameters()),
        trained.cpu_seconds,
    )


def run(
    recipe: BeliefRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train, follow and probe one transformer a seed; write figures, checkpoints and ``numbers.json``.

    Seeds run one to a processor, or wherever ``joblib.parallel_config`` says.

    Parameters
    ----------
    recipe : BeliefRecipe
    folder : path
        Made if need be; results of a finished run in it are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``, which must be of the same recipe.
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
        If ``folder`` holds an unfinished run and ``resume`` is False, or a run of another recipe and it
        is True.
    """
    if n_jobs is not None:
        at_least("n_jobs", n_jobs, 1)
    place = begin(folder, recipe.as_json(), resume=resume, far=partial(_how_far, recipe))
    job = partial(run_seed, recipe=recipe, folder=place, resume=resume, device=device)
    behind = [steps_done(checkpoint_of(place, seed)) if resume else 0 for seed in recipe.seeds]
    with progress_bar(place, behind, recipe.steps * len(recipe.seeds), show=progress) as report:
        results = dict(
            zip(recipe.seeds, over_seeds(partial(job, report=report), recipe.seeds, n_jobs=n_jobs), strict=True)
        )
    numbers = sum_up(recipe, results)
    write_json(place / NUMBERS, numbers)
    draw(recipe, results, place)
    return numbers


def _how_far(recipe: BeliefRecipe, folder: Path) -> str:
    done = {seed: steps_done(checkpoint_of(folder, seed)) for seed in recipe.seeds}
    return ", ".join(f"{done[seed]} of {recipe.steps} steps of seed {seed}" for seed in done)
