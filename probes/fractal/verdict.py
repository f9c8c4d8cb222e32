"""Whether documents scale: a verdict from a sweep, a goodness of fit, an agreement and shuffles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.fft import rfft
from scipy.stats import chi2

from nextlens.models.arguments import at_least
from nextlens.probes.fractal.calibration import Null, against
from nextlens.probes.fractal.detrended import detrended_fluctuations
from nextlens.probes.fractal.estimate import Estimate, line
from nextlens.probes.fractal.pooled import POWERS, sweep_of, whole_periodogram
from nextlens.probes.fractal.series import Series, as_documents, log_spaced
from nextlens.probes.fractal.spectral import Periodogram, bandwidth, whittle_memory

#: Read beside the three of :data:`~nextlens.probes.fractal.pooled.POWERS` to tell short memory from none.
SHORT_MEMORY_POWER = 0.65
#: Shuffles by default, and the fewest with which the lower tail can be called.
SHUFFLES, FEWEST_SHUFFLES = 399, 333
#: Largest p by which an exponent is above its null, and below it; least p of a fit; widest disagreement.
ABOVE, BELOW, FIT, AGREE = 0.01, 0.003, 0.001, 0.1
#: Below this length two relaxation times look straight half of the time.
SHORTEST = 1000

OUTCOMES = {
    "below-null": "sums vary less than those of shuffles: periodic or anti-persistent; look for questions or windows",
    "power-law": "one power law fits every band that was read",
    "low-band": "a power law fits the lowest bands only: it, or a long relaxation time; inconclusive at this length",
    "dependent-not-scaling": "dependence of no one exponent: relaxation, mixed scales, regimes, trends that differ",
    "short-memory": "dependence that the lowest frequencies do not see",
    "none": "nothing above what shuffles give",
}
LIMITS = (
    "Thresholds were chosen on processes of the kinds they were tried on, so rates are optimistic. True long memory "
    "masked by short at these lengths is called dependent-not-scaling. Nothing is said of lags beyond a quarter of the "
    "length."
)


class Gates(NamedTuple):
    """What the rule asks, at the three bandwidths: above shuffles, fitted by a power law, and the two slopes agree."""

    above: tuple[bool, ...]
    fitted: tuple[bool, ...]
    agree: bool
    below: bool
    short: bool


@dataclass(frozen=True, eq=False)
class Band:
    """Local Whittle at one bandwidth, its shuffles, and the p of its fit."""

    power: float
    estimate: Estimate
    null: Null
    fit: float


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is concluded, and everything it was concluded from.

    Attributes
    ----------
    outcome : str
        One of :data:`OUTCOMES`.
    gates : Gates
    bands : tuple of Band
        At ``length ** .4, .5, .6`` and ``.65``.
    detrended : Estimate
        DFA-2 at twelve scales from 16 to a quarter of the length.
    upper_slope : float
        Its slope on the upper half of them.
    n_documents, length, n_shuffles : int
    """

    outcome: str
    gates: Gates
    bands: tuple[Band, ...]
    detrended: Estimate
    upper_slope: float
    n_documents: int
    length: int
    n_shuffles: int

    def __str__(self) -> str:
        rows = [
            f"  m = {len(band.estimate.scales):>4} (T^{band.power:g})  H {band.estimate.value:.3f} "
            f"[{band.estimate.interval[0]:.3f}, {band.estimate.interval[1]:.3f}]  shuffles {band.null.mean:.3f} ± "
            f"{band.null.standard_deviation:.3f}  p above {band.null.above:.4f} below {band.null.below:.4f}  "
            f"fit p {band.fit:.2g}"
            for band in self.bands
        ]
        return "\n".join(
            [
                f"{self.outcome}: {OUTCOMES[self.outcome]} (up to lags of about {self.length // 4})",
                *rows,
                f"  DFA-2, upper half of its scales: {self.upper_slope:.3f}",
                f"  {LIMITS}",
            ]
        )


def gated_verdict(series: Series, rng: np.random.Generator, *, n_shuffles: int = SHUFFLES) -> Verdict:
    """The verdict on documents from which their common trend is already gone.

    Four questions. *Above*: is pooled local Whittle above at least 99 % of shuffles within documents at each of
    m = T^.4, T^.5, T^.6? *Fit*: does a power law fit the averaged periodogram there
    (:func:`goodness_of_fit`, p >= .001)? *Agreement*: is DFA-2 on the upper half of its scales within .1 of local
    Whittle at T^.5? *Below*: is it at some bandwidth under all but .3 % of the shuffles?

    ============================  ==============================================================
    ``below-null``                below, at some bandwidth
    ``power-law``                 above, agreement, and fit at all three; from T = 1000 on
    ``low-band``                  above, agreement, and fit at T^.4 and T^.5
    ``dependent-not-scaling``     above, nothing more
    ``short-memory``              not above, but at T^.65
    ``none``                      otherwise
    ============================  ==============================================================

    Parameters
    ----------
    series : (document, time)
        Of :func:`~nextlens.probes.fractal.pooled.pooled`.
    n_shuffles : int, default=399
        333 or more: with fewer ``below-null`` could not be reached, and questions would pass for short memory.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.as_documents`; if there is one document only, they are shorter
        than 256 values, or there are too few shuffles.
    """
    at_least("n_shuffles", n_shuffles, FEWEST_SHUFFLES)
    rows = as_documents(series)
    at_least("number of documents (one series can be cut)", len(rows), 2)
    length = int(at_least("length of documents", rows.shape[1], 256))
    powers = (*POWERS, SHORT_MEMORY_POWER)
    found = whole_periodogram(rows, powers)
    estimates = sweep_of(found, length, powers)
    nulls = _shuffle_values(rows, rng, powers, n_shuffles)
    bands = tuple(
        Band(power, estimate, against(values, estimate.value), goodness_of_fit(_lowest(found, len(estimate.scales))))
        for (power, estimate), values in zip(estimates.items(), nulls, strict=True)
    )
    fluctuations = detrended_fluctuations(rows, order=2, scales=log_spaced(16, length // 4))
    upper = upper_slope(fluctuations)
    gates = Gates(
        tuple(band.null.above <= ABOVE for band in bands[:-1]),
        tuple(band.fit >= FIT for band in bands[:-1]),
        abs(upper - estimates[0.5].value) <= AGREE,
        any(band.null.below <= BELOW for band in bands[:-1]),
        bands[-1].null.above <= ABOVE,
    )
    return Verdict(outcome_of(gates, length), gates, bands, fluctuations, upper, len(rows), length, n_shuffles)


def outcome_of(gates: Gates, length: int, *, shortest: int = SHORTEST) -> str:
    """The rule itself, from what its gates say."""
    if gates.below:
        return "below-null"
    if not all(gates.above):
        return "short-memory" if gates.short else "none"
    if not (gates.agree and all(gates.fitted[:2])):
        return "dependent-not-scaling"
    return "power-law" if gates.fitted[2] and length >= shortest else "low-band"


def first_rule(verdict: Verdict) -> bool:
    """The rule one would think of first: above shuffles at all bandwidths, and DFA-2 slopes not falling with scale.

    Kept to be compared: it accepts two relaxation times and varying trends, and rejects ARFIMA(1, d, 0).
    """
    x, y = np.log(verdict.detrended.scales), 0.5 * np.log(verdict.detrended.fluctuations)
    half = len(x) // 2
    lower = float(line(x[: half + 1], y[None, : half + 1])[0][0])
    return all(verdict.gates.above) and verdict.upper_slope >= lower - 0.03


def upper_slope(estimate: Estimate) -> float:
    """The exponent on the upper half of the scales; the halves share the middle one."""
    half = len(estimate.scales) // 2
    slope, _ = line(np.log(estimate.scales[half:]), np.log(estimate.fluctuations[half:])[None])
    return estimate.shift + estimate.factor * float(slope[0])


def goodness_of_fit(found: Periodogram) -> float:
    """The p of ``G λ^{-2d}`` for the averaged periodogram, whatever the size and shape of each document's values.

    Each document is divided by its own level and the fit repeated, three times. With R the ratio of
    periodogram to fit, R̄_j its mean over D documents and s² its variance over documents, averaged over
    frequencies: ``D / s² · Σ_j (R̄_j - mean R̄)²`` is χ² of m - 2 degrees.
    """
    logs, scaled = np.log(found.frequencies), found.power
    n_documents, m = found.power.shape
    at_least("number of documents", n_documents, 2)
    at_least("number of frequencies", m, 4)
    for _ in range(3):
        d = float(whittle_memory(logs, scaled.mean(0)[None])[0][0])
        shape = np.exp(-2 * d * (logs - logs.mean()))
        ratio = scaled / shape
        scaled = scaled / ratio.mean(1, keepdims=True)
    d = float(whittle_memory(logs, scaled.mean(0)[None])[0][0])
    ratio = scaled / np.exp(-2 * d * (logs - logs.mean()))
    mean = ratio.mean(0)
    statistic = n_documents / ratio.var(0, ddof=1).mean() * ((mean - mean.mean()) ** 2).sum()
    return float(chi2.sf(statistic, m - 2))


def _shuffle_values(
    rows: Float[np.ndarray, "document time"], rng: np.random.Generator, powers: tuple[float, ...], n_shuffles: int
) -> Float[np.ndarray, "power draw"]:
    """Pooled local Whittle of shuffles, at each bandwidth."""
    sizes = [bandwidth(rows.shape[1], power) for power in powers]
    power = np.empty((n_shuffles, max(sizes)))
    for mean in power:
        waves = rfft(rng.permuted(rows, axis=1), axis=1)[:, 1 : max(sizes) + 1]
        mean[:] = (waves.real**2 + waves.imag**2).mean(0)
    logs = np.log(np.arange(1, max(sizes) + 1))
    return np.stack([whittle_memory(logs[:m], power[:, :m])[0] + 0.5 for m in sizes])


def _lowest(found: Periodogram, m: int) -> Periodogram:
    return Periodogram(found.frequencies[:m], found.power[:, :m])
