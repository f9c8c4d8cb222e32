"""Fields of mines, and the numbers that stand beside them: positions in two dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int

from nextlens.models.arguments import at_least, between
from nextlens.models.tasks.prompted import BOTH, PromptedTask, labelled

#: Tokens: how many mines lie around a free cell, then a mine, a free cell, and the signs.
MINE, FREE, EQUALS, BEGIN, END, PAD = range(9, 15)


@dataclass(frozen=True)
class Minesweeper(PromptedTask):
    """A field of mines is read row by row, then said again with the number of mines around every free cell.

    The sides are uniform on ``smallest .. largest``, each cell a mine with probability ``density`` (the minesweeper
    generator of Cho et al. 2024, arXiv:2405.20671, §6). A cell of the answer has the place of the cell it is about.

    A place in two dimensions is one id: that of row r and column c, both from 1 on, is ``r * side + c``. There are
    ``side`` such rows and columns, so ids run over ``0 .. side² - 1``. A transformer with ``positions="grid"`` takes
    the id apart again and adds what one table holds for its row and for its column, as the paper does; one with
    ``positions="learned"`` has a row of its own for each. The latents ``row`` and ``column`` say them apart. The sign
    before the answer has the place just before the first row and column; ``BEGIN``, ``END`` and ``PAD`` have 0.

    Tokens: 0 to 8 mines around, ``MINE`` = 9, ``FREE`` = 10, ``EQUALS`` = 11, ``BEGIN`` = 12, ``END`` = 13,
    ``PAD`` = 14.

    Parameters
    ----------
    smallest, largest : int, default=5, 9
        Sides in training.
    density : float, default=0.2
    coupled : bool, default=True
        If False, ids are 0, 1, 2 ... one after another.
    side : int, default=15
        Rows and columns of ids.

    Raises
    ------
    ValueError
        If a number is out of range, or the largest field finds no place.

    Examples
    --------
    >>> drawn = Minesweeper(smallest=2, largest=3).of([[[1, 0], [0, 0]]])
    >>> print(Minesweeper().spelled(drawn.tokens.values[0]))
    $M...=M111$
    >>> [divmod(place, 15) for place in drawn.positions.values[0].tolist()][1:6]
    [(2, 2), (2, 3), (3, 2), (3, 3), (1, 1)]
    """

    smallest: int = 5
    largest: int = 9
    density: float = 0.2
    coupled: bool = True
    side: int = 15

    def __post_init__(self) -> None:
        at_least("smallest", self.smallest, 1)
        at_least("largest", self.largest, self.smallest)
        between("density", self.density, 0, 1)
        self._last_start(self.largest)

    @property
    def n_tokens(self) -> int:
        return 15

    @property
    def n_positions(self) -> int:
        """How many ids there are."""
        return self.side**2 if self.coupled else 2 * self.largest**2 + 3

    def draw(
        self,
        n_sequences: int,
        rng: np.random.Generator,
        *,
        sides: tuple[int, int] | None = None,
        start: tuple[int, int] | None = None,
    ) -> xr.Dataset:
        """See :meth:`PromptedTask.draw`; latents of :meth:`of`.

        Parameters
        ----------
        n_sequences : int
        rng : Generator
        sides : (int, int), optional
            Rows and columns of every field; drawn for each if None.
        start : (int, int), optional
            Row and column of the sign before the answer; drawn for each field if None.

        Raises
        ------
        ValueError
            If a number is out of range, or a field finds no place.
        """
        at_least("n_sequences", n_sequences, 1)
        fields = []
        for _ in range(n_sequences):
            shape = rng.integers(self.smallest, self.largest + 1, 2) if sides is None else np.array(sides)
            fields.append(rng.random(shape) < self.density)
        return self._laid_out(fields, start, rng)

    def of(self, fields: list[list[list[int]]], *, start: tuple[int, int] = (1, 1)) -> xr.Dataset:
        """The sequences of given fields, 1 being a mine.

        Returns
        -------
        xr.Dataset
            As from :meth:`PromptedTask.draw`, with the latents ``row`` and ``column`` (sequence, position) of each cell
            within its field, -1 elsewhere, and ``around`` (sequence, position), how many mines lie around it.

        Raises
        ------
        ValueError
            If a field is no rectangle, or finds no place from ``start`` on.
        """
        arrays = [np.asarray(one, dtype=bool) for one in fields]
        if any(one.ndim != 2 or 0 in one.shape for one in arrays):
            raise ValueError("fields must be rectangles of 0 and 1 with one cell or more")
        return self._laid_out(arrays, start, None)

    def spelled(self, tokens: Int[np.ndarray, " time"]) -> str:
        """``M`` a mine, ``.`` a free cell; padding left out."""
        return "".join("012345678M.=$$ "[token] for token in np.asarray(tokens).tolist()).rstrip()

    def _last_start(self, side: int) -> int:
        last = self.side - 1 - side
        if self.coupled and last < 1:
            raise ValueError(f"a field of {side} cells a side needs side={side + 2} or more; side={self.side}")
        return last

    def _laid_out(
        self,
        fields: list[Bool[np.ndarray, "_ _"]],
        start: tuple[int, int] | None,
        rng: np.random.Generator | None,
    ) -> xr.Dataset:
        shape = (len(fields), 2 * max(field.size for field in fields) + 3)
        tokens, places = np.full(shape, PAD), np.zeros(shape, dtype=np.int64)
        answer = np.zeros(shape, dtype=bool)
        row, column, around = (np.full(shape, -1) for _ in range(3))
        for b, field in enumerate(fields):
            n, beside = field.size, mines_around(field).ravel()
            r, c = (x.ravel() for x in np.indices(field.shape))
            tokens[b, : 2 * n + 3] = [
                BEGIN,
                *np.where(field.ravel(), MINE, FREE),
                EQUALS,
                *np.where(field.ravel(), MINE, beside),
                END,
            ]
            answer[b, n + 2 : 2 * n + 3] = True
            first = self._start(field.shape, start, rng)
            for at in (1, n + 2):
                row[b, at : at + n], column[b, at : at + n], around[b, at : at + n] = r, c, beside
                places[b, at : at + n] = (first[0] + 1 + r) * self.side + first[1] + 1 + c
            places[b, n + 1] = first[0] * self.side + first[1]
        if not self.coupled:
            places = np.broadcast_to(np.arange(shape[1]), shape)
        return labelled(tokens, places, answer, row=(BOTH, row), column=(BOTH, column), around=(BOTH, around))

    def _start(
        self, shape: tuple[int, ...], start: tuple[int, int] | None, rng: np.random.Generator | None
    ) -> tuple[int, int]:
        if not self.coupled:
            return (0, 0)
        last = [self._last_start(side) for side in shape]
        if start is None:
            return (int(rng.integers(1, last[0] + 1)), int(rng.integers(1, last[1] + 1)))
        return (int(between("start", start[0], 1, last[0])), int(between("start", start[1], 1, last[1])))


def mines_around(field: Bool[np.ndarray, "row column"]) -> Int[np.ndarray, "row column"]:
    """How many of the eight cells around each are mines.

    Examples
    --------
    >>> mines_around(np.array([[True, False, True]])).tolist()
    [[0, 2, 0]]
    """
    wide = np.pad(field.astype(np.int64), 1)
    rows, columns = field.shape
    blocks = [wide[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return sum(blocks) - field
