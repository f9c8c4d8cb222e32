"""Documents that fool an exponent: trends, levels, windows, questions, two relaxation times. Their H is known."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from nextlens.models.arguments import at_least
from nextlens.probes.fractal.noise import autoregressive, exponential, fractional_gaussian_noise

#: The quick one of two relaxation times, as AR(1), and how much of it there is beside white noise of one.
QUICK, QUICK_WEIGHT = 0.5, 0.6


def learning_curve(
    shape: tuple[int, int], rng: np.random.Generator, *, time: float = 300.0, varying: bool = False
) -> Float[np.ndarray, "document time"]:
    """Independent exponential values plus ``A e^(-t / time)``: what context teaches, and no memory (H = ½).

    A is 1, or with ``varying`` exponential and of each document, which removing the mean of each position
    does not undo.
    """
    size = rng.standard_exponential((shape[0], 1)) if varying else 1.0
    return rng.standard_exponential(shape) + size * np.exp(-np.arange(shape[1]) / time)


def offsets(
    shape: tuple[int, int], rng: np.random.Generator, *, deviation: float = 0.3
) -> Float[np.ndarray, "document time"]:
    """Independent exponential values plus a normal level of each document (H = ½): documents differ in difficulty."""
    return rng.standard_exponential(shape) + deviation * rng.standard_normal((shape[0], 1))


def scaled(
    rows: Float[np.ndarray, "document time"], rng: np.random.Generator, *, deviation: float = 0.5
) -> Float[np.ndarray, "document time"]:
    """Each document times a log-normal size of its own; no exponent changes."""
    return rows * np.exp(deviation * rng.standard_normal((len(rows), 1)))


def questions(
    shape: tuple[int, int], rng: np.random.Generator, *, shortest: int = 20, longest: int = 59
) -> Float[np.ndarray, "document time"]:
    """Documents that are strings of independent questions: no memory beyond one, and H reads below ½.

    The length of a question is uniform; exponential values, times 1.5 in the first 60 % of it and .4 after.
    Nearly every stretch of a few questions holds the same of both, so sums vary less than independent ones.
    """
    at_least("longest", longest, shortest)
    sizes = np.empty(shape)
    for row in sizes:
        lengths = rng.integers(shortest, longest + 1, size=shape[1] // shortest + 2)
        starts = np.cumsum(lengths) - lengths
        begun = np.searchsorted(starts, np.arange(shape[1]), side="right") - 1
        share = (np.arange(shape[1]) - starts[begun]) / lengths[begun]
        row[:] = np.where(share < 0.6, 1.5, 0.4)
    return sizes * rng.standard_exponential(shape)


def window_resets(
    shape: tuple[int, int], rng: np.random.Generator, *, window: int = 256, random_phase: bool = True
) -> Float[np.ndarray, "document time"]:
    """What scoring in disjoint windows adds (H = ½): exponential values plus ``1.5 e^(-5 (t mod window) / window)``.

    The context begins anew at every window. With ``random_phase`` windows begin anywhere in a document.
    """
    at_least("window", window, 2)
    phase = rng.integers(window, size=(shape[0], 1)) if random_phase else 0
    since = (np.arange(shape[1]) + phase) % window
    return rng.standard_exponential(shape) + 1.5 * np.exp(-5 * since / window)


def two_relaxations(
    shape: tuple[int, int], rng: np.random.Generator, *, slow: float = 0.97, weight: float = 0.5
) -> Float[np.ndarray, "document time"]:
    """White noise plus .6 of AR(1) of ½ plus ``weight`` of AR(1) of ``slow`` (H = ½).

    The slow one relaxes in ``-1 / log(slow)`` values, 33 by default. Straight over a decade, and no power law.
    """
    relaxing = autoregressive(shape, QUICK, rng), autoregressive(shape, slow, rng)
    return rng.standard_normal(shape) + QUICK_WEIGHT * relaxing[0] + weight * relaxing[1]


def relaxing_spectrum(
    frequencies: Float[np.ndarray, " frequency"], slow: float, weight: float
) -> Float[np.ndarray, " frequency"]:
    """The spectral density of :func:`two_relaxations`, times 2π; frequencies in radians per value."""
    quick, long = ((1 - phi**2) / (1 - 2 * phi * np.cos(frequencies) + phi**2) for phi in (QUICK, slow))
    return 1 + QUICK_WEIGHT**2 * quick + weight**2 * long


def exponential_fractional(
    shape: tuple[int, int], hurst: float, rng: np.random.Generator
) -> Float[np.ndarray, "document time"]:
    """Fractional Gaussian noise with exponential values: true long memory in the shape of surprisal."""
    return exponential(fractional_gaussian_noise(shape, hurst, rng))
