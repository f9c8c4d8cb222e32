"""From a design and responses to a score of every target, beside its null, its ceiling and what time alone scores."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from nextlens.models.arguments import at_least, one_of
from nextlens.probes.ridge import refuse_not_finite
from nextlens.probes.story_folds import GAP, Split, guarded, splits_stories
from nextlens.probes.story_rows import refuse_unlabelled, row_labels, rows_of_stories, same_rows
from nextlens.probes.time_only import WIDTHS, time_only
from nextlens.probes.variance_partition import product_measure
from nextlens.probes.voxel_nulls import (
    DRAWS,
    Null,
    block_permutation_null,
    false_discovery_rates,
    p_values,
    rolling_null,
)
from nextlens.probes.voxel_scores import STATES, correlations, r_squared, target_states

NULLS = {"rolling": rolling_null, "block permutation": block_permutation_null}

#: Targets whose nulls are drawn at a time.
TARGETS = 2000

#: Where a fitted estimator may keep a penalty for each target.
ALPHAS = ("alpha_", "alphas_", "best_alphas_")

#: And R² on the rows that it held out to choose them.
VALIDATION = ("cv_score_",)


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a model said of rows it was not fitted on, and what was measured there.

    Attributes
    ----------
    truth, guess : arrays of shape (row, target)
        Tested rows only, in the order of the design; targets that were kept.
    rows : DataArray
        Their labels.
    fold : array of shape (row,)
    alpha : array of shape (fold, target), or None
        The penalty of each target, where the model tells it.
    validation : array of shape (fold, target), or None
        R² on rows that the model held out of its training rows to choose penalties, where it tells it.
    parts : dict of str to array of shape (row, target)
        What each band adds to the guess, where the model tells it and it was asked for.
    """

    truth: Float[np.ndarray, "row target"]
    guess: Float[np.ndarray, "row target"]
    rows: xr.DataArray
    fold: Int[np.ndarray, " row"]
    alpha: Float[np.ndarray, "fold target"] | None = None
    validation: Float[np.ndarray, "fold target"] | None = None
    parts: dict[str, Float[np.ndarray, "row target"]] = field(default_factory=dict)

    @property
    def stories(self) -> dict[str, Int[np.ndarray, " _"]]:
        """The rows of each story, in order of time."""
        return dict(rows_of_stories(self.rows))


def encode(
    X: xr.DataArray,
    Y: xr.DataArray,
    *,
    model: BaseEstimator,
    cv: Any,
    rng: np.random.Generator,
    response: BaseEstimator | None = None,
    null: str = "rolling",
    draws: int = DRAWS,
    ceiling: xr.Dataset | str = "no ceiling was asked for",
    widths: Sequence[float] = WIDTHS,
    gap: int = GAP,
    allow_leakage: bool = False,
    partition: bool = False,
) -> xr.Dataset:
    """Fit on some stories, predict others, and say what each score is worth.

    Parameters
    ----------
    X : DataArray, dims (row, feature)
        A design: words brought to volumes, z-scored, delayed.
    Y : DataArray, dims (row, target)
        Responses, of voxels, components or regions. It is brought to the rows of ``X`` by label.
    model : estimator
        Cloned for each fold. If its ``fit`` takes ``groups``, it is told the story of each row.
    cv : splitter
        :class:`~nextlens.probes.story_folds.StoryFolds`, ``HeldOutStories`` or ``BlocksOfStory``; any other is let
        through only if it trains on no neighbour of what it tests.
    rng : numpy.random.Generator
        For the null.
    response : transformer, optional
        Treats the responses of the training rows and of the tested rows, each by themselves: detrending, z-scores.
    null : {"rolling", "block permutation"}
    draws : int, default=1000
    ceiling : Dataset, or str
        Of :func:`~nextlens.probes.noise_ceilings.noise_ceiling`; or the reason why there is none.
    widths : sequence of float, default=(1, 2, 4)
        Of the control that knows only time, in volumes.
    gap : int, default=5
        Rows of one story at most so many volumes apart are neighbours.
    allow_leakage : bool, default=False
        Whether neighbours may be on both sides, for a demonstration. The result says so.
    partition : bool, default=False
        Whether to say what each band of a banded model gives, by the product measure. It holds a prediction a band.

    Returns
    -------
    Dataset
        Along ``target``: ``state`` ("kept", "constant", "not finite"; scores of the last two are NaN), ``r``, ``r2``,
        ``p``, ``q``, ``null_q95``, ``ceiling``; ``r_story`` (story, target); ``control_r`` (width, target), 0 where
        stories are held out whole; ``alpha`` and ``validation_r2`` (fold, target) if known; ``prediction`` and
        ``measured`` (row, target); with ``partition``, ``band_r2`` and ``band_r`` (band, target). Of the mean over
        targets kept: ``mean_r``, ``mean_p``, ``mean_null_q95``. ``control_exceeds``: whether time alone scores above
        the null.

    Raises
    ------
    ValueError
        If a split leaks, a row is tested twice, a story is on one side only, a story is too short for its null, no
        target varies, X is not finite, or an argument is not what it must be; before anything is fitted.
    """
    draw = NULLS[one_of("null", null, NULLS)]
    at_least("draws", draws, 1)
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng={rng!r} must be a generator, such as np.random.default_rng(0)")
    refuse_unlabelled("X", X)
    refuse_unlabelled("Y", Y)
    refuse_not_finite(X=X.values)
    Y = same_rows(X, Y)
    limits = _ceiling(ceiling, Y.shape[1])
    splits = _splits(cv, X)
    splits = splits if allow_leakage else guarded(splits, X, gap=gap)
    states = target_states(_floats(Y.values), [at for _, at in rows_of_stories(Y)])
    kept = states == STATES[0]
    if not kept.any():
        raise ValueError(f"Y has {len(kept)} targets, and none is finite and varies in every story")
    found = predict(X, Y.isel(target=kept), splits, model=model, response=response, partition=partition)
    scores = _scores(found, draw, draws, rng)
    tested = np.sort(np.concatenate([test for _, test in splits]))
    control = _control(X, Y.isel(target=kept), response, found, splits, tested, widths)
    scores |= {"control_r": (("width", "target"), control)}
    for name, by_fold in (("alpha", found.alpha), ("validation_r2", found.validation)):
        if by_fold is not None:
            scores[name] = (("fold", "target"), by_fold)
    scores |= {"prediction": (("row", "target"), found.guess), "measured": (("row", "target"), found.truth)}
    if partition:
        shares = product_measure(found.truth, found.parts)
        scores |= {f"band_{name}": (("band", "target"), shares[name].values) for name in ("r2", "r")}
    whole = {name: (dims, _spread_out(values, kept)) for name, (dims, values) in scores.items()}
    result = xr.Dataset(whole | {"state": ("target", states)})
    result = result.assign_coords(_coordinates(Y, found, widths))
    if partition:
        result = result.assign_coords(band=list(found.parts))
    result["ceiling"] = limits
    result["control_exceeds"] = result.control_r.max("width") > result.null_q95
    return result.assign_attrs(_protocol(model, cv, null, splits, X, gap, ceiling, states))


def predict(
    X: xr.DataArray,
    Y: xr.DataArray,
    splits: Sequence[Split],
    *,
    model: BaseEstimator,
    response: BaseEstimator | None = None,
    partition: bool = False,
) -> Predicted:
    """Every tested row, predicted by a model that never saw its fold; with ``partition``, by each of its bands.

    Raises
    ------
    ValueError
        If a row is tested twice, or ``partition`` is asked of a model without bands.
    """
    times = np.bincount(np.concatenate([test for _, test in splits]), minlength=len(X))
    if times.max() > 1:
        raise ValueError(
            f"row {int(times.argmax())} is tested {int(times.max())} times; one prediction a row can be scored"
        )
    tested = np.flatnonzero(times)
    guess, truth = (np.zeros((len(tested), Y.shape[1])) for _ in range(2))
    fold, alphas, validation, parts = np.zeros(len(tested), dtype=np.int64), [], [], {}
    for number, (train, test) in enumerate(splits):
        fitted = _fitted(model, X[train], _treated(Y[train], response))
        at = np.searchsorted(tested, test)
        guess[at] = np.asarray(fitted.predict(X[test])).reshape(len(test), -1)
        truth[at] = _treated(Y[test], response).values
        fold[at] = number
        alphas.append(_told(fitted, ALPHAS, Y.shape[1]))
        validation.append(_told(fitted, VALIDATION, Y.shape[1]))
        for name, part in (_parts_of(fitted, X[test]) if partition else {}).items():
            parts.setdefault(name, np.zeros_like(guess))[at] = part.reshape(len(test), -1)
    by_fold = [None if any(one is None for one in told) else np.array(told) for told in (alphas, validation)]
    return Predicted(truth, guess, row_labels(X)[tested], fold, *by_fold, parts)


def null_of(found: Predicted, rng: np.random.Generator, *, null: str = "rolling", draws: int = DRAWS) -> Null:
    """The null of what was predicted, all targets at once."""
    return NULLS[one_of("null", null, NULLS)](found.truth, found.guess, list(found.stories.values()), rng, draws=draws)


def described(one: Any) -> str:
    """An estimator, a pipeline or a splitter, by name and with all that it was given, on one line."""
    if isinstance(one, Pipeline):
        return " | ".join(described(step) for _, step in one.steps)
    given = one.get_params(deep=False) if hasattr(one, "get_params") else vars(one)
    said = ", ".join(
        f"{name}={np.array2string(v) if isinstance(v, np.ndarray) else repr(v)}" for name, v in given.items()
    )
    return " ".join(f"{type(one).__name__}({said})".split())


def _scores(found: Predicted, draw: Any, draws: int, rng: np.random.Generator) -> dict[str, tuple]:
    """Scores and their null, some targets at a time, with the same moves for all."""
    stories = found.stories
    n_targets = found.truth.shape[1]
    r, r2 = correlations(found.truth, found.guess), r_squared(found.truth, found.guess)
    p, high, mean, seed = np.empty(n_targets), np.empty(n_targets), 0.0, rng.integers(2**63)
    for start in range(0, n_targets, TARGETS):
        some = slice(start, start + TARGETS)
        null = draw(
            found.truth[:, some], found.guess[:, some], list(stories.values()), np.random.default_rng(seed), draws=draws
        )
        p[some], high[some] = p_values(r[some], null.draws), np.quantile(null.draws, 0.95, axis=0)
        mean = mean + np.nansum(null.draws, axis=1)
    mean /= n_targets
    by_story = np.array([correlations(found.truth[at], found.guess[at]) for at in stories.values()])
    least = np.array(null.least_p)
    return {
        "r": ("target", r),
        "r2": ("target", r2),
        "p": ("target", p),
        "q": ("target", false_discovery_rates(p)),
        "null_q95": ("target", high),
        "r_story": (("story", "target"), by_story),
        "mean_r": ((), r.mean()),
        "mean_p": ((), p_values(np.array([r.mean()]), np.asarray(mean)[:, None])[0]),
        "mean_null_q95": ((), np.quantile(mean, 0.95)),
        "least_p": ((), least),
    }


def _control(
    X: xr.DataArray,
    Y: xr.DataArray,
    response: BaseEstimator | None,
    found: Predicted,
    splits: Iterable[Split],
    tested: np.ndarray,
    widths: Sequence[float],
) -> Float[np.ndarray, "width target"]:
    """What time alone scores, through the same splits; 0 by construction where no story is split.

    Rows that are tested count as they were when tested, all others as ``Y`` has them.
    """
    if not splits_stories(splits, X):
        return np.zeros((len(widths), found.truth.shape[1]))
    whole = _treated(Y, response).values.astype(np.float64)
    whole[tested] = found.truth
    said = time_only(row_labels(X), whole, splits, widths=widths)
    return np.array([correlations(found.truth, one[tested]) for one in said.values])


def _fitted(model: BaseEstimator, X: xr.DataArray, Y: xr.DataArray) -> BaseEstimator:
    last = model.steps[-1] if isinstance(model, Pipeline) else ("", model)
    told = {}
    if has_fit_parameter(last[1], "groups"):
        told[f"{last[0]}__groups" if last[0] else "groups"] = X.story.values
    return clone(model).fit(X, Y.values, **told)


def _treated(Y: xr.DataArray, response: BaseEstimator | None) -> xr.DataArray:
    return Y if response is None else clone(response).fit_transform(Y)


def _told(fitted: BaseEstimator, names: Sequence[str], n_targets: int) -> Float[np.ndarray, " target"] | None:
    """What the estimator keeps for each target under the first of these names that it has."""
    last = _last(fitted)
    for name in names:
        if hasattr(last, name):
            return np.broadcast_to(np.asarray(getattr(last, name), dtype=np.float64), n_targets)
    return None


def _parts_of(fitted: BaseEstimator, X: xr.DataArray) -> dict[str, np.ndarray]:
    last = _last(fitted)
    if not hasattr(last, "predict_bands"):
        raise ValueError(f"partition=True needs a model with bands, such as BandedRidgeCV; this is {described(last)}")
    return last.predict_bands(fitted[:-1].transform(X) if isinstance(fitted, Pipeline) else X)


def _last(fitted: BaseEstimator) -> BaseEstimator:
    return fitted.steps[-1][1] if isinstance(fitted, Pipeline) else fitted


def _splits(cv: Any, X: xr.DataArray) -> list[Split]:
    with warnings.catch_warnings():  # splitters that want no groups say so
        warnings.filterwarnings("ignore", message="The groups parameter is ignored")
        return [(np.asarray(train), np.asarray(test)) for train, test in cv.split(X, None, X.story.values)]


def _floats(values: np.ndarray) -> np.ndarray:
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _spread_out(values: np.ndarray | float, kept: Bool[np.ndarray, " target"]) -> np.ndarray:
    """Values of targets kept, at their places among all; NaN elsewhere."""
    values = np.asarray(values)
    if values.ndim == 0:
        return values
    whole = np.full((*values.shape[:-1], len(kept)), np.nan)
    whole[..., kept] = values
    return whole


def _coordinates(Y: xr.DataArray, found: Predicted, widths: Sequence[float]) -> dict[str, Any]:
    along = {f"{name}_of_row" if name == "story" else name: value for name, value in found.rows.coords.items()}
    targets = {name: value for name, value in Y.coords.items() if value.dims == ("target",)}
    return {**along, **targets, "fold_of_row": ("row", found.fold), "story": list(found.stories), "width": list(widths)}


def _ceiling(ceiling: xr.Dataset | str, n_targets: int) -> tuple[str, np.ndarray]:
    if isinstance(ceiling, str):
        return "target", np.full(n_targets, np.nan)
    if ceiling.sizes["target"] != n_targets:
        raise ValueError(f"ceiling is of {ceiling.sizes['target']} targets; Y has {n_targets}")
    return "target", ceiling.ceiling.values


def _protocol(model, cv, null, splits, X, gap, ceiling, states) -> dict[str, Any]:
    inside = splits_stories(splits, X)
    leaks = _leaks(splits, X, gap)
    return {
        "model": described(model),
        "cv": described(cv),
        "null": null,
        "gap": gap,
        "splits_stories": int(inside),
        "leaks": int(leaks),
        "control": "through the same splits" if inside else "0 by construction: stories are held out whole",
        "ceiling": ceiling if isinstance(ceiling, str) else f"{ceiling.attrs['kind']} of {ceiling.attrs['n']}",
        **{f"n_{state.replace(' ', '_')}": int((states == state).sum()) for state in STATES},
    }


def _leaks(splits: Sequence[Split], X: xr.DataArray, gap: int) -> bool:
    try:
        guarded(splits, X, gap=gap)
    except ValueError:
        return True
    return False
