"""What fractal estimators refuse, and how they say so; constant windows are counted, not silent."""

from __future__ import annotations

import numpy as np
import pytest

from nextlens.probes import fractal

RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal(4096)
EVERY = [
    fractal.rescaled_range,
    fractal.anis_lloyd,
    fractal.detrended_fluctuations,
    fractal.aggregated_variance,
    fractal.structure_function,
    fractal.joseph,
    fractal.higuchi,
    fractal.small_ball,
    fractal.geweke_porter_hudak,
    fractal.local_whittle,
    fractal.full_whittle,
    fractal.abry_veitch,
]
every_estimator = pytest.mark.parametrize("estimator", EVERY, ids=lambda estimator: estimator.__name__)


@every_estimator
def test_not_a_number_is_refused_with_its_place(estimator):
    rows = np.tile(NOISE, (2, 1))
    rows[1, 77] = np.nan
    rows[1, 90] = np.inf
    with pytest.raises(ValueError, match="2 NaN or infinite values, the first in document 1 at 77"):
        estimator(rows)


@every_estimator
def test_a_constant_is_refused(estimator):
    with pytest.raises(ValueError, match=r"constant at 0\.3"):
        estimator(np.full(4096, 0.3))


@every_estimator
def test_documents_of_unequal_length_are_refused_with_the_way_out(estimator):
    with pytest.raises(ValueError, match=r"documents have 100 to 200 values; cut to one length with documents"):
        estimator([NOISE[:100], NOISE[:200]])


@every_estimator
def test_what_is_no_real_number_or_has_no_square_is_refused(estimator):
    for wrong, words in (
        (list(NOISE + 1j), "complex128 values; it must hold real numbers"),
        (["a", "b"], "<U1 values; it must hold real numbers"),
        (1e200 * NOISE, r"reaches \d.*e\+200, whose square is no number; give it in another unit"),
        (1e-200 * NOISE, r"reaches \d.*e-200, whose square is no number"),
    ):
        with pytest.raises(ValueError, match=words):
            estimator(wrong)


@every_estimator
def test_more_dimensions_are_refused(estimator):
    with pytest.raises(ValueError, match=r"shape \(2, 2, 1024\); it must be \(time,\) or \(document, time\)"):
        estimator(NOISE.reshape(2, 2, 1024))


@every_estimator
def test_neither_the_input_is_changed_nor_a_list_refused(estimator):
    before = NOISE.copy()
    first = estimator(NOISE, **({"strict": False} if estimator is fractal.small_ball else {}))
    np.testing.assert_array_equal(NOISE, before)
    again = estimator(NOISE.tolist(), **({"strict": False} if estimator is fractal.small_ball else {}))
    np.testing.assert_allclose(first.value, again.value, rtol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "needed"),
    [
        (fractal.rescaled_range, 256),
        (fractal.detrended_fluctuations, 256),
        (fractal.aggregated_variance, 512),
        (fractal.joseph, 128),
        (fractal.small_ball, 128),
        (fractal.abry_veitch, 256),
        (fractal.higuchi, 128),
        (fractal.geweke_porter_hudak, 16),
        (fractal.local_whittle, 9),
        (fractal.full_whittle, 9),
    ],
    ids=lambda found: getattr(found, "__name__", found),
)
def test_a_series_too_short_is_told_how_long_it_must_be(estimator, needed):
    with pytest.raises(ValueError, match=f"{needed}"):
        estimator(NOISE[: min(50, needed - 1)])
    strict = {"strict": False, "eps": 0.9} if estimator is fractal.small_ball else {}
    assert np.isfinite(estimator(NOISE[:needed], **strict).value)


@pytest.mark.parametrize("estimator", [fractal.rescaled_range, fractal.detrended_fluctuations, fractal.joseph])
def test_scales_asked_for_are_checked_against_the_length(estimator):
    with pytest.raises(ValueError, match="the series has 1000 values; scales up to 900 need at least 1800"):
        estimator(NOISE[:1000], scales=[10, 20, 40, 900])
    with pytest.raises(ValueError, match="at least 4 distinct whole numbers"):
        estimator(NOISE, scales=[10, 10, 20, 40])
    with pytest.raises(ValueError, match="at least 4 distinct whole numbers"):
        estimator(NOISE, scales=[10, 20, 40])


def test_names_of_choices_are_checked():
    with pytest.raises(ValueError, match="centre='mean' is not one of 'window', 'running'"):
        fractal.rescaled_range(NOISE, centre="mean")
    with pytest.raises(ValueError, match="centring='documents' is not one of"):
        fractal.joseph(NOISE, centring="documents")
    with pytest.raises(ValueError, match=r"order=9 must lie between 1 and 5"):
        fractal.detrended_fluctuations(NOISE, order=9)
    with pytest.raises(ValueError, match="q=0 must be above 0"):
        fractal.structure_function(NOISE, 0)
    with pytest.raises(ValueError, match="windows less a polynomial of degree 3 need 5"):
        fractal.detrended_fluctuations(NOISE, order=3, scales=[4, 8, 16, 32])
    with pytest.raises(ValueError, match="leave nothing to measure"):
        fractal.detrended_fluctuations(np.arange(1000.0), order=2)
    with pytest.raises(ValueError, match="periodic, not scaling"):
        fractal.local_whittle(np.tile([1.0, 2.0, 3.0, 0.5], 256))
    with pytest.raises(ValueError, match="n_frequencies=3 must lie between 4 and 2047"):
        fractal.local_whittle(NOISE, n_frequencies=3)


# --- windows of one value: the published code gives NaN


def test_constant_windows_are_left_out_and_counted():
    series = np.where(RNG.random(20_000) < 0.97, 0.1, 2.0)
    found = fractal.rescaled_range(series, scales=[20, 40, 80, 160])
    laid = series.reshape(-1, 20)
    constant = int((np.ptp(laid, axis=1) == 0).sum())
    assert constant > 100
    assert found.n_constant_windows >= constant
    assert np.isfinite(found.value)
    assert str(found.n_constant_windows) in str(found)


@pytest.mark.parametrize("level", [0.1, 1 / 3, 1e6 / 7])
def test_rounding_does_not_hide_a_constant_window(level):
    series = NOISE + level
    series[:64] = level
    found = fractal.rescaled_range(series, scales=[16, 20, 24, 32])
    assert found.n_constant_windows == 4 + 3 + 2 + 2


def test_a_scale_of_constant_windows_only_is_refused():
    series = np.repeat([0.0, 1.0], 2000)
    with pytest.raises(ValueError, match="every window of 20 values is constant"):
        fractal.rescaled_range(series, scales=[20, 40, 100, 200])


def test_documents_of_one_value_are_named():
    rows = np.vstack([NOISE[:256], np.full(256, 0.1)])
    with pytest.raises(ValueError, match=r"document 1 is constant \(1 of 2 are\)"):
        fractal.small_ball(rows, standardise="document")


# --- small balls


def test_two_values_have_no_small_ball_unless_smoothed():
    series = np.where(RNG.random(40_000) < 0.7, 0.2, 3.0)
    with pytest.raises(ValueError, match=r"2 distinct values, up to 2\.\d+ standard deviations apart.*smoothing=2\."):
        fractal.small_ball(series, scales=[60, 90, 120, 200, 300])
    found = fractal.small_ball(series, scales=[60, 90, 120, 200, 300], smoothing=2.2)
    assert abs(found.value - 0.5) < 0.1
    assert "smoothed by 2.2" in str(found)


def test_two_values_published_way_return_never():
    series = np.where(RNG.random(40_000) < 0.7, 0.2, 3.0)
    integral = np.cumsum((series - series.mean()) / series.std())
    returned = [np.mean(np.abs(integral[lag:] - integral[:-lag]) <= 5e-3) for lag in (11, 33, 101, 301)]
    assert returned == [0.0] * 4


def test_a_ball_too_small_is_refused_with_one_that_would_do():
    with pytest.raises(ValueError, match=r"sees \d+ returns at lag \d+; at least 50 measure a chance") as refusal:
        fractal.small_ball(NOISE, eps=5e-3)
    eps = float(str(refusal.value).split("at least ")[-1].split(",")[0])
    assert np.isfinite(fractal.small_ball(NOISE, eps=eps).value)


def test_a_ball_too_wide_is_refused_with_one_that_would_do():
    with pytest.raises(ValueError, match=r"no small ball at lag 4.*take at most 0\.\d+"):
        fractal.small_ball(NOISE, eps=1.5)
    for wrong in ({"eps": 0.0}, {"eps": float("nan")}, {"smoothing": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            fractal.small_ball(NOISE, **wrong)


def test_width_of_the_ball_does_not_change_s_but_its_spread():
    rows = fractal.fractional_gaussian_noise((60, 2000), 0.7, np.random.default_rng(4))
    found = [fractal.small_ball(rows, eps=eps, scales=fractal.log_spaced(10, 500)) for eps in (0.06, 0.2, 0.5)]
    values = [one.value for one in found]
    assert max(values) - min(values) < 0.06
    widths = [one.interval[1] - one.interval[0] for one in found]
    assert widths[0] > widths[1]


# --- documents


def test_documents_are_cut_and_what_is_lost_is_counted():
    found = fractal.documents([NOISE[:300], NOISE[:250], NOISE[:1000]], length=200, skip=100)
    assert found.values.shape == (2, 200)
    assert (found.n_dropped, found.n_values_cut) == (1, 300 + 1000 - 400)
    np.testing.assert_array_equal(found.values[0], NOISE[100:300])
    with pytest.raises(ValueError, match=r"length=2000 after skip=0 leaves none of 1 documents; the longest has 300"):
        fractal.documents([NOISE[:300]], length=2000)


def test_a_series_is_cut_in_order():
    found = fractal.cut(NOISE, 1000)
    np.testing.assert_array_equal(found.values.ravel(), NOISE[:4000])
    assert found.n_values_cut == 96
    with pytest.raises(ValueError, match="at most 2048"):
        fractal.cut(NOISE, 4000)
    with pytest.raises(ValueError, match="holds 4 documents; only a single series is cut"):
        fractal.cut(found.values, 100)


def test_few_documents_have_no_mean_of_a_position():
    with pytest.raises(ValueError, match="series has 4 documents; the mean of a position needs at least 30"):
        fractal.pooled(NOISE.reshape(4, 1024))
