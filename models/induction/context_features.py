"""Features of whole contexts: what a model, a kernel or a process makes of everything it has read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nextlens.models.arguments import at_least, between
from nextlens.models.hooked import Hooked, canonical_site
from nextlens.models.induction.features import POSITIONS_AT_A_TIME, Features, device_of, reading
from nextlens.models.induction.residual_head import ResidualHead, site_values
from nextlens.models.kernel import Kernel


@runtime_checkable
class Believer(Protocol):
    """A kernel that says what it believes of a hidden state: a ``Process``."""

    @property
    def n_tokens(self) -> int: ...

    def beliefs(self, tokens: Int[np.ndarray, "batch time"]) -> np.ndarray: ...


class ContextFeatures(Features):
    """Reads a text in one pass; one that is longer than ``n_ctx``, in chunks that overlap.

    Chunks begin at every ``n_ctx - overlap`` tokens, and a position takes its feature from the first of them,
    in which most has been read before it: at least ``overlap`` tokens, from that many on.

    Parameters
    ----------
    n_tokens : int
    n_ctx : int, optional
        The longest that is read in one pass; no limit if None.
    overlap : int, optional
        Half of ``n_ctx`` if None.

    Raises
    ------
    ValueError
        If ``n_ctx`` is below 1, or ``overlap`` not within 0 and ``n_ctx - 1``.
    """

    def __init__(self, n_tokens: int, n_ctx: int | None = None, overlap: int | None = None):
        self.n_tokens = n_tokens
        self.n_ctx = None if n_ctx is None else at_least("n_ctx", n_ctx, 1)
        if n_ctx is None and overlap is not None:
            raise ValueError(f"overlap={overlap} is of chunks, and without n_ctx there is one only")
        if n_ctx is not None:
            self.overlap = between("overlap", n_ctx // 2 if overlap is None else overlap, 0, n_ctx - 1)

    @abstractmethod
    def read(self, tokens: Int[np.ndarray, "batch time"]) -> Float[Tensor, "batch time width"]:
        """Sequences that are no longer than ``n_ctx``."""

    def __call__(self, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, "time width"]:
        """Of every prefix of ``tokens``."""
        if self.n_ctx is None or len(tokens) <= self.n_ctx:
            return self.read(tokens[None])[0]
        step = self.n_ctx - self.overlap
        whole = np.lib.stride_tricks.sliding_window_view(tokens, self.n_ctx)[::step]
        at_a_time = max(1, POSITIONS_AT_A_TIME // self.n_ctx)
        read = torch.cat([self.read(whole[i : i + at_a_time]) for i in range(0, len(whole), at_a_time)])
        parts = [read[0], read[1:, self.overlap :].flatten(0, 1)]
        if rest := len(tokens) - self.n_ctx - step * (len(whole) - 1):
            parts.append(self.read(tokens[None, step * len(whole) :])[0, -rest:])
        return torch.cat(parts)

    def last(self, tokens: Int[np.ndarray, " time"]) -> Float[Tensor, " width"]:
        """From the one chunk that the last position takes its feature from."""
        start = 0
        if self.n_ctx is not None and len(tokens) > self.n_ctx:
            step = self.n_ctx - self.overlap
            start = step * -(-(len(tokens) - self.n_ctx) // step)
        return self.read(tokens[None, start:])[0, -1]


class ResidualFeatures(ContextFeatures):
    """What passes at a site of a frozen model; with a head, what the head makes of it.

    Parameters
    ----------
    model : Hooked
    site : str, optional
        That of the head if None.
    head : ResidualHead, optional
        None compares the values as they are.
    n_ctx, overlap : int, optional
        See :class:`ContextFeatures`; the model's own ``n_ctx`` if it says one.

    Raises
    ------
    ValueError
        If the site does not exist, or neither or both of ``site`` and ``head`` say another one.

    Examples
    --------
    >>> from nextlens.models.transformer import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=8, n_ctx=4))
    >>> ResidualFeatures(model, "blocks.0.resid_post")(np.array([0, 1, 2, 0, 1, 2])).shape
    torch.Size([6, 8])
    """

    def __init__(
        self,
        model: Hooked,
        site: str | None = None,
        head: ResidualHead | None = None,
        *,
        n_ctx: int | None = None,
        overlap: int | None = None,
    ):
        if site is None and head is None:
            raise ValueError("site and head are both None; say at which site the model is read")
        self.model, self.head = model, head
        self.site = canonical_site(head.site if site is None else site, model.sites)
        if head is not None and canonical_site(head.site, model.sites) != self.site:
            raise ValueError(f"site={site!r} is not that of the head, {head.site!r}")
        super().__init__(model.n_tokens, context_of(model) if n_ctx is None else n_ctx, overlap)

    @torch.no_grad()
    def read(self, tokens: Int[np.ndarray, "batch time"]) -> Float[Tensor, "batch time width"]:
        """Sequences that are no longer than ``n_ctx``."""
        values = site_values(self.model, reading(tokens, device_of(self.model)), self.site)
        return values if self.head is None else self.head.of(values)

    def weights(self) -> Iterator[Tensor]:
        """Those of the model and of the head."""
        return _weights_of(self.model, self.head)


class LawFeatures(ContextFeatures):
    """The next-token laws of a kernel, as log-probabilities: a language model as its own matcher.

    To be compared by ``distance="jeffreys"`` or ``"jensen-shannon"``.

    Parameters
    ----------
    kernel : Kernel
    n_ctx, overlap : int, optional
        See :class:`ContextFeatures`; the kernel's own ``n_ctx`` if it says one.
    """

    def __init__(self, kernel: Kernel, *, n_ctx: int | None = None, overlap: int | None = None):
        self.kernel = kernel
        super().__init__(kernel.n_tokens, context_of(kernel) if n_ctx is None else n_ctx, overlap)

    @torch.no_grad()
    def read(self, tokens: Int[np.ndarray, "batch time"]) -> Float[Tensor, "batch time token"]:
        """Sequences that are no longer than ``n_ctx``."""
        return self.kernel.log_probs(reading(tokens, device_of(self.kernel)))

    def weights(self) -> Iterator[Tensor]:
        """Those of the kernel, if it has any."""
        return _weights_of(self.kernel)


class BeliefFeatures(ContextFeatures):
    """What an ideal observer believes of the hidden state of a process.

    Two contexts that leave one belief have one future, so that this is the ideal likeness.

    Parameters
    ----------
    process : Believer
    """

    def __init__(self, process: Believer):
        self.process = process
        super().__init__(process.n_tokens)

    def read(self, tokens: Int[np.ndarray, "batch time"]) -> Float[Tensor, "batch time state"]:
        """Sequences of any length."""
        return torch.from_numpy(self.process.beliefs(tokens))


class GivenFeatures(ContextFeatures):
    """A function of yours: ``features(tokens)`` of shape (time,) gives (time, width), row ``t`` of ``tokens[: t + 1]``.

    Parameters
    ----------
    function : callable
        Arrays or tensors.
    n_tokens : int
    """

    def __init__(self, function: Callable[[Int[np.ndarray, " time"]], Any], n_tokens: int):
        self.function = function
        super().__init__(at_least("n_tokens", n_tokens, 1))

    def read(self, tokens: Int[np.ndarray, "batch time"]) -> Float[Tensor, "batch time width"]:
        """One sequence after another.

        Raises
        ------
        ValueError
            If the function does not give one row a token.
        """
        rows = [torch.as_tensor(self.function(sequence)) for sequence in tokens]
        for row in rows:
            if row.ndim != 2 or len(row) != tokens.shape[1]:
                raise ValueError(
                    f"features(tokens) gave shape {tuple(row.shape)} for {tokens.shape[1]} tokens; "
                    "it must be one row of numbers for each token"
                )
        return torch.stack([row if row.is_floating_point() else row.double() for row in rows])


def context_of(model: object) -> int | None:
    """How many tokens a model reads at most; None if nothing says so."""
    configs = (getattr(model, "config", None), getattr(getattr(model, "bridge", None), "cfg", None), model)
    return next((int(found.n_ctx) for found in configs if getattr(found, "n_ctx", None)), None)


def _weights_of(*parts: object) -> Iterator[Tensor]:
    return (weight for part in parts if isinstance(part, nn.Module) for weight in part.parameters())
