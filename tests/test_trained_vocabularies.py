"""Vocabularies made from texts, words and byte pairs: the law on their domains, files, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from nextlens.models.byte_pairs import read_tokenizer, train_byte_pairs
from nextlens.models.subwords import Subwords
from nextlens.models.vocabulary import Vocabulary
from nextlens.models.words import Words

TEXTS = ["the cat and the dog", "the dog  and\nthe bird"]
WORDS = Words.of(TEXTS, at_least=2, unknown="<unk>")
PAIRS = train_byte_pairs(["the cat and the dog and the bird " * 3], 270, special=["<|end|>"])


# --- words


@given(said=st.lists(st.sampled_from(WORDS.words)))
def test_words_come_back_as_they_were(said):
    text = " ".join(said)
    tokens = WORDS.encode(text)
    assert tokens.dtype == np.int64
    assert len(tokens) == len(said)
    assert WORDS.decode(tokens) == text


@given(text=st.text("abcdeghint \n\t<>u"))
def test_every_text_is_refused_or_comes_back_and_masking_brings_it_into_the_domain(text):
    try:
        tokens = WORDS.encode(text)
    except ValueError:
        pass
    else:
        assert WORDS.decode(tokens) == text
    masked = WORDS.masked(text)
    assert WORDS.decode(WORDS.encode(masked)) == masked
    assert len(masked.split()) == len(text.split())


def test_words_are_the_frequent_ones_in_order():
    assert isinstance(WORDS, Vocabulary)
    assert WORDS.words == ("<unk>", "the", "and", "dog")
    assert Words.of(TEXTS).words == ("the", "and", "dog", "bird", "cat")
    assert WORDS.masked(TEXTS[1]) == "the dog and the <unk>"
    assert Words.of(["<unk> the the"], unknown="<unk>").words == ("<unk>", "the")


def test_words_are_read_back_from_their_file(tmp_path):
    path = WORDS.save(tmp_path / "words.json")
    assert Words.from_file(path) == WORDS
    with pytest.raises(FileNotFoundError, match="there is no vocabulary at"):
        Words.from_file(tmp_path / "other.json")
    for content in ("{", "[]", '{"kind": "other", "words": [], "unknown": null}', json.dumps({"words": ["a"]})):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"words\.json' holds no vocabulary of words"):
            Words.from_file(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Words(()), "words is empty"),
        (lambda: Words(("a", "b", "a")), "words hold 'a' twice"),
        (lambda: Words(("a b",)), "words hold 'a b'; a word is"),
        (lambda: Words(("",)), "words hold ''"),
        (lambda: Words(("a",), unknown="b"), "unknown='b' is not one of the 1 words"),
        (lambda: Words.of(TEXTS, at_least=9), "no word of the texts is said 9 times; they hold 5 words"),
        (lambda: Words.of(TEXTS, at_least=0), "at_least=0 must be at least 1"),
        (
            lambda: WORDS.encode("the cow"),
            r"'cow' as word 1, .* the 4 words; masked\(text\) spells it",
        ),
        (lambda: WORDS.encode("the  dog"), "more than one space at 3"),
        (lambda: WORDS.encode(" the"), "begins or ends with a space"),
        (lambda: WORDS.encode("the\ndog"), r"'the\\ndog' as word 0"),
        (lambda: Words(("a",)).masked("a b"), "text has 'b' as word 1"),
        (lambda: WORDS.decode([4]), "n_tokens=4"),
    ],
)
def test_what_is_no_vocabulary_or_no_text_of_it_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- byte pairs


@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("the cat and dog\n é𝕏"))
def test_byte_pairs_spell_every_text(text):
    assert PAIRS.decode(PAIRS.encode(text)) == text


def test_byte_pairs_are_joined_and_numbered_as_asked():
    assert PAIRS.n_tokens == 270
    assert PAIRS.encode("<|end|>").tolist() == [0]
    assert len(PAIRS.encode(" the")) == 1
    spelled = [PAIRS.decode([token]) for token in range(1, PAIRS.n_tokens)]
    assert not [one for one in spelled if " " in one.strip(" ") or (len(one) > 1 and one.endswith(" "))]
    again = train_byte_pairs(["the cat and the dog and the bird " * 3], 270, special=["<|end|>"])
    assert again.tokenizer.to_str() == PAIRS.tokenizer.to_str()


def test_byte_pairs_are_read_back_from_a_file_and_from_a_folder(tmp_path):
    PAIRS.save(tmp_path / "tokenizer.json")
    text = "the <|end|> cät"
    for found in (read_tokenizer(tmp_path), read_tokenizer(tmp_path / "tokenizer.json")):
        assert found.encode(text).tolist() == PAIRS.encode(text).tolist()
        assert found.decode(found.encode(text)) == text


def test_the_two_files_of_gpt2_are_a_tokenizer(tmp_path):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    numbers = {token: i for i, token in enumerate([*letters, "th", "the", "Ġthe"])}
    (tmp_path / "vocab.json").write_text(json.dumps(numbers))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ the\n")
    found = read_tokenizer(tmp_path)
    assert isinstance(found, Subwords)
    assert found.encode("the the").tolist() == [257, 258]
    assert found.decode(found.encode("é the\n")) == "é the\n"
    (tmp_path / "merges.txt").write_text("t q\n")
    with pytest.raises(ValueError, match="describes no tokenizer"):
        read_tokenizer(tmp_path)


def test_byte_pairs_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="n_tokens=256 must be at least 257"):
        train_byte_pairs(["ab"], 256, special=["<|end|>"])
    with pytest.raises(ValueError, match=r"n_tokens=300 cannot be filled: .* at least 2 times the texts give 257"):
        train_byte_pairs(["ab ab"], 300)
    with pytest.raises(FileNotFoundError, match=r"neither 'tokenizer\.json' nor 'vocab\.json' with 'merges\.txt'"):
        read_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no tokenizer at"):
        read_tokenizer(tmp_path / "other.json")
