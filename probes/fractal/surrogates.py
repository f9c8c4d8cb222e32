"""Series that share part of what a series is: its values, or its values and spectrum, and nothing else."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.fft import irfft, rfft

from nextlens.probes.fractal.series import Series, as_documents


def shuffled(series: Series, rng: np.random.Generator) -> Float[np.ndarray, "*document time"]:
    """Values in random order within each document: the same marginal and level, no dependence."""
    return _like(rng.permuted(as_documents(series), axis=1), series)


def phase_randomised(series: Series, rng: np.random.Generator) -> Float[np.ndarray, "*document time"]:
    """The same periodogram at every frequency, random phases: all that is linear and Gaussian is kept.

    An exponent of the series must be that of these; what is lost is what no correlation says, such as
    intermittency.

    Theiler and others, Physica D 58, 1992.
    """
    rows = as_documents(series)
    n = rows.shape[1]
    waves = rfft(rows, axis=1)
    turned = waves * np.exp(2j * np.pi * rng.random(waves.shape))
    turned[:, 0] = waves[:, 0]
    if n % 2 == 0:
        turned[:, -1] = waves[:, -1]
    return _like(irfft(turned, n, axis=1), series)


def _like(rows: Float[np.ndarray, "document time"], series: Series) -> Float[np.ndarray, "*document time"]:
    return rows[0] if np.ndim(series) == 1 else rows
