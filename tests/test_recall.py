"""Matches and what they copy: by brute force, causal by law, and controls that keep all but the moment."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.probes.recall import (
    Matches,
    copied,
    followed,
    lagged_matches,
    longest_run,
    matched,
    permuted_matches,
    similar,
    uniform_matches,
)
from nextlens.probes.story_rows import label_rows

seeds = st.integers(0, 2**32 - 1)
LENGTHS = {"b": 30, "a": 22, "c": 5}


def drawn(seed, width=3, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    return label_rows(
        rng.standard_normal((sum(lengths.values()), width)), np.repeat(list(lengths), list(lengths.values()))
    )


def heard(seed, lengths=LENGTHS, vocabulary=5):
    """Words of each story, none to three a volume."""
    rng = np.random.default_rng(seed)
    story, volume = [], []
    for name, n in lengths.items():
        for t in range(n):
            count = int(rng.integers(0, 4))
            story += [name] * count
            volume += [t] * count
    text = np.array([f"w{i}" for i in rng.integers(vocabulary, size=len(story))])
    return xr.Dataset(
        {"text": ("word", text), "story": ("word", np.array(story)), "volume": ("word", np.array(volume))}
    )


def pairs(matches):
    return sorted(zip(matches.row.tolist(), matches.earlier.tolist(), matches.weight.round(9).tolist(), strict=True))


@settings(max_examples=15)
@given(seeds, st.integers(1, 9), st.integers(1, 4))
def test_the_nearest_earlier_contexts_by_brute_force(seed, gap, most):
    context = drawn(seed)
    context[7] = 0
    found, expected = similar(context, gap=gap, most=most), []
    X, volume, story = context.values, context.volume.values, context.story.values
    for t in range(len(X)):
        scores = [
            (float(X[t] @ X[j] / np.linalg.norm(X[t]) / np.linalg.norm(X[j])), j)
            for j in range(len(X))
            if story[j] == story[t] and volume[t] - volume[j] >= gap and 7 not in (t, j)
        ]
        for cosine, j in sorted(scores, reverse=True)[:most]:
            expected.append((t, j, round(float(np.exp((cosine - 1) / 0.1)), 9)))
    assert pairs(found) == sorted(expected)


@settings(max_examples=15)
@given(seeds, st.integers(1, 9), st.integers(1, 3), st.integers(1, 4))
def test_the_longest_run_of_the_same_words_by_brute_force(seed, gap, shortest, longest):
    words, rows = heard(seed), drawn(0)
    found, expected = longest_run(words, rows, gap=gap, shortest=shortest, longest=max(shortest, longest)), []
    for name in LENGTHS:
        mine = words.story.values == name
        said, when = words.text.values[mine].tolist(), words.volume.values[mine].tolist()
        at = np.flatnonzero(rows.story.values == name)
        ends = [[i for i, v in enumerate(when) if v == t] for t in range(LENGTHS[name])]
        for t in range(LENGTHS[name]):
            best = (0, -1)
            for j in range(t - gap + 1):
                for a, b in product(ends[t], ends[j]):
                    n = 0
                    while n < min(max(shortest, longest), b + 1) and said[a - n] == said[b - n]:
                        n += 1
                    best = max(best, (n, j))
            if best[0] >= shortest:
                expected.append((int(at[t]), int(at[best[1]]), 1.0))
    assert pairs(found) == sorted(expected)


@settings(max_examples=15)
@given(seeds, st.integers(2, 9))
def test_copies_are_those_of_the_formula(seed, gap):
    """``Σ w_j y[j + o] / Σ w_j`` over j in J(t - o) with j + o <= t - gap: row by row."""
    values, delays = drawn(seed), (1, 2, 4)
    matches = similar(drawn(seed + 1), gap=gap, most=2)
    found, volume = copied(values, matches, delays).values, values.volume.values.tolist()
    place = {(s, v): i for i, (s, v) in enumerate(zip(values.story.values.tolist(), volume, strict=True))}
    triples = list(zip(matches.row.tolist(), matches.earlier.tolist(), matches.weight.tolist(), strict=True))
    X = values.values
    for (story, t), row in place.items():
        for number, o in enumerate(delays):
            total, mass = np.zeros(3), 0.0
            now = place.get((story, t - o))
            for r, j, w in triples:
                source = place.get((story, volume[j] + o))
                if r == now and source is not None and volume[source] <= t - gap:
                    total, mass = total + w * X[source], mass + w
            expected = total / mass if mass else np.zeros(3)
            np.testing.assert_allclose(found[row, 3 * number : 3 * number + 3], expected, atol=1e-10)
            assert found[row, 9 + number] == (mass == 0)


@settings(max_examples=10)
@given(seeds, st.integers(1, 8))
def test_nothing_nearer_than_the_gap_can_change_a_copy(seed, gap):
    """The law of causality: responses after t - gap, and words after t, leave F(t) as it is."""
    values, context = drawn(seed), drawn(seed + 1)
    t = int(np.random.default_rng(seed).integers(5, 29))
    before = copied(values, similar(context, gap=gap), (1, 2)).values[: t + 1]
    later = (values.story.values == "b") & (values.volume.values > t - gap)
    changed = values.copy(deep=True)
    changed[later] += 100
    np.testing.assert_array_equal(copied(changed, similar(context, gap=gap), (1, 2)).values[: t + 1], before)
    future = (context.story.values == "b") & (context.volume.values > t)
    other = context.copy(deep=True)
    other[future] = -other[future]
    np.testing.assert_array_equal(copied(values, similar(other, gap=gap), (1, 2)).values[: t + 1], before)


def test_nothing_is_copied_across_stories():
    values, context = drawn(0), drawn(1)
    before = copied(values, similar(context, gap=2)).values
    changed = values.copy(deep=True)
    changed[values.story.values == "a"] += 100
    after = copied(changed, similar(context, gap=2)).values
    others = values.story.values != "a"
    np.testing.assert_array_equal(before[others], after[others])
    assert np.abs(before[~others] - after[~others]).max() > 50


def test_what_followed_is_the_volume_after_the_match():
    features = label_rows(np.arange(10.0), ["s"] * 10)
    matches = matched(features, [(6, 2, 1.0), (6, 1, 3.0), (9, 4, 2.0)], 2)
    found = followed(features, matches).values
    assert found[6].tolist() == [0.25 * 3 + 0.75 * 2, 0.0]
    assert found[9].tolist() == [5.0, 0.0]
    assert found[3].tolist() == [0.0, 1.0]
    assert followed(features, matches, indicator=False).shape == (10, 1)
    with pytest.raises(ValueError, match="ahead=3 must lie between 0 and gap=2"):
        followed(features, matches, ahead=3)


@settings(max_examples=10)
@given(seeds, st.integers(1, 8))
def test_controls_keep_number_weights_and_gap(seed, gap):
    matches = similar(drawn(seed), gap=gap, most=2)
    rng = np.random.default_rng(seed)
    for control in (uniform_matches, lagged_matches):
        found = control(matches, rng)
        assert found.row.tolist() == matches.row.tolist()
        assert found.lags.min(initial=gap) >= gap
        assert Counter(found.weight.tolist()) == Counter(matches.weight.tolist())
    other = permuted_matches(matches, rng)
    assert other.lags.min(initial=gap) >= gap
    assert len(other.row) <= len(matches.row)


@settings(max_examples=10)
@given(seeds)
def test_lags_are_dealt_anew_within_their_story(seed):
    """The multiset of lags and weights of every story is kept: past being enough for the longest, all find a row."""
    matches = similar(drawn(seed), gap=3, most=1)
    found = lagged_matches(matches, np.random.default_rng(seed))
    for story in LENGTHS:
        mine = matches.rows.story.values[matches.row] == story
        dealt, real = (Counter(zip(one.lags[mine], one.weight[mine], strict=True)) for one in (found, matches))
        assert dealt == real
    assert (found.earlier != matches.earlier).any()


def test_uniform_is_uniform_over_the_admissible_past():
    rows = label_rows(np.zeros(12), ["s"] * 12)
    matches = matched(rows, [(11, 3, 1.0)] * 4000, 4)
    found = uniform_matches(matches, np.random.default_rng(0)).earlier
    counts = np.bincount(found, minlength=12)
    assert not counts[8:].any()
    assert (np.abs(counts[:8] - 500) < 100).all()


def test_permuted_matches_are_those_of_another_story():
    matches = similar(drawn(0), gap=3, most=1)
    found = permuted_matches(matches, np.random.default_rng(0))
    by_story = {}
    for story in LENGTHS:
        at = matches.rows.story.values == story
        by_story[story] = [
            {(int(m.rows.volume[r]), int(m.rows.volume[j])) for r, j in zip(m.row, m.earlier, strict=True) if at[r]}
            for m in (matches, found)
        ]
    others = [by_story[story][0] for story in ("b", "a", "c")]
    for place, story in enumerate(("b", "a", "c")):
        longest = LENGTHS[story]
        donors = [{pair for pair in other if pair[0] < longest} for i, other in enumerate(others) if i != place]
        assert by_story[story][1] in donors
    with pytest.raises(ValueError, match="number of stories=1"):
        permuted_matches(similar(drawn(0, lengths={"s": 20}), gap=2), np.random.default_rng(0))


def test_the_same_seed_gives_the_same_controls():
    matches = similar(drawn(0), gap=3)
    for control in (uniform_matches, lagged_matches, permuted_matches):
        one, other, third = (control(matches, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert pairs(one) == pairs(other)
        assert control is permuted_matches or pairs(one) != pairs(third)


def test_silence_and_stories_shorter_than_the_gap_have_no_match():
    words = heard(0)[{"word": slice(0, 0)}]
    assert longest_run(words, drawn(0), gap=1).share == 0
    none = similar(drawn(0), gap=50)
    assert none.share == 0
    found = copied(drawn(0), none, (1,))
    assert not found.values[:, :3].any()
    assert found.values[:, 3].all()


@pytest.mark.parametrize(
    ("found", "message"),
    [([(30, 1, 1.0)], "another story"), ([(6, 5, 1.0)], "1 volumes back; gap=2"), ([(6, 1, 0.0)], "weighs nothing")],
)
def test_impossible_matches_are_refused(found, message):
    with pytest.raises(ValueError, match=message):
        matched(drawn(0), found, 2)


def test_other_rows_and_wrong_numbers_are_refused():
    matches = similar(drawn(0), gap=2)
    assert isinstance(matches, Matches)
    with pytest.raises(ValueError, match="values and matches differ in 'story'"):
        copied(drawn(0, lengths={"b": 30, "a": 20, "c": 7}), matches)
    with pytest.raises(ValueError, match="delay=0 must be at least 1"):
        copied(drawn(0), matches, (0,))
    for change in ({"gap": 0}, {"gap": 1, "most": 0}, {"gap": 1, "temperature": 0.0}):
        with pytest.raises(ValueError, match="="):
            similar(drawn(0), **change)
