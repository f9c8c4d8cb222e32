"""A ``.npy`` file that grows by rows, and cannot be read as one before it is whole."""

from __future__ import annotations

import io
import os
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

#: Stands where the header will be.
UNFINISHED = b"unfinished: rows are still being added to this array\n"


class GrowingArray(AbstractContextManager):
    """Rows appended to a file that becomes a ``.npy`` when it is sealed.

    Until then a text stands in the place of its header, so that NumPy refuses the file instead of reading
    a part for the whole.

    Parameters
    ----------
    path : Path
    dtype : numpy.dtype
    row : tuple of int
        The shape of one row.
    rows : int, default=0
        How many rows of an earlier file to keep; what follows them is cut off. With 0 it is begun afresh.

    Raises
    ------
    ValueError
        If the file holds fewer rows.
    """

    def __init__(self, path: Path, dtype: np.dtype, row: tuple[int, ...], *, rows: int = 0):
        self.path, self.dtype, self.row, self.rows = path, dtype, row, rows
        size = _size(dtype, (rows, *row))
        if rows:
            _refuse_shorter(path, size)
        self.file = open(path, "r+b" if rows else "wb")  # noqa: SIM115
        self.file.truncate(size)
        self.file.write(UNFINISHED.ljust(_offset(dtype, row)))
        self.file.seek(0, os.SEEK_END)

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def append(self, values: np.ndarray) -> None:
        """Add rows.

        Raises
        ------
        ValueError
            If they are of another shape or dtype.
        """
        if values.shape[1:] != self.row or values.dtype != self.dtype:
            raise ValueError(
                f"rows for {self.path.name!r} are {values.dtype} of shape {values.shape[1:]}; "
                f"those before were {self.dtype} of shape {self.row}"
            )
        self.file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
        self.rows += len(values)
        self._begin_writing(values.nbytes)

    def _begin_writing(self, last: int) -> None:
        """Let the disk begin with the last so many bytes, without waiting for it, where the system knows how."""
        self.file.flush()
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file.fileno(), self.file.tell() - last, last, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Wait until the rows are on disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def seal(self) -> None:
        """Make the file a whole ``.npy``: rows to disk first, then the header that counts them."""
        self.sync()
        self.file.seek(0)
        self.file.write(_header(self.dtype, (self.rows, *self.row)))
        self.sync()


def mapped(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The array in ``path``, sealed or not, mapped read-only.

    Raises
    ------
    ValueError
        If the file is missing or too short for ``shape``.
    """
    _refuse_shorter(path, _size(dtype, shape))
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=_offset(dtype, shape[1:]), shape=shape)


def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Of a length that the number of rows does not change: NumPy leaves room for it to grow."""
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _offset(dtype: np.dtype, row: tuple[int, ...]) -> int:
    return len(_header(dtype, (0, *row)))


def _size(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    return _offset(dtype, shape[1:]) + dtype.itemsize * int(np.prod(shape, dtype=np.int64))


def _refuse_shorter(path: Path, size: int) -> None:
    found = path.stat().st_size if path.is_file() else 0
    if found < size:
        raise ValueError(f"{str(path)!r} is damaged: its recording counts {size} bytes in it, and it has {found}")
