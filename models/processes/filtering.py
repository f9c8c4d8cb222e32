"""The ideal observer: one token in, one belief out."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

#: Floats gathered at once while filtering, so that a step stays in cache.
GATHERED = 2**18


def alphabetic(tokens: Any, n_tokens: int, name: str) -> Int[np.ndarray, "sequence position"]:
    """``tokens`` as an array, if they are integers in ``0 .. n_tokens - 1``, which is what ``name`` says.

    Raises
    ------
    ValueError
        Naming their shape or type, or the first that is outside.
    """
    read = np.asarray(tokens)
    if read.ndim != 2:
        raise ValueError(f"tokens has shape {read.shape}; it must be (sequence, position)")
    if not np.issubdtype(read.dtype, np.integer):
        raise ValueError(f"tokens are {read.dtype}; they must be integers")
    outside = (read < 0) | (read >= n_tokens)
    if outside.any():
        b, t = np.argwhere(outside)[0].tolist()
        raise ValueError(f"tokens[{b}, {t}] is {read[b, t]}; {name!r} says 0 .. {n_tokens - 1} only")
    return read


def filtered(
    transition: Float[np.ndarray, "token state state"],
    functional: Float[np.ndarray, " state"],
    tokens: Int[np.ndarray, "sequence position"],
    initial: Float[np.ndarray, "sequence state"],
    *,
    impossible: float,
) -> tuple[Float[np.ndarray, "sequence position state"], Float[np.ndarray, "sequence position"]]:
    """Beliefs after each token, and the probability each token had before it was read.

    ``p(x | b) = b @ T[x] @ w`` and ``b' = b @ T[x] / p(x | b)``. Normalising at every step keeps the
    numbers near 1 however long the sequence, for signed tensors too.

    Raises
    ------
    ValueError
        Naming the first token whose probability is ``impossible`` or less.
    """
    beliefs = np.empty((*tokens.shape, len(functional)))
    probability = np.empty(tokens.shape)
    chunk = max(1, GATHERED // transition[0].size)
    for rows in (slice(start, start + chunk) for start in range(0, len(tokens), chunk)):
        belief = initial[rows]
        for t, read in enumerate(tokens[rows].T):
            joint = (belief[:, None] @ transition[read])[:, 0]
            said = joint @ functional
            if not said.min() > impossible:
                b = int((~(said > impossible)).argmax())
                raise ValueError(
                    f"tokens[{rows.start + b}, {t}] is {read[b]}, which has probability 0 after the tokens "
                    "before it; the process cannot say this sequence"
                )
            belief = joint / said[:, None]
            beliefs[rows, t], probability[rows, t] = belief, said
    return beliefs, probability


def children(
    transition: Float[np.ndarray, "token state state"],
    functional: Float[np.ndarray, " state"],
    beliefs: Float[np.ndarray, "node state"],
    *,
    cutoff: float,
) -> tuple[
    Int[np.ndarray, " child"],
    Int[np.ndarray, " child"],
    Float[np.ndarray, "child state"],
    Float[np.ndarray, " child"],
]:
    """Every belief one token later: parent, token, belief, and the token's probability.

    Children of one parent are neighbours, in order of token; those of probability ``cutoff`` or
    less are left out.
    """
    n_tokens, n_states, _ = transition.shape
    flat = transition.transpose(1, 0, 2).reshape(n_states, -1)
    joint = (beliefs @ flat).reshape(-1, n_states)
    probability = joint @ functional
    kept = np.flatnonzero(probability > cutoff)
    if len(kept) < len(joint):
        joint, probability = joint[kept], probability[kept]
    joint /= probability[:, None]
    parent, token = np.divmod(kept, n_tokens)
    return parent, token, joint, probability
