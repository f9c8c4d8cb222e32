from __future__ import annotations

import numpy as np
import pytest

from nextlens.analyses.parity_reinforcement import measured, what_changed
from nextlens.models.tasks.parity import Parity, Stepwise, probability_of_stopping
from nextlens.models.transformer import Transformer, TransformerConfig


def test_the_best_stepwise_predictor_is_measured_as_the_theory_says():
    task = Parity(n_bits=6, p_chain=0.25)
    found = measured(Stepwise(task), task, np.random.default_rng(0), n_prompts=4000)
    assert float(found.greedy_length) == 1
    assert float(found.greedy_accuracy) == pytest.approx(0.5, abs=0.03)
    assert float(found.sampled_long) == pytest.approx(0.25, abs=0.03)
    assert float(found.accuracy_long) == 1
    assert float(found.accuracy_short) == pytest.approx(0.5, abs=0.03)
    assert float(found.stop) == pytest.approx(probability_of_stopping(0.25))


def test_above_a_third_greedy_answers_are_chains_and_right():
    task = Parity(n_bits=6, p_chain=0.4)
    found = measured(Stepwise(task), task, np.random.default_rng(0), n_prompts=200)
    assert (float(found.greedy_accuracy), float(found.greedy_length)) == (1, 6)


def test_where_no_answer_is_long_nothing_is_said_of_long_ones():
    task = Parity(n_bits=6, p_chain=0.0)
    assert np.isnan(float(measured(Stepwise(task), task, np.random.default_rng(0), n_prompts=50).accuracy_long))


def test_what_changed_is_nothing_between_a_model_and_itself_and_something_between_two():
    task = Parity(n_bits=4)
    config = TransformerConfig(n_tokens=4, n_layers=2, n_heads=2, d_model=16, n_ctx=10, seed=1)
    one, other = Transformer(config), Transformer(config).untrained(seed=2)
    same = what_changed(one, one, task, np.random.default_rng(0), n=400)
    assert float(same.weights) == 0
    assert (same.state.values == 0).all()
    assert (same.next_parity.sel(model="before").values == same.next_parity.sel(model="after").values).all()
    moved = what_changed(one, other, task, np.random.default_rng(0), n=400)
    assert float(moved.weights) > 0.5
    assert (moved.state.values > 0.1).all()
    assert moved.next_parity.dims == ("model", "layer", "place")


def test_a_parity_that_the_last_token_and_the_next_bit_give_is_read_where_both_are_read():
    """Of two bits, at the first place of the chain the parity said is the bit itself: the state must hold it."""
    task = Parity(n_bits=2)
    config = TransformerConfig(n_tokens=4, n_layers=1, n_heads=2, d_model=32, n_ctx=6, seed=1)
    model = Transformer(config)
    found = what_changed(model, model, task, np.random.default_rng(0), n=800)
    assert float(found.next_parity.sel(model="before", layer=0, place=0)) > 0.95
