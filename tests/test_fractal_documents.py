"""Documents: resampling, nulls, calibration, the published protocol and the defects of its public code."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from nextlens.probes import fractal

FEW = [25, 50, 75, 100, 200, 300]
LONG = fractal.log_spaced(50, 1000, 10)
WIDE = fractal.log_spaced(10, 500)
SHAPE = (60, 1948)


def per_document(rows: np.ndarray) -> np.ndarray:
    return (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)


# --- resampling

RESAMPLED = {
    "rescaled range": fractal.rescaled_range,
    "Anis-Lloyd": fractal.anis_lloyd,
    "DFA-2": fractal.detrended_fluctuations,
    "Joseph": partial(fractal.joseph, centring="document"),
    "Higuchi": partial(fractal.higuchi, lags=16, centring="document"),
    "log periodogram": fractal.geweke_porter_hudak,
    "local Whittle": fractal.local_whittle,
    "full Whittle": fractal.full_whittle,
}


def test_groups_are_left_out_whole_and_neighbours_do_not_count_twice():
    rng = np.random.default_rng(0)
    rows = fractal.autoregressive((24, 300), 0.5, rng)
    found = fractal.local_whittle(rows)
    group = [str(i // 4) for i in range(24)]
    (low, high), by = fractal.by_group(found, group)
    without = np.array([fractal.local_whittle(rows[[one != name for one in group]]).value for name in "012345"])
    half = 2.570582 * np.sqrt(5 / 6 * ((without - without.mean()) ** 2).sum())
    assert (low, high) == pytest.approx((found.value - half, found.value + half))
    assert by == "jackknife over 6 groups"
    assert fractal.by_group(found, range(24))[0] == pytest.approx(found.interval)
    copies = fractal.local_whittle(np.repeat(rows[:8], 3, axis=0))
    apart = [np.ptp(one) for one in (copies.interval, fractal.by_group(copies, [i // 3 for i in range(24)])[0])]
    assert apart[1] > 1.5 * apart[0]
    with pytest.raises(ValueError, match="names 5 documents; the estimate is of 24"):
        fractal.by_group(found, group[:5])
    with pytest.raises(ValueError, match="not of documents"):
        fractal.by_group(fractal.local_whittle(rows[0]), ["a"])


def test_a_difference_of_the_same_documents_is_known_better_than_either():
    rng = np.random.default_rng(1)
    rows = fractal.fractional_gaussian_noise((30, 512), 0.7, rng)
    one, other = (fractal.local_whittle(x) for x in (rows, rows + 0.3 * rng.standard_normal(rows.shape)))
    value, (low, high) = fractal.difference(one, other)
    assert value == one.value - other.value
    assert high - low < 0.7 * np.ptp(one.interval)
    assert fractal.difference(one, one) == (0.0, (0.0, 0.0))
    with pytest.raises(ValueError, match="was not of documents"):
        fractal.difference(one, fractal.local_whittle(rows[0]))
    with pytest.raises(ValueError, match="of 30 documents and other of 29"):
        fractal.difference(one, fractal.local_whittle(rows[1:]))


@pytest.mark.parametrize("name", RESAMPLED)
def test_a_resample_is_the_estimate_of_the_documents_drawn(name):
    estimator = RESAMPLED[name]
    rows = fractal.fractional_gaussian_noise((6, 512), 0.7, np.random.default_rng(0)) * np.arange(1, 7)[:, None]
    times = np.array([[2.0, 0, 0, 3, 1, 0]])
    found = estimator(rows)
    drawn = estimator(np.repeat(rows, times[0].astype(int), axis=0))
    np.testing.assert_allclose(found.parts.refit(found.parts.means(times)), drawn.value, atol=1e-7)


def test_the_bootstrap_spreads_as_independent_sets_of_documents_do():
    rng = np.random.default_rng(1)
    sets = fractal.fractional_gaussian_noise((25 * 30, 512), 0.7, rng).reshape(25, 30, 512)
    for estimator in (fractal.local_whittle, fractal.joseph, fractal.detrended_fluctuations):
        apart = np.std([estimator(rows).value for rows in sets], ddof=1)
        drawn = fractal.bootstrap(estimator(sets[0]), rng, draws=200)
        assert 0.6 < drawn.standard_deviation / apart < 1.6
        assert len(np.unique(drawn.values)) > 190
        low, high = drawn.interval
        assert low < estimator(sets[0]).value < high


def test_stretches_of_one_series_are_drawn_too():
    series = fractal.fractional_gaussian_noise(1 << 14, 0.7, np.random.default_rng(2))
    found = fractal.detrended_fluctuations(series)
    drawn = fractal.bootstrap(found, np.random.default_rng(3))
    assert 0.005 < drawn.standard_deviation < 0.06
    again = fractal.bootstrap(found, np.random.default_rng(3))
    np.testing.assert_array_equal(drawn.values, again.values)
    with pytest.raises(ValueError, match="read one series whole; nothing can be drawn anew"):
        fractal.bootstrap(fractal.local_whittle(series), np.random.default_rng(3))
    with pytest.raises(ValueError, match="draws=10 must be at least 100"):
        fractal.bootstrap(found, np.random.default_rng(3), draws=10)


# --- defects of the public notebook


def notebook_joseph(rows: np.ndarray) -> float:
    """The released code: the list of increments is not emptied between scales."""
    integral, steps, spread = np.cumsum(rows, axis=1), [], []
    for lag in FEW:
        steps.append((integral[:, lag:] - integral[:, :-lag]).ravel())
        spread.append(np.concatenate(steps).std())
    return float(np.polyfit(np.log(FEW), np.log(spread), 1)[0])


def test_each_scale_has_increments_of_its_own():
    rows = per_document(np.random.default_rng(4).standard_normal(SHAPE))
    assert abs(fractal.joseph(rows, scales=FEW).value - 0.471) < 0.03
    assert notebook_joseph(rows) < 0.36


C3 = np.array([[0.1, 0.6, 0.3], [0.5, 0.15, 0.35], [0.25, 0.3, 0.45]])


def chain(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    tokens, uniform, edges = np.zeros(shape, dtype=int), rng.random(shape), np.cumsum(C3, axis=1)
    for t in range(1, shape[1]):
        tokens[:, t] = (uniform[:, t, None] > edges[tokens[:, t - 1]][:, :2]).sum(1)
    return tokens


def test_targets_shifted_by_one_change_the_mean_and_hardly_the_exponent():
    tokens = chain((40, 1200), np.random.default_rng(5))
    before, after = tokens[:, :-1], tokens[:, 1:]
    right, wrong = -np.log(C3[before, after]), -np.log(C3[before, before])
    protocol = replace(fractal.NOTEBOOK, values=1000, skip=100)
    found, shifted = (fractal.paper2024(z, np.random.default_rng(6), protocol=protocol) for z in (right, wrong))
    assert abs(found.mean - 0.995) < 0.01
    assert abs(shifted.mean - 1.605) < 0.03
    assert abs(found.estimates["H"].value - shifted.estimates["H"].value) < 0.06
    assert f"mean {found.mean:.4f}" in str(found)


def test_running_mean_of_the_text_reads_higher_than_the_window_mean_of_the_code():
    rows = per_document(np.random.default_rng(7).standard_exponential(SHAPE))
    window, running = (
        fractal.rescaled_range(rows, scales=FEW, centre=centre, overlap=True).value for centre in ("window", "running")
    )
    assert abs(window - 0.551) < 0.015
    assert abs(running - window - 0.011) < 0.008


# --- what the published protocol reads: H at 25-300 and 50-1000, Anis-Lloyd, J, S


PUBLISHED = {
    "iid": (lambda rng: rng.standard_exponential(SHAPE), (0.548, 0.535, 0.504, 0.472, 0.467)),
    "fGn .7": (lambda rng: fractal.fractional_gaussian_noise(SHAPE, 0.7, rng), (0.708, 0.705, 0.674, 0.634, 0.628)),
    "AR(1) .7": (lambda rng: fractal.autoregressive(SHAPE, 0.7, rng), (0.678, 0.610, 0.579, 0.502, 0.506)),
    "AR(1) .95": (lambda rng: fractal.autoregressive(SHAPE, 0.95, rng), (0.883, 0.786, 0.755, 0.650, 0.651)),
    "learning curve": (lambda rng: fractal.learning_curve(SHAPE, rng), (0.574, 0.724, 0.693, 0.738, 0.924)),
    "questions": (lambda rng: fractal.questions(SHAPE, rng), (0.504, 0.425, 0.394, 0.352, 0.317)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_protocol_reads_what_it_is_known_to_read(name):
    draw, expected = PUBLISHED[name]
    rows = per_document(draw(np.random.default_rng(8)))
    found = [
        fractal.rescaled_range(rows, scales=FEW, overlap=True).value,
        fractal.rescaled_range(rows, scales=LONG, overlap=True).value,
        fractal.anis_lloyd(rows, scales=LONG, overlap=True).value,
        fractal.joseph(rows, scales=WIDE).value,
        fractal.small_ball(rows, scales=WIDE, strict=False).value,
    ]
    # a fifth of the documents of the table, whose own spreads are up to .006, .006, .008 and .023
    np.testing.assert_array_less(np.abs(np.array(found) - expected), [0.02, 0.035, 0.035, 0.035, 0.09])


def test_paper2024_prints_its_null_beside_every_exponent_and_counts_what_it_drops():
    rng = np.random.default_rng(9)
    series = [*fractal.exponential_fractional((30, 2048), 0.7, rng), rng.standard_exponential(900)]
    found = fractal.paper2024(series, rng)
    assert (found.n_documents, found.n_documents_dropped) == (30, 1)
    assert set(found.estimates) == set(found.null) == {"S", "H", "J", "D"}
    assert abs(found.null["H"].value - 0.565) < 0.03
    assert found.estimates["H"].value > 0.65
    assert "derived" in str(found)
    assert str(found).count("shuffled: 0.") >= 3
    assert found.estimates["H"].estimator.endswith("running mean")


def test_paper2024_of_a_lattice_gives_a_reason_instead_of_s():
    rng = np.random.default_rng(10)
    found = fractal.paper2024(np.where(rng.random((20, 2048)) < 0.7, 0.2, 3.0), rng)
    assert "distinct values" in found.refused["S"]
    assert set(found.estimates) == {"H", "J"}


# --- nulls and calibration


def test_shuffles_read_a_half_by_local_whittle_and_more_by_rescaled_range():
    rng = np.random.default_rng(11)
    rows = fractal.exponential_fractional((40, 1024), 0.8, rng)
    whittle = fractal.null(fractal.local_whittle, rows, rng, draws=39)
    assert abs(whittle.mean - 0.5) < 0.01
    assert whittle.above == 1 / 40
    ranged = fractal.null(partial(fractal.rescaled_range, scales=FEW), rows, rng, draws=19)
    assert abs(ranged.mean - 0.55) < 0.02
    white = fractal.null(fractal.local_whittle, fractal.shuffled(rows, rng), rng, draws=39)
    assert white.above > 0.02
    with pytest.raises(ValueError, match="draws=5 must be at least 19"):
        fractal.null(fractal.local_whittle, rows, rng, draws=5)


def test_the_chart_of_rescaled_range_is_the_known_one_and_undoes_its_bias():
    rng = np.random.default_rng(12)
    reader = partial(fractal.rescaled_range, scales=FEW, overlap=True)
    chart = fractal.calibrated(reader, 30, 1948, rng, grid=(0.3, 0.5, 0.7, 0.9), draws=2)
    np.testing.assert_allclose(chart.read, [0.383, 0.544, 0.704, 0.841], atol=0.02)
    assert abs(chart.hurst(float(chart.read[1])) - 0.5) < 1e-12
    assert np.isnan(chart.hurst(0.95))
    rows = fractal.fractional_gaussian_noise((30, 1948), 0.6, rng)
    value, _ = fractal.calibrated_hurst(reader, rows, rng, draws=2)
    assert abs(value - 0.6) < 0.03


# --- trends


def test_centring_decides_joseph_and_position_detrending_does_not_need_it():
    rng = np.random.default_rng(13)
    moved = fractal.offsets((100, 1948), rng)
    scales = fractal.log_spaced(50, 487)
    assert fractal.joseph(moved, scales=scales).value > 0.85
    assert fractal.joseph(moved, scales=scales, centring="document").value < 0.5
    for rows in (moved, fractal.learning_curve((100, 1948), rng)):
        assert abs(fractal.bandwidth_sweep(fractal.pooled(rows))[0.5].value - 0.5) < 0.03


def test_a_trend_of_its_own_in_each_document_needs_amplitude_detrending():
    rng = np.random.default_rng(14)
    rows = fractal.learning_curve((100, 1948), rng, varying=True)
    fooled = fractal.bandwidth_sweep(fractal.pooled(rows))
    repaired = fractal.bandwidth_sweep(fractal.pooled(rows, detrend="amplitude"))
    assert fooled[0.4].value > 0.85
    assert fooled[0.4].value > fooled[0.5].value > fooled[0.6].value > 0.65
    assert all(abs(found.value - 0.48) < 0.05 for found in repaired.values())
    true = fractal.exponential_fractional((100, 1948), 0.7, rng)
    lost = (
        fractal.local_whittle(fractal.pooled(true)).value
        - fractal.local_whittle(fractal.pooled(true, detrend="amplitude")).value
    )
    assert -0.01 < lost < 0.03


def test_pooled_documents_have_no_position_left_and_one_scale():
    rows = fractal.pooled(fractal.learning_curve((40, 300), np.random.default_rng(15)))
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(rows.std(), 1)


def test_the_sweep_falls_for_short_memory_and_is_level_for_long():
    rng = np.random.default_rng(16)
    short = fractal.bandwidth_sweep(fractal.pooled(fractal.autoregressive((100, 1948), 0.7, rng)))
    assert short[0.4].value < 0.53 < short[0.6].value
    level = fractal.bandwidth_sweep(fractal.pooled(fractal.exponential_fractional((100, 1948), 0.7, rng)))
    assert max(found.value for found in level.values()) - min(found.value for found in level.values()) < 0.05
