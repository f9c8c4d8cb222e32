"""Speculative decoding: a matcher proposes, any kernel disposes, and what comes out is the kernel's own law."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.induction.context_features import context_of
from nextlens.models.induction.generation import tempered
from nextlens.models.induction.token_ids import checked
from nextlens.models.induction.votes import Matcher
from nextlens.models.kernel import Kernel


@dataclass(frozen=True)
class Round:
    """One look of the target at what the draft proposed.

    Parameters
    ----------
    tokens : tuple of int
        What is written: the proposals that were accepted, and one token by the target.
    proposed : int
        How many tokens the draft had proposed.
    accepted : int
        How many of them stand.
    overlap : tuple of float
        For each proposal that was looked at, with what probability such a one is accepted:
        ``sum over y of min(p(y), q(y))``, which is one minus the total variation between target and draft.
    """

    tokens: tuple[int, ...]
    proposed: int
    accepted: int
    overlap: tuple[float, ...]


@dataclass(frozen=True)
class Acceptance:
    """What several rounds came to.

    Attributes
    ----------
    rate : float
        Proposals accepted, of those that were looked at; 0 if there was none.
    expected : float
        The mean of what the laws themselves say, ``1 - TV``: the same quantity, with less noise.
    tokens_per_call : float
        Tokens written for each call of the target; 1 without a draft.
    """

    rate: float
    expected: float
    tokens_per_call: float

    @classmethod
    def of(cls, rounds: list[Round]) -> Acceptance:
        """The acceptance measured over ``rounds``.

        Raises
        ------
        ValueError
            If there is none.
        """
        at_least("the number of rounds", len(rounds), 1)
        overlap = [one for each in rounds for one in each.overlap]
        written = sum(len(each.tokens) for each in rounds)
        if not overlap:
            return cls(0.0, 0.0, written / len(rounds))
        rate = sum(each.accepted for each in rounds) / len(overlap)
        return cls(rate, float(np.mean(overlap)), written / len(rounds))


def speculate(
    target: Kernel,
    draft: Matcher,
    prompt: Int[np.ndarray, " time"],
    *,
    length: int,
    rng: np.random.Generator,
    ahead: int = 4,
    temperature: float = 1.0,
) -> Iterator[Round]:
    """Write ``length`` tokens with the law of ``target``, several for each of its calls.

    The draft proposes ``ahead`` tokens, each drawn from its law q; the target says its law p after every one of them
    in a single call. A proposal y stands with probability ``min(1, p(y) / q(y))``; the first that falls is replaced
    by a draw from ``max(p - q, 0)``, normalised; if all stand, one more is drawn from p. Whatever the draft, the
    tokens have the law of the target.

    Parameters
    ----------
    target : Kernel
    draft : Matcher
        Reads the whole context anew for each proposal, which exact matchers do in a fraction of a millisecond.
    prompt : Int[np.ndarray, "time"]
    length : int
    rng : numpy.random.Generator
    ahead : int, default=4
    temperature : float, default=1
        Of target and draft; 0 takes the most probable token of each, and what comes out is the greedy text.

    Yields
    ------
    Round

    Raises
    ------
    ValueError
        If target and draft have different vocabularies, there is no prompt, a number is out of range, or the target
        reads fewer tokens than there will be; before anything is written.

    Notes
    -----
    Leviathan, Kalman and Matias, Fast inference from transformers via speculative decoding (arXiv:2211.17192).
    """
    if target.n_tokens != draft.n_tokens:
        raise ValueError(
            f"draft has n_tokens={draft.n_tokens} and target {target.n_tokens}; they must share a vocabulary"
        )
    at_least("the number of tokens in prompt", len(prompt), 1)
    at_least("length", length, 0)
    at_least("ahead", ahead, 0)
    at_least("temperature", temperature, 0)
    tokens = checked("prompt", prompt, target.n_tokens)
    end, n_ctx = len(tokens) + length, context_of(target)
    if n_ctx is not None and end - 1 > n_ctx:
        raise ValueError(
            f"length={length} after a prompt of {len(tokens)} tokens makes the target read {end - 1}, and it reads "
            f"n_ctx={n_ctx} at most"
        )
    while len(tokens) < end:
        proposed, drafted = _proposals(draft, tokens, min(ahead, end - len(tokens) - 1), temperature, rng)
        laws = _laws(target, np.append(tokens, proposed), len(proposed) + 1, temperature)
        found = _judged(proposed, drafted, laws, rng)
        yield found
        tokens = np.append(tokens, found.tokens)


def _proposals(
    draft: Matcher, tokens: Int[np.ndarray, " time"], n: int, temperature: float, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " proposal"], list[Float[np.ndarray, " token"]]]:
    laws, whole = [], tokens
    for _ in range(n):
        law = draft.votes(whole, np.array([len(whole) - 1])).probabilities(draft.n_tokens)[0]
        laws.append(tempered((1 - draft.floor) * law + draft.floor / draft.n_tokens, temperature))
        whole = np.append(whole, rng.choice(draft.n_tokens, p=laws[-1]))
    return whole[len(tokens) :], laws


@torch.no_grad()
def _laws(
    target: Kernel, tokens: Int[np.ndarray, " time"], last: int, temperature: float
) -> list[Float[np.ndarray, " token"]]:
    """What the target says after each of the ``last`` tokens."""
    weights = target.parameters() if isinstance(target, nn.Module) else ()
    device = next((weight.device for weight in weights), torch.device("cpu"))
    said = target.log_probs(Batch.from_tokens([[*tokens, 0]], device=device))[0, -last:].double().exp().cpu().numpy()
    return [tempered(law / law.sum(), temperature) for law in said]


def _judged(
    proposed: Int[np.ndarray, " proposal"],
    drafted: list[Float[np.ndarray, " token"]],
    laws: list[Float[np.ndarray, " token"]],
    rng: np.random.Generator,
) -> Round:
    written, overlap = [], []
    for token, q, p in zip(proposed.tolist(), drafted, laws, strict=False):
        overlap.append(float(np.minimum(p, q).sum()))
        stands = min(1.0, p[token] / q[token])
        if not rng.choice(2, p=[1 - stands, stands]):
            left = np.maximum(p - q, 0)
            written.append(int(rng.choice(len(p), p=left / left.sum())))
            return Round(tuple(written), len(proposed), len(written) - 1, tuple(overlap))
        written.append(token)
    written.append(int(rng.choice(len(laws[-1]), p=laws[-1])))
    return Round(tuple(written), len(proposed), len(proposed), tuple(overlap))
