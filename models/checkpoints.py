"""Models on disk: one safetensors file each, with a JSON account of what made it. Nothing unpickles."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from nextlens.models import smollm2
from nextlens.models.arguments import one_of
from nextlens.models.attached import Attached, ReadLogits
from nextlens.models.gguf import load_gguf
from nextlens.models.hooked import Hooked
from nextlens.models.hugging_face import PICKLES, bridged, load_directory, wrapped
from nextlens.models.induction.matching_model import MatchingConfig, MatchingModel
from nextlens.models.induction.residual_head import HeadConfig, ResidualHead
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.state_dicts import Config, from_weights, read_weights
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.models.vocabulary import Vocabulary, fitting
from nextlens.models.weights import precision, put_weights, refuse_not_finite

#: What the JSON header looks like; a file of another format is refused.
FORMAT = 1

#: What can be written, by the name of its class; a file that names none holds a Transformer.
KINDS = {
    "Transformer": (Transformer, TransformerConfig),
    "Recurrent": (Recurrent, RecurrentConfig),
    "MatchingModel": (MatchingModel, MatchingConfig),
    "ResidualHead": (ResidualHead, HeadConfig),
}
Kept = Transformer | Recurrent | MatchingModel | ResidualHead

#: The file looked for when a folder is given.
FILE_NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """All that the next training step depends on.

    Attributes
    ----------
    index : int
        The last step taken, from 0.
    tokens : int
        Positions trained on so far.
    model, objective, optimiser : dict of str to Tensor
        Weights of the model, weights of the objective's head if it has one, and the optimiser's moments
        by the parameter's place and slot (``"3.exp_avg"``).
    stream : dict, optional
        Where the batch source stood (JSON-able).
    optimiser_name : str
        The optimiser's class, whose moments are of no use to another.
    """

    index: int
    tokens: int
    model: dict[str, Tensor]
    objective: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Tensor] = field(default_factory=dict)
    stream: dict[str, Any] | None = None
    optimiser_name: str = ""


def save(
    path: str | os.PathLike[str],
    model: Kept,
    *,
    made_by: Mapping[str, Any] | None = None,
    training: TrainingState | None = None,
) -> Path:
    """Write ``model``, and how training goes on from it, as one file; whole or not at all.

    The file is written beside ``path``, flushed to disk, then renamed over it: whoever reads
    ``path``, whenever the writer was killed, finds the previous checkpoint or this one.

    Parameters
    ----------
    path : path
        A file; or a folder, in which it is called ``checkpoint.safetensors``. Folders are made.
    model : Transformer, Recurrent, MatchingModel or ResidualHead
    made_by : mapping, optional
        JSON-able: process, seed, step, whatever repeats it. Versions are added.
    training : TrainingState, optional
        From :meth:`~nextlens.models.training.Step.state`, for an exact resume. Its weights are the ones
        written, so that they belong to its moments and its count even if ``model`` has been trained on.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        If ``made_by`` is not JSON-able, or ``model`` is of none of these classes.
    OSError
        If the file cannot be written, naming it.
    """
    target = _file(path)
    header: dict[str, Any] = {
        "format": FORMAT,
        "kind": one_of("the class of model", type(model).__name__, tuple(KINDS)),
        "config": asdict(model.config),
        "made_by": dict(made_by or {}),
        "versions": {
            "nextlens": version("nextlens"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    weights = model.state_dict() if training is None else training.model
    tensors = {f"model/{name}": value for name, value in weights.items()}
    if training is not None:
        plain = ("index", "tokens", "stream", "optimiser_name")
        header["training"] = {name: getattr(training, name) for name in plain}
        for part in ("objective", "optimiser"):
            tensors |= {f"{part}/{name}": value for name, value in getattr(training, part).items()}
    try:
        text = json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"made_by or the data stream cannot be written as JSON: {error}") from error
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
            partial,
            metadata={"nextlens": text},
        )
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    except (OSError, SafetensorError) as error:
        raise OSError(f"cannot write the checkpoint {str(target)!r}: {error}") from error
    return target


def load(
    what: Any,
    config: Config | None = None,
    *,
    sites: Mapping[str, nn.Module | str] | None = None,
    logits: ReadLogits | None = None,
    unembedding: nn.Module | str | Tensor | None = None,
    n_ctx: int | None = None,
    vocabulary: Vocabulary | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Hooked:
    """A model, from wherever it is.

    Nothing is fetched, no pickle is read but with ``weights_only=True``, no code of a model's folder is run.

    Parameters
    ----------
    what : path, mapping, TransformerBridge or nn.Module
        - Our own checkpoint: the file, or its folder.
        - A Hugging Face directory: ``config.json`` and safetensors, whole or in shards.
        - A ``.gguf`` file, or a folder with one. Needs the package ``gguf``.
        - ``"smollm2-135m"``: SmolLM2-135M-Instruct, from the package that carries it.
        - A state dict, or a ``.pt`` or ``.safetensors`` file of one; with ``config``.
        - A ``TransformerBridge``, or a transformers model; its modules are replaced in place.
        - Any ``nn.Module``, with ``sites``.
    config : TransformerConfig, RecurrentConfig, TransformerBridgeConfig or PretrainedConfig, optional
        What a state dict is the state of.
    sites, logits, unembedding, n_ctx
        For an ``nn.Module``: see :class:`~nextlens.models.attached.Attached`.
    vocabulary : Vocabulary, optional
        In place of what comes with the model.
    device : str or torch.device, optional
        The CPU if not given; a model in memory stays where it is.
    dtype : str or torch.dtype, optional
        The precision of the weights: float32 if not given; ours have the one they were saved in, a model
        in memory keeps its own.

    Returns
    -------
    Hooked
        In evaluation mode, but for a ``Hooked`` in memory, which is returned as it is.
        ``.vocabulary`` is what its tokens spell, or None if nothing said so.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If a package is needed that is not installed, with the command that installs it.
    TypeError
        If ``what`` is none of these.
    ValueError
        If a file is truncated, needs code to be read, is no model, or is of a format or a shape that this
        version does not read: one sentence that names the file. Also if an argument does not go with
        ``what``.

    Examples
    --------
    >>> model = load({"embed": nn.Embedding(3, 8).weight}, TransformerConfig(n_tokens=3, n_layers=0))
    Traceback (most recent call last):
    ...
    ValueError: 'the state dict' does not fit its config: embed.W_E is absent, and should be (3, 64)
    """
    dtype = None if dtype is None else precision(dtype)
    parts = {"sites": sites, "logits": logits, "unembedding": unembedding, "n_ctx": n_ctx}
    if isinstance(what, str | os.PathLike):
        _refuse_arguments(parts, "a path")
        model = _from_path(what, config, device or "cpu", dtype)
    elif isinstance(what, Mapping):
        _refuse_arguments(parts, "a state dict")
        _refuse_without(config, "a state dict")
        model = from_weights(what, config, device=device, dtype=dtype or torch.float32)
    else:
        _refuse_arguments({"config": config}, "a model in memory")
        model = _from_memory(what, parts, vocabulary)
        model = model if device is None and dtype is None else model.to(device=device, dtype=dtype)
    if vocabulary is not None:
        model.vocabulary = fitting(vocabulary, model.n_tokens)
    return model


def _from_path(
    what: str | os.PathLike[str], config: Config | None, device: str | torch.device, dtype: torch.dtype | None
) -> Hooked:
    path, wanted = Path(what), dtype or torch.float32
    if str(what) == smollm2.NAME and not path.exists():
        path = smollm2.smollm2_path()
    if config is not None:
        return from_weights(read_weights(path), config, where=str(path), device=device, dtype=wanted)
    if path.is_dir() and not (path / FILE_NAME).is_file():
        found = sorted(path.glob("*.gguf"))
        if (path / "config.json").is_file():
            return load_directory(path, device=device, dtype=wanted)
        if not found:
            raise FileNotFoundError(
                f"there is no checkpoint at {str(path / FILE_NAME)!r}, nor config.json or a GGUF file beside it"
            )
        if len(found) > 1:
            raise ValueError(f"{str(path)!r} holds {len(found)} GGUF files; give one of them, {str(found[0])!r}")
        path = found[0]
    if path.suffix == ".gguf":
        return load_gguf(path, device=device, dtype=wanted)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no checkpoint at {str(_file(path))!r}; nothing is fetched by its name: give a folder or a file"
        )
    if path.suffix in PICKLES:
        _refuse_without(config, repr(str(path)))
    model = _load_ours(_file(path), device, dtype)
    if isinstance(model, MatchingModel | ResidualHead):
        raise ValueError(f"{str(_file(path))!r} holds a {type(model).__name__}, which load_matcher reads")
    return model


def load_matcher(
    path: str | os.PathLike[str], *, device: str | torch.device = "cpu", dtype: str | torch.dtype | None = None
) -> MatchingModel | ResidualHead:
    """What :func:`save` wrote of a matching model, or of a head, which comes without the model that it reads.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load`; also if it holds a model of another kind.
    """
    model = _load_ours(_file(path), device, None if dtype is None else precision(dtype))
    if not isinstance(model, MatchingModel | ResidualHead):
        raise ValueError(f"{str(_file(path))!r} holds a {type(model).__name__}, which load reads")
    return model


def _from_memory(what: Any, parts: Mapping[str, Any], vocabulary: Vocabulary | None) -> Hooked:
    if isinstance(what, nn.Module) and parts["sites"] is not None:
        return Attached(what, vocabulary=vocabulary, **parts)
    _refuse_arguments(parts, "a model without sites")
    if isinstance(what, TransformerBridge):
        return bridged(what)
    if isinstance(what, PreTrainedModel):
        return wrapped(what, type(what).__name__)
    if isinstance(what, Hooked):
        return what
    if isinstance(what, nn.Module):
        raise ValueError(f"a {type(what).__name__} needs sites={{name: submodule}}, the values that can be watched")
    raise TypeError(
        f"what is a {type(what).__name__}; it must be a path, a state dict, a TransformerBridge or a module"
    )


def _refuse_arguments(given: Mapping[str, Any], what: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is given, which does not go with {what}")


def _refuse_without(config: Config | None, what: str) -> None:
    if config is None:
        raise ValueError(
            f"{what} holds bare weights: give the config of the model too, load(weights, config); "
            "of a Hugging Face directory, give the folder"
        )


def _load_ours(target: Path, device: str | torch.device, dtype: torch.dtype | None) -> Kept:
    header, tensors = _read(target, "model/")
    try:
        made, configured = KINDS[one_of("kind", header.get("kind", "Transformer"), tuple(KINDS))]
        model = made(configured(**header["config"])).to(_dtype_of(tensors))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(target)!r} describes a model this version does not know: {error}") from error
    try:
        put_weights(model, tensors)
    except ValueError as error:
        raise ValueError(f"the weights in {str(target)!r} do not fit its own description: {error}") from error
    refuse_not_finite(model.named_parameters(), str(target))
    return model.to(device=device, dtype=dtype)


def load_training(path: str | os.PathLike[str]) -> TrainingState:
    """What :func:`~nextlens.models.training.train` takes as ``resume``.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load`; also if the checkpoint holds a model only.
    """
    target = _file(path)
    header, tensors = _read(target, "")
    if "training" not in header:
        raise ValueError(f"{str(target)!r} holds a model but not how its training goes on; it cannot be resumed")
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "objective": {}, "optimiser": {}}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = value
    return TrainingState(**header["training"], **parts)


def recipe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What made the checkpoint: ``config``, ``made_by``, ``versions``; the weights are not read.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load`.
    """
    header, _ = _read(_file(path), None)
    return {name: header[name] for name in ("config", "made_by", "versions")}


def _dtype_of(weights: Mapping[str, Tensor]) -> torch.dtype:
    return next((value.dtype for value in weights.values()), torch.get_default_dtype())


def _file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path / FILE_NAME if path.is_dir() or (path.suffix == "" and not path.is_file()) else path


def _read(path: Path, prefix: str | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header, and the tensors whose names start with ``prefix``, without it (None: no tensors)."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {str(path)!r}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = _header(path, (file.metadata() or {}).get("nextlens"))
            wanted = [] if prefix is None else [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return header, {name.removeprefix(prefix or ""): file.get_tensor(name) for name in wanted}
    except SafetensorError as error:
        size = path.stat().st_size
        raise ValueError(
            f"{str(path)!r} ({size} bytes) is truncated or is no safetensors file, so it is not read: {error}"
        ) from error


def _header(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise ValueError(
            f"{str(path)!r} is a safetensors file, but not a nextlens checkpoint; of a Hugging Face directory give the "
            "folder, for bare weights a config too"
        )
    try:
        header = json.loads(text)
        made_in = header["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is a safetensors file, but its header is not of nextlens") from error
    if made_in != FORMAT:
        raise ValueError(f"{str(path)!r} is of checkpoint format {made_in!r}; this version of nextlens reads {FORMAT}")
    return header
