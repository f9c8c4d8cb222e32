"""Multi-token prediction: heads of their own for tokens further ahead, apart or jointly."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.objectives.ahead import mean_where, reachable, refuse_unfit
from nextlens.models.objectives.next_token import cross_entropy
from nextlens.models.transformer import Block, Normalisation
from nextlens.models.transformer_config import TransformerConfig


class MultiToken(nn.Module):
    """One more head a token ahead, each by itself (Gloeckle et al. 2024, arXiv:2404.19737).

    With ``z`` the value at ``site``, and for ``i = 2 .. ahead`` a block and a normalisation of its own::

        p_i(x_{t+i} | x_{<=t}) = softmax(norm_i(block_i(z))_t · unembedding)
        loss = next-token + weight · sum_i mean_t -log p_i(x_{t+i})

    The unembedding is the model's. Unlike the paper, the next-token head has no block of its own: the model
    stays as it is, and the heads are dropped when it is used. A target counts if it counts as a next token
    and if position ``t + i - 1`` may look at ``t``.

    Parameters
    ----------
    config : TransformerConfig
        The model's; its blocks are the heads'.
    ahead : int
        How far the last head looks; at least 2.
    weight : float, default=1
        At 1 every head counts alike, as in the paper.
    site : str, default="ln_final.normalized"
    seed : int

    Raises
    ------
    ValueError
        If ``ahead`` is below 2 or ``weight`` negative.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        ahead: int,
        weight: float = 1.0,
        site: str = "ln_final.normalized",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.ahead, self.weight, self.site = int(at_least("ahead", ahead, 2)), at_least("weight", weight, 0), site
        self.blocks = nn.ModuleList(Block(config) for _ in range(ahead - 1))
        self.norms = nn.ModuleList(Normalisation(config) for _ in range(ahead - 1))
        _draw(self, config, seed)

    def forward(self, model: Hooked, batch: Batch) -> Float[Tensor, "batch time"]:
        """What each position costs, in nats; the further heads' terms spread evenly.

        Raises
        ------
        ValueError
            If a sequence is shorter than ``ahead``, or a weight is negative; also as the model does.
        """
        refuse_unfit(batch, self.ahead, self.ahead)
        with model.watched(self.site) as seen:
            logits = model(batch)
        batch = batch.with_(tree=None)
        z, further = seen[self.site], logits.new_zeros(())
        for i, block, norm in zip(range(2, self.ahead + 1), self.blocks, self.norms, strict=True):
            said = norm(block(z, batch.positions, batch.attend)) @ model.unembedding
            further = further + mean_where(*said_ahead(said, batch, i))
        return cross_entropy(logits, batch.targets) + self.weight * further


class JointMultiToken(nn.Module):
    """The next tokens as one joint law, read off one state (Ahn et al. 2025, joint multi-token prediction).

    One block attends, for each ``t``, over ``h_t, e(x_{t+1}), .., e(x_{t+ahead-1})`` from left to right, so that
    ``p(x_{t+i} | h_t, x_{t+1} .. x_{t+i-1})`` has all that came before from ``h_t`` alone::

        loss = next-token + weight · sum_{i=2..ahead} mean_t -log p(x_{t+i} | h_t, x_{t+1} .. x_{t+i-1})

    The published module is said to be light; its exact shape is not given where we could read it, and this
    is ours: one block of the model's own shape with a learned vector a slot.

    Parameters
    ----------
    config, ahead, weight, site, seed
        As for :class:`MultiToken`.
    embedding_site : str, default="embed"
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        ahead: int,
        weight: float = 1.0,
        site: str = "ln_final.normalized",
        embedding_site: str = "embed",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.ahead, self.weight = int(at_least("ahead", ahead, 2)), at_least("weight", weight, 0)
        self.site, self.embedding_site = site, embedding_site
        config = replace(config, positions="none")
        self.block, self.norm = Block(config), Normalisation(config)
        self.W_slot = nn.Parameter(torch.empty(ahead, config.d_model))
        _draw(self, config, seed)

    def forward(self, model: Hooked, batch: Batch) -> Float[Tensor, "batch time"]:
        """What each position costs, in nats; the further tokens' terms spread evenly.

        Raises
        ------
        ValueError
            If a sequence is shorter than ``ahead``, or a weight is negative; also as the model does.
        """
        refuse_unfit(batch, self.ahead, self.ahead)
        with model.watched(self.site, self.embedding_site) as seen:
            logits = model(batch)
        said = self._said(seen[self.site], seen[self.embedding_site]) @ model.unembedding
        further = logits.new_zeros(())
        for i in range(2, self.ahead + 1):
            further = further + mean_where(*said_ahead(said[:, :, i - 1], batch, i))
        return cross_entropy(logits, batch.targets) + self.weight * further

    def _said(
        self, h: Float[Tensor, "batch time width"], embedding: Float[Tensor, "batch time width"]
    ) -> Float[Tensor, "batch time ahead width"]:
        """For each position, the states from which the tokens ahead are said; slot 0 says the next one."""
        n, time, width = h.shape
        at = torch.arange(time, device=h.device)[:, None] + torch.arange(1, self.ahead, device=h.device)
        slots = torch.cat([h[:, :, None], embedding[:, at.clamp(max=time - 1)]], dim=2) + self.W_slot
        places = torch.arange(self.ahead, device=h.device)[None]
        return self.norm(self.block(slots.flatten(0, 1), places, None)).view(n, time, self.ahead, width)


def said_ahead(
    logits: Float[Tensor, "batch time vocab"], batch: Batch, i: int
) -> tuple[Float[Tensor, "batch fewer"], Bool[Tensor, "batch fewer"]]:
    """The cost of the token ``i`` ahead of every position that has one, and whether it counts."""
    last = batch.tokens.shape[1] - (i - 1)
    targets: Int[Tensor, "batch fewer"] = batch.targets[:, i - 1 :]
    return cross_entropy(logits[:, :last], targets), reachable(batch, i - 1) & (batch.weights[:, i - 1 :] > 0)


def _draw(module: nn.Module, config: TransformerConfig, seed: int) -> None:
    """First weights as the model's are drawn, from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.rpartition(".")[2].startswith(("W_", "R_")):
                parameter.normal_(0.0, 0.8 / config.d_model**0.5, generator=generator)
