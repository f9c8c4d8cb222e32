"""Attention-only transformers trained on repeated random tokens, and followed through the phase change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int, Num
from numpy.typing import ArrayLike

from nextlens.analyses.head_ablation import head_ablation
from nextlens.analyses.induction_heads import head_scores, in_context_gain, in_context_score, loss_by_position
from nextlens.analyses.model_training import Training, notes_of, training_steps
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.models import checkpoints
from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked
from nextlens.models.recording import surprisal
from nextlens.models.tasks import RepeatedTokens
from nextlens.models.transformer import TransformerConfig

#: How many moments of training are looked at, the first step and the last among them.
MOMENTS = 36
#: Sequences on which a loss is measured: on the way, and at the end.
FOLLOWED, MEASURED = 128, 512
#: Tokens of the block by which heads are scored, said twice; fewer if the context is shorter.
BLOCK = 24


@dataclass(frozen=True)
class InductionRecipe(WrittenRecipe):
    """All that decides the numbers of a run, and nothing else: JSON-able, compared by value.

    Each seed trains a transformer of two layers of attention, and its control of one layer, on a block of
    random tokens said again and again (:class:`~nextlens.models.tasks.RepeatedTokens`).

    Parameters
    ----------
    n_tokens, shortest, longest : int
        Of the task: the vocabulary, and between which lengths the block varies.
    n_ctx : int
        Tokens read; beyond ``longest``, so that there is something to repeat.
    n_heads, d_model, d_head : int
        Of each layer. No layer has an MLP.
    positions : str
        See :class:`~nextlens.models.transformer.TransformerConfig`.
    steps, batch_size : int
        Steps of Adam, and sequences in each batch.
    learning_rate : float
        The largest: it rises over a tenth of the steps, at most 100, then falls along half a cosine to 0.
    seeds : tuple of int
        Each decides the first weights and the data of one transformer and its control.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    n_tokens: int = 32
    shortest: int = 8
    longest: int = 32
    n_ctx: int = 64
    n_heads: int = 4
    d_model: int = 64
    d_head: int = 16
    positions: str = "learned"
    steps: int = 500
    batch_size: int = 64
    learning_rate: float = 1e-2
    seeds: tuple[int, ...] = (0, 1, 2, 3)

    def __post_init__(self) -> None:
        for name, minimum in (("steps", 2), ("batch_size", 1), ("shortest", 2), ("n_ctx", self.longest + 1)):
            at_least(name, getattr(self, name), minimum)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate!r} must be finite and above 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={self.seeds!r} must hold at least one seed, each once, none below 0")
        for n_layers in (1, 2):
            self.training(self.seeds[0], n_layers)

    @property
    def task(self) -> RepeatedTokens:
        return RepeatedTokens(self.n_tokens, shortest=self.shortest, longest=self.longest)

    @property
    def block(self) -> int:
        """Tokens that are said twice where heads are scored."""
        return min(BLOCK, self.n_ctx // 2)

    def training(self, seed: int, n_layers: int) -> Training:
        """The training of one transformer."""
        config = TransformerConfig(
            n_tokens=self.n_tokens,
            n_layers=n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            d_head=self.d_head,
            d_mlp=0,
            n_ctx=self.n_ctx,
            positions=self.positions,
            seed=seed,
        )
        name = f"layers-{n_layers}-seed-{seed}"
        return Training(name, self.task, config, self.steps, self.batch_size, self.learning_rate)

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating("nextlens induction", self, InductionRecipe)


class InductionSeed(NamedTuple):
    """One transformer, trained and measured.

    Attributes
    ----------
    curve : Dataset
        Over ``step``: ``loss`` (step, target), in nats; ``gain`` and ``in_context_score``, the in-context gain and
        the in-context score of Olsson et al.; ``heads`` (step, score, layer, head).
    scores : Dataset
        Of :func:`head_scores` at the end; ``untrained``, of the same model with its first weights.
    ablation : Dataset
        Of :func:`head_ablation`.
    cpu_seconds : float
        Of training and following, resumed stretches included.
    """

    curve: xr.Dataset
    scores: xr.Dataset
    untrained: xr.Dataset
    ablation: xr.Dataset
    cpu_seconds: float


def train_and_measure(
    recipe: InductionRecipe,
    seed: int,
    n_layers: int,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
) -> InductionSeed:
    """Train one transformer, follow it, then score its heads and ablate those found.

    Losses, means of ablated heads and scores are each of sequences drawn apart from one another and from
    those of the training.

    Raises
    ------
    ValueError
        If ``resume`` finds a checkpoint of another recipe.
    """
    training, task = recipe.training(seed, n_layers), recipe.task
    path, due = training.path(folder), set(moments(recipe.steps).tolist())
    followed = task.sample(FOLLOWED, recipe.n_ctx + 1, np.random.default_rng(2))
    notes: dict[str, Any] = {"curve": []}
    if not (resume and path.exists()):
        notes["curve"].append(_moment(training.model().to(device), 0, followed, recipe.block))
    made_by = {**recipe.as_json(), "seeds": [seed], "n_layers": n_layers}
    for step in training_steps(training, path, notes, recipe=made_by, resume=resume, device=device, report=report):
        if step.index + 1 in due:
            notes["curve"].append(_moment(step.model, step.index + 1, followed, recipe.block))
    model = checkpoints.load(path, device=device)
    scores, untrained = (
        head_scores(one, block=recipe.block, n_sequences=32, rng=np.random.default_rng(4))
        for one in (model, model.untrained())
    )
    rng = np.random.default_rng([seed, 3])
    tokens, reference = (task.sample(MEASURED, recipe.n_ctx + 1, rng) for _ in range(2))
    ablation = head_ablation(model, task, scores, tokens, reference, rng=rng)
    found = notes_of(path)
    return InductionSeed(_curve(found["curve"], scores, task), scores, untrained, ablation, float(found["cpu"]))


def moments(steps: int) -> Int[np.ndarray, " moment"]:
    """Steps after which a run is looked at, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, at_least("steps", steps, 1), MOMENTS).round().astype(int))


def best_loss(task: RepeatedTokens, tokens: Int[np.ndarray, "sequence position"]) -> Float[np.ndarray, " target"]:
    """What no model can go below, on average over these sequences: nats at each position."""
    return surprisal(task, Batch.from_tokens(tokens)).mean("sequence").values * math.log(2)


def phase_change(steps: ArrayLike, gain: ArrayLike, possible: float) -> dict[str, float] | None:
    """When the in-context gain passed from a quarter to three quarters of what is possible; None if it never did.

    Returns
    -------
    dict, optional
        ``step`` at which half was passed, and the ``width`` between the quarters, both interpolated between
        the moments of measuring.

    Examples
    --------
    >>> phase_change([0, 10, 20, 30], [0.0, 0.0, 2.0, 2.0], possible=2.0)
    {'step': 15.0, 'width': 5.0}
    >>> phase_change([0, 10], [0.0, 0.9], possible=2.0) is None
    True
    """
    at = [_first_at(np.asarray(steps), np.asarray(gain), share * possible) for share in (0.25, 0.5, 0.75)]
    if at[-1] is None:
        return None
    return {"step": at[1], "width": at[2] - at[0]}


def _first_at(steps: Num[np.ndarray, " moment"], values: Float[np.ndarray, " moment"], level: float) -> float | None:
    i = int(np.argmax(values >= level))
    if values[i] < level:
        return None
    return float(np.interp(level, values[i - 1 : i + 1], steps[i - 1 : i + 1]) if i else steps[0])


def _moment(model: Hooked, step: int, tokens: Int[np.ndarray, "sequence position"], block: int) -> dict[str, Any]:
    scores = head_scores(model, block=block, n_sequences=8, rng=np.random.default_rng(5))
    return {"step": step, "loss": loss_by_position(model, tokens).tolist(), "heads": scores.value.values.tolist()}


def _curve(found: Sequence[Mapping[str, Any]], scores: xr.Dataset, task: RepeatedTokens) -> xr.Dataset:
    loss = np.array([moment["loss"] for moment in found])
    return xr.Dataset(
        {
            "loss": (("step", "target"), loss, {"units": "nat"}),
            "gain": ("step", [in_context_gain(row, task) for row in loss], {"units": "nat"}),
            "in_context_score": ("step", [in_context_score(row) for row in loss], {"units": "nat"}),
            "heads": (("step", *scores.value.dims), np.array([moment["heads"] for moment in found])),
        },
        coords={"step": [moment["step"] for moment in found], **{d: scores[d].values for d in scores.value.dims}},
    )
