"""What objectives share that look further ahead than one token: which pairs of positions count."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nextlens.models.batch import Batch


def reachable(batch: Batch, i: int) -> Bool[Tensor, "batch fewer"]:
    """Whether position ``t + i`` may look at ``t`` and is no padding, for ``t = 0 .. time - i - 1``.

    Where it may look, it belongs to the same document. Padding is what lies behind the last token that counts as a
    target: nothing is asked for there, or later.
    """
    text = _is_text(batch)[:, i:]
    return text if batch.attend is None else text & batch.attend.diagonal(offset=-i, dim1=1, dim2=2)


def _is_text(batch: Batch) -> Bool[Tensor, "batch time"]:
    counts_later = (batch.weights != 0).flip(1).cummax(1).values.flip(1)
    return torch.cat([counts_later[:, :1], counts_later[:, :-1]], dim=1)


def mean_where(values: Float[Tensor, "batch fewer"], counted: Bool[Tensor, "batch fewer"]) -> Float[Tensor, ""]:
    """The mean of what counts; 0 if nothing does."""
    return (values * counted).sum() / counted.sum().clamp(min=1)


def refuse_unfit(batch: Batch, ahead: int, shortest: int) -> None:
    """Raise if terms that are spread over all positions could not be formed from ``batch``.

    Raises
    ------
    ValueError
        If its sequences are shorter than ``shortest``, or a weight is negative.
    """
    if (batch.weights < 0).any():
        raise ValueError("weights hold a negative one; terms spread over all positions have no sign to follow")
    if (time := batch.tokens.shape[1]) < shortest:
        raise ValueError(f"ahead={ahead} needs sequences of {shortest} tokens or more; these have {time}")
