"""Any model as a matcher: what passes at one of its sites, through a linear map that has learned to match."""

from __future__ import annotations

import math
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked, canonical_site


@dataclass(frozen=True)
class HeadConfig:
    """Everything that decides a :class:`ResidualHead`, its first weights included.

    Parameters
    ----------
    site : str
        Full or short.
    width : int
        Of the value at the site.
    n_out : int, default=32
        Width of a feature.
    seed : int, default=0

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    site: str
    width: int
    n_out: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("width", self.width, 1)
        at_least("n_out", self.n_out, 1)
        at_least("seed", self.seed, 0)


class ResidualHead(nn.Module):
    """``e[t] = A r[t]`` with ``r`` the value at a site of a frozen model; ``A`` alone is trained.

    ``A`` is drawn from N(0, 1 / width).

    Parameters
    ----------
    config : HeadConfig
        :meth:`for_model` finds the width.
    """

    def __init__(self, config: HeadConfig):
        super().__init__()
        self.config = config
        drawn = torch.randn(config.n_out, config.width, generator=torch.Generator().manual_seed(config.seed))
        self.A = nn.Parameter(drawn / math.sqrt(config.width))

    @classmethod
    def for_model(cls, model: Hooked, site: str, n_out: int = 32, *, seed: int = 0) -> ResidualHead:
        """A head of the width that the site has, where the model's weights are.

        Raises
        ------
        ValueError
            If the site does not exist, or is not laid out (sequence, position, feature).
        """
        weights = model.parameters() if isinstance(model, nn.Module) else ()
        device = next((weight.device for weight in weights), torch.device("cpu"))
        values = site_values(model, Batch.from_tokens([[0, 0, 0]], device=device), site)
        return cls(HeadConfig(site, values.shape[-1], n_out, seed)).to(device)

    @property
    def site(self) -> str:
        return self.config.site

    def forward(self, model: Hooked, batch: Batch) -> Float[Tensor, "batch time feature"]:
        """Features; no gradient reaches the model."""
        return self.of(site_values(model, batch, self.site))

    def of(self, values: Float[Tensor, "*any width"]) -> Float[Tensor, "*any feature"]:
        """Features of values recorded at the site."""
        return F.linear(values.to(self.A.dtype), self.A)


class _Reached(Exception):
    """The site has been passed: the rest of the forward pass need not run."""


@torch.no_grad()
def site_values(model: Hooked, batch: Batch, site: str) -> Float[Tensor, "batch time width"]:
    """What passes at ``site``, without its graph; the model runs no further.

    Raises
    ------
    ValueError
        If the site does not exist, was not reached, or is not laid out (sequence, position, feature).
    """
    name = canonical_site(site, model.sites)

    def stop(value: Tensor) -> None:
        raise _Reached

    with ExitStack() as hooks:
        seen = hooks.enter_context(model.watched(name))
        with suppress(ValueError):  # some sites of a bridge cannot be edited; then all of it runs
            hooks.enter_context(model.edited(name, stop))
        with suppress(_Reached):
            model(batch)
    if name not in seen:
        raise ValueError(f"site={site!r} was not reached when the model ran")
    value = seen[name]
    if value.ndim != 3 or value.shape[1] != batch.tokens.shape[1]:
        raise ValueError(f"site={site!r} has values of shape {tuple(value.shape)}; a matcher reads one a position")
    return value.expand(len(batch), -1, -1).detach()
