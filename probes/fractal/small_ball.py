"""Self-similarity S: how the chance that the integral returns near where it was falls with time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import one_of
from nextlens.probes.fractal.estimate import Estimate, power_law
from nextlens.probes.fractal.increments import increment_sums
from nextlens.probes.fractal.series import Series, as_documents, chosen_scales, lattice_gap

#: The ball, in standard deviations of the series.
EPS = 0.2
#: A ball wider than this share of the spread at the smallest lag is no small ball.
WIDEST = 0.3
#: Returns below which a chance is not measured.
FEWEST_HITS = 50


def small_ball(
    series: Series,
    *,
    eps: float = EPS,
    scales: Sequence[int] | Int[np.ndarray, " scale"] | None = None,
    standardise: str = "global",
    smoothing: float = 0.0,
    strict: bool = True,
) -> Estimate:
    """S, with ``P(|X_{t+τ} - X_t| <= eps) ~ τ^-S`` of the integral of the standardised series.

    All overlapping increments count. S does not depend on ``eps`` while the ball is small; its variance
    does, and falls two to four times from .005, the published value, to .2.

    Parameters
    ----------
    series : (time,) or (document, time)
    eps : float, default=0.2
        In standard deviations of the series.
    scales : whole numbers, default twelve from 4 to length // 16
    standardise : {"global", "document"}
        Over which values mean 0 and variance 1 are made.
    smoothing : float, default=0
        Each increment counts with the share of ``[increment - smoothing, increment + smoothing]`` within the
        ball: what adding a uniform number to it would give on average. A lattice needs it.
    strict : bool, default=True
        Refuse a ball too wide or too small, as below. Otherwise only chances of 0 are refused.

    Raises
    ------
    ValueError
        As :func:`~nextlens.probes.fractal.series.as_documents`; if the series is too short for the scales;
        if it takes few distinct values, for then returns happen at some lags only and S is not defined
        (the smoothing that would do is named); if ``eps`` is above .3 of the spread of increments at the
        smallest lag, or fewer than 50 increments return at the largest (the eps that would do is named).

    References
    ----------
    arXiv 2402.01825, section 2.
    """
    one_of("standardise", standardise, ("global", "document"))
    if not (eps > 0 and np.isfinite(eps)):
        raise ValueError(f"eps={eps!r} must be above 0")
    if not smoothing >= 0:
        raise ValueError(f"smoothing={smoothing!r} must be at least 0")
    rows = standardised(as_documents(series), standardise)
    chosen = chosen_scales(scales, rows.shape[1], low=4, share=16, most=1 if len(rows) > 1 else 2)
    refuse_lattice(rows, smoothing)
    if strict:
        _refuse_wide(rows, chosen, max(eps, smoothing))
    hits, counts, unit = increment_sums(rows, chosen, _returns(eps, smoothing))
    _refuse_rare(rows, chosen, hits.sum(0), eps, FEWEST_HITS if strict else 0)
    note = f"increments smoothed by {smoothing:.3g}" if smoothing else ""
    return power_law("S", f"small ball, eps = {eps:g}", chosen, hits, counts, unit=unit, factor=-1.0, note=note)


def fractal_dimension(self_similarity: Estimate) -> Estimate:
    """D = 2 - S, the graph dimension of the integral: S written otherwise, no measurement of its own.

    Raises
    ------
    ValueError
        If the estimate is not one of S.
    """
    one_of("quantity of the estimate", self_similarity.quantity, ("S",))
    low, high = self_similarity.interval
    return replace(
        self_similarity,
        quantity="D",
        value=2.0 - self_similarity.value,
        interval=(2.0 - high, 2.0 - low),
        factor=1.0,
        shift=2.0,
        parts=None,
        note="; ".join(filter(None, ("derived: 2 - S", self_similarity.note))),
    )


def standardised(rows: Float[np.ndarray, "document time"], by: str = "global") -> Float[np.ndarray, "document time"]:
    """Mean 0 and variance 1, over all values or over those of each document.

    Raises
    ------
    ValueError
        If a document is constant and each is to have variance 1; it is named.
    """
    if by == "global":
        return (rows - rows.mean()) / rows.std()
    constant = np.flatnonzero(np.ptp(rows, axis=1) <= 1e-13 * np.abs(rows).max(1))
    if len(constant):
        raise ValueError(f"document {constant[0]} is constant ({len(constant)} of {len(rows)} are); leave it out")
    return (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)


def _returns(eps: float, smoothing: float) -> Callable[[Float[np.ndarray, " some"]], float]:
    if not smoothing:
        return lambda steps: float(np.count_nonzero(np.abs(steps, out=steps) <= eps))

    def shared(steps: Float[np.ndarray, " some"]) -> float:
        inside = np.minimum(steps + smoothing, eps) - np.maximum(steps - smoothing, -eps)
        return float(np.maximum(inside, 0.0).sum() / (2 * smoothing))

    return shared


def refuse_lattice(rows: Float[np.ndarray, "document time"], smoothing: float = 0.0) -> None:
    """Raise if standardised documents take few distinct values each, and are not smoothed by half their gap or more."""
    gap = lattice_gap(rows)
    if gap is not None and smoothing < gap / 2:
        most = max(len(np.unique(row)) for row in rows)
        raise ValueError(
            f"the series takes {most} distinct values, up to {gap:.3g} standard deviations apart: its integral returns "
            f"at some lags only, and S is not defined; smoothing={gap:.3g} measures the density there"
        )


def _spread(rows: Float[np.ndarray, "document time"], lag: int) -> float:
    integral = np.cumsum(rows, axis=1)
    return float(np.sqrt(np.mean((integral[:, lag:] - integral[:, :-lag]) ** 2)))


def _refuse_wide(rows: Float[np.ndarray, "document time"], scales: Int[np.ndarray, " scale"], eps: float) -> None:
    spread = _spread(rows, int(scales[0]))
    if eps > WIDEST * spread:
        raise ValueError(
            f"eps={eps:g} is no small ball at lag {scales[0]}, where increments spread by {spread:.3g}; "
            f"take at most {WIDEST * spread:.3g}, or longer lags"
        )


def _refuse_rare(
    rows: Float[np.ndarray, "document time"],
    scales: Int[np.ndarray, " scale"],
    hits: Float[np.ndarray, " scale"],
    eps: float,
    fewest: int,
) -> None:
    rare = (hits < fewest) | (hits <= 0)
    if rare.any():
        lag, found = int(scales[rare][-1]), float(hits[rare][-1])
        enough = _enough(rows, lag, max(fewest, 1))
        raise ValueError(
            f"eps={eps:g} sees {found:g} returns at lag {lag}; at least {max(fewest, 1)} measure a chance: take eps at "
            f"least {enough:.3g}, or shorter lags"
        )


def _enough(rows: Float[np.ndarray, "document time"], lag: int, hits: int) -> float:
    """The ball in which so many increments at the lag fall."""
    integral = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)
    steps = np.sort(np.abs(integral[:, lag:] - integral[:, :-lag]).ravel())
    return float(np.ceil(1000 * steps[min(hits, len(steps)) - 1]) / 1000)
