"""Processes drawn at random, for laws and surveys."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from nextlens.models.arguments import at_least
from nextlens.models.processes.process import Process


def random_process(n_tokens: int, n_states: int, rng: np.random.Generator, *, unifilar: bool = False) -> Process:
    """Probabilities uniform over the simplex: for each state, one law over (token, next state).

    Parameters
    ----------
    n_tokens, n_states : int
        At least 1.
    rng : numpy.random.Generator
    unifilar : bool, default=False
        Whether the state and the token tell the next state, which is then drawn uniformly; one token
        of each state goes to the next in a ring, so that all states are visited for ever.
    """
    at_least("n_tokens", n_tokens, 1)
    at_least("n_states", n_states, 1)
    if unifilar:
        everything = np.ones((n_tokens, n_states), dtype=bool)
        return Process(_unifilar(everything, rng), name="random unifilar process")
    laws = rng.dirichlet(np.ones(n_tokens * n_states), size=n_states).reshape(n_states, n_tokens, n_states)
    return Process(laws.transpose(1, 0, 2), name="random process")


def random_epsilon_machine(n_tokens: int, n_states: int, rng: np.random.Generator) -> Process:
    """A unifilar process with forbidden words in which no two states have the same future.

    As ``random_process(unifilar=True)``, with each other token of a state kept with probability 1/2.
    Drawn again until its minimal presentation has ``n_states``.

    Parameters
    ----------
    n_tokens, n_states : int
        At least 1; two tokens at least for two states, as one token tells no states apart.
    rng : numpy.random.Generator
    """
    from nextlens.models.processes.information import epsilon_machine

    at_least("n_states", n_states, 1)
    at_least("n_tokens", n_tokens, 1 if n_states == 1 else 2)
    while True:
        allowed = rng.random((n_tokens, n_states)) < 0.5
        process = Process(_unifilar(allowed, rng), name="random epsilon machine")
        if epsilon_machine(process).n_states == n_states:
            return process


def _unifilar(
    allowed: Bool[np.ndarray, "token state"], rng: np.random.Generator
) -> Float[np.ndarray, "token state state"]:
    """Random probabilities where ``allowed``, and along one ring through all states."""
    n_tokens, n_states = allowed.shape
    token, state = np.indices(allowed.shape)
    successor = rng.integers(n_states, size=allowed.shape)
    ring = rng.integers(n_tokens, size=n_states), np.arange(n_states)
    allowed[ring], successor[ring] = True, (ring[1] + 1) % n_states
    weight = rng.exponential(size=allowed.shape) * allowed
    transition = np.zeros((n_tokens, n_states, n_states))
    transition[token, state, successor] = weight / weight.sum(axis=0)
    return transition
