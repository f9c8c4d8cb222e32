"""How soon each way of training reaches the belief simplex, in CPU seconds of one thread.

    OMP_NUM_THREADS=1 python benchmarks/time_to_r2.py [CPU_SECONDS]

The paper's Mess3 transformer, one seed. Loss over the optimum is over all prefixes of ten tokens;
R² is held out by prefix and weighted, at the last block; MSE is the paper's, in sample. Each way
stops after the CPU seconds given (80 by default), those of measuring not counted; ways with a
schedule are given the steps that fit.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from nextlens.analyses.belief_geometry import guesses, paper2024_mse
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.models.processes import mess3
from nextlens.models.training import train, warmup_cosine
from nextlens.models.transformer import Transformer, paper_mess3
from nextlens.probes.ridge import r2

SITE = "blocks.3.hook_resid_post"


@dataclass(frozen=True)
class Way:
    """A way of training; ``steps`` are those of its schedule per CPU second given."""

    name: str
    batch_size: int
    optimiser: Callable
    steps_per_second: float | None = None


adam = partial(torch.optim.Adam, fused=True)
WAYS = (
    Way("paper: SGD 0.01, batch 64", 64, partial(torch.optim.SGD, lr=0.01)),
    Way("Adam 1e-3, batch 64", 64, partial(adam, lr=1e-3)),
    Way("Adam 1e-3, batch 1024", 1024, partial(adam, lr=1e-3)),
    Way("Adam 5e-3 cosine, batch 128", 128, partial(adam, lr=5e-3), 85),
    Way("Adam 5e-3 cosine, batch 256 (default)", 256, partial(adam, lr=5e-3), 50),
    Way("Adam 5e-3 cosine, batch 1024", 1024, partial(adam, lr=5e-3), 20),
    Way("Adam 5e-3 cosine, batch 4096", 4096, partial(adam, lr=5e-3), 8),
)


def main(seconds: float) -> None:
    torch.set_num_threads(1)
    process, prefixes = mess3(), Prefixes.of(mess3(), 10)
    print(f"{'way':<40} {'CPU s':>6} {'steps':>6} {'loss/optimum':>13} {'R² held out':>12} {'MSE paper':>10}")
    for way in WAYS:
        model = Transformer(paper_mess3())
        batches = process.batches(way.batch_size, 11, np.random.default_rng(0))
        steps = None if way.steps_per_second is None else int(way.steps_per_second * seconds)
        schedule = None if steps is None else warmup_cosine(steps, warmup=min(100, steps - 1))
        run = train(model, batches, steps=steps, optimiser=way.optimiser, schedule=schedule)
        due, spent, begun = [seconds / 8, seconds / 4, seconds / 2, seconds], 0.0, time.process_time()
        for step in run:
            now = spent + time.process_time() - begun
            last = steps is not None and step.index + 1 == steps
            if now < due[0] and not last:
                continue
            report(way.name, now, step.index + 1, model, prefixes)
            due, spent, begun = due[1:], now, time.process_time()
            if last or not due:
                break


def report(name: str, seconds: float, steps: int, model: Transformer, prefixes: Prefixes) -> None:
    ratio = excess_loss(model, prefixes).attrs["loss_over_optimum"]
    held = r2(prefixes.beliefs.values, guesses(model, prefixes, SITE), prefixes.weights)
    paper = paper2024_mse(model, prefixes, SITE).mse
    print(f"{name:<40} {seconds:>6.1f} {steps:>6} {ratio:>13.5f} {held:>12.4f} {paper:>10.5f}", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 80.0)
