"""One data set in hand: what was measured at each volume, and which words were heard when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from nextlens.probes.story_rows import label_rows, refuse_repeated_rows, row_labels


@dataclass(frozen=True, eq=False)
class Listening:
    """Responses and words that belong together.

    Parameters
    ----------
    response : DataArray
        Dims (row, target), or (listener, row, target), or (repeat, row, target). Along ``row``: ``story``, ``volume``
        and, where times are known, ``time``: the middle of the volume in seconds, on the clock of the words.
    words : Dataset
        Along ``word``: ``text``, ``story``, and ``onset`` and ``offset`` in seconds, or ``volume``, or both.
    facts : dict
        ``name``, ``origin``, ``licence``, and what a reader must know.

    Raises
    ------
    ValueError
        If labels are lacking or repeated, or there is a word of a story with no rows.
    """

    response: xr.DataArray
    words: xr.Dataset
    facts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.response.dims[-2:] != ("row", "target") or self.response.ndim > 3:
            raise ValueError(f"response has dims {self.response.dims}; they must end with (row, target)")
        for label in ("story", "volume"):
            if label not in self.response.coords:
                raise ValueError(f"response has no coordinate {label!r} along its rows")
        refuse_repeated_rows("response", row_labels(self.response))
        for label in ("text", "story"):
            if label not in self.words:
                raise ValueError(f"words have no variable {label!r}")
        if "onset" not in self.words and "volume" not in self.words:
            raise ValueError("words have neither 'onset' nor 'volume'; when they were heard must be known")
        unknown = set(self.words.story.values.tolist()) - set(self.response.story.values.tolist())
        if unknown:
            raise ValueError(f"words are of {len(unknown)} stories that have no rows, such as {min(unknown)!r}")

    @property
    def rows(self) -> xr.DataArray:
        """The labels of the rows, without the values: what brings words to volumes."""
        return row_labels(self.response)

    @property
    def stories(self) -> list[str]:
        """In the order in which they first come."""
        names, first = np.unique(self.response.story.values, return_index=True)
        return names[np.argsort(first)].tolist()

    def of(self, stories: Sequence[str]) -> Listening:
        """Some of the stories.

        Raises
        ------
        ValueError
            If one is not there.
        """
        missing = [name for name in stories if name not in self.stories]
        if missing or not len(stories):
            raise ValueError(
                f"stories={list(stories)!r} must be among the {len(self.stories)} there; {missing!r} are not"
            )
        return replace(
            self,
            response=self.response.isel(row=np.flatnonzero(np.isin(self.response.story.values, stories))),
            words=self.words.isel(word=np.flatnonzero(np.isin(self.words.story.values, stories))),
        )

    @property
    def fingerprint(self) -> str:
        """A digest of every response, its labels, and every word: whether two runs had the same data.

        Sixteen hexadecimal digits of BLAKE2b; numbers of another precision are other data.
        """
        digest = blake2b(digest_size=8)
        long = self.response.transpose("row", ...)
        for start in range(0, len(long), 1024):
            digest.update(np.ascontiguousarray(long.values[start : start + 1024]))
        labels = [self.response.story, self.response.volume]
        labels += [self.words[name] for name in ("text", "story", "onset", "volume") if name in self.words]
        for label in labels:
            digest.update("\0".join(map(str, label.values.tolist())).encode())
        return digest.hexdigest()

    def texts(self) -> dict[str, list[str]]:
        """The words of each story, in order."""
        story, text = self.words.story.values, self.words.text.values
        return {name: text[story == name].tolist() for name in self.stories}


def from_arrays(
    response: Float[np.ndarray, "row target"],
    story: Sequence[str],
    text: Sequence[str],
    word_story: Sequence[str],
    onset: Float[np.ndarray, " word"],
    *,
    tr: float | int,
    start: float | int = 0.0,
    volume: Int[np.ndarray, " row"] | None = None,
) -> Listening:
    """Plain arrays as a :class:`Listening`.

    Parameters
    ----------
    response : array of shape (row, target)
    story : one label a row
    text, word_story, onset : one a word
        Onsets in seconds.
    tr : float
        Seconds between volumes.
    start : float, default=0
        When volume 0 begins, on the clock of the onsets.
    volume : integers, optional
        As for :func:`~nextlens.probes.story_rows.label_rows`.

    Raises
    ------
    ValueError
        If lengths differ, or an onset is not finite.
    """
    if not tr > 0:
        raise ValueError(f"tr={tr!r} must be above 0 seconds")
    if not len(text) == len(word_story) == len(onset):
        raise ValueError(f"text, word_story and onset hold {len(text)}, {len(word_story)} and {len(onset)} words")
    if not np.isfinite(onset).all():
        raise ValueError(f"onset of word {int((~np.isfinite(onset)).argmax())} is not finite")
    rows = label_rows(response, story, volume, column="target")
    rows = rows.assign_coords(time=("row", volume_times(rows.volume.values, tr, start)))
    words = xr.Dataset(
        {
            "text": ("word", np.asarray(text, dtype=object).astype(str)),
            "story": ("word", np.asarray(word_story)),
            "onset": ("word", onset),
            "volume": ("word", np.floor((onset - start) / tr).astype(np.int64)),
        }
    )
    return Listening(rows, words, {"name": "arrays"})


def volume_times(
    volume: Int[np.ndarray, " row"], tr: float | int, start: float | int = 0.0
) -> Float[np.ndarray, " row"]:
    """The middle of each volume in seconds, volume 0 beginning at ``start``."""
    return start + (volume + 0.5) * tr
