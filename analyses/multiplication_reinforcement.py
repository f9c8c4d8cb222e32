"""Products over their partial products: does reinforcement decide to go step by step there too?"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from nextlens.analyses.displays import style
from nextlens.analyses.intervals import interval
from nextlens.analyses.model_training import each
from nextlens.analyses.parity_figures import curves, side_by_side
from nextlens.analyses.parity_recipe import REWARDS
from nextlens.analyses.parity_reinforcement import MEASURED
from nextlens.analyses.parity_training import Followed, over, pretrained, reinforced, self_taught, shares_of_rounds
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.analyses.results_folder import NUMBERS, begin, versions, write_json
from nextlens.models.arguments import at_least, one_of
from nextlens.models.tasks.multiplication import Multiplication
from nextlens.models.transformer import Transformer, TransformerConfig

MEASURES = (
    "greedy_accuracy",
    "greedy_length",
    "greedy_neither",
    "sampled_accuracy",
    "sampled_long",
    "accuracy_long",
    "accuracy_short",
)
#: Columns of the summary, and how wide they are.
COLUMNS = {
    "greedy_accuracy": ("greedily right", 24),
    "greedy_length": ("length", 14),
    "greedy_neither": ("of neither length", 24),
    "sampled_accuracy": ("sampled, right", 24),
    "sampled_long": ("long, sampled", 24),
}
SIZES = ("digits", "n_layers", "d_model", "n_heads", "d_mlp")
COUNTS = ("batch_size", "steps_policy", "n_prompts", "rounds", "n_samples", "epochs")


@dataclass(frozen=True)
class MultiplicationRecipe(WrittenRecipe):
    """All that decides the numbers of a run, and nothing else: JSON-able, compared by value.

    Each seed trains a transformer on next tokens, and goes on from it by GRPO and by STaR.

    Parameters
    ----------
    digits : int
        Of the first number; the second has two.
    p_chain : float
        The share of long answers, over the partial products.
    n_layers, d_model, n_heads, d_mlp : int
        Of every transformer; learned positions, in order.
    steps, batch_size, learning_rate
        Of next-token training, with Adam on fresh data; the rate rises over 50 steps, then falls to 0.
    steps_policy, n_prompts, group, rate_policy, reward
        Of GRPO: steps, prompts of a batch, answers to each, learning rate, and whether the ``"end"``, the product, or
        the whole ``"chain"`` is rewarded.
    rounds, n_samples, epochs
        Of STaR, whose learning rate is that of GRPO; the whole answer is rewarded.
    seeds : tuple of int

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    digits: int = 2
    p_chain: float = 0.25
    n_layers: int = 2
    d_model: int = 64
    n_heads: int = 4
    d_mlp: int = 128
    steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 3e-3
    steps_policy: int = 40
    n_prompts: int = 32
    group: int = 8
    rate_policy: float = 3e-4
    reward: str = "end"
    rounds: int = 3
    n_samples: int = 1024
    epochs: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        for name in (*SIZES, *COUNTS):
            at_least(name, getattr(self, name), 1)
        for name in ("steps", "group"):
            at_least(name, getattr(self, name), 2)
        one_of("reward", self.reward, tuple(REWARDS))
        for name in ("learning_rate", "rate_policy"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r} must be finite and above 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must hold at least one seed, each once, none below 0")
        self.task()
        self.model(self.seeds[0])

    def task(self) -> Multiplication:
        """Whose answers are read and said with positions in order, as those of policies are."""
        return Multiplication(self.digits, self.p_chain, places="in order")

    def model(self, seed: int) -> Transformer:
        """Untrained."""
        return Transformer(
            TransformerConfig(
                n_tokens=self.task().n_tokens,
                n_layers=self.n_layers,
                n_heads=self.n_heads,
                d_model=self.d_model,
                d_mlp=self.d_mlp,
                n_ctx=self.task().n_positions,
                activation="gelu",
                seed=seed,
            )
        )

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating("nextlens multiplication", self, MultiplicationRecipe)


@dataclass(frozen=True, eq=False)
class MultiplicationSeed:
    """What became of one seed: what :func:`~nextlens.analyses.parity_reinforcement.measured` finds, again and again.

    Attributes
    ----------
    pretraining, policy : xr.Dataset
        Over ``step``, of next-token training and of GRPO after it.
    star : xr.Dataset
        Over ``round`` of STaR, with the shares of long answers ``sampled`` and ``kept`` in the round that follows.
    cpu_seconds : dict
        By training.
    """

    pretraining: xr.Dataset
    policy: xr.Dataset
    star: xr.Dataset
    cpu_seconds: dict[str, float]


def train_and_reinforce(
    recipe: MultiplicationRecipe,
    seed: int,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
) -> MultiplicationSeed:
    """Train on next tokens, and go on from there by GRPO and by STaR; each model is kept in ``folder``.

    Parameters
    ----------
    recipe : MultiplicationRecipe
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
    one, task = Followed(recipe, seed, folder, resume, device, report), recipe.task()
    before, learnt = one.kept("next-token", partial(pretrained, one, task, follow=True))
    _, policy = one.kept("policy", partial(reinforced, one, copy.deepcopy(before), task))
    _, star = one.kept("star", partial(self_taught, one, copy.deepcopy(before), task))
    return MultiplicationSeed(
        over("step", learnt["rows"]),
        over("step", policy["rows"]),
        over("round", star["rows"]).assign(shares_of_rounds(star)),
        one.cpu,
    )


def run(
    recipe: MultiplicationRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train and reinforce for each seed; write ``course`` as PNG, PDF and SVG, checkpoints and ``numbers.json``.

    Parameters
    ----------
    recipe : MultiplicationRecipe
    folder : path
        Made if need be; results of a finished run of the same recipe in it are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``: trainings that were finished are not done again.
    device : str, default="cpu"
    n_jobs : int, optional
        Seeds at once; as many as there are processors if None.
    progress : bool, default=False

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
    total = (recipe.steps + recipe.steps_policy) * len(recipe.seeds)
    job = partial(train_and_reinforce, recipe, folder=place, resume=resume, device=device)
    wanted = [(seed,) for seed in recipe.seeds]
    found = list(each(job, wanted, place, total, n_jobs=n_jobs, progress=progress).values())
    numbers = sum_up(recipe, found)
    figure = course_figure(recipe, found)
    style.save(figure, place / "course")
    plt.close(figure)
    write_json(place / NUMBERS, numbers)
    return numbers


def sum_up(recipe: MultiplicationRecipe, seeds: Sequence[MultiplicationSeed]) -> dict[str, Any]:
    """Every number with its protocol, seeds, interval and the command that repeats it."""
    return {
        "protocol": f"{MEASURED} fresh prompts; greedy answers are right if they end in the product; lengths without "
        "the end token; samples at temperature 1; accuracies of long and of short answers are of those sampled",
        "longest_answer": recipe.task().longest_answer - 1,
        "next_token": _answers([one.pretraining.isel(step=-1) for one in seeds]),
        "policy_gradient": _answers([one.policy.isel(step=-1) for one in seeds]),
        "star": {
            **_answers([one.star.isel(round=-1) for one in seeds]),
            "rounds": [
                {
                    name: interval([float(one.star[name][number]) for one in seeds])
                    for name in ("sampled", "kept", "greedy_accuracy")
                }
                for number in range(recipe.rounds)
            ],
        },
        "seeds": list(recipe.seeds),
        "cpu_seconds": [{name: round(value, 1) for name, value in one.cpu_seconds.items()} for one in seeds],
        "cpu_seconds_in_all": round(sum(sum(one.cpu_seconds.values()) for one in seeds), 1),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy"),
    }


def _answers(rows: Sequence[xr.Dataset]) -> dict[str, Any]:
    """None of what a seed has no answer for."""
    values = {name: [float(row[name]) for row in rows] for name in MEASURES}
    return {name: None if np.isnan(found).any() else interval(found) for name, found in values.items()}


def course_figure(recipe: MultiplicationRecipe, seeds: Sequence[MultiplicationSeed]) -> Figure:
    """Greedy accuracy and the share of long answers: in next-token training, and after it by GRPO and by STaR."""
    named = {"greedy accuracy": "greedy_accuracy", "long, sampled": "sampled_long"}
    parts = {
        "next-token training": ("pretraining", "step", "log"),
        "then GRPO": ("policy", "step", "linear"),
        "or STaR": ("star", "round", "linear"),
    }
    displays = {
        title: curves(
            getattr(seeds[0], part)[dim].values,
            {name: np.array([getattr(one, part)[measure].values for one in seeds]) for name, measure in named.items()},
            xlabel=f"{dim}s",
            ylabel="share" if part == "pretraining" else "",
            xscale=scale,
        )
        for title, (part, dim, scale) in parts.items()
    }
    return side_by_side(
        displays,
        f"{recipe.digits} digits times two, {recipe.p_chain:.0%} of answers over the partial products; means, bands: "
        f"range of {len(seeds)} seeds.",
    )


def summary(recipe: MultiplicationRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """What was done, what is answered before and after, and what to look at."""
    lines = [
        f"products: {recipe.digits} digits times two, {len(recipe.seeds)} transformers of {recipe.n_layers} layers; "
        f"next tokens at {recipe.p_chain:g} long answers, {recipe.steps} steps of {recipe.batch_size}; then GRPO, "
        f"{recipe.steps_policy} steps, or STaR, {recipe.rounds} rounds; {numbers['cpu_seconds_in_all']:.0f} CPU "
        "seconds",
        f"{'':24s}" + "".join(f"{title:>{wide}s}" for title, wide in COLUMNS.values()),
    ]
    for part, title in (("next_token", "next tokens"), ("policy_gradient", "then GRPO"), ("star", "or STaR")):
        cells = (" / ".join(f"{value:.3g}" for value in numbers[part][name]["by_seed"]) for name in COLUMNS)
        widths = (wide for _, wide in COLUMNS.values())
        lines.append(f"{title:24s}" + "".join(f"{cell:>{w}s}" for cell, w in zip(cells, widths, strict=True)))
    before = numbers["next_token"]
    for name, title in (("accuracy_long", "long answers"), ("accuracy_short", "short answers")):
        if before[name] is not None:
            cell = " / ".join(f"{value:.3g}" for value in before[name]["by_seed"])
            lines.append(f"{f'  {title}, right':24s}{cell:>26s}  sampled before reinforcement")
    lines.append(f"look at    {folder / 'course.png'}, and {NUMBERS} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)
