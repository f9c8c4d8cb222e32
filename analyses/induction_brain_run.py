"""A run on recall in the brain: every subject, matcher, value and gap beside its controls, in a folder."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from nextlens.analyses.encoding_data import Subject, subjects_of
from nextlens.analyses.encoding_run import STATES, spread_over
from nextlens.analyses.encoding_spaces import Reader
from nextlens.analyses.induction_brain import (
    Configuration,
    base_scores,
    listener,
    moments,
    planted_scores,
    recall_scores,
    refuse_too_short,
)
from nextlens.analyses.induction_brain_figures import draw
from nextlens.analyses.induction_brain_matches import Matching
from nextlens.analyses.induction_brain_numbers import configuration_numbers, planted_numbers, sum_up, verdict
from nextlens.analyses.induction_brain_recipe import OF_A_MODEL, RecallRecipe
from nextlens.analyses.results_folder import NUMBERS, begin, write_json

#: The text of the moments: for the user's eyes, since transcripts may not be passed on.
MOMENTS = "moments.json"


def run(
    recipe: RecallRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
    states: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Ask of every subject whether copies of matched moments predict more than copies of others.

    Writes ``recall`` and ``planted`` as PNG, PDF and SVG, ``moments.json`` (words of the moments at which the primary
    configuration helps most) and ``numbers.json``.

    Parameters
    ----------
    recipe : RecallRecipe
    folder, resume, device, n_jobs, progress, states
        As of :func:`~nextlens.analyses.encoding_run.run`.

    Returns
    -------
    dict
        What is written as ``numbers.json``.

    Raises
    ------
    FileNotFoundError, ImportError, OSError, ValueError
        As there.
    """
    place = begin(folder, recipe.as_json(), resume=resume)
    needed = recipe.checkpoint and any(matcher in OF_A_MODEL for matcher in recipe.matching)
    reader = Reader(recipe, place / STATES if states is None else Path(states), device, progress) if needed else None
    heads: dict[tuple[str, ...], Any] = {}
    subjects: dict[str, Any] = {}
    words: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for subject in subjects_of(recipe.encoding):
        start = time.process_time()
        with spread_over(n_jobs):
            subjects[subject.name], words[subject.name] = _of_subject(subject, Matching(subject, recipe, reader, heads))
        seconds[subject.name] = round(time.process_time() - start, 2)
    numbers = sum_up(recipe, subjects, seconds)
    draw(numbers, place)
    write_json(place / MOMENTS, words)
    write_json(place / NUMBERS, numbers)
    return numbers


def _of_subject(subject: Subject, matching: Matching) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    recipe = matching.recipe
    refuse_too_short(subject, recipe)
    one = listener(subject, recipe)
    base = base_scores(one)
    rows, helped, primary = [], [], None
    for gap in recipe.lags:
        for matcher in recipe.matching:
            matches = matching.of(matcher, gap)
            for value in recipe.values:
                how = Configuration(matcher, value, gap)
                found = recall_scores(one, matches, how)
                rows.append(configuration_numbers(how, matches, base, found, recipe))
                if primary is None:
                    primary = (matches, how)
                    helped = moments(one, matches, found)
    planted = [
        planted_numbers(strength, planted_scores(one, *primary, strength), recipe) for strength in recipe.planted
    ]
    numbers = {
        "data": dict(subject.heard.facts) | {"fingerprint": subject.heard.fingerprint},
        "rows": int(one.response.sizes["row"]),
        "rows_tested": int(base.sizes["row"]),
        "stories": len(subject.heard.stories),
        "tested": [str(name) for name in base.story.values],
        "site": matching.site if matching.reader is not None else "",
        "distilled": {
            f"distilled head {number}": {"before": head.before, "after": head.after}
            for number, head in enumerate(matching.heads.values())
        },
        "configurations": rows,
        "planted": planted,
        "verdict": verdict(rows[0], planted),
    }
    return numbers, helped
