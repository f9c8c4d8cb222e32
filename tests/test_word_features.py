"""Words, tokens and volumes: every token is of one word, and what a model says of a word is what it says by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from nextlens.analyses.word_features import belief_states, hidden_states, surprisal_and_entropy
from nextlens.analyses.word_matches import matches_of
from nextlens.analyses.word_tokens import WordTokens, read_in_windows, windows
from nextlens.models.batch import Batch
from nextlens.models.induction.exact import ExactInduction
from nextlens.models.processes import mess3
from nextlens.models.recording import record
from nextlens.models.transformer import Transformer
from nextlens.models.transformer_config import TransformerConfig
from nextlens.models.vocabulary import Bytes, Symbols
from nextlens.models.words import Words
from nextlens.probes.story_rows import label_rows, row_labels

texts = st.lists(st.text("abé' ", min_size=1, max_size=4).filter(lambda t: t.strip()), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def model():
    return Transformer(
        TransformerConfig(n_tokens=256, n_ctx=64, d_model=8, d_mlp=16, n_layers=2, n_heads=2, seed=0)
    ).eval()


def table(stories):
    """Words of some stories, two to a volume."""
    text = [word for words in stories.values() for word in words]
    story = [name for name, words in stories.items() for _ in words]
    volume = [number // 2 for words in stories.values() for number in range(len(words))]
    return xr.Dataset(
        {"text": ("word", np.array(text)), "story": ("word", np.array(story)), "volume": ("word", np.array(volume))}
    )


HEARD = table({"b": ["you", "and", "you", "é", "and", "you"], "a": ["so", "it's", "so"]})


@given(texts)
def test_every_token_is_of_exactly_one_word(words):
    """By enumeration: the tokens of the words, put together, spell the words; none is lost, none is shared."""
    aligned = WordTokens.of(words, Bytes())
    assert Bytes().decode(aligned.tokens) == " ".join(words)
    spelled = ["".join(chr(t) for t in aligned.tokens[aligned.word == number]) for number in range(len(words))]
    assert spelled == [
        (word if number == 0 else " " + word).encode().decode("latin-1") for number, word in enumerate(words)
    ]
    assert aligned.word[aligned.first].tolist() == aligned.word[aligned.last].tolist() == list(range(len(words)))
    assert sorted(set(aligned.word.tolist())) == list(range(len(words)))


@given(texts)
def test_a_word_has_the_last_the_mean_or_the_sum_of_its_tokens(words):
    aligned = WordTokens.of(words, Bytes())
    values = np.random.default_rng(0).standard_normal((len(aligned.tokens), 3))
    for how, of in (
        ("last", lambda part: part[-1]),
        ("mean", lambda part: part.mean(0)),
        ("sum", lambda part: part.sum(0)),
    ):
        expected = [of(values[aligned.word == number]) for number in range(len(words))]
        np.testing.assert_allclose(aligned.joined(values, how), expected, atol=1e-12)
    with pytest.raises(ValueError, match="how='first' is not one of"):
        aligned.joined(values, "first")
    with pytest.raises(ValueError, match=r"values has \d+ rows for \d+ tokens"):
        aligned.joined(values[1:], "last")


def test_whole_words_are_spelled_without_a_separator():
    vocabulary = Words(("so", "it's"))
    assert WordTokens.of(["so", "it's", "so"], vocabulary, separator="").tokens.tolist() == [0, 1, 0]


def test_words_that_cannot_be_spelled_are_named():
    with pytest.raises(ValueError, match="texts is empty"):
        WordTokens.of([], Bytes())
    with pytest.raises(ValueError, match="word 1, '', is spelled with no token"):
        WordTokens.of(["a", ""], Bytes(), separator="")
    with pytest.raises(ValueError, match="text has 'z' at 0"):
        WordTokens.of(["a", "z"], Symbols("a"), separator="")
    for wrong in ([0, 2], [1, 2], [0, 1, 0], []):
        with pytest.raises(ValueError, match="must begin with 0 and rise by 0 or 1"):
            WordTokens(np.zeros(len(wrong), np.int64), np.array(wrong, np.int64))


@pytest.mark.parametrize(("n", "length"), list(product((1, 2, 7, 8, 20), (1, 3, 8))))
def test_every_token_is_new_in_exactly_one_window(n, length):
    for stride in range(1, length + 1):
        found = list(windows(n, length, stride))
        assert np.concatenate([np.arange(one.new, one.end) for one in found]).tolist() == list(range(n))
        for one in found:
            assert 0 <= one.start <= one.new < one.end <= n
            assert one.end - one.start <= length
            assert one.start == 0 or one.new - one.start >= length - stride
    with pytest.raises(ValueError, match="stride="):
        list(windows(n, length, length + 1))


def test_reading_in_windows_is_reading_each_window():
    tokens = np.arange(23)

    def read(some):
        return np.stack([some, np.cumsum(some)], axis=1).astype(float)

    found = read_in_windows(tokens, read, length=8, stride=5)
    assert found[:, 0].tolist() == tokens.tolist()
    assert found[10, 1] == np.arange(5, 11).sum()
    np.testing.assert_array_equal(read_in_windows(tokens, read, length=50, stride=9), read(tokens))


def test_surprisal_sums_over_the_tokens_of_a_word_and_entropy_is_that_before_it(model):
    """Written out, token by token, each read from the beginning of its own story."""
    found = surprisal_and_entropy(model, HEARD, Bytes())
    expected, number = [], 0
    for story in ("b", "a"):
        words = HEARD.text.values[HEARD.story.values == story].tolist()
        tokens = Bytes().encode(" ".join(words)).tolist()
        with torch.no_grad():
            laws = model.log_probs(Batch.from_tokens([[*tokens, 0]]))[0].double().numpy() / np.log(2)
        before = np.concatenate([np.full((1, 256), -8.0), laws])
        at = 0
        for word in words:
            size = len(word.encode()) + (at > 0)
            said = -sum(before[i][tokens[i]] for i in range(at, at + size))
            expected.append((said, -(2 ** before[at] * before[at]).sum()))
            at += size
            number += 1
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    assert found.feature.values.tolist() == found.band.values.tolist() == ["surprisal", "entropy"]
    assert found.story.values.tolist() == HEARD.story.values.tolist()


def test_a_token_read_before_gives_the_first_word_a_law_of_its_own(model):
    with_one, without = (surprisal_and_entropy(model, HEARD, Bytes(), beginning=b) for b in (10, None))
    assert without.values[0, 1] == 8.0
    assert with_one.values[0, 1] < 8.0
    law = model.log_probs(Batch.from_tokens([[10, ord("y")]]))[0, 0].detach().double().numpy()
    assert with_one.values[0, 1] == pytest.approx(-(np.exp(law) * law).sum() / np.log(2), rel=1e-5)


def test_a_word_that_a_kernel_forbids_is_named():
    """Exact induction without a floor forbids whatever did not follow before."""
    with pytest.raises(ValueError, match="word 1, 'b', is impossible for this kernel; mix in a floor"):
        surprisal_and_entropy(ExactInduction(256), table({"s": ["aa", "b"]}), Bytes())
    assert np.isfinite(surprisal_and_entropy(ExactInduction(256, floor=0.1), table({"s": ["aa", "b"]}), Bytes())).all()


def test_hidden_states_are_those_recorded_at_a_words_last_token(model):
    sites = ["blocks.0.resid_post", "blocks.1.hook_mlp_out"]
    found = hidden_states(model, HEARD, Bytes(), sites)
    for story in ("b", "a"):
        mine = HEARD.story.values == story
        tokens = Bytes().encode(" ".join(HEARD.text.values[mine].tolist()))
        values = record(model, Batch.from_tokens([[*tokens.tolist(), 0]]), sites)
        ends = np.cumsum([len(w.encode()) + 1 for w in HEARD.text.values[mine].tolist()]) - 2
        for site in sites:
            np.testing.assert_allclose(found[site].values[mine], values[site].values[0, ends], atol=1e-6)
            assert set(found[site].band.values) == {site}


def test_no_later_word_changes_an_earlier_one(model):
    changed, site = HEARD.copy(deep=True), "blocks.1.resid_post"
    changed.text.values[4] = "oh"
    for features in (
        lambda words: surprisal_and_entropy(model, words, Bytes()),
        lambda words: hidden_states(model, words, Bytes(), [site])[site],
        lambda words: hidden_states(model, words, Bytes(), [site], length=6, stride=3)[site],
    ):
        before, after = features(HEARD).values, features(changed).values
        np.testing.assert_allclose(before[:4], after[:4], atol=1e-5)
        np.testing.assert_allclose(before[6:], after[6:], atol=1e-5)
        assert np.abs(before[4:6] - after[4:6]).max() > 1e-4


def test_windows_change_only_what_is_forgotten(model):
    whole = hidden_states(model, HEARD, Bytes(), ["blocks.1.resid_post"])["blocks.1.resid_post"].values
    some = hidden_states(model, HEARD, Bytes(), ["blocks.1.resid_post"], length=8, stride=4)[
        "blocks.1.resid_post"
    ].values
    near = np.abs(whole - some).max(1) < 1e-5
    assert near[:2].all()
    assert not near[3:6].any()


def test_words_of_two_stories_may_come_in_turns(model):
    turns = np.array([0, 6, 1, 2, 7, 3, 8, 4, 5])
    for features in (
        lambda words: surprisal_and_entropy(model, words, Bytes()),
        lambda words: hidden_states(model, words, Bytes(), ["embed"])["embed"],
    ):
        np.testing.assert_allclose(features(HEARD.isel(word=turns)).values, features(HEARD).values[turns], atol=1e-6)


def test_patterns_are_no_feature_of_words(model):
    with pytest.raises(ValueError, match="needs one row a position"):
        hidden_states(model, HEARD, Bytes(), ["blocks.0.attn.pattern"])


def test_beliefs_after_each_word_start_anew_at_each_story():
    process = mess3()
    symbols = Symbols("ABC")
    words = table({"x": ["AB", "C", "BBA"], "y": ["C"]})
    found = belief_states(process, words, symbols, separator="")
    tokens = symbols.encode("ABCBBA")[None]
    np.testing.assert_allclose(found.values[:3], process.beliefs(tokens)[0, [1, 2, 5]])
    np.testing.assert_allclose(found.values[3], process.beliefs(symbols.encode("C")[None])[0, 0])
    np.testing.assert_allclose(found.values.sum(1), 1)


def test_a_matchers_places_are_volumes():
    """Exact induction over whole words points to every volume in which the longest run of the words at hand ended."""
    rng = np.random.default_rng(0)
    names = [f"w{i}" for i in range(6)]
    stories = {story: rng.choice(names, 40).tolist() for story in "xy"}
    words = table(stories)
    rows = row_labels(label_rows(np.zeros((40, 1)), np.repeat(["x", "y"], 20)))
    found = matches_of(ExactInduction(6), words, rows, Words(tuple(names)), gap=1, separator="", most=50)
    by_row = {}
    for row, earlier in zip(found.row.tolist(), found.earlier.tolist(), strict=True):
        by_row.setdefault(row, set()).add(earlier)
    for story in "xy":
        said = stories[story]
        offset = 0 if story == "x" else 20
        for t in range(20):
            end = 2 * t + 2
            length = {
                i: next((n for n in range(i + 1) if said[i - n] != said[end - 1 - n]), i + 1) for i in range(end - 1)
            }
            best = max(length.values(), default=0)
            expected = {offset + i // 2 for i, n in length.items() if n == best and best > 0 and i // 2 <= t - 1}
            assert by_row.get(offset + t, set()) == expected
