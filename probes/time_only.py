"""What a model that knows nothing but time would score: the control for a split that lets neighbours through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least
from nextlens.probes.ridge import refuse_not_finite, refuse_unequal_lengths
from nextlens.probes.story_folds import Split, splits_stories
from nextlens.probes.story_rows import refuse_unlabelled

#: Widths of smoothing to try, in volumes.
WIDTHS = (1.0, 2.0, 4.0)

#: More training rows than this are too many to decompose for a control.
MOST_ROWS = 5000

#: Penalties relative to the kernel's own variance of 1: from hardly any noise to nothing but noise.
PENALTIES = np.logspace(-4, 4, 17)


def time_kernel(rows: xr.DataArray, others: xr.DataArray, width: float | int) -> Float[np.ndarray, "row other"]:
    """How alike two rows are by time alone: ``exp(-(t - t')² / (4 width²))`` within a story, 0 between stories.

    The inner products of an identity matrix a story, smoothed by a Gaussian of ``width`` volumes.

    Raises
    ------
    ValueError
        If ``width`` is not above 0.
    """
    if not width > 0:
        raise ValueError(f"width={width!r} must be above 0")
    apart = (rows.volume.values[:, None] - others.volume.values) / (2.0 * width)
    return np.where(rows.story.values[:, None] == others.story.values, np.exp(-(apart**2)), 0.0)


def time_only_prediction(
    rows: xr.DataArray,
    Y: Float[np.ndarray, "row target"],
    train: Int[np.ndarray, " train"],
    test: Int[np.ndarray, " test"],
    width: float | int,
) -> Float[np.ndarray, "test target"]:
    """Kernel ridge on :func:`time_kernel`, fitted on ``train``: no word, no sound, only when.

    The penalty of each target is chosen by the exact error of leaving one training row out, which is what such a
    model would profit from. Far from every training row, and in other stories, it says the mean.

    Raises
    ------
    ValueError
        If there are more than :data:`MOST_ROWS` training rows, or lengths differ.
    """
    refuse_unequal_lengths(rows=rows.volume.values, Y=Y)
    refuse_not_finite(Y=Y)
    if len(train) > MOST_ROWS:
        raise ValueError(f"{len(train)} training rows are too many for this control; at most {MOST_ROWS}")
    mean = Y[train].mean(0, dtype=np.float64)
    value, vector = np.linalg.eigh(time_kernel(rows[train], rows[train], width))
    projected = vector.T @ (Y[train] - mean)
    best, dual = np.full(Y.shape[1], np.inf), np.zeros((len(train), Y.shape[1]))
    for penalty in PENALTIES:
        inverse = 1.0 / (value.clip(0) + penalty)
        coefficients = vector @ (inverse[:, None] * projected)
        error = ((coefficients / (vector**2 @ inverse)[:, None]) ** 2).sum(0)
        better = error < best
        best[better], dual[:, better] = error[better], coefficients[:, better]
    return mean + time_kernel(rows[test], rows[train], width) @ dual


def time_only(
    rows: xr.DataArray,
    Y: Float[np.ndarray, "row target"],
    splits: Sequence[Split],
    *,
    widths: Iterable[float] = WIDTHS,
) -> xr.DataArray | None:
    """The prediction of time alone for every tested row and width; None where it is constant by construction.

    Where stories are held out whole, time says nothing of them. Where a story is split, this is what a model
    scores by being near: run through the very splits of the model it stands beside.

    Returns
    -------
    DataArray or None
        Dims (width, row, target), the rows in the order of ``rows``; NaN where a row was not tested.

    Raises
    ------
    ValueError
        As :func:`time_only_prediction`.
    """
    refuse_unlabelled_rows(rows)
    if not splits_stories(splits, rows):
        return None
    widths = list(widths)
    at_least("number of widths", len(widths), 1)
    found = np.full((len(widths), *Y.shape), np.nan)
    for train, test in splits:
        for number, width in enumerate(widths):
            found[number, test] = time_only_prediction(rows, Y, train, test, width)
    return xr.DataArray(found, dims=("width", "row", "target"), coords={"width": widths})


def refuse_unlabelled_rows(rows: xr.DataArray) -> None:
    """As :func:`~nextlens.probes.story_rows.refuse_unlabelled`, for labels without columns."""
    refuse_unlabelled("rows", rows if rows.ndim == 2 else rows.expand_dims(column=1, axis=1))
