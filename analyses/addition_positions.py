"""What the table of positions holds: how alike its rows are, and which ids heads look for from which."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from nextlens.models.hooked import Hooked


def id_scores(model: Hooked, layer: int = 0) -> Float[np.ndarray, "head id_looking id_looked_at"]:
    """What the position table alone adds to the scores of attention: ``W_pos W_Q W_Kᵀ W_posᵀ / sqrt(d_head)``.

    Rows of the table are normalised as if nothing had been added to them. Row: id that looks, column: id looked at.

    Raises
    ------
    ValueError
        If the model has no table of learned positions.
    """
    if model.config.positions != "learned":
        raise ValueError(f"positions={model.config.positions!r}; only learned positions have a table")
    with torch.no_grad():
        block = model.blocks[layer]
        table = block.ln1.fused(model.pos_embed.W_pos)
        q = torch.einsum("pw,hwd->hpd", table, block.attn.W_Q) + block.attn.b_Q[:, None]
        k = torch.einsum("pw,hwd->hpd", table, block.attn.W_K) + block.attn.b_K[:, None]
        scores = torch.einsum("hpd,hqd->hpq", q, k) / model.config.d_head**0.5
    return scores.cpu().numpy()


def offset_preference(
    scores: Float[np.ndarray, "head id_looking id_looked_at"], ids: slice, reach: int = 3
) -> Float[np.ndarray, "head offset"]:
    """How much more each head scores ids at each offset, ``-reach .. reach``, than at all others of ``ids``.

    Mean over looking ids of ``(score at the offset - mean of the row) / standard deviation of the row``; 0 for a row
    whose scores are all alike.
    """
    chosen = scores[:, ids, ids]
    spread = chosen.std(2, keepdims=True)
    chosen = (chosen - chosen.mean(2, keepdims=True)) / np.where(spread > 0, spread, 1)
    return np.stack([chosen.diagonal(o, 1, 2).mean(1) for o in range(-reach, reach + 1)], axis=1)


def neighbour_similarity(model: Hooked, ids: slice) -> Float[np.ndarray, "id other"]:
    """Cosines between rows of the position table."""
    table = model.pos_embed.W_pos.detach().cpu().numpy()[ids]
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    return table @ table.T
