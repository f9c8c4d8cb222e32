"""What a matcher answers: for each context, weighted next tokens, and the places that speak for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.batch import Batch


@dataclass(frozen=True, eq=False)
class Votes:
    """For each row (one context): how long a suffix of it was found, and how much each next token weighs.

    The votes of row ``r`` are ``token[first[r] : first[r + 1]]`` with ``weight`` alike: each token at
    most once, in rising order, each weight above zero. ``P(y) = weight(y) / sum of the row``; a row
    without votes says nothing, which as a law is the uniform one.

    Parameters
    ----------
    length : Int[np.ndarray, "row"]
        The effective n: how many tokens at the end of the context were found again; 0 if none.
    first : Int[np.ndarray, "row_plus_one"]
    token : Int[np.ndarray, "vote"]
    weight : Float[np.ndarray, "vote"]
        Counts, for exact matchers; sums of similarities for fuzzy ones.
    """

    length: Int[np.ndarray, " row"]
    first: Int[np.ndarray, " row_plus_one"]
    token: Int[np.ndarray, " vote"]
    weight: Float[np.ndarray, " vote"]

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[int, Int[np.ndarray, " _"], Float[np.ndarray, " _"]]]) -> Votes:
        """From one ``(length, tokens, weights)`` a row."""
        rows = list(rows)
        if len(rows) == 1:
            ((length, token, weight),) = rows
            return cls(np.array([length]), np.array([0, len(token)]), token, weight)
        nobody = (0, np.zeros(0, np.int64), np.zeros(0))
        length, token, weight = zip(nobody, *rows, strict=True)
        first = np.cumsum([len(t) for t in token])
        return cls(np.array(length[1:], np.int64), first, np.concatenate(token), np.concatenate(weight))

    def __len__(self) -> int:
        """How many rows."""
        return len(self.length)

    @property
    def counts(self) -> Int[np.ndarray, " row"]:
        """How many tokens have a vote, row by row."""
        return np.diff(self.first)

    def row(self, row: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """The tokens of one row and their weights."""
        at = slice(self.first[row], self.first[row + 1])
        return self.token[at], self.weight[at]

    @property
    def row_of(self) -> Int[np.ndarray, " vote"]:
        """The row of every vote."""
        return np.repeat(np.arange(len(self)), self.counts)

    def probabilities(self, n_tokens: int) -> Float[np.ndarray, "row n_tokens"]:
        """The laws, dense; the uniform one where there is no vote."""
        laws = np.zeros((len(self), n_tokens))
        laws[self.row_of, self.token] = self.weight
        laws[self.counts == 0] = 1.0
        return laws / laws.sum(1, keepdims=True)

    def probability_of(self, targets: Int[np.ndarray, " row"], n_tokens: int) -> Float[np.ndarray, " row"]:
        """The probability of one token a row, with no dense law built."""
        total = np.bincount(self.row_of, self.weight, minlength=len(self))
        hit = self.token == targets[self.row_of]
        found = np.bincount(self.row_of[hit], self.weight[hit], minlength=len(self))
        return np.divide(found, total, out=np.full(len(self), 1 / n_tokens), where=total > 0)

    def take(self, rows: Int[np.ndarray, " some"]) -> Votes:
        """Some of the rows, in the order given."""
        counts = self.counts[rows]
        first = np.concatenate([[0], np.cumsum(counts)])
        at = np.arange(first[-1]) - np.repeat(first[:-1], counts) + np.repeat(self.first[:-1][rows], counts)
        return Votes(self.length[rows], first, self.token[at], self.weight[at])

    @staticmethod
    def joined(parts: Sequence[Votes]) -> Votes:
        """The rows of all, one after another."""
        counts = np.concatenate([part.counts for part in parts])
        return Votes(
            np.concatenate([part.length for part in parts]),
            np.concatenate([[0], np.cumsum(counts)]),
            np.concatenate([part.token for part in parts]),
            np.concatenate([part.weight for part in parts]),
        )

    @staticmethod
    def chosen(options: Sequence[Votes], choice: Int[np.ndarray, " row"]) -> Votes:
        """Row ``r`` of ``options[choice[r]]``, for every row."""
        n_rows = len(choice)
        return Votes.joined(options).take(choice * n_rows + np.arange(n_rows))


@dataclass(frozen=True, eq=False)
class Places:
    """Where the votes for one context come from; the law rebuilt from them is the law that was said.

    Parameters
    ----------
    source : str
        ``"corpus"``, ``"context"`` or ``"similar"``.
    length : int
        The effective n.
    document : Int[np.ndarray, "place"]
        The document of the corpus; -1 is the context itself.
    offset : Int[np.ndarray, "place"]
        The place of the proposed token in its document: the match is what stands before it.
    token : Int[np.ndarray, "place"]
        What is proposed.
    weight : Float[np.ndarray, "place"]
        How much this place counts; the weights of a token's places sum to its vote.
    """

    source: str
    length: int
    document: Int[np.ndarray, " place"]
    offset: Int[np.ndarray, " place"]
    token: Int[np.ndarray, " place"]
    weight: Float[np.ndarray, " place"]

    def __len__(self) -> int:
        return len(self.token)

    def heaviest(self, n: int) -> Places:
        """The ``n`` places that weigh most; of equals the earliest."""
        order = np.argsort(-self.weight, kind="stable")[:n]
        arrays = {name: getattr(self, name)[order] for name in ("document", "offset", "token", "weight")}
        return replace(self, **arrays)


class Matcher(ABC):
    """A kernel that predicts by pointing. Whoever says ``votes`` and ``places`` has ``log_probs``.

    Attributes
    ----------
    n_tokens : int
    floor : float
        What a law is mixed with, ``(1 - floor) P + floor / n_tokens``, so that no token is impossible;
        0 leaves ``-inf`` where nothing votes.
    """

    n_tokens: int
    floor: float = 0.0

    @abstractmethod
    def votes(self, tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"] | None = None) -> Votes:
        """Row ``r`` follows ``tokens[: positions[r] + 1]``; every position if None."""

    @abstractmethod
    def places(self, tokens: Int[np.ndarray, " time"]) -> Places:
        """All that speaks for what follows the whole of ``tokens``."""

    def reader(self) -> Reader:
        """Reads one token at a time, as generation does, and votes after each; here by reading all again."""
        return Reader(self)

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Natural-log probabilities, float64; ``-inf`` where nothing votes and ``floor`` is 0.

        Raises
        ------
        ValueError
            If the batch is not read left to right, with every position in its place.
        """
        if batch.attend is not None or not batch.in_order:
            raise ValueError(
                "a matcher reads tokens left to right; this batch has an attend mask or positions of its own"
            )
        laws = np.stack([self.votes(row).probabilities(self.n_tokens) for row in batch.tokens.cpu().numpy()])
        laws = (1 - self.floor) * laws + self.floor / self.n_tokens
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(laws)).to(batch.device)


class Reader:
    """What a matcher says as the tokens come in; a matcher that need not read all again has its own.

    Parameters
    ----------
    matcher : Matcher
    """

    def __init__(self, matcher: Matcher):
        self.matcher = matcher
        self._tokens: list[int] = []

    def read(self, token: int) -> Votes:
        """One row: what follows all the tokens read so far, this one the last of them."""
        self._tokens.append(int(token))
        return self.matcher.votes(np.array(self._tokens), np.array([len(self._tokens) - 1]))
