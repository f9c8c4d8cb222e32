"""Texts from a folder: plain, gzipped, or in JSON, each under its name."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What is read, by the ending of the file's name.
ENDINGS = (".txt", ".txt.gz", ".json")


def read_texts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Every text of a folder and the folders in it, or of one file, in the order of the names.

    A ``.txt`` or ``.txt.gz`` is one text, in UTF-8, called by its path in the folder without the ending. A
    ``.json`` holds several, each called ``path/key``: an object ``{key: text}``, or a list, whose keys are
    numbers. There a text is a string; or an object with it under ``"text"``, or under ``"texts"`` in pieces,
    which are joined by a space where they are not empty. Other files, and hidden ones, are passed over.

    Raises
    ------
    FileNotFoundError
        If ``path`` does not exist, or the folder holds no such file.
    ValueError
        Naming the file: not UTF-8, damaged, no JSON or JSON of another form, a text without a character, a
        name given twice.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"there is no {str(root)!r}")
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if _is_text(file, root))
    if not files or not _ending(files[0]):
        what = "holds no file that ends" if root.is_dir() else "does not end"
        raise FileNotFoundError(f"{str(root)!r} {what} in one of {', '.join(ENDINGS)}")
    texts: dict[str, str] = {}
    for file in files:
        name = (file.name if root.is_file() else file.relative_to(root).as_posix()).removesuffix(_ending(file))
        for key, text in _texts_of(file, name):
            if key in texts:
                raise ValueError(f"{str(file)!r} gives a second text called {key!r}; rename one of them")
            if not text.strip():
                raise ValueError(f"{str(file)!r} gives a text without a character, {key!r}; leave it out")
            texts[key] = _speakable(text, file)
    return texts


def _is_text(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.is_file() and not hidden and bool(_ending(file))


def _ending(file: Path) -> str:
    return next((ending for ending in ENDINGS if file.name.endswith(ending)), "")


def _texts_of(file: Path, name: str) -> Iterator[tuple[str, str]]:
    text = _decoded(file)
    if file.suffix != ".json":
        yield name, text
        return
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(file)!r} is truncated or is no JSON: {error}") from error
    entries = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    if not entries or not found:
        raise ValueError(f"{str(file)!r} holds no text; it must be an object or a list of them")
    for key, entry in entries:
        yield f"{name}/{key}", _text_of(entry, file, str(key))


def _text_of(entry: Any, file: Path, key: str) -> str:
    whole = entry.get("text") if isinstance(entry, dict) else entry
    pieces = entry.get("texts") if isinstance(entry, dict) else None
    if isinstance(pieces, list) and all(isinstance(piece, str) for piece in pieces):
        whole = " ".join(piece for piece in pieces if piece)
    if not isinstance(whole, str):
        raise ValueError(
            f"{str(file)!r} has under {key!r} a {type(entry).__name__} without a text; it must be a string, or "
            "an object with 'text', or with 'texts', a list of strings"
        )
    return whole


def _decoded(file: Path) -> str:
    content = file.read_bytes()
    if file.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{str(file)!r} is truncated or is no gzip file: {error}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(file)!r} is not UTF-8: byte {error.start} is {content[error.start]:#04x}; convert it first"
        ) from error


def _speakable(text: str, file: Path) -> str:
    """JSON can spell half a surrogate pair, which no encoding can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{str(file)!r} holds a lone surrogate, {text[error.start]!r}") from error
    return text
