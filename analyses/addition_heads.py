"""What adds and what carries: heads of a model with coupled positions, found, opened and ablated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import RidgeClassifier

from nextlens.analyses.addition_lengths import right_tokens
from nextlens.models.hooked import Hooked
from nextlens.models.tasks.addition import Addition
from nextlens.models.tasks.prompted import batch_of
from nextlens.probes.attention import attention_to, uniform_causal

#: The two patterns that the paper found in trained models (arXiv:2405.20671, §5.1).
PATTERNS = ("same id", "previous id")


def pattern_keys(drawn: xr.Dataset) -> dict[str, Bool[np.ndarray, "sequence query key"]]:
    """Where the two patterns look from where a digit of the sum is said.

    ``same id``: the digits of the operands that have the id of the digit to be said, whose sum it is without carry.
    ``previous id``: the three digits, of the operands and of the sum, that have the id below: they say what is carried.
    Queries are the tokens read when a digit of the sum is said; others have no key.
    """
    tokens, places = drawn.tokens.values[:, :-1], drawn.positions.values
    said = drawn.answer.values[:, 1:] & (drawn.tokens.values[:, 1:] < 10)
    wanted = places[:, 1:]
    operand = (tokens < 10) & ~drawn.answer.values[:, :-1]
    numeral = tokens < 10
    past = np.tril(np.ones((tokens.shape[1],) * 2, dtype=bool))
    same = said[:, :, None] & operand[:, None, :] & (places[:, None, :-1] == wanted[:, :, None])
    before = said[:, :, None] & numeral[:, None, :] & (places[:, None, :-1] == wanted[:, :, None] - 1) & past
    return dict(zip(PATTERNS, (same, before), strict=True))


@torch.no_grad()
def head_patterns(
    model: Hooked, task: Addition, rng: np.random.Generator, *, digits: int, start: int = 1, n: int = 64
) -> xr.Dataset:
    """How much of its attention each head puts on each of the two patterns.

    Returns
    -------
    xr.Dataset
        ``mass`` (pattern, layer, head), the mean over the digits of sums that have such keys; ``chance`` (pattern), of
        a head that looks at all it may see alike.
    """
    drawn = task.draw(n, rng, digits=digits, start=start)
    keys = pattern_keys(drawn)
    patterns = _patterns(model, drawn)
    mass = [[attention_to(one, keys[name]) for one in patterns] for name in PATTERNS]
    uniform = uniform_causal(n, drawn.sizes["position"] - 1)
    chance = [float(attention_to(uniform, keys[name])[0]) for name in PATTERNS]
    return xr.Dataset(
        {"mass": (("pattern", "layer", "head"), np.array(mass)), "chance": ("pattern", chance)},
        coords={"pattern": list(PATTERNS)},
    )


def _patterns(model: Hooked, drawn: xr.Dataset) -> list[Float[np.ndarray, "sequence head query key"]]:
    sites = [f"blocks.{layer}.attn.pattern" for layer in range(model.config.n_layers)]
    with torch.no_grad(), model.watched(*sites) as seen:
        model(batch_of(drawn).to(model.device))
    return [seen[site].cpu().double().numpy() for site in sites]


def one_sum(model: Hooked, task: Addition, heads: Mapping[str, tuple[int, int]], drawn: xr.Dataset) -> xr.Dataset:
    """Where some heads look while they say the digits of one sum.

    Returns
    -------
    xr.Dataset
        ``attention`` and ``expected`` (pattern, said, read): attention of the head of each pattern, and its keys. The
        coordinates ``said`` and ``read`` count; ``digit`` (said) and ``token`` (read) are what they spell.
    """
    one = drawn.isel(sequence=[0])
    tokens = one.tokens.values[0]
    rows = np.flatnonzero(one.answer.values[0, 1:] & (tokens[1:] < 10))
    keys, patterns = pattern_keys(one), _patterns(model, one)
    attention = np.stack([patterns[layer][0, head][rows] for layer, head in heads.values()])
    expected = np.stack([keys[name][0][rows] for name in heads])
    spelled = [task.spelled(tokens[i : i + 1]) for i in range(len(tokens))]
    return xr.Dataset(
        {
            "attention": (("pattern", "said", "read"), attention),
            "expected": (("pattern", "said", "read"), expected),
            "digit": ("said", [spelled[row + 1] for row in rows]),
            "token": ("read", spelled[:-1]),
        },
        coords={"pattern": list(heads)},
    )


def best_heads(scores: xr.Dataset) -> dict[str, tuple[int, int]]:
    """The layer and head of each pattern with the most attention on it."""
    found = {}
    for name in scores.pattern.values:
        mass = scores.mass.sel(pattern=name).values
        layer, head = np.unravel_index(int(mass.argmax()), mass.shape)
        found[str(name)] = (int(layer), int(head))
    return found


def carry_probes(
    model: Hooked,
    task: Addition,
    rng: np.random.Generator,
    *,
    fitted: int,
    tested: Sequence[int],
    start: int = 1,
    n: int = 300,
) -> xr.Dataset:
    """Is what is carried into a digit of the sum linear in the state from which the digit is said?

    Returns
    -------
    xr.Dataset
        ``accuracy`` (site, digits): of a ridge classifier fitted on sums of ``fitted`` digits, on fresh sums of each
        length ``tested``; ``majority`` (digits): of always answering the more frequent.
    """
    sites = [
        "embed",
        *(f"blocks.{i}.{part}" for i in range(model.config.n_layers) for part in ("resid_mid", "resid_post")),
    ]
    states, carry = _states(model, task.draw(n, rng, digits=fitted, start=start), sites)
    probes = {site: RidgeClassifier(alpha=1.0).fit(states[site], carry) for site in sites}
    accuracy, majority = [], []
    for digits in tested:
        states, carry = _states(model, task.draw(n, rng, digits=digits, start=start), sites)
        accuracy.append([float(probes[site].score(states[site], carry)) for site in sites])
        majority.append(float(max(carry.mean(), 1 - carry.mean())))
    return xr.Dataset(
        {"accuracy": (("digits", "site"), np.array(accuracy)), "majority": ("digits", majority)},
        coords={"digits": list(tested), "site": sites},
    ).transpose("site", "digits")


def _states(
    model: Hooked, drawn: xr.Dataset, sites: list[str]
) -> tuple[dict[str, Float[np.ndarray, "digit width"]], Int[np.ndarray, " digit"]]:
    """Where digits are said into which something could be carried: all but the first."""
    asked = drawn.significance.values[:, 1:] > 0
    asked &= drawn.answer.values[:, 1:]
    with torch.no_grad(), model.watched(*sites) as seen:
        model(batch_of(drawn).to(model.device))
    return {site: seen[site].cpu().numpy()[asked] for site in sites}, drawn.carry.values[:, 1:][asked]


def without_heads(
    model: Hooked,
    task: Addition,
    heads: Mapping[str, Sequence[tuple[int, int]]],
    rng: np.random.Generator,
    *,
    digits: int,
    start: int = 1,
    n: int = 300,
) -> xr.Dataset:
    """How many digits of sums are still right if heads give what they give on average, where that digit is said.

    Parameters
    ----------
    model : Hooked
    task : Addition
    heads : mapping of str to sequence of (layer, head)
        What is ablated together, by name.
    rng : Generator
    digits, start, n : int
        Of the sums; means are over as many others.

    Returns
    -------
    xr.Dataset
        ``token`` (ablated, carry): the share of digits right after true ones, by whether 0 or 1 is carried into them;
        ``nothing`` is ablated first.
    """
    reference, drawn = (task.draw(n, rng, digits=digits, start=start) for _ in range(2))
    means = _mean_outputs(model, reference)
    numeral = drawn.significance.values[:, 1:] > 0
    numeral &= drawn.answer.values[:, 1:]
    carry = drawn.carry.values[:, 1:]
    rows = []
    for ablated in ({"nothing": ()} | dict(heads)).values():
        with ExitStack() as edits:
            for layer in sorted({layer for layer, _ in ablated}):
                own = [head for at, head in ablated if at == layer]
                edit = partial(_averaged, heads=own, mean=means[layer])
                edits.enter_context(model.edited(f"blocks.{layer}.attn.z", edit))
            right = right_tokens(model, drawn)[0].cpu().numpy()
        rows.append([float(right[numeral & (carry == value)].mean()) for value in (0, 1)])
    return xr.Dataset(
        {"token": (("ablated", "carry"), np.array(rows))}, coords={"ablated": ["nothing", *heads], "carry": [0, 1]}
    )


def _mean_outputs(model: Hooked, drawn: xr.Dataset) -> list[Float[torch.Tensor, "time head d_head"]]:
    sites = [f"blocks.{layer}.attn.z" for layer in range(model.config.n_layers)]
    with torch.no_grad(), model.watched(*sites) as seen:
        model(batch_of(drawn).to(model.device))
    return [seen[site].mean(0) for site in sites]


def _averaged(
    z: Float[torch.Tensor, "batch time head d_head"],
    heads: list[int],
    mean: Float[torch.Tensor, "time head d_head"],
) -> Float[torch.Tensor, "batch time head d_head"]:
    z = z.clone()
    z[:, :, heads] = mean[:, heads]
    return z
