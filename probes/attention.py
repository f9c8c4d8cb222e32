"""What attention heads do, read off their patterns and their weights: prefix matching, previous token, copying.

A pattern holds ``pattern[b, h, t, s]``, how much head h looks from position t at position s; rows sum
to 1. Every score of a pattern has a chance level: the same score of :func:`uniform_causal`, a head that
looks at all it may see alike.

References
----------
.. [1] Olsson, C. et al. In-context Learning and Induction Heads. Transformer Circuits Thread, 2022
   (arXiv:2209.11895): prefix matching and copying.
.. [2] Elhage, N. et al. A Mathematical Framework for Transformer Circuits. Transformer Circuits Thread,
   2021: eigenvalues of the OV and QK circuits.
.. [3] TransformerLens, ``head_detector.py``: which entries of a pattern count, and the share of all.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from nextlens.models.arguments import at_least

#: How far a row of a pattern may be from a sum of 1: half-precision patterns are.
ROUNDING = 1e-2


def followers(tokens: Int[np.ndarray, "sequence position"]) -> Bool[np.ndarray, "sequence query key"]:
    """Keys that come right after an earlier copy of the query's token: what induction says comes next.

    ``tokens[b, key - 1] == tokens[b, query]`` with ``key - 1 < query``, so the query itself is one after
    a token said twice in a row; as in [3]_.
    """
    found = np.zeros((*tokens.shape, tokens.shape[1]), dtype=bool)
    found[:, :, 1:] = duplicates(tokens)[:, :, :-1]
    return found


def duplicates(tokens: Int[np.ndarray, "sequence position"]) -> Bool[np.ndarray, "sequence query key"]:
    """Keys that are earlier copies of the query's token, itself not among them."""
    return np.tril(tokens[:, :, None] == tokens[:, None, :], -1)


def previous(tokens: Int[np.ndarray, "sequence position"]) -> Bool[np.ndarray, "sequence query key"]:
    """The key right before the query."""
    time = tokens.shape[1]
    return np.broadcast_to(np.eye(time, k=-1, dtype=bool), (len(tokens), time, time))


def attention_to(
    pattern: Float[np.ndarray, "sequence head query key"], keys: Bool[np.ndarray, "row place other"]
) -> Float[np.ndarray, " head"]:
    """How much attention falls on ``keys``, on average over the queries that have any::

        mean over (b, t) with some keys[b, t, s] of  sum_s pattern[b, h, t, s] keys[b, t, s]

    Raises
    ------
    ValueError
        If shapes differ, ``pattern`` is no pattern, or no query has such a key.
    """
    _refuse_other_than_pattern(pattern, keys)
    asked = _asked(keys)
    return np.einsum("bhts,bts->h", pattern, keys.astype(pattern.dtype), optimize=True) / asked.sum()


def prefix_matching(
    pattern: Float[np.ndarray, "sequence head query key"], tokens: Int[np.ndarray, "row place"]
) -> Float[np.ndarray, " head"]:
    """Attention to the tokens that followed earlier copies of the current one: :func:`followers`.

    On random tokens said twice it is the prefix-matching score of [1]_, the mean attention from a token of
    the second copy to what followed it in the first. Tokens said more often have several such keys, of
    which the attention is summed. Defined for any tokens of which one comes again.

    Raises
    ------
    ValueError
        If shapes differ, ``pattern`` is no pattern, or no token comes twice.
    """
    return attention_to(pattern, followers(tokens))


def previous_token(pattern: Float[np.ndarray, "sequence head query key"]) -> Float[np.ndarray, " head"]:
    """Attention to the token before, on average over all queries but the first.

    Raises
    ------
    ValueError
        If ``pattern`` is no pattern, or there is one position only.
    """
    return attention_to(pattern, previous(np.zeros((len(pattern), pattern.shape[2]), dtype=np.int64)))


def duplicate_token(
    pattern: Float[np.ndarray, "sequence head query key"], tokens: Int[np.ndarray, "row place"]
) -> Float[np.ndarray, " head"]:
    """Attention to earlier copies of the current token, on average over the queries that have any.

    Raises
    ------
    ValueError
        As :func:`prefix_matching`.
    """
    return attention_to(pattern, duplicates(tokens))


def detector_share(
    pattern: Float[np.ndarray, "sequence head query key"], keys: Bool[np.ndarray, "row place other"]
) -> Float[np.ndarray, " head"]:
    """The share of *all* attention that falls on ``keys``: TransformerLens's ``detect_head`` [3]_.

    Queries without such a key count as well, so that on tokens said twice a perfect head scores about 1/2,
    and on text as little as the text repeats. The mean over sequences of what ``detect_head`` gives each.

    Raises
    ------
    ValueError
        If shapes differ, or ``pattern`` is no pattern.
    """
    _refuse_other_than_pattern(pattern, keys)
    return (pattern * keys[:, None]).sum((2, 3)).mean(0) / pattern.shape[2]


def copying(
    pattern: Float[np.ndarray, "sequence head query key"],
    tokens: Int[np.ndarray, "row place"],
    raised: Float[np.ndarray, "row other place token"],
) -> Float[np.ndarray, " head"]:
    """Of what a head adds to logits above their mean, the share added to the tokens that it attends to::

        mean over (b, t) of  sum_s pattern[b, h, t, s] r[b, h, t, tokens[b, s]] / sum_v r[b, h, t, v]
        r = max(0, raised - mean of raised over v)

    over the queries whose token has come before. [1]_ calls a head copying whose output raises the logit
    of the token attended to; this is that in a number, 1 if one token is attended to and it alone is
    raised. A head that raises tokens at random scores 1 / n_tokens.

    Parameters
    ----------
    raised : array of shape (sequence, head, query, token)
        What each head's output alone adds to the logits. A query where it adds nothing scores 0.

    Raises
    ------
    ValueError
        If shapes differ, ``pattern`` is no pattern, a token has no logit, or no token comes twice.
    """
    keys = duplicates(tokens)
    _refuse_other_than_pattern(pattern, keys)
    if raised.shape[:3] != pattern.shape[:3]:
        raise ValueError(f"raised has shape {raised.shape}; pattern asks for {pattern.shape[:3]}, then tokens")
    if not (tokens.min() >= 0 and tokens.max() < raised.shape[3]):
        raise ValueError(f"tokens reach from {tokens.min()} to {tokens.max()}; raised has {raised.shape[3]} logits")
    above = np.maximum(raised - raised.mean(-1, keepdims=True), 0)
    looked_at = np.broadcast_to(tokens[:, None, None, :], pattern.shape)
    onto = (pattern * np.take_along_axis(above, looked_at, axis=3)).sum(-1)
    total = above.sum(-1)
    share = np.divide(onto, total, out=np.zeros_like(onto), where=total > 0)
    return share.transpose(1, 0, 2)[:, _asked(keys)].mean(-1)


def uniform_causal(n_sequences: int, time: int) -> Float[np.ndarray, "n_sequences 1 time time"]:
    """The pattern of one head that looks at itself and everything before alike: the chance level of every score.

    Examples
    --------
    >>> uniform_causal(1, 3)[0, 0].round(2).tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.33, 0.33, 0.33]]
    """
    at_least("n_sequences", n_sequences, 1)
    row = np.tri(time) / np.arange(1, at_least("time", time, 1) + 1)[:, None]
    return np.broadcast_to(row, (n_sequences, 1, time, time))


def eigenvalue_score(circuit: Float[np.ndarray, "*head rank rank"]) -> Float[np.ndarray, "*head"]:
    """``sum_i Re λ_i / sum_i |λ_i|`` of each matrix, from -1 to 1: the copying score of [2]_.

    A circuit from tokens to tokens, such as ``W_E W_V W_O W_U``, has few eigenvalues that are not 0, and
    they are those of the small matrix made by turning the product around: ``W_O W_U W_E W_V``. Near 1,
    tokens tend to raise themselves (OV) or to look for themselves (QK); a random circuit scores about 0.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    values = _eigenvalues(circuit)
    total = np.abs(values).sum(-1)
    return np.asarray(np.divide(values.real.sum(-1), total, out=np.zeros(total.shape), where=total > 0))


def positive_share(circuit: Float[np.ndarray, "*head rank rank"]) -> Float[np.ndarray, "*head"]:
    """The share of eigenvalues with a positive real part; a random circuit scores about 1/2.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    return np.asarray((_eigenvalues(circuit).real > 0).mean(-1))


def largest_is_itself(
    rows: Num[np.ndarray, "*head sample token"], tokens: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "*head"]:
    """The share of tokens whose own entry is the largest of their row in a circuit from tokens to tokens.

    By chance 1 / n_tokens. Unlike eigenvalues it sees single tokens, and needs no more than a sample of rows.

    Parameters
    ----------
    rows : array of shape (..., sample, token)
        Row i belongs to the token ``tokens[i]``.

    Raises
    ------
    ValueError
        If lengths differ or a value is not finite.
    """
    if rows.shape[-2] != len(tokens):
        raise ValueError(f"rows has {rows.shape[-2]} rows and tokens {len(tokens)}; each row belongs to one token")
    if not np.isfinite(rows).all():
        raise ValueError("rows hold a value that is not finite")
    return np.asarray((rows.argmax(-1) == tokens).mean(-1))


def _eigenvalues(circuit: Float[np.ndarray, "*head rank rank"]) -> Num[np.ndarray, "*head rank"]:
    if not np.isfinite(circuit).all():
        raise ValueError("circuit holds a value that is not finite")
    return np.linalg.eigvals(circuit)


def _asked(keys: Bool[np.ndarray, "sequence query key"]) -> Bool[np.ndarray, "sequence query"]:
    """Queries that have any of these keys."""
    asked = keys.any(-1)
    if not asked.any():
        raise ValueError("no query has such a key: no token comes twice, or there is one position only")
    return asked


def _refuse_other_than_pattern(
    pattern: Float[np.ndarray, "sequence head query key"], keys: Bool[np.ndarray, "row place other"]
) -> None:
    if pattern[:, 0].shape != keys.shape:
        raise ValueError(
            f"pattern has shape {pattern.shape}; tokens of shape {keys.shape[:2]} ask for "
            f"({keys.shape[0]}, heads, {keys.shape[1]}, {keys.shape[1]})"
        )
    off = np.abs(pattern.sum(-1, dtype=np.float64) - 1).max()
    if not off <= ROUNDING:
        raise ValueError(f"pattern has a row that sums to 1 only up to {off:.3g}; attention is a law over the keys")
