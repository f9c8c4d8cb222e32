"""Detrended fluctuation analysis: what windows of the profile hold beside a polynomial."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import between
from nextlens.probes.fractal.estimate import Estimate, power_law
from nextlens.probes.fractal.series import Series, as_documents, chosen_scales
from nextlens.probes.fractal.windows import summed, units, windows


def detrended_fluctuations(
    series: Series,
    *,
    order: int = 2,
    scales: Sequence[int] | Int[np.ndarray, " scale"] | None = None,
    from_both_ends: bool = True,
) -> Estimate:
    """H by detrended fluctuation analysis, DFA-``order``.

    Windows of n values of the profile ``cumsum(x - mean)``, less their own polynomial of degree ``order``;
    half the slope of the mean square on n. A trend in ``x`` of degree ``order - 1`` changes nothing.
    Above 1 it is no Hurst exponent of a stationary series.

    Parameters
    ----------
    series : (time,) or (document, time)
        Mean squares are averaged over windows and documents before the logarithm.
    order : int, default=2
        1 to 5.
    scales : whole numbers, default twelve from 16 to length // 8
    from_both_ends : bool, default=True
        Lay the windows from the beginning and again from the end, so that no value is left out.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.as_documents`; if the series is too short for the scales,
        or a scale holds no more values than the polynomial has coefficients.

    References
    ----------
    Peng and others, Physical Review E 49, 1994; Kantelhardt and others, Physica A 295, 2001.
    """
    between("order", order, 1, 5)
    rows = as_documents(series)
    length = rows.shape[1]
    chosen = chosen_scales(scales, length, low=16, share=8, most=1 if len(rows) > 1 else 2)
    if chosen[0] < order + 2:
        raise ValueError(f"scales begin at {chosen[0]}; windows less a polynomial of degree {order} need {order + 2}")
    profile = np.cumsum(rows - rows.mean(1, keepdims=True), axis=1)
    n_units, unit = units(rows, length // int(chosen[-1]))
    sums, counts = np.zeros((n_units, len(chosen))), np.zeros((n_units, len(chosen)))
    for column, size in enumerate(chosen.tolist()):
        basis = _polynomials(size, order)
        ends = (False, True) if from_both_ends and length % size else (False,)
        for from_end in ends:
            top, bottom = summed(_mean_squares(windows(profile, size, from_end=from_end), basis), n_units)
            sums[:, column] += top
            counts[:, column] += bottom
    _refuse_exact(sums.sum(0) / counts.sum(0), profile, chosen, order)
    return power_law("H", f"DFA-{order}", chosen, sums, counts, unit=unit, factor=0.5)


def _polynomials(size: int, order: int) -> Float[np.ndarray, "{size} degree"]:
    """Orthonormal polynomials up to a degree, sampled at ``size`` points."""
    legendre = np.polynomial.legendre.legvander(np.linspace(-1.0, 1.0, size), order)
    return np.linalg.qr(legendre)[0]


def _mean_squares(
    laid: Float[np.ndarray, "document window time"], basis: Float[np.ndarray, "time degree"]
) -> Float[np.ndarray, "document window"]:
    """The mean squared residual of each window.

    The first value of a window goes first: it is a constant, and what remains is of the size of the answer.
    """
    n_documents, n_windows, size = laid.shape
    flat = laid.reshape(-1, size)
    flat = flat - flat[:, :1]
    flat -= (flat @ basis) @ basis.T
    return (np.einsum("wt,wt->w", flat, flat) / size).reshape(n_documents, n_windows)


def _refuse_exact(
    squares: Float[np.ndarray, " scale"],
    profile: Float[np.ndarray, "document time"],
    scales: Int[np.ndarray, " scale"],
    order: int,
) -> None:
    gone = squares <= (1e-13 * np.abs(profile).max()) ** 2
    if gone.any():
        raise ValueError(
            f"windows of {scales[gone][0]} values are polynomials of degree {order} and leave nothing to measure"
        )
