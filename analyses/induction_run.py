"""The induction question as a job: several transformers and their controls trained, scored, ablated and drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nextlens.analyses.displays import style
from nextlens.analyses.displays.ablation import AblationDisplay
from nextlens.analyses.displays.heads import HeadsDisplay
from nextlens.analyses.displays.phase_change import PhaseChangeDisplay
from nextlens.analyses.head_ablation import ABLATIONS
from nextlens.analyses.induction_heads import FOUND, found_heads, in_context_gain, in_context_score
from nextlens.analyses.induction_training import (
    MEASURED,
    InductionRecipe,
    InductionSeed,
    best_loss,
    phase_change,
    train_and_measure,
)
from nextlens.analyses.intervals import interval
from nextlens.analyses.model_training import progress_bar, steps_done
from nextlens.analyses.results_folder import NUMBERS, begin, versions, write_json
from nextlens.models.training import over_seeds

#: What is expected of an ablation: at least, or below, so large a share of the in-context gain removed.
EXPECTED = {
    "induction heads": ("at least", 0.8),
    "others anywhere": ("below", 0.2),
    "others of those layers": ("below", 0.2),
    "others outside the circuit": ("below", 0.2),
    "all outside the circuit": ("below", 0.2),
}

#: Results by number of layers and seed.
Results = Mapping[tuple[int, int], InductionSeed]
TWO, ONE = "two layers", "one layer"


def run(
    recipe: InductionRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a two-layer transformer and its one-layer control for each seed, score and ablate their heads.

    Writes ``phase_change``, ``heads`` and ``ablation`` as PNG, PDF and SVG, a checkpoint a model, and
    ``numbers.json``.

    Parameters
    ----------
    recipe : InductionRecipe
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
    wanted = [(n_layers, seed) for seed in recipe.seeds for n_layers in (2, 1)]
    paths = [recipe.training(seed, n_layers).path(place) for n_layers, seed in wanted]
    behind = [steps_done(path) if resume else 0 for path in paths]
    with progress_bar(place, behind, recipe.steps * len(wanted), show=progress) as report:
        job = partial(_one, wanted=wanted, recipe=recipe, folder=place, resume=resume, device=device, report=report)
        results = dict(zip(wanted, over_seeds(job, range(len(wanted)), n_jobs=n_jobs), strict=True))
    numbers = sum_up(recipe, results)
    draw(recipe, results, place)
    write_json(place / NUMBERS, numbers)
    return numbers


def _one(
    number: int,
    *,
    wanted: Sequence[tuple[int, int]],
    recipe: InductionRecipe,
    folder: Path,
    resume: bool,
    device: str,
    report: Callable[[int, int], None] | None,
) -> InductionSeed:
    n_layers, seed = wanted[number]
    tell = None if report is None else partial(report, number)
    return train_and_measure(recipe, seed, n_layers, folder, resume=resume, device=device, report=tell)


def sum_up(recipe: InductionRecipe, results: Results) -> dict[str, Any]:
    """Every number with its protocol, controls, interval over seeds and the command that repeats it."""
    two, one = ([results[n, seed] for seed in recipe.seeds] for n in (2, 1))
    best = best_loss(recipe.task, recipe.task.sample(MEASURED, recipe.n_ctx + 1, np.random.default_rng(6)))
    possible = in_context_gain(best, recipe.task)
    changes = [phase_change(found.curve.step.values, found.curve.gain.values, possible) for found in two]
    seen = [change for change in changes if change is not None]
    control = [phase_change(found.curve.step.values, found.curve.gain.values, possible) for found in one]
    return {
        "in_context_gain": {
            "protocol": "mean loss of targets within the shortest block minus that of targets beyond the longest, "
            f"nats; {MEASURED} sequences that no training saw",
            "possible": possible,
            TWO: interval([_gain(found) for found in two]),
            ONE: interval([_gain(found) for found in one]),
            "two layers, share of possible": interval([_gain(found) / possible for found in two]),
            "one layer, share of possible": interval([_gain(found) / possible for found in one]),
        },
        "in_context_score_olsson2022": {
            "protocol": "loss of the target at 500/512 of the context minus that at 50/512, nats; below 0 is learning "
            "(arXiv:2209.11895)",
            "possible": in_context_score(best),
            TWO: interval([in_context_score(found.ablation.loss.sel(ablated="nothing").values) for found in two]),
            ONE: interval([in_context_score(found.ablation.loss.sel(ablated="nothing").values) for found in one]),
        },
        "loss_over_best": {
            "protocol": "mean loss over targets minus that of the Bayes-optimal predictor, nats",
            "best": float(best.mean()),
            TWO: interval([_loss(found) - float(best.mean()) for found in two]),
            ONE: interval([_loss(found) - float(best.mean()) for found in one]),
        },
        "phase_change": {
            "protocol": "step at which the gain passes half of what is possible, and steps from a quarter to three "
            "quarters; interpolated between moments of measuring",
            "seen": f"{len(seen)} of {len(two)}",
            "seen_in_control": f"{sum(change is not None for change in control)} of {len(one)}",
            "step": interval([change["step"] for change in seen]) if seen else None,
            "width": interval([change["width"] for change in seen]) if seen else None,
        },
        "heads": {
            "protocol": f"{recipe.block} random tokens said twice; found: a score of {FOUND} or more",
            "induction": {str(seed): _listed(results[2, seed], "prefix matching") for seed in recipe.seeds},
            "previous token": {str(seed): _listed(results[2, seed], "previous token") for seed in recipe.seeds},
            "induction, control": {str(seed): _listed(results[1, seed], "prefix matching") for seed in recipe.seeds},
            "highest": {
                str(score): {
                    TWO: interval([float(found.scores.value.sel(score=score).max()) for found in two]),
                    "untrained": interval([float(found.untrained.value.sel(score=score).max()) for found in two]),
                    "chance": float(two[0].scores.chance.sel(score=score)),
                }
                for score in two[0].scores.score.values
            },
            "of induction heads": _of_found(two),
        },
        "ablation": {
            "protocol": f"{two[0].ablation.attrs['ablation']}; share of the in-context gain removed; heads are found "
            "on other sequences than those of the loss",
            "meaning": ABLATIONS,
            **{name: _removed(two, name) for name in ABLATIONS if name != "nothing"},
        },
        "seeds": list(recipe.seeds),
        "cpu_seconds": {
            f"{n_layers} layers, seed {seed}": round(found.cpu_seconds, 1)
            for (n_layers, seed), found in results.items()
        },
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy", "transformer-lens"),
    }


def draw(recipe: InductionRecipe, results: Results, folder: Path) -> None:
    """``phase_change``, ``heads`` and ``ablation`` in ``folder``."""
    seeds, task = recipe.seeds, recipe.task
    two = [results[2, seed] for seed in seeds]
    best = best_loss(task, task.sample(MEASURED, recipe.n_ctx + 1, np.random.default_rng(6)))
    curves = {name: [results[n, seed].curve for seed in seeds] for name, n in ((TWO, 2), (ONE, 1))}
    plural = "s" if len(seeds) > 1 else ""
    change = PhaseChangeDisplay(
        steps=two[0].curve.step.values,
        early={
            name: [c.loss[:, : task.shortest - 1].mean("target").values for c in some] for name, some in curves.items()
        },
        late={
            name: [c.loss[:, task.longest - 1 :].mean("target").values for c in some] for name, some in curves.items()
        },
        best=float(best[task.longest - 1 :].mean()),
        heads={
            "prefix matching,\nlayer 1": _of_layer(two, "prefix matching", 1),
            "previous token,\nlayer 0": _of_layer(two, "previous token", 0),
        },
        quantity="score of each head",
        caption=f"{len(seeds)} seed{plural}; early: targets within the shortest block, late: beyond the longest; "
        "thick: median of seeds, highest head",
    ).plot()
    style.save(change.figure_, folder / "phase_change")
    first = two[0]
    maps = HeadsDisplay(
        scores={str(name): first.scores.value.sel(score=name).values for name in first.scores.score.values},
        chance={str(name): float(first.scores.chance.sel(score=name)) for name in first.scores.score.values},
        marked=found_heads(first.scores),
        caption=f"seed {seeds[0]}; {first.scores.attrs['tokens']}; framed: prefix matching of {FOUND} or more",
    ).plot_grid()
    style.save(maps.figure_, folder / "heads")
    removed = {name: _shares(two, name) for name in ABLATIONS if name != "nothing"}
    removed = {name: shares for name, shares in removed.items() if len(shares)}
    if removed:
        bars = AblationDisplay(
            removed=removed,
            claimed=[name for name in removed if name == "induction heads"],
            caption="mean ablation of hook_z; dots are seeds, each the mean over sets of heads",
        ).plot()
        style.save(bars.figure_, folder / "ablation")


def summary(recipe: InductionRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """About ten lines: what was done, what came out beside its controls, and what to look at."""
    gain, change, ablation = numbers["in_context_gain"], numbers["phase_change"], numbers["ablation"]
    found = [len(heads) for heads in numbers["heads"]["induction"].values()]
    step = change["step"]
    lines = [
        f"induction: {len(recipe.seeds)} transformers of two layers of {recipe.n_heads} heads, no MLP, and as many of "
        f"one layer; {recipe.steps:,} steps of {recipe.batch_size} sequences",
        _line("in-context gain, nats", gain[TWO], f"possible {gain['possible']:.3f}"),
        _line("  one layer", gain[ONE], "the control: it cannot match what came before"),
        f"{'phase change':36s} seen in {change['seen']}"
        + (f", half way at step {step['mean']:.0f}; control {change['seen_in_control']}" if step else ""),
        f"{'induction heads found':36s} {min(found)} to {max(found)} a seed, prefix matching of {FOUND} or more "
        f"(chance {numbers['heads']['highest']['prefix matching']['chance']:.3f})",
    ]
    lines.append("share of the gain that goes when heads are ablated")
    lines += [_ablation_line(name, ablation[name]) for name in ABLATIONS if name != "nothing"]
    lines.append(f"look at    {folder / 'phase_change.png'}, then heads.png, ablation.png and {NUMBERS} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def _ablation_line(name: str, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return f"  {name:34s} too few such heads in every seed"
    note = f"expected {found['expected']} seeds" if found["expected"] else ABLATIONS[name]
    few = found["seeds_without_as_many_heads"]
    return _line(f"  {name}", found["removed"], note + f"; too few such heads in {few}" * (few > 0))


def _line(name: str, found: Mapping[str, Any], note: str) -> str:
    spread = found["interval_95"]
    bounds = f"[{spread[0]:.3f}, {spread[1]:.3f}]" if spread else "(no interval)"
    return f"{name:36s} {found['mean']:7.3f}  {bounds:18s} {note}"


def _gain(found: InductionSeed) -> float:
    return float(found.ablation.gain.sel(ablated="nothing"))


def _loss(found: InductionSeed) -> float:
    return float(found.ablation.loss.sel(ablated="nothing").mean())


def _listed(found: InductionSeed, score: str) -> list[dict[str, float | int]]:
    values = found.scores.value.sel(score=score)
    return [
        {"layer": layer, "head": head, "score": round(float(values.sel(layer=layer, head=head)), 4)}
        for layer, head in found_heads(found.scores, score)
    ]


def _of_found(two: Sequence[InductionSeed]) -> dict[str, Any]:
    """Scores of induction heads and of the other heads of their layers: means over heads, intervals over seeds."""
    named: dict[str, dict[str, Any]] = {}
    for score in two[0].scores.score.values:
        inside, outside = [], []
        for found in two:
            heads, values = found_heads(found.scores), found.scores.value.sel(score=score)
            layers = {layer for layer, _ in heads}
            others = [
                (int(y), int(x)) for y in layers for x in found.scores["head"].values if (int(y), int(x)) not in heads
            ]
            for chosen, into in ((heads, inside), (others, outside)):
                if chosen:
                    into.append(float(np.mean([values.sel(layer=y, head=x) for y, x in chosen])))
        named[str(score)] = {
            "induction heads": interval(inside) if inside else None,
            "others of those layers": interval(outside) if outside else None,
        }
    return named


def _shares(two: Sequence[InductionSeed], name: str) -> list[float]:
    found = [one.ablation for one in two]
    return [float(one.removed.sel(ablated=name)) for one in found if name in one.ablated.values]


def _removed(two: Sequence[InductionSeed], name: str) -> dict[str, Any] | None:
    found = [one.ablation.sel(ablated=name) for one in two if name in one.ablation.ablated.values]
    if not found:
        return None
    return {
        "removed": interval([float(one.removed) for one in found]),
        "most_removed_by_a_set": interval([float(one.removed_most) for one in found]),
        "sets": [int(one.sets) for one in found],
        "heads": [int(one.heads) for one in found],
        "seeds_without_as_many_heads": len(two) - len(found),
        "expected": None if name not in EXPECTED else _expected(name, [float(one.removed) for one in found]),
    }


def _expected(name: str, shares: Sequence[float]) -> str:
    side, share = EXPECTED[name]
    met = sum(one >= share if side == "at least" else one < share for one in shares)
    return f"{side} {share:g}: {met} of {len(shares)}"


def _of_layer(two: Sequence[InductionSeed], score: str, layer: int) -> Float[np.ndarray, "head step"]:
    rows = [found.curve.heads.sel(score=score, layer=layer).transpose("head", "step").values for found in two]
    return np.concatenate(rows)
