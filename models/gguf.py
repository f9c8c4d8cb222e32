"""A GGUF file as a ``Hooked`` kernel: its weights de-quantised, its tokenizer with it, offline."""

from __future__ import annotations

import importlib.util
import warnings
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers import __version__ as transformers_version

from nextlens.models.bridge import Bridged
from nextlens.models.hugging_face import first_line, offline, refuse_other_weights, wrapped

MAGIC = b"GGUF"


def load_gguf(path: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Bridged:
    """The language model in ``path``, through transformers and TransformerLens, in evaluation mode.

    Quantised weights are unpacked to ``dtype``, so a file takes several times its size in memory, and its
    numbers are those of the quantised model, not of the one that it was made from.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the ``gguf`` package is missing, with the command that installs it.
    ValueError
        In one sentence that names the file: no GGUF, truncated, of an architecture that is not read,
        missing or non-finite weights.

    Warns
    -----
    UserWarning
        If there is no tokenizer in it that transformers reads; ``.vocabulary`` is then None.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {str(path)!r}")
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{str(path)!r} is no GGUF file: it does not begin with {MAGIC.decode()!r}")
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"a GGUF file needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    try:
        with offline(), redirect_stderr(StringIO()):  # one progress bar of transformers' cannot be turned off
            model, report = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=dtype,
                attn_implementation="eager",
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever gguf or transformers raise
        raise ValueError(
            f"{str(path)!r} ({path.stat().st_size} bytes) is truncated, or of an architecture that transformers "
            f"{transformers_version} does not read from GGUF: {first_line(error)}"
        ) from error
    refuse_other_weights(report, str(path))
    return wrapped(model.to(device), str(path), tokenizer=_tokenizer(path))


def _tokenizer(path: Path) -> Any:
    try:
        with offline():
            return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except Exception as error:  # whatever gguf or transformers raise
        warnings.warn(f"{str(path)!r} has no tokenizer that is read: {first_line(error)}", stacklevel=4)
        return None
