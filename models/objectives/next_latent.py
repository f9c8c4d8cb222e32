"""NextLat: the final state must say the next final state, given the next token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nextlens.models.arguments import at_least, one_of
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.objectives.ahead import mean_where, reachable, refuse_unfit
from nextlens.models.objectives.next_token import cross_entropy

DISTANCES = {"smooth_l1": F.smooth_l1_loss, "mse": F.mse_loss}


class LatentDynamics(nn.Module):
    """``h' = h + f(LN([h; e]))``, ``f`` of three layers with GELU between; its last layer starts at zero.

    So at birth every state is expected to stay where it is.

    Parameters
    ----------
    width : int
        Of the latent.
    width_embedding : int
        Of the embedding of the token that comes in.
    width_hidden : int
    seed : int
        Of the first weights; no global state is touched.
    """

    def __init__(self, width: int, width_embedding: int, width_hidden: int, seed: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width + width_embedding)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(width + width_embedding, width_hidden)
            self.second = nn.Linear(width_hidden, width_hidden)
            self.last = nn.Linear(width_hidden, width)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self, h: Float[Tensor, "*rows width"], e: Float[Tensor, "*rows embedding"]
    ) -> Float[Tensor, "*rows width"]:
        x = F.gelu(self.first(self.norm(torch.cat([h, e], dim=-1))))
        return h + self.last(F.gelu(self.second(x)))


class NextLatent(nn.Module):
    """Next-token cross-entropy, and two terms that make the final state a state (NextLat, arXiv:2511.05963, §3).

    With ``h_t`` the value at ``site`` and ``ĥ_{t+i} = dynamics(ĥ_{t+i-1}, e(x_{t+i}))`` from ``ĥ_t = h_t``::

        latent = mean_i mean_t SmoothL1(stop[h_{t+i}], ĥ_{t+i})                i = 1 .. ahead
        kl     = mean_i mean_t KL(p(· | stop[h_{t+i}]) ‖ p(· | ĥ_{t+i}))       head frozen in both
        loss   = next-token + weight_latent · latent + weight_kl · kl

    The gradient reaches the transformer through ``h_t`` and through the embeddings. A pair ``(t, t+i)``
    counts if ``t+i`` may look at ``t``: no pair crosses the documents of a packed row, or into padding, which is
    whatever lies behind the last token that counts as a target. The ``kl`` counts only where ``weights[t+i]`` is
    not zero, the ``latent`` on prompts too (as in the paper).
    The two terms are added, as one number, to every position, so that ``weighted_mean`` leaves them as they are.

    Parameters
    ----------
    width : int
        Of the residual stream.
    ahead : int, default=1
        How many steps are rolled out.
    width_hidden : int, optional
        Of the dynamics; that of the residual stream if None.
    weight_latent, weight_kl : float, default=1
    site : str, default="ln_final.normalized"
        Times ``model.unembedding``, the logits, without which ``weight_kl`` must be 0.
    embedding_site : str, default="embed"
    distance : {"smooth_l1", "mse"}
    stop_target : bool, default=True
        Whether the latents aimed at are constants; False is the paper's ablation.
    freeze_head : bool, default=True
        Whether the unembedding is a constant in the ``kl``.
    stop_embedding : bool, default=False
        Whether the embedding that drives the dynamics is a constant; the paper does not say.
    soft : bool, default=True
        The ``kl`` to the model's own law; False, cross-entropy with the token itself.
    seed : int

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> from nextlens.models.training import train
    >>> from nextlens.models.transformer import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_tokens=3, n_ctx=8, d_model=16))
    >>> objective = NextLatent(16, ahead=2)
    >>> batch = Batch.from_tokens([[0, 1, 2, 0, 1, 2]])
    >>> len([step.loss for step in train(model, [batch] * 3, objective=objective)])
    3
    """

    def __init__(
        self,
        width: int,
        *,
        ahead: int = 1,
        width_hidden: int | None = None,
        weight_latent: float = 1.0,
        weight_kl: float = 1.0,
        site: str = "ln_final.normalized",
        embedding_site: str = "embed",
        distance: str = "smooth_l1",
        stop_target: bool = True,
        freeze_head: bool = True,
        stop_embedding: bool = False,
        soft: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, weight in {"weight_latent": weight_latent, "weight_kl": weight_kl}.items():
            at_least(name, weight, 0)
        self.ahead = int(at_least("ahead", ahead, 1))
        self.weight_latent, self.weight_kl = weight_latent, weight_kl
        self.site, self.embedding_site = site, embedding_site
        self.distance = one_of("distance", distance, tuple(DISTANCES))
        self.stop_target, self.stop_embedding = stop_target, stop_embedding
        self.freeze_head, self.soft = freeze_head, soft
        self.dynamics = LatentDynamics(width, width, width_hidden or width, seed)

    def forward(self, model: Hooked, batch: Batch) -> Float[Tensor, "batch time"]:
        """What each position costs, in nats; the latent terms spread evenly.

        Raises
        ------
        ValueError
            If a sequence is not longer than ``ahead``, or a weight is negative; also as the model does.
        """
        refuse_unfit(batch, self.ahead, self.ahead + 1)
        with model.watched(self.site, self.embedding_site) as seen:
            logits = model(batch)
        latent, kl = self._terms(seen[self.site], seen[self.embedding_site], logits, model.unembedding, batch)
        return cross_entropy(logits, batch.targets) + self.weight_latent * latent + self.weight_kl * kl

    def roll_out(
        self, h: Float[Tensor, "*rows width"], embeddings: Float[Tensor, "*rows step embedding"]
    ) -> Float[Tensor, "*rows step width"]:
        """The latents after each of the tokens whose ``embeddings`` are given, from ``h`` alone."""
        states = []
        for step in range(embeddings.shape[-2]):
            h = self.dynamics(h, embeddings[..., step, :])
            states.append(h)
        return torch.stack(states, dim=-2)

    def _terms(
        self,
        h: Float[Tensor, "batch time width"],
        embedding: Float[Tensor, "batch time width"],
        logits: Float[Tensor, "batch time vocab"],
        unembedding: Float[Tensor, "width vocab"],
        batch: Batch,
    ) -> tuple[Tensor, Tensor]:
        aim = h.detach() if self.stop_target else h
        embedding = embedding.detach() if self.stop_embedding else embedding
        head = unembedding.detach() if self.freeze_head else unembedding
        law = logits.detach().log_softmax(-1)
        time, state = h.shape[1], h
        latent, kl = h.new_zeros(()), h.new_zeros(())
        for i in range(1, self.ahead + 1):
            state = self.dynamics(state[:, : time - i], embedding[:, i:])
            pairs = reachable(batch, i)
            far = DISTANCES[self.distance](state, aim[:, i:], reduction="none").mean(-1)
            latent = latent + mean_where(far, pairs) / self.ahead
            if self.weight_kl:
                far = self._divergence(law[:, i:], (state @ head).log_softmax(-1), batch.targets[:, i:])
                kl = kl + mean_where(far, pairs & (batch.weights[:, i:] > 0)) / self.ahead
        return latent, kl

    def _divergence(
        self,
        law: Float[Tensor, "batch time vocab"],
        said: Float[Tensor, "batch time vocab"],
        targets: Int[Tensor, "batch time"],
    ) -> Float[Tensor, "batch time"]:
        if self.soft:
            return F.kl_div(said, law, reduction="none", log_target=True).sum(-1)
        return -said.gather(-1, targets[..., None])[..., 0]
