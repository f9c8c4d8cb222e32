"""Any folder in the Brain Imaging Data Structure: images through one of nilearn's maskers, words from its events."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nextlens.probes.responses.folder import read_as
from nextlens.probes.responses.listening import Listening, volume_times

#: Columns of an events file in which a word may stand.
WORD_COLUMNS = ("word", "Word", "text", "stim", "trial_type")
INSTALL = "pip install 'nextlens[brain]'"


def load_bids(
    folder: str | os.PathLike[str],
    masker: Any,
    *,
    subject: str,
    task: str,
    space: str | None = None,
    word_column: str | None = None,
    events: str | os.PathLike[str] | None = None,
) -> Listening:
    """Every run of one subject and task: what ``masker`` makes of each image, and the words heard in it.

    Images are ``sub-*_task-*[_run-*][_space-*]*_bold.nii[.gz]`` anywhere under the folder, derivatives included; a run
    is a story, named after its file's ``ses`` and ``run``. Words are the rows of ``*_events.tsv`` of the same run, with
    ``onset`` in seconds from the start of its first volume; the TR is that of the ``.json`` beside, else of the header.

    Parameters
    ----------
    folder : path
    masker : nilearn masker
        Such as ``NiftiMasker(mask_img=...)`` or ``NiftiLabelsMasker(labels_img=...)``. Fitted on the first image, if
        it has not been. Detrending belongs inside the folds: leave the masker's own off.
    subject, task : str
        Without ``sub-`` and ``task-``.
    space : str, optional
        Where several spaces are there: which.
    word_column : str, optional
        The column of the events that holds words; if None, the first of :data:`WORD_COLUMNS` that is there.
    events : path, optional
        A folder of events files, where they are not in ``folder``.

    Returns
    -------
    Listening
        ``response`` (row, target); targets are the masker's columns, so ``masker.inverse_transform`` brings scores back
        into the brain.

    Raises
    ------
    ImportError
        If nilearn is not installed.
    FileNotFoundError
        If there is no folder, no image, or no events of an image.
    ValueError
        If a file is damaged, one run has two images, TRs differ or are none, no column holds words, or there is none.
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(f"a BIDS folder is read with nilearn, which is not installed: {INSTALL}") from error
    images = _images(Path(folder), subject, task, space)
    tables = {run: _events_of(image, Path(events or folder), subject, task) for run, image in images.items()}
    trs = {run: _tr(image, nibabel) for run, image in images.items()}
    tr = next(iter(trs.values()))
    for run, other in trs.items():
        if abs(other - tr) > 1e-3 * tr:
            raise ValueError(
                f"TRs differ: {tr:g} s in run {next(iter(trs))!r}, {other:g} s in {run!r}; load them apart"
            )
    masker = _fitted(masker, next(iter(images.values())))
    parts = []
    for image in images.values():
        with read_as(image, "an image that this masker takes"):
            parts.append(np.asarray(masker.transform(str(image)), dtype=np.float32))
    volume = np.concatenate([np.arange(len(part)) for part in parts])
    response = xr.DataArray(
        np.concatenate(parts),
        dims=("row", "target"),
        coords={
            "story": ("row", np.repeat(list(images), [len(part) for part in parts])),
            "volume": ("row", volume),
            "time": ("row", volume_times(volume, tr)),
        },
    )
    words = xr.concat([_words(table, run, word_column, tr) for run, table in tables.items()], "word")
    found = "+".join(sorted({_entities(image).get("space", "") for image in images.values()}))
    facts = {"name": f"sub-{subject}, task-{task}", "origin": "a BIDS folder", "tr": str(tr), "space": found}
    return Listening(response, words, facts)


def _fitted(masker: Any, first: Path) -> Any:
    """The masker, fitted; on the first image only if it was given nothing of its own to go by."""
    if hasattr(masker, "n_elements_"):
        return masker
    own = any(getattr(masker, name, None) is not None for name in ("mask_img", "labels_img", "maps_img", "seeds"))
    with read_as(first, "an image that this masker is fitted on"):
        return masker.fit() if own else masker.fit(str(first))


def _images(folder: Path, subject: str, task: str, space: str | None) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    pattern = f"sub-{subject}_*task-{task}_*bold.nii*"
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob(pattern)):
        parts = _entities(path)
        if parts.get("task") != task or (space is not None and parts.get("space") != space):
            continue
        run = "_".join([task, *(f"{name}-{parts[name]}" for name in ("ses", "run") if name in parts)])
        if run in found:
            spaces = sorted({_entities(one).get("space", "none") for one in (found[run], path)})
            raise ValueError(f"run {run!r} has several images, such as {path.name!r}; say which space of {spaces}")
        found[run] = path
    if not found:
        said = "" if space is None else f" in space {space!r}"
        raise FileNotFoundError(f"there is no {pattern!r}{said} under {str(folder)!r}")
    return found


def _events_of(image: Path, folder: Path, subject: str, task: str) -> Path:
    wanted = {name: _entities(image).get(name) for name in ("ses", "run")}
    for path in sorted(folder.rglob(f"*task-{task}*events.tsv")):
        parts = _entities(path)
        if parts.get("sub", subject) == subject and all(parts.get(n) in (value, None) for n, value in wanted.items()):
            return path
    raise FileNotFoundError(
        f"there are no events of {image.name!r} under {str(folder)!r}; words and their onsets are needed"
    )


def _entities(path: Path) -> dict[str, str]:
    return dict(re.findall(r"(?:^|_)([a-z]+)-([A-Za-z0-9]+)", path.name))


def _tr(image: Path, nibabel: Any) -> float:
    sidecar = image.with_name(image.name.partition(".nii")[0] + ".json")
    tr = None
    if sidecar.is_file():
        with read_as(sidecar, "JSON"):
            said = json.loads(sidecar.read_text(encoding="utf-8")).get("RepetitionTime")
            tr = None if said is None else float(said)
    if tr is None:
        with read_as(image, "an image"):
            header = nibabel.load(image).header
            tr = float(header.get_zooms()[3]) * (1e-3 if header.get_xyzt_units()[1] == "msec" else 1.0)
    if not 0 < tr < np.inf:
        raise ValueError(f"the TR of {image.name!r} is {tr:g} s, by its header or the JSON beside it; it must be more")
    return tr


def _words(path: Path, run: str, column: str | None, tr: float) -> xr.Dataset:
    with read_as(path, "a table in UTF-8"), path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    present = list(rows[0]) if rows else []
    column = column or next((name for name in WORD_COLUMNS if name in present), None)
    if column not in present or "onset" not in present:
        raise ValueError(f"{path.name!r} has columns {present}; 'onset' and a column of words are needed: word_column=")
    said = [row for row in rows if (row[column] or "").strip() not in ("", "n/a")]
    if not said:
        raise ValueError(f"{path.name!r} holds no word in its column {column!r}")
    with read_as(path, f"words with onsets in seconds (column {column!r})"):
        onset = np.array([float(row["onset"]) for row in said])
    return xr.Dataset(
        {
            "text": ("word", np.array([row[column].strip() for row in said])),
            "story": ("word", np.full(len(said), run)),
            "onset": ("word", onset),
            "volume": ("word", np.floor(onset / tr).astype(np.int64)),
        }
    )
