"""Matches between volumes from any matcher of tokens: where it points to, as volumes of the same story."""

from __future__ import annotations

import numpy as np
import xarray as xr

from nextlens.analyses.word_tokens import WordTokens
from nextlens.models.arguments import at_least
from nextlens.models.induction.votes import Matcher
from nextlens.models.vocabulary import Vocabulary
from nextlens.probes.recall import MOST, Matches, matched
from nextlens.probes.story_rows import rows_of_stories

#: The document of a place in the context itself.
CONTEXT = -1


def matches_of(
    matcher: Matcher,
    words: xr.Dataset,
    rows: xr.DataArray,
    vocabulary: Vocabulary,
    *,
    gap: int,
    most: int = MOST,
    separator: str = " ",
) -> Matches:
    """What ``matcher.places`` points to after all words up to the end of each volume, as earlier volumes.

    A place stands for the volume in which the token *before* the proposed one was heard: the moment that is like this
    one. Places in other documents are left out, and those nearer than ``gap`` volumes. Weights of places in one volume
    are summed, and the heaviest ``most`` volumes are kept, of equals the latest.

    Parameters
    ----------
    matcher : Matcher
        :class:`~nextlens.models.induction.exact.ExactInduction`, ``FuzzyInduction``, a GIM.
    words : Dataset
        ``text``, ``story`` and ``volume`` along ``word``, in order of time.
    rows : DataArray
        With ``story`` and ``volume``.
    vocabulary : Vocabulary
        The matcher's.
    gap : int
        Volumes.
    most : int, default=5
    separator : str, default=" "

    Raises
    ------
    ValueError
        If a number is out of range, or a word cannot be spelled.
    """
    at_least("gap", gap, 1)
    at_least("most", most, 1)
    found = []
    for story, at in rows_of_stories(rows):
        mine = np.flatnonzero(words.story.values == story)
        if not len(mine):
            continue
        aligned = WordTokens.of(words.text.values[mine].tolist(), vocabulary, separator=separator)
        heard_in = words.volume.values[mine][aligned.word]
        volume = rows.volume.values[at]
        ends = np.searchsorted(heard_in, volume, side="right")
        for t in np.flatnonzero(ends > 0).tolist():
            found += [
                (at[t], at[j], weight)
                for j, weight in _earlier(matcher, aligned.tokens[: ends[t]], heard_in, volume, t, gap, most)
            ]
    return matched(rows, found, gap)


def _earlier(
    matcher: Matcher, tokens: np.ndarray, heard_in: np.ndarray, volume: np.ndarray, t: int, gap: int, most: int
) -> list[tuple[int, float]]:
    """The heaviest earlier volumes, by their number in the story, and their weights."""
    places = matcher.places(tokens)
    inside = (places.document == CONTEXT) & (places.offset > 0)
    moment = heard_in[places.offset[inside] - 1]
    total: dict[int, float] = {}
    for number, weight in zip(np.searchsorted(volume, moment), places.weight[inside], strict=True):
        if number < len(volume) and volume[t] - volume[number] >= gap and weight > 0:
            total[int(number)] = total.get(int(number), 0.0) + float(weight)
    return sorted(total.items(), key=lambda pair: (-pair[1], -pair[0]))[:most]
