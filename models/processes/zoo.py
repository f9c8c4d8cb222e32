"""Named processes, each with the convention of its parameters and its entropy rate."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

import numpy as np

from nextlens.models.arguments import between, one_of
from nextlens.models.processes.process import Process


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
    say = np.where(np.eye(3) == 1, alpha, (1 - alpha) / 2)
    move = np.where(np.eye(3) == 1, 1 - 2 * x, x)
    return Process(np.einsum("zr,sr->zsr", say, move), name="mess3", parameters={"alpha": alpha, "x": x})


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


#: Every builder, by the name of what it builds.
PROCESSES: dict[str, Callable[..., Process]] = {
    builder.__name__: builder for builder in (mess3, rrxor, zero_one_random, even, golden_mean)
}


def process_by_name(name: str, **parameters: float) -> Process:
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
