"""An encoding run in numbers, each beside its null, its control and its ceiling; and in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nextlens.analyses.encoding import JOINT, RATE, Scored, differences, pairs_of
from nextlens.analyses.encoding_data import Subject
from nextlens.analyses.encoding_recipe import EncodingRecipe
from nextlens.analyses.encoding_result import SCORES
from nextlens.analyses.encoding_spaces import Spaces
from nextlens.analyses.intervals import interval
from nextlens.analyses.results_folder import versions

#: Targets that are listed one by one, at most.
FEW = 12

PROTOCOL = (
    "r: Pearson's, of each target over all tested rows together; mean: over targets that are finite and vary in every "
    "story. Every space stands beside word rate. Nulls: predictions {null}, all targets alike, {draws} draws; p of the "
    "mean is of the null of the mean; q: Benjamini and Hochberg over targets. Control: what time alone scores through "
    "the same splits, the best of its widths. Differences: 95 % of blocks of 20 volumes drawn anew inside stories, "
    "paired. The site that joins the others has the largest R² on folds of training stories"
)


def of_subject(subject: Subject, spaces: Spaces, found: Scored, recipe: EncodingRecipe) -> dict[str, Any]:
    """All numbers of one subject, JSON-able."""
    whole = found.models[RATE]
    tested = whole.story.values.tolist()
    story = subject.heard.response.story.values
    pairs = differences(found.models, pairs_of(found, recipe), recipe)
    return {
        "data": dict(subject.heard.facts) | {"fingerprint": subject.heard.fingerprint},
        "stories": len(subject.heard.stories),
        "rows": len(story),
        "tested": [str(name) for name in tested],
        "rows_tested": int(whole.sizes["row"]),
        "targets": {name: whole.attrs[f"n_{name.replace(' ', '_')}"] for name in ("kept", "constant", "not finite")},
        "control": whole.attrs["control"],
        "ceiling": subject.ceiling if isinstance(subject.ceiling, str) else whole.attrs["ceiling"],
        "on_cortex": subject.cortex,
        "words": dict(spaces.facts) | {"words": int(subject.heard.words.sizes["word"])},
        "models": {name: model_numbers(one) for name, one in found.models.items()},
        "sites": list(found.sites),
        "best_site_on_training_stories": found.best_site,
        "differences": [{"one": one, "other": other, **numbers} for (one, other), numbers in pairs.items()],
    }


def model_numbers(found: xr.Dataset) -> dict[str, Any]:
    """One model's scores, beside what each is worth."""
    kept = (found.state == "kept").values
    r, control = found.r.values[kept], found.control_r.values[:, kept].max(0)
    ceiling = found.ceiling.values[kept]
    known = np.isfinite(ceiling)
    row: dict[str, Any] = {
        "mean_r": float(found.mean_r),
        "mean_null_95": float(found.mean_null_q95),
        "mean_p": float(found.mean_p),
        "least_p": float(found.least_p),
        "best_r": float(r.max()),
        "targets_q_05": int((found.q.values[kept] < 0.05).sum()),
        "targets": int(kept.sum()),
        "mean_control_r": float(control.mean()),
        "targets_control_exceeds_null": int(found.control_exceeds.values[kept].sum()),
        "mean_ceiling": float(ceiling[known].mean()) if known.any() else None,
        "mean_r_over_ceiling": float((r[known] / ceiling[known]).mean()) if known.any() else None,
        "targets_without_ceiling": int((~known).sum()),
        "mean_r_by_story": {
            str(name): float(one.mean())
            for name, one in zip(found.story.values, found.r_story.values[:, kept], strict=True)
        },
        "validation_r2": float(np.nanmean(found.validation_r2)),
        "share_of_penalties_at_an_end": found.attrs["best_at_edge"],
        "model": found.attrs["model"],
        "cv": found.attrs["cv"],
    }
    if "band_r" in found:
        row["bands"] = {
            str(band): {
                "r": float(np.nanmean(found.band_r.sel(band=band))),
                "r2": float(np.nanmean(found.band_r2.sel(band=band))),
            }
            for band in found.band.values
        }
    if "planted" in found.coords:
        groups = found.planted.values[kept]
        row["planted"] = {str(kind): float(r[groups == kind].mean()) for kind in dict.fromkeys(groups.tolist())}
    if kept.sum() <= FEW:
        row["each"] = _each(found, kept)
    return row


def _each(found: xr.Dataset, kept: np.ndarray) -> list[dict[str, Any]]:
    names = found.target.values if "target" in found.coords else np.arange(len(kept))
    control = found.control_r.values.max(0)
    return [
        {
            "target": str(names[at]),
            **{name: float(found[name].values[at]) for name in ("r", "p", "q", "null_q95")},
            "ceiling": float(found.ceiling.values[at]) if np.isfinite(found.ceiling.values[at]) else None,
            "control_r": float(control[at]),
        }
        for at in np.flatnonzero(kept)
    ]


def sum_up(recipe: EncodingRecipe, subjects: Mapping[str, Any], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Every number with its protocol, and the command that repeats it; means over subjects where there are several."""
    models = [name for name in next(iter(subjects.values()))["models"] if not name.startswith("joint without")]
    several = {
        name: interval([one["models"][name]["mean_r"] for one in subjects.values()])
        for name in models
        if all(name in one["models"] for one in subjects.values())
    }
    return {
        "protocol": PROTOCOL.format(
            null="rolled inside stories" if recipe.null == "rolling" else "with blocks permuted inside stories",
            draws=recipe.draws,
        ),
        "subjects": dict(subjects),
        "over_subjects": several,
        "seconds": dict(seconds),
        "versions": versions("numpy", "scipy", "scikit-learn", "xarray"),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
    }


def summary(recipe: EncodingRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """Every model of every subject on a line: its score, null, control and ceiling."""
    lines = []
    for name, one in numbers["subjects"].items():
        lines += [*_heading(name, one), *_table(one)]
        for gap in one["differences"]:
            low, high = gap["interval_95"]
            said = f"{gap['difference']:+.4f} [{low:+.4f}, {high:+.4f}] {gap['verdict']}"
            lines.append(f"  {gap['one']} less {gap['other']}: {said}")
    lines.append(f"look at    {folder / 'scores.png'}, then the other figures and {SCORES} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def _heading(name: str, one: Mapping[str, Any]) -> list[str]:
    targets, least = one["targets"], max(row["least_p"] for row in one["models"].values())
    odd = targets["constant"] + targets["not finite"]
    return [
        f"{one['data'].get('name', name)} ({name}): {one['rows_tested']} of {one['rows']} rows tested, "
        f"{targets['kept']} targets{f', {odd} left out (constant or not finite)' if odd else ''}; p is never below "
        f"{least:.4f}",
        f"  ceiling: {one['ceiling']}; time alone: {one['control']}; on cortex: {one['on_cortex']}",
    ]


def _table(one: Mapping[str, Any]) -> list[str]:
    width = max(map(len, one["models"]))
    lines = [f"  {'':{width}s}  mean r  null 95 %       p  q < .05  time alone  ceiling  r/ceiling"]
    for name, row in one["models"].items():
        ceiling = "      -          -"
        if row["mean_ceiling"] is not None:
            ceiling = f"{row['mean_ceiling']:7.3f}  {row['mean_r_over_ceiling']:9.3f}"
        lines.append(
            f"  {name:{width}s}  {row['mean_r']:6.3f}  {row['mean_null_95']:9.3f}  {row['mean_p']:6.4f}  "
            f"{row['targets_q_05']:3d}/{row['targets']:<4d} {row['mean_control_r']:10.3f}  {ceiling}"
        )
    for name, row in one["models"].items():
        if "planted" in row and name in (RATE, "vectors", "surprisal", JOINT):
            said = ", ".join(f"{kind} {r:.2f}" for kind, r in row["planted"].items())
            lines.append(f"  {name:{width}s}  by what was planted: {said}")
        if "each" in row and name in (RATE, "vectors", JOINT):
            said = ", ".join(f"{t['target']} {t['r']:.2f}" for t in row["each"])
            lines.append(f"  {name:{width}s}  r of each: {said}")
        if "bands" in row and name == JOINT:
            said = ", ".join(f"{band} {share['r']:.3f}" for band, share in row["bands"].items())
            lines.append(f"  {name:{width}s}  its r by band: {said}")
    return lines
