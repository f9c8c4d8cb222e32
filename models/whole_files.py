"""Files written whole or not at all: beside the place, to disk, then renamed over it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: str | os.PathLike[str], content: bytes) -> Path:
    """Put ``content`` at ``path``. Whoever reads there, whenever the writer was stopped, finds the old file or the new.

    Folders are made.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    OSError
        If it cannot be written, naming it; what was there is left as it was.
    """
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
        sync_folder(target.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OSError(f"cannot write {str(target)!r}: {error}") from error
    return target


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on disk."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
