"""Exact induction against its quadratic definition: at every prefix, in a window, token by token."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from nextlens.models.batch import Batch
from nextlens.models.induction import ExactInduction, exact
from nextlens.models.induction.exact import longest_match

COPIED = np.random.default_rng(0).integers(30, size=70)
STREAMS = {
    "two letters": np.random.default_rng(1).integers(2, size=150),
    "four letters": np.random.default_rng(2).integers(4, size=200),
    "many letters": np.random.default_rng(3).integers(300, size=120),
    "no repeat": np.arange(40),
    "one token": np.array([5]),
    "two tokens": np.array([5, 5]),
    "run": np.full(130, 9),
    "runs": np.repeat([1, 2, 1, 3, 1], [4, 9, 7, 2, 5]),
    "period 3": np.tile([0, 1, 2], 60),
    "copied": np.concatenate([COPIED, [299], COPIED, COPIED[20:]]),
}
of_every_stream = pytest.mark.parametrize("name", STREAMS)


def defined(context: list[int]) -> tuple[int, Counter]:
    """The definition, for each prefix end i the length of the common suffix, token by token."""
    end, common = len(context), []
    for i in range(1, end):
        c = 0
        while c < i and context[i - 1 - c] == context[end - 1 - c]:
            c += 1
        common.append(c)
    n = max(common, default=0)
    return n, Counter(context[i] for i, c in enumerate(common, start=1) if c == n and n > 0)


def said(votes, row: int) -> tuple[int, Counter]:
    token, weight = votes.row(row)
    return int(votes.length[row]), Counter(dict(zip(token.tolist(), weight.tolist(), strict=True)))


@of_every_stream
@pytest.mark.parametrize("window", [None, 1, 2, 3, 10, 64])
def test_every_way_to_ask_gives_the_definition(name, window, monkeypatch):
    stream = STREAMS[name]
    matcher = ExactInduction(300, window=window)
    monkeypatch.setattr(exact, "PAIRS", 500)
    monkeypatch.setattr(exact, "FILTERED", 12)
    monkeypatch.setattr(exact, "FEW", 3)
    everywhere, reader = matcher.votes(stream), matcher.reader()
    one_by_one = matcher.votes(stream, np.arange(len(stream)))
    for t, token in enumerate(stream.tolist()):
        start = 0 if window is None else max(0, t + 1 - window)
        expected = defined(stream[start : t + 1].tolist())
        assert said(everywhere, t) == expected, t
        assert said(one_by_one, t) == expected, t
        assert said(reader.read(token), 0) == expected, t


@of_every_stream
def test_places_are_true_matches_and_rebuild_the_votes(name):
    stream = STREAMS[name]
    for end in range(1, len(stream) + 1, 7):
        places = ExactInduction(300).places(stream[:end])
        n, after = defined(stream[:end].tolist())
        assert (places.length, Counter(places.token.tolist())) == (n, after)
        assert (places.weight == 1).all()
        assert (places.document == -1).all()
        assert (np.diff(places.offset) > 0).all()
        for offset, token in zip(places.offset, places.token, strict=True):
            assert stream[offset] == token
            assert (stream[offset - n : offset] == stream[end - n : end]).all()


def test_places_in_a_window_keep_their_place_in_the_context():
    places = ExactInduction(10, window=4).places(np.array([7, 1, 2, 7, 3, 7]))
    assert (places.length, places.offset.tolist(), places.token.tolist()) == (1, [4], [3])


@pytest.mark.parametrize(
    "length", [4, 5, 10, 13, 22, 29, 46, 61, 94, 125, 190, 253, 382, 509, 766, 1021, *range(2, 24)]
)
def test_a_match_of_one_token_is_found_at_every_length_of_context(length):
    """The published code tests n = 1 only at some lengths, and answers with the uniform law at the others."""
    context = np.arange(length)
    context[-1] = 0
    n, after = longest_match(context)
    assert (n, after.tolist()) == (1, [1])


def test_the_last_token_may_be_proposed():
    """The published code leaves the last token out of the context: a run, or an ending "1 2 2", finds nothing."""
    votes = ExactInduction(10).votes(np.array([9, 9, 9, 9]), np.array([3]))
    assert (votes.length.tolist(), votes.token.tolist(), votes.weight.tolist()) == ([3], [9], [1])
    votes = ExactInduction(10).votes(np.array([1, 2, 2]), np.array([2]))
    assert (votes.length.tolist(), votes.token.tolist()) == ([1], [2])


def test_only_the_longest_votes_and_its_occurrences_weigh_the_same():
    votes = ExactInduction(10).votes(np.array([1, 2, 5, 3, 2, 4, 1, 2, 6, 1, 2, 5, 1, 2]), np.array([13]))
    assert (votes.length.tolist(), votes.token.tolist(), votes.weight.tolist()) == ([2], [5, 6], [2, 1])


def test_long_runs_and_periods_take_no_quadratic_time():
    """A filter that goes back token by token alone would look at 10^10 pairs."""
    constant, periodic = np.zeros(300_000, np.int64), np.tile([0, 1, 2], 100_000)
    assert [x if isinstance(x, int) else x.tolist() for x in longest_match(constant)] == [299_999, [299_999]]
    n, after = longest_match(periodic)
    assert (n, after.tolist()) == (299_997, [299_997])


def test_as_a_law_no_match_is_uniform_and_a_floor_leaves_nothing_impossible():
    batch = Batch.from_tokens([[0, 1, 2, 1, 0]])
    law = ExactInduction(4).log_probs(batch).exp()[0]
    torch.testing.assert_close(law, torch.tensor([[0.25] * 4, [0.25] * 4, [0.25] * 4, [0, 0, 1, 0]]).double())
    floored = ExactInduction(4, floor=0.2).log_probs(batch).exp()[0]
    torch.testing.assert_close(floored[3], torch.tensor([0.05, 0.05, 0.85, 0.05]).double())


@pytest.mark.parametrize("tokens", [[0, 4], [-1, 0]])
def test_tokens_that_are_none_are_refused(tokens):
    matcher = ExactInduction(4)
    with pytest.raises(ValueError, match="tokens hold"):
        matcher.votes(np.array(tokens))


def test_of_no_token_there_are_no_votes():
    assert len(ExactInduction(3).votes(np.zeros(0, np.int64))) == 0


def test_numbers_out_of_range_are_refused_by_name():
    with pytest.raises(ValueError, match="n_tokens=0"):
        ExactInduction(0)
    with pytest.raises(ValueError, match="window=0"):
        ExactInduction(3, window=0)
    with pytest.raises(ValueError, match="floor=2"):
        ExactInduction(3, floor=2.0)
    with pytest.raises(ValueError, match="position"):
        ExactInduction(3).votes(np.array([0, 1]), np.array([2]))
