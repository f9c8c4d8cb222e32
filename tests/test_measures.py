"""Measures of laws: identities, enumerations, and the numbers that are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy as relative_entropy

from nextlens.probes import measures

EXAMPLE = np.random.default_rng(0)


def laws(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.log(rng.dirichlet(np.ones(shape[-1]), shape[:-1]))


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_divergence_is_scipys_and_bounds_total_variation(seed, n):
    rng = np.random.default_rng(seed)
    p, q = laws(rng, 5, n), laws(rng, 5, n)
    found = measures.divergence(p, q)
    np.testing.assert_allclose(found, relative_entropy(np.exp(p), np.exp(q), axis=1), atol=1e-12)
    assert (measures.total_variation(p, q) <= np.sqrt(found / 2) + 1e-12).all()  # Pinsker
    np.testing.assert_allclose(measures.divergence(p, p), 0, atol=1e-12)
    np.testing.assert_allclose(measures.entropy(p), relative_entropy(np.exp(p), axis=1), atol=1e-12)


def test_what_is_forbidden_makes_a_divergence_infinite_unless_floored():
    with np.errstate(divide="ignore"):
        p, q = np.log([[0.5, 0.25, 0.25]]), np.log([[0.5, 0.5, 0.0]])
    assert measures.divergence(p, q)[0] == np.inf
    assert measures.support_violation(p, q)[0] == 0.25
    floored = measures.divergence(p, q, floor=0.01)
    mixed = np.log(0.99 * np.exp(q) + 0.01 / 3)
    np.testing.assert_allclose(floored, measures.divergence(p, mixed))
    assert measures.divergence(q, p)[0] < np.inf  # what p may say beyond q costs q nothing
    found = measures.support(p, q)
    assert (found.precision, found.recall) == (1.0, 0.75)
    back = measures.support(q, p)
    assert (back.precision, back.recall) == (0.75, 1.0)
    with pytest.raises(ValueError, match="floor=2"):
        measures.divergence(p, q, floor=2)


def two_chains(rng: np.random.Generator, n: int, length: int):
    """Strings, their probabilities under two chains, and the rows after every prefix of the first."""
    first, other = (np.exp(laws(rng, n)) for _ in range(2))
    chains = [np.exp(laws(rng, n, n)) for _ in range(2)]
    words = np.stack(np.unravel_index(np.arange(n**length), (n,) * length), axis=1)
    joint = []
    for opening, chain in zip((first, other), chains, strict=True):
        p = opening[words[:, 0]]
        for t in range(1, length):
            p = p * chain[words[:, t - 1], words[:, t]]
        joint.append(p)
    steps = [0.5 * np.abs(first - other).sum() * np.ones(len(words))]
    steps += [0.5 * np.abs(chains[0] - chains[1]).sum(1)[words[:, t]] for t in range(length - 1)]
    return joint, np.stack(steps, axis=1)


@given(st.integers(0, 10_000))
def test_bounds_on_strings_hold_by_enumeration(seed):
    (p, q), steps = two_chains(np.random.default_rng(seed), 3, 4)
    apart, kl = 0.5 * np.abs(p - q).sum(), float(relative_entropy(p, q))
    bound = measures.sequence_bounds(steps, p, kl)
    assert apart <= min(bound) + 1e-12


def test_the_product_of_means_is_no_bound_and_weights_must_be_whole():
    worst = 0.0
    for seed in range(200):
        (p, q), steps = two_chains(np.random.default_rng(seed), 2, 4)
        wrong = 1 - np.prod(1 - p @ steps)
        worst = max(worst, 0.5 * np.abs(p - q).sum() - wrong)
    assert worst > 0.02  # so suprema are taken
    with pytest.raises(ValueError, match=r"adds up to 0\.5"):
        measures.sequence_bounds(np.zeros((2, 3)), np.array([0.25, 0.25]), 0.1)


def test_bits_per_byte_weighs_documents_by_their_bytes():
    z = [np.full(10, 2.0), np.full(1, 100.0)]
    assert measures.bits_per_byte(z, [40, 1]) == pytest.approx(120 / 41)
    with pytest.raises(ValueError, match="above 0 for each of 2"):
        measures.bits_per_byte(z, [40])


# --- calibration


def test_white_values_are_white_and_others_are_not():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 400))
    found = measures.whiteness(x)
    assert found.p > 0.001
    assert (np.abs(found.autocorrelation) < 4 * found.deviation).all()
    correlated = x[:, 1:] + 0.2 * x[:, :-1]
    other = measures.whiteness(correlated)
    assert other.p < 1e-10
    assert other.autocorrelation[0] == pytest.approx(0.2 / 1.04, abs=0.03)
    assert measures.whiteness(x + 3).mean == pytest.approx(3, abs=4 * found.mean_sd)
    with pytest.raises(ValueError, match="constant has no autocorrelation"):
        measures.whiteness(np.ones((3, 20)))


def test_large_values_near_one_another_are_not_taken_for_memory():
    rng = np.random.default_rng(0)
    passed, plain = [], []
    for _ in range(120):
        x = rng.standard_normal((8, 400))
        for t in range(1, 400):
            x[:, t] *= np.sqrt(0.3 + 0.7 * x[:, t - 1] ** 2)  # of mean 0 whatever came before, and no white noise
        found = measures.whiteness(x, lags=5)
        passed.append(found.p)
        plain.append(x.size * (found.autocorrelation**2).sum())
    assert np.mean(np.array(passed) < 0.05) < 0.11
    assert np.mean(np.array(plain) > 11.07) > 0.6  # the 95 % point of χ² with 5 degrees
    assert (found.deviation[0] > 1.5 * x.size**-0.5).all()


def test_levels_of_documents_are_told_from_memory():
    x = np.random.default_rng(0).standard_normal((50, 400))
    found = measures.whiteness(x + np.linspace(-1, 1, 50)[:, None])
    assert found.levels == pytest.approx(
        np.linspace(-1, 1, 50).var(ddof=1) / (x + np.linspace(-1, 1, 50)[:, None]).var(), abs=0.02
    )
    assert found.autocorrelation[7] - found.levels == pytest.approx(0, abs=4 * found.deviation[7])
    assert abs(measures.whiteness(x).levels) < 0.002


def test_autocorrelation_never_crosses_from_one_document_to_the_next():
    rows = np.array([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]])
    np.testing.assert_allclose(measures.autocorrelation(rows, 2), [-1.0, 1.0])


def test_top_label_calibration_of_a_law_that_is_right_as_often_as_it_says():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.3, 1.0, 40_000)
    found = measures.top_label(confidence, rng.random(40_000) < confidence)
    assert found.error < 0.02
    boastful = measures.top_label(confidence, rng.random(40_000) < confidence - 0.2)
    assert boastful.overconfidence == pytest.approx(0.2, abs=0.02)
    assert found.share.sum() == pytest.approx(1)
    certain = measures.top_label(np.array([1.0, 1.0]), np.array([True, False]))
    assert (certain.error, certain.share.tolist()) == (0.5, [1.0])
    with pytest.raises(ValueError, match=r"largest confidence=1\.5"):
        measures.top_label(np.array([0.5, 1.5]), np.array([True, False]))


# --- costs


def test_flops_of_the_specified_transformer():
    shape = {"n_tokens": 100, "n_layers": 2, "d_model": 64, "d_mlp": 256}
    assert measures.forward_flops(128, **shape, sequences=3) == 105_578_496
    assert measures.forward_flops(128, **shape) * 3 == 105_578_496
    assert (
        measures.cache_bytes(128, n_layers=2, n_key_value_heads=1, d_head=64, sequences=3) == 2 * 2 * 64 * 128 * 3 * 4
    )


def test_growth_finds_what_seconds_are_made_of():
    lengths = np.array([64.0, 128.0, 256.0, 512.0])
    exact = 1e-3 + 2e-6 * lengths + 3e-9 * lengths**2
    found = measures.growth(lengths, np.stack([exact, exact * 1.0, exact * 5], axis=1))  # an outlier in each
    assert (found.constant, found.linear, found.quadratic) == pytest.approx((1e-3, 2e-6, 3e-9), rel=1e-6)
    linear = measures.growth(lengths, np.stack([lengths * 1e-6] * 3, axis=1))
    np.testing.assert_allclose(linear.slopes, 1.0)
    assert linear.quadratic == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="number of lengths"):
        measures.growth(lengths[:2], np.ones((2, 3)))


# --- memory


def test_influence_of_a_chain_is_dobrushins_coefficient_at_the_last_token_and_nothing_before():
    chain = np.exp(laws(np.random.default_rng(2), 3, 3))
    pasts = np.stack(np.unravel_index(np.arange(9), (3, 3)), axis=1)
    rows = np.log(chain[pasts[:, 1]])
    last = np.log(np.stack([[chain[c] for c in range(3) if c != b] for _, b in pasts]))
    before = np.repeat(rows[:, None], 2, axis=1)
    found = measures.influence(rows, np.stack([last, before]))
    dobrushin = max(0.5 * np.abs(chain[a] - chain[b]).sum() for a in range(3) for b in range(3))
    assert found.sup.tolist() == pytest.approx([dobrushin, 0.0])
    assert found.total == pytest.approx(dobrushin)


def test_impossible_pasts_count_for_nothing():
    rows = laws(np.random.default_rng(3), 2, 3)
    changed = np.full((1, 2, 2, 3), np.nan)
    changed[0, 0, 0] = rows[1]
    found = measures.influence(rows, changed)
    assert found.mean[0] == pytest.approx(measures.total_variation(rows[:1], rows[1:])[0])
    with pytest.raises(ValueError, match="lag 1 has no past"):
        measures.influence(rows, np.full((1, 2, 2, 3), np.nan))


def test_missed_information_falls_from_the_excess_to_nothing():
    found = measures.memory(np.array([0.3, 0.1, 0.05]))
    np.testing.assert_allclose(found.missed, [0.45, 0.15, 0.05])
