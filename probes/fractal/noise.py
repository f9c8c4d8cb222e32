"""Processes whose exponents are known: fractional noise and its relatives, drawn exactly where that is possible."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import lfilter
from scipy.special import gamma, ndtr

from nextlens.models.arguments import at_least, between

#: ``time`` or ``(document, time)``.
Shape = int | tuple[int, int]

#: The circle is enlarged so often before an autocovariance is refused.
ENLARGEMENTS = 4
#: Values drawn before the first that is kept, of what does not begin stationary.
BURN_IN = 2000


def gaussian(
    autocovariance: Callable[[Float[np.ndarray, " lag"]], Float[np.ndarray, " lag"]],
    shape: Shape,
    rng: np.random.Generator,
) -> Float[np.ndarray, "*document time"]:
    """A stationary Gaussian series of any autocovariance, exactly, by embedding it in a circle.

    Parameters
    ----------
    autocovariance : callable
        Of lags 0, 1, 2, … as floats.
    shape : int or (int, int)
        ``time`` or ``(document, time)``; documents are independent.

    Raises
    ------
    ValueError
        If no circle up to 16 times as long as the series makes it positive.

    References
    ----------
    Davies and Harte, Biometrika 74, 1987; Dietrich and Newsam, SIAM Journal on Scientific Computing 18, 1997.
    """
    n_documents, n = _shape(shape)
    for doubling in range(ENLARGEMENTS):
        half = next_fast_len(n * 2**doubling, real=True)
        around = autocovariance(np.arange(half + 1, dtype=np.float64))
        eigenvalues = rfft(np.concatenate([around, around[-2:0:-1]])).real
        if eigenvalues.min() > -1e-9 * eigenvalues.max():
            break
    else:
        raise ValueError(f"this autocovariance is not positive on a circle of {2 * half} values; it cannot be drawn so")
    scale = np.sqrt(np.maximum(eigenvalues, 0.0) * half)
    normal = rng.standard_normal((2, n_documents, half + 1))
    waves = scale * (normal[0] + 1j * normal[1])
    waves[:, [0, -1]] = scale[[0, -1]] * normal[0][:, [0, -1]] * 2**0.5
    return _like(irfft(waves, 2 * half, axis=1)[:, :n], shape)


def fractional_gaussian_noise(
    shape: Shape, hurst: float, rng: np.random.Generator
) -> Float[np.ndarray, "*document time"]:
    """Increments of fractional Brownian motion: variance 1, ``γ_k = ½ (|k+1|^2H - 2 |k|^2H + |k-1|^2H)``.

    Mandelbrot and Van Ness, SIAM Review 10, 1968. The circle is exact at every H in (0, 1).
    """
    if not 0 < hurst < 1:
        raise ValueError(f"hurst={hurst!r} must lie between 0 and 1")
    power = 2 * hurst
    return gaussian(lambda k: 0.5 * ((k + 1) ** power - 2 * k**power + np.abs(k - 1) ** power), shape, rng)


def arfima(
    shape: Shape, memory: float, rng: np.random.Generator, *, phi: float = 0.0
) -> Float[np.ndarray, "*document time"]:
    """ARFIMA(1, d, 0): ``(1 - phi L) x`` is fractional noise of memory d, of innovations of variance 1; H = d + ½.

    Exact at ``phi = 0``; otherwise filtered from 2000 values before the first. Hosking, Biometrika 68, 1981.
    """
    if not -0.5 < memory < 0.5:
        raise ValueError(f"memory={memory!r} must lie between -0.5 and 0.5")
    _refuse_explosive(phi)

    def autocovariance(k: Float[np.ndarray, " lag"]) -> Float[np.ndarray, " lag"]:
        steps = (k[1:] - 1 + memory) / (k[1:] - memory)
        return gamma(1 - 2 * memory) / gamma(1 - memory) ** 2 * np.concatenate([[1.0], np.cumprod(steps)])

    if phi == 0:
        return gaussian(autocovariance, shape, rng)
    n_documents, n = _shape(shape)
    driven = lfilter([1.0], [1.0, -phi], gaussian(autocovariance, (n_documents, n + BURN_IN), rng), axis=1)
    return _like(driven[:, BURN_IN:], shape)


def autoregressive(shape: Shape, phi: float, rng: np.random.Generator) -> Float[np.ndarray, "*document time"]:
    """AR(1), stationary from its first value, variance 1, correlation ``phi^k``: H = ½, however long it looks."""
    _refuse_explosive(phi)
    n_documents, n = _shape(shape)
    steps = rng.standard_normal((n_documents, n)) * np.sqrt(1 - phi**2)
    steps[:, 0] /= np.sqrt(1 - phi**2)
    return _like(lfilter([1.0], [1.0, -phi], steps, axis=1), shape)


def cauchy(
    shape: Shape, alpha: float, beta: float, rng: np.random.Generator, *, scale: float = 1.0
) -> Float[np.ndarray, "*document time"]:
    """Gaussian of correlation ``(1 + |k / scale|^alpha)^(-beta / alpha)``.

    H = 1 - beta / 2; the dimension of its own graph is 2 - alpha / 2. The two are free of one another.

    Gneiting and Schlather, SIAM Review 46, 2004.
    """
    between("alpha", alpha, np.finfo(float).tiny, 2)
    for name, value in (("beta", beta), ("scale", scale)):
        if not value > 0:
            raise ValueError(f"{name}={value!r} must be above 0")
    return gaussian(lambda k: (1 + (k / scale) ** alpha) ** (-beta / alpha), shape, rng)


def multifractal_walk(
    shape: Shape, intermittency: float, rng: np.random.Generator, *, longest: float = 1024.0
) -> Float[np.ndarray, "*document time"]:
    """Increments of the multifractal random walk: ``ε e^ω``, H = ½ and ``ζ(q) = q / 2 - λ² q (q - 2) / 2``.

    ω is Gaussian of covariance ``λ² log(longest / (1 + k))`` below ``longest``, λ² the intermittency, and of
    such a mean that the variance is 1. Uncorrelated, yet of long memory in its absolute values.

    Bacry, Delour and Muzy, Physical Review E 64, 2001.
    """
    if not 0 < intermittency < 0.25:
        raise ValueError(f"intermittency={intermittency!r} must lie between 0 and 0.25")
    at_least("longest", longest, 2)

    def covariance(k: Float[np.ndarray, " lag"]) -> Float[np.ndarray, " lag"]:
        return intermittency * np.log(np.maximum(longest / (1 + k), 1.0))

    logs = gaussian(covariance, shape, rng) - intermittency * np.log(longest)
    return rng.standard_normal(logs.shape) * np.exp(logs)


def pareto_on_off(
    shape: Shape,
    rng: np.random.Generator,
    *,
    levels: tuple[float, float] = (np.log(2.0), np.log(32.0)),
    alpha: float = 1.6,
    shortest: int = 8,
) -> Float[np.ndarray, "*document time"]:
    """Two levels in turn, each for a Pareto number of values: H = (3 - alpha) / 2.

    ``P(duration > u) = (shortest / u)^alpha``, rounded up. Taqqu, Willinger and Sherman, Computer
    Communication Review 27, 1997. Each document begins after as many values as it has.
    """
    if not 1 < alpha < 2:
        raise ValueError(f"alpha={alpha!r} must lie between 1 and 2")
    n_documents, n = _shape(shape)
    rows = np.empty((n_documents, n))
    for row in rows:
        count = 2 * n // shortest + 2
        durations = np.ceil(shortest * rng.random(count) ** (-1 / alpha)).astype(np.int64)
        ends = np.cumsum(np.minimum(durations, 2 * n))
        at = np.searchsorted(ends, np.arange(n, 2 * n), side="right")
        row[:] = np.asarray(levels)[(at + rng.integers(2)) % 2]
    return _like(rows, shape)


def exponential(noise: Float[np.ndarray, "*document time"]) -> Float[np.ndarray, "*document time"]:
    """Standard normal values made exponential, ``-log(1 - Φ(g))``, rank for rank: the shape of surprisal."""
    return -np.log(ndtr(-noise))


def _refuse_explosive(phi: float) -> None:
    if not -1 < phi < 1:
        raise ValueError(f"phi={phi!r} must lie between -1 and 1; beyond, nothing is stationary")


def _shape(shape: Shape) -> tuple[int, int]:
    n_documents, n = (1, shape) if isinstance(shape, int) else shape
    at_least("number of documents", n_documents, 1)
    at_least("length", n, 2)
    return n_documents, n


def _like(rows: Float[np.ndarray, "document time"], shape: Shape) -> Float[np.ndarray, "*document time"]:
    return rows[0] if isinstance(shape, int) else rows
