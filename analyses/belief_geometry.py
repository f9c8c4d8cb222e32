"""Is the belief of an ideal observer a linear function of the residual stream?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int

from nextlens.models.arguments import at_least, one_of
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked, canonical_site
from nextlens.models.kernel import Kernel
from nextlens.models.processes import Process
from nextlens.models.processes.mixed_states import LARGEST_LEVEL, every_word
from nextlens.models.recording import beliefs, device_of, labelled, record
from nextlens.probes.belief import HeldOut, InSample, held_out, in_sample
from nextlens.probes.controls import last_tokens, next_token_features, shuffled
from nextlens.probes.ridge import r2
from nextlens.probes.samples import pair

#: More words than this are sampled instead of listed.
MOST_WORDS = 10**5
#: The paper rounds beliefs to this many decimals before it regresses on them.
PAPER_DECIMALS = 5
#: Nats of entropy that come of rounding alone.
ROUNDING = 1e-12
PROTOCOLS = ("held-out", "paper2024")


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Each distinct prefix once, with its probability: the rows of every honest belief probe.

    Use :meth:`of`. Rows are prefixes of length 1 to ``n_ctx``, in the order in which ``record`` keeps
    them with ``where=first``.

    Attributes
    ----------
    process : Process
    batch : Batch
        Words of ``n_ctx`` tokens that hold all the prefixes, with their tree; targets are not used.
    first : bool array of shape (batch, time)
        The position at which each prefix occurs first.
    weights : Float[np.ndarray, " sample"]
        Probability of the prefix over ``n_ctx``, so each length has equal mass and all sum to one. If
        words were sampled: how often the prefix occurred, over all. Never count times probability.
    listed : bool
        Whether these are all the prefixes the process can say, or those of a sample of words.
    """

    process: Process
    batch: Batch
    first: Bool[np.ndarray, "batch time"]
    weights: Float[np.ndarray, " sample"]
    listed: bool

    @classmethod
    def of(
        cls, process: Process, n_ctx: int, *, n_words: int | None = None, rng: np.random.Generator | None = None
    ) -> Prefixes:
        """All prefixes up to ``n_ctx`` tokens, or those of ``n_words`` sampled words.

        Parameters
        ----------
        process : Process
        n_ctx : int
        n_words : int, optional
            How many words to sample; None lists every word if there are no more than 100,000, and
            samples 20,000 if there are.
        rng : numpy.random.Generator, optional
            For the sample; one with seed 0 if None.

        Raises
        ------
        ValueError
            If ``n_ctx`` or ``n_words`` is below 1.
        """
        at_least("n_ctx", n_ctx, 1)
        rng = np.random.default_rng(0) if rng is None else rng
        if n_words is None and listable(process, n_ctx):
            words, probability = every_word(process, n_ctx)
            return cls._from(process, words, probability, listed=True)
        n_words = 20_000 if n_words is None else int(at_least("n_words", n_words, 1))
        words = process.sample(n_words, n_ctx, rng)
        return cls._from(process, words, np.full(n_words, 1 / n_words), listed=False)

    @classmethod
    def _from(
        cls,
        process: Process,
        words: Int[np.ndarray, "word length"],
        mass: Float[np.ndarray, " word"],
        *,
        listed: bool,
    ) -> Prefixes:
        batch = Batch.from_tokens(np.pad(words, ((0, 0), (0, 1))), tree=True)
        node, first = batch.tree.node.numpy(), np.zeros(words.shape, dtype=bool)
        first.flat[batch.tree.first.numpy()] = True
        by_node = np.bincount(node.ravel(), weights=np.repeat(mass, words.shape[1]), minlength=len(batch.tree))
        weights = by_node[node[first]]
        return cls(process, batch, first, weights / weights.sum(), listed)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def n_ctx(self) -> int:
        return self.batch.tokens.shape[1]

    @cached_property
    def beliefs(self) -> xr.DataArray:
        """The exact belief after each prefix, dims (sample, state)."""
        return beliefs(self.process, self.batch, where=self.first)

    @cached_property
    def position(self) -> Int[np.ndarray, " sample"]:
        """Index of the last token read: the length of the prefix, less one."""
        return np.nonzero(self.first)[1]

    @cached_property
    def next_token(self) -> Float[np.ndarray, "sample token"]:
        """The exact law of what follows each prefix."""
        return self.process.next_token(self.beliefs.values)

    @cached_property
    def extensions(self) -> Int[np.ndarray, " sample"]:
        """How many of the words begin with each prefix."""
        node = self.batch.tree.node.numpy()
        return np.bincount(node.ravel())[node[self.first]]

    def log_probs(self, kernel: Kernel, *, chunk: int = 65_536) -> Float[np.ndarray, "sample token"]:
        """What a kernel says of the token after each prefix, in nats.

        Raises
        ------
        ValueError
            If it says NaN, or its vocabulary is not that of the process.
        """
        if kernel.n_tokens != self.process.n_tokens:
            raise ValueError(
                f"the kernel has {kernel.n_tokens} tokens; {self.process.name!r} has {self.process.n_tokens}"
            )
        device = device_of(kernel, self.batch)
        with torch.no_grad():
            if len(self.batch) <= chunk:
                rows = kernel.log_probs(self.batch.to(device)).cpu().numpy()
            else:
                starts = range(0, len(self.batch), chunk)
                parts = (self.batch[s : s + chunk].to(device) for s in starts)
                rows = np.concatenate([kernel.log_probs(part).cpu().numpy() for part in parts])
        said = rows[self.first].astype(np.float64)
        wrong = np.isnan(said).any(1)
        if wrong.any():
            raise ValueError(f"the kernel says NaN after {int(wrong.sum())} of {len(self)} prefixes")
        return said


def listable(process: Process, n_ctx: int) -> bool:
    """Whether every word of ``n_ctx`` tokens is listed rather than sampled."""
    words = process.n_tokens**n_ctx
    return words <= MOST_WORDS and words * process.n_states <= LARGEST_LEVEL


def excess_loss(kernel: Kernel, prefixes: Prefixes) -> xr.Dataset:
    """Next-token loss of a kernel against the least possible, by position, in nats.

    ``excess[t]`` is the mean over prefixes of t + 1 tokens of KL(exact law, kernel's law), so it is
    at least 0, and ``loss = optimum + excess`` has no sampling error of the next token. With all
    prefixes listed, none at all.

    Returns
    -------
    xarray.Dataset
        ``loss``, ``optimum`` and ``excess`` over ``position``; attribute ``loss_over_optimum``, the
        ratio of the means over positions. 1 is perfect; infinite where the kernel forbids what can come,
        or errs about a process that leaves nothing to err about.

    Raises
    ------
    ValueError
        If the kernel says NaN.
    """
    law, said = prefixes.next_token, prefixes.log_probs(kernel)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(law > 0, law * np.log(law), 0.0).sum(1)
        cost = -np.where(law > 0, law * said, 0.0).sum(1)
    mass = np.bincount(prefixes.position, weights=prefixes.weights)
    optimum = np.bincount(prefixes.position, weights=prefixes.weights * entropy) / mass
    loss = np.bincount(prefixes.position, weights=prefixes.weights * cost) / mass
    return xr.Dataset(
        {"loss": ("position", loss), "optimum": ("position", optimum), "excess": ("position", loss - optimum)},
        coords={"position": np.arange(prefixes.n_ctx)},
        attrs={"units": "nat", "loss_over_optimum": _ratio(loss.mean(), optimum.mean()), "listed": prefixes.listed},
    )


def _ratio(loss: float, optimum: float) -> float:
    if optimum > ROUNDING:
        return float(loss / optimum)
    return 1.0 if loss <= ROUNDING else np.inf


@dataclass(frozen=True, eq=False)
class BeliefGeometry:
    """What probes read off one model, site by site, beside what they read off its nulls.

    Attributes
    ----------
    scores : xarray.Dataset
        ``r2``, ``mse`` and ``rmse`` over (site, predictor); predictors are "probe", "untrained twin" and
        "shuffle". Attributes say the protocol.
    nulls : xarray.Dataset
        The same scores for predictors that see no activations, over ``null``.
    truth : Float[np.ndarray, "sample state"]
        Exact beliefs.
    guess, untrained : Float[np.ndarray, "sample state"]
        What is read at the last site, from the model and from its twin.
    weights : Float[np.ndarray, " sample"]
    position : Int[np.ndarray, " sample"]
        Index of the last token read.
    """

    scores: xr.Dataset
    nulls: xr.Dataset
    truth: Float[np.ndarray, "sample state"]
    guess: Float[np.ndarray, "sample state"]
    untrained: Float[np.ndarray, "sample state"]
    weights: Float[np.ndarray, " sample"]
    position: Int[np.ndarray, " sample"]

    @property
    def site(self) -> str:
        """The site of ``guess``: the last one probed."""
        return str(self.scores.site.values[-1])

    def r2(self, predictor: str = "probe") -> float:
        """R² of one predictor at the last site."""
        return float(self.scores.r2.sel(predictor=predictor)[-1])

    def r2_by_position(self) -> Float[np.ndarray, " position"]:
        """R² of ``guess`` among the prefixes of each length, against their own mean."""
        cells = (self.position == t for t in range(self.position.max() + 1))
        return np.array([r2(self.truth[rows], self.guess[rows], self.weights[rows]) for rows in cells])


def belief_geometry(
    model: Hooked,
    twin: Hooked,
    prefixes: Prefixes,
    *,
    sites: Sequence[str] | None = None,
    protocol: str = "held-out",
    seed: int = 0,
    progress: bool = False,
) -> BeliefGeometry:
    """Probe every site of a model, and of its untrained twin, for the belief after each prefix.

    Parameters
    ----------
    model, twin : Hooked
        The twin is the same configuration, never trained: ``model.untrained()``.
    prefixes : Prefixes
    sites : sequence of str, optional
        The embedding and every ``hook_resid_post`` if None. The last is the one drawn.
    protocol : {"held-out", "paper2024"}
        ``held-out``: every prefix is predicted by a ridge probe that saw neither it nor chose its penalty
        on it, five folds of prefixes, weighted by probability. ``paper2024`` (Shai et al. 2024,
        arXiv:2405.15943, section 2.3 and A.5): least squares fitted and scored on the same rows, every
        word of ``n_ctx`` tokens once at each position, not weighted by probability, beliefs rounded to
        five decimals; needs every word to be listed.
    seed : int, default=0
        Of the folds and the shuffle.
    progress : bool, default=False

    Raises
    ------
    ValueError
        If a site does not exist or is named twice, an activation is not finite, or ``paper2024`` is asked
        of sampled words.
    """
    one_of("protocol", protocol, PROTOCOLS)
    sites = probed_sites(model, sites)
    score = _Scorer(prefixes, protocol, seed)
    rows: dict[str, list[HeldOut | InSample]] = {}
    acts = {
        name: record(m, prefixes.batch, sites, where=prefixes.first, chunk=512, progress=progress)
        for name, m in (("probe", model), ("untrained twin", twin))
    }
    for name, recorded in acts.items():
        rows[name] = [score(recorded[site]) for site in sites]
    rows["shuffle"] = [score.shuffled(acts["probe"][site]) for site in sites]
    found = {key: np.array([[getattr(one, key) for one in rows[name]] for name in rows]).T for key in SCORES}
    return BeliefGeometry(
        xr.Dataset(
            {key: (("site", "predictor"), values) for key, values in found.items()},
            coords={"site": list(sites), "predictor": list(rows)},
            attrs=score.attributes,
        ),
        score.nulls(model),
        prefixes.beliefs.values,
        rows["probe"][-1].prediction,
        rows["untrained twin"][-1].prediction,
        prefixes.weights,
        prefixes.position,
    )


SCORES = ("r2", "mse", "rmse")


def probed_sites(model: Hooked, sites: Sequence[str] | None = None) -> list[str]:
    """Full names of ``sites``; if None the embedding, and the residual stream after every block.

    Raises
    ------
    ValueError
        If ``sites`` is empty, or one does not exist or is named twice.
    """
    if sites is None:
        return [s for s in model.sites if s == "hook_embed" or s.endswith("hook_resid_post")]
    if isinstance(sites, str):
        raise ValueError(f"sites={sites!r} must be a list of names: [{sites!r}]")
    names = [canonical_site(site, model.sites) for site in sites]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"sites={list(sites)!r} must name at least one site, each once")
    return names


class _Scorer:
    """One protocol, applied to whatever stands in for the activations."""

    def __init__(self, prefixes: Prefixes, protocol: str, seed: int):
        if protocol == "paper2024" and not prefixes.listed:
            raise ValueError(
                f"protocol='paper2024' regresses on every word of {prefixes.n_ctx} tokens, and "
                f"{prefixes.process.name!r} has too many to list; use 'held-out'"
            )
        self.prefixes, self.protocol, self.seed = prefixes, protocol, seed
        self.attributes = {
            "protocol": protocol,
            "in_sample": protocol == "paper2024",
            "rows": len(prefixes),
            "weights": "words that extend the prefix" if protocol == "paper2024" else "probability of the prefix",
            "folds": "none" if protocol == "paper2024" else "5, by prefix; penalty by nested folds",
            "fold_seed": seed,
        }

    def __call__(self, activations: xr.DataArray, targets: xr.DataArray | None = None) -> HeldOut | InSample:
        X, Y, groups = pair(activations, self.prefixes.beliefs if targets is None else targets, groups="prefix")
        if self.protocol == "paper2024":
            weights = self.prefixes.extensions.astype(float)
            return in_sample(X, Y.round(PAPER_DECIMALS), weights=weights)
        return held_out(X, Y, groups, weights=self.prefixes.weights, seed=self.seed)

    def shuffled(self, activations: xr.DataArray) -> HeldOut | InSample:
        truth = self.prefixes.beliefs
        permuted = shuffled(truth.values, self.prefixes.position, np.random.default_rng(self.seed))
        return self(activations, truth.copy(data=permuted))

    def nulls(self, model: Kernel, most_tokens_back: int = 4) -> xr.Dataset:
        """Predictors that see tokens or next-token laws, but no activations."""
        prefixes, found = self.prefixes, {}
        for k in range(1, most_tokens_back + 1):
            if prefixes.process.n_tokens**k > len(prefixes) // 10:
                break
            found[f"last {k} token" + "s" * (k > 1)] = self.last(k)
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
        weights = prefixes.extensions.astype(float) if self.protocol == "paper2024" else prefixes.weights
        return in_sample(X, Y, weights=weights)


def paper2024_mse(model: Hooked, prefixes: Prefixes, site: str) -> InSample:
    """The paper's own figure at one site: in-sample mean squared error over rows and components."""
    recorded = record(model, prefixes.batch, [site], where=prefixes.first, chunk=512)
    return _Scorer(prefixes, "paper2024", 0)(recorded[site])


def guesses(model: Hooked, prefixes: Prefixes, site: str) -> Float[np.ndarray, "sample state"]:
    """What a held-out probe reads off one site after each prefix."""
    recorded = record(model, prefixes.batch, [site], where=prefixes.first, chunk=512)
    return _Scorer(prefixes, "held-out", 0)(recorded[site]).prediction


def constant_mse(prefixes: Prefixes) -> float:
    """Mean squared error, as the paper counts it, of the predictor that always says the mean belief."""
    weights = prefixes.extensions / prefixes.extensions.sum()
    truth = prefixes.beliefs.values
    return float((weights @ (truth - weights @ truth) ** 2).mean())
