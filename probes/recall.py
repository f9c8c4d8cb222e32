"""What came next after the earlier moments most like this one: matches between volumes, what they copy, and controls.

For volume t of a story, J(t) are earlier volumes of it that are like t, at least ``gap`` volumes back, each with a
weight. Matching looks at words, by whichever matcher; copying looks at what stood at, or after, the match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least
from nextlens.probes.story_rows import columns_like, row_labels, rows_of_stories

#: ``exp(-(1 - cos) / TEMPERATURE)``, as published for induction by similarity (arXiv:2411.00066).
TEMPERATURE = 0.1
#: Matches kept for each volume.
MOST = 5


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of volumes of one story: ``row`` is like ``earlier``, by ``weight``.

    Attributes
    ----------
    rows : DataArray
        The labels of the rows that ``row`` and ``earlier`` number.
    row, earlier : Int[np.ndarray, "match"]
    weight : Float[np.ndarray, "match"]
        Above 0; how they compare within one row is all that counts.
    gap : int
        Every match is at least so many volumes back.

    Raises
    ------
    ValueError
        If a match is of another story, nearer than the gap, or weighs nothing.
    """

    rows: xr.DataArray
    row: Int[np.ndarray, " match"]
    earlier: Int[np.ndarray, " match"]
    weight: Float[np.ndarray, " match"]
    gap: int

    def __post_init__(self) -> None:
        story = self.rows.story.values
        if (story[self.row] != story[self.earlier]).any():
            raise ValueError("a match is of another story")
        if (self.lags < at_least("gap", self.gap, 1)).any():
            raise ValueError(f"a match is {self.lags.min()} volumes back; gap={self.gap} is the least")
        if not (self.weight > 0).all():
            raise ValueError("a match weighs nothing; leave it out")

    @property
    def lags(self) -> Int[np.ndarray, " match"]:
        """How many volumes back each match is."""
        volume = self.rows.volume.values
        return volume[self.row] - volume[self.earlier]

    @property
    def share(self) -> float:
        """The share of rows with a match."""
        return len(np.unique(self.row)) / len(self.rows)


def matched(rows: xr.DataArray, found: Sequence[tuple], gap: int) -> Matches:
    """:class:`Matches` from ``(row, earlier, weight)``, in that order.

    Raises
    ------
    ValueError
        As :class:`Matches`.
    """
    row, earlier, weight = np.array(found, dtype=np.float64).reshape(-1, 3).T
    return Matches(row_labels(rows), row.astype(np.int64), earlier.astype(np.int64), weight, gap)


def similar(context: xr.DataArray, *, gap: int, most: int = MOST, temperature: float = TEMPERATURE) -> Matches:
    """The ``most`` earlier volumes of the story whose context is nearest, weighed by ``exp(-(1 - cos) / temperature)``.

    A context of one volume gives momentary matches; a mean over the last words, or a model's state, contextual ones.
    A context that is 0 is like nothing.

    Parameters
    ----------
    context : DataArray, dims (row, feature)
        Of words up to the end of each volume, no later ones.
    gap : int
        Volumes.
    most : int, default=5
    temperature : float, default=0.1

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    at_least("most", most, 1)
    at_least("gap", gap, 1)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature!r} must be above 0")
    norm = np.linalg.norm(context.values.astype(np.float64), axis=1)
    unit = context.values / np.where(norm > 0, norm, 1.0)[:, None]
    found = []
    for _, at in rows_of_stories(context):
        volume = context.volume.values[at]
        cosine = unit[at] @ unit[at].T
        heard = (volume[:, None] - volume >= gap) & (norm[at] > 0) & (norm[at] > 0)[:, None]
        for t in np.flatnonzero(heard.any(1)):
            candidates = np.flatnonzero(heard[t])
            best = candidates[np.lexsort((-candidates, -cosine[t, candidates]))[:most]]
            found += [(at[t], at[j], np.exp((cosine[t, j] - 1.0) / temperature)) for j in best]
    return matched(context, found, gap)


def longest_run(words: xr.Dataset, rows: xr.DataArray, *, gap: int, shortest: int = 3, longest: int = 8) -> Matches:
    """The earlier volume in which the longest run of words ended that also ends in this one; of equals the latest.

    Where volumes cut speech is of no account, so a run may end at any word of a volume, and begin in an earlier one.

    Parameters
    ----------
    words : Dataset
        ``text``, ``story`` and ``volume`` along ``word``, in order of time. Runs do not reach into another story.
    rows : DataArray
        With ``story`` and ``volume``.
    gap : int
        Volumes.
    shortest : int, default=3
        Words; a shorter run is chance, and no match.
    longest : int, default=8
        Words; a longer run counts as so many.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    at_least("gap", gap, 1)
    at_least("longest", longest, at_least("shortest", shortest, 1))
    code, found = np.unique(words.text.values, return_inverse=True)[1], []
    for story, at in rows_of_stories(rows):
        mine, volume = words.story.values == story, rows.volume.values[at]
        runs = _runs(code[mine], words.volume.values[mine], volume).clip(max=longest)
        runs[volume[:, None] - volume < gap] = 0
        for t in np.flatnonzero(runs.max(1) >= shortest):
            j = int(np.flatnonzero(runs[t] == runs[t].max())[-1])
            found.append((at[t], at[j], 1.0))
    return matched(rows, found, gap)


def copied(
    values: xr.DataArray, matches: Matches, delays: Sequence[int] = (1, 2, 3, 4), *, indicator: bool = True
) -> xr.DataArray:
    """What stood at the matched moments, at the same phase of the slow response: dims (row, feature).

    If the words at t - o match those at j, then what followed j by o stands now::

        out[t, o] = Σ_j w_j y[j + o] / Σ_j w_j      over j in J(t - o) with j + o <= t - gap

    With responses as ``values`` this copies the brain's own past; the z-scores that they bear are of the whole story.
    Features of words are copied by :func:`followed` instead, and then delayed like any other. Rows without an
    admissible match are 0, and ``indicator`` adds a column a delay that says so.

    Parameters
    ----------
    values : DataArray, dims (row, column)
        With the rows of the matches.
    matches : Matches
    delays : sequence of int, default=(1, 2, 3, 4)
        Volumes, at least 1: "what came next".
    indicator : bool, default=True

    Raises
    ------
    ValueError
        If a delay is below 1, or rows differ.
    """
    _refuse_other_rows(values, matches)
    for delay in delays:
        at_least("delay", delay, 1)
    later = _later(matches.rows, delays)
    parts, missing = [], []
    for number in range(len(delays)):
        now, source = later[number][matches.row], later[number][matches.earlier]
        known = (now >= 0) & (source >= 0)
        part, none = _weighted(values.values, now[known], source[known], matches.weight[known])
        parts.append(part)
        missing.append(none)
    columns = np.concatenate(parts + ([np.stack(missing, axis=1)] if indicator else []), axis=1)
    return columns_like(values, columns)


def followed(features: xr.DataArray, matches: Matches, *, ahead: int = 1, indicator: bool = True) -> xr.DataArray:
    """The features of the volume ``ahead`` after each matched moment: what came next last time, said now.

    ``out[t] = Σ_j w_j x[j + ahead] / Σ_j w_j`` over j in J(t) with ``j + ahead <= t - gap + ahead``: what followed is
    long past when it is copied. Uses no response; delay it like any feature.

    Raises
    ------
    ValueError
        If ``ahead`` is not within 0 and the gap, or rows differ.
    """
    _refuse_other_rows(features, matches)
    if not 0 <= ahead <= matches.gap:
        raise ValueError(f"ahead={ahead} must lie between 0 and gap={matches.gap}: no later volume may be copied")
    source = _later(matches.rows, [ahead])[0][matches.earlier]
    known = source >= 0
    part, none = _weighted(features.values, matches.row[known], source[known], matches.weight[known])
    return columns_like(features, np.concatenate([part, none[:, None]], axis=1) if indicator else part)


def uniform_matches(matches: Matches, rng: np.random.Generator) -> Matches:
    """Control: as many matches for each row, with the same weights, drawn uniformly from its admissible past."""
    earlier = matches.earlier.copy()
    volume = matches.rows.volume.values
    for _, at in rows_of_stories(matches.rows):
        mine = np.flatnonzero(np.isin(matches.row, at))
        allowed = np.searchsorted(volume[at], volume[matches.row[mine]] - matches.gap, side="right")
        earlier[mine] = at[(rng.random(len(mine)) * allowed).astype(np.int64)]
    return Matches(matches.rows, matches.row, earlier, matches.weight, matches.gap)


def lagged_matches(matches: Matches, rng: np.random.Generator) -> Matches:
    """Control: the real lags of each story, dealt anew to the rows where they fit, with the weights that they had.

    It keeps how far back matches lie, which slow noise alone could use, and breaks which moment they point to. The
    longest lags are dealt first, each to a row drawn from those that still want a match and have so much past.
    """
    earlier, weight = matches.earlier.copy(), matches.weight.copy()
    volume, lags = matches.rows.volume.values, matches.lags
    story_of = {int(row): number for number, (_, at) in enumerate(rows_of_stories(matches.rows)) for row in at.tolist()}
    member = np.array([story_of[row] for row in matches.row.tolist()], dtype=np.int64)
    for story, (_, at) in enumerate(rows_of_stories(matches.rows)):
        mine = np.flatnonzero(member == story)
        number = dict(zip(volume[at].tolist(), at.tolist(), strict=True))
        when = volume[matches.row[mine]]
        wanting = mine[np.argsort(when, kind="stable")].tolist()  # the latest, with the most past, last
        able: list[int] = []
        for source in mine[np.argsort(-lags[mine], kind="stable")].tolist():
            lag = int(lags[source])
            while wanting and int(volume[matches.row[wanting[-1]]]) - lag >= volume[at[0]]:
                able.append(wanting.pop())
            place = _drawn(able, lambda one, lag=lag, number=number: int(volume[matches.row[one]]) - lag in number, rng)
            if place is not None:
                taker = able[place]
                able[place] = able[-1]
                able.pop()
                earlier[taker] = number[int(volume[matches.row[taker]]) - lag]
                weight[taker] = matches.weight[source]
    return Matches(matches.rows, matches.row, earlier, weight, matches.gap)


def _drawn(items: list[int], fits: Callable[[int], bool], rng: np.random.Generator) -> int | None:
    """The place of one of the items that fit, each as likely; None if none does."""
    if not items:
        return None
    place = int(rng.integers(len(items)))
    if fits(items[place]):
        return place
    fitting = [number for number, one in enumerate(items) if fits(one)]
    return fitting[int(rng.integers(len(fitting)))] if fitting else None


def permuted_matches(matches: Matches, rng: np.random.Generator) -> Matches:
    """Control: every story has the matches of another one, volume by volume, as far as both reach.

    It keeps the time structure of matching, and has nothing to do with the words.

    Raises
    ------
    ValueError
        If there is one story only.
    """
    stories = dict(rows_of_stories(matches.rows))
    at_least("number of stories", len(stories), 2)
    names = list(stories)
    shift = int(rng.integers(1, len(names)))
    volume = matches.rows.volume.values
    parts = []
    for place, name in enumerate(names):
        donor = stories[names[(place + shift) % len(names)]]
        mine = {int(volume[row]): int(row) for row in stories[name]}
        for number in np.flatnonzero(np.isin(matches.row, donor)):
            row, earlier = mine.get(int(volume[matches.row[number]])), mine.get(int(volume[matches.earlier[number]]))
            if row is not None and earlier is not None:
                parts.append((row, earlier, matches.weight[number]))
    return matched(matches.rows, parts, matches.gap)


def _runs(
    code: Int[np.ndarray, " word"], heard: Int[np.ndarray, " word"], volume: Int[np.ndarray, " row"]
) -> Int[np.ndarray, "row row"]:
    """The most words that some run ending in one volume has in common with one ending in the other."""
    runs = np.zeros((len(volume), len(volume)), dtype=np.int64)
    row = np.searchsorted(volume, heard).clip(max=len(volume) - 1)
    scanned = volume[row] == heard
    where = {one: np.flatnonzero(code == one) for one in np.unique(code).tolist()}
    before = np.zeros(len(code) + 1, dtype=np.int64)  # the run that ends at each word and at the last word looked at
    for word, one in enumerate(code.tolist()):
        same, now = where[one], np.zeros_like(before)
        now[same + 1] = before[same] + 1
        before = now
        if scanned[word]:
            seen = same[scanned[same]]
            np.maximum.at(runs[row[word]], row[seen], now[seen + 1])
    return runs


def _later(rows: xr.DataArray, delays: Sequence[int]) -> list[Int[np.ndarray, " row"]]:
    """For each delay and row, the row so many volumes later in its story; -1 where there is none."""
    volume, found = rows.volume.values, [np.full(len(rows), -1) for _ in delays]
    for _, at in rows_of_stories(rows):
        for number, delay in enumerate(delays):
            place = np.searchsorted(volume[at], volume[at] + delay).clip(max=len(at) - 1)
            found[number][at] = np.where(volume[at[place]] == volume[at] + delay, at[place], -1)
    return found


def _weighted(
    values: np.ndarray, row: Int[np.ndarray, " match"], source: Int[np.ndarray, " match"], weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means of what is copied to each row, 0 where nothing is; and where that is so."""
    total, mass = np.zeros(values.shape), np.zeros(len(values))
    np.add.at(total, row, weight[:, None] * values[source])
    np.add.at(mass, row, weight)
    none = mass == 0
    return total / np.where(none, 1.0, mass)[:, None], none.astype(np.float64)


def _refuse_other_rows(values: xr.DataArray, matches: Matches) -> None:
    for label in ("story", "volume"):
        if not np.array_equal(values[label].values, matches.rows[label].values):
            raise ValueError(f"values and matches differ in {label!r}; both must have the same rows, in the same order")
