"""Hidden Markov processes, ordinary and generalized, and the beliefs of an ideal observer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.processes.filtering import alphabetic, filtered
from nextlens.models.processes.gauge import (
    EXACT,
    ROUNDING,
    checked_beliefs,
    checked_transition,
    generalized_gauge,
    is_generalized,
    refuse_negative_words,
    stochastic_gauge,
)
from nextlens.models.processes.sampling import (
    BatchStream,
    EdgeSampler,
    FilterSampler,
    WordSampler,
    listable,
)


class EntropyRate(NamedTuple):
    """Entropy per token, in nats, and bounds on it.

    For a hidden Markov process the bounds are certain; ``lower == upper`` where the distinct beliefs are
    finite in number, up to the tolerance by which they were merged (1e-10). For a generalized one they
    are a 95 % sampling interval.
    """

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, eq=False, repr=False)
class Process:
    """A stochastic process over tokens, given by its labelled transition tensor ``T``.

    The probability of a word is ``initial @ T[x_1] @ ... @ T[x_n] @ functional``. Where every weight
    is at least 0, ``T[x, s, r]`` is P(say x and go to r | in s): a hidden Markov process. Where some
    are below 0 the states are coordinates only: a generalized hidden Markov process [1]_, to which
    all of this applies alike.

    A belief is what an observer knows of the state, a row vector with ``belief @ functional == 1``.
    Reading ``x`` takes ``b`` to ``b @ T[x] / p(x | b)``, where ``p(x | b) = b @ T[x] @ functional``.

    A process is a ``Kernel``: no model trained on its words has a lower loss.

    Parameters
    ----------
    transition : array of shape (token, state, next state)
        Copied as float64. Without weights below 0, ``transition[:, s, :]`` sums to 1 for each ``s``;
        with such weights, ``transition.sum(0)`` has largest eigenvalue 1.
    name : str, default="process"
        Used in messages and figures.
    parameters : mapping of str to number, default={}
        What a builder was given: with ``name``, the recipe.
    initial : array of shape (state,), optional
        The belief before anything is read. None means ``stationary``; a reducible process has no
        unique one, and must be told.
    functional : array of shape (state,), optional
        ``w`` with ``transition.sum(0) @ w == w``. None finds it: ones for a hidden Markov process;
        otherwise scaled so that its first non-zero component is 1. Only a reducible generalized
        process whose rows do not sum to 1 must be told.

    Attributes
    ----------
    stationary : Float[np.ndarray, " state"]
        ``p`` with ``p @ transition.sum(0) == p`` and ``p @ functional == 1``: the long-run average
        law. Where there is more than one, that which ``initial`` leads to.

    Raises
    ------
    ValueError
        If the tensor is of another shape, not finite or not normalised; if it is reducible and
        ``initial`` is None; if ``functional`` is given and not fixed; or if some word up to about
        100,000 of a length has a probability below 0.

    References
    ----------
    .. [1] Upper, D. R. Theory and Algorithms for Hidden Markov Models and Generalized Hidden Markov
       Models. PhD thesis, University of California, Berkeley, 1997.
    """

    transition: Float[np.ndarray, "token state state"]
    name: str = "process"
    parameters: Mapping[str, float | int] = field(default_factory=dict)
    initial: Float[np.ndarray, " state"] | None = None
    functional: Float[np.ndarray, " state"] | None = None
    stationary: Float[np.ndarray, " state"] = field(init=False)

    def __post_init__(self) -> None:
        transition = checked_transition(self.name, self.transition)
        generalized = is_generalized(transition, self.functional)
        if generalized:
            functional, stationary = generalized_gauge(self.name, transition.sum(0), self.initial, self.functional)
        else:
            functional, stationary = stochastic_gauge(self.name, transition.sum(0), self.initial)
        initial = stationary
        if self.initial is not None:
            initial = checked_beliefs("initial", self.initial, functional, signed=generalized)
        if generalized:
            refuse_negative_words(self.name, transition, functional, initial)
        arrays = {
            "transition": transition,
            "initial": initial,
            "functional": functional,
            "stationary": stationary,
        }
        for name, array in arrays.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    def __reduce__(self) -> tuple[Any, ...]:
        initial = None if self.initial is self.stationary else self.initial
        functional = self.functional if self.is_generalized else None
        return Process, (self.transition, self.name, dict(self.parameters), initial, functional)

    def __repr__(self) -> str:
        given = "".join(f", {name}={value!r}" for name, value in self.parameters.items())
        return f"<Process {self.name}{given}: {self.n_tokens} tokens, {self.n_states} states>"

    @property
    def n_tokens(self) -> int:
        return self.transition.shape[0]

    @property
    def n_states(self) -> int:
        return self.transition.shape[1]

    @cached_property
    def is_generalized(self) -> bool:
        """Whether states are coordinates and not places: a weight is below 0, or the functional not ones."""
        return is_generalized(self.transition, self.functional)

    @property
    def impossible(self) -> float:
        """The next-token probability that counts as 0, with all below it.

        A zero of a signed tensor is a sum that cancels, and is known only up to rounding.
        """
        return ROUNDING if self.is_generalized else 0.0

    @cached_property
    def opening(self) -> Float[np.ndarray, " token"]:
        """The law of the first token."""
        return self.next_token(self.initial)

    def next_token(self, beliefs: Float[np.ndarray, "*any state"]) -> Float[np.ndarray, "*any token"]:
        """``p(x | belief) = belief @ T[x] @ functional`` for every token ``x``.

        Raises
        ------
        ValueError
            If some probability is below 0 or not a number: these are not beliefs of this process.
        """
        laws = beliefs @ (self.transition @ self.functional).T
        if not laws.min(initial=0) >= -EXACT:
            raise ValueError(
                f"beliefs give a token the probability {laws.min():.6g}; they are not beliefs of {self.name!r}"
            )
        laws[laws <= self.impossible] = 0
        return laws

    def beliefs(
        self, tokens: Any, initial: Float[np.ndarray, "*sequence state"] | None = None
    ) -> Float[np.ndarray, "sequence position state"]:
        """``beliefs[b, t]`` is the belief after reading ``tokens[b, : t + 1]``.

        So it stands at the same index as the residual stream that has just read ``tokens[b, t]``, and
        ``next_token`` of it is the law of ``tokens[b, t + 1]``: no shift is needed.

        Parameters
        ----------
        tokens : integers of shape (sequence, position)
        initial : array of shape (state,) or (sequence, state), optional
            The belief before the first token; None means ``self.initial``. Given the last beliefs of
            one stretch, the next is read on.

        Raises
        ------
        ValueError
            If tokens are not integers in ``0 .. n_tokens - 1``, or the process cannot say them.
        """
        return self._filter(tokens, initial)[0]

    def log_likelihood(
        self, tokens: Any, initial: Float[np.ndarray, "*sequence state"] | None = None
    ) -> Float[np.ndarray, "sequence position"]:
        """``log p(tokens[b, t] | tokens[b, :t])`` in nats, at any length without underflow.

        Summed along positions it is the log-probability of the word. Parameters and refusals are
        those of ``beliefs``.
        """
        return np.log(self._filter(tokens, initial)[1])

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Exact next-token log-probabilities in nats, float64; ``-inf`` for what cannot come next."""
        laws = self.next_token(self.beliefs(batch.tokens.cpu().numpy()))
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(laws)).to(batch.device)

    def entropy_rate(self, depth: int | None = None, rng: np.random.Generator | None = None) -> EntropyRate:
        """Nats per token in the long run; see ``mixed_states.entropy_rate``."""
        from nextlens.models.processes.mixed_states import entropy_rate

        return entropy_rate(self, depth=depth, rng=rng)

    def sample(self, n_sequences: int, length: int, rng: np.random.Generator) -> Int[np.ndarray, "n_sequences length"]:
        """Independent words, int64, each begun from ``initial``.

        Raises
        ------
        ValueError
            If ``n_sequences`` or ``length`` is below 1.
        """
        at_least("n_sequences", n_sequences, 1)
        at_least("length", length, 1)
        if listable(self.n_tokens, length, limit=n_sequences):
            return self._word_sampler(length).draw(n_sequences, rng)
        return self._step_sampler.draw(n_sequences, rng, length)

    def batches(self, size: int, length: int, rng: np.random.Generator, tree: bool | None = None) -> BatchStream:
        """Fresh batches without end: ``size`` words of ``length`` tokens, so ``length - 1`` positions.

        Parameters
        ----------
        size, length : int
            ``length`` is one more than the context, so that its last position has a target.
        rng : numpy.random.Generator
            Give the stream one of its own: it draws ahead.
        tree : bool, optional
            Whether batches carry their prefix tree; None lets the first batch decide.

        Raises
        ------
        ValueError
            If ``size`` is below 1 or ``length`` below 2.
        """
        at_least("size", size, 1)
        at_least("length", length, 2)
        if listable(self.n_tokens, length):
            draw = self._word_sampler(length).draw
        else:
            draw = partial(self._step_sampler.draw, length=length)
        return BatchStream(draw, size, length, rng, tree)

    def _filter(
        self, tokens: Any, initial: Float[np.ndarray, "*sequence state"] | None
    ) -> tuple[Float[np.ndarray, "sequence position state"], Float[np.ndarray, "sequence position"]]:
        read = alphabetic(tokens, self.n_tokens, self.name)
        start = self.initial
        if initial is not None:
            start = checked_beliefs(
                "initial", initial, self.functional, signed=self.is_generalized, n_sequences=len(read)
            )
        start = np.broadcast_to(start, (len(read), self.n_states))
        return filtered(self.transition, self.functional, read, start, impossible=self.impossible)

    @cached_property
    def _step_sampler(self) -> EdgeSampler | FilterSampler:
        if self.is_generalized:
            return FilterSampler(self.transition, self.functional, self.initial, self.impossible)
        return EdgeSampler.of(self.transition, self.initial)

    @cached_property
    def _word_samplers(self) -> dict[int, WordSampler]:
        return {}

    def _word_sampler(self, length: int) -> WordSampler:
        if length not in self._word_samplers:
            self._word_samplers[length] = WordSampler.of(
                self.transition, self.functional, self.initial, length, cutoff=ROUNDING
            )
        return self._word_samplers[length]
