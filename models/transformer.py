"""A decoder on one page, in which every value has its TransformerLens name.

Built on TransformerLens's ``HookedRootModule``: hooks, caches, activation and parameter names are
its own. With no hook attached, :meth:`Transformer.forward` takes a fused path (one product for
queries, keys and values; scaled-dot-product attention; each distinct prefix once when the batch
carries its tree). With a hook, it takes the path on which every value passes its ``HookPoint``; but
hooks at its two ends alone, the embedding and the last normalised residual, are served on the fused one.
Both give equal logits and equal gradients.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from nextlens.models.attention import Attention, Past
from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.bridge import native_bridge, native_state
from nextlens.models.hooked_module import GridTable, HookedModule, Table
from nextlens.models.transformer_config import TransformerConfig, paper_mess3, paper_rrxor

__all__ = ["Transformer", "TransformerConfig", "paper_mess3", "paper_rrxor"]

ACTIVATIONS = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}


class Normalisation(nn.Module):
    """LayerNorm, RMSNorm, or nothing; ``hook_normalized`` is the value after gain and bias."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.kind, self.shape, self.eps = config.normalisation, (config.d_model,), config.epsilon
        if self.kind != "none":
            self.w = nn.Parameter(torch.ones(config.d_model))
            self.hook_scale = HookPoint()
        if self.kind == "LayerNorm":
            self.b = nn.Parameter(torch.zeros(config.d_model))
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        if self.kind == "none":
            return self.hook_normalized(x)
        if self.kind == "LayerNorm":
            x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(x / scale * self.w + (self.b if self.kind == "LayerNorm" else 0.0))

    def fused(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        if self.kind == "LayerNorm":
            return F.layer_norm(x, self.shape, self.w, self.b, self.eps)
        return F.rms_norm(x, self.shape, self.w, self.eps) if self.kind == "RMSNorm" else x


class MLP(nn.Module):
    """``act(x W_in + b_in) W_out + b_out``; gated, ``(act(x W_gate) * (x W_in)) W_out``, without biases."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gated, self.activate = config.gated, ACTIVATIONS[config.activation]
        self.W_in = nn.Parameter(torch.empty(config.d_model, config.d_mlp))
        self.W_out = nn.Parameter(torch.empty(config.d_mlp, config.d_model))
        if config.gated:
            self.W_gate = nn.Parameter(torch.empty(config.d_model, config.d_mlp))
            self.hook_pre, self.hook_pre_linear = HookPoint(), HookPoint()
        else:
            self.b_in = nn.Parameter(torch.zeros(config.d_mlp))
            self.b_out = nn.Parameter(torch.zeros(config.d_model))
            self.hook_pre = HookPoint()
        self.hook_post = HookPoint()

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        if self.gated:
            gate = self.activate(self.hook_pre(x @ self.W_gate))
            return self.hook_post(gate * self.hook_pre_linear(x @ self.W_in)) @ self.W_out
        return self.hook_post(self.activate(self.hook_pre(x @ self.W_in + self.b_in))) @ self.W_out + self.b_out

    def fused(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        if self.gated:
            return (self.activate(x @ self.W_gate) * (x @ self.W_in)) @ self.W_out
        hidden = torch.addmm(self.b_in, x, self.W_in)
        hidden = hidden.relu_() if self.activate is torch.relu else self.activate(hidden)
        return torch.addmm(self.b_out, hidden, self.W_out)


class Block(nn.Module):
    """Attention, then an MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.post, self.has_mlp = config.post_normalisation, config.d_mlp > 0
        self.hook_resid_pre = HookPoint()
        self.ln1, self.attn = Normalisation(config), Attention(config)
        if self.post:
            self.ln1_post = Normalisation(config)
        self.hook_attn_out = HookPoint()
        if self.has_mlp:
            self.hook_resid_mid = HookPoint()
            self.ln2, self.mlp = Normalisation(config), MLP(config)
            if self.post:
                self.ln2_post = Normalisation(config)
            self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        positions: Int[Tensor, "one_or_batch time"],
        attend: Bool[Tensor, "batch time time"] | None,
    ) -> Float[Tensor, "batch time width"]:
        x = self.hook_resid_pre(x)
        out = self.attn(self.ln1(x), positions, attend)
        x = x + self.hook_attn_out(self.ln1_post(out) if self.post else out)
        if self.has_mlp:
            x = self.hook_resid_mid(x)
            out = self.mlp(self.ln2(x))
            x = x + self.hook_mlp_out(self.ln2_post(out) if self.post else out)
        return self.hook_resid_post(x)

    def fused(
        self, x: Float[Tensor, "row width"], batch: Batch, positions: Int[Tensor, "one_or_batch time"]
    ) -> Float[Tensor, "row width"]:
        out = self.attn.fused(self.ln1.fused(x), batch, positions)
        return self._rest(x, out)

    def extended(
        self, x: Float[Tensor, "batch new width"], positions: Int[Tensor, "batch new"], past: Past
    ) -> Float[Tensor, "batch new width"]:
        out = self.attn.extended(self.ln1.fused(x), positions, past)
        return self._rest(x.flatten(0, 1), out.flatten(0, 1)).view(x.shape)

    def _rest(self, x: Float[Tensor, "row width"], out: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        """Attention's output put in, and the MLP."""
        x = x + (self.ln1_post.fused(out) if self.post else out)
        if self.has_mlp:
            out = self.mlp.fused(self.ln2.fused(x))
            x = x + (self.ln2_post.fused(out) if self.post else out)
        return x


def _place_table(config: TransformerConfig) -> Table | GridTable:
    """What ids are looked up in."""
    if config.positions == "grid":
        return GridTable(math.isqrt(config.n_ctx), config.d_model)
    return Table("W_pos", config.n_ctx, config.d_model)


class Transformer(HookedModule):
    """A decoder-only transformer; a ``Hooked`` kernel, and a TransformerLens ``HookedRootModule``.

    Weights are drawn from N(0, 0.8² / d_model), biases are zero: TransformerLens's own default, with
    a generator of their own, so ``config.seed`` alone decides them and no global state is touched.

    Parameters
    ----------
    config : TransformerConfig
        Its shape. See :func:`paper_mess3` and :func:`paper_rrxor` for two published ones.

    Examples
    --------
    >>> model = Transformer(TransformerConfig(n_tokens=3, n_ctx=10))
    >>> model(Batch.from_tokens([[0, 1, 2, 0]])).shape
    torch.Size([1, 3, 3])
    >>> with model.watched("blocks.0.resid_post") as seen:
    ...     _ = model(Batch.from_tokens([[0, 1, 2, 0]]))
    >>> seen["blocks.0.resid_post"].shape
    torch.Size([1, 3, 64])
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.embed = Table("W_E", config.n_tokens, config.d_model)
        self.hook_embed = HookPoint()
        self._adds_places = config.positions in ("learned", "grid")
        if self._adds_places:
            self.pos_embed = _place_table(config)
            self.hook_pos_embed = HookPoint()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.ln_final = Normalisation(config)
        self.unembed = Table("W_U", config.d_model, config.n_tokens)
        self.setup()
        generator = torch.Generator().manual_seed(config.seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.rpartition(".")[2].startswith(("W_", "R_")):
                    parameter.normal_(0.0, 0.8 / math.sqrt(config.d_model), generator=generator)

    def setup(self) -> None:
        """Name every part and find its hooks; call it again if a part has been replaced."""
        super().setup()
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        ends = (self.hook_embed, self.ln_final.hook_normalized)
        inner = [part for part in tuple(self.modules())[1:] if part not in ends]
        self._hooks_of_ends = [getattr(part, kind) for part in ends for kind in kinds]
        self._hooks_of_inner_parts = [getattr(part, kind) for part in inner for kind in kinds]

    def untrained(self, seed: int | None = None) -> Transformer:
        """A twin with initial weights: its own (None), or those of another seed; same device, same dtype."""
        seed = self.config.seed if seed is None else seed
        return Transformer(replace(self.config, seed=seed)).to(self.device, self.embed.W_E.dtype)

    def to_bridge(self) -> TransformerBridge:
        """The same model as a native ``TransformerBridge``, for every tool that wants one.

        Raises
        ------
        ValueError
            If the bridge has no such architecture (positions relative, on a grid or none; a second normalisation).
        """
        return native_bridge(self.config, self.state_dict())

    @classmethod
    def from_bridge(cls, bridge: TransformerBridge) -> Transformer:
        """The same model from a native ``TransformerBridge``; on the CPU.

        Raises
        ------
        ValueError
            If the bridge is not native, or uses what a ``Transformer`` lacks.
        """
        config, state = native_state(bridge)
        model = cls(config).to(dtype=next(iter(state.values())).dtype)
        model.load_state_dict(state)
        return model

    def forward(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Logits: the fused path if no hook is attached, else the named one.

        Raises
        ------
        ValueError
            If a token is not below ``n_tokens``, or a position not below ``n_ctx``.
        """
        time = batch.tokens.shape[1]
        refuse_out_of_range("tokens", batch.tokens, self.config.n_tokens, limit_name="n_tokens")
        one_row = batch.positions.stride(0) == 0
        positions = batch.positions[:1] if one_row else batch.positions
        if int(positions.max()) >= self.config.n_ctx and time > self.config.n_ctx:
            raise ValueError(f"tokens has sequences of {time}; the context of this model is n_ctx={self.config.n_ctx}")
        refuse_out_of_range("positions", positions, self.config.n_ctx, limit_name="n_ctx")
        if any(self._hooks_of_inner_parts):
            return self._named(batch, positions)
        if batch.tree is not None and any(self._hooks_of_ends):
            batch = batch.with_(tree=None)
        return self._fused(batch, positions)

    def past(self, n_sequences: int, length: int) -> list[Past]:
        """Room for the keys and values of ``length`` tokens, layer by layer: see :meth:`extended`."""
        config = self.config
        return [Past(n_sequences, config.n_heads, length, config.d_head, self.embed.W_E) for _ in self.blocks]

    @torch.no_grad()
    def extended(
        self, tokens: Int[Tensor, "batch new"], positions: Int[Tensor, "batch new"], past: list[Past]
    ) -> Float[Tensor, "batch vocab"]:
        """Logits after the last of the new tokens, each read once; ``past`` grows by them.

        Plain causal reading, no hooks, no gradient.

        Raises
        ------
        ValueError
            If positions are relative (their tables have no such path), or one is not below ``n_ctx``.
        """
        if self.config.positions == "relative":
            raise ValueError("positions='relative' is read whole; this model keeps no keys and values")
        refuse_out_of_range("positions", positions, self.config.n_ctx, limit_name="n_ctx")
        x = F.embedding(tokens, self.embed.W_E)
        if self._adds_places:
            x = x + F.embedding(positions, self.pos_embed.W_pos)
        for block, keys_and_values in zip(self.blocks, past, strict=True):
            x = block.extended(x, positions, keys_and_values)
        return self.ln_final.fused(x[:, -1]) @ self.unembed.W_U

    def _named(self, batch: Batch, positions: Int[Tensor, "one_or_batch time"]) -> Float[Tensor, "batch time vocab"]:
        x = self.hook_embed(F.embedding(batch.tokens, self.embed.W_E))
        if self._adds_places:
            places = F.embedding(positions, self.pos_embed.W_pos).expand(len(x), -1, -1)
            x = x + self.hook_pos_embed(places)
        for block in self.blocks:
            x = block(x, positions, batch.attend)
        return self.ln_final(x) @ self.unembed.W_U

    def _fused(self, batch: Batch, positions: Int[Tensor, "one_or_batch time"]) -> Float[Tensor, "batch time vocab"]:
        (n, time), tree = batch.tokens.shape, batch.tree
        if self.config.positions == "relative" and tree is not None:
            batch, tree = batch.with_(tree=None), None
        tokens = batch.tokens.flatten()
        x = F.embedding(tokens if tree is None else tokens[tree.first], self.embed.W_E)
        if tree is None:
            x = self.hook_embed(x.view(n, time, -1)).flatten(0, 1)
        if self._adds_places:
            places = F.embedding(positions, self.pos_embed.W_pos)
            if tree is None:
                x = (x.view(n, time, -1) + places).flatten(0, 1)
            else:
                x = x + places[0].index_select(0, tree.first % time)
        for block in self.blocks:
            x = block.fused(x, batch, positions)
        x = self.ln_final.fused(x)
        if tree is None:
            x = self.ln_final.hook_normalized(x.view(n, time, -1)).flatten(0, 1)
        logits = x @ self.unembed.W_U
        if tree is not None:
            logits = logits.index_select(0, tree.node.flatten())
        return logits.view(n, time, -1)
