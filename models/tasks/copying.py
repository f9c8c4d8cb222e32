"""Copying and reversing a string, with positions that say which token stands for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Int

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.tasks.prompted import BOTH, PromptedTask, labelled


@dataclass(frozen=True)
class Copying(PromptedTask):
    """``$abca=abca$``, or backwards ``$abca=acba$``: random symbols said again.

    The length is uniform on ``1 .. length`` (Cho et al. 2024, arXiv:2405.20671).

    Tokens: the symbols, then ``EQUALS``, ``BEGIN``, ``END`` and ``PAD``, in this order from ``n_symbols``.

    Parameters
    ----------
    length : int, default=40
        Of the longest string in training.
    n_symbols : int, default=10
    reverse : bool, default=False
        Whether the string is said backwards.
    places : {"coupled", "in order", "random start"}
        Position ids. ``coupled``: ``=`` has ``start``, the i-th symbol ``start + 1 + i``, and each symbol of the
        answer the id of the one it repeats. ``random start``: one after another from ``start``. In both, ``BEGIN``,
        ``END`` and ``PAD`` have 0. ``in order``: 0, 1, 2 ...
    n_positions : int, default=301
        Ids run over ``0 .. n_positions - 1``; starts are drawn so that each of them occurs.

    Raises
    ------
    ValueError
        If a number is out of range, or the longest string finds no place in ``n_positions``.

    Examples
    --------
    >>> drawn = Copying(length=4, n_symbols=3, reverse=True).of([[0, 1, 2, 2]])
    >>> print(Copying(n_symbols=3).spelled(drawn.tokens.values[0]))
    $abcc=ccba$
    >>> drawn.positions.values[0].tolist()
    [0, 2, 3, 4, 5, 1, 5, 4, 3, 2, 0]
    """

    length: int = 40
    n_symbols: int = 10
    reverse: bool = False
    places: str = "coupled"
    n_positions: int = 301

    def __post_init__(self) -> None:
        at_least("length", self.length, 1)
        between("n_symbols", self.n_symbols, 1, 26)
        one_of("places", self.places, ("coupled", "in order", "random start"))
        self._last_start(self.length)

    @property
    def n_tokens(self) -> int:
        return self.n_symbols + 4

    def draw(
        self, n_sequences: int, rng: np.random.Generator, *, length: int | None = None, start: int | None = None
    ) -> xr.Dataset:
        """See :meth:`PromptedTask.draw`; latents of :meth:`of`.

        Parameters
        ----------
        n_sequences : int
        rng : Generator
        length : int, optional
            Of every string, however long the task's own may be. None draws it as for training.
        start : int, optional
            Drawn for each sequence if None.

        Raises
        ------
        ValueError
            If a number is out of range; for ``length``, with the most that ``n_positions`` can hold.
        """
        at_least("n_sequences", n_sequences, 1)
        lengths = rng.integers(1, self.length + 1, n_sequences)
        if length is not None:
            lengths[:] = at_least("length", length, 1)
        strings = [rng.integers(self.n_symbols, size=int(size)) for size in lengths]
        if start is None:
            last = {size: self._last_start(size) for size in np.unique(lengths).tolist()}
            starts = rng.integers(1, np.array([last[size] for size in lengths.tolist()]) + 1)
        else:
            starts = np.full(n_sequences, between("start", start, 1, self._last_start(int(lengths.max()))))
        return self._laid_out(strings, starts)

    def of(self, strings: list[list[int]], *, start: int = 1) -> xr.Dataset:
        """The sequences of given strings of symbols.

        Returns
        -------
        xr.Dataset
            As from :meth:`PromptedTask.draw`, with the latent ``source`` (sequence, position): where the symbol stands
            that a token of the answer repeats, -1 elsewhere.

        Raises
        ------
        ValueError
            If a string is empty or holds no symbol of the task, or the start does not fit.
        """
        arrays = [np.asarray(one, dtype=np.int64) for one in strings]
        if not arrays or any(not len(one) or one.min() < 0 or one.max() >= self.n_symbols for one in arrays):
            raise ValueError(f"strings must each hold one or more of the symbols 0 .. {self.n_symbols - 1}")
        between("start", start, 1, self._last_start(max(map(len, arrays))))
        return self._laid_out(arrays, np.full(len(arrays), start))

    def spelled(self, tokens: Int[np.ndarray, " time"]) -> str:
        """Symbols as letters; padding left out."""
        signs = dict(zip(range(self.n_symbols, self.n_tokens), ("=", "$", "$", ""), strict=True))
        return "".join(signs.get(token, chr(ord("a") + token)) for token in np.asarray(tokens).tolist())

    def _last_start(self, length: int) -> int:
        def room(size: int) -> int:
            needed = {"coupled": size + 1, "random start": 2 * size + 1, "in order": 2 * size + 2}[self.places]
            return self.n_positions - needed

        if room(length) < 1:
            longest = max((size for size in range(1, length) if room(size) > 0), default=0)
            raise ValueError(
                f"length={length} needs {self.n_positions + 1 - room(length)} positions and "
                f"n_positions={self.n_positions}; the longest string that fits has {longest}"
            )
        return room(length)

    def _laid_out(self, strings: list[Int[np.ndarray, " _"]], starts: Int[np.ndarray, " sequence"]) -> xr.Dataset:
        equals, begin, end, pad = range(self.n_symbols, self.n_tokens)
        widest = 2 * max(map(len, strings)) + 3
        shape = (len(strings), widest)
        tokens, positions = np.full(shape, pad), np.zeros(shape, dtype=np.int64)
        answer, source = np.zeros(shape, dtype=bool), np.full(shape, -1)
        for row, (string, start) in enumerate(zip(strings, starts, strict=True)):
            n = len(string)
            where = np.arange(n)[::-1] if self.reverse else np.arange(n)
            tokens[row, : 2 * n + 3] = [begin, *string, equals, *string[where], end]
            if self.places == "coupled":
                positions[row, 1 : 2 * n + 2] = [*(start + 1 + np.arange(n)), start, *(start + 1 + where)]
            elif self.places == "random start":
                positions[row, 1 : 2 * n + 2] = start + np.arange(2 * n + 1)
            answer[row, n + 2 : 2 * n + 3] = True
            source[row, n + 2 : 2 * n + 2] = 1 + where
        if self.places == "in order":
            positions = np.broadcast_to(np.arange(widest), shape)
        return labelled(tokens, positions, answer, source=(BOTH, source))
