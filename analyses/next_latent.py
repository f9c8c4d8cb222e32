"""Is the final state a belief? What NextLat makes of it, and of the dynamics that it is trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.induction.speculative import Acceptance, speculate
from nextlens.models.kernel import Kernel
from nextlens.models.objectives.latent_draft import LatentDraft
from nextlens.models.objectives.next_latent import NextLatent
from nextlens.models.objectives.registers import WithoutRegister
from nextlens.models.processes import Process
from nextlens.models.recording import beliefs, device_of, record
from nextlens.probes.belief import BeliefProbe, held_out
from nextlens.probes.geometry import effective_rank
from nextlens.probes.ridge import r2
from nextlens.probes.samples import pair

#: The state that the unembedding reads, and that NextLat predicts.
FINAL = "ln_final.hook_normalized"
#: Penalties of the probe that judges the dynamics. A smaller one reads directions of hardly any variance, which the
#: dynamics does not keep up with and the objective does not ask for; R² of the belief is then far below 0.
FIRM = (1e-2, 1e-1, 1.0)
#: Words on which the dynamics is measured, and as many to fit the probe.
WORDS = 512
#: Texts that are written with the dynamics as a draft.
TEXTS = 6
#: Last tokens in which two equivalent histories must not all agree.
RECENT = 3


@torch.no_grad()
def kl_to_exact(model: Kernel, process: Process, tokens: Int[np.ndarray, "sequence position"]) -> float:
    """Mean over positions of ``KL(exact law ‖ the model's)`` of the next token, in nats; the register apart."""
    batch = Batch.from_tokens(tokens)
    exact = process.log_probs(batch)
    said = WithoutRegister(model).log_probs(batch.to(device_of(model, batch))).cpu().double()
    return float(kl(exact, said).mean())


def kl(
    exact: Float[torch.Tensor, "*#rows token"], said: Float[torch.Tensor, "*#rows token"]
) -> Float[torch.Tensor, ...]:
    """``KL(exact ‖ said)`` in nats of laws given by their logarithms; what cannot come costs nothing."""
    return torch.where(exact.isneginf(), 0.0, exact.exp() * (exact - said)).sum(-1)


def latent_geometry(
    model: Hooked, process: Process, tokens: Int[np.ndarray, "sequence position"], sites: Sequence[str]
) -> dict[str, Any]:
    """How many directions each site has, and how much of the belief can be read off it.

    Returns
    -------
    dict
        ``sites``; ``ranks``: effective ranks of the states as they are, not centred: the exponential of the entropy of
        normalised singular values (Roy and Vetterli 2007, as in arXiv:2511.05963, §4.1); ``r2``: of the belief on
        held-out sequences; ``spectrum``: normalised singular values of the last site.
    """
    batch = Batch.from_tokens(tokens)
    recorded, truth = record(model, batch, sites), beliefs(process, batch)
    ranks, scores, spectrum = [], [], np.zeros(0)
    for site in sites:
        X, Y, groups = pair(recorded[site], truth)
        spectrum = singular_values(X)
        ranks.append(effective_rank(spectrum))
        scores.append(held_out(X.astype(np.float64), Y, groups).r2)
    return {"sites": list(sites), "ranks": ranks, "r2": scores, "spectrum": (spectrum / spectrum.sum()).tolist()}


def singular_values(X: Float[np.ndarray, "sample feature"]) -> Float[np.ndarray, " feature"]:
    """Of the rows as they are; below 1e-12 they are left out of ranks, as in the paper."""
    return np.linalg.svd(X.astype(np.float64), compute_uv=False)


def equivalent_histories(
    states: xr.DataArray, truth: xr.DataArray, rng: np.random.Generator, *, n_rows: int = 2000
) -> dict[str, float]:
    """How near the states of different histories are that give nearly the same belief.

    Each of ``n_rows`` rows is paired with the row of nearest belief among those of other sequences that do not agree
    with it in all of the last :data:`RECENT` tokens; and with a row at random.

    Returns
    -------
    dict
        ``ratio``: mean distance of states in the first pairs over that in the second; ``of_beliefs``: the same of the
        beliefs themselves, which states affine in the belief would have.
    """
    rows = states.stack(sample=("sequence", "position"))
    late = rows.position.values >= RECENT - 1
    X = rows.transpose("sample", "feature").values[late].astype(np.float64)
    Y = truth.stack(sample=("sequence", "position")).transpose("sample", "state").values[late]
    sequence, recent = rows["sequence"].values[late], _recent(states)[late]
    chosen = rng.choice(len(X), min(n_rows, len(X)), replace=False)
    near = cKDTree(Y).query(Y[chosen], k=min(64, len(Y)))[1]
    other = (sequence[near] != sequence[chosen][:, None]) & (recent[near] != recent[chosen][:, None])
    found = other.any(1)
    chosen, match = chosen[found], near[np.arange(len(near)), other.argmax(1)][found]
    random = rng.permutation(len(X))[: len(chosen)]
    far = [[np.linalg.norm(Z[chosen] - Z[to], axis=1).mean() for to in (match, random)] for Z in (X, Y)]
    return {"ratio": float(far[0][0] / far[0][1]), "of_beliefs": float(far[1][0] / far[1][1])}


def _recent(states: xr.DataArray) -> Int[np.ndarray, " sample"]:
    """A number for the last tokens read at each position."""
    tokens = states.token.transpose("sequence", "position").values
    base, number = int(tokens.max()) + 1, np.zeros(tokens.shape, dtype=np.int64)
    for back in range(RECENT):
        number[:, back:] += tokens[:, : tokens.shape[1] - back] * base**back
    return number.ravel()


@torch.no_grad()
def bayesian_updater(
    model: Hooked, objective: NextLatent, process: Process, rng: np.random.Generator, *, length: int, longer: int
) -> xr.Dataset:
    """Whether the latent dynamics moves the state as Bayes' rule moves the belief.

    An affine probe of the belief, with one of the penalties :data:`FIRM`, is fitted to the model's own final states,
    on sequences of ``length`` tokens; all R² are of others. Rolled out, the dynamics is given the state behind the
    first token and the embeddings of the true tokens, and nothing else.

    Returns
    -------
    xr.Dataset
        ``next_state``: R² of the next final state itself. Of the belief, ``one_step``, after one more token;
        ``own``, read off the model's own state there; ``not_updated``, of the state that did not move;
        ``wrong_token``, of one moved by a token of another sequence. Over ``position`` up to ``longer``:
        ``rolled_out``, ``transformer``, the model's own states, and ``first_state``, which never moves: R² of the
        belief there, the variance being that at this position.
    """
    fit = Batch.from_tokens(process.sample(WORDS, length + 1, rng))
    X, Y, groups = pair(record(model, fit, [FINAL])[FINAL], beliefs(process, fit))
    probe = BeliefProbe(alphas=FIRM).fit(X.astype(np.float64), Y, groups=groups)
    batch = Batch.from_tokens(process.sample(WORDS, longer + 1, rng))
    truth = process.beliefs(batch.tokens.numpy())
    with model.watched(objective.site, objective.embedding_site) as seen:
        model(batch.to(device_of(model, batch)))
    h, e = seen[objective.site], seen[objective.embedding_site]
    said = _predicted(probe, h)
    moved = objective.dynamics(h[:, : length - 1], e[:, 1:length])
    step = _predicted(probe, moved)
    wrong = _predicted(probe, objective.dynamics(h[:, : length - 1], e.roll(1, 0)[:, 1:length]))
    rolled = _predicted(probe, objective.roll_out(h[:, 0], e[:, 1:]))
    places = np.arange(1, longer)
    return xr.Dataset(
        {
            "next_state": _r2(h[:, 1:length].cpu().double().numpy(), moved.cpu().double().numpy()),
            "own": _r2(truth[:, 1:length], said[:, 1:length]),
            "one_step": _r2(truth[:, 1:length], step),
            "not_updated": _r2(truth[:, 1:length], said[:, : length - 1]),
            "wrong_token": _r2(truth[:, 1:length], wrong),
            "rolled_out": ("position", [_r2(truth[:, t], rolled[:, t - 1]) for t in places]),
            "transformer": ("position", [_r2(truth[:, t], said[:, t]) for t in places]),
            "first_state": ("position", [_r2(truth[:, t], said[:, 0]) for t in places]),
        },
        coords={"position": places},
        attrs={"trained on": length},
    )


def drafted(
    model: Hooked, objective: NextLatent, process: Process, rng: np.random.Generator, *, length: int, ahead: int = 4
) -> dict[str, float]:
    """How far the latent dynamics can write ahead for its own model, which looks at what it wrote in one call.

    :data:`TEXTS` texts of ``length`` tokens, four of them given, with ``ahead`` proposals a call of the model. What is
    written has the model's law, whatever the draft.

    Returns
    -------
    dict
        ``accepted``: the mean overlap ``1 - TV`` of the laws of draft and model, the chance that a proposal stands;
        ``tokens_per_call``, 1 without a draft: for each call of the model, those for states and embeddings counted;
        ``at_birth``: the first of a dynamics that was never trained, whose
        state stays where it is.
    """
    still = NextLatent(objective.dynamics.last.out_features, site=objective.site)
    prompts, found, calls = process.sample(TEXTS, 4, rng), [], []
    for head in (objective, still.to(next(objective.parameters()).device)):
        draft = LatentDraft(model, head, ahead=ahead)
        rounds = [
            one
            for prompt in prompts
            for one in speculate(draft.target, draft, prompt, length=length - 4, ahead=ahead, rng=rng)
        ]
        found.append(Acceptance.of(rounds))
        calls.append(draft.calls)
    return {
        "accepted": found[0].expected,
        "tokens_per_call": TEXTS * (length - 4) / calls[0],
        "at_birth": found[1].expected,
    }


def _predicted(probe: BeliefProbe, h: Float[torch.Tensor, "batch time width"]) -> Float[np.ndarray, "batch time state"]:
    rows = h.detach().cpu().double().numpy()
    return probe.predict(rows.reshape(-1, rows.shape[-1])).reshape(*rows.shape[:2], -1)


def _r2(truth: Float[np.ndarray, "*rows state"], guess: Float[np.ndarray, "*rows state"]) -> float:
    return r2(truth.reshape(-1, truth.shape[-1]), guess.reshape(-1, guess.shape[-1]))
