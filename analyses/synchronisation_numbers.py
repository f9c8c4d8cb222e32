"""How models synchronise, in numbers, figures and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.intervals import interval
from nextlens.analyses.phase_change import FALLS, FLAT, LASTS, phase_change
from nextlens.analyses.results_folder import NUMBERS
from nextlens.analyses.synchronisation import ComponentReading
from nextlens.analyses.synchronisation_training import PROBED, SynchronisationRecipe

#: R² that others printed for a mixture of three Mess3 of their own choice; protocols not known to be held out.
PUBLISHED = {"joint": 0.781, "component": 0.838, "within a component": [0.80, 0.92], "component, another": 0.941}


class Measured(NamedTuple):
    """What models of one source and one architecture gave, seed by seed.

    ``twins`` are losses of untrained twins; ``readings`` is empty where components are not probed for, and
    ``curves`` where training was not followed.
    """

    losses: list[xr.Dataset]
    twins: list[xr.Dataset]
    readings: list[ComponentReading]
    curves: list[list[dict[str, Any]]]


Results = Mapping[tuple[str, str], Measured]


def sum_up(recipe: SynchronisationRecipe, results: Results) -> dict[str, Any]:
    """Every number with its protocol, nulls, seeds, interval and the command that repeats it."""
    readings = [one for measured in results.values() for one in measured.readings]
    return {
        "sources": {
            name: {
                **_of_source(next(iter(kinds.values())).losses[0]),
                "models": {kind: _of_models(measured) for kind, measured in kinds.items()},
            }
            for name, kinds in by_source(results).items()
        },
        "components": _of_components(readings) if readings else None,
        "phase_change": {
            name: {kind: _of_curves(measured) for kind, measured in kinds.items() if measured.curves}
            for name, kinds in by_source(results).items()
            if any(measured.curves for measured in kinds.values())
        },
        "protocol": {
            "loss": "floor + mean KL(exact law, model's law) over prefixes: no sampling error of the next token",
            "summed": "sum over tokens 1 .. n_ctx + 1 of (loss - rate), nats; the first token at its floor",
            "components": "held out by prefix, 5 folds, penalty by nested folds, weighted by probability",
            "phase_change": f"late excess, second half of the context: a plateau on the way, flat within {FLAT:g}, "
            f"over at least a factor {LASTS:g} of steps, then a fall by {FALLS:g} of its level while steps double",
            "interval_95": "Student's t over seeds",
            "in_sample": False,
        },
        "seeds": list(recipe.seeds),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
    }


def by_source(results: Results) -> dict[str, dict[str, Measured]]:
    found: dict[str, dict[str, Measured]] = {}
    for (name, kind), measured in results.items():
        found.setdefault(name, {})[kind] = measured
    return found


def _of_source(loss: xr.Dataset) -> dict[str, Any]:
    """What does not depend on the model; ``twice_l_excess`` is 2 l (h_l - h), 1 where the excess is 1 / (2 l)."""
    floor, rate = loss.floor.values, loss.attrs["rate"]
    return {
        "rate": rate,
        "excess_entropy": loss.attrs["excess_entropy"],
        "floor": floor.tolist(),
        "summed_floor": loss.attrs["summed_floor"],
        "twice_l_excess": (2 * np.arange(1, len(floor) + 1) * (floor - rate)).tolist(),
        "prefixes": loss.attrs["prefixes"],
        "listed": loss.attrs["listed"],
    }


def _of_models(measured: Measured) -> dict[str, Any]:
    losses = [one.loss.values for one in measured.losses]
    floor, rate = measured.losses[0].floor.values, measured.losses[0].attrs["rate"]
    weights = 2 * np.arange(1, len(floor) + 1)
    return {
        "loss": [interval(list(at)) for at in zip(*(one.tolist() for one in losses), strict=True)][1:],
        "loss_over_floor": interval([float(one[1:].mean() / floor[1:].mean()) for one in losses]),
        "untrained_over_floor": interval([float(one.loss[1:].mean() / floor[1:].mean()) for one in measured.twins]),
        "summed_loss": interval([one.attrs["summed_loss"] for one in measured.losses]),
        "twice_l_excess_at_last": interval([float(weights[-1] * (one[-1] - rate)) for one in losses]),
        "late_excess": interval([_late(one.excess.values[1:]) for one in measured.losses]),
    }


def _late(excess: Float[np.ndarray, " position"]) -> float:
    """The mean over the second half of the context."""
    return float(excess[len(excess) // 2 :].mean())


def _of_components(readings: Sequence[ComponentReading]) -> dict[str, Any]:
    scores, nulls, at = readings[0].scores, readings[0].nulls, [one.by_position() for one in readings]
    return {
        "site": str(scores.site.values[-1]),
        "r2": {
            str(target): {
                str(predictor): {
                    str(site): interval(
                        [float(one.scores.r2.sel(target=target, predictor=predictor, site=site)) for one in readings]
                    )
                    for site in scores.site.values
                }
                for predictor in scores.predictor.values
            }
            for target in scores.target.values
        },
        "nulls": {
            str(target): {
                str(null): interval([float(one.nulls.r2.sel(target=target, null=null)) for one in readings])
                for null in nulls.null.values
            }
            for target in scores.target.values
        },
        "posterior_r2_by_tokens_read": {
            name: [None if np.isnan(row).any() else interval(row.tolist()) for row in np.array([d[name] for d in at]).T]
            for name in ("probe", "untrained twin")
        },
        "posterior_entropy_by_tokens_read": at[0].uncertainty.values.tolist(),
        "published": PUBLISHED,
        "protocol": scores.attrs,
    }


def _of_curves(measured: Measured) -> dict[str, Any]:
    """What plateau each seed stood on; ``levels`` are late excesses of predictors with a memory of 0 and 1 tokens."""
    found = []
    for curve in measured.curves:
        steps, late = curve_of(curve)
        found.append(phase_change(steps, late))
    return {
        "appears_in": sum(one is not None and one.appears for one in found),
        "of": len(found),
        "plateaus": [None if one is None else one._asdict() for one in found],
        "final_late_excess": interval([float(curve_of(curve)[1][-1]) for curve in measured.curves]),
        "levels": levels_of(measured.losses[0]),
        "curves": measured.curves,
    }


def curve_of(curve: Sequence[Mapping[str, Any]]):
    """Steps, and the late excess after each."""
    return np.array([moment["step"] for moment in curve]), np.array([_late(np.array(m["excess"])) for m in curve])


def levels_of(loss: xr.Dataset) -> dict[str, float]:
    """Late excess of the best predictors that remember nothing, and one token; those above 0."""
    floor = loss.floor.values
    late = floor[1:][len(floor[1:]) // 2 :].mean()
    levels = {"no memory": float(floor[0] - late), "one token": float(floor[1] - late)}
    return {name: level for name, level in levels.items() if level > 1e-6}


def summary(recipe: SynchronisationRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """What was done, how near models come to the floor, what is read of components, what training shows."""
    lines = [f"{len(numbers['seeds'])} seeds of each model, {recipe.steps:,} steps of {recipe.batch_size} words"]
    lines.append("loss / floor, and sum over tokens of loss above the rate, which rises to E with the context:")
    for name, source in numbers["sources"].items():
        for kind, one in source["models"].items():
            sums = f"E_L {source['summed_floor']:.4f}, E {source['excess_entropy']:.4f}"
            summed = one["summed_loss"]["mean"]
            note = f"sum {summed:.4f}, {sums}; untrained {one['untrained_over_floor']['mean']:.3f}"
            lines.append(_line(f"  {name}, {kind}", one["loss_over_floor"], 5, note))
    if "coins" in numbers["sources"]:
        coins = numbers["sources"]["coins"]
        told = coins["models"]["transformer"]["twice_l_excess_at_last"]
        note = f"exact {coins['twice_l_excess'][-1]:.3f}; 1 is the published law 1 / (2 l)"
        lines.append(_line(f"coins, 2 l (loss - h) at l = {len(coins['floor'])}", told, 3, note))
    lines += [*_of_reading(numbers["components"]), *_of_training(numbers["phase_change"])]
    return "\n".join(
        [
            *lines,
            f"look at    {folder / 'loss.png'}, posterior.png, simplex.png, training.png; {NUMBERS}",
            f"repeat     {recipe.command}",
        ]
    )


def _of_reading(components: Mapping[str, Any] | None) -> list[str]:
    if components is None:
        return []
    site, lines = components["site"], []
    published = {"joint": f"published {PUBLISHED['joint']}", "component": "published .838 and .941"}
    lines.append(f"{PROBED}: held-out R² at {site} (others' mixtures differ, and their protocols)")
    for target, by_predictor in components["r2"].items():
        nulls = components["nulls"][target]
        said = published.get(target, "published .80 to .92")
        twin = by_predictor["untrained twin"][site]["mean"]
        shown = [max(null for null in nulls if null.startswith("last")), "next-token law, exact", "shuffle"]
        beside = ", ".join(f"{null.removesuffix(', exact')} {nulls[null]['mean']:.3f}" for null in shown)
        note = f"{said}; twin {twin:.3f}, {beside}"
        lines.append(_line(f"  {target}", by_predictor["probe"][site], 4, note))
    return lines


def _of_training(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, kinds in found.items():
        for kind, one in kinds.items():
            levels = ", ".join(f"{what} {level:.3f}" for what, level in one["levels"].items())
            note = f"late excess at the end; phase change in {one['appears_in']} of {one['of']} ({levels})"
            lines.append(_line(f"{name}, {kind}", one["final_late_excess"], 5, note))
    return lines


def _line(name: str, found: Mapping[str, Any], digits: int, note: str) -> str:
    spread = found["interval_95"]
    bounds = f"[{spread[0]:.{digits}f}, {spread[1]:.{digits}f}]" if spread else "(one seed, no interval)"
    return f"{name:28s} {found['mean']:8.{digits}f}  {bounds:22s} {note}"
