"""Bare weights and a config: a TransformerLens state dict, a transformers one, ours; nothing that needs code."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import boot
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from nextlens.models.bridge import Bridged
from nextlens.models.hooked import Hooked
from nextlens.models.hugging_face import first_line, offline, refuse_other_weights, wrapped
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.transformer import Transformer
from nextlens.models.transformer_config import TransformerConfig
from nextlens.models.weights import put_weights, refuse_not_finite

#: What a state dict can be read with.
Config = TransformerConfig | RecurrentConfig | TransformerBridgeConfig | PretrainedConfig

#: What older TransformerLens versions wrote beside the weights, and a model makes for itself.
BUFFERS = (".mask", ".IGNORE", ".rotary_sin", ".rotary_cos")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a file that ``torch.save`` wrote; on the CPU.

    A pickle is read with ``weights_only=True``: what is more than weights is refused, and not run.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        In one sentence that names the file: truncated, more than weights, or weights inside something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of a pickle that is refused all the same
            found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{str(path)!r} is more than weights, or damaged: reading it could run code, so it is not read; where you "
            "trust it, save the weights alone: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        size = path.stat().st_size
        raise ValueError(
            f"{str(path)!r} ({size} bytes) is truncated or holds no weights; fetch it again ({first_line(error)})"
        ) from error
    _refuse_nested(found, str(path))
    return found


def from_weights(
    weights: Mapping[str, Tensor],
    config: Config,
    *,
    where: str = "the state dict",
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Hooked:
    """The model that ``config`` describes, with these weights.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Under TransformerLens's names (``blocks.0.attn.W_Q``) for our configs and TransformerLens's own,
        also as a native bridge names them (``blocks.0.attn.q.weight``); for a transformers config, under
        transformers' names. Masks and rotary tables among them are dropped: the model makes its own.
    config : TransformerConfig, RecurrentConfig, TransformerBridgeConfig or PretrainedConfig
    where : str
        What errors call them.
    device, dtype
        As :func:`~nextlens.models.checkpoints.load`.

    Raises
    ------
    ValueError
        Naming the weight that is missing, of another shape, unknown, or not finite.
    TypeError
        If ``config`` is of another kind.
    """
    _refuse_nested(weights, where)
    weights = {name: value for name, value in weights.items() if not name.endswith(BUFFERS)}
    refuse_not_finite(weights.items(), where)
    weights = {name: value.detach().to(dtype) for name, value in weights.items()}
    if isinstance(config, PretrainedConfig):
        model: Any = _transformers_model(weights, config, where, dtype)
        return wrapped(model.to(device), where)
    if isinstance(config, TransformerBridgeConfig):
        return Bridged(_native(weights, config, where).to(device or "cpu", print_details=False))
    if isinstance(config, RecurrentConfig):
        model = Recurrent(config)
    elif isinstance(config, TransformerConfig):
        model = Transformer(config)
        bias = weights.pop("unembed.b_U", None)
        if bias is not None and bias.any():
            raise ValueError(
                f"{where!r} has an unembedding bias; a Transformer has none: give TransformerLens's config"
            )
    else:
        raise TypeError(
            f"config is a {type(config).__name__}; it must be one of ours, TransformerLens's or transformers'"
        )
    _put(model.to(dtype), weights, where)
    return model.to(device)


def _native(weights: Mapping[str, Tensor], config: TransformerBridgeConfig, where: str) -> Any:
    config = deepcopy(config)
    config.seed = config.seed or 0
    if "embed.weight" not in weights:
        try:
            weights = convert_tl_checkpoint(dict(weights), config)
        except ValueError as error:
            raise ValueError(f"{where!r} does not fit its config: {first_line(error)}") from error
    bridge = boot(config)
    dtype = next(iter(weights.values())).dtype
    bridge.to(dtype=dtype, print_details=False)
    if "unembed.bias" not in weights:
        weights = {**weights, "unembed.bias": torch.zeros(config.d_vocab, dtype=dtype)}
    _put(bridge, weights, where)
    return bridge


def _transformers_model(weights: Mapping[str, Tensor], config: PretrainedConfig, where: str, dtype: torch.dtype) -> Any:
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"config is a {type(config).__name__}; transformers has no next-token model of that kind")
    try:
        with offline():
            model, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
                None,
                config=config,
                state_dict=dict(weights),
                dtype=dtype,
                attn_implementation="eager",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever transformers raises
        raise ValueError(f"{where!r} is not loaded with this config: {first_line(error)}") from error
    refuse_other_weights(report, where)
    return model


def _put(model: torch.nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    try:
        put_weights(model, weights)
    except ValueError as error:
        raise ValueError(f"{where!r} does not fit its config: {error}") from error


def _refuse_nested(found: Any, where: str) -> None:
    if not isinstance(found, Mapping):
        raise ValueError(f"{where!r} holds a {type(found).__name__}; it must be a state dict: tensors by name")
    others = [name for name, value in found.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others or not found:
        listed = ", ".join(map(repr, others[:4])) or "nothing"
        raise ValueError(
            f"{where!r} holds {listed} beside tensors; it must be a state dict: take the part of it that is one and "
            "give load(weights, config)"
        )
