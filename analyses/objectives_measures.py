"""Everything that is measured of one transformer when its training on a process has ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nextlens.analyses.next_latent import (
    FINAL,
    bayesian_updater,
    drafted,
    equivalent_histories,
    kl_to_exact,
    latent_geometry,
)
from nextlens.analyses.objectives_future import future_tokens
from nextlens.analyses.objectives_recipe import ObjectivesRecipe, train_and_follow
from nextlens.analyses.registers import register_horizon
from nextlens.models import checkpoints
from nextlens.models.batch import Batch
from nextlens.models.recording import beliefs, record

#: Words on which a transformer is measured.
MEASURED = 512


def offsets_of(recipe: ObjectivesRecipe) -> tuple[int, ...]:
    """How far ahead tokens are read off frozen states."""
    return tuple(range(1, recipe.ahead + 1))


def train_and_measure(
    recipe: ObjectivesRecipe,
    objective: str,
    seed: int,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Train one transformer and measure it, on words that depend neither on the objective nor on the seed.

    Returns
    -------
    dict
        What :func:`~nextlens.analyses.objectives_recipe.train_and_follow` gives, and ``kl``, ``geometry``,
        ``equivalent``, ``future``; for NextLat ``updater`` and ``draft``; for registers, and for next-token, whose
        register is untrained, ``horizon``.
    """
    notes = train_and_follow(recipe, objective, seed, folder, resume=resume, device=device, report=report)
    lesson, process = recipe.lesson(objective, seed), recipe.source
    model = checkpoints.load(lesson.path(folder), device=device)
    tokens = process.sample(MEASURED, recipe.length + 1, np.random.default_rng(4))
    sites = ["hook_embed", *(site for site in model.sites if site.endswith("hook_resid_post")), FINAL]
    batch = Batch.from_tokens(tokens)
    states, truth = record(model, batch, [FINAL])[FINAL], beliefs(process, batch)
    found = {
        "kl": kl_to_exact(model, process, tokens),
        "geometry": latent_geometry(model, process, tokens, sites),
        "equivalent": equivalent_histories(states, truth, np.random.default_rng(5)),
        "future": future_tokens(model, process, tokens, offsets_of(recipe)),
    }
    if objective == "next-latent":
        asked = lesson.objective_of(folder).to(device)
        longer = recipe.length * recipe.beyond
        found["updater"] = bayesian_updater(
            model, asked, process, np.random.default_rng(6), length=recipe.length, longer=longer
        )
        found["draft"] = drafted(model, asked, process, np.random.default_rng(7), length=longer)
    if objective in ("next-token", "registers"):
        found["horizon"] = register_horizon(model, process, tokens, recipe.ahead)
    return {**notes, **found}
