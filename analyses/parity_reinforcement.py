"""Does reinforcement create a computation, or does it only decide to use one? Parity by chains."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from sklearn.linear_model import RidgeClassifier

from nextlens.models.batch import Batch
from nextlens.models.decoding import complete
from nextlens.models.hooked import Hooked
from nextlens.models.kernel import Kernel
from nextlens.models.objectives.on_policy import answers
from nextlens.models.tasks.parity import END, Parity
from nextlens.models.tasks.prompted import batch_of

#: Prompts on which a model is measured, and on which it is probed (half of them to fit).
MEASURED, PROBED = 1024, 2048


def measured(model: Kernel, task: Parity, rng: np.random.Generator, n_prompts: int = MEASURED) -> xr.Dataset:
    """What a model answers to fresh prompts, greedily and sampled at temperature 1.

    Returns
    -------
    xr.Dataset
        ``greedy_accuracy``: the share of greedy answers whose last token is the parity. ``greedy_length``: their
        median, the end not counted. ``sampled_long``: the share of sampled answers as long as a chain;
        ``accuracy_long``, ``accuracy_short``: of those, and of the one-token ones, whose last is right (NaN if there
        are none). ``stop``: mean P(END) after a first token that fits the chain.
    """
    prompts = torch.from_numpy(task.prompts(n_prompts, rng)).to(getattr(model, "device", None))
    said = complete(model, prompts, task.longest_answer, end=END)
    greedy = task.judged(prompts.cpu().numpy(), said.cpu().numpy())
    sampled = answers(model, task, n_prompts, rng, device=prompts.device).judged
    right, long = sampled.last_is_right.values, sampled.is_long.values
    short = sampled.ended.values & (sampled.length.values == 1)
    return xr.Dataset(
        {
            "greedy_accuracy": float(greedy.last_is_right.mean()),
            "greedy_length": float(greedy.length.median()),
            "sampled_long": float(long.mean()),
            "accuracy_long": float(right[long].mean()) if long.any() else np.nan,
            "accuracy_short": float(right[short].mean()) if short.any() else np.nan,
            "stop": _stop(model, task, prompts),
        }
    )


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
        parity of all bits, at the separator. Chance is ½. ``state`` (place): how far the last state moved, mean of
        ``|h' - h| / |h|``. ``weights`` : the same of all weights together. Place 0 is the separator.
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


def _accuracy(X: Float[np.ndarray, "sequence width"], y: Int[np.ndarray, " sequence"]) -> float:
    half = len(y) // 2
    return float(RidgeClassifier(alpha=1.0).fit(X[:half], y[:half]).score(X[half:], y[half:]))


def _moved(before: Hooked, after: Hooked) -> float:
    old, new = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (before, after))
    return float((new - old).norm() / old.norm())
