"""All that decides the numbers of a run on constrained beliefs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from nextlens.analyses.constrained_beliefs import SHORTEST
from nextlens.analyses.model_training import Training, for_seeds
from nextlens.analyses.prefix_rows import listable
from nextlens.analyses.recipes import repeating
from nextlens.models.arguments import at_least
from nextlens.models.processes import Process, mess3
from nextlens.models.transformer_config import TransformerConfig


@dataclass(frozen=True, order=True)
class Setting:
    """One process and one width of attention: Mess3 of ``x`` and ``alpha``, and how many heads.

    Raises
    ------
    ValueError
        If a value is out of range, or the process says every word alike.
    """

    x: float
    alpha: float
    heads: int = 1

    def __post_init__(self) -> None:
        at_least("heads", self.heads, 1)
        process = self.process
        if abs(self.alpha - 1 / 3) < 1e-6 or abs(self.x - 1 / 3) < 1e-6:
            raise ValueError(
                f"x={self.x!r}, alpha={self.alpha!r}: at one third {process.name!r} forgets or says nothing; "
                "there is no belief to look for"
            )

    @classmethod
    def of(cls, text: str) -> Setting:
        """The setting written as ``X,ALPHA,HEADS``, as on the command line.

        Raises
        ------
        ValueError
            If it is not three numbers, the last one whole; also as at birth.

        Examples
        --------
        >>> Setting.of("0.5,0.6,2")
        Setting(x=0.5, alpha=0.6, heads=2)
        """
        try:
            x, alpha, heads = text.split(",")
            numbers = float(x), float(alpha), int(heads)
        except ValueError:
            raise ValueError(f"setting={text!r} must be X,ALPHA,HEADS, such as 0.5,0.6,2") from None
        return cls(*numbers)

    def __str__(self) -> str:
        return f"{self.x!r},{self.alpha!r},{self.heads}"

    @property
    def process(self) -> Process:
        """Mess3."""
        return mess3(alpha=self.alpha, x=self.x)

    @property
    def name(self) -> str:
        """Of its folders and its entry among the numbers.

        Examples
        --------
        >>> Setting(0.5, 0.6, 2).name
        'x0.5-a0.6-2heads'
        """
        return f"x{self.x:g}-a{self.alpha:g}-{self.heads}head{'s' * (self.heads > 1)}"


@dataclass(frozen=True)
class ConstrainedRecipe:
    """All that decides the numbers of a run: JSON-able, compared by value.

    The transformers have one layer of width 64, an MLP of 256, learned positions and no beginning token, as in
    arXiv:2502.01954, which trains by Adam at 1e-4 on 15 million tokens, 128 words a step; heads share the width.
    Our default is a larger rate that falls to 0, on fewer tokens.

    Parameters
    ----------
    settings : tuple of Setting
        Each different.
    steps, batch_size : int
        Steps of Adam, and words in each batch.
    learning_rate : float
        The largest: it rises over 100 steps or a tenth of all, then falls along half a cosine to 0.
    n_ctx : int
        Tokens of a word.
    longest : int
        Tokens of the longest prefix that is read; shorter than ``n_ctx`` only to be quick.
    seeds : tuple of int
        Each decides the first weights and the data of one transformer a setting.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    settings: tuple[Setting, ...] = (
        Setting(0.15, 0.6),
        Setting(0.05, 0.85),
        Setting(0.5, 0.6, 1),
        Setting(0.5, 0.6, 2),
    )
    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 5e-3
    n_ctx: int = 10
    longest: int = 9
    seeds: tuple[int, ...] = (0, 1, 2, 3)

    def __post_init__(self) -> None:
        for name, minimum in (("steps", 2), ("batch_size", 1), ("longest", SHORTEST + 1), ("n_ctx", self.longest)):
            if at_least(name, getattr(self, name), minimum) != int(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be above 0")
        for name, least in (("settings", "setting"), ("seeds", "seed")):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name}={given!r} must hold at least one {least}, each once")
        at_least("seeds", min(self.seeds), 0)
        if not listable(self.settings[0].process, self.longest):
            raise ValueError(f"longest={self.longest} has too many words to list; 10 is the most")

    def trainings(self) -> list[Training]:
        """One for each setting and seed, in that order."""
        found = []
        for one in self.settings:
            config = TransformerConfig(
                n_tokens=one.process.n_tokens, n_layers=1, n_heads=one.heads, d_model=64, d_mlp=256, n_ctx=self.n_ctx
            )
            training = Training(one.name, one.process, config, self.steps, self.batch_size, self.learning_rate)
            found += for_seeds(training, self.seeds)
        return found

    def as_json(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        settings = [[one.x, one.alpha, one.heads] for one in self.settings]
        return {**values, "settings": settings, "seeds": list(self.seeds)}

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating("nextlens belief constrained", self, ConstrainedRecipe(), repeated={"settings": "setting"})
