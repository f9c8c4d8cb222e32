"""The main job: several transformers trained on one process, probed, drawn and summed up in a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from tqdm import tqdm

from nextlens.analyses.belief_figures import draw
from nextlens.analyses.belief_geometry import (
    Prefixes,
    belief_geometry,
    excess_loss,
    paper2024_mse,
)
from nextlens.analyses.belief_numbers import NUMBERS, SeedResult, sum_up
from nextlens.analyses.belief_training import BeliefRecipe, checkpoint_of, steps_done, train_seed
from nextlens.analyses.results_folder import read_json, writable, write_json
from nextlens.models.arguments import at_least
from nextlens.models.training import over_seeds

RECIPE = "recipe.json"


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
        excess_loss(twin, prefixes).attrs["loss_over_optimum"],
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
    if n_jobs is not None:
        at_least("n_jobs", n_jobs, 1)
    place = writable(folder)
    _agree(recipe, place, resume)
    write_json(place / RECIPE, recipe.as_json())
    job = partial(run_seed, recipe=recipe, folder=place, resume=resume, device=device)
    behind = [steps_done(place, seed) if resume else 0 for seed in recipe.seeds]
    with progress_of(recipe, place, behind, show=progress) as report:
        results = dict(
            zip(recipe.seeds, over_seeds(partial(job, report=report), recipe.seeds, n_jobs=n_jobs), strict=True)
        )
    numbers = sum_up(recipe, results)
    write_json(place / NUMBERS, numbers)
    draw(recipe, results, place)
    return numbers


def _agree(recipe: BeliefRecipe, folder: Path, resume: bool) -> None:
    """Clear away a finished run of this recipe; refuse whatever else would be lost, or cannot be gone on with."""
    path = folder / RECIPE
    if not path.exists():
        if resume:
            raise ValueError(f"resume: {str(folder)!r} holds no run to go on with")
        if (folder / NUMBERS).exists():
            raise ValueError(f"{str(folder)!r} holds a {NUMBERS} of something else; choose another folder")
        return
    try:
        before = BeliefRecipe.from_json(read_json(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not the recipe of a run: {error}; choose another folder") from error
    done = {seed: steps_done(folder, seed) for seed in before.seeds}
    finished = (folder / NUMBERS).exists()
    then, now = before.as_json(), recipe.as_json()
    other = next((f"{name}={then[name]!r}, not {now[name]!r}" for name in now if then[name] != now[name]), None)
    if resume and other:
        raise ValueError(f"resume: the run in {str(folder)!r} has {other}")
    if not resume and any(done.values()) and not finished:
        far = ", ".join(f"{done[seed]} of {before.steps} steps of seed {seed}" for seed in done)
        raise ValueError(
            f"{str(folder)!r} holds an unfinished run ({far}); go on with --resume, delete it, or choose another --out"
        )
    if not resume and finished:
        if other:
            raise ValueError(
                f"{str(folder)!r} holds the results of a run with {other}; delete it, or choose another --out"
            )
        (folder / NUMBERS).unlink()
        for seed in done:
            shutil.rmtree(checkpoint_of(folder, seed).parent, ignore_errors=True)


@contextmanager
def progress_of(
    recipe: BeliefRecipe, folder: Path, behind: Sequence[int], *, show: bool
) -> Iterator[Callable[[int, int], None] | None]:
    """One bar over all seeds, wherever they run: each writes how far it is into a shared file.

    ``behind`` says how many steps of each seed had been taken before.
    """
    if not show:
        yield None
        return
    path = folder / ".progress"
    np.array(behind, dtype=np.int64).tofile(path)
    ended = Event()

    def watch() -> None:
        total = recipe.steps * len(recipe.seeds)
        with tqdm(total=total, initial=sum(behind), desc="train", unit="step", smoothing=0.05) as bar:
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
