"""A run in numbers: each with its protocol, nulls, seeds, interval and the command that repeats it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from nextlens.analyses.belief_geometry import RIVAL, UNWEIGHTED, BeliefGeometry, constant_mse
from nextlens.analyses.belief_training import BeliefRecipe
from nextlens.analyses.emergence import Moment
from nextlens.analyses.intervals import interval
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.results_folder import NUMBERS, versions

#: In-sample mean squared errors at the last block, published by Shai et al. 2024 (arXiv:2405.15943,
#: authors' notebook for Mess3; figure 7E, read off, for RRXOR).
PUBLISHED_MSE = {"mess3": 0.00038635, "rrxor": 0.0245}
#: Nulls that the figure draws, and what it calls them.
DRAWN_NULLS = {
    "last 2 tokens": "last 2 tokens",
    "last 4 tokens": "last 4 tokens",
    "its logarithm, exact": "log next-token law",
}


class SeedResult(NamedTuple):
    """What one seed gave: ``geometry`` by the protocol asked for, ``held_out`` by that one in any case.

    ``loss_of_twin`` is the untrained twin's loss over the optimum.
    """

    loss: xr.Dataset
    loss_of_twin: float
    geometry: BeliefGeometry
    held_out: BeliefGeometry
    mse_paper2024: float | None
    curve: list[Moment]
    n_parameters: int
    cpu_seconds: float


def sum_up(recipe: BeliefRecipe, results: Mapping[int, SeedResult]) -> dict[str, Any]:
    """Every number with its protocol, nulls, seeds, interval and the command that repeats it."""
    runs = list(results.values())
    geometries = [one.geometry for one in runs]
    prefixes = Prefixes.of(recipe.made, recipe.config(0).n_ctx)
    site = runs[0].held_out.site
    over = interval([one.loss.attrs["loss_over_optimum"] for one in runs])
    numbers: dict[str, Any] = {"loss_over_optimum": over["mean"]}
    details = {
        "loss_over_optimum": {
            **over,
            "protocol": "mean over positions of the expected loss, exact next-token laws; 1 is the least possible"
            if prefixes.listed
            else "as for listed prefixes, over sampled ones",
            "nulls": {"untrained twin": interval([one.loss_of_twin for one in runs])},
        },
    }
    protocols = {"held-out": [one.held_out for one in runs], recipe.reading: geometries}
    for protocol, measured in protocols.items():
        name = key_of(protocol)
        details[name] = r2_beside_nulls(measured)
        numbers |= {name: details[name]["mean"]}
        for null, suffix in (("untrained twin", "untrained"), ("shuffle", "shuffled")):
            numbers[f"{name}_{suffix}"] = details[name]["nulls"][null]["mean"]
    details["pairwise_r2"] = pairwise_beside_nulls([one.held_out for one in runs])
    in_sample = [one.mse_paper2024 for one in runs if one.mse_paper2024 is not None]
    if len(in_sample) == len(runs):
        paper = interval(in_sample)
        numbers |= {"mse_paper2024": paper["mean"], "mse_paper2024_constant": constant_mse(prefixes)}
        details["mse_paper2024"] = {
            **paper,
            "site": site,
            "protocol": "in sample, every word at every position, not weighted by probability (arXiv:2405.15943)",
            "nulls": {"constant predictor": constant_mse(prefixes)},
            "published": PUBLISHED_MSE.get(recipe.process) if not (recipe.parameters or recipe.sites) else None,
        }
    return numbers | {
        "seeds": list(results),
        "protocols": {
            "by_site": geometries[0].scores.attrs,
            "by_position": {
                "loss, optimum": details["loss_over_optimum"]["protocol"],
                "r2": geometries[0].scores.attrs,
            },
            "emergence": "over the prefixes of sampled words; R² and MSE held out by prefix",
        },
        "parameters_of_model": runs[0].n_parameters,
        "details": details,
        "by_site": {
            predictor: {
                str(at): interval([float(g.scores.r2.sel(site=at, predictor=predictor)) for g in geometries])
                for at in geometries[0].scores.site.values
            }
            for predictor in PREDICTORS
        },
        "by_position": {
            **{
                key: [interval([float(one.loss[key][t]) for one in runs]) for t in range(prefixes.n_ctx)]
                for key in ("loss", "optimum")
            },
            "r2": [interval(at) for at in zip(*(g.r2_by_position().tolist() for g in geometries), strict=True)],
        },
        "emergence": {str(seed): one.curve for seed, one in results.items()},
        "cpu_seconds_of_training": {str(seed): round(one.cpu_seconds, 1) for seed, one in results.items()},
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy", "transformer-lens"),
    }


PREDICTORS = ("probe", "untrained twin", "shuffle")


def key_of(protocol: str) -> str:
    """What ``numbers.json`` calls the R² of a protocol.

    Examples
    --------
    >>> key_of("held-out by suffix")
    'r2_held_out_by_suffix'
    """
    return f"r2_{re.sub('[ -]', '_', protocol)}"


def r2_beside_nulls(geometries: Sequence[BeliefGeometry]) -> dict[str, Any]:
    """R² at the last site over seeds, its protocol, and its nulls.

    All nulls follow the same protocol but the last tokens, which are exact conditional means: the
    protocol says so.
    """
    probe, *others = (interval([g.r2(name) for g in geometries]) for name in PREDICTORS)
    nulls = dict(zip(PREDICTORS[1:], others, strict=True))
    best = [float(g.scores.r2.sel(predictor="untrained twin").max()) for g in geometries]
    nulls["untrained twin, best site"] = interval(best)
    nulls |= {null: interval([float(g.nulls.r2.sel(null=null)) for g in geometries]) for null in nulls_of(geometries)}
    said = geometries[0].scores.predictor.values
    beside = {name: interval([g.r2(name) for g in geometries]) for name in (UNWEIGHTED, RIVAL) if name in said}
    return {**probe, "site": geometries[0].site, "protocol": geometries[0].nulls.attrs, "nulls": nulls, **beside}


def pairwise_beside_nulls(geometries: Sequence[BeliefGeometry]) -> dict[str, Any]:
    """Squared correlations of distances and cosines over pairs of prefixes, at the last site, over seeds.

    "next-token law" is the null that asks whether what is read keeps the distances between predictions
    rather than those between beliefs.
    """
    found = [geometry.pairwise(np.random.default_rng(k)) for k, geometry in enumerate(geometries)]
    first = found[0]
    return {
        "site": geometries[0].site,
        "protocol": first.attrs,
        **{
            metric: {
                truth: {
                    str(who): interval([float(one.sel(metric=metric, truth=truth, predictor=who)) for one in found])
                    for who in first.predictor.values
                }
                for truth in map(str, first.truth.values)
            }
            for metric in map(str, first.metric.values)
        },
    }


def nulls_of(geometries: Sequence[BeliefGeometry]) -> list[str]:
    """Names of the predictors that see no activations."""
    return [str(null) for null in geometries[0].nulls.null.values]


def summary(recipe: BeliefRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """Ten lines: what was done, what came out beside its nulls, and what to look at."""
    details = numbers["details"]
    r2 = details[key_of(recipe.reading)]
    in_sample = r2["protocol"]["in_sample"]
    shuffle = "what fitting the rows it is scored on gives" if in_sample else "must be about 0 or below"
    lines = [
        f"{named(recipe)}: {len(numbers['seeds'])} transformers of {numbers['parameters_of_model']:,} parameters, "
        f"{recipe.steps:,} steps of {recipe.batch_size} words",
        _line("loss / optimum", details["loss_over_optimum"], 5, "1 is the best that any model can do"),
        _line(f"belief R², {recipe.reading}", r2, 4, f"at {r2['site']}{', in sample' * in_sample}"),
        _line("  untrained twin", r2["nulls"]["untrained twin, best site"], 4, "best site: what the input gives"),
        _line("  shuffled beliefs", r2["nulls"]["shuffle"], 4, shuffle),
    ]
    for null, meaning in (
        ("last 4 tokens", "exact means: what a memory of four tokens gives"),
        ("next-token law, exact", "1 here would mean: belief and next token cannot be told apart"),
    ):
        if null in r2["nulls"]:
            lines.append(_line(f"  {null.removesuffix(', exact')}", r2["nulls"][null], 4, meaning))
    if "mse_paper2024" in details:
        published = details["mse_paper2024"]["published"]
        beside = f"constant predictor {numbers['mse_paper2024_constant']:.4f}"
        note = f"in sample; published {published:.5f}; {beside}" if published else f"in sample; {beside}"
        lines.append(_line("MSE, paper's protocol", details["mse_paper2024"], 5, note))
    lines.append(f"look at    {folder / 'simplex.png'}: does the cloud read off the model repeat the exact one?")
    lines.append(f"           then layers.png, emergence.png, process.png and {NUMBERS} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def named(recipe: BeliefRecipe) -> str:
    """The process and its parameters, as one would write them."""
    return f"{recipe.process}({', '.join(f'{name}={value:g}' for name, value in recipe.made.parameters.items())})"


def _line(name: str, found: Mapping[str, Any], digits: int, note: str) -> str:
    spread = found["interval_95"]
    bounds = f"[{spread[0]:.{digits}f}, {spread[1]:.{digits}f}]" if spread else "(one seed, no interval)"
    return f"{name:24s} {found['mean']:8.{digits}f}  {bounds:22s} {note}"
