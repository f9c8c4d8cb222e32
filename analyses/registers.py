"""What does a register know of the future, and is it the position it claims that says which future?"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nextlens.analyses.next_latent import FINAL, kl
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.objectives.registers import interleave_registers
from nextlens.models.processes import Process
from nextlens.models.recording import device_of
from nextlens.probes.belief import held_out


def ahead_beliefs(
    process: Process, tokens: Int[np.ndarray, "sequence position"], ahead: int
) -> Float[np.ndarray, "sequence position state"]:
    """``beliefs[b, t] @ T^(ahead - 1)``: what is believed of the state before the token ``ahead`` ones from here."""
    return process.beliefs(tokens) @ np.linalg.matrix_power(process.transition.sum(0), ahead - 1)


def ahead_laws(
    process: Process, tokens: Int[np.ndarray, "sequence position"], ahead: int
) -> Float[np.ndarray, "sequence position token"]:
    """The exact ``P(x_{t + ahead} | x_{<= t})``, nats."""
    with np.errstate(divide="ignore"):
        return np.log(process.next_token(ahead_beliefs(process, tokens, ahead)))


def register_horizon(
    model: Hooked, process: Process, tokens: Int[np.ndarray, "sequence position"], ahead: int
) -> xr.Dataset:
    """How far a register's prediction is from the exact law, for every offset and every offset it claims by position.

    Registers stand behind every token that has a target ``ahead`` tokens away. Only position ids differ from one
    ``claimed`` offset to another: tokens, mask and everything else are the same, so that a register whose prediction
    follows ``claimed`` is told its offset by its position alone.

    Parameters
    ----------
    model : Hooked
        Its last token is the register.
    process : Process
    tokens : Int[ndarray, "sequence position"]
    ahead : int
        The largest offset.

    Returns
    -------
    xr.Dataset
        ``kl`` (claimed, offset): mean of ``KL(P(x_{t + offset} | x_{<= t}) ‖ register)`` in nats; ``marginal``
        (offset): the same of the law of a token of which nothing is known. ``r2`` (offset): of
        ``b_t T^(offset - 1)`` read off the final state of registers that claim this offset, on held-out sequences.
    """
    n, time = tokens.shape[0], tokens.shape[1] - 1
    rows = slice(0, time - ahead + 1)
    laws = [torch.from_numpy(ahead_laws(process, tokens, d)[:, rows]) for d in range(1, ahead + 1)]
    states = [ahead_beliefs(process, tokens, d)[:, rows] for d in range(1, ahead + 1)]
    marginal = torch.from_numpy(np.log(process.next_token(process.stationary)))
    groups = np.repeat(np.arange(n), time - ahead + 1)
    away, scores = np.empty((ahead, ahead)), []
    for claimed in range(1, ahead + 1):
        said, seen = _at_registers(model, tokens, claimed, ahead)
        away[claimed - 1] = [float(kl(law, said).mean()) for law in laws]
        flat = states[claimed - 1].reshape(-1, process.n_states)
        scores.append(held_out(seen.reshape(len(flat), -1), flat, groups).r2)
    offsets = np.arange(1, ahead + 1)
    return xr.Dataset(
        {
            "kl": (("claimed", "offset"), away, {"units": "nat"}),
            "marginal": ("offset", [float(kl(law, marginal).mean()) for law in laws], {"units": "nat"}),
            "r2": ("offset", scores),
        },
        coords={"claimed": offsets, "offset": offsets},
    )


@torch.no_grad()
def _at_registers(
    model: Hooked, tokens: Int[np.ndarray, "sequence position"], claimed: int, ahead: int
) -> tuple[Tensor, Float[np.ndarray, "sequence row width"]]:
    """Laws and final states of registers behind all tokens that have ``ahead`` ones to come."""
    register = model.n_tokens - 1
    plain = Batch.from_tokens(tokens)
    offsets = torch.full_like(plain.tokens, ahead)
    batch = interleave_registers(plain, register=register, ahead=offsets, weight=0.5)
    at: Bool[Tensor, " longer"] = batch.tokens[0] == register
    positions = batch.positions.clone()
    positions[:, at] += claimed - ahead
    batch = batch.with_(positions=positions)
    with model.watched(FINAL) as seen:
        logits = model(batch.to(device_of(model, batch)))
    laws = logits[:, at, :-1].log_softmax(-1).cpu().double()
    return laws, seen[FINAL][:, at].cpu().double().numpy()
