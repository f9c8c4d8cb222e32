from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nextlens.models.batch import Batch
from nextlens.models.objectives.multi_token import JointMultiToken, MultiToken
from nextlens.models.objectives.next_latent import NextLatent
from nextlens.models.objectives.next_token import cross_entropy, next_token, weighted_mean
from nextlens.models.prefixes import PrefixTree
from nextlens.models.processes import mess3
from nextlens.models.training import train
from nextlens.models.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=8, seed=1)
TOKENS = Batch.from_tokens(np.random.default_rng(0).integers(0, 3, (4, 8)))

HEADS = {
    "next latent": partial(NextLatent, 16, ahead=2),
    "multi-token": partial(MultiToken, CONFIG, ahead=2),
    "joint": partial(JointMultiToken, CONFIG, ahead=2),
}


def moved(objective: torch.nn.Module, seed: int = 3) -> torch.nn.Module:
    """With every parameter away from its first value, so that no zero hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return objective


def packed() -> Batch:
    """Two documents of three and four tokens in every row; the first two tokens of the first are a prompt."""
    attend = torch.zeros(7, 7, dtype=torch.bool)
    attend[:3, :3] = attend[3:, 3:] = True
    weights = torch.ones(4, 7)
    weights[:, :2] = 0
    return TOKENS.with_(attend=attend.tril().expand(4, 7, 7), weights=weights)


def padded() -> Batch:
    """Answers of three, one and four tokens behind a prompt of two, and a row of which nothing is asked."""
    weights = torch.zeros(4, 7)
    for row, n in enumerate((3, 1, 4, 0)):
        weights[row, 1 : 1 + n] = 1
    return TOKENS.with_(weights=weights)


def is_text(batch: Batch, b: int, t: int) -> bool:
    """Whether the token at ``t`` is a target that counts, or some later one is."""
    return bool((batch.weights[b, max(t - 1, 0) :] > 0).any())


def by_hand(objective: NextLatent, model: Transformer, batch: Batch) -> tuple[float, float]:
    """The two terms by a loop over every pair, each roll-out begun anew."""
    with model.watched("ln_final.normalized", "embed") as seen:
        logits = model(batch)
    h, e = seen["ln_final.normalized"], seen["embed"]
    latent, kl = [], []
    for i in range(1, objective.ahead + 1):
        far, divergence = [], []
        for b in range(len(batch)):
            for t in range(h.shape[1] - i):
                if not is_text(batch, b, t + i) or (batch.attend is not None and not batch.attend[b, t + i, t]):
                    continue
                state = h[b, t]
                for step in range(1, i + 1):
                    state = objective.dynamics(state, e[b, t + step])
                far.append(F.smooth_l1_loss(state, h[b, t + i]))
                if batch.weights[b, t + i] > 0:
                    law, said = logits[b, t + i].log_softmax(-1), (state @ model.unembedding).log_softmax(-1)
                    divergence.append((law.exp() * (law - said)).sum())
        latent.append(torch.stack(far).mean())
        kl.append(torch.stack(divergence).mean())
    return torch.stack(latent).mean().item(), torch.stack(kl).mean().item()


@pytest.mark.parametrize("batch", [TOKENS, packed(), padded()], ids=["plain", "packed, with a prompt", "padded"])
@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_the_latent_terms_equal_a_loop_over_every_pair(ahead, batch):
    model = Transformer(CONFIG)
    objective = moved(NextLatent(16, ahead=ahead, weight_latent=2.0, weight_kl=0.5))
    latent, kl = by_hand(objective, model, batch)
    total = weighted_mean(objective(model, batch), batch.weights)
    expected = weighted_mean(next_token(model, batch), batch.weights).item() + 2 * latent + 0.5 * kl
    assert total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
def test_padding_costs_nothing_and_teaches_nothing(make):
    model, objective, batch = Transformer(CONFIG), moved(make()), padded()
    other = batch.tokens.clone()
    for row, first in enumerate((5, 3, 6, 0)):
        other[row, first:] = (other[row, first:] + 1) % 3
    losses = [weighted_mean(objective(model, one), one.weights) for one in (batch, batch.with_(tokens=other))]
    assert losses[0].item() == losses[1].item()


def test_without_its_terms_it_is_next_token_prediction():
    model = Transformer(CONFIG)
    objective = moved(NextLatent(16, weight_latent=0.0, weight_kl=0.0))
    torch.testing.assert_close(objective(model, TOKENS), next_token(model, TOKENS))


def test_at_birth_every_state_is_expected_to_stay_where_it_is():
    h, e = torch.randn(5, 16), torch.randn(5, 3, 16)
    torch.testing.assert_close(NextLatent(16).roll_out(h, e), h[:, None].expand(5, 3, 16))


def test_first_weights_are_those_of_the_seed_and_no_global_state_is_touched():
    before = torch.get_rng_state()
    one, same, other = NextLatent(8, seed=1), NextLatent(8, seed=1), NextLatent(8, seed=2)
    assert torch.equal(one.dynamics.first.weight, same.dynamics.first.weight)
    assert not torch.equal(one.dynamics.first.weight, other.dynamics.first.weight)
    assert torch.equal(before, torch.get_rng_state())


def gradient(objective: NextLatent, model: Transformer) -> dict[str, torch.Tensor]:
    """Of the latent terms alone, by parameter of the model."""
    model.zero_grad()
    (objective(model, TOKENS) - next_token(model, TOKENS)).mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_the_head_learns_nothing_from_the_divergence_unless_it_is_let():
    model = Transformer(CONFIG)
    assert gradient(moved(NextLatent(16)), model)["unembed.W_U"].abs().max() < 1e-7
    assert gradient(moved(NextLatent(16, freeze_head=False)), model)["unembed.W_U"].abs().max() > 1e-4


def test_the_gradient_flows_into_the_model_through_the_state_that_predicts_and_not_through_the_target():
    model = Transformer(CONFIG)
    objective = moved(NextLatent(16, weight_kl=0.0))
    last = TOKENS.tokens.shape[1] - 1

    def to_states(objective: NextLatent) -> torch.Tensor:
        with model.watched("ln_final.normalized") as seen:
            loss = objective(model, TOKENS).sum()
        h = seen["ln_final.normalized"]
        loss = loss - cross_entropy(h @ model.unembedding, TOKENS.targets).sum()
        return torch.autograd.grad(loss, h)[0].abs().amax((0, 2))

    stopped = to_states(objective)
    assert stopped[last] < 1e-6
    assert (stopped[:last] > 1e-5).all()
    objective.stop_target = False
    assert to_states(objective)[last] > 1e-5


@pytest.mark.parametrize("stop", [True, False])
def test_the_embedding_drives_the_dynamics_as_a_constant_only_if_asked(stop):
    objective = moved(NextLatent(16, weight_kl=0.0, stop_embedding=stop))
    h, e = torch.randn(1, 3, 16), torch.randn(1, 3, 16, requires_grad=True)
    batch = Batch.from_tokens([[0, 1, 2, 0]])
    latent, _ = objective._terms(h, e, torch.randn(1, 3, 3), torch.randn(16, 3), batch)
    latent.backward()
    assert (e.grad is None) == stop


def test_cross_entropy_with_the_token_is_the_divergence_up_to_the_entropy_of_a_certain_law():
    model = Transformer(CONFIG)
    hard = moved(NextLatent(16, weight_latent=0.0, soft=False))
    with model.watched("ln_final.normalized", "embed") as seen:
        model(TOKENS)
    states = hard.dynamics(seen["ln_final.normalized"][:, :-1], seen["embed"][:, 1:])
    expected = F.cross_entropy((states @ model.unembedding).flatten(0, 1), TOKENS.targets[:, 1:].flatten())
    got = (hard(model, TOKENS) - next_token(model, TOKENS)).mean()
    torch.testing.assert_close(got, expected)


def test_watching_the_two_ends_keeps_the_fused_path_and_changes_nothing():
    model = Transformer(CONFIG)
    sites = ("ln_final.normalized", "embed")
    with model.watched(*sites) as ends:
        fused = model(TOKENS)
    with model.watched(*sites, "blocks.0.resid_post") as named_values:
        named = model(TOKENS)
    torch.testing.assert_close(fused, named)
    for site in sites:
        torch.testing.assert_close(ends[site], named_values[site])
    with_tree = Batch.from_tokens(torch.cat([TOKENS.tokens, TOKENS.targets[:, -1:]], 1), tree=True)
    assert isinstance(with_tree.tree, PrefixTree)
    with model.watched(*sites) as from_tree:
        torch.testing.assert_close(model(with_tree), fused)
    torch.testing.assert_close(from_tree["ln_final.normalized"], ends["ln_final.normalized"])
    with model.edited("ln_final.normalized", torch.zeros_like):
        assert model(TOKENS).abs().max() == 0
    with model.edited("embed", torch.zeros_like):
        assert not torch.allclose(model(TOKENS), fused)


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
def test_a_head_is_trained_saved_and_resumed_bit_for_bit(make, tmp_path):
    def run(resume=None, steps=4):
        objective = make()
        stream = mess3().batches(8, length=9, rng=np.random.default_rng(0))
        return objective, list(train(Transformer(CONFIG), stream, steps=steps, objective=objective, resume=resume))

    _, whole = run()
    objective, half = run(steps=2)
    assert any(p.grad is not None for p in objective.parameters())
    resumed = run(resume=half[-1].state())[1]
    assert [s.loss for s in resumed] == [s.loss for s in whole[2:]]


def test_every_further_head_says_the_token_that_far_ahead():
    model, objective = Transformer(CONFIG), moved(MultiToken(CONFIG, ahead=3))
    batch = packed()
    with model.watched("ln_final.normalized") as seen:
        logits = model(batch)
    expected = weighted_mean(next_token(model, batch), batch.weights)
    for i, block, norm in zip((2, 3), objective.blocks, objective.norms, strict=True):
        said = (
            norm(block(seen["ln_final.normalized"], batch.positions, batch.attend)) @ model.unembedding
        ).log_softmax(-1)
        costs = [
            -said[b, t, batch.targets[b, t + i - 1]]
            for b in range(4)
            for t in range(7 - i + 1)
            if batch.attend[b, t + i - 1, t] and batch.weights[b, t + i - 1] > 0
        ]
        expected = expected + torch.stack(costs).mean()
    assert logits.shape == (4, 7, 3)
    torch.testing.assert_close(weighted_mean(objective(model, batch), batch.weights), expected)


def test_the_joint_head_sees_its_state_and_the_tokens_between_and_no_further():
    model, objective = Transformer(CONFIG), moved(JointMultiToken(CONFIG, ahead=3))
    h, e = torch.randn(1, 7, 16), torch.randn(1, 7, 16, requires_grad=True)
    said = objective._said(h, e)
    for slot, seen in {0: [], 1: [3], 2: [3, 4]}.items():
        (reached,) = torch.autograd.grad(said[0, 2, slot].sum(), e, retain_graph=True)
        assert reached[0].abs().amax(-1).nonzero().flatten().tolist() == seen
    assert weighted_mean(objective(model, TOKENS), TOKENS.weights).isfinite()


def test_the_joint_head_learns_what_the_tokens_between_tell():
    """Tokens drawn at random, each said again two later: the next is a coin, the one after it is known."""
    rng = np.random.default_rng(0)
    config = replace(CONFIG, n_layers=1, n_heads=1)
    model, objective = Transformer(config), JointMultiToken(config, ahead=2)

    def batches():
        while True:
            drawn = rng.integers(0, 3, (16, 9))
            drawn[:, 1::2] = drawn[:, 0:-1:2]
            yield Batch.from_tokens(drawn)

    steps = list(train(model, batches(), steps=100, objective=objective, optimiser=partial(torch.optim.Adam, lr=1e-2)))
    tail = np.mean([s.loss for s in steps[-20:]])
    assert tail < 1.2 * np.log(3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NextLatent(16, ahead=0), "ahead=0 must be at least 1"),
        (lambda: NextLatent(16, weight_kl=-1.0), "weight_kl=-1.0 must be at least 0"),
        (lambda: NextLatent(16, distance="l2"), "distance='l2' is not one of"),
        (lambda: MultiToken(CONFIG, ahead=1), "ahead=1 must be at least 2"),
        (lambda: NextLatent(16, ahead=7)(Transformer(CONFIG), TOKENS), "ahead=7 needs sequences of 8 tokens"),
        (lambda: MultiToken(CONFIG, ahead=8)(Transformer(CONFIG), TOKENS), "ahead=8 needs sequences of 8 tokens"),
        (
            lambda: NextLatent(16)(Transformer(CONFIG), TOKENS.with_(weights=-torch.ones(4, 7))),
            "weights hold a negative one",
        ),
        (lambda: NextLatent(16, site="ln_finale")(Transformer(CONFIG), TOKENS), "site='ln_finale' is not one of"),
    ],
)
def test_wrong_arguments_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
