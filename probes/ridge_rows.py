"""Rows of features as a ridge needs them: centred, in one precision, long pieces turned into as many as features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import numpy as np
from jaxtyping import Float, Int

from nextlens.probes.ridge import Moments, moments
from nextlens.probes.ridge_device import HERE, Device
from nextlens.probes.ridge_splits import Piece, Split, few, pieces_of

#: Of a long piece, directions with less than this share of the largest variance are left out.
LEAST_VARIANCE = 1e-14


@dataclass(frozen=True, eq=False)
class Stretch:
    """One piece of the data, and where it stands among the reduced rows.

    ``turn`` is None where the rows stand as they are; else its columns are orthonormal, ``turnᵀ`` takes the rows
    of this piece to fewer reduced rows, and no error of a linear prediction can tell the difference but by a
    constant: what of the targets is orthogonal to every feature.
    """

    rows: Int[np.ndarray, " row"]
    train: tuple[int, ...]
    test: tuple[int, ...]
    at: slice
    turn: Float[np.ndarray, "row reduced"] | None


@dataclass(frozen=True, eq=False)
class Rows:
    """Features of all rows, ready for folds.

    Attributes
    ----------
    x : Float[np.ndarray, "reduced feature"]
        Less ``ones ⊗ mean``, the mean over all rows of the data.
    ones : Float[np.ndarray, " reduced"]
        What the constant 1 has become.
    mean : Float[np.ndarray, " feature"]
    n_folds : int
    stretches : tuple of Stretch
        They hold every row once.
    summed_by_piece : bool
        Whether what a fold trains on is summed from stretches; otherwise afresh for each fold.
    weights, means : per fold, and last for all rows
        How many rows it trains on, and the mean of ``x`` over them.
    grams : tuple of Float[np.ndarray, "feature feature"], or None
        Centred sums of products over what each fold trains on, and last over all rows, in float64.
    """

    x: Float[np.ndarray, "reduced feature"]
    ones: Float[np.ndarray, " reduced"]
    mean: Float[np.ndarray, " feature"]
    n_folds: int
    stretches: tuple[Stretch, ...]
    summed_by_piece: bool
    weights: Float[np.ndarray, " set"]
    means: Float[np.ndarray, "set feature"]
    grams: tuple[Float[np.ndarray, "feature feature"], ...] | None

    @cached_property
    def train(self) -> list[Int[np.ndarray, " row"]]:
        """The reduced rows each fold trains on, and last all."""
        return [self._where(fold, "train") for fold in range(self.n_folds)] + [np.arange(len(self.x))]

    @cached_property
    def test(self) -> list[Int[np.ndarray, " row"]]:
        """The reduced rows each fold tests."""
        return [self._where(fold, "test") for fold in range(self.n_folds)]

    def _where(self, fold: int, side: str) -> Int[np.ndarray, " row"]:
        return np.concatenate([np.arange(s.at.start, s.at.stop) for s in self.stretches if fold in getattr(s, side)])


def reduced_rows(
    X: Float[np.ndarray, "row feature"], splits: list[Split], dtype: np.dtype, *, primal: bool, device: Device = HERE
) -> Rows:
    """Centred rows, their stretches, and in the primal form the sums of products of every fold.

    A piece of more rows than features is replaced by the square root of its moments: as many rows as there are
    directions, and one for its mean. After that no fold meets its length again.
    """
    mean = X.mean(0, dtype=np.float64)
    pieces = pieces_of(splits, len(X))
    by_piece = few(pieces, splits)
    found = [_moments(X[piece.rows], device) for piece in pieces] if primal and by_piece else None
    parts = [
        _stretch(X, mean, piece, None if found is None else found[i], dtype, device) for i, piece in enumerate(pieces)
    ]
    ends = np.cumsum([len(x) for x, _, _ in parts]).tolist()
    stretches = tuple(
        Stretch(piece.rows, piece.train, piece.test, slice(end - len(x), end), turn)
        for piece, (x, _, turn), end in zip(pieces, parts, ends, strict=True)
    )
    sets = [np.asarray(train) for train, _ in splits] + [np.arange(len(X))]
    grams = None
    if primal:
        whole = [[i for i, piece in enumerate(pieces) if fold in piece.train] for fold in range(len(splits))]
        fitted = (
            [reduce(add, (found[i] for i in members)) for members in [*whole, list(range(len(pieces)))]]
            if found is not None
            else [_moments(X[rows], device) for rows in sets]
        )
        grams, means = tuple(one.xx for one in fitted), np.array([one.mean_x for one in fitted])
    else:
        means = np.array([X[rows].mean(0, dtype=np.float64) for rows in sets])
    return Rows(
        x=np.concatenate([x for x, _, _ in parts]),
        ones=np.concatenate([ones for _, ones, _ in parts]),
        mean=mean,
        n_folds=len(splits),
        stretches=stretches,
        summed_by_piece=by_piece,
        weights=np.array([float(len(rows)) for rows in sets]),
        means=means - mean,
        grams=grams,
    )


def _moments(X: Float[np.ndarray, "row feature"], device: Device) -> Moments:
    return moments(X, np.zeros((len(X), 0)), gram=device.gram)


def _stretch(
    X: Float[np.ndarray, "row feature"],
    mean: Float[np.ndarray, " feature"],
    piece: Piece,
    found: Moments | None,
    dtype: np.dtype,
    device: Device,
) -> tuple[
    Float[np.ndarray, "reduced feature"], Float[np.ndarray, " reduced"], Float[np.ndarray, "taken reduced"] | None
]:
    """Reduced rows, what the constant becomes among them, and how targets get there."""
    n, p = len(piece.rows), X.shape[1]
    if found is None or n <= p + 1:
        return (X[piece.rows] - mean).astype(dtype), np.ones(n), None
    solved = device.eigenvectors(found.xx)
    variance, directions = solved.diagonal, device.fetch(solved.basis)
    kept = variance > LEAST_VARIANCE * variance[-1]
    root = np.sqrt(variance[kept])
    centre = np.sqrt(n) * (found.mean_x - mean)
    x = np.vstack([centre, root[:, None] * directions[:, kept].T])
    ones = np.zeros(len(x))
    ones[0] = np.sqrt(n)
    to_directions = device.put(directions[:, kept] / root)
    turn = np.empty((n, len(x)), dtype=dtype)
    turn[:, 0] = 1.0 / np.sqrt(n)
    for start in range(0, n, 4096):
        some = piece.rows[start : start + 4096]
        turn[start : start + 4096, 1:] = device.fetch(device.put(X[some] - found.mean_x) @ to_directions)
    return x.astype(dtype), ones, turn
