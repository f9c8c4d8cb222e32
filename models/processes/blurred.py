"""Factors heard through a blur that the listener does not know of: a kernel, and no process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least, between
from nextlens.models.processes.process import Process
from nextlens.models.processes.product import FactoredProcess


@dataclass(frozen=True, eq=False, repr=False)
class BlurredProduct(FactoredProcess):
    """Tokens said by a blurred law, after which every factor moves as if it had spoken clearly.

    ``p(x | b) = (1 - epsilon) prod_k p_k(x_k | b_k) + epsilon / n_tokens``, and each ``b_k`` goes on by
    its own clean ``T``: the noise of the experiments of arXiv 2602.02385. It is a stochastic recursion
    of what ``beliefs`` gives, and no hidden Markov process: those are beliefs of no observer, and stay a
    product at any noise. The process whose tokens are replaced at random is ``noisy_channel``; there the
    belief is no product.

    Parameters
    ----------
    factors, name
        As of ``FactoredProcess``.
    epsilon : float in [0, 1]

    Raises
    ------
    ValueError
        If there is no factor, or ``epsilon`` is out of range.
    """

    epsilon: float | int = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        between("epsilon", self.epsilon, 0, 1)

    def next_token(self, beliefs: Float[np.ndarray, "*any state"]) -> Float[np.ndarray, "*any token"]:
        """The blurred law of the next token."""
        return (1 - self.epsilon) * super().next_token(beliefs) + self.epsilon / self.n_tokens

    def log_likelihood(self, tokens: Any) -> Float[np.ndarray, "sequence position"]:
        """``log p(tokens[b, t] | tokens[b, :t])`` in nats."""
        read = np.asarray(tokens)
        after = self.next_token(self.beliefs(read))[:, :-1]
        opening = np.broadcast_to(self.opening, (len(read), 1, self.n_tokens))
        laws = np.concatenate([opening, after], axis=1)
        return np.log(np.take_along_axis(laws, read[..., None], axis=-1)[..., 0])

    def sample(self, n_sequences: int, length: int, rng: np.random.Generator) -> Int[np.ndarray, "n_sequences length"]:
        """Independent words, int64.

        Raises
        ------
        ValueError
            If ``n_sequences`` or ``length`` is below 1, or a factor cannot say what the blur put in its mouth.
        """
        at_least("n_sequences", n_sequences, 1)
        at_least("length", length, 1)
        tokens = np.empty((n_sequences, length), dtype=np.int64)
        beliefs = [np.tile(factor.initial, (n_sequences, 1)) for factor in self.factors]
        for t in range(length):
            mass = self.next_token(np.concatenate(beliefs, axis=1)).cumsum(axis=1)
            point = rng.random(n_sequences) * mass[:, -1]
            tokens[:, t] = (point[:, None] >= mass[:, :-1]).sum(axis=1)
            parts = self.decode(tokens[:, t])
            beliefs = [
                factor.beliefs(part[:, None], belief)[:, 0]
                for factor, part, belief in zip(self.factors, parts, beliefs, strict=True)
            ]
        return tokens

    def joint(self) -> Process:
        """Refused: there is no such process."""
        self._refuse()

    def entropy_rate(self, depth: int | None = None, rng: np.random.Generator | None = None) -> NoReturn:
        """Refused: there is no hidden state to average over."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(f"{self.name!r} is blurred and read as if it were not: it is no hidden Markov process")
