"""Fractal exponents of a series or of documents: estimates with their fits, nulls, and a verdict.

Every estimator takes ``(time,)`` or ``(document, time)`` and returns an :class:`Estimate`; :func:`report` says
what may be concluded from all of them.
"""

from nextlens.probes.fractal.adversaries import (
    exponential_fractional,
    learning_curve,
    offsets,
    questions,
    scaled,
    two_relaxations,
    window_resets,
)
from nextlens.probes.fractal.calibration import Calibration, Null, calibrated, calibrated_hurst, null
from nextlens.probes.fractal.detrended import detrended_fluctuations
from nextlens.probes.fractal.estimate import Estimate, Line, Resampled, bootstrap, by_group, difference, local_slopes
from nextlens.probes.fractal.increments import (
    aggregated_variance,
    higuchi,
    joseph,
    structure_function,
    structure_functions,
)
from nextlens.probes.fractal.noise import (
    arfima,
    autoregressive,
    cauchy,
    exponential,
    fractional_gaussian_noise,
    gaussian,
    multifractal_walk,
    pareto_on_off,
)
from nextlens.probes.fractal.paper2024 import NOTEBOOK, TEXT, Protocol, Published, paper2024
from nextlens.probes.fractal.pooled import bandwidth_sweep, pooled
from nextlens.probes.fractal.report import FractalReport, report
from nextlens.probes.fractal.rescaled_range import anis_lloyd, expected_rescaled_range, rescaled_range
from nextlens.probes.fractal.series import Documents, cut, documents, log_spaced
from nextlens.probes.fractal.small_ball import fractal_dimension, small_ball
from nextlens.probes.fractal.spectral import bandwidth, geweke_porter_hudak, local_whittle, periodogram
from nextlens.probes.fractal.surrogates import phase_randomised, shuffled
from nextlens.probes.fractal.verdict import Verdict, gated_verdict, goodness_of_fit
from nextlens.probes.fractal.wavelet import abry_veitch
from nextlens.probes.fractal.whittle import full_whittle

__all__ = [
    "NOTEBOOK",
    "TEXT",
    "Calibration",
    "Documents",
    "Estimate",
    "FractalReport",
    "Line",
    "Null",
    "Protocol",
    "Published",
    "Resampled",
    "Verdict",
    "abry_veitch",
    "aggregated_variance",
    "anis_lloyd",
    "arfima",
    "autoregressive",
    "bandwidth",
    "bandwidth_sweep",
    "bootstrap",
    "by_group",
    "calibrated",
    "calibrated_hurst",
    "cauchy",
    "cut",
    "detrended_fluctuations",
    "difference",
    "documents",
    "expected_rescaled_range",
    "exponential",
    "exponential_fractional",
    "fractal_dimension",
    "fractional_gaussian_noise",
    "full_whittle",
    "gated_verdict",
    "gaussian",
    "geweke_porter_hudak",
    "goodness_of_fit",
    "higuchi",
    "joseph",
    "learning_curve",
    "local_slopes",
    "local_whittle",
    "log_spaced",
    "multifractal_walk",
    "null",
    "offsets",
    "paper2024",
    "pareto_on_off",
    "periodogram",
    "phase_randomised",
    "pooled",
    "questions",
    "report",
    "rescaled_range",
    "scaled",
    "shuffled",
    "small_ball",
    "structure_function",
    "structure_functions",
    "two_relaxations",
    "window_resets",
]
