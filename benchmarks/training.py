"""CPU time of one training step beside a plain torch module and a TransformerLens native bridge.

    OMP_NUM_THREADS=1 python benchmarks/training.py

The paper's Mess3 transformer (4 layers, width 64, one head of 8, context 10), data included, all on
the same stream of words, in turn, in one process with one thread; the best of several rounds each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextlens.models.processes import mess3
from nextlens.models.training import train
from nextlens.models.transformer import Transformer, paper_mess3

#: Batch size: optimiser, steps in a round, and the budgets of ours over plain and over the bridge.
CASES = {
    64: (partial(torch.optim.SGD, lr=0.01), 60, 1.15, 0.6),
    1024: (partial(torch.optim.Adam, lr=1e-3, fused=True), 6, 0.5, None),
    4096: (partial(torch.optim.Adam, lr=1e-3, fused=True), 3, 0.3, None),
}
ROUNDS = 6


class PlainBlock(nn.Module):
    def __init__(self, width: int, head: int, hidden: int):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * head), nn.Linear(head, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm_1(x)).unsqueeze(1).chunk(3, dim=-1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1))
        return x + self.down(F.relu(self.up(self.norm_2(x))))


class Plain(nn.Module):
    """The same shapes in plain torch: one product for queries, keys and values, fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(3, 64), nn.Embedding(10, 64)
        self.blocks = nn.Sequential(*(PlainBlock(64, 8, 256) for _ in range(4)))
        self.norm, self.unembed = nn.LayerNorm(64), nn.Linear(64, 3, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.unembed(self.norm(self.blocks(x)))


def steps_of(model: nn.Module, logits: Callable[[Tensor], Tensor], optimiser: Callable, size: int) -> Iterator[float]:
    """The usual loop: draw, cross-entropy, backward, step."""
    stepper = optimiser(model.parameters())
    for batch in mess3().batches(size, 11, np.random.default_rng(0), tree=False):
        loss = F.cross_entropy(logits(batch.tokens).flatten(0, 1), batch.targets.flatten())
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        yield loss.item()


def runners(size: int, optimiser: Callable) -> dict[str, Iterator]:
    plain, bridge = Plain(), Transformer(paper_mess3()).to_bridge()
    ours = mess3().batches(size, 11, np.random.default_rng(0))
    without = mess3().batches(size, 11, np.random.default_rng(0), tree=False)
    with_tree = mess3().batches(size, 11, np.random.default_rng(0), tree=True)
    return {
        "plain torch": steps_of(plain, plain, optimiser, size),
        "native bridge": steps_of(bridge, partial(bridge, return_type="logits"), optimiser, size),
        "nextlens": train(Transformer(paper_mess3()), ours, optimiser=optimiser),
        "nextlens, no tree": train(Transformer(paper_mess3()), without, optimiser=optimiser),
        "nextlens, tree": train(Transformer(paper_mess3()), with_tree, optimiser=optimiser),
    }


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'batch':>6} {'who':<18} {'CPU ms a step':>14} {'/ plain':>9} {'/ bridge':>9}   budget")
    for size, (optimiser, steps, over_plain, over_bridge) in CASES.items():
        turns = runners(size, optimiser)
        best = dict.fromkeys(turns, float("inf"))
        for steps_now in [2, *[steps] * ROUNDS]:
            for name, turn in turns.items():
                begun = time.process_time()
                for _ in range(steps_now):
                    next(turn)
                best[name] = min(best[name], (time.process_time() - begun) / steps_now)
        for name, seconds in best.items():
            ratios = seconds / best["plain torch"], seconds / best["native bridge"]
            budget = f"<= {over_plain} plain" + (f", <= {over_bridge} bridge" if over_bridge else "")
            print(
                f"{size:>6} {name:<18} {1e3 * seconds:>14.2f} {ratios[0]:>9.2f} {ratios[1]:>9.2f}   "
                f"{budget if name == 'nextlens' else ''}"
            )


if __name__ == "__main__":
    main()
