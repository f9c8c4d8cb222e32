"""The n-gram model that others are measured against: interpolated Kneser-Ney, on counts in sorted arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.induction.token_ids import checked

#: The discount of an order of which no count is 1: above 0, so that every token keeps a probability.
WITHOUT_SINGLETONS = 0.5


class KneserNey:
    """Interpolated Kneser-Ney of some order; a kernel that gives every token a probability above 0.

    With c the counts, at the highest order, or the number of different tokens that stand before, at the others::

        p_m(w | h) = (max(c(h w) - d_m, 0) + d_m t(h) p_{m-1}(w | h')) / c(h)        h' is h without its first token

    where t(h) is the number of different tokens after h, and p_0 is uniform. A context that never occurs leaves the
    word to the shorter one. Nothing is counted across documents.

    Parameters
    ----------
    documents : sequence of Int[np.ndarray, "time"]
    n_tokens : int
    order : int, default=5
        Tokens counted together: the last ``order - 1`` are looked at.

    Attributes
    ----------
    discounts : tuple of float
        ``n_1 / (n_1 + 2 n_2)`` of each order, from 1 up: how many counts are 1, and 2; 0.5 where no count is 1.

    Raises
    ------
    ValueError
        If there is no token, one is out of range, or ``order`` is below 1.

    Notes
    -----
    Kneser and Ney 1995; the interpolated form of Chen and Goodman, An empirical study of smoothing techniques for
    language modeling (1999), with one discount an order.
    """

    def __init__(self, documents: Sequence[Int[np.ndarray, " _"]], n_tokens: int, order: int = 5):
        self.n_tokens, self.order = int(at_least("n_tokens", n_tokens, 1)), int(at_least("order", order, 1))
        tokens, kept = _joined(documents, self.n_tokens)
        self._keys = [np.arange(self.n_tokens)]
        counted = [np.bincount(tokens[kept], minlength=self.n_tokens)]
        number = np.where(kept, tokens, -1)
        for _ in range(1, order):
            number, keys, counts = _longer(number, tokens, kept, self.n_tokens)
            self._keys.append(keys)
            counted.append(counts)
        self._counts = [self._before(m, counted[m - 1]) if m < order else counted[-1] for m in range(1, order + 1)]
        self.discounts = tuple(_discount(counts) for counts in self._counts)
        self._sums = [self._by_context(m) for m in range(1, order + 1)]

    def laws(
        self, tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"] | None = None
    ) -> Float[np.ndarray, "row token"]:
        """Row ``r`` follows ``tokens[: positions[r] + 1]``; every position if None.

        Raises
        ------
        ValueError
            If a token is out of range.
        """
        refuse_out_of_range("tokens", torch.from_numpy(np.asarray(tokens)), self.n_tokens, limit_name="n_tokens")
        positions = np.arange(len(tokens)) if positions is None else positions
        laws = np.tile(self._shortest(), (len(positions), 1))
        for m in range(2, self.order + 1):
            context = self._numbered(tokens, positions, m - 1)
            for row in np.flatnonzero(context >= 0):
                total, first, last = (found[context[row]] for found in self._sums[m - 1])
                if total:
                    laws[row] *= self.discounts[m - 1] * (last - first) / total
                    said = self._keys[m - 1][first:last] % self.n_tokens
                    laws[row, said] += np.maximum(self._counts[m - 1][first:last] - self.discounts[m - 1], 0) / total
        return laws

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Natural-log probabilities, float64.

        Raises
        ------
        ValueError
            If the batch is not read left to right, or a token is out of range.
        """
        if batch.attend is not None or not batch.in_order:
            raise ValueError("an n-gram model reads left to right; this batch has an attend mask or its own positions")
        return torch.from_numpy(np.log([self.laws(row) for row in batch.tokens.cpu().numpy()])).to(batch.device)

    def _before(self, m: int, counted: Int[np.ndarray, " gram"]) -> Int[np.ndarray, " gram"]:
        """For each run of ``m`` tokens, how many different ones stand before it; 1 if it only begins documents."""
        ending = self._without_first(m, self._keys[m])
        return np.maximum(np.bincount(ending, minlength=len(self._keys[m - 1])), counted > 0)

    def _without_first(self, m: int, longer: Int[np.ndarray, " gram"]) -> Int[np.ndarray, " gram"]:
        """The number of each run of ``m + 1`` tokens without its first."""
        head, last = np.divmod(longer, self.n_tokens)
        if m == 1:
            return last
        return np.searchsorted(
            self._keys[m - 1], self._without_first(m - 1, self._keys[m - 1])[head] * self.n_tokens + last
        )

    def _by_context(self, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each context of ``m - 1`` tokens the sum of the counts after it, and where they begin and end."""
        if m == 1:
            return np.array([self._counts[0].sum()]), np.array([0]), np.array([self.n_tokens])
        contexts = np.arange(len(self._keys[m - 2]) if m > 2 else self.n_tokens)
        first, last = (np.searchsorted(self._keys[m - 1], (contexts + k) * self.n_tokens) for k in (0, 1))
        total = np.concatenate([[0], np.cumsum(self._counts[m - 1])])
        return total[last] - total[first], first, last

    def _shortest(self) -> Float[np.ndarray, " token"]:
        counts, discount = self._counts[0], self.discounts[0]
        kept = np.maximum(counts - discount, 0)
        return (kept + discount * (counts > 0).sum() / self.n_tokens) / counts.sum()

    def _numbered(
        self, tokens: Int[np.ndarray, " time"], positions: Int[np.ndarray, " row"], length: int
    ) -> Int[np.ndarray, " row"]:
        """The number of the last ``length`` tokens of each row; -1 if they do not occur or are not there."""
        first = positions - length + 1
        number = np.where(first >= 0, tokens[np.maximum(first, 0)], -1)
        for m in range(1, length):
            key = number * self.n_tokens + tokens[np.maximum(first + m, 0)]
            at = np.minimum(np.searchsorted(self._keys[m], key), len(self._keys[m]) - 1)
            found = (
                (number >= 0) & (len(self._keys[m]) > 0) & (self._keys[m][at] == key) if len(self._keys[m]) else False
            )
            number = np.where(found, at, -1)
        return number


def _joined(documents: Sequence[Int[np.ndarray, " _"]], n_tokens: int) -> tuple[Int[np.ndarray, " place"], np.ndarray]:
    """All documents, a place after each that belongs to none; and which places hold a token."""
    read = [checked(f"documents[{number}]", document, n_tokens) for number, document in enumerate(documents)]
    if not sum(map(len, read)):
        raise ValueError("documents hold no token: there is nothing to count")
    tokens = np.concatenate([np.append(document, 0) for document in read])
    kept = np.ones(len(tokens), bool)
    kept[np.cumsum([len(document) + 1 for document in read]) - 1] = False
    return tokens, kept


def _longer(
    number: Int[np.ndarray, " place"], tokens: Int[np.ndarray, " place"], kept: np.ndarray, n_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of one more token: the number of the one ending at each place, their sorted keys, and their counts."""
    before = np.concatenate([[-1], number[:-1]])
    whole = (before >= 0) & kept
    keys, member, counts = np.unique(before[whole] * n_tokens + tokens[whole], return_inverse=True, return_counts=True)
    longer = np.full(len(tokens), -1)
    longer[whole] = member
    return longer, keys, counts


def _discount(counts: Int[np.ndarray, " gram"]) -> float:
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once else WITHOUT_SINGLETONS
