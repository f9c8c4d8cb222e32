"""The most probable strings that a search of bounded width finds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch, refuse_out_of_range, whole_numbers
from nextlens.models.kernel import Kernel


class Beams(NamedTuple):
    """Strings in order of probability, and their log-probabilities in nats, given the prompt.

    Attributes
    ----------
    tokens : Int[Tensor, "beam length"]
        What follows the prompt; after an end token, ends only.
    log_probs : Float[Tensor, " beam"]
        Of the tokens up to and with the first end.
    """

    tokens: Int[Tensor, "beam length"]
    log_probs: Float[Tensor, " beam"]


@torch.no_grad()
def beam_search(
    kernel: Kernel, prompt: Int[Tensor, " time"] | list[int], length: int, *, width: int, end: int | None = None
) -> Beams:
    """The ``width`` most probable continuations that a beam of that width finds; of equals, the lowest first.

    The best of them is a lower bound on the most probable continuation, exact where ``width`` is at least the
    number of prefixes, and no better than :class:`~nextlens.models.deployment.Greedy` at width 1. Nothing is
    divided by length, so with an end token short strings win.

    Parameters
    ----------
    kernel : Kernel
    prompt : integers
        One token at least.
    length : int
        Tokens to find.
    width : int
    end : int, optional
        The token after which a string is whole.

    Returns
    -------
    Beams
        Fewer than ``width`` where fewer strings are possible.

    Raises
    ------
    ValueError
        If a number is out of range, the prompt is empty, or a token is unknown.
    """
    at_least("length", length, 1)
    at_least("width", width, 1)
    prompt = whole_numbers("prompt", prompt)
    if prompt.ndim != 1 or not len(prompt):
        raise ValueError(f"prompt has shape {tuple(prompt.shape)}; it must be one sequence of at least one token")
    refuse_out_of_range("prompt", prompt, kernel.n_tokens, limit_name="n_tokens")
    if end is not None:
        refuse_out_of_range("end", torch.tensor(end), kernel.n_tokens, limit_name="n_tokens")
    said, scores = prompt.new_zeros((1, 0)), torch.zeros(1, dtype=torch.float64)
    for _ in range(length):
        rows = _rows(kernel, prompt, said, end)
        total = (scores[:, None] + rows).flatten()
        order = total.argsort(descending=True, stable=True)[:width]
        order = order[~total[order].isneginf()]
        scores = total[order]
        said = torch.cat([said[order // kernel.n_tokens], (order % kernel.n_tokens)[:, None]], dim=1)
    return Beams(said, scores)


def _rows(
    kernel: Kernel, prompt: Int[Tensor, " time"], said: Int[Tensor, "beam step"], end: int | None
) -> Float[Tensor, "beam vocab"]:
    """The laws of what follows; of a string that is whole, its end with certainty."""
    words = torch.cat([prompt.expand(len(said), -1), said], dim=1)
    reading = Batch.from_tokens(torch.nn.functional.pad(words, (0, 1)))
    rows = kernel.log_probs(reading)[:, -1].double().cpu()
    if end is not None and said.shape[1]:
        whole = said[:, -1] == end
        rows[whole] = -torch.inf
        rows[whole, end] = 0.0
    return rows
