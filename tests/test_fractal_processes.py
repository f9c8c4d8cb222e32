"""Processes of known exponents are what they say; surrogates keep what they promise and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gamma

from nextlens.probes import fractal


def covariances(rows: np.ndarray, lags: int) -> np.ndarray:
    """Mean products at lags 0 .. lags, of rows whose mean is known to be 0."""
    n = rows.shape[1]
    return np.array([(rows[:, lag:] * rows[:, : n - lag]).mean() for lag in range(lags + 1)])


@pytest.mark.parametrize("hurst", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_fractional_noise_has_its_autocovariance(hurst):
    rows = fractal.fractional_gaussian_noise((4000, 64), hurst, np.random.default_rng(1))
    found = covariances(rows, 5)
    k = np.arange(6)
    expected = 0.5 * ((k + 1) ** (2 * hurst) - 2 * k ** (2 * hurst) + np.abs(k - 1) ** (2 * hurst))
    np.testing.assert_allclose(found, expected, atol=0.03)
    np.testing.assert_allclose(expected[1], 2 ** (2 * hurst - 1) - 1)


def test_the_end_of_a_series_is_as_tied_to_its_beginning_as_lags_say():
    rows = fractal.fractional_gaussian_noise((20000, 16), 0.9, np.random.default_rng(2))
    expected = 0.5 * (16**1.8 - 2 * 15**1.8 + 14**1.8)
    assert abs((rows[:, 0] * rows[:, -1]).mean() - expected) < 0.03


def test_fractionally_integrated_noise_has_its_autocovariance():
    d = 0.25
    rows = fractal.arfima((4000, 64), d, np.random.default_rng(3))
    first = gamma(1 - 2 * d) / gamma(1 - d) ** 2
    np.testing.assert_allclose(
        covariances(rows, 2), first * np.array([1, d / (1 - d), d * (1 + d) / ((1 - d) * (2 - d))]), atol=0.03
    )


def test_arfima_with_a_short_memory_part_keeps_its_exponent():
    rows = fractal.arfima((40, 4096), 0.2, np.random.default_rng(4), phi=0.5)
    assert abs(fractal.local_whittle(rows, n_frequencies=64).value - 0.7) < 0.03
    assert fractal.local_whittle(rows).value > 0.72


@pytest.mark.parametrize("phi", [-0.5, 0.7, 0.95])
def test_autoregression_is_stationary_from_its_first_value(phi):
    rows = fractal.autoregressive((8000, 40), phi, np.random.default_rng(5))
    for at in (0, 1, 39):
        assert abs(rows[:, at].var() - 1) < 0.06
    np.testing.assert_allclose(covariances(rows, 3), phi ** np.arange(4), atol=0.04)


def test_cauchy_frees_dimension_from_memory():
    rows = fractal.cauchy((4000, 64), 1.0, 0.5, np.random.default_rng(6), scale=20.0)
    np.testing.assert_allclose(covariances(rows, 3), (1 + np.arange(4) / 20) ** -0.5, atol=0.05)


def test_multifractal_walk_bends_where_theory_says():
    rows = fractal.multifractal_walk((50, 8192), 0.02, np.random.default_rng(7))
    assert abs(rows.var() - 1) < 0.05
    scales = fractal.log_spaced(4, 256)
    for q, found in fractal.structure_functions(rows, scales=scales).items():
        assert abs(found.value - (q / 2 - 0.02 * q * (q - 2) / 2)) < 0.05, q
    assert abs(fractal.local_whittle(rows).value - 0.5) < 0.02
    assert fractal.local_whittle(np.abs(rows)).value > 0.7
    straight = fractal.structure_functions(
        fractal.fractional_gaussian_noise((50, 8192), 0.5, np.random.default_rng(8)), scales=scales
    )
    assert abs(straight[4.0].value - 2.0) < 0.03


def test_pareto_levels_last_as_long_as_they_should():
    rows = fractal.pareto_on_off((200, 8192), np.random.default_rng(9))
    assert set(np.unique(rows)) == {np.log(2.0), np.log(32.0)}
    assert abs((rows > 1).mean() - 0.5) < 0.05
    inside = [np.diff(np.flatnonzero(np.diff(row))) for row in rows]
    durations = np.concatenate(inside)
    assert durations.min() >= 8
    assert abs((durations > 80).mean() - (8 / 80) ** 1.6) < 0.01


def test_an_autocovariance_that_is_none_is_refused():
    with pytest.raises(ValueError, match="not positive on a circle"):
        fractal.gaussian(lambda k: np.where(k < 3, 1.0, 0.0), 64, np.random.default_rng(0))


@pytest.mark.parametrize(
    "draw",
    [
        lambda shape, rng: fractal.fractional_gaussian_noise(shape, 0.7, rng),
        lambda shape, rng: fractal.arfima(shape, 0.2, rng),
        lambda shape, rng: fractal.autoregressive(shape, 0.5, rng),
        lambda shape, rng: fractal.cauchy(shape, 1.0, 0.5, rng),
        lambda shape, rng: fractal.multifractal_walk(shape, 0.02, rng),
        fractal.pareto_on_off,
    ],
)
def test_generators_take_one_length_or_two_and_repeat_with_their_seed(draw):
    one = draw(100, np.random.default_rng(1))
    assert one.shape == (100,)
    assert draw((3, 100), np.random.default_rng(1)).shape == (3, 100)
    np.testing.assert_array_equal(one, draw(100, np.random.default_rng(1)))
    assert not np.array_equal(one, draw(100, np.random.default_rng(2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: fractal.fractional_gaussian_noise(10, 1.0, rng), r"hurst=1\.0 must lie between 0 and 1"),
        (lambda rng: fractal.arfima(10, 0.5, rng), r"memory=0\.5 must lie between"),
        (lambda rng: fractal.autoregressive(10, 1.0, rng), r"phi=1\.0 must lie between -1 and 1"),
        (lambda rng: fractal.cauchy(10, 1.0, -1.0, rng), r"beta=-1\.0 must be above 0"),
        (lambda rng: fractal.multifractal_walk(10, 0.5, rng), r"intermittency=0\.5 must lie between"),
        (lambda rng: fractal.pareto_on_off(10, rng, alpha=2.5), r"alpha=2\.5 must lie between 1 and 2"),
        (lambda rng: fractal.fractional_gaussian_noise((0, 10), 0.5, rng), "number of documents=0 must be at least 1"),
    ],
)
def test_generators_refuse_what_does_not_exist(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))


# --- adversaries


def test_a_question_begins_high_and_ends_low():
    rows = fractal.questions((300, 2000), np.random.default_rng(1))
    assert abs(rows.mean() - (0.6 * 1.5 + 0.4 * 0.4)) < 0.03
    fixed = fractal.questions((4000, 20), np.random.default_rng(1), shortest=20, longest=20)
    np.testing.assert_allclose(fixed.mean(0), np.repeat([1.5, 0.4], [12, 8]), atol=0.1)


def test_window_resets_fall_within_a_window_and_begin_anew():
    rows = fractal.window_resets((4000, 512), np.random.default_rng(2), window=256, random_phase=False)
    means = rows.mean(0)
    np.testing.assert_allclose(means[[0, 51, 256]], [2.5, 1 + 1.5 * np.exp(-255 / 256), 2.5], atol=0.1)


def test_documents_scaled_or_moved_keep_their_inside():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((50, 100))
    ratio = fractal.scaled(rows, rng) / rows
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape))
    assert 0.3 < np.log(ratio[:, 0]).std() < 0.7
    assert fractal.offsets((500, 400), rng).mean(1).std() > 0.25


# --- surrogates


def test_shuffles_keep_values_within_documents_only():
    rows = np.random.default_rng(0).standard_normal((5, 200))
    mixed = fractal.shuffled(rows, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(mixed, axis=1), np.sort(rows, axis=1))
    assert not np.array_equal(mixed, rows)
    orders = [np.argsort(row) for row in mixed]
    assert not any(np.array_equal(orders[0], other) for other in orders[1:])


@pytest.mark.parametrize("n", [200, 201])
def test_random_phases_keep_the_periodogram_at_every_frequency(n):
    rows = fractal.fractional_gaussian_noise((5, n), 0.8, np.random.default_rng(0))
    turned = fractal.phase_randomised(rows, np.random.default_rng(1))
    np.testing.assert_allclose(np.abs(np.fft.rfft(turned)), np.abs(np.fft.rfft(rows)), atol=1e-9)
    assert np.abs(turned - rows).max() > 0.5
    np.testing.assert_allclose(fractal.local_whittle(turned).value, fractal.local_whittle(rows).value, atol=1e-9)


def test_random_phases_lose_intermittency():
    rows = fractal.multifractal_walk((40, 4096), 0.04, np.random.default_rng(0))
    turned = fractal.phase_randomised(rows, np.random.default_rng(1))
    assert fractal.local_whittle(np.abs(rows)).value > 0.7
    assert fractal.local_whittle(np.abs(turned)).value < 0.55
