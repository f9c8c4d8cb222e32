"""The linear systems of a ridge, fold by fold: over features (primal) or over rows (dual), with a scale for each band.

Either way a prediction for the rows a fold tests is ``reach · (A + αI)⁻¹ · coordinates``, where A is symmetric and
only the coordinates know the targets::

    primal   A = g XᵀX g     reach = X_test g       coordinates = g Xᵀ Y
    dual     A = Σ γ_k K_k   reach = Σ γ_k K_k,test coordinates = Y           K_k = X_k X_kᵀ

with ``g = √γ`` of the band of each feature. All is centred by the means of the rows trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from nextlens.probes.ridge_device import HERE, Array, Decomposed, Device
from nextlens.probes.ridge_rows import Rows

Bands = tuple[Int[np.ndarray, " _"], ...]


@dataclass(frozen=True, eq=False)
class Fold:
    """What one fold needs to predict its test rows for any penalty of a grid.

    Attributes
    ----------
    maps : Float[Array, "kept alpha test"]
    basis : Float[Array, "coordinate kept"] or None
        Coordinates are turned by ``basisᵀ`` first; None where the maps have that in them.
    columns : Int[Array, " coordinate"] or None
        The coordinates that count; None for all.
    """

    maps: Float[Array, "kept alpha test"]
    basis: Float[Array, "coordinate kept"] | None
    columns: Int[Array, " coordinate"] | None

    def turned(self, coordinates: Float[Array, "all target"]) -> Float[Array, "kept target"]:
        """The coordinates as the maps take them."""
        taken = coordinates if self.columns is None else coordinates[self.columns]
        return taken if self.basis is None else self.basis.T @ taken

    def predicted(self, alpha: int, turned: Float[Array, "kept target"]) -> Float[Array, "test target"]:
        """Predictions with one penalty of the grid, less the mean of what was trained on."""
        return self.maps[:, alpha].T @ turned


@dataclass(frozen=True, eq=False)
class _Placed:
    """Rows here, in bands, and on a device."""

    rows: Rows
    bands: Bands
    device: Device = HERE

    @cached_property
    def x(self) -> Float[Array, "reduced feature"]:
        """The features on the device."""
        return self.device.put(self.rows.x)

    @cached_property
    def turns(self) -> list[Float[Array, "_ _"] | None]:
        """What turns the targets of each stretch, on the device."""
        return [None if part.turn is None else self.device.put(part.turn) for part in self.rows.stretches]


@dataclass(frozen=True, eq=False)
class Primal(_Placed):
    """Systems over features."""

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
        rows, dtype, device = self.rows, self.rows.x.dtype, self.device
        solved = device.decomposed(self._matrix(fold, scale, columns), alphas.min(), dtype)
        tested = (
            rows.x[np.ix_(rows.test[fold], columns)] if len(columns) < self.n_coordinates else rows.x[rows.test[fold]]
        )
        tested = tested - np.outer(rows.ones[rows.test[fold]], rows.means[fold][columns]).astype(dtype)
        basis = device.put(scale[:, None].astype(dtype)) * device.cast(solved.basis, dtype)
        maps = solved.damped(basis.T @ device.put(tested).T, alphas)
        some = device.at(columns) if len(columns) < self.n_coordinates else None
        return _fold(maps, basis, some, device.empty, dtype, joined=joined)

    def whole(
        self, shares: Float[np.ndarray, " band"], solve: Callable[[np.ndarray], Decomposed]
    ) -> tuple[Decomposed, Float[Array, "coordinate kept"]]:
        """The system of all rows, and the basis that turns coordinates; rows of 0 for bands left out."""
        scale, columns = self._scaled(shares)
        solved = solve(self._matrix(self.rows.n_folds, scale, columns))
        dtype, device = self.rows.x.dtype, self.device
        basis = device.put(np.zeros((self.n_coordinates, len(columns)), dtype=dtype))
        basis[device.at(columns)] = device.cast(device.put(scale[:, None]) * solved.basis, dtype)
        return solved, basis

    def coordinates(
        self, y: Float[Array, "reduced target"], means: Float[np.ndarray, "set target"]
    ) -> list[Float[Array, "feature target"]]:
        """``Xᵀ Y``, centred, of each fold and last of all rows: one pass over the rows for all."""
        rows, x = self.rows, self.x
        if rows.summed_by_piece:
            sums = _summed_by_piece(rows, x, y)
        else:
            sums = [x[train].T @ y[train] for train in map(self.device.at, rows.train)]
        for weight, mean, total, found in zip(rows.weights, rows.means, means, sums, strict=True):
            self.device.take_outer(found, weight * mean, total)
        return sums

    def weights(
        self, solution: Float[Array, "feature target"], shares: Float[np.ndarray, " band"]
    ) -> Float[Array, "feature target"]:
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
class Dual(_Placed):
    """Systems over rows."""

    form = "dual"

    @property
    def n_coordinates(self) -> int:
        """At most as many as rows."""
        return len(self.rows.x)

    @cached_property
    def kernels(self) -> Float[np.ndarray, "band row row"]:
        """``X_k X_kᵀ`` of each band in float64."""
        parts = (self.rows.x[:, columns].astype(np.float64) for columns in self.bands)
        return np.array([self.device.gram(part.T) for part in parts])

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
        dtype, device = self.rows.x.dtype, self.device
        solved = device.decomposed(among, alphas.min(), dtype)
        basis = device.cast(solved.basis, dtype)
        maps = solved.damped(basis.T @ device.put(across.T.astype(dtype)), alphas)
        return _fold(maps, basis, None, device.empty, dtype, joined=joined)

    def whole(
        self, shares: Float[np.ndarray, " band"], solve: Callable[[np.ndarray], Decomposed]
    ) -> tuple[Decomposed, Float[Array, "coordinate kept"]]:
        """As :meth:`Primal.whole`."""
        solved = solve(np.tensordot(shares, self.kernels, axes=1))
        return solved, self.device.cast(solved.basis, self.rows.x.dtype)

    def coordinates(
        self, y: Float[Array, "reduced target"], means: Float[np.ndarray, "set target"]
    ) -> list[Float[Array, "_ target"]]:
        """``Y``, centred, of each fold and last of all rows."""
        moved = map(self.device.put, means.astype(self.rows.x.dtype))
        return [y[self.device.at(train)] - mean for train, mean in zip(self.rows.train, moved, strict=True)]

    def weights(
        self, solution: Float[Array, "row target"], shares: Float[np.ndarray, " band"]
    ) -> Float[Array, "feature target"]:
        """``γ_k X_kᵀ`` times the dual coefficients."""
        found = self.x.T @ solution
        for columns, share in zip(self.bands, shares, strict=True):
            if share != 1.0:
                found[self.device.at(columns)] *= share
        return found


System = Primal | Dual


def _fold(
    maps: Float[Array, "kept alpha test"],
    basis: Float[Array, "coordinate kept"],
    columns: Int[Array, " coordinate"] | None,
    empty: Callable[[tuple[int, ...], np.dtype], Array],
    dtype: np.dtype,
    *,
    joined: bool,
) -> Fold:
    if not joined:
        return Fold(maps, basis, columns)
    whole = empty((len(basis), *maps.shape[1:]), dtype)
    for alpha in range(maps.shape[1]):
        whole[:, alpha] = basis @ maps[:, alpha]
    return Fold(whole, None, columns)


def _summed_by_piece(
    rows: Rows, x: Float[Array, "reduced feature"], y: Float[Array, "reduced target"]
) -> list[Float[Array, "feature target"]]:
    sums: list[Array] = [None] * (rows.n_folds + 1)
    for part in rows.stretches:
        found = x[part.at].T @ y[part.at]
        for fold in (*part.train, rows.n_folds):
            if sums[fold] is None:
                sums[fold] = deepcopy(found)
            else:
                sums[fold] += found
    return sums
