"""Which earlier moments of a story are like this one: by its words alone, by the same words, by context, by a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int

from nextlens.analyses.encoding_data import Subject
from nextlens.analyses.encoding_spaces import Reader
from nextlens.analyses.induction_brain_recipe import RecallRecipe
from nextlens.models.induction.residual_head import HeadConfig, ResidualHead
from nextlens.models.induction.retrieval import retrieval
from nextlens.models.induction.similarity import cosine_distance, half_jeffreys
from nextlens.models.objectives.matching import matching_losses
from nextlens.probes.recall import Matches, longest_run, similar
from nextlens.probes.story_rows import columns_like, rows_of_stories
from nextlens.probes.words_to_volumes import SumOfWords, label_words

#: Weight of a word of frequency p in a context is ``RARE / (RARE + p)`` (Arora, Liang and Ma, ICLR 2017).
RARE = 1e-3
#: Words in a step of distillation, the width of a feature, the learning rate, and the student's temperature.
QUERIES, KEYS, FEATURE, RATE, TEMPERATURE = 128, 512, 64, 3e-3, 0.1


class Distilled(NamedTuple):
    """A head, and how well it finds what the laws find, before and after, on words that were left out."""

    head: ResidualHead
    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True, eq=False)
class Matching:
    """Finds the matches of one subject, matcher by matcher.

    Attributes
    ----------
    subject : Subject
    recipe : RecallRecipe
    reader : Reader, optional
    heads : dict
        Of a run, by what was heard: filled as heads are distilled.
    """

    subject: Subject
    recipe: RecallRecipe
    reader: Reader | None
    heads: dict[tuple[str, ...], Distilled]

    def of(self, matcher: str, gap: int) -> Matches:
        """Matches at least ``gap`` volumes back."""
        words, rows = self.subject.heard.words, self.subject.heard.response
        if matcher == "exact":
            return longest_run(words, rows, gap=gap)
        return similar(self.context(matcher), gap=gap, most=self.recipe.most)

    def context(self, matcher: str) -> xr.DataArray:
        """What moments are compared by, dims (row, feature): of words up to the end of each volume."""
        words, rows = self.subject.heard.words, self.subject.heard.rows
        if matcher in ("momentary", "embedding"):
            vectors = self.subject.vectors.of(words).astype(np.float32)
            if matcher == "momentary":
                outside = self.subject.facts.get("outside", "refuse")
                return SumOfWords(rows, outside=outside).fit_transform(vectors)
            return last_words(vectors, words, rows, self.recipe.words, rarity(words, self._trained()))
        states = self.reader.read(words, (self.site,)).states(self.site)
        if matcher == "distilled":
            states = label_words(_of_head(self._head(), states.values), words)
        else:  # a mean that all states share would make all alike
            states = states - states.values[self._trained()].mean(0)
        return last_words(states, words, rows, 1, None)

    @property
    def site(self) -> str:
        """Where the model is read."""
        if self.recipe.site:
            return self.recipe.site
        blocks = [site.replace("hook_", "") for site in self.reader.model.sites if site.endswith("hook_resid_post")]
        return blocks[int(0.6 * (len(blocks) - 1))]

    def _trained(self) -> np.ndarray:
        """Which words are of training stories."""
        return ~np.isin(self.subject.heard.words.story.values, self.subject.tested)

    def _head(self) -> ResidualHead:
        """The head, distilled once from the words of the training stories; listeners of the same stories share it."""
        last = self.reader.model.sites[-1]
        recorded = self.reader.read(self.subject.heard.words, (self.site, last))
        heard = tuple(sorted(recorded.keys.values()))
        if heard not in self.heads:
            at = np.flatnonzero(self._trained())
            given = (recorded.states(self.site).values[at], recorded.states(last).values[at])
            rng = np.random.default_rng([self.recipe.seed, 5])
            unembedding = self.reader.model.unembedding.detach()
            self.heads[heard] = distilled(*given, unembedding, self.recipe.distillation, rng, self.site)
        return self.heads[heard].head


def distilled(
    states: Float[np.ndarray, "word width"],
    read: Float[np.ndarray, "word last"],
    unembedding: Any,
    steps: int,
    rng: np.random.Generator,
    site: str,
) -> Distilled:
    """A linear head on recorded states, near where the model's laws of the next token are near.

    The published losses (:mod:`~nextlens.models.objectives.matching`) on words drawn anew at each step; laws are
    what the unembedding makes of ``read``. States are centred and scaled by those of training words.

    Raises
    ------
    ValueError
        If there are too few words to draw from.
    """
    if len(states) < 2 * (QUERIES + KEYS):
        raise ValueError(f"{len(states)} words are too few to distil from; {2 * (QUERIES + KEYS)} are needed")
    order = rng.permutation(len(states))
    left_out, drawn = order[: QUERIES + KEYS], order[QUERIES + KEYS :]
    head = ResidualHead(HeadConfig(site, states.shape[1], FEATURE, int(rng.integers(2**31))))
    scale = float(np.sqrt((states[drawn[:2000]].astype(np.float64) ** 2).mean()))
    mean = torch.from_numpy(states[drawn].mean(0))
    head.register_buffer("centre", mean)
    head.register_buffer("scale", torch.tensor(scale))
    optimiser = torch.optim.Adam(head.parameters(), lr=RATE)
    before = _found(head, states, read, unembedding, left_out)
    for _ in range(steps):
        words = rng.choice(drawn, QUERIES + KEYS, replace=False)
        features = _scaled(head, torch.from_numpy(states[words]))
        student = cosine_distance(features[:QUERIES], features[QUERIES:]) / TEMPERATURE
        losses = matching_losses(student, _laws_apart(read[words], unembedding))
        optimiser.zero_grad()
        (losses.nearest + losses.reverse).mean().backward()
        optimiser.step()
    return Distilled(head, before, _found(head, states, read, unembedding, left_out))


def last_words(
    features: xr.DataArray,
    words: xr.Dataset,
    rows: xr.DataArray,
    n: int,
    weight: Float[np.ndarray, " word"] | None,
) -> xr.DataArray:
    """Weighted means of the last ``n`` words up to the end of each volume, dims (row, feature); 0 before any word.

    No word of another story, or of a later volume, is among them.
    """
    weight = np.ones(len(features)) if weight is None else weight
    values = np.zeros((len(rows), features.shape[1]), np.float32)
    for story, at in rows_of_stories(rows):
        mine = np.flatnonzero(words.story.values == story)
        weighed = weight[mine, None] * features.values[mine]
        total = np.concatenate([np.zeros((1, features.shape[1])), np.cumsum(weighed, 0)])
        mass = np.concatenate([[0.0], np.cumsum(weight[mine])])
        end = np.searchsorted(words.volume.values[mine], rows.volume.values[at], side="right")
        start = (end - n).clip(min=0)
        some = end > 0
        values[at[some]] = (total[end] - total[start])[some] / (mass[end] - mass[start])[some, None]
    return columns_like(rows, values)


def rarity(words: xr.Dataset, counted: np.ndarray) -> Float[np.ndarray, " word"]:
    """``a / (a + p)`` with p the frequency of a word among those ``counted``."""
    entry, which = np.unique(words.text.values, return_inverse=True)
    count = np.bincount(which[counted], minlength=len(entry))
    return (RARE / (RARE + count / max(1, count.sum())))[which]


def _scaled(head: ResidualHead, states: torch.Tensor) -> torch.Tensor:
    return head.of((states - head.centre) / head.scale)


@torch.no_grad()
def _of_head(head: ResidualHead, states: Float[np.ndarray, "word width"]) -> Float[np.ndarray, "word feature"]:
    return _scaled(head, torch.from_numpy(states)).numpy()


@torch.no_grad()
def _laws_apart(read: Float[np.ndarray, "word width"], unembedding: Any) -> torch.Tensor:
    laws = (torch.from_numpy(read).to(unembedding) @ unembedding).float().log_softmax(-1)
    return half_jeffreys(laws[:QUERIES], laws[QUERIES:]).cpu()


@torch.no_grad()
def _found(
    head: ResidualHead, states: np.ndarray, read: np.ndarray, unembedding: Any, words: Int[np.ndarray, " word"]
) -> dict[str, float]:
    features = _scaled(head, torch.from_numpy(states[words]))
    student = cosine_distance(features[:QUERIES], features[QUERIES:]).double().numpy()
    found = retrieval(student, _laws_apart(read[words], unembedding).double().numpy())
    return {name: float(value) for name, value in found._asdict().items()}
