"""Is the belief spread over layers, or does one layer seem to lack it because few rows were fitted by many features?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.belief_geometry import PAIRED_ROWS
from nextlens.analyses.belief_protocols import Scorer
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.sites import side_by_side
from nextlens.models.hooked import Hooked
from nextlens.models.recording import record
from nextlens.probes.controls import random_features
from nextlens.probes.geometry import pairwise_r2, principal_subspace

#: How the same features are scored, from what was published to what asks most.
READINGS: dict[str, dict[str, Any]] = {
    "in sample": {"protocol": "paper2024"},
    "by prefix": {},
    "by prefix, unweighted": {"weighted": False},
    "by suffix": {"folds": "suffix"},
    "by belief": {"folds": "belief"},
}
#: All sites side by side; and as many of their principal components as one site is wide.
ALL, RANK_MATCHED = "all sites", "all sites, rank of one"
#: Features that know nothing, as many as all sites have.
NOISE = "noise"


def layers_and_all(model: Hooked) -> list[str]:
    """The six sites of figure 7E of Shai et al. 2024: embedding, every block, and after the final norm."""
    last = [site for site in model.sites if site == "ln_final.hook_normalized"]
    return [s for s in model.sites if s == "hook_embed" or s.endswith("hook_resid_post")] + last


def spread_over_layers(
    model: Hooked,
    twin: Hooked,
    prefixes: Prefixes,
    *,
    sites: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """The belief read off each site, off all of them side by side, and off as few of their directions as one has.

    If the belief were spread over layers, all sites together would give more of it than any one, on
    prefixes, and at belief states, that the probe has not seen; and so would as many principal
    components of all sites as one site has features. In sample, more features are always better: the
    twin and the noise say by how much.

    Parameters
    ----------
    model, twin : Hooked
        The twin is ``model.untrained()``.
    prefixes : Prefixes
    sites : sequence of str, optional
        :func:`layers_and_all` if None.
    seed : int, default=0
        Of the folds, the noise, and the rows drawn for pairs.
    progress : bool, default=False

    Returns
    -------
    xarray.Dataset
        ``r2``, ``mse``, and the squared correlations of distances ``pairs_belief`` and ``pairs_next_token``
        (between what is read and the exact beliefs, or the exact next-token laws), over (model, reading,
        features). Readings are the keys of :data:`READINGS`; in sample only if every word is listed. Pairs
        are of repeated rows in sample, as published, and otherwise weighted; NaN where not computed, as
        for the suffix and unweighted readings.

    Raises
    ------
    ValueError
        If a site does not exist, or an activation is not finite.
    """
    sites = layers_and_all(model) if sites is None else list(sites)
    scorers = {name: Scorer(prefixes, seed=seed, **rules) for name, rules in _readings(prefixes).items()}
    table = []
    for who in (model, twin):
        recorded = record(who, prefixes.batch, sites, where=prefixes.first, chunk=512, progress=progress)
        features = {**{site: recorded[site] for site in sites}, **all_sites(recorded, prefixes)}
        features[NOISE] = _noise(features[ALL], seed)
        table.append(
            [
                [_scored(one, score, prefixes, name, seed) for one in features.values()]
                for name, score in scorers.items()
            ]
        )
    values, dims = np.array(table), ("model", "reading", "features")
    return xr.Dataset(
        {measure: (dims, values[..., i]) for i, measure in enumerate(MEASURES)},
        coords={"model": ["trained", "untrained"], "reading": list(scorers), "features": list(features)},
        attrs={
            "process": prefixes.process.name,
            "context": prefixes.n_ctx,
            "rows": len(prefixes),
            "n_features": f"{recorded[sites[0]].shape[1]} a site, {len(sites)} sites",
            **{f"protocol of {name}": str(score.attributes) for name, score in scorers.items()},
        },
    )


MEASURES = ("r2", "mse", "pairs_belief", "pairs_next_token")


def blind(prefixes: Prefixes, *, seed: int = 0) -> xr.DataArray:
    """R² over (reading, null) of predictors that see no activations: last tokens, Markov-3 beliefs, exact next laws.

    The last tokens are exact conditional means whatever the reading; the others follow its rules.
    """
    scorers = {name: Scorer(prefixes, seed=seed, **rules) for name, rules in _readings(prefixes).items()}
    found = [score.nulls(prefixes.process).r2 for score in scorers.values()]
    joined = xr.concat(found, xr.Variable("reading", list(scorers)), combine_attrs="drop")
    return joined.sel(null=[name for name in joined.null.values if "model's own" not in name])


def next_token_pairs(prefixes: Prefixes, seed: int = 0) -> dict[str, float]:
    """How far the exact next-token laws alone keep the distances between beliefs: in sample (repeated) and weighted."""
    guess = prefixes.next_token
    return {name: _pairs(prefixes.beliefs.values, guess, prefixes, name, seed) for name in ("in sample", "by prefix")}


def _readings(prefixes: Prefixes) -> Mapping[str, dict[str, Any]]:
    return {name: rules for name, rules in READINGS.items() if prefixes.listed or "protocol" not in rules}


def _scored(
    features: xr.DataArray, score: Scorer, prefixes: Prefixes, reading: str, seed: int
) -> tuple[float, float, float, float]:
    found = score(features)
    if reading not in ("in sample", "by prefix"):
        return found.r2, found.mse, np.nan, np.nan
    truths = (prefixes.beliefs.values, prefixes.next_token)
    return found.r2, found.mse, *(_pairs(truth, found.prediction, prefixes, reading, seed) for truth in truths)


def _pairs(
    truth: Float[np.ndarray, "sample target"],
    guess: Float[np.ndarray, "sample guessed"],
    prefixes: Prefixes,
    reading: str,
    seed: int,
) -> float:
    share = {"counts": prefixes.extensions} if reading == "in sample" else {"weights": prefixes.weights}
    return pairwise_r2(truth, guess, **share, n_rows=PAIRED_ROWS, rng=np.random.default_rng(seed))


def all_sites(recorded: xr.Dataset, prefixes: Prefixes) -> dict[str, xr.DataArray]:
    """All sites, and their leading principal components; directions are found without looking at beliefs."""
    joined, width = side_by_side(recorded, prefixes.weights), min(recorded[site].shape[1] for site in recorded)
    X = joined.values.astype(np.float64)
    few = X @ principal_subspace(X, width, prefixes.weights)
    return {ALL: joined, RANK_MATCHED: xr.DataArray(few, dims=joined.dims, coords=joined.coords)}


def _noise(like: xr.DataArray, seed: int) -> xr.DataArray:
    return like.copy(data=random_features(*like.shape, np.random.default_rng([seed, 2])))
