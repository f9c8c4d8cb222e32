from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import entr

from nextlens.models.processes import PROCESSES, Process, even, golden_mean, mess3, rrxor, zero_one_random
from nextlens.models.processes.mixed_states import (
    belief_tree,
    block_entropies,
    entropy_rate,
    every_word,
    first_equal,
    mixed_state_presentation,
    myopic_entropies,
    optimal_loss,
)
from tests.process_strategies import bloch_walk, disguises, frdn, moon, processes

RATES = {
    "mess3": 0.793458,
    "rrxor": 0.462098,
    "zero_one_random": 0.231049,
    "even": 0.462098,
    "golden_mean": 0.462098,
}


# --- the tree


@given(processes(max_tokens=3))
def test_the_tree_holds_the_belief_and_probability_of_every_word(process):
    tree = belief_tree(process, 4)
    for depth in range(1, 5):
        level, words = tree.levels[depth], tree.words(depth)
        np.testing.assert_allclose(level.beliefs, process.beliefs(words)[:, -1], atol=1e-10)
        np.testing.assert_allclose(level.probability, np.exp(process.log_likelihood(words).sum(1)), atol=1e-10)
        assert level.probability.sum() == pytest.approx(1, abs=1e-9)


@given(processes(max_tokens=3))
def test_beliefs_average_to_their_parents_pushed_through_the_chain(process):
    tree = belief_tree(process, 3)
    for above, below in pairwise(tree.levels):
        average = np.zeros_like(above.beliefs)
        np.add.at(average, below.parent, below.probability[:, None] * below.beliefs)
        expected = above.probability[:, None] * above.beliefs @ process.transition.sum(0)
        np.testing.assert_allclose(average, expected, atol=1e-12)


@pytest.mark.parametrize("process", [mess3(), bloch_walk(), frdn(), moon()], ids=lambda process: process.name)
def test_every_node_has_total_probability_one_the_root_included(process):
    for level in belief_tree(process, 5).levels:
        np.testing.assert_allclose(level.beliefs @ process.functional, 1, atol=1e-12)


def test_rrxor_has_the_known_number_of_prefixes():
    tree = belief_tree(rrxor(), 11)
    sizes = [len(level) for level in tree.levels]
    assert (len(tree), sum(sizes[1:11]), sizes[10]) == (1723, 1046, 436)


def test_mess3_has_every_word():
    assert len(belief_tree(mess3(), 7)) == (3**8 - 1) // 2


def test_words_come_in_order_so_that_shared_prefixes_are_neighbours():
    words, probability = every_word(golden_mean(), 5)
    expected = [word for word in product((0, 1), repeat=5) if (1, 1) not in pairwise(word)]
    np.testing.assert_array_equal(words, expected)
    assert probability.sum() == pytest.approx(1)


# --- mixed states


@pytest.mark.parametrize(("process", "count"), [(rrxor(), 36), (zero_one_random(), 7), (golden_mean(), 3), (even(), 4)])
def test_finite_presentations_have_the_known_number_of_states(process, count):
    states = mixed_state_presentation(process)
    assert (len(states), states.closed) == (count, True)
    np.testing.assert_allclose(states.chain.sum(1), 1, atol=1e-12)


def test_an_open_presentation_says_so_and_counts_by_depth():
    states = mixed_state_presentation(mess3(), max_states=500)
    assert not states.closed
    assert np.bincount(states.depth).tolist() == [1, 3, 9, 27, 81, 243]
    with pytest.raises(ValueError, match="not all there are"):
        states.chain  # noqa: B018


@pytest.mark.parametrize("process", [rrxor(), zero_one_random(0.2), even(0.9)], ids=lambda p: p.name)
def test_successors_follow_the_filter(process):
    states = mixed_state_presentation(process)
    node, token = np.nonzero(states.successor >= 0)
    after = process.beliefs(token[:, None], initial=states.beliefs[node])[:, 0]
    np.testing.assert_allclose(states.beliefs[states.successor[node, token]], after, atol=1e-9)
    assert (states.next_token[states.successor < 0] == 0).all()


def test_the_chain_over_mixed_states_sums_the_probabilities_of_merged_words():
    process = rrxor()
    states, level = mixed_state_presentation(process), belief_tree(process, 6).levels[6]
    law = np.eye(1, 36)[0] @ np.linalg.matrix_power(states.chain, 6)
    for belief, probability in zip(states.beliefs, law, strict=True):
        here = np.abs(level.beliefs - belief).max(axis=1) < 1e-9
        assert level.probability[here].sum() == pytest.approx(probability, abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_rounding_never_splits_equal_points(seed):
    """Points at multiples of the cell: every border of one grid is tried."""
    rng = np.random.default_rng(seed)
    distinct = rng.permutation(50)[:20, None] * np.array([2e-6, 4e-6]) + 0.5
    copies = rng.integers(20, size=200)
    points = distinct[copies] + rng.uniform(-1e-12, 1e-12, size=(200, 2))
    _, expected = np.unique(copies, return_index=True)
    np.testing.assert_array_equal(first_equal(points, 1e-6)[expected], expected)
    assert len(np.unique(first_equal(points, 1e-6))) == len(expected)


# --- entropies


@pytest.mark.parametrize("name", RATES)
def test_entropy_rates_have_their_known_values(name):
    rate = PROCESSES[name]().entropy_rate()
    assert rate.value == pytest.approx(RATES[name], abs=1e-6)
    assert rate.lower <= rate.value <= rate.upper


@pytest.mark.parametrize(
    ("process", "rate"),
    [(rrxor(0.3, 0.7), 0.407243), (zero_one_random(0.3), 0.203621), (mess3(0.6, 0.15), 1.088888)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_entropy_rates_at_other_parameters_have_their_known_values(process, rate):
    assert process.entropy_rate().value == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize(
    ("process", "rate"), [(bloch_walk(), 1.36725), (frdn(), 0.64481), (moon(), 0.69921)], ids=lambda v: str(v)[9:13]
)
def test_sampled_rates_agree_with_their_known_values(process, rate):
    found = process.entropy_rate()
    assert found.upper - found.lower < 2e-3
    assert abs(found.value - rate) < 1.5 * (found.upper - found.lower) + 1e-5
    assert found == process.entropy_rate(), "the default generator is fixed"


@given(processes(max_tokens=3, max_states=3), st.integers(1, 3))
def test_bounds_hold_the_rate_and_tighten_with_depth(process, depth):
    shallow, deep = (entropy_rate(process, depth=d) for d in (depth, depth + 2))
    assert shallow.lower - 1e-12 <= deep.lower <= deep.value <= deep.upper <= shallow.upper + 1e-12


def test_the_entropy_of_what_is_said_in_a_known_state_is_not_the_rate():
    known = entr(mess3().next_token(np.eye(3))).sum(1).mean()
    assert known < mess3().entropy_rate().lower - 0.05


def test_a_disguised_finite_process_has_the_same_exact_rate():
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    signed = Process(turn.T @ rrxor().transition @ turn)
    rate = signed.entropy_rate()
    assert signed.is_generalized
    assert len(mixed_state_presentation(signed)) == 36
    assert rate.lower == rate.upper == pytest.approx(2 / 3 * np.log(2), abs=1e-9)


@given(processes(max_tokens=3, max_states=3))
def test_block_entropies_agree_with_enumeration_of_words(process):
    expected = [entr(every_word(process, length)[1]).sum() for length in range(1, 6)]
    np.testing.assert_allclose(block_entropies(process, 5), expected, atol=1e-8)


@given(disguises())
def test_myopic_entropies_do_not_depend_on_coordinates(pair):
    process, signed = pair
    np.testing.assert_allclose(myopic_entropies(process, 5), myopic_entropies(signed, 5), atol=1e-7)


@given(processes(max_tokens=3))
def test_myopic_entropies_of_a_stationary_process_never_rise(process):
    assert (np.diff(myopic_entropies(process, 6)) <= 1e-10).all()


@pytest.mark.parametrize(("process", "loss"), [(mess3(), 0.80251), (rrxor(), 0.57819)], ids=lambda v: str(v)[9:14])
def test_optimal_losses_have_their_known_means(process, loss):
    per_position = optimal_loss(process, 10)
    assert per_position.shape == (10,)
    assert per_position.mean() == pytest.approx(loss, abs=5e-6)


def test_optimal_loss_is_what_the_exact_kernel_loses_on_every_word():
    process = rrxor()
    words, probability = every_word(process, 7)
    lost = -(probability @ process.log_likelihood(words))
    np.testing.assert_allclose(optimal_loss(process, 6), lost[1:], atol=1e-12)


def test_entropies_of_a_process_told_its_phase_start_from_there():
    told = Process(rrxor().transition, initial=np.eye(5)[0])
    np.testing.assert_allclose(myopic_entropies(told, 6), np.log(2) * np.array([1, 1, 0, 1, 1, 0]), atol=1e-12)
    assert told.entropy_rate().value == pytest.approx(2 / 3 * np.log(2), abs=1e-12)


# --- refusals


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: belief_tree(mess3(), -1), "depth=-1 must be at least 0"),
        (lambda: belief_tree(mess3(), 40), r"belief tree of 'mess3' is too large: .* ask for fewer tokens"),
        (lambda: every_word(mess3(), 0), "length=0 must be at least 1"),
        (lambda: myopic_entropies(mess3(), 0), "length=0 must be at least 1"),
        (lambda: optimal_loss(mess3(), 0), "n_positions=0 must be at least 1"),
        (lambda: entropy_rate(mess3(), depth=0), "depth=0 must be at least 1"),
        (lambda: mixed_state_presentation(mess3(), tolerance=0.0), "tolerance=0.0 must be at least"),
        (lambda: mixed_state_presentation(mess3(), max_states=0), "max_states=0 must be at least 1"),
    ],
)
def test_a_refusal_names_the_argument(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
