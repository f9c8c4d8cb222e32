"""Documents as one sample: what is common to a position taken out, then one fit to their average."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.ndimage import uniform_filter1d

from nextlens.models.arguments import at_least, one_of
from nextlens.probes.fractal.estimate import Estimate
from nextlens.probes.fractal.series import Series, as_documents
from nextlens.probes.fractal.spectral import Periodogram, bandwidth, local_whittle_of, periodogram

#: Ways to take out what a position has in common.
DETRENDS = ("position", "amplitude", "none")
#: Documents from which the mean of a position can be told.
FEWEST_DOCUMENTS = 30
#: Positions over which the common curve is smoothed before each document is regressed on it.
SMOOTHED = 51
#: The bandwidths of a sweep, as powers of the length.
POWERS = (0.4, 0.5, 0.6)


def pooled(series: Series, *, detrend: str = "position") -> Float[np.ndarray, "document time"]:
    """Documents less what their positions have in common, over one standard deviation of all.

    Parameters
    ----------
    series : (document, time)
        30 or more.
    detrend : {"position", "amplitude", "none"}
        "position" removes the mean of each position: a learning curve that all documents share.
        "amplitude" first regresses each document on that curve (smoothed over 51 positions, centred), so a
        curve of another size in each goes too; it lowers true exponents by .01 to .03, so report both.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.as_documents`; if there are fewer than 30 documents.
    """
    one_of("detrend", detrend, DETRENDS)
    rows = as_documents(series)
    if detrend != "none" and len(rows) < FEWEST_DOCUMENTS:
        raise ValueError(
            f"series has {len(rows)} documents; the mean of a position needs at least {FEWEST_DOCUMENTS} "
            "(a single series can be cut into stretches)"
        )
    if detrend == "amplitude":
        curve = uniform_filter1d(rows.mean(0), SMOOTHED, mode="nearest")
        curve = curve - curve.mean()
        size = (rows - rows.mean(1, keepdims=True)) @ curve / max(float(curve @ curve), np.finfo(float).tiny)
        rows = rows - size[:, None] * curve
    if detrend != "none":
        rows = rows - rows.mean(0)
    return (rows - rows.mean()) / rows.std()


def bandwidth_sweep(series: Series, *, powers: Sequence[float] = POWERS) -> dict[float, Estimate]:
    """:func:`~nextlens.probes.fractal.spectral.local_whittle` at ``length ** power`` frequencies, for each power.

    True long memory gives one number at all of them; short memory falls towards ½ as fewer are read.
    """
    return sweep_of(whole_periodogram(series, powers), as_documents(series).shape[1], powers)


def whole_periodogram(series: Series, powers: Sequence[float] = POWERS) -> Periodogram:
    """The periodogram at as many frequencies as the widest bandwidth reads."""
    at_least("number of powers", len(powers), 1)
    return periodogram(series, bandwidth(as_documents(series).shape[1], max(powers)))


def sweep_of(found: Periodogram, length: int, powers: Sequence[float] = POWERS) -> dict[float, Estimate]:
    """:func:`bandwidth_sweep` of a periodogram at hand."""
    sizes = {power: bandwidth(length, power) for power in powers}
    return {
        power: local_whittle_of(Periodogram(found.frequencies[:m], found.power[:, :m])) for power, m in sizes.items()
    }
