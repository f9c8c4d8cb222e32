from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import entr

from nextlens.models.processes import (
    Process,
    begun_from,
    bloch_walk,
    coin,
    days_of_week,
    even,
    frdn,
    golden_mean,
    leaky_rrxor,
    markov,
    mess3,
    mixture,
    moon,
    mr_name,
    parentheses,
    random_epsilon_machine,
    rrxor,
    sns,
    zero_one_random,
)
from nextlens.models.processes.futures import degeneracies, future_basis, future_rank
from nextlens.models.processes.information import (
    belief_entropies,
    crypticity,
    epsilon_machine,
    excess_entropy,
    markov_order,
    statistical_complexity,
    transient_information,
)
from nextlens.models.processes.mixed_states import belief_tree, block_entropies, every_word, myopic_entropies
from tests.process_strategies import processes

seeds = st.integers(0, 2**32 - 1)


def named(process: object) -> str:
    return repr(process)[9:].partition(":")[0] if isinstance(process, Process) else str(process)


@st.composite
def machines(draw, max_states: int = 4) -> Process:
    n_tokens, n_states = draw(st.integers(2, 3)), draw(st.integers(1, max_states))
    return random_epsilon_machine(n_tokens, n_states, np.random.default_rng(draw(seeds)))


# --- excess entropy

KNOWN = [
    (golden_mean(), 0.174416, 0.636514),
    (even(), 0.636514, 0.636514),
    (zero_one_random(), 1.098612, 1.098612),
    (rrxor(), 1.560710, 1.560710),
    (mr_name(0.4, 0.25), 0.493785, 1.329661),
    (parentheses(1, 0.6, 0.4), 1.291417, 1.291417),
]


@pytest.mark.parametrize(
    ("process", "known"),
    [*((process, excess) for process, excess, _ in KNOWN), (sns(0.4, 0.7), 0.096532), (mess3(), 0.395696)],
    ids=named,
)
def test_excess_entropies_have_their_known_values(process, known):
    found = excess_entropy(process)
    assert found.value == pytest.approx(known, abs=1e-6)
    assert found.lower <= found.value <= found.upper
    assert found.upper - found.lower < 1e-5


@given(processes(max_tokens=3, max_states=3), st.integers(1, 3))
def test_bounds_on_the_excess_entropy_hold_it_and_tighten_with_depth(process, depth):
    shallow, deep = (excess_entropy(process, depth=d) for d in (depth, depth + 2))
    assert shallow.lower - 1e-9 <= deep.lower <= deep.value <= deep.upper <= shallow.upper + 1e-9


def test_bounds_hold_the_excess_entropy_of_a_process_without_crypticity():
    exact = statistical_complexity(parentheses())
    for depth in (2, 5, 9):
        found = excess_entropy(parentheses(), depth=depth)
        assert found.lower < exact < found.upper + 1e-12


@given(machines())
def test_two_halves_of_a_word_share_less_than_all_past_and_future_and_that_less_than_is_remembered(machine):
    block = block_entropies(machine, 8)
    found = excess_entropy(machine, depth=8)
    assert found.upper >= 2 * block[3] - block[7] - 1e-9
    assert found.lower <= statistical_complexity(machine) + 1e-8


@pytest.mark.parametrize("process", [golden_mean(), even(0.3), zero_one_random(0.2), mr_name(), rrxor()], ids=named)
def test_the_closed_forms_are_the_sums_they_stand_for(process):
    gains = myopic_entropies(process, 400) - process.entropy_rate().value
    assert excess_entropy(process).value == pytest.approx(gains.sum(), abs=1e-8)
    assert transient_information(process) == pytest.approx(np.arange(1, 401) @ gains, abs=1e-6)


def test_excess_entropy_does_not_depend_on_coordinates():
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    signed = Process(turn.T @ rrxor().transition @ turn)
    assert signed.is_generalized
    assert excess_entropy(signed).upper == pytest.approx(excess_entropy(rrxor()).value, abs=1e-9)
    assert statistical_complexity(signed) == pytest.approx(statistical_complexity(rrxor()), abs=1e-9)
    third = Process(turn[:3, :3] @ mess3().transition @ np.linalg.inv(turn[:3, :3]))
    assert third.is_generalized
    assert excess_entropy(third, depth=6).lower == pytest.approx(excess_entropy(mess3(), depth=6).lower, abs=1e-9)


@pytest.mark.parametrize("process", [bloch_walk(1, 3), frdn(), moon()], ids=named)
def test_the_excess_entropy_of_a_generalized_process_is_bounded_from_below_only(process):
    shallow, deep = excess_entropy(process, depth=3), excess_entropy(process, depth=6)
    assert 0 < shallow.lower <= deep.lower == deep.value
    assert deep.upper == np.inf


def test_the_excess_entropy_of_frdn_settles():
    found = excess_entropy(frdn())
    assert found.value == pytest.approx(excess_entropy(frdn(), depth=60).value, abs=1e-7)


def test_a_mixture_shares_which_component_it_is():
    mixed = mixture([coin(1.0), coin(0.0)], [0.25, 0.75])
    assert excess_entropy(mixed).value == pytest.approx(entr([0.25, 0.75]).sum(), abs=1e-12)
    assert statistical_complexity(mixed) == pytest.approx(entr([0.25, 0.75]).sum(), abs=1e-12)


def test_where_it_was_told_to_begin_does_not_change_what_a_process_shares():
    told = begun_from(rrxor(), np.eye(5)[0])
    assert excess_entropy(told).value == pytest.approx(1.560710, abs=1e-6)
    assert transient_information(told) == pytest.approx(transient_information(rrxor()), abs=1e-9)


def test_a_process_of_order_one_has_as_much_transient_information_as_excess_entropy():
    assert transient_information(golden_mean(0.3)) == pytest.approx(excess_entropy(golden_mean(0.3)).value, abs=1e-12)


# --- statistical complexity


@pytest.mark.parametrize(("process", "excess", "complexity"), KNOWN, ids=named)
def test_statistical_complexities_have_their_known_values(process, excess, complexity):
    assert statistical_complexity(process) == pytest.approx(complexity, abs=6e-7)
    assert crypticity(process) == pytest.approx(complexity - excess, abs=2e-6)


@pytest.mark.parametrize(
    "process", [mess3(), sns(), sns(0.4, 0.7), leaky_rrxor(), bloch_walk(), frdn(), moon()], ids=named
)
def test_no_finite_presentation_means_no_statistical_complexity(process):
    with pytest.raises(ValueError, match=f"no finite unifilar presentation of '{process.name}' is found"):
        statistical_complexity(process)


@given(machines())
def test_the_epsilon_machine_of_doubled_states_is_that_of_the_process(machine):
    """Each state in two copies, drawn at random at every step: neither minimal nor unifilar."""
    doubled = Process(np.kron(machine.transition, np.full((2, 2), 0.5)))
    found = epsilon_machine(doubled)
    assert found.n_states == machine.n_states
    assert statistical_complexity(doubled) == pytest.approx(statistical_complexity(machine), abs=1e-9)
    words, probability = every_word(machine, 5)
    np.testing.assert_allclose(np.exp(found.log_likelihood(words).sum(1)), probability, rtol=0, atol=1e-10)


@given(machines())
def test_an_epsilon_machine_is_unifilar_and_its_states_differ_in_their_future(machine):
    found = epsilon_machine(machine)
    assert ((found.transition > 0).sum(2) <= 1).all()
    futures = np.eye(found.n_states) @ future_basis(found)
    distance = np.abs(futures[:, None] - futures).max(-1) + np.eye(found.n_states)
    assert distance.min() > 1e-9


def test_days_of_week_needs_21_causal_states():
    """Seven days, seven shifts of "some weekday", seven of "some weekend day": all closed by name."""
    assert epsilon_machine(days_of_week()).n_states == 21


def test_a_unifilar_process_that_never_surely_synchronises_still_has_its_complexity():
    assert epsilon_machine(parentheses()).n_states == 4


# --- Markov order


@pytest.mark.parametrize(
    ("process", "order"),
    [
        (coin(), 0),
        (golden_mean(), 1),
        (mr_name(), 1),
        (zero_one_random(), 3),
        (zero_one_random(1.0), 2),
        (even(), np.inf),
        (rrxor(), np.inf),
        (parentheses(), np.inf),
    ],
    ids=named,
)
def test_markov_orders_have_their_known_values(process, order):
    assert markov_order(process) == order


@given(machines())
def test_the_markov_order_is_where_the_myopic_entropy_reaches_the_rate(machine):
    order = markov_order(machine)
    rate = machine.stationary @ entr(machine.next_token(np.eye(machine.n_states))).sum(1)
    gains = myopic_entropies(machine, 8) - rate
    if order < 8:
        assert gains[int(order)] == pytest.approx(0, abs=1e-9)
    if order > 0:
        assert gains[: int(min(order, 8))].min() > 1e-13


@given(machines(), st.integers(1, 2))
def test_the_markov_approximation_of_order_k_has_order_k_at_most(machine, k):
    assert markov_order(markov(machine, k)) <= k


# --- beliefs by length


@given(processes(max_tokens=3, max_states=3))
def test_belief_entropies_are_means_over_the_tree(process):
    levels = belief_tree(process, 4).levels
    expected = [level.probability @ entr(level.beliefs.clip(0)).sum(1) for level in levels]
    np.testing.assert_allclose(belief_entropies(process, 4), expected, rtol=0, atol=1e-7)


def test_rrxor_has_not_synchronised_after_ten_tokens():
    found = belief_entropies(rrxor(), 10)
    assert found[0] == pytest.approx(1.561, abs=5e-4)
    assert found[10] == pytest.approx(0.210, abs=5e-4)


# --- ranks


@pytest.mark.parametrize(
    ("process", "ranks"),
    [
        (mess3(), [3, 3, 3]),
        (even(), [2, 2, 2]),
        (golden_mean(), [2, 2, 2]),
        (sns(), [2, 2, 2]),
        (mr_name(), [4, 4, 4]),
        (days_of_week(), [7, 7, 7]),
        (bloch_walk(), [3, 3, 3]),
        (moon(), [3, 3, 3]),
        (rrxor(), [2, 3, 5]),
        (leaky_rrxor(), [2, 3, 5]),
        (zero_one_random(), [2, 3, 3]),
        (parentheses(1, 0.6, 0.4), [2, 4, 4]),
        (frdn(), [2, 3, 4]),
        (coin(), [1, 1, 1]),
    ],
    ids=named,
)
def test_future_ranks_have_their_known_values(process, ranks):
    assert [future_rank(process, horizon) for horizon in (1, 2, None)] == ranks


@given(processes(max_tokens=3), st.integers(0, 3))
def test_a_basis_of_the_future_spans_what_words_of_its_length_tell(process, horizon):
    told = process.functional[:, None]
    for _ in range(horizon):
        told = np.moveaxis(process.transition @ told, 0, 1).reshape(process.n_states, -1)
    basis = future_basis(process, horizon)
    np.testing.assert_allclose(basis @ (basis.T @ told), told, rtol=0, atol=1e-7)
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), rtol=0, atol=1e-9)
    assert basis.shape[1] == np.linalg.matrix_rank(told, tol=1e-9 * np.linalg.norm(told)) or process.n_states > 1


# --- degeneracies


@pytest.mark.parametrize("process", [rrxor(), zero_one_random(0.3), parentheses(), leaky_rrxor()], ids=named)
def test_degenerate_pairs_agree_on_fewer_tokens_than_their_horizon_and_part_there(process):
    found = degeneracies(process, max_states=60)
    assert len(found) > 0
    for (one, other), horizon in zip(found.pairs, found.horizon, strict=True):
        beliefs = found.beliefs[[one, other]]
        assert np.abs(beliefs[0] - beliefs[1]).max() > 1e-6
        futures = beliefs
        for length in range(1, horizon + 1):
            futures = np.einsum("...s,xsr->...xr", futures, process.transition)
            law = futures @ process.functional
            apart = np.abs(law[0] - law[1]).max() > 1e-9
            assert apart == (length == horizon)


def test_a_full_rank_process_has_no_degenerate_pair():
    for process in (mess3(), bloch_walk(), mr_name(), sns(0.4, 0.7)):
        assert len(degeneracies(process, max_states=200)) == 0


def test_rrxor_hides_three_horizons_behind_its_next_token():
    found = degeneracies(rrxor())
    law = rrxor().next_token(found.beliefs)
    alike = np.abs(law[:, None] - law).max(-1) < 1e-9
    assert len(found) == np.triu(alike, 1).sum() == 75
    assert sorted(set(found.horizon.tolist())) == [2, 3]
    assert found.closed


def test_beliefs_that_no_future_tells_apart_have_horizon_zero():
    """Two copies of the same coin, of which one does not know which is tossed until it is too late."""
    twins = Process(np.array([[[0.5, 0], [0, 0.5]], [[0.25, 0.25], [0, 0.5]]]), initial=np.array([0.5, 0.5]))
    found = degeneracies(twins, max_states=20)
    assert len(found) > 0
    assert (found.horizon == 0).all()


# --- refusals


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: excess_entropy(mess3(), depth=0), "depth=0 must be at least 1"),
        (
            lambda: transient_information(mess3()),
            "no finite mixed states of 'mess3' are found; its transient is not summed",
        ),
        (lambda: markov_order(mess3()), "no finite unifilar presentation of 'mess3'"),
        (lambda: belief_entropies(mess3(), -1), "length=-1 must be at least 0"),
        (lambda: belief_entropies(bloch_walk(), 3), "beliefs of the generalized 'bloch_walk' are coordinates"),
        (lambda: future_rank(mess3(), -1), "horizon=-1 must be at least 0"),
        (lambda: degeneracies(mess3(), tolerance=0.0), "tolerance=0.0 must be at least"),
        (lambda: degeneracies(mess3(), max_states=0), "max_states=0 must be at least 1"),
    ],
)
def test_a_refusal_names_the_argument(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
