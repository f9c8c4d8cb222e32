from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.models import recording_export, stored_recording
from nextlens.models.attached import Attached
from nextlens.models.batch import Batch
from nextlens.models.growing_array import GrowingArray
from nextlens.models.prefixes import number_prefixes
from nextlens.models.processes import mess3
from nextlens.models.recording import record
from nextlens.models.recording_export import export
from nextlens.models.stored_recording import Manifest, RecordingWriter, fingerprint, open_recording
from nextlens.models.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=8, seed=1)
MODEL = Transformer(CONFIG)
TOKENS = mess3().sample(11, 6, np.random.default_rng(0))
BATCH = Batch.from_tokens(TOKENS)
SITES = ["embed", "blocks.0.resid_post", "blocks.0.hook_resid_post", "blocks.1.attn.z", "blocks.0.attn.pattern"]
THIN = SITES[:-1]


def ones(batch: Batch) -> np.ndarray:
    return batch.tokens.numpy() == 1


def stream(*sizes: int, tokens: np.ndarray = TOKENS):
    """The same sequences, in batches of these sizes."""
    for rows in np.split(tokens, np.cumsum(sizes)):
        if len(rows):
            yield Batch.from_tokens(rows)


def contents(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != stored_recording.LOCK}


def stop_after(n_chunks: int, folder, *arguments, **how) -> None:
    """Record until ``n_chunks`` are done, each durable at once, and no further."""

    class Stopped(Exception):
        pass

    def limited(batches):
        for done, batch in enumerate(batches):
            if done == n_chunks:
                raise Stopped
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_recording, "SECONDS_BETWEEN_COMMITS", 0.0)
        with pytest.raises(Stopped):
            record(MODEL, limited(stream(2, 2, 2, 2, 2)), *arguments, path=folder, **how)


# --- what is read back is what would have been in memory


@pytest.mark.parametrize("chunk", [None, 1, 4, 11])
def test_a_stored_recording_is_the_one_in_memory(tmp_path, chunk):
    stored = record(MODEL, BATCH, SITES, path=tmp_path / "r", chunk=chunk)
    xr.testing.assert_identical(stored, record(MODEL, BATCH, SITES, chunk=chunk))
    xr.testing.assert_identical(stored, open_recording(tmp_path / "r"))
    assert list(stored) == SITES


@pytest.mark.parametrize("where", [ones, ones(BATCH)], ids=["function", "array"])
def test_a_stored_recording_of_chosen_positions_is_the_one_in_memory(tmp_path, where):
    stored = record(MODEL, BATCH, THIN, path=tmp_path / "r", where=where, chunk=2)
    xr.testing.assert_identical(stored, record(MODEL, BATCH, THIN, where=ones(BATCH), chunk=2))


@settings(max_examples=8)
@given(st.lists(st.integers(1, 5), max_size=4), st.booleans())
def test_a_stream_is_recorded_as_one_batch_is(tmp_path_factory, sizes, thin):
    folder, where = tmp_path_factory.mktemp("r") / "r", ones if thin else None
    whole = record(MODEL, BATCH, THIN, where=where)
    for how in ({"path": folder}, {}):
        xr.testing.assert_allclose(record(MODEL, stream(*sizes), THIN, where=where, **how), whole, atol=1e-6, rtol=0)


@settings(max_examples=15)
@given(st.integers(1, 20), st.integers(1, 12), st.integers(1, 60), st.integers(0, 99))
def test_prefixes_of_a_stream_are_numbered_as_those_of_a_batch(n, length, alphabet, seed):
    tokens = np.random.default_rng(seed).integers(alphabet, size=(n, length))
    number = np.empty_like(tokens)
    stored_recording._number_prefixes(tokens, number)
    assert np.array_equal(number, number_prefixes(torch.as_tensor(tokens)))


def test_every_file_is_an_npy_that_numpy_reads(tmp_path):
    stored = record(MODEL, BATCH, ["embed", "blocks.0.attn.pattern"], path=tmp_path / "r")
    for name in stored.variables.keys() - {"sequence", "position"}:
        assert np.array_equal(np.load(tmp_path / "r" / f"{name}.npy", mmap_mode="r"), stored[name])
    manifest = json.loads((tmp_path / "r" / "recording.json").read_text())
    assert manifest["complete"] is True
    assert manifest["asked"]["sites"] == {
        "embed": "hook_embed",
        "blocks.0.attn.pattern": "blocks.0.attn.hook_pattern",
    }
    assert manifest["asked"]["model"].startswith("sha256:")


def test_a_site_with_a_slash_in_its_name_stays_in_the_folder(tmp_path):
    assert stored_recording._file_of(tmp_path, "../a/b").parent == tmp_path


def test_reading_back_maps_and_does_not_load(tmp_path):
    record(MODEL, BATCH, SITES, path=tmp_path / "r")
    found = open_recording(tmp_path / "r")["embed"].isel(sequence=slice(2, 4))
    owner = found.variable._data
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    assert isinstance(owner, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found.values[:] = 0


# --- what the numbers are kept in


def test_float16_is_said_and_is_the_nearest(tmp_path):
    half = record(MODEL, BATCH, ["embed"], path=tmp_path / "r", dtype="float16")["embed"]
    exact = record(MODEL, BATCH, ["embed"])["embed"]
    assert half.dtype == np.float16
    assert half.attrs == {"computed_in": "float32"}
    assert np.array_equal(half, exact.astype(np.float16))
    assert exact.attrs == {}


def test_bfloat16_is_kept_as_float32_exactly_and_says_so():
    model = Transformer(CONFIG).bfloat16()
    found = record(model, BATCH, ["embed"])["embed"]
    assert found.dtype == np.float32
    assert found.attrs == {"computed_in": "bfloat16"}
    with model.watched("embed") as seen, torch.no_grad():
        model(BATCH)
    assert torch.equal(torch.as_tensor(found.values), seen["embed"].float())


def test_what_float16_cannot_hold_is_refused_and_infinities_are_not(tmp_path):
    record(MODEL, BATCH, ["blocks.0.attn.attn_scores"], dtype="float16")
    model = Transformer(CONFIG)
    with torch.no_grad():
        model.embed.W_E.mul_(1e7)
    with pytest.raises(ValueError, match=r"dtype='float16' ends at 65504, and site='embed' holds \d"):
        record(model, BATCH, ["embed"], dtype="float16", path=tmp_path / "r")
    with pytest.raises(ValueError, match="dtype='bfloat16' is not one of 'float32', 'float16'"):
        record(model, BATCH, ["embed"], dtype="bfloat16")


# --- stopped and finished


@pytest.mark.parametrize("n_chunks", [0, 1, 3, 5])
@pytest.mark.parametrize("where", [None, ones])
def test_a_stopped_recording_is_finished_to_the_same_bytes(tmp_path, n_chunks, where):
    sizes, how = (2, 2, 2, 2, 2), {"where": where, "chunk": 2}
    record(MODEL, stream(*sizes), THIN, path=tmp_path / "whole", **how)
    stop_after(n_chunks, tmp_path / "r", THIN, **how)
    assert Manifest.of(tmp_path / "r").chunks == n_chunks
    with (tmp_path / "r" / "embed.npy").open("ab") as file:
        file.write(b"a tail that nobody counts")
    record(MODEL, stream(*sizes), THIN, path=tmp_path / "r", **how)
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


def test_only_what_is_missing_is_computed(tmp_path, monkeypatch):
    stop_after(3, tmp_path / "r", ["embed"])
    seen = []
    forward = Transformer.forward
    monkeypatch.setattr(Transformer, "forward", lambda self, batch: (seen.append(len(batch)), forward(self, batch))[1])
    record(MODEL, stream(2, 2, 2, 2, 2), ["embed"], path=tmp_path / "r")
    assert seen == [2, 2, 1]
    record(MODEL, stream(2, 2, 2, 2, 2), ["embed"], path=tmp_path / "r")
    assert seen == [2, 2, 1]


#: Records, is killed at some moment, leaves a copy of what is there, and begins again.
KILLED = """
import os, shutil, signal, sys, time, torch
torch.set_num_threads(1)
from nextlens.models import stored_recording
from nextlens.models.recording import record
from tests.test_stored_recording import MODEL, MANY, many
stored_recording.SECONDS_BETWEEN_COMMITS = 0.0
for i, moment in enumerate(map(float, sys.argv[2:])):
    child = os.fork()
    if not child:
        record(MODEL, many(), path=sys.argv[1], **MANY)
        os._exit(0)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    print("killed" if os.waitpid(child, 0)[1] == signal.SIGKILL else "finished")
    if os.path.exists(sys.argv[1]):
        shutil.copytree(sys.argv[1], f"{sys.argv[1]} {i}")
"""
MANY = {"sites": ["embed", "blocks.1.resid_post"], "chunk": 2}


def many():
    return stream(*[2] * 40, tokens=np.random.default_rng(0).integers(3, size=(80, 7)))


def test_killed_at_any_moment_it_is_refused_or_whole_and_a_rerun_finishes(tmp_path):
    whole = record(MODEL, many(), path=tmp_path / "whole", **MANY)
    moments = ["0.003", "0.01", "0.03", "0.05", "0.1", "0.2"]
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path / "r"), *moments]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "killed" in found.stdout, found.stderr
    for copy in tmp_path.glob("r*"):
        manifest = Manifest.of(copy) if (copy / "recording.json").exists() else None
        if manifest and not manifest.complete:
            with pytest.raises(ValueError, match="is unfinished"):
                open_recording(copy)
        if manifest and manifest.chunks and not manifest.complete:
            part = open_recording(copy, unfinished=True)
            xr.testing.assert_identical(part, whole.drop_vars("prefix").isel(sequence=slice(manifest.sequences)))
        record(MODEL, many(), path=copy, **MANY)
        assert contents(copy) == contents(tmp_path / "whole")


def test_what_the_manifest_counts_is_flushed_to_disk_before_it(tmp_path, monkeypatch):
    """As a power cut would find it: of each file only what was there at its last flush."""
    folder, on_disk, counted = tmp_path / "r", {}, []
    fsync, rename = os.fsync, os.replace

    def flush(handle: int) -> None:
        fsync(handle)
        for file in folder.iterdir():
            if file.stat().st_ino == os.fstat(handle).st_ino:
                on_disk[file.stat().st_ino] = file.read_bytes()

    def look_and_rename(source: Path, target: Path) -> None:
        text = on_disk[source.stat().st_ino]
        assert text == source.read_bytes()
        manifest = Manifest(**json.loads(text))
        counted.append((manifest.chunks, manifest.complete))
        for name, known in manifest.arrays.items():
            file = folder / f"{name}.npy"
            rows, flushed = manifest.rows(name), on_disk[file.stat().st_ino]
            size = np.dtype(known["dtype"]).itemsize * int(np.prod(known["row"])) * rows
            assert flushed[-size:] == file.read_bytes()[-size:]
            assert len(flushed) > size
            if manifest.complete:
                assert len(np.load(io.BytesIO(flushed))) == rows
        rename(source, target)

    monkeypatch.setattr(stored_recording, "SECONDS_BETWEEN_COMMITS", 0.0)
    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", look_and_rename)
    record(MODEL, stream(6), ["embed", "blocks.1.resid_post"], path=folder, chunk=6)
    assert counted == [(0, False), (1, False), (2, False), (2, False), (2, True)]


def test_an_array_that_grows_cannot_be_read_before_it_is_sealed(tmp_path):
    with GrowingArray(tmp_path / "a.npy", np.dtype("<f4"), (2,)) as array:
        array.append(np.ones((3, 2), np.float32))
        array.sync()
        with pytest.raises(ValueError, match="pickle"):
            np.load(tmp_path / "a.npy")
        with pytest.raises(
            ValueError, match=r"rows for 'a\.npy' are float64 of shape \(2,\); those before were float32"
        ):
            array.append(np.ones((3, 2)))
        array.seal()
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.ones((3, 2)))


def test_an_array_may_be_long_and_its_header_keeps_its_length(tmp_path):
    with GrowingArray(tmp_path / "a.npy", np.dtype("u1"), ()) as array:
        for _ in range(12):
            array.append(np.arange(100, dtype="u1"))
        array.append(np.empty(0, "u1"))
        array.seal()
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.tile(np.arange(100), 12))


# --- refusals


OTHER = Transformer(replace(CONFIG, seed=2))
MOVED = BATCH.with_(positions=BATCH.positions + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": OTHER}, "was begun with model='sha256:.*', and this call has model='sha256:"),
        ({"model": Transformer(replace(CONFIG, epsilon=1e-3))}, "was begun with model="),
        (
            {"sites": ["blocks.0.resid_post"]},
            "was begun with sites={'embed': 'hook_embed'}, and this call has sites={'b",
        ),
        ({"dtype": "float16"}, "was begun with dtype='as computed', and this call has dtype='float16'"),
        ({"chunk": 3}, "was begun with chunk=2, and this call has chunk=3"),
        ({"where": ones}, "was begun with where='every position'"),
        ({"batch": Batch.from_tokens(TOKENS[::-1].copy())}, "has read another batch: its first 11 sequences"),
        ({"batch": MOVED}, "has read another batch"),
        ({"batch": BATCH[:8]}, "holds 6 chunks; this call had no more than 4 to read"),
        ({"batch": Batch.from_tokens(np.r_[TOKENS[:11], TOKENS[:2]])}, "has read another batch|has more to read"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_another_recording_at_the_same_place_is_refused_and_left_alone(tmp_path, changes, message):
    asked = {"model": MODEL, "batch": BATCH, "sites": ["embed"], "chunk": 2}
    record(**asked, path=tmp_path / "r")
    before = contents(tmp_path / "r")
    with pytest.raises(ValueError, match=message):
        record(**(asked | changes), path=tmp_path / "r")
    assert contents(tmp_path / "r") == before


def test_a_complete_recording_is_not_gone_on_with(tmp_path):
    record(MODEL, stream(2, tokens=TOKENS[:4]), ["embed"], path=tmp_path / "r")
    with pytest.raises(ValueError, match="is complete; this call has more to read than was recorded there"):
        record(MODEL, stream(2, 2, 2), ["embed"], path=tmp_path / "r")


def test_another_batch_is_refused_where_it_differs_within_what_is_durable(tmp_path):
    stop_after(3, tmp_path / "r", ["embed"])
    before = contents(tmp_path / "r")
    with pytest.raises(ValueError, match="has read another batch: its first 6 sequences"):
        record(MODEL, stream(2, 2, 2, 2, tokens=(TOKENS + 1) % 3), ["embed"], path=tmp_path / "r")
    assert contents(tmp_path / "r") == before


def test_two_writers_at_once_are_refused(tmp_path):
    (tmp_path / "r").mkdir()
    with FileLock(tmp_path / "r" / stored_recording.LOCK), pytest.raises(OSError, match="written by another process"):
        record(MODEL, BATCH, ["embed"], path=tmp_path / "r")


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match=r"holds 'thesis\.tex' and no recording"):
        record(MODEL, BATCH, ["embed"], path=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_disk_that_refuses_is_named_and_what_was_durable_stays(tmp_path, monkeypatch):
    stop_after(3, tmp_path / "r", ["embed"])

    def full(self, values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GrowingArray, "append", full)
    with pytest.raises(OSError, match=r"cannot write the recording .*No space left"):
        record(MODEL, stream(2, 2, 2, 2, 2), ["embed"], path=tmp_path / "r")
    monkeypatch.undo()
    assert open_recording(tmp_path / "r", unfinished=True).sizes["sequence"] == 6


def truncated(folder):
    os.truncate(folder / "embed.npy", 200)


def missing(folder):
    (folder / "embed.npy").unlink()


def not_json(folder):
    (folder / "recording.json").write_text("{")


def of_the_future(folder):
    (folder / "recording.json").write_text('{"format": 9}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, r"embed\.npy' is damaged: its recording counts \d+ bytes in it, and it has 200"),
        (missing, r"embed\.npy' is damaged: .* it has 0"),
        (not_json, r"recording\.json' is not the manifest of a recording"),
        (of_the_future, "is of recording format 9; this version of nextlens reads 1"),
    ],
)
def test_a_damaged_recording_is_refused_in_one_sentence(tmp_path, damage, message):
    record(MODEL, BATCH, ["embed"], path=tmp_path / "r")
    damage(tmp_path / "r")
    with pytest.raises(ValueError, match=message):
        open_recording(tmp_path / "r")


def test_a_recording_that_is_not_there_is_not_opened(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no recording at"):
        open_recording(tmp_path)
    stop_after(0, tmp_path / "r", ["embed"])
    with pytest.raises(ValueError, match="nothing of it is durable yet"):
        open_recording(tmp_path / "r", unfinished=True)


@pytest.mark.parametrize(
    ("batches", "how", "message"),
    [
        ([], {}, "batch is a stream with nothing in it"),
        (
            [BATCH, Batch.from_tokens(TOKENS[:, :4])],
            {},
            "batch holds sequences of 5 tokens, and after 11 of them some of 3",
        ),
        ([BATCH], {"where": ones(BATCH)}, "where is an array, and batch a stream"),
        ([BATCH], {"where": lambda batch: np.zeros(batch.tokens.shape, bool)}, "where keeps no position"),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_a_stream_that_cannot_be_recorded_is_refused(tmp_path, batches, how, message, stored):
    with pytest.raises(ValueError, match=message):
        record(MODEL, batches, ["embed"], path=tmp_path / "r" if stored else None, **how)


# --- copies for other programs


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ".nc"])
@pytest.mark.parametrize("where", [None, ones])
def test_an_export_reads_back_identical(tmp_path, monkeypatch, suffix, where):
    engine = pytest.importorskip("zarr" if suffix == ".zarr" else "h5netcdf").__name__
    monkeypatch.setattr(recording_export, "BYTES_AT_A_TIME", 1000)
    recording = record(MODEL, BATCH, THIN, path=tmp_path / "r", where=where)
    target = export(recording, tmp_path / f"copy{suffix}")
    with xr.open_dataset(target, engine=engine) as back:
        xr.testing.assert_identical(back.load(), recording.load())
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"copy{suffix}", "r"]
    with pytest.raises(FileExistsError, match="is there already"):
        export(recording, target)


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("h5netcdf")
    monkeypatch.setattr(xr.Dataset, "to_netcdf", lambda self, path, engine: path.write_text("half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(record(MODEL, BATCH, ["embed"]), tmp_path / "copy.h5")
    assert not list(tmp_path.iterdir())


def test_an_export_that_cannot_be_made_says_what_is_needed(tmp_path, monkeypatch):
    recording = record(MODEL, BATCH, ["embed"], dtype="float16")
    with pytest.raises(ValueError, match=r"suffix='\.npz' is not one of '\.zarr', '\.h5', '\.nc'"):
        export(recording, tmp_path / "copy.npz")
    if recording_export.find_spec("h5netcdf"):
        with pytest.raises(ValueError, match="'embed' is float16, for which netCDF has no type"):
            export(recording, tmp_path / "copy.h5")
    monkeypatch.setattr(recording_export, "find_spec", lambda package: None)
    with pytest.raises(
        ImportError, match=r"needs h5netcdf and h5py; install them with: pip install 'nextlens\[export\]'"
    ):
        export(recording, tmp_path / "copy.h5")


def test_a_recording_of_an_edited_model_is_not_taken_for_one_of_the_model(tmp_path):
    record(MODEL, BATCH, SITES, path=tmp_path / "plain")
    with MODEL.edited(SITES[0], torch.zeros_like), pytest.raises(ValueError, match="edited or watched"):
        record(MODEL, BATCH, SITES, path=tmp_path / "plain")


def test_sites_that_name_other_parts_are_of_another_model():
    module = torch.nn.Sequential(torch.nn.Embedding(3, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    one, other = (Attached(module, {"s": part}) for part in ("0", "1"))
    assert fingerprint(one) == fingerprint(Attached(module, {"s": "0"}))
    assert fingerprint(one) != fingerprint(other)
    assert (one.site_parts, other.site_parts) == ({"hook_s": "0"}, {"hook_s": "1"})


def test_a_lock_is_free_once_its_recording_is_closed(tmp_path):
    writer = RecordingWriter(tmp_path / "r", {"a": 1})
    with writer:
        pass
    with FileLock(tmp_path / "r" / stored_recording.LOCK, timeout=0):
        assert (tmp_path / "r").is_dir()
