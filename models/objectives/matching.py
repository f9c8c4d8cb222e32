"""Distillation of a matcher: contexts shall be near where the teacher says the same next token after both."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nextlens.models.arguments import at_least, between, one_of
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.induction.matching_model import MatchingModel
from nextlens.models.induction.residual_head import ResidualHead
from nextlens.models.induction.retrieval import Retrieval, retrieval
from nextlens.models.induction.similarity import cosine_distance, half_jeffreys, jensen_shannon
from nextlens.models.kernel import Kernel


class Losses(NamedTuple):
    """In nats, one a query, not yet weighted against each other.

    With the student's ``d = (1 - cos) / temperature`` and the teacher's ``D``, each a row of distances to all keys:

    Attributes
    ----------
    nearest : Float[Tensor, "query"]
        ``-log softmax(-d)`` at the teacher's nearest key.
    reverse : Float[Tensor, "query"]
        ``KL( softmax(-d) || softmax(-D) )``.
    forward : Float[Tensor, "query"]
        ``KL( softmax(-D) || softmax(-d) )``.
    """

    nearest: Float[Tensor, " query"]
    reverse: Float[Tensor, " query"]
    forward: Float[Tensor, " query"]


def matching_losses(student: Float[Tensor, "query key"], teacher: Float[Tensor, "query key"]) -> Losses:
    """The three losses of arXiv:2411.00066, of a student's distances, over their temperature, and a teacher's."""
    said, wanted = (-student).log_softmax(-1), (-teacher).log_softmax(-1)
    return Losses(
        F.nll_loss(said, teacher.argmin(-1), reduction="none"),
        _divergence(said, wanted),
        _divergence(wanted, said),
    )


def _divergence(p: Float[Tensor, "query key"], q: Float[Tensor, "query key"]) -> Float[Tensor, " query"]:
    """``KL(p || q)`` of log-probabilities; what ``p`` forbids adds nothing."""
    return (p.exp() * (p - q)).masked_fill(p.isinf(), 0).sum(-1)


class Matching(nn.Module):
    """An objective: of the positions of a batch some are queries and others keys, drawn anew each time.

    The loss of a query is ``nearest + reverse * KL(student || teacher) + forward * KL(teacher || student)``; see
    :class:`Losses`. It stands at the query's position, scaled so that ``weighted_mean`` with the batch's weights is
    the weighted mean over queries; other positions have loss 0. Positions of weight 0 are neither. No
    gradient reaches the teacher, or, with a head, the model.

    The model that is trained is a :class:`~nextlens.models.induction.matching_model.MatchingModel`, on batches as
    long as its windows; or any ``Hooked`` one that stays as it is, with a head on one of its sites.

    Parameters
    ----------
    head : ResidualHead, optional
        None trains the model itself, which is a ``MatchingModel``.
    teacher : Kernel, optional
        Over any vocabulary that reads these tokens; on the device of the batches. None is the model itself.
    queries, keys : int
        Of each batch; no position is both.
    temperature : float
        The student's.
    reverse, forward : float
        Weights of the two divergences. As published 1 and 0; the published command has 1 and 1.
    distance : {"jeffreys", "jensen-shannon"}
        Between next-token laws of the teacher: half of Jeffreys's divergence, as published (under another name).
    teacher_temperature : float
        What the teacher's distances are divided by; below 1 for ``"jensen-shannon"``, whose are at most log 2.
    mass : float
        Below 1, laws are compared over their likeliest tokens of so much mass; see
        :func:`~nextlens.models.induction.similarity.half_jeffreys`.
    seed : int
        Of the draws. Their count is a buffer, saved and resumed with the head.

    Raises
    ------
    ValueError
        If a number is out of range, or both ``head`` and ``teacher`` are None.

    Examples
    --------
    >>> from nextlens.models.processes import mess3
    >>> from nextlens.models.training import train
    >>> from nextlens.models.transformer import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=8, n_ctx=10))
    >>> head = ResidualHead.for_model(model, "blocks.0.resid_post", n_out=4)
    >>> batches = mess3().batches(20, 9, np.random.default_rng(0), tree=False)
    >>> steps = train(model, batches, steps=2, objective=Matching(head, mess3(), queries=8, keys=32))
    >>> [step.index for step in steps]
    [0, 1]
    """

    def __init__(
        self,
        head: ResidualHead | None = None,
        teacher: Kernel | None = None,
        *,
        queries: int = 128,
        keys: int = 512,
        temperature: float = 0.1,
        reverse: float = 1.0,
        forward: float = 0.0,
        distance: str = "jeffreys",
        teacher_temperature: float = 1.0,
        mass: float = 1.0,
        seed: int = 0,
    ):
        super().__init__()
        if head is None and teacher is None:
            raise ValueError("head and teacher are both None; a matching model cannot teach itself")
        for name, value in (("temperature", temperature), ("teacher_temperature", teacher_temperature)):
            if not 0 < value < np.inf:
                raise ValueError(f"{name}={value!r} must be finite and above 0")
        self.head, self._teacher = head, (teacher,)  # in a tuple: no submodule, neither trained nor saved
        self.queries, self.keys = at_least("queries", queries, 1), at_least("keys", keys, 2)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.reverse, self.forward_weight = at_least("reverse", reverse, 0), at_least("forward", forward, 0)
        self.distance = one_of("distance", distance, ("jeffreys", "jensen-shannon"))
        self.mass, self.seed = between("mass", mass, 0, 1), at_least("seed", seed, 0)
        if mass < 1 and distance != "jeffreys":
            raise ValueError(f"mass={mass} goes with distance='jeffreys' only")
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))

    def forward(self, model: Hooked | MatchingModel, batch: Batch) -> Float[Tensor, "batch time"]:
        """The loss at every position.

        Raises
        ------
        ValueError
            If the batch has fewer positions of some weight than ``queries + keys``, ``model`` is no matching model
            and there is no head, the teacher's laws hold NaN, or no query has a finite loss.

        Warns
        -----
        UserWarning
            If queries have a loss that is not finite, and are left out: the teacher forbids after every key what
            it says after them.
        """
        return self.loss(self._features(model, batch), self._laws(model, batch), batch)

    def loss(
        self,
        features: Float[Tensor, "batch time feature"],
        laws: Float[Tensor, "batch time teacher_token"],
        batch: Batch,
    ) -> Float[Tensor, "batch time"]:
        """The loss at every position, of features of the student and next-token laws of the teacher.

        Raises
        ------
        ValueError
            As ``forward``.
        """
        query, key = self._draw(batch)
        student, teacher = self._distances(features, laws, query, key)
        sound = self._sound(teacher)
        query, losses = query[sound], matching_losses(student[sound], teacher[sound])
        loss = losses.nearest
        for weight, divergence in ((self.reverse, losses.reverse), (self.forward_weight, losses.forward)):
            loss = loss + weight * divergence if weight else loss
        weights = batch.weights.flatten()
        scale = weights.abs().sum() / weights[query].abs().sum()
        whole = torch.zeros_like(weights, dtype=loss.dtype)
        return whole.index_put((query,), scale * loss).view(batch.weights.shape)

    @torch.no_grad()
    def scores(self, model: Hooked | MatchingModel, batch: Batch) -> Retrieval:
        """Recall, reciprocal rank and rank correlation on one batch; with other draws than the last call's.

        Raises
        ------
        ValueError
            As ``forward``.
        """
        return self.retrieval(self._features(model, batch), self._laws(model, batch), batch)

    @torch.no_grad()
    def retrieval(
        self,
        features: Float[Tensor, "batch time feature"],
        laws: Float[Tensor, "batch time teacher_token"],
        batch: Batch,
    ) -> Retrieval:
        """What ``scores`` says, of features of the student and next-token laws of the teacher.

        Raises
        ------
        ValueError
            As ``forward``.
        """
        student, teacher = self._distances(features, laws, *self._draw(batch))
        return retrieval(student.double().cpu().numpy(), teacher.double().cpu().numpy())

    def _draw(self, batch: Batch) -> tuple[Int[Tensor, " query"], Int[Tensor, " key"]]:
        """Positions of the flattened batch."""
        pool = np.flatnonzero(batch.weights.cpu().numpy())
        wanted = self.queries + self.keys
        if len(pool) < wanted:
            raise ValueError(
                f"the batch has {len(pool)} positions of some weight, and queries={self.queries} with "
                f"keys={self.keys} need {wanted}"
            )
        rng = np.random.default_rng([self.seed, int(self.drawn)])
        self.drawn += 1
        chosen = torch.from_numpy(rng.choice(pool, wanted, replace=False)).to(batch.device)
        return chosen[: self.queries], chosen[self.queries :]

    def _sound(self, teacher: Float[Tensor, "query key"]) -> Bool[Tensor, " query"]:
        """Queries whose loss is finite: an infinite distance makes the reverse divergence so."""
        finite = teacher.isfinite()
        sound = finite.all(-1) if self.reverse else finite.any(-1)
        if not sound.any():
            raise ValueError(
                f"none of {len(sound)} queries has a finite loss, since the teacher forbids after keys what it says "
                "after queries; distance='jensen-shannon' is always finite, and reverse=0 asks for less"
            )
        if not sound.all():
            warnings.warn(
                f"{int((~sound).sum())} of {len(sound)} queries have a loss that is not finite and are left out",
                stacklevel=3,
            )
        return sound

    def _features(self, model: Hooked | MatchingModel, batch: Batch) -> Float[Tensor, "batch time feature"]:
        if self.head is not None:
            return self.head(model, batch)
        if not isinstance(model, MatchingModel):
            raise ValueError(f"model is a {type(model).__name__} and there is no head; give one, or a MatchingModel")
        return model(batch)

    @torch.no_grad()
    def _laws(self, model: Hooked | MatchingModel, batch: Batch) -> Float[Tensor, "batch time teacher_token"]:
        return (self._teacher[0] or model).log_probs(batch)

    def _distances(
        self,
        features: Float[Tensor, "batch time feature"],
        laws: Float[Tensor, "batch time teacher_token"],
        query: Int[Tensor, " query"],
        key: Int[Tensor, " key"],
    ) -> tuple[Float[Tensor, "query key"], Float[Tensor, "query key"]]:
        """The student's and the teacher's, each over its temperature."""
        features, laws = features.flatten(0, 1), laws.detach().flatten(0, 1)
        of_queries, of_keys = laws[query], laws[key]
        if of_queries.isnan().any() or of_keys.isnan().any():
            raise ValueError("the teacher's log-probabilities hold NaN")
        if self.distance == "jensen-shannon":
            teacher = jensen_shannon(of_queries, of_keys)
        else:
            teacher = half_jeffreys(of_queries, of_keys, mass=self.mass)
        student = cosine_distance(features[query], features[key]) / self.temperature
        return student, (teacher / self.teacher_temperature).to(student.device, student.dtype)
