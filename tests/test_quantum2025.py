"""The protocol of arXiv 2507.07432: what its rows, features and scores are, and that it says it is in sample."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import xarray as xr

from nextlens.analyses import quantum2025 as question
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.analyses.quantum2025 import all_layers, quantum2025, truncated_fit
from nextlens.analyses.sites import layers
from nextlens.models.processes import bloch_walk, golden_mean, mess3
from nextlens.models.recording import record
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.probes.truncated import CUTOFFS, truncated_least_squares

MODEL = Transformer(TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=8, d_mlp=8, n_ctx=4, seed=3))
PREFIXES = Prefixes.of(mess3(), 4)
FOUND = quantum2025(MODEL, PREFIXES)


def standing_for(values: np.ndarray) -> xr.DataArray:
    """Activations of our choice, labelled as if recorded."""
    return xr.DataArray(values, dims=("sample", "feature"), coords=PREFIXES.beliefs.coords)


def test_all_layers_are_what_enters_and_leaves_each_block_side_by_side():
    names = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert layers(MODEL) == [*names, "ln_final.hook_normalized"]
    recorded = record(MODEL, PREFIXES.batch, layers(MODEL), where=PREFIXES.first)
    together = all_layers(MODEL, PREFIXES)
    np.testing.assert_array_equal(together.values, np.hstack([recorded[site].values for site in layers(MODEL)]))
    np.testing.assert_array_equal(together.prefix, PREFIXES.beliefs.prefix)


@pytest.mark.parametrize("one_hot", [True, False])
def test_of_a_recurrent_network_all_layers_are_its_hidden_states(one_hot):
    model = Recurrent(RecurrentConfig(n_tokens=3, n_layers=3, d_model=4, one_hot=one_hot))
    assert layers(model) == [f"blocks.{i}.hook_resid_post" for i in range(3)]
    assert all_layers(model, PREFIXES).shape == (len(PREFIXES), 12)


def test_with_one_scale_no_site_counts_for_more():
    sites, w = layers(MODEL), PREFIXES.weights / PREFIXES.weights.sum()
    plain, scaled = all_layers(MODEL, PREFIXES), all_layers(MODEL, PREFIXES, one_scale=True)
    for i in range(len(sites)):
        X, before = scaled.values[:, 8 * i : 8 * i + 8], plain.values[:, 8 * i : 8 * i + 8]
        assert (w @ (X - w @ X) ** 2).mean() == pytest.approx(1.0, rel=1e-4)
        np.testing.assert_allclose(X / before, (X / before)[0, 0], rtol=1e-4)


def test_a_site_that_does_not_vary_stays_as_it_is():
    still = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=4, d_mlp=0, n_ctx=4))
    for parameter in still.parameters():
        parameter.data.zero_()
    assert not all_layers(still, PREFIXES, one_scale=True).values.any()


def test_every_distinct_prefix_is_a_row_weighted_by_its_probability():
    fit = truncated_least_squares(all_layers(MODEL, PREFIXES).values, PREFIXES.beliefs.values, PREFIXES.weights)
    np.testing.assert_array_equal(FOUND.prediction, fit.prediction)
    assert FOUND.attrs["rows"] == len(PREFIXES) == 3 + 9 + 27 + 81
    assert float(FOUND.cutoff) == fit.cutoff
    assert float(FOUND.cutoff) in CUTOFFS
    np.testing.assert_array_equal(FOUND.prediction.prefix, PREFIXES.beliefs.prefix)


def test_scores_are_those_of_the_prediction():
    Y, guess, w = PREFIXES.beliefs.values, FOUND.prediction.values, PREFIXES.weights / PREFIXES.weights.sum()
    error = (Y - guess) ** 2
    assert float(FOUND.mse) == pytest.approx((w @ error).mean())
    assert float(FOUND.rmse) ** 2 == pytest.approx(float(FOUND.mse))
    assert float(FOUND.r2) == pytest.approx(1 - (w @ error).sum() / (w @ (Y - w @ Y) ** 2).sum())
    unit = [X / np.linalg.norm(X, axis=1, keepdims=True) for X in (Y, guess)]
    pairs = np.array(list(combinations(range(len(Y)), 2)))
    cosines = np.array([(X[pairs[:, 0]] * X[pairs[:, 1]]).sum(1) for X in unit])
    assert float(FOUND.cosine_r2) == pytest.approx(np.corrcoef(cosines)[0, 1] ** 2)
    covariance = np.cov(cosines, aweights=w[pairs].prod(1))
    expected = covariance[0, 1] ** 2 / covariance[0, 0] / covariance[1, 1]
    assert float(FOUND.weighted_cosine_r2) == pytest.approx(expected)


def test_it_says_that_it_is_in_sample_and_how_much_that_flatters():
    noise = np.random.default_rng(0).standard_normal((len(PREFIXES), 60))
    found = truncated_fit(standing_for(noise), PREFIXES)
    Y, w = PREFIXES.beliefs.values, PREFIXES.weights / PREFIXES.weights.sum()
    spread = (w @ (Y - w @ Y) ** 2).mean()
    assert found.attrs["in_sample"] is True
    assert float(found.r2) > 0.3
    assert float(found.held_out_mse) > spread > 1.3 * float(found.mse)


def test_activations_that_are_the_belief_turned_are_read_without_error():
    turned = PREFIXES.beliefs.values @ np.random.default_rng(1).standard_normal((3, 7)) + 2.0
    found = truncated_fit(standing_for(turned), PREFIXES)
    assert float(found.r2) == pytest.approx(1.0)
    assert float(found.cosine_r2) == pytest.approx(1.0)


def test_any_labelled_target_is_read_and_of_a_constant_component_no_r2_is_made():
    process = bloch_walk()
    prefixes = Prefixes.of(process, 3)
    model = Transformer(TransformerConfig(n_tokens=4, n_layers=1, d_model=8, n_ctx=3))
    whole, part = (quantum2025(model, prefixes, targets) for targets in (None, prefixes.beliefs[:, 1:] + 2.0))
    np.testing.assert_allclose(whole.prediction[:, 0], 1.0, atol=1e-6)
    assert float(whole.r2) == pytest.approx(float(part.r2), abs=1e-6)
    assert float(whole.mse) == pytest.approx(float(part.mse) * 2 / 3, rel=1e-6)


def test_of_many_rows_the_cosines_are_between_some(monkeypatch):
    assert FOUND.attrs["cosines"] == f"between {len(PREFIXES)} of {len(PREFIXES)} prefixes"
    monkeypatch.setattr(question, "COSINE_ROWS", 60)
    one, again, other = (quantum2025(MODEL, PREFIXES, seed=seed) for seed in (0, 0, 1))
    assert float(one.cosine_r2) == float(again.cosine_r2) != float(other.cosine_r2)
    assert float(one.cosine_r2) != float(FOUND.cosine_r2)
    assert float(one.cosine_r2) == pytest.approx(float(FOUND.cosine_r2), abs=0.15)
    assert one.attrs["cosines"] == f"between 60 of {len(PREFIXES)} prefixes"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": Prefixes.of(golden_mean(), 4).beliefs}, "counterpart|labels|align"),
        ({"sites": ["blocks.5.resid_post"]}, "'blocks.5.resid_post' is not one of"),
        ({"sites": "blocks.0.resid_post"}, "must be a list of names"),
        ({"prefixes": Prefixes.of(mess3(), 1)}, "n_splits=10 needs as many"),
        ({"targets": PREFIXES.beliefs * 0.0}, "truth has a row of length 0"),
    ],
)
def test_what_cannot_be_read_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        quantum2025(MODEL, **({"prefixes": PREFIXES} | change))
