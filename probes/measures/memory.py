"""How much of the past a law of the next token uses: what fewer tokens cost, and what another token changes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nextlens.models.arguments import at_least
from nextlens.probes.measures.divergences import total_variation


class Memory(NamedTuple):
    """What is lost by seeing the last k tokens only, k = 0, 1, ..

    Attributes
    ----------
    gain : Float[np.ndarray, " context"]
        ``g_k``, in nats: how much worse than all of the past.
    excess : float
        ``Σ g_k``: of an exact model the excess entropy, what past and future share.
    missed : Float[np.ndarray, " context"]
        ``E - Σ_{j<k} g_j``: what is still to be gained beyond k tokens.
    """

    gain: Float[np.ndarray, " context"]
    excess: float
    missed: Float[np.ndarray, " context"]


class Influence(NamedTuple):
    """How far the law of the next token moves when the token k back is another, k = 1, 2, ..

    Attributes
    ----------
    mean, sup : Float[np.ndarray, " lag"]
        Of the total variation.
    total : float
        ``Σ sup``. Below 1 the stationary law is the only one (Dobrushin's condition); above, nothing follows.
    """

    mean: Float[np.ndarray, " lag"]
    sup: Float[np.ndarray, " lag"]
    total: float


def memory(gain: Float[np.ndarray, " context"]) -> Memory:
    """Sums of ``g_k`` from k = 0, the law without any context, on.

    Examples
    --------
    >>> memory(np.array([0.5, 0.25, 0.0])).missed.tolist()
    [0.75, 0.25, 0.0]
    """
    at_least("number of contexts", len(gain), 1)
    excess = float(gain.sum())
    return Memory(gain, excess, excess - np.concatenate([[0.0], np.cumsum(gain[:-1])]))


def influence(
    log_rows: Float[np.ndarray, "past token"],
    changed: Float[np.ndarray, "lag past other token"],
    weight: Float[np.ndarray, " past"] | None = None,
) -> Influence:
    """Means and suprema over pasts and over the tokens put in place.

    Parameters
    ----------
    log_rows : Float[np.ndarray, "past token"]
        The law after each past.
    changed : Float[np.ndarray, "lag past other token"]
        After it with the token ``lag + 1`` back replaced; a row of NaN where that past is impossible.
    weight : Float[np.ndarray, " past"], optional
        Probabilities of the pasts; equal if None.

    Raises
    ------
    ValueError
        If a lag has no past that is possible.
    """
    weight = np.full(len(log_rows), 1 / len(log_rows)) if weight is None else weight / weight.sum()
    apart = total_variation(np.broadcast_to(log_rows[None, :, None], changed.shape), changed)
    there = ~np.isnan(apart)
    if not there.any((1, 2)).all():
        raise ValueError(f"lag {1 + int(there.any((1, 2)).argmin())} has no past that is possible with another token")
    share = weight[None, :, None] * there
    mean = (np.where(there, apart, 0.0) * share).sum((1, 2)) / share.sum((1, 2))
    sup = np.where(there, apart, 0.0).max((1, 2))
    return Influence(mean, sup, float(sup.sum()))
