"""Principal components of one wide feature space of a design, learned from the rows it is fitted on and no others."""

from __future__ import annotations

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from nextlens.models.arguments import at_least, one_of
from nextlens.probes.story_rows import columns_like, refuse_unlabelled


class BandComponents(TransformerMixin, BaseEstimator):
    """One band of a delayed design, by its first principal components; every delay is projected on the same ones.

    Components are those of the training rows at the shortest delay, each divided by its standard deviation there.
    Projecting and delaying commute while 0 stays 0, so columns must be z-scored by story before: what stands in a
    ``Pipeline`` after :class:`~nextlens.probes.hemodynamics.Delays` sees training rows only, and no delay is lost at
    the border of a fold. Other bands pass untouched, first; the components come last, delay by delay.

    Parameters
    ----------
    band : str
    n_components : int, default=128
        All of them, if the band is narrower.

    Attributes
    ----------
    basis_ : array of shape (source, component)
    explained_ : float
        The share of the band's variance in the training rows that the components hold.
    """

    def __init__(self, band, n_components=128):
        self.band = band
        self.n_components = n_components

    def fit(self, X, y=None):
        """Find the components.

        Raises
        ------
        ValueError
            If ``X`` does not say the band, delay and source of its columns, has no such band, or it does not vary.
        """
        at_least("n_components", self.n_components, 1)
        columns, delays = self._columns(X)
        values = X.values[:, columns[0]].astype(np.float64)
        value, vector = np.linalg.eigh(values.T @ values / len(values))
        if not value.max() > 0:
            raise ValueError(f"band={self.band!r} is 0 in all {len(values)} training rows; it has no components")
        order = np.argsort(-value)[: self.n_components]
        order = order[value[order] > value.max() * 1e-10]
        self.basis_ = vector[:, order] / np.sqrt(value[order])
        self.explained_ = float(value[order].sum() / value.sum())
        self.n_features_in_, self.delays_ = X.shape[1], delays
        return self

    def transform(self, X):
        """The other bands, then the components.

        Raises
        ------
        ValueError
            As :meth:`fit`, or if the columns are not those it was fitted on.
        """
        check_is_fitted(self)
        columns, delays = self._columns(X)
        if X.shape[1] != self.n_features_in_ or delays != self.delays_:
            raise ValueError(f"X has {X.shape[1]} columns; BandComponents was fitted with {self.n_features_in_}")
        rest = np.setdiff1d(np.arange(X.shape[1]), np.concatenate(columns))
        k = self.basis_.shape[1]
        basis = self.basis_.astype(X.dtype)
        values = np.concatenate([X.values[:, rest], *(X.values[:, at] @ basis for at in columns)], axis=1)
        along = {
            "delay": np.r_[X.delay.values[rest], np.repeat(delays, k)],
            "source": np.r_[X.source.values[rest], np.tile(np.arange(k), len(delays))],
            "band": np.r_[X.band.values[rest], np.full(k * len(delays), self.band)],
        }
        return columns_like(X, values, **{name: (X.dims[1], value) for name, value in along.items()})

    def _columns(self, X: xr.DataArray) -> tuple[list[np.ndarray], list[int]]:
        """The columns of the band at each delay, by rising source; and the delays."""
        refuse_unlabelled("X", X)
        for label in ("band", "delay", "source"):
            if label not in X.coords or X[label].dims != (X.dims[1],):
                raise ValueError(f"X has no coordinate {label!r} along its columns: see label_words and Delays")
        one_of("band", self.band, sorted(set(X.band.values.tolist())))
        mine = X.band.values == self.band
        delays = sorted(set(X.delay.values[mine].tolist()))
        found = [np.flatnonzero(mine & (X.delay.values == delay)) for delay in delays]
        return [at[np.argsort(X.source.values[at], kind="stable")] for at in found], delays
