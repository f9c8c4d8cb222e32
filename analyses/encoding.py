"""How well do features of words predict a listener's responses? Every score beside its null, control and ceiling.

A space is always scored together with word rate, and word rate by itself: what any rhythm of speech would give.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from sklearn.pipeline import make_pipeline

from nextlens.analyses.encoding_data import Subject
from nextlens.analyses.encoding_recipe import EncodingRecipe
from nextlens.analyses.encoding_spaces import RATE, Spaces
from nextlens.probes.band_components import BandComponents
from nextlens.probes.banded_ridge import BandedRidgeCV
from nextlens.probes.encoding import encode
from nextlens.probes.ridge_cv import RidgeCV
from nextlens.probes.story_rows import rows_of_stories
from nextlens.probes.voxel_nulls import difference_interval
from nextlens.probes.words_to_volumes import bands_of

#: All spaces in one banded fit; and without one of them.
JOINT, WITHOUT = "joint", "joint without "


@dataclass(frozen=True, eq=False)
class Scored:
    """What one subject's responses gave.

    Attributes
    ----------
    models : dict of str to Dataset
        Of :func:`~nextlens.probes.encoding.encode`, by the name of the space; ``joint`` and ``joint without ...``.
    sites : tuple of str
        Those that were looked at.
    best_site : str
        The one with the largest mean R² on rows held out of the training stories; empty if there is none.
    """

    models: dict[str, xr.Dataset]
    sites: tuple[str, ...]
    best_site: str


def scored_models(subject: Subject, spaces: Spaces, recipe: EncodingRecipe) -> Scored:
    """Every space alone with word rate, then all together, then all but one.

    The site that joins the others is chosen on training stories only; its own score on tested stories is one of as many
    as there are sites.
    """
    models = {RATE: scored(subject, spaces.of(), recipe)}
    for name in [*recipe.wanted, *spaces.sites]:
        models[name] = scored(subject, spaces.of(name), recipe, narrowed=name if name in spaces.sites else "")
    validated = {site: float(np.nanmean(models[site].validation_r2)) for site in spaces.sites}
    best = max(validated, key=lambda site: validated[site], default="")
    together = [name for name in (*recipe.wanted, best) if name and not name.startswith("shuffled")]
    if len(together) > 1:
        models[JOINT] = scored(subject, spaces.of(*together), recipe, narrowed=best, banded=True)
        for left_out in together:
            rest = [name for name in together if name != left_out]
            models[WITHOUT + left_out] = scored(
                subject, spaces.of(*rest), recipe, narrowed=best if best in rest else "", banded=True
            )
    return Scored(models, spaces.sites, best)


def scored(
    subject: Subject, X: xr.DataArray, recipe: EncodingRecipe, *, narrowed: str = "", banded: bool = False
) -> xr.Dataset:
    """One design against one subject.

    Parameters
    ----------
    narrowed : str, default=""
        The band that is brought to few components, on training rows.
    banded : bool, default=False
        Whether each band has a penalty of its own, and the score is split over bands.

    Returns
    -------
    Dataset
        Of :func:`~nextlens.probes.encoding.encode`. ``attrs["best_at_edge"]`` is the share of targets that chose the
        least or the largest penalty.
    """
    steps = [BandComponents(narrowed, recipe.components)] if narrowed else []
    if banded:
        first = next(iter(subject.cv.split(X, None, X.story.values)))[0]
        bands = bands_of(steps[0].fit(X[first]).transform(X[first[:1]]) if steps else X)
        model = BandedRidgeCV(
            bands,
            recipe.penalties,
            cv=subject.inner,
            candidates=recipe.candidates,
            refinements=recipe.candidates // 2,
            random_state=recipe.seed,
        )
    else:
        model = RidgeCV(recipe.penalties, cv=subject.inner)
    with edges_counted() as at_edge:
        found = encode(
            X,
            subject.heard.response,
            model=make_pipeline(*steps, model) if steps else model,
            cv=subject.cv,
            rng=np.random.default_rng([recipe.seed, 3]),
            response=subject.response,
            null=recipe.null,
            draws=recipe.draws,
            ceiling=subject.ceiling,
            gap=recipe.gap,
            partition=banded,
        )
    ends = np.isin(found.alpha, recipe.penalties[[0, -1]])
    return found.assign_attrs(best_at_edge=float(ends[np.isfinite(found.alpha)].mean()), warned=len(at_edge))


@contextmanager
def edges_counted() -> Iterator[list[Any]]:
    """Keep the ridges' warnings about penalties at an end of the grid, which the result counts; let others be."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept: list[Any] = []
        yield kept
    for one in caught:
        if "penalt" in str(one.message):
            kept.append(one)
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def differences(
    models: dict[str, xr.Dataset], pairs: Sequence[tuple[str, str]], recipe: Any
) -> dict[tuple[str, str], dict[str, Any]]:
    """The mean over targets of ``r(one) - r(other)``, for each pair, with its 95 % interval.

    Blocks of 20 volumes are drawn inside stories, the same for both: see :func:`difference`.
    """
    return {(one, other): difference(models[one], models[other], recipe) for one, other in pairs}


def difference(one: xr.Dataset, other: xr.Dataset, recipe: Any) -> dict[str, Any]:
    """The mean over targets of ``r(one) - r(other)`` on the same rows, with its 95 % interval, and in each story.

    Parameters
    ----------
    one, other : Dataset
        Of :func:`~nextlens.probes.encoding.encode`.
    recipe
        Anything with a ``seed``.
    """
    kept = (one.state == "kept").values & (other.state == "kept").values
    labels = one.prediction.rename(story_of_row="story") if "story_of_row" in one.coords else one.prediction
    stories = [at for _, at in rows_of_stories(labels)]
    both = [found.prediction.values[:, kept] for found in (one, other)]
    draw = np.random.default_rng([recipe.seed, 4])
    each, (low, high) = difference_interval(one.measured.values[:, kept], *both, stories, draw)
    by_story = (one.r_story - other.r_story).values[:, kept].mean(1)
    return {
        "difference": float((one.r - other.r).values[kept].mean()),
        "interval_95": [float(low), float(high)],
        "by_story": dict(zip(one.story.values.tolist(), map(float, by_story), strict=True)),
        "targets_above": int((each[0] > 0).sum()),
        "targets_below": int((each[1] < 0).sum()),
        "verdict": "above" if low > 0 else "below" if high < 0 else "not told apart",
    }


def pairs_of(found: Scored, recipe: EncodingRecipe) -> list[tuple[str, str]]:
    """What is compared: spaces with word rate, sites with vectors, all with all but one."""
    against = "vectors" if "vectors" in found.models else RATE
    pairs = [(name, RATE) for name in recipe.wanted]
    pairs += [(site, against) for site in found.sites]
    pairs += [(JOINT, name) for name in found.models if name.startswith(WITHOUT)]
    return pairs
