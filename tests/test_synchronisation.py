"""Synchronisation: exact floors and their sums, models that are nothing but their belief, plateaus, and the job."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from nextlens.analyses import model_training, synchronisation, synchronisation_training
from nextlens.analyses.model_training import notes_of
from nextlens.analyses.phase_change import phase_change
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.synchronisation import Source, loss_against_floor, read_components, sources
from nextlens.analyses.synchronisation_numbers import summary
from nextlens.analyses.synchronisation_run import few_prefixes, run
from nextlens.analyses.synchronisation_training import SynchronisationRecipe
from nextlens.models import checkpoints
from nextlens.models.batch import Batch
from nextlens.models.processes import coin, component_beliefs, component_posterior, golden_mean, mess3, mr_name
from nextlens.models.processes.mixed_states import myopic_entropies
from nextlens.probes.belief import held_out

MIXED = Source((mess3(), mess3(0.85, 0.45)), n_ctx=5)
LISTED = Prefixes.of(MIXED.process, 5)
RECIPE = SynchronisationRecipe(("golden_mean", "three_mess3", "names"), steps=6, batch_size=8, words=20, seeds=(0, 3))


class Shown:
    """A kernel with the exact laws of a source, whose one site shows ``what`` of the beliefs that one names."""

    sites = ("blocks.0.hook_resid_post",)
    unembedding = torch.eye(3)

    def __init__(self, source: Source, what):
        self.source, self.what, self.n_tokens, self.hooks = source, what, source.process.n_tokens, []

    def __call__(self, batch: Batch) -> torch.Tensor:
        value = torch.from_numpy(self.what(self.source.process.beliefs(batch.tokens.numpy())))
        for hook in self.hooks:
            hook(value)
        return self.source.process.log_probs(batch)

    log_probs = __call__

    @contextmanager
    def edited(self, site, hook):
        self.hooks.append(hook)
        yield
        self.hooks.remove(hook)

    @contextmanager
    def watched(self, *sites):
        seen = {}
        with self.edited(self.sites[0], lambda value: seen.update(dict.fromkeys(sites, value))):
            yield seen


def noise(beliefs: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((*beliefs.shape[:-1], 4))


def joint(beliefs: np.ndarray) -> np.ndarray:
    return beliefs


@cache
def read(what, other=noise):
    """One reading a pair of sites, whoever asks."""
    return read_components(Shown(MIXED, what), Shown(MIXED, other), MIXED, LISTED)


# --- floors


@pytest.mark.parametrize(
    ("name", "rate", "excess"),
    [
        ("coin", 0.610864, 0.0),
        ("golden_mean", 0.462098, 0.174416),
        ("even", 0.462098, 0.636514),
        ("sns", 0.474888, 0.096532),
        ("parentheses", 0.480723, 1.291417),
        ("mr_name", 0.835876, 0.493785),
        ("two_coins", (coin(0.3).entropy_rate().value + coin(0.8).entropy_rate().value) / 2, np.log(2)),
        ("names", 0.835876, np.log(8) + 0.493785),
    ],
)
def test_rates_and_excess_entropies_of_the_sources(name, rate, excess):
    source = sources()[name]
    assert source.rate == pytest.approx(rate, abs=2e-6)
    assert source.excess_entropy == pytest.approx(excess, abs=2e-6)


@pytest.mark.parametrize(("components", "length"), [((golden_mean(),), 5), ((coin(0.3), coin(0.8)), 80)])
def test_what_the_floor_has_above_the_rate_sums_to_the_excess_entropy(components, length):
    source = Source(components, n_ctx=length)
    sums = (source.floor(few_prefixes(source, 10)) - source.rate).cumsum()
    assert (np.diff(sums) > -1e-12).all()
    assert sums[-1] == pytest.approx(source.excess_entropy, abs=1e-3)


def test_the_floor_is_exact_as_far_as_beliefs_are_few_and_sampled_beyond():
    exact = myopic_entropies(MIXED.process, 6)
    np.testing.assert_allclose(MIXED.floor(LISTED), exact, atol=1e-12)
    sampled = Prefixes.of(MIXED.process, 5, n_words=400, rng=np.random.default_rng(1))
    with patch.object(synchronisation, "MOST_BELIEFS", 5):
        floor = MIXED.floor(sampled)
    np.testing.assert_allclose(floor[:3], exact[:3], atol=1e-12)
    np.testing.assert_allclose(floor[3:], exact[3:], atol=0.02)
    assert np.abs(floor[3:] - exact[3:]).min() > 1e-9


def test_many_coins_lose_one_in_twice_the_tokens_read():
    source = Source(tuple(coin(n / 33) for n in range(1, 33)), n_ctx=24)
    twice = 2 * np.arange(1, 26) * (source.floor(few_prefixes(source, 10)) - source.rate)
    assert (np.diff(twice) > 0).all()
    assert 0.88 < twice[-1] < 1


def test_the_source_itself_has_no_excess_and_a_coin_has_what_it_does_not_know():
    own = loss_against_floor(MIXED.process, MIXED, LISTED)
    assert float(np.abs(own.excess).max()) < 1e-12
    assert own.attrs["summed_loss"] == pytest.approx(own.attrs["summed_floor"])
    blind = loss_against_floor(mess3(1 / 3, 0.1), MIXED, LISTED)
    np.testing.assert_allclose(blind.loss[1:], np.log(3), atol=1e-12)
    assert blind.attrs["summed_loss"] == pytest.approx(float((blind.loss - MIXED.rate).sum()))


def test_in_names_the_word_after_mr_must_be_looked_up():
    source = sources(n_names=4)["names"]
    words = source.process.sample(50, 33, np.random.default_rng(0))
    after = np.where(words[:, :-1] == 0, words[:, 1:], -1)
    assert all(len(set(row[row >= 0])) <= 1 for row in after)
    assert len(set(after[after >= 0])) == 4
    floor = source.floor(few_prefixes(source, 10))
    assert floor[1] - floor[-1] == pytest.approx(np.log(4) * mr_name().stationary[0], abs=1e-3)


# --- what is read


def test_a_site_that_shows_the_joint_belief_shows_the_posterior_too():
    found = read(joint, noise)
    r2 = found.scores.r2.isel(site=0).sel(predictor="probe")
    assert float(r2.sel(target="joint")) > 0.999999
    assert float(r2.sel(target="component")) > 0.999999
    assert float(r2.sel(target="within 0")) < 0.999
    np.testing.assert_allclose(found.guess, found.posterior, atol=1e-4)


def test_a_site_that_shows_one_component_shows_that_one():
    found = read(lambda beliefs: component_beliefs(beliefs, MIXED.components)[1])
    r2 = found.scores.r2.isel(site=0).sel(predictor="probe")
    assert float(r2.sel(target="within 1")) > 0.999999
    assert float(r2.sel(target="component")) < 0.9


def test_a_belief_within_a_component_counts_by_its_posterior():
    told = read(joint, noise).scores.r2.isel(site=0).sel(predictor="probe", target="within 0")
    beliefs, rows = LISTED.beliefs.values, np.arange(len(LISTED))
    within, posterior = component_beliefs(beliefs, MIXED.components)[0], component_posterior(beliefs, MIXED.components)
    weighted = held_out(beliefs, within, rows, weights=LISTED.weights * posterior[:, 0]).r2
    assert float(told) == pytest.approx(weighted, abs=0.01)
    assert abs(weighted - held_out(beliefs, within, rows, weights=LISTED.weights).r2) > 0.025


def test_noise_shuffles_and_the_twin_show_nothing():
    found = read(noise, joint)
    assert (found.scores.r2.sel(predictor="probe") < 0.02).all()
    assert float(found.scores.r2.sel(predictor="untrained twin", target="component").isel(site=0)) > 0.999
    assert (read(joint, noise).nulls.r2.sel(null="shuffle") < 0.15).all()


def test_nulls_see_what_they_say():
    nulls = read(noise, joint).nulls.r2
    assert set(nulls.null.values) == {
        *("last 1 token", "last 2 tokens", "shuffle"),
        *(f"{what}, {whose}" for what in ("next-token law", "its logarithm") for whose in ("exact", "model's own")),
    }
    assert float(nulls.sel(null="last 2 tokens", target="joint")) > float(
        nulls.sel(null="last 1 token", target="joint")
    )
    np.testing.assert_allclose(
        nulls.sel(null="next-token law, exact"), nulls.sel(null="next-token law, model's own"), atol=1e-6
    )


def test_the_posterior_synchronises_and_does_not_vary_after_one_token():
    at = read(joint, noise).by_position()
    assert np.isnan(at.probe[0])
    assert (at.probe[1:] > 0.9999).all()
    unsure = at.uncertainty.values
    assert unsure[0] == pytest.approx(np.log(2))
    assert (np.diff(unsure) < 0).all()


def test_a_source_of_one_component_has_no_posterior():
    source = Source((mess3(),), n_ctx=3)
    shown = Shown(source, noise)
    with pytest.raises(ValueError, match="a source of 1 component has no posterior to read"):
        read_components(shown, shown, source, Prefixes.of(source.process, 3))


# --- plateaus

STEPS = np.unique(np.geomspace(1, 1000, 60).astype(int))


def test_a_power_law_has_no_phase_change():
    for power in (0.5, 1, 2):
        found = phase_change(STEPS, 1.0 / STEPS**power)
        assert found is None or not found.appears


def test_a_plateau_left_at_once_is_one():
    excess = np.where(STEPS < 10, 1.0, np.where(STEPS < 200, 0.3, 0.3 * (200 / STEPS) ** 4))
    found = phase_change(STEPS, excess)
    assert found.appears
    assert found.level == pytest.approx(0.3)
    assert (found.begins, found.ends) == (STEPS[STEPS >= 10][0], STEPS[STEPS < 200][-1])
    assert found.fall > 0.8


def test_a_plateau_left_slowly_is_none():
    excess = np.where(STEPS < 10, 1.0, np.where(STEPS < 100, 0.3, 0.3 * (100 / STEPS) ** 0.8))
    assert not phase_change(STEPS, excess).appears


def test_the_plateau_before_anything_is_learnt_does_not_count():
    assert phase_change(STEPS, np.where(STEPS < 200, 1.0, (200 / STEPS) ** 4)) is None


def test_a_curve_that_does_not_fit_its_steps_is_refused():
    with pytest.raises(ValueError, match="must grow"):
        phase_change(np.array([1, 1, 2]), np.ones(3))
    with pytest.raises(ValueError, match="as many, finite"):
        phase_change(np.array([1, 2]), np.array([1.0, np.nan]))


# --- the job


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with (
        patch.object(synchronisation_training, "SHAPE", (1, 1, 8, 1.0)),
        patch.object(synchronisation_training, "SHAPES", {}),
        patch.object(synchronisation_training, "FOLLOWED_WORDS", 20),
        patch.object(synchronisation, "TOKENS_BACK", 2),
    ):
        yield


@pytest.fixture(scope="module")
def finished(quick, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("results") / "mixture"
    with patch.object(synchronisation, "BOUNDING_BELIEFS", 100), patch.object(synchronisation, "MOST_BELIEFS", 2000):
        return run(RECIPE, folder, n_jobs=1), folder


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(one)
    elif isinstance(value, int | float):
        yield value


def test_the_folder_holds_figures_checkpoints_and_numbers(finished):
    numbers, folder = finished
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    models = ("golden_mean-transformer", "three_mess3-transformer", "names-transformer", "names-gru")
    assert names == {
        *("recipe.json", "numbers.json"),
        *(f"{model}-seed-{seed}/checkpoint.safetensors" for model in models for seed in (0, 3)),
        *(f"{what}.{kind}" for what in ("loss", "posterior", "simplex", "training") for kind in ("png", "pdf", "svg")),
    }
    assert json.loads((folder / "numbers.json").read_text()) == numbers
    assert all(map(math.isfinite, numbers_in(numbers)))


def test_numbers_are_those_of_the_models(finished):
    numbers, folder = finished
    source = sources()["golden_mean"]
    prefixes = few_prefixes(source, 20)
    assert prefixes.listed
    model = checkpoints.load(folder / "golden_mean-transformer-seed-3" / checkpoints.FILE_NAME)
    loss, told = loss_against_floor(model, source, prefixes), numbers["sources"]["golden_mean"]
    told_of = told["models"]["transformer"]
    assert [at["by_seed"][1] for at in told_of["loss"]] == pytest.approx(loss.loss.values[1:], rel=1e-4)
    assert told_of["summed_loss"]["by_seed"][1] == pytest.approx(loss.attrs["summed_loss"], rel=1e-4)
    late = float(loss.excess[1:][7:].mean())
    assert told_of["late_excess"]["by_seed"][1] == pytest.approx(late, rel=1e-3)
    assert told["twice_l_excess"][0] == pytest.approx(2 * (0.636514 - 0.462098), abs=1e-5)


def test_every_target_has_its_sites_nulls_and_published_numbers_beside(finished):
    components = finished[0]["components"]
    assert list(components["r2"]) == ["joint", "component", "within 0", "within 1", "within 2"]
    for by_predictor in components["r2"].values():
        assert set(by_predictor) == {"probe", "untrained twin"}
        assert list(by_predictor["probe"]) == ["hook_embed", "blocks.0.hook_resid_post"]
    assert components["published"]["joint"] == 0.781
    assert components["posterior_r2_by_tokens_read"]["probe"][0] is None
    assert len(components["posterior_entropy_by_tokens_read"]) == 16


def test_training_of_transformers_and_grus_is_followed_from_the_first_step_to_the_last(finished):
    numbers, folder = finished
    for kind in ("transformer", "GRU"):
        found = numbers["phase_change"]["names"][kind]
        assert found["of"] == 2
        for seed, curve in zip((0, 3), found["curves"], strict=True):
            assert [moment["step"] for moment in curve] == [0, 1, 2, 3, 4, 5, 6]
            assert curve == notes_of(folder / f"names-{kind.lower()}-seed-{seed}" / checkpoints.FILE_NAME)["curve"]
    levels = numbers["phase_change"]["names"]["GRU"]["levels"]
    assert levels["one token"] == pytest.approx(np.log(8) / 6, abs=0.01)


def test_an_interrupted_training_keeps_its_curve_and_goes_on_with_it(tmp_path):
    recipe = SynchronisationRecipe(("names",), steps=6, batch_size=8, seeds=(0,))
    jobs = [("names", recipe.trainings()["names", "transformer"][0])]
    train = partial(synchronisation_training._train, 0, jobs=jobs, device="cpu")

    def stop(run: int, done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with patch.object(model_training, "SAVE_EVERY", 0.0), pytest.raises(KeyboardInterrupt):
        train(folder=tmp_path / "one", resume=False, report=stop)
    train(folder=tmp_path / "one", resume=True, report=None)
    train(folder=tmp_path / "other", resume=False, report=None)
    one, other = (notes_of(jobs[0][1].path(tmp_path / name))["curve"] for name in ("one", "other"))
    assert one == other


def test_the_summary_names_sources_nulls_published_numbers_and_the_command(finished):
    told = summary(RECIPE, *finished)
    for part in ("golden_mean, transformer", "names, GRU", "published 0.781", "twin", "shuffle", "phase change in"):
        assert part in told
    assert told.endswith(
        "repeat     nextlens belief mixture --source golden_mean --source three_mess3 --source names "
        "--steps 6 --batch-size 8 --words 20 --seeds 0,3"
    )


def test_many_words_are_sampled_and_few_are_listed():
    few, many = (few_prefixes(sources()[name], 50) for name in ("two_coins", "coins"))
    assert few.listed
    assert len(few.batch.tokens) == 2**14
    assert not many.listed
    assert len(many.batch.tokens) == 50


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ("coinz",)}, "source='coinz' is not one of"),
        ({"names": ()}, r"names=\(\) must hold at least one"),
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\) must hold at least one, each once"),
        ({"seeds": (-1,)}, r"seeds=\(-1,\) must be 0 or more"),
        ({"steps": 1}, "steps=1 must be at least 2"),
        ({"words": 3}, "words=3 must be at least 10"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
    ],
)
def test_a_recipe_out_of_range_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        SynchronisationRecipe(**settings)
