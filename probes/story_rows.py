"""Rows that know their story and their volume: what keeps delays, z-scores and folds inside a story.

A design and a response travel as an ``xr.DataArray`` whose first dimension is ``row``, with two coordinates
along it: ``story`` (whatever was scanned in one go: a story, a run) and ``volume``, counted in TRs inside the
story. scikit-learn indexes such an array by rows and hands it from step to step of a ``Pipeline`` untouched, so
the labels come along through ``cross_val_predict`` and ``GridSearchCV`` with no metadata routing to switch on,
and the last step reads it as the matrix that it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float, Int, Shaped
from sklearn.utils.validation import validate_data

from nextlens.probes.ridge import refuse_not_finite


def label_rows(
    values: Shaped[np.ndarray, " row *column"],
    story: Sequence[str] | Shaped[np.ndarray, " row"],
    volume: Int[np.ndarray, " row"] | None = None,
    *,
    column: str = "feature",
    names: Sequence[str] | None = None,
) -> xr.DataArray:
    """``values`` with their labels, dims (row, ``column``).

    Parameters
    ----------
    values : array of shape (row, column) or (row,)
    story : one label a row
    volume : integers, optional
        The place of each row in its story, in TRs. If None, rows of a story are counted from 0 in the order
        they come, and must stand together.
    column : str, default="feature"
        ``"target"`` for responses.
    names : sequence of str, optional
        One a column.

    Raises
    ------
    ValueError
        If lengths differ, a label occurs twice, or rows of a story are apart and not numbered.

    Examples
    --------
    >>> label_rows(np.ones((3, 1)), ["a", "a", "b"]).volume.values.tolist()
    [0, 1, 0]
    """
    values = values[:, None] if values.ndim == 1 else values
    story = np.asarray(story)
    if story.shape != (len(values),):
        raise ValueError(f"story has shape {story.shape}; it must be ({len(values)},), one label per row")
    volume = _counted(story) if volume is None else volume
    if volume.shape != story.shape:
        raise ValueError(f"volume has shape {volume.shape}; it must be {story.shape}, one number per row")
    coordinates = {"story": ("row", story), "volume": ("row", volume)}
    if names is not None:
        coordinates[column] = (column, list(names))
    labelled = xr.DataArray(values, dims=("row", column), coords=coordinates)
    refuse_repeated_rows("values", labelled)
    return labelled


def rows_of_stories(rows: xr.DataArray) -> Iterator[tuple[str, Int[np.ndarray, " some"]]]:
    """Every story, in the order in which it first comes, and the numbers of its rows, by rising volume."""
    names, first, member = _numbered(rows.story.values)
    order = np.lexsort((rows.volume.values, member))
    parts = np.split(order, np.cumsum(np.bincount(member))[:-1])
    for code in np.argsort(first, kind="stable"):
        yield spelled(names[code]), parts[code]


def stretches(rows: xr.DataArray) -> Iterator[tuple[str, Int[np.ndarray, " some"]]]:
    """As :func:`rows_of_stories`, but a story is cut wherever a volume is missing."""
    volume = rows.volume.values
    for name, at in rows_of_stories(rows):
        for part in np.split(at, np.flatnonzero(np.diff(volume[at]) != 1) + 1):
            yield name, part


def same_rows(X: xr.DataArray, Y: xr.DataArray) -> xr.DataArray:
    """The rows of ``Y`` with the labels of ``X``, in its order. ``Y`` may hold further volumes of those stories.

    So words can be brought to all volumes of a scan and the response be trimmed, or the other way round, and
    still every row meets its own.

    Raises
    ------
    ValueError
        If a story is on one side only, or a row of ``X`` has no counterpart.
    """
    for name, array in (("X", X), ("Y", Y)):
        refuse_unlabelled(name, array)
        refuse_repeated_rows(name, array)
    ours, theirs = (set(array.story.values.tolist()) for array in (X, Y))
    for name, only in (("X", ours - theirs), ("Y", theirs - ours)):
        if only:
            raise ValueError(
                f"{len(only)} stories are in {name} only: {_listed(only)}; select the stories that both hold, "
                f"as in {name}.isel(row={name}.story.isin(wanted))"
            )
    key_x, key_y = _keys(X, Y)
    if np.array_equal(key_x, key_y):
        return Y
    order = np.argsort(key_y)
    found = order[np.searchsorted(key_y, key_x, sorter=order).clip(max=len(key_y) - 1)]
    absent = key_y[found] != key_x
    if absent.any():
        row = int(absent.argmax())
        raise ValueError(
            f"{int(absent.sum())} of {len(absent)} rows of X are missing in Y; the first is volume "
            f"{int(X.volume[row])} of story {spelled(X.story.values[row])!r}"
        )
    return Y.isel(row=found)


def labelled_input(estimator: object, X: object, *, reset: bool) -> tuple[xr.DataArray, bool]:
    """``X`` of a transformer, with labels; and whether it came without, as one run.

    Raises
    ------
    ValueError
        If it has no labels and ``estimator.one_run`` is false, its width changed since ``fit``, or a value is
        not finite.
    """
    plain = not isinstance(X, xr.DataArray)
    if plain:
        if not estimator.one_run:
            raise ValueError(
                f"X has no labels, so {type(estimator).__name__} cannot know where a story ends; give it those of "
                "label_rows(X, story), or say one_run=True if all rows are of one run, in order"
            )
        values = validate_data(estimator, X, reset=reset, dtype=[np.float64, np.float32])
        return label_rows(values, np.zeros(len(values), dtype=np.int64)), True
    refuse_unlabelled("X", X)
    refuse_repeated_rows("X", X)
    refuse_not_finite(X=X.values if X.dtype.kind == "f" else X.values.astype(np.float64))
    if reset:
        estimator.n_features_in_ = X.shape[1]
    elif X.shape[1] != estimator.n_features_in_:
        raise ValueError(
            f"X has {X.shape[1]} features; {type(estimator).__name__} was fitted with {estimator.n_features_in_}"
        )
    return X, False


def refuse_unlabelled(name: str, array: xr.DataArray) -> None:
    """Raise unless rows come first, then one dimension of columns, and every row has its story and volume.

    Raises
    ------
    ValueError
        Saying what is lacking.
    """
    if not isinstance(array, xr.DataArray) or array.ndim != 2 or array.dims[0] != "row":
        shape = getattr(array, "dims", type(array).__name__)
        raise ValueError(f"{name} is {shape}; it must be a DataArray of dims (row, column): see label_rows")
    lacking = [label for label in ("story", "volume") if label not in array.coords or array[label].dims != ("row",)]
    if lacking:
        raise ValueError(f"{name} has no coordinate {lacking[0]!r} along its rows: see label_rows")
    if array.volume.dtype.kind not in "iu":
        raise ValueError(f"the volumes of {name} are {array.volume.dtype}; they must be integers")
    if not len(array):
        raise ValueError(f"{name} has no rows; at least one is needed")


def refuse_repeated_rows(name: str, array: xr.DataArray) -> None:
    """Raise if two rows have one label.

    Raises
    ------
    ValueError
        Naming the first.
    """
    key, _ = _keys(array, array[:0])
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    if len(counts) and counts.max() > 1:
        row = int(first[counts > 1].min())
        raise ValueError(
            f"{int((counts > 1).sum())} rows of {name} occur more than once; the first is volume "
            f"{int(array.volume[row])} of story {spelled(array.story.values[row])!r}"
        )


def row_labels(rows: xr.DataArray) -> xr.DataArray:
    """What stands along the rows of an array, without its values: dims (row,), of the volume numbers."""
    kept = {name: ("row", value.values) for name, value in rows.coords.items() if value.dims == ("row",)}
    return xr.DataArray(rows.volume.values, dims=("row",), coords=kept)


def spelled(label: object) -> object:
    """A label of NumPy's as Python's own, which a message prints plainly."""
    return label.item() if isinstance(label, np.generic) else label


def columns_like(
    rows: xr.DataArray, values: Float[np.ndarray, "row column"], **along: tuple[str, np.ndarray]
) -> xr.DataArray:
    """``values`` with the row labels of ``rows`` and the coordinates given along its columns."""
    column = rows.dims[1] if rows.ndim == 2 else "feature"
    return xr.DataArray(values, dims=("row", column), coords={**row_labels(rows).coords, **along})


def _counted(story: Shaped[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    """The number of each row inside its story, from 0."""
    new = np.flatnonzero(np.r_[True, story[1:] != story[:-1]])
    names, first = np.unique(story[new], return_index=True)
    if len(names) < len(new):
        again = next(name for i, name in enumerate(story[new]) if i not in first)
        raise ValueError(f"the rows of story {spelled(again)!r} do not stand together; say their volume")
    return np.arange(len(story)) - np.repeat(new, np.diff(np.r_[new, len(story)]))


def _numbered(
    story: Shaped[np.ndarray, " row"],
) -> tuple[Shaped[np.ndarray, " name"], Int[np.ndarray, " name"], Int[np.ndarray, " row"]]:
    """The names, the first row of each, and the number of each row's name. Rows mostly stand in runs of one name."""
    new = np.flatnonzero(np.r_[True, story[1:] != story[:-1]]) if len(story) else np.zeros(0, dtype=np.int64)
    names, first, member = np.unique(story[new], return_index=True, return_inverse=True)
    return names, new[first], np.repeat(member, np.diff(np.r_[new, len(story)]))


def _keys(left: xr.DataArray, right: xr.DataArray) -> tuple[Int[np.ndarray, " left"], Int[np.ndarray, " right"]]:
    """One integer per row, equal where story and volume are."""
    names = np.concatenate([left.story.values, right.story.values])
    volume = np.concatenate([left.volume.values, right.volume.values]).astype(np.int64)
    story = _numbered(names)[2]
    low, high = (int(volume.min()), int(volume.max())) if len(volume) else (0, 0)
    key = story * (high - low + 1) + volume - low
    return key[: len(left)], key[len(left) :]


def _listed(names: set[str]) -> str:
    some = sorted(map(str, names))
    return ", ".join(map(repr, some[:5])) + (f" and {len(some) - 5} more" if len(some) > 5 else "")
