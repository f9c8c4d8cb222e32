"""CPU seconds and memory of the full labelled probe, beside scikit-learn and plain least squares.

Every sequence of 10 tokens over 3 letters, 59,049 x 10 rows, 64 features, 3 targets; synthetic
activations: a linear code of random beliefs per prefix, with noise per prefix. Run with
``OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/probes.py``; fewer tokens as first argument.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from time import process_time

import numpy as np
import xarray as xr
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from nextlens.probes.belief import ALPHAS, held_out
from nextlens.probes.ridge import r2
from nextlens.probes.samples import Samples, distinct, pair

FEATURES, STATES, SPLITS = 64, 3, 5


def recording(length: int, rng: np.random.Generator) -> tuple[xr.DataArray, xr.DataArray]:
    """Activations and beliefs of every sequence, labelled as a recording is."""
    tokens = np.arange(3**length)[:, None] // 3 ** np.arange(length - 1, -1, -1) % 3
    prefix = np.cumsum(tokens * 3 ** np.arange(length), axis=1) + (3 ** np.arange(1, length + 1) - 3) // 2
    beliefs = rng.dirichlet(np.ones(STATES), size=prefix.max() + 1)
    code = beliefs @ rng.standard_normal((STATES, FEATURES))
    code = (code + 0.3 * rng.standard_normal(code.shape)).astype(np.float32)
    dims, labels = ("sequence", "position"), {"sequence": np.arange(3**length), "position": np.arange(length)}
    activations = xr.DataArray(
        code[prefix], dims=(*dims, "feature"), coords=labels | {"prefix": (dims, prefix)}, name="site"
    )
    return activations, xr.DataArray(beliefs[prefix], dims=(*dims, "state"), coords=labels, name="beliefs")


def grid_search(samples: Samples, fold: np.ndarray) -> np.ndarray:
    """Nested cross-validation of scikit-learn's Ridge over the same folds and penalties."""
    X, Y, _ = samples
    grid = {"alpha": [alpha * float(X.var(0).mean()) * len(X) for alpha in ALPHAS]}
    prediction = np.empty(Y.shape)
    for i in range(SPLITS):
        rest, out = fold != i, fold == i
        inner = PredefinedSplit(fold[rest])
        search = GridSearchCV(Ridge(), grid, cv=inner).fit(X[rest].astype(np.float64), Y[rest])
        prediction[out] = search.predict(X[out].astype(np.float64))
    return prediction


def least_squares(samples: Samples, fold: np.ndarray) -> np.ndarray:
    """One least-squares fit per fold: no penalty, nothing chosen."""
    X, Y, _ = samples
    prediction = np.empty(Y.shape)
    for i in range(SPLITS):
        rest, out = fold != i, fold == i
        design = np.hstack([X[rest].astype(np.float64), np.ones((rest.sum(), 1))])
        W = np.linalg.lstsq(design, Y[rest], rcond=None)[0]
        prediction[out] = X[out] @ W[:-1] + W[-1]
    return prediction


def measure(name: str, run: Callable[[], float]) -> float:
    """Print and return the CPU seconds of ``run``, with its held-out R² and peak memory."""
    tracemalloc.start()
    start = process_time()
    score = run()
    seconds = process_time() - start
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    print(f"{name:<52} {seconds:8.2f} s {peak:8.0f} MiB   held-out R² {score:.6f}", flush=True)
    return seconds


def main(length: int) -> None:
    activations, beliefs = recording(length, np.random.default_rng(0))
    rows = f"{activations.size // FEATURES:,} rows x {FEATURES} features -> {STATES} targets"
    print(f"{rows}, {SPLITS} nested folds by prefix, {len(ALPHAS)} penalties; CPU seconds, memory beyond the data")

    def all_rows() -> float:
        return held_out(*pair(activations, beliefs, groups="prefix"), n_splits=SPLITS).r2

    def distinct_rows() -> float:
        few, counts = distinct(pair(activations, beliefs, groups="prefix"))
        return held_out(*few, weights=counts.astype(float), n_splits=SPLITS).r2

    seconds = measure("nextlens: pair, held_out", all_rows)
    measure("nextlens: pair, distinct, held_out by counts", distinct_rows)
    samples = pair(activations, beliefs, groups="prefix")
    fold = held_out(*samples, n_splits=SPLITS).fold
    measure("numpy: lstsq per fold, no penalty", lambda: r2(samples.Y, least_squares(samples, fold)))
    measure("scikit-learn: GridSearchCV of Ridge, same folds", lambda: r2(samples.Y, grid_search(samples, fold)))
    if length == 10:
        print(f"budget 5 s: {'kept' if seconds <= 5 else 'MISSED'}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
