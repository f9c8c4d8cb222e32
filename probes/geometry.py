"""Shapes of clouds: how many directions they fill, how two spans meet, whether two clouds lie alike."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import combinations_with_replacement
from operator import add
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import orthogonal_procrustes, subspace_angles
from sklearn.metrics.pairwise import euclidean_distances

from nextlens.models.arguments import at_least, one_of
from nextlens.probes.edits import span
from nextlens.probes.ridge import Moments, moments, refuse_not_finite, refuse_unequal_lengths, row_weights

#: What a pair of rows may be compared by.
METRICS = ("distance", "cosine", "centred cosine")

#: Rows on each side of the square of pairs that is in memory at a time.
TILE = 1024

#: A variance below this share of the mean square, or of the largest variance, is rounding.
STILL = 1e-14


def variance_spectrum(
    X: Float[np.ndarray, "sample feature"], weights: Float[np.ndarray, " sample"] | None = None
) -> Float[np.ndarray, " feature"]:
    """The eigenvalues of the covariance ``Σ w (x - x̄)ᵀ(x - x̄) / Σ w``, the largest first.

    They are the variances along the principal components, in squared units of ``X``.

    Raises
    ------
    ValueError
        If there are no rows, a value is not finite, a weight is negative, or all are 0.

    Examples
    --------
    >>> variance_spectrum(np.array([[1.0, 0.0], [-1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    return np.linalg.eigvalsh(_covariance(X, weights))[::-1].clip(min=0.0)


def dimensions_at(spectrum: Float[np.ndarray, " feature"], share: float = 0.95) -> int:
    """The least number of principal components that together hold ``share`` of the variance.

    It is 0 where nothing varies.

    Raises
    ------
    ValueError
        If ``share`` is not above 0 and at most 1, or a variance is negative or not finite.

    Examples
    --------
    >>> dimensions_at(np.array([6.0, 3.0, 1.0]), 0.9)
    2
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r} must be above 0 and at most 1")
    held = np.cumsum(_checked(spectrum))
    return int((held < share * held[-1] * (1 - STILL)).sum() + (held[-1] > 0))


def participation_ratio(spectrum: Float[np.ndarray, " feature"]) -> float:
    """``(Σ λ)² / Σ λ²``: k where k directions vary alike and the others not at all, 0 where nothing varies.

    Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262.

    Raises
    ------
    ValueError
        If a variance is negative or not finite.
    """
    share = _shares(spectrum)
    return float(1 / (share @ share)) if len(share) else 0.0


def effective_rank(spectrum: Float[np.ndarray, " feature"]) -> float:
    """The exponential of the entropy of ``λ / Σ λ``: the effective rank of the covariance matrix.

    k where k directions vary alike and the others not at all, 0 where nothing varies. Never below
    :func:`participation_ratio`, which is the same with Rényi's entropy of order 2. The effective rank
    of the rows themselves would be made of roots of λ. Roy and Vetterli, "The effective rank: a
    measure of effective dimensionality", EUSIPCO 2007.

    Raises
    ------
    ValueError
        If a variance is negative or not finite.
    """
    share = _shares(spectrum)
    return float(np.exp(-share @ np.log(share))) if len(share) else 0.0


def principal_subspace(
    X: Float[np.ndarray, "sample feature"], k: int, weights: Float[np.ndarray, " sample"] | None = None
) -> Float[np.ndarray, "feature {k}"]:
    """The first ``k`` principal components, as orthonormal columns, that of most variance first.

    Raises
    ------
    ValueError
        As :func:`variance_spectrum`; and if ``k`` is below 1, or the rows vary in fewer directions.
    """
    at_least("k", k, 1)
    variance, directions = np.linalg.eigh(_covariance(X, weights))
    found = int((variance > STILL * variance[-1]).sum()) if variance[-1] > 0 else 0
    if k > found:
        raise ValueError(f"k={k} principal components are wanted; the rows vary in {found} directions")
    return directions[:, ::-1][:, :k]


def principal_angles(
    A: Float[np.ndarray, "feature first"], B: Float[np.ndarray, "feature second"]
) -> Float[np.ndarray, " angle"]:
    """The angles between the spans of two sets of columns, in radians, the smallest first.

    As many as the smaller span has dimensions. Björck and Golub, Mathematics of Computation 27 (1973).

    Raises
    ------
    ValueError
        If a value is not finite, or a span is empty.
    """
    return subspace_angles(*_spans(A, B))[::-1]


def subspace_overlap(A: Float[np.ndarray, "feature first"], B: Float[np.ndarray, "feature second"]) -> float:
    """How much of the smaller of two spans lies in the other: 0 where orthogonal, 1 where inside.

    With orthonormal bases P and Q of the spans of the columns, of p and q dimensions::

        |Pᵀ Q|² / min(p, q)

    the mean squared cosine of the principal angles. Two spans drawn at random from n dimensions have
    ``max(p, q) / n`` on average, which is what to compare it with. Used of the subspaces of factors by
    Shai et al., "Transformers learn factored representations", arXiv 2602.02385.

    Raises
    ------
    ValueError
        If a value is not finite, or a span is empty.

    Examples
    --------
    >>> axes = np.eye(3)
    >>> subspace_overlap(axes[:, :1], axes[:, 1:]), subspace_overlap(axes[:, :1], axes[:, :2])
    (0.0, 1.0)
    """
    P, Q = _spans(A, B)
    return float(min(1.0, ((P.T @ Q) ** 2).sum() / min(P.shape[1], Q.shape[1])))


def pairwise_r2(
    truth: Float[np.ndarray, "sample target"],
    guess: Float[np.ndarray, "sample feature"],
    weights: Float[np.ndarray, " sample"] | None = None,
    *,
    counts: Int[np.ndarray, " sample"] | None = None,
    metric: str = "distance",
    n_rows: int | None = None,
    rng: np.random.Generator | None = None,
) -> float:
    """Squared Pearson correlation, over all pairs of rows, of how far apart they are in ``truth`` and ``guess``.

    Figure 7D of Shai et al. 2024 (arXiv 2405.15943). No matrix of all pairs is made: the memory is that
    of a few squares of :data:`TILE` rows. It is 0 where in either all pairs are alike.

    Parameters
    ----------
    truth, guess : arrays of as many rows; their widths may differ
    weights : array of shape (sample,), optional
        A pair of two different rows weighs ``w_i w_j``; only ratios matter.
    counts : integer array of shape (sample,), optional
        In place of weights: how many equal rows each stands for. Those pair with one another too, as
        they did in the paper: the result is that of the rows repeated.
    metric : {"distance", "cosine", "centred cosine"}, default="distance"
        Euclidean distance; the cosine between rows as they are; or between rows less their (weighted)
        mean. The quantum follow-up (arXiv 2507.07432) takes cosines of the belief vectors as they are;
        those of a generalized process share a constant first component, which centring removes.
    n_rows : int, optional
        If there are more, so many are drawn, each time a row by its weight or count, and weigh as often as
        they were drawn: an estimate. Rows drawn all alike would seldom hold the few that weigh most.
    rng : numpy.random.Generator, optional
        Needed with ``n_rows``.

    Raises
    ------
    ValueError
        If lengths differ, a value is not finite, weights or counts are not what they must be or leave
        no pair, both are given, a row whose cosine is asked for is 0, or ``n_rows`` lacks ``rng`` or is
        below 2.

    Examples
    --------
    >>> X = np.array([[0.0], [1.0], [4.0]])
    >>> round(pairwise_r2(X, -2.0 * X + 7.0), 12)
    1.0
    """
    one_of("metric", metric, METRICS)
    refuse_unequal_lengths(truth=truth, guess=guess)
    refuse_not_finite(truth=truth, guess=guess)
    share = _checked_counts(counts, weights, len(truth)) if counts is not None else row_weights(weights, len(truth))
    rows, share = _chosen(share, n_rows, rng)
    own = share * (share - 1) / 2 if counts is not None else np.zeros(len(rows))
    if len(rows) < 2 and not own.any():
        raise ValueError(f"{len(rows)} rows have a weight above 0; a pair needs two")
    clouds = [_ready(name, X[rows], share, metric) for name, X in (("truth", truth), ("guess", guess))]
    pairs = reduce(add, _tiles(*clouds, share, own, metric))
    spread = np.array([pairs.xx[0, 0], pairs.yy[0]])
    square = spread + pairs.weight * np.array([pairs.mean_x[0], pairs.mean_y[0]]) ** 2
    if (spread <= STILL * square).any():
        return 0.0
    return float(min(1.0, pairs.xy[0, 0] ** 2 / spread.prod()))


class Similarity(NamedTuple):
    """A map that keeps shapes, ``scale * X @ rotation + shift``; reflections are among the rotations."""

    rotation: Float[np.ndarray, "target target"]
    scale: float
    shift: Float[np.ndarray, " target"]

    def __call__(self, X: Float[np.ndarray, "sample target"]) -> Float[np.ndarray, "sample target"]:
        """The rows after the map."""
        return self.scale * X @ self.rotation + self.shift


def procrustes(
    truth: Float[np.ndarray, "sample target"],
    guess: Float[np.ndarray, "sample target"],
    weights: Float[np.ndarray, " sample"] | None = None,
) -> Similarity:
    """The similarity of least weighted squared error ``Σ w |truth - scale · guess R - shift|²``.

    :func:`scipy.linalg.orthogonal_procrustes` of the rows less their weighted means, times the roots of
    their weights. Fitted on the rows it is given. Where ``truth`` is flat, several maps are as good, and
    one of them is returned.

    Raises
    ------
    ValueError
        If shapes differ, a value is not finite, a weight is negative, all are 0, or ``guess`` does not
        vary.
    """
    if truth.shape != guess.shape:
        raise ValueError(f"guess has shape {guess.shape}; truth has {truth.shape}, and they must be alike")
    refuse_not_finite(truth=truth, guess=guess)
    share = row_weights(weights, len(truth))
    refuse_unequal_lengths(truth=truth)
    _refuse_no_weight(share.sum())
    centres = [share @ X / share.sum() for X in (truth, guess)]
    goal, moved = ((X - centre) * np.sqrt(share)[:, None] for X, centre in zip((truth, guess), centres, strict=True))
    size = (moved**2).sum()
    if not size > STILL * (guess**2).sum():
        raise ValueError("guess is the same in every row; no similarity maps it to truth")
    rotation, total = orthogonal_procrustes(moved, goal)
    scale = float(total / size)
    return Similarity(rotation, scale, centres[0] - scale * centres[1] @ rotation)


def _covariance(
    X: Float[np.ndarray, "sample feature"], weights: Float[np.ndarray, " sample"] | None
) -> Float[np.ndarray, "feature feature"]:
    refuse_unequal_lengths(X=X)
    of_rows = moments(X, X[:, :0], weights)
    _refuse_no_weight(of_rows.weight)
    return of_rows.xx / of_rows.weight


def _refuse_no_weight(total: float) -> None:
    if not total > 0:
        raise ValueError("weights are all zero; some row must count")


def _checked(spectrum: Float[np.ndarray, " feature"]) -> Float[np.ndarray, " feature"]:
    wrong = ~(np.isfinite(spectrum) & (spectrum >= 0))
    if not spectrum.size or wrong.any():
        held = f"spectrum[{int(wrong.argmax())}]={spectrum[wrong][0]}" if wrong.any() else "spectrum is empty; each"
        raise ValueError(f"{held} must be a variance, finite and at least 0")
    return np.sort(spectrum)[::-1]


def _shares(spectrum: Float[np.ndarray, " feature"]) -> Float[np.ndarray, " positive"]:
    variances = _checked(spectrum)
    positive = variances[variances > STILL * variances[0]]
    return positive / positive.sum()


def _spans(
    A: Float[np.ndarray, "feature first"], B: Float[np.ndarray, "feature second"]
) -> tuple[Float[np.ndarray, "feature p"], Float[np.ndarray, "feature q"]]:
    P, Q = span(A), span(B)
    for name, basis in (("A", P), ("B", Q)):
        if basis.shape[1] == 0:
            raise ValueError(f"{name} spans nothing: all its columns are 0")
    return P, Q


def _checked_counts(counts: object, weights: object, n_rows: int) -> Float[np.ndarray, " sample"]:
    if weights is not None:
        raise ValueError("both weights and counts are given; a row has the one or the other")
    found = np.asarray(counts)
    if found.dtype.kind not in "iu" or found.shape != (n_rows,) or found.min() < 0:
        raise ValueError(
            f"counts of shape {found.shape} and type {found.dtype} must be {n_rows} integers, each 0 or more"
        )
    return found.astype(np.float64)


def _chosen(
    share: Float[np.ndarray, " sample"], n_rows: int | None, rng: np.random.Generator | None
) -> tuple[Int[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """The rows that count and their shares; or rows drawn by their shares, and how often each was."""
    rows = np.flatnonzero(share)
    if n_rows is None:
        return rows, share[rows]
    if rng is None:
        raise ValueError(f"n_rows={n_rows} are drawn at random; give rng=")
    if at_least("n_rows", n_rows, 2) >= len(rows):
        return rows, share[rows]
    drawn, times = np.unique(rng.choice(rows, n_rows, p=share[rows] / share[rows].sum()), return_counts=True)
    return drawn, times.astype(np.float64)


def _ready(
    name: str, X: Float[np.ndarray, "row feature"], share: Float[np.ndarray, " row"], metric: str
) -> Float[np.ndarray, "row feature"]:
    """Rows about their mean, which no distance notices and rounding does; for cosines, of length 1."""
    X = X.astype(np.float64)
    if metric != "cosine":
        X = X - X[0]
        X = X - share @ X / share.sum()
    if metric == "distance":
        return X
    length = np.linalg.norm(X, axis=1, keepdims=True)
    if not (length > STILL**0.5 * length.max()).all():
        row = int(length.argmin())
        raise ValueError(f"{name} has a row of length 0, number {row} of those that count; it has no {metric}")
    return X / length


def _tiles(
    truth: Float[np.ndarray, "row target"],
    guess: Float[np.ndarray, "row feature"],
    share: Float[np.ndarray, " row"],
    own: Float[np.ndarray, " row"],
    metric: str,
) -> Iterator[Moments]:
    """The moments of the pairs between two runs of rows, for every two; ``own`` weighs a row with itself."""
    runs = [slice(start, start + TILE) for start in range(0, len(share), TILE)]
    for a, b in combinations_with_replacement(runs, 2):
        weight = np.outer(share[a], share[b])
        if a is b:
            weight = np.triu(weight, 1) + np.diag(own[a])
        if not (total := weight.sum()) > 0:
            continue
        x, y = _compared(truth[a], truth[b], metric), _compared(guess[a], guess[b], metric)
        mean_x, mean_y = np.vdot(weight, x) / total, np.vdot(weight, y) / total
        x, y = x - mean_x, y - mean_y
        sums = [np.vdot(weight * one, other) for one, other in ((x, x), (x, y), (y, y))]
        xx, xy, yy = (np.array([value]) for value in sums)
        yield Moments(float(total), np.array([mean_x]), np.array([mean_y]), xx[None], xy[None], yy)


def _compared(
    some: Float[np.ndarray, "some feature"], others: Float[np.ndarray, "others feature"], metric: str
) -> Float[np.ndarray, "some others"]:
    return euclidean_distances(some, others) if metric == "distance" else some @ others.T
