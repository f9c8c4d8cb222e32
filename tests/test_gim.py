"""The back-off rule: who answers, and with what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.models.batch import Batch
from nextlens.models.induction.answers import SOURCES, Answers, Threshold
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.votes import Matcher, Votes
from nextlens.models.kernel import Kernel
from tests.reference_matchers import SlowInduction, SlowInfiniGram, SlowSimilar

N = 5
DOCUMENTS = [np.array([0, 1, 2, 3, 0, 1, 2, 4]), np.array([3, 3, 1, 2, 0])]


class Says(Matcher):
    """The same one vote everywhere, of a length that is given for each position."""

    def __init__(self, token: int, lengths, n_tokens: int = N, *, silent=()):
        self.token, self.lengths, self.n_tokens, self.silent = token, lengths, n_tokens, silent
        self.asked: list[int] = []

    def votes(self, tokens, positions=None) -> Votes:
        positions = np.arange(len(tokens)) if positions is None else positions
        self.asked += positions.tolist()
        said = [np.array([], np.int64) if p in self.silent else np.array([self.token]) for p in positions]
        return Votes.of_rows(
            [(int(self.lengths[p]), one, np.ones(len(one))) for p, one in zip(positions, said, strict=True)]
        )

    def places(self, tokens):
        raise NotImplementedError


def one_hot(tokens):
    return np.eye(N)[tokens] + 0.2


def whole(threshold=2, floor: float = 0.0) -> GIM:
    return GIM(
        SlowInfiniGram(DOCUMENTS, N), SlowInduction(N), SlowSimilar(one_hot, N), threshold=threshold, floor=floor
    )


def by_the_rule(gim: GIM, tokens, tau: int):
    """Section by section as the paper's code has it, dense."""
    last = np.array([len(tokens) - 1])
    corpus, context, similar = (part.votes(tokens, last) for part in (gim.infinigram, gim.exact, gim.fuzzy))
    if context.length[0] >= corpus.length[0] and context.length[0] > 0:
        chosen, n = context, context.length[0]
    else:
        chosen, n = corpus, corpus.length[0]
    if n < tau and len(tokens) > 1:
        chosen = similar
    weights = np.zeros(N)
    token, weight = chosen.row(0)
    weights[token] = weight
    return weights / weights.sum()


@settings(max_examples=12)
@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=14), st.integers(0, 5))
def test_the_law_is_what_the_rule_says(tokens, tau):
    gim, tokens = whole(tau), np.array(tokens)
    laws = gim.votes(tokens).probabilities(N)
    for t in range(len(tokens)):
        np.testing.assert_allclose(laws[t], by_the_rule(gim, tokens[: t + 1], tau), atol=1e-12)


def answered_by(corpus: int, context: int, threshold) -> str:
    gim = GIM(Says(0, [corpus]), Says(1, [context]), Says(2, [0]), threshold=threshold)
    votes, source = gim.votes(np.array([3])), gim.answers(np.array([3])).source(threshold)[0]
    assert votes.token.tolist() == [source]
    return SOURCES[source]


def test_a_tie_goes_to_the_context():
    assert answered_by(7, 7, 5) == "context"
    assert answered_by(8, 7, 5) == "corpus"
    assert answered_by(7, 8, 5) == "context"


def test_a_match_as_long_as_the_threshold_is_trusted_and_a_shorter_one_is_not():
    assert answered_by(5, 2, 5) == "corpus"
    assert answered_by(2, 5, 5) == "context"
    assert answered_by(4, 4, 5) == "similar"


def test_no_threshold_never_asks_what_is_alike_and_a_large_one_always_does():
    assert answered_by(0, 0, 0) == "context"
    assert answered_by(400, 500, 501) == "similar"


def test_two_thresholds_hold_for_the_longer_match_of_each():
    assert answered_by(6, 3, (6, 9)) == "corpus"
    assert answered_by(3, 6, (6, 9)) == "similar"
    assert answered_by(5, 3, (6, 2)) == "similar"
    assert answered_by(3, 3, (6, 2)) == "context"


def test_who_has_no_vote_leaves_the_word_to_the_others():
    tokens = np.array([3])
    silent_similar = GIM(Says(0, [2]), Says(1, [0], silent=[0]), Says(2, [0], silent=[0]), threshold=9)
    assert silent_similar.votes(tokens).token.tolist() == [0]
    silent_context = GIM(Says(0, [0]), Says(1, [0], silent=[0]), threshold=0)
    assert silent_context.votes(tokens).token.tolist() == [0]
    silent_corpus = GIM(Says(0, [9], silent=[0]), Says(1, [2]), Says(2, [0]), threshold=3)
    assert silent_corpus.votes(tokens).token.tolist() == [2]
    assert silent_corpus.answers(tokens).length.tolist() == [2]
    nobody = GIM(None, Says(1, [0], silent=[0]), threshold=1)
    np.testing.assert_array_equal(nobody.votes(tokens).probabilities(N), np.full((1, N), 1 / N))


def test_the_first_token_is_answered_by_the_corpus_and_without_one_by_nobody():
    assert whole(9).places(np.array([3])).source == "corpus"
    assert len(GIM(None, SlowInduction(N), SlowSimilar(one_hot, N), threshold=9).places(np.array([3]))) == 0


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_any_part_may_be_missing(missing):
    parts = [SlowInfiniGram(DOCUMENTS, N), SlowInduction(N), SlowSimilar(one_hot, N)]
    parts[missing] = None
    gim, tokens = GIM(*parts, threshold=2), np.array([3, 1, 2, 0, 3, 1])
    assert SOURCES[missing] not in gim.parts
    assert missing not in gim.answers(tokens).source(2)[1:]
    only = next(iter(gim.parts.values()))
    alone = GIM(*(part if part is only else None for part in parts), threshold=2)
    np.testing.assert_allclose(alone.votes(tokens).probabilities(N), only.votes(tokens).probabilities(N), atol=1e-12)


def test_only_short_matches_are_asked_of_the_fuzzy_part():
    similar = Says(2, np.zeros(4))
    gim = GIM(Says(0, [0, 1, 5, 9]), Says(1, np.zeros(4), silent=range(4)), similar, threshold=3)
    assert gim.votes(np.arange(4)).token.tolist() == [2, 2, 0, 0]
    assert similar.asked == [0, 1]


@settings(max_examples=12)
@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=14), st.integers(0, 4), st.integers(0, 4))
def test_one_pass_answers_for_every_threshold(tokens, corpus, context):
    gim, tokens = whole((corpus, context)), np.array(tokens)
    votes = gim.answers(tokens).votes((corpus, context))
    np.testing.assert_allclose(votes.probabilities(N), gim.votes(tokens).probabilities(N), atol=1e-12)
    np.testing.assert_array_equal(votes.length, gim.votes(tokens).length)


@settings(max_examples=12)
@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=12), st.integers(0, 4))
def test_votes_are_the_sums_of_the_places(tokens, threshold):
    gim, tokens = whole(threshold), np.array(tokens)
    places, votes = gim.places(tokens), gim.votes(tokens, np.array([len(tokens) - 1]))
    summed = np.bincount(places.token, places.weight, minlength=N)
    token, weight = votes.row(0)
    assert token.tolist() == np.flatnonzero(summed).tolist()
    np.testing.assert_allclose(weight, summed[token])
    assert places.length == votes.length[0]


@settings(max_examples=12)
@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=12), st.integers(0, 4))
def test_reading_token_by_token_says_the_same(tokens, threshold):
    gim = whole(threshold)
    reader = gim.reader()
    for t, token in enumerate(tokens):
        read, said = reader.read(token), gim.votes(np.array(tokens), np.array([t]))
        np.testing.assert_allclose(read.probabilities(N), said.probabilities(N), atol=1e-12)


def test_some_positions_in_any_order_are_rows_of_all():
    gim, tokens, some = whole(), np.array([3, 1, 2, 0, 3, 1, 2]), np.array([5, 0, 3])
    np.testing.assert_allclose(
        gim.votes(tokens, some).probabilities(N), gim.votes(tokens).probabilities(N)[some], atol=1e-12
    )


def test_a_floor_makes_everything_possible_and_no_floor_does_not():
    batch = Batch.from_tokens([[3, 1, 2, 0, 3, 1]])
    bare, floored = whole().log_probs(batch), whole(floor=0.1).log_probs(batch)
    assert bare.isinf().any()
    torch.testing.assert_close(floored.exp(), 0.9 * bare.exp() + 0.1 / N)
    assert isinstance(whole(), Kernel)


def test_answers_are_taken_and_joined_row_by_row():
    gim, tokens = whole(), np.array([3, 1, 2, 0, 3, 1, 2])
    answers = gim.answers(tokens)
    again = Answers.joined([answers.take(np.array([0, 1, 2])), answers.take(np.array([3, 4, 5, 6]))])
    np.testing.assert_array_equal(again.source(2), answers.source(2))
    np.testing.assert_allclose(again.votes(2).probabilities(N), answers.votes(2).probabilities(N))


@pytest.mark.parametrize("threshold", [-1, 2.5, (1, 2, 3), (1, -1), (1.0, 2), True, (True, 2)])
def test_what_is_no_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold=.* must be a whole number from 0 up, or two"):
        Threshold.of(threshold)


def test_what_cannot_be_a_gim_is_refused():
    with pytest.raises(ValueError, match="infinigram, exact and fuzzy are all None"):
        GIM(threshold=3)
    with pytest.raises(ValueError, match="vocabularies of different sizes: corpus 5, context 6"):
        GIM(Says(0, [1]), Says(0, [1], n_tokens=6), threshold=3)
    with pytest.raises(ValueError, match=r"floor=1\.5 must lie between 0 and 1"):
        GIM(Says(0, [1]), threshold=3, floor=1.5)
    with pytest.raises(ValueError, match=r"positions hold 4; with 2 tokens they must lie in 0 \.\. 1"):
        whole().votes(np.array([1, 2]), np.array([4]))
    with pytest.raises(ValueError, match="the number of tokens=0 must be at least 1"):
        whole().votes(np.array([], np.int64))
    with pytest.raises(ValueError, match="source='corpsu' is not one of"):
        whole().places_of("corpsu", np.array([1]))
