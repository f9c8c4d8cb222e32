"""Parity, next-token training and what reinforcement follows: a run in numbers and in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.intervals import interval
from nextlens.analyses.parity_recipe import ParityRecipe
from nextlens.analyses.parity_reinforcement import MEASURED, PROBED, STEERED, measured
from nextlens.analyses.parity_training import ParitySeed
from nextlens.analyses.results_folder import NUMBERS, versions
from nextlens.models.tasks.parity import Stepwise, after_selection, probability_of_stopping

Results = Mapping[int, ParitySeed]

#: The share of long answers above which the most probable answer is long, in theory.
CRITICAL = 1 / 3


def sum_up(recipe: ParityRecipe, results: Results) -> dict[str, Any]:
    """Every number with its protocol, what theory says, seeds, interval and the command that repeats it."""
    seeds = list(results.values())
    return {
        "next_token": {
            "protocol": f"{MEASURED} fresh prompts; greedy answers are right if their last token is the parity; "
            "lengths without the end token; samples at temperature 1",
            **_answers([one.pretraining.isel(step=-1) for one in seeds]),
            "chance": 0.5,
            "sampled_long_in_data": recipe.p_chain,
        },
        "policy_gradient": _answers([one.policy.isel(step=-1) for one in seeds]),
        "policy_gradient_too_early": {
            "protocol": f"from step {recipe.early} of next-token training",
            "before": _answers([one.early.isel(step=0) for one in seeds]),
            **_answers([one.early.isel(step=-1) for one in seeds]),
        },
        "star": {
            "protocol": "share of long answers among those kept, beside 2q/(1+q) of the share q sampled; z counts "
            "standard errors of which short answers happen to be right",
            **_answers([one.star.isel(round=-1) for one in seeds]),
            "greedy_accuracy_after_one_round": _claim(
                [float(one.star.greedy_accuracy[1]) for one in seeds], lambda x: x >= 0.99, "at least 0.99"
            ),
            "rounds": _rounds(recipe, seeds),
            "by_one_standard_error": _within([abs(z) for one in seeds for z in _misses(recipe, one.star)], 1.0),
            "by_two_standard_errors": _within([abs(z) for one in seeds for z in _misses(recipe, one.star)], 2.0),
        },
        "star_hot": {
            "protocol": f"temperature {recipe.hot:g}, the end rewarded whatever led there",
            **_answers([one.hot.isel(round=-1) for one in seeds]),
        },
        "threshold": {
            "protocol": "next-token training alone at each share of long answers; exact: the best predictor for which "
            "the short answer is a fair coin",
            "critical_share": CRITICAL,
            "by_share": {f"{share:g}": _at_share(recipe, seeds, share) for share in recipe.shares},
        },
        "what_changed": _changed(seeds),
        "steering": _steering(seeds),
        "seeds": list(results),
        "cpu_seconds": {
            f"seed {seed}, {name}": round(seconds, 1)
            for seed, one in results.items()
            for name, seconds in one.cpu_seconds.items()
        },
        "cpu_seconds_in_all": round(sum(sum(one.cpu_seconds.values()) for one in seeds), 1),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy", "transformer-lens"),
    }


def exact(recipe: ParityRecipe, share: float) -> xr.Dataset:
    """What the best predictor that cannot see the parity at once answers at this share of long answers."""
    task = recipe.task(share)
    return measured(Stepwise(task), task, np.random.default_rng(0), n_prompts=512)


def _answers(rows: Sequence[xr.Dataset]) -> dict[str, Any]:
    return {str(name): _mean([float(row[name]) for row in rows]) for name in rows[0].data_vars}


def _mean(values: Sequence[float]) -> dict[str, Any] | None:
    """None if a seed has no such answer."""
    return None if np.isnan(values).any() else interval(values)


def _claim(values: Sequence[float], holds: Callable[[float], bool], said: str) -> dict[str, Any]:
    return {**interval(values), "expected": f"{said}: {sum(map(holds, values))} of {len(values)}"}


def _within(values: Sequence[float], most: float) -> str:
    return f"{sum(value <= most for value in values)} of {len(values)}"


def _rounds(recipe: ParityRecipe, seeds: Sequence[ParitySeed]) -> list[dict[str, Any]]:
    return [
        {
            "round": number + 1,
            "sampled": interval([float(one.star.sampled[number]) for one in seeds]),
            "kept": interval([float(one.star.kept[number]) for one in seeds]),
            "2q/(1+q)": interval([after_selection(float(one.star.sampled[number])) for one in seeds]),
            "closed_form_from_p_chain": after_selection(recipe.p_chain, number + 1),
            "z": [_misses(recipe, one.star)[number] for one in seeds],
        }
        for number in range(recipe.rounds)
    ]


def _misses(recipe: ParityRecipe, star: xr.Dataset) -> list[float]:
    """``(kept - 2q/(1+q)) / standard error``, round by round.

    Of n answers n q are long; of the others each is right with ½, so how many are has the standard deviation
    sqrt(n (1 - q)) / 2, and the share of long ones that of ``q sqrt((1 - q) / n) / (2 ((1 + q) / 2)²)``.
    """
    q, kept = star.sampled.values[:-1], star.kept.values[:-1]
    error = q * np.sqrt((1 - q) / recipe.n_samples) / (2 * ((1 + q) / 2) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, (kept - 2 * q / (1 + q)) / error, 0.0).tolist()


def _at_share(recipe: ParityRecipe, seeds: Sequence[ParitySeed], share: float) -> dict[str, Any]:
    rows = [one.sweep.sel(p_chain=share) for one in seeds]
    best, stop = exact(recipe, share), probability_of_stopping(share)
    near = sum(abs(float(row.stop) - stop) <= 0.05 for row in rows)
    return {
        **_answers(rows),
        "exact": {
            "greedy_accuracy": float(best.greedy_accuracy),
            "greedy_length": float(best.greedy_length),
            "stop": stop,
        },
        "stop_within_0.05": f"{near} of {len(rows)}",
    }


def _changed(seeds: Sequence[ParitySeed]) -> dict[str, Any]:
    found = [one.changed for one in seeds]
    last = found[0].layer.values[-1]
    of = {
        model: {
            "next_parity_last_layer": interval(
                [float(one.next_parity.sel(model=model, layer=last).mean()) for one in found]
            ),
            "next_parity_least_of_all_places": interval(
                [float(one.next_parity.sel(model=model, layer=last).min()) for one in found]
            ),
            "full_parity_at_separator": interval(
                [float(one.full_parity.sel(model=model, layer=last)) for one in found]
            ),
            "aligned_attention_of_best_head": interval([float(one.aligned.sel(model=model).max()) for one in found]),
        }
        for model in ("before", "after")
    }
    for model, at in (("before", 0), ("after", -1)):
        of[model]["stop"] = interval([float(one.policy.stop[at]) for one in seeds])
    return {
        "protocol": f"{PROBED} long chains, teacher-forced, the same for both models; ridge classifiers fitted on "
        "half of them; before and after GRPO; chance is ½",
        **of,
        "state_moved": {
            "at the separator": interval([float(one.state[0]) for one in found]),
            "at the first token": interval([float(one.state[1]) for one in found]),
            "later, mean": interval([float(one.state[2:].mean()) for one in found]),
        },
        "weights_moved": interval([float(one.weights) for one in found]),
    }


def _steering(seeds: Sequence[ParitySeed]) -> dict[str, Any]:
    found = [one.steering for one in seeds]
    return {
        "protocol": f"the state after the first block at the first token said, pushed along the difference of means of "
        f"long and short answers; {STEERED} prompts",
        **{
            str(model): {
                f"{push:g}": _answers([one.sel(model=model, push=push) for one in found])
                for push in found[0].push.values
            }
            for model in ("before", "after")
        },
    }


def by_seed(seeds: Sequence[ParitySeed], part: str, name: str) -> Float[np.ndarray, "seed place"]:
    """One measure of one part, a row a seed."""
    return np.array([getattr(one, part)[name].values for one in seeds])


def summary(recipe: ParityRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """About ten lines: what was done, what came out beside theory, and what to look at."""
    before, after, early = (numbers[n] for n in ("next_token", "policy_gradient", "policy_gradient_too_early"))
    star, hot, changed = numbers["star"], numbers["star_hot"], numbers["what_changed"]
    stop = probability_of_stopping(recipe.p_chain)
    lines = [
        f"parity: {recipe.n_bits} bits, {len(recipe.seeds)} transformers of {recipe.n_layers} layers; next tokens at "
        f"{recipe.p_chain:g} long answers, {recipe.steps} steps of {recipe.batch_size}; then GRPO or STaR",
        _line("greedy accuracy, next tokens", before["greedy_accuracy"], f"chance 0.5; length {_lengths(before)}"),
        _line("  P(END | first token fits)", before["stop"], f"theory {stop:.3f}"),
        _line(f"  after GRPO, {recipe.steps_policy} steps", after["greedy_accuracy"], f"length {_lengths(after)}"),
        _line(
            f"  after GRPO from step {recipe.early}", early["greedy_accuracy"], f"length {_lengths(early)}: too early"
        ),
        _line(f"  after STaR, {recipe.rounds} rounds", star["greedy_accuracy"], f"length {_lengths(star)}"),
        _line(f"  after STaR at temperature {recipe.hot:g}", hot["greedy_accuracy"], "the end rewarded"),
        f"{'STaR: kept share is 2q/(1+q)':36s} {star['by_two_standard_errors']} rounds within two standard errors",
    ]
    for share, found in numbers["threshold"]["by_share"].items():
        lines.append(
            _line(
                f"greedy accuracy at {share} long",
                found["greedy_accuracy"],
                f"exact {found['exact']['greedy_accuracy']:.2f}; length {_lengths(found)}",
            )
        )
    for model in ("before", "after"):
        lines.append(
            f"{f'{model} GRPO: next parity, full parity':36s} {changed[model]['next_parity_last_layer']['mean']:7.3f}  "
            f"{changed[model]['full_parity_at_separator']['mean']:.3f}; P(END) {changed[model]['stop']['mean']:.3f}"
        )
    lines.append(f"look at    {folder / 'what_changed.png'}, then course, star, threshold, steering.png and {NUMBERS}")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def _lengths(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{length:g}" for length in found["greedy_length"]["by_seed"])


def _line(name: str, found: Mapping[str, Any], note: str) -> str:
    spread = found["interval_95"]
    bounds = f"[{spread[0]:.3f}, {spread[1]:.3f}]" if spread else "(no interval)"
    return f"{name:36s} {found['mean']:7.3f}  {bounds:18s} {note}"
