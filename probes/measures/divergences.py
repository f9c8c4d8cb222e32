"""How far one law of the next token is from another; whole strings from steps; bits per byte. In nats unless said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real
from scipy.special import entr

from nextlens.models.arguments import between


class Support(NamedTuple):
    """How well what a law allows agrees with what another can say.

    Attributes
    ----------
    precision : float
        Share of the probability that the law gives to what can be said.
    recall : float
        Share of the probability of what is said that the law allows.
    """

    precision: float
    recall: float


class Bound(NamedTuple):
    """Bounds on the total variation of two laws of strings, given how far their steps are apart.

    Attributes
    ----------
    product : float
        ``1 - Π_t (1 - sup tv_t)``; with means in place of suprema it would be no bound.
    steps : float
        ``Σ_t E_p[tv_t]``.
    pinsker : float
        ``√(KL / 2)``.
    """

    product: float
    steps: float
    pinsker: float


def entropy(log_p: Float[np.ndarray, "*row token"]) -> Float[np.ndarray, "*row"]:
    """``-Σ p log p`` of each row."""
    return entr(np.exp(log_p)).sum(-1)


def divergence(
    log_p: Float[np.ndarray, "*row token"], log_q: Float[np.ndarray, "*row token"], *, floor: float | int = 0.0
) -> Float[np.ndarray, "*row"]:
    """``KL(p‖q) = Σ p (log p - log q)`` of each row; infinite where q forbids what p does not, unless there is a floor.

    Parameters
    ----------
    floor : float, default=0
        q is mixed with the uniform law of so much mass; say how much beside the number.

    Raises
    ------
    ValueError
        If ``floor`` is not within 0 and 1.

    Examples
    --------
    >>> p, q = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    >>> divergence(p, q).round(4).tolist()
    [0.1438]
    """
    between("floor", floor, 0, 1)
    p = np.exp(log_p)
    if floor:
        log_q = np.logaddexp(log_q + np.log1p(-floor) if floor < 1 else -np.inf, np.log(floor / log_q.shape[-1]))
    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (np.where(p > 0, log_p, 0.0) - log_q), 0.0)
    return np.maximum(terms.sum(-1), 0.0)


def total_variation(
    log_p: Float[np.ndarray, "*row token"], log_q: Float[np.ndarray, "*row token"]
) -> Float[np.ndarray, "*row"]:
    """``½ Σ |p - q|`` of each row."""
    return 0.5 * np.abs(np.exp(log_p) - np.exp(log_q)).sum(-1)


def support_violation(
    log_p: Float[np.ndarray, "*row token"], log_q: Float[np.ndarray, "*row token"]
) -> Float[np.ndarray, "*row"]:
    """The probability under p of what q forbids: where it is above 0, ``KL(p‖q)`` is infinite."""
    return np.where(np.isneginf(log_q), np.exp(log_p), 0.0).sum(-1)


def support(
    log_p: Float[np.ndarray, "row token"], log_q: Float[np.ndarray, "row token"], *, negligible: float | int = 0.0
) -> Support:
    """Precision and recall of the support of q, against a law p that is known.

    Parameters
    ----------
    negligible : float, default=0
        What p says with no more probability than this counts as what cannot be said.
    """
    can, allowed = np.exp(log_p) > negligible, np.exp(log_q) > 0
    said = np.where(can, np.exp(log_p), 0.0)
    return Support(
        float(np.where(can, np.exp(log_q), 0.0).sum(-1).mean()),
        float((np.where(allowed, said, 0.0).sum(-1) / said.sum(-1)).mean()),
    )


def sequence_bounds(tv: Float[np.ndarray, "row time"], weight: Float[np.ndarray, " row"], kl: float | int) -> Bound:
    """How far whole strings can be apart, from the total variation of each step after every prefix.

    Parameters
    ----------
    tv : Float[np.ndarray, "row time"]
        One row a string of p, every one that is possible.
    weight : Float[np.ndarray, " row"]
        Their probabilities under p.
    kl : float
        ``KL(p‖q)`` of whole strings.

    Raises
    ------
    ValueError
        If the weights do not add up to 1: the product needs the supremum over every prefix.
    """
    if abs(weight.sum() - 1) > 1e-9:
        raise ValueError(f"weight adds up to {weight.sum():.6g}; every string of p is needed, with its probability")
    worst = tv[weight > 0].max(0)
    return Bound(float(1 - np.prod(1 - worst)), float((weight @ tv).sum()), float(np.sqrt(kl / 2)))


def bits_per_byte(
    surprisals: Sequence[Real[np.ndarray, " _"]], n_bytes: Sequence[int] | Int[np.ndarray, " _"]
) -> float:
    """``Σ z / Σ bytes``: summed over documents before dividing, so that long ones count for what they hold.

    Parameters
    ----------
    surprisals : sequence of arrays
        In bits, of the tokens scored of each document.
    n_bytes : sequence of int
        Of UTF-8 that those tokens spell: a token that was not scored brings no bytes.

    Raises
    ------
    ValueError
        If there are not as many counts as documents, or no bytes.

    Examples
    --------
    >>> bits_per_byte([np.array([2.0, 4.0]), np.array([1.0])], [3, 4])
    1.0
    """
    if len(surprisals) != len(n_bytes) or min(n_bytes, default=0) < 1:
        raise ValueError(
            f"n_bytes={list(n_bytes)!r} must hold a number above 0 for each of {len(surprisals)} documents"
        )
    return float(sum(z.sum() for z in surprisals) / sum(n_bytes))
