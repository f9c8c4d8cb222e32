"""Transformers trained on sums, with coupled positions and without, and measured on longer ones: one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.addition_heads import (
    PATTERNS,
    best_heads,
    carry_probes,
    head_patterns,
    one_sum,
    without_heads,
)
from nextlens.analyses.addition_lengths import by_length, swapped_ids
from nextlens.analyses.addition_positions import id_scores, neighbour_similarity, offset_preference
from nextlens.analyses.addition_recipe import COUPLED, AdditionRecipe
from nextlens.analyses.finished_training import finished
from nextlens.models import checkpoints
from nextlens.models.kernel import Kernel
from nextlens.models.objectives.policy_gradient import log_prob_of
from nextlens.models.tasks.prompted import batch_of
from nextlens.models.training import train, warmup_cosine
from nextlens.models.transformer import Transformer

#: Moments at which training is followed.
MOMENTS = 6
#: Which random numbers are for what, beside the seed.
DATA, MEASURE, LOOK, SELECT = 1, 2, 3, 4
#: Sums on which weights are selected.
N_SELECTING = 200
#: How far from an id the position table is looked at.
REACH = 3


@dataclass(frozen=True, eq=False)
class Insides:
    """What is found in a model with coupled positions.

    Attributes
    ----------
    patterns, longer : xr.Dataset
        Of :func:`~nextlens.analyses.addition_heads.head_patterns`, at the longest trained length and at the longest
        of those measured that are at most three times as long.
    heads : dict
        The heads of the two patterns.
    example : xr.Dataset
        Of :func:`~nextlens.analyses.addition_heads.one_sum`.
    carry, untrained : xr.Dataset
        Of :func:`~nextlens.analyses.addition_heads.carry_probes`; ``untrained``, of the twin with its first weights.
    ablation : xr.Dataset
        Of :func:`~nextlens.analyses.addition_heads.without_heads`.
    swapped : xr.Dataset
        Of :func:`~nextlens.analyses.addition_lengths.swapped_ids`.
    preference : array of shape (head, offset)
        Of the first layer; :func:`~nextlens.analyses.addition_positions.offset_preference`.
    scores : array of shape (head, id, id)
        Of the first layer; :func:`~nextlens.analyses.addition_positions.id_scores`.
    cosines : array of shape (id, id)
        Of rows of the position table.
    """

    patterns: xr.Dataset
    longer: xr.Dataset
    heads: dict[str, tuple[int, int]]
    example: xr.Dataset
    carry: xr.Dataset
    untrained: xr.Dataset
    ablation: xr.Dataset
    swapped: xr.Dataset
    preference: Float[np.ndarray, "head offset"]
    scores: Float[np.ndarray, "head id_looking id_looked_at"]
    cosines: Float[np.ndarray, "id other"]


@dataclass(frozen=True, eq=False)
class AdditionModel:
    """One model, trained and measured.

    Attributes
    ----------
    lengths : xr.Dataset
        Of :func:`~nextlens.analyses.addition_lengths.by_length`.
    course : xr.Dataset
        The same at the longest trained length, and the loss, over ``step``.
    insides : Insides, optional
        Of models with coupled positions.
    cpu_seconds : float
        Of training, trials of weights among it.
    selected : dict, optional
        Where weights were selected: the ``step`` they are of, and their ``loss`` where they were tried.
    """

    lengths: xr.Dataset
    course: xr.Dataset
    insides: Insides | None
    cpu_seconds: float
    selected: dict[str, Any] | None = None


def train_and_measure(
    recipe: AdditionRecipe,
    kind: str,
    seed: int,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
) -> AdditionModel:
    """Train one model of a kind, keep it in ``folder``, and measure it.

    Parameters
    ----------
    recipe : AdditionRecipe
    kind : {"coupled", "random start", "no position"}
    seed : int
        Of first weights and data.
    folder : Path
    resume : bool, default=False
        Take the model if its training is finished.
    device : str, default="cpu"
    report : callable, optional
        Told after every step how many lie behind.

    Raises
    ------
    ValueError
        If ``resume`` finds a checkpoint of another recipe.
    """
    path = folder / f"{kind.replace(' ', '-')}-seed-{seed}" / checkpoints.FILE_NAME
    made_by = {**replace(recipe, seeds=(seed,)).as_json(), "kind": kind}
    make = partial(_trained, recipe, kind, seed, device, report)
    model, notes = finished(path, made_by, make, resume=resume, device=device)
    if report is not None:
        report(recipe.steps_of(kind))
    rows = notes["rows"]
    course = xr.Dataset(
        {name: ("step", [row[name] for row in rows]) for name in rows[0] if name != "step"},
        coords={"step": [row["step"] for row in rows]},
    )
    task = recipe.task(kind)
    lengths = by_length(model, task, recipe.lengths, np.random.default_rng([seed, MEASURE]), start=recipe.start)
    insides = _insides(recipe, model, seed) if kind == COUPLED else None
    return AdditionModel(lengths, course, insides, notes["cpu"], notes["selected"])


def _trained(
    recipe: AdditionRecipe, kind: str, seed: int, device: str, report: Callable[[int], None] | None
) -> tuple[Transformer, dict[str, Any]]:
    task, steps = recipe.task(kind), recipe.steps_of(kind)
    model, rows = Transformer(recipe.config(kind, seed)).to(device), []
    wanted = set(np.geomspace(max(1, steps / 16), steps, MOMENTS).round().astype(int).tolist())
    adam = partial(torch.optim.Adam, lr=recipe.learning_rate, fused=True)
    stream = task.batches(recipe.batch_size, np.random.default_rng([seed, DATA]))
    schedule = warmup_cosine(steps, warmup=min(50, steps // 10), final=0.1)
    trials, best = recipe.trials(kind), Best()
    if trials:
        trying = task.draw(N_SELECTING, np.random.default_rng([seed, SELECT]), digits=recipe.select, start=recipe.start)
    for step in train(model, stream, steps=steps, optimiser=adam, schedule=schedule, clip=1.0):
        if step.index + 1 in wanted:
            rng = np.random.default_rng([seed, MEASURE])
            at = by_length(model, task, [recipe.digits], rng, start=recipe.start).isel(digits=0)
            measures = {str(name): float(at[name]) for name in at.data_vars}
            rows.append({"step": step.index + 1, "loss": step.loss, **measures})
        if step.index + 1 in trials:
            best.tried(model, loss_of(model, trying), step.index + 1)
        if report is not None:
            report(step.index + 1)
    best.put_back(model)
    return model, {"rows": rows, "selected": best.found}


class Best:
    """The weights with the least loss of those that were tried."""

    def __init__(self) -> None:
        self.found: dict[str, Any] | None = None
        self._weights: dict[str, torch.Tensor] = {}

    def tried(self, model: Transformer, loss: float, step: int) -> None:
        """Keep a copy of the weights if none before had so small a loss."""
        if self.found is None or loss < self.found["loss"]:
            self.found = {"step": step, "loss": loss}
            self._weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def put_back(self, model: Transformer) -> None:
        """Give a model the best weights; if none were tried, leave it as it is."""
        if self.found is not None:
            model.load_state_dict(self._weights)


@torch.no_grad()
def loss_of(model: Kernel, drawn: xr.Dataset) -> float:
    """Of the tokens that are asked for, each after true ones, on average, in nats."""
    batch = batch_of(drawn).to(getattr(model, "device", "cpu"))
    return -float(log_prob_of(model, batch)[batch.weights > 0].mean())


def _insides(recipe: AdditionRecipe, model: Transformer, seed: int) -> Insides:
    task, start = recipe.task(COUPLED), recipe.start

    def rng() -> np.random.Generator:
        return np.random.default_rng([seed, LOOK])

    far = max((d for d in recipe.lengths if d <= 3 * recipe.digits), default=recipe.digits)
    patterns, longer = (head_patterns(model, task, rng(), digits=d, start=start) for d in (recipe.digits, far))
    heads = best_heads(patterns)
    everything = [(layer, head) for layer in range(recipe.n_layers) for head in range(recipe.n_heads)]
    groups = {name: [heads[name]] for name in PATTERNS}
    others = [one for one in everything if one not in heads.values()]
    if others:
        groups["all others"] = others
    probing = {"fitted": recipe.digits, "tested": sorted({recipe.digits, far}), "start": start}
    scores = id_scores(model)
    trained = slice(start, recipe.n_positions - start)
    return Insides(
        patterns,
        longer,
        heads,
        one_sum(model, task, heads, task.draw(1, rng(), digits=recipe.digits, start=start)),
        carry_probes(model, task, rng(), **probing),
        carry_probes(model.untrained(), task, rng(), **probing),
        without_heads(model, task, groups, rng(), digits=recipe.digits, start=start),
        swapped_ids(model, task, rng(), digits=recipe.digits, start=start),
        offset_preference(scores, trained, REACH),
        scores[:, trained, trained],
        neighbour_similarity(model, trained),
    )
