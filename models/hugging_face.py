"""A Hugging Face directory as a ``Hooked`` kernel: safetensors only, offline, none of its code is run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module, detect_tokenizer_bos_eos
from transformer_lens.utilities.attn_implementation import force_eager_attention
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import __version__ as transformers_version
from transformers.utils import logging

from nextlens.models.bridge import Bridged
from nextlens.models.kernel import refuse_looking_ahead
from nextlens.models.subwords import Subwords
from nextlens.models.weights import refuse_not_finite

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

#: Suffixes under which pickled weights go; such a file is never opened.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

#: A directory with none of these has no vocabulary.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")

#: More of the model's tokens than this share unknown to the tokenizer: more than padding, and worth a warning.
UNREACHED = 0.02


def load_directory(folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Bridged:
    """The language model in ``folder``, wrapped by TransformerLens, in evaluation mode; its vocabulary with it.

    Attention is computed step by step (``eager``), so that patterns can be watched. The weights are those
    of the files: nothing is folded or centred.

    Raises
    ------
    FileNotFoundError
        If a file is missing: the configuration, the weights, one of their shards.
    ValueError
        In one sentence that names the file and the way out: pickled weights, code of its own, a truncated
        file, missing, mismatched or non-finite weights, an architecture that is not wrapped or is no
        next-token model, a tokenizer that is not this model's.
    """
    config = _config(folder)
    for path in _weight_files(folder):
        _refuse_truncated(path)
    try:
        with offline():
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation="eager",
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever transformers raises
        raise ValueError(
            f"{str(folder)!r} is not loaded by transformers {transformers_version}: {first_line(error)}"
        ) from error
    refuse_other_weights(report, str(folder))
    return wrapped(model.to(device), str(folder), tokenizer=_tokenizer(folder))


def wrapped(model: PreTrainedModel, name: str, *, tokenizer: Any = None) -> Bridged:
    """A transformers model in memory as a ``Hooked`` kernel; its modules are replaced in place.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    name : str
        What errors call it.
    tokenizer : transformers tokenizer, optional

    Raises
    ------
    ValueError
        As :func:`load_directory`.
    """
    architecture = type(model).__name__
    if architecture not in SUPPORTED_ARCHITECTURES:
        raise ValueError(
            f"{name!r} holds a {architecture}, which TransformerLens does not wrap; load it with transformers and "
            "give load(model, sites={name: submodule})"
        )
    refuse_not_finite(model.named_parameters(), name)
    vocabulary = (
        None if tokenizer is None else vocabulary_of(tokenizer, model.get_input_embeddings().num_embeddings, name)
    )
    try:
        force_eager_attention(model)
        bridge = build_bridge_from_module(model.eval(), architecture, hf_config=model.config, model_name=name)
        if tokenizer is not None:
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
            bridge.tokenizer = tokenizer
            bridge.cfg.tokenizer_prepends_bos, bridge.cfg.tokenizer_appends_eos = detect_tokenizer_bos_eos(tokenizer)
        found = Bridged(bridge, vocabulary)
        reached = found.sites
    except Exception as error:  # whatever TransformerLens or transformers raise
        raise ValueError(
            f"{name!r} holds a {architecture}, which does not run through TransformerLens: {first_line(error)}"
        ) from error
    if not any(site.startswith("blocks.") for site in reached):
        raise ValueError(f"{name!r} holds a {architecture}, of which TransformerLens names no block")
    refuse_looking_ahead(found, name, device=model.device)
    return found


def bridged(bridge: TransformerBridge) -> Bridged:
    """A bridge that somebody else made as a ``Hooked`` kernel, with the vocabulary of its tokenizer.

    Raises
    ------
    ValueError
        If a weight is not finite, the tokenizer is too large, or a later token changes what was said before it.
    """
    name = bridge.cfg.model_name or "the bridge"
    refuse_not_finite(bridge.named_parameters(), name)
    vocabulary = None if bridge.tokenizer is None else vocabulary_of(bridge.tokenizer, bridge.cfg.d_vocab, name)
    found = Bridged(bridge.eval(), vocabulary)
    refuse_looking_ahead(found, name, device=next(bridge.parameters()).device)
    return found


@contextmanager
def offline() -> Iterator[None]:
    """While open, transformers asks no network, draws no progress bar and logs errors only."""
    bars, level, before = logging.is_progress_bar_enabled(), logging.get_verbosity(), constants.HF_HUB_OFFLINE
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _config(folder: Path) -> Any:
    described = _json(folder / "config.json")
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in _json(folder / name):
            raise ValueError(
                f"{str(folder / name)!r} names code of its own (auto_map), which is not run; if transformers knows "
                f"{described.get('model_type')!r} without it, take auto_map out of the file"
            )
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever transformers raises
        raise ValueError(
            f"{str(folder / 'config.json')!r} describes no model that transformers {transformers_version} knows "
            f"(model_type {described.get('model_type')!r})"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {str(path)!r}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is truncated or is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} holds no JSON object")
    return found


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(_json(folder / INDEX)["weight_map"].values()))
        except (KeyError, AttributeError) as error:
            raise ValueError(f"{str(folder / INDEX)!r} holds no weight_map") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{str(folder)!r} lacks {len(missing)} of its {len(names)} shards, {missing[0]!r} first; "
                "fetch the missing ones"
            )
        return [folder / name for name in names]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise ValueError(
            f"{str(folder)!r} holds its weights only as a pickle, {pickles[0]!r}, which can run code and is not "
            f"opened; fetch {WEIGHTS!r} instead, or convert it where you trust it: model.save_pretrained(folder)"
        )
    raise FileNotFoundError(f"{str(folder)!r} holds no weights: neither {WEIGHTS!r} nor {INDEX!r}")


def _refuse_truncated(path: Path) -> None:
    try:
        with safe_open(path, framework="pt"):
            return
    except SafetensorError as error:
        size = path.stat().st_size
        raise ValueError(
            f"{str(path)!r} ({size} bytes) is truncated or is no safetensors file; fetch it again ({error})"
        ) from error


def refuse_other_weights(report: dict[str, Any], name: str) -> None:
    """Raise unless the weights that were found are those of the model; ``report`` is transformers' own.

    Raises
    ------
    ValueError
        If a weight is of another shape than the configuration says, or is missing.

    Warns
    -----
    UserWarning
        If there are weights that the model does not read.
    """
    for weight, found, expected in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"{weight} in {name!r} is {tuple(found)}, and should be {tuple(expected)}: "
            "the configuration and the weights are of two models"
        )
    missing, unread = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        raise ValueError(f"{name!r} lacks {len(missing)} of the model's weights, {missing[0]} first")
    if unread:
        warnings.warn(
            f"{name!r} holds {len(unread)} weights that the model does not read, {unread[0]} first", stacklevel=4
        )


def _tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return None
    try:
        with offline():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever transformers or tokenizers raise
        raise ValueError(f"the tokenizer in {str(folder)!r} cannot be read: {first_line(error)}") from error


def vocabulary_of(tokenizer: Any, n_tokens: int, name: str) -> Subwords | None:
    """A transformers tokenizer as a ``Vocabulary``; None, with a warning, if it is not of the tokenizers library.

    Tokens that were added beyond the model's own (for padding, say) are left out: the model cannot read them.

    Raises
    ------
    ValueError
        If it holds more tokens than the model's ``n_tokens``.
    """
    if not hasattr(tokenizer, "backend_tokenizer"):
        warnings.warn(f"{type(tokenizer).__name__} of {name!r} is no fast tokenizer; it is left out", stacklevel=4)
        return None
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["id"] < n_tokens]
    vocabulary = Subwords(Tokenizer.from_str(json.dumps(described)))
    if vocabulary.n_tokens > n_tokens:
        raise ValueError(
            f"the tokenizer in {name!r} has {vocabulary.n_tokens} tokens and the model {n_tokens}: "
            "it is the tokenizer of another model"
        )
    if vocabulary.n_tokens < (1 - UNREACHED) * n_tokens:
        warnings.warn(
            f"the tokenizer in {name!r} has {vocabulary.n_tokens} tokens and the model {n_tokens}; "
            "check that it is this model's",
            stacklevel=4,
        )
    return vocabulary


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
