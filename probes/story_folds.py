"""Folds that keep neighbours together: whole stories, or blocks of one story with a gap, and a guard for any other.

Volumes two seconds apart are nearly alike, in the response as in the noise. A split that scatters them lets a
model that knows nothing but time score .8 and more; so such a split is refused, with the way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Int
from sklearn.model_selection import BaseCrossValidator, GroupKFold

from nextlens.models.arguments import at_least
from nextlens.probes.story_rows import refuse_unlabelled, rows_of_stories, spelled

#: One more than the longest of the usual delays.
GAP = 5

Split = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]


class StoryFolds(BaseCrossValidator):
    """Whole stories, dealt to folds of nearly equal numbers of rows, the same way every time.

    Takes the stories from a labelled ``X``, else from ``groups``; so it serves inside an estimator as well.

    Parameters
    ----------
    n_splits : int, default=5
    """

    def __init__(self, n_splits=5):
        self.n_splits = n_splits

    def split(self, X, y=None, groups=None):
        """Row numbers to train and to test on.

        Raises
        ------
        ValueError
            If there are fewer stories than folds, or no labels.
        """
        story = _stories(X, groups)
        n_stories = len(np.unique(story))
        if n_stories < at_least("n_splits", self.n_splits, 2):
            raise ValueError(
                f"n_splits={self.n_splits} folds of whole stories need as many stories, and there are {n_stories}; "
                "for blocks of a story see BlocksOfStory"
            )
        yield from GroupKFold(self.n_splits).split(story, groups=story)

    def get_n_splits(self, X=None, y=None, groups=None):
        """How many folds."""
        return self.n_splits


class HeldOutStories(BaseCrossValidator):
    """One split: the stories named are tested on, all others trained on.

    Parameters
    ----------
    test : sequence of labels
    """

    def __init__(self, test):
        self.test = test

    def split(self, X, y=None, groups=None):
        """Row numbers to train and to test on.

        Raises
        ------
        ValueError
            If a story named is not there, or no other is.
        """
        story, wanted = _stories(X, groups), list(self.test)
        missing = [name for name in wanted if name not in set(story.tolist())]
        if missing or not wanted:
            raise ValueError(f"test={wanted!r} must name stories that are there; {missing[:5]!r} are not")
        held = np.isin(story, wanted)
        if held.all():
            raise ValueError("test names every story; at least one must be left to train on")
        yield np.flatnonzero(~held), np.flatnonzero(held)

    def get_n_splits(self, X=None, y=None, groups=None):
        """Always 1."""
        return 1


class BlocksOfStory(BaseCrossValidator):
    """Blocks of neighbouring volumes, tested on in turn; training rows within ``gap`` volumes of them are left out.

    For a listener who heard one story only. A training row and a test row of one story are always more than
    ``gap`` volumes apart. Of several stories, fold i tests the i-th block of each.

    Parameters
    ----------
    n_splits : int, default=6
    gap : int, default=5
        In volumes: the longest delay and one more.
    """

    def __init__(self, n_splits=6, *, gap=GAP):
        self.n_splits = n_splits
        self.gap = gap

    def split(self, X, y=None, groups=None):
        """Row numbers to train and to test on.

        Raises
        ------
        ValueError
            If ``X`` has no labels, or a story has fewer rows than folds.
        """
        refuse_unlabelled("X", X)
        at_least("n_splits", self.n_splits, 2)
        at_least("gap", self.gap, 0)
        blocks = []
        for story, at in rows_of_stories(X):
            if len(at) < self.n_splits:
                raise ValueError(f"story {story!r} has {len(at)} rows for n_splits={self.n_splits} blocks")
            blocks.append(np.array_split(at, self.n_splits))
        volume, story = X.volume.values, X.story.values
        for fold in range(self.n_splits):
            train = np.ones(len(X), dtype=bool)
            for parts in blocks:
                test = parts[fold]
                near = (volume >= volume[test[0]] - self.gap) & (volume <= volume[test[-1]] + self.gap)
                train &= ~(near & (story == story[test[0]]))
            yield np.flatnonzero(train), np.sort(np.concatenate([parts[fold] for parts in blocks]))

    def get_n_splits(self, X=None, y=None, groups=None):
        """How many folds."""
        return self.n_splits


def guarded(splits: Iterable[Split], rows: xr.DataArray, *, gap: int = GAP) -> list[Split]:
    """The splits, if none trains on a neighbour of what it tests.

    Parameters
    ----------
    splits : iterable of (train, test) row numbers
        Of any splitter.
    rows : DataArray
        With ``story`` and ``volume``.
    gap : int, default=5
        Rows of one story at most so many volumes apart are neighbours.

    Raises
    ------
    ValueError
        If there is no split, one is empty on a side, a row is on both sides, or neighbours are on both sides: the
        first pair is named, and which splitters do not do that.
    """
    found = [(np.asarray(train), np.asarray(test)) for train, test in splits]
    if not found:
        raise ValueError("cv gives no split; at least one is needed")
    for fold, (train, test) in enumerate(found):
        if not len(train) or not len(test):
            raise ValueError(
                f"fold {fold} has {len(train)} rows to train on and {len(test)} to test on; both need some"
            )
        pair = _nearest(train, test, rows, gap)
        if pair is not None:
            story, trained, tested = pair
            raise ValueError(
                f"fold {fold} trains on volume {trained} of story {story!r} and tests volume {tested} of it: at most "
                f"{gap} volumes apart, they share noise and words, and a model that knows only time would score. Use "
                f"StoryFolds() or HeldOutStories([...]) for whole stories, or BlocksOfStory(gap={gap}) within one; "
                "allow_leakage=True is for demonstrations"
            )
    return found


def splits_stories(splits: Iterable[Split], rows: xr.DataArray) -> bool:
    """Whether some story is trained and tested on at once, however far apart."""
    story = rows.story.values
    return any(len(np.intersect1d(story[train], story[test])) > 0 for train, test in splits)


def _nearest(
    train: Int[np.ndarray, " train"], test: Int[np.ndarray, " test"], rows: xr.DataArray, gap: int
) -> tuple[object, int, int] | None:
    """The first pair of neighbours on both sides, if any."""
    story, volume = rows.story.values, rows.volume.values
    for name in np.intersect1d(story[train], story[test]):
        trained, tested = (np.sort(volume[side[story[side] == name]]) for side in (train, test))
        after = np.searchsorted(trained, tested)
        for neighbour in (trained[after.clip(max=len(trained) - 1)], trained[(after - 1).clip(min=0)]):
            close = np.abs(neighbour - tested) <= gap
            if close.any():
                first = int(close.argmax())
                return spelled(name), int(neighbour[first]), int(tested[first])
    return None


def _stories(X: object, groups: Sequence | np.ndarray | None) -> np.ndarray:
    if isinstance(X, xr.DataArray) and "story" in X.coords:
        return X.story.values
    if groups is None:
        raise ValueError("X has no labels and groups is None; the story of each row is needed: see label_rows")
    return np.asarray(groups)
