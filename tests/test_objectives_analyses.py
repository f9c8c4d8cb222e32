from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import log_softmax

from nextlens.analyses.next_latent import (
    bayesian_updater,
    equivalent_histories,
    kl,
    kl_to_exact,
    latent_geometry,
    singular_values,
)
from nextlens.analyses.objectives_future import affine_laws, future_tokens
from nextlens.analyses.registers import _at_registers, ahead_beliefs, ahead_laws, register_horizon
from nextlens.models.batch import Batch
from nextlens.models.objectives.next_latent import NextLatent
from nextlens.models.processes import Process
from nextlens.models.processes.zoo import mess3
from nextlens.models.recording import beliefs, record
from nextlens.probes.geometry import effective_rank
from tests.belief_oracle import EMBED, FINAL, BayesDynamics, BeliefOracle

PROCESS = mess3(0.75, 0.1)
#: Hidden states that move round in a circle: the belief ahead is not the belief that is shrunk.
CLOCK = Process(
    np.einsum(
        "zr,sr->zsr",
        np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]),
        np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]),
    ),
    name="clock",
)


def words(process: Process, n: int = 64, length: int = 12) -> np.ndarray:
    return process.sample(n, length + 1, np.random.default_rng(0))


def recorded(process: Process, n: int = 64) -> tuple[xr.DataArray, xr.DataArray]:
    batch = Batch.from_tokens(words(process, n))
    return record(BeliefOracle(process), batch, [FINAL])[FINAL], beliefs(process, batch)


def test_a_model_that_says_the_exact_law_is_nothing_away_from_it():
    assert kl_to_exact(BeliefOracle(PROCESS), PROCESS, words(PROCESS)) == pytest.approx(0, abs=1e-12)


def test_a_law_is_as_far_as_the_textbook_says():
    exact, said = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert float(kl(exact, said)) == pytest.approx(0.5 * math.log(2))


def test_laws_ahead_are_those_of_all_ways_there():
    tokens = words(CLOCK, 3, 5)
    for d in (1, 2, 3):
        found = np.exp(ahead_laws(CLOCK, tokens, d))
        for row in range(3):
            law = np.zeros(3)
            for way in np.ndindex(*(3,) * d):
                vector = CLOCK.beliefs(tokens[row : row + 1, :4])[0, -1]
                for token in way:
                    vector = vector @ CLOCK.transition[token]
                law[way[-1]] += vector.sum()
            assert np.allclose(found[row, 3], law)


def test_states_that_are_beliefs_have_the_rank_and_the_r2_of_beliefs():
    found = latent_geometry(BeliefOracle(PROCESS), PROCESS, words(PROCESS), [EMBED, FINAL])
    assert found["r2"][1] == pytest.approx(1, abs=1e-6)
    assert found["r2"][0] < 0.95
    assert found["ranks"][1] == pytest.approx(
        effective_rank(singular_values(PROCESS.beliefs(words(PROCESS)[:, :-1]).reshape(-1, 3)))
    )
    assert sum(found["spectrum"]) == pytest.approx(1)


def test_rank_is_of_singular_values_and_not_of_variances():
    rows = np.diag([1.0, 1.0, 2.0]).repeat(2, axis=0)
    share = np.array([1.0, 1.0, 2.0]) / 4
    assert effective_rank(singular_values(rows)) == pytest.approx(np.exp(-share @ np.log(share)))


def test_equivalent_histories_lie_together_in_beliefs_and_not_in_the_tokens_read():
    states, truth = recorded(PROCESS, 128)
    found = equivalent_histories(states, truth, np.random.default_rng(0))
    assert found["ratio"] == pytest.approx(found["of_beliefs"])
    assert found["of_beliefs"] < 0.2
    noise = states.copy(data=np.random.default_rng(1).standard_normal(states.shape))
    assert equivalent_histories(noise, truth, np.random.default_rng(0))["ratio"] == pytest.approx(1, abs=0.05)


def test_equivalent_histories_do_not_agree_in_their_last_tokens():
    states, truth = recorded(PROCESS, 128)
    tokens = states.token.transpose("sequence", "position").values
    last = np.stack([np.roll(tokens, k, axis=1) for k in range(3)], axis=-1)
    told = states.copy(data=(last @ np.array([9, 3, 1]))[..., None] * np.ones(states.shape))
    exact = equivalent_histories(told, truth, np.random.default_rng(0))["ratio"]
    assert exact > 0.25, "pairs that agree in all of their last tokens would be 0 apart"


def bayes() -> NextLatent:
    objective = NextLatent(3, site=FINAL, embedding_site=EMBED)
    objective.dynamics = BayesDynamics(PROCESS)
    return objective


def test_bayes_rule_is_a_perfect_updater_at_every_length_and_a_still_state_is_none():
    found = bayesian_updater(BeliefOracle(PROCESS), bayes(), PROCESS, np.random.default_rng(0), length=8, longer=20)
    assert found.next_state == pytest.approx(1)
    assert found.one_step == pytest.approx(1, abs=2e-3)
    assert (found.rolled_out > 1 - 2e-3).all()
    assert (found.transformer > 1 - 2e-3).all()
    assert found.not_updated < 0.8
    assert found.wrong_token < 0.5
    assert (found.first_state < found.rolled_out - 0.2).all()
    assert found.sizes["position"] == 19


@pytest.mark.parametrize("process", [PROCESS, CLOCK], ids=["mess3", "clock"])
def test_registers_that_hear_their_position_say_the_law_of_its_offset(process):
    found = register_horizon(BeliefOracle(process), process, words(process), 3)
    away = found.kl.values
    assert np.allclose(np.diag(away), 0, atol=1e-10)
    assert (away[~np.eye(3, dtype=bool)] > 1e-4).all()
    assert np.allclose(found.r2, 1, atol=1e-5)
    assert (found.marginal > 0).all()


def test_states_of_registers_are_not_those_of_the_tokens_behind_which_they_stand():
    tokens = words(CLOCK)
    _, theirs = _at_registers(BeliefOracle(CLOCK), tokens, 2, 3)
    assert np.allclose(theirs, ahead_beliefs(CLOCK, tokens, 2)[:, : theirs.shape[1]])
    assert not np.allclose(theirs, CLOCK.beliefs(tokens)[:, : theirs.shape[1]], atol=0.1)


def test_registers_that_do_not_hear_it_say_the_same_whatever_they_claim():
    found = register_horizon(BeliefOracle(CLOCK, deaf=True), CLOCK, words(CLOCK), 3)
    assert np.allclose(found.kl, found.kl[0])
    assert np.diag(found.kl.values)[1:].min() > 1e-3


def test_the_belief_ahead_is_not_the_belief_where_states_move_round():
    tokens = words(CLOCK)
    now, later = (ahead_beliefs(CLOCK, tokens, d).reshape(-1, 3) for d in (1, 2))
    assert np.corrcoef(now.ravel(), later.ravel())[0, 1] < 0.5


def test_probes_of_the_belief_know_the_future_and_probes_of_noise_as_much_as_nobody():
    tokens = words(CLOCK, 200)
    found = future_tokens(BeliefOracle(CLOCK), CLOCK, tokens, [1, 2])
    for d in (1, 2):
        away = kl(torch.from_numpy(ahead_laws(CLOCK, tokens, d)), torch.full((3,), 1 / 3).double().log())
        assert found[d]["constant"] == pytest.approx(float(away[100:, : 13 - d].mean()), rel=0.02)
        assert found[d]["probe"] < 0.1 * found[d]["constant"]
    rng = np.random.default_rng(0)
    noise, laws = rng.standard_normal((3000, 3)), np.exp(ahead_laws(CLOCK, tokens, 1).reshape(-1, 3))[:2600]
    away = kl(
        torch.from_numpy(np.log(laws[1300:])),
        torch.from_numpy(affine_laws(noise[:1300], laws[:1300], noise[1300:2600])),
    )
    assert float(away.mean()) == pytest.approx(found[1]["constant"], rel=0.05)
    with pytest.raises(ValueError, match="offset=13 must lie between 1 and 12"):
        future_tokens(BeliefOracle(CLOCK), CLOCK, tokens, [13])


def test_affine_laws_are_found_exactly_where_there_are_any_whatever_the_scale_of_a_direction():
    rng = np.random.default_rng(1)
    z = rng.standard_normal((400, 4))
    X, truth = z * np.array([30.0, 1.0, 1e-2, 1e-9]) + 5, log_softmax(z[:, :3] @ rng.standard_normal((3, 3)), axis=1)
    assert np.allclose(affine_laws(X[:200], np.exp(truth[:200]), X[200:]), truth[200:], atol=1e-3)
