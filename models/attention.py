"""Multi-head attention, once with every value at its hook, once fused."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from nextlens.models.batch import Batch
from nextlens.models.transformer_config import TransformerConfig


class Past:
    """Keys and values of one layer for the tokens read so far, in room for ``length`` of them.

    Parameters
    ----------
    n_sequences, n_heads, length, d_head : int
    like : Tensor
        Gives device and precision.
    """

    def __init__(self, n_sequences: int, n_heads: int, length: int, d_head: int, like: Tensor) -> None:
        self.k = like.new_empty(n_sequences, n_heads, length, d_head)
        self.v = torch.empty_like(self.k)
        self.read = 0

    def append(
        self, k: Float[Tensor, "batch head new d_head"], v: Float[Tensor, "batch head new d_head"]
    ) -> tuple[Float[Tensor, "batch head total d_head"], Float[Tensor, "batch head total d_head"]]:
        """All keys and values, the new ones among them."""
        start, self.read = self.read, self.read + k.shape[2]
        self.k[:, :, start : self.read], self.v[:, :, start : self.read] = k, v
        return self.k[:, :, : self.read], self.v[:, :, : self.read]

    def keep(self, rows: Tensor) -> None:
        """Forget all sequences but these."""
        self.k, self.v = self.k[rows], self.v[rows]


class Attention(nn.Module):
    """Multi-head attention with learned-absolute, rotary, no, or relative positions.

    With ``positions="relative"``, for heads of width d and clipped offsets s - t (Shaw et al. 2018,
    arXiv:1803.02155; tables shared by the heads of a layer)::

        score[t, s] = (q[t] · k[s] + q[t] · R_K[s - t]) / sqrt(d)      z[t] = sum_s pattern[t, s] (v[s] + R_V[s - t])
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        heads, width, head = config.n_heads, config.d_model, config.d_head
        for name in "QKV":
            setattr(self, f"W_{name}", nn.Parameter(torch.empty(heads, width, head)))
            setattr(self, f"b_{name}", nn.Parameter(torch.zeros(heads, head)))
        self.W_O = nn.Parameter(torch.empty(heads, head, width))
        self.b_O = nn.Parameter(torch.zeros(width))
        if config.positions == "relative":
            self.R_K = nn.Parameter(torch.empty(2 * config.n_ctx - 1, head))
            self.R_V = nn.Parameter(torch.empty(2 * config.n_ctx - 1, head))
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        if config.positions == "rotary":
            self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
            self.register_buffer("rotation", _rotation(config), persistent=False)
        self.hook_attn_scores, self.hook_pattern, self.hook_z = HookPoint(), HookPoint(), HookPoint()

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        positions: Int[Tensor, "one_or_batch time"],
        attend: Bool[Tensor, "batch time time"] | None,
    ) -> Float[Tensor, "batch time width"]:
        q = self.hook_q(torch.einsum("btw,hwd->bthd", x, self.W_Q) + self.b_Q)
        k = self.hook_k(torch.einsum("btw,hwd->bthd", x, self.W_K) + self.b_K)
        v = self.hook_v(torch.einsum("btw,hwd->bthd", x, self.W_V) + self.b_V)
        if self.config.positions == "rotary":
            q, k = self.hook_rot_q(self.rotate(q, positions)), self.hook_rot_k(self.rotate(k, positions))
        z = self.mix(q, k, v, positions, attend)
        return torch.einsum("bthd,hdw->btw", self.hook_z(z), self.W_O) + self.b_O

    def mix(
        self,
        q: Float[Tensor, "batch time head d_head"],
        k: Float[Tensor, "batch time head d_head"],
        v: Float[Tensor, "batch time head d_head"],
        positions: Int[Tensor, "one_or_batch time"],
        attend: Bool[Tensor, "batch time time"] | None,
    ) -> Float[Tensor, "batch time head d_head"]:
        scores = torch.einsum("bthd,bshd->bhts", q, k)
        if self.config.positions == "relative":
            reach = self.config.n_ctx - 1
            offset = (positions[:, None, :] - positions[:, :, None]).clamp(-reach, reach) + reach
            scores = scores + torch.einsum("bthd,btsd->bhts", q, self.R_K[offset].expand(len(q), -1, -1, -1))
        seen = causal(q.shape[1], q.device) if attend is None else attend[:, None]
        scores = self.hook_attn_scores((scores / math.sqrt(q.shape[-1])).masked_fill(~seen, -torch.inf))
        pattern = self.hook_pattern(scores.softmax(-1))
        z = torch.einsum("bhts,bshd->bthd", pattern, v)
        if self.config.positions == "relative":
            z = z + torch.einsum("bhts,btsd->bthd", pattern, self.R_V[offset].expand(len(q), -1, -1, -1))
        return z

    def fused(
        self, x: Float[Tensor, "row width"], batch: Batch, positions: Int[Tensor, "one_or_batch time"]
    ) -> Float[Tensor, "row width"]:
        heads, head = self.config.n_heads, self.config.d_head
        weight = torch.cat([self.W_Q, self.W_K, self.W_V]).transpose(0, 1).reshape(x.shape[1], -1)
        bias = torch.cat([self.b_Q, self.b_K, self.b_V]).flatten()
        qkv = torch.addmm(bias, x, weight)
        if batch.tree is not None:
            z = self.mix_tree(qkv, batch)
        else:
            q, k, v = qkv.view(*batch.tokens.shape, 3, heads, head).unbind(2)
            if self.config.positions == "rotary":
                q, k = self.rotate(q, positions), self.rotate(k, positions)
            if self.config.positions == "relative":
                z = self.mix(q, k, v, positions, batch.attend)
            else:
                mask = None if batch.attend is None else _once(batch.attend)[:, None]
                q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
                z = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None).transpose(1, 2)
        return torch.addmm(self.b_O, z.reshape(len(x), -1), self.W_O.flatten(0, 1))

    def extended(
        self, x: Float[Tensor, "batch new width"], positions: Int[Tensor, "batch new"], past: Past
    ) -> Float[Tensor, "batch new width"]:
        """What :meth:`fused` gives for new tokens behind those whose keys and values are in ``past``, which grows."""
        heads, head = self.config.n_heads, self.config.d_head
        weight = torch.cat([self.W_Q, self.W_K, self.W_V]).transpose(0, 1).reshape(x.shape[-1], -1)
        qkv = x @ weight + torch.cat([self.b_Q, self.b_K, self.b_V]).flatten()
        q, k, v = qkv.view(*x.shape[:2], 3, heads, head).unbind(2)
        if self.config.positions == "rotary":
            q, k = self.rotate(q, positions), self.rotate(k, positions)
        k, v = past.append(k.transpose(1, 2), v.transpose(1, 2))
        new, total = x.shape[1], k.shape[2]
        mask = None if new == 1 else causal(total, x.device)[total - new :]
        z = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, mask)
        return z.transpose(1, 2).flatten(2) @ self.W_O.flatten(0, 1) + self.b_O

    def mix_tree(self, qkv: Float[Tensor, "node three_heads"], batch: Batch) -> Float[Tensor, "node head d_head"]:
        """Each node looks along its own lineage."""
        tree, (heads, head) = batch.tree, (self.config.n_heads, self.config.d_head)
        nodes, time = tree.lineage.shape
        if self.config.positions == "rotary":
            q, k, v = qkv.view(nodes, 1, 3, heads, head).unbind(2)
            place = (tree.first % time)[:, None]
            qkv = torch.cat([self.rotate(q, place), self.rotate(k, place), v], dim=1).flatten(1)
        q, kv = qkv.tensor_split([heads * head], dim=1)
        q = q.view(nodes, heads, head)
        k, v = kv.index_select(0, tree.lineage.flatten()).view(nodes, time, 2, heads, head).unbind(2)
        scores = (q[:, None] * k).sum(-1) / math.sqrt(head)
        pattern = scores.masked_fill(~tree.read[:, :, None], -torch.inf).softmax(1)
        return (pattern[..., None] * v).sum(1)

    def rotate(
        self, x: Float[Tensor, "batch time head d_head"], positions: Int[Tensor, "one_or_batch time"]
    ) -> Float[Tensor, "batch time head d_head"]:
        """Turn each neighbouring pair of components by its angle at this position (RoPE, arXiv:2104.09864)."""
        cos, sin = self.rotation[positions].to(x.dtype).unsqueeze(-2).unbind(2)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def causal(time: int, device: torch.device) -> Bool[Tensor, "time time"]:
    """``causal[t, s]``: position ``t`` may look at ``s``, for ``s <= t``."""
    return torch.ones(time, time, dtype=torch.bool, device=device).tril()


def _once(attend: Bool[Tensor, "batch time time"]) -> Bool[Tensor, "one_or_batch time time"]:
    """One row for all, where all rows are one in memory."""
    return attend[:1] if attend.stride(0) == 0 else attend


def _rotation(config: TransformerConfig) -> Float[Tensor, "position two half"]:
    """Cosines and sines of ``position / base ** (2 i / d_head)``."""
    pairs = torch.arange(0, config.d_head, 2).float() / config.d_head
    angle = torch.arange(config.n_ctx).float()[:, None] / config.rotary_base**pairs
    return torch.stack([angle.cos(), angle.sin()], dim=1)
