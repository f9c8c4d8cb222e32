"""Components of a band: those of scikit-learn, learned from training rows, the same at every delay."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from nextlens.probes.band_components import BandComponents
from nextlens.probes.hemodynamics import Delays, ZScore
from nextlens.probes.story_rows import label_rows


def design(seed=0, width=6):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((80, width + 1)) @ rng.standard_normal((width + 1, width + 1))
    rows = label_rows(values, ["a", "b"] * 40, np.repeat(np.arange(40), 2))
    rows = rows.assign_coords(band=("feature", ["rate", *["wide"] * width]))
    return ZScore().fit_transform(rows)


def test_components_are_those_of_scikit_learn_up_to_sign():
    rows = design()
    X = Delays((0,)).fit_transform(rows)
    found = BandComponents("wide", 3).fit(X).transform(X)
    theirs = PCA(3, whiten=True).fit(rows.values[:, 1:]).transform(rows.values[:, 1:])
    same = np.corrcoef(found.values[:, 1:].T, theirs.T)[:3, 3:]
    np.testing.assert_allclose(np.abs(same), np.eye(3), atol=1e-8)
    np.testing.assert_allclose((found.values[:, 1:] ** 2).mean(0), 1.0)


def test_projecting_and_delaying_commute():
    rows = design()
    late = BandComponents("wide", 4).fit_transform(Delays((1, 3)).fit_transform(rows))
    basis = BandComponents("wide", 4).fit(Delays((1, 3)).fit_transform(rows)).basis_
    early = Delays((1, 3)).fit_transform(rows[:, 1:].copy(data=rows.values[:, 1:])).values.reshape(80, 2, 6) @ basis
    np.testing.assert_allclose(late.values[:, 2:].reshape(80, 2, 4), early, atol=1e-10)
    assert late.band.values.tolist() == ["rate"] * 2 + ["wide"] * 8
    assert late.delay.values.tolist() == [1, 3, 1, 1, 1, 1, 3, 3, 3, 3]


def test_rows_that_are_not_fitted_on_change_nothing():
    X = Delays((1, 2)).fit_transform(design())
    train = np.flatnonzero(X.story.values == "a")
    spoiled = X.copy(data=np.where((X.story.values == "b")[:, None], 9.0, X.values))
    one, other = (BandComponents("wide", 2).fit(rows[train]).basis_ for rows in (X, spoiled))
    np.testing.assert_array_equal(one, other)


def test_a_narrow_band_keeps_all_it_has():
    X = Delays((1,)).fit_transform(design())
    found = BandComponents("wide", 50).fit(X)
    assert found.basis_.shape == (6, 6)
    assert found.explained_ == pytest.approx(1.0)


def test_what_it_cannot_reduce_is_named():
    rows = design()
    X = Delays((1,)).fit_transform(rows)
    with pytest.raises(ValueError, match="band='narrow'"):
        BandComponents("narrow").fit(X)
    with pytest.raises(ValueError, match="delay"):
        BandComponents("wide").fit(rows)
    with pytest.raises(ValueError, match="n_components=0"):
        BandComponents("wide", 0).fit(X)
    with pytest.raises(ValueError, match="no components"):
        BandComponents("wide").fit(X * 0.0)
    fitted = make_pipeline(BandComponents("wide", 2)).fit(X)
    with pytest.raises(ValueError, match="fitted with 7"):
        fitted.transform(Delays((1, 2)).fit_transform(rows))
