"""Scores of belief edits: means over pairs of contexts, shares recovered, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.intervals import student_interval
from nextlens.models.arguments import at_least


def edit_scores(found: xr.Dataset, rng: np.random.Generator, *, n_resamples: int = 1000) -> xr.Dataset:
    """Means over pairs, with 95 % intervals by resampling pairs.

    Parameters
    ----------
    found : xarray.Dataset
        From ``belief_edit`` or ``penalty_sweep`` of :mod:`nextlens.analyses.belief_edit`.
    rng : numpy.random.Generator
    n_resamples : int, default=1000

    Returns
    -------
    xarray.Dataset
        Over the dimensions of ``found`` without ``pair``: ``kl``; ``recovered``, the share of the
        untouched model's KL that an edit takes away, ``1 - KL_edit / KL_none`` with both averaged first,
        below 0 if it does harm and 0 if there was nothing to take away; and ``kl_interval`` and
        ``recovered_interval`` over ``bound`` ("low", "high").

    Raises
    ------
    ValueError
        If a KL is infinite: the model forbids what must be able to follow.
    """
    kl = found.kl.transpose(..., "edit", "pair")
    if not np.isfinite(kl.values).all():
        raise ValueError("kl holds infinite values: after some edit the model forbids a token that must be possible")
    n = kl.sizes["pair"]
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=int(at_least("n_resamples", n_resamples, 1))).T / n
    none = list(kl.edit.values).index("none")
    dims, bounds = kl.dims[:-1], {"bound": ["low", "high"]}
    scores = {}
    for name, measure in (("kl", lambda means: means), ("recovered", lambda means: _recovered(means, none))):
        mean, resampled = measure(kl.values.mean(-1, keepdims=True)), measure(kl.values @ drawn)
        scores[name] = (dims, mean[..., 0])
        scores[f"{name}_interval"] = ((*dims, "bound"), np.moveaxis(np.quantile(resampled, (0.025, 0.975), -1), 0, -1))
    kept = found.drop_vars("kl").assign(scores).assign_coords(bounds)
    return kept.assign_attrs(interval="95 %, by resampling pairs")


def mean_of_seeds(scores: Mapping[int, xr.Dataset]) -> xr.Dataset:
    """Means over models of several seeds, with 95 % intervals by Student's t.

    Parameters
    ----------
    scores : mapping from seed to what :func:`edit_scores` gives

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    at_least("the number of seeds", len(scores), 2)
    plain = [one.drop_dims("bound") for one in scores.values()]
    joined = xr.concat(plain, xr.Variable("seed", list(scores)), combine_attrs="override")
    found = {}
    for name, values in joined.data_vars.items():
        mean, half = student_interval(values.transpose("seed", ...).values)
        dims = tuple(dim for dim in values.dims if dim != "seed")
        found[name] = (dims, mean, values.attrs)
        found[f"{name}_interval"] = ((*dims, "bound"), np.stack([mean - half, mean + half], axis=-1), values.attrs)
    coords = {name: one for name, one in joined.coords.items() if "seed" not in one.dims}
    attrs = {**joined.attrs, "interval": "95 %, by Student's t over seeds", "seeds": list(scores)}
    return xr.Dataset(found, {**coords, "bound": ["low", "high"]}, attrs)


def _recovered(means: Float[np.ndarray, "*any edit sample"], none: int) -> Float[np.ndarray, "*any edit sample"]:
    untouched = np.broadcast_to(means[..., none : none + 1, :], means.shape)
    return 1.0 - np.divide(means, untouched, out=np.ones_like(means), where=untouched > 0)
