"""What a model is, in a few lines: class, size, shape, and what it can be asked."""

from __future__ import annotations

from typing import Any

import torch

from nextlens.models.hooked import Hooked
from nextlens.models.weights import refuse_not_finite

#: What a line is called, and the names under which configurations hold it.
SHAPE = {
    "layers": ("n_layers",),
    "heads in a layer": ("n_heads",),
    "key and value heads": ("n_key_value_heads",),
    "width of the residual stream": ("d_model",),
    "width of a head": ("d_head",),
    "hidden units of an MLP": ("d_mlp",),
    "context, tokens": ("n_ctx",),
    "normalisation": ("normalization_type", "normalisation"),
    "positions": ("positional_embedding_type", "positions"),
    "activation": ("act_fn", "activation"),
}


def config_of(model: Hooked) -> Any:
    """The configuration of a model: its own, or that of the bridge inside; None if it has none."""
    return getattr(model, "config", None) or getattr(getattr(model, "bridge", None), "cfg", None)


def context_of(model: Hooked) -> int | None:
    """How many tokens the model can read at a time; None if it does not say."""
    context = getattr(model, "n_ctx", None) or getattr(config_of(model), "n_ctx", None)
    return None if context is None else int(context)


def described(model: Hooked, name: str | None = None) -> dict[str, Any]:
    """The lines of the first table of a report.

    Raises
    ------
    ValueError
        If a weight is NaN or infinite, naming it.
    """
    weights = list(model.named_parameters()) if isinstance(model, torch.nn.Module) else []
    config = config_of(model)
    refuse_not_finite(weights, name or type(model).__name__)
    found = {
        "name": name or getattr(config, "model_name", None) or type(model).__name__,
        "class": type(model).__name__,
        "architecture": getattr(config, "architecture", None) or type(config).__name__.removesuffix("Config"),
        "parameters": sum({id(value): value.numel() for _, value in weights}.values()),
        "weights_bytes": sum({id(value): value.numel() * value.element_size() for _, value in weights}.values()),
        "precision": ", ".join(sorted({str(value.dtype).removeprefix("torch.") for _, value in weights})),
        "device": ", ".join(sorted({str(value.device) for _, value in weights})) or "cpu",
        "tokens in the vocabulary": model.n_tokens,
        "sites": len(model.sites),
    }
    for line, names in SHAPE.items():
        value = next((getattr(config, one) for one in names if getattr(config, one, None) is not None), None)
        if isinstance(value, str | int | float):
            found[line] = value
    return found
