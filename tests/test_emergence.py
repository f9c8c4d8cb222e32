"""Moments of measuring, and the curves of several seeds as one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextlens.analyses.belief_geometry import belief_geometry
from nextlens.analyses.emergence import FOLLOWED, Moment, emergence, emergence_at, measured_after, snapshots_after
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.models.processes import mess3
from nextlens.models.transformer import Transformer, TransformerConfig


def curve(*steps: int, seed: int = 0) -> list[Moment]:
    """What following a run gives, with numbers that tell seed and step."""
    return [
        {"step": s, "tokens": 640 * s, "loss_over_optimum": 1 + seed + s, "r2": 0.5 - seed, "mse": 0.01 * s}
        for s in steps
    ]


# --- when


@given(st.integers(1, 10**6), st.integers(1, 12))
def test_moments_begin_untrained_end_trained_and_never_repeat(steps, per_decade):
    moments = measured_after(steps, per_decade)
    assert moments[0] == 0
    assert moments[1] == 1
    assert moments[-1] == steps
    assert (np.diff(moments) > 0).all()
    assert len(moments) <= np.log10(steps) * per_decade + 3


@given(st.integers(10**3, 10**6))
def test_moments_are_even_on_a_log_scale_once_they_are_many_steps_apart(steps):
    late = measured_after(steps, per_decade=8)
    ratios = late[late > 100][1:] / late[late > 100][:-1]
    assert np.ptp(np.log10(ratios)) < 0.01
    assert np.log10(ratios).max() <= 1 / 8 + 0.005


@given(st.integers(1, 10**6))
def test_snapshots_are_thirds_of_a_log_scale(steps):
    early, middle, late = snapshots_after(steps)
    assert 1 <= early <= middle <= late == steps
    assert abs(early - steps ** (1 / 3)) <= 0.5
    assert abs(middle - steps ** (2 / 3)) <= 0.5


@pytest.mark.parametrize("when", [measured_after, snapshots_after])
@pytest.mark.parametrize("steps", [0, -3])
def test_a_run_without_steps_has_no_moments(when, steps):
    with pytest.raises(ValueError, match=f"steps={steps} must be at least 1"):
        when(steps)


def test_moments_per_decade_must_be_at_least_one():
    with pytest.raises(ValueError, match="per_decade=0"):
        measured_after(100, per_decade=0)


# --- what


def test_a_moment_is_the_loss_and_the_held_out_score_of_the_same_prefixes():
    model = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=16, n_ctx=5, seed=2))
    prefixes = Prefixes.of(mess3(), 5, n_words=300)
    site = "blocks.0.hook_resid_post"
    moment = emergence_at(model, prefixes, site)
    probed = belief_geometry(model, model.untrained(), prefixes, sites=[site]).scores.sel(site=site, predictor="probe")
    assert moment == {
        "loss_over_optimum": excess_loss(model, prefixes).attrs["loss_over_optimum"],
        "r2": float(probed.r2),
        "mse": float(probed.mse),
    }
    assert set(moment) == set(FOLLOWED)


def test_curves_of_several_seeds_are_rows_by_seed_and_columns_by_step():
    found = emergence({3: curve(0, 1, 10, seed=3), 7: curve(0, 1, 10, seed=7)})
    assert found.loss_over_optimum.dims == ("seed", "step")
    assert found.seed.values.tolist() == [3, 7]
    assert found.step.values.tolist() == [0, 1, 10]
    assert found.tokens.values.tolist() == [0, 640, 6400]
    assert found.loss_over_optimum.sel(seed=7, step=10).item() == 18
    assert found.r2.sel(seed=3).values.tolist() == [-2.5] * 3
    assert found.mse.sel(step=10).values.tolist() == [0.1, 0.1]
    assert found.attrs["in_sample"] is False


@pytest.mark.parametrize("other", [(0, 1), (0, 1, 9), (0, 1, 10, 20)])
def test_seeds_measured_at_other_steps_are_refused(other):
    with pytest.raises(ValueError, match=r"seed 1 was measured after \[0, 1.*seed 0 after \[0, 1, 10\]"):
        emergence({0: curve(0, 1, 10), 1: curve(*other, seed=1)})


def test_no_curves_are_refused():
    with pytest.raises(ValueError, match="curves is empty"):
        emergence({})
