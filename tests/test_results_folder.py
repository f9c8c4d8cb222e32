"""A results folder is refused before the work, and its files are written whole or not at all."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextlens.analyses.results_folder import read_json, writable, write_json

numbers = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.dictionaries(
    st.text(), st.recursive(numbers, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)


def test_the_folder_is_made_with_those_above_it_and_left_empty(tmp_path):
    folder = writable(tmp_path / "results" / "new")
    assert folder.is_dir()
    assert not list(folder.iterdir())
    assert writable(str(folder)) == folder


@pytest.mark.parametrize("below", ["", "inner"])
def test_a_file_in_the_way_is_refused_by_name(tmp_path, below):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OSError, match=r"cannot write results into '.*taken"):
        writable(tmp_path / "taken" / below)
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_that_takes_no_file_is_refused(tmp_path, monkeypatch):
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(OSError, match=r"cannot write results into '.*': No space left on device"):
        writable(tmp_path)


@given(values)
def test_what_is_read_is_what_was_written(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("json") / "numbers.json"
    write_json(path, values)
    assert read_json(path) == values
    assert list(path.parent.iterdir()) == [path]


def test_a_crash_before_the_renaming_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "numbers.json"
    write_json(path, {"r2": 0.5})

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"r2": 0.9})
    assert read_json(path) == {"r2": 0.5}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), object(), {1, 2}])
def test_what_json_cannot_say_is_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "numbers.json"
    write_json(path, {"r2": 0.5})
    with pytest.raises(ValueError, match=r"cannot write 'numbers.json' as JSON"):
        write_json(path, {"r2": {"mean": value}})
    assert read_json(path) == {"r2": 0.5}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"r2": 0.', "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"", "is not JSON"), (b"[1]", "holds a JSON list")],
)
def test_a_file_that_is_no_json_object_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"recipe.json' {message}"):
        read_json(tmp_path / "recipe.json")
