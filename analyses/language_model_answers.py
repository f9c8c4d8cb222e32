"""What a language model says in stretches of text, by itself and as a matcher, each token read once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.analyses.language_stretches import Stretches
from nextlens.models.hooked import Hooked, canonical_site
from nextlens.models.induction.context_features import ContextFeatures, GivenFeatures, context_of
from nextlens.models.induction.features import device_of, reading
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.residual_head import ResidualHead
from nextlens.models.induction.scores import Scores, score_laws
from nextlens.models.induction.votes import Votes

#: Laws are kept for mixing where all of them take no more bytes.
KEPT = 2**30
#: The matcher that compares a model's next-token laws, and the site at which it would be.
OWN_LAWS = "own laws"


@dataclass(frozen=True, eq=False)
class ModelAnswers:
    """What a language model said at every prediction.

    Parameters
    ----------
    scores : Scores
        Of its own predictions.
    similar : dict of str to Votes
        Of each matcher made of it.
    laws : Float[np.ndarray, "prediction token"], optional
        Its next-token laws, where they are small enough to keep.
    keys : Float[np.ndarray, "prediction feature"]
        What passes before the unembedding.
    """

    scores: Scores
    similar: dict[str, Votes]
    laws: Float[np.ndarray, "prediction token"] | None
    keys: Float[np.ndarray, "prediction feature"]


class EverythingRead(ContextFeatures):
    """The values at some sites and the log-probabilities, side by side, from one pass.

    Parameters
    ----------
    model : Hooked
    sites : sequence of str
    """

    def __init__(self, model: Hooked, sites: Sequence[str], *, n_ctx: int | None = None):
        self.model, self.sites = model, [canonical_site(site, model.sites) for site in sites]
        super().__init__(model.n_tokens, context_of(model) if n_ctx is None else n_ctx)

    @torch.no_grad()
    def read(self, tokens: Int[np.ndarray, "batch time"]) -> Float[Tensor, "batch time width"]:
        """Sequences that are no longer than ``n_ctx``; log-probabilities last."""
        with self.model.watched(*self.sites) as seen:
            said = self.model.log_probs(reading(tokens, device_of(self.model)))
        return torch.cat([*(seen[site].to(said.dtype) for site in self.sites), said], -1)

    def parted(self, read: Float[Tensor, "time width"]) -> dict[str, Float[Tensor, "time some"]]:
        """What was read by site, and the log-probabilities under :data:`OWN_LAWS`."""
        rest = read.shape[1] - self.n_tokens
        width = rest // len(self.sites)
        parts = {site: read[:, i * width : (i + 1) * width] for i, site in enumerate(self.sites)}
        return {**parts, OWN_LAWS: read[:, rest:]}


def model_answers(
    model: Hooked,
    stretches: Stretches,
    sites: Sequence[str],
    *,
    heads: Mapping[str, ResidualHead] | None = None,
    own_laws: bool = True,
    report: Callable[[], None] | None = None,
) -> ModelAnswers:
    """Read every stretch once; predict by the model itself, and by everything in it that can be compared.

    Whatever is compared has the context of its prediction to point at, and no more. The model, and so the features,
    have read the stretch from its beginning, or as much of it as :func:`read_before` says.

    Parameters
    ----------
    model : Hooked
        A stretch longer than its context is read in chunks that overlap by half.
    sites : sequence of str
        Of one width. The last is where neighbours are sought; each is a matcher as it is, called ``raw SITE``.
    heads : mapping of str to ResidualHead, optional
        Matchers by name, each on one of the sites.
    own_laws : bool, default=True
        Whether the model's laws are compared, by half of Jeffreys's divergence.
    report : callable, optional
        Told after every stretch.
    """
    everything = EverythingRead(model, sites)
    scores, laws, keys = [], [], []
    similar: dict[str, list[Votes]] = {}
    for tokens in stretches.tokens:
        parts = everything.parted(everything(tokens[:-1]))
        said = parts[OWN_LAWS][stretches.positions].double().exp().cpu().numpy()
        scores.append(score_laws(said, tokens[stretches.positions + 1]))
        keys.append(parts[everything.sites[-1]][stretches.positions].cpu().numpy())
        if 4 * model.n_tokens * len(stretches.targets) <= KEPT:
            laws.append(said.astype(np.float32))
        for name, features, distance in _matchers(everything, parts, heads or {}, own_laws):
            matcher = FuzzyInduction(
                GivenFeatures(_first_of(features), model.n_tokens), distance=distance, window=stretches.context
            )
            similar.setdefault(name, []).append(matcher.votes(tokens[:-1], stretches.positions))
        if report is not None:
            report()
    joined = Scores(*(np.concatenate(column) for column in zip(*scores, strict=True)))
    votes = {name: Votes.joined(each) for name, each in similar.items()}
    return ModelAnswers(joined, votes, np.concatenate(laws) if laws else None, np.concatenate(keys))


def read_before(model: Hooked, stretches: Stretches) -> tuple[int, int]:
    """The fewest and the most tokens that the model reads for a prediction, the last included."""
    n_ctx, positions = context_of(model), stretches.positions
    length = int(positions[-1]) + 1
    if n_ctx is None or length <= n_ctx:
        return int(positions[0]) + 1, length
    overlap = n_ctx // 2
    step = n_ctx - overlap
    begins = step * np.maximum(0, -(-(positions + 1 - n_ctx) // step))
    return int((positions + 1 - begins).min()), int((positions + 1 - begins).max())


def _matchers(
    everything: EverythingRead, parts: Mapping[str, Tensor], heads: Mapping[str, ResidualHead], own_laws: bool
) -> list[tuple[str, Tensor, str]]:
    """Name, features and distance of each matcher."""
    found = [(f"raw {site}", parts[site], "cosine") for site in everything.sites]
    with torch.no_grad():
        for name, head in heads.items():
            at = canonical_site(head.site, everything.model.sites)
            found.append((name, head.of(parts[at]), "cosine"))
    return [*found, *([(OWN_LAWS, parts[OWN_LAWS], "jeffreys")] if own_laws else [])]


def _first_of(features: Tensor) -> Callable[[Int[np.ndarray, " time"]], Tensor]:
    return lambda tokens: features[: len(tokens)]
