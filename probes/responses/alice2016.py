"""Chapter one of *Alice in Wonderland*, heard by 27 listeners: six regions of the language network, with word onsets.

Brennan, Stabler, Van Wagenen, Luh and Hale, "Abstract linguistic structure correlates with temporal activity during
naturalistic comprehension", Brain and Language 157-158, 2016. Regions: the authors' shared time courses (CC BY 4.0);
word times: OpenNeuro ds002322 (CC0).
"""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.probes.responses.folder import data_folder, file_in, read_as
from nextlens.probes.responses.listening import Listening, volume_times

REGIONS = ("LATL", "RATL", "LPTL", "LIPL", "LPreM", "LIFG")
TR, VOLUMES = 2.0, 362
#: Seconds of the annotations' clock at which volume 0 begins: ten volumes of silence were dropped.
CLOCK = 20.0
#: Rows of the predictors' file before volume 0.
PREDICTOR_ROWS_BEFORE = 10
STORY = "alice"
ORIGIN = "Brennan et al. 2016 (shared region time courses) and OpenNeuro ds002322"

RESPONSES, RATE = "alice_data_shared/10mm", "alice_data_shared/s18-rate.txt"
ANNOTATIONS = "ds002322/code/annotations.tsv"

#: How the second part of a contraction is written in the annotations, and as it is spelled.
CLITICS = {"ll": "'ll", "nt": "n't", "ve": "'ve", "re": "'re", "d": "'d", "s": "'s", "m": "'m"}


def load_alice(folder: str | os.PathLike[str] | None = None) -> Listening:
    """The 27 listeners, as measured: neither detrended nor standardised.

    Onsets are on the clock of the volumes, on which volume 0 begins at 0 s. A contraction's second part, which has
    no times of its own, is joined to the word before.

    Parameters
    ----------
    folder : path, optional
        With ``alice_data_shared`` and ``ds002322`` in it. If None, ``alice2016`` in the folder that ``NEXTLENS_DATA``
        names.

    Returns
    -------
    Listening
        ``response`` (listener 27, row 362, target 6).

    Raises
    ------
    FileNotFoundError
        If the folder or a file is not there.
    ValueError
        If a file has another shape than it should.
    """
    found = data_folder("alice2016", folder, ORIGIN)
    files = sorted((found / RESPONSES).glob("s*-timecourses.txt"))
    if not files:
        raise FileNotFoundError(f"there are no 'sNN-timecourses.txt' in {str(found / RESPONSES)!r}, from {ORIGIN}")
    values = np.stack([_table(file, (VOLUMES, len(REGIONS))) for file in files])
    volume = np.arange(VOLUMES)
    response = xr.DataArray(
        values,
        dims=("listener", "row", "target"),
        coords={
            "listener": [file.name.partition("-")[0] for file in files],
            "story": ("row", np.full(VOLUMES, STORY)),
            "volume": ("row", volume),
            "time": ("row", volume_times(volume, TR)),
            "target": list(REGIONS),
        },
    )
    facts = {"name": "Alice", "origin": ORIGIN, "licence": "CC BY 4.0 (regions), CC0 (annotations)", "tr": str(TR)}
    return Listening(response, _words(file_in(found, ANNOTATIONS, ORIGIN)), facts)


def published_rate(folder: str | os.PathLike[str] | None = None) -> Float[np.ndarray, " row"]:
    """The authors' word rate, convolved with their haemodynamic response, at each of the 362 volumes.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_alice`.
    """
    return _table(file_in(data_folder("alice2016", folder, ORIGIN), RATE, ORIGIN), (VOLUMES,))


def _words(path: Path) -> xr.Dataset:
    with read_as(path, "a table in UTF-8"), path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    lacking = {"Words", "Word Onset", "Word Offset"} - set(rows[0] if rows else {})
    if lacking:
        raise ValueError(f"{str(path)!r} has no column {min(lacking)!r}")
    text: list[str] = []
    times: list[tuple[float, float]] = []
    for row in rows:
        with read_as(path, "words with their times"):
            start, end = (float(row[name]) if row[name].strip() else math.nan for name in ("Word Onset", "Word Offset"))
        if math.isnan(start):
            if not text:
                raise ValueError(
                    f"{str(path)!r} begins with {row['Words']!r}, which has no onset and no word before it"
                )
            text[-1] += _clitic(row["Words"])
        else:
            text.append(row["Words"].replace("’", "'"))
            times.append((start - CLOCK, end - CLOCK))
    onset, offset = np.array(times).T
    return xr.Dataset(
        {
            "text": ("word", np.array(text)),
            "story": ("word", np.full(len(text), STORY)),
            "onset": ("word", onset),
            "offset": ("word", offset),
            "volume": ("word", np.floor(onset / TR).astype(np.int64)),
        }
    )


def _clitic(written: str) -> str:
    plain = written.replace("’", "'").lstrip("'")
    return CLITICS.get(plain.lower(), plain)


def _table(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        values = np.loadtxt(path)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no table of numbers: {error}") from error
    if values.shape != shape:
        raise ValueError(f"{str(path)!r} has shape {values.shape}; it should be {shape}")
    if not np.isfinite(values).all() or not values.any():
        raise ValueError(f"{str(path)!r} holds NaN, or nothing but zeros")
    return values
