"""Laws of banded ridge: scaled columns, dropped bands, other solvers given the same candidates, shares that add up."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from himalaya.backend import set_backend
from himalaya.kernel_ridge import solve_multiple_kernel_ridge_random_search
from himalaya.ridge import solve_group_ridge_random_search
from himalaya.scoring import r2_score_split
from joblib import parallel_config
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from nextlens.probes.band_candidates import drawn_shares, near_shares
from nextlens.probes.banded_ridge import BandedRidgeCV
from nextlens.probes.ridge_cv import RidgeCV

ALPHAS = np.logspace(-2, 4, 7)
BANDS = {"signal": slice(0, 5), "noise": slice(5, 17), "rate": [17, 18]}
GAMMAS = np.array([[1 / 3, 1 / 3, 1 / 3], [0.7, 0.1, 0.2], [0.05, 0.9, 0.05], [1.0, 0.0, 0.0], [0.5, 0.0, 0.5]])
pytestmark = pytest.mark.filterwarnings("ignore:of .* targets .* chose the least penalty")


@parametrize_with_checks([BandedRidgeCV(cv=3), BandedRidgeCV(cv=3, form="dual", search="grid")])
def test_obeys_scikit_learn(estimator, check):
    check(estimator)


def rows(seed=0, n=120, targets=8):
    """Targets that follow the first band, the third, both, or none."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 19)) + 1.0
    signal, rate = X[:, :5] @ rng.standard_normal((5, targets)), X[:, 17:] @ rng.standard_normal((2, targets))
    share = np.linspace(0, 1, targets)
    Y = share * signal + 2 * (1 - share) * rate * (np.arange(targets) % 3 > 0) + 2 * rng.standard_normal((n, targets))
    return X, Y


def scaled(X, gamma):
    """Columns times the root of their band's share."""
    out = X.copy()
    for columns, share in zip(BANDS.values(), gamma, strict=True):
        out[:, columns] *= np.sqrt(share)
    return out


def slowly(X, Y, gammas, splits):
    """scikit-learn's Ridge on scaled columns: the first best candidate, its penalty, error and prediction."""
    errors = np.zeros((len(gammas), len(ALPHAS), Y.shape[1]))
    for g, gamma in enumerate(gammas):
        x = scaled(X, gamma)
        for train, test in splits:
            for a, alpha in enumerate(ALPHAS):
                fit = Ridge(alpha=alpha).fit(x[train], Y[train])
                errors[g, a] += ((Y[test] - fit.predict(x[test])) ** 2).sum(0)
    best = errors.reshape(-1, Y.shape[1]).argmin(0)
    g, a = np.unravel_index(best, errors.shape[:2])
    guess = [
        Ridge(alpha=ALPHAS[a[t]]).fit(scaled(X, gammas[g[t]]), Y[:, t]).predict(scaled(X, gammas[g[t]]))
        for t in range(Y.shape[1])
    ]
    return g, ALPHAS[a], errors.min((0, 1)), np.array(guess).T


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("n", [120, 24])
def test_agrees_with_scikit_learn_on_scaled_columns(n, form):
    X, Y = rows(1, n)
    g, alpha, error, guess = slowly(X, Y, GAMMAS, list(KFold(4).split(X)))
    ridge = BandedRidgeCV(BANDS, ALPHAS, cv=KFold(4), candidates=GAMMAS, refinements=0, search="grid", form=form).fit(
        X, Y
    )
    np.testing.assert_array_equal(ridge.gamma_, GAMMAS[g].T)
    np.testing.assert_array_equal(ridge.alpha_, alpha)
    np.testing.assert_allclose(ridge.cv_score_, 1 - error / ((Y - Y.mean(0)) ** 2).sum(0), atol=1e-9)
    np.testing.assert_allclose(ridge.predict(X), guess, atol=1e-7)


@pytest.mark.parametrize("solver", ["features", "kernels"])
def test_agrees_with_himalaya_given_the_same_candidates(solver):
    X, Y = rows(2)
    X, Y = X - X.mean(0), Y - Y.mean(0)
    # himalaya cannot take a share of 0, and centres nothing inside the folds unless told
    gammas = np.maximum(GAMMAS, 1e-6)
    parts = [X[:, columns] for columns in BANDS.values()]
    set_backend("numpy")
    options = {"n_iter": gammas, "alphas": ALPHAS, "cv": KFold(4), "fit_intercept": True, "progress_bar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if solver == "features":
            deltas, W, scores, c = solve_group_ridge_random_search(parts, Y, return_weights=True, **options)
        else:
            kernels = np.stack([part @ part.T for part in parts])
            deltas, dual, scores, c = solve_multiple_kernel_ridge_random_search(
                kernels, Y, return_weights="dual", **options
            )
            W = np.vstack([part.T @ (dual * share) for part, share in zip(parts, np.exp(deltas), strict=True)])
    ours = BandedRidgeCV(
        BANDS, ALPHAS, cv=KFold(4), candidates=gammas / gammas.sum(1, keepdims=True), refinements=0, search="grid"
    ).fit(X, Y)
    np.testing.assert_allclose(np.log(ours.gamma_ / ours.alpha_), deltas, atol=1e-5)
    order = [np.r_[columns] if isinstance(columns, list) else np.arange(19)[columns] for columns in BANDS.values()]
    np.testing.assert_allclose(ours.predict(X), X[:, np.concatenate(order)] @ W + c, atol=1e-5)
    error = (1 - ours.cv_score_) * (Y**2).sum(0) / len(Y)
    np.testing.assert_allclose(error, -scores.max(0), rtol=1e-5)


def test_equal_shares_are_a_ridge_with_one_penalty():
    X, Y = rows(3)
    banded = BandedRidgeCV(BANDS, ALPHAS, cv=4, candidates=GAMMAS[:1], refinements=0).fit(X, Y)
    plain = RidgeCV(3 * ALPHAS, cv=4).fit(X, Y)
    np.testing.assert_allclose(banded.coef_, plain.coef_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(banded.cv_score_, plain.cv_score_, atol=1e-10)
    one = BandedRidgeCV(None, ALPHAS, cv=4).fit(X, Y)
    np.testing.assert_allclose(one.coef_, RidgeCV(ALPHAS, cv=4, search="grid").fit(X, Y).coef_, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_a_share_of_nothing_leaves_a_band_out(form):
    X, Y = rows(4)
    banded = BandedRidgeCV(BANDS, ALPHAS, cv=4, candidates=GAMMAS[3:4], refinements=0, form=form).fit(X, Y)
    alone = RidgeCV(ALPHAS, cv=4, search="grid").fit(X[:, :5], Y)
    np.testing.assert_allclose(banded.coef_[:, :5], alone.coef_, rtol=1e-8, atol=1e-10)
    assert (banded.coef_[:, 5:] == 0).all()
    np.testing.assert_allclose(banded.single_band_score_[0], alone.cv_score_, atol=1e-10)
    assert np.isnan(banded.single_band_score_[1:]).all()


def test_no_order_of_bands_or_columns_changes_a_prediction():
    X, Y = rows(5)
    plain = BandedRidgeCV(BANDS, ALPHAS, cv=4, candidates=GAMMAS, refinements=0).fit(X, Y)
    turned = {"rate": [1, 0], "noise": np.arange(2, 14), "signal": slice(14, 19)}
    moved = X[:, np.r_[18, 17, 5:17, 0:5]]
    other = BandedRidgeCV(turned, ALPHAS, cv=4, candidates=GAMMAS[:, ::-1], refinements=0).fit(moved, Y)
    np.testing.assert_allclose(other.predict(moved), plain.predict(X), atol=1e-9)
    np.testing.assert_array_equal(other.gamma_[::-1], plain.gamma_)


def test_forms_blocks_and_processes_change_no_number():
    X, Y = rows(6, n=40, targets=20)
    options = {"cv": 4, "candidates": 6, "refinements": 3, "random_state": 1}
    whole = BandedRidgeCV(BANDS, ALPHAS, **options).fit(X, Y)
    with parallel_config(backend="threading", n_jobs=3):
        there = BandedRidgeCV(BANDS, ALPHAS, **options).fit(X, Y)
    dual = BandedRidgeCV(BANDS, ALPHAS, form="dual", **options).fit(X, Y)
    assert (whole.form_, dual.form_) == ("primal", "dual")
    assert len(whole.candidates_) == 4 + 6 + 2 * 3
    for other in (there, dual):
        np.testing.assert_array_equal(other.candidates_, whole.candidates_)
        np.testing.assert_allclose(other.gamma_, whole.gamma_)
        np.testing.assert_allclose(other.coef_, whole.coef_, rtol=1e-6, atol=1e-9)


def test_refinement_never_loses_and_every_smaller_model_is_nested():
    X, Y = rows(7)
    first = BandedRidgeCV(BANDS, ALPHAS, cv=4, candidates=8, refinements=0, search="grid").fit(X, Y)
    refined = BandedRidgeCV(BANDS, ALPHAS, cv=4, candidates=8, refinements=6, search="grid").fit(X, Y)
    assert (refined.cv_score_ >= first.cv_score_).all()
    assert (refined.cv_score_ > first.cv_score_).any()
    np.testing.assert_array_equal(refined.candidates_[: len(first.candidates_)], first.candidates_)
    assert (first.cv_score_ >= first.single_band_score_.max(0)).all()


def test_the_walk_finds_what_the_grid_finds():
    X, Y = rows(8, n=300, targets=200)
    alphas = np.logspace(-2, 5, 15)
    grid, walk = (
        BandedRidgeCV(BANDS, alphas, cv=4, candidates=10, refinements=0, search=search).fit(X, Y)
        for search in ("grid", "walk")
    )
    assert (grid.cv_score_ - walk.cv_score_).max() < 0.005
    assert np.mean(grid.cv_score_ - walk.cv_score_) < 1e-4
    assert walk.tried_ < 0.5 * grid.tried_


def test_the_band_that_matters_is_found():
    X, Y = rows(9, n=400)
    ridge = BandedRidgeCV(BANDS, ALPHAS, cv=4).fit(X, Y)
    assert ridge.gamma_[0, -1] > ridge.gamma_[1:, -1].max()
    assert ridge.gamma_[2, 1] > ridge.gamma_[:2, 1].max()


def test_what_bands_add_is_the_prediction_and_their_shares_add_to_its_r2():
    X, Y = rows(10)
    Y[:, 2], Y[0, 5] = 1.0, np.nan
    with pytest.warns(UserWarning, match="of 8 targets"):
        ridge = BandedRidgeCV(BANDS, ALPHAS, cv=4, candidates=4, refinements=0).fit(X, Y)
    fresh, truth = rows(11)
    parts = ridge.predict_bands(fresh)
    assert list(parts) == list(BANDS) == list(ridge.band_names_)
    np.testing.assert_allclose(sum(parts.values()) + ridge.intercept_, ridge.predict(fresh), atol=1e-10)
    shares = ridge.score_bands(fresh, truth)
    sound = [0, 1, 3, 4, 6, 7]
    guess = ridge.predict(fresh)[:, sound]
    centred, y = guess - guess.mean(0), (truth - truth.mean(0))[:, sound]
    np.testing.assert_allclose(
        shares.r2.sum("band")[sound], 1 - ((y - centred) ** 2).sum(0) / (y**2).sum(0), atol=1e-10
    )
    assert np.isnan(shares.r2[:, [2, 5]]).all()
    split = np.stack([parts[name][:, sound] - parts[name][:, sound].mean(0) for name in BANDS])
    np.testing.assert_allclose(shares.r2[:, sound], r2_score_split(y, split), atol=1e-9)


def test_draws_hold_the_centre_and_the_corners_and_lie_on_the_simplex():
    rng = np.random.default_rng(0)
    shares = drawn_shares(3, 20, rng)
    np.testing.assert_allclose(shares[:4], np.vstack([np.full((1, 3), 1 / 3), np.eye(3)]))
    near = near_shares(shares, np.eye(24, dtype=np.int64)[10], 50, 0.1, rng)
    for drawn in (shares, near):
        np.testing.assert_allclose(drawn.sum(1), 1.0)
        assert (drawn >= 0).all()
    assert np.abs(near - shares[10]).max() < 0.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bands": {"a": slice(0, 5)}}, "14 of the 19 columns of X are in no band, the first is 5"),
        ({"bands": {"a": slice(0, 20)}}, "ends beyond the 19 columns of X"),
        ({"bands": [slice(0, 10), slice(9, 19)]}, r"bands\['1'\] holds a column that it or another band has"),
        ({"bands": {"a": [0, 40]}}, r"bands\['a'\]=\[0, 40\] must be a slice or numbers of the 19 columns"),
        ({"bands": {"a": []}}, r"bands\['a'\]=\[\] holds no column"),
        ({"bands": []}, "bands=.* must be a mapping"),
        ({"bands": 3}, "bands=3 must be a mapping"),
        ({"candidates": [[0.5, 0.5]]}, r"candidates has shape \(1, 2\)"),
        ({"candidates": [[0.5, 0.5, 0.5]]}, r"candidates\[0\]=\[0.5, 0.5, 0.5\] must hold shares"),
        ({"candidates": -1}, "candidates=-1 must be at least 0"),
        ({"refinements": -1}, "refinements=-1 must be at least 0"),
        ({"search": "best"}, "search='best' is not one of"),
        ({"memory": 10.0}, "memory=10 bytes are too few"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, said):
    X, Y = rows()
    with pytest.raises(ValueError, match=said):
        BandedRidgeCV(**({"bands": BANDS, "alphas": ALPHAS} | options)).fit(X, Y)
