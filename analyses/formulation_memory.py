"""How much of its past a kernel uses: exactly, on every word of a small alphabet, or sampled on tokens of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from nextlens.analyses.formulation import FLOOR, Estimate, estimate, possible, rows_of
from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.chunks import device_of
from nextlens.models.contexts import Truncated
from nextlens.models.kernel import Kernel
from nextlens.models.processes import Process
from nextlens.probes import measures
from nextlens.probes.measures import Influence, Memory

#: Words that are listed, at most.
MOST_WORDS = 2**20
#: No more than this is the rounding of a word that cannot be said.
IMPOSSIBLE = 1e-12


class Lost(NamedTuple):
    """What a kernel loses with its last tokens only, in nats a token.

    Attributes
    ----------
    whole : Estimate
        Its loss with all.
    more : dict of int to Estimate
        How much more with the last k; below 0 it is hurt by its context.
    """

    whole: Estimate
    more: dict[int, Estimate]


class Moved(NamedTuple):
    """How far laws move, in total variation.

    Attributes
    ----------
    mean, error : float
        Over sequences, and the standard error by sequences drawn anew.
    worst : float
        The largest of what was tried: a lower bound of the supremum.
    """

    mean: float
    error: float
    worst: float


def exact_memory(kernel: Kernel, process: Process, length: int) -> Memory:
    """``g_k = E KL(m(· | past) ‖ m(· | its last k))`` over all pasts of ``length`` tokens, k = 0 .. length - 1.

    Without context the law is the mean over pasts. The kernel of a stationary process has ``Σ g_k = H(length) -
    length · h_length``, which tends to the excess entropy from below; a kernel that is not exact uses its context in
    its own way, whatever that is worth. A uniform floor of 1e-6 where a short context forbids.

    Raises
    ------
    ValueError
        If there are more than 2^20 words of that length.
    """
    weight = word_probabilities(process, length)
    whole = laws_of_words(kernel, length, process)
    n = kernel.n_tokens
    there = weight > 0
    weight, whole, at = weight[there], whole[there], np.flatnonzero(there)
    without = np.broadcast_to(np.log(weight @ np.exp(whole)), whole.shape)
    gains = [float(weight @ measures.divergence(whole, without))]
    for k in range(1, length):
        short = laws_of_words(kernel, k, process)[at % n**k]
        floor = FLOOR if np.isneginf(short).any() else 0.0
        gains.append(float(weight @ measures.divergence(whole, short, floor=floor)))
    return measures.memory(np.array(gains))


def exact_error(kernel: Kernel, process: Process, length: int) -> Float[np.ndarray, " context"]:
    """``E KL(p(· | past) ‖ m(· | its last k))``, k = 1 .. length: how wrong the kernel is that reads no more, in nats.

    Of the ideal observer these are the gains of :func:`exact_memory` from k = 1 on. A uniform floor of 1e-6 where the
    kernel forbids what can come.

    Raises
    ------
    ValueError
        As :func:`exact_memory`; or if vocabularies differ.
    """
    if kernel.n_tokens != process.n_tokens:
        raise ValueError(f"kernel has n_tokens={kernel.n_tokens} and the process {process.n_tokens}; they must agree")
    weight, truth = word_probabilities(process, length), laws_of_words(process, length)
    there, n = np.flatnonzero(weight > 0), kernel.n_tokens
    wrong = []
    for k in range(1, length + 1):
        short = laws_of_words(kernel, k, process)[there % n**k]
        floor = FLOOR if np.isneginf(short).any() else 0.0
        wrong.append(float(weight[there] @ measures.divergence(truth[there], short, floor=floor)))
    return np.array(wrong)


def exact_influence(kernel: Kernel, process: Process, length: int, lags: int) -> Influence:
    """How far the next law moves when the token 1 .. ``lags`` back is another one, over every past and every token.

    Raises
    ------
    ValueError
        As :func:`exact_memory`; or if there are more lags than tokens.
    """
    at_least("length", length, lags)
    weight, rows, n = word_probabilities(process, length), laws_of_words(kernel, length, process), kernel.n_tokens
    at = np.arange(len(rows))
    changed = np.full((lags, len(rows), n - 1, n), np.nan)
    for k in range(lags):
        token = at // n**k % n
        for shift in range(1, n):
            other = at + ((token + shift) % n - token) * n**k
            changed[k, :, shift - 1] = np.where(weight[other, None] > 0, rows[other], np.nan)
    there = weight > 0
    return measures.influence(rows[there], changed[:, there], weight[there])


def sampled_memory(
    kernel: Kernel, tokens: Int[np.ndarray, "sequence time"], contexts: Sequence[int], *, last: int = 8
) -> Lost:
    """Loss with the last k tokens only, less the loss with all, at the last positions of each sequence."""
    at_least("number of contexts", len(contexts), 1)
    longest = max(contexts)
    at_least("positions before the last few", tokens.shape[1] - 1 - last, longest)
    skip = tokens.shape[1] - 1 - last
    whole = rows_of(kernel, tokens, skip=skip).surprisal
    more = {}
    for k in contexts:
        window = tokens[:, skip + 1 - k :]
        more[k] = estimate(rows_of(Truncated(kernel, k), window, skip=k - 1).surprisal - whole)
    return Lost(estimate(whole), more)


def sampled_influence(
    kernel: Kernel,
    tokens: Int[np.ndarray, "sequence time"],
    lags: Sequence[int],
    rng: np.random.Generator,
    *,
    others: int = 4,
) -> dict[int, Moved]:
    """How far the law after each sequence moves with the token k back replaced, by lag.

    By tokens drawn from the sequences themselves, as frequent there as they are.

    Raises
    ------
    ValueError
        If a lag is longer than the sequences.
    """
    at_least("tokens of a sequence", tokens.shape[1], max(lags))
    base = last_laws(kernel, tokens)
    found = {}
    for k in lags:
        apart = []
        for _ in range(others):
            changed = tokens.copy()
            changed[:, -k] = _different(tokens[:, -k], tokens.ravel(), rng)
            apart.append(measures.total_variation(base, last_laws(kernel, changed)))
        found[k] = _moved(np.stack(apart, axis=1))
    return found


def sampled_edits(
    kernel: Kernel,
    tokens: Int[np.ndarray, "sequence time"],
    lag: int,
    rng: np.random.Generator,
    *,
    process: Process | None = None,
) -> dict[str, Moved]:
    """How far the next law moves when a token is inserted, or deleted, ``lag`` back.

    With a process, over those edited sequences that it can say; NaN if there is none.

    Raises
    ------
    ValueError
        If the lag is longer than the sequences.
    """
    at_least("lag", lag, 1)
    at_least("tokens of a sequence", tokens.shape[1], lag)
    base = last_laws(kernel, tokens)
    place = tokens.shape[1] - lag
    extra = rng.choice(tokens.ravel(), (len(tokens), 1))
    families = {
        "insertion": np.concatenate([tokens[:, :place], extra, tokens[:, place:]], axis=1)[:, 1:],
        "deletion": np.delete(tokens, place, axis=1),
    }
    found = {}
    for name, edited in families.items():
        can = np.ones(len(edited), bool) if process is None else possible(process, edited)
        found[name] = _moved(measures.total_variation(base[can], last_laws(kernel, edited[can]))[:, None])
    return found


def _moved(apart: Float[np.ndarray, "sequence other"]) -> Moved:
    return Moved(*estimate(apart), float(apart.max())) if len(apart) else Moved(*[float("nan")] * 3)


@torch.no_grad()
def last_laws(kernel: Kernel, tokens: Int[np.ndarray, "sequence time"]) -> Float[np.ndarray, "sequence token"]:
    """The law of what follows each sequence, in nats."""
    rows = [np.empty((0, kernel.n_tokens))]
    chunk = max(1, 2**24 // (tokens.shape[1] * kernel.n_tokens))
    for start in range(0, len(tokens), chunk):
        batch = Batch.from_tokens(np.pad(tokens[start : start + chunk], ((0, 0), (0, 1))))
        rows.append(kernel.log_probs(batch.to(device_of(kernel, batch)))[:, -1].double().cpu().numpy())
    return np.concatenate(rows)


def laws_of_words(kernel: Kernel, length: int, process: Process | None = None) -> Float[np.ndarray, "word token"]:
    """The law of what follows each word of so many tokens, in the order of their digits; NaN after impossible ones.

    Impossible is what the kernel itself cannot say if it is a process, and what ``process`` cannot if that is given.
    """
    if not isinstance(kernel, Process):
        words = _words(kernel.n_tokens, length)
        there = np.ones(len(words), bool) if process is None else word_probabilities(process, length) > 0
        laws = np.full((len(words), kernel.n_tokens), np.nan)
        laws[there] = last_laws(kernel, words[there])
        return laws
    beliefs = _beliefs_of_words(kernel, length)
    total = beliefs @ kernel.functional
    with np.errstate(divide="ignore", invalid="ignore"):
        there = total[:, None] > IMPOSSIBLE
        laws = kernel.next_token(np.where(there, beliefs / total[:, None], kernel.initial))
        return np.where(there, np.log(laws), np.nan)


def word_probabilities(process: Process, length: int) -> Float[np.ndarray, " word"]:
    """Of every word of so many tokens, in the order of their digits."""
    found = _beliefs_of_words(process, length) @ process.functional
    return np.where(found > IMPOSSIBLE, found, 0.0)


def forbids(process: Process, length: int) -> bool:
    """Whether there is a word of so many tokens that it cannot say."""
    return not word_probabilities(process, length).all()


def _beliefs_of_words(process: Process, length: int) -> Float[np.ndarray, "word state"]:
    """The unnormalised belief after every word, each from that of the word without its last token."""
    _refuse_many(process.n_tokens, length)
    beliefs = process.initial[None]
    for _ in range(length):
        beliefs = np.tensordot(beliefs, process.transition, (1, 1)).reshape(-1, beliefs.shape[1])
    return beliefs


def _words(n_tokens: int, length: int) -> Int[np.ndarray, "word time"]:
    _refuse_many(n_tokens, length)
    return np.stack(np.unravel_index(np.arange(n_tokens**length), (n_tokens,) * length), axis=1)


def _refuse_many(n_tokens: int, length: int) -> None:
    at_least("length", length, 1)
    if n_tokens**length > MOST_WORDS:
        raise ValueError(
            f"length={length} of {n_tokens} tokens is {n_tokens**length} words; at most {MOST_WORDS} are listed"
        )


def _different(
    token: Int[np.ndarray, " sequence"], pool: Int[np.ndarray, " token"], rng: np.random.Generator
) -> Int[np.ndarray, " sequence"]:
    """Tokens of the pool, none of them the one it replaces."""
    drawn = rng.choice(pool, len(token))
    for _ in range(64):
        same = drawn == token
        if not same.any():
            return drawn
        drawn[same] = rng.choice(pool, int(same.sum()))
    raise ValueError("the sequences hold one token only; there is nothing to put in its place")
