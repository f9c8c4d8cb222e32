"""When, in training, does the belief appear?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Int

from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.models.arguments import at_least
from nextlens.models.hooked import Hooked
from nextlens.models.recording import record
from nextlens.probes.belief import held_out
from nextlens.probes.samples import pair

#: What is followed.
FOLLOWED = ("loss_over_optimum", "r2", "mse")
#: Where a run stood: ``step`` and ``tokens`` that lie behind, and what is followed.
Moment = dict[str, float | int]


def measured_after(steps: int, per_decade: int = 8) -> Int[np.ndarray, " moment"]:
    """How many steps lie behind each moment of measuring: none, then evenly on a log scale up to ``steps``.

    Examples
    --------
    >>> measured_after(1000, per_decade=2).tolist()
    [0, 1, 3, 10, 32, 100, 316, 1000]
    """
    at_least("steps", steps, 1)
    at_least("per_decade", per_decade, 1)
    n = int(np.ceil(np.log10(steps) * per_decade)) + 1
    return np.unique(np.r_[0, np.geomspace(1, steps, n).round().astype(int)])


def snapshots_after(steps: int) -> tuple[int, int, int]:
    """Early, middle and late: thirds of the way on a log scale.

    Examples
    --------
    >>> snapshots_after(1000)
    (10, 100, 1000)
    """
    at_least("steps", steps, 1)
    return round(steps ** (1 / 3)), round(steps ** (2 / 3)), steps


def emergence_at(model: Hooked, prefixes: Prefixes, site: str) -> dict[str, float]:
    """Loss over its optimum, and the held-out score of a belief probe at one site, at this moment.

    Both are over the same prefixes: sampled ones (``Prefixes.of(process, n_ctx, n_words=2000)``) are
    quick, and enough to follow a run.
    """
    acts = record(model, prefixes.batch, [site], where=prefixes.first)
    X, Y, groups = pair(acts[site], prefixes.beliefs, groups="prefix")
    probe = held_out(X, Y, groups, weights=prefixes.weights)
    return {
        "loss_over_optimum": excess_loss(model, prefixes).attrs["loss_over_optimum"],
        "r2": probe.r2,
        "mse": probe.mse,
    }


def emergence(curves: Mapping[int, Sequence[Moment]]) -> xr.Dataset:
    """Curves of several seeds as one data set.

    Parameters
    ----------
    curves : mapping from seed to moments
        Each moment holds ``step``, ``tokens`` and what :func:`emergence_at` gives.

    Returns
    -------
    xarray.Dataset
        ``loss_over_optimum``, ``r2`` and ``mse`` over (seed, step), with ``tokens`` along step.

    Raises
    ------
    ValueError
        If there is no curve, or seeds were measured at different steps.
    """
    if not curves:
        raise ValueError("curves is empty; it must hold the moments of at least one seed")
    steps = {seed: [int(moment["step"]) for moment in curve] for seed, curve in curves.items()}
    reference, first = next(iter(steps.items()))
    for seed, measured in steps.items():
        if measured != first:
            raise ValueError(
                f"curves: seed {seed} was measured after {measured} steps, and seed {reference} after {first}; "
                "they must agree"
            )
    values = {name: [[moment[name] for moment in curve] for curve in curves.values()] for name in FOLLOWED}
    tokens = [moment["tokens"] for moment in curves[reference]]
    return xr.Dataset(
        {name: (("seed", "step"), np.array(value)) for name, value in values.items()},
        coords={"seed": list(curves), "step": first, "tokens": ("step", tokens)},
        attrs={"in_sample": False, "rows": "prefixes of sampled words, weighted by how often they occur"},
    )
