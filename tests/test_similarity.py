"""Distances between contexts: each the one that its name says, as a matrix and pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from nextlens.models.induction import similarity as module
from nextlens.models.induction.similarity import (
    DISTANCES,
    cosine_distance,
    half_jeffreys,
    jensen_shannon,
    similarity,
)


def laws(seed: int, rows: int, tokens: int = 6, *, forbidden: float = 0.0) -> np.ndarray:
    """Random laws, far and near ones; tokens are forbidden with that probability."""
    rng = np.random.default_rng(seed)
    drawn = rng.dirichlet(np.full(tokens, 0.3), rows) + 1e-9
    drawn[rng.random(drawn.shape) < forbidden] = 0
    drawn[:, 0] += drawn.sum(1) == 0
    return drawn / drawn.sum(1, keepdims=True)


def logs(probabilities: np.ndarray) -> torch.Tensor:
    with np.errstate(divide="ignore"):
        return torch.from_numpy(np.log(probabilities))


def pairwise(pair, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.array([[pair(row, column) for column in columns] for row in rows])


PAIRS = {
    "jeffreys": lambda p, q: (rel_entr(p, q).sum() + rel_entr(q, p).sum()) / 2,
    "jensen-shannon": lambda p, q: jensenshannon(p, q) ** 2,
}
every_law_distance = pytest.mark.parametrize("name", PAIRS)
seeds = st.integers(0, 2**32 - 1)


@every_law_distance
@pytest.mark.parametrize("forbidden", [0.0, 0.3])
@given(seed=seeds)
def test_the_matrix_is_what_a_loop_over_pairs_gives(name, forbidden, seed):
    p, q = laws(seed, 4, forbidden=forbidden), laws(seed + 1, 3, forbidden=forbidden)
    found = DISTANCES[name].distance(logs(p), logs(q)).numpy()
    np.testing.assert_allclose(found, pairwise(PAIRS[name], p, q), atol=1e-7)


@every_law_distance
@given(seed=seeds)
def test_equal_laws_are_at_zero_and_the_way_back_is_as_long(name, seed):
    p = logs(laws(seed, 5, forbidden=0.2))
    found = DISTANCES[name].distance(p, p)
    assert (found.diagonal().abs() < 1e-12).all()
    torch.testing.assert_close(found, found.T)
    assert (found >= 0).all()


@given(seed=seeds)
def test_the_true_jensen_shannon_similarity_is_never_below_a_half_and_that_of_jeffreys_is(seed):
    p = logs(laws(seed, 5, forbidden=0.5))
    assert (similarity(jensen_shannon(p, p)) >= 0.5 - 1e-12).all()
    apart = logs(np.array([[1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(similarity(jensen_shannon(apart, apart))[0, 1].item(), 0.5)
    assert half_jeffreys(apart, apart).tolist() == [[0.0, math.inf], [math.inf, 0.0]]
    assert similarity(half_jeffreys(apart, apart)).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_laws_in_single_precision_give_no_nan_and_no_distance_below_zero():
    p = logs(laws(0, 40, 50, forbidden=0.3)).float()
    for name in PAIRS:
        found = DISTANCES[name].distance(p, p)
        assert not found.isnan().any()
        assert (found >= 0).all()


@given(seed=seeds, mass=st.floats(0.05, 0.99))
def test_less_mass_leaves_the_least_likely_tokens_of_each_law_out(seed, mass):
    p, q = laws(seed, 3), laws(seed + 1, 4)

    def pair(one, other):
        total = 0.0
        for this, that in ((one, other), (other, one)):
            order = np.argsort(-this)
            kept = order[: 1 + np.searchsorted(np.cumsum(this[order]), mass)]
            total += (this[kept] * np.log(this[kept] / that[kept])).sum()
        return max(total / 2, 0)

    found = half_jeffreys(logs(p), logs(q), mass=mass).numpy()
    np.testing.assert_allclose(found, pairwise(pair, p, q), atol=1e-9)
    torch.testing.assert_close(half_jeffreys(logs(p), logs(p), mass=mass).diagonal(), torch.zeros(3).double())


def test_the_jensen_shannon_divergence_is_the_same_in_parts(monkeypatch):
    p, q = logs(laws(0, 7)), logs(laws(1, 5))
    whole = jensen_shannon(p, q)
    monkeypatch.setattr(module, "NUMBERS_AT_A_TIME", 2 * q.numel())
    torch.testing.assert_close(jensen_shannon(p, q), whole, atol=0, rtol=0)


@given(seed=seeds)
def test_cosine_distances_are_those_of_angles_whatever_the_lengths(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    expected = pairwise(lambda x, y: 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y), a, b)
    found = cosine_distance(torch.from_numpy(a), torch.from_numpy(7 * b))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert cosine_distance(torch.zeros(1, 3), torch.ones(1, 3)).item() == 1


def test_distances_stay_on_the_device_of_their_rows():
    rows, columns = torch.empty(2, 6, device="meta"), torch.empty(3, 6, device="meta")
    for kind in DISTANCES.values():
        found = kind.distance(rows, columns)
        assert (found.device.type, found.shape) == ("meta", (2, 3))


def test_nothing_to_compare_with_is_no_distance():
    for kind in DISTANCES.values():
        assert kind.distance(torch.zeros(2, 3), torch.zeros(0, 3)).shape == (2, 0)
