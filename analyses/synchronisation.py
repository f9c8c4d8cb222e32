"""Does a model find out in its context what it reads? Loss against exact floors, and beliefs about components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, takewhile
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.analyses.sites import probed_sites
from nextlens.models.hooked import Hooked
from nextlens.models.kernel import Kernel
from nextlens.models.processes import (
    Process,
    coin,
    component_beliefs,
    component_posterior,
    even,
    golden_mean,
    mess3,
    mixture,
    mr_name,
    parentheses,
    sns,
)
from nextlens.models.processes.information import excess_entropy
from nextlens.models.processes.mixed_states import entropies, merged_levels, mixed_state_presentation
from nextlens.models.recording import labelled, record
from nextlens.probes.belief import held_out
from nextlens.probes.controls import last_tokens, next_token_features, shuffled
from nextlens.probes.ridge import r2
from nextlens.probes.samples import pair

#: Beliefs after words of one length, equal ones made one, beyond which a floor is no longer exact.
MOST_BELIEFS = 2**16
#: The same, for bounds on entropy rates and excess entropies.
BOUNDING_BELIEFS = 2**14
#: Most tokens back of the null that remembers the last ones.
TOKENS_BACK = 4
#: A posterior whose variance is less does not vary, and there is nothing to read.
CONSTANT = 1e-6


@dataclass(frozen=True, eq=False)
class Source:
    """Words of one process each, which of equally many chances; one process alone is a source too.

    The words of several are not ergodic: the context must tell which process it is of.

    Attributes
    ----------
    components : tuple of Process
        Each ergodic, no two alike.
    n_ctx : int
        Positions of a context.
    vocabularies : tuple of sequence of int, optional
        As of :func:`~nextlens.models.processes.mixture`.
    """

    components: tuple[Process, ...]
    n_ctx: int = 14
    vocabularies: tuple[Sequence[int], ...] | None = None

    @cached_property
    def process(self) -> Process:
        """The source as one process; not ergodic if it has several components."""
        if len(self.components) == 1:
            return self.components[0]
        shares = np.full(len(self.components), 1 / len(self.components))
        return mixture(self.components, shares, self.vocabularies)

    @cached_property
    def rate(self) -> float:
        """Nats per token in the long run: the mean of the components' entropy rates.

        Exact where a component's mixed states are finite; else the middle of bounds, 0.001 apart or less for
        :func:`sources`.
        """
        return float(np.mean([one.entropy_rate(_depth(one)).value for one in self.components]))

    @cached_property
    def excess_entropy(self) -> float:
        """What past and future share, in nats: which component it is, and what they share within it.

        ``log(number of components) + mean of E_k``, as a long past tells the component for certain. Exact, or
        the middle of bounds, as :attr:`rate` is.
        """
        within = np.mean([excess_entropy(one, _depth(one)).value for one in self.components])
        return float(np.log(len(self.components)) + within)

    def floor(self, prefixes: Prefixes) -> Float[np.ndarray, " length"]:
        """Myopic entropies ``h_1 .. h_(n_ctx + 1)``, in nats: what no predictor of token ``l`` falls below.

        Exact as far as the distinct beliefs after ``l - 1`` tokens can be held, :data:`MOST_BELIEFS`; from there
        on the mean over the prefixes.
        """
        process, exact = self.process, []
        for level in islice(merged_levels(process, process.initial[None], np.ones(1)), self.n_ctx + 1):
            exact.append(level.probability @ entropies(process.next_token(level.beliefs)))
            if len(level) > MOST_BELIEFS:
                break
        sampled = excess_loss(process, prefixes).optimum.values if len(exact) <= self.n_ctx else np.empty(0)
        return np.concatenate([exact, sampled[len(exact) - 1 :]])


def _depth(process: Process) -> int | None:
    """How long words to bound a rate by, while their distinct beliefs are few; None where none are needed."""
    if mixed_state_presentation(process).closed:
        return None
    levels = merged_levels(process, process.stationary[None], np.ones(1))
    return max(1, sum(1 for _ in takewhile(lambda level: len(level) < BOUNDING_BELIEFS, islice(levels, 200))))


def sources(n_coins: int = 16, n_names: int = 8) -> dict[str, Source]:
    """The sources that are asked about, by name.

    ``names`` are documents in which "Mr" is always followed by the same one of ``n_names`` names: what it
    was must be looked up in the context. ``mr_name`` has one name for all, and needs one token of memory.
    ``coins`` have the biases ``n / (n_coins + 1)``.
    """
    biases = [n / (n_coins + 1) for n in range(1, n_coins + 1)]
    return {
        "coin": Source((coin(0.3),)),
        "golden_mean": Source((golden_mean(),)),
        "even": Source((even(),)),
        "sns": Source((sns(0.4, 0.7),)),
        "parentheses": Source((parentheses(),)),
        "mr_name": Source((mr_name(),)),
        "two_coins": Source((coin(0.3), coin(0.8))),
        "coins": Source(tuple(coin(p) for p in biases), n_ctx=32),
        "three_mess3": Source((mess3(0.85, 0.05), mess3(0.85, 0.45), mess3(0.1, 0.05)), n_ctx=16),
        "names": Source((mr_name(),) * n_names, 32, tuple((0, 1, 2, 3 + k) for k in range(n_names))),
    }


def loss_against_floor(kernel: Kernel, source: Source, prefixes: Prefixes) -> xr.Dataset:
    """In-context loss of a kernel by how many tokens it has read, beside the least possible.

    ``excess`` at ``read`` = n is the mean of KL(exact law of token n + 1, kernel's law) over the prefixes of
    n tokens: no sampling error of the next token, and none at all where prefixes are listed. ``loss`` is
    ``floor + excess``. The first token is said by no model; before it, ``read`` = 0, the floor stands.

    Returns
    -------
    xarray.Dataset
        ``loss``, ``floor`` and ``excess`` over ``read`` 0 .. n_ctx, nats. Attributes: ``rate``, to which the
        floor falls; ``excess_entropy``, to which ``sum(floor - rate)`` rises; ``summed_floor`` and
        ``summed_loss``, those sums as far as the context goes, of the floor and of the kernel.

    Raises
    ------
    ValueError
        If the kernel says NaN.
    """
    floor = source.floor(prefixes)
    excess = np.concatenate([[0.0], excess_loss(kernel, prefixes).excess.values])
    loss = floor + excess
    return xr.Dataset(
        {"loss": ("read", loss), "floor": ("read", floor), "excess": ("read", excess)},
        coords={"read": np.arange(len(floor))},
        attrs={
            "units": "nat",
            "rate": source.rate,
            "excess_entropy": source.excess_entropy,
            "summed_floor": float((floor - source.rate).sum()),
            "summed_loss": float((loss - source.rate).sum()),
            "listed": prefixes.listed,
            "prefixes": len(prefixes),
        },
    )


@dataclass(frozen=True, eq=False)
class ComponentReading:
    """What probes read off one model about the components of a source, beside nulls.

    Attributes
    ----------
    scores : xarray.Dataset
        ``r2`` over (target, predictor, site), held out by prefix; predictors "probe" and "untrained twin".
    nulls : xarray.Dataset
        ``r2`` over (target, null): predictors that see no activations, and "shuffle", the probe of the last
        site for targets permuted within each position.
    posterior, guess, untrained : Float[np.ndarray, "sample component"]
        The exact posterior, what is read off the last site, and off the twin's.
    weights : Float[np.ndarray, " sample"]
    position : Int[np.ndarray, " sample"]
        Index of the last token read.
    """

    scores: xr.Dataset
    nulls: xr.Dataset
    posterior: Float[np.ndarray, "sample component"]
    guess: Float[np.ndarray, "sample component"]
    untrained: Float[np.ndarray, "sample component"]
    weights: Float[np.ndarray, " sample"]
    position: Int[np.ndarray, " sample"]

    def by_position(self) -> xr.Dataset:
        """R² of the posterior among the prefixes of each length, and how unsure the exact one is, nats.

        NaN where the exact posterior does not vary.
        """
        cells = [self.position == t for t in range(self.position.max() + 1)]
        found = {
            name: ("read", [self._r2(guess, rows) for rows in cells])
            for name, guess in {"probe": self.guess, "untrained twin": self.untrained}.items()
        }
        unsure = entropies(self.posterior)
        left = [float(self.weights[rows] @ unsure[rows] / self.weights[rows].sum()) for rows in cells]
        return xr.Dataset({**found, "uncertainty": ("read", left)}, coords={"read": np.arange(1, len(cells) + 1)})

    def _r2(self, guess: Float[np.ndarray, "sample component"], rows: np.ndarray) -> float:
        truth, weights = self.posterior[rows], self.weights[rows] / self.weights[rows].sum()
        spread = float(weights @ ((truth - weights @ truth) ** 2).sum(1))
        return r2(truth, guess[rows], weights) if spread > CONSTANT else np.nan


class _Target(NamedTuple):
    values: Float[np.ndarray, "sample _"]
    weights: Float[np.ndarray, " sample"]


def read_components(
    model: Hooked,
    twin: Hooked,
    source: Source,
    prefixes: Prefixes,
    *,
    sites: Sequence[str] | None = None,
    seed: int = 0,
) -> ComponentReading:
    """Probe a model for the joint belief, the posterior of the components, and the belief within each.

    The belief within component k is what one would hold who knew it to be k: a block of the joint belief,
    scaled to sum to 1. It is weighted by the posterior of k, as where k is ruled out it means nothing.
    Every prefix is predicted by a ridge probe that saw neither it nor chose its penalty on it: five folds
    of prefixes, weighted by probability.

    Parameters
    ----------
    model, twin : Hooked
        The twin is ``model.untrained()``.
    source : Source
        Of several components.
    prefixes : Prefixes
        Of ``source.process``.
    sites : sequence of str, optional
        The embedding and every ``hook_resid_post`` if None.
    seed : int, default=0
        Of the folds and the shuffle.

    Raises
    ------
    ValueError
        If the source has one component, or a site does not exist.
    """
    if len(source.components) < 2:
        raise ValueError(f"a source of {len(source.components)} component has no posterior to read; give two or more")
    sites, targets = probed_sites(model, sites), _targets(source, prefixes)
    acts = {
        name: record(one, prefixes.batch, sites, where=prefixes.first)
        for name, one in (("probe", model), ("untrained twin", twin))
    }
    _, _, groups = pair(acts["probe"][sites[0]], prefixes.beliefs, groups="prefix")

    def predict(features: xr.DataArray | np.ndarray, target: _Target):
        X = np.asarray(features).reshape(len(prefixes), -1)
        return held_out(X, target.values, groups, weights=target.weights, seed=seed)

    read = {
        (target, name): [predict(recorded[site], targets[target]) for site in sites]
        for target in targets
        for name, recorded in acts.items()
    }
    found = [[[one.r2 for one in read[target, name]] for name in acts] for target in targets]
    blind = {
        null: [predict(features, target).r2 for target in targets.values()]
        for null, features in _blind(model, prefixes).items()
    }
    last, rng = acts["probe"][sites[-1]], np.random.default_rng(seed)
    blind["shuffle"] = [
        predict(last, _Target(shuffled(target.values, prefixes.position, rng), target.weights)).r2
        for target in targets.values()
    ]
    attrs = {"protocol": "held-out", "in_sample": False, "folds": "5, by prefix; penalty by nested folds"}
    return ComponentReading(
        xr.Dataset(
            {"r2": (("target", "predictor", "site"), found)},
            coords={"target": list(targets), "predictor": list(acts), "site": sites},
            attrs={**attrs, "rows": len(prefixes), "listed": prefixes.listed, "fold_seed": seed},
        ),
        xr.Dataset(
            {"r2": (("null", "target"), list(blind.values()))},
            coords={"null": list(blind), "target": list(targets)},
            attrs=attrs,
        ),
        targets["component"].values,
        *(read["component", name][-1].prediction for name in acts),
        prefixes.weights,
        prefixes.position,
    )


def _targets(source: Source, prefixes: Prefixes) -> dict[str, _Target]:
    beliefs = prefixes.beliefs.values
    posterior = component_posterior(beliefs, source.components)
    within = component_beliefs(beliefs, source.components)
    return {
        "joint": _Target(beliefs, prefixes.weights),
        "component": _Target(posterior, prefixes.weights),
        **{f"within {k}": _Target(block, prefixes.weights * posterior[:, k]) for k, block in enumerate(within)},
    }


def _blind(model: Kernel, prefixes: Prefixes) -> dict[str, np.ndarray]:
    """What sees tokens or next-token laws, but no activations."""
    found = {}
    tokens = labelled(prefixes.batch.tokens.cpu().numpy(), prefixes.batch)
    for k in (1, TOKENS_BACK):
        found[f"last {k} token" + "s" * (k > 1)] = last_tokens(tokens, k).values[prefixes.first]
    for whose, kernel in {"exact": prefixes.process, "model's own": model}.items():
        said = prefixes.log_probs(kernel)
        found[f"next-token law, {whose}"] = next_token_features(said)
        found[f"its logarithm, {whose}"] = next_token_features(said, log=True)
    return found
