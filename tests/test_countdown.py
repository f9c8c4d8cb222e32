from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nextlens.models.tasks.countdown import Countdown
from nextlens.models.tasks.prompted import batch_of

TASK = Countdown()


def texts(task: Countdown, n: int = 300, **how) -> list[str]:
    return [task.spelled(row) for row in task.draw(n, np.random.default_rng(0), **how).tokens.values]


@pytest.mark.parametrize("task", [TASK, Countdown(n_numbers=3, pauses=0, most=20)], ids=["four", "three"])
def test_every_answer_reaches_its_target(task):
    said = texts(task)
    assert len(said) == 300
    for text in said:
        assert task.reaches(text), text
        target = int(text.split(" > ")[1].split()[0])
        assert task.lowest <= target <= task.highest
    assert {sign for sign in "+-*/" if any(f" {sign} " in text for text in said)} == set("+-*/")


@pytest.mark.parametrize(
    "text",
    [
        "2 3 4 5 > 14 | 3 + 2 = 5 , 5 + 4 = 9 , 9 + 5 = 13",
        "2 3 4 5 > 14 | 3 + 2 = 6 , 6 + 4 = 10 , 10 + 4 = 14",
        "2 3 4 5 > 14 | 7 + 7 = 14",
        "2 3 4 5 > 14 | 5 + 4 = 9 , 9 + 5 = 14 , 14 - 3 = 11",
        "2 3 4 5 > 5 | 3 + 2 = 5",
        "2 3 4 5 > 14 | 5 - 9 = 4",
        "2 3 > 1 | 3 / 2 = 1",
        "2 3 > -1 | 2 - 3 = -1",
        "2 3 > 5 | 2 + 3",
    ],
)
def test_what_is_no_answer_is_not_taken_for_one(text):
    assert not TASK.reaches(text)


def test_a_right_one_is():
    assert TASK.reaches("2 3 4 5 > 14 | 3 + 2 = 5 , 5 + 4 = 9 , 9 + 5 = 14")


def test_new_targets_are_never_seen():
    seen, new = (TASK.draw(2000, np.random.default_rng(1), targets=t).target.values for t in ("seen", "new"))
    assert set(new.tolist()) <= set(TASK.held_out.tolist())
    assert not set(seen.tolist()) & set(TASK.held_out.tolist())
    assert len(TASK.held_out) == 9
    with pytest.raises(ValueError, match="there are none with new=0"):
        dataclasses.replace(TASK, new=0).draw(1, np.random.default_rng(0), targets="new")


def test_only_the_answer_is_asked_for():
    batch = batch_of(TASK.draw(3, np.random.default_rng(0)))
    assert batch.tokens.shape == (3, TASK.length - 1) == (3, 29)
    assert (batch.weights[0] > 0).nonzero().flatten().tolist() == list(range(12, 29))
    assert int(batch.tokens.max()) < TASK.n_tokens


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_numbers": 1}, "n_numbers=1 must be at least 2"),
        ({"highest": 5}, "highest=5 must be at least 10"),
        ({"largest": 50}, "largest=50 must be at least 100"),
        ({"new": 2}, "new=2 must lie between 0 and 1"),
    ],
)
def test_wrong_arguments_are_named(given, said):
    with pytest.raises(ValueError, match=said):
        Countdown(**given)
