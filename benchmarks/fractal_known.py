"""What the verdict, and the protocol that was published, make of processes whose memory is known.

OMP_NUM_THREADS=1 python benchmarks/fractal_known.py verdicts 64 1948 20 399   # documents, length, draws, shuffles
OMP_NUM_THREADS=1 python benchmarks/fractal_known.py relaxations 64 1948 40    # where the rule fails
OMP_NUM_THREADS=1 python benchmarks/fractal_known.py published 300             # documents
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial

import numpy as np

from nextlens.models.batch import Batch
from nextlens.models.processes import mess3
from nextlens.models.recording import surprisal
from nextlens.probes import fractal as f
from nextlens.probes.fractal.verdict import OUTCOMES, STRAIGHT, first_rule, gated_verdict, mistaken_share, outcome_of


def processes() -> dict[str, Callable[[tuple[int, int], np.random.Generator], np.ndarray]]:
    """By name, with the true H; after the bar, those that are power laws."""
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
    process = mess3(0.85, 0.05)
    tokens = process.sample(shape[0], shape[1] + 1, rng=rng)
    return np.asarray(surprisal(process, Batch.from_tokens(tokens)), dtype=np.float64)[:, : shape[1]]


def verdicts(
    n_documents: str = "64",
    length: str = "1948",
    draws: str = "20",
    n_shuffles: str = "399",
    only: str = "",
    detrend: str = "position",
) -> None:
    """Shares of draws: the first rule, the gated one without its questions on bends and rivals, and the whole.

    Of all processes, or of those whose name holds one of ``only``, with commas between; trends removed by ``detrend``.
    """
    shape = (int(n_documents), int(length))
    print(
        f"{n_documents} documents of {length}, {draws} draws, {n_shuffles} shuffles; trends removed by {detrend}; in %"
    )
    print("first: the first rule. unbent: power-law and low-band if bends and rivals were not asked about")
    short = {"dependent-not-scaling": "not-scaling"}
    print(f"{'':<34}{'first':>6}{'unbent':>10}" + "".join(f"{short.get(name, name):>14}" for name in OUTCOMES))
    for number, (name, draw) in enumerate(processes().items()):
        if not any(part in name for part in only.split(",")):
            continue
        first, plain, seen = 0, Counter(), Counter()
        for one in range(int(draws)):
            rng = np.random.default_rng([number, one])
            verdict = gated_verdict(f.pooled(draw(shape, rng), detrend=detrend), rng, n_shuffles=int(n_shuffles))
            first += first_rule(verdict)
            plain[outcome_of(verdict.gates._replace(straight=(True, True)), verdict.length, shortest=0)] += 1
            seen[verdict.outcome] += 1
        unbent = "/".join(share(plain[outcome], draws) for outcome in ("power-law", "low-band"))
        print(
            f"{name:<34}{share(first, draws):>6}{unbent:>10}"
            + "".join(f"{share(seen[outcome], draws) if seen[outcome] else '.':>14}" for outcome in OUTCOMES),
            flush=True,
        )


def share(count: int, draws: str) -> str:
    return f"{100 * count / int(draws):.0f}"


def relaxations(n_documents: str = "64", length: str = "1948", draws: str = "40") -> None:
    """Where the rule fails: two relaxation times that read some H, how often all but shuffles takes them for a law."""
    shape, times = (int(n_documents), int(length)), (60, 30, 15, 8)
    print(
        f"{n_documents} documents of {length}, {draws} draws: two relaxation times that pass as a power law, in %, by"
    )
    print("the H they read at T^.5 and by the slow relaxation time; without asking for a bend / with")
    print(f"{'H':<6}" + "".join(f"{f'T / {parts}':>12}" for parts in times))
    for hurst in (0.6, 0.65, 0.7, 0.8, 0.9):
        cells = []
        for parts in times:
            passed = [
                mistaken_share(
                    shape,
                    hurst,
                    np.random.default_rng([parts, int(100 * hurst)]),
                    draws=int(draws),
                    relaxations=parts,
                    straight=straight,
                )
                for straight in (0.0, STRAIGHT)
            ]
            cells.append(f"{100 * passed[0]:.0f} / {100 * passed[1]:.0f}")
        print(f"{hurst:<6}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


# --- what the published protocol reads


def published(n_documents: str = "300", draws: str = "1") -> None:
    shape = (int(n_documents), 1948)
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
    {"published": published, "verdicts": verdicts, "relaxations": relaxations}[sys.argv[1]](*sys.argv[2:])
