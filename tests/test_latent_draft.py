from __future__ import annotations

import numpy as np
import pytest
import torch

from nextlens.analyses import next_latent
from nextlens.analyses.next_latent import drafted
from nextlens.models.batch import Batch
from nextlens.models.decoding import complete
from nextlens.models.induction.speculative import speculate
from nextlens.models.objectives.latent_draft import LatentDraft
from nextlens.models.objectives.next_latent import NextLatent
from nextlens.models.processes.zoo import zero_one_random
from nextlens.models.training import train
from nextlens.models.transformer import Transformer, TransformerConfig

PROMPT = np.array([0, 1, 1, 0])


@pytest.fixture(scope="module")
def trained() -> tuple[Transformer, NextLatent]:
    model = Transformer(TransformerConfig(n_tokens=2, n_layers=1, d_model=16, n_ctx=32, positions="rotary"))
    objective = NextLatent(16)
    words = zero_one_random().batches(64, 11, np.random.default_rng(0), tree=False)
    for _ in train(model, words, steps=150, objective=objective):
        pass
    return model, objective


@torch.no_grad()
def by_hand(model: Transformer, objective: NextLatent, tokens: np.ndarray, anchor: int) -> np.ndarray:
    """The law after ``tokens``, rolled out from the model's state behind the first ``anchor`` of them."""
    batch = Batch.from_tokens(np.append(tokens, 0)[None])
    with model.watched(objective.site, objective.embedding_site) as seen:
        model(batch)
    h, e = seen[objective.site][0, anchor - 1], seen[objective.embedding_site][0]
    for t in range(anchor, len(tokens)):
        h = objective.dynamics(h, e[t])
    return (h @ model.unembedding).double().softmax(-1).numpy()


def law(draft: LatentDraft, tokens: np.ndarray) -> np.ndarray:
    return draft.votes(tokens, np.array([len(tokens) - 1])).probabilities(2)[0]


def test_laws_are_rolled_out_from_the_last_state_that_the_model_has_said(trained):
    draft, tokens = LatentDraft(*trained, ahead=3), PROMPT
    for step in range(3):
        assert np.allclose(law(draft, tokens), by_hand(*trained, tokens, anchor=3), atol=1e-6), step
        tokens = np.append(tokens, step % 2)
    assert np.allclose(law(draft, tokens), by_hand(*trained, tokens, anchor=len(tokens) - 1), atol=1e-6)


def test_another_text_is_read_anew(trained):
    draft = LatentDraft(*trained, ahead=5)
    law(draft, PROMPT)
    other = np.array([1, 1, 0, 0, 1])
    assert np.allclose(law(draft, other), by_hand(*trained, other, anchor=4), atol=1e-6)


def test_every_call_of_the_model_is_counted_and_a_round_costs_one(trained):
    model, objective = trained
    draft, seen = LatentDraft(model, objective, ahead=3), []
    rng = np.random.default_rng(0)
    with model.edited("ln_final.normalized", lambda value: seen.append(tuple(value.shape[:2]))):
        rounds = list(speculate(draft.target, draft, PROMPT, length=20, ahead=3, rng=rng))
    assert draft.calls == len(seen) == len(rounds) + 2, "one for the prompt, one for both embeddings"
    assert {n for n, _ in seen} == {1}
    for each in ({}, {"target": model}):
        draft, rng = LatentDraft(model, objective, ahead=3), np.random.default_rng(0)
        again = list(speculate(each.get("target", draft.target), draft, PROMPT, length=20, ahead=3, rng=rng))
        assert [one.tokens for one in again] == [one.tokens for one in rounds]


def test_laws_are_those_of_states_that_were_kept_while_the_text_was_judged(trained):
    draft = LatentDraft(*trained, ahead=3)
    tokens = np.array([0, 1, 1, 0, 0, 1, 0])
    draft.target.log_probs(Batch.from_tokens(np.append(tokens, 0)[None]))
    assert np.allclose(law(draft, tokens[:5]), by_hand(*trained, tokens[:5], anchor=4), atol=1e-6)
    assert draft.calls == 2
    other = np.array([0, 1, 0, 0, 0])
    assert np.allclose(law(draft, other), by_hand(*trained, other, anchor=4), atol=1e-6)
    assert draft.calls == 3


def test_what_is_written_greedily_is_the_models_own_text(trained):
    model, objective = trained
    greedy = complete(model, torch.from_numpy(PROMPT[None]), 20)[0].tolist()
    rounds = list(
        speculate(
            model,
            LatentDraft(model, objective, ahead=3),
            PROMPT,
            length=20,
            ahead=3,
            temperature=0.0,
            rng=np.random.default_rng(0),
        )
    )
    assert [token for each in rounds for token in each.tokens] == greedy


def test_a_trained_dynamics_is_accepted_more_often_than_one_at_birth(trained, monkeypatch):
    monkeypatch.setattr(next_latent, "TEXTS", 2)
    found = drafted(*trained, zero_one_random(), np.random.default_rng(1), length=32, ahead=3)
    assert found["accepted"] > max(0.8, found["at_birth"] + 0.01)
    assert 2 < found["tokens_per_call"] <= 4


def test_what_it_cannot_say_is_refused(trained):
    draft = LatentDraft(*trained)
    with pytest.raises(ValueError, match="votes for what follows the whole"):
        draft.votes(PROMPT)
    with pytest.raises(ValueError, match="the number of tokens=1 must be at least 2"):
        law(draft, PROMPT[:1])
    with pytest.raises(ValueError, match="points to no place"):
        draft.places(PROMPT)
    with pytest.raises(ValueError, match="ahead=0 must be at least 1"):
        LatentDraft(*trained, ahead=0)
