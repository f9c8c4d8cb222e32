"""Sums of numbers digit by digit, with positions that say which digits belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.batch import Batch
from nextlens.models.tasks.prompted import BOTH, PromptedStream, PromptedTask, labelled, sample

PLUS, EQUALS, BEGIN, END, PAD = range(10, 15)
HINTS = 15


@dataclass(frozen=True)
class Addition(PromptedTask):
    """``$653+049=2070$``: operands padded with zeros to one length, the sum said in one digit more, backwards.

    The number of digits of each operand is uniform on ``1 .. digits`` and the operand uniform among the
    numbers that have so many; both are padded to the longer (Cho et al. 2024, arXiv:2405.20671, §4).

    Tokens: the digits, then ``PLUS`` = 10, ``EQUALS`` = 11, ``BEGIN`` = 12, ``END`` = 13, ``PAD`` = 14, and hints.

    Parameters
    ----------
    digits : int, default=10
        Of the longest operand.
    n_operands : int, default=2
    places : {"coupled", "in order", "random start"}
        Position ids. ``coupled``: digits of one significance share an id, in operands and sum: the signs have
        ``start``, the digit of significance j has ``start + 1 + j``. ``random start``: one after another from
        ``start``. In both, ``BEGIN``, ``END`` and ``PAD`` have 0. ``in order``: 0, 1, 2 ...
    reverse : bool, default=True
        Whether the sum is said least significant digit first.
    zeros : bool, default=True
        Whether zeros pad operands to one length and the sum to its largest; else numbers are as written.
    hints : bool, default=False
        Index hinting (Zhou et al. 2024, arXiv:2310.16028): before each digit a token of its own that digits of
        one significance share, ``HINTS + start + j``.
    n_positions : int, default=202
        Ids run over ``0 .. n_positions - 1``; starts are drawn so that each of them occurs.

    Raises
    ------
    ValueError
        If the longest sum finds no place in ``n_positions``, saying how many it needs.

    Examples
    --------
    >>> task = Addition(digits=3)
    >>> drawn = task.of([[653, 49]])
    >>> print(task.spelled(drawn.tokens.values[0]))
    $653+049=2070$
    >>> drawn.positions.values[0].tolist()
    [0, 4, 3, 2, 1, 4, 3, 2, 1, 2, 3, 4, 5, 0]
    """

    digits: int = 10
    n_operands: int = 2
    places: str = "coupled"
    reverse: bool = True
    zeros: bool = True
    hints: bool = False
    n_positions: int = 202

    def __post_init__(self) -> None:
        at_least("digits", self.digits, 1)
        at_least("n_operands", self.n_operands, 2)
        one_of("places", self.places, ("coupled", "in order", "random start"))
        self._last_start(self.digits)

    @property
    def n_tokens(self) -> int:
        return HINTS + (self.n_positions if self.hints else 0)

    def length(self, digits: int) -> int:
        """Tokens of a sequence whose operands have ``digits``, zeros and all."""
        numerals = self.n_operands * digits + self._sum_digits(digits)
        return (2 if self.hints else 1) * numerals + self.n_operands + 2

    def draw(
        self, n_sequences: int, rng: np.random.Generator, *, digits: int | None = None, start: int | None = None
    ) -> xr.Dataset:
        """See :meth:`PromptedTask.draw`; latents of :meth:`of`.

        Parameters
        ----------
        n_sequences : int
        rng : Generator
        digits : int, optional
            So many in every operand, however long the task's own may be: sequences can then be decoded
            together. None draws them as for training; shorter sequences end in ``PAD``.
        start : int, optional
            Drawn for each sequence if None.

        Raises
        ------
        ValueError
            If a number is out of range; for ``digits``, with the most that ``n_positions`` can hold.
        """
        at_least("n_sequences", n_sequences, 1)
        shape = (n_sequences, self.n_operands)
        lengths = (
            rng.integers(1, self.digits + 1, shape) if digits is None else np.full(shape, at_least("digits", digits, 1))
        )
        return _dataset(self._with_lengths(lengths, start, rng))

    def batches(self, size: int, rng: np.random.Generator) -> PromptedStream:
        """As :meth:`PromptedTask.batches`, but the sequences of a batch are equally long: nothing is padded.

        The longest operand has so many digits as in one sequence drawn; those of the others are drawn given that.
        So each sequence is distributed as from :meth:`draw`, and only those of one batch depend on one another.
        """
        at_least("size", size, 1)
        return PromptedStream(lambda rng: self._alike(size, rng), rng)

    def _alike(self, n_sequences: int, rng: np.random.Generator) -> Batch:
        longest = int(rng.integers(1, self.digits + 1, self.n_operands).max())
        lengths = np.empty((0, self.n_operands), dtype=np.int64)
        while len(lengths) < n_sequences:
            more = rng.integers(1, longest + 1, (4 * n_sequences, self.n_operands))
            lengths = np.concatenate([lengths, more[(more == longest).any(1)]])
        drawn = self._with_lengths(lengths[:n_sequences], None, rng)
        return sample(drawn["tokens"], drawn["positions"], drawn["answer"])

    def _with_lengths(
        self, lengths: Int[np.ndarray, "sequence operand"], start: int | None, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        shape, widest = lengths.shape, int(lengths.max())
        numerals = rng.integers(10, size=(*shape, widest))
        top = np.arange(widest) == lengths[:, :, None] - 1
        leading = rng.integers(1, 10, size=shape)
        numerals = np.where(top & (lengths[:, :, None] > 1), leading[:, :, None], numerals)
        numerals[np.arange(widest) >= lengths[:, :, None]] = 0
        return self._laid_out(numerals, lengths, start, rng)

    def of(self, operands: Sequence[Sequence[int]], *, start: int = 1) -> xr.Dataset:
        """The sequences of given numbers.

        Returns
        -------
        xr.Dataset
            As from :meth:`PromptedTask.draw`, with the latents ``significance`` (sequence, position), of each
            digit and -1 elsewhere, and ``carry`` (sequence, position), what comes into a digit of the sum
            from the one below, -1 elsewhere.
        """
        if any(len(row) != self.n_operands or min(row) < 0 for row in operands):
            raise ValueError(f"operands must be rows of n_operands={self.n_operands} numbers of 0 or above")
        written = [[[int(d) for d in reversed(str(number))] for number in row] for row in operands]
        lengths = np.array([[len(number) for number in row] for row in written])
        numerals = np.zeros((*lengths.shape, lengths.max()), dtype=np.int64)
        for at in np.ndindex(*lengths.shape):
            numerals[at][: lengths[at]] = written[at[0]][at[1]]
        return _dataset(self._laid_out(numerals, lengths, start, None))

    def of_digits(self, digits: Int[np.ndarray, "sequence operand significance"], *, start: int = 1) -> xr.Dataset:
        """As :meth:`of`, of numbers given by their digits from the least significant; zeros in front are digits too.

        Raises
        ------
        ValueError
            If something is no digit, the number of operands differs, or the start does not fit.
        """
        if digits.shape[1] != self.n_operands or digits.min() < 0 or digits.max() > 9:
            raise ValueError(f"digits must be 0 .. 9 of n_operands={self.n_operands} numbers a row")
        return _dataset(self._laid_out(digits, np.full(digits.shape[:2], digits.shape[2]), start, None))

    def spelled(self, tokens: Int[np.ndarray, " time"]) -> str:
        """As a reader would write it; hints as ``<12>``, padding left out."""
        signs = {PLUS: "+", EQUALS: "=", BEGIN: "$", END: "$", PAD: ""}
        return "".join(
            f"<{token - HINTS}>" if token >= HINTS else signs.get(token, str(token))
            for token in np.asarray(tokens).tolist()
        )

    def refuse_longer(self, digits: int, start: int = 1) -> None:
        """Raise if sums of ``digits`` find no place in the position table, beginning at ``start``.

        Raises
        ------
        ValueError
            With the longest operands that fit, or the largest start.
        """
        between("start", start, 1, self._last_start(digits))

    def _sum_digits(self, digits: int) -> int:
        return digits + len(str(self.n_operands - 1))

    def _last_start(self, digits: int) -> int:
        """The largest start at which operands of ``digits`` fit.

        Raises
        ------
        ValueError
            If there is none.
        """
        last = self._room(digits)
        if last < 1:
            longest = max((d for d in range(1, digits) if self._room(d) > 0), default=0)
            raise ValueError(
                f"digits={digits} need {self.n_positions + 1 - last} positions and n_positions={self.n_positions}; "
                f"the longest operands that fit have {longest}"
            )
        return last

    def _room(self, digits: int) -> int:
        """How many starts there are; with what is missing below 1 where there is none."""
        if self.places == "in order":
            return self.n_positions - self.length(digits) + 1
        coupled = self._sum_digits(digits) + 1
        ids = coupled if self.places == "coupled" else max(coupled if self.hints else 0, self.length(digits) - 2)
        return self.n_positions - ids

    def _laid_out(
        self,
        numerals: Int[np.ndarray, "sequence operand significance"],
        lengths: Int[np.ndarray, "sequence operand"],
        start: int | None,
        rng: np.random.Generator | None,
    ) -> dict[str, np.ndarray]:
        longest = lengths.max(1)
        lengths_found, which = np.unique(longest, return_inverse=True)
        last = np.array([self._last_start(digits) for digits in lengths_found[::-1].tolist()])[::-1][which]
        if start is None:
            starts = rng.integers(1, last + 1)
        else:
            starts = np.full(len(longest), between("start", start, 1, int(last.min())))
        total, carries = _summed(numerals, self._sum_digits(numerals.shape[2]))
        if self.zeros:
            shapes = np.column_stack([np.repeat(longest[:, None], self.n_operands, 1), longest + self._sum_digits(0)])
        else:
            shapes = np.column_stack([lengths, _written(total)])
        kinds, kind = np.unique(shapes, axis=0, return_inverse=True)
        blocks = []
        for i, shape in enumerate(kinds.tolist()):
            rows = np.flatnonzero(kind.ravel() == i)
            blocks.append((rows, self._block(shape, numerals[rows], total[rows], carries[rows], starts[rows])))
        return _padded(len(longest), blocks)

    def _block(
        self,
        shape: list[int],
        numerals: Int[np.ndarray, "row operand significance"],
        total: Int[np.ndarray, "row sum_digit"],
        carries: Int[np.ndarray, "row sum_digit"],
        starts: Int[np.ndarray, " row"],
    ) -> dict[str, np.ndarray]:
        """Sequences that agree in how many digits each operand and the sum are written with."""
        columns: dict[str, list[np.ndarray | int]] = {name: [] for name in BLANK}

        def put(token: np.ndarray | int, place: np.ndarray | int, *, asked: bool, j: int = -1, carry: Any = -1) -> None:
            for name, value in zip(BLANK, (token, place, asked, j, carry), strict=True):
                columns[name].append(value)

        def numeral(digit: np.ndarray, j: int, *, asked: bool, carry: Any = -1) -> None:
            if self.hints:
                put(HINTS + starts + j, starts + 1 + j, asked=asked)
            put(digit, starts + 1 + j, asked=asked, j=j, carry=carry)

        *written, said = shape
        put(BEGIN, 0, asked=False)
        for operand, own in enumerate(written):
            if operand:
                put(PLUS, starts, asked=False)
            for j in reversed(range(own)):
                numeral(numerals[:, operand, j], j, asked=False)
        put(EQUALS, starts, asked=False)
        for j in range(said) if self.reverse else reversed(range(said)):
            numeral(total[:, j], j, asked=True, carry=carries[:, j])
        put(END, 0, asked=True)
        block = {name: _columns(values, len(starts)) for name, values in columns.items()}
        if self.places != "coupled":
            block["positions"] = self._one_after_another(block["tokens"], starts)
        return block

    def _one_after_another(
        self, tokens: Int[np.ndarray, "row position"], starts: Int[np.ndarray, " row"]
    ) -> Int[np.ndarray, "row position"]:
        places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        if self.places == "in order":
            return places
        return np.where(np.isin(tokens, (BEGIN, END)), 0, starts[:, None] + places - 1)


#: What stands behind a sequence that is shorter than others.
BLANK = {"tokens": PAD, "positions": 0, "answer": False, "significance": -1, "carry": -1}


def _columns(
    values: list[np.ndarray | int], n_rows: int
) -> Int[np.ndarray, "row position"] | Bool[np.ndarray, "row position"]:
    """Values side by side, each a column or one number for all rows."""
    whole = np.empty((n_rows, len(values)), dtype=bool if isinstance(values[0], bool) else np.int64)
    for t, value in enumerate(values):
        whole[:, t] = value
    return whole


def _padded(n: int, blocks: list[tuple[np.ndarray, dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    """The rows of all blocks, in their places."""
    width = max(block["tokens"].shape[1] for _, block in blocks)
    whole = {name: np.full((n, width), blank) for name, blank in BLANK.items()}
    for rows, block in blocks:
        for name, values in block.items():
            whole[name][rows, : values.shape[1]] = values
    return whole


def _dataset(drawn: dict[str, np.ndarray]) -> xr.Dataset:
    latents = {name: (BOTH, drawn[name]) for name in ("significance", "carry")}
    return labelled(drawn["tokens"], drawn["positions"], drawn["answer"], **latents)


def _summed(
    numerals: Int[np.ndarray, "row operand significance"], n_digits: int
) -> tuple[Int[np.ndarray, "row sum_digit"], Int[np.ndarray, "row sum_digit"]]:
    """Digits of the sums, and what is carried into each, both from the least significant."""
    n, _, width = numerals.shape
    total, carries = np.zeros((n, n_digits), dtype=np.int64), np.zeros((n, n_digits), dtype=np.int64)
    carry = np.zeros(n, dtype=np.int64)
    for j in range(n_digits):
        carries[:, j] = carry
        carry, total[:, j] = np.divmod(carry + (numerals[:, :, j].sum(1) if j < width else 0), 10)
    return total, carries


def _written(total: Int[np.ndarray, "row sum_digit"]) -> Int[np.ndarray, " row"]:
    """How many digits a number has, from the least significant; 0 has one."""
    some = total != 0
    return np.where(some.any(1), total.shape[1] - some[:, ::-1].argmax(1), 1)
