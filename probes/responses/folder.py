"""Where the data are: the folder given, or the one that an environment variable names. Nothing is downloaded."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

#: Names the folder that holds one folder a data set.
VARIABLE = "NEXTLENS_DATA"


def data_folder(name: str, folder: str | os.PathLike[str] | None, origin: str) -> Path:
    """``folder``, else the folder ``name`` of the one that ``NEXTLENS_DATA`` names.

    Parameters
    ----------
    name : str
        Of the data set.
    folder : path, optional
    origin : str
        Where the data come from, for a refusal.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    if folder is None and VARIABLE not in os.environ:
        raise FileNotFoundError(
            f"where {name} is was not said: give folder=, or let {VARIABLE} name the folder that holds {name}/. "
            f"The data are those of {origin}"
        )
    found = Path(folder) if folder is not None else Path(os.environ[VARIABLE]) / name
    if not found.is_dir():
        raise FileNotFoundError(f"there is no folder {str(found)!r}; it should hold {name}, from {origin}")
    return found


def file_in(folder: Path, name: str, origin: str) -> Path:
    """A file of the folder.

    Raises
    ------
    FileNotFoundError
        If it is not there: what was expected, and from where.
    """
    if not (folder / name).is_file():
        raise FileNotFoundError(f"there is no {name!r} in {str(folder)!r}; it should come from {origin}")
    return folder / name


@contextmanager
def read_as(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Whatever a damaged file makes of its reading is said with the name of the file.

    Raises
    ------
    ValueError
        If what is done inside fails as it does on files that were cut off, overwritten, or hold something else.
    """
    try:
        yield
    except (OSError, EOFError, BadZipFile, zlib.error, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as {what}; is the download complete? ({error})") from error
