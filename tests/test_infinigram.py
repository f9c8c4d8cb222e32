"""Infini-gram against a linear scan of the corpus: one by one, many at once, at every position, token by token."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nextlens.models.induction import InfiniGram, SuffixArray, infinigram
from tests.corpora import END, prompts, scan, streams

STREAMS = streams(np.random.default_rng(0))
of_every_stream = pytest.mark.parametrize("name", STREAMS)


def asked(name: str) -> tuple[list[list[int]], InfiniGram, list[list[int]]]:
    documents = STREAMS[name]
    model = InfiniGram(SuffixArray.build(documents))
    return documents, model, prompts(documents, np.random.default_rng(1), model.n_tokens)


def as_counts(votes, row: int) -> Counter:
    token, weight = votes.row(row)
    return Counter(dict(zip(token.tolist(), weight.tolist(), strict=True)))


@of_every_stream
def test_match_is_what_a_scan_finds(name):
    documents, model, all_prompts = asked(name)
    for prompt in all_prompts:
        length, after = scan(documents, prompt)
        match = model.match(prompt)
        assert (match.length, match.count, match.next_counts) == (length, after.total(), dict(after)), prompt
        assert match.n_end == after[END]
        assert match.count == model.indexes[0].count(prompt[len(prompt) - length :])


@of_every_stream
@pytest.mark.parametrize("threads", [1, 2])
def test_many_matches_are_those_one_by_one(name, threads, monkeypatch):
    monkeypatch.setattr(infinigram, "TOGETHER", 7)
    _, model, all_prompts = asked(name)
    for one, many in zip(all_prompts, model.matches(all_prompts, threads=threads), strict=True):
        match = model.match(one)
        assert (match.length, match.count, match.next_counts) == (many.length, many.count, many.next_counts), one
    assert model.matches([]) == []
