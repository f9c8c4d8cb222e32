"""Nulls of a language model: what counting the rest of the same text says of each token."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least
from nextlens.probes.ridge import refuse_unequal_lengths


def counted_surprisal(
    targets: Int[np.ndarray, " row"],
    previous: Int[np.ndarray, " row"],
    block: Int[np.ndarray, " row"],
    n_tokens: int,
) -> dict[str, Float[np.ndarray, " row"]]:
    """Surprisal, in bits, of each target under counts of all other blocks of the text.

    Counts are smoothed by those of Witten and Bell (IEEE Transactions on Information Theory 37, 1991): with
    c occurrences of d distinct followers, ``p(w | v) = (c(v, w) + d(v) p(w)) / (c(v) + d(v))``, where p(w) is
    the same formula over all targets with the uniform law beneath. A word never seen after v falls
    back on how frequent it is, a word never seen at all on ``1 / n_tokens``.

    Parameters
    ----------
    targets, previous : int arrays of shape (row,)
        The token to be said, and the one just read.
    block : int array of shape (row,)
        Rows of a block are predicted from the rows of the others.
    n_tokens : int
        Size of the vocabulary.

    Returns
    -------
    dict
        ``unigram`` and ``previous token``.

    Raises
    ------
    ValueError
        If lengths differ, or a token is not below ``n_tokens``.

    Examples
    --------
    >>> said = counted_surprisal(*np.array([[0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 1, 1]]), n_tokens=2)
    >>> said["unigram"].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    refuse_unequal_lengths(targets=targets, previous=previous, block=block)
    at_least("n_tokens", n_tokens, int(max(targets.max(), previous.max())) + 1)
    words, pairs = targets.tolist(), list(zip(previous.tolist(), targets.tolist(), strict=True))
    here_words, here_pairs = defaultdict(Counter), defaultdict(Counter)
    for b, word, couple in zip(block.tolist(), words, pairs, strict=True):
        here_words[b][word] += 1
        here_pairs[b][couple] += 1
    all_words, all_pairs = Counter(words), Counter(pairs)
    unigram, bigram = np.empty(len(words)), np.empty(len(words))
    for b in here_words:
        rest, after = all_words - here_words[b], all_pairs - here_pairs[b]
        total, kinds = Counter(), Counter()
        for (first, _), count in after.items():
            total[first] += count
            kinds[first] += 1
        n, d = sum(rest.values()), len(rest)
        for row in np.flatnonzero(block == b).tolist():
            first, word = pairs[row]
            p = (rest[word] + d / n_tokens) / (n + d) if n else 1 / n_tokens
            unigram[row] = p
            seen = total[first] + kinds[first]
            bigram[row] = (after[first, word] + kinds[first] * p) / seen if seen else p
    return {"unigram": -np.log2(unigram), "previous token": -np.log2(bigram)}


def unigram_laws(
    targets: Int[np.ndarray, " row"], block: Int[np.ndarray, " row"], n_tokens: int
) -> Float[np.ndarray, "block token"]:
    """For each block, the law of one token under counts of all other blocks, smoothed as above.

    Raises
    ------
    ValueError
        As :func:`counted_surprisal`.
    """
    refuse_unequal_lengths(targets=targets, block=block)
    at_least("n_tokens", n_tokens, int(targets.max()) + 1)
    counts = np.zeros((int(block.max()) + 1, n_tokens))
    np.add.at(counts, (block, targets), 1.0)
    rest = counts.sum(0) - counts
    n, d = rest.sum(1, keepdims=True), (rest > 0).sum(1, keepdims=True)
    return np.where(n > 0, (rest + d / n_tokens) / np.maximum(n + d, 1), 1 / n_tokens)
