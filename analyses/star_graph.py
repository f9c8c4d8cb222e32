"""Does a transformer plan its way through a star graph, where in it does the plan form, and does it walk by it?"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from sklearn.linear_model import RidgeClassifier

from nextlens.models.decoding import complete
from nextlens.models.hooked import Hooked
from nextlens.models.kernel import Kernel
from nextlens.models.recording import device_of
from nextlens.models.tasks.prompted import answer_start, batch_of, prompts_of
from nextlens.models.tasks.star_graph import CleverHans, asked_for_another_leaf, clever_hans

#: Graphs on which plans are probed, half of them to fit; and graphs between which they are swapped.
PROBED, SWAPPED = 4000, 300
#: Where a plan is looked for, by how many positions before the answer: the leaf that is asked for, the sign that
#: the answer begins, and the centre said first, behind which the arms part.
PLACES = {"leaf": -2, "=": -1, "centre": 0}
#: Places at once: all of these, and wherever a node that is not the last has been said.
TOGETHER, ANSWER = "all three", "answer"
#: Whose residual stream is put in: of the same star asked for another leaf; the control, of another such star.
DONORS = ("other leaf", "other star")


def answered(model: Kernel, drawn: xr.Dataset) -> CleverHans:
    """What a model says of these graphs, greedily and by itself, beside what it says after true prefixes."""
    batch = batch_of(drawn)
    batch = batch.to(device_of(model, batch))
    said = complete(model, prompts_of(drawn).to(batch.device), drawn.path.shape[1], positions=batch.positions)
    return clever_hans(model, drawn, said, batch)


def plan_by_block(model: Hooked, drawn: xr.Dataset) -> xr.Dataset:
    """How well the nodes between centre and leaf can be read off the residual stream before they are said.

    A ridge classifier for each place, block and node is fitted on half of the graphs and scored on the other half.

    Parameters
    ----------
    model : Hooked
        Ours, or any with ``embed`` and ``blocks.i.resid_post``.
    drawn : xr.Dataset
        From :meth:`~nextlens.models.tasks.star_graph.StarGraph.draw`.

    Returns
    -------
    xr.Dataset
        ``accuracy`` (place, block, node): nodes are numbered along the path, the centre being 0; block 0 is the
        embedding. ``guess`` (node): the share that is right for whoever knows the graph but not the arm, 1 in as
        many as there are arms; ``chance``: 1 in as many as there are nodes.
    """
    start, path = answer_start(drawn), drawn.path.values
    seen = _residuals(model, drawn, _stream(model))
    nodes = range(1, path.shape[1] - 1)
    accuracy = [
        [[_held_out(one[:, start + shift], path[:, node]) for node in nodes] for one in seen]
        for shift in PLACES.values()
    ]
    n_nodes = int(path.max()) + 1
    return xr.Dataset(
        {
            "accuracy": (("place", "block", "node"), np.array(accuracy)),
            "guess": 1 / drawn.first_of_arm.shape[1],
            "chance": 1 / n_nodes,
        },
        coords={"place": list(PLACES), "block": np.arange(len(seen)), "node": list(nodes)},
    )


def swapped_plan(model: Hooked, drawn: xr.Dataset) -> xr.Dataset:
    """Where a model walks when its residual stream, at one place behind one block, is that of another question.

    The other question is the same star's, asked for another leaf, so that the prompts differ in the leaf alone. While
    the model answers greedily and by itself, what a block writes at a place is replaced by what it writes there when
    the other question is read: if a plan is held there, and the model goes by it, it walks to the other leaf.

    Parameters
    ----------
    model : Hooked
        As for :func:`plan_by_block`.
    drawn : xr.Dataset
        From :meth:`~nextlens.models.tasks.star_graph.StarGraph.draw`; two stars or more.

    Returns
    -------
    xr.Dataset
        Over ``donor`` (:data:`DONORS`), ``place`` (:data:`PLACES`, :data:`TOGETHER`, and :data:`ANSWER`, the centre and
        all nodes behind it but the last) and ``block`` (0 is the embedding):
        ``walks_to_other``, the share that says the whole way to the other leaf, ``walks_to_own``, and over ``node``
        too ``says_other`` and ``says_own``, the share that says there the node of either way. ``usually`` (way): the
        shares that say the whole way to either leaf of themselves, when it is asked for. The control's stream comes
        from a star that has nothing to do with this one: walks to the other leaf are then what disturbance makes.
    """
    other = asked_for_another_leaf(drawn)
    start, own, aim = answer_start(drawn), drawn.path.values, other.path.values
    sites = _stream(model)
    seen = _residuals(model, other, sites)
    places = {name: [start + shift] for name, shift in PLACES.items()}
    places |= {TOGETHER: [start + shift for shift in PLACES.values()]}
    places |= {ANSWER: list(range(start, start + own.shape[1] - 1))}

    def said_with(at: list[int], shift: int) -> list[Int[np.ndarray, "sequence node"]]:
        donors = zip(sites, (np.roll(one, shift, axis=0) for one in seen), strict=True)
        return [_said_with(model, drawn, site, at, donor) for site, donor in donors]

    said = np.array([[said_with(at, shift) for at in places.values()] for shift in range(len(DONORS))])
    axes, by_node = ("donor", "place", "block"), ("donor", "place", "block", "node")
    usual = [answered(model, one).solved for one in (drawn, other)]
    return xr.Dataset(
        {
            "walks_to_other": (axes, (said == aim).all(-1).mean(-1)),
            "walks_to_own": (axes, (said == own).all(-1).mean(-1)),
            "says_other": (by_node, (said == aim).mean(-2)[..., 1:]),
            "says_own": (by_node, (said == own).mean(-2)[..., 1:]),
            "usually": ("way", usual),
        },
        coords={
            "donor": list(DONORS),
            "place": list(places),
            "block": np.arange(len(sites)),
            "node": np.arange(1, own.shape[1]),
            "way": ["own", "other"],
        },
    )


def _said_with(
    model: Hooked, drawn: xr.Dataset, site: str, at: list[int], donor: Float[np.ndarray, "sequence time width"]
) -> Int[np.ndarray, "sequence node"]:
    """The way a model says while what passes through ``site`` at these positions is the donor's."""
    batch = batch_of(drawn)
    batch = batch.to(device_of(model, batch))
    states = torch.from_numpy(donor).to(batch.device)

    def put_in(value: torch.Tensor) -> torch.Tensor:
        read = [position for position in at if position < value.shape[1]]
        value = value.clone()
        value[:, read] = states[:, read]
        return value

    n_nodes = drawn.path.shape[1]
    prompts = prompts_of(drawn).to(batch.device)
    with model.edited(site, put_in):
        said = complete(model, prompts, n_nodes, positions=batch.positions, rows_at_once=len(prompts))
    return said.cpu().numpy()


def _stream(model: Hooked) -> list[str]:
    """The residual stream at its beginning and behind every block."""
    return ["hook_embed", *(site for site in model.sites if site.endswith("resid_post"))]


@torch.no_grad()
def _residuals(model: Hooked, drawn: xr.Dataset, sites: list[str]) -> list[Float[np.ndarray, "sequence time width"]]:
    batch = batch_of(drawn)
    batch = batch.to(device_of(model, batch))
    parts: list[list[np.ndarray]] = [[] for _ in sites]
    for start in range(0, len(batch), 500):
        with model.watched(*sites) as seen:
            model(batch[start : start + 500])
        for site, into in zip(sites, parts, strict=True):
            into.append(seen[site].cpu().numpy())
    return [np.concatenate(part) for part in parts]


def _held_out(X: Float[np.ndarray, "sequence width"], y: Int[np.ndarray, " sequence"]) -> float:
    half = len(y) // 2
    return float(RidgeClassifier(alpha=1.0).fit(X[:half], y[:half]).score(X[half:], y[half:]))
