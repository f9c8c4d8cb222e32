"""Texts from files: read as they are, or refused by the name of the file."""

from __future__ import annotations

import gzip
import json

import pytest

from nextlens.models.texts import read_texts
from nextlens.models.whole_files import write_whole


def test_a_folder_gives_every_text_under_its_name_in_order(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes("é\r\nline".encode())
    (tmp_path / "sub" / "a.txt.gz").write_bytes(gzip.compress(b"zipped"))
    (tmp_path / "c.json").write_text(
        json.dumps({"x": "plain", "y": {"text": "inside"}, "z": {"split": "t", "texts": ["in", "", "pieces"]}})
    )
    (tmp_path / "d.json").write_text('["one", "two"]')
    (tmp_path / ".hidden.txt").write_text("not seen")
    (tmp_path / "README.md").write_text("not seen")
    assert read_texts(tmp_path) == {
        "b": "é\r\nline",
        "c/x": "plain",
        "c/y": "inside",
        "c/z": "in pieces",
        "d/0": "one",
        "d/1": "two",
        "sub/a": "zipped",
    }
    assert read_texts(tmp_path / "sub" / "a.txt.gz") == {"a": "zipped"}


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc")
    assert read_texts(tmp_path) == {"a": "abc"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ab\xffcd", "is not UTF-8: byte 2 is 0xff"),
        ("a.txt", b" \n", "gives a text without a character, 'a'"),
        ("a.txt.gz", b"plain", "is truncated or is no gzip file"),
        ("a.txt.gz", gzip.compress(b"a longer text than this", mtime=0)[:-9], "is truncated or is no gzip file"),
        ("a.json", b'{"x": "a', "is truncated or is no JSON"),
        ("a.json", b"[" * 100_000, "is truncated or is no JSON"),
        ("a.json", b'"text"', "holds no text; it must be an object or a list"),
        ("a.json", b"{}", "holds no text"),
        ("a.json", b'{"x": 3}', "has under 'x' a int without a text"),
        ("a.json", b'{"x": {"texts": ["a", 3]}}', "has under 'x' a dict without a text"),
        ("a.json", b'["\\ud800"]', "holds a lone surrogate"),
    ],
)
def test_a_file_that_is_no_text_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_texts(tmp_path)
    assert name in str(refused.value)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*nowhere"):
        read_texts(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no file that ends in one of \.txt, \.txt\.gz, \.json"):
        read_texts(tmp_path)
    (tmp_path / "a.md").write_text("text")
    with pytest.raises(FileNotFoundError, match=r"a\.md' does not end in one of"):
        read_texts(tmp_path / "a.md")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"two"))
    with pytest.raises(ValueError, match="gives a second text called 'a'"):
        read_texts(tmp_path)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = write_whole(tmp_path / "new" / "file", b"old")
    (tmp_path / "new" / "file.partial").mkdir()
    with pytest.raises(OSError, match=r"cannot write .*file"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    (tmp_path / "new" / "file.partial").rmdir()
    write_whole(path, b"new")
    assert [file.name for file in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"new"
