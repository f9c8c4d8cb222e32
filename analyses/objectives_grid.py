"""Does a model that drives through a town know the town? The five measures of the paper on next-latent prediction."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int

from nextlens.analyses.next_latent import FINAL, singular_values
from nextlens.models.arguments import between
from nextlens.models.batch import Batch
from nextlens.models.decoding import complete
from nextlens.models.hooked import Hooked
from nextlens.models.kernel import Kernel
from nextlens.models.recording import device_of, record
from nextlens.models.tasks.prompted import batch_of, prompts_of
from nextlens.models.tasks.street_grid import StreetGrid
from nextlens.probes.geometry import effective_rank

#: The measures of arXiv:2511.05963, §4.1, by name.
MEASURES = {
    "next-token test": "share of places at which the likeliest token is one that may come, after true prefixes",
    "valid trajectories": "share of rides between new pairs of crossings, driven greedily, that keep to the streets "
    "and end at the goal",
    "sequence compression": "share of pairs of different ways to one crossing, with one goal and of one length, behind "
    "which the model drives on alike; both rides between pairs of crossings that no training saw",
    "effective latent rank": "exp of the entropy of normalised singular values of final states, not centred",
    "detour robustness": "valid trajectories when a move is replaced, with probability 0.75, by another from which the "
    "goal can still be reached in time",
}
#: Moves behind which two ways are compared.
PREFIX = 4


def grid_measures(model: Hooked, task: StreetGrid, rng: np.random.Generator, *, n: int = 300) -> dict[str, float]:
    """All of :data:`MEASURES`, on ``n`` rides, or pairs of them, between pairs of crossings that no training saw."""
    drawn = task.draw(n, rng, pairs="new")
    return {
        "next-token test": next_token_test(model, task, drawn),
        "valid trajectories": float(_driven(model, task, drawn).mean()),
        "sequence compression": sequence_compression(model, task, rng, n_pairs=n, n_rides=max(2000, 50 * n)),
        "effective latent rank": latent_rank(model, drawn),
        "detour robustness": detour_robustness(model, task, drawn, rng),
    }


@torch.no_grad()
def next_token_test(model: Kernel, task: StreetGrid, drawn: xr.Dataset) -> float:
    """The share of places at which the model's likeliest token is allowed."""
    batch = batch_of(drawn)
    said = model.log_probs(batch.to(device_of(model, batch))).argmax(-1).cpu().numpy()
    here = drawn.crossing.values[:, :-1]
    asked = batch.weights.numpy() > 0
    goal = np.broadcast_to(drawn.goal.values[:, None], here.shape)
    legal = np.zeros((*here.shape, model.n_tokens), dtype=bool)
    legal[..., : task.n_tokens] = task.allowed(here, goal)
    return float(np.take_along_axis(legal, said[..., None], -1)[..., 0][asked].mean())


def arrived(
    task: StreetGrid,
    start: Int[np.ndarray, " sequence"],
    goal: Int[np.ndarray, " sequence"],
    said: Int[np.ndarray, "sequence step"],
) -> Bool[np.ndarray, " sequence"]:
    """Whether each ride keeps to the streets and says its end at the goal, and there only."""
    here, going = start.copy(), np.ones(len(start), dtype=bool)
    valid = np.zeros(len(start), dtype=bool)
    for token in said.T:
        valid |= going & (token == task.end) & (here == goal)
        move = token - task.n_crossings
        going &= (move >= 0) & (move < task.to.shape[1])
        to = task.to[here, np.where(going, move, 0)]
        going &= to >= 0
        here = np.where(going, to, here)
    return valid


def _driven(model: Kernel, task: StreetGrid, drawn: xr.Dataset) -> Bool[np.ndarray, " sequence"]:
    prompts = prompts_of(drawn).to(device_of(model, batch_of(drawn)))
    said = complete(model, prompts, task.longest + 1, end=task.end).cpu().numpy()
    return arrived(task, drawn.tokens.values[:, 0], drawn.goal.values, said)


def sequence_compression(
    model: Kernel, task: StreetGrid, rng: np.random.Generator, *, n_pairs: int = 300, n_rides: int = 15_000
) -> float:
    """How often the model drives on alike behind two different ways to one crossing, of one length and with one goal.

    Of ``n_rides`` between pairs of crossings that no training saw, at most ``n_pairs`` that meet behind
    :data:`PREFIX` moves; one pair for each crossing and goal.

    Raises
    ------
    ValueError
        If no two rides meet.
    """
    rides = task.draw(n_rides, rng, pairs="new")
    tokens, at = rides.tokens.values, 1 + PREFIX
    meeting: dict[tuple[int, int], dict[tuple[int, ...], int]] = defaultdict(dict)
    for row in np.flatnonzero(
        (rides.crossing.values[:, at] >= 0) & (rides.crossing.values[:, at] != rides.goal.values)
    ):
        key = int(rides.crossing.values[row, at]), int(rides.goal.values[row])
        meeting[key].setdefault(tuple(tokens[row, : at + 1].tolist()), int(row))
    pairs = [tuple(ways.values())[:2] for ways in meeting.values() if len(ways) > 1]
    if not pairs:
        raise ValueError(f"n_rides={n_rides} are too few: no two of them meet")
    chosen = np.array(pairs)[rng.permutation(len(pairs))[:n_pairs]]
    prompts = torch.from_numpy(tokens[chosen.ravel(), : at + 1]).to(device_of(model, batch_of(rides)))
    said = complete(model, prompts, task.longest - PREFIX, end=task.end).cpu().numpy()
    return float((said[::2] == said[1::2]).all(1).mean())


def latent_rank(model: Hooked, drawn: xr.Dataset) -> float:
    """The effective rank of final states while rides go on."""
    states = record(model, batch_of(drawn), [FINAL])[FINAL].transpose("sequence", "position", "feature").values
    return effective_rank(singular_values(states[drawn.crossing.values[:, :-1] >= 0]))


@torch.no_grad()
def detour_robustness(
    model: Kernel, task: StreetGrid, drawn: xr.Dataset, rng: np.random.Generator, *, probability: float = 0.75
) -> float:
    """The share of rides that arrive though moves are replaced on the way.

    With ``probability`` the model's move becomes another that streets allow and from which the goal can still be
    reached in the moves that are left, if there is one.
    """
    between("probability", probability, 0, 1)
    start, goal = drawn.tokens.values[:, 0], drawn.goal.values
    rows, here = torch.from_numpy(drawn.tokens.values[:, :2].copy()), start.copy()
    for step in range(task.longest + 1):
        said = _next(model, rows)
        left = task.longest - step - 1
        others = task.to[here] >= 0
        others &= task.distance[task.to[here], goal[:, None]] <= left
        moves = said - task.n_crossings
        is_move = (moves >= 0) & (moves < others.shape[1])
        others[np.flatnonzero(is_move), moves[is_move]] = False
        detour = is_move & others.any(1) & (rng.random(len(here)) < probability)
        drawn_moves = (rng.random(others.shape) * others).argmax(1)
        said = np.where(detour, task.n_crossings + drawn_moves, said)
        moves = np.clip(said - task.n_crossings, 0, others.shape[1] - 1)
        here = np.maximum(task.to[here, moves], 0)
        rows = torch.cat([rows, torch.from_numpy(said)[:, None]], dim=1)
    return float(arrived(task, start, goal, rows[:, 2:].numpy()).mean())


def _next(model: Kernel, rows: Int[torch.Tensor, "sequence read"]) -> Int[np.ndarray, " sequence"]:
    padded = Batch.from_tokens(torch.cat([rows, rows[:, :1]], dim=1))
    logs: Float[torch.Tensor, "sequence read token"] = model.log_probs(padded.to(device_of(model, padded)))
    return logs[:, -1].argmax(-1).cpu().numpy()
