"""Recurrent networks: what they compute, what they carry from token to token, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextlens.models.batch import Batch
from nextlens.models.processes import golden_mean
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.training import train
from tests.strategies import batches

KINDS = ("RNN", "LSTM", "GRU")
every_kind = pytest.mark.parametrize("kind", KINDS)
MODELS = {kind: Recurrent(RecurrentConfig(n_tokens=3, kind=kind, n_layers=2, d_model=8, seed=3)) for kind in KINDS}
BATCH = Batch.from_tokens([[0, 1, 2, 0, 1, 1], [2, 2, 0, 1, 0, 0]])


def stretch(batch: Batch, start: int, stop: int) -> Batch:
    tokens = batch.tokens[:, start:stop]
    return Batch.from_tokens(torch.cat([tokens, tokens[:, :1]], dim=1))


def weights(model: Recurrent, block: int) -> list[torch.Tensor]:
    layer = model.blocks[block].layer
    return [getattr(layer, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def one_step(kind: str, model: Recurrent, block: int, x, h, cell):
    """The equations of the textbook, gate by gate."""
    into, back, bias_in, bias_back = weights(model, block)
    a, b = into @ x + bias_in, back @ h + bias_back
    if kind == "RNN":
        return torch.tanh(a + b), cell
    if kind == "GRU":
        (ra, za, na), (rb, zb, nb) = a.chunk(3), b.chunk(3)
        r, z = torch.sigmoid(ra + rb), torch.sigmoid(za + zb)
        return (1 - z) * torch.tanh(na + r * nb) + z * h, cell
    i, f, g, o = (a + b).chunk(4)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


@every_kind
@torch.no_grad()
def test_hidden_states_are_those_of_the_equations(kind):
    model = MODELS[kind]
    with model.watched(*model.sites) as seen:
        logits = model(BATCH)
    for row, tokens in enumerate(BATCH.tokens):
        h, cell = torch.zeros(2, 8), torch.zeros(2, 8)
        for t, token in enumerate(tokens):
            x = model.embed.W_E[token]
            for block in range(2):
                h[block], cell[block] = one_step(kind, model, block, x, h[block], cell[block])
                x = h[block]
                torch.testing.assert_close(seen[f"blocks.{block}.hook_resid_post"][row, t], x, atol=1e-6, rtol=0)
            torch.testing.assert_close(logits[row, t], x @ model.unembedding, atol=1e-6, rtol=0)


@every_kind
@given(batch=batches(3), cut=st.integers(1, 5))
@torch.no_grad()
def test_two_stretches_read_one_after_the_other_are_the_whole(kind, batch, cut):
    model = MODELS[kind]
    first, states = model.read_on(stretch(batch, 0, cut))
    second, after = model.read_on(stretch(batch, cut, 6), states)
    whole, at_the_end = model.read_on(batch)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(after, at_the_end, atol=1e-6, rtol=0)


@every_kind
@torch.no_grad()
def test_an_edit_within_a_call_reaches_the_layers_above_and_not_its_own_recurrence(kind):
    model, sites = MODELS[kind], [f"blocks.{block}.hook_resid_post" for block in range(2)]

    def third_position(value):
        return torch.cat([value[:, :2], value[:, 2:3] + 1.0, value[:, 3:]], dim=1)

    with model.watched(*sites) as before:
        plain = model(BATCH)
    with model.edited(sites[0], third_position), model.watched(*sites) as after:
        edited = model(BATCH)
    own, above = (after[site] - before[site] for site in sites)
    assert torch.equal(own[:, 3:], torch.zeros_like(own[:, 3:]))
    assert torch.equal(above[:, :2], torch.zeros_like(above[:, :2]))
    assert (above[:, 2:].abs().amax(-1) > 1e-3).all()
    assert torch.equal(edited[:, :2], plain[:, :2])


@every_kind
@pytest.mark.parametrize("block", [0, 1])
@torch.no_grad()
def test_an_edit_at_the_last_position_is_the_state_that_reading_goes_on_from(kind, block):
    model, site = MODELS[kind], f"blocks.{block}.hook_resid_post"
    put = torch.linspace(-0.5, 0.5, 8).expand(2, 8)

    def last_position(value):
        return torch.cat([value[:, :-1], put[:, None]], dim=1)

    with model.edited(site, last_position):
        _, states = model.read_on(stretch(BATCH, 0, 3))
    assert torch.equal(states[block][0], put)
    _, plain = model.read_on(stretch(BATCH, 0, 3))
    by_hand = [state.clone() for state in plain]
    by_hand[block][0] = put
    if block == 0:
        by_hand[1] = states[1]
    expected = model.read_on(stretch(BATCH, 3, 4), tuple(by_hand))[0]
    carried = model.read_on(stretch(BATCH, 3, 4), states)[0]
    assert torch.equal(carried, expected)
    assert (carried - model.read_on(stretch(BATCH, 3, 4), plain)[0]).abs().max() > 1e-3


def test_one_hot_tokens_are_the_columns_of_the_input_weights():
    model = Recurrent(RecurrentConfig(n_tokens=3, kind="RNN", n_layers=1, d_model=8, one_hot=True))
    with torch.no_grad(), model.watched("blocks.0.resid_post") as seen:
        model(Batch.from_tokens([[0, 0], [1, 0], [2, 0]]))
    into, _, bias_in, bias_back = weights(model, 0)
    torch.testing.assert_close(seen["blocks.0.resid_post"][:, 0], torch.tanh(into.T + bias_in + bias_back))
    assert model.sites == ("blocks.0.hook_resid_post", "ln_final.hook_normalized")


@every_kind
def test_the_seed_alone_decides_first_weights_and_no_global_state_moves(kind):
    config = RecurrentConfig(n_tokens=3, kind=kind, d_model=8, seed=5)
    before = torch.random.get_rng_state()
    one, two, other = Recurrent(config), Recurrent(config), Recurrent(config).untrained(seed=6)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
        assert not torch.equal(value, other.state_dict()[name])
    assert other.config.seed == 6


def test_first_weights_have_pytorchs_range_and_spread():
    model = Recurrent(RecurrentConfig(n_tokens=3, d_model=64))
    drawn = model.blocks[1].layer.weight_hh_l0
    assert drawn.abs().max() <= 1 / 8
    assert drawn.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.02)


def test_an_untrained_twin_has_the_first_weights_in_the_same_precision():
    model = Recurrent(RecurrentConfig(n_tokens=3, d_model=8)).double()
    first = model.unembedding.detach().clone()
    with torch.no_grad():
        model.unembedding.add_(1.0)
    twin = model.untrained()
    assert torch.equal(twin.unembedding, first)
    assert twin(BATCH).dtype == torch.float64


@every_kind
def test_training_brings_the_loss_near_its_optimum(kind):
    process = golden_mean()
    model = Recurrent(RecurrentConfig(n_tokens=2, kind=kind, n_layers=1, d_model=8))
    stream = process.batches(64, 9, np.random.default_rng(0))
    losses = [step.loss for step in train(model, stream, steps=150, optimiser=lambda p: torch.optim.Adam(p, lr=0.03))]
    with torch.no_grad():
        said = model(BATCH.with_(tokens=torch.ones(2, 5, dtype=torch.long))).softmax(-1)
    assert np.mean(losses[:5]) - np.mean(losses[-20:]) > 0.1
    assert abs(said[0, -1, 0].item() - 1.0) < 0.05


def test_positions_of_its_own_are_refused_by_name():
    with pytest.raises(ValueError, match=r"positions run over 1 \.\. 5; .* 0 \.\. 4"):
        MODELS["GRU"](BATCH.with_(positions=BATCH.positions + 1))


def test_an_attention_of_its_own_is_refused_by_name():
    attend = torch.ones(2, 5, 5, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match="attend is given; a recurrent network"):
        MODELS["GRU"](BATCH.with_(attend=attend))


def test_a_token_out_of_range_is_refused_by_name():
    with pytest.raises(ValueError, match=r"tokens hold 3; with n_tokens=3"):
        MODELS["GRU"](Batch.from_tokens([[3, 0]]))


def test_states_of_another_model_are_refused():
    _, states = MODELS["GRU"].read_on(BATCH)
    with pytest.raises(ValueError, match=r"states have shapes \[\(1, 2, 8\).*must be \[\(2, 2, 8\)"):
        MODELS["LSTM"].read_on(BATCH, states)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "gru"}, "kind='gru' is not one of 'RNN', 'LSTM', 'GRU'"),
        ({"n_layers": 0}, "n_layers=0 must be at least 1"),
        ({"d_model": 0}, "d_model=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_a_config_out_of_range_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        RecurrentConfig(**{"n_tokens": 3, **change})
