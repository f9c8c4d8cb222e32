"""Is the belief of an ideal observer a linear function of the residual stream?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from nextlens.analyses.belief_protocols import REMEMBERED, SCORES, Scorer, markov_beliefs
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.sites import layers, probed_sites, side_by_side
from nextlens.models.hooked import Hooked
from nextlens.models.recording import record
from nextlens.probes.belief import HeldOut, InSample
from nextlens.probes.geometry import pairwise_r2
from nextlens.probes.ridge import r2

#: Rows drawn where all pairs would be too many.
PAIRED_ROWS = 4000


@dataclass(frozen=True, eq=False)
class BeliefGeometry:
    """What probes read off one model, site by site, beside what they read off its nulls.

    Attributes
    ----------
    scores : xarray.Dataset
        ``r2``, ``mse`` and ``rmse`` over (site, predictor); predictors are "probe", "untrained twin",
        "shuffle", :data:`UNWEIGHTED` if held out, and :data:`RIVAL` where there is such a chain: how well the
        site gives that other target.
        Attributes say the protocol.
    nulls : xarray.Dataset
        The same scores for predictors that see no activations, over ``null``.
    truth : Float[np.ndarray, "sample state"]
        Exact beliefs.
    guess, untrained : Float[np.ndarray, "sample state"]
        What is read at the last site, from the model and from its twin.
    weights : Float[np.ndarray, " sample"]
        Those of the protocol.
    position : Int[np.ndarray, " sample"]
        Index of the last token read.
    next_token : Float[np.ndarray, "sample token"]
        Exact next-token laws.
    """

    scores: xr.Dataset
    nulls: xr.Dataset
    truth: Float[np.ndarray, "sample state"]
    guess: Float[np.ndarray, "sample state"]
    untrained: Float[np.ndarray, "sample state"]
    weights: Float[np.ndarray, " sample"]
    position: Int[np.ndarray, " sample"]
    next_token: Float[np.ndarray, "sample token"]

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

    def pairwise(self, rng: np.random.Generator, *, n_rows: int = PAIRED_ROWS) -> xr.DataArray:
        """Are prefixes as far apart in what is read at the last site as they are in truth?

        Squared correlation over pairs of prefixes (:func:`nextlens.probes.geometry.pairwise_r2`) between
        what ``guess`` and ``untrained`` say and, as ``truth``, the exact beliefs or the exact next-token
        laws; by ``metric``, the distance or the cosine of the vectors as they are. Pairs weigh the product of
        their weights; under ``paper2024`` they are those of the repeated rows. If there are more than ``n_rows``
        prefixes, so many are drawn by their weights.

        Returns
        -------
        xarray.DataArray
            Over (metric, truth, predictor).
        """
        truths = {"belief": self.truth, "next-token law": self.next_token}
        guessed = {"probe": self.guess, "untrained twin": self.untrained}
        repeated = self.scores.attrs["protocol"] == "paper2024"
        share = {"counts": self.weights.astype(np.int64)} if repeated else {"weights": self.weights}
        found = [
            [
                [
                    pairwise_r2(truth, guess, **share, metric=metric, n_rows=n_rows, rng=rng)
                    for guess in guessed.values()
                ]
                for truth in truths.values()
            ]
            for metric in ("distance", "cosine")
        ]
        return xr.DataArray(
            found,
            dims=("metric", "truth", "predictor"),
            coords={"metric": ["distance", "cosine"], "truth": list(truths), "predictor": list(guessed)},
            attrs={**self.scores.attrs, "pairs_of": min(n_rows, len(self.truth))},
        )


#: The one site of the protocol that lays layers side by side.
ALL_LAYERS = "all layers"
#: The probe fitted and scored with every prefix weighing as much as every other.
UNWEIGHTED = "probe, unweighted"
#: The probe's score on another target: the beliefs of a classical memory of the last tokens.
RIVAL = f"rival: Markov-{REMEMBERED} beliefs"


def belief_geometry(
    model: Hooked,
    twin: Hooked,
    prefixes: Prefixes,
    *,
    sites: Sequence[str] | None = None,
    protocol: str = "held-out",
    folds: str = "prefix",
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
    protocol : {"held-out", "paper2024", "quantum2025"}
        ``held-out``: every prefix is predicted by a ridge probe that saw neither it nor chose its penalty
        on it, five folds of prefixes, weighted by probability. ``paper2024`` (Shai et al. 2024,
        arXiv:2405.15943, section 2.3 and A.5): least squares fitted and scored on the same rows, every
        word of ``n_ctx`` tokens once at each position, not weighted by probability, beliefs rounded to
        five decimals; needs every word to be listed; its repeated fits to a fifth of the sequences are left
        out, as they share prefixes with the rest. ``quantum2025`` (arXiv:2507.07432): in sample too, by
        probability, all of :func:`~nextlens.analyses.sites.layers` (or ``sites``) side by side as one site,
        least squares truncated where 10-fold cross-validation is best.
    folds : {"prefix", "suffix", "belief"}
        What is held out together: :class:`~nextlens.analyses.belief_protocols.Scorer`.
    seed : int, default=0
        Of the folds and the shuffle.
    progress : bool, default=False

    Raises
    ------
    ValueError
        If a site does not exist or is named twice, an activation is not finite, or ``paper2024`` is asked
        of sampled words.
    """
    score = Scorer(prefixes, protocol, folds=folds, seed=seed)
    sites = probed_sites(model, layers(model) if sites is None and score.joined else sites)
    rows: dict[str, list[HeldOut | InSample]] = {}
    acts = {
        name: record(m, prefixes.batch, sites, where=prefixes.first, chunk=512, progress=progress)
        for name, m in (("probe", model), ("untrained twin", twin))
    }
    if score.joined:
        acts, sites = {name: xr.Dataset({ALL_LAYERS: side_by_side(one)}) for name, one in acts.items()}, [ALL_LAYERS]
    for name, recorded in acts.items():
        rows[name] = [score(recorded[site]) for site in sites]
    rows["shuffle"] = [score.shuffled(acts["probe"][site]) for site in sites]
    if not score.in_sample:
        alike = Scorer(prefixes, protocol, folds=folds, weighted=False, seed=seed)
        rows[UNWEIGHTED] = [alike(acts["probe"][site]) for site in sites]
    rival = markov_beliefs(prefixes)
    if rival is not None:
        rows[RIVAL] = [score(acts["probe"][site], rival) for site in sites]
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
        score.weights,
        prefixes.position,
        prefixes.next_token,
    )


def paper2024_mse(model: Hooked, prefixes: Prefixes, site: str) -> InSample:
    """The paper's own figure at one site: in-sample mean squared error over rows and components."""
    recorded = record(model, prefixes.batch, [site], where=prefixes.first, chunk=512)
    return Scorer(prefixes, "paper2024")(recorded[site])


def guesses(model: Hooked, prefixes: Prefixes, site: str) -> Float[np.ndarray, "sample state"]:
    """What a held-out probe reads off one site after each prefix."""
    recorded = record(model, prefixes.batch, [site], where=prefixes.first, chunk=512)
    return Scorer(prefixes)(recorded[site]).prediction


def constant_mse(prefixes: Prefixes) -> float:
    """Mean squared error, as the paper counts it, of the predictor that always says the mean belief."""
    weights = prefixes.extensions / prefixes.extensions.sum()
    truth = prefixes.beliefs.values
    return float((weights @ (truth - weights @ truth) ** 2).mean())
