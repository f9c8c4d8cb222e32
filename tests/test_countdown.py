from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from nextlens.analyses.objectives_cli import objectives
from nextlens.analyses.objectives_countdown import CountdownRecipe, countdown_measures, results
from nextlens.analyses.objectives_table import run, summary
from nextlens.models.batch import Batch
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


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("2 3 4 5 > 14 | 3 + 2 = 5 , 5 + 4 = 9 , 9 + 5 = 14", [14]),
        ("2 3 4 5 > 99 | 3 + 2 = 5 , 5 + 4 = 9 , 9 + 5 = 14", [14]),
        ("2 3 4 5 > 99 | 3 + 2 = 5", [4, 5, 5]),
        ("2 3 4 5 > 99 | 3 + 2 = 6", None),
        ("2 3 4 5 > 99 | 7 + 2 = 9", None),
    ],
)
def test_what_is_left_is_what_the_rules_leave(text, left):
    assert TASK.left(text) == left


def test_every_chain_of_operations_is_found():
    assert sorted(results([6, 2], 60)) == [3, 4, 8, 12]
    assert sorted(results([2, 6], 10)) == [3, 4, 8]
    three = Counter(results([3, 5, 2], 60))
    hand: Counter[int] = Counter()
    for first, second, last in ((3, 5, 2), (3, 2, 5), (5, 2, 3)):
        for one in results([first, second], 60):
            hand.update(results([one, last], 60))
    assert three == hand


class Solver:
    """Writes down an answer that reaches the target, by search; or, ``aimless``, one that keeps the rules alone."""

    device, unembedding = torch.device("cpu"), torch.zeros(1, 1)
    sites: tuple[str, ...] = ()

    def __init__(self, task: Countdown, *, aimless: bool = False) -> None:
        self.task, self.aimless, self.n_tokens = task, aimless, task.n_tokens

    def answer(self, numbers: list[int], target: int) -> list[int] | None:
        if len(numbers) == 1:
            return [] if self.aimless or numbers == [target] else None
        plus, n = self.task.largest + 1, len(numbers)
        for i, j in itertools.combinations(range(n), 2):
            a, b = max(numbers[i], numbers[j]), min(numbers[i], numbers[j])
            made = [(0, a + b), (1, a - b), (2, a * b), *([(3, a // b)] if b and a % b == 0 else [])]
            rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
            for sign, result in made:
                if result <= self.task.largest and (later := self.answer([result, *rest], target)) is not None:
                    return [a, plus + sign, b, plus + 4, result, plus + 5, *later]
        return None

    def log_probs(self, batch: Batch) -> torch.Tensor:
        law = torch.full((*batch.tokens.shape, self.n_tokens), -20.0)
        start = self.task.n_numbers + 1 + self.task.pauses
        for row, read in enumerate(batch.tokens.tolist()):
            said = self.answer(read[: self.task.n_numbers], read[self.task.n_numbers])
            for t in range(start - 1, len(read)):
                law[row, t, said[min(t - start + 1, len(said) - 1)]] = 0.0
        return law.log_softmax(-1)

    __call__ = log_probs

    def watched(self, *sites): ...

    def edited(self, *sites): ...


def test_who_searches_reaches_every_target_and_who_keeps_the_rules_alone_as_many_as_any_such_sums():
    task = CountdownRecipe().task
    found = countdown_measures(Solver(task), task, numbers="new", targets="new", n=40)
    assert (found["reaches"], found["keeps"]) == (1, 1)
    assert 0 < found["null"] < 0.2
    aimless = countdown_measures(Solver(task, aimless=True), task, numbers="seen", targets="seen", n=40)
    assert aimless["keeps"] == 1
    assert aimless["reaches"] < 0.3


def test_a_run_puts_the_measures_of_every_objective_in_one_table(tmp_path, monkeypatch):
    few = partial(countdown_measures, n=8)
    monkeypatch.setattr("nextlens.analyses.objectives_countdown.countdown_measures", few)
    recipe = CountdownRecipe(d_model=8, n_layers=1, n_heads=1, batch_size=4, steps=2, seeds=(0,), most=6)
    numbers = run(recipe, tmp_path, n_jobs=1)
    assert list(numbers["measures"])[:7] == list(numbers["protocols"])
    assert numbers["repeat"] in summary(recipe, numbers, tmp_path)
    made = []
    monkeypatch.setattr("nextlens.analyses.objectives_cli.answer", lambda recipe, *rest, **how: made.append(recipe))
    done = CliRunner().invoke(objectives, shlex.split(recipe.command)[2:])
    assert done.exit_code == 0, done.output
    assert made == [recipe]


def test_new_targets_are_never_seen():
    seen, new = (TASK.draw(2000, np.random.default_rng(1), targets=t).target.values for t in ("seen", "new"))
    assert set(new.tolist()) <= set(TASK.held_out.tolist())
    assert not set(seen.tolist()) & set(TASK.held_out.tolist())
    assert len(TASK.held_out) == 9
    with pytest.raises(ValueError, match="there are none with new=0"):
        dataclasses.replace(TASK, new=0).draw(1, np.random.default_rng(0), targets="new")


SMALL = Countdown(n_numbers=3, most=9, lowest=1, highest=20, largest=60, new=0.2)


def test_new_sets_of_numbers_are_never_seen_in_any_order():
    drawn = [
        SMALL.draw(4000, np.random.default_rng(2), numbers=split).tokens.values[:, :3] for split in ("seen", "new")
    ]
    seen, new = ({tuple(sorted(row)) for row in rows.tolist()} for rows in drawn)
    every = np.array(list(itertools.combinations_with_replacement(range(1, 10), 3)))
    assert not seen & new
    assert seen | new <= set(map(tuple, every.tolist()))
    assert len(seen | new) > 0.97 * len(every)
    assert len(new) / len(every) == pytest.approx(0.2, abs=0.08)


def test_about_the_share_that_is_asked_for_is_held_out_whatever_the_order_and_by_the_seed():
    rows = np.random.default_rng(0).integers(1, 101, (20_000, 4))
    held = TASK.is_held_out(rows)
    assert held.mean() == pytest.approx(0.1, abs=0.008)
    assert (TASK.is_held_out(rows[:, [2, 0, 3, 1]]) == held).all()
    other = dataclasses.replace(TASK, seed=1).is_held_out(rows)
    assert (other & held).mean() == pytest.approx(0.01, abs=0.004)
    assert not dataclasses.replace(TASK, new=0).is_held_out(rows).any()


def test_a_target_that_cannot_be_reached_is_refused_and_does_not_hang():
    far = Countdown(n_numbers=2, most=2, lowest=10, highest=20, largest=60)
    with pytest.raises(ValueError, match=r"targets='seen', numbers='seen': .* chains of operations hold none"):
        far.draw(1000, np.random.default_rng(0))
    with pytest.raises(ValueError, match="numbers='old' is not one of"):
        TASK.draw(1, np.random.default_rng(0), numbers="old")


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
