"""An index on disk: arrays that are mapped and not read, and a manifest that says which of them count."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from nextlens.models.induction.shard import PAD, Shard
from nextlens.models.whole_files import write_whole

#: What the files look like; an index of another format is refused.
FORMAT = 1
MANIFEST, LOCK = "index.json", "index.lock"

#: The arrays of a shard: little-endian, but for the text, whose bytes compare as its tokens do.
PARTS = ("text", "order", "starts", "heads")
OURS = re.compile(rf"\d{{4,}}\.({'|'.join(PARTS)})\.bin|{re.escape(MANIFEST)}(\.partial)?|{re.escape(LOCK)}")


@dataclass(frozen=True)
class Manifest:
    """What ``index.json`` says.

    Attributes
    ----------
    n_tokens : int
    vocabulary : str or None
        Its fingerprint.
    end : int or None
        The token that stands for the end of a document.
    shards : list of dict
        For each: ``number``, ``width`` (bytes a token), ``tokens``, ``documents``, ``distinct``, and ``files``: by
        name, ``bytes`` and ``sha256``.
    """

    n_tokens: int
    vocabulary: str | None = None
    end: int | None = None
    shards: list[dict[str, Any]] = field(default_factory=list)
    format: int = FORMAT

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """The manifest in ``folder``.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ValueError
            If it is not one that this version reads.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"there is no index at {str(folder)!r}: it holds no {MANIFEST}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            made_in = values["format"]
            if made_in == FORMAT:
                found = cls(**values)
                for shard in found.shards:
                    _checked(shard)
                _whole("n_tokens", found.n_tokens)
                if found.end is not None and not 0 <= _whole("end", found.end) < found.n_tokens:
                    raise ValueError(f"'end' is {found.end}, which is no token")
                return found
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{str(path)!r} is not the manifest of an index: {error}") from error
        raise ValueError(f"{str(path)!r} is of index format {made_in!r}; this version of nextlens reads {FORMAT}")

    def write(self, folder: Path) -> None:
        """Put it in the place of the one in ``folder``: from then on, these shards are the index."""
        write_whole(folder / MANIFEST, json.dumps(asdict(self), indent=1).encode())


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name!r} is {value!r}, which is no count")
    return value


def _checked(shard: dict[str, Any]) -> None:
    """That an entry says all that opening and verifying a shard need."""
    for name in ("number", "width", "tokens", "documents", "distinct"):
        _whole(name, shard[name])
    wanted = {f"{shard['number']:04}.{part}.bin" for part in PARTS}
    if set(shard["files"]) != wanted:
        raise ValueError(f"'files' of shard {shard['number']} are not {', '.join(sorted(wanted))}")


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """The folder, made if need be, for this writer alone; on leaving, files that its manifest does not count are gone.

    So whatever stops a writer, its shards are not of the index, and an index that was there is as it was. What a
    killed writer left is removed by the next one.

    Raises
    ------
    ValueError, OSError
        As :func:`alone`.
    """
    with alone(folder, OURS):
        try:
            yield folder
        finally:
            _remove_uncounted(folder)


@contextmanager
def alone(folder: Path, ours: re.Pattern[str]) -> Iterator[None]:
    """While open, no other process writes into ``folder``, which is made if need be.

    Raises
    ------
    ValueError
        If it holds a file whose name is none of ``ours``.
    OSError
        If another process is writing there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted(file.name for file in folder.iterdir() if not ours.fullmatch(file.name))
    if others:
        raise ValueError(f"{str(folder)!r} holds {others[0]!r}, which is not of an index; give a folder of its own")
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OSError(f"another process is writing the index at {str(folder)!r}") from None
    try:
        yield
    finally:
        lock.release()


def _remove_uncounted(folder: Path) -> None:
    try:
        counted = {name for shard in Manifest.of(folder).shards for name in shard["files"]}
    except FileNotFoundError:
        counted = set()
    except ValueError:
        return
    for file in folder.iterdir():
        if file.name not in {*counted, MANIFEST, LOCK}:
            with suppress(OSError):
                file.unlink()


def write_shard(folder: Path, shard: Shard) -> dict[str, Any]:
    """Put the arrays of a shard on disk under names not in use, and say what the manifest is to say of them.

    Raises
    ------
    OSError
        If they cannot be written, naming the file.
    """
    number = 1 + max((int(file.name.split(".")[0]) for file in folder.glob("*.bin")), default=-1)
    content = {
        "text": np.frombuffer(shard.text, np.uint8),
        "order": shard.order,
        "starts": shard.starts,
        "heads": shard.heads,
    }
    return {
        "number": number,
        "width": shard.width,
        "tokens": len(shard.order),
        "documents": shard.n_documents,
        "distinct": len(shard.heads),
        "files": dict(_write(folder / f"{number:04}.{part}.bin", values) for part, values in content.items()),
    }


def _write(path: Path, values: np.ndarray) -> tuple[str, dict[str, Any]]:
    data = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False)).reshape(-1).view(np.uint8)
    try:
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(f"cannot write {str(path)!r}: {error}") from error
    return path.name, {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def open_shard(folder: Path, entry: dict[str, Any]) -> Shard:
    """Map the arrays of a shard; nothing is read but their sizes.

    Raises
    ------
    ValueError
        Naming a file that is missing, or not of the size it should be.
    """
    width, tokens, documents = entry["width"], entry["tokens"], entry["documents"]
    sizes = {
        "text": (tokens + documents) * width + PAD,
        "order": 4 * tokens,
        "starts": 8 * (documents + 1),
        "heads": 8 * entry["distinct"],
    }
    found = {part: _mapped(folder / f"{entry['number']:04}.{part}.bin", size) for part, size in sizes.items()}
    return Shard(
        found["text"],
        width,
        np.frombuffer(found["order"], "<u4"),
        np.frombuffer(found["starts"], "<i8"),
        np.frombuffer(found["heads"], "<u4").reshape(-1, 2),
    )


def _mapped(path: Path, size: int) -> mmap.mmap | bytes:
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        what = "is missing" if found is None else f"has {found} bytes"
        raise ValueError(f"{str(path)!r} is damaged: it {what}, and the index counts {size} bytes in it")
    if not size:
        return b""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def verify(folder: Path) -> None:
    """Read every file that the manifest counts, and compare its checksum.

    Raises
    ------
    ValueError
        Naming the first file that is damaged.
    """
    for shard in Manifest.of(folder).shards:
        open_shard(folder, shard)
        for name, said in shard["files"].items():
            with open(folder / name, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != said["sha256"]:
                raise ValueError(f"{str(folder / name)!r} is damaged: its checksum is not that of what was written")
