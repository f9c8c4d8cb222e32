"""Products of a long and a two-digit number, said at once or over the partial products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.tasks.prompted import BOTH, PromptedTask, labelled

TIMES, EQUALS, PLUS, BEGIN, END = range(10, 15)


@dataclass(frozen=True)
class Multiplication(PromptedTask):
    """``$653*49=79913.``: a number of ``digits`` digits times one of two; the product in two more, backwards.

    With probability ``p_chain`` the answer is long: the products with the units and with the tens, then their sum, all
    backwards, ``$653*49=7785+2162=79913.``; so policies can be reinforced that sometimes go step by step, as with
    :class:`~nextlens.models.tasks.parity.Parity`. The task is a ``Judging`` one.

    Tokens: the digits, then ``TIMES`` = 10, ``EQUALS`` = 11, ``PLUS`` = 12, ``BEGIN`` = 13, ``END`` = 14, which also
    pads.

    Parameters
    ----------
    digits : int, default=3
        Of the first number, zeros in front allowed.
    p_chain : float, default=0
        The share of long answers.
    places : {"coupled", "in order", "random start"}
        Position ids. ``coupled``: digits of one significance share an id, ``start + 1 + j``, in both numbers and in
        all that is said; the product with the tens begins at significance 1. Signs have ``start``.
        ``random start``: one after another from ``start``. In both, ``BEGIN`` and ``END`` have 0.
        ``in order``: 0, 1, 2 ...
    n_positions : int, default=203
        Ids run over ``0 .. n_positions - 1``.

    Raises
    ------
    ValueError
        If a number is out of range, or the longest sequence finds no place in ``n_positions``.

    Examples
    --------
    >>> task = Multiplication(digits=3, p_chain=1.0)
    >>> print(task.spelled(task.of([[653, 49]], is_long=True).tokens.values[0]))
    $653*49=7785+2162=79913.
    """

    digits: int = 3
    p_chain: float = 0.0
    places: str = "coupled"
    n_positions: int = 203

    def __post_init__(self) -> None:
        at_least("digits", self.digits, 1)
        between("p_chain", self.p_chain, 0, 1)
        one_of("places", self.places, ("coupled", "in order", "random start"))
        self._last_start(self.digits)

    @property
    def n_tokens(self) -> int:
        return 15

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return END

    @property
    def longest_answer(self) -> int:
        """Tokens of a long answer if there are any, else of a short one; its end among them."""
        return self._answer(self.digits, self.p_chain > 0)

    def draw(
        self, n_sequences: int, rng: np.random.Generator, *, digits: int | None = None, start: int | None = None
    ) -> xr.Dataset:
        """See :meth:`PromptedTask.draw`; latents of :meth:`of`. Sequences are of one length, but for their answers.

        Parameters
        ----------
        n_sequences : int
        rng : Generator
        digits : int, optional
            Of the first number, instead of the task's own.
        start : int, optional
            Drawn for each sequence if None.

        Raises
        ------
        ValueError
            If a number is out of range; for ``digits``, with the most that ``n_positions`` can hold.
        """
        at_least("n_sequences", n_sequences, 1)
        digits = self.digits if digits is None else at_least("digits", digits, 1)
        last = self._last_start(digits)
        starts = rng.integers(1, last + 1, n_sequences) if start is None else np.full(n_sequences, start)
        between("start", int(starts.max()), 1, last)
        first, second = rng.integers(10, size=(n_sequences, digits)), rng.integers(10, size=(n_sequences, 2))
        return self._laid_out(first, second, rng.random(n_sequences) < self.p_chain, starts)

    def of(self, pairs: list[list[int]], *, is_long: bool = False, start: int = 1) -> xr.Dataset:
        """The sequences of given pairs of numbers.

        Returns
        -------
        xr.Dataset
            As from :meth:`PromptedTask.draw`, with the latents ``significance`` (sequence, position), of each digit
            and -1 elsewhere, and ``is_long`` (sequence).

        Raises
        ------
        ValueError
            If a number has too many digits, or the start does not fit.
        """
        for pair in pairs:
            if len(pair) != 2 or not (0 <= pair[0] < 10**self.digits and 0 <= pair[1] < 100):
                raise ValueError(f"pairs hold {pair}; each must be a number below 10^{self.digits} and one below 100")
        between("start", start, 1, self._last_start(self.digits))
        first = np.array([_backwards(a, self.digits) for a, _ in pairs])
        second = np.array([_backwards(b, 2) for _, b in pairs])
        return self._laid_out(first, second, np.full(len(pairs), is_long), np.full(len(pairs), start))

    def prompts(self, n_sequences: int, rng: np.random.Generator) -> Int[np.ndarray, "sequence prompt"]:
        """Both numbers and the sign, without an answer."""
        return self.draw(n_sequences, rng).tokens.values[:, : self.digits + 5]

    def judged(self, prompts: Int[np.ndarray, "sequence prompt"], said: Int[np.ndarray, "sequence new"]) -> xr.Dataset:
        """What is right about answers, any tokens whatever.

        Returns
        -------
        xr.Dataset
            Over ``sequence``: ``length`` (tokens before the first ``END``; all of them if there is none), ``ended``,
            ``is_long`` (as long as an answer over the partial products), ``is_short`` (as long as a product, and
            ended), ``last_is_right`` (the product stands before the end, alone or behind an equals sign),
            ``chain_is_right`` (the whole answer is one the task may say).
        """
        rows = []
        for prompt, spoken in zip(prompts.tolist(), said.tolist(), strict=True):
            first, second = prompt[1 : 1 + self.digits][::-1], prompt[2 + self.digits : 4 + self.digits][::-1]
            short, long = (_said(first, second, chain)[:-1] for chain in (False, True))
            ended = END in spoken
            own = spoken[: spoken.index(END)] if ended else spoken
            before = own[-len(short) - 1 : -len(short)]
            last = ended and own[-len(short) :] == short and before in ([], [EQUALS])
            is_short = ended and len(own) == len(short)
            rows.append((len(own), ended, len(own) == len(long), is_short, last, ended and own in (short, long)))
        names = ("length", "ended", "is_long", "is_short", "last_is_right", "chain_is_right")
        return xr.Dataset(
            {name: ("sequence", np.array(v)) for name, v in zip(names, zip(*rows, strict=True), strict=True)}
        )

    def spelled(self, tokens: Int[np.ndarray, " time"]) -> str:
        """As a reader would write it; the end as a point, once."""
        text = "".join("0123456789*=+$."[token] for token in np.asarray(tokens).tolist())
        return text.rstrip(".") + "." * text.endswith(".")

    def _answer(self, digits: int, is_long: bool) -> int:
        return digits + 3 + is_long * 2 * (digits + 2)

    def _last_start(self, digits: int) -> int:
        def room(size: int) -> int:
            length = size + 5 + self._answer(size, self.p_chain > 0)
            needed = {"coupled": size + 3, "random start": length - 2, "in order": length - 1}[self.places]
            return self.n_positions - needed

        if room(digits) < 1:
            longest = max((size for size in range(1, digits) if room(size) > 0), default=0)
            raise ValueError(
                f"digits={digits} need {self.n_positions + 1 - room(digits)} positions and "
                f"n_positions={self.n_positions}; the longest number that fits has {longest}"
            )
        return room(digits)

    def _laid_out(
        self,
        first: Int[np.ndarray, "sequence digit"],
        second: Int[np.ndarray, "sequence two"],
        is_long: Bool[np.ndarray, " sequence"],
        starts: Int[np.ndarray, " sequence"],
    ) -> xr.Dataset:
        digits = first.shape[1]
        width = digits + 5 + self._answer(digits, self.p_chain > 0 or bool(is_long.any()))
        shape = (len(first), width)
        tokens, significance = np.full(shape, END), np.full(shape, -1)
        answer = np.zeros(shape, dtype=bool)
        asked = [*reversed(range(digits)), -1, 1, 0, -1]
        for row, (a, b, long) in enumerate(zip(first, second, is_long.tolist(), strict=True)):
            said = _said(a.tolist(), b.tolist(), long)
            prompt = [BEGIN, *a[::-1], TIMES, *b[::-1], EQUALS]
            tokens[row, : len(prompt) + len(said)] = [*prompt, *said]
            significance[row, 1 : len(prompt)] = asked
            significance[row, len(prompt) : len(prompt) + len(said)] = _worth(digits, long)
            answer[row, len(prompt) : len(prompt) + len(said)] = True
        marks = np.isin(tokens, (BEGIN, END))
        if self.places == "coupled":
            positions = np.where(marks, 0, starts[:, None] + 1 + significance)
        elif self.places == "random start":
            positions = np.where(marks, 0, starts[:, None] + np.arange(width) - 1)
        else:
            positions = np.broadcast_to(np.arange(width), shape)
        return labelled(
            tokens, positions, answer, significance=(BOTH, significance), is_long=("sequence", np.asarray(is_long))
        )


def _said(first: list[int], second: list[int], is_long: bool) -> list[int]:
    """The answer, its end among it; digits given from the least significant."""
    value, units, tens = _value(first), *second
    product = _backwards(value * (10 * tens + units), len(first) + 2)
    if not is_long:
        return [*product, END]
    parts = (_backwards(value * digit, len(first) + 1) for digit in (units, tens))
    return [*next(parts), PLUS, *next(parts), EQUALS, *product, END]


def _worth(digits: int, is_long: bool) -> list[int]:
    """The significance of every token of an answer."""
    product = [*range(digits + 2), -1]
    return [*range(digits + 1), -1, *range(1, digits + 2), -1, *product] if is_long else product


def _value(digits: list[int]) -> int:
    return sum(digit * 10**j for j, digit in enumerate(digits))


def _backwards(number: int, n_digits: int) -> list[int]:
    """Digits from the least significant."""
    return [number // 10**j % 10 for j in range(n_digits)]
