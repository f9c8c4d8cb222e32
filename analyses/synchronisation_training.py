"""What is trained to ask how models synchronise: all that decides the numbers of a run, and curves on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from nextlens.analyses.emergence import measured_after
from nextlens.analyses.model_training import Training, for_seeds, progress_bar, steps_done, training_steps
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.analyses.synchronisation import Source, sources
from nextlens.models.arguments import at_least, one_of
from nextlens.models.recurrent import RecurrentConfig
from nextlens.models.training import over_seeds
from nextlens.models.transformer import TransformerConfig

#: Layers, heads and width of a transformer, and its share of the steps, where they are not these.
SHAPE, SHAPES = (2, 2, 32, 1.0), {"three_mess3": (3, 2, 64, 2.0)}
#: The source whose components are probed for.
PROBED = "three_mess3"
#: Sources in whose training a phase change is looked for, in transformers and GRUs.
FOLLOWED = ("mr_name", "names")
#: Sampled words that a run is followed by; moments a decade of steps.
FOLLOWED_WORDS, MOMENTS = 300, 16


@dataclass(frozen=True)
class SynchronisationRecipe(WrittenRecipe):
    """All that decides the numbers of a run: JSON-able, compared by value.

    Parameters
    ----------
    names : tuple of str
        Of :func:`~nextlens.analyses.synchronisation.sources`.
    steps, batch_size : int
        Steps of Adam, and words in each batch; the mixture of three Mess3 takes twice as many steps.
    learning_rate : float
        The largest: it rises over a tenth of the steps, at most 100, then falls along half a cosine to 0.
    words : int
        Sampled words by whose prefixes models are measured, where not all are listed.
    seeds : tuple of int
        Each decides the first weights and the data of one model of every source.

    Raises
    ------
    ValueError
        If a value is out of range, or a name unknown.
    """

    names: tuple[str, ...] = tuple(sources())
    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 3e-3
    words: int = 1500
    seeds: tuple[int, ...] = (0, 1, 2, 3)

    def __post_init__(self) -> None:
        for name, least in (("steps", 2), ("batch_size", 1), ("words", 10)):
            at_least(name, getattr(self, name), least)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be above 0")
        known = sources()
        for name in self.names:
            one_of("source", name, known)
        for what in ("names", "seeds"):
            given = getattr(self, what)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{what}={given!r} must hold at least one, each once")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must be 0 or more")

    @property
    def sources(self) -> dict[str, Source]:
        known = sources()
        return {name: known[name] for name in self.names}

    def trainings(self) -> dict[tuple[str, str], list[Training]]:
        """By source and architecture, one training a seed."""
        found = {}
        for name, source in self.sources.items():
            layers, heads, width, share = SHAPES.get(name, SHAPE)
            alphabet, steps = source.process.n_tokens, round(self.steps * share)
            settings = {"steps": steps, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
            transformer = TransformerConfig(alphabet, n_layers=layers, n_heads=heads, d_model=width, n_ctx=source.n_ctx)
            configs = {"transformer": transformer}
            if name in FOLLOWED:
                configs["GRU"] = RecurrentConfig(alphabet, kind="GRU", n_layers=1, d_model=width)
            for kind, config in configs.items():
                one = Training(f"{name}-{kind.lower()}", source.process, config, length=source.n_ctx, **settings)
                found[name, kind] = for_seeds(one, self.seeds)
        return found

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating("nextlens belief mixture", self, SynchronisationRecipe(), repeated={"names": "source"})


def train_followed(
    recipe: SynchronisationRecipe,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> None:
    """Train every model, each in a process of its own; those of :data:`FOLLOWED` with a curve in their notes.

    Of each moment the curve keeps ``step`` and ``excess``, the loss less the least by position, nats, over the
    prefixes of sampled words.
    """
    jobs = [(name, training) for (name, _), each in recipe.trainings().items() for training in each]
    behind = [steps_done(training.path(folder)) if resume else 0 for _, training in jobs]
    total = sum(training.steps for _, training in jobs)
    with progress_bar(folder, behind, total, show=progress) as report:
        work = partial(_train, jobs=jobs, folder=folder, resume=resume, device=device, report=report)
        over_seeds(work, range(len(jobs)), n_jobs=n_jobs)


def _train(
    run: int,
    *,
    jobs: Sequence[tuple[str, Training]],
    folder: Path,
    resume: bool,
    device: str,
    report: Callable[[int, int], None] | None,
) -> None:
    name, training = jobs[run]
    path, notes = training.path(folder), {"curve": []}
    due, prefixes = set(), None
    if name in FOLLOWED:
        due = set(measured_after(training.steps, MOMENTS).tolist())
        rng = np.random.default_rng(2)
        prefixes = Prefixes.of(training.process, training.length, n_words=FOLLOWED_WORDS, rng=rng)

    def follow(model, done: int) -> None:
        if done in due:
            notes["curve"].append({"step": done, "excess": excess_loss(model, prefixes).excess.values.tolist()})

    if not (resume and path.exists()):
        follow(training.model().to(device), 0)
    tell = None if report is None else partial(report, run)
    for step in training_steps(training, path, notes, resume=resume, device=device, report=tell):
        follow(step.model, step.index + 1)
