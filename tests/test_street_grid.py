from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from nextlens.analyses import objectives_grid
from nextlens.analyses.objectives_grid import (
    arrived,
    detour_robustness,
    grid_measures,
    next_token_test,
    sequence_compression,
)
from nextlens.analyses.objectives_grid_run import GridRecipe
from nextlens.analyses.objectives_table import run, summary
from nextlens.models.batch import Batch
from nextlens.models.tasks.prompted import batch_of, solved
from nextlens.models.tasks.street_grid import MOVES, StreetGrid

TOWN = StreetGrid()
TINY = GridRecipe(
    objectives=("next-token", "next-latent"), d_model=8, n_layers=1, n_heads=1, batch_size=4, steps=2, seeds=(0, 1)
)


class Driver:
    """Knows the town and drives by its law; ``forgets`` where it came from, or takes the ``last`` of equal moves."""

    def __init__(self, task: StreetGrid, *, lost: bool = False) -> None:
        self.task, self.n_tokens, self.lost = task, task.n_tokens + 1, lost

    def log_probs(self, batch: Batch) -> torch.Tensor:
        tokens = batch.tokens.numpy()
        here, goal = tokens[:, 0].copy(), tokens[:, 1]
        crossings = np.zeros(tokens.shape, dtype=int)
        for step in range(tokens.shape[1]):
            move = tokens[:, step] - self.task.n_crossings
            is_move = (move >= 0) & (move < 4)
            to = self.task.to[here, np.where(is_move, move, 0)]
            here = np.where(is_move & (to >= 0), to, here)
            crossings[:, step] = here
        law = self.task.law(crossings, np.broadcast_to(goal[:, None], tokens.shape))
        if self.lost:
            shift = ((tokens * np.arange(tokens.shape[1])).sum(1) % 2)[:, None, None]
            law = np.where(shift, np.roll(law, 1, axis=2), law)
        law = np.concatenate([law, np.zeros((*tokens.shape, 1))], axis=2)
        return torch.from_numpy(np.log(np.maximum(law, 1e-300)))


@pytest.mark.parametrize("task", [TOWN, StreetGrid(3, 4, one_way=1.0, seed=2)], ids=["usual", "one-way"])
def test_every_crossing_can_be_reached_and_streets_lead_to_neighbours(task):
    assert np.isfinite(task.distance).all()
    assert (task.distance[~np.eye(task.n_crossings, dtype=bool)] > 0).all()
    for crossing, move in zip(*np.nonzero(task.to >= 0), strict=True):
        down, right = list(MOVES.values())[move]
        row, column = divmod(int(crossing), task.width)
        assert task.to[crossing, move] == (row + down) * task.width + column + right
    both_ways = task.height * (task.width - 1) + task.width * (task.height - 1)
    assert both_ways <= (task.to >= 0).sum() < 2 * both_ways


def test_rides_follow_the_law_that_is_said_to_be_theirs():
    drawn = TOWN.draw(40_000, np.random.default_rng(0))
    here, goal = drawn.crossing.values[:, :-1], drawn.goal.values[:, None]
    chosen = here == 12
    to_goal = chosen & (np.broadcast_to(goal, here.shape) == 3)
    said = drawn.tokens.values[:, 1:][to_goal]
    law = TOWN.law(np.array(12), np.array(3))
    assert law.sum() == pytest.approx(1)
    counts = np.bincount(said, minlength=TOWN.n_tokens) / len(said)
    assert np.abs(counts - law).max() < 4 * np.sqrt(0.25 / len(said))
    assert len(said) > 300


def test_a_ride_ends_at_its_goal_and_nothing_is_asked_behind_it():
    drawn = TOWN.draw(500, np.random.default_rng(1))
    tokens, crossing = drawn.tokens.values, drawn.crossing.values
    rows, at = np.nonzero(tokens == TOWN.end)
    assert (crossing[rows, at - 1] == drawn.goal.values[rows]).all()
    assert ((tokens == TOWN.padding) == ~drawn.answer.values)[:, 2:].all()
    assert arrived(TOWN, tokens[rows, 0], drawn.goal.values[rows], tokens[rows, 2:]).all()
    weights = batch_of(drawn).weights.numpy() > 0
    goal = np.broadcast_to(drawn.goal.values[:, None], weights.shape)
    legal = TOWN.allowed(crossing[:, :-1], goal)
    assert np.take_along_axis(legal, tokens[:, 1:, None], 2)[..., 0][weights].all()


def test_new_pairs_are_never_seen():
    seen, new = (TOWN.draw(3000, np.random.default_rng(2), pairs=pairs) for pairs in ("seen", "new"))
    pairs = [set(zip(d.tokens.values[:, 0].tolist(), d.goal.values.tolist(), strict=True)) for d in (seen, new)]
    assert not pairs[0] & pairs[1]
    assert len(pairs[1]) == TOWN.held_out.sum() == 60
    with pytest.raises(ValueError, match="there are none with new=0"):
        dataclasses.replace(TOWN, new=0).draw(1, np.random.default_rng(0), pairs="new")


def test_a_driver_who_knows_the_town_passes_every_test_and_one_who_forgets_none():
    drawn, rng = TOWN.draw(100, np.random.default_rng(3), pairs="new"), np.random.default_rng(4)
    knows, lost = Driver(TOWN), Driver(TOWN, lost=True)
    assert next_token_test(knows, TOWN, drawn) == 1
    assert next_token_test(lost, TOWN, drawn) < 0.8
    assert detour_robustness(knows, TOWN, drawn, rng) == 1
    assert detour_robustness(lost, TOWN, drawn, rng) < 0.5
    assert sequence_compression(knows, TOWN, rng, n_pairs=50, n_rides=5000) == 1
    assert sequence_compression(lost, TOWN, rng, n_pairs=50, n_rides=5000) < 0.8


def test_compression_is_of_rides_that_no_training_saw(monkeypatch):
    prompts = []
    monkeypatch.setattr(
        objectives_grid, "complete", lambda model, read, n, **how: prompts.append(read) or torch.zeros(len(read), n)
    )
    assert sequence_compression(Driver(TOWN), TOWN, np.random.default_rng(0), n_pairs=40, n_rides=4000) == 1
    one, other = prompts[0][::2].numpy(), prompts[0][1::2].numpy()
    assert len(one) == 40
    for rides in (one, other):
        assert TOWN.held_out[rides[:, 0], rides[:, 1]].all()
    assert (one[:, 1] == other[:, 1]).all()
    assert (one != other).any(1).all()


def test_detours_are_made():
    class Counting(Driver):
        read = 0

        def log_probs(self, batch: Batch) -> torch.Tensor:
            Counting.read = max(Counting.read, int((batch.tokens < TOWN.end).sum()))
            return super().log_probs(batch)

    drawn = TOWN.draw(50, np.random.default_rng(5), pairs="new")
    moves = []
    for probability in (0.0, 0.75):
        Counting.read = 0
        assert detour_robustness(Counting(TOWN), TOWN, drawn, np.random.default_rng(0), probability=probability) == 1
        moves.append(Counting.read)
    assert moves[1] > 1.5 * moves[0]


def test_a_detour_is_another_move_than_the_models(monkeypatch):
    rides = []
    monkeypatch.setattr(
        objectives_grid,
        "arrived",
        lambda task, start, goal, said: rides.append(said) or arrived(task, start, goal, said),
    )
    drawn, driver = TOWN.draw(40, np.random.default_rng(6), pairs="new"), Driver(TOWN)
    detour_robustness(driver, TOWN, drawn, np.random.default_rng(0), probability=1.0)
    tokens = np.concatenate([drawn.tokens.values[:, :2], rides[0]], axis=1)
    greedy = driver.log_probs(Batch.from_tokens(tokens)).argmax(-1).numpy()[:, 1:]
    n_detours = 0
    for row, own in zip(tokens, greedy, strict=True):
        here = row[0]
        for step, token in enumerate(row[2:8]):
            if token >= TOWN.end:
                break
            in_time = TOWN.distance[TOWN.to[here], row[1]] <= TOWN.longest - step - 1
            if own[step] < TOWN.end and ((TOWN.to[here] >= 0) & in_time).sum() > 1:
                assert token != own[step]
                n_detours += 1
            here = TOWN.to[here, token - TOWN.n_crossings]
    assert n_detours > 80


@pytest.mark.parametrize(
    ("said", "valid"),
    [
        ("E N end", True),
        ("E N", False),
        ("E end", False),
        ("N end", False),
        ("E N end E", True),
        ("end E N end", False),
    ],
)
def test_a_ride_is_valid_if_it_keeps_to_the_streets_and_says_its_end_at_the_goal(said, valid):
    assert TOWN.to[8, 1] == 9
    assert TOWN.to[9, 0] == 4
    words = {**{move: TOWN.n_crossings + i for i, move in enumerate(MOVES)}, "end": TOWN.end}
    tokens = np.array([[words[word] for word in said.split()]])
    allowed_north = TOWN.to[8, 0]
    goal = np.array([4])
    if said == "N end":
        assert allowed_north != 4
    assert arrived(TOWN, np.array([8]), goal, tokens).tolist() == [valid]


def test_a_run_puts_five_measures_of_every_objective_in_one_table(tmp_path, monkeypatch):
    few = lambda model, task, rng: grid_measures(model, task, rng, n=8)  # noqa: E731
    monkeypatch.setattr("nextlens.analyses.objectives_grid_run.grid_measures", few)
    numbers = run(TINY, tmp_path, n_jobs=1)
    assert list(numbers["measures"])[:5] == list(numbers["protocols"])
    assert len(numbers["measures"]["detour robustness"]["next-latent"]["by_seed"]) == 2
    assert numbers["repeat"] in summary(TINY, numbers, tmp_path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: StreetGrid(height=1), "height=1 must be at least 2"),
        (lambda: StreetGrid(wander=1.2), "wander=1.2 must lie between 0 and 1"),
        (lambda: StreetGrid(new=1), "new=1 leaves no pair"),
        (lambda: TOWN.draw(1, np.random.default_rng(0), pairs="old"), "pairs='old' is not one of"),
        (lambda: GridRecipe(objectives=()), "must name at least one"),
    ],
)
def test_wrong_arguments_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_streams_and_answers_are_those_of_every_task():
    stream = TOWN.batches(4, np.random.default_rng(0))
    assert next(stream).tokens.shape == (4, TOWN.length - 1)
    drawn = TOWN.draw(6, np.random.default_rng(1))
    assert solved(drawn, torch.from_numpy(drawn.tokens.values[:, 2:].copy())).all()
