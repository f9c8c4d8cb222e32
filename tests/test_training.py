from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from functools import partial
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from nextlens.models.batch import Batch
from nextlens.models.objectives.next_token import next_token, weighted_mean
from nextlens.models.processes import mess3
from nextlens.models.processes.sampling import BatchStream
from nextlens.models.training import Step, adam, over_seeds, train, warmup_cosine
from nextlens.models.transformer import Transformer, TransformerConfig

CONTEXT = 6
SMALL = TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=CONTEXT, seed=1)
BATCH = Batch.from_tokens(mess3().sample(4, CONTEXT + 1, np.random.default_rng(0)))
sgd = partial(torch.optim.SGD, lr=0.1)


def stream(seed: int = 0) -> BatchStream:
    return mess3().batches(4, CONTEXT + 1, np.random.default_rng(seed))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


class SurelyWell(nn.Module):
    """Next-token prediction, and a head that learns to foretell its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 1)
        nn.init.constant_(self.head.weight, 0.1)
        nn.init.zeros_(self.head.bias)

    def forward(self, model: Transformer, batch: Batch) -> Tensor:
        with model.watched("ln_final.hook_normalized") as seen:
            loss = next_token(model, batch)
        return loss + (self.head(seen["ln_final.hook_normalized"])[..., 0] - loss) ** 2


# --- the reduction


def test_next_token_is_cross_entropy_against_what_comes_next():
    model = Transformer(SMALL)
    loss = next_token(model, BATCH)
    expected = F.cross_entropy(model(BATCH).transpose(1, 2), BATCH.targets, reduction="none")
    torch.testing.assert_close(loss, expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 7.0]))
def test_weighted_mean_is_numpys_average_and_scale_free(seed, scale):
    rng = np.random.default_rng(seed)
    loss, weights = rng.random((2, 3, 4))
    mean = weighted_mean(torch.from_numpy(loss), torch.from_numpy(weights))
    assert mean.item() == pytest.approx(np.average(loss, weights=weights))
    rescaled = weighted_mean(torch.from_numpy(loss), torch.from_numpy(scale * weights))
    assert rescaled.item() == pytest.approx(mean.item())


def test_the_gradient_at_positions_of_weight_zero_is_zero():
    model, weights = Transformer(SMALL), torch.ones(4, CONTEXT)
    weights[:, 2:4] = 0
    with model.watched("ln_final.hook_normalized") as seen:
        loss = weighted_mean(next_token(model, BATCH), weights)
    last = seen["ln_final.hook_normalized"]
    gradient = torch.autograd.grad(loss, last)[0].abs().sum(-1)
    assert (gradient[:, 2:4] == 0).all()
    assert (gradient[:, [0, 1, 4, 5]] > 0).all()


def test_the_targets_at_positions_of_weight_zero_change_no_gradient():
    model, weights = Transformer(SMALL), torch.ones(4, CONTEXT)
    weights[:, 2:4] = 0
    others = BATCH.targets.clone()
    others[:, 2:4] = (others[:, 2:4] + 1) % 3
    one, other = (
        gradients(model, weighted_mean(next_token(model, batch), weights))
        for batch in (BATCH, BATCH.with_(targets=others))
    )
    for name in one:
        assert torch.equal(one[name], other[name])


@given(st.integers(0, 2**32 - 1))
def test_signed_weights_give_the_reinforce_gradient_up_to_their_size(seed):
    model = REINFORCED
    advantages = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, CONTEXT)))
    given_by_weights = gradients(model, weighted_mean(next_token(model, BATCH), advantages))
    said = model.log_probs(BATCH).gather(2, BATCH.targets[..., None])[..., 0]
    reinforce = gradients(model, (advantages * said).sum())
    for name, ascent in reinforce.items():
        torch.testing.assert_close(given_by_weights[name] * advantages.abs().sum(), -ascent, atol=1e-10, rtol=0)


REINFORCED = Transformer(SMALL).double()


def test_weights_that_teach_nothing_or_no_number_are_refused():
    loss = torch.ones(1, 2)
    with pytest.raises(ValueError, match="weights are zero at every position"):
        weighted_mean(loss, torch.zeros(1, 2))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"weights sum to (nan|inf) in absolute value; each must be finite"):
            weighted_mean(loss, torch.tensor([[1.0, bad]]))


@pytest.mark.parametrize("target", [-100, -1, 3])
def test_a_target_out_of_range_is_refused(target):
    batch = BATCH.with_(targets=torch.full_like(BATCH.targets, target))
    with pytest.raises(ValueError, match=rf"targets hold {target}; with n_tokens=3 they must lie in 0 \.\. 2"):
        next_token(Transformer(SMALL), batch)


# --- one step


def test_a_step_is_the_one_written_by_hand():
    model, by_hand = Transformer(SMALL), Transformer(SMALL)
    batch = BATCH.with_(weights=torch.linspace(-1, 2, 4 * CONTEXT).view(4, CONTEXT))
    step = next(train(model, [batch], optimiser=sgd))
    logits = by_hand(batch)
    loss = -(logits.log_softmax(-1).gather(2, batch.targets[..., None])[..., 0] * batch.weights).sum()
    loss = loss / batch.weights.abs().sum()
    for name, gradient in gradients(by_hand, loss).items():
        expected = by_hand.get_parameter(name).detach() - 0.1 * gradient
        torch.testing.assert_close(model.get_parameter(name).detach(), expected, atol=1e-6, rtol=0)
    assert step.loss == pytest.approx(loss.item(), abs=1e-6)


def test_adam_by_default_steps_as_pytorchs_own_does():
    model, by_hand = Transformer(SMALL).double(), Transformer(SMALL).double()
    list(train(model, [BATCH] * 3))
    stepper = torch.optim.Adam(by_hand.parameters(), lr=1e-3)
    for _ in range(3):
        stepper.zero_grad()
        next_token(by_hand, BATCH).mean().backward()
        stepper.step()
    for name, value in by_hand.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), value, atol=1e-7, rtol=0)


def test_what_a_step_says_of_itself():
    model = Transformer(SMALL)
    losses, steps = [], []
    for step in train(model, islice(watched_before(model, stream(), losses), 3)):
        steps.append(step)
    assert [step.index for step in steps] == [0, 1, 2]
    assert [step.tokens for step in steps] == [4 * CONTEXT, 8 * CONTEXT, 12 * CONTEXT]
    assert [step.loss for step in steps] == pytest.approx(losses, abs=1e-6)
    assert all(step.model is model for step in steps)
    assert steps[0].objective is next_token
    with pytest.raises(FrozenInstanceError):
        steps[0].loss = 0.0


def watched_before(model: Transformer, batches: BatchStream, losses: list[float]) -> Iterator[Batch]:
    for batch in batches:
        losses.append(next_token(model, batch).mean().item())
        yield batch


def test_training_lowers_the_loss_towards_the_entropy_and_not_below():
    model = Transformer(SMALL)
    losses = [step.loss for step in train(model, mess3().batches(64, 7, np.random.default_rng(0)), steps=300)]
    lowest = -mess3().log_likelihood(mess3().sample(20_000, 7, np.random.default_rng(1)))[:, 1:].mean()
    assert losses[0] > lowest + 0.3
    assert lowest - 0.02 < np.mean(losses[-100:]) < lowest + 0.08


def test_the_last_position_of_the_context_is_trained():
    model = Transformer(SMALL)
    first = weights_of(model)["pos_embed.W_pos"]
    next(train(model, stream(), optimiser=sgd))
    moved = (model.pos_embed.W_pos.detach() - first).abs().sum(-1)
    assert (moved > 0).all()


def test_the_parameters_of_an_objective_are_trained_too():
    objective = SurelyWell()
    before = objective.head.weight.detach().clone()
    next(train(Transformer(SMALL), [BATCH], objective=objective, optimiser=sgd))
    assert (objective.head.weight != before).any()


def test_what_requires_no_gradient_is_not_trained():
    model = Transformer(SMALL)
    model.embed.W_E.requires_grad_(False)
    before = weights_of(model)
    next(train(model, [BATCH], optimiser=sgd))
    assert torch.equal(model.embed.W_E, before["embed.W_E"])
    assert not torch.equal(model.unembed.W_U, before["unembed.W_U"])


def test_training_touches_no_global_random_state():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    list(train(Transformer(SMALL), stream(), steps=2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


# --- when it stops


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_it_stops_at_steps_without_drawing_one_batch_more(steps):
    source = iter([BATCH] * 5)
    assert len(list(train(Transformer(SMALL), source, steps=steps))) == steps
    assert len(list(source)) == 5 - steps


def test_it_stops_where_the_batches_end():
    assert len(list(train(Transformer(SMALL), [BATCH] * 2, steps=9))) == 2


# --- schedule and clipping


@given(st.integers(1, 60), st.data())
def test_a_schedule_rises_in_a_line_and_falls_along_half_a_cosine(steps, data):
    warmup = data.draw(st.integers(0, steps - 1))
    final = data.draw(st.floats(0.0, 1.0))
    rate = [warmup_cosine(steps, warmup=warmup, final=final)(i) for i in range(steps)]
    falling = steps - warmup
    assert rate[:warmup] == pytest.approx([(i + 1) / warmup for i in range(warmup)])
    expected = final + (1 - final) * (1 + np.cos(np.linspace(0, np.pi, falling))) / 2
    assert rate[warmup:] == pytest.approx(expected.tolist())


def test_a_schedule_stays_at_its_end():
    assert warmup_cosine(10, final=0.25)(500) == pytest.approx(0.25)


def test_the_schedule_reaches_the_optimiser_and_the_weights():
    model, schedule = Transformer(SMALL), [1.0, 0.0, 0.5].__getitem__
    before = [weights_of(model)]
    rates = []
    for step in train(model, [BATCH] * 3, optimiser=sgd, schedule=schedule):
        rates.append(step.optimiser.param_groups[0]["lr"])
        before.append(weights_of(model))
    assert rates == pytest.approx([0.1, 0.0, 0.05])
    moved = [not torch.equal(a["embed.W_E"], b["embed.W_E"]) for a, b in pairwise(before)]
    assert moved == [True, False, True]


@pytest.mark.parametrize("clip", [1e-3, 0.05, 1e9])
def test_the_gradient_is_clipped_as_a_whole(clip):
    model = Transformer(SMALL)
    before = weights_of(model)
    whole = gradients(model, next_token(model, BATCH).mean())
    norm = torch.stack([gradient.norm() for gradient in whole.values()]).norm().item()
    next(train(model, [BATCH], optimiser=partial(torch.optim.SGD, lr=1.0), clip=clip))
    for name, value in weights_of(model).items():
        expected = before[name] - whole[name] * min(1.0, clip / norm)
        torch.testing.assert_close(value, expected, atol=2e-6, rtol=1e-4)


# --- resuming

RUNS = {
    "adam": {},
    "plain SGD": {"optimiser": sgd},
    "SGD with momentum": {"optimiser": partial(sgd, momentum=0.9)},
    "AdamW, scheduled and clipped": {
        "optimiser": partial(torch.optim.AdamW, lr=1e-2, amsgrad=True),
        "schedule": warmup_cosine(7, warmup=2),
        "clip": 0.1,
    },
    "an objective with a head": {"objective": SurelyWell},
}


def run(model: Transformer, batches: BatchStream, steps: int, name: str, **more) -> list[Step]:
    how = dict(RUNS[name])
    if "objective" in how:
        how["objective"] = how["objective"]()
    return list(train(model, batches, steps=steps, **how, **more))


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_the_run_that_was_not_interrupted_bit_for_bit(name):
    whole = run(Transformer(SMALL), stream(), 7, name)
    state = run(Transformer(SMALL), stream(), 4, name)[-1].state()
    elsewhere = Transformer(replace(SMALL, seed=9))
    resumed = run(elsewhere, stream(seed=5), 7, name, resume=state)
    assert [step.index for step in resumed] == [4, 5, 6]
    assert [(step.loss, step.tokens) for step in resumed] == [(step.loss, step.tokens) for step in whole[4:]]
    ends = whole[-1].state(), resumed[-1].state()
    for part in ("model", "objective", "optimiser"):
        one, other = (getattr(end, part) for end in ends)
        assert set(one) == set(other)
        for key in one:
            assert torch.equal(one[key], other[key]), key
    assert ends[0].stream == ends[1].stream


def test_a_state_is_a_copy_that_later_steps_leave_alone():
    model = Transformer(SMALL)
    steps = train(model, stream(), steps=3)
    state = next(steps).state()
    kept = copy.deepcopy(state)
    list(steps)
    for part in ("model", "optimiser"):
        for name, value in getattr(state, part).items():
            assert torch.equal(value, getattr(kept, part)[name])
    assert not torch.equal(state.model["embed.W_E"], model.embed.W_E)


def test_batches_that_cannot_say_where_they_stand_resume_with_all_but_the_data():
    state = list(train(Transformer(SMALL), [BATCH] * 2))[-1].state()
    assert state.stream is None
    assert [step.index for step in train(Transformer(SMALL), [BATCH] * 2, resume=state)] == [2, 3]


def resume_of(**how):
    return list(train(Transformer(SMALL), stream(), steps=2, **how))[-1].state()


@pytest.mark.parametrize(
    ("made_by", "model", "batches", "message"),
    [
        ({}, replace(SMALL, d_model=32), stream, "resume was made by another model or objective"),
        ({}, replace(SMALL, n_layers=3), stream, "resume was made by another model or objective"),
        ({"objective": SurelyWell()}, SMALL, stream, r"another model or objective: head\.weight is \(1, 16\)"),
        (
            {"optimiser": partial(torch.optim.SGD, lr=0.1)},
            SMALL,
            stream,
            "made by the optimiser 'SGD'; this one is 'Adam'",
        ),
        ({}, SMALL, lambda: [BATCH], r"batches has no restore\(state\)"),
        ({}, SMALL, lambda: mess3().batches(5, 7, np.random.default_rng(0)), "state has size=4; this stream has 5"),
    ],
    ids=["width", "depth", "head", "optimiser", "source", "stream"],
)
def test_what_was_made_by_another_run_is_refused(made_by, model, batches, message):
    with pytest.raises(ValueError, match=message):
        next(train(Transformer(model), batches(), resume=resume_of(**made_by)))


def test_a_model_that_is_refused_is_left_as_it_was():
    model = Transformer(replace(SMALL, n_layers=3))
    before = weights_of(model)
    with pytest.raises(ValueError, match="another model"):
        next(train(model, stream(), resume=resume_of()))
    for name, value in weights_of(model).items():
        assert torch.equal(value, before[name])


def test_an_objective_with_a_head_is_refused_what_was_made_without():
    with pytest.raises(ValueError, match="resume was made by another model or objective"):
        next(train(Transformer(SMALL), stream(), objective=SurelyWell(), resume=resume_of()))


# --- refusals


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_and_the_step_not_taken(bad):
    model, seen = Transformer(SMALL), []

    def objective(model, batch):
        seen.append(weights_of(model))
        return next_token(model, batch) * (bad if len(seen) == 2 else 1.0)

    steps = train(model, [BATCH] * 2, objective=objective)
    next(steps)
    with pytest.raises(ValueError, match=rf"the loss is {bad} at step 1"):
        next(steps)
    for name, value in weights_of(model).items():
        assert torch.equal(value, seen[1][name])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"steps": -1}, "steps=-1 must be at least 0"),
        ({"clip": 0.0}, "clip=0.0 must be above 0"),
        ({"clip": math.nan}, "clip=nan must be above 0"),
    ],
)
def test_a_run_out_of_range_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        next(train(Transformer(SMALL), [BATCH], **how))


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        next(train(Transformer(SMALL).requires_grad_(False), [BATCH]))


@pytest.mark.parametrize(
    ("steps", "warmup", "message"),
    [(0, 0, "steps=0 must be at least 1"), (5, 5, r"warmup=5 must lie in 0 \.\. steps - 1 = 4"), (5, -1, "warmup=-1")],
)
def test_a_schedule_out_of_range_is_refused(steps, warmup, message):
    with pytest.raises(ValueError, match=message):
        warmup_cosine(steps, warmup=warmup)


# --- several seeds


def test_seeds_run_in_processes_of_one_thread_each_in_their_order():
    def run(seed: int) -> tuple[int, int, int]:
        import torch

        return seed, torch.get_num_threads(), os.getpid()

    found = over_seeds(run, [5, 1, 3], n_jobs=2)
    assert [seed for seed, _, _ in found] == [5, 1, 3]
    assert {threads for _, threads, _ in found} == {1}
    assert os.getpid() not in {process for _, _, process in found}


def test_with_one_job_seeds_run_here_on_one_thread_and_the_others_come_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = over_seeds(lambda seed: (seed, torch.get_num_threads(), os.getpid()), [2, 0], n_jobs=1)
        assert found == [(2, 1, os.getpid()), (0, 1, os.getpid())]
        with pytest.raises(ArithmeticError):
            over_seeds(lambda seed: (_ for _ in ()).throw(ArithmeticError), [0], n_jobs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("seeds", [[], [1, 2, 1]])
def test_no_seed_or_one_given_twice_is_refused(seeds):
    with pytest.raises(ValueError, match=r"seeds=\[.*\] must hold at least one seed, each once"):
        over_seeds(lambda seed: seed, seeds)


def test_equal_seeds_give_equal_runs():
    def last_loss(seed: int) -> float:
        model = Transformer(replace(SMALL, seed=seed))
        return list(train(model, stream(seed), steps=3, optimiser=adam))[-1].loss

    one, other = last_loss(0), last_loss(1)
    assert over_seeds(last_loss, [1, 0], n_jobs=1) == [other, one]
    assert one != other
