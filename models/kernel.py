"""A next-token kernel: for each prefix, a distribution over what comes next."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

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
