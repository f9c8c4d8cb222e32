"""Text of known source: what its documents are made of, and who answers its queries."""

from __future__ import annotations

import numpy as np
import pytest

from nextlens.models.induction.answers import SOURCES, Answers
from nextlens.models.induction.exact import ExactInduction
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.infinigram import InfiniGram
from nextlens.models.induction.scores import score_votes
from nextlens.models.induction.suffix_array import SuffixArray
from nextlens.models.induction.threshold import choose_threshold
from nextlens.models.tasks.sourced_text import (
    FIRST_FILLER,
    FIRST_FRESH,
    FIRST_VALUE,
    SEPARATOR,
    SOURCE_OF,
    SYNONYMS,
    SourcedText,
    meanings,
)
from tests.reference_matchers import SlowInduction, SlowSimilar, common_suffix

#: The table of the matcher that knows every meaning: 60 documents, the lowest id of equals.
ALL, ONLY_KINDS = 60, ("override", "synonym", "copy", "fact")


@pytest.fixture(scope="module")
def text() -> SourcedText:
    return SourcedText.drawn(np.random.default_rng(0))


@pytest.fixture(scope="module")
def reference(text):
    return text.reference(400, np.random.default_rng(1))


@pytest.fixture(scope="module")
def documents(text):
    return text.test(ALL, np.random.default_rng(2))


def told(document, at: int) -> list[int]:
    return document.tokens[: document.position[at] + 1].tolist()


def test_reference_is_as_long_as_it_says_and_holds_no_fresh_filler(reference):
    words = np.concatenate(reference)
    assert 45_000 < len(words) < 51_000
    assert not ((words >= FIRST_FRESH) & (words < SEPARATOR)).any()


def test_every_document_begins_with_the_only_separator(reference, documents):
    for words in [*reference, *(document.tokens for document in documents)]:
        assert words[0] == SEPARATOR
        assert (words[1:] < SEPARATOR).all()


def test_a_document_says_one_value_after_a_phrase_whatever_the_synonyms(text, reference):
    values = {}
    phrase_of = {tuple(phrase): p for p, phrase in enumerate(text.phrase.tolist())}
    for d, words in enumerate(reference):
        concepts = np.where(words < FIRST_VALUE, words // SYNONYMS, -1).tolist()
        for i in range(len(words) - 4):
            if (p := phrase_of.get(tuple(concepts[i : i + 4]))) is not None:
                values.setdefault((d, p), set()).add(int(words[i + 4]))
    assert all(len(found) == 1 for found in values.values())
    by_phrase = [{next(iter(v)) for (_, q), v in values.items() if q == p} for p in range(len(text.phrase))]
    assert all(found == set(row.tolist()) for found, row in zip(by_phrase, text.phrase_value, strict=True))


def test_copied_blocks_are_in_the_context_and_their_first_half_was_said_again(documents):
    for document in documents:
        copies = [i for i, kind in enumerate(document.kind) if kind == "copy"]
        words = document.tokens
        first = document.position[copies[0]] - 7
        block = words[first : first + 16]
        starts = [i for i in range(len(words) - 16) if (words[i : i + 16] == block).all()]
        assert starts[0] + 16 < first == starts[-1]


def test_synonyms_are_all_others_and_the_value_is_the_one_told(text, documents):
    for document in documents:
        for at in [i for i, kind in enumerate(document.kind) if kind == "synonym"]:
            words, said = document.tokens, told(document, at)[-4:]
            concepts = np.array(said) // SYNONYMS
            earlier = [
                i
                for i in range(document.position[at] - 4)
                if (words[i : i + 4] < FIRST_VALUE).all() and (words[i : i + 4] // SYNONYMS == concepts).all()
            ]
            assert len(earlier) == 1
            assert (words[earlier[0] : earlier[0] + 4] != said).all()
            assert words[earlier[0] + 4] == document.answer[at]


def test_facts_are_matched_by_their_ten_tokens_and_no_more(text, reference, documents):
    exact = SlowInduction(text.n_tokens)
    infinigram = InfiniGram(SuffixArray.build(reference, n_tokens=text.n_tokens))
    for document in documents[:20]:
        for at in [i for i, kind in enumerate(document.kind) if kind in ("override", "fact")]:
            kind, said = document.kind[at], np.array(told(document, at))
            corpus, context = infinigram.places(said), exact.places(said)
            assert corpus.length == 10
            assert set(corpus.token) == {text.fact_value[(text.head == said[-10:]).all(1)][0]}
            assert (document.answer[at] in corpus.token) == (kind == "fact")
            assert (context.length == 10) == (kind == "override")


def test_the_cosine_of_meanings_is_the_share_of_the_last_four_that_agree():
    one = np.array([4, 9, 200, 100, 250, 17])
    other = np.array([6, 11, 201, 100, 250, 19])
    agree = [concept(a) == concept(b) for a, b in zip(one[-4:], other[-4:], strict=True)]
    assert meanings(one)[-1] @ meanings(other)[-1] == pytest.approx(sum(agree) / 4)
    assert common_suffix(one, other) == 0


def concept(token: int) -> tuple[str, int]:
    return ("concept", token // SYNONYMS) if token < FIRST_VALUE else ("itself", int(token))


def test_fillers_and_values_are_told_apart():
    assert meanings(np.array([FIRST_FILLER]))[0] @ meanings(np.array([FIRST_VALUE]))[0] == 0


@pytest.fixture(scope="module")
def asked(text, reference, documents):
    """Every part's answer to every query, what was right, and of which kind and document it was."""
    gim = GIM(
        InfiniGram(SuffixArray.build(reference, n_tokens=text.n_tokens)),
        ExactInduction(text.n_tokens),
        FuzzyInduction(meanings, n_tokens=text.n_tokens),
        threshold=6,
    )
    answers = Answers.joined([gim.answers(document.tokens, document.position) for document in documents])
    kind = np.array([kind for document in documents for kind in document.kind])
    right = np.concatenate([document.answer for document in documents])
    return answers, right, kind, np.repeat(np.arange(len(documents)), [len(d.kind) for d in documents])


def shares(votes, asked) -> dict[str, float]:
    _, right, kind, _ = asked
    strict = score_votes(votes, right, SEPARATOR + 1).strict
    return {one: float(strict[kind == one].mean()) for one in ONLY_KINDS}


def test_each_part_alone_answers_what_it_can(asked):
    corpus, context, similar = (shares(getattr(asked[0], name), asked) for name in SOURCES)
    assert corpus["fact"] == 1
    assert corpus["override"] == 0
    assert 0.15 < corpus["synonym"] < 0.35  # one of the phrase's four values
    assert corpus["copy"] < 0.05
    assert context == {"override": 1, "synonym": 0, "copy": 1, "fact": 0}
    assert similar == {"override": 1, "synonym": 1, "copy": 1, "fact": 0}


@pytest.mark.parametrize("threshold", range(5, 11))
def test_all_three_together_answer_everything(asked, threshold):
    assert set(shares(asked[0].votes(threshold), asked).values()) == {1}


def test_below_and_above_those_thresholds_something_is_lost(asked):
    low = [shares(asked[0].votes(threshold), asked)["synonym"] for threshold in (1, 2, 3, 4)]
    assert low == sorted(low)
    assert low[0] < 0.35 < low[-1] < 0.85
    assert shares(asked[0].votes(11), asked) == {"override": 1, "synonym": 1, "copy": 1, "fact": 0}


def test_the_right_source_answers(asked):
    answers, _, kind, _ = asked
    source = np.array(SOURCES)[answers.source(6)]
    assert (source == np.array([SOURCE_OF[one] for one in kind])).mean() >= 0.95


def test_ties_are_what_makes_overrides_right(asked):
    answers, _, kind, _ = asked
    override = kind == "override"
    assert (answers.context.length[override] == answers.corpus.length[override]).all()
    assert (answers.corpus.length[kind == "synonym"] <= 4).all()


@pytest.mark.parametrize("criterion", ["strict", "inclusive", "expected", "bits"])
def test_the_fitted_threshold_is_one_of_those(asked, criterion):
    answers, right, _, document = asked
    fit = choose_threshold(
        answers,
        right,
        document,
        SEPARATOR + 1,
        criterion=criterion,
        floor=0.01,
        rng=np.random.default_rng(0),
    )
    assert 5 <= fit.threshold.corpus == fit.threshold.context <= 10
    assert all(5 <= one.corpus <= 10 for one in fit.by_fold)
    if criterion != "bits":
        assert fit.held_out == 1


def test_the_matchers_say_what_slow_ones_say(text, documents):
    for document in documents[:3]:
        slow = GIM(exact=SlowInduction(text.n_tokens), fuzzy=SlowSimilar(meanings, text.n_tokens), threshold=3)
        fast = GIM(
            exact=ExactInduction(text.n_tokens), fuzzy=FuzzyInduction(meanings, n_tokens=text.n_tokens), threshold=3
        )
        one, other = (
            gim.votes(document.tokens, document.position).probabilities(text.n_tokens) for gim in (slow, fast)
        )
        np.testing.assert_allclose(one, other, atol=1e-6)
