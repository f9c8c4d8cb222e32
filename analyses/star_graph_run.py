"""The star-graph question as a job: transformers trained by one objective until they plan, or until time is up."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nextlens.analyses.displays import style
from nextlens.analyses.displays.plan import PlanDisplay
from nextlens.analyses.displays.staircase import StaircaseDisplay
from nextlens.analyses.intervals import interval
from nextlens.analyses.model_training import progress_bar, steps_done
from nextlens.analyses.results_folder import NUMBERS, begin, versions, write_json
from nextlens.analyses.star_graph import ANSWER, DONORS, PLACES, PROBED, SWAPPED, TOGETHER
from nextlens.analyses.star_graph_training import MEASURED, StarGraphRecipe, StarGraphSeed, train_and_measure
from nextlens.models.training import over_seeds

#: Of panels, by place.
TITLES = {
    "leaf": "at the leaf",
    "=": "at “=”",
    "centre": "at the centre",
    TOGETHER: "at all three",
    ANSWER: "in the answer",
}
#: A seed has solved the task from here on.
SOLVED = 0.95


def run(
    recipe: StarGraphRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a transformer for each seed, follow it, and read its plan off the residual stream.

    Writes ``staircase``, ``plan`` and ``swap`` as PNG, PDF and SVG, a checkpoint a model with its head, and
    ``numbers.json``.

    Parameters
    ----------
    recipe : StarGraphRecipe
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
    behind = [steps_done(recipe.lesson(seed).path(place)) if resume else 0 for seed in recipe.seeds]
    with progress_bar(place, behind, (recipe.steps or 0) * len(behind), show=progress) as report:
        job = partial(_one, recipe=recipe, folder=place, resume=resume, device=device, report=report)
        found = over_seeds(job, range(len(recipe.seeds)), n_jobs=n_jobs)
    numbers = sum_up(recipe, found)
    draw(recipe, found, place)
    write_json(place / NUMBERS, numbers)
    return numbers


def _one(
    number: int,
    *,
    recipe: StarGraphRecipe,
    folder: Path,
    resume: bool,
    device: str,
    report: Callable[[int, int], None] | None,
) -> StarGraphSeed:
    tell = None if report is None else partial(report, number)
    return train_and_measure(recipe, recipe.seeds[number], folder, resume=resume, device=device, report=tell)


def sum_up(recipe: StarGraphRecipe, found: Sequence[StarGraphSeed]) -> dict[str, Any]:
    """Every number, every seed by itself: solving is all or nothing, and a mean over seeds would hide it."""
    return {
        "solved": {
            "protocol": f"share of {MEASURED} graphs, on which no model was followed, whose whole path is said right, "
            "greedily and each node after the model's own",
            **interval([one.final.solved for one in found]),
            f"seeds at {SOLVED} or more": f"{sum(one.final.solved >= SOLVED for one in found)} of {len(found)}",
            "cpu_seconds_to": {str(level): [_first_at(one, level) for one in found] for level in (0.5, 0.9, SOLVED)},
        },
        "clever_hans": {
            "protocol": "by_token: share of right nodes after true prefixes; on_an_arm: share whose own second node "
            "begins some arm; follows_its_arm: of those, share that then follow it to its end",
            "by_token": [one.final.by_token.round(4).tolist() for one in found],
            "on_an_arm": [one.final.on_an_arm for one in found],
            "follows_its_arm": [one.final.follows_its_arm for one in found],
            "guess": 1 / recipe.n_arms,
        },
        "plan": {
            "protocol": f"held-out accuracy of a ridge classifier of a node of the path, {PROBED} graphs, half to fit; "
            "by place, then node along the path (the centre is 0), then block (0 is the embedding)",
            "guess": float(found[0].plan.guess),
            "chance": float(found[0].plan.chance),
            "by_seed": {str(seed): _by_place(one, "accuracy") for seed, one in zip(recipe.seeds, found, strict=True)},
            "untrained": _by_place(found[0], "untrained"),
        },
        "swap": {
            "protocol": f"on {SWAPPED} graphs, shares of ways that are said while the residual stream of a place, "
            "behind a block (0 is the embedding), is that of the same star asked for its other leaf, or (the control) "
            "of another star; by place, then block; says_other: of each node behind the centre, by place, block, node",
            "by_seed": {str(seed): _swap(one) for seed, one in zip(recipe.seeds, found, strict=True)},
        },
        "training": {"cpu_seconds": [one.cpu_seconds for one in found], "steps": [one.steps for one in found]},
        "seeds": list(recipe.seeds),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy"),
    }


def _by_place(one: StarGraphSeed, name: str) -> dict[str, dict[str, list[float]]]:
    return {
        place: {
            f"node {node}": one.plan[name].sel(place=place, node=node).values.round(4).tolist()
            for node in one.plan.node.values
        }
        for place in PLACES
    }


def _swap(one: StarGraphSeed) -> dict[str, Any]:
    """What came of putting in the stream of another question; what is said undisturbed first."""

    def by_place(name: str, donor: str) -> dict[str, list[Any]]:
        kept = one.swap[name].sel(donor=donor)
        return {place: kept.sel(place=place).values.round(4).tolist() for place in kept.place.values}

    own, other = DONORS
    return {
        "undisturbed": dict(zip(one.swap.way.values.tolist(), one.swap.usually.values.round(4).tolist(), strict=True)),
        **{name: by_place(name, own) for name in ("walks_to_other", "walks_to_own", "says_other")},
        "control": {name: by_place(name, other) for name in ("walks_to_other", "walks_to_own", "says_other")},
    }


def _first_at(one: StarGraphSeed, level: float) -> float | None:
    """Seconds after which this share was first solved; None if it never was."""
    reached = np.flatnonzero(one.curve.solved.values >= level)
    return round(float(one.curve.cpu[reached[0]]), 1) if len(reached) else None


def draw(recipe: StarGraphRecipe, found: Sequence[StarGraphSeed], folder: Path) -> None:
    """``staircase``, ``plan`` and ``swap`` in ``folder``."""
    star = f"G({recipe.n_arms}, {recipe.arm_length}), {recipe.objective}"
    stairs = StaircaseDisplay(
        seconds=[one.curve.cpu.values for one in found],
        solved=[one.curve.solved.values for one in found],
        guess=1 / recipe.n_arms,
        names=[f"seed {seed}" for seed in recipe.seeds],
        caption=f"{star}; greedy, each node after the model's own",
    ).plot()
    style.save(stairs.figure_, folder / "staircase")
    first = found[0].plan
    plan = PlanDisplay(
        shares={
            TITLES[place]: np.stack([one.plan.accuracy.sel(place=place).values for one in found]) for place in PLACES
        },
        names=[f"node {node}" for node in first.node.values],
        ylabel="held-out accuracy",
        references={"knows no arm": float(first.guess), "chance": float(first.chance)},
        caption=f"{star}; linear probes of a node that is still to be said; lines: seeds; 0: the embedding",
    ).plot()
    style.save(plan.figure_, folder / "plan")
    other, control = DONORS
    swap = PlanDisplay(
        shares=_said_other(found, other),
        controls=_said_other(found, control),
        control_name="put in from another star (mean)",
        names=[f"node {node}" for node in found[0].swap.node.values],
        ylabel="says the other way",
        caption=f"{star}; put in: the stream of the same star asked for its other leaf; lines: seeds; 0: the embedding",
    ).plot()
    style.save(swap.figure_, folder / "swap")


def _said_other(found: Sequence[StarGraphSeed], donor: str) -> dict[str, Float[np.ndarray, "seed block node"]]:
    """Shares of the other way's nodes while a donor's stream is put in, by the title of the place."""
    return {
        title: np.stack([one.swap.says_other.sel(donor=donor, place=place).values for one in found])
        for place, title in TITLES.items()
    }


def summary(recipe: StarGraphRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """About ten lines, one for each seed: what was solved, when, and where the plan is."""
    solved, hans, plan = numbers["solved"], numbers["clever_hans"], numbers["plan"]
    lines = [
        f"star graph: {recipe.task!r}; {recipe.objective}, batches of {recipe.batch_size}, "
        f"{recipe.cpu_seconds:g} CPU seconds at most",
        f"solved {SOLVED} or more: {solved[f'seeds at {SOLVED} or more']} seeds; a guess of the arm: {hans['guess']:g}",
    ]
    for i, seed in enumerate(recipe.seeds):
        told = "/".join(f"{share:.3f}" for share in hans["by_token"][i])
        at = solved["cpu_seconds_to"][str(SOLVED)][i]
        when = f"{SOLVED} after {at:g} s" if at is not None else f"never {SOLVED}"
        lines.append(
            f"  seed {seed}: {solved['by_seed'][i]:.3f} by itself, after true prefixes {told}; {when}; "
            f"{numbers['training']['steps'][i]:,} steps, {numbers['training']['cpu_seconds'][i]:.0f} s"
        )
        for place, nodes in plan["by_seed"][str(seed)].items():
            blocks = "; ".join(
                f"{node} " + "/".join(f"{share:.2f}" for share in accuracy) for node, accuracy in nodes.items()
            )
            lines.append(f"    plan at {place:7s} {blocks}")
        swap = numbers["swap"]["by_seed"][str(seed)]
        for place, walks in swap["walks_to_other"].items():
            shown = {
                "other node 1": [nodes[0] for nodes in swap["says_other"][place]],
                "whole other way": walks,
                "from another star, other node 1": [nodes[0] for nodes in swap["control"]["says_other"][place]],
            }
            told = (f"{name} " + "/".join(f"{share:.2f}" for share in row) for name, row in shown.items())
            lines.append(f"    put in {place:9s} " + "; ".join(told))
    lines.append(f"look at    {folder / 'staircase.png'}, then plan.png, swap.png and {NUMBERS} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)
