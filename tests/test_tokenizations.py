"""Tokenizations of a text and coverings of a prompt: against enumeration, and the bias at the boundary of a prompt."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextlens.analyses.formulation_tokens import table_said, tokenization_table
from nextlens.models.batch import Batch
from nextlens.models.byte_pairs import train_byte_pairs
from nextlens.models.merges import Merges
from nextlens.models.tokenizations import (
    Pushforward,
    TokenChain,
    canonical_next,
    canonical_rate,
    cover,
    covered,
    marginal,
    pieces,
    roundtrip_rate,
)
from nextlens.models.transformer import Transformer, TransformerConfig

ABC = Merges("abc", ((0, 1), (3, 2), (1, 1)))
texts = st.text(alphabet="abc", min_size=1, max_size=8)


def random_chain(seed: int, n_tokens: int = ABC.n_tokens) -> TokenChain:
    rng = np.random.default_rng(seed)
    chain = TokenChain(rng.dirichlet(np.ones(n_tokens)), rng.dirichlet(np.ones(n_tokens), n_tokens))
    chain.transition[0, 1:] = 0  # something is forbidden
    chain.transition[0, 0] = 1
    return chain


def every_tokenization(text: str) -> list[tuple[int, ...]]:
    if not text:
        return [()]
    return [
        (token, *rest)
        for token, piece in enumerate(ABC.pieces)
        if text.startswith(piece)
        for rest in every_tokenization(text[len(piece) :])
    ]


# --- vocabularies


@given(texts)
def test_merges_come_back_and_are_idempotent(text):
    tokens = ABC.encode(text)
    assert ABC.decode(tokens) == text
    assert ABC.encode(ABC.decode(tokens)).tolist() == tokens.tolist()


def test_merges_are_trained_on_the_most_frequent_pair_ties_to_the_larger():
    found = Merges.trained("ababcabab", 2)
    assert found.pieces == ("a", "b", "c", "ab", "abab")
    assert Merges.trained("abba", 1, "ab").pairs == ((1, 1),)  # ab, bb and ba stand once each
    with pytest.raises(ValueError, match="after 1 the text is one token"):
        Merges.trained("ab", 2)
    with pytest.raises(ValueError, match=r"pairs\[0\]=\(0, 3\) joins a token"):
        Merges("abc", ((0, 3),))


def test_round_trips_and_canonical_strings_are_counted():
    assert roundtrip_rate(ABC, ["abc", "cab", "abd"]) == pytest.approx(2 / 3)  # d is refused
    assert canonical_rate(ABC, [[3], [0, 1], [4], [3, 2]]) == 0.5  # a b would be joined, and so would ab c
    subwords = train_byte_pairs(["the cat sat on the mat the cat"], 262)
    assert roundtrip_rate(subwords, ["the cat", "naïve"]) == 1.0
    apart = [token for character in "the" for token in subwords.encode(character)]
    assert canonical_rate(subwords, [subwords.encode("the cat"), apart]) == 0.5
    with pytest.raises(ValueError, match="number of texts"):
        roundtrip_rate(ABC, [])


def test_pieces_of_a_byte_level_vocabulary_leave_out_half_characters():
    found = pieces(train_byte_pairs(["the cat the cat"], 260))
    assert "the" in found or "th" in found
    assert "" in found  # a byte of two is no character
    assert not [one for one in found if "\N{REPLACEMENT CHARACTER}" in one]


# --- lattices, by enumeration


@given(texts, st.integers(0, 1000))
def test_the_marginal_is_the_sum_over_every_tokenization(text, seed):
    chain = random_chain(seed)
    with np.errstate(divide="ignore"):
        expected = np.logaddexp.reduce([chain.log_prob(one) for one in every_tokenization(text)])
    found = marginal(chain, ABC.pieces, text)
    assert found == pytest.approx(expected, abs=1e-9) or (found == expected == -np.inf)
    assert found >= chain.log_prob(ABC.encode(text).tolist()) - 1e-12


@given(st.text(alphabet="abc", min_size=1, max_size=3), st.integers(0, 1000))
def test_a_cover_is_the_mass_of_every_token_string_that_begins_so(text, seed):
    chain = random_chain(seed)
    strings = itertools.product(range(chain.n_tokens), repeat=len(text))  # long enough to reach the end
    mass = sum(np.exp(chain.log_prob(one)) for one in strings if ABC.decode(one).startswith(text))
    found = cover(chain, ABC.pieces, text)
    assert np.exp(found) == pytest.approx(mass, abs=1e-9)
    beam = covered(chain, np.log(chain.opening), ABC.pieces, text, width=5000)
    assert beam.whole
    assert np.exp(beam.log_prob) == pytest.approx(mass, abs=1e-9)


def test_coverings_of_long_prompts_do_not_underflow():
    chain = random_chain(3)
    chain.transition[0] = 1 / chain.n_tokens
    found = cover(chain, ABC.pieces, "abcbbca" * 300)
    assert -np.inf < found < -1000


@given(texts, st.integers(0, 100))
def test_a_pushforward_is_a_kernel_of_characters(text, seed):
    chain = random_chain(seed)
    chain.transition[0] = 1 / chain.n_tokens
    pushed = Pushforward(chain, ABC.pieces, "abc")
    batch = Batch.from_tokens([["abc".index(one) for one in text + "a"]])
    rows = pushed.log_probs(batch)
    torch.testing.assert_close(rows.logsumexp(-1), torch.zeros_like(rows[..., 0]), atol=1e-9, rtol=0)
    first = cover(chain, ABC.pieces, text[0])
    said = sum(float(rows[0, t, "abc".index(c)]) for t, c in enumerate(text[1:]))
    assert first + said == pytest.approx(cover(chain, ABC.pieces, text), abs=1e-9)  # chain rule


# --- bounds, refusals, and the bias


def test_a_beam_bounds_from_below_and_says_what_it_dropped():
    chain = random_chain(5)
    text, opening = "abcabbc", np.log(chain.opening)
    exact = cover(chain, ABC.pieces, text)
    bounds = [covered(chain, opening, ABC.pieces, text, width=width) for width in (1, 2, 4, 1000)]
    assert [one.log_prob for one in bounds] == sorted(one.log_prob for one in bounds)
    assert all(one.log_prob <= exact + 1e-12 for one in bounds)
    assert [one.whole for one in bounds][0::3] == [False, True]


def test_a_transformer_is_bounded_and_never_said_to_be_exact():
    model = Transformer(TransformerConfig(n_tokens=ABC.n_tokens, n_layers=1, d_model=8, n_ctx=12))
    opening = np.full(ABC.n_tokens, -np.log(ABC.n_tokens))
    narrow, wide = (covered(model, opening, ABC.pieces, "abcab", width=width) for width in (1, 500))
    mass = sum(
        np.exp(opening[0] + _log_prob(model, one))
        for length in range(1, 6)
        for one in itertools.product(range(ABC.n_tokens), repeat=length)
        if ABC.decode(one).startswith("abcab") and not ABC.decode(one[:-1]).startswith("abcab")
    )
    assert narrow.log_prob < wide.log_prob
    assert wide.whole
    assert np.exp(wide.log_prob) == pytest.approx(mass, rel=1e-4)
    with pytest.raises(ValueError, match="base is a Transformer: coverings"):
        Pushforward(model, ABC.pieces, "abc")


def _log_prob(model: Transformer, tokens: tuple[int, ...]) -> float:
    if len(tokens) == 1:
        return 0.0
    batch = Batch.from_tokens([list(tokens)])
    with torch.no_grad():
        return float(model.log_probs(batch).gather(2, batch.targets[..., None]).sum())


def test_the_canonical_prompt_is_biased_where_tokens_reach_over_its_end():
    chain = TokenChain.counted(ABC.encode("abcababcbb" * 50), ABC.n_tokens)
    law = canonical_next(chain, ABC, ABC.pieces, "ca", "abc")
    exact = np.exp(Pushforward(chain, ABC.pieces, "abc").row("ca"))
    assert exact[1] > 0.7  # every a is followed by b in the text
    assert law[1] < 0.5  # but a alone is never followed by b in tokens
    assert law.sum() == pytest.approx(1)


def test_chains_that_are_no_laws_and_texts_that_cannot_be_spelled_are_refused():
    with pytest.raises(ValueError, match=r"transition\[1\] sums to 0.5"):
        TokenChain(np.array([0.5, 0.5]), np.array([[0.5, 0.5], [0.25, 0.25]]))
    with pytest.raises(ValueError, match="nothing below 0"):
        TokenChain(np.array([1.5, -0.5]), np.eye(2))
    chain = random_chain(0)
    assert marginal(chain, ABC.pieces, "abd") == -np.inf
    with pytest.raises(ValueError, match="'d' cannot be spelled"):
        Pushforward(chain, ABC.pieces, "abc").row("d")
    with pytest.raises(ValueError, match="characters of the text"):
        cover(chain, ABC.pieces, "")


def test_the_table_shows_a_large_bias_and_hardly_any_spurious_mass():
    found = tokenization_table(
        np.random.default_rng(0), merges=(0, 2, 8), characters=8000, texts=5, length=60, samples=40, prompts=12
    )
    none, two, eight = found["rows"]
    assert found["rate"] == pytest.approx(1.41863, abs=1e-5)
    assert none["canonical prompt"] == pytest.approx(none["exact covering"])
    for row in (two, eight):
        assert row["canonical prompt"] > 0.15 > 0.08 > row["exact covering"]
        assert 0 <= row["canonical bits"] - row["marginal bits"] < 0.001
        assert row["round trips"] == 1
    assert "exact covering" in table_said(found)
