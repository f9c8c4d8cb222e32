"""A run in figures: the simplex, the layers, the emergence and the process itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nextlens.analyses.belief_geometry import BeliefGeometry, guesses
from nextlens.analyses.belief_numbers import DRAWN_NULLS, SeedResult, named, nulls_of
from nextlens.analyses.belief_training import BeliefRecipe, snapshot_of
from nextlens.analyses.displays import style
from nextlens.analyses.displays.emergence import EmergenceDisplay
from nextlens.analyses.displays.layers import LayersDisplay
from nextlens.analyses.displays.process_graph import ProcessDisplay
from nextlens.analyses.displays.simplex import SimplexDisplay
from nextlens.analyses.emergence import emergence, snapshots_after
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.models import checkpoints


def draw(recipe: BeliefRecipe, results: Mapping[int, SeedResult], folder: Path) -> dict[str, Path]:
    """The figures of a run, as PNG, PDF and SVG; the paths of the PNGs by name."""
    import matplotlib.pyplot as plt

    displays = {
        "simplex": simplex_display(recipe, results).plot_row(),
        "layers": layers_display(results).plot(),
        "emergence": emergence_display(recipe, results, folder).plot(),
        "process": ProcessDisplay(transition=recipe.made.transition, name=recipe.process).plot(),
    }
    paths = {}
    for name, display in displays.items():
        paths[name] = style.save(display.figure_, folder / name)[0]
        plt.close(display.figure_)
    return paths


def simplex_display(recipe: BeliefRecipe, results: Mapping[int, SeedResult]) -> SimplexDisplay:
    """Exact beliefs, what is read off the first seed's model, and off its untrained twin."""
    seed, first = next(iter(results.items()))
    geometry = first.geometry
    caption = (
        f"{named(recipe)}: {len(geometry.truth):,} prefixes, {geometry.site}, seed {seed}, "
        f"{protocol_of(geometry)}: R² {geometry.r2():.4f}, untrained {geometry.r2('untrained twin'):.3f}."
    )
    return SimplexDisplay(
        truth=geometry.truth,
        guess=geometry.guess,
        untrained=geometry.untrained,
        weights=geometry.weights,
        caption=caption,
    )


def protocol_of(geometry: BeliefGeometry) -> str:
    """The protocol's name, marked if it is in sample."""
    attrs = geometry.scores.attrs
    return f"{attrs['protocol']}{' (in sample)' * attrs['in_sample']}"


def layers_display(results: Mapping[int, SeedResult]) -> LayersDisplay:
    """Variance left unexplained by site, beside the untrained twin and what tokens and next-token laws give."""
    geometries = [one.geometry for one in results.values()]

    def missed(predictor: str) -> Float[np.ndarray, "seed site"]:
        return 1.0 - np.stack([g.scores.r2.sel(predictor=predictor).values for g in geometries])

    nulls: dict[str, Any] = {"untrained": missed("untrained twin")}
    for null, name in DRAWN_NULLS.items():
        if null in nulls_of(geometries):
            left = 1.0 - float(np.mean([g.nulls.r2.sel(null=null) for g in geometries]))
            nulls |= {name: left} if left > 0 else {}
    attrs = geometries[0].scores.attrs
    return LayersDisplay(
        sites=[str(site) for site in geometries[0].scores.site.values],
        scores={"trained": missed("probe")},
        nulls=nulls,
        quantity="1 − R² of the belief",
        scale="log" if all(np.min(values) > 0 for values in (missed("probe"), *nulls.values())) else "linear",
        caption=f"{protocol_of(geometries[0])}, folds: {attrs['folds']}; {len(geometries)} seeds, bars their range.",
    )


def emergence_display(recipe: BeliefRecipe, results: Mapping[int, SeedResult], folder: Path) -> EmergenceDisplay:
    """Loss and probe error against tokens, and three moments of the first seed's cloud."""
    curves = emergence({seed: one.curve for seed, one in results.items()}).isel(step=slice(1, None))
    seed, first = next(iter(results.items()))
    prefixes = Prefixes.of(recipe.made, recipe.config(seed).n_ctx)
    snapshots = []
    for done in snapshots_after(recipe.steps)[:-1]:
        model = checkpoints.load(snapshot_of(folder, seed, done))
        read = guesses(model, prefixes, first.held_out.site)
        snapshots.append((done * recipe.batch_size * prefixes.n_ctx, read))
    snapshots.append((float(curves.tokens[-1]), first.held_out.guess))
    return EmergenceDisplay(
        tokens=curves.tokens.values,
        loss_over_optimum=curves.loss_over_optimum.values,
        mse=curves.mse.values,
        r2=curves.r2.values,
        snapshots=snapshots,
        truth=first.geometry.truth,
        weights=first.geometry.weights,
        caption=f"Held out by prefix, {first.held_out.site}; {len(results)} seeds, clouds of seed {seed}.",
    )
