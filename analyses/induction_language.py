"""Does pointing predict language? Scores of many models on the same predictions, paired; by length and by source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from nextlens.analyses.language_stretches import Stretches
from nextlens.models.arguments import one_of
from nextlens.models.induction.answers import SOURCES, Answers
from nextlens.models.induction.document_bootstrap import document_means, interval_95
from nextlens.models.induction.scores import Scores, bits

#: What is reported of every model, always together.
QUANTITIES = ("strict", "inclusive", "expected", "tied", "bits")
#: Effective n in bins: from, and up to.
LENGTHS = ((0, 1), (2, 2), (3, 3), (4, 5), (6, 7), (8, None))


def scored(
    models: Mapping[str, Scores], stretches: Stretches, n_tokens: int, floors: Mapping[str, float]
) -> xr.Dataset:
    """Every prediction of every model under every rule.

    Parameters
    ----------
    models : mapping of str to Scores
    stretches : Stretches
    n_tokens : int
    floors : mapping of str to float
        With what the law of a model is mixed before bits are counted; 0 for those it does not name.

    Returns
    -------
    xarray.Dataset
        Over (model, prediction): ``strict``, ``inclusive``, ``expected``, ``tied`` as in
        :class:`~nextlens.models.induction.scores.Scores`, and ``bits``. Coordinates of ``prediction``: ``stretch`` and
        ``document``.
    """
    columns = {name: np.stack([getattr(one, name) for one in models.values()]) * 1.0 for name in QUANTITIES[:4]}
    columns["bits"] = np.stack([bits(one.probability, floors.get(name, 0.0), n_tokens) for name, one in models.items()])
    return xr.Dataset(
        {name: (("model", "prediction"), values) for name, values in columns.items()},
        coords={
            "model": list(models),
            "stretch": ("prediction", stretches.stretch),
            "document": ("prediction", stretches.documents),
        },
    )


def summarised(data: xr.Dataset, rng: np.random.Generator, draws: int = 2000) -> dict[str, dict[str, Any]]:
    """Mean and 95 % intervals of every quantity of every model; what is drawn anew is so for all models together.

    ``interval_95`` is over stretches of text, ``interval_95_documents`` over documents, None of a single one. Bits that
    are infinite have no mean, and stand as None.
    """
    found: dict[str, dict[str, Any]] = {str(model): {} for model in data.model.values}
    for quantity in QUANTITIES:
        values = data[quantity].values
        finite = np.isfinite(values).all(1)
        ends = iter(zip(*_intervals(values[finite], data, rng, draws), strict=True))
        for model, row, is_finite in zip(data.model.values, values, finite, strict=True):
            whole = None
            if is_finite:
                narrow, wide = next(ends)
                whole = {"mean": float(row.mean()), "interval_95": narrow, "interval_95_documents": wide}
            found[str(model)][quantity] = whole
    return found


def _intervals(
    values: Float[np.ndarray, "model prediction"], data: xr.Dataset, rng: np.random.Generator, draws: int
) -> tuple[list[list[float]], list[list[float] | None]]:
    """Over stretches, and over documents, of the mean of each row."""
    document = np.unique(data.document.values, return_inverse=True)[1]
    narrow, wide = (
        np.stack(interval_95(document_means(values, groups, rng=rng, draws=draws)), 1).tolist()
        for groups in (data.stretch.values, document)
    )
    return narrow, wide if document.max() else [None] * len(wide)


def compared(
    data: xr.Dataset,
    one: str,
    other: str,
    quantity: str,
    rng: np.random.Generator,
    *,
    rows: Bool[np.ndarray, " prediction"] | None = None,
    draws: int = 2000,
) -> dict[str, Any]:
    """``one`` less ``other``, paired, with intervals over stretches and over documents, and what follows from them.

    Returns
    -------
    dict
        ``difference``; ``interval_95`` over stretches and ``verdict``: ``"above"`` or ``"below"`` if it has 0 outside,
        else ``"not told apart"``; ``interval_95_documents`` and ``verdict_documents``, the same over documents, None of
        a single one; ``predictions``.

    Raises
    ------
    ValueError
        If a model or quantity is not there, or no row is left.
    """
    one_of("quantity", quantity, QUANTITIES)
    for name in (one, other):
        one_of("model", name, [str(model) for model in data.model.values])
    keep = np.ones(data.sizes["prediction"], bool) if rows is None else rows
    if not keep.any():
        raise ValueError("rows keep no prediction; there is nothing to compare")
    gap = (data[quantity].sel(model=one) - data[quantity].sel(model=other)).values[keep]
    low, high = interval_95(document_means(gap[None], data.stretch.values[keep], rng=rng, draws=draws)[:, 0])
    document = np.unique(data.document.values[keep], return_inverse=True)[1]
    wide = interval_95(document_means(gap[None], document, rng=rng, draws=draws)[:, 0]) if document.max() else None
    return _compared(float(gap.mean()), (low, high), wide, int(keep.sum()))


def _compared(
    difference: float, narrow: tuple[Any, Any], wide: tuple[Any, Any] | None, predictions: int
) -> dict[str, Any]:
    return {
        "difference": difference,
        "interval_95": [float(end) for end in narrow],
        "interval_95_documents": wide and [float(end) for end in wide],
        "predictions": predictions,
        "verdict": _verdict(*narrow),
        "verdict_documents": wide and _verdict(*wide),
    }


def _verdict(low: Any, high: Any) -> str:
    return "above" if low > 0 else "below" if high < 0 else "not told apart"


def by_length(
    data: xr.Dataset,
    length: Int[np.ndarray, " prediction"],
    models: Sequence[str],
    rng: np.random.Generator,
    quantity: str = "strict",
    draws: int = 2000,
) -> xr.Dataset:
    """The mean of a quantity where the longest match is so long, with its interval over stretches.

    Returns
    -------
    xarray.Dataset
        ``mean``, ``low`` and ``high`` over (model, length), and ``predictions`` over length. Bins that are
        empty are left out.
    """
    bins = [(low, high) for low, high in LENGTHS if _within(length, low, high).any()]
    columns: dict[str, list] = {"mean": [], "low": [], "high": []}
    values = data[quantity].sel(model=list(models)).values
    for low, high in bins:
        rows = _within(length, low, high)
        ends = interval_95(document_means(values[:, rows], data.stretch.values[rows], rng=rng, draws=draws))
        for name, column in zip(columns, (values[:, rows].mean(1), *ends), strict=True):
            columns[name].append(column)
    found = {name: (("length", "model"), np.array(column)) for name, column in columns.items()}
    counts = [int(_within(length, low, high).sum()) for low, high in bins]
    return xr.Dataset(
        {**found, "predictions": ("length", counts)},
        coords={"length": [length_name(*one) for one in bins], "model": list(models)},
    )


def rises_with_length(
    right: Float[np.ndarray, " prediction"],
    length: Int[np.ndarray, " prediction"],
    stretch: Int[np.ndarray, " prediction"],
    rng: np.random.Generator,
    draws: int = 1000,
    documents: np.ndarray | None = None,
) -> dict[str, Any]:
    """Whether a prediction is right the more often the longer the match: the slope on ``log2(1 + n)``.

    Returns
    -------
    dict
        ``difference``, the slope: accuracy gained each time that ``1 + n`` doubles; its intervals and verdicts as of
        :func:`compared`, over documents where they are given.
    """
    x = np.log2(1.0 + length)
    moments = np.stack([np.ones_like(x), x, right, x * right, x * x])

    def interval(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        _, x_mean, y_mean, xy, xx = document_means(moments, groups, rng=rng, draws=draws).T
        spread = xx - x_mean**2
        drawn = np.where(spread > 0, (xy - x_mean * y_mean) / np.where(spread > 0, spread, 1), 0)
        return interval_95(drawn)

    narrow = interval(stretch)
    document = None if documents is None else np.unique(documents, return_inverse=True)[1]
    whole = np.var(x)
    slope = float(np.mean((x - x.mean()) * (right - right.mean())) / whole) if whole else 0.0
    wide = None if document is None or not document.max() else interval(document)
    return _compared(slope, narrow, wide, len(x))


def by_source(answers: Answers, threshold: Any, scores: Scores) -> dict[str, dict[str, float]]:
    """For each source of a GIM: of what ``share`` of predictions it is the source, and how often it is right."""
    source, found = answers.source(threshold), {}
    for number, name in enumerate(SOURCES):
        rows = source == number
        if rows.any():
            right = {rule: float(getattr(scores, rule)[rows].mean()) for rule in QUANTITIES[:3]}
            found[name] = {"share": float(rows.mean()), **right}
    return found


def length_name(low: int, high: int | None) -> str:
    """A bin of lengths in print.

    Examples
    --------
    >>> [length_name(*one) for one in LENGTHS]
    ['0-1', '2', '3', '4-5', '6-7', '8+']
    """
    return f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"


def _within(length: Int[np.ndarray, " prediction"], low: int, high: int | None) -> Bool[np.ndarray, " prediction"]:
    return (length >= low) & (length <= (np.inf if high is None else high))
