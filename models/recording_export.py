"""Recordings for other programs: Zarr and HDF5 copies, through xarray's own writers."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xarray as xr

from nextlens.models.arguments import one_of

#: By suffix: the packages xarray needs to write it.
NEEDED = {".zarr": ("zarr",), ".h5": ("h5netcdf", "h5py"), ".nc": ("h5netcdf", "h5py")}

#: Rows of about so many bytes are written at a time to a Zarr store, and make one of its chunks.
BYTES_AT_A_TIME = 2**25


def export(recording: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a copy of ``recording``, whole or not at all, as its suffix says.

    ``.zarr`` is a Zarr store of format 2, a folder; ``.h5`` and ``.nc`` are one HDF5 file in the layout of netCDF-4.
    Both are read back by ``xarray.open_dataset``. Names, axes, labels and attributes are kept.

    Parameters
    ----------
    recording : xarray.Dataset
        In memory, or opened from disk: then a block of rows at a time is read.
    path : path
        Where nothing is yet.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    ValueError
        If the suffix is another, or HDF5 is asked for values it has no netCDF type for (float16).
    FileExistsError
        If something is there.
    ImportError
        If the packages are not installed; they come with ``nextlens[export]``.
    """
    target = Path(path)
    suffix = one_of("suffix", target.suffix, tuple(NEEDED))
    missing = [package for package in NEEDED[suffix] if find_spec(package) is None]
    if missing:
        raise ImportError(
            f"writing {str(target)!r} needs {' and '.join(missing)}; install them with: pip install 'nextlens[export]'"
        )
    if target.exists():
        raise FileExistsError(f"{str(target)!r} is there already; give a new path")
    halves = [str(name) for name, values in recording.items() if values.dtype == np.float16]
    if halves and suffix != ".zarr":
        raise ValueError(f"{halves[0]!r} is float16, for which netCDF has no type; export to .zarr, or as float32")
    partial = target.with_name(f"{target.name}.partial")
    _remove(partial)
    try:
        (_to_zarr if suffix == ".zarr" else _to_hdf5)(recording, partial)
        os.replace(partial, target)
    finally:
        _remove(partial)
    return target


def _to_zarr(recording: xr.Dataset, path: Path) -> None:
    """Block after block of rows, each whole chunks of the store."""
    rows = next(iter(recording.values())).dims[0]
    n = recording.sizes[rows]
    largest = max(values.nbytes for values in recording.variables.values())
    block = max(1, min(n, n * BYTES_AT_A_TIME // max(1, largest)))
    chunks = {
        name: {"chunks": tuple(block if dim == rows else recording.sizes[dim] for dim in values.dims)}
        for name, values in recording.variables.items()
    }
    for start in range(0, n, block):
        part = recording.isel({rows: slice(start, start + block)})
        if start == 0:
            part.to_zarr(path, mode="w-", encoding=chunks, zarr_format=2, consolidated=True)
        else:
            part.to_zarr(path, append_dim=rows, consolidated=True)


def _to_hdf5(recording: xr.Dataset, path: Path) -> None:
    recording.to_netcdf(path, engine="h5netcdf")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
