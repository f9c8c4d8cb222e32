"""A comparison of kernels in numbers, each with its protocol and standard error, and as a table in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nextlens.analyses.compare_recipe import CompareRecipe
from nextlens.analyses.formulation import FLOOR
from nextlens.analyses.intervals import interval
from nextlens.analyses.results_folder import NUMBERS, versions

PROTOCOL = {
    "never": "share of positions where the kernel forbids what came: its loss is infinite, and it has no z - h",
    "loss, excess, divergence, variation": "nats a token, means over positions and sequences; divergence is KL(truth‖"
    f"kernel), with a uniform floor of {FLOOR:g} where the kernel forbids what the truth says; standard errors by "
    "sequences drawn anew",
    "z - h": "surprisal less entropy, nats: above 0 is overconfident; lag 1: autocorrelation, 0 if nothing is missed",
    "top-label error": "expected calibration error of the most probable token, 15 bins",
    "drift": "mean entropy of the kernel's laws along what it says itself, nats",
    "memory": "own use of context: KL(law after all ‖ law after the last k), over all words; on texts the loss more "
    "than with all",
    "error_by_context": "KL(truth after all ‖ law after the last k), over all words",
    "influence": "total variation of the next law when the token k back is another: all of them, or one drawn",
    "deployed": "KL(deployed‖kernel), nats, along the process and (own) along what the deployed kernel says; "
    "possible: share of that which the process can say; standard errors by sequences drawn anew",
    "cost": "matrix products that PyTorch makes in one reading of that length (what NumPy multiplies is not counted); "
    "float32 keys and values; CPU seconds, medians of repeats",
}
#: What is printed of a number that there is not: infinite, or of nothing.
NOTHING = "-"
#: What is printed of a row of measures, with its unit.
SHOWN = {
    "loss": "loss, nats a token",
    "never": "forbids what came, share",
    "bits per byte": "bits a byte",
    "excess": "excess over entropy rate",
    "divergence": "KL rate to the process",
    "variation": "total variation",
    "forbidden": "says impossible what is not",
    "z - h": "z - h, mean",
    "z - h, lag 1": "z - h, lag 1",
    "top-label error": "top-label calibration error",
    "drift": "entropy of its own samples",
}


def sum_up(recipe: CompareRecipe, found: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Every number with its protocol, and the command that repeats it."""
    seeds = [{"seed": seed, **_plain(one)} for seed, one in found.items()]
    names = seeds[0]["kernels"]
    return {
        "protocol": PROTOCOL,
        "on": recipe.texts.partition("=")[0] if recipe.texts else recipe.process,
        "seeds": seeds,
        "over_seeds": {
            name: {
                measure: _over([one["kernels"][name]["measures"][measure][0] for one in seeds])
                for measure in seeds[0]["kernels"][name]["measures"]
            }
            for name in names
        },
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy", "scipy"),
    }


def summary(recipe: CompareRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """The table: a row a measure, a column a kernel; the mean over seeds, and of one seed its standard error."""
    seeds = numbers["seeds"]
    names = list(seeds[0]["kernels"])
    wide = max(18, *(len(name) + 2 for name in names))
    lines = [
        f"compare: {recipe.sequences} sequences of {recipe.length} positions, {numbers['on']} ({recipe.skip} skipped); "
        f"seeds {', '.join(str(one['seed']) for one in seeds)}",
        f"{'':32s}" + "".join(f"{name:>{wide}s}" for name in names),
    ]
    truth = seeds[0]["truth"]
    for measure, said in SHOWN.items():
        if all(measure in seeds[0]["kernels"][name]["measures"] for name in names):
            cells = [_cell([one["kernels"][name]["measures"][measure] for one in seeds]) for name in names]
            lines.append(f"{said:32s}" + "".join(f"{cell:>{wide}s}" for cell in cells))

    def row(said: str, pick: Any, form: str) -> None:
        values = [[pick(one["kernels"][name]) for one in seeds] for name in names]
        cells = [NOTHING if None in one else format(np.mean(one), form) for one in values]
        lines.append(f"{said:32s}" + "".join(f"{cell:>{wide}s}" for cell in cells))

    def counted(said: str, pick: Any) -> None:
        values = [pick(seeds[0]["kernels"][name]) for name in names]
        cells = ["not counted" if value is None else f"{value:,.0f}" for value in values]
        lines.append(f"{said:32s}" + "".join(f"{cell:>{wide}s}" for cell in cells))

    def estimated(said: str, pick: Any) -> None:
        cells = [_cell([pick(one["kernels"][name]) for one in seeds]) for name in names]
        lines.append(f"{said:32s}" + "".join(f"{cell:>{wide}s}" for cell in cells))

    first = seeds[0]["kernels"][names[0]]
    if truth:
        row("memory, sum of g_k", lambda one: one["memory_total"], ".6f")
        row("influence, token 1 back", lambda one: one["influence_mean"][0], ".4f")
        row("influence, sum of sups", lambda one: sum(one["influence_sup"]), ".3f")
    else:
        for k in first["memory"]:
            estimated(f"loss more with the last {k}", lambda one, k=k: one["memory"][k])
        for lag in first["influence"]:
            estimated(f"influence, token {lag} back", lambda one, lag=lag: _mean_of(one["influence"][lag]))
    unit = "total variation" if truth else "bits a byte"
    for family in first["edits"]:
        estimated(f"{family}, mean, {unit}", lambda one, family=family: _mean_of(one["edits"][family]))
        row("  worst", lambda one, family=family: one["edits"][family]["worst"], ".4f")
    counted("flops a token", lambda one: one["cost"]["flops_per_token"])
    contexts = list(first["cost"]["flops_by_context"])
    for k in (contexts[0], contexts[-1]):
        counted(f"  of reading {k} at once", lambda one, k=k: one["cost"]["flops_by_context"][k])
    counted("cache, bytes a token", lambda one: one["cost"]["cache_bytes_per_token"])
    row("CPU microseconds a token", lambda one: 1e6 * one["cost"]["seconds_per_token"], ",.1f")
    row("  last slope, log time, log T", lambda one: one["cost"]["slopes"][-1], "+.2f")
    row("  of T²: share of the time at T", lambda one: _quadratic(one["cost"]), ".2f")
    if truth:
        lines.append(f"entropy rate {truth['entropy rate']:.6f}, excess entropy {truth['excess entropy']:.6f} nats")
    for kind in next(iter(seeds[0]["deployed"].values()), {}):
        cells = [_cell([one["deployed"][name][kind] for one in seeds]) for name in seeds[0]["deployed"]]
        if kind == "entropy":
            over = "".join(f"{name:>{wide}s}" for name in seeds[0]["deployed"])
            lines.append(f"{names[0] + ', deployed':32s}{over}")
        lines.append(f"  {kind:30s}" + "".join(f"{cell:>{wide}s}" for cell in cells))
    lines.append(f"look at    {folder / 'memory.png'}, then influence, cost and flops.png and {NUMBERS} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def _over(values: list[float | None]) -> dict[str, Any]:
    return {"mean": None} if None in values else interval(values)


def _mean_of(moved: Mapping[str, float]) -> list[float]:
    return [moved["mean"], moved["error"]]


def _quadratic(cost: Mapping[str, Any]) -> float:
    """What the part of the fit that grows with the square of the length takes of the time at the longest."""
    constant, linear, quadratic = (c * cost["length"] ** power for power, c in enumerate(cost["fit"]))
    return quadratic / max(constant + linear + quadratic, 1e-30)


def _cell(values: list[list[float | None]]) -> str:
    means = [value[0] for value in values]
    if None in means:
        return NOTHING
    if len(means) > 1:
        found = interval(means)
        half = (found["interval_95"][1] - found["interval_95"][0]) / 2
        return f"{found['mean']:.4f} ± {half:.4f}"
    error = values[0][1]
    return f"{means[0]:.4f} ({error:.4f})" if error else f"{means[0]:.4f}"


def _plain(value: Any) -> Any:
    """Numbers as JSON holds them: NaN and infinities as None, keys as words."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
