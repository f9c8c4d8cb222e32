"""Does a model that writes sums down know what it will come to? Countdown, learnt by several objectives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from nextlens.analyses.objectives_table import TableRecipe
from nextlens.models.decoding import complete
from nextlens.models.hooked import Hooked
from nextlens.models.tasks.countdown import Countdown
from nextlens.models.tasks.prompted import prompts_of

#: Questions of each split on which a model is measured.
MEASURED = 400
#: What is given and asked for, by name: sets of numbers and targets, each of training or held out from it.
SPLITS = {
    "known numbers, known target": {"numbers": "seen", "targets": "seen"},
    "new numbers, known target": {"numbers": "new", "targets": "seen"},
    "new numbers, new target": {"numbers": "new", "targets": "new"},
}
REACHES = (
    "share of answers, greedily, whose sums are true, use up all numbers, and end at the target; known: training may "
    "have had this set of numbers, in whatever order, and asked for this target; new: it never did"
)
ANY = "null: of all answers to these questions that keep the rules, the share that reaches the target"
KEEPS = "share of answers whose sums are true and use up all numbers, whatever they end at; new numbers, known targets"
#: What is measured, by name.
MEASURES = {
    **dict.fromkeys(SPLITS, REACHES),
    "keeps the rules": KEEPS,
    **{f"any such sums: {split}": ANY for split in SPLITS},
}


@dataclass(frozen=True)
class CountdownRecipe(TableRecipe):
    """What :class:`~nextlens.analyses.objectives_table.TableRecipe` says, of Countdown.

    Parameters
    ----------
    n_numbers, most, lowest, highest, largest, pauses
        Of :class:`~nextlens.models.tasks.countdown.Countdown`; small enough for a minute of one processor.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    objectives: tuple[str, ...] = ("next-token", "next-latent", "registers")
    n_layers: int = 4
    cpu_seconds: float | int = 60.0
    n_numbers: int = 3
    most: int = 12
    lowest: int = 1
    highest: int = 40
    largest: int = 60
    pauses: int = 4

    verb: ClassVar[str] = "countdown"
    protocols: ClassVar[Mapping[str, str]] = MEASURES

    @property
    def task(self) -> Countdown:
        return Countdown(self.n_numbers, self.most, self.lowest, self.highest, self.largest, self.pauses)

    @property
    def about(self) -> str:
        return f"countdown: {self.n_numbers} numbers up to {self.most}, targets {self.lowest} to {self.highest}"

    def measured(self, model: Hooked) -> dict[str, float]:
        """Of questions that depend on nothing but the task."""
        found = {name: countdown_measures(model, self.task, **split) for name, split in SPLITS.items()}
        return {
            **{name: one["reaches"] for name, one in found.items()},
            "keeps the rules": found["new numbers, known target"]["keeps"],
            **{f"any such sums: {name}": one["null"] for name, one in found.items()},
        }


def countdown_measures(
    model: Hooked, task: Countdown, *, numbers: str, targets: str, n: int = MEASURED
) -> dict[str, float]:
    """What a model answers to ``n`` questions of :data:`SPLITS`, greedily.

    Returns
    -------
    dict
        ``reaches``, ``keeps`` and ``null``: the share that ends at the target by the rules, that keeps the rules, and
        that reaches it of all answers that keep the rules.
    """
    drawn = task.draw(n, np.random.default_rng(5), numbers=numbers, targets=targets)
    prompts = prompts_of(drawn)
    said = complete(model, prompts.to(model.unembedding.device), task.length - prompts.shape[1])
    texts = [task.spelled(row) for row in np.concatenate([prompts.numpy(), said.cpu().numpy()], axis=1)]
    ends = [list(results(given, task.largest)) for given in drawn.tokens.values[:, : task.n_numbers].tolist()]
    reached = [np.mean(np.array(one) == target) for one, target in zip(ends, drawn.target.values, strict=True)]
    return {
        "reaches": float(np.mean([task.reaches(text) for text in texts])),
        "keeps": float(np.mean([task.left(text) is not None and len(task.left(text)) == 1 for text in texts])),
        "null": float(np.mean(reached)),
    }


def results(numbers: Sequence[int], largest: int) -> Iterator[int]:
    """Where each chain of operations ends that uses up ``numbers`` and keeps the rules, one after another."""
    if len(numbers) == 1:
        yield numbers[0]
        return
    for i, j in combinations(range(len(numbers)), 2):
        a, b = max(numbers[i], numbers[j]), min(numbers[i], numbers[j])
        rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
        for result in (a + b, a - b, a * b, *([a // b] if b and a % b == 0 else [])):
            if result <= largest:
                yield from results([result, *rest], largest)
