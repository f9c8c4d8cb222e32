"""Documents read by a model, one window each: what every token cost, and what the model expected it to cost."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.chunks import device_of
from nextlens.models.induction.context_features import context_of
from nextlens.models.kernel import Kernel

#: Log-probabilities in memory at a time.
CELLS = 2**25
#: How far the sum of a row may be from 1, in nats.
SUMS_TO_ONE = 1e-3
#: Tokens and documents of which it is asked whether the future changes the past, and by how much a probability may.
ASKED, ASKED_OF, FORESIGHT = 64, 4, 1e-3


@dataclass(frozen=True, eq=False)
class Scored:
    """Surprisal z and entropy h of every token of documents, in bits; z is split into ``h + (z - h)``.

    Attributes
    ----------
    surprisal : Float[np.ndarray, "document position"]
        ``z = -log2 p(token | context)`` at position t of the token that follows t + 1 tokens.
    entropy : Float[np.ndarray, "document position"]
        ``h``, of the law that the token was drawn against: what the model expected z to be.
    reading : str
        What of a document the model saw before each token.
    """

    surprisal: Float[np.ndarray, "document position"]
    entropy: Float[np.ndarray, "document position"]
    reading: str

    @property
    def missed(self) -> Float[np.ndarray, "document position"]:
        """``m = z - h``: of an exact model a martingale difference, of mean 0 and white, whatever z remembers."""
        return self.surprisal - self.entropy

    def after(self, skip: int) -> Scored:
        """Without the first ``skip`` positions of each document."""
        at_least("positions left after skip", self.surprisal.shape[1] - skip, 2)
        return Scored(self.surprisal[:, skip:], self.entropy[:, skip:], self.reading)


def scored(
    kernel: Kernel, tokens: Int[np.ndarray, "document time"], *, context: int | None = None, stride: int = 1
) -> Scored:
    """Read documents, each in one window; or with only the last tokens before each, in windows that slide.

    Windows that begin anew inside a document put a saw into surprisal, which exponents read as memory. So windows
    of ``context`` tokens move by 1, which is exact; or by up to half of it, and then the mean of each place between
    two beginnings is taken out of z and h (the mean of all is put back), with a warning. Disjoint windows are refused.

    Parameters
    ----------
    kernel : Kernel
    tokens : Int[np.ndarray, "document time"]
        The first token of each has no row: ``time - 1`` positions are scored.
    context : int, optional
        Tokens that are seen before each; the whole document if None.
    stride : int, default=1
        Of windows, where there is a context. Costs ``context / stride`` times one reading.

    Raises
    ------
    ValueError
        If documents are longer than the model reads, windows are disjoint or nearly so, a token is unknown or
        forbidden (where is said), or the kernel breaks a law: rows hold no NaN and sum to one, the future never
        changes the past (which and where is said).

    Warns
    -----
    UserWarning
        If ``stride`` is above 1.
    """
    refuse_out_of_range("tokens", torch.from_numpy(tokens), kernel.n_tokens, limit_name="n_tokens")
    time = int(at_least("tokens of a document", tokens.shape[1], 3)) - 1
    at_least("stride", stride, 1)
    if context is None:
        _refuse_longer(kernel, time)
        refuse_foresight(kernel, tokens)
        return Scored(*_read(kernel, tokens), "one window a document")
    at_least("context", context, 1)
    if stride > max(1, context // 2):
        raise ValueError(
            f"stride={stride} of context={context}: windows that begin anew inside a document are read as structure of "
            f"the text; a stride of at most {max(1, context // 2)} is corrected for, and 1 is exact"
        )
    _refuse_longer(kernel, min(context, time))
    z, h = np.empty((len(tokens), time)), np.empty((len(tokens), time))
    z[:, :context], h[:, :context] = _read(kernel, tokens[:, : context + 1])
    ends = [*range(context + stride, time, stride), time] if time > context else []
    if ends:
        windows = np.stack([tokens[:, end - context : end + 1] for end in ends], axis=1)
        last = _read(kernel, windows.reshape(-1, context + 1), last=stride)
        shape = (len(tokens), len(ends), stride)
        for column, (begin, end) in enumerate(pairwise([context, *ends])):
            z[:, begin:end], h[:, begin:end] = (found.reshape(shape)[:, column, begin - end :] for found in last)
    if stride == 1:
        return Scored(z, h, f"the last {context} tokens before each")
    warnings.warn(
        f"windows of {context} tokens moved by stride={stride}: {context - stride + 1} to {context} tokens are seen "
        "before each, and the mean of each place between two beginnings is taken out",
        stacklevel=2,
    )
    reading = f"windows of {context} tokens moved by {stride}, means of places taken out"
    return Scored(_levelled(z, context, stride), _levelled(h, context, stride), reading)


def _refuse_longer(kernel: Kernel, time: int) -> None:
    most = context_of(kernel)
    if most is not None and time > most:
        raise ValueError(
            f"documents of {time} positions are longer than the {most} tokens the model reads; cut them to {most + 1} "
            f"tokens, or give a context of at most {most}: windows begun anew are never joined"
        )


@torch.no_grad()
def _read(
    kernel: Kernel, tokens: Int[np.ndarray, "row time"], *, last: int | None = None
) -> tuple[Float[np.ndarray, "row position"], Float[np.ndarray, "row position"]]:
    """z and h in bits, at all positions or the last few; no more than some rows of laws at a time."""
    chunk = max(1, CELLS // (tokens.shape[1] * kernel.n_tokens))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(tokens), chunk):
        batch = Batch.from_tokens(tokens[start : start + chunk])
        batch = batch.to(device_of(kernel, batch))
        rows, targets = kernel.log_probs(batch), batch.targets
        if last is not None:
            rows, targets = rows[:, -last:], targets[:, -last:]
        refuse_unlawful(rows, start, tokens.shape[1] - 1 - rows.shape[1])
        said = -rows.gather(2, targets[..., None])[..., 0].double()
        if said.isinf().any():
            b, t = said.isinf().nonzero()[0].tolist()
            raise ValueError(
                f"the model forbids token {int(targets[b, t])} at position {t} of document {start + b}: its surprisal "
                "is infinite; give the model a floor"
            )
        entropy = torch.stack([torch.special.entr(row.exp()).sum(-1).double() for row in rows])
        found.append((said.cpu().numpy() / np.log(2), entropy.cpu().numpy() / np.log(2)))
    z, h = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return z, h


def refuse_unlawful(rows: Float[Tensor, "row position vocab"], document: int, position: int) -> None:
    """Rows that are no laws are refused by the law they break, and where."""
    totals = rows.logsumexp(-1)
    for law, broken in (
        ("no row holds NaN", totals.isnan()),
        ("rows sum to one", totals.abs() > SUMS_TO_ONE),
    ):
        if broken.any():
            b, t = broken.nonzero()[0].tolist()
            raise ValueError(
                f"the kernel breaks the law that {law}, first at position {position + t} of document {document + b}: "
                f"the logarithm of its sum is {float(totals[b, t]):.6g}"
            )


@torch.no_grad()
def refuse_foresight(kernel: Kernel, tokens: Int[np.ndarray, "document time"]) -> None:
    """Raise if laws of the first few documents are others once more of them is there, by at most 64 tokens of each.

    Raises
    ------
    ValueError
        Naming the law and the first position.
    """
    some = tokens[:ASKED_OF, : ASKED + 1]
    half = max(1, (some.shape[1] - 1) // 2)
    batches = [Batch.from_tokens(one) for one in (some[:, : half + 1], some)]
    short, whole = (kernel.log_probs(batch.to(device_of(kernel, batch)))[:, :half].exp() for batch in batches)
    changed = ((short - whole).abs() > FORESIGHT).any(-1)
    if changed.any():
        document, t = changed.nonzero()[0].tolist()
        raise ValueError(
            "the kernel breaks the law that the future never changes the past, first at position "
            f"{t} of document {document}: probabilities move by {float((short - whole)[document, t].abs().max()):.3g} "
            f"when tokens after {half} are there"
        )


def _levelled(values: Float[np.ndarray, "document position"], context: int, stride: int) -> np.ndarray:
    """Values less the mean of their place between two beginnings of windows, over documents and windows.

    Of the last window, which may move less far, the last places are read.
    """
    later = values[:, context:]
    place = np.arange(later.shape[1]) % stride
    rest = later.shape[1] % stride
    place[later.shape[1] - rest :] += stride - rest
    levelled = values.copy()
    for one in np.unique(place):
        levelled[:, context:][:, place == one] += later.mean() - later[:, place == one].mean()
    return levelled
