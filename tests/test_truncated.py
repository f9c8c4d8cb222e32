"""Laws of the truncated pseudo-inverse: NumPy's own agrees, and no row chooses the cut-off it is scored by."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextlens.probes import truncated
from nextlens.probes.belief import folds_by_group
from nextlens.probes.truncated import CUTOFFS, truncated_least_squares

seeds = st.integers(0, 2**32 - 1)
FEW = (1e-15, 1e-9, 1e-6, 1e-4, 1e-2, 0.3)


def drawn(seed, n=60, features=6, targets=2, least=1e-5):
    """Features whose variances span many orders, targets that follow them with noise, weights of which some are 0."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.standard_normal((features, features)))[0]
    X = rng.standard_normal((n, features)) * np.geomspace(1.0, least, features) @ turned + 0.5
    Y = X @ rng.standard_normal((features, targets)) + 0.1 * rng.standard_normal((n, targets))
    return X, Y, rng.exponential(size=n) * (rng.random(n) < 0.9)


def solution(X, Y, w, cutoff):
    """By NumPy's pseudo-inverse of the weighted design."""
    root = np.sqrt(w)[:, None]
    return np.linalg.pinv(np.hstack([np.ones((len(X), 1)), X]) * root, rcond=cutoff) @ (Y * root)


def predicted(X, beta):
    return X @ beta[1:] + beta[0]


def test_the_published_cutoffs():
    assert CUTOFFS[:3] == (1e-15, 1e-10, 1e-5)
    np.testing.assert_allclose(CUTOFFS[3:], np.logspace(-8, -3, 50), rtol=1e-12)


@given(seeds, st.sampled_from(FEW))
def test_one_cutoff_is_numpys_pseudo_inverse(seed, cutoff):
    X, Y, w = drawn(seed)
    fit = truncated_least_squares(X, Y, w, cutoffs=[cutoff])
    beta = solution(X, Y, w, cutoff)
    np.testing.assert_allclose(fit.intercept, beta[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(fit.prediction, predicted(X, beta), rtol=1e-6, atol=1e-7)
    assert fit.cutoff == cutoff


@given(seeds, st.integers(2, 12))
def test_held_out_errors_are_those_of_refitting_each_fold(seed, n_splits):
    X, Y, w = drawn(seed, n=30)
    fit = truncated_least_squares(X, Y, w, cutoffs=FEW, n_splits=n_splits, seed=seed)
    fold, expected = folds_by_group(np.arange(30), n_splits, np.random.default_rng(seed)), []
    for cutoff in FEW:
        guess = np.empty_like(Y)
        for i in range(n_splits):
            rest = fold != i
            guess[~rest] = predicted(X[~rest], solution(X[rest], Y[rest], w[rest], cutoff))
        expected.append((w @ (Y - guess) ** 2).mean() / w.sum())
    np.testing.assert_allclose(fit.errors, expected, rtol=1e-5)
    least = np.flatnonzero(fit.errors == fit.errors.min())
    assert fit.cutoff == max(FEW[i] for i in least)


def test_blocks_of_rows_change_nothing(monkeypatch):
    X, Y, w = drawn(3)
    whole = truncated_least_squares(X, Y, w)
    monkeypatch.setattr(truncated, "BLOCK", 2)
    parts = truncated_least_squares(X, Y, w)
    assert parts.cutoff == whole.cutoff
    np.testing.assert_allclose(parts.prediction, whole.prediction, atol=1e-9)


def test_the_cutoff_is_not_chosen_in_sample_where_the_smallest_always_wins():
    """Regression: a faint signal is kept where it is alone, and given up where faint noise lies about it."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 4)) * [1.0, 1.0, 1.0, 1e-5]
    Y = X @ np.diag([1.0, 1.0, 1.0, 2e4])[:, 1:] + 0.3 * rng.standard_normal((80, 3))
    among = np.hstack([X, 1e-4 * rng.standard_normal((80, 60))])
    alone, beside = truncated_least_squares(X, Y), truncated_least_squares(among, Y)
    assert alone.cutoff < 1e-5 < 1e-4 < beside.cutoff
    assert (alone.rank, beside.rank < 20) == (5, True)
    in_sample = [truncated_least_squares(among, Y, cutoffs=[cutoff]).mse for cutoff in sorted(CUTOFFS)]
    assert in_sample[0] == pytest.approx(min(in_sample))
    assert beside.mse > 2 * min(in_sample)
    assert beside.errors[0] > 2 * beside.errors.min()


@given(seeds, st.floats(1e-3, 1e3))
def test_scores_are_one_error_and_forget_the_scale_of_weights(seed, scale):
    X, Y, w = drawn(seed)
    fit, again = (truncated_least_squares(X, Y, weights, cutoffs=FEW) for weights in (w, scale * w))
    assert fit.rmse**2 == pytest.approx(fit.mse)
    assert fit.mse == pytest.approx((w @ (Y - fit.prediction) ** 2).mean() / w.sum())
    assert again.cutoff == fit.cutoff
    np.testing.assert_allclose(again.errors, fit.errors, rtol=1e-6)
    assert again.r2 == pytest.approx(fit.r2)
    assert fit.in_sample


def test_more_features_than_rows_fit_noise_in_sample_and_say_so():
    rng = np.random.default_rng(2)
    fit = truncated_least_squares(rng.standard_normal((30, 50)), rng.standard_normal((30, 1)), cutoffs=[1e-15])
    assert fit.mse < 1e-20
    assert fit.errors[0] > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoffs": []}, r"cutoffs=\[\] must hold at least one number"),
        ({"cutoffs": [1e-3, 1.0]}, r"cutoffs=\[0.001, 1.0\] must hold .* below 1"),
        ({"cutoffs": [-1e-3]}, "each at least 0"),
        ({"cutoffs": [float("nan")]}, "each at least 0"),
        ({"n_splits": 1}, "n_splits=1 must be at least 2"),
        ({"n_splits": 61}, "n_splits=61 needs as many at least"),
        ({"weights": np.zeros(60)}, "weights are all zero"),
        ({"weights": np.ones(59)}, r"weights has shape \(59,\); it must be \(60,\)"),
        ({"Y": np.zeros((59, 2))}, "Y has 59 rows and X has 60"),
        ({"X": np.full((60, 6), np.inf)}, "X holds 360 NaN or infinite values"),
    ],
)
def test_wrong_input_is_refused_by_name(monkeypatch, change, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    X, Y, w = drawn(0)
    arguments = {"X": X, "Y": Y, "weights": w} | change
    with pytest.raises(ValueError, match=message):
        truncated_least_squares(**arguments)
