"""The comparison of objectives on a process as a job: transformers trained, measured, drawn and written down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nextlens.analyses.model_training import each, steps_done
from nextlens.analyses.objectives_figures import draw
from nextlens.analyses.objectives_measures import train_and_measure
from nextlens.analyses.objectives_numbers import sum_up
from nextlens.analyses.objectives_recipe import ObjectivesRecipe
from nextlens.analyses.results_folder import NUMBERS, begin, write_json


def run(
    recipe: ObjectivesRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a transformer for each objective and seed, and measure what its final state holds.

    Writes ``spectrum``, ``future``, ``updater`` and ``registers`` as PNG, PDF and SVG, a checkpoint a model with its
    head, and ``numbers.json``.

    Parameters
    ----------
    recipe : ObjectivesRecipe
    folder : path
        Made if need be; results of a finished run of the same recipe in it are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``.
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
    wanted = [(objective, seed) for seed in recipe.seeds for objective in recipe.objectives]
    paths = [recipe.lesson(*one).path(place) for one in wanted]
    behind = [steps_done(path) if resume else 0 for path in paths]
    job = partial(train_and_measure, recipe, folder=place, resume=resume, device=device)
    total = (recipe.steps or 0) * len(wanted)
    results = each(job, wanted, place, total, behind=behind, n_jobs=n_jobs, progress=progress)
    numbers = sum_up(recipe, results)
    draw(recipe, results, numbers, place)
    write_json(place / NUMBERS, numbers)
    return numbers


def summary(recipe: ObjectivesRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """About twenty lines: what was done, what came out beside its controls, and what to look at."""
    shown = {
        "KL to the exact law, nats": numbers["kl_to_exact"],
        "effective rank of the final state": numbers["effective_rank"],
        "R² of the belief, final state": list(numbers["belief_r2"].values())[-1],
        "equivalent histories, ratio": numbers["equivalent_histories"],
        "steps": numbers["training"]["steps"],
        "cost of a step, next-token = 1": numbers["training"]["cost_of_a_step"],
    }
    lines = [
        f"objectives: {recipe.source!r}; {len(recipe.seeds)} seeds of each, {recipe.cpu_seconds:g} CPU seconds at "
        f"most, batches of {recipe.batch_size} words of {recipe.length} tokens",
        f"{'':36s}" + "".join(f"{name:>24s}" for name in recipe.objectives),
    ]
    lines += [
        f"{name:36s}" + "".join(f"{_spelled(found[one]):>24s}" for one in recipe.objectives)
        for name, found in shown.items()
    ]
    for d, found in list(numbers["future_tokens"].items())[1:]:
        usual = f"   (law of any token: {found['law of any token']:.2g})"
        lines.append(f"{f'probe of the token {d} ahead, KL':36s}" + _row(recipe, found) + usual)
    matched = numbers["at_matched_kl"]
    lines.append(f"at the same KL, {matched['kl']['mean']:.4f}")
    for value, words in (("rank", "  effective rank"), ("r2", "  R² of the belief")):
        lines.append(f"{words:36s}" + _row(recipe, {name: matched[name][value] for name in recipe.objectives}))
    if "bayesian_updater" in numbers:
        found = numbers["bayesian_updater"]
        lines.append(
            f"latent dynamics: R² of the next state {_spelled(found['next_state'])}, of the next belief "
            f"{_spelled(found['one_step'])} (model's own state {_spelled(found['own'])}); state not moved "
            f"{_spelled(found['not_updated'])}, wrong token {_spelled(found['wrong_token'])}"
        )
        for after, rows in found["rolled_out"].items():
            told = ", ".join(f"{name.replace('_', ' ')} {_spelled(value)}" for name, value in rows.items())
            lines.append(f"  {after}: {told}")
        found = numbers["draft"]
        lines.append(
            f"as a draft: overlap of its laws with the model's {_spelled(found['accepted'])}, of one at birth "
            f"{_spelled(found['at_birth'])}; tokens a call {_spelled(found['tokens_per_call'])}"
        )
    if "registers" in numbers:
        found = numbers["registers"]
        for d, one in found["by_offset"].items():
            lines.append(
                f"register {d} ahead: KL {_spelled(one['kl'])}, untrained {_spelled(one['kl, untrained register'])}; "
                f"R² {_spelled(one['r2'])}, untrained {_spelled(one['r2, untrained register'])}"
            )
        below = found["below_untrained_at_every_offset"].values()
        lines.append(
            f"below the untrained register at every offset in {sum(below)} of {len(below)} seeds; moved by position "
            f"alone, registers claiming 1, 2, .. are nearest the law {found['moved_by_position_alone']['nearest_law']}"
        )
    lines.append(f"look at    {folder / 'spectrum.png'}, then updater.png, registers.png, future.png and {NUMBERS}")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def _row(recipe: ObjectivesRecipe, found: Mapping[str, Any]) -> str:
    return "".join(f"{_spelled(found[one]):>24s}" for one in recipe.objectives)


def _spelled(found: Mapping[str, Any]) -> str:
    """The mean, and the 95 % interval if there is one."""
    mean, ends = found["mean"], found["interval_95"]
    digits = ".4g" if abs(mean) >= 0.1 else ".2g"
    return f"{mean:{digits}}" + ("" if ends is None else f" [{ends[0]:{digits}}, {ends[1]:{digits}}]")
