from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.models.tasks.addition import BEGIN, END, EQUALS, HINTS, PAD, PLUS, Addition
from nextlens.models.tasks.prompted import answer_start, batch_of

KINDS = [
    Addition(digits=4),
    Addition(digits=4, reverse=False),
    Addition(digits=4, zeros=False),
    Addition(digits=3, n_operands=3),
    Addition(digits=2, n_operands=12),
    Addition(digits=4, places="in order"),
    Addition(digits=4, places="random start"),
    Addition(digits=4, places="random start", hints=True),
]


@pytest.mark.parametrize("task", KINDS, ids=repr)
def test_what_is_drawn_adds_up(task):
    drawn = task.draw(200, np.random.default_rng(0))
    for row in drawn.tokens.values:
        question, answer = re.sub("<[0-9]+>", "", task.spelled(row)).strip("$").split("=")
        operands = question.split("+")
        assert len(operands) == task.n_operands
        assert len({len(operand) for operand in operands}) == 1 or not task.zeros
        total = int(answer[::-1] if task.reverse else answer)
        assert total == sum(map(int, operands))
        assert len(answer) == (len(operands[0]) + len(str(task.n_operands - 1)) if task.zeros else len(str(total)))


@pytest.mark.parametrize("task", KINDS, ids=repr)
def test_latents_and_places_are_those_of_the_definition(task):
    drawn = task.draw(60, np.random.default_rng(1), start=None)
    for tokens, places, asked, significance, carry in zip(
        *(drawn[name].values for name in ("tokens", "positions", "answer", "significance", "carry")), strict=True
    ):
        real = tokens != PAD
        equals = int(np.flatnonzero(tokens == EQUALS)[0])
        assert asked.tolist() == (real & (np.arange(len(tokens)) > equals)).tolist()
        digits = tokens < 10
        assert (significance >= 0).tolist() == digits.tolist()
        by_significance = {}
        for t in np.flatnonzero(digits & (np.arange(len(tokens)) < equals)):
            by_significance.setdefault(int(significance[t]), []).append(int(tokens[t]))
        for t in np.flatnonzero(digits & (np.arange(len(tokens)) > equals)):
            j = int(significance[t])
            below = sum(10**i * d for i, ds in by_significance.items() if i < j for d in ds)
            assert carry[t] == below // 10**j
            assert tokens[t] == (sum(by_significance.get(j, [])) + carry[t]) % 10
        start = int(places[equals])
        marks = np.isin(tokens, (BEGIN, END, PAD))
        if task.places == "coupled":
            assert (places[digits] == start + 1 + significance[digits]).all()
            assert (places[tokens == PLUS] == start).all()
        if task.places == "in order":
            assert (places[real] == np.arange(real.sum())).all()
        else:
            assert (places[marks] == 0).all()
        if task.places == "random start":
            assert (np.diff(places[~marks]) == 1).all()
        hinted = tokens >= HINTS
        assert hinted.any() == task.hints
        if task.hints:
            behind = np.flatnonzero(hinted) + 1
            assert len(set((tokens[hinted] - significance[behind]).tolist())) == 1


def test_the_published_example_has_the_published_tokens_and_ids():
    task = Addition(digits=3)
    drawn = task.of([[653, 49]], start=7)
    assert task.spelled(drawn.tokens.values[0]) == "$653+049=2070$"
    assert drawn.positions.values[0].tolist() == [0, 10, 9, 8, 7, 10, 9, 8, 7, 8, 9, 10, 11, 0]
    assert drawn.carry.values[0].tolist() == [-1] * 9 + [0, 1, 1, 0, -1]


def test_lengths_of_operands_are_uniform_and_numbers_uniform_among_their_length():
    task = Addition(digits=3, zeros=False)
    texts = [
        task.spelled(row).strip("$").split("=")[0].split("+")
        for row in task.draw(6000, np.random.default_rng(0)).tokens.values
    ]
    first = [number for number, _ in texts]
    lengths = np.bincount([len(number) for number in first], minlength=4)[1:] / 6000
    assert np.allclose(lengths, 1 / 3, atol=0.03)
    leading = np.bincount([int(number[0]) for number in first if len(number) == 2], minlength=10)
    assert leading[0] == 0
    assert np.allclose(leading[1:] / leading.sum(), 1 / 9, atol=0.03)
    alone = np.bincount([int(number) for number in first if len(number) == 1], minlength=10)
    assert np.allclose(alone / alone.sum(), 1 / 10, atol=0.03)
    assert len({len(a) == len(b) for a, b in texts}) == 2


def test_starts_reach_every_id():
    task = Addition(digits=3, n_positions=12)
    seen = np.unique(task.draw(3000, np.random.default_rng(0)).positions.values)
    assert seen.tolist() == list(range(12))
    with pytest.raises(ValueError, match="start=9 must lie between 1 and 7"):
        task.of([[999, 1]], start=9)


@given(st.lists(st.integers(0, 10**30), min_size=2, max_size=2))
@settings(max_examples=40, deadline=None)
def test_long_numbers_are_added_exactly(operands):
    task = Addition(digits=1)
    row = task.of([operands]).tokens.values[0]
    answer = task.spelled(row).strip("$").split("=")[1]
    assert int(answer[::-1]) == sum(operands)


def test_sequences_of_one_length_are_asked_from_one_place_and_only_the_sum_counts():
    task = Addition(digits=4)
    drawn = task.draw(20, np.random.default_rng(0), digits=9)
    assert answer_start(drawn) == 21
    assert drawn.tokens.shape == (20, task.length(9))
    assert batch_of(drawn).weights.sum(1).tolist() == [11.0] * 20
    with pytest.raises(ValueError, match="answers begin at"):
        answer_start(task.draw(50, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Addition(digits=10, n_positions=12), "digits=10 need 13 positions and n_positions=12.*fit have 9"),
        (lambda: Addition(digits=3, places="in order", n_positions=10), "digits=3 need 14 positions.*fit have 1"),
        (lambda: Addition(digits=3, places="random start", n_positions=12), "digits=3 need 13 positions"),
        (lambda: Addition().draw(2, np.random.default_rng(0), digits=300), "digits=300 need 303 positions"),
        (lambda: Addition(places="couple"), "places='couple' is not one of"),
        (lambda: Addition(n_operands=1), "n_operands=1 must be at least 2"),
        (lambda: Addition(digits=0), "digits=0 must be at least 1"),
        (lambda: Addition().of([[1, 2, 3]]), "rows of n_operands=2 numbers"),
        (lambda: Addition().of([[1, -2]]), "rows of n_operands=2 numbers"),
        (lambda: Addition().of([[1, 2]], start=0), "start=0 must lie between 1"),
        (lambda: Addition().draw(0, np.random.default_rng(0)), "n_sequences=0 must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
