"""A model that is right: its state is the exact belief, and a register's is the belief of its position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from nextlens.models.batch import Batch
from nextlens.models.processes import Process

EMBED, FINAL = "hook_embed", "ln_final.hook_normalized"


class BeliefOracle:
    """A ``Hooked`` kernel whose last token is the register; ``deaf`` registers do not hear their position."""

    device = torch.device("cpu")

    def __init__(self, process: Process, *, deaf: bool = False) -> None:
        self.process, self.deaf = process, deaf
        self.n_tokens, self.sites = process.n_tokens + 1, (EMBED, FINAL)
        self.unembedding = torch.zeros(process.n_states, self.n_tokens)
        self._seen: dict[str, Tensor] | None = None
        self._edits: dict[str, Callable[[Tensor], Tensor | None]] = {}

    def __call__(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        tokens, positions = batch.tokens.numpy(), batch.positions.numpy()
        regular = tokens[0] < self.process.n_tokens
        host = np.maximum.accumulate(np.where(regular, np.arange(len(regular)), 0))
        beliefs = self.process.beliefs(tokens[:, regular])[:, np.cumsum(regular) - 1]
        ahead = positions - positions[:, host] + (0 if self.deaf else 1)
        ahead = np.where(regular, 1, np.maximum(ahead, 1)) if not self.deaf else np.ones_like(ahead)
        chain = self.process.transition.sum(0)
        powers = np.stack([np.linalg.matrix_power(chain, k) for k in range(int(ahead.max()))])
        state = np.einsum("bts,btsr->btr", beliefs, powers[ahead - 1])
        laws = np.concatenate([self.process.next_token(state), np.zeros((*tokens.shape, 1))], axis=2)
        self._pass(EMBED, torch.eye(self.n_tokens, dtype=torch.float64)[batch.tokens])
        self._pass(FINAL, torch.from_numpy(state))
        return torch.from_numpy(np.log(np.maximum(laws, 1e-300)))

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        return self(batch).log_softmax(-1)

    def _pass(self, site: str, value: Tensor) -> None:
        if self._seen is not None:
            self._seen[site] = value
        if site in self._edits:
            self._edits[site](value)

    @contextmanager
    def watched(self, *sites: str) -> Iterator[dict[str, Tensor]]:
        self._seen = {}
        try:
            yield self._seen
        finally:
            self._seen = None

    @contextmanager
    def edited(self, site: str, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        self._edits[site] = edit
        try:
            yield
        finally:
            del self._edits[site]


class BayesDynamics(nn.Module):
    """Bayes' rule: the belief, and the one-hot token that comes next."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.transition = torch.from_numpy(process.transition.copy())

    def forward(self, h: Float[Tensor, "*rows state"], e: Float[Tensor, "*rows token"]) -> Float[Tensor, "*rows state"]:
        moved = torch.einsum("...s,xsr,...x->...r", h, self.transition, e[..., :-1])
        return moved / moved.sum(-1, keepdim=True)
