"""Documents kept apart, the windows cut from them, and batches that resume."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextlens.models.tasks.corpus import Corpus
from nextlens.models.training import train
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.models.vocabulary import Bytes, Symbols

documents_of_tokens = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=1, max_size=5)


def numbered(*lengths: int) -> Corpus:
    """Every token of the corpus is another one, so that a window says where it was cut."""
    return Corpus(np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1]))


def enumerated(corpus: Corpus, length: int, every: int = 1) -> list[list[int]]:
    """Every stretch of that length, document by document."""
    return [
        document[start : start + length].tolist()
        for document in corpus
        for start in range(0, len(document) - length + 1, every)
    ]


@given(documents=documents_of_tokens, context=st.integers(1, 4), every=st.integers(1, 4))
def test_windows_are_every_stretch_of_a_document_and_none_crosses_its_end(documents, context, every):
    corpus = Corpus(documents)
    expected = enumerated(corpus, context + 1, every)
    if not expected:
        with pytest.raises(ValueError, match=f"context={context} needs documents of {context + 1} tokens"):
            corpus.windows(context, every)
        return
    windows = corpus.windows(context, every)
    found = np.column_stack([corpus.contexts(windows), corpus.targets(windows)])
    assert found.tolist() == expected
    for (document, start), said in zip(np.column_stack([windows.document, windows.start]), expected, strict=True):
        assert documents[document][start : start + context + 1] == said


def test_every_token_with_enough_before_it_is_a_target_once():
    corpus = numbered(5, 3, 9, 2)
    targets = corpus.targets(corpus.windows(context=3, every=1))
    assert targets.tolist() == [3, 4, *range(11, 17)]


def test_a_limit_draws_windows_without_repeating_and_keeps_their_order():
    corpus = numbered(60, 40)
    all_of_them, some = corpus.windows(10, 2), corpus.windows(10, 2, limit=12, rng=np.random.default_rng(0))
    drawn, whole = corpus.targets(some), corpus.targets(all_of_them)
    assert len(drawn) == 12
    assert (np.diff(drawn) > 0).all()
    assert set(drawn) < set(whole)
    assert len(corpus.windows(10, 2, limit=10**6, rng=np.random.default_rng(0))) == len(all_of_them)


def test_training_windows_are_drawn_alike_from_all_that_fit_and_from_no_two_documents():
    corpus = numbered(7, 2, 5)
    with pytest.warns(UserWarning, match=r"1 of 3 documents, 14\.29% of the tokens, are shorter than length=4"):
        stream = corpus.batches(600, 4, np.random.default_rng(1))
    batch = next(stream)
    drawn = torch.cat([batch.tokens, batch.targets[:, -1:]], dim=1)
    found, counts = np.unique(drawn.numpy(), axis=0, return_counts=True)
    assert found.tolist() == enumerated(corpus, 4)
    assert counts.min() > 60
    assert torch.equal(batch.targets[:, :-1], batch.tokens[:, 1:])


def test_a_stream_goes_on_from_where_another_stood():
    corpus = numbered(50, 30)
    first, second = (corpus.batches(4, 6, np.random.default_rng(seed)) for seed in (0, 1))
    next(first)
    second.restore(first.state())
    for one, other in islice(zip(first, second, strict=True), 3):
        assert torch.equal(one.tokens, other.tokens)


def test_training_on_a_corpus_resumes_exactly():
    corpus = Corpus([np.random.default_rng(0).integers(5, size=40)])

    def run(steps: int, resume=None):
        model = Transformer(TransformerConfig(n_tokens=5, n_layers=1, d_model=8, n_ctx=8))
        batches = corpus.batches(3, 9, np.random.default_rng(2))
        return list(train(model, batches, steps=steps, resume=resume))[-1]

    whole, half = run(4), run(2)
    assert run(4, half.state()).loss == whole.loss


def test_documents_are_split_whole_and_none_is_in_both_parts():
    corpus = numbered(*[3] * 10)
    rest, held_out = corpus.split(0.3, np.random.default_rng(0))
    assert (len(rest), len(held_out)) == (7, 3)
    assert sorted(rest.names + held_out.names) == sorted(corpus.names)
    for name in held_out.names:
        assert held_out.named(name).documents[0].tolist() == corpus.named(name).documents[0].tolist()
    assert rest.n_tokens == held_out.n_tokens == corpus.n_tokens == 30
    almost, one = numbered(1, 1).split(1.0, np.random.default_rng(0))
    assert (len(almost), len(one)) == (1, 1)


def test_documents_are_taken_and_left_out_by_name():
    corpus = Corpus.from_texts({"first": "ab", "second": "ba", "third": "aa"}, Symbols("ab"))
    assert corpus.named("third", "first").names == ("third", "first")
    assert corpus.without("second").names == ("first", "third")
    assert corpus.text(1) == "ba"
    assert corpus.text(1, -5, 1) == "b"
    assert Corpus([[3, 1]]).text(0) == "3 1"
    with pytest.raises(ValueError, match=r"name='secnd' is not one of .* did you mean 'second'"):
        corpus.without("secnd")


def test_tokens_cannot_be_changed_in_place_and_ids_may_be_large():
    corpus = Corpus([[2**31 + 5, 0]])
    assert corpus.documents[0].tolist() == [2**31 + 5, 0]
    with pytest.raises(ValueError, match="read-only"):
        corpus.documents[0][0] = 1


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([], {}, "documents is empty"),
        ([[1], []], {}, "document '1' is empty"),
        ([[1.5]], {}, "document '0' is float64 of shape"),
        ([[[1]]], {}, r"shape \(1, 1\); it must be integers in one row"),
        ([[0, -1]], {"names": ["a"]}, "document 'a' holds -1; token ids start at 0"),
        ([[0, 3]], {"n_tokens": 3}, r"document '0' holds 3; with n_tokens=3 tokens lie in 0 \.\. 2"),
        ([[0, 300]], {"vocabulary": Bytes()}, "holds 300; with n_tokens=256"),
        ([[0]], {"vocabulary": Bytes(), "n_tokens": 3}, "n_tokens=3 and the vocabulary's 256 differ"),
        ([[0], [1]], {"names": ["a", "a"]}, "names are 1 different ones for 2 documents"),
    ],
)
def test_a_corpus_that_cannot_be_is_refused(documents, options, message):
    with pytest.raises(ValueError, match=message):
        Corpus(documents, **options)


def test_what_cannot_be_cut_or_drawn_is_refused():
    corpus = numbered(5, 4)
    with pytest.raises(ValueError, match="length=6, and the longest document has 5 tokens"):
        corpus.batches(2, 6, np.random.default_rng(0))
    with pytest.raises(ValueError, match="limit=2 draws windows, for which it needs rng"):
        corpus.windows(2, limit=2)
    with pytest.raises(ValueError, match="every=0 must be at least 1"):
        corpus.windows(2, 0)
    with pytest.raises(ValueError, match="cannot be split by document"):
        numbered(5).split(0.5, np.random.default_rng(0))
    with pytest.raises(ValueError, match="documents=2 must lie between 0 and 1"):
        corpus.take([2])
    with pytest.raises(ValueError, match="document 'b': text has 'x' at 1"):
        Corpus.from_texts({"a": "0", "b": "1x"}, Symbols("01"))
