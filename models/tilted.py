"""The optimum of reward against divergence from a base model, exactly, where strings can be listed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel

#: Strings listed at most.
MOST_STRINGS = 1 << 20


@dataclass(frozen=True, eq=False)
class Tilted:
    """The policy of largest ``E[r] - β KL(π‖p)`` on strings of ``horizon`` tokens: ``π(x) ∝ p(x) e^{r(x) / β}``.

    As a kernel: with soft values ``U(x) = r(x) / β`` of whole strings and ``U(prefix) = log Σ_a p(a | prefix)
    e^{U(prefix a)}``, a row is ``p(a | prefix) e^{U(prefix a) - U(prefix)}``. It is what policies trained by
    reinforcement are compared with; weighing each row by its own reward alone is another policy. All strings are
    listed, and everything is given the first token.

    Parameters
    ----------
    base : Kernel
    reward : callable
        From strings of tokens, shape (string, horizon), to their rewards, shape (string,).
    beta : float
        Above 0: what a nat of divergence costs.
    horizon : int
        Tokens of a whole string, the first one counted; 2 or more.

    Raises
    ------
    ValueError
        If a number is out of range, or there are more than 2^20 strings.
    """

    base: Kernel
    reward: Callable[[Int[Tensor, "string horizon"]], Float[Tensor, " string"]]
    beta: float
    horizon: int

    def __post_init__(self) -> None:
        at_least("horizon", self.horizon, 2)
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta={self.beta!r} must be above 0 and finite")
        if self.base.n_tokens**self.horizon > MOST_STRINGS:
            raise ValueError(
                f"horizon={self.horizon} of {self.base.n_tokens} tokens is {self.base.n_tokens**self.horizon} strings; "
                f"at most {MOST_STRINGS} are listed"
            )

    @property
    def n_tokens(self) -> int:
        return self.base.n_tokens

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """In nats, float64. After a prefix that the base forbids, the row of the base.

        Raises
        ------
        ValueError
            If more is read than ``horizon - 1`` tokens, or not in order: nothing follows a whole string.
        """
        time = batch.tokens.shape[1]
        if time >= self.horizon:
            raise ValueError(
                f"tokens have {time} positions; of strings of {self.horizon} at most {self.horizon - 1} are read"
            )
        if batch.attend is not None or not batch.in_order:
            raise ValueError("Tilted reads plain strings: attend must be None and positions in order")
        place, rows = torch.zeros_like(batch.tokens[:, 0]), []
        for t in range(time):
            place = place * self.n_tokens + batch.tokens[:, t]
            rows.append(self._rows[t].to(batch.device)[place])
        return torch.stack(rows, dim=1)

    def value(self, opening: Float[Tensor, " vocab"]) -> float:
        """``log Z``, the soft value of the empty prefix, given the law of the first token in nats.

        ``β log Z`` is the largest ``E[r] - β KL``, the divergence of the first token counted.
        """
        return float((opening.double() + self._values[0].cpu()).logsumexp(0))

    @cached_property
    def _base_rows(self) -> list[Float[Tensor, "prefix vocab"]]:
        """Rows of the base after every prefix of 1 .. horizon - 1 tokens, in the order of their digits."""
        found = []
        for length in range(1, self.horizon):
            words = torch.tensor(list(itertools.product(range(self.n_tokens), repeat=length)))
            found.append(self.base.log_probs(Batch.from_tokens(torch.nn.functional.pad(words, (0, 1))))[:, -1].double())
        return found

    @cached_property
    def _values(self) -> list[Float[Tensor, " prefix"]]:
        """Soft values of every prefix of 1 .. horizon tokens."""
        strings = torch.tensor(list(itertools.product(range(self.n_tokens), repeat=self.horizon)))
        rewards = self.reward(strings)
        if rewards.shape != strings.shape[:1] or not torch.isfinite(rewards).all():
            raise ValueError(f"reward gave shape {tuple(rewards.shape)}; it must give {len(strings)} finite numbers")
        values = [rewards.double() / self.beta]
        for rows in reversed(self._base_rows):
            values.append((rows + values[-1].view(rows.shape)).logsumexp(-1))
        return values[::-1]

    @cached_property
    def _rows(self) -> list[Float[Tensor, "prefix vocab"]]:
        tilted = []
        for rows, here, after in zip(self._base_rows, self._values[:-1], self._values[1:], strict=True):
            row = rows + after.view(rows.shape) - here[:, None]
            tilted.append(torch.where(here[:, None].isneginf(), rows, row))
        return tilted
