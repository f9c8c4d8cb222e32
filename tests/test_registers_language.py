from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nextlens.analyses import registers_language
from nextlens.analyses.registers_language import (
    RegisterVector,
    adapted,
    fine_tune,
    losses,
    touch,
    tuning_steps,
    unused_token,
    without_adapters,
)
from nextlens.models.batch import Batch
from nextlens.models.bridge import Bridged
from nextlens.models.hugging_face import wrapped
from nextlens.models.objectives.registers import interleave_registers
from nextlens.models.tasks.corpus import Corpus

pytest.importorskip("peft", reason="peft is not installed: pip install peft")

REGISTER = 31


@pytest.fixture
def model() -> Bridged:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
        )
        return wrapped(LlamaForCausalLM(config), "tiny")


@pytest.fixture
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    return Corpus([np.tile(rng.integers(0, 30, 7), 40) for _ in range(3)], n_tokens=32)


@pytest.fixture
def batch(corpus) -> Batch:
    return next(iter(corpus.batches(2, 17, np.random.default_rng(0))))


@torch.no_grad()
def said(model: Bridged, batch: Batch) -> torch.Tensor:
    return model(batch)


def test_adapters_begin_as_nothing_are_trained_alone_and_leave_the_model_as_it_was(model, corpus, batch):
    was = said(model, batch)
    frozen = {name: p.clone() for name, p in model.named_parameters()}
    adapted(model, rank=2)
    assert torch.equal(said(model, batch), was)
    steps = list(tuning_steps(model, corpus, REGISTER, steps=40, ahead=3, length=16, learning_rate=2e-2))
    assert np.mean([s.loss for s in steps[-10:]]) < np.mean([s.loss for s in steps[:10]]) - 0.04
    assert (said(model, batch) - was).abs().max() > 1e-2
    with without_adapters(model):
        assert torch.equal(said(model, batch), was)
    kept = {name.replace(".base_layer", ""): p for name, p in model.named_parameters() if "lora" not in name}
    assert kept.keys() == frozen.keys()
    assert all(torch.equal(kept[name], frozen[name]) for name in frozen)
    assert touch(model, batch, REGISTER, 3) < 1e-5


def test_the_control_reads_the_same_windows_without_registers(model, corpus, monkeypatch):
    read = []
    monkeypatch.setattr(
        registers_language, "train", lambda model, batches, **how: [read.append(one) for one in islice(batches, 3)]
    )
    for share in (0.3, 0.0):
        list(tuning_steps(model, corpus, REGISTER, steps=3, length=16, share=share))
    for ours, control in zip(read[:3], read[3:], strict=True):
        assert len(control.tokens[0]) == 16 < len(ours.tokens[0])
        assert torch.equal(ours.tokens[ours.tokens != REGISTER][None], control.tokens)


def test_first_adapters_depend_on_their_seed_and_leave_the_generator_alone(model):
    state = torch.random.get_rng_state()
    adapted(model, rank=2, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert weights
    assert all("lora" in name for name in weights)
    assert all((p == 0).all() for name, p in weights.items() if "lora_B" in name)


def test_the_vector_stands_at_registers_and_nowhere_else(model, batch):
    objective = RegisterVector(model, REGISTER)
    with_registers = interleave_registers(batch, register=REGISTER, ahead=torch.full_like(batch.tokens, 2), weight=0.5)
    at = with_registers.tokens == REGISTER
    with torch.no_grad():
        before = objective(model, with_registers)
        objective.vector.copy_(torch.full((16,), 3.0))
        after = objective(model, with_registers)
    assert torch.equal(before[~at], after[~at])
    assert not torch.allclose(before[at], after[at])
    objective(model, with_registers)[at].sum().backward()
    assert objective.vector.grad.abs().sum() > 0


def test_losses_are_of_the_tokens_so_far_ahead(model, corpus, batch):
    found = losses(model, RegisterVector(model, REGISTER), [batch], ahead=2)
    own = said(model, batch).log_softmax(-1).gather(2, batch.targets[..., None])
    assert found["next_token"] == found["next_token_by_batch"] == [pytest.approx(-float(own.mean()), abs=1e-5)]
    for d, cost in enumerate(found["registers"], start=1):
        places = torch.arange(batch.tokens.shape[1] - d + 1)
        ahead = torch.full_like(batch.tokens, d)
        asked = interleave_registers(batch, register=REGISTER, ahead=ahead, weight=0.5)
        at = asked.tokens[0] == REGISTER
        assert torch.equal(asked.targets[:, at], batch.targets[:, places + d - 1])
        with torch.no_grad():
            own = RegisterVector(model, REGISTER)(model, asked)[:, at]
        assert cost == pytest.approx(float(own.mean()), abs=1e-5)
    assert abs(found["registers"][0] - found["registers"][1]) > 1e-3


def test_a_register_is_a_token_that_no_text_holds(corpus):
    assert unused_token(corpus, 32) == REGISTER
    with pytest.raises(ValueError, match="every one of the 2 tokens occurs"):
        unused_token(Corpus([np.array([0, 1, 0])], n_tokens=2), 2)


def test_what_came_of_a_fine_tuning_is_said(model, monkeypatch, tmp_path):
    monkeypatch.setattr(registers_language, "load", lambda name: model)

    class Letters:
        n_tokens = 32

        def encode(self, text):
            return np.array([ord(letter) % 26 for letter in text])

        def decode(self, tokens):
            return "".join(chr(int(token) + 97) for token in tokens)

    model.vocabulary = Letters()
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("the cat sat on the mat " * 20)
    found = fine_tune(tmp_path, steps=4, length=12, ahead=2, rank=1, held_out=2)
    assert found["plain_is_unchanged"]
    assert found["registers_touch"] < 1e-5
    assert len(found["loss"]) == 4
    assert len(found["after"]["registers"]) == 2
    assert found["trained"] == 16 + sum(p.numel() for p in model.parameters() if p.requires_grad)
    (tmp_path / "b.txt").unlink()
    with pytest.raises(ValueError, match="holds 1 texts"):
        fine_tune(tmp_path)


def test_what_cannot_be_adapted_is_refused(model, monkeypatch):
    with pytest.raises(ValueError, match="are no linear maps of this model"):
        adapted(model, maps=["wq"])
    with pytest.raises(ValueError, match="rank=0 must be at least 1"):
        adapted(model, rank=0)
    with pytest.raises(ValueError, match="register=32 must be a token of the model"):
        RegisterVector(model, 32)
    monkeypatch.setattr(registers_language.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="low-rank adapters need peft: pip install peft"):
        adapted(model)


def test_streams_of_a_corpus_are_read_one_window_after_another(corpus):
    one, other = (list(islice(corpus.batches(1, 9, np.random.default_rng(3)), 2)) for _ in range(2))
    assert torch.equal(one[1].tokens, other[1].tokens)
