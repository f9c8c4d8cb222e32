from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.models.batch import Batch, read_both_ways
from nextlens.models.bridge import Bridged
from nextlens.models.objectives.next_token import next_token, weighted_mean
from nextlens.models.objectives.registers import (
    WithoutRegister,
    WithRegisters,
    grid_offsets,
    interleave_registers,
    uniform_offsets,
)
from nextlens.models.processes import mess3
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.training import train
from nextlens.models.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(n_tokens=4, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=8, seed=1)
WORD = Batch.from_tokens([[0, 1, 2, 0, 2, 1, 0]])


def fixed(batch: Batch, d: int) -> torch.Tensor:
    return torch.full(batch.tokens.shape, d)


#: d -> what each register says, and where it claims to be: x = 0 1 2 0 2 1 | 0, hosts 0 .. 5 - (d - 1).
HAND = {
    1: ([1, 2, 0, 2, 1, 0], [0, 1, 2, 3, 4, 5]),
    2: ([2, 0, 2, 1, 0], [1, 2, 3, 4, 5]),
    3: ([0, 2, 1, 0], [2, 3, 4, 5]),
}


@pytest.mark.parametrize("d", HAND)
def test_a_register_says_the_token_d_ahead_from_the_place_that_would_say_it(d):
    batch = interleave_registers(WORD, register=3, ahead=fixed(WORD, d))
    registers = batch.tokens[0] == 3
    targets, positions = HAND[d]
    assert batch.targets[0, registers].tolist() == targets
    assert batch.positions[0, registers].tolist() == positions
    assert batch.tokens[0, ~registers].tolist() == WORD.tokens[0].tolist()
    assert batch.targets[0, ~registers].tolist() == WORD.targets[0].tolist()
    assert batch.positions[0, ~registers].tolist() == WORD.positions[0].tolist()


def test_a_register_sees_itself_and_what_its_token_sees_and_nobody_sees_it():
    batch = interleave_registers(WORD, register=3, ahead=fixed(WORD, 2))
    is_register = batch.tokens[0] == 3
    own = torch.where(~is_register)[0]
    for t, row in enumerate(batch.attend[0]):
        host = int((own <= t).sum()) - 1
        expected = set(own[: host + 1].tolist()) | ({t} if is_register[t] else set())
        assert set(row.nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("positions", ["learned", "rotary", "none", "relative"])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_tokens_do_not_know_whether_registers_are_there(positions, d):
    model = Transformer(replace(CONFIG, positions=positions))
    batch = interleave_registers(WORD, register=3, ahead=fixed(WORD, d))
    torch.testing.assert_close(model(batch)[0, batch.tokens[0] != 3], model(WORD)[0], atol=1e-5, rtol=1e-5)


def test_rows_that_see_alike_share_one_mask_and_say_what_they_would_with_their_own():
    plain = Batch.from_tokens([[0, 1, 2, 0, 2, 1, 0], [2, 2, 1, 0, 1, 2, 0]])
    batch, model = interleave_registers(plain, register=3, ahead=fixed(plain, 2)), Transformer(CONFIG)
    assert batch.attend.stride(0) == 0
    torch.testing.assert_close(model(batch), model(batch.with_(attend=batch.attend.contiguous())))


def test_a_register_that_says_the_next_token_stands_where_its_token_stands():
    batch = interleave_registers(WORD, register=3, ahead=fixed(WORD, 1))
    assert torch.equal(batch.positions[0, 0::2], batch.positions[0, 1::2])


def test_one_register_is_not_moved_by_what_the_others_read():
    model = Transformer(CONFIG)
    batch = interleave_registers(WORD, register=3, ahead=fixed(WORD, 2))
    place = int(torch.where(batch.tokens[0] == 3)[0][-1])
    with model.watched("embed") as seen:
        logits = model(batch)
    (gradient,) = torch.autograd.grad(logits[0, place].sum(), seen["embed"])
    others = (batch.tokens[0] == 3) & (torch.arange(batch.tokens.shape[1]) != place)
    assert gradient[0, others].abs().max() == 0
    assert gradient[0, place].abs().max() > 0


@given(
    share=st.floats(0.05, 0.95),
    counted=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=12, max_size=12),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_the_reduction_is_convex_in_the_two_means(share, counted, seed):
    weights = torch.tensor(counted).view(2, 6)
    plain = Batch.from_tokens([[0, 1, 2, 0, 2, 1, 0], [2, 2, 1, 0, 1, 2, 0]]).with_(weights=weights)
    batch = interleave_registers(plain, register=3, ahead=3, weight=share, rng=np.random.default_rng(seed))
    registers = batch.tokens == 3
    if not registers.any():
        assert batch is plain
        return
    cost = torch.rand(batch.tokens.shape, generator=torch.Generator().manual_seed(seed))
    own = weighted_mean(cost[~registers].view(2, 6), weights)
    theirs = (cost * batch.weights)[registers].sum() / batch.weights[registers].sum()
    torch.testing.assert_close(weighted_mean(cost, batch.weights), (1 - share) * own + share * theirs)


def test_weight_zero_is_next_token_prediction():
    assert interleave_registers(WORD, register=3, ahead=2, weight=0.0, rng=np.random.default_rng(0)) is WORD


def test_no_register_in_a_prompt_and_none_that_would_say_one():
    weights = torch.tensor([[0.0, 0, 0, 1, 1, 1]])
    batch = interleave_registers(WORD.with_(weights=weights), register=3, ahead=fixed(WORD, 2))
    assert batch.tokens.tolist() == [[0, 1, 2, 0, 3, 2, 3, 1]]
    assert batch.targets[0, batch.tokens[0] == 3].tolist() == [1, 0]


def test_a_prompt_read_both_ways_is_seen_by_the_registers_of_the_answer():
    plain = read_both_ways(WORD.with_(weights=torch.tensor([[0.0, 0, 1, 1, 1, 1]])))
    whole = torch.ones(6, 6, dtype=torch.bool).tril()
    whole[:3, :3] = True
    assert torch.equal(plain.attend[0], whole)
    batch = interleave_registers(plain, register=3, ahead=fixed(WORD, 1))
    at = batch.tokens[0] == 3
    assert torch.equal(batch.attend[0][at][:, ~at], whole[2:])
    model = Transformer(CONFIG)
    torch.testing.assert_close(model(batch)[0, ~at], model(plain)[0], atol=1e-5, rtol=1e-5)
    with model.watched("embed") as seen:
        first = model(plain)[0, 0]
    reached = torch.autograd.grad(first.sum(), seen["embed"])[0][0].abs().amax(-1) > 0
    assert reached.tolist() == [True] * 3 + [False] * 3
    causal = read_both_ways(WORD.with_(weights=torch.zeros(1, 6)))
    assert torch.equal(causal.attend[0], torch.ones(6, 6, dtype=torch.bool).tril())
    with pytest.raises(ValueError, match="attend is given"):
        read_both_ways(plain)


def test_no_register_says_a_token_of_the_next_document_or_of_padding():
    attend = torch.zeros(6, 6, dtype=torch.bool)
    attend[:3, :3] = attend[3:5, 3:5] = True
    attend = attend.tril()
    attend[5, 5] = True
    packed = WORD.with_(attend=attend[None], weights=torch.tensor([[1.0, 1, 1, 1, 1, 0]]))
    batch = interleave_registers(packed, register=3, ahead=fixed(WORD, 2))
    hosts = [int((batch.tokens[0, :t] != 3).sum()) - 1 for t in torch.where(batch.tokens[0] == 3)[0].tolist()]
    assert hosts == [0, 1, 3]


def test_padded_rows_of_unequal_length_keep_their_own_registers():
    weights = torch.tensor([[1.0] * 6, [1.0, 1, 1, 0, 0, 0]])
    plain = Batch.from_tokens([[0, 1, 2, 0, 2, 1, 0], [2, 2, 1, 0, 1, 2, 0]]).with_(weights=weights)
    batch = interleave_registers(plain, register=3, ahead=fixed(plain, 2))
    counted = (batch.tokens == 3) & (batch.weights != 0)
    assert counted.sum(1).tolist() == [5, 2]


def test_offsets_are_drawn_once_a_sequence_or_once_a_register_from_their_whole_range():
    rng = np.random.default_rng(0)
    by_sequence = uniform_offsets(200, 6, 4, rng, fewest=2)
    assert (by_sequence == by_sequence[:, :1]).all()
    assert set(by_sequence.flatten().tolist()) == {2, 3, 4}
    by_register = uniform_offsets(200, 6, 4, rng, each="register")
    assert (by_register != by_register[:, :1]).any()
    assert set(by_register.flatten().tolist()) == {1, 2, 3, 4}


@pytest.mark.parametrize("start", [0, 2])
def test_grid_offsets_point_to_the_lower_right_and_never_round_the_edge(start):
    height, width, reach, time = 3, 4, 2, 17
    offsets = grid_offsets(300, time, np.random.default_rng(0), height=height, width=width, reach=reach, start=start)
    assert set(offsets.flatten().tolist()) == {0, 1, 4, 5}
    for t in range(time):
        row, column = divmod(t - start, width)
        near = {(down, right) for down in range(reach) for right in range(reach)} - {(0, 0)}
        inside = {(down, right) for down, right in near if row + down < height and column + right < width}
        expected = {down * width + right for down, right in inside} if 0 <= t - start < height * width else set()
        assert set(offsets[:, t].tolist()) - {0} == expected
    assert all(len(set(row.tolist()) - {0}) == 1 for row in offsets)


def test_registers_on_a_grid_learn_what_stands_below():
    """Pictures whose rows are all one row, behind a token of their class: the pixel below is the one read last."""
    rng, register = np.random.default_rng(0), 4

    def pictures():
        while True:
            row = rng.integers(0, 3, (16, 1, 3)).repeat(3, axis=1).reshape(16, 9)
            yield Batch.from_tokens(np.concatenate([np.full((16, 1), 3), row], axis=1))

    ahead = partial(grid_offsets, height=3, width=3, reach=2, start=1)
    config = TransformerConfig(n_tokens=5, n_layers=1, n_heads=2, d_model=32, n_ctx=9, seed=1)
    stream = WithRegisters(pictures(), register=register, ahead=ahead, weight=0.5, rng=np.random.default_rng(1))
    *_, last = train(Transformer(config), stream, steps=150, optimiser=partial(torch.optim.Adam, lr=1e-2))
    plain = next(pictures())
    below = interleave_registers(plain, register=register, ahead=grid_below(plain), weight=0.5)
    at = below.tokens == register
    assert torch.equal(below.targets[at].view(16, 6), plain.tokens[:, 1:7])
    cost = next_token(last.model, below)[at]
    assert cost.mean() < 0.2 < np.log(3) / 2


def grid_below(plain: Batch) -> torch.Tensor:
    """Three ahead, behind each of the first six pixels."""
    return torch.tensor([0] + [3] * 6 + [0] * 2).expand(plain.tokens.shape)


def test_a_resumed_stream_gives_the_batches_that_would_have_come():
    def stream():
        source = mess3().batches(4, length=6, rng=np.random.default_rng(0))
        return WithRegisters(source, register=3, ahead=3, rng=np.random.default_rng(1))

    one, other = stream(), stream()
    for _ in islice(one, 3):
        pass
    other.restore(one.state())
    first, second = next(one), next(other)
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.targets, second.targets)


def test_training_with_registers_lowers_both_losses():
    model = Transformer(replace(CONFIG, n_layers=1))
    source = mess3().batches(32, length=9, rng=np.random.default_rng(0))
    registers = WithRegisters(source, register=3, ahead=2, rng=np.random.default_rng(1))
    losses = [step.loss for step in train(model, registers, steps=100)]
    assert np.mean(losses[-20:]) < 1.07 < losses[0]
    batch = Batch.from_tokens(mess3().sample(64, 9, np.random.default_rng(5)))
    plain = WithoutRegister(model).log_probs(batch)
    assert plain.shape[-1] == 3
    torch.testing.assert_close(plain.exp().sum(-1), torch.ones(64, 8))
    assert -plain.gather(-1, batch.targets[..., None]).mean() < 1.05


def test_models_that_cannot_read_registers_refuse_them_by_name():
    batch = interleave_registers(WORD, register=3, ahead=fixed(WORD, 2))
    network = Recurrent(RecurrentConfig(n_tokens=4, d_model=8))
    with pytest.raises(ValueError, match="attend is given; a recurrent network"):
        next_token(network, batch)
    with pytest.raises(ValueError, match=r"positions run over 0 .. 5; a recurrent network"):
        next_token(network, batch.with_(attend=None))


def test_a_context_must_hold_the_longer_sequence_where_it_bounds_the_length():
    batch = interleave_registers(WORD, register=3, ahead=fixed(WORD, 2))
    assert next_token(Transformer(replace(CONFIG, n_ctx=6)), batch).shape == (1, 11)
    with pytest.raises(ValueError, match=r"tokens has sequences of 11; .* n_ctx=5"):
        next_token(Transformer(replace(CONFIG, n_ctx=5)), batch)
    with pytest.raises(ValueError, match=r"tokens has sequences of 11; .* n_ctx=6"):
        next_token(Bridged(Transformer(replace(CONFIG, n_ctx=6)).to_bridge()), batch)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"register": 2}, "register=2 occurs in the batch"),
        ({"ahead": 7}, "ahead=7 must lie between 1 and 6"),
        ({"ahead": 0}, "ahead=0 must lie between 1 and 6"),
        ({"fewest": 0}, "fewest=0 must be at least 1"),
        ({"ahead": 2, "fewest": 3}, "ahead=2 must lie between 3 and 6"),
        ({"rng": None}, "rng is None"),
        ({"weight": 1.5}, "weight=1.5 must lie between 0 and 1"),
        ({"weight": 1.0}, "weight=1 leaves nothing"),
        ({"each": "row"}, "each='row' is not one of"),
        ({"ahead": torch.ones(1, 3, dtype=torch.long)}, "ahead has shape"),
    ],
)
def test_wrong_arguments_are_named(changes, said):
    given_ = {"register": 3, "ahead": 2, "rng": np.random.default_rng(0)} | changes
    with pytest.raises(ValueError, match=said):
        interleave_registers(WORD, **given_)


def test_weights_that_are_all_zero_are_refused_where_they_are_reduced():
    silent = WORD.with_(weights=torch.zeros(1, 6))
    with pytest.raises(ValueError, match="weights are zero"):
        next(iter(train(Transformer(CONFIG), [interleave_registers(silent, register=3, ahead=fixed(WORD, 2))])))
