from __future__ import annotations

import io
import json
import multiprocessing
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nextlens.models import checkpoints
from nextlens.models.batch import Batch
from nextlens.models.checkpoints import TrainingState, load, load_training, recipe, save
from nextlens.models.processes import mess3
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.training import train
from nextlens.models.transformer import Transformer, TransformerConfig

SMALL = TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=6, seed=1)
BATCH = Batch.from_tokens([[0, 1, 2, 0], [2, 2, 1, 0]])
DOORS = {"load": load, "load_training": load_training, "recipe": recipe}
every_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)


def stream(generator=np.random.PCG64):
    return mess3().batches(4, 7, np.random.Generator(generator(0)))


def trained(steps: int = 2, generator=np.random.PCG64):
    return list(train(Transformer(SMALL), stream(generator), steps=steps))[-1]


def assert_equal_weights(one: Transformer, other: Transformer) -> None:
    theirs = other.state_dict()
    assert set(one.state_dict()) == set(theirs)
    for name, value in one.state_dict().items():
        assert value.dtype == theirs[name].dtype
        assert torch.equal(value, theirs[name]), name


def refused(door, path, message: str) -> None:
    """By one clear sentence that names the file."""
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        door(path)
    said = str(raised.value)
    assert str(path) in said
    assert "\n" not in said


# --- there and back


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "rotary", "normalisation": "RMSNorm", "gated": True, "activation": "silu"},
        {"positions": "relative", "post_normalisation": True, "d_mlp": 0, "epsilon": 1e-3},
    ],
    ids=["learned", "rotary", "relative"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_model_comes_back_as_it_was(tmp_path, changes, dtype):
    model = Transformer(replace(SMALL, **changes)).to(dtype)
    with torch.no_grad():
        model.blocks[0].attn.b_Q += 0.5
    back = load(save(tmp_path / "model.safetensors", model))
    assert back.config == model.config
    assert_equal_weights(back, model)
    assert torch.equal(back(BATCH), model(BATCH))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_recurrent_network_comes_back_as_it_was(tmp_path, kind, one_hot, dtype):
    model = Recurrent(RecurrentConfig(3, kind=kind, d_model=8, one_hot=one_hot, seed=2)).to(dtype)
    with torch.no_grad():
        model.unembed.W_U += 0.5
    back = load(save(tmp_path / "model.safetensors", model))
    assert (type(back), back.config) == (Recurrent, model.config)
    assert_equal_weights(back, model)
    assert torch.equal(back(BATCH), model(BATCH))


def test_training_of_a_recurrent_network_goes_on_from_a_file_bit_for_bit(tmp_path):
    config = RecurrentConfig(3, kind="LSTM", d_model=8)
    whole = list(train(Recurrent(config), stream(), steps=4))
    step = list(train(Recurrent(config), stream(), steps=2))[-1]
    path = save(tmp_path / "run.safetensors", step.model, training=step.state())
    resumed = list(train(load(path), stream(), steps=4, resume=load_training(path)))
    assert [step.loss for step in resumed] == [step.loss for step in whole[2:]]
    assert_equal_weights(resumed[-1].model, whole[-1].model)


def test_a_file_that_names_no_class_holds_a_transformer(tmp_path):
    path = rewritten(save(tmp_path / "model.safetensors", Transformer(SMALL)), without="kind")
    assert torch.equal(load(path)(BATCH), Transformer(SMALL)(BATCH))


def test_a_model_of_another_class_is_refused_before_anything_is_written(tmp_path):
    class Widened(Transformer):
        """One that ``load`` would not know how to make."""

    with pytest.raises(ValueError, match=r"the class of model='Widened' is not one of 'Transformer', .*Head'$"):
        save(tmp_path / "model.safetensors", Widened(SMALL))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_holds_one_checkpoint_and_is_made_with_its_parents(tmp_path):
    written = save(tmp_path / "runs" / "first", Transformer(SMALL))
    assert written == tmp_path / "runs" / "first" / "checkpoint.safetensors"
    assert_equal_weights(load(tmp_path / "runs" / "first"), load(written))
    assert [path.name for path in written.parent.iterdir()] == ["checkpoint.safetensors"]


def test_the_recipe_says_what_made_it_and_is_read_without_the_weights(tmp_path, monkeypatch):
    made_by = {"process": "mess3", "parameters": {"alpha": 0.85}, "seed": 3}
    path = save(tmp_path / "model.safetensors", Transformer(SMALL), made_by=made_by)

    class WithoutWeights:
        def __init__(self, *arguments, **how):
            self.file = safe_open(*arguments, **how)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def metadata(self):
            return self.file.metadata()

    monkeypatch.setattr(checkpoints, "safe_open", WithoutWeights)
    found = recipe(path)
    assert found["made_by"] == made_by
    assert TransformerConfig(**found["config"]) == SMALL
    assert found["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("generator", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_training_goes_on_from_a_file_bit_for_bit(tmp_path, generator):
    whole = trained(5, generator)
    step = trained(3, generator)
    path = save(tmp_path / "run.safetensors", step.model, training=step.state())
    state, model = load_training(path), Transformer(replace(SMALL, seed=8))
    resumed = list(train(model, stream(generator), steps=5, resume=state))
    assert [step.index for step in resumed] == [3, 4]
    assert (resumed[-1].loss, resumed[-1].tokens) == (whole.loss, whole.tokens)
    for name, value in whole.state().optimiser.items():
        assert torch.equal(resumed[-1].state().optimiser[name], value)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_the_head_of_an_objective_is_kept(tmp_path):
    state = replace(trained().state(), objective={"head.weight": torch.arange(3.0)})
    back = load_training(save(tmp_path / "run.safetensors", Transformer(SMALL), training=state))
    assert back.objective["head.weight"].tolist() == [0, 1, 2]


def test_the_weights_beside_a_training_state_are_those_of_the_state(tmp_path):
    model = Transformer(SMALL)
    steps = train(model, stream(), steps=4)
    state = next(steps).state()
    list(steps)
    path = save(tmp_path / "run.safetensors", model, training=state)
    for name, value in load_training(path).model.items():
        assert torch.equal(value, state.model[name])
    assert torch.equal(load(path).embed.W_E, state.model["embed.W_E"])


def test_what_holds_a_model_only_cannot_be_resumed(tmp_path):
    refused(load_training, save(tmp_path / "model.safetensors", Transformer(SMALL)), "cannot be resumed")


# --- whole or not at all


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the writer is forked")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_writer_killed_at_any_moment_leaves_a_checkpoint_that_loads(tmp_path):
    path, rng = tmp_path / "model.safetensors", np.random.default_rng(0)
    wide = replace(SMALL, d_model=256, d_mlp=1024)
    models = [Transformer(replace(wide, seed=seed)) for seed in range(2)]
    save(path, models[0])
    for _ in range(8):
        writer = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(path, models), daemon=True)
        before = path.stat().st_mtime_ns
        writer.start()
        deadline = time.monotonic() + 20
        while path.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        writer.kill()
        writer.join(20)
        assert path.stat().st_mtime_ns != before, "the writer never wrote"
        found = load(path)
        assert_equal_weights(found, models[found.config.seed])
    save(path, models[1])
    assert_equal_weights(load(path), models[1])


def save_for_ever(path: Path, models: list[Transformer]) -> None:
    while True:
        for model in models:
            save(path, model)


def test_a_save_that_fails_midway_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    path, previous = tmp_path / "model.safetensors", Transformer(SMALL)
    save(path, previous)

    def full_disk(tensors, target, metadata):
        save_file(tensors, target, metadata=metadata)
        target.write_bytes(target.read_bytes()[:500])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full_disk)
    with pytest.raises(OSError, match=r"cannot write the checkpoint '.*model\.safetensors': .*No space left"):
        save(path, previous.untrained(seed=2))
    assert_equal_weights(load(path), previous)


def test_a_parent_that_is_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for target in (tmp_path / "file" / "model.safetensors", tmp_path / "file" / "run" / "model.safetensors"):
        with pytest.raises(OSError, match="cannot write the checkpoint") as raised:
            save(target, Transformer(SMALL))
        assert str(target) in str(raised.value)
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("made_by", [{"process": object()}, {"loss": float("nan")}, {"seed": np.int64(3)}])
def test_a_recipe_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path, made_by):
    with pytest.raises(ValueError, match="made_by or the data stream cannot be written as JSON"):
        save(tmp_path / "model.safetensors", Transformer(SMALL), made_by=made_by)
    assert list(tmp_path.iterdir()) == []


# --- what is no checkpoint


@every_door
@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, 0.5, -1])
def test_a_truncated_file_is_refused(tmp_path, door, kept):
    step = trained()
    path = save(tmp_path / "model.safetensors", step.model, training=step.state())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)] if isinstance(kept, float) else whole[:kept])
    refused(door, path, r"\(\d+ bytes\) is truncated or is no safetensors file")


@every_door
@pytest.mark.parametrize(
    "junk", [b"{}", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04 not a model", np.random.default_rng(0).bytes(4096)]
)
def test_junk_is_refused(tmp_path, door, junk):
    path = tmp_path / "model.safetensors"
    path.write_bytes(junk)
    refused(door, path, "is truncated or is no safetensors file")


@every_door
def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path, door):
    refused(door, tmp_path / "none.safetensors", "there is no checkpoint at")
    refused(door, tmp_path, r"there is no checkpoint at '.*checkpoint\.safetensors'")
    with pytest.raises(FileNotFoundError):
        door(tmp_path / "none")


@every_door
@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "is a safetensors file, but not a nextlens checkpoint"),
        ({"format": "pt"}, "is a safetensors file, but not a nextlens checkpoint"),
        ({"nextlens": "not json"}, "its header is not of nextlens"),
        ({"nextlens": "[1, 2]"}, "its header is not of nextlens"),
        ({"nextlens": "{}"}, "its header is not of nextlens"),
        ({"nextlens": '{"format": 2}'}, "is of checkpoint format 2; this version of nextlens reads 1"),
    ],
)
def test_a_safetensors_file_of_others_is_refused(tmp_path, door, metadata, message):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(3)}, path, metadata=metadata)
    refused(door, path, message)


def rewritten(
    path: Path,
    *,
    config: dict | None = None,
    kind: object = None,
    without: str | None = None,
    dropped: str | None = None,
) -> Path:
    """The same file with some of the config or the class changed, or a part of the header or tensors left out."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["nextlens"])
    header["config"] |= config or {}
    if kind is not None:
        header["kind"] = kind
    if without is not None:
        del header[without]
    tensors = {name: value for name, value in load_file(path).items() if dropped is None or dropped not in name}
    save_file(tensors, path, metadata={"nextlens": json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"positions": "spiral"}}, "describes a model this version does not know: positions='spiral'"),
        ({"config": {"flavour": "mild"}}, "describes a model this version does not know: .*flavour"),
        ({"kind": "Transformr"}, "describes a model this version does not know: kind='Transformr' .* 'Transformer'.$"),
        ({"kind": "Recurrent"}, "describes a model this version does not know: .*n_heads"),
        ({"kind": ["Transformer"]}, r"describes a model this version does not know: kind=\['Transformer'\] is not"),
    ],
)
def test_a_model_of_another_version_is_refused(tmp_path, changes, message):
    path = rewritten(save(tmp_path / "model.safetensors", Transformer(SMALL)), **changes)
    refused(load, path, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"d_mlp": 32}}, r"blocks\.0\.mlp\.W_in is \(16, 24\), and should be \(16, 32\)"),
        ({"config": {"n_layers": 3}}, r"blocks\.2\.\S+ is absent, and should be \(.*\)"),
        ({"config": {"positions": "none"}}, r"pos_embed\.W_pos is \(6, 16\), and should be absent"),
        ({"dropped": "W_E"}, r"embed\.W_E is absent, and should be \(3, 16\)"),
        ({"dropped": "model/"}, r"embed\.W_E is absent"),
    ],
)
def test_weights_that_do_not_fit_their_description_are_refused(tmp_path, changes, message):
    path = rewritten(save(tmp_path / "model.safetensors", Transformer(SMALL)), **changes)
    refused(load, path, f"do not fit its own description: {message}")


class Trap:
    """Unpickling it would leave a mark."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@every_door
@pytest.mark.parametrize("write", [torch.save, partial(torch.save, _use_new_zipfile_serialization=False)])
def test_a_pickle_is_refused_and_not_executed(tmp_path, door, write):
    path, mark = tmp_path / "model.safetensors", tmp_path / "mark"
    write(Trap(mark), path)
    refused(door, path, "is truncated or is no safetensors file")
    assert not mark.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert mark.exists(), "the trap would not have sprung"


def test_a_state_of_training_is_frozen():
    with pytest.raises(AttributeError):
        TrainingState(0, 0, {}).index = 1


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    model = Transformer(TransformerConfig(n_tokens=3, d_model=8, n_ctx=4))
    with torch.no_grad():
        model.embed.W_E[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"embed\.W_E"):
        checkpoints.load(checkpoints.save(tmp_path / "m", model))
