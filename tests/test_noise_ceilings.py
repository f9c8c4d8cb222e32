"""Ceilings recover what was planted, and are refused where the data cannot tell them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.signal import lfilter

from nextlens.probes.noise_ceilings import (
    inter_subject_ceiling,
    noise_ceiling,
    normalised_correlation,
    repeat_ceiling,
    split_half_ceiling,
)
from nextlens.probes.voxel_scores import correlations


def repeats(rng, n, rows, targets, power):
    """A slow signal of the given share of variance, and noise of its own in every repeat."""
    signal = lfilter([0.8], [1.0, -0.6], rng.standard_normal((rows + 30, targets)), axis=0)[30:]
    noise = rng.standard_normal((n, rows, targets))
    return np.sqrt(power) * signal + np.sqrt(1 - power) * noise, np.sqrt(power) * signal


def test_numbers_of_a_simulation():
    """Ten repeats, signal power .3: explainable variance .370 raw, .300 corrected; a guess of correlation .5."""
    rng = np.random.default_rng(0)
    R, signal = repeats(rng, 10, 291, 3000, 0.3)
    scaled = (signal - signal.mean(0)) / signal.std(0)
    guess = 0.5 * scaled + np.sqrt(0.75) * rng.standard_normal(signal.shape)
    found = repeat_ceiling(R)
    assert found.explainable_variance_raw.values.mean() == pytest.approx(0.370, abs=0.01)
    assert found.explainable_variance.values.mean() == pytest.approx(0.300, abs=0.01)
    assert found.signal_power.values.mean() == pytest.approx(0.3, abs=0.01)
    assert normalised_correlation(guess, R).mean() == pytest.approx(0.500, abs=0.01)
    assert normalised_correlation(signal, R).mean() == pytest.approx(1.0, abs=0.01)
    noise = repeat_ceiling(rng.standard_normal((2, 200, 3000)))
    assert noise.explainable_variance_raw.values.mean() == pytest.approx(0.5, abs=0.01)
    assert noise.explainable_variance.values.mean() == pytest.approx(0.0, abs=0.01)


def test_the_ceiling_is_what_the_signal_itself_scores():
    """Against the mean of repeats, against one repeat, and by r² over the reliability of halves."""
    rng = np.random.default_rng(1)
    R, signal = repeats(rng, 8, 400, 1500, 0.4)
    of_mean, of_one = correlations(R.mean(0), signal), correlations(R[0], signal)
    found = repeat_ceiling(R)
    assert found.ceiling.values.mean() == pytest.approx(of_mean.mean(), abs=0.005)
    assert found.ceiling_of_one.values.mean() == pytest.approx(of_one.mean(), abs=0.005)
    halves = split_half_ceiling(R, rng, halves=40)
    assert halves.ceiling.values.mean() == pytest.approx(of_mean.mean(), abs=0.01)
    assert (of_mean**2 / halves.reliability.values).mean() == pytest.approx(1.0, abs=0.02)
    assert (of_mean / halves.reliability.values).mean() > 1.02


def test_a_listener_is_told_from_the_others_and_not_from_itself():
    rng = np.random.default_rng(2)
    R, _ = repeats(rng, 5, 300, 400, 0.3)
    found = inter_subject_ceiling(R)
    by_hand = [correlations(R[i], np.delete(R, i, axis=0).mean(0)) for i in range(5)]
    np.testing.assert_allclose(found.r_each.values, by_hand, atol=1e-12)
    expected = 0.3 / np.sqrt(0.3 + 0.7 / 4)  # signal over the spread of the mean of four others
    assert found.r.values.mean() == pytest.approx(expected, abs=0.01)
    noise = inter_subject_ceiling(rng.standard_normal((5, 300, 400)))
    assert abs(noise.r.values.mean()) < 0.01


@pytest.mark.parametrize("kind", ["repeats", "split-half", "inter-subject"])
def test_targets_without_signal_are_nan_and_counted_not_clipped(kind):
    rng = np.random.default_rng(3)
    R = np.concatenate([repeats(rng, 6, 200, 50, 0.5)[0], rng.standard_normal((6, 200, 50))], axis=2)
    several = "listener" if kind == "inter-subject" else "repeat"
    found = noise_ceiling(kind, xr.DataArray(R, dims=(several, "row", "target")), rng=rng, halves=50)
    absent = np.isnan(found.ceiling.values)
    assert not absent[:50].any()
    assert 5 < absent[50:].sum() < 45
    assert found.attrs["n_without_signal"] == absent.sum()
    assert found.attrs["kind"] == kind


def test_a_dead_target_has_no_ceiling():
    R, _ = repeats(np.random.default_rng(4), 4, 100, 3, 0.5)
    R[:, :, 1] = 7.0
    for found in (
        repeat_ceiling(R),
        split_half_ceiling(R, np.random.default_rng(0), halves=5),
        inter_subject_ceiling(R),
    ):
        assert np.isnan(found.ceiling.values).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("kind", "dims", "shape", "message"),
    [
        ("repeats", ("row", "target"), (9, 2), "averaged, or measured once"),
        ("repeats", ("listener", "row", "target"), (3, 9, 2), r"dims \(repeat, row, target\)"),
        ("repeats", ("repeat", "row", "target"), (1, 9, 2), "at least 2 of the first"),
        ("inter-subject", ("repeat", "row", "target"), (3, 9, 2), r"dims \(listener, row, target\)"),
        ("split-half", ("row", "target"), (9, 2), r"dims \(repeat or listener, row, target\)"),
        ("split-half", ("repeat", "row", "target"), (3, 9, 2), "hand in rng="),
        ("halves", ("repeat", "row", "target"), (3, 9, 2), "kind='halves' is not one of"),
    ],
)
def test_data_that_lack_what_a_kind_needs_are_refused(kind, dims, shape, message):
    with pytest.raises(ValueError, match=message):
        noise_ceiling(kind, xr.DataArray(np.random.default_rng(0).standard_normal(shape), dims=dims))


def test_nan_is_refused():
    R = np.random.default_rng(0).standard_normal((3, 9, 2))
    R[1, 4, 0] = np.nan
    with pytest.raises(ValueError, match="responses holds 1 NaN"):
        noise_ceiling("repeats", xr.DataArray(R, dims=("repeat", "row", "target")))
