"""What a deployed model is given to read: less than the whole past, or a prompt before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least, one_of
from nextlens.models.batch import Batch, refuse_out_of_range, whole_numbers
from nextlens.models.kernel import Kernel


@dataclass(frozen=True)
class Truncated:
    """The base on the last ``k`` tokens only: row t is its law after ``tokens[:, t - k + 1 : t + 1]``.

    A Markov chain on words of k tokens. Each row is a window of its own, so this costs k times the base; an
    attention mask of width k would not do, for L layers reach ``L (k - 1) + 1`` tokens. What a stationary process
    says after its last k tokens alone is ``Truncated(process, k)``.

    Parameters
    ----------
    base : Kernel
    k : int
    positions : {"restart", "keep"}
        Whether every window counts its positions from 0, or keeps those of the batch.
    windows_at_once : int, default=1024
        Which bounds memory.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    base: Kernel
    k: int
    positions: str = "restart"
    windows_at_once: int = 1024

    def __post_init__(self) -> None:
        at_least("k", self.k, 1)
        at_least("windows_at_once", self.windows_at_once, 1)
        one_of("positions", self.positions, ("restart", "keep"))

    @property
    def n_tokens(self) -> int:
        return self.base.n_tokens

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """In nats. A batch that says who may look at whom is refused."""
        _refuse_attend(batch, "Truncated")
        time = batch.tokens.shape[1]
        head = self.base.log_probs(self._read(batch.tokens[:, : self.k], batch.positions[:, : self.k]))
        if time <= self.k:
            return head
        tokens, places = (ids.unfold(1, self.k, 1)[:, 1:].flatten(0, 1) for ids in (batch.tokens, batch.positions))
        last = [
            self.base.log_probs(self._read(*part))[:, -1]
            for part in zip(tokens.split(self.windows_at_once), places.split(self.windows_at_once), strict=True)
        ]
        return torch.cat([head, torch.cat(last).unflatten(0, (len(batch), time - self.k))], dim=1)

    def _read(self, tokens: Int[Tensor, "row time"], positions: Int[Tensor, "row time"]) -> Batch:
        keep = self.positions == "keep"
        return _reading(tokens, positions if keep else _in_order(tokens))


@dataclass(frozen=True, eq=False)
class Conditioned:
    """The base after a prompt: row t is its law after ``prompt`` and ``tokens[:, : t + 1]``.

    Parameters
    ----------
    base : Kernel
    prompt : array-like of int
        One token at least, such as the one that begins a document: then the first token of a text has a row too,
        that of the base itself.

    Raises
    ------
    ValueError
        If the prompt is empty, not of whole numbers, or holds a token that the base does not know.
    """

    base: Kernel
    prompt: Int[np.ndarray, " prompt"] | tuple[int, ...] | list[int]

    def __post_init__(self) -> None:
        prompt = whole_numbers("prompt", self.prompt)
        if prompt.ndim != 1 or not len(prompt):
            raise ValueError(f"prompt has shape {tuple(prompt.shape)}; it must be one sequence of at least one token")
        refuse_out_of_range("prompt", prompt, self.base.n_tokens, limit_name="n_tokens")
        object.__setattr__(self, "prompt", tuple(prompt.tolist()))

    @property
    def n_tokens(self) -> int:
        return self.base.n_tokens

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """In nats. Positions go on from those of the prompt; a batch that says who looks at whom is refused."""
        _refuse_attend(batch, "Conditioned")
        n = len(self.prompt)
        before = torch.tensor(self.prompt, device=batch.device).expand(len(batch), n)
        tokens = torch.cat([before, batch.tokens], dim=1)
        places = torch.cat([_in_order(before), batch.positions + n], dim=1)
        return self.base.log_probs(_reading(tokens, places))[:, n:]

    def opening(self) -> Float[Tensor, " vocab"]:
        """The law of the first token after the prompt, which no row of a batch says."""
        prompt = torch.tensor([self.prompt])
        return self.base.log_probs(_reading(prompt, _in_order(prompt)))[0, -1]


def _reading(tokens: Int[Tensor, "row time"], positions: Int[Tensor, "row time"]) -> Batch:
    """A batch of which only what is read matters."""
    return Batch(tokens, torch.zeros_like(tokens), torch.ones(tokens.shape, device=tokens.device), positions)


def _in_order(tokens: Int[Tensor, "row time"]) -> Int[Tensor, "row time"]:
    return torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)


def _refuse_attend(batch: Batch, name: str) -> None:
    if batch.attend is not None:
        raise ValueError(f"the batch has an attend mask, made for its own positions; {name} reads others")
