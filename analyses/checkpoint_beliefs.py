"""Belief probes of a checkpoint whose process is known."""

from __future__ import annotations

import math
from typing import Any

from nextlens.analyses.belief_geometry import BeliefGeometry, belief_geometry
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.models.hooked import Hooked
from nextlens.models.processes import Process

#: Words are listed if there are no more than this, and sampled otherwise.
LISTED, SAMPLED, LONGEST = 20_000, 2_000, 16
CERTAIN = "every prefix is listed, so none is left to chance"
OTHER_SEEDS = "what another seed of training would give, one checkpoint cannot tell"


def belief_section(
    model: Hooked, process: Process | None, context: int | None
) -> tuple[dict[str, Any], BeliefGeometry | None]:
    """R² of the belief by site, held out by prefix, beside the untrained twin, the shuffle and token nulls."""
    if process is None:
        return {"left_out": "no process was named, so there are no beliefs to compare with"}, None
    if not hasattr(model, "untrained"):
        return {"left_out": f"a {type(model).__name__} has no untrained twin to stand beside it"}, None
    most = int(math.log(LISTED) / math.log(max(process.n_tokens, 2)))
    length = min(context or LONGEST, max(most, 4), LONGEST)
    listed = length <= most
    prefixes = Prefixes.of(process, length, n_words=None if listed else SAMPLED)
    found = belief_geometry(model, model.untrained(), prefixes)
    scores = found.scores.r2
    numbers = {
        "unit": "R², pooled over states",
        "process": process.name,
        "parameters": {name: float(value) for name, value in process.parameters.items()},
        "sites": [str(site) for site in scores.site.values],
        "r2": {str(name): scores.sel(predictor=name).values.tolist() for name in scores.predictor.values},
        "nulls": {str(name): float(found.nulls.r2.sel(null=name)) for name in found.nulls.null.values},
        "protocol": {key: value for key, value in found.scores.attrs.items() if isinstance(value, str | int | float)},
        "prefixes": len(prefixes),
        "longest_prefix": length,
        "interval": f"none: {CERTAIN if prefixes.listed else 'one sample of words'}; {OTHER_SEEDS}",
    }
    return numbers, found
