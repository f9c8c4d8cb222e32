"""Do activations look like the minimal generator's beliefs, or like a classical memory of the last tokens?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.quantum2025 import all_layers, cosine_r2, truncated_fit
from nextlens.models.arguments import at_least
from nextlens.models.hooked import Hooked
from nextlens.models.processes.constructions import markov
from nextlens.models.recording import beliefs, labelled
from nextlens.probes.belief import HeldOut, InSample, held_out, in_sample
from nextlens.probes.controls import last_tokens, next_token_features, shuffled
from nextlens.probes.ridge import ordinary_least_squares
from nextlens.probes.samples import pair

GENERATOR, MARKOV = RIVALS = ("minimal generator", "Markov")
#: What is read off activations. Each of the first two is for the most part an affine function of the other;
#: the last two are what remains of each without that part.
TARGETS = (GENERATOR, MARKOV, f"{GENERATOR} beyond {MARKOV}", f"{MARKOV} beyond {GENERATOR}")
SCORES = ("r2", "mse", "rmse", "cosine_r2")
TWIN = "untrained twin"


def rival_targets(prefixes: Prefixes, order: int = 3) -> dict[str, xr.DataArray]:
    """What each of :data:`TARGETS` is after every prefix, dims (sample, state).

    ``minimal generator`` is the belief over the process' own states: a vector of 3 or 4 numbers. ``Markov``
    is the belief of the classical process that remembers ``order`` tokens
    (:func:`~nextlens.models.processes.constructions.markov`): a probability for each word of ``order`` tokens,
    8 to 64 numbers for the published processes, and certain once ``order`` tokens have been read. So the two
    differ in dimensions as well as in kind, and a score of the one is not a score of the other. Each is in large
    part an affine function of the other: what remains without it, by weighted least squares with an
    intercept on these very prefixes, are the last two targets.

    Raises
    ------
    ValueError
        If ``order`` is below 1, or has too many words.
    """
    at_least("order", order, 1)
    generator = prefixes.beliefs
    memory = beliefs(markov(prefixes.process, order), prefixes.batch, where=prefixes.first)
    residuals = [_without(one, other, prefixes.weights) for one, other in ((generator, memory), (memory, generator))]
    return dict(zip(TARGETS, (generator, memory, *residuals), strict=True))


def minimal_generators(
    model: Hooked,
    twin: Hooked,
    prefixes: Prefixes,
    *,
    order: int = 3,
    sites: Sequence[str] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Held-out scores of the minimal generator and of its classical rival, each beside its nulls.

    Ridge probes of all layers at once (each site divided by one number, so that its features have variance 1 on
    average), five folds of prefixes, rows weighted by probability, the penalty from inner folds.

    Parameters
    ----------
    model, twin : Hooked
        The twin is the same configuration, never trained.
    prefixes : Prefixes
    order : int, default=3
        Tokens that the rival remembers.
    sites : sequence of str, optional
        Those of :func:`~nextlens.analyses.sites.layers` if None.
    seed : int, default=0
        Of folds, shuffle, and rows between which cosines are taken.

    Returns
    -------
    xarray.Dataset
        ``r2``, ``mse``, ``rmse`` and ``cosine_r2`` (squared correlation, over pairs of prefixes weighted by
        probability, of the cosines between targets and between predictions) over (target, predictor), the
        targets of :data:`TARGETS`; ``dimensions`` over target: its numbers; ``reading`` and
        ``untrained_reading`` over (sample, state): what is read of the minimal generator.

    Notes
    -----
    What is ``beyond`` the other rival is read off activations from which the other has been taken too, so that
    the score is a partial R²: of what the rival leaves unsaid of the target, the share that activations add.
    (Read off activations as they are, it would be small even for activations that are the target.) It is 0
    for activations that hold nothing but the rival, and 1 where they hold the target besides.

    The predictors are "probe", "untrained twin" and "shuffle"; and of those that see no activations, "last k
    tokens" (exact means, not held out) up to the ``order`` and one more, "next-token law" and "its logarithm"
    (exact, affine). Where the next-token law scores 1 the generator's belief is an affine function of it, and
    belief and next token cannot be told apart; the last ``order`` tokens score 1 on the rival by construction.

    Raises
    ------
    ValueError
        If ``order`` is below 1, a site does not exist, or an activation is not finite.
    """
    targets = rival_targets(prefixes, order)
    acts = {name: all_layers(m, prefixes, sites, one_scale=True) for name, m in (("probe", model), (TWIN, twin))}
    known = dict(zip(TARGETS, (None, None, targets[MARKOV], targets[GENERATOR]), strict=True))
    read = {
        (name, on): _held_out(_without(seen, known[on], prefixes.weights), targets[on], prefixes, seed)
        for on in targets
        for name, seen in acts.items()
    }
    found = dict(read)
    for on in RIVALS:
        found["shuffle", on] = _shuffle(acts["probe"], targets[on], prefixes, seed)
        found |= {(name, on): fit for name, fit in _blind(targets[on], prefixes, order, seed).items()}
    predictors = list(dict.fromkeys(name for name, _ in found))
    return xr.Dataset(
        {
            **_table(found, targets, predictors, prefixes, seed),
            "dimensions": ("target", [targets[on].shape[1] for on in TARGETS]),
            "reading": (("sample", "state"), read["probe", GENERATOR].prediction),
            "untrained_reading": (("sample", "state"), read[TWIN, GENERATOR].prediction),
        },
        coords={"target": list(TARGETS), "predictor": predictors},
        attrs={
            "protocol": "held-out",
            "in_sample": False,
            "residuals": "what is beyond another target is found in sample, then held out",
            "rows": len(prefixes),
            "listed": prefixes.listed,
            "weights": "probability of the prefix",
            "folds": "5, by prefix; penalty by nested folds",
            "features": int(acts["probe"].shape[1]),
            "order": order,
            "last tokens": "exact means of the target given the last tokens; not held out",
            "seed": seed,
        },
    )


def published_scores(
    model: Hooked,
    twin: Hooked,
    prefixes: Prefixes,
    *,
    order: int = 3,
    sites: Sequence[str] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """The two rivals by the published protocol, :func:`~nextlens.analyses.quantum2025.quantum2025`.

    Returns
    -------
    xarray.Dataset
        Its numbers over (target, predictor): "minimal generator" and "Markov", read off "probe" (the model) and
        "untrained twin". All are in sample, but for ``held_out_mse``.

    Raises
    ------
    ValueError
        As :func:`minimal_generators`.
    """
    targets = rival_targets(prefixes, order)
    fits = {}
    for name, each in (("probe", model), (TWIN, twin)):
        activations = all_layers(each, prefixes, sites)
        for target in RIVALS:
            fits[target, name] = truncated_fit(activations, prefixes, targets[target], seed)
    numbers = [name for name in fits[GENERATOR, "probe"] if name != "prediction"]
    return xr.Dataset(
        {
            name: (
                ("target", "predictor"),
                [[float(fits[target, each][name]) for each in ("probe", TWIN)] for target in RIVALS],
            )
            for name in numbers
        },
        coords={"target": list(RIVALS), "predictor": ["probe", TWIN]},
        attrs={**fits[GENERATOR, "probe"].attrs, "listed": prefixes.listed, "order": order},
    )


def _table(
    found: Mapping[tuple[str, str], HeldOut | InSample],
    targets: Mapping[str, xr.DataArray],
    predictors: Sequence[str],
    prefixes: Prefixes,
    seed: int,
) -> dict[str, tuple[tuple[str, str], np.ndarray]]:
    """Every score over (target, predictor); NaN where a predictor was not asked for a target."""
    tables = {score: np.full((len(TARGETS), len(predictors)), np.nan) for score in SCORES}
    for (name, on), fit in found.items():
        cell = TARGETS.index(on), predictors.index(name)
        for score in ("r2", "mse", "rmse"):
            tables[score][cell] = getattr(fit, score)
        if on in RIVALS and name != "shuffle":
            cosines = cosine_r2(targets[on].values, fit.prediction, prefixes.weights, seed=seed)
            tables["cosine_r2"][cell] = cosines
    return {score: (("target", "predictor"), values) for score, values in tables.items()}


def _held_out(activations: xr.DataArray, target: xr.DataArray, prefixes: Prefixes, seed: int) -> HeldOut:
    X, Y, groups = pair(activations, target, groups="prefix")
    return held_out(X, Y, groups, weights=prefixes.weights, seed=seed)


def _shuffle(activations: xr.DataArray, target: xr.DataArray, prefixes: Prefixes, seed: int) -> HeldOut:
    """The same probe of targets permuted among prefixes of equal length."""
    permuted = shuffled(target.values, prefixes.position, np.random.default_rng(seed))
    return _held_out(activations, target.copy(data=permuted), prefixes, seed)


def _blind(target: xr.DataArray, prefixes: Prefixes, order: int, seed: int) -> dict[str, HeldOut | InSample]:
    """Predictors that see tokens or exact next-token laws, but no activations."""
    found: dict[str, HeldOut | InSample] = {}
    tokens = labelled(prefixes.batch.tokens.numpy(), prefixes.batch)
    for k in range(1, order + 2):
        if prefixes.process.n_tokens**k > len(prefixes) // 10:
            break
        design = labelled(last_tokens(tokens, k).values, prefixes.batch, "feature", where=prefixes.first)
        X, Y, _ = pair(design, target)
        found[f"last {k} token{'s' * (k > 1)}"] = in_sample(X, Y, weights=prefixes.weights)
    said = prefixes.log_probs(prefixes.process)
    law = xr.DataArray(said, dims=("sample", "feature"), coords=prefixes.beliefs.coords)
    found["next-token law"] = _held_out(next_token_features(law), target, prefixes, seed)
    found["its logarithm"] = _held_out(next_token_features(law, log=True), target, prefixes, seed)
    return found


def _without(target: xr.DataArray, other: xr.DataArray | None, weights: np.ndarray) -> xr.DataArray:
    """What an affine map of ``other`` does not say of ``target``; all of it if None."""
    if other is None:
        return target
    W, c = ordinary_least_squares(other.values, target.values, weights)
    return target.copy(data=target.values - other.values @ W - c)
