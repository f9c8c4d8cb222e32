"""(A + αI)⁻¹ for many α after one decomposition of a symmetric matrix, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack

#: Penalties below this share of the trace are left to eigenvectors, whose negative rounding can be clipped.
LEAST_SHARE = 1e-11


@dataclass(frozen=True, eq=False)
class Decomposition:
    """``A = basis · T · basisᵀ`` with orthonormal columns, and T diagonal or tridiagonal.

    Attributes
    ----------
    basis : Float[np.ndarray, "row kept"]
    diagonal : Float[np.ndarray, " kept"]
    beside : Float[np.ndarray, " one_less"] or None
        What stands beside the diagonal; None if T is diagonal.
    """

    basis: Float[np.ndarray, "row kept"]
    diagonal: Float[np.ndarray, " kept"]
    beside: Float[np.ndarray, " one_less"] | None = None

    def damped(
        self, left: Float[np.ndarray, "kept many"], alphas: Float[np.ndarray, " alpha"]
    ) -> Float[np.ndarray, "kept alpha many"]:
        """``(T + αI)⁻¹ left`` for every α, in the precision of ``left``."""
        stiffness = self.diagonal[:, None] + alphas
        if self.beside is None:
            return _reciprocal(stiffness).astype(left.dtype)[:, :, None] * left[:, None]
        return _swept(stiffness, self.beside, np.repeat(left[:, None], len(alphas), axis=1))

    def damped_each(
        self, columns: Float[np.ndarray, "kept many"], alphas: Float[np.ndarray, " many"]
    ) -> Float[np.ndarray, "kept many"]:
        """``(T + αI)⁻¹ columns`` with an α for each column."""
        stiffness = self.diagonal[:, None] + alphas
        if self.beside is None:
            return _reciprocal(stiffness).astype(columns.dtype) * columns
        return _swept(stiffness, self.beside, columns[:, :, None].copy())[:, :, 0]


def eigenvectors(matrix: Float[np.ndarray, "row row"]) -> Decomposition:
    """T holds the eigenvalues, none below 0."""
    values, vectors = np.linalg.eigh(matrix)
    return Decomposition(vectors, values.clip(0.0))


def tridiagonal(matrix: Float[np.ndarray, "row row"], dtype: np.dtype | type = np.float64) -> Decomposition:
    """T by Householder's reflections: about half the work of eigenvectors, and as exact. The basis is in ``dtype``.

    A system with T + αI costs no more than one with a diagonal matrix, so eigenvectors are not needed to
    solve for many α. Golub and Van Loan, Matrix Computations, 4th edition, sections 4.3.6 and 8.3.1.
    """
    n = len(matrix)
    if n < 3:
        return eigenvectors(matrix)
    room, _ = lapack.dsytrd_lwork(n, lower=1)
    packed, diagonal, beside, scales, _ = lapack.dsytrd(matrix, lower=1, lwork=int(room))
    basis = np.zeros((n, n), dtype=dtype, order="F")
    basis[0, 0] = 1.0
    accumulate = lapack.sorgqr if basis.dtype == np.float32 else lapack.dorgqr
    basis[1:, 1:] = accumulate(packed[1:, :-1].astype(dtype), scales.astype(dtype), lwork=64 * n)[0]
    return Decomposition(basis, diagonal, beside)


def decomposed(
    matrix: Float[np.ndarray, "row row"], least_alpha: float, dtype: np.dtype | type = np.float64
) -> Decomposition:
    """The cheaper of both that is sound for penalties from ``least_alpha``; its basis serves products in ``dtype``."""
    if least_alpha > LEAST_SHARE * np.trace(matrix):
        return tridiagonal(matrix, dtype)
    return eigenvectors(matrix)


def _reciprocal(stiffness: Float[np.ndarray, "kept any"]) -> Float[np.ndarray, "kept any"]:
    """A direction that neither varies nor is penalised gets no weight."""
    return np.divide(1.0, stiffness, out=np.zeros_like(stiffness), where=stiffness > 0)


def _swept(
    diagonal: Float[np.ndarray, "row system"],
    beside: Float[np.ndarray, " one_less"],
    right: Float[np.ndarray, "row system many"],
) -> Float[np.ndarray, "row system many"]:
    """Positive definite tridiagonal systems, solved in place by elimination: all of them, a row at a time."""
    n = len(diagonal)
    pivot, ratio = diagonal.copy(), np.empty((n - 1, diagonal.shape[1]))
    for i in range(n - 1):
        ratio[i] = beside[i] / pivot[i]
        pivot[i + 1] -= beside[i] * ratio[i]
    ratio, inverse = (part.astype(right.dtype)[:, :, None] for part in (ratio, 1.0 / pivot))
    step = np.empty_like(right[0])
    for i in range(n - 1):
        right[i + 1] -= np.multiply(right[i], ratio[i], out=step)
    right *= inverse
    for i in range(n - 2, -1, -1):
        right[i] -= np.multiply(right[i + 1], ratio[i], out=step)
    return right
