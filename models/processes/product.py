"""Independent processes side by side, read and written as one without ever multiplying their tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from math import prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.processes.filtering import alphabetic
from nextlens.models.processes.process import EntropyRate, Process
from nextlens.models.processes.sampling import BatchStream

#: A joint process may have so many numbers in its tensor (32 megabytes).
LARGEST_JOINT = 2**22


@dataclass(frozen=True, eq=False, repr=False)
class FactoredProcess:
    """Independent processes, each saying one part of every token; a ``Kernel``.

    The token is a number in mixed radix, the first factor most significant: with factors of 3 and 4
    tokens, ``(x, y)`` is ``4 x + y``. Each factor is sampled and filtered on its own, so the cost is the
    sum over factors, where that of the joint process is the product.

    Parameters
    ----------
    factors : sequence of Process
        At least one.
    name : str, default="product"

    Examples
    --------
    >>> from nextlens.models.processes import bloch_walk, mess3
    >>> five = FactoredProcess([mess3(0.6, 0.15)] * 3 + [bloch_walk(1, 3)] * 2)
    >>> five.n_tokens, five.factored_dimensions, five.joint_dimensions
    (432, 10, 242)
    """

    factors: Sequence[Process]
    name: str = "product"

    def __post_init__(self) -> None:
        if len(self.factors) == 0:
            raise ValueError("factors must hold at least one process")
        object.__setattr__(self, "factors", tuple(self.factors))

    def __repr__(self) -> str:
        return f"<FactoredProcess {self.name}: {' x '.join(factor.name for factor in self.factors)}>"

    @property
    def radices(self) -> tuple[int, ...]:
        """How many tokens each factor says."""
        return tuple(factor.n_tokens for factor in self.factors)

    @property
    def n_tokens(self) -> int:
        return prod(self.radices)

    @property
    def n_states(self) -> int:
        """Of all factors together: the width of ``beliefs``."""
        return sum(factor.n_states for factor in self.factors)

    @property
    def factored_dimensions(self) -> int:
        """How many numbers move when beliefs do: one less than its states for each factor."""
        return sum(factor.n_states - 1 for factor in self.factors)

    @property
    def joint_dimensions(self) -> int:
        """How many would, if the observer did not know that the factors are independent."""
        return prod(factor.n_states for factor in self.factors) - 1

    @cached_property
    def opening(self) -> Float[np.ndarray, " token"]:
        """The law of the first token."""
        return self.next_token(np.concatenate([factor.initial for factor in self.factors]))

    def encode(self, parts: Sequence[Int[np.ndarray, "*any"]]) -> Int[np.ndarray, "*any"]:
        """The tokens made of one part for each factor.

        Raises
        ------
        ValueError
            If there is not one part for each factor, or a part is outside its alphabet.
        """
        if len(parts) != len(self.factors):
            raise ValueError(f"parts holds {len(parts)} arrays for {len(self.factors)} factors; each needs one")
        for k, (part, radix) in enumerate(zip(parts, self.radices, strict=True)):
            if np.size(part) and not (np.min(part) >= 0 and np.max(part) < radix):
                raise ValueError(f"parts[{k}] must lie in 0 .. {radix - 1}; it holds {np.min(part)} .. {np.max(part)}")
        return np.ravel_multi_index(tuple(parts), self.radices)

    def decode(self, tokens: Int[np.ndarray, "*any"]) -> list[Int[np.ndarray, "*any"]]:
        """The part that each factor has in each token.

        Raises
        ------
        ValueError
            If a token is not in ``0 .. n_tokens - 1``.
        """
        if np.size(tokens) and not (np.min(tokens) >= 0 and np.max(tokens) < self.n_tokens):
            raise ValueError(
                f"tokens must lie in 0 .. {self.n_tokens - 1}; they hold {np.min(tokens)} .. {np.max(tokens)}"
            )
        return list(np.unravel_index(tokens, self.radices))

    def factor_beliefs(self, tokens: Any) -> list[Float[np.ndarray, "sequence position _"]]:
        """For each factor its beliefs, as ``Process.beliefs``.

        Raises
        ------
        ValueError
            If tokens are not integers in ``0 .. n_tokens - 1``, or a factor, which is then named,
            cannot say its part.
        """
        return [self._of_factor(k, Process.beliefs, part) for k, part in enumerate(self._parts(tokens))]

    def beliefs(self, tokens: Any) -> Float[np.ndarray, "sequence position state"]:
        """The beliefs of all factors, end to end; ``beliefs[b, t]`` has read ``tokens[b, : t + 1]``."""
        return np.concatenate(self.factor_beliefs(tokens), axis=-1)

    def joint_beliefs(self, tokens: Any) -> Float[np.ndarray, "sequence position joint"]:
        """Their products: the belief over all combinations of states, the first factor most significant."""
        return reduce(_outer, self.factor_beliefs(tokens))

    def next_token(self, beliefs: Float[np.ndarray, "*any state"]) -> Float[np.ndarray, "*any token"]:
        """The law of the next token, by beliefs end to end as ``beliefs`` gives them.

        Raises
        ------
        ValueError
            If they are of another width, or are not beliefs of some factor.
        """
        if beliefs.shape[-1] != self.n_states:
            raise ValueError(f"beliefs have {beliefs.shape[-1]} states; the factors have {self.n_states} together")
        ends = np.cumsum([factor.n_states for factor in self.factors])[:-1]
        each = np.split(beliefs, ends, axis=-1)
        return reduce(_outer, [factor.next_token(own) for factor, own in zip(self.factors, each, strict=True)])

    def log_likelihood(self, tokens: Any) -> Float[np.ndarray, "sequence position"]:
        """``log p(tokens[b, t] | tokens[b, :t])`` in nats: the sum of the factors'."""
        parts = self._parts(tokens)
        return sum(self._of_factor(k, Process.log_likelihood, part) for k, part in enumerate(parts))

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Exact next-token log-probabilities in nats, float64; ``-inf`` for what cannot come next."""
        laws = self.next_token(self.beliefs(batch.tokens.cpu().numpy()))
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(laws)).to(batch.device)

    def entropy_rate(self, depth: int | None = None, rng: np.random.Generator | None = None) -> EntropyRate:
        """Nats per token in the long run: the sum of the factors', bounds included."""
        rates = [factor.entropy_rate(depth=depth, rng=rng) for factor in self.factors]
        return EntropyRate(*map(sum, zip(*rates, strict=True)))

    def sample(self, n_sequences: int, length: int, rng: np.random.Generator) -> Int[np.ndarray, "n_sequences length"]:
        """Independent words, int64.

        Raises
        ------
        ValueError
            If ``n_sequences`` or ``length`` is below 1.
        """
        return self.encode([factor.sample(n_sequences, length, rng) for factor in self.factors])

    def batches(self, size: int, length: int, rng: np.random.Generator, tree: bool | None = None) -> BatchStream:
        """Fresh batches without end, as ``Process.batches``.

        Raises
        ------
        ValueError
            If ``size`` is below 1 or ``length`` below 2.
        """
        at_least("size", size, 1)
        at_least("length", length, 2)
        return BatchStream(partial(self._draw, length=length), size, length, rng, tree)

    def joint(self) -> Process:
        """The same as one process, its tensor the Kronecker product of theirs: for small ones.

        Raises
        ------
        ValueError
            If the tensor would be too large.
        """
        states = prod(factor.n_states for factor in self.factors)
        if self.n_tokens * states**2 > LARGEST_JOINT:
            raise ValueError(
                f"the joint process of {self.name!r} has {self.n_tokens} tokens and {states} states, too many for "
                "one tensor; the factored one needs none"
            )
        return Process(
            reduce(np.kron, [factor.transition for factor in self.factors]),
            name=self.name,
            initial=reduce(np.kron, [factor.initial for factor in self.factors]),
            functional=reduce(np.kron, [factor.functional for factor in self.factors]),
        )

    def _draw(self, n_sequences: int, rng: np.random.Generator, length: int) -> Int[np.ndarray, "n_sequences length"]:
        return self.sample(n_sequences, length, rng)

    def _parts(self, tokens: Any) -> list[Int[np.ndarray, "sequence position"]]:
        return self.decode(alphabetic(tokens, self.n_tokens, self.name))

    def _of_factor(
        self,
        k: int,
        ask: Callable[[Process, Any], Float[np.ndarray, "*any"]],
        part: Int[np.ndarray, "sequence position"],
    ) -> Float[np.ndarray, "*any"]:
        try:
            return ask(self.factors[k], part)
        except ValueError as error:
            raise ValueError(f"factor {k}, {self.factors[k].name!r}, reads its part of the tokens: {error}") from error


def _outer(
    one: Float[np.ndarray, "*any first"], other: Float[np.ndarray, "*any second"]
) -> Float[np.ndarray, "*any both"]:
    """Products of all pairs along the last axis, the first's index most significant."""
    return (one[..., :, None] * other[..., None, :]).reshape(*one.shape[:-1], -1)
