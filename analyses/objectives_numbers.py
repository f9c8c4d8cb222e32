"""What came out of a comparison of objectives, as numbers with their protocols and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nextlens.analyses.intervals import interval
from nextlens.analyses.next_latent import RECENT
from nextlens.analyses.objectives_measures import MEASURED, offsets_of
from nextlens.analyses.objectives_recipe import ObjectivesRecipe
from nextlens.analyses.results_folder import versions

#: Of one transformer, by objective and seed.
Results = Mapping[tuple[str, int], Mapping[str, Any]]


def sum_up(recipe: ObjectivesRecipe, results: Results) -> dict[str, Any]:
    """Every number with its protocol, controls, interval over seeds and the command that repeats it."""
    sites = results[recipe.objectives[0], recipe.seeds[0]]["geometry"]["sites"]

    def over(value: Any) -> dict[str, Any]:
        """``value`` of a transformer's results: by objective, with its interval over seeds."""
        return {
            name: interval([float(value(results[name, seed])) for seed in recipe.seeds]) for name in recipe.objectives
        }

    numbers: dict[str, Any] = {
        "kl_to_exact": {
            "protocol": f"mean KL(exact next-token law ‖ model) in nats; {MEASURED} words that no training saw",
            **over(lambda one: one["kl"]),
        },
        "effective_rank": {
            "protocol": "of the final states (ln_final), exp of the entropy of normalised singular values, not centred",
            **over(lambda one: one["geometry"]["ranks"][-1]),
        },
        "belief_r2": {
            "protocol": "affine probe, held-out words, pooled over states; untrained and last-token baselines: the "
            "site hook_embed, which knows the last token alone",
            **{site: over(lambda one, place=place: one["geometry"]["r2"][place]) for place, site in enumerate(sites)},
        },
        "at_matched_kl": _matched(recipe, results),
        "equivalent_histories": {
            "protocol": "mean distance of final states of different words of nearly the same belief, not agreeing in "
            f"their last {RECENT} tokens, over that of pairs at random; of_beliefs: the same of the beliefs",
            **over(lambda one: one["equivalent"]["ratio"]),
            "of_beliefs": results[recipe.objectives[0], recipe.seeds[0]]["equivalent"]["of_beliefs"],
        },
        "future_tokens": {
            "protocol": "mean KL(P(x_{t+d} | x_{<= t}) ‖ affine probe of the final state) in nats, fitted to the exact "
            "laws, held-out words; law of any token: the same of one law at all rows",
            **{
                str(d): {
                    **over(lambda one, d=d: one["future"][d]["probe"]),
                    "law of any token": results[recipe.objectives[0], recipe.seeds[0]]["future"][d]["constant"],
                }
                for d in offsets_of(recipe)
            },
        },
        "training": {
            "protocol": "CPU seconds of one thread, what is measured on the way apart; cost: of a step, over that of a "
            "next-token step of the same seed. Other work on the machine makes it uneven",
            "cpu_seconds": over(lambda one: one["cpu"]),
            "steps": over(lambda one: one["steps"]),
            "cost_of_a_step": {name: interval(_costs(recipe, results, name)) for name in recipe.objectives},
        },
    }
    if "next-latent" in recipe.objectives:
        numbers["bayesian_updater"] = _updater(recipe, [results["next-latent", seed] for seed in recipe.seeds])
        numbers["draft"] = {
            "protocol": "the latent dynamics proposes 4 tokens a call of its own model, drawn from its laws; accepted: "
            "mean overlap 1 - TV of its laws with the model's; at_birth: of a dynamics whose state stays where it is",
            **{
                name: interval([results["next-latent", seed]["draft"][name] for seed in recipe.seeds])
                for name in ("accepted", "at_birth", "tokens_per_call")
            },
        }
    if "registers" in recipe.objectives:
        numbers["registers"] = _registers(recipe, results)
    return numbers | {
        "seeds": list(recipe.seeds),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy"),
    }


def _costs(recipe: ObjectivesRecipe, results: Results, name: str) -> list[float]:
    step = {key: one["cpu"] / one["steps"] for key, one in results.items()}
    return [step[name, seed] / step["next-token", seed] for seed in recipe.seeds]


def _matched(recipe: ObjectivesRecipe, results: Results) -> dict[str, Any]:
    """Rank and R² where each seed's objectives had all come down to the same KL.

    The level of a seed is ``max over objectives of (min over looks of KL)``: the least that the objective which comes
    down least far ever reaches, be it before its last look. Of every objective that look counts which is the first
    with a KL no larger than the level; looks are ``every`` steps apart, on words that are neither trained on nor those
    of the other measures.
    """
    at: dict[str, dict[str, list[float]]] = {name: {"rank": [], "r2": []} for name in recipe.objectives}
    levels = []
    for seed in recipe.seeds:
        curves = {name: results[name, seed]["curve"] for name in recipe.objectives}
        level = max(min(look["kl"] for look in curve) for curve in curves.values())
        levels.append(level)
        for name, curve in curves.items():
            first = next(look for look in curve if look["kl"] <= level)
            for value in ("rank", "r2"):
                at[name][value].append(first[value])
    return {
        "protocol": "effective rank and belief R² of the final state at the first look at which the KL is no larger "
        "than the level of the seed: the largest, over objectives, of the least KL that each has at any look",
        "kl": interval(levels),
        **{name: {value: interval(found) for value, found in both.items()} for name, both in at.items()},
    }


def _updater(recipe: ObjectivesRecipe, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last = [recipe.length // 2, recipe.length - 1, *([recipe.length * recipe.beyond - 1] if recipe.beyond > 1 else [])]
    updaters = [one["updater"] for one in found]
    return {
        "protocol": "R² of the belief that a firm affine probe (penalty of 0.01 or more), fitted to the model's own "
        "states, reads off what the latent dynamics says; next_state: R² of the state itself; one step from the "
        "model's state, and rolled out from the state behind the first token",
        **{
            name: interval([float(one[name]) for one in updaters])
            for name in ("next_state", "own", "one_step", "not_updated", "wrong_token")
        },
        "rolled_out": {
            f"after {position + 1} tokens": {
                name: interval([float(one[name].sel(position=position)) for one in updaters])
                for name in ("rolled_out", "transformer", "first_state")
            }
            for position in last
        },
        "trained_on": recipe.length,
    }


def _registers(recipe: ObjectivesRecipe, results: Results) -> dict[str, Any]:
    trained, untrained = (
        [results[name, seed]["horizon"] for seed in recipe.seeds] for name in ("registers", "next-token")
    )
    by_offset = {}
    for d in offsets_of(recipe):
        own = {"claimed": d, "offset": d}
        by_offset[str(d)] = {
            "kl": interval([float(one.kl.sel(own)) for one in trained]),
            "kl, untrained register": interval([float(one.kl.sel(own)) for one in untrained]),
            "kl, law of any token": float(trained[0].marginal.sel(offset=d)),
            "r2": interval([float(one.r2.sel(offset=d)) for one in trained]),
            "r2, untrained register": interval([float(one.r2.sel(offset=d)) for one in untrained]),
        }
    moved = np.mean([one.kl.values for one in trained], axis=0)
    return {
        "protocol": "KL(P(x_{t+d} | x_{<= t}) ‖ register that claims this offset) in nats; R² of b_t T^(d-1) read off "
        "its final state; the untrained register is that of the next-token model of the same seed",
        "by_offset": by_offset,
        "below_untrained_at_every_offset": {
            str(seed): bool((np.diag(one.kl.values) < np.diag(other.kl.values)).all())
            for seed, one, other in zip(recipe.seeds, trained, untrained, strict=True)
        },
        "moved_by_position_alone": {
            "protocol": "the same registers, only their position ids changed to claim another offset: mean KL from "
            "the exact law of each offset (columns) by the offset claimed (rows), over seeds",
            "kl": moved.round(6).tolist(),
            "nearest_law": [int(row.argmin()) + 1 for row in moved],
        },
    }


def spectra(recipe: ObjectivesRecipe, results: Results) -> dict[str, np.ndarray]:
    """Normalised singular values of final states, (seed, place), by objective."""
    return {
        name: np.array([results[name, seed]["geometry"]["spectrum"] for seed in recipe.seeds])
        for name in recipe.objectives
    }
