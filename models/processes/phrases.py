"""Processes that mimic a scrap of language: a name, nested parentheses, the days of the week."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nextlens.models.arguments import between
from nextlens.models.processes.process import Process

#: The tokens of ``mr_name``, which are its states too.
WORDS = ("Mr", "Something", "Blah", "name")
#: The tokens of ``days_of_week``; its states are the first seven.
DAYS = (
    *("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    *("tomorrow", "yesterday", "weekend", "weekday"),
)


def mr_name(p: float | int = 0.4, q: float | int = 0.25) -> Process:
    """ "Mr" is followed by a name for certain, and a name by one of two other words.

    A Markov chain over ``WORDS``: the token is the state arrived at. "Mr" leads to "name"; "name" to
    "Something" or "Blah", 1/2 each; either of these to the other with ``p``, to "Mr" with ``q``, and
    to itself with the rest. At the defaults the entropy rate is 0.835876 nats.

    Parameters
    ----------
    p, q : float in [0, 1]
        ``p + q`` is at most 1, and ``q`` above 0 if names are ever to come back.
    """
    between("p", p, 0, 1)
    between("q", q, 0, 1)
    between("p + q", p + q, 0, 1 + 1e-12)
    again = max(0.0, 1 - p - q)
    chain = np.array([[0, 0, 0, 1], [q, again, p, 0], [q, p, again, 0], [0, 0.5, 0.5, 0]])
    return Process(np.einsum("sr,zr->zsr", chain, np.eye(4)), name="mr_name", parameters={"p": p, "q": q})


def parentheses(open_0: float | int = 1.0, open_1: float | int = 0.6, open_2: float | int = 0.4) -> Process:
    """Opened and closed in turn, never closed before opened, at most three deep.

    Token 0 opens, token 1 closes; the state is the depth, 0 to 3. ``open_d`` is the probability of
    opening at depth ``d``: at depth 0 it must be 1, at depth 3 it is 0. At the defaults the entropy
    rate is 0.480723 nats.

    Parameters
    ----------
    open_0, open_1, open_2 : float in [0, 1]
    """
    opening = {"open_0": open_0, "open_1": open_1, "open_2": open_2}
    nested = nested_parentheses(tuple(opening.values()))
    return Process(nested.transition, name="parentheses", parameters=opening)


def nested_parentheses(opening: Sequence[float | int]) -> Process:
    """``parentheses`` as deep as there are probabilities of opening.

    Parameters
    ----------
    opening : sequence of float in [0, 1]
        By depth, from 0; the first must be 1.

    Examples
    --------
    >>> nested_parentheses([1, 0.5])
    <Process nested_parentheses, open_0=1, open_1=0.5: 2 tokens, 3 states>
    """
    named = {f"open_{depth}": probability for depth, probability in enumerate(opening)}
    for name, probability in named.items():
        between(name, probability, 0, 1)
    if not len(opening) or opening[0] != 1:
        raise ValueError(f"opening={tuple(opening)!r} must begin with 1: at depth 0 there is nothing to close")
    up = np.array(opening, dtype=np.float64)
    down = 1 - np.append(up[1:], 0)
    return Process(np.stack([np.diag(up, 1), np.diag(down, -1)]), name="nested_parentheses", parameters=named)


def days_of_week() -> Process:
    """Talk that names days, by their name or as tomorrow, yesterday, a weekend day or a weekday.

    The state is the day last spoken of. From it, in parts of 15: each day by name 1, but the next one
    5; "tomorrow" and "yesterday" 1 each; "weekend" 1, to either of its days; "weekday" 1, to any of
    its five. Tokens are in the order of ``DAYS``. There are 22 mixed states, and the entropy rate is
    2.193174 nats. Each row is divided by its sum: dividing columns, as some code does, makes no process.
    """
    day = np.arange(7)
    transition = np.zeros((len(DAYS), 7, 7))
    transition[day, :, day] = 1
    transition[(day + 1) % 7, day, (day + 1) % 7] = 5
    transition[DAYS.index("tomorrow"), day, (day + 1) % 7] = 1
    transition[DAYS.index("yesterday"), day, day - 1] = 1
    transition[DAYS.index("weekend"), :, 5:] = 1 / 2
    transition[DAYS.index("weekday"), :, :5] = 1 / 5
    return Process(transition / 15, name="days_of_week")
