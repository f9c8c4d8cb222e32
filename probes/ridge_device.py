"""Where the products and decompositions of a ridge are done: with NumPy here, or on a device that is handed in."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from joblib import effective_n_jobs
from scipy.linalg import get_blas_funcs

from nextlens.probes.ridge_decomposition import Decomposition, decomposed, eigenvectors

#: An array of a device: it knows ``@``, ``.T``, arithmetic and slices, as NumPy's do.
Array = Any


@runtime_checkable
class Decomposed(Protocol):
    """A decomposition on a device: what :class:`~nextlens.probes.ridge_decomposition.Decomposition` is here."""

    basis: Array
    diagonal: Float[np.ndarray, " kept"]

    def damped(self, left: Array, alphas: Float[np.ndarray, " alpha"]) -> Array:
        """``(T + αI)⁻¹ left`` for every α: (kept, alpha, many)."""
        ...

    def damped_each(self, columns: Array, alphas: Float[np.ndarray, " many"]) -> Array:
        """``(T + αI)⁻¹ columns`` with an α for each column."""
        ...


@runtime_checkable
class Device(Protocol):
    """Whatever holds arrays and multiplies them. It is given NumPy's arrays, and gives them back.

    All that grows as the cube of rows, features or targets goes through it; what is chosen, counted and returned
    stays in NumPy. :class:`~nextlens.models.torch_device.TorchDevice` is one for PyTorch.
    """

    def put(self, values: np.ndarray) -> Array:
        """The same numbers there, in the same precision."""
        ...

    def fetch(self, values: Array) -> np.ndarray:
        """The same numbers here."""
        ...

    def at(self, index: slice | Int[np.ndarray, " some"]) -> Any:
        """What an array of the device is indexed by."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> Array:
        """Room."""
        ...

    def cast(self, values: Array, dtype: np.dtype | type) -> Array:
        """In another precision."""
        ...

    def take_outer(self, found: Array, left: Float[np.ndarray, " one"], right: Float[np.ndarray, " other"]) -> None:
        """``found -= left ⊗ right``, in place."""
        ...

    def squares(self, values: Array) -> Float[np.ndarray, " many"]:
        """Sums of squares over rows, added up in float64."""
        ...

    def gram(self, x: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "feature feature"]:
        """``xᵀx`` of float64."""
        ...

    def eigenvectors(self, matrix: Float[np.ndarray, "row row"]) -> Decomposed:
        """Of a symmetric matrix, in float64; no eigenvalue below 0."""
        ...

    def decomposed(
        self, matrix: Float[np.ndarray, "row row"], least_alpha: float, dtype: np.dtype | type
    ) -> Decomposed:
        """By what is cheapest and sound for penalties from ``least_alpha``, in float64; a basis in ``dtype``."""
        ...


class Here:
    """NumPy: nothing is moved, nothing copied."""

    def put(self, values: np.ndarray) -> np.ndarray:
        return values

    def fetch(self, values: np.ndarray) -> np.ndarray:
        return values

    def at(self, index: slice | Int[np.ndarray, " some"]) -> slice | Int[np.ndarray, " some"]:
        return index

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        return np.empty(shape, dtype=dtype)

    def cast(self, values: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
        return values.astype(dtype, copy=False)

    def take_outer(
        self, found: Float[np.ndarray, "one other"], left: Float[np.ndarray, " one"], right: Float[np.ndarray, " other"]
    ) -> None:
        (update,) = get_blas_funcs(("ger",), (found,))
        update(-1.0, right.astype(found.dtype), left.astype(found.dtype), a=found.T, overwrite_a=1)

    def squares(self, values: Float[np.ndarray, "row many"]) -> Float[np.ndarray, " many"]:
        """Short runs in the precision of the values, and those in float64."""
        total = np.zeros(values.shape[1])
        for start in range(0, len(values), 256):
            run = values[start : start + 256]
            total += np.einsum("rm,rm->m", run, run)
        return total

    def gram(self, x: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "feature feature"]:
        return x.T @ x

    def eigenvectors(self, matrix: Float[np.ndarray, "row row"]) -> Decomposition:
        return eigenvectors(matrix)

    def decomposed(
        self, matrix: Float[np.ndarray, "row row"], least_alpha: float, dtype: np.dtype | type
    ) -> Decomposition:
        return decomposed(matrix, least_alpha, dtype)


HERE = Here()


def device_of(device: object, n_jobs: int | None) -> Device:
    """The device of an estimator: :data:`HERE` if it is None.

    Raises
    ------
    ValueError
        If it is none, or blocks of targets are to be spread over processes as well.
    """
    if device is None:
        return HERE
    if not isinstance(device, Device):
        raise ValueError(
            f"device={device!r} must be None, for NumPy, or an object that multiplies arrays, such as "
            "nextlens.models.torch_device.TorchDevice('cuda')"
        )
    workers = effective_n_jobs(n_jobs)
    if workers > 1:
        raise ValueError(
            f"device={device!r} takes one block of targets after another, and n_jobs or joblib.parallel_config asks "
            f"for {workers} workers; ask for one of both"
        )
    return device
