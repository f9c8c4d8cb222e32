"""How far ahead a residual stream says which tokens come: linear probes, held out by block, beside their nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Float32, Int

from nextlens.analyses.checkpoint_reading import Reading
from nextlens.probes.belief import folds_by_group, held_out
from nextlens.probes.blocks import block_sums, ratio_interval
from nextlens.probes.controls import MOST_CELLS

#: How far ahead is asked.
AHEAD = (1, 2, 3, 4)
#: Tokens that are told apart; all others are one class.
MOST_CLASSES = 32
FOLDS = 5
#: Fewer rows than this make no probe.
LEAST_PROBED = 200


def frequent(tokens: Int[np.ndarray, " row"], most: int = MOST_CLASSES) -> Int[np.ndarray, " class"]:
    """The most frequent tokens, at most ``most``, the most frequent first."""
    kinds, counts = np.unique(tokens, return_counts=True)
    return kinds[np.argsort(-counts, kind="stable")][:most]


def one_hot(
    tokens: Int[np.ndarray, " row"], classes: Int[np.ndarray, " class"]
) -> Float32[np.ndarray, "row class_and_other"]:
    """A column for each of the classes, and a last one for any other token."""
    hits = tokens[:, None] == classes
    return np.column_stack([hits, ~hits.any(1)]).astype(np.float32)


def probe_ahead(
    stream: Mapping[str, Float32[np.ndarray, "kept width"]],
    reading: Reading,
    kept: Bool[np.ndarray, " row"],
    classes: Int[np.ndarray, " class"],
    *,
    law: Float[np.ndarray, "row class"] | None = None,
    twin: Mapping[str, Float32[np.ndarray, "kept width"]] | None = None,
    ahead: Sequence[int] = AHEAD,
    seed: int = 0,
) -> xr.Dataset:
    """Which token stands ``k`` places after the one just read, by ridge probes of the residual stream.

    Indicators of the classes are regressed on the stream; a fit of indicators by least squares estimates
    probabilities, and its squared error is Brier's score. What is scored is the share of it that the probe
    removes from that of the *unigram* law, the frequencies in the folds it was fitted on::

        skill = 1 - Σ |y - ŷ|² / Σ |y - frequency|²

    so 0 is what frequencies alone give, and 1 is certainty. Every row is predicted by a probe that
    saw no row of its block, nor chose its penalty on it; one penalty serves all distances of a site.

    Parameters
    ----------
    stream, twin : mapping of site to array of shape (kept, width)
        Of the model, and of its untrained twin if there is one.
    reading : Reading
    kept : bool array of shape (row,)
        To which rows of the reading the stream belongs.
    classes : int array of shape (class,)
    law : array of shape (row, class), optional
        The model's own probabilities of the next token, which are scored the same way at ``k = 1``.
    ahead : sequence of int
        Distances k; 1 is the token that the model itself predicts.
    seed : int, default=0
        Of folds, bootstrap and shuffle.

    Returns
    -------
    xarray.Dataset
        ``skill`` and ``accuracy`` over (predictor, ahead), with ``low`` and ``high`` ends of their 95 %
        intervals over blocks. Predictors: the sites, "last token" (a ridge on the token just read),
        "shuffle" (the last site, targets permuted), "untrained: SITE" and "the model's own law".

    Raises
    ------
    ValueError
        If there are fewer than 200 rows, or only one class.
    """
    targets = np.stack([reading.ahead(k) for k in ahead], axis=1)[kept]
    there = (targets >= 0).all(1)
    block, rng = reading.block[kept][there], np.random.default_rng(seed)
    if there.sum() < LEAST_PROBED or len(np.unique(block)) < FOLDS:
        raise ValueError(
            f"{int(there.sum())} rows in {len(np.unique(block))} blocks; a probe needs {LEAST_PROBED} in {FOLDS}"
        )
    Y = np.stack([one_hot(column, classes) for column in targets[there].T], axis=1)
    if not (Y[:, 0].std(0) > 0).any():
        raise ValueError("one token only follows; there is nothing to tell apart")
    scored = _Scored(Y, block, seed, tuple(ahead))
    for site, X in stream.items():
        scored.probe(site, X[there])
    scored.probe("last token", _recent(reading.read[kept][there]))
    shuffled = rng.permutation(len(Y))
    last = list(stream)[-1]
    scored.probe("shuffle", stream[last][there], truth=Y[shuffled])
    for site, X in (twin or {}).items():
        scored.probe(f"untrained: {site}", X[there])
    if law is not None:
        own = law[kept][there]
        own = np.column_stack([own, (1 - own.sum(1)).clip(min=0)])
        scored.add("the model's own law", np.concatenate([own[:, None], Y[:, 1:]], axis=1), only=1)
    return scored.as_dataset(classes)


class _Scored:
    """Brier's scores and hits of each predictor by block, against those of frequencies alone."""

    def __init__(
        self,
        Y: Float32[np.ndarray, "row ahead kind"],
        block: Int[np.ndarray, " row"],
        seed: int,
        ahead: tuple[int, ...],
    ):
        self.Y, self.block, self.seed, self.ahead = Y, np.unique(block, return_inverse=True)[1], seed, ahead
        self.fold = folds_by_group(block, FOLDS, np.random.default_rng(seed))
        self.found: dict[str, dict[str, np.ndarray]] = {}

    def probe(self, name: str, X: Float32[np.ndarray, "row feature"], truth: Any = None) -> None:
        truth = self.Y if truth is None else truth
        self.add(name, held_out(X, truth, self.block, n_splits=FOLDS, seed=self.seed).prediction, truth)

    def add(self, name: str, guess: np.ndarray, truth: Any = None, only: int | None = None) -> None:
        truth = self.Y if truth is None else truth
        usual = np.empty(truth.shape)
        for i in range(FOLDS):
            usual[self.fold == i] = truth[self.fold != i].mean(0)
        error, null = (((truth - one) ** 2).sum(-1) for one in (guess, usual))
        hits = (guess.argmax(-1) == truth.argmax(-1)).astype(float)
        rng = np.random.default_rng(self.seed)
        top, bottom = block_sums(error.astype(float), self.block), block_sums(null, self.block)
        right, count = block_sums(hits, self.block), block_sums(np.ones(hits.shape), self.block)
        skill, accuracy = (ratio_interval(a, b, rng) for a, b in ((top, bottom), (right, count)))
        values = {
            "skill": 1 - top.sum(0) / bottom.sum(0),
            "skill_low": 1 - skill[1],
            "skill_high": 1 - skill[0],
            "accuracy": hits.mean(0),
            "accuracy_low": accuracy[0],
            "accuracy_high": accuracy[1],
        }
        if only is not None:
            values = {key: np.where(np.array(self.ahead) == only, one, np.nan) for key, one in values.items()}
        self.found[name] = values

    def as_dataset(self, classes: Int[np.ndarray, " class"]) -> xr.Dataset:
        keys = next(iter(self.found.values()))
        usual = np.empty(self.Y.shape)
        for i in range(FOLDS):
            usual[self.fold == i] = self.Y[self.fold != i].mean(0)
        return xr.Dataset(
            {key: (("predictor", "ahead"), np.stack([one[key] for one in self.found.values()])) for key in keys},
            coords={"predictor": list(self.found), "ahead": list(self.ahead)},
            attrs={
                "protocol": "held-out",
                "in_sample": False,
                "folds": f"{FOLDS}, by block of the text; penalty by nested folds, one for all distances",
                "rows": len(self.Y),
                "blocks": int(self.block.max()) + 1,
                "classes": f"{len(classes)} most frequent tokens, and any other",
                "most_frequent_accuracy": (usual.argmax(-1) == self.Y.argmax(-1)).mean(0).tolist(),
                "unigram_brier": ((self.Y - usual) ** 2).sum(-1).mean(0).tolist(),
                "seed": self.seed,
            },
        )


def _recent(tokens: Int[np.ndarray, " row"]) -> Float32[np.ndarray, "row kind"]:
    """The token just read, as indicators; the rarest of very many are one."""
    return one_hot(tokens, frequent(tokens, MOST_CELLS))
