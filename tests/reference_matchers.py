"""Matchers by definition, a few lines each: oracles for the fast ones, and stand-ins in tests of what uses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nextlens.models.induction.votes import Matcher, Places, Votes


class ByPlaces(Matcher):
    """A matcher that is whatever its ``places`` say."""

    def votes(self, tokens, positions=None) -> Votes:
        rows = []
        for position in range(len(tokens)) if positions is None else positions:
            found = self.places(tokens[: position + 1])
            token = np.unique(found.token)
            weight = np.array([found.weight[found.token == one].sum() for one in token])
            rows.append((found.length, token.astype(np.int64), weight.astype(np.float64)))
        return Votes.of_rows(rows)


def common_suffix(one: Sequence[int], other: Sequence[int]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length


def placed(source: str, length: int, found: Sequence[tuple[int, int, int, float]]) -> Places:
    table = np.array(found, dtype=float).reshape(-1, 4)
    document, offset, token = table[:, :3].T.astype(np.int64)
    return Places(source, length, document, offset, token, table[:, 3].copy())


class SlowInfiniGram(ByPlaces):
    """The longest suffix that the documents hold before some token, by looking everywhere."""

    def __init__(self, documents, n_tokens: int):
        self.documents, self.n_tokens = [np.asarray(d) for d in documents], n_tokens

    def places(self, tokens) -> Places:
        ends = [(d, i) for d, document in enumerate(self.documents) for i in range(len(document))]
        lengths = [common_suffix(self.documents[d][:i], tokens) for d, i in ends]
        n = max(lengths)
        found = [(d, i, self.documents[d][i], 1.0) for (d, i), c in zip(ends, lengths, strict=True) if c == n or n == 0]
        return placed("corpus", n, found)


class SlowInduction(ByPlaces):
    """The longest suffix that the context holds earlier, by looking everywhere."""

    def __init__(self, n_tokens: int):
        self.n_tokens = n_tokens

    def places(self, tokens) -> Places:
        lengths = [common_suffix(tokens[:i], tokens) for i in range(1, len(tokens))]
        n = max(lengths, default=0)
        return placed(
            "context", n, [(-1, i, tokens[i], 1.0) for i, c in enumerate(lengths, start=1) if c == n and n > 0]
        )


class SlowSimilar(ByPlaces):
    """``exp(-(1 - cosine) / temperature)`` of every earlier place."""

    def __init__(self, features: Callable, n_tokens: int, temperature: float = 0.1):
        self.features, self.n_tokens, self.temperature = features, n_tokens, temperature

    def places(self, tokens) -> Places:
        unit = self.features(tokens)
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        weight = np.exp(-(1 - unit[:-1] @ unit[-1]) / self.temperature)
        return placed("similar", 0, [(-1, i + 1, tokens[i + 1], w) for i, w in enumerate(weight)])
