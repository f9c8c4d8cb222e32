"""The figures of a comparison of kernels, drawn from its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nextlens.analyses.displays import style
from nextlens.analyses.displays.curves import CurvesDisplay

#: Smaller gains are rounding, and are drawn here.
LEAST = 1e-7


def draw(numbers: Mapping[str, Any], folder: Path) -> None:
    """``memory`` and ``influence`` in ``folder``."""
    style.save(memory(numbers).figure_, folder / "memory")
    style.save(influence(numbers).figure_, folder / "influence")


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
    values = {name: np.array(list(one["memory"].values())) for name, one in found.items()}
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
    along = list(range(1, 1 + len(first["influence_mean"]))) if exact else first["lags"]
    values = {name: np.maximum(one["influence_mean"], LEAST) for name, one in found.items()}
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
