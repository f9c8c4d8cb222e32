"""Does a model of independent factors keep their beliefs apart, in directions of their own, or as one product?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TypedDict

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.factored_prefixes import SHARE, FactoredPrefixes, loss_over_optimum
from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked, canonical_site
from nextlens.models.processes import FactoredProcess
from nextlens.models.recording import record
from nextlens.probes.belief import held_out, in_sample
from nextlens.probes.controls import last_tokens, next_token_features, shuffled
from nextlens.probes.geometry import STILL, dimensions_at, principal_subspace, subspace_overlap, variance_spectrum
from nextlens.probes.ridge import r2

PREDICTORS = ("probe", "probe of 95 %", "untrained twin", "shuffle")
#: How many of its own last tokens the memory of a factor's null holds, at most.
REMEMBERED = 3


def representation(
    model: Hooked,
    twin: Hooked,
    prefixes: FactoredPrefixes,
    sites: Sequence[str],
    *,
    seed: int = 0,
) -> xr.Dataset:
    """How many dimensions activations fill, and what of the factors and of their product can be read.

    Parameters
    ----------
    model, twin : Hooked
        The twin is the same configuration, never trained.
    prefixes : FactoredPrefixes
    sites : sequence of str
    seed : int, default=0
        Of the folds and the shuffle.

    Returns
    -------
    xarray.Dataset
        ``variance`` over (site, model, component), descending; ``dimensions`` over (site, model), the
        components that hold 95 % of it; ``r2`` over (site, target, predictor), held out by prefix, targets as in
        :attr:`FactoredPrefixes.targets`. "probe of 95 %" is given those components alone: what is read by
        "probe" and not by it lies where activations hardly vary. Attributes say the protocol.
    """
    sites = [canonical_site(site, model.sites) for site in sites]
    acts = {
        who: record(one, prefixes.batch, sites, where=prefixes.first, chunk=512)
        for who, one in (("trained", model), ("untrained twin", twin))
    }
    moved = _shuffled_targets(prefixes, seed)
    variance = [[variance_spectrum(acts[who][site].values, prefixes.weights) for who in acts] for site in sites]
    scores = []
    for site in sites:
        X, Z = acts["trained"][site].values, acts["untrained twin"][site].values
        few, sought = _principal_part(X, prefixes.weights), prefixes.targets
        read = {"probe": (X, sought), "probe of 95 %": (few, sought)}
        read |= {"untrained twin": (Z, sought), "shuffle": (X, moved)}
        scores.append(
            [
                [_held_out_r2(rows, wanted[name], prefixes, seed) for rows, wanted in map(read.get, PREDICTORS)]
                for name in sought
            ]
        )
    return xr.Dataset(
        {
            "variance": (("site", "model", "component"), variance),
            "dimensions": (("site", "model"), [[dimensions_at(one, SHARE) for one in row] for row in variance]),
            "r2": (("site", "target", "predictor"), scores),
        },
        coords={
            "site": sites,
            "model": list(acts),
            "target": list(prefixes.targets),
            "predictor": list(PREDICTORS),
        },
        attrs={
            "share": SHARE,
            "in_sample": False,
            "residuals": "what is beyond another target is found in sample, then held out",
            "rows": len(prefixes),
            "weights": "how often a sampled word had the prefix",
            "folds": "5, by prefix; penalty by nested folds",
            "fold_seed": seed,
        },
    )


def blind_r2(prefixes: FactoredPrefixes, *, seed: int = 0) -> xr.Dataset:
    """What predicts each factor's belief without a model: its own last tokens, the logarithm of its own next law.

    And for the joint belief, an affine map of the factors' exact beliefs: what a perfect factored
    representation gives of it.

    Returns
    -------
    xarray.Dataset
        ``r2`` over (target, null) for factors, held out by prefix; attribute ``joint_from_factors``, in sample.
    """
    product = FactoredProcess(prefixes.factors)
    nulls = [*(f"last {k} of its tokens" for k in range(1, REMEMBERED + 1)), "log of its next law"]
    found = []
    for part, factor, belief in zip(
        product.decode(prefixes.words), prefixes.factors, prefixes.beliefs.values(), strict=True
    ):
        tokens = xr.DataArray(part, dims=("sequence", "position"))
        features = [last_tokens(tokens, k).values[prefixes.first] for k in range(1, REMEMBERED + 1)]
        law = factor.next_token(belief)
        features.append(next_token_features(np.log(law.clip(1e-12)), log=True))
        found.append([_held_out_r2(X, belief, prefixes, seed) for X in features])
    ideal = in_sample(prefixes.side_by_side, prefixes.joint, weights=prefixes.weights).r2
    return xr.Dataset(
        {"r2": (("target", "null"), found)},
        coords={"target": prefixes.names, "null": nulls},
        attrs={"joint_from_factors": ideal, "folds": "5, by prefix", "fold_seed": seed},
    )


def freeze_and_vary(
    model: Hooked,
    process: FactoredProcess,
    n_ctx: int,
    site: str,
    rng: np.random.Generator,
    *,
    n_frozen: int = 8,
    n_varied: int = 128,
) -> xr.Dataset:
    """Where activations move when one factor says something else and all others repeat themselves.

    For each factor, ``n_frozen`` words are drawn, and in each the parts of that factor are drawn anew
    ``n_varied`` times. Variances are those within a frozen word and a position, so that neither what the others
    say nor where one stands is counted.

    Returns
    -------
    xarray.Dataset
        ``dimensions`` over factor, for 95 % of the variance; ``union``, that of all factors' covariances
        together, each scaled to the same total; ``overlap`` over (directions, factor, other) of their first
        principal components (:func:`nextlens.probes.geometry.subspace_overlap`), where ``directions`` is
        "first" or "own": one, as published, or one less than the factor has states. Attribute ``random`` holds
        the overlap of random directions.

    Raises
    ------
    ValueError
        If a number is below 1 or ``n_varied`` below 2, or a factor moves nothing.
    """
    for name, value, least in (("n_frozen", n_frozen, 1), ("n_varied", n_varied, 2)):
        at_least(name, value, least)
    names = [f"{k} {factor.name}" for k, factor in enumerate(process.factors)]
    moves = [
        _moved_by(model, process, k, n_ctx, site, rng, n_frozen=n_frozen, n_varied=n_varied) for k in range(len(names))
    ]
    spectra = [variance_spectrum(X) for X in moves]
    for name, one in zip(names, spectra, strict=True):
        if not one.sum() > STILL * max(map(np.sum, spectra)):
            raise ValueError(f"what factor {name!r} says moves nothing at {site!r}; it has no directions")
    scaled = np.concatenate([X / np.sqrt(one.sum()) for X, one in zip(moves, spectra, strict=True)])
    own = [factor.n_states - 1 for factor in process.factors]
    bases = {"first": [principal_subspace(X, 1) for X in moves]}
    bases["own"] = [principal_subspace(X, k) for X, k in zip(moves, own, strict=True)]
    overlap = [[[subspace_overlap(a, b) for b in basis] for a in basis] for basis in bases.values()]
    width = moves[0].shape[1]
    return xr.Dataset(
        {
            "dimensions": ("factor", [dimensions_at(one, SHARE) for one in spectra]),
            "union": dimensions_at(variance_spectrum(scaled), SHARE),
            "overlap": (("directions", "factor", "other"), overlap),
        },
        coords={"factor": names, "other": names, "directions": list(bases)},
        attrs={"site": site, "frozen": n_frozen, "varied": n_varied, "random": [1 / width, max(own) / width]},
    )


class Moment(TypedDict):
    """One look at a model in training."""

    step: int
    tokens: int
    loss_over_optimum: float
    dimensions: int
    r2: dict[str, float]


def moment(model: Hooked, prefixes: FactoredPrefixes, site: str, *, step: int, tokens: int) -> Moment:
    """Loss, dimensions for 95 % of the variance, and every factor's held-out R², at one site."""
    X = record(model, prefixes.batch, [site], where=prefixes.first, chunk=512)[site].values
    truth = prefixes.side_by_side
    guess = held_out(X, truth, np.arange(len(prefixes)), weights=prefixes.weights).prediction
    ends = np.cumsum([factor.n_states for factor in prefixes.factors])[:-1]
    each = zip(prefixes.names, np.split(truth, ends, axis=1), np.split(guess, ends, axis=1), strict=True)
    return {
        "step": step,
        "tokens": tokens,
        "loss_over_optimum": loss_over_optimum(model, prefixes),
        "dimensions": dimensions_at(variance_spectrum(X, prefixes.weights), SHARE),
        "r2": {name: r2(one, read, prefixes.weights) for name, one, read in each},
    }


def mean_overlap(overlap: Float[np.ndarray, "factor factor"]) -> float:
    """Over all pairs of different factors.

    Examples
    --------
    >>> mean_overlap(np.array([[1.0, 0.2], [0.2, 1.0]]))
    0.2
    """
    return float(np.mean([overlap[i, j] for i, j in combinations(range(len(overlap)), 2)]))


def _moved_by(
    model: Hooked,
    process: FactoredProcess,
    k: int,
    n_ctx: int,
    site: str,
    rng: np.random.Generator,
    *,
    n_frozen: int,
    n_varied: int,
) -> Float[np.ndarray, "move feature"]:
    """How activations differ from their mean while only factor ``k`` varies."""
    parts = [np.repeat(part, n_varied, axis=0) for part in process.decode(process.sample(n_frozen, n_ctx, rng))]
    parts[k] = process.factors[k].sample(n_frozen * n_varied, n_ctx, rng)
    batch = Batch.from_tokens(np.pad(process.encode(parts), ((0, 0), (0, 1))))
    X = record(model, batch, [site], chunk=512)[site].values.astype(np.float64)
    X = X.reshape(n_frozen, n_varied, n_ctx, -1)
    return (X - X.mean(axis=1, keepdims=True)).reshape(-1, X.shape[-1])


def _principal_part(
    X: Float[np.ndarray, "sample feature"], weights: Float[np.ndarray, " sample"]
) -> Float[np.ndarray, "sample component"]:
    """The components that hold 95 % of the variance; the first, where nothing varies."""
    k = dimensions_at(variance_spectrum(X, weights), SHARE)
    return X @ principal_subspace(X, k, weights) if k else X[:, :1]


def _shuffled_targets(prefixes: FactoredPrefixes, seed: int) -> Mapping[str, Float[np.ndarray, "sample _"]]:
    rng = np.random.default_rng(seed)
    return {name: shuffled(target, prefixes.position, rng) for name, target in prefixes.targets.items()}


def _held_out_r2(
    X: Float[np.ndarray, "sample feature"],
    Y: Float[np.ndarray, "sample target"],
    prefixes: FactoredPrefixes,
    seed: int,
) -> float:
    return held_out(X, Y, np.arange(len(prefixes)), weights=prefixes.weights, seed=seed).r2
