"""Models to train on processes: each saved as it goes, all of them under one bar, interruptible at any moment."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from tqdm import tqdm

from nextlens.models import checkpoints
from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.processes import FactoredProcess, Process
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.training import Step, over_seeds, train, warmup_cosine
from nextlens.models.transformer import Transformer, TransformerConfig

Result = TypeVar("Result")

#: Seconds between checkpoints: what an interruption can cost.
SAVE_EVERY = 5.0


@runtime_checkable
class Source(Protocol):
    """What a model can be trained on: fresh batches without end, of so many tokens."""

    @property
    def n_tokens(self) -> int: ...

    def batches(self, size: int, length: int, rng: np.random.Generator) -> Iterator[Batch]: ...


@dataclass(frozen=True, eq=False)
class Training:
    """One model and the stream it is trained on: all that decides its weights.

    Parameters
    ----------
    name : str
        Of the folder its checkpoint is kept in.
    process : Process, FactoredProcess or other source
        A task or a corpus is one too: whatever has ``n_tokens`` and ``batches(size, length, rng)``.
    config : TransformerConfig or RecurrentConfig
        Its seed decides the first weights, and the data too.
    steps, batch_size : int
        Steps of Adam, and words in each batch.
    learning_rate : float
        The largest: it rises over ``warmup`` steps, then falls along half a cosine to 0.
    warmup : int, optional
        A tenth of the steps but at most 100 if None.
    length : int, optional
        Positions of a word; the context of a transformer if None.

    Raises
    ------
    ValueError
        If a value is out of range, or the process and the model have different alphabets.
    """

    name: str
    process: Source
    config: TransformerConfig | RecurrentConfig
    steps: int
    batch_size: int = 256
    learning_rate: float = 5e-3
    warmup: int | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        if self.warmup is None:
            object.__setattr__(self, "warmup", min(100, self.steps // 10))
        if self.length is None:
            if not isinstance(self.config, TransformerConfig):
                raise ValueError("length=None is the context of a transformer; a recurrent network needs a number")
            object.__setattr__(self, "length", self.config.n_ctx)
        for name, minimum in (("steps", 1), ("batch_size", 1), ("warmup", 0), ("length", 1)):
            at_least(name, getattr(self, name), minimum)
        if self.warmup >= self.steps:
            raise ValueError(f"warmup={self.warmup} must be below steps={self.steps}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be above 0")
        if self.config.n_tokens != self.process.n_tokens:
            raise ValueError(
                f"config.n_tokens={self.config.n_tokens}, and {_named(self.process)!r} has {self.process.n_tokens}"
            )

    def model(self) -> Transformer | Recurrent:
        """A new one, untrained."""
        return Transformer(self.config) if isinstance(self.config, TransformerConfig) else Recurrent(self.config)

    def path(self, folder: Path) -> Path:
        """Where its checkpoint is kept."""
        return folder / self.name / checkpoints.FILE_NAME

    def as_json(self) -> dict[str, Any]:
        """All that decides the weights, JSON-able; the process by its name and a digest of its tensors.

        Of another source than a process there is no digest; give ``training_steps`` the recipe that made it.
        """
        values = {name: getattr(self, name) for name in ("steps", "batch_size", "learning_rate", "warmup", "length")}
        kind = type(self.config).__name__
        process = {"name": self.process.name, "sha256": _digest(self.process)}
        return json.loads(json.dumps({**values, "config": {"kind": kind, **asdict(self.config)}, "process": process}))


def training_steps(
    training: Training,
    path: Path,
    notes: dict[str, Any],
    *,
    recipe: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
) -> Iterator[Step]:
    """Train, and save to ``path`` every few seconds and at the end, after the caller has seen the step.

    Parameters
    ----------
    training : Training
    path : Path
        Of the checkpoint.
    notes : dict
        JSON-able; what it holds is saved with every checkpoint, and put back from the one that is gone on
        with. ``notes["cpu"]`` counts the CPU seconds.
    recipe : mapping, optional
        JSON-able: what must agree for a run to be gone on with; that of ``training`` if None.
    resume : bool, default=False
        Go on from ``path`` if it exists; on the CPU that gives what the uninterrupted run gives, bit for bit.
    device : str, default="cpu"
    report : callable, optional
        Told after every step, once it is saved if that was due, how many lie behind.

    Yields
    ------
    Step
        A run that was finished yields none; its model is the checkpoint's.

    Raises
    ------
    ValueError
        If ``resume`` finds a checkpoint of another recipe.
    """
    recipe = training.as_json() if recipe is None else recipe
    state = _resumed(path, recipe, notes) if resume and path.exists() else None
    model = (training.model() if state is None else checkpoints.load(path)).to(device)
    rng = np.random.default_rng([training.config.seed, 1])
    before, started, saved = notes.get("cpu", 0.0), time.process_time(), time.monotonic()
    for step in train(
        model,
        training.process.batches(training.batch_size, training.length + 1, rng),
        steps=training.steps,
        optimiser=partial(torch.optim.Adam, lr=training.learning_rate, fused=True),
        schedule=warmup_cosine(training.steps, warmup=training.warmup),
        resume=state,
    ):
        yield step
        done = step.index + 1
        if done == training.steps or time.monotonic() - saved > SAVE_EVERY:
            notes["cpu"] = before + time.process_time() - started
            made_by = {**notes, "recipe": recipe, "seed": training.config.seed, "step": done}
            checkpoints.save(path, step.model, made_by=made_by, training=step.state())
            saved = time.monotonic()
        if report is not None:
            report(done)


def train_all(
    trainings: Sequence[Training],
    folder: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Transformer | Recurrent]:
    """Train every model, each in a process of its own, and load them.

    Parameters
    ----------
    trainings : sequence of Training
        Of different names.
    folder : Path
        Each checkpoint is in the folder of its training's name.
    resume : bool, default=False
        Go on with what is there; begin anew if False.
    device : str, default="cpu"
    n_jobs : int, optional
        Models trained at once; as many as there are processors if None.
    progress : bool, default=False
        One bar over all models.

    Returns
    -------
    dict
        Models by name, in the order given.

    Raises
    ------
    ValueError
        If two trainings have one name, or ``resume`` finds a checkpoint of another recipe.
    """
    names = [training.name for training in trainings]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"trainings are called {names}; there must be at least one, each of its own name")
    folder = Path(folder)
    behind = [steps_done(training.path(folder)) if resume else 0 for training in trainings]
    total = sum(training.steps for training in trainings)
    with progress_bar(folder, behind, total, show=progress) as report:
        job = partial(_train_one, trainings=trainings, folder=folder, resume=resume, device=device, report=report)
        over_seeds(job, range(len(trainings)), n_jobs=n_jobs)
    return {training.name: checkpoints.load(training.path(folder), device=device) for training in trainings}


def each(
    job: Callable[..., Result],
    wanted: Sequence[tuple[Any, ...]],
    folder: Path,
    total: int,
    *,
    behind: Sequence[int] | None = None,
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[tuple[Any, ...], Result]:
    """What ``job`` gives for each of ``wanted``, several at once, behind one progress bar.

    Parameters
    ----------
    job : callable
        Called with the members of one of ``wanted``, and with ``report``, to be told how many steps lie behind.
    wanted : sequence of tuple
        Each once.
    folder : Path
    total : int
        Steps of all.
    behind : sequence of int, optional
        Steps of each that were done before; none if None.
    n_jobs : int, optional
        At once; as many as there are processors if None.
    progress : bool, default=False
    """
    with progress_bar(folder, list(behind or [0] * len(wanted)), total, show=progress) as report:
        one = partial(_numbered, job=job, wanted=wanted, report=report)
        return dict(zip(wanted, over_seeds(one, range(len(wanted)), n_jobs=n_jobs), strict=True))


def _numbered(
    number: int,
    *,
    job: Callable[..., Result],
    wanted: Sequence[tuple[Any, ...]],
    report: Callable[[int, int], None] | None,
) -> Result:
    return job(*wanted[number], report=None if report is None else partial(report, number))


def steps_done(path: Path) -> int:
    """How many steps lie behind the checkpoint at ``path``; 0 if there is none."""
    return int(checkpoints.recipe(path)["made_by"]["step"]) if path.exists() else 0


def notes_of(path: Path) -> dict[str, Any]:
    """The notes saved with a checkpoint."""
    made_by = checkpoints.recipe(path)["made_by"]
    return {name: value for name, value in made_by.items() if name not in ("recipe", "seed", "step")}


def for_seeds(training: Training, seeds: Sequence[int]) -> list[Training]:
    """The same training for several seeds, named ``{name}-seed-{seed}``."""
    return [
        replace(training, name=f"{training.name}-seed-{seed}", config=replace(training.config, seed=seed))
        for seed in seeds
    ]


@contextmanager
def progress_bar(
    folder: Path, behind: Sequence[int], total: int, *, show: bool, description: str = "train"
) -> Iterator[Callable[[int, int], None] | None]:
    """One bar over several runs, wherever they go on: ``report(run, done)`` writes into a file they share.

    Parameters
    ----------
    folder : Path
        Of that file, which is removed at the end.
    behind : sequence of int
        How many steps of each run had been taken before.
    total : int
        Steps of all runs together.
    show : bool
        Whether there is a bar; if not, what is yielded is None.
    """
    if not show:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    path, ended = folder / ".progress", Event()
    np.array(behind, dtype=np.int64).tofile(path)

    def watch() -> None:
        with tqdm(total=total, initial=sum(behind), desc=description, unit="step", smoothing=0.05) as bar:
            while not ended.wait(0.5):
                bar.update(int(np.fromfile(path, dtype=np.int64).sum()) - bar.n)
            bar.update(int(np.fromfile(path, dtype=np.int64).sum()) - bar.n)

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield partial(_report, path)
    finally:
        ended.set()
        watcher.join()
        path.unlink(missing_ok=True)


def _report(path: Path, run: int, done: int) -> None:
    with open(path, "r+b") as file:
        file.seek(8 * run)
        file.write(np.int64(done).tobytes())


def _train_one(
    run: int,
    *,
    trainings: Sequence[Training],
    folder: Path,
    resume: bool,
    device: str,
    report: Callable[[int, int], None] | None,
) -> None:
    tell = None if report is None else partial(report, run)
    for _ in training_steps(trainings[run], trainings[run].path(folder), {}, resume=resume, device=device, report=tell):
        pass


def _resumed(path: Path, recipe: Mapping[str, Any], notes: dict[str, Any]) -> checkpoints.TrainingState:
    made_by = checkpoints.recipe(path)["made_by"]
    if made_by["recipe"] != recipe:
        raise ValueError(f"resume: {str(path)!r} was made by another recipe; delete it, or choose another folder")
    notes.update(notes_of(path))
    return checkpoints.load_training(path)


def _named(source: Source) -> str:
    return getattr(source, "name", type(source).__name__)


def _digest(process: Process | FactoredProcess) -> str:
    found = hashlib.sha256()
    for factor in getattr(process, "factors", (process,)):
        for values in (factor.transition, factor.functional, factor.initial):
            found.update(os.fsencode(str(values.shape)) + np.ascontiguousarray(values).tobytes())
    return found.hexdigest()
