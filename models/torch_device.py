"""Products and decompositions on a PyTorch device, for estimators that take one and hand it NumPy's arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Of NumPy's and PyTorch's.
PRECISIONS = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


@dataclass(frozen=True)
class TorchDevice:
    """A device of PyTorch as the ridges of ``nextlens.probes`` take one (:class:`nextlens.probes.ridge_device.Device`).

    Numbers keep their precision on the way there and back, and matrices are decomposed in float64, always.

    Parameters
    ----------
    name : str, default="cuda"
        As PyTorch spells it: "cuda", "cuda:1", "cpu", ...

    Raises
    ------
    ValueError
        If there is no such device here, or it has no float64.

    Examples
    --------
    >>> TorchDevice("cpu").gram(np.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    name: str = "cuda"

    def __post_init__(self) -> None:
        try:
            held = torch.ones(1, dtype=torch.float32, device=self.name)
            held.cpu()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            why = str(error).splitlines()[0]
            raise ValueError(f"name={self.name!r} is no device that holds numbers here: {why}") from error
        try:
            held.to(torch.float64)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"name={self.name!r} has no float64, in which a ridge must be decomposed: in float32 the eigenvalues "
                "of many features come out negative. Leave device out, or name another"
            ) from error

    def put(self, values: np.ndarray) -> Tensor:
        """A tensor of the same numbers; one that shares their memory if the device is the processor."""
        return torch.from_numpy(np.require(values, requirements="W")).to(self.name)

    def fetch(self, values: Tensor) -> np.ndarray:
        """An array of the same numbers."""
        return values.cpu().numpy()

    def at(self, index: slice | Int[np.ndarray, " some"]) -> slice | Tensor:
        """Slices stay; row numbers go to the device."""
        return index if isinstance(index, slice) else self.put(index)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype | type) -> Tensor:
        """Room."""
        return torch.empty(shape, dtype=PRECISIONS[np.dtype(dtype)], device=self.name)

    def cast(self, values: Tensor, dtype: np.dtype | type) -> Tensor:
        """In another precision."""
        return values.to(PRECISIONS[np.dtype(dtype)])

    def take_outer(
        self, found: Float[Tensor, "one other"], left: Float[np.ndarray, " one"], right: Float[np.ndarray, " other"]
    ) -> None:
        """``found -= left ⊗ right``, in place."""
        found.addr_(self.put(left).to(found), self.put(right).to(found), alpha=-1.0)

    def squares(self, values: Float[Tensor, "row many"]) -> Float[np.ndarray, " many"]:
        """Sums of squares over rows, added up in float64."""
        return self.fetch(torch.linalg.vector_norm(values, dim=0, dtype=torch.float64) ** 2)

    def gram(self, x: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "feature feature"]:
        """``xᵀx``."""
        there = self.put(x)
        return self.fetch(there.T @ there)

    def eigenvectors(self, matrix: Float[np.ndarray, "row row"]) -> Eigenvectors:
        """Of a symmetric matrix, in float64; no eigenvalue below 0."""
        values, vectors = torch.linalg.eigh(self.put(matrix.astype(np.float64, copy=False)))
        return Eigenvectors(vectors, self.fetch(values.clip(0.0)))

    def decomposed(
        self, matrix: Float[np.ndarray, "row row"], least_alpha: float, dtype: np.dtype | type
    ) -> Eigenvectors:
        """Eigenvectors, rounded to ``dtype`` after they were found."""
        found = self.eigenvectors(matrix)
        return Eigenvectors(self.cast(found.basis, dtype), found.diagonal)


@dataclass(frozen=True, eq=False)
class Eigenvectors:
    """``A = basis · diag · basisᵀ``, the basis on a device."""

    basis: Float[Tensor, "row kept"]
    diagonal: Float[np.ndarray, " kept"]

    def damped(
        self, left: Float[Tensor, "kept many"], alphas: Float[np.ndarray, " alpha"]
    ) -> Float[Tensor, "kept alpha many"]:
        """``(diag + αI)⁻¹ left`` for every α, in the precision of ``left``."""
        return self._reciprocal(alphas, left)[:, :, None] * left[:, None]

    def damped_each(
        self, columns: Float[Tensor, "kept many"], alphas: Float[np.ndarray, " many"]
    ) -> Float[Tensor, "kept many"]:
        """``(diag + αI)⁻¹ columns`` with an α for each column."""
        return self._reciprocal(alphas, columns) * columns

    def _reciprocal(self, alphas: Float[np.ndarray, " any"], like: Tensor) -> Float[Tensor, "kept any"]:
        """A direction that neither varies nor is penalised gets no weight."""
        diagonal, penalty = (torch.from_numpy(np.array(part)).to(like.device) for part in (self.diagonal, alphas))
        stiffness = diagonal[:, None] + penalty
        return torch.where(stiffness > 0, 1.0 / stiffness, 0.0).to(like.dtype)
