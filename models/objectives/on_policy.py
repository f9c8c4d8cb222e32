"""Sources for ``train`` that sample from the model being trained: for policy gradients, and for STaR."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.decoding import complete
from nextlens.models.kernel import Kernel
from nextlens.models.objectives.policy_gradient import (
    SampledBatch,
    group_advantages,
    log_prob_of,
    refuse_not_finite,
    token_weights,
)

#: Judgements of answers -> what each is worth.
Reward = Callable[[xr.Dataset], Float[np.ndarray, " sequence"]]


@runtime_checkable
class Judging(Protocol):
    """A task that asks, and judges whatever is answered.

    Attributes
    ----------
    longest_answer : int
        Tokens that an answer may have, its end among them.
    end : int
        The token that ends an answer.
    """

    @property
    def longest_answer(self) -> int: ...

    @property
    def end(self) -> int: ...

    def prompts(self, n_sequences: int, rng: np.random.Generator) -> Int[np.ndarray, "sequence prompt"]: ...

    def judged(
        self, prompts: Int[np.ndarray, "sequence prompt"], said: Int[np.ndarray, "sequence new"]
    ) -> xr.Dataset: ...


def last_is_right(judged: xr.Dataset) -> Float[np.ndarray, " sequence"]:
    """1 where the last token before the end is right, whatever led there."""
    return judged.last_is_right.values.astype(np.float64)


def chain_is_right(judged: xr.Dataset) -> Float[np.ndarray, " sequence"]:
    """1 where the whole answer is one that the task may say."""
    return judged.chain_is_right.values.astype(np.float64)


@dataclass(frozen=True, eq=False)
class Answers:
    """Prompts, what a model said to them, and the judgement.

    Attributes
    ----------
    prompts : Int[Tensor, "sequence prompt"]
    said : Int[Tensor, "sequence new"]
    judged : xr.Dataset
    """

    prompts: Int[Tensor, "sequence prompt"]
    said: Int[Tensor, "sequence new"]
    judged: xr.Dataset

    def batch(self, end: int, rows: Bool[Tensor, " sequence"] | None = None) -> Batch:
        """The answers as a sample, up to their ends: prompts weigh 0, tokens of an answer 1."""
        prompts, said = (x if rows is None else x[rows] for x in (self.prompts, self.said))
        before = torch.cat([torch.zeros_like(said[:, :1], dtype=torch.bool), (said == end)[:, :-1]], dim=1)
        spoken = before.cumsum(1) == 0
        batch = Batch.from_tokens(torch.cat([prompts, said], dim=1))
        weights = torch.cat([torch.zeros_like(prompts[:, 1:], dtype=torch.bool), spoken], dim=1)
        return batch.with_(weights=weights.float())


def answers(
    model: Kernel,
    task: Judging,
    n_prompts: int,
    rng: np.random.Generator,
    *,
    group: int = 1,
    temperature: float = 1.0,
    device: str | torch.device | None = None,
) -> Answers:
    """Fresh prompts of ``task``, each answered ``group`` times by ``model``; answers to one stand together.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    at_least("n_prompts", n_prompts, 1)
    at_least("group", group, 1)
    prompts = np.repeat(task.prompts(n_prompts, rng), group, axis=0)
    asked = torch.from_numpy(prompts).to(device)
    said = complete(model, asked, task.longest_answer, temperature=temperature, rng=rng, end=task.end)
    return Answers(asked, said, task.judged(prompts, said.cpu().numpy()))


class OnPolicy:
    """Batches of answers by the model as it is just then, with their advantages: without end.

    Parameters
    ----------
    model : Kernel
        The one that ``train`` trains, in place.
    task : Judging
    rng : Generator
    reward : callable, default=last_is_right
    n_prompts, group : int, default=32, 8
        A batch has ``n_prompts * group`` answers.
    temperature : float, default=1
        At which answers are drawn; the gradient is that of the law at this temperature.
    advantages : callable, default=group_advantages
        Rewards (prompt, group) -> advantages; or ``baseline_advantages``.
    by : {"sequence", "token"}
        See :func:`~nextlens.models.objectives.policy_gradient.token_weights`.

    Attributes
    ----------
    last : Answers
        What the last batch was made of.
    """

    def __init__(
        self,
        model: Kernel,
        task: Judging,
        rng: np.random.Generator,
        *,
        reward: Reward = last_is_right,
        n_prompts: int = 32,
        group: int = 8,
        temperature: float = 1.0,
        advantages: Callable[[Float[Tensor, "prompt group"]], Float[Tensor, "prompt group"]] = group_advantages,
        by: str = "sequence",
    ) -> None:
        self.model, self.task, self.rng = model, task, rng
        self.reward, self.advantages, self.by = reward, advantages, by
        self.n_prompts, self.group, self.temperature = n_prompts, group, temperature
        self.last: Answers | None = None

    def __iter__(self) -> Iterator[SampledBatch]:
        return self

    def __next__(self) -> SampledBatch:
        device = getattr(self.model, "device", None)
        self.last = answers(
            self.model,
            self.task,
            self.n_prompts,
            self.rng,
            group=self.group,
            temperature=self.temperature,
            device=device,
        )
        rewards = torch.from_numpy(np.asarray(self.reward(self.last.judged), dtype=np.float64)).float()
        advantage = self.advantages(rewards.view(self.n_prompts, self.group)).flatten().to(device)
        batch = self.last.batch(self.task.end)
        drawn_at = None if self.temperature == 1 else torch.full_like(batch.weights, self.temperature)
        with torch.no_grad():
            said = log_prob_of(self.model, batch, drawn_at)
        return SampledBatch(
            batch.tokens,
            batch.targets,
            token_weights(batch.weights > 0, self.by),
            batch.positions,
            advantage=advantage[:, None].expand(batch.tokens.shape).contiguous(),
            log_prob=said,
            temperature=drawn_at,
        )


class SelfTaught:
    """STaR: the model answers, its right answers are learnt as text, and so on round by round.

    Parameters
    ----------
    model : Kernel
        The one that ``train`` trains, in place.
    task : Judging
    rng : Generator
    rounds, n_samples, epochs, size : int
        In each of ``rounds``, ``n_samples`` answers are sampled, the right ones read ``epochs`` times in
        batches of ``size``.
    reward : callable, default=chain_is_right
        Above 0 keeps an answer.
    temperature : float, default=1

    Attributes
    ----------
    sampled, kept : list of float
        The share of long answers among all, and among those kept, by round.
    """

    def __init__(
        self,
        model: Kernel,
        task: Judging,
        rng: np.random.Generator,
        *,
        rounds: int,
        n_samples: int = 2048,
        epochs: int = 6,
        size: int = 256,
        reward: Reward = chain_is_right,
        temperature: float = 1.0,
    ) -> None:
        for name, number in {"rounds": rounds, "n_samples": n_samples, "epochs": epochs, "size": size}.items():
            at_least(name, number, 1)
        self.model, self.task, self.rng, self.reward = model, task, rng, reward
        self.rounds, self.n_samples, self.epochs, self.size = rounds, n_samples, epochs, size
        self.temperature = temperature
        self.sampled: list[float] = []
        self.kept: list[float] = []

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.rounds):
            right = self._round()
            for _ in range(self.epochs):
                order = torch.from_numpy(self.rng.permutation(len(right)))
                for rows in order.split(self.size):
                    yield _rows(right, rows)

    def _round(self) -> Batch:
        device = getattr(self.model, "device", None)
        found = answers(self.model, self.task, self.n_samples, self.rng, temperature=self.temperature, device=device)
        rewards = torch.from_numpy(np.asarray(self.reward(found.judged), dtype=np.float64))
        refuse_not_finite(rewards)
        keep = rewards > 0
        if not keep.any():
            raise ValueError(f"none of {self.n_samples} answers was right; there is nothing to learn from")
        is_long = torch.from_numpy(found.judged.is_long.values)
        self.sampled.append(float(is_long.float().mean()))
        self.kept.append(float(is_long[keep].float().mean()))
        return found.batch(self.task.end, keep.to(device))


def _rows(batch: Batch, rows: Int[Tensor, " row"]) -> Batch:
    at = rows.to(batch.device)
    return Batch(batch.tokens[at], batch.targets[at], batch.weights[at], batch.positions[at])
