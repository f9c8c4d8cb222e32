"""Sampling, belief trees and filtering, beside plain NumPy and the peers that install, in CPU seconds.

Run with one thread: ``OMP_NUM_THREADS=1 python benchmarks/processes.py``. dynamax joins if it is installed
(``pip install dynamax``). simplexity, epsilon-transformers and factored-reps are in no package registry: what is
printed of them was measured once from their repositories, on one thread of another two-core machine, and is
marked as such.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from time import process_time

import numpy as np

from nextlens.models.batch import Batch
from nextlens.models.processes import FactoredProcess, bloch_walk, mess3
from nextlens.models.processes.mixed_states import belief_tree
from nextlens.models.processes.sampling import BatchStream, EdgeSampler, WordSampler

MESS3 = mess3()
LENGTH, DEPTH = 11, 11
THREE = FactoredProcess([mess3(0.6, 0.15)] * 2 + [bloch_walk(1, 3)])
#: Three Mess3 and two Bloch walks: 432 tokens, 15 numbers of belief, 243 if they were multiplied out.
FIVE = FactoredProcess([mess3(0.6, 0.15)] * 3 + [bloch_walk(1, 3)] * 2)

#: Not measured in this run: CPU seconds, or sequences a CPU second, of repositories that do not install here.
ELSEWHERE = {
    "sequences of 64 x 11 a CPU second": {"simplexity": 141_000, "epsilon-transformers": 7_300, "factored-reps": 5_000},
    "sequences of 8192 x 11 a CPU second": {"simplexity": 864_000, "factored-reps": 10_400},
    "Mess3 tree of depth 8, CPU seconds": {"simplexity": 7.0, "epsilon-transformers": 0.18},
    "Mess3 tree of depth 11, CPU seconds": {"epsilon-transformers": 3.6},
    "labels of 59,049 x 10 tokens, CPU seconds": {"epsilon-transformers": 12.2},
}


def cpu_seconds(job: Callable[[], object], at_least: float = 0.5) -> float:
    """CPU seconds per run, the median of runs that take ``at_least`` together, after one to warm up."""
    job()
    times: list[float] = []
    while sum(times) < at_least or len(times) < 3:
        start = process_time()
        job()
        times.append(process_time() - start)
    return float(np.median(times))


def plain_sample(n_sequences: int, rng: np.random.Generator) -> np.ndarray:
    flat = MESS3.transition.transpose(1, 0, 2).reshape(3, -1).cumsum(axis=1)
    state = rng.choice(3, size=n_sequences, p=MESS3.stationary)
    tokens = np.empty((n_sequences, LENGTH), dtype=np.int64)
    for t in range(LENGTH):
        edge = (rng.random((n_sequences, 1)) * flat[state, -1:] >= flat[state]).sum(axis=1)
        tokens[:, t], state = np.divmod(edge, 3)
    return tokens


def plain_tree() -> list[np.ndarray]:
    levels = [MESS3.stationary[None]]
    for _ in range(DEPTH):
        joint = np.einsum("ns,xsr->nxr", levels[-1], MESS3.transition).reshape(-1, 3)
        levels.append(joint / joint.sum(axis=1, keepdims=True))
    return levels


def plain_filter(tokens: np.ndarray) -> np.ndarray:
    beliefs = np.empty((*tokens.shape, 3))
    belief = np.broadcast_to(MESS3.stationary, (len(tokens), 3))
    for t in range(tokens.shape[1]):
        joint = np.einsum("bs,bsr->br", belief, MESS3.transition[tokens[:, t]])
        belief = joint / joint.sum(axis=1, keepdims=True)
        beliefs[:, t] = belief
    return beliefs


def sampling_rows(rng: np.random.Generator) -> list[tuple[str, float, float, int, str]]:
    edges = partial(EdgeSampler.of(MESS3.transition, MESS3.initial).draw, length=LENGTH)
    words = WordSampler.of(MESS3.transition, MESS3.functional, MESS3.initial, LENGTH, cutoff=1e-12).draw
    rows = []
    for size, budget in ((64, ">= 1,000,000 /s"), (8192, ">= 3,000,000 /s")):
        n = 2**18 // size
        plain = cpu_seconds(lambda size=size, n=n: [Batch.from_tokens(plain_sample(size, rng)) for _ in range(n)])
        for name, draw in (("edges", edges), ("words", words)):
            stream = BatchStream(draw, size, LENGTH, rng, tree=False)
            took = cpu_seconds(lambda stream=stream, n=n: [None for _ in islice(stream, n)])
            rows.append((f"batches of {size} x 11, by {name}", took, plain, n * size, budget))
    n = 2**18
    took, plain = cpu_seconds(lambda: words(n, rng)), cpu_seconds(lambda: plain_sample(n, rng))
    rows.append(("words of 11 from the alias table", took, plain, n, ">= 10,000,000 /s"))
    return rows


def filtering_rows(rng: np.random.Generator) -> list[tuple[str, float, float, int, str]]:
    tokens = MESS3.sample(59_049, 10, rng)
    tree = (cpu_seconds(lambda: belief_tree(MESS3, DEPTH)), cpu_seconds(plain_tree))
    read = (cpu_seconds(lambda: MESS3.beliefs(tokens)), cpu_seconds(lambda: plain_filter(tokens)))
    return [
        ("belief tree to depth 11", *tree, len(belief_tree(MESS3, DEPTH)), "<= 0.05 s"),
        ("beliefs of 59,049 x 10 tokens", *read, tokens.size, "<= 0.1 s"),
    ]


def factored_rows(rng: np.random.Generator) -> list[tuple[str, float, float, int]]:
    """Factors each on its own, beside the same multiplied into one process where that can be held (NaN where not)."""
    rows = []
    for name, product, joint in (("three factors", THREE, THREE.joint()), ("five factors", FIVE, None)):
        tokens = product.sample(1000, LENGTH, rng)
        for what, count, job in (
            ("1,000 x 11 sampled", len(tokens), lambda one: one.sample(1000, LENGTH, rng)),
            ("1,000 x 11 filtered", tokens.size, lambda one, tokens=tokens: one.beliefs(tokens)),
        ):
            took = cpu_seconds(partial(job, product))
            rows.append((f"{name}, {what}", took, cpu_seconds(partial(job, joint)) if joint else np.nan, count))
    return rows


def dynamax_row(rng: np.random.Generator) -> list[tuple[str, float, float, int, str]]:
    """The same beliefs by dynamax's compiled filter, in its own single precision, if it is installed."""
    try:
        import jax
        from dynamax.hidden_markov_model import hmm_filter
    except ImportError:
        return []
    tokens, move = MESS3.sample(59_049, 10, rng), MESS3.transition.sum(0)
    said = MESS3.transition / np.where(
        move > 0, move, 1.0
    )  # a token given the edge, the same for each way into a state

    def one(word: jax.Array) -> jax.Array:
        return hmm_filter(MESS3.stationary, move, jax.numpy.log(said[:, 0, :][word])).filtered_probs

    read = jax.jit(jax.vmap(one))
    took = cpu_seconds(lambda: MESS3.beliefs(tokens))
    return [("the same, beside dynamax", took, cpu_seconds(lambda: read(tokens).block_until_ready()), tokens.size, "")]


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"{'what':34} {'CPU s':>9} {'plain NumPy':>12} {'per CPU s':>13}   budget")
    for what, took, plain, count, budget in [*sampling_rows(rng), *filtering_rows(rng), *dynamax_row(rng)]:
        print(f"{what:34} {took:9.4f} {plain:12.4f} {count / took:13,.0f}   {budget}")
    print(f"\n{'':34} {'factored':>9} {'multiplied':>12}")
    for what, took, joint, count in factored_rows(rng):
        print(f"{what:34} {took:9.4f} {joint:12.4f} {count / took:13,.0f}")
    print("\nNot measured in this run (see above):")
    for what, peers in ELSEWHERE.items():
        print(f"  {what}: " + ", ".join(f"{peer} {value:,}" for peer, value in peers.items()))


if __name__ == "__main__":
    main()
