"""What a kernel costs: operations counted and computed, bytes of keys and values, and CPU seconds as texts grow."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.chunks import device_of
from nextlens.models.kernel import Kernel
from nextlens.models.transformer import Transformer
from nextlens.probes import measures
from nextlens.probes.measures import Cost, Growth


@torch.no_grad()
def counted_flops(kernel: Kernel, batch: Batch) -> int | None:
    """Multiplications and additions of matrix products in one reading of a batch, as PyTorch counts them.

    What NumPy multiplies, or what is looked up, is not among them; None if PyTorch sees nothing at all.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        kernel.log_probs(batch)
    return int(counter.get_total_flops()) or None


def runs_in_torch(kernel: Kernel) -> bool:
    """Whether PyTorch makes all of its matrix products: a network, or what deployment makes of one."""
    return isinstance(kernel, torch.nn.Module) or (hasattr(kernel, "base") and runs_in_torch(kernel.base))


def cost(kernel: Kernel, tokens: Int[np.ndarray, " time"], length: int) -> Cost:
    """Of reading the first ``length`` of them; by the formula for a transformer of ours, with which the counter agrees.

    Operations are None of a kernel that NumPy runs, be it in part.

    Raises
    ------
    ValueError
        As the kernel does, if it cannot read so many.
    """
    at_least("length", length, 1)
    if isinstance(kernel, Transformer):
        c = kernel.config
        flops = measures.forward_flops(
            length,
            n_tokens=c.n_tokens,
            n_layers=c.n_layers,
            d_model=c.d_model,
            d_mlp=c.d_mlp,
            d_attention=c.n_heads * c.d_head,
            n_matrices=3 if c.gated else 2,
            relative=c.positions == "relative",
        )
        cache = measures.cache_bytes(length, n_layers=c.n_layers, n_key_value_heads=c.n_heads, d_head=c.d_head)
        return Cost(flops, flops / length, cache)
    flops = counted_flops(kernel, _batch(kernel, tokens, length)) if runs_in_torch(kernel) else None
    return Cost(flops, None if flops is None else flops / length, _cache_of(kernel, length))


@torch.no_grad()
def seconds(
    kernel: Kernel, tokens: Int[np.ndarray, " time"], lengths: Sequence[int], *, repeats: int = 5
) -> Float[np.ndarray, "length repeat"]:
    """CPU seconds of reading so many tokens, after one reading that warms up; lengths take turns, and share drifts."""
    batches = [_batch(kernel, tokens, length) for length in lengths]
    for batch in batches:
        kernel.log_probs(batch)
    taken = np.empty((len(lengths), at_least("repeats", repeats, 3)))
    for repeat in range(repeats):
        for i, batch in enumerate(batches):
            calls, spent = 0, 0.0
            while spent < 2e-3:  # below that the clock is coarse
                started = time.process_time()
                kernel.log_probs(batch)
                spent += time.process_time() - started
                calls += 1
            taken[i, repeat] = spent / calls
    return taken


def latency(
    kernel: Kernel, tokens: Int[np.ndarray, " time"], lengths: Sequence[int], *, repeats: int = 5
) -> tuple[Growth, Float[np.ndarray, " length"]]:
    """How CPU seconds grow, from medians of repeats, and the medians."""
    taken = seconds(kernel, tokens, lengths, repeats=repeats)
    return measures.growth(np.asarray(lengths, dtype=np.float64), taken), np.median(taken, axis=1)


def _cache_of(kernel: Kernel, length: int) -> int | None:
    """Of a bridge, by its own description."""
    described = getattr(getattr(kernel, "bridge", None), "cfg", None)
    if described is None:
        return None
    heads = getattr(described, "n_key_value_heads", None) or described.n_heads
    return measures.cache_bytes(length, n_layers=described.n_layers, n_key_value_heads=heads, d_head=described.d_head)


def _batch(kernel: Kernel, tokens: Int[np.ndarray, " time"], length: int) -> Batch:
    at_least("number of tokens to read", len(tokens), length + 1)
    batch = Batch.from_tokens(tokens[None, : length + 1])
    return batch.to(device_of(kernel, batch))
