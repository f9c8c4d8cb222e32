"""Edits: what the probe reads after them, how far they go, and that they are the least of their kind."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextlens.probes.belief import BeliefProbe
from nextlens.probes.edits import (
    covariance_edit,
    decoder_edit,
    mean_ablated,
    minimum_norm_edit,
    random_edit,
    random_span,
    span,
    unread_edit,
)
from nextlens.probes.ridge import moments, ordinary_least_squares

seeds = st.integers(0, 2**32 - 1)


def beliefs(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.dirichlet(np.ones(3), size=n)


class Scene:
    """Activations of width 7 that hold beliefs of three states, a probe fitted to them, and targets."""

    def __init__(self, seed: int, penalty: float = 1e-6):
        self.rng = rng = np.random.default_rng(seed)
        self.beliefs, self.target = beliefs(60, rng), beliefs(60, rng)
        self.X = self.beliefs @ rng.standard_normal((3, 7)) + 0.1 * rng.standard_normal((60, 7)) + 5.0
        probe = BeliefProbe([penalty]).fit(self.X, self.beliefs)
        self.W, self.c = probe.coef_.T, probe.intercept_
        self.covariance = np.cov(self.X.T, bias=True)

    def read(self, X: np.ndarray) -> np.ndarray:
        return X @ self.W + self.c

    def moved(self, name: str, target: np.ndarray) -> np.ndarray:
        if name == "minimum norm":
            return minimum_norm_edit(self.X, self.W, self.c, target)
        return covariance_edit(self.X, self.W, self.c, target, self.covariance)


both = pytest.mark.parametrize("name", ["minimum norm", "covariance"])


@both
@given(seed=seeds, penalty=st.sampled_from([1e-10, 1e-3, 1.0]))
def test_after_an_edit_the_probe_reads_the_target(name, seed, penalty):
    scene = Scene(seed, penalty)
    np.testing.assert_allclose(scene.read(scene.X + scene.moved(name, scene.target)), scene.target, atol=1e-9)


@both
@given(seed=seeds)
def test_an_edit_to_what_is_read_already_changes_nothing(name, seed):
    scene = Scene(seed)
    assert np.abs(scene.moved(name, scene.read(scene.X))).max() < 1e-10


@given(seed=seeds)
def test_the_minimum_norm_edit_is_the_shortest_solution_of_least_squares(seed):
    scene = Scene(seed)
    wanted = scene.target - scene.read(scene.X)
    shortest = np.linalg.lstsq(scene.W.T, wanted.T, rcond=1e-8)[0].T
    np.testing.assert_allclose(scene.moved("minimum norm", scene.target), shortest, atol=1e-9)


@given(seed=seeds)
def test_the_covariance_edit_is_the_shortest_where_activations_are_white(seed):
    scene = Scene(seed)
    root = np.linalg.cholesky(scene.covariance)
    white = minimum_norm_edit(np.linalg.solve(root, scene.X.T).T, root.T @ scene.W, scene.c, scene.target)
    np.testing.assert_allclose(scene.moved("covariance", scene.target), white @ root.T, atol=1e-8)


@given(seed=seeds)
def test_the_covariance_edit_follows_the_regression_of_activations_on_what_is_read(seed):
    scene = Scene(seed)
    reading = scene.read(scene.X)
    D = ordinary_least_squares(reading, scene.X)[0]
    along = decoder_edit(D, reading, scene.target)
    np.testing.assert_allclose(scene.moved("covariance", scene.target), along, atol=1e-8)


@given(seed=seeds)
def test_the_decoder_edit_moves_a_noiseless_code_to_the_code_of_the_target(seed):
    rng = np.random.default_rng(seed)
    b, target, code = beliefs(20, rng), beliefs(20, rng), rng.standard_normal((3, 7))
    D = ordinary_least_squares(b, b @ code)[0]
    np.testing.assert_allclose(b @ code + decoder_edit(D, b, target), target @ code, atol=1e-10)


@given(seed=seeds)
def test_controls_go_as_far_as_the_edit(seed):
    scene = Scene(seed)
    change = scene.moved("covariance", scene.target)
    change[0] = 0.0
    length = np.linalg.norm(change, axis=1)
    for control in (random_edit(change, scene.rng), unread_edit(change, scene.W, scene.rng)):
        np.testing.assert_allclose(np.linalg.norm(control, axis=1), length, rtol=1e-12)
        assert np.abs(control[1:] - change[1:]).max() > 0.01


@given(seed=seeds)
def test_the_probe_sees_a_random_edit_and_no_unread_one(seed):
    scene = Scene(seed)
    change = scene.moved("covariance", scene.target)
    before = scene.read(scene.X)
    np.testing.assert_allclose(scene.read(scene.X + unread_edit(change, scene.W, scene.rng)), before, atol=1e-9)
    assert np.abs(scene.read(scene.X + random_edit(change, scene.rng)) - before).max() > 1e-3


def test_a_random_edit_is_as_often_forward_as_back():
    change = np.tile([1.0, 0.0, 0.0], (4000, 1))
    mean = random_edit(change, np.random.default_rng(0)).mean(0)
    assert np.abs(mean).max() < 4 * (1 / 3 / 4000) ** 0.5


def test_a_probe_that_reads_every_direction_leaves_none_unread():
    with pytest.raises(ValueError, match=r"W of shape \(2, 2\) reads every direction"):
        unread_edit(np.ones((1, 2)), np.eye(2), np.random.default_rng(0))


@given(seed=seeds)
def test_a_probe_of_beliefs_spans_one_dimension_fewer_than_states(seed):
    scene = Scene(seed)
    basis = span(scene.W)
    assert basis.shape == (7, 2)
    np.testing.assert_allclose(basis.T @ basis, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(basis @ basis.T @ scene.W, scene.W, atol=1e-6 * np.abs(scene.W).max())


def test_nothing_spans_nothing():
    assert span(np.zeros((4, 2))).shape == (4, 0)


@given(seed=seeds, rank=st.integers(0, 5))
def test_a_random_span_is_orthonormal(seed, rank):
    basis = random_span(5, rank, np.random.default_rng(seed))
    np.testing.assert_allclose(basis.T @ basis, np.eye(rank), atol=1e-12)


def test_a_span_larger_than_the_space_is_refused():
    with pytest.raises(ValueError, match="rank=6 must lie between 0 and 5"):
        random_span(5, 6, np.random.default_rng(0))


@given(seed=seeds)
def test_ablation_leaves_nothing_to_read_and_the_rest_as_it_was(seed):
    scene = Scene(seed)
    mean, basis = scene.X.mean(0), span(scene.W)
    ablated = mean_ablated(scene.X, mean, basis)
    np.testing.assert_allclose(ablated @ basis, np.tile(mean @ basis, (60, 1)), atol=1e-10)
    across = np.eye(7) - basis @ basis.T
    np.testing.assert_allclose(ablated @ across, scene.X @ across, atol=1e-10)
    np.testing.assert_allclose(mean_ablated(ablated, mean, basis), ablated, atol=1e-10)


@given(seed=seeds)
def test_ablation_along_the_covariance_leaves_no_linear_trace_of_the_reading(seed):
    scene = Scene(seed)
    fitted = moments(scene.X, scene.beliefs)
    erased = mean_ablated(scene.X, fitted.mean_x, span(fitted.xx @ scene.W))
    assert np.abs(moments(erased, scene.read(scene.X)).xy).max() < 1e-8 * np.abs(fitted.xy).max()


@pytest.mark.parametrize("argument", ["X", "W", "target", "covariance"])
def test_a_value_that_is_not_finite_is_refused_by_name(argument):
    scene = Scene(0)
    given = {"X": scene.X, "W": scene.W, "c": scene.c, "target": scene.target, "covariance": scene.covariance}
    given[argument] = given[argument] * np.nan
    with pytest.raises(ValueError, match=f"{argument} holds .* NaN"):
        covariance_edit(**given)


def test_targets_of_another_number_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    scene = Scene(0)
    with pytest.raises(ValueError, match="target has 59 rows and X has 60"):
        minimum_norm_edit(scene.X, scene.W, scene.c, scene.target[1:])
