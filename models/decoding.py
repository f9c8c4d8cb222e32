"""What a model says when it goes on by itself: greedy or sampled, many prompts at once."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.kernel import Kernel
from nextlens.models.transformer import Transformer


@torch.no_grad()
def complete(
    model: Kernel,
    prompts: Int[Tensor, "batch time"],
    n_new: int,
    *,
    positions: Int[Tensor, "batch longer"] | None = None,
    temperature: float = 0.0,
    rng: np.random.Generator | None = None,
    end: int | None = None,
    rows_at_once: int = 1024,
) -> Int[Tensor, "batch n_new"]:
    """What follows each prompt, token by token; our transformers read each token once, others the whole each time.

    A transformer that is edited reads the whole each time too, so that every token it says is said under the edit.

    Parameters
    ----------
    model : Kernel
    prompts : Int[Tensor, "batch time"]
        All of one length.
    n_new : int
        How many tokens to say.
    positions : Int[Tensor, "batch time + n_new - 1"], optional
        Position ids of the prompt and of every token said but the last; in order if None.
    temperature : float, default=0
        0 takes the most probable token (of equals, the lowest); otherwise drawn from ``p^(1/temperature)``.
    rng : Generator, optional
        Draws one number a token said; needed where ``temperature`` is above 0.
    end : int, optional
        The token that ends an answer: whatever would follow it is ``end`` too.
    rows_at_once : int, default=1024
        Prompts decoded together, which bounds memory.

    Returns
    -------
    Int[Tensor, "batch n_new"]
        On the device of ``prompts``.

    Raises
    ------
    ValueError
        If an argument is out of range, positions do not fit, or the model says a law that is not finite.
    """
    at_least("n_new", n_new, 1)
    at_least("rows_at_once", rows_at_once, 1)
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} must be finite and 0 or above")
    if temperature and rng is None:
        raise ValueError("rng is None; it must be given where temperature is above 0")
    n, time = prompts.shape
    if time < 1:
        raise ValueError("prompts are empty; each needs at least one token")
    refuse_out_of_range("prompts", prompts, model.n_tokens, limit_name="n_tokens")
    longer = (n, time + n_new - 1)
    if positions is None:
        positions = torch.arange(longer[1], device=prompts.device).expand(longer)
    if positions.shape != longer:
        raise ValueError(f"positions has shape {tuple(positions.shape)}; prompts and what is said need {longer}")
    said = [
        _completed(model, rows, places, n_new, temperature, rng, end)
        for rows, places in zip(prompts.split(rows_at_once), positions.split(rows_at_once), strict=True)
    ]
    return torch.cat(said)


def _completed(
    model: Kernel,
    prompts: Int[Tensor, "batch time"],
    positions: Int[Tensor, "batch longer"],
    n_new: int,
    temperature: float,
    rng: np.random.Generator | None,
    end: int | None,
) -> Int[Tensor, "batch n_new"]:
    out = prompts.new_full((len(prompts), n_new), 0 if end is None else end)
    going = torch.arange(len(prompts), device=prompts.device)
    reading = (_ReadingOn if _keeps(model) else _ReadingAnew)(model, prompts, positions)
    for step in range(n_new):
        token = _choose(reading.scores(), temperature, rng)
        out[going, step] = token
        if step == n_new - 1:
            break
        keep = torch.ones_like(token, dtype=torch.bool) if end is None else token != end
        going = going[keep]
        if not len(going):
            break
        reading.extend(token, keep)
    return out


def _keeps(model: Kernel) -> bool:
    """Whether keys and values can be kept: by our transformers, unless somebody watches or edits them."""
    plain = isinstance(model, Transformer) and model.config.positions != "relative"
    return plain and not any(point.fwd_hooks for point in model.hook_dict.values())


class _ReadingAnew:
    """Any kernel: everything is read at every step."""

    def __init__(self, model: Kernel, prompts: Tensor, positions: Tensor) -> None:
        self.model, self.tokens, self.positions = model, prompts, positions

    def scores(self) -> Float[Tensor, "row vocab"]:
        time = self.tokens.shape[1]
        batch = Batch(
            tokens=self.tokens,
            targets=torch.zeros_like(self.tokens),
            weights=torch.ones(self.tokens.shape, device=self.tokens.device),
            positions=self.positions[:, :time],
        )
        return self.model.log_probs(batch)[:, -1]

    def extend(self, token: Int[Tensor, " row"], keep: Bool[Tensor, " row"]) -> None:
        self.tokens = torch.cat([self.tokens, token[:, None]], dim=1)[keep]
        self.positions = self.positions[keep]


class _ReadingOn:
    """Our transformers: keys and values are kept, and every token is read once."""

    def __init__(self, model: Transformer, prompts: Tensor, positions: Tensor) -> None:
        self.model, self.new, self.positions = model, prompts, positions
        self.past = model.past(len(prompts), positions.shape[1])
        self.read = 0

    def scores(self) -> Float[Tensor, "row vocab"]:
        start, self.read = self.read, self.read + self.new.shape[1]
        return self.model.extended(self.new, self.positions[:, start : self.read], self.past)

    def extend(self, token: Int[Tensor, " row"], keep: Bool[Tensor, " row"]) -> None:
        self.new = token[keep, None]
        if not keep.all():
            self.positions = self.positions[keep]
            for layer in self.past:
                layer.keep(keep)


def _choose(
    scores: Float[Tensor, "row vocab"], temperature: float, rng: np.random.Generator | None
) -> Int[Tensor, " row"]:
    """One token a row, from logits or log-probabilities."""
    if scores.isnan().any() or (scores == torch.inf).any():
        raise ValueError("the model says a law that is not finite; nothing can be drawn from it")
    if not temperature:
        return scores.argmax(-1)
    law = (scores.double() / temperature).softmax(-1)
    point = torch.from_numpy(rng.random(len(scores))).to(scores.device)
    mass = law.cumsum(-1)
    return (point[:, None] * mass[:, -1:] >= mass[:, :-1]).sum(-1)
