"""Minimal generators against classical memory: a run in numbers, in figures, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from nextlens.analyses.displays import style
from nextlens.analyses.displays.generators import GeneratorsDisplay, RivalCurvesDisplay
from nextlens.analyses.displays.simplex import SimplexDisplay
from nextlens.analyses.generators_recipe import FOLLOWED_WORDS, N_CTX, GeneratorsRecipe
from nextlens.analyses.intervals import interval
from nextlens.analyses.minimal_generators import GENERATOR, MARKOV, RIVALS, TARGETS, TWIN
from nextlens.analyses.results_folder import NUMBERS
from nextlens.models.processes import process_by_name
from nextlens.models.processes.mixed_states import entropies

#: In-sample R² of cosines read off trained networks (arXiv 2507.07432), over its architectures.
PUBLISHED = {
    GENERATOR: dict.fromkeys(("mess3", "bloch_walk", "frdn", "moon"), (0.99, 1.0)),
    MARKOV: {"mess3": (0.5, 0.88), "bloch_walk": (0.42, 0.56), "moon": (0.36, 0.36)},
}
#: By which share the published error of the generator falls, and within how many words (20 to 40 epochs).
PUBLISHED_FALL, PUBLISHED_WORDS = 0.8, (20 * 25_600, 40 * 25_600)
Moment = dict[str, float | int]
#: One model: process, architecture, seed.
Named = tuple[str, str, int]


class ModelResult(NamedTuple):
    """What one model gave.

    Attributes
    ----------
    loss : xarray.Dataset
        Of :func:`~nextlens.analyses.prefix_rows.excess_loss`.
    loss_of_twin : float
        The untrained twin's loss over the optimum.
    published, held_out : xarray.Dataset
        By either protocol.
    curve : list of Moment
        The moments of :func:`followed`, with the ``step`` and the ``tokens`` that lie behind.
    cpu_seconds : float
        Of training and following, resumed stretches included.
    """

    loss: xr.Dataset
    loss_of_twin: float
    published: xr.Dataset
    held_out: xr.Dataset
    curve: list[Moment]
    cpu_seconds: float


def sum_up(recipe: GeneratorsRecipe, results: Mapping[Named, ModelResult]) -> dict[str, Any]:
    """Every number with its protocol, nulls, seeds, interval and the command that repeats it."""
    first = next(iter(results.values()))
    return {
        "models": {
            name: {
                kind: _of_kind([results[name, kind, seed] for seed in recipe.seeds]) for kind in recipe.architectures
            }
            for name in recipe.processes
        },
        "loss": {
            name: {
                kind: _losses(name, [results[name, kind, seed] for seed in recipe.seeds])
                for kind in recipe.architectures
            }
            for name in recipe.processes
        },
        "emergence": {
            name: {
                kind: {str(seed): results[name, kind, seed].curve for seed in recipe.seeds}
                for kind in recipe.architectures
            }
            for name in recipe.processes
        },
        "published": {target: {name: list(ends) for name, ends in by.items()} for target, by in PUBLISHED.items()},
        "protocols": {
            "quantum2025": _plain(first.published.attrs),
            "held_out": _plain(first.held_out.attrs),
            "cosine_r2": "squared correlation, over pairs of prefixes, of the cosine between two targets and that "
            "between what is read of them; quantum2025: each distinct prefix alike, or weighted; held_out: weighted",
            "loss": "exact: mean KL from the exact next-token law, by position; 'memory_gained' is the share of what "
            "reading the context can save over the stationary law of one token",
            "emergence": f"held out by prefix at the last layer, prefixes of {FOLLOWED_WORDS} sampled words",
            "interval_95": "Student's t over seeds",
        },
        "seeds": list(recipe.seeds),
        "cpu_seconds_of_training": {
            "-".join(map(str, name)): round(one.cpu_seconds, 1) for name, one in results.items()
        },
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
    }


def _of_kind(runs: Sequence[ModelResult]) -> dict[str, Any]:
    """Both protocols of one architecture on one process: ``{protocol: {target: {predictor: {score: interval}}}}``."""
    found: dict[str, Any] = {"dimensions": dict(zip(TARGETS, runs[0].held_out.dimensions.values.tolist(), strict=True))}
    for protocol in ("published", "held_out"):
        sets = [getattr(one, protocol) for one in runs]
        scores = [name for name, values in sets[0].items() if values.dims == ("target", "predictor")]
        found["quantum2025" if protocol == "published" else protocol] = {
            str(target): {
                str(predictor): cells
                for predictor in sets[0].predictor.values
                if (cells := _cells(sets, scores, target, predictor))
            }
            for target in sets[0].target.values
        }
    found["rows"] = {"quantum2025": runs[0].published.attrs["rows"], "held_out": runs[0].held_out.attrs["rows"]}
    return found


def _cells(sets: Sequence[xr.Dataset], scores: Sequence[str], target: str, predictor: str) -> dict[str, Any]:
    values = {score: [float(one[score].sel(target=target, predictor=predictor)) for one in sets] for score in scores}
    return {score: interval(by_seed) for score, by_seed in values.items() if np.isfinite(by_seed).all()}


def _losses(name: str, runs: Sequence[ModelResult]) -> dict[str, Any]:
    """Loss over the least possible, at every position and at the last; and how much of what memory saves is saved."""
    alone = float(entropies(process_by_name(name).opening[None])[0])
    optimum = runs[0].loss.optimum
    excess = np.array([one.loss.excess.values for one in runs])
    return {
        "loss_over_optimum": interval([one.loss.attrs["loss_over_optimum"] for one in runs]),
        "untrained_twin": interval([one.loss_of_twin for one in runs]),
        "memory_gained": interval((1 - excess.mean(1) / (alone - float(optimum.mean()))).tolist()),
        "optimum_by_position": optimum.values.tolist(),
        "excess_by_position": [interval(at.tolist()) for at in excess.T],
        "nats_of_one_token_alone": alone,
    }


def _plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in attrs.items()}


def draw(
    recipe: GeneratorsRecipe, numbers: Mapping[str, Any], results: Mapping[Named, ModelResult], folder: Path
) -> list[Path]:
    """The figures of a run as PNG, PDF and SVG; paths of the PNGs."""
    import matplotlib.pyplot as plt

    figures: dict[str, Any] = {"scores": _scores(numbers), "emergence": curves_display(numbers).plot().figure_}
    kind, seed = recipe.architectures[0], recipe.seeds[0]
    for name in recipe.processes:
        found, prefixes = results[name, kind, seed].held_out, recipe.prefixes(name)
        cloud = SimplexDisplay(
            truth=prefixes.beliefs.values,
            guess=found.reading.values,
            untrained=found.untrained_reading.values,
            weights=prefixes.weights,
            caption=f"{name}, {kind}, seed {seed}: {len(prefixes):,} prefixes of up to {prefixes.n_ctx} tokens; all "
            "layers, held out by prefix, rows weighted by probability.",
        )
        figures[f"cloud-{name}"] = cloud.plot_row().figure_
    paths = []
    for name, figure in figures.items():
        paths.append(style.save(figure, folder / name)[0])
        plt.close(figure)
    return paths


def _scores(numbers: Mapping[str, Any]) -> Figure:
    """The published protocol above the held-out one."""
    with style.printed():
        figure = style.new_figure(style.DOUBLE_COLUMN, 4.6)
        above, beneath = figure.subplots(2, 1)
        generators_display(numbers).plot(
            above, title="as published: all layers, fitted and scored on the same prefixes"
        )
        generators_display(numbers, protocol="held_out", score="r2", quantity="R²").plot(
            beneath, legend=False, title="held out by prefix, weighted by probability"
        )
        seeds, kinds = numbers["seeds"], numbers["recipe"]["architectures"]
        style.caption_beneath(
            figure,
            f"{len(seeds)} seeds of each architecture ({', '.join(kinds)}): mean and range; open: untrained twins. "
            "Grey: published ranges. The classical rival has 8 to 64 numbers, the generator 3 or 4.",
        )
    return figure


def generators_display(
    numbers: Mapping[str, Any],
    *,
    protocol: str = "quantum2025",
    score: str = "cosine_r2",
    quantity: str = "R² of cosines",
) -> GeneratorsDisplay:
    """One score of both rivals, read off every model and its untrained twin."""

    def of(predictor: str) -> dict[str, Any]:
        return {
            name: {
                kind: {
                    _called(target, numbers): found[protocol][target][predictor][score]["by_seed"] for target in RIVALS
                }
                for kind, found in kinds.items()
            }
            for name, kinds in numbers["models"].items()
        }

    published = {
        _called(target, numbers): {name: ends for name, ends in by.items() if name in numbers["models"]}
        for target, by in numbers["published"].items()
    }
    return GeneratorsDisplay(
        scores=of("probe"),
        untrained=of(TWIN),
        published=published if protocol == "quantum2025" else None,
        quantity=quantity,
    )


def curves_display(numbers: Mapping[str, Any]) -> RivalCurvesDisplay:
    """Errors of both rivals in training, held out, at the last layer."""
    per_word, curves = N_CTX, numbers["emergence"]
    return RivalCurvesDisplay(
        words={
            name: {kind: [one["tokens"] / per_word for one in next(iter(by.values()))] for kind, by in kinds.items()}
            for name, kinds in curves.items()
        },
        errors={
            name: {
                kind: {
                    _called(target, numbers): [[one[f"rmse {target}"] for one in curve] for curve in by.values()]
                    for target in RIVALS
                }
                for kind, by in kinds.items()
            }
            for name, kinds in curves.items()
        },
        caption=f"Held out by prefix at the last layer, over prefixes of {FOLLOWED_WORDS:,} sampled words; "
        f"{len(numbers['seeds'])} seeds, thick lines their median.",
    )


def _called(target: str, numbers: Mapping[str, Any]) -> str:
    """``Markov`` with its order."""
    return target.replace(MARKOV, f"{MARKOV}-{numbers['recipe']['order']}")


def summary(recipe: GeneratorsRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """What was done, both rivals read off every kind of model beside published numbers and nulls, and what holds."""
    rival, n = _called(MARKOV, numbers), len(numbers["seeds"])
    lines = [
        f"{', '.join(recipe.processes)}: {n} seed{'s' * (n > 1)} of {', '.join(recipe.architectures)}; R² of cosines "
        "as published (in sample), then held-out R²; mean over seeds [95 %], and the untrained twin's mean",
    ]
    for name, kinds in numbers["models"].items():
        for kind, found in kinds.items():
            gained = numbers["loss"][name][kind]["memory_gained"]
            lines.append(f"{name}, {kind}: {_spread(gained, 2)} of what memory can save of the loss is saved")
            lines += [_line(target, name, found, numbers) for target in RIVALS]
            beyond = [found["held_out"][target]["probe"]["r2"] for target in TARGETS[2:]]
            lines.append(
                f"    partial R² of the generator beyond {rival} {_spread(beyond[0], 2)}, of {rival} beyond the "
                f"generator {_spread(beyond[1], 2)}"
            )
    lines += [
        f"RMSE of the generator fell by {_falls(numbers)} in training (published: more than "
        f"{PUBLISHED_FALL:.0%} within {PUBLISHED_WORDS[0]:,} to {PUBLISHED_WORDS[1]:,} words)",
        f"look at    {folder / 'scores.png'}: does the generator stand above {rival}, and above its untrained twin?",
        f"           then emergence.png, the clouds, and {NUMBERS} beside it",
        f"repeat     {recipe.command}",
    ]
    return "\n".join(lines)


def _line(target: str, name: str, found: Mapping[str, Any], numbers: Mapping[str, Any]) -> str:
    ends = numbers["published"].get(target, {}).get(name)
    published = (
        "not published" if ends is None else f"published {'-'.join(f'{end:.2f}' for end in dict.fromkeys(ends))}"
    )
    cosines, fits = found["quantum2025"][target], found["held_out"][target]
    return (
        f"    {_called(target, numbers):18s} {_spread(cosines['probe']['cosine_r2'], 3)} ({published}; untrained "
        f"{cosines[TWIN]['cosine_r2']['mean']:.3f})   {_spread(fits['probe']['r2'], 3)} (untrained "
        f"{fits[TWIN]['r2']['mean']:.3f}, shuffle {fits['shuffle']['r2']['mean']:.3f})"
    )


def _spread(found: Mapping[str, Any], digits: int) -> str:
    ends = found["interval_95"]
    return f"{found['mean']:.{digits}f}" + (f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends else "")


def _falls(numbers: Mapping[str, Any]) -> str:
    """By which share the error of the generator fell, for every kind of model: mean over seeds."""
    falls = [
        f"{np.mean([1 - curve[-1][f'rmse {GENERATOR}'] / curve[0][f'rmse {GENERATOR}'] for curve in by.values()]):.0%} "
        f"({name}, {kind}, {next(iter(by.values()))[-1]['tokens'] // N_CTX:,} words)"
        for name, kinds in numbers["emergence"].items()
        for kind, by in kinds.items()
    ]
    return ", ".join(falls)
