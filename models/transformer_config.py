"""The shape of a transformer: saved beside its weights, compared by value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nextlens.models.arguments import at_least, one_of


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that decides a :class:`~nextlens.models.transformer.Transformer`, its first weights included.

    Parameters
    ----------
    n_tokens : int
        Size of the vocabulary.
    n_layers, n_heads, d_model : int
        Blocks; heads in each; width of the residual stream.
    d_head : int, optional
        Width of a head; ``d_model // n_heads`` if None.
    d_mlp : int, optional
        Hidden units of each MLP; ``4 * d_model`` if None, and attention only if 0.
    n_ctx : int
        How many positions there are: ids run over ``0 .. n_ctx - 1``.
    activation : {"relu", "gelu", "gelu_new", "silu"}
        ``gelu_new`` is the tanh approximation.
    gated : bool
        Whether the MLP is gated (GEGLU with ``gelu``, SwiGLU with ``silu``).
    normalisation : {"LayerNorm", "RMSNorm", "none"}
    post_normalisation : bool
        Whether each part's output is normalised too, before it is added (pre + post).
    positions : {"learned", "rotary", "none", "relative", "grid"}
        A learned table added to the embedding; rotation of queries and keys; nothing; learned
        tables of relative offsets on keys and values; of a grid, two rows of one learned table added:
        place ``r * side + c`` has those of row ``r`` and of column ``c``, and ``n_ctx`` is ``side²``.
    rotary_base : float
    epsilon : float
        Added to the variance under every square root.
    seed : int
        Of the first weights.

    Raises
    ------
    ValueError
        If a value is out of its range, naming it.

    Examples
    --------
    >>> TransformerConfig(n_tokens=3, positions="rotory")
    Traceback (most recent call last):
    ...
    ValueError: positions='rotory' is not one of 'learned', 'rotary', 'none', 'relative', 'grid'; did you mean 'rotary'?
    """

    n_tokens: int
    n_layers: int = 2
    n_heads: int = 1
    d_model: int = 64
    d_head: int | None = None
    d_mlp: int | None = None
    n_ctx: int = 64
    activation: str = "relu"
    gated: bool = False
    normalisation: str = "LayerNorm"
    post_normalisation: bool = False
    positions: str = "learned"
    rotary_base: float = 10_000.0
    epsilon: float = 1e-5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_tokens", "n_heads", "d_model", "n_ctx"):
            at_least(name, getattr(self, name), 1)
        at_least("n_layers", self.n_layers, 0)
        if self.d_head is None:
            if self.d_model % self.n_heads:
                raise ValueError(f"d_model={self.d_model} is not a multiple of n_heads={self.n_heads}; give d_head")
            object.__setattr__(self, "d_head", self.d_model // self.n_heads)
        if self.d_mlp is None:
            object.__setattr__(self, "d_mlp", 4 * self.d_model)
        at_least("d_head", self.d_head, 1)
        at_least("d_mlp", self.d_mlp, 0)
        at_least("seed", self.seed, 0)
        for name in ("rotary_base", "epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r} must be finite and above 0")
        one_of("activation", self.activation, ("relu", "gelu", "gelu_new", "silu"))
        one_of("normalisation", self.normalisation, ("LayerNorm", "RMSNorm", "none"))
        one_of("positions", self.positions, ("learned", "rotary", "none", "relative", "grid"))
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError(f"d_head={self.d_head} is odd; rotary positions turn pairs, so it must be even")
        if self.positions == "grid" and math.isqrt(self.n_ctx) ** 2 != self.n_ctx:
            raise ValueError(f"n_ctx={self.n_ctx} is no square; a grid has as many rows as columns")


def paper_mess3(seed: int = 0, *, n_tokens: int = 3) -> TransformerConfig:
    """The Mess3 transformer of Shai et al. 2024 (arXiv:2405.15943, A.6): 143,072 parameters."""
    return TransformerConfig(
        n_tokens=n_tokens, n_layers=4, n_heads=1, d_model=64, d_head=8, d_mlp=256, n_ctx=10, seed=seed
    )


def paper_rrxor(seed: int = 0, *, n_tokens: int = 2) -> TransformerConfig:
    """The RRXOR transformer whose figures Shai et al. 2024 print: 4 heads of 16, width 128.

    This is the configuration in the authors' notebook; appendix A.6 of the paper (arXiv:2405.15943)
    gives the Mess3 sizes for both, which is :func:`paper_mess3` with ``n_tokens=2``.
    """
    return TransformerConfig(
        n_tokens=n_tokens, n_layers=4, n_heads=4, d_model=128, d_head=16, d_mlp=512, n_ctx=10, seed=seed
    )
