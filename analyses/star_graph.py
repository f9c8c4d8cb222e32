"""Does a transformer plan its way through a star graph, and where in it does the plan form?"""

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
from nextlens.models.tasks.star_graph import CleverHans, clever_hans

#: Graphs on which plans are probed, half of them to fit.
PROBED = 4000
#: Where a plan is looked for, by how many positions before the answer: the leaf that is asked for, the sign that
#: the answer begins, and the centre said first, behind which the arms part.
PLACES = {"leaf": -2, "=": -1, "centre": 0}


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
    blocks = [site for site in model.sites if site.endswith("resid_post")]
    seen = _residuals(model, drawn, ["hook_embed", *blocks])
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
