"""A run on factored representations in numbers: each with its protocol, nulls, seeds and interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.displays.factors import FactorsDisplay
from nextlens.analyses.factored_prefixes import (
    BEYOND,
    JOINT,
    SHARE,
    FactoredPrefixes,
    exact_dimensions,
    price_of_factoring,
)
from nextlens.analyses.factored_recipe import CHANNEL, NOISES, NOISY_FACTORS, FactoredRecipe, Task
from nextlens.analyses.factored_representations import PREDICTORS, Moment, blind_r2, mean_overlap
from nextlens.analyses.intervals import interval
from nextlens.analyses.results_folder import NUMBERS, versions
from nextlens.models.processes import FactoredProcess, mess3
from nextlens.models.processes.constructions import noisy_channel
from nextlens.probes.geometry import variance_spectrum

#: Of arXiv 2602.02385 with five factors: dimensions for 95 % of the variance at the start, at their least (near
#: step 250) and at the end; overlap of first directions at the end; dimensions at the end by noise.
PUBLISHED = {
    "dimensions": {"start": 60, "least": 3, "end": 11},
    "overlap": 6e-4,
    "noise": {"0.1": 13, "0.2": 19, "0.3": 24, "0.5": 38},
}
#: The seed of the words that are measured.
WORDS_SEED = 3


class FactoredResult(NamedTuple):
    """What one model gave; ``varied`` is by model, the twin's too, and None under noise."""

    task: Task
    loss: float
    loss_of_twin: float
    read: xr.Dataset
    varied: dict[str, xr.Dataset] | None
    curve: list[Moment]
    cpu_seconds: float


def prefixes_of(task: Task, n_words: int, seed: int = WORDS_SEED) -> FactoredPrefixes:
    """The rows on which a task's model is measured."""
    training = task.training
    return FactoredPrefixes.of(training.process, task.factors, training.length, n_words, np.random.default_rng(seed))


def sum_up(recipe: FactoredRecipe, results: Sequence[FactoredResult]) -> dict[str, Any]:
    """Every number with its protocol, nulls, seeds, interval and the command that repeats it."""
    clean = [one for one in results if one.task.noise is None]
    task = clean[0].task
    prefixes = prefixes_of(task, recipe.words)
    r2, varied = _r2(clean, prefixes), _varied(clean)
    details = {
        "loss_over_optimum": {
            **interval([one.loss for one in clean]),
            "protocol": "expected loss by exact next-token laws, over sampled prefixes; 1 is the least possible",
            "nulls": {"untrained twin": interval([one.loss_of_twin for one in clean])},
        },
        "dimensions": _dimensions(clean, prefixes),
        "r2": {"site": task.site, "protocol": clean[0].read.attrs, **r2},
        "freeze_and_vary": varied,
        "noise": _noise(recipe, results),
        "price_of_factoring": _prices(recipe),
    }
    return {
        "loss_over_optimum": details["loss_over_optimum"]["mean"],
        "dimensions": details["dimensions"]["end"]["mean"],
        "dimensions_untrained": details["dimensions"]["nulls"]["untrained twin"]["mean"],
        **{f"dimensions_exact_{name.replace(' ', '_')}": n for name, n in details["dimensions"]["exact"].items()},
        "r2_factors": float(np.mean([r2[name]["mean"] for name in prefixes.names])),
        "r2_joint_beyond_factors": r2[BEYOND]["mean"],
        "overlap": varied["trained"]["overlap_first"]["mean"],
        "overlap_random": varied["random"][0],
        "seeds": list(recipe.seeds),
        "process": repr(recipe.process),
        "factors": prefixes.names,
        "published": PUBLISHED,
        "details": details,
        "spectra": _spectra(clean, prefixes),
        "curves": {str(one.task.seed): one.curve for one in clean},
        "cpu_seconds_of_training": {one.task.training.name: round(one.cpu_seconds, 1) for one in results},
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy", "transformer-lens"),
    }


def display_of(recipe: FactoredRecipe, numbers: Mapping[str, Any]) -> FactorsDisplay:
    """The figure of a run, from its numbers."""
    details, curves = numbers["details"], list(numbers["curves"].values())
    exact, two = details["dimensions"]["exact"], FactoredProcess(NOISY_FACTORS)
    noise = {
        name: {float(epsilon): found["dimensions"]["by_seed"] for epsilon, found in levels.items()}
        for name, levels in details["noise"].items()
    }
    return FactorsDisplay(
        steps=[max(look["step"], 1) for look in curves[0]],
        dimensions=[[look["dimensions"] for look in curve] for curve in curves],
        levels={"joint beliefs": exact[JOINT], "factors' beliefs": exact["factors"]},
        shares=numbers["spectra"],
        overlap=details["freeze_and_vary"]["trained"]["overlap_matrix_first"],
        factors=numbers["factors"],
        noise=noise,
        noise_levels={"joint": two.joint_dimensions, "factors": two.factored_dimensions} if noise else {},
        caption=f"{details['r2']['site']}; {SHARE:.0%} of the variance over prefixes of {recipe.words} sampled words; "
        f"{len(curves)} seeds; step 0 drawn at 1.",
    )


def summary(recipe: FactoredRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """What was done, what came out beside its nulls and what was published, and what to look at."""
    details, published = numbers["details"], PUBLISHED["dimensions"]
    dimensions, varied, r2 = details["dimensions"], details["freeze_and_vary"], details["r2"]
    exact, beyond = dimensions["exact"], r2[BEYOND]
    theory = f"factored {exact['factors']}, joint {exact[JOINT]}"
    what = f"{len(numbers['seeds'])} transformers, {recipe.steps:,} steps of {recipe.batch_size} words"
    lines = [
        f"{numbers['process']}: {what}",
        _line("loss / optimum", details["loss_over_optimum"], 4, "1 is the best that any model can do"),
        _line("dimensions at the start", dimensions["start"], 1, f"published {published['start']}, of five factors"),
        _line("  least on the way", dimensions["least"], 1, f"published {published['least']}"),
        _line("  at the end", dimensions["end"], 1, f"{theory}; published {published['end']}, of 10 and 135"),
        f"{'  exact log law':24s} {exact['log law']:8d}  {'':22s} what the softmax needs in any case",
    ]
    for name in numbers["factors"]:
        null = {who: found["mean"] for who, found in r2[name]["nulls"].items()}
        note = f"untrained {null['untrained twin']:.3f}, last 2 tokens {null['last 2 of its tokens']:.3f}"
        lines.append(_line(f"belief R², {name}", r2[name], 3, note))
    ideal, twin = r2[JOINT]["from_exact_factors"], beyond["nulls"]["untrained twin"]["mean"]
    overlaps = {who: varied[who]["overlap_first"] for who in ("trained", "untrained twin")}
    note = f"random {varied['random'][0]:.4f}, untrained {overlaps['untrained twin']['mean']:.3f}"
    lines += [
        _line("  joint belief", r2[JOINT], 3, f"the factors' exact beliefs give {ideal:.3f} of it"),
        _line("  joint beyond factors", beyond, 3, f"what no affine map of them tells; untrained {twin:.3f}"),
        _line("    of 95 % of variance", beyond["of_95_percent"], 3, "0 if the components counted hold factors alone"),
        _line("overlap of factors", overlaps["trained"], 4, f"{note}; published {PUBLISHED['overlap']:g}"),
    ]
    for noise, levels in details["noise"].items():
        told = ", ".join(f"{found['dimensions']['mean']:.1f} at {epsilon}" for epsilon, found in levels.items())
        lines.append(f"{noise:24s} dimensions {told} (factored 4, joint 8)")
    lines += [
        f"look at    {folder / 'factors.png'}, then {NUMBERS} beside it",
        f"repeat     {recipe.command}",
    ]
    return "\n".join(lines)


def _dimensions(clean: Sequence[FactoredResult], prefixes: FactoredPrefixes) -> dict[str, Any]:
    curves = [[look["dimensions"] for look in one.curve] for one in clean]
    steps = [look["step"] for look in clean[0].curve]
    return {
        "site": clean[0].task.site,
        "share": SHARE,
        "exact": exact_dimensions(prefixes),
        "factored_states": sum(factor.n_states - 1 for factor in prefixes.factors),
        "joint_states": int(np.prod([factor.n_states for factor in prefixes.factors])) - 1,
        "start": interval([float(curve[0]) for curve in curves]),
        "least": interval([float(min(curve)) for curve in curves]),
        "least_at_step": interval([float(steps[int(np.argmin(curve))]) for curve in curves]),
        "end": interval([_last(one.read.dimensions, "trained") for one in clean]),
        "nulls": {"untrained twin": interval([_last(one.read.dimensions, "untrained twin") for one in clean])},
        "by_site": {
            str(site): {
                str(who): interval([float(one.read.dimensions.sel(site=site, model=who)) for one in clean])
                for who in clean[0].read.model.values
            }
            for site in clean[0].read.site.values
        },
    }


def _last(values: xr.DataArray, who: str) -> float:
    return float(values.sel(model=who)[-1])


def _r2(clean: Sequence[FactoredResult], prefixes: FactoredPrefixes) -> dict[str, Any]:
    """R² of every target at the last site, beside its nulls, and by site."""
    blind = blind_r2(prefixes)
    found: dict[str, Any] = {}
    for name in map(str, clean[0].read.target.values):
        scores = [one.read.r2.sel(target=name) for one in clean]
        probe, few, *others = (
            interval([float(score[-1].sel(predictor=who)) for score in scores]) for who in PREDICTORS
        )
        nulls = dict(zip(PREDICTORS[2:], others, strict=True))
        if name in prefixes.names:
            nulls |= {str(null): interval([float(blind.r2.sel(target=name, null=null))]) for null in blind.null.values}
        by_site = {
            str(site): interval([float(score.sel(site=site, predictor="probe")) for score in scores])
            for site in scores[0].site.values
        }
        found[name] = {**probe, "of_95_percent": few, "nulls": nulls, "by_site": by_site}
    found[JOINT]["from_exact_factors"] = blind.attrs["joint_from_factors"]
    return found


def _varied(clean: Sequence[FactoredResult]) -> dict[str, Any]:
    """Freeze-and-vary of model and twin."""
    found: dict[str, Any] = {
        "protocol": "one factor's tokens drawn anew, the others repeated; variance within a frozen word and position",
        "random": clean[0].varied["trained"].attrs["random"],
    }
    for who in clean[0].varied:
        each = [one.varied[who] for one in clean]
        found[who] = {
            "dimensions": {
                str(name): interval([float(one.dimensions.sel(factor=name)) for one in each])
                for name in each[0].factor.values
            },
            "sum": interval([float(one.dimensions.sum()) for one in each]),
            "union": interval([float(one.union) for one in each]),
            **{f"overlap_{kind}": interval([_overlap(one, kind) for one in each]) for kind in ("first", "own")},
            "overlap_matrix_first": _mean_matrix(each, "first"),
            "overlap_matrix_own": _mean_matrix(each, "own"),
        }
    return found


def _overlap(varied: xr.Dataset, kind: str) -> float:
    return mean_overlap(varied.overlap.sel(directions=kind).values)


def _mean_matrix(each: Sequence[xr.Dataset], kind: str) -> list[list[float]]:
    return np.mean([one.overlap.sel(directions=kind).values for one in each], axis=0).tolist()


def _noise(recipe: FactoredRecipe, results: Sequence[FactoredResult]) -> dict[str, Any]:
    """By kind and amount of noise; at 0 both kinds hold the same models."""
    found: dict[str, Any] = {name: {} for name in NOISES if recipe.epsilons}
    for noise, epsilon in recipe.noises():
        each = [one for one in results if one.task.noise == noise and one.task.epsilon == epsilon]
        numbers = {
            "loss_over_optimum": interval([one.loss for one in each]),
            "dimensions": interval([_last(one.read.dimensions, "trained") for one in each]),
            "least_dimensions": interval([float(min(look["dimensions"] for look in one.curve)) for one in each]),
            "dimensions_untrained": interval([_last(one.read.dimensions, "untrained twin") for one in each]),
            "exact": exact_dimensions(prefixes_of(each[0].task, recipe.words)),
            "r2": {who: _by_target(each, who) for who in PREDICTORS},
        }
        for name in NOISES if epsilon == 0 else [noise]:
            found[name][f"{epsilon:g}"] = numbers
    return found


def _by_target(each: Sequence[FactoredResult], who: str) -> dict[str, Any]:
    return {
        str(target): interval([float(one.read.r2.sel(target=target, predictor=who)[-1]) for one in each])
        for target in each[0].read.target.values
    }


def _prices(recipe: FactoredRecipe) -> dict[str, Any]:
    """Nats a token that an observer loses who keeps a belief of each factor and drops how they hang together."""
    n_ctx = recipe.setting.architecture["n_ctx"]
    weak = (mess3(0.6, 0.15), mess3(0.6, 0.15))
    found: dict[str, Any] = {}
    for name, factors in (("the noisy factors", NOISY_FACTORS), ("two Mess3 of the paper", weak)):
        found[name] = {}
        for epsilon in recipe.epsilons:
            process = noisy_channel(FactoredProcess(factors).joint(), epsilon)
            rows = FactoredPrefixes.of(process, factors, n_ctx, recipe.words, np.random.default_rng(WORDS_SEED))
            found[name][f"{epsilon:g}"] = price_of_factoring(rows)
    return {"units": "nat", "noise": CHANNEL, **found} if recipe.epsilons else {}


def _spectra(clean: Sequence[FactoredResult], prefixes: FactoredPrefixes) -> dict[str, list[float]]:
    """Share of the variance in the first components: mean over seeds, and of exact beliefs."""
    clouds = {"factors' beliefs": prefixes.side_by_side, "joint beliefs": prefixes.joint}
    exact = {name: _cumulative(variance_spectrum(X, prefixes.weights)) for name, X in clouds.items()}
    drawn = {
        str(who): np.mean([_cumulative(one.read.variance.sel(model=who)[-1].values) for one in clean], axis=0)
        for who in clean[0].read.model.values
    }
    return {name: share.tolist() for name, share in {**drawn, **exact}.items()}


def _cumulative(spectrum: Float[np.ndarray, " component"]) -> Float[np.ndarray, " component"]:
    return np.cumsum(spectrum) / spectrum.sum()


def _line(name: str, found: Mapping[str, Any], digits: int, note: str) -> str:
    spread = found["interval_95"]
    bounds = f"[{spread[0]:.{digits}f}, {spread[1]:.{digits}f}]" if spread else "(one seed, no interval)"
    return f"{name:24s} {found['mean']:8.{digits}f}  {bounds:22s} {note}"
