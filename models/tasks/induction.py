"""Sequences that can be predicted only from their own past: repeats, private bigrams, pairs to be recalled.

Each task says the latents of what it draws, and is a ``Kernel``: the Bayes-optimal predictor, which knows
the task but not the latents. No model trained on its sequences has a lower loss.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.processes.sampling import BatchStream


class Task(ABC):
    """What the tasks share: sampling, batches without end, and being a ``Kernel``.

    Whoever inherits says ``n_tokens``, how to ``draw`` sequences with their latents, and the law of
    the ``next_token``. Tokens are numbered by their place in the sequence, from 0; the last token of a
    sequence is a target only.
    """

    @property
    @abstractmethod
    def n_tokens(self) -> int:
        """Size of the vocabulary."""

    @abstractmethod
    def draw(self, n_sequences: int, length: int, rng: np.random.Generator) -> xr.Dataset:
        """Independent sequences under ``tokens`` (sequence, position), int64, and beside them their latents.

        Raises
        ------
        ValueError
            If ``n_sequences`` or ``length`` is below 1.
        """

    @abstractmethod
    def next_token(self, tokens: Int[np.ndarray, "sequence position"]) -> Float[np.ndarray, "sequence position token"]:
        """The law of ``tokens[b, t + 1]`` given ``tokens[b, : t + 1]``, at ``[b, t]``.

        Raises
        ------
        ValueError
            If the task cannot say ``tokens``.
        """

    def sample(self, n_sequences: int, length: int, rng: np.random.Generator) -> Int[np.ndarray, "n_sequences length"]:
        """Independent sequences, int64, without their latents."""
        return self.draw(n_sequences, length, rng).tokens.values

    def batches(self, size: int, length: int, rng: np.random.Generator, tree: bool | None = False) -> BatchStream:
        """Fresh batches without end: ``size`` sequences of ``length`` tokens, so ``length - 1`` positions.

        Parameters
        ----------
        rng : numpy.random.Generator
            Give the stream one of its own: it draws ahead. The stream's ``state()`` and ``restore(state)``
            resume it exactly.
        tree : bool, optional
            Whether batches carry their prefix tree, which seldom pays here; None lets the first batch decide.

        Raises
        ------
        ValueError
            If ``size`` is below 1 or ``length`` below 2.
        """
        at_least("size", size, 1)
        at_least("length", length, 2)
        return BatchStream(partial(self._tokens, length), size, length, rng, tree)

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Exact next-token log-probabilities in nats, float64; ``-inf`` for what cannot come next.

        Raises
        ------
        ValueError
            If a token is not below ``n_tokens``, or the task cannot say the batch.
        """
        refuse_out_of_range("tokens", batch.tokens, self.n_tokens, limit_name="n_tokens")
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(self.next_token(batch.tokens.cpu().numpy()))).to(batch.device)

    def _tokens(self, length: int, n_sequences: int, rng: np.random.Generator) -> Int[np.ndarray, "sequence position"]:
        return self.sample(n_sequences, length, rng)


@dataclass(frozen=True)
class RepeatedTokens(Task):
    """A block of random tokens, said again and again.

    The period is uniform on ``shortest .. longest``, the tokens of the block are independent and uniform.
    Because the period varies, no fixed look back continues the sequence: what came before must be matched.

    Latents: ``period`` (sequence); ``source`` (sequence, position), the place one period before, or -1
    within the first block, whose tokens nothing determines.

    Raises
    ------
    ValueError
        If a value is below 1, or ``longest`` below ``shortest``.

    Examples
    --------
    >>> found = RepeatedTokens(9, shortest=2, longest=3).draw(2, 7, np.random.default_rng(1))
    >>> found.tokens.values.tolist(), found.period.values.tolist()
    ([[6, 8, 6, 8, 6, 8, 6], [1, 7, 8, 1, 7, 8, 1]], [2, 3])
    """

    n_tokens: int = 32
    shortest: int = 8
    longest: int = 32

    def __post_init__(self) -> None:
        at_least("n_tokens", self.n_tokens, 1)
        at_least("shortest", self.shortest, 1)
        at_least("longest", self.longest, self.shortest)

    def draw(self, n_sequences: int, length: int, rng: np.random.Generator) -> xr.Dataset:
        """See :meth:`Task.draw`; latents ``period`` and ``source``."""
        places = _places(n_sequences, length)
        period = rng.integers(self.shortest, self.longest + 1, n_sequences)
        block = rng.integers(self.n_tokens, size=(n_sequences, self.longest))
        tokens = np.take_along_axis(block, places % period[:, None], axis=1)
        source = np.where(places < period[:, None], -1, places - period[:, None])
        return _labelled(tokens, period=("sequence", period), source=(_BOTH, source))

    def next_token(self, tokens: Int[np.ndarray, "sequence position"]) -> Float[np.ndarray, "sequence position token"]:
        """The mean over all periods that fit what was read, each weighted by its probability.

        A period p that fits t tokens has the likelihood ``n_tokens ** -min(t, p)``.
        """
        n, time = tokens.shape
        read, periods = np.arange(1, time + 1), range(self.shortest, self.longest + 1)
        fits = np.stack([_repeats(tokens, period) for period in periods])
        if not fits.any(0).all():
            b, t = np.argwhere(~fits.any(0))[0]
            raise ValueError(
                f"tokens[{b}, : {t + 1}] repeat with no period in {self.shortest} .. {self.longest}; "
                "this task cannot say them"
            )
        likelihood = -np.array([np.minimum(read, period) for period in periods])[:, None] * math.log(self.n_tokens)
        weight = np.where(fits, likelihood, -np.inf)
        weight = np.exp(weight - weight.max(0))
        weight /= weight.sum(0)
        law = np.zeros((n, time, self.n_tokens))
        rows = np.arange(n)[:, None]
        for period, share in zip(periods, weight, strict=True):
            law[:, : period - 1] += share[:, : period - 1, None] / self.n_tokens
            again = np.arange(period - 1, time)
            law[rows, again, tokens[:, : max(0, time - period + 1)]] += share[:, again]
        return law


@dataclass(frozen=True)
class InContextBigrams(Task):
    """Markov chains, each sequence with a transition table of its own.

    The rows of the table are independent draws of a symmetric Dirichlet law; the first token is uniform.
    The best predictor counts: ``p(j | i) = (n_ij + concentration) / (n_i + concentration * n_tokens)``,
    with n_ij the times that j has followed i so far (Edelman et al. 2024, arXiv:2402.11004).

    Latent: ``table`` (sequence, token, following).

    Parameters
    ----------
    n_tokens : int
    concentration : float
        Of the Dirichlet law, per token: small ones make tables of near certain transitions.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    n_tokens: int = 8
    concentration: float = 0.1

    def __post_init__(self) -> None:
        at_least("n_tokens", self.n_tokens, 1)
        if not 0 < self.concentration < math.inf:
            raise ValueError(f"concentration={self.concentration!r} must be finite and above 0")

    def draw(self, n_sequences: int, length: int, rng: np.random.Generator) -> xr.Dataset:
        """See :meth:`Task.draw`; latent ``table``."""
        tokens = np.empty(_places(n_sequences, length).shape, dtype=np.int64)
        table = rng.dirichlet(np.full(self.n_tokens, self.concentration), (n_sequences, self.n_tokens))
        tokens[:, 0] = rng.integers(self.n_tokens, size=n_sequences)
        mass, rows = table.cumsum(-1), np.arange(n_sequences)
        for t in range(1, length):
            before = mass[rows, tokens[:, t - 1]]
            point = rng.random(n_sequences) * before[:, -1]
            tokens[:, t] = (point[:, None] >= before[:, :-1]).sum(1)
        return _labelled(tokens, table=(("sequence", "token", "following"), table))

    def next_token(self, tokens: Int[np.ndarray, "sequence position"]) -> Float[np.ndarray, "sequence position token"]:
        """Counts of what has followed the token just read, and the concentration, over their sum."""
        same = np.tril(tokens[:, :, None] == tokens[:, None, :], -1)[:, :, :-1]
        counts = same.astype(float) @ np.eye(self.n_tokens)[tokens[:, 1:]] + self.concentration
        return counts / counts.sum(-1, keepdims=True)


@dataclass(frozen=True)
class AssociativeRecall(Task):
    """Pairs of a key and its value; a key that comes again is followed by the same value.

    Keys ``0 .. n_keys - 1`` stand at even places, drawn independently; values, numbered on from
    ``n_keys``, follow them. Each sequence gives every key a value of its own, uniform, two keys perhaps
    the same. So a key that was seen determines the next token, and a new one tells nothing of it.
    This is multi-query associative recall (Arora et al. 2023, arXiv:2312.04927) without a gap.

    Latents: ``value_of_key`` (sequence, key); ``key_position`` (sequence, position), for a value the last
    earlier place of its key, -1 if the key is new and for keys; ``determined`` (sequence, position),
    whether the token can be known from those before it.

    Raises
    ------
    ValueError
        If a value is below 1.
    """

    n_keys: int = 16
    n_values: int = 16

    def __post_init__(self) -> None:
        at_least("n_keys", self.n_keys, 1)
        at_least("n_values", self.n_values, 1)

    @property
    def n_tokens(self) -> int:
        return self.n_keys + self.n_values

    def draw(self, n_sequences: int, length: int, rng: np.random.Generator) -> xr.Dataset:
        """See :meth:`Task.draw`; latents ``value_of_key``, ``key_position`` and ``determined``."""
        places = _places(n_sequences, length)
        value_of_key = self.n_keys + rng.integers(self.n_values, size=(n_sequences, self.n_keys))
        keys = np.repeat(rng.integers(self.n_keys, size=(n_sequences, (length + 1) // 2)), 2, axis=1)[:, :length]
        tokens = np.where(places % 2 == 0, keys, np.take_along_axis(value_of_key, keys, axis=1))
        earlier = np.tril(keys[:, :, None] == keys[:, None, :], -2) & (places[:, None, :] % 2 == 0)
        key_position = np.where(places % 2 == 1, np.where(earlier, places[:, None, :], -1).max(-1), -1)
        return _labelled(
            tokens,
            value_of_key=(("sequence", "key"), value_of_key),
            key_position=(_BOTH, key_position),
            determined=(_BOTH, key_position >= 0),
        )

    def next_token(self, tokens: Int[np.ndarray, "sequence position"]) -> Float[np.ndarray, "sequence position token"]:
        """The value of a key that was seen; any value, after a new key; any key, after a value."""
        time = tokens.shape[1]
        wrong = (tokens >= self.n_keys) != (np.arange(time) % 2 == 1)
        if wrong.any():
            b, t = np.argwhere(wrong)[0]
            kind = ("key", "value")[t % 2]
            raise ValueError(f"tokens[{b}, {t}]={tokens[b, t]} is not a {kind}; keys stand at even places")
        law = np.zeros((*tokens.shape, self.n_tokens))
        law[:, 1::2, : self.n_keys] = 1 / self.n_keys
        law[:, ::2, self.n_keys :] = 1 / self.n_values
        for t in range(2, time, 2):
            seen = tokens[:, :t:2] == tokens[:, t, None]
            known = np.flatnonzero(seen.any(1))
            value = tokens[known, 2 * seen[known].argmax(1) + 1]
            law[known, t] = np.eye(self.n_tokens)[value]
        impossible = np.take_along_axis(law[:, :-1], tokens[:, 1:, None], axis=2)[..., 0] == 0
        if impossible.any():
            b, t = np.argwhere(impossible)[0]
            raise ValueError(
                f"tokens[{b}, {t + 1}]={tokens[b, t + 1]} is another value of key {tokens[b, t]}; a sequence has one"
            )
        return law


_BOTH = ("sequence", "position")


def _places(n_sequences: int, length: int) -> Int[np.ndarray, "n_sequences length"]:
    at_least("n_sequences", n_sequences, 1)
    at_least("length", length, 1)
    return np.broadcast_to(np.arange(length), (n_sequences, length))


def _labelled(tokens: Int[np.ndarray, "sequence position"], **latents: Any) -> xr.Dataset:
    coordinates = {name: np.arange(size) for name, size in zip(_BOTH, tokens.shape, strict=True)}
    return xr.Dataset({"tokens": (_BOTH, tokens), **latents}, coords=coordinates)


def _repeats(tokens: Int[np.ndarray, "sequence position"], period: int) -> Any:
    """Whether everything up to here repeats with this period."""
    fits = np.ones(tokens.shape, dtype=bool)
    fits[:, period:] = np.logical_and.accumulate(tokens[:, period:] == tokens[:, :-period], axis=1)
    return fits
