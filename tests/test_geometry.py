"""Shapes of clouds, against brute force over pairs, SciPy, and spans that are known."""

from __future__ import annotations

import re
import tracemalloc
from unittest import mock

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import procrustes as scipy_procrustes
from scipy.spatial.distance import pdist

import nextlens.probes.geometry as geometry
from nextlens.probes.geometry import (
    METRICS,
    dimensions_at,
    effective_rank,
    pairwise_r2,
    participation_ratio,
    principal_angles,
    principal_subspace,
    procrustes,
    subspace_overlap,
    variance_spectrum,
)
from nextlens.probes.ridge import r2

seeds = st.integers(0, 2**32 - 1)


def two_clouds(seed: int, n: int = 30) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet(np.ones(3), n)
    return truth, truth @ rng.standard_normal((3, 5)) + 0.3 * rng.standard_normal((n, 5)) + 2.0, rng


def rotation(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


@given(seed=seeds)
def test_the_spectrum_is_that_of_the_rows_repeated(seed):
    _, X, rng = two_clouds(seed)
    counts = rng.integers(0, 4, len(X)) + (np.arange(len(X)) == 0)
    repeated = np.repeat(X, counts, axis=0)
    expected = np.linalg.svd(repeated - repeated.mean(0), compute_uv=False) ** 2 / len(repeated)
    np.testing.assert_allclose(variance_spectrum(X, counts.astype(float)), expected, rtol=1e-9)


@given(seed=seeds, k=st.integers(1, 6))
def test_k_equal_variances_count_as_k_dimensions(seed, k):
    rng = np.random.default_rng(seed)
    plane = np.concatenate([np.eye(k), -np.eye(k)]) @ rotation(8, rng)[:k] + 100.0
    spectrum = variance_spectrum(plane)
    assert dimensions_at(spectrum, 1.0) == k
    assert dimensions_at(spectrum, (k - 0.5) / k) == k
    np.testing.assert_allclose([participation_ratio(spectrum), effective_rank(spectrum)], k, rtol=1e-9)


@given(seed=seeds)
def test_ranks_by_their_formulas_and_in_their_order(seed):
    spectrum = np.random.default_rng(seed).exponential(size=7)
    share = spectrum / spectrum.sum()
    np.testing.assert_allclose(participation_ratio(spectrum), spectrum.sum() ** 2 / (spectrum**2).sum())
    np.testing.assert_allclose(effective_rank(spectrum), np.prod(share**-share))
    assert 1 <= participation_ratio(spectrum) <= effective_rank(spectrum) <= 7


def test_dimensions_are_counted_from_the_largest_whatever_the_order():
    spectrum = np.array([0.04, 0.9, 0.06])
    assert [dimensions_at(spectrum, share) for share in (0.5, 0.9, 0.95, 0.96, 0.97, 1.0)] == [1, 1, 2, 2, 3, 3]


def test_where_nothing_varies_there_are_no_dimensions():
    spectrum = variance_spectrum(np.full((5, 3), 0.1))
    assert (dimensions_at(spectrum), participation_ratio(spectrum), effective_rank(spectrum)) == (0, 0.0, 0.0)


@given(seed=seeds)
def test_the_principal_subspace_holds_the_most_variance(seed):
    _, X, rng = two_clouds(seed)
    weights = rng.random(len(X))
    basis = principal_subspace(X, 2, weights)
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-12)
    along = np.cov((X @ basis).T, aweights=weights, bias=True)
    np.testing.assert_allclose(along, np.diag(variance_spectrum(X, weights)[:2]), atol=1e-9)


@given(seed=seeds, p=st.integers(1, 4), q=st.integers(1, 4))
def test_overlap_is_the_mean_squared_cosine_of_the_angles_and_knows_no_basis(seed, p, q):
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((6, p)), rng.standard_normal((6, q))
    overlap = subspace_overlap(A, B)
    np.testing.assert_allclose(overlap, (np.cos(principal_angles(A, B)) ** 2).mean(), atol=1e-10)
    turned = rotation(6, rng)
    other_basis = np.hstack([A @ rng.standard_normal((p, p)), 2.0 * A[:, :1]])
    np.testing.assert_allclose(subspace_overlap(turned @ B, turned @ other_basis), overlap, atol=1e-6)


def test_angles_of_lines_and_planes_that_are_known():
    axes, tilt = np.eye(4), 0.3
    line = (np.cos(tilt) * axes[:, 0] + np.sin(tilt) * axes[:, 3])[:, None]
    np.testing.assert_allclose(principal_angles(axes[:, :2], line), [tilt])
    np.testing.assert_allclose(principal_angles(axes[:, :2], axes[:, 1:3]), [0.0, np.pi / 2])
    assert subspace_overlap(axes[:, :2], axes[:, 2:]) == 0.0
    assert subspace_overlap(axes[:, :2], axes[:, 1:3]) == 0.5
    assert subspace_overlap(axes[:, :1], axes[:, :3]) == 1.0


def test_random_spans_overlap_by_the_larger_over_the_whole():
    rng = np.random.default_rng(0)
    drawn = [subspace_overlap(rng.standard_normal((20, 2)), rng.standard_normal((20, 5))) for _ in range(400)]
    assert abs(np.mean(drawn) - 5 / 20) < 4 * np.std(drawn) / 20


def brute_force(truth, guess, pair_weight, metric):
    """Over a list of pairs, with SciPy's distances."""

    def compared(X, mean):
        X = X - mean if metric == "centred cosine" else X
        return pdist(X) if metric == "distance" else 1 - pdist(X, "cosine")

    first, second = np.triu_indices(len(truth), 1)
    weights = pair_weight[first, second]
    row = np.diag(pair_weight) ** 0.5
    x, y = (compared(X, np.average(X, axis=0, weights=row)) for X in (truth, guess))
    covariance = np.cov(x, y, aweights=weights)
    return covariance[0, 1] ** 2 / (covariance[0, 0] * covariance[1, 1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("tile", [7, 1024])
@given(seed=seeds)
def test_pairwise_r2_is_that_over_the_list_of_pairs(metric, tile, seed):
    truth, guess, rng = two_clouds(seed)
    weights = rng.random(len(truth))
    with mock.patch.object(geometry, "TILE", tile):
        weighted, plain = (pairwise_r2(truth, guess, given, metric=metric) for given in (weights, None))
    expected = brute_force(truth, guess, np.outer(weights, weights), metric)
    np.testing.assert_allclose(weighted, expected, atol=1e-10)
    np.testing.assert_allclose(plain, brute_force(truth, guess, np.ones((30, 30)), metric), atol=1e-10)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=seeds)
def test_counts_score_the_rows_repeated(metric, seed):
    truth, guess, rng = two_clouds(seed, 12)
    counts = rng.integers(0, 5, len(truth)) + (np.arange(len(truth)) == 3)
    repeated = [np.repeat(X, counts, axis=0) for X in (truth, guess)]
    with mock.patch.object(geometry, "TILE", 8):
        counted = pairwise_r2(truth, guess, counts=counts, metric=metric)
    np.testing.assert_allclose(counted, pairwise_r2(*repeated, metric=metric), atol=1e-10)


def test_a_similarity_keeps_every_distance_and_a_centre_changes_cosines():
    truth, _, rng = two_clouds(0)
    moved = 3.0 * truth @ rotation(3, rng) + 5.0
    assert pairwise_r2(truth, moved) > 1 - 1e-12
    assert pairwise_r2(truth, moved, metric="centred cosine") > 1 - 1e-12
    assert pairwise_r2(truth, moved, metric="cosine") < 0.9


def test_pairs_that_are_all_alike_explain_nothing():
    rng = np.random.default_rng(0)
    assert pairwise_r2(np.eye(4), rng.standard_normal((4, 2))) == 0.0
    assert pairwise_r2(rng.standard_normal((4, 2)), np.ones((4, 3))) == 0.0


def test_a_sample_of_rows_comes_near_and_is_that_of_its_generator():
    truth, guess, rng = two_clouds(1, 3000)
    drawn = pairwise_r2(truth, guess, n_rows=1000, rng=np.random.default_rng(5))
    assert drawn == pairwise_r2(truth, guess, n_rows=1000, rng=np.random.default_rng(5))
    assert drawn != (whole := pairwise_r2(truth, guess))
    assert abs(drawn - whole) < 0.05
    assert pairwise_r2(truth, guess, n_rows=9999, rng=rng) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("kind", ["weights", "counts"])
def test_a_sample_holds_the_few_rows_that_weigh_most(kind):
    """Ten rows of 3,000 have half the weight, and another geometry: drawn all alike they would be missed."""
    rng = np.random.default_rng(2)
    truth = rng.standard_normal((3000, 3))
    guess = np.where(np.arange(3000)[:, None] < 10, rng.standard_normal((3000, 3)), truth)
    heavy = np.where(np.arange(3000) < 10, 300, 1)
    share = {kind: heavy if kind == "counts" else heavy.astype(float)}
    whole = pairwise_r2(truth, guess, **share)
    drawn = [pairwise_r2(truth, guess, **share, n_rows=800, rng=np.random.default_rng(k)) for k in range(6)]
    assert abs(whole - pairwise_r2(truth, guess)) > 0.1, "the few rows matter"
    assert np.abs(np.array(drawn) - whole).max() < 0.1


def test_many_rows_never_make_a_matrix_of_all_pairs():
    truth, guess, _ = two_clouds(2, 6000)
    tracemalloc.start()
    pairwise_r2(truth, guess)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000**2 * 8 / 2


@given(seed=seeds)
def test_procrustes_undoes_any_similarity(seed):
    truth, _, rng = two_clouds(seed)
    weights = rng.random(len(truth))
    moved = 0.2 * truth @ rotation(3, rng) - 4.0
    fit = procrustes(truth, moved, weights)
    np.testing.assert_allclose(fit(moved), truth, atol=1e-9)
    np.testing.assert_allclose(fit.scale, 5.0)


@given(seed=seeds)
def test_procrustes_agrees_with_scipy_and_with_rows_repeated(seed):
    truth, guess, rng = two_clouds(seed)
    truth, guess = truth + 0.2 * rng.standard_normal(truth.shape), guess[:, :3]  # flat clouds leave a mirror open
    disparity = scipy_procrustes(truth, guess)[2]
    np.testing.assert_allclose(r2(truth, procrustes(truth, guess)(guess)), 1 - disparity, atol=1e-10)
    counts = rng.integers(1, 4, len(truth))
    repeated = procrustes(np.repeat(truth, counts, axis=0), np.repeat(guess, counts, axis=0))
    np.testing.assert_allclose(procrustes(truth, guess, counts.astype(float))(guess), repeated(guess), atol=1e-9)


X, NAN = np.arange(6.0).reshape(3, 2), np.array([[0.0, 1.0], [np.nan, 0.0], [1.0, 1.0]])
WRONG = [
    (lambda: variance_spectrum(NAN), "X holds 1 NaN or infinite values; the first in row 1"),
    (lambda: variance_spectrum(X, np.zeros(3)), "weights are all zero"),
    (lambda: variance_spectrum(X[:0]), "X has no rows"),
    (lambda: variance_spectrum(X, -np.ones(3)), r"weights\[0\]=-1.0 must be finite and at least 0"),
    (lambda: dimensions_at(np.ones(2), 1.5), "share=1.5 must be above 0 and at most 1"),
    (lambda: dimensions_at(np.array([1.0, -1.0])), r"spectrum\[1\]=-1.0 must be a variance"),
    (lambda: effective_rank(np.array([np.nan])), r"spectrum\[0\]=nan must be a variance"),
    (lambda: participation_ratio(np.ones(0)), "spectrum is empty"),
    (lambda: principal_subspace(X, 0), "k=0 must be at least 1"),
    (lambda: principal_subspace(X, 2), "k=2 principal components are wanted; the rows vary in 1 directions"),
    (lambda: principal_subspace(np.ones((3, 2)), 1), "the rows vary in 0 directions"),
    (lambda: subspace_overlap(np.zeros((3, 1)), np.eye(3)), "A spans nothing"),
    (lambda: principal_angles(np.eye(3), np.zeros((3, 2))), "B spans nothing"),
    (lambda: pairwise_r2(X, X, metric="cosines"), "metric='cosines' is not one of.*did you mean 'cosine'"),
    (lambda: pairwise_r2(X, X[:2]), "guess has 2 rows and truth has 3"),
    (lambda: pairwise_r2(X, NAN), "guess holds 1 NaN"),
    (lambda: pairwise_r2(X, X, np.array([0.0, 2.0, 0.0])), "1 rows have a weight above 0; a pair needs two"),
    (lambda: pairwise_r2(X, X, counts=np.array([0, 1, 0])), "1 rows have a weight above 0"),
    (lambda: pairwise_r2(X, X, np.ones(3), counts=np.ones(3, int)), "both weights and counts"),
    (lambda: pairwise_r2(X, X, counts=np.array([1, -1, 2])), "must be 3 integers, each 0 or more"),
    (lambda: pairwise_r2(X, X - X[1], metric="cosine"), "guess has a row of length 0, number 1"),
    (lambda: pairwise_r2(X, X, metric="centred cosine"), "truth has a row of length 0, number 1"),
    (lambda: pairwise_r2(X, X, n_rows=2), "n_rows=2 are drawn at random; give rng="),
    (lambda: pairwise_r2(X, X, n_rows=1, rng=np.random.default_rng(0)), "n_rows=1 must be at least 2"),
    (lambda: procrustes(X, X[:, :1]), re.escape("guess has shape (3, 1); truth has (3, 2)")),
    (lambda: procrustes(X, np.ones((3, 2))), "guess is the same in every row"),
    (lambda: procrustes(X, X, np.zeros(3)), "weights are all zero"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_cannot_be_is_refused_by_name(monkeypatch, wrong, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(ValueError, match=message):
        wrong()
