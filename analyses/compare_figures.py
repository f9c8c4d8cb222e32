"""The figures of a comparison of kernels, drawn from its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nextlens.analyses.displays import style
from nextlens.analyses.displays.costs import CostsDisplay
from nextlens.analyses.displays.curves import CurvesDisplay

#: Smaller gains are rounding, and are drawn here.
LEAST = 1e-7


def draw(numbers: Mapping[str, Any], folder: Path) -> None:
    """``memory``, ``influence``, ``cost`` and, of kernels that multiply matrices, ``flops`` in ``folder``."""
    drawn = {"memory": memory(numbers), "influence": influence(numbers), "cost": cost(numbers), "flops": flops(numbers)}
    for name, display in drawn.items():
        if display is not None:
            style.save(display.figure_, folder / name)


def memory(numbers: Mapping[str, Any]) -> CurvesDisplay:
    """What each kernel gains by seeing more than its last k tokens; a straight line on this axis is a finite memory."""
    found = numbers["seeds"][0]["kernels"]
    if numbers["seeds"][0]["truth"]:
        along = list(range(len(next(iter(found.values()))["memory"])))
        values = {name: np.maximum(one["memory"], LEAST) for name, one in found.items()}
        floor = {"rounding": LEAST} if any((one <= LEAST).any() for one in values.values()) else {}
        return CurvesDisplay(
            along=along,
            values=values,
            references=floor,
            xlabel="last tokens seen, k",
            ylabel="g_k, nats",
            yscale="log",
            caption=f"own use of context, all words of {numbers['recipe']['words']} tokens of {numbers['on']}",
        ).plot()
    along = [int(k) for k in next(iter(found.values()))["memory"]]
    values = {name: np.array([more for more, _ in one["memory"].values()], dtype=float) for name, one in found.items()}
    return CurvesDisplay(
        along=along,
        values=values,
        references={"nothing lost": 0.0},
        xlabel="last tokens seen, k",
        ylabel="loss more than with all, nats",
        xscale="log",
        caption=f"last positions of sequences of {numbers['on']}; tokens of each model's own vocabulary",
    ).plot()


def influence(numbers: Mapping[str, Any]) -> CurvesDisplay:
    """How far another token k back moves the next law."""
    found = numbers["seeds"][0]["kernels"]
    exact = bool(numbers["seeds"][0]["truth"])
    first = next(iter(found.values()))
    along = list(range(1, 1 + len(first["influence_mean"]))) if exact else [int(lag) for lag in first["influence"]]
    means = {
        name: one["influence_mean"] if exact else [moved["mean"] for moved in one["influence"].values()]
        for name, one in found.items()
    }
    values = {name: np.maximum(one, LEAST) for name, one in means.items()}
    floor = {"rounding": LEAST} if any((one <= LEAST).any() for one in values.values()) else {}
    how = "over all words" if exact else "sampled"
    return CurvesDisplay(
        along=along,
        values=values,
        references=floor,
        xlabel="token replaced, k back",
        ylabel="total variation, mean",
        yscale="log",
        xscale="linear" if exact else "log",
        caption=f"{how}, {numbers['on']}",
    ).plot()


def cost(numbers: Mapping[str, Any]) -> CostsDisplay | None:
    """How wrong each kernel is, against the CPU seconds of a token; None if none is measurably wrong."""
    exact = bool(numbers["seeds"][0]["truth"])
    measure, said = ("divergence", "KL rate to the process, nats") if exact else ("bits per byte", "bits a byte")
    values = {
        name: [(1e6 * one["cost"]["seconds_per_token"], one["measures"][measure][0])]
        for name, one in numbers["seeds"][0]["kernels"].items()
        if (one["measures"][measure][0] or 0.0) > LEAST
    }
    length = next(iter(numbers["seeds"][0]["kernels"].values()))["cost"]["length"]
    if not values:
        return None
    return CostsDisplay(
        values=values,
        xlabel="CPU microseconds a token",
        ylabel=said,
        caption=f"{length} tokens read at once, {numbers['on']}; a kernel that is not wrong has no mark",
    ).plot()


def flops(numbers: Mapping[str, Any]) -> CostsDisplay | None:
    """How wrong each kernel is with its last k tokens, against the flops of reading them; None without any flops."""
    exact = bool(numbers["seeds"][0]["truth"])
    values, words = {}, {}
    for name, one in numbers["seeds"][0]["kernels"].items():
        wrong = _wrong_by_context(one, exact)
        spent = {int(k): float(flops) for k, flops in one["cost"]["flops_by_context"].items() if flops is not None}
        drawn = [k for k in spent if wrong.get(k, 0.0) > LEAST]
        if drawn:
            values[name], words[name] = [(spent[k], wrong[k]) for k in drawn], [str(k) for k in drawn]
    if not values:
        return None
    return CostsDisplay(
        values=values,
        words=words,
        xlabel="flops of one prediction",
        ylabel="KL to the process, nats" if exact else "bits a byte",
        caption=f"beside each mark the last tokens read, {numbers['on']}",
    ).plot()


def _wrong_by_context(one: Mapping[str, Any], exact: bool) -> dict[int, float]:
    """Nats from the truth, or bits a byte, of the kernel that reads the last k tokens."""
    if exact:
        return dict(enumerate(one["error_by_context"], start=1))
    whole, bits = one["last"]["loss"][0], one["last"]["bits"]
    found = {int(k): more for k, (more, _) in one["memory"].items() if more is not None}
    return {} if whole is None else {k: (whole + more) * bits / whole for k, more in found.items()}
