"""The circuits of attention heads, as products of weights: what a head reads, looks for and writes, token by token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nextlens.models.bridge import Bridged
from nextlens.models.hooked import Hooked
from nextlens.models.transformer import Transformer


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """Weights of the heads of one layer, and the vocabulary as they read it and write it.

    Attributes
    ----------
    embed : Float[Tensor, "token width"]
        Embeddings alone, normalised and with the gain of this layer's normalisation: what a head reads
        of a token if nothing but its embedding is in the residual stream.
    unembed : Float[Tensor, "width token"]
        With the gain of the final normalisation. What this leaves out is its scale, one positive number
        a position.
    W_Q, W_K, W_V : Float[Tensor, "head width head_feature"]
        Grouped keys and values are given to each head of their group. Biases are left out, and so are rotations:
        a rotary head's queries and keys are compared as at one place.
    W_O : Float[Tensor, "head head_feature width"]
    """

    embed: Float[Tensor, "token width"]
    unembed: Float[Tensor, "width token"]
    W_Q: Float[Tensor, "head width head_feature"]
    W_K: Float[Tensor, "head width head_feature"]
    W_V: Float[Tensor, "head width head_feature"]
    W_O: Float[Tensor, "head head_feature width"]

    @property
    def ov(self) -> Float[np.ndarray, "head head_feature head_feature"]:
        """``W_O W_U W_E W_V``, with the eigenvalues of the OV circuit ``W_E W_V W_O W_U``."""
        return (self.W_O @ (self.unembed @ self.embed) @ self.W_V).double().cpu().numpy()

    @property
    def qk(self) -> Float[np.ndarray, "head head_feature head_feature"]:
        """``W_Kᵀ W_Eᵀ W_E W_Q``, with the eigenvalues of the QK circuit ``W_E W_Q W_Kᵀ W_Eᵀ``."""
        gram = self.embed.T @ self.embed
        return (self.W_K.transpose(1, 2) @ gram @ self.W_Q).double().cpu().numpy()

    def ov_rows(self, first: int) -> Float[np.ndarray, "head {first} token"]:
        """The first rows of the OV circuit: what attending to each of these tokens adds to every logit."""
        return (self.embed[:first] @ self.W_V @ self.W_O @ self.unembed).float().cpu().numpy()

    def raised(
        self, z: Float[Tensor, "sequence query head head_feature"]
    ) -> Float[np.ndarray, "sequence head query token"]:
        """What each head's output alone adds to the logits, up to the scale of the final normalisation."""
        return torch.einsum("bthd,hdv->bhtv", z, self.W_O @ self.unembed).float().cpu().numpy()

    def composed_qk(self, earlier: HeadWeights, head: int) -> Float[np.ndarray, "head head_feature head_feature"]:
        """The QK circuits whose keys are read through one head of an earlier layer (K-composition).

        A query token is compared with the token that the earlier head has moved to the key:
        ``W_E W_Q W_Kᵀ (W_V W_O)ᵀ W_Eᵀ``, turned around as in :attr:`qk`. Behind a previous-token head, an
        induction head matches equal tokens: its eigenvalues are positive. The normalisation between the two
        layers is left out.
        """
        moved = earlier.embed @ earlier.W_V[head] @ earlier.W_O[head]
        return (self.W_K.transpose(1, 2) @ (moved.T @ self.embed) @ self.W_Q).double().cpu().numpy()


@torch.no_grad()
def head_weights(model: Hooked, layer: int, tokens: Int[np.ndarray, " token"] | None = None) -> HeadWeights | None:
    """The weights of one layer, over some tokens or all; None for a model whose weights are not known by name.

    Known are those of a :class:`Transformer` and of a bridge with the usual parts, both without a second
    normalisation, which is not linear in what one head writes.
    """
    if isinstance(model, Transformer):
        if model.config.post_normalisation:
            return None
        embed, unembed, block, last = model.embed.W_E, model.unembed.W_U, model.blocks[layer], model.ln_final
    elif isinstance(model, Bridged):
        bridge = model.bridge
        block = bridge.blocks[layer]
        parts = all(hasattr(block, name) for name in ("ln1", "attn"))
        if not parts or hasattr(block, "ln1_post") or not hasattr(bridge, "ln_final"):
            return None
        embed, unembed, last = bridge.W_E, bridge.W_U, bridge.ln_final
    else:
        return None
    try:
        weights = {name: getattr(block.attn, name) for name in ("W_Q", "W_K", "W_V", "W_O")}
    except AttributeError:
        return None
    if tokens is not None:
        chosen = torch.as_tensor(tokens, device=embed.device)
        embed, unembed = embed[chosen], unembed[:, chosen]
    n_heads = len(weights["W_O"])
    weights = {name: value.repeat_interleave(n_heads // len(value), dim=0) for name, value in weights.items()}
    read = block.ln1(embed[None])[0] - block.ln1(torch.zeros_like(embed[:1])[None])[0]
    return HeadWeights(read, _with_gain(unembed, last), **weights)


def _with_gain(unembed: Float[Tensor, "width token"], normalisation: nn.Module) -> Float[Tensor, "width token"]:
    """``unembed`` behind the linear part of a normalisation: its gain, and its centring if it centres.

    Both are read off its output for ±x, of mean 0, so that no convention of a gain needs to be known.
    """
    x = torch.ones(len(unembed), dtype=unembed.dtype, device=unembed.device)
    x[1::2] = -1.0
    if len(x) % 2 and len(x) > 1:
        x[-2:] = x.new_tensor([1.0, -2.0])
    plus, minus, level, nothing = normalisation(torch.stack([x, -x, torch.ones_like(x), torch.zeros_like(x)])[None])[0]
    gain = (plus - minus) / (2 * x) * x.pow(2).mean().sqrt()
    written = gain[:, None] * unembed
    centres = bool((level - nothing).abs().max() < 1e-3 * (plus - minus).abs().max())
    return written - written.mean(0) if centres else written
