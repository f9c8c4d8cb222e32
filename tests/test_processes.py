from __future__ import annotations

import json
import pickle
from dataclasses import FrozenInstanceError
from itertools import islice, product
from math import prod

import cloudpickle
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel
from nextlens.models.processes import PROCESSES, Process, even, golden_mean, mess3, process_by_name, rrxor
from nextlens.models.processes.gauge import checked_beliefs, checked_transition
from nextlens.models.processes.mixed_states import every_word
from nextlens.models.processes.sampling import AliasTable, BatchStream, EdgeSampler, FilterSampler, WordSampler
from tests.process_strategies import bloch_walk, disguises, frdn, moon, processes

seeds = st.integers(0, 2**32 - 1)
EVERY_NAMED = [*(builder() for builder in PROCESSES.values()), bloch_walk(), frdn(), moon()]
named = pytest.mark.parametrize("process", EVERY_NAMED, ids=lambda process: process.name)


def words_of(process: Process, length: int) -> np.ndarray:
    return np.array(list(product(range(process.n_tokens), repeat=length)))


def by_hidden_paths(process: Process, word: np.ndarray) -> np.ndarray:
    """P(word, last state), summed over every path of hidden states."""
    total = np.zeros(process.n_states)
    for path in product(range(process.n_states), repeat=len(word) + 1):
        steps = [process.transition[x, s, r] for x, s, r in zip(word, path, path[1:], strict=False)]
        total[path[-1]] += process.initial[path[0]] * prod(steps)
    return total


# --- what it is


@given(processes())
def test_stationary_is_a_law_that_the_chain_keeps(process):
    np.testing.assert_allclose(process.stationary @ process.transition.sum(0), process.stationary, atol=1e-12)
    assert process.stationary.min() >= 0
    assert process.stationary.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("process", "stationary"),
    [
        (mess3(), [1 / 3] * 3),
        (rrxor(), np.array([2, 1, 1, 1, 1]) / 6),
        (rrxor(0.3, 0.8), np.array([1, 0.3, 0.7, 0.3 * 0.2 + 0.7 * 0.8, 0.3 * 0.8 + 0.7 * 0.2]) / 3),
        (process_by_name("zero_one_random", p=0.3), [1 / 3] * 3),
        (even(0.3), np.array([1, 0.3]) / 1.3),
        (golden_mean(0.3), np.array([1, 0.3]) / 1.3),
        (bloch_walk(), [1, 0, 0]),
        (frdn(), [0.186758, 0.924508, -0.106133, -0.005132]),
        (moon(), [1.174763, -0.457859, -0.392065]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_stationary_laws_have_their_published_values(process, stationary):
    np.testing.assert_allclose(process.stationary, stationary, atol=1e-6)


@pytest.mark.parametrize("period", [2, 3, 5])
def test_a_periodic_chain_has_the_stationary_law_of_its_cycle(period):
    cycle = Process(np.roll(np.eye(period), 1, axis=1)[None])
    np.testing.assert_allclose(cycle.stationary, 1 / period, atol=1e-12)


def test_functionals_begin_with_one():
    np.testing.assert_array_equal(mess3().functional, 1)
    np.testing.assert_allclose(bloch_walk().functional, [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(frdn().functional, 1, atol=1e-12)
    np.testing.assert_allclose(moon().functional, [1, 0.333739, 0.056006], atol=1e-6)


def test_mess3_has_the_published_entries():
    assert sorted(set(mess3().transition.ravel().round(12))) == [0.00375, 0.0425, 0.0675, 0.765]


def test_zero_one_random_says_one_after_one_with_p():
    process = process_by_name("zero_one_random", p=0.2)
    assert process.next_token(process.beliefs([[0, 1]])[0, -1]).tolist() == pytest.approx([0.8, 0.2])


def test_a_process_cannot_be_changed():
    process = mess3()
    with pytest.raises(FrozenInstanceError):
        process.name = "other"
    with pytest.raises(ValueError, match="read-only"):
        process.transition[0, 0, 0] = 1
    with pytest.raises(TypeError):
        process.parameters["x"] = 0.1


def test_a_process_copies_what_it_is_given():
    given_array = mess3().transition.copy()
    process = Process(given_array)
    given_array[:] = 0
    np.testing.assert_array_equal(process.transition, mess3().transition)


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
@named
def test_pickled_processes_are_equal_and_still_frozen(process, pickler):
    again = pickler.loads(pickler.dumps(process))
    assert repr(again) == repr(process)
    for name in ("transition", "initial", "stationary", "functional"):
        np.testing.assert_array_equal(getattr(again, name), getattr(process, name))
        assert not getattr(again, name).flags.writeable


# --- beliefs


@given(processes(max_tokens=3, max_states=3))
def test_beliefs_agree_with_enumeration_of_every_hidden_path(process):
    for word in words_of(process, 3):
        joint = by_hidden_paths(process, word)
        if joint.sum() > 0:
            belief = process.beliefs(word[None])[0, -1]
            np.testing.assert_allclose(belief, joint / joint.sum(), atol=1e-12)
        else:
            with pytest.raises(ValueError, match="cannot say this sequence"):
                process.beliefs(word[None])


@given(processes())
def test_beliefs_are_a_martingale_under_the_chain(process):
    """Averaged over the next token, tomorrow's belief is today's pushed through the chain."""
    said = np.flatnonzero(process.opening)
    after = process.beliefs(said[:, None])[:, 0]
    np.testing.assert_allclose(process.opening[said] @ after, process.initial @ process.transition.sum(0), atol=1e-12)


@named
def test_every_belief_has_total_probability_one(process):
    tokens = process.sample(20, 50, np.random.default_rng(0))
    np.testing.assert_allclose(process.beliefs(tokens) @ process.functional, 1, atol=1e-12)
    assert process.initial @ process.functional == pytest.approx(1, abs=1e-12)


@named
def test_a_stream_read_in_two_stretches_equals_one(process):
    tokens = process.sample(5, 30, np.random.default_rng(1))
    last = process.beliefs(tokens[:, :17])[:, -1]
    np.testing.assert_allclose(
        process.beliefs(tokens[:, 17:], initial=last), process.beliefs(tokens)[:, 17:], atol=1e-10
    )
    np.testing.assert_allclose(
        process.log_likelihood(tokens[:, 17:], initial=last),
        process.log_likelihood(tokens)[:, 17:],
        atol=1e-10,
    )


def test_sequences_are_filtered_alike_in_chunks_and_alone():
    transition = np.random.default_rng(0).dirichlet(np.ones(2 * 40), size=40).reshape(40, 2, 40)
    process = Process(transition.transpose(1, 0, 2))
    tokens = process.sample(400, 4, np.random.default_rng(0))
    alone = np.concatenate([process.beliefs(row[None]) for row in tokens])
    np.testing.assert_allclose(process.beliefs(tokens), alone, atol=1e-15)


@given(disguises())
def test_signed_coordinates_change_no_probability(pair):
    process, signed = pair
    words, probability = every_word(process, 4)
    assert signed.is_generalized
    np.testing.assert_allclose(np.exp(signed.log_likelihood(words).sum(1)), probability, atol=1e-9)


# --- probabilities


@given(processes(max_tokens=3, max_states=3))
def test_log_likelihood_sums_to_the_probability_of_the_word(process):
    words, probability = every_word(process, 3)
    paths = [by_hidden_paths(process, word).sum() for word in words]
    np.testing.assert_allclose(probability, paths, atol=1e-12)
    np.testing.assert_allclose(np.exp(process.log_likelihood(words).sum(1)), paths, atol=1e-12)


@pytest.mark.parametrize("process", [mess3(), bloch_walk()], ids=lambda process: process.name)
def test_log_likelihood_is_finite_at_length_one_hundred_thousand(process):
    tokens = process.sample(1, 100_000, np.random.default_rng(0))
    assert np.isfinite(process.log_likelihood(tokens)).all()


@named
def test_log_likelihood_is_finite_at_ten_thousand_tokens(process):
    tokens = process.sample(1, 10_000, np.random.default_rng(0))
    assert np.isfinite(process.log_likelihood(tokens)).all()


@named
def test_log_probs_say_what_log_likelihood_says_of_each_target(process):
    batch = Batch.from_tokens(process.sample(6, 12, np.random.default_rng(2)))
    assert isinstance(process, Kernel)
    said = process.log_probs(batch)
    assert said.dtype == torch.float64
    np.testing.assert_allclose(said.exp().sum(-1), 1, atol=1e-10)
    words = torch.cat([batch.tokens, batch.targets[:, -1:]], dim=1).numpy()
    of_targets = said.gather(-1, batch.targets[..., None])[..., 0]
    np.testing.assert_allclose(of_targets, process.log_likelihood(words)[:, 1:], atol=1e-9)


def test_a_forbidden_token_has_log_probability_minus_infinity():
    batch = Batch.from_tokens([[0, 1, 0]])
    said = golden_mean().log_probs(batch)
    assert said[0, 1].tolist() == [0.0, -np.inf]


def test_opening_is_the_law_of_the_first_token():
    np.testing.assert_allclose(golden_mean(0.3).opening, [1 / 1.3, 0.3 / 1.3])


def test_an_initial_belief_is_where_filtering_and_sampling_start():
    base = rrxor()
    process = Process(base.transition, initial=np.eye(5)[0])
    np.testing.assert_array_equal(process.initial, np.eye(5)[0])
    np.testing.assert_allclose(process.stationary, base.stationary)
    tokens = process.sample(200, 12, np.random.default_rng(0))
    assert (tokens[:, 2::3] == tokens[:, 0::3] ^ tokens[:, 1::3]).all()
    assert np.exp(process.log_likelihood([[0, 0, 0]])[0]).tolist() == pytest.approx([0.5, 0.5, 1])


# --- sampling


def samplers_of(process: Process, length: int) -> dict[str, object]:
    given_vectors = (process.transition, process.functional, process.initial)
    words = WordSampler.of(*given_vectors, length, cutoff=1e-12)
    filtering = FilterSampler(*given_vectors, process.impossible)
    draws = {"words": words.draw, "filter": lambda n, rng: filtering.draw(n, rng, length)}
    if not process.is_generalized:
        edges = EdgeSampler.of(process.transition, process.initial)
        draws["edges"] = lambda n, rng: edges.draw(n, rng, length)
    return draws


@named
def test_every_sampler_draws_words_by_their_probability(process):
    length, n = 3, 40_000
    words, probability = every_word(process, length)
    place = process.n_tokens ** np.arange(length)[::-1]
    for draw in samplers_of(process, length).values():
        counts = np.bincount(draw(n, np.random.default_rng(3)) @ place, minlength=process.n_tokens**length)
        assert counts[words @ place].sum() == n
        spread = np.sqrt(probability * (1 - probability) / n)
        np.testing.assert_array_less(np.abs(counts[words @ place] / n - probability), 5 * spread + 1e-12)


@given(processes(), seeds)
def test_samples_are_words_the_process_can_say(process, seed):
    rng = np.random.default_rng(seed)
    for n_sequences, length in ((3, 9), (100, 2)):
        tokens = process.sample(n_sequences, length, rng)
        assert tokens.shape == (n_sequences, length)
        assert tokens.dtype == np.int64
        process.beliefs(tokens)


@named
def test_sampled_bigrams_approach_their_probabilities(process):
    tokens = process.sample(4000, 20, np.random.default_rng(0))
    n = process.n_tokens
    seen = np.bincount((tokens[:, :-1] * n + tokens[:, 1:]).ravel(), minlength=n * n) / tokens[:, 1:].size
    said = np.einsum("s,xsr,yrq,q->xy", process.stationary, process.transition, process.transition, process.functional)
    np.testing.assert_allclose(seen, said.ravel(), atol=0.012)


def test_the_same_generator_draws_the_same_sample_whatever_was_drawn_before():
    fresh, used = mess3(), mess3()
    used.sample(10_000, 5, np.random.default_rng(9))
    next(used.batches(4, 5, np.random.default_rng(9)))
    for n_sequences in (7, 10_000):
        np.testing.assert_array_equal(
            fresh.sample(n_sequences, 5, np.random.default_rng(1)),
            used.sample(n_sequences, 5, np.random.default_rng(1)),
        )


@given(st.lists(st.lists(st.floats(0, 1) | st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=3))
def test_an_alias_table_holds_each_law_exactly(weights):
    laws = np.array(weights) + np.eye(len(weights), 5)
    laws /= laws.sum(axis=1, keepdims=True)
    table = AliasTable.of(laws)
    held = np.zeros(laws.size)
    np.add.at(held, np.arange(laws.size), table.share / 5)
    np.add.at(held, table.alias, (1 - table.share) / 5)
    np.testing.assert_allclose(held, laws.ravel(), atol=1e-12)
    assert (held[laws.ravel() == 0] == 0).all()


# --- the stream of batches


def test_batches_hold_one_position_less_than_their_words():
    batch = next(mess3().batches(64, length=11, rng=np.random.default_rng(0)))
    assert batch.tokens.shape == (64, 10)
    np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])


@pytest.mark.parametrize("length", [4, 25])
def test_streamed_tokens_follow_the_law(length):
    process = even()
    stream = process.batches(500, length, np.random.default_rng(0))
    words = np.concatenate([batch.tokens[:, :3].numpy() for batch in islice(stream, 80)])
    possible, probability = every_word(process, 3)
    counts = np.bincount(words @ [4, 2, 1], minlength=8)
    np.testing.assert_allclose(counts[possible @ [4, 2, 1]] / len(words), probability, atol=0.012)


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.SFC64, np.random.MT19937, np.random.Philox])
@pytest.mark.parametrize("drawn", [0, 3, 10, 11, 25])
def test_a_restored_stream_continues_exactly(kind, drawn):
    process, size, length = mess3(), 700, 37
    stream = process.batches(size, length, np.random.Generator(kind(5)))
    assert stream._per_block == 10
    for _ in range(drawn):
        next(stream)
    state = json.loads(json.dumps(stream.state()))
    restored = process.batches(size, length, np.random.Generator(kind(99)))
    next(restored)
    restored.restore(state)
    assert restored.state() == stream.state()
    for _ in range(12):
        torch.testing.assert_close(next(restored).tokens, next(stream).tokens, rtol=0, atol=0)


def test_batches_of_one_stream_differ():
    stream = mess3().batches(64, 11, np.random.default_rng(0))
    first, second = next(stream), next(stream)
    assert not torch.equal(first.tokens, second.tokens)


def test_a_state_of_another_stream_is_refused():
    stream = mess3().batches(64, 11, np.random.default_rng(0))
    with pytest.raises(ValueError, match="state has size=32; this stream has 64"):
        stream.restore(mess3().batches(32, 11, np.random.default_rng(0)).state())
    other = mess3().batches(64, 11, np.random.Generator(np.random.SFC64(0)))
    with pytest.raises(ValueError, match="state is of a SFC64 generator; this stream draws from a PCG64"):
        stream.restore(other.state())


@pytest.mark.parametrize(("size", "length", "pays"), [(4096, 11, True), (8, 31, False)])
def test_the_first_batch_decides_whether_the_tree_pays(size, length, pays):
    stream = mess3().batches(size, length, np.random.default_rng(0))
    for batch in islice(stream, 3):
        assert (batch.tree is not None) == pays
    restored = mess3().batches(size, length, np.random.default_rng(1))
    restored.restore(stream.state())
    assert (next(restored).tree is not None) == pays


@pytest.mark.parametrize("tree", [True, False])
def test_a_tree_can_be_asked_for_or_declined(tree):
    for size in (2, 4096):
        batch = next(mess3().batches(size, 5, np.random.default_rng(0), tree=tree))
        assert (batch.tree is not None) == tree


def test_a_stream_takes_any_way_of_drawing():
    stream = BatchStream(lambda n, rng: rng.integers(2, size=(n, 3)), 4, 3, np.random.default_rng(0))
    assert next(stream).tokens.shape == (4, 2)


# --- refusals


def test_a_leaking_state_is_named():
    leaky = mess3().transition.copy()
    leaky[0, 1, 2] += 0.5
    with pytest.raises(ValueError, match=r"'leaky' gives state 1 total probability 1\.5"):
        Process(leaky, name="leaky")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_named(value):
    broken = mess3().transition.copy()
    broken[2, 0, 1] = value
    with pytest.raises(ValueError, match=r"transition\[2, 0, 1\] of 'broken' is (nan|inf)"):
        Process(broken, name="broken")


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 4), (0, 2, 2), (2, 0, 0)])
def test_a_tensor_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"has shape \(.*it must be \(token, state, next state\)"):
        checked_transition("odd", np.zeros(shape))


def two_blocks() -> np.ndarray:
    blocks = np.zeros((2, 4, 4))
    blocks[:, :2, :2], blocks[:, 2:3, 2:3] = even().transition, [[[0.9]], [[0.1]]]
    blocks[0, 3, [0, 2]] = 0.25, 0.75
    return blocks


def test_a_reducible_process_is_refused_naming_its_blocks():
    with pytest.raises(ValueError, match=r"'two' is reducible: .* never left, \{0, 1\} and \{2\}; .*initial="):
        Process(two_blocks(), name="two")


def test_a_reducible_process_that_is_told_where_it_starts_shares_its_time():
    process = Process(two_blocks(), initial=np.eye(4)[3])
    np.testing.assert_allclose(process.stationary, [0.25 * 2 / 3, 0.25 / 3, 0.75, 0], atol=1e-12)
    inside = Process(two_blocks(), initial=np.eye(4)[2])
    np.testing.assert_allclose(inside.opening, [0.9, 0.1])


def test_a_slow_leak_does_not_make_a_process_reducible():
    leak = 1e-6
    process = Process(np.array([[[1 - leak, leak], [3 * leak, 1 - 3 * leak]]]))
    np.testing.assert_allclose(process.stationary, [0.75, 0.25], atol=1e-8)


def test_a_transient_state_has_no_share():
    assert Process(np.array([[[0.5, 0.5], [0.0, 1.0]]])).stationary.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ([0.5, 0.5, 0.1], "initial has total probability 1.1"),
        ([0.5, np.nan, 0.1], "initial has total probability nan"),
        ([1.5, -0.5, 0.0], "initial holds the probability -0.5"),
        ([0.5, 0.5], r"initial has shape \(2,\); it must be \(3,\)"),
    ],
)
def test_an_initial_law_that_is_none_is_refused(initial, message):
    with pytest.raises(ValueError, match=message):
        checked_beliefs("initial", initial, np.ones(3), signed=False)
    with pytest.raises(ValueError, match=message.partition("; it")[0]):
        mess3().beliefs([[0, 1]], initial=np.array(initial))


def test_a_process_refuses_an_initial_law_that_does_not_sum_to_one():
    with pytest.raises(ValueError, match=r"initial has total probability 1\.1; it must be 1"):
        Process(mess3().transition, initial=np.array([0.5, 0.5, 0.1]))


def test_signed_weights_need_largest_eigenvalue_one():
    with pytest.raises(ValueError, match=r"must have largest eigenvalue 1; it has 2: divide"):
        Process(2 * bloch_walk().transition)


def test_a_signed_reducible_process_says_how_often_one_occurs():
    twice = np.zeros((2, 8, 8))
    twice[:, :4, :4] = twice[:, 4:, 4:] = frdn().transition
    with pytest.raises(ValueError, match=r"eigenvalue 1 of .* occurs 2 times"):
        Process(twice)
    mixed = Process(twice, initial=np.r_[0.3 * frdn().stationary, 0.7 * frdn().stationary])
    np.testing.assert_allclose(mixed.stationary, mixed.initial, atol=1e-9)
    np.testing.assert_allclose(mixed.opening, frdn().opening, atol=1e-9)


def test_the_first_word_of_negative_probability_is_named():
    swing = np.array([[[0.5, 0.6], [-0.9, 0.5]], [[0.5, -0.6], [0.9, 0.5]]])
    np.testing.assert_array_equal(swing.sum(0), np.eye(2))
    with pytest.raises(ValueError, match=r"gives the word \[0, 0\] probability -0\.\d+"):
        Process(swing, initial=np.array([0.5, 0.5]))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[0, 1], [2, 3]], r"tokens\[1, 1\] is 3; 'mess3' says 0 \.\. 2 only"),
        ([[0, -1]], r"tokens\[0, 1\] is -1"),
        ([[0.0, 1.0]], "tokens are float64; they must be integers"),
        ([0, 1], r"tokens has shape \(2,\); it must be \(sequence, position\)"),
    ],
)
def test_tokens_outside_the_alphabet_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        mess3().beliefs(tokens)


def test_an_impossible_word_is_named_by_its_place():
    with pytest.raises(ValueError, match=r"tokens\[1, 2\] is 1, which has probability 0"):
        golden_mean().beliefs([[0, 0, 0], [0, 1, 1]])
    with pytest.raises(ValueError, match=r"tokens\[0, 1\] is 1"):
        golden_mean().log_probs(Batch.from_tokens([[1, 1, 0]]))


@pytest.mark.parametrize("belief", [[1.5, -0.5], [np.nan, 0.5]])
def test_what_is_no_belief_has_no_next_token(belief):
    with pytest.raises(ValueError, match="not beliefs of 'golden_mean'"):
        golden_mean(0.9).next_token(np.array(belief))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: mess3().sample(0, 5, np.random.default_rng(0)), "n_sequences=0 must be at least 1"),
        (lambda: mess3().sample(5, 0, np.random.default_rng(0)), "length=0 must be at least 1"),
        (lambda: mess3().batches(0, 5, np.random.default_rng(0)), "size=0 must be at least 1"),
        (lambda: mess3().batches(5, 1, np.random.default_rng(0)), "length=1 must be at least 2"),
        (lambda: mess3(alpha=1.2), "alpha=1.2 must lie between 0 and 1"),
        (lambda: mess3(x=0.6), "x=0.6 must lie between 0 and 0.5"),
        (lambda: rrxor(p2=-0.1), "p2=-0.1 must lie between 0 and 1"),
        (lambda: even(float("nan")), "p=nan must lie between 0 and 1"),
        (lambda: process_by_name("mes3"), "did you mean 'mess3'"),
        (lambda: process_by_name("mess3", p=0.1), "parameter of mess3='p' is not one of 'alpha', 'x'"),
    ],
)
def test_a_refusal_names_the_argument(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_a_recipe_makes_the_process_again():
    for process in (rrxor(0.3), mess3(x=0.1)):
        again = process_by_name(process.name, **process.parameters)
        np.testing.assert_array_equal(again.transition, process.transition)
