"""What is read at a time, and what passes through the sites while it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor
from tqdm import tqdm

from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.kernel import Kernel

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

#: What recorded values may be kept in, other than as computed.
DTYPES = ("float32", "float16")

#: Unless told otherwise, a chunk is of about so many tokens.
POSITIONS_AT_A_TIME = 4096

#: Which positions to keep: a mask, or what gives one.
Where = Bool[np.ndarray, "batch time"] | Callable[[Batch], Bool[np.ndarray, "batch time"]] | None


def layout_of(name: str) -> tuple[str, ...]:
    """The axes of the site of that full name.

    Examples
    --------
    >>> layout_of("blocks.0.attn.hook_z")
    ('sequence', 'position', 'head', 'head_feature')
    """
    return LAYOUTS.get(name.rpartition(".")[2], ("sequence", "position", "feature"))


class _Reached(Exception):
    """All that is wanted has been seen: the rest of the forward pass need not run."""


def passing(
    model: Hooked,
    names: Mapping[str, str],
    dtype: str | None,
    part: Batch,
    keep: Tensor | None,
) -> dict[str, xr.Variable]:
    """What passes through the sites as the model reads ``part``: labelled axes, on the CPU.

    ``names`` are full names of sites by those to record them under. The model runs no further than the
    last of them.

    Raises
    ------
    ValueError
        If a site was never reached or gives values of another shape than its layout, or a value is finite
        and beyond float16.
    """
    device = device_of(model, part)
    last = max(names.values(), key=model.sites.index)

    def stop(value: Tensor) -> None:
        if len(seen) == len(names):
            raise _Reached

    with ExitStack() as hooks:
        seen = hooks.enter_context(model.watched(*names))
        with suppress(ValueError):  # some sites of a bridge cannot be edited; then all of it runs
            hooks.enter_context(model.edited(last, stop))
        with suppress(_Reached):
            model(part.to(device))
    found = {}
    for site, name in names.items():
        if site not in seen:
            raise ValueError(f"site={site!r} was not reached when the model ran")
        value = _laid_out(site, seen.pop(site), layout_of(name), part)
        dims = layout_of(name) if keep is None else ("sample", *layout_of(name)[2:])
        found[site] = _variable(site, dims, value if keep is None else value[keep.to(device)], dtype)
    return _told_apart(found)


def _laid_out(site: str, value: Tensor, layout: tuple[str, ...], part: Batch) -> Tensor:
    """``value``, with a row for each sequence even where one serves them all."""
    n, time = part.tokens.shape
    known = {"sequence": (1, n), "position": (time,)}
    fits = all(size in known.get(axis, (size,)) for axis, size in zip(layout, value.shape, strict=False))
    if value.ndim != len(layout) or not fits:
        raise ValueError(
            f"site={site!r} gives values of shape {tuple(value.shape)} for {n} sequences of {time}; "
            f"they must be ({', '.join(layout)})"
        )
    return value.expand(n, *value.shape[1:])


def _told_apart(found: Mapping[str, xr.Variable]) -> dict[str, xr.Variable]:
    """Axes of one name have one size: the longest keeps the name, a shorter one is called after its size too."""
    longest: dict[str, int] = {}
    for values in found.values():
        for axis, size in values.sizes.items():
            longest[axis] = max(size, longest.get(axis, 0))
    return {
        site: xr.Variable(
            [axis if size == longest[axis] else f"{axis}_{size}" for axis, size in values.sizes.items()],
            values.data,
            values.attrs,
        )
        for site, values in found.items()
    }


def _variable(site: str, dims: tuple[str, ...], value: Tensor, dtype: str | None) -> xr.Variable:
    computed_in = str(value.dtype).removeprefix("torch.")
    kept_in = dtype or ("float32" if value.dtype == torch.bfloat16 else computed_in)
    kept = value.to(getattr(torch, kept_in))
    if kept_in == "float16" and (kept.isinf() & value.isfinite()).any():
        largest = float(value[value.isfinite()].abs().max())
        raise ValueError(f"dtype='float16' ends at 65504, and site={site!r} holds {largest:.6g}; keep it as float32")
    return xr.Variable(dims, kept.cpu().numpy(), {} if kept_in == computed_in else {"computed_in": computed_in})


def chunks(
    batch: Batch | Iterable[Batch], where: Where | Tensor, chunk: int | None, progress: bool
) -> Iterator[tuple[int, Batch, Tensor | None]]:
    """One after another: the number of the first sequence, some sequences, and which positions of them to keep.

    Raises
    ------
    ValueError
        If sequences are of unequal lengths, there are none, or ``where`` does not fit.
    """
    total = None
    if isinstance(batch, Batch):
        total = -(-len(batch) // _sequences_at_a_time(batch, chunk))
        batch = [batch]
    elif where is not None and not callable(where):
        raise ValueError("where is an array, and batch a stream; give a function of a Batch that returns the array")
    with tqdm(total=total, desc="record", unit="chunk", leave=False, disable=not progress) as bar:
        first, time = 0, None
        for each in batch:
            time = time or each.tokens.shape[1]
            if each.tokens.shape[1] != time:
                raise ValueError(
                    f"batch holds sequences of {time} tokens, and after {first} of them some of "
                    f"{each.tokens.shape[1]}; all must have one length"
                )
            keep = masked(where(each) if callable(where) else where, each)
            size = _sequences_at_a_time(each, chunk)
            for start in range(0, len(each), size):
                rows = slice(start, start + size)
                yield first + start, each[rows], None if keep is None else keep[rows]
                bar.update()
            first += len(each)
    if time is None:
        raise ValueError("batch is a stream with nothing in it")


def _sequences_at_a_time(batch: Batch, chunk: int | None) -> int:
    return chunk or max(1, min(256, POSITIONS_AT_A_TIME // batch.tokens.shape[1]))


def joined(batch: Batch | Iterable[Batch], where: Where) -> tuple[Batch, Tensor | None]:
    """A stream as one batch: its tokens are few beside what is recorded of them."""
    if isinstance(batch, Batch):
        return batch, masked(where(batch) if callable(where) else where, batch)
    _, batches, masks = zip(*chunks(batch, where, None, progress=False), strict=True)
    attended = [part.attend for part in batches]
    if any(attend is None for attend in attended) and any(attend is not None for attend in attended):
        raise ValueError("batch is a stream of which only some have attend; give it to all or to none")
    attend = None if attended[0] is None else torch.cat(attended)
    fields = ("tokens", "targets", "weights", "positions")
    whole = Batch(**{name: torch.cat([getattr(part, name) for part in batches]) for name in fields}, attend=attend)
    return whole, None if where is None else torch.cat(masks)


def labels(first: int, part: Batch, keep: Tensor | None) -> dict[str, xr.Variable]:
    """The labels of a chunk; its prefixes are numbered when all of them are known."""
    tokens = part.tokens.cpu().numpy()
    both = ("sequence", "position")
    if keep is None:
        return {"token": xr.Variable(both, tokens)}
    sequence, position = np.nonzero(keep.cpu().numpy())
    return {
        "sequence": xr.Variable("sample", sequence + first),
        "position": xr.Variable("sample", position),
        "token": xr.Variable("sample", tokens[sequence, position]),
        "read": xr.Variable(both, tokens),
    }


def device_of(kernel: Kernel, batch: Batch) -> torch.device:
    """Where the weights are; without weights, where the batch is."""
    weights = kernel.parameters() if isinstance(kernel, torch.nn.Module) else ()
    return next((weight.device for weight in weights), batch.device)


def masked(where: Bool[np.ndarray, "batch time"] | Tensor | None, batch: Batch) -> Bool[Tensor, "batch time"] | None:
    """``where`` as a tensor.

    Raises
    ------
    ValueError
        If it is not boolean, or not of the shape of ``batch``.
    """
    if where is None:
        return None
    keep = torch.as_tensor(np.asarray(where))
    if keep.dtype != torch.bool or keep.shape != batch.tokens.shape:
        raise ValueError(
            f"where is {keep.dtype} of shape {tuple(keep.shape)}; it must be boolean of {tuple(batch.tokens.shape)}"
        )
    return keep


def refuse_nothing(keep: Bool[Tensor, "batch time"] | None) -> None:
    """Raise if positions were chosen, and none was.

    Raises
    ------
    ValueError
        Then.
    """
    if keep is not None and not keep.any():
        raise ValueError("where keeps no position; nothing would be recorded")
