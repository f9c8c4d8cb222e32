"""CPU seconds, memory and held-out correlation of ridges with a penalty per target, side by side with their peers.

A: 3000 rows, 300 autoregressive features at delays 1-4 (1200 columns), 10,000 targets with 0-50 % of explained
variance, 10 penalties from 1 to 1e6, 5 contiguous folds, float32, 300 test rows. banded: the same rows, two spaces of
600 columns, 2,000 targets, 4 candidates; banded10k: with 10,000. long: 33,876 rows, 204 columns, 200 targets, 12
penalties. map: as A, with 100,000 targets on disk.

Every case runs in a process of its own, one BLAS thread, one after another. Memory is the high-water mark of the whole
process, reset after the data have been made; "beyond" is what the fit added. Run with
``python benchmarks/encoding_ridge.py``, or name cases: ``python benchmarks/encoding_ridge.py A.nextlens A.himalaya``.
``--shrink 4`` divides targets and rows, for a look. himalaya and torch are left out where they are not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

FOLDS, TEST_ROWS = 5, 300
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
#: Candidates of a banded search, for which both sides get the same list.
GAMMAS = np.array([[0.5, 0.5], [0.1, 0.9], [0.9, 0.1], [0.3, 0.7]])


def autoregressive(n: int, features: int, rng: np.random.Generator) -> np.ndarray:
    """Features with lag-one correlations of .5 to .95, at delays 1-4, z-scored."""
    memory = rng.uniform(0.5, 0.95, features)
    state = rng.standard_normal((n + 4, features))
    for row in range(1, n + 4):
        state[row] = memory * state[row - 1] + np.sqrt(1 - memory**2) * state[row]
    delayed = np.hstack([state[4 - delay : 4 - delay + n] for delay in (1, 2, 3, 4)])
    return ((delayed - delayed.mean(0)) / delayed.std(0)).astype(np.float32)


def problem(rows: int, features: int, targets: int, path: Path | None = None) -> tuple[np.ndarray, ...]:
    """Training rows and test rows; targets on disk if there is a path."""
    rng = np.random.default_rng(0)
    X = autoregressive(rows + TEST_ROWS, features, rng)
    explained = rng.uniform(0.0, 0.5, targets)
    Y = np.empty((rows, targets), np.float32) if path is None else None
    if path is not None:
        Y = np.lib.format.open_memmap(path, "w+", np.float32, (rows, targets))
    Y_test = np.empty((TEST_ROWS, targets), np.float32)
    for start in range(0, targets, 1000):
        some = slice(start, min(start + 1000, targets))
        signal = X @ rng.standard_normal((X.shape[1], some.stop - some.start)).astype(np.float32)
        signal /= signal.std(0)
        noise = rng.standard_normal(signal.shape).astype(np.float32)
        both = np.sqrt(explained[some]) * signal + np.sqrt(1 - explained[some]) * noise
        Y[:, some], Y_test[:, some] = both[:rows], both[rows:]
    return X[:rows], Y, X[rows:], Y_test


def mean_r(truth: np.ndarray, guess: np.ndarray) -> float:
    """Pearson correlation, the mean over targets."""
    truth, guess = truth - truth.mean(0), guess - guess.mean(0)
    return float(((truth * guess).sum(0) / np.sqrt((truth**2).sum(0) * (guess**2).sum(0))).mean())


def contiguous(n_rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Five blocks of neighbours, tested in turn."""
    parts = np.array_split(np.arange(n_rows), FOLDS)
    return [(np.concatenate(parts[:i] + parts[i + 1 :]), parts[i]) for i in range(FOLDS)]


def nextlens(X, Y, alphas, **options):
    """RidgeCV of this project."""
    from nextlens.probes.ridge_cv import RidgeCV

    ridge = RidgeCV(alphas, cv=contiguous(len(X)), **options).fit(X, Y)
    told = f"{ridge.form_}, {ridge.products_}, {ridge.tried_:.1f} penalties a target, blocks of {ridge.block_size_}"
    return ridge.predict, ridge.alpha_, told


def himalaya_ridge(X, Y, alphas, backend="numpy", **solver):
    """RidgeCV of himalaya, as users call it or with its batches."""
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV

    set_backend(backend)
    ridge = RidgeCV(alphas, fit_intercept=True, cv=contiguous(len(X)), solver_params=solver or None).fit(X, Y)
    return lambda rows: np.asarray(ridge.predict(rows)), np.asarray(ridge.best_alphas_), "svd"


def himalaya_kernel(X, Y, alphas, backend="numpy"):
    """KernelRidgeCV of himalaya."""
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV

    set_backend(backend)
    ridge = KernelRidgeCV(alphas, kernel="linear", fit_intercept=True, cv=contiguous(len(X))).fit(X, Y)
    return lambda rows: np.asarray(ridge.predict(rows)), np.asarray(ridge.best_alphas_), "kernel"


def scikit_learn(X, Y, alphas, **options):
    """RidgeCV of scikit-learn: leave-one-out with a penalty per target, or folds with one penalty for all."""
    from sklearn.linear_model import RidgeCV

    ridge = RidgeCV(alphas, **options).fit(X, Y)
    return ridge.predict, np.atleast_1d(ridge.alpha_), "leave-one-out" if "cv" not in options else "one penalty for all"


def plain_numpy(X, Y, alphas):
    """What a laboratory would write: one eigendecomposition a fold, every penalty, all targets at once."""
    mean_x, mean_y = X.mean(0), Y.mean(0)
    error = np.zeros((len(alphas), Y.shape[1]))
    for train, test in contiguous(len(X)):
        x, y = X[train] - X[train].mean(0), Y[train] - Y[train].mean(0)
        values, Q = np.linalg.eigh(x.T.astype(np.float64) @ x)
        b, z = Q.astype(np.float32).T @ (x.T @ y), (X[test] - X[train].mean(0)) @ Q.astype(np.float32)
        held = Y[test] - Y[train].mean(0)
        for i, alpha in enumerate(alphas):
            error[i] += ((held - (z / (values + alpha).astype(np.float32)) @ b) ** 2).sum(0)
    alpha = alphas[error.argmin(0)]
    x = X - mean_x
    values, Q = np.linalg.eigh(x.T.astype(np.float64) @ x)
    Q = Q.astype(np.float32)
    W = Q @ ((Q.T @ (x.T @ (Y - mean_y))) / (values[:, None] + alpha).astype(np.float32))
    return lambda rows: (rows - mean_x) @ W + mean_y, alpha, "eigh"


def nextlens_banded(X, Y, alphas, gammas=GAMMAS, **options):
    """BandedRidgeCV of this project, candidates given."""
    from nextlens.probes.banded_ridge import BandedRidgeCV

    half = X.shape[1] // 2
    bands = {"first": slice(0, half), "second": slice(half, None)}
    ridge = BandedRidgeCV(bands, alphas, cv=contiguous(len(X)), candidates=gammas, refinements=0, **options).fit(X, Y)
    return ridge.predict, ridge.alpha_, f"{ridge.form_}, {ridge.tried_:.1f} penalties a target and candidate"


def himalaya_group(X, Y, alphas, gammas=GAMMAS, backend="numpy", **solver):
    """Banded ridge of himalaya over features, candidates given."""
    from himalaya.backend import set_backend
    from himalaya.ridge import solve_group_ridge_random_search

    set_backend(backend)
    half = X.shape[1] // 2
    mean_x, mean_y = X.mean(0), Y.mean(0)
    deltas, W, _ = solve_group_ridge_random_search(
        [X[:, :half] - mean_x[:half], X[:, half:] - mean_x[half:]],
        Y - mean_y,
        n_iter=gammas.astype(np.float32),
        alphas=alphas.astype(np.float32),
        cv=FOLDS,
        return_weights=True,
        progress_bar=False,
        **solver,
    )
    return lambda rows: (rows - mean_x) @ np.asarray(W) + mean_y, 1 / np.asarray(np.exp(deltas).sum(0)), "svd"


def himalaya_kernels(X, Y, alphas, gammas=GAMMAS, backend="numpy", **solver):
    """Banded ridge of himalaya over kernels, candidates given."""
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import solve_multiple_kernel_ridge_random_search

    set_backend(backend)
    half = X.shape[1] // 2
    mean_x, mean_y = X.mean(0), Y.mean(0)
    x = X - mean_x
    kernels = np.stack([x[:, :half] @ x[:, :half].T, x[:, half:] @ x[:, half:].T])
    deltas, W, _ = solve_multiple_kernel_ridge_random_search(
        kernels,
        Y - mean_y,
        n_iter=gammas.astype(np.float32),
        alphas=alphas.astype(np.float32),
        cv=FOLDS,
        return_weights="primal",
        Xs=[x[:, :half], x[:, half:]],
        progress_bar=False,
        **solver,
    )
    W = np.vstack([np.asarray(part) for part in W])
    return lambda rows: (rows - mean_x) @ W + mean_y, 1 / np.asarray(np.exp(deltas).sum(0)), "kernel"


A = {"rows": 3000, "features": 300, "targets": 10_000, "alphas": (0, 6, 10)}
BANDED = A | {"targets": 2_000}
LONG = {"rows": 33_876, "features": 51, "targets": 200, "alphas": (0, 7, 12)}
BATCHES = {"n_targets_batch": 2000, "n_alphas_batch": 2, "n_targets_batch_refit": 2000}

#: Name of a case: its problem, its solver, options, and the module it needs.
CASES: dict[str, tuple[dict, Callable, dict, str]] = {
    "A.nextlens": (A, nextlens, {}, "numpy"),
    "A.nextlens.grid": (A, nextlens, {"search": "grid"}, "numpy"),
    "A.nextlens.500MB": (A, nextlens, {"memory": 5e8}, "numpy"),
    "A.numpy": (A, plain_numpy, {}, "numpy"),
    "A.himalaya.batches": (A, himalaya_ridge, BATCHES, "himalaya"),
    "A.himalaya": (A, himalaya_ridge, {}, "himalaya"),
    "A.himalaya.torch": (A, himalaya_ridge, {"backend": "torch"}, "himalaya"),
    "A.himalaya.kernel": (A, himalaya_kernel, {}, "himalaya"),
    "A.himalaya.kernel.torch": (A, himalaya_kernel, {"backend": "torch"}, "himalaya"),
    "A.sklearn": (A, scikit_learn, {"alpha_per_target": True}, "sklearn"),
    "A.sklearn.folds": (A, scikit_learn, {"cv": FOLDS}, "sklearn"),
    "banded.nextlens": (BANDED, nextlens_banded, {}, "numpy"),
    "banded.nextlens.grid": (BANDED, nextlens_banded, {"search": "grid"}, "numpy"),
    "banded.himalaya.group": (BANDED, himalaya_group, {}, "himalaya"),
    "banded.himalaya.group.torch": (BANDED, himalaya_group, {"backend": "torch"}, "himalaya"),
    "banded.himalaya.kernel": (BANDED, himalaya_kernels, {}, "himalaya"),
    "banded.himalaya.kernel.torch": (BANDED, himalaya_kernels, {"backend": "torch"}, "himalaya"),
    "banded10k.nextlens": (A, nextlens_banded, {}, "numpy"),
    "banded10k.himalaya.group": (A, himalaya_group, BATCHES, "himalaya"),
    "long.nextlens": (LONG, nextlens, {}, "numpy"),
    "long.nextlens.grid": (LONG, nextlens, {"search": "grid"}, "numpy"),
    "long.sklearn": (LONG, scikit_learn, {"alpha_per_target": True}, "sklearn"),
    "long.himalaya.batches": (LONG, himalaya_ridge, {"n_targets_batch": 500, "n_alphas_batch": 2}, "himalaya"),
    "map.nextlens": (A | {"targets": 100_000, "map": True}, nextlens, {"memory": 1e9}, "numpy"),
}


def high_water() -> int:
    """The most memory this process has held, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0


def run(name: str, shrink: int, folder: str) -> dict:
    """One case, in this process."""
    size, solve, options, _ = CASES[name]
    alphas = np.logspace(*size["alphas"])
    path = Path(folder) / "targets.npy" if size.get("map") else None
    X, Y, X_test, Y_test = problem(size["rows"] // shrink, size["features"], size["targets"] // shrink, path)
    if path is not None:
        del Y
        Y = np.load(path, mmap_mode="r")
    if "torch" in name:
        import torch

        torch.set_num_threads(1)
    solve(X[:60, ::40].copy(), np.array(Y[:60, :9]), alphas, **options)  # what is loaded at first use
    Path("/proc/self/clear_refs").write_text("5")
    before, cpu, wall = high_water(), process_time(), perf_counter()
    predict, alpha, told = solve(X, Y, alphas, **options)
    cpu, wall, after = process_time() - cpu, perf_counter() - wall, high_water()
    if not name.startswith("banded"):
        per = ""
    else:
        per = f"{cpu / len(GAMMAS):.2f} a candidate"
    return {
        "case": name,
        "cpu": cpu,
        "wall": wall,
        "peak": after / 2**20,
        "beyond": (after - before) / 2**20,
        "r": mean_r(Y_test, np.asarray(predict(X_test))),
        "alpha": float(np.log10(alpha).mean()),
        "told": "; ".join(filter(None, (told, per))),
    }


def shown(row: dict) -> str:
    """A line of the table."""
    return (
        f"{row['case']:<30} {row['cpu']:8.2f} {row['wall']:8.2f} {row['peak']:8.0f} {row['beyond']:8.0f} "
        f"{row['r']:9.5f} {row['alpha']:7.3f}   {row['told']}"
    )


def verdicts(rows: dict[str, dict]) -> list[str]:
    """What was aimed at, and whether it was met, of the cases that were run."""
    said = []
    peers = {name: row for name, row in rows.items() if name.startswith("A.") and "nextlens" not in name}
    # scikit-learn's leave-one-out and its single penalty answer other questions, and count as peers all the same.
    if "A.nextlens" in rows and peers:
        ours, fastest = rows["A.nextlens"], min(peers.values(), key=lambda row: row["cpu"])
        ratio = ours["cpu"] / fastest["cpu"]
        said.append(f"A: {ratio:.2f} of the fastest peer ({fastest['case']}), aim 0.50: {_met(ratio <= 0.5)}")
        said.append(f"A: peak {ours['peak']:.0f} MiB, aim 954: {_met(ours['peak'] <= 954)}")
        folds = [row for name, row in peers.items() if "himalaya" in name or "numpy" in name]
        if folds:
            apart = max(abs(row["r"] - ours["r"]) for row in folds)
            said.append(f"A: r differs by {apart:.1e} from peers with the same folds, aim 1e-4: {_met(apart <= 1e-4)}")
    for kind in ("banded", "banded10k"):
        peers = {name: row for name, row in rows.items() if name.startswith(f"{kind}.himalaya")}
        if f"{kind}.nextlens" in rows and peers:
            ours, fastest = rows[f"{kind}.nextlens"], min(peers.values(), key=lambda row: row["cpu"])
            ratio = ours["cpu"] / fastest["cpu"]
            said.append(f"{kind}: {ratio:.2f} of {fastest['case']} per candidate, aim 0.20: {_met(ratio <= 0.2)}")
    if "map.nextlens" in rows:
        peak = rows["map.nextlens"]["peak"]
        said.append(f"map: peak {peak:.0f} MiB with the map's pages, aim 2861: {_met(peak <= 2861)}")
    return said


def _named(name: str, asked: str) -> bool:
    return name == asked or (asked not in CASES and name.startswith(asked.rstrip(".") + "."))


def _met(yes: bool) -> str:
    return "kept" if yes else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="all if none is named; a prefix such as A names several")
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run(asked.one, asked.shrink, folder)))
        return
    names = [name for name in CASES if not asked.cases or any(_named(name, case) for case in asked.cases)]
    print(f"{'case':<30} {'CPU s':>8} {'wall s':>8} {'peak MiB':>8} {'beyond':>8} {'test r':>9} {'lg α':>7}")
    rows = {}
    for name in names:
        if importlib.util.find_spec(CASES[name][3]) is None:
            print(f"{name:<30} not installed")
            continue
        command = [sys.executable, "-W", "ignore", __file__, "--one", name, "--shrink", str(asked.shrink)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)
        if done.returncode:
            print(f"{name:<30} failed: {done.stderr.strip().splitlines()[-1:]}")
            continue
        rows[name] = json.loads(done.stdout.strip().splitlines()[-1])
        print(shown(rows[name]), flush=True)
    for line in verdicts(rows):
        print(line)


if __name__ == "__main__":
    main()
