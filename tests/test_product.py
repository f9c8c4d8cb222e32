from __future__ import annotations

import json
import pickle
import re
import tracemalloc
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel
from nextlens.models.processes import FactoredProcess, Process, bloch_walk, coin, even, golden_mean, mess3, moon, rrxor
from nextlens.models.processes.mixed_states import every_word, myopic_entropies
from tests.process_strategies import processes

#: What the published factored representations were trained on.
FIVE = FactoredProcess([mess3(0.6, 0.15)] * 3 + [bloch_walk(1, 3)] * 2, name="five")
SMALL = {
    "ordinary": FactoredProcess([mess3(), golden_mean(0.3)]),
    "one": FactoredProcess([rrxor()]),
    "periodic": FactoredProcess([rrxor(), rrxor(0.3, 0.6)]),
    "generalized": FactoredProcess([bloch_walk(1, 3), moon()]),
    "both kinds": FactoredProcess([moon(), even(), coin(0.2)]),
}
every_small = pytest.mark.parametrize("name", SMALL)


# --- one token, many parts


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_decoding_undoes_encoding_and_the_first_factor_counts_most(radices, seed):
    factored = FactoredProcess([die(n) for n in radices])
    rng = np.random.default_rng(seed)
    parts = [rng.integers(n, size=(3, 5)) for n in radices]
    tokens = factored.encode(parts)
    for part, again in zip(parts, factored.decode(tokens), strict=True):
        np.testing.assert_array_equal(again, part)
    place = np.cumprod([1, *radices[:0:-1]])[::-1]
    np.testing.assert_array_equal(tokens, sum(worth * part for worth, part in zip(place, parts, strict=True)))
    assert tokens.max() < factored.n_tokens == np.prod(radices)


def die(n: int) -> Process:
    return Process(np.full((n, 1, 1), 1 / n), name=f"die of {n}")


def test_five_factors_have_the_published_sizes():
    assert (FIVE.n_tokens, FIVE.n_states) == (432, 15)
    assert (FIVE.factored_dimensions, FIVE.joint_dimensions) == (10, 242)


# --- the factored filter is the joint one


@every_small
def test_factored_beliefs_multiply_to_those_of_the_joint_process(name):
    factored = SMALL[name]
    joint, tokens = factored.joint(), factored.sample(20, 15, np.random.default_rng(0))
    np.testing.assert_allclose(factored.joint_beliefs(tokens), joint.beliefs(tokens), rtol=0, atol=1e-12)
    np.testing.assert_allclose(factored.log_likelihood(tokens), joint.log_likelihood(tokens), rtol=0, atol=1e-12)
    np.testing.assert_allclose(factored.opening, joint.opening, rtol=0, atol=1e-12)
    laws = factored.next_token(factored.beliefs(tokens))
    np.testing.assert_allclose(laws, joint.next_token(joint.beliefs(tokens)), rtol=0, atol=1e-12)


@given(processes(max_tokens=3, max_states=3), processes(max_tokens=2, max_states=3), st.integers(0, 2**32 - 1))
def test_random_factors_filter_as_their_joint_process(first, second, seed):
    factored = FactoredProcess([first, second])
    tokens = factored.sample(4, 9, np.random.default_rng(seed))
    np.testing.assert_allclose(factored.joint_beliefs(tokens), factored.joint().beliefs(tokens), rtol=0, atol=1e-12)


def test_words_of_the_joint_process_have_the_product_of_their_probabilities():
    first, second = golden_mean(0.3), even(0.6)
    factored = FactoredProcess([first, second])
    words, probability = every_word(factored.joint(), 4)
    parts = factored.decode(words)
    own = [np.exp(p.log_likelihood(part).sum(1)) for p, part in zip((first, second), parts, strict=True)]
    np.testing.assert_allclose(probability, reduce(np.multiply, own), rtol=0, atol=1e-12)


def test_beliefs_stand_end_to_end_in_the_order_of_the_factors():
    factored = SMALL["both kinds"]
    tokens = factored.sample(3, 7, np.random.default_rng(0))
    beliefs = factored.beliefs(tokens)
    for own, part, factor, start in zip(
        factored.factor_beliefs(tokens), factored.decode(tokens), factored.factors, (0, 3, 5), strict=True
    ):
        np.testing.assert_array_equal(own, factor.beliefs(part))
        np.testing.assert_array_equal(beliefs[..., start : start + factor.n_states], own)


def test_rates_add():
    factored = SMALL["ordinary"]
    rates = [factor.entropy_rate() for factor in factored.factors]
    assert factored.entropy_rate().value == pytest.approx(sum(rate.value for rate in rates), abs=1e-12)
    assert factored.entropy_rate(depth=3).upper == pytest.approx(myopic_entropies(factored.joint(), 3)[2], abs=1e-9)


# --- a kernel


@every_small
def test_rows_sum_to_one_and_the_future_never_changes_the_past(name):
    factored = SMALL[name]
    words = factored.sample(6, 8, np.random.default_rng(1))
    said = factored.log_probs(Batch.from_tokens(words))
    assert isinstance(factored, Kernel)
    assert said.dtype == torch.float64
    np.testing.assert_allclose(said.exp().sum(-1), 1, rtol=0, atol=1e-10)
    shorter = factored.log_probs(Batch.from_tokens(words[:, :5]))
    torch.testing.assert_close(said[:, :4], shorter, rtol=0, atol=1e-12)
    of_targets = np.take_along_axis(said.numpy(), words[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(of_targets, factored.log_likelihood(words)[:, 1:], rtol=0, atol=1e-9)


def test_a_forbidden_part_has_log_probability_minus_infinity():
    factored = FactoredProcess([golden_mean(), coin()])
    said = factored.log_probs(Batch.from_tokens([[2, 0]]))
    assert torch.isneginf(said[0, 0]).tolist() == [False, False, True, True]


@pytest.mark.parametrize("name", ["ordinary", "generalized"])
def test_sampled_bigrams_approach_their_probabilities(name):
    factored = SMALL[name]
    tokens = factored.sample(60_000, 2, np.random.default_rng(0))
    words, probability = every_word(factored.joint(), 2)
    n = factored.n_tokens
    seen = np.bincount(tokens @ [n, 1], minlength=n * n)[words @ [n, 1]] / len(tokens)
    np.testing.assert_array_less(np.abs(seen - probability), 5 * np.sqrt(probability / len(tokens)) + 1e-4)


def test_batches_resume_exactly():
    stream = FIVE.batches(16, 9, np.random.default_rng(0))
    first = next(stream)
    assert first.tokens.shape == (16, 8)
    assert 0 <= int(first.tokens.min()) <= int(first.tokens.max()) < 432
    state = json.loads(json.dumps(stream.state()))
    restored = FIVE.batches(16, 9, np.random.default_rng(5))
    restored.restore(state)
    torch.testing.assert_close(next(restored).tokens, next(stream).tokens, rtol=0, atol=0)


def test_five_factors_are_sampled_and_read_without_their_joint_tensor():
    """That tensor would have 432 x 243 x 243 numbers: 204 megabytes."""
    tracemalloc.start()
    tokens = FIVE.sample(100, 30, np.random.default_rng(0))
    assert np.isfinite(FIVE.log_likelihood(tokens)).all()
    assert FIVE.log_probs(Batch.from_tokens(tokens)).shape == (100, 29, 432)
    assert FIVE.joint_beliefs(tokens[:2]).shape == (2, 30, 243)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_ten_thousand_tokens_do_not_underflow():
    tokens = FIVE.sample(1, 10_000, np.random.default_rng(0))
    said = FIVE.log_likelihood(tokens)
    assert np.isfinite(said).all()
    assert -said.mean() == pytest.approx(3 * 1.088888 + 2 * 1.29157, abs=0.05)


def test_a_pickled_product_is_the_same():
    again = pickle.loads(pickle.dumps(SMALL["both kinds"]))
    tokens = again.sample(2, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(again.beliefs(tokens), SMALL["both kinds"].beliefs(tokens))
    assert repr(again) == "<FactoredProcess product: moon x even x coin>"


# --- refusals


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: FactoredProcess([]), "factors must hold at least one process"),
        (lambda: FIVE.joint(), "the joint process of 'five' has 432 tokens and 243 states, too many"),
        (lambda: FIVE.beliefs([[0, 432]]), r"tokens\[0, 1\] is 432; 'five' says 0 \.\. 431 only"),
        (lambda: FIVE.beliefs([[0.5]]), "tokens are float64; they must be integers"),
        (lambda: FIVE.decode(np.array([432])), r"tokens must lie in 0 \.\. 431; they hold 432 \.\. 432"),
        (lambda: FIVE.encode([np.zeros(2, int)]), "parts holds 1 arrays for 5 factors"),
        (lambda: SMALL["ordinary"].encode([np.array([0]), np.array([2])]), re.escape("parts[1] must lie in 0 .. 1")),
        (lambda: FIVE.next_token(np.ones(3)), "beliefs have 3 states; the factors have 15 together"),
        (
            lambda: SMALL["ordinary"].beliefs([[1, 1]]),
            r"factor 1, 'golden_mean', reads its part of the tokens: tokens\[0, 1\] is 1, which has probability 0",
        ),
        (lambda: FIVE.sample(0, 3, np.random.default_rng(0)), "n_sequences=0 must be at least 1"),
        (lambda: FIVE.batches(0, 3, np.random.default_rng(0)), "size=0 must be at least 1"),
        (lambda: FIVE.batches(2, 1, np.random.default_rng(0)), "length=1 must be at least 2"),
    ],
)
def test_a_refusal_names_the_argument(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
