"""What an estimator reads at a finite length: on shuffles of the data, and on noise of known H."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from nextlens.models.arguments import at_least
from nextlens.probes.fractal.estimate import Estimate
from nextlens.probes.fractal.noise import fractional_gaussian_noise
from nextlens.probes.fractal.series import Series, as_documents
from nextlens.probes.fractal.surrogates import shuffled

#: Known exponents at which an estimator is read.
GRID = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, eq=False)
class Null:
    """An estimator on surrogates of a series: its values, their mean and spread, and where the series lies.

    Attributes
    ----------
    values : Float[np.ndarray, " draw"]
    mean, standard_deviation : float
    observed : float
    above, below : float
        ``(1 + number of surrogates at least (at most) as large) / (1 + draws)``.
    """

    values: Float[np.ndarray, " draw"]
    mean: float
    standard_deviation: float
    observed: float
    above: float
    below: float


def null(
    estimator: Callable[[Series], Estimate],
    series: Series,
    rng: np.random.Generator,
    *,
    draws: int = 99,
    surrogate: Callable[[Series, np.random.Generator], Series] = shuffled,
) -> Null:
    """An estimator on the series and on surrogates of it, by default shuffles within documents.

    The null of an exponent is what this says at the length and the scales of the data; ½ only in the limit.

    Raises
    ------
    ValueError
        If there are fewer than 19 draws; whatever the estimator refuses.
    """
    at_least("draws", draws, 19)
    observed = estimator(series).value
    return against(np.array([estimator(surrogate(series, rng)).value for _ in range(draws)]), observed)


def against(values: Float[np.ndarray, " draw"], observed: float) -> Null:
    """Where an observed value lies among those of surrogates."""
    draws = len(values)
    above, below = (
        (1 + int((values >= observed).sum())) / (1 + draws),
        (1 + int((values <= observed).sum())) / (1 + draws),
    )
    return Null(values, float(values.mean()), float(values.std(ddof=1)), observed, above, below)


@dataclass(frozen=True, eq=False)
class Calibration:
    """What an estimator reads on fractional Gaussian noise, against its H.

    Attributes
    ----------
    true, read, deviation : Float[np.ndarray, " point"]
        H, the mean reading, and the standard deviation of one reading.
    n_documents, length : int
    """

    true: Float[np.ndarray, " point"]
    read: Float[np.ndarray, " point"]
    deviation: Float[np.ndarray, " point"]
    n_documents: int
    length: int

    def hurst(self, reading: float) -> float:
        """The H of fractional Gaussian noise that would be read so; NaN beyond what was calibrated.

        Linear between points. A reading is corrected for its finite length, not for a process of another kind.
        """
        rising = np.maximum.accumulate(self.read)
        return float(np.interp(reading, rising, self.true, left=np.nan, right=np.nan))


def calibrated(
    estimator: Callable[[Series], Estimate],
    n_documents: int,
    length: int,
    rng: np.random.Generator,
    *,
    grid: Sequence[float] = GRID,
    draws: int = 4,
) -> Calibration:
    """Read an estimator on fractional Gaussian noise of every H in ``grid``, in so many documents of that length.

    Raises
    ------
    ValueError
        If there are fewer than 2 draws or the grid is not increasing; whatever the estimator refuses.
    """
    at_least("draws", draws, 2)
    true = np.asarray(grid, dtype=np.float64)
    if len(true) < 2 or (np.diff(true) <= 0).any():
        raise ValueError(f"grid={grid!r} must hold at least two increasing values of H")
    shape = (n_documents, length) if n_documents > 1 else length
    readings = np.array(
        [
            [estimator(fractional_gaussian_noise(shape, hurst, rng)).value for _ in range(draws)]
            for hurst in true.tolist()
        ]
    )
    return Calibration(true, readings.mean(1), readings.std(1, ddof=1), n_documents, length)


def calibrated_hurst(
    estimator: Callable[[Series], Estimate], series: Series, rng: np.random.Generator, *, draws: int = 4
) -> tuple[float, Calibration]:
    """The estimate of a series corrected for its number of documents and length, and the map by which."""
    rows = as_documents(series)
    chart = calibrated(estimator, len(rows), rows.shape[1], rng, draws=draws)
    return chart.hurst(estimator(series).value), chart
