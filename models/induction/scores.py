"""How good predictions were: right under three rules for ties, and how probable what came had been."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from nextlens.models.arguments import between
from nextlens.models.induction.votes import Votes


class Scores(NamedTuple):
    """One number a prediction.

    Attributes
    ----------
    strict : Bool[np.ndarray, "row"]
        Whether the most probable token came; of equals the lowest id is meant.
    inclusive : Bool[np.ndarray, "row"]
        Whether none was more probable than what came, and the law is not the uniform one. Every tie counts as
        right: the rule of the published code.
    expected : Float[np.ndarray, "row"]
        How often a guess among the most probable tokens is right: one over their number, if what came is one.
    tied : Bool[np.ndarray, "row"]
        Whether several tokens are most probable.
    probability : Float[np.ndarray, "row"]
        Of what came, with no floor.
    """

    strict: Bool[np.ndarray, " row"]
    inclusive: Bool[np.ndarray, " row"]
    expected: Float[np.ndarray, " row"]
    tied: Bool[np.ndarray, " row"]
    probability: Float[np.ndarray, " row"]


def score_votes(votes: Votes, targets: Int[np.ndarray, " row"], n_tokens: int) -> Scores:
    """What came against what was voted for, with no dense law built.

    Examples
    --------
    >>> votes = Votes.of_rows([(3, np.array([1, 4]), np.array([2.0, 2.0]))])
    >>> score_votes(votes, np.array([4]), n_tokens=9).inclusive, score_votes(votes, np.array([4]), 9).strict
    (array([ True]), array([False]))
    """
    row, silent = votes.row_of, votes.counts == 0
    most = np.zeros(len(votes))
    np.maximum.at(most, row, votes.weight)
    top = votes.weight == most[row]
    n_top = np.where(silent, n_tokens, np.bincount(row[top], minlength=len(votes)))
    guess = np.zeros(len(votes), np.int64)
    guess[row[top][::-1]] = votes.token[top][::-1]
    hit = silent.copy()
    hit[row[top & (votes.token == targets[row])]] = True
    return _scores(guess == targets, hit, n_top, votes.probability_of(targets, n_tokens), n_tokens)


def score_laws(laws: Float[np.ndarray, "row token"], targets: Int[np.ndarray, " row"]) -> Scores:
    """The same of dense laws, such as a language model's."""
    probability = laws[np.arange(len(laws)), targets].astype(np.float64)
    most = laws.max(1)
    return _scores(
        laws.argmax(1) == targets,
        laws[np.arange(len(laws)), targets] == most,
        (laws == most[:, None]).sum(1),
        probability,
        laws.shape[1],
    )


def bits(probability: Float[np.ndarray, " row"], floor: float, n_tokens: int) -> Float[np.ndarray, " row"]:
    """``-log2((1 - floor) p + floor / n_tokens)``; infinite where ``p`` is 0 and so is ``floor``.

    Raises
    ------
    ValueError
        If ``floor`` is not between 0 and 1.
    """
    between("floor", floor, 0, 1)
    with np.errstate(divide="ignore"):
        return -np.log2((1 - floor) * probability + floor / n_tokens)


def best_floor(probability: Float[np.ndarray, " row"], n_tokens: int) -> float:
    """The floor with the fewest bits on these predictions, which should be others than those it is used for.

    The bits are convex in the floor, so halving the range finds it: between 1e-6 and 1.

    Raises
    ------
    ValueError
        If there is no prediction.
    """
    if not len(probability):
        raise ValueError("probability is empty; a floor is chosen on predictions")
    low, high = 1e-6, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        slope = ((1 / n_tokens - probability) / ((1 - middle) * probability + middle / n_tokens)).mean()
        low, high = (middle, high) if slope > 0 else (low, middle)
    return float(low)


def _scores(
    strict: Bool[np.ndarray, " row"],
    hit: Bool[np.ndarray, " row"],
    n_top: Int[np.ndarray, " row"],
    probability: Float[np.ndarray, " row"],
    n_tokens: int,
) -> Scores:
    return Scores(strict, hit & (n_top < n_tokens), np.where(hit, 1 / n_top, 0.0), n_top > 1, probability)
