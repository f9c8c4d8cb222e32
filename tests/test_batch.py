from __future__ import annotations

from dataclasses import FrozenInstanceError

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nextlens.models.batch import Batch, refuse_out_of_range, whole_numbers
from nextlens.models.prefixes import PrefixTree

words = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6), elements=st.integers(0, 4))
BATCH = Batch.from_tokens([[3, 1, 4, 1], [2, 0, 0, 2]])
FIELDS = ("tokens", "targets", "weights", "positions")


@given(words)
def test_what_is_said_is_what_is_read_one_later(word):
    batch = Batch.from_tokens(word)
    assert np.array_equal(batch.tokens, word[:, :-1])
    assert np.array_equal(batch.targets, word[:, 1:])
    assert (batch.weights == 1).all()
    assert (batch.positions == torch.arange(word.shape[1] - 1)).all()
    assert batch.attend is None
    assert len(batch) == len(word)


@pytest.mark.parametrize(
    "make", [list, np.array, torch.tensor, lambda x: np.array(x, np.uint8), lambda x: np.array(x).T]
)
def test_lists_arrays_and_tensors_of_integers_are_read_alike(make):
    word = [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    batch = Batch.from_tokens(make(word))
    assert batch.tokens.dtype == torch.int64
    assert batch.tokens.tolist() == [[0, 1], [1, 0], [2, 1]]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros((0, 3), int), r"tokens has shape \(0, 3\)"),
        ([[1]], r"tokens has shape \(1, 1\); .* one token to read and one to say"),
        ([1, 2, 3], r"tokens has shape \(3,\)"),
        ([[0.0, 1.0]], "tokens are float64; they must be integers"),
        ([[True, False]], "tokens are bool; they must be integers"),
        ([[0, -1, 2]], "tokens hold -1; token ids start at 0"),
    ],
)
def test_what_is_no_batch_of_words_is_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        Batch.from_tokens(tokens)


# --- refusals of parts that do not fit


@pytest.fixture
def without_shape_checks(monkeypatch):
    """As it is for users: the signatures are not run, so that the project's own refusals are reached."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", ["targets", "weights", "positions"])
def test_a_field_of_another_shape_is_refused_by_name(name, without_shape_checks):
    with pytest.raises(ValueError, match=rf"{name} has shape \(2, 2\); tokens has \(2, 3\)"):
        BATCH.with_(**{name: getattr(BATCH, name)[:, :2]})


def test_a_batch_without_a_sequence_or_a_position_is_refused():
    with pytest.raises(ValueError, match=r"tokens has shape \(0, 3\)"):
        BATCH[2:]
    with pytest.raises(ValueError, match=r"tokens has shape \(2, 0\)"):
        Batch(*(getattr(BATCH, name)[:, :0] for name in FIELDS))


def test_a_mask_of_another_shape_is_refused(without_shape_checks):
    with pytest.raises(ValueError, match=r"attend has shape \(2, 3, 2\); it must be \(2, 3, 3\)"):
        BATCH.with_(attend=torch.ones(2, 3, 2, dtype=torch.bool))


def test_a_position_that_may_look_at_nothing_is_refused():
    attend = torch.ones(2, 3, 3, dtype=torch.bool)
    attend[1, 2] = False
    with pytest.raises(ValueError, match="attend lets position 2 of sequence 1 look at nothing"):
        BATCH.with_(attend=attend)


def test_a_batch_is_frozen():
    with pytest.raises(FrozenInstanceError):
        BATCH.tokens = BATCH.targets


# --- trees


@pytest.mark.parametrize(
    "changes",
    [
        {"attend": torch.ones(2, 3, 3, dtype=torch.bool).tril()},
        {"positions": BATCH.positions + 1},
        {"positions": BATCH.positions.flip(1)},
        {"tree": PrefixTree.of(BATCH.tokens[:, :2])},
    ],
    ids=["attend", "positions shifted", "positions reversed", "another shape"],
)
def test_a_tree_is_refused_where_equal_prefixes_may_differ(changes):
    with pytest.raises(ValueError, match="tree is only for"):
        BATCH.with_(**{"tree": PrefixTree.of(BATCH.tokens)} | changes)


@given(st.integers(0, 2**32 - 1))
def test_a_tree_of_other_tokens_is_refused_where_a_node_stands_for_unequal_prefixes(seed):
    made_from, others = torch.from_numpy(np.random.default_rng(seed).integers(2, size=(2, 3, 3)))
    tree, read = PrefixTree.of(made_from), {}
    for b, t in np.ndindex(3, 3):
        read.setdefault(int(tree.node[b, t]), set()).add(tuple(others[b, : t + 1].tolist()))
    plain = Batch(others, others, torch.ones(3, 3), torch.arange(3).expand(3, 3))
    if all(len(prefix) == 1 for prefix in read.values()):
        assert plain.with_(tree=tree).tree is tree
    else:
        with pytest.raises(ValueError, match="tree is only for the tokens it was made from"):
            plain.with_(tree=tree)


@pytest.mark.parametrize("name", ["tokens", "positions"])
def test_a_tree_does_not_survive_what_it_was_made_from(name):
    batch = BATCH.with_(tree=PrefixTree.of(BATCH.tokens))
    assert batch.with_(**{name: getattr(batch, name).clone()}).tree is None
    assert batch[:1].tree is None
    assert batch.with_(weights=batch.weights * 2).tree is batch.tree


def test_the_tree_of_a_batch_is_that_of_what_is_read():
    batch = Batch.from_tokens([[0, 1, 1], [0, 1, 0]], tree=True)
    assert batch.tree.node.tolist() == [[0, 1], [0, 1]]


# --- parts and places


def test_rows_of_a_batch_are_rows_of_each_field():
    attend = torch.ones(2, 3, 3, dtype=torch.bool).tril()
    part = BATCH.with_(attend=attend)[1:]
    for name in (*FIELDS, "attend"):
        whole = getattr(BATCH.with_(attend=attend), name)
        assert torch.equal(getattr(part, name), whole[1:])


def test_every_part_of_a_batch_moves_to_the_device():
    there = Batch.from_tokens([[0, 1, 1], [0, 1, 0]], tree=True).to("cpu")
    assert there.device == torch.device("cpu")
    assert len(there.tree) == 2
    attend = torch.ones(2, 3, 3, dtype=torch.bool)
    assert BATCH.with_(attend=attend).to("cpu").attend.all()
    assert Batch.from_tokens([[0, 1]], device="cpu").device == torch.device("cpu")


# --- refusals that models share


def test_whole_numbers_are_int64_of_any_shape():
    assert whole_numbers("ids", np.array([], np.int32)).dtype == torch.int64
    assert whole_numbers("ids", 3).item() == 3
    with pytest.raises(ValueError, match="ids are complex128; they must be integers"):
        whole_numbers("ids", np.array([1j]))


@pytest.mark.parametrize("worst", [-1, 3, 9])
def test_ids_out_of_range_are_refused_with_the_worst_and_the_limit(worst):
    with pytest.raises(ValueError, match=rf"tokens hold {worst}; with n_tokens=3 they must lie in 0 \.\. 2"):
        refuse_out_of_range("tokens", torch.tensor([0, worst, 0]), 3, limit_name="n_tokens")
    refuse_out_of_range("tokens", torch.tensor([0, 2]), 3, limit_name="n_tokens")
