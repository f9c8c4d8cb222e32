"""Index, exact queries and in-context induction, beside pydivsufsort, infini-gram and tokengrams, in one run.

A corpus of Zipf's tokens (65,000 of them, documents of 1,000) with copied stretches; prompts of 500 tokens whose
ends, of 0 to 13 tokens, are copied from it. Run with one BLAS thread::

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/matching.py --peers /path/to/python

where that Python has infini-gram and tokengrams (``pip install infini-gram tokengrams``); without ``--peers``
this one is asked. ``--tokens 1e6`` makes it short; parts run by name, ``python benchmarks/matching.py ours peers
queries batch exact --folder kept``, where the later ones need the indexes of the first two. CPU seconds are of all
threads and children; memory is the peak beyond what the process had before. Of several rounds, the least figure.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import get_native_id
from time import perf_counter, process_time

import numpy as np

from nextlens.models.arguments import one_of
from nextlens.models.induction import ExactInduction, InfiniGram, SuffixArray
from nextlens.models.induction.exact import longest_match
from nextlens.models.induction.shard import Shard

VOCABULARY, DOCUMENT, PROMPTS, PROMPT, BATCH, CONTEXT = 65_000, 1_000, 300, 500, 10_000, 1_024
ROUNDS = 3
PARTS = ("ours", "peers", "queries", "batch", "exact")


def corpus(n_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Zipf's tokens, in which about every 400th begins a stretch copied from elsewhere."""
    frequency = 1 / np.arange(1, VOCABULARY + 1) ** 1.1
    tokens = rng.choice(VOCABULARY, n_tokens, p=frequency / frequency.sum()).astype(np.uint16)
    for length in rng.geometric(1 / 12, n_tokens // 400).tolist():
        here, there = rng.integers(n_tokens - length, size=2)
        tokens[there : there + length] = tokens[here : here + length].copy()
    return tokens


def prompts(tokens: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Stretches of the corpus, shuffled but for the last 0 to 13 tokens."""
    found = np.empty((n, PROMPT), np.uint16)
    for row, kept in zip(found, rng.integers(14, size=n), strict=True):
        start = rng.integers(len(tokens) - PROMPT)
        row[:] = tokens[start : start + PROMPT]
        row[: PROMPT - kept] = rng.permutation(row[: PROMPT - kept])
    return found


def peak() -> float:
    """MiB, of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def resident() -> float:
    """MiB, of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def alone(job: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds and peak memory of a job, run in a process of its own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def run() -> None:
        before, wall, cpu = resident(), perf_counter(), process_time()
        job()
        there.send({"wall": perf_counter() - wall, "cpu": process_time() - cpu, "memory": peak() - before})

    child = context.Process(target=run)
    child.start()
    found = here.recv()
    child.join()
    return found


def ask_peers(python: str, folder: Path, what: str) -> dict | None:
    """What ``matching_peers.py`` measures under another interpreter; None if what it needs is not installed."""
    script = Path(__file__).with_name("matching_peers.py")
    done = subprocess.run([python, script, folder, what], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{what}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def show(name: str, found: dict | None, unit: str = "") -> None:
    """One line."""
    if found is None:
        print(f"  {name:<52} not installed")
    else:
        print(f"  {name:<52} " + "  ".join(f"{key} {value:.4g}" for key, value in found.items()) + unit, flush=True)


def in_milliseconds(times: list[tuple[float, float]]) -> dict[str, float]:
    """Wall clock, and CPU: on a machine with other work to do, the tail of the one is the other work."""
    wall, cpu = np.array(times).T * 1e3
    found = {"median": np.median(wall), "mean": wall.mean(), "p95": np.quantile(wall, 0.95), "max": wall.max()}
    return found | {"CPU median": np.median(cpu), "CPU mean": cpu.mean(), "CPU p95": np.quantile(cpu, 0.95)}


def timed(ask: Callable[[list[int]], object], asked: list[list[int]]) -> dict[str, float]:
    """How long each of ``asked`` takes."""
    times = []
    for prompt in asked:
        wall, cpu = perf_counter(), process_time()
        ask(prompt)
        times.append((perf_counter() - wall, process_time() - cpu))
    return in_milliseconds(times)


def best(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Each figure's least over the rounds: what the machine does when nobody disturbs it."""
    return {key: min(each[key] for each in rounds) for key in rounds[0]}


def our_rows(tokens: np.ndarray, folder: Path) -> None:
    documents = np.split(tokens, range(DOCUMENT, len(tokens), DOCUMENT))
    print(f"index of {len(tokens):,} tokens, {len(documents):,} documents; seconds, MiB")
    separated = np.insert(tokens, np.arange(DOCUMENT, len(tokens), DOCUMENT), np.uint16(65_535))

    def divsufsort() -> None:
        from pydivsufsort import divsufsort

        divsufsort(separated)

    plain, ours = [], []
    for _ in range(ROUNDS):
        plain.append(alone(divsufsort))
        ours.append(alone(lambda: SuffixArray.build(documents, VOCABULARY, path=folder / "ours")))
    show("pydivsufsort alone, nothing kept", best(plain))
    show("nextlens: documents to a saved index, checksummed", best(ours))
    ratio = best(ours)["cpu"] / best(plain)["cpu"]
    print(f"  budget 1.2 x pydivsufsort, CPU: {ratio:.2f} {'kept' if ratio <= 1.2 else 'MISSED'}")
    budget = 200 * 2**20
    shards = alone(lambda: SuffixArray.build(documents, VOCABULARY, memory=budget, path=folder / "sharded"))
    show(f"nextlens: the same within memory={budget:,} bytes", shards)
    print(f"  budget {budget / 2**20:.0f} MiB: {'kept' if shards['memory'] * 2**20 <= budget else 'MISSED'}")
    size = sum(file.stat().st_size for file in (folder / "ours").glob("*.bin")) / len(tokens)
    print(f"  on disk: {size:.3f} bytes a token; budget 8: {'kept' if size <= 8 else 'MISSED'}")
    start = perf_counter()
    SuffixArray.open(folder / "ours")
    print(f"  opened in {1e3 * (perf_counter() - start):.1f} ms")


def peer_rows(tokens: np.ndarray, folder: Path, peers: str) -> None:
    print(f"other builders, {len(tokens):,} tokens; seconds, MiB")
    documents = np.split(tokens, range(DOCUMENT, len(tokens), DOCUMENT))
    show("nextlens: by NumPy alone, in memory", alone(lambda: Shard.build(documents, 2, "numpy")))
    for what in ("infini-gram, 1 process", "infini-gram, 2 processes", "tokengrams"):
        show(what, ask_peers(peers, folder, what))


def query_rows(folder: Path, peers: str, asked: list[list[int]]) -> None:
    print(
        f"{len(asked)} prompts of {PROMPT} tokens, one by one, counts of all that follows; ms, least of {ROUNDS} rounds"
    )
    model = InfiniGram(SuffixArray.open(folder / "ours"))
    engines = ("engine in memory", "engine, mapped", "engine in memory, exact")
    ours, theirs = [], {name: [] for name in engines}
    for _ in range(ROUNDS):
        ours.append(timed(lambda prompt: model.match(prompt).next_counts, asked))
        for name in engines:
            found = ask_peers(peers, folder, name)
            if found is not None:
                theirs[name].append(found)
    show("nextlens, mapped, exact", best(ours))
    for name in engines:
        times = [in_milliseconds(found["times"]) for found in theirs[name]]
        show(f"infini-gram {name}", best(times) if times else None)
    found = [model.match(prompt) for prompt in asked]
    counts = np.quantile([match.count for match in found], [0.5, 0.95, 1]).astype(int).tolist()
    print(f"  mean n {np.mean([match.length for match in found]):.1f}; count: median, p95, max {counts}")
    if theirs[engines[0]]:
        engine = theirs[engines[0]][0]
        equal = [(match.length, match.count) for match in found] == [tuple(pair) for pair in engine["answers"]]
        print(f"  n and count equal to the engine's on every prompt: {equal}")
        fast, slow = best(ours), best([in_milliseconds(each["times"]) for each in theirs[engines[0]]])
        for key in ("median", "p95", "CPU median", "CPU p95"):
            print(f"  budget, {key} <= the engine's in memory: {'kept' if fast[key] <= slow[key] else 'MISSED'}")


def batch_rows(folder: Path, tokens: np.ndarray, rng: np.random.Generator) -> None:
    print(f"{BATCH:,} prompts at once; seconds, least of {ROUNDS} rounds")
    model = InfiniGram(SuffixArray.open(folder / "ours"))
    asked = list(prompts(tokens, BATCH, rng))
    for name, ask in {
        "one by one": lambda: [model.match(prompt) for prompt in asked],
        "matches, 1 thread": lambda: model.matches(asked),
        "matches, 2 threads": lambda: model.matches(asked, threads=2),
        "matches, 2 processes": lambda: in_processes(model, asked, 2),
    }.items():
        rounds = []
        for _ in range(ROUNDS):
            wall, cpu = perf_counter(), sum(os.times()[:4])
            ask()
            rounds.append({"wall": perf_counter() - wall, "cpu": sum(os.times()[:4]) - cpu})
        show(f"nextlens: {name}", best(rounds))
    print(f"  2 threads, time in which one neither runs nor waits for a core: {blocked_share(model, asked):.1%}")
    text = np.concatenate(asked[:8]).astype(np.int64)
    start = perf_counter()
    model.votes(text)
    print(f"  votes at every position of {len(text):,} tokens: {1e3 * (perf_counter() - start):.0f} ms")


def blocked_share(model: InfiniGram, asked: list[np.ndarray]) -> float:
    """How much of their time two threads wait for each other, however many cores are free at the moment (Linux)."""

    def ready() -> float:
        run, wait, _ = Path(f"/proc/self/task/{get_native_id()}/schedstat").read_text().split()
        return (int(run) + int(wait)) / 1e9

    def answer(part: list[np.ndarray]) -> tuple[float, float]:
        start, wall = ready(), perf_counter()
        model.matches(part)
        return ready() - start, perf_counter() - wall

    with ThreadPoolExecutor(2) as pool:
        busy, wall = np.array(list(pool.map(answer, [asked[::2], asked[1::2]]))).sum(0)
    return max(0.0, 1 - busy / wall)


def in_processes(model: InfiniGram, asked: list[np.ndarray], n: int) -> list[list[tuple]]:
    """The same by forked processes, which hand their answers back."""
    global _MODEL
    _MODEL = model
    with multiprocessing.get_context("fork").Pool(n) as pool:
        return pool.map(_answers, [asked[start::n] for start in range(n)])


def _answers(asked: list[np.ndarray]) -> list[tuple]:
    return [(match.length, match.count, match.tokens, match.counts) for match in _MODEL.matches(asked)]


def exact_rows(rng: np.random.Generator) -> None:
    print(f"exact induction in 300 contexts of {CONTEXT:,} tokens; ms, least of {ROUNDS} rounds")
    contexts = [corpus(3_000, rng)[:CONTEXT].astype(np.int64) for _ in range(300)]
    matcher, last = ExactInduction(VOCABULARY), np.array([CONTEXT - 1])
    search = best([timed(longest_match, contexts) for _ in range(ROUNDS)])
    votes = best([timed(lambda context: matcher.votes(context, last), contexts) for _ in range(ROUNDS)])
    show("nextlens: the longest match and its places", search)
    show("nextlens: votes of the last position", votes)
    print(f"  budget 0.11 ms: {'kept' if votes['median'] <= 0.11 else 'MISSED'}")
    show("nextlens: votes of all positions", timed(matcher.votes, contexts[:20]))

    def streamed(context: np.ndarray) -> None:
        reader = matcher.reader()
        for token in context.tolist():
            reader.read(token)

    show("nextlens: reader, all positions one by one", timed(streamed, contexts[:5]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=lambda text: int(float(text)), default=25_000_000)
    parser.add_argument("--peers", default=sys.executable, help="a Python that has infini-gram and tokengrams")
    parser.add_argument("--folder", type=Path, help="where to keep corpus and indexes; by default nowhere")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run(options.parts or PARTS, options.folder or Path(name), options.tokens, options.peers)


def run(parts: Sequence[str], folder: Path, n_tokens: int, peers: str) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "prompts.npy").exists():
        np.save(folder / "tokens.npy", corpus(n_tokens, rng))
        np.save(folder / "prompts.npy", prompts(np.load(folder / "tokens.npy"), PROMPTS, rng))
    tokens, asked = np.load(folder / "tokens.npy"), np.load(folder / "prompts.npy").tolist()
    rows = {
        "ours": lambda: our_rows(tokens, folder),
        "peers": lambda: peer_rows(tokens, folder, peers),
        "queries": lambda: query_rows(folder, peers, asked),
        "batch": lambda: batch_rows(folder, tokens, np.random.default_rng(1)),
        "exact": lambda: exact_rows(np.random.default_rng(2)),
    }
    for part in parts:
        rows[one_of("part", part, PARTS)]()


if __name__ == "__main__":
    main()
