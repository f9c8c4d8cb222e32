"""Tasks: their latents explain every token, their predictor is the law of all sequences, their streams resume."""

from __future__ import annotations

import json
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel
from nextlens.models.recording import surprisal
from nextlens.models.tasks import AssociativeRecall, InContextBigrams, RepeatedTokens

TASKS = {
    "repeated": RepeatedTokens(3, shortest=2, longest=4),
    "bigrams": InContextBigrams(3, concentration=0.4),
    "recall": AssociativeRecall(2, 3),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def words_of(task, length: int) -> np.ndarray:
    """All sequences that the task can say."""
    return np.array([word for word in product(range(task.n_tokens), repeat=length) if probability(task, word) > 0])


def probability(task, word) -> float:
    """Of a word, from the definition of each task, by summing over its latents."""
    n, v = len(word), task.n_tokens
    if isinstance(task, RepeatedTokens):
        periods = range(task.shortest, task.longest + 1)
        fits = [all(word[t] == word[t - p] for t in range(p, n)) * v ** -float(min(n, p)) for p in periods]
        return sum(fits) / len(periods)
    if isinstance(task, InContextBigrams):
        # The law of a Pólya urn for each row of the table.
        total, a = 1 / v, task.concentration
        counts = np.full((v, v), a)
        for i, j in pairwise(word):
            total *= counts[i, j] / counts[i].sum()
            counts[i, j] += 1
        return total
    total = 0.0
    for values in product(range(task.n_values), repeat=task.n_keys):
        said = [task.n_keys + values[key] if key < task.n_keys else -1 for key in word]
        says = all(word[t] == said[t - 1] if t % 2 else word[t] < task.n_keys for t in range(n))
        total += says * task.n_values ** -float(task.n_keys) * task.n_keys ** -float((n + 1) // 2)
    return total


@every_task
def test_is_a_kernel(task):
    assert isinstance(task, Kernel)


@every_task
def test_the_predictor_is_the_conditional_law_by_enumeration_of_every_sequence(task):
    length = 6
    words = words_of(task, length)
    law = task.next_token(words)
    for word, rows in zip(words, law, strict=True):
        for t in range(length - 1):
            before = probability(task, word[: t + 1])
            wanted = [probability(task, (*word[: t + 1], x)) / before for x in range(task.n_tokens)]
            np.testing.assert_allclose(rows[t], wanted, atol=1e-12)


@every_task
def test_rows_of_log_probs_sum_to_one_and_the_future_changes_nothing(task):
    words = words_of(task, 6)
    said = task.log_probs(Batch.from_tokens(words))
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(len(words), 5, dtype=torch.float64))
    torch.testing.assert_close(task.log_probs(Batch.from_tokens(words[:, :4])), said[:, :3])


@every_task
def test_samples_are_as_frequent_as_the_law_says(task):
    n, length = 40_000, 4
    words, counts = np.unique(task.sample(n, length, np.random.default_rng(0)), axis=0, return_counts=True)
    wanted = np.array([probability(task, word) for word in words])
    assert wanted.sum() == pytest.approx(1, abs=1e-3)
    assert (np.abs(counts / n - wanted) <= 5 * np.sqrt(wanted / n)).all()


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 20), st.integers(0, 99))
def test_every_repeated_token_is_that_of_its_source_one_period_before(shortest, more, length, seed):
    task = RepeatedTokens(7, shortest=shortest, longest=shortest + more)
    found = task.draw(5, length, np.random.default_rng(seed))
    for b, t in np.argwhere(found.source.values >= 0):
        source = found.source.values[b, t]
        assert source == t - found.period.values[b]
        assert found.tokens.values[b, t] == found.tokens.values[b, source]
    assert ((found.source.values < 0) == (np.arange(length) < found.period.values[:, None])).all()


def test_all_periods_are_drawn_and_no_others():
    period = RepeatedTokens(5, shortest=3, longest=6).draw(200, 2, np.random.default_rng(0)).period
    assert np.unique(period.values).tolist() == [3, 4, 5, 6]


def test_a_determined_value_is_the_one_that_followed_its_key_and_others_have_new_keys():
    found = AssociativeRecall(3, 4).draw(50, 13, np.random.default_rng(2))
    tokens, where = found.tokens.values, found.key_position.values
    np.testing.assert_array_equal(found.determined, where >= 0)
    assert (where[:, ::2] == -1).all()
    for b, t in product(range(50), range(1, 13, 2)):
        key = tokens[b, t - 1]
        earlier = [s for s in range(0, t - 1, 2) if tokens[b, s] == key]
        assert where[b, t] == max(earlier, default=-1)
        assert tokens[b, t] == found.value_of_key.values[b, key]
        assert all(tokens[b, s + 1] == tokens[b, t] for s in earlier)


def test_what_is_determined_costs_nothing_and_the_rest_the_logarithm_of_what_may_come():
    task = AssociativeRecall(4, 8)
    found = task.draw(40, 12, np.random.default_rng(0))
    bits = surprisal(task, Batch.from_tokens(found.tokens.values)).values
    values, known = bits[:, ::2], found.determined.values[:, 1::2]
    np.testing.assert_allclose(values[known], 0, atol=1e-12)
    np.testing.assert_allclose(values[~known], 3)
    np.testing.assert_allclose(bits[:, 1::2], 2)


def test_bigrams_follow_the_table_of_their_own_sequence():
    found = InContextBigrams(3, concentration=1.0).draw(2, 30_000, np.random.default_rng(0))
    for tokens, table in zip(found.tokens.values, found.table.values, strict=True):
        counts = np.zeros((3, 3))
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
        np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), table, atol=0.03)
    assert np.abs(found.table.values[0] - found.table.values[1]).max() > 0.1


def test_repeats_longer_than_a_double_can_weigh_are_predicted():
    task = RepeatedTokens(100, shortest=200, longest=400)
    tokens = task.sample(3, 900, np.random.default_rng(0))
    law = task.next_token(tokens)
    assert np.isfinite(law).all()
    following = np.take_along_axis(law[:, :-1], tokens[:, 1:, None], axis=2)
    np.testing.assert_allclose(following[:, 401:], 1, atol=1e-12)


@every_task
@pytest.mark.parametrize("taken", [0, 3, 500])
def test_a_stream_resumes_token_for_token_from_json(task, taken):
    stream = task.batches(300, 9, np.random.default_rng(5))
    for _ in range(taken):
        next(stream)
    state = json.loads(json.dumps(stream.state()))
    wanted = [next(stream).tokens for _ in range(4)]
    other = task.batches(300, 9, np.random.default_rng(77))
    other.restore(state)
    for tokens in wanted:
        assert torch.equal(next(other).tokens, tokens)


@every_task
def test_batches_are_read_and_said_without_a_tree(task):
    batch = next(task.batches(4, 9, np.random.default_rng(0)))
    assert batch.tokens.shape == (4, 8)
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert batch.tree is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RepeatedTokens(0), "n_tokens=0 must be at least 1"),
        (lambda: RepeatedTokens(3, shortest=0), "shortest=0 must be at least 1"),
        (lambda: RepeatedTokens(3, shortest=5, longest=4), "longest=4 must be at least 5"),
        (lambda: InContextBigrams(3, concentration=0.0), r"concentration=0\.0 must be finite and above 0"),
        (lambda: InContextBigrams(3, concentration=np.nan), "concentration=nan must be finite"),
        (lambda: InContextBigrams(0), "n_tokens=0 must be at least 1"),
        (lambda: AssociativeRecall(0, 2), "n_keys=0 must be at least 1"),
        (lambda: AssociativeRecall(2, 0), "n_values=0 must be at least 1"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@every_task
def test_sizes_below_one_and_tokens_of_no_vocabulary_are_refused(task):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="n_sequences=0 must be at least 1"):
        task.draw(0, 5, rng)
    with pytest.raises(ValueError, match="length=0 must be at least 1"):
        task.draw(5, 0, rng)
    with pytest.raises(ValueError, match="length=1 must be at least 2"):
        task.batches(5, 1, rng)
    with pytest.raises(ValueError, match=f"tokens hold {task.n_tokens}; with n_tokens={task.n_tokens}"):
        task.log_probs(Batch.from_tokens([[0, task.n_tokens, 0]]))


@pytest.mark.parametrize(
    ("task", "word", "message"),
    [
        ("repeated", [0, 1, 2, 0, 2, 1], r"tokens\[0, : 5\] repeat with no period in 2 \.\. 4"),
        ("recall", [0, 1, 0], r"tokens\[0, 1\]=1 is not a value"),
        ("recall", [2, 2, 0], r"tokens\[0, 0\]=2 is not a key"),
        ("recall", [0, 2, 0, 3, 1], r"tokens\[0, 3\]=3 is another value of key 0"),
    ],
)
def test_what_a_task_cannot_say_is_refused_where_it_goes_wrong(task, word, message):
    with pytest.raises(ValueError, match=message):
        TASKS[task].next_token(np.array([word]))
