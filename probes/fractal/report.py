"""A report on the memory of documents: a verdict, the exponents behind it, what they read on known processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from nextlens.models.arguments import one_of
from nextlens.probes.fractal.calibration import Calibration, calibrated
from nextlens.probes.fractal.estimate import Estimate
from nextlens.probes.fractal.increments import joseph
from nextlens.probes.fractal.noise import autoregressive, fractional_gaussian_noise
from nextlens.probes.fractal.pooled import pooled
from nextlens.probes.fractal.rescaled_range import anis_lloyd, rescaled_range
from nextlens.probes.fractal.series import Documents, Series, as_documents, log_spaced
from nextlens.probes.fractal.small_ball import fractal_dimension, refuse_lattice, small_ball, standardised
from nextlens.probes.fractal.surrogates import shuffled
from nextlens.probes.fractal.verdict import SHUFFLES, Verdict, gated_verdict
from nextlens.probes.fractal.windows import constant_count

#: Beyond this, two ways of removing trends are two answers, and the careful one concludes.
DISAGREEMENT = 0.05
#: What is read of documents and of references alike.
KINDS = ("S", "H", "J", "J per document")
UNITS = {"nat": 1 / np.log(2), "bit": 1.0}


@dataclass(frozen=True, eq=False)
class FractalReport:
    """What can be said of the memory of documents; there is no one number in it.

    Attributes
    ----------
    verdicts : dict of Verdict
        By how trends were removed, "position" and "amplitude".
    concluded_by : str
        Which of the two concludes: "amplitude" if they differ by more than .05 in H at T^.5.
    estimates : dict of Estimate
        "H" (Anis-Lloyd), "J", "S" and "D" of documents less the mean of each position, at scales from 50 (or a
        fortieth of the length) to a quarter of the length; "J per document" with each document's own mean taken
        out too. Levels that differ by document raise J and S, also those of shuffles; taking them out lowers J.
    references : dict of dict of float
        The same, of fractional Gaussian noise of the H found, of AR(1) of the same first
        autocorrelation, and of shuffles: as many documents of the same length.
    refused : dict of str
        Quantities that could not be read, and why.
    rescaled : Estimate
        Plain R / S at the same scales.
    chart : Calibration
        What it reads on fractional Gaussian noise of that size.
    calibrated_hurst : float
        By that chart; NaN where it lies beyond.
    mean : float
        Of the values as given, in bits (nats are converted).
    n_documents, length, n_documents_dropped, n_values_cut, n_constant_windows : int
        The last counts windows, at the scales read, of one value only before trends were removed.
    """

    verdicts: dict[str, Verdict]
    concluded_by: str
    estimates: dict[str, Estimate]
    references: dict[str, dict[str, float]]
    refused: dict[str, str]
    rescaled: Estimate
    chart: Calibration
    calibrated_hurst: float
    mean: float
    n_documents: int
    length: int
    n_documents_dropped: int
    n_values_cut: int
    n_constant_windows: int

    @property
    def verdict(self) -> Verdict:
        """The one that concludes."""
        return self.verdicts[self.concluded_by]

    def __str__(self) -> str:
        other = next(name for name in self.verdicts if name != self.concluded_by)
        kinds = list(KINDS)
        rows = [
            f"  {name:<34}"
            + "".join(f"{found.get(kind, np.nan):>8.3f}" for kind in kinds[:3])
            + f"{found.get(kinds[3], np.nan):>16.3f}"
            for name, found in self._table()
        ]
        return "\n".join(
            [
                str(self.verdict),
                f"  trends removed by {self.concluded_by}; by {other}: {self.verdicts[other].outcome}",
                f"  R/S {self.rescaled.value:.3f}, calibrated H {self.calibrated_hurst:.3f}",
                "  " + " " * 34 + "".join(f"{kind:>8}" for kind in kinds[:3]) + f"{kinds[3]:>16}",
                *rows,
                *(f"  {estimate}" for estimate in self.estimates.values()),
                *(f"  {quantity} refused: {reason}" for quantity, reason in self.refused.items()),
                f"  {self.n_documents} documents of {self.length} values, mean {self.mean:.4f} bits",
                f"  left out: {self.n_documents_dropped} documents, {self.n_values_cut} values, "
                f"{self.n_constant_windows} constant windows",
            ]
        )

    def _table(self) -> list[tuple[str, dict[str, float]]]:
        own = {kind: estimate.value for kind, estimate in self.estimates.items()}
        return [("these documents", own), *self.references.items()]


def report(
    series: Series | Documents,
    rng: np.random.Generator,
    *,
    unit: str = "nat",
    n_shuffles: int = SHUFFLES,
    calibration_draws: int = 3,
    smoothing: float = 0.0,
) -> FractalReport:
    """A verdict on documents, with all that is needed to disbelieve it.

    Parameters
    ----------
    series : Documents, or (document, time)
        30 or more, each scored whole: a context that begins anew inside a document is read as structure of the
        text. Of unequal lengths, or one long series: :func:`~nextlens.probes.fractal.series.documents` and
        :func:`~nextlens.probes.fractal.series.cut`.
    rng : numpy.random.Generator
        For shuffles and reference processes.
    unit : {"nat", "bit"}
        Of the values.
    n_shuffles : int, default=399
    calibration_draws : int, default=3
        Sets of documents drawn at each H of the chart, 2 or more.
    smoothing : float, default=0
        Of :func:`~nextlens.probes.fractal.small_ball.small_ball`; without it S of few values is refused, and the
        report says so.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.pooled.pooled` and :func:`~nextlens.probes.fractal.verdict.gated_verdict`.
    """
    one_of("unit", unit, UNITS)
    whole = series if isinstance(series, Documents) else Documents(as_documents(series), 0, 0)
    rows, amplitude = pooled(whole.values), pooled(whole.values, detrend="amplitude")
    length = rows.shape[1]
    verdicts = {
        "position": gated_verdict(rows, rng, n_shuffles=n_shuffles),
        "amplitude": gated_verdict(amplitude, rng, n_shuffles=n_shuffles),
    }
    position, careful = (_middle(verdict) for verdict in verdicts.values())
    scales = log_spaced(min(50, length // 40), length // 4)
    kinds, lattice = KINDS, ""
    try:
        refuse_lattice(standardised(whole.values), smoothing)
    except ValueError as reason:
        kinds, lattice = KINDS[1:], str(reason)
    estimates, refused = _exponents(rows, scales, smoothing, kinds)
    if lattice:
        refused["S"] = lattice

    def rescaled(one: Series) -> Estimate:
        return rescaled_range(one, scales=scales)

    plain = rescaled(rows)
    chart = calibrated(rescaled, len(rows), length, rng, draws=calibration_draws)
    return FractalReport(
        verdicts,
        "amplitude" if abs(position - careful) > DISAGREEMENT else "position",
        estimates,
        _references(rows, position, scales, smoothing, kinds, rng),
        refused,
        plain,
        chart,
        chart.hurst(plain.value),
        float(whole.values.mean() * UNITS[unit]),
        len(rows),
        length,
        whole.n_dropped,
        whole.n_values_cut,
        constant_count(whole.values, scales),
    )


def _middle(verdict: Verdict) -> float:
    return next(band.estimate.value for band in verdict.bands if band.power == 0.5)


def _exponents(
    rows: Float[np.ndarray, "document time"], scales: np.ndarray, smoothing: float, kinds: tuple[str, ...]
) -> tuple[dict[str, Estimate], dict[str, str]]:
    found: dict[str, Estimate] = {}
    refused: dict[str, str] = {}
    readers: dict[str, Callable[[], Estimate]] = {
        "S": lambda: small_ball(rows, scales=scales, smoothing=smoothing),
        "H": lambda: anis_lloyd(rows, scales=scales),
        "J": lambda: joseph(rows, scales=scales),
        "J per document": lambda: joseph(rows, scales=scales, centring="document"),
    }
    for quantity in kinds:
        try:
            found[quantity] = readers[quantity]()
        except ValueError as reason:
            refused[quantity] = str(reason)
    if "S" in found:
        found["D"] = fractal_dimension(found["S"])
    return found, refused


def _references(
    rows: Float[np.ndarray, "document time"],
    hurst: float,
    scales: np.ndarray,
    smoothing: float,
    kinds: tuple[str, ...],
    rng: np.random.Generator,
) -> dict[str, dict[str, float]]:
    """The triple of known processes in as many documents of the same length."""
    first = float(np.clip(np.mean(rows[:, 1:] * rows[:, :-1]) / np.mean(rows**2), -0.99, 0.99))
    near = float(np.clip(hurst, 0.01, 0.99))
    known = {
        f"fractional Gaussian noise, H {near:.2f}": fractional_gaussian_noise(rows.shape, near, rng),
        f"AR(1), {first:.2f}": autoregressive(rows.shape, first, rng),
        "shuffled": shuffled(rows, rng),
    }
    return {
        name: {kind: one.value for kind, one in _exponents(noise, scales, smoothing, kinds)[0].items()}
        for name, noise in known.items()
    }
