"""A language model mixed with what points: the k nearest in a datastore, or any other law; weights chosen elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least, between
from nextlens.models.hooked import Hooked
from nextlens.models.induction.context_features import ResidualFeatures
from nextlens.models.induction.scores import Scores, score_laws
from nextlens.models.induction.votes import Votes
from nextlens.models.tasks.corpus import Corpus

#: Weights and temperatures that are tried.
WEIGHTS = np.linspace(0, 0.95, 20)
TEMPERATURES = (0.1, 0.3, 1.0, 3.0, 10.0)
#: Neighbours that vote, and documents' tokens that are read for them at a time.
NEIGHBOURS, READ = 64, 8192
#: Rows whose dense laws are held at a time.
ROWS = 128
#: Keys, at most, whose nearest other key gives the unit of distance.
SAMPLED = 512


@dataclass(frozen=True, eq=False)
class Datastore:
    """Places of a corpus: what a model holds there, and which token follows.

    Parameters
    ----------
    keys : Float[np.ndarray, "place feature"]
    following : Int[np.ndarray, "place"]
    """

    keys: Float[np.ndarray, "place feature"]
    following: Int[np.ndarray, " place"]

    @classmethod
    def of(cls, model: Hooked, corpus: Corpus, n: int, site: str) -> Datastore:
        """About ``n`` places, evenly over the documents, each read from the beginning of a document on.

        Raises
        ------
        ValueError
            If ``n`` is below 1.
        """
        at_least("n", n, 1)
        features, keys, following = ResidualFeatures(model, site), [], []
        share = n / int(corpus.size)
        for document in corpus.documents:
            taken = document[: 1 + max(1, round(share * len(document)))].astype(np.int64)
            for first in range(0, len(taken) - 1, READ):
                part = taken[first : first + READ + 1]
                if len(part) > 1:
                    keys.append(features(part[:-1]).cpu().numpy())
                    following.append(part[1:])
        return cls(np.concatenate(keys), np.concatenate(following))

    @cached_property
    def unit(self) -> float:
        """The mean squared distance from a key to the nearest other, over at most ``SAMPLED`` keys, evenly; else 1."""
        some = np.unique(np.linspace(0, len(self.keys) - 1, min(SAMPLED, len(self.keys))).round().astype(int))
        distance = self._nearest(self.keys[some], 2)[0]
        unit = float(distance[:, 1].mean()) if distance.shape[1] > 1 else 0.0
        return unit if unit > 0 else 1.0

    def nearest(
        self, queries: Float[np.ndarray, "query feature"], k: int = NEIGHBOURS
    ) -> tuple[Float[np.ndarray, "query k"], Int[np.ndarray, "query k"]]:
        """Squared distances of the ``k`` nearest, in :attr:`unit`, and what follows them; no query sways another."""
        distance, at = self._nearest(queries, k)
        return distance / self.unit, self.following[at]

    def _nearest(
        self, queries: Float[np.ndarray, "query feature"], k: int
    ) -> tuple[Float[np.ndarray, "query k"], Int[np.ndarray, "query k"]]:
        k = min(k, len(self.keys))
        keys = torch.from_numpy(self.keys)
        square, far, near = keys.square().sum(1), [], []
        for part in torch.from_numpy(queries).split(256):
            distance, at = (square - 2 * part @ keys.T + part.square().sum(1, keepdim=True)).topk(k, largest=False)
            far.append(distance.clamp(min=0))
            near.append(at)
        return torch.cat(far).double().numpy(), torch.cat(near).numpy()


def neighbour_votes(
    distance: Float[np.ndarray, "query k"], following: Int[np.ndarray, "query k"], temperature: float
) -> Votes:
    """The weight of ``y`` is the sum of ``exp(-(distance - nearest) / temperature)`` of the neighbours it follows."""
    weight = np.exp(-(distance - distance[:, :1]) / temperature)
    rows = []
    for tokens, weights in zip(following, weight, strict=True):
        token, which = np.unique(tokens, return_inverse=True)
        rows.append((0, token, np.bincount(which, weights)))
    return Votes.of_rows(rows)


def mixed_scores(
    own: Float[np.ndarray, "row token"], votes: Votes, weight: float, targets: Int[np.ndarray, " row"]
) -> Scores:
    """Of ``(1 - weight) own + weight votes``, a few rows at a time."""
    between("weight", weight, 0, 1)
    parts = []
    for first in range(0, len(own), ROWS):
        rows = np.arange(first, min(first + ROWS, len(own)))
        pointed = votes.take(rows).probabilities(own.shape[1])
        parts.append(score_laws((1 - weight) * own[rows] + weight * pointed, targets[rows]))
    return Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def best_weight(one: Float[np.ndarray, " row"], other: Float[np.ndarray, " row"]) -> tuple[float, float]:
    """The weight of ``other`` under which what came costs the fewest bits, and those bits; from its probabilities."""
    bits = [-np.log2(np.maximum((1 - w) * one + w * other, 1e-30)).mean() for w in WEIGHTS]
    best = int(np.argmin(bits))
    return float(WEIGHTS[best]), float(bits[best])
