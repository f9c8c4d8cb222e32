from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, MambaConfig

from nextlens.models.attached import Attached
from nextlens.models.batch import Batch
from nextlens.models.bridge import Bridged
from nextlens.models.contexts import Conditioned, Truncated
from nextlens.models.deployment import Eta, Greedy, MinP, Nucleus, Tempered, TopK
from nextlens.models.hooked import Hooked, canonical_site
from nextlens.models.hugging_face import wrapped
from nextlens.models.induction import ExactInduction, InfiniGram, SuffixArray
from nextlens.models.induction.context_features import BeliefFeatures, LawFeatures, ResidualFeatures
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.kneser_ney import KneserNey
from nextlens.models.induction.matching_model import MatchingConfig, MatchingModel
from nextlens.models.induction.window_features import WindowFeatures
from nextlens.models.kernel import Kernel
from nextlens.models.mixtures import Interpolated, Mixture
from nextlens.models.objectives.next_token import next_token, weighted_mean
from nextlens.models.prefixes import PrefixTree
from nextlens.models.processes import golden_mean, mess3, rrxor
from nextlens.models.recording import surprisal
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.tilted import Tilted
from nextlens.models.transformer import Transformer, TransformerConfig

SMALL = TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=8, seed=1)


def foreign(config, name: str) -> Bridged:
    """A transformers model with weights far from their first values, drawn alike each time."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return wrapped(model, name)


def attached() -> Attached:
    """Two PyTorch layers of attention, whose blocks return tuples, given by their submodules."""

    class Block(nn.TransformerEncoderLayer):
        def forward(self, x):
            ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
            return super().forward(x, src_mask=ahead), "something else"

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.head = nn.Embedding(3, 16), nn.LayerNorm(16), nn.Linear(16, 3, bias=False)
            self.blocks = nn.ModuleList(Block(16, 2, 24, batch_first=True, norm_first=True) for _ in range(2))

        def forward(self, tokens):
            x = self.embed(tokens)
            for block in self.blocks:
                x, _ = block(x)
            return self.head(self.norm(x))

    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Model()
    sites = {"blocks.0.resid_post": "blocks.0", "blocks.1.resid_post": "blocks.1", "ln_final.normalized": "norm"}
    return Attached(model, sites, unembedding="head")


#: What a small transformers model is made of, under the names of Llama, GPT-NeoX and Mamba.
SHAPE = {"vocab_size": 3, "hidden_size": 16, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0}
HEADS = {"intermediate_size": 24, "num_attention_heads": 2, "max_position_embeddings": 8}

#: Every kernel with named insides. A new one joins the laws of both tables by its line here.
HOOKED = {
    "transformer": Transformer(SMALL),
    "rotary": Transformer(replace(SMALL, positions="rotary")),
    "no positions": Transformer(replace(SMALL, positions="none")),
    "relative": Transformer(replace(SMALL, positions="relative")),
    "gated": Transformer(replace(SMALL, gated=True, activation="silu")),
    "pre and post RMSNorm": Transformer(replace(SMALL, normalisation="RMSNorm", post_normalisation=True)),
    "no normalisation": Transformer(replace(SMALL, normalisation="none")),
    "attention only": Transformer(replace(SMALL, d_mlp=0)),
    "bridged": Bridged(Transformer(SMALL).to_bridge()),
    "bridged, rotary gated RMSNorm": Bridged(
        Transformer(
            replace(SMALL, positions="rotary", gated=True, activation="silu", normalisation="RMSNorm")
        ).to_bridge()
    ),
    "bridged, attention only": Bridged(Transformer(replace(SMALL, d_mlp=0)).to_bridge()),
    "bridged, no normalisation": Bridged(Transformer(replace(SMALL, normalisation="none")).to_bridge()),
    "bridged GPT-2": foreign(
        GPT2Config(vocab_size=3, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0), "GPT-2"
    ),
    "bridged Llama": foreign(LlamaConfig(**SHAPE, **HEADS, num_key_value_heads=1), "Llama"),
    "bridged Pythia": foreign(GPTNeoXConfig(**SHAPE, **HEADS), "Pythia"),
    "bridged Mamba": foreign(MambaConfig(**SHAPE, state_size=4), "Mamba"),
    "attached": attached(),
    "GRU": Recurrent(RecurrentConfig(n_tokens=3, kind="GRU", n_layers=2, d_model=16, seed=1)),
    "LSTM": Recurrent(RecurrentConfig(n_tokens=3, kind="LSTM", n_layers=2, d_model=16, seed=1)),
    "RNN, one-hot": Recurrent(RecurrentConfig(n_tokens=3, kind="RNN", n_layers=2, d_model=16, one_hot=True, seed=1)),
}

#: Matchers look through these: windows shorter than the words, and a model that reads them in chunks.
MATCHING = MatchingModel(MatchingConfig(n_tokens=3, n_out=4, n_layers=1, n_heads=2, d_model=8, reach=1, n_ctx=2))
LITTLE = Transformer(replace(SMALL, n_layers=1, n_ctx=2))

#: Every kernel, and the length of the words that it is tried on. A new one joins by its line.
KERNELS = {
    **{name: (model, 5) for name, model in HOOKED.items()},
    "mess3": (mess3(), 5),
    "rrxor": (rrxor(), 9),
    "golden mean": (golden_mean(), 6),
    "infini-gram": (InfiniGram(SuffixArray.build([[0, 1, 2, 0, 1, 1], [2, 0, 0]], 3)), 5),
    "infini-gram, ends": (InfiniGram(SuffixArray.build([[0, 1, 0, 1, 1], [1], [1, 0]], 3), end=2), 5),
    "exact induction": (ExactInduction(3), 5),
    "exact induction, window": (ExactInduction(3, window=3, floor=0.1), 5),
    "fuzzy induction, matching model": (FuzzyInduction(WindowFeatures(MATCHING)), 3),
    "fuzzy induction, residual stream": (FuzzyInduction(ResidualFeatures(LITTLE, "blocks.0.resid_post")), 3),
    "fuzzy induction, laws": (FuzzyInduction(LawFeatures(LITTLE), distance="jeffreys", floor=0.1), 3),
    "fuzzy induction, beliefs": (FuzzyInduction(BeliefFeatures(mess3()), window=3), 3),
    "GIM": (
        GIM(
            InfiniGram(SuffixArray.build([[0, 1, 2, 0, 1, 1], [2, 2, 0]], 3)),
            ExactInduction(3),
            FuzzyInduction(BeliefFeatures(mess3())),
            threshold=2,
        ),
        4,
    ),
    "Kneser-Ney": (KneserNey([np.array([0, 1, 2, 0, 1, 1]), np.array([2, 2, 0])], 3, order=3), 4),
    "tempered": (Tempered(HOOKED["transformer"], 0.7), 5),
    "top-k": (TopK(HOOKED["transformer"], 2), 5),
    "nucleus": (Nucleus(HOOKED["transformer"], 0.7), 5),
    "min-p": (MinP(HOOKED["transformer"], 0.5), 5),
    "eta": (Eta(HOOKED["transformer"], 0.3), 5),
    "greedy": (Greedy(HOOKED["transformer"]), 5),
    "truncated": (Truncated(HOOKED["transformer"], 2), 5),
    "truncated, positions kept": (Truncated(HOOKED["transformer"], 2, positions="keep"), 5),
    "conditioned": (Conditioned(HOOKED["transformer"], (2, 0)), 5),
    "mixture": (Mixture((mess3(), HOOKED["transformer"]), (0.3, 0.7)), 5),
    "interpolated": (Interpolated((mess3(), HOOKED["transformer"]), (0.3, 0.7)), 5),
    "tilted": (Tilted(HOOKED["transformer"], lambda strings: strings.double().std(-1), 0.5, horizon=5), 5),
}
every_kernel = pytest.mark.parametrize("name", KERNELS)
every_hooked = pytest.mark.parametrize("name", HOOKED)
with_attention = pytest.mark.parametrize(
    "name", [name for name, model in HOOKED.items() if "blocks.0.attn.hook_pattern" in model.sites]
)


@dataclass(frozen=True)
class Said:
    """What a kernel says after every prefix of every word that it can read."""

    kernel: Kernel
    batch: Batch
    log_probs: torch.Tensor

    @classmethod
    def by(cls, kernel: Kernel, length: int) -> Said:
        words = np.array(list(product(range(kernel.n_tokens), repeat=length)))
        if hasattr(kernel, "log_likelihood"):
            words = words[[can_say(kernel, word) for word in words]]
        batch = Batch.from_tokens(words)
        with torch.no_grad():
            return cls(kernel, batch, kernel.log_probs(batch).double())


def can_say(process, word: np.ndarray) -> bool:
    belief = process.initial
    for token in word:
        belief = belief @ process.transition[token]
    return bool(belief.sum() > 0)


@pytest.fixture(scope="module")
def said(request) -> Said:
    return Said.by(*KERNELS[request.param])


of_every_kernel = pytest.mark.parametrize("said", KERNELS, indirect=True)


# --- the laws of kernels, on every word


@every_kernel
def test_is_a_kernel(name):
    assert isinstance(KERNELS[name][0], Kernel)


@of_every_kernel
def test_rows_sum_to_one_and_hold_no_nan(said):
    total = said.log_probs.exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)
    assert said.log_probs.shape == (*said.batch.tokens.shape, said.kernel.n_tokens)


@of_every_kernel
def test_the_future_never_changes_the_past(said):
    tree = PrefixTree.of(said.batch.tokens)
    where_first_read = said.log_probs.flatten(0, 1)[tree.first][tree.node]
    torch.testing.assert_close(said.log_probs, where_first_read, atol=1e-5, rtol=0)


@of_every_kernel
def test_a_row_is_the_last_row_of_the_words_cut_there(said):
    for t in range(said.batch.tokens.shape[1]):
        cut = Batch.from_tokens(torch.cat([said.batch.tokens[:, : t + 1], said.batch.targets[:, t : t + 1]], dim=1))
        with torch.no_grad():
            last = said.kernel.log_probs(cut)[:, -1].double()
        torch.testing.assert_close(said.log_probs[:, t], last, atol=1e-5, rtol=0)


@of_every_kernel
def test_a_row_is_the_law_of_the_token_that_follows_it(said):
    word = torch.cat([said.batch.tokens[:, :1], said.batch.targets], dim=1)
    bits = surprisal(said.kernel, said.batch).values
    for b, t in np.ndindex(*bits.shape):
        assert bits[b, t] * np.log(2) == pytest.approx(-said.log_probs[b, t, word[b, t + 1]].item(), abs=1e-5)


@every_hooked
def test_cross_entropy_is_the_mean_gathered_at_the_targets(name):
    said = Said.by(*KERNELS[name])
    gathered = -said.log_probs.gather(2, said.batch.targets[..., None])[..., 0]
    with torch.no_grad():
        loss = next_token(said.kernel, said.batch)
    torch.testing.assert_close(loss.double(), gathered, atol=1e-5, rtol=0)
    assert weighted_mean(loss, said.batch.weights).item() == pytest.approx(gathered.mean().item(), abs=1e-5)


# --- the laws of named insides

BATCH = Batch.from_tokens([[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]])


def hooks_on(model: nn.Module) -> int:
    return sum(
        len(hooks)
        for part in model.modules()
        for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    )


def shifted(value: torch.Tensor) -> torch.Tensor:
    """Not by the same everywhere: a normalisation takes no notice of that."""
    return value + torch.linspace(-1, 1, value.shape[-1])


@every_hooked
def test_is_hooked(name):
    assert isinstance(HOOKED[name], Hooked)


@every_hooked
def test_sites_are_in_the_order_in_which_they_are_computed(name):
    with HOOKED[name].watched(*reversed(HOOKED[name].sites)) as seen:
        HOOKED[name](BATCH)
    assert tuple(seen) == HOOKED[name].sites


@every_hooked
def test_every_site_can_be_watched_with_its_graph(name):
    model = HOOKED[name]
    with model.watched(*model.sites) as seen:
        model(BATCH)
    assert set(seen) == set(model.sites)
    assert all(value.requires_grad for value in seen.values())


@every_hooked
def test_no_hook_is_left_when_a_door_is_closed(name):
    model = HOOKED[name]
    before = hooks_on(model)
    with model.watched(*model.sites), model.edited("blocks.0.resid_post", shifted):
        assert hooks_on(model) > before
        model(BATCH)
    assert hooks_on(model) == before


@every_hooked
def test_watching_changes_no_logit(name):
    model = HOOKED[name]
    with model.watched(*model.sites):
        watched = model(BATCH)
    torch.testing.assert_close(watched, model(BATCH), atol=1e-5, rtol=0)


@every_hooked
def test_short_and_full_names_are_one_site_kept_under_the_name_given(name):
    with HOOKED[name].watched("blocks.1.resid_post", "blocks.1.hook_resid_post") as seen:
        HOOKED[name](BATCH)
    assert torch.equal(seen["blocks.1.resid_post"], seen["blocks.1.hook_resid_post"])


@every_hooked
@pytest.mark.parametrize("door", ["watched", "edited"])
def test_an_unknown_site_is_refused_with_the_nearest_one_and_leaves_no_hook(name, door):
    model, nearest = HOOKED[name], r"block\.0\.resid_post.*did you mean 'blocks\.0\.hook_resid_post'"
    before, arguments = hooks_on(model), ("block.0.resid_post", *[shifted] * (door == "edited"))
    with pytest.raises(ValueError, match=nearest), getattr(model, door)(*arguments):
        pass
    assert hooks_on(model) == before


@every_hooked
def test_watching_inside_an_edit_sees_the_edited_value_and_outside_it_the_original(name):
    model, site = HOOKED[name], "blocks.0.resid_post"
    with model.watched(site) as before:
        model(BATCH)
    with model.watched(site) as outside, model.edited(site, torch.zeros_like), model.watched(site) as inside:
        model(BATCH)
    torch.testing.assert_close(outside[site], before[site])
    assert (inside[site] == 0).all()


@every_hooked
def test_an_edit_that_gives_none_leaves_the_value(name):
    model, plain = HOOKED[name], HOOKED[name](BATCH)
    with model.edited("blocks.0.resid_post", lambda value: None):
        torch.testing.assert_close(model(BATCH), plain, atol=1e-5, rtol=0)


@every_hooked
def test_an_edit_of_any_site_that_can_be_edited_reaches_the_logits(name):
    model, plain = HOOKED[name], HOOKED[name](BATCH)
    editable = [site for site in model.sites if not (name.startswith("bridged") and site.endswith("resid_mid"))]
    for site in editable:
        with model.edited(site, lambda value: value * torch.linspace(0.5, 1.5, value.numel()).view_as(value)):
            assert (model(BATCH) - plain).abs().max() > 1e-6, site


@every_hooked
def test_no_hook_is_left_after_an_exception(name):
    model, plain = HOOKED[name], HOOKED[name](BATCH)
    before = hooks_on(model)

    def fail(value):
        raise ArithmeticError("from inside the edit")

    watched, edited = model.watched(*model.sites), model.edited("blocks.0.resid_post", fail)
    with pytest.raises(ArithmeticError, match="from inside the edit"), watched, edited:
        model(BATCH)
    assert hooks_on(model) == before
    assert torch.equal(model(BATCH), plain)


@with_attention
def test_the_residual_stream_is_a_sum_whatever_is_edited(name):
    model = HOOKED[name]
    parts = [part for part in ("resid_pre", "attn_out", "resid_mid", "mlp_out") if has(model, f"blocks.0.{part}")]
    for part in parts:
        if name.startswith("bridged") and part == "resid_mid":
            continue
        sites = *(f"blocks.0.{name}" for name in (*parts, "resid_post")), "blocks.1.resid_pre"
        with model.edited(f"blocks.0.{part}", shifted), model.watched(*sites) as seen:
            model(BATCH)
        inside = {site.removeprefix("blocks.0."): value for site, value in seen.items()}
        pre, out, post = inside["resid_pre"], inside["attn_out"], inside["resid_post"]
        middle, more = inside.get("resid_mid", pre + out), inside.get("mlp_out", 0)
        torch.testing.assert_close(post - middle - more, torch.zeros_like(post), atol=1e-6, rtol=0)
        if part != "resid_mid":
            torch.testing.assert_close(middle - pre - out, torch.zeros_like(post), atol=1e-6, rtol=0)
        assert torch.equal(seen["blocks.1.resid_pre"], post)


def has(model: Hooked, site: str) -> bool:
    try:
        return bool(canonical_site(site, model.sites))
    except ValueError:
        return False


@pytest.mark.parametrize(
    "name", [name for name in HOOKED if name.startswith("bridged") and has(HOOKED[name], "blocks.0.resid_mid")]
)
def test_an_edit_that_a_bridge_would_lose_is_refused(name):
    edited = HOOKED[name].edited("blocks.0.resid_mid", torch.zeros_like)
    with pytest.raises(ValueError, match=r"blocks\.0\.resid_mid.* edit 'blocks\.0\.hook_attn_out' instead"), edited:
        pass


@with_attention
def test_an_edit_of_the_residual_stream_changes_what_follows_and_nothing_before(name):
    model = HOOKED[name]
    sites = [f"blocks.{block}.resid_post" for block in range(2)]
    with model.watched(*sites) as before:
        plain = model(BATCH)
    with model.edited("blocks.1.resid_pre", shifted), model.watched(*sites) as after:
        edited = model(BATCH)
    torch.testing.assert_close(after[sites[0]], before[sites[0]], atol=1e-6, rtol=0)
    assert (after[sites[1]] - before[sites[1]]).abs().max() > 0.1
    assert (edited - plain).abs().max() > 1e-3


@every_hooked
def test_the_last_site_times_the_unembedding_is_the_logits(name):
    model = HOOKED[name]
    with model.watched("ln_final.hook_normalized") as seen:
        logits = model(BATCH)
    assert model.sites[-1] == "ln_final.hook_normalized"
    torch.testing.assert_close(seen["ln_final.hook_normalized"] @ model.unembedding, logits, atol=1e-6, rtol=0)


@with_attention
def test_an_edit_of_the_pattern_changes_the_logits(name):
    model, plain = HOOKED[name], HOOKED[name](BATCH)

    def itself_only(pattern):
        return torch.eye(pattern.shape[-1]).expand_as(pattern)

    with model.edited("blocks.0.attn.pattern", itself_only):
        edited = model(BATCH)
    torch.testing.assert_close(edited[:, 0], plain[:, 0], atol=1e-5, rtol=0)
    assert (edited[:, 1:] - plain[:, 1:]).abs().max() > 1e-4


@with_attention
def test_a_pattern_is_a_law_over_what_is_not_ahead(name):
    with HOOKED[name].watched("blocks.0.attn.pattern", "blocks.1.attn.pattern") as seen:
        HOOKED[name](BATCH)
    for pattern in seen.values():
        torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 2, 4), atol=1e-6, rtol=0)
        assert (pattern.triu(1) == 0).all()
