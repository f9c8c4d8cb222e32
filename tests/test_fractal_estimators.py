"""Estimators on noise of known H: bias and spread of a published table, others' code, and laws they keep."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import antropy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.probes import fractal

#: By the names of the table: the bias and standard deviation of others' code, of series of 4096 and of 65536 values.
ESTIMATORS = {
    "rescaled range": fractal.rescaled_range,
    "Anis-Lloyd": fractal.anis_lloyd,
    "DFA-1": partial(fractal.detrended_fluctuations, order=1),
    "DFA-2": fractal.detrended_fluctuations,
    "aggregated variance": fractal.aggregated_variance,
    "Joseph": fractal.joseph,
    "small ball": partial(fractal.small_ball, strict=False),
    "log periodogram": fractal.geweke_porter_hudak,
    "local Whittle": fractal.local_whittle,
    "full Whittle": fractal.full_whittle,
    "wavelet": fractal.abry_veitch,
    "Higuchi": fractal.higuchi,
}
REFERENCE = Path(__file__).parents[1] / "benchmarks" / "fractal_bias.csv"
HURST = (0.3, 0.5, 0.7, 0.9)
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)
seeds = st.integers(0, 2**32 - 1)


def reference(name: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Bias and standard deviation at each H."""
    with REFERENCE.open() as file:
        rows = [row for row in csv.DictReader(file) if (row["estimator"], row["length"]) == (name, str(length))]
    assert tuple(float(row["hurst"]) for row in rows) == HURST
    return np.array([float(row["bias"]) for row in rows]), np.array([float(row["sd"]) for row in rows])


def draws(n: int, count: int) -> np.ndarray:
    """``(H, draw, time)``, the same for every estimator."""
    rng = np.random.default_rng(20)
    return np.stack([fractal.fractional_gaussian_noise((count, n), hurst, rng) for hurst in HURST])


SHORT, LONG = draws(4096, 10), draws(65536, 2)


def read(estimator, rows: np.ndarray) -> Iterator[float]:
    """The values of all series that are not refused."""
    for series in rows:
        try:
            yield estimator(series).value
        except ValueError as refusal:
            if "sees 0 returns" not in str(refusal):
                raise


@every_estimator
def test_bias_and_spread_of_short_series_are_those_of_the_table(name):
    estimator, (bias, spread) = ESTIMATORS[name], reference(name, 4096)
    found = [np.array(list(read(estimator, of_h))) for of_h in SHORT]
    assert min(map(len, found)) >= 8  # a ball may see no return at some lag of one series of strong memory
    means, spreads = (np.array([function(of_h) for of_h in found]) for function in (np.mean, partial(np.std, ddof=1)))
    # both this mean and the table's are of few draws
    tolerance = 1.5 * spread + 0.002
    assert (np.abs(means - HURST - bias) < tolerance).all(), means - HURST
    # the ratio of two variances of 9 and 19 degrees of freedom lies in (1/16, 9) but for one case in thousands
    assert (spreads < 3 * spread).all()
    assert (spreads > spread / 4).all()


@every_estimator
def test_bias_of_long_series_is_that_of_the_table(name):
    estimator, (bias, spread) = ESTIMATORS[name], reference(name, 65536)
    found = np.array([[estimator(series).value for series in of_h] for of_h in LONG])
    assert (np.abs(found.mean(1) - HURST - bias) < 3 * spread).all(), found.mean(1) - HURST


@every_estimator
def test_units_and_level_change_no_exponent(name):
    estimator, series = ESTIMATORS[name], SHORT[2, 0]
    plain, moved = estimator(series), estimator(-40.0 + 0.01 * series)
    np.testing.assert_allclose(moved.value, plain.value, atol=2e-6)


@every_estimator
def test_the_fit_is_through_what_is_shown(name):
    found = ESTIMATORS[name](SHORT[1, 0])
    assert len(found.scales) == len(found.fluctuations) >= 4
    low, high = found.interval
    assert low < found.value < high
    np.testing.assert_allclose(found.value, found.shift + found.factor * found.fit.slope, atol=1e-9)
    if name not in ("local Whittle", "full Whittle", "wavelet"):
        slope, intercept = np.polyfit(np.log(found.scales), np.log(found.fluctuations), 1)
        np.testing.assert_allclose([found.fit.slope, found.fit.intercept], [slope, intercept], atol=1e-8)


@every_estimator
def test_the_order_of_documents_does_not_matter(name):
    estimator, rows = ESTIMATORS[name], SHORT[2, :5]
    np.testing.assert_allclose(estimator(rows).value, estimator(rows[::-1]).value, atol=1e-9)


@every_estimator
def test_documents_are_pooled_before_the_logarithm(name):
    estimator, rows = ESTIMATORS[name], SHORT[0, :4] * np.array([[1.0], [1.0], [1.0], [30.0]])
    pooled, apart = estimator(rows).value, np.mean([estimator(row).value for row in rows])
    repeated = estimator(np.stack([SHORT[0, 0]] * 3)).value
    closeness = 0.01 if name == "wavelet" else 1e-9  # more details are less biased, and weighted otherwise
    np.testing.assert_allclose(repeated, estimator(SHORT[0, 0]).value, atol=closeness)
    assert abs(pooled - apart) > 1e-6


@every_estimator
def test_intervals_hold_the_truth_about_as_often_as_they_say(name):
    estimator = ESTIMATORS[name]
    at = 0 if name == "small ball" else 1
    bias = 0.046 if name == "rescaled range" else 0.0
    inside = [
        found.interval[0] <= HURST[at] + bias <= found.interval[1]
        for found in (estimator(series) for series in SHORT[at])
    ]
    assert sum(inside) >= 7, sum(inside)


# --- others' code


def antropy_scales(n: int) -> list[int]:
    """From 4 to a tenth of the length, each 1.2 times the last."""
    found, step = [4], 1
    while (size := int(np.floor(4 * 1.2**step))) <= 0.1 * n:
        if size > found[-1]:
            found.append(size)
        step += 1
    return found


@pytest.mark.parametrize("n", [1000, 4096])
def test_dfa_is_that_of_antropy_on_its_own_scales(n):
    series = SHORT[2, 0, :n]
    ours = fractal.detrended_fluctuations(series, order=1, scales=antropy_scales(n), from_both_ends=False)
    np.testing.assert_allclose(ours.value, antropy.detrended_fluctuation(series), atol=5e-4)


def test_higuchi_is_that_of_antropy_on_the_integral():
    series = LONG[1, 0]
    ours = fractal.higuchi(series, lags=10)
    np.testing.assert_allclose(
        2 - ours.value, antropy.higuchi_fd(np.cumsum(series - series.mean()), kmax=10), atol=5e-4
    )


def test_dfa_is_that_of_mfdfa():
    mfdfa = pytest.importorskip("MFDFA").MFDFA
    for order in (1, 2):
        ours = fractal.detrended_fluctuations(SHORT[2, 0], order=order)
        lags, fluctuations = mfdfa(SHORT[2, 0], lag=ours.scales, q=2, order=order)
        slope = np.polyfit(np.log(lags), np.log(fluctuations[:, 0]), 1)[0]
        np.testing.assert_allclose(ours.value, slope, atol=5e-4)


def test_local_whittle_is_that_of_pyelw():
    theirs = pytest.importorskip("pyelw").LW()
    theirs.fit(SHORT[2, 0], m=222)
    np.testing.assert_allclose(fractal.local_whittle(SHORT[2, 0]).value, theirs.d_hat_ + 0.5, atol=5e-4)


def test_rescaled_range_is_that_of_nolds_at_equal_scales_and_near_it_at_its_own():
    nolds = pytest.importorskip("nolds")
    ours = fractal.rescaled_range(SHORT[2, 0])
    same = nolds.hurst_rs(SHORT[2, 0], nvals=ours.scales, fit="poly", corrected=False, unbiased=False)
    np.testing.assert_allclose(ours.value, same, atol=5e-4)
    theirs = [nolds.hurst_rs(series, fit="poly") for series in SHORT[2]]
    assert abs(np.mean([fractal.anis_lloyd(series).value for series in SHORT[2]]) - np.mean(theirs)) < 0.02


# --- definitions, read off slowly


def test_rescaled_range_is_its_definition():
    series = SHORT[0, 0, :512]
    found = fractal.rescaled_range(series, scales=[16, 32, 64, 100])
    for size, fluctuation in zip(found.scales.tolist(), found.fluctuations, strict=True):
        ratios = []
        for start in range(0, 512 - size + 1, size):
            window = series[start : start + size]
            walk = np.cumsum(window - window.mean())
            ratios.append((max(0, *walk) - min(0, *walk)) / window.std())
        np.testing.assert_allclose(fluctuation, np.mean(ratios))


def test_running_mean_is_its_definition():
    series = SHORT[0, 0, :256]
    found = fractal.rescaled_range(series, scales=[16, 32, 64, 128], centre="running")
    for size, fluctuation in zip(found.scales.tolist(), found.fluctuations, strict=True):
        ratios = []
        for start in range(0, 256, size):
            window = series[start : start + size]
            walk = np.cumsum([window[t] - window[: t + 1].mean() for t in range(size)])
            ratios.append((max(0, *walk) - min(0, *walk)) / window.std())
        np.testing.assert_allclose(fluctuation, np.mean(ratios))


def test_expected_range_is_the_mean_of_gaussian_windows():
    rng = np.random.default_rng(0)
    for size in (10, 50, 400):
        walk = (x := rng.standard_normal((5000, size))) - x.mean(1, keepdims=True)
        walk = np.cumsum(walk, axis=1)
        ratio = (np.maximum(walk.max(1), 0) - np.minimum(walk.min(1), 0)) / x.std(1)
        expected = fractal.expected_rescaled_range(np.array([size]))[0]
        assert abs(ratio.mean() - expected) < 4 * ratio.std() / np.sqrt(5000)


@settings(max_examples=12)
@given(seeds, st.integers(1, 4))
def test_dfa_does_not_see_a_trend_of_a_degree_less(seed, order):
    rng = np.random.default_rng(seed)
    series, time = rng.standard_normal(300), np.linspace(-1, 1, 300)
    trend = np.polynomial.Polynomial(20 * rng.standard_normal(order))(time)
    plain, trended = (
        fractal.detrended_fluctuations(x, order=order, scales=[8, 16, 30, 75]) for x in (series, series + trend)
    )
    np.testing.assert_allclose(trended.value, plain.value, atol=1e-8)


def test_structure_functions_are_their_definition():
    rows = SHORT[2, :3, :200]
    integral = np.cumsum(np.pad(rows - rows.mean(), ((0, 0), (1, 0))), axis=1)
    for q, found in fractal.structure_functions(rows, (0.5, 1, 2, 3), scales=[1, 2, 5, 12]).items():
        for lag, fluctuation in zip(found.scales.tolist(), found.fluctuations, strict=True):
            np.testing.assert_allclose(fluctuation, (np.abs(integral[:, lag:] - integral[:, :-lag]) ** q).mean())


def test_small_ball_is_its_definition():
    rows = SHORT[1, :3, :600]
    found = fractal.small_ball(rows, scales=[4, 6, 8, 12])
    integral = np.cumsum(np.pad((rows - rows.mean()) / rows.std(), ((0, 0), (1, 0))), axis=1)
    for lag, chance in zip(found.scales.tolist(), found.fluctuations, strict=True):
        assert chance == (np.abs(integral[:, lag:] - integral[:, :-lag]) <= 0.2).mean()


def test_joseph_is_the_second_structure_function_and_dimension_is_labelled_as_derived():
    series = SHORT[2, 0]
    assert fractal.joseph(series).value == fractal.structure_function(series, 2.0).value
    ball = fractal.small_ball(series, strict=False)
    dimension = fractal.fractal_dimension(ball)
    assert dimension.value == 2 - ball.value
    assert dimension.interval == (2 - ball.interval[1], 2 - ball.interval[0])
    assert "derived" in str(dimension)
    with pytest.raises(ValueError, match="quantity of the estimate='H' is not one of 'S'"):
        fractal.fractal_dimension(fractal.joseph(series).__class__(**{**vars(ball), "quantity": "H"}))


def test_local_whittle_is_the_least_of_its_function():
    series, grid = SHORT[3, 0], np.linspace(-0.48, 0.98, 2921)
    frequencies, power = fractal.periodogram(series, 100)
    loss = [np.log(np.mean(frequencies ** (2 * d) * power[0])) - 2 * d * np.log(frequencies).mean() for d in grid]
    assert abs(fractal.local_whittle(series, n_frequencies=100).value - 0.5 - grid[np.argmin(loss)]) <= 5e-4


def test_spectrum_of_fractional_noise_is_the_sum_over_aliases():
    from nextlens.probes.fractal.whittle import noise_spectrum

    frequencies = np.linspace(0.01, np.pi, 50)
    for hurst in (0.05, 0.5, 0.95):
        aliases = frequencies + 2 * np.pi * np.arange(-4000, 4001)[:, None]
        tail = 2 * (2 * np.pi) ** (-2 * hurst - 1) * 4000.5 ** (-2 * hurst) / (2 * hurst)
        direct = 2 * (1 - np.cos(frequencies)) * ((np.abs(aliases) ** (-2 * hurst - 1)).sum(0) + tail)
        np.testing.assert_allclose(noise_spectrum(frequencies, hurst), direct, rtol=1e-6)


def test_wavelet_details_keep_the_energy_and_ignore_a_straight_line():
    from nextlens.probes.fractal.wavelet import HIGH, LOW, _energies

    np.testing.assert_allclose([LOW @ LOW, LOW @ HIGH, HIGH.sum(), HIGH @ np.arange(4)], [1, 0, 0, 0], atol=1e-12)
    series = SHORT[1, :1, :64]
    sums, counts = _energies(series)
    assert counts[0].tolist() == [32, 16, 8, 4, 2]
    assert 0 < sums.sum() < (series**2).sum()


def test_full_whittle_says_when_it_ran_to_its_bound():
    short_memory = fractal.autoregressive(8192, 0.9, np.random.default_rng(0))
    found = fractal.full_whittle(short_memory)
    assert found.value > 0.98
    assert found.at_bound
    assert "AT THE END OF ITS RANGE" in str(found)
    assert not fractal.full_whittle(SHORT[2, 0]).at_bound


def test_local_slopes_of_short_memory_fall_and_of_a_power_law_do_not():
    rng = np.random.default_rng(3)
    at, falling = fractal.local_slopes(fractal.joseph(fractal.autoregressive(1 << 17, 0.9, rng)))
    assert (at[1:] > at[:-1]).all()
    assert falling[0] > 0.9
    assert falling[-3:].mean() < 0.6
    _, level = fractal.local_slopes(fractal.joseph(fractal.fractional_gaussian_noise(1 << 17, 0.7, rng)))
    assert np.ptp(level[:-2]) < 0.12


def test_an_estimate_is_no_bare_number():
    found = fractal.local_whittle(SHORT[2, 0])
    with pytest.raises(TypeError):
        float(found)
    assert "[" in str(found)
