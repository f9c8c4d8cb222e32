"""Thresholds chosen on held-out text; scores of predictions under the rules for ties; means over documents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextlens.models.induction.answers import Threshold
from nextlens.models.induction.document_bootstrap import document_means, interval_95
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.scores import best_floor, bits, score_laws, score_votes
from nextlens.models.induction.threshold import choose_threshold, fit_threshold
from nextlens.models.induction.votes import Votes
from tests.reference_matchers import SlowInduction, SlowInfiniGram, SlowSimilar

N = 4


@st.composite
def votes_and_targets(draw):
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        token = sorted(draw(st.sets(st.integers(0, N - 1))))
        rows.append((0, np.array(token, np.int64), np.array([float(draw(st.integers(1, 3))) for _ in token])))
    targets = np.array([draw(st.integers(0, N - 1)) for _ in rows])
    return rows, targets


@given(votes_and_targets())
def test_scores_are_what_their_names_say(drawn):
    votes, targets = Votes.of_rows(drawn[0]), drawn[1]
    scores, laws = score_votes(votes, targets, N), votes.probabilities(N)
    for r, (law, target) in enumerate(zip(laws, targets, strict=True)):
        top = np.flatnonzero(np.isclose(law, law.max()))
        assert scores.strict[r] == (top[0] == target)
        assert scores.inclusive[r] == (target in top and len(top) < N)
        assert scores.expected[r] == pytest.approx((target in top) / len(top))
        assert scores.tied[r] == (len(top) > 1)
        assert scores.probability[r] == pytest.approx(law[target])


@given(votes_and_targets())
def test_dense_laws_are_scored_alike(drawn):
    votes, targets = Votes.of_rows(drawn[0]), drawn[1]
    for sparse, dense in zip(score_votes(votes, targets, N), score_laws(votes.probabilities(N), targets), strict=True):
        np.testing.assert_allclose(sparse, dense)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_no_floor_costs_fewer_bits_than_the_best(probability):
    probability = np.array(probability)
    best = bits(probability, best_floor(probability, N), N).mean()
    for floor in np.linspace(1e-6, 1, 40):
        assert best <= bits(probability, float(floor), N).mean() + 1e-6


def test_without_a_floor_the_impossible_costs_infinitely_many_bits():
    assert bits(np.array([0.0, 0.5]), 0.0, N).tolist() == [np.inf, 1.0]
    with pytest.raises(ValueError, match="probability is empty"):
        best_floor(np.array([]), N)


def test_document_means_are_weighted_by_their_rows_and_paired():
    values, document = np.array([[1.0, 1.0, 0.0], [0.5, 0.5, -0.5]]), np.array([7, 7, 3])
    drawn = document_means(values, document, rng=np.random.default_rng(0), draws=500)
    assert set(drawn[:, 0].round(6)) == {0.0, round(2 / 3, 6), 1.0}
    np.testing.assert_allclose(drawn[:, 0] - drawn[:, 1], 0.5)
    low, high = interval_95(drawn)
    assert low.tolist() == pytest.approx([0, -0.5])
    assert high.tolist() == pytest.approx([1, 0.5])


def test_intervals_over_documents_cover_what_they_should():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        document = np.repeat(np.arange(40), 5)
        values = np.repeat(rng.normal(size=40), 5)[None]  # rows of a document are one observation
        low, high = interval_95(document_means(values, document, rng=rng, draws=400))
        covered += bool(low[0] <= 0 <= high[0])
    assert 178 <= covered <= 199  # binomial, 0.93 and 200: two in a thousand lie outside


def answered(seed: int = 0, n: int = 6):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(N, size=12 + i) for i in range(n)]
    gim = GIM(
        SlowInfiniGram([rng.integers(N, size=30) for _ in range(3)], N),
        SlowInduction(N),
        SlowSimilar(lambda tokens: np.eye(N)[tokens] + 0.1, N),
        threshold=1,
        floor=0.05,
    )
    return gim, texts


@pytest.mark.parametrize("criterion", ["expected", "strict", "inclusive", "bits"])
def test_the_curve_is_the_score_of_the_gim_with_that_threshold(criterion):
    gim, texts = answered()
    fit = fit_threshold(gim, texts, criterion=criterion, rng=np.random.default_rng(0), draws=50)
    targets = np.concatenate([text[1:] for text in texts])
    for tau in fit.curve.threshold.values:
        votes = Votes.joined([gim.with_(threshold=int(tau)).votes(text[:-1]) for text in texts])
        found = score_votes(votes, targets, N)
        wanted = bits(found.probability, 0.05, N) if criterion == "bits" else getattr(found, criterion)
        assert float(fit.curve.score.sel(threshold=tau)) == pytest.approx(np.mean(wanted))
    sign = -1 if criterion == "bits" else 1
    best = (sign * fit.curve.score).idxmax("threshold")
    assert fit.threshold == Threshold.of(int(best))
    assert float(fit.curve.difference.sel(threshold=fit.threshold.corpus)) == 0
    assert (sign * fit.curve.difference <= 1e-12).all()
    assert (fit.curve.low <= fit.curve.score).all()
    assert (fit.curve.score <= fit.curve.high).all()


def test_two_thresholds_are_the_best_of_all_pairs():
    gim, texts = answered(1)
    targets = np.concatenate([text[1:] for text in texts])
    rows = np.repeat(np.arange(len(texts)), [len(text) - 1 for text in texts])
    answers = gim.answers(texts[0][:-1])
    for text in texts[1:]:
        answers = answers.joined([answers, gim.answers(text[:-1])])
    fit = choose_threshold(
        answers, targets, rows, N, separate=True, thresholds=range(5), rng=np.random.default_rng(0), draws=50
    )
    score = {(a, b): score_votes(answers.votes((a, b)), targets, N).expected.mean() for a in range(5) for b in range(5)}
    assert score[fit.threshold] == pytest.approx(max(score.values()))


def test_held_out_scores_are_of_thresholds_that_others_chose():
    gim, texts = answered(2)
    fit = fit_threshold(gim, texts, folds=len(texts), rng=np.random.default_rng(3), draws=10)
    fold = np.random.default_rng(3).permutation(len(texts)) % len(texts)
    won = []
    for d, text in enumerate(texts):
        votes = gim.with_(threshold=fit.by_fold[fold[d]]).votes(text[:-1])
        won.append(score_votes(votes, text[1:], N).expected)
        others = [one for e, one in enumerate(texts) if e != d]
        alone = fit_threshold(
            gim,
            others,
            rng=np.random.default_rng(0),
            draws=10,
            thresholds=fit.curve.threshold.values.tolist(),
        )
        assert alone.threshold == fit.by_fold[fold[d]]
    assert fit.held_out == pytest.approx(np.concatenate(won).mean())


def test_texts_of_one_document_stay_together():
    gim, texts = answered(3, n=4)
    with pytest.raises(ValueError, match="documents name 1 document"):
        fit_threshold(gim, texts, documents=[0, 0, 0, 0], rng=np.random.default_rng(0))
    fit = fit_threshold(gim, texts, documents=[0, 0, 1, 1], rng=np.random.default_rng(0), draws=10)
    assert len(fit.by_fold) == 2


def test_what_cannot_be_fitted_is_refused():
    gim, texts = answered(4)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="texts is empty"):
        fit_threshold(gim, [], rng=rng)
    with pytest.raises(ValueError, match="6 texts, 1 positions and 6 documents"):
        fit_threshold(gim, texts, positions=[np.array([1])], rng=rng)
    with pytest.raises(ValueError, match=r"texts\[1\] has 1 token"):
        fit_threshold(gim, [texts[0], texts[1][:1]], rng=rng)
    with pytest.raises(ValueError, match="thresholds is empty"):
        fit_threshold(gim, texts, thresholds=[], rng=rng)
    answers = gim.answers(texts[0][:-1])
    with pytest.raises(ValueError, match=f"targets hold {N}; with n_tokens={N}"):
        choose_threshold(answers, np.full(11, N), np.arange(11), N, rng=rng)
    with pytest.raises(ValueError, match="criterion='bit' is not one of"):
        fit_threshold(gim, texts, criterion="bit", rng=rng)
    with pytest.raises(ValueError, match="floor=0 makes"):
        fit_threshold(gim.with_(floor=0.0), texts, criterion="bits", rng=rng)
