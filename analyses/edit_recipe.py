"""All that decides the numbers of a run of edits."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nextlens.analyses.belief_training import BeliefRecipe, checkpoint_of
from nextlens.analyses.results_folder import RECIPE, read_json
from nextlens.models import checkpoints
from nextlens.models.arguments import at_least


@dataclass(frozen=True)
class EditRecipe:
    """All that decides the numbers of a run of edits.

    Parameters
    ----------
    trained : BeliefRecipe
        How the transformers come to be, and which sites are edited; its ``protocol`` is not used.
    pairs : int
        Pairs of contexts for each model.
    ahead : int
        How many tokens after the context are compared. Contexts are as long as the model's leaves room for.
    source : str, optional
        A results folder of ``nextlens belief`` whose checkpoints are edited; see :meth:`of_folder`. They are
        trained if None.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    trained: BeliefRecipe = field(default_factory=BeliefRecipe)
    pairs: int = 500
    ahead: int = 2
    source: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "trained", replace(self.trained, protocol="held-out"))
        for name in ("pairs", "ahead"):
            at_least(name, getattr(self, name), 1)
        if self.length < 1:
            raise ValueError(
                f"ahead={self.ahead} leaves no token of context in the {self.length + self.ahead - 1} of the model"
            )

    @classmethod
    def of_folder(cls, folder: str | os.PathLike[str], **settings: Any) -> EditRecipe:
        """To edit what ``nextlens belief`` trained in ``folder``.

        Raises
        ------
        ValueError
            If it holds no such run, or not the checkpoint of every seed at its last step.
        """
        path = Path(folder).resolve()
        if not (path / RECIPE).exists():
            raise ValueError(f"{str(folder)!r} holds no {RECIPE}: it is not a results folder of nextlens belief")
        trained = BeliefRecipe.from_json(read_json(path / RECIPE))
        for seed in trained.seeds:
            checkpoint = checkpoint_of(path, seed)
            done = checkpoints.recipe(checkpoint)["made_by"]["step"] if checkpoint.exists() else 0
            if done < trained.steps:
                raise ValueError(f"{str(folder)!r} has {done} of {trained.steps} steps of seed {seed}; finish it first")
        return cls(trained, source=str(path), **settings)

    @property
    def length(self) -> int:
        """Tokens in a context: with those ahead that are read too, as many as the model takes."""
        return self.trained.config(self.trained.seeds[0]).n_ctx - self.ahead + 1

    def as_json(self) -> dict[str, Any]:
        return {"trained": self.trained.as_json(), "pairs": self.pairs, "ahead": self.ahead, "source": self.source}

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        made = self.trained.command.removeprefix("nextlens belief ")
        words = ["nextlens belief edit", made if self.source is None else f"--from {self.source}"]
        for name in ("pairs", "ahead"):
            if getattr(self, name) != getattr(EditRecipe, name):
                words.append(f"--{name} {getattr(self, name)}")
        return " ".join(words)
