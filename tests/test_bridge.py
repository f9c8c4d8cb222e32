from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import boot

from nextlens.models.batch import Batch
from nextlens.models.bridge import Bridged
from nextlens.models.transformer import Transformer, TransformerConfig
from tests.strategies import batches

SMALL = TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=8, seed=1)
CONFIGS = {
    "learned": SMALL,
    "rotary": replace(SMALL, positions="rotary", rotary_base=100.0),
    "RMSNorm": replace(SMALL, normalisation="RMSNorm"),
    "no normalisation": replace(SMALL, normalisation="none"),
    "SwiGLU": replace(SMALL, gated=True, activation="silu"),
    "gelu": replace(SMALL, activation="gelu", epsilon=1e-3),
    "gelu_new": replace(SMALL, activation="gelu_new"),
    "attention only": replace(SMALL, d_mlp=0),
    "wide heads": replace(SMALL, n_heads=3, d_head=10),
}


def stirred(config: TransformerConfig) -> Transformer:
    """With every gain and bias away from its first value, so that none can be forgotten."""
    model, generator = Transformer(config), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


MODELS = {name: stirred(config) for name, config in CONFIGS.items()}
BRIDGED = {name: Bridged(model.to_bridge()) for name, model in MODELS.items()}
BATCH = Batch.from_tokens([[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]])
every_config = pytest.mark.parametrize("name", CONFIGS)


# --- there and back


@every_config
def test_weights_and_config_come_back_exactly(name):
    back = Transformer.from_bridge(BRIDGED[name].bridge)
    assert back.config == CONFIGS[name]
    weights = MODELS[name].state_dict()
    assert set(back.state_dict()) == set(weights)
    for key, value in back.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_a_model_in_float64_comes_back_in_float64():
    model = stirred(SMALL).double()
    back = Transformer.from_bridge(model.to_bridge())
    assert torch.equal(back(BATCH), model(BATCH))
    assert back(BATCH).dtype == torch.float64


def test_a_bridge_and_its_transformer_share_no_weight():
    model = stirred(SMALL)
    bridge = model.to_bridge()
    back = Transformer.from_bridge(bridge)
    with torch.no_grad():
        bridge.W_E.zero_()
    assert not torch.equal(model.embed.W_E, torch.zeros_like(model.embed.W_E))
    assert torch.equal(model.embed.W_E, back.embed.W_E)


def test_crossing_touches_no_global_random_state():
    before = torch.get_rng_state()
    Transformer.from_bridge(MODELS["learned"].to_bridge())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_bridge_made_by_transformer_lens_becomes_a_transformer_with_equal_logits():
    bridge = boot(
        TransformerBridgeConfig(
            d_model=16,
            d_head=8,
            n_layers=2,
            n_heads=2,
            n_ctx=8,
            d_vocab=3,
            d_mlp=24,
            act_fn="gelu",
            normalization_type="LN",
            positional_embedding_type="standard",
            seed=3,
        )
    )
    model = Transformer.from_bridge(bridge)
    torch.testing.assert_close(model(BATCH), bridge(BATCH.tokens), atol=1e-5, rtol=0)


# --- the same values


@every_config
@settings(max_examples=4)
@given(batch=batches(3))
def test_logits_are_equal(name, batch):
    torch.testing.assert_close(BRIDGED[name](batch), MODELS[name](batch), atol=1e-5, rtol=0)
    torch.testing.assert_close(BRIDGED[name].log_probs(batch), MODELS[name].log_probs(batch), atol=1e-5, rtol=0)


@every_config
def test_shared_sites_hold_equal_values_at_all_positions(name):
    model, bridged = MODELS[name], BRIDGED[name]
    shared = [site for site in bridged.sites if site in model.sites]
    assert len(shared) == len(bridged.sites)
    with model.watched(*shared) as ours, bridged.watched(*shared) as theirs:
        model(BATCH)
        bridged(BATCH)
    for site in shared:
        torch.testing.assert_close(theirs[site].expand_as(ours[site]), ours[site], atol=1e-5, rtol=0, msg=site)


@every_config
def test_what_a_bridge_lacks_of_our_sites_is_stated(name):
    missing = {site.rpartition(".")[2] for site in set(MODELS[name].sites) - set(BRIDGED[name].sites)}
    assert missing <= {"hook_scale", "hook_attn_scores", "hook_rot_q", "hook_rot_k", "hook_pre_linear"}


@every_config
def test_an_equal_edit_has_an_equal_effect(name):
    model, bridged = MODELS[name], BRIDGED[name]
    editable = [site for site in bridged.sites if not site.endswith("resid_mid")]
    assert len(editable) > 10
    for site in editable:
        with model.edited(site, halved), bridged.edited(site, halved):
            ours, theirs = model(BATCH), bridged(BATCH)
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0, msg=site)


def halved(value: torch.Tensor) -> torch.Tensor:
    return value * torch.linspace(0.5, 1, value.shape[-1])


@pytest.mark.parametrize("name", ["learned", "rotary"])
@settings(max_examples=10)
@given(batch=batches(3), seed=st.integers(0, 2**31))
def test_masks_and_positions_mean_the_same(name, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    attend = (torch.rand(2, 6, 6, generator=generator) < 0.5).tril() | torch.eye(6, dtype=torch.bool)
    masked = batch.with_(attend=attend)
    torch.testing.assert_close(BRIDGED[name](masked), MODELS[name](masked), atol=1e-5, rtol=0)
    moved = batch.with_(positions=torch.randint(8, (2, 6), generator=generator))
    torch.testing.assert_close(BRIDGED[name](moved), MODELS[name](moved), atol=1e-5, rtol=0)


def test_a_prefix_tree_changes_nothing():
    shared = Batch.from_tokens([[0, 1, 2, 0, 1], [0, 1, 0, 1, 0]], tree=True)
    torch.testing.assert_close(
        BRIDGED["learned"](shared), BRIDGED["learned"](shared.with_(tree=None)), atol=1e-6, rtol=0
    )


def test_gradients_reach_the_weights_of_the_bridge():
    bridged = Bridged(MODELS["learned"].to_bridge())
    bridged(BATCH).sum().backward()
    assert bridged.bridge.embed.weight.grad.abs().sum() > 0


# --- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "relative"}, "positions='relative' is not one of 'learned', 'rotary'"),
        ({"positions": "none"}, "positions='none' is not one of 'learned', 'rotary'"),
        ({"post_normalisation": True}, "post_normalisation=True has no counterpart"),
        ({"n_layers": 0}, "n_layers=0 has no counterpart"),
    ],
)
def test_a_transformer_that_no_bridge_can_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Transformer(replace(SMALL, **changes)).to_bridge()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_key_value_heads": 1}, "bridge uses grouped keys"),
        ({"attention_dir": "bidirectional"}, "bridge uses .* bidirectional attention"),
        ({"output_logits_soft_cap": 3.0}, "bridge uses .* a soft cap"),
        ({"architecture": "GPT2LMHeadModel"}, "bridge has architecture 'GPT2LMHeadModel'; only native bridges"),
    ],
)
def test_a_bridge_that_no_transformer_can_be_is_refused(changes, message, monkeypatch):
    bridge = MODELS["learned"].to_bridge()
    for name, value in changes.items():
        monkeypatch.setattr(bridge.cfg, name, value)
    with pytest.raises(ValueError, match=message):
        Transformer.from_bridge(bridge)


def test_a_bridge_with_an_unembedding_bias_is_refused():
    bridge = MODELS["learned"].to_bridge()
    with torch.no_grad():
        bridge.unembed.bias.fill_(0.5)
    with pytest.raises(ValueError, match="unembedding bias"):
        Transformer.from_bridge(bridge)


def test_looking_ahead_which_a_bridge_would_ignore_is_refused():
    attend = torch.ones(2, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="attend lets a position look ahead; this bridge is causal"):
        BRIDGED["learned"](BATCH.with_(attend=attend))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (Batch.from_tokens([[0] * 10]), "tokens has sequences of 9; .* n_ctx=8"),
        (Batch.from_tokens([[0, 5, 0]]), r"tokens hold 5; with n_tokens=3 they must lie in 0 \.\. 2"),
        (BATCH.with_(positions=BATCH.positions + 5), "positions hold 8; with n_ctx=8"),
    ],
    ids=["too long", "token", "position"],
)
def test_a_batch_that_does_not_fit_is_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        BRIDGED["learned"](batch)
