"""From features of words, heard whenever they were said, to features of volumes, scanned once in a TR.

Words are an ``xr.DataArray`` of dims (word, feature) with coordinates along ``word``: ``story``, and ``onset`` in
seconds on the clock of the volumes, or ``volume``, the volume during which the word began, where times are not
known. The rows to fill come with the response: its ``story``, ``volume`` and ``time``, the middle of each volume
in seconds. Nothing here is fitted to data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from nextlens.models.arguments import one_of
from nextlens.probes.ridge import refuse_not_finite
from nextlens.probes.story_rows import columns_like, row_labels, rows_of_stories

#: Volumes whose spacing differs by more than this share of a TR are not evenly spaced.
JITTER = 1e-3
#: With ``normalise``, a volume whose weights sum to less has no words near, and stays 0.
LEAST_SUM = 0.1


def label_words(
    values: Float[np.ndarray, "word feature"],
    words: xr.Dataset,
    *,
    names: Sequence[str] | None = None,
    band: str | None = None,
) -> xr.DataArray:
    """Features of words under the labels of ``words``, its dims (word, feature).

    Parameters
    ----------
    values : array of shape (word, feature)
    words : Dataset
        Of a :class:`~nextlens.probes.responses.listening.Listening`: ``story``, and ``onset`` or ``volume``.
    names : sequence of str, optional
        One a feature.
    band : str, optional
        The feature space that all of them belong to.

    Raises
    ------
    ValueError
        If there is not one row a word, or a value is not finite.
    """
    if len(values) != words.sizes["word"]:
        raise ValueError(f"values has {len(values)} rows for {words.sizes['word']} words; they must be as many")
    refuse_not_finite(values=values)
    along = {name: ("word", words[name].values) for name in ("story", "onset", "volume") if name in words}
    if names is not None:
        along["feature"] = ("feature", list(names))
    if band is not None:
        along["band"] = ("feature", np.full(values.shape[1], band))
    return xr.DataArray(values, dims=("word", "feature"), coords=along)


def beside(parts: Sequence[xr.DataArray]) -> xr.DataArray:
    """Several features of the same words, or of the same rows, in one array.

    Raises
    ------
    ValueError
        If there are none, or their labels differ.
    """
    if not parts:
        raise ValueError("parts is empty; at least one array is needed")
    first, *others = parts
    long = first.dims[0]
    labels = [name for name, value in first.coords.items() if value.dims == (long,)]
    for number, other in enumerate(others, 1):
        for name in labels:
            same = name in other.coords and np.array_equal(first[name].values, other[name].values)
            if not same or other.dims != first.dims:
                raise ValueError(f"parts[{number}] differs from parts[0] in {name!r}; both must label the same {long}s")
    along = {name: (long, first[name].values) for name in labels}
    for name in (first.dims[1], "band", "delay", "source"):
        if all(name in part.coords for part in parts):
            along[name] = (first.dims[1], np.concatenate([part[name].values for part in parts]))
    return xr.DataArray(np.concatenate([p.values for p in parts], axis=1), dims=first.dims, coords=along)


def bands_of(X: xr.DataArray) -> dict[str, Int[np.ndarray, " _"]]:
    """The columns of each band, in the order in which bands first come: what ``BandedRidgeCV`` wants of a design.

    Raises
    ------
    ValueError
        If columns do not say which band they belong to.
    """
    if "band" not in X.coords:
        raise ValueError("X has no coordinate 'band' along its columns: give band= to label_words")
    names, first, member = np.unique(X.band.values, return_index=True, return_inverse=True)
    return {str(names[code]): np.flatnonzero(member == code) for code in np.argsort(first)}


class _WordsToVolumes(TransformerMixin, BaseEstimator):
    """``transform`` gives the rows of the stories that the words are of, in the order of ``rows``."""

    def fit(self, X, y=None):
        """Check the words and the rows; nothing is learned.

        Raises
        ------
        ValueError
            If a label is lacking, a value is not finite, or the volumes of a story are not evenly spaced.
        """
        _refuse_unlabelled_words(X, self._needs)
        one_of("outside", self.outside, ("refuse", "ignore"))
        self._refuse_rows()
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        """An array of dims (row, feature) with the labels of ``rows``.

        Raises
        ------
        ValueError
            As :meth:`fit`; if the words are of a story without rows, or, unless ``outside="ignore"``, lie outside
            the scan.
        """
        check_is_fitted(self)
        _refuse_unlabelled_words(X, self._needs)
        told, story, rows = set(np.unique(X.story.values).tolist()), X.story.values, row_labels(self.rows)
        scanned = dict(rows_of_stories(rows))
        unknown = told - set(scanned)
        if unknown:
            raise ValueError(f"words of story {min(unknown)!r} have no rows; rows hold {len(scanned)} stories")
        values = np.zeros((len(rows), X.shape[1]), np.result_type(X.dtype, np.float32))
        for name, at in scanned.items():
            if name in told:
                words = np.flatnonzero(story == name)
                values[at] = self._brought(X.values[words], X.isel(word=words), rows.isel(row=at), name)
        along = {n: ("feature", X[n].values) for n in ("feature", "band") if n in X.coords}
        filled = columns_like(rows, values, **along)
        return filled.isel(row=np.flatnonzero(np.isin(rows.story.values, list(told))))


class _ByTime(_WordsToVolumes):
    _needs = "onset"

    def _refuse_rows(self):
        if "time" not in self.rows.coords:
            raise ValueError("rows have no coordinate 'time', the middle of each volume in seconds")
        self.tr_ = spacing(self.rows)

    def _brought(self, values, words, rows, story):
        onset, times = words.onset.values, rows.time.values
        _refuse_outside(onset, times[0] - self.tr_ / 2, times[-1] + self.tr_ / 2, story, "s", self.outside)
        return self._weights(onset, times) @ values


class Lanczos(_ByTime):
    """Words summed through a low-pass filter: the practice of the field.

    ``out[t] = Σ_w L(c (T_t - τ_w)) x_w`` with T_t the middle of volume t, τ_w the onset of word w, c = ``cutoff`` / TR,
    and ``L(x) = sinc(x) sinc(x / window)`` for |x| <= ``window``, else 0. Weights are not normalised, so this is
    a smooth sum: far from the borders the weights of a volume sum to the number of words in a TR. The filter is
    not causal, it looks ``window`` / ``cutoff`` volumes ahead.

    Parameters
    ----------
    rows : DataArray
        With ``story``, ``volume`` and ``time`` along ``row``. A large response is copied with its transformer by
        ``clone``: hand over :func:`~nextlens.probes.story_rows.row_labels` of it.
    window : int, default=3
        Lobes of the filter.
    cutoff : float, default=1.0
        In units of the Nyquist frequency of the volumes, 1 / (2 TR).
    normalise : bool, default=False
        Whether the weights of each volume are divided by their sum, which makes a local mean. Volumes whose
        weights sum to less than :data:`LEAST_SUM` stay 0.
    outside : {"refuse", "ignore"}, default="refuse"
        What words before the first volume or after the last are. "ignore" lets them count as far as the filter
        reaches; for rows that have been trimmed.

    Attributes
    ----------
    tr_ : float
        Seconds between volumes.
    """

    def __init__(self, rows, *, window=3, cutoff=1.0, normalise=False, outside="refuse"):
        self.rows = rows
        self.window = window
        self.cutoff = cutoff
        self.normalise = normalise
        self.outside = outside

    def _weights(self, onset, times):
        weights = lanczos(onset, times, self.cutoff / self.tr_, self.window)
        return _normalised(weights) if self.normalise else weights


class Sinc(_ByTime):
    """As :class:`Lanczos` without its taper: ``L(x) = sinc(x)`` for |x| <= ``window``, else 0; it rings."""

    def __init__(self, rows, *, window=10, cutoff=1.0, outside="refuse"):
        self.rows = rows
        self.window = window
        self.cutoff = cutoff
        self.outside = outside

    def _weights(self, onset, times):
        return near(onset, times, self.cutoff / self.tr_, self.window, np.sinc)


class _ByVolume(_WordsToVolumes):
    """Needs to know in which volume a word begins: its ``volume``, or its ``onset`` and the ``time`` of rows."""

    _needs = "volume"

    def __init__(self, rows, *, outside="refuse"):
        self.rows = rows
        self.outside = outside

    def _refuse_rows(self): ...

    def _brought(self, values, words, rows, story):
        volume, heard = rows.volume.values, words.volume.values
        _refuse_outside(heard, volume[0], volume[-1] + 1, story, "volumes", self.outside)
        at = np.searchsorted(volume, heard).clip(max=len(volume) - 1)
        inside = volume[at] == heard
        row = at[inside]
        return self._joined(row, np.flatnonzero(inside), len(rows), len(values)) @ values


class SumOfWords(_ByVolume):
    """The sum over the words that begin during a volume; 0 where there is none."""

    def _joined(self, row, word, n_rows, n_words):
        return csr_array((np.ones(len(row)), (row, word)), shape=(n_rows, n_words))


class MeanOfWords(_ByVolume):
    """The mean over the words that begin during a volume; 0 where there is none."""

    def _joined(self, row, word, n_rows, n_words):
        count = np.bincount(row, minlength=n_rows)
        return csr_array((1.0 / count[row], (row, word)), shape=(n_rows, n_words))


class LastWord(_ByVolume):
    """The last word that begins during a volume, in the order of words; 0 where there is none."""

    def _joined(self, row, word, n_rows, n_words):
        last = np.full(n_rows, -1)
        np.maximum.at(last, row, word)
        filled = np.flatnonzero(last >= 0)
        return csr_array((np.ones(len(filled)), (filled, last[filled])), shape=(n_rows, n_words))


def lanczos(
    onset: Float[np.ndarray, " word"], times: Float[np.ndarray, " row"], rate: float, window: float | int = 3
) -> csr_array:
    """The weights of :class:`Lanczos`, sparse, of shape (row, word); ``rate`` is the cutoff over the TR, per second."""
    return near(onset, times, rate, window, lambda x: np.sinc(x) * np.sinc(x / window))


def near(
    onset: Float[np.ndarray, " word"], times: Float[np.ndarray, " row"], rate: float, window: float | int, kernel
) -> csr_array:
    """``kernel(rate (times - onset))`` wherever its argument is at most ``window``, of shape (row, word)."""
    order = np.argsort(onset, kind="stable")
    reach = window / rate
    low, high = (
        np.searchsorted(onset[order], times + end, side=side) for end, side in ((-reach, "left"), (reach, "right"))
    )
    count = high - low
    row = np.repeat(np.arange(len(times)), count)
    word = order[np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)]
    return csr_array((kernel(rate * (times[row] - onset[word])), (row, word)), shape=(len(times), len(onset)))


def spacing(rows: xr.DataArray) -> float:
    """The TR: seconds between successive volumes, the same in all stories.

    Raises
    ------
    ValueError
        If two stories differ, or the volumes of one are not evenly spaced.
    """
    found: dict[str, float] = {}
    for story, at in rows_of_stories(rows):
        if len(at) < 2:
            continue
        step = np.diff(rows.time.values[at]) / np.diff(rows.volume.values[at])
        found[story] = float(np.median(step))
        if not np.abs(step - found[story]).max() <= JITTER * abs(found[story]):
            worst = int(np.abs(step - found[story]).argmax())
            raise ValueError(
                f"the volumes of story {story!r} are not evenly spaced: {step[worst]:.4g} s after volume "
                f"{int(rows.volume[at[worst]])}, {found[story]:.4g} s as a rule"
            )
    if not found:
        raise ValueError("rows hold no story of two volumes; a TR cannot be told")
    (first, tr), *others = found.items()
    for story, other in others:
        if abs(other - tr) > JITTER * tr:
            raise ValueError(
                f"TRs differ: {tr:.4g} s in story {first!r}, {other:.4g} s in {story!r}; resample, or treat them apart"
            )
    return tr


def volume_of(onset: Float[np.ndarray, " word"], tr: float | int, start: float | int = 0.0) -> Int[np.ndarray, " word"]:
    """The volume during which each word begins: ``⌊(onset - start) / tr⌋``, volume 0 beginning at ``start`` seconds."""
    return np.floor((onset - start) / tr).astype(np.int64)


def _normalised(weights: csr_array) -> csr_array:
    total = np.asarray(weights.sum(1)).ravel()
    scale = np.divide(1.0, total, out=np.zeros_like(total), where=total >= LEAST_SUM)
    return csr_array(weights.multiply(scale[:, None]))


def _refuse_unlabelled_words(X: object, needs: str) -> None:
    if not isinstance(X, xr.DataArray) or X.ndim != 2 or X.dims[0] != "word":
        found = getattr(X, "dims", type(X).__name__)
        raise ValueError(f"X is {found}; words are a DataArray of dims (word, feature): see label_words")
    for label in ("story", needs):
        if label not in X.coords:
            raise ValueError(f"X has no coordinate {label!r} along its words: see label_words")
    refuse_not_finite(X=X.values.astype(np.float64), **{needs: X[needs].values.astype(np.float64)})


def _refuse_outside(place, low, high, story, unit, outside) -> None:
    wrong = (place < low) | (place >= high)
    if outside == "refuse" and wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"{int(wrong.sum())} words of story {story!r} begin outside the scan, which is {low:g} to {high:g} {unit}; "
            f"the first is word {first}, at {place[first]:g}. If rows were trimmed, say outside='ignore'"
        )
