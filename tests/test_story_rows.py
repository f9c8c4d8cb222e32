"""Rows are found by story and volume, whatever their order, and nothing else joins them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from nextlens.probes.hemodynamics import Delays, ZScore
from nextlens.probes.story_rows import label_rows, row_labels, rows_of_stories, same_rows, stretches

seeds = st.integers(0, 2**32 - 1)


def drawn(seed, lengths=(7, 5, 9), width=3):
    rng = np.random.default_rng(seed)
    story = np.repeat([f"s{i}" for i in range(len(lengths))], lengths)
    return label_rows(rng.standard_normal((len(story), width)), story)


@given(seeds)
def test_rows_are_matched_by_label_whatever_their_order(seed):
    X = drawn(seed)
    order = np.random.default_rng(seed).permutation(len(X))
    Y = drawn(seed + 1)[order]
    found = same_rows(X, Y)
    assert found.story.values.tolist() == X.story.values.tolist()
    assert found.volume.values.tolist() == X.volume.values.tolist()
    np.testing.assert_array_equal(found.values, drawn(seed + 1).values)


def test_a_response_of_more_volumes_is_brought_to_those_asked_for():
    Y = drawn(0)
    X = Y[np.flatnonzero((Y.volume.values > 1) & (Y.volume.values < 4))]
    assert same_rows(X, Y).identical(X)


@given(seeds)
def test_stories_are_listed_in_order_of_time_and_cut_where_a_volume_is_missing(seed):
    rng = np.random.default_rng(seed)
    whole = drawn(seed)
    some = whole[rng.permutation(len(whole))[: rng.integers(2, len(whole))]]
    stories, cut = list(rows_of_stories(some)), list(stretches(some))
    assert sorted(np.concatenate([at for _, at in stories]).tolist()) == list(range(len(some)))
    assert np.concatenate([at for _, at in cut]).tolist() == np.concatenate([at for _, at in stories]).tolist()
    for name, at in stories:
        assert set(some.story.values[at]) == {name}
        assert (np.diff(some.volume.values[at]) > 0).all()
    for _, at in cut:
        assert (np.diff(some.volume.values[at]) == 1).all()
    gaps = sum(int((np.diff(some.volume.values[at]) != 1).sum()) for _, at in stories)
    assert len(cut) == len(stories) + gaps


def test_labels_travel_through_scikit_learn(monkeypatch):
    """A pipeline fitted on folds of rows sees whole stories: the same numbers as one that was told story by story."""
    X, y = drawn(0, (30, 30, 30, 30)), np.random.default_rng(1).standard_normal(120)
    from sklearn.linear_model import Ridge

    model = make_pipeline(ZScore(), Delays((0, 1)), Ridge())
    given = cross_val_predict(model, X, y, groups=X.story.values, cv=GroupKFold(4))
    design = make_pipeline(ZScore(), Delays((0, 1))).fit_transform(X).values
    expected = np.empty(120)
    for train, test in GroupKFold(4).split(design, groups=X.story.values):
        expected[test] = Ridge().fit(design[train], y[train]).predict(design[test])
    np.testing.assert_allclose(given, expected, rtol=1e-10)


def test_rows_of_a_story_that_are_apart_must_be_numbered():
    with pytest.raises(ValueError, match="story 'a' do not stand together"):
        label_rows(np.ones((3, 1)), ["a", "b", "a"])
    assert len(label_rows(np.ones((3, 1)), ["a", "b", "a"], np.array([0, 0, 1]))) == 3


def test_a_label_comes_once():
    with pytest.raises(ValueError, match="1 rows of values occur more than once; the first is volume 4 of story 'a'"):
        label_rows(np.ones((2, 1)), ["a", "a"], np.array([4, 4]))


@pytest.mark.parametrize(("side", "name"), [(0, "X"), (1, "Y")])
def test_a_story_on_one_side_only_is_named(side, name):
    both = [drawn(0, (4, 4)), drawn(0, (4, 4))]
    both[side] = drawn(0, (4, 4, 4))
    with pytest.raises(ValueError, match=f"1 stories are in {name} only: 's2'"):
        same_rows(*both)


def test_a_row_with_no_counterpart_is_named():
    X = drawn(0, (5, 4))
    with pytest.raises(ValueError, match="1 of 9 rows of X are missing in Y; the first is volume 2 of story 's0'"):
        same_rows(X, X[np.arange(9) != 2])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (drawn(0).rename(row="time"), "must be a DataArray of dims"),
        (drawn(0).drop_vars("story"), "no coordinate 'story'"),
        (drawn(0).assign_coords(volume=("row", np.arange(21) / 2)), "must be integers"),
        (drawn(0)[:0], "has no rows"),
    ],
)
def test_arrays_without_labels_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        same_rows(array, drawn(0))


def test_labels_without_values_are_light():
    labels = row_labels(drawn(0))
    assert labels.dims == ("row",)
    assert set(labels.coords) == {"story", "volume"}
