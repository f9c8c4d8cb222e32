"""Text written by a GIM, each token with the places that it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least
from nextlens.models.induction.answers import SOURCES
from nextlens.models.induction.explanation import Explanation
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.votes import Places, Votes


@dataclass(frozen=True, eq=False)
class Written:
    """One token that was written.

    Parameters
    ----------
    gim : GIM
    before : Int[np.ndarray, "time"]
        All that had been read when it was written.
    token : int
    probability : float
        What it had at the temperature at which it was drawn; 1 at temperature 0.
    source : str
        Who predicted: ``"corpus"``, ``"context"`` or ``"similar"``.
    length : int
        How many tokens were matched; 0 of what is alike.
    """

    gim: GIM
    before: Int[np.ndarray, " time"]
    token: int
    probability: float
    source: str
    length: int

    def places(self) -> Places:
        """The places that propose this token; none if it has only the floor's probability."""
        found = self.gim.places_of(self.source, self.before)
        keep = np.flatnonzero(found.token == self.token)
        columns = (column[keep] for column in (found.document, found.offset, found.token, found.weight))
        return Places(found.source, found.length, *columns)

    def explain(self, **how: Any) -> Explanation:
        """All candidates with their places; see :func:`~nextlens.models.induction.explanation.explain`."""
        return self.gim.explain(self.before, **how)


def write(
    gim: GIM,
    prompt: Int[np.ndarray, " time"],
    *,
    length: int,
    rng: np.random.Generator,
    temperature: float = 1.0,
    stop: int | None = None,
) -> Iterator[Written]:
    """Go on from ``prompt``, token by token. The matchers read each token once.

    Parameters
    ----------
    gim : GIM
        With ``floor=0`` only tokens are written that some place proposes, if any does.
    prompt : Int[np.ndarray, "time"]
    length : int
        Tokens to write, at most.
    rng : numpy.random.Generator
    temperature : float, default=1
        Probabilities to the power ``1 / temperature``, normalised; 0 takes the most probable, of equals the lowest id.
    stop : int, optional
        The token after which nothing is written.

    Yields
    ------
    Written

    Raises
    ------
    ValueError
        If there is no prompt, or a number is negative.
    """
    at_least("length", length, 0)
    at_least("temperature", temperature, 0)
    at_least("the number of tokens in prompt", len(prompt), 1)
    reader, tokens = gim.reader(), [int(token) for token in prompt]
    votes = [reader.read(token) for token in tokens][-1]
    for _ in range(length):
        token, probability = _drawn(gim, votes, temperature, rng)
        source = SOURCES[int(reader.answers.source(gim.threshold)[0])]
        yield Written(gim, np.array(tokens), token, probability, source, int(votes.length[0]))
        if token == stop:
            return
        tokens.append(token)
        votes = reader.read(token)


def _drawn(gim: GIM, votes: Votes, temperature: float, rng: np.random.Generator) -> tuple[int, float]:
    """A token and its probability; without a floor, of those that have a vote, and no dense law is built."""
    token, weight = votes.row(0)
    if gim.floor or not len(token):
        law = (1 - gim.floor) * votes.probabilities(gim.n_tokens)[0] + gim.floor / gim.n_tokens
        token = np.arange(gim.n_tokens)
    else:
        law = weight / weight.sum()
    law = tempered(law, temperature)
    at = int(rng.choice(len(law), p=law))
    return int(token[at]), float(law[at])


def tempered(law: Float[np.ndarray, " token"], temperature: float) -> Float[np.ndarray, " token"]:
    """``law ** (1 / temperature)``, normalised; all on the most probable token, of equals the lowest, at 0.

    Raises
    ------
    ValueError
        If ``temperature`` is negative or not finite.

    Examples
    --------
    >>> tempered(np.array([0.2, 0.4, 0.4]), 0.0).tolist(), tempered(np.array([0.2, 0.8]), 0.5).round(3).tolist()
    ([0.0, 1.0, 0.0], [0.059, 0.941])
    """
    if not at_least("temperature", temperature, 0) < np.inf:
        raise ValueError(f"temperature={temperature!r} must be finite")
    if temperature == 0:
        sharp = np.zeros_like(law)
        sharp[law.argmax()] = 1.0
        return sharp
    with np.errstate(divide="ignore"):
        scaled = np.log(law) / temperature
    sharp = np.exp(scaled - scaled.max())
    return sharp / sharp.sum()
