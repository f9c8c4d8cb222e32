"""Policy gradients: what was sampled, what it was worth, and the loss that makes the better likelier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel

#: Added to the spread of a group's rewards, as in TRL and the code of DeepSeekMath.
LEAST_SPREAD = 1e-4


@dataclass(frozen=True, eq=False)
class SampledBatch(Batch):
    """A batch whose answers were sampled. Weights say how much a token counts, and are never negative.

    A signed weight could carry an advantage, but neither clipping nor a penalty that counts where the
    advantage is 0; so advantages have a field of their own.

    Parameters
    ----------
    advantage : Float[Tensor, "batch time"]
        What saying ``targets[b, t]`` was worth, beyond what was to be expected.
    log_prob : Float[Tensor, "batch time"]
        Of saying it, in nats, under the law that it was drawn from.
    temperature : Float[Tensor, "batch time"], optional
        At which it was drawn, from ``p^(1/temperature)``; 1 if None. It is that law whose gradient is taken.

    Raises
    ------
    ValueError
        If shapes differ, an advantage is not finite, or a temperature not above 0; also as a batch does.
    """

    advantage: Float[Tensor, "batch time"] | None = None
    log_prob: Float[Tensor, "batch time"] | None = None
    temperature: Float[Tensor, "batch time"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("advantage", "log_prob"):
            value = getattr(self, name)
            if value is None or value.shape != self.tokens.shape:
                given = None if value is None else tuple(value.shape)
                raise ValueError(
                    f"{name} has shape {given}; tokens has {tuple(self.tokens.shape)}, and they must agree"
                )
        if not self.advantage.isfinite().all():
            raise ValueError("advantage holds a value that is not finite")
        if (self.weights < 0).any():
            raise ValueError("weights hold a negative one; what was worth less than expected says so in advantage")
        if self.temperature is not None and not (self.temperature > 0).all():
            raise ValueError(f"temperature={float(self.temperature.min())} must be above 0 where a token was drawn")


class PolicyGradient:
    """``-min(ρ A, clip(ρ, 1 - clip, 1 + clip) A) + penalty · kl`` at every position.

    ``ρ = p(token) / p_when_said(token)``, so that right after sampling ρ is 1 and the gradient is that of
    ``-A log p``: REINFORCE, and GRPO with its advantages (Shao et al. 2024, arXiv:2402.03300, Eq 3). ``kl`` is
    the estimate ``q/p - log(q/p) - 1`` for the law ``q`` of ``reference``, never negative, of mean KL(p ‖ q).

    Parameters
    ----------
    clip : float, optional
        None for no clipping.
    penalty : float, default=0
    reference : Kernel, optional
        Needed with a penalty; constant.

    Raises
    ------
    ValueError
        If a number is out of range, or the reference is missing.
    """

    def __init__(self, *, clip: float | None = None, penalty: float = 0.0, reference: Kernel | None = None) -> None:
        if clip is not None and not 0 < clip < 1:
            raise ValueError(f"clip={clip!r} must lie between 0 and 1, or be None for no clipping")
        at_least("penalty", penalty, 0)
        if penalty and reference is None:
            raise ValueError(f"penalty={penalty!r} needs the reference that it keeps the model near to")
        self.clip, self.penalty, self.reference = clip, penalty, reference

    def __call__(self, model: Kernel, batch: Batch) -> Float[Tensor, "batch time"]:
        """What each position costs; not in nats.

        Raises
        ------
        ValueError
            If the batch was not sampled: it has no advantages.
        """
        if not isinstance(batch, SampledBatch):
            raise ValueError(
                f"batch is a {type(batch).__name__}; a policy gradient needs a SampledBatch, with advantages"
            )
        said = log_prob_of(model, batch, batch.temperature)
        ratio = (said - batch.log_prob).exp()
        gain = ratio * batch.advantage
        if self.clip is not None:
            gain = torch.minimum(gain, ratio.clamp(1 - self.clip, 1 + self.clip) * batch.advantage)
        if not self.penalty:
            return -gain
        with torch.no_grad():
            likelier = log_prob_of(self.reference, batch, batch.temperature)
        return -gain + self.penalty * ((likelier - said).exp() - (likelier - said) - 1)


def log_prob_of(
    model: Kernel, batch: Batch, temperature: Float[Tensor, "batch time"] | None = None
) -> Float[Tensor, "batch time"]:
    """Of every target, in nats; with a temperature, under ``p^(1/temperature)``."""
    laws = model.log_probs(batch)
    if temperature is not None:
        laws = (laws / temperature[..., None]).log_softmax(-1)
    return laws.gather(-1, batch.targets[..., None])[..., 0]


def group_advantages(rewards: Float[Tensor, "prompt group"], *, spread: bool = True) -> Float[Tensor, "prompt group"]:
    """``(r - mean) / (standard deviation + 1e-4)`` over the answers to one prompt (GRPO); they sum to 0.

    Where all answers are worth the same, nothing is learnt. Without ``spread``, ``r - mean`` (Dr. GRPO,
    arXiv:2503.20783).

    Raises
    ------
    ValueError
        If a reward is not finite, or groups hold one answer, which is always worth what was to be expected.
    """
    refuse_not_finite(rewards)
    if rewards.shape[1] < 2:
        raise ValueError(f"group={rewards.shape[1]} compares nothing; a group needs at least 2 answers")
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + LEAST_SPREAD) if spread else centred


def baseline_advantages(rewards: Float[Tensor, "prompt group"]) -> Float[Tensor, "prompt group"]:
    """``r`` less the mean of all the other rewards of the batch (REINFORCE with a leave-one-out baseline).

    Raises
    ------
    ValueError
        If a reward is not finite, or there is only one.
    """
    refuse_not_finite(rewards)
    n = rewards.numel()
    if n < 2:
        raise ValueError("rewards hold one value; a baseline needs another")
    return (rewards - rewards.mean()) * (n / (n - 1))


def refuse_not_finite(rewards: Float[Tensor, ...]) -> None:
    """Raise if a reward is NaN or infinite.

    Raises
    ------
    ValueError
        Saying how many are.
    """
    bad = int((~rewards.isfinite()).sum())
    if bad:
        raise ValueError(f"the reward is not finite for {bad} of {rewards.numel()} answers; it must be a number")


def token_weights(asked: Bool[Tensor, "batch time"], by: str = "sequence") -> Float[Tensor, "batch time"]:
    """How much each token of the answers counts: every answer alike (GRPO), or every ``"token"`` alike (BNPO).

    They sum to 1, or to 0 if nothing was said.
    """
    counted = asked.float()
    if by == "token":
        return counted / counted.sum().clamp(min=1)
    spoken = counted.sum(1, keepdim=True)
    return counted / spoken.clamp(min=1) / (spoken > 0).sum().clamp(min=1)
