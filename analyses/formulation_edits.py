"""How much a small edit of a prompt changes what a model says of the text that follows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from nextlens.analyses.formulation import estimate
from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.chunks import device_of
from nextlens.models.kernel import Kernel
from nextlens.models.vocabulary import Vocabulary


class Edited(NamedTuple):
    """Of one family of edits, over passages: ``|Δ log2 p(continuation)|`` over its bytes.

    Attributes
    ----------
    mean, error, worst : float
        In bits a byte; the standard error by passages drawn anew.
    signed : float
        Mean with its sign: above 0 the edit made the continuation less probable.
    """

    mean: float
    error: float
    worst: float
    signed: float


def _space_doubled(words: list[str], at: int) -> str:
    return " ".join([*words[:at], "", *words[at:]])


def _space_to_line(words: list[str], at: int) -> str:
    return " ".join(words[:at]) + "\n" + " ".join(words[at:])


def _word_repeated(words: list[str], at: int) -> str:
    return " ".join([*words[:at], words[at], *words[at:]])


def _word_deleted(words: list[str], at: int) -> str:
    return " ".join([*words[:at], *words[at + 1 :]])


#: Words of a continuation, and the fewest of a passage that has one after a prompt.
SAID, LEAST_WORDS = 12, 15
#: From the words of a prompt and a place among them, the edited prompt.
FAMILIES: dict[str, Callable[[list[str], int], str]] = {
    "space doubled": _space_doubled,
    "space to line break": _space_to_line,
    "word repeated": _word_repeated,
    "word deleted": _word_deleted,
}


def text_edits(
    kernel: Kernel,
    vocabulary: Vocabulary,
    passages: Sequence[str],
    rng: np.random.Generator,
    *,
    said: int = SAID,
    within: int = 30,
) -> dict[str, Edited]:
    """Edit each prompt once a family, at a random word among its last few, and score what follows.

    A passage is cut before its last ``said`` words; prompt and continuation are encoded apart, so the continuation has
    the same tokens each time.

    Parameters
    ----------
    said : int, default=12
        Words of the continuation.
    within : int, default=30
        How many words back an edit may lie.

    Raises
    ------
    ValueError
        If a passage has too few words.
    """
    deltas: dict[str, list[float]] = {name: [] for name in FAMILIES}
    for passage in passages:
        words = passage.split(" ")
        at_least("words of a passage", len(words), said + LEAST_WORDS - SAID)
        prompt, after = words[:-said], " " + " ".join(words[-said:])
        tokens, n_bytes = vocabulary.encode(after), len(after.encode())
        plain = _bits(kernel, vocabulary.encode(" ".join(prompt)), tokens)
        for name, edit in FAMILIES.items():
            at = int(rng.integers(max(1, len(prompt) - within), len(prompt)))
            deltas[name].append((_bits(kernel, vocabulary.encode(edit(prompt, at)), tokens) - plain) / n_bytes)
    return {
        name: Edited(*estimate(np.abs(one)[:, None]), float(np.abs(one).max()), float(np.mean(one)))
        for name, one in deltas.items()
    }


@torch.no_grad()
def _bits(kernel: Kernel, prompt: np.ndarray, said: np.ndarray) -> float:
    """``-log2 p(said | prompt)``."""
    batch = Batch.from_tokens(np.concatenate([prompt, said])[None])
    rows = kernel.log_probs(batch.to(device_of(kernel, batch)))[0, -len(said) :].double().cpu()
    return float(-rows.gather(1, torch.from_numpy(said)[:, None]).sum()) / np.log(2)
