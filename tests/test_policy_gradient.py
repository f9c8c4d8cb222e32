from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.models.batch import Batch
from nextlens.models.objectives.next_token import next_token, weighted_mean
from nextlens.models.objectives.on_policy import OnPolicy, SelfTaught, answers, last_is_right
from nextlens.models.objectives.policy_gradient import (
    LEAST_SPREAD,
    PolicyGradient,
    SampledBatch,
    baseline_advantages,
    group_advantages,
    token_weights,
)
from nextlens.models.tasks.parity import END, Parity
from nextlens.models.training import train
from nextlens.models.transformer import Transformer, TransformerConfig

TASK = Parity(n_bits=3)
CONFIG = TransformerConfig(n_tokens=4, n_layers=1, n_heads=2, d_model=16, n_ctx=12, seed=1)


def sampled(seed: int = 0, **how) -> tuple[Transformer, SampledBatch]:
    model = Transformer(CONFIG)
    return model, next(OnPolicy(model, TASK, np.random.default_rng(seed), n_prompts=4, group=4, **how))


def moved(model: Transformer) -> Transformer:
    other = Transformer(CONFIG)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs + 0.3 * torch.randn(theirs.shape, generator=generator))
    return other


@torch.no_grad()
def by_hand(model, batch, clip=None, penalty=0.0, reference=None) -> float:
    """The objective of GRPO, answer by answer and token by token."""
    now = model.log_probs(batch)
    then = None if reference is None else reference.log_probs(batch)
    per_answer = []
    for b in range(len(batch)):
        terms = []
        for t in range(batch.tokens.shape[1]):
            if batch.weights[b, t] == 0:
                continue
            y = int(batch.targets[b, t])
            ratio, worth = float((now[b, t, y] - batch.log_prob[b, t]).exp()), float(batch.advantage[b, t])
            gain = ratio * worth
            if clip is not None:
                gain = min(gain, min(max(ratio, 1 - clip), 1 + clip) * worth)
            if penalty:
                gap = float(then[b, t, y] - now[b, t, y])
                gain -= penalty * (np.exp(gap) - gap - 1)
            terms.append(gain)
        per_answer.append(np.mean(terms))
    return -float(np.mean(per_answer))


@pytest.mark.parametrize("how", [{}, {"clip": 0.2}, {"clip": 0.2, "penalty": 0.1}, {"penalty": 0.5}])
def test_the_loss_is_the_mean_over_answers_of_the_mean_over_their_tokens(how):
    model, batch = sampled()
    other = moved(model)
    if "penalty" in how:
        how = how | {"reference": model}
    loss = weighted_mean(PolicyGradient(**how)(other, batch), batch.weights)
    assert loss.item() == pytest.approx(by_hand(other, batch, **how), rel=1e-4, abs=1e-6)
    assert abs(by_hand(other, batch, **how) - by_hand(other, batch)) > 1e-4 or not how


def test_right_after_sampling_the_gradient_is_that_of_reinforce():
    model, batch = sampled()
    surrogate = weighted_mean(PolicyGradient(clip=0.2)(model, batch), batch.weights)
    plain = (batch.weights * batch.advantage * next_token(model, batch)).sum()
    one, other = (torch.autograd.grad(loss, list(model.parameters())) for loss in (surrogate, plain))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_the_gradient_is_that_of_the_law_the_answers_were_drawn_from():
    """Drawn at a temperature, an answer raises or lowers its chance at that temperature."""
    model, batch = sampled(temperature=2.0)
    tempered = (model.log_probs(batch) / 2).log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
    torch.testing.assert_close(batch.log_prob, tempered.detach())
    surrogate = weighted_mean(PolicyGradient(clip=0.2)(model, batch), batch.weights)
    plain = -(batch.weights * batch.advantage * tempered).sum()
    one, other = (torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in (surrogate, plain))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    assert sampled()[1].temperature is None
    assert batch[:2].temperature.shape == batch[:2].tokens.shape
    with pytest.raises(ValueError, match=r"temperature=0\.0 must be above 0"):
        replace(batch, temperature=torch.zeros_like(batch.temperature))


def test_beyond_the_clip_nothing_more_is_gained():
    model, batch = sampled()
    far = SampledBatch(
        batch.tokens,
        batch.targets,
        batch.weights,
        batch.positions,
        advantage=torch.ones_like(batch.advantage),
        log_prob=batch.log_prob - 1.0,
    )
    loss = weighted_mean(PolicyGradient(clip=0.2)(model, far), far.weights)
    assert loss.item() == pytest.approx(-1.2)
    assert all(g.abs().max() == 0 for g in torch.autograd.grad(loss, list(model.parameters())))


def test_where_all_answers_are_worth_the_same_nothing_is_learnt():
    model, batch = sampled(reward=lambda judged: np.ones(judged.sizes["sequence"]))
    loss = weighted_mean(PolicyGradient()(model, batch), batch.weights)
    assert all(g.abs().max() == 0 for g in torch.autograd.grad(loss, list(model.parameters())))


@given(st.lists(st.lists(st.floats(-2, 2), min_size=4, max_size=4), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_advantages_of_a_group_sum_to_zero(rewards):
    found = group_advantages(torch.tensor(rewards))
    assert found.sum(1).abs().max() < 1e-3
    assert found.isfinite().all()
    for group, advantages in zip(np.array(rewards), found.numpy(), strict=True):
        own = (group - group.mean()) / (group.std(ddof=1) + LEAST_SPREAD)
        assert advantages == pytest.approx(own, rel=1e-3, abs=1e-3)
    centred = group_advantages(torch.tensor(rewards), spread=False)
    torch.testing.assert_close(centred, torch.tensor(rewards) - torch.tensor(rewards).mean(1, keepdim=True))


def test_the_baseline_of_an_answer_leaves_it_out():
    rewards = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    for (i, j), found in np.ndenumerate(baseline_advantages(rewards).numpy()):
        others = (rewards.sum() - rewards[i, j]) / 3
        assert found == pytest.approx(float(rewards[i, j] - others))


def test_tokens_count_by_answer_or_each_alike():
    asked = torch.tensor([[False, True, True, True], [False, True, False, False], [False] * 4])
    by_answer = token_weights(asked)
    torch.testing.assert_close(by_answer.sum(1), torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(token_weights(asked, "token"), asked.float() / 4)


def test_only_what_was_said_up_to_the_end_counts():
    model = Transformer(CONFIG)
    found = answers(model, TASK, 30, np.random.default_rng(0))
    batch = found.batch(END)
    for row, said in enumerate(found.said.tolist()):
        spoken = said.index(END) + 1 if END in said else len(said)
        assert batch.weights[row].tolist() == [0.0] * 3 + [1.0] * spoken + [0.0] * (len(said) - spoken)
    _, sample = sampled()
    assert torch.equal(sample.to("cpu").advantage, sample.advantage)
    assert sample[:2].log_prob.shape[0] == 2


def test_the_answers_of_a_group_are_to_one_prompt():
    found = answers(Transformer(CONFIG), TASK, 5, np.random.default_rng(0), group=3)
    assert (found.prompts.view(5, 3, 4) == found.prompts.view(5, 3, 4)[:, :1]).all()
    assert found.said.shape == (15, TASK.longest_answer)


def test_reward_is_raised_by_training_on_it():
    model = Transformer(CONFIG)
    task = Parity(n_bits=2, p_chain=1.0)
    source = OnPolicy(model, task, np.random.default_rng(0), n_prompts=16, group=8)
    before = last_is_right(answers(model, task, 500, np.random.default_rng(9)).judged).mean()
    for _ in train(
        model, source, steps=25, objective=PolicyGradient(clip=0.2), optimiser=partial(torch.optim.Adam, lr=2e-2)
    ):
        pass
    after = last_is_right(answers(model, task, 500, np.random.default_rng(9)).judged).mean()
    assert before < 0.45
    assert after > before + 0.25


def test_star_keeps_what_is_right_and_reads_it_as_often_as_told():
    model = Transformer(CONFIG)
    source = SelfTaught(model, TASK, np.random.default_rng(0), rounds=2, n_samples=256, epochs=3, size=50)
    read = 0
    for batch in source:
        assert TASK.judged(
            batch.tokens[:, :4].numpy(), torch.cat([batch.tokens[:, 4:], batch.targets[:, -1:]], 1).numpy()
        ).chain_is_right.all()
        read += len(batch)
    assert read % 3 == 0
    assert len(source.sampled) == len(source.kept) == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PolicyGradient(clip=0.0), "clip=0.0 must lie between 0 and 1"),
        (lambda: PolicyGradient(penalty=-1.0), "penalty=-1.0 must be at least 0"),
        (lambda: PolicyGradient(penalty=0.1), "needs the reference"),
        (lambda: PolicyGradient()(Transformer(CONFIG), Batch.from_tokens([[0, 1, 2]])), "needs a SampledBatch"),
        (lambda: group_advantages(torch.ones(3, 1)), "group=1 compares nothing"),
        (lambda: group_advantages(torch.tensor([[1.0, torch.nan]])), "not finite for 1 of 2 answers"),
        (lambda: baseline_advantages(torch.ones(1, 1)), "rewards hold one value"),
        (lambda: sampled(reward=lambda judged: np.full(judged.sizes["sequence"], np.nan)), "not finite for 16 of 16"),
        (
            lambda: next(
                iter(
                    SelfTaught(
                        Transformer(CONFIG), TASK, np.random.default_rng(0), rounds=1, reward=lambda j: np.zeros(2048)
                    )
                )
            ),
            "none of 2048 answers was right",
        ),
        (lambda: SelfTaught(Transformer(CONFIG), TASK, np.random.default_rng(0), rounds=0), "rounds=0"),
        (lambda: answers(Transformer(CONFIG), TASK, 0, np.random.default_rng(0)), "n_prompts=0"),
    ],
)
def test_wrong_arguments_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_judgement_is_over_sequences():
    assert isinstance(answers(Transformer(CONFIG), TASK, 2, np.random.default_rng(0)).judged, xr.Dataset)
