"""Induction heads: which heads of a model are they, and how much does it learn from its context?

Heads of any checkpoint are scored, on random tokens said twice. Whether a model needs those found is asked in
:mod:`nextlens.analyses.head_ablation`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.analyses.head_weights import HeadWeights, head_weights
from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.objectives.next_token import next_token
from nextlens.models.recording import device_of
from nextlens.models.tasks import RepeatedTokens
from nextlens.probes import attention

#: A head, by layer and place in it.
Head = tuple[int, int]

#: Scores read off patterns alone; those in :data:`CHANCE` take the weights too.
PATTERN_SCORES = ("prefix matching", "previous token", "duplicate token")

#: The prefix-matching score from which a head is called an induction head, and likewise a previous-token head.
FOUND = 0.3

#: What random circuits score, by the number of tokens.
CHANCE: dict[str, Callable[[int], float]] = {
    "copying": lambda n_tokens: 1 / n_tokens,
    "OV eigenvalues": lambda n_tokens: 0.0,
    "OV positive share": lambda n_tokens: 0.5,
    "OV largest is itself": lambda n_tokens: 1 / n_tokens,
    "QK eigenvalues": lambda n_tokens: 0.0,
    "QK positive share": lambda n_tokens: 0.5,
    "QK through previous-token head": lambda n_tokens: 0.0,
}

#: All of them; those after copying are of circuits from tokens to tokens, and of weights alone.
SCORES = (*PATTERN_SCORES, *CHANCE)

#: Of a larger vocabulary as many tokens are drawn, for sequences and circuits alike.
MOST_TOKENS = 4096
#: Rows of the OV circuit that are looked at one by one.
MOST_ROWS = 256
#: Sequences read at a time.
CHUNK = 256


@torch.no_grad()
def head_scores(
    model: Hooked,
    *,
    block: int = 24,
    n_sequences: int = 8,
    first: int | None = None,
    scores: Sequence[str] = SCORES,
    rng: np.random.Generator,
) -> xr.Dataset:
    """Scores of every head on random tokens said twice, beside what chance gives.

    ``block`` tokens drawn uniformly are said twice, so that nothing but the sequence itself tells what
    comes next. Prefix matching, previous token, duplicate token and copying are defined in
    :mod:`nextlens.probes.attention`; copying counts the head's own output, as the unembedding reads it.
    Eigenvalue scores are of the circuits from tokens to tokens that :mod:`~nextlens.analyses.head_weights`
    describes; "QK through previous-token head" reads keys through the head of an earlier layer that scores
    highest as a previous-token head, and is 0 in the first layer, which has none.

    Parameters
    ----------
    model : Hooked
        Any with ``blocks.i.attn.hook_pattern``: ours, a bridge, a checkpoint of someone else's.
    block, n_sequences : int
        ``2 * block`` tokens, and ``first`` if given, must fit into the model's context.
    first : int, optional
        A token to begin every sequence with, such as a beginning-of-text token; it counts in no score
        but as something to look at.
    scores : sequence of str
        Which of :data:`SCORES`; those of circuits take most of the time of a large model.
    rng : numpy.random.Generator

    Returns
    -------
    xarray.Dataset
        ``value`` (score, layer, head) and ``chance`` (score): looking everywhere alike for patterns, random
        circuits for weights. Without the scores of weights if the model's, or its ``hook_z``, are not known by name.

    Raises
    ------
    ValueError
        If the model has no attention patterns or not equally many heads in each layer, ``block`` is below
        2, ``n_sequences`` below 1, ``first`` no token or ``scores`` none; also as the model does.
    """
    wanted = [one_of("scores", name, SCORES) for name in scores]
    at_least("how many scores", len(wanted), 1)
    at_least("block", block, 2)
    at_least("n_sequences", n_sequences, 1)
    if first is not None:
        between("first", first, 0, model.n_tokens - 1)
    layers = attention_layers(model)
    places, known = _said_twice(model.n_tokens, block, n_sequences, first, rng)
    tokens = known[places]
    weighed = set(wanted) - set(PATTERN_SCORES) and all(f"blocks.{i}.attn.hook_z" in model.sites for i in layers)
    seen = attention_values(model, tokens, layers, ("pattern", "z") if weighed else ("pattern",))
    looked = [seen[layer, "pattern"].float().cpu().numpy() for layer in layers]
    if len({one.shape[1] for one in looked}) > 1:
        raise ValueError(f"model has {[one.shape[1] for one in looked]} heads in its layers; they must be equally many")
    keys = (attention.followers(tokens), attention.previous(tokens), attention.duplicates(tokens))
    values = {n: [attention.attention_to(one, k) for one in looked] for n, k in zip(PATTERN_SCORES, keys, strict=True)}
    even = attention.uniform_causal(*tokens.shape)
    chance = {n: float(attention.attention_to(even, k)[0]) for n, k in zip(PATTERN_SCORES, keys, strict=True)}
    if weighed:
        weights = (head_weights(model, layer, known) for layer in layers)
        outputs = [seen[layer, "z"] for layer in layers]
        values |= _weight_scores(weights, wanted, places, looked, outputs, values["previous token"])
    values = {name: values[name] for name in wanted if name in values}
    return xr.Dataset(
        {
            "value": (("score", "layer", "head"), np.array(list(values.values()), dtype=float)),
            "chance": ("score", [chance[name] if name in chance else CHANCE[name](len(known)) for name in values]),
        },
        coords={"score": list(values), "layer": layers, "head": np.arange(looked[0].shape[1])},
        attrs={
            "tokens": f"{block} random tokens of {len(known)}, said twice",
            "sequences": n_sequences,
            "first": "nothing" if first is None else f"token {first}",
            "chance": "looking everywhere alike; random circuits",
        },
    )


def _said_twice(
    n_tokens: int, block: int, n_sequences: int, first: int | None, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "sequence position"], Int[np.ndarray, " known"]]:
    """Sequences as places in a list of tokens, and that list: all, or as many as are drawn."""
    others = np.arange(n_tokens) if first is None else np.delete(np.arange(n_tokens), first)
    known = others if len(others) <= MOST_TOKENS else np.sort(rng.choice(others, MOST_TOKENS, replace=False))
    places = np.tile(rng.integers(len(known), size=(n_sequences, block)), (1, 2))
    if first is None:
        return places, known
    return np.pad(places, ((0, 0), (1, 0)), constant_values=len(known)), np.append(known, first)


def attention_values(
    model: Hooked, tokens: Int[np.ndarray, "sequence position"], layers: Sequence[int], parts: Sequence[str]
) -> dict[tuple[int, str], Tensor]:
    """Values of attention, by layer and name, when exactly these tokens are read."""
    sites = {(layer, part): f"blocks.{layer}.attn.hook_{part}" for layer in layers for part in parts}
    batch = Batch.from_tokens(np.pad(tokens, ((0, 0), (0, 1))))
    with model.watched(*sites.values()) as seen:
        model(batch.to(device_of(model, batch)))
    return {key: seen[site] for key, site in sites.items()}


def _weight_scores(
    weights: Iterable[HeadWeights | None],
    wanted: Sequence[str],
    places: Int[np.ndarray, "sequence position"],
    patterns: Sequence[Float[np.ndarray, "sequence head query key"]],
    outputs: Sequence[Tensor],
    previous: Sequence[Float[np.ndarray, " head"]],
) -> dict[str, list[Float[np.ndarray, " head"]]]:
    """Copying and the scores of circuits, as far as they are wanted, each a list over layers.

    Nothing if the weights of a layer are not known. Those of all layers are in memory at once only for circuits.
    """
    copying, kept, circuits = [], [], set(wanted) - {*PATTERN_SCORES, "copying"}
    for one, pattern, z in zip(weights, patterns, outputs, strict=True):
        if one is None:
            return {}
        if "copying" in wanted:
            copying.append(attention.copying(pattern, places, one.raised(z)))
        if circuits:
            kept.append(one)
    return {"copying": copying} | (_circuit_scores(kept, previous) if circuits else {})


def _circuit_scores(
    weights: Sequence[HeadWeights], previous: Sequence[Float[np.ndarray, " head"]]
) -> dict[str, list[Float[np.ndarray, " head"]]]:
    """Scores of weights, each a list over layers."""
    rows = min(MOST_ROWS, len(weights[0].embed))
    through = [np.zeros(len(previous[0]))]
    for layer in range(1, len(weights)):
        shifting = max(range(layer), key=lambda earlier: previous[earlier].max())
        circuits = weights[layer].composed_qk(weights[shifting], int(previous[shifting].argmax()))
        through.append(attention.eigenvalue_score(circuits))
    ov, qk = [one.ov for one in weights], [one.qk for one in weights]
    return {
        "OV eigenvalues": [attention.eigenvalue_score(one) for one in ov],
        "OV positive share": [attention.positive_share(one) for one in ov],
        "OV largest is itself": [attention.largest_is_itself(one.ov_rows(rows), np.arange(rows)) for one in weights],
        "QK eigenvalues": [attention.eigenvalue_score(one) for one in qk],
        "QK positive share": [attention.positive_share(one) for one in qk],
        "QK through previous-token head": through,
    }


def attention_layers(model: Hooked) -> list[int]:
    """Layers with an attention pattern.

    Raises
    ------
    ValueError
        If there are none.
    """
    found = [re.fullmatch(r"blocks\.(\d+)\.attn\.hook_pattern", site) for site in model.sites]
    layers = [int(one[1]) for one in found if one]
    if not layers:
        raise ValueError("model has no site blocks.i.attn.hook_pattern: it has no attention, or does not show it")
    return layers


def found_heads(scores: xr.Dataset, score: str = "prefix matching", threshold: float = FOUND) -> list[Head]:
    """Heads that score ``threshold`` or more, the highest first.

    Examples
    --------
    >>> value = xr.DataArray([[[0.1, 0.9], [0.4, 0.2]]], dims=("score", "layer", "head"))
    >>> found_heads(xr.Dataset({"value": value.assign_coords(score=["copying"], layer=[0, 1])}), "copying")
    [(0, 1), (1, 0)]
    """
    values = scores.value.sel(score=score)
    order = np.argsort(-values.values, axis=None, kind="stable")
    places = zip(*np.unravel_index(order, values.shape), strict=True)
    return [(int(values.layer[i]), int(j)) for i, j in places if float(values[i, j]) >= threshold]


@torch.no_grad()
def loss_by_position(model: Hooked, tokens: Int[np.ndarray, "sequence position"]) -> Float[np.ndarray, " target"]:
    """Mean over sequences of the loss at each position, in nats; entry t is that of ``tokens[:, t + 1]``."""
    batch = Batch.from_tokens(tokens)
    parts = [batch[start : start + CHUNK].to(device_of(model, batch)) for start in range(0, len(batch), CHUNK)]
    return np.concatenate([next_token(model, part).double().cpu().numpy() for part in parts]).mean(0)


def in_context_score(loss: Float[np.ndarray, " target"]) -> float:
    """Olsson et al. 2022: the loss of a late token minus that of an early one, so that learning is below 0.

    They take the 500th and the 50th of 512; here it is those at the same share of the context. A shift of
    one sign alone; see :func:`in_context_gain` for the other, and for windows in place of single tokens.

    Raises
    ------
    ValueError
        If there are fewer than 11 positions: then both are the same or the first.
    """
    at_least("positions of loss", len(loss), 11)
    early, late = (round(share / 512 * len(loss)) - 1 for share in (50, 500))
    return float(loss[late] - loss[early])


def in_context_gain(loss: Float[np.ndarray, " target"], task: RepeatedTokens) -> float:
    """Mean loss where nothing can have come before, minus that where everything has: above 0 is learning.

    Early are the targets within the shortest block, late those beyond the longest.

    Raises
    ------
    ValueError
        If the loss does not reach beyond the longest block, or the shortest has one token only.
    """
    at_least("task.shortest", task.shortest, 2)
    at_least("positions of loss", len(loss), task.longest)
    return float(loss[: task.shortest - 1].mean() - loss[task.longest - 1 :].mean())
