"""Training as a stream: ``train`` yields, the caller watches, stops, probes or saves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import joblib
import torch
from torch import Tensor, nn

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.checkpoints import TrainingState
from nextlens.models.objectives.next_token import Objective, next_token, weighted_mean
from nextlens.models.weights import put_weights

Result = TypeVar("Result")
Optimiser = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
#: Step index -> what multiplies the learning rate at that step.
Schedule = Callable[[int], float]

#: Adam as PyTorch has it, in its fused form.
adam: Optimiser = partial(torch.optim.Adam, lr=1e-3, fused=True)


@dataclass(frozen=True)
class Step:
    """One update, just taken.

    Attributes
    ----------
    index : int
        Which update, from 0; a resumed run goes on counting.
    loss : float
        The weighted mean loss of the batch *before* the update, in nats.
    tokens : int
        Positions trained on so far, this step included.
    model : nn.Module
        The model being trained, updated in place.
    objective : callable
        What it is trained on.
    optimiser : torch.optim.Optimizer
    batches : iterable of Batch
        The source, just past this step's batch.
    """

    index: int
    loss: float
    tokens: int
    model: nn.Module
    objective: Objective
    optimiser: torch.optim.Optimizer
    batches: Iterable[Batch]

    def state(self) -> TrainingState:
        """A copy of all that the next step depends on, to save or to resume from; call it before that step."""
        head = self.objective.state_dict() if isinstance(self.objective, nn.Module) else {}
        return TrainingState(
            self.index,
            self.tokens,
            {name: value.detach().clone() for name, value in self.model.state_dict().items()},
            {name: value.detach().clone() for name, value in head.items()},
            _optimiser_tensors(self.optimiser),
            self.batches.state() if hasattr(self.batches, "state") else None,
            type(self.optimiser).__name__,
        )


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    steps: int | None = None,
    objective: Objective = next_token,
    optimiser: Optimiser = adam,
    schedule: Schedule | None = None,
    clip: float | None = None,
    resume: TrainingState | None = None,
) -> Iterator[Step]:
    """Take one step per batch, and yield after each.

    Parameters
    ----------
    model : nn.Module
        A ``Hooked`` kernel; trained in place, on its own device.
    batches : iterable of Batch
        A source with ``state()`` and ``restore(state)``, such as ``process.batches(...)``, makes the run
        exactly resumable; wrapped in ``itertools.islice`` it no longer is, so give ``steps``.
    steps : int, optional
        How many steps the whole run has, those before ``resume`` included; as many as there are
        batches if None.
    objective : callable, default=next_token
        ``(model, batch) -> loss per position``; reduced by ``weighted_mean`` with ``batch.weights``.
        If it is an ``nn.Module`` its parameters are trained too.
    optimiser : callable, default=adam
        Parameters -> ``torch.optim.Optimizer``, e.g. ``partial(torch.optim.SGD, lr=0.01)``.
    schedule : callable, optional
        Step index -> what multiplies the learning rate; see :func:`warmup_cosine`.
    clip : float, optional
        Largest norm of the whole gradient.
    resume : TrainingState, optional
        Where to go on from: weights, optimiser, step count and data stream are put back, and the
        steps that follow equal those of the run that was not interrupted, bit for bit on the CPU.

    Yields
    ------
    Step

    Raises
    ------
    ValueError
        If the loss is not finite (the step is not taken), if weights are all zero, or if ``resume``
        fits neither the model nor the source.

    Examples
    --------
    >>> for step in train(model, batches, steps=1000):            # doctest: +SKIP
    ...     if step.index % 100 == 0:
    ...         curve.append((step.tokens, step.loss))
    """
    if steps is not None:
        at_least("steps", steps, 0)
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip!r} must be above 0, or None for no clipping")
    head = list(objective.parameters()) if isinstance(objective, nn.Module) else []
    parameters = [p for p in [*model.parameters(), *head] if p.requires_grad]
    if not parameters:
        raise ValueError("model has no parameter that requires a gradient; there is nothing to train")
    stepper = optimiser(parameters)
    rates = [group["lr"] for group in stepper.param_groups]
    index, tokens = 0, 0
    if resume is not None:
        index, tokens = _put_back(resume, model, objective, stepper, batches), resume.tokens
    device = parameters[0].device
    source = iter(batches)
    while steps is None or index < steps:
        batch = next(source, None)
        if batch is None:
            return
        batch = batch if batch.device == device else batch.to(device)
        if schedule is not None:
            for group, rate in zip(stepper.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(index)
        loss = weighted_mean(objective(model, batch), batch.weights)
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"the loss is {value} at step {index}; a smaller learning rate or clip= may help")
        stepper.zero_grad(set_to_none=True)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        stepper.step()
        tokens += batch.tokens.numel()
        yield Step(index, value, tokens, model, objective, stepper, batches)
        index += 1


def warmup_cosine(steps: int, *, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Rise linearly over ``warmup`` steps, then fall along half a cosine to ``final`` at the last step.

    Raises
    ------
    ValueError
        If ``steps`` or ``warmup`` is out of range.

    Examples
    --------
    >>> schedule = warmup_cosine(100, warmup=10)
    >>> [round(schedule(i), 3) for i in (0, 9, 10, 55, 99)]
    [0.1, 1.0, 1.0, 0.491, 0.0]
    """
    at_least("steps", steps, 1)
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup={warmup} must lie in 0 .. steps - 1 = {steps - 1}")

    def factor(index: int) -> float:
        if index < warmup:
            return (index + 1) / warmup
        done = min(1.0, (index - warmup) / max(1, steps - 1 - warmup))
        return final + (1.0 - final) * (1.0 + math.cos(math.pi * done)) / 2.0

    return factor


def over_seeds(run: Callable[[int], Result], seeds: Sequence[int], *, n_jobs: int | None = None) -> list[Result]:
    """``[run(seed) for seed in seeds]``, one process a seed with one thread each, in the order of ``seeds``.

    Runs under whatever backend ``joblib.parallel_config`` names: processes here, or Dask workers.

    Parameters
    ----------
    run : callable
        Trains one model; must be picklable by cloudpickle.
    seeds : sequence of int
    n_jobs : int, optional
        How many at once; as many as there are processors if None. With 1, in this process.

    Raises
    ------
    ValueError
        If there is no seed, or one is given twice.
    """
    if len(set(seeds)) != len(seeds) or not len(seeds):
        raise ValueError(f"seeds={list(seeds)!r} must hold at least one seed, each once")
    n_jobs = min(len(seeds), joblib.cpu_count()) if n_jobs is None else n_jobs
    with warnings.catch_warnings():
        # A process that has grown large is replaced between two seeds; no work is lost by that.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
        return joblib.Parallel(n_jobs=n_jobs)(joblib.delayed(_on_one_thread)(run, seed) for seed in seeds)


def _on_one_thread(run: Callable[[int], Result], seed: int) -> Result:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(seed)
    finally:
        torch.set_num_threads(threads)


def _optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and counters as ``{"3.exp_avg": tensor}``, by the parameter's place."""
    return {
        f"{place}.{slot}": torch.as_tensor(value).detach().clone()
        for place, slots in optimiser.state_dict()["state"].items()
        for slot, value in slots.items()
        if value is not None
    }


def _put_back(
    state: TrainingState,
    model: nn.Module,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    batches: Iterable[Batch],
) -> int:
    """Restore everything; the index of the next step."""
    if state.optimiser_name != (given := type(optimiser).__name__):
        raise ValueError(f"resume was made by the optimiser {state.optimiser_name!r}; this one is {given!r}")
    head = objective if isinstance(objective, nn.Module) else nn.Module()
    try:
        put_weights(model, state.model)
        put_weights(head, state.objective)
    except ValueError as error:
        raise ValueError(f"resume was made by another model or objective: {error}") from error
    places: dict[int, dict[str, Tensor]] = {}
    for name, value in state.optimiser.items():
        place, _, slot = name.partition(".")
        places.setdefault(int(place), {})[slot] = value.clone()
    optimiser.load_state_dict({**optimiser.state_dict(), "state": places})
    if state.stream is not None:
        if not hasattr(batches, "restore"):
            raise ValueError("resume remembers where its data stood, but batches has no restore(state)")
        batches.restore(state.stream)
    return state.index + 1
