"""How far addition reaches, and what adds and carries: a run in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.addition_heads import PATTERNS
from nextlens.analyses.addition_lengths import generalisable_length
from nextlens.analyses.addition_positions import margins
from nextlens.analyses.addition_recipe import COUPLED, KINDS, TRIALS, AdditionRecipe
from nextlens.analyses.addition_training import N_SELECTING, REACH, AdditionModel, Insides
from nextlens.analyses.intervals import interval
from nextlens.analyses.results_folder import NUMBERS, versions

#: Results by kind of model and seed.
Results = Mapping[tuple[str, int], AdditionModel]
MEASURES = ("exact", "exact_digits", "token", "end")
#: What the paper's heads are expected to have of their attention on their pattern.
EXPECTED = 0.9


def sum_up(recipe: AdditionRecipe, results: Results) -> dict[str, Any]:
    """Every number with its protocol, baselines, seeds, interval and the command that repeats it."""
    insides = [results[COUPLED, seed].insides for seed in recipe.seeds]
    return {
        "lengths": {
            "protocol": "greedy, 300 sums of each length, both operands with so many digits; ids from "
            f"{recipe.start}; exact: right to the end token; exact_digits: in all digits; token: digits after true "
            "ones; medians over seeds",
            "trained_to": recipe.digits,
            "digits": list(recipe.lengths),
            **{kind: _of_kind(recipe, results, kind) for kind in KINDS},
        },
        "selection": _selection(recipe, results),
        "heads": _heads(insides),
        "carry": _carry(insides),
        "ablation": _ablation(insides),
        "swapped_ids": {
            "protocol": "the ids of two digits of the first operand change places; shares of sums with all digits "
            "right, of the number that the ids spell and of the one that the tokens spell",
            **{str(name): interval([float(one.swapped[name]) for one in insides]) for name in insides[0].swapped},
        },
        "position_table": _table(insides),
        "margins": _margins(recipe, insides),
        "seeds": list(recipe.seeds),
        "cpu_seconds": {f"{kind}, seed {seed}": round(one.cpu_seconds, 1) for (kind, seed), one in results.items()},
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy", "transformer-lens"),
    }


def rows_of(recipe: AdditionRecipe, results: Results, kind: str, measure: str) -> Float[np.ndarray, "seed length"]:
    """One measure of models of a kind, a row a seed."""
    return np.array([results[kind, seed].lengths[measure].values for seed in recipe.seeds])


def _selection(recipe: AdditionRecipe, results: Results) -> dict[str, Any] | None:
    """What weights the models have, if not the last."""
    if recipe.select is None:
        return None
    return {
        "protocol": f"of {TRIALS} moments of a training, the weights with the least loss on {N_SELECTING} sums of "
        f"{recipe.select} digits, drawn by another generator than those on which models are measured; what is found "
        f"at {recipe.select} digits was selected for, and at lengths near it in part",
        "digits": recipe.select,
        **{kind: [results[kind, seed].selected for seed in recipe.seeds] for kind in KINDS},
    }


def _of_kind(recipe: AdditionRecipe, results: Results, kind: str) -> dict[str, Any]:
    rows = {measure: rows_of(recipe, results, kind, measure) for measure in MEASURES}
    medians = {measure: np.median(values, axis=0) for measure, values in rows.items()}
    return {
        "steps": recipe.steps_of(kind),
        "median": {measure: values.tolist() for measure, values in medians.items()},
        "by_seed": {measure: values.tolist() for measure, values in rows.items()},
        "generalisable_length": generalisable_length(recipe.lengths, medians["exact"].tolist()),
        "generalisable_length_digits": generalisable_length(recipe.lengths, medians["exact_digits"].tolist()),
        "course": [
            {
                "step": int(step),
                "loss": interval([float(results[kind, seed].course.loss.sel(step=step)) for seed in recipe.seeds]),
                "token": interval([float(results[kind, seed].course.token.sel(step=step)) for seed in recipe.seeds]),
            }
            for step in results[kind, recipe.seeds[0]].course.step.values
        ],
    }


def _heads(insides: Sequence[Insides]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "protocol": "mean attention from where a digit of the sum is said: same id, to the operands' digits with "
        "the id of that digit; previous id, to the three digits with the id below (arXiv:2405.20671, §5.1); the "
        "best head of each",
        "all": [one.patterns.mass.values.round(4).tolist() for one in insides],
    }
    for name in PATTERNS:
        at = {"trained length": "patterns", "longer": "longer"}
        values = {
            where: [float(getattr(one, part).mass.sel(pattern=name).values[one.heads[name]]) for one in insides]
            for where, part in at.items()
        }
        found[name] = {
            "heads": [list(one.heads[name]) for one in insides],
            **{where: interval(masses) for where, masses in values.items()},
            "chance": float(insides[0].patterns.chance.sel(pattern=name)),
            "expected": f"at least {EXPECTED:g}: {sum(m >= EXPECTED for m in values['trained length'])} of "
            f"{len(insides)}",
        }
    return found


def _carry(insides: Sequence[Insides]) -> dict[str, Any]:
    first = insides[0].carry
    return {
        "protocol": "ridge classifier of what is carried into a digit, from the state where it is said; fitted at the "
        "longest trained length, tested on fresh sums",
        "by_site": {
            str(site): {
                f"{digits} digits": {
                    "trained": _over([one.carry for one in insides], site, digits),
                    "untrained": _over([one.untrained for one in insides], site, digits),
                    "majority": interval([float(one.carry.majority.sel(digits=digits)) for one in insides]),
                }
                for digits in first.digits.values.tolist()
            }
            for site in first.site.values.tolist()
        },
    }


def _over(probes: Sequence[xr.Dataset], site: str, digits: int) -> dict[str, Any]:
    return interval([float(one.accuracy.sel(site=site, digits=digits)) for one in probes])


def _ablation(insides: Sequence[Insides]) -> dict[str, Any]:
    return {
        "protocol": "mean ablation of hook_z; share of digits right after true ones, by what is carried into them",
        **{
            name: {f"carry {carry}": interval(without(insides, name, carry)) for carry in (0, 1)}
            for name in ablated(insides)
        },
    }


def ablated(insides: Sequence[Insides]) -> list[str]:
    """What is ablated in some seed: where one head has both patterns, and is the only one, there are no others."""
    return list(dict.fromkeys(str(name) for one in insides for name in one.ablation.ablated.values))


def without(insides: Sequence[Insides], name: str, carry: int) -> list[float]:
    """The share of digits right, in the seeds that have such heads."""
    found = [one.ablation.token for one in insides if name in one.ablation.ablated.values]
    return [float(one.sel(ablated=name, carry=carry)) for one in found]


def first_layer_head(found: Insides, pattern: str) -> int:
    """The head of the first layer, whose input holds the ids as they are, with most attention on a pattern."""
    return int(found.patterns.mass.sel(pattern=pattern).isel(layer=0).values.argmax())


def _margins(recipe: AdditionRecipe, insides: Sequence[Insides]) -> dict[str, Any] | None:
    """None where ids are so few that all of them occur together."""
    together = recipe.digits + 1
    if len(insides[0].scores[0]) < 2 * together + 2:
        return None
    looked_for = dict(zip(PATTERNS, (1, 0), strict=True))
    found = {
        name: [margins(one.scores[first_layer_head(one, name)], offset, together) for one in insides]
        for name, offset in looked_for.items()
    }
    return {
        "protocol": "scores of ids alone: that of the id looked for, less the best other id, of those at most "
        f"{together} away, which occur in one sum of training, and of those further apart, which never do",
        **{
            name: {
                kind: {
                    "mean": interval([float(one[kind].mean()) for one in margin]),
                    "least": interval([float(one[kind].min()) for one in margin]),
                }
                for kind in ("together", "apart")
            }
            | {"weakest, id and rival": [_weakest(one, recipe.start) for one in margin]}
            for name, margin in found.items()
        },
    }


def _weakest(found: xr.Dataset, first: int) -> list[int]:
    """The id from which the one looked for stands out least from those apart, and the best of these."""
    place = int(found.apart.values.argmin())
    looking = int(found.id.values[place]) + first
    return [looking, looking + int(found.rival.values[place])]


def _table(insides: Sequence[Insides]) -> dict[str, Any]:
    offsets = range(-REACH, REACH + 1)
    off = [np.abs(one.cosines[~np.eye(len(one.cosines), dtype=bool)]).mean() for one in insides]
    near = [float(one.cosines.diagonal(1).mean()) for one in insides]
    return {
        "protocol": "scores of ids alone in the first layer, in standard deviations of a row, by offset of the id "
        "looked at; its heads with most attention on the two patterns; cosines of rows of the table",
        **{
            name: {
                f"{offset:+d}": interval(
                    [float(one.preference[first_layer_head(one, name), offset + REACH]) for one in insides]
                )
                for offset in offsets
            }
            for name in PATTERNS
        },
        "cosine_of_neighbours": interval(near),
        "cosine_absolute_mean": interval([float(value) for value in off]),
    }


def summary(recipe: AdditionRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """About ten lines: what was done, what came out beside the baselines, and what to look at."""
    lengths, heads = numbers["lengths"], numbers["heads"]
    lines = [
        f"addition: sums of 1 to {recipe.digits} digits, {len(recipe.seeds)} transformers of each kind, "
        f"{recipe.n_layers} layer{'s' * (recipe.n_layers > 1)} of {recipe.n_heads} heads; {recipe.steps} steps of "
        f"{recipe.batch_size} ({recipe.steps_baseline} for baselines)",
        f"{'digits of the operands':36s}" + "".join(f"{d:>6d}" for d in recipe.lengths),
    ]
    for kind in KINDS:
        for measure, name in (
            ("exact", "exact, with the end"),
            ("exact_digits", "exact in all digits"),
            ("token", "digits"),
        ):
            row = "".join(f"{value:6.2f}" for value in lengths[kind]["median"][measure])
            lines.append(f"{f'{kind}: {name}':36s}{row}")
    if recipe.select is not None:
        steps = ", ".join(f"{one['step']:g}" for one in numbers["selection"][COUPLED])
        lines.append(f"{'weights selected':36s} at {recipe.select} digits: coupled, those of step {steps}")
    for name in PATTERNS:
        found = heads[name]
        lines.append(
            f"{f'attention to {name}':36s} {found['trained length']['mean']:.3f}  chance {found['chance']:.3f}, "
            f"{found['expected']}"
        )
    swapped = numbers["swapped_ids"]
    lines.append(
        f"{'ids of two digits exchanged':36s} {swapped['as exchanged']['mean']:.3f} add what the ids spell, "
        f"{swapped['as written']['mean']:.3f} what the tokens spell"
    )
    lines.append(
        f"look at    {folder / 'lengths.png'}, then attention, positions, ablation.png and {NUMBERS} beside it"
    )
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)
