"""From labelled arrays to the matrices estimators want, matched by label and never by luck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int, Shaped

from nextlens.models.arguments import one_of

LABELS = ("sequence", "position")


class Samples(NamedTuple):
    """Rows of ``X`` and ``Y`` that come from the same token of the same sequence."""

    X: Float[np.ndarray, "sample feature"]
    Y: Float[np.ndarray, " sample *target"]
    groups: Int[np.ndarray, " sample"]


def pair(
    activations: xr.DataArray,
    targets: xr.DataArray,
    *,
    where: xr.DataArray | None = None,
    groups: str | xr.DataArray = "sequence",
) -> Samples:
    """Match activations with targets by their labels (sequence, position), whatever their order.

    Row i of ``X`` and of ``Y`` both belong to what has been read up to and including one position
    of one sequence. Rows come in the order of ``activations``.

    Parameters
    ----------
    activations : DataArray, dims (sequence, position, ...) or (sample, ...)
        One site. Dimensions beyond the labels become features, side by side. With ``sample``,
        coordinates ``sequence`` and ``position`` along it are the labels.
    targets : DataArray, dims (sequence, position) or (sample), and at most one more
        It must hold every label of the activations, and no other, unless the activations have been
        thinned to samples and the targets have not.
    where : boolean DataArray, optional
        Which rows to keep, labelled along ``sequence``, ``position`` or both, or along ``sample``.
    groups : {"sequence", "prefix"} or DataArray
        What must not straddle a split: rows of one sequence, rows that have read the same tokens
        (the coordinate ``prefix`` of the activations), or labels of your own.

    Returns
    -------
    Samples
        ``X`` of shape (sample, feature), ``Y`` (sample, target) or (sample,), ``groups`` (sample,).
        float32 stays float32.

    Raises
    ------
    ValueError
        If labels are absent, repeated or have no counterpart, nothing is kept, or a value that is
        kept is NaN or infinite.

    Examples
    --------
    >>> labels = {"sequence": [7, 8], "position": [0]}
    >>> acts = xr.DataArray([[[1.0]], [[2.0]]], dims=("sequence", "position", "feature"), coords=labels)
    >>> pair(acts, acts[::-1, :, 0]).Y.tolist()
    [1.0, 2.0]
    """
    left, right = Rows.of("activations", activations), Rows.of("targets", targets)
    if right.values.ndim > 2:
        raise ValueError(f"{right.name} have dims {targets.dims}; at most one may come beside the labels")
    partial = "sample" in activations.dims and "sample" not in targets.dims
    if not partial:
        left.look_up(right)
    kept = left if where is None else left.take(_mask(where, activations, left))
    X = kept.finite()
    return Samples(X.reshape(len(X), -1), right.look_up(kept).finite(), _group_numbers(groups, activations, kept))


def distinct(samples: Samples, tolerance: float = 1e-5) -> tuple[Samples, Int[np.ndarray, " group"]]:
    """One row per group, the first, and how many rows each group had. For ``groups="prefix"``.

    For a causal model, rows that have read the same tokens are equal, and so are their beliefs: this
    is checked. ``counts / counts.sum()`` are then the weights that leave every weighted mean as it
    was. Where sequences were sampled, the counts estimate p(prefix) already: multiplying them by
    p(prefix) would square it.

    Parameters
    ----------
    samples : Samples
    tolerance : float, default=1e-5
        The largest difference within a group, relative to the largest absolute value of all.

    Raises
    ------
    ValueError
        If rows of one group differ: the groups are not prefixes, the model is not causal, or the
        targets depend on more than what has been read.

    Examples
    --------
    >>> few, counts = distinct(Samples(np.ones((3, 2)), np.ones(3), np.array([4, 9, 4])))
    >>> few.groups.tolist(), counts.tolist()
    ([4, 9], [2, 1])
    """
    labels, first, member, counts = np.unique(
        samples.groups, return_index=True, return_inverse=True, return_counts=True
    )
    for name, values in (("X", samples.X), ("Y", samples.Y)):
        _refuse_unequal(name, values, first[member], samples.groups, tolerance)
    return Samples(samples.X[first], samples.Y[first], labels), counts


def _refuse_unequal(
    name: str, values: np.ndarray, representative: np.ndarray, groups: np.ndarray, tolerance: float
) -> None:
    allowed = tolerance * float(np.abs(values).max())
    for start in range(0, len(values), 2**14):
        rows = slice(start, start + 2**14)
        gap = np.abs(values[rows] - values[representative[rows]]).reshape(len(values[rows]), -1).max(1)
        if gap.max() > allowed:
            row = start + int(gap.argmax())
            raise ValueError(
                f"rows {representative[row]} and {row} of {name} are of one group, {groups[row]}, and differ "
                f"by {gap.max():.3g}, more than {allowed:.3g} (tolerance={tolerance:g}); rows of a group must "
                "be equal, as those of one prefix are for a causal model"
            )


@dataclass(frozen=True, eq=False)
class Rows:
    """Values in rows, each labelled with a sequence and a position that no other row has."""

    name: str
    values: Shaped[np.ndarray, "sample ..."]
    sequence: Shaped[np.ndarray, " sample"]
    position: Shaped[np.ndarray, " sample"]

    @classmethod
    def of(cls, argument: str, array: xr.DataArray) -> Rows:
        """The array with its labelled dimensions flattened into rows, in the order they come.

        Raises
        ------
        ValueError
            If labels are absent or repeated, or there are no rows.
        """
        name = f"{argument} {array.name!r}" if array.name is not None else argument
        dims = ("sample",) if "sample" in array.dims else LABELS
        for needed, present, kind in ((dims, array.dims, "dimension"), (LABELS, array.coords, "coordinate")):
            for label in needed:
                if label not in present:
                    raise ValueError(
                        f"{name} have no {kind} {label!r}, only {tuple(present)}; rows are matched by label"
                    )
        values = array.transpose(*dims, ...).values
        sequence, position = (array.coords[label].values for label in LABELS)
        if dims == LABELS:
            values = values.reshape(-1, *values.shape[2:])
            sequence, position = np.repeat(sequence, len(position)), np.tile(position, len(sequence))
        rows = cls(name, values, sequence, position)
        rows.refuse_repeats()
        return rows

    def take(self, rows: Shaped[np.ndarray, " chosen"]) -> Rows:
        """Some of the rows."""
        return Rows(self.name, self.values[rows], self.sequence[rows], self.position[rows])

    def look_up(self, wanted: Rows) -> Rows:
        """The rows with the labels of ``wanted``, in its order.

        Raises
        ------
        ValueError
            If some of those labels are not here: how many, and the first.
        """
        ours, theirs = _keys(self, wanted)
        if np.array_equal(ours, theirs):
            return self
        order = np.argsort(ours)
        row = order[np.searchsorted(ours, theirs, sorter=order).clip(max=len(ours) - 1)]
        absent = ours[row] != theirs
        if absent.any():
            raise ValueError(
                f"{int(absent.sum())} of {len(absent)} labels of {wanted.name} are missing in {self.name}; "
                f"the first is {wanted.label(int(absent.argmax()))}"
            )
        return self.take(row)

    def label(self, row: int) -> str:
        """How an error names a row."""
        return f"(sequence {self.sequence[row]}, position {self.position[row]})"

    def refuse_repeats(self) -> None:
        """Raise if there are no rows, or two with one label.

        Raises
        ------
        ValueError
            Naming the first label that occurs twice.
        """
        if not len(self.values):
            raise ValueError(f"{self.name} have no rows")
        key, _ = _keys(self, self)
        _, first, counts = np.unique(key, return_index=True, return_counts=True)
        if counts.max() > 1:
            twice = first[counts > 1]
            raise ValueError(
                f"{len(twice)} labels of {self.name} occur more than once; the first is {self.label(int(twice.min()))}"
            )

    def finite(self) -> Float[np.ndarray, "sample ..."]:
        """The values as floats.

        Raises
        ------
        ValueError
            If they are not numbers, or some are NaN or infinite: how many, and the first label.
        """
        if self.values.dtype.kind not in "iufb":
            raise ValueError(f"{self.name} hold {self.values.dtype}, not real numbers")
        single_or_double = self.values.dtype in (np.float32, np.float64)
        values = self.values if single_or_double else self.values.astype(np.float64)
        wrong = ~np.isfinite(values)
        if wrong.any():
            row = int(wrong.reshape(len(wrong), -1).any(1).argmax())
            raise ValueError(
                f"{self.name} hold {int(wrong.sum())} NaN or infinite values; the first at {self.label(row)}"
            )
        return values


def _keys(left: Rows, right: Rows) -> tuple[Int[np.ndarray, " left"], Int[np.ndarray, " right"]]:
    """One integer per row, equal where both labels are."""
    cut = len(left.sequence)
    key = np.zeros(cut + len(right.sequence), dtype=np.int64)
    for label in LABELS:
        ours, theirs = getattr(left, label), getattr(right, label)
        if (ours.dtype.kind in "iufb") != (theirs.dtype.kind in "iufb"):
            raise ValueError(
                f"{label} is labelled {ours[0]!r} in {left.name} and {theirs[0]!r} in {right.name}; "
                "numbers and words never match"
            )
        labels, code = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
        key = key * len(labels) + code
    return key[:cut], key[cut:]


def _along(argument: str, array: xr.DataArray, activations: xr.DataArray, rows: Rows) -> Shaped[np.ndarray, " sample"]:
    """What a labelled array says of each row; along a dimension it lacks, it says the same throughout."""
    if "sample" not in array.dims:
        lacking = [label for label in LABELS if label not in array.dims]
        array = array.expand_dims({label: np.unique(activations.coords[label].values) for label in lacking})
    found = Rows.of(argument, array)
    if found.values.ndim != 1:
        raise ValueError(f"{found.name} have dims {array.dims}; one value per label is wanted")
    return found.look_up(rows).values


def _mask(where: xr.DataArray, activations: xr.DataArray, rows: Rows) -> Bool[np.ndarray, " sample"]:
    if where.dtype != bool:
        raise ValueError(f"where holds {where.dtype}; it must hold True or False")
    mask = _along("where", where, activations, rows)
    if not mask.any():
        raise ValueError(f"where keeps none of the {len(mask)} rows of {rows.name}")
    return mask


def _group_numbers(groups: str | xr.DataArray, activations: xr.DataArray, rows: Rows) -> Int[np.ndarray, " sample"]:
    """Integers as they are; labels of other kinds are numbered in sorted order."""
    if isinstance(groups, str):
        coordinate = one_of("groups", groups, ("sequence", "prefix"))
        if coordinate not in activations.coords:
            raise ValueError(f"{rows.name} have no coordinate {coordinate!r}; groups may also be a DataArray of labels")
        groups = activations.coords[coordinate]
    labels = _along("groups", groups, activations, rows)
    return labels.astype(np.int64) if labels.dtype.kind in "iu" else np.unique(labels, return_inverse=True)[1]
