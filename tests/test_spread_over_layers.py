"""All layers against one: what more features give in sample, and what is left of it on prefixes never seen."""

from __future__ import annotations

import json
from dataclasses import replace
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from nextlens.analyses import layers_run
from nextlens.analyses.belief_protocols import Scorer
from nextlens.analyses.displays.spread import SpreadDisplay
from nextlens.analyses.layers_run import LayersRecipe, run, summary
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.sites import side_by_side
from nextlens.analyses.spread_over_layers import (
    ALL,
    NOISE,
    RANK_MATCHED,
    READINGS,
    all_sites,
    blind,
    layers_and_all,
    spread_over_layers,
)
from nextlens.models.processes import rrxor
from nextlens.models.recording import record
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.probes.belief import held_out
from nextlens.probes.geometry import pairwise_r2

SMALL = TransformerConfig(n_tokens=2, n_layers=2, d_model=12, d_mlp=12, n_ctx=7)
MODEL = Transformer(SMALL)
PREFIXES = Prefixes.of(rrxor(), 7)
SITES = ["hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "ln_final.hook_normalized"]


@pytest.fixture(scope="module")
def found() -> xr.Dataset:
    return spread_over_layers(MODEL, MODEL.untrained(1), PREFIXES)


def recorded() -> xr.Dataset:
    return record(MODEL, PREFIXES.batch, SITES, where=PREFIXES.first)


def test_the_table_has_every_reading_of_every_site_of_both_models(found):
    assert layers_and_all(MODEL) == SITES
    assert found.reading.values.tolist() == list(READINGS)
    assert found.model.values.tolist() == ["trained", "untrained"]
    assert found.features.values.tolist() == [*SITES, ALL, RANK_MATCHED, NOISE]
    assert np.isfinite(found[["r2", "mse"]].to_array()).all()


@pytest.mark.parametrize("reading", list(READINGS))
def test_each_cell_is_that_protocol_on_those_features(found, reading):
    score, acts = Scorer(PREFIXES, **READINGS[reading]), recorded()
    for name, features in {SITES[1]: acts[SITES[1]], ALL: side_by_side(acts, PREFIXES.weights)}.items():
        cell = found.sel(reading=reading, model="trained", features=name)
        assert float(cell.r2) == pytest.approx(score(features).r2)
        assert float(cell.mse) == pytest.approx(score(features).mse)


def test_noise_as_wide_as_all_sites_fits_in_sample_and_nothing_else(found):
    noise = found.r2.sel(features=NOISE, model="trained")
    assert float(noise.sel(reading="in sample")) > 0.1
    for reading in ("by prefix", "by prefix, unweighted", "by suffix", "by belief"):
        assert float(noise.sel(reading=reading)) < 0.02, reading


def test_in_sample_more_features_never_do_worse(found):
    inside = found.r2.sel(reading="in sample", model="trained")
    assert float(inside.sel(features=ALL)) >= float(inside.sel(features=SITES).max()) - 1e-6


def test_rank_matched_features_are_as_many_as_one_site_has_and_lie_in_all_of_them():
    acts = recorded()
    joined = side_by_side(acts, PREFIXES.weights)
    few = all_sites(acts, PREFIXES)[RANK_MATCHED]
    assert few.shape == (len(PREFIXES), 12)
    assert held_out(joined.values, few.values, np.arange(len(PREFIXES))).r2 > 0.999


def test_pairs_are_of_what_is_read(found):
    guess = Scorer(PREFIXES)(recorded()[SITES[2]]).prediction
    cell = found.sel(reading="by prefix", model="trained", features=SITES[2])
    for measure, truth in (("pairs_belief", PREFIXES.beliefs.values), ("pairs_next_token", PREFIXES.next_token)):
        assert float(cell[measure]) == pytest.approx(pairwise_r2(truth, guess, PREFIXES.weights))
    assert np.isnan(found.pairs_belief.sel(reading="by belief")).all()


def test_nulls_that_see_no_activations_follow_the_same_rules():
    found = blind(PREFIXES)
    assert found.reading.values.tolist() == list(READINGS)
    assert {"last 1 token", "Markov-3 beliefs", "next-token law, exact", "its logarithm, exact"} <= set(
        found.null.values
    )
    expected = Scorer(PREFIXES, folds="suffix").nulls(rrxor()).r2
    for null in ("Markov-3 beliefs", "next-token law, exact"):
        assert float(found.sel(reading="by suffix", null=null)) == pytest.approx(float(expected.sel(null=null)))


def test_sampled_words_are_not_scored_in_sample():
    sampled = Prefixes.of(rrxor(), 7, n_words=60)
    assert "in sample" not in spread_over_layers(MODEL, MODEL.untrained(1), sampled).reading.values


# --- the run


def tiny(seed: int = 0, *, n_tokens: int) -> TransformerConfig:
    return replace(SMALL, seed=seed, n_tokens=n_tokens, n_layers=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "layers"
    with patch.dict(layers_run.ARCHITECTURES, rrxor=tiny):
        recipe = LayersRecipe(contexts=(5, 7), steps=4, batch_size=8, seeds=(0, 3))
        return recipe, run(recipe, folder, n_jobs=1), folder


def test_the_folder_holds_numbers_figure_and_a_checkpoint_for_each_context_and_seed(finished):
    _, numbers, folder = finished
    assert json.loads((folder / "numbers.json").read_text()) == numbers
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "recipe.json",
        "numbers.json",
        *(f"spread.{kind}" for kind in ("png", "pdf", "svg")),
        *(f"context-{context}-seed-{seed}" for context in (5, 7) for seed in (0, 3)),
    }


def test_every_number_stands_beside_twin_and_noise_with_an_interval(finished):
    _, numbers, _ = finished
    for context in ("5", "7"):
        for reading in READINGS:
            cell = numbers["contexts"][context]["r2"][reading]
            assert len(cell["trained"][ALL]["by_seed"]) == 2
            low, high = cell["untrained"][ALL]["interval_95"]
            assert low <= cell["untrained"][ALL]["mean"] <= high
            assert NOISE in cell["trained"]
    assert numbers["published"]["mse"][ALL] == 0.004
    assert set(numbers["contexts"]["5"]["r2 of nulls"]) == set(READINGS)


def test_the_summary_names_readings_contexts_and_the_command(finished):
    recipe, numbers, folder = finished
    with patch.dict(layers_run.ARCHITECTURES, rrxor=tiny):
        told = summary(recipe, numbers, folder)
    for word in (*READINGS, "context 5", "context 7", "noise", str(folder)):
        assert word in told, word
    assert "published" not in told, "those numbers are of context 10"
    assert told.splitlines()[-1] == (
        "repeat     nextlens belief layers --process rrxor --contexts 5,7 --steps 4 --batch-size 8 --seeds 0,3"
    )


def test_published_numbers_stand_beside_no_other_process():
    recipe = LayersRecipe(process="leaky_rrxor", contexts=(7,), steps=2, batch_size=4, seeds=(0,))
    assert layers_run.sum_up(recipe, {})["published"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contexts": ()}, r"contexts=\(\) must hold at least one"),
        ({"contexts": (10, 10)}, r"contexts=\(10, 10\) must hold at least one number, each once"),
        ({"contexts": (1,)}, "contexts=1 must be at least 2"),
        ({"process": "rrxr"}, "did you mean 'rrxor'"),
        ({"steps": 0}, "steps=0"),
        ({"process": "golden_mean"}, "'golden_mean' reaches 2 belief states within 10 tokens; 5 or more"),
        ({"contexts": (4,)}, r"contexts=4 leaves \d+ prefixes of 'rrxor'; more than the 128 features"),
        ({"seeds": (-1,)}, "seeds=-1 must be at least 0"),
    ],
    ids=str,
)
def test_a_recipe_refuses_what_it_cannot_do_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        LayersRecipe(**change)


# --- the figure


def scores(found: xr.Dataset) -> xr.DataArray:
    return xr.concat([found.r2, found.r2 * 0.9], xr.Variable("seed", [0, 1]))


def test_the_display_draws_each_reading_of_each_panel(found):
    display = SpreadDisplay(scores={"context 7": scores(found), "again": scores(found)}).plot()
    assert len(display.axes_) == 2
    drawn = [line for line in display.axes_[0].lines if line.get_marker() == "o"]
    assert len(drawn) == 2 * len(READINGS)
    trained = found.r2.sel(model="trained", reading="by prefix").values * 0.95
    assert any(np.allclose(line.get_ydata(), trained) for line in drawn)
    plt.close(display.figure_)


def test_the_display_draws_on_axes_it_is_given(found):
    figure, ax = plt.subplots()
    display = SpreadDisplay(scores={"context 7": scores(found)}).plot(ax)
    assert display.figure_ is figure
    assert ax.get_ylabel() == "R² of the belief"
    plt.close(figure)


def test_the_display_refuses_what_it_cannot_draw(found):
    with pytest.raises(ValueError, match="scores is empty"):
        SpreadDisplay(scores={})
    with pytest.raises(ValueError, match=r"\['seed'\] must be among them"):
        SpreadDisplay(scores={"one": found.r2})
    with pytest.raises(ValueError, match="not finite"):
        SpreadDisplay(scores={"one": scores(found) * np.nan})
