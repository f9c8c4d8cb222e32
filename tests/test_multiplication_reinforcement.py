from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner

from nextlens.analyses import multiplication_reinforcement, parity_training
from nextlens.analyses.cli import nextlens
from nextlens.analyses.displays import style
from nextlens.analyses.multiplication_reinforcement import MEASURES, MultiplicationRecipe, run, summary
from nextlens.analyses.parity_reinforcement import measured
from nextlens.models import checkpoints
from nextlens.models.tasks.multiplication import END, EQUALS, Multiplication
from nextlens.models.transformer import Transformer

TINY = MultiplicationRecipe(
    digits=1,
    n_layers=1,
    d_model=16,
    n_heads=2,
    d_mlp=16,
    steps=60,
    batch_size=32,
    learning_rate=1e-2,
    steps_policy=2,
    n_prompts=4,
    group=2,
    rounds=2,
    n_samples=128,
    epochs=1,
    seeds=(0,),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multiplication")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", partial(style.save, formats=("png",)))
        patch.setattr(parity_training, "measured", partial(measured, n_prompts=128))
        patch.setattr(parity_training, "MOMENTS", 2)
        return run(TINY, folder, n_jobs=1), folder


def test_a_run_leaves_its_numbers_its_figure_and_a_model_of_each_training(done):
    numbers, folder = done
    assert json.loads((folder / "numbers.json").read_text()) == numbers
    assert MultiplicationRecipe.from_json(numbers["recipe"]) == TINY
    assert (folder / "course.png").stat().st_size > 5000
    names = {path.parent.name for path in folder.glob("*/checkpoint.safetensors")}
    assert names == {f"{name}-seed-0" for name in ("next-token", "policy", "star")}
    assert len(numbers["star"]["rounds"]) == TINY.rounds
    assert TINY.command in summary(TINY, numbers, folder)


def test_what_is_said_of_the_model_of_next_tokens_is_what_that_model_answers(done):
    numbers, folder = done
    model = checkpoints.load(folder / "next-token-seed-0" / "checkpoint.safetensors")
    found = measured(model, TINY.task(), np.random.default_rng([0, parity_training.MEASURE]), n_prompts=128)
    for name in MEASURES:
        if numbers["next_token"][name] is not None:
            assert numbers["next_token"][name]["by_seed"] == pytest.approx([float(found[name])])
    assert "stop" not in found


def refused(*_, **__):
    raise AssertionError("trained again")


def test_trainings_that_are_finished_are_taken_again(done, monkeypatch):
    numbers, folder = done
    (folder / "numbers.json").unlink()
    for training in ("pretrained", "reinforced", "self_taught"):
        monkeypatch.setattr(multiplication_reinforcement, training, refused)
    monkeypatch.setattr(multiplication_reinforcement, "course_figure", lambda *_: None)
    monkeypatch.setattr(style, "save", lambda *_: [])
    again = run(TINY, folder, n_jobs=1, resume=True)
    assert {name: again[name] for name in ("next_token", "policy_gradient", "star")} == {
        name: numbers[name] for name in ("next_token", "policy_gradient", "star")
    }


def test_answers_are_long_or_short_by_their_length_whatever_they_say():
    task = Multiplication(digits=1, p_chain=0.5)
    prompt = task.of([[7, 12]]).tokens.values[:, :6]
    short, chain = [4, 8, 0], [4, 1, 10, 7, 0, EQUALS, 4, 8, 0]
    words = [[*word, *[END] * (11 - len(word))] for word in (short, chain, [1, 1, 1], [4], [4, 8, 0, 0])]
    judged = task.judged(np.repeat(prompt, 5, axis=0), np.array(words))
    assert judged.is_short.values.tolist() == [True, False, True, False, False]
    assert judged.is_long.values.tolist() == [False, True, False, False, False]
    assert judged.last_is_right.values.tolist() == [True, True, False, False, False]
    endless = task.judged(prompt, np.array([short]))
    assert not endless.is_short.values[0]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"p_chain": -0.1}, "p_chain=-0.1 must lie between 0 and 1"),
        ({"digits": 0}, "digits=0 must be at least 1"),
        ({"digits": 60}, "digits=60 need 252 positions and n_positions=203; the longest number that fits has 47"),
        ({"group": 1}, "group=1 must be at least 2"),
        ({"reward": "length"}, "reward='length' is not one of 'end', 'chain'"),
        ({"rate_policy": 0.0}, "rate_policy=0.0 must be finite and above 0"),
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\) must hold"),
    ],
)
def test_wrong_recipes_are_refused(changes, refusal):
    with pytest.raises(ValueError, match=refusal):
        MultiplicationRecipe(**changes)


def test_the_command_line_says_the_command_and_refuses_in_one_sentence(tmp_path):
    assert MultiplicationRecipe().command == "nextlens multiplication"
    changed = replace(MultiplicationRecipe(), digits=3, reward="chain", seeds=(1,))
    assert changed.command == "nextlens multiplication --digits 3 --reward chain --seeds 1,"
    asked = CliRunner().invoke(nextlens, ["multiplication", "--p-chain", "nan", "--out", str(tmp_path / "x")])
    assert "p_chain=nan must lie between 0 and 1" in str(asked.exception)
    assert not (tmp_path / "x").exists()
    assert isinstance(MultiplicationRecipe().model(0), Transformer)
