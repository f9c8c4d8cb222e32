"""Ridge regression for very many targets, each with its own penalty, chosen on held-out folds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data

from nextlens.models.arguments import one_of
from nextlens.probes.ridge import penalties
from nextlens.probes.ridge_blocks import block_of, chosen, explained_of, held_out_errors, screened
from nextlens.probes.ridge_device import Array, Decomposed, device_of
from nextlens.probes.ridge_memory import need, products_in
from nextlens.probes.ridge_rows import reduced_rows
from nextlens.probes.ridge_search import generalised_guess
from nextlens.probes.ridge_splits import Split, checked_splits
from nextlens.probes.ridge_systems import Dual, Fold, Primal, System
from nextlens.probes.ridge_targets import Solved, assembled, in_blocks, say_what_is_at_the_edge, say_what_is_odd

#: The penalties tried unless told otherwise.
ALPHAS = tuple(10.0**power for power in range(-1, 8))


class RidgeCV(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Ridge regression with a penalty per target, chosen by cross-validation.

    For each target, and with α in scikit-learn's convention, minimises over w and c::

        Σ (y - c - x·w)² + α |w|²

    The α of a target is the one of least squared error over all rows that the folds test, taken together. Each
    fold is decomposed once, in float64, for all penalties and all targets; targets are taken in blocks, so that
    ``y`` may be a memory map. Blocks run wherever ``joblib.parallel_config`` says.

    Some published code squares its penalties (``S / (S² + α²)``): its α is the root of this one.

    Parameters
    ----------
    alphas : sequence of float
        Penalties to try. The largest wins ties.
    cv : int or splitter, default=5
        As in :func:`~sklearn.model_selection.check_cv`; but an integer means that many folds of whole groups where
        :meth:`fit` is given ``groups``. Rows of a time series are not exchangeable: give groups.
    search : {"walk", "grid"}, default="walk"
        Whether each target walks downhill from a penalty guessed by generalised cross-validation, trying three or
        four of ten; or tries all.
    form : {"auto", "primal", "dual"}, default="auto"
        Systems over features, or over rows; the smaller of both unless told otherwise.
    memory : float, optional
        Bytes that may be used beyond the data and what is returned, in each process. Refused if too few.
    n_jobs : int, optional
        As in joblib; None leaves it to ``joblib.parallel_config``.
    device : Device, optional
        Where products and decompositions are done, such as :class:`nextlens.models.torch_device.TorchDevice`; None for
        NumPy. Features go there once, targets block by block, and ``memory`` is that of the device; what comes back is
        NumPy's. In float64 the numbers are those of NumPy to 1e-6.

    Attributes
    ----------
    coef_ : array of shape (n_targets, n_features) or (n_features,)
    intercept_ : array of shape (n_targets,) or float
    alpha_ : array of shape (n_targets,) or float
        NaN for targets that could not be fitted.
    cv_score_ : array of shape (n_targets,) or float
        R² over all rows tested, of the penalty chosen. It has chosen the penalty, so it flatters a little. NaN for
        targets that could not be fitted.
    cv_scores_ : array of shape (n_alphas, n_targets) or (n_alphas,)
        The same of every penalty, in the order of ``alphas``. Only with ``search="grid"``.
    constant_targets_, missing_targets_ : arrays of int
        Targets with one value only, whose weights are 0 and whose prediction is that value; and targets with NaN or
        infinite values, whose weights and prediction are NaN. Both are counted in a warning; the others are fitted
        as if these were not there.
    form_ : {"primal", "dual"}
    products_ : {"float32", "float64"}
        The precision of the products with targets: see :func:`nextlens.probes.ridge_memory.products_in`.
    at_edge_ : tuple of int
        How many targets chose the least and the largest penalty.
    block_size_ : int
        Targets taken at a time.
    tried_ : float
        Penalties tried, mean over targets.

    Examples
    --------
    >>> X = np.random.default_rng(0).standard_normal((60, 4))
    >>> Y = X[:, :2] + 0.5 * np.random.default_rng(1).standard_normal((60, 2))
    >>> ridge = RidgeCV(alphas=(1e-5, 1e-1, 1.0, 10.0, 1e3), cv=3).fit(X, Y, groups=np.arange(60) // 4)
    >>> ridge.alpha_.tolist(), ridge.form_, ridge.coef_.shape
    ([1.0, 0.1], 'primal', (2, 4))
    """

    def __init__(self, alphas=ALPHAS, *, cv=5, search="walk", form="auto", memory=None, n_jobs=None, device=None):
        self.alphas = alphas
        self.cv = cv
        self.search = search
        self.form = form
        self.memory = memory
        self.n_jobs = n_jobs
        self.device = device

    def fit(self, X, y, groups=None):
        """Choose a penalty for each target on held-out folds, then fit on every row.

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
            If a penalty, a shape, the memory or the device is not what it must be, X is not finite, every target has
            values that are not, or folds leak (:func:`nextlens.probes.ridge_splits.checked_splits`).
        """
        device = device_of(self.device, self.n_jobs)
        data = validated(self, X, y, groups)
        n_alphas = len(data.alphas)
        primal = data.primal(one_of("form", self.form, ("auto", "primal", "dual")))
        one_of("search", self.search, ("walk", "grid"))
        bytes_needed = need(
            data.splits, data.X.shape, n_alphas, data.dtype.itemsize, data.Y.dtype.itemsize, primal=primal
        )
        size = bytes_needed.targets(self.memory, data.Y.shape[1])
        rows = reduced_rows(data.X, data.splits, data.dtype, primal=primal, device=device)
        everything = (np.arange(data.X.shape[1]),)
        system = (Primal if primal else Dual)(rows, everything, device)
        problem = _shared(system, data.alphas, data.Y.shape[1], walk=self.search == "walk")
        weights, found = assembled(
            in_blocks(problem, data.Y, size, self.n_jobs), data.X.shape[1], data.Y.shape[1], data.dtype
        )
        self.form_, self.products_, self.block_size_ = system.form, data.dtype.name, size
        self.tried_ = float(found["tried"].mean())
        if self.search == "grid":
            order = np.argsort(np.argsort(np.asarray(self.alphas, dtype=np.float64), kind="stable"), kind="stable")
            self.cv_scores_ = one_or_many(found["scores"][order], data.flat)
        keep(self, weights, found, data)
        return self

    def predict(self, X):
        """``X @ coef_.T + intercept_``."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return X @ self.coef_.T + self.intercept_

    def score(self, X, y):
        """R², the mean over targets that were fitted; NaN for a target that does not vary here is left out.

        For a number for each target see :func:`nextlens.probes.voxel_scores.r_squared`.
        """
        return mean_r2(self, X, y)


@dataclass(frozen=True, eq=False)
class Data:
    """Checked input of a fit."""

    X: np.ndarray
    Y: np.ndarray
    flat: bool
    alphas: Float[np.ndarray, " alpha"]
    splits: list[Split]
    dtype: np.dtype

    def primal(self, form: str) -> bool:
        """Whether the smaller system, or the one asked for, is that over features."""
        smallest = min(len(train) for train, _ in self.splits)
        return form == "primal" or (form == "auto" and self.X.shape[1] <= smallest)


def validated(estimator: BaseEstimator, X: object, y: object, groups: object) -> Data:
    """What :meth:`RidgeCV.fit` was given, checked; targets are looked at later, block by block."""
    rows = validate_data(estimator, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    Y = check_array(y, ensure_2d=False, dtype="numeric", ensure_all_finite=False, input_name="y")
    if Y.dtype.kind not in "iufb" or Y.ndim > 2:
        raise ValueError(f"y has shape {Y.shape} and holds {Y.dtype}; it must hold real numbers, one column per target")
    check_consistent_length(rows, Y)
    alphas = np.sort(penalties(estimator.alphas))
    splits = checked_splits(estimator.cv, X, Y, groups, len(rows))
    return Data(rows, Y.reshape(len(Y), -1), Y.ndim == 1, alphas, splits, products_in(rows, Y, alphas.min()))


def one_or_many(values: np.ndarray, flat: bool) -> np.ndarray:
    """Of a single target that came as a vector, the numbers and not a column of them."""
    return values[..., 0] if flat else values


def keep(estimator: BaseEstimator, weights: np.ndarray, found: dict[str, np.ndarray], data: Data) -> None:
    """Give an estimator what every ridge has after a fit, and say what is odd."""
    missing, constant = np.flatnonzero(found["missing"]), np.flatnonzero(found["constant"])
    say_what_is_odd(missing, constant, data.Y.shape[1])
    estimator.missing_targets_, estimator.constant_targets_ = missing, constant
    estimator.coef_ = weights[:, 0] if data.flat else weights.T
    estimator.intercept_ = one_or_many(found["intercept"], data.flat)
    estimator.alpha_ = one_or_many(found["alpha"], data.flat)
    estimator.cv_score_ = one_or_many(found["score"], data.flat)
    estimator.at_edge_ = say_what_is_at_the_edge(data.alphas, found["alpha"])


def mean_r2(estimator: BaseEstimator, X: object, y: object) -> float:
    """R² of the predictions, the mean over targets that were fitted and vary."""
    truth = np.asarray(y, dtype=np.float64)
    truth = truth.reshape(len(truth), -1)
    error = ((truth - np.asarray(estimator.predict(X)).reshape(truth.shape)) ** 2).sum(0)
    each = explained_of(error, ((truth - truth.mean(0)) ** 2).sum(0))
    if not np.isfinite(each).any():
        raise ValueError("y does not vary in any target that was fitted; there is nothing to explain")
    return float(np.nanmean(each))


@dataclass(frozen=True, eq=False)
class _Shared:
    """What every block of targets needs: the folds, and the system of all rows."""

    system: System
    folds: list[Fold]
    whole: Decomposed
    basis: Array
    alphas: Float[np.ndarray, " alpha"]
    walk: bool

    def solve(self, Y: np.ndarray, known: dict[str, np.ndarray]) -> Solved:
        targets = screened(Y, self.system.rows.x.dtype)
        block = block_of(self.system, targets.values)
        turned = self.basis.T @ block.coordinates[-1]
        guess = None
        if self.walk:
            guess = generalised_guess(self.system, self.whole.diagonal, turned, block.total, self.alphas)
        errors = held_out_errors(self.system, self.folds, block, guess)
        best, score = chosen(errors, block)
        solution = self.basis @ self.whole.damped_each(turned, self.alphas[best])
        weights = self.system.device.fetch(self.system.weights(solution, np.ones(1)))
        weights *= targets.scale.astype(weights.dtype)
        weights[:, targets.missing] = np.nan
        odd = targets.missing | targets.constant
        found = {
            "intercept": targets.mean - self.system.rows.mean @ weights,
            "alpha": np.where(odd, np.nan, self.alphas[best]),
            "score": np.where(odd, np.nan, score),
            "missing": targets.missing,
            "constant": targets.constant,
            "tried": np.isfinite(errors).sum(0),
        }
        if not self.walk:
            found["scores"] = np.where(odd, np.nan, explained_of(errors + block.lost, block.spread))
        return Solved(weights, found)


def _shared(system: System, alphas: Float[np.ndarray, " alpha"], n_targets: int, *, walk: bool) -> _Shared:
    """Decompose every fold and the whole, and let go of what was only needed for that."""
    shares = np.ones(1)
    folds = []
    for i in range(system.rows.n_folds):
        joined = len(alphas) * len(system.rows.test[i]) < n_targets
        folds.append(system.fold(i, shares, alphas, joined=joined))
    whole, basis = system.whole(shares, system.device.eigenvectors)
    bare = replace(system, rows=replace(system.rows, grams=None))
    whole = replace(whole, basis=system.device.empty((0, len(whole.diagonal)), np.float64))
    return _Shared(bare, folds, whole, basis, alphas, walk)
