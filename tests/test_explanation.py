"""Explanations: true of the prediction, true of the places, and safe to show."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.models.batch import Batch
from nextlens.models.induction import infinigram
from nextlens.models.induction.exact import ExactInduction
from nextlens.models.induction.generation import write
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.infinigram import InfiniGram
from nextlens.models.induction.suffix_array import SuffixArray
from nextlens.models.vocabulary import Bytes
from tests.reference_matchers import SlowSimilar

N = 4
DOCUMENTS = [np.array([0, 1, 2, 3, 0, 1, 2, 2]), np.array([3, 3, 1, 2, 0]), np.array([1, 0, 1, 2, 3])]


def whole(threshold: int, floor: float = 0.0) -> GIM:
    indexes = [SuffixArray.build(DOCUMENTS[:1], n_tokens=N), SuffixArray.build(DOCUMENTS[1:], n_tokens=N)]
    similar = SlowSimilar(lambda tokens: np.eye(N)[tokens] + 0.2, N)
    return GIM(InfiniGram(indexes), ExactInduction(N), similar, threshold=threshold, floor=floor)


contexts = st.lists(st.integers(0, N - 1), min_size=1, max_size=12)


@settings(max_examples=8)
@given(contexts, st.integers(0, 4), st.sampled_from([0.0, 0.2]))
def test_the_law_rebuilt_from_the_places_is_the_one_that_was_said(tokens, threshold, floor):
    gim = whole(threshold, floor)
    said = gim.log_probs(Batch.from_tokens([[*tokens, 0]]))[0]
    for position in range(len(tokens)):
        law = gim.explain(np.array(tokens), position).law
        np.testing.assert_allclose(law, said[position].exp().numpy(), atol=1e-12)


@settings(max_examples=8)
@given(contexts, st.integers(0, 4))
def test_every_place_is_a_true_match_of_the_length_that_is_stated(tokens, threshold):
    tokens = np.array(tokens)
    found = whole(threshold).explain(tokens, most=10_000)
    n, ending = found.places.length, tokens[len(tokens) - found.places.length :]
    for one in found.passages:
        text = tokens if one.document < 0 else DOCUMENTS[one.document]
        np.testing.assert_array_equal(text[one.offset - n : one.offset], ending)
        np.testing.assert_array_equal(one.match, ending)
        assert text[one.offset] == one.proposed
        np.testing.assert_array_equal(one.before, text[max(0, one.offset - n - 8) : one.offset - n])
        np.testing.assert_array_equal(one.after, text[one.offset + 1 : one.offset + 9])
    assert len(found.passages) == len(found.places)
    assert sum(one.share for one in found.passages) == pytest.approx(1 if len(found.places) else 0)


@settings(max_examples=8)
@given(contexts, st.integers(0, 4))
def test_no_place_is_left_out_and_none_has_a_longer_match(tokens, threshold):
    tokens = np.array(tokens)
    found = whole(threshold).explain(tokens)
    if found.source == "similar":
        assert found.places.offset.tolist() == list(range(1, len(tokens)))
        return
    texts = {"context": {-1: tokens}, "corpus": dict(enumerate(DOCUMENTS))}[found.source]
    for n, wanted in ((found.places.length, len(found.places)), (found.places.length + 1, 0)):
        ending = tokens[len(tokens) - n :] if n <= len(tokens) else None
        matches = [
            (d, i)
            for d, text in texts.items()
            for i in range(n, len(text))
            if ending is not None and (text[i - n : i] == ending).all()
        ]
        assert len(matches) == wanted or (found.source, n) == ("context", 0)


def test_parts_by_themselves_are_named_with_what_they_would_have_said():
    found = whole(9).explain(np.array([3, 1, 2, 0, 3, 1]))
    assert found.source == "similar"
    assert (found.n_corpus, found.n_context) == (2, 2)
    assert found.others()["corpus"] == {"n": 2, "token": 2, "probability": 1.0}
    assert found.others()["context"] == {"n": 2, "token": 2, "probability": 1.0}


def test_a_threshold_that_nobody_answers_below_is_not_said():
    tokens = np.array([0, 1, 2, 0, 1])
    short = GIM(exact=ExactInduction(N), threshold=8).explain(tokens)
    assert "2 tokens: 1 place (n_corpus=0, n_context=2, nothing that is alike votes)" in str(short)
    assert "threshold 2" in str(GIM(exact=ExactInduction(N), threshold=2).explain(tokens))
    assert "threshold 9" in str(whole(9).explain(tokens))


def test_nothing_that_votes_is_said_in_words():
    found = GIM(exact=ExactInduction(N), threshold=1).explain(np.array([2]))
    assert "Nothing speaks for any token" in str(found)
    np.testing.assert_allclose(found.law, 1 / N)
    assert json.loads(found.to_json())["candidates"] == []
    assert "Nothing speaks" in found._repr_html_()


def test_a_dataset_holds_every_place_and_every_candidate():
    found = whole(1).explain(np.array([0, 1, 2]), most=1)
    data = found.to_dataset()
    assert data.sizes == {"place": len(found.places), "candidate": len(found.candidates)}
    assert len(found.places) > len(found.passages) == 1
    weight = np.bincount(data.token, data.weight, minlength=N)
    np.testing.assert_allclose(weight[data.candidate] / weight.sum(), data.probability)
    assert data.attrs["source"] == "corpus"
    assert data.probability.values.tolist() == sorted(data.probability.values.tolist(), reverse=True)


def hostile(threshold: int):
    vocabulary = Bytes()
    index = SuffixArray.build(["say <script>alert(1)</script>\x1b[31m&amp;"], vocabulary=vocabulary)
    gim = GIM(InfiniGram(index), ExactInduction(256), threshold=threshold)
    return gim.explain(vocabulary.encode("<script>alert(1)</script>"), vocabulary=vocabulary, names=["<img src=x>"])


def test_text_is_escaped_in_html_and_on_the_terminal():
    found = hostile(1)

    class Reads(HTMLParser):
        def __init__(self):
            super().__init__()
            self.seen, self.shown = [], ""

        def handle_starttag(self, tag, attributes):
            self.seen.append((tag, dict(attributes)))

        def handle_data(self, data):
            self.shown += data

    for html in (found.to_html(), found._repr_html_()):
        reader = Reads()
        reader.feed(html)
        assert not {"script", "img", "a", "link", "iframe"} & {tag for tag, _ in reader.seen}
        assert not [a for _, a in reader.seen if {"src", "href", "onclick", "onload"} & set(a)]
        assert "<script>alert(1)</script>" in reader.shown
        assert "<img src=x>" in reader.shown
        assert "http" not in html.replace("http-equiv", "")
    assert "\x1b" not in str(found)
    assert r"\x1b" in str(found)
    assert "default-src 'none'" in found.to_html()


def test_json_says_what_the_passages_hold():
    found = hostile(1)
    said = json.loads(found.to_json())
    assert said["source"] == "corpus"
    assert said["n"] == 25
    (passage,) = said["passages"]
    assert passage["before"] + passage["match"] + passage["proposed"] + passage["after"] == (
        "say <script>alert(1)</script>\x1b[31m&amp"
    )
    assert said["candidates"] == [{"token": 27, "text": "\x1b", "probability": 1.0}]


def test_bytes_that_are_no_text_are_shown_and_not_refused():
    index = SuffixArray.build([[195, 169, 195]], n_tokens=256)
    found = GIM(InfiniGram(index), threshold=0).explain(np.array([195]), vocabulary=Bytes())
    assert "�" in str(found)


def test_ids_up_to_two_to_the_32_are_explained_and_written_with_no_dense_law():
    gim = GIM(InfiniGram(SuffixArray.build([[2**32 - 2, 5, 2**32 - 2, 5, 5]])), threshold=1)
    said = gim.explain(np.array([2**32 - 2]))
    assert said.as_json()["candidates"] == [{"token": 5, "text": "5", "probability": 1.0}]
    said = gim.explain(np.array([5]))
    assert (said.candidates.tolist(), said.probabilities.tolist()) == ([5, 2**32 - 2], [0.5, 0.5])
    assert "0.500  4294967294" in str(said)
    wrote = list(write(gim, np.array([5]), length=3, rng=np.random.default_rng(0)))
    assert {one.token for one in wrote} <= {5, 2**32 - 2}
    assert wrote[0].probability == 0.5


def test_occurrences_too_many_to_list_are_counted(monkeypatch):
    monkeypatch.setattr(infinigram, "MOST_PLACES", 3)
    said = GIM(InfiniGram(SuffixArray.build([[0] * 9 + [1]])), threshold=1).explain(np.array([0]))
    assert "9 places, one named for each next token" in said.in_words
    assert repr(said) == str(said)


def test_what_cannot_be_explained_is_refused():
    with pytest.raises(ValueError, match="position=3 must lie between 0 and 2"):
        whole(1).explain(np.array([0, 1, 2]), 3)
    with pytest.raises(ValueError, match="most=-1 must be at least 0"):
        whole(1).explain(np.array([0, 1, 2]), most=-1)


def test_explaining_leaves_torch_alone():
    before = torch.get_rng_state()
    whole(9).explain(np.array([0, 1, 2, 0]))
    assert torch.equal(before, torch.get_rng_state())
