"""An encoding run as an object: scores of every target, the whole recipe, and the line that repeats it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nextlens.analyses.encoding_recipe import EncodingRecipe
from nextlens.analyses.results_folder import NUMBERS, read_json
from nextlens.models.whole_files import write_whole

SCORES = "scores.npz"
#: What is kept of each target; predictions are not.
KEPT = ("r", "r2", "p", "q", "null_q95", "ceiling", "control_r", "r_story", "alpha", "band_r2", "band_r", "state")
#: Coordinates that say what a target, a story or a band is.
LABELS = ("target", "planted", "story", "band", "width")


@dataclass(frozen=True, eq=False)
class EncodingResult:
    """Scores of every target, by subject and model, and all that is needed to have them again.

    Attributes
    ----------
    recipe : EncodingRecipe
    scores : dict of str to dict of str to Dataset
        By subject, then by model: :data:`KEPT`, as of :func:`~nextlens.probes.encoding.encode`.
    numbers : dict
        What the run has written as ``numbers.json``: means, intervals, comparisons, versions.
    """

    recipe: EncodingRecipe
    scores: dict[str, dict[str, xr.Dataset]]
    numbers: dict[str, Any]

    @property
    def command(self) -> str:
        """The command line that repeats the run."""
        return self.recipe.command

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> EncodingResult:
        """What a finished run left in ``folder``.

        Raises
        ------
        FileNotFoundError
            If there is no finished run.
        ValueError
            If a file is damaged, or of another version.
        """
        place = Path(folder)
        for name in (NUMBERS, SCORES):
            if not (place / name).is_file():
                raise FileNotFoundError(f"there is no {name!r} in {str(place)!r}: no finished run of nextlens encode")
        numbers = read_json(place / NUMBERS)
        if "recipe" not in numbers:
            raise ValueError(f"{str(place / NUMBERS)!r} holds no recipe: it is of another question")
        return cls(EncodingRecipe.from_json(numbers["recipe"]), _unpacked(place / SCORES), numbers)

    def compare(self, other: EncodingResult, model: str, subject: str | None = None) -> xr.DataArray:
        """``r`` of every target in this run less that in the other, of one model.

        Raises
        ------
        KeyError
            If a run has no such subject or model.
        ValueError
            If other stories were tested, or targets differ: such scores say nothing of each other.
        """
        subject = next(iter(self.scores)) if subject is None else subject
        for run in (self, other):
            if subject not in run.scores or model not in run.scores[subject]:
                known = {name: list(models) for name, models in run.scores.items()}
                raise KeyError(f"subject={subject!r}, model={model!r} is not among {known}")
        mine, theirs = (run.scores[subject][model] for run in (self, other))
        tested = [sorted(one.story.values.tolist()) for one in (mine, theirs)]
        if tested[0] != tested[1]:
            raise ValueError(
                f"the runs tested other stories, {tested[0]} and {tested[1]}; their scores cannot be compared"
            )
        if mine.sizes["target"] != theirs.sizes["target"]:
            raise ValueError(f"the runs have {mine.sizes['target']} and {theirs.sizes['target']} targets")
        return mine.r - theirs.r


def write_scores(folder: Path, scores: Mapping[str, Mapping[str, xr.Dataset]]) -> Path:
    """``scores.npz`` in ``folder``, whole or not at all: plain arrays named ``subject/model/variable``."""
    arrays: dict[str, np.ndarray] = {}
    for subject, models in scores.items():
        for model, found in models.items():
            for name in KEPT:
                if name in found:
                    arrays[f"{subject}|{model}|{name}|{','.join(found[name].dims)}"] = found[name].values
            for name in LABELS:
                if name in found.coords:
                    dim = ",".join(found[name].dims)
                    arrays[f"{subject}|{model}|@{name}|{dim}"] = _plain(found[name].values)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return write_whole(folder / SCORES, content.getvalue())


def _unpacked(path: Path) -> dict[str, dict[str, xr.Dataset]]:
    parts: dict[str, dict[str, dict[str, Any]]] = {}
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            for key in archive.files:
                subject, model, name, dims = key.split("|")
                parts.setdefault(subject, {}).setdefault(model, {})[name] = (tuple(dims.split(",")), archive[key])
    except Exception as error:  # whatever NumPy and zipfile raise of a damaged file
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error
    return {
        subject: {
            model: xr.Dataset(
                {name: value for name, value in found.items() if not name.startswith("@")},
                coords={name[1:]: value for name, value in found.items() if name.startswith("@")},
            )
            for model, found in models.items()
        }
        for subject, models in parts.items()
    }


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(str) if values.dtype.kind == "O" else values
