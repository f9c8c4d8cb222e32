"""What contexts are compared by: a feature for each prefix of a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nextlens.models.batch import Batch

#: Positions that a model reads at a time.
POSITIONS_AT_A_TIME = 4096


class Features(ABC):
    """A feature for each prefix: row ``t`` depends on ``tokens[: t + 1]``, and on nothing after.

    Attributes
    ----------
    n_tokens : int
    """

    n_tokens: int

    @abstractmethod
    def __call__(self, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, "time width"]:
        """Of every prefix of ``tokens``, of which there is at least one."""

    def last(self, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, " width"]:
        """Of the whole of ``tokens``: the last row, for less work where it can be had."""
        return self(tokens)[-1]

    def weights(self) -> Iterator[Tensor]:
        """What the features are computed with, and change with."""
        return iter(())


class FeatureTable:
    """Rows that grow in number, in one tensor with room to spare."""

    def __init__(self) -> None:
        self._room: Float[Tensor, "room width"] | None = None
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def append(self, rows: Float[Tensor, "some width"]) -> None:
        """Put more rows after those there are."""
        filled = self._filled + len(rows)
        if self._room is None or len(self._room) < filled:
            room = rows.new_empty(2 * filled, rows.shape[1])
            if self._room is not None:
                room[: self._filled] = self._room[: self._filled]
            self._room = room
        self._room[self._filled : filled] = rows
        self._filled = filled

    def rows(self) -> Float[Tensor, "row width"]:
        """All of them.

        Raises
        ------
        ValueError
            If none was ever put in: their width is not known.
        """
        if self._room is None:
            raise ValueError("the table is empty")
        return self._room[: self._filled]


def reading(tokens: Int[np.ndarray, "batch time"], device: torch.device) -> Batch:
    """A batch to be read, of which nothing need be said."""
    return Batch.from_tokens(np.pad(tokens, ((0, 0), (0, 1))), device=device)


def device_of(model: object) -> torch.device:
    """Where the weights are; the CPU if there are none."""
    weights = model.parameters() if isinstance(model, nn.Module) else ()
    return next((weight.device for weight in weights), torch.device("cpu"))
