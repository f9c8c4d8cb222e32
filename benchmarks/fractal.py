"""Fractal estimators beside peers, in speed and in what they read; their bias beside a reference table.

    OMP_NUM_THREADS=1 python benchmarks/fractal.py speed [PYTHON [Higuchi]]   # the one with the peers; one question
    OMP_NUM_THREADS=1 python benchmarks/fractal.py bias 4096 20               # length, draws

Peers: antropy, MFDFA, pyelw, nolds==0.6.2. CPU seconds are of one thread, the least of forty calls after one that
compiles or warms; memory is the peak of the whole process, each contender in one of its own, which reads the
same series. The reference (``fractal_bias.csv``) is of other draws by another implementation, twenty of each length.
What the verdict makes of known processes: ``fractal_known.py``.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

LENGTH, REPEATS = 65_536, 40
REFERENCE = Path(__file__).with_name("fractal_bias.csv")


# --- speed: every contender is a function of the series; ours and theirs at the same scales where both can


def fractal() -> Any:
    from nextlens.probes import fractal

    return fractal


def growing(n: int, ratio: float = 1.2) -> list[int]:
    """antropy's scales: from 4 to a tenth of the length, each 1.2 times the last."""
    sizes = [int(4 * ratio**step) for step in range(200)]
    return sorted({size for size in sizes if size <= 0.1 * n})


def twelve(n: int) -> np.ndarray:
    return np.unique(np.round(np.exp(np.linspace(np.log(16), np.log(n // 8), 12))).astype(int))


def ours(name: str, **how: Any) -> Callable[[np.ndarray], float]:
    return lambda x: getattr(fractal(), name)(x, **how).value


def antropy_dfa(x: np.ndarray) -> float:
    import antropy

    return float(antropy.detrended_fluctuation(x))


def antropy_higuchi(lags: int, x: np.ndarray) -> float:
    import antropy

    return 2 - float(antropy.higuchi_fd(np.cumsum(x - x.mean()), kmax=lags))


def mfdfa(order: int, x: np.ndarray) -> float:
    from MFDFA import MFDFA

    lags, fluctuations = MFDFA(x, lag=twelve(len(x)), q=2, order=order)
    return float(np.polyfit(np.log(lags), np.log(fluctuations[:, 0]), 1)[0])


def nolds_hurst(x: np.ndarray) -> float:
    import nolds

    return float(nolds.hurst_rs(x, fit="poly"))


def nolds_hurst_plain(x: np.ndarray) -> float:
    import nolds

    return float(nolds.hurst_rs(x, nvals=twelve(len(x)), fit="poly", corrected=False, unbiased=False))


def nolds_structure(x: np.ndarray) -> float:
    import nolds

    return float(nolds.mfhurst_b(np.cumsum(x - x.mean()), qvals=[2], dists=STRUCTURE_LAGS, fit="poly")[0])


def pyelw_local_whittle(x: np.ndarray) -> float:
    from pyelw import LW

    estimator = LW()
    estimator.fit(x, m=int(len(x) ** 0.65))
    return float(estimator.d_hat_) + 0.5


STRUCTURE_LAGS = [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]

#: By question: contenders of ours, then peers, and the bar on ours over the fastest peer.
CONTESTS: dict[
    str, tuple[float, dict[str, Callable[[np.ndarray], float]], dict[str, Callable[[np.ndarray], float]]]
] = {
    "DFA-1, scales of antropy": (
        1.2,
        {
            "nextlens": lambda x: (
                fractal().detrended_fluctuations(x, order=1, scales=growing(len(x)), from_both_ends=False).value
            )
        },
        {"antropy (compiled)": antropy_dfa},
    ),
    "DFA-1, twelve scales": (
        1.0,
        {"nextlens": ours("detrended_fluctuations", order=1)},
        {"MFDFA": partial(mfdfa, 1)},
    ),
    "DFA-2, twelve scales": (
        1.0,
        {"nextlens": ours("detrended_fluctuations", order=2)},
        {"MFDFA": partial(mfdfa, 2)},
    ),
    "rescaled range, plain, twelve scales": (
        1.0,
        {"nextlens": ours("rescaled_range")},
        {"nolds": nolds_hurst_plain},
    ),
    "rescaled range, Anis-Lloyd": (1.0, {"nextlens": ours("anis_lloyd")}, {"nolds": nolds_hurst}),
    "local Whittle, m = n^.65": (1.0, {"nextlens": ours("local_whittle")}, {"pyelw": pyelw_local_whittle}),
    "Higuchi, lags to 10": (
        1.0,
        {"nextlens": ours("higuchi", lags=10)},
        {"antropy (compiled)": partial(antropy_higuchi, 10)},
    ),
    "Higuchi, lags to 64": (
        1.0,
        {"nextlens": ours("higuchi")},
        {"antropy (compiled)": partial(antropy_higuchi, 64)},
    ),
    "structure function, q = 2, eleven lags": (
        1.0,
        {"nextlens": ours("structure_function", scales=STRUCTURE_LAGS)},
        {"nolds": nolds_structure},
    ),
    "no peer installed": (
        1.0,
        {
            "aggregated variance": ours("aggregated_variance"),
            "small ball": ours("small_ball", strict=False),
            "log periodogram": ours("geweke_porter_hudak"),
            "full Whittle": ours("full_whittle"),
            "wavelet": ours("abry_veitch"),
        },
        {},
    ),
}


def contend(contest: str, side: str, name: str, file: str) -> None:
    """One contender, in a process of its own: its numbers on the last line."""
    x = np.load(file)
    run = CONTESTS[contest][1 if side == "ours" else 2][name]
    value = run(x)
    cpu = []
    for _ in range(REPEATS):
        begun = time.process_time()
        run(x)
        cpu.append(time.process_time() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"value": value, "cpu": min(cpu), "peak": peak}))


def measured(python: str, contest: str, side: str, name: str, file: Path) -> dict[str, float] | None:
    """What it measured, or None where it is not installed."""
    command = [python, __file__, "contend", contest, side, name, str(file)]
    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | alone)
    if done.returncode and "ModuleNotFoundError" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def speed(peers: str = sys.executable, only: str = "") -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "series.npy"
        np.save(file, fractal().fractional_gaussian_noise(LENGTH, 0.7, np.random.default_rng(1)))
        print(f"fractional Gaussian noise, H = .7, {LENGTH:,} values, one thread")
        print(f"{'question':<42}{'who':<24}{'CPU ms':>9}{'peak MiB':>10}{'reads':>9}")
        for contest, (bar, mine, theirs) in CONTESTS.items():
            if only not in contest:
                continue
            found = {name: measured(sys.executable, contest, "ours", name, file) for name in mine}
            rivals = {name: measured(peers, contest, "theirs", name, file) for name in theirs}
            for name, one in {**found, **rivals}.items():
                row = (
                    "not installed"
                    if one is None
                    else f"{1000 * one['cpu']:>9.2f}{one['peak']:>10.0f}{one['value']:>9.4f}"
                )
                print(f"{contest:<42}{name:<24}{row}", flush=True)
            fastest = min((one["cpu"] for one in rivals.values() if one), default=None)
            if fastest:
                print(f"{'':<42}ours / fastest peer: {found['nextlens']['cpu'] / fastest:.2f} (bar {bar})", flush=True)


# --- bias


def estimators() -> dict[str, Callable[[np.ndarray], Any]]:
    """By the names of the reference."""
    f = fractal()
    return {
        "rescaled range": f.rescaled_range,
        "Anis-Lloyd": f.anis_lloyd,
        "DFA-1": partial(f.detrended_fluctuations, order=1),
        "DFA-2": f.detrended_fluctuations,
        "aggregated variance": f.aggregated_variance,
        "Joseph": f.joseph,
        "small ball": partial(f.small_ball, strict=False),
        "log periodogram": f.geweke_porter_hudak,
        "local Whittle": f.local_whittle,
        "full Whittle": f.full_whittle,
        "wavelet": f.abry_veitch,
        "Higuchi": f.higuchi,
    }


def reference(name: str, length: int) -> dict[float, tuple[float, float]]:
    """Bias and standard deviation of an estimator by H; empty where the table has no such length."""
    with REFERENCE.open() as file:
        rows = [row for row in csv.DictReader(file) if (row["estimator"], row["length"]) == (name, str(length))]
    return {float(row["hurst"]): (float(row["bias"]), float(row["sd"])) for row in rows}


def bias(length: str = "4096", draws: str = "20") -> None:
    rng, known = np.random.default_rng(0), (0.3, 0.5, 0.7, 0.9)
    noise = [fractal().fractional_gaussian_noise((int(draws), int(length)), hurst, rng) for hurst in known]
    print(
        f"{draws} draws of {length} values: bias / standard deviation / share of 95 % intervals that hold H; beside the"
    )
    print("reference: the furthest bias in its standard deviations of one draw, and the ratios of standard deviations")
    print(f"{'':<22}" + "".join(f"{f'H = {hurst}':>20}" for hurst in known) + f"{'off by':>9}{'ratios':>12}")
    for name, estimator in estimators().items():
        cells, off, ratios = [], [], []
        expected = reference(name, int(length))
        for hurst, rows in zip(known, noise, strict=True):
            found = readings(estimator, rows)
            values = np.array([one.value for one in found])
            held = np.mean([one.interval[0] <= hurst <= one.interval[1] for one in found])
            read, spread = values.mean() - hurst, values.std(ddof=1)
            cells.append(f"{read:+.3f}/{spread:.3f}/{held:.2f}" + "*" * (len(found) < len(rows)))
            if hurst in expected:
                off.append(abs(read - expected[hurst][0]) / expected[hurst][1])
                ratios.append(spread / expected[hurst][1])
        beside = f"{max(off):>9.2f}{f'{min(ratios):.1f}-{max(ratios):.1f}':>12}" if off else ""
        print(f"{name:<22}" + "".join(f"{cell:>20}" for cell in cells) + beside, flush=True)
    print("* a series was refused: its small ball saw no return at some lag")


def readings(estimator: Callable[[np.ndarray], Any], rows: np.ndarray) -> list[Any]:
    """Estimates of all series but those whose small ball sees no return."""
    found = []
    for row in rows:
        try:
            found.append(estimator(row))
        except ValueError as refusal:
            if "sees 0 returns" not in str(refusal):
                raise
    return found


if __name__ == "__main__":
    {"speed": speed, "bias": bias, "contend": contend}[sys.argv[1]](*sys.argv[2:])
