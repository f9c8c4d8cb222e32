"""The Fuzzy Matching Model: windows of k tokens become features, alike where what follows them is alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.hooked_module import Table
from nextlens.models.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class MatchingConfig:
    """Everything that decides a :class:`MatchingModel`, its first weights included.

    The defaults are those of arXiv:2411.00066.

    Parameters
    ----------
    n_tokens : int
    n_out : int
        Width of a feature.
    n_layers, n_heads, d_model : int
    reach : int
        The published k: a position looks at itself and at the ``reach - 1`` before it.
    n_ctx : int, optional
        The longest window; ``reach`` if None. Longer ones see farther through their layers only.
    seed : int

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    n_tokens: int
    n_out: int = 128
    n_layers: int = 4
    n_heads: int = 12
    d_model: int = 768
    reach: int = 32
    n_ctx: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("n_out", self.n_out, 1)
        at_least("reach", self.reach, 1)
        if self.n_ctx is None:
            object.__setattr__(self, "n_ctx", self.reach)
        at_least("n_ctx", self.n_ctx, self.reach)
        self.trunk()

    def trunk(self) -> TransformerConfig:
        """The transformer inside."""
        return TransformerConfig(
            n_tokens=self.n_tokens,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            n_ctx=self.n_ctx,
            activation="gelu",
            positions="relative",
            seed=self.seed,
        )


class MatchingModel(nn.Module):
    """A decoder with relative positions on keys and values, whose output is a feature and no law.

    With offsets ``s - t`` in ``-(reach - 1) .. 0`` (Shaw et al. 2018, arXiv:1803.02155; tables shared by the heads)::

        score[t, s] = (q[t] · k[s] + q[t] · R_K[s - t]) / sqrt(d)      z[t] = sum_s pattern[t, s] (v[s] + R_V[s - t])

    then a final LayerNorm and a linear map without bias. Of the tables, ``reach`` rows are ever used. Weights
    are drawn from N(0, 0.02²), those that add to the residual stream smaller by ``sqrt(2 n_layers)``; tables of
    positions are Xavier-uniform.

    Parameters
    ----------
    config : MatchingConfig

    Attributes
    ----------
    trunk : Transformer
        A TransformerLens ``HookedRootModule``; its ``unembed`` is the map to features.

    Examples
    --------
    >>> model = MatchingModel(MatchingConfig(n_tokens=3, n_out=5, n_layers=1, n_heads=1, d_model=8, reach=4))
    >>> model(Batch.from_tokens([[0, 1, 2, 0]])).shape
    torch.Size([1, 3, 5])
    """

    def __init__(self, config: MatchingConfig):
        super().__init__()
        self.config = config
        self.trunk = Transformer(config.trunk())
        self.trunk.unembed = Table("W_U", config.d_model, config.n_out)
        self.trunk.setup()
        generator = torch.Generator().manual_seed(config.seed)
        with torch.no_grad():
            for name, parameter in self.trunk.named_parameters():
                _draw(parameter, name.rpartition(".")[2], config.n_layers, generator)

    @property
    def n_tokens(self) -> int:
        return self.config.n_tokens

    def copy_embedding(self, embedding: Float[Tensor, "vocab width"]) -> None:
        """Begin with the token embedding of another model, which is then trained on.

        Raises
        ------
        ValueError
            If it is of another shape.
        """
        ours = self.trunk.embed.W_E
        if embedding.shape != ours.shape:
            raise ValueError(f"embedding has shape {tuple(embedding.shape)}; this model's is {tuple(ours.shape)}")
        with torch.no_grad():
            ours.copy_(embedding)

    def forward(self, batch: Batch) -> Float[Tensor, "batch time feature"]:
        """The feature of every prefix of every window.

        Raises
        ------
        ValueError
            If a token is out of range, windows are longer than ``n_ctx``, or the batch has an attention of its own.
        """
        if batch.attend is not None:
            raise ValueError("the batch has attend of its own; a matching model looks back as far as its reach")
        n, time = batch.tokens.shape
        if time > self.config.reach:
            place = torch.arange(time, device=batch.device)
            back = place[:, None] - place
            seen = (back >= 0) & (back < self.config.reach)
            batch = batch.with_(attend=seen.expand(n, time, time))
        return self.trunk(batch)


def _draw(parameter: nn.Parameter, name: str, n_layers: int, generator: torch.Generator) -> None:
    if name.startswith("R_"):
        bound = math.sqrt(6 / sum(parameter.shape))
        parameter.uniform_(-bound, bound, generator=generator)
    elif name.startswith("W_"):
        shrunk = math.sqrt(2 * n_layers) if name in ("W_O", "W_out") else 1.0
        parameter.normal_(0.0, 0.02 / shrunk, generator=generator)
