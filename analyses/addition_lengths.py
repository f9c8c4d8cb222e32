"""How far does addition reach beyond the lengths it was trained on, and do position ids say what a digit is worth?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Int

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel
from nextlens.models.tasks.addition import END, EQUALS, PLUS, Addition
from nextlens.models.tasks.prompted import batch_of

#: Exact match above which a length counts as reached (arXiv:2405.20671, §4).
REACHED = 0.95


def by_length(
    model: Kernel, task: Addition, lengths: Sequence[int], rng: np.random.Generator, *, start: int = 1, n: int = 300
) -> xr.Dataset:
    """How well sums of operands of each length are said, greedily.

    The sum is determined by the prompt, so a greedy answer is right throughout if and only if every token of the true
    one is the most probable after those before it: nothing needs to be decoded.

    Parameters
    ----------
    model : Kernel
    task : Addition
    lengths : sequence of int
        Digits of both operands.
    rng : Generator
    start : int, default=1
        Of the position ids.
    n : int, default=300
        Sums of each length.

    Returns
    -------
    xr.Dataset
        Over ``digits``: ``exact``, the share of answers right to the end token; ``exact_digits``, right in all digits,
        whatever is said after them; ``token``, the share of digits right after true ones; ``end``, of end tokens.

    Raises
    ------
    ValueError
        If operands of some length find no place in the position table, with the most that it holds.
    """
    rows = []
    for digits in lengths:
        right, batch = right_tokens(model, task.draw(n, rng, digits=digits, start=start))
        asked = batch.weights > 0
        numeral = asked & (batch.targets < 10)
        rows.append(
            (
                float((right | ~asked).all(1).float().mean()),
                float((right | ~numeral).all(1).float().mean()),
                float(right[numeral].float().mean()),
                float(right[asked & (batch.targets == END)].float().mean()),
            )
        )
    names = ("exact", "exact_digits", "token", "end")
    found = {name: ("digits", np.array(values)) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    return xr.Dataset(found, coords={"digits": list(lengths)})


@torch.no_grad()
def right_tokens(model: Kernel, drawn: xr.Dataset) -> tuple[Bool[torch.Tensor, "batch time"], Batch]:
    """Where the most probable token after the true ones before it is the true one, and the sample that this is of."""
    batch = batch_of(drawn).to(getattr(model, "device", "cpu"))
    return model.log_probs(batch).argmax(-1) == batch.targets, batch


def generalisable_length(lengths: Sequence[int], exact: Sequence[float]) -> int:
    """The longest of ``lengths`` that is reached, with all shorter ones: an exact match above 0.95; 0 if none is.

    Examples
    --------
    >>> generalisable_length([5, 10, 20, 30], [1.0, 0.99, 0.8, 0.97])
    10
    """
    reached = 0
    for length, value in sorted(zip(lengths, exact, strict=True)):
        if value <= REACHED:
            break
        reached = length
    return reached


def swapped_ids(
    model: Kernel, task: Addition, rng: np.random.Generator, *, digits: int, start: int = 1, n: int = 300
) -> xr.Dataset:
    """What a model adds if the ids of two digits of the first operand change places, and nothing else does.

    If the id says what a digit is worth, the sum said is that of the number with the two digits exchanged. Two digits
    that differ are chosen for every sum, so the two answers differ.

    Returns
    -------
    xr.Dataset
        Shares of answers with all digits right: ``untouched``, before ids were exchanged; ``as exchanged``, the sum
        of the number that the ids spell; ``as written``, the sum of the number that the tokens spell.
    """
    at_least("digits", digits, 2)
    drawn = task.draw(n, rng, digits=digits, start=start)
    spelled = _operands(drawn, task)
    first = 1 + np.arange(digits)
    pairs = np.array([_unequal(row[first], rng) for row in drawn.tokens.values]) + 1
    exchanged = spelled.copy()
    rows = np.arange(n)
    significance = digits - pairs
    a, b = significance.T
    exchanged[rows, 0, a], exchanged[rows, 0, b] = spelled[rows, 0, b], spelled[rows, 0, a]
    as_exchanged = task.of_digits(exchanged, start=start)
    mixed = as_exchanged.copy(deep=True)
    mixed.tokens[:, first] = drawn.tokens[:, first]
    places = mixed.positions.values
    places[rows, pairs[:, 0]], places[rows, pairs[:, 1]] = places[rows, pairs[:, 1]], places[rows, pairs[:, 0]].copy()
    as_written = mixed.copy(deep=True)
    as_written.tokens[:, :] = drawn.tokens
    cases = {"untouched": drawn, "as exchanged": mixed, "as written": as_written}
    return xr.Dataset({name: _digits_right(model, one) for name, one in cases.items()})


def _unequal(digits: Int[np.ndarray, " place"], rng: np.random.Generator) -> tuple[int, int]:
    """Two places of digits that differ; of equal digits, any two."""
    first = int(rng.integers(len(digits)))
    others = np.flatnonzero(digits != digits[first])
    others = others if len(others) else np.delete(np.arange(len(digits)), first)
    return first, int(rng.choice(others))


def _digits_right(model: Kernel, drawn: xr.Dataset) -> float:
    right, batch = right_tokens(model, drawn)
    numeral = (batch.weights > 0) & (batch.targets < 10)
    return float((right | ~numeral).all(1).float().mean())


def _operands(drawn: xr.Dataset, task: Addition) -> Int[np.ndarray, "sequence operand significance"]:
    """Digits of operands of one length, from the least significant."""
    tokens = drawn.tokens.values
    start = np.flatnonzero(np.isin(tokens[0], (PLUS, EQUALS)))
    digits = int(start[0]) - 1
    return np.stack([tokens[:, at - digits : at][:, ::-1] for at in start[: task.n_operands]], axis=1)
