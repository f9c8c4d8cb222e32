"""MuToR: register tokens that look further ahead, as a change of the batch and of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.attention import causal
from nextlens.models.batch import Batch, whole_numbers
from nextlens.models.kernel import Kernel

#: Draws every register's offset: ``(n_sequences, time, rng) -> Int[Tensor, "n_sequences time"]``, 0 for none.
Draw = Callable[[int, int, np.random.Generator], Tensor]


def uniform_offsets(
    n_sequences: int, time: int, ahead: int, rng: np.random.Generator, *, fewest: int = 1, each: str = "sequence"
) -> Int[Tensor, "n_sequences time"]:
    """How far ahead every register looks, uniform on ``fewest .. ahead``.

    Parameters
    ----------
    n_sequences, time : int
    ahead : int
        The largest offset; 1 is the next token.
    rng : Generator
    fewest : int, default=1
        The smallest. On star graphs 2, so that no register learns the copying that solves all but one node.
    each : {"sequence", "register"}
        Whether all registers of a sequence look equally far (the paper), or each for itself.

    Raises
    ------
    ValueError
        If ``fewest`` or ``ahead`` is out of range: nothing is ``ahead >= time + 1`` tokens away.
    """
    at_least("fewest", fewest, 1)
    between("ahead", ahead, fewest, time)
    shape = (n_sequences, 1 if one_of("each", each, ("sequence", "register")) == "sequence" else time)
    return torch.from_numpy(rng.integers(fewest, ahead + 1, shape)).expand(n_sequences, time)


def grid_offsets(
    n_sequences: int,
    time: int,
    rng: np.random.Generator,
    *,
    height: int,
    width: int,
    reach: int,
    start: int = 0,
) -> Int[Tensor, "n_sequences time"]:
    """Offsets towards the lower right on a grid that is read row by row (MuToR-2D).

    ``d = (d_h - 1) width + d_w - 1`` with ``(d_h, d_w)`` uniform on ``{1 .. reach}²`` but for ``(1, 1)``, one
    pair a sequence. Where row ``r + d_h - 1`` or column ``c + d_w - 1`` lies off the grid, and at tokens that are
    not of the grid, the offset is 0, which asks for no register: the paper does not say what happens there, and a
    wrapped target would be no neighbour.

    Parameters
    ----------
    n_sequences, time : int
        The shape of the batch's tokens.
    rng : Generator
    height, width : int
        Of the grid.
    reach : int
        ``d_max2D`` of the paper.
    start : int, default=0
        Where the grid's first token stands; what is before it, and behind its last, is something else.

    Raises
    ------
    ValueError
        If ``reach`` is below 2, or above ``height`` or ``width``, or ``start`` is negative.

    Examples
    --------
    Pictures of 4 by 4, each behind a token that says its class:

    >>> from functools import partial
    >>> ahead = partial(grid_offsets, height=4, width=4, reach=2, start=1)
    >>> ahead(3, 16, np.random.default_rng(0)).shape
    torch.Size([3, 16])
    """
    between("reach", reach, 2, min(height, width))
    at_least("start", start, 0)
    down, right = (one[:, None] for one in np.divmod(rng.integers(1, reach**2, n_sequences), reach))
    row, column = np.divmod(np.arange(time) - start, width)
    inside = (row >= 0) & (row + down < height) & (column + right < width)
    return torch.from_numpy(np.where(inside, down * width + right, 0))


def interleave_registers(
    batch: Batch,
    *,
    register: int,
    ahead: int | Int[Tensor, "batch time"],
    weight: float = 0.3,
    fewest: int = 1,
    each: str = "sequence",
    rng: np.random.Generator | None = None,
) -> Batch:
    """The batch with a register behind every token it is asked about (MuToR, arXiv:2505.10518, §3.2).

    The register behind position ``t`` says the token ``d`` ahead: its target is ``targets[t + d - 1]``, and it
    claims the position of the token that would say this anyway, ``positions[t + d - 1]``. Tokens look at no
    register, a register looks at itself and at what its token looks at: so every token's activations, logits
    and gradient are those of the batch without registers.

    A register is asked for behind ``t`` if ``t`` itself counts (a prompt's weights are 0) and if what it would
    say counts and may be reached: ``weights[t + d - 1]`` is not 0, and position ``t + d - 1`` may look at ``t``,
    which no other document of a packed row may, and no padding. Columns without any are left out.

    ``weighted_mean`` of the result is ``(1 - weight) · next-token + weight · register`` with both means over
    their own positions, whatever number of registers there is.

    Parameters
    ----------
    batch : Batch
    register : int
        The register's token, one for all offsets; an extra row of the vocabulary.
    ahead : int or Int[Tensor, "batch time"]
        The largest offset ``d``, drawn by :func:`uniform_offsets`; or every register's own, 0 for none.
    weight : float, default=0.3
        ``a`` of the paper; at 0 the batch is returned as it is.
    fewest, each, rng
        For :func:`uniform_offsets`.

    Returns
    -------
    Batch
        Up to twice as long; its rows are ``x_0, r, x_1, r, ...``, positions are shared.

    Raises
    ------
    ValueError
        If ``register`` occurs in the batch, an offset is out of range, ``weight`` does not lie in ``[0, 1)``, or
        ``rng`` is missing where offsets are to be drawn.

    Examples
    --------
    >>> batch = Batch.from_tokens([[5, 6, 7, 8]])
    >>> with_registers = interleave_registers(batch, register=9, ahead=torch.full((1, 3), 2))
    >>> with_registers.tokens.tolist(), with_registers.targets.tolist(), with_registers.positions.tolist()
    ([[5, 9, 6, 9, 7]], [[6, 7, 7, 8, 8]], [[0, 1, 1, 2, 2]])
    """
    between("weight", weight, 0, 1)
    if weight == 1:
        raise ValueError("weight=1 leaves nothing to the next token; it must be below 1")
    if (batch.tokens == register).any() or (batch.targets == register).any():
        raise ValueError(f"register={register} occurs in the batch; it must be a token of its own")
    offsets = _offsets(batch, ahead, fewest, each, rng)
    at, asked = _asked(batch, offsets)
    columns = asked.any(0)
    if weight == 0 or not columns.any():
        return batch
    order = _order(columns)
    share = _share(batch.weights, 1 - weight), _share(batch.weights.gather(1, at) * asked, weight)

    def interleaved(own: Tensor, registers: Tensor) -> Tensor:
        return torch.cat([own, registers[:, columns]], dim=1)[:, order]

    return Batch(
        tokens=interleaved(batch.tokens, torch.full_like(batch.tokens, register)),
        targets=interleaved(batch.targets, batch.targets.gather(1, at)),
        weights=interleaved(*share),
        positions=interleaved(batch.positions, batch.positions.gather(1, at)),
        attend=_attend(batch, columns)[:, order][:, :, order].expand(len(batch), -1, -1),
    )


def _offsets(
    batch: Batch, ahead: int | Tensor, fewest: int, each: str, rng: np.random.Generator | None
) -> Int[Tensor, "batch time"]:
    n, time = batch.tokens.shape
    if isinstance(ahead, Tensor | np.ndarray):
        offsets = whole_numbers("ahead", ahead)
        if offsets.shape != (n, time):
            raise ValueError(f"ahead has shape {tuple(offsets.shape)}; it must be that of tokens, {(n, time)}")
    elif rng is None:
        raise ValueError("rng is None; it must be given where offsets are drawn")
    else:
        offsets = uniform_offsets(n, time, ahead, rng, fewest=fewest, each=each)
    return offsets.to(batch.device)


def _asked(
    batch: Batch, offsets: Int[Tensor, "batch time"]
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """The position that every register stands in for, and whether it is asked for at all."""
    n, time = batch.tokens.shape
    here = torch.arange(time, device=batch.device)
    wanted = here + offsets - 1
    at = wanted.clamp(0, time - 1)
    counts = batch.weights != 0
    asked = (offsets > 0) & (wanted < time) & counts & counts.gather(1, at)
    if batch.attend is not None:
        reached = batch.attend.gather(1, at[:, :, None].expand(n, time, time)).diagonal(dim1=1, dim2=2)
        asked &= reached
    return at, asked


def _order(columns: Bool[Tensor, " time"]) -> Int[Tensor, " longer"]:
    """Where each place of the longer row lies among tokens followed by registers."""
    time = len(columns)
    behind = torch.cat([2 * torch.arange(time), 2 * columns.cpu().nonzero().flatten() + 1])
    return behind.argsort().to(columns.device)


def _share(weights: Float[Tensor, "batch time"], share: float) -> Float[Tensor, "batch time"]:
    total = weights.abs().sum()
    return weights if total == 0 else weights * (share / total)


def _attend(batch: Batch, columns: Bool[Tensor, " time"]) -> Bool[Tensor, "one_or_batch longer longer"]:
    """Tokens first, registers behind them: nobody looks at a register but the register itself."""
    own = causal(batch.tokens.shape[1], batch.device)[None] if batch.attend is None else batch.attend
    looking = torch.cat([own, own[:, columns]], dim=1)
    (n, longer, time), registers = looking.shape, int(columns.sum())
    to_registers = torch.zeros(n, longer, registers, dtype=torch.bool, device=batch.device)
    to_registers[:, time:] = torch.eye(registers, dtype=torch.bool, device=batch.device)
    return torch.cat([looking, to_registers], dim=2)


class WithRegisters:
    """A source of batches, each with its registers: for ``train``, resumable if the source is.

    Parameters
    ----------
    batches : iterable of Batch
    rng : Generator
        Draws the offsets.
    ahead : int or callable
        For :func:`interleave_registers`; or what draws every register's offset, given the shape of a batch's tokens
        and ``rng``, as ``partial(grid_offsets, height=.., width=.., reach=..)`` does for pictures.
    register, weight, fewest, each
        For :func:`interleave_registers`.

    Examples
    --------
    >>> from nextlens.models.processes import mess3
    >>> stream = mess3().batches(4, length=6, rng=np.random.default_rng(0))
    >>> next(iter(WithRegisters(stream, register=3, ahead=2, rng=np.random.default_rng(1)))).tokens.shape[0]
    4
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        *,
        register: int,
        ahead: int | Draw,
        rng: np.random.Generator,
        weight: float = 0.3,
        fewest: int = 1,
        each: str = "sequence",
    ) -> None:
        self.batches, self.rng, self.ahead = batches, rng, ahead
        self._how: dict[str, Any] = {"register": register, "weight": weight, "fewest": fewest, "each": each}
        self._source = iter(batches)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self._source)
        ahead = self.ahead(*batch.tokens.shape, self.rng) if callable(self.ahead) else self.ahead
        return interleave_registers(batch, ahead=ahead, **self._how, rng=self.rng)

    def state(self) -> dict[str, Any] | None:
        """Where both streams stand, fit for JSON; None if the source cannot say."""
        if not hasattr(self.batches, "state"):
            return None
        return {"source": self.batches.state(), "offsets": self.rng.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go where another such stream stood.

        Raises
        ------
        ValueError
            If the source does not fit, or cannot be put back.
        """
        if not hasattr(self.batches, "restore"):
            raise ValueError("batches has no restore(state); a stream that cannot be put back cannot be resumed")
        self.batches.restore(state["source"])
        self.rng.bit_generator.state = state["offsets"]


class WithoutRegister:
    """The kernel that is left when the register, its last token, can no longer be said.

    ``P(y) = p(y) / (1 - p(register))``: what a model trained with registers says of the text alone.

    Parameters
    ----------
    kernel : Kernel
        The register is its token ``n_tokens - 1``.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.n_tokens = kernel.n_tokens - 1

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """Natural-log probabilities of every next token but the register."""
        return self.kernel.log_probs(batch)[..., :-1].log_softmax(-1)
