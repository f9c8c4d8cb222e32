"""The rows of every belief probe: each distinct prefix once, with its probability."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel
from nextlens.models.processes import Process
from nextlens.models.processes.mixed_states import LARGEST_LEVEL, every_word, mixed_state_presentation
from nextlens.models.recording import beliefs, device_of

#: More words than this are sampled instead of listed.
MOST_WORDS = 10**5
#: Nats of entropy that come of rounding alone.
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Each distinct prefix once, with its probability: the rows of every honest belief probe.

    Use :meth:`of`. Rows are prefixes of length 1 to ``n_ctx``, in the order in which ``record`` keeps
    them with ``where=first``.

    Attributes
    ----------
    process : Process
    batch : Batch
        Words of ``n_ctx`` tokens that hold all the prefixes, with their tree; targets are not used.
    first : bool array of shape (batch, time)
        The position at which each prefix occurs first.
    weights : Float[np.ndarray, " sample"]
        Probability of the prefix over ``n_ctx``, so each length has equal mass and all sum to one. If
        words were sampled: how often the prefix occurred, over all. Never count times probability.
    listed : bool
        Whether these are all the prefixes the process can say, or those of a sample of words.
    """

    process: Process
    batch: Batch
    first: Bool[np.ndarray, "batch time"]
    weights: Float[np.ndarray, " sample"]
    listed: bool

    @classmethod
    def of(
        cls, process: Process, n_ctx: int, *, n_words: int | None = None, rng: np.random.Generator | None = None
    ) -> Prefixes:
        """All prefixes up to ``n_ctx`` tokens, or those of ``n_words`` sampled words.

        Parameters
        ----------
        process : Process
        n_ctx : int
        n_words : int, optional
            How many words to sample; None lists every word if there are no more than 100,000, and
            samples 20,000 if there are.
        rng : numpy.random.Generator, optional
            For the sample; one with seed 0 if None.

        Raises
        ------
        ValueError
            If ``n_ctx`` or ``n_words`` is below 1.
        """
        at_least("n_ctx", n_ctx, 1)
        rng = np.random.default_rng(0) if rng is None else rng
        if n_words is None and listable(process, n_ctx):
            words, probability = every_word(process, n_ctx)
            return cls._from(process, words, probability, listed=True)
        n_words = 20_000 if n_words is None else int(at_least("n_words", n_words, 1))
        words = process.sample(n_words, n_ctx, rng)
        return cls._from(process, words, np.full(n_words, 1 / n_words), listed=False)

    @classmethod
    def _from(
        cls,
        process: Process,
        words: Int[np.ndarray, "word length"],
        mass: Float[np.ndarray, " word"],
        *,
        listed: bool,
    ) -> Prefixes:
        batch = Batch.from_tokens(np.pad(words, ((0, 0), (0, 1))), tree=True)
        node, first = batch.tree.node.numpy(), np.zeros(words.shape, dtype=bool)
        first.flat[batch.tree.first.numpy()] = True
        by_node = np.bincount(node.ravel(), weights=np.repeat(mass, words.shape[1]), minlength=len(batch.tree))
        weights = by_node[node[first]]
        return cls(process, batch, first, weights / weights.sum(), listed)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def n_ctx(self) -> int:
        return self.batch.tokens.shape[1]

    @cached_property
    def beliefs(self) -> xr.DataArray:
        """The exact belief after each prefix, dims (sample, state)."""
        return beliefs(self.process, self.batch, where=self.first)

    @cached_property
    def position(self) -> Int[np.ndarray, " sample"]:
        """Index of the last token read: the length of the prefix, less one."""
        return np.nonzero(self.first)[1]

    @cached_property
    def next_token(self) -> Float[np.ndarray, "sample token"]:
        """The exact law of what follows each prefix."""
        return self.process.next_token(self.beliefs.values)

    @cached_property
    def extensions(self) -> Int[np.ndarray, " sample"]:
        """How many of the words begin with each prefix."""
        node = self.batch.tree.node.numpy()
        return np.bincount(node.ravel())[node[self.first]]

    def log_probs(self, kernel: Kernel, *, chunk: int = 65_536) -> Float[np.ndarray, "sample token"]:
        """What a kernel says of the token after each prefix, in nats.

        Raises
        ------
        ValueError
            If it says NaN, or its vocabulary is not that of the process.
        """
        if kernel.n_tokens != self.process.n_tokens:
            raise ValueError(
                f"the kernel has {kernel.n_tokens} tokens; {self.process.name!r} has {self.process.n_tokens}"
            )
        device = device_of(kernel, self.batch)
        with torch.no_grad():
            if len(self.batch) <= chunk:
                rows = kernel.log_probs(self.batch.to(device)).cpu().numpy()
            else:
                starts = range(0, len(self.batch), chunk)
                parts = (self.batch[s : s + chunk].to(device) for s in starts)
                rows = np.concatenate([kernel.log_probs(part).cpu().numpy() for part in parts])
        said = rows[self.first].astype(np.float64)
        wrong = np.isnan(said).any(1)
        if wrong.any():
            raise ValueError(f"the kernel says NaN after {int(wrong.sum())} of {len(self)} prefixes")
        return said


def listable(process: Process, n_ctx: int) -> bool:
    """Whether every word of ``n_ctx`` tokens is listed rather than sampled."""
    words = possible_words(process, n_ctx)
    return words <= MOST_WORDS and words * process.n_tokens * process.n_states <= LARGEST_LEVEL


def possible_words(process: Process, length: int) -> int:
    """How many words of ``length`` tokens have a probability above 0; an upper bound if beliefs never close.

    Counted along the finite presentation of the beliefs where there is one of at most 256, and
    ``n_tokens ** length`` where there is none, or where that is few enough not to matter.

    Examples
    --------
    >>> from nextlens.models.processes import rrxor
    >>> possible_words(rrxor(), 20), 2**20
    (48388, 1048576)
    """
    most = process.n_tokens**length
    if most <= MOST_WORDS:
        return most
    presentation = mixed_state_presentation(process, max_states=256)
    if not presentation.closed:
        return most
    steps = np.zeros((len(presentation), len(presentation)), dtype=object)
    start, token = np.nonzero(presentation.successor >= 0)
    np.add.at(steps, (start, presentation.successor[start, token]), 1)
    count = np.array([1] * len(presentation), dtype=object)
    for _ in range(length):
        count = steps @ count
    return int(count[0])


def excess_loss(kernel: Kernel, prefixes: Prefixes) -> xr.Dataset:
    """Next-token loss of a kernel against the least possible, by position, in nats.

    ``excess[t]`` is the mean over prefixes of t + 1 tokens of KL(exact law, kernel's law), so it is
    at least 0, and ``loss = optimum + excess`` has no sampling error of the next token. With all
    prefixes listed, none at all.

    Returns
    -------
    xarray.Dataset
        ``loss``, ``optimum`` and ``excess`` over ``position``; attribute ``loss_over_optimum``, the
        ratio of the means over positions. 1 is perfect; infinite where the kernel forbids what can come,
        or errs about a process that leaves nothing to err about.

    Raises
    ------
    ValueError
        If the kernel says NaN.
    """
    law, said = prefixes.next_token, prefixes.log_probs(kernel)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(law > 0, law * np.log(law), 0.0).sum(1)
        cost = -np.where(law > 0, law * said, 0.0).sum(1)
    mass = np.bincount(prefixes.position, weights=prefixes.weights)
    optimum = np.bincount(prefixes.position, weights=prefixes.weights * entropy) / mass
    loss = np.bincount(prefixes.position, weights=prefixes.weights * cost) / mass
    return xr.Dataset(
        {"loss": ("position", loss), "optimum": ("position", optimum), "excess": ("position", loss - optimum)},
        coords={"position": np.arange(prefixes.n_ctx)},
        attrs={"units": "nat", "loss_over_optimum": _ratio(loss.mean(), optimum.mean()), "listed": prefixes.listed},
    )


def _ratio(loss: float, optimum: float) -> float:
    if optimum > ROUNDING:
        return float(loss / optimum)
    return 1.0 if loss <= ROUNDING else np.inf
