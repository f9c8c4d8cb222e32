"""Token ids as they come from outside: checked once, at the door."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int


def whole(name: str, tokens: Any) -> Int[np.ndarray, " n"]:
    """Integers, one after another, as an int64 array.

    Raises
    ------
    ValueError
        If they are something else.
    """
    found = np.asarray(tokens)
    if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
        raise ValueError(f"{name} are {found.dtype} of shape {found.shape}; they must be integers one after another")
    return found.astype(np.int64, copy=False)


def checked(name: str, tokens: Any, n_tokens: int) -> Int[np.ndarray, " n"]:
    """Token ids as an int64 array.

    Raises
    ------
    ValueError
        If they are not integers in ``0 .. n_tokens - 1``, one after another.
    """
    found = whole(name, tokens)
    if len(found) and not (found.min() >= 0 and found.max() < n_tokens):
        worst = int(found.min() if found.min() < 0 else found.max())
        raise ValueError(f"{name} hold {worst}; they must lie in 0 .. {n_tokens - 1}")
    return found
