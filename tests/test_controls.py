"""Nulls are other inputs to one protocol, and on exact beliefs they score the known numbers."""

from __future__ import annotations

from functools import cache
from itertools import product

import jaxtyping
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from nextlens.probes.belief import held_out, in_sample
from nextlens.probes.controls import (
    compare,
    last_tokens,
    next_token_features,
    random_features,
    shuffled,
)
from nextlens.probes.samples import distinct, pair

seeds = st.integers(0, 2**32 - 1)


@cache
def mess3_words(length, x=0.05, a=0.85):
    """Every sequence of Mess3: tokens, the belief after each, log-probabilities of the next, of the word."""
    move = np.full((3, 3), x) + np.eye(3) * (1 - 3 * x)
    emit = np.full((3, 3), (1 - a) / 2) + np.eye(3) * (a - (1 - a) / 2)
    transition = np.stack([move * emit[:, z] for z in range(3)])
    tokens = np.array(list(product(range(3), repeat=length)))
    labels = {"sequence": np.arange(len(tokens)), "position": np.arange(length)}
    beliefs, log_p = np.empty((*tokens.shape, 3)), np.empty(tokens.shape)
    belief, so_far = np.full((len(tokens), 3), 1 / 3), np.zeros(len(tokens))
    for t in range(length):
        joint = np.einsum("bi,bij->bj", belief, transition[tokens[:, t]])
        so_far = so_far + np.log(joint.sum(1))
        belief = joint / joint.sum(1, keepdims=True)
        beliefs[:, t], log_p[:, t] = belief, so_far
    prefix = np.cumsum(tokens * 3 ** np.arange(length), axis=1) + (3 ** np.arange(1, length + 1) - 3) // 2
    dims = ("sequence", "position")
    recorded = xr.DataArray(tokens, dims=dims, coords=labels | {"prefix": (dims, prefix)}, name="token")
    truth = xr.DataArray(beliefs, dims=(*dims, "state"), coords=labels, name="beliefs")
    next_log = np.log(np.einsum("bti,zij->btz", beliefs, transition))
    ideal = xr.DataArray(next_log, dims=(*dims, "vocab"), coords=recorded.coords, name="ideal")
    return recorded, truth, ideal, np.exp(log_p)


def by_prefix(features, length):
    """One row per prefix, and its probability; each length has the same mass."""
    tokens, truth, _, p = mess3_words(length)
    samples, _ = distinct(pair(features, truth, groups="prefix"))
    _, first = np.unique(tokens.prefix.values.ravel(), return_index=True)
    return samples, p.ravel()[first] / length


KNOWN = [  # weighted and unweighted R² over the distinct prefixes of length 1 to 10
    ("last 1", lambda tokens, ideal: last_tokens(tokens, 1), 0.828, 0.686),
    ("last 2", lambda tokens, ideal: last_tokens(tokens, 2), 0.946, 0.862),
    ("last 3", lambda tokens, ideal: last_tokens(tokens, 3), 0.990, 0.951),
    ("last 4", lambda tokens, ideal: last_tokens(tokens, 4), 0.998, 0.981),
    ("probability", lambda tokens, ideal: next_token_features(ideal), 1.0, 1.0),
    ("logarithm", lambda tokens, ideal: next_token_features(ideal, log=True), 0.993, 0.984),
]


@pytest.mark.parametrize(("name", "null", "weighted", "plain"), KNOWN, ids=[row[0] for row in KNOWN])
def test_nulls_of_mess3_score_the_known_numbers(name, null, weighted, plain):
    tokens, _, ideal, _ = mess3_words(10)
    samples, p = by_prefix(null(tokens, ideal), 10)
    assert len(samples.X) == 88_572
    np.testing.assert_allclose(in_sample(samples.X, samples.Y, weights=p).r2, weighted, atol=6e-4)
    np.testing.assert_allclose(in_sample(samples.X, samples.Y).r2, plain, atol=6e-4)
    np.testing.assert_allclose(held_out(*samples, weights=p).r2, weighted, atol=2e-2)
    np.testing.assert_allclose(held_out(*samples).r2, plain, atol=2e-3)


def test_counts_of_all_sequences_weigh_prefixes_as_the_repeated_rows_did():
    _, truth, ideal, _ = mess3_words(6)
    rows = pair(next_token_features(ideal, log=True), truth, groups="prefix")
    few, counts = distinct(rows)
    assert len(few.X) == 1092
    repeated, once = in_sample(rows.X, rows.Y), in_sample(few.X, few.Y, weights=counts.astype(float))
    np.testing.assert_allclose([once.r2, once.mse], [repeated.r2, repeated.mse], rtol=1e-9)


@given(seeds, st.integers(1, 6))
def test_last_tokens_mark_every_word_a_context_ends_with_and_no_others(seed, k):
    tokens = np.random.default_rng(seed).integers(3, size=(8, 5)) * 7
    labelled = xr.DataArray(tokens, dims=("sequence", "position"), coords={"position": range(5)})
    cells = last_tokens(labelled, k).values
    assert cells.dtype == np.float32
    endings = [{tuple(row[s : t + 1]) for s in range(max(0, t + 1 - k), t + 1)} for row in tokens for t in range(5)]
    flat = cells.reshape(40, -1)
    assert flat.shape[1] == len(set.union(*endings))
    shared = [[len(one & other) for other in endings] for one in endings]
    np.testing.assert_array_equal(flat @ flat.T, shared)
    np.testing.assert_array_equal(last_tokens(labelled.T, k).values, cells)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_an_affine_map_of_last_tokens_is_the_mean_of_each_word(k):
    tokens, truth, _, p = mess3_words(5)
    X, Y, _ = pair(last_tokens(tokens, k), truth)
    words = [tuple(row[max(0, t + 1 - k) : t + 1]) for row in tokens.values for t in range(5)]
    guess = in_sample(X, Y, weights=p.ravel()).prediction
    for word in set(words):
        rows = [one == word for one in words]
        mean = np.average(Y[rows], axis=0, weights=p.ravel()[rows])
        np.testing.assert_allclose(guess[rows], np.tile(mean, (sum(rows), 1)), atol=1e-8)


def test_last_tokens_refuse_what_makes_no_design():
    tokens = xr.DataArray(np.arange(5000).reshape(500, 10), dims=("sequence", "position"))
    with pytest.raises(ValueError, match="k=1 gives 5000 words or more in these tokens; at most 4096"):
        last_tokens(tokens, 1)
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        last_tokens(tokens, 0)
    with pytest.raises(ValueError, match=r"tokens have dims \('sample',\)"):
        last_tokens(tokens[:, 0].rename(sequence="sample"), 1)
    with pytest.raises(ValueError, match="hold float64"):
        last_tokens(tokens / 2, 1)


@given(seeds)
def test_a_shuffle_moves_rows_within_their_position_only(seed):
    rng = np.random.default_rng(seed)
    position = rng.integers(4, size=60)
    Y = np.column_stack([position, np.arange(60.0)])
    moved = shuffled(Y, position, rng)
    np.testing.assert_array_equal(moved[:, 0], position)
    np.testing.assert_array_equal(np.sort(moved[:, 1]), Y[:, 1])
    assert (moved != Y).any()


def test_every_order_of_a_shuffle_is_as_likely():
    rng = np.random.default_rng(0)
    drawn = [tuple(shuffled(np.arange(4.0), np.array([0, 1, 0, 0]), rng)[[0, 2, 3]]) for _ in range(3000)]
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - 500).max() < 100


def test_a_shuffle_in_which_nothing_can_move_is_refused():
    with pytest.raises(ValueError, match="within has 5 values for 5 rows, no two alike"):
        shuffled(np.ones((5, 2)), np.arange(5), np.random.default_rng(0))


def test_next_token_features_are_probabilities_or_logarithms_above_the_floor():
    p = np.array([[0.5, 0.5, 0.0], [1e-9, 1 - 1e-9, 0.0]])
    with np.errstate(divide="ignore"):
        log_probs = np.log(p)
    np.testing.assert_allclose(next_token_features(log_probs), p)
    expected = np.log(np.maximum(p, 1e-6))
    np.testing.assert_allclose(next_token_features(log_probs, log=True), expected)
    with pytest.raises(ValueError, match=r"log_probs hold 0\.5"):
        next_token_features(np.array([0.5]))
    with pytest.raises(ValueError, match="log_probs hold nan"):
        next_token_features(np.array([np.nan]))
    with pytest.raises(ValueError, match=r"floor=0\.0 must be"):
        next_token_features(log_probs, log=True, floor=0.0)


def compared(**changes):
    tokens, _, ideal, _ = mess3_words(5)
    samples, p = by_prefix(next_token_features(ideal), 5)
    rng = np.random.default_rng(0)
    length = np.searchsorted(np.array([3, 12, 39, 120, 363]), samples.groups, side="right")
    arguments = {
        "nulls": {
            "last 1": by_prefix(last_tokens(tokens, 1), 5)[0].X,
            "random": random_features(len(p), 3, rng),
        },
        "weights": p,
        "position": length,
        "rng": rng,
    }
    return compare(*samples, **arguments | changes), samples, p


def test_a_comparison_names_every_predictor_and_states_its_protocol():
    table, samples, p = compared()
    assert table.predictor.values.tolist() == ["probe", "last 1", "random", "shuffle"]
    assert table.attrs == {
        "protocol": "held-out",
        "in_sample": False,
        "n_splits": 5,
        "n_rows": 363,
        "n_groups": 363,
        "weighted": True,
        "seed": 0,
    }
    np.testing.assert_allclose(table.rmse**2, table.mse)
    assert table.r2.sel(predictor="probe").item() == held_out(*samples, weights=p).r2
    assert table.r2.sel(predictor="probe") > 0.9999 > table.r2.sel(predictor="last 1") > 0.7
    assert (table.r2.sel(predictor=["random", "shuffle"]) < 0.05).all()
    assert not compared(weights=None)[0].attrs["weighted"]


def test_nulls_of_other_rows_or_with_a_taken_name_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is for users
    with pytest.raises(ValueError, match=r"nulls\['short'\] has 7 rows and X has 363"):
        compared(nulls={"short": np.ones((7, 2))})
    for name in ("probe", "shuffle"):
        with pytest.raises(ValueError, match=f"nulls hold the name '{name}'"):
            compared(nulls={name: np.ones((363, 2))})


def test_random_features_have_the_shape_asked_for():
    assert random_features(5, 3, np.random.default_rng(0)).shape == (5, 3)
    with pytest.raises(ValueError, match="width=0 must be at least 1"):
        random_features(5, 0, np.random.default_rng(0))
