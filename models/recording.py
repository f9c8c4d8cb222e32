"""The doors of ``models``: what leaves here leaves as labelled arrays, with its units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm import tqdm

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.hooked import Hooked, canonical_site
from nextlens.models.kernel import Kernel
from nextlens.models.prefixes import number_prefixes

#: How the values of a site are laid out, by the last part of its name; all others are
#: (sequence, position, feature).
LAYOUTS = {
    **dict.fromkeys(
        ("hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k"),
        ("sequence", "position", "head", "head_feature"),
    ),
    **dict.fromkeys(("hook_pre", "hook_pre_linear", "hook_post"), ("sequence", "position", "neuron")),
    **dict.fromkeys(("hook_pattern", "hook_attn_scores"), ("sequence", "head", "position", "looked_at")),
    "hook_scale": ("sequence", "position", "scale"),
}


@runtime_checkable
class Believer(Protocol):
    """A kernel that says what it believes of the hidden state: a ``Process``."""

    def beliefs(self, tokens: Int[np.ndarray, "batch time"]) -> np.ndarray: ...


@torch.no_grad()
def record(
    model: Hooked,
    batch: Batch,
    sites: Sequence[str],
    *,
    where: Bool[np.ndarray, "batch time"] | None = None,
    chunk: int = 256,
    progress: bool = False,
) -> xr.Dataset:
    """Run ``model`` on ``batch`` and keep what passes through ``sites``.

    The value at ``position`` t is the one just after ``tokens[:, t]`` was read, so it is paired with
    the belief after that token and with the prediction of the next one: no shift is needed.

    Parameters
    ----------
    model : Hooked
        Left as it was: in the same mode, with no hook.
    batch : Batch
    sites : sequence of str
        Names from ``model.sites``, full or short.
    where : bool array of shape (batch, time), optional
        Which positions to keep; only then is memory bounded by what is kept. Sites that are not laid
        out by position first (attention patterns) cannot be thinned.
    chunk : int, default=256
        Sequences at a time.
    progress : bool, default=False

    Returns
    -------
    xarray.Dataset
        One variable a site, under the name given. Dims (sequence, position, feature); for heads
        (sequence, position, head, head_feature), for MLPs (sequence, position, neuron), for patterns
        (sequence, head, position, looked_at). With ``where``, one dim ``sample`` in place of the
        first two. Coordinates: ``sequence``, ``position``, ``token``, and ``prefix``, a
        number that is equal exactly where equal tokens have been read.

    Raises
    ------
    ValueError
        If a site does not exist (the nearest ones are named) or was never reached, ``where`` is of
        another shape or keeps nothing, or ``chunk`` is below 1.
    """
    if isinstance(sites, str):
        raise ValueError(f"sites={sites!r} must be a list of names: [{sites!r}]")
    names = {site: canonical_site(site, model.sites) for site in sites}
    if not names:
        raise ValueError("sites is empty; name at least one of model.sites")
    at_least("chunk", chunk, 1)
    keep = _mask(where, batch)
    layouts = {site: LAYOUTS.get(name.rpartition(".")[2], _BY_POSITION) for site, name in names.items()}
    for site, layout in layouts.items():
        if keep is not None and layout[1] != "position":
            raise ValueError(f"site={site!r} holds one value for each pair of positions; record it without where=")
    kept: dict[str, list[np.ndarray]] = {site: [] for site in names}
    device = device_of(model, batch)
    starts = range(0, len(batch), chunk)
    for start in tqdm(starts, desc="record", unit="chunk", leave=False) if progress else starts:
        rows = slice(start, start + chunk)
        with model.watched(*names) as seen:
            model(batch[rows].to(device))
        for site in names:
            if site not in seen:
                raise ValueError(f"site={site!r} was not reached when the model ran")
            value = seen[site].expand(len(batch.tokens[rows]), *seen[site].shape[1:])
            kept[site].append((value if keep is None else value[keep[rows].to(device)]).cpu().numpy().copy())
    data = {
        site: ((("sample", *layouts[site][2:]) if keep is not None else layouts[site]), np.concatenate(kept[site]))
        for site in names
    }
    return xr.Dataset(data, coords=_coordinates(batch, keep))


_BY_POSITION = ("sequence", "position", "feature")


@torch.no_grad()
def surprisal(kernel: Kernel, batch: Batch, *, chunk: int = 256) -> xr.DataArray:
    """``-log2 p(targets[b, t] | tokens[b, : t + 1])`` of any kernel, in bits, at every position.

    Infinite where the kernel forbids the target.

    Returns
    -------
    xarray.DataArray
        Dims (sequence, position).

    Raises
    ------
    ValueError
        If a target is not below ``n_tokens``, or ``chunk`` is below 1; also as the kernel does.
    """
    at_least("chunk", chunk, 1)
    refuse_out_of_range("targets", batch.targets, kernel.n_tokens, limit_name="n_tokens")
    device = device_of(kernel, batch)
    parts = []
    for start in range(0, len(batch), chunk):
        part = batch[start : start + chunk].to(device)
        said = kernel.log_probs(part).gather(2, part.targets[..., None])[..., 0]
        parts.append(-said.cpu().double().numpy())
    return xr.DataArray(
        np.concatenate(parts) / np.log(2.0),
        dims=("sequence", "position"),
        coords=_coordinates(batch, None),
        name="surprisal",
        attrs={"units": "bit", "long_name": "surprisal of the next token"},
    )


def beliefs(process: Believer, batch: Batch, *, where: Bool[np.ndarray, "batch time"] | None = None) -> xr.DataArray:
    """What an ideal observer believes of the hidden state after each token it has read.

    Returns
    -------
    xarray.DataArray
        Dims (sequence, position, state), or (sample, state) with ``where``; float64. The row at
        ``position`` t has read ``tokens[:, : t + 1]``.
    """
    return labelled(process.beliefs(batch.tokens.cpu().numpy()), batch, "state", where=where, name="belief")


def labelled(
    values: np.ndarray,
    batch: Batch,
    *trailing: str,
    where: Bool[np.ndarray, "batch time"] | None = None,
    name: str | None = None,
) -> xr.DataArray:
    """``values`` of shape (sequence, position, ...) under the labels that ``record`` gives to ``batch``.

    With ``where``, thinned as ``record`` thins: dims (sample, ...).

    Raises
    ------
    ValueError
        If the leading two axes are not those of the batch, or ``where`` is of another shape.
    """
    values = np.asarray(values)
    shape = tuple(batch.tokens.shape)
    if values.shape[:2] != shape or values.ndim != 2 + len(trailing):
        raise ValueError(
            f"values has shape {values.shape}; it must be {shape} followed by one axis for each of {trailing}"
        )
    keep = _mask(where, batch)
    if keep is not None:
        return xr.DataArray(
            values[keep.numpy()], dims=("sample", *trailing), coords=_coordinates(batch, keep), name=name
        )
    return xr.DataArray(values, dims=("sequence", "position", *trailing), coords=_coordinates(batch, None), name=name)


def device_of(kernel: Kernel, batch: Batch) -> torch.device:
    """Where the weights are; without weights, where the batch is."""
    weights = kernel.parameters() if isinstance(kernel, torch.nn.Module) else ()
    return next((weight.device for weight in weights), batch.device)


def _coordinates(batch: Batch, keep: Tensor | None) -> dict[str, tuple]:
    n, time = batch.tokens.shape
    number = number_prefixes(batch.tokens) if batch.tree is None else batch.tree.node
    token, prefix = batch.tokens.cpu().numpy(), number.cpu().numpy()
    if keep is None:
        both = ("sequence", "position")
        return {
            "sequence": ("sequence", np.arange(n)),
            "position": ("position", np.arange(time)),
            "token": (both, token),
            "prefix": (both, prefix),
        }
    kept = keep.cpu().numpy()
    sequence, position = np.nonzero(kept)
    return {
        "sequence": ("sample", sequence),
        "position": ("sample", position),
        "token": ("sample", token[kept]),
        "prefix": ("sample", prefix[kept]),
    }


def _mask(where: Bool[np.ndarray, "batch time"] | None, batch: Batch) -> Tensor | None:
    if where is None:
        return None
    keep = torch.as_tensor(np.asarray(where))
    if keep.dtype != torch.bool or keep.shape != batch.tokens.shape:
        raise ValueError(
            f"where is {keep.dtype} of shape {tuple(keep.shape)}; it must be boolean of {tuple(batch.tokens.shape)}"
        )
    if not keep.any():
        raise ValueError("where keeps no position; nothing would be recorded")
    return keep
