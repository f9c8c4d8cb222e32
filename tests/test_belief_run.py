"""The main job, small: what it writes, what it refuses, and that it can be repeated."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nextlens.analyses import belief_figures, belief_run, belief_training, model_training
from nextlens.analyses.belief_geometry import constant_mse, paper2024_mse
from nextlens.analyses.belief_numbers import interval, summary
from nextlens.analyses.belief_run import run, run_seed
from nextlens.analyses.belief_training import BeliefRecipe, checkpoint_of, snapshot_of
from nextlens.analyses.emergence import measured_after, snapshots_after
from nextlens.analyses.model_training import steps_done
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.models import checkpoints
from nextlens.models.processes import mess3
from nextlens.models.transformer import TransformerConfig

STEPS = 8
RECIPE = BeliefRecipe(steps=STEPS, batch_size=16, warmup=2, seeds=(0, 5))
FIGURES = {f"{name}.{kind}" for name in ("simplex", "layers", "emergence", "process") for kind in ("png", "pdf", "svg")}


def tiny(seed: int = 0, *, n_tokens: int) -> TransformerConfig:
    return TransformerConfig(n_tokens=n_tokens, n_layers=1, d_model=16, d_mlp=16, n_ctx=5, seed=seed)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """A small model, followed by few words."""
    with (
        patch.dict(belief_training.ARCHITECTURES, mess3=tiny, golden_mean=tiny),
        patch.object(belief_training, "FOLLOWED_WORDS", 100),
    ):
        yield


@pytest.fixture(scope="module")
def finished(quick, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("results") / "belief-mess3"
    return run(RECIPE, folder, n_jobs=1), folder


@pytest.fixture
def undrawn(monkeypatch):
    """For runs whose figures nobody looks at."""
    monkeypatch.setattr(belief_run, "draw", lambda *_: {})


def interrupted(recipe: BeliefRecipe, folder: Path, after: int) -> None:
    """A run that ends in its first seed."""

    def stop(*told: object) -> None:
        if told[-1] == after:
            raise KeyboardInterrupt

    with (
        patch.object(model_training, "SAVE_EVERY", 0.0),
        patch.object(model_training, "_report", stop),
        pytest.raises(KeyboardInterrupt),
    ):
        run(recipe, folder, n_jobs=1, progress=True)
    assert steps_done(checkpoint_of(folder, recipe.seeds[0])) == after


def numbers_in(value: Any) -> Iterator[float]:
    """Every number, however deep."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(one)
    elif isinstance(value, int | float):
        yield value


def timeless(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name != "cpu_seconds_of_training"}


# --- what is written


def test_the_folder_holds_figures_checkpoints_numbers_and_nothing_else(finished):
    _, folder = finished
    steps = {f"step-{done}.safetensors" for done in snapshots_after(STEPS)}
    expected = {"numbers.json", "recipe.json"} | FIGURES
    expected |= {f"seed-{seed}/{name}" for seed in (0, 5) for name in {"checkpoint.safetensors"} | steps}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == expected


@pytest.mark.parametrize(("kind", "opening"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_are_what_they_are_called(finished, kind, opening):
    for path in finished[1].glob(f"*.{kind}"):
        assert path.read_bytes().startswith(opening), path.name
        assert path.stat().st_size > 1000


def test_what_is_returned_is_what_is_written(finished):
    numbers, folder = finished
    assert json.loads((folder / "numbers.json").read_text()) == numbers


def test_every_number_is_finite(finished):
    found = list(numbers_in(finished[0]))
    assert len(found) > 100
    assert all(map(math.isfinite, found))


def test_headline_numbers_are_means_over_seeds_of_what_is_measured_on_the_models(finished):
    numbers, folder = finished
    models = [checkpoints.load(checkpoint_of(folder, seed)) for seed in (0, 5)]
    prefixes = Prefixes.of(mess3(), 5)
    over = [excess_loss(model, prefixes).attrs["loss_over_optimum"] for model in models]
    paper = [paper2024_mse(model, prefixes, "blocks.0.hook_resid_post").mse for model in models]
    assert numbers["loss_over_optimum"] == pytest.approx(np.mean(over))
    assert numbers["details"]["loss_over_optimum"]["by_seed"] == pytest.approx(over)
    assert numbers["mse_paper2024"] == pytest.approx(np.mean(paper))
    assert numbers["mse_paper2024_constant"] == pytest.approx(constant_mse(prefixes))
    assert numbers["r2_held_out_untrained"] < numbers["r2_held_out"] < 1
    assert abs(numbers["r2_held_out_shuffled"]) < 0.3


def test_every_headline_number_has_protocol_nulls_seeds_and_interval(finished):
    numbers, _ = finished
    for name in ("loss_over_optimum", "r2_held_out", "mse_paper2024"):
        told = numbers["details"][name]
        assert told["mean"] == numbers[name]
        assert told["protocol"]
        assert told.get("nulls") or told["null"]
        assert len(told["by_seed"]) == len(numbers["seeds"]) == 2
        assert told["interval_95"][0] <= told["mean"] <= told["interval_95"][1]
    nulls = numbers["details"]["r2_held_out"]["nulls"]
    assert {"untrained twin", "shuffle", "last 1 token", "its logarithm, exact"} <= set(nulls)
    assert nulls["untrained twin"]["mean"] == numbers["r2_held_out_untrained"]
    assert numbers["details"]["mse_paper2024"]["published"] == 0.00038635
    assert numbers["details"]["r2_held_out"]["protocol"]["in_sample"] is False


def test_numbers_by_site_by_position_and_by_moment_agree_with_the_headline(finished):
    numbers, _ = finished
    last = numbers["by_site"]["probe"]["blocks.0.hook_resid_post"]
    assert last["mean"] == numbers["r2_held_out"]
    assert list(numbers["by_site"]["probe"]) == ["hook_embed", "blocks.0.hook_resid_post"]
    by_position = numbers["by_position"]
    assert {name: len(values) for name, values in by_position.items()} == {"loss": 5, "optimum": 5, "r2": 5}
    ratio = sum(at["mean"] for at in by_position["loss"]) / sum(at["mean"] for at in by_position["optimum"])
    assert ratio == pytest.approx(numbers["loss_over_optimum"])
    steps = [[moment["step"] for moment in curve] for curve in numbers["emergence"].values()]
    assert steps == [measured_after(STEPS).tolist()] * 2


def test_the_recipe_in_the_numbers_repeats_the_run(finished, tmp_path, undrawn):
    numbers, _ = finished
    assert BeliefRecipe.from_json(numbers["recipe"]) == RECIPE
    assert numbers["repeat"] == RECIPE.command
    assert timeless(run(BeliefRecipe.from_json(numbers["recipe"]), tmp_path, n_jobs=1)) == timeless(numbers)


def test_the_paper_protocol_stands_beside_the_held_out_one(finished, tmp_path, undrawn):
    numbers = run(BeliefRecipe(**vars(RECIPE) | {"protocol": "paper2024"}), tmp_path, n_jobs=1)
    held_out, _ = finished
    for name in ("r2_held_out", "r2_held_out_untrained", "mse_paper2024", "loss_over_optimum"):
        assert numbers[name] == held_out[name]
    assert numbers["r2_paper2024"] > numbers["r2_held_out"]
    assert numbers["details"]["r2_paper2024"]["protocol"]["in_sample"] is True
    assert "in sample" in numbers["details"]["mse_paper2024"]["protocol"]


def test_the_clouds_of_the_emergence_figure_are_all_held_out(tmp_path, quick):
    recipe = BeliefRecipe(**vars(RECIPE) | {"protocol": "paper2024", "seeds": (0,)})
    result = run_seed(0, recipe=recipe, folder=tmp_path)
    display = belief_figures.emergence_display(recipe, {0: result}, tmp_path)
    clouds = [cloud.guess for _, cloud in display.snapshots]
    assert len(clouds) == 3
    np.testing.assert_array_equal(clouds[-1], result.held_out.guess)
    assert not np.array_equal(result.held_out.guess, result.geometry.guess)
    assert [tokens for tokens, _ in display.snapshots] == [done * 16 * 5 for done in snapshots_after(STEPS)]


def test_a_belief_that_the_embedding_tells_whole_is_drawn_too(tmp_path):
    numbers = run(BeliefRecipe(**vars(RECIPE) | {"process": "golden_mean"}), tmp_path, n_jobs=1)
    assert numbers["by_site"]["probe"]["hook_embed"]["mean"] == 1.0


# --- runs that follow one another


def test_a_second_run_of_a_recipe_replaces_the_first_whole(finished, tmp_path, undrawn):
    run(RECIPE, tmp_path, n_jobs=1)
    stale = snapshot_of(tmp_path, 5, 999)
    stale.write_bytes(b"of an older run")
    assert timeless(run(RECIPE, tmp_path, n_jobs=1)) == timeless(finished[0])
    assert not stale.exists()
    assert steps_done(checkpoint_of(tmp_path, 5)) == STEPS


def test_a_run_of_another_recipe_leaves_a_finished_one_alone(tmp_path, undrawn):
    numbers = run(RECIPE, tmp_path, n_jobs=1)
    other = BeliefRecipe(**vars(RECIPE) | {"steps": 4})
    with pytest.raises(ValueError, match="holds the results of a run with steps=8, not 4"):
        run(other, tmp_path, n_jobs=1)
    assert json.loads((tmp_path / "numbers.json").read_text()) == numbers
    assert steps_done(checkpoint_of(tmp_path, 5)) == STEPS


@pytest.mark.parametrize("text", ['{"cake": 1}', '{"seeds": 3}', "not JSON"])
def test_a_folder_with_a_recipe_of_something_else_is_left_alone(tmp_path, text):
    (tmp_path / "recipe.json").write_text(text)
    (tmp_path / "numbers.json").write_text("mine")
    with pytest.raises(ValueError, match=r"recipe\.json"):
        run(RECIPE, tmp_path, n_jobs=1)
    assert (tmp_path / "numbers.json").read_text() == "mine"


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(ValueError, match="holds no run to go on with"):
        run(RECIPE, tmp_path, n_jobs=1, resume=True)


def test_an_interrupted_run_over_a_finished_one_does_not_go_on_from_the_old_model(finished, tmp_path, undrawn):
    run(RECIPE, tmp_path, n_jobs=1)
    with patch.object(belief_run, "over_seeds", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        run(RECIPE, tmp_path, n_jobs=1)
    assert not (tmp_path / "numbers.json").exists()
    assert steps_done(checkpoint_of(tmp_path, 5)) == 0
    assert timeless(run(RECIPE, tmp_path, n_jobs=1, resume=True)) == timeless(finished[0])


def test_an_unfinished_run_is_refused_then_gone_on_with(finished, tmp_path, undrawn):
    interrupted(RECIPE, tmp_path, after=3)
    with pytest.raises(
        ValueError, match=r"unfinished run \(3 of 8 steps of seed 0, 0 of 8 steps of seed 5\).*--resume"
    ):
        run(RECIPE, tmp_path, n_jobs=1)
    assert timeless(run(RECIPE, tmp_path, n_jobs=1, resume=True)) == timeless(finished[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 9}, "steps=8, not 9"),
        ({"seeds": (0, 6)}, r"seeds=\[0, 5\], not \[0, 6\]"),
        ({"parameters": {"x": 0.1}}, r"parameters=\{\}, not \{'x': 0.1\}"),
        ({"protocol": "paper2024"}, "protocol='held-out', not 'paper2024'"),
    ],
)
def test_going_on_with_another_recipe_is_refused_by_field(finished, change, message):
    numbers, folder = finished
    with pytest.raises(ValueError, match=f"resume: the run in .* has {message}"):
        run(BeliefRecipe(**vars(RECIPE) | change), folder, resume=True)
    assert json.loads((folder / "numbers.json").read_text()) == numbers


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path, undrawn):
    interrupted(RECIPE, tmp_path, after=3)
    checkpoint = checkpoint_of(tmp_path, 0)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint.safetensors' \(1000 bytes\) is truncated"):
        run(RECIPE, tmp_path, n_jobs=1, resume=True)


@pytest.mark.parametrize("content", ["[]", "{", ""])
def test_a_recipe_file_that_is_no_recipe_is_refused_by_name(tmp_path, content):
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(ValueError, match=r"recipe\.json"):
        run(RECIPE, tmp_path)


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "taken").write_text("")
    with patch.object(belief_run, "over_seeds") as work, pytest.raises(OSError, match="cannot write results into"):
        run(RECIPE, tmp_path / "taken")
    work.assert_not_called()


def test_figures_that_fail_leave_the_numbers(tmp_path):
    with patch.object(belief_run, "draw", side_effect=OSError("full")), pytest.raises(OSError, match="full"):
        run(RECIPE, tmp_path, n_jobs=1)
    assert json.loads((tmp_path / "numbers.json").read_text())["seeds"] == [0, 5]


def test_seeds_side_by_side_give_the_numbers_of_one_after_the_other(finished, tmp_path, undrawn):
    with joblib.parallel_config(backend="threading"):
        both = run(RECIPE, tmp_path, n_jobs=2)
    assert timeless(both) == timeless(finished[0])


# --- what is said


def test_progress_counts_the_steps_of_all_seeds_and_leaves_no_file(tmp_path, capsys, undrawn):
    run(RECIPE, tmp_path, n_jobs=1, progress=True)
    told = capsys.readouterr()
    assert not told.out
    last = told.err.split("\r")[-1]
    assert "train: 100%" in last
    assert f"{2 * STEPS}/{2 * STEPS}" in last
    assert "step/s" in last
    assert not (tmp_path / ".progress").exists()


def test_progress_of_a_resumed_run_counts_what_was_done_before(tmp_path, capsys, undrawn):
    interrupted(RECIPE, tmp_path, after=3)
    capsys.readouterr()
    run(RECIPE, tmp_path, n_jobs=1, resume=True, progress=True)
    told = capsys.readouterr().err
    assert f" 3/{2 * STEPS}" in told
    assert f"{2 * STEPS}/{2 * STEPS}" in told


def test_without_progress_nothing_is_printed(tmp_path, capsys, undrawn):
    run(RECIPE, tmp_path, n_jobs=1)
    assert capsys.readouterr() == ("", "")


def test_the_summary_is_short_and_names_the_folder_and_its_numbers(finished):
    numbers, folder = finished
    lines = summary(RECIPE, numbers, folder).splitlines()
    assert len(lines) <= 12
    text = "\n".join(lines)
    assert f"{folder}/simplex.png" in text
    assert f"{numbers['r2_held_out']:.4f}" in text
    assert f"{numbers['details']['r2_held_out']['nulls']['untrained twin, best site']['mean']:.4f}" in text
    assert f"{numbers['mse_paper2024']:.5f}" in text
    assert RECIPE.command in text


# --- intervals


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_an_interval_is_students(values):
    found = interval(values)
    assert found["by_seed"] == values
    assert found["mean"] == pytest.approx(np.mean(values))
    if np.ptp(values) > 1e-6:
        expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        assert found["interval_95"] == pytest.approx([expected.low, expected.high])
    else:
        assert found["interval_95"] == pytest.approx([found["mean"]] * 2, abs=1e-4)


def test_one_seed_has_no_interval():
    assert interval([0.25]) == {"mean": 0.25, "interval_95": None, "by_seed": [0.25]}


def test_an_error_at_another_site_is_not_laid_beside_the_published_one(tmp_path, undrawn):
    embedding = BeliefRecipe(**vars(RECIPE) | {"sites": ("hook_embed",)})
    assert run(embedding, tmp_path, n_jobs=1)["details"]["mse_paper2024"]["published"] is None
