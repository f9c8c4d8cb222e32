"""Ridge regression for many targets, from moments gathered in one pass over the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
from jaxtyping import Float

from nextlens.probes.ridge_decomposition import eigenvectors

#: Rows turned to float64 at a time.
BLOCK = 4096

#: Penalties below this are lost in the rounding of float64 moments.
LEAST_ALPHA = 1e-12


@dataclass(frozen=True, eq=False)
class Moments:
    """Weight, means and centred sums of products: all that a ridge fit or its error needs of rows.

    With weights w and weighted means x̄, ȳ::

        weight = Σ w     xx = Σ w (x - x̄)ᵀ(x - x̄)     xy = Σ w (x - x̄)ᵀ(y - ȳ)     yy = Σ w (y - ȳ)²

    The moments of two sets of rows taken together are their sum, ``a + b`` (Chan, Golub and LeVeque,
    The American Statistician 37, 1983). There is no difference: what remains after leaving rows out
    is found by adding the others, which never cancels.

    Attributes
    ----------
    weight : float
    mean_x : Float[np.ndarray, " feature"]
    mean_y : Float[np.ndarray, " target"]
    xx : Float[np.ndarray, "feature feature"]
    xy : Float[np.ndarray, "feature target"]
    yy : Float[np.ndarray, " target"]
        One number per target, so that many targets stay cheap.
    """

    weight: float
    mean_x: Float[np.ndarray, " feature"]
    mean_y: Float[np.ndarray, " target"]
    xx: Float[np.ndarray, "feature feature"]
    xy: Float[np.ndarray, "feature target"]
    yy: Float[np.ndarray, " target"]

    def __add__(self, other: Moments) -> Moments:
        weight = self.weight + other.weight
        share = other.weight / weight if weight > 0 else 0.0
        x, y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        between = self.weight * share
        return Moments(
            weight=weight,
            mean_x=self.mean_x + share * x,
            mean_y=self.mean_y + share * y,
            xx=self.xx + other.xx + between * np.outer(x, x),
            xy=self.xy + other.xy + between * np.outer(x, y),
            yy=self.yy + other.yy + between * y**2,
        )


def moments(
    X: Float[np.ndarray, "sample feature"],
    Y: Float[np.ndarray, "sample target"],
    weights: Float[np.ndarray, " sample"] | None = None,
    *,
    gram: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Moments:
    """The weighted moments of rows, summed in float64 whatever the precision of the rows.

    Rows are first moved by the first row, so a column that is constant has a variance of exactly 0. ``gram`` is what
    multiplies centred rows by themselves, ``xᵀx``, if not NumPy.

    Raises
    ------
    ValueError
        If there are no rows, lengths differ, a weight is negative, or a value is not finite.
    """
    weights = row_weights(weights, len(X))
    refuse_unequal_lengths(X=X, Y=Y)
    refuse_not_finite(X=X, Y=Y)
    moved = reduce(add, (_block_moments(*block, gram or _gram) for block in _blocks(X, Y, weights)))
    return replace(moved, mean_x=moved.mean_x + X[0], mean_y=moved.mean_y + Y[0])


def ridge_weights(rows: Moments, alphas: Float[np.ndarray, " alpha"]) -> Float[np.ndarray, "alpha feature target"]:
    """The ridge solution for every penalty, from one eigendecomposition. Minimises, over W and c::

        Σ w |y - c - x W|² / Σ w  +  alpha · s² · |W|²

    where s² is the mean over features of their weighted variance, and c = ȳ - x̄ W is not penalised.
    So one grid of penalties serves every layer: multiplying all weights, or all of X, by a constant
    changes no prediction. scikit-learn's penalty for the same solution is ``Σ w · s² · alpha``.

    A direction in which x does not vary gets no weight. The eigenvalues of ``xx`` are exact to about
    1e-16 of the largest, hence :data:`LEAST_ALPHA`; with it, fewer rows than features is no special
    case.

    Raises
    ------
    ValueError
        If the rows have no weight.
    """
    if not rows.weight > 0:
        raise ValueError("weights of the rows to fit are all zero; some row must count")
    solved = eigenvectors(rows.xx)
    damped = solved.damped(solved.basis.T @ rows.xy, alphas * np.trace(rows.xx) / len(rows.xx))
    return solved.basis @ damped.transpose(1, 0, 2)


def squared_error(
    weights: Float[np.ndarray, "alpha feature target"], fitted: Moments, scored: Moments
) -> Float[np.ndarray, "alpha target"]:
    """Σ w (y - ŷ)² over the rows of ``scored``, where ŷ = ȳ + (x - x̄) W with the means of ``fitted``.

    Exact to about 1e-16 of Σ w y², which is finer than any difference between penalties that matters.
    """
    bias = scored.mean_y - fitted.mean_y - (scored.mean_x - fitted.mean_x) @ weights
    cross = np.einsum("aft,ft->at", weights, scored.xy)
    square = np.einsum("aft,aft->at", weights, scored.xx @ weights)
    return np.maximum(scored.yy - 2.0 * cross + square + scored.weight * bias**2, 0.0)


def ordinary_least_squares(
    X: Float[np.ndarray, "sample feature"],
    Y: Float[np.ndarray, "sample target"],
    weights: Float[np.ndarray, " sample"] | None = None,
) -> tuple[Float[np.ndarray, "feature target"], Float[np.ndarray, " target"]]:
    """The affine map (W, c) of least weighted squared error; of several, the one of least ``|W|``.

    Solved by orthogonal triangles, block after block, so that the condition of X is never squared.

    Raises
    ------
    ValueError
        As :func:`moments`, and if the weights sum to 0.
    """
    weights = row_weights(weights, len(X))
    refuse_unequal_lengths(X=X, Y=Y)
    refuse_not_finite(X=X, Y=Y)
    n_features = X.shape[1]
    triangle = np.zeros((0, 1 + n_features + Y.shape[1]))
    for x, y, w in _blocks(X, Y, weights):
        rows = np.hstack([np.ones((len(x), 1)), x, y]) * np.sqrt(w)[:, None]
        triangle = np.linalg.qr(np.vstack([triangle, rows]), mode="r")
    if triangle[0, 0] == 0:
        raise ValueError("weights are all zero; some row must count")
    mean_x, mean_y = np.split(triangle[0, 1:] / triangle[0, 0], [n_features])
    left, right = np.split(triangle[1:, 1:], [n_features], axis=1)
    W = np.linalg.lstsq(left, right, rcond=np.finfo(float).eps * max(X.shape))[0]
    return W, Y[0] + mean_y - (X[0] + mean_x) @ W


def r2(
    truth: Float[np.ndarray, " sample *target"],
    guess: Float[np.ndarray, " sample *target"],
    weights: Float[np.ndarray, " sample"] | None = None,
) -> float:
    """Variance explained, pooled over targets: ``1 - Σ w |y - ŷ|² / Σ w |y - ȳ|²``.

    Where the truth does not vary there is nothing to explain, and it is 0, right or wrong the guess.

    Raises
    ------
    ValueError
        If lengths differ, a value is not finite, a weight is negative, or the weights sum to 0.
    """
    weights = _scoring_weights(truth, guess, weights)
    moved = _columns(truth - truth[0])
    spread = weights @ (moved - weights @ moved / weights.sum()) ** 2
    error = weights @ _columns(truth - guess) ** 2
    return float(explained(error[None], spread)[0])


def mse(
    truth: Float[np.ndarray, " sample *target"],
    guess: Float[np.ndarray, " sample *target"],
    weights: Float[np.ndarray, " sample"] | None = None,
) -> float:
    """Squared error, averaged over rows by weight and over targets alike; its root is the ``rmse``.

    Raises
    ------
    ValueError
        As :func:`r2`.
    """
    weights = _scoring_weights(truth, guess, weights)
    return float((weights @ _columns(truth - guess) ** 2).mean() / weights.sum())


def explained(
    errors: Float[np.ndarray, "many target"], spread: Float[np.ndarray, " target"]
) -> Float[np.ndarray, " many"]:
    """R² from sums of squares, pooled over targets; 0 where there is no spread."""
    pooled = spread.sum()
    return 1.0 - errors.sum(1) / pooled if pooled > 0 else np.zeros(len(errors))


def penalties(alphas: Sequence[float] | Float[np.ndarray, " alpha"]) -> Float[np.ndarray, " alpha"]:
    """``alphas`` as an array, or a refusal.

    Raises
    ------
    ValueError
        If there is none, or one is below :data:`LEAST_ALPHA` or infinite.
    """
    checked = np.asarray(alphas, dtype=np.float64)
    if checked.ndim != 1 or checked.size == 0 or not ((checked >= LEAST_ALPHA) & np.isfinite(checked)).all():
        raise ValueError(
            f"alphas={alphas!r} must hold at least one number, each finite and at least {LEAST_ALPHA:g}; "
            "for no penalty see ordinary_least_squares"
        )
    return checked


def best_penalty(alphas: Float[np.ndarray, " alpha"], errors: Float[np.ndarray, " alpha"]) -> float:
    """The penalty of least error; of several, the largest."""
    return float(alphas[errors == errors.min()].max())


def row_weights(weights: object, n_rows: int) -> Float[np.ndarray, " sample"]:
    """``weights`` as float64, one per row; all 1 if None.

    Raises
    ------
    ValueError
        If there is not one for each row, or one is negative or not finite.
    """
    if weights is None:
        return np.ones(n_rows)
    checked = np.asarray(weights, dtype=np.float64)
    if checked.shape != (n_rows,):
        raise ValueError(f"weights has shape {checked.shape}; it must be ({n_rows},), one weight per row of X")
    wrong = ~(np.isfinite(checked) & (checked >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"weights[{row}]={checked[row]} must be finite and at least 0")
    return checked


def refuse_unequal_lengths(**arrays: np.ndarray) -> None:
    """Raise unless all have as many rows as the first, and at least one.

    Raises
    ------
    ValueError
        Naming the arrays and their lengths.
    """
    (first, expected), *others = ((name, len(array)) for name, array in arrays.items())
    if expected == 0:
        raise ValueError(f"{first} has no rows; at least one is needed")
    for name, length in others:
        if length != expected:
            raise ValueError(f"{name} has {length} rows and {first} has {expected}; they must be as many")


def refuse_not_finite(**arrays: Float[np.ndarray, "sample ..."]) -> None:
    """Raise if a value is NaN or infinite.

    Raises
    ------
    ValueError
        Naming the array, how many values, and the first row that holds one.
    """
    for name, array in arrays.items():
        wrong = ~np.isfinite(array)
        if wrong.any():
            row = int(wrong.reshape(len(array), -1).any(1).argmax())
            raise ValueError(f"{name} holds {int(wrong.sum())} NaN or infinite values; the first in row {row}")


def _blocks(X: np.ndarray, Y: np.ndarray, weights: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Some rows at a time, in float64, moved by the first row of all."""
    x, y = X[0].astype(np.float64), Y[0].astype(np.float64)
    for start in range(0, len(X), BLOCK):
        rows = slice(start, start + BLOCK)
        yield X[rows] - x, Y[rows] - y, weights[rows]


def _block_moments(
    X: Float[np.ndarray, "sample feature"],
    Y: Float[np.ndarray, "sample target"],
    weights: Float[np.ndarray, " sample"],
    gram: Callable[[np.ndarray], np.ndarray],
) -> Moments:
    weight = float(weights.sum())
    share = weights / weight if weight > 0 else weights
    mean_x, mean_y = share @ X, share @ Y
    root = np.sqrt(weights)[:, None]
    x, y = (X - mean_x) * root, (Y - mean_y) * root
    return Moments(weight, mean_x, mean_y, gram(x), x.T @ y, np.einsum("st,st->t", y, y))


def _gram(x: Float[np.ndarray, "sample feature"]) -> Float[np.ndarray, "feature feature"]:
    return x.T @ x


def _scoring_weights(truth: np.ndarray, guess: np.ndarray, weights: object) -> Float[np.ndarray, " sample"]:
    refuse_unequal_lengths(truth=truth, guess=guess)
    refuse_not_finite(truth=truth, guess=guess)
    checked = row_weights(weights, len(truth))
    if not checked.sum() > 0:
        raise ValueError("weights are all zero; some row must count")
    return checked


def _columns(values: Float[np.ndarray, " sample *target"]) -> Float[np.ndarray, "sample target"]:
    return values.reshape(len(values), -1)
