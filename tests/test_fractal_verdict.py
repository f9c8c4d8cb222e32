"""The gated rule: known processes get the verdict they deserve, where a simpler rule is fooled; reports say all."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from nextlens.probes import fractal
from nextlens.probes.fractal import verdict as rule
from nextlens.probes.fractal.spectral import Periodogram

SHAPE = (40, 1024)
NOT_LONG = {"none", "short-memory", "dependent-not-scaling", "below-null"}

#: Processes, and the verdicts that are right. What has no long memory is never ``power-law``.
KNOWN = {
    "iid": (lambda rng: rng.standard_exponential(SHAPE), {"none"}),
    "offsets": (lambda rng: fractal.offsets(SHAPE, rng), {"none"}),
    "learning curve": (lambda rng: fractal.learning_curve(SHAPE, rng), {"none"}),
    "scaled by document": (lambda rng: fractal.scaled(rng.standard_exponential(SHAPE), rng), {"none"}),
    "questions": (lambda rng: fractal.questions(SHAPE, rng), {"below-null"}),
    "AR(1) .7": (lambda rng: fractal.autoregressive(SHAPE, 0.7, rng), {"short-memory", "dependent-not-scaling"}),
    "AR(1) .95": (lambda rng: fractal.autoregressive(SHAPE, 0.95, rng), {"dependent-not-scaling"}),
    "window resets": (lambda rng: fractal.window_resets(SHAPE, rng), {"dependent-not-scaling"}),
    "varying trend": (lambda rng: fractal.learning_curve(SHAPE, rng, varying=True), {"dependent-not-scaling"}),
    "two relaxations": (lambda rng: fractal.two_relaxations((64, 1024), rng), {"dependent-not-scaling", "low-band"}),
    "fGn .7 Exp": (lambda rng: fractal.exponential_fractional(SHAPE, 0.7, rng), {"low-band", "power-law"}),
    "fGn .9 Exp": (lambda rng: fractal.exponential_fractional(SHAPE, 0.9, rng), {"power-law"}),
    "fGn .7 Exp, scaled": (
        lambda rng: fractal.scaled(fractal.exponential_fractional(SHAPE, 0.7, rng), rng),
        {"low-band", "power-law"},
    ),
    "ARFIMA(1, .2, 0)": (lambda rng: fractal.arfima(SHAPE, 0.2, rng, phi=0.5), {"power-law", "low-band"}),
}
VERDICTS: dict[str, fractal.Verdict] = {}


def verdict_on(name: str) -> fractal.Verdict:
    if name not in VERDICTS:
        rng = np.random.default_rng(0)
        VERDICTS[name] = fractal.gated_verdict(fractal.pooled(KNOWN[name][0](rng)), rng, n_shuffles=333)
    return VERDICTS[name]


def test_an_exponent_that_no_rival_reads_has_no_rivals():
    assert rule.slow_weight(1.4, 1000, float(np.exp(-30 / 1000))) is None
    assert rule.mistaken_share((30, 1000), 1.4, np.random.default_rng(0)) is None


@pytest.mark.parametrize("name", KNOWN)
def test_known_processes_get_their_verdict(name):
    found = verdict_on(name)
    assert found.outcome in KNOWN[name][1], str(found)


@pytest.mark.parametrize("name", ["varying trend"])
def test_the_first_rule_is_fooled_where_the_gated_one_is_not(name):
    assert rule.first_rule(verdict_on(name))
    assert verdict_on(name).outcome in NOT_LONG


def test_the_first_rule_rejects_true_long_memory_that_begins_short():
    assert not rule.first_rule(verdict_on("ARFIMA(1, .2, 0)"))


def test_a_verdict_prints_what_it_was_made_of():
    found = verdict_on("fGn .7 Exp")
    text = str(found)
    for band in found.bands:
        assert f"{band.estimate.value:.3f}" in text
        assert f"{band.null.above:.4f}" in text
    assert "up to lags of about 256" in text
    assert rule.LIMITS in text
    assert found.n_shuffles == 333
    assert [band.power for band in found.bands] == [0.4, 0.5, 0.6, 0.65]


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "power-law"),
        ({"fitted": (True, True, False)}, "low-band"),
        ({"fitted": (True, False, True)}, "dependent-not-scaling"),
        ({"straight": (True, False)}, "dependent-not-scaling"),
        ({"straight": (False, True)}, "dependent-not-scaling"),
        ({"agree": False}, "dependent-not-scaling"),
        ({"above": (True, False, True)}, "short-memory"),
        ({"above": (True, False, True), "short": False}, "none"),
        ({"below": True}, "below-null"),
    ],
)
def test_the_rule_is_its_table(changes, outcome):
    gates = rule.Gates((True,) * 3, (True,) * 3, (True,) * 2, True, False, True)._replace(**changes)
    assert rule.outcome_of(gates, 1948) == outcome
    less = "low-band" if outcome == "power-law" else outcome
    assert rule.outcome_of(gates, 512) == less
    assert rule.outcome_of(gates, 1948, mistaken=0.5) == less
    assert rule.outcome_of(gates, 1948, mistaken=0.475) == outcome


def test_a_power_law_is_called_only_where_rivals_of_the_same_exponent_would_fail():
    strong, weak = verdict_on("fGn .9 Exp"), verdict_on("fGn .7 Exp")
    assert strong.outcome == "power-law"
    assert strong.mistaken < 0.2 < weak.mistaken
    assert weak.outcome == ("low-band" if weak.mistaken >= 0.5 else "power-law")
    assert f"pass all this in {weak.mistaken:.0%} of 40 draws" in str(weak)
    assert verdict_on("iid").mistaken is None
    apart, (low, high) = weak.apart
    assert apart == pytest.approx(weak.upper_slope - weak.bands[1].estimate.value)
    assert low < apart < high


@pytest.mark.parametrize(("hurst", "slow"), [(0.7, 0.97), (0.85, 0.99)])
def test_a_rival_reads_the_exponent_it_was_made_for(hurst, slow):
    weight = rule.slow_weight(hurst, 1024, slow)
    rows = fractal.two_relaxations((200, 1024), np.random.default_rng(8), slow=slow, weight=weight)
    assert abs(fractal.local_whittle(rows, n_frequencies=32).value - hurst) < 0.03


def test_rivals_that_the_fit_lets_pass_are_bent():
    plain, bent = (
        rule.mistaken_share((30, 1000), 0.86, np.random.default_rng(12), draws=20, straight=p) for p in (0.0, 0.01)
    )
    assert plain > 0.5
    assert bent < 0.45


def test_a_bend_is_seen_where_a_relaxation_ends_and_not_in_a_power_law():
    rng = np.random.default_rng(9)
    laws, relaxing = [], []
    for _ in range(100):
        rows = fractal.exponential_fractional((30, 512), 0.7, rng)
        laws.append(rule.bend(fractal.periodogram(rows, 22)))
        relaxing.append(rule.bend(fractal.periodogram(fractal.autoregressive((30, 512), 0.97, rng), 22)))
    assert np.mean(np.array(laws) < 0.05) <= 0.12
    assert 0.3 < np.median(laws) < 0.75
    assert 0.85 < ndtri(laws).std() < 1.35
    assert np.mean(np.array(relaxing) < 0.01) > 0.9
    turned = Periodogram(np.arange(1, 41) / 100, rng.standard_exponential((30, 40)) * np.arange(1, 41))
    assert 0.001 < rule.bend(turned) < 0.999  # steep the other way, and straight


@pytest.mark.parametrize("n_documents", [6, 7])
def test_shuffles_are_periodograms_of_one_order_for_all_documents(n_documents):
    rows = np.random.default_rng(10).standard_normal((n_documents, 300))
    (found,) = rule._shuffle_values(rows, np.random.default_rng(11), (0.5,), 5)
    rng = np.random.default_rng(11)
    slow = [
        fractal.local_whittle(rows[:, rng.permutation(300)], n_frequencies=fractal.bandwidth(300, 0.5)).value
        for _ in range(5)
    ]
    np.testing.assert_allclose(found, slow, atol=1e-5)


def test_no_power_law_is_issued_for_short_documents():
    rng = np.random.default_rng(1)
    rows = fractal.pooled(fractal.exponential_fractional((60, 512), 0.8, rng))
    assert fractal.gated_verdict(rows, rng, n_shuffles=333).outcome == "low-band"


def test_goodness_of_fit_rejects_true_power_laws_rarely_and_relaxation_always():
    rng = np.random.default_rng(2)
    p = []
    for _ in range(60):
        rows = fractal.scaled(fractal.exponential_fractional((30, 512), 0.7, rng), rng)
        p.append(fractal.goodness_of_fit(fractal.periodogram(rows, 42)))
    assert np.mean(np.array(p) < 0.01) <= 0.1
    assert np.mean(np.array(p) < 0.5) > 0.25
    for _ in range(5):
        rows = fractal.autoregressive((40, 1024), 0.95, rng)
        assert fractal.goodness_of_fit(fractal.periodogram(rows, 63)) < 0.001


def test_goodness_of_fit_does_not_see_the_size_of_documents():
    rows = fractal.fractional_gaussian_noise((30, 512), 0.7, np.random.default_rng(3))
    frequencies, power = fractal.periodogram(rows, 42)
    sizes = np.exp(np.random.default_rng(4).standard_normal((30, 1)))
    plain, scaled = (fractal.goodness_of_fit(Periodogram(frequencies, x)) for x in (power, power * sizes))
    assert abs(plain - scaled) < 0.02


@pytest.mark.parametrize(
    ("shape", "how", "message"),
    [
        ((1, 2000), {}, r"number of documents \(one series can be cut\)=1 must be at least 2"),
        ((40, 200), {}, "length of documents=200 must be at least 256"),
        ((40, 512), {"n_shuffles": 99}, "n_shuffles=99 must be at least 333"),
    ],
)
def test_what_no_verdict_can_be_given_on_is_refused(shape, how, message):
    rows = np.random.default_rng(0).standard_normal(shape)
    with pytest.raises(ValueError, match=message):
        fractal.gated_verdict(rows, np.random.default_rng(0), **how)


# --- reports


@pytest.fixture(scope="module")
def long_memory() -> fractal.FractalReport:
    rng = np.random.default_rng(5)
    rows = fractal.exponential_fractional((40, 1100), 0.7, rng)
    documents = fractal.documents([*rows, rows[0, :50]], length=1024, skip=20)
    return fractal.report(documents, rng, calibration_draws=2, n_shuffles=333)


def test_a_report_holds_the_triple_beside_its_references(long_memory):
    assert all(long_memory.verdict.gates.fitted + long_memory.verdict.gates.straight)
    assert abs(long_memory.calibrated_hurst - 0.7) < 0.06
    own = {name: found.value for name, found in long_memory.estimates.items()}
    noise, relaxing, mixed = long_memory.references.values()
    for kind in ("H", "J", "J per document"):
        assert abs(own[kind] - noise[kind]) < 0.08
        assert own[kind] > relaxing[kind] + 0.05
    assert abs(mixed["H"] - 0.5) < 0.04
    assert abs(mixed["J per document"] - 0.45) < 0.05
    assert mixed["J"] > 0.6  # levels of documents survive a shuffle within them
    assert own["D"] == 2 - own["S"]


def test_a_report_counts_what_it_left_out_and_prints_bits(long_memory):
    assert (long_memory.n_documents, long_memory.n_documents_dropped) == (40, 1)
    assert long_memory.n_values_cut == 40 * (1100 - 1024)
    assert abs(long_memory.mean * np.log(2) - 1) < 0.1
    text = str(long_memory)
    for words in (
        f"{long_memory.verdict.outcome}: ",
        "calibrated H",
        "derived: 2 - S",
        "shuffled",
        "AR(1)",
        "bits",
        "1 documents, 3040 values",
    ):
        assert words in text
    with pytest.raises(TypeError):
        float(long_memory)


def test_a_report_concludes_by_the_careful_detrending_when_the_two_disagree():
    rng = np.random.default_rng(6)
    rows = fractal.learning_curve((40, 1024), rng, varying=True)
    found = fractal.report(rows, rng, unit="bit", calibration_draws=2, n_shuffles=333)
    assert found.concluded_by == "amplitude"
    assert found.verdict.outcome in NOT_LONG
    assert f"by position: {found.verdicts['position'].outcome}" in str(found)
    np.testing.assert_allclose(found.mean, rows.mean())


def test_a_report_on_a_lattice_gives_the_rest_and_says_why_s_is_missing():
    rng = np.random.default_rng(7)
    rows = np.where(rng.random((40, 512)) < 0.97, 0.1, 4.0)
    rows[3, 100:200] = 0.1
    whole = fractal.report(rows, rng, unit="bit", calibration_draws=2, n_shuffles=333)
    assert set(whole.estimates) == {"H", "J", "J per document"}
    assert "2 distinct values" in whole.refused["S"]
    assert whole.n_constant_windows > 0
    assert "S refused: the series takes 2" in str(whole)
    assert whole.verdict.outcome == "none"


def test_units_are_checked():
    with pytest.raises(ValueError, match="unit='nats' is not one of 'nat', 'bit'; did you mean 'nat'"):
        fractal.report(np.random.default_rng(0).standard_normal((40, 512)), np.random.default_rng(0), unit="nats")
