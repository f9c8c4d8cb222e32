from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from nextlens.analyses import objectives_training
from nextlens.analyses.objectives_training import OBJECTIVES, Lesson, lesson_steps
from nextlens.models import checkpoints
from nextlens.models.processes.zoo import mess3
from nextlens.models.transformer import TransformerConfig

CONFIG = TransformerConfig(n_tokens=4, n_layers=1, d_model=8, n_ctx=8, positions="rotary")


def lesson(objective: str, **given) -> Lesson:
    stream = partial(mess3().batches, 8, 9, tree=False)
    usual = {"cpu_seconds": 1e9, "steps": 6, "ahead": 2, "warmup": 2}
    return Lesson("one", objective, CONFIG, stream, **(usual | given))


def learn(one: Lesson, folder: Path, *, until: int | None = None, **how) -> dict:
    notes: dict = {}
    for step in lesson_steps(one, folder, notes, recipe={"it": 1}, **how):
        if step.index + 1 == until:
            raise KeyboardInterrupt
    return notes


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_lesson_that_was_interrupted_ends_where_it_would_have(objective, tmp_path, monkeypatch):
    learn(lesson(objective), tmp_path / "whole")
    monkeypatch.setattr(objectives_training, "SAVE_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        learn(lesson(objective), tmp_path / "broken", until=4)
    notes = learn(lesson(objective), tmp_path / "broken", resume=True)
    whole, broken = (checkpoints.load_training(lesson(objective).path(tmp_path / n)) for n in ("whole", "broken"))
    assert notes["steps"] == 6
    for part in ("model", "objective"):
        one, other = getattr(whole, part), getattr(broken, part)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_head_comes_back_as_it_was_trained(tmp_path):
    one = lesson("next-latent")
    learn(one, tmp_path)
    head, fresh = one.objective_of(tmp_path), one.asked()
    assert not torch.equal(head.dynamics.last.weight, fresh.dynamics.last.weight)
    kept = checkpoints.load_training(one.path(tmp_path)).objective
    assert torch.equal(head.dynamics.last.weight, kept["dynamics.last.weight"])


def test_a_lesson_ends_with_its_time_its_steps_or_when_its_caller_has_seen_enough(tmp_path):
    assert learn(lesson("next-token", cpu_seconds=1e-9), tmp_path / "time")["steps"] == 1
    assert learn(lesson("next-token"), tmp_path / "steps")["steps"] == 6
    notes: dict = {}
    for step in lesson_steps(lesson("next-token"), tmp_path / "seen", notes, recipe={}):
        notes["ended"] |= step.index == 2
    assert notes["steps"] == 3
    assert checkpoints.load_training(lesson("next-token").path(tmp_path / "seen")).index == 2


def test_what_the_caller_does_between_steps_costs_the_lesson_nothing(tmp_path):
    notes: dict = {}
    for _ in lesson_steps(lesson("next-token", steps=2), tmp_path, notes, recipe={}):
        spent = objectives_training.time.process_time()
        while objectives_training.time.process_time() - spent < 0.5:
            pass
    assert notes["cpu"] < 0.5


def test_a_lesson_that_had_ended_is_not_gone_on_with(tmp_path):
    one = lesson("registers")
    before = learn(one, tmp_path)
    notes: dict = {}
    assert not list(lesson_steps(one, tmp_path, notes, recipe={"it": 1}, resume=True))
    assert notes == before


def test_another_recipe_is_refused(tmp_path):
    learn(lesson("next-token"), tmp_path)
    with pytest.raises(ValueError, match="was made by another recipe"):
        list(lesson_steps(lesson("next-token"), tmp_path, {}, recipe={"it": 2}, resume=True))


def test_every_objective_is_given_the_same_first_weights_and_the_same_words():
    words = [next(iter(lesson(name).batches())) for name in OBJECTIVES if name != "registers"]
    assert all(torch.equal(one.tokens, words[0].tokens) for one in words)
    with_registers = next(iter(lesson("registers").batches()))
    regular = with_registers.tokens[0] != 3
    assert torch.equal(with_registers.tokens[:, regular], words[0].tokens)


def test_registers_look_as_far_as_the_lesson_says():
    words = lesson("registers", ahead=3, fewest=2, share=0.25).batches()
    offsets = set()
    for _, batch in zip(range(4), words, strict=False):
        at = batch.tokens[0] == 3
        counted = batch.weights[:, at] > 0
        offsets |= set((batch.positions[:, at] - batch.positions[:, at.roll(-1)] + 1)[counted].tolist())
        assert float(batch.weights[:, at].sum() / batch.weights.sum()) == pytest.approx(0.25)
    assert offsets == {2, 3}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objective": "next_latent"}, "objective='next_latent' is not one of"),
        ({"objective": "multi-token", "ahead": 1}, "ahead=1 must be at least 2"),
        ({"objective": "registers", "ahead": 1, "fewest": 2}, "ahead=1 must be at least 2"),
        ({"objective": "next-token", "cpu_seconds": 0}, "cpu_seconds=0 must be finite and above 0"),
        ({"objective": "next-token", "steps": 0}, "steps=0 must be at least 1"),
        ({"objective": "registers", "share": 1.5}, "share=1.5 must lie between 0 and 1"),
        ({"objective": "registers", "share": 1}, "share=1 leaves nothing to the next token"),
    ],
)
def test_wrong_lessons_are_named(given, said):
    with pytest.raises(ValueError, match=said):
        lesson(given.pop("objective"), **given)


def test_the_data_of_a_lesson_depend_on_its_seed_alone():
    one, other = (next(iter(lesson("next-token").batches())).tokens for _ in range(2))
    assert torch.equal(one, other)
    rng = np.random.default_rng([CONFIG.seed, 1])
    assert torch.equal(one, next(iter(mess3().batches(8, 9, rng, tree=False))).tokens)
