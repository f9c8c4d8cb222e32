"""The Fuzzy Matching Model against its definition, written out; windows encoded once."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nextlens.models.batch import Batch
from nextlens.models.checkpoints import load, load_matcher, save
from nextlens.models.induction.context_features import GivenFeatures, ResidualFeatures
from nextlens.models.induction.features import reading
from nextlens.models.induction.matching_model import MatchingConfig, MatchingModel
from nextlens.models.induction.residual_head import HeadConfig, ResidualHead
from nextlens.models.induction.window_features import WindowFeatures
from nextlens.models.transformer import Transformer, TransformerConfig

N_TOKENS = 7


def perturbed(**changes) -> MatchingModel:
    """A small one whose every weight matters, biases too."""
    config = {"n_tokens": N_TOKENS, "n_out": 5, "n_layers": 2, "n_heads": 2, "d_model": 8, "reach": 3, "n_ctx": 6}
    model = MatchingModel(MatchingConfig(**config | changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.5 * torch.randn(weight.shape, generator=generator)
    return model.requires_grad_(False)


MODEL = perturbed()
TOKENS = np.random.default_rng(0).integers(N_TOKENS, size=25)


class Counting(torch.nn.Module):
    """Passes every call on, and counts the sequences that were read."""

    def __init__(self, model):
        super().__init__()
        self.model, self.read = model, 0

    def forward(self, batch):
        self.read += len(batch)
        return self.model(batch)


def counted(model: MatchingModel) -> tuple[MatchingModel, Counting]:
    counting = Counting(model.trunk)
    twin = perturbed()
    twin.load_state_dict(model.state_dict())
    twin.trunk = counting
    return twin, counting


def by_hand(model: MatchingModel, tokens: np.ndarray) -> torch.Tensor:
    """Position by position, pair by pair, head by head."""
    trunk, reach, last_row = model.trunk, model.config.reach, model.config.n_ctx - 1
    x = [trunk.embed.W_E[token] for token in tokens]
    for block in trunk.blocks:
        attention = block.attn
        read = [F.layer_norm(row, row.shape, block.ln1.w, block.ln1.b, 1e-5) for row in x]
        added = []
        for a in range(len(x)):
            out = attention.b_O.clone()
            for h in range(2):
                q = read[a] @ attention.W_Q[h] + attention.b_Q[h]
                scores, values = [], []
                for b in range(max(0, a - reach + 1), a + 1):
                    k = read[b] @ attention.W_K[h] + attention.b_K[h]
                    v = read[b] @ attention.W_V[h] + attention.b_V[h]
                    scores.append((q @ k + q @ attention.R_K[b - a + last_row]) / math.sqrt(len(q)))
                    values.append(v + attention.R_V[b - a + last_row])
                pattern = torch.stack(scores).softmax(0)
                z = sum(weight * value for weight, value in zip(pattern, values, strict=True))
                out = out + z @ attention.W_O[h]
            added.append(out)
        x = [row + out for row, out in zip(x, added, strict=True)]
        for a, row in enumerate(x):
            normal = F.layer_norm(row, row.shape, block.ln2.w, block.ln2.b, 1e-5)
            hidden = F.gelu(normal @ block.mlp.W_in + block.mlp.b_in)
            x[a] = row + hidden @ block.mlp.W_out + block.mlp.b_out
    final = [F.layer_norm(row, row.shape, trunk.ln_final.w, trunk.ln_final.b, 1e-5) for row in x]
    return torch.stack([row @ trunk.unembed.W_U for row in final])


@pytest.mark.parametrize("time", [1, 3, 6])
def test_the_forward_pass_is_the_double_loop(time):
    tokens = TOKENS[:time]
    found = MODEL(reading(tokens[None], torch.device("cpu")))[0]
    torch.testing.assert_close(found, by_hand(MODEL, tokens), atol=1e-5, rtol=1e-4)
    assert found.shape == (time, 5)


def test_only_as_many_rows_of_the_position_tables_as_the_reach_are_ever_used():
    model = perturbed().requires_grad_(True)
    model(Batch.from_tokens(TOKENS[None, :7])).square().sum().backward()
    for name, weight in model.named_parameters():
        if "R_" in name:
            used = weight.grad.abs().sum(1).nonzero()[:, 0]
            assert (used - 5).tolist() == [-2, -1, 0]


def test_what_is_out_of_reach_of_all_layers_is_not_seen():
    other = TOKENS[:6].copy()
    other[0] = (other[0] + 1) % N_TOKENS
    one, two = (MODEL(reading(tokens[None], torch.device("cpu")))[0] for tokens in (TOKENS[:6], other))
    same = (one == two).all(1).tolist()
    assert same == [False] * 5 + [True]  # two layers of reach 3 see 2 (3 - 1) + 1 = 5 tokens


def test_first_weights_are_the_published_ones_and_the_seed_decides_them():
    config = MatchingConfig(n_tokens=200, n_out=32, n_layers=2, n_heads=2, d_model=64, reach=16, seed=3)
    model = MatchingModel(config)
    spread = {name.rpartition(".")[2]: weight.std().item() for name, weight in model.named_parameters()}
    assert spread["W_E"] == pytest.approx(0.02, rel=0.1)
    assert spread["W_out"] == pytest.approx(0.02 / math.sqrt(4), rel=0.1)
    assert spread["W_O"] == pytest.approx(0.02 / math.sqrt(4), rel=0.1)
    assert spread["R_K"] == pytest.approx(math.sqrt(2 / (31 + 32)), rel=0.1)
    again = MatchingModel(config)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))


def test_the_published_size_is_the_published_size():
    config = MatchingConfig(n_tokens=50257)
    with torch.device("meta"):
        trunk = Transformer(config.trunk())
    embedding, unembedding = (table.numel() for table in (trunk.embed.W_E, trunk.unembed.W_U))
    total = sum(weight.numel() for weight in trunk.parameters()) - unembedding + config.d_model * config.n_out
    assert embedding == 38_597_376
    assert total == pytest.approx(67.1e6, rel=2e-3)


def test_an_embedding_is_copied_or_refused():
    model = perturbed()
    embedding = torch.arange(7 * 8.0).view(7, 8)
    model.copy_embedding(embedding)
    assert torch.equal(model.trunk.embed.W_E, embedding)
    with pytest.raises(ValueError, match=r"embedding has shape \(8, 7\); this model's is \(7, 8\)"):
        model.copy_embedding(embedding.T)


def test_what_no_matching_model_can_be_or_read_is_refused():
    with pytest.raises(ValueError, match="n_ctx=3 must be at least 4"):
        MatchingConfig(n_tokens=3, reach=4, n_ctx=3)
    with pytest.raises(ValueError, match="d_model=9 is not a multiple of n_heads=2"):
        MatchingConfig(n_tokens=3, n_heads=2, d_model=9)
    batch = Batch.from_tokens([[0, 1, 2]])
    with pytest.raises(ValueError, match="the batch has attend of its own"):
        MODEL(batch.with_(attend=torch.ones(1, 2, 2, dtype=torch.bool).tril()))
    with pytest.raises(ValueError, match="n_ctx=6"):
        MODEL(reading(TOKENS[None, :7], torch.device("cpu")))


# --- windows


@pytest.mark.parametrize("window", [1, 4, 6])
@pytest.mark.parametrize("time", [1, 3, 6, 25])
def test_the_feature_of_a_position_is_that_of_its_window_read_by_itself(window, time):
    features = WindowFeatures(MODEL, window)
    tokens = TOKENS[:time]
    alone = [
        MODEL(reading(tokens[None, max(0, t - window + 1) : t + 1], torch.device("cpu")))[0, -1] for t in range(time)
    ]
    torch.testing.assert_close(features(tokens), torch.stack(alone), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.last(tokens), alone[-1], atol=1e-5, rtol=1e-5)


def test_each_window_of_a_document_is_encoded_once_and_overlapping_contexts_share_theirs():
    model, counting = counted(MODEL)
    features = WindowFeatures(model, 4)
    features(TOKENS)
    distinct = len({tuple(TOKENS[t - 4 : t]) for t in range(5, 26)})
    assert counting.read == 1 + distinct
    before = counting.read
    features(TOKENS[3:20])
    assert counting.read == before + 1  # only its opening is new: what its first positions see is cut off there
    features.last(TOKENS[:18])
    assert counting.read == before + 1
    features(np.concatenate([TOKENS, [0]]))
    assert counting.read <= before + 3


def test_windows_are_forgotten_when_they_are_too_many_and_when_the_weights_change():
    few, all_of_them = WindowFeatures(MODEL, 4, remembered=3), WindowFeatures(MODEL, 4)
    for start, stop in pairwise([0, 7, 13, 25]):
        torch.testing.assert_close(few(TOKENS[start:stop]), all_of_them(TOKENS[start:stop]))
    model = perturbed().requires_grad_(True)
    features = WindowFeatures(model, 4)
    before = features(TOKENS)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(Batch.from_tokens(TOKENS[None, :5])).square().sum().backward()
    optimiser.step()
    after = features(TOKENS)
    torch.testing.assert_close(after, WindowFeatures(model, 4)(TOKENS))
    assert (after - before).abs().max() > 0.01


def test_features_of_whole_contexts_can_be_confined_to_windows():
    model = Transformer(TransformerConfig(n_tokens=N_TOKENS, n_ctx=8, d_model=16))
    whole = ResidualFeatures(model, "blocks.1.resid_post")
    found = WindowFeatures(whole, 5)(TOKENS)
    expected = torch.stack([whole(TOKENS[max(0, t - 4) : t + 1])[-1] for t in range(25)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="window=9 must lie between 1 and 8"):
        WindowFeatures(whole, 9)
    with pytest.raises(ValueError, match="window is None, and the features have no n_ctx"):
        WindowFeatures(GivenFeatures(lambda tokens: tokens[:, None], N_TOKENS))


# --- on disk


def test_a_matching_model_and_a_head_come_back_from_their_files(tmp_path):
    model = perturbed()
    path = save(tmp_path / "matching.safetensors", model, made_by={"teacher": "none"})
    found = load_matcher(path)
    assert found.config == model.config
    torch.testing.assert_close(WindowFeatures(found)(TOKENS), WindowFeatures(model)(TOKENS), atol=0, rtol=0)
    head = ResidualHead(HeadConfig("blocks.0.resid_post", 8, 3, seed=4))
    found = load_matcher(save(tmp_path / "head", head))
    assert (found.site, found.config) == (head.site, head.config)
    assert torch.equal(found.A, head.A)
    with pytest.raises(ValueError, match=r"matching\.safetensors' holds a MatchingModel, which load_matcher reads"):
        load(path)
    transformer = save(tmp_path / "model.safetensors", Transformer(TransformerConfig(n_tokens=3)))
    with pytest.raises(ValueError, match=r"model\.safetensors' holds a Transformer, which load reads"):
        load_matcher(transformer)
