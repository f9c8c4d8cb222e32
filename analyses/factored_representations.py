"""Does a model of independent factors keep their beliefs apart, in directions of their own, or as one product?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import combinations
from typing import TypedDict

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked, canonical_site
from nextlens.models.kernel import Kernel
from nextlens.models.processes import FactoredProcess, Process
from nextlens.models.recording import device_of, record
from nextlens.probes.belief import held_out, in_sample
from nextlens.probes.controls import last_tokens, next_token_features, shuffled
from nextlens.probes.geometry import STILL, dimensions_at, principal_subspace, subspace_overlap, variance_spectrum
from nextlens.probes.ridge import ordinary_least_squares, r2

#: The share of variance at which dimensions are counted.
SHARE = 0.95
#: What is read beside the factors: the belief over all their states together, and what of it no affine map of
#: the factors' beliefs tells.
JOINT, BEYOND = "joint", "joint beyond factors"
PREDICTORS = ("probe", "untrained twin", "shuffle")
#: How many of its own last tokens the memory of a factor's null holds, at most.
REMEMBERED = 3


@dataclass(frozen=True, eq=False)
class FactoredPrefixes:
    """The distinct prefixes of sampled words, with what an ideal observer believes of every factor.

    Rows come in the order in which ``record`` keeps them with ``where=first``.

    Attributes
    ----------
    process : FactoredProcess or Process
    factors : sequence of Process
        What the tokens and the states of ``process`` are made of, the first most significant.
    batch : Batch
    first : bool array of shape (batch, time)
        The position at which each prefix occurs first.
    weights : Float[np.ndarray, " sample"]
        How often each prefix occurred, over all.
    """

    process: FactoredProcess | Process
    factors: Sequence[Process]
    batch: Batch
    first: Bool[np.ndarray, "batch time"]
    weights: Float[np.ndarray, " sample"]

    @classmethod
    def of(
        cls,
        process: FactoredProcess | Process,
        factors: Sequence[Process],
        n_ctx: int,
        n_words: int,
        rng: np.random.Generator,
    ) -> FactoredPrefixes:
        """The prefixes of ``n_words`` words of ``n_ctx`` tokens.

        Raises
        ------
        ValueError
            If a number is below 1, or the factors' tokens do not multiply to those of the process.
        """
        for name, value in (("n_ctx", n_ctx), ("n_words", n_words)):
            at_least(name, value, 1)
        product = FactoredProcess(factors)
        if product.n_tokens != process.n_tokens:
            raise ValueError(
                f"factors say {product.n_tokens} tokens together; {process.name!r} says {process.n_tokens}"
            )
        words = process.sample(n_words, n_ctx, rng)
        batch = Batch.from_tokens(np.pad(words, ((0, 0), (0, 1))), tree=True)
        first = np.zeros(words.shape, dtype=bool)
        first.flat[batch.tree.first.numpy()] = True
        node = batch.tree.node.numpy()
        counts = np.bincount(node.ravel())[node[first]]
        return cls(process, product.factors, batch, first, counts / counts.sum())

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def words(self) -> Int[np.ndarray, "batch time"]:
        return self.batch.tokens.numpy()

    @cached_property
    def position(self) -> Int[np.ndarray, " sample"]:
        """Index of the last token read."""
        return np.nonzero(self.first)[1]

    @property
    def names(self) -> list[str]:
        """Of the factors: number and process."""
        return [f"{k} {factor.name}" for k, factor in enumerate(self.factors)]

    @cached_property
    def joint(self) -> Float[np.ndarray, "sample joint"]:
        """The exact belief over all combinations of states."""
        ask = self.process.joint_beliefs if isinstance(self.process, FactoredProcess) else self.process.beliefs
        return ask(self.words)[self.first]

    @cached_property
    def beliefs(self) -> dict[str, Float[np.ndarray, "sample _"]]:
        """The exact belief of every factor: the joint one summed over the states of the others."""
        states = [factor.n_states for factor in self.factors]
        joint = self.joint.reshape(-1, *states)
        found = {}
        for k, name in enumerate(self.names):
            belief = joint
            for other in reversed([j for j in range(len(states)) if j != k]):
                belief = np.tensordot(belief, self.factors[other].functional, axes=(other + 1, 0))
            found[name] = belief
        return found

    @cached_property
    def side_by_side(self) -> Float[np.ndarray, "sample state"]:
        """The factors' beliefs, end to end."""
        return np.concatenate(list(self.beliefs.values()), axis=1)

    @cached_property
    def next_token(self) -> Float[np.ndarray, "sample token"]:
        """The exact law of what follows."""
        own = self.side_by_side if isinstance(self.process, FactoredProcess) else self.joint
        return self.process.next_token(own)

    @cached_property
    def targets(self) -> dict[str, Float[np.ndarray, "sample _"]]:
        """What is sought in the activations: every factor's belief, :data:`JOINT` and :data:`BEYOND`."""
        W, c = ordinary_least_squares(self.side_by_side, self.joint, self.weights)
        return {**self.beliefs, JOINT: self.joint, BEYOND: self.joint - self.side_by_side @ W - c}


def exact_dimensions(prefixes: FactoredPrefixes) -> dict[str, int]:
    """Principal components for 95 % of the variance of what an ideal observer holds.

    Of the factors' beliefs end to end, of the joint belief, and of the logarithm of the exact next-token law:
    the last is what a linear unembedding needs, and where factors are independent it is a sum over factors,
    so that the last layer would keep them apart for the softmax's sake alone.
    """
    logits = np.log(prefixes.next_token.clip(1e-12))
    clouds = {
        "factors": prefixes.side_by_side,
        JOINT: prefixes.joint,
        "log law": logits - logits.mean(1, keepdims=True),
    }
    return {name: dimensions_at(variance_spectrum(X, prefixes.weights), SHARE) for name, X in clouds.items()}


def price_of_factoring(prefixes: FactoredPrefixes) -> float:
    """Nats a token lost by an observer who keeps each factor's exact belief and takes them for independent.

    The mean of KL(exact law, law by the product of the factors' beliefs); 0 where they are independent.

    Raises
    ------
    ValueError
        If the process is a ``FactoredProcess``, which keeps nothing else.
    """
    process = prefixes.process
    if isinstance(process, FactoredProcess):
        raise ValueError(f"{process.name!r} keeps nothing but its factors' beliefs; give a Process over their states")
    product = reduce(
        lambda one, other: np.einsum("ni,nj->nij", one, other).reshape(len(one), -1), prefixes.beliefs.values()
    )
    law, guess = prefixes.next_token, process.next_token(product)
    ratio = np.log(np.where(law > 0, law, 1.0) / np.where(law > 0, guess, 1.0))
    return float(prefixes.weights @ (law * ratio).sum(1))


def loss_over_optimum(model: Kernel, prefixes: FactoredPrefixes) -> float:
    """Expected loss over the least possible, by exact next-token laws; 1 is perfect, and none is below."""
    with torch.no_grad():
        said = model.log_probs(prefixes.batch.to(device_of(model, prefixes.batch))).cpu().numpy()[prefixes.first]
    law = prefixes.next_token
    least = -(law * np.log(np.where(law > 0, law, 1.0))).sum(1)
    return float(prefixes.weights @ -(law * said).sum(1) / (prefixes.weights @ least))


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
        :attr:`FactoredPrefixes.targets`. Attributes say the protocol.
    """
    sites = [canonical_site(site, model.sites) for site in sites]
    acts = {
        who: record(one, prefixes.batch, sites, where=prefixes.first, chunk=512)
        for who, one in (("trained", model), ("untrained twin", twin))
    }
    moved = _shuffled_targets(prefixes, seed)
    read = {"probe": ("trained", prefixes.targets), "untrained twin": ("untrained twin", prefixes.targets)}
    read["shuffle"] = ("trained", moved)
    variance = [[variance_spectrum(acts[who][site].values, prefixes.weights) for who in acts] for site in sites]
    scores = [
        [
            [_held_out_r2(acts[who][site].values, wanted[name], prefixes, seed) for who, wanted in read.values()]
            for name in prefixes.targets
        ]
        for site in sites
    ]
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
