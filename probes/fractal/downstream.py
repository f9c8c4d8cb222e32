"""Does an exponent of surprisal say more of a model's scores than its bits per byte? Fits, held out, permuted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least

#: Permutations within families that are listed; beyond, so many are drawn.
MOST_PERMUTATIONS = 20_000


class Fit(NamedTuple):
    """A line through the scores of models.

    Attributes
    ----------
    adjusted : float
        ``1 - (1 - R²)(n - 1) / (n - k - 1)``.
    left_out : float
        ``1 - Σ (y_i - ŷ_{-i})² / Σ (y_i - ȳ)²``: each model predicted by the others. Below 0 the mean does better.
    """

    adjusted: float
    left_out: float


class Added(NamedTuple):
    """What an exponent adds to the reciprocal of bits per byte.

    Attributes
    ----------
    adjusted, left_out : float
        Gains over it alone.
    p : float
        Share of permutations of the exponent within families that gain as much R² or more.
    n_permutations : int
        Distinct ones, where they were listed.
    """

    adjusted: float
    left_out: float
    p: float
    n_permutations: int


def fits(
    bits_per_byte: Float[np.ndarray, " model"], hurst: Float[np.ndarray, " model"], score: Float[np.ndarray, " model"]
) -> dict[str, Fit]:
    """The published predictors beside their baselines: the gain of ``1 / BPB + H`` over BPB is mostly the reciprocal.

    Raises
    ------
    ValueError
        If there are fewer than 5 models, lengths differ, a value is not finite, bits are not above 0, or scores or
        exponents are all the same.
    """
    _refuse_unfit(bits_per_byte, hurst, score)
    reciprocal = 1 / bits_per_byte
    regressors = {
        "BPB": bits_per_byte[:, None],
        "1/BPB": reciprocal[:, None],
        "log BPB": np.log(bits_per_byte)[:, None],
        "H": hurst[:, None],
        "1/BPB + H (their sum)": (reciprocal + hurst)[:, None],
        "1/BPB and H": np.stack([reciprocal, hurst], axis=1),
    }
    return {name: fit(x, score) for name, x in regressors.items()}


def fit(x: Float[np.ndarray, "model regressor"], y: Float[np.ndarray, " model"]) -> Fit:
    """Least squares with an intercept, as it is and with every model left out in turn."""
    n, k = x.shape
    at_least("number of models", n, k + 3)
    design = np.column_stack([np.ones(n), x - x.mean(0)])
    hat = design @ np.linalg.pinv(design)
    residual, spread = y - hat @ y, float(((y - y.mean()) ** 2).sum())
    plain = 1 - float(residual @ residual) / spread
    leverage = np.minimum(np.diag(hat), 1 - 1e-12)
    left_out = residual / (1 - leverage)
    return Fit(1 - (1 - plain) * (n - 1) / (n - k - 1), 1 - float(left_out @ left_out) / spread)


def added(
    bits_per_byte: Float[np.ndarray, " model"],
    hurst: Float[np.ndarray, " model"],
    score: Float[np.ndarray, " model"],
    family: Sequence[str],
    rng: np.random.Generator,
) -> Added:
    """What H adds to ``1 / BPB``, against H dealt out anew among the models of each family.

    Models of a family share data, tokens and recipe, so they are not so many independent points: only what
    distinguishes them within their family is permuted.

    Raises
    ------
    ValueError
        As :func:`fits`; or if no family has two models of different H: nothing can be permuted.
    """
    _refuse_unfit(bits_per_byte, hurst, score)
    if len(family) != len(hurst):
        raise ValueError(f"family has {len(family)} names for {len(hurst)} models; each model has one")
    names = np.asarray(family)
    groups = [np.flatnonzero(names == name) for name in dict.fromkeys(family)]
    if all(len(set(hurst[group].tolist())) < 2 for group in groups):
        raise ValueError("no family has two models of different H: nothing can be permuted within families")
    reciprocal = 1 / bits_per_byte
    alone, both = fit(reciprocal[:, None], score), fit(np.stack([reciprocal, hurst], 1), score)
    base = np.column_stack([np.ones(len(score)), reciprocal])
    project = np.eye(len(score)) - base @ np.linalg.pinv(base)
    left = project @ score

    def gain(h: Float[np.ndarray, " model"]) -> float:
        own = project @ h
        size = float(own @ own)
        return float(own @ left) ** 2 / size if size > 1e-18 else 0.0

    observed = gain(hurst)
    counted = [gain(hurst[order]) for order in _orders(groups, hurst, rng)]
    above = sum(one >= observed - 1e-12 for one in counted)
    return Added(both.adjusted - alone.adjusted, both.left_out - alone.left_out, above / len(counted), len(counted))


def between_families(values: Float[np.ndarray, " model"], family: Sequence[str]) -> float:
    """Share of the variance of values that lies between the means of families."""
    names = np.asarray(family)
    means = np.array([values[names == name].mean() for name in family])
    return float(((means - values.mean()) ** 2).sum() / ((values - values.mean()) ** 2).sum())


def _orders(
    groups: Sequence[Int[np.ndarray, " _"]], hurst: Float[np.ndarray, " model"], rng: np.random.Generator
) -> Iterator[Int[np.ndarray, " model"]]:
    """All arrangements within families, the one at hand among them; or as many as are drawn, and that one."""
    order = np.arange(len(hurst))
    if math.prod(math.factorial(len(group)) for group in groups) <= MOST_PERMUTATIONS:
        for some in itertools.product(*(itertools.permutations(group.tolist()) for group in groups)):
            for group, permuted in zip(groups, some, strict=True):
                order[group] = permuted
            yield order.copy()
        return
    yield order
    for _ in range(MOST_PERMUTATIONS - 1):
        drawn = order.copy()
        for group in groups:
            drawn[group] = rng.permutation(group)
        yield drawn


def _refuse_unfit(
    bits_per_byte: Float[np.ndarray, " model"], hurst: Float[np.ndarray, " model"], score: Float[np.ndarray, " model"]
) -> None:
    at_least("number of models", len(score), 5)
    for name, values in (("bits per byte", bits_per_byte), ("H", hurst), ("scores", score)):
        if len(values) != len(score) or not np.isfinite(values).all():
            raise ValueError(f"{name} must be {len(score)} finite numbers")
        if np.ptp(values) == 0:
            raise ValueError(f"{name} are all {values[0]}; nothing can be fitted to them")
    if not (bits_per_byte > 0).all():
        raise ValueError(f"bits per byte hold {bits_per_byte.min()}; they must be above 0")
