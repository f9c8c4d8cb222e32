"""Whether a matcher finds what its teacher finds: the nearest of many contexts, and the order of all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata


class Retrieval(NamedTuple):
    """Means over queries; of keys at one distance any may come first, and the mean is over their orders.

    Attributes
    ----------
    recall_at_1, recall_at_5 : float
        How often the teacher's nearest key is the student's nearest, or among its five nearest.
    reciprocal_rank : float
        Of the teacher's nearest key among the student's.
    rank_correlation : float
        Spearman's, between the student's distances and the teacher's; NaN if either has only ties.
    keys : int
        From how many: by chance recall is 1 and 5 in so many.
    """

    recall_at_1: float
    recall_at_5: float
    reciprocal_rank: float
    rank_correlation: float
    keys: int


def retrieval(student: Float[np.ndarray, "query key"], teacher: Float[np.ndarray, "query key"]) -> Retrieval:
    """How well distances of a student stand for those of a teacher.

    Raises
    ------
    ValueError
        If shapes differ, there is no query or no key, or a distance is NaN.

    Examples
    --------
    >>> teacher = np.array([[0.0, 1.0, 2.0], [3.0, 2.0, 1.0]])
    >>> retrieval(teacher**2, teacher).recall_at_1, round(retrieval(0 * teacher, teacher).recall_at_1, 3)
    (1.0, 0.333)
    """
    if student.shape != teacher.shape or 0 in student.shape:
        raise ValueError(
            f"student has shape {student.shape} and teacher {teacher.shape}; "
            "both must be one distance for each query and each key"
        )
    if np.isnan(student).any() or np.isnan(teacher).any():
        raise ValueError("a distance is NaN")
    n_keys = student.shape[1]
    own = np.take_along_axis(student, teacher.argmin(1)[:, None], axis=1)
    before, tied = (student < own).sum(1), (student == own).sum(1)
    reciprocal = np.cumsum(1 / np.arange(1, n_keys + 1))
    through = reciprocal[before + tied - 1] - np.where(before > 0, reciprocal[before - 1], 0)
    ranks = [rankdata(distances, axis=1) - (n_keys + 1) / 2 for distances in (student, teacher)]
    spread = np.sqrt((ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1))
    correlation = (ranks[0] * ranks[1]).sum(1)[spread > 0] / spread[spread > 0]
    return Retrieval(
        float(np.clip((1 - before) / tied, 0, 1).mean()),
        float(np.clip((5 - before) / tied, 0, 1).mean()),
        float((through / tied).mean()),
        float(correlation.mean()) if len(correlation) else float("nan"),
        n_keys,
    )
