"""Over the number of bits and the share of answers that go step by step: what is learnt, and what GRPO makes of it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from nextlens.analyses.displays import style
from nextlens.analyses.displays.heat_maps import HeatMapsDisplay
from nextlens.analyses.parity_recipe import ParityRecipe
from nextlens.analyses.parity_reinforcement import measured
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.analyses.results_folder import NUMBERS, begin, versions, write_json
from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel
from nextlens.models.linear_chain import LinearChain
from nextlens.models.objectives.on_policy import OnPolicy
from nextlens.models.objectives.policy_gradient import PolicyGradient, log_prob_of
from nextlens.models.tasks.parity import Parity, Stepwise, probability_of_stopping
from nextlens.models.training import over_seeds, train, warmup_cosine

#: Learning rates of next-token training and of GRPO: the theory's model by SGD, transformers by Adam.
RATES = {"linear": (1.0, 1.0), "transformer": (2e-3, 3e-4)}
MEASURES = ("greedy_accuracy", "greedy_length", "sampled_long", "accuracy_long", "stop")
#: Which random numbers are for what, beside the seed.
DATA, POLICY, MEASURE = 1, 2, 8
#: Prompts on which a model is measured.
N_PROMPTS = 512


@dataclass(frozen=True)
class PhasesRecipe(WrittenRecipe):
    """All that decides the numbers of a run, and nothing else: JSON-able, compared by value.

    One model for each number of bits, share of long answers and seed is trained on next tokens, and goes on by GRPO,
    the end rewarded.

    Parameters
    ----------
    model : {"linear", "transformer"}
        :class:`~nextlens.models.linear_chain.LinearChain`, or the transformer of
        :class:`~nextlens.analyses.parity_recipe.ParityRecipe`.
    bits : tuple of int
    shares : tuple of float
        Of long answers; 0 among them is the control.
    steps, batch_size : int
        Of next-token training on fresh data; the rate falls along half a cosine to 0.
    steps_policy, n_prompts, group : int
        Of GRPO: steps, prompts of a batch, answers to each.
    seeds : tuple of int

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    model: str = "linear"
    bits: tuple[int, ...] = (4, 8, 16, 24)
    shares: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    steps: int = 600
    batch_size: int = 128
    steps_policy: int = 80
    n_prompts: int = 32
    group: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        one_of("model", self.model, tuple(RATES))
        for name, minimum in (("steps", 2), ("batch_size", 1), ("steps_policy", 1), ("n_prompts", 1), ("group", 2)):
            at_least(name, getattr(self, name), minimum)
        for name in ("bits", "shares", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={values!r} must hold at least one, each once")
        for bits in self.bits:
            at_least("bits", bits, 2)
        for share in self.shares:
            between("shares", share, 0, 1)
        at_least("seeds", min(self.seeds), 0)

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating("nextlens parity-phases", self, PhasesRecipe)


@dataclass(frozen=True)
class Phase:
    """One model, before and after GRPO.

    Attributes
    ----------
    before, after : dict
        What :func:`~nextlens.analyses.parity_reinforcement.measured` finds; None where there is nothing to measure.
    cpu_seconds : float
        Of both trainings, and of measuring.
    """

    before: dict[str, float | None]
    after: dict[str, float | None]
    cpu_seconds: float


def run(
    recipe: PhasesRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train every model and reinforce it; write ``phases`` as PNG, PDF and SVG, and ``numbers.json``.

    Parameters
    ----------
    recipe : PhasesRecipe
    folder : path
        Made if need be; results of a finished run of the same recipe in it are replaced.
    resume : bool, default=False
        Nothing is kept of an unfinished run: it begins anew.
    device : str, default="cpu"
    n_jobs : int, optional
        Models at once; as many as there are processors if None.
    progress : bool, default=False
        Models are too small for a bar.

    Returns
    -------
    dict
        What is written as ``numbers.json``.

    Raises
    ------
    OSError
        If nothing can be written into ``folder``; before any work is done.
    ValueError
        If ``folder`` holds what would be lost, or cannot be gone on with.
    """
    place = begin(folder, recipe.as_json(), resume=resume)
    wanted = [(bits, share, seed) for bits in recipe.bits for share in recipe.shares for seed in recipe.seeds]
    job = partial(_one, wanted=wanted, recipe=recipe, device=device)
    results = dict(zip(wanted, over_seeds(job, range(len(wanted)), n_jobs=n_jobs), strict=True))
    numbers = sum_up(recipe, results)
    figure = phases_display(recipe, numbers).plot().figure_
    style.save(figure, place / "phases")
    plt.close(figure)
    write_json(place / NUMBERS, numbers)
    return numbers


def _one(number: int, *, wanted: Sequence[tuple[int, float, int]], recipe: PhasesRecipe, device: str) -> Phase:
    return phase(recipe, *wanted[number], device=device)


def phase(recipe: PhasesRecipe, n_bits: int, share: float, seed: int, *, device: str = "cpu") -> Phase:
    """One model, trained on next tokens and then by GRPO.

    Parameters
    ----------
    recipe : PhasesRecipe
    n_bits : int
    share : float
        Of long answers.
    seed : int
        Of first weights, data and samples.
    device : str, default="cpu"
    """
    started = time.process_time()
    task, (rate, rate_policy) = Parity(n_bits, share), RATES[recipe.model]
    if recipe.model == "linear":
        model: nn.Module = LinearChain(task)
        optimiser = partial(torch.optim.SGD, momentum=0.9)
    else:
        model = ParityRecipe(n_bits=n_bits, p_chain=share, sweep=()).model(seed)
        optimiser = partial(torch.optim.Adam, fused=True)
    model.to(device)
    learnt = train(
        model,
        task.batches(recipe.batch_size, np.random.default_rng([seed, DATA])),
        steps=recipe.steps,
        objective=said,
        optimiser=partial(optimiser, lr=rate),
        schedule=warmup_cosine(recipe.steps, warmup=min(50, recipe.steps // 10)),
        clip=1.0,
    )
    for _ in learnt:
        pass
    before = _measured(model, task, seed)
    source = OnPolicy(
        model, task, np.random.default_rng([seed, POLICY]), n_prompts=recipe.n_prompts, group=recipe.group
    )
    adapted = partial(torch.optim.SGD if recipe.model == "linear" else optimiser, lr=rate_policy)
    steps = recipe.steps_policy
    for _ in train(model, source, steps=steps, objective=PolicyGradient(), optimiser=adapted, clip=1.0):
        pass
    return Phase(before, _measured(model, task, seed), time.process_time() - started)


def said(model: Kernel, batch: Batch) -> Float[Tensor, "batch time"]:
    """The next-token loss of any kernel, in nats."""
    return -log_prob_of(model, batch)


def _measured(model: Kernel, task: Parity, seed: int) -> dict[str, float | None]:
    found = measured(model, task, np.random.default_rng([seed, MEASURE]), N_PROMPTS)
    return {name: None if math.isnan(float(found[name])) else float(found[name]) for name in MEASURES}


def sum_up(recipe: PhasesRecipe, results: Mapping[tuple[int, float, int], Phase]) -> dict[str, Any]:
    """Every number, all seeds by themselves, beside the best stepwise predictor."""
    return {
        "protocol": f"{N_PROMPTS} fresh prompts, greedy; a row a number of bits, a column a share of long answers, in "
        "each the seeds; exact: the best predictor for which a short answer is a fair coin",
        "bits": list(recipe.bits),
        "shares": list(recipe.shares),
        **{
            moment: {
                name: [
                    [[getattr(results[bits, share, seed], moment)[name] for seed in recipe.seeds]
                     for share in recipe.shares]
                    for bits in recipe.bits
                ]
                for name in MEASURES
            }
            for moment in ("before", "after")
        },
        "exact": {
            "greedy_accuracy": [
                [_measured(Stepwise(Parity(bits, share)), Parity(bits, share), 0)["greedy_accuracy"]
                 for share in recipe.shares]
                for bits in recipe.bits
            ],
            "stop": [probability_of_stopping(share) for share in recipe.shares],
        },
        "cpu_seconds": round(sum(one.cpu_seconds for one in results.values()), 1),
        "seeds": list(recipe.seeds),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy"),
    }  # fmt: skip


def phases_display(recipe: PhasesRecipe, numbers: Mapping[str, Any]) -> HeatMapsDisplay:
    """Greedy accuracy, before and after GRPO; squares: where the best stepwise predictor's is 1."""
    before, after = "next tokens alone", f"then {recipe.steps_policy} steps of GRPO"
    exact = np.array(numbers["exact"]["greedy_accuracy"])
    return HeatMapsDisplay(
        maps={
            before: np.mean(numbers["before"]["greedy_accuracy"], axis=-1),
            after: np.mean(numbers["after"]["greedy_accuracy"], axis=-1),
        },
        marked={before: exact == 1, after: exact == 1},
        rows=[str(bits) for bits in recipe.bits],
        columns=[f"{share:g}" for share in recipe.shares],
        xlabel="share of long answers",
        ylabel="bits",
        quantity="greedy accuracy",
        caption=f"{NAMES[recipe.model]}; {_seeds(recipe)}. Squares: the best stepwise predictor is "
        "right on next tokens alone; elsewhere it is right half the time.",
    )


def _seeds(recipe: PhasesRecipe) -> str:
    return f"means of {len(recipe.seeds)} seeds" if len(recipe.seeds) > 1 else f"seed {recipe.seeds[0]}"


NAMES = {"linear": "The chain of linear models", "transformer": "Transformers"}


def summary(recipe: PhasesRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """What was done, the greedy accuracies before and after, and what to look at."""
    lines = [
        f"parity, phases: {NAMES[recipe.model].lower()}, {_seeds(recipe)}; {recipe.steps} steps of "
        f"{recipe.batch_size}, then {recipe.steps_policy} of GRPO; {numbers['cpu_seconds']:.0f} CPU seconds",
        f"{'share of long answers':36s}" + "".join(f"{share:>7g}" for share in recipe.shares),
        f"{'P(END, first token fits): theory':36s}" + "".join(f"{stop:7.3f}" for stop in numbers["exact"]["stop"]),
    ]
    for row, bits in enumerate(recipe.bits):
        for moment, title in (("before", "next tokens"), ("after", "then GRPO")):
            means = np.mean(numbers[moment]["greedy_accuracy"][row], axis=-1)
            lines.append(f"{f'{bits} bits, greedy, {title}':36s}" + "".join(f"{value:7.3f}" for value in means))
        stops = np.mean(numbers["before"]["stop"][row], axis=-1)
        lines.append(f"{f'{bits} bits, P(END), next tokens':36s}" + "".join(f"{value:7.3f}" for value in stops))
    lines.append(f"look at    {folder / 'phases.png'}, and {NUMBERS} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)
