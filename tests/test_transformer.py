from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nextlens.models.attention import causal
from nextlens.models.batch import Batch
from nextlens.models.objectives.next_token import next_token
from nextlens.models.prefixes import PrefixTree
from nextlens.models.transformer import Transformer, TransformerConfig, paper_mess3, paper_rrxor
from tests.strategies import batches

CONTEXT = 8
#: Rotary angles are float32 in every model.
ANGLES = 1e-6
SMALL = TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=CONTEXT, seed=1)
CONFIGS = {
    "learned": SMALL,
    "rotary": replace(SMALL, positions="rotary"),
    "no positions": replace(SMALL, positions="none"),
    "relative": replace(SMALL, positions="relative"),
    "grid": replace(SMALL, positions="grid", n_ctx=9),
    "RMSNorm": replace(SMALL, normalisation="RMSNorm", positions="rotary"),
    "no normalisation": replace(SMALL, normalisation="none"),
    "pre and post": replace(SMALL, post_normalisation=True),
    "pre and post, RMSNorm, relative": replace(
        SMALL, post_normalisation=True, normalisation="RMSNorm", positions="relative"
    ),
    "GEGLU": replace(SMALL, activation="gelu", gated=True),
    "SwiGLU": replace(SMALL, activation="silu", gated=True, normalisation="RMSNorm", positions="rotary"),
    "gelu_new": replace(SMALL, activation="gelu_new"),
    "attention only": replace(SMALL, d_mlp=0),
    "attention only, pre and post": replace(SMALL, d_mlp=0, post_normalisation=True, positions="relative"),
    "wide heads": replace(SMALL, n_heads=3, d_head=10),
    "no layers": replace(SMALL, n_layers=0),
}


def stirred(config: TransformerConfig) -> Transformer:
    """In float64, with every gain and bias away from its first value, so that none can be forgotten."""
    model, generator = Transformer(config).double(), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


MODELS = {name: stirred(config) for name, config in CONFIGS.items()}
every_config = pytest.mark.parametrize("name", CONFIGS)
seeds = st.integers(0, 2**32 - 1)


def logits_and_gradients(model: Transformer, batch: Batch) -> list[Tensor]:
    for parameter in model.parameters():
        parameter.grad = None
    logits = model(batch)
    (next_token(model, batch) * batch.weights).sum().backward()
    return [logits.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters())]


def assert_both_paths_agree(model: Transformer, batch: Batch) -> None:
    fused = logits_and_gradients(model, batch)
    with model.watched("hook_embed") as seen:
        named = logits_and_gradients(model, batch)
    assert seen, "the named path was not taken"
    for one, other in zip(fused, named, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


# --- the fused path is the named path


@every_config
@settings(max_examples=5)
@given(batch=batches(3))
def test_fused_and_named_paths_agree_in_logits_and_gradients(name, batch):
    assert_both_paths_agree(MODELS[name], batch)


@every_config
@settings(max_examples=5)
@given(batch=batches(3, n=5, time=4))
def test_fused_path_along_a_prefix_tree_agrees_with_the_named_path(name, batch):
    assert_both_paths_agree(MODELS[name], batch.with_(tree=PrefixTree.of(batch.tokens)))


@every_config
@settings(max_examples=5)
@given(batch=batches(3), seed=seeds, ahead=st.booleans())
def test_fused_and_named_paths_agree_under_any_mask_and_positions(name, batch, seed, ahead):
    generator = torch.Generator().manual_seed(seed % 2**31)
    n, time = batch.tokens.shape
    attend = torch.rand(n, time, time, generator=generator) < 0.5
    attend |= torch.eye(time, dtype=torch.bool)
    attend = attend if ahead else attend.tril()
    positions = torch.randint(CONTEXT, (n, time), generator=generator)
    assert_both_paths_agree(MODELS[name], batch.with_(attend=attend))
    assert_both_paths_agree(MODELS[name], batch.with_(positions=positions))
    assert_both_paths_agree(MODELS[name], batch.with_(positions=positions, attend=attend))


@every_config
@settings(max_examples=5)
@given(batch=batches(3))
def test_a_causal_mask_changes_nothing(name, batch):
    attend = causal(6, batch.device).expand(2, 6, 6)
    torch.testing.assert_close(MODELS[name](batch.with_(attend=attend)), MODELS[name](batch), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"no layers"}))
def test_what_a_mask_hides_changes_nothing_and_what_it_shows_does(name):
    tokens = torch.tensor([[0, 1, 2, 0, 1]])
    changed = tokens.clone()
    changed[0, 1] = 0
    attend = torch.ones(1, 4, 4, dtype=torch.bool)
    attend[:, :, 1] = torch.tensor([False, True, False, False])
    one, other = (MODELS[name](Batch.from_tokens(each).with_(attend=attend)) for each in (tokens, changed))
    torch.testing.assert_close(one[:, [0, 2, 3]], other[:, [0, 2, 3]], atol=1e-12, rtol=0)
    assert (one[:, 1] - other[:, 1]).abs().max() > 1e-3
    ahead = attend.clone()
    ahead[:, 0, 1] = True
    one, other = (MODELS[name](Batch.from_tokens(each).with_(attend=ahead)) for each in (tokens, changed))
    assert (one[:, 0] - other[:, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("hook", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize("part", ["blocks.1.attn.hook_z", "blocks.0.mlp", "ln_final", "embed"])
def test_a_hook_of_pytorch_on_any_part_forces_the_named_path(hook, part, monkeypatch):
    model = Transformer(SMALL)
    monkeypatch.setattr(model, "_fused", lambda *_: pytest.fail("the fused path was taken"))
    handle = getattr(model.get_submodule(part), f"register_{hook}_hook")(lambda *_: None)
    model(Batch.from_tokens([[0, 1, 2]]))
    handle.remove()
    monkeypatch.undo()
    monkeypatch.setattr(model, "_named", lambda *_: pytest.fail("the named path was taken"))
    model(Batch.from_tokens([[0, 1, 2]]))


def test_a_hook_on_an_inner_module_sees_what_passes_it():
    model, seen = Transformer(SMALL), []
    model.blocks[0].mlp.register_forward_hook(lambda module, given, result: seen.append(result))
    with model.watched("blocks.0.mlp_out") as watched:
        model(Batch.from_tokens([[0, 1, 2]]))
    assert torch.equal(seen[0], watched["blocks.0.mlp_out"])


# --- positions


@every_config
@settings(max_examples=5)
@given(batch=batches(3))
def test_explicit_positions_from_zero_are_the_default(name, batch):
    explicit = batch.with_(positions=torch.arange(6).repeat(2, 1))
    for one, other in zip(
        logits_and_gradients(MODELS[name], explicit), logits_and_gradients(MODELS[name], batch), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@settings(max_examples=10)
@given(batch=batches(3), place=st.integers(0, CONTEXT - 1))
def test_rotary_positions_that_are_all_equal_are_no_positions(batch, place):
    plain = Transformer(CONFIGS["no positions"]).double()
    plain.load_state_dict(MODELS["rotary"].state_dict())
    together = batch.with_(positions=torch.full((2, 6), place))
    torch.testing.assert_close(MODELS["rotary"](together), plain(batch), atol=ANGLES, rtol=0)


@pytest.mark.parametrize("name", ["rotary", "relative"])
@settings(max_examples=5)
@given(batch=batches(3))
def test_rotary_and_relative_positions_know_only_differences(name, batch):
    shifted = batch.with_(positions=batch.positions + CONTEXT - 6)
    atol = ANGLES if name == "rotary" else 1e-12
    torch.testing.assert_close(MODELS[name](shifted), MODELS[name](batch), atol=atol, rtol=0)


@pytest.mark.parametrize("name", ["learned", "rotary", "relative", "grid"])
def test_positions_tell_the_order_of_tokens_apart(name):
    one, other = (MODELS[name](Batch.from_tokens([[*start, 2, 2]]))[0, 2] for start in ([0, 1], [1, 0]))
    assert (one - other).abs().max() > 1e-3


def test_one_layer_without_positions_reads_a_bag_of_tokens():
    model = stirred(replace(CONFIGS["no positions"], n_layers=1))
    one, other = (model(Batch.from_tokens([[*start, 2, 2]]))[0, 2] for start in ([0, 1], [1, 0]))
    torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_learned_positions_are_read_from_their_table():
    batch = Batch.from_tokens([[0, 0, 0]]).with_(positions=torch.tensor([[5, 2]]))
    with MODELS["learned"].watched("hook_pos_embed") as seen:
        MODELS["learned"](batch)
    assert torch.equal(seen["hook_pos_embed"][0], MODELS["learned"].pos_embed.W_pos[[5, 2]])


def test_on_a_grid_a_place_has_its_row_and_its_column_from_one_table():
    model, batch = MODELS["grid"], Batch.from_tokens([[0, 0, 0]]).with_(positions=torch.tensor([[5, 2]]))
    with model.watched("hook_pos_embed") as seen:
        model(batch)
    rows = model.pos_embed.W_side
    assert torch.equal(seen["hook_pos_embed"][0], torch.stack([rows[1] + rows[2], rows[0] + rows[2]]))
    assert {tuple(p.shape) for name, p in model.named_parameters() if "pos_embed" in name} == {(3, 16)}


def test_rotary_turns_each_pair_by_the_angle_of_its_position():
    config = replace(SMALL, positions="rotary", n_heads=1, d_head=6, rotary_base=100.0)
    attention = Transformer(config).blocks[0].attn
    x = torch.randn(1, 3, 1, 6, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[0, 3, 7]])
    turned = attention.rotate(x, places)
    for t, place in enumerate(places[0].tolist()):
        for pair in range(3):
            spin = np.exp(1j * place / 100.0 ** (2 * pair / 6))
            even, odd = x[0, t, 0, 2 * pair : 2 * pair + 2].tolist()
            expected = (even + 1j * odd) * spin
            assert turned[0, t, 0, 2 * pair].item() == pytest.approx(expected.real, abs=1e-6)
            assert turned[0, t, 0, 2 * pair + 1].item() == pytest.approx(expected.imag, abs=1e-6)


@settings(max_examples=5)
@given(batch=batches(3), seed=seeds)
def test_relative_attention_is_its_formula_written_as_loops(batch, seed):
    model = MODELS["relative"]
    positions = torch.randint(CONTEXT, (2, 6), generator=torch.Generator().manual_seed(seed % 2**31))
    batch = batch.with_(positions=positions)
    part = model.blocks[0].attn
    names = [f"blocks.0.attn.{name}" for name in ("q", "k", "v", "z")]
    with torch.no_grad(), model.watched(*names) as seen:
        model(batch)
    q, k, v, z = (seen[name] for name in names)
    reach, d = CONTEXT - 1, q.shape[-1]
    for b, t, h in np.ndindex(2, 6, 2):
        offset = [int(positions[b, s] - positions[b, t]) + reach for s in range(t + 1)]
        score = [(q[b, t, h] @ k[b, s, h] + q[b, t, h] @ part.R_K[offset[s]]) / math.sqrt(d) for s in range(t + 1)]
        pattern = torch.stack(score).softmax(0)
        expected = sum(pattern[s] * (v[b, s, h] + part.R_V[offset[s]]) for s in range(t + 1))
        torch.testing.assert_close(z[b, t, h], expected, atol=1e-12, rtol=0)


# --- weights


def test_the_seed_alone_decides_the_weights_and_touches_no_global_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = Transformer(SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    second, other = Transformer(SMALL), Transformer(replace(SMALL, seed=2))
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name))
        if name.rpartition(".")[2].startswith("W_"):
            assert not torch.equal(parameter, other.get_parameter(name))


@every_config
def test_first_weights_have_the_stated_spread_and_first_biases_are_zero(name):
    model = Transformer(replace(CONFIGS[name], d_model=48, d_head=16))
    for path, parameter in model.named_parameters():
        last = path.rpartition(".")[2]
        if last.startswith(("W_", "R_")):
            assert parameter.std().item() == pytest.approx(
                0.8 / math.sqrt(48), rel=6 / math.sqrt(2 * parameter.numel())
            )
        else:
            assert (parameter == float(last == "w")).all()


def test_an_untrained_twin_has_the_first_weights_again():
    model = Transformer(SMALL).double()
    first = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.embed.W_E += 1
    twin, other = model.untrained(), model.untrained(seed=5)
    assert twin.embed.W_E.dtype == torch.float64
    for name, value in twin.state_dict().items():
        assert torch.equal(value, first[name])
    assert other.config == replace(SMALL, seed=5)
    assert not torch.equal(other.embed.W_E, twin.embed.W_E)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(paper_mess3(), 143_072), (paper_rrxor(), 663_296), (replace(SMALL, n_layers=0), 3 * 16 + 8 * 16 + 32 + 16 * 3)],
)
def test_number_of_parameters(config, parameters):
    assert sum(parameter.numel() for parameter in Transformer(config).parameters()) == parameters


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_speaks_alike_and_has_hooks_of_its_own(copied):
    model, batch = Transformer(SMALL), Batch.from_tokens([[0, 1, 2]])
    twin = copied(model)
    assert torch.equal(twin(batch), model(batch))
    with twin.watched("blocks.1.resid_post") as seen:
        model(batch)
        assert not seen
        twin(batch)
        assert seen


# --- TransformerLens's own tools


def test_run_with_cache_is_what_passes_every_site():
    model, batch = MODELS["learned"], Batch.from_tokens([[0, 1, 2, 0], [1, 1, 0, 2]])
    with model.watched(*model.sites) as seen:
        logits = model(batch)
    cached, cache = model.run_with_cache(batch)
    assert torch.equal(cached, logits)
    assert set(cache) == set(model.sites)
    for site in model.sites:
        assert torch.equal(cache[site], seen[site]), site


def test_run_with_hooks_replaces_what_passes():
    model, batch = MODELS["learned"], Batch.from_tokens([[0, 1, 2, 0]])
    zeroed = model.run_with_hooks(batch, fwd_hooks=[("ln_final.hook_normalized", lambda value, hook: value * 0)])
    assert (zeroed == 0).all()
    assert (model(batch) != 0).any()


# --- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_tokens": 0}, "n_tokens=0 must be at least 1"),
        ({"n_heads": 0}, "n_heads=0 must be at least 1"),
        ({"d_model": -1}, "d_model=-1 must be at least 1"),
        ({"n_ctx": 0}, "n_ctx=0 must be at least 1"),
        ({"n_layers": -1}, "n_layers=-1 must be at least 0"),
        ({"d_mlp": -1}, "d_mlp=-1 must be at least 0"),
        ({"d_head": 0}, "d_head=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"d_model": 15, "d_head": None}, "d_model=15 is not a multiple of n_heads=2; give d_head"),
        ({"d_head": 5, "positions": "rotary"}, "d_head=5 is odd; rotary positions"),
        ({"activation": "rellu"}, "activation='rellu' is not one of .*; did you mean 'relu'"),
        ({"normalisation": "LayerNrom"}, "normalisation='LayerNrom' is not one of .*; did you mean 'LayerNorm'"),
        ({"positions": "relativ"}, "positions='relativ' is not one of .*; did you mean 'relative'"),
        ({"positions": "grid"}, "n_ctx=8 is no square; a grid"),
        ({"epsilon": -1.0}, "epsilon=-1.0 must be finite and above 0"),
        ({"epsilon": math.nan}, "epsilon=nan must be finite and above 0"),
        ({"rotary_base": 0.0}, "rotary_base=0.0 must be finite and above 0"),
        ({"rotary_base": math.inf}, "rotary_base=inf must be finite and above 0"),
    ],
)
def test_a_config_out_of_range_is_refused_by_name_and_value(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (Batch.from_tokens([[0] * (CONTEXT + 2)]), f"sequences of {CONTEXT + 1}; .* n_ctx={CONTEXT}"),
        (Batch.from_tokens([[0, 3, 1]]), r"tokens hold 3; with n_tokens=3 they must lie in 0 \.\. 2"),
        (
            Batch.from_tokens([[0, 1, 1]]).with_(positions=torch.tensor([[0, CONTEXT]])),
            rf"positions hold {CONTEXT}; with n_ctx={CONTEXT} they must lie in 0 \.\. {CONTEXT - 1}",
        ),
        (Batch.from_tokens([[0, 1, 1]]).with_(positions=torch.tensor([[-1, 0]])), "positions hold -1"),
    ],
    ids=["too long", "token", "position", "negative position"],
)
def test_a_batch_that_does_not_fit_is_refused_on_both_paths(batch, message, hooked):
    model = Transformer(SMALL)
    with pytest.raises(ValueError, match=message), model.watched(*["hook_embed"][: int(hooked)]):
        model(batch)


def test_a_batch_as_long_as_the_context_is_read():
    assert Transformer(SMALL)(Batch.from_tokens([[0] * (CONTEXT + 1)])).shape == (1, CONTEXT, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_model_on_another_device_reads_and_learns_there():
    model = Transformer(SMALL).to("cuda")
    batch = Batch.from_tokens([[0, 1, 2, 0]], tree=True, device="cuda")
    next_token(model, batch).sum().backward()
    assert model.embed.W_E.grad.device.type == "cuda"
    expected = Transformer(SMALL)(Batch.from_tokens([[0, 1, 2, 0]]))
    torch.testing.assert_close(model(batch).cpu(), expected, atol=1e-4, rtol=1e-4)
