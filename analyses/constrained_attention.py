"""What attention of one layer adds up: its pattern, what each token gives through it, and how both decay."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.constrained_beliefs import MID, at_least_tokens, targets
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.models.batch import Batch
from nextlens.models.processes.constrained import attention_decay, displacements
from nextlens.models.recording import record
from nextlens.models.transformer import Transformer
from nextlens.probes.belief import BeliefProbe
from nextlens.probes.samples import pair

PATTERN, VALUES, EMBEDDED = "blocks.0.attn.hook_pattern", "blocks.0.attn.hook_v", "blocks.0.hook_resid_pre"


def attention_circuit(model: Transformer, prefixes: Prefixes) -> xr.Dataset:
    """How the residual stream after attention comes to hold ``r_1``, if it does: position by position.

    Before attention a value depends on its token and its position alone, so that with ``f`` the probe that
    reads ``r_1`` there (affine, fitted to all prefixes of three tokens and more by their probability)::

        f(resid_mid[d]) = constant[d] + f(embedding of z_d) + sum_h sum_s A_h[d, s] f(OV_h of z_s)

    Each ``f(.)`` is, about its mean over tokens, compared with the displacements ``v[z]`` of
    :func:`~nextlens.models.processes.constrained.displacements`; ``along`` them it is a coefficient. Their sum
    is the kernel, which is ``zeta^(d - s)`` where ``r_1`` is held.

    Parameters
    ----------
    model : Transformer
        Of one layer, with learned positions.
    prefixes : Prefixes
        With every word listed, or sampled.

    Returns
    -------
    xarray.Dataset
        ``pattern`` over (head, position, looked_at), mean over words; ``value`` over (head, looked_at) and
        ``embedding`` over position, the coefficients; ``kernel`` over (position, looked_at); ``decay`` over
        head, of the pattern, and ``decay_of_kernel``, as :func:`fitted_decay`; ``zeta``, the process's.
        ``share`` over (part): of the squared length of what f reads of embeddings and OV vectors, how much lies
        along ``v``.

    Raises
    ------
    ValueError
        If the model has not one layer, or the process has no one real decay.
    """
    if model.config.n_layers != 1:
        raise ValueError(f"model has n_layers={model.config.n_layers}; this is about attention in a single layer")
    zeta = attention_decay(prefixes.process)
    probe = _probe_of_r_1(model, prefixes)
    pattern = _mean_pattern(model, prefixes)
    embedded, through = _read_alone(model, prefixes.n_ctx, probe)
    embedding, share_embedding = _along(embedded, prefixes)
    value, share_value = _along(through, prefixes)
    kernel = np.einsum("hds,hs->ds", pattern, value) + np.diag(embedding[0])
    return xr.Dataset(
        {
            "pattern": (("head", "position", "looked_at"), pattern),
            "value": (("head", "looked_at"), value),
            "embedding": ("position", embedding[0]),
            "kernel": (("position", "looked_at"), kernel),
            "decay": ("head", [fitted_decay(one) for one in pattern]),
            "decay_of_kernel": fitted_decay(kernel),
            "zeta": zeta,
            "share": ("part", [share_embedding, share_value]),
        },
        coords={"part": ["embedding", "value"]},
    )


def fitted_decay(weights: Float[np.ndarray, "position looked_at"]) -> float:
    """The factor by which a weight changes when the query is one step further: least squares over all of them.

    ``sum A[d + 1, s] A[d, s] / sum A[d, s]^2`` over ``s < d``, so that it may be negative. Attention that is
    the same for all it sees, ``1 / (d + 1)``, gives about 0.8 for ten positions.

    Raises
    ------
    ValueError
        If there are fewer than 3 positions, or nothing looks back.

    Examples
    --------
    >>> distance = np.subtract.outer(np.arange(5), np.arange(5))
    >>> round(fitted_decay(np.tril((-0.5) ** np.clip(distance, 0, None))), 6)
    -0.5
    """
    if len(weights) < 3:
        raise ValueError(f"weights of {len(weights)} positions; a decay needs 3")
    before, after = np.tril(weights, -1)[1:-1, :-2], np.tril(weights, -1)[2:, :-2]
    before, after = np.tril(before), np.tril(after)
    if not before.any():
        raise ValueError("weights are 0 wherever a position looks back; there is no decay to fit")
    return float((after * before).sum() / (before**2).sum())


def _probe_of_r_1(model: Transformer, prefixes: Prefixes) -> BeliefProbe:
    rows = at_least_tokens(prefixes)
    acts = record(model, rows.batch, [MID], where=rows.first, chunk=512)[MID]
    X, Y, groups = pair(acts, targets(rows)["r_1"], groups="prefix")
    return BeliefProbe().fit(X, Y, groups=groups, sample_weight=rows.weights)


def _mean_pattern(model: Transformer, prefixes: Prefixes) -> Float[np.ndarray, "head position looked_at"]:
    """Attention, averaged over words by their probability."""
    mass = np.exp(prefixes.process.log_likelihood(prefixes.batch.tokens.numpy()).sum(1)) if prefixes.listed else None
    found = record(model, prefixes.batch, [PATTERN], chunk=512)[PATTERN].values
    return np.average(found, axis=0, weights=mass).astype(np.float64)


@torch.no_grad()
def _read_alone(
    model: Transformer, n_ctx: int, probe: BeliefProbe
) -> tuple[Float[np.ndarray, "one token position state"], Float[np.ndarray, "head token position state"]]:
    """What the probe reads of each token's embedding, and of what each head makes of it, at each position."""
    words = torch.arange(model.n_tokens)[:, None].expand(-1, n_ctx + 1)
    found = record(model, Batch.from_tokens(words), [EMBEDDED, VALUES])
    out = model.blocks[0].attn.W_O.detach().double().cpu().numpy()
    through = np.einsum("zshe,hew->hzsw", found[VALUES].values.astype(np.float64), out)
    return found[EMBEDDED].values[None] @ probe.coef_.T, through @ probe.coef_.T


def _along(
    read: Float[np.ndarray, "part token position state"], prefixes: Prefixes
) -> tuple[Float[np.ndarray, "part position"], float]:
    """Least-squares coefficient of what is read, about its mean over tokens, along ``v``; the share along it."""
    process = prefixes.process
    p, v = process.next_token(process.stationary), displacements(process)
    about = read - np.einsum("z,hzsi->hsi", p, read)[:, None]
    coefficient = np.einsum("z,hzsi,zi->hs", p, about, v) / np.einsum("z,zi,zi->", p, v, v)
    length = np.einsum("z,hzsi,hzsi->", p, about, about)
    along = (coefficient**2).sum() * np.einsum("z,zi,zi->", p, v, v)
    return coefficient, float(along / length) if length > 0 else 0.0
