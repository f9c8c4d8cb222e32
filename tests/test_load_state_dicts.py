"""State dicts and files of them: the model that they are the state of, or one sentence."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformer_lens import TransformerBridgeConfig
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from nextlens.models.batch import Batch
from nextlens.models.bridge import Bridged
from nextlens.models.checkpoints import load, save
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.models.vocabulary import Symbols

OURS = TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=8, activation="gelu", seed=1)
THEIRS = TransformerBridgeConfig(
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
)
BATCH = Batch.from_tokens([[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]])
MODEL = Transformer(OURS)


def old(model: Transformer, bias: float = 0.0) -> dict[str, torch.Tensor]:
    """As TransformerLens's HookedTransformer wrote it: its masks and its unembedding bias beside the weights."""
    extra = {"unembed.b_U": torch.full((3,), bias)}
    for i in range(model.config.n_layers):
        extra[f"blocks.{i}.attn.mask"] = torch.ones(8, 8).tril().bool()
        extra[f"blocks.{i}.attn.IGNORE"] = torch.tensor(-torch.inf)
    return {**model.state_dict(), **extra}


@pytest.mark.parametrize("config", [OURS, THEIRS], ids=["our config", "TransformerLens's config"])
@pytest.mark.parametrize("weights", [MODEL.state_dict(), old(MODEL)], ids=["ours", "HookedTransformer's"])
def test_a_transformer_lens_state_dict_is_its_model(weights, config):
    before = torch.get_rng_state()
    model = load(weights, config, vocabulary=Symbols("abc"))
    assert isinstance(model, Transformer if config is OURS else Bridged)
    torch.testing.assert_close(model(BATCH), MODEL(BATCH), atol=1e-5, rtol=0)
    assert model.vocabulary == Symbols("abc")
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unembedding_bias_goes_with_transformer_lens_s_config_alone():
    weights = {**old(MODEL), "unembed.b_U": torch.tensor([0.0, 1.0, 2.0])}
    model = load(weights, THEIRS)
    torch.testing.assert_close(model(BATCH), MODEL(BATCH) + torch.tensor([0.0, 1.0, 2.0]), atol=1e-5, rtol=0)
    with pytest.raises(
        ValueError, match="has an unembedding bias; a Transformer has none: give TransformerLens's conf"
    ):
        load(weights, OURS)


def test_the_state_dict_of_a_bridge_and_a_bridge_itself_are_its_model():
    bridge = MODEL.to_bridge()
    for model in (load(bridge.state_dict(), THEIRS), load(bridge)):
        torch.testing.assert_close(model(BATCH), MODEL(BATCH), atol=1e-5, rtol=0)
    assert load(bridge).bridge is bridge


def test_a_recurrent_state_dict_is_its_model():
    config = RecurrentConfig(n_tokens=3, kind="LSTM", d_model=8, seed=2)
    weights = Recurrent(config).state_dict()
    assert torch.equal(load(weights, replace(config, seed=5))(BATCH), Recurrent(config)(BATCH))


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=7, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0),
        LlamaConfig(
            vocab_size=7,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=0,
        ),
    ],
    ids=["tied", "untied"],
)
def test_a_transformers_state_dict_or_model_is_its_model(config, tmp_path):
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        theirs = model(BATCH.tokens).logits
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    for found in (load(tmp_path / "weights.pt", config), load(model)):
        torch.testing.assert_close(found(BATCH), theirs, atol=1e-5, rtol=0)


def test_a_model_of_ours_is_itself():
    assert load(MODEL) is MODEL


def test_our_checkpoint_comes_in_the_precision_and_with_the_vocabulary_asked_for(tmp_path):
    path = save(tmp_path, MODEL)
    assert load(path).vocabulary is None
    model = load(path, dtype="float64", vocabulary=Symbols("abc"), device="cpu")
    assert (model.vocabulary, model(BATCH).dtype) == (Symbols("abc"), torch.float64)
    with pytest.raises(ValueError, match="vocabulary holds 4 tokens and the model n_tokens=3"):
        load(path, vocabulary=Symbols("abcd"))


@pytest.mark.parametrize("called", ["weights.pt", "weights.pth", "pytorch_model.bin", "weights.safetensors"])
def test_a_file_of_weights_is_its_model_in_the_precision_asked_for(tmp_path, called):
    weights, path = MODEL.double().state_dict(), tmp_path / called
    MODEL.float()
    (save_file if path.suffix == ".safetensors" else torch.save)(weights, path)
    torch.testing.assert_close(load(path, OURS)(BATCH), MODEL(BATCH), atol=1e-6, rtol=0)
    assert load(path, OURS, dtype="float64")(BATCH).dtype == torch.float64


# --- refusals


def refused(path: Path, message: str, config=OURS, error=ValueError) -> None:
    with pytest.raises(error, match=message) as raised:
        load(path, config)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


class Evil:
    """What a malicious pickle holds: reading it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("write", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))])
def test_a_pickle_that_needs_code_is_refused_with_the_safe_way_named_and_is_not_run(tmp_path, write):
    path, mark = tmp_path / "weights.pt", tmp_path / "mark"
    write({"embed.W_E": torch.ones(3, 16), "evil": Evil(mark)}, path)
    refused(
        path, r"is more than weights, or damaged: .* not read; .* safetensors\.torch\.save_file\(model\.state_dict\(\)"
    )
    assert not mark.exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert mark.exists()


def test_a_whole_module_in_a_pickle_is_refused(tmp_path):
    path = tmp_path / "module.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    refused(path, "is more than weights")


def test_a_half_written_file_is_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(MODEL.state_dict(), path)
    whole = path.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        refused(path, "is truncated or holds no weights; fetch it again|is more than weights, or damaged")


def test_weights_inside_something_else_are_refused_with_what_there_is(tmp_path):
    path = tmp_path / "run.pt"
    torch.save({"epoch": 3, "state_dict": MODEL.state_dict()}, path)
    refused(path, r"holds 'epoch', 'state_dict' beside tensors; .* take the part of it that is one")
    torch.save([torch.ones(2)], path)
    refused(path, "holds a list; it must be a state dict")


def test_weights_without_a_config_are_refused(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(MODEL.state_dict(), path)
    refused(path, r"holds bare weights: give the config of the model too, load\(weights, config\)", config=None)
    with pytest.raises(ValueError, match="a state dict holds bare weights: give the config"):
        load(MODEL.state_dict())
    save_file(MODEL.state_dict(), tmp_path / "weights.safetensors")
    refused(
        tmp_path / "weights.safetensors", "not a nextlens checkpoint; .* for bare weights a config too", config=None
    )


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "none.pt", "there is no '", error=FileNotFoundError)
    refused(tmp_path / "none.pt", "there is no checkpoint at '", config=None, error=FileNotFoundError)
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint at 'gpt2/.*; nothing is fetched by its name"):
        load("gpt2")


@pytest.mark.parametrize("config", [OURS, THEIRS], ids=["our config", "TransformerLens's config"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.1.attn.W_Q": torch.ones(4, 16, 4)}, r"fit its config: .*W_Q.* (is|has shape) \(4, 16, 4\)"),
        ({"blocks.1.attn.W_Q": None}, r"fit its config: blocks\.1\.attn\.(W_Q|q\.weight) is absent"),
        (
            {"blocks.2.ln1.w": torch.ones(16)},
            r"fit its config: blocks\.2\.ln1\.w(eight)? is \(16,\), and should be absent",
        ),
        ({"ln_final.w": torch.full((16,), torch.nan)}, r"ln_final\.w in .* holds 16 NaN or infinite numbers of 16"),
        ({"else": torch.ones(1)}, "fit its config: .*else"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(config, changes, message):
    weights = {name: value for name, value in {**MODEL.state_dict(), **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        load(weights, config)


def test_transformers_weights_that_do_not_fit_are_refused_by_name():
    config = GPT2Config(vocab_size=7, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    weights = AutoModelForCausalLM.from_config(config).state_dict()
    del weights["transformer.ln_f.weight"]
    with pytest.raises(ValueError, match=r"lacks 1 of the model's weights, transformer\.ln_f\.weight first"):
        load(weights, config)


@pytest.mark.parametrize(
    ("what", "how", "message"),
    [
        ("model.pt", {"sites": {"x": "y"}}, "sites is given, which does not go with a path"),
        (
            MODEL.state_dict(),
            {"config": OURS, "unembedding": "y"},
            "unembedding is given, which does not go with a state",
        ),
        (MODEL, {"config": OURS}, "config is given, which does not go with a model in memory"),
        (MODEL, {"logits": print}, "logits is given, which does not go with a model without sites"),
    ],
)
def test_an_argument_that_does_not_go_with_it_is_refused(what, how, message):
    with pytest.raises(ValueError, match=message):
        load(what, **how)


def test_a_config_of_another_kind_is_refused():
    with pytest.raises((TypeError, Exception), match="config"):
        load(MODEL.state_dict(), {"n_layers": 2})
