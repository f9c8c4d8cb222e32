"""Minimal generator against classical memory: the targets, their nulls, and a run of tiny models."""

from __future__ import annotations

import json

import jaxtyping
import numpy as np
import pytest
import torch
import xarray as xr

from nextlens.analyses import generators_run
from nextlens.analyses import minimal_generators as question
from nextlens.analyses.generators_numbers import ModelResult, _losses, summary
from nextlens.analyses.generators_recipe import ARCHITECTURES, PROCESSES, GeneratorsRecipe, config_of
from nextlens.analyses.generators_run import run
from nextlens.analyses.minimal_generators import (
    GENERATOR,
    MARKOV,
    RIVALS,
    TARGETS,
    TWIN,
    minimal_generators,
    published_scores,
    rival_targets,
)
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.analyses.quantum2025 import quantum2025
from nextlens.analyses.results_folder import read_json
from nextlens.models import checkpoints
from nextlens.models.batch import Batch
from nextlens.models.processes import PROCESSES as ZOO
from nextlens.models.processes import frdn, golden_mean, mess3
from nextlens.models.recurrent import Recurrent
from nextlens.models.transformer import Transformer, TransformerConfig

BEYOND_MARKOV, BEYOND_GENERATOR = TARGETS[2:]
MODEL = Transformer(TransformerConfig(n_tokens=3, n_layers=1, n_heads=2, d_model=8, d_mlp=8, n_ctx=5, seed=3))
PREFIXES = Prefixes.of(mess3(), 5)
TINY = GeneratorsRecipe(processes=("frdn",), architectures=("GRU",), seeds=(0, 1), steps=4, batch_size=4)


@pytest.fixture(scope="module")
def measured() -> xr.Dataset:
    return minimal_generators(MODEL, MODEL.untrained(seed=8), PREFIXES)


# --- what is read


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_classical_memory_is_certain_once_it_has_read_enough(order):
    memory = rival_targets(PREFIXES, order)[MARKOV].values
    np.testing.assert_allclose(memory.sum(1), 1.0)
    full = PREFIXES.position >= order - 1
    np.testing.assert_allclose(np.sort(memory[full])[:, -1], 1.0)
    assert (np.sort(memory[~full])[:, -1] < 0.99).all()
    tokens = PREFIXES.batch.tokens.numpy()
    sequence, position = np.nonzero(PREFIXES.first)
    words = [tuple(tokens[s, t - order + 1 : t + 1]) for s, t in zip(sequence, position, strict=True) if t >= order - 1]
    assert len({(word, int(state)) for word, state in zip(words, memory[full].argmax(1), strict=True)}) == 3**order


def test_what_is_beyond_the_other_is_what_no_affine_map_of_it_says():
    targets, w = rival_targets(PREFIXES), PREFIXES.weights
    assert list(targets) == list(TARGETS)
    for beyond, one, other in ((BEYOND_MARKOV, GENERATOR, MARKOV), (BEYOND_GENERATOR, MARKOV, GENERATOR)):
        rest, known = targets[beyond].values, targets[other].values
        np.testing.assert_allclose(w @ rest, 0.0, atol=1e-12)
        np.testing.assert_allclose((known * w[:, None]).T @ rest, 0.0, atol=1e-12)
        design = np.hstack([np.ones((len(w), 1)), known])
        explained = targets[one].values - rest
        again = design @ np.linalg.lstsq(design, explained, rcond=None)[0]
        np.testing.assert_allclose(again, explained, atol=1e-9)


def test_of_a_process_that_is_a_markov_chain_nothing_is_beyond_its_memory():
    targets = rival_targets(Prefixes.of(golden_mean(), 5), 2)
    np.testing.assert_allclose(targets[BEYOND_MARKOV].values, 0.0, atol=1e-12)
    assert np.ptp(targets[GENERATOR].values) > 0.5


# --- how it is scored


@pytest.mark.parametrize(("held", "one", "other"), [(GENERATOR, GENERATOR, MARKOV), (MARKOV, MARKOV, GENERATOR)])
def test_activations_that_hold_one_rival_show_it_and_nothing_beyond_it(monkeypatch, held, one, other):
    values = rival_targets(PREFIXES)[held].values @ np.random.default_rng(0).standard_normal(
        (3 if held == GENERATOR else 27, 30)
    )
    standing = xr.DataArray(values + 1.0, dims=("sample", "feature"), coords=PREFIXES.beliefs.coords)
    monkeypatch.setattr(question, "all_layers", lambda *_, **__: standing)
    found = minimal_generators(MODEL, MODEL, PREFIXES).r2.sel(predictor="probe")
    assert found.sel(target=one) > 0.999
    assert found.sel(target=other) < 0.999
    beyond = {GENERATOR: BEYOND_GENERATOR, MARKOV: BEYOND_MARKOV}[held]
    assert abs(found.sel(target=beyond)) < 0.02
    assert found.sel(target={BEYOND_MARKOV: BEYOND_GENERATOR, BEYOND_GENERATOR: BEYOND_MARKOV}[beyond]) > 0.99


def test_nulls_say_what_they_must(measured):
    r2 = measured.r2
    assert float(r2.sel(target=MARKOV, predictor="last 3 tokens")) == pytest.approx(1.0)
    assert float(r2.sel(target=GENERATOR, predictor="next-token law")) == pytest.approx(1.0)
    last = [float(r2.sel(target=GENERATOR, predictor=f"last {k} token{'s' * (k > 1)}")) for k in (1, 2, 3)]
    assert 0 < last[0] < last[1] < last[2] < 1
    for target in RIVALS:
        assert float(r2.sel(target=target, predictor="shuffle")) < 0.1
    assert measured.dimensions.values.tolist() == [3, 27, 3, 27]


def test_held_out_scores_say_so_and_are_those_of_the_readings(measured):
    w, truth = PREFIXES.weights / PREFIXES.weights.sum(), PREFIXES.beliefs.values
    for name, reading in (("probe", measured.reading), (TWIN, measured.untrained_reading)):
        cell = measured.sel(target=GENERATOR, predictor=name)
        error = (w @ (truth - reading.values) ** 2).mean()
        assert float(cell.mse) == pytest.approx(error)
        assert float(cell.rmse) ** 2 == pytest.approx(error)
    assert measured.attrs["in_sample"] is False
    assert 0 < float(measured.cosine_r2.sel(target=GENERATOR, predictor="probe")) < 1


def test_published_scores_are_those_of_the_protocol_and_in_sample():
    found = published_scores(MODEL, MODEL.untrained(seed=8), PREFIXES)
    assert found.attrs["in_sample"] is True
    rivals = rival_targets(PREFIXES)
    for target in RIVALS:
        one = quantum2025(MODEL, PREFIXES, rivals[target])
        for score in ("r2", "rmse", "cosine_r2", "cutoff"):
            assert float(found[score].sel(target=target, predictor="probe")) == float(one[score])
        assert float(found.r2.sel(target=target, predictor="probe")) != float(
            found.r2.sel(target=target, predictor=TWIN)
        )


class Saying:
    """A kernel that says one law, whatever it has read."""

    def __init__(self, law: np.ndarray):
        self.law, self.n_tokens = torch.from_numpy(law), len(law)

    def log_probs(self, batch: Batch) -> torch.Tensor:
        return self.law.log().expand(*batch.tokens.shape, -1)


def test_memory_is_gained_whole_by_the_process_and_not_at_all_by_its_stationary_law():
    prefixes = Prefixes.of(frdn(), 5)
    for kernel, gained in ((frdn(), 1.0), (Saying(frdn().opening), 0.0)):
        result = ModelResult(excess_loss(kernel, prefixes), 2.0, xr.Dataset(), xr.Dataset(), [], 0.0)
        assert _losses("frdn", [result])["memory_gained"]["mean"] == pytest.approx(gained, abs=1e-9)


# --- the recipe


def test_the_published_models_are_trained_each_once():
    recipe = GeneratorsRecipe(architectures=ARCHITECTURES)
    trainings = recipe.trainings()
    assert len(trainings) == len({one.name for one in trainings.values()}) == 4 * 4 * 4
    assert recipe.processes == PROCESSES
    for (name, kind, seed), training in trainings.items():
        assert training.process.name == name
        assert training.config.seed == seed
        assert training.length == 8
        assert (training.config.n_layers, training.config.d_model) == (4, 64)
        assert isinstance(training.model(), Transformer if kind == "transformer" else Recurrent) or seed
    parameters = {name: dict(ZOO[name]().parameters) for name in PROCESSES}
    assert parameters["mess3"] == {"alpha": 0.85, "x": 0.05}
    assert parameters["bloch_walk"] == {"alpha": 1.0, "beta": pytest.approx(51**0.5)}
    assert parameters["frdn"] == {"alpha": 2000.0, "lambda_": 0.49}
    assert parameters["moon"] == {"alpha": pytest.approx(np.e), "beta": 0.5}
    transformer = config_of("transformer", 3, 0)
    assert (transformer.n_heads, transformer.d_head, transformer.d_mlp, transformer.n_ctx) == (4, 16, 256, 8)
    assert config_of("LSTM", 3, 0).one_hot


@pytest.mark.parametrize(
    ("recipe", "command"),
    [
        (GeneratorsRecipe(), "nextlens belief generators"),
        (
            GeneratorsRecipe(processes=("moon",), architectures=("RNN", "LSTM"), seeds=(7,), steps=9, words=None),
            "nextlens belief generators --process moon --architecture RNN --architecture LSTM --seeds 7, --steps 9 "
            "--words all",
        ),
        (GeneratorsRecipe(learning_rate=1e-3, order=2), "nextlens belief generators --learning-rate 0.001 --order 2"),
    ],
)
def test_a_recipe_says_its_command_and_is_json(recipe, command):
    assert recipe.command == command
    back = json.loads(json.dumps(recipe.as_json()))
    assert GeneratorsRecipe(**{k: tuple(v) if isinstance(v, list) else v for k, v in back.items()}) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"processes": ("mess4",)}, "processes='mess4' is not one of"),
        ({"processes": ()}, r"processes=\(\) must hold at least one, each once"),
        ({"architectures": ("GRU", "GRU")}, "architectures=.* each once"),
        ({"architectures": ("CNN",)}, "architectures='CNN' is not one of"),
        ({"seeds": ()}, "seeds=.* at least one"),
        ({"seeds": (-1,)}, "seed=-1 must be at least 0"),
        ({"steps": 1}, "steps=1 must be at least 2"),
        ({"steps": 2.5}, "steps=2.5 must be a whole number"),
        ({"words": 10}, "words=10 must be at least 100"),
        ({"order": 0}, "order=0 must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(monkeypatch, change, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(ValueError, match=message):
        GeneratorsRecipe(**change)


def test_many_prefixes_are_sampled_unless_all_are_asked_for(monkeypatch):
    assert not GeneratorsRecipe(words=100).prefixes("bloch_walk").listed
    assert GeneratorsRecipe(words=100).prefixes("moon").listed
    assert GeneratorsRecipe(words=None).prefixes("frdn").listed


# --- a run


def test_a_run_leaves_numbers_figures_and_checkpoints_and_goes_on_to_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(generators_run, "FOLLOWED_WORDS", 100)
    numbers = run(TINY, tmp_path / "run", n_jobs=1)
    assert read_json(tmp_path / "run" / "numbers.json") == json.loads(json.dumps(numbers))
    for figure in ("scores", "emergence", "cloud-frdn"):
        assert (tmp_path / "run" / f"{figure}.png").stat().st_size > 10_000
    model = checkpoints.load(tmp_path / "run" / "frdn-GRU-seed-1")
    found = numbers["models"]["frdn"]["GRU"]
    prefixes = Prefixes.of(frdn(), 8)
    expected = quantum2025(model, prefixes, seed=1)
    assert found["quantum2025"][GENERATOR]["probe"]["cosine_r2"]["by_seed"][1] == float(expected.cosine_r2)
    assert set(found["held_out"]) == set(TARGETS)
    assert set(found["held_out"][GENERATOR]) >= {"probe", TWIN, "shuffle", "last 3 tokens", "next-token law"}
    assert set(found["held_out"][BEYOND_MARKOV]) == {"probe", TWIN}
    loss = numbers["loss"]["frdn"]["GRU"]
    assert loss["loss_over_optimum"]["by_seed"][1] == excess_loss(model, prefixes).attrs["loss_over_optimum"]
    assert min(loss["loss_over_optimum"]["by_seed"]) >= 1
    curve = numbers["emergence"]["frdn"]["GRU"]["0"]
    assert [moment["step"] for moment in curve] == [0, 1, 2, 4]
    said = summary(TINY, numbers, tmp_path / "run")
    assert "frdn, GRU" in said
    assert said.endswith(TINY.command)
    again = run(TINY, tmp_path / "run", resume=True, n_jobs=1)
    assert again["models"] == numbers["models"]
    assert again["emergence"] == numbers["emergence"]
