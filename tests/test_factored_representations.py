"""Factors and their product: codes that are known, laws of the noise, nulls that are known, and a small run."""

from __future__ import annotations

import json
from types import SimpleNamespace
from unittest import mock

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformer_lens.hook_points import HookPoint

from nextlens.analyses import factored_recipe, factored_run
from nextlens.analyses.factored_numbers import summary
from nextlens.analyses.factored_prefixes import (
    BEYOND,
    JOINT,
    FactoredPrefixes,
    exact_dimensions,
    loss_over_optimum,
    price_of_factoring,
)
from nextlens.analyses.factored_recipe import CHANNEL, NOISES, RECURSION, SETTINGS, FactoredRecipe, noisy
from nextlens.analyses.factored_representations import blind_r2, freeze_and_vary, mean_overlap, moment, representation
from nextlens.analyses.factored_run import moments_after, run
from nextlens.models.batch import Batch
from nextlens.models.hooked_module import HookedModule
from nextlens.models.processes import FactoredProcess, Process, bloch_walk, coin, mess3
from nextlens.models.processes.blurred import BlurredProduct
from nextlens.models.processes.constructions import noisy_channel
from nextlens.models.processes.mixed_states import every_word

TWO = (mess3(), mess3())
UNEQUAL = (mess3(0.6, 0.15), bloch_walk(1, 3))
SITE = "hook_code"


def prefixes(process, factors, n_ctx: int = 4, n_words: int = 300, seed: int = 0) -> FactoredPrefixes:
    return FactoredPrefixes.of(process, factors, n_ctx, n_words, np.random.default_rng(seed))


class Coded(HookedModule):
    """A model whose one site holds a linear code of exact beliefs, and whose predictions are exact."""

    def __init__(self, process: FactoredProcess, held: str, seed: int = 0, shared: bool = False):
        super().__init__()
        self.process, self.held = process, held
        self.config = SimpleNamespace(n_tokens=process.n_tokens)
        width = 40
        n = process.n_states if held == "factors" else process.joint_dimensions + 1
        code = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0][:n]
        if shared:
            code[process.factors[0].n_states :] = code[: process.factors[1].n_states]
        self.code = torch.from_numpy(code)
        self.hook_code, self.unembed = HookPoint(), SimpleNamespace(W_U=torch.zeros(width, process.n_tokens))
        self.nothing = nn.Parameter(torch.zeros(1))
        self.setup()

    def forward(self, batch: Batch) -> torch.Tensor:
        ask = self.process.beliefs if self.held == "factors" else self.process.joint_beliefs
        self.hook_code(torch.from_numpy(ask(batch.tokens.numpy())) @ self.code)
        return self.process.log_probs(batch)


# --- noise


@given(seed=st.integers(0, 2**32 - 1))
def test_no_blur_is_no_change(seed):
    clear, blurred = FactoredProcess(UNEQUAL), BlurredProduct(UNEQUAL, epsilon=0)
    words = clear.sample(5, 6, np.random.default_rng(seed))
    np.testing.assert_allclose(blurred.log_likelihood(words), clear.log_likelihood(words), atol=1e-12)
    np.testing.assert_array_equal(blurred.beliefs(words), clear.beliefs(words))


def test_the_blurred_words_of_a_length_have_total_probability_one_and_are_drawn_by_it():
    blurred = BlurredProduct((coin(0.3), mess3()), epsilon=0.3)
    words = np.stack(np.meshgrid(*[np.arange(6)] * 2, indexing="ij"), -1).reshape(-1, 2)
    p = np.exp(blurred.log_likelihood(words).sum(1))
    np.testing.assert_allclose(p.sum(), 1.0)
    drawn = blurred.sample(40_000, 2, np.random.default_rng(0))
    seen = np.bincount(drawn @ [6, 1], minlength=36) / len(drawn)
    assert (np.abs(seen - p) < 5 * np.sqrt(p / len(drawn))).all()


def test_one_blurred_token_is_one_token_through_the_channel_and_two_are_not():
    blurred, channel = (noisy(noise, 0.2) for noise in (RECURSION, CHANNEL))
    np.testing.assert_allclose(blurred.opening, channel.opening, atol=1e-12)
    words, _ = every_word(channel, 3)
    gap = blurred.log_likelihood(words) - channel.log_likelihood(words)
    np.testing.assert_allclose(gap[:, 0], 0, atol=1e-12)
    assert 0.005 < np.abs(gap[:, 1]).max() < 0.5


def test_the_blurred_read_on_as_if_they_had_heard_clearly_and_the_channel_does_not():
    words = np.array([[0, 4, 8]])
    clear = FactoredProcess(TWO).joint_beliefs(words)
    np.testing.assert_allclose(noisy(RECURSION, 0.2).joint_beliefs(words), clear, atol=1e-12)
    exact = noisy(CHANNEL, 0.2).beliefs(words)
    assert np.abs(exact - clear).max() > 0.01
    table = exact[0, -1].reshape(3, 3)
    assert np.abs(table - np.outer(table.sum(1), table.sum(0))).max() > 1e-3


# --- rows


@pytest.mark.parametrize("factors", [TWO, UNEQUAL, (*UNEQUAL, coin(0.3), mess3())], ids=["two", "generalized", "four"])
def test_marginals_of_the_joint_belief_are_the_factors_beliefs_where_they_are_independent(factors):
    product = FactoredProcess(factors)
    for process in (product, product.joint(), noisy_channel(product.joint(), 0)):
        rows = prefixes(process, factors)
        expected = [belief[rows.first] for belief in product.factor_beliefs(rows.words)]
        for found, wanted in zip(rows.beliefs.values(), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-10)


def test_marginals_under_the_channel_are_those_of_every_clean_word():
    rows = prefixes(noisy(CHANNEL, 0.3), TWO, n_ctx=2, n_words=40)
    clean, p = every_word(FactoredProcess(TWO).joint(), 2)
    first, second = (belief[:, -1] for belief in FactoredProcess(TWO).factor_beliefs(clean))
    for row in np.flatnonzero(rows.position == 1)[:5]:
        heard = rows.words[np.nonzero(rows.first)[0][row]]
        weight = p * np.where(clean == heard, 0.7 + 0.3 / 9, 0.3 / 9).prod(1)
        for name, belief in zip(rows.names, (first, second), strict=True):
            np.testing.assert_allclose(rows.beliefs[name][row], weight @ belief / weight.sum(), atol=1e-10)


def test_rows_are_distinct_prefixes_and_every_length_has_the_same_mass():
    rows = prefixes(FactoredProcess(UNEQUAL), UNEQUAL, n_ctx=3)
    np.testing.assert_allclose(np.bincount(rows.position, rows.weights), 1 / 3)
    read = {
        (t, tuple(w[: t + 1])) for w, firsts in zip(rows.words, rows.first, strict=True) for t in np.flatnonzero(firsts)
    }
    assert len(read) == len(rows)


def test_the_exact_observer_loses_nothing_and_a_die_loses_what_there_is_to_know():
    product = FactoredProcess(UNEQUAL)
    rows = prefixes(product, UNEQUAL)
    np.testing.assert_allclose(loss_over_optimum(product, rows), 1.0, atol=1e-12)
    die = Process(np.full((12, 1, 1), 1 / 12), name="die")
    law = rows.next_token
    expected = np.log(12) / (rows.weights @ -(law * np.log(law)).sum(1))
    np.testing.assert_allclose(loss_over_optimum(die, rows), expected)


def test_two_factors_have_four_dimensions_and_eight_together():
    rows = prefixes(FactoredProcess(TWO), TWO, n_ctx=8, n_words=2000)
    assert exact_dimensions(rows) == {"factors": 4, JOINT: 8, "log law": 4}


def test_factoring_costs_nothing_without_noise_and_what_it_must_with_it():
    joint = FactoredProcess(TWO).joint()
    assert abs(price_of_factoring(prefixes(joint, TWO))) < 1e-12
    price = price_of_factoring(prefixes(noisy(CHANNEL, 0.2), TWO, n_ctx=8, n_words=1000))
    np.testing.assert_allclose(price, 1.4e-3, rtol=0.2)


def test_what_is_beyond_the_factors_no_affine_map_of_them_tells():
    rows = prefixes(FactoredProcess(TWO), TWO, n_ctx=5)
    beyond = rows.targets[BEYOND]
    np.testing.assert_allclose((rows.weights[:, None] * rows.side_by_side).T @ beyond, 0, atol=1e-12)
    assert np.abs(beyond).max() > 0.05


def test_nulls_of_mess3_score_the_known_numbers():
    rows = prefixes(FactoredProcess(UNEQUAL), UNEQUAL, n_ctx=8, n_words=3000)
    found = blind_r2(rows).r2.sel(target="0 mess3").values
    np.testing.assert_allclose(found, [0.804, 0.961, 0.993, 0.999], atol=6e-3)


# --- codes that are known


def test_a_factored_code_is_told_from_a_joint_one():
    product = FactoredProcess(TWO)
    rows = prefixes(product, TWO, n_ctx=5)
    factored, joint = Coded(product, "factors"), Coded(product, "joint")
    of_factored, of_joint = (representation(one, joint, rows, [SITE]) for one in (factored, joint))
    assert of_factored.dimensions.sel(site=SITE, model="trained") == exact_dimensions(rows)["factors"]
    assert of_joint.dimensions.sel(site=SITE, model="trained") == exact_dimensions(rows)[JOINT]
    for found, beyond in ((of_factored, 0.0), (of_joint, 1.0)):
        probe = found.r2.sel(site=SITE, predictor="probe")
        np.testing.assert_allclose(probe.sel(target=rows.names), 1.0, atol=1e-6)
        np.testing.assert_allclose(probe.sel(target=BEYOND), beyond, atol=0.1)
        assert found.r2.sel(predictor="shuffle").max() < 0.05
    np.testing.assert_allclose(of_factored.r2.sel(target=BEYOND, predictor="untrained twin"), 1.0, atol=1e-6)
    np.testing.assert_allclose(
        of_factored.r2.sel(target=JOINT, predictor="probe")[0], blind_r2(rows).attrs["joint_from_factors"], atol=0.05
    )


def test_what_hardly_varies_is_read_by_the_probe_and_not_in_the_components_counted():
    product = FactoredProcess(TWO)
    rows = prefixes(product, TWO, n_ctx=5)
    model = Coded(product, "joint")
    beyond = rows.targets[BEYOND]
    directions = torch.from_numpy(np.linalg.svd(beyond)[2][:4])  # the joint belief, its part beyond factors faint
    model.code = model.code - 0.97 * directions.T @ (directions @ model.code)
    found = representation(model, model, rows, [SITE]).r2.sel(site=SITE, target=BEYOND)
    assert found.sel(predictor="probe") > 0.99
    assert found.sel(predictor="probe of 95 %") < 0.3


def test_freezing_finds_orthogonal_factors_and_those_that_share_their_directions():
    product = FactoredProcess(TWO)
    rng = np.random.default_rng(0)
    apart = freeze_and_vary(Coded(product, "factors"), product, 4, SITE, rng, n_frozen=3, n_varied=64)
    assert (apart.dimensions.values.tolist(), int(apart.union)) == ([2, 2], 4)
    assert all(mean_overlap(one) < 1e-9 for one in apart.overlap.values)
    shared = freeze_and_vary(Coded(product, "factors", shared=True), product, 4, SITE, rng, n_frozen=3, n_varied=64)
    assert (shared.dimensions.values.tolist(), int(shared.union)) == ([2, 2], 2)
    np.testing.assert_allclose(mean_overlap(shared.overlap.sel(directions="own").values), 1.0)
    tilted = Coded(product, "factors")
    tilted.code[3:5] = tilted.code[:2]
    half = freeze_and_vary(tilted, product, 4, SITE, rng, n_frozen=3, n_varied=64)
    first, own = (mean_overlap(one) for one in half.overlap.values)
    np.testing.assert_allclose(own, (1 + 1 / 9) / 2)  # one direction shared, one at an angle of cosine 1/3
    assert abs(first - own) > 1e-3
    joint = freeze_and_vary(Coded(product, "joint"), product, 4, SITE, rng, n_frozen=3, n_varied=64)
    assert joint.union > apart.union
    np.testing.assert_array_equal(np.diagonal(apart.overlap.values, axis1=1, axis2=2).round(12), 1.0)


def test_a_factor_that_moves_nothing_has_no_directions():
    product = FactoredProcess((mess3(), coin(0.3)))
    with pytest.raises(ValueError, match="what factor '1 coin' says moves nothing at 'hook_code'"):
        freeze_and_vary(Coded(product, "factors"), product, 4, SITE, np.random.default_rng(0), n_frozen=3, n_varied=8)


def test_a_moment_says_what_the_whole_reading_says():
    product = FactoredProcess(UNEQUAL)
    rows = prefixes(product, UNEQUAL, n_ctx=5)
    look = moment(Coded(product, "factors"), rows, SITE, step=3, tokens=30)
    assert (look["step"], look["tokens"], look["dimensions"]) == (3, 30, exact_dimensions(rows)["factors"])
    np.testing.assert_allclose([look["loss_over_optimum"], *look["r2"].values()], 1.0, atol=1e-6)


# --- the recipe, and a run


settings = st.fixed_dictionaries(
    {
        "factors": st.sampled_from(["small", "paper"]),
        "steps": st.none() | st.integers(2, 9000),
        "seeds": st.none() | st.lists(st.integers(0, 9), min_size=1, unique=True).map(tuple),
        "epsilons": st.none() | st.lists(st.sampled_from([0.0, 0.1, 0.5]), unique=True).map(tuple),
    }
)


@given(given=settings)
def test_a_recipe_survives_json_and_names_every_model_once(given):
    recipe = FactoredRecipe(**given)
    again = FactoredRecipe.from_json(json.loads(json.dumps(recipe.as_json())))
    assert (again, again.command) == (recipe, recipe.command)
    names = [task.training.name for task in recipe.tasks()]
    assert len(set(names)) == len(names) == len(recipe.seeds) * (1 + len(recipe.noises()))


def test_the_command_says_what_differs_from_what_is_usual():
    assert FactoredRecipe().command == "nextlens belief factored"
    assert FactoredRecipe("paper").command == "nextlens belief factored --factors paper"
    changed = FactoredRecipe(steps=9, seeds=(3,), epsilons=(), batch_size=8)
    assert changed.command == "nextlens belief factored --steps 9 --batch-size 8 --seeds 3, --epsilons none"


def test_without_noise_both_kinds_are_one_model():
    assert FactoredRecipe(epsilons=(0.0, 0.1)).noises() == [(CHANNEL, 0.0), (CHANNEL, 0.1), (RECURSION, 0.1)]


def test_the_published_factors_have_the_published_sizes():
    paper = FactoredRecipe("paper").process
    assert (paper.n_tokens, paper.factored_dimensions, paper.joint_dimensions) == (432, 10, 242)


def test_moments_grow_to_the_end():
    for steps in (2, 30, 2500):
        after = moments_after(steps)
        assert after[-1] == steps
        assert (np.diff(after) > 0).all()


TINY = SETTINGS["small"]._replace(
    factors=UNEQUAL, architecture={"n_layers": 1, "n_heads": 1, "d_model": 12, "n_ctx": 3}, steps=4
)
RECIPE = {"steps": 4, "noise_steps": 2, "words": 60, "seeds": (0, 2), "epsilons": (0.0, 0.2), "batch_size": 16}


@pytest.fixture(scope="module")
def quick():
    with (
        mock.patch.dict(SETTINGS, small=TINY),
        mock.patch.object(factored_recipe, "NOISY_ARCHITECTURE", TINY.architecture),
        mock.patch.object(factored_run, "FOLLOWED_WORDS", 40),
        mock.patch.object(factored_run, "MOMENTS", 3),
    ):
        yield


@pytest.fixture(scope="module")
def finished(quick, tmp_path_factory):
    folder, recipe = tmp_path_factory.mktemp("results") / "factored", FactoredRecipe(**RECIPE)
    return run(recipe, folder, n_jobs=1), folder, recipe


def test_a_run_writes_what_it_returns_and_draws_it(finished):
    numbers, folder, recipe = finished
    assert json.loads((folder / "numbers.json").read_text()) == numbers
    assert {path.suffix for path in folder.glob("factors.*")} == {".png", ".pdf", ".svg"}
    assert numbers["repeat"] == recipe.command
    assert [look["step"] for look in numbers["curves"]["0"]] == [0, 4]
    assert set(numbers["details"]["noise"]) == set(NOISES)
    assert numbers["details"]["noise"][CHANNEL]["0"] == numbers["details"]["noise"][RECURSION]["0"]
    assert len(numbers["details"]["dimensions"]["end"]["by_seed"]) == 2
    said = summary(recipe, numbers, folder)
    assert recipe.command in said
    assert "joint beyond factors" in said


def test_a_finished_run_is_read_again_from_its_checkpoints(finished):
    numbers, folder, recipe = finished
    with mock.patch.object(factored_run.style, "save"):
        again = run(recipe, folder, resume=True, n_jobs=1)
    assert again == numbers


def test_a_run_of_another_recipe_is_refused(finished):
    _, folder, _ = finished
    with pytest.raises(ValueError, match="steps=4, not 5"):
        run(FactoredRecipe(**{**RECIPE, "steps": 5}), folder, resume=True)


WRONG = [
    (lambda: BlurredProduct(TWO, epsilon=1.5), "epsilon=1.5 must lie between 0 and 1"),
    (lambda: BlurredProduct(TWO).joint(), "is blurred .* no hidden Markov process"),
    (lambda: BlurredProduct(TWO).entropy_rate(), "no hidden Markov process"),
    (lambda: BlurredProduct(TWO).sample(0, 2, np.random.default_rng(0)), "n_sequences=0 must be at least 1"),
    (lambda: prefixes(FactoredProcess(TWO), UNEQUAL), "factors say 12 tokens together; 'product' says 9"),
    (lambda: prefixes(FactoredProcess(TWO), TWO, n_words=0), "n_words=0 must be at least 1"),
    (lambda: price_of_factoring(prefixes(FactoredProcess(TWO), TWO)), "keeps nothing but its factors' beliefs"),
    (lambda: freeze_and_vary(None, FactoredProcess(TWO), 3, SITE, None, n_varied=1), "n_varied=1 must be at least 2"),
    (lambda: FactoredRecipe("papre"), "factors='papre' is not one of .* did you mean 'paper'"),
    (lambda: FactoredRecipe(steps=1), "steps=1 must be at least 2"),
    (lambda: FactoredRecipe(batch_size=2.5), "batch_size=2.5 must be a whole number"),
    (lambda: FactoredRecipe(learning_rate=0.0), "learning_rate=0.0 must be above 0"),
    (lambda: FactoredRecipe(seeds=(1, 1)), r"seeds=\(1, 1\) must hold at least one seed, each once"),
    (lambda: FactoredRecipe(epsilons=(0.1, 2.0)), "epsilons=2.0 must lie between 0 and 1"),
    (lambda: FactoredRecipe(epsilons=(0.1, 0.1)), "must hold each number once"),
    (lambda: FactoredRecipe.from_json({"epochs": 3}), "the recipe does not fit this version"),
    (lambda: noisy("channel", 0.1), "noise='channel' is not one of 'exact channel', 'public recursion'"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_cannot_be_is_refused_by_name(monkeypatch, wrong, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(ValueError, match=message):
        wrong()
