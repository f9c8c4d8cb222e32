"""What beliefs say of the future: how much of one the next token shows, and how far ahead two part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least
from nextlens.models.processes.gauge import EXACT
from nextlens.models.processes.mixed_states import first_equal, mixed_state_presentation
from nextlens.models.processes.process import Process

#: Beliefs nearer than this in every component are not told apart when pairs are sought.
APART = 1e-6


def future_basis(process: Process, horizon: int | None = None) -> Float[np.ndarray, "state rank"]:
    """Orthonormal columns that span ``T[x_1] @ .. @ T[x_n] @ functional`` of all words of ``horizon``.

    ``belief @ basis`` is all that a belief says of that many tokens: two beliefs that agree there give
    every word of ``horizon`` tokens, and so every shorter one, the same probability. None means all
    futures, of any length.

    Raises
    ------
    ValueError
        If ``horizon`` is below 0.
    """
    if horizon is not None:
        at_least("horizon", horizon, 0)
    for length, (basis, longer) in enumerate(pairwise(_bases(process))):
        if length == horizon or longer.shape == basis.shape:
            return basis
    raise AssertionError("the span stops growing after at most n_states steps")


def _bases(process: Process) -> Iterator[Float[np.ndarray, "state rank"]]:
    """The bases of horizons 0, 1, 2 and so on, without end."""
    basis = process.functional[:, None] / np.linalg.norm(process.functional)
    while True:
        yield basis
        ahead = np.moveaxis(process.transition @ basis, 0, 1).reshape(process.n_states, -1)
        vectors, size, _ = np.linalg.svd(np.concatenate([basis, ahead], axis=1), full_matrices=False)
        basis = vectors[:, size > EXACT]


def future_rank(process: Process, horizon: int | None = None) -> int:
    """How many dimensions of the belief the law of the next ``horizon`` tokens shows.

    Where that of one token is ``n_states``, the belief is an affine function of the next-token law,
    exactly: no linear readout can then find the one without the other.

    Parameters
    ----------
    process : Process
    horizon : int, optional
        None means all futures.

    Examples
    --------
    >>> from nextlens.models.processes import rrxor
    >>> [future_rank(rrxor(), horizon) for horizon in (1, 2, None)]
    [2, 3, 5]
    """
    return future_basis(process, horizon).shape[1]


@dataclass(frozen=True, eq=False)
class Degeneracies:
    """Pairs of unequal beliefs that give the next token the same law.

    Attributes
    ----------
    beliefs : Float[np.ndarray, "node state"]
        In the order in which they are reached.
    pairs : Int[np.ndarray, "pair 2"]
        Indices into ``beliefs``, the lower first.
    horizon : Int[np.ndarray, " pair"]
        The fewest tokens whose law tells the two apart, at least 2; 0 where none does.
    closed : bool
        Whether ``beliefs`` are all there are.
    """

    beliefs: Float[np.ndarray, "node state"]
    pairs: Int[np.ndarray, "pair two"]
    horizon: Int[np.ndarray, " pair"]
    closed: bool

    def __len__(self) -> int:
        """How many pairs."""
        return len(self.pairs)


def degeneracies(process: Process, tolerance: float = EXACT, max_states: int = 1024) -> Degeneracies:
    """Pairs of different beliefs with the same next-token law, and how far ahead each pair parts.

    What a model has to represent beyond its next prediction. Sought among the first ``max_states``
    beliefs by depth that differ by more than 1e-6.

    Parameters
    ----------
    process : Process
    tolerance : float, default=1e-9
        Next-token probabilities this close are equal, and futures that differ by more are not.
    max_states : int, default=1024

    Raises
    ------
    ValueError
        If ``tolerance`` is below the spacing of floats at 1, or ``max_states`` below 1.

    Examples
    --------
    >>> from nextlens.models.processes import zero_one_random
    >>> found = degeneracies(zero_one_random())
    >>> len(found.beliefs), found.pairs.tolist(), found.horizon.tolist()
    (7, [[0, 4], [0, 5], [4, 5]], [2, 2, 2])
    """
    at_least("tolerance", tolerance, np.finfo(float).eps)
    states = mixed_state_presentation(process, tolerance=APART, max_states=max_states)
    law = first_equal(states.next_token, tolerance)
    first, second = np.nonzero(np.triu(law[:, None] == law, k=1))
    difference = states.beliefs[first] - states.beliefs[second]
    horizon = np.zeros(len(first), dtype=np.int64)
    for length, (shorter, basis) in enumerate(pairwise(_bases(process)), start=1):
        apart = np.abs(difference @ basis).max(axis=1) > tolerance
        horizon[(horizon == 0) & apart] = length
        if basis.shape == shorter.shape:
            return Degeneracies(states.beliefs, np.stack([first, second], axis=1), horizon, states.closed)
    raise AssertionError("the span stops growing after at most n_states steps")
