from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nextlens.models.batch import Batch
from nextlens.models.decoding import complete
from nextlens.models.tasks.prompted import answer_start, batch_of, prompts_of, solved
from nextlens.models.tasks.star_graph import StarGraph, asked_for_another_leaf, clever_hans

TASKS = [StarGraph(), StarGraph(layout="coupled"), StarGraph(n_arms=5, arm_length=3, n_nodes=40)]


def read(task: StarGraph, text: str) -> tuple[dict[int, list[int]], int, int, list[int]]:
    """Edges, centre, leaf and path, from what a reader sees."""
    question, path = text.split("=")
    if task.layout == "edges":
        edges, question = question.split("/")
        pairs = [tuple(map(int, edge.split())) for edge in edges.split("|")]
        centre, leaf = map(int, question.split())
    else:
        *flat, centre, leaf = map(int, question.split())
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
    follow: dict[int, list[int]] = {}
    for u, v in pairs:
        follow.setdefault(u, []).append(v)
    return follow, centre, leaf, list(map(int, path.split()))


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_the_path_is_the_only_way_from_the_centre_to_the_leaf(task):
    drawn = task.draw(200, np.random.default_rng(0))
    for row in range(200):
        follow, centre, leaf, path = read(task, task.spelled(drawn.tokens.values[row]))
        assert len(follow[centre]) == task.n_arms
        assert sorted(follow[centre]) == sorted(drawn.first_of_arm.values[row].tolist())
        assert (path[0], path[-1], len(path)) == (centre, leaf, task.arm_length)
        assert path == drawn.path.values[row].tolist()
        assert all(b in follow[a] for a, b in itertools.pairwise(path))
        into = [v for ends in follow.values() for v in ends]
        assert len(into) == len(set(into)) == task.n_arms * (task.arm_length - 1)


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_another_leaf_is_the_end_of_another_arm_of_the_same_star(task):
    drawn = task.draw(50, np.random.default_rng(3))
    start, other = answer_start(drawn), asked_for_another_leaf(drawn)
    changed = (drawn.tokens.values != other.tokens.values).any(0)
    assert changed.nonzero()[0].tolist() == [start - 2, *range(start + 1, task.length)]
    for row in range(50):
        follow, centre, leaf, path = read(task, task.spelled(other.tokens.values[row]))
        assert path == other.path.values[row].tolist()
        assert (path[0], path[-1]) == (centre, leaf)
        assert all(b in follow[a] for a, b in itertools.pairwise(path))
        assert path[1] == other.first_of_arm.values[row, 0] == drawn.first_of_arm.values[row, 1]
    for _ in range(task.n_arms - 1):
        other = asked_for_another_leaf(other)
    assert other.identical(drawn)


def test_sequences_have_the_lengths_of_the_published_format():
    assert TASKS[0].length == 25
    assert TASKS[1].length == 19
    for task in TASKS:
        assert task.draw(2, np.random.default_rng(0)).tokens.shape == (2, task.length)


def test_the_arm_to_take_stands_anywhere_among_the_edges():
    task = TASKS[0]
    drawn = task.draw(2000, np.random.default_rng(1))
    edge = np.stack([drawn.path.values[:, 0], drawn.path.values[:, 1]], axis=1)
    found = (drawn.tokens.values[:, :18].reshape(2000, 6, 3)[:, :, :2] == edge[:, None]).all(2)
    assert np.allclose(found.mean(0), 1 / 6, atol=0.04)
    assert (found.sum(1) == 1).all()


def test_only_the_path_is_asked_for_and_ends_of_an_edge_share_a_place_when_coupled():
    for task in TASKS:
        batch = batch_of(task.draw(3, np.random.default_rng(0)))
        assert batch.weights.sum(1).tolist() == [task.arm_length] * 3
        assert (batch.weights[:, -task.arm_length :] == 1).all()
    batch = batch_of(TASKS[1].draw(3, np.random.default_rng(0)))
    assert batch.positions[0, :12].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert batch.positions[0, 12:].tolist() == [6, 7, 8, 9, 10, 11]


class Walker:
    """Knows the edges. Takes the first arm that is listed, or the right one; then copies along edges."""

    def __init__(self, task: StarGraph, honest: bool) -> None:
        self.task, self.honest, self.n_tokens = task, honest, task.n_tokens

    def log_probs(self, batch: Batch) -> torch.Tensor:
        law = torch.full((*batch.tokens.shape, self.n_tokens), -20.0)
        for b, row in enumerate(batch.tokens.tolist()):
            start = row.index(self.task.n_nodes + 2)
            step = 3 if self.task.layout == "edges" else 2
            edges = [(row[i], row[i + 1]) for i in range(0, self.task.n_arms * (self.task.arm_length - 1) * step, step)]
            centre, leaf = row[start - 2], row[start - 1]
            back = {v: u for u, v in edges}
            node = leaf
            while self.honest and back[node] != centre:
                node = back[node]
            second = node if self.honest else next(v for u, v in edges if u == centre)
            for t in range(start, len(row)):
                here = row[t]
                options = [v for u, v in edges if u == here]
                said = centre if t == start else second if here == centre else options[0] if options else here
                law[b, t, said] = 0.0
        return law.log_softmax(-1)


@pytest.mark.parametrize("task", TASKS, ids=repr)
@pytest.mark.parametrize("honest", [True, False])
def test_the_cheat_shows_at_the_second_node_and_nowhere_else(task, honest):
    drawn = task.draw(150, np.random.default_rng(2))
    walker = Walker(task, honest)
    n_read = answer_start(drawn)
    positions = torch.from_numpy(drawn.positions.values[:, : n_read + task.arm_length - 1].copy())
    said = complete(walker, prompts_of(drawn), task.arm_length, positions=positions)
    found = clever_hans(walker, drawn, said, batch_of(drawn))
    chance = 1.0 if honest else 1 / task.n_arms
    assert found.solved == solved(drawn, said).mean() == pytest.approx(chance, abs=0.13)
    assert found.by_token[1] == pytest.approx(found.solved)
    assert np.delete(found.by_token, 1).tolist() == [1.0] * (task.arm_length - 1)
    assert (found.on_an_arm, found.follows_its_arm) == (1.0, 1.0)


def test_a_stream_put_back_gives_the_batches_that_would_have_come():
    one, other = (TASKS[0].batches(4, np.random.default_rng(0)) for _ in range(2))
    next(one)
    other.restore(one.state())
    assert torch.equal(next(one).tokens, next(other).tokens)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: StarGraph(n_nodes=6), "n_nodes=6 is too few: 2 arms of 4 have 7"),
        (lambda: StarGraph(n_arms=1), "n_arms=1 must be at least 2"),
        (lambda: StarGraph(layout="edge"), "layout='edge' is not one of"),
        (lambda: StarGraph().draw(0, np.random.default_rng(0)), "n_sequences=0 must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
