"""Fractal estimators beside peers; their bias; what the published protocol and the verdict make of known processes.

    OMP_NUM_THREADS=1 python benchmarks/fractal.py speed [PYTHON [Higuchi]]   # the one with the peers; one question
    OMP_NUM_THREADS=1 python benchmarks/fractal.py bias 4096 20       # length, draws
    OMP_NUM_THREADS=1 python benchmarks/fractal.py published 300      # documents
    OMP_NUM_THREADS=1 python benchmarks/fractal.py verdicts 64 1948 20 399   # documents, length, draws, shuffles

Peers: antropy, MFDFA, pyelw, nolds==0.6.2. CPU seconds are of one thread, the least of fifteen calls after one that
compiles or warms; memory is the peak of the whole process, each contender in one of its own, which reads the
same series.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

LENGTH, REPEATS = 65_536, 15


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
            "rescaled range, plain": ours("rescaled_range"),
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


def bias(length: str = "4096", draws: str = "20") -> None:
    f = fractal()
    estimators = {
        "R/S plain": f.rescaled_range,
        "R/S Anis-Lloyd": f.anis_lloyd,
        "DFA-1": partial(f.detrended_fluctuations, order=1),
        "DFA-2": f.detrended_fluctuations,
        "aggregated variance": f.aggregated_variance,
        "Joseph": f.joseph,
        "small ball .2": partial(f.small_ball, strict=False),
        "log periodogram": f.geweke_porter_hudak,
        "local Whittle": f.local_whittle,
        "full Whittle": f.full_whittle,
        "wavelet": f.abry_veitch,
        "Higuchi": f.higuchi,
    }
    rng, known = np.random.default_rng(0), (0.3, 0.5, 0.7, 0.9)
    noise = [f.fractional_gaussian_noise((int(draws), int(length)), hurst, rng) for hurst in known]
    print(f"{draws} draws of {length} values: bias / standard deviation / share of 95 % intervals that hold H")
    print(f"{'':<22}" + "".join(f"{f'H = {hurst}':>20}" for hurst in known))
    for name, estimator in estimators.items():
        cells = []
        for hurst, rows in zip(known, noise, strict=True):
            found = list(readings(estimator, rows))
            values = np.array([one.value for one in found])
            held = np.mean([one.interval[0] <= hurst <= one.interval[1] for one in found])
            cells.append(f"{values.mean() - hurst:+.3f}/{values.std(ddof=1):.3f}/{held:.2f}")
        print(f"{name:<22}" + "".join(f"{cell:>20}" for cell in cells), flush=True)


def readings(estimator: Callable[[np.ndarray], Any], rows: np.ndarray) -> Iterator[Any]:
    """Estimates of all series that are not refused; a small ball may see no return."""
    for row in rows:
        try:
            yield estimator(row)
        except ValueError:
            continue


# --- known processes, as documents


def processes() -> dict[str, Callable[[tuple[int, int], np.random.Generator], np.ndarray]]:
    """By name, with the true H; after the bar, those that are power laws."""
    f = fractal()
    return {
        "iid (.5)": lambda shape, rng: rng.standard_exponential(shape),
        "iid, scaled by document (.5)": lambda shape, rng: f.scaled(rng.standard_exponential(shape), rng),
        "offsets (.5)": f.offsets,
        "learning curve (.5)": f.learning_curve,
        "questions (.5)": f.questions,
        "Mess3, exact surprisal (.5)": mess3_surprisal,
        "AR(1) .5 (.5)": lambda shape, rng: f.autoregressive(shape, 0.5, rng),
        "AR(1) .7 (.5)": lambda shape, rng: f.autoregressive(shape, 0.7, rng),
        "AR(1) .9 (.5)": lambda shape, rng: f.autoregressive(shape, 0.9, rng),
        "AR(1) .95 (.5)": lambda shape, rng: f.autoregressive(shape, 0.95, rng),
        "AR(1) .98 (.5)": lambda shape, rng: f.autoregressive(shape, 0.98, rng),
        "two relaxations (.5)": f.two_relaxations,
        "varying trend (.5)": partial(f.learning_curve, varying=True),
        "window resets, random phase (.5)": f.window_resets,
        "| fGn .55 Exp": lambda shape, rng: f.exponential_fractional(shape, 0.55, rng),
        "| fGn .6 Exp": lambda shape, rng: f.exponential_fractional(shape, 0.6, rng),
        "| fGn .7 Exp": lambda shape, rng: f.exponential_fractional(shape, 0.7, rng),
        "| fGn .9 Exp": lambda shape, rng: f.exponential_fractional(shape, 0.9, rng),
        "| fGn .7 Exp, scaled": lambda shape, rng: f.scaled(f.exponential_fractional(shape, 0.7, rng), rng),
        "| fGn .7 + 2 white": lambda shape, rng: (
            f.fractional_gaussian_noise(shape, 0.7, rng) + 2 * rng.standard_normal(shape)
        ),
        "| ARFIMA(1, .2, 0), .5": lambda shape, rng: f.arfima(shape, 0.2, rng, phi=0.5),
        "| fGn .7 + AR .9": lambda shape, rng: (
            f.fractional_gaussian_noise(shape, 0.7, rng) + f.autoregressive(shape, 0.9, rng)
        ),
        "| Exp x on/off levels": lambda shape, rng: (
            rng.standard_exponential(shape) * f.pareto_on_off(shape, rng, levels=(3.0, 0.7))
        ),
    }


def mess3_surprisal(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """What a process of three states and short memory surprises an observer by who knows it."""
    from nextlens.models.batch import Batch
    from nextlens.models.processes import mess3
    from nextlens.models.recording import surprisal

    process = mess3(0.85, 0.05)
    tokens = process.sample(shape[0], shape[1] + 1, rng=rng)
    return np.asarray(surprisal(process, Batch.from_tokens(tokens)), dtype=np.float64)[:, : shape[1]]


def verdicts(n_documents: str = "64", length: str = "1948", draws: str = "20", n_shuffles: str = "399") -> None:
    """Shares of draws: the first rule, and each outcome of the gated one, whatever the length."""
    from collections import Counter

    from nextlens.probes.fractal.verdict import OUTCOMES, first_rule, gated_verdict, outcome_of

    f, shape = fractal(), (int(n_documents), int(length))
    short = {"dependent-not-scaling": "not-scaling"}
    print(f"{n_documents} documents of {length}, {draws} draws, {n_shuffles} shuffles; trends removed by position")
    print(f"{'':<34}{'first rule':>12}" + "".join(f"{short.get(name, name):>14}" for name in OUTCOMES))
    for number, (name, draw) in enumerate(processes().items()):
        first, seen = 0, Counter()
        for one in range(int(draws)):
            rng = np.random.default_rng([number, one])
            verdict = gated_verdict(f.pooled(draw(shape, rng)), rng, n_shuffles=int(n_shuffles))
            first += first_rule(verdict)
            seen[outcome_of(verdict.gates, verdict.length, shortest=0)] += 1
        print(
            f"{name:<34}{first / int(draws):>12.2f}"
            + "".join(
                f"{seen[outcome] / int(draws):>14.2f}" if seen[outcome] else f"{'.':>14}" for outcome in OUTCOMES
            ),
            flush=True,
        )


# --- what the published protocol reads


def published(n_documents: str = "300", draws: str = "1") -> None:
    f, shape = fractal(), (int(n_documents), 1948)
    wide, long = f.log_spaced(10, 500), f.log_spaced(50, 1000, 10)
    few = [25, 50, 75, 100, 200, 300]
    print(f"{n_documents} documents of 1948, each of mean 0 and variance 1; mean of {draws} draws")
    print(f"{'':<34}{'H 25-300':>10}{'H 50-1000':>11}{'AL':>8}{'J':>8}{'S':>8}")
    for number, (name, draw) in enumerate(processes().items()):
        rows = []
        for one in range(int(draws)):
            x = draw(shape, np.random.default_rng([number, one]))
            x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
            rows.append(
                [
                    f.rescaled_range(x, scales=few, overlap=True).value,
                    f.rescaled_range(x, scales=long, overlap=True).value,
                    f.anis_lloyd(x, scales=long, overlap=True).value,
                    f.joseph(x, scales=wide).value,
                    f.small_ball(x, scales=wide, strict=False).value,
                ]
            )
        print(f"{name:<34}" + "".join(f"{value:>9.3f}" for value in np.mean(rows, axis=0)), flush=True)


if __name__ == "__main__":
    {"speed": speed, "bias": bias, "published": published, "verdicts": verdicts, "contend": contend}[sys.argv[1]](
        *sys.argv[2:]
    )
