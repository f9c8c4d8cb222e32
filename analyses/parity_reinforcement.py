"""Does reinforcement create a computation, or does it only decide to use one? Parity by chains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from sklearn.linear_model import RidgeClassifier

from nextlens.models.batch import Batch
from nextlens.models.decoding import complete
from nextlens.models.hooked import Hooked
from nextlens.models.kernel import Kernel
from nextlens.models.objectives.on_policy import Judging, answers
from nextlens.models.tasks.parity import END, Parity
from nextlens.models.tasks.prompted import batch_of

#: Prompts on which a model is measured, and on which it is probed (half of them to fit).
MEASURED, PROBED = 1024, 2048
#: Chains on which attention is looked at, and prompts that are answered under steering.
ALIGNED, STEERED = 256, 256


def measured(model: Kernel, task: Judging, rng: np.random.Generator, n_prompts: int = MEASURED) -> xr.Dataset:
    """What a model answers to fresh prompts, greedily and sampled at temperature 1.

    Returns
    -------
    xr.Dataset
        ``greedy_accuracy``: the share of greedy answers that end right (of a parity, whose last token is it).
        ``greedy_length``: their median, the end not counted. ``greedy_neither``: the share of them that are neither as
        long as a chain nor as short as an answer at once. ``sampled_accuracy``: the share of sampled answers that end
        right. ``sampled_long``: the share of them as long as a chain; ``accuracy_long``, ``accuracy_short``: of those,
        and of those as short as an answer at once, that end right (NaN if there are none). ``stop``, of parities: mean
        P(END) after a first token that fits the chain.
    """
    prompts = torch.from_numpy(task.prompts(n_prompts, rng)).to(getattr(model, "device", None))
    said = complete(model, prompts, task.longest_answer, end=END)
    greedy = task.judged(prompts.cpu().numpy(), said.cpu().numpy())
    sampled = answers(model, task, n_prompts, rng, device=prompts.device).judged
    right, long = sampled.last_is_right.values, sampled.is_long.values
    short = sampled.is_short.values
    found = xr.Dataset(
        {
            "greedy_accuracy": float(greedy.last_is_right.mean()),
            "greedy_length": float(greedy.length.median()),
            "greedy_neither": float((~greedy.is_long & ~greedy.is_short).mean()),
            "sampled_accuracy": float(right.mean()),
            "sampled_long": float(long.mean()),
            "accuracy_long": float(right[long].mean()) if long.any() else np.nan,
            "accuracy_short": float(right[short].mean()) if short.any() else np.nan,
        }
    )
    return found.assign(stop=_stop(model, task, prompts)) if isinstance(task, Parity) else found


@torch.no_grad()
def _stop(model: Kernel, task: Parity, prompts: Int[torch.Tensor, "sequence prompt"]) -> float:
    first = prompts[:, : task.n_bits].cumsum(1)[:, task.chain[0]] % 2
    batch = Batch.from_tokens(torch.cat([prompts, first[:, None], torch.full_like(first[:, None], END)], dim=1))
    return float(model.log_probs(batch)[:, -1, END].exp().mean())


def what_changed(before: Hooked, after: Hooked, task: Parity, rng: np.random.Generator, n: int = PROBED) -> xr.Dataset:
    """Two models beside each other on the same long chains, teacher-forced.

    Returns
    -------
    xr.Dataset
        ``next_parity`` (model, layer, place) and ``full_parity`` (model, layer): held-out accuracy of a ridge
        classifier of the parity that the next token of the chain says, at each place of the chain; and of the
        parity of all bits, at the separator. Chance is ½. ``aligned`` (model, layer, head): how much each head looks
        from the k-th token of the chain at the bit that must be added to it, on average. ``state`` (place): how far
        the last state moved, mean of ``|h' - h| / |h|``. ``weights``: the same of all weights together. Place 0 is
        the separator.
    """
    drawn = Parity(task.n_bits, 1.0, task.stride).draw(n, rng)
    batch = batch_of(drawn)
    models = {"before": before, "after": after}
    sites = [f"blocks.{layer}.resid_post" for layer in range(before.config.n_layers)]
    states = {name: _states(model, batch, sites, task.n_bits) for name, model in models.items()}
    chain = drawn.prefix_parity.values[:, task.chain]
    places = np.arange(len(task.chain))
    next_parity = [
        [[_accuracy(found[:, layer, at], chain[:, at]) for at in places] for layer in range(len(sites))]
        for found in states.values()
    ]
    full = [
        [_accuracy(found[:, layer, 0], drawn.prefix_parity.values[:, -1]) for layer in range(len(sites))]
        for found in states.values()
    ]
    old, new = (found[:, -1] for found in states.values())
    moved = np.linalg.norm(new - old, axis=-1) / np.linalg.norm(old, axis=-1)
    return xr.Dataset(
        {
            "next_parity": (("model", "layer", "place"), np.array(next_parity)),
            "full_parity": (("model", "layer"), np.array(full)),
            "aligned": (("model", "layer", "head"), np.stack([_aligned(m, task, batch) for m in models.values()])),
            "state": ("place", moved.mean(0)),
            "weights": _moved(before, after),
        },
        coords={"model": list(models), "layer": np.arange(len(sites)), "place": places},
    )


@torch.no_grad()
def _states(
    model: Hooked, batch: Batch, sites: list[str], n_bits: int
) -> Float[np.ndarray, "sequence layer place width"]:
    """From the separator to the last token of the chain."""
    with model.watched(*sites) as seen:
        model(batch.to(model.device))
    return np.stack([seen[site][:, n_bits:-1].cpu().numpy() for site in sites], axis=1)


@torch.no_grad()
def _aligned(model: Hooked, task: Parity, batch: Batch) -> Float[np.ndarray, "layer head"]:
    """Only of chains that say every prefix: the token at ``n_bits + k`` is the parity of k bits, and bit k is added."""
    sites = [f"blocks.{layer}.attn.pattern" for layer in range(model.config.n_layers)]
    with model.watched(*sites) as seen:
        model(batch[:ALIGNED].to(model.device))
    added = np.arange(1, task.n_bits)
    return np.stack([seen[site][:, :, task.n_bits + added, added].mean((0, 2)).cpu().numpy() for site in sites])


def mode_direction(
    model: Hooked, task: Parity, site: str, rng: np.random.Generator, n: int = PROBED
) -> Float[np.ndarray, " width"]:
    """Mean state at the first token of long answers, less that of short ones.

    All that tells them apart there is whether the token is the first bit: it is in all long answers, and in half of
    the short ones.
    """
    drawn = Parity(task.n_bits, 0.5, task.stride).draw(n, rng)
    with torch.no_grad(), model.watched(site) as seen:
        model(batch_of(drawn).to(model.device))
    states, long = seen[site][:, task.n_bits + 1].cpu().numpy(), drawn.is_long.values
    return states[long].mean(0) - states[~long].mean(0)


def steered(
    model: Hooked,
    task: Parity,
    pushes: Sequence[float],
    rng: np.random.Generator,
    *,
    layer: int = 0,
    n_prompts: int = STEERED,
) -> xr.Dataset:
    """What a model answers if its state at the first token said is pushed along its own :func:`mode_direction`.

    Parameters
    ----------
    model : Hooked
    task : Parity
    pushes : sequence of float
        How far, in differences of means; 0 leaves the state as it is.
    rng : Generator
    layer : int, default=0
        After which block.
    n_prompts : int

    Returns
    -------
    xr.Dataset
        Over ``push``: ``greedy_accuracy``, ``greedy_length`` and ``stop``, as :func:`measured` has them.
    """
    site = f"blocks.{layer}.resid_post"
    direction = torch.from_numpy(mode_direction(model, task, site, rng)).to(model.device)
    prompts = torch.from_numpy(task.prompts(n_prompts, rng)).to(model.device)
    first = task.n_bits + 1
    rows = []
    for push in pushes:

        def pushed(value: torch.Tensor, push: float = push) -> torch.Tensor:
            value = value.clone()
            value[:, first : first + 1] += push * direction
            return value

        with model.edited(site, pushed):
            said = complete(model, prompts, task.longest_answer, end=END)
            stop = _stop(model, task, prompts)
        judged = task.judged(prompts.cpu().numpy(), said.cpu().numpy())
        rows.append((float(judged.last_is_right.mean()), float(judged.length.median()), stop))
    names = ("greedy_accuracy", "greedy_length", "stop")
    found = {name: ("push", np.array(values)) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    return xr.Dataset(found, coords={"push": list(pushes)})


def _accuracy(X: Float[np.ndarray, "sequence width"], y: Int[np.ndarray, " sequence"]) -> float:
    half = len(y) // 2
    return float(RidgeClassifier(alpha=1.0).fit(X[:half], y[:half]).score(X[half:], y[half:]))


def _moved(before: Hooked, after: Hooked) -> float:
    old, new = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (before, after))
    return float((new - old).norm() / old.norm())
