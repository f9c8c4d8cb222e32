"""Next-token training on parity, and then reinforcement: one seed, followed all the way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from nextlens.analyses.finished_training import finished
from nextlens.analyses.parity_recipe import REWARDS, ParityRecipe
from nextlens.analyses.parity_reinforcement import measured, steered, what_changed
from nextlens.models import checkpoints
from nextlens.models.objectives.on_policy import Judging, OnPolicy, SelfTaught, chain_is_right, last_is_right
from nextlens.models.objectives.policy_gradient import PolicyGradient
from nextlens.models.tasks.prompted import PromptedTask
from nextlens.models.training import train, warmup_cosine
from nextlens.models.transformer import Transformer

#: Moments at which next-token training is measured, and GRPO.
MOMENTS = 8
#: How far states are pushed along the direction of the mode, in differences of means.
PUSHES = (-2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
#: Which random numbers are for what, beside the seed.
DATA, POLICY, STAR, HOT, MEASURE, CHANGE = 1, 2, 3, 4, 8, 9

Trained = tuple[Transformer, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class ParitySeed:
    """What became of one seed.

    Attributes
    ----------
    pretraining, policy, early : xr.Dataset
        What :func:`~nextlens.analyses.parity_reinforcement.measured` finds, over ``step``: of next-token training,
        of GRPO after it, and of GRPO from its early moment.
    star, hot : xr.Dataset
        The same over ``round`` of STaR, with the shares of long answers among those ``sampled`` and ``kept`` in the
        round that follows; ``hot`` at a high temperature with the end rewarded.
    sweep : xr.Dataset
        The same after next-token training alone, over ``p_chain``.
    changed : xr.Dataset
        Of :func:`~nextlens.analyses.parity_reinforcement.what_changed` by GRPO.
    steering : xr.Dataset
        Of :func:`~nextlens.analyses.parity_reinforcement.steered`, over ``model``.
    cpu_seconds : dict
        By training.
    """

    pretraining: xr.Dataset
    policy: xr.Dataset
    early: xr.Dataset
    star: xr.Dataset
    hot: xr.Dataset
    sweep: xr.Dataset
    changed: xr.Dataset
    steering: xr.Dataset
    cpu_seconds: dict[str, float]


def steps_of(recipe: ParityRecipe) -> int:
    """Steps of all trainings of a seed but those of STaR, whose number is not known before."""
    return recipe.steps * len(recipe.shares) + 2 * recipe.steps_policy


def train_and_reinforce(
    recipe: ParityRecipe,
    seed: int,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
) -> ParitySeed:
    """Train on next tokens, go on from there in several ways, and train the sweep; each model is kept in ``folder``.

    Parameters
    ----------
    recipe : ParityRecipe
    seed : int
        Of first weights, data and samples.
    folder : Path
    resume : bool, default=False
        Take the trainings that are finished.
    device : str, default="cpu"
    report : callable, optional
        Told after every step of next-token training and of GRPO how many lie behind.

    Raises
    ------
    ValueError
        If ``resume`` finds a checkpoint of another recipe.
    """
    one = Followed(recipe, seed, folder, resume, device, report)
    task = recipe.task()
    before, learnt = one.kept("next-token", partial(pretrained, one, task, follow=True, early=recipe.early))
    early = checkpoints.load(_moment(one.place("next-token").parent, recipe.early), device=device)
    after, policy = one.kept("policy", partial(reinforced, one, copy.deepcopy(before), task))
    _, too_early = one.kept("early", partial(reinforced, one, early, task))
    _, star = one.kept("star", partial(self_taught, one, copy.deepcopy(before), task))
    _, hot = one.kept("hot", partial(self_taught, one, copy.deepcopy(before), task, hot=True))
    rows = {recipe.p_chain: learnt["rows"][-1]}
    for share in recipe.sweep:
        _, found = one.kept(f"share-{share}", partial(pretrained, one, recipe.task(share)))
        rows[share] = found["rows"][-1]
    changed = what_changed(before, after, task, np.random.default_rng([seed, CHANGE]))
    pushed = [steered(m, task, PUSHES, np.random.default_rng([seed, CHANGE])) for m in (before, after)]
    return ParitySeed(
        *(over("step", found["rows"]) for found in (learnt, policy, too_early)),
        *(over("round", found["rows"]).assign(shares_of_rounds(found)) for found in (star, hot)),
        over("p_chain", [{"p_chain": share, **rows[share]} for share in recipe.shares]).drop_vars("step"),
        changed,
        xr.concat(pushed, dim=xr.DataArray(["before", "after"], dims="model", name="model")),
        one.cpu,
    )


@dataclass
class Followed:
    """Where the trainings of a seed are kept, and how far they have come.

    The recipe says the sizes of each; its ``model(seed)`` is untrained.
    """

    recipe: Any
    seed: int
    folder: Path
    resume: bool
    device: str
    report: Callable[[int], None] | None
    done: int = 0
    cpu: dict[str, float] = field(default_factory=dict)

    def place(self, name: str) -> Path:
        return self.folder / f"{name}-seed-{self.seed}" / checkpoints.FILE_NAME

    def kept(self, name: str, make: Callable[[], Trained]) -> Trained:
        behind = self.done
        made_by = {**replace(self.recipe, seeds=(self.seed,)).as_json(), "training": name}
        model, notes = finished(self.place(name), made_by, make, resume=self.resume, device=self.device)
        self.done, self.cpu[name] = behind + notes["steps"], notes["cpu"]
        self.tell()
        return model, notes

    def step(self) -> None:
        self.done += 1
        self.tell()

    def tell(self) -> None:
        if self.report is not None:
            self.report(self.done)

    def measured(self, model: Transformer, task: Judging, **at: int) -> dict[str, Any]:
        found = measured(model, task, np.random.default_rng([self.seed, MEASURE]))
        values = {str(name): float(value) for name, value in found.items()}
        return {**at, **{name: None if np.isnan(value) else value for name, value in values.items()}}


def pretrained(one: Followed, task: PromptedTask, *, follow: bool = False, early: int | None = None) -> Trained:
    """Next tokens alone: measured at the end, or followed; the weights of an early step are kept beside the last."""
    recipe, rows = one.recipe, []
    model = recipe.model(one.seed).to(one.device)
    wanted = {recipe.steps} if early is None else {recipe.steps, early}
    if follow:
        wanted |= set(np.geomspace(max(1, recipe.steps / 16), recipe.steps, MOMENTS).round().astype(int).tolist())
    stream = task.batches(recipe.batch_size, np.random.default_rng([one.seed, DATA]))
    schedule = warmup_cosine(recipe.steps, warmup=min(50, recipe.steps // 10))
    adam = partial(torch.optim.Adam, lr=recipe.learning_rate, fused=True)
    for step in train(model, stream, steps=recipe.steps, optimiser=adam, schedule=schedule, clip=1.0):
        one.step()
        if step.index + 1 in wanted:
            rows.append(one.measured(model, task, step=step.index + 1))
        if step.index + 1 == early:
            checkpoints.save(_moment(one.place("next-token").parent, early), model)
    return model, {"rows": rows, "steps": recipe.steps}


def reinforced(one: Followed, model: Transformer, task: Judging) -> Trained:
    """GRPO."""
    recipe = one.recipe
    rows = [one.measured(model, task, step=0)]
    source = OnPolicy(
        model,
        task,
        np.random.default_rng([one.seed, POLICY]),
        reward=REWARDS[recipe.reward],
        n_prompts=recipe.n_prompts,
        group=recipe.group,
    )
    every = max(1, recipe.steps_policy // MOMENTS)
    adam = partial(torch.optim.Adam, lr=recipe.rate_policy, fused=True)
    for step in train(model, source, steps=recipe.steps_policy, objective=PolicyGradient(), optimiser=adam, clip=1.0):
        one.step()
        if (step.index + 1) % every == 0 or step.index + 1 == recipe.steps_policy:
            rows.append(one.measured(model, task, step=step.index + 1))
    return model, {"rows": rows, "steps": recipe.steps_policy}


def self_taught(one: Followed, model: Transformer, task: Judging, *, hot: bool = False) -> Trained:
    """STaR, round by round; hot, with the end rewarded instead of the chain."""
    recipe = one.recipe
    rows, shares = [one.measured(model, task, round=0)], []
    adam = partial(torch.optim.Adam, lr=recipe.rate_policy, fused=True)
    for number in range(recipe.rounds):
        source = SelfTaught(
            model,
            task,
            np.random.default_rng([one.seed, HOT if hot else STAR, number]),
            rounds=1,
            n_samples=recipe.n_samples,
            epochs=recipe.epochs,
            reward=last_is_right if hot else chain_is_right,
            temperature=recipe.hot if hot else 1.0,
        )
        for _ in train(model, source, optimiser=adam, clip=1.0):
            pass
        shares.append({"sampled": source.sampled[0], "kept": source.kept[0]})
        rows.append(one.measured(model, task, round=number + 1))
    return model, {"rows": rows, "shares": shares, "steps": 0}


def _moment(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.safetensors"


def over(dim: str, rows: list[dict[str, Any]]) -> xr.Dataset:
    """Rows of measures as a dataset over one of them."""
    names = [name for name in rows[0] if name != dim]
    values = {name: (dim, np.array([row[name] for row in rows], dtype=np.float64)) for name in names}
    return xr.Dataset(values, coords={dim: [row[dim] for row in rows]})


def shares_of_rounds(notes: dict[str, Any]) -> dict[str, tuple[str, list[float]]]:
    """By round, of the answers sampled after it; nothing is sampled after the last."""
    return {name: ("round", [*(row[name] for row in notes["shares"]), np.nan]) for name in ("sampled", "kept")}
