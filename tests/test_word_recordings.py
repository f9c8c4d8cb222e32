"""What a model makes of words, kept on disk: as the slower way has it, shared by listeners, finished after a stop."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from nextlens.analyses import word_recordings
from nextlens.analyses.word_features import hidden_states, surprisal_and_entropy
from nextlens.analyses.word_recordings import recorded_words
from nextlens.models.transformer import Transformer
from nextlens.models.transformer_config import TransformerConfig
from nextlens.models.vocabulary import Bytes

SITES = ("blocks.0.resid_post", "blocks.1.mlp_out")
WINDOWS = {"length": 7, "stride": 5}


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(n_tokens=256, n_ctx=64, d_model=8, d_mlp=16, n_layers=2, n_heads=2, seed=0)
    return Transformer(config).eval()


def heard(stories):
    text = [word for words in stories.values() for word in words]
    story = [name for name, words in stories.items() for _ in words]
    volume = [number // 2 for words in stories.values() for number in range(len(words))]
    return xr.Dataset(
        {"text": ("word", np.array(text)), "story": ("word", np.array(story)), "volume": ("word", np.array(volume))}
    )


TWO = heard({"b": ["you", "and", "you", "é", "and", "you"], "a": ["so", "it's", "so"]})


def test_one_pass_gives_the_numbers_of_two(model, tmp_path):
    found = recorded_words(model, TWO, Bytes(), SITES, tmp_path, **WINDOWS)
    slow = hidden_states(model, TWO, Bytes(), SITES, **WINDOWS)
    for site in SITES:
        xr.testing.assert_identical(found.states(site), slow[site])
    told = surprisal_and_entropy(model, TWO, Bytes(), **WINDOWS)
    np.testing.assert_allclose(found.information().values, told.values, atol=1e-4)
    assert found.information().band.values.tolist() == ["surprisal", "entropy"]


def test_a_story_is_read_once_whoever_heard_it(model, tmp_path, monkeypatch):
    read = []
    real = word_recordings._read_story
    monkeypatch.setattr(word_recordings, "_read_story", lambda *given: read.append(given[2]) or real(*given))
    recorded_words(model, TWO, Bytes(), SITES[:1], tmp_path, **WINDOWS)
    assert len(read) == 2
    alone = TWO.isel(word=np.flatnonzero(TWO.story.values == "a"))
    recorded_words(model, alone, Bytes(), SITES[:1], tmp_path, **WINDOWS)
    assert len(read) == 2
    recorded_words(model, alone, Bytes(), SITES, tmp_path, **WINDOWS)  # only the site that is lacking
    assert [len(asked) for asked in read] == [1, 1, 1]
    other = heard({"a": ["so", "it's", "no"]})
    recorded_words(model, other, Bytes(), SITES[:1], tmp_path, **WINDOWS)
    assert len(read) == 4


def test_another_model_or_other_windows_are_other_recordings(model, tmp_path):
    twin = Transformer(TransformerConfig(n_tokens=256, n_ctx=64, d_model=8, d_mlp=16, n_layers=2, n_heads=2, seed=1))
    keys = [
        tuple(recorded_words(one, TWO, Bytes(), SITES[:1], tmp_path, length=length, stride=4).keys.values())
        for one, length in ((model, 7), (model, 8), (twin.eval(), 7))
    ]
    assert len(set(keys)) == 3


def test_a_run_that_was_stopped_goes_on(model, tmp_path, monkeypatch):
    whole = recorded_words(model, TWO, Bytes(), SITES, tmp_path / "whole", **WINDOWS)
    real, written = word_recordings.write_whole, []

    def stop(path, content):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path)
        return real(path, content)

    monkeypatch.setattr(word_recordings, "write_whole", stop)
    with pytest.raises(KeyboardInterrupt):
        recorded_words(model, TWO, Bytes(), SITES, tmp_path / "stopped", **WINDOWS)
    monkeypatch.undo()
    again = recorded_words(model, TWO, Bytes(), SITES, tmp_path / "stopped", **WINDOWS)
    for site in SITES:
        xr.testing.assert_identical(again.states(site), whole.states(site))
    assert {p.name: p.read_bytes() for p in (tmp_path / "stopped").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()
    }


def test_a_damaged_file_is_named(model, tmp_path):
    found = recorded_words(model, TWO, Bytes(), SITES, tmp_path, **WINDOWS)
    path = next(tmp_path.glob("*resid_post.npy"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=path.name):
        found.states(SITES[0])
    with pytest.raises(ValueError, match="site='embed'"):
        found.states("embed")


def test_a_site_without_rows_for_positions_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"layout of blocks.0.attn.hook_pattern"):
        recorded_words(model, TWO, Bytes(), ["blocks.0.attn.pattern"], tmp_path, **WINDOWS)
