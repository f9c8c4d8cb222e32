"""How far addition reaches, and what adds and carries: the figures of a run."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from nextlens.analyses.addition_heads import PATTERNS
from nextlens.analyses.addition_numbers import Results, ablated, first_layer_head, rows_of, without
from nextlens.analyses.addition_recipe import COUPLED, KINDS, AdditionRecipe
from nextlens.analyses.addition_training import Insides
from nextlens.analyses.displays import style
from nextlens.analyses.displays.bars import BarsDisplay
from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.displays.heat_maps import HeatMapsDisplay

#: What the two patterns do, as titles.
TITLES = {"same id": "adds: same id", "previous id": "carries: previous id"}


def draw(recipe: AdditionRecipe, results: Results, folder: Path) -> list[Path]:
    """The figures of a run as PNG, PDF and SVG; the paths of the PNGs."""
    insides = [results[COUPLED, seed].insides for seed in recipe.seeds]
    figures = {
        "lengths": lengths_figure(recipe, results),
        "attention": attention_display(recipe, insides[0]).plot().figure_,
        "positions": positions_display(recipe, insides[0]).plot().figure_,
        "ablation": ablation_display(recipe, insides).plot().figure_,
    }
    paths = []
    for name, figure in figures.items():
        paths.append(style.save(figure, folder / name)[0])
        plt.close(figure)
    return paths


def lengths_figure(recipe: AdditionRecipe, results: Results) -> Figure:
    """Exact match by length, with the end token and without, and digits one by one."""
    panels = {"exact_digits": "all digits right", "exact": "and the end token", "token": "digits, one by one"}
    with style.printed():
        figure = style.new_figure(style.DOUBLE_COLUMN, 2.4)
        style.caption_beneath(
            figure,
            f"Trained on 1 to {recipe.digits} digits (dashed); {_seeds(recipe)}; {recipe.steps:,} steps, of "
            f"baselines {recipe.steps_baseline:,}."
            + ("" if recipe.select is None else f" Dotted: {recipe.select} digits select the weights."),
        )
        for ax, (measure, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            ax.set_ylim(-0.03, 1.05)
            rows = {kind: rows_of(recipe, results, kind, measure) for kind in KINDS}
            CurvesDisplay(
                along=recipe.lengths,
                values={kind: np.median(values, axis=0) for kind, values in rows.items()},
                intervals={kind: [values.min(0), values.max(0)] for kind, values in rows.items()},
                xlabel="digits of the operands",
                ylabel="share of sums" if measure == "exact_digits" else "share of digits" * (measure == "token"),
            ).plot(ax, title=title)
            ax.axvline(recipe.digits, color=style.GREY, linestyle=style.DASHES[0], linewidth=0.8)
            if recipe.select is not None:
                ax.axvline(recipe.select, color=style.GREY, linestyle=":", linewidth=0.8)
    return figure


def _seeds(recipe: AdditionRecipe) -> str:
    n = len(recipe.seeds)
    return f"medians over {n} seeds, bands: their range" if n > 1 else f"seed {recipe.seeds[0]}"


def attention_display(recipe: AdditionRecipe, found: Insides) -> HeatMapsDisplay:
    """What the heads of the two patterns look at in one sum, from where its digits are said; framed: the pattern."""
    one = found.example
    return HeatMapsDisplay(
        maps={TITLES[name]: one.attention.sel(pattern=name).values for name in PATTERNS},
        rows=one.digit.values.tolist(),
        columns=one.token.values.tolist(),
        marked={TITLES[name]: one.expected.sel(pattern=name).values for name in PATTERNS},
        xlabel="token looked at",
        ylabel="digit of the sum said next",
        quantity="attention",
        caption=f"Seed {recipe.seeds[0]}, one layer's heads "
        f"{', '.join(str(found.heads[name][1]) for name in PATTERNS)}; framed: the tokens of the pattern.",
    )


def positions_display(recipe: AdditionRecipe, found: Insides) -> HeatMapsDisplay:
    """What the ids alone add to the scores of the two heads."""
    return HeatMapsDisplay(
        maps={TITLES[name]: found.scores[first_layer_head(found, name)] for name in PATTERNS},
        first=recipe.start,
        xlabel="id looked at",
        ylabel="id that looks",
        quantity="score of ids alone",
        caption=f"Seed {recipe.seeds[0]}; rows of the position table through the query and key weights of each "
        "head. The digit said next has the next id, so adding looks one id up and carrying at its own.",
    )


def ablation_display(recipe: AdditionRecipe, insides: list[Insides]) -> BarsDisplay:
    """Digits still right without a head, by what is carried into them."""
    called = {"same id": "the head that adds", "previous id": "the head that carries"}
    return BarsDisplay(
        bars={
            f"{carry} carried": {called.get(name, name): without(insides, name, carry) for name in ablated(insides)}
            for carry in (0, 1)
        },
        xlabel="share of digits right",
        ylabel="ablated",
        caption=f"Mean ablation; sums of {recipe.digits} digits, each digit said after true ones; dots are seeds.",
    )
