"""Several models as one: a mixture of their strings, or of their rows, which is another law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel

#: Weights add up to 1 within this.
CLOSE = 1e-6


@dataclass(frozen=True)
class Mixture:
    """One of several models is drawn, and then says the whole string: ``p(x) = Σ w_i p_i(x)``.

    Row by row the weights are posterior, ``∝ w_i Π p_i(past)``: the mixture learns in its context which model
    it is reading. Laws and weights are those given the first token, which no row says. Retrieval and
    self-consistency are mixtures of this kind.

    Parameters
    ----------
    kernels : sequence of Kernel
    weights : sequence of float
        Above 0, adding up to 1.

    Raises
    ------
    ValueError
        If there is no kernel, vocabularies differ, or the weights do not fit.
    """

    kernels: Sequence[Kernel]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        _checked(self)

    @property
    def n_tokens(self) -> int:
        return self.kernels[0].n_tokens

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """In nats, float64.

        Raises
        ------
        ValueError
            If a past is impossible under every kernel.
        """
        rows = torch.stack([kernel.log_probs(batch).double() for kernel in self.kernels])
        return (self._log_posterior(rows, batch)[..., None] + rows).logsumexp(0)

    def posterior(self, batch: Batch) -> Float[Tensor, "kernel batch time"]:
        """The probability of each model after ``tokens[:, : t + 1]``."""
        rows = torch.stack([kernel.log_probs(batch).double() for kernel in self.kernels])
        return self._log_posterior(rows, batch).exp()

    def _log_posterior(
        self, rows: Float[Tensor, "kernel batch time vocab"], batch: Batch
    ) -> Float[Tensor, "kernel batch time"]:
        prior = torch.tensor(self.weights, dtype=torch.float64, device=rows.device).log()
        read = batch.tokens[:, 1:].expand(len(rows), -1, -1)[..., None]
        said = rows[:, :, :-1].gather(-1, read)[..., 0].cumsum(-1)
        joint = prior[:, None, None] + torch.cat([torch.zeros_like(rows[:, :, :1, 0]), said], dim=-1)
        total = joint.logsumexp(0)
        if total.isneginf().any():
            b, t = total.isneginf().nonzero()[0].tolist()
            raise ValueError(f"tokens[{b}, : {t + 1}] is impossible under every kernel of the mixture")
        return joint - total


@dataclass(frozen=True)
class Interpolated:
    """Rows averaged with fixed weights, ``Σ w_i p_i(· | past)``: at every token a model is drawn anew.

    Parameters and refusals are those of :class:`Mixture`, whose law it is not.
    """

    kernels: Sequence[Kernel]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        _checked(self)

    @property
    def n_tokens(self) -> int:
        return self.kernels[0].n_tokens

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """In nats, float64."""
        rows = torch.stack([kernel.log_probs(batch).double() for kernel in self.kernels])
        weights = torch.tensor(self.weights, dtype=torch.float64, device=rows.device)
        return (weights.log()[:, None, None, None] + rows).logsumexp(0)


def _checked(mixture: Mixture | Interpolated) -> None:
    kernels, weights = tuple(mixture.kernels), tuple(float(weight) for weight in mixture.weights)
    if not kernels or len(weights) != len(kernels):
        raise ValueError(
            f"there are {len(kernels)} kernels and {len(weights)} weights; as many are needed, one at least"
        )
    sizes = [kernel.n_tokens for kernel in kernels]
    if len(set(sizes)) > 1:
        raise ValueError(f"kernels have vocabularies of {sizes} tokens; they must be one")
    if not all(weight > 0 for weight in weights) or abs(sum(weights) - 1) > CLOSE:
        raise ValueError(f"weights={mixture.weights!r} must all be above 0 and add up to 1")
    object.__setattr__(mixture, "kernels", kernels)
    object.__setattr__(mixture, "weights", weights)
