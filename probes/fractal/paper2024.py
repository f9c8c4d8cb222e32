"""The protocol of arXiv 2402.01825 by name, its text and its released notebook, each beside its own null."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from nextlens.probes.fractal.estimate import Estimate
from nextlens.probes.fractal.increments import joseph
from nextlens.probes.fractal.rescaled_range import rescaled_range
from nextlens.probes.fractal.series import Series, documents, log_spaced
from nextlens.probes.fractal.small_ball import fractal_dimension, small_ball, standardised
from nextlens.probes.fractal.surrogates import shuffled


@dataclass(frozen=True)
class Protocol:
    """Which values, scales, ball and centre. ``values`` are those kept of each document after ``skip``."""

    name: str
    values: int
    skip: int
    scales: tuple[int, ...]
    eps: float
    centre: str


#: The text: 2048 tokens less 100. Its list of scales is not printed; its figures span 10 to 500, taken as twelve.
TEXT = Protocol("paper2024, text", 1948, 100, tuple(log_spaced(10, 500).tolist()), 5e-3, "running")
#: The released notebook: 1024 tokens less 128, six scales, a ball ten times wider, the mean of the window.
NOTEBOOK = Protocol("paper2024, notebook", 896, 128, (25, 50, 75, 100, 200, 300), 5e-2, "window")


@dataclass(frozen=True, eq=False)
class Published:
    """S, H, J and D as published, the same of shuffled documents, and what was left out.

    Attributes
    ----------
    estimates, null : dict of Estimate
        By quantity. White noise reads about H = .55 to .58 and J = S = .47 here, not ½.
    refused : dict of str
        Why a quantity could not be read.
    mean : float
        Of the values as given: the one number that shows targets shifted by one place.
    n_documents, n_documents_dropped : int
    protocol : Protocol
    """

    estimates: dict[str, Estimate]
    null: dict[str, Estimate]
    refused: dict[str, str]
    mean: float
    n_documents: int
    n_documents_dropped: int
    protocol: Protocol

    def __str__(self) -> str:
        lines = [
            f"{self.protocol.name}: {self.n_documents} documents ({self.n_documents_dropped} too short), "
            f"mean {self.mean:.4f}"
        ]
        for quantity, estimate in self.estimates.items():
            beside = f"{self.null[quantity].value:.3f}" if quantity in self.null else "none"
            lines.append(f"  {estimate}; shuffled: {beside}")
        return "\n".join(lines + [f"  {quantity}: {reason}" for quantity, reason in self.refused.items()])


def paper2024(
    series: Series, rng: np.random.Generator, *, protocol: Protocol = TEXT, smoothing: float = 0.0
) -> Published:
    """S, H, J as arXiv 2402.01825 measures them: for comparison with its tables, not to conclude from.

    Each document is made of mean 0 and variance 1. S and J are of all overlapping increments, R / S of windows half
    over one another: what the published random offsets estimate, without the draw. The notebook's Joseph
    exponent never empties its list of increments between scales, and its errors are not of resamples; here
    every scale has its own, and intervals are over documents.

    Parameters
    ----------
    series : sequence of arrays, or (document, time)
        Surprisal by document, of which one window scored whole; lengths may differ.
    rng : numpy.random.Generator
        For the shuffles of the null.
    smoothing : float, default=0
        Of :func:`~nextlens.probes.fractal.small_ball.small_ball`, for values on a lattice.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.documents`; if a document is constant.
    """
    found = documents(series, length=protocol.values, skip=protocol.skip)
    rows = standardised(found.values, "document")
    estimates, refused = _triple(rows, protocol, smoothing)
    null, _ = _triple(shuffled(rows, rng), protocol, smoothing)
    return Published(estimates, null, refused, float(found.values.mean()), len(rows), found.n_dropped, protocol)


def _triple(
    rows: Float[np.ndarray, "document time"], protocol: Protocol, smoothing: float
) -> tuple[dict[str, Estimate], dict[str, str]]:
    scales = np.asarray(protocol.scales)
    found = {
        "H": rescaled_range(rows, scales=scales, centre=protocol.centre, overlap=True),
        "J": joseph(rows, scales=scales, centring="document"),
    }
    try:
        ball = small_ball(
            rows, scales=scales, eps=protocol.eps, standardise="document", smoothing=smoothing, strict=False
        )
    except ValueError as reason:
        return found, {"S": str(reason)}
    return {"S": ball, **found, "D": fractal_dimension(ball)}, {}
