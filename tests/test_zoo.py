from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextlens.models.processes import (
    PROCESSES,
    Process,
    bloch_walk,
    bloch_walk_from_angle,
    coin,
    days_of_week,
    even,
    frdn,
    from_kraus,
    golden_mean,
    leaky_rrxor,
    mess,
    mess3,
    moon,
    mr_name,
    nested_parentheses,
    parentheses,
    process_by_name,
    random_epsilon_machine,
    random_process,
    rrxor,
    sns,
    zero_one_random,
)
from nextlens.models.processes.gauge import generalized_gauge
from nextlens.models.processes.information import epsilon_machine
from nextlens.models.processes.mixed_states import every_word
from nextlens.models.processes.phrases import DAYS, WORDS

#: Every process, and some at other parameters. A new one joins the laws by its line in ``PROCESSES``.
EVERY = [
    *(builder() for builder in PROCESSES.values()),
    *(mess(2, 0.7, 0.2), mess(5, 0.4, 0.1), rrxor(0.3, 0.8), zero_one_random(0.2), leaky_rrxor(0.3, 0.7, 0.01)),
    *(sns(0.4, 0.7), mr_name(0.1, 0.9), nested_parentheses([1, 0.2]), nested_parentheses([1, 0.5, 0.5, 0.5])),
    *(bloch_walk(1, 3), bloch_walk_from_angle(1.1, 0.3), frdn(1.0, 0.5), moon(1.5, 0.3)),
]
every = pytest.mark.parametrize("process", EVERY, ids=lambda process: repr(process)[9:].partition(":")[0])
unit = st.floats(0.01, 0.99)


def by_hidden_paths(process: Process, length: int) -> np.ndarray:
    """P(x_1, .., x_length, last state): every path of hidden states listed, then summed."""
    joint = process.initial
    for _ in range(length):
        joint = np.einsum("...s,xsr->...sxr", joint, process.transition)
    return joint.sum(axis=tuple(range(0, 2 * length, 2)))


def by_words(process: Process, length: int) -> np.ndarray:
    """P(x_1, .., x_length), one word after another."""
    probability = np.empty((process.n_tokens,) * length)
    for word in np.ndindex(*probability.shape):
        vector = process.initial
        for token in word:
            vector = vector @ process.transition[token]
        probability[word] = vector @ process.functional
    return probability


def possible_words(probability: np.ndarray) -> np.ndarray:
    return np.argwhere(probability > 1e-12)


# --- laws for every process


@every
def test_words_beliefs_and_next_tokens_agree_with_enumeration(process):
    length = 3
    if process.is_generalized:
        probability = by_words(process, length)
    else:
        joint = by_hidden_paths(process, length)
        probability = joint.sum(-1)
    words = possible_words(probability)
    place = tuple(words.T)
    beliefs = process.beliefs(words)
    np.testing.assert_allclose(np.exp(process.log_likelihood(words).sum(1)), probability[place], rtol=0, atol=1e-12)
    np.testing.assert_allclose(process.opening, probability.sum((1, 2)), rtol=0, atol=1e-12)
    for read in range(1, length):
        before = probability.sum(tuple(range(read, length)))
        law = probability.sum(tuple(range(read + 1, length))) / np.where(before > 0, before, 1)[..., None]
        np.testing.assert_allclose(process.next_token(beliefs[:, read - 1]), law[place[:read]], rtol=0, atol=1e-12)
    if not process.is_generalized:
        expected = joint[place] / probability[place][:, None]
        np.testing.assert_allclose(beliefs[:, -1], expected, rtol=0, atol=1e-12)


@every
def test_every_process_begins_from_a_law_that_shifting_time_leaves_alone(process):
    probability = by_words(process, 3)
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(probability.sum(0), probability.sum(-1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(process.stationary @ process.transition.sum(0), process.stationary, rtol=0, atol=1e-12)


@every
def test_one_gauge_holds_for_all(process):
    functional = process.functional
    assert functional @ process.stationary == pytest.approx(1, abs=1e-12)
    assert functional[np.flatnonzero(np.abs(functional) > 1e-9)[0]] == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(process.transition.sum(0) @ functional, functional, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_name_and_parameters_make_the_process_again(name):
    process = PROCESSES[name]()
    assert process.name == name
    again = process_by_name(name, **{key: float(value) for key, value in process.parameters.items()})
    np.testing.assert_array_equal(again.transition, process.transition)


# --- the table: vectors and entropy rates


@given(unit, unit)
def test_stationary_laws_have_their_closed_forms(p, q):
    q = min(q, 1 - p)
    for process, weights in (
        (golden_mean(p), (1, p)),
        (even(p), (1, p)),
        (sns(p, q), (q, p)),
        (zero_one_random(p), (1, 1, 1)),
        (rrxor(p, q), (1, p, 1 - p, p * (1 - q) + (1 - p) * q, p * q + (1 - p) * (1 - q))),
        (mr_name(p, q), (2 * q, 1, 1, 2 * q)),
        (mess(5, p, q / 4), (1, 1, 1, 1, 1)),
    ):
        np.testing.assert_allclose(process.stationary, np.array(weights) / np.sum(weights), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("process", "stationary", "functional"),
    [
        (bloch_walk(), [1, 0, 0], [1, 0, 0]),
        (frdn(), [0.186758, 0.924508, -0.106133, -0.005132], [1, 1, 1, 1]),
        (moon(), [1.174763, -0.457859, -0.392065], [1, 0.333739, 0.056006]),
        (days_of_week(), [0.1429, 0.1366, 0.1345, 0.1338, 0.1350, 0.1558, 0.1614], [1] * 7),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_vectors_have_their_printed_digits(process, stationary, functional):
    digits = 4 if process.name == "days_of_week" else 6
    np.testing.assert_array_equal(process.stationary.round(digits), stationary)
    np.testing.assert_array_equal(np.abs(process.functional.round(6)), functional)


@pytest.mark.parametrize(
    ("process", "rate"),
    [
        (mess3(), 0.793458),
        (mess3(0.6, 0.15), 1.088888),
        (mess3(0.6, 0.5), 1.090286),
        (mess3(0.2, 0.15), 1.097925),
        (rrxor(), 0.462098),
        (rrxor(0.3, 0.7), 0.407243),
        (zero_one_random(), 0.231049),
        (zero_one_random(0.3), 0.203621),
        (even(), 0.462098),
        (golden_mean(), 0.462098),
        (sns(0.4, 0.7), 0.474888),
        (coin(0.3), 0.610864),
        (mr_name(0.4, 0.25), 0.835876),
        (parentheses(1, 0.6, 0.4), 0.480723),
        (days_of_week(), 2.193174),
    ],
    ids=repr,
)
def test_entropy_rates_have_their_known_values(process, rate):
    found = process.entropy_rate()
    assert found.value == pytest.approx(rate, abs=6e-7)
    assert found.lower <= found.value <= found.upper


def test_the_entropy_rate_of_leaky_rrxor_lies_where_it_is_known_to():
    found = leaky_rrxor().entropy_rate(depth=14)
    assert found.lower < 0.641793
    assert found.upper > 0.641052
    assert found.upper - found.lower < 3e-3


@pytest.mark.parametrize(
    ("process", "rate"),
    [
        (bloch_walk(), 1.36725),
        (bloch_walk(1, 4.3), 1.33634),
        (bloch_walk(1, 3), 1.29157),
        (frdn(), 0.6448),
        (moon(), 0.6992),
    ],
    ids=repr,
)
def test_sampled_rates_of_generalized_processes_have_their_known_values(process, rate):
    found = process.entropy_rate()
    assert found.upper - found.lower < 1e-3
    assert abs(found.value - rate) < 1.5 * (found.upper - found.lower) + 1e-4


# --- one process after another


def test_mess_of_three_states_is_mess3():
    np.testing.assert_allclose(mess(3, 0.6, 0.15).transition, mess3(0.6, 0.15).transition, rtol=0, atol=1e-15)


def test_mess_moves_and_then_says():
    transition = mess(4, 0.7, 0.1).transition
    assert transition[0, 0, 0] == pytest.approx(0.7 * 0.7)
    assert transition[2, 0, 2] == pytest.approx(0.1 * 0.7)
    assert transition[2, 0, 1] == pytest.approx(0.1 * 0.1)


def test_days_of_week_divides_rows_and_not_columns():
    """Each day leads to the weekend by its token with 1/15; dividing columns made it 0.0600."""
    process = days_of_week()
    np.testing.assert_allclose(process.transition[DAYS.index("weekend")].sum(1), 1 / 15, rtol=0, atol=1e-15)
    np.testing.assert_allclose(process.transition.sum((0, 2)), 1, rtol=0, atol=1e-15)
    sunday, monday = DAYS.index("Sunday"), DAYS.index("Monday")
    assert process.transition[monday, sunday, monday] == pytest.approx(5 / 15)
    assert process.transition[DAYS.index("yesterday"), monday, sunday] == pytest.approx(1 / 15)


def test_mr_is_followed_by_a_name_and_a_name_by_one_of_two_words():
    process = mr_name(0.3, 0.2)
    said = process.next_token(process.beliefs([[WORDS.index("Mr")], [WORDS.index("name")], [WORDS.index("Blah")]]))
    np.testing.assert_allclose(said[:, 0], [[0, 0, 0, 1], [0, 0.5, 0.5, 0], [0.2, 0.3, 0.5, 0]], rtol=0, atol=1e-12)


def test_parentheses_never_close_what_is_not_open_nor_nest_deeper_than_three():
    tokens = parentheses().sample(50, 60, np.random.default_rng(0))
    depth = np.cumsum(1 - 2 * tokens, axis=1)
    assert (depth.max(1) - np.minimum(depth.min(1), 0)).max() == 3


def test_bloch_walk_reads_z_with_its_first_two_tokens_and_x_with_the_others():
    m, k = 0.6, -0.8
    for transition, share in (
        (bloch_walk(1, 3).transition, 0.5),
        (bloch_walk_from_angle(np.arccos(k), 0.3).transition, 0.3),
    ):
        np.testing.assert_allclose(transition[1], share / 2 * np.array([[1, 0, -m], [0, k, 0], [-m, 0, 1]]), atol=1e-12)
        np.testing.assert_allclose(
            transition[2], (1 - share) / 2 * np.array([[1, m, 0], [m, 1, 0], [0, 0, k]]), atol=1e-12
        )


def test_bloch_walk_is_its_angle():
    angle = bloch_walk_from_angle(2 * np.arctan2(51**0.5, 1))
    np.testing.assert_allclose(angle.transition, bloch_walk().transition, rtol=0, atol=1e-15)


@given(unit, unit)
def test_bloch_walk_is_the_record_of_its_measurements(alpha, beta):
    x, z = np.array([[0, 1], [1, 0]]), np.diag([1, -1])
    scale = 1 / (2 * np.hypot(alpha, beta))
    operators = [scale * (alpha * np.eye(2) + sign * beta * axis) for axis in (z, x) for sign in (1, -1)]
    measured = from_kraus(operators)
    np.testing.assert_allclose(by_words(measured, 3), by_words(bloch_walk(alpha, beta), 3), rtol=0, atol=1e-12)


@given(st.integers(2, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_kraus_operators_give_each_record_its_trace(levels, n_outcomes, each, seed):
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(2, n_outcomes * each * levels, levels))
    isometry = np.linalg.qr(drawn[0] + 1j * drawn[1])[0]
    operators = isometry.reshape(n_outcomes, each, levels, levels)
    pure = rng.normal(size=(2, levels)).T @ [1, 1j]
    start = np.outer(pure, pure.conj()) / np.linalg.norm(pure) ** 2
    process = from_kraus(list(operators), initial=start)
    for word in product(range(n_outcomes), repeat=3):
        density = start
        for token in word:
            density = sum(K @ density @ K.conj().T for K in operators[token])
        vector = process.initial
        for token in word:
            vector = vector @ process.transition[token]
        assert vector @ process.functional == pytest.approx(np.trace(density).real, abs=1e-12)


def test_a_channel_without_memory_of_its_state_still_has_its_own_functional():
    """No weight is below 0 here, and rows do not sum to 1: it is the functional that says what they mean."""
    sigma = [np.eye(2), np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1])]
    process = from_kraus([np.sqrt(np.array([0.7, 0.1, 0.1, 0.1]))[:, None, None] * np.array(sigma)])
    assert process.is_generalized
    assert (process.transition >= 0).all()
    np.testing.assert_allclose(process.stationary, [1, 0, 0, 0], rtol=0, atol=1e-12)
    assert process.opening.tolist() == [1]


@given(st.floats(0.1, 3000), st.floats(0.01, 0.5))
def test_frdn_goes_on_as_its_renewal_formula_says(alpha, lambda_):
    process = frdn(alpha, lambda_)
    scale = 1 - 2 * lambda_ * np.cos(alpha) + lambda_**2
    a = (1 - lambda_ * np.cos(alpha) + lambda_ * np.sin(alpha)) / scale
    b = (1 - lambda_ * np.cos(alpha) - lambda_ * np.sin(alpha)) / scale
    vector = process.beliefs([[0]])[0, 0]
    for n in range(1, 12):
        vector = vector @ process.transition[1]
        wave = (a + b) * np.cos(n * alpha) + (b - a) * np.sin(n * alpha)
        assert vector.sum() == pytest.approx(lambda_**n * (1 / (2 * (1 - lambda_)) - wave / 4), abs=1e-10)


def test_moon_begins_anew_with_what_the_product_of_its_weights_says():
    process, radius = moon(), 3.828537
    vector = process.beliefs([[0]])[0, 0] @ process.transition[1] @ process.transition[2] @ process.transition[1]
    weight = np.e**2 * 0.5
    expected = (weight - 1 - np.log(weight)) / radius**4
    assert vector @ process.transition[0] @ process.functional == pytest.approx(expected, abs=1e-6)


# --- random machines


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32 - 1), st.booleans())
def test_random_processes_repeat_with_their_generator(n_tokens, n_states, seed, unifilar):
    one, two = (random_process(n_tokens, n_states, np.random.default_rng(seed), unifilar=unifilar) for _ in range(2))
    np.testing.assert_array_equal(one.transition, two.transition)
    assert one.transition.shape == (n_tokens, n_states, n_states)
    successors = (one.transition > 0).sum(2)
    assert (successors == (1 if unifilar else n_states)).all()
    assert one.stationary.min() > 0


@given(st.integers(2, 3), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_random_epsilon_machines_are_minimal_and_say_their_own_words(n_tokens, n_states, seed):
    machine = random_epsilon_machine(n_tokens, n_states, np.random.default_rng(seed))
    assert ((machine.transition > 0).sum(2) <= 1).all()
    assert epsilon_machine(machine).n_states == n_states
    words, probability = every_word(machine, 4)
    np.testing.assert_allclose(np.exp(epsilon_machine(machine).log_likelihood(words).sum(1)), probability, atol=1e-12)


# --- refusals


HALF = np.sqrt(0.5) * np.eye(2)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: coin(1.1), "p=1.1 must lie between 0 and 1"),
        (lambda: sns(0.5, -0.1), "q=-0.1 must lie between 0 and 1"),
        (lambda: sns(0.0, 0.0), "'sns' is reducible"),
        (lambda: mess(1, 0.5, 0.1), "n_states=1 must be at least 2"),
        (lambda: mess(3.5, 0.5, 0.1), "n_states=3.5 must be a whole number"),
        (lambda: mess(5, 0.5, 0.26), "x=0.26 must lie between 0 and 0.25"),
        (lambda: mess(5, 1.5, 0.2), "alpha=1.5 must lie between 0 and 1"),
        (lambda: leaky_rrxor(epsilon=-0.1), "epsilon=-0.1 must lie between 0 and 1"),
        (lambda: mr_name(0.7, 0.4), re.escape("p + q=1.1 must lie between 0 and 1")),
        (lambda: parentheses(0.9), re.escape("opening=(0.9, 0.6, 0.4) must begin with 1")),
        (lambda: parentheses(1.0, 1.2), "open_1=1.2 must lie between 0 and 1"),
        (lambda: nested_parentheses([]), re.escape("opening=() must begin with 1")),
        (lambda: bloch_walk(0.0, 1.0), "alpha=0.0 must be above 0 and finite"),
        (lambda: bloch_walk(1.0, float("nan")), "beta=nan must be above 0 and finite"),
        (lambda: bloch_walk_from_angle(4.0), "theta=4.0 must lie between 0 and 3.14"),
        (lambda: bloch_walk_from_angle(1.0, 1.0), "eigenvalue 1 of .* occurs 2 times"),
        (lambda: frdn(2000.0, 0.6), "lambda_=0.6 must lie between 0 and 0.5"),
        (lambda: frdn(float("inf")), "alpha=inf must lie between"),
        (lambda: moon(0.9), "alpha=0.9 must be above 1"),
        (lambda: moon(2.0, 1.0), "beta=1.0 must lie between 0 and 1, ends excluded"),
        (lambda: moon(1.5, 0.5), "alpha=1.5 and beta=0.5 sum to 2"),
        (lambda: moon(8.0, 0.25), "is -3/2; it must not be a fraction"),
        (lambda: from_kraus([]), re.escape("operators have shapes []")),
        (lambda: from_kraus([np.ones((2, 3))]), re.escape("operators have shapes [(2, 3)]")),
        (lambda: from_kraus([np.eye(2), np.eye(2)]), "off by 1"),
        (lambda: from_kraus([np.full((2, 2), np.nan)]), "off by nan"),
        (lambda: from_kraus([HALF, HALF]), "eigenvalue 1 of .* occurs 4 times"),
        (lambda: from_kraus([HALF, HALF], initial=np.diag([1.5, -0.5])), "initial must be a density matrix"),
        (lambda: from_kraus([HALF, HALF], initial=np.eye(2)), "initial has total probability 2"),
        (lambda: from_kraus([HALF, HALF], initial=np.eye(3) / 3), r"initial has shape \(3, 3\); it must be \(2, 2\)"),
        (lambda: random_process(0, 2, np.random.default_rng(0)), "n_tokens=0 must be at least 1"),
        (lambda: random_epsilon_machine(1, 2, np.random.default_rng(0)), "n_tokens=1 must be at least 2"),
    ],
)
def test_a_refusal_names_the_parameter(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_a_qubit_read_more_sharply_than_can_be_says_a_word_of_negative_probability():
    too_sharp = bloch_walk(1, 1).transition.copy()
    too_sharp[:, 0, 1:] *= 1.2
    too_sharp[:, 1:, 0] *= 1.2
    with pytest.raises(ValueError, match=r"'too sharp' gives the word \[0, 1\] probability -0\.0275"):
        Process(too_sharp, name="too sharp")


@pytest.mark.parametrize(
    ("functional", "message"),
    [
        ([1.0, 0.0], r"functional has shape \(2,\); it must be \(3,\)"),
        ([1.0, 1.0, 0.0], "functional must be a fixed vector"),
        ([0.0, 0.0, 0.0], "functional must be a fixed vector"),
        ([np.nan, 0.0, 0.0], "functional must be a fixed vector"),
    ],
)
def test_a_functional_that_is_none_is_refused(functional, message):
    with pytest.raises(ValueError, match=message):
        generalized_gauge("odd", bloch_walk().transition.sum(0), None, functional)


@pytest.mark.parametrize("process", [mess3(), mess3(0.6, 0.15), rrxor()], ids=str)
def test_the_hidden_state_is_no_function_of_the_last_token(process):
    """Were it one, belief geometry would be a table of tokens: beliefs differ among words that end alike."""
    words, _ = every_word(process, 5)
    beliefs = process.beliefs(words)[:, -1]
    for token in range(process.n_tokens):
        assert np.ptp(beliefs[words[:, -1] == token], axis=0).max() > 0.1
