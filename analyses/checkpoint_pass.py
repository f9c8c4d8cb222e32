"""One pass of a model over a text: what it says, what it would say layer by layer, and what its stream holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from tqdm import tqdm

from nextlens.analyses.checkpoint_reading import Reading, Windows
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.hooked_module import HookedModule
from nextlens.models.recording import device_of

#: Log-probabilities in memory at a time.
CELLS = 2**25
#: Bits by which the law that ends the lens may differ from the model's own.
SAME_LAW = 1e-3
#: Log-probabilities below this count as this, so that what the final law forbids too costs nothing.
LEAST_LOG = -1e4


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass left behind. Rows are those of the reading.

    Attributes
    ----------
    surprisal, entropy : Float[np.ndarray, " row"]
        In bits: of what came next, and of the model's own law.
    by_time : Float[np.ndarray, "window time"]
        Surprisal at every position of every window, scored or not.
    law : Float[np.ndarray, "row class"]
        Probability of each of the classes.
    kept, lensed : Bool[np.ndarray, " row"]
        Rows whose activations were kept, and those the lens was held to.
    stream : dict of str to Float32[np.ndarray, "kept width"]
    divergence, cross_entropy : Float[np.ndarray, "site lensed"]
        In bits: KL(final law ‖ law at the site), and the surprisal of what came next under the latter.
        Empty without a lens.
    unigram_divergence : Float[np.ndarray, " lensed"]
        KL(final law ‖ unigram law of the other blocks), the null of ``divergence``.
    no_lens : str
        Why there is no lens; empty if there is one.
    """

    surprisal: Float[np.ndarray, " row"]
    entropy: Float[np.ndarray, " row"]
    by_time: Float[np.ndarray, "window time"]
    law: Float[np.ndarray, "row class"]
    kept: Bool[np.ndarray, " row"]
    lensed: Bool[np.ndarray, " row"]
    stream: Mapping[str, Float32[np.ndarray, "kept width"]]
    divergence: Float[np.ndarray, "site found"]
    cross_entropy: Float[np.ndarray, "site found"]
    unigram_divergence: Float[np.ndarray, " lensed"]
    no_lens: str


def stream_sites(model: Hooked) -> list[str]:
    """The residual stream before the first block and after each; none if the model names none."""
    posts = [site for site in model.sites if site.endswith("hook_resid_post")]
    first = next((site for site in ("blocks.0.hook_resid_pre", "hook_embed") if site in model.sites), None)
    return [first, *posts] if first and posts else posts


@torch.no_grad()
def finished(model: Hooked, site: str, stream: Float[Tensor, "row width"]) -> Float[Tensor, "row vocab"]:
    """The logits the model gives if ``stream`` stands at ``site``, its last residual stream.

    Ours have a final norm and an unembedding by name. Any other model goes on by itself, with whatever norm
    and unembedding it has: it reads a single token, and all that is left of it at ``site`` is replaced.

    Raises
    ------
    ValueError
        If it does not go on with as many rows as it was given.
    """
    if isinstance(model, HookedModule):
        return model.ln_final(stream[None])[0] @ model.unembedding
    one = Batch.from_tokens([[0, 0]]).to(stream.device)
    with model.edited(site, lambda value: stream[None].to(value.dtype)):
        logits = model(one)
    if logits.shape[:-1] != (1, len(stream)):
        raise ValueError(f"site={site!r}: the model does not go on from a residual stream put there")
    return logits[0]


@torch.no_grad()
def read_through(
    model: Hooked,
    reading: Reading,
    *,
    sites: Sequence[str],
    classes: Int[np.ndarray, " class"],
    unigrams: Float[np.ndarray, "block token"],
    most_kept: int,
    most_lensed: int,
    progress: bool = False,
) -> Pass:
    """Read every window once. Memory is bounded by one window of log-probabilities and by what is kept.

    Parameters
    ----------
    model : Hooked
    reading : Reading
    sites : sequence of str
        Of the residual stream, in order; the lens goes on from the last. May be empty.
    classes : int array of shape (class,)
        Tokens whose probability is kept at every row.
    unigrams : array of shape (block, token)
    most_kept, most_lensed : int
        Rows of activations, and rows of the lens, evenly spread over the text.
    progress : bool, default=False

    Raises
    ------
    ValueError
        If the model says NaN, naming the token; also as the model does.
    """
    rows = _Rows(reading, sites, classes, most_kept)
    lens = _Lens(model, reading, sites, unigrams, most_lensed)
    windows = reading.n_windows()
    chunk = max(1, CELLS // (reading.time * model.n_tokens))
    some = reading.windows(chunk)
    for part in tqdm(some, total=-(-windows // chunk), desc="read", unit="chunk", leave=False) if progress else some:
        batch = part.batch.to(device_of(model, part.batch))
        with model.watched(*sites) as seen:
            said = model(batch).float().log_softmax(-1)
        _refuse_nan(said, batch)
        scored = torch.as_tensor(part.scored, device=batch.device)
        rows.by_time.append(_bits(-said.gather(2, batch.targets[..., None])[..., 0]))
        law, stream = said[scored], {site: seen[site][scored] for site in sites}
        del said, seen
        rows.take(part, law, stream)
        lens.take(part, law, stream)
    return Pass(**rows.found(), **lens.found())


class _Rows:
    """What is kept of every row, and of some rows the residual stream."""

    def __init__(self, reading: Reading, sites: Sequence[str], classes: Int[np.ndarray, " class"], most: int):
        self.surprisal, self.entropy = np.empty(len(reading)), np.empty(len(reading))
        self.law, self.classes = np.empty((len(reading), len(classes))), torch.as_tensor(classes)
        self.by_time: list[np.ndarray] = []
        self.kept = reading.thinned(most)
        self.stream: dict[str, list[np.ndarray]] = {site: [] for site in sites}

    def take(self, part: Windows, law: Float[Tensor, "row vocab"], stream: Mapping[str, Tensor]) -> None:
        self.surprisal[part.rows] = self.by_time[-1][part.scored]
        for start in range(0, len(law), 256):
            some = law[start : start + 256]
            rows = slice(part.rows.start + start, part.rows.start + start + len(some))
            self.entropy[rows] = _bits(torch.special.entr(some.exp()).sum(-1))
            self.law[rows] = some[:, self.classes.to(law.device)].exp().double().cpu().numpy()
        keep = torch.as_tensor(self.kept[part.rows], device=law.device)
        for site, values in stream.items():
            self.stream[site].append(values[keep].float().cpu().numpy())

    def found(self) -> dict[str, Any]:
        return {
            "surprisal": self.surprisal,
            "entropy": self.entropy,
            "law": self.law,
            "by_time": np.concatenate(self.by_time),
            "kept": self.kept,
            "stream": {site: np.concatenate(parts) for site, parts in self.stream.items()},
        }


class _Lens:
    """What the model would say from each site, against what it says in the end."""

    def __init__(
        self,
        model: Hooked,
        reading: Reading,
        sites: Sequence[str],
        unigrams: Float[np.ndarray, "block token"],
        most: int,
    ):
        self.model, self.reading, self.sites = model, reading, sites
        self.lensed = reading.thinned(most)
        self.missing = "" if sites else "the model names no residual stream: no site ends with hook_resid_post"
        self.unigrams = torch.as_tensor(np.log(unigrams), dtype=torch.float32)
        self.null: list[np.ndarray] = []
        self.pairs: list[np.ndarray] = []

    def take(self, part: Windows, law: Float[Tensor, "row vocab"], stream: Mapping[str, Tensor]) -> None:
        here = np.flatnonzero(self.lensed[part.rows])
        for rows in np.array_split(here, -(-len(here) // 128) or 1):
            block, said = (values[part.rows][rows] for values in (self.reading.block, self.reading.said))
            p, targets = law[rows].exp(), torch.as_tensor(said, device=law.device)[:, None]
            own = -torch.special.entr(p).sum(-1)
            self.null.append(_bits(own - (p * self.unigrams[block].to(law.device)).sum(-1)))
            if not self.missing and len(rows):
                self._hold_to({site: values[rows] for site, values in stream.items()}, p, own, targets)

    def _hold_to(self, stream: Mapping[str, Tensor], p: Tensor, own: Tensor, targets: Tensor) -> None:
        """As many sites at a time as there is room for: the model goes on anew for each of these turns."""
        found, sites = [], list(stream.values())
        at_a_time = max(1, CELLS // (2 * p.numel()))
        for start in range(0, len(sites), at_a_time):
            some = sites[start : start + at_a_time]
            try:
                laws = finished(self.model, self.sites[-1], torch.cat(some)).float().log_softmax(-1)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                self.missing = str(error).splitlines()[0]
                return
            for q in laws.split(len(p)):
                apart = own - (p * q.clamp(min=LEAST_LOG)).sum(-1)
                found.append((_bits(apart), _bits(-q.gather(1, targets)[:, 0])))
        self.pairs.append(np.array(found))
        if not np.abs(self.pairs[-1][-1, 0]).max() < SAME_LAW:
            self.missing = "what the model says from its last residual stream is not what it says"

    def found(self) -> dict[str, Any]:
        there = self.pairs and not self.missing
        pairs = np.concatenate(self.pairs, axis=2) if there else np.empty((len(self.sites), 2, 0))
        return {
            "lensed": self.lensed,
            "divergence": pairs[:, 0],
            "cross_entropy": pairs[:, 1],
            "unigram_divergence": np.concatenate(self.null),
            "no_lens": self.missing,
        }


def _bits(nats: Float[Tensor, "*any"]) -> Float[np.ndarray, "*any"]:
    return nats.double().cpu().numpy() / np.log(2.0)


def _refuse_nan(said: Float[Tensor, "batch time vocab"], batch: Batch) -> None:
    wrong = said.isnan().any(-1)
    if wrong.any():
        b, t = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"the model says NaN after token {int(batch.tokens[b, t])} at position {t} of a window; "
            "that is no law, so nothing is reported"
        )
