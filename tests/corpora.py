"""Small corpora of every kind that has broken an index, and what a linear scan says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

#: What follows at the end of a document.
END = -1


def streams(rng: np.random.Generator) -> dict[str, list[list[int]]]:
    """Documents by the name of what is odd about them."""
    copied = rng.integers(50, size=60).tolist()
    return {
        "random": [rng.integers(4, size=n).tolist() for n in (40, 1, 25)],
        "rare": [rng.integers(1000, size=80).tolist()],
        "one token": [[3]],
        "constant": [[2] * 70, [2] * 30],
        "period 3": [[0, 1, 2] * 25 + [0]],
        "copied": [copied, [7, *copied[10:50]], copied],
        "empty documents": [[], [1, 2], [], [], [1, 2, 1], []],
        "one-byte border": [[253, 254, 255, 256, 254, 255], [255, 254, 256]],
        "two-byte border": [[65_533, 65_534, 65_535, 65_536, 65_534], [65_535, 65_534]],
        "largest id": [[2**32 - 2, 0, 2**32 - 2], [2**32 - 3, 2**32 - 2]],
    }


def prompts(documents: Sequence[Sequence[int]], rng: np.random.Generator, n_tokens: int) -> list[list[int]]:
    """Empty; each document whole, and one token longer; across documents; unseen; stretches and their neighbours."""
    whole = [list(document) for document in documents]
    seen = sorted({token for document in whole for token in document})
    unseen = [token for token in (*range(10), n_tokens - 1) if token not in seen and token < n_tokens][:1]
    across = [one + other for one, other in pairwise(whole)]
    found = [[], *whole, *([*document, seen[0]] for document in whole), *across, unseen, [*seen[:2], *unseen]]
    text = [token for document in whole for token in document]
    for _ in range(8):
        start, length = rng.integers(len(text)), rng.integers(1, 12)
        stretch = text[start : start + length]
        found += [stretch, [*stretch, *rng.choice(seen, 2).tolist()], [*unseen, *stretch]]
    return found


def occurrences(documents: Sequence[Sequence[int]], run: Sequence[int]) -> list[tuple[int, int]]:
    """Document and offset of every occurrence, by looking at every place."""
    n, run = len(run), list(run)
    return [
        (number, offset)
        for number, document in enumerate(documents)
        for offset in range(len(document) - n + 1)
        if list(document[offset : offset + n]) == run
    ]


def scan(documents: Sequence[Sequence[int]], prompt: Sequence[int], followed: bool = False) -> tuple[int, Counter]:
    """The longest suffix that occurs, and a count of what follows it; with ``followed``, of tokens alone."""
    for n in range(len(prompt), -1, -1):
        after: Counter[int] = Counter()
        for number, offset in occurrences(documents, prompt[len(prompt) - n :]):
            document = documents[number]
            after[document[offset + n] if offset + n < len(document) else END] += 1
        if followed:
            del after[END]
        if after:
            return n, after
    raise AssertionError("the corpus is empty")
