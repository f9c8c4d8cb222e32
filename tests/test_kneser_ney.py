"""Kneser-Ney against its definition, counted with dictionaries."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nextlens.models.induction.kneser_ney import KneserNey

N = 4


def defined(documents, order: int, context: tuple[int, ...], discounts) -> np.ndarray:
    """The law after ``context``, of at most ``order - 1`` tokens, recursively."""
    m = len(context) + 1
    grams = Counter(tuple(d[i : i + m]) for d in documents for i in range(len(d) - m + 1))
    if m < order:
        before = {}
        for d in documents:
            for i in range(len(d) - m + 1):
                before.setdefault(tuple(d[i : i + m]), set()).add(d[i - 1] if i else None)
        counts = {gram: max(1, len(stands - {None})) for gram, stands in before.items()}
    else:
        counts = grams
    shorter = np.full(N, 1 / N) if m == 1 else defined(documents, order, context[1:], discounts)
    after = np.array([counts.get((*context, w), 0) for w in range(N)], dtype=float)
    if not after.sum():
        return shorter
    d = discounts[m - 1]
    return (np.maximum(after - d, 0) + d * (after > 0).sum() * shorter) / after.sum()


documents_of_tokens = st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=12), min_size=1, max_size=4)


@example([[0]], 2, [0])
@example([[0], [1, 2]], 3, [1, 0])
@given(documents_of_tokens, st.integers(1, 4), st.lists(st.integers(0, N - 1), min_size=1, max_size=6))
def test_laws_are_those_of_the_definition(documents, order, tokens):
    model = KneserNey([np.array(d) for d in documents], N, order)
    laws = model.laws(np.array(tokens))
    np.testing.assert_allclose(laws.sum(1), 1)
    for t in range(len(tokens)):
        context = tuple(tokens[max(0, t - order + 2) : t + 1]) if order > 1 else ()
        np.testing.assert_allclose(laws[t], defined(documents, order, context, model.discounts), atol=1e-12)


def test_what_stands_after_many_others_is_likelier_than_what_is_said_often_after_one():
    tokens = np.array([0, 3] * 6 + [0, 1, 2, 1, 3, 1])
    model = KneserNey([tokens], N, 2)
    alone = KneserNey([tokens], N, 2).laws(np.array([2]))[0]
    assert np.bincount(tokens)[3] > np.bincount(tokens)[1]
    assert alone[1] > alone[3]
    assert 0 < model.discounts[1] <= 1


def test_every_token_is_possible_where_no_count_is_one():
    model = KneserNey([np.array([0, 0, 0])], 3, 1)
    np.testing.assert_allclose(model.laws(np.array([0]))[0], np.array([2.5 + 0.5 / 3, 0.5 / 3, 0.5 / 3]) / 3)
    for order in (1, 2, 3):
        assert (KneserNey([np.array([0, 1] * 4)] * 2, 3, order).laws(np.array([0, 1, 2])) > 0).all()


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="documents hold no token"):
        KneserNey([], N)
    with pytest.raises(ValueError, match=r"documents\[0\] hold 9; they must lie in 0 \.\. 3"):
        KneserNey([np.array([9])], N)
    with pytest.raises(ValueError, match="order=0 must be at least 1"):
        KneserNey([np.array([1])], N, 0)
