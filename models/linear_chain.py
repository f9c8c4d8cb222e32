"""A chain of linear models, one for each token of an answer: what theory says of reinforcement is said of it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nextlens.models.batch import Batch
from nextlens.models.tasks.parity import ASKED, Parity

#: Bits and answers as signs; what is neither counts as 0.
SIGNS = (1.0, -1.0, 0.0, 0.0)


class LinearChain(nn.Module):
    """Multinomial logistic regressions of 0, 1 and ``END``, one for each token of an answer to :class:`Parity`.

    With bits and answers as signs, ``x_i`` and ``y_k`` of -1 and 1, the k-th reads::

        k = 0:   1, x_1 .. x_d                      k > 0:   all products of at most two of x_1 .. x_d, y_{k-1}

    so that each step of a chain, ``y_k = x_k y_{k-1}``, is linear, and the parity of more than two bits is not
    (autoregressive linear models, Malach 2024, arXiv:2309.06979; Tsilivis et al. 2025, arXiv:2510.11495, as others
    relay it). Its loss is convex. From four bits on, nothing of the parity correlates with what it reads, and its least
    next-token loss is that of :class:`~nextlens.models.tasks.parity.Stepwise`, exactly: what it learns, how fast, and
    what reinforcement makes of it is a matter of samples alone.

    A ``Kernel``: within the prompt all tokens have one probability, ``ASKED`` is never said. Weights begin at 0.

    Parameters
    ----------
    task : Parity
        Says how many bits and tokens of an answer there are.
    """

    pairs: Tensor
    forbidden: Tensor

    def __init__(self, task: Parity) -> None:
        super().__init__()
        self.n_bits, self.n_steps = task.n_bits, task.longest_answer
        one = self.n_bits + 1
        self.register_buffer("pairs", torch.triu_indices(one, one, offset=1), persistent=False)
        forbidden: Bool[Tensor, " vocab"] = torch.arange(task.n_tokens) == ASKED
        self.register_buffer("forbidden", forbidden, persistent=False)
        self.first = nn.Parameter(torch.zeros(one, task.n_tokens))
        self.of_bits = nn.Parameter(torch.zeros(self.n_steps - 1, 1 + self.pairs.shape[1], task.n_tokens))
        self.with_last = nn.Parameter(torch.zeros(self.n_steps - 1, one, task.n_tokens))

    @property
    def n_tokens(self) -> int:
        return len(self.forbidden)

    @property
    def device(self) -> torch.device:
        return self.first.device

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Natural-log probabilities.

        Raises
        ------
        ValueError
            If a sequence is longer than a prompt and the longest answer, or a token is not of the task.
        """
        n, time = batch.tokens.shape
        if time > self.n_bits + self.n_steps:
            longest = self.n_bits + self.n_steps
            raise ValueError(f"tokens has shape {(n, time)}; prompt and answer have at most {longest} tokens")
        if n and not 0 <= int(batch.tokens.min()) <= int(batch.tokens.max()) < self.n_tokens:
            worst = int(batch.tokens.max()) if int(batch.tokens.min()) >= 0 else int(batch.tokens.min())
            raise ValueError(f"tokens hold {worst}; they must lie in 0 .. {self.n_tokens - 1}")
        signs = torch.tensor(SIGNS, device=self.device)[batch.tokens]
        prompt = signs.new_zeros(n, min(time, self.n_bits), self.n_tokens)
        if time <= self.n_bits:
            return prompt.log_softmax(-1)
        bits = torch.cat([torch.ones_like(signs[:, :1]), signs[:, : self.n_bits]], dim=1)
        products = torch.cat([bits[:, :1], bits[:, self.pairs[0]] * bits[:, self.pairs[1]]], dim=1)
        last, later = signs[:, self.n_bits + 1 :], time - self.n_bits - 1
        scores = torch.einsum("bf,kfv->bkv", products, self.of_bits[:later])
        scores = scores + last[..., None] * torch.einsum("bi,kiv->bkv", bits, self.with_last[:later])
        answer = torch.cat([(bits @ self.first)[:, None], scores], dim=1).masked_fill(self.forbidden, -torch.inf)
        return torch.cat([prompt.log_softmax(-1), answer.log_softmax(-1)], dim=1)
