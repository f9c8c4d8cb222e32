"""The doors of ``models``: what leaves here leaves as labelled arrays, with its units."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int
from torch import Tensor

from nextlens.models.arguments import at_least, one_of
from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.chunks import (
    DTYPES,
    POSITIONS_AT_A_TIME,
    Where,
    chunks,
    device_of,
    joined,
    labels,
    layout_of,
    masked,
    passing,
    refuse_nothing,
)
from nextlens.models.hooked import Hooked, canonical_site
from nextlens.models.kernel import Kernel
from nextlens.models.prefixes import number_prefixes
from nextlens.models.stored_recording import RecordingWriter, fingerprint, open_recording


@runtime_checkable
class Believer(Protocol):
    """A kernel that says what it believes of the hidden state: a ``Process``."""

    def beliefs(self, tokens: Int[np.ndarray, "batch time"]) -> np.ndarray: ...


@torch.no_grad()
def record(
    model: Hooked,
    batch: Batch | Iterable[Batch],
    sites: Sequence[str],
    *,
    path: str | os.PathLike[str] | None = None,
    where: Where = None,
    dtype: str | None = None,
    chunk: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Run ``model`` on ``batch`` and keep what passes through ``sites``, in memory or on disk.

    The value at ``position`` t is the one just after ``tokens[:, t]`` was read, so it is paired with
    the belief after that token and with the prediction of the next one: no shift is needed. The model
    runs no further than the last of ``sites``.

    With ``path``, memory is bounded by the chunk (and a few numbers for each sequence), and a recording
    that was stopped, at whatever moment, is finished by a call with the same arguments: to the same
    bytes, on the same machine. One that is complete is opened.

    Parameters
    ----------
    model : Hooked
        Left as it was: in the same mode, with no hook.
    batch : Batch, or iterable of Batch
        A stream is numbered through: ``sequence`` goes on from one batch to the next. All have one length.
    sites : sequence of str
        Names from ``model.sites``, full or short.
    path : path, optional
        A folder: one ``.npy`` for each site, and a manifest, ``recording.json``.
    where : bool array of shape (batch, time), or function of a Batch that gives one, optional
        Which positions to keep. Of a stream, a function. Sites that are not laid out by position first
        (attention patterns) cannot be thinned.
    dtype : {"float32", "float16"}, optional
        What is kept; as computed if None. What was computed in bfloat16, which NumPy lacks, is kept as
        float32, exactly; float16 rounds to 11 bits. Where they differ, ``attrs["computed_in"]`` says so.
    chunk : int, optional
        Sequences at a time; if None, as many as make 4,096 positions, and at most 256.
    progress : bool, default=False

    Returns
    -------
    xarray.Dataset
        One variable a site, under the name given. Dims (sequence, position, feature); for heads
        (sequence, position, head, head_feature), for MLPs (sequence, position, neuron), for patterns
        (sequence, head, position, looked_at). If sites have dims of one name and several sizes, such as
        queries and the fewer keys that groups of them share, the largest keeps the name and the others
        have their size in it: ``head`` and ``head_3``. With ``where``, one dim ``sample`` in place of
        the first two. Coordinates: ``sequence``, ``position``, ``token``, and ``prefix``, a
        number that is equal exactly where equal tokens have been read. With ``path``, mapped from disk
        as :func:`~nextlens.models.stored_recording.open_recording` does.

    Raises
    ------
    ValueError
        If a site does not exist (the nearest ones are named), was never reached or is not laid out by
        sequence and position, ``where`` is of another shape or keeps nothing, ``chunk`` is below 1, a
        value is beyond float16, ``path`` is given while the model is edited or watched, or it holds the
        recording of another model, of other sites or of another batch (what differs is named).
    OSError
        If ``path`` cannot be written to, or another process is writing there.
    """
    if isinstance(sites, str):
        raise ValueError(f"sites={sites!r} must be a list of names: [{sites!r}]")
    names = {site: canonical_site(site, model.sites) for site in sites}
    if not names:
        raise ValueError("sites is empty; name at least one of model.sites")
    if chunk is not None:
        at_least("chunk", chunk, 1)
    if dtype is not None:
        one_of("dtype", dtype, DTYPES)
    for site, name in names.items():
        if where is not None and layout_of(name)[1] != "position":
            raise ValueError(f"site={site!r} holds one value for each pair of positions; record it without where=")
    passed = partial(passing, model, names, dtype)
    if path is None or isinstance(batch, Batch):
        batch, where = joined(batch, where)
        refuse_nothing(where)
    if path is None:
        return _in_memory(chunks(batch, where, chunk, progress), passed, batch, where)
    if isinstance(model, torch.nn.Module) and any(part._forward_hooks for part in model.modules()):
        raise ValueError(
            "path is given while the model is edited or watched: a stored recording could not say what the hooks "
            "changed, and would be taken for one of the model itself; record in memory (path=None)"
        )
    asked = {
        "model": fingerprint(model),
        "sites": names,
        "dtype": dtype or "as computed",
        "chunk": chunk or f"{POSITIONS_AT_A_TIME} positions",
        "where": "every position" if where is None else "some positions",
    }
    with RecordingWriter(path, asked) as writer:
        for first, part, keep in chunks(batch, where, chunk, progress):
            if not writer.holds((part.tokens, part.positions, part.attend, keep)):
                writer.append(part.tokens.cpu().numpy(), passed(part, keep) | labels(first, part, keep))
        writer.finish()
    return open_recording(path)


def _in_memory(
    parts: Iterable[tuple[int, Batch, Tensor | None]],
    passed: Callable[[Batch, Tensor | None], dict[str, xr.Variable]],
    batch: Batch,
    keep: Tensor | None,
) -> xr.Dataset:
    """Filled chunk by chunk, so that nothing is held twice."""
    rows = len(batch) if keep is None else int(keep.sum())
    whole: dict[str, xr.Variable] = {}
    filled = 0
    for _, part, kept in parts:
        found = passed(part, kept)
        for site, values in found.items():
            if site not in whole:
                whole[site] = xr.Variable(values.dims, np.empty((rows, *values.shape[1:]), values.dtype), values.attrs)
            whole[site].data[filled : filled + len(values)] = values.data
        filled += len(values)
        del found, values
    return xr.Dataset(whole, coords=_coordinates(batch, keep))


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
    keep = masked(where, batch)
    refuse_nothing(keep)
    if keep is not None:
        return xr.DataArray(
            values[keep.numpy()], dims=("sample", *trailing), coords=_coordinates(batch, keep), name=name
        )
    return xr.DataArray(values, dims=("sequence", "position", *trailing), coords=_coordinates(batch, None), name=name)


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
