"""An estimate: a number, how sure it is, the scales it was read at and the line through them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Float, Num, Shaped
from scipy.special import stdtrit

from nextlens.models.arguments import at_least


@dataclass(frozen=True)
class Line:
    """``log(fluctuation) = intercept + slope · log(scale)``, and its root mean square residual."""

    slope: float
    intercept: float
    residual: float


@dataclass(frozen=True, eq=False)
class Parts:
    """Sums and counts by unit, a document or a stretch of one series: what can be resampled.

    The estimate of any choice of units is ``refit(Σ sums / Σ counts)``, so a resample costs a product of
    matrices and no second look at the series.

    Attributes
    ----------
    sums, counts : Float[np.ndarray, "unit scale"]
    refit : callable
        From means of shape (draw, scale) to values of shape (draw,).
    unit : str
        "document" or "stretch".
    """

    sums: Float[np.ndarray, "unit scale"]
    counts: Float[np.ndarray, "unit scale"]
    refit: Callable[[Float[np.ndarray, "draw scale"]], Float[np.ndarray, " draw"]]
    unit: str

    def means(self, times: Float[np.ndarray, "draw unit"]) -> Float[np.ndarray, "draw scale"]:
        """Means over units, each taken as often as ``times`` says."""
        return (times @ self.sums) / (times @ self.counts)


@dataclass(frozen=True, eq=False)
class Estimate:
    """An exponent, never without what it was read off.

    Attributes
    ----------
    quantity : str
        "H", "S", "J", "D" or "zeta".
    estimator : str
        By which one, in words.
    value : float
    interval : tuple of float
        95 %.
    interval_by : str
        How the interval was found.
    scales : Shaped[np.ndarray, " scale"]
        Window lengths or lags in values; of a spectral estimator frequencies in radians per value.
    fluctuations : Float[np.ndarray, " scale"]
        What was measured at each.
    fit : Line
        In natural logarithms.
    factor, shift : float
        ``value = shift + factor · fit.slope`` for a plain fit of a line.
    parts : Parts or None
        What :func:`bootstrap` draws from; None where nothing can be.
    n_constant_windows : int
        Windows of one value only, left out.
    at_bound : bool
        Whether the search ended at the end of its range: no estimate then.
    note : str
        What a reader must know, such as that a number is derived.
    """

    quantity: str
    estimator: str
    value: float
    interval: tuple[float, float]
    interval_by: str
    scales: Shaped[np.ndarray, " scale"]
    fluctuations: Float[np.ndarray, " scale"]
    fit: Line
    factor: float = 1.0
    shift: float = 0.0
    parts: Parts | None = field(default=None, repr=False)
    n_constant_windows: int = 0
    at_bound: bool = False
    note: str = ""

    def __str__(self) -> str:
        low, high = self.interval
        more = "".join(
            f"; {words}"
            for words, said in (
                (f"{self.n_constant_windows} constant windows left out", self.n_constant_windows),
                ("AT THE END OF ITS RANGE", self.at_bound),
                (self.note, self.note),
            )
            if said
        )
        return (
            f"{self.quantity} = {self.value:.3f} [{low:.3f}, {high:.3f}] ({self.estimator}; {len(self.scales)} scales "
            f"{self.scales[0]:.4g} to {self.scales[-1]:.4g}; interval by {self.interval_by}{more})"
        )


def line(
    x: Float[np.ndarray, " scale"], y: Float[np.ndarray, "draw scale"]
) -> tuple[Float[np.ndarray, " draw"], Float[np.ndarray, " draw"]]:
    """Slopes and intercepts of least squares of each row of ``y`` on ``x``."""
    middle = x.sum() / len(x)
    centred = x - middle
    slope = (y @ centred) / (centred @ centred)
    return slope, y.sum(-1) / len(x) - slope * middle


def line_of(scales: Shaped[np.ndarray, " scale"], fluctuations: Float[np.ndarray, " scale"]) -> Line:
    """The line through the logarithms of both."""
    x, y = np.log(scales), np.log(fluctuations)
    (slope,), (intercept,) = line(x, y[None])
    residual = y - intercept - slope * x
    return Line(float(slope), float(intercept), float(np.sqrt(residual @ residual / len(x))))


def power_law(
    quantity: str,
    estimator: str,
    scales: Num[np.ndarray, " scale"],
    sums: Float[np.ndarray, "unit scale"],
    counts: Float[np.ndarray, "unit scale"],
    *,
    unit: str,
    factor: float = 1.0,
    shift: float = 0.0,
    n_constant_windows: int = 0,
    note: str = "",
) -> Estimate:
    """An estimate by ordinary least squares of logarithms, its interval by :func:`jackknife` over units."""
    parts = Parts(sums, counts, partial(_slopes, np.log(scales), factor, shift), unit)
    fluctuations = sums.sum(0) / counts.sum(0)
    fit = line_of(scales, fluctuations)
    value = shift + factor * fit.slope
    interval, by = jackknife(parts, value)
    return Estimate(
        quantity,
        estimator,
        value,
        interval,
        by,
        scales,
        fluctuations,
        fit,
        factor,
        shift,
        parts,
        n_constant_windows,
        note=note,
    )


def jackknife(parts: Parts, value: float) -> tuple[tuple[float, float], str]:
    """``value ± t · s`` with ``s² = (g - 1) / g · Σ (value without unit i - their mean)²``, and how it is called.

    Student's t of ``g - 1`` degrees. Of stretches of one series, which are neighbours, it is a little
    too narrow when memory is long. Nothing can be left out of one unit: the interval is then everything.

    Tukey, "Bias and confidence in not quite large samples", Annals of Mathematical Statistics 29, 1958.
    """
    g = len(parts.sums)
    if g < 2:
        return (-np.inf, np.inf), f"nothing: one {parts.unit} only"
    without = _without_each(parts)
    if without is None:
        return (-np.inf, np.inf), f"nothing: without one {parts.unit} a scale is empty"
    half = _half_width(without)
    plural = {"document": "documents", "stretch": "stretches", "group": "groups"}[parts.unit]
    return (value - half, value + half), f"jackknife over {g} {plural}"


def by_group(estimate: Estimate, group: Sequence[Hashable]) -> tuple[tuple[float, float], str]:
    """The interval by :func:`jackknife` over groups of documents, such as the books that stretches are of.

    Stretches of one book are alike, so an interval over stretches holds for those books alone.

    Parameters
    ----------
    group : sequence
        Of every document.

    Raises
    ------
    ValueError
        If the estimate is not of documents, or there are not as many groups named as documents.
    """
    return jackknife(_merged(estimate, group), estimate.value)


def difference(
    one: Estimate, other: Estimate, *, group: Sequence[Hashable] | None = None
) -> tuple[float, tuple[float, float]]:
    """``one - other`` of two readings of the same documents, with a 95 % interval that leaves out the same of both.

    Parameters
    ----------
    group : sequence, optional
        Of every document: whole groups are left out.

    Raises
    ------
    ValueError
        As :func:`by_group`; or if the estimates are of different numbers of documents.
    """
    value = one.value - other.value
    pair = [_merged(estimate, group) for estimate in (one, other)]
    if len(pair[0].sums) != len(pair[1].sums):
        raise ValueError(f"one is of {len(pair[0].sums)} documents and other of {len(pair[1].sums)}; they must agree")
    left = [_without_each(parts) for parts in pair]
    if len(pair[0].sums) < 2 or left[0] is None or left[1] is None:
        return value, (-np.inf, np.inf)
    half = _half_width(left[0] - left[1])
    return value, (value - half, value + half)


def _merged(estimate: Estimate, group: Sequence[Hashable] | None) -> Parts:
    parts = estimate.parts
    if parts is None or parts.unit != "document":
        raise ValueError(f"{estimate.estimator} was not of documents; there is nothing to group")
    if group is None:
        return parts
    if len(group) != len(parts.sums):
        raise ValueError(f"group names {len(group)} documents; the estimate is of {len(parts.sums)}")
    names = list(dict.fromkeys(group))
    member = np.array([[one == name for one in group] for name in names], dtype=np.float64)
    return Parts(member @ parts.sums, member @ parts.counts, parts.refit, "group")


def _without_each(parts: Parts) -> Float[np.ndarray, " unit"] | None:
    """Estimates with one unit left out at a time; None if a scale is then empty."""
    left = (parts.sums.sum(0) - parts.sums) / (parts.counts.sum(0) - parts.counts)
    return parts.refit(left) if (left > 0).all() else None


def _half_width(without: Float[np.ndarray, " unit"]) -> float:
    g, apart = len(without), without - without.sum() / len(without)
    return float(stdtrit(g - 1, 0.975) * np.sqrt((g - 1) / g * (apart @ apart)))


@dataclass(frozen=True, eq=False)
class Resampled:
    """Estimates of resampled documents or stretches, their 95 % interval by percentiles, and their spread."""

    values: Float[np.ndarray, " draw"]
    interval: tuple[float, float]
    standard_deviation: float


def bootstrap(estimate: Estimate, rng: np.random.Generator, *, draws: int = 400) -> Resampled:
    """Draw documents (or stretches of one series) with replacement, as many as there are, and estimate anew.

    Every draw is a resample of the units that the estimate was made of: neither the whole of them each
    time, nor single values, which would destroy the dependence that is measured.

    Künsch, Annals of Statistics 17, 1989, for stretches.

    Raises
    ------
    ValueError
        If the estimate is of one unit only, or draws are fewer than 100.
    """
    at_least("draws", draws, 100)
    if estimate.parts is None or len(estimate.parts.sums) < 2:
        raise ValueError(
            f"{estimate.estimator} read one series whole; nothing can be drawn anew: give documents, or see .interval"
        )
    g = len(estimate.parts.sums)
    times = rng.multinomial(g, np.full(g, 1 / g), size=draws).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = estimate.parts.refit(estimate.parts.means(times))
    values = values[np.isfinite(values)]
    if len(values) < 0.99 * draws:
        raise ValueError(
            f"only {len(values)} of {draws} draws hold something at every scale; take fewer or larger scales"
        )
    low, high = np.quantile(values, (0.025, 0.975))
    return Resampled(values, (float(low), float(high)), float(values.std(ddof=1)))


def local_slopes(estimate: Estimate) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, " step"]]:
    """The exponent between each scale and the next, and the scale half-way in logarithm.

    A power law has one exponent at all scales. Short memory falls towards ½ as scales grow, so one number
    fitted across it is a number of the scales that were chosen.
    """
    x, y = np.log(estimate.scales), np.log(estimate.fluctuations)
    return np.exp((x[1:] + x[:-1]) / 2), estimate.shift + estimate.factor * np.diff(y) / np.diff(x)


def _slopes(
    x: Float[np.ndarray, " scale"], factor: float, shift: float, means: Float[np.ndarray, "draw scale"]
) -> Float[np.ndarray, " draw"]:
    return shift + factor * line(x, np.log(means))[0]
