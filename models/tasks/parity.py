"""The parity of some bits, answered at once or along a chain of prefix parities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least, between
from nextlens.models.batch import Batch
from nextlens.models.tasks.prompted import PromptedTask, labelled

ZERO, ONE, ASKED, END = range(4)


@dataclass(frozen=True)
class Parity(PromptedTask):
    """``n_bits`` random bits, a separator, then the parity: with probability ``p_chain`` step by step.

    A long answer holds the parity of every prefix, ``x_1, x_1+x_2, ..`` (mod 2), a short one the last of
    them only; both end with ``END``. So the first token of an answer is ``x_1`` if it is long and the
    parity if it is short, and its length is decided at the second (Tsilivis et al. 2025, arXiv:2510.11495).

    Tokens: 0 and 1, ``ASKED`` = 2 after the bits, ``END`` = 3, which also pads.

    Parameters
    ----------
    n_bits : int, default=16
    p_chain : float, default=0.25
        The share of long answers.
    stride : int, default=1
        A chain says every ``stride``-th prefix parity, and always the last: above 1 it is partial.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> task = Parity(n_bits=4, p_chain=0.5)
    >>> for row in task.draw(3, np.random.default_rng(3)).tokens.values:
    ...     print(task.spelled(row))
    1000=1111.
    0111=0101.
    0000=0....
    """

    n_bits: int = 16
    p_chain: float = 0.25
    stride: int = 1

    def __post_init__(self) -> None:
        at_least("n_bits", self.n_bits, 2)
        between("p_chain", self.p_chain, 0, 1)
        between("stride", self.stride, 1, self.n_bits)

    @property
    def n_tokens(self) -> int:
        return 4

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return END

    @property
    def chain(self) -> Int[np.ndarray, " step"]:
        """Which prefixes a long answer says the parity of, by their last bit."""
        steps = np.arange(self.stride - 1, self.n_bits, self.stride)
        return steps if steps[-1] == self.n_bits - 1 else np.append(steps, self.n_bits - 1)

    @property
    def longest_answer(self) -> int:
        """Tokens of a long answer, its end among them."""
        return len(self.chain) + 1

    def draw(self, n_sequences: int, rng: np.random.Generator) -> xr.Dataset:
        """See :meth:`PromptedTask.draw`; latents ``is_long`` (sequence) and ``prefix_parity`` (sequence, bit)."""
        at_least("n_sequences", n_sequences, 1)
        bits = rng.integers(2, size=(n_sequences, self.n_bits))
        parity = bits.cumsum(1) % 2
        is_long = rng.random(n_sequences) < self.p_chain
        answers = np.full((n_sequences, self.longest_answer), END)
        answers[:, 0] = parity[:, -1]
        answers[is_long, :-1] = parity[is_long][:, self.chain]
        length = np.where(is_long, self.longest_answer, 2)
        asked = np.arange(self.longest_answer) < length[:, None]
        return self._joined(bits, answers, asked, is_long, parity)

    def prompts(self, n_sequences: int, rng: np.random.Generator) -> Int[np.ndarray, "sequence prompt"]:
        """Bits and the separator, without an answer."""
        return self.draw(n_sequences, rng).tokens.values[:, : self.n_bits + 1]

    def spelled(self, tokens: Int[np.ndarray, " time"]) -> str:
        """Bits as they are, ``=`` before the answer, ``.`` at its end."""
        return "".join("01=."[token] for token in tokens)

    def judged(self, prompts: Int[np.ndarray, "sequence prompt"], said: Int[np.ndarray, "sequence new"]) -> xr.Dataset:
        """What is right about answers, any tokens whatever.

        Returns
        -------
        xr.Dataset
            Over ``sequence``: ``length`` (tokens before the first ``END``; all of them if there is none),
            ``ended``, ``is_long`` (as long as a chain), ``is_short`` (one token and the end), ``last_is_right`` (a bit
            stands before the end, and is the parity), ``chain_is_right`` (the whole answer is one that the task may
            say).
        """
        bits = prompts[:, : self.n_bits]
        parity = bits.cumsum(1) % 2
        ends = said == END
        ended = ends.any(1)
        length = np.where(ended, ends.argmax(1), said.shape[1])
        n = len(said)
        last = said[np.arange(n), np.maximum(length - 1, 0)]
        last_is_right = ended & (last == parity[:, -1])
        steps = len(self.chain)
        long = ended & (length == steps)
        if said.shape[1] >= steps:
            long &= (said[:, :steps] == parity[:, self.chain]).all(1)
        else:
            long &= False
        is_short = ended & (length == 1)
        short = is_short & (said[:, 0] == parity[:, -1])
        return xr.Dataset(
            {
                "length": ("sequence", length),
                "ended": ("sequence", ended),
                "is_long": ("sequence", length == steps),
                "is_short": ("sequence", is_short),
                "last_is_right": ("sequence", last_is_right),
                "chain_is_right": ("sequence", long | short),
            }
        )

    def _joined(
        self,
        bits: Int[np.ndarray, "sequence bit"],
        answers: Int[np.ndarray, "sequence step"],
        asked: Bool[np.ndarray, "sequence step"],
        is_long: Bool[np.ndarray, " sequence"],
        parity: Int[np.ndarray, "sequence bit"],
    ) -> xr.Dataset:
        n = len(bits)
        tokens = np.concatenate([bits, np.full((n, 1), ASKED), answers], axis=1)
        answer = np.concatenate([np.zeros((n, self.n_bits + 1), dtype=bool), asked], axis=1)
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        return labelled(
            tokens, positions, answer, is_long=("sequence", is_long), prefix_parity=(("sequence", "bit"), parity)
        )


@dataclass(frozen=True)
class Stepwise:
    """The best predictor of :class:`Parity` for who can follow a chain but not see the parity at once.

    A ``Kernel``: to it the short answer is a fair coin, and all else is known. It is what next-token
    training reaches where the parity of all bits cannot be learnt, exactly.
    """

    task: Parity

    @property
    def n_tokens(self) -> int:
        return self.task.n_tokens

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Natural-log probabilities, float64; within the bits, either with ½."""
        tokens = batch.tokens.cpu().numpy()
        laws = np.zeros((*tokens.shape, self.n_tokens))
        n_bits, p = self.task.n_bits, self.task.p_chain
        laws[:, : n_bits - 1, :2] = 0.5
        laws[:, n_bits - 1 : n_bits, ASKED] = 1
        rows = np.arange(len(tokens))
        chain = (tokens[:, :n_bits].cumsum(1) % 2)[:, self.task.chain] if tokens.shape[1] > n_bits else None
        for t in range(n_bits, tokens.shape[1]):
            step, said = t - n_bits, tokens[:, n_bits + 1 : t + 1]
            if step == 0:
                laws[:, t, :2] = (1 - p) / 2
                laws[rows, t, chain[:, 0]] += p
                continue
            going = (said != END).all(1) & (said[:, 0] == chain[:, 0]) & (step < chain.shape[1])
            goes_on = np.where(going, 1.0 if step > 1 else 1 - probability_of_stopping(p), 0.0)
            laws[rows, t, chain[:, min(step, chain.shape[1] - 1)]] += goes_on
            laws[:, t, END] += 1 - goes_on
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(laws)).to(batch.device)


def probability_of_stopping(p_chain: float) -> float:
    """``P(END | x_1, the first token said is x_1) = (1 - p) / (1 + p)`` for who knows all but the parity at once.

    A short answer is then a fair coin, so the first token is ``x_1`` with probability ``(1 + p) / 2``, of which
    ``(1 - p) / 2`` are short. Above p = 1/3 the most probable second token goes on with the chain.
    """
    between("p_chain", p_chain, 0, 1)
    return (1 - p_chain) / (1 + p_chain)


def after_selection(p_chain: float, rounds: int = 1) -> float:
    """The share of long answers after so many rounds of STaR: each doubles the odds, ``p -> 2 p / (1 + p)``.

    All long answers are right and half of the short ones, and the right ones are learnt.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    between("p_chain", p_chain, 0, 1)
    at_least("rounds", rounds, 0)
    grown = 2.0**rounds * p_chain
    return grown / (1 - p_chain + grown)


def rounds_to_go_on(p_chain: float) -> int:
    """How many rounds of STaR until the greedy answer is long: the least with a share of at least 1/3.

    Raises
    ------
    ValueError
        If ``p_chain`` is 0, from which no round leads away, or out of range.
    """
    between("p_chain", p_chain, 0, 1)
    if p_chain == 0:
        raise ValueError("p_chain=0 has no long answer to select; it must be above 0")
    return max(0, math.ceil(math.log2((1 - p_chain) / (2 * p_chain)) - 1e-12)) if p_chain < 1 else 0
