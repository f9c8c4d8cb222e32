"""Recall in the brain in numbers: each configuration against controls, what would have been seen, a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nextlens.analyses.encoding import difference
from nextlens.analyses.induction_brain import BASE, CONTROLS, MATCHED, NO_MATCH, SHARED, Configuration
from nextlens.analyses.induction_brain_recipe import RecallRecipe
from nextlens.analyses.intervals import interval
from nextlens.analyses.results_folder import NUMBERS, versions
from nextlens.probes.recall import Matches

#: What was published over all voxels (arXiv 2411.00066, NeurIPS 2025 version, by third-party notes).
PUBLISHED_GAIN = 0.20
#: The share of targets that is "the top", by the base model on training stories.
TOP = 0.1

PROTOCOL = (
    "r: mean over targets of Pearson's r over all tested rows together. Base: word rate and word vectors. Each "
    "copy is a band of its own that may be left out; controls have as many matches, with the same weights and "
    "gap: lagged, the same lags dealt anew; uniform, drawn from the admissible past; permuted, those of another "
    "story. No match: nothing but where there was none. Differences: 95 % of blocks of 20 volumes drawn anew "
    "inside stories, paired. Primary: the first configuration, fixed in advance; the others are exploratory. "
    "Planted: what followed the matches, added to the real responses at that strength"
)

UNKNOWN = (
    "of the published analysis it is not known whether the response or the stimulus after the match was copied, the "
    "gap, how many matches, the matcher and window for speech, whether base and copy shared a penalty, what random "
    "matching drew from, numbers of each subject, how the top 10 % were chosen"
)


def configuration_numbers(
    how: Configuration, matches: Matches, base: xr.Dataset, found: Mapping[str, xr.Dataset], recipe: RecallRecipe
) -> dict[str, Any]:
    """One configuration: scores of the match and its controls, and their differences."""
    kept = (base.state == "kept").values
    everything = {BASE: base, **found}
    pairs = [(MATCHED, BASE), *((MATCHED, name) for name in CONTROLS), ("lagged", BASE), (NO_MATCH, BASE)]
    pairs += [(MATCHED + SHARED, "lagged" + SHARED), (MATCHED + SHARED, BASE)]
    gaps = [{"one": a, "other": b, **difference(everything[a], everything[b], recipe)} for a, b in pairs]
    validated = {name: np.nanmean(one.validation_r2.values, axis=0) for name, one in everything.items()}
    top = np.argsort(-np.nan_to_num(validated[BASE], nan=-np.inf))[: max(1, int(TOP * kept.sum()))]
    luckiest = np.argsort(-np.nan_to_num(base.r.values, nan=-np.inf))[: len(top)]
    row: dict[str, Any] = {
        "matcher": how.matcher,
        "value": how.value,
        "gap": how.gap,
        "share_of_rows_matched": matches.share,
        "median_lag": float(np.median(matches.lags)) if len(matches.lags) else None,
        "r": {name: float(one.mean_r) for name, one in everything.items()},
        "null_95": {name: float(one.mean_null_q95) for name, one in everything.items()},
        "r_top_tenth_by_training": {name: float(one.r.values[top].mean()) for name, one in everything.items()},
        "r_top_tenth_by_test": {name: float(one.r.values[luckiest].mean()) for name, one in everything.items()},
        "validation_gain": {
            name: float(np.nanmean(validated[name] - validated[BASE])) for name in (MATCHED, *CONTROLS)
        },
        "targets_using_it": {
            name: float(np.nanmean(validated[name] > validated[BASE] + 1e-12)) for name in (MATCHED, *CONTROLS)
        },
        "gain_over_base": float((found[MATCHED].mean_r - base.mean_r) / base.mean_r),
        "differences": gaps,
    }
    if "planted" in base.coords:
        groups = base.planted.values[kept]
        gain = (found[MATCHED].r - found["lagged"].r).values[kept]
        row["planted"] = {str(kind): float(gain[groups == kind].mean()) for kind in dict.fromkeys(groups.tolist())}
    return row


def planted_numbers(strength: float, found: Mapping[str, xr.Dataset], recipe: RecallRecipe) -> dict[str, Any]:
    """What an effect of that strength gives."""
    return {"strength": strength, **difference(found[MATCHED], found["lagged"], recipe)}


def gap_between(row: Mapping[str, Any], one: str, other: str) -> Mapping[str, Any]:
    """One of the differences of a configuration."""
    return next(gap for gap in row["differences"] if gap["one"] == one and gap["other"] == other)


def verdict(row: Mapping[str, Any], planted: list[Mapping[str, Any]]) -> str:
    """What the primary configuration says of the published gain, in one of four ways.

    ``replicated``: matched above lagged, and a gain as large as published is not excluded. ``smaller``: above, and it
    is excluded. ``not replicated``: not above, that gain is excluded, and a planted effect was seen. ``not
    decidable``: anything else.
    """
    gap = gap_between(row, MATCHED, "lagged")
    low, high = gap["interval_95"]
    published = PUBLISHED_GAIN * row["r"][BASE]
    if low > 0:
        return "replicated" if high >= published else "smaller"
    seen = any(one["interval_95"][0] > 0 for one in planted)
    return "not replicated" if high < published and seen else "not decidable"


def sum_up(recipe: RecallRecipe, subjects: Mapping[str, Any], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Every number with its protocol, and the command that repeats it; means over subjects where there are several."""
    count = len(next(iter(subjects.values()))["configurations"])
    over = []
    for number in range(count):
        rows = [one["configurations"][number] for one in subjects.values()]
        named = {name: rows[0][name] for name in ("matcher", "value", "gap")}
        for other in (BASE, "lagged"):
            named[f"matched less {other}"] = interval([gap_between(row, MATCHED, other)["difference"] for row in rows])
        if "planted" in rows[0]:
            named["planted"] = {kind: interval([row["planted"][kind] for row in rows]) for kind in rows[0]["planted"]}
        over.append(named)
    return {
        "protocol": PROTOCOL,
        "not_known": UNKNOWN,
        "subjects": dict(subjects),
        "over_subjects": over,
        "seconds": dict(seconds),
        "versions": versions("numpy", "scipy", "scikit-learn", "xarray"),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
    }


def summary(recipe: RecallRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """Every configuration on a line: base, match and controls, and whether the match beats the lagged one."""
    lines = []
    for name, one in numbers["subjects"].items():
        lines += _subject(name, one)
    for row in numbers["over_subjects"]:
        if len(numbers["subjects"]) > 1 and "planted" in row:
            said = ", ".join(f"{kind} {_spread(one)}" for kind, one in row["planted"].items())
            lines.append(f"{_named(row)}: matched less lagged over {len(numbers['subjects'])} listeners: {said}")
    lines.append(f"not known: {UNKNOWN}")
    lines.append(f"look at    {folder / 'recall.png'}, then planted.png, moments.json and {NUMBERS} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def _subject(name: str, one: Mapping[str, Any]) -> list[str]:
    rows = one["configurations"]
    width = max(len(_named(row)) for row in rows)
    lines = [
        f"{one['data'].get('name', name)} ({name}): {one['rows_tested']} of {one['rows']} rows tested, base r "
        f"{rows[0]['r'][BASE]:.4f}; verdict on the first line below: {one['verdict']}",
        f"  {'':{width}s}  matched  lagged  uniform permuted no match | matched less lagged          less base | rows "
        "matched",
    ]
    for row in rows:
        r = row["r"]
        gap, over = (gap_between(row, MATCHED, other) for other in ("lagged", BASE))
        low, high = gap["interval_95"]
        lines.append(
            f"  {_named(row):{width}s}   "
            f"{r[MATCHED]:.4f}  {r['lagged']:.4f}   {r['uniform']:.4f}   {r['permuted']:.4f}   {r[NO_MATCH]:.4f} | "
            f"{gap['difference']:+.4f} [{low:+.4f}, {high:+.4f}] {over['difference']:+.4f} | "
            f"{row['share_of_rows_matched']:.2f}"
        )
        if "planted" in row:
            said = ", ".join(f"{kind} {gain:+.3f}" for kind, gain in row["planted"].items())
            lines.append(f"  {'':{width}s}   matched less lagged by what was planted: {said}")
    for planted in one["planted"]:
        low, high = planted["interval_95"]
        said = f"{planted['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
        lines.append(f"  planted at {planted['strength']:g}: matched less lagged {said}")
    for matcher, found in one["distilled"].items():
        before, after = (found[when]["rank_correlation"] for when in ("before", "after"))
        nearest = found["after"]["recall_at_1"]
        lines.append(
            f"  {matcher}: rank correlation with laws {before:.2f} to {after:.2f}, nearest found {nearest:.2f}"
        )
    return lines


def _spread(one: Mapping[str, Any]) -> str:
    low, high = one["interval_95"]
    return f"{one['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['matcher']}, {row['value']}, gap {row['gap']}"
