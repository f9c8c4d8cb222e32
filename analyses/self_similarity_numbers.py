"""A run on self-similarity in numbers, each with its protocol, nulls and interval, and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nextlens.analyses.intervals import interval
from nextlens.analyses.results_folder import NUMBERS, versions
from nextlens.analyses.self_similarity import MEANING, SERIES, SelfSimilarity, as_numbers
from nextlens.analyses.self_similarity_recipe import SelfSimilarityRecipe
from nextlens.probes.fractal.verdict import LIMITS, OUTCOMES

PROTOCOL = (
    "bits; each document in one window unless the reading says otherwise; the mean of each position taken out, one "
    "scale for all; exponents fitted once to what is pooled over documents; 95 % intervals by documents drawn anew; "
    "shuffled: the mean of the same on values in random order within each document; phases: on series of the same "
    "spectrum and random phases. The verdict is the gated rule's"
)
#: The exponents printed in the summary.
SHOWN = ("H, R/S", "H, Whittle T^0.5", "J", "S")


def sum_up(
    recipe: SelfSimilarityRecipe,
    found: Mapping[tuple[str, int], SelfSimilarity],
    notes: Mapping[tuple[str, int], Mapping[str, Any]],
    ablation: Mapping[tuple[str, int], xr.Dataset],
    known: Mapping[str, list[dict[str, Any]]],
    curves: Mapping[str, Any],
) -> dict[str, Any]:
    """Every number with its protocol, and the command that repeats it."""
    sources: dict[str, dict[str, Any]] = {}
    for (source, seed), one in found.items():
        sources.setdefault(source, {})[str(seed)] = {**as_numbers(one), **notes[source, seed]}
    return {
        "protocol": PROTOCOL,
        "outcomes": OUTCOMES,
        "limits": LIMITS,
        "series": MEANING,
        "sources": sources,
        "over_seeds": {
            source: {
                series: interval([one["exponents"][series]["H, Whittle T^0.5"]["value"] for one in by_seed.values()])
                for series in SERIES
                if all(series in one["exponents"] for one in by_seed.values())
            }
            for source, by_seed in sources.items()
        },
        "known": {name: list(rows) for name, rows in known.items()},
        "context": _contexts(ablation),
        "curves": dict(curves),
        "seeds": list(recipe.seeds),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy", "scipy"),
    }


def summary(recipe: SelfSimilarityRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """What is concluded of each source, from which exponents beside which nulls, and how it is repeated."""
    first = next(iter(next(iter(numbers["sources"].values())).values()))
    lines = [
        f"fractal: {recipe.documents} documents of {recipe.length:,} positions, {recipe.skip} skipped; "
        f"{first['reading']}; seeds {', '.join(map(str, recipe.seeds))}"
    ]
    width = max(len(source) for source in numbers["sources"]) + 2
    header = "".join(f"{name.replace('H, ', ''):>19s}" for name in SHOWN)
    lines.append(f"{'value (shuffled)':{width}s}     bits{header}  verdict")
    for source, by_seed in numbers["sources"].items():
        for series in SERIES:
            some = [one for one in by_seed.values() if series in one["exponents"]]
            name = source if series == "z" else f"  {series}"
            bits = np.mean([one["mean_bits"][series] for one in by_seed.values()])
            if not some:
                lines.append(f"{name:{width}s} {bits:8.3f}  refused: constant")
                continue
            cells = "".join(f"{_cell([one['exponents'][series][kind] for one in some]):>19s}" for kind in SHOWN)
            said = said_of([one["verdicts"][series] for one in some])
            lines.append(f"{name:{width}s} {bits:8.3f}{cells}  {said}")
        z = next(iter(by_seed.values()))["exponents"].get("z", {}).get("H, Whittle T^0.5", {})
        if z.get("text_low") is not None:
            lines.append(
                f"{'':{width}s}  z, Whittle T^0.5: [{z['low']:.3f}, {z['high']:.3f}] with documents drawn anew, "
                f"[{z['text_low']:.3f}, {z['text_high']:.3f}] with whole texts left out"
            )
        first = next(iter(by_seed.values()))
        for name, (value, low, high) in first["apart"].items():
            lines.append(f"{'':{width}s}  {name}, Whittle T^0.5, paired: {value:+.3f} [{_end(low)}, {_end(high)}]")
        if first["published"]:
            cells = [f"{name} {one['value']:.3f} ({_end(one['shuffled'])})" for name, one in first["published"].items()]
            lines.append(f"{'':{width}s}  as published (shuffled): {', '.join(cells)}")
        some = [one["m"] for one in by_seed.values()]
        lag = np.mean([one["autocorrelation"]["1"] for one in some])
        perbyte = [one["bits_per_byte"] for one in by_seed.values() if one["bits_per_byte"]]
        lines.append(
            f"{'':{width}s}  m: autocorrelation at lag 1 {lag:+.3f} "
            f"(± {some[0]['autocorrelation_sd']['1']:.3f} if white)"
            + (f"; {np.mean(perbyte):.3f} bits a byte" if perbyte else "")
        )
    if numbers["known"]:
        lines.append("series of known memory at this size: true H, R/S of the published kind, verdicts")
        for name, rows in numbers["known"].items():
            outcomes = Counter(row["verdict"] for row in rows)
            rescaled = np.mean([row["rescaled range"] for row in rows])
            said = ", ".join(f"{outcome} {n}/{len(rows)}" for outcome, n in outcomes.items())
            lines.append(f"  {name:28s} H {rows[0]['H']:.2f}   R/S {rescaled:.3f}   {said}")
    for source, by_seed in numbers["context"].items():
        one = next(iter(by_seed.values()))
        lines.append(f"what {source} sees before each token: bits, R/S, local Whittle, verdict")
        for i, k in enumerate(one["context"]):
            lines.append(
                f"  {k or 'all':>6}  {one['mean'][i]:.3f}  {one['rescaled'][i]:.3f}  "
                f"{one['whittle'][i]:.3f} [{one['low'][i]:.3f}, {one['high'][i]:.3f}]  {one['verdict'][i]}"
                + (
                    f"; all less this {one['less'][i]:+.3f} [{one['less_low'][i]:+.3f}, {one['less_high'][i]:+.3f}]"
                    if k
                    else ""
                )
            )
    lines.append(LIMITS)
    lines.append(f"look at    {folder / 'scaling.png'}, then exponents.png and {NUMBERS} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def said_of(verdicts: list[Mapping[str, Any]]) -> str:
    """Outcomes; of a single seed, how often two relaxation times would pass where the rule had to ask."""
    if len(verdicts) == 1:
        mistaken = verdicts[0].get("mistaken")
        rivals = "" if mistaken is None else f" (two relaxation times pass in {mistaken:.0%})"
        other = verdicts[0].get("by_amplitude", verdicts[0]["outcome"])
        amplitude = "" if other == verdicts[0]["outcome"] else f"; {other} with trends removed by amplitude"
        return f"{verdicts[0]['outcome']}{rivals}{amplitude}"
    outcomes = Counter(one["outcome"] for one in verdicts)
    return ", ".join(f"{outcome} {n}/{len(verdicts)}" for outcome, n in outcomes.items())


def _end(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _cell(rows: list[Mapping[str, float | None]]) -> str:
    values = [row["value"] for row in rows if row["value"] is not None]
    nulls = [row["shuffled"] for row in rows if row["shuffled"] is not None]
    return f"{np.mean(values):.3f} ({np.mean(nulls):.3f})" if values else "refused"


def _contexts(ablation: Mapping[tuple[str, int], xr.Dataset]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for (source, seed), data in ablation.items():
        found.setdefault(source, {})[str(seed)] = {
            "context": data.context.values.tolist(),
            "strides": data.attrs["strides"],
            **{name: data[name].values.tolist() for name in data.data_vars},
        }
    return found
