"""Next-token cross-entropy, and the one reduction in the project."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.hooked import Hooked

#: Reads a model, by site name if it must, and says what each position costs, in nats. An objective
#: with parameters of its own is an ``nn.Module``; they are trained and saved beside the model's.
Objective = Callable[[Hooked, Batch], Float[Tensor, "batch time"]]


def next_token(model: Hooked, batch: Batch) -> Float[Tensor, "batch time"]:
    """``-log p(targets[b, t] | tokens[b, : t + 1])`` in nats, at every position, not yet weighted or averaged.

    Raises
    ------
    ValueError
        If a target is not below ``n_tokens``; also as the model does.
    """
    return cross_entropy(model(batch), batch.targets)


def cross_entropy(
    logits: Float[Tensor, "batch time vocab"], targets: Int[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """``-log softmax(logits)[target]`` in nats.

    Raises
    ------
    ValueError
        If a target is not below ``n_tokens``.
    """
    refuse_out_of_range("targets", targets, logits.shape[-1], limit_name="n_tokens")
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def weighted_mean(loss: Float[Tensor, "batch time"], weights: Float[Tensor, "batch time"]) -> Float[Tensor, ""]:
    """``sum(weights * loss) / sum(|weights|)``: masks, register weights and advantages all pass here.

    Scaling every weight changes nothing. A position of weight 0 teaches nothing.

    Raises
    ------
    ValueError
        If every weight is zero (nothing would be learned), or one is not finite.

    Notes
    -----
    Advantages that must keep their scale are normalised by the caller before they become weights.
    """
    total = weights.abs().sum()
    if total == 0:
        raise ValueError("weights are zero at every position; nothing would be learned from this batch")
    if not total.isfinite():
        raise ValueError(f"weights sum to {total.item()} in absolute value; each must be finite")
    return (loss * weights).sum() / total
