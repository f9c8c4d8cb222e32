"""What is done to each row of a model when it is deployed: kernels made of kernels, one decoding rule each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel


@dataclass(frozen=True)
class Tempered:
    """Rows ``p^(1/T) / Σ p^(1/T)``: sharper below T = 1, flatter above.

    With b = 1/T the entropy of a row obeys ``dH/db = -b Var_b(log p)``. It is no temperature of whole strings: those
    have the law ``Π p^b`` normalised once, and the two differ by the product of the rows' normalisers.

    Parameters
    ----------
    base : Kernel
    temperature : float
        Above 0 and finite; its limit at 0 is :class:`Greedy`.

    Raises
    ------
    ValueError
        If the temperature is out of range.
    """

    base: Kernel
    temperature: float

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature!r} must be above 0 and finite; the most probable token is Greedy"
            )

    @property
    def n_tokens(self) -> int:
        return self.base.n_tokens

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """In nats; what the base forbids stays forbidden."""
        return (self.base.log_probs(batch) / self.temperature).log_softmax(-1)


class Restricted(ABC):
    """A kernel whose rows are those of its base on the tokens that may still be said, normalised again.

    The row ``q = p / Z``, Z being the mass of what is kept, has ``KL(q‖p) = -log Z``, a total variation of ``1 - Z``
    from p, and an infinite ``KL(p‖q)`` unless Z is 1.
    """

    base: Kernel

    @abstractmethod
    def kept(self, rows: Float[Tensor, "*any vocab"]) -> Bool[Tensor, "*any vocab"]:
        """Which tokens of log-probability rows remain; one at least."""

    @property
    def n_tokens(self) -> int:
        return self.base.n_tokens

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """In nats; ``-inf`` for what is not kept."""
        return self._masked(batch).log_softmax(-1)

    def log_mass(self, batch: Batch) -> Float[Tensor, "batch time"]:
        """``log Z``: how much of each row of the base, in nats, lies on what is kept."""
        return self._masked(batch).logsumexp(-1)

    def _masked(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        rows = self.base.log_probs(batch)
        return rows.masked_fill(~self.kept(rows), -math.inf)


@dataclass(frozen=True)
class TopK(Restricted):
    """The ``k`` most probable tokens; of equals, the lowest.

    Raises
    ------
    ValueError
        If k is below 1.
    """

    base: Kernel
    k: int

    def __post_init__(self) -> None:
        at_least("k", self.k, 1)

    def kept(self, rows: Float[Tensor, "*any vocab"]) -> Bool[Tensor, "*any vocab"]:
        """The first ``k`` of each row in order of probability."""
        return _rank(rows) < self.k


@dataclass(frozen=True)
class Nucleus(Restricted):
    """The fewest most probable tokens whose mass is ``p`` or more: the one that crosses ``p`` is kept.

    Holtzman and others, arXiv 1904.09751.

    Raises
    ------
    ValueError
        If p is not above 0 and at most 1.
    """

    base: Kernel
    p: float

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1:
            raise ValueError(f"p={self.p!r} must be above 0 and at most 1")

    def kept(self, rows: Float[Tensor, "*any vocab"]) -> Bool[Tensor, "*any vocab"]:
        """Tokens before which, in order of probability, less than ``p`` has gathered."""
        order = rows.argsort(dim=-1, descending=True, stable=True)
        probabilities = rows.gather(-1, order).double().exp()
        before = probabilities.cumsum(-1) - probabilities
        return torch.zeros_like(rows, dtype=torch.bool).scatter(-1, order, before < self.p)


@dataclass(frozen=True)
class MinP(Restricted):
    """Tokens at least ``share`` as probable as the most probable one.

    Nguyen and others, arXiv 2407.01082.

    Raises
    ------
    ValueError
        If share is not above 0 and at most 1.
    """

    base: Kernel
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share!r} must be above 0 and at most 1")

    def kept(self, rows: Float[Tensor, "*any vocab"]) -> Bool[Tensor, "*any vocab"]:
        """Tokens within ``-log share`` nats of the best."""
        return rows >= rows.max(-1, keepdim=True).values + math.log(self.share)


@dataclass(frozen=True)
class Eta(Restricted):
    """Tokens above ``min(epsilon, √epsilon · e^-H)``, H the entropy of the row; the most probable one always.

    Hewitt, Manning and Liang, arXiv 2210.15191.

    Raises
    ------
    ValueError
        If epsilon is not above 0 and below 1.
    """

    base: Kernel
    epsilon: float

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon={self.epsilon!r} must be above 0 and below 1")

    def kept(self, rows: Float[Tensor, "*any vocab"]) -> Bool[Tensor, "*any vocab"]:
        """Tokens above a threshold that falls as a row is less certain."""
        entropy = -torch.xlogy(rows.exp(), rows.exp()).sum(-1, keepdim=True)
        threshold = torch.clamp(0.5 * math.log(self.epsilon) - entropy, max=math.log(self.epsilon))
        return (rows > threshold) | (_rank(rows) == 0)


@dataclass(frozen=True)
class Greedy(Restricted):
    """The most probable token, with certainty; of equals, the lowest."""

    base: Kernel

    def kept(self, rows: Float[Tensor, "*any vocab"]) -> Bool[Tensor, "*any vocab"]:
        """The first of each row in order of probability."""
        return _rank(rows) == 0


def _rank(rows: Float[Tensor, "*any vocab"]) -> Tensor:
    """The place of each token in order of probability, from 0; of equals the lowest token comes first."""
    return rows.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
