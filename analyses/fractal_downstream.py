"""Do fractal exponents of models say how well they score? Any table of models, beside what was published."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from nextlens.probes.fractal import downstream

#: Columns of a table that are no score.
COLUMNS = ("model", "family", "bpb", "hurst")
#: arXiv 2402.01825v2: medians over domains of each model.
FAMILIES = ("T5",) * 4 + ("PaLM",) * 3 + ("PaLM2",) * 5
HURST = (0.64, 0.64, 0.64, 0.64, 0.66, 0.68, 0.68, 0.66, 0.66, 0.67, 0.68, 0.69)
SELF_SIMILARITY = (0.58, 0.60, 0.60, 0.58, 0.60, 0.62, 0.64, 0.59, 0.57, 0.56, 0.59, 0.60)
JOSEPH = (0.44, 0.44, 0.44, 0.44, 0.47, 0.47, 0.48, 0.47, 0.47, 0.48, 0.48, 0.49)
#: The same: adjusted R² of bits per byte, of H, and of ``1 / BPB + H``, over these 12 models.
PUBLISHED = {
    "0S BBH": (0.785, 0.841, 0.883),
    "0S MMLU": (0.653, 0.831, 0.825),
    "3S BBH direct": (0.767, 0.895, 0.926),
    "3S BBH CoT": (0.881, 0.892, 0.979),
    "5S MMLU": (0.660, 0.853, 0.832),
    "GSM8K": (0.654, 0.867, 0.851),
    "FS average": (0.717, 0.890, 0.891),
}
UNSAID = (
    "the published table has no baseline with the reciprocal of bits per byte, nothing held out, and three families "
    "of models; a table of bits per byte and scores, model by model, can be given here"
)


class Table(NamedTuple):
    """Models, their families, bits per byte, exponents, and scores by name."""

    models: tuple[str, ...]
    family: tuple[str, ...]
    bits_per_byte: Float[np.ndarray, " model"]
    hurst: Float[np.ndarray, " model"]
    scores: dict[str, Float[np.ndarray, " model"]]


def read_table(path: str | os.PathLike[str]) -> Table:
    """A CSV file with the columns ``model``, ``family``, ``bpb``, ``hurst``, and one a score.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column is missing, there is no score, or a cell is no number; the line is named.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no table at {str(path)!r}")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        header = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = header
        rows = list(reader)
    missing = [name for name in COLUMNS if name not in header]
    targets = [name for name in header if name not in COLUMNS]
    if missing or not targets:
        what = f"lacks the column {missing[0]!r}" if missing else "has no score beside " + ", ".join(COLUMNS)
        raise ValueError(f"{str(path)!r} {what}; its columns are {', '.join(header) or 'none'}")

    def column(name: str) -> Float[np.ndarray, " model"]:
        values = []
        for i, row in enumerate(rows, start=2):
            try:
                values.append(float(row[name]))
            except (TypeError, ValueError):
                raise ValueError(f"{str(path)!r}, line {i}: {name} is {row[name]!r}; it must be a number") from None
        return np.array(values)

    return Table(
        tuple(row["model"] for row in rows),
        tuple(row["family"] for row in rows),
        column("bpb"),
        column("hurst"),
        {name: column(name) for name in targets},
    )


def predictors(table: Table, rng: np.random.Generator) -> dict[str, Any]:
    """For each score all predictors, as they fit and held out, and what H adds to ``1 / BPB`` within families."""
    found = {}
    for name, score in table.scores.items():
        fits = downstream.fits(table.bits_per_byte, table.hurst, score)
        gained = downstream.added(table.bits_per_byte, table.hurst, score, table.family, rng)
        found[name] = {"fits": {k: one._asdict() for k, one in fits.items()}, "H added to 1/BPB": gained._asdict()}
    return {
        "protocol": "least squares with an intercept; adjusted R², and R² with each model left out in turn; p: "
        "share of arrangements of H within families that add as much to 1/BPB",
        "models": list(table.models),
        "families": sorted(set(table.family)),
        "variance_of_H_between_families": downstream.between_families(table.hurst, table.family),
        "scores": found,
    }


def published() -> dict[str, Any]:
    """What was published, and what of its H lies between families."""
    return {
        "source": "arXiv 2402.01825v2",
        "adjusted_R2": {
            name: dict(zip(("BPB", "H", "1/BPB + H"), row, strict=True)) for name, row in PUBLISHED.items()
        },
        "variance_of_H_between_families": downstream.between_families(np.array(HURST), FAMILIES),
        "distinct_H_within": {
            name: len({h for h, f in zip(HURST, FAMILIES, strict=True) if f == name})
            for name in dict.fromkeys(FAMILIES)
        },
        "unsaid": UNSAID,
    }


def said(found: Mapping[str, Any]) -> str:
    """A table of predictors, or the published one, in lines."""
    share = found["variance_of_H_between_families"]
    if "adjusted_R2" in found:
        lines = [f"published, {found['source']}: adjusted R² over 12 models", f"{'':16s}    BPB      H   1/BPB + H"]
        lines += [
            f"{name:16s}  {row['BPB']:.3f}  {row['H']:.3f}       {row['1/BPB + H']:.3f}"
            for name, row in found["adjusted_R2"].items()
        ]
        kinds = ", ".join(f"{name} {n}" for name, n in found["distinct_H_within"].items())
        lines.append(
            f"of the variance of H {100 * share:.0f} % lies between families; values of H within them: {kinds}"
        )
        return "\n".join([*lines, found["unsaid"]])
    lines = [f"{len(found['models'])} models, {len(found['families'])} families; of H {100 * share:.0f} % between them"]
    for name, one in found["scores"].items():
        lines.append(f"{name:24s}  adjusted R²  left out")
        lines += [f"  {kind:22s}  {row['adjusted']:11.3f}  {row['left_out']:8.3f}" for kind, row in one["fits"].items()]
        gain = one["H added to 1/BPB"]
        lines.append(
            f"  H adds to 1/BPB {gain['adjusted']:+.3f}, left out {gain['left_out']:+.3f}; p {gain['p']:.2g} of "
            f"{gain['n_permutations']:,} arrangements within families"
        )
    return "\n".join(lines)
