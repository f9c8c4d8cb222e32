from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner

from nextlens.analyses import coupled_tasks
from nextlens.analyses.cli import nextlens
from nextlens.analyses.coupled_tasks import KINDS, ON_GRID, QUESTIONS, CoupledTasksRecipe, run, summary
from nextlens.analyses.displays import style

TINY = CoupledTasksRecipe(
    tasks=("copying", "mines"), n_layers=1, n_heads=1, d_model=8, d_head=4, d_mlp=8, steps=2, batch_size=4, seeds=(0, 1)
)


@pytest.mark.parametrize("name", QUESTIONS)
def test_beyond_the_sizes_trained_on_coupled_ids_are_ids_that_were_trained(name):
    question, rng = QUESTIONS[name], np.random.default_rng(0)
    seen = np.unique(question.tasks["coupled"].draw(600, rng).positions.values)
    asked = []
    for size in question.sizes:
        drawn = question.drawn(question.tasks["coupled"], 20, rng, size)
        assert np.isin(drawn.positions.values, seen).all()
        other = question.drawn(question.tasks[KINDS[1]], 20, rng, size)
        assert (other.answer.values.sum(1) == drawn.answer.values.sum(1)).all()
        asked.append(int(drawn.answer.values.sum(1)[0]))
    assert asked == sorted(set(asked))


def test_a_run_leaves_its_numbers_and_its_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save", partial(style.save, formats=("png",)))
    monkeypatch.setattr(coupled_tasks, "N_SEQUENCES", 8)
    numbers = run(TINY, tmp_path, n_jobs=1)
    assert json.loads((tmp_path / "numbers.json").read_text()) == numbers
    assert CoupledTasksRecipe.from_json(numbers["recipe"]) == TINY
    assert np.array(numbers["mines"]["coupled"]["token"]).shape == (2, len(QUESTIONS["mines"].sizes))
    assert set(QUESTIONS["mines"].tasks) == {*KINDS, ON_GRID} <= set(numbers["mines"])
    model = TINY.model(QUESTIONS["mines"].tasks[ON_GRID], ON_GRID, 81, 0)
    assert model.pos_embed.W_side.shape == (9, 8)
    assert (tmp_path / "tasks.png").stat().st_size > 5000
    assert TINY.command in summary(TINY, numbers, tmp_path)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"tasks": ("copy",)}, "tasks='copy' is not one of .*; did you mean 'copying'"),
        ({"tasks": ()}, r"tasks=\(\) must hold at least one, each once"),
        ({"steps": 1}, "steps=1 must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be finite and above 0"),
        ({"seeds": (-1,)}, "seeds=-1 must be at least 0"),
    ],
)
def test_wrong_recipes_are_refused(changes, refusal):
    with pytest.raises(ValueError, match=refusal):
        CoupledTasksRecipe(**changes)


def test_the_command_line_says_the_command_and_refuses_in_one_sentence(tmp_path):
    assert CoupledTasksRecipe().command == "nextlens coupled-tasks"
    changed = replace(CoupledTasksRecipe(), tasks=("three operands", "mines"), steps=9)
    assert changed.command == "nextlens coupled-tasks --tasks 'three operands,mines' --steps 9"
    asked = CliRunner().invoke(nextlens, ["coupled-tasks", "--tasks", "mine", "--out", str(tmp_path / "x")])
    assert "tasks='mine' is not one of" in str(asked.exception)
    assert not (tmp_path / "x").exists()
