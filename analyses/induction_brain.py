"""Does what followed last time predict the next response? Copies of earlier moments as an added band, beside controls.

The claim is *matched less lagged*: a copy from moments that merely lie as far back has the same slow noise in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float
from sklearn.pipeline import make_pipeline

from nextlens.analyses.encoding import edges_counted
from nextlens.analyses.encoding_data import Subject
from nextlens.analyses.encoding_spaces import delayed, spaces_of
from nextlens.analyses.induction_brain_recipe import RecallRecipe
from nextlens.probes.banded_ridge import BandedRidgeCV
from nextlens.probes.encoding import encode
from nextlens.probes.hemodynamics import Delays, ZScore
from nextlens.probes.recall import Matches, copied, followed, lagged_matches, permuted_matches, uniform_matches
from nextlens.probes.ridge_cv import RidgeCV
from nextlens.probes.story_rows import columns_like, rows_of_stories
from nextlens.probes.word_vectors import word_rate
from nextlens.probes.words_to_volumes import SumOfWords, beside

#: Shares of base and copy that are tried; the first leaves the copy out, so the base is among the models.
SHARES = np.array([[1.0, 0.0], [0.999, 0.001], [0.99, 0.01], [0.9, 0.1], [0.5, 0.5]])

#: What stands where the matches stood. All have their number, their weights, and the gap.
CONTROLS = {"lagged": lagged_matches, "uniform": uniform_matches, "permuted": permuted_matches}
BASE, MATCHED = "base", "matched"
#: Only where no moment matched: with short gaps, the beginning of every story, which has a response of its own.
NO_MATCH = "no match"
SHARED = ", one penalty"


class Configuration(NamedTuple):
    """One way to recall."""

    matcher: str
    value: str
    gap: int

    def __str__(self) -> str:
        return f"{self.matcher}, {self.value}, gap {self.gap}"


@dataclass(frozen=True, eq=False)
class Listener:
    """One subject with the base design that copies are added to.

    Attributes
    ----------
    subject : Subject
    base : DataArray
        Word rate and vectors (of a simulated listener surprisal too), delayed: dims (row, feature).
    heard : DataArray
        Word rate and vectors of each volume, z-scored and not delayed: what a stimulus copy copies.
    """

    subject: Subject
    base: xr.DataArray
    heard: xr.DataArray
    recipe: RecallRecipe

    @property
    def response(self) -> xr.DataArray:
        return self.subject.heard.response


def refuse_too_short(subject: Subject, recipe: RecallRecipe) -> None:
    """Raise where there is nothing to recall, or no other story to take a control's matches from.

    Raises
    ------
    ValueError
        If there is one story only, or a gap is as long as the longest.
    """
    rows = subject.heard.response
    lengths = [int(np.ptp(rows.volume.values[at])) for _, at in rows_of_stories(rows)]
    if len(lengths) < 2:
        raise ValueError(
            f"data={recipe.data!r} holds one story of {subject.name!r}; recall needs several, since a control takes "
            "the matches of another story"
        )
    for gap in recipe.lags:
        if gap >= max(lengths):
            raise ValueError(
                f"gaps={gap} leaves nothing to recall: the longest story of {subject.name!r} ends {max(lengths)} "
                "volumes after it began"
            )


def listener(subject: Subject, recipe: RecallRecipe) -> Listener:
    """A subject's base design."""
    spaces = spaces_of(subject, recipe.encoding, None)
    parts = [spaces.of("vectors")]
    if subject.information is not None:
        parts.append(delayed(subject, subject.information, recipe.encoding).drop_vars("feature", errors="ignore"))
    words = subject.heard.words
    features = beside(
        [part.drop_vars("feature", errors="ignore") for part in (word_rate(words), subject.vectors.of(words))]
    )
    outside = subject.facts.get("outside", "refuse")
    brought = make_pipeline(SumOfWords(subject.heard.rows, outside=outside), ZScore())
    return Listener(subject, beside(parts), brought.fit_transform(features.astype(np.float32)), recipe)


def base_scores(one: Listener) -> xr.Dataset:
    """What the base predicts by itself."""
    return _encoded(one, one.base, RidgeCV(_penalties(one.recipe), cv=one.subject.inner))


def recall_scores(one: Listener, matches: Matches, how: Configuration) -> dict[str, xr.Dataset]:
    """The base with copies of matched moments, and of each control's: banded, and under one penalty for both bands.

    And the base with nothing but the columns that say where there was no match.
    """
    rng = np.random.default_rng([one.recipe.seed, 6])
    several = {MATCHED: matches, **{name: control(matches, rng) for name, control in CONTROLS.items()}}
    found = {name: banded_scores(one, copy_of(one, some, how)) for name, some in several.items()}
    found[NO_MATCH] = banded_scores(one, without_a_match(one, matches, how))
    for name in (MATCHED, "lagged"):
        found[name + SHARED] = _shared_scores(one, copy_of(one, several[name], how))
    return found


def copy_of(one: Listener, matches: Matches, how: Configuration) -> xr.DataArray:
    """The columns that are added: responses at the phase of the match, or the words after it, delayed."""
    if how.value == "response":
        first = one.response.isel(target=slice(one.recipe.copied)).astype(np.float64)
        return ZScore().fit_transform(copied(first, matches, one.recipe.delays))
    steps = make_pipeline(ZScore(), Delays(tuple(one.recipe.delays)))
    return steps.fit_transform(followed(one.heard, matches))


def without_a_match(one: Listener, matches: Matches, how: Configuration) -> xr.DataArray:
    """Of :func:`copy_of`, the columns that say where there was nothing to copy, and no copy."""
    nothing = replace(one, heard=one.heard.isel(feature=slice(0)))
    if how.value == "response":
        bare = one.response.isel(target=slice(0)).astype(np.float64)
        return ZScore().fit_transform(copied(bare, matches, one.recipe.delays))
    return copy_of(nothing, matches, how)


def banded_scores(one: Listener, added: xr.DataArray) -> xr.Dataset:
    """The base and a copy, each with a penalty of its own for every target; the copy may be left out."""
    X = columns_like(one.base, np.concatenate([one.base.values, added.values], axis=1))
    bands = {BASE: slice(0, one.base.shape[1]), "copy": slice(one.base.shape[1], X.shape[1])}
    model = BandedRidgeCV(bands, _penalties(one.recipe), cv=one.subject.inner, candidates=SHARES, refinements=0)
    return _encoded(one, X, model)


def planted_scores(one: Listener, matches: Matches, how: Configuration, strength: float) -> dict[str, xr.Dataset]:
    """As :func:`recall_scores`, with recall put into the real responses: how large must it be to be seen?

    To each copied target, z-scored, ``strength`` times what followed its matches two volumes later is added, z-scored
    too; the copy is then made of responses that hold it.
    """
    first = slice(one.recipe.copied)
    response = one.response.isel(target=first).astype(np.float64)
    effect = ZScore().fit_transform(copied(response, matches, (2,), indicator=False))
    planted = ZScore().fit_transform(response + strength * effect.values)
    heard = replace(one.subject.heard, response=planted)
    ceiling = "responses were changed"
    changed = replace(one, subject=replace(one.subject, heard=heard, ceiling=ceiling))
    lagged = lagged_matches(matches, np.random.default_rng([one.recipe.seed, 6]))
    several = {MATCHED: matches, "lagged": lagged}
    return {name: banded_scores(changed, copy_of(changed, some, how)) for name, some in several.items()}


def moments(one: Listener, matches: Matches, found: Mapping[str, xr.Dataset], most: int = 5) -> list[dict[str, Any]]:
    """The tested volumes at which matched copies help most over lagged ones, with their words and the words recalled.

    The gain of a volume is the mean over targets of ``z(y) (z(matched) - z(lagged))``, with z-scores over the tested
    rows; averaged over three volumes of its story, since responses are slow. No two are nearer than ten volumes.
    """
    kept = (found[MATCHED].state == "kept").values
    matched, lagged = found[MATCHED], found["lagged"]
    truth, guess, other = (_z(one.values[:, kept]) for one in (matched.measured, matched.prediction, lagged.prediction))
    each = (truth * (guess - other)).mean(1)
    labels = found[MATCHED].prediction
    story, volume = labels.story_of_row.values, labels.volume.values
    gain = np.empty(len(each))
    for name in dict.fromkeys(story.tolist()):
        at = np.flatnonzero(story == name)
        gain[at] = np.convolve(each[at], np.ones(3) / 3, mode="same")
    chosen: list[int] = []
    for row in np.argsort(-gain):
        if all(story[row] != story[other] or abs(volume[row] - volume[other]) >= 10 for other in chosen):
            chosen.append(int(row))
        if len(chosen) == most:
            break
    return [
        {
            "story": str(story[row]),
            "volume": int(volume[row]),
            "gain": float(gain[row]),
            "words": words_of(one.subject, story[row], int(volume[row])),
            "recalled": _recalled(one, matches, story[row], int(volume[row])),
        }
        for row in chosen
    ]


def words_of(subject: Subject, story: str, volume: int, back: tuple[int, int] = (4, 2)) -> str:
    """What was said from ``back[0]`` to ``back[1]`` volumes before: what a response follows."""
    words = subject.heard.words
    near = (words.volume.values >= volume - back[0]) & (words.volume.values <= volume - back[1])
    return " ".join(words.text.values[(words.story.values == story) & near].tolist())


def _recalled(one: Listener, matches: Matches, story: str, volume: int) -> list[str]:
    """The words of the moments that the ones two to four volumes back were matched to, the heaviest first."""
    rows = matches.rows
    now = (rows.story.values == story) & (rows.volume.values >= volume - 4) & (rows.volume.values <= volume - 2)
    mine = np.flatnonzero(np.isin(matches.row, np.flatnonzero(now)))
    best = mine[np.argsort(-matches.weight[mine], kind="stable")][:3]
    return [words_of(one.subject, story, int(rows.volume.values[matches.earlier[at]]), (1, -1)) for at in best.tolist()]


def _shared_scores(one: Listener, added: xr.DataArray) -> xr.Dataset:
    X = columns_like(one.base, np.concatenate([one.base.values, added.values], axis=1))
    return _encoded(one, X, RidgeCV(_penalties(one.recipe), cv=one.subject.inner))


def _encoded(one: Listener, X: xr.DataArray, model: Any) -> xr.Dataset:
    with edges_counted():
        return encode(
            X,
            one.response,
            model=model,
            cv=one.subject.cv,
            rng=np.random.default_rng([one.recipe.seed, 3]),
            response=one.subject.response,
            draws=one.recipe.draws,
            ceiling=one.subject.ceiling,
        )


def _penalties(recipe: RecallRecipe) -> Float[np.ndarray, " alpha"]:
    return np.logspace(np.log10(recipe.least_alpha), np.log10(recipe.largest_alpha), recipe.alphas)


def _z(values: np.ndarray) -> np.ndarray:
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)
