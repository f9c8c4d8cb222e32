"""Weights by name, on their way into a model: whole, finite, and of a stated precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from nextlens.models.arguments import one_of

PRECISIONS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def precision(dtype: str | torch.dtype) -> torch.dtype:
    """A floating-point dtype, from itself or from its name.

    Raises
    ------
    ValueError
        If it is none of float16, bfloat16, float32, float64.

    Examples
    --------
    >>> precision("bfloat16")
    torch.bfloat16
    """
    return PRECISIONS[one_of("dtype", str(dtype).removeprefix("torch."), tuple(PRECISIONS))]


def refuse_not_finite(weights: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Raise unless every number is finite.

    Raises
    ------
    ValueError
        Naming the first weight that holds NaN or infinity, how many, and ``where`` it stands.

    Examples
    --------
    >>> refuse_not_finite([("embed.W_E", torch.tensor([0.0, torch.nan]))], "model.pt")
    Traceback (most recent call last):
    ...
    ValueError: embed.W_E in 'model.pt' holds 1 NaN or infinite number of 2; take another copy of the weights
    """
    for name, value in weights:
        if not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise ValueError(
                f"{name} in {where!r} holds {bad} NaN or infinite number{'s' if bad > 1 else ''} of {value.numel()}; "
                "take another copy of the weights"
            )


def put_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give ``module`` these weights; or, if names or shapes differ, leave it as it is.

    Raises
    ------
    ValueError
        Naming the first weight that does not fit.
    """
    here = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in here | given:
        if here.get(name) != given.get(name):
            shapes = (str(shapes.get(name, "absent")) for shapes in (given, here))
            raise ValueError("{} is {}, and should be {}".format(name, *shapes))
    module.load_state_dict(weights)
