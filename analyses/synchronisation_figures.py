"""How models synchronise, in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from nextlens.analyses.displays import style
from nextlens.analyses.displays.simplex import SimplexDisplay
from nextlens.analyses.displays.synchronisation import (
    PlateauDisplay,
    PosteriorDisplay,
    SynchronisationDisplay,
    loss_grid,
)
from nextlens.analyses.synchronisation import ComponentReading
from nextlens.analyses.synchronisation_numbers import Results, by_source, curve_of, levels_of
from nextlens.analyses.synchronisation_training import SynchronisationRecipe


def draw(recipe: SynchronisationRecipe, results: Results, folder: Path) -> list[Path]:
    """The figures of a run as PNG, PDF and SVG; the paths of the PNGs."""
    seeds = f"{len(recipe.seeds)} seeds"
    losses = {
        name: SynchronisationDisplay(
            floor=next(iter(kinds.values())).losses[0].floor.values,
            losses={kind: np.array([one.loss.values[1:] for one in m.losses]) for kind, m in kinds.items()},
            rate=next(iter(kinds.values())).losses[0].attrs["rate"],
        )
        for name, kinds in by_source(results).items()
    }
    figures = {"loss": loss_grid(losses, caption=f"In-context loss against myopic entropies; {seeds}, one mark each.")}
    for measured in results.values():
        if measured.readings:
            figures["posterior"] = posterior_display(measured.readings).plot().figure_
            figures["simplex"] = simplex_figure(measured.readings[0], recipe.seeds[0])
    plateaus = plateau_displays(results)
    if plateaus:
        figures["training"] = _side_by_side(
            plateaus, f"Mean excess of the second half of the context; {seeds}, a line each."
        )
    paths = []
    for name, figure in figures.items():
        paths.append(style.save(figure, folder / name)[0])
        plt.close(figure)
    return paths


def posterior_display(readings: Sequence[ComponentReading]) -> PosteriorDisplay:
    """R² of the posterior by tokens read, beside the untrained twin's, and what the exact one leaves unknown."""
    at = [one.by_position() for one in readings]
    unsure = at[0].uncertainty.values / np.log(readings[0].posterior.shape[1])
    return PosteriorDisplay(
        read=at[0].read.values,
        scores={name: np.array([one[name].values for one in at]) for name in ("probe", "untrained twin")},
        uncertainty=unsure,
        caption=f"Held out by prefix, {readings[0].scores.site.values[-1]}; {len(readings)} seeds, bars their range. "
        "Still unknown: entropy of the exact posterior over that of the prior.",
    )


def simplex_figure(reading: ComponentReading, seed: int) -> Figure:
    """The posterior exact, read and read off the twin: the figure."""
    rows = reading.position >= 1
    r2 = reading.scores.r2.sel(target="component").isel(site=-1)
    trained, twin = (float(r2.sel(predictor=name)) for name in ("probe", "untrained twin"))
    return (
        SimplexDisplay(
            truth=reading.posterior[rows],
            guess=reading.guess[rows],
            untrained=reading.untrained[rows],
            weights=reading.weights[rows],
            caption=f"Posterior of the components (corners) from the second token on; seed {seed}, held out by "
            f"prefix: R² {trained:.3f}, untrained {twin:.3f}.",
        )
        .plot_row()
        .figure_
    )


def plateau_displays(results: Results) -> dict[str, PlateauDisplay]:
    """Late excess in training, by source."""
    found = {}
    for name, kinds in by_source(results).items():
        curves = {kind: [curve_of(curve) for curve in m.curves] for kind, m in kinds.items() if m.curves}
        if curves:
            steps = next(iter(curves.values()))[0][0][1:]
            late = {kind: np.array([one[1][1:] for one in each]).clip(1e-9) for kind, each in curves.items()}
            levels = levels_of(next(iter(kinds.values())).losses[0])
            found[name] = PlateauDisplay(steps=steps, curves=late, levels=levels)
    return found


def _side_by_side(displays: Mapping[str, PlateauDisplay], caption: str) -> Figure:
    with style.printed():
        figure = style.new_figure(style.DOUBLE_COLUMN, 2.5)
        style.caption_beneath(figure, caption)
        axes = figure.subplots(1, len(displays), squeeze=False)[0]
        for k, (ax, (name, display)) in enumerate(zip(axes, displays.items(), strict=True)):
            display.plot(ax, title=name.replace("_", " "), label=k == 0)
    return figure
