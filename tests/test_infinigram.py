"""Infini-gram against a linear scan of the corpus: one by one, many at once, at every position, token by token."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from nextlens.models.batch import Batch
from nextlens.models.induction import InfiniGram, SuffixArray, infinigram, many_queries
from tests.corpora import END, prompts, scan, streams

STREAMS = streams(np.random.default_rng(0))
of_every_stream = pytest.mark.parametrize("name", STREAMS)


def asked(name: str) -> tuple[list[list[int]], InfiniGram, list[list[int]]]:
    documents = STREAMS[name]
    model = InfiniGram(SuffixArray.build(documents))
    return documents, model, prompts(documents, np.random.default_rng(1), model.n_tokens)


def halves(documents: list[list[int]], n_tokens: int) -> list[SuffixArray]:
    """Two indexes, if the first half of the documents holds a token; else one."""
    half = len(documents) // 2
    parts = [documents[:half], documents[half:]] if any(documents[:half]) else [documents]
    return [SuffixArray.build(part, n_tokens) for part in parts]


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


@of_every_stream
@pytest.mark.parametrize("how", ["as it is", "in shards", "all paths"])
def test_votes_are_those_of_the_longest_suffix_that_a_token_follows(name, how, monkeypatch):
    documents, model, all_prompts = asked(name)
    if how == "in shards":
        model = InfiniGram(halves(documents, model.n_tokens))
    elif how == "all paths":
        monkeypatch.setattr(many_queries, "LONG", 3)
        monkeypatch.setattr(many_queries, "READ_WHOLE", 2)
        monkeypatch.setattr(many_queries, "READ_AT_ONCE", 1)
        monkeypatch.setattr(many_queries, "PIECES", 3)
        monkeypatch.setattr(infinigram, "TOGETHER", 5)
    for prompt in all_prompts[::5]:
        everywhere, reader = model.votes(np.array(prompt, int)), model.reader()
        few = np.arange(len(prompt))[1::3]
        some = model.votes(np.array(prompt, int), few)
        assert (some.length == everywhere.length[few]).all()
        assert [as_counts(some, row) for row in range(len(few))] == [as_counts(everywhere, t) for t in few.tolist()]
        for t, token in enumerate(prompt):
            expected = scan(documents, prompt[: t + 1], followed=True)
            read = reader.read(token)
            assert (everywhere.length[t], as_counts(everywhere, t)) == expected
            assert (read.length[0], as_counts(read, 0)) == expected


@of_every_stream
def test_the_end_of_a_document_votes_for_its_token(name):
    documents, plain, all_prompts = asked(name)
    end = min(plain.n_tokens - 1, 2)
    model = InfiniGram(plain.indexes, end=end)
    for prompt in all_prompts[::6]:
        votes, reader = model.votes(np.array(prompt, int)), model.reader()
        for t, token in enumerate(prompt):
            length, after = scan(documents, prompt[: t + 1])
            after[end] += after.pop(END, 0)
            read = reader.read(token)
            assert (votes.length[t], as_counts(votes, t)) == (length, +after)
            assert (read.length[0], as_counts(read, 0)) == (length, +after)


@of_every_stream
@pytest.mark.parametrize("end", [None, 0])
@pytest.mark.parametrize("most", [100_000, 3])
def test_places_are_true_matches_and_rebuild_the_votes(name, end, most, monkeypatch):
    monkeypatch.setattr(infinigram, "MOST_PLACES", most)
    documents, model, all_prompts = asked(name)
    model = InfiniGram(halves(documents, model.n_tokens), end=end)
    for prompt in all_prompts[1::4]:
        if not prompt:
            continue
        places, votes = model.places(np.array(prompt)), model.votes(np.array(prompt), np.array([len(prompt) - 1]))
        assert (places.source, places.length) == ("corpus", votes.length[0])
        assert len(places) == (places.weight.sum() if most > 3 else len(places))
        rebuilt: Counter[int] = Counter()
        n = places.length
        for document, offset, token, weight in zip(
            places.document, places.offset, places.token.tolist(), places.weight, strict=True
        ):
            text = documents[document]
            assert text[offset - n : offset] == prompt[len(prompt) - n :]
            assert token == (text[offset] if offset < len(text) else end)
            rebuilt[token] += weight
        assert rebuilt == as_counts(votes, 0)


def test_long_copies_are_read_in_step_with_the_text():
    """300,000 equal tokens, every position of a prompt of 600 of them: each answer from the one before."""
    model = InfiniGram(SuffixArray.build([[1] * 300_000, [0, 1, 0]]))
    prompt = np.array([0, *[1] * 600, 0])
    votes, reader = model.votes(prompt), model.reader()
    assert votes.length.tolist() == [1, 2, *range(2, 601), 1]
    assert as_counts(votes, 600) == {1: 299_400}
    for t, token in enumerate(prompt[:200].tolist()):
        read = reader.read(token)
        assert (read.length[0], as_counts(read, 0)) == (votes.length[t], as_counts(votes, t))


def test_no_count_is_approximated_above_a_thousand_occurrences():
    """infini-gram's engine approximates from 1,000 occurrences on, unless told otherwise."""
    rng = np.random.default_rng(0)
    text = np.append(rng.zipf(1.3, size=200_000) % 5_000, 4_999)
    model = InfiniGram(SuffixArray.build([text]))
    for token in (1, 2, 3, 4):
        after = Counter(text[1:][text[:-1] == token].tolist())
        assert after.total() > 1000
        assert Counter(model.match([token]).next_counts) == after
    assert Counter(model.match([]).next_counts) == Counter(text.tolist()) + Counter({END: 1})


def test_wide_tokens_take_memory_for_themselves_alone():
    """infini-gram asks for 34 GB for ten tokens of four bytes."""
    index = SuffixArray.build([[100_000, 70_000, 100_000, 70_001]])
    assert InfiniGram(index).match([5, 100_000]).next_counts == {70_000: 1, 70_001: 1}
    assert len(index.shards[0].text) == 4 * 5 + 8


def test_a_law_is_the_relative_count_and_a_floor_leaves_nothing_impossible():
    batch = Batch.from_tokens([[0, 1, 3, 3, 0]])
    index = SuffixArray.build([[0, 1, 2], [0, 1, 2], [0, 1, 1]], 4)
    law = InfiniGram(index).log_probs(batch).exp()[0].numpy()
    np.testing.assert_allclose(law, [[0, 1, 0, 0], [0, 1 / 3, 2 / 3, 0], *[[3 / 9, 4 / 9, 2 / 9, 0]] * 2])
    floored = InfiniGram(index, floor=0.4).log_probs(batch).exp()[0].numpy()
    np.testing.assert_allclose(floored, 0.6 * law + 0.1)


def test_a_model_goes_to_another_process(tmp_path):
    index = SuffixArray.build([[0, 1, 2], [0, 1]])
    for each in (index, index.save(tmp_path)):
        model = InfiniGram(each, end=2, floor=0.5, n_tokens=5)
        model.match([0, 1])
        there = pickle.loads(pickle.dumps(model))
        assert there.match([0, 1]).next_counts == {2: 1, END: 1}
        assert (there.end, there.floor, there.n_tokens, there.indexes[0].folder) == (2, 0.5, 5, each.folder)
    assert len(pickle.dumps(model)) < 500


def test_indexes_that_do_not_go_together_are_refused():
    index = SuffixArray.build([[0, 1]])
    with pytest.raises(ValueError, match="index is an empty list"):
        InfiniGram([])
    with pytest.raises(ValueError, match="n_tokens=1 must be at least 2"):
        InfiniGram(index, n_tokens=1)
    with pytest.raises(ValueError, match="end=2 must lie between 0 and 1"):
        InfiniGram(index, end=2)
    with pytest.raises(ValueError, match="floor="):
        InfiniGram(index, floor=1.5)
    with pytest.raises(ValueError, match=r"prompts\[1\] hold 2"):
        InfiniGram(index).matches([[0], [2]])
    with pytest.raises(ValueError, match="positions hold 2"):
        InfiniGram(index).votes(np.array([0, 1]), np.array([2]))
    with pytest.raises(ValueError, match="threads=0"):
        InfiniGram(index).matches([[0]], threads=0)
    with pytest.raises(ValueError, match="token hold 2"):
        InfiniGram(index).reader().read(2)
    twice = InfiniGram([index, index]).places(np.array([0]))
    assert (twice.document.tolist(), twice.offset.tolist(), twice.token.tolist()) == ([0, 1], [1, 1], [1, 1])
    assert InfiniGram([index, SuffixArray.build([[5]])]).n_tokens == 6


@of_every_stream
def test_infini_gram_itself_says_the_same(name, tmp_path):
    engine = pytest.importorskip("infini_gram.engine")
    documents, model, all_prompts = asked(name)
    if model.n_tokens > 65_535:
        pytest.skip("its tokens are two bytes")
    # The empty document at the end is for the engine: where the last one ends, it takes the file's end for a token
    # smaller than all, and a range that both begins and ends with an end of document for one of nothing else.
    text = b"".join(b"\xff\xff" + np.array(document, "<u2").tobytes() for document in [*documents, []])
    places = sorted(range(0, len(text), 2), key=lambda place: text[place:])
    width = int(np.ceil(np.log2(len(text)) / 8))
    (tmp_path / "tokenized.0").write_bytes(text)
    (tmp_path / "table.0").write_bytes(b"".join(place.to_bytes(width, "little") for place in places))
    starts = np.cumsum([0, *(2 * len(document) + 2 for document in documents)])[:-1]
    (tmp_path / "offset.0").write_bytes(starts.astype(np.uint64).tobytes())
    theirs = engine.InfiniGramEngine(
        str(tmp_path),
        eos_token_id=65_534,
        load_to_ram=True,
        ds_prefetch_depth=0,
        sa_prefetch_depth=0,
        od_prefetch_depth=0,
    )
    for prompt in all_prompts:
        said = theirs.infgram_ntd(prompt_ids=prompt, max_support=1000)
        match = model.match(prompt)
        expected = {
            END if token == 65_534 else token: each["cont_cnt"] for token, each in said["result_by_token_id"].items()
        }
        assert (match.length, match.count + (not match.length)) == (said["suffix_len"], said["prompt_cnt"]), prompt
        if match.length:
            assert match.next_counts == expected
