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
        """The tree of ``tokens``, built one level at a time, on their device."""
        n, time = tokens.shape
        alphabet = int(tokens.max()) + 1
        level = tokens.new_zeros(n, dtype=torch.long)
        nodes, firsts = [], []
        here, total = 1, 0
        for t in range(time):
            level, row = _number(level * alphabet + tokens[:, t], here * alphabet)
            nodes.append(level + total)
            firsts.append(row * time + t)
            here = len(row)
            total += here
        node, first = torch.stack(nodes, dim=1), torch.cat(firsts)
        read = torch.arange(time, device=tokens.device) <= (first % time)[:, None]
        itself = torch.arange(total, device=tokens.device)[:, None]
        return cls(node, first, torch.where(read, node[first // time], itself), read)

    def fits(self, tokens: Int[Tensor, "batch time"]) -> bool:
        """Whether all positions of a node have read the same of ``tokens``, so that one may stand for all."""
        return self.node.shape == tokens.shape and torch.equal(tokens.flatten()[self.first][self.node], tokens)

    def __len__(self) -> int:
        return len(self.first)


def _number(key: Int[Tensor, " batch"], n_keys: int) -> tuple[Int[Tensor, " batch"], Int[Tensor, " level"]]:
    """Number the distinct keys in increasing order; also the first row at which each occurs."""
    if n_keys > 64 * len(key) + 4096:
        key = torch.unique(key, return_inverse=True)[1]
        n_keys = int(key.max()) + 1
    rows = torch.arange(len(key), device=key.device)
    first = rows.new_full((n_keys,), len(key)).scatter_reduce_(0, key, rows, "amin")
    present = first < len(key)
    return (present.cumsum(0) - 1)[key], first[present]
