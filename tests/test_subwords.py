"""The vocabulary of a tokenizer: the law on its domain, and texts outside it refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from nextlens.models.subwords import Subwords
from nextlens.models.vocabulary import Vocabulary


def byte_level(**pairs: int) -> Tokenizer:
    """Every byte a token, then the merges given, then a special token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(pair[:-1], pair[-1]) for pair in pairs]
    numbers = {token: i for i, token in enumerate([*letters, *pairs])}
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


PAIRS = {"th": 1, "the": 1, "Ġt": 1}
VOCABULARY = Subwords(byte_level(**PAIRS))


@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("the <|end|> é𝕏\n"))
def test_decoding_what_was_encoded_gives_the_text_back(text):
    tokens = VOCABULARY.encode(text)
    assert VOCABULARY.decode(tokens) == text
    assert tokens.dtype == np.int64
    assert ((tokens >= 0) & (tokens < VOCABULARY.n_tokens)).all()


def test_is_a_vocabulary_of_one_more_than_its_largest_token():
    assert isinstance(VOCABULARY, Vocabulary)
    assert VOCABULARY.n_tokens == 256 + 3 + 1
    assert repr(VOCABULARY) == "Subwords(n_tokens=260)"
    assert VOCABULARY.encode("the").tolist() == [257]
    assert VOCABULARY.encode("<|end|>").tolist() == [259]


def test_a_character_of_several_tokens_is_whole_or_marked():
    tokens = VOCABULARY.encode("é")
    assert len(tokens) == 2
    assert VOCABULARY.decode(tokens[:1]) == "\ufffd"


def test_what_the_tokenizer_puts_before_a_text_is_told_and_not_encoded():
    tokenizer = byte_level(**PAIRS)
    assert Subwords(tokenizer).beginning is None
    tokenizer.post_processor = processors.TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", 259)])
    vocabulary = Subwords(tokenizer)
    assert vocabulary.beginning == 259
    assert vocabulary.encode("the").tolist() == [257]
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 259)])
    assert Subwords(tokenizer).beginning is None


def test_a_text_that_would_be_altered_is_refused_at_its_first_place():
    tokenizer = byte_level(**PAIRS)
    tokenizer.normalizer = normalizers.Lowercase()
    assert Subwords(tokenizer).encode("the cat").size == 5
    with pytest.raises(ValueError, match="text has 'Cat' at 4, which this tokenizer alters to 'cat'"):
        Subwords(tokenizer).encode("the Cat")
    words = Tokenizer(models.WordLevel({"the": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match=r"text has 'cat' at 0, which this tokenizer alters to '\[UNK\]'"):
        Subwords(words).encode("cat")


def test_no_text_is_cut_or_padded():
    tokenizer = byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    assert Subwords(tokenizer).encode("a longer text").size == 13
    assert len(tokenizer.encode("a longer text").ids) == 50  # the tokenizer that was given is left as it is


@pytest.mark.parametrize("bad", [-1, 260])
def test_a_token_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=rf"tokens hold {bad}; with n_tokens=260 they must lie in 0 \.\. 259"):
        VOCABULARY.decode([0, bad])


def test_it_survives_a_process_boundary():
    back = pickle.loads(pickle.dumps(VOCABULARY))
    assert back.encode("the end").tolist() == VOCABULARY.encode("the end").tolist()


def test_a_file_is_read_or_refused_by_its_name(tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(FileNotFoundError, match=r"there is no tokenizer at '.*tokenizer\.json'"):
        Subwords.from_file(path)
    byte_level(**PAIRS).save(str(path))
    assert Subwords.from_file(path).encode("the").tolist() == [257]
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"tokenizer\.json' describes no tokenizer: "):
        Subwords.from_file(path)


def test_a_tokenizer_without_tokens_is_refused():
    with pytest.raises(ValueError, match="tokenizer knows no token"):
        Subwords(Tokenizer(models.BPE()))
