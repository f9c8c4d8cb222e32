"""Laws of the ridge for many targets: other solvers agree, no form or block changes a number, nothing leaks."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest
from himalaya.backend import set_backend
from himalaya.kernel_ridge import KernelRidgeCV
from himalaya.ridge import RidgeCV as HimalayaRidgeCV
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from sklearn import config_context
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, GroupShuffleSplit, KFold, LeaveOneGroupOut, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nextlens.probes.ridge_cv import RidgeCV

ALPHAS = np.logspace(-2, 5, 9)
seeds = st.integers(0, 2**32 - 1)
at_edge = pytest.mark.filterwarnings("ignore:of .* targets .* chose the least penalty")
pytestmark = at_edge


@parametrize_with_checks([RidgeCV(), RidgeCV(cv=3, search="grid", form="dual")])
def test_obeys_scikit_learn(estimator, check):
    check(estimator)


def rows(seed=0, n=120, features=10, targets=7, noise=3.0):
    """Features that resemble their neighbours, targets that follow them from none to well."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, features)).cumsum(0) * 0.3 + rng.standard_normal((n, features)) + 2.0
    strength = np.linspace(0, 1.5, targets)
    Y = X @ (rng.standard_normal((features, targets)) * strength) + noise * rng.standard_normal((n, targets)) - 4.0
    return X, Y


def slowly(X, Y, splits, alphas=ALPHAS):
    """scikit-learn's Ridge, fold by fold and penalty by penalty: errors, penalties, coefficients, intercepts."""
    errors = np.zeros((len(alphas), Y.shape[1]))
    for train, test in splits:
        for i, alpha in enumerate(alphas):
            errors[i] += ((Y[test] - Ridge(alpha=alpha).fit(X[train], Y[train]).predict(X[test])) ** 2).sum(0)
    best = alphas[errors.argmin(0)]
    fits = [Ridge(alpha=alpha).fit(X, Y[:, i]) for i, alpha in enumerate(best)]
    return errors, best, np.array([fit.coef_ for fit in fits]), np.array([fit.intercept_ for fit in fits])


def held_spread(Y, splits):
    held = np.concatenate([Y[test] for _, test in splits])
    return ((held - held.mean(0)) ** 2).sum(0)


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("search", ["grid", "walk"])
@pytest.mark.parametrize(("n", "features"), [(120, 10), (40, 70), (400, 5), (60, 59)])
def test_agrees_with_scikit_learn_penalty_by_penalty(n, features, search, form):
    X, Y = rows(1, n, features)
    splits = list(KFold(4).split(X))
    errors, best, coef, intercept = slowly(X, Y, splits)
    ridge = RidgeCV(ALPHAS, cv=KFold(4), search=search, form=form).fit(X, Y)
    np.testing.assert_array_equal(ridge.alpha_, best)
    np.testing.assert_allclose(ridge.coef_, coef, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ridge.intercept_, intercept, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(ridge.cv_score_, 1 - errors.min(0) / held_spread(Y, splits), atol=1e-9)
    if search == "grid":
        np.testing.assert_allclose(ridge.cv_scores_, 1 - errors / held_spread(Y, splits), atol=1e-9)
    np.testing.assert_allclose(ridge.predict(X), X @ coef.T + intercept, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solver", ["svd", "kernel"])
@pytest.mark.parametrize(("n", "features"), [(120, 10), (40, 70)])
def test_agrees_with_himalaya(n, features, solver):
    X, Y = rows(2, n, features)
    set_backend("numpy")
    options = {"alphas": ALPHAS, "fit_intercept": True, "cv": KFold(4)}
    theirs = HimalayaRidgeCV(**options) if solver == "svd" else KernelRidgeCV(kernel="linear", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the slower of its two, and of its own dependencies
        theirs.fit(X, Y)
    ours = RidgeCV(ALPHAS, cv=KFold(4)).fit(X, Y)
    np.testing.assert_allclose(ours.alpha_, theirs.best_alphas_, rtol=1e-12)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6, atol=1e-6)


SPLITTERS = {
    "whole groups": GroupKFold(3),
    "one group out": LeaveOneGroupOut(),
    "random groups": GroupShuffleSplit(4, random_state=0),
    "many random rows": ShuffleSplit(6, random_state=0),
    "a gap": [(np.r_[0:25, 60:120], np.arange(30, 55)), (np.r_[0:70], np.arange(80, 120))],
    "rows never touched": [(np.arange(0, 50), np.arange(50, 80)), (np.arange(50, 80), np.arange(0, 50))],
    "tested twice": [(np.arange(40, 120), np.arange(0, 40)), (np.arange(60, 120), np.arange(20, 60))],
    "one fold": [(np.arange(0, 80), np.arange(80, 120))],
}


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("name", SPLITTERS)
def test_any_splitter_serves(name, form):
    X, Y = rows(3, features=6)
    groups = np.repeat(np.arange(6), [10, 30, 20, 25, 15, 20])
    given_groups = None if name == "many random rows" else groups
    cv = SPLITTERS[name]
    splits = list(cv.split(X, Y, given_groups)) if hasattr(cv, "split") else cv
    if not hasattr(cv, "split"):
        given_groups = None
    errors, best, coef, _ = slowly(X, Y, splits)
    ridge = RidgeCV(ALPHAS, cv=cv, search="grid", form=form).fit(X, Y, groups=given_groups)
    np.testing.assert_array_equal(ridge.alpha_, best)
    np.testing.assert_allclose(ridge.cv_scores_, 1 - errors / held_spread(Y, splits), atol=1e-9)
    np.testing.assert_allclose(ridge.coef_, coef, atol=1e-9)


def test_a_number_of_folds_keeps_groups_whole_and_metadata_reach_the_splitter():
    X, Y = rows(4)
    groups = np.arange(120) // 10 % 6
    expected = RidgeCV(ALPHAS, cv=GroupKFold(3)).fit(X, Y, groups=groups)
    plain = RidgeCV(ALPHAS, cv=3).fit(X, Y, groups=groups)
    np.testing.assert_array_equal(plain.cv_score_, expected.cv_score_)
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), RidgeCV(ALPHAS, cv=3).set_fit_request(groups=True))
        routed = pipeline.fit(X, Y, groups=groups)[-1]
    scaled = RidgeCV(ALPHAS, cv=3).fit(StandardScaler().fit_transform(X), Y, groups=groups)
    np.testing.assert_array_equal(routed.cv_score_, scaled.cv_score_)
    assert (RidgeCV(ALPHAS, cv=3).fit(X, Y).cv_score_ != plain.cv_score_).all()


@pytest.mark.parametrize(
    ("cv", "said"),
    [
        (KFold(3, shuffle=True, random_state=0), r"fold 0 has rows of \d+ groups on both sides \(.*\): this splitter"),
        (KFold(7), "does not heed groups"),
        ([(np.arange(60), np.arange(59, 120))], "fold 0 has row 59 on both sides"),
        ([(np.arange(60), np.arange(0))], "fold 0 has 60 rows to train on and 0 to test"),
        ([], "gives no fold"),
    ],
)
def test_folds_that_leak_are_refused_by_name(cv, said):
    X, Y = rows(5)
    with pytest.raises(ValueError, match=said):
        RidgeCV(ALPHAS, cv=cv).fit(X, Y, groups=np.arange(120) // 10)


def test_a_splitter_that_leaves_out_a_gap_may_divide_a_group():
    class Purged(KFold):
        gap = 5

    X, Y = rows(5)
    RidgeCV(ALPHAS, cv=Purged(3)).fit(X, Y, groups=np.zeros(120))


@given(seeds, st.integers(1, 9))
@settings(max_examples=8)
def test_blocks_of_targets_and_their_order_change_nothing(seed, size):
    X, Y = rows(seed, n=60, targets=9)
    whole = RidgeCV(ALPHAS, cv=3).fit(X, Y)
    order = np.random.default_rng(seed).permutation(9)
    shuffled = RidgeCV(ALPHAS, cv=3).fit(X, Y[:, order])
    np.testing.assert_array_equal(shuffled.alpha_, whole.alpha_[order])
    np.testing.assert_allclose(shuffled.coef_, whole.coef_[order], rtol=1e-9, atol=1e-12)
    for start in range(0, 9, size):
        part = RidgeCV(ALPHAS, cv=3).fit(X, Y[:, start : start + size])
        np.testing.assert_array_equal(part.alpha_, whole.alpha_[start : start + size])
        np.testing.assert_allclose(part.coef_, whole.coef_[start : start + size], rtol=1e-9, atol=1e-12)


@given(seeds, st.sampled_from([(1e-3, 0.0), (1e200, 0.0), (1e-200, 0.0), (1.0, 1e6)]))
@settings(max_examples=8)
def test_the_unit_of_a_target_changes_no_penalty(seed, change):
    scale, shift = change
    X, Y = rows(seed)
    plain, changed = (RidgeCV(ALPHAS, cv=3).fit(X, y) for y in (Y, Y * scale + shift))
    np.testing.assert_array_equal(changed.alpha_, plain.alpha_)
    np.testing.assert_allclose(changed.coef_ / scale, plain.coef_, rtol=1e-5, atol=1e-8)


def test_a_memory_map_gives_what_memory_gives(tmp_path):
    X, Y = rows(6, targets=50)
    path = tmp_path / "responses.npy"
    np.save(path, Y)
    mapped = np.load(path, mmap_mode="r")
    whole, blocks = RidgeCV(ALPHAS, cv=3).fit(X, Y), RidgeCV(ALPHAS, cv=3, memory=8e6).fit(X, mapped)
    assert blocks.block_size_ <= whole.block_size_ == 50
    np.testing.assert_allclose(blocks.coef_, whole.coef_, rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(blocks.alpha_, whole.alpha_)


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("shape", [(400, 60), (1500, 40), (120, 300)])
def test_no_more_memory_is_used_than_was_given(form, shape):
    n, p = shape
    rng = np.random.default_rng(7)
    X, Y = rng.standard_normal((n, p)).astype(np.float32), rng.standard_normal((n, 600)).astype(np.float32)
    if form == "dual" and n > 1000:
        pytest.skip("nobody wants the dual form of long data")
    with pytest.raises(ValueError, match=r"memory=1000 bytes are too few.*give at least [\d.e+]+") as refused:
        RidgeCV(ALPHAS, cv=3, form=form, memory=1000).fit(X, Y)
    least = float(str(refused.value).rpartition("give at least ")[2].partition(",")[0])
    for memory in (least * 1.05 + 3_000_000, 3 * least):
        RidgeCV(ALPHAS, cv=3, form=form).fit(X[:, :2], Y[:, :2])
        tracemalloc.start()
        ridge = RidgeCV(ALPHAS, cv=3, form=form, memory=memory).fit(X, Y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < memory + ridge.coef_.nbytes + 600 * 8 * 20, (form, shape, ridge.block_size_)


def test_single_precision_is_used_only_where_it_is_enough():
    rng = np.random.default_rng(8)
    base = rng.standard_normal((300, 20))
    X = np.hstack([base, base + 1e-3 * rng.standard_normal((300, 20))]).astype(np.float32)
    Y = (300 * (X[:, :1] - X[:, 20:21]) + X[:, :5] + rng.standard_normal((300, 5))).astype(np.float32)
    for alphas, products in ((np.logspace(0, 3, 4), "float32"), (np.logspace(-8, -4, 5), "float64")):
        single = RidgeCV(alphas, cv=3, search="grid").fit(X, Y)
        double = RidgeCV(alphas, cv=3, search="grid").fit(X.astype(np.float64), Y.astype(np.float64))
        assert (single.products_, double.products_) == (products, "float64")
        np.testing.assert_array_equal(single.alpha_, double.alpha_)
        np.testing.assert_allclose(single.cv_scores_, double.cv_scores_, atol=1e-4)
        np.testing.assert_allclose(single.predict(X), double.predict(X), atol=2e-3)


def test_float32_features_are_decomposed_in_float64():
    """Twin columns make XᵀX singular in float32, where its eigenvalues come out negative."""
    rng = np.random.default_rng(9)
    base = rng.standard_normal((200, 30)) * 100
    X = np.hstack([base, base]).astype(np.float32)
    Y = (base[:, :4] / 100 + rng.standard_normal((200, 4))).astype(np.float32)
    ridge = RidgeCV([1e-1, 1.0, 1e2], cv=4, form="primal", search="grid").fit(X, Y)
    errors, best, _, _ = slowly(
        X.astype(np.float64), Y.astype(np.float64), KFold(4).split(X), np.array([1e-1, 1.0, 1e2])
    )
    np.testing.assert_array_equal(ridge.alpha_, best)
    np.testing.assert_allclose(
        ridge.cv_scores_, 1 - errors / held_spread(Y.astype(np.float64), KFold(4).split(X)), atol=1e-4
    )


@pytest.mark.parametrize("kind", [np.float16, np.int32, np.float32])
def test_targets_of_other_kinds_are_taken_as_numbers(kind):
    X, Y = rows(10)
    Y = (Y * 3).astype(kind)
    np.testing.assert_allclose(
        RidgeCV(ALPHAS, cv=3).fit(X, Y).coef_,
        RidgeCV(ALPHAS, cv=3).fit(X, Y.astype(np.float64)).coef_,
        rtol=1e-9,
        atol=1e-9,
    )


def test_constant_and_missing_targets_are_named_counted_and_kept_apart():
    X, Y = rows(11)
    odd = Y.copy()
    odd[:, 1], odd[3, 4], odd[5, 6] = 2.5, np.nan, np.inf
    with pytest.warns(UserWarning, match="of 7 targets") as told:
        ridge = RidgeCV(ALPHAS, cv=3, search="grid").fit(X, odd)
    said = [str(one.message) for one in told]
    assert any("2 of 7 targets hold NaN or infinite values (4, 6)" in one for one in said)
    assert any("1 of 7 targets are constant (1)" in one for one in said)
    assert ridge.missing_targets_.tolist() == [4, 6]
    assert ridge.constant_targets_.tolist() == [1]
    sound = [0, 2, 3, 5]
    alone = RidgeCV(ALPHAS, cv=3, search="grid").fit(X, Y[:, sound])
    np.testing.assert_allclose(ridge.coef_[sound], alone.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(ridge.alpha_[sound], alone.alpha_)
    np.testing.assert_array_equal(ridge.predict(X)[:, 1], 2.5)
    assert np.isnan(ridge.predict(X)[:, [4, 6]]).all()
    for each in (ridge.alpha_, ridge.cv_score_, ridge.cv_scores_[0]):
        assert np.flatnonzero(np.isnan(each)).tolist() == [1, 4, 6]
    assert np.isfinite(ridge.score(X, Y))
    with pytest.raises(ValueError, match="NaN or infinity in every one of its 7 targets"):
        RidgeCV(ALPHAS, cv=3).fit(X, np.full_like(Y, np.nan))


def test_penalties_at_the_edge_of_the_grid_are_counted_and_said():
    X, Y = rows(12, noise=0.01)
    with pytest.warns(UserWarning, match=r"of 7 targets \d+ chose the least penalty \(1000\) and \d+ the largest"):
        ridge = RidgeCV([1e3, 1e4, 1e5], cv=3).fit(X, Y)
    assert sum(ridge.at_edge_) == np.isin(ridge.alpha_, [1e3, 1e5]).sum() > 0


def test_the_walk_finds_what_the_grid_finds_on_autocorrelated_rows():
    X, Y = rows(13, n=400, features=30, targets=300, noise=8.0)
    alphas = np.logspace(-1, 7, 17)
    grid, walk = (RidgeCV(alphas, cv=5, search=search).fit(X, Y) for search in ("grid", "walk"))
    assert (grid.alpha_ == walk.alpha_).mean() > 0.97
    assert (grid.cv_score_ - walk.cv_score_).max() < 0.005
    assert walk.tried_ < 0.4 * len(alphas)
    assert grid.tried_ == len(alphas)


def test_the_order_of_penalties_is_the_users():
    X, Y = rows(14)
    up, down = (RidgeCV(alphas, cv=3, search="grid").fit(X, Y) for alphas in (ALPHAS, ALPHAS[::-1]))
    np.testing.assert_array_equal(up.alpha_, down.alpha_)
    np.testing.assert_array_equal(up.cv_scores_, down.cv_scores_[::-1])


def test_of_penalties_equally_good_the_largest_is_taken():
    """Where nothing can be learnt from the features all penalties are alike."""
    X = np.zeros((30, 3))
    X[:, 0] = 1.0
    Y = np.random.default_rng(0).standard_normal((30, 2))
    for search in ("grid", "walk"):
        assert (RidgeCV(ALPHAS, cv=3, search=search).fit(X, Y).alpha_ == ALPHAS[-1]).all()


def test_the_penalty_is_that_of_scikit_learn_and_not_its_square():
    X, Y = rows(15)
    np.testing.assert_allclose(RidgeCV([7.0], cv=3).fit(X, Y).coef_, Ridge(alpha=7.0).fit(X, Y).coef_, atol=1e-10)


def test_no_held_out_row_touches_its_fold():
    """Rows that are never trained on change no weight, whatever they hold."""
    X, Y = rows(16)
    cv = [(np.arange(0, 60), np.arange(60, 90))]
    scores = []
    for factor in (1.0, 50.0):
        changed = Y.copy()
        changed[90:] *= factor
        scores.append(RidgeCV(ALPHAS, cv=cv, search="grid").fit(X, changed).cv_scores_)
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-10)


@pytest.mark.parametrize("shape", [(200, 3), (30, 90)])
def test_other_processes_give_the_same_numbers(shape):
    X, Y = rows(17, *shape, targets=24)
    here = RidgeCV(ALPHAS, cv=3).fit(X, Y)
    with parallel_config(backend="threading", n_jobs=3):
        there = RidgeCV(ALPHAS, cv=3).fit(X, Y)
    np.testing.assert_allclose(there.coef_, here.coef_, rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(there.alpha_, here.alpha_)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alphas": []}, "alphas="),
        ({"alphas": [-1.0]}, "alphas="),
        ({"search": "halving"}, "search='halving' is not one of 'walk', 'grid'"),
        ({"form": "svd"}, "form='svd' is not one of"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, said):
    X, Y = rows()
    with pytest.raises(ValueError, match=said):
        RidgeCV(**options).fit(X, Y)


def test_bad_data_are_refused_by_name():
    X, Y = rows()
    with pytest.raises(ValueError, match=r"groups has shape \(3,\); it must be \(120,\)"):
        RidgeCV().fit(X, Y, groups=[1, 2, 3])
    with pytest.raises(ValueError, match="cv=5 folds of whole groups need as many groups, and there are 2; give fewer"):
        RidgeCV().fit(X, Y, groups=np.arange(120) // 60)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        RidgeCV().fit(X, Y[:-1])
    with pytest.raises(ValueError, match="X contains NaN"):
        RidgeCV().fit(np.where(X > 2, np.nan, X), Y)
    with pytest.raises(ValueError, match="does not vary in any target"):
        RidgeCV().fit(X, Y).score(X[:3], np.ones((3, 7)))
