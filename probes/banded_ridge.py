"""Ridge regression over several feature spaces, each with its own penalty for each target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from nextlens.models.arguments import at_least, one_of
from nextlens.probes.band_candidates import band_columns, drawn_shares, given_shares, near_shares
from nextlens.probes.ridge_blocks import Block, block_of, explained_of, held_out_errors, screened
from nextlens.probes.ridge_cv import ALPHAS, keep, mean_r2, one_or_many, validated
from nextlens.probes.ridge_device import device_of
from nextlens.probes.ridge_memory import MOST_TARGETS, need
from nextlens.probes.ridge_rows import reduced_rows
from nextlens.probes.ridge_search import generalised_guess, least
from nextlens.probes.ridge_systems import Dual, Primal, System
from nextlens.probes.ridge_targets import Solved, assembled, in_blocks
from nextlens.probes.variance_partition import product_measure

#: Standard deviations of the logarithm of a share, by which the rounds of refinement look about.
SPREADS = (1.0, 0.4)


class BandedRidgeCV(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression with a penalty per band and target, chosen by cross-validation.

    With shares γ of the bands, γ ≥ 0 and Σ γ = 1, and α in scikit-learn's convention, minimises for each target::

        Σ (y - c - Σ_k x_k·w_k)² + Σ_k (α / γ_k) |w_k|²

    so that equal shares are a ridge with one penalty ``α · n_bands``, and a share of 0 leaves a band out. α and γ of a
    target are those of least squared error over all rows that the folds test. Candidates of γ are tried in the
    order of their list, each with every α that may be of use, and a later one must be better to be taken.

    Sums of products are made once. A candidate only scales them, so it costs one decomposition a fold and no pass over
    features and targets.

    **A gain on held-out folds is not evidence that a band matters**: many candidates choose the luckiest. For evidence
    compare on rows that chose nothing.

    Parameters
    ----------
    bands : mapping or sequence, optional
        From the name of a band to its columns, a slice or numbers. None for one band, a ridge.
    alphas : sequence of float
        Tried with every candidate. The largest wins ties.
    cv, form, memory, n_jobs, device
        As in :class:`nextlens.probes.ridge_cv.RidgeCV`.
    candidates : int or array of shape (n_candidates, n_bands), default=30
        How many shares to draw, beside the centre and each band alone; or the very shares to try.
    refinements : int, default=10
        How many more to draw near those that targets chose, in each of two rounds.
    search : {"walk", "grid"}, default="walk"
        Whether a target walks downhill from the α it has so far, at first one guessed by generalised
        cross-validation; or tries all.
    random_state : int, Generator or RandomState, default=0
        For the draws.

    Attributes
    ----------
    coef_, intercept_, alpha_, cv_score_, form_, products_, block_size_, tried_
        As in :class:`nextlens.probes.ridge_cv.RidgeCV`; ``tried_`` for each candidate.
    constant_targets_, missing_targets_, at_edge_
        As there.
    gamma_ : array of shape (n_bands, n_targets) or (n_bands,)
        The shares chosen; NaN for targets that could not be fitted.
    band_names_ : tuple of str
    candidates_ : array of shape (n_candidates, n_bands)
        All shares tried, in order.
    single_band_score_ : array of shape (n_bands, n_targets) or (n_bands,)
        R² on held-out rows of each band alone, where it was among the candidates; otherwise NaN.

    References
    ----------
    Nunez-Elizalde, Huth and Gallant, "Voxelwise encoding models with non-spherical multivariate normal priors",
    NeuroImage 197, 2019. Dupré la Tour, Eickenberg, Nunez-Elizalde and Gallant, "Feature-space selection with banded
    ridge regression", NeuroImage 264, 2022; their δ is log(γ / α).

    Examples
    --------
    >>> import warnings
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((90, 12))
    >>> Y = X[:, :3] + 0.5 * rng.standard_normal((90, 3))
    >>> bands = {"useful": slice(0, 4), "noise": slice(4, 12)}
    >>> with warnings.catch_warnings(action="ignore"):  # one target is best at the edge of so small a grid
    ...     ridge = BandedRidgeCV(bands, alphas=(0.1, 1.0, 10.0), cv=3).fit(X, Y)
    >>> bool((ridge.gamma_[0] > ridge.gamma_[1]).all())
    True
    """

    def __init__(
        self,
        bands=None,
        alphas=ALPHAS,
        *,
        cv=5,
        candidates=30,
        refinements=10,
        search="walk",
        form="auto",
        memory=None,
        n_jobs=None,
        random_state=0,
        device=None,
    ):
        self.bands = bands
        self.alphas = alphas
        self.cv = cv
        self.candidates = candidates
        self.refinements = refinements
        self.search = search
        self.form = form
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.device = device

    def fit(self, X, y, groups=None):
        """Choose shares and a penalty for each target on held-out folds, then fit on every row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            May be a memory map.
        groups : array-like of shape (n_samples,), optional
            Rows of one group never straddle a fold.

        Raises
        ------
        ValueError
            As :meth:`nextlens.probes.ridge_cv.RidgeCV.fit`, and if bands or candidates are not what they must be.
        """
        device = device_of(self.device, self.n_jobs)
        data = validated(self, X, y, groups)
        self.band_names_, columns = band_columns(self.bands, data.X.shape[1])
        rng = _generator(self.random_state)
        shares = _first_shares(self.candidates, len(columns), rng)
        at_least("refinements", self.refinements, 0)
        primal = data.primal(one_of("form", self.form, ("auto", "primal", "dual")))
        bytes_needed = need(
            data.splits,
            data.X.shape,
            len(data.alphas),
            data.dtype.itemsize,
            data.Y.dtype.itemsize,
            primal=primal,
            n_bands=len(columns),
        )
        size = bytes_needed.targets(self.memory, data.Y.shape[1], most=None)
        rows = reduced_rows(data.X, data.splits, data.dtype, primal=primal, device=device)
        system = (Primal if primal else Dual)(rows, columns, device)
        walk = one_of("search", self.search, ("walk", "grid")) == "walk"
        known = _searched(system, data, shares, walk, size, self.n_jobs)
        for spread in SPREADS if self.refinements and len(columns) > 1 else ():
            wanted = np.bincount(known["candidate"][~known["odd"]], minlength=len(shares))
            if not wanted.any():
                break
            more = near_shares(shares, wanted, self.refinements, spread, rng)
            known = _searched(system, data, more, walk, size, self.n_jobs, known | {"first": _same(len(shares), known)})
            shares = np.vstack([shares, more])
        problem = _Refit(system, data.alphas, shares)
        weights, found = assembled(
            in_blocks(problem, data.Y, size, self.n_jobs, {name: known[name] for name in ("candidate", "alpha")}),
            data.X.shape[1],
            data.Y.shape[1],
            data.dtype,
        )
        odd = known["odd"]
        found["alpha"] = np.where(odd, np.nan, data.alphas[known["alpha"]])
        found["score"] = np.where(odd, np.nan, explained_of(known["error"] + known["lost"], known["spread"]))
        self.gamma_ = one_or_many(np.where(odd, np.nan, shares[known["candidate"]].T), data.flat)
        alone = np.where(odd, np.nan, explained_of(known["alone"] + known["lost"], known["spread"]))
        self.single_band_score_ = one_or_many(alone, data.flat)
        self.candidates_, self.form_, self.products_ = shares, system.form, data.dtype.name
        self.block_size_, self.tried_ = size, float(known["tried"].mean() / len(shares))
        keep(self, weights, found, data)
        self._columns = columns
        return self

    def predict(self, X):
        """``X @ coef_.T + intercept_``."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return X @ self.coef_.T + self.intercept_

    def predict_bands(self, X):
        """What each band adds to the prediction: a dict of arrays whose sum, and ``intercept_``, is :meth:`predict`."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        named = zip(self.band_names_, self._columns, strict=True)
        return {name: X[:, columns] @ self.coef_[..., columns].T for name, columns in named}

    def score(self, X, y):
        """R², the mean over targets that were fitted; NaN for a target that does not vary here is left out."""
        return mean_r2(self, X, y)

    def score_bands(self, X, y) -> xr.Dataset:
        """How much of R² and r each band gives: :func:`nextlens.probes.variance_partition.product_measure`.

        Targets that could not be fitted, with values missing here or constant here have NaN.
        """
        truth = np.asarray(y, dtype=np.float64)
        truth = truth.reshape(len(truth), -1)
        parts = {name: np.asarray(one, dtype=np.float64).reshape(truth.shape) for name, one in self._banded(X)}
        sound = np.isfinite(truth).all(0) & np.isfinite(np.atleast_1d(self.alpha_))
        shares = product_measure(truth[:, sound], {name: part[:, sound] for name, part in parts.items()})
        return shares.assign_coords(target=np.flatnonzero(sound)).reindex(target=np.arange(len(sound)))

    def _banded(self, X):
        return self.predict_bands(X).items()


def _generator(random_state: object) -> np.random.Generator:
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, int | np.integer):
        return np.random.default_rng(random_state)
    return np.random.default_rng(check_random_state(random_state).randint(2**31))


def _first_shares(candidates: object, n_bands: int, rng: np.random.Generator) -> Float[np.ndarray, "candidate band"]:
    if isinstance(candidates, int | np.integer):
        return drawn_shares(n_bands, int(candidates), rng)
    return given_shares(candidates, n_bands)


def _same(number: int, known: dict[str, np.ndarray]) -> np.ndarray:
    return np.full(len(known["candidate"]), number)


def _searched(system, data, shares, walk, size, n_jobs, known=None) -> dict[str, np.ndarray]:
    """The best candidate and penalty of each target so far, and the error it has."""
    problem = _Search(system, data.alphas, shares, walk)
    _, found = assembled(in_blocks(problem, data.Y, size, n_jobs, known), 0, data.Y.shape[1], data.dtype)
    return found


@dataclass(frozen=True, eq=False)
class _Search:
    """Candidates for a block of targets, one after another."""

    system: System
    alphas: Float[np.ndarray, " alpha"]
    shares: Float[np.ndarray, "candidate band"]
    walk: bool

    def solve(self, Y: np.ndarray, known: dict[str, np.ndarray]) -> Solved:
        targets = screened(Y, self.system.rows.x.dtype)
        block = block_of(self.system, targets.values)
        n_bands = self.shares.shape[1]
        state = {
            "error": np.full(Y.shape[1], np.inf),
            "candidate": np.zeros(Y.shape[1], dtype=np.int64),
            "alpha": np.zeros(Y.shape[1], dtype=np.int64),
            "alone": np.full((n_bands, Y.shape[1]), np.nan),
            "tried": np.zeros(Y.shape[1]),
        } | {name: values.copy() for name, values in known.items() if name != "first"}
        first = int(known["first"][0]) if "first" in known else 0
        if self.walk and not first:
            state["alpha"] = self._guess(block)
        for number, shares in enumerate(self.shares):
            self._try(first + number, shares, block, state)
        odd = targets.missing | targets.constant
        return Solved(None, state | {"odd": odd, "lost": block.lost, "spread": block.spread})

    def _guess(self, block: Block) -> np.ndarray:
        whole, basis = self.system.whole(self.shares[0], self.system.device.eigenvectors)
        turned = basis.T @ block.coordinates[-1]
        return generalised_guess(self.system, whole.diagonal, turned, block.total, self.alphas)

    def _try(self, number: int, shares: np.ndarray, block: Block, state: dict) -> None:
        rows, n_targets = self.system.rows, block.y.shape[1]
        folds = [
            self.system.fold(i, shares, self.alphas, joined=len(self.alphas) * len(rows.test[i]) < n_targets)
            for i in range(rows.n_folds)
        ]
        for start in range(0, n_targets, MOST_TARGETS):
            some = slice(start, start + MOST_TARGETS)
            guess = state["alpha"][some] if self.walk else None
            errors = held_out_errors(self.system, folds, block.part(some), guess)
            best = least(errors)
            error = np.take_along_axis(errors, best[None], axis=0)[0]
            state["tried"][some] += np.isfinite(errors).sum(0)
            better = error < state["error"][some]
            for name, value in (("error", error), ("alpha", best), ("candidate", np.full(len(best), number))):
                state[name][some] = np.where(better, value, state[name][some])
            if (shares == 1.0).any():
                state["alone"][int((shares == 1.0).argmax()), some] = error


@dataclass(frozen=True, eq=False)
class _Refit:
    """All rows, with the shares and the penalty each target has chosen."""

    system: System
    alphas: Float[np.ndarray, " alpha"]
    shares: Float[np.ndarray, "candidate band"]

    def solve(self, Y: np.ndarray, known: dict[str, np.ndarray]) -> Solved:
        targets = screened(Y, self.system.rows.x.dtype)
        device, coordinates = self.system.device, block_of(self.system, targets.values).coordinates[-1]
        weights = np.empty((self.system.rows.x.shape[1], Y.shape[1]), dtype=targets.values.dtype)
        for number in np.unique(known["candidate"]):
            some = np.flatnonzero(known["candidate"] == number)
            solved, basis = self.system.whole(
                self.shares[number], lambda matrix: device.decomposed(matrix, self.alphas.min(), targets.values.dtype)
            )
            turned = solved.damped_each(basis.T @ coordinates[:, device.at(some)], self.alphas[known["alpha"][some]])
            weights[:, some] = device.fetch(self.system.weights(basis @ turned, self.shares[number]))
        weights *= targets.scale.astype(weights.dtype)
        weights[:, targets.missing] = np.nan
        found = {
            "intercept": targets.mean - self.system.rows.mean @ weights,
            "missing": targets.missing,
            "constant": targets.constant,
        }
        return Solved(weights, found)
