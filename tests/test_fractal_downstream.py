"""Exponents as predictors of scores: the trap of the reciprocal, models left out, permutations within families."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from nextlens.analyses.fractal_downstream import PUBLISHED, predictors, published, read_table, said
from nextlens.probes.fractal import downstream

FAMILY = ("a",) * 4 + ("b",) * 3 + ("c",) * 5
BITS = np.array([1.0, 0.9, 0.82, 0.75, 0.7, 0.6, 0.55, 0.72, 0.66, 0.6, 0.52, 0.47])


def models(rng: np.random.Generator, own: float) -> tuple[np.ndarray, np.ndarray]:
    """H that follows 1/BPB with something of its own, and scores that see ``own`` of that something."""
    extra = 0.01 * rng.standard_normal(12)
    return 0.6 + 0.04 / BITS + extra, 10 + 30 / BITS + own * extra + rng.standard_normal(12)


def test_the_published_gain_over_bits_per_byte_appears_where_h_says_nothing():
    hurst, score = models(np.random.default_rng(0), own=0.0)
    found = downstream.fits(BITS, hurst, score)
    both, reciprocal, plain = (found[name] for name in ("1/BPB + H (their sum)", "1/BPB", "BPB"))
    assert both.adjusted - plain.adjusted > 0.02
    assert abs(both.adjusted - reciprocal.adjusted) < 0.005
    assert downstream.added(BITS, hurst, score, FAMILY, np.random.default_rng(0)).p > 0.05


def test_an_exponent_that_says_something_is_found():
    hurst, score = models(np.random.default_rng(1), own=500.0)
    found = downstream.added(BITS, hurst, score, FAMILY, np.random.default_rng(0))
    assert found.p < 0.01
    assert found.left_out > 0.05
    assert found.n_permutations == 24 * 6 * 120


def test_fits_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((12, 2)), rng.standard_normal(12)
    found, plain = downstream.fit(x, y), LinearRegression().fit(x, y).score(x, y)
    assert found.adjusted == pytest.approx(1 - (1 - plain) * 11 / 9)
    out = cross_val_predict(LinearRegression(), x, y, cv=LeaveOneOut())
    assert found.left_out == pytest.approx(1 - ((y - out) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def test_differences_between_families_alone_are_no_evidence():
    level = np.repeat([0.0, 1.0, 2.0], [4, 3, 5])
    rng = np.random.default_rng(3)
    hurst = 0.6 + 0.05 * level + 0.001 * rng.standard_normal(12)
    score = 10 * level + rng.standard_normal(12)
    assert downstream.between_families(hurst, FAMILY) > 0.99
    assert downstream.fits(BITS, hurst, score)["H"].adjusted > 0.9
    assert downstream.added(BITS, hurst, score, FAMILY, rng).p > 0.05


def test_many_models_are_permuted_at_random(monkeypatch):
    monkeypatch.setattr(downstream, "MOST_PERMUTATIONS", 500)
    rng = np.random.default_rng(4)
    bits, hurst, score = rng.uniform(0.5, 1, 20), rng.random(20), rng.random(20)
    assert downstream.added(bits, hurst, score, ["a"] * 20, rng).n_permutations == downstream.MOST_PERMUTATIONS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hurst": np.full(12, 0.64)}, "H are all 0.64"),
        ({"bits_per_byte": BITS - 0.47}, "bits per byte hold 0.0"),
        ({"score": np.r_[np.nan, np.ones(11)]}, "scores must be 12 finite numbers"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, words):
    hurst, score = models(np.random.default_rng(0), 0.0)
    with pytest.raises(ValueError, match=words):
        downstream.fits(**{"bits_per_byte": BITS, "hurst": hurst, "score": score, **change})


def test_families_of_one_exponent_are_refused():
    hurst = np.repeat([0.64, 0.68, 0.7], [4, 3, 5])
    with pytest.raises(ValueError, match="nothing can be permuted"):
        downstream.added(BITS, hurst, models(np.random.default_rng(0), 0.0)[1], FAMILY, np.random.default_rng(0))


def test_a_table_is_read_and_said(tmp_path):
    hurst, score = models(np.random.default_rng(0), 0.0)
    lines = ["model,family,bpb,hurst,quiz"]
    lines += [f"m{i},{f},{b},{h},{s}" for i, (f, b, h, s) in enumerate(zip(FAMILY, BITS, hurst, score, strict=True))]
    path = tmp_path / "models.csv"
    path.write_text("\n".join(lines))
    found = predictors(read_table(path), np.random.default_rng(0))
    assert found["scores"]["quiz"]["fits"]["BPB"]["adjusted"] == pytest.approx(downstream.fit(BITS[:, None], score)[0])
    words = said(found)
    assert "1/BPB + H (their sum)" in words
    assert "arrangements within families" in words
    path.write_text("\n".join([*lines, "m13,a,low,0.6,3"]))
    with pytest.raises(ValueError, match="line 14: bpb is 'low'"):
        read_table(path)
    path.write_text("model,family,hurst,quiz\n")
    with pytest.raises(ValueError, match="lacks the column 'bpb'"):
        read_table(path)
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")


def test_the_published_table_is_said_with_what_it_lacks():
    words = said(published())
    assert all(name in words for name in PUBLISHED)
    assert "no baseline with the reciprocal" in words
