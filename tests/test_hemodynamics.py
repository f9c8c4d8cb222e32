"""Z-scores, delays, trimming and detrending: formulas, and that no story ever sees another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from nextlens.probes.hemodynamics import CosineDetrend, Delays, PolynomialDetrend, Trim, ZScore, cosines, polynomials
from nextlens.probes.story_rows import label_rows

seeds = st.integers(0, 2**32 - 1)
TRANSFORMERS = [ZScore(), Delays((0, 1, 3)), Trim(2, 1), CosineDetrend(2.0, 12.0), PolynomialDetrend(2.0, 8.0)]
each = pytest.mark.parametrize("transformer", TRANSFORMERS, ids=lambda one: type(one).__name__)


def failing(one):
    """What scikit-learn's checks suppose of rows and is not so: they are volumes, in order of time."""
    alone = {"check_methods_subset_invariance": "what a row becomes depends on the rows of its run"}
    if isinstance(one, Delays):
        return alone | {"check_methods_sample_order_invariance": "a delayed row is the one before"}
    return {} if isinstance(one, Trim) else alone


def drawn(seed, lengths=(9, 12, 8), width=3):
    rng = np.random.default_rng(seed)
    return label_rows(rng.standard_normal((sum(lengths), width)) + 3, np.repeat(list("abc")[: len(lengths)], lengths))


@parametrize_with_checks(
    [
        ZScore(one_run=True),
        Delays(one_run=True),
        Trim(0, 0, one_run=True),
        CosineDetrend(2.0, 1000.0, one_run=True),
        PolynomialDetrend(2.0, 1000.0, one_run=True),
    ],
    expected_failed_checks=failing,
)
def test_scikit_learns_contract(estimator, check):
    check(estimator)


@each
@settings(max_examples=8)
@given(seeds)
def test_no_story_sees_another(transformer, seed):
    """Every story comes out as it does alone."""
    rows = drawn(seed)
    whole = clone(transformer).fit_transform(rows)
    for story in "abc":
        alone = clone(transformer).fit_transform(rows[rows.story.values == story])
        np.testing.assert_allclose(whole.values[whole.story.values == story], alone.values, atol=1e-12)


@each
@settings(max_examples=8)
@given(seeds)
def test_order_of_rows_is_that_of_their_volumes(transformer, seed):
    rows = drawn(seed)
    order = np.random.default_rng(seed).permutation(len(rows))
    straight, mixed = clone(transformer).fit_transform(rows), clone(transformer).fit_transform(rows[order])
    labels = ["story", "volume"]
    straight, mixed = (one.set_index(row=labels).sortby("row") for one in (straight, mixed))
    np.testing.assert_allclose(mixed.values, straight.values, atol=1e-12)


@each
def test_a_matrix_that_does_not_say_where_stories_end_is_refused(transformer):
    with pytest.raises(ValueError, match=f"{type(transformer).__name__} cannot know where a story ends.*one_run=True"):
        clone(transformer).fit(drawn(0).values)
    one = clone(transformer).set_params(one_run=True)
    alone = drawn(0, (12,))
    np.testing.assert_allclose(
        one.fit_transform(alone.values), clone(transformer).fit_transform(alone).values, atol=1e-12
    )


@each
def test_nan_and_another_width_are_refused(transformer):
    fitted, rows = clone(transformer).fit(drawn(0)), drawn(0)
    with pytest.raises(ValueError, match=r"X has 2 features; .* was fitted with 3"):
        fitted.transform(rows[:, :2])
    rows[4, 1] = np.nan
    with pytest.raises(ValueError, match="X holds 1 NaN or infinite values; the first in row 4"):
        fitted.transform(rows)


@given(seeds)
def test_delays_are_a_lookup_by_volume(seed):
    """By enumeration, with volumes missing: ``out[t, d] = X[t - d]`` of the same story, else 0."""
    rng = np.random.default_rng(seed)
    rows = drawn(seed)
    rows = rows[np.sort(rng.permutation(len(rows))[: rng.integers(5, len(rows))])]
    delays = (-1, 0, 2, 20)
    value = {(s, v): x for s, v, x in zip(rows.story.values, rows.volume.values, rows.values, strict=True)}
    expected = [
        np.concatenate([value.get((s, v - d), np.zeros(3)) for d in delays])
        for s, v in zip(rows.story.values, rows.volume.values, strict=True)
    ]
    found = Delays(delays).fit_transform(rows)
    np.testing.assert_array_equal(found.values, expected)
    assert found.delay.values.tolist() == np.repeat(delays, 3).tolist()
    assert found.source.values.tolist() == [0, 1, 2] * 4


def test_first_rows_of_every_story_have_heard_nothing():
    found = Delays((1, 2, 3, 4)).fit_transform(drawn(0))
    starts = found.values[found.volume.values == 0]
    assert len(starts) == 3
    assert not starts.any()


def test_a_story_shorter_than_the_longest_delay_has_zeros():
    rows = label_rows(np.ones((5, 1)), list("aabbb"))
    np.testing.assert_array_equal(Delays((2,)).fit_transform(rows).values[:, 0], [0, 0, 0, 0, 1])


def test_bands_are_carried_along():
    rows = drawn(0).assign_coords(band=("feature", ["x", "y", "y"]))
    assert Delays((1, 2)).fit_transform(rows).band.values.tolist() == ["x", "y", "y"] * 2


@pytest.mark.parametrize("delays", [(), (1.5,), (1, 1), ((1, 2),)])
def test_delays_are_whole_and_distinct(delays):
    with pytest.raises(ValueError, match="delays="):
        Delays(delays).fit(drawn(0))


@given(seeds)
def test_z_scores_have_mean_0_and_spread_1_in_every_story(seed):
    found = ZScore().fit_transform(drawn(seed))
    for story in "abc":
        part = found.values[found.story.values == story]
        np.testing.assert_allclose(part.mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(part.std(0), 1, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_column_becomes_0_and_is_listed(dtype):
    rows = drawn(0).astype(dtype)
    rows[rows.story.values == "b", 1] = 0.1
    scaled = ZScore().fit(rows)
    assert scaled.constant_ == [("b", 1)]
    found = scaled.transform(rows)
    assert not found.values[found.story.values == "b", 1].any()
    assert np.isfinite(found.values).all()
    assert found.dtype == dtype


def test_trim_is_a_slice_of_every_story():
    rows = drawn(0)
    found = Trim(2, 3).fit_transform(rows)
    assert found.volume.values.tolist() == [*range(2, 6), *range(2, 9), *range(2, 5)]
    with pytest.raises(ValueError, match="story 'c' has 8 volumes; start=5 and stop=3 leave none"):
        Trim(5, 3).fit_transform(rows)


def test_cosines_and_polynomials_are_orthonormal_and_what_they_are_called():
    for basis in (cosines(40, 6), polynomials(40, 6)):
        np.testing.assert_allclose(basis.T @ basis, np.eye(7), atol=1e-12)
    t = np.arange(40)
    wave = np.cos(np.pi * 3 * (2 * t + 1) / 80)
    np.testing.assert_allclose(cosines(40, 6)[:, 3], wave / np.linalg.norm(wave), atol=1e-12)
    residual = t**6.0 - polynomials(40, 6) @ (polynomials(40, 6).T @ t**6.0)
    assert np.abs(residual).max() < 1e-6 * t[-1] ** 6


def test_slow_waves_go_and_fast_ones_stay():
    t = np.arange(200)
    slow, fast = np.cos(np.pi * 2 * (2 * t + 1) / 400), np.cos(np.pi * 40 * (2 * t + 1) / 400)
    rows = label_rows(np.stack([slow + fast, 0 * slow + 5], axis=1), ["a"] * 200)
    found = CosineDetrend(2.0, 128.0).fit_transform(rows).values
    np.testing.assert_allclose(found[:, 0], fast, atol=1e-10)
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-10)


def test_a_stretch_loses_as_many_degrees_as_it_lasts():
    t = np.arange(60.0)
    rows = label_rows(np.stack([t, t**2], axis=1), ["a"] * 60)
    found = PolynomialDetrend(2.0, 120.0).fit_transform(rows).values  # 120 s: degree 1
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-9)
    assert np.abs(found[:, 1]).max() > 100


@pytest.mark.parametrize("detrend", [CosineDetrend(2.0, 30.0), PolynomialDetrend(2.0, 30.0)])
def test_detrending_training_rows_sees_no_test_row(detrend):
    """Rows left out for the test may hold anything: the training rows on either side come out the same."""
    rows = drawn(0, (60,))
    train = np.r_[0:20, 35:60]
    before = clone(detrend).fit_transform(rows[train]).values
    rows[20:35] = 1e9
    np.testing.assert_array_equal(clone(detrend).fit_transform(rows[train]).values, before)
    left = clone(detrend).fit_transform(rows[:20]).values
    np.testing.assert_allclose(before[:20], left, atol=1e-12)


def test_a_stretch_too_short_for_its_drifts_is_refused():
    with pytest.raises(ValueError, match="a stretch of 1 volumes of story 'a', from volume 3, is too short"):
        CosineDetrend(2.0).fit_transform(drawn(0, (12,))[[0, 1, 3]])


@pytest.mark.parametrize("wrong", [CosineDetrend(0.0), CosineDetrend(2.0, -1.0), PolynomialDetrend(np.inf), Trim(-1)])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValueError, match=r"(tr|period|start)="):
        wrong.fit(drawn(0))
