"""Induction heads: found in a model made by hand, needed by it, and grown by one that is trained."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from nextlens.analyses.head_ablation import ablated, control_sets, head_ablation, mean_outputs
from nextlens.analyses.head_weights import head_weights
from nextlens.analyses.induction_heads import (
    attention_layers,
    attention_values,
    found_heads,
    head_scores,
    in_context_gain,
    in_context_score,
    loss_by_position,
)
from nextlens.analyses.induction_run import _ablation_line, _removed, run, summary
from nextlens.analyses.induction_training import InductionRecipe, InductionSeed, best_loss, moments, phase_change
from nextlens.models.batch import Batch
from nextlens.models.bridge import Bridged
from nextlens.models.hugging_face import wrapped
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.tasks import RepeatedTokens
from nextlens.models.transformer import Transformer, TransformerConfig

V, CTX = 40, 32
TASK = RepeatedTokens(V, shortest=4, longest=16)
CONFIG = TransformerConfig(
    n_tokens=V, n_layers=2, n_heads=3, d_model=2 * V + CTX, d_head=V, d_mlp=0, n_ctx=CTX, normalisation="none"
)
SMALL = TransformerConfig(n_tokens=11, n_layers=2, n_heads=4, d_model=16, d_mlp=8, n_ctx=24, seed=1)
TINY = InductionRecipe(
    n_tokens=8, shortest=3, longest=6, n_ctx=16, n_heads=2, d_model=16, steps=6, batch_size=8, seeds=(0, 1)
)


@torch.no_grad()
def by_hand() -> Transformer:
    """Token, place and token before, each one-hot in a space of its own; head (0, 1) shifts, head (1, 2) matches."""
    model = Transformer(CONFIG)
    for name, value in model.named_parameters():
        if "attn" in name:
            value.zero_()
    token, place, before = slice(0, V), slice(V, V + CTX), slice(V + CTX, None)
    model.embed.W_E.copy_(torch.eye(V, CONFIG.d_model))
    model.pos_embed.W_pos.zero_()
    model.pos_embed.W_pos[:, place] = torch.eye(CTX)
    model.unembed.W_U.copy_(torch.eye(CONFIG.d_model, V))
    shift, match = model.blocks[0].attn, model.blocks[1].attn
    shift.W_Q[1, place, :CTX] = 200 * torch.eye(CTX)
    shift.W_K[1, place, :CTX] = 200 * torch.eye(CTX).roll(1, dims=1)
    shift.W_V[1, token], shift.W_O[1, :, before] = torch.eye(V), torch.eye(V)
    match.W_Q[2, token], match.W_K[2, before] = 200 * torch.eye(V), 200 * torch.eye(V)
    match.W_V[2, token], match.W_O[2, :, token] = torch.eye(V), 20 * torch.eye(V)
    return model


@pytest.fixture(scope="module")
def made() -> Transformer:
    return by_hand()


@pytest.fixture(scope="module")
def scores(made) -> xr.Dataset:
    return head_scores(made, block=12, rng=np.random.default_rng(0))


def gpt2(**changes):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=16, n_layer=2, n_head=4, n_positions=24, **changes))


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "max_position_embeddings": 24}
    return LlamaForCausalLM(LlamaConfig(vocab_size=11, num_attention_heads=4, num_key_value_heads=2, **sizes))


# --- scores


def test_heads_made_by_hand_are_found_and_no_others(scores):
    assert found_heads(scores) == [(1, 2)]
    assert found_heads(scores, "previous token") == [(0, 1)]
    one = scores.value.sel(layer=1, head=2)
    # The first token, with none before it, passes itself on as such: its copy looks there too.
    assert float(one.sel(score="prefix matching")) > 0.9
    assert float(one.sel(score="copying")) > 0.8
    assert float(scores.value.sel(score="previous token", layer=0, head=1)) > 0.99
    np.testing.assert_allclose(one.sel(score=["OV eigenvalues", "OV positive share", "OV largest is itself"]), 1)
    assert float(one.sel(score="QK through previous-token head")) == pytest.approx(1)


def test_heads_without_weights_score_what_chance_gives(scores):
    idle = scores.value.sel(layer=1, head=0)
    for name in ("prefix matching", "previous token", "duplicate token"):
        assert float(idle.sel(score=name)) == pytest.approx(float(scores.chance.sel(score=name)))
    assert float(idle.sel(score="copying")) == 0
    assert float(scores.chance.sel(score="copying")) == 1 / V


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "rotary"},
        {"normalisation": "RMSNorm"},
        {"normalisation": "none", "d_mlp": 0},
        {"d_model": 15, "n_heads": 3},
    ],
    ids=str,
)
def test_a_bridge_scores_as_the_transformer_that_it_holds(changes):
    model = Transformer(replace(SMALL, d_head=None, **changes))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith((".w", ".b")):
                value.add_(torch.rand(value.shape))
    ours, theirs = (
        head_scores(one, block=8, first=3, rng=np.random.default_rng(0)) for one in (model, Bridged(model.to_bridge()))
    )
    np.testing.assert_allclose(ours.value, theirs.value, atol=1e-5)
    assert ours.score.values.tolist() == theirs.score.values.tolist()


@pytest.mark.parametrize("make", [gpt2, llama], ids=["GPT-2", "Llama, grouped keys, rotary"])
def test_a_model_of_someone_else_has_every_score_and_its_patterns_are_those_it_says(make):
    hugging, reference = make(), make()
    found = head_scores(wrapped(hugging, "one"), block=8, n_sequences=2, rng=np.random.default_rng(0))
    assert found.value.shape == (10, 2, 4)
    assert np.isfinite(found.value).all()
    model = wrapped(reference, "two")
    tokens = np.random.default_rng(0).integers(11, size=(2, 9))
    seen = attention_values(model, tokens, attention_layers(model), ["pattern"])
    plain = make()
    plain.set_attn_implementation("eager")
    wanted = plain.eval()(torch.as_tensor(tokens), output_attentions=True).attentions
    for layer in range(2):
        torch.testing.assert_close(seen[layer, "pattern"], wanted[layer], atol=1e-5, rtol=0)


def test_the_circuit_of_weights_is_what_a_head_adds_when_it_looks_at_one_token():
    """The OV rows equal the change of logits when the pattern is turned to one key, first layer, no rescaling."""
    model = Transformer(replace(SMALL, normalisation="none", d_mlp=0, n_layers=1, positions="none"))
    rows = head_weights(model, 0).ov_rows(11)
    tokens = torch.tensor([[4, 7, 2]])
    batch = Batch.from_tokens(torch.cat([tokens, tokens[:, :1]], dim=1))

    def only(head: int, key: int):
        def edit(z):
            kept = torch.zeros_like(z)
            kept[:, -1, head] = (model.embed.W_E[tokens[0, key]] @ model.blocks[0].attn.W_V[head])[None]
            return kept

        return edit

    with torch.no_grad():
        with model.edited("blocks.0.attn.z", torch.zeros_like):
            nothing = model(batch)
        for head in range(4):
            with model.edited("blocks.0.attn.z", only(head, 1)):
                added = (model(batch) - nothing)[0, -1]
            np.testing.assert_allclose(rows[head, 7], added, atol=1e-5)


def test_a_larger_vocabulary_is_sampled_and_a_first_token_is_not_among_the_rest(monkeypatch):
    monkeypatch.setattr("nextlens.analyses.induction_heads.MOST_TOKENS", 5)
    model = Transformer(SMALL)
    read = []
    with model.edited("hook_embed", lambda value: read.append(value)):
        found = head_scores(model, block=8, first=3, rng=np.random.default_rng(0))
    near = torch.cdist(read[0][0], model.embed.W_E).argmin(-1)
    assert near[0] == 3
    assert 3 not in near[1:]
    assert len(near[1:].unique()) <= 5
    assert float(found.chance.sel(score="copying")) == pytest.approx(1 / 6)


def test_weights_that_are_not_known_are_left_out():
    model = Transformer(replace(SMALL, post_normalisation=True))
    assert head_weights(model, 0) is None
    found = head_scores(model, block=8, rng=np.random.default_rng(0))
    assert found.score.values.tolist() == ["prefix matching", "previous token", "duplicate token"]


@pytest.mark.parametrize("chosen", [["prefix matching"], ["copying", "previous token"], ["QK eigenvalues"]])
def test_scores_that_are_chosen_are_the_same_and_no_others_are_there(made, scores, chosen):
    found = head_scores(made, block=12, scores=chosen, rng=np.random.default_rng(0))
    assert found.score.values.tolist() == chosen
    xr.testing.assert_identical(found, scores.sel(score=chosen))


def test_circuits_are_not_made_where_patterns_are_asked_for(made, monkeypatch):
    monkeypatch.setattr("nextlens.analyses.induction_heads.head_weights", None)
    assert head_scores(made, scores=["previous token"], block=4, rng=np.random.default_rng(0)).sizes["score"] == 1


def test_a_model_without_attention_is_refused():
    network = Recurrent(RecurrentConfig(n_tokens=3, kind="GRU", d_model=8))
    with pytest.raises(ValueError, match=r"no site blocks\.i\.attn\.hook_pattern"):
        head_scores(network, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": 1}, "block=1 must be at least 2"),
        ({"n_sequences": 0}, "n_sequences=0 must be at least 1"),
        ({"block": 13}, "n_ctx=24"),
        ({"scores": ["prefix"]}, r"scores='prefix' is not one of 10 choices; did you mean 'prefix matching'"),
        ({"scores": []}, "how many scores=0 must be at least 1"),
        ({"first": 11}, "first=11 must lie between 0 and 10"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        head_scores(Transformer(SMALL), rng=np.random.default_rng(0), **arguments)


# --- learning from context


def test_the_model_made_by_hand_gains_nearly_what_is_possible(made):
    tokens = TASK.sample(200, CTX + 1, np.random.default_rng(1))
    possible = in_context_gain(best_loss(TASK, tokens), TASK)
    assert possible == pytest.approx(np.log(V), rel=1e-2)
    assert in_context_gain(loss_by_position(made, tokens), TASK) > 0.5 * possible


def test_gain_and_score_by_hand():
    loss = np.full(CTX, 2.0)
    loss[:3], loss[15:] = 5.0, 1.0
    assert in_context_gain(loss, TASK) == 4
    late, early = round(500 / 512 * CTX) - 1, round(50 / 512 * CTX) - 1
    assert (early, late) == (2, 30)
    assert in_context_score(loss) == -4
    assert in_context_score(np.arange(512.0)) == 450


def test_loss_by_position_is_that_of_each_target(made, monkeypatch):
    monkeypatch.setattr("nextlens.analyses.induction_heads.CHUNK", 3)
    tokens = TASK.sample(7, 10, np.random.default_rng(1))
    log_probs = made.log_probs(Batch.from_tokens(tokens)).detach().numpy()
    wanted = [-np.mean([log_probs[b, t, tokens[b, t + 1]] for b in range(7)]) for t in range(9)]
    np.testing.assert_allclose(loss_by_position(made, tokens), wanted, atol=1e-4)


def test_a_context_too_short_to_learn_in_is_refused():
    with pytest.raises(ValueError, match="positions of loss=15 must be at least 16"):
        in_context_gain(np.ones(15), TASK)
    with pytest.raises(ValueError, match="positions of loss=10 must be at least 11"):
        in_context_score(np.ones(10))
    with pytest.raises(ValueError, match=r"task\.shortest=1 must be at least 2"):
        in_context_gain(np.ones(15), RepeatedTokens(4, shortest=1, longest=3))


# --- ablation


def test_without_the_head_that_matches_the_gain_goes_and_without_idle_ones_it_stays(made, scores):
    rng = np.random.default_rng(2)
    tokens, reference = (TASK.sample(200, CTX + 1, rng) for _ in range(2))
    found = head_ablation(made, TASK, scores, tokens, reference, rng=rng)
    removed = found.removed.to_series()
    assert removed["induction heads"] > 0.95
    # Means over 200 sequences still tell which tokens came early in those.
    assert removed["previous-token heads"] > 0.8
    assert removed["others of those layers"] == pytest.approx(0, abs=1e-6)
    assert found.removed_most.sel(ablated="others of those layers").item() == pytest.approx(0, abs=1e-6)
    # One of the four others is the previous-token head, which the gain needs.
    assert found.sets.to_series().to_dict() == {
        "nothing": 1,
        "induction heads": 1,
        "others anywhere": 5,
        "others of those layers": 2,
        "others outside the circuit": 4,
        "all outside the circuit": 1,
        "previous-token heads": 1,
    }
    assert found.heads.to_series().to_dict() == dict.fromkeys(found.sets.to_series().index, 1) | {
        "nothing": 0,
        "all outside the circuit": 4,
    }
    for name in ("others outside the circuit", "all outside the circuit"):
        assert removed[name] == pytest.approx(0, abs=1e-6)
    assert removed["others anywhere"] == pytest.approx(removed["previous-token heads"] / 5)
    np.testing.assert_allclose(found.loss.sel(ablated="nothing"), loss_by_position(made, tokens))


def test_an_ablated_head_says_the_same_whatever_is_read_and_leaves_the_others(made):
    rng = np.random.default_rng(3)
    means = mean_outputs(made, TASK.sample(50, CTX + 1, rng))
    batch = Batch.from_tokens(TASK.sample(4, 20, rng))
    with torch.no_grad():
        with made.watched("blocks.1.attn.z") as plain:
            made(batch)
        with ablated(made, [(1, 2)], means), made.watched("blocks.1.attn.z") as seen:
            made(batch)
    z = seen["blocks.1.attn.z"]
    torch.testing.assert_close(z[:, :, 2], means[1][:19, 2].expand(4, -1, -1))
    torch.testing.assert_close(z[:, :, :2], plain["blocks.1.attn.z"][:, :, :2])


def test_all_hooks_are_gone_after_an_ablation_that_fails(made):
    means = mean_outputs(made, TASK.sample(5, CTX + 1, np.random.default_rng(0)))
    before = sum(len(part._forward_hooks) for part in made.modules())
    with pytest.raises(ValueError, match="twice"), ablated(made, [(0, 0), (1, 1)], means):
        raise ValueError("twice")
    assert sum(len(part._forward_hooks) for part in made.modules()) == before


@pytest.mark.parametrize("head", [(2, 0), (0, 3), (1, -1)])
def test_a_head_that_is_not_there_is_refused(made, head):
    means = mean_outputs(made, TASK.sample(5, CTX + 1, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="of which there is no output"), ablated(made, [head], means):
        pass


def test_control_sets_are_all_there_are_or_as_many_as_asked_for():
    every = [(layer, head) for layer in range(2) for head in range(4)]
    rng = np.random.default_rng(0)
    same = control_sets([(1, 0), (1, 1)], every, rng, matched=True)
    assert same == [[(1, 2), (1, 3)]]
    anywhere = control_sets([(1, 0), (1, 1)], every, rng, matched=False, most=6)
    assert len(anywhere) == len({tuple(one) for one in anywhere}) == 6
    assert all(len(set(one)) == 2 and not {(1, 0), (1, 1)} & set(one) for one in anywhere)
    both = control_sets([(0, 0), (1, 1)], every, rng, matched=True, most=20)
    assert {tuple(sorted(layer for layer, _ in one)) for one in both} == {(0, 1)}
    assert len(both) == 9
    assert control_sets([(1, 0), (1, 1), (1, 2)], every, rng, matched=True) == []
    assert control_sets([], every, rng, matched=False) == []


# --- the job


def test_moments_run_from_the_first_step_to_the_last():
    assert moments(350)[[0, 1, -1]].tolist() == [0, 10, 350]
    assert moments(5).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_run_writes_figures_and_numbers_with_controls_and_resumes_to_the_same(tmp_path, monkeypatch):
    numbers = run(TINY, tmp_path / "one", n_jobs=1)
    written = json.loads((tmp_path / "one" / "numbers.json").read_text())
    assert written == numbers
    assert {path.name for path in (tmp_path / "one").glob("*.png")} >= {"phase_change.png", "heads.png"}
    assert numbers["phase_change"]["seen_in_control"] == "0 of 2"
    assert len(numbers["in_context_gain"]["one layer"]["by_seed"]) == 2
    assert set(numbers["heads"]["highest"]["prefix matching"]) == {"two layers", "untrained", "chance"}
    (tmp_path / "one" / "numbers.json").unlink()
    monkeypatch.setattr("nextlens.analyses.induction_run.draw", lambda *results: None)
    again = run(TINY, tmp_path / "one", resume=True, n_jobs=1)
    for name in ("in_context_gain", "heads", "ablation"):
        assert again[name] == numbers[name]
    text = summary(TINY, numbers, tmp_path)
    assert "one layer" in text
    assert TINY.command in text


def ablated_seed(**removed: float) -> InductionSeed:
    shares = ("ablated", list(removed.values()))
    counts = ("ablated", [2] * len(removed))
    found = xr.Dataset(
        {"removed": shares, "removed_most": shares, "sets": counts, "heads": counts}, coords={"ablated": list(removed)}
    )
    return InductionSeed(xr.Dataset(), xr.Dataset(), xr.Dataset(), found, 1.0)


def test_what_is_expected_of_an_ablation_is_said_met_or_not():
    seeds = [
        ablated_seed(**{"induction heads": 0.8, "others anywhere": 0.2}),
        ablated_seed(**{"induction heads": 0.79, "others anywhere": 0.19}),
        ablated_seed(**{"induction heads": 1.1}),
    ]
    found = {name: _removed(seeds, name) for name in ("induction heads", "others anywhere", "others of those layers")}
    assert found["induction heads"]["expected"] == "at least 0.8: 2 of 3"
    assert found["others anywhere"]["expected"] == "below 0.2: 1 of 2"
    assert found["others anywhere"]["seeds_without_as_many_heads"] == 1
    assert found["others of those layers"] is None
    said = [_ablation_line(name, one) for name, one in found.items()]
    assert said[0].endswith("expected at least 0.8: 2 of 3 seeds")
    assert said[1].endswith("expected below 0.2: 1 of 2 seeds; too few such heads in 1")
    assert said[2].endswith("too few such heads in every seed")


def test_an_unfinished_run_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("nextlens.analyses.induction_run.draw", lambda *results: None)
    run(replace(TINY, seeds=(0,)), tmp_path, n_jobs=1)
    (tmp_path / "numbers.json").unlink()
    with pytest.raises(ValueError, match="unfinished run"):
        run(replace(TINY, seeds=(0,)), tmp_path, n_jobs=1)


def test_a_recipe_comes_back_from_json_and_says_its_command():
    recipe = InductionRecipe(steps=50, seeds=(3,), learning_rate=0.003)
    assert InductionRecipe.from_json(json.loads(json.dumps(recipe.as_json()))) == recipe
    assert recipe.command == "nextlens induction --steps 50 --learning-rate 0.003 --seeds 3,"
    assert InductionRecipe().command == "nextlens induction"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 1}, "steps=1 must be at least 2"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"shortest": 1}, "shortest=1 must be at least 2"),
        ({"longest": 7}, "longest=7 must be at least 8"),
        ({"n_ctx": 32}, "n_ctx=32 must be at least 33"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0 must be finite and above 0"),
        ({"seeds": ()}, r"seeds=\(\) must hold at least one"),
        ({"seeds": (1, 1)}, "each once"),
        ({"seeds": (-1,)}, "none below 0"),
        ({"positions": "rotory"}, "did you mean 'rotary'"),
        ({"d_head": 7, "positions": "rotary"}, "d_head=7 is odd"),
    ],
)
def test_a_recipe_out_of_range_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        InductionRecipe(**changes)


def test_an_unknown_field_of_a_recipe_is_refused():
    with pytest.raises(ValueError, match="does not fit this version"):
        InductionRecipe.from_json({"colour": 1})


def test_phase_change_needs_three_quarters_of_what_is_possible():
    assert phase_change([0, 10, 20], [0.0, 1.4, 1.4], 2.0) is None
    assert phase_change([0, 8], [0.0, 2.0], 2.0) == {"step": 4.0, "width": 4.0}
    assert phase_change([0, 8], [2.0, 2.0], 2.0) == {"step": 0.0, "width": 0.0}
