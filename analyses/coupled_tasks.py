"""Do coupled positions help beyond addition? Many operands, products, strings and fields of mines, side by side."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from nextlens.analyses.addition_lengths import right_tokens
from nextlens.analyses.displays import style
from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.analyses.results_folder import NUMBERS, begin, versions, write_json
from nextlens.models.arguments import at_least, one_of
from nextlens.models.tasks.addition import Addition
from nextlens.models.tasks.copying import Copying
from nextlens.models.tasks.minesweeper import Minesweeper
from nextlens.models.tasks.multiplication import Multiplication
from nextlens.models.tasks.prompted import PromptedTask
from nextlens.models.training import over_seeds, train, warmup_cosine
from nextlens.models.transformer import Transformer, TransformerConfig

KINDS = ("coupled", "in a row")
#: Of fields of mines: coupled, each row and each column with an id of its own, whose rows of one table are added.
ON_GRID = "row + column"
#: Which random numbers are for what, beside the seed.
DATA, MEASURE = 1, 2
#: Sequences of each size.
N_SEQUENCES = 200
#: Panels side by side.
COLUMNS = 3


@dataclass(frozen=True)
class Question:
    """One task at one size.

    Attributes
    ----------
    tasks : mapping of str to PromptedTask
        By kind of positions.
    sizes : tuple of int
        On which models are measured; the first is the longest trained on.
    drawn : callable
        ``(task, n, rng, size) -> sequences`` of that size.
    unit : str
        Of the sizes.
    """

    tasks: Mapping[str, PromptedTask]
    sizes: tuple[int, ...]
    drawn: Callable[[Any, int, np.random.Generator, int], xr.Dataset]
    unit: str


def _digits(task: Addition | Multiplication, n: int, rng: np.random.Generator, size: int) -> xr.Dataset:
    return task.draw(n, rng, digits=size, start=None if task.places == "random start" else 2)


def _symbols(task: Copying, n: int, rng: np.random.Generator, size: int) -> xr.Dataset:
    return task.draw(n, rng, length=size, start=None if task.places == "random start" else 2)


def _cells(task: Minesweeper, n: int, rng: np.random.Generator, size: int) -> xr.Dataset:
    return task.draw(n, rng, sides=(size, size))


def _both(make: Callable[..., PromptedTask]) -> dict[str, PromptedTask]:
    return dict(zip(KINDS, (make(places="coupled"), make(places="random start")), strict=True))


#: Every task that coupled positions were made for, beside the sums of two numbers, at sizes that take a minute.
QUESTIONS = {
    "three operands": Question(
        _both(partial(Addition, digits=5, n_operands=3, n_positions=64)), (5, 6, 8, 10), _digits, "digits"
    ),
    "copying": Question(_both(partial(Copying, length=10, n_positions=64)), (10, 12, 16, 25), _symbols, "symbols"),
    "reversing": Question(
        _both(partial(Copying, length=10, reverse=True, n_positions=64)), (10, 12, 16, 25), _symbols, "symbols"
    ),
    "product": Question(_both(partial(Multiplication, digits=3, n_positions=48)), (3, 4, 5), _digits, "digits"),
    "mines": Question(
        {
            KINDS[0]: Minesweeper(2, 4, side=9),
            KINDS[1]: Minesweeper(2, 4, coupled=False),
            ON_GRID: Minesweeper(2, 4, side=9),
        },
        (4, 5, 6),
        _cells,
        "cells a side",
    ),
}


@dataclass(frozen=True)
class CoupledTasksRecipe(WrittenRecipe):
    """All that decides the numbers of a run, and nothing else: JSON-able, compared by value.

    Each seed trains two transformers on each task: with coupled positions, and with positions in a row, from a random
    start (in order, for fields of mines); and a third on fields of mines, whose places are a row and a column, both
    from one table.

    Parameters
    ----------
    tasks : tuple of str
        Of ``QUESTIONS``.
    n_layers, n_heads, d_model, d_head, d_mlp : int
        Of every transformer, with gated GELU and RMSNorm before and after each part.
    steps, batch_size, learning_rate
        Of Adam; the rate rises over 50 steps, then falls along half a cosine to a tenth.
    seeds : tuple of int

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    tasks: tuple[str, ...] = tuple(QUESTIONS)
    n_layers: int = 2
    n_heads: int = 4
    d_model: int = 64
    d_head: int = 32
    d_mlp: int = 128
    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 2e-3
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "batch_size"):
            at_least(name, getattr(self, name), 1)
        at_least("steps", self.steps, 2)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be finite and above 0")
        for name in ("tasks", "seeds"):
            if not getattr(self, name) or len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} must hold at least one, each once")
        for task in self.tasks:
            one_of("tasks", task, tuple(QUESTIONS))
        at_least("seeds", min(self.seeds), 0)

    def model(self, task: PromptedTask, kind: str, n_positions: int, seed: int) -> Transformer:
        """Untrained."""
        return Transformer(
            TransformerConfig(
                n_tokens=task.n_tokens,
                n_layers=self.n_layers,
                n_heads=self.n_heads,
                d_model=self.d_model,
                d_head=self.d_head,
                d_mlp=self.d_mlp,
                n_ctx=n_positions,
                activation="gelu",
                gated=True,
                normalisation="RMSNorm",
                post_normalisation=True,
                positions="grid" if kind == ON_GRID else "learned",
                seed=seed,
            )
        )

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating("nextlens coupled-tasks", self, CoupledTasksRecipe)


@dataclass(frozen=True)
class Learnt:
    """One model of one task.

    Attributes
    ----------
    exact, token : tuple of float
        By size: the share of answers right throughout, the end among them; of their tokens, each after true ones.
    loss : float
        The last of training, in nats.
    cpu_seconds : float
    """

    exact: tuple[float, ...]
    token: tuple[float, ...]
    loss: float
    cpu_seconds: float


def run(
    recipe: CoupledTasksRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train every model and measure it on longer sequences; write ``tasks`` as PNG, PDF and SVG, and ``numbers.json``.

    Parameters
    ----------
    recipe : CoupledTasksRecipe
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
    wanted = [(name, kind, seed) for name in recipe.tasks for kind in QUESTIONS[name].tasks for seed in recipe.seeds]
    job = partial(_one, wanted=wanted, recipe=recipe, device=device)
    results = dict(zip(wanted, over_seeds(job, range(len(wanted)), n_jobs=n_jobs), strict=True))
    numbers = sum_up(recipe, results)
    figure = tasks_figure(recipe, numbers)
    style.save(figure, place / "tasks")
    plt.close(figure)
    write_json(place / NUMBERS, numbers)
    return numbers


def _one(number: int, *, wanted: Sequence[tuple[str, str, int]], recipe: CoupledTasksRecipe, device: str) -> Learnt:
    return learnt(recipe, *wanted[number], device=device)


def learnt(recipe: CoupledTasksRecipe, name: str, kind: str, seed: int, *, device: str = "cpu") -> Learnt:
    """One model, trained on a task and measured at its sizes; ids beyond those of training have their first rows."""
    started, question = time.process_time(), QUESTIONS[name]
    task, measuring = question.tasks[kind], np.random.default_rng([seed, MEASURE])
    samples = [question.drawn(task, N_SEQUENCES, measuring, size) for size in question.sizes]
    ids = max(task.n_positions, 1 + max(int(sample.positions.max()) for sample in samples))
    model = recipe.model(task, kind, ids, seed).to(device)
    adam = partial(torch.optim.Adam, lr=recipe.learning_rate, fused=True)
    stream = task.batches(recipe.batch_size, np.random.default_rng([seed, DATA]))
    schedule = warmup_cosine(recipe.steps, warmup=min(50, recipe.steps // 10), final=0.1)
    for step in train(model, stream, steps=recipe.steps, optimiser=adam, schedule=schedule, clip=1.0):
        loss = step.loss
    found = [_right(model, sample) for sample in samples]
    return Learnt(*(tuple(values) for values in zip(*found, strict=True)), loss, time.process_time() - started)


def _right(model: Transformer, sample: xr.Dataset) -> tuple[float, float]:
    right, batch = right_tokens(model, sample)
    asked = batch.weights > 0
    return float((right | ~asked).all(1).float().mean()), float(right[asked].float().mean())


def sum_up(recipe: CoupledTasksRecipe, results: Mapping[tuple[str, str, int], Learnt]) -> dict[str, Any]:
    """Every number, all seeds by themselves."""
    return {
        "protocol": f"{N_SEQUENCES} sequences of each size, the first the longest trained on; exact: greedy answers "
        "right to the end token; token: each after true ones",
        **{
            name: {
                "unit": QUESTIONS[name].unit,
                "sizes": list(QUESTIONS[name].sizes),
                **{
                    kind: {
                        measure: [list(getattr(results[name, kind, seed], measure)) for seed in recipe.seeds]
                        for measure in ("exact", "token")
                    }
                    | {
                        measure: [round(getattr(results[name, kind, seed], measure), 4) for seed in recipe.seeds]
                        for measure in ("loss", "cpu_seconds")
                    }
                    for kind in QUESTIONS[name].tasks
                },
            }
            for name in recipe.tasks
        },
        "seeds": list(recipe.seeds),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": versions("torch", "numpy"),
    }


def tasks_figure(recipe: CoupledTasksRecipe, numbers: Mapping[str, Any]) -> Figure:
    """Tokens right by size, a panel a task."""
    n, many = len(recipe.tasks), len(recipe.seeds) > 1
    rows = -(-n // COLUMNS)
    with style.printed():
        figure = style.new_figure(style.DOUBLE_COLUMN, 0.3 + 2.1 * rows)
        seeds = f"means and range of {len(recipe.seeds)} seeds" if many else f"seed {recipe.seeds[0]}"
        style.caption_beneath(
            figure, f"Tokens of the answer, each after true ones; {seeds}; dashed: the longest trained."
        )
        axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for ax in axes[n:]:
            ax.set_visible(False)
        for place, (ax, name) in enumerate(zip(axes, recipe.tasks, strict=False)):
            found = numbers[name]
            values = {kind: np.array(found[kind]["token"]) for kind in QUESTIONS[name].tasks}
            ax.set_ylim(-0.03, 1.05)
            CurvesDisplay(
                along=found["sizes"],
                values={kind: one.mean(0) for kind, one in values.items()},
                intervals={kind: [one.min(0), one.max(0)] for kind, one in values.items()} if many else None,
                xlabel=found["unit"],
                ylabel="" if place % COLUMNS else "share of tokens",
            ).plot(ax, title=name)
            ax.set_xticks(found["sizes"])
            ax.axvline(found["sizes"][0], color=style.GREY, linestyle=style.DASHES[0], linewidth=0.8)
    return figure


def summary(recipe: CoupledTasksRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """Exact match and tokens by task and size, beside the baseline, and what to look at."""
    lines = [f"coupled positions beyond sums of two: {len(recipe.seeds)} seed(s), {recipe.steps} steps of "
             f"{recipe.batch_size}; exact match, and tokens after true ones"]  # fmt: skip
    for name in recipe.tasks:
        found = numbers[name]
        title = f"{name}, {found['unit']}"
        lines.append(f"{title:36s}" + "".join(f"{size:>12d}" for size in found["sizes"]))
        for kind in QUESTIONS[name].tasks:
            exact, token = (np.mean(found[kind][measure], axis=0) for measure in ("exact", "token"))
            pairs = "".join(f"{f'{a:.2f}, {b:.2f}':>12s}" for a, b in zip(exact, token, strict=True))
            lines.append(f"{f'  {kind}':36s}{pairs}")
    lines.append(f"look at    {folder / 'tasks.png'}, and {NUMBERS} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)
