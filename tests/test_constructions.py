from __future__ import annotations

import pickle
import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextlens.models.processes import (
    Process,
    begun_from,
    bloch_walk,
    chain,
    coin,
    component_beliefs,
    component_posterior,
    even,
    frdn,
    golden_mean,
    leak,
    markov,
    mess3,
    mixture,
    moon,
    noisy_channel,
    relabelled,
    rrxor,
    sns,
    with_beginning_token,
    zero_one_random,
)
from nextlens.models.processes.mixed_states import every_word, myopic_entropies
from tests.process_strategies import processes

shares = st.floats(0, 1)
seeds = st.integers(0, 2**32 - 1)
#: Ordinary and generalized, periodic and not.
BASES = [mess3(), rrxor(), sns(0.4, 0.7), bloch_walk(), frdn(), moon()]
every_base = pytest.mark.parametrize("base", BASES, ids=lambda process: process.name)


def probability_of(process: Process, word: np.ndarray) -> float:
    vector = process.initial
    for token in word:
        vector = vector @ process.transition[token]
    return float(vector @ process.functional)


def probabilities(process: Process, length: int) -> np.ndarray:
    """Of every word, one axis for each of its tokens."""
    shape = (process.n_tokens,) * length
    return np.array([probability_of(process, word) for word in np.ndindex(*shape)]).reshape(shape)


# --- the noisy channel


def heard(said: np.ndarray, epsilon: float) -> np.ndarray:
    """The law of heard words: every clean word, each of its tokens kept or replaced by any."""
    n = said.shape[0]
    flip = (1 - epsilon) * np.eye(n) + epsilon / n
    law = said
    for axis in range(said.ndim):
        law = np.moveaxis(np.tensordot(law, flip, axes=(axis, 0)), -1, axis)
    return law


@given(processes(max_tokens=3, max_states=3), shares)
def test_the_noisy_channel_agrees_with_enumeration_of_clean_words(process, epsilon):
    expected = heard(probabilities(process, 3), epsilon)
    np.testing.assert_allclose(probabilities(noisy_channel(process, epsilon), 3), expected, rtol=0, atol=1e-12)


@every_base
def test_the_noisy_channel_of_every_kind_agrees_with_enumeration_of_clean_words(base):
    expected = heard(probabilities(base, 3), 0.2)
    noisy = noisy_channel(base, 0.2)
    words = np.argwhere(expected > 0)
    np.testing.assert_allclose(np.exp(noisy.log_likelihood(words).sum(1)), expected[tuple(words.T)], rtol=0, atol=1e-12)
    np.testing.assert_allclose(noisy.stationary, base.stationary, rtol=0, atol=1e-12)


def test_blurring_what_is_said_and_reading_on_as_if_it_were_clean_is_another_thing():
    base, epsilon = mess3(0.6, 0.15), 0.2
    words = np.array(list(product(range(3), repeat=4)))
    exact = noisy_channel(base, epsilon).log_likelihood(words)
    before = np.concatenate([np.broadcast_to(base.initial, (len(words), 1, 3)), base.beliefs(words)[:, :-1]], axis=1)
    blurred = (1 - epsilon) * base.next_token(before) + epsilon / 3
    recursion = np.log(np.take_along_axis(blurred, words[..., None], axis=-1)[..., 0])
    np.testing.assert_allclose(recursion[:, 0], exact[:, 0], rtol=0, atol=1e-12)
    assert np.abs(recursion[:, 1:] - exact[:, 1:]).max() > 0.01


def test_complete_noise_is_a_fair_die_and_none_is_the_process():
    np.testing.assert_allclose(probabilities(noisy_channel(rrxor(), 1), 3), 1 / 8, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(noisy_channel(rrxor(), 0).transition, rrxor().transition)


# --- leaks


@given(processes(max_tokens=2, max_states=3), shares, seeds)
def test_a_leak_agrees_with_enumeration_of_where_it_leaks(process, epsilon, seed):
    law = np.random.default_rng(seed).dirichlet(np.ones(process.n_states))
    leaky = begun_from(leak(process, epsilon, law), process.initial)
    for word in np.ndindex(*(process.n_tokens,) * 3):
        expected = 0.0
        for leaks in product((False, True), repeat=3):
            vector, share = process.initial, epsilon ** sum(leaks) * (1 - epsilon) ** (3 - sum(leaks))
            for token, leaked in zip(word, leaks, strict=True):
                vector = law * vector.sum() / process.n_tokens if leaked else vector @ process.transition[token]
            expected += share * vector.sum()
        assert probability_of(leaky, np.array(word)) == pytest.approx(expected, abs=1e-12)


@every_base
def test_no_leak_is_the_process_itself(base):
    same = leak(base, 0, base.stationary)
    np.testing.assert_array_equal(same.transition, base.transition)
    np.testing.assert_allclose(same.stationary, base.stationary, rtol=0, atol=1e-12)


@every_base
def test_a_leak_towards_the_stationary_law_keeps_it(base):
    leaky = leak(base, 0.3, base.stationary)
    np.testing.assert_allclose(leaky.stationary, base.stationary, rtol=0, atol=1e-10)
    np.testing.assert_allclose(leaky.functional, base.functional, rtol=0, atol=1e-12)


def test_the_least_leak_makes_two_worlds_one():
    apart = mixture([even(), golden_mean()], [0.9, 0.1])
    leaky = leak(apart, 1e-6)
    np.testing.assert_allclose(leaky.stationary[:2].sum(), 0.5, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(leaky.initial, leaky.stationary)


def test_a_leak_lets_a_process_begin_where_it_was_told_to():
    told = begun_from(rrxor(), np.eye(5)[0])
    np.testing.assert_array_equal(leak(told, 0.1).initial, np.eye(5)[0])


# --- chains


def chain_by_enumeration(parent: Process, variants: list[Process], word: np.ndarray, n_child: int) -> float:
    """P(parent's word) times P(child's word | the variants that it chose)."""
    chosen, said = word // n_child, word % n_child
    vector = variants[0].initial
    for choice, token in zip(chosen, said, strict=True):
        vector = vector @ variants[choice].transition[token]
    return probability_of(parent, chosen) * float(vector @ variants[0].functional)


@pytest.mark.parametrize(
    ("parent", "variants"),
    [
        (golden_mean(0.3), [mess3(0.6, 0.15), mess3(0.9, 0.02)]),
        (rrxor(), [bloch_walk(1, 3), bloch_walk(1, 0.2)]),
        (bloch_walk(), [zero_one_random(0.3), zero_one_random(0.8)] * 2),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_chain_of_variants_alike_in_their_law_agrees_with_enumeration(parent, variants):
    joint, n_child = chain(parent, variants), variants[0].n_tokens
    np.testing.assert_allclose(joint.stationary, np.kron(parent.stationary, variants[0].stationary), atol=1e-12)
    for word in np.random.default_rng(0).integers(joint.n_tokens, size=(80, 4)):
        expected = chain_by_enumeration(parent, variants, word, n_child)
        assert probability_of(joint, word) == pytest.approx(expected, abs=1e-12)


def test_a_chain_of_variants_unlike_in_their_law_has_one_that_is_no_product():
    parent, variants = golden_mean(), [even(0.1), even(0.9)]
    joint = chain(parent, variants)
    law = joint.stationary.reshape(2, 2)
    np.testing.assert_allclose(law.sum(1), parent.stationary, rtol=0, atol=1e-12)
    assert np.abs(law - np.outer(law.sum(1), law.sum(0))).max() > 1e-3
    np.testing.assert_array_equal(joint.initial, joint.stationary)


def test_a_chain_begins_where_it_is_told_to():
    parent, variants = golden_mean(), [even(0.1), even(0.9)]
    start = np.kron([1.0, 0.0], [0.0, 1.0])
    assert chain(parent, variants, initial=start).opening.tolist() == pytest.approx([0, 0.5, 0, 0.5])


def test_a_chain_that_never_looks_at_its_parent_is_a_product():
    joint = chain(golden_mean(), [mess3(), mess3()])
    both = np.einsum("abc,xyz->axbycz", probabilities(golden_mean(), 3), probabilities(mess3(), 3))
    np.testing.assert_allclose(probabilities(joint, 3), both.reshape(6, 6, 6), rtol=0, atol=1e-12)


# --- mixtures

COMPONENTS = {
    "ordinary": ([mess3(), mess3(0.6, 0.15)], None),
    "mapped": ([golden_mean(), mess3()], [[3, 1], [0, 1, 2]]),
    "generalized": ([bloch_walk(), bloch_walk(1, 3)], None),
    "both kinds": ([bloch_walk(), rrxor(), moon()], [[0, 1, 2, 3], [0, 3], [2, 1, 0]]),
}
every_mixture = pytest.mark.parametrize("kind", COMPONENTS)


@every_mixture
def test_a_mixture_says_words_by_the_weighted_mean_of_its_components(kind):
    components, vocabularies = COMPONENTS[kind]
    weights = np.array([0.2, 0.5, 0.3][: len(components)])
    weights /= weights.sum()
    mixed = mixture(components, weights, vocabularies)
    expected = np.zeros((mixed.n_tokens,) * 3)
    for k, (weight, component) in enumerate(zip(weights, components, strict=True)):
        vocabulary = np.arange(component.n_tokens) if vocabularies is None else vocabularies[k]
        expected[np.ix_(vocabulary, vocabulary, vocabulary)] += weight * probabilities(component, 3)
    np.testing.assert_allclose(probabilities(mixed, 3), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mixed.initial, mixed.stationary, rtol=0, atol=1e-9)


@every_mixture
def test_component_beliefs_are_their_own_and_the_posterior_is_that_of_bayes(kind):
    components, vocabularies = COMPONENTS[kind]
    weights = np.full(len(components), 1 / len(components))
    mixed = mixture(components, weights, vocabularies)
    for k, component in enumerate(components):
        words = component.sample(20, 6, np.random.default_rng(k))
        read = words if vocabularies is None else np.array(vocabularies[k])[words]
        beliefs = mixed.beliefs(read)
        np.testing.assert_allclose(component_beliefs(beliefs, components)[k], component.beliefs(words), atol=1e-9)
        posterior = component_posterior(beliefs, components)
        np.testing.assert_allclose(posterior.sum(-1), 1, rtol=0, atol=1e-12)
        own = component.log_likelihood(words).cumsum(1)
        expected = np.exp(own - mixed.log_likelihood(read).cumsum(1)) * weights[k]
        np.testing.assert_allclose(posterior[..., k], expected, rtol=0, atol=1e-10)


def test_a_component_that_is_ruled_out_believes_nothing():
    components = [golden_mean(), coin()]
    beliefs = mixture(components, [0.5, 0.5]).beliefs([[1, 1]])
    np.testing.assert_allclose(component_posterior(beliefs[0, -1], components), [0, 1], rtol=0, atol=1e-12)
    assert component_beliefs(beliefs[0, -1], components)[0].tolist() == [0, 0]


def test_a_mixture_told_where_its_components_begin_still_shares_its_time_by_their_laws():
    told = [begun_from(bloch_walk(), np.array([1, 0.5, 0.2])), begun_from(bloch_walk(1, 3), np.array([1, 0, -0.7]))]
    mixed = mixture(told, [0.3, 0.7])
    np.testing.assert_allclose(mixed.initial, [0.3, 0.15, 0.06, 0.7, 0, -0.49], rtol=0, atol=1e-12)
    np.testing.assert_allclose(mixed.stationary, [0.3, 0, 0, 0.7, 0, 0], rtol=0, atol=1e-12)


def test_long_reading_finds_the_component():
    components = [mess3(), mess3(0.6, 0.15)]
    mixed = mixture(components, [0.5, 0.5])
    tokens = components[1].sample(50, 2000, np.random.default_rng(0))
    assert component_posterior(mixed.beliefs(tokens)[:, -1], components)[:, 1].min() > 0.99


def test_a_pickled_mixture_of_generalized_processes_is_the_same():
    mixed = mixture([bloch_walk(), bloch_walk(1, 3)], [0.3, 0.7])
    again = pickle.loads(pickle.dumps(mixed))
    for name in ("transition", "initial", "stationary", "functional"):
        np.testing.assert_array_equal(getattr(again, name), getattr(mixed, name))


# --- a beginning token


@every_base
def test_what_follows_the_beginning_token_is_the_process(base):
    begun = with_beginning_token(base)
    words, probability = every_word(base, 3)
    after = np.column_stack([np.full(len(words), base.n_tokens), words])
    said = begun.log_likelihood(after)
    np.testing.assert_allclose(said[:, 0], 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.exp(said.sum(1)), probability, rtol=0, atol=1e-12)
    beliefs = begun.beliefs(after)
    np.testing.assert_allclose(beliefs[:, 0, :-1] - base.initial, 0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(beliefs[:, 1:, :-1], base.beliefs(words), rtol=0, atol=1e-9)
    assert (beliefs[..., -1] == 0).all()
    assert (begun.sample(50, 8, np.random.default_rng(0)) == base.n_tokens).sum(1).tolist() == [1] * 50


# --- other vocabularies


@given(processes(max_tokens=4, max_states=3), st.data())
def test_merged_tokens_are_said_when_any_of_them_is(process, data):
    n = process.n_tokens
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    merged = relabelled(process, labels)
    expected = np.zeros((merged.n_tokens,) * 2)
    np.add.at(expected, tuple(np.meshgrid(labels, labels, indexing="ij")), probabilities(process, 2))
    np.testing.assert_allclose(probabilities(merged, 2), expected, rtol=0, atol=1e-12)


def test_a_token_that_nothing_stands_for_is_never_said():
    assert relabelled(coin(0.3), [2, 0]).opening.tolist() == pytest.approx([0.7, 0, 0.3])


# --- a shorter memory


@given(processes(max_tokens=3, max_states=3), st.integers(0, 2))
def test_the_markov_approximation_keeps_words_of_one_token_more(process, k):
    short = markov(process, k)
    np.testing.assert_allclose(probabilities(short, k + 1), probabilities(process, k + 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("base", "k"), [*product(BASES, (0, 1, 3))], ids=str)
def test_the_entropy_rate_of_a_markov_approximation_is_the_myopic_entropy(base, k):
    rate = markov(base, k).entropy_rate()
    assert rate.value == pytest.approx(myopic_entropies(base, k + 1)[k], abs=1e-9)


def test_the_markov_approximation_of_a_markov_process_is_itself():
    for length in (2, 5):
        np.testing.assert_allclose(
            probabilities(markov(golden_mean(0.3), 1), length), probabilities(golden_mean(0.3), length), atol=1e-12
        )
    assert np.abs(probabilities(markov(even(), 1), 3) - probabilities(even(), 3)).max() > 0.01


def test_the_third_approximation_of_the_bloch_walk_has_64_states():
    assert markov(bloch_walk(), 3).n_states == 64


def test_states_of_a_markov_approximation_are_possible_words_only():
    assert markov(golden_mean(), 3).n_states == 5


def test_a_told_beginning_does_not_change_the_markov_approximation():
    told = begun_from(rrxor(), np.eye(5)[0])
    np.testing.assert_allclose(markov(told, 2).transition, markov(rrxor(), 2).transition, rtol=0, atol=1e-12)


# --- refusals


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: chain(golden_mean(), [mess3()]), "variants holds 1 processes; the parent 'golden_mean' says 2 tokens"),
        (
            lambda: chain(coin(), [mess3(), even()]),
            r"variants\[1\] has shape \(2, 2, 2\); variants\[0\] has \(3, 3, 3\)",
        ),
        (lambda: chain(coin(), [mess3(), moon()]), r"variants\[1\] has another functional than variants\[0\]"),
        (lambda: mixture([], []), "weights holds 0 numbers for 0 processes"),
        (lambda: mixture([coin()], [0.5, 0.5]), "weights holds 2 numbers for 1 processes"),
        (lambda: mixture([coin(), even()], [0.5, 0.6]), "weights has total probability 1.1; it must be 1"),
        (lambda: mixture([coin(), even()], [1.5, -0.5]), "weights holds the probability -0.5"),
        (
            lambda: mixture([coin(), mess3()], [0.5, 0.5]),
            re.escape("processes say [2, 3] tokens; with unequal alphabets"),
        ),
        (lambda: mixture([coin(), even()], [0.5, 0.5], [[0, 1]]), "vocabularies holds 1 for 2 processes"),
        (
            lambda: mixture([coin(), mess3()], [0.5, 0.5], [[0, 1], [0, 1]]),
            re.escape("vocabularies[1] has shape (2,); it must hold one number for each of 3 tokens"),
        ),
        (
            lambda: component_posterior(np.ones(3), [coin(), even(), even()]),
            "beliefs have 3 states; these processes have 5",
        ),
        (lambda: noisy_channel(mess3(), 1.2), "epsilon=1.2 must lie between 0 and 1"),
        (lambda: leak(mess3(), -0.1), "epsilon=-0.1 must lie between 0 and 1"),
        (lambda: leak(bloch_walk(), 0.1), "law=None is uniform, which means nothing for the generalized 'bloch_walk'"),
        (lambda: leak(mess3(), 0.1, np.array([0.5, 0.5, 0.5])), "law has total probability 1.5"),
        (lambda: relabelled(mess3(), [0, 1]), r"labels has shape \(2,\); it must hold one number for each of 3"),
        (lambda: relabelled(coin(), [0, -1]), re.escape("labels=[0, -1] must be integers, 0 or more")),
        (lambda: relabelled(coin(), np.array([0, 0.5]).astype(int) - 1), re.escape("labels=[-1, -1] must be integers")),
        (lambda: markov(mess3(), -1), "k=-1 must be at least 0"),
        (lambda: markov(bloch_walk(), 8), "k=8 makes 65536 words of 'bloch_walk' states"),
    ],
)
def test_a_refusal_names_the_argument(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_a_reducible_process_is_refused_naming_the_weights_of_a_mixture():
    for kind in ([even(), coin()], [bloch_walk(), bloch_walk(1, 3)]):
        mixed = mixture(kind, [0.5, 0.5])
        with pytest.raises(ValueError, match=r"reducible.*initial= \(for a mixture, the weight of each"):
            Process(mixed.transition)
