"""Laws of the ridge: moments add, penalties have no unit, and others' solvers agree."""

from __future__ import annotations

from dataclasses import fields
from functools import reduce
from operator import add

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import mean_squared_error, r2_score

from nextlens.probes.ridge import (
    explained,
    moments,
    mse,
    ordinary_least_squares,
    penalties,
    r2,
    ridge_weights,
    squared_error,
)

seeds = st.integers(0, 2**32 - 1)


def drawn(seed, n=40, features=6, targets=3, offset=0.0):
    """Correlated features, targets that follow them with noise, and weights of which some are 0."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, features)) @ rng.standard_normal((features, features)) + offset
    Y = X @ rng.standard_normal((features, targets)) + rng.standard_normal((n, targets))
    return X, Y, rng.exponential(size=n) * (rng.random(n) < 0.9)


def assert_same_moments(a, b, **tolerance):
    for field in fields(a):
        np.testing.assert_allclose(getattr(a, field.name), getattr(b, field.name), **tolerance)


@given(seeds, st.integers(0, 20_000))
def test_moments_equal_their_definition_across_blocks(seed, n):
    X, Y, w = drawn(seed, n=n % 9000 + 2, features=2, targets=2)
    w[0] = 1.0
    rows = moments(X, Y, w)
    x, y = X - np.average(X, axis=0, weights=w), Y - np.average(Y, axis=0, weights=w)
    np.testing.assert_allclose(rows.weight, w.sum())
    np.testing.assert_allclose(rows.mean_x, np.average(X, axis=0, weights=w), atol=1e-10)
    np.testing.assert_allclose(rows.xx, x.T * w @ x, atol=1e-8)
    np.testing.assert_allclose(rows.xy, x.T * w @ y, atol=1e-8)
    np.testing.assert_allclose(rows.yy, w @ y**2, atol=1e-8)


@given(seeds, st.integers(1, 39))
def test_moments_of_parts_add_to_those_of_the_whole(seed, cut):
    X, Y, w = drawn(seed)
    parts = moments(X[:cut], Y[:cut], w[:cut]) + moments(X[cut:], Y[cut:], w[cut:])
    assert_same_moments(parts, moments(X, Y, w), rtol=1e-9, atol=1e-9)


def test_moments_survive_a_large_offset_and_folds_of_unlike_size():
    X, Y, _ = drawn(0, n=5000)
    X -= X.mean(0)
    far = 1e7
    parts = [moments(X[a:b] + far, Y[a:b]) for a, b in ((0, 1), (1, 4000), (4000, 5000))]
    np.testing.assert_allclose(reduce(add, parts).xx, X.T @ X, rtol=1e-6, atol=1e-3)


def test_single_precision_rows_are_summed_in_double():
    X, Y, w = drawn(1, n=6000)
    single = moments(X.astype(np.float32), Y, w)
    double = moments(X.astype(np.float32).astype(np.float64), Y, w)
    assert_same_moments(single, double, rtol=1e-13)


@given(seeds, st.floats(1e-6, 1e2), st.booleans())
def test_ridge_agrees_with_scikit_learn_at_the_stated_conversion(seed, alpha, wide):
    X, Y, w = drawn(seed, n=12, features=30 if wide else 5)
    w[0] = 1.0
    rows = moments(X, Y, w)
    ours = ridge_weights(rows, np.array([alpha]))[0]
    s2 = np.average((X - np.average(X, axis=0, weights=w)) ** 2, axis=0, weights=w).mean()
    theirs = Ridge(alpha=w.sum() * s2 * alpha, solver="svd").fit(X, Y, sample_weight=w)
    np.testing.assert_allclose(X @ ours + rows.mean_y - rows.mean_x @ ours, theirs.predict(X), atol=1e-6)
    if alpha >= 1e-3:
        np.testing.assert_allclose(ours.T, theirs.coef_, atol=1e-8)


@given(seeds, st.floats(1e-3, 1e3), st.floats(1e-6, 1e6))
def test_no_unit_of_weights_or_of_features_changes_a_prediction(seed, stretch, heavier):
    X, Y, w = drawn(seed)
    w[0] = 1.0
    grid = np.array([1e-8, 1e-2, 1.0])
    plain = ridge_weights(moments(X, Y, w), grid)
    scaled = ridge_weights(moments(X * stretch, Y, w * heavier), grid)
    np.testing.assert_allclose(scaled * stretch, plain, rtol=1e-6, atol=1e-9)


def test_the_penalty_measures_variance_and_not_distance_from_the_origin():
    X, Y, w = drawn(2)
    grid = np.array([0.1])
    np.testing.assert_allclose(
        ridge_weights(moments(X + 100.0, Y, w), grid), ridge_weights(moments(X, Y, w), grid), rtol=1e-9
    )


@given(seeds)
def test_error_from_moments_equals_error_of_the_predictions(seed):
    X, Y, w = drawn(seed, offset=3.0)
    fitted, scored = moments(X[:25], Y[:25], w[:25]), moments(X[25:], Y[25:], w[25:])
    W = ridge_weights(fitted, np.array([1e-6, 0.1, 10.0]))
    guess = fitted.mean_y + (X[25:] - fitted.mean_x) @ W
    direct = np.einsum("s,ast->at", w[25:], (Y[25:] - guess) ** 2)
    np.testing.assert_allclose(squared_error(W, fitted, scored), direct, rtol=1e-8)


def test_a_weak_penalty_reaches_the_least_squares_r2_of_a_direct_solver():
    X, Y, w = drawn(3, n=2000, features=40)
    rows = moments(X, Y, w)
    W = ridge_weights(rows, np.array([1e-12]))[0]
    ours = r2(Y, rows.mean_y + (X - rows.mean_x) @ W, w)
    theirs = LinearRegression().fit(X, Y, sample_weight=w).predict(X)
    assert abs(ours - r2(Y, theirs, w)) < 1e-8


@pytest.mark.parametrize("n", [3, 10, 300, 9000])
def test_least_squares_agrees_with_scikit_learn_with_few_rows_and_with_many(n):
    X, Y, w = drawn(4, n=n, features=20, offset=50.0)
    w[:] = np.where(np.arange(n) < 3, 1.0, w)
    W, c = ordinary_least_squares(X, Y, w)
    theirs = LinearRegression().fit(X, Y, sample_weight=w)
    np.testing.assert_allclose(X @ W + c, theirs.predict(X), atol=1e-8)
    np.testing.assert_allclose(W.T, theirs.coef_, atol=1e-8)


def test_of_many_least_squares_maps_the_smallest_is_taken():
    X, Y, _ = drawn(5, n=200, features=4)
    W, _ = ordinary_least_squares(np.hstack([X, X]), Y)
    np.testing.assert_allclose(W[:4], W[4:], atol=1e-10)


@given(seeds)
def test_scores_agree_with_scikit_learn(seed):
    X, Y, w = drawn(seed)
    w[0] = 1.0
    guess = Y + X[:, :3]
    np.testing.assert_allclose(mse(Y, guess, w), mean_squared_error(Y, guess, sample_weight=w))
    np.testing.assert_allclose(r2(Y, guess, w), r2_score(Y, guess, sample_weight=w, multioutput="variance_weighted"))
    np.testing.assert_allclose(r2(Y[:, 0], guess[:, 0], w), r2_score(Y[:, 0], guess[:, 0], sample_weight=w))


@given(seeds, st.floats(1e-9, 1e9))
def test_scaling_all_weights_changes_no_score(seed, scale):
    X, Y, w = drawn(seed)
    w[0] = 1.0
    np.testing.assert_allclose(mse(Y, X[:, :3], scale * w), mse(Y, X[:, :3], w), rtol=1e-12)
    np.testing.assert_allclose(r2(Y, X[:, :3], scale * w), r2(Y, X[:, :3], w), rtol=1e-10)


def test_where_nothing_varies_nothing_is_explained_and_nothing_is_nan():
    constant = np.full((50, 2), 0.1)
    assert r2(constant, constant) == r2(constant, constant + 1.0) == 0.0
    rows = moments(np.full((50, 3), 0.3), constant)
    W = ridge_weights(rows, np.array([1e-10, 1.0]))
    assert (W == 0).all()
    np.testing.assert_array_equal(explained(squared_error(W, rows, rows), rows.yy), [0.0, 0.0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": np.ones(3)}, r"weights has shape \(3,\); it must be \(40,\)"),
        ({"weights": -np.ones(40)}, r"weights\[0\]=-1.0 must be finite and at least 0"),
        ({"weights": np.full(40, np.nan)}, r"weights\[0\]=nan"),
        ({"X": np.full((40, 2), np.inf)}, "X holds 80 NaN or infinite values; the first in row 0"),
        ({"Y": np.ones((39, 2))}, "Y has 39 rows and X has 40"),
        ({"X": np.ones((0, 2)), "weights": np.ones(0)}, "X has no rows"),
    ],
)
@pytest.mark.parametrize("solve", [moments, ordinary_least_squares])
def test_bad_rows_are_refused_by_name(solve, change, said, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    X, Y, w = drawn(6)
    with pytest.raises(ValueError, match=said):
        solve(**{"X": X, "Y": Y, "weights": w} | change)


@pytest.mark.parametrize("alphas", [[], [0.0], [1e-13], [np.nan], [np.inf], [-1.0, 1.0]])
def test_penalties_that_cannot_be_resolved_are_refused(alphas):
    with pytest.raises(ValueError, match="alphas="):
        penalties(alphas)


def test_rows_without_any_weight_are_refused():
    X, Y, w = drawn(7)
    for solve in (
        lambda: ridge_weights(moments(X, Y, 0 * w), np.ones(1)),
        lambda: ordinary_least_squares(X, Y, 0 * w),
        lambda: r2(Y, Y, 0 * w),
        lambda: mse(Y, Y, 0 * w),
    ):
        with pytest.raises(ValueError, match=r"weights.* are all zero"):
            solve()
