"""Belief edits: exact counterfactuals, a model that is nothing but its belief, and what each kind carries on."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import assume, given
from torch import Tensor

from nextlens.analyses.belief_edit import EDITS, belief_edit, penalty_sweep
from nextlens.analyses.belief_pairs import Contexts, Pairs
from nextlens.analyses.displays.edits import EditsDisplay
from nextlens.analyses.edit_scores import edit_scores, mean_of_seeds
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.subspace_ablation import subspace_ablation
from nextlens.models.batch import Batch
from nextlens.models.hooked import canonical_site
from nextlens.models.processes import Process, golden_mean, mess3, rrxor
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.transformer import Transformer, TransformerConfig
from tests.process_strategies import bloch_walk, processes

SITE = "blocks.0.hook_resid_post"
PAIRS = Pairs.of(Prefixes.of(mess3(), 4), 200, np.random.default_rng(0))


class BeliefMachine:
    """A hooked kernel whose residual stream is the exact belief in other coordinates, and nothing else is used.

    It is 6 wide; the last axis holds what nothing reads, ``unused`` times the number of the last token.
    """

    sites = (SITE, "ln_final.hook_normalized")

    def __init__(self, process: Process, unused: float = 0.0):
        rng, n = np.random.default_rng(0), process.n_states
        self.process, self.unused, self.n_tokens = process, unused, process.n_tokens
        self.code = torch.from_numpy(np.hstack([rng.standard_normal((n, 5)), np.zeros((n, 1))]))
        self.decode = torch.from_numpy(np.linalg.pinv(self.code.numpy()))
        self.unembedding = torch.eye(self.n_tokens, dtype=torch.float64)
        self.open = []

    def pass_through(self, site: str, value: Tensor) -> Tensor:
        for name, hook in self.open:
            value = hook(value) if name == site else value
        return value

    def __call__(self, batch: Batch) -> Tensor:
        x = torch.from_numpy(self.process.beliefs(batch.tokens.numpy())) @ self.code
        x[..., -1] += self.unused * batch.tokens
        beliefs = self.pass_through(SITE, x) @ self.decode
        law = beliefs @ torch.from_numpy((self.process.transition @ self.process.functional).T)
        return self.pass_through(self.sites[1], law.clamp_min(1e-12).log())

    def log_probs(self, batch: Batch) -> Tensor:
        return self(batch).log_softmax(-1)

    @contextmanager
    def watched(self, *sites):
        seen: dict[str, Tensor] = {}
        own = [
            (canonical_site(site, self.sites), lambda value, site=site: seen.setdefault(site, value)) for site in sites
        ]
        self.open += own
        yield seen
        self.open = [hook for hook in self.open if hook not in own]

    @contextmanager
    def edited(self, site, edit):
        self.open.append(own := (canonical_site(site, self.sites), edit))
        yield
        self.open.remove(own)


def edited(model, pairs: Pairs = PAIRS, **settings) -> xr.Dataset:
    return belief_edit(model, pairs, rng=np.random.default_rng(1), **settings)


def scored(found: xr.Dataset) -> xr.Dataset:
    return edit_scores(found, np.random.default_rng(2), n_resamples=200)


# --- pairs, and what must follow


@given(process=processes(max_tokens=3, max_states=3))
def test_the_law_ahead_is_that_of_words_read_on_from_the_target(process):
    prefixes = Prefixes.of(process, 3)
    assume(len(Contexts.longest(prefixes)) >= 2)
    pairs = Pairs.of(prefixes, 4, np.random.default_rng(0), n_folds=2)
    law = pairs.counterfactual(2)
    for row, word in enumerate(pairs.contexts.words[pairs.target]):
        for k, more in enumerate(product(range(process.n_tokens), repeat=2)):
            weight = process.initial
            for token in (*word, *more):
                weight = weight @ process.transition[token]
            before = process.initial
            for token in word:
                before = before @ process.transition[token]
            assert law[row, k] == pytest.approx(weight.sum() / before.sum(), abs=1e-12)


def test_contexts_are_words_of_one_length_with_their_probabilities():
    contexts = Contexts.longest(Prefixes.of(golden_mean(), 3))
    found = {tuple(word): p for word, p in zip(contexts.words.tolist(), contexts.probability, strict=True)}
    assert found == pytest.approx(
        {(0, 0, 0): 1 / 6, (0, 0, 1): 1 / 6, (0, 1, 0): 1 / 3, (1, 0, 0): 1 / 6, (1, 0, 1): 1 / 6}
    )


def test_pairs_are_drawn_by_probability():
    pairs = Pairs.of(Prefixes.of(golden_mean(), 3), 20_000, np.random.default_rng(0), n_folds=2)
    for drawn in (pairs.source, pairs.target, pairs.wrong):
        share = np.bincount(drawn, minlength=5) / len(pairs)
        np.testing.assert_allclose(share, pairs.contexts.probability, atol=0.02)
    both = np.bincount(5 * pairs.source + pairs.target, minlength=25).reshape(5, 5) / len(pairs)
    np.testing.assert_allclose(both, np.outer(pairs.contexts.probability, pairs.contexts.probability), atol=0.01)


def test_degenerate_pairs_have_equal_laws_of_one_token_and_others_of_two():
    pairs = Pairs.degenerate(Prefixes.of(rrxor(), 6), 50, np.random.default_rng(0))
    laws, beliefs = pairs.contexts.laws, pairs.contexts.beliefs
    np.testing.assert_allclose(laws[pairs.source], laws[pairs.target], atol=1e-9)
    assert (np.abs(beliefs[pairs.source] - beliefs[pairs.target]).max(1) > 1e-3).all()
    swapped = Pairs(pairs.prefixes, pairs.contexts, pairs.target, pairs.source, pairs.wrong, pairs.fold)
    assert np.abs(pairs.counterfactual(2) - swapped.counterfactual(2)).max() > 0.1


def test_a_process_without_degenerate_pairs_is_refused():
    with pytest.raises(ValueError, match="4 tokens of 'mess3', no two have equal next-token laws"):
        Pairs.degenerate(Prefixes.of(mess3(), 4), 10, np.random.default_rng(0))


# --- a model that is nothing but its belief


@pytest.mark.parametrize("process", [mess3(), rrxor(), bloch_walk()], ids=lambda process: process.name)
def test_an_edit_of_the_belief_itself_gives_the_counterfactual(process):
    pairs = Pairs.of(Prefixes.of(process, 5, n_words=400), 200, np.random.default_rng(0))
    scores = scored(edited(BeliefMachine(process), pairs, sites=[SITE])).isel(step=0, site=0)
    for edit in ("covariance", "decoder", "true context"):
        assert float(scores.recovered.sel(edit=edit)) > 0.99
    for edit in ("random direction", "wrong belief", "probe null space"):
        assert float(scores.kl.sel(edit=edit)) > 5 * float(scores.kl.sel(edit="covariance"))


def test_a_fold_from_which_no_source_comes_is_fitted_for_its_reading_alone():
    one = np.zeros(50, dtype=int)
    pairs = Pairs(PAIRS.prefixes, PAIRS.contexts, one, PAIRS.target[:50], PAIRS.wrong[:50], PAIRS.fold)
    found = edited(BeliefMachine(mess3()), pairs, sites=[SITE]).isel(step=0, site=0)
    assert float(found.r2) > 0.99
    assert float(found.kl.sel(edit="covariance").max()) < 0.01


def test_untouched_kl_is_that_between_the_exact_laws():
    found = edited(BeliefMachine(mess3()), sites=[SITE]).isel(step=0, site=0)
    source, target = (PAIRS.contexts.laws[rows] for rows in (PAIRS.source, PAIRS.target))
    expected = (target * np.log(target / source)).sum(1)
    np.testing.assert_allclose(found.kl.sel(edit="none"), expected, atol=1e-10)
    np.testing.assert_allclose(found.kl.sel(edit="true context"), 0.0, atol=1e-10)


def test_steps_add_up_to_the_kl_of_words():
    model = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=8, n_ctx=6, seed=1)).double()
    found = edited(model, sites=["blocks.0.resid_post"], ahead=3).isel(site=0)
    exact, rows = PAIRS.counterfactual(3), PAIRS.contexts.words[PAIRS.source]
    more = np.array(list(product(range(3), repeat=3)))
    words = np.hstack([np.repeat(rows, 27, axis=0), np.tile(more, (len(rows), 1))])
    with torch.no_grad():
        batch = Batch.from_tokens(words)
        said = model.log_probs(batch).gather(2, batch.targets[..., None])[:, 3:, 0].sum(1).numpy().reshape(-1, 27)
    expected = (exact * (np.log(exact) - said)).sum(1)
    np.testing.assert_allclose(found.kl.sel(edit="none").sum("step"), expected, atol=1e-10)
    assert (found.kl > -1e-12).all()


class NoiseMachine(BeliefMachine):
    """The same predictions; in place of its belief 60 numbers of no meaning, one draw for each prefix."""

    def __call__(self, batch: Batch) -> Tensor:
        power = self.n_tokens ** torch.arange(batch.tokens.shape[1])
        table = torch.from_numpy(np.random.default_rng(0).standard_normal((int(power.sum()) * self.n_tokens, 60)))
        self.pass_through(SITE, table[(power * (batch.tokens + 1)).cumsum(1) - 1])
        return self.process.log_probs(batch)


def test_a_probe_is_scored_on_contexts_that_it_was_not_fitted_on():
    assert float(edited(NoiseMachine(mess3()), sites=[SITE], alphas=[1e-10]).r2[0]) < 0


def test_a_sweep_has_a_row_for_each_penalty_and_reads_worse_the_stronger_it_is():
    found = penalty_sweep(BeliefMachine(mess3()), PAIRS, SITE, [1e-10, 0.1, 1.0], rng=np.random.default_rng(0))
    assert found.alpha.values.tolist() == [1e-10, 0.1, 1.0]
    assert (np.diff(found.r2) < 0).all()
    assert set(found.kl.dims) == {"alpha", "edit", "pair"}


# --- what is carried on


def test_an_edit_at_the_last_layer_of_a_transformer_is_not_carried_on():
    model = Transformer(TransformerConfig(n_tokens=3, n_layers=2, d_model=16, n_ctx=5, seed=1)).double()
    found = edited(model, ahead=2)
    last, below = (found.kl.sel(site=f"blocks.{block}.hook_resid_post", step=2) for block in (1, 0))
    np.testing.assert_allclose(last - last.sel(edit="none"), 0.0, atol=1e-12)
    assert np.abs(below - below.sel(edit="none")).sel(edit="true context").max() > 1e-4


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_an_edit_at_the_last_layer_of_a_recurrent_network_is_carried_on(kind):
    model = Recurrent(RecurrentConfig(n_tokens=3, kind=kind, d_model=16, seed=1)).double()
    found = edited(model, ahead=2, sites=["blocks.1.resid_post"]).kl.isel(site=0).sel(step=2)
    assert np.abs(found - found.sel(edit="none")).sel(edit="covariance").max() > 1e-4


def test_a_whole_state_put_in_place_is_carried_on_as_the_context_it_came_from():
    model = Recurrent(RecurrentConfig(n_tokens=3, kind="GRU", n_layers=1, d_model=16, seed=1)).double()
    swapped = Pairs(PAIRS.prefixes, PAIRS.contexts, PAIRS.target, PAIRS.target, PAIRS.wrong, PAIRS.fold)
    site = ["blocks.0.resid_post"]
    put = edited(model, ahead=3, sites=site).kl.sel(edit="true context")
    own = edited(model, swapped, ahead=3, sites=site).kl.sel(edit="none")
    np.testing.assert_allclose(put, own, atol=1e-10)


# --- scores


def kl_of(values) -> xr.Dataset:
    return xr.Dataset({"kl": (("edit", "pair"), np.array(values))}, coords={"edit": ["none", "covariance"]})


def test_recovered_is_one_less_the_ratio_of_means():
    scores = scored(kl_of([[1.0, 3.0], [0.5, 0.5]]))
    assert scores.kl.values.tolist() == [2.0, 0.5]
    assert scores.recovered.values.tolist() == [0.0, 0.75]
    low, high = scores.recovered_interval.sel(edit="covariance").values
    assert (low, high) == pytest.approx((0.5, 1 - 0.5 / 3))


def test_where_there_is_nothing_to_recover_nothing_is():
    assert scored(kl_of([[0.0, 0.0], [1.0, 1.0]])).recovered.values.tolist() == [0.0, 0.0]


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(0).exponential(size=(2, 2000))
    scores = edit_scores(kl_of(values), np.random.default_rng(1), n_resamples=2000)
    half = 1.96 * values[0].std() / 2000**0.5
    np.testing.assert_allclose(scores.kl_interval[0], values[0].mean() + np.array([-half, half]), atol=0.1 * half)


def test_an_infinite_kl_is_refused():
    with pytest.raises(ValueError, match="kl holds infinite values"):
        scored(kl_of([[1.0, np.inf], [1.0, 1.0]]))


def test_mean_of_seeds_gives_the_mean_and_students_interval():
    together = mean_of_seeds({seed: scored(kl_of([[1.0], [value]])) for seed, value in ((0, 0.1), (1, 0.3))})
    assert together.kl.sel(edit="covariance").item() == pytest.approx(0.2)
    np.testing.assert_allclose(
        together.kl_interval.sel(edit="covariance"), 0.2 + 0.1 * 12.7062 * np.array([-1, 1]), rtol=1e-4
    )
    with pytest.raises(ValueError, match="seeds=1 must be at least 2"):
        mean_of_seeds({0: scored(kl_of([[1.0], [1.0]]))})


# --- ablation, and the figure


def test_without_the_subspace_of_its_belief_a_model_knows_only_the_mean():
    prefixes, process = Prefixes.of(mess3(), 4), mess3()
    machine = BeliefMachine(process, unused=1.0)
    found = subspace_ablation(machine, prefixes, sites=[SITE], n_random=2, rng=np.random.default_rng(0)).isel(site=0)
    assert int(found["rank"]) == 2
    mean = process.next_token(prefixes.weights @ prefixes.beliefs.values)
    blind = -float(prefixes.weights @ (prefixes.next_token @ np.log(mean)))
    reading = found.increase.sel(subspace="read")
    assert float(reading) + found.attrs["loss"] == pytest.approx(blind, abs=0.01)
    assert found.random_increase.shape == (2,)
    assert ((found.variance > 0) & (found.variance < 0.99)).all()


def test_the_figure_draws_every_edit_and_control_on_a_log_axis():
    sites = ["hook_embed", SITE]
    display = EditsDisplay(
        sites=sites,
        edits={"covariance": [0.1, 0.01]},
        controls={"none": [0.6, 0.6]},
        intervals={"covariance": [[0.09, 0.11], [-0.001, 0.021]]},
    ).plot()
    assert set(display.artists_) == {"covariance", "none"}
    assert display.artists_["covariance"].get_ydata().tolist() == [0.1, 0.01]
    assert display.ax_.get_yscale() == "log"
    bars = display.ax_.collections[0].get_segments()
    assert [bar[:, 1].tolist() for bar in bars] == [[0.09, 0.11], [0.005, 0.021]]
    assert display.ax_.get_ylim()[0] == 0.005
    assert [tick.get_text() for tick in display.ax_.get_xticklabels()] == ["embed", "0 post"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edits": {}}, "must hold at least one"),
        ({"edits": {"covariance": [0.0, 1.0]}}, "on a log axis every number must be above 0"),
        ({"controls": {"covariance": [1.0, 1.0]}}, "'covariance' names an entry of edits and one of controls"),
        ({"intervals": {"other": [[1.0, 2.0]] * 2}}, "intervals name 'other'"),
        ({"controls": {"none": [1.0]}}, r"controls\['none'\] has shape \(1,\)"),
    ],
)
def test_a_figure_of_numbers_that_do_not_fit_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        EditsDisplay(**{"sites": ["hook_embed", SITE], "edits": {"covariance": [1.0, 1.0]}, **change})


def test_words_longer_than_the_context_are_refused_by_the_model():
    model = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=8, n_ctx=4))
    with pytest.raises(ValueError, match="n_ctx=4"):
        edited(model, ahead=2)


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="ahead=0 must be at least 1"):
        edited(BeliefMachine(mess3()), ahead=0)


def test_a_site_of_heads_is_edited_with_the_shape_it_has():
    model = Transformer(TransformerConfig(n_tokens=3, n_layers=1, n_heads=2, d_model=8, n_ctx=4)).double()
    same = Pairs(PAIRS.prefixes, PAIRS.contexts, PAIRS.source, PAIRS.source, PAIRS.wrong, PAIRS.fold)
    found = edited(model, same, sites=["blocks.0.attn.z"]).kl.isel(step=0, site=0)
    np.testing.assert_allclose(found.sel(edit="true context"), found.sel(edit="none"), atol=1e-12)
    assert np.abs(found.sel(edit="wrong belief") - found.sel(edit="none")).max() > 1e-4


def test_every_edit_has_its_row():
    assert edited(BeliefMachine(mess3()), sites=[SITE]).edit.values.tolist() == list(EDITS)
