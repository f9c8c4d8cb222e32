"""How many bytes a ridge needs beyond its data and its weights, and how many targets fit at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nextlens.probes.ridge_splits import Split, few, pieces_of

#: Targets taken together at most: more only fill memory faster than the processor empties it.
MOST_TARGETS = 2048

#: For the interpreter's and BLAS's own small change.
SLACK = 4 << 20


@dataclass(frozen=True)
class Need:
    """Bytes at the worst moment: ``fixed + targets · per_target``."""

    fixed: int
    per_target: int

    def targets(self, memory: float | int | None, n_targets: int, most: int | None = MOST_TARGETS) -> int:
        """How many targets to take at a time.

        Raises
        ------
        ValueError
            If not even one fits: what is needed, of that what for one target.
        """
        wanted = n_targets if most is None else min(n_targets, most)
        if memory is None:
            return wanted
        room = int((memory - self.fixed) // self.per_target)
        if room < 1:
            raise ValueError(
                f"memory={memory:.4g} bytes are too few: these rows, features, folds and penalties need "
                f"{self.fixed:.4g}, and {self.per_target:.4g} more for every target taken at a time; give at least "
                f"{self.fixed + self.per_target:.4g}, fewer penalties or fewer folds"
            )
        return min(wanted, room)


def need(
    splits: list[Split],
    shape: tuple[int, int],
    n_alphas: int,
    itemsize: int,
    target_itemsize: int,
    *,
    primal: bool,
    n_bands: int = 1,
    kept_folds: bool = True,
) -> Need:
    """The bytes a fit needs.

    Parameters
    ----------
    splits : list of (train, test)
    shape : (int, int)
        Rows and features.
    n_alphas : int
    itemsize, target_itemsize : int
        Bytes of a number in the products, and in the targets as they come.
    primal : bool
    n_bands : int, default=1
    kept_folds : bool, default=True
        Whether the systems stay while targets come and go, or are made anew for every candidate.
    """
    n, p = shape
    pieces = pieces_of(splits, n)
    by_piece = primal and few(pieces, splits)
    reduced = [min(len(piece.rows), p + 1) if by_piece else len(piece.rows) for piece in pieces]
    rows, longest = sum(reduced), max(len(piece.rows) for piece in pieces)
    tested = sum(size * len(piece.test) for size, piece in zip(reduced, pieces, strict=True))
    turned = sum(len(piece.rows) * size for size, piece in zip(reduced, pieces, strict=True) if size < len(piece.rows))
    folds, q = len(splits), p if primal else rows
    square = 8 * q * q
    gathered = len(pieces) if by_piece else folds
    fixed = rows * p * itemsize + turned * itemsize + 2 * min(4096, longest) * p * 8
    fixed += square * ((gathered + folds + 1 if primal else n_bands) + 6)
    maps = n_alphas * tested * q * itemsize
    fixed += maps + (1 if kept_folds else 2) * maps // max(folds, 1) + (folds + 1) * q * q * itemsize
    per_target = n * (2 * target_itemsize + 2 * itemsize + 1) + rows * itemsize
    per_target += (2 * folds + 3) * q * itemsize + (2 * tested + 2 * rows) * itemsize + (p + 2 * q) * itemsize
    per_target += 8 * (3 * n_alphas + 4 * len(pieces) + 32)
    return Need(int(fixed) + SLACK, int(per_target))


def products_in(X: np.ndarray, Y: np.ndarray, least_alpha: float) -> np.dtype:
    """float32 where the data have no more digits and the penalties need none; otherwise float64.

    Rounded products leave a relative error of about ``ε √(λ / α)`` in a prediction, with λ the largest
    eigenvalue of XᵀX and α the least penalty; up to :data:`FLOAT32_ERROR` that is let pass.
    """
    if np.result_type(X.dtype, Y.dtype, np.float32) != np.float32:
        return np.dtype(np.float64)
    error = np.finfo(np.float32).eps * np.sqrt(_largest_eigenvalue(X) / least_alpha)
    return np.dtype(np.float32 if error <= FLOAT32_ERROR else np.float64)


#: What float32 products may cost at the weakest penalty, relative to a prediction.
FLOAT32_ERROR = 3e-4


def _largest_eigenvalue(X: np.ndarray, steps: int = 12) -> float:
    """Of centred XᵀX, by powers; from below, and near enough."""
    mean = X.mean(0, dtype=np.float64).astype(X.dtype)
    vector = np.random.default_rng(0).standard_normal(X.shape[1]).astype(X.dtype)
    length = 0.0
    for _ in range(steps):
        norm = float(np.linalg.norm(vector))
        if norm == 0 or not np.isfinite(norm):
            break
        vector = vector / norm
        seen = X @ vector
        seen -= mean @ vector
        vector = X.T @ seen - mean * seen.sum()
        length = float(np.linalg.norm(vector))
    return length
