from __future__ import annotations

import math
from contextlib import ExitStack

import jaxtyping
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from nextlens.models.batch import Batch
from nextlens.models.bridge import Bridged
from nextlens.models.checkpoints import load
from nextlens.models.objectives.next_token import next_token
from nextlens.models.processes import golden_mean, mess3, rrxor
from nextlens.models.recording import beliefs, labelled, record, surprisal
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.transformer import Transformer, TransformerConfig

MODEL = Transformer(TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=8, seed=1))
ROTARY = Transformer(TransformerConfig(n_tokens=3, n_heads=2, d_model=16, d_mlp=24, n_ctx=8, positions="rotary"))
GATED = Transformer(TransformerConfig(n_tokens=3, d_model=16, d_mlp=24, n_ctx=8, gated=True, activation="silu"))
BATCH = Batch.from_tokens(mess3().sample(7, 6, np.random.default_rng(0)))
LAYOUTS = {
    "hook_embed": {"feature": 16},
    "hook_pos_embed": {"feature": 16},
    "blocks.0.ln1.hook_scale": {"scale": 1},
    "blocks.0.ln1.hook_normalized": {"feature": 16},
    "blocks.0.attn.hook_q": {"head": 2, "head_feature": 8},
    "blocks.1.attn.hook_z": {"head": 2, "head_feature": 8},
    "blocks.0.mlp.hook_pre": {"neuron": 24},
    "blocks.0.mlp.hook_post": {"neuron": 24},
    "blocks.1.hook_resid_mid": {"feature": 16},
    "blocks.1.hook_resid_post": {"feature": 16},
    "ln_final.hook_normalized": {"feature": 16},
}
PATTERNS = ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_attn_scores"]
EVERY_SITE = [*LAYOUTS, *PATTERNS]


# --- activations


def test_recorded_values_are_those_of_run_with_cache():
    found = record(MODEL, BATCH, MODEL.sites, chunk=3)
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(BATCH)
    assert tuple(found) == MODEL.sites
    for site in MODEL.sites:
        cached = cache[site].expand(7, *cache[site].shape[1:])
        np.testing.assert_allclose(found[site].values, cached.numpy(), atol=1e-6, err_msg=site)


def test_a_bridge_is_recorded_as_its_transformer_is():
    bridged = Bridged(MODEL.to_bridge())
    xr.testing.assert_allclose(
        record(bridged, BATCH, bridged.sites), record(MODEL, BATCH, bridged.sites), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("site", LAYOUTS)
def test_a_site_is_laid_out_by_sequence_and_position_and_then_its_own_parts(site):
    assert dict(record(MODEL, BATCH, [site])[site].sizes) == {"sequence": 7, "position": 5, **LAYOUTS[site]}


@pytest.mark.parametrize("site", PATTERNS)
def test_a_pattern_is_laid_out_by_who_looks_and_what_is_looked_at(site):
    found = record(MODEL, BATCH, [site])[site]
    assert dict(found.sizes) == {"sequence": 7, "head": 2, "position": 5, "looked_at": 5}
    ahead = np.triu(np.ones((5, 5), bool), 1)
    unseen = 0 if site.endswith("pattern") else -np.inf
    assert (found.values[..., ahead] == unseen).all()


class Widening(nn.Module):
    """Sites of two widths, and one without positions."""

    def __init__(self):
        super().__init__()
        self.embed, self.widen, self.said = nn.Embedding(3, 4), nn.Linear(4, 6), nn.Linear(6, 3)
        self.whole = nn.Identity()

    def forward(self, tokens):
        wide = self.widen(self.embed(tokens))
        self.whole(wide[:, 0])
        return self.said(wide)


@pytest.mark.parametrize("kept", ["in memory", "on disk"])
@pytest.mark.parametrize("order", [1, -1])
def test_axes_of_one_name_and_several_sizes_are_told_apart(kept, order, tmp_path):
    shape = {"vocab_size": 3, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1}
    grouped = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2))
    cases = {
        load(grouped): {
            "blocks.0.attn.q": ("head", "head_feature"),
            "blocks.0.attn.k": ("head_2", "head_feature"),
            "blocks.0.attn.v": ("head_2", "head_feature"),
            "blocks.0.attn.z": ("head", "head_feature"),
        },
        load(Widening(), sites={"embed": "embed", "wide": "widen"}): {"embed": ("feature_4",), "wide": ("feature",)},
    }
    for i, (model, expected) in enumerate(cases.items()):
        sites = list(expected)[::order]
        found = record(model, BATCH, sites, path=None if kept == "in memory" else tmp_path / str(i))
        assert {site: found[site].dims[2:] for site in sites} == expected
        with model.watched(*sites) as seen, torch.no_grad():
            model(BATCH)
        for site in sites:
            np.testing.assert_allclose(found[site].values, seen[site].numpy(), atol=1e-6)


def test_a_site_without_positions_is_refused():
    model = load(Widening(), sites={"whole": "whole"})
    message = r"site='whole' gives values of shape \(7, 6\) for 7 sequences of 5; .*\(sequence, position, feature\)"
    with pytest.raises(ValueError, match=message):
        record(model, BATCH, ["whole"])


@pytest.mark.parametrize("model", [ROTARY, GATED])
def test_every_site_has_a_layout_that_names_its_parts(model):
    found = record(model, BATCH, model.sites)
    assert found.sizes["feature"] == 16
    assert found.sizes["neuron"] == 24
    for site, value in found.items():
        assert value.dims[0] == "sequence", site


@settings(max_examples=8)
@given(st.integers(1, 9))
def test_chunks_of_any_size_give_the_same(chunk):
    np_equal = record(MODEL, BATCH, EVERY_SITE, chunk=chunk)
    xr.testing.assert_allclose(np_equal, record(MODEL, BATCH, EVERY_SITE), atol=1e-6, rtol=0)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), chunk=st.sampled_from([2, 3, 256]))
def test_with_where_the_recording_is_the_full_one_thinned(seed, chunk):
    where = np.random.default_rng(seed).random((7, 5)) < 0.3
    where[3, 2] = True
    full, thinned = record(MODEL, BATCH, list(LAYOUTS)), record(MODEL, BATCH, list(LAYOUTS), where=where, chunk=chunk)
    for site in LAYOUTS:
        assert thinned[site].dims == ("sample", *LAYOUTS[site])
        np.testing.assert_allclose(thinned[site].values, full[site].values[where], atol=1e-6)
    for name in ("token", "prefix"):
        assert np.array_equal(thinned[name].values, full[name].values[where])
    assert np.array_equal(np.c_[thinned["sequence"], thinned["position"]], np.argwhere(where))


def test_short_names_are_kept_as_given():
    found = record(MODEL, BATCH, ["blocks.0.resid_post", "blocks.0.hook_resid_post"])
    assert list(found) == ["blocks.0.resid_post", "blocks.0.hook_resid_post"]
    assert found["blocks.0.resid_post"].equals(found["blocks.0.hook_resid_post"])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_labels_say_what_was_read_where(seed):
    batch = Batch.from_tokens(np.random.default_rng(seed).integers(2, size=(4, 5)))
    found = record(MODEL, batch, ["embed"])
    assert found["sequence"].values.tolist() == [0, 1, 2, 3]
    assert found["position"].values.tolist() == [0, 1, 2, 3]
    assert np.array_equal(found["token"], batch.tokens)
    prefix = {}
    for b, t in np.ndindex(4, 4):
        read = tuple(batch.tokens[b, : t + 1].tolist())
        assert prefix.setdefault(read, int(found["prefix"][b, t])) == int(found["prefix"][b, t])
    assert len(set(prefix.values())) == len(prefix)


def test_equal_prefixes_have_equal_rows_under_one_label():
    found = record(MODEL, BATCH, ["ln_final.hook_normalized"]).stack(row=("sequence", "position"))
    for _, rows in found["ln_final.hook_normalized"].groupby("prefix"):
        np.testing.assert_allclose(rows - rows.isel(row=0), 0, atol=1e-5)


def test_a_batch_with_its_tree_is_recorded_alike():
    shared = Batch.from_tokens(torch.cat([BATCH.tokens, BATCH.targets[:, -1:]], dim=1), tree=True)
    xr.testing.assert_allclose(record(MODEL, shared, EVERY_SITE), record(MODEL, BATCH, EVERY_SITE))


def test_a_recorded_value_is_a_copy_of_its_own():
    found = record(MODEL, BATCH, ["blocks.0.mlp.hook_post", "embed"])
    again = record(MODEL, BATCH, ["embed"])
    found["embed"].values[:] = 7
    assert not (again["embed"].values == 7).any()


def test_recording_leaves_the_model_as_it_was():
    model = Transformer(MODEL.config).train()
    record(model, BATCH, model.sites)
    assert model.training
    assert not any(part._forward_hooks or part._backward_hooks for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="tokens hold 3"):
        record(model, BATCH.with_(tokens=BATCH.tokens + 1), ["embed"])
    assert not any(part._forward_hooks for part in model.modules())


HOOKED = {
    "transformer": lambda: Transformer(MODEL.config),
    "recurrent": lambda: Recurrent(RecurrentConfig(n_tokens=3, kind="LSTM", d_model=8)),
    "bridge": lambda: Bridged(MODEL.to_bridge()),
}
every_hooked = pytest.mark.parametrize("make", HOOKED.values(), ids=HOOKED)


def hooks_of(model: torch.nn.Module) -> list[str]:
    hooked = [name for name, part in model.named_modules() if part._forward_hooks or part._backward_hooks]
    return hooked + [name for name, part in model.named_modules() if getattr(part, "fwd_hooks", None)]


@every_hooked
def test_an_edit_that_raises_leaves_no_hook_and_the_model_as_it_was(make):
    model = make()
    before = model(BATCH)
    already = hooks_of(model)

    def broken(value):
        raise ZeroDivisionError

    def halved(value):
        return value / 2

    for site in ("blocks.0.resid_post", "blocks.1.resid_post"):
        with pytest.raises(ZeroDivisionError):  # noqa: SIM117
            with model.watched("embed"), model.edited("embed", halved), model.edited(site, broken):
                model(BATCH)
        assert hooks_of(model) == already
    with pytest.raises(ZeroDivisionError), model.edited("embed", broken):
        record(model, BATCH, ["blocks.1.resid_post"])
    assert hooks_of(model) == already
    assert torch.equal(model(BATCH), before)


@every_hooked
def test_an_edit_sees_the_batch_and_nothing_else(make):
    model, seen = make(), []
    with model.edited("blocks.0.resid_post", lambda value: seen.append(value.shape)):
        model(BATCH)
        model(BATCH[:2])
    assert [shape[:2] for shape in seen] == [(7, 5), (2, 5)]


@every_hooked
@pytest.mark.parametrize("n_sites", [1, 3])
def test_the_model_runs_no_further_than_the_last_site(make, n_sites):
    model = make()
    sites = model.sites[:n_sites]
    expected, reached = record(model, BATCH, model.sites), []
    with ExitStack() as open_:
        for site in model.sites:
            if not site.endswith("resid_mid"):
                open_.enter_context(model.edited(site, lambda value, site=site: reached.append(site)))
        found = record(model, BATCH, sites[::-1])
    xr.testing.assert_identical(
        found, expected[list(sites[::-1])].drop_vars(set(expected.dims) - set(found.dims), errors="ignore")
    )
    assert set(reached) == set(sites)


def test_sites_told_in_another_order_than_they_are_computed_are_recorded_all_the_same():
    class Backward(Transformer):
        sites = property(lambda self: MODEL.sites[::-1])

    wanted = ["embed", "blocks.1.resid_post"]
    xr.testing.assert_identical(record(Backward(MODEL.config), BATCH, wanted), record(MODEL, BATCH, wanted))


def test_a_recording_is_made_through_what_is_edited():
    with MODEL.edited("embed", torch.zeros_like):
        assert not record(MODEL, BATCH, ["embed"])["embed"].any()


def test_recording_prints_nothing_unless_progress_is_wanted(capsys):
    record(MODEL, BATCH, ["embed"], chunk=2)
    assert capsys.readouterr() == ("", "")
    record(MODEL, BATCH, ["embed"], chunk=2, progress=True)
    assert "record" in capsys.readouterr().err


# --- refusals


@pytest.mark.parametrize(
    ("sites", "how", "message"),
    [
        (["block.0.resid_post"], {}, r"site='block\.0\.resid_post' .*did you mean 'blocks\.0\.hook_resid_post'"),
        ([], {}, r"sites is empty; name at least one of model\.sites"),
        (["embed"], {"chunk": 0}, "chunk=0 must be at least 1"),
        (["embed"], {"where": np.zeros((7, 5), bool)}, "where keeps no position"),
        (["blocks.0.attn.pattern"], {"where": np.ones((7, 5), bool)}, r"site='blocks\.0\.attn\.pattern' .*without wh"),
    ],
)
def test_a_recording_that_cannot_be_made_is_refused(sites, how, message):
    with pytest.raises(ValueError, match=message):
        record(MODEL, BATCH, sites, **how)


@pytest.mark.parametrize("where", [np.ones((7, 4), bool), np.ones((7, 5), int), np.ones(7, bool)])
def test_a_mask_of_another_kind_is_refused(where, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(ValueError, match=r"where is .* of shape .*; it must be boolean of \(7, 5\)"):
        record(MODEL, BATCH, ["embed"], where=where)


def test_a_site_that_is_never_reached_is_refused():
    class Idle(Transformer):
        def forward(self, batch):
            return torch.zeros(*batch.tokens.shape, 3)

    with pytest.raises(ValueError, match="site='embed' was not reached when the model ran"):
        record(Idle(MODEL.config), BATCH, ["embed"])


# --- surprisal


def test_surprisal_is_cross_entropy_in_bits():
    found = surprisal(MODEL, BATCH, chunk=3)
    with torch.no_grad():
        expected = next_token(MODEL, BATCH).numpy() / np.log(2)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert found.dims == ("sequence", "position")
    assert found.attrs["units"] == "bit"
    assert found.values.dtype == np.float64


@pytest.mark.parametrize("process", [mess3(), rrxor(), golden_mean()], ids=lambda process: process.name)
def test_surprisal_of_a_process_is_its_log_likelihood(process):
    word = process.sample(20, 8, np.random.default_rng(0))
    found = surprisal(process, Batch.from_tokens(word), chunk=7)
    np.testing.assert_allclose(found.values, -process.log_likelihood(word)[:, 1:] / np.log(2), atol=1e-12)


def test_what_a_kernel_forbids_is_infinitely_surprising():
    assert surprisal(golden_mean(), Batch.from_tokens([[0, 1, 1]])).values.tolist() == [[1.0, math.inf]]


@pytest.mark.parametrize(
    ("batch", "how", "message"),
    [
        (BATCH, {"chunk": 0}, "chunk=0 must be at least 1"),
        (BATCH.with_(targets=BATCH.targets + 1), {}, r"targets hold 3; with n_tokens=3 they must lie in 0 \.\. 2"),
    ],
)
def test_a_surprisal_that_cannot_be_had_is_refused(batch, how, message):
    with pytest.raises(ValueError, match=message):
        surprisal(MODEL, batch, **how)


# --- beliefs


def test_beliefs_are_those_of_the_process_under_the_labels_of_record():
    found, recorded = beliefs(mess3(), BATCH), record(MODEL, BATCH, ["embed"])
    np.testing.assert_array_equal(found.values, mess3().beliefs(BATCH.tokens.numpy()))
    assert found.dims == ("sequence", "position", "state")
    for name in ("sequence", "position", "token", "prefix"):
        assert found.coords[name].equals(recorded.coords[name])
    assert found.name == "belief"


def test_thinned_beliefs_stand_in_the_rows_of_a_thinned_recording():
    where = BATCH.tokens.numpy() == 1
    found, recorded = beliefs(mess3(), BATCH, where=where), record(MODEL, BATCH, ["embed"], where=where)
    np.testing.assert_array_equal(found.values, mess3().beliefs(BATCH.tokens.numpy())[where])
    assert found.dims == ("sample", "state")
    for name in ("sequence", "position", "token", "prefix"):
        assert found.coords[name].equals(recorded.coords[name])


@pytest.mark.parametrize("shape", [(7, 4, 3), (6, 5, 3), (7, 5), (7, 5, 3, 1)])
def test_values_of_another_shape_are_refused_a_label(shape):
    with pytest.raises(ValueError, match=r"values has shape \(.*\); it must be \(7, 5\) followed by one axis"):
        labelled(np.zeros(shape), BATCH, "state")


def test_labelled_values_are_what_was_given():
    values = np.random.default_rng(0).random((7, 5, 2))
    found = labelled(values, BATCH, "coin", name="toss")
    assert found.dims == ("sequence", "position", "coin")
    assert found.name == "toss"
    assert np.array_equal(found.values, values)
    assert np.array_equal(found["token"], BATCH.tokens)
