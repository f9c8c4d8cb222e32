"""Shares sum to the whole, agree with himalaya's, and are those of sets."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextlens.probes.variance_partition import partition_interval, product_measure, set_partition
from nextlens.probes.voxel_scores import correlations, r_squared

seeds = st.integers(0, 2**32 - 1)


def drawn(seed, bands=3, rows=40, targets=5):
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((bands, rows, targets))
    return parts.sum(0) + rng.standard_normal((rows, targets)), dict(zip("abc", parts, strict=False))


@given(seeds)
def test_shares_sum_to_the_whole(seed):
    truth, parts = drawn(seed)
    found = product_measure(truth, parts)
    whole = sum(parts.values())
    np.testing.assert_allclose(found.r.sum("band").values, correlations(truth, whole), atol=1e-10)
    centred = whole - whole.mean(0) + truth.mean(0)
    np.testing.assert_allclose(found.r2.sum("band").values, r_squared(truth, centred), atol=1e-10)


def test_shares_are_himalayas():
    scoring = pytest.importorskip("himalaya.scoring")
    truth, parts = drawn(0)
    centred = truth - truth.mean(0)
    split = np.stack([part - part.mean(0) for part in parts.values()])
    found = product_measure(truth, parts)
    np.testing.assert_allclose(found.r2.values, scoring.r2_score_split(centred, split), atol=1e-6)
    np.testing.assert_allclose(found.r.values, scoring.correlation_score_split(centred, split), atol=1e-6)


def test_shares_of_constant_truths_and_guesses():
    truth, parts = drawn(1)
    truth[:, 0] = 3.0
    for part in parts.values():
        part[:, 1] = 2.0
    found = product_measure(truth, parts)
    assert np.isnan(found.r.values[:, 0]).all()
    assert not found.r.values[:, 1].any()
    with pytest.raises(ValueError, match=r"parts\['b'\] has shape"):
        product_measure(truth, parts | {"b": np.ones((40, 2))})
    with pytest.raises(ValueError, match="parts is empty"):
        product_measure(truth, {})


@given(seeds)
def test_parts_are_those_of_sets(seed):
    """Sets of points stand for what each space explains: a part is what lies in all of its spaces and in no other."""
    rng = np.random.default_rng(seed)
    names = "abc"[: rng.integers(1, 4)]
    inside = {name: rng.random(200) < 0.5 for name in names}
    subsets = [frozenset(c) for k in range(1, len(names) + 1) for c in combinations(names, k)]
    fits = {s: np.array([np.logical_or.reduce([inside[n] for n in s]).mean()]) for s in subsets}
    found = set_partition(fits)
    for subset in subsets:
        there = np.logical_and.reduce([inside[n] if n in subset else ~inside[n] for n in names]).mean()
        assert found.r2.sel(part=" & ".join(sorted(subset))).item() == pytest.approx(there, abs=1e-12)
    assert float(found.r2.sum()) == pytest.approx(float(fits[frozenset(names)][0]))


def test_negative_parts_are_kept():
    fits = {frozenset("a"): np.array([0.3]), frozenset("b"): np.array([0.1]), frozenset("ab"): np.array([0.2])}
    assert set_partition(fits).r2.sel(part="b").item() == pytest.approx(-0.1)


def test_missing_fits_and_four_spaces_are_refused():
    with pytest.raises(ValueError, match="r2 lacks the fit with a and b"):
        set_partition({frozenset("a"): np.ones(1), frozenset("b"): np.ones(1)})
    with pytest.raises(ValueError, match="r2 holds 4 feature spaces"):
        set_partition({frozenset("abcd"): np.ones(1)})


def test_intervals_hold_the_parts():
    rng = np.random.default_rng(0)
    a, b, noise = rng.standard_normal((3, 400, 20))
    truth = a + b + noise
    guesses = {frozenset("a"): a, frozenset("b"): b, frozenset("ab"): a + b}
    found = partition_interval(truth, guesses, np.split(np.arange(400), 20), rng, draws=100)
    assert (found.low < found.r2).all()
    assert (found.r2 < found.high).all()
    assert found.r2.sel(part="a").item() == pytest.approx(1 / 3, abs=0.05)
    assert abs(found.r2.sel(part="a & b").item()) < 0.05
