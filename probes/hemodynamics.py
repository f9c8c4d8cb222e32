"""From features at each volume to a design for the slow response of blood: z-scores, delays, trimming, detrending.

Every transformer keeps to one story at a time and learns nothing across stories, so it may run before the split or
inside a ``Pipeline``, to the same numbers; a plain matrix, which cannot say where a story ends, is refused
(:mod:`nextlens.probes.story_rows`). Words are brought to volumes by :mod:`nextlens.probes.words_to_volumes`.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.polynomial import legendre
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from nextlens.models.arguments import at_least
from nextlens.probes.story_rows import columns_like, labelled_input, rows_of_stories, stretches
from nextlens.probes.voxel_scores import flat


class _ByStory(TransformerMixin, BaseEstimator):
    """``fit`` counts columns, ``transform`` treats labelled rows; a plain matrix in gives a plain matrix back."""

    def fit(self, X, y=None):
        """Check ``X``; nothing is learned across stories.

        Raises
        ------
        ValueError
            If ``X`` has no labels and is not declared one run, or holds NaN.
        """
        rows, _ = labelled_input(self, X, reset=True)
        self._look_at(rows)
        return self

    def transform(self, X):
        """The rows treated, story by story.

        Raises
        ------
        ValueError
            As :meth:`fit`, and if the number of features changed.
        """
        check_is_fitted(self)
        rows, plain = labelled_input(self, X, reset=False)
        treated = self._treated(rows)
        return treated.values if plain else treated

    def _look_at(self, rows: xr.DataArray) -> None: ...

    def _treated(self, rows: xr.DataArray) -> xr.DataArray:
        raise NotImplementedError


class ZScore(_ByStory):
    """Mean 0 and standard deviation 1 (ddof 0) of every column inside every story.

    A column that is constant in a story becomes 0 there, and is listed. Each story is standardised by its own
    rows, those of a test story too: no number passes from one story to another.

    Parameters
    ----------
    one_run : bool, default=False
        Whether a matrix without labels is one run.

    Attributes
    ----------
    constant_ : list of (story, column number)
        Where the rows seen by ``fit`` did not vary.

    Examples
    --------
    >>> ZScore(one_run=True).fit_transform([[1.0], [3.0]]).tolist()
    [[-1.0], [1.0]]
    """

    def __init__(self, *, one_run=False):
        self.one_run = one_run

    def _look_at(self, rows):
        self.constant_ = [
            (story, int(column))
            for story, at in rows_of_stories(rows)
            for column in np.flatnonzero(_standardised(rows.values[at])[1])
        ]

    def _treated(self, rows):
        values = np.empty(rows.shape, np.result_type(rows.dtype, np.float32))
        for _, at in rows_of_stories(rows):
            values[at] = _standardised(rows.values[at])[0]
        return rows.copy(data=values)


class Delays(_ByStory):
    """Columns beside themselves, some volumes later: a finite impulse response, which never leaves its story.

    ``out[t, (d, f)] = X[t - d, f]``, by volume number and inside one story; 0 where that volume is not among the
    rows given, which after :class:`ZScore` is the mean. Columns come delay by delay. Delay before rows are split:
    what was heard in a volume left out as a gap is still known then, and no response is in a design.

    Parameters
    ----------
    delays : sequence of int, default=(1, 2, 3, 4)
        In volumes; at a TR of 2 s, 2 to 8 s.
    one_run : bool, default=False
        Whether a matrix without labels is one run.

    Notes
    -----
    The result has coordinates ``delay`` and ``source`` (the number of the column delayed) along its columns, and
    ``band``, if ``X`` has it.

    Examples
    --------
    >>> Delays((0, 1), one_run=True).fit_transform([[1.0], [2.0]]).tolist()
    [[1.0, 0.0], [2.0, 1.0]]
    """

    def __init__(self, delays=(1, 2, 3, 4), *, one_run=False):
        self.delays = delays
        self.one_run = one_run

    def _look_at(self, rows):
        self.delays_ = _whole_delays(self.delays)

    def _treated(self, rows):
        width, column = rows.shape[1], rows.dims[1]
        values = np.zeros((len(rows), len(self.delays_) * width), np.result_type(rows.dtype, np.float32))
        for _, at in rows_of_stories(rows):
            volume = rows.volume.values[at]
            for number, delay in enumerate(self.delays_):
                earlier = np.searchsorted(volume, volume - delay).clip(max=len(at) - 1)
                known = volume[earlier] == volume - delay
                values[at[known], number * width : (number + 1) * width] = rows.values[at[earlier[known]]]
        along = {
            "delay": (column, np.repeat(self.delays_, width)),
            "source": (column, np.tile(np.arange(width), len(self.delays_))),
        }
        if "band" in rows.coords:
            along["band"] = (column, np.tile(rows.band.values, len(self.delays_)))
        return columns_like(rows, values, **along)


class Trim(_ByStory):
    """Without the first ``start`` and the last ``stop`` volumes of every story.

    Rows go, labels stay: a response that is longer is brought to the same rows by
    :func:`~nextlens.probes.story_rows.same_rows`. In the Huth laboratory's practice, [10:-5].

    Examples
    --------
    >>> Trim(1, 1, one_run=True).fit_transform([[1.0], [2.0], [3.0]]).tolist()
    [[2.0]]
    """

    def __init__(self, start=10, stop=5, *, one_run=False):
        self.start = start
        self.stop = stop
        self.one_run = one_run

    def _look_at(self, rows):
        at_least("start", self.start, 0)
        at_least("stop", self.stop, 0)

    def _treated(self, rows):
        kept = []
        for story, at in rows_of_stories(rows):
            if len(at) <= self.start + self.stop:
                raise ValueError(
                    f"story {story!r} has {len(at)} volumes; start={self.start} and stop={self.stop} leave none"
                )
            kept.append(at[self.start : len(at) - self.stop])
        return rows.isel(row=np.concatenate(kept))


class CosineDetrend(_ByStory):
    """What remains after a constant and all cosines slower than ``period`` are projected out.

    A stretch of ``n`` successive volumes loses ``cos(π k (2 t + 1) / (2 n))`` for k = 0 .. ⌊2 n tr / period⌋. A
    stretch ends where a story does, or where a volume is missing: handed the training rows of a fold it sees no
    test row, and handed a test block no row outside it. Nothing is extrapolated, so nothing can leak.

    Parameters
    ----------
    tr : float
        Seconds between volumes.
    period : float, default=128.0
        Seconds; slower oscillations go. Every stretch must last longer than half of it to lose more than its mean.
    one_run : bool, default=False
        Whether a matrix without labels is one run.

    Raises
    ------
    ValueError
        From ``transform``: if a stretch has no more volumes than would be projected out.
    """

    def __init__(self, tr, period=128.0, *, one_run=False):
        self.tr = tr
        self.period = period
        self.one_run = one_run

    def _look_at(self, rows):
        _positive("tr", self.tr)
        _positive("period", self.period)

    def _treated(self, rows):
        return _projected_out(rows, lambda n: cosines(n, int(2 * n * self.tr / self.period)))


class PolynomialDetrend(_ByStory):
    """What remains after Legendre polynomials are projected out: one degree more for every ``seconds`` of a stretch.

    A stretch of ``n`` successive volumes loses degrees 0 .. ⌊n tr / seconds⌋; the same stretches as
    :class:`CosineDetrend`, so a short test block loses a line where a whole run loses a polynomial of degree 6.

    Parameters
    ----------
    tr : float
        Seconds between volumes.
    seconds : float, default=120.0
    one_run : bool, default=False
        Whether a matrix without labels is one run.

    Raises
    ------
    ValueError
        From ``transform``: if a stretch has no more volumes than would be projected out.
    """

    def __init__(self, tr, seconds=120.0, *, one_run=False):
        self.tr = tr
        self.seconds = seconds
        self.one_run = one_run

    def _look_at(self, rows):
        _positive("tr", self.tr)
        _positive("seconds", self.seconds)

    def _treated(self, rows):
        return _projected_out(rows, lambda n: polynomials(n, int(n * self.tr / self.seconds)))


def cosines(n: int, order: int) -> Float[np.ndarray, "{n} {order}+1"]:
    """The first ``order`` cosines of ``n`` volumes after a constant, of norm 1 and orthogonal."""
    basis = np.cos(np.pi * (2 * np.arange(n)[:, None] + 1) * np.arange(order + 1) / (2 * n))
    return basis / np.linalg.norm(basis, axis=0)


def polynomials(n: int, degree: int) -> Float[np.ndarray, "{n} {degree}+1"]:
    """Polynomials up to ``degree`` over ``n`` volumes, of norm 1 and orthogonal."""
    places = np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1)
    return np.linalg.qr(legendre.legvander(places, degree))[0]


def _projected_out(rows: xr.DataArray, basis_of) -> xr.DataArray:
    values = np.empty(rows.shape, np.result_type(rows.dtype, np.float32))
    for story, at in stretches(rows):
        basis = basis_of(len(at))
        if basis.shape[1] >= len(at):
            raise ValueError(
                f"a stretch of {len(at)} volumes of story {story!r}, from volume {int(rows.volume[at[0]])}, is too "
                f"short to lose {basis.shape[1]} drifts"
            )
        values[at] = rows.values[at] - basis @ (basis.T @ rows.values[at])
    return rows.copy(data=values)


def _standardised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Z-scores of each column, and which columns are constant."""
    moved = values.astype(np.float64) - values[0]
    moved -= moved.mean(0)
    spread = np.sqrt((moved**2).mean(0))
    constant = flat(values)
    return np.where(constant, 0.0, moved / np.where(constant, 1.0, spread)), constant


def _whole_delays(delays) -> np.ndarray:
    found = np.asarray(delays)
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu" or len(np.unique(found)) < len(found):
        raise ValueError(f"delays={delays!r} must hold at least one whole number of volumes, each once")
    return found


def _positive(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r} must be above 0 and finite")
