"""Eight listeners to hours of stories (LeBel et al. 2023): voxels as OpenNeuro has them, or 200 principal components.

LeBel, Wagner, Jain, Adhikari-Desai, Gupta, Morgenthal, Tang, Xu and Huth, "A natural language fMRI dataset for
voxelwise encoding models", Scientific Data 10, 2023; OpenNeuro ds003020 (CC0). The words are transcripts of stories
told by others: to be measured with, not to be passed on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.models.arguments import one_of
from nextlens.probes.responses.folder import data_folder, file_in, read_as
from nextlens.probes.responses.listening import Listening, volume_times
from nextlens.probes.responses.textgrid import read_textgrid, spoken

TR = 2.0045
SUBJECTS = ("UTS01", "UTS02", "UTS03")
TEST_STORIES = ("fromboyhoodtofatherhood", "onapproachtopluto", "wheretheressmoke")
#: Volumes that the laboratory cut from the start of every run, before which 10 s of silence had been scanned.
TRIMMED, SILENCE = 10, 10.0
ORIGIN = "LeBel et al. 2023, OpenNeuro ds003020"
#: The data set of a story's HDF5 that holds what was averaged.
REPEATS = "individual_repeats"
COMPONENTS_ORIGIN = "LeBel et al. 2023, as exported in data/decoding of csinva/fmri, saved anew as npz and json"


class Lacking(ValueError):
    """A file is whole, and has no such data set."""


#: A word that holds one of these is a mark of the transcriber.
MARKS = set("{}[]\\")


def load_components(subject: str, folder: str | os.PathLike[str] | None = None) -> Listening:
    """200 principal components of one listener, with the words of each TR; no times inside a TR.

    Components were standardised inside every story by those who exported them, so component 199 weighs as much as
    component 0, and no way leads back to voxels. Test stories are means of 5 to 10 repeats: no ceiling can be had.
    Components are each listener's own.

    Parameters
    ----------
    subject : {"UTS01", "UTS02", "UTS03"}
    folder : path, optional
        With ``uts01_pc200.npz``, ``uts01_texts.json`` and so on. If None, ``lebel2023`` in the folder that
        ``NEXTLENS_DATA`` names.

    Returns
    -------
    Listening
        ``response`` (row, target), float32, with ``split`` ("train" or "test") along the rows; words have ``volume``.
        The transcriber's marks are left out.

    Raises
    ------
    FileNotFoundError
        If the folder or a file is not there.
    ValueError
        If a file is damaged, or the files do not belong together.
    """
    one_of("subject", subject, SUBJECTS)
    found = data_folder("lebel2023", folder, COMPONENTS_ORIGIN)
    values = file_in(found, f"{subject.lower()}_pc200.npz", COMPONENTS_ORIGIN)
    heard = _texts_of(file_in(found, f"{subject.lower()}_texts.json", COMPONENTS_ORIGIN))
    parts, story, volume, split, words = [], [], [], [], []
    with (
        read_as(values, "an archive of arrays"),
        values.open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        arrays = {name: archive[name].astype(np.float32) for name in sorted(archive.files)}
    _refuse_other_stories(set(arrays), set(heard), values)
    for name, rows in arrays.items():
        of, texts = heard[name]
        if rows.ndim != 2 or len(rows) != len(texts):
            raise ValueError(f"story {name!r} of {subject} has shape {rows.shape}, and words for {len(texts)} TRs")
        parts.append(rows)
        story += [name] * len(rows)
        volume += range(len(rows))
        split += [of] * len(rows)
        words += [(word, name, t) for t, said in enumerate(texts) for word in said.split() if not MARKS & set(word)]
    coordinates = {"story": ("row", np.array(story)), "volume": ("row", volume), "split": ("row", np.array(split))}
    response = xr.DataArray(np.concatenate(parts), dims=("row", "target"), coords=coordinates)
    text, word_story, word_volume = zip(*words, strict=True)
    table = xr.Dataset(
        {
            "text": ("word", np.array(text)),
            "story": ("word", np.array(word_story)),
            "volume": ("word", np.array(word_volume)),
        }
    )
    facts = {"name": f"LeBel 2023, {subject}, 200 components", "origin": COMPONENTS_ORIGIN, "tr": str(TR)}
    facts["licence"] = "responses CC0; words: transcripts, not to be passed on"
    return Listening(response, table, facts)


def load_voxels(
    subject: str,
    stories: Sequence[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    derivatives: str = "derivative",
) -> Listening:
    """Voxels of one listener from a copy of ds003020, with the onset of every word.

    Reads ``<derivatives>/preprocessed_data/<subject>/<story>.hf5``, data set ``data`` (volume, voxel), and
    ``<derivatives>/TextGrids/<story>.TextGrid``. Responses there have lost the first 10 volumes and the last 5; the
    scan began 10 s before the sound. So row i is volume 10 + i, which begins ``(10 + i) TR - 10`` seconds after the
    sound. Single repeats of the test stories, where they are kept apart, have a leading axis, and are averaged.

    Parameters
    ----------
    subject : str
        The name of its folder, such as ``"UTS03"``.
    stories : sequence of str
    folder : path, optional
        Of the data set. If None, ``ds003020`` in the folder that ``NEXTLENS_DATA`` names.
    derivatives : str, default="derivative"

    Raises
    ------
    FileNotFoundError
        If the folder or a file is not there.
    ImportError
        If h5py is not installed.
    ValueError
        If a file is damaged or holds something else, or numbers of voxels differ.
    """
    if not stories:
        raise ValueError("stories is empty; name at least one")
    found = data_folder("ds003020", folder, ORIGIN) / derivatives
    parts, tables = [], []
    for name in stories:
        responses = file_in(found / "preprocessed_data" / subject, f"{name}.hf5", ORIGIN)
        values = read_hdf5(responses)
        parts.append(values.mean(0) if values.ndim == 3 else values)
        if parts[-1].shape[1] != parts[0].shape[1]:
            raise ValueError(
                f"story {name!r} has {parts[-1].shape[1]} voxels and {stories[0]!r} has {parts[0].shape[1]}; "
                "all must be of one listener"
            )
        tables.append(_words_of(file_in(found / "TextGrids", f"{name}.TextGrid", ORIGIN), name))
    volume = np.concatenate([TRIMMED + np.arange(len(part)) for part in parts])
    response = xr.DataArray(
        np.concatenate(parts),
        dims=("row", "target"),
        coords={
            "story": ("row", np.repeat(list(stories), [len(part) for part in parts])),
            "volume": ("row", volume),
            "time": ("row", volume_times(volume, TR, -SILENCE)),
        },
    )
    facts = {"name": f"LeBel 2023, {subject}", "origin": ORIGIN, "licence": "CC0", "tr": str(TR)}
    return Listening(response, xr.concat(tables, "word"), facts)


def load_repeats(
    subject: str,
    stories: Sequence[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    derivatives: str = "derivative",
) -> xr.DataArray:
    """Single repeats of stories that were heard several times: dims (repeat, row, target), as a noise ceiling needs.

    They are the data set ``individual_repeats`` (repeat, volume, voxel) of a story's HDF5, or ``data`` where that has
    a leading axis. Rows are those of :func:`load_voxels`.

    Raises
    ------
    FileNotFoundError, ImportError
        As :func:`load_voxels`.
    ValueError
        As there; and if a story has no single repeats, or stories have another number of them.
    """
    if not stories:
        raise ValueError("stories is empty; name at least one")
    found = data_folder("ds003020", folder, ORIGIN) / derivatives / "preprocessed_data" / subject
    parts = [_repeats_in(file_in(found, f"{name}.hf5", ORIGIN)) for name in stories]
    for name, part in zip(stories, parts, strict=True):
        if part is None:
            raise ValueError(f"story {name!r} of {subject} has no single repeats; no ceiling can be told from it")
        if (len(part), part.shape[2]) != (len(parts[0]), parts[0].shape[2]):
            raise ValueError(
                f"story {name!r} has {len(part)} repeats of {part.shape[2]} voxels and {stories[0]!r} has "
                f"{len(parts[0])} of {parts[0].shape[2]}; they must be as many"
            )
    volume = np.concatenate([TRIMMED + np.arange(part.shape[1]) for part in parts])
    along = {
        "story": ("row", np.repeat(list(stories), [part.shape[1] for part in parts])),
        "volume": ("row", volume),
        "time": ("row", volume_times(volume, TR, -SILENCE)),
    }
    return xr.DataArray(np.concatenate(parts, axis=1), dims=("repeat", "row", "target"), coords=along)


def _repeats_in(path: Path) -> Float[np.ndarray, "repeat row voxel"] | None:
    try:
        values = read_hdf5(path, REPEATS)
    except Lacking:
        values = read_hdf5(path)
    return values if values.ndim == 3 and len(values) > 1 else None


def read_hdf5(path: str | os.PathLike[str], key: str = "data") -> Float[np.ndarray, " *repeat row voxel"]:
    """Responses of one story, float32, repeats first if there are any; dead voxels stay NaN, to be counted later.

    Raises
    ------
    ImportError
        If h5py is not installed.
    ValueError
        If the file cannot be read, or does not hold such an array.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("responses in HDF5 need h5py: pip install 'nextlens[brain]'") from error
    values = None
    with read_as(path, "HDF5"), h5py.File(path, "r") as file:
        held = sorted(file)
        if isinstance(file.get(key), h5py.Dataset):
            values = np.asarray(file[key][()], dtype=np.float32)
    if values is None:
        raise Lacking(f"{str(path)!r} has no data set {key!r}, only {held!r}")
    if values.ndim not in (2, 3) or not values.size:
        raise ValueError(
            f"{key!r} of {str(path)!r} has shape {values.shape}; it must be (volume, voxel), or repeats of it"
        )
    return values


def _words_of(path: Path, story: str) -> xr.Dataset:
    tiers = read_textgrid(path)
    tier = next((name for name in tiers if name.strip().lower() in ("word", "words")), None)
    if tier is None:
        raise ValueError(f"{str(path)!r} has no tier of words, only {sorted(tiers)!r}")
    said = spoken(tiers[tier])
    if not said:
        raise ValueError(f"{str(path)!r} holds no word")
    start, end, text = zip(*said, strict=True)
    return xr.Dataset(
        {
            "text": ("word", np.array([word.strip().lower() for word in text])),
            "story": ("word", np.full(len(text), story)),
            "onset": ("word", np.array(start)),
            "offset": ("word", np.array(end)),
            "volume": ("word", np.floor((np.array(start) + SILENCE) / TR).astype(np.int64)),
        }
    )


def _texts_of(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Of each story: which side of the split, and what was said in each TR."""
    with read_as(path, "the words of stories"):
        heard = json.loads(path.read_text(encoding="utf-8"))
        return {name: (str(one["split"]), [str(said) for said in one["texts"]]) for name, one in heard.items()}


def _refuse_other_stories(arrays: set[str], texts: set[str], path: Path) -> None:
    if arrays != texts:
        only = min(arrays ^ texts)
        where = "has responses but no words" if only in arrays else "has words but no responses"
        raise ValueError(f"story {only!r} {where}: {str(path)!r} and its texts do not belong together")
