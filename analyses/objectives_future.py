"""How much of the tokens to come can be read off a frozen state, whatever it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from sklearn.linear_model import LogisticRegression

from nextlens.analyses.next_latent import FINAL, kl
from nextlens.analyses.registers import ahead_laws
from nextlens.models.arguments import between
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.processes import Process
from nextlens.models.recording import record


def future_tokens(
    model: Hooked,
    process: Process,
    tokens: Int[np.ndarray, "sequence position"],
    offsets: Sequence[int],
) -> dict[int, float]:
    """For each offset d, how far an affine probe of ``x_{t+d}`` on the final state stays from the exact law.

    Multinomial logistic regression, fitted to the tokens of half of the sequences; on the other half, the mean of
    ``KL(P(x_{t+d} | x_{<= t}) ‖ probe)`` in nats.

    Raises
    ------
    ValueError
        If an offset is below 1, or sequences are too short for it.
    """
    batch = Batch.from_tokens(tokens)
    states = record(model, batch, [FINAL])[FINAL].transpose("sequence", "position", "feature").values
    half, time = len(tokens) // 2, states.shape[1]
    found = {}
    for d in offsets:
        between("offset", d, 1, time)
        rows = slice(0, time - d + 1)
        X, y = states[:, rows].astype(np.float64), tokens[:, d:]
        probe = LogisticRegression(C=1.0, max_iter=1000).fit(X[:half].reshape(-1, X.shape[-1]), y[:half].ravel())
        if len(probe.classes_) < process.n_tokens:
            raise ValueError(f"tokens hold {len(probe.classes_)} of {process.n_tokens} tokens in the first half")
        said = torch.from_numpy(probe.predict_log_proba(X[half:].reshape(-1, X.shape[-1])))
        exact = torch.from_numpy(ahead_laws(process, tokens, d)[half:, rows]).flatten(0, 1)
        found[int(d)] = float(kl(exact, said).mean())
    return found
