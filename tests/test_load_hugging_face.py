"""Hugging Face directories: our sites say what transformers says; each thing wrong is refused in one sentence."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    CTRLConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)

from nextlens.models import hugging_face
from nextlens.models.batch import Batch
from nextlens.models.bridge import Bridged
from nextlens.models.checkpoints import load
from nextlens.models.hugging_face import offline

TEXT = "the cat sat on the mat, and the dog — naïve 𝕏 — sat on the cat"
SHAPE = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 3, "bos_token_id": 0, "eos_token_id": 0}
HEADS = {"intermediate_size": 24, "num_attention_heads": 2, "max_position_embeddings": 32}
CONFIGS = {
    "GPT-2": GPT2Config(vocab_size=300, n_positions=32, n_embd=16, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0),
    "Llama": LlamaConfig(**SHAPE, **HEADS, num_key_value_heads=1),
    "Pythia": GPTNeoXConfig(**SHAPE, **HEADS),
    "Mamba": MambaConfig(**SHAPE, state_size=4),
}
every_architecture = pytest.mark.parametrize("name", CONFIGS)
BATCH = Batch.from_tokens(torch.arange(36).reshape(3, 12) * 7 % 300)


def stirred(config) -> torch.nn.Module:
    """Weights far from their first values, drawn alike each time."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model


def bytes_and_pairs(n_tokens: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE, trained on one sentence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator([TEXT, "nobody expects another quick brown fox, jumping"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>")


def saved(folder: Path, name: str, *, tokens: int | None = None, **how) -> Path:
    with offline():
        stirred(CONFIGS[name]).save_pretrained(folder, **how)
        if tokens is not None:
            bytes_and_pairs(tokens).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {name: saved(tmp_path_factory.mktemp("saved") / name, name, tokens=299) for name in CONFIGS}


@pytest.fixture
def folder(folders, tmp_path) -> Path:
    """A copy of the Llama directory, to be spoilt."""
    return Path(shutil.copytree(folders["Llama"], tmp_path / "model"))


def transformers_own(folder: Path):
    with offline():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


# --- what transformers says


@every_architecture
def test_logits_and_loss_are_those_of_transformers(folders, name):
    model = load(folders[name])
    assert isinstance(model, Bridged)
    with torch.no_grad():
        theirs = transformers_own(folders[name])(BATCH.tokens, labels=BATCH.tokens)
        logits, log_probs = model(BATCH), model.log_probs(BATCH)
    torch.testing.assert_close(logits, theirs.logits, atol=1e-5, rtol=0)
    loss = -log_probs[:, :-1].gather(2, BATCH.targets[:, :-1, None]).mean()
    torch.testing.assert_close(loss, theirs.loss, atol=1e-5, rtol=0)


@every_architecture
def test_the_residual_stream_is_the_hidden_states_of_transformers_at_every_layer(folders, name):
    model = load(folders[name])
    sites = ["hook_embed", *[f"blocks.{i}.resid_post" for i in range(3)]]
    if name == "GPT-2":
        sites[0] = "blocks.0.resid_pre"  # positions are added before the first state
    if name == "Mamba":
        sites = sites[1:]  # its states begin after the first block, and the last comes twice, normalised
    last = "ln_final.hook_normalized"
    with torch.no_grad(), model.watched(*sites, last) as seen:
        model(BATCH)
        states = transformers_own(folders[name])(BATCH.tokens, output_hidden_states=True).hidden_states
    assert len(states) == len(sites) + (name == "Mamba")
    for site, state in zip(sites if name == "Mamba" else sites[:-1], states, strict=False):
        torch.testing.assert_close(seen[site], state, atol=1e-5, rtol=0, msg=site)
    torch.testing.assert_close(seen[last], states[-1], atol=1e-5, rtol=0)


@every_architecture
def test_shards_are_read_as_one(folders, name, tmp_path):
    sharded = saved(tmp_path / "shards", name, max_shard_size=9_000)
    assert len(list(sharded.glob("*.safetensors"))) > 1
    with torch.no_grad():
        assert torch.equal(load(sharded)(BATCH), load(folders[name])(BATCH))


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float64])
def test_weights_have_the_precision_asked_for_and_float32_otherwise(folders, folder, dtype):
    model = load(folder, dtype=dtype)
    assert {str(weight.dtype) for weight in model.parameters()} == {f"torch.{str(dtype).removeprefix('torch.')}"}
    total = model.log_probs(BATCH).exp().sum(-1)
    torch.testing.assert_close(total.double(), torch.ones_like(total).double(), atol=1e-5, rtol=0)
    weights = load_file(folder / "model.safetensors")
    save_file({key: value.bfloat16() for key, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert {weight.dtype for weight in load(folder).parameters()} == {torch.float32}


def test_a_precision_without_a_name_is_refused(folder):
    with pytest.raises(ValueError, match="dtype='float8' is not one of 'float16', 'bfloat16', 'float32', 'float64'"):
        load(folder, dtype="float8")


def test_no_socket_is_opened_nothing_is_printed_and_no_state_is_touched(folder, monkeypatch, capfd):
    def refused(*address):
        raise AssertionError(f"asked the network for {address}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    before = torch.get_rng_state()
    load(folder)(BATCH)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


# --- the vocabulary that comes with it


def test_the_vocabulary_comes_with_the_model(folders):
    model = load(folders["Llama"])
    theirs = PreTrainedTokenizerFast.from_pretrained(folders["Llama"])
    assert model.vocabulary.encode(TEXT).tolist() == theirs(TEXT, add_special_tokens=False)["input_ids"]
    assert model.vocabulary.decode(model.vocabulary.encode(TEXT)) == TEXT
    assert model.vocabulary.n_tokens == 299 < model.n_tokens == 300
    assert model.bridge.to_tokens(TEXT, prepend_bos=False)[0].tolist() == model.vocabulary.encode(TEXT).tolist()


def test_a_model_without_a_tokenizer_has_no_vocabulary(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert load(folder).vocabulary is None


# --- refusals


def refused(folder: Path, message: str, error: type[Exception] = ValueError) -> None:
    """By one sentence that names the directory."""
    with pytest.raises(error, match=message) as raised:
        load(folder)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def reweigh(folder: Path, **changes) -> None:
    weights = load_file(folder / "model.safetensors")
    weights = {key: value for key, value in {**weights, **changes}.items() if value is not None}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


class Evil:
    """What a malicious pickle holds: reading it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("called", ["pytorch_model.bin", "model.pth", "weights.pkl"])
def test_a_pickle_is_refused_with_the_safe_way_named_and_is_not_run(folder, tmp_path, called):
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "mark"
    (folder / called).write_bytes(pickle.dumps(Evil(mark)))
    refused(folder, rf"only as a pickle, '{called}', .* not opened; fetch 'model\.safetensors' instead")
    assert not mark.exists()
    pickle.loads((folder / called).read_bytes())
    assert mark.exists()


@pytest.mark.parametrize("called", ["config.json", "tokenizer_config.json"])
def test_code_of_the_directory_is_refused_and_not_run(folder, tmp_path, called):
    mark = tmp_path / "mark"
    (folder / "modeling_own.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    rewrite(folder / called, auto_map={"AutoModelForCausalLM": "modeling_own.Own", "AutoTokenizer": "modeling_own.Own"})
    refused(folder, rf"{called}' names code of its own \(auto_map\), which is not run")
    assert not mark.exists()


def test_a_half_downloaded_file_is_refused(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for kept in (0, 7, 100, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:kept])
        refused(folder, rf"model\.safetensors' \({kept} bytes\) is truncated or is no safetensors file; fetch it again")


def test_a_missing_shard_is_refused_by_its_name(tmp_path):
    folder = saved(tmp_path / "shards", "Llama", max_shard_size=9_000)
    shards = sorted(folder.glob("*.safetensors"))
    shards[1].unlink()
    refused(folder, rf"lacks 1 of its {len(shards)} shards, '{shards[1].name}' first", FileNotFoundError)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_weight_that_is_no_number_is_refused_by_its_name(folder, number):
    gain = torch.ones(16)
    gain[3] = number
    reweigh(folder, **{"model.norm.weight": gain})
    refused(folder, r"model\.norm\.weight in .* holds 1 NaN or infinite number of 16; take another copy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.norm.weight": None}, r"lacks 1 of the model's weights, model\.norm\.weight first"),
        ({"model.norm.weight": torch.ones(8)}, r"model\.norm\.weight in .* is \(8,\), and should be \(16,\)"),
        (
            {"model.embed_tokens.weight": torch.ones(299, 16)},
            r"embed_tokens\.weight .* is \(299, 16\), and should be \(300",
        ),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(folder, changes, message):
    reweigh(folder, **changes)
    refused(folder, message)


def test_weights_that_the_model_does_not_read_are_warned_of(folder):
    reweigh(folder, **{"model.extra.weight": torch.ones(3)})
    with pytest.warns(UserWarning, match=r"1 weights that the model does not read, model\.extra\.weight first"):
        load(folder)


def test_the_tokenizer_of_another_model_is_refused(folder):
    with offline():
        bytes_and_pairs(301).save_pretrained(folder)
    assert len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) == 301
    refused(folder, "tokenizer in .* has 301 tokens and the model 300: it is the tokenizer of another model")


def test_tokens_added_beyond_the_model_are_left_out(folder):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<|one|>", "sep_token": "<|pad|>"})
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) == 301
    vocabulary = load(folder).vocabulary
    assert vocabulary.n_tokens == 300
    assert vocabulary.encode("<|one|>").tolist() == [299]
    tokens = vocabulary.encode("<|pad|>").tolist()
    assert len(tokens) > 1
    assert vocabulary.decode(tokens) == "<|pad|>"


def test_a_tokenizer_far_too_small_is_warned_of(folder):
    with offline():
        bytes_and_pairs(257).save_pretrained(folder)
    with pytest.warns(UserWarning, match="has 257 tokens and the model 300; check that it is this model's"):
        load(folder)


@pytest.mark.parametrize(
    ("called", "text", "message"),
    [
        ("config.json", '{"model_type": "lla', "config.json' is truncated or is no JSON"),
        ("config.json", "[]", "config.json' holds no JSON object"),
        ("config.json", '{"model_type": "martian"}', r"no model that transformers .* knows \(model_type 'martian'\)"),
        ("tokenizer.json", '{"model": {', "the tokenizer in .* cannot be read"),
    ],
)
def test_a_broken_description_is_refused(folder, called, text, message):
    (folder / called).write_text(text)
    refused(folder, message)


def test_no_weights_at_all_are_refused(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "holds no weights: neither 'model.safetensors' nor", FileNotFoundError)


def test_an_architecture_that_is_not_wrapped_is_refused_with_the_way_out(tmp_path):
    config = CTRLConfig(vocab_size=9, n_positions=8, n_embd=16, dff=16, n_layer=1, n_head=2)
    with offline():
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    refused(tmp_path, r"holds a CTRLLMHeadModel, which TransformerLens does not wrap; .* load\(model, sites=")


def test_a_model_of_masked_tokens_is_refused(tmp_path):
    config = BertConfig(
        vocab_size=9,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    with offline():
        BertLMHeadModel(config).save_pretrained(tmp_path)
    refused(tmp_path, "is no next-token model: what it says after one token changes with the token that follows it")


def test_what_mamba_takes_no_notice_of_is_refused_by_name(folders):
    model = load(folders["Mamba"])
    assert model(Batch.from_tokens([[0] * 40])).shape == (1, 39, 300)
    with pytest.raises(ValueError, match="the batch has positions of its own, of which MambaForCausalLM takes no not"):
        model(BATCH.with_(positions=BATCH.positions + 1))
    with pytest.raises(ValueError, match="the batch has attend of its own, of which MambaForCausalLM takes no notice"):
        model(BATCH.with_(attend=torch.eye(11, dtype=torch.bool).expand(3, 11, 11)))


def test_an_edit_that_the_bridge_of_an_architecture_would_lose_is_refused():
    model = load(
        stirred(
            OPTConfig(
                vocab_size=300,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                ffn_dim=24,
                max_position_embeddings=32,
                word_embed_proj_dim=16,
            )
        )
    )
    with model.watched("blocks.0.attn.pattern") as seen:
        plain = model(BATCH)
    torch.testing.assert_close(seen["blocks.0.attn.pattern"].sum(-1), torch.ones(3, 2, 11))
    edited = model.edited("blocks.0.attn.pattern", torch.zeros_like)
    with pytest.raises(ValueError, match=r"site='blocks\.0\.attn\.pattern' .* edit 'blocks\.0\.attn\.hook_z'"), edited:
        pass
    with model.edited("blocks.0.attn.z", torch.zeros_like):
        assert (model(BATCH) - plain).abs().max() > 1e-3
    with pytest.raises(ValueError, match="the batch has attend of its own, of which OPTForCausalLM takes no notice"):
        model(BATCH.with_(attend=torch.eye(11, dtype=torch.bool).expand(3, 11, 11)))


def test_an_architecture_whose_bridge_fails_is_refused(folder, monkeypatch):
    def fails(*arguments, **how):
        raise KeyError("no such part\nand more")

    monkeypatch.setattr(hugging_face, "build_bridge_from_module", fails)
    refused(folder, "holds a LlamaForCausalLM, which does not run through TransformerLens: ")


@pytest.mark.parametrize("name", ["GPT-2", "Llama", "Pythia"])
def test_positions_and_attention_of_a_batch_are_honoured(folders, name):
    model, own = load(folders[name]), transformers_own(folders[name])
    moved = BATCH.with_(positions=BATCH.positions * 2 + 1)
    with torch.no_grad():
        torch.testing.assert_close(
            model(moved), own(BATCH.tokens, position_ids=moved.positions).logits, atol=1e-5, rtol=0
        )
        alone = BATCH.with_(attend=torch.eye(11, dtype=torch.bool).expand(3, 11, 11), positions=BATCH.positions * 0)
        first = torch.cat([own(BATCH.tokens[:, t : t + 1]).logits for t in range(11)], dim=1)
        torch.testing.assert_close(model(alone), first, atol=1e-5, rtol=0)
