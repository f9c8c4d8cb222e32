"""How much of its past a process needs, and how much of that tells of its future; all in nats."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from nextlens.models.arguments import at_least
from nextlens.models.processes.chain import fixed_vectors, long_run_law, recurrent_classes
from nextlens.models.processes.constructions import begun_from
from nextlens.models.processes.filtering import children
from nextlens.models.processes.futures import future_basis
from nextlens.models.processes.gauge import ROUNDING
from nextlens.models.processes.mixed_states import (
    BOUNDING_BELIEFS,
    Level,
    MixedStates,
    entropies,
    first_equal,
    merged_levels,
    mixed_state_presentation,
)
from nextlens.models.processes.process import Process

#: Bounds this near to one another have met.
CLOSE = 1e-9


class ExcessEntropy(NamedTuple):
    """What the past and the future of a process share, in nats, and the interval it is known to lie in.

    ``lower == upper`` where it is exact; ``upper`` is infinite where no bound is known.
    """

    value: float
    lower: float
    upper: float


def excess_entropy(process: Process, depth: int | None = None) -> ExcessEntropy:
    """``E = sum over l of (h_l - h)``: the mutual information of past and future.

    Of the process begun from its stationary law. Exact where the mixed states are finite: mixed states
    that approach a limit, which ``mixed_state_presentation`` merges with it, are not. Otherwise,
    after ``l`` tokens, ``H(l) - l h_l <= E``; and for a hidden Markov process ``E <= H(l) - l g_l +
    I[S_0; S_l | X_1 .. X_l]``, where ``g_l = H[X_l | X_<l, S_0]``: what the first ``l`` tokens leave to
    be shared must pass through the hidden states at both ends. Both close in as the state at the
    beginning is forgotten; the value is then their mean, and without an upper bound the lower one.

    Parameters
    ----------
    process : Process
    depth : int, optional
        ``l`` in the bounds. None deepens them until they meet to 1e-9 or would take too long.

    Raises
    ------
    ValueError
        If ``depth`` is below 1.

    Examples
    --------
    >>> from nextlens.models.processes import zero_one_random
    >>> round(excess_entropy(zero_one_random()).value, 6)
    1.098612
    """
    if depth is not None:
        at_least("depth", depth, 1)
    process = begun_from(process, process.stationary)
    states = mixed_state_presentation(process)
    if _is_finite(process, states):
        value = float(_summed_gains(states, power=1))
        return ExcessEntropy(value, value, value)
    bounded = _excess_from_below if process.is_generalized else _excess_between_bounds
    return bounded(process, depth)


def transient_information(process: Process) -> float:
    """``sum over l of l (h_l - h)``: how much an observer wonders in all before knowing the state [1]_.

    Raises
    ------
    ValueError
        If the mixed states are not finite.

    References
    ----------
    .. [1] Crutchfield, J. P. and Feldman, D. P. Regularities unseen, randomness observed: Levels of
       entropy convergence. Chaos 13, 25-54, 2003.
    """
    process = begun_from(process, process.stationary)
    states = mixed_state_presentation(process)
    if not _is_finite(process, states):
        raise ValueError(f"no finite mixed states of {process.name!r} are found; its transient is not summed")
    return float(_summed_gains(states, power=2))


def _is_finite(process: Process, states: MixedStates) -> bool:
    """Whether these are all the mixed states, none of them merged with a limit that it only comes near to."""
    if not states.closed:
        return False
    parent, token, reached, _ = children(process.transition, process.functional, states.beliefs, cutoff=ROUNDING)
    return bool(np.abs(reached - states.beliefs[states.successor[parent, token]]).max() <= ROUNDING)


def _summed_gains(states: MixedStates, power: int) -> float:
    """``sum over l of l^(power - 1) (h_l - h)`` in closed form, for ``power`` 1 or 2.

    With ``W`` the chain, ``P`` the limit of its averaged powers and ``H`` the entropies of the next
    token: ``root @ (1 - W + P)^(-power) @ (H - P H)``.
    """
    chain = states.chain
    left, right = fixed_vectors(chain, int(recurrent_classes(chain).max()) + 1)
    limit = right @ np.linalg.solve(left @ right, left)
    uncertain = entropies(states.next_token)
    gains = uncertain - limit @ uncertain
    for _ in range(power):
        gains = np.linalg.solve(np.eye(len(states)) - chain + limit, gains)
    return gains[0]


def _excess_between_bounds(process: Process, depth: int | None) -> ExcessEntropy:
    told = np.flatnonzero(process.stationary)
    blind_levels = merged_levels(process, process.stationary[None], np.ones(1))
    told_levels = merged_levels(process, np.eye(process.n_states)[told], process.stationary[told])
    blind, informed = next(blind_levels), next(told_levels)
    block, visited, lower, upper = 0.0, 0, 0.0, np.inf
    for length in count(1):
        above, below = (_mean(level, process.next_token(level.beliefs)) for level in (blind, informed))
        block += above
        visited += len(blind) + len(informed)
        blind, informed = next(blind_levels), next(told_levels)
        passed_on = _mean(blind, blind.beliefs) - _mean(informed, informed.beliefs)
        lower, upper = max(lower, block - length * above), min(upper, block - length * below + passed_on)
        enough = upper - lower < CLOSE or visited * process.n_tokens > BOUNDING_BELIEFS
        if length == depth or (depth is None and enough):
            break
    return ExcessEntropy((lower + upper) / 2, lower, upper)


def _excess_from_below(process: Process, depth: int | None) -> ExcessEntropy:
    block, visited = 0.0, 0
    lower = [0.0] * (process.n_states + 1)
    for length, level in enumerate(merged_levels(process, process.stationary[None], np.ones(1)), start=1):
        above = _mean(level, process.next_token(level.beliefs))
        block += above
        visited += len(level)
        lower.append(block - length * above)
        settled = length > process.n_states and lower[-1] - lower[-1 - process.n_states] < CLOSE
        enough = settled or visited * process.n_tokens > BOUNDING_BELIEFS
        if length == depth or (depth is None and enough):
            break
    return ExcessEntropy(lower[-1], lower[-1], np.inf)


def _mean(level: Level, laws: Float[np.ndarray, "node outcome"]) -> float:
    return float(level.probability @ entropies(laws.clip(0)))


def epsilon_machine(process: Process) -> Process:
    """The minimal unifilar presentation: a hidden Markov process with one state per causal state.

    Pasts that give all futures the same probabilities are one causal state, and the state and the token
    tell the next state. It says the same words with the same probabilities as ``process``, once that is
    begun from its stationary law.

    Raises
    ------
    ValueError
        If no finite one is found: neither the states of ``process`` nor its recurrent mixed states are
        left for one another only.

    Examples
    --------
    >>> from nextlens.models.processes import even
    >>> epsilon_machine(even())
    <Process epsilon machine of even: 2 tokens, 2 states>
    """
    process = begun_from(process, process.stationary)
    for beliefs, law in _visited_for_ever(process):
        machine = _between(process, beliefs, law)
        if machine is not None:
            return machine
    raise ValueError(
        f"no finite unifilar presentation of {process.name!r} is found: a state and a token do not tell the next "
        "state, and its mixed states are too many, or approach a limit that they never reach"
    )


def _visited_for_ever(
    process: Process,
) -> Iterator[tuple[Float[np.ndarray, "node state"], Float[np.ndarray, " node"]]]:
    """What may be the causal states, as beliefs and the share of time of each: states, then mixed states."""
    if not process.is_generalized:
        visited = process.stationary > 0
        yield np.eye(process.n_states)[visited], process.stationary[visited]
    states = mixed_state_presentation(process)
    if states.closed:
        law = long_run_law(states.chain, np.eye(1, len(states))[0])
        yield states.beliefs[law > 0], law[law > 0]


def _between(
    process: Process, beliefs: Float[np.ndarray, "node state"], law: Float[np.ndarray, " node"]
) -> Process | None:
    """The process that moves between ``beliefs``, those of equal futures made one; None if it leaves them."""
    basis = future_basis(process)
    first = first_equal(beliefs @ basis, ROUNDING)
    kept, cause = np.unique(first, return_inverse=True)
    parent, token, reached, said = children(process.transition, process.functional, beliefs[kept], cutoff=ROUNDING)
    arrived = first_equal(np.concatenate([beliefs, reached]) @ basis, ROUNDING)[len(beliefs) :]
    if (arrived >= len(beliefs)).any():
        return None
    transition = np.zeros((process.n_tokens, len(kept), len(kept)))
    transition[token, parent, cause[arrived]] = said
    share = np.bincount(cause, weights=law)
    return Process(transition, name=f"epsilon machine of {process.name}", initial=share / share.sum())


def statistical_complexity(process: Process) -> float:
    """``C_mu``: the entropy of the causal states, which is the memory that exact prediction needs.

    Refused where no finite presentation is found. The causal states of ``mess3`` are uncountable and
    ``C_mu`` infinite; those of ``sns`` are countable, so that their entropy is finite but no finite
    presentation holds it.

    Raises
    ------
    ValueError
        As ``epsilon_machine``.

    Examples
    --------
    >>> from nextlens.models.processes import even
    >>> round(statistical_complexity(even()), 6)
    0.636514
    """
    return float(entropies(epsilon_machine(process).stationary[None])[0])


def crypticity(process: Process) -> float:
    """``C_mu - E``: what must be remembered of the past that the future never shows.

    Raises
    ------
    ValueError
        As ``epsilon_machine``.
    """
    return statistical_complexity(process) - excess_entropy(process).value


def markov_order(process: Process) -> int | float:
    """The fewest last tokens that say all that the whole past says of the future; perhaps infinite.

    Exact: two causal states that read the same word either become one or go on apart, and the order is
    the length of the longest word through which some two stay apart, plus one.

    Raises
    ------
    ValueError
        As ``epsilon_machine``.

    Examples
    --------
    >>> from nextlens.models.processes import even, golden_mean
    >>> markov_order(golden_mean()), markov_order(even())
    (1, inf)
    """
    machine = epsilon_machine(process)
    successor = np.where(machine.transition.any(axis=2), machine.transition.argmax(axis=2), -1)
    apart = ~np.eye(machine.n_states, dtype=bool)
    for order in count():
        if not apart.any():
            return order
        still = _apart_after_a_token(apart, successor)
        if (still == apart).all():
            return np.inf
        apart = still
    raise AssertionError("pairs that stay apart become fewer at every token")


def _apart_after_a_token(
    apart: Bool[np.ndarray, "state state"], successor: Int[np.ndarray, "token state"]
) -> Bool[np.ndarray, "state state"]:
    one, other = np.nonzero(apart)
    still = np.zeros_like(apart)
    for arrived in successor:
        both = (arrived[one] >= 0) & (arrived[other] >= 0)
        still[arrived[one[both]], arrived[other[both]]] = True
    return still & ~np.eye(len(still), dtype=bool)


def belief_entropies(process: Process, length: int) -> Float[np.ndarray, " length_and_one"]:
    """The mean entropy of the belief after 0, 1, .. ``length`` tokens: what is not yet known of the state.

    Raises
    ------
    ValueError
        If ``length`` is below 0, or the process is generalized: its beliefs are coordinates, not laws.
    """
    at_least("length", length, 0)
    if process.is_generalized:
        raise ValueError(f"beliefs of the generalized {process.name!r} are coordinates and have no entropy")
    levels = merged_levels(process, process.initial[None], np.ones(1))
    return np.array([_mean(level, level.beliefs) for level in islice(levels, length + 1)])
