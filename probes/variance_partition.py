"""Which feature space explains what: shares of one joint fit, or differences between fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.probes.ridge import refuse_not_finite, refuse_unequal_lengths
from nextlens.probes.voxel_scores import flat, r_squared

#: Feature spaces that are partitioned by separate fits at most: 7 fits for three.
MOST_SPACES = 3


def product_measure(
    truth: Float[np.ndarray, "row target"], parts: Mapping[str, Float[np.ndarray, "row target"]]
) -> xr.Dataset:
    """How much of R² and of r each band of one joint fit gives, where ``ŷ = Σ_k ŷ_k``.

    With all centred over these rows::

        r2[k] = Σ ŷ_k (2 y - ŷ) / Σ y²          sums to R² of centred ŷ exactly
        r[k]  = Σ ŷ_k y / √(Σ ŷ² Σ y²)          sums to r exactly

    Shares may be negative. R² here is of the centred prediction: what a wrong mean would cost is left out.

    Parameters
    ----------
    truth : array of shape (row, target)
    parts : mapping from a band's name to its prediction, of the same shape

    Returns
    -------
    Dataset
        ``r2`` and ``r``, dims (band, target); NaN for a constant truth, 0 where the whole guess is constant.

    Raises
    ------
    ValueError
        If there is no band, shapes differ, or a value is not finite.

    Notes
    -----
    Pratt, "Dividing the indivisible", 1987; for banded ridge, Dupré la Tour et al., NeuroImage 264, 2022.
    """
    if not parts:
        raise ValueError("parts is empty; at least one band is needed")
    refuse_not_finite(truth=truth)
    for name, part in parts.items():
        refuse_unequal_lengths(**{"truth": truth, f"parts[{name!r}]": part})
        if part.shape != truth.shape:
            raise ValueError(f"parts[{name!r}] has shape {part.shape}; truth has {truth.shape}, and they must agree")
        refuse_not_finite(**{f"parts[{name!r}]": part})
    y = truth.astype(np.float64) - truth.astype(np.float64).mean(0)
    split = np.stack([part.astype(np.float64) - part.astype(np.float64).mean(0) for part in parts.values()])
    whole = split.sum(0)
    yy, gg = (y**2).sum(0), (whole**2).sum(0)
    undefined = flat(truth)
    r2 = _over(np.einsum("brt,rt->bt", split, 2 * y - whole), yy, undefined)
    r = _over(np.einsum("brt,rt->bt", split, y), np.sqrt(yy * gg), undefined)
    return xr.Dataset({"r2": (("band", "target"), r2), "r": (("band", "target"), r)}, coords={"band": list(parts)})


def set_partition(r2: Mapping[frozenset[str], Float[np.ndarray, " target"]]) -> xr.Dataset:
    """What each set of feature spaces, and nothing outside it, explains: by inclusion and exclusion of separate fits.

    Of two, ``unique A = R²_AB - R²_B`` and ``shared = R²_A + R²_B - R²_AB``. Parts sum to the R² of all spaces. On
    rows held out a part may be negative, and is left so.

    Parameters
    ----------
    r2 : mapping from a set of names to R² of each target
        One fit for every non-empty set of at most three spaces.

    Returns
    -------
    Dataset
        ``r2``, dims (part, target); a part is named by its spaces joined with " & ".

    Raises
    ------
    ValueError
        If there are more than three spaces, or a fit is missing.

    Examples
    --------
    >>> fits = {frozenset("A"): np.array([0.3]), frozenset("B"): np.array([0.2]), frozenset("AB"): np.array([0.4])}
    >>> set_partition(fits).r2.values.round(3).ravel().tolist()
    [0.2, 0.1, 0.1]
    """
    names = sorted(set().union(*r2)) if r2 else []
    if not 1 <= len(names) <= MOST_SPACES:
        raise ValueError(
            f"r2 holds {len(names)} feature spaces; 1 to {MOST_SPACES} can be partitioned by separate fits"
        )
    subsets = [frozenset(c) for size in range(1, len(names) + 1) for c in combinations(names, size)]
    for subset in subsets:
        if subset not in r2:
            raise ValueError(f"r2 lacks the fit with {' and '.join(sorted(subset))}")
    explained = {frozenset(): np.zeros_like(r2[subsets[-1]])} | dict(r2)
    parts = [_only(subset, frozenset(names), explained) for subset in subsets]
    return xr.Dataset(
        {"r2": (("part", "target"), np.array(parts))}, coords={"part": [" & ".join(sorted(s)) for s in subsets]}
    )


def partition_interval(
    truth: Float[np.ndarray, "row target"],
    guesses: Mapping[frozenset[str], Float[np.ndarray, "row target"]],
    blocks: Sequence[np.ndarray],
    rng: np.random.Generator,
    *,
    draws: int = 500,
) -> xr.Dataset:
    """:func:`set_partition` of the mean R² over targets, with 95 % intervals from blocks of rows drawn anew.

    Returns
    -------
    Dataset
        ``r2``, ``low`` and ``high`` along ``part``.

    Raises
    ------
    ValueError
        As :func:`set_partition`.
    """

    def shares(rows: np.ndarray) -> np.ndarray:
        fits = {key: r_squared(truth[rows], guess[rows]) for key, guess in guesses.items()}
        return np.nanmean(set_partition(fits).r2.values, axis=1)

    whole = shares(np.concatenate(list(blocks)))
    drawn = [
        shares(np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks))])) for _ in range(draws)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    names = set_partition({key: r_squared(truth, guess) for key, guess in guesses.items()}).part.coords["part"]
    return xr.Dataset({"r2": ("part", whole), "low": ("part", low), "high": ("part", high)}, coords={"part": names})


def _only(
    subset: frozenset[str], names: frozenset[str], explained: Mapping[frozenset[str], np.ndarray]
) -> Float[np.ndarray, " target"]:
    """What all of ``subset`` explain in common and none of the others does.

    ``Σ_{T ⊆ S, T ≠ ∅} (-1)^{|T|+1} R²(outside ∪ T) - R²(outside)`` over the spaces outside S.
    """
    outside = names - subset
    total = -explained[outside]
    for size in range(1, len(subset) + 1):
        for chosen in combinations(sorted(subset), size):
            total = total + (-1) ** (size + 1) * explained[outside | frozenset(chosen)]
    return total


def _over(top, bottom, undefined):
    found = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    return np.where(undefined, np.nan, found)
