"""Recordings on disk: one ``.npy`` for each site, and a JSON manifest that says how much of them is durable."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
import xarray as xr
from filelock import FileLock, Timeout
from jaxtyping import Int
from torch import Tensor

from nextlens.models.growing_array import GrowingArray, mapped
from nextlens.models.hooked import Hooked
from nextlens.models.whole_files import sync_folder, write_whole

#: What the manifest looks like; a recording of another format is refused.
FORMAT = 1
MANIFEST = "recording.json"
LOCK = "recording.lock"

#: Labels, and ``read``, every token of a recording that kept only some positions.
LABELS = ("sequence", "position", "token", "prefix", "read")

#: At most this long after it was computed, a chunk is durable (or as soon as the next one is written).
SECONDS_BETWEEN_COMMITS = 2.0


@dataclass(frozen=True)
class Manifest:
    """What ``recording.json`` says.

    Attributes
    ----------
    asked : dict
        What decides the values: ``model`` (a hash), ``sites``, ``dtype``, ``chunk``, ``where``.
    complete : bool
    chunks, sequences, samples : int
        How many are durable; ``samples`` only if positions were chosen.
    positions : int
        The length of every sequence.
    read : str
        A hash of what the durable chunks have read and which positions they kept.
    arrays : dict
        By name: ``dtype``, ``dims``, the shape of one row, and ``attrs``.
    """

    asked: dict[str, Any]
    complete: bool = False
    chunks: int = 0
    sequences: int = 0
    samples: int = 0
    positions: int = 0
    read: str = hashlib.sha256().hexdigest()
    arrays: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT

    def rows(self, name: str) -> int:
        return self.samples if self.arrays[name]["dims"][0] == "sample" else self.sequences

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """The manifest in ``folder``.

        Raises
        ------
        ValueError
            If it is not one this version reads.
        """
        path = folder / MANIFEST
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            made_in = values["format"]
            if made_in == FORMAT:
                return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{str(path)!r} is not the manifest of a recording: {error}") from error
        raise ValueError(f"{str(path)!r} is of recording format {made_in!r}; this version of nextlens reads {FORMAT}")

    def write(self, folder: Path) -> None:
        """Put it in the place of the one in ``folder``, whole or not at all."""
        write_whole(folder / MANIFEST, json.dumps(asdict(self), indent=1).encode())


class RecordingWriter(AbstractContextManager):
    """Appends chunks to a recording on disk, going on where an earlier writer of the same was stopped.

    Values are appended to their files and flushed to disk first; only then does the manifest, replaced
    whole, count them. So a writer killed at any moment leaves a manifest that is true, and at most a tail
    of values that nobody counts and the next writer cuts off. The arrays cannot be read as ``.npy`` before
    the recording is complete.

    Parameters
    ----------
    path : path
        A folder; made if need be.
    asked : mapping
        JSON-able: what decides the values.

    Raises
    ------
    ValueError
        If the folder holds a recording of something else, naming what differs, or other files.
    OSError
        If another process is writing there.
    """

    def __init__(self, path: str | os.PathLike[str], asked: Mapping[str, Any]):
        self.folder = Path(path)
        self.asked = json.loads(json.dumps(dict(asked)))
        self._stack = ExitStack()

    def __enter__(self) -> RecordingWriter:
        with ExitStack() as stack:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._refuse_other_files()
            stack.callback(self._locked().release)
            self.manifest = self._begun()
            self._files: dict[str, GrowingArray] = {}
            self._digest, self._passed = hashlib.sha256(), 0
            self._now = self.manifest
            self._committed_at = time.monotonic()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def holds(self, inputs: Iterable[Tensor | None]) -> bool:
        """Whether the next chunk, which reads ``inputs``, is on disk already; to be asked of every chunk in turn.

        Raises
        ------
        ValueError
            If what the durable chunks have read is not what has been passed here.
        """
        held = self._passed < self.manifest.chunks
        if not held and self._passed == self.manifest.chunks:
            self._refuse_another_input()
            if self.manifest.complete:
                raise ValueError(f"{self._name} is complete; this call has more to read than was recorded there")
        for values in inputs:
            shape = "none" if values is None else tuple(values.shape)
            self._digest.update(f"{shape};".encode())
            if values is not None:
                self._digest.update(_bytes_of(values))
        self._passed += 1
        return held

    def append(self, tokens: Int[np.ndarray, "sequence position"], arrays: Mapping[str, xr.Variable]) -> None:
        """Add the rows of one chunk to the arrays, sites and labels.

        Raises
        ------
        OSError
            If the disk refuses; what was durable stays so.
        """
        done = self._now
        samples = next((len(values) for values in arrays.values() if values.dims[0] == "sample"), 0)
        try:
            for name, values in arrays.items():
                self._file(name, values).append(np.asarray(values.data))
            self._now = replace(
                done,
                chunks=self._passed,
                sequences=done.sequences + len(tokens),
                samples=done.samples + samples,
                positions=tokens.shape[1],
                read=self._digest.hexdigest(),
                arrays=done.arrays or {name: _described(values) for name, values in arrays.items()},
            )
            if time.monotonic() - self._committed_at >= SECONDS_BETWEEN_COMMITS:
                self._commit()
        except OSError as error:
            raise OSError(f"cannot write the recording {str(self.folder)!r}: {error}") from error

    def finish(self) -> None:
        """Number the prefixes, make every file a whole ``.npy``, and say so in the manifest.

        Raises
        ------
        ValueError
            If less has been passed than is on disk.
        """
        if self._passed < self.manifest.chunks:
            raise ValueError(
                f"{self._name} holds {self.manifest.chunks} chunks; this call had no more than {self._passed} to read"
            )
        self._refuse_another_input()
        if self.manifest.complete:
            return
        if "read" in self._now.arrays and not self._now.samples:
            raise ValueError("where keeps no position; nothing would be recorded")
        try:
            for name in self._now.arrays:
                self._file(name)
            self._commit()
            self._number_prefixes()
            for file in self._files.values():
                file.seal()
            self._now = replace(self._now, complete=True)
            self._now.write(self.folder)
        except OSError as error:
            raise OSError(f"cannot write the recording {str(self.folder)!r}: {error}") from error

    @property
    def _name(self) -> str:
        return f"the recording {str(self.folder)!r}"

    def _refuse_other_files(self) -> None:
        if not (self.folder / MANIFEST).exists():
            others = {file.name for file in self.folder.iterdir()} - {LOCK, f"{MANIFEST}.partial"}
            if others:
                raise ValueError(
                    f"path={str(self.folder)!r} holds {min(others)!r} and no recording; give an empty or a new folder"
                )

    def _locked(self) -> FileLock:
        lock = FileLock(self.folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise OSError(f"{self._name} is being written by another process") from error
        return lock

    def _begun(self) -> Manifest:
        if not (self.folder / MANIFEST).exists():
            begun = Manifest(asked=self.asked)
            begun.write(self.folder)
            return begun
        begun = Manifest.of(self.folder)
        for name in self.asked | begun.asked:
            there, here = begun.asked.get(name), self.asked.get(name)
            if there != here:
                raise ValueError(
                    f"{self._name} was begun with {name}={there!r}, and this call has {name}={here!r}; "
                    "go on with what it was begun with, or give another path"
                )
        return begun

    def _refuse_another_input(self) -> None:
        if self._passed == self.manifest.chunks and self._digest.hexdigest() != self.manifest.read:
            raise ValueError(
                f"{self._name} has read another batch: its first {self.manifest.sequences} sequences, their positions "
                "and attention, or the positions chosen by where, are not those of this call; give another path"
            )

    def _file(self, name: str, values: xr.Variable | None = None) -> GrowingArray:
        if name not in self._files:
            known = self._now.arrays.get(name) or _described(values)
            rows = self._now.rows(name) if self._now.arrays else 0
            file = GrowingArray(_file_of(self.folder, name), np.dtype(known["dtype"]), tuple(known["row"]), rows=rows)
            self._files[name] = self._stack.enter_context(file)
        return self._files[name]

    def _commit(self) -> None:
        """Values first, then the manifest that counts them."""
        for file in self._files.values():
            file.sync()
        sync_folder(self.folder)
        self._now.write(self.folder)
        self._committed_at = time.monotonic()

    def _number_prefixes(self) -> None:
        """A label for every kept position, equal exactly where equal tokens have been read."""
        thinned = "read" in self._now.arrays
        tokens = self._mapped("read" if thinned else "token")
        target = _file_of(self.folder, "prefix")
        partial = target.with_name(f"{target.name}.partial")
        number = np.lib.format.open_memmap(partial, mode="w+", dtype=np.int64, shape=tokens.shape)
        _number_prefixes(tokens, number)
        kept = number[self._mapped("sequence"), self._mapped("position")] if thinned else number
        with GrowingArray(target, np.dtype(np.int64), kept.shape[1:]) as file:
            file.append(kept)
            file.seal()
        described = {"prefix": _described(xr.Variable(self._now.arrays["token"]["dims"], kept))}
        self._now = replace(self._now, arrays=self._now.arrays | described)
        del number, kept
        partial.unlink()

    def _mapped(self, name: str) -> np.ndarray:
        known = self._now.arrays[name]
        shape = (self._now.rows(name), *known["row"])
        return mapped(_file_of(self.folder, name), np.dtype(known["dtype"]), shape)


def open_recording(path: str | os.PathLike[str], *, unfinished: bool = False) -> xr.Dataset:
    """What :func:`~nextlens.models.recording.record` wrote to ``path``, mapped and not loaded.

    Selecting rows reads those rows only. Values cannot be written to. Dims, coordinates and names are
    those of a recording in memory.

    Parameters
    ----------
    path : path
    unfinished : bool, default=False
        Whether to open what is durable of a recording that is not complete; it has no ``prefix``.

    Raises
    ------
    FileNotFoundError
        If there is no recording at ``path``.
    ValueError
        If it is unfinished, or damaged, or of another format: one sentence that names it.
    """
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"there is no recording at {str(folder)!r}")
    manifest = Manifest.of(folder)
    if not manifest.complete and not (unfinished and manifest.chunks):
        how = "or open what is durable with unfinished=True" if manifest.chunks else "nothing of it is durable yet"
        raise ValueError(
            f"the recording {str(folder)!r} is unfinished, with {manifest.chunks} chunks of {manifest.sequences} "
            f"sequences; call record with the same arguments to finish it, {how}"
        )
    variables = {}
    for name, known in manifest.arrays.items():
        if name != "read" and (manifest.complete or name != "prefix"):
            shape = (manifest.rows(name), *known["row"])
            values = mapped(_file_of(folder, name), np.dtype(known["dtype"]), shape)
            variables[name] = xr.Variable(known["dims"], values, known["attrs"])
    coords = {name: variables.pop(name) for name in LABELS if name in variables}
    if "sequence" not in coords:
        axes = {"sequence": manifest.sequences, "position": manifest.positions}
        coords = {axis: (axis, np.arange(n)) for axis, n in axes.items()} | coords
    return xr.Dataset(variables, coords=coords)


def fingerprint(model: Hooked) -> str:
    """A hash of the class of ``model``, its configuration, its sites, its weights and its buffers.

    Of a bridge the configuration is the bridge's; of a module given by its sites, which part each of them is.

    Examples
    --------
    >>> from nextlens.models.transformer import Transformer, TransformerConfig
    >>> one, other = (Transformer(TransformerConfig(n_tokens=3, seed=seed)) for seed in (0, 1))
    >>> fingerprint(one) == fingerprint(one.untrained()), fingerprint(one) == fingerprint(other)
    (True, False)
    """
    digest = hashlib.sha256(f"{type(model).__module__}.{type(model).__qualname__}".encode())
    config = getattr(model, "config", None) or getattr(getattr(model, "bridge", None), "cfg", None)
    digest.update(repr(config).encode() if is_dataclass(config) else b"")
    digest.update(repr(getattr(model, "site_parts", None)).encode())
    if isinstance(model, torch.nn.Module):
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
            digest.update(_bytes_of(value))
    return f"sha256:{digest.hexdigest()}"


def _bytes_of(values: Tensor) -> memoryview:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _described(values: xr.Variable) -> dict[str, Any]:
    return {
        "dtype": values.dtype.str,
        "dims": list(values.dims),
        "row": list(values.shape[1:]),
        "attrs": dict(values.attrs),
    }


def _file_of(folder: Path, name: str) -> Path:
    """``blocks.0.hook_resid_post.npy``; what may not stand in a file name is written as %2F."""
    return folder / f"{quote(name, safe='')}.npy"


def _number_prefixes(
    tokens: Int[np.ndarray, "sequence position"], number: Int[np.ndarray, "sequence position"]
) -> None:
    """``number_prefixes`` into an array given, with memory for one position of every sequence at a time."""
    known = 0
    level = np.zeros(len(tokens), dtype=np.int64)
    alphabet = int(tokens.max()) + 1
    for t in range(tokens.shape[1]):
        distinct, level = np.unique(level * alphabet + tokens[:, t], return_inverse=True)
        number[:, t] = known + level
        known += len(distinct)
