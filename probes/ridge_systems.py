"""The linear systems of a ridge, fold by fold: over features (primal) or over rows (dual), with a scale for each band.

Either way a prediction for the rows a fold tests is ``reach · (A + αI)⁻¹ · coordinates``, where A is symmetric and
only the coordinates know the targets::

    primal   A = g XᵀX g     reach = X_test g       coordinates = g Xᵀ Y
    dual     A = Σ γ_k K_k   reach = Σ γ_k K_k,test coordinates = Y           K_k = X_k X_kᵀ

with ``g = √γ`` of the band of each feature. All is centred by the means of the rows trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import get_blas_funcs

from nextlens.probes.ridge_decomposition import Decomposition, decomposed
from nextlens.probes.ridge_rows import Rows

Bands = tuple[Int[np.ndarray, " _"], ...]


@dataclass(frozen=True, eq=False)
class Fold:
    """What one fold needs to predict its test rows for any penalty of a grid.

    Attributes
    ----------
    maps : Float[np.ndarray, "kept alpha test"]
    basis : Float[np.ndarray, "coordinate kept"] or None
        Coordinates are turned by ``basisᵀ`` first; None where the maps have that in them.
    columns : Int[np.ndarray, " coordinate"] or None
        The coordinates that count; None for all.
    """

    maps: Float[np.ndarray, "kept alpha test"]
    basis: Float[np.ndarray, "coordinate kept"] | None
    columns: Int[np.ndarray, " coordinate"] | None

    def turned(self, coordinates: Float[np.ndarray, "all target"]) -> Float[np.ndarray, "kept target"]:
        """The coordinates as the maps take them."""
        taken = coordinates if self.columns is None else coordinates[self.columns]
        return taken if self.basis is None else self.basis.T @ taken

    def predicted(self, alpha: int, turned: Float[np.ndarray, "kept target"]) -> Float[np.ndarray, "test target"]:
        """Predictions with one penalty of the grid, less the mean of what was trained on."""
        return self.maps[:, alpha].T @ turned


@dataclass(frozen=True, eq=False)
class Primal:
    """Systems over features."""

    rows: Rows
    bands: Bands

    form = "primal"

    @property
    def n_coordinates(self) -> int:
        """As many as features."""
        return self.rows.x.shape[1]

    def fold(
        self, fold: int, shares: Float[np.ndarray, " band"], alphas: Float[np.ndarray, " alpha"], *, joined: bool
    ) -> Fold:
        """One decomposition for every penalty and target. ``joined``: multiply the basis into every map."""
        scale, columns = self._scaled(shares)
        rows, dtype = self.rows, self.rows.x.dtype
        solved = decomposed(self._matrix(fold, scale, columns), alphas.min(), dtype)
        tested = (
            rows.x[np.ix_(rows.test[fold], columns)] if len(columns) < self.n_coordinates else rows.x[rows.test[fold]]
        )
        tested = tested - np.outer(rows.ones[rows.test[fold]], rows.means[fold][columns]).astype(dtype)
        basis = scale[:, None].astype(dtype) * solved.basis.astype(dtype, copy=False)
        maps = solved.damped(basis.T @ tested.T, alphas)
        return _fold(maps, basis, columns if len(columns) < self.n_coordinates else None, joined=joined)

    def whole(
        self, shares: Float[np.ndarray, " band"], solve: Callable[[np.ndarray], Decomposition]
    ) -> tuple[Decomposition, Float[np.ndarray, "coordinate kept"]]:
        """The system of all rows, and the basis that turns coordinates; rows of 0 for bands left out."""
        scale, columns = self._scaled(shares)
        solved = solve(self._matrix(self.rows.n_folds, scale, columns))
        basis = np.zeros((self.n_coordinates, len(columns)), dtype=self.rows.x.dtype)
        basis[columns] = scale[:, None] * solved.basis
        return solved, basis

    def coordinates(
        self, y: Float[np.ndarray, "reduced target"], means: Float[np.ndarray, "set target"]
    ) -> list[Float[np.ndarray, "feature target"]]:
        """``Xᵀ Y``, centred, of each fold and last of all rows: one pass over the rows for all."""
        rows = self.rows
        if rows.summed_by_piece:
            sums = _summed_by_piece(rows, y)
        else:
            sums = [rows.x[train].T @ y[train] for train in rows.train]
        for weight, mean, total, found in zip(rows.weights, rows.means, means, sums, strict=True):
            _take_outer(found, weight * mean, total)
        return sums

    def weights(
        self, solution: Float[np.ndarray, "feature target"], shares: Float[np.ndarray, " band"]
    ) -> Float[np.ndarray, "feature target"]:
        """The coefficients themselves."""
        return solution

    def _scaled(
        self, shares: Float[np.ndarray, " band"]
    ) -> tuple[Float[np.ndarray, " column"], Int[np.ndarray, " column"]]:
        scale = np.empty(self.n_coordinates)
        for columns, share in zip(self.bands, shares, strict=True):
            scale[columns] = np.sqrt(share)
        columns = np.flatnonzero(scale > 0)
        return scale[columns], columns

    def _matrix(
        self, which: int, scale: Float[np.ndarray, " column"], columns: Int[np.ndarray, " column"]
    ) -> Float[np.ndarray, "column column"]:
        gram = self.rows.grams[which]
        taken = gram if len(columns) == len(gram) else gram[np.ix_(columns, columns)]
        return taken if (scale == 1.0).all() else taken * scale * scale[:, None]


@dataclass(frozen=True, eq=False)
class Dual:
    """Systems over rows."""

    rows: Rows
    bands: Bands

    form = "dual"

    @property
    def n_coordinates(self) -> int:
        """At most as many as rows."""
        return len(self.rows.x)

    @cached_property
    def kernels(self) -> Float[np.ndarray, "band row row"]:
        """``X_k X_kᵀ`` of each band in float64."""
        parts = (self.rows.x[:, columns].astype(np.float64) for columns in self.bands)
        return np.array([part @ part.T for part in parts])

    def fold(
        self, fold: int, shares: Float[np.ndarray, " band"], alphas: Float[np.ndarray, " alpha"], *, joined: bool
    ) -> Fold:
        """As :meth:`Primal.fold`."""
        kernel = np.tensordot(shares, self.kernels, axes=1)
        train, test = self.rows.train[fold], self.rows.test[fold]
        among, across = kernel[np.ix_(train, train)], kernel[np.ix_(test, train)]
        middle = among.mean(0)
        across = across - across.mean(1, keepdims=True) - (middle - middle.mean())
        among = among - middle - (middle - middle.mean())[:, None]
        solved = decomposed(among, alphas.min(), self.rows.x.dtype)
        basis = solved.basis.astype(self.rows.x.dtype, copy=False)
        maps = solved.damped(basis.T @ across.T.astype(basis.dtype), alphas)
        return _fold(maps, basis, None, joined=joined)

    def whole(
        self, shares: Float[np.ndarray, " band"], solve: Callable[[np.ndarray], Decomposition]
    ) -> tuple[Decomposition, Float[np.ndarray, "coordinate kept"]]:
        """As :meth:`Primal.whole`."""
        solved = solve(np.tensordot(shares, self.kernels, axes=1))
        return solved, solved.basis.astype(self.rows.x.dtype)

    def coordinates(
        self, y: Float[np.ndarray, "reduced target"], means: Float[np.ndarray, "set target"]
    ) -> list[Float[np.ndarray, "_ target"]]:
        """``Y``, centred, of each fold and last of all rows."""
        return [y[train] - mean.astype(y.dtype) for train, mean in zip(self.rows.train, means, strict=True)]

    def weights(
        self, solution: Float[np.ndarray, "row target"], shares: Float[np.ndarray, " band"]
    ) -> Float[np.ndarray, "feature target"]:
        """``γ_k X_kᵀ`` times the dual coefficients."""
        found = self.rows.x.T @ solution
        for columns, share in zip(self.bands, shares, strict=True):
            if share != 1.0:
                found[columns] *= share
        return found


System = Primal | Dual


def _fold(
    maps: Float[np.ndarray, "kept alpha test"],
    basis: Float[np.ndarray, "coordinate kept"],
    columns: Int[np.ndarray, " coordinate"] | None,
    *,
    joined: bool,
) -> Fold:
    if not joined:
        return Fold(maps, basis, columns)
    whole = np.empty((len(basis), *maps.shape[1:]), dtype=maps.dtype)
    for alpha in range(maps.shape[1]):
        np.matmul(basis, maps[:, alpha], out=whole[:, alpha])
    return Fold(whole, None, columns)


def _take_outer(
    found: Float[np.ndarray, "one other"], left: Float[np.ndarray, " one"], right: Float[np.ndarray, " other"]
) -> None:
    """``found -= left ⊗ right``, without that product beside it."""
    (update,) = get_blas_funcs(("ger",), (found,))
    update(-1.0, right.astype(found.dtype), left.astype(found.dtype), a=found.T, overwrite_a=1)


def _summed_by_piece(rows: Rows, y: Float[np.ndarray, "reduced target"]) -> list[Float[np.ndarray, "feature target"]]:
    sums: list[np.ndarray | None] = [None] * (rows.n_folds + 1)
    for part in rows.stretches:
        found = rows.x[part.at].T @ y[part.at]
        for fold in (*part.train, rows.n_folds):
            if sums[fold] is None:
                sums[fold] = found.copy()
            else:
                sums[fold] += found
    return sums
