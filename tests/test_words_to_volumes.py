"""Words meet volumes by the formula of each filter, inside their own story, and nowhere outside the scan."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from nextlens.probes.responses.listening import volume_times
from nextlens.probes.story_rows import label_rows, row_labels
from nextlens.probes.words_to_volumes import (
    Lanczos,
    LastWord,
    MeanOfWords,
    Sinc,
    SumOfWords,
    beside,
    label_words,
    lanczos,
    spacing,
    volume_of,
)

seeds = st.integers(0, 2**32 - 1)
TR = 2.0
KINDS = (Lanczos, Sinc, SumOfWords, MeanOfWords, LastWord)
each = pytest.mark.parametrize("kind", KINDS)


def rows_of(lengths, tr=TR, start=0.0):
    volume = np.concatenate([np.arange(n) for n in lengths.values()])
    rows = label_rows(np.zeros((len(volume), 1)), np.repeat(list(lengths), list(lengths.values())))
    return row_labels(rows.assign_coords(time=("row", volume_times(volume, tr, start))))


def heard(seed, rows, n=30, width=2):
    """Words scattered over the scan of each story, in any order."""
    rng = np.random.default_rng(seed)
    story, onset = [], []
    for name in np.unique(rows.story.values):
        times = rows.time.values[rows.story.values == name]
        story += [name] * n
        onset += rng.uniform(times[0] - TR / 2, times[-1] + TR / 2 - 1e-6, n).tolist()
    onset = np.array(onset)
    table = xr.Dataset(
        {"story": ("word", np.array(story)), "onset": ("word", onset), "volume": ("word", volume_of(onset, TR))}
    )
    return label_words(rng.standard_normal((len(onset), width)), table)


def by_hand(kind, words, rows):
    """Each number from its definition, row by row and word by word."""
    told, onset, heard_in = words.story.values.tolist(), words.onset.values.tolist(), words.volume.values.tolist()
    expected = np.zeros((len(rows), words.shape[1]))
    labels = zip(rows.story.values.tolist(), rows.time.values.tolist(), rows.volume.values.tolist(), strict=True)
    for row, (story, time, volume) in enumerate(labels):
        mine = [w for w in range(len(told)) if told[w] == story]
        x = [(time - onset[w]) / TR for w in mine]
        here = [w for w in mine if heard_in[w] == volume]
        if kind is Lanczos:
            weight = [np.sinc(u) * np.sinc(u / 3) if abs(u) <= 3 else 0.0 for u in x]
        elif kind is Sinc:
            weight = [np.sinc(u) if abs(u) <= 10 else 0.0 for u in x]
        else:
            weight = [float(w in here) for w in mine]
            if kind is MeanOfWords:
                weight = [v / max(len(here), 1) for v in weight]
            if kind is LastWord:
                weight = [float(bool(here) and w == here[-1]) for w in mine]
        expected[row] = np.array(weight) @ words.values[mine]
    return expected


@each
@settings(max_examples=12)
@given(seeds)
def test_numbers_are_those_of_the_definition(kind, seed):
    rows = rows_of({"b": 13, "a": 9})
    words = heard(seed, rows, n=8)
    found = kind(rows).fit_transform(words)
    np.testing.assert_allclose(found.values, by_hand(kind, words, rows), atol=1e-12)
    assert found.story.values.tolist() == rows.story.values.tolist()
    assert found.volume.values.tolist() == rows.volume.values.tolist()


@each
def test_no_story_sees_anothers_words(kind):
    rows = rows_of({"a": 20, "b": 20})
    words = heard(0, rows)
    changed = words.copy(deep=True)
    changed[words.story.values == "b"] += 1e6
    before, after = kind(rows).fit_transform(words), kind(rows).fit_transform(changed)
    np.testing.assert_array_equal(before.values[:20], after.values[:20])
    assert np.abs(before.values[20:] - after.values[20:]).max() > 1e5


@each
def test_words_of_some_stories_give_the_rows_of_those(kind):
    rows = rows_of({"a": 20, "b": 20})
    words = heard(0, rows)
    only = kind(rows).fit_transform(words[words.story.values == "b"])
    assert set(only.story.values) == {"b"}
    np.testing.assert_array_equal(only.values, kind(rows).fit_transform(words).values[20:])


def test_a_word_in_the_middle_of_a_volume_weighs_one_there_and_nothing_at_others():
    times = volume_times(np.arange(15), TR)
    weights = lanczos(times[7:8], times, 1 / TR).toarray()[:, 0]
    np.testing.assert_allclose(weights, np.eye(15)[7], atol=1e-12)
    beyond = lanczos(np.array([0.0]), np.array([3 * TR - 1e-9, 3 * TR + 1e-6]), 1 / TR).toarray()[:, 0]
    assert abs(beyond[0]) < 1e-9
    assert beyond[1] == 0


def test_many_words_sum_to_their_number_in_a_volume():
    """A smooth sum: 0.3 % below the number of words in a TR, far from the borders; the local mean is 1."""
    rows = rows_of({"a": 60})
    onset = np.arange(0.0, 120.0, 0.1)
    table = xr.Dataset({"story": ("word", np.full(1200, "a")), "onset": ("word", onset)})
    ones = label_words(np.ones((1200, 1)), table)
    total = Lanczos(rows).fit_transform(ones).values[10:-10, 0]
    np.testing.assert_allclose(total, 0.997 * TR / 0.1, rtol=1e-3)
    np.testing.assert_allclose(Lanczos(rows, normalise=True).fit_transform(ones).values[:, 0], 1, atol=1e-6)


def test_normalised_weights_leave_silence_at_zero():
    rows = rows_of({"a": 30})
    table = xr.Dataset({"story": ("word", ["a"]), "onset": ("word", [5.0])})
    found = Lanczos(rows, normalise=True).fit_transform(label_words(np.array([[7.0]]), table)).values[:, 0]
    assert found[2] == pytest.approx(7.0)
    assert not found[6:].any()


@each
@pytest.mark.parametrize("onset", [-3.0, 41.0, 1e6])
def test_words_outside_the_scan_are_refused_by_name(kind, onset):
    rows = rows_of({"a": 20})
    table = xr.Dataset(
        {
            "story": ("word", ["a", "a"]),
            "onset": ("word", [4.0, onset]),
            "volume": ("word", volume_of(np.array([4.0, onset]), TR)),
        }
    )
    words = label_words(np.ones((2, 1)), table)
    with pytest.raises(ValueError, match=r"1 words of story 'a' begin outside the scan, which is 0 to .* word 1, at"):
        kind(rows).fit_transform(words)
    ignored = kind(rows, outside="ignore").fit_transform(words)
    np.testing.assert_allclose(ignored.values[3:12], kind(rows).fit_transform(words[:1]).values[3:12], atol=0.05)


def test_trimmed_rows_have_the_numbers_of_the_whole_scan():
    rows = rows_of({"a": 40})
    words = heard(0, rows)
    whole = Lanczos(rows).fit_transform(words)
    some = Lanczos(rows[10:-5], outside="ignore").fit_transform(words)
    np.testing.assert_allclose(some.values, whole.values[10:-5], atol=1e-12)


@each
def test_words_of_a_story_that_was_not_scanned_are_refused(kind):
    words = heard(0, rows_of({"a": 20, "b": 20}))
    with pytest.raises(ValueError, match="words of story 'b' have no rows"):
        kind(rows_of({"a": 20})).fit_transform(words)


def test_unequal_trs_are_refused():
    a, b = rows_of({"a": 10}), rows_of({"b": 10}, tr=1.5)
    both = xr.concat([a, b], "row")
    with pytest.raises(ValueError, match=r"TRs differ: 2 s in story 'a', 1.5 s in 'b'"):
        spacing(both)
    time = a.time.values.copy()
    time[6:] += 0.5
    with pytest.raises(ValueError, match=r"story 'a' are not evenly spaced: 2.5 s after volume 5, 2 s as a rule"):
        spacing(a.assign_coords(time=("row", time)))
    assert spacing(a[[0, 1, 4, 9]]) == pytest.approx(2.0)


@each
def test_what_is_not_words_is_refused(kind):
    rows = rows_of({"a": 20})
    words = heard(0, rows)
    with pytest.raises(ValueError, match="words are a DataArray of dims"):
        kind(rows).fit(words.values)
    lacking = "volume" if kind not in (Lanczos, Sinc) else "onset"
    with pytest.raises(ValueError, match=f"no coordinate '{lacking}'"):
        kind(rows).fit(words.drop_vars(lacking))
    words[3] = np.nan
    with pytest.raises(ValueError, match="X holds 2 NaN"):
        kind(rows).fit(words)


@each
def test_clones_give_the_same(kind):
    rows = rows_of({"a": 20})
    words = heard(0, rows)
    np.testing.assert_array_equal(clone(kind(rows)).fit_transform(words).values, kind(rows).fit_transform(words).values)


def test_features_stand_beside_each_other_if_they_are_of_the_same_words():
    words = heard(0, rows_of({"a": 20})).assign_coords(band=("feature", ["x", "x"]))
    joined = beside([words, 2 * words])
    assert joined.shape == (30, 4)
    assert joined.band.values.tolist() == ["x"] * 4
    with pytest.raises(ValueError, match=r"parts\[1\] differs from parts\[0\] in 'onset'"):
        beside([words, words.assign_coords(onset=words.onset + 1)])
    with pytest.raises(ValueError, match="3 rows for 30 words"):
        label_words(np.ones((3, 1)), xr.Dataset({"story": ("word", ["a"] * 30)}))
