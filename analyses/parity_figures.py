"""Parity, next-token training and what reinforcement follows, in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from nextlens.analyses.displays import style
from nextlens.analyses.displays.curves import CurvesDisplay
from nextlens.analyses.displays.reinforcement import ReinforcementDisplay
from nextlens.analyses.parity_numbers import Results, by_seed, exact
from nextlens.analyses.parity_recipe import ParityRecipe
from nextlens.analyses.parity_training import ParitySeed
from nextlens.models.tasks.parity import after_selection, probability_of_stopping


def draw(recipe: ParityRecipe, results: Results, folder: Path) -> list[Path]:
    """The figures of a run as PNG, PDF and SVG; the paths of the PNGs."""
    seeds = list(results.values())
    figures = {
        "what_changed": changed_display(recipe, seeds).plot().figure_,
        "course": side_by_side(course_displays(recipe, seeds), f"Means; bands: range of {len(seeds)} seeds."),
        "star": star_display(recipe, seeds).plot().figure_,
        "threshold": side_by_side(
            threshold_displays(recipe, seeds),
            f"Next-token training alone, {recipe.n_bits} bits; means, bands: range of {len(seeds)} seeds. Exact: the "
            "best predictor for which a short answer is a fair coin.",
        ),
        "steering": side_by_side(
            steering_displays(seeds),
            "The state after the first block at the first token said, pushed from short towards long answers; means, "
            f"bands: range of {len(seeds)} seeds.",
        ),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(style.save(figure, folder / name)[0])
        plt.close(figure)
    return paths


def changed_display(recipe: ParityRecipe, seeds: Sequence[ParitySeed]) -> ReinforcementDisplay:
    """What GRPO changed: the figure of the question."""
    models, last = ("before", "after"), recipe.n_layers - 1
    found = [one.changed for one in seeds]
    return ReinforcementDisplay(
        next_parity={m: [one.next_parity.sel(model=m, layer=last).values for one in found] for m in models},
        full_parity={m: [float(one.full_parity.sel(model=m, layer=last)) for one in found] for m in models},
        stop={m: by_seed(seeds, "policy", "stop")[:, at] for m, at in zip(models, (0, -1), strict=True)},
        theory=probability_of_stopping(recipe.p_chain),
        state=[one.state.values for one in found],
        caption=f"{recipe.n_bits} bits, {recipe.p_chain:.0%} long answers; before and after GRPO; {len(seeds)} seeds, "
        "bands and dots. Probes: ridge on the last block, held out.",
    )


def course_displays(recipe: ParityRecipe, seeds: Sequence[ParitySeed]) -> dict[str, CurvesDisplay]:
    """Greedy accuracy and the share of long answers: in next-token training, after it, and from too early."""
    parts = {
        "next-token training": ("pretraining", "log"),
        "then GRPO": ("policy", "linear"),
        f"GRPO from step {recipe.early}": ("early", "linear"),
    }
    named = {"greedy accuracy": "greedy_accuracy", "long, sampled": "sampled_long"}
    return {
        title: curves(
            getattr(seeds[0], part).step.values,
            {name: by_seed(seeds, part, measure) for name, measure in named.items()},
            xlabel="steps",
            ylabel="share" if part == "pretraining" else "",
            xscale=scale,
        )
        for title, (part, scale) in parts.items()
    }


def star_display(recipe: ParityRecipe, seeds: Sequence[ParitySeed]) -> CurvesDisplay:
    """The share of long answers among those kept, round by round, beside 2q/(1+q) of the share sampled."""
    sampled, kept = (by_seed(seeds, "star", name)[:, :-1] for name in ("sampled", "kept"))
    rounds = np.arange(1, recipe.rounds + 1)
    return curves(
        rounds,
        {"kept": kept, "sampled": sampled},
        references={
            "2q/(1+q)": (2 * sampled / (1 + sampled)).mean(0),
            "from the data": np.array([after_selection(recipe.p_chain, int(n)) for n in rounds]),
        },
        xlabel="round of STaR",
        ylabel="share of long answers",
        caption=f"{recipe.n_samples:,} samples a round; means, bands: range of {len(seeds)} seeds. From the data: "
        f"odds of {recipe.p_chain:g} doubled every round.",
    )


def threshold_displays(recipe: ParityRecipe, seeds: Sequence[ParitySeed]) -> dict[str, CurvesDisplay]:
    """Greedy accuracy, and P(END | the first token fits), by the share of long answers."""
    shares = np.array(recipe.shares)
    best = [float(exact(recipe, share).greedy_accuracy) for share in recipe.shares]
    stop = [probability_of_stopping(share) for share in recipe.shares]
    wanted = {"greedy accuracy": ("greedy_accuracy", best), "P(end | first token fits)": ("stop", stop)}
    return {
        name: curves(
            shares,
            {"measured": by_seed(seeds, "sweep", measure)},
            references={"exact": np.array(reference)},
            xlabel="share of long answers",
            ylabel=name,
        )
        for name, (measure, reference) in wanted.items()
    }


def steering_displays(seeds: Sequence[ParitySeed]) -> dict[str, CurvesDisplay]:
    """Greedy accuracy and the probability of stopping under steering, before and after GRPO."""
    named = {"greedy accuracy": "greedy_accuracy", "P(end | fits)": "stop"}
    return {
        f"{model} GRPO": curves(
            seeds[0].steering.push.values,
            {name: np.array([one.steering[m].sel(model=model).values for one in seeds]) for name, m in named.items()},
            xlabel="push (differences of means)",
            ylabel="share, probability" if model == "before" else "",
        )
        for model in ("before", "after")
    }


def curves(along: object, rows: Mapping[str, Float[np.ndarray, "seed place"]], **how: object) -> CurvesDisplay:
    """Means over seeds, with the range of seeds as bands."""
    return CurvesDisplay(
        along=along,
        values={name: values.mean(0) for name, values in rows.items()},
        intervals={name: [values.min(0), values.max(0)] for name, values in rows.items()},
        **how,
    )


def side_by_side(displays: Mapping[str, CurvesDisplay], caption: str) -> Figure:
    """Shares, each a panel."""
    with style.printed():
        figure = style.new_figure(style.DOUBLE_COLUMN, 2.4)
        style.caption_beneath(figure, caption)
        for ax, (name, display) in zip(figure.subplots(1, len(displays)), displays.items(), strict=True):
            ax.set_ylim(-0.03, 1.05)
            display.plot(ax, title=name)
    return figure
