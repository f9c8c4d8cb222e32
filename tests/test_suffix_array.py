"""Suffix arrays: sorted as Python sorts, the same in memory, on disk and in shards, and whole whatever happens."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import weakref

import numpy as np
import pytest

from nextlens.models.byte_pairs import train_byte_pairs
from nextlens.models.induction import InfiniGram, SuffixArray, index_files, suffix_array
from nextlens.models.induction.index_files import MANIFEST, writing
from nextlens.models.induction.infinigram import END
from nextlens.models.induction.shard import Shard
from nextlens.models.induction.suffix_array import fingerprint
from nextlens.models.induction.suffix_sorting import BUILDERS, suffix_order
from nextlens.models.subwords import Subwords
from nextlens.models.vocabulary import Bytes, Symbols
from tests.corpora import occurrences, prompts, streams

STREAMS = streams(np.random.default_rng(0))
of_every_stream = pytest.mark.parametrize("name", STREAMS)
DOCUMENTS = STREAMS["random"]


def answers(index: SuffixArray, asked: list[list[int]]) -> list[tuple[int, int, dict[int, int]]]:
    found = InfiniGram(index).matches(asked)
    return [(match.length, match.count, match.next_counts) for match in found]


def content(index: SuffixArray) -> list[list[int]]:
    return [index.document(number).tolist() for number in range(index.n_documents)]


def files(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "index.lock"}


# --- sorting


@of_every_stream
@pytest.mark.parametrize("builder", BUILDERS)
def test_places_are_sorted_as_python_sorts_them(name, builder):
    tokens = [token for document in STREAMS[name] for token in document]
    expected = sorted(range(len(tokens)), key=lambda place: tokens[place:])
    for dtype in ("u1", "u2", "u4", ">u2", ">u4"):
        if max(tokens) <= np.iinfo(dtype).max:
            assert suffix_order(np.array(tokens).astype(dtype), builder).tolist() == expected


@pytest.mark.parametrize("n_distinct", [2, 255, 256, 257, 65_536, 65_537, 70_000])
def test_both_builders_agree_at_the_borders_of_what_a_rank_takes(n_distinct):
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(2**32 - 1, n_distinct, replace=False)).astype(np.uint32)
    tokens = np.concatenate([ids, ids[rng.integers(n_distinct, size=2000)], ids[-50:], ids[-50:]])
    one, other = (suffix_order(tokens, builder) for builder in BUILDERS)
    assert (one == other).all()
    assert (np.sort(one) == np.arange(len(tokens))).all()
    assert (np.diff(tokens[one].astype(np.int64)) >= 0).all()


@pytest.mark.parametrize(("period", "count"), [(1, 240_001), (3, 80_001)])
def test_long_repeats_are_counted_right(period, count):
    """infini-gram's builder in parallel counts 249,697 and 80,752."""
    tokens = np.tile(np.arange(period), 300_000 // period)
    index = SuffixArray.build([tokens])
    assert index.count(tokens[:60_000]) == count
    match = InfiniGram(index).match(tokens[:60_000])
    assert (match.length, match.count, match.n_end) == (60_000, count, 1)
    assert InfiniGram(index).matches([tokens[:60_000]])[0].next_counts == match.next_counts


def test_a_block_of_80_000_tokens_that_stands_three_times_is_counted():
    block = np.random.default_rng(0).integers(9, size=80_000)
    index = SuffixArray.build([np.concatenate([block, [9], block, [10], block])])
    match = InfiniGram(index).match(block)
    assert (match.length, match.next_counts) == (80_000, {9: 1, 10: 1, END: 1})


def test_a_shard_is_let_go_before_the_next_is_sorted(tmp_path, monkeypatch):
    seen, build = [], Shard.build.__func__

    def building(*arguments):
        assert all(one() is None for one in seen)
        return build(Shard, *arguments)

    def writing_it(folder, shard):
        seen.append(weakref.ref(shard))
        return index_files.write_shard(folder, shard)

    monkeypatch.setattr(Shard, "build", building)
    monkeypatch.setattr(suffix_array, "write_shard", writing_it)
    documents = [np.arange(40) % 7] * 3
    assert len(SuffixArray.build(documents, memory=45 * 20, path=tmp_path / "x", builder="pydivsufsort").shards) == 3
    assert len(seen) == 3


def test_numpy_sorts_long_repeats_too():
    tokens = np.tile(np.array([1, 0, 1], np.uint16), 10_000)
    assert (suffix_order(tokens, "numpy") == suffix_order(tokens, "pydivsufsort")).all()


# --- asking


@of_every_stream
def test_runs_are_found_where_they_stand(name):
    documents = STREAMS[name]
    index = SuffixArray.build(documents)
    for run in prompts(documents, np.random.default_rng(2), index.n_tokens):
        if run:
            expected = occurrences(documents, run)
            document, offset = index.find(run)
            assert list(zip(document.tolist(), offset.tolist(), strict=True)) == expected
            assert index.count(run) == len(expected)
    assert index.count([]) == sum(len(document) + 1 for document in documents)
    assert content(index) == [list(document) for document in documents]
    assert (len(index), index.n_documents) == (sum(map(len, documents)), len(documents))


def test_an_occurrence_shows_what_stands_around_it():
    index = SuffixArray.build([[1, 2, 3, 4, 5], [3, 4], [0]])
    one, other = index.locate([3, 4], around=1)
    assert (one.document, one.offset, one.before.tolist(), one.found.tolist(), one.after.tolist()) == (
        *(0, 2, [2], [3, 4]),
        [5],
    )
    assert (other.document, other.offset, other.before.tolist(), other.after.tolist()) == (1, 0, [], [])
    assert len(index.locate([3, 4], most=1)) == 1
    assert index.locate([4, 3]) == []


def test_nothing_matches_across_documents_nor_the_separator():
    index = SuffixArray.build([[65_533, 0], [0, 65_534]], n_tokens=65_535)
    assert index.shards[0].separator == 65_535
    assert index.count([0, 0]) == 0
    assert InfiniGram(index, n_tokens=70_000).match([0, 65_535, 0]).length == 1
    assert InfiniGram(index, n_tokens=70_000).matches([[0, 65_535, 0], [65_535]])[0].length == 1
    with pytest.raises(ValueError, match=r"tokens hold 65535; they must lie in 0 \.\. 65534"):
        index.count([0, 65_535])


# --- shards, files


@of_every_stream
def test_any_split_in_shards_saved_or_not_answers_as_one_index(name, tmp_path):
    documents = STREAMS[name]
    n_tokens = 1 + max(max(document, default=0) for document in documents)
    asked = prompts(documents, np.random.default_rng(3), n_tokens)
    whole = SuffixArray.build(documents)
    expected = answers(whole, asked)
    longest = 1 + max(map(len, documents))
    split = SuffixArray.build(documents, n_tokens, memory=longest * 200, path=tmp_path / "split")
    assert content(split) == content(whole)
    assert answers(split, asked) == expected
    assert answers(SuffixArray.open(tmp_path / "split"), asked) == expected
    assert answers(whole.save(tmp_path / "saved"), asked) == expected
    SuffixArray.open(tmp_path / "saved").verify()
    for cut in range(1, len(documents)):
        if any(documents[:cut]):
            grown = SuffixArray.build(documents[:cut], n_tokens).add(documents[cut:])
            assert len(grown.shards) == 2
            assert answers(grown, asked) == expected


def test_documents_are_added_to_a_saved_index(tmp_path):
    first = SuffixArray.build(DOCUMENTS[:1], 4, path=tmp_path)
    before = files(tmp_path)
    grown = first.add(DOCUMENTS[1:])
    assert content(first) == DOCUMENTS[:1]
    assert content(grown) == content(SuffixArray.open(tmp_path)) == DOCUMENTS
    after = files(tmp_path)
    assert {name: after[name] for name in before if name != MANIFEST} == {
        name: value for name, value in before.items() if name != MANIFEST
    }
    SuffixArray.open(tmp_path).verify()


def test_a_budget_of_memory_makes_shards_and_refuses_a_document_that_exceeds_it():
    documents = [[1] * 100] * 9
    index = SuffixArray.build(documents, memory=3 * 101 * 20, builder="pydivsufsort")
    assert [shard.n_documents for shard in index.shards] == [3, 3, 3]
    with pytest.raises(ValueError, match="document of 200 tokens needs 4,000 bytes to build; with memory=1000"):
        SuffixArray.build([[1] * 200], memory=1000, builder="pydivsufsort")
    with pytest.raises(ValueError, match="memory=0"):
        SuffixArray.build(documents, memory=0)


def test_a_narrow_document_after_a_wide_one_fits_its_own_shard():
    memory = 115 * 40
    index = SuffixArray.build([[70_000] * 5, [1, 2] * 19], memory=memory, builder="numpy")
    assert len(index.shards) == 2
    assert content(index) == [[70_000] * 5, [1, 2] * 19]
    with pytest.raises(ValueError, match="at most 40 tokens"):
        SuffixArray.build([[70_000] * 5, [1, 2] * 20], memory=memory, builder="numpy")


def test_a_shard_may_hold_no_token(tmp_path):
    """Three documents of which the last two are empty, and stand in shards of their own."""
    index = SuffixArray.build([[1, 2]], path=tmp_path).add([[]]).add([[]])
    assert (content(SuffixArray.open(tmp_path)), len(index.shards)) == ([[1, 2], [], []], 3)
    model = InfiniGram(SuffixArray.open(tmp_path))
    assert model.match([]).next_counts == model.matches([[]])[0].next_counts == {1: 1, 2: 1, -1: 3}
    assert model.match([1]).next_counts == model.matches([[1]])[0].next_counts == {2: 1}
    assert model.votes(np.array([1, 0])).length.tolist() == [1, 0]
    assert model.places(np.array([2])).token.tolist() == [1, 2]


def test_documents_are_taken_one_by_one(tmp_path):
    """Those of a shard are read, sorted and written before the first of the next is asked for."""
    seen = []

    def documents():
        for _ in range(6):
            seen.append(len(list(tmp_path.glob("*.order.bin"))))
            yield [1] * 100

    SuffixArray.build(documents(), 2, memory=2 * 101 * 20, path=tmp_path, builder="pydivsufsort")
    assert seen == [0, 0, 0, 1, 1, 2]


def test_an_index_takes_six_bytes_a_token_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    SuffixArray.build([rng.integers(500, size=1000) for _ in range(20)], path=tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.bin")) < 6.3 * 20_000


# --- vocabularies


def test_another_vocabulary_is_refused(tmp_path):
    SuffixArray.build(["abba", "cab"], vocabulary=Symbols("abc"), path=tmp_path)
    index = SuffixArray.open(tmp_path, vocabulary=Symbols("abc"))
    assert index.fingerprint == fingerprint(Symbols("abc"))
    assert index.count(Symbols("abc").encode("ab")) == 2
    with pytest.raises(ValueError, match="its tokens spell other texts"):
        SuffixArray.open(tmp_path, vocabulary=Symbols("acb"))
    with pytest.raises(ValueError, match="vocabulary holds 256 tokens and the index n_tokens=3"):
        SuffixArray.open(tmp_path, vocabulary=Bytes())
    with pytest.raises(ValueError, match="its tokens spell other texts"):
        index.add(["aa"], vocabulary=Symbols("acb"))
    with pytest.raises(ValueError, match=r"index\[1\] is of another vocabulary"):
        InfiniGram([index, SuffixArray.build(["abba"], vocabulary=Symbols("acb"))])
    with pytest.raises(ValueError, match="n_tokens=4, and vocabulary holds 3"):
        SuffixArray.build(["abba"], 4, Symbols("abc"))


def test_tokens_that_are_parts_of_characters_tell_vocabularies_apart(tmp_path):
    one, other = (train_byte_pairs([text * 3], 257) for text in ("天夜夢", "日旅族"))
    assert [one.decode([token]) for token in range(257)] == [other.decode([token]) for token in range(257)]
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(Subwords.from_file(one.save(tmp_path / "tokenizer.json"))) == fingerprint(one)


def test_the_token_for_the_end_of_a_document_is_kept_with_the_index(tmp_path):
    class Ended(Symbols):
        eos = 2

    SuffixArray.build(["abab"], vocabulary=Ended("ab."), path=tmp_path)
    assert SuffixArray.open(tmp_path).end == 2


# --- wrong input


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "documents hold no token"),
        ([[], []], "documents hold no token"),
        ([1, 2, 3], "document 0 is 1; documents is a list of them"),
        ([[1], [1.5]], "document 1 is float64"),
        ([[1], [[1]]], "document 1 is int64 of shape"),
        ([[True]], "document 0 is bool"),
        ([[1], [2, -1]], "document 1 holds -1; tokens must lie in 0 and up"),
        ([[2**32 - 1]], "n_tokens=4294967296 must be at most 4294967295"),
        (["abc"], "document 0 is a text; give the vocabulary"),
        ("abc", "documents is one text"),
    ],
)
def test_documents_that_are_none_are_refused(documents, message):
    with pytest.raises(ValueError, match=message):
        SuffixArray.build(documents)


def test_ids_and_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"document 1 holds 3; tokens must lie in 0 \.\. 2"):
        SuffixArray.build([[2], [3]], 3)
    with pytest.raises(ValueError, match="n_tokens=0"):
        SuffixArray.build([[0]], 0)
    with pytest.raises(ValueError, match="builder='sais' is not one of"):
        SuffixArray.build([[0]], builder="sais")
    index = SuffixArray.build([[0, 1]])
    for ask in (index.count, index.find, index.locate, InfiniGram(index).match):
        with pytest.raises(ValueError, match="hold 2"):
            ask([0, 2])
    with pytest.raises(ValueError, match="tokens are empty"):
        index.find([])
    with pytest.raises(ValueError, match=r"document=1 must lie in 0 \.\. 0"):
        index.document(1)
    with pytest.raises(ValueError, match="document 0 holds 5"):
        index.add([[5]])
    with pytest.raises(ValueError, match="in memory alone"):
        index.verify()


# --- damage


@pytest.fixture
def saved(tmp_path):
    SuffixArray.build(DOCUMENTS, path=tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize("part", ["text", "order", "starts", "heads"])
def test_a_damaged_file_is_named(saved, part):
    file = saved / f"0000.{part}.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"0000\.{part}\.bin' is damaged: it has {len(whole) - 1} bytes"):
        SuffixArray.open(saved)
    file.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
    with pytest.raises(ValueError, match=rf"0000\.{part}\.bin' is damaged: its checksum"):
        SuffixArray.open(saved).verify()
    file.unlink()
    with pytest.raises(ValueError, match=rf"0000\.{part}\.bin' is damaged: it is missing"):
        SuffixArray.open(saved)


def test_a_manifest_that_is_none_is_refused(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no index at"):
        SuffixArray.open(tmp_path)
    manifest = json.loads((saved / MANIFEST).read_text())
    (saved / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ValueError, match=r"of index format 99; this version of nextlens reads 1"):
        SuffixArray.open(saved)
    (saved / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match=r"index\.json' is not the manifest of an index"):
        SuffixArray.open(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda said: said["shards"][0].pop("width"), "width"),
        (lambda said: said["shards"][0].update(tokens="many"), "'tokens' is 'many', which is no count"),
        (lambda said: said["shards"][0].update(files={}), "'files' of shard 0 are not 0000.heads.bin"),
        (lambda said: said.update(end=999), "'end' is 999, which is no token"),
    ],
    ids=["width", "tokens", "files", "end"],
)
def test_a_manifest_that_was_altered_is_named(saved, change, message):
    said = json.loads((saved / MANIFEST).read_text())
    change(said)
    (saved / MANIFEST).write_text(json.dumps(said))
    with pytest.raises(ValueError, match=f"{MANIFEST}' is not the manifest of an index.*{message}"):
        SuffixArray.open(saved)


def test_a_disk_that_fills_up_leaves_the_old_index_as_it_was(saved):
    resource = pytest.importorskip("resource")
    before, limits = files(saved), resource.getrlimit(resource.RLIMIT_FSIZE)
    open_before = SuffixArray.open(saved)
    for build in (
        lambda: SuffixArray.build([[1] * 90_000], path=saved),
        lambda: SuffixArray.build([[1] * 900, [1] * 90_000], memory=90_500 * 20, path=saved),
        lambda: SuffixArray.open(saved).add([[1] * 90_000]),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        try:
            with pytest.raises(OSError, match=r"cannot write .*000[12]\.order\.bin"):
                build()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert files(saved) == before
    assert content(SuffixArray.open(saved)) == content(open_before) == DOCUMENTS


def test_a_build_that_is_killed_leaves_the_old_index_and_the_next_build_clears_away(saved):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    before = files(saved)

    def documents():
        yield [1] * 100
        yield [1] * 100
        os.kill(os.getpid(), signal.SIGKILL)

    context = multiprocessing.get_context("fork")
    child = context.Process(
        target=lambda: SuffixArray.build(documents(), 4, memory=101 * 120, path=saved, builder="numpy")
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    left = files(saved)
    assert {name: left[name] for name in before} == before
    assert len(left) > len(before)
    assert content(SuffixArray.open(saved)) == DOCUMENTS
    rebuilt = SuffixArray.build([[1, 2]], path=saved)
    assert content(rebuilt) == content(SuffixArray.open(saved)) == [[1, 2]]
    assert len(files(saved)) == 5


def test_an_index_may_be_replaced_by_itself(saved):
    index = SuffixArray.open(saved)
    assert content(index.save(saved)) == content(index) == DOCUMENTS


def test_a_second_writer_and_a_folder_of_other_things_are_refused(saved, tmp_path):
    with writing(saved), pytest.raises(OSError, match="another process is writing"):
        SuffixArray.build([[1]], path=saved)
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match=r"holds 'index', which is not of an index"):
        SuffixArray.build([[1]], path=tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "all of it"
