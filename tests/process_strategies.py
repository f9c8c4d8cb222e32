"""Random processes, for laws that must hold for all of them, and named signed ones."""

from __future__ import annotations

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from nextlens.models.processes import Process


@st.composite
def processes(draw, max_tokens: int = 4, max_states: int = 5) -> Process:
    """Irreducible hidden Markov processes: forbidden tokens, periods, one state and one token occur."""
    n_tokens, n_states = draw(st.integers(1, max_tokens)), draw(st.integers(1, max_states))
    forbidden = draw(st.sampled_from([0.0, 0.4, 0.8, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Process(random_transition(n_tokens, n_states, forbidden, rng), name="random")


def random_transition(n_tokens: int, n_states: int, forbidden: float, rng: np.random.Generator) -> np.ndarray:
    """Random weights, about a share ``forbidden`` of them 0; a cycle through all states always stays."""
    weight = rng.exponential(size=(n_tokens, n_states, n_states))
    kept = rng.random(weight.shape) >= forbidden
    state = np.arange(n_states)
    kept[rng.integers(n_tokens, size=n_states), state, (state + 1) % n_states] = True
    weight *= kept
    return weight / weight.sum(axis=(0, 2))[:, None]


@st.composite
def disguises(draw, max_tokens: int = 3, max_states: int = 4) -> tuple[Process, Process]:
    """A hidden Markov process, and the same in turned coordinates: signed weights, equal words."""
    process = draw(processes(max_tokens, max_states))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    turn = np.linalg.qr(rng.normal(size=(process.n_states,) * 2))[0]
    turned = turn.T @ process.transition @ turn
    assume((turned < -1e-6).any() and abs(turn[:, 0].sum()) > 0.1)
    return process, Process(turned, name="disguised")


def bloch_walk(alpha: float = 1.0, beta: float = 51**0.5) -> Process:
    """A measured qubit whose beliefs, (1, b_x, b_z), walk in a disc."""
    s = alpha**2 + beta**2
    m, k = 2 * alpha * beta / s, (alpha**2 - beta**2) / s
    transition = [
        matrix
        for sign in (m, -m)
        for matrix in (
            [[1, 0, sign], [0, k, 0], [sign, 0, 1]],
            [[1, sign, 0], [sign, 1, 0], [0, 0, k]],
        )
    ]
    return Process(np.array(transition) / 4, name="bloch_walk")


def frdn(alpha: float = 2000.0, decay: float = 0.49) -> Process:
    """A renewal process with no finite hidden Markov form."""
    c, s = np.cos(alpha), np.sin(alpha)
    scale = 1 - 2 * decay * c + decay**2
    a, b = (1 - decay * c + decay * s) / scale, (1 - decay * c - decay * s) / scale
    reset = np.array([1 - (2 / (1 - decay) - a - b) / 4, 1 / (2 * (1 - decay)), -a / 4, -b / 4])
    go_on = np.zeros((4, 4))
    go_on[1, 1] = decay
    go_on[2:, 2:] = decay * np.array([[c, -s], [s, c]])
    return Process(np.stack([np.outer(1 - go_on.sum(1), reset), go_on]), name="frdn")


def moon(alpha: float = np.e, beta: float = 0.5) -> Process:
    """A process of three dimensions that no qubit makes either; its functional is not ones."""
    transition = np.array(
        [
            np.outer([1, 1, 0], [1, -1, -1]),
            [[alpha, 0, 0], [0, 1, 0], [0, np.log(alpha), 1]],
            [[beta, 0, 0], [0, 1, 0], [0, np.log(beta), 1]],
        ]
    )
    return Process(transition / np.linalg.eigvals(transition.sum(0)).real.max(), name="moon")
