"""Every question's command line reads back what its recipe says repeats it."""

from __future__ import annotations

import json
import shlex
from importlib import import_module
from typing import Any

import pytest

from nextlens.analyses.belief_training import BeliefRecipe
from nextlens.analyses.cli import main
from nextlens.analyses.constrained_recipe import ConstrainedRecipe, Setting
from nextlens.analyses.edit_recipe import EditRecipe
from nextlens.analyses.factored_recipe import FactoredRecipe
from nextlens.analyses.generators_recipe import GeneratorsRecipe
from nextlens.analyses.induction_training import InductionRecipe
from nextlens.analyses.layers_run import LayersRecipe
from nextlens.analyses.synchronisation_training import SynchronisationRecipe

#: By the module whose ``run`` answers it.
RECIPES = {
    "belief_run": [
        BeliefRecipe(),
        BeliefRecipe("rrxor", {"p1": 0.4}, steps=7, seeds=(3,), protocol="quantum2025", warmup=2),
        BeliefRecipe("even", sites=("embed",), folds="suffix", batch_size=8, learning_rate=1e-4),
    ],
    "edit_run": [
        EditRecipe(),
        EditRecipe(BeliefRecipe("bloch_walk", steps=50, seeds=(0, 2)), pairs=30, ahead=1),
    ],
    "layers_run": [LayersRecipe(), LayersRecipe("leaky_rrxor", {"p1": 0.3}, (7,), 5, 6, 0.002, (3,))],
    "constrained_run": [
        ConstrainedRecipe(),
        ConstrainedRecipe((Setting(0.5, 0.6, 2),), steps=5, batch_size=4, learning_rate=1e-4, n_ctx=8, longest=6),
        ConstrainedRecipe(seeds=(7,)),
    ],
    "generators_run": [
        GeneratorsRecipe(),
        GeneratorsRecipe(("frdn", "moon"), ("RNN",), (5,), 9, 16, 0.01, None, 2),
        GeneratorsRecipe(words=500),
    ],
    "factored_run": [
        FactoredRecipe(),
        FactoredRecipe(steps=9, batch_size=8, learning_rate=0.1, seeds=(4,), epsilons=(0.25,), noise_steps=3, words=30),
        FactoredRecipe("paper", epsilons=()),
    ],
    "synchronisation_run": [
        SynchronisationRecipe(),
        SynchronisationRecipe(("coin", "coins"), 4, 3, 0.5, 20, (6,)),
    ],
    "induction_run": [InductionRecipe(), InductionRecipe(steps=5, n_heads=4, positions="rotary", seeds=(1,))],
}
EACH = [(module, recipe) for module, recipes in RECIPES.items() for recipe in recipes]


class Asked(Exception):
    """Carries the recipe that a command line came to."""


@pytest.fixture
def asked(monkeypatch):
    """What ``nextlens`` is told, as the recipe it would run."""

    def of(module: str, command: str, *more: str) -> Any:
        def run(recipe: Any, folder: Any, **_: Any) -> None:
            raise Asked(recipe)

        monkeypatch.setattr(import_module(f"nextlens.analyses.{module}"), "run", run)
        name, *arguments = shlex.split(command)
        assert name == "nextlens"
        with pytest.raises(Asked) as told:
            main([*arguments, *more])
        return told.value.args[0]

    return of


@pytest.mark.parametrize(("module", "recipe"), EACH, ids=lambda value: getattr(value, "command", value))
def test_the_command_line_reads_back_the_command(module, recipe, asked):
    assert json.dumps(asked(module, recipe.command).as_json()) == json.dumps(recipe.as_json())


def test_what_stands_before_a_question_is_not_lost(capsys):
    with pytest.raises(SystemExit) as done:
        main(["belief", "--steps", "3", "layers"])
    assert done.value.code == 2
    assert "--steps must stand after 'layers'" in capsys.readouterr().err


def test_edits_of_a_folder_take_its_recipe_and_no_other(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["belief", "edit", "--from", str(tmp_path), "--steps", "3"])
    assert "--from takes the recipe of that folder; leave out steps=3" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["belief", "edit", "--from", str(tmp_path)])
    assert "is not a results folder of nextlens belief" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layers", "--contexts", "ten"], "--contexts 'ten' must be whole numbers with commas between"),
        (["layers", "--process", "rrxr"], "did you mean 'rrxor'"),
        (["constrained", "--setting", "0.5"], "0.5"),
        (["generators", "--process", "mes3"], "did you mean 'mess3'"),
        (["generators", "--architecture", "LTSM"], "did you mean 'LSTM'"),
        (["generators", "--words", "few"], "--words 'few' must be whole numbers"),
        (["factored", "--factors", "papr"], "did you mean 'paper'"),
        (["factored", "--epsilons", "much"], "--epsilons 'much' must be numbers with commas between"),
        (["mixture", "--source", "coinz"], "did you mean 'coin"),
        (["edit", "--pairs", "0"], "pairs=0 must be at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_input_ends_in_one_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as done:
        main(["belief", *arguments])
    told = capsys.readouterr()
    assert done.value.code == 2
    assert not told.out
    assert told.err.startswith("Error: ")
    assert told.err.count("\n") == 1
    assert message in told.err
