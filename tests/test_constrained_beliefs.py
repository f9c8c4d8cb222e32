"""Beliefs by addition: the sum itself, its modes, what attention must do, and a reading that can tell it from the belief."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nextlens.models.processes import Process, coin, frdn, golden_mean, mess3, mixture, rrxor, with_beginning_token
from nextlens.models.processes.constrained import (
    attention_decay,
    constrained_beliefs,
    decay_modes,
    displacements,
    embedding_coefficients,
    heads_needed,
    value_coefficients,
)
from tests.process_strategies import bloch_walk, disguises, moon, processes

signed = pytest.mark.parametrize("process", [bloch_walk(), frdn(), moon()], ids=lambda process: process.name)


def says_all(process: Process) -> bool:
    return (process.stationary @ process.transition @ process.functional > 1e-6).all()


def the_sum(process: Process, word: np.ndarray) -> np.ndarray:
    """Equation 5, term by term, with a power of the chain for each."""
    p, chain = process.stationary, process.transition.sum(0)
    total = p.copy()
    for s, token in enumerate(word):
        joint = p @ process.transition[token]
        total += (joint / (joint @ process.functional) - p) @ np.linalg.matrix_power(chain, len(word) - 1 - s)
    return total


def agrees_with_the_sum(process: Process) -> None:
    words = np.random.default_rng(0).integers(process.n_tokens, size=(4, 7))
    found = constrained_beliefs(process, words)
    for b, word in enumerate(words):
        for t in range(len(word)):
            np.testing.assert_allclose(found[b, t], the_sum(process, word[: t + 1]), atol=1e-12)
    np.testing.assert_allclose(found @ process.functional, 1, atol=1e-9)


@given(processes())
def test_the_recursion_is_the_sum_over_tokens(process):
    assume(says_all(process))
    agrees_with_the_sum(process)


@signed
def test_the_recursion_is_the_sum_for_generalized_processes(process):
    agrees_with_the_sum(process)


@given(processes())
def test_after_one_token_it_is_the_belief(process):
    assume(says_all(process))
    each = np.arange(process.n_tokens)[:, None]
    np.testing.assert_allclose(
        constrained_beliefs(process, each), process.beliefs(each, process.stationary), atol=1e-12
    )


@given(disguises())
def test_it_turns_with_the_coordinates(pair):
    """Words have no coordinates, so what is said of the next token cannot depend on them."""
    process, disguised = pair
    assume(says_all(process))
    words = np.random.default_rng(0).integers(process.n_tokens, size=(3, 5))
    laws = [constrained_beliefs(one, words) @ (one.transition @ one.functional).T for one in (process, disguised)]
    np.testing.assert_allclose(*laws, atol=1e-7)


@given(processes(), st.integers(1, 4))
def test_on_average_over_words_it_is_the_stationary_law(process, length):
    assume(says_all(process))
    words = np.stack(np.meshgrid(*[np.arange(process.n_tokens)] * length, indexing="ij"), -1).reshape(-1, length)
    joint = np.broadcast_to(process.stationary, (len(words), process.n_states))
    for token in words.T:
        joint = (joint[:, None] @ process.transition[token])[:, 0]
    mean = joint.sum(1) @ constrained_beliefs(process, words)[:, -1]
    np.testing.assert_allclose(mean, process.stationary, atol=1e-10)


@pytest.mark.parametrize(
    ("x", "a", "ratio"),
    [(0.15, 0.6, 0.7091), (0.15, 0.2, 0.7484), (0.5, 0.6, 0.6250), (0.5, 0.2, 0.8333), (0.05, 0.85, 0.4758)],
)
def test_for_mess3_the_forms_differ_by_one_number(x, a, ratio):
    process = mess3(a, x)
    np.testing.assert_allclose(
        displacements(process, form="rows"), ratio * displacements(process), rtol=1e-4, atol=1e-12
    )


def test_where_tokens_agree_it_leaves_the_simplex():
    words = np.array(np.meshgrid(*[range(3)] * 8)).reshape(8, -1).T
    by_rows = constrained_beliefs(mess3(), words, form="rows")
    assert (by_rows.min().round(2), by_rows.max().round(2)) == (-0.26, 1.53)


def test_a_row_that_says_nothing_is_refused_by_its_state():
    with pytest.raises(ValueError, match=r"0/0 for 'rrxor': state 3 never says token 0; use form='bayes'"):
        constrained_beliefs(rrxor(), [[0, 1]], form="rows")
    assert np.isfinite(constrained_beliefs(rrxor(), [[0, 1]])).all()


def test_what_cannot_be_divided_is_refused_by_name():
    with pytest.raises(ValueError, match="'bloch_walk' has signed weights"):
        displacements(bloch_walk(), form="rows")
    with pytest.raises(ValueError, match="never says token 3 in the long run"):
        displacements(with_beginning_token(mess3()))
    with pytest.raises(ValueError, match=r"form='bayse' is not one of 'bayes', 'rows'; did you mean 'bayes'"):
        constrained_beliefs(mess3(), [[0]], form="bayse")
    with pytest.raises(ValueError, match=r"tokens\[0, 1\] is 3"):
        constrained_beliefs(mess3(), [[0, 3]])


@given(processes())
def test_displacements_are_sums_of_powers_of_the_modes(process):
    """``v A^n`` is a combination of the n-th powers of the modes, so it obeys their recurrence."""
    assume(says_all(process))
    chain = process.transition.sum(0)
    try:
        modes = decay_modes(process)
    except ValueError:
        assume(False)
    recurrence = np.poly(modes)[::-1] if len(modes) else np.ones(1)
    v = displacements(process)
    later = sum(c * v @ np.linalg.matrix_power(chain, n + 1) for n, c in enumerate(recurrence))
    np.testing.assert_allclose(later, 0, atol=1e-5)


@pytest.mark.parametrize("x", [0.05, 0.15, 0.5])
def test_mess3_has_one_mode(x):
    np.testing.assert_allclose(decay_modes(mess3(0.6, x)), [1 - 3 * x], atol=1e-9)
    assert attention_decay(mess3(0.6, x)) == pytest.approx(1 - 3 * x)


def test_a_mixture_never_forgets_which_part_it_is():
    process = mixture([mess3(0.6, 0.15), mess3(0.3, 0.15)], [0.5, 0.5])
    assert attention_decay(process) == pytest.approx(0.55)
    assert attention_decay(mixture([coin(0.2), coin(0.7)], [0.5, 0.5])) == pytest.approx(1)


def test_how_many_heads():
    assert [heads_needed(one) for one in (mess3(), mess3(0.6, 0.5), coin(0.3), golden_mean())] == [1, 2, 0, 2]
    assert heads_needed(frdn()) == 4  # a complex pair decays slowest, then a positive mode
    with pytest.raises(ValueError, match="turn as they decay"):
        attention_decay(frdn())


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.integers(3, 8))
def test_one_head_with_these_coefficients_makes_r_1(seed, zeta, n):
    """Attention that decays by zeta, whatever it gives to the token just read, and the two coefficients."""
    rng, process = np.random.default_rng(seed), mess3(0.6, (1 - zeta) / 3)
    pattern = np.zeros((n, n))
    for s in range(n):
        pattern[s, s] = rng.uniform(0.01, 1)
        pattern[s + 1 :, s] = rng.uniform(0.1, 1) * zeta ** np.arange(n - s - 1)
    words = rng.integers(3, size=(5, n))
    v = displacements(process)[words]
    by_value = value_coefficients(pattern, zeta)[:, None] * v[:, :-1]
    by_embedding = embedding_coefficients(pattern, zeta)[:, None] * v[:, :-1]
    made = process.stationary + by_embedding + pattern[:-1, :-1] @ by_value
    np.testing.assert_allclose(made, constrained_beliefs(process, words)[:, :-1], atol=1e-10)


def test_with_softmax_the_first_embeddings_have_the_wrong_sign():
    """Rows sum to 1 and every token is looked back at with .3: less than zeta = .55, more than zeta (1 - zeta)."""
    zeta, n = 0.55, 8
    pattern = np.tril(0.3 * zeta ** (np.subtract.outer(np.arange(n), np.arange(n)) - 1.0), -1)
    pattern += np.diag(1 - pattern.sum(1))
    signs = np.sign(embedding_coefficients(pattern, zeta))
    assert signs.tolist() == [-1, -1, 1, 1, 1, 1, 1]


def test_patterns_that_cannot_be_divided_by_are_refused():
    with pytest.raises(ValueError, match=r"pattern\[2, 1\] is 0; it must be above 0"):
        value_coefficients(np.eye(3) + np.eye(3, k=-1) * [[1], [1], [0]], 0.5)
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        embedding_coefficients(np.ones((2, 3)), 0.5)
