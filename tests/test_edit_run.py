"""Edits as a job, small: what it writes, whose models it edits, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from nextlens.analyses import belief_training, edit_run
from nextlens.analyses.belief_edit import EDITS, belief_edit
from nextlens.analyses.belief_pairs import Pairs
from nextlens.analyses.belief_training import BeliefRecipe, checkpoint_of, train_seed
from nextlens.analyses.edit_numbers import edits_display, summary
from nextlens.analyses.edit_recipe import EditRecipe
from nextlens.analyses.edit_run import run
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.results_folder import RECIPE, write_json
from nextlens.models import checkpoints
from nextlens.models.processes import mess3
from nextlens.models.transformer import TransformerConfig

TRAINED = BeliefRecipe(steps=6, batch_size=16, warmup=2, seeds=(0, 5))
EDITED = EditRecipe(TRAINED, pairs=30)
LAST = "blocks.0.hook_resid_post"


def tiny(seed: int = 0, *, n_tokens: int) -> TransformerConfig:
    return TransformerConfig(n_tokens=n_tokens, n_layers=1, d_model=8, d_mlp=8, n_ctx=5, seed=seed)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with (
        patch.dict(belief_training.ARCHITECTURES, mess3=tiny, rrxor=tiny),
        patch.object(belief_training, "FOLLOWED_WORDS", 20),
        patch.object(edit_run, "ABLATED_WORDS", 100),
        patch.object(edit_run, "SWEPT", (1e-6, 1.0)),
    ):
        yield


@pytest.fixture(scope="module")
def finished(quick, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("results") / "edits"
    return run(EDITED, folder, n_jobs=1), folder


@pytest.fixture(scope="module")
def of_belief(quick, tmp_path_factory) -> Path:
    """What ``nextlens belief`` leaves for its seeds."""
    folder = tmp_path_factory.mktemp("belief")
    write_json(folder / RECIPE, TRAINED.as_json())
    for seed in TRAINED.seeds:
        train_seed(seed, recipe=TRAINED, folder=folder)
    return folder


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(one)
    elif isinstance(value, int | float):
        yield value


def test_the_folder_holds_numbers_figure_and_checkpoints(finished):
    numbers, folder = finished
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    kept = {f"seed-{seed}/checkpoint.safetensors" for seed in (0, 5)}
    assert names == kept | {"recipe.json", "numbers.json", "edits.png", "edits.pdf", "edits.svg"}
    assert json.loads((folder / "numbers.json").read_text()) == numbers
    found = list(numbers_in(numbers))
    assert len(found) > 300
    assert all(map(math.isfinite, found))


def test_every_site_edit_and_step_has_its_kl_by_seed(finished):
    kl = finished[0]["kl"]
    assert list(kl) == ["hook_embed", LAST]
    for at in (*kl.values(), *finished[0]["untrained_twin"]["kl"].values()):
        assert list(at) == list(EDITS)
        assert all(list(by_step) == ["1", "2"] for by_step in at.values())
        assert all(len(one["by_seed"]) == 2 for by_step in at.values() for one in by_step.values())


def test_the_kl_of_a_seed_is_that_of_its_model_by_belief_edit(finished):
    numbers, folder = finished
    model, rng = checkpoints.load(checkpoint_of(folder, 5)), np.random.default_rng([5, 3])
    pairs = Pairs.of(Prefixes.of(mess3(), 4, rng=rng), 30, rng)
    kl = belief_edit(model, pairs, sites=[LAST], ahead=2, rng=rng).kl.mean("pair").isel(site=0)
    for edit in ("none", "covariance", "decoder", "wrong belief", "true context"):
        told = [numbers["kl"][LAST][edit][step]["by_seed"][1] for step in ("1", "2")]
        np.testing.assert_allclose(told, kl.sel(edit=edit), rtol=1e-5)
    ratio = kl.sel(edit="wrong belief", step=1) / kl.sel(edit="covariance", step=1)
    assert numbers["wrong_over_covariance"][LAST]["by_seed"][1] == pytest.approx(float(ratio), rel=1e-5)


def test_the_checkpoints_of_a_belief_run_give_what_training_anew_gives(finished, of_belief, tmp_path):
    taken = run(EditRecipe.of_folder(of_belief, pairs=30), tmp_path / "edits", n_jobs=1)
    for name in ("kl", "penalty_sweep", "ablation"):
        assert list(numbers_in(taken[name])) == pytest.approx(list(numbers_in(finished[0][name])), rel=1e-3, abs=1e-6)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert taken["repeat"] == f"nextlens belief edit --from {of_belief} --pairs 30"


def test_where_next_laws_are_equal_their_pairs_are_edited_and_told(tmp_path):
    recipe = EditRecipe(BeliefRecipe("rrxor", steps=2, batch_size=16, seeds=(1, 2)), pairs=20)
    numbers = run(recipe, tmp_path, n_jobs=1)
    assert list(numbers["equal_next_law"]["kl"][LAST]["none"]) == ["1", "2"]
    assert "equal next law, token 2" in summary(recipe, numbers, tmp_path)


def test_the_beliefs_of_mess3_have_no_such_pairs(finished):
    assert finished[0]["equal_next_law"] is None
    assert "no two contexts have equal next-token laws" in summary(EDITED, *finished)


@pytest.mark.parametrize(
    ("low", "mean", "verdict"), [(6.0, 9.0, " at least 5"), (2.0, 9.0, "not surely at least 5"), (1.0, 4.0, "below 5")]
)
def test_the_summary_holds_the_ratio_to_the_bar(finished, low, mean, verdict):
    numbers = deepcopy(finished[0])
    numbers["wrong_over_covariance"][LAST] = {"mean": mean, "interval_95": [low, 10.0], "by_seed": [low, 10.0]}
    (line,) = (line for line in summary(EDITED, numbers, finished[1]).splitlines() if "wrong / right" in line)
    assert verdict in line


def test_the_summary_has_every_edit_the_nulls_and_the_command(finished):
    told = summary(EDITED, *finished)
    for name in (*EDITS, "untrained twin", "random subspace", "edits.png"):
        assert name in told
    assert (
        "repeat     nextlens belief edit --process mess3 --steps 6 --batch-size 16 --warmup 2 --seeds 0,5 --pairs 30"
        in told
    )


def test_the_figure_draws_the_kl_of_the_step_it_is_asked_for(finished):
    display = edits_display(finished[0], step=2).plot()
    drawn = display.artists_["covariance"].get_ydata()
    assert drawn.tolist() == [at["covariance"]["2"]["mean"] for at in finished[0]["kl"].values()]


def test_one_seed_has_no_interval_and_is_drawn_without_bars(tmp_path):
    recipe = EditRecipe(BeliefRecipe(steps=2, batch_size=16, seeds=(1,)), pairs=20, ahead=1)
    numbers = run(recipe, tmp_path, n_jobs=1)
    assert numbers["kl"][LAST]["covariance"]["1"]["interval_95"] is None
    assert not edits_display(numbers).intervals
    assert "(one seed, no interval)" in summary(recipe, numbers, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": 0}, "pairs=0 must be at least 1"),
        ({"ahead": 0}, "ahead=0 must be at least 1"),
        ({"ahead": 6}, "ahead=6 leaves no token of context in the 5 of the model"),
    ],
)
def test_a_recipe_out_of_range_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        EditRecipe(TRAINED, **settings)


def test_a_folder_that_is_no_belief_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no recipe\.json: it is not a results folder of nextlens belief"):
        EditRecipe.of_folder(tmp_path)


def test_a_belief_run_that_is_not_finished_is_refused(tmp_path):
    write_json(tmp_path / RECIPE, TRAINED.as_json())
    with pytest.raises(ValueError, match="0 of 6 steps of seed 0; finish it first"):
        EditRecipe.of_folder(tmp_path)


def test_edits_are_not_written_over_the_run_they_edit(of_belief):
    with pytest.raises(ValueError, match="choose another"):
        run(EditRecipe.of_folder(of_belief), of_belief, n_jobs=1)
    assert json.loads((of_belief / RECIPE).read_text()) == TRAINED.as_json()
