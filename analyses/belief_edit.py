"""Does a model use the belief that a probe reads? Give it another belief, and see what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import product

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nextlens.analyses.belief_pairs import Pairs
from nextlens.analyses.sites import probed_sites
from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.hooked import Edit, Hooked
from nextlens.models.recording import record
from nextlens.models.recurrent import Recurrent
from nextlens.probes.belief import ALPHAS, BeliefProbe
from nextlens.probes.edits import covariance_edit, decoder_edit, minimum_norm_edit, random_edit, unread_edit
from nextlens.probes.ridge import moments, ordinary_least_squares, penalties, r2

#: What is done to the residual stream after the last token of the context.
EDITS = {
    "none": "nothing",
    "covariance": "to the target's belief along the covariance of the activations",
    "decoder": "to the target's belief along the regression of activations on beliefs",
    "minimum norm": "to the target's belief by the shortest displacement",
    "random direction": "as far as the covariance edit, in a random direction",
    "probe null space": "as far as the covariance edit, in a random direction that the probe does not see",
    "wrong belief": "the covariance edit to the belief of a third context",
    "true context": "the activations of the target itself in place of the context's",
}
#: Words read at a time.
CHUNK = 1024


def belief_edit(
    model: Hooked,
    pairs: Pairs,
    *,
    sites: Sequence[str] | None = None,
    ahead: int = 1,
    alphas: Sequence[float] = ALPHAS,
    rng: np.random.Generator,
) -> xr.Dataset:
    """Edit the belief at one site after the last token of each context, and compare with what must follow.

    If the model computes its prediction from the belief that a probe reads at the site, then with the
    belief b* of another context put there it must predict what b* predicts, which is exact::

        KL( b* T_x w  ||  edited model's law of x ),  in nats

    Step 1 is the law of the next token. Step k is that of the k-th token given the k - 1 before it, on
    average over them by the exact law, so that the sum of the first k steps is the KL of the words of k
    tokens; after step 1 the edit counts only as far as the model carries it on. Later positions of a
    transformer look back at the edited one, above the site; a :class:`Recurrent` goes on from the
    edited state.

    The probe, the covariance and the decoder are fitted on the contexts of other folds, at the same
    position, weighted by probability; the penalty is that which predicts best.

    Parameters
    ----------
    model : Hooked
        An untrained twin, ``model.untrained()``, is edited alike, for comparison.
    pairs : Pairs
        Its contexts, and ``ahead - 1`` tokens more, must fit into the model's context.
    sites : sequence of str, optional
        The embedding and every block's ``hook_resid_post`` if None.
    ahead : int, default=1
        How many steps.
    alphas : sequence of float
        Penalties to choose from.
    rng : numpy.random.Generator
        For the random directions.

    Returns
    -------
    xarray.Dataset
        ``kl`` over (step, site, edit, pair), edits as in :data:`EDITS`; ``r2`` over site, of the probe
        on contexts of folds that it was not fitted on. See :func:`~nextlens.analyses.edit_scores.edit_scores`.

    Raises
    ------
    ValueError
        If a site does not exist or holds no value for each position, ``ahead`` is below 1, or the words
        are too long for the model.
    """
    at_least("ahead", ahead, 1)
    sites, exact = probed_sites(model, sites), pairs.counterfactual(ahead)
    acts = record(model, _batch(pairs.contexts.words), sites, where=_last(pairs.contexts.words))
    untouched = _kl(model, pairs, exact, ahead)
    kl, scores = [], []
    for site in sites:
        put, score = _activations(acts[site].values, pairs, alphas, rng)
        kl.append([untouched, *(_kl(model, pairs, exact, ahead, site, value) for value in put.values())])
        scores.append(score)
    return xr.Dataset(
        {"kl": (("site", "edit", "step", "pair"), np.array(kl), {"units": "nat"}), "r2": ("site", scores)},
        coords={"site": sites, "edit": list(EDITS), "step": np.arange(1, ahead + 1)},
        attrs=_protocol(pairs),
    ).transpose("step", "site", "edit", "pair")


def penalty_sweep(
    model: Hooked, pairs: Pairs, site: str, alphas: Sequence[float], *, rng: np.random.Generator
) -> xr.Dataset:
    """:func:`belief_edit` at one site by probes of one penalty each.

    A weak penalty, which predicts best, lets a probe read directions in which activations hardly vary.
    The shortest displacement follows those, and does little; a strong penalty turns it towards the
    covariance edit, at the cost of the reading. So a minimum-norm edit means little without its sweep.

    Returns
    -------
    xarray.Dataset
        ``kl`` over (alpha, edit, pair) and ``r2`` over alpha.

    Raises
    ------
    ValueError
        As :func:`belief_edit`; or if a penalty is out of range.
    """
    swept = [
        belief_edit(model, pairs, sites=[site], alphas=[alpha], rng=rng).isel(site=0, step=0, drop=True)
        for alpha in penalties(alphas)
    ]
    return xr.concat(swept, xr.Variable("alpha", penalties(alphas)), combine_attrs="override")


def _activations(
    X: Float[np.ndarray, "word ..."], pairs: Pairs, alphas: Sequence[float], rng: np.random.Generator
) -> tuple[dict[str, Float[np.ndarray, "pair feature"]], float]:
    """What every edit but "none" puts in place of the activations of each source; R² of the probe, held out."""
    X = X.reshape(len(X), -1).astype(np.float64)
    beliefs, p = pairs.contexts.beliefs, pairs.contexts.probability
    put = {name: X[pairs.source] for name in EDITS if name != "none"} | {"true context": X[pairs.target]}
    reading = np.empty(beliefs.shape)
    for fold in np.unique(pairs.fold):
        other, rows = pairs.fold != fold, np.flatnonzero(pairs.fold[pairs.source] == fold)
        probe = BeliefProbe(alphas).fit(X[other], beliefs[other], groups=np.flatnonzero(other), sample_weight=p[other])
        reading[~other] = probe.predict(X[~other])
        if not len(rows):
            continue
        W, c, here = probe.coef_.T, probe.intercept_, X[pairs.source[rows]]
        fitted = moments(X[other], beliefs[other], p[other])
        covariance = fitted.xx / fitted.weight
        D = ordinary_least_squares(beliefs[other], X[other], p[other])[0]
        truth, target, wrong = (beliefs[which[rows]] for which in (pairs.source, pairs.target, pairs.wrong))
        change = covariance_edit(here, W, c, target, covariance)
        put["covariance"][rows] += change
        put["decoder"][rows] += decoder_edit(D, truth, target)
        put["minimum norm"][rows] += minimum_norm_edit(here, W, c, target)
        put["random direction"][rows] += random_edit(change, rng)
        put["probe null space"][rows] += unread_edit(change, W, rng)
        put["wrong belief"][rows] += covariance_edit(here, W, c, wrong, covariance)
    return put, r2(beliefs, reading, p)


def _kl(
    model: Hooked,
    pairs: Pairs,
    exact: Float[np.ndarray, "pair word"],
    ahead: int,
    site: str = "",
    put: Float[np.ndarray, "pair feature"] | None = None,
) -> Float[np.ndarray, "step pair"]:
    """KL of each step from the exact law of words, in nats."""
    n, v = len(pairs), pairs.prefixes.process.n_tokens
    said = _said(model, pairs.contexts.words[pairs.source], ahead, site, put)
    steps, before = [], np.ones((n, 1))
    for k in range(ahead):
        words = exact.reshape(n, v ** (k + 1), -1).sum(-1)
        law = said.reshape(n, v**k, -1, ahead, v)[:, :, 0, k].reshape(n, -1)
        possible = words > 0
        ratio = np.divide(words, np.repeat(before, v, axis=1), out=np.ones_like(words), where=possible)
        steps.append(np.where(possible, words * (np.log(ratio) - np.where(possible, law, 0.0)), 0.0).sum(1))
        before = words
    return np.array(steps)


@torch.no_grad()
def _said(
    model: Hooked,
    contexts: Int[np.ndarray, "pair length"],
    ahead: int,
    site: str,
    put: Float[np.ndarray, "pair feature"] | None,
) -> Float[np.ndarray, "pair suffix step token"]:
    """Log-probabilities after each context, and after each word of up to ``ahead - 1`` tokens that may follow it."""
    suffixes = np.array(list(product(range(model.n_tokens), repeat=ahead - 1)), dtype=np.int64)
    n, parts = len(suffixes), []
    for start in range(0, len(contexts), max(1, CHUNK // n)):
        rows = slice(start, start + max(1, CHUNK // n))
        read = np.repeat(contexts[rows], n, axis=0)
        edit = None if put is None else _in_place(np.repeat(put[rows], n, axis=0), contexts.shape[1] - 1)
        logits = _read(model, read, np.tile(suffixes, (len(read) // n, 1)), site, edit)
        parts.append(logits.double().log_softmax(-1).cpu().numpy().reshape(-1, n, ahead, model.n_tokens))
    return np.concatenate(parts)


def _read(
    model: Hooked,
    contexts: Int[np.ndarray, "word length"],
    suffixes: Int[np.ndarray, "word more"],
    site: str,
    edit: Edit | None,
) -> Float[Tensor, "word step vocab"]:
    """Logits after the context and after each token of the suffix; the edit is of what the context left."""
    edited, device = nullcontext() if edit is None else model.edited(site, edit), getattr(model, "device", None)
    if not isinstance(model, Recurrent):
        with edited:
            return model(_batch(np.hstack([contexts, suffixes])).to(device or "cpu"))[:, contexts.shape[1] - 1 :]
    with edited:
        logits, states = model.read_on(_batch(contexts).to(model.device))
    if not suffixes.shape[1]:
        return logits[:, -1:]
    return torch.cat([logits[:, -1:], model.read_on(_batch(suffixes).to(model.device), states)[0]], dim=1)


def _in_place(put: Float[np.ndarray, "word feature"], position: int) -> Edit:
    def edit(value: Tensor) -> Tensor:
        value = value.clone()
        value[:, position] = torch.from_numpy(put).to(value).reshape(value[:, position].shape)
        return value

    return edit


def _batch(words: Int[np.ndarray, "word length"]) -> Batch:
    return Batch.from_tokens(np.pad(words, ((0, 0), (0, 1))))


def _last(words: Int[np.ndarray, "word length"]) -> Bool[np.ndarray, "word length"]:
    return np.tile(np.arange(words.shape[1]) == words.shape[1] - 1, (len(words), 1))


def _protocol(pairs: Pairs) -> dict[str, str | int]:
    return {
        "process": pairs.prefixes.process.name,
        "length": pairs.contexts.length,
        "contexts": len(pairs.contexts),
        "pairs": len(pairs),
        "folds": f"{pairs.fold.max() + 1}, by context; penalty by inner folds",
    }
