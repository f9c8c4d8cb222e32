"""Any module in memory: its sites are what its submodules return; what cannot be a next-token model is refused."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch import nn

from nextlens.models.attached import Attached
from nextlens.models.batch import Batch
from nextlens.models.checkpoints import load
from nextlens.models.hooked import Hooked
from nextlens.models.vocabulary import Bytes, Symbols

BATCH = Batch.from_tokens([[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]])


class Reader(nn.Module):
    """A recurrent layer between an embedding and a linear one; the layer returns a tuple."""

    def __init__(self, n_tokens: int = 3, dropout: float = 0.0):
        super().__init__()
        self.embed, self.layer = nn.Embedding(n_tokens, 8), nn.GRU(8, 8, batch_first=True)
        self.drop, self.spare, self.head = nn.Dropout(dropout), nn.Linear(8, 8), nn.Linear(8, n_tokens)

    def forward(self, tokens):
        return self.head(self.drop(self.layer(self.embed(tokens))[0]))


SITES = {"embed": "embed", "blocks.0.resid_post": "layer", "ln_final.normalized": "drop"}


def reader(**how) -> Reader:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Reader(**how)


def test_sites_hold_what_the_submodules_return():
    module = reader()
    model = load(module, sites=SITES, unembedding="head")
    assert isinstance(model, Hooked)
    assert model.sites == ("hook_embed", "blocks.0.hook_resid_post", "ln_final.hook_normalized")
    assert (model.n_tokens, model.module) == (3, module)
    with model.watched(*model.sites) as seen:
        logits = model(BATCH)
    assert torch.equal(seen["hook_embed"], module.embed(BATCH.tokens))
    assert torch.equal(seen["blocks.0.hook_resid_post"], module.layer(module.embed(BATCH.tokens))[0])
    assert torch.equal(logits, module(BATCH.tokens))
    torch.testing.assert_close(seen["ln_final.hook_normalized"] @ model.unembedding + module.head.bias, logits)


def test_submodules_are_taken_as_well_as_names_and_sites_come_in_the_order_of_the_call():
    module = reader()
    model = Attached(module, {"last": module.head, "first": module.embed})
    assert model.sites == ("hook_first", "hook_last")
    assert model.unembedding is None


def test_logits_are_read_as_one_says():
    module = reader()
    said = namedtuple("said", "logits state")
    cold = load(module, sites=SITES, logits=lambda module, tokens: module(tokens) / 2)
    assert torch.equal(cold(BATCH), module(BATCH.tokens) / 2)

    class Wrapping(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.inner, self.wrap = module, wrap

        def forward(self, tokens):
            return self.wrap(self.inner(tokens))

    for wrap in (lambda x: (x, None), lambda x: said(x, None)):
        assert torch.equal(Attached(Wrapping(wrap), {"embed": "inner.embed"})(BATCH), module(BATCH.tokens))


def test_an_edit_replaces_the_first_of_a_named_tuple():
    pair = namedtuple("pair", "value rest")

    class Pair(nn.Module):
        def forward(self, x):
            return pair(x, "kept")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.pair, self.rest = nn.Embedding(3, 3), Pair(), None

        def forward(self, tokens):
            value, self.rest = self.pair(self.embed(tokens))
            return value

    model = Attached(Model(), {"pair": "pair"})
    with model.edited("pair", torch.zeros_like):
        assert (model(BATCH) == 0).all()
    assert model.module.rest == "kept"


def test_the_module_is_put_in_evaluation_mode_and_the_random_state_is_left():
    module, before = reader(dropout=0.5), torch.get_rng_state()
    model = load(module, sites=SITES)
    assert not module.training
    assert torch.equal(model(BATCH), model(BATCH))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_module_stays_in_its_precision_unless_another_is_asked_for():
    assert load(reader().double(), sites=SITES)(BATCH).dtype == torch.float64
    model = load(reader(), sites=SITES, dtype="bfloat16", unembedding="head")
    assert (model(BATCH).dtype, model.unembedding.dtype) == (torch.bfloat16, torch.bfloat16)
    assert model.log_probs(BATCH).dtype == torch.float32
    torch.testing.assert_close(model.log_probs(BATCH).exp().sum(-1), torch.ones(2, 4))


def test_the_vocabulary_is_kept_if_it_fits():
    assert load(reader(), sites=SITES, vocabulary=Symbols("abc")).vocabulary == Symbols("abc")
    with pytest.raises(ValueError, match="vocabulary holds 256 tokens and the model n_tokens=3"):
        load(reader(), sites=SITES, vocabulary=Bytes())


# --- refusals


class Twice(Reader):
    def forward(self, tokens):
        return self.head(self.drop(self.drop(self.embed(tokens))))


class Ahead(Reader):
    def forward(self, tokens):
        return self.head(self.layer(self.embed(tokens).flip(1))[0].flip(1))


@pytest.mark.parametrize(
    ("module", "sites", "message"),
    [
        (reader(), {"embed": "embedding"}, "site='embed' is given as 'embedding', which is no part of the module"),
        (reader(), {"embed": nn.Linear(1, 1)}, "site='embed' is given as a Linear that is no part of the module"),
        (reader(), {"x": "spare"}, "site='hook_x' is reached 0 times in a call; a site is reached once"),
        (Twice(), {"x": "drop"}, "site='hook_x' is reached 2 times in a call"),
        (Ahead(), {"x": "embed"}, "'Ahead' is no next-token model: what it says after one token changes"),
        (
            nn.Sequential(nn.Embedding(3, 4), nn.Flatten()),
            {"x": "0"},
            r"logits .* are \(1, 8\); they must be \(1, 2, n_",
        ),
        (
            nn.Sequential(nn.Identity(), nn.Embedding(3, 3)),
            {"x": "0"},
            "site='hook_x' gives Tensor; it must give a tensor",
        ),
    ],
)
def test_what_is_no_hooked_kernel_is_refused_and_keeps_no_hook(module, sites, message):
    with pytest.raises(ValueError, match=message):
        load(module, sites=sites)
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.parametrize("given", ["embed", torch.ones(3, 8), nn.Dropout()])
def test_an_unembedding_that_does_not_lead_to_the_vocabulary_is_refused(given):
    module = reader(n_tokens=5)
    given = module.drop if isinstance(given, nn.Dropout) else given
    if given == "embed":
        module.embed = nn.Embedding(7, 8)
    with pytest.raises(ValueError, match=r"unembedding is .*; it must be \(width, n_tokens=5\)"):
        Attached(module, {"embed": "embed"}, unembedding=given)


def test_a_weight_that_is_no_number_is_refused():
    module = reader()
    with torch.no_grad():
        module.head.bias[1] = torch.nan
    with pytest.raises(ValueError, match=r"head\.bias in 'Reader' holds 1 NaN or infinite number of 3"):
        load(module, sites=SITES)


def test_positions_attention_and_length_of_its_own_are_refused_by_name():
    model = Attached(reader(), SITES, n_ctx=4)
    with pytest.raises(ValueError, match="the batch has positions of its own, which a module given by its sites"):
        model(BATCH.with_(positions=BATCH.positions + 1))
    with pytest.raises(ValueError, match="the batch has attend of its own"):
        model(BATCH.with_(attend=torch.ones(2, 4, 4, dtype=torch.bool).tril()))
    with pytest.raises(ValueError, match="tokens has sequences of 5; this module takes n_ctx=4"):
        model(Batch.from_tokens([[0] * 6]))
    with pytest.raises(ValueError, match="tokens hold 3; with n_tokens=3"):
        model(Batch.from_tokens([[0, 3, 0]]))


def test_a_module_without_sites_is_refused():
    with pytest.raises(ValueError, match=r"a Reader needs sites=\{name: submodule\}"):
        load(reader())
    with pytest.raises(TypeError, match="what is a int; it must be a path, a state dict"):
        load(3)
