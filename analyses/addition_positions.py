"""What the table of positions holds: how alike its rows are, and which ids heads look for from which."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
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


def margins(scores: Float[np.ndarray, "id_looking id_looked_at"], offset: int, together: int) -> xr.Dataset:
    """By how much a head scores the id that it looks for above the best other one, of two kinds.

    Parameters
    ----------
    scores : array of shape (id, id)
        Of one head, for ids one after another.
    offset : int
        Of the id looked for, from the one that looks.
    together : int
        Ids that differ by at most so many occur in one sum of training; heads were never trained to tell others apart.

    Returns
    -------
    xr.Dataset
        ``together`` and ``apart`` (id): the score looked for, less the largest other of ids of that kind; ids without
        a target, or without another of both kinds, are left out. ``rival`` (id): how far away the best id apart is.

    Raises
    ------
    ValueError
        If no id has others of both kinds.
    """
    rows = []
    for i, row in enumerate(scores):
        others = np.arange(len(row)) - i
        near = (np.abs(others) <= together) & (others != offset)
        far = np.abs(others) > together
        if 0 <= i + offset < len(row) and near.any() and far.any():
            best = np.where(far, row, -np.inf).argmax()
            rows.append((i, row[i + offset] - row[near].max(), row[i + offset] - row[best], best - i))
    if not rows:
        raise ValueError(f"together={together} leaves no id apart among {len(scores)}; it must be smaller")
    ids, near, far, rival = map(np.array, zip(*rows, strict=True))
    return xr.Dataset({"together": ("id", near), "apart": ("id", far), "rival": ("id", rival)}, coords={"id": ids})


def neighbour_similarity(model: Hooked, ids: slice) -> Float[np.ndarray, "id other"]:
    """Cosines between rows of the position table."""
    table = model.pos_embed.W_pos.detach().cpu().numpy()[ids]
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    return table @ table.T
