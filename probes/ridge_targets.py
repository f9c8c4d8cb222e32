"""Targets taken some at a time, here, in other processes, or on other machines; and what is said of odd ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from joblib import Parallel, delayed, effective_n_jobs

#: A share of targets that choose the first or the last penalty above which that is said.
EDGE = 0.1


class Solved(NamedTuple):
    """What was found for some targets: weights (feature, target), if so far, and one number, or column, for each."""

    weights: Float[np.ndarray, "feature target"] | None
    found: dict[str, np.ndarray]


@runtime_checkable
class Problem(Protocol):
    """All that targets share."""

    def solve(self, Y: np.ndarray, known: dict[str, np.ndarray]) -> Solved:
        """Fit some targets, of which something may be known."""
        ...


@dataclass(frozen=True, eq=False)
class Job:
    """A problem and some targets in one parcel.

    One parcel, and not two arguments: a scheduler then holds all that a block needs, and can give it to another
    worker when one is lost.
    """

    problem: Problem
    targets: np.ndarray
    known: dict[str, np.ndarray]


def in_blocks(
    problem: Problem, Y: np.ndarray, size: int, n_jobs: int | None, known: dict[str, np.ndarray] | None = None
) -> Iterator[tuple[slice, Solved]]:
    """Solve ``size`` targets at a time, in order, each with its part of what is ``known`` (last axis: target).

    Wherever ``joblib.parallel_config`` says: in this process unless it, or ``n_jobs``, asks for more. Only the
    blocks at work are read from a memory map.
    """
    n_targets = Y.shape[1]
    workers = effective_n_jobs(n_jobs)
    size = max(1, min(size, -(-n_targets // workers)))
    places = [slice(start, min(start + size, n_targets)) for start in range(0, n_targets, size)]
    if workers == 1:
        for place in places:
            yield place, problem.solve(np.asarray(Y[:, place]), _part(known, place))
        return
    jobs = (delayed(_solve)(Job(problem, np.ascontiguousarray(Y[:, at]), _part(known, at))) for at in places)
    yield from zip(places, Parallel(n_jobs=n_jobs, return_as="generator")(jobs), strict=True)


def assembled(
    blocks: Iterator[tuple[slice, Solved]], n_features: int, n_targets: int, dtype: np.dtype
) -> tuple[Float[np.ndarray, "feature target"], dict[str, np.ndarray]]:
    """Blocks of targets side by side."""
    weights, found = np.empty((n_features, n_targets), dtype=dtype), {}
    for place, solved in blocks:
        if solved.weights is not None:
            weights[:, place] = solved.weights
        for name, values in solved.found.items():
            if name not in found:
                found[name] = np.empty((*values.shape[:-1], n_targets), dtype=values.dtype)
            found[name][..., place] = values
    return weights, found


def say_what_is_odd(missing: Int[np.ndarray, " some"], constant: Int[np.ndarray, " other"], n_targets: int) -> None:
    """Warn of targets that could not be fitted; refuse if none could for want of numbers.

    Raises
    ------
    ValueError
        If every target has a NaN or an infinite value.
    """
    if len(missing) == n_targets:
        raise ValueError(f"y contains NaN or infinity in every one of its {n_targets} targets; nothing can be fitted")
    for odd, what, fate in (
        (missing, "hold NaN or infinite values", "NaN is predicted for them; see missing_targets_"),
        (constant, "are constant", "their constant is predicted; see constant_targets_"),
    ):
        if len(odd):
            named = ", ".join(map(str, odd[:5].tolist())) + ", …" * (len(odd) > 5)
            warnings.warn(f"{len(odd)} of {n_targets} targets {what} ({named}): {fate}", UserWarning, stacklevel=4)


def say_what_is_at_the_edge(
    alphas: Float[np.ndarray, " alpha"], alpha: Float[np.ndarray, " target"]
) -> tuple[int, int]:
    """How many targets chose the least and the largest penalty; a warning if many did."""
    fitted = alpha[np.isfinite(alpha)]
    counts = tuple(int((fitted == edge).sum()) for edge in (alphas.min(), alphas.max()))
    if len(alphas) > 1 and max(counts) > EDGE * max(len(fitted), 1):
        warnings.warn(
            f"of {len(fitted)} targets {counts[0]} chose the least penalty ({alphas.min():g}) and {counts[1]} the "
            f"largest ({alphas.max():g}); a wider grid of alphas may predict better",
            UserWarning,
            stacklevel=4,
        )
    return counts


def _solve(job: Job) -> Solved:
    return job.problem.solve(job.targets, job.known)


def _part(known: dict[str, np.ndarray] | None, place: slice) -> dict[str, np.ndarray]:
    return {} if known is None else {name: values[..., place] for name, values in known.items()}
