from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nextlens.models.batch import Batch
from nextlens.models.objectives.next_token import next_token, weighted_mean
from nextlens.models.prefixes import PrefixTree
from nextlens.models.processes import mess3
from nextlens.models.transformer import Transformer, TransformerConfig

#: Small alphabets are numbered by counting, large ones by sorting: both ways are drawn.
shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)
elements = st.integers(0, 2) | st.sampled_from([0, 5, 50_000, 2**31 - 1])
tokens = arrays(np.int64, shapes, elements=elements).map(torch.from_numpy)


def prefixes(tokens: torch.Tensor) -> list[tuple[int, ...]]:
    """What has been read at each position, in the order of ``node.flatten()``."""
    return [tuple(row[: t + 1]) for row in tokens.tolist() for t in range(len(row))]


@given(tokens)
def test_nodes_are_equal_exactly_where_prefixes_are(tokens):
    node = PrefixTree.of(tokens).node.flatten().tolist()
    prefix = prefixes(tokens)
    assert len(set(zip(node, prefix, strict=True))) == len(set(node)) == len(set(prefix))


@given(tokens)
def test_nodes_are_numbered_from_zero_without_gaps_and_level_by_level(tokens):
    tree = PrefixTree.of(tokens)
    assert tree.node.unique().tolist() == list(range(len(tree)))
    length = (tree.first % tokens.shape[1]).tolist()
    assert length == sorted(length)


@given(tokens)
def test_first_is_where_a_node_first_occurs(tokens):
    tree = PrefixTree.of(tokens)
    flat = tree.node.flatten().tolist()
    assert tree.first.tolist() == [flat.index(node) for node in range(len(tree))]


@given(tokens)
def test_lineage_is_the_node_of_every_shorter_prefix_and_then_itself(tokens):
    tree = PrefixTree.of(tokens)
    node_of = dict(zip(prefixes(tokens), tree.node.flatten().tolist(), strict=True))
    for prefix, node in node_of.items():
        within = range(1, tokens.shape[1] + 1)
        assert tree.read[node].tolist() == [length <= len(prefix) for length in within]
        assert tree.lineage[node].tolist() == [node_of[prefix[:length]] for length in within]


MODELS = {
    positions: Transformer(
        TransformerConfig(n_tokens=3, d_model=8, n_heads=2, d_mlp=8, n_ctx=9, positions=positions)
    ).double()
    for positions in ("learned", "rotary", "none", "relative", "grid")
}


@pytest.mark.parametrize("positions", MODELS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_loss_and_gradient_with_a_tree_are_those_without(positions, seed):
    rng, model = np.random.default_rng(seed), MODELS[positions]
    word = rng.integers(3, size=(6, 6))
    batch = Batch.from_tokens(word).with_(weights=torch.from_numpy(rng.normal(size=(6, 5))))
    parameters = list(model.parameters())
    with_tree = batch.with_(tree=PrefixTree.of(batch.tokens))
    plain, shared = (weighted_mean(next_token(model, one), one.weights) for one in (batch, with_tree))
    torch.testing.assert_close(shared, plain, atol=1e-12, rtol=0)
    for one, other in zip(torch.autograd.grad(shared, parameters), torch.autograd.grad(plain, parameters), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_many_short_words_hold_every_prefix_there_is_and_no_more():
    word = mess3().sample(20_000, 5, np.random.default_rng(0))
    tree = PrefixTree.of(torch.from_numpy(word))
    assert len(tree) == 3 + 3**2 + 3**3 + 3**4 + 3**5


def test_words_that_never_agree_share_nothing():
    tree = PrefixTree.of(torch.arange(12).view(4, 3))
    assert len(tree) == 12


def test_one_word_repeated_is_computed_once():
    assert len(PrefixTree.of(torch.tensor([[1, 0, 1]]).expand(50, 3))) == 3
