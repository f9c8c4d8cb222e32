"""Recipes that repeat a run, and runs that an interruption does not change."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextlens.analyses import belief_numbers, belief_run, belief_training, cli, model_training, prefix_rows
from nextlens.analyses.belief_training import (
    BeliefRecipe,
    Trained,
    checkpoint_of,
    snapshot_of,
    train_seed,
)
from nextlens.analyses.emergence import measured_after, snapshots_after
from nextlens.analyses.model_training import steps_done
from nextlens.models import checkpoints
from nextlens.models.transformer import TransformerConfig

STEPS = 24
RECIPE = BeliefRecipe(process="golden_mean", steps=STEPS, batch_size=4, warmup=3, seeds=(1, 6))
SITES = ("embed", "blocks.0.resid_mid", "blocks.2.hook_resid_post", "blocks.3.mlp_out", "ln_final.normalized")


class Interruption(Exception):
    """What stands for Ctrl-C in these tests."""


def tiny(seed: int = 0, *, n_tokens: int) -> TransformerConfig:
    return TransformerConfig(n_tokens=n_tokens, n_layers=1, d_model=16, d_mlp=16, n_ctx=5, seed=seed)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A small model, followed by few words."""
    monkeypatch.setitem(belief_training.ARCHITECTURES, "golden_mean", tiny)
    monkeypatch.setattr(belief_training, "FOLLOWED_WORDS", 100)


#: Fields of recipes for Mess3, with awkward numbers.
FIELDS = st.fixed_dictionaries(
    {
        "parameters": st.fixed_dictionaries({}, optional={"alpha": st.floats(0.34, 0.99), "x": st.floats(0.001, 0.3)}),
        "steps": st.integers(2, 10**7),
        "batch_size": st.integers(1, 10**5),
        "learning_rate": st.floats(1e-12, 10.0),
        "warmup": st.none() | st.integers(0, 1),
        "seeds": st.lists(st.integers(0, 2**31), min_size=1, max_size=4, unique=True).map(tuple),
        "sites": st.none() | st.lists(st.sampled_from(SITES), min_size=1, unique=True).map(tuple),
        "protocol": st.sampled_from(["held-out", "paper2024"]),
    }
)


def parsed(command: str) -> BeliefRecipe:
    """The recipe that the command line makes of ``command``; nothing is trained."""
    program, *arguments = shlex.split(command)
    assert program == "nextlens"
    with patch.object(belief_run, "run") as run, patch.object(belief_numbers, "summary", return_value=""):
        cli.main(arguments)
    return run.call_args.args[0]


def trained(folder: Path, *, resume: bool = False, stop_after: int | None = None) -> Trained | None:
    """Seed 6 of ``RECIPE``, saved after every step; None if it was stopped."""

    def report(done: int) -> None:
        if done == stop_after:
            raise Interruption

    with patch.object(model_training, "SAVE_EVERY", 0.0):
        try:
            return train_seed(6, recipe=RECIPE, folder=folder, resume=resume, report=report)
        except Interruption:
            return None


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Trained, Path]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    with (
        patch.dict(belief_training.ARCHITECTURES, golden_mean=tiny),
        patch.object(belief_training, "FOLLOWED_WORDS", 100),
    ):
        return trained(folder), folder


# --- recipes


@given(FIELDS)
def test_a_recipe_survives_json(fields):
    recipe = BeliefRecipe(**fields)
    text = json.dumps(recipe.as_json(), allow_nan=False)
    assert BeliefRecipe.from_json(json.loads(text)) == recipe


@given(FIELDS)
def test_the_command_line_reads_back_the_command(fields):
    recipe = BeliefRecipe(**fields)
    assert parsed(recipe.command) == recipe


@pytest.mark.parametrize("seeds", [(0,), (3,), (0, 1), (5, 2), (0, 1, 2, 3)])
def test_the_command_names_seeds_and_not_how_many(seeds):
    recipe = BeliefRecipe(seeds=seeds)
    assert parsed(recipe.command) == recipe


def test_the_usual_recipe_has_a_short_command():
    assert BeliefRecipe().command == "nextlens belief --process mess3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process": "mes3"}, "process='mes3' .*did you mean 'mess3'"),
        ({"parameters": {"alhpa": 0.5}}, "'alhpa' .*did you mean 'alpha'"),
        ({"parameters": {"x": 0.7}}, "x=0.7"),
        ({"parameters": {"x": math.nan}}, "x=nan"),
        ({"steps": 1}, "steps=1 must be at least 2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"warmup": 50, "steps": 50}, "warmup=50 must be below steps=50"),
        ({"process": "coin"}, "no belief to look for"),
        ({"process": "golden_mean", "parameters": {"p": 1.0}}, "no belief to look for"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"learning_rate": math.inf}, "learning_rate=inf"),
        ({"seeds": ()}, r"seeds=\(\)"),
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\)"),
        ({"seeds": (-1,)}, r"seeds=\(-1,\)"),
        ({"protocol": "heldout"}, "protocol='heldout' .*did you mean 'held-out'"),
        ({"sites": ("blocks.0.resid_pots",)}, "site='blocks.0.resid_pots' .*did you mean"),
        ({"sites": ()}, r"sites=\[\]"),
        ({"sites": ("embed", "hook_embed")}, "each once"),
        (
            {"sites": ("blocks.0.attn.pattern", "embed")},
            "site='blocks.0.attn.hook_pattern' holds one value for each pair",
        ),
    ],
)
def test_a_recipe_refuses_what_it_cannot_do_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        BeliefRecipe(**change)


def test_a_recipe_refuses_the_paper_protocol_for_words_too_many_to_list(monkeypatch):
    BeliefRecipe(protocol="paper2024")
    monkeypatch.setattr(prefix_rows, "MOST_WORDS", 1000)
    with pytest.raises(ValueError, match=r"protocol='paper2024' .*process='mess3' has too many to list"):
        BeliefRecipe(protocol="paper2024")


@pytest.mark.parametrize("values", [{"step": 5}, {"steps": 0}])
def test_json_that_is_no_recipe_is_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        BeliefRecipe.from_json(values)


def test_rrxor_is_trained_in_the_size_of_its_figures_and_others_in_that_of_mess3():
    assert BeliefRecipe(process="rrxor").config(7).d_model == 128
    assert BeliefRecipe(process="even").config(7).d_model == 64
    assert BeliefRecipe(process="even").config(7).n_tokens == 2
    assert BeliefRecipe().config(7).seed == 7


# --- training


def test_a_run_is_followed_at_every_moment_and_leaves_its_snapshots(uninterrupted):
    found, folder = uninterrupted
    assert [moment["step"] for moment in found.curve] == measured_after(STEPS).tolist()
    assert [moment["tokens"] for moment in found.curve] == (measured_after(STEPS) * 4 * 5).tolist()
    assert found.curve[-1]["loss_over_optimum"] < found.curve[0]["loss_over_optimum"]
    assert steps_done(checkpoint_of(folder, 6)) == STEPS
    for done in snapshots_after(STEPS):
        assert checkpoints.recipe(snapshot_of(folder, 6, done))["made_by"]["step"] == done
    kept = {path.name for path in checkpoint_of(folder, 6).parent.iterdir()}
    assert kept == {"checkpoint.safetensors", *(f"step-{done}.safetensors" for done in snapshots_after(STEPS))}


def test_the_checkpoint_holds_the_model_that_was_trained(uninterrupted):
    found, folder = uninterrupted
    saved = checkpoints.load(checkpoint_of(folder, 6))
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name]), name
    made_by = checkpoints.recipe(checkpoint_of(folder, 6))["made_by"]
    assert BeliefRecipe.from_json(made_by["recipe"]) == RECIPE
    assert made_by["seed"] == 6
    assert made_by["curve"] == found.curve


@pytest.mark.parametrize("stop_after", [1, 7, 14, 23, 24])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(uninterrupted, tmp_path, stop_after):
    measured = measured_after(STEPS).tolist()
    assert 14 in measured
    assert 7 not in measured
    assert trained(tmp_path, stop_after=stop_after) is None
    assert steps_done(checkpoint_of(tmp_path, 6)) == stop_after
    resumed, (whole, _) = trained(tmp_path, resume=True), uninterrupted
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert resumed.curve == whole.curve
    assert all(snapshot_of(tmp_path, 6, done).exists() for done in snapshots_after(STEPS))


def test_a_run_can_be_interrupted_twice(uninterrupted, tmp_path):
    assert trained(tmp_path, stop_after=4) is None
    assert trained(tmp_path, resume=True, stop_after=11) is None
    assert trained(tmp_path, resume=True).curve == uninterrupted[0].curve


def test_a_run_stopped_while_it_measures_loses_that_step_only(uninterrupted, tmp_path):
    def stopped(*_: object) -> None:
        raise Interruption

    assert trained(tmp_path, stop_after=12) is None
    with patch.object(belief_training, "emergence_at", stopped):
        assert trained(tmp_path, resume=True) is None
    assert steps_done(checkpoint_of(tmp_path, 6)) == 13
    assert trained(tmp_path, resume=True).curve == uninterrupted[0].curve


def test_resuming_a_finished_run_trains_nothing(uninterrupted):
    found, folder = uninterrupted
    told = []
    again = train_seed(6, recipe=RECIPE, folder=folder, resume=True, report=told.append)
    assert not told
    assert again.curve == found.curve
    assert again.cpu_seconds >= checkpoints.recipe(checkpoint_of(folder, 6))["made_by"]["cpu"]


def test_resuming_nothing_begins(uninterrupted, tmp_path):
    assert trained(tmp_path, resume=True).curve == uninterrupted[0].curve


def test_without_resume_a_run_begins_afresh(uninterrupted, tmp_path):
    assert trained(tmp_path, stop_after=9) is None
    assert trained(tmp_path).curve == uninterrupted[0].curve


def test_a_checkpoint_of_another_recipe_is_not_gone_on_with(uninterrupted):
    other = BeliefRecipe(process="golden_mean", steps=STEPS, batch_size=5, warmup=3, seeds=(1, 6))
    with pytest.raises(ValueError, match=r"resume: '.*checkpoint.safetensors' was made by another recipe"):
        train_seed(6, recipe=other, folder=uninterrupted[1], resume=True)


def test_seeds_decide_first_weights_and_data(tmp_path):
    one, other = (train_seed(seed, recipe=RECIPE, folder=tmp_path) for seed in RECIPE.seeds)
    assert one.curve[0] != other.curve[0]
    assert one.curve[-1] != other.curve[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"seed-1", "seed-6"}
