"""Does one attention layer hold a belief that was built by addition, and the block's end the belief itself?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.prefix_rows import Prefixes
from nextlens.models.arguments import between, one_of
from nextlens.models.hooked import Hooked, canonical_site
from nextlens.models.processes.constrained import constrained_beliefs
from nextlens.models.recording import labelled, record
from nextlens.probes.belief import held_out, in_sample
from nextlens.probes.controls import shuffled
from nextlens.probes.ridge import ordinary_least_squares, r2
from nextlens.probes.samples import pair

#: Where a block of one layer is read: tokens, after attention, after the MLP, and what is unembedded.
EMBED, MID, POST, FINAL = SITES = (
    "hook_embed",
    "blocks.0.hook_resid_mid",
    "blocks.0.hook_resid_post",
    "ln_final.hook_normalized",
)
#: ``r_1`` and the belief tell nearly the same of a prefix; the last two are what each tells beyond the other.
TARGETS = ("r_1", "belief", "r_1 beyond belief", "belief beyond r_1")
PREDICTORS = ("probe", "untrained twin", "shuffle")
#: Principal components that the paper keeps of each site.
PAPER_COMPONENTS = 3
#: Shorter prefixes are not probed. The 3 of one token hold a tenth of all weight and their own position, so that a
#: fold without one of them says nothing of it; and there ``r_1`` and the belief are the same.
SHORTEST = 3
#: A variance that is rounding.
NO_VARIANCE = 1e-20
#: By what the variance of activations is explained.
EXPLANATIONS = ("r_1", "belief", "both")
#: How the rows of :func:`affine_control` may count.
WEIGHTINGS = {
    "probability": "each prefix once, by its probability, lengths alike",
    "prefix": "each prefix once, all alike",
    "word": "each prefix as often as a word of full length begins with it",
}


def at_least_tokens(prefixes: Prefixes, shortest: int = SHORTEST) -> Prefixes:
    """The prefixes of ``shortest`` tokens or more; each length still has the same weight.

    Raises
    ------
    ValueError
        If ``shortest`` is below 1, or there are no prefixes so long.
    """
    between("shortest", shortest, 1, prefixes.n_ctx)
    kept = prefixes.position >= shortest - 1
    weights = prefixes.weights[kept]
    long = prefixes.first & (np.arange(prefixes.n_ctx) >= shortest - 1)
    return replace(prefixes, first=long, weights=weights / weights.sum())


def targets(prefixes: Prefixes, *, form: str = "bayes") -> dict[str, xr.DataArray]:
    """What is sought in the activations: :data:`TARGETS` by name, dims (sample, state).

    "a beyond b" is a less its affine fit by b (least squares over these prefixes, by their weights): the part
    of a that no affine function of b tells. A site that holds b alone scores 0 on it; one that holds a alone
    scores the share of a that it is; only one that holds both scores near 1.
    """
    tokens = prefixes.batch.tokens.numpy()
    r_1 = labelled(
        constrained_beliefs(prefixes.process, tokens, form=form), prefixes.batch, "state", where=prefixes.first
    )
    belief = prefixes.beliefs
    return {
        "r_1": r_1,
        "belief": belief,
        "r_1 beyond belief": _beyond(r_1, belief, prefixes.weights),
        "belief beyond r_1": _beyond(belief, r_1, prefixes.weights),
    }


def _beyond(one: xr.DataArray, other: xr.DataArray, weights: Float[np.ndarray, " sample"]) -> xr.DataArray:
    W, c = ordinary_least_squares(other.values, one.values, weights)
    return one.copy(data=one.values - other.values @ W - c)


def affine_control(prefixes: Prefixes) -> xr.Dataset:
    """R² of the belief from an affine map of ``r_1``, and back, without any model.

    Where it is near 1, that a site matches the one says that it matches the other.

    Returns
    -------
    xarray.Dataset
        ``r2`` over (direction, weighting), weightings as in :data:`WEIGHTINGS`; fitted and scored on the
        same rows, which for three numbers a row and thousands of rows is no matter.
    """
    sought = targets(prefixes)
    r_1, belief = sought["r_1"].values, sought["belief"].values
    weights = {
        "probability": prefixes.weights,
        "prefix": np.ones(len(prefixes)),
        "word": prefixes.extensions.astype(float),
    }
    pairs = {"r_1 -> belief": (r_1, belief), "belief -> r_1": (belief, r_1)}
    found = [[in_sample(x, y, weights=weights[name]).r2 for name in WEIGHTINGS] for x, y in pairs.values()]
    return xr.Dataset(
        {"r2": (("direction", "weighting"), found)},
        coords={"direction": list(pairs), "weighting": list(WEIGHTINGS)},
        attrs={"in_sample": True, "rows": len(prefixes), "longest": prefixes.n_ctx, **WEIGHTINGS},
    )


class Reading(NamedTuple):
    """What a held-out probe says of each prefix, and its R²."""

    prediction: Float[np.ndarray, "sample state"]
    r2: float


@dataclass(frozen=True, eq=False)
class ConstrainedBeliefs:
    """What is read of ``r_1`` and of the belief in one model, by site.

    Attributes
    ----------
    scores : xarray.Dataset
        ``r2`` over (site, target, predictor), held out; attributes say the protocol.
    variance : xarray.Dataset
        ``r2`` over (site, model, explained_by): how much of the variance of the activations, within each
        position, is an affine function of ``r_1``, of the belief, and of both.
    paper2025 : xarray.Dataset
        ``r2`` over (site, target, model) from three principal components, in sample and unweighted, and the
        share of ``variance`` that they hold, over (site, model).
    r_1, belief : Float[np.ndarray, "sample state"]
        Exact.
    read_r_1, read_belief : Float[np.ndarray, "sample state"]
        What held-out probes read of each at ``blocks.0.hook_resid_mid`` and ``blocks.0.hook_resid_post``.
    weights : Float[np.ndarray, " sample"]
    """

    scores: xr.Dataset
    variance: xr.Dataset
    paper2025: xr.Dataset
    r_1: Float[np.ndarray, "sample state"]
    belief: Float[np.ndarray, "sample state"]
    read_r_1: Float[np.ndarray, "sample state"]
    read_belief: Float[np.ndarray, "sample state"]
    weights: Float[np.ndarray, " sample"]

    def left(self, site: str, target: str, predictor: str = "probe") -> float:
        """What a probe leaves of ``r_1`` or the belief, over what the exact other one leaves of it.

        0 where the site holds the target, 1 where it might as well hold the other.
        """
        other = {"r_1": self.belief, "belief": self.r_1}[one_of("target", target, TARGETS[:2])]
        exact = {"r_1": self.r_1, "belief": self.belief}[target]
        unknown = 1 - in_sample(other, exact, weights=self.weights).r2
        return (1 - self.r2(site, target, predictor)) / unknown

    def r2(self, site: str, target: str, predictor: str = "probe") -> float:
        """One of the held-out scores."""
        return float(self.scores.r2.sel(site=canonical_site(site, SITES), target=target, predictor=predictor))


def constrained_geometry(
    model: Hooked, twin: Hooked, prefixes: Prefixes, *, seed: int = 0, progress: bool = False
) -> ConstrainedBeliefs:
    """Probe the sites of a one-layer transformer for ``r_1``, for the belief, and for what each tells beyond the other.

    The claim (arXiv:2502.01954) is that the residual stream after attention holds ``r_1`` and that the MLP
    makes the belief of it. The two are near affine functions of each other, so that each must be scored
    on what the other does not tell.

    Parameters
    ----------
    model, twin : Hooked
        The twin is the same configuration, never trained: ``model.untrained()``.
    prefixes : Prefixes
    seed : int, default=0
        Of the folds and the shuffle.
    progress : bool, default=False

    Raises
    ------
    ValueError
        If the model lacks one of :data:`SITES`, an activation is not finite, or there are no prefixes of
        :data:`SHORTEST` tokens.
    """
    everything, prefixes = prefixes, at_least_tokens(prefixes)
    sought, long = targets(prefixes), everything.position >= SHORTEST - 1
    all_acts = {
        name: record(one, everything.batch, SITES, where=everything.first, chunk=512, progress=progress)
        for name, one in (("probe", model), ("untrained twin", twin))
    }
    acts = {name: one.isel(sample=long) for name, one in all_acts.items()}
    rng = np.random.default_rng(seed)
    permuted = {name: one.copy(data=shuffled(one.values, prefixes.position, rng)) for name, one in sought.items()}
    read = {
        "probe": _read(acts["probe"], sought, prefixes, seed),
        "untrained twin": _read(acts["untrained twin"], sought, prefixes, seed),
        "shuffle": _read(acts["probe"], permuted, prefixes, seed),
    }
    found = [[[read[who][site, name].r2 for who in PREDICTORS] for name in TARGETS] for site in SITES]
    scores = xr.Dataset(
        {"r2": (("site", "target", "predictor"), found)},
        coords={"site": list(SITES), "target": list(TARGETS), "predictor": list(PREDICTORS)},
        attrs={
            "protocol": "held-out",
            "in_sample": False,
            "residuals": "what is beyond another target is found in sample, then held out",
            "rows": len(prefixes),
            "weights": "probability of the prefix",
            "folds": "5, by prefix; penalty by nested folds, one for r_1 and belief, one for what is beyond",
            "fold_seed": seed,
            "shortest": SHORTEST,
        },
    )
    return ConstrainedBeliefs(
        scores,
        _variance(acts, sought, prefixes),
        _paper2025(all_acts, targets(everything)),
        sought["r_1"].values,
        sought["belief"].values,
        read["probe"][MID, "r_1"].prediction,
        read["probe"][POST, "belief"].prediction,
        prefixes.weights,
    )


def _read(
    acts: xr.Dataset, sought: Mapping[str, xr.DataArray], prefixes: Prefixes, seed: int
) -> dict[tuple[str, str], Reading]:
    """Held-out readings of every target at every site; whole targets share a penalty, and what is beyond too."""
    scale = {name: _spread(one.values, prefixes.weights) for name, one in sought.items()}
    found = {}
    for site in SITES:
        for pair_of in (TARGETS[:2], TARGETS[2:]):
            together = xr.concat([sought[name] / scale[name] for name in pair_of], "state")
            X, Y, groups = pair(acts[site], together, groups="prefix")
            prediction = held_out(X, Y, groups, weights=prefixes.weights, seed=seed).prediction
            for name, guess in zip(pair_of, np.split(prediction, 2, axis=1), strict=True):
                guess = guess * scale[name]
                found[site, name] = Reading(guess, r2(sought[name].values, guess, prefixes.weights))
    return found


def _spread(values: Float[np.ndarray, "sample state"], weights: Float[np.ndarray, " sample"]) -> float:
    """Root of the variance, summed over components; 1 where there is none."""
    variance = (weights @ (values - weights @ values / weights.sum()) ** 2).sum() / weights.sum()
    return float(np.sqrt(variance)) if variance > NO_VARIANCE else 1.0


def _variance(acts: Mapping[str, xr.Dataset], sought: Mapping[str, xr.DataArray], prefixes: Prefixes) -> xr.Dataset:
    """The other direction: activations from targets. A site is what explains its variance, not all that can be read."""
    r_1, belief = (_within(sought[name].values, prefixes) for name in EXPLANATIONS[:2])
    inputs = {"r_1": r_1, "belief": belief, "both": np.hstack([r_1, belief])}
    about = [[_within(one[site].values, prefixes) for one in acts.values()] for site in SITES]
    found = [[[in_sample(x, X, weights=prefixes.weights).r2 for x in inputs.values()] for X in row] for row in about]
    return xr.Dataset(
        {"r2": (("site", "model", "explained_by"), found)},
        coords={"site": list(SITES), "model": list(acts), "explained_by": list(inputs)},
        attrs={
            "protocol": "least squares of activations, about their mean at each position",
            "in_sample": True,
            "rows": len(prefixes),
            "weights": "probability of the prefix",
        },
    )


def _within(values: Float[np.ndarray, "sample feature"], prefixes: Prefixes) -> Float[np.ndarray, "sample feature"]:
    """Rows less the weighted mean of those at the same position."""
    moved = values.astype(np.float64)
    for t in np.unique(prefixes.position):
        rows = prefixes.position == t
        moved[rows] -= np.average(moved[rows], axis=0, weights=prefixes.weights[rows])
    return moved


def _paper2025(acts: Mapping[str, xr.Dataset], sought: Mapping[str, xr.DataArray]) -> xr.Dataset:
    """The protocol of arXiv:2502.01954: three principal components of a site, least squares, no weights, in sample."""
    components = {(name, site): principal(one[site].values) for name, one in acts.items() for site in SITES}
    found = [
        [[in_sample(components[who, site][0], sought[name].values).r2 for who in acts] for name in TARGETS]
        for site in SITES
    ]
    variance = [[components[who, site][1] for who in acts] for site in SITES]
    return xr.Dataset(
        {"r2": (("site", "target", "model"), found), "variance": (("site", "model"), variance)},
        coords={"site": list(SITES), "target": list(TARGETS), "model": list(acts)},
        attrs={
            "protocol": "paper2025",
            "in_sample": True,
            "rows": len(sought["r_1"]),
            "weights": "none",
            "components": PAPER_COMPONENTS,
        },
    )


def principal(
    X: Float[np.ndarray, "sample feature"], n_components: int = PAPER_COMPONENTS
) -> tuple[Float[np.ndarray, "sample component"], float]:
    """Rows on their first principal components, and the share of the variance that these hold."""
    centred = X.astype(np.float64) - X.mean(0, dtype=np.float64)
    variance, directions = np.linalg.eigh(centred.T @ centred)
    kept = slice(-1, -1 - n_components, -1)
    return centred @ directions[:, kept], float(variance[kept].sum() / variance.sum())
