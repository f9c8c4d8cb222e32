"""Copying, products and fields of mines: what they say is true, and their ids say what belongs together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.models.objectives.on_policy import OnPolicy, answers, chain_is_right
from nextlens.models.tasks.copying import Copying
from nextlens.models.tasks.minesweeper import END, EQUALS, FREE, MINE, Minesweeper, mines_around
from nextlens.models.tasks.multiplication import END as STOP
from nextlens.models.tasks.multiplication import PLUS, Multiplication
from nextlens.models.tasks.prompted import batch_of
from nextlens.models.transformer import Transformer, TransformerConfig


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("places", ["coupled", "in order", "random start"])
def test_strings_are_said_again_and_each_token_has_the_id_of_its_source(reverse, places):
    task = Copying(length=6, n_symbols=4, reverse=reverse, places=places, n_positions=20)
    drawn = task.draw(40, np.random.default_rng(0))
    for row, source, ids, answer in zip(
        *(drawn[n].values for n in ("tokens", "source", "positions", "answer")), strict=True
    ):
        before, after = task.spelled(row).strip("$").split("=")
        assert after == (before[::-1] if reverse else before)
        said = np.flatnonzero(source >= 0)
        assert (row[source[said]] == row[said]).all()
        assert answer.sum() == len(after) + 1
        if places == "coupled":
            assert (ids[source[said]] == ids[said]).all()
            assert len(set(ids[said].tolist())) == len(said)
            assert ids[len(before) + 1] == ids[1] - 1
        elif places == "random start":
            assert (np.diff(ids[1 : 2 * len(before) + 2]) == 1).all()
        else:
            assert (ids == np.arange(len(row))).all()


def test_starts_of_strings_reach_every_id_and_lengths_are_uniform():
    drawn = Copying(length=3, n_symbols=2, n_positions=9).draw(3000, np.random.default_rng(0))
    assert np.unique(drawn.positions.values).tolist() == list(range(9))
    counts = np.bincount((drawn.source.values >= 0).sum(1), minlength=4)[1:]
    assert counts / 3000 == pytest.approx(np.full(3, 1 / 3), abs=0.04)


def test_longer_strings_than_trained_on_can_be_drawn_as_long_as_ids_last():
    task = Copying(length=3, n_positions=12)
    assert (task.draw(5, np.random.default_rng(0), length=10).source.values >= 0).sum(1).tolist() == [10] * 5
    with pytest.raises(ValueError, match=r"length=11 needs 13 positions and n_positions=12; .* has 10"):
        task.draw(5, np.random.default_rng(0), length=11)


@given(st.integers(0, 10**6 - 1), st.integers(0, 99), st.booleans())
@settings(max_examples=40, deadline=None)
def test_products_and_their_parts_are_exact(first, second, is_long):
    task = Multiplication(digits=6, p_chain=0.5)
    drawn = task.of([[first, second]], is_long=is_long)
    text = task.spelled(drawn.tokens.values[0]).strip("$.")
    prompt, *parts, product = text.replace("+", "=").split("=")
    assert prompt == f"{first:06d}*{second:02d}"
    assert int(product[::-1]) == first * second
    assert [int(part[::-1]) for part in parts] == ([first * (second % 10), first * (second // 10)] if is_long else [])


def test_digits_of_a_product_are_coupled_by_what_they_are_worth():
    """Adding up digit times ten to its significance gives each number back, in every part of the answer."""
    task = Multiplication(digits=4, p_chain=1.0, n_positions=30)
    drawn = task.draw(30, np.random.default_rng(0))
    tokens, worth, places = (drawn[name].values for name in ("tokens", "significance", "positions"))
    for row, j, ids in zip(tokens, worth, places, strict=True):
        value = np.where(j >= 0, row * 10.0 ** np.maximum(j, 0), 0)
        first, second = value[1:5].sum(), value[6:8].sum()
        plus = int(np.flatnonzero(row == PLUS)[0])
        assert value[9:plus].sum() == first * row[7]
        assert value[plus + 1 : plus + 6].sum() == first * row[6] * 10
        assert value[plus + 7 :].sum() == first * second
        start = ids[5]
        assert (ids[j >= 0] == start + 1 + j[j >= 0]).all()
        assert (ids[np.isin(row, (STOP, 13))] == 0).all()


def test_answers_to_products_are_judged_by_what_they_say():
    task = Multiplication(digits=2, p_chain=0.5)
    short, long = (task.of([[34, 56]], is_long=chain).tokens.values[0] for chain in (False, True))
    prompt, said = short[:7], [short[7 : 7 + task.longest_answer], long[7:]]
    said = [np.append(one, np.full(task.longest_answer - len(one), STOP)) for one in said]
    wrong_step, wrong_end, endless, padded = (said[1].copy() for _ in range(4))
    wrong_step[0] = (wrong_step[0] + 1) % 10
    wrong_end[-2] = (wrong_end[-2] + 1) % 10
    endless[-1] = 0
    padded[:] = STOP
    padded[0], padded[1:5] = 5, said[0][:4]
    cases = np.stack([*said, wrong_step, wrong_end, endless, padded])
    judged = task.judged(np.tile(prompt, (len(cases), 1)), cases)
    assert judged.last_is_right.values.tolist() == [True, True, True, False, False, False]
    assert judged.chain_is_right.values.tolist() == [True, True, False, False, False, False]
    assert judged.is_long.values.tolist() == [False, True, True, True, False, False]
    assert judged.ended.values.tolist() == [True, True, True, True, False, True]


def test_a_policy_can_be_reinforced_on_products():
    task = Multiplication(digits=1, p_chain=0.5, places="in order")
    model = Transformer(TransformerConfig(n_tokens=task.n_tokens, n_layers=1, d_model=8, n_ctx=30, seed=0))
    found = answers(model, task, 5, np.random.default_rng(0), group=2)
    assert chain_is_right(found.judged).shape == (10,)
    batch = next(OnPolicy(model, task, np.random.default_rng(0), n_prompts=4, group=2))
    assert batch.advantage.shape == batch.tokens.shape
    shares = task.draw(2000, np.random.default_rng(1)).is_long.values.mean()
    assert shares == pytest.approx(0.5, abs=0.04)


@given(st.integers(1, 4), st.integers(1, 4), st.data())
@settings(max_examples=30, deadline=None)
def test_mines_around_are_counted_one_by_one(rows, columns, data):
    field = np.array(data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))).reshape(
        rows, columns
    )
    counted = mines_around(field)
    for r, c in itertools.product(range(rows), range(columns)):
        near = [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
        assert counted[r, c] == sum(field[a, b] for a, b in near if 0 <= a < rows and 0 <= b < columns)


def test_cells_of_a_field_and_of_its_answer_share_their_place_in_two_dimensions():
    task = Minesweeper(smallest=2, largest=4, side=8)
    drawn = task.draw(30, np.random.default_rng(0))
    names = ("tokens", "positions", "row", "column", "around", "answer")
    for tokens, ids, r, c, around, answer in zip(*(drawn[n].values for n in names), strict=True):
        equals = int(np.flatnonzero(tokens == EQUALS)[0])
        n = equals - 1
        asked, said = slice(1, equals), slice(equals + 1, equals + 1 + n)
        assert (ids[asked] == ids[said]).all()
        assert len(set(ids[asked].tolist())) == n
        top, left = divmod(int(ids[equals]), task.side)
        assert (ids[said] == (top + 1 + r[said]) * task.side + left + 1 + c[said]).all()
        assert set(tokens[asked].tolist()) <= {MINE, FREE}
        mine = tokens[asked] == MINE
        assert (tokens[said][mine] == MINE).all()
        assert (tokens[said][~mine] == around[said][~mine]).all()
        assert answer.sum() == n + 1
        assert tokens[equals + 1 + n] == END
    assert drawn.positions.values.max() < task.n_positions
    assert (Minesweeper(coupled=False).draw(2, np.random.default_rng(0)).positions.values[0][:5] == np.arange(5)).all()


def test_batches_of_every_task_can_be_read_by_a_model():
    for task, n_ctx in ((Copying(4, n_positions=20), 20), (Multiplication(3), 203), (Minesweeper(2, 3, side=6), 36)):
        model = Transformer(TransformerConfig(n_tokens=task.n_tokens, n_layers=1, d_model=8, n_ctx=n_ctx, seed=0))
        batch = batch_of(task.draw(3, np.random.default_rng(0)))
        assert torch.isfinite(model(batch)).all()
        assert batch.weights.sum() > 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Copying(length=0), "length=0 must be at least 1"),
        (lambda: Copying(length=40, n_positions=40), "length=40 needs 42 positions and n_positions=40; .* has 38"),
        (lambda: Copying(places="near"), "places='near' is not one of"),
        (lambda: Copying().of([[]]), "one or more of the symbols 0 .. 9"),
        (lambda: Copying().of([[10]]), "one or more of the symbols 0 .. 9"),
        (lambda: Copying().of([[1]], start=300), "start=300 must lie between 1 and 299"),
        (lambda: Multiplication(p_chain=-0.1), "p_chain=-0.1 must lie between 0 and 1"),
        (lambda: Multiplication(digits=9, n_positions=11), "digits=9 need 13 positions and n_positions=11; .* has 7"),
        (lambda: Multiplication(digits=2).of([[100, 1]]), "a number below 10\\^2 and one below 100"),
        (lambda: Multiplication().draw(2, np.random.default_rng(0), start=500), "start=500 must lie between 1 and"),
        (lambda: Minesweeper(density=2.0), "density=2.0 must lie between 0 and 1"),
        (lambda: Minesweeper(largest=14), "a field of 14 cells a side needs side=16 or more; side=15"),
        (lambda: Minesweeper().of([[]]), "fields must be rectangles"),
        (lambda: Minesweeper().of([[[1]]], start=(1, 20)), "start=20 must lie between 1 and 13"),
        (lambda: Minesweeper(smallest=9, largest=5), "largest=5 must be at least 9"),
    ],
)
def test_wrong_arguments_of_tasks_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
