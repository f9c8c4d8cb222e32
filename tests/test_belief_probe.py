"""The probe keeps scikit-learn's contract, and its fast held-out path agrees with the slow one."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GroupKFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from nextlens.probes.belief import (
    ALPHAS,
    BeliefProbe,
    folds_by_group,
    held_out,
    in_sample,
    project_to_simplex,
)
from nextlens.probes.ridge import mse, r2

seeds = st.integers(0, 2**32 - 1)


@parametrize_with_checks([BeliefProbe(), BeliefProbe(cv=3)])
def test_obeys_scikit_learn(estimator, check):
    check(estimator)


def rows(seed, n=120, features=8, targets=3, n_groups=30, noise=0.5):
    """Beliefs in a random linear code with noise, groups of unlike size, and weights."""
    rng = np.random.default_rng(seed)
    Y = rng.dirichlet(np.ones(targets), size=n)
    X = Y @ rng.standard_normal((targets, features)) + noise * rng.standard_normal((n, features))
    groups = rng.permutation(np.r_[np.arange(n_groups), rng.geometric(0.2, n - n_groups) % n_groups])
    return X, Y, groups, rng.exponential(size=n)


@given(seeds, st.sampled_from([3, 4, 5]), st.booleans())
def test_held_out_agrees_with_a_loop_over_estimators(seed, n_splits, on_simplex):
    X, Y, groups, w = rows(seed)
    fast = held_out(X, Y, groups, weights=w, n_splits=n_splits, seed=seed % 7, on_simplex=on_simplex)
    slow = np.empty_like(Y)
    for i in range(n_splits):
        rest = np.flatnonzero(fast.fold != i)
        inner = [
            (np.flatnonzero(fast.fold[rest] != j), np.flatnonzero(fast.fold[rest] == j))
            for j in range(n_splits)
            if j != i
        ]
        probe = BeliefProbe(cv=inner, on_simplex=on_simplex).fit(X[rest], Y[rest], sample_weight=w[rest])
        slow[fast.fold == i] = probe.predict(X[fast.fold == i])
        assert probe.alpha_ == fast.alphas[i]
    np.testing.assert_allclose(fast.prediction, slow, atol=1e-10)
    np.testing.assert_allclose(fast.r2, r2(Y, slow, w), atol=1e-10)
    np.testing.assert_allclose(fast.mse, mse(Y, slow, w), atol=1e-10)


@given(seeds)
def test_held_out_agrees_with_scikit_learns_ridge(seed):
    X, Y, groups, w = rows(seed, features=40)
    ours = held_out(X, Y, groups, weights=w)
    for i in range(5):
        rest, out = ours.fold != i, ours.fold == i
        centred = X[rest] - np.average(X[rest], axis=0, weights=w[rest])
        scale = w[rest] @ (centred**2).mean(1)
        theirs = Ridge(alpha=scale * ours.alphas[i], solver="svd").fit(X[rest], Y[rest], sample_weight=w[rest])
        np.testing.assert_allclose(ours.prediction[out], theirs.predict(X[out]), atol=1e-6)


@given(seeds, st.integers(2, 6))
def test_no_group_is_in_two_folds_and_folds_are_even(seed, n_splits):
    _, _, groups, _ = rows(seed)
    fold = folds_by_group(groups, n_splits, np.random.default_rng(seed))
    assert all(len(np.unique(fold[groups == g])) == 1 for g in np.unique(groups))
    sizes = np.bincount(fold, minlength=n_splits)
    assert sizes.min() > 0
    assert np.ptp(sizes) <= np.bincount(groups).max()


def test_folds_are_no_blocks_of_neighbours_and_follow_the_seed():
    groups = np.arange(1000)
    folds = [folds_by_group(groups, 5, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(folds[0], folds[1])
    assert (folds[0] != folds[2]).any()
    assert abs(np.mean(folds[0][1:] == folds[0][:-1]) - 0.2) < 0.05


@given(seeds)
def test_a_held_out_prediction_never_depends_on_the_targets_of_its_fold(seed):
    X, Y, groups, w = rows(seed)
    plain = held_out(X, Y, groups, weights=w)
    out = plain.fold == 0
    other = held_out(X, np.where(out[:, None], 7.0 * Y + X[:, :3], Y), groups, weights=w)
    np.testing.assert_array_equal(other.prediction[out], plain.prediction[out])
    assert other.alphas[0] == plain.alphas[0]
    assert (other.prediction[~out] != plain.prediction[~out]).any()


@given(seeds)
def test_a_random_linear_code_of_beliefs_is_recovered(seed):
    X, Y, groups, w = rows(seed, noise=1e-4, n=300, features=64, n_groups=100)
    assert held_out(X.astype(np.float32), Y, groups, weights=w).r2 > 0.999


@given(seeds)
def test_pure_noise_explains_nothing_held_out(seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((400, 64)), rng.dirichlet(np.ones(3), size=400)
    found = held_out(X, Y, np.arange(400))
    assert found.r2 <= 0.02
    assert not found.in_sample
    flattered = in_sample(X, Y)
    assert flattered.r2 > 0.1
    assert flattered.in_sample


def test_rows_of_one_prefix_on_both_sides_flatter_noise_and_groups_do_not():
    rng = np.random.default_rng(0)
    prefix = np.repeat(np.arange(60), 10)
    X, Y = rng.standard_normal((60, 80))[prefix], rng.dirichlet(np.ones(3), size=60)[prefix]
    assert held_out(X, Y, np.arange(600)).r2 > 0.9
    assert held_out(X, Y, prefix).r2 < 0.05


@given(seeds, st.floats(1e-6, 1e6))
def test_scaling_all_weights_or_the_features_changes_nothing(seed, scale):
    X, Y, groups, w = rows(seed)
    plain = held_out(X, Y, groups, weights=w)
    scaled = held_out(X * 4.0, Y, groups, weights=w * scale)
    np.testing.assert_array_equal(scaled.alphas, plain.alphas)
    np.testing.assert_allclose(scaled.prediction, plain.prediction, atol=1e-9)
    np.testing.assert_allclose([scaled.r2, scaled.mse], [plain.r2, plain.mse], rtol=1e-8)


@given(seeds)
def test_root_mean_squared_error_is_the_root_of_the_mean_squared_error(seed):
    X, Y, groups, w = rows(seed)
    Y = Y * [1.0, 10.0, 100.0]
    for found in (held_out(X, Y, groups, weights=w), in_sample(X, Y, weights=w)):
        np.testing.assert_allclose(found.rmse**2, found.mse)
        np.testing.assert_allclose(found.mse, np.average((Y - found.prediction) ** 2, axis=0, weights=w).mean())


def test_the_penalty_is_chosen_on_rows_not_fitted_so_noise_features_raise_it():
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((200, 4))
    Y = signal @ rng.standard_normal((4, 3)) + 0.5 * rng.standard_normal((200, 3))
    noisy = np.hstack([signal, rng.standard_normal((200, 120))])
    few, many = (held_out(X, Y, np.arange(200)) for X in (signal, noisy))
    assert many.alphas.min() > few.alphas.max()


def test_a_column_of_targets_keeps_its_shape():
    X, Y, groups, w = rows(2)
    flat, column = (held_out(X, y, groups, weights=w) for y in (Y[:, 0], Y[:, :1]))
    assert flat.prediction.shape == (120,)
    assert column.prediction.shape == (120, 1)
    np.testing.assert_array_equal(flat.prediction, column.prediction[:, 0])
    assert in_sample(X, Y[:, 0]).prediction.shape == (120,)


def test_in_sample_is_ordinary_least_squares():
    X, Y, _, w = rows(3)
    theirs = LinearRegression().fit(X, Y, sample_weight=w).predict(X)
    found = in_sample(X, Y, weights=w)
    np.testing.assert_allclose(found.prediction, theirs, atol=1e-10)
    np.testing.assert_allclose(found.r2, r2(Y, theirs, w))


def test_constant_targets_give_0_and_the_largest_penalty():
    X, _, groups, _ = rows(4)
    found = held_out(X, np.full((120, 2), 0.1), groups)
    assert found.r2 == 0.0
    assert found.mse < 1e-30
    assert (found.alphas == max(ALPHAS)).all()
    assert BeliefProbe().fit(X, np.full(120, 0.1)).alpha_ == max(ALPHAS)


@given(seeds)
def test_cross_validated_scores_are_those_of_the_held_out_predictions(seed):
    X, Y, groups, w = rows(seed)
    Y = Y * [1.0, 10.0, 100.0]
    probe = BeliefProbe(alphas=(1e-6, 1.0, 1e-2), cv=4).fit(X, Y, groups=groups, sample_weight=w)
    guess = np.empty((3, *Y.shape))
    for train, test in GroupKFold(4).split(X, Y, groups):
        for a, alpha in enumerate(probe.alphas):
            one = BeliefProbe(alphas=[alpha], cv=2).fit(X[train], Y[train], sample_weight=w[train])
            guess[a, test] = one.predict(X[test])
    np.testing.assert_allclose(probe.cv_scores_, [r2(Y, one, w) for one in guess], atol=1e-9)
    assert probe.alpha_ == probe.alphas[int(np.argmax(probe.cv_scores_))]
    assert probe.score(X, Y, sample_weight=w) == r2(Y, probe.predict(X), w)


def test_an_integer_cv_never_splits_a_group_that_was_given():
    rng = np.random.default_rng(5)
    prefix = np.repeat(np.arange(60), 10)
    X, Y = rng.standard_normal((60, 80))[prefix], rng.dirichlet(np.ones(3), size=60)[prefix]
    shuffle = rng.permutation(600)
    X, Y, prefix = X[shuffle], Y[shuffle], prefix[shuffle]
    assert BeliefProbe().fit(X, Y).cv_scores_.max() > 0.9
    assert BeliefProbe().fit(X, Y, groups=prefix).cv_scores_.max() < 0.05


def test_coefficients_have_scikit_learns_shapes_and_predict():
    X, Y, _, _ = rows(6)
    many, one = BeliefProbe().fit(X, Y), BeliefProbe().fit(X, Y[:, 0])
    assert (many.coef_.shape, many.intercept_.shape) == ((3, 8), (3,))
    assert (one.coef_.shape, np.shape(one.intercept_)) == ((8,), ())
    np.testing.assert_allclose(many.predict(X), X @ many.coef_.T + many.intercept_)
    np.testing.assert_allclose(one.predict(X), X @ one.coef_ + one.intercept_)


@given(arrays(float, (6, 3), elements=st.floats(-5, 5)))
def test_projection_lands_on_the_simplex_and_stays_there(Y):
    P = project_to_simplex(Y)
    assert (P >= 0).all()
    np.testing.assert_allclose(P.sum(1), 1.0, atol=1e-12)
    np.testing.assert_allclose(project_to_simplex(P), P, atol=1e-12)


@given(arrays(float, (1, 4), elements=st.floats(-2, 2)))
def test_no_distribution_is_nearer_than_the_projection(Y):
    def loss(p):
        return ((p - Y[0]) ** 2).sum()

    solved = minimize(
        loss,
        np.full(4, 0.25),
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        method="SLSQP",
    )
    assert loss(project_to_simplex(Y)[0]) <= loss(np.clip(solved.x, 0, 1)) + 1e-6


def test_predictions_on_the_simplex_are_distributions():
    X, Y, groups, _ = rows(7, noise=2.0)
    for guess in (
        held_out(X, Y, groups, on_simplex=True).prediction,
        BeliefProbe(on_simplex=True).fit(X, Y).predict(3 * X),
    ):
        assert (guess >= 0).all()
        np.testing.assert_allclose(guess.sum(1), 1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"groups": np.arange(120) % 4}, "groups hold 4 distinct labels; n_splits=5"),
        ({"groups": np.arange(119)}, "groups has 119 rows and X has 120"),
        ({"Y": np.ones((121, 3))}, "Y has 121 rows and X has 120"),
        ({"weights": -np.ones(120)}, r"weights\[0\]=-1.0"),
        ({"weights": np.ones(7)}, r"weights has shape \(7,\)"),
        ({"weights": np.zeros(120)}, "all zero"),
        ({"X": np.full((120, 2), np.nan)}, "X holds 240 NaN or infinite values; the first in row 0"),
        ({"n_splits": 2}, "n_splits=2 must be at least 3"),
        ({"alphas": (0.0,)}, r"alphas=\(0.0,\)"),
        ({"Y": np.ones(120), "on_simplex": True}, r"targets have shape \(120,\)"),
    ],
)
def test_bad_input_is_refused_by_name(change, said, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    X, Y, groups, w = rows(8)
    with pytest.raises(ValueError, match=said):
        held_out(**{"X": X, "Y": Y, "groups": groups, "weights": w} | change)


def test_the_estimator_refuses_by_name_too():
    X, Y, _, _ = rows(9)
    for probe, said in ((BeliefProbe(alphas=()), "alphas="), (BeliefProbe(on_simplex=True), "on_simplex=True")):
        with pytest.raises(ValueError, match=said):
            probe.fit(X, Y[:, 0])
