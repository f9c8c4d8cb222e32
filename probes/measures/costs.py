"""What a law of the next token costs: floating-point operations, bytes of keys and values, seconds and their growth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

from nextlens.models.arguments import at_least


class Cost(NamedTuple):
    """Of reading one sequence.

    Attributes
    ----------
    flops : int or None
        Multiplications and additions of matrix products; None if they were not counted.
    per_token : float or None
        Flops over tokens read.
    cache : int or None
        Bytes of keys and values; None if it is not known what the kernel keeps.
    """

    flops: int | None
    per_token: float | None
    cache: int | None


class Growth(NamedTuple):
    """How seconds grow with the tokens read.

    Attributes
    ----------
    constant, linear, quadratic : float
        Seconds, seconds a token, and seconds a token squared of ``a + b T + c T²``, none below 0.
    slopes : Float[np.ndarray, " step"]
        ``d log seconds / d log T`` between neighbouring lengths: there is not one exponent.
    """

    constant: float
    linear: float
    quadratic: float
    slopes: Float[np.ndarray, " step"]


def attention_flops(time: int, d_model: int, d_attention: int, *, relative: bool = False) -> int:
    """Of one attention layer: four projections, all ``time²`` scores, and their weighted values.

    Tables of relative positions on keys and values multiply by as many again.
    """
    return 8 * time * d_model * d_attention + (8 if relative else 4) * time**2 * d_attention


def forward_flops(
    time: int,
    *,
    n_tokens: int,
    n_layers: int,
    d_model: int,
    d_mlp: int,
    d_attention: int | None = None,
    n_matrices: int = 2,
    relative: bool = False,
    sequences: int = 1,
) -> int:
    """``L (8 T d d_a + 4 T² d_a + 2 n T d d_mlp) + 2 T d V``: what torch's counter counts of a forward pass.

    Parameters
    ----------
    time : int
        Tokens read of each sequence; all scores are computed, those of the future too.
    d_attention : int, optional
        Width of all heads together; ``d_model`` if None.
    n_matrices : int, default=2
        Of each MLP; 3 if it is gated.
    relative : bool, default=False
        Whether positions are tables of offsets, on keys and values.
    sequences : int, default=1

    Examples
    --------
    >>> forward_flops(128, n_tokens=100, n_layers=2, d_model=64, d_mlp=256, sequences=3)
    105578496
    """
    for name, value in (("time", time), ("n_tokens", n_tokens), ("d_model", d_model), ("sequences", sequences)):
        at_least(name, value, 1)
    layer = (
        attention_flops(time, d_model, d_attention or d_model, relative=relative)
        + 2 * n_matrices * time * d_model * d_mlp
    )
    return sequences * (n_layers * layer + 2 * time * d_model * n_tokens)


def cache_bytes(
    time: int, *, n_layers: int, n_key_value_heads: int, d_head: int, sequences: int = 1, itemsize: int = 4
) -> int:
    """``2 L n_kv d_head T B`` numbers of ``itemsize`` bytes: keys and values of every token read.

    Examples
    --------
    >>> cache_bytes(128, n_layers=2, n_key_value_heads=4, d_head=16)
    131072
    """
    at_least("time", time, 1)
    return 2 * n_layers * n_key_value_heads * d_head * time * sequences * itemsize


def growth(lengths: Float[np.ndarray, " length"], seconds: Float[np.ndarray, "length repeat"]) -> Growth:
    """Seconds against tokens, from the median of repeats at each length.

    Fitted with errors relative to the median, so that the short lengths count too.

    Raises
    ------
    ValueError
        If there are fewer than three lengths, they do not increase, or a time is not above 0.
    """
    at_least("number of lengths", len(lengths), 3)
    if (np.diff(lengths) <= 0).any() or not (seconds > 0).all():
        raise ValueError("lengths must increase, and every time be above 0")
    median = np.median(seconds, axis=1)
    terms = np.stack([np.ones_like(lengths), lengths, lengths**2], axis=1)
    size = terms.max(0)
    (a, b, c), _ = nnls(terms / size / median[:, None], np.ones(len(lengths)))
    slopes = np.diff(np.log(median)) / np.diff(np.log(lengths))
    return Growth(float(a / size[0]), float(b / size[1]), float(c / size[2]), slopes)
