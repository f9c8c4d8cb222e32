"""A next-token kernel: for each prefix, a distribution over what comes next."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from nextlens.models.batch import Batch


@runtime_checkable
class Kernel(Protocol):
    """``p(x_{t+1} | x_{<=t})`` as log-probabilities, in nats.

    Row ``t`` of ``log_probs(batch)`` is the law of what follows ``tokens[:, : t + 1]``, so it is
    read against ``targets[:, t]``. The empty prefix has no row.

    The laws, to which ``tests/test_kernel_laws.py`` holds every implementation: rows sum to one;
    tokens after ``t`` never change row ``t``; row ``t`` equals the last row of the same kernel on
    ``tokens[:, : t + 1]``. A forbidden token has ``-inf``; no row holds NaN.

    Attributes
    ----------
    n_tokens : int
        Size of the vocabulary; tokens are ``0 .. n_tokens - 1``.
    """

    @property
    def n_tokens(self) -> int: ...

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Natural-log probabilities of every next token at every position."""
        ...


@torch.no_grad()
def refuse_looking_ahead(kernel: Kernel, name: str, *, device: str | torch.device = "cpu") -> None:
    """Raise if what the kernel says after one token depends on the next one, which it should not have seen.

    Tried on two sequences of two tokens; of use at the door, where somebody else's model comes in.

    Raises
    ------
    ValueError
        Naming the model by ``name``.
    """
    last = kernel.n_tokens - 1
    one, other = (Batch.from_tokens([[0, then, 0]], device=device) for then in (0, last))
    before, after = kernel.log_probs(one)[0, 0], kernel.log_probs(other)[0, 0]
    if not torch.allclose(before, after, atol=1e-5, rtol=1e-5):
        raise ValueError(
            f"{name!r} is no next-token model: what it says after one token changes with the token that follows it"
        )
