"""The figures of a run on induction in language, drawn from its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nextlens.analyses.displays import style
from nextlens.analyses.displays.accuracies import AccuraciesDisplay
from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.language_claims import gim_name
from nextlens.analyses.language_numbers import main_models


def draw(numbers: Mapping[str, Any], folder: Path) -> None:
    """``accuracy``, ``by_length`` and ``thresholds`` in ``folder``."""
    style.save(accuracy(numbers).figure_, folder / "accuracy")
    style.save(lengths(numbers).figure_, folder / "by_length")
    style.save(thresholds(numbers).figure_, folder / "thresholds")


def accuracy(numbers: Mapping[str, Any]) -> AccuraciesDisplay:
    """The main models, under both rules for ties."""
    models, found = main_models(numbers), numbers["accuracy"]
    rules = {
        rule: {name: (found[name][rule]["mean"], *found[name][rule]["interval_95"]) for name in models}
        for rule in ("strict", "inclusive")
    }
    return AccuraciesDisplay(models=models, caption=_where(numbers), **rules).plot()


def lengths(numbers: Mapping[str, Any]) -> CurvesDisplay:
    """How often each is right, by how long the match is."""
    table, shown = numbers["by_length"]["by length"], numbers["shown"]
    models = [name for name in ("teacher", gim_name(shown), "fuzzy", "exact", f"infini-gram, {shown}") if name in table]
    names = {gim_name(shown): "GIM", f"infini-gram, {shown}": "infini-gram"}
    bins = zip(table["length"], table["predictions"], strict=True)
    counts = ", ".join(f"{n}\N{NO-BREAK SPACE}({count:,})" for n, count in bins)
    return CurvesDisplay(
        along=table["length"],
        values={names.get(name, name): 100 * np.array(table[name]["mean"]) for name in models},
        intervals={
            names.get(name, name): 100 * np.array([table[name]["low"], table[name]["high"]])
            for name in (gim_name(shown), "fuzzy")
        },
        xlabel="longest match n, tokens",
        ylabel="next tokens predicted, %",
        caption=f"strict; n of the GIM, {shown} (predictions): {counts}. {_where(numbers)}",
    ).plot()


def thresholds(numbers: Mapping[str, Any]) -> CurvesDisplay:
    """How good each threshold is on validated text; the one chosen is named."""
    fits = numbers["thresholds"]
    longest = max(len(fit["curve"]["threshold"]) for fit in fits.values())
    along = max((fit["curve"]["threshold"] for fit in fits.values()), key=len)
    named = {name: f"{name}: {fit['corpus']}" for name, fit in fits.items()}

    def whole(values: list[float]) -> np.ndarray:
        """Beyond the last threshold tried nothing changes: every match is shorter."""
        return 100 * np.array([*values, *[values[-1]] * (longest - len(values))])

    return CurvesDisplay(
        along=[str(one) for one in along],
        values={named[name]: whole(fit["curve"]["difference"]) for name, fit in fits.items()},
        intervals={
            named[name]: np.array([whole(fit["curve"][end]) for end in ("difference_low", "difference_high")])
            for name, fit in fits.items()
        },
        xlabel="threshold, tokens",
        ylabel="expected accuracy, points\nabove the chosen threshold",
        caption="validated text; beside each name the threshold chosen; bands: 95 % over documents, paired",
    ).plot()


def _where(numbers: Mapping[str, Any]) -> str:
    made = numbers["predictions"]
    return (
        f"{made['number']:,} predictions, {len(made['documents'])} documents; "
        f"95 % over {made['stretches']} stretches of text"
    )
