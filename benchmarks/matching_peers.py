"""What ``matching.py`` asks of infini-gram and tokengrams, under a Python that has them; nextlens is not imported.

``python matching_peers.py FOLDER WHAT`` prints one line of JSON; ``null`` if what it needs is not installed.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

DOCUMENT = 1_000

#: No token of the corpus, so that the engine reads the end of a document as this and as nothing else.
END = 65_534


def separated(tokens: np.ndarray) -> np.ndarray:
    """As infini-gram has it: a separator before each document."""
    return np.insert(tokens, np.arange(0, len(tokens), DOCUMENT), np.uint16(65_535)).astype("<u2")


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def infini_gram(folder: Path, processes: int) -> dict | None:
    if find_spec("infini_gram") is None:
        return None
    home = folder / f"infini-gram-{processes}"
    shutil.rmtree(home, ignore_errors=True)
    (home / "data").mkdir(parents=True)
    text = separated(np.load(folder / "tokens.npy"))
    text.tofile(home / "tokenized.0")
    (2 * np.arange(0, len(text), DOCUMENT + 1)).astype(np.uint64).tofile(home / "offset.0")
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    options = {"data_dir": home / "data", "save_dir": home, "mem": 8, "cpus": processes, "token_dtype": "u16"}
    command = [sys.executable, "-m", "infini_gram.indexing"]
    for name, value in {**options, "ulimit": most}.items():
        command += [f"--{name}", str(value)]
    wall, cpu = perf_counter(), cpu_seconds()
    subprocess.run(command, check=True, capture_output=True)
    return {
        "wall": perf_counter() - wall,
        "cpu": cpu_seconds() - cpu,
        "memory": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10,
    }


def tokengrams(folder: Path) -> dict | None:
    if find_spec("tokengrams") is None:
        return None
    from tokengrams import MemmapIndex

    separated(np.load(folder / "tokens.npy")).tofile(folder / "tokengrams.bin")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = perf_counter(), cpu_seconds()
    MemmapIndex.build(str(folder / "tokengrams.bin"), str(folder / "tokengrams.idx"), vocab=2**16)
    return {
        "wall": perf_counter() - wall,
        "cpu": cpu_seconds() - cpu,
        "memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10,
    }


def engine(folder: Path, in_memory: bool, exact: bool) -> dict | None:
    if find_spec("infini_gram") is None:
        return None
    from infini_gram.engine import InfiniGramEngine

    depths = {f"{name}_prefetch_depth": 0 for name in ("ds", "sa", "od")} if exact else {}
    index = InfiniGramEngine(
        str(folder / "infini-gram-1"),
        eos_token_id=END,
        load_to_ram=in_memory,
        max_support=10**9 if exact else 1000,
        **depths,
    )
    times, answers = [], []
    for prompt in np.load(folder / "prompts.npy").tolist():
        wall, cpu = perf_counter(), process_time()
        said = index.infgram_ntd(prompt_ids=prompt)
        times.append((perf_counter() - wall, process_time() - cpu))
        answers.append((said["suffix_len"], said["prompt_cnt"]))
    return {"times": times, "answers": answers}


JOBS = {
    "infini-gram, 1 process": lambda folder: infini_gram(folder, 1),
    "infini-gram, 2 processes": lambda folder: infini_gram(folder, 2),
    "tokengrams": tokengrams,
    "engine in memory": lambda folder: engine(folder, True, False),
    "engine, mapped": lambda folder: engine(folder, False, False),
    "engine in memory, exact": lambda folder: engine(folder, True, True),
}

if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[2]](Path(sys.argv[1]))))
