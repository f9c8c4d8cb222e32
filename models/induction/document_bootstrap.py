"""Means over predictions with intervals over documents: predictions within one are not independent."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least


def document_means(
    values: Float[np.ndarray, "*shape row"],
    document: Int[np.ndarray, " row"],
    *,
    rng: np.random.Generator,
    draws: int = 2000,
) -> Float[np.ndarray, " draw *shape"]:
    """Means over rows when whole documents are drawn anew, with replacement, as many as there are.

    Everything in ``values`` is averaged over the same draws, so differences of two means are paired.

    Parameters
    ----------
    values : Float[np.ndarray, "... row"]
    document : Int[np.ndarray, "row"]
        Whose rows stay together: a document, or a stretch of it.

    Raises
    ------
    ValueError
        If there is no row, or ``draws`` is below 1.
    """
    at_least("the number of rows", len(document), 1)
    at_least("draws", draws, 1)
    _, member = np.unique(document, return_inverse=True)
    n = member.max() + 1
    size = np.bincount(member)
    flat = values.reshape(-1, len(document))
    sums = np.stack([np.bincount(member, row, minlength=n) for row in flat])
    times = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    means = (times @ sums.T) / (times @ size)[:, None]
    return means.reshape(draws, *values.shape[:-1])


def interval_95(
    drawn: Float[np.ndarray, " draw *shape"],
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Where the middle 95 % of the draws lie."""
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return np.asarray(low), np.asarray(high)
