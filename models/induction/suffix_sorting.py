"""The places of a text in the order of what is written from there on: by pydivsufsort, or by NumPy alone."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
from jaxtyping import Int, UInt, UInt8

#: Ids up to here, or up to twice as many as there are tokens, are ranked by a table; larger ones by sorting.
SMALL_TABLE = 1 << 16

#: So many numbers are sifted at a time.
IN_CACHE = 1 << 15

#: Who can sort; the first is taken where it is installed. The order is the same.
BUILDERS = ("pydivsufsort", "numpy")


def default_builder() -> str:
    """pydivsufsort where it is installed (``pip install nextlens[corpus]``), NumPy otherwise."""
    return BUILDERS[0] if find_spec("pydivsufsort") else BUILDERS[1]


def suffix_order(tokens: UInt[np.ndarray, " place"], builder: str | None = None) -> UInt[np.ndarray, " place"]:
    """Every place of ``tokens``, sorted by the tokens from there to the end; of two equal ones the shorter first.

    Parameters
    ----------
    tokens : UInt[np.ndarray, "place"]
        Of any byte order.
    builder : str, optional
        ``"pydivsufsort"`` or ``"numpy"``; see :func:`default_builder`.

    Returns
    -------
    UInt32[np.ndarray, "place"]

    Examples
    --------
    >>> suffix_order(np.array([1, 0, 1, 0], np.uint16), "numpy").tolist()
    [3, 1, 2, 0]
    """
    ranks, n_ranks = narrow_ranks(tokens)
    by = by_divsufsort if (builder or default_builder()) == "pydivsufsort" else by_doubling
    return by(ranks, n_ranks)


def narrow_ranks(tokens: UInt[np.ndarray, " place"]) -> tuple[UInt[np.ndarray, " place"], int]:
    """The tokens, numbered without gaps in their order if they then take fewer bytes, and one more than the largest."""
    largest = int(tokens.max())
    if largest >= max(SMALL_TABLE, 2 * len(tokens)):
        distinct, ranks = np.unique(tokens, return_inverse=True)
        return ranks.astype(np.uint32), len(distinct)
    native = tokens.astype(tokens.dtype.newbyteorder("="), copy=False)
    present = np.zeros(largest + 1, bool)
    present[native] = True
    n_ranks = int(present.sum())
    if _bytes_for(n_ranks) == _bytes_for(largest + 1):
        return native, largest + 1
    rank = np.cumsum(present, dtype=np.uint32)
    rank -= 1
    return rank[native], n_ranks


def by_divsufsort(ranks: UInt[np.ndarray, " place"], n_ranks: int) -> UInt[np.ndarray, " place"]:
    """Sorts the bytes, most significant first, and keeps the places where a token begins."""
    from pydivsufsort import divsufsort

    width = _bytes_for(n_ranks)
    order = divsufsort(_big_endian(ranks, width))
    if width == 1:
        return order.astype(np.uint32)
    found, first = np.empty(len(ranks), np.uint32), 0
    for start in range(0, len(order), IN_CACHE):
        part = order[start : start + IN_CACHE]
        begins = part & (width - 1) if width & (width - 1) == 0 else part % width
        part = part.take(np.flatnonzero(begins == 0))
        found[first : first + len(part)] = part // width if width == 3 else part >> (width >> 1)
        first += len(part)
    return found


def _bytes_for(n_ranks: int) -> int:
    return max(1, ((n_ranks - 1).bit_length() + 7) // 8)


def _big_endian(ranks: UInt[np.ndarray, " place"], width: int) -> UInt8[np.ndarray, " byte"]:
    """``width`` bytes a rank."""
    whole = {1: 1, 2: 2, 3: 4, 4: 4}[width]
    as_bytes = ranks.astype(f">u{whole}").view(np.uint8)
    return as_bytes if whole == width else np.ascontiguousarray(as_bytes.reshape(-1, whole)[:, whole - width :]).ravel()


def by_doubling(ranks: UInt[np.ndarray, " place"], n_ranks: int) -> UInt[np.ndarray, " place"]:
    """Prefix doubling: sorted by a few tokens packed into one number, then by twice as many, until all differ.

    The rank of a place is where its group begins, so groups that are told apart are never touched again.
    """
    n = len(ranks)
    key, reach = _packed(ranks, n_ranks)
    order = np.argsort(key, kind="stable")
    at = np.arange(n)
    rank = np.empty(n, np.int64)
    key = key[order]
    while True:
        differs = np.concatenate([[True], key[1:] != key[:-1]])
        rank[order[at]] = at[np.maximum.accumulate(np.where(differs, np.arange(len(at)), 0))]
        alone = differs & np.concatenate([differs[1:], [True]])
        at = at[~alone]
        if not len(at):
            return order.astype(np.uint32)
        places = order[at]
        ahead = places + reach
        follows = np.where(ahead < n, rank[np.minimum(ahead, n - 1)] + 1, 0)
        key = rank[places] * (n + 1) + follows
        by_key = np.argsort(key, kind="stable")
        order[at], key = places[by_key], key[by_key]
        reach *= 2


def _packed(ranks: UInt[np.ndarray, " place"], n_ranks: int) -> tuple[Int[np.ndarray, " place"], int]:
    """As many tokens from each place on as fit 63 bits, and how many these are; 0 is past the end."""
    bits = int(n_ranks).bit_length()
    reach = max(1, 63 // bits)
    one = ranks.astype(np.int64) + 1
    key = np.zeros(len(ranks), np.int64)
    for ahead in range(reach):
        key <<= bits
        key[: max(0, len(ranks) - ahead)] |= one[ahead:]
    return key, reach
