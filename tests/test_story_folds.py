"""Folds: stories whole, gaps kept, and every other splitter caught when it puts neighbours on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut, ShuffleSplit

from nextlens.probes.story_folds import BlocksOfStory, HeldOutStories, StoryFolds, guarded, splits_stories
from nextlens.probes.story_rows import label_rows

seeds = st.integers(0, 2**32 - 1)


def drawn(lengths=(30, 40, 20, 35), seed=None):
    story = np.repeat([f"s{i}" for i in range(len(lengths))], lengths)
    rows = label_rows(np.zeros((len(story), 1)), story)
    return rows if seed is None else rows[np.random.default_rng(seed).permutation(len(rows))]


def closest(splits, rows):
    """By enumeration: how many volumes apart the nearest training and test row of one story are, over all folds."""
    story, volume = rows.story.values, rows.volume.values
    return min(
        (
            int(np.abs(volume[train][story[train] == name][:, None] - volume[test][story[test] == name]).min())
            for train, test in splits
            for name in np.intersect1d(story[train], story[test])
        ),
        default=None,
    )


@given(seeds, st.integers(2, 4))
def test_story_folds_keep_stories_whole_and_test_each_row_once(seed, n_splits):
    rows = drawn(seed=seed)
    splits = guarded(StoryFolds(n_splits).split(rows), rows)
    assert sorted(np.concatenate([test for _, test in splits]).tolist()) == list(range(len(rows)))
    assert closest(splits, rows) is None
    assert not splits_stories(splits, rows)
    sizes = [len(test) for _, test in splits]
    assert max(sizes) - min(sizes) <= 40


def test_folds_are_the_same_every_time_and_serve_without_labels():
    rows = drawn()
    labelled, plain = StoryFolds(3).split(rows), StoryFolds(3).split(rows.values, groups=rows.story.values)
    for (a, b), (c, d) in zip(labelled, plain, strict=True):
        assert a.tolist() == c.tolist()
        assert b.tolist() == d.tolist()
    with pytest.raises(ValueError, match="X has no labels and groups is None"):
        list(StoryFolds(3).split(rows.values))


@given(seeds, st.integers(2, 6), st.integers(0, 7))
def test_blocks_keep_their_gap_and_lose_nothing_beyond_it(seed, n_splits, gap):
    rows = drawn(seed=seed)
    splits = list(BlocksOfStory(n_splits, gap=gap).split(rows))
    assert sorted(np.concatenate([test for _, test in splits]).tolist()) == list(range(len(rows)))
    assert closest(splits, rows) == gap + 1
    assert guarded(splits, rows, gap=gap)
    story, volume = rows.story.values, rows.volume.values
    for train, test in splits:
        for row in set(range(len(rows))) - set(train) - set(test):
            near = volume[test][story[test] == story[row]]
            assert np.abs(near - volume[row]).min() <= gap


@pytest.mark.parametrize("cv", [KFold(5, shuffle=True, random_state=0), KFold(5), ShuffleSplit(2, random_state=0)])
def test_splitters_that_scatter_neighbours_are_refused_with_the_way_out(cv):
    rows = drawn()
    with pytest.raises(ValueError, match=r"trains on volume \d+ of story 's\d' and tests volume .* StoryFolds\(\)"):
        guarded(cv.split(rows), rows)


@pytest.mark.parametrize("cv", [GroupKFold(3), LeaveOneGroupOut(), HeldOutStories(["s1", "s3"])])
def test_splitters_that_keep_stories_whole_are_let_through(cv):
    rows = drawn()
    assert guarded(cv.split(rows, groups=rows.story.values), rows)


@given(seeds)
def test_the_guard_agrees_with_enumeration(seed):
    rng = np.random.default_rng(seed)
    rows = drawn((30, 20))
    part = rng.integers(0, 12, size=len(rows)) if seed % 2 else np.arange(len(rows)) // rng.integers(3, 12)
    splits = [(np.flatnonzero(part > 1), np.flatnonzero(part == 0))]
    gap = int(rng.integers(0, 6))
    if not len(splits[0][0]) or not len(splits[0][1]):
        return
    near = closest(splits, rows)
    if near is not None and near <= gap:
        with pytest.raises(ValueError, match="trains on volume"):
            guarded(splits, rows, gap=gap)
    else:
        assert len(guarded(splits, rows, gap=gap)) == 1


def test_a_row_on_both_sides_is_a_neighbour_of_itself():
    rows = drawn()
    with pytest.raises(ValueError, match="trains on volume 3 of story 's0' and tests volume 3"):
        guarded([(np.array([3, 50]), np.array([3]))], rows, gap=0)


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (StoryFolds(5), "n_splits=5 folds of whole stories need as many stories, and there are 4"),
        (StoryFolds(1), "n_splits=1 must be at least 2"),
        (HeldOutStories(["s1", "x"]), r"test=\['s1', 'x'\] must name stories that are there; \['x'\] are not"),
        (HeldOutStories([]), "must name stories"),
        (HeldOutStories(["s0", "s1", "s2", "s3"]), "at least one must be left to train on"),
        (BlocksOfStory(25), "story 's2' has 20 rows for n_splits=25"),
        (BlocksOfStory(4, gap=-1), "gap=-1"),
    ],
)
def test_impossible_folds_are_named(cv, message):
    with pytest.raises(ValueError, match=message):
        list(cv.split(drawn()))


def test_no_split_and_empty_sides_are_named():
    with pytest.raises(ValueError, match="cv gives no split"):
        guarded([], drawn())
    with pytest.raises(ValueError, match="fold 0 has 0 rows to train on"):
        guarded([(np.array([], dtype=int), np.array([1]))], drawn())
