"""Sampling from a transformer with keys and values kept, beside reading everything anew, and beside transformers' own.

1,024 prompts of 32 tokens, 32 new tokens each, a transformer of 2 layers of 64. Run with one BLAS thread::

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/decoding.py

``--prompts``, ``--new`` and the like change sizes. GPT-2 of transformers, of the same shape, samples with its own cache
if transformers is installed. CPU seconds are of one thread; memory is the peak beyond what the process had before, each
row in a process of its own. Of several rounds, the least figure.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path
from time import process_time

import numpy as np
import torch

from nextlens.models import decoding
from nextlens.models.decoding import complete
from nextlens.models.transformer import Transformer, TransformerConfig

ROUNDS = 2
WAYS = ("kept", "kept, 128 rows at once", "anew", "transformers")


def model_of(sizes: argparse.Namespace) -> Transformer:
    """Untrained: what is said costs the same."""
    return Transformer(
        TransformerConfig(
            n_tokens=64,
            n_layers=sizes.layers,
            n_heads=4,
            d_model=sizes.width,
            n_ctx=sizes.length + sizes.new,
            activation="gelu_new",
            seed=0,
        )
    )


def anew(model: Transformer, prompts: torch.Tensor, n_new: int) -> torch.Tensor:
    """Every token after a whole forward pass; the very loop of ``complete`` with another reader."""
    kept, decoding._ReadingOn = decoding._ReadingOn, decoding._ReadingAnew
    try:
        places = torch.arange(prompts.shape[1] + n_new - 1).expand(len(prompts), -1)
        with torch.no_grad():
            return decoding._completed(model, prompts, places, n_new, 1.0, np.random.default_rng(0), None)
    finally:
        decoding._ReadingOn = kept


def task_of(way: str, sizes: argparse.Namespace) -> Callable[[], object] | None:
    """What is timed; None if it is not installed."""
    torch.set_num_threads(1)
    prompts = torch.from_numpy(np.random.default_rng(0).integers(0, 64, (sizes.prompts, sizes.length)))
    if way == "transformers":
        try:
            from transformers import GPT2Config, GPT2LMHeadModel
        except ImportError:
            return None
        config = GPT2Config(
            vocab_size=64, n_positions=sizes.length + sizes.new, n_embd=sizes.width, n_layer=sizes.layers, n_head=4
        )
        peer = GPT2LMHeadModel(config).eval()
        return lambda: peer.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=sizes.new,
            do_sample=True,
            top_k=0,
            pad_token_id=0,
            eos_token_id=None,
        )
    model = model_of(sizes)
    if way == "anew":
        return lambda: anew(model, prompts, sizes.new)
    rows = 128 if "128" in way else 1024
    return lambda: complete(model, prompts, sizes.new, temperature=1.0, rng=np.random.default_rng(0), rows_at_once=rows)


def measure(way: str, sizes: argparse.Namespace, answer: multiprocessing.connection.Connection) -> None:
    """CPU seconds and MiB of one way, in this process."""
    work = task_of(way, sizes)
    if work is None:
        answer.send(None)
        return
    small = argparse.Namespace(**{**vars(sizes), "prompts": 2, "new": 2})
    task_of(way, small)()
    pages = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    seconds = []
    for _ in range(ROUNDS):
        started = process_time()
        work()
        seconds.append(process_time() - started)
    answer.send((min(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 - pages))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("prompts", 1024), ("length", 32), ("new", 32), ("width", 64), ("layers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = parser.parse_args()
    print(f"{sizes.prompts} prompts of {sizes.length} tokens, {sizes.new} new; {sizes.layers} layers of {sizes.width}")
    found = {}
    processes = multiprocessing.get_context("spawn")
    for way in WAYS:
        receiver, sender = processes.Pipe()
        one = processes.Process(target=measure, args=(way, sizes, sender))
        one.start()
        found[way] = receiver.recv()
        one.join()
    least = found["kept"][0]
    for way, result in found.items():
        if result is None:
            print(f"{way:26s} not installed")
        else:
            print(f"{way:26s} {result[0]:8.2f} CPU s  {result[0] / least:5.1f} x  {max(result[1], 0):7.0f} MiB")


if __name__ == "__main__":
    main()
