"""One table for any kernels: how far from a known process, how well calibrated, and what deployment does to a law."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nextlens.analyses.self_similarity_reading import CELLS, refuse_foresight, refuse_unlawful
from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.chunks import device_of
from nextlens.models.decoding import complete
from nextlens.models.kernel import Kernel
from nextlens.models.processes import Process
from nextlens.probes import measures

#: Sequences drawn anew for a standard error.
DRAWS = 400
#: What a law that forbids is mixed with before a divergence from it is taken; said beside the number.
FLOOR = 1e-6


class Estimate(NamedTuple):
    """A mean over sequences, and its standard error by sequences drawn anew."""

    value: float
    error: float


@dataclass(frozen=True, eq=False)
class Rows:
    """What a kernel said of sequences, position by position, in nats; no row is kept whole.

    Attributes
    ----------
    surprisal, entropy, confidence : Float[np.ndarray, "sequence position"]
        Of the target; of the law; the largest probability.
    right : Bool[np.ndarray, "sequence position"]
        Whether the most probable token came.
    against : dict of str to Float[np.ndarray, "sequence position"]
        Where the truth is known: ``divergence`` KL(truth‖kernel), floored if the kernel forbids; ``variation``;
        ``forbidden``, the probability of what it forbids; ``precision`` and ``recall`` of its support.
    """

    surprisal: Float[np.ndarray, "sequence position"]
    entropy: Float[np.ndarray, "sequence position"]
    confidence: Float[np.ndarray, "sequence position"]
    right: Bool[np.ndarray, "sequence position"]
    against: Mapping[str, Float[np.ndarray, "sequence position"]]


@torch.no_grad()
def rows_of(
    kernel: Kernel, tokens: Int[np.ndarray, "sequence time"], *, truth: Kernel | None = None, skip: int = 0
) -> Rows:
    """Read sequences with a kernel, beside the kernel of the process that they are of if it is known.

    Parameters
    ----------
    tokens : Int[np.ndarray, "sequence time"]
        The first has no row: ``time - 1 - skip`` positions are measured.
    truth : Kernel, optional
    skip : int, default=0
        Positions left out at the beginning, where the past is short.

    Raises
    ------
    ValueError
        If vocabularies differ, nothing is left, or the kernel breaks a law: which, and where.
    """
    if truth is not None and truth.n_tokens != kernel.n_tokens:
        raise ValueError(f"kernel has n_tokens={kernel.n_tokens} and the truth {truth.n_tokens}; they must be the same")
    at_least("positions left after skip", tokens.shape[1] - 1 - skip, 1)
    refuse_foresight(kernel, tokens)
    chunk = max(1, CELLS // (4 * tokens.shape[1] * kernel.n_tokens))
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(tokens), chunk):
        batch = Batch.from_tokens(tokens[start : start + chunk])
        laws = _laws(kernel, batch, start)[:, skip:]
        targets = batch.targets[:, skip:].numpy()
        said = np.take_along_axis(laws, targets[..., None], 2)[..., 0]
        part = {
            "surprisal": -said,
            "entropy": measures.entropy(laws),
            "confidence": np.exp(laws.max(-1)),
            "right": laws.argmax(-1) == targets,
        }
        if truth is not None:
            part |= _against(_laws(truth, batch)[:, skip:], laws)
        parts.append(part)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    plain = {name: whole.pop(name) for name in ("surprisal", "entropy", "confidence", "right")}
    return Rows(**plain, against=whole)


def accuracy(found: Rows, rate: float | None = None) -> dict[str, Estimate]:
    """Loss, how often it is infinite, and where they are known its excess, KL rate and total variation.

    In nats a token; the excess is over the entropy rate. ``never`` is the share of positions
    where what came was forbidden.

    Parameters
    ----------
    rate : float, optional
        Entropy rate of the process, in nats.
    """
    said = {"loss": estimate(found.surprisal), "never": estimate(np.isinf(found.surprisal).astype(float))}
    if rate is not None:
        said["excess"] = Estimate(said["loss"].value - rate, said["loss"].error)
    return {**said, **{name: estimate(values) for name, values in found.against.items()}}


def calibration(found: Rows) -> dict[str, Estimate]:
    """``z - h``: its mean, above 0 of the overconfident, and its autocorrelation at lag 1; top-label error.

    NaN where a law forbids what came, and of the autocorrelation where z - h never changes.
    """
    missed, nothing = found.surprisal - found.entropy, Estimate(float("nan"), float("nan"))
    finite = bool(np.isfinite(missed).all())
    lag, p = nothing, nothing
    if finite and np.ptp(missed) > 1e-12:
        white = measures.whiteness(missed, lags=min(10, missed.shape[1] - 1))
        lag, p = Estimate(float(white.autocorrelation[0]), float(white.deviation[0])), Estimate(white.p, 0.0)
    label = measures.top_label(found.confidence.ravel(), found.right.ravel())
    return {
        "z - h": estimate(missed) if finite else nothing,
        "z - h, lag 1": lag,
        "whiteness p": p,
        "top-label error": Estimate(label.error, 0.0),
        "overconfidence": Estimate(label.overconfidence, 0.0),
    }


def drift(kernel: Kernel, prompts: Int[np.ndarray, "sequence time"], length: int, rng: np.random.Generator) -> Estimate:
    """Mean entropy of the kernel's laws along what it says itself after prompts, in nats: far from its loss on text
    if it wanders off.
    """
    said = complete(kernel, torch.from_numpy(prompts), length, temperature=1.0, rng=rng)
    tokens = np.concatenate([prompts, said.numpy()], axis=1)
    return estimate(rows_of(kernel, tokens, skip=prompts.shape[1] - 1).entropy)


def deployed(
    kernel: Kernel,
    maps: Mapping[str, Callable[[Kernel], Kernel]],
    tokens: Int[np.ndarray, "sequence time"],
    rng: np.random.Generator,
    *,
    truth: Kernel | None = None,
    skip: int = 0,
    said: int = 16,
) -> dict[str, dict[str, Estimate]]:
    """What each deployment map does to the law, after what was given and after what the deployed kernel says itself.

    Parameters
    ----------
    truth : Kernel, optional
        Of the process that the sequences are of.
    rng : Generator
        Every map is sampled with the same numbers, so that equal laws say the same.
    said : int, default=16
        Tokens that each deployed kernel says after the first ``skip + 1`` of every sequence.

    Returns
    -------
    dict
        For each map, in nats, ``entropy``, ``divergence`` KL(deployed‖kernel) and ``variation`` along the sequences,
        and ``own entropy``, ``own divergence``, ``own variation`` along what the deployed kernel says. With a truth
        ``precision``, what the law gives to tokens that can come, ``recall``, the probability of the tokens that it
        still says, and ``possible``, the share of what it says that the process can say.
    """
    found, state = {}, int(rng.integers(2**63))
    prompts = torch.from_numpy(tokens[:, : skip + 1])
    for name, made in maps.items():
        there, same = made(kernel), np.random.default_rng(state)
        own = np.concatenate([prompts, complete(there, prompts, said, temperature=1.0, rng=same)], axis=1)
        along = {"": tokens, "own ": own}
        rows = {where: rows_of(kernel, read, truth=there, skip=skip) for where, read in along.items()}
        found[name] = {}
        for where, one in rows.items():
            found[name][f"{where}entropy"] = estimate(rows_of(there, along[where], skip=skip).entropy)
            for measure in ("divergence", "variation"):
                found[name][f"{where}{measure}"] = estimate(one.against[measure])
        if truth is not None:
            against = rows_of(there, tokens, truth=truth, skip=skip).against
            found[name] |= {one: estimate(against[one]) for one in ("precision", "recall")}
            found[name]["possible"] = estimate(possible(truth, own)[:, None].astype(float))
    return found


def possible(truth: Kernel, tokens: Int[np.ndarray, "sequence time"]) -> Bool[np.ndarray, " sequence"]:
    """Whether each sequence can be said, token after token; the first token is taken as given.

    Raises
    ------
    ValueError
        If a token is none of the kernel's.
    """
    refuse_out_of_range("tokens", torch.from_numpy(tokens), truth.n_tokens, limit_name="n_tokens")
    can = np.ones(len(tokens), dtype=bool)
    for t in range(1, tokens.shape[1]):
        if not can.any():
            break
        last = _laws(truth, Batch.from_tokens(tokens[can, : t + 1]))[:, -1]
        can[can] = np.isfinite(np.take_along_axis(last, tokens[can, t, None], 1)[:, 0])
    return can


def deployed_rate(process: Process, kernel: Kernel, deployed_kernel: Kernel) -> tuple[float, float, float]:
    """Entropy rate of a deployed order-1 kernel, its KL rate to the base, and the same wrongly weighed by the base.

    Rates of what is deployed are under its own stationary law.

    Raises
    ------
    ValueError
        If the deployed chain has not one stationary law, such as a greedy one with two cycles.
    """
    rows, said = (_after_one(one) for one in (kernel, deployed_kernel))
    entropy, apart = measures.entropy(said), measures.divergence(said, rows)
    own = stationary(np.exp(said))
    return float(own @ entropy), float(own @ apart), float(process.opening @ apart)


def stationary(chain: Float[np.ndarray, "state state"]) -> Float[np.ndarray, " state"]:
    """The one law that a Markov chain keeps.

    Raises
    ------
    ValueError
        If there are several: the chain falls into parts that never meet.
    """
    n = len(chain)
    system = np.vstack([chain.T - np.eye(n), np.ones(n)])
    if np.linalg.matrix_rank(system, tol=1e-9) < n:
        raise ValueError("the chain falls into parts that never meet: it has no one stationary law, and no one rate")
    return np.linalg.lstsq(system, np.r_[np.zeros(n), 1.0], rcond=None)[0]


def estimate(values: Float[np.ndarray, "sequence position"], seed: int = 0) -> Estimate:
    """Mean, and its standard error by sequences drawn anew."""
    by_sequence = values.mean(1)
    if len(by_sequence) < 2 or not np.isfinite(by_sequence).all():
        return Estimate(float(values.mean()), float("nan"))
    times = np.random.default_rng(seed).multinomial(len(values), np.full(len(values), 1 / len(values)), size=DRAWS)
    return Estimate(float(values.mean()), float((times @ by_sequence / len(values)).std(ddof=1)))


def _after_one(kernel: Kernel) -> Float[np.ndarray, "token token"]:
    words = np.stack([np.arange(kernel.n_tokens), np.zeros(kernel.n_tokens, dtype=np.int64)], axis=1)
    return _laws(kernel, Batch.from_tokens(words))[:, 0]


def _laws(kernel: Kernel, batch: Batch, first: int = 0) -> Float[np.ndarray, "batch time vocab"]:
    rows: Tensor = kernel.log_probs(batch.to(device_of(kernel, batch)))
    refuse_unlawful(rows, first, 0)
    return rows.double().cpu().numpy()


def _against(
    truth: Float[np.ndarray, "batch time vocab"], laws: Float[np.ndarray, "batch time vocab"]
) -> dict[str, Float[np.ndarray, "batch time"]]:
    forbidden = measures.support_violation(truth, laws)
    floor = FLOOR if forbidden.any() else 0.0
    can, may = np.exp(truth) > 0, np.exp(laws) > 0
    return {
        "divergence": measures.divergence(truth, laws, floor=floor),
        "variation": measures.total_variation(truth, laws),
        "forbidden": forbidden,
        "precision": np.where(can, np.exp(laws), 0.0).sum(-1),
        "recall": np.where(may, np.exp(truth), 0.0).sum(-1),
    }
