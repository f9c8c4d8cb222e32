"""Whether documents scale: a verdict from a sweep, a goodness of fit, an agreement and shuffles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.fft import fft
from scipy.special import ndtr
from scipy.stats import chi2

from nextlens.models.arguments import at_least
from nextlens.probes.fractal.adversaries import relaxing_spectrum, two_relaxations
from nextlens.probes.fractal.calibration import Null, against
from nextlens.probes.fractal.detrended import detrended_fluctuations
from nextlens.probes.fractal.estimate import Estimate, difference, line
from nextlens.probes.fractal.pooled import POWERS, pooled, sweep_of, whole_periodogram
from nextlens.probes.fractal.series import Series, as_documents, log_spaced
from nextlens.probes.fractal.spectral import Periodogram, bandwidth, whittle_memory

#: Read beside the three of :data:`~nextlens.probes.fractal.pooled.POWERS` to tell short memory from none.
SHORT_MEMORY_POWER = 0.65
#: Shuffles by default, and the fewest with which the lower tail can be called.
SHUFFLES, FEWEST_SHUFFLES = 399, 333
#: Largest p by which an exponent is above its null, and below it; least p of a fit, of no bend; widest disagreement.
ABOVE, BELOW, FIT, STRAIGHT, AGREE = 0.01, 0.003, 0.001, 0.01, 0.1
#: Below this length no power law is called.
SHORTEST = 1000
#: Rivals drawn; the share of them from which a power law that passes is no better known than they; how many of
#: their relaxation times a document holds; the most of the slow one there is.
RIVALS, MISTAKEN, RELAXATIONS, HEAVIEST = 40, 0.5, 30, 5.0

OUTCOMES = {
    "below-null": "sums vary less than those of shuffles: periodic or anti-persistent; look for questions or windows",
    "power-law": "one power law fits every band that was read",
    "low-band": "a power law, or a long relaxation time: inconclusive in so few documents of this length",
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
    """What the rule asks at the three bandwidths: above shuffles, fitted, not bent; and whether two slopes agree.

    ``straight`` is of the two lowest, where a relaxation time ends; above them a power law may begin short.
    """

    above: tuple[bool, ...]
    fitted: tuple[bool, ...]
    straight: tuple[bool, ...]
    agree: bool
    below: bool
    short: bool


@dataclass(frozen=True, eq=False)
class Band:
    """Local Whittle at one bandwidth, its shuffles, the p of its fit and that of its bend."""

    power: float
    estimate: Estimate
    null: Null
    fit: float
    bend: float


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
    apart : tuple of float and interval
        That slope less local Whittle at T^.5, 95 %, the same documents being left out of both: if it holds more than
        the .1 that are asked for, few documents were asked.
    n_documents, length, n_shuffles : int
    mistaken : float or None
        Of a power law: the share of two relaxation times of the same H and size that pass as one, too; None if none
        read so much.
    """

    outcome: str
    gates: Gates
    bands: tuple[Band, ...]
    detrended: Estimate
    upper_slope: float
    apart: tuple[float, tuple[float, float]]
    n_documents: int
    length: int
    n_shuffles: int
    mistaken: float | None = None

    def __str__(self) -> str:
        rows = [
            f"  m = {len(band.estimate.scales):>4} (T^{band.power:g})  H {band.estimate.value:.3f} "
            f"[{band.estimate.interval[0]:.3f}, {band.estimate.interval[1]:.3f}]  shuffles {band.null.mean:.3f} ± "
            f"{band.null.standard_deviation:.3f}  p above {band.null.above:.4f} below {band.null.below:.4f}  "
            f"fit p {band.fit:.2g}, bend p {band.bend:.2g}"
            + (", AT THE END OF ITS RANGE" if band.estimate.at_bound else "")
            for band in self.bands
        ]
        rivals = (
            []
            if self.mistaken is None
            else [
                f"  two relaxation times that read the same H pass all this in {self.mistaken:.0%} of {RIVALS} draws "
                f"of {self.n_documents} documents of {self.length}"
            ]
        )
        return "\n".join(
            [
                f"{self.outcome}: {OUTCOMES[self.outcome]} (up to lags of about {self.length // 4})",
                *rows,
                f"  DFA-2, upper half of its scales: {self.upper_slope:.3f}, less local Whittle at T^.5: "
                f"{self.apart[0]:+.3f} [{self.apart[1][0]:+.3f}, {self.apart[1][1]:+.3f}]",
                *rivals,
                f"  {LIMITS}",
            ]
        )


def gated_verdict(series: Series, rng: np.random.Generator, *, n_shuffles: int = SHUFFLES) -> Verdict:
    """The verdict on documents from which their common trend is already gone.

    Five questions. *Above*: is pooled local Whittle above at least 99 % of shuffles within documents at each of
    m = T^.4, T^.5, T^.6? *Fit*: does a power law fit the averaged periodogram there
    (:func:`goodness_of_fit`, p >= .001)? *Straight*: does it not flatten towards the lowest frequencies of T^.4 and
    T^.5 (:func:`bend`, p >= .01)? *Agreement*: is DFA-2 on the upper half of its scales within .1 of local
    Whittle at T^.5? *Below*: is it at some bandwidth under all but .3 % of the shuffles? What passes for a power law is
    then asked once more, whether its size could have told: :func:`mistaken_share`.

    ============================  ==============================================================
    ``below-null``                below, at some bandwidth
    ``power-law``                 above, agreement, straight, and fit at all three; from T = 1000 on, and where fewer
                                  than half of two relaxation times of the same H would pass
    ``low-band``                  above, agreement, straight, and fit at T^.4 and T^.5
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
        Band(power, estimate, against(values, estimate.value), *_fit_and_bend(found, len(estimate.scales)))
        for (power, estimate), values in zip(estimates.items(), nulls, strict=True)
    )
    fluctuations = detrended_fluctuations(rows, order=2, scales=log_spaced(16, length // 4))
    upper, middle = upper_slope(fluctuations), estimates[0.5].value
    halved = detrended_fluctuations(rows, order=2, scales=fluctuations.scales[len(fluctuations.scales) // 2 :])
    apart = difference(halved, estimates[0.5])
    gates = Gates(
        tuple(band.null.above <= ABOVE for band in bands[:-1]),
        tuple(band.fit >= FIT for band in bands[:-1]),
        tuple(band.bend >= STRAIGHT for band in bands[:-2]),
        abs(upper - middle) <= AGREE,
        any(band.null.below <= BELOW for band in bands[:-1]),
        bands[-1].null.above <= ABOVE,
    )
    outcome, mistaken = outcome_of(gates, length), None
    if outcome == "power-law":
        mistaken = mistaken_share((len(rows), length), middle, rng)
        outcome = outcome_of(gates, length, mistaken=mistaken)
    return Verdict(outcome, gates, bands, fluctuations, upper, apart, len(rows), length, n_shuffles, mistaken)


def outcome_of(gates: Gates, length: int, *, shortest: int = SHORTEST, mistaken: float | None = None) -> str:
    """The rule itself, from what its gates say."""
    if gates.below:
        return "below-null"
    if not all(gates.above):
        return "short-memory" if gates.short else "none"
    if not (gates.agree and all(gates.fitted[:2]) and all(gates.straight)):
        return "dependent-not-scaling"
    return "power-law" if gates.fitted[2] and length >= shortest and (mistaken or 0.0) < MISTAKEN else "low-band"


def mistaken_share(
    shape: tuple[int, int],
    hurst: float,
    rng: np.random.Generator,
    *,
    draws: int = RIVALS,
    relaxations: int = RELAXATIONS,
    straight: float = STRAIGHT,
) -> float | None:
    """How often two relaxation times pass as a power law in so many documents of such a length.

    They are white noise, AR(1) of ½ and AR(1) whose relaxation time a document holds ``relaxations`` times; of the
    latter there is so much that local Whittle reads ``hurst`` at T^.5. Asked are fit, straightness (p of :func:`bend`
    at least ``straight``) and agreement; that they are above shuffles is taken for granted. The larger the share, the
    less a power law that passes says. None if there are none that read so much.
    """
    length, slow = shape[1], float(np.exp(-relaxations / shape[1]))
    weight = slow_weight(hurst, length, slow)
    if weight is None:
        return None
    drawn = (pooled(two_relaxations(shape, rng, slow=slow, weight=weight), detrend="none") for _ in range(draws))
    return sum(_passes(rows, straight) for rows in drawn) / draws


def _passes(rows: Float[np.ndarray, "document time"], straight: float) -> bool:
    """Whether documents pass as a power law, shuffles aside; what is cheap is asked first."""
    length, found = rows.shape[1], whole_periodogram(rows)
    for power in POWERS:
        fit, bent = _fit_and_bend(found, bandwidth(length, power))
        if fit < FIT or (power < POWERS[-1] and bent < straight):
            return False
    m = bandwidth(length, 0.5)
    memory, _ = whittle_memory(np.log(found.frequencies[:m]), found.power[:, :m].mean(0)[None])
    upper = upper_slope(detrended_fluctuations(rows, order=2, scales=log_spaced(16, length // 4)))
    return bool(abs(upper - memory[0] - 0.5) <= AGREE)


def slow_weight(hurst: float, length: int, slow: float) -> float | None:
    """How much of the slow relaxation makes local Whittle read ``hurst`` at T^.5, by halving; None if 5 do not."""
    frequencies = 2 * np.pi / length * np.arange(1, bandwidth(length, 0.5) + 1)
    low, high = 0.0, HEAVIEST
    for _ in range(40):
        middle = (low + high) / 2
        spectrum = relaxing_spectrum(frequencies, slow, middle)[None]
        read = whittle_memory(np.log(frequencies), spectrum)[0][0] + 0.5
        low, high = (middle, high) if read < hurst else (low, middle)
    return (low + high) / 2 if high < HEAVIEST else None


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
    return _fit(_relative(found)[1])


def bend(found: Periodogram) -> float:
    """The p, one-sided, of a spectrum that flattens towards low frequencies: a relaxation that ends within documents.

    R, R̄_j, s² and D as in :func:`goodness_of_fit`; q_j is what the square of ``log λ_j`` holds beside a line.
    ``Σ_j q_j R̄_j / √(s² Σ q² / D)`` is standard normal for a power law, below 0 for a relaxation. It asks one thing
    where the fit asks m - 2, so it sees in few documents what that does not.
    """
    return _bend(*_relative(found))


def _relative(found: Periodogram) -> tuple[Float[np.ndarray, " frequency"], Float[np.ndarray, "document frequency"]]:
    """Logarithms of frequencies, and each document's periodogram over the common fit times the document's level."""
    logs, scaled = np.log(found.frequencies), found.power
    n_documents, m = found.power.shape
    at_least("number of documents", n_documents, 2)
    at_least("number of frequencies", m, 4)
    for _ in range(3):
        d = float(whittle_memory(logs, scaled.mean(0)[None])[0][0])
        ratio = scaled / np.exp(-2 * d * (logs - logs.mean()))
        scaled = scaled / ratio.mean(1, keepdims=True)
    d = float(whittle_memory(logs, scaled.mean(0)[None])[0][0])
    return logs, scaled / np.exp(-2 * d * (logs - logs.mean()))


def _fit_and_bend(found: Periodogram, m: int) -> tuple[float, float]:
    logs, ratio = _relative(Periodogram(found.frequencies[:m], found.power[:, :m]))
    return _fit(ratio), _bend(logs, ratio)


def _fit(ratio: Float[np.ndarray, "document frequency"]) -> float:
    mean = ratio.mean(0)
    statistic = len(ratio) / ratio.var(0, ddof=1).mean() * ((mean - mean.mean()) ** 2).sum()
    return float(chi2.sf(statistic, ratio.shape[1] - 2))


def _bend(logs: Float[np.ndarray, " frequency"], ratio: Float[np.ndarray, "document frequency"]) -> float:
    x = logs - logs.mean()
    q = x**2 - (x**2).mean()
    q -= x * (q @ x) / (x @ x)
    spread = ratio.var(0, ddof=1).mean() * (q @ q) / len(ratio)
    return float(ndtr(q @ ratio.mean(0) / np.sqrt(spread)))


def _shuffle_values(
    rows: Float[np.ndarray, "document time"], rng: np.random.Generator, powers: tuple[float, ...], n_shuffles: int
) -> Float[np.ndarray, "power draw"]:
    """Pooled local Whittle of shuffles, at each bandwidth.

    One order is drawn for all documents at a time, so what they share by position stays taken out. One complex
    transform serves two documents: ``|F(x + iy)|²`` at λ and -λ adds up to ``2 (|Fx|² + |Fy|²)``.
    """
    n, sizes = rows.shape[1], [bandwidth(rows.shape[1], power) for power in powers]
    even = np.vstack([rows, np.zeros((len(rows) % 2, n))]).astype(np.float32)
    pairs = np.ascontiguousarray((even[::2] + 1j * even[1::2]).T)
    power = np.empty((n_shuffles, max(sizes)))
    for total in power:
        waves = fft(pairs[rng.permutation(n)], axis=0, overwrite_x=True)
        both = (waves.real**2 + waves.imag**2).sum(1)
        total[:] = both[1 : max(sizes) + 1] + both[: -max(sizes) - 1 : -1]
    logs = np.log(np.arange(1, max(sizes) + 1))
    return np.stack([whittle_memory(logs[:m], power[:, :m])[0] + 0.5 for m in sizes])
