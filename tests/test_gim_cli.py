"""``nextlens gim``: texts indexed, asked and explained from the command line."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from click.testing import CliRunner

from nextlens.analyses import gim_index, language_run
from nextlens.analyses.cli import main, nextlens
from nextlens.analyses.gim_index import TextIndex
from nextlens.analyses.language_recipe import LanguageRecipe
from nextlens.models import checkpoints
from nextlens.models.transformer import Transformer, TransformerConfig


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("index")
    (root / "texts").mkdir()
    (root / "texts" / "one.txt").write_text("the cat sat on the mat; the cat sat on the hat.")
    (root / "texts" / "two.txt").write_text("a dog sat on the mat\x1b[31m")
    said = invoke("gim", "build", str(root / "texts"), str(root / "index"), "--vocabulary", "bytes")
    assert "2 documents" in said
    return root / "index"


def invoke(*arguments: str) -> str:
    found = CliRunner().invoke(nextlens, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_a_query_is_counted_exactly_and_located(index):
    said = json.loads(invoke("gim", "query", str(index), "I sat on the ", "--json"))
    assert (said["suffix"], said["length"], said["count"]) == (" sat on the ", 12, 3)
    assert {one["text"]: one["count"] for one in said["next"]} == {"m": 2, "h": 1}
    assert [(one["document"], one["offset"]) for one in said["places"]] == [("one", 7), ("one", 31), ("two", 5)]
    text = invoke("gim", "query", str(index), "I sat on the ")
    assert "occur 3 times" in text
    assert "two at 5" in text


def test_the_end_of_a_document_is_said_and_controls_are_escaped(index):
    assert "(end of document)" in invoke("gim", "query", str(index), "hat.")
    assert "\x1b" not in invoke("gim", "query", str(index), "the mat")


def test_an_explanation_names_documents_and_is_written_as_a_page(index, tmp_path):
    page = tmp_path / "why.html"
    said = invoke("gim", "explain", str(index), "I sat on the ", "--html", str(page))
    assert "the longest match in the corpus, 12 tokens" in said
    assert "two at 17" in said
    assert "<table>" in page.read_text()
    found = json.loads(invoke("gim", "explain", str(index), "I sat on the ", "--json"))
    assert found["candidates"][0] == {"token": ord("m"), "text": "m", "probability": pytest.approx(2 / 3)}


def test_an_explanation_without_a_checkpoint_holds_no_threshold_against_a_short_match(index):
    said = invoke("gim", "explain", str(index), "I sat", "--threshold", "8")
    assert "4 tokens" in said
    assert "threshold" not in said


def test_a_checkpoint_says_what_is_alike(index, tmp_path):
    checkpoints.save(tmp_path, Transformer(TransformerConfig(n_tokens=256, n_layers=1, d_model=8, n_ctx=32)))
    for site in ("laws", "ln_final.normalized"):
        said = invoke(
            *("gim", "explain", str(index), "xyxyxq", "--checkpoint", str(tmp_path), "--site", site),
        )
        assert "all earlier contexts, by likeness" in said


@pytest.mark.parametrize("kind", ["words:1", "bpe:262"])
def test_an_index_opens_with_the_vocabulary_that_it_was_built_with(index, tmp_path, kind):
    TextIndex.build(index.parent / "texts", tmp_path / "index", kind)
    opened = TextIndex.open(tmp_path / "index")
    assert opened.query("sat on the")["count"] == 3
    next((tmp_path / "index").glob("*/vocabulary.json")).unlink()
    with pytest.raises(FileNotFoundError, match=r"vocabulary\.json"):
        TextIndex.open(tmp_path / "index")


@pytest.fixture
def built(index, tmp_path):
    TextIndex.build(index.parent / "texts", tmp_path / "index", "words:3")
    return tmp_path / "index"


def other_texts(root):
    (root / "others").mkdir()
    (root / "others" / "three.txt").write_text("three blind mice")
    return root / "others"


def test_an_index_is_built_again_in_its_folder_and_nothing_of_the_old_one_is_left(built, tmp_path):
    TextIndex.build(other_texts(tmp_path), built, "bytes")
    opened = TextIndex.open(built)
    assert (opened.names, opened.query("blind")["count"]) == (("three",), 1)
    assert len([file for file in built.iterdir() if file.is_dir()]) == 1
    assert opened.vocabulary.n_tokens == 256


@pytest.mark.parametrize("memory", [(), ("--memory", "1")])
@pytest.mark.parametrize("linked", [True, False])
def test_texts_are_added_as_if_they_had_been_there(index, tmp_path, memory, linked, monkeypatch):
    def refused(*_):
        raise OSError("no links here")

    if not linked:
        monkeypatch.setattr(gim_index.os, "link", refused)
    place, others = str(tmp_path / "index"), other_texts(tmp_path)
    (others / "four.txt").write_text("the dog sat on the mat")
    invoke("gim", "build", str(index.parent / "texts"), place, "--vocabulary", "bytes", *memory)
    assert "of 4 documents" in invoke("gim", "add", str(others), place, *memory)
    together = tmp_path / "together"
    together.mkdir()
    for folder in (index.parent / "texts", others):
        for file in folder.iterdir():
            (together / file.name).write_bytes(file.read_bytes())
    once = TextIndex.build(together, tmp_path / "once", "bytes")
    for prompt in ("sat on the", "blind", "a dog sat on the mat", "zebra"):
        found, wanted = (one.query(prompt, most=99) for one in (TextIndex.open(place), once))
        assert {**found, "places": None} == {**wanted, "places": None}
        places = [sorted((one["document"], one["offset"]) for one in said["places"]) for said in (found, wanted)]
        assert places[0] == places[1]
    TextIndex.open(place).array.verify()
    assert len([file for file in (tmp_path / "index").iterdir() if file.is_dir()]) == 1


@pytest.mark.parametrize("stopped_at", ["write_whole", "_linked", "_encoded"])
def test_an_index_stays_whole_if_adding_stops(built, tmp_path, monkeypatch, stopped_at):
    def full(*_):
        raise OSError("no space left")

    before, others = TextIndex.open(built).query("sat on the"), other_texts(tmp_path)
    monkeypatch.setattr(gim_index, stopped_at, full)
    with pytest.raises(OSError, match="no space"):
        TextIndex.add(others, built)
    opened = TextIndex.open(built)
    opened.array.verify()
    assert (opened.query("sat on the"), opened.names) == (before, ("one", "two"))


@pytest.mark.parametrize("stopped_at", ["write_vocabulary", "write_whole"])
def test_an_index_stays_whole_if_building_the_next_one_stops(built, tmp_path, monkeypatch, stopped_at):
    def full(*_):
        raise OSError("no space left")

    before = TextIndex.open(built).query("sat on the")
    others = other_texts(tmp_path)
    monkeypatch.setattr(gim_index, stopped_at, full)
    with pytest.raises(OSError, match="no space"):
        TextIndex.build(others, built, "bytes")
    assert TextIndex.open(built).query("sat on the") == before
    assert len([file for file in built.iterdir() if file.is_dir()]) == 1


def test_a_folder_of_other_things_is_refused_and_left(index, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        TextIndex.build(index.parent / "texts", tmp_path, "bytes")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_documents_added_without_names_are_refused_by_open(built):
    opened = TextIndex.open(built)
    assert opened.array.add([[0, 1]]).n_documents == 3
    with pytest.raises(ValueError, match=r"documents\.json' holds 2 names, and the index 3 documents"):
        TextIndex.open(built)


def test_verify_says_that_all_is_well_or_names_the_damaged_file(built):
    assert "is whole" in invoke("gim", "verify", str(built))
    damaged = next(built.glob("*/array/*.order.bin"))
    content = bytearray(damaged.read_bytes())
    content[0] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=r"order\.bin' is damaged"):
        invoke("gim", "verify", str(built))


def test_a_missing_vocabulary_and_an_altered_name_are_named(built):
    names = built / "documents.json"
    kept = names.read_text()
    names.write_text(kept.replace("one", "eno"))
    with pytest.raises(ValueError, match=r"documents\.json' is damaged"):
        TextIndex.open(built)
    names.write_text(kept)
    next(built.glob("*/vocabulary.json")).unlink()
    with pytest.raises(FileNotFoundError, match=r"vocabulary\.json', which says what the tokens spell"):
        TextIndex.open(built)


def test_a_word_that_is_unknown_is_like_no_other(built):
    index = TextIndex.open(built)
    assert "<unk>" in index.vocabulary.decode(index.array.document(0))
    assert index.query("zebra zebra")["length"] == 0
    assert index.query("zebra sat on the") == index.query("sat on the")


def test_counts_of_one_and_of_none_and_blank_tokens_are_said(index):
    assert "the last 2 tokens, \\x1b[, occur 1 time; then" in invoke("gim", "query", str(index), "\x1b[")
    assert "the last token does not occur; of all" in invoke("gim", "query", str(index), "~")
    assert re.search(r"^ +\d+  ' '$", invoke("gim", "query", str(index), "sat"), re.MULTILINE)


def test_what_a_user_got_wrong_ends_in_one_sentence(index, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, sentence in (
        (["gim", "query", str(tmp_path), "the"], "there is no index of texts"),
        (["gim", "query", str(index), ""], "the prompt is empty"),
        (["gim", "build", str(index.parent / "texts"), str(tmp_path / "x"), "--vocabulary", "letters"], "vocabulary="),
        (["gim", "build", str(tmp_path / "none"), str(tmp_path / "x")], "there is no"),
        (["gim", "evaluate", str(tmp_path / "none")], "there is no"),
        (["gim", "add", str(index.parent / "texts"), str(index)], "holds 'one' already"),
        (["gim", "build", str(index.parent), str(index)], "where its files would be read as texts"),
        (
            ["gim", "build", str(index.parent / "texts"), str(tmp_path / "x")],
            "vocabulary='bpe:4096': n_tokens=4096 cannot",
        ),
        (["gim", "explain", str(index), "the", "--site", "ln_final.normalized"], "give --checkpoint"),
        (["gim", "add", str(index.parent / "texts"), str(tmp_path / "none")], "there is no index of texts"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert sentence in said
        assert "Traceback" not in said


def test_the_command_line_reads_back_its_recipe(monkeypatch, tmp_path):
    recipe = LanguageRecipe(
        "some texts", "others", tested=("a b", "c"), validated=("d", "e"), vocabulary="words:3", steps=7, each=3, seed=5
    )
    seen = []

    def run(given, *_, **__):
        seen.append(given)
        raise ValueError("far enough")

    monkeypatch.setattr(language_run, "run", run)
    with pytest.raises(ValueError, match="far enough"):
        invoke(*shlex.split(recipe.command)[1:], "--out", str(tmp_path))
    assert seen == [recipe]
