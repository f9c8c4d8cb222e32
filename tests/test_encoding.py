"""Encoding: no test row is touched by a fit, what was planted is found, what was not is not, and leaks are caught."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import Ridge
from sklearn.linear_model import RidgeCV as LeaveOneOut
from sklearn.model_selection import GroupKFold, KFold, TimeSeriesSplit
from sklearn.pipeline import make_pipeline

from nextlens.probes.encoding import described, encode, null_of, predict
from nextlens.probes.hemodynamics import CosineDetrend, Delays, PolynomialDetrend, ZScore
from nextlens.probes.noise_ceilings import noise_ceiling
from nextlens.probes.responses.simulated import PLANTED, simulate
from nextlens.probes.story_folds import BlocksOfStory, HeldOutStories, StoryFolds
from nextlens.probes.story_rows import label_rows
from nextlens.probes.time_only import time_kernel, time_only, time_only_prediction
from nextlens.probes.voxel_scores import correlations, r_squared
from nextlens.probes.word_vectors import WordVectors, word_rate
from nextlens.probes.words_to_volumes import SumOfWords, beside


class Recorder(Ridge):
    """A ridge that keeps what it was fitted on, and the groups it was told."""

    seen: ClassVar[list] = []

    def fit(self, X, y, groups=None):
        type(self).seen.append((np.asarray(X).copy(), np.asarray(y).copy(), groups))
        return super().fit(X, y)


def drawn(seed=0, lengths=(60, 60, 60, 60), features=3, targets=4):
    rng = np.random.default_rng(seed)
    story = np.repeat([f"s{i}" for i in range(len(lengths))], lengths)
    X = rng.standard_normal((len(story), features))
    Y = X @ rng.standard_normal((features, targets)) + rng.standard_normal((len(story), targets))
    return label_rows(X, story), label_rows(Y, story, column="target")


def encoded(X, Y, **changes):
    given = {"model": Ridge(), "cv": StoryFolds(2), "rng": np.random.default_rng(0), "draws": 99}
    return encode(X, Y, **(given | changes))


@pytest.fixture(scope="module")
def simulated():
    return simulate(np.random.default_rng(0), train=8, test=2, volumes=200)


@pytest.fixture(scope="module")
def design(simulated):
    words = simulated.listening.words
    vectors = WordVectors(simulated.lexicon, simulated.vectors, "planted").of(words)
    features = beside([vectors, word_rate(words), simulated.features.assign_coords(band=("feature", ["surprisal"]))])
    return make_pipeline(SumOfWords(simulated.listening.rows), ZScore(), Delays(range(0, 9))).fit_transform(features)


def test_what_was_planted_is_found_and_what_was_not_is_not(simulated, design):
    response = simulated.listening.response
    tests = np.unique(response.story.values[response.split.values == "test"]).tolist()
    ceiling = noise_ceiling("repeats", simulated.repeats)
    found = encoded(
        design, response, model=LeaveOneOut(np.logspace(0, 5, 6), alpha_per_target=True), cv=HeldOutStories(tests),
        draws=400, ceiling=ceiling,
    )  # fmt: skip
    by_kind = {kind: found.isel(target=found.planted.values == kind) for kind in PLANTED}
    assert (by_kind["embedding"].q < 0.05).all()
    assert (by_kind["surprisal"].q < 0.05).all()
    assert (by_kind["absent"].q < 0.05).sum() <= 1
    assert abs(by_kind["absent"].r.mean()) < 0.05
    for kind in ("embedding", "surprisal"):
        share = (by_kind[kind].r / by_kind[kind].ceiling).mean()
        assert 0.85 < share < 1.05
    assert (by_kind["recall"].r / by_kind["recall"].ceiling).mean() < 0.6
    assert np.isnan(by_kind["absent"].ceiling).mean() > 0.2
    assert not found.control_r.values.any()
    assert "0 by construction" in found.attrs["control"]
    assert found.alpha.dims == ("fold", "target")


def test_scores_are_those_of_the_predictions_kept(simulated):
    X, Y = drawn()
    found = encoded(X, Y)
    expected = np.empty(Y.shape)
    for train, test in GroupKFold(2).split(X.values, groups=X.story.values):
        expected[test] = Ridge().fit(X.values[train], Y.values[train]).predict(X.values[test])
    np.testing.assert_allclose(found.prediction.values, expected, atol=1e-10)
    np.testing.assert_allclose(found.r.values, correlations(Y.values, expected), atol=1e-10)
    np.testing.assert_allclose(found.r2.values, r_squared(Y.values, expected), atol=1e-10)
    for story in found.story.values:
        rows = Y.story.values == story
        by_story = found.r_story.sel(story=story).values
        np.testing.assert_allclose(by_story, correlations(Y.values[rows], expected[rows]), atol=1e-10)
    assert float(found.mean_r) == pytest.approx(found.r.mean().item())


def test_no_test_story_touches_a_fit():
    """With every number of the test stories replaced, training data and groups are the same, bit for bit."""
    X, Y = drawn()
    held = HeldOutStories(["s1"])
    test = X.story.values == "s1"
    Recorder.seen = []
    encoded(X, Y, model=Recorder(), cv=held, response=ZScore())
    X[test], Y[test] = 1e6 * np.arange(60)[:, None], np.random.default_rng(5).standard_normal((60, 4))
    encoded(X, Y, model=Recorder(), cv=held, response=ZScore())
    (first, second) = Recorder.seen
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(first[2]) == {"s0", "s2", "s3"}


def test_groups_reach_the_last_step_of_a_pipeline():
    X, Y = drawn()
    Recorder.seen = []
    encoded(X, Y, model=make_pipeline(ZScore(), Delays((0, 1)), Recorder()))
    assert [set(groups) for _, _, groups in Recorder.seen] == [{"s0", "s2"}, {"s1", "s3"}]
    assert Recorder.seen[0][0].shape == (120, 6)


def test_rows_are_matched_by_label():
    X, Y = drawn()
    straight = encoded(X, Y)
    mixed = encoded(X, Y[np.random.default_rng(0).permutation(len(Y))])
    np.testing.assert_array_equal(straight.r.values, mixed.r.values)


def test_dead_targets_are_named_kept_apart_and_counted():
    X, Y = drawn(targets=6)
    whole = encoded(X, Y)
    Y[:, 1], Y[7, 3], Y[60:120, 4] = 2.5, np.nan, 1.0
    found = encoded(X, Y)
    assert found.state.values.tolist() == ["kept", "constant", "kept", "not finite", "constant", "kept"]
    assert (found.attrs["n_kept"], found.attrs["n_constant"], found.attrs["n_not_finite"]) == (3, 2, 1)
    alive = found.state.values == "kept"
    for name in ("r", "r2", "p", "q", "null_q95"):
        assert np.isnan(found[name].values[~alive]).all()
    np.testing.assert_allclose(found.r.values[alive], whole.r.values[alive])
    assert float(found.mean_r) == pytest.approx(found.r.values[alive].mean())
    Y[:] = np.nan
    with pytest.raises(ValueError, match="Y has 6 targets, and none is finite and varies"):
        encoded(X, Y)


def test_nulls_are_the_same_in_blocks_of_targets(monkeypatch):
    X, Y = drawn(targets=5)
    whole = encoded(X, Y)
    monkeypatch.setattr("nextlens.probes.encoding.TARGETS", 2)
    parts = encoded(X, Y)
    for name in ("p", "null_q95", "mean_p", "mean_null_q95"):
        np.testing.assert_allclose(parts[name].values, whole[name].values, atol=1e-12)


def test_mean_over_targets_has_the_null_of_that_mean():
    X, Y = drawn()
    found = predict(X, Y, list(StoryFolds(2).split(X)), model=Ridge())
    null = null_of(found, np.random.default_rng(np.random.default_rng(0).integers(2**63)), draws=99)
    result = encoded(X, Y)
    assert float(result.mean_null_q95) == pytest.approx(np.quantile(null.of_the_mean(np.ones(4, bool)), 0.95))
    np.testing.assert_allclose(result.p.values, null.p(result.r.values))


@pytest.mark.parametrize("null", ["rolling", "block permutation"])
def test_noise_is_not_found(null):
    rng = np.random.default_rng(1)
    X, _ = drawn()
    Y = label_rows(rng.standard_normal((240, 200)), X.story.values, column="target")
    found = encoded(X, Y, null=null, response=ZScore())
    assert (found.q < 0.05).sum() <= 2
    assert abs(float(found.mean_r)) < 0.03


@pytest.mark.parametrize("cv", [KFold(5), KFold(4, shuffle=True, random_state=0)])
def test_a_split_that_leaks_is_refused_unless_asked_for(cv):
    X, Y = drawn()
    with pytest.raises(ValueError, match="a model that knows only time would score"):
        encoded(X, Y, cv=cv)
    assert encoded(X, Y, cv=cv, allow_leakage=True).attrs["leaks"] == 1
    assert encoded(X, Y).attrs["leaks"] == 0


def test_time_alone_scores_where_neighbours_are_on_both_sides():
    """Slow noise, and a design that has nothing to do with it: shuffled folds make time look like knowledge."""
    rng = np.random.default_rng(0)
    noise = np.cumsum(rng.standard_normal((300, 3)), axis=0)
    Y = label_rows(noise, ["only"] * 300, column="target")
    X = label_rows(rng.standard_normal((300, 2)), ["only"] * 300)
    blocked = encoded(X, Y, cv=BlocksOfStory(5), response=PolynomialDetrend(2.0, 60.0))
    shuffled = encoded(X, Y, cv=KFold(5, shuffle=True, random_state=0), allow_leakage=True, widths=(1.0, 1e-3))
    assert shuffled.control_r.sel(width=1).min() > 0.9
    assert (shuffled.control_r.sel(width=1e-3) < shuffled.null_q95).all()
    assert shuffled.control_exceeds.all()
    assert blocked.control_r.max() < 0.3
    assert blocked.attrs["splits_stories"] == 1
    assert blocked.attrs["control"] == "through the same splits"


def test_time_only_is_kernel_ridge_with_its_penalty_by_leaving_one_out():
    from sklearn.kernel_ridge import KernelRidge

    from nextlens.probes.time_only import PENALTIES

    rng = np.random.default_rng(0)
    rows = label_rows(np.zeros((40, 1)), np.repeat(["a", "b"], 20))
    Y = np.cumsum(rng.standard_normal((40, 1)), axis=0)
    train, test = np.r_[0:8, 14:40], np.arange(8, 14)
    K = time_kernel(rows, rows, 2.0)
    assert not K[:20, 20:].any()
    assert K[3, 5] == pytest.approx(np.exp(-4 / 16))
    best, mean = None, Y[train].mean()
    for penalty in PENALTIES:
        errors = []
        for row in train:
            others = train[train != row]
            fit = KernelRidge(alpha=penalty, kernel="precomputed").fit(K[np.ix_(others, others)], Y[others] - mean)
            errors.append(fit.predict(K[np.ix_([row], others)])[0, 0] + mean - Y[row, 0])
        if best is None or np.sum(np.square(errors)) < best[0]:
            best = np.sum(np.square(errors)), penalty
    fit = KernelRidge(alpha=best[1], kernel="precomputed").fit(K[np.ix_(train, train)], Y[train] - mean)
    found = time_only_prediction(rows, Y, train, test, 2.0)
    np.testing.assert_allclose(found, fit.predict(K[np.ix_(test, train)]) + mean, atol=1e-8)


def test_of_a_story_held_out_time_says_nothing():
    X, Y = drawn()
    assert time_only(X, Y.values, list(StoryFolds(2).split(X))) is None
    said = time_only_prediction(X, Y.values, np.arange(120), np.arange(180, 240), 4.0)
    np.testing.assert_allclose(said, np.tile(Y.values[:120].mean(0), (60, 1)))


def test_time_alone_learns_from_rows_that_are_never_tested():
    """Where only later rows are tested, as forecasts are, no training row of the first fold is a tested one."""
    X, Y = drawn(lengths=(200,))
    cv = TimeSeriesSplit(3, gap=6)
    control = encoded(X, Y, cv=cv).control_r
    assert np.isfinite(control.values).all()
    splits = list(cv.split(X))
    tested = np.concatenate([test for _, test in splits])
    said = time_only(X, Y.values, splits)
    expected = [correlations(Y.values[tested], one) for one in said.values[:, tested]]
    np.testing.assert_allclose(control.transpose("width", "target"), expected, atol=1e-12)


def test_drifts_are_removed_inside_the_folds():
    """What a fold trains on does not change when the responses it tests do."""
    X, Y = drawn(lengths=(200,))
    steps = make_pipeline(CosineDetrend(2.0, 100.0), ZScore())
    Recorder.seen = []
    encoded(X, Y, model=Recorder(), cv=BlocksOfStory(4), response=steps)
    before = Recorder.seen[1][1]
    tested = list(BlocksOfStory(4).split(X))[1][1]
    Y[tested] += np.linspace(0, 50, len(tested))[:, None]
    Recorder.seen = []
    encoded(X, Y, model=Recorder(), cv=BlocksOfStory(4), response=steps)
    np.testing.assert_array_equal(Recorder.seen[1][1], before)
    assert not np.array_equal(Recorder.seen[0][1], before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, Y: {"Y": Y.drop_vars("story")}, "Y has no coordinate 'story'"),
        (lambda X, Y: {"Y": Y[:180]}, "1 stories are in X only: 's3'"),
        (lambda X, Y: {"X": X[:180]}, "1 stories are in Y only: 's3'"),
        (lambda X, Y: {"Y": Y[1:]}, "1 of 240 rows of X are missing in Y; the first is volume 0 of story 's0'"),
        (lambda X, Y: {"null": "roll"}, "null='roll' is not one of 'rolling', 'block permutation'"),
        (lambda X, Y: {"ceiling": xr.Dataset({"ceiling": ("target", np.ones(2))})}, "ceiling is of 2 targets; Y has 4"),
        (lambda X, Y: {"draws": 0}, "draws=0 must be at least 1"),
        (lambda X, Y: {"X": X.where(X < 2)}, "X holds [0-9]+ NaN or infinite values; the first in row"),
    ],
)
def test_wrong_input_is_named_before_anything_is_fitted(change, message):
    X, Y = drawn()
    given = {"X": X, "Y": Y} | change(X, Y)
    Recorder.seen = []
    with pytest.raises(ValueError, match=message):
        encoded(given.pop("X"), given.pop("Y"), model=Recorder(), **given)
    assert not Recorder.seen


def test_a_row_tested_twice_is_refused():
    X, Y = drawn()
    twice = [(np.arange(120), np.arange(120, 180)), (np.arange(120), np.arange(170, 240))]
    with pytest.raises(ValueError, match="row 170 is tested 2 times"):
        predict(X, Y, twice, model=Ridge())


def test_models_and_splitters_are_described_on_one_line():
    model = make_pipeline(ZScore(), LeaveOneOut(np.ones(2)))
    assert described(model).startswith("ZScore(one_run=False) | RidgeCV(")
    assert described(BlocksOfStory(3, gap=2)) == "BlocksOfStory(n_splits=3, gap=2)"
