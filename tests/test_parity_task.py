from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.models.batch import Batch
from nextlens.models.decoding import complete
from nextlens.models.objectives.on_policy import answers, chain_is_right, last_is_right
from nextlens.models.tasks.parity import (
    END,
    Parity,
    Stepwise,
    after_selection,
    probability_of_stopping,
    rounds_to_go_on,
)
from nextlens.models.tasks.prompted import answer_start, batch_of


def by_definition(task: Parity, bits: tuple[int, ...], said: list[int]) -> tuple[int, bool, bool, bool]:
    """Length, whether it ended, whether its last token is right, whether the whole is."""
    chain = [sum(bits[: last + 1]) % 2 for last in task.chain]
    ended = END in said
    answer = said[: said.index(END)] if ended else said
    right_end = ended and len(answer) > 0 and answer[-1] == sum(bits) % 2
    return len(answer), ended, right_end, ended and answer in (chain, chain[-1:])


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_every_answer_whatever_its_tokens_is_judged_by_its_definition(stride):
    task = Parity(n_bits=3, stride=stride)
    words = np.array(list(product(range(4), repeat=task.longest_answer)))
    for bits in product((0, 1), repeat=3):
        prompts = np.tile([*bits, 2], (len(words), 1))
        judged = task.judged(prompts, words)
        names = ("length", "ended", "last_is_right", "chain_is_right")
        found = zip(*(judged[name].values.tolist() for name in names), strict=True)
        for word, judgement in zip(words.tolist(), found, strict=True):
            assert judgement == by_definition(task, bits, word), (bits, word)


def test_answers_too_short_for_a_chain_are_judged_too():
    task = Parity(n_bits=3)
    judged = task.judged(np.array([[1, 0, 0, 2], [1, 0, 0, 2]]), np.array([[1, END], [1, 1]]))
    assert judged.chain_is_right.values.tolist() == [True, False]
    assert judged.ended.values.tolist() == [True, False]
    endless = task.judged(np.array([[1, 0, 0, 2]]), np.array([[1]]))
    assert not endless.chain_is_right.values[0]
    assert not endless.last_is_right.values[0]


@given(n_bits=st.integers(2, 7), stride=st.integers(1, 3), p=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_what_is_drawn_is_right_and_as_long_as_it_says(n_bits, stride, p, seed):
    task = Parity(n_bits=n_bits, p_chain=p, stride=min(stride, n_bits))
    drawn = task.draw(20, np.random.default_rng(seed))
    start = answer_start(drawn)
    tokens = drawn.tokens.values
    assert start == n_bits + 1
    judged = task.judged(tokens[:, :start], tokens[:, start:])
    assert judged.chain_is_right.all()
    asked = batch_of(drawn).weights.sum(1).numpy()
    long = np.where(drawn.is_long, task.longest_answer, 2)
    assert asked.tolist() == long.tolist()
    assert (drawn.prefix_parity.values == tokens[:, :n_bits].cumsum(1) % 2).all()


def test_the_share_of_long_answers_is_as_asked():
    drawn = Parity(n_bits=6, p_chain=0.3).draw(20_000, np.random.default_rng(0))
    assert float(drawn.is_long.mean()) == pytest.approx(0.3, abs=0.015)


def test_the_stepwise_predictor_is_bayes_where_the_short_answer_is_a_coin():
    """Enumerate: bits known, the short answer replaced by a fair coin; the law of each token given those before."""
    task = Parity(n_bits=3, p_chain=0.3)
    for bits in product((0, 1), repeat=3):
        chain = [sum(bits[: k + 1]) % 2 for k in range(3)]
        answers_ = {(*chain, END): 0.3}
        for coin in (0, 1):
            answers_[(coin, END, END, END)] = answers_.get((coin, END, END, END), 0.0) + 0.35
        for word in answers_:
            batch = Batch.from_tokens([[*bits, 2, *word]])
            law = Stepwise(task).log_probs(batch)[0].exp()
            for step in range(4):
                alike = {w: p for w, p in answers_.items() if w[:step] == word[:step]}
                expected = [sum(p for w, p in alike.items() if w[step] == y) / sum(alike.values()) for y in range(4)]
                assert law[3 + step].tolist() == pytest.approx(expected)


def test_sampled_answers_are_long_as_often_as_learnt_and_stop_as_often_as_the_formula_says():
    task = Parity(n_bits=6, p_chain=0.25)
    found = answers(Stepwise(task), task, 10_000, np.random.default_rng(0))
    assert float(found.judged.is_long.mean()) == pytest.approx(0.25, abs=0.015)
    first_fits = (found.said[:, 0] == found.prompts[:, 0]).numpy()
    stops = (found.said[:, 1] == END).numpy()
    assert stops[first_fits].mean() == pytest.approx(probability_of_stopping(0.25), abs=0.015)
    assert stops[~first_fits].all()
    assert last_is_right(found.judged).mean() == pytest.approx(0.25 + 0.75 / 2, abs=0.015)


@pytest.mark.parametrize(("p", "long"), [(0.25, False), (0.32, False), (0.35, True), (0.5, True)])
def test_greedy_answers_are_long_above_a_third(p, long):
    task = Parity(n_bits=6, p_chain=p)
    prompts = task.prompts(50, np.random.default_rng(0))
    said = complete(Stepwise(task), torch.from_numpy(prompts), task.longest_answer, end=END)
    judged = task.judged(prompts, said.numpy())
    assert bool(judged.is_long.all()) == long
    assert bool(judged.chain_is_right.all()) == long


def test_selection_by_correctness_doubles_the_odds():
    for p in (0.02, 0.1, 0.25):
        task = Parity(n_bits=5, p_chain=p)
        found = answers(Stepwise(task), task, 12_000, np.random.default_rng(1)).judged
        kept = found.is_long.values[chain_is_right(found) > 0]
        assert kept.mean() == pytest.approx(after_selection(p), abs=4 * np.sqrt(0.25 / len(kept)))
        odds = [q / (1 - q) for q in (p, after_selection(p), after_selection(p, 3))]
        assert odds == pytest.approx([odds[0], 2 * odds[0], 8 * odds[0]])
    assert [rounds_to_go_on(p) for p in (0.25, 0.1, 0.02, 0.4, 1.0)] == [1, 3, 5, 0, 0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Parity(n_bits=1), "n_bits=1 must be at least 2"),
        (lambda: Parity(p_chain=1.2), "p_chain=1.2 must lie between 0 and 1"),
        (lambda: Parity(n_bits=4, stride=5), "stride=5 must lie between 1 and 4"),
        (lambda: rounds_to_go_on(0.0), "p_chain=0 has no long answer"),
        (lambda: after_selection(0.2, -1), "rounds=-1 must be at least 0"),
    ],
)
def test_wrong_arguments_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
