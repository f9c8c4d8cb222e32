"""The rows on which models of factors are measured, and what an ideal observer holds after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel
from nextlens.models.processes import FactoredProcess, Process
from nextlens.models.recording import device_of
from nextlens.probes.geometry import dimensions_at, variance_spectrum
from nextlens.probes.ridge import ordinary_least_squares

#: The share of variance at which dimensions are counted.
SHARE = 0.95
#: What is read beside the factors: the belief over all their states together, and what of it no affine map of
#: the factors' beliefs tells.
JOINT, BEYOND = "joint", "joint beyond factors"


@dataclass(frozen=True, eq=False)
class FactoredPrefixes:
    """The distinct prefixes of sampled words, with what an ideal observer believes of every factor.

    Rows come in the order in which ``record`` keeps them with ``where=first``.

    Attributes
    ----------
    process : FactoredProcess or Process
    factors : sequence of Process
        What the tokens and the states of ``process`` are made of, the first most significant.
    batch : Batch
    first : bool array of shape (batch, time)
        The position at which each prefix occurs first.
    weights : Float[np.ndarray, " sample"]
        How often each prefix occurred, over all.
    """

    process: FactoredProcess | Process
    factors: Sequence[Process]
    batch: Batch
    first: Bool[np.ndarray, "batch time"]
    weights: Float[np.ndarray, " sample"]

    @classmethod
    def of(
        cls,
        process: FactoredProcess | Process,
        factors: Sequence[Process],
        n_ctx: int,
        n_words: int,
        rng: np.random.Generator,
    ) -> FactoredPrefixes:
        """The prefixes of ``n_words`` words of ``n_ctx`` tokens.

        Raises
        ------
        ValueError
            If a number is below 1, or the factors' tokens do not multiply to those of the process.
        """
        for name, value in (("n_ctx", n_ctx), ("n_words", n_words)):
            at_least(name, value, 1)
        product = FactoredProcess(factors)
        if product.n_tokens != process.n_tokens:
            raise ValueError(
                f"factors say {product.n_tokens} tokens together; {process.name!r} says {process.n_tokens}"
            )
        words = process.sample(n_words, n_ctx, rng)
        batch = Batch.from_tokens(np.pad(words, ((0, 0), (0, 1))), tree=True)
        first = np.zeros(words.shape, dtype=bool)
        first.flat[batch.tree.first.numpy()] = True
        node = batch.tree.node.numpy()
        counts = np.bincount(node.ravel())[node[first]]
        return cls(process, product.factors, batch, first, counts / counts.sum())

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def words(self) -> Int[np.ndarray, "batch time"]:
        return self.batch.tokens.numpy()

    @cached_property
    def position(self) -> Int[np.ndarray, " sample"]:
        """Index of the last token read."""
        return np.nonzero(self.first)[1]

    @property
    def names(self) -> list[str]:
        """Of the factors: number and process."""
        return [f"{k} {factor.name}" for k, factor in enumerate(self.factors)]

    @cached_property
    def joint(self) -> Float[np.ndarray, "sample joint"]:
        """The exact belief over all combinations of states."""
        ask = self.process.joint_beliefs if isinstance(self.process, FactoredProcess) else self.process.beliefs
        return ask(self.words)[self.first]

    @cached_property
    def beliefs(self) -> dict[str, Float[np.ndarray, "sample _"]]:
        """The exact belief of every factor: the joint one summed over the states of the others."""
        states = [factor.n_states for factor in self.factors]
        joint = self.joint.reshape(-1, *states)
        found = {}
        for k, name in enumerate(self.names):
            belief = joint
            for other in reversed([j for j in range(len(states)) if j != k]):
                belief = np.tensordot(belief, self.factors[other].functional, axes=(other + 1, 0))
            found[name] = belief
        return found

    @cached_property
    def side_by_side(self) -> Float[np.ndarray, "sample state"]:
        """The factors' beliefs, end to end."""
        return np.concatenate(list(self.beliefs.values()), axis=1)

    @cached_property
    def next_token(self) -> Float[np.ndarray, "sample token"]:
        """The exact law of what follows."""
        own = self.side_by_side if isinstance(self.process, FactoredProcess) else self.joint
        return self.process.next_token(own)

    @cached_property
    def targets(self) -> dict[str, Float[np.ndarray, "sample _"]]:
        """What is sought in the activations: every factor's belief, :data:`JOINT` and :data:`BEYOND`."""
        W, c = ordinary_least_squares(self.side_by_side, self.joint, self.weights)
        return {**self.beliefs, JOINT: self.joint, BEYOND: self.joint - self.side_by_side @ W - c}


def exact_dimensions(prefixes: FactoredPrefixes) -> dict[str, int]:
    """Principal components for 95 % of the variance of what an ideal observer holds.

    Of the factors' beliefs end to end, of the joint belief, and of the logarithm of the exact next-token law:
    the last is what a linear unembedding needs, and where factors are independent it is a sum over factors,
    so that the last layer would keep them apart for the softmax's sake alone.
    """
    logits = np.log(prefixes.next_token.clip(1e-12))
    clouds = {
        "factors": prefixes.side_by_side,
        JOINT: prefixes.joint,
        "log law": logits - logits.mean(1, keepdims=True),
    }
    return {name: dimensions_at(variance_spectrum(X, prefixes.weights), SHARE) for name, X in clouds.items()}


def price_of_factoring(prefixes: FactoredPrefixes) -> float:
    """Nats a token lost by an observer who keeps each factor's exact belief and takes them for independent.

    The mean of KL(exact law, law by the product of the factors' beliefs); 0 where they are independent.

    Raises
    ------
    ValueError
        If the process is a ``FactoredProcess``, which keeps nothing else.
    """
    process = prefixes.process
    if isinstance(process, FactoredProcess):
        raise ValueError(f"{process.name!r} keeps nothing but its factors' beliefs; give a Process over their states")
    product = reduce(
        lambda one, other: np.einsum("ni,nj->nij", one, other).reshape(len(one), -1), prefixes.beliefs.values()
    )
    law, guess = prefixes.next_token, process.next_token(product)
    ratio = np.log(np.where(law > 0, law, 1.0) / np.where(law > 0, guess, 1.0))
    return float(prefixes.weights @ (law * ratio).sum(1))


def loss_over_optimum(model: Kernel, prefixes: FactoredPrefixes) -> float:
    """Expected loss over the least possible, by exact next-token laws; 1 is perfect, and none is below."""
    with torch.no_grad():
        said = model.log_probs(prefixes.batch.to(device_of(model, prefixes.batch))).cpu().numpy()[prefixes.first]
    law = prefixes.next_token
    least = -(law * np.log(np.where(law > 0, law, 1.0))).sum(1)
    return float(prefixes.weights @ -(law * said).sum(1) / (prefixes.weights @ least))
