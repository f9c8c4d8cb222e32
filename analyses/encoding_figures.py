"""The figures of an encoding run: targets, layers, bands, and the cortex where it is known what a target is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from nextlens.analyses.displays import style
from nextlens.analyses.displays.cortex import CortexDisplay
from nextlens.analyses.displays.layer_profile import LayerProfileDisplay
from nextlens.analyses.displays.partition import PartitionDisplay
from nextlens.analyses.displays.target_scores import TargetScoresDisplay
from nextlens.analyses.encoding import JOINT, RATE, WITHOUT, Scored
from nextlens.analyses.encoding_data import VERTICES, Subject


def draw(numbers: Mapping[str, Any], scores: Mapping[str, Mapping[str, xr.Dataset]], folder: Path) -> None:
    """``scores``, of the first subject; ``layers`` and ``partition`` of all, where there are any."""
    first = next(iter(scores))
    _keep(targets(numbers["subjects"][first], scores[first]), folder / "scores")
    if numbers["subjects"][first]["sites"]:
        _keep(layers(numbers), folder / "layers")
    if JOINT in scores[first]:
        _keep(partition(numbers), folder / "partition")


def targets(one: Mapping[str, Any], models: Mapping[str, xr.Dataset]) -> TargetScoresDisplay:
    """Every target of one subject: all spaces together, vectors, the best site, word rate."""
    best = one["best_site_on_training_stories"]
    shown = [name for name in (JOINT, best, "vectors", RATE) if name in models]
    shown = shown or list(models)
    first = models[shown[0]]
    kept = (first.state == "kept").values
    names = first.target.values if "target" in first.coords else first.get("planted", first.state).values
    return TargetScoresDisplay(
        scores={name: models[name].r.values[kept] for name in shown},
        null=first.null_q95.values[kept],
        ceiling=first.ceiling.values[kept],
        names=[str(name) for name in names[kept]],
        caption=f"{one['data'].get('name', '')}; {one['rows_tested']} rows held out; ceiling: {one['ceiling']}",
    ).plot()


def layers(numbers: Mapping[str, Any]) -> LayerProfileDisplay:
    """Every site of every subject, beside vectors."""
    subjects = numbers["subjects"]
    sites = next(iter(subjects.values()))["sites"]
    base = "vectors" if all("vectors" in one["models"] for one in subjects.values()) else RATE
    gaps = {
        name: {gap["one"]: gap["interval_95"] for gap in one["differences"] if gap["other"] == base}
        for name, one in subjects.items()
    }
    return LayerProfileDisplay(
        sites=sites,
        scores={name: [one["models"][site]["mean_r"] for site in sites] for name, one in subjects.items()},
        baseline={name: one["models"][base]["mean_r"] for name, one in subjects.items()},
        intervals={name: np.array([found[site] for site in sites]).T for name, found in gaps.items()},
        null={name: max(one["models"][site]["mean_null_95"] for site in sites) for name, one in subjects.items()},
        chosen={name: one["best_site_on_training_stories"] for name, one in subjects.items()},
        baseline_name=f"{base} and rate" if base != RATE else base,
        caption=f"bars: 95 % of the difference from {base}, blocks drawn anew; ring: best on training stories",
    ).plot()


def partition(numbers: Mapping[str, Any]) -> PartitionDisplay:
    """What each space gives to all together."""
    subjects = numbers["subjects"]
    named = {name: one["best_site_on_training_stories"] for name, one in subjects.items()}

    def plain(subject: str, band: str) -> str:
        return "states, chosen site" if band and band == named[subject] else band

    bands = list(
        dict.fromkeys(plain(name, band) for name, one in subjects.items() for band in one["models"][JOINT]["bands"])
    )
    shares = {
        name: [
            next(
                (share["r"] for band, share in one["models"][JOINT]["bands"].items() if plain(name, band) == wanted),
                0.0,
            )
            for wanted in bands
        ]
        for name, one in subjects.items()
    }
    lost = {
        name: {
            plain(name, gap["other"].removeprefix(WITHOUT)): (gap["difference"], *gap["interval_95"])
            for gap in one["differences"]
            if gap["one"] == JOINT
        }
        for name, one in subjects.items()
    }
    return PartitionDisplay(
        bands=bands, shares=shares, lost=lost, caption="mean over targets; word rate stands in every model"
    ).plot()


def draw_cortex(subject: Subject, found: Scored, folder: Path) -> bool:
    """``cortex-SUBJECT-VIEW`` of the fullest model, where it is known what a target is; whether it is."""
    name = JOINT if JOINT in found.models else list(found.models)[-1]
    scores = found.models[name]
    shown, least = int((scores.q < 0.05).sum()), float(scores.least_p)
    what = "r on held-out rows where q < .05" if shown else f"no target has q < .05; p is never below {least:.2g}"
    given = {"caption": f"{subject.heard.facts.get('name', subject.name)}, {name}: {what}"}
    if subject.cortex == "fsaverage5":
        halves = {"left": slice(0, VERTICES), "right": slice(VERTICES, None)}
        given |= {side: scores.r.values[at] for side, at in halves.items()}
        given |= {f"q_{side}": scores.q.values[at] for side, at in halves.items()}
        displays = [CortexDisplay(view=view, **given) for view in ("flat", "lateral")]
    elif subject.cortex == "volume" and hasattr(subject.masker, "inverse_transform"):
        images = [
            subject.masker.inverse_transform(np.nan_to_num(scores[one].values, nan=fill).astype(np.float32))
            for one, fill in (("r", 0.0), ("q", 1.0))
        ]
        displays = [CortexDisplay.from_volume(*images, view=view, **given) for view in ("flat", "lateral")]
    else:
        return False
    for display in displays:
        _keep(display.plot(), folder / f"cortex-{subject.name}-{display.view}")
    return True


def _keep(display: Any, stem: Path) -> None:
    style.save(display.figure_, stem)
    plt.close(display.figure_)
