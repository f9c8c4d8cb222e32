"""Does surprisal scale, and whose memory is it? Exponents of z, h and z - h beside their nulls, and verdicts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from nextlens.analyses.self_similarity_reading import Scored, scored
from nextlens.models.arguments import at_least
from nextlens.models.kernel import Kernel
from nextlens.probes import fractal
from nextlens.probes.fractal import Estimate, FractalReport, Published
from nextlens.probes.fractal.series import log_spaced
from nextlens.probes.measures import Whiteness, whiteness

#: What is read: surprisal; what the model expected of it; what it did not.
SERIES = ("z", "h", "m")
MEANING = {
    "z": "surprisal",
    "h": "entropy of the model's law: structure that it tracks",
    "m": "z - h, white if the model misses nothing",
}
#: Shuffles, and phase-randomised twins, that every exponent is read on.
NULLS = 19
#: Values from which the published protocol, whose windows go up to 300, is read.
PUBLISHED_FROM = 700
#: Documents drawn anew for an interval.
DRAWS = 400
#: What is said of every exponent.
COLUMNS = ("value", "low", "high", "text_low", "text_high", "shuffled", "shuffled_sd", "phases")
#: Lags at which m is looked at.
LAGS = (1, 2, 5, 10)


@dataclass(frozen=True, eq=False)
class SelfSimilarity:
    """What is found in z, h and m of the same documents.

    Attributes
    ----------
    data : xarray.Dataset
        Dims (series, estimator): ``value``, ``low`` and ``high`` (95 %, documents drawn anew), ``text_low`` and
        ``text_high`` (95 %, whole texts left out), ``shuffled`` and ``shuffled_sd``, ``phases`` (mean of
        phase-randomised twins). NaN where an estimator refused.
    reports : dict of str to FractalReport
        The verdict on each series, with its references and counts.
    refused : dict of str
        Series of which nothing could be read, such as an entropy that never changes, and why.
    white : Whiteness
        Of m.
    mean : dict of str to float
        In bits.
    apart : dict of str
        H of z, and of h, less that of m, by local Whittle at T^.5, with its interval: the same documents, or texts,
        left out of both.
    published : Published or None
        z by the notebook's protocol of arXiv 2402.01825, on no more than 896 values; None of documents below 700.
    """

    data: xr.Dataset
    reports: dict[str, FractalReport]
    refused: dict[str, str]
    white: Whiteness
    mean: dict[str, float]
    apart: dict[str, tuple[float, tuple[float, float]]]
    published: Published | None

    def verdict(self, series: str = "z") -> str:
        """The outcome of the gated rule, or "refused"."""
        return self.reports[series].verdict.outcome if series in self.reports else "refused"


def self_similarity(
    found: Scored,
    rng: np.random.Generator,
    *,
    series: Sequence[str] = SERIES,
    n_shuffles: int = 399,
    calibration_draws: int = 2,
    smoothing: float = 0.0,
    texts: Sequence[str] | None = None,
) -> SelfSimilarity:
    """Exponents and verdicts of surprisal, and of its two parts.

    If the model is exact, m is a martingale difference: mean 0, white, H = ½, whatever the memory of z. So H(h)
    above ½ is structure that the model tracks, m not white is structure that it misses.

    Parameters
    ----------
    found : Scored
        30 documents or more, of 256 positions or more; ``power-law`` is called from 1000 on.
    rng : numpy.random.Generator
        For shuffles, twins and references.
    series : sequence of {"z", "h", "m"}
    n_shuffles, calibration_draws, smoothing
        As :func:`~nextlens.probes.fractal.report.report`.
    texts : sequence of str, optional
        Which text each document is a stretch of.

    Raises
    ------
    ValueError
        If there are too few documents or positions for a verdict.
    """
    at_least("number of documents", len(found.surprisal), 30)
    rows = {"z": found.surprisal, "h": found.entropy, "m": found.missed}
    reports: dict[str, FractalReport] = {}
    refused: dict[str, str] = {}
    tables = []
    for name in series:
        try:
            reports[name] = fractal.report(
                rows[name],
                rng,
                unit="bit",
                n_shuffles=n_shuffles,
                calibration_draws=calibration_draws,
                smoothing=smoothing,
            )
            tables.append(exponents(rows[name], rng, smoothing=smoothing, texts=texts).expand_dims(series=[name]))
        except ValueError as reason:
            if "constant" not in str(reason):
                raise
            refused[name] = str(reason)
    if not tables:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in refused.items()))
    data = xr.concat(tables, "series").assign_attrs(reading=found.reading, units="bit")
    mean = {name: float(values.mean()) for name, values in rows.items()}
    apart = _apart({name: rows[name] for name in reports}, texts)
    length = found.surprisal.shape[1]
    protocol = replace(fractal.NOTEBOOK, values=min(fractal.NOTEBOOK.values, length), skip=0)
    published = (
        fractal.paper2024(found.surprisal, rng.spawn(1)[0], protocol=protocol, smoothing=smoothing)
        if length >= PUBLISHED_FROM and "z" in reports
        else None
    )
    white = whiteness(found.missed, lags=max(LAGS))
    return SelfSimilarity(data, reports, refused, white, mean, apart, published)


def _apart(
    rows: Mapping[str, Float[np.ndarray, "document position"]], texts: Sequence[str] | None
) -> dict[str, tuple[float, tuple[float, float]]]:
    found = {}
    for name, values in rows.items():
        m = fractal.bandwidth(values.shape[1], 0.5)
        found[name] = fractal.local_whittle(fractal.pooled(values), n_frequencies=m)
    if "m" not in found:
        return {}
    return {f"{name} - m": fractal.difference(found[name], found["m"], group=texts) for name in found if name != "m"}


def exponents(
    rows: Float[np.ndarray, "document position"],
    rng: np.random.Generator,
    *,
    smoothing: float = 0.0,
    texts: Sequence[str] | None = None,
) -> xr.Dataset:
    """Every estimator on documents less the mean of each position, on shuffles, and on phase-randomised twins.

    Returns
    -------
    xarray.Dataset
        Dim estimator, as in :class:`SelfSimilarity`.
    """
    pooled = fractal.pooled(rows)
    estimators = estimators_for(pooled.shape[1], smoothing)
    shuffles = [fractal.shuffled(pooled, rng) for _ in range(NULLS)]
    twins = [fractal.phase_randomised(pooled, rng) for _ in range(NULLS)]
    columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
    for name, estimator in estimators.items():
        row = _beside_nulls(estimator, pooled, shuffles, twins if name != "S" else [], rng, texts)
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return xr.Dataset(
        {name: ("estimator", np.array(column)) for name, column in columns.items()},
        coords={"estimator": list(estimators)},
    )


def estimators_for(length: int, smoothing: float = 0.0) -> dict[str, Callable[[np.ndarray], Estimate]]:
    """The estimators by name, at the scales of a report: from 50, or a fortieth of the length, to a quarter of it."""
    scales = log_spaced(min(50, length // 40), length // 4)
    found: dict[str, Callable[[np.ndarray], Estimate]] = {
        "H, R/S": partial(fractal.rescaled_range, scales=scales),
        "H, Anis-Lloyd": partial(fractal.anis_lloyd, scales=scales),
        "H, DFA-2": partial(fractal.detrended_fluctuations, order=2, scales=log_spaced(16, length // 4)),
        "H, GPH": fractal.geweke_porter_hudak,
        "H, Abry-Veitch": fractal.abry_veitch,
        "J": partial(fractal.joseph, scales=scales),
        "J, per document": partial(fractal.joseph, scales=scales, centring="document"),
        "S": partial(fractal.small_ball, scales=scales, smoothing=smoothing),
    }
    for power in (0.4, 0.5, 0.6, 0.65):
        m = fractal.bandwidth(length, power)
        found[f"H, Whittle T^{power:g}"] = partial(fractal.local_whittle, n_frequencies=m)
    return found


def by_context(
    kernel: Kernel,
    tokens: Int[np.ndarray, "document time"],
    contexts: Sequence[int],
    rng: np.random.Generator,
    *,
    skip: int = 0,
    n_shuffles: int = 399,
    whole: Scored | None = None,
    texts: Sequence[str] | None = None,
    stride: Callable[[int], int] = lambda k: max(1, k // 4),
) -> xr.Dataset:
    """The memory of surprisal when only the last k tokens are seen before each; the last k is the whole document.

    Parameters
    ----------
    contexts : sequence of int
    skip : int, default=0
        Positions left out at the start of each document.
    whole : Scored, optional
        Of the same documents read whole, nothing skipped, if that is at hand.
    texts : sequence of str, optional
        Which text each document is a stretch of; whole texts are then left out for the interval of ``less``.
    stride : callable, default k // 4
        How far windows move, given their context; 1 is exact and dear.

    Returns
    -------
    xarray.Dataset
        Dim context (0 stands for the whole document): ``mean`` bits; ``rescaled``, ``rescaled_shuffled``,
        ``whittle``, ``low``, ``high``, ``whittle_shuffled``; ``verdict``; ``less``, local Whittle of the whole document
        less this one, with ``less_low`` and ``less_high``, the same documents being left out of both.
    """
    rows: list[tuple[dict[str, float | str], Estimate]] = []
    for k in contexts:
        at_least("contexts", k, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            rows.append(_memory(scored(kernel, tokens, context=k, stride=stride(k)).after(skip), rng, n_shuffles))
    last = scored(kernel, tokens) if whole is None else whole
    rows.append(_memory(last.after(skip), rng, n_shuffles))
    for row, estimate in rows:
        less, (low, high) = fractal.difference(rows[-1][1], estimate, group=texts)
        row.update(less=less, less_low=low, less_high=high)
    columns = {name: ("context", np.array([row[name] for row, _ in rows])) for name in rows[0][0]}
    return xr.Dataset(columns, coords={"context": [*contexts, 0]}, attrs={"strides": [stride(k) for k in contexts]})


def _memory(found: Scored, rng: np.random.Generator, n_shuffles: int) -> tuple[dict[str, float | str], Estimate]:
    rows = fractal.pooled(found.surprisal)
    verdict = fractal.gated_verdict(rows, rng, n_shuffles=n_shuffles)
    band = verdict.bands[1]
    rescaled = estimators_for(rows.shape[1])["H, R/S"]
    shuffled = [rescaled(fractal.shuffled(rows, rng)).value for _ in range(5)]
    said = {
        "mean": float(found.surprisal.mean()),
        "rescaled": rescaled(rows).value,
        "rescaled_shuffled": float(np.mean(shuffled)),
        "whittle": band.estimate.value,
        "low": band.estimate.interval[0],
        "high": band.estimate.interval[1],
        "whittle_shuffled": band.null.mean,
        "verdict": verdict.outcome,
    }
    return said, band.estimate


def _beside_nulls(
    estimator: Callable[[np.ndarray], Estimate],
    rows: Float[np.ndarray, "document position"],
    shuffles: Sequence[np.ndarray],
    twins: Sequence[np.ndarray],
    rng: np.random.Generator,
    texts: Sequence[str] | None,
) -> list[float]:
    """:data:`COLUMNS`; NaN where refused."""
    try:
        estimate = estimator(rows)
        low, high = fractal.bootstrap(estimate, rng, draws=DRAWS).interval
        by_text = (np.nan, np.nan) if texts is None else fractal.by_group(estimate, texts)[0]
        nulls = [estimator(one).value for one in shuffles]
        phases = float(np.mean([estimator(one).value for one in twins])) if twins else np.nan
    except ValueError:
        return [np.nan] * len(COLUMNS)
    return [estimate.value, low, high, *by_text, float(np.mean(nulls)), float(np.std(nulls, ddof=1)), phases]


def scaling_curves(found: Scored, said: SelfSimilarity, rng: np.random.Generator) -> dict[str, dict[str, list]]:
    """What a figure of each series holds: R/S by window, its slope from window to window, and Whittle by bandwidth.

    Each beside the lowest and highest of shuffles.
    """
    rows = {"z": found.surprisal, "h": found.entropy, "m": found.missed}
    curves = {}
    for name, report in said.reports.items():
        pooled = fractal.pooled(rows[name])
        estimator = estimators_for(pooled.shape[1])["H, R/S"]
        estimate = estimator(pooled)
        shuffled = [estimator(fractal.shuffled(pooled, rng)) for _ in range(NULLS)]
        at, slopes = fractal.local_slopes(estimate)
        null_slopes = np.array([fractal.local_slopes(one)[1] for one in shuffled])
        null = np.array([one.fluctuations for one in shuffled])
        bands = report.verdicts["position"].bands
        sweep = np.array([[*band.estimate.interval, band.null.values.min(), band.null.values.max()] for band in bands])
        curves[name] = {
            "window": estimate.scales.tolist(),
            "rescaled": estimate.fluctuations.tolist(),
            "rescaled_shuffled": np.array([null.min(0), null.max(0)]).tolist(),
            "between": at.tolist(),
            "slope": slopes.tolist(),
            "slope_shuffled": np.array([null_slopes.min(0), null_slopes.max(0)]).tolist(),
            "frequencies": [len(band.estimate.scales) for band in bands],
            "whittle": [band.estimate.value for band in bands],
            "whittle_interval": sweep[:, :2].T.tolist(),
            "whittle_shuffled": sweep[:, 2:].T.tolist(),
        }
    return curves


def as_numbers(found: SelfSimilarity) -> dict[str, object]:
    """All of it, JSON-able; NaN as None."""

    def plain(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    table = {
        str(series): {
            str(estimator): {
                name: plain(float(found.data[name].sel(series=series, estimator=estimator)))
                for name in found.data.data_vars
            }
            for estimator in found.data.estimator.values
        }
        for series in found.data.series.values
    }
    return {
        "reading": found.data.attrs["reading"],
        "mean_bits": found.mean,
        "exponents": table,
        "verdicts": {name: _verdict(report) for name, report in found.reports.items()},
        "refused": found.refused,
        "apart": {name: [value, *map(plain, ends)] for name, (value, ends) in found.apart.items()},
        "published": None
        if found.published is None
        else {
            name: {
                "value": one.value,
                "interval": [plain(end) for end in one.interval],
                "shuffled": found.published.null[name].value if name in found.published.null else None,
            }
            for name, one in found.published.estimates.items()
        },
        "m": {
            "mean": found.white.mean,
            "mean_sd": found.white.mean_sd,
            "autocorrelation": {str(lag): found.white.autocorrelation[lag - 1].item() for lag in LAGS},
            "autocorrelation_sd": {str(lag): found.white.deviation[lag - 1].item() for lag in LAGS},
            "levels": found.white.levels,
            "white_p": found.white.p,
        },
    }


def _verdict(report: FractalReport) -> Mapping[str, object]:
    careful, plain = report.verdicts["amplitude"], report.verdicts["position"]
    return {
        "outcome": report.verdict.outcome,
        "trends_removed_by": report.concluded_by,
        "by_position": plain.outcome,
        "by_amplitude": careful.outcome,
        "bands": [
            {
                "power": band.power,
                "frequencies": len(band.estimate.scales),
                "H": band.estimate.value,
                "interval": list(band.estimate.interval),
                "shuffled": band.null.mean,
                "p_above": band.null.above,
                "p_below": band.null.below,
                "fit_p": band.fit,
                "bend_p": band.bend,
            }
            for band in report.verdict.bands
        ],
        "upper_slope": report.verdict.upper_slope,
        "upper_less_whittle": [report.verdict.apart[0], *report.verdict.apart[1]],
        "mistaken": report.verdict.mistaken,
        "calibrated_H": report.calibrated_hurst if np.isfinite(report.calibrated_hurst) else None,
        "references": report.references,
        "refused": report.refused,
        "documents": report.n_documents,
        "length": report.length,
        "constant_windows": report.n_constant_windows,
    }
