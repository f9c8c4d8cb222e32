"""How much of the tokens to come can be read off a frozen state, whatever it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import log_softmax

from nextlens.analyses.next_latent import FINAL, kl
from nextlens.analyses.registers import ahead_laws
from nextlens.models.arguments import between
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.processes import Process
from nextlens.models.recording import record

#: Directions of states below this share of the largest singular value are rounding, and are not read.
NOISE = 1e-5
#: Of the solver, and the largest slope of a weight at which it has converged: costs are nats, and what is to be told
#: apart are millionths of them.
SOLVER, STEEPEST = {"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-13, "gtol": 1e-8}, 1e-6


def future_tokens(
    model: Hooked,
    process: Process,
    tokens: Int[np.ndarray, "sequence position"],
    offsets: Sequence[int],
) -> dict[int, dict[str, float]]:
    """For each offset d, how far an affine probe of ``x_{t+d}`` on the final state stays from the exact law.

    The probe ``softmax(h W + b)`` is fitted to the exact laws ``P(x_{t+d} | x_{<= t})`` at all rows of half of the
    sequences, as nearly as it can come to them: to laws and not to tokens drawn from them, whose noise would be larger
    than what there is to know far ahead. It is judged on the other half.

    Returns
    -------
    dict
        By offset: ``probe``, the mean of ``KL(P(x_{t+d} | x_{<= t}) ‖ probe)`` in nats, and ``constant``, that of one
        law at all rows, the mean of the exact ones of the first half: what is reached by knowing nothing.

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
        X = states[:, rows].astype(np.float64)
        exact = ahead_laws(process, tokens, d)[:, rows]
        fit, apart = (part.reshape(-1, part.shape[-1]) for part in (X[:half], X[half:]))
        laws, truth = (part.reshape(-1, part.shape[-1]) for part in (exact[:half], exact[half:]))
        usual = np.log(np.exp(laws).mean(0))
        said = {"probe": affine_laws(fit, np.exp(laws), apart), "constant": np.tile(usual, (len(truth), 1))}
        found[int(d)] = {
            name: float(kl(torch.from_numpy(truth), torch.from_numpy(law)).mean()) for name, law in said.items()
        }
    return found


def affine_laws(
    X: Float[np.ndarray, "row feature"], laws: Float[np.ndarray, "row token"], apart: Float[np.ndarray, "other feature"]
) -> Float[np.ndarray, "other token"]:
    """Log-laws ``log_softmax(x W + b)`` at rows ``apart``, with least mean ``KL(law ‖ softmax(x W + b))`` on ``X``.

    The problem is convex; it is solved to convergence in coordinates in which the rows of ``X`` are white, directions
    of less than :data:`NOISE` of the largest singular value left out.

    Raises
    ------
    ValueError
        If the solver does not converge.
    """
    centre = X.mean(0)
    _, spread, axes = np.linalg.svd(X - centre, full_matrices=False)
    kept = spread > NOISE * spread[0]
    to_white = axes[kept].T * (np.sqrt(len(X)) / spread[kept])
    design, other = (np.column_stack([(rows - centre) @ to_white, np.ones(len(rows))]) for rows in (X, apart))
    shape = design.shape[1], laws.shape[1]

    def cost(flat: Float[np.ndarray, " weight"]) -> tuple[float, Float[np.ndarray, " weight"]]:
        said = log_softmax(design @ flat.reshape(shape), axis=1)
        slope = design.T @ (np.exp(said) - laws) / len(laws)
        return -float((laws * said).sum(1).mean()), slope.ravel()

    solved = minimize(cost, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=SOLVER)
    if (steepest := np.abs(solved.jac).max()) > STEEPEST:
        raise ValueError(f"an affine probe of {shape[0]} by {shape[1]} weights stopped at a slope of {steepest:.1g}")
    return log_softmax(other @ solved.x.reshape(shape), axis=1)
