"""Scores of a checkpoint's heads on random tokens said twice, with intervals over draws of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nextlens.analyses.induction_heads import FOUND, head_scores
from nextlens.analyses.intervals import student_interval
from nextlens.models.hooked import Hooked

SHOWN = ("prefix matching", "previous token", "duplicate token", "copying")
DRAWS, SEQUENCES, BLOCK, LEAST_BLOCK = 4, 8, 24, 4
#: Heads named for each score.
NAMED = 5


def head_section(model: Hooked, context: int | None, first: int | None) -> dict[str, Any]:
    """Prefix-matching, previous-token, duplicate-token and copying scores of every head, beside chance."""
    room = 2 * BLOCK if context is None else context - (first is not None)
    block = min(BLOCK, room // 2)
    if block < LEAST_BLOCK:
        return {"left_out": f"a context of {context} tokens does not hold {2 * LEAST_BLOCK} tokens"}
    try:
        draws = [
            head_scores(model, block=block, n_sequences=SEQUENCES, first=first, scores=SHOWN, rng=rng)
            for rng in map(np.random.default_rng, range(DRAWS))
        ]
    except ValueError as error:
        return {"left_out": str(error)}
    one = draws[0]
    names = one.score.values.tolist()
    mean, half = student_interval(np.stack([draw.value.values for draw in draws]))
    chance = np.mean([draw.chance.values for draw in draws], axis=0)
    thresholds = np.maximum(FOUND, 2 * chance)
    layers = one.layer.values.tolist()
    return {
        "unit": "share of attention; copying: share of what is added to logits",
        "layers": layers,
        "scores": {name: mean[i].tolist() for i, name in enumerate(names)},
        "half_interval_95": {name: half[i].tolist() for i, name in enumerate(names)},
        "chance": dict(zip(names, chance.tolist(), strict=True)),
        "best": {name: _best(mean[i], half[i], layers) for i, name in enumerate(names)},
        "thresholds": dict(zip(names, thresholds.tolist(), strict=True)),
        "above_threshold": dict(zip(names, (mean >= thresholds[:, None, None]).sum((1, 2)).tolist(), strict=True)),
        "tokens": one.attrs["tokens"],
        "interval": f"95 %, Student's t over {DRAWS} draws of {SEQUENCES} sequences",
    }


def _best(mean: np.ndarray, half: np.ndarray, layers: list[int]) -> list[dict[str, Any]]:
    order = np.argsort(-mean, axis=None)[:NAMED]
    places = [divmod(int(i), mean.shape[1]) for i in order]
    return [
        {"layer": layers[i], "head": j, "value": float(mean[i, j]), "half_interval_95": float(half[i, j])}
        for i, j in places
    ]
