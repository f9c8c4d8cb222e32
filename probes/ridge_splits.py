"""The folds a penalty is chosen on: any splitter's, unless they leak; and the pieces of rows they are made of."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from sklearn.model_selection import GroupKFold, check_cv

#: Row numbers to train and to test on.
Split = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]

#: Folds of so many pieces each are summed fold by fold.
MOST_PIECES = 6


class Piece(NamedTuple):
    """Rows that every fold treats alike.

    Attributes
    ----------
    rows : Int[np.ndarray, " row"]
    train : tuple of int
        The folds that train on these rows.
    test : tuple of int
        The folds that test them.
    """

    rows: Int[np.ndarray, " row"]
    train: tuple[int, ...]
    test: tuple[int, ...]


def checked_splits(cv: object, X: object, y: object, groups: object, n_rows: int) -> list[Split]:
    """The row numbers that each fold trains on and tests, or a refusal.

    ``cv`` is as in :func:`~sklearn.model_selection.check_cv`; but an integer means that many folds of whole
    groups where there are ``groups``.

    Raises
    ------
    ValueError
        If there is no fold, one lacks rows on a side, a row is on both sides, or rows of one group are, though
        groups are given. A splitter that leaves out a gap (its attribute ``gap`` is above 0) may divide a group.
    """
    by_group = groups is not None and isinstance(cv, int | np.integer)
    splitter = GroupKFold(cv) if by_group else check_cv(cv)
    labels = None if groups is None else np.asarray(groups)
    if labels is not None and labels.shape != (n_rows,):
        raise ValueError(f"groups has shape {labels.shape}; it must be ({n_rows},), one label per row of X")
    if by_group and len(np.unique(labels)) < cv:
        raise ValueError(
            f"cv={cv} folds of whole groups need as many groups, and there are {len(np.unique(labels))}; give fewer, "
            "or a splitter of blocks with a gap between, such as nextlens.probes.story_folds.BlocksOfStory"
        )
    with warnings.catch_warnings():
        # What a splitter makes of groups is looked at below.
        warnings.filterwarnings("ignore", message="The groups parameter is ignored")
        splits = [(np.asarray(train), np.asarray(test)) for train, test in splitter.split(X, y, labels)]
    if not splits:
        raise ValueError(f"cv={cv!r} gives no fold; at least one is needed")
    purged = getattr(splitter, "gap", 0) > 0
    for fold, (train, test) in enumerate(splits):
        if not len(train) or not len(test):
            raise ValueError(
                f"cv={cv!r}: fold {fold} has {len(train)} rows to train on and {len(test)} to test; both need some"
            )
        both = np.intersect1d(train, test)
        if len(both):
            raise ValueError(f"cv={cv!r}: fold {fold} has row {both[0]} on both sides; it would be tested on itself")
        if labels is not None and not purged:
            _refuse_divided_groups(cv, fold, labels[train], labels[test])
    return splits


def pieces_of(splits: list[Split], n_rows: int) -> list[Piece]:
    """Rows in as few pieces as there are different fates, in the order of their first rows.

    What a fold trains on is then a sum of pieces, and what one piece gives is computed once for all folds. Each
    row is in one piece exactly; rows that no fold touches make a piece as well.
    """
    fate = np.zeros((n_rows, 2 * len(splits)), dtype=bool)
    for fold, (train, test) in enumerate(splits):
        fate[train, 2 * fold] = True
        fate[test, 2 * fold + 1] = True
    fates, first, member = np.unique(fate, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(member.ravel(), kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(member.ravel()))[:-1])
    return [
        Piece(rows[i], tuple(np.flatnonzero(fates[i, ::2]).tolist()), tuple(np.flatnonzero(fates[i, 1::2]).tolist()))
        for i in np.argsort(first).tolist()
    ]


def few(pieces: list[Piece], splits: list[Split]) -> bool:
    """Whether summing piece by piece is cheaper than fold by fold."""
    return len(pieces) <= MOST_PIECES * len(splits)


def _refuse_divided_groups(cv: object, fold: int, train: np.ndarray, test: np.ndarray) -> None:
    divided = np.intersect1d(train, test)
    if len(divided):
        named = ", ".join(repr(label) for label in divided[:3].tolist()) + ", …" * (len(divided) > 3)
        raise ValueError(
            f"cv={cv!r}: fold {fold} has rows of {len(divided)} groups on both sides ({named}): this splitter does "
            "not heed groups, and neighbours would vouch for each other. Give cv as a number, or as GroupKFold, "
            "LeaveOneGroupOut or another splitter of whole groups"
        )
