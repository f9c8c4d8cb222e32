"""The tree of distinct prefixes in a batch: what a causal model need compute only once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PrefixTree:
    """Which positions of a batch have read the same tokens, and what each has read.

    A causal model gives equal activations at equal prefixes, so each distinct prefix (a *node*)
    need be computed once: the same loss and the same gradient for fewer positions. Nodes are
    numbered level by level, so the prefixes of one length are neighbours.

    Attributes
    ----------
    node : Int[Tensor, "batch time"]
        ``node[b, t]`` is the node of ``tokens[b, : t + 1]``.
    first : Int[Tensor, " node"]
        The first flat index ``b * time + t`` at which each node occurs.
    lineage : Int[Tensor, "node time"]
        ``lineage[i, s]`` is the node of the first ``s + 1`` tokens of node ``i``; past the
        prefix's own length, node ``i`` itself.
    read : Bool[Tensor, "node time"]
        Whether ``lineage[i, s]`` is within the prefix.

    Examples
    --------
    >>> tree = PrefixTree.of(torch.tensor([[0, 1], [0, 2], [0, 1]]))
    >>> tree.node.tolist()
    [[0, 1], [0, 2], [0, 1]]
    >>> tree.lineage.tolist()
    [[0, 0], [0, 1], [0, 2]]
    """

    node: Int[Tensor, "batch time"]
    first: Int[Tensor, " node"]
    lineage: Int[Tensor, "node time"]
    read: Bool[Tensor, "node time"]

    @classmethod
    def of(cls, tokens: Int[Tensor, "batch time"]) -> PrefixTree:
        """The tree of ``tokens``, on their device."""
        n, time = tokens.shape
        node = number_prefixes(tokens)
        itself = torch.arange(int(node.max()) + 1, device=tokens.device)
        place = torch.arange(n * time, device=tokens.device)
        first = torch.full_like(itself, n * time).scatter_reduce_(0, node.flatten(), place, "amin")
        read = torch.arange(time, device=tokens.device) <= (first % time)[:, None]
        return cls(node, first, torch.where(read, node[first // time], itself[:, None]), read)

    def __len__(self) -> int:
        return len(self.first)


def number_prefixes(tokens: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """``0 .. n - 1`` for the ``n`` distinct prefixes: equal exactly where equal tokens have been read.

    Examples
    --------
    >>> number_prefixes(torch.tensor([[0, 1], [0, 2], [0, 1]])).tolist()
    [[0, 1], [0, 2], [0, 1]]
    """
    return torch.unique(_keys(tokens), return_inverse=True)[1]


def _keys(tokens: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """Numbers that are equal exactly where prefixes are, and grow with their length."""
    n, time = tokens.shape
    alphabet = int(tokens.max()) + 1
    if time * alphabet**time < 2**62:
        worth = alphabet ** torch.arange(time - 1, -1, -1, device=tokens.device)
        return (tokens * worth).cumsum(1) + alphabet**time * torch.arange(time, device=tokens.device)
    numbers, level = [], torch.zeros_like(tokens[:, 0])
    for t in range(time):
        level = torch.unique(level * alphabet + tokens[:, t], return_inverse=True)[1]
        numbers.append(level + t * n)
    return torch.stack(numbers, dim=1)
