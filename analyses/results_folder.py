"""A folder of results: checked before the work begins, written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nextlens.models.whole_files import write_whole

#: What a folder of results holds: the recipe, written first, and the numbers, written last.
RECIPE, NUMBERS = "recipe.json", "numbers.json"
#: What a run keeps in the folder of each model.
KEPT = ("checkpoint.safetensors", "step-*.safetensors")


def begin(
    folder: str | os.PathLike[str],
    recipe: Mapping[str, Any],
    *,
    resume: bool = False,
    far: Callable[[Path], str] | None = None,
) -> Path:
    """A folder to work in, with the recipe written into it; whatever would be lost by that is refused.

    What a finished run of the same recipe left is cleared away, unless ``resume``: its numbers and its
    checkpoints, and nothing else.

    Parameters
    ----------
    folder : path
        Made if need be.
    recipe : mapping
        All that decides the numbers, JSON-able.
    resume : bool, default=False
        Go on with the run in ``folder``, which must be of the same recipe.
    far : callable, optional
        From the folder to words on how far the run in it has come; how many checkpoints it has if None.

    Raises
    ------
    OSError
        If nothing can be written into ``folder``.
    ValueError
        If ``folder`` holds numbers or a recipe of something else, an unfinished run and ``resume`` is
        False, or no run or one of another recipe and it is True.
    """
    place = writable(folder)
    path = place / RECIPE
    if not path.exists():
        if resume:
            raise ValueError(f"resume: {str(folder)!r} holds no run to go on with")
        if (place / NUMBERS).exists():
            raise ValueError(f"{str(folder)!r} holds a {NUMBERS} of something else; choose another folder")
    else:
        _agree(place, read_json(path), recipe, resume, far)
    write_json(path, recipe)
    return place


def _agree(
    folder: Path,
    before: Mapping[str, Any],
    recipe: Mapping[str, Any],
    resume: bool,
    far: Callable[[Path], str] | None,
) -> None:
    if before.keys() != recipe.keys():
        odd = ", ".join(sorted(before.keys() ^ recipe.keys()))
        raise ValueError(
            f"{str(folder / RECIPE)!r} is not the recipe of such a run (they differ in having {odd}); "
            "choose another folder"
        )
    other = next(
        (f"{name}={before[name]!r}, not {recipe[name]!r}" for name in recipe if before[name] != recipe[name]), ""
    )
    begun, finished = [found for name in KEPT for found in folder.glob(f"*/{name}")], (folder / NUMBERS).exists()
    if resume and other:
        raise ValueError(f"resume: the run in {str(folder)!r} has {other}")
    if not resume and begun and not finished:
        way = f"{len(begun)} checkpoints" if far is None else far(folder)
        raise ValueError(
            f"{str(folder)!r} holds an unfinished run ({way}); go on with --resume, delete it, or choose another --out"
        )
    if not resume and finished:
        if other:
            raise ValueError(
                f"{str(folder)!r} holds the results of a run with {other}; delete it, or choose another --out"
            )
        (folder / NUMBERS).unlink()
        for stale in begun:
            stale.unlink()
        for emptied in {stale.parent for stale in begun}:
            if not any(emptied.iterdir()):
                emptied.rmdir()


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
    write_whole(path, (text + "\n").encode())


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


def versions(*packages: str) -> dict[str, str]:
    """What numbers were made with: nextlens, these packages, and Python.

    Examples
    --------
    >>> list(versions("numpy"))
    ['nextlens', 'numpy', 'python']
    """
    return {**{name: version(name) for name in ("nextlens", *packages)}, "python": platform.python_version()}
