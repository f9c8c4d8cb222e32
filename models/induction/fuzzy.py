"""Fuzzy induction: every earlier context votes for what followed it, by how much it is like this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.induction.context_features import GivenFeatures
from nextlens.models.induction.features import Features, FeatureTable
from nextlens.models.induction.similarity import DISTANCES, similarity
from nextlens.models.induction.token_ids import whole
from nextlens.models.induction.votes import Matcher, Places, Reader, Votes

#: Similarities held at a time, at most: 8 bytes each.
SIMILARITIES_AT_A_TIME = 2**21

#: ``exp(-D / T)`` of a row whose nearest context is farther than this is counted from that one, lest all be 0.
FARTHEST = 500.0


class FuzzyInduction(Matcher):
    """``P(y)`` is the share of the similarity of all earlier contexts that ``y`` followed.

    With ``w`` the tokens, ``e`` the features and L the place of the last token::

        weight(y) = sum of s(i, L) over i < L with w[i + 1] = y        s(i, j) = exp(-D(e[i], e[j]) / temperature)

    No threshold, no nearest few. Where the nearest is so far that every weight would be 0 in double precision,
    all are counted from it; what is infinitely far has no vote. The first token has no earlier context, and no vote.

    Parameters
    ----------
    features : Features or callable
        What contexts are compared by: :class:`~nextlens.models.induction.window_features.WindowFeatures` of the
        published matching model; of any model its residual stream, with a distilled head or as it is, or its
        next-token laws (:mod:`~nextlens.models.induction.context_features`); or a function of yours.
    n_tokens : int, optional
        Only of a function of yours, which does not say it.
    distance : {"cosine", "jeffreys", "jensen-shannon"}
        ``1 - cos`` of features; of log-probabilities half of Jeffreys's divergence, or that of Jensen and Shannon.
    temperature : float, optional
        0.1 for cosines, as published; 1 for the others.
    window : int, optional
        How many tokens back the context reaches; all of them if None. What is farther back has no vote, but may have
        been read when the features were made.
    floor : float, default=0
        See :class:`~nextlens.models.induction.votes.Matcher`.
    device : optional
        Where distances are computed; where the features are if None.

    Raises
    ------
    ValueError
        If a number is out of range, or ``n_tokens`` is missing or contradicts the features.

    Notes
    -----
    arXiv:2411.00066. Its code compares a language model's laws by half of Jeffreys's divergence, and calls it the
    Jensen-Shannon divergence; see :func:`~nextlens.models.induction.similarity.half_jeffreys`.

    Examples
    --------
    >>> same_token = FuzzyInduction(lambda tokens: np.eye(3)[tokens], n_tokens=3)
    >>> votes = same_token.votes(np.array([0, 1, 2, 0]), np.array([3]))
    >>> votes.token.tolist(), votes.weight.round(4).tolist()
    ([0, 1, 2], [0.0, 1.0, 0.0])
    """

    def __init__(
        self,
        features: Features | Callable[[Int[np.ndarray, " time"]], Any],
        *,
        n_tokens: int | None = None,
        distance: str = "cosine",
        temperature: float | None = None,
        window: int | None = None,
        floor: float = 0.0,
        device: str | torch.device | None = None,
    ):
        if not isinstance(features, Features):
            if n_tokens is None:
                raise ValueError("n_tokens is None; features that are a function do not say it")
            features = GivenFeatures(features, n_tokens)
        if n_tokens not in (None, features.n_tokens):
            raise ValueError(f"n_tokens={n_tokens} and the {features.n_tokens} of the features differ; leave it out")
        self.features, self.n_tokens = features, features.n_tokens
        self.distance, usual = one_of("distance", distance, tuple(DISTANCES)), DISTANCES[distance].temperature
        self.temperature = usual if temperature is None else temperature
        if not 0 < self.temperature < np.inf:
            raise ValueError(f"temperature={temperature!r} must be finite and above 0")
        self.window = None if window is None else int(at_least("window", window, 1))
        self.floor = float(between("floor", floor, 0, 1))
        self.device = device

    def votes(self, tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"] | None = None) -> Votes:
        """Row ``r`` follows ``tokens[: positions[r] + 1]``; every position if None. Lengths are 0: nothing is matched.

        Each prefix is encoded once, whatever the number of rows; memory is bounded by
        ``SIMILARITIES_AT_A_TIME`` numbers, and no array has the size of the vocabulary.

        Raises
        ------
        ValueError
            If there is no token, one is out of range, a position is none of ``tokens``, or a feature is NaN.
        """
        tokens = self._checked(tokens)
        positions = np.arange(len(tokens)) if positions is None else np.asarray(positions)
        if not len(positions):
            return _counted(np.empty((0, 0)), tokens[:0])
        if positions.min() < 0 or positions.max() >= len(tokens):
            worst = positions.min() if positions.min() < 0 else positions.max()
            raise ValueError(
                f"positions hold {worst}; with {len(tokens)} tokens they must lie in 0 .. {len(tokens) - 1}"
            )
        features = self._encoded(tokens[: positions.max() + 1])
        parts = []
        while sum(map(len, parts)) < len(positions):
            rows = self._block(positions[sum(map(len, parts)) :], features.shape[1])
            first, last = self._start(rows.min()), rows.max()
            here = np.arange(first, last)
            heard = (here < rows[:, None]) & (here >= self._start(rows)[:, None])
            weights = self._weights(features[torch.from_numpy(rows)], features[first:last], heard)
            parts.append(_counted(weights, tokens[first + 1 : last + 1]))
        return Votes.joined(parts)

    def places(self, tokens: Int[np.ndarray, " time"]) -> Places:
        """Every earlier place of the context, with its similarity; ``heaviest`` gives the nearest.

        Raises
        ------
        ValueError
            If there is no token, one is out of range, or a feature is NaN.
        """
        tokens = self._checked(tokens)
        features, first = self._encoded(tokens), self._start(len(tokens) - 1)
        weights = self._weights(features[-1:], features[first:-1])[0]
        heard = np.flatnonzero(weights)
        offset = first + 1 + heard
        return Places("similar", 0, np.full(len(offset), -1), offset, tokens[offset], weights[heard])

    def reader(self) -> FuzzyReader:
        """Encodes one window, or the end of one context, at each token."""
        return FuzzyReader(self)

    def _checked(self, tokens: Int[np.ndarray, " time"]) -> Int[np.ndarray, " time"]:
        tokens = whole("tokens", tokens)
        at_least("the number of tokens", len(tokens), 1)
        if tokens.min() < 0 or tokens.max() >= self.n_tokens:
            worst = tokens.min() if tokens.min() < 0 else tokens.max()
            raise ValueError(
                f"tokens hold {worst}; with n_tokens={self.n_tokens} they must lie in 0 .. {self.n_tokens - 1}"
            )
        return tokens

    def _encoded(self, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, "time width"]:
        return self._finite(self.features(tokens))

    def _finite(self, features: Float[Tensor, "some width"]) -> Float[Tensor, "some width"]:
        wrong = features.isnan() if self.distance != "cosine" else ~features.isfinite()
        if wrong.any():
            row = int(wrong.any(1).nonzero()[0])
            raise ValueError(f"the feature of row {row} holds a NaN or infinite number; nothing can be like it")
        return features if self.device is None else features.to(self.device)

    def _start(self, position: np.integer | int | Int[np.ndarray, " row"]) -> np.integer | Int[np.ndarray, " row"]:
        """Where the context begins that ends at ``position``."""
        return np.maximum(0, position + 1 - (self.window or np.inf)).astype(np.int64)

    def _block(self, positions: Int[np.ndarray, " row"], width: int) -> Int[np.ndarray, " some"]:
        """As many of the first rows as memory allows."""
        size = min(len(positions), max(1, SIMILARITIES_AT_A_TIME // width))

        def held(rows: Int[np.ndarray, " some"]) -> int:
            return int(len(rows) * (rows.max() - self._start(rows.min())))

        while size > 1 and held(positions[:size]) > SIMILARITIES_AT_A_TIME:
            size //= 2
        return positions[:size]

    def _weights(
        self,
        rows: Float[Tensor, "row width"],
        earlier: Float[Tensor, "candidate width"],
        heard: Bool[np.ndarray, "row candidate"] | None = None,
    ) -> Float[np.ndarray, "row candidate"]:
        """Similarities; 0 for candidates that are not ``heard``."""
        if not len(earlier):
            return np.zeros((len(rows), 0))
        far = DISTANCES[self.distance].distance(rows, earlier).cpu().double()
        if heard is not None:
            far.masked_fill_(~torch.from_numpy(heard), torch.inf)
        nearest = far.amin(1, keepdim=True)
        beyond = (nearest > FARTHEST * self.temperature) & nearest.isfinite()
        return similarity(far - nearest.masked_fill(~beyond, 0), self.temperature).numpy()


class FuzzyReader(Reader):
    """Reads token by token; one feature is computed for each, and all are kept.

    Parameters
    ----------
    matcher : FuzzyInduction
    """

    def __init__(self, matcher: FuzzyInduction):
        super().__init__(matcher)
        self._features = FeatureTable()

    def read(self, token: int) -> Votes:
        """One row: what follows all the tokens read so far, this one the last of them.

        Raises
        ------
        ValueError
            If the token is out of range, or its feature is NaN; it then counts as not read.
        """
        tokens = self.matcher._checked(np.array([*self._tokens, int(token)]))
        self._features.append(self.matcher._finite(self.matcher.features.last(tokens)[None]))
        self._tokens.append(int(token))
        features, first = self._features.rows(), self.matcher._start(len(tokens) - 1)
        return _counted(self.matcher._weights(features[-1:], features[first:-1]), tokens[first + 1 :])


def _counted(weights: Float[np.ndarray, "row candidate"], proposed: Int[np.ndarray, " candidate"]) -> Votes:
    """Weights summed over the candidates that propose the same token."""
    order = np.argsort(proposed, kind="stable")
    token, first = np.unique(proposed[order], return_index=True)
    total = np.add.reduceat(weights[:, order], first, axis=1) if len(token) else weights[:, :0]
    row, column = np.nonzero(total)
    counts = np.bincount(row, minlength=len(weights))
    first_vote = np.concatenate([[0], np.cumsum(counts)])
    return Votes(np.zeros(len(weights), np.int64), first_vote, token[column], total[row, column])
