"""Figures of a comparison of objectives on a process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nextlens.analyses.displays import style
from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.objectives_measures import offsets_of
from nextlens.analyses.objectives_numbers import Results, spectra
from nextlens.analyses.objectives_recipe import ObjectivesRecipe

#: Singular values shown.
SHOWN = 16


def draw(recipe: ObjectivesRecipe, results: Results, numbers: Mapping[str, Any], folder: Path) -> None:
    """``spectrum``, ``future``, and ``updater`` and ``registers`` if they were measured, in ``folder``."""
    seeds = f"{len(recipe.seeds)} seed{'s' * (len(recipe.seeds) > 1)}; bands: all of them"
    for name, display in _displays(recipe, results, numbers, seeds).items():
        style.save(display.plot().figure_, folder / name)


def _displays(
    recipe: ObjectivesRecipe, results: Results, numbers: Mapping[str, Any], seeds: str
) -> dict[str, CurvesDisplay]:
    shown = {name: rows[:, :SHOWN].clip(1e-6) for name, rows in spectra(recipe, results).items()}
    rank = numbers["effective_rank"]
    named = {f"{name}: rank {rank[name]['mean']:.1f}": rows for name, rows in shown.items()}
    offsets = offsets_of(recipe)
    future = {
        name: np.array([[results[name, seed]["future"][d]["probe"] for d in offsets] for seed in recipe.seeds])
        for name in recipe.objectives
    }
    usual = np.array([numbers["future_tokens"][str(d)]["law of any token"] for d in offsets])
    displays = {
        "spectrum": _curves(
            np.arange(1, 1 + shown["next-token"].shape[1]),
            named,
            xlabel="direction",
            ylabel="share of singular values",
            caption=f"final states, not centred; {seeds}",
        ),
        "future": _curves(
            np.array(offsets),
            future,
            references={"law of any token": usual},
            xlabel="tokens ahead",
            ylabel="KL to the exact law (nats)",
            caption=f"affine probes of frozen final states; {seeds}",
        ),
    }
    if "next-latent" in recipe.objectives:
        updaters = [results["next-latent", seed]["updater"] for seed in recipe.seeds]
        names = {
            "dynamics alone": "rolled_out",
            "transformer": "transformer",
            "state that never moves": "first_state",
        }
        left = {shown: np.array([1 - one[name].values for one in updaters]) for shown, name in names.items()}
        displays["updater"] = _curves(
            updaters[0].position.values + 1,
            left,
            xlabel="tokens read",
            ylabel="1 - R² of the belief",
            caption=f"trained on {recipe.length} tokens; {seeds}",
        )
    if "registers" in recipe.objectives:
        horizons = {
            "trained register": [results["registers", seed]["horizon"] for seed in recipe.seeds],
            "untrained register": [results["next-token", seed]["horizon"] for seed in recipe.seeds],
        }
        away = {name: np.array([np.diag(one.kl.values) for one in found]) for name, found in horizons.items()}
        marginal = horizons["trained register"][0].marginal.values
        displays["registers"] = _curves(
            np.array(offsets),
            away,
            references={"law of any token": marginal},
            xlabel="tokens ahead",
            ylabel="KL to the exact law (nats)",
            caption=f"registers that claim this offset by position; {seeds}",
        )
    return displays


def _curves(along: np.ndarray, rows: Mapping[str, Float[np.ndarray, "seed place"]], **how: Any) -> CurvesDisplay:
    """Means over seeds with bands from the least to the largest, on a logarithmic scale."""
    return CurvesDisplay(
        along=along,
        values={name: one.mean(0) for name, one in rows.items()},
        intervals={name: np.stack([one.min(0), one.max(0)]) for name, one in rows.items()} if _several(rows) else None,
        yscale="log",
        **how,
    )


def _several(rows: Mapping[str, np.ndarray]) -> bool:
    return len(next(iter(rows.values()))) > 1
