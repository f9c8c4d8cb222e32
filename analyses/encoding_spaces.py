"""Feature spaces of a listener's words, brought to volumes: word rate, vectors, surprisal, entropy, states at sites."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from sklearn.pipeline import make_pipeline

from nextlens.analyses.encoding_data import Subject
from nextlens.analyses.encoding_recipe import INFORMATION, VECTORS, EncodingRecipe
from nextlens.probes.hemodynamics import Delays, ZScore
from nextlens.probes.story_rows import columns_like, refuse_unlabelled, rows_of_stories
from nextlens.probes.word_vectors import shuffled_vectors, word_rate
from nextlens.probes.words_to_volumes import Lanczos, MeanOfWords, SumOfWords, beside

RATE = "word rate"
#: Sites of a model that are looked at unless told.
MOST_SITES = 8


@dataclass(frozen=True, eq=False)
class Reader:
    """A language model that is loaded when it is first needed, and what it made of words, on disk.

    Attributes
    ----------
    recipe : EncodingRecipe
        Anything with ``checkpoint``, ``sites``, ``length`` and ``stride``.
    folder : path
        Where recordings are kept.
    """

    recipe: Any
    folder: str | os.PathLike[str]
    device: str = "cpu"
    progress: bool = False

    @cached_property
    def model(self) -> Any:
        from nextlens.models import checkpoints

        model = checkpoints.load(self.recipe.checkpoint, device=self.device)
        if getattr(model, "vocabulary", None) is None:
            raise ValueError(f"checkpoint={self.recipe.checkpoint!r} says nothing of the texts that its tokens spell")
        return model

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """Short names of what is looked at, in the order in which it is computed."""
        if self.recipe.sites:
            return tuple(self.recipe.sites)
        blocks = [site.replace("hook_", "") for site in self.model.sites if site.endswith("hook_resid_post")]
        chosen = np.unique(np.linspace(0, len(blocks) - 1, min(MOST_SITES, len(blocks))).round().astype(int))
        return tuple(blocks[i] for i in chosen)

    def read(self, words: xr.Dataset, sites: tuple[str, ...] = ()) -> Any:
        """A :class:`~nextlens.analyses.word_recordings.WordRecording` of ``sites``, of the recipe's if none."""
        from nextlens.analyses.word_recordings import recorded_words

        return recorded_words(
            self.model,
            words,
            self.model.vocabulary,
            sites or self.sites,
            Path(self.folder),
            length=self.recipe.length,
            stride=self.recipe.stride,
            progress=self.progress,
        )


@dataclass(frozen=True, eq=False)
class Spaces:
    """The designs of one subject, space by space, all of the same rows; states are made one site at a time.

    Attributes
    ----------
    plain : dict of str to DataArray
        Dims (row, feature), z-scored by story and delayed.
    recorded : WordRecording, optional
    sites : tuple of str
    """

    plain: Mapping[str, xr.DataArray]
    subject: Subject
    recipe: EncodingRecipe
    recorded: Any = None
    sites: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def of(self, *names: str) -> xr.DataArray:
        """Some spaces side by side, word rate first.

        Raises
        ------
        KeyError
            If one is not there.
        """
        parts = [self.plain[RATE]]
        for name in names:
            if name in self.sites:
                parts.append(delayed(self.subject, self.recorded.states(name), self.recipe, mean=True))
            else:
                parts.append(self.plain[name])
        return beside([part.drop_vars("feature", errors="ignore") for part in parts])


def spaces_of(subject: Subject, recipe: EncodingRecipe, reader: Reader | None) -> Spaces:
    """All spaces that the recipe wants of one subject's words.

    Raises
    ------
    ValueError
        If surprisal is wanted and there is no model to tell it.
    """
    words, facts = subject.heard.words, {}
    recorded = None if reader is None else reader.read(words)
    information = subject.information if recorded is None else recorded.information()
    features = {RATE: word_rate(words)}
    for name in recipe.wanted:
        if name in INFORMATION:
            known = () if information is None else information.feature.values.tolist()
            if name not in known:
                raise ValueError(f"spaces={name!r} is what a language model says; name one: --checkpoint smollm2-135m")
            features[name] = information.isel(feature=[known.index(name)])
        else:
            rng = np.random.default_rng([recipe.seed, 2])
            vectors = subject.vectors if name == VECTORS else shuffled_vectors(subject.vectors, rng)
            features[name] = vectors.of(words)
            facts[f"words without {name}"] = features[name].attrs["n_unknown"]
            features[name] = features[name].assign_coords(band=("feature", [name] * features[name].shape[1]))
    plain = {name: delayed(subject, one, recipe) for name, one in features.items()}
    if recipe.onset:
        plain[RATE] = beside([plain[RATE], beginnings(plain[RATE], recipe.onset)])
    return Spaces(plain, subject, recipe, recorded, () if reader is None else reader.sites, facts)


def beginnings(rows: xr.DataArray, volumes: int) -> xr.DataArray:
    """A column for each of the first ``volumes`` volumes of a story, 1 there and 0 elsewhere, z-scored by story.

    They take up the mean response to the beginning of a story, whatever its shape, and nothing else.

    Parameters
    ----------
    rows : DataArray
        Whose rows, labelled by story and volume, are meant.
    volumes : int

    Raises
    ------
    ValueError
        If rows have no labels, or a story has not twice as many volumes: most of it would be its beginning.
    """
    refuse_unlabelled("rows", rows)
    name, shortest = min(((name, len(at)) for name, at in rows_of_stories(rows)), key=lambda one: one[1])
    if not 1 <= volumes <= shortest // 2:
        raise ValueError(f"onset={volumes} must be from 1 to {shortest // 2}: story {name!r} has {shortest} volumes")
    values = np.zeros((rows.sizes["row"], volumes), dtype=np.float32)
    for _, at in rows_of_stories(rows):
        values[at[:volumes], np.arange(volumes)] = 1.0
    along = {"delay": np.zeros(volumes, dtype=int), "source": np.arange(volumes), "band": np.repeat(RATE, volumes)}
    return ZScore().fit_transform(
        columns_like(rows, values, **{name: (rows.dims[1], one) for name, one in along.items()})
    )


def delayed(subject: Subject, features: xr.DataArray, recipe: Any, *, mean: bool = False) -> xr.DataArray:
    """Features of words as a design: to volumes, z-scored by story, delayed.

    Numbers of words are summed over a volume, and with ``mean`` averaged, as states are: their size says nothing.
    """
    rows, outside = subject.heard.rows, subject.facts.get("outside", "refuse")
    if recipe.resampling == "lanczos":
        brought = Lanczos(rows, normalise=mean, outside=outside)
    else:
        brought = (MeanOfWords if mean else SumOfWords)(rows, outside=outside)
    features = features.astype(np.float32, copy=False)
    return make_pipeline(brought, ZScore(), Delays(tuple(recipe.delays))).fit_transform(features)
