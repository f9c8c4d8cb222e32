"""Is the belief spread over layers? Transformers of several contexts and seeds, scored in every way, in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from nextlens.analyses.belief_protocols import refuse_few_states
from nextlens.analyses.belief_training import ARCHITECTURES, LEARNING_RATE, LEARNING_RATES
from nextlens.analyses.displays import style
from nextlens.analyses.displays.spread import SpreadDisplay
from nextlens.analyses.intervals import interval
from nextlens.analyses.model_training import Training, train_all
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.analyses.results_folder import NUMBERS, begin, write_json
from nextlens.analyses.spread_over_layers import (
    ALL,
    MEASURES,
    NOISE,
    RANK_MATCHED,
    blind,
    layers_and_all,
    next_token_pairs,
    spread_over_layers,
)
from nextlens.models import checkpoints
from nextlens.models.arguments import at_least
from nextlens.models.processes import Process, process_by_name
from nextlens.models.training import over_seeds
from nextlens.models.transformer import Transformer, TransformerConfig, paper_mess3

#: Of RRXOR at a context of 10, read off figures 7D and 7E of Shai et al. 2024 (arXiv:2405.15943): mean
#: squared errors in sample by site, and squared correlations of distances from all sites together.
PUBLISHED = {
    "mse": {
        "hook_embed": 0.070,
        "blocks.0.hook_resid_post": 0.042,
        "blocks.1.hook_resid_post": 0.032,
        "blocks.2.hook_resid_post": 0.026,
        "blocks.3.hook_resid_post": 0.0245,
        "ln_final.hook_normalized": 0.0295,
        ALL: 0.004,
    },
    "pairs_belief": {ALL: 0.95},
    "pairs_next_token": {ALL: 0.31},
}


@dataclass(frozen=True)
class LayersRecipe(WrittenRecipe):
    """All that decides the numbers of a run.

    Parameters
    ----------
    process : str
        A name in ``nextlens.models.processes.PROCESSES``.
    parameters : mapping of str to float
        Of the process; its defaults for the rest.
    contexts : tuple of int
        How many tokens the transformers read: one set of transformers each. At a longer context there are
        more prefixes to fit and to hold out.
    steps, batch_size : int
    learning_rate : float, optional
        0.005, or 0.001 for RRXOR's wider transformer, if None.
    seeds : tuple of int

    Raises
    ------
    ValueError
        If a value is out of range or the process is unknown.
    """

    process: str = "rrxor"
    parameters: Mapping[str, float] = field(default_factory=dict)
    contexts: tuple[int, ...] = (10, 20)
    steps: int = 3000
    batch_size: int = 64
    learning_rate: float | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3)

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", LEARNING_RATES.get(self.process, LEARNING_RATE))
        for name in ("contexts", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={values!r} must hold at least one number, each once")
        at_least("seeds", min(self.seeds), 0)
        for context in self.contexts:
            at_least("contexts", context, 2)
            self._refuse_few(Prefixes.of(self.made, context), self.training(context, self.seeds[0]).config.d_model)

    def _refuse_few(self, prefixes: Prefixes, width: int) -> None:
        refuse_few_states(prefixes)
        if len(prefixes) <= width:
            raise ValueError(
                f"contexts={prefixes.n_ctx} leaves {len(prefixes)} prefixes of {self.process!r}; more than the {width} "
                "features of a site are needed"
            )

    @property
    def made(self) -> Process:
        """The process itself."""
        return process_by_name(self.process, **self.parameters)

    def config(self, context: int, seed: int) -> TransformerConfig:
        """The published transformer of this process, Mess3's where none was, at another context."""
        published = ARCHITECTURES.get(self.process, paper_mess3)
        return replace(published(seed, n_tokens=self.made.n_tokens), n_ctx=context)

    def training(self, context: int, seed: int) -> Training:
        """What is trained on what."""
        name, config = f"context-{context}-seed-{seed}", self.config(context, seed)
        return Training(name, self.made, config, self.steps, self.batch_size, self.learning_rate)

    @property
    def trainings(self) -> list[Training]:
        return [self.training(context, seed) for seed in self.seeds for context in self.contexts]

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        usual = LayersRecipe(self.process)
        return repeating(f"nextlens belief layers --process {self.process}", self, usual, without=["process"])


#: Of the columns of the summary.
WIDTHS = (23, 23, 11, 15, 8)


class Spread(NamedTuple):
    """What one transformer gave."""

    scores: xr.Dataset
    loss_over_optimum: float
    next_token: dict[str, float]
    blind: xr.DataArray


def measure(run: int, *, trainings: Sequence[Training], folder: Path, device: str = "cpu") -> Spread:
    """Score one trained transformer beside its untrained twin, which keeps its first weights."""
    training = trainings[run]
    model = checkpoints.load(training.path(folder), device=device)
    prefixes = Prefixes.of(training.process, training.length)
    scores = spread_over_layers(model, model.untrained(), prefixes, seed=training.config.seed)
    over = excess_loss(model, prefixes).attrs["loss_over_optimum"]
    return Spread(scores, over, next_token_pairs(prefixes), blind(prefixes))


def run(
    recipe: LayersRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train a transformer for each context and seed, score it in every way; write figures and ``numbers.json``.

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
    place, trainings = begin(folder, recipe.as_json(), resume=resume), recipe.trainings
    train_all(trainings, place, resume=resume, device=device, n_jobs=n_jobs, progress=progress)
    job = partial(measure, trainings=trainings, folder=place, device=device)
    found = over_seeds(job, range(len(trainings)), n_jobs=n_jobs)
    by_context = {
        context: [one for one, training in zip(found, trainings, strict=True) if training.length == context]
        for context in recipe.contexts
    }
    numbers = sum_up(recipe, by_context)
    draw(recipe, by_context, place)
    write_json(place / NUMBERS, numbers)
    return numbers


def draw(recipe: LayersRecipe, found: Mapping[int, Sequence[Spread]], folder: Path) -> Path:
    """The figure, as PNG, PDF and SVG; the path of the PNG."""
    import matplotlib.pyplot as plt

    figure = display(recipe, found).plot().figure_
    path = style.save(figure, folder / "spread")[0]
    plt.close(figure)
    return path


def sum_up(recipe: LayersRecipe, found: Mapping[int, Sequence[Spread]]) -> dict[str, Any]:
    """Every number with its interval over seeds, beside twin and noise, by context."""
    contexts = {}
    for context, seeds in found.items():
        first = seeds[0].scores
        contexts[str(context)] = {
            "loss_over_optimum": interval([one.loss_over_optimum for one in seeds]),
            "protocol": dict(first.attrs),
            **{measure: _table(measure, [one.scores[measure] for one in seeds]) for measure in MEASURES},
            "pairs_belief of exact next-token laws": seeds[0].next_token,
            "r2 of nulls": _by_null(seeds[0].blind),
        }
    applies = recipe.process == "rrxor" and not recipe.parameters
    return {
        "contexts": contexts,
        "published": {"source": "arXiv:2405.15943, figures 7D and 7E", **PUBLISHED} if applies else None,
        "seeds": list(recipe.seeds),
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
    }


def _by_null(found: xr.DataArray) -> dict[str, dict[str, float]]:
    """By reading and null; the same for every seed."""
    frame = found.transpose("null", "reading").to_pandas()
    return {str(reading): {str(null): float(r2) for null, r2 in column.items()} for reading, column in frame.items()}


def _table(measure: str, found: Sequence[xr.DataArray]) -> dict[str, Any]:
    """By reading, model and features; what was not computed is left out."""
    first = found[0]
    return {
        str(reading): {
            str(model): {
                str(one): interval([float(each.sel(reading=reading, model=model, features=one)) for each in found])
                for one in first.features.values
            }
            for model in first.model.values
        }
        for reading in first.reading.values
        if np.isfinite(first.sel(reading=reading)).all()
    }


def display(recipe: LayersRecipe, found: Mapping[int, Sequence[Spread]]) -> SpreadDisplay:
    """R² by features and reading, a panel for each context."""
    return SpreadDisplay(
        scores={
            f"context {context}": xr.concat([one.scores.r2 for one in seeds], xr.Variable("seed", list(recipe.seeds)))
            for context, seeds in found.items()
        },
        caption=(
            f"{recipe.process}: R² of the belief, {len(recipe.seeds)} seeds, bars their range; full: trained; "
            "hollow: its untrained twin. In sample as published; the others held out in 5 folds."
        ),
    )


def summary(recipe: LayersRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """What each layer and all together give, in sample and held out, beside untrained and noise."""
    lines = [f"{recipe.process}: is the belief spread over layers? {len(recipe.seeds)} seeds, {recipe.steps:,} steps"]
    last = layers_and_all(Transformer(recipe.config(recipe.contexts[0], 0)))[-2]
    for context, found in numbers["contexts"].items():
        lines.append(
            f"context {context}: {found['protocol']['rows']:,} prefixes, {found['protocol']['n_features']}, "
            f"loss / optimum {found['loss_over_optimum']['mean']:.5f}"
        )
        lines.append(
            f"  {'R²':22s}{'last block':>18s}{'all sites':>18s}{'same rank':>12s}{'untrained all':>15s}{'noise':>9s}"
        )
        for reading, models in found["r2"].items():
            trained, untrained = models["trained"], models["untrained"]
            beside = (trained[RANK_MATCHED], untrained[ALL], trained[NOISE])
            lines.append(
                _row(reading, _said(trained[last]), _said(trained[ALL]), *(f"{one['mean']:.3f}" for one in beside))
            )
        held = found["r2 of nulls"]["by prefix"]
        lines.append(
            "  without activations, by prefix: " + ", ".join(f"{null} {value:.3f}" for null, value in held.items())
        )
        if "in sample" in found["mse"]:
            lines.append(_published(found, numbers["published"] if context == "10" else None))
    lines.append(
        f"look at    {folder / 'spread.png'}: does the step from the last block to all sites outlive holding out?"
    )
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def _row(reading: str, *cells: str) -> str:
    return f"  {reading:22s}" + "".join(f"{cell:>{width}s}" for cell, width in zip(cells, WIDTHS, strict=True))


def _said(found: Mapping[str, Any]) -> str:
    ends = found["interval_95"]
    return f"{found['mean']:.3f}" + (f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "")


def _published(found: Mapping[str, Any], published: Mapping[str, Any] | None) -> str:
    trained, untrained = (found["mse"]["in sample"][who] for who in ("trained", "untrained"))
    pairs = [found[name]["in sample"]["trained"][ALL]["mean"] for name in ("pairs_belief", "pairs_next_token")]
    held = [found[name]["by prefix"]["trained"][ALL]["mean"] for name in ("pairs_belief", "pairs_next_token")]
    beside = f" (published {published['mse'][ALL]})" if published else ""
    pairs_beside = " (published .95 / .31)" if published else ""
    return (
        f"  in sample, all sites: MSE {trained[ALL]['mean']:.4f}{beside}, untrained {untrained[ALL]['mean']:.4f}, "
        f"noise {trained[NOISE]['mean']:.4f}\n"
        f"  distances, belief / next token: in sample {pairs[0]:.2f} / {pairs[1]:.2f}{pairs_beside}, "
        f"by prefix {held[0]:.2f} / {held[1]:.2f}"
    )
