"""A folder of results: checked before the work begins, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def writable(folder: str | os.PathLike[str]) -> Path:
    """The folder, made if need be; refused before any work is done if nothing can be written into it.

    Raises
    ------
    OSError
        Naming the folder and the reason.
    """
    path = Path(folder).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(f"cannot write results into {str(path)!r}: {error.strerror or error}") from error
    return path


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``values`` beside ``path``, then rename over it.

    Raises
    ------
    ValueError
        If a value is not JSON-able, NaN or infinite.
    """
    try:
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot write {path.name!r} as JSON: {error}") from error
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """What :func:`write_json` wrote.

    Raises
    ------
    ValueError
        If the file holds no JSON object, naming it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{str(path)!r} holds a JSON {type(values).__name__}, not an object")
    return values
