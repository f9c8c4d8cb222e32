"""Does a model need some of its heads to learn from its context? Ablate them, and others beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from math import comb, prod

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.analyses.induction_heads import (
    Head,
    attention_layers,
    attention_values,
    found_heads,
    in_context_gain,
    loss_by_position,
)
from nextlens.models.hooked import Edit, Hooked
from nextlens.models.tasks import RepeatedTokens

#: What is ablated, each with the outputs of the heads replaced by their means.
ABLATIONS = {
    "nothing": "the model as it is",
    "induction heads": "all heads found by prefix matching",
    "others anywhere": "as many others, whichever they are, previous-token heads among them; mean over such sets",
    "others of those layers": "as many others in the same layers; mean over such sets",
    "others outside the circuit": "as many that are neither induction nor previous-token heads; mean over such sets",
    "all outside the circuit": "every head that is neither an induction nor a previous-token head, at once",
    "previous-token heads": "all heads found by looking one back, which the induction heads read",
}
#: Sets of other heads that are drawn where there are more.
MOST_SETS = 16


@torch.no_grad()
def head_ablation(
    model: Hooked,
    task: RepeatedTokens,
    scores: xr.Dataset,
    tokens: Int[np.ndarray, "sequence position"],
    reference: Int[np.ndarray, "sequence position"],
    *,
    rng: np.random.Generator,
) -> xr.Dataset:
    """Ablate the heads found, and as many others, and see how much of the in-context gain goes.

    An induction head reads what a previous-token head of an earlier layer wrote: the *circuit* is both.
    As many others, drawn from all that are not induction heads, may so break the circuit too. Those from
    outside it do not, as far as it has been found.

    The share removed is ``1 - gain without / gain with``, the gain as :func:`in_context_gain` has it. It
    exceeds 1 where late tokens come to cost more than early ones.

    Parameters
    ----------
    scores : Dataset
        From :func:`~nextlens.analyses.induction_heads.head_scores`, on other tokens than these.
    tokens, reference : arrays of shape (sequence, position)
        Of ``task``: those on which the loss is measured, and others from which the means come.
    rng : numpy.random.Generator
        For the sets of other heads: all there are, or :data:`MOST_SETS` drawn.

    Returns
    -------
    xarray.Dataset
        Over ``ablated``, of :data:`ABLATIONS` those that there are: ``gain`` and ``removed``, means over
        sets; ``removed_most``, of the set that removes most; ``sets``, how many, and ``heads`` in each.
        ``loss`` over (ablated, target), the mean over sets.

    Raises
    ------
    ValueError
        If a head of ``scores`` is not one of the model's; also as :func:`in_context_gain`.
    """
    means = mean_outputs(model, reference)
    every = [(int(layer), int(head)) for layer in scores.layer for head in scores["head"]]
    found, shifting = found_heads(scores), found_heads(scores, "previous token")
    outside = [head for head in every if head not in found and head not in shifting]
    sets: dict[str, list[list[Head]]] = {
        "nothing": [[]],
        "induction heads": [found],
        "others anywhere": control_sets(found, every, rng, matched=False),
        "others of those layers": control_sets(found, every, rng, matched=True),
        "others outside the circuit": control_sets(found, [*found, *outside], rng, matched=False),
        "all outside the circuit": [outside if found else []],
        "previous-token heads": [shifting],
    }
    sets = {name: some for name, some in sets.items() if name == "nothing" or (some and some[0])}
    loss = {}
    for name, some in sets.items():
        rows = []
        for heads in some:
            with ablated(model, heads, means):
                rows.append(loss_by_position(model, tokens))
        loss[name] = np.array(rows)
    gain = {name: np.array([in_context_gain(row, task) for row in rows]) for name, rows in loss.items()}
    removed = {name: 1 - values / gain["nothing"][0] for name, values in gain.items()}
    return xr.Dataset(
        {
            "gain": ("ablated", [values.mean() for values in gain.values()], {"units": "nat"}),
            "removed": ("ablated", [values.mean() for values in removed.values()]),
            "removed_most": ("ablated", [values.max() for values in removed.values()]),
            "sets": ("ablated", [len(some) for some in sets.values()]),
            "heads": ("ablated", [len(some[0]) for some in sets.values()]),
            "loss": (("ablated", "target"), np.array([rows.mean(0) for rows in loss.values()]), {"units": "nat"}),
        },
        coords={"ablated": list(sets)},
        attrs={"ablation": "hook_z replaced by its mean over other sequences, position by position"},
    )


@torch.no_grad()
def mean_outputs(
    model: Hooked, tokens: Int[np.ndarray, "sequence position"]
) -> dict[int, Float[Tensor, "place head head_feature"]]:
    """``hook_z`` of every layer, on average over sequences, at each position: what a mean-ablated head says."""
    seen = attention_values(model, tokens[:, :-1], attention_layers(model), ["z"])
    return {layer: value.mean(0) for (layer, _), value in seen.items()}


@contextmanager
def ablated(
    model: Hooked, heads: Sequence[Head], means: Mapping[int, Float[Tensor, "place head head_feature"]]
) -> Iterator[None]:
    """While open, ``hook_z`` of each of ``heads`` is its mean over other sequences, position by position.

    Mean ablation takes from a head what depends on the sequence and leaves what does not, which zero ablation
    would remove too.

    Raises
    ------
    ValueError
        If there is no such head.
    """
    for layer, head in heads:
        if layer not in means or not 0 <= head < means[layer].shape[1]:
            raise ValueError(f"heads hold {(layer, head)}, of which there is no output to put in its place")
    with ExitStack() as open_edits:
        for layer in sorted({layer for layer, _ in heads}):
            chosen = [head for where, head in heads if where == layer]
            open_edits.enter_context(model.edited(f"blocks.{layer}.attn.hook_z", _put(means[layer], chosen)))
        yield


def _put(mean: Float[Tensor, "place head head_feature"], heads: Sequence[int]) -> Edit:
    def edit(z: Tensor) -> Tensor:
        z = z.clone()
        z[:, :, heads] = mean[: z.shape[1], heads].to(z)
        return z

    return edit


def control_sets(
    heads: Sequence[Head], all_heads: Sequence[Head], rng: np.random.Generator, *, matched: bool, most: int = MOST_SETS
) -> list[list[Head]]:
    """Sets of as many heads as ``heads``, none of them among these: all there are, or ``most`` drawn at random.

    Parameters
    ----------
    matched : bool
        Whether a set has as many heads in each layer as ``heads`` have; else any other heads.

    Returns
    -------
    list of list of heads
        Empty if there are too few others.
    """
    layers = sorted({layer for layer, _ in heads})
    pools, wanted = [[head for head in all_heads if head not in heads]], [len(heads)]
    if matched:
        pools = [[head for head in pools[0] if head[0] == layer] for layer in layers]
        wanted = [sum(head[0] == layer for head in heads) for layer in layers]
    total = prod(comb(len(pool), n) for pool, n in zip(pools, wanted, strict=True))
    if not heads or total == 0:
        return []
    if len(pools) == 1 and total <= most:
        return [list(chosen) for chosen in combinations(pools[0], wanted[0])]
    found: dict[frozenset[Head], None] = {}
    while len(found) < min(total, most):
        drawn = [
            pool[i] for pool, n in zip(pools, wanted, strict=True) for i in rng.choice(len(pool), n, replace=False)
        ]
        found.setdefault(frozenset(drawn))
    return [sorted(one) for one in found]
