from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner

from nextlens.analyses import parity_training
from nextlens.analyses.cli import nextlens
from nextlens.analyses.displays import style
from nextlens.analyses.displays.reinforcement import ReinforcementDisplay
from nextlens.analyses.finished_training import finished
from nextlens.analyses.parity_numbers import _misses, exact, summary
from nextlens.analyses.parity_recipe import ParityRecipe
from nextlens.analyses.parity_reinforcement import mode_direction, steered
from nextlens.analyses.parity_run import run
from nextlens.models import checkpoints
from nextlens.models.batch import Batch
from nextlens.models.tasks.parity import Parity, after_selection
from nextlens.models.transformer import Transformer, TransformerConfig

TINY = ParityRecipe(
    n_bits=3,
    sweep=(0.4,),
    n_layers=1,
    d_model=8,
    n_heads=2,
    d_mlp=8,
    steps=12,
    learning_rate=1e-2,
    batch_size=8,
    early=6,
    steps_policy=2,
    n_prompts=4,
    group=2,
    rounds=2,
    n_samples=64,
    epochs=1,
    seeds=(0,),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", partial(style.save, formats=("png",)))
        return run(TINY, folder, n_jobs=1), folder


def test_a_run_leaves_its_numbers_its_figures_and_a_model_of_each_training(done):
    numbers, folder = done
    assert json.loads((folder / "numbers.json").read_text()) == numbers
    assert ParityRecipe.from_json(numbers["recipe"]) == TINY
    for figure in ("what_changed", "course", "star", "threshold", "steering"):
        assert (folder / f"{figure}.png").stat().st_size > 5000
    names = {path.parent.name for path in folder.glob("*/checkpoint.safetensors")}
    assert names == {f"{name}-seed-0" for name in ("next-token", "policy", "early", "star", "hot", "share-0.4")}
    text = summary(TINY, numbers, folder)
    assert TINY.command in text
    assert "theory 0.600" in text


def refused(*_, **__):
    raise AssertionError("trained again")


def test_a_run_goes_on_without_doing_again_what_is_done(done, tmp_path, monkeypatch):
    numbers, folder = done
    (folder / "numbers.json").rename(tmp_path / "numbers.json")
    (folder / "star-seed-0" / "checkpoint.safetensors").unlink()
    trained = []
    before = parity_training.self_taught

    def told(one, model, task, *, hot=False):
        trained.append(hot)
        return before(one, model, task, hot=hot)

    monkeypatch.setattr(parity_training, "self_taught", told)
    monkeypatch.setattr(parity_training, "pretrained", refused)
    monkeypatch.setattr(parity_training, "reinforced", refused)
    monkeypatch.setattr("nextlens.analyses.parity_run.draw", lambda *results: None)
    with pytest.raises(ValueError, match="unfinished run"):
        run(TINY, folder, n_jobs=1)
    again = run(TINY, folder, n_jobs=1, resume=True)
    assert trained == [False]
    for name in ("next_token", "policy_gradient", "star", "what_changed", "steering"):
        assert again[name] == numbers[name]


def test_a_training_is_found_again_and_one_of_another_recipe_is_refused(tmp_path):
    path, model = tmp_path / "one" / checkpoints.FILE_NAME, model_of(3)
    _, notes = finished(path, {"steps": 1}, lambda: (model, {"rows": [1]}))
    assert notes["cpu"] >= 0
    found, again = finished(path, {"steps": 1}, refused, resume=True)
    assert again == notes
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True))
    with pytest.raises(ValueError, match="was made by another recipe"):
        finished(path, {"steps": 2}, refused, resume=True)
    with pytest.raises(AssertionError, match="trained again"):
        finished(path, {"steps": 1}, refused)


def test_a_policy_starts_from_the_model_of_its_moment(done):
    """The too early one from the step it is named after, the other from the last; neither changes where it began."""
    _, folder = done
    early = checkpoints.load(folder / "next-token-seed-0" / "step-000006.safetensors")
    last = checkpoints.load(folder / "next-token-seed-0" / "checkpoint.safetensors")
    far = {}
    for name, model in (("early", early), ("last", last)):
        for policy in ("early", "policy"):
            other = checkpoints.load(folder / f"{policy}-seed-0" / "checkpoint.safetensors")
            pairs = zip(model.parameters(), other.parameters(), strict=True)
            far[name, policy] = math.sqrt(sum(float((a - b).detach().pow(2).sum()) for a, b in pairs))
    assert 0 < far["early", "early"] < far["last", "early"]
    assert 0 < far["last", "policy"] < far["early", "policy"]


def test_the_exact_baseline_jumps_between_three_and_four_tenths():
    recipe = ParityRecipe(n_bits=6)
    below, above = (exact(recipe, share) for share in (0.3, 0.4))
    assert float(below.greedy_accuracy) == pytest.approx(0.5, abs=0.06)
    assert (float(below.greedy_length), float(above.greedy_length)) == (1, 6)
    assert float(above.greedy_accuracy) == 1


def test_standard_errors_of_star_are_those_of_which_short_answers_are_right():
    """Drawn again and again, the share of long answers kept spreads as much as the formula says."""
    rng, q, n = np.random.default_rng(0), 0.3, 1000
    right = rng.binomial(n - int(q * n), 0.5, size=4000)
    kept = q * n / (q * n + right)
    star = xr.Dataset({"sampled": ("round", [q] * 4000 + [np.nan]), "kept": ("round", [*kept, np.nan])})
    misses = _misses(replace(TINY, n_samples=n), star)
    assert np.std(misses) == pytest.approx(1, abs=0.05)
    assert np.mean(misses) == pytest.approx(0, abs=0.1)
    assert kept.mean() == pytest.approx(after_selection(q), abs=0.003)


def model_of(n_bits: int) -> Transformer:
    return Transformer(TransformerConfig(n_tokens=4, n_layers=1, n_heads=2, d_model=16, n_ctx=2 * n_bits + 2, seed=3))


def test_the_mode_direction_is_the_difference_between_first_tokens_that_fit_and_all():
    task, model = Parity(3), model_of(3)
    direction = mode_direction(model, task, "blocks.0.resid_post", np.random.default_rng(0), n=4000)
    drawn = Parity(3, 0.5).draw(4000, np.random.default_rng(1))
    tokens = torch.from_numpy(drawn.tokens.values)
    fits = (tokens[:, 4] == tokens[:, 0]).numpy()
    with torch.no_grad(), model.watched("blocks.0.resid_post") as seen:
        model(Batch.from_tokens(tokens))
    states = seen["blocks.0.resid_post"][:, 4].numpy()
    expected = (states[fits].mean(0) - states[~fits].mean(0)) / 2
    assert np.corrcoef(direction, expected)[0, 1] > 0.95


def test_steering_is_nothing_at_0_and_only_touches_the_first_token_said():
    task, model = Parity(3), model_of(3)
    found = steered(model, task, (0.0, 30.0, -30.0), np.random.default_rng(0), n_prompts=64)
    plain = steered(model, task, (0.0,), np.random.default_rng(0), n_prompts=64)
    assert found.sel(push=0.0).equals(plain.sel(push=0.0))
    assert len(set(found.stop.values.round(6))) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"p_chain": 1.5}, "p_chain=1.5 must lie between 0 and 1"),
        ({"sweep": (0.25,)}, "sweep=.* must hold each share once, p_chain=0.25 not among them"),
        ({"sweep": (0.1, -0.2)}, "sweep=-0.2 must lie between 0 and 1"),
        ({"group": 1}, "group=1 must be at least 2"),
        ({"reward": "length"}, "reward='length' is not one of 'end', 'chain'"),
        ({"early": 500}, "early=500 must lie between 1 and 400"),
        ({"hot": 0.0}, "hot=0.0 must be finite and above 0"),
        ({"learning_rate": math.nan}, "learning_rate=nan must be finite and above 0"),
        ({"seeds": ()}, r"seeds=\(\) must hold at least one seed"),
        ({"n_bits": 1}, "n_bits=1 must be at least 2"),
    ],
)
def test_wrong_recipes_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        ParityRecipe(**changes)


def test_a_recipe_says_its_command_and_the_command_line_refuses_in_one_sentence(tmp_path):
    assert ParityRecipe().command == "nextlens parity"
    assert replace(ParityRecipe(), sweep=(0.4,), seeds=(3,)).command == "nextlens parity --sweep 0.4 --seeds 3,"
    asked = CliRunner().invoke(nextlens, ["parity", "--p-chain", "2", "--out", str(tmp_path / "x")])
    assert isinstance(asked.exception, ValueError)
    assert str(asked.exception) == "p_chain=2.0 must lie between 0 and 1"
    assert not (tmp_path / "x").exists()


def shown(**changes) -> ReinforcementDisplay:
    pair = {"before": [[1.0, 1.0, 0.9]] * 2, "after": [[1.0, 0.9, 0.9]] * 2}
    each = {"before": [0.5, 0.6], "after": [0.1, 0.2]}
    given = {"next_parity": pair, "full_parity": each, "stop": each, "theory": 0.6, "state": [[0.1, 0.3, 0.2]] * 2}
    return ReinforcementDisplay(**(given | changes))


def test_the_figure_of_what_changed_draws_what_it_is_given():
    display = shown().plot()
    assert display.artists_["next parity", "after"].get_ydata().tolist() == [1.0, 0.9, 0.9]
    assert display.artists_["stop", "before"].get_offsets()[:, 1].tolist() == [0.5, 0.6]
    assert display.artists_["full parity", "after"].get_offsets()[:, 1].tolist() == [0.1, 0.2]
    assert display.artists_["state", "moved"].get_ydata().tolist() == pytest.approx([0.1, 0.3, 0.2])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stop": {"before": [0.5, 0.6]}}, "must name the same two models"),
        ({"full_parity": {"before": [0.5], "after": [0.1]}}, r"full_parity\['before'\] has shape"),
        ({"state": [[0.1, np.nan, 0.2]] * 2}, "must be a finite number"),
    ],
)
def test_the_figure_of_what_changed_refuses_what_does_not_fit(changes, said):
    with pytest.raises(ValueError, match=said):
        shown(**changes)
