"""How far apart two contexts are, by their features or by their next-token laws; and how much the near one counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from nextlens.models.arguments import between

#: Rows against rows: distances of shape (row, column).
Distance = Callable[[Float[Tensor, "row width"], Float[Tensor, "column width"]], Float[Tensor, "row column"]]

#: Numbers that the Jensen-Shannon divergence holds at a time.
NUMBERS_AT_A_TIME = 2**22


def cosine_distance(
    rows: Float[Tensor, "row width"], columns: Float[Tensor, "column width"]
) -> Float[Tensor, "row column"]:
    """``1 - cos(a, b)``, from 0 to 2; 1 where a feature is zero."""
    return 1 - F.normalize(rows, dim=-1) @ F.normalize(columns, dim=-1).T


def half_jeffreys(
    rows: Float[Tensor, "row token"], columns: Float[Tensor, "column token"], *, mass: float = 1.0
) -> Float[Tensor, "row column"]:
    """``(KL(p || q) + KL(q || p)) / 2`` in nats, of log-probabilities; infinite where one forbids what the other says.

    Half of Jeffreys's divergence, as two products of matrices::

        2 D = sum p log p - p @ log q' + sum q log q - q @ log p'

    Parameters
    ----------
    rows, columns : Float[Tensor, "row token"], Float[Tensor, "column token"]
        Log-probabilities, ``-inf`` among them.
    mass : float, default=1
        Below 1, each law is summed over its likeliest tokens alone, just as many as have this mass together;
        memory shrinks to the tokens that any law has among them. No more a divergence, but zero on equal laws
        and symmetric all the same.

    Raises
    ------
    ValueError
        If ``mass`` is not within 0 and 1.

    Notes
    -----
    What the code of arXiv:2411.00066 calls the Jensen-Shannon divergence is this. It has no bound, which the
    true one has, and so can leave a far context next to no weight.
    """
    p, q = rows.exp(), columns.exp()
    if between("mass", mass, 0, 1) < 1:
        top_p, top_q = _likeliest(p, mass), _likeliest(q, mass)
        some = top_p.any(0) | top_q.any(0)
        rows, columns = rows[:, some], columns[:, some]
        p, q = (p * top_p)[:, some], (q * top_q)[:, some]
    log_p, log_q = rows.masked_fill(rows.isinf(), 0), columns.masked_fill(columns.isinf(), 0)
    own = (p * log_p).sum(-1)[:, None] + (q * log_q).sum(-1)
    found = ((own - p @ log_q.T - log_p @ q.T) / 2).clamp(min=0)
    forbidden = [(p > 0).to(p.dtype) @ columns.isinf().to(p.dtype).T, rows.isinf().to(p.dtype) @ (q > 0).to(p.dtype).T]
    return found.masked_fill(forbidden[0] + forbidden[1] > 0, torch.inf)


def jensen_shannon(
    rows: Float[Tensor, "row token"], columns: Float[Tensor, "column token"]
) -> Float[Tensor, "row column"]:
    """``H((p + q) / 2) - (H(p) + H(q)) / 2`` in nats, of log-probabilities; from 0 to log 2.

    No product of matrices gives it: computed for a few rows at a time, so that memory is bounded.
    """
    p, q = rows.exp(), columns.exp()
    entropy_p, entropy_q = torch.special.entr(p).sum(-1), torch.special.entr(q).sum(-1)
    at_a_time = max(1, NUMBERS_AT_A_TIME // max(1, q.numel()))
    mixed = [
        torch.special.entr((part[:, None] + q) / 2).sum(-1) if len(q) else part.new_empty(len(part), 0)
        for part in p.split(at_a_time)
    ]
    mixed = torch.cat(mixed) if mixed else p.new_empty(0, len(q))
    return (mixed - (entropy_p[:, None] + entropy_q) / 2).clamp(0, math.log(2))


class Kind(NamedTuple):
    """A distance, and the temperature that goes with it unless told otherwise."""

    distance: Distance
    temperature: float


#: Distances by name. Cosines at 0.1 as in arXiv:2411.00066.
DISTANCES = {
    "cosine": Kind(cosine_distance, 0.1),
    "jeffreys": Kind(half_jeffreys, 1.0),
    "jensen-shannon": Kind(jensen_shannon, 1.0),
}


def similarity(distances: Float[Tensor, "*any"], temperature: float = 1.0) -> Float[Tensor, "*any"]:
    """``exp(-D / temperature)``: 1 on equals.

    With the Jensen-Shannon divergence at temperature 1 it is never below one half, so that the farthest context
    counts half as much as an equal one.
    """
    return torch.exp(-distances / temperature)


def _likeliest(laws: Float[Tensor, "row token"], mass: float) -> Bool[Tensor, "row token"]:
    """The fewest tokens of each law whose probabilities sum to ``mass``; at least one."""
    sorted_laws, order = laws.sort(-1, descending=True)
    before = sorted_laws.cumsum(-1) - sorted_laws
    return torch.zeros_like(laws, dtype=torch.bool).scatter(-1, order, before < mass)
