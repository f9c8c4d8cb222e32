"""How far a kernel is from the best that there can be: its divergence from a process that is known, exactly."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel
from nextlens.models.processes import Process

#: Words that are listed, at most.
MOST_WORDS = 2**16


@torch.no_grad()
def kernel_regret(
    kernel: Kernel, process: Process, tokens: Int[np.ndarray, "sequence position"], *, chunk: int = 64
) -> xr.DataArray:
    """What a kernel loses after each prefix against the Bayes-optimal kernel, in bits: no target is drawn.

    ``regret[b, t] = KL( p(. | tokens[b, : t + 1]) || q(. | tokens[b, : t + 1]) )`` with p of the process, exact from
    its belief, and q of the kernel; infinite where q forbids what p does not. It is the expected surprisal of the
    next token under q, less that under p.

    Returns
    -------
    xarray.DataArray
        Dims (sequence, position).

    Raises
    ------
    ValueError
        If kernel and process have different alphabets, or the process cannot say ``tokens``.
    """
    if kernel.n_tokens != process.n_tokens:
        raise ValueError(f"kernel has n_tokens={kernel.n_tokens} and process {process.n_tokens}; they must be the same")
    best = process.next_token(process.beliefs(tokens))
    rows = []
    for start in range(0, len(tokens), chunk):
        part = np.pad(tokens[start : start + chunk], ((0, 0), (0, 1)))
        said = kernel.log_probs(Batch.from_tokens(part)).double().cpu().numpy()
        rows.append(_divergence(best[start : start + chunk], said))
    return xr.DataArray(
        np.concatenate(rows) / np.log(2),
        dims=("sequence", "position"),
        coords={"sequence": np.arange(len(tokens)), "position": np.arange(tokens.shape[1])},
        name="regret",
        attrs={"units": "bit", "long_name": "divergence from the Bayes-optimal law of the next token"},
    )


def expected_regret(kernel: Kernel, process: Process, length: int) -> xr.DataArray:
    """The mean of :func:`kernel_regret` over all words of the process, each with its probability: no sampling error.

    Returns
    -------
    xarray.DataArray
        Dim ``position``.

    Raises
    ------
    ValueError
        If there are more than ``MOST_WORDS`` words of ``length`` tokens, or as :func:`kernel_regret`.
    """
    at_least("length", length, 1)
    n = process.n_tokens
    if length * np.log(n) > np.log(MOST_WORDS):
        raise ValueError(
            f"length={length} has {n}**{length} words, more than {MOST_WORDS}; sample, and use kernel_regret"
        )
    words = np.stack(np.unravel_index(np.arange(n**length), (n,) * length), axis=1)
    belief = np.tile(process.initial, (len(words), 1))
    for t in range(length):
        belief = np.einsum("ws,wsz->wz", belief, process.transition[words[:, t]])
    likelihood = belief @ process.functional
    possible = likelihood > 1e-15
    regret = kernel_regret(kernel, process, words[possible])
    weight = xr.DataArray(likelihood[possible], dims="sequence")
    mean = (regret * weight).sum("sequence") / weight.sum()
    return mean.assign_attrs(regret.attrs)


def _divergence(
    p: Float[np.ndarray, "sequence position token"], log_q: Float[np.ndarray, "sequence position token"]
) -> Float[np.ndarray, "sequence position"]:
    """In nats; never below 0, which rounding could make it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - log_q), 0.0)
    return np.maximum(terms.sum(-1), 0.0)
