"""Countdown: reach a number from others by sums, differences, products and quotients, written step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int, UInt64

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.tasks.prompted import PromptedTask, labelled

#: Signs of operations, in the order of their tokens.
SIGNS = "+-*/"
#: Chains of operations that are drawn in vain before there are said to be none of the kind.
TRIED = 200_000


@dataclass(frozen=True)
class Countdown(PromptedTask):
    """``n n n n target | | .. a + b = c , c * d = e , ..``: every number is one token, and uses up those it is made of.

    Numbers are drawn from ``1 .. most``; an answer is a chain of ``n_numbers - 1`` operations between two numbers that
    are left, larger first, whose differences are not negative and quotients whole, so that the last result is the
    target. Targets lie in ``lowest .. highest``; of these a share ``new`` is asked for in no sequence of the ``seen``
    split, and of sets of numbers, in whatever order, about as large a share is given in none. Between question and
    answer stand ``pauses`` tokens at which to think (arXiv:2511.05963, §4.2, has 8, 4 numbers, and targets 10 .. 100).

    Parameters
    ----------
    n_numbers : int, default=4
    most : int, default=100
        The largest number given; results may grow to ``largest``.
    lowest, highest : int, default=10, 100
    largest : int, default=1000
        Beyond which an operation is not made; every integer up to it is a token.
    pauses : int, default=8
    new : float, default=0.1
    seed : int, default=0
        Of the targets and sets of numbers held out.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> task = Countdown(pauses=1)
    >>> text = task.spelled(task.draw(1, np.random.default_rng(0)).tokens.values[0])
    >>> task.reaches(text)
    True
    """

    n_numbers: int = 4
    most: int = 100
    lowest: int = 10
    highest: int = 100
    largest: int = 1000
    pauses: int = 8
    new: float | int = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("n_numbers", self.n_numbers, 2)
        at_least("most", self.most, 2)
        at_least("lowest", self.lowest, 1)
        at_least("highest", self.highest, self.lowest)
        at_least("largest", self.largest, max(self.highest, self.most))
        at_least("pauses", self.pauses, 0)
        between("new", self.new, 0, 1)

    @property
    def n_tokens(self) -> int:
        return self.largest + 1 + len(SIGNS) + 3

    @property
    def length(self) -> int:
        """Tokens of a sequence: a question, pauses, and six tokens an operation, the last without its comma."""
        return self.n_numbers + 1 + self.pauses + 6 * (self.n_numbers - 1) - 1

    @property
    def held_out(self) -> Int[np.ndarray, " target"]:
        """Targets that are asked for in the ``new`` split alone."""
        targets = np.arange(self.lowest, self.highest + 1)
        rng = np.random.default_rng([self.seed, 0])
        return np.sort(rng.permutation(targets)[: round(self.new * len(targets))])

    def is_held_out(self, numbers: Int[np.ndarray, "some number"]) -> Bool[np.ndarray, " some"]:
        """Whether each set of numbers, whatever their order, is given in the ``new`` split alone.

        It is, if a hash of it and of the seed lies in the lowest share ``new`` of all values: of sets there are too
        many for a list of them.
        """
        mixed = np.full(len(numbers), self.seed % 2**64, dtype=np.uint64)
        for column in np.sort(numbers, axis=1).T:
            mixed = _mixed(mixed + column.astype(np.uint64))
        return mixed / 2.0**64 < self.new

    def draw(
        self, n_sequences: int, rng: np.random.Generator, *, targets: str = "seen", numbers: str = "seen"
    ) -> xr.Dataset:
        """See :meth:`PromptedTask.draw`; the latent ``target`` (sequence).

        Parameters
        ----------
        n_sequences : int
        rng : Generator
        targets, numbers : {"seen", "new"}
            Which targets are asked for, and which sets of numbers given.

        Raises
        ------
        ValueError
            If there are no such targets, or :data:`TRIED` chains of operations hold no such sequence.
        """
        at_least("n_sequences", n_sequences, 1)
        wanted = np.zeros(self.largest + 1, dtype=bool)
        wanted[self.lowest : self.highest + 1] = one_of("targets", targets, ("seen", "new")) == "seen"
        wanted[self.held_out] = targets == "new"
        if not wanted.any():
            raise ValueError(f"targets={targets!r}: there are none with new={self.new:g}")
        one_of("numbers", numbers, ("seen", "new"))
        found: list[Int[np.ndarray, "some position"]] = []
        tried = 0
        while (some := sum(map(len, found))) < n_sequences:
            if not some and tried > TRIED:
                raise ValueError(f"targets={targets!r}, numbers={numbers!r}: {tried} chains of operations hold none")
            found.append(self._tried(4 * n_sequences, rng, wanted, new_numbers=numbers == "new"))
            tried += 4 * n_sequences
        tokens = np.concatenate(found)[:n_sequences]
        answer = np.broadcast_to(np.arange(self.length) >= self.n_numbers + 1 + self.pauses, tokens.shape)
        positions = np.broadcast_to(np.arange(self.length), tokens.shape)
        return labelled(tokens, positions, answer, target=("sequence", tokens[:, self.n_numbers]))

    def _tried(
        self, n: int, rng: np.random.Generator, wanted: Bool[np.ndarray, " number"], *, new_numbers: bool
    ) -> Int[np.ndarray, "some position"]:
        """Random chains of operations; those that are allowed, of wanted numbers, and end at a wanted target."""
        numbers = rng.integers(1, self.most + 1, (n, self.n_numbers))
        left, good, said = numbers.copy(), self.is_held_out(numbers) == new_numbers, []
        plus = self.largest + 1
        equals, comma, pause = plus + len(SIGNS), plus + len(SIGNS) + 1, plus + len(SIGNS) + 2
        for step in range(self.n_numbers - 1):
            left = rng.permuted(left, axis=1)
            a, b = left[:, :2].max(1), left[:, :2].min(1)
            sign = rng.integers(len(SIGNS), size=n)
            whole = np.where(b > 0, a % np.maximum(b, 1) == 0, False)
            result = np.select([sign == 0, sign == 1, sign == 2], [a + b, a - b, a * b], a // np.maximum(b, 1))
            good &= (result <= self.largest) & ((sign < 3) | whole)
            result = np.where(good, result, 0)
            marks = [np.full(n, equals), np.full(n, comma)]
            said += [a, plus + sign, b, marks[0], result, *([marks[1]] if step < self.n_numbers - 2 else [])]
            left = np.concatenate([result[:, None], left[:, 2:]], axis=1)
        target = left[:, 0]
        good &= wanted[target]
        pauses = np.full((n, self.pauses), pause)
        return np.concatenate([numbers, target[:, None], pauses, np.stack(said, axis=1)], axis=1)[good]

    def spelled(self, tokens: Int[np.ndarray, " time"]) -> str:
        """``n n n n > target | | a + b = c , ..``; a ``?`` is no token of the task."""
        marks = [*map(str, range(self.largest + 1)), *SIGNS, "=", ",", "|"]
        words = [marks[int(t)] if t < self.n_tokens else "?" for t in tokens]
        return " ".join([*words[: self.n_numbers], ">", *words[self.n_numbers :]])

    def reaches(self, text: str) -> bool:
        """Whether what :meth:`spelled` wrote is an answer: true steps, made of what is left, the last the target."""
        return self.left(text) == [int(text.partition(" > ")[2].split()[0])]

    def left(self, text: str) -> list[int] | None:
        """What numbers are left behind all steps of a text; None if one is not true, or not made of what was left."""
        question, _, rest = text.partition(" > ")
        _, *words = rest.replace("|", "").split()
        left = list(map(int, question.split()))
        for step in " ".join(words).split(" , "):
            parts = step.split()
            if len(parts) != 5 or parts[1] not in SIGNS or parts[3] != "=":
                return None
            a, b, result = (int(parts[i]) if parts[i].isdigit() else -1 for i in (0, 2, 4))
            for number in (a, b):
                if number not in left:
                    return None
                left.remove(number)
            made = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b and a % b == 0 else -1}[parts[1]]
            if made != result or result < 0:
                return None
            left.append(result)
        return left


def _mixed(values: UInt64[np.ndarray, " some"]) -> UInt64[np.ndarray, " some"]:
    """Bits that each depend on all bits of the value (splitmix64, Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
