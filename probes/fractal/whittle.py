"""The full Whittle likelihood of fractional Gaussian noise, at every frequency."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.special import zeta

from nextlens.probes.fractal.estimate import Estimate, Line, Parts, jackknife
from nextlens.probes.fractal.series import Series
from nextlens.probes.fractal.spectral import periodogram

#: Where H is sought.
LEAST, MOST = 0.01, 0.99
#: Degree of the polynomial in λ² that stands for all aliases but the first.
DEGREE = 14


def full_whittle(series: Series) -> Estimate:
    """H by the profile Whittle likelihood of fractional Gaussian noise over all frequencies.

    ``H = argmin log mean(I / f_H) + mean log f_H``, f from :func:`noise_spectrum`, H in (.01, .99). The
    most precise estimator of that one process and the worst of any other: on short memory it runs to its
    bound, which ``at_bound`` then says. No default for surprisal.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.as_documents`.

    References
    ----------
    Whittle, Arkiv för Matematik 2, 1953; Fox and Taqqu, Annals of Statistics 14, 1986. The interval of a single
    series is from the likelihood's curvature, of documents from leaving each out.
    """
    frequencies, power = periodogram(series)
    value = _best(frequencies, power.mean(0))
    spectrum = noise_spectrum(frequencies, value)
    ratio = power.mean(0) / spectrum
    level = float(np.log(ratio.mean()))
    if len(power) > 1:
        parts = Parts(
            power, np.ones_like(power), lambda means: np.array([_best(frequencies, one) for one in means]), "document"
        )
        interval, by = jackknife(parts, value)
    else:
        parts, half = None, 1.96 * _deviation(frequencies, value)
        interval, by = (value - half, value + half), "curvature of the likelihood"
    misfit = np.log(np.maximum(ratio, np.finfo(float).tiny)) - level
    return Estimate(
        "H",
        "full Whittle, fractional Gaussian noise",
        value,
        interval,
        by,
        frequencies,
        power.mean(0),
        Line(1 - 2 * value, level, float(np.sqrt(np.mean(misfit**2)))),
        -0.5,
        0.5,
        parts,
        at_bound=not LEAST + 1e-3 < value < MOST - 1e-3,
        note="a model of one process: not a line, and at a bound off it",
    )


def noise_spectrum(frequencies: Float[np.ndarray, " frequency"], hurst: float) -> Float[np.ndarray, " frequency"]:
    """The spectral density of fractional Gaussian noise, up to a factor that depends on H alone.

    ``2 (1 - cos λ) Σ_j |λ + 2πj|^{-2H-1}`` over all whole j. All but j = 0 together are Hurwitz's zeta
    function, smooth in λ, for which a polynomial through Chebyshev's points stands (to 1e-12).

    Sinai, Theory of Probability and its Applications 21, 1976.
    """
    exponent = 2 * hurst + 1
    around = np.polynomial.chebyshev.chebinterpolate(lambda x: _aliases((x + 1) / 2, exponent), DEGREE)
    smooth = np.polynomial.Polynomial(np.polynomial.chebyshev.cheb2poly(around))(2 * (frequencies / np.pi) ** 2 - 1)
    return 2 * (1 - np.cos(frequencies)) * (np.exp(-exponent * np.log(frequencies)) + smooth)


def _aliases(squares: Float[np.ndarray, " point"], exponent: float) -> Float[np.ndarray, " point"]:
    """``Σ_{j≠0} |λ + 2πj|^{-exponent}`` at ``λ = π √squares``."""
    share = np.sqrt(squares) / 2
    return (2 * np.pi) ** -exponent * (zeta(exponent, 1 + share) + zeta(exponent, 1 - share))


def _best(frequencies: Float[np.ndarray, " frequency"], power: Float[np.ndarray, " frequency"]) -> float:
    def loss(hurst: float) -> float:
        spectrum = noise_spectrum(frequencies, hurst)
        return float(np.log(np.mean(power / spectrum)) + np.mean(np.log(spectrum)))

    return float(minimize_scalar(loss, bounds=(LEAST, MOST), method="bounded", options={"xatol": 1e-5}).x)


def _deviation(frequencies: Float[np.ndarray, " frequency"], hurst: float) -> float:
    """``1 / √(Σ (d log f / dH - its mean)²)`` over the frequencies."""
    step = 1e-3
    above, below = (np.log(noise_spectrum(frequencies, hurst + sign * step)) for sign in (1, -1))
    slope = (above - below) / (2 * step)
    return float(1 / np.sqrt(((slope - slope.mean()) ** 2).sum()))
