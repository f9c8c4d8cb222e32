"""The protocol of "quantum and post-quantum" belief geometry, arXiv 2507.07432: in sample, all layers at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.sites import layers, probed_sites, side_by_side
from nextlens.models.hooked import Hooked
from nextlens.models.recording import record
from nextlens.probes.geometry import pairwise_r2
from nextlens.probes.samples import pair
from nextlens.probes.truncated import CUTOFFS, truncated_least_squares

#: Folds that choose the cut-off.
FOLDS = 10
#: Rows between which cosines are taken; of more, so many are drawn.
COSINE_ROWS = 4096


def all_layers(
    model: Hooked, prefixes: Prefixes, sites: Sequence[str] | None = None, *, one_scale: bool = False
) -> xr.DataArray:
    """What passes through several sites after each prefix, side by side: dims (sample, feature).

    Parameters
    ----------
    model : Hooked
    prefixes : Prefixes
    sites : sequence of str, optional
        Those of :func:`~nextlens.analyses.sites.layers` if None.
    one_scale : bool, default=False
        Divide each site by one number, so that its features have variance 1 on average, by weight: no site
        counts for more because its numbers are larger. A site that does not vary stays as it is.

    Raises
    ------
    ValueError
        If a site does not exist or is named twice.
    """
    names = layers(model) if sites is None else probed_sites(model, sites)
    recorded = record(model, prefixes.batch, names, where=prefixes.first, chunk=512)
    return side_by_side(recorded, prefixes.weights if one_scale else None)


def quantum2025(
    model: Hooked,
    prefixes: Prefixes,
    targets: xr.DataArray | None = None,
    sites: Sequence[str] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """How well all layers together give a target by least squares, fitted and scored on the same prefixes.

    Every distinct prefix is a row, at its last position, weighted by its probability; the pseudo-inverse is
    truncated where 10-fold cross-validation over rows is best
    (:func:`~nextlens.probes.truncated.truncated_least_squares`). Riechers et al., arXiv 2507.07432.

    Parameters
    ----------
    model : Hooked
    prefixes : Prefixes
    targets : DataArray, dims (sample, any one), optional
        Labelled like the beliefs of ``prefixes``, which are taken if None.
    sites : sequence of str, optional
        Those of :func:`~nextlens.analyses.sites.layers` if None.
    seed : int, default=0
        Of the folds, and of the rows between which cosines are taken if there are more than 4,096.

    Returns
    -------
    xarray.Dataset
        ``r2``, ``mse`` and its root ``rmse``; ``held_out_mse`` of the cut-off chosen, over the folds that chose
        it; ``cosine_r2``, the squared correlation over pairs of rows between the cosine of two targets and that
        of their two predictions, each distinct prefix alike, and ``weighted_cosine_r2`` with pairs weighted
        by probability; ``cutoff`` and ``rank``; and ``prediction`` over (sample, state). Attributes say
        the protocol: all but ``held_out_mse`` are in sample.

    Raises
    ------
    ValueError
        If a site does not exist, targets are not labelled like the prefixes or one is 0, which has no
        cosine, or there are fewer rows than folds.
    """
    return truncated_fit(all_layers(model, prefixes, sites), prefixes, targets, seed)


def truncated_fit(
    activations: xr.DataArray, prefixes: Prefixes, targets: xr.DataArray | None = None, seed: int = 0
) -> xr.Dataset:
    """:func:`quantum2025` of activations at hand, dims (sample, feature)."""
    targets = prefixes.beliefs if targets is None else targets
    X, Y, _ = pair(activations, targets, groups="prefix")
    fit = truncated_least_squares(X, Y, prefixes.weights, n_splits=FOLDS, seed=seed)
    chosen = int(np.flatnonzero(np.equal(CUTOFFS, fit.cutoff))[0])
    numbers = {
        "r2": fit.r2,
        "mse": fit.mse,
        "rmse": fit.rmse,
        "held_out_mse": float(fit.errors[chosen]),
        "cosine_r2": cosine_r2(Y, fit.prediction, seed=seed),
        "weighted_cosine_r2": cosine_r2(Y, fit.prediction, prefixes.weights, seed=seed),
        "cutoff": fit.cutoff,
        "rank": fit.rank,
    }
    return xr.Dataset(
        {**numbers, "prediction": (("sample", "state"), fit.prediction)},
        coords={name: at for name, at in targets.coords.items() if at.dims == ("sample",)},
        attrs={
            "protocol": "quantum2025",
            "in_sample": fit.in_sample,
            "rows": len(X),
            "features": X.shape[1],
            "weights": "probability of the prefix",
            "folds": f"{FOLDS}, by prefix, for the cut-off alone",
            "cosines": f"between {min(len(X), COSINE_ROWS)} of {len(X)} prefixes",
            "seed": seed,
        },
    )


def cosine_r2(truth: np.ndarray, guess: np.ndarray, weights: np.ndarray | None = None, *, seed: int = 0) -> float:
    """Squared correlation of the cosines between rows of ``truth`` and between those of ``guess``.

    Over all pairs of rows; of more than 4,096 rows, over those of as many drawn at random.
    """
    few = {} if len(truth) <= COSINE_ROWS else {"n_rows": COSINE_ROWS, "rng": np.random.default_rng(seed)}
    return pairwise_r2(truth, guess, weights, metric="cosine", **few)
