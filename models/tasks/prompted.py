"""Tasks of a prompt and its answer: only the answer is learnt, and it can be right or wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch

BOTH = ("sequence", "position")


class PromptedTask(ABC):
    """Sequences of which the answer is asked for: ``draw`` says them with their latents, ``batch`` makes them a sample.

    Attributes
    ----------
    n_tokens : int
        Size of the vocabulary.
    """

    @property
    @abstractmethod
    def n_tokens(self) -> int: ...

    @abstractmethod
    def draw(self, n_sequences: int, rng: np.random.Generator) -> xr.Dataset:
        """Independent sequences, all as long as the longest.

        Variables: ``tokens``, ``positions`` and ``answer`` (sequence, position), the last one true where the
        token is asked for; and the latents of the task. Prompts are of one length, answers end in padding.
        """

    @abstractmethod
    def spelled(self, tokens: Int[np.ndarray, " time"]) -> str:
        """A sequence as a reader would write it."""

    def batches(self, size: int, rng: np.random.Generator) -> PromptedStream:
        """Fresh batches without end; ``state()`` and ``restore(state)`` resume them exactly.

        Raises
        ------
        ValueError
            If ``size`` is below 1.
        """
        at_least("size", size, 1)
        return PromptedStream(lambda rng: batch_of(self.draw(size, rng)), rng)


class PromptedStream:
    """Batches drawn one after another from a task.

    Parameters
    ----------
    draw : callable
        Generator -> batch.
    rng : Generator
    """

    def __init__(self, draw: Callable[[np.random.Generator], Batch], rng: np.random.Generator) -> None:
        self._draw, self._rng = draw, rng

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self._draw(self._rng)

    def state(self) -> dict[str, Any]:
        """Where the generator stands."""
        return dict(self._rng.bit_generator.state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go where another stream of the same task stood.

        Raises
        ------
        ValueError
            If it was drawn by another kind of generator.
        """
        if state["bit_generator"] != (own := self._rng.bit_generator.state["bit_generator"]):
            raise ValueError(f"state is of the generator {state['bit_generator']!r}; this stream has {own!r}")
        self._rng.bit_generator.state = dict(state)


def batch_of(drawn: xr.Dataset) -> Batch:
    """The sample that a dataset of a task is: prompts weigh 0, and positions are the task's.

    Position ``t`` is asked for if ``tokens[t + 1]`` belongs to the answer.
    """
    return sample(*(drawn[name].values for name in ("tokens", "positions", "answer")))


def sample(
    tokens: Int[np.ndarray, "sequence position"],
    positions: Int[np.ndarray, "sequence position"],
    answer: Bool[np.ndarray, "sequence position"],
) -> Batch:
    """As :func:`batch_of`, of the three variables that every task has."""
    read, places, asked = (torch.from_numpy(np.ascontiguousarray(values)) for values in (tokens, positions, answer))
    return Batch.from_tokens(read).with_(positions=places[:, :-1], weights=asked[:, 1:].float())


def prompts_of(drawn: xr.Dataset) -> Int[torch.Tensor, "sequence prompt"]:
    """The tokens before the answer.

    Raises
    ------
    ValueError
        If answers begin at different places.
    """
    return torch.from_numpy(drawn.tokens.values[:, : answer_start(drawn)].copy())


def answer_start(drawn: xr.Dataset) -> int:
    """Where answers begin.

    Raises
    ------
    ValueError
        If they begin at different places.
    """
    start = np.unique(drawn.answer.values.argmax(1))
    if len(start) > 1:
        raise ValueError(f"answers begin at {start.tolist()}; those decoded together must begin at one place")
    return int(start[0])


def solved(drawn: xr.Dataset, said: Int[torch.Tensor, "sequence new"]) -> Bool[np.ndarray, " sequence"]:
    """Whether every token of the answer was said, in its place."""
    start = answer_start(drawn)
    truth, asked = (drawn[name].values[:, start:] for name in ("tokens", "answer"))
    said = said.cpu().numpy()[:, : truth.shape[1]]
    return ((said == truth[:, : said.shape[1]]) | ~asked[:, : said.shape[1]]).all(1) & ~asked[:, said.shape[1] :].any(1)


def labelled(
    tokens: Int[np.ndarray, "sequence position"],
    positions: Int[np.ndarray, "sequence position"],
    answer: Bool[np.ndarray, "sequence position"],
    **latents: Any,
) -> xr.Dataset:
    """The dataset of a task."""
    coordinates = {name: np.arange(size) for name, size in zip(BOTH, tokens.shape, strict=True)}
    variables = {"tokens": (BOTH, tokens), "positions": (BOTH, positions), "answer": (BOTH, answer)}
    return xr.Dataset(variables | latents, coords=coordinates)
