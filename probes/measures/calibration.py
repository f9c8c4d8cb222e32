"""Whether a model knows how much it knows: z - h, of mean 0 and white if it does; and its most probable token."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import chi2

from nextlens.models.arguments import at_least, between


class Whiteness(NamedTuple):
    """Whether values of documents are of mean 0, and uncorrelated in time.

    Attributes
    ----------
    mean, mean_sd : float
        Over all; its standard error from means of documents.
    autocorrelation : Float[np.ndarray, " lag"]
        At lags 1, 2, ...
    deviation : Float[np.ndarray, " lag"]
        Standard error of each, if nothing can be foretold: ``√(Σ m_t² m_{t-k}²)`` over ``Σ m²``, which is ``1 / √n``
        only where large values do not come near one another.
    levels : float
        Share of the variance that is of levels of documents; every autocorrelation holds it.
    statistic, p : float
        ``g' Ω⁻¹ g`` of ``g_k = Σ m_t m_{t-k}`` and ``Ω_jk = Σ m_t² m_{t-j} m_{t-k}``, and its χ² tail of as many
        degrees as lags.
    """

    mean: float
    mean_sd: float
    autocorrelation: Float[np.ndarray, " lag"]
    deviation: Float[np.ndarray, " lag"]
    levels: float
    statistic: float
    p: float


class Calibrated(NamedTuple):
    """How often the most probable token is right, in bins of how probable it was said to be.

    Attributes
    ----------
    confidence, accuracy, share : Float[np.ndarray, " bin"]
        Means of bins with something in them, and the share of all that is in each.
    error : float
        ``Σ share |accuracy - confidence|``: the top-label expected calibration error.
    overconfidence : float
        ``Σ share (confidence - accuracy)``, signed.
    """

    confidence: Float[np.ndarray, " bin"]
    accuracy: Float[np.ndarray, " bin"]
    share: Float[np.ndarray, " bin"]
    error: float
    overconfidence: float


def autocorrelation(rows: Float[np.ndarray, "document time"], lags: int) -> Float[np.ndarray, " lag"]:
    """``Σ (x_t - x̄)(x_{t+k} - x̄) / Σ (x_t - x̄)²`` at k = 1 .. ``lags``, within documents, about the mean of all.

    The products are averaged before they are divided, so that lags of short documents are not lowered.

    Raises
    ------
    ValueError
        If a document has no more values than there are lags, or all values are the same.
    """
    at_least("lags", lags, 1)
    at_least("length of documents", rows.shape[1], lags + 1)
    x = rows - rows.mean()
    variance = float(np.mean(x**2))
    if not variance > 0:
        raise ValueError("rows hold one value only; a constant has no autocorrelation")
    return np.array([np.mean(x[:, k:] * x[:, :-k]) for k in range(1, lags + 1)]) / variance


def whiteness(rows: Float[np.ndarray, "document time"], *, lags: int = 10) -> Whiteness:
    """Mean, autocorrelation, and whether chance alone would give as much of it.

    Of ``z - h`` of an exact model both are 0 up to noise. A wrong model may have mean 0 too (a bigram fitted to its
    data has); what it misses then shows in the autocorrelation.

    Raises
    ------
    ValueError
        As :func:`autocorrelation`; or if a value is not finite.

    Notes
    -----
    ``z - h`` of an exact model is a martingale difference and not independent: where a law is wide, values are large.
    Errors of Box and Pierce, ``1 / √n``, hold for independent values; those here hold for any martingale difference
    (Guo and Phillips, Efficient estimation of second moment parameters in ARCH models, 2001; Lobato, Nankervis and
    Savin, Testing for autocorrelation using a modified Box-Pierce Q test, International Economic Review 42, 2001).
    """
    if not np.isfinite(rows).all():
        raise ValueError("rows hold values that are not finite; where a law forbids what came there is no z - h")
    found = autocorrelation(rows, lags)
    x, time = rows - rows.mean(), rows.shape[1]
    variance = float(np.mean(x**2))
    deviation = [np.sqrt(np.sum((x[:, k:] * x[:, :-k]) ** 2)) / x[:, k:].size / variance for k in range(1, lags + 1)]
    products = np.stack([(x[:, lags:] * x[:, lags - k : time - k]).ravel() for k in range(1, lags + 1)])
    total = products.sum(1)
    statistic = float(total @ np.linalg.lstsq(products @ products.T, total, rcond=None)[0])
    means = rows.mean(1)
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
    chance = float(np.mean(rows.var(1, ddof=1))) / time
    levels = (float(means.var(ddof=1)) - chance) / variance if len(means) > 1 else float("nan")
    return Whiteness(
        float(rows.mean()), error, found, np.array(deviation), levels, statistic, float(chi2.sf(statistic, lags))
    )


def top_label(confidence: Float[np.ndarray, " row"], right: Bool[np.ndarray, " row"], *, bins: int = 15) -> Calibrated:
    """Reliability of the most probable token, in bins of equal width.

    Parameters
    ----------
    confidence : Float[np.ndarray, " row"]
        The largest probability of each law.
    right : Bool[np.ndarray, " row"]
        Whether that token came.
    bins : int, default=15

    Raises
    ------
    ValueError
        If lengths differ, there is no row, or a confidence is not within 0 and 1.

    Notes
    -----
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017.
    """
    at_least("bins", bins, 1)
    at_least("number of rows", len(confidence), 1)
    if len(right) != len(confidence):
        raise ValueError(f"right has {len(right)} rows and confidence {len(confidence)}; they must agree")
    between("smallest confidence", float(confidence.min()), 0, 1)
    between("largest confidence", float(confidence.max()), 0, 1 + 1e-6)
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    count = np.bincount(which, minlength=bins)
    there = count > 0
    said = np.bincount(which, confidence, bins)[there] / count[there]
    came = np.bincount(which, right.astype(float), bins)[there] / count[there]
    share = count[there] / len(confidence)
    return Calibrated(said, came, share, float(share @ np.abs(came - said)), float(share @ (said - came)))
