"""Affine probes for belief states: an estimator, and the score it has on rows it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from heapq import heapify, heapreplace
from itertools import combinations
from operator import add
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.model_selection import GroupKFold, check_cv
from sklearn.utils.validation import check_is_fitted, validate_data

from nextlens.models.arguments import at_least
from nextlens.probes.ridge import (
    Moments,
    best_penalty,
    explained,
    moments,
    mse,
    ordinary_least_squares,
    penalties,
    r2,
    refuse_not_finite,
    refuse_unequal_lengths,
    ridge_weights,
    row_weights,
    squared_error,
)

#: The penalties tried unless told otherwise, in units of the mean variance of a feature.
ALPHAS = tuple(10.0**power for power in range(-10, 3))


class BeliefProbe(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Affine map from activations to beliefs, with the ridge penalty cross-validated.

    Minimises, over ``coef_`` = Wᵀ and ``intercept_`` = c, with s² the mean variance of a feature::

        Σ w |y - c - x W|² / Σ w  +  alpha · s² · |W|²

    so that the grid of penalties suits every layer (:func:`nextlens.probes.ridge.ridge_weights`).

    Parameters
    ----------
    alphas : sequence of float
        Penalties to try. The largest wins ties.
    cv : int or splitter, default=5
        As in :func:`~sklearn.model_selection.check_cv`; but an integer means that many folds of
        whole groups where :meth:`fit` is given ``groups``.
    on_simplex : bool, default=False
        Whether :meth:`predict` moves each row to the nearest probability distribution. The penalty
        is chosen before that.

    Attributes
    ----------
    coef_ : array of shape (n_targets, n_features) or (n_features,)
    intercept_ : array of shape (n_targets,) or float
    alpha_ : float
        The penalty chosen.
    cv_scores_ : array of shape (n_alphas,)
        R² of each penalty over all held-out rows together, pooled over targets; the same R² as
        :meth:`score`. It has chosen ``alpha_``: for a number to report, see :func:`held_out`.

    Examples
    --------
    >>> X = np.random.default_rng(0).standard_normal((60, 4))
    >>> probe = BeliefProbe(cv=3).fit(X, X[:, :2] - 1.0, groups=np.arange(60) // 4)
    >>> round(probe.score(X, X[:, :2] - 1.0), 6)
    1.0
    """

    def __init__(self, alphas=ALPHAS, *, cv=5, on_simplex=False):
        self.alphas = alphas
        self.cv = cv
        self.on_simplex = on_simplex

    def fit(self, X, y, groups=None, sample_weight=None):
        """Choose the penalty on held-out folds, then fit on every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
        groups : array-like of shape (n_samples,), optional
            Rows of one group never straddle a split.
        sample_weight : array-like of shape (n_samples,), optional
            Only their ratios matter.

        Raises
        ------
        ValueError
            If a penalty, a weight or a shape is not what it must be.
        """
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=[np.float64, np.float32])
        alphas, weights = penalties(self.alphas), row_weights(sample_weight, len(X))
        if self.on_simplex:
            _refuse_one_component(y)
        Y = y.reshape(len(y), -1).astype(np.float64)
        by_group = groups is not None and isinstance(self.cv, int | np.integer)
        splitter = GroupKFold(self.cv) if by_group else check_cv(self.cv)
        errors, held = [], []
        for train, test in splitter.split(X, Y, groups):
            fitted, scored = (moments(X[rows], Y[rows], weights[rows]) for rows in (train, test))
            errors.append(squared_error(ridge_weights(fitted, alphas), fitted, scored))
            held.append(scored)
        error = np.sum(errors, axis=0)
        self.cv_scores_ = explained(error, reduce(add, held).yy)
        self.alpha_ = best_penalty(alphas, error.sum(1))
        W, c = _affine(moments(X, Y, weights), self.alpha_)
        self.coef_, self.intercept_ = (W.T, c) if y.ndim == 2 else (W[:, 0], c[0])
        return self

    def predict(self, X):
        """``X @ coef_.T + intercept_``, on the simplex if so wished."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        Y = X @ self.coef_.T + self.intercept_
        return project_to_simplex(Y) if self.on_simplex else Y

    def score(self, X, y, sample_weight=None):
        """R², pooled over targets: :func:`nextlens.probes.ridge.r2` of what is predicted."""
        truth = np.asarray(y, dtype=np.float64)
        return r2(truth, self.predict(X).reshape(truth.shape), sample_weight)


class HeldOut(NamedTuple):
    """What a probe says of rows it was not fitted on, and how good that is.

    ``prediction`` has the shape of Y; ``fold`` is the fold that each row was held out with and
    ``alphas`` the penalty chosen without that fold; ``r2``, ``mse`` and ``rmse`` are over all rows
    together, by weight, and pooled over targets.
    """

    prediction: Float[np.ndarray, " sample *target"]
    fold: Int[np.ndarray, " sample"]
    alphas: Float[np.ndarray, " fold"]
    r2: float
    mse: float
    rmse: float
    in_sample = False


class InSample(NamedTuple):
    """How well an affine map fits the rows it was fitted on, which says little of other rows."""

    prediction: Float[np.ndarray, " sample *target"]
    r2: float
    mse: float
    rmse: float
    in_sample = True


def held_out(
    X: Float[np.ndarray, "sample feature"],
    Y: Float[np.ndarray, " sample *target"],
    groups: Shaped[np.ndarray, " sample"],
    *,
    weights: Float[np.ndarray, " sample"] | None = None,
    n_splits: int = 5,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
    on_simplex: bool = False,
) -> HeldOut:
    """Predict every row by a probe that saw no row of its group, not even to choose its penalty.

    Nested cross-validation: fold i is predicted from the others, with the penalty that predicts
    each fold j ≠ i best from the folds other than i and j. Rows are read once for their moments and
    once to be predicted; every fit in between is a sum of moments. For the same folds and penalty
    the predictions are those of :class:`BeliefProbe`.

    Raises
    ------
    ValueError
        If lengths differ, a value is not finite, a weight is negative or all are 0, there are fewer
        groups than folds, or fewer than 3 folds.
    """
    at_least("n_splits", n_splits, 3)
    refuse_unequal_lengths(X=X, Y=Y, groups=groups)
    refuse_not_finite(X=X, Y=Y)
    if on_simplex:
        _refuse_one_component(Y)
    grid, checked = penalties(alphas), row_weights(weights, len(X))
    fold = folds_by_group(groups, n_splits, np.random.default_rng(seed))
    targets = Y.reshape(len(Y), -1)
    members = [np.flatnonzero(fold == i) for i in range(n_splits)]
    parts = [moments(X[rows], targets[rows], checked[rows]) for rows in members]
    chosen = _nested_penalties(parts, grid)
    prediction = np.empty(targets.shape)
    for i, rows in enumerate(members):
        W, c = _affine(_without(parts, i), chosen[i])
        prediction[rows] = X[rows] @ W + c
    prediction = (project_to_simplex(prediction) if on_simplex else prediction).reshape(Y.shape)
    return HeldOut(prediction, fold, chosen, *_scores(Y, prediction, checked))


def in_sample(
    X: Float[np.ndarray, "sample feature"],
    Y: Float[np.ndarray, " sample *target"],
    *,
    weights: Float[np.ndarray, " sample"] | None = None,
) -> InSample:
    """Ordinary least squares, scored on the rows it was fitted on, as published in 2024.

    Shai et al., "Transformers Represent Belief State Geometry in their Residual Stream", NeurIPS
    2024 (arXiv 2405.15943), section 2.3, without weights. Beside it belongs :func:`held_out`: with
    as many features as rows this R² is 1 for noise.

    Raises
    ------
    ValueError
        If lengths differ, a value is not finite, or a weight is negative or all are 0.
    """
    W, c = ordinary_least_squares(X, Y.reshape(len(Y), -1), weights)
    prediction = (X @ W + c).reshape(Y.shape)
    return InSample(prediction, *_scores(Y, prediction, weights))


def folds_by_group(
    groups: Shaped[np.ndarray, " sample"], n_splits: int, rng: np.random.Generator
) -> Int[np.ndarray, " sample"]:
    """The fold of each row, 0 .. n_splits - 1: groups stay whole, and folds nearly equal in rows.

    Groups are shuffled, then the largest go first, each to the fold that has fewest rows; so folds
    are not blocks of neighbours, and differ in size by at most the largest group.

    Raises
    ------
    ValueError
        If there are fewer groups than folds.
    """
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < n_splits:
        raise ValueError(f"groups hold {len(sizes)} distinct labels; n_splits={n_splits} needs as many at least")
    shuffled = rng.permutation(len(sizes))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    loads = [(0, i) for i in range(n_splits)]
    heapify(loads)
    fold_of_group = np.empty(len(sizes), dtype=np.int64)
    for group, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        load, fold = loads[0]
        fold_of_group[group] = fold
        heapreplace(loads, (load + size, fold))
    return fold_of_group[member]


def project_to_simplex(Y: Float[np.ndarray, "sample state"]) -> Float[np.ndarray, "sample state"]:
    """The nearest probability distribution to each row: max(y - θ, 0), θ such that the sum is 1.

    Duchi, Shalev-Shwartz, Singer and Chandra, "Efficient projections onto the l1-ball for learning
    in high dimensions", ICML 2008.
    """
    descending = -np.sort(-Y, axis=1)
    theta = (descending.cumsum(1) - 1.0) / np.arange(1, Y.shape[1] + 1)
    support = (descending > theta).sum(1, keepdims=True)
    return np.maximum(Y - np.take_along_axis(theta, support - 1, axis=1), 0.0)


def _without(parts: list[Moments], *left_out: int) -> Moments:
    return reduce(add, (part for i, part in enumerate(parts) if i not in left_out))


def _nested_penalties(parts: list[Moments], alphas: Float[np.ndarray, " alpha"]) -> Float[np.ndarray, " fold"]:
    """For each fold, the penalty that predicts the other folds best, each from those that remain."""
    error = np.zeros((len(parts), len(alphas)))
    for i, j in combinations(range(len(parts)), 2):
        fitted = _without(parts, i, j)
        W = ridge_weights(fitted, alphas)
        error[i] += squared_error(W, fitted, parts[j]).sum(1)
        error[j] += squared_error(W, fitted, parts[i]).sum(1)
    return np.array([best_penalty(alphas, row) for row in error])


def _affine(rows: Moments, alpha: float) -> tuple[Float[np.ndarray, "feature target"], Float[np.ndarray, " target"]]:
    W = ridge_weights(rows, np.array([alpha]))[0]
    return W, rows.mean_y - rows.mean_x @ W


def _scores(truth: np.ndarray, guess: np.ndarray, weights: object) -> tuple[float, float, float]:
    """R², MSE and its root."""
    error = mse(truth, guess, weights)
    return r2(truth, guess, weights), error, error**0.5


def _refuse_one_component(Y: np.ndarray) -> None:
    if Y.ndim != 2 or Y.shape[1] < 2:
        raise ValueError(f"on_simplex=True, but the targets have shape {Y.shape}; a distribution needs two components")
