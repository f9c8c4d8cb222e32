"""Nulls are what refitting by hand gives, hold their level when nothing is there, and find what is."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.stats import false_discovery_control, kstest, pearsonr

from nextlens.probes import voxel_nulls
from nextlens.probes.voxel_nulls import (
    block_permutation_null,
    difference_interval,
    false_discovery_rates,
    p_values,
    rolling_null,
    rolling_shifts,
)
from nextlens.probes.voxel_scores import correlations, r_squared, target_states

seeds = st.integers(0, 2**32 - 1)


def slow(rng, rows, targets, phi=0.6):
    return lfilter([1.0], [1.0, -phi], rng.standard_normal((rows + 50, targets)), axis=0)[50:]


def stories_of(*lengths):
    return np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])


@given(seeds)
def test_scores_are_scipys_and_the_definition(seed):
    rng = np.random.default_rng(seed)
    truth, guess = rng.standard_normal((2, 30, 4)) * 10.0 ** rng.integers(-6, 6) + rng.standard_normal(4)
    expected = [pearsonr(truth[:, k], guess[:, k]).statistic for k in range(4)]
    np.testing.assert_allclose(correlations(truth, guess), expected, atol=1e-10)
    error = ((truth - guess) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(r_squared(truth, guess), 1 - error, rtol=1e-10)


def test_a_guess_that_says_nothing_scores_0_and_a_truth_that_does_not_vary_has_no_score():
    truth, guess = np.random.default_rng(0).standard_normal((2, 30, 3)).astype(np.float32)
    guess[:, 0], truth[:, 1] = 0.1, 0.1
    r = correlations(truth, guess)
    assert r[0] == 0
    assert np.isnan(r[1])
    assert np.isnan(r_squared(truth, guess)).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="truth holds 1 NaN"):
        correlations(np.where(np.arange(90).reshape(30, 3) == 5, np.nan, truth), guess)


def test_targets_are_kept_constant_or_not_finite():
    Y = np.random.default_rng(0).standard_normal((30, 5))
    Y[10:, 1], Y[3, 2], Y[:10, 3], Y[20, 3], Y[4, 4] = 2.0, np.nan, 0.1, np.inf, -np.inf
    assert target_states(Y, stories_of(10, 20)).tolist() == ["kept", "constant"] + ["not finite"] * 3


def test_rolling_is_rolling_the_prediction_and_scoring_it_again():
    rng = np.random.default_rng(0)
    stories = stories_of(50, 61)
    truth, guess = slow(rng, 111, 3), slow(rng, 111, 3)
    found = rolling_null(truth, guess, stories, np.random.default_rng(7), draws=20)
    shifts, _ = rolling_shifts([50, 61], np.random.default_rng(7), draws=20)
    for draw, moves in enumerate(shifts):
        rolled = np.concatenate([np.roll(guess[at], s, axis=0) for at, s in zip(stories, moves, strict=True)])
        np.testing.assert_allclose(found.draws[draw], correlations(truth, rolled), atol=1e-12)
    assert not found.exhaustive


@given(st.integers(40, 60), st.integers(40, 60))
def test_shifts_lie_between_and_are_all_taken_once_where_they_are_few(n, m):
    shifts, exhaustive = rolling_shifts([n, m], np.random.default_rng(0), draws=200)
    assert shifts.min() >= 20
    assert (shifts <= np.array([n, m]) - 20).all()
    possible = (n - 39) * (m - 39)
    assert exhaustive == (possible <= 200)
    if exhaustive:
        assert len(np.unique(shifts, axis=0)) == len(shifts) == possible


def test_one_story_of_362_volumes_has_323_shifts_so_no_smaller_p():
    rng = np.random.default_rng(0)
    truth = slow(rng, 362, 2)
    null = rolling_null(truth, truth, stories_of(362), rng, draws=1000)
    assert len(null.draws) == 323
    assert null.exhaustive
    np.testing.assert_allclose(null.p(np.ones(2)), 1 / 324)
    assert null.least_p == 1 / 324


def test_blocks_are_permuted_without_replacement_and_the_rest_stays():
    """Each draw is a correlation with some order of whole blocks inside stories: all orders are met, none else."""
    rng = np.random.default_rng(0)
    truth, guess = rng.standard_normal((2, 35 + 23, 2))
    stories = stories_of(35, 23)
    found = block_permutation_null(truth, guess, stories, rng, draws=300, block=10)
    orders = []
    from itertools import permutations

    for first in permutations(range(3)):
        for second in permutations(range(2)):
            rows = np.r_[
                np.concatenate([np.arange(10 * b, 10 * b + 10) for b in first]),
                30:35,
                np.concatenate([35 + np.arange(10 * b, 10 * b + 10) for b in second]),
                55:58,
            ]
            orders.append(correlations(truth, guess[rows]))
    distance = np.abs(found.draws[:, None] - np.array(orders)).max(-1)
    assert distance.min(1).max() < 1e-12
    assert set(distance.argmin(1)) == set(range(12))


@pytest.mark.parametrize("null", [rolling_null, block_permutation_null])
def test_p_is_uniform_when_nothing_is_there_and_small_when_something_is(null):
    """Slow noise, of lag-one correlation .6, against a prediction as slow: p keeps its level."""
    rng = np.random.default_rng(3)
    stories = stories_of(150, 150)
    p = []
    for _ in range(150):  # targets of one call share their shifts: one at a time
        truth, guess = slow(rng, 300, 1), slow(rng, 300, 1)
        p.append(null(truth, guess, stories, rng, draws=199).p(correlations(truth, guess))[0])
    assert kstest(p, "uniform").pvalue > 0.01
    assert 0.005 < np.mean(np.array(p) < 0.05) < 0.11
    truth = slow(rng, 300, 100)
    guess = 0.4 * truth + slow(rng, 300, 100)
    found = null(truth, guess, stories, rng, draws=199).p(correlations(truth, guess))
    assert np.mean(found < 0.05) > 0.95
    assert found.min() >= 1 / 200


@pytest.mark.parametrize("null", [rolling_null, block_permutation_null])
def test_all_targets_are_moved_alike(null):
    rng = np.random.default_rng(0)
    truth, guess = slow(rng, 200, 1), slow(rng, 200, 1)
    draws = null(np.tile(truth, 3), np.tile(guess, 3), stories_of(100, 100), rng, draws=50).draws
    np.testing.assert_allclose(draws[:, 0], draws[:, 1])
    assert draws[:, 0].std() > 0


@given(seeds)
def test_p_is_never_0_and_false_discovery_is_scipys(seed):
    rng = np.random.default_rng(seed)
    null = rng.standard_normal((39, 20))
    r = np.where(rng.random(20) < 0.2, np.nan, rng.standard_normal(20) + 1)
    p = p_values(r, null)
    known = ~np.isnan(r)
    assert (np.isnan(p) == ~known).all()
    np.testing.assert_allclose(p[known], [(1 + (null[:, k] >= r[k]).sum()) / 40 for k in np.flatnonzero(known)])
    q = false_discovery_rates(p)
    np.testing.assert_allclose(q[known], false_discovery_control(p[known]))
    assert np.isnan(q[~known]).all()


def test_a_story_too_short_to_roll_is_named():
    truth = np.random.default_rng(0).standard_normal((70, 1))
    with pytest.raises(ValueError, match="story number 1 has 30 rows to score; with least=20 at least 40"):
        rolling_null(truth, truth, stories_of(40, 30), np.random.default_rng(0))
    with pytest.raises(ValueError, match="with block=20 at least 40 are needed for its blocks"):
        block_permutation_null(truth, truth, stories_of(40, 30), np.random.default_rng(0))
    with pytest.raises(ValueError, match="block=5 must be at least 10"):
        block_permutation_null(truth, truth, stories_of(40, 30), np.random.default_rng(0), block=5)


@settings(max_examples=5)
@given(seeds)
def test_intervals_of_a_difference_cover_it(seed):
    """The interval of the mean holds 0 where two predictions are as good, and not where one is better."""
    rng = np.random.default_rng(seed)
    stories = stories_of(300, 300)
    truth = slow(rng, 600, 30)
    one, other, better = (truth + scale * slow(rng, 600, 30) for scale in (2.0, 2.0, 1.0))
    each, mean = difference_interval(truth, one, other, stories, rng, draws=200)
    assert mean[0] < correlations(truth, one).mean() - correlations(truth, other).mean() < mean[1]
    assert mean[0] < 0.05
    assert mean[1] > -0.05
    assert each.shape == (2, 30)
    assert difference_interval(truth, better, other, stories, rng, draws=200)[1][0] > 0.1
    same, of_mean = difference_interval(truth, one, one, stories, rng, draws=50)
    np.testing.assert_allclose(same, 0, atol=1e-12)
    np.testing.assert_allclose(of_mean, 0, atol=1e-12)


def test_a_bootstrap_draw_is_the_correlation_of_the_rows_drawn():
    rng = np.random.default_rng(0)
    truth, guess = rng.standard_normal((2, 60, 2)) + 5
    blocks = stories_of(20, 20, 20)
    found = voxel_nulls._resampled(truth, guess, blocks, np.array([[2, 0, 1], [1, 1, 1]]))
    rows = np.concatenate([blocks[0], blocks[0], blocks[2]])
    np.testing.assert_allclose(found[0], correlations(truth[rows], guess[rows]), atol=1e-10)
    np.testing.assert_allclose(found[1], correlations(truth, guess), atol=1e-10)


def test_fewer_permutations_than_draws_are_met_in_equal_shares():
    """Three blocks have six orders; of 600 draws each order gets about a hundred."""
    rng = np.random.default_rng(1)
    truth, guess = rng.standard_normal((2, 30, 1))
    draws = block_permutation_null(truth, guess, stories_of(30), rng, draws=600, block=10).draws.round(10)
    _, counts = np.unique(draws, return_counts=True)
    assert len(counts) == comb(3, 1) * 2
    assert counts.min() > 60


def test_a_guess_that_says_nothing_has_a_difference_all_the_same():
    """A constant guess scores 0 in every draw, as it does over all rows."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((80, 3))
    none = np.zeros_like(truth)
    each, mean = difference_interval(truth, truth, none, [np.arange(40), np.arange(40, 80)], rng, draws=50)
    np.testing.assert_allclose(each, 1.0)
    np.testing.assert_allclose(mean, 1.0)
