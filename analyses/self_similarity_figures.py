"""The figures of a run on self-similarity, drawn from its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nextlens.analyses.displays import style
from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.displays.exponents import ExponentsDisplay
from nextlens.analyses.displays.scaling import ScalingDisplay
from nextlens.analyses.self_similarity import MEANING, SERIES

#: What the series are called in a legend.
NAMES = {"z": "surprisal z", "h": "entropy h", "m": "z - h"}


def draw(numbers: Mapping[str, Any], folder: Path) -> None:
    """``scaling`` (one a source), ``exponents`` and, where the context was cut, ``context``, in ``folder``."""
    for i, source in enumerate(numbers["curves"]):
        style.save(scaling(numbers, source).figure_, folder / ("scaling" if i == 0 else f"scaling-{i + 1}"))
    style.save(exponents(numbers).figure_, folder / "exponents")
    for i, source in enumerate(numbers["context"]):
        style.save(contexts(numbers, source).figure_, folder / ("context" if i == 0 else f"context-{i + 1}"))


def scaling(numbers: Mapping[str, Any], source: str) -> ScalingDisplay:
    """R/S, its slopes, and the sweep of one source."""
    seed = str(numbers["seeds"][0])
    found = numbers["sources"][source][seed]
    verdicts = ", ".join(f"{name} {one['outcome']}" for name, one in found["verdicts"].items())
    return ScalingDisplay(
        curves=numbers["curves"][source],
        names=NAMES,
        caption=f"{source}, seed {seed}: {verdicts}. {_size(found)}; the mean of each position is taken out. "
        "Bars: jackknife over documents.",
    ).plot()


def exponents(numbers: Mapping[str, Any]) -> ExponentsDisplay:
    """Local Whittle at T^.5 of every source, first seed, with the verdict on z."""
    seed = str(numbers["seeds"][0])
    values, words = {}, {}
    for source, by_seed in numbers["sources"].items():
        found = by_seed[seed]
        rows = {name: found["exponents"][name]["H, Whittle T^0.5"] for name in SERIES if name in found["exponents"]}
        values[source] = {
            NAMES[name]: [one["value"], one["low"], one["high"], one["shuffled"]] for name, one in rows.items()
        }
        words[source] = found["verdicts"]["z"]["outcome"] if "z" in found["verdicts"] else "refused"
    return ExponentsDisplay(
        values=values,
        words=words,
        caption=f"at the right the verdict on z; h: {MEANING['h']}; m: {MEANING['m']}. "
        f"95 %, documents drawn anew; {_size(found)}; seed {seed}",
    ).plot()


def contexts(numbers: Mapping[str, Any], source: str) -> CurvesDisplay:
    """The memory of surprisal by what the model sees."""
    found = numbers["context"][source][str(numbers["seeds"][0])]
    return CurvesDisplay(
        along=[str(k) for k in found["context"][:-1]] + ["all"],
        values={"H, local Whittle": found["whittle"], "H, R/S": found["rescaled"]},
        intervals={"H, local Whittle": np.array([found["low"], found["high"]])},
        references={"R/S, shuffled": found["rescaled_shuffled"], "Whittle, shuffled": found["whittle_shuffled"]},
        xlabel="tokens seen before each",
        ylabel="H of surprisal",
        caption=f"{source}; band: jackknife over documents",
    ).plot()


def _size(found: Mapping[str, Any]) -> str:
    one = next(iter(found["verdicts"].values()))
    return f"{one['documents']} documents of {one['length']:,} positions"
