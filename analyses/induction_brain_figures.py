"""The figures of a run on recall in the brain, drawn from its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from nextlens.analyses.displays import style
from nextlens.analyses.displays.recall import RecallDisplay
from nextlens.analyses.induction_brain import BASE, MATCHED
from nextlens.analyses.induction_brain_numbers import gap_between


def draw(numbers: Mapping[str, Any], folder: Path) -> None:
    """``recall``, and ``planted`` where anything was."""
    _keep(recall(numbers), folder / "recall")
    if any(one["planted"] for one in numbers["subjects"].values()):
        _keep(planted(numbers), folder / "planted")


def recall(numbers: Mapping[str, Any]) -> RecallDisplay:
    """Matched less lagged, and less base, of every configuration."""
    subjects = numbers["subjects"]
    rows = next(iter(subjects.values()))["configurations"]
    return RecallDisplay(
        rows=[f"{row['matcher']}, {row['value']}, {row['gap']}" for row in rows],
        differences={
            name: {
                f"less {other}": [_three(gap_between(row, MATCHED, other)) for row in one["configurations"]]
                for other in ("lagged", BASE)
            }
            for name, one in subjects.items()
        },
        caption="matcher, what is copied, gap in volumes; the first row is the primary one; 95 %, blocks drawn anew",
    ).plot()


def planted(numbers: Mapping[str, Any]) -> RecallDisplay:
    """What an effect planted in the real responses gives."""
    subjects = numbers["subjects"]
    first = next(iter(subjects.values()))["planted"]
    return RecallDisplay(
        rows=[f"planted at {one['strength']:g}" for one in first],
        differences={
            name: {"less lagged": [_three(planted) for planted in one["planted"]]} for name, one in subjects.items()
        },
        caption="recall put into the real responses at the primary matches, in standard deviations; 95 %",
    ).plot()


def _three(gap: Mapping[str, Any]) -> list[float]:
    return [gap["difference"], *gap["interval_95"]]


def _keep(display: Any, stem: Path) -> None:
    style.save(display.figure_, stem)
    plt.close(display.figure_)
