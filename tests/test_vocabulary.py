from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextlens.models.vocabulary import Bytes, Symbols, Vocabulary

#: Each vocabulary, with the texts of its domain. A new one joins by one line.
VOCABULARIES = {
    "symbols": (Symbols("01"), st.text("01")),
    "symbols beyond ASCII": (Symbols("aé𝕏 "), st.text("aé𝕏 ")),
    "bytes": (Bytes(), st.text(st.characters(exclude_categories=["Cs"]))),
}
every_vocabulary = pytest.mark.parametrize("name", VOCABULARIES)


@every_vocabulary
@given(data=st.data())
def test_decoding_what_was_encoded_gives_the_text_back(name, data):
    vocabulary, texts = VOCABULARIES[name]
    text = data.draw(texts)
    tokens = vocabulary.encode(text)
    assert vocabulary.decode(tokens) == text
    assert tokens.dtype == np.int64
    assert ((tokens >= 0) & (tokens < vocabulary.n_tokens)).all()


@every_vocabulary
def test_is_a_vocabulary(name):
    assert isinstance(VOCABULARIES[name][0], Vocabulary)


@every_vocabulary
@pytest.mark.parametrize("bad", [-1, 256])
def test_a_token_out_of_range_is_refused(name, bad):
    vocabulary = VOCABULARIES[name][0]
    with pytest.raises(ValueError, match=rf"tokens hold {bad}; with n_tokens={vocabulary.n_tokens} they must lie in 0"):
        vocabulary.decode([0, bad])


@every_vocabulary
@pytest.mark.parametrize("bad", [[0.5], np.array([1.0]), torch.tensor([1.5])])
def test_a_token_that_is_no_integer_is_refused(name, bad, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(TypeError, match="integer"):
        VOCABULARIES[name][0].decode(list(bad))


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor])
def test_any_iterable_of_integers_is_decoded(make):
    assert Symbols("ab").decode(make([1, 0, 1])) == "bab"
    assert Bytes().decode(make([195, 169])) == "é"


def test_symbols_are_numbered_in_the_order_given():
    assert Symbols("ba").encode("abb").tolist() == [1, 0, 0]
    assert Symbols.of("banana") == Symbols("abn")


def test_a_text_outside_the_domain_is_refused_and_not_altered():
    with pytest.raises(ValueError, match="text has '2' at 3, which is not one of '01'"):
        Symbols("01").encode("0102")
    with pytest.raises(ValueError, match="surrogate"):
        Bytes().encode("\ud800")


@pytest.mark.parametrize("symbols", ["", "aba"])
def test_symbols_given_twice_or_not_at_all_are_refused(symbols):
    with pytest.raises(ValueError, match=f"symbols='{symbols}' must hold at least one character, each once"):
        Symbols(symbols)


def test_bytes_are_those_of_utf_8():
    assert Bytes().encode("aé𝕏").tolist() == list("aé𝕏".encode())
    assert Bytes().decode([97, 255]) == "a\ufffd"
