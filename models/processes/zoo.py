"""Named processes, each with the convention of its parameters and its entropy rate."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import numpy as np
from jaxtyping import Float

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.processes.constructions import leak
from nextlens.models.processes.phrases import days_of_week, mr_name, parentheses
from nextlens.models.processes.process import Process
from nextlens.models.processes.quantum import bloch_walk, frdn, moon


def coin(p: float | int = 0.5) -> Process:
    """Independent tosses.

    ``p`` is the probability of token 0. At 1/2 the entropy rate is ln 2 = 0.693147 nats, at 0.3
    0.610864.

    Parameters
    ----------
    p : float in [0, 1]
    """
    between("p", p, 0, 1)
    return Process(np.array([[[p]], [[1 - p]]]), name="coin", parameters={"p": p})


def mess3(alpha: float = 0.85, x: float = 0.05) -> Process:
    """Three states, three tokens; the beliefs fill a fractal in the triangle [1]_.

    Each step stays with ``1 - 2 x`` or moves to either other state with ``x``; then the state arrived
    at says its own token with ``alpha`` and either other with ``(1 - alpha) / 2``. With the defaults
    the entropy rate is 0.793458 nats.

    Parameters
    ----------
    alpha : float in [0, 1]
    x : float in [0, 1/2]

    References
    ----------
    .. [1] Shai, A. S. et al. Transformers Represent Belief State Geometry in their Residual Stream.
       NeurIPS 2024, arXiv:2405.15943; the defaults are theirs.
    """
    between("alpha", alpha, 0, 1)
    between("x", x, 0, 0.5)
    return Process(_mess(3, alpha, x), name="mess3", parameters={"alpha": alpha, "x": x})


def mess(n_states: float | int = 4, alpha: float | int = 0.85, x: float | int = 0.05) -> Process:
    """``mess3`` with any number of states, each with a token of its own.

    Each step moves to any one other state with ``x`` or stays with the rest; then the state arrived at
    says its own token with ``alpha`` and any one other with ``(1 - alpha) / (n_states - 1)``.

    Parameters
    ----------
    n_states : int
        At least 2. A whole float is taken as the integer it is.
    alpha : float in [0, 1]
    x : float in [0, 1 / (n_states - 1)]
    """
    at_least("n_states", n_states, 2)
    if n_states != round(n_states):
        raise ValueError(f"n_states={n_states!r} must be a whole number")
    between("alpha", alpha, 0, 1)
    between("x", x, 0, 1 / (n_states - 1))
    parameters = {"n_states": n_states, "alpha": alpha, "x": x}
    return Process(_mess(round(n_states), alpha, x), name="mess", parameters=parameters)


def _mess(n_states: int, alpha: float | int, x: float | int) -> Float[np.ndarray, "token state state"]:
    own, others = np.eye(n_states) == 1, n_states - 1
    say = np.where(own, alpha, (1 - alpha) / others)
    move = np.where(own, 1 - others * x, x)
    return np.einsum("zr,sr->zsr", say, move)


def rrxor(p1: float = 0.5, p2: float = 0.5) -> Process:
    """Two random bits, then their exclusive or, for ever [1]_.

    ``p1`` and ``p2`` are the probabilities that the first and the second bit are 0. States, in order:
    the start of a triple, first bit 0, first bit 1, exclusive or 1, exclusive or 0. The observer does
    not know where triples begin: 36 beliefs in all. At 1/2 the entropy rate is (2/3) ln 2 = 0.462098
    nats.

    Parameters
    ----------
    p1, p2 : float in [0, 1]

    References
    ----------
    .. [1] Shai, A. S. et al. Transformers Represent Belief State Geometry in their Residual Stream.
       NeurIPS 2024, arXiv:2405.15943.
    """
    between("p1", p1, 0, 1)
    between("p2", p2, 0, 1)
    start, zero, one, unequal, equal = range(5)
    transition = np.zeros((2, 5, 5))
    transition[:, start, [zero, one]] = np.diag([p1, 1 - p1])
    transition[0, zero, equal], transition[1, zero, unequal] = p2, 1 - p2
    transition[0, one, unequal], transition[1, one, equal] = p2, 1 - p2
    transition[0, equal, start] = transition[1, unequal, start] = 1
    return Process(transition, name="rrxor", parameters={"p1": p1, "p2": p2})


def leaky_rrxor(p1: float | int = 0.5, p2: float | int = 0.5, epsilon: float | int = 0.1) -> Process:
    """``rrxor`` that, with probability ``epsilon``, says any token and goes to any state instead.

    Each of the ten pairs of token and state then has probability 1/10. At the defaults the entropy
    rate lies between 0.641052 and 0.641793 nats.

    Parameters
    ----------
    p1, p2, epsilon : float in [0, 1]
    """
    leaky = leak(rrxor(p1, p2), epsilon)
    return Process(leaky.transition, name="leaky_rrxor", parameters={"p1": p1, "p2": p2, "epsilon": epsilon})


def zero_one_random(p: float = 0.5) -> Process:
    """0, then 1, then a random bit, for ever.

    ``p`` is the probability that the random bit is 1 (some other code means 0). States, in order:
    about to say 0, about to say 1, about to say the random bit. The entropy rate is a third of the
    bit's: at 1/2, (ln 2)/3 = 0.231049 nats.

    Parameters
    ----------
    p : float in [0, 1]
    """
    between("p", p, 0, 1)
    transition = np.zeros((2, 3, 3))
    transition[0, 0, 1] = transition[1, 1, 2] = 1
    transition[:, 2, 0] = 1 - p, p
    return Process(transition, name="zero_one_random", parameters={"p": p})


def even(p: float = 0.5) -> Process:
    """Ones come in runs of even length between zeros.

    ``p`` is the probability of beginning a pair of ones when one is free to choose. States, in order:
    free, inside a pair. Unbounded memory from two states. At 1/2 the entropy rate is (2/3) ln 2 =
    0.462098 nats.

    Parameters
    ----------
    p : float in [0, 1]
    """
    between("p", p, 0, 1)
    transition = [[[1 - p, 0], [0, 0]], [[0, p], [1, 0]]]
    return Process(np.array(transition), name="even", parameters={"p": p})


def golden_mean(p: float = 0.5) -> Process:
    """No two ones in a row.

    ``p`` is the probability of a one when one is free to choose. States, in order: free, just said 1.
    One token of memory. At 1/2 the entropy rate is (2/3) ln 2 = 0.462098 nats.

    Parameters
    ----------
    p : float in [0, 1]
    """
    between("p", p, 0, 1)
    transition = [[[1 - p, 0], [1, 0]], [[0, p], [0, 0]]]
    return Process(np.array(transition), name="golden_mean", parameters={"p": p})


def sns(p: float | int = 0.5, q: float | int = 0.5) -> Process:
    """The simple non-unifilar source: a 1, then at least one 0, the number of zeros unbounded [1]_.

    From state 0 token 0 is certain, and ``p`` is the probability of moving to state 1 with it; from
    state 1 token 1 is said with ``q``, going back to state 0. A zero does not tell the state, so no
    finite number of beliefs is enough. At ``p=0.4, q=0.7`` the entropy rate is 0.474888 nats.

    Parameters
    ----------
    p, q : float in [0, 1]
        Free of one another. Not both 0: the two states would never meet.

    References
    ----------
    .. [1] arXiv:1702.08565, figure 2.
    """
    between("p", p, 0, 1)
    between("q", q, 0, 1)
    transition = [[[1 - p, p], [0, 1 - q]], [[0, 0], [q, 0]]]
    return Process(np.array(transition), name="sns", parameters={"p": p, "q": q})


#: Every builder, by the name of what it builds.
PROCESSES: dict[str, Callable[..., Process]] = {
    builder.__name__: builder
    for builder in (
        mess3,
        mess,
        rrxor,
        leaky_rrxor,
        zero_one_random,
        even,
        golden_mean,
        coin,
        sns,
        mr_name,
        parentheses,
        days_of_week,
        bloch_walk,
        frdn,
        moon,
    )
}


def process_by_name(name: str, **parameters: float | int) -> Process:
    """``PROCESSES[name](**parameters)``, refusing unknown names by offering the nearest.

    Raises
    ------
    ValueError
        If ``name`` is not in ``PROCESSES``, or a parameter is not one of that builder's.

    Examples
    --------
    >>> process_by_name("mess3", x=0.1)
    <Process mess3, alpha=0.85, x=0.1: 3 tokens, 3 states>
    """
    builder = PROCESSES[one_of("process", name, PROCESSES)]
    for parameter in parameters:
        one_of(f"parameter of {name}", parameter, signature(builder).parameters)
    return builder(**parameters)
