"""The path-star task: find the way from the centre to a named leaf, where a next-token learner cheats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least, one_of
from nextlens.models.batch import Batch
from nextlens.models.kernel import Kernel
from nextlens.models.tasks.prompted import PromptedTask, answer_start, labelled


@dataclass(frozen=True)
class StarGraph(PromptedTask):
    """Edges of a star in random order, its centre, one of its leaves, and the path between them.

    ``n_arms`` disjoint arms of ``arm_length`` nodes, the centre counted in each (G(n_arms, arm_length));
    the nodes are drawn anew for every sequence from ``0 .. n_nodes - 1``. The path is determined, but its
    second node can be known only by following the edges back from the leaf: each later one has a single
    edge to be copied, so that a model trained on true prefixes learns the copying and guesses the arm
    (Bachmann and Nagarajan 2024, arXiv:2403.06963).

    Parameters
    ----------
    n_arms, arm_length : int, default=2, 4
    n_nodes : int, default=10
    layout : {"edges", "coupled"}
        ``edges``: ``u v | u v | .. / centre leaf = path``. ``coupled``: ``u v u v .. centre leaf = path``,
        the ends of an edge sharing one position, which a model need not find out then.

    Raises
    ------
    ValueError
        If there are too few nodes, or a number is too small.

    Examples
    --------
    >>> task = StarGraph()
    >>> print(task.spelled(task.draw(1, np.random.default_rng(0)).tokens.values[0]))
    4 3|2 7|4 6|5 9|3 5|6 2/4 7=4 6 2 7
    """

    n_arms: int = 2
    arm_length: int = 4
    n_nodes: int = 10
    layout: str = "edges"

    def __post_init__(self) -> None:
        at_least("n_arms", self.n_arms, 2)
        at_least("arm_length", self.arm_length, 2)
        one_of("layout", self.layout, ("edges", "coupled"))
        needed = self.n_arms * (self.arm_length - 1) + 1
        if self.n_nodes < needed:
            raise ValueError(
                f"n_nodes={self.n_nodes} is too few: {self.n_arms} arms of {self.arm_length} have {needed}"
            )

    @property
    def n_tokens(self) -> int:
        return self.n_nodes + 3

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        edges = self.n_arms * (self.arm_length - 1)
        return (3 * edges if self.layout == "edges" else 2 * edges) + 3 + self.arm_length

    def draw(self, n_sequences: int, rng: np.random.Generator) -> xr.Dataset:
        """See :meth:`PromptedTask.draw`; latents ``path`` (sequence, node) and ``first_of_arm`` (sequence, arm).

        The second node of the path is among ``first_of_arm``, the nodes next to the centre.
        """
        at_least("n_sequences", n_sequences, 1)
        inner = self.arm_length - 1
        nodes = rng.permuted(np.tile(np.arange(self.n_nodes), (n_sequences, 1)), axis=1)
        centre = nodes[:, 0]
        arms = nodes[:, 1 : 1 + self.n_arms * inner].reshape(n_sequences, self.n_arms, inner)
        ways = np.concatenate([np.broadcast_to(centre[:, None, None], (n_sequences, self.n_arms, 1)), arms], axis=2)
        edges = np.stack([ways[:, :, :-1], ways[:, :, 1:]], axis=-1).reshape(n_sequences, -1, 2)
        shuffled = rng.permuted(np.tile(np.arange(edges.shape[1]), (n_sequences, 1)), axis=1)
        edges = np.take_along_axis(edges, shuffled[:, :, None], axis=1)
        path = ways[:, 0]
        tokens, positions = self._laid_out(edges, path)
        answer = np.broadcast_to(np.arange(self.length) >= self.length - self.arm_length, tokens.shape)
        return labelled(
            tokens,
            np.broadcast_to(positions, tokens.shape),
            answer,
            path=(("sequence", "node"), path),
            first_of_arm=(("sequence", "arm"), arms[:, :, 0]),
        )

    def spelled(self, tokens: Int[np.ndarray, " time"]) -> str:
        """Nodes as numbers, ``|`` between edges, ``/`` before the question, ``=`` before the path."""
        marks = {self.n_nodes: "|", self.n_nodes + 1: "/", self.n_nodes + 2: "="}
        words = [marks.get(int(token), f" {token}") for token in tokens]
        text = "".join(words)
        for mark in marks.values():
            text = text.replace(f"{mark} ", mark)
        return text.strip()

    def _laid_out(
        self, edges: Int[np.ndarray, "sequence edge two"], path: Int[np.ndarray, "sequence node"]
    ) -> tuple[Int[np.ndarray, "sequence position"], Int[np.ndarray, " position"]]:
        n, n_edges, _ = edges.shape
        bar, slash, equals = (np.full((n, 1), self.n_nodes + i) for i in range(3))
        question = np.concatenate([path[:, :1], path[:, -1:], equals, path], axis=1)
        if self.layout == "coupled":
            tokens = np.concatenate([edges.reshape(n, -1), question], axis=1)
            places = np.concatenate([np.repeat(np.arange(n_edges), 2), n_edges + np.arange(question.shape[1])])
            return tokens, places
        with_bars = np.concatenate([edges, np.broadcast_to(bar[:, None], (n, n_edges, 1))], axis=2).reshape(n, -1)
        return np.concatenate([with_bars[:, :-1], slash, question], axis=1), np.arange(self.length)


@dataclass(frozen=True)
class CleverHans:
    """How a model fares on the path, with and without being told the truth on the way.

    Attributes
    ----------
    solved : float
        The share of paths said right, each token following the model's own.
    by_token : Float[np.ndarray, "node"]
        The share of right tokens when the true ones precede: the cheat shows as 1 everywhere but at the
        second node, which is right once in ``n_arms``.
    on_an_arm : float
        The share whose own second node begins some arm, right or not.
    follows_its_arm : float
        The share that then follows the arm which it chose to its end.
    """

    solved: float
    by_token: Float[np.ndarray, " node"]
    on_an_arm: float
    follows_its_arm: float


@torch.no_grad()
def clever_hans(
    model: Kernel,
    drawn: xr.Dataset,
    said: Int[torch.Tensor, "sequence node"],
    batch: Batch,
) -> CleverHans:
    """Score what was said (see :func:`~nextlens.models.decoding.complete`) and what is said after true prefixes.

    Parameters
    ----------
    model : Kernel
    drawn : xr.Dataset
        From :meth:`StarGraph.draw`.
    said : Int[Tensor, "sequence node"]
        The model's own path.
    batch : Batch
        ``batch_of(drawn)``.
    """
    start, path = answer_start(drawn), drawn.path.values
    n_nodes = path.shape[1]
    told = model.log_probs(batch)[:, start - 1 : start - 1 + n_nodes].argmax(-1).cpu().numpy()
    own = said.cpu().numpy()
    follower = _follower(drawn, start, model.n_tokens)
    second = own[:, 1]
    on_an_arm = (drawn.first_of_arm.values == second[:, None]).any(1)
    follows = on_an_arm.copy()
    for node in range(2, n_nodes):
        follows &= own[:, node] == follower[np.arange(len(own)), own[:, node - 1]]
    return CleverHans(
        float((own == path).all(1).mean()),
        (told == path).mean(0),
        float(on_an_arm.mean()),
        float(follows[on_an_arm].mean()) if on_an_arm.any() else 0.0,
    )


def asked_for_another_leaf(drawn: xr.Dataset) -> xr.Dataset:
    """The same stars, edge by edge, each asked for the way to the leaf of its next arm.

    So prompts differ in one token, the leaf, and answers behind the centre in every node.

    Parameters
    ----------
    drawn : xr.Dataset
        From :meth:`StarGraph.draw`.
    """
    start, first = answer_start(drawn), np.roll(drawn.first_of_arm.values, -1, axis=1)
    follower = _follower(drawn, start, int(drawn.tokens.max()) + 1)
    path = drawn.path.values.copy()
    path[:, 1] = first[:, 0]
    for node in range(2, path.shape[1]):
        path[:, node] = follower[np.arange(len(path)), path[:, node - 1]]
    tokens = drawn.tokens.values.copy()
    tokens[:, start - 2], tokens[:, start:] = path[:, -1], path
    return drawn.assign(
        tokens=drawn.tokens.copy(data=tokens),
        path=drawn.path.copy(data=path),
        first_of_arm=drawn.first_of_arm.copy(data=first),
    )


def _follower(drawn: xr.Dataset, start: int, n_tokens: int) -> Int[np.ndarray, "sequence node"]:
    """What each node's outgoing edge leads to, read off the prompt; the centre's is one of several."""
    tokens = drawn.tokens.values[:, :start]
    places = drawn.positions.values[:, :start]
    n = len(tokens)
    follower = np.full((n, n_tokens), -1)
    step = 2 if places[0, 0] == places[0, 1] else 3
    for edge in range((start - 3) // step):
        follower[np.arange(n), tokens[:, step * edge]] = tokens[:, step * edge + 1]
    return follower
