"""A batch of token sequences: the one thing every model in this project reads."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nextlens.models.prefixes import PrefixTree


@dataclass(frozen=True, eq=False)
class Batch:
    """Tokens, and everything a loss or an attention layer needs to know about them.

    A position carries what is *read* there (``tokens``), what must be *said* there (``targets``),
    how much saying it counts (``weights``), *where* it claims to be (``positions``) and *what it
    may look at* (``attend``). Position coupling changes ``positions``; register tokens change all
    five; a policy gradient changes ``weights``. The model changes for none of them.

    Index convention: what a model says at position ``t``, having read ``tokens[:, : t + 1]``, is
    compared with ``targets[:, t]``; for plain next-token prediction that is the token read at
    ``t + 1``.

    Parameters
    ----------
    tokens, targets : Int[Tensor, "batch time"]
    weights : Float[Tensor, "batch time"]
        May be negative (a policy gradient) or zero (a mask).
    positions : Int[Tensor, "batch time"]
        Position ids; ``0 .. time - 1`` unless a task says otherwise.
    attend : Bool[Tensor, "batch time time"], optional
        ``attend[b, t, s]``: may position ``t`` look at ``s``? None means causal.
    tree : PrefixTree, optional
        The distinct prefixes of ``tokens``, for models that compute each of them once. Only for
        plain causal batches: positions in order and ``attend=None``.

    Raises
    ------
    ValueError
        If the batch is empty, shapes differ, some position may look at nothing, or a tree is given
        for a batch that is not plainly causal.
    """

    tokens: Int[Tensor, "batch time"]
    targets: Int[Tensor, "batch time"]
    weights: Float[Tensor, "batch time"]
    positions: Int[Tensor, "batch time"]
    attend: Bool[Tensor, "batch time time"] | None = None
    tree: PrefixTree | None = None

    def __post_init__(self) -> None:
        shape = self.tokens.shape
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"tokens has shape {tuple(shape)}; a batch needs at least one sequence of one token")
        for name in ("tokens", "targets", "positions"):
            if getattr(self, name).dtype.is_floating_point or getattr(self, name).dtype == torch.bool:
                raise ValueError(f"{name} are {getattr(self, name).dtype}; they must be integers")
        if self.attend is not None and self.attend.dtype != torch.bool:
            raise ValueError(f"attend is {self.attend.dtype}; it must be boolean: True where a position may look")
        for name in ("targets", "weights", "positions"):
            if getattr(self, name).shape != shape:
                given = tuple(getattr(self, name).shape)
                raise ValueError(f"{name} has shape {given}; tokens has {tuple(shape)}, and they must agree")
        if self.attend is not None:
            if self.attend.shape != (*shape, shape[1]):
                raise ValueError(
                    f"attend has shape {tuple(self.attend.shape)}; it must be {(*shape, shape[1])}: "
                    "sequence, position that looks, position looked at"
                )
            blind = ~self.attend.any(-1)
            if blind.any():
                b, t = blind.nonzero()[0].tolist()
                raise ValueError(f"attend lets position {t} of sequence {b} look at nothing; let it see itself")
        if self.tree is not None and not (self._is_plain() and _fits(self.tree, self.tokens)):
            raise ValueError("tree is only for the tokens it was made from, with attend=None and positions in order")

    @classmethod
    def from_tokens(cls, tokens: Any, *, tree: bool = False, device: str | torch.device | None = None) -> Batch:
        """Read ``tokens[:, :-1]``, say ``tokens[:, 1:]``, look left, count all alike.

        Parameters
        ----------
        tokens : integers of shape (batch, time + 1)
            A tensor, an array, or nested lists.
        tree : bool, default=False
            Whether to attach the tree of distinct prefixes.
        device : optional
            Where to put the batch.

        Raises
        ------
        ValueError
            If ``tokens`` are not integers of shape (at least 1, at least 2), or one is negative.

        Examples
        --------
        >>> batch = Batch.from_tokens([[3, 1, 4, 1]])
        >>> batch.tokens.tolist(), batch.targets.tolist()
        ([[3, 1, 4]], [[1, 4, 1]])
        """
        tokens = whole_numbers("tokens", tokens).to(device)
        if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
            raise ValueError(
                f"tokens has shape {tuple(tokens.shape)}; it must be (sequences, length) with at least "
                "one sequence and length 2: one token to read and one to say"
            )
        read, say = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        return cls(
            tokens=read,
            targets=say,
            weights=torch.ones(read.shape, device=read.device),
            positions=torch.arange(read.shape[1], device=read.device).expand(read.shape),
            tree=PrefixTree.of(read) if tree else None,
        )

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    def __len__(self) -> int:
        """How many sequences."""
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> Batch:
        """Some of the sequences; the tree, if there is one, is not carried over."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tree"}
        return type(self)(**{name: None if part is None else part[rows] for name, part in parts.items()})

    def with_(self, **changes: Tensor | PrefixTree | None) -> Batch:
        """A copy with some fields replaced, checked as at birth.

        A tree does not survive new ``tokens``, ``positions`` or ``attend``.

        Raises
        ------
        ValueError
            As at birth.
        """
        if {"tokens", "positions", "attend"} & set(changes):
            changes = {"tree": None} | changes
        return replace(self, **changes)

    @property
    def in_order(self) -> bool:
        """Whether positions are ``0 .. time - 1`` in every sequence."""
        counted = torch.arange(self.tokens.shape[1], device=self.device)
        return torch.equal(self.positions, counted.expand(self.tokens.shape).to(self.positions.dtype))

    def _is_plain(self) -> bool:
        """Whether equal prefixes give equal activations: causal, and every position in its place."""
        return self.attend is None and self.in_order

    def to(self, device: str | torch.device) -> Batch:
        """A copy on another device."""
        tree = self.tree and PrefixTree(*(getattr(self.tree, f.name).to(device) for f in fields(self.tree)))
        moved = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tree"}
        return type(self)(**{k: None if v is None else v.to(device) for k, v in moved.items()}, tree=tree)


def read_both_ways(batch: Batch) -> Batch:
    """The batch as a prefix language model reads it: every token of a prompt sees the whole of it, answers see back.

    A prompt reaches to the first position that counts, at which the first token of the answer is said; a row of which
    nothing counts stays causal. For models whose attention honours ``attend`` above the diagonal.

    Raises
    ------
    ValueError
        If the batch says already what may be seen.
    """
    if batch.attend is not None:
        raise ValueError("attend is given; prompts are read both ways only where nothing else is said of what is seen")
    place = torch.arange(batch.tokens.shape[1], device=batch.device)
    prompt = place <= (batch.weights != 0).int().argmax(1, keepdim=True)
    return batch.with_(attend=(place[:, None] >= place) | (prompt[:, :, None] & prompt[:, None, :]))


def _fits(tree: PrefixTree, tokens: Int[Tensor, "batch time"]) -> bool:
    """Whether all positions of a node have read the same of ``tokens``, so that one may stand for all."""
    return tree.node.shape == tokens.shape and torch.equal(tokens.flatten()[tree.first][tree.node], tokens)


def whole_numbers(name: str, values: Any) -> Int[Tensor, "*shape"]:
    """``values`` as an int64 tensor, or a refusal that says what they are instead.

    Raises
    ------
    ValueError
        If they are not integers, or one is negative.
    """
    found = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool:
        raise ValueError(f"{name} are {str(found.dtype).removeprefix('torch.')}; they must be integers")
    if found.numel() and int(found.min()) < 0:
        raise ValueError(f"{name} hold {int(found.min())}; token ids start at 0")
    return found.long()


def refuse_out_of_range(name: str, ids: Int[Tensor, ...], limit: int, *, limit_name: str) -> None:
    """Raise unless every id lies in ``0 .. limit - 1``.

    Raises
    ------
    ValueError
        Naming the smallest or largest id, and the limit by the name the user knows it under.
    """
    low, high = (int(x) for x in torch.aminmax(ids))
    if low < 0 or high >= limit:
        worst = low if low < 0 else high
        raise ValueError(f"{name} hold {worst}; with {limit_name}={limit} they must lie in 0 .. {limit - 1}")
