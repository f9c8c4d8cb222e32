"""Head scores: by hand, by enumeration, and as TransformerLens's detector has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens import head_detector

from nextlens.probes.attention import (
    attention_to,
    copying,
    detector_share,
    duplicate_token,
    duplicates,
    eigenvalue_score,
    followers,
    largest_is_itself,
    positive_share,
    prefix_matching,
    previous,
    previous_token,
    uniform_causal,
)

WORD = np.array([[0, 1, 2, 0, 1, 1]])


@st.composite
def looked(draw, heads: int = 3):
    """Tokens with repeats, and causal patterns of some heads."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, time = draw(st.integers(1, 3)), draw(st.integers(3, 9))
    tokens = np.concatenate([rng.integers(4, size=(n, time)), np.zeros((n, 2), dtype=np.int64)], axis=1)
    pattern = np.tril(rng.random((n, heads, time + 2, time + 2)) + 1e-3)
    return pattern / pattern.sum(-1, keepdims=True), tokens


def onto(keys: list[list[int]]) -> np.ndarray:
    """A pattern that spreads evenly over the keys given for each query; over itself if none."""
    pattern = np.zeros((1, 1, len(keys), len(keys)))
    for t, row in enumerate(keys):
        pattern[0, 0, t, row or [t]] = 1 / len(row or [t])
    return pattern


# --- which keys count


def test_keys_of_a_word_by_hand():
    keys = {name: [np.flatnonzero(row).tolist() for row in found(WORD)[0]] for name, found in KEYS.items()}
    assert keys["followers"] == [[], [], [], [1], [2], [2, 5]]
    assert keys["duplicates"] == [[], [], [], [0], [1], [1, 4]]
    assert keys["previous"] == [[], [0], [1], [2], [3], [4]]


KEYS = {"followers": followers, "duplicates": duplicates, "previous": previous}
DETECTED = {
    "followers": head_detector.get_induction_head_detection_pattern,
    "duplicates": head_detector.get_duplicate_token_head_detection_pattern,
    "previous": head_detector.get_previous_token_head_detection_pattern,
}


@pytest.mark.parametrize("name", KEYS)
@given(found=looked())
def test_keys_and_shares_are_those_of_the_detector_of_transformer_lens(name, found):
    pattern, tokens = found
    theirs = [DETECTED[name](torch.as_tensor(row[None])) for row in tokens]
    np.testing.assert_array_equal(KEYS[name](tokens), np.stack(theirs) > 0)
    share = [
        np.mean(
            [
                head_detector.compute_head_attention_similarity_score(
                    torch.as_tensor(pattern[b, h]),
                    theirs[b],
                    exclude_bos=False,
                    exclude_current_token=False,
                    error_measure="mul",
                )
                for b in range(len(tokens))
            ]
        )
        for h in range(pattern.shape[1])
    ]
    np.testing.assert_allclose(detector_share(pattern, KEYS[name](tokens)), share, atol=1e-6)


# --- scores of patterns


@given(looked())
def test_attention_is_the_mean_over_queries_that_have_a_key_by_enumeration(found):
    pattern, tokens = found
    keys = followers(tokens)
    for h in range(pattern.shape[1]):
        masses = [
            sum(pattern[b, h, t, s] for s in range(t + 1) if keys[b, t, s])
            for b, t in np.ndindex(*tokens.shape)
            if keys[b, t].any()
        ]
        assert prefix_matching(pattern, tokens)[h] == pytest.approx(np.mean(masses))


def test_a_head_made_for_it_scores_one_in_its_score_alone():
    pattern = {name: onto([np.flatnonzero(row).tolist() for row in found(WORD)[0]]) for name, found in KEYS.items()}
    assert prefix_matching(pattern["followers"], WORD) == pytest.approx([1])
    assert duplicate_token(pattern["duplicates"], WORD) == pytest.approx([1])
    assert previous_token(pattern["previous"]) == pytest.approx([1])
    assert prefix_matching(pattern["previous"], WORD) == pytest.approx([0])
    assert prefix_matching(pattern["duplicates"], WORD) == pytest.approx([0])


@given(looked())
def test_scores_lie_in_zero_to_one_and_do_not_depend_on_the_names_of_tokens(found):
    pattern, tokens = found
    renamed = np.array([7, 3, 5, 11])[tokens]
    for score in (prefix_matching, duplicate_token):
        value = score(pattern, tokens)
        assert ((value >= 0) & (value <= 1)).all()
        np.testing.assert_allclose(score(pattern, renamed), value)


def test_chance_is_what_looking_everywhere_alike_gives():
    tokens = np.tile(np.arange(10), 2)[None]
    chance = uniform_causal(1, 20)
    assert prefix_matching(chance, tokens) == pytest.approx([np.mean([1 / (t + 1) for t in range(10, 20)])])
    assert previous_token(chance) == pytest.approx([np.mean([1 / (t + 1) for t in range(1, 20)])])
    np.testing.assert_allclose(chance.sum(-1), 1)
    assert (np.triu(chance, 1) == 0).all()


def test_a_head_that_looks_at_followers_scores_half_by_the_detector_on_tokens_said_twice():
    tokens = np.tile(np.arange(10), 2)[None]
    pattern = onto([[] if t < 10 else [t - 9] for t in range(20)])
    assert prefix_matching(pattern, tokens) == pytest.approx([1])
    assert detector_share(pattern, followers(tokens)) == pytest.approx([0.5])


# --- copying


def test_copying_is_one_for_a_head_that_raises_what_it_attends_to_and_nothing_if_it_lowers_it():
    pattern = onto([np.flatnonzero(row).tolist()[:1] for row in followers(WORD)[0]])
    attended = WORD[0][pattern[0, 0].argmax(-1)]
    raised = np.eye(4)[attended][None, None]
    assert copying(pattern, WORD, 5 * raised + 3) == pytest.approx([1])
    assert copying(pattern, WORD, -raised) == pytest.approx([0])
    assert copying(pattern, WORD, np.zeros_like(raised)) == pytest.approx([0])


@given(looked(heads=2))
def test_copying_by_enumeration(found):
    pattern, tokens = found
    raised = np.random.default_rng(0).standard_normal((*pattern.shape[:3], 5))
    for h in range(2):
        shares = []
        for b, t in np.ndindex(*tokens.shape):
            if tokens[b, t] not in tokens[b, :t]:
                continue
            above = np.maximum(raised[b, h, t] - raised[b, h, t].mean(), 0)
            shares.append(sum(pattern[b, h, t, s] * above[tokens[b, s]] for s in range(t + 1)) / above.sum())
        assert copying(pattern, tokens, raised)[h] == pytest.approx(np.mean(shares))


def test_a_head_that_raises_tokens_at_random_copies_by_chance():
    rng = np.random.default_rng(0)
    tokens = np.tile(rng.integers(20, size=(40, 12)), (1, 2))
    pattern = np.broadcast_to(uniform_causal(40, 24), (40, 1, 24, 24))
    raised = rng.standard_normal((40, 1, 24, 20))
    assert copying(pattern, tokens, raised) == pytest.approx([1 / 20], abs=2e-3)


# --- circuits


@given(st.integers(0, 999))
def test_the_turned_product_has_the_eigenvalues_of_the_circuit_of_tokens(seed):
    rng = np.random.default_rng(seed)
    embed, value, out, unembed = (rng.standard_normal(s) for s in ((9, 5), (5, 3), (3, 5), (5, 9)))
    whole = np.linalg.eigvals(embed @ value @ out @ unembed)
    whole = whole[np.abs(whole) > 1e-8]
    turned = out @ unembed @ embed @ value
    assert eigenvalue_score(turned) == pytest.approx(whole.real.sum() / np.abs(whole).sum())
    assert positive_share(turned) == pytest.approx((whole.real > 0).mean())


def test_scores_of_circuits_that_copy_forbid_or_do_neither():
    circuits = np.stack([np.eye(4), -np.eye(4), np.zeros((4, 4)), np.diag([1.0, 1, -1, 3])])
    np.testing.assert_allclose(eigenvalue_score(circuits), [1, -1, 0, 4 / 6])
    np.testing.assert_allclose(positive_share(circuits), [1, 0, 0, 0.75])
    # A rotation by a quarter has eigenvalues ±i: it neither copies nor forbids.
    assert eigenvalue_score(np.array([[0.0, -1], [1, 0]])) == pytest.approx(0)


def test_large_random_circuits_score_about_zero():
    circuits = np.random.default_rng(0).standard_normal((20, 40, 40))
    assert np.abs(eigenvalue_score(circuits)).mean() < 0.1
    assert positive_share(circuits).mean() == pytest.approx(0.5, abs=0.05)


def test_largest_is_itself_counts_rows_whose_own_entry_is_largest():
    rows = np.array([[3.0, 1, 2], [0, 5, 9], [1, 0, 4]])
    assert largest_is_itself(rows, np.array([0, 1, 2])) == pytest.approx(2 / 3)
    assert largest_is_itself(rows[[1]], np.array([2])) == 1


# --- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: prefix_matching(uniform_causal(1, 5), WORD),
            r"pattern has shape \(1, 1, 5, 5\); tokens of shape \(1, 6\)",
        ),
        (lambda: prefix_matching(2 * uniform_causal(1, 6), WORD), "pattern has a row that sums to 1 only up to 1"),
        (lambda: prefix_matching(np.nan * uniform_causal(1, 6), WORD), "sums to 1 only up to nan"),
        (lambda: prefix_matching(uniform_causal(1, 3), np.arange(3)[None]), "no token comes twice"),
        (lambda: previous_token(uniform_causal(1, 1)), "no query has such a key"),
        (lambda: detector_share(uniform_causal(2, 6), followers(WORD)), r"pattern has shape \(2, 1, 6, 6\)"),
        (lambda: attention_to(uniform_causal(1, 6), np.zeros((1, 6, 6), bool)), "no query has such a key"),
        (lambda: copying(uniform_causal(1, 6), WORD, np.ones((1, 2, 6, 3))), r"raised has shape \(1, 2, 6, 3\)"),
        (lambda: copying(uniform_causal(1, 6), WORD, np.ones((1, 1, 6, 2))), "tokens reach from 0 to 2; raised has 2"),
        (lambda: eigenvalue_score(np.full((2, 2), np.nan)), "circuit holds a value that is not finite"),
        (lambda: positive_share(np.full((2, 2), np.inf)), "circuit holds a value that is not finite"),
        (lambda: largest_is_itself(np.eye(3), np.arange(2)), "rows has 3 rows and tokens 2"),
        (lambda: largest_is_itself(np.full((1, 3), np.nan), np.arange(1)), "rows hold a value that is not finite"),
        (lambda: uniform_causal(0, 3), "n_sequences=0 must be at least 1"),
        (lambda: uniform_causal(1, 0), "time=0 must be at least 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
