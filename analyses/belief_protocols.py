"""How a belief probe is fitted and scored: protocols by name, folds, and the nulls that follow the same rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Int

from nextlens.analyses.prefix_rows import Prefixes
from nextlens.models.arguments import at_least, one_of
from nextlens.models.kernel import Kernel
from nextlens.models.processes import markov
from nextlens.models.processes.mixed_states import first_equal
from nextlens.models.recording import beliefs, labelled
from nextlens.probes.belief import HeldOut, InSample, held_out, in_sample
from nextlens.probes.controls import last_tokens, next_token_features, shuffled
from nextlens.probes.ridge import mse, r2
from nextlens.probes.samples import pair
from nextlens.probes.truncated import truncated_least_squares

#: The paper rounds beliefs to this many decimals before it regresses on them.
PAPER_DECIMALS = 5
PROTOCOLS = ("held-out", "paper2024", "quantum2025")
#: What stays together when rows are held out.
FOLDS = {
    "prefix": "5, by prefix; penalty by nested folds",
    "suffix": "5, by the last 3 tokens; penalty by nested folds",
    "belief": "5, by belief state; penalty by nested folds",
}
#: Of the quantum follow-up, which choose where its least squares are truncated.
QUANTUM_FOLDS = 10
CUTOFF_FOLDS = f"{QUANTUM_FOLDS}, by prefix, for the cut-off alone"
#: Tokens that the suffix folds, and the Markov beliefs, remember.
REMEMBERED = 3
#: Markov chains of more states than this are no rival worth the time.
MOST_MARKOV_STATES = 256
#: As many as there are folds.
FEWEST_STATES = 5
#: Beliefs this close in every component are one belief state.
EQUAL = 1e-9
SCORES = ("r2", "mse", "rmse")


class Scorer:
    """One protocol, applied to whatever stands in for the activations.

    Parameters
    ----------
    prefixes : Prefixes
    protocol : {"held-out", "paper2024", "quantum2025"}
    folds : {"prefix", "suffix", "belief"}
        For held-out scores, what never straddles a split: a prefix; all prefixes with the same last three
        tokens, so that near-duplicates stay together; or all prefixes after which the belief is the
        same, so that a probe must place belief states it has never seen.
    weighted : bool
        Whether prefixes weigh what they are probable, or one each.
    seed : int
        Of the folds and the shuffle.

    Raises
    ------
    ValueError
        If a name is unknown, or ``paper2024`` is asked of sampled words or with folds or weights of its own.
    """

    def __init__(
        self,
        prefixes: Prefixes,
        protocol: str = "held-out",
        *,
        folds: str = "prefix",
        weighted: bool = True,
        seed: int = 0,
    ) -> None:
        one_of("protocol", protocol, PROTOCOLS)
        one_of("folds", folds, tuple(FOLDS))
        refuse_unfit(protocol, folds, prefixes.listed, prefixes.process.name, prefixes.n_ctx)
        self.prefixes, self.protocol, self.folds, self.seed = prefixes, protocol, folds, seed
        self.weights, how = prefixes.weights, "probability of the prefix"
        if protocol == "paper2024":
            self.weights, how = prefixes.extensions.astype(float), "words that extend the prefix"
        elif not weighted:
            self.weights, how = np.full(len(prefixes), 1 / len(prefixes)), "one each"
        self.attributes: dict[str, Any] = {
            "protocol": protocol,
            "in_sample": self.in_sample,
            "rows": len(prefixes),
            "weights": how,
            "folds": {"held-out": FOLDS[folds], "paper2024": "none", "quantum2025": CUTOFF_FOLDS}[protocol],
            "fold_seed": seed,
        }

    @property
    def in_sample(self) -> bool:
        """Whether rows are scored by a fit that has seen them."""
        return self.protocol != "held-out"

    @property
    def joined(self) -> bool:
        """Whether the protocol reads all layers side by side."""
        return self.protocol == "quantum2025"

    def __call__(self, activations: xr.DataArray, targets: xr.DataArray | None = None) -> HeldOut | InSample:
        """Read ``targets``, the exact beliefs if None, off ``activations``."""
        targets = self.prefixes.beliefs if targets is None else targets
        groups = "prefix" if self.folds == "prefix" else fold_labels(self.prefixes, self.folds)
        X, Y, numbers = pair(activations, targets, groups=groups)
        if self.protocol == "paper2024":
            return in_sample(X, Y.round(PAPER_DECIMALS), weights=self.weights)
        if self.protocol == "quantum2025":
            fit = truncated_least_squares(X, Y, self.weights, n_splits=QUANTUM_FOLDS, seed=self.seed)
            return InSample(fit.prediction, fit.r2, fit.mse, fit.rmse)
        return held_out(X, Y, numbers, weights=self.weights, seed=self.seed)

    def shuffled(self, activations: xr.DataArray) -> HeldOut | InSample:
        """The same with beliefs permuted among prefixes of one length.

        Held out, what is predicted is scored against the permuted beliefs: it must be about 0 or less. Under
        ``paper2024`` it is scored against the true ones, as published: about the variance of the beliefs.
        """
        truth = self.prefixes.beliefs
        permuted = shuffled(truth.values, self.prefixes.position, np.random.default_rng(self.seed))
        found = self(activations, truth.copy(data=permuted))
        if self.protocol != "paper2024":
            return found
        error = mse(truth.values, found.prediction, self.weights)
        return InSample(found.prediction, r2(truth.values, found.prediction, self.weights), error, error**0.5)

    def nulls(self, model: Kernel, most_tokens_back: int = 4) -> xr.Dataset:
        """Predictors that see tokens, a classical memory of them, or next-token laws, but no activations."""
        prefixes, found = self.prefixes, {}
        for k in range(1, most_tokens_back + 1):
            if prefixes.process.n_tokens**k > len(prefixes) // 10:
                break
            found[f"last {k} token" + "s" * (k > 1)] = self.last(k)
        remembered = markov_beliefs(prefixes)
        if remembered is not None:
            found[f"Markov-{REMEMBERED} beliefs"] = self(remembered)
        for whose, kernel in {"exact": prefixes.process, "model's own": model}.items():
            rows = prefixes.log_probs(kernel)
            law = xr.DataArray(rows, dims=("sample", "feature"), coords=prefixes.beliefs.coords)
            found[f"next-token law, {whose}"] = self(next_token_features(law))
            found[f"its logarithm, {whose}"] = self(next_token_features(law, log=True))
        return xr.Dataset(
            {key: ("null", [getattr(one, key) for one in found.values()]) for key in SCORES},
            coords={"null": list(found)},
            attrs={**self.attributes, "last tokens": "exact means of the belief given the last tokens; not held out"},
        )

    def last(self, k: int) -> InSample:
        """The mean belief given the last ``k`` tokens, which no predictor that forgets the rest can beat.

        Not held out: a short prefix is alone in its cell, and has nothing else to be predicted from.
        """
        prefixes = self.prefixes
        design = last_tokens(labelled(prefixes.batch.tokens.numpy(), prefixes.batch), k)
        thin = labelled(design.values, prefixes.batch, "feature", where=prefixes.first)
        X, Y, _ = pair(thin, prefixes.beliefs)
        return in_sample(X, Y, weights=self.weights)


def refuse_unfit(protocol: str, folds: str, listed: bool, process: str, n_ctx: int) -> None:
    """Raise if the protocol cannot be followed.

    Raises
    ------
    ValueError
        Naming the protocol, and what would do.
    """
    if protocol == "paper2024" and not listed:
        raise ValueError(
            f"protocol='paper2024' regresses on every word of {n_ctx} tokens, and process={process!r} has too many "
            "to list; use 'held-out'"
        )
    if protocol != "held-out" and folds != "prefix":
        raise ValueError(f"folds={folds!r}, but protocol={protocol!r} holds nothing out; use 'held-out'")


def fold_labels(prefixes: Prefixes, folds: str) -> xr.DataArray:
    """What each prefix must stay together with: a number for each, labelled as its belief is.

    Parameters
    ----------
    prefixes : Prefixes
    folds : {"prefix", "suffix", "belief"}
        See :class:`Scorer`. A prefix shorter than the suffix is alone.
    """
    numbers = {
        "prefix": lambda: np.arange(len(prefixes)),
        "suffix": lambda: _endings(prefixes),
        "belief": lambda: first_equal(prefixes.beliefs.values, EQUAL),
    }[one_of("folds", folds, tuple(FOLDS))]()
    return prefixes.beliefs[:, 0].drop_vars("state", errors="ignore").copy(data=numbers)


def refuse_few_states(prefixes: Prefixes) -> None:
    """Raise if belief states cannot be held out in folds.

    Raises
    ------
    ValueError
        If fewer than five are reached.
    """
    states = len(np.unique(fold_labels(prefixes, "belief")))
    if states < FEWEST_STATES:
        raise ValueError(
            f"process={prefixes.process.name!r} reaches {states} belief states within {prefixes.n_ctx} tokens; "
            f"{FEWEST_STATES} or more are needed to hold some of them out"
        )


def markov_beliefs(prefixes: Prefixes, k: int = REMEMBERED) -> xr.DataArray | None:
    """What an observer who knows only the order-``k`` Markov chain of the process believes after each prefix.

    A distribution over words of ``k`` tokens: certain once ``k`` have been read. None if there are
    more than :data:`MOST_MARKOV_STATES` such words, or the process does not begin from its stationary law,
    on which the chain is built.
    """
    process = prefixes.process
    begins = np.allclose(process.initial, process.stationary, rtol=0, atol=EQUAL)
    if process.n_tokens ** int(at_least("k", k, 1)) > MOST_MARKOV_STATES or not begins:
        return None
    return beliefs(markov(process, k), prefixes.batch, where=prefixes.first)


def _endings(prefixes: Prefixes) -> Int[np.ndarray, " sample"]:
    tokens, radix = prefixes.batch.tokens.cpu().numpy(), prefixes.process.n_tokens + 1
    code = np.zeros(tokens.shape, dtype=np.int64)
    for back in range(REMEMBERED):
        code[:, back:] += (tokens[:, : tokens.shape[1] - back] + 1) * radix**back
    return code[prefixes.first]
