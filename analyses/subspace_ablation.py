"""Does a model need the subspace in which a probe reads the belief? Take it away, and see what the loss becomes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.analyses.sites import probed_sites
from nextlens.models.arguments import at_least
from nextlens.models.hooked import Edit, Hooked
from nextlens.models.recording import record
from nextlens.probes.belief import BeliefProbe
from nextlens.probes.edits import mean_ablated, random_span, span
from nextlens.probes.ridge import moments
from nextlens.probes.samples import pair

#: What is replaced by its mean.
SUBSPACES = {
    "read": "what the probe reads: the span of its weights W",
    "along covariance": "how the activations move with what it reads: the span of ΣW",
    "random": "as many dimensions, drawn at random",
}


def subspace_ablation(
    model: Hooked,
    prefixes: Prefixes,
    *,
    sites: Sequence[str] | None = None,
    n_random: int = 8,
    rng: np.random.Generator,
) -> xr.Dataset:
    """Replace a subspace of one site by its mean, at every position, and measure the next-token loss.

    A weakly penalised probe reads directions in which activations hardly vary, and which the network may
    not: that their loss costs nothing says little. So the subspace along which activations vary with
    the reading is taken away too.

    Parameters
    ----------
    model : Hooked
    prefixes : Prefixes
        On which probe and means are fitted, weighted by probability, and the loss is measured; some
        thousand sampled words are enough.
    sites : sequence of str, optional
        The embedding and every block's ``hook_resid_post`` if None.
    n_random : int, default=8
        Random subspaces at each site.
    rng : numpy.random.Generator
        For them.

    Returns
    -------
    xarray.Dataset
        ``increase`` over (site, subspace), nats: the loss with the subspace of :data:`SUBSPACES` ablated,
        less the untouched loss; for "random" the mean, with ``random_increase`` over (site, draw) beside
        it. ``variance`` over (site, subspace): the share of the activations' variance within; random
        directions hold little. ``rank`` over site: how many dimensions. Attribute ``loss``: untouched.

    Raises
    ------
    ValueError
        If a site does not exist, or ``n_random`` is below 1.
    """
    at_least("n_random", n_random, 1)
    sites, untouched = probed_sites(model, sites), _loss(model, prefixes)
    acts = record(model, prefixes.batch, sites, where=prefixes.first)
    ranks, variances, increases = [], [], []
    for site in sites:
        X, Y, groups = pair(acts[site], prefixes.beliefs, groups="prefix")
        probe = BeliefProbe().fit(X, Y, groups=groups, sample_weight=prefixes.weights)
        fitted = moments(X, Y, prefixes.weights)
        read, along = span(probe.coef_.T), span(fitted.xx @ probe.coef_.T)
        drawn = [random_span(X.shape[1], along.shape[1], rng) for _ in range(n_random)]
        bases = (read, along, *drawn)
        ranks.append(along.shape[1])
        variances.append([np.einsum("fr,fg,gr->", basis, fitted.xx, basis) / np.trace(fitted.xx) for basis in bases])
        increases.append([])
        for basis in bases:
            with model.edited(site, _ablation(fitted.mean_x, basis)):
                increases[-1].append(_loss(model, prefixes) - untouched)
    return xr.Dataset(
        {
            "increase": (("site", "subspace"), _by_subspace(increases), {"units": "nat"}),
            "random_increase": (("site", "draw"), np.array(increases)[:, 2:], {"units": "nat"}),
            "variance": (("site", "subspace"), _by_subspace(variances)),
            "rank": ("site", ranks),
        },
        coords={"site": sites, "subspace": list(SUBSPACES)},
        attrs={"process": prefixes.process.name, "loss": untouched, "units": "nat", "rows": len(prefixes)},
    )


def _by_subspace(values: Sequence[Sequence[float]]) -> Float[np.ndarray, "site 3"]:
    """The random subspaces, which come last, as their mean."""
    each = np.array(values)
    return np.column_stack([each[:, :2], each[:, 2:].mean(1)])


def _loss(model: Hooked, prefixes: Prefixes) -> float:
    return float(excess_loss(model, prefixes).loss.mean())


def _ablation(mean: Float[np.ndarray, " feature"], basis: Float[np.ndarray, "feature rank"]) -> Edit:
    def edit(value: Tensor) -> Tensor:
        rows = value.detach().cpu().double().flatten(0, 1).flatten(1).numpy()
        return torch.from_numpy(mean_ablated(rows, mean, basis)).to(value).reshape(value.shape)

    return edit
