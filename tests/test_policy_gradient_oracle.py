"""Losses and gradients of policies beside TRL's, on fixed batches; skipped where TRL is not installed."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from nextlens.models.objectives.next_token import weighted_mean
from nextlens.models.objectives.on_policy import OnPolicy
from nextlens.models.objectives.policy_gradient import PolicyGradient, log_prob_of, token_weights
from nextlens.models.tasks.parity import Parity
from nextlens.models.transformer import Transformer, TransformerConfig

TASK = Parity(n_bits=3)
PROMPT = TASK.n_bits + 1
CONFIG = TransformerConfig(n_tokens=4, n_layers=1, n_heads=2, d_model=16, n_ctx=12, seed=1)


@pytest.fixture(scope="module")
def sampled():
    """A batch said by one model, and another a step away, so that ratios are not 1."""
    model = Transformer(CONFIG)
    batch = next(OnPolicy(model, TASK, np.random.default_rng(0), n_prompts=4, group=4))
    other, generator = Transformer(CONFIG), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for mine in other.parameters():
            mine += 0.2 * torch.randn(mine.shape, generator=generator)
    return model, other, batch


def trainer_of(model, batch, **settings):
    """As much of a TRL trainer as its loss reads; log-probabilities are those of ``model``."""
    said = log_prob_of(model, batch)[:, PROMPT - 1 :]
    fake = MagicMock()
    fake._get_per_token_logps_and_entropies = lambda *_, **__: (said, torch.zeros_like(said), None)
    for name in ("gather", "gather_for_metrics"):
        setattr(fake.accelerator, name, lambda value: value)
    fake.accelerator.reduce = lambda value, reduction: value
    for name in ("aux_loss_enabled", "use_vllm", "_entropy_bonus_enabled"):
        setattr(fake, name, False)
    fake.top_entropy_quantile, fake.off_policy_mask_threshold = 1.0, None
    fake.importance_sampling_level, fake.current_gradient_accumulation_steps = "token", 1
    fake.epsilon_low = fake.epsilon_high = 0.2
    fake.beta, fake.loss_type = 0.0, "grpo"
    fake.args = SimpleNamespace(delta=None, use_bias_correction_kl=False)
    for name, value in settings.items():
        setattr(fake, name, value)
    return fake


def inputs_of(batch, reference=None) -> dict[str, torch.Tensor]:
    n, answer = len(batch), slice(PROMPT - 1, None)
    mask = (batch.weights[:, answer] > 0).long()
    inputs = {
        "prompt_ids": batch.tokens[:, :PROMPT],
        "prompt_mask": torch.ones(n, PROMPT, dtype=torch.long),
        "completion_ids": batch.targets[:, answer],
        "completion_mask": mask,
        "advantages": batch.advantage[:, 0],
        "old_per_token_logps": batch.log_prob[:, answer],
        "old_logps": (batch.log_prob[:, answer] * mask).sum(1),
    }
    if reference is not None:
        inputs["ref_per_token_logps"] = log_prob_of(reference, batch)[:, answer].detach()
    return inputs


def gradients(loss: torch.Tensor, model: Transformer) -> torch.Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize(
    ("penalty", "kind", "by"), [(0.0, "grpo", "sequence"), (0.1, "grpo", "sequence"), (0.0, "bnpo", "token")]
)
def test_the_loss_and_gradient_of_grpo_are_trls(sampled, penalty, kind, by):
    grpo = pytest.importorskip("trl.trainer.grpo_trainer", reason="TRL is not installed")
    first, other, batch = sampled
    fake = trainer_of(other, batch, beta=penalty, loss_type=kind)
    theirs = grpo.GRPOTrainer._compute_loss(fake, other, inputs_of(batch, first if penalty else None))
    objective = PolicyGradient(clip=0.2, penalty=penalty, reference=first if penalty else None)
    ours = weighted_mean(objective(other, batch), token_weights(batch.weights > 0, by))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradients(ours, other), gradients(theirs, other), atol=1e-6, rtol=1e-4)
    plain = weighted_mean(PolicyGradient()(other, batch), token_weights(batch.weights > 0, by))
    assert abs(float((plain - theirs).detach())) > 1e-4


def test_the_gradient_of_reinforce_is_trls(sampled):
    """TRL's RLOO weighs whole answers: the sum over their tokens, not the mean. Right after sampling ratios are 1."""
    rloo = pytest.importorskip("trl.trainer.rloo_trainer", reason="TRL is not installed")
    first, _, batch = sampled
    theirs = rloo.RLOOTrainer._compute_loss(trainer_of(first, batch), first, inputs_of(batch))
    ours = (PolicyGradient()(first, batch) * (batch.weights > 0)).sum(1).mean()
    torch.testing.assert_close(gradients(ours, first), gradients(theirs, first), atol=1e-6, rtol=1e-4)
