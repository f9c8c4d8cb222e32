"""The main job: several transformers trained on one process, probed, drawn and summed up in a folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy import stats
from tqdm import tqdm

from nextlens.analyses.belief_geometry import (
    BeliefGeometry,
    Prefixes,
    belief_geometry,
    constant_mse,
    excess_loss,
    guesses,
    paper2024_mse,
)
from nextlens.analyses.belief_training import BeliefRecipe, snapshot_of, steps_done, train_seed
from nextlens.analyses.displays import style
from nextlens.analyses.displays.emergence import EmergenceDisplay
from nextlens.analyses.displays.layers import LayersDisplay
from nextlens.analyses.displays.process_graph import ProcessDisplay
from nextlens.analyses.displays.simplex import SimplexDisplay
from nextlens.analyses.emergence import emergence, snapshots_after
from nextlens.analyses.results_folder import read_json, writable, write_json
from nextlens.models import checkpoints
from nextlens.models.training import over_seeds

#: In-sample mean squared errors at the last block, published by Shai et al. 2024 (arXiv:2405.15943,
#: authors' notebook for Mess3; figure 7E, read off, for RRXOR).
PUBLISHED_MSE = {"mess3": 0.00038635, "rrxor": 0.0245}
RECIPE, NUMBERS = "recipe.json", "numbers.json"


#: Nulls that come nearest to a good model, and what figures call them.
HARDEST_NULLS = {
    "last 2 tokens": "last 2 tokens",
    "last 4 tokens": "last 4 tokens",
    "its logarithm, exact": "log next-token law",
}


class SeedResult(NamedTuple):
    """What one seed gave: ``geometry`` by the protocol asked for, ``held_out`` by that one in any case."""

    loss: xr.Dataset
    geometry: BeliefGeometry
    held_out: BeliefGeometry
    mse_paper2024: float | None
    curve: list[dict[str, float]]
    n_parameters: int
    cpu_seconds: float


def run_seed(
    seed: int,
    *,
    recipe: BeliefRecipe,
    folder: Path,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int, int], None] | None = None,
) -> SeedResult:
    """Train one transformer, following it, then probe it beside its untrained twin."""
    tell = None if report is None else partial(report, seed)
    trained = train_seed(seed, recipe=recipe, folder=folder, resume=resume, device=device, report=tell)
    model, sites = trained.model, recipe.probed(trained.model)
    prefixes = Prefixes.of(recipe.made, model.config.n_ctx)
    twin = model.untrained()
    geometry = held_out = belief_geometry(model, twin, prefixes, sites=sites, protocol=recipe.protocol)
    if recipe.protocol != "held-out":
        held_out = belief_geometry(model, twin, prefixes, sites=sites[-1:])
    return SeedResult(
        excess_loss(model, prefixes),
        geometry,
        held_out,
        paper2024_mse(model, prefixes, sites[-1]).mse if prefixes.listed else None,
        trained.curve,
        sum(parameter.numel() for parameter in model.parameters()),
        trained.cpu_seconds,
    )


def run(
    recipe: BeliefRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Train, follow and probe one transformer a seed; write figures, checkpoints and ``numbers.json``.

    Seeds run one to a processor, or wherever ``joblib.parallel_config`` says.

    Parameters
    ----------
    recipe : BeliefRecipe
    folder : path
        Made if need be; results of a finished run in it are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``, which must be of the same recipe.
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
        If ``folder`` holds an unfinished run and ``resume`` is False, or a run of another recipe and it
        is True.
    """
    place = writable(folder)
    _agree(recipe, place, resume)
    write_json(place / RECIPE, recipe.as_json())
    job = partial(run_seed, recipe=recipe, folder=place, resume=resume, device=device)
    with progress_of(recipe, place, show=progress) as report:
        results = dict(zip(recipe.seeds, over_seeds(partial(job, report=report), recipe.seeds, n_jobs=n_jobs), strict=True))
    numbers = sum_up(recipe, results)
    draw(recipe, results, place)
    write_json(place / NUMBERS, numbers)
    return numbers


def _agree(recipe: BeliefRecipe, folder: Path, resume: bool) -> None:
    """Refuse to overwrite an unfinished run, or to go on with one of another recipe."""
    if not (folder / RECIPE).exists():
        return
    before = read_json(folder / RECIPE)
    done = {seed: steps_done(folder, seed) for seed in before.get("seeds", ())}
    if resume:
        now = recipe.as_json()
        for name in now:
            if before.get(name) != now[name]:
                raise ValueError(
                    f"resume: the run in {str(folder)!r} has {name}={before.get(name)!r}, not {now[name]!r}"
                )
    elif any(done.values()) and not (folder / NUMBERS).exists():
        far = ", ".join(f"{done[seed]} of {before['steps']} steps of seed {seed}" for seed in done)
        raise ValueError(
            f"{str(folder)!r} holds an unfinished run ({far}); go on with --resume, delete it, or choose another --out"
        )
    else:
        (folder / NUMBERS).unlink(missing_ok=True)


def sum_up(recipe: BeliefRecipe, results: Mapping[int, SeedResult]) -> dict[str, Any]:
    """Every number with its protocol, nulls, seeds, interval and the command that repeats it."""
    runs = list(results.values())
    geometries = [one.geometry for one in runs]
    prefixes = Prefixes.of(recipe.made, recipe.config(0).n_ctx)
    site = geometries[0].site
    over = interval([one.loss.attrs["loss_over_optimum"] for one in runs])
    numbers: dict[str, Any] = {"loss_over_optimum": over["mean"]}
    details = {
        "loss_over_optimum": {
            **over,
            "protocol": "mean over positions of the expected loss, exact next-token laws; 1 is the least possible"
            if prefixes.listed
            else "as for listed prefixes, over sampled ones",
            "null": {"untrained": runs[0].curve[0]["loss_over_optimum"]},
        },
    }
    protocols = {"held-out": [one.held_out for one in runs], recipe.protocol: geometries}
    for protocol, measured in protocols.items():
        name = key_of(protocol)
        details[name] = r2_beside_nulls(measured)
        numbers |= {name: details[name]["mean"]}
        for null, suffix in (("untrained twin", "untrained"), ("shuffle", "shuffled")):
            numbers[f"{name}_{suffix}"] = details[name]["nulls"][null]["mean"]
    if prefixes.listed:
        paper = interval([float(one.mse_paper2024 or 0.0) for one in runs])
        numbers |= {"mse_paper2024": paper["mean"], "mse_paper2024_constant": constant_mse(prefixes)}
        details["mse_paper2024"] = {
            **paper,
            "site": site,
            "protocol": "in sample, every word at every position, not weighted by probability (arXiv:2405.15943)",
            "nulls": {"constant predictor": constant_mse(prefixes)},
            "published": PUBLISHED_MSE.get(recipe.process) if not recipe.parameters else None,
        }
    return numbers | {
        "seeds": list(results),
        "parameters_of_model": runs[0].n_parameters,
        "details": details,
        "by_site": {
            predictor: {
                str(at): interval([float(g.scores.r2.sel(site=at, predictor=predictor)) for g in geometries])
                for at in geometries[0].scores.site.values
            }
            for predictor in PREDICTORS
        },
        "by_position": {
            **{
                key: [interval([float(one.loss[key][t]) for one in runs]) for t in range(prefixes.n_ctx)]
                for key in ("loss", "optimum")
            },
            "r2": [interval(at) for at in zip(*(g.r2_by_position().tolist() for g in geometries), strict=True)],
        },
        "emergence": {str(seed): one.curve for seed, one in results.items()},
        "cpu_seconds_of_training": {str(seed): round(one.cpu_seconds, 1) for seed, one in results.items()},
        "recipe": recipe.as_json(),
        "repeat": recipe.command,
        "versions": {
            **{package: version(package) for package in ("nextlens", "torch", "numpy", "transformer-lens")},
            "python": platform.python_version(),
        },
    }


PREDICTORS = ("probe", "untrained twin", "shuffle")


def key_of(protocol: str) -> str:
    """What ``numbers.json`` calls the R² of a protocol.

    Examples
    --------
    >>> key_of("held-out")
    'r2_held_out'
    """
    return f"r2_{protocol.replace('-', '_')}"


def r2_beside_nulls(geometries: Sequence[BeliefGeometry]) -> dict[str, Any]:
    """R² at the last site over seeds, its protocol, and every null of the same protocol."""
    probe, *others = (interval([g.r2(name) for g in geometries]) for name in PREDICTORS)
    nulls = dict(zip(PREDICTORS[1:], others, strict=True))
    nulls |= {null: interval([float(g.nulls.r2.sel(null=null)) for g in geometries]) for null in _nulls(geometries)}
    return {**probe, "site": geometries[0].site, "protocol": geometries[0].scores.attrs, "nulls": nulls}


def _nulls(geometries: Sequence[BeliefGeometry]) -> list[str]:
    return [str(null) for null in geometries[0].nulls.null.values]


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds and its 95 % interval by Student's t; no interval from one seed.

    Examples
    --------
    >>> interval([1.0, 3.0])["mean"], interval([1.0])["interval_95"]
    (2.0, None)
    """
    array = np.asarray(values, dtype=float)
    mean, n = float(array.mean()), len(array)
    half = float(stats.t.ppf(0.975, n - 1) * array.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    return {
        "mean": mean,
        "interval_95": [mean - half, mean + half] if n > 1 else None,
        "by_seed": array.tolist(),
    }


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
        f"{geometry.scores.attrs['protocol']}: R² {geometry.r2():.4f}, untrained {geometry.r2('untrained twin'):.3f}."
    )
    return SimplexDisplay(
        truth=geometry.truth,
        guess=geometry.guess,
        untrained=geometry.untrained,
        weights=geometry.weights,
        caption=caption,
    )


def layers_display(results: Mapping[int, SeedResult]) -> LayersDisplay:
    """Variance left unexplained by site, beside the untrained twin and what tokens and next-token laws give."""
    geometries = [one.geometry for one in results.values()]

    def missed(predictor: str) -> Float[np.ndarray, "seed site"]:
        return 1.0 - np.stack([g.scores.r2.sel(predictor=predictor).values for g in geometries])

    nulls: dict[str, Any] = {"untrained": missed("untrained twin")}
    for null, name in HARDEST_NULLS.items():
        if null in _nulls(geometries):
            left = 1.0 - float(np.mean([g.nulls.r2.sel(null=null) for g in geometries]))
            nulls |= {name: left} if left > 0 else {}
    attrs = geometries[0].scores.attrs
    return LayersDisplay(
        sites=[str(site) for site in geometries[0].scores.site.values],
        scores={"trained": missed("probe")},
        nulls=nulls,
        quantity="1 − R² of the belief",
        scale="log",
        caption=f"Protocol {attrs['protocol']}, folds: {attrs['folds']}; {len(geometries)} seeds, bars their range.",
    )


def emergence_display(recipe: BeliefRecipe, results: Mapping[int, SeedResult], folder: Path) -> EmergenceDisplay:
    """Loss and probe error against tokens, and three moments of the first seed's cloud."""
    curves = emergence({seed: one.curve for seed, one in results.items()}).isel(step=slice(1, None))
    seed, first = next(iter(results.items()))
    prefixes = Prefixes.of(recipe.made, recipe.config(seed).n_ctx)
    snapshots = []
    for done in snapshots_after(recipe.steps)[:-1]:
        model = checkpoints.load(snapshot_of(folder, seed, done))
        read = guesses(model, prefixes, first.geometry.site)
        snapshots.append((done * recipe.batch_size * prefixes.n_ctx, read))
    snapshots.append((float(curves.tokens[-1]), first.geometry.guess))
    return EmergenceDisplay(
        tokens=curves.tokens.values,
        loss_over_optimum=curves.loss_over_optimum.values,
        mse=curves.mse.values,
        r2=curves.r2.values,
        snapshots=snapshots,
        truth=first.geometry.truth,
        weights=first.geometry.weights,
        caption=f"Held out by prefix, {first.geometry.site}; {len(results)} seeds, clouds of seed {seed}.",
    )


@contextmanager
def progress_of(recipe: BeliefRecipe, folder: Path, *, show: bool) -> Iterator[Callable[[int, int], None] | None]:
    """One bar over all seeds, wherever they run: each writes how far it is into a shared file."""
    if not show:
        yield None
        return
    path = folder / ".progress"
    np.zeros(len(recipe.seeds), dtype=np.int64).tofile(path)
    ended = Event()

    def watch() -> None:
        total = recipe.steps * len(recipe.seeds)
        with tqdm(total=total, desc="train", unit="step", smoothing=0.05) as bar:
            while not ended.wait(0.5):
                bar.update(int(np.fromfile(path, dtype=np.int64).sum()) - bar.n)
            bar.update(int(np.fromfile(path, dtype=np.int64).sum()) - bar.n)

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield partial(_report, path, recipe.seeds)
    finally:
        ended.set()
        watcher.join()
        path.unlink(missing_ok=True)


def _report(path: Path, seeds: Sequence[int], seed: int, done: int) -> None:
    with open(path, "r+b") as file:
        file.seek(8 * list(seeds).index(seed))
        file.write(np.int64(done).tobytes())


def summary(recipe: BeliefRecipe, numbers: Mapping[str, Any], folder: Path) -> str:
    """Ten lines: what was done, what came out beside its nulls, and what to look at."""
    details = numbers["details"]
    r2 = details[key_of(recipe.protocol)]
    lines = [
        f"{named(recipe)}: {len(numbers['seeds'])} transformers of {numbers['parameters_of_model']:,} parameters, "
        f"{recipe.steps:,} steps of {recipe.batch_size} words",
        _line("loss / optimum", details["loss_over_optimum"], 5, "1 is the best that any model can do"),
        _line(f"belief R², {recipe.protocol}", r2, 4, f"at {r2['site']}"),
        _line("  untrained twin", r2["nulls"]["untrained twin"], 3, "the number to beat: what the input alone gives"),
        _line("  shuffled beliefs", r2["nulls"]["shuffle"], 3, "must be about 0 or below"),
    ]
    for null, meaning in (
        ("last 4 tokens", "exact means: what a memory of four tokens gives"),
        ("its logarithm, exact", "affine in the log of the ideal next-token law"),
    ):
        if null in r2["nulls"]:
            lines.append(_line(f"  {HARDEST_NULLS[null]}", r2["nulls"][null], 4, meaning))
    if "mse_paper2024" in details:
        published = details["mse_paper2024"]["published"]
        beside = f"constant predictor {numbers['mse_paper2024_constant']:.4f}"
        note = f"in sample; published {published:.5f}; {beside}" if published else f"in sample; {beside}"
        lines.append(_line("MSE, paper's protocol", details["mse_paper2024"], 5, note))
    lines.append(f"look at    {folder / 'simplex.png'}: does the cloud read off the model repeat the exact one?")
    lines.append(f"           then layers.png, emergence.png, process.png and {NUMBERS} beside it")
    lines.append(f"repeat     {recipe.command}")
    return "\n".join(lines)


def named(recipe: BeliefRecipe) -> str:
    """The process and its parameters, as one would write them."""
    return f"{recipe.process}({', '.join(f'{name}={value:g}' for name, value in recipe.made.parameters.items())})"


def _line(name: str, found: Mapping[str, Any], digits: int, note: str) -> str:
    spread = found["interval_95"]
    bounds = f"[{spread[0]:.{digits}f}, {spread[1]:.{digits}f}]" if spread else "(one seed, no interval)"
    return f"{name:24s} {found['mean']:8.{digits}f}  {bounds:22s} {note}"
