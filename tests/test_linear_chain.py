"""The chain of linear models: its laws, its least loss, and where next tokens stop and reinforcement begins."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import combinations, product

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from nextlens.analyses import parity_phases
from nextlens.analyses.cli import nextlens
from nextlens.analyses.displays import style
from nextlens.analyses.parity_phases import PhasesRecipe, phase, run, said, summary
from nextlens.models.batch import Batch
from nextlens.models.decoding import complete
from nextlens.models.linear_chain import LinearChain
from nextlens.models.objectives.next_token import weighted_mean
from nextlens.models.tasks.parity import END, Parity, Stepwise, probability_of_stopping

CERTAIN = 15.0


def every_answer(task: Parity) -> Batch:
    """All bits, each with its long and its short answer, as often as the task says them."""
    n, rows = task.n_bits, []
    for bits in product((0, 1), repeat=n):
        chain = np.cumsum(bits)[task.chain] % 2
        rows.append(([*bits, 2, *chain, END], task.longest_answer, task.p_chain))
        rows.append(([*bits, 2, chain[-1], END, *[END] * (len(chain) - 1)], 2, 1 - task.p_chain))
    batch = Batch.from_tokens(np.array([row for row, *_ in rows]))
    weights = torch.zeros(batch.tokens.shape)
    for row, (_, length, share) in enumerate(rows):
        weights[row, n : n + length] = share
    return batch.with_(weights=weights)


def at_its_best(task: Parity) -> LinearChain:
    """Weights at which it is ``Stepwise``, with 15 nats for infinity."""
    chain, p = LinearChain(task), task.p_chain
    stop = probability_of_stopping(p)
    with torch.no_grad():
        chain.first[1, :2] = torch.tensor([0.5, -0.5]) * np.log((1 + p) / (1 - p))
        chain.first[0, END] = -CERTAIN
        for k in range(task.n_bits - 1):
            chain.with_last[k, k + 2, :2] = torch.tensor([0.5, -0.5]) * CERTAIN
            chain.of_bits[k, 0, END] = -CERTAIN
        go_on = CERTAIN / 2 + np.log(stop / (1 - stop))
        chain.of_bits[0, 0, END], chain.with_last[0, 1, END] = (go_on + 2 * CERTAIN) / 2, (go_on - 2 * CERTAIN) / 2
        chain.of_bits[-1, 0, END] = CERTAIN
    return chain


@pytest.mark.parametrize(("n_bits", "least"), [(4, True), (5, True), (3, False)])
def test_the_best_stepwise_predictor_is_its_least_loss_from_four_bits_on(n_bits, least):
    """The loss over all sequences is convex: least where its gradient is 0. With three bits, parity is a product."""
    task = Parity(n_bits, 0.3)
    chain, batch = at_its_best(task), every_answer(task)
    exact, own = (kernel.log_probs(batch).exp() for kernel in (Stepwise(task), chain))
    asked = batch.weights > 0
    assert (own[asked] - exact[asked]).abs().max() < 1e-5
    loss = weighted_mean(said(chain, batch), batch.weights)
    slope = max(float(g.abs().max()) for g in torch.autograd.grad(loss, list(chain.parameters())))
    assert (slope < 1e-5) == least


@torch.no_grad()
def test_it_keeps_the_laws_of_a_kernel():
    task = Parity(4)
    chain = LinearChain(task)
    generator = torch.Generator().manual_seed(0)
    for weights in chain.parameters():
        weights.normal_(generator=generator)
    tokens = torch.from_numpy(task.draw(30, np.random.default_rng(0)).tokens.values)
    whole = chain.log_probs(Batch.from_tokens(tokens))
    assert whole.exp().sum(-1).numpy() == pytest.approx(np.ones(whole.shape[:2]), abs=1e-6)
    for read in range(1, tokens.shape[1] - 1):
        other = tokens[:, : read + 1].clone()
        other[:, -1] = 1
        torch.testing.assert_close(chain.log_probs(Batch.from_tokens(other)), whole[:, :read])
    greedy = complete(chain, tokens[:, :5], task.longest_answer, end=END)
    assert greedy.shape == (30, 5)
    assert list(zip(*chain.pairs.tolist(), strict=True)) == list(combinations(range(5), 2))
    with pytest.raises(ValueError, match=r"tokens has shape \(1, 11\); prompt and answer have at most 9 tokens"):
        chain.log_probs(Batch.from_tokens([[0] * 12]))
    with pytest.raises(ValueError, match=r"tokens hold 9; they must lie in 0 .. 3"):
        chain.log_probs(Batch.from_tokens([[0, 9, 0]]))


TINY = PhasesRecipe(bits=(2, 5), shares=(0.0, 0.4), steps=40, batch_size=32, steps_policy=2, n_prompts=4, group=2)


def test_below_a_third_next_tokens_stay_short_and_reinforcement_goes_on():
    recipe = replace(TINY, steps=80, batch_size=128, steps_policy=15, n_prompts=32, group=8)
    found = phase(recipe, 5, 0.25, 0)
    assert found.before["greedy_length"] == 1
    assert found.before["greedy_accuracy"] < 0.7
    assert found.before["stop"] == pytest.approx(0.6, abs=0.05)
    assert found.after["greedy_length"] == 5
    assert found.after["greedy_accuracy"] > 0.95


@pytest.mark.parametrize("model", ["linear", "transformer"])
def test_a_run_leaves_its_numbers_and_its_figure(tmp_path, monkeypatch, model):
    monkeypatch.setattr(style, "save", partial(style.save, formats=("png",)))
    monkeypatch.setattr(parity_phases, "N_PROMPTS", 32)
    shares, bits = ((0.0, 0.4), (2, 3)) if model == "linear" else ((0.4,), (3,))
    recipe = replace(TINY, model=model, shares=shares, bits=bits, steps=4, seeds=(0, 1))
    numbers = run(recipe, tmp_path, n_jobs=1)
    assert json.loads((tmp_path / "numbers.json").read_text()) == numbers
    assert PhasesRecipe.from_json(numbers["recipe"]) == recipe
    assert np.array(numbers["after"]["stop"]).shape == (len(bits), len(shares), 2)
    assert (tmp_path / "phases.png").stat().st_size > 5000
    assert recipe.command in summary(recipe, numbers, tmp_path)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"model": "lineal"}, "model='lineal' is not one of 'linear', 'transformer'"),
        ({"shares": (0.1, 1.5)}, "shares=1.5 must lie between 0 and 1"),
        ({"bits": (1,)}, "bits=1 must be at least 2"),
        ({"bits": ()}, r"bits=\(\) must hold at least one, each once"),
        ({"group": 1}, "group=1 must be at least 2"),
        ({"seeds": (0, -1)}, "seeds=-1 must be at least 0"),
    ],
)
def test_wrong_recipes_are_refused(changes, refusal):
    with pytest.raises(ValueError, match=refusal):
        PhasesRecipe(**changes)


def test_the_command_line_says_the_command_and_refuses_in_one_sentence(tmp_path):
    assert PhasesRecipe().command == "nextlens parity-phases"
    assert PhasesRecipe(bits=(6,), model="transformer").command == (
        "nextlens parity-phases --model transformer --bits 6,"
    )
    asked = CliRunner().invoke(nextlens, ["parity-phases", "--shares", "0,2", "--out", str(tmp_path / "x")])
    assert str(asked.exception) == "shares=2.0 must lie between 0 and 1"
    assert not (tmp_path / "x").exists()
