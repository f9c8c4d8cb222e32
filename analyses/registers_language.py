"""Registers in a language model that is there already: low-rank adapters, and one vector more."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch
from nextlens.models.bridge import Bridged
from nextlens.models.checkpoints import load
from nextlens.models.hooked import Hooked
from nextlens.models.objectives.next_token import cross_entropy
from nextlens.models.objectives.registers import WithRegisters, interleave_registers
from nextlens.models.tasks.corpus import Corpus
from nextlens.models.texts import read_texts
from nextlens.models.training import Step, train

INSTALL = "pip install peft"
#: Which linear maps get an adapter unless told otherwise: those of attention, by their names in Llama's family.
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")


def adapted(model: Bridged, *, rank: int = 8, maps: Sequence[str] = ADAPTED, seed: int = 0) -> Bridged:
    """The model with low-rank adapters, by ``peft``, put in place: they alone are trained, and begin as nothing.

    ``W x`` becomes ``W x + 2 B A x`` with ``A`` of ``rank`` rows and ``B = 0`` (LoRA, arXiv:2106.09685).

    Parameters
    ----------
    model : Bridged
        Of a Hugging Face checkpoint.
    rank : int, default=8
    maps : sequence of str
        The last names of the linear maps.
    seed : int
        Of ``A``; no global state is touched.

    Raises
    ------
    ImportError
        If ``peft`` is not installed, with the command that installs it.
    ValueError
        If ``rank`` is below 1, or the model has no such map.
    """
    at_least("rank", rank, 1)
    if importlib.util.find_spec("peft") is None:
        raise ImportError(f"low-rank adapters need peft: {INSTALL}")
    from peft import LoraConfig, inject_adapter_in_model

    ends = "|".join(map(re.escape, maps))
    pattern = rf".*\.({ends})\._original_component"
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not any(re.fullmatch(pattern, name) for name in linear):
        raise ValueError(f"maps={list(maps)!r} are no linear maps of this model")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, bias="none", target_modules=pattern)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    return model


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """While open, the model is what it was before any adapter."""
    from peft.tuners.lora import LoraLayer

    layers = [part for part in model.modules() if isinstance(part, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


class RegisterVector(nn.Module):
    """Next-token cross-entropy of batches with registers, whose embedding is a vector of this objective.

    So the vocabulary stays as it is: in the batch a register is written as a token that no text holds, and what stands
    for it is put in at ``hook_embed``. ``width`` numbers more are trained, and are saved as an objective's head is.

    Parameters
    ----------
    model : Hooked
        Its mean embedding is the first value.
    register : int
        The token that registers are written as.

    Raises
    ------
    ValueError
        If the register is no token of the model.
    """

    def __init__(self, model: Hooked, register: int) -> None:
        super().__init__()
        if not 0 <= register < model.n_tokens:
            raise ValueError(f"register={register} must be a token of the model, 0 .. {model.n_tokens - 1}")
        self.register = register
        some = torch.arange(0, model.n_tokens, max(1, model.n_tokens // 512))[None]
        chunks = [Batch.from_tokens(torch.cat([part, part[:, :1]], 1)) for part in some.split(64, dim=1)]
        with torch.no_grad(), model.watched("hook_embed") as seen:
            found = []
            for chunk in chunks:
                model(chunk)
                found.append(seen["hook_embed"][0])
        self.vector = nn.Parameter(torch.cat(found).mean(0))

    def forward(self, model: Hooked, batch: Batch) -> Float[Tensor, "batch time"]:
        """What each position costs, in nats."""
        here = (batch.tokens == self.register)[..., None]
        with model.edited("hook_embed", lambda value: torch.where(here, self.vector.to(value.dtype), value)):
            logits = model(batch)
        return cross_entropy(logits, batch.targets)


def unused_token(corpus: Corpus, n_tokens: int) -> int:
    """The highest token that no document holds.

    Raises
    ------
    ValueError
        If every token occurs.
    """
    seen = np.zeros(n_tokens, dtype=bool)
    for document in corpus.documents:
        seen[document] = True
    if seen.all():
        raise ValueError(f"every one of the {n_tokens} tokens occurs in the texts; a register needs one that does not")
    return int(np.flatnonzero(~seen)[-1])


def tuning_steps(
    model: Hooked,
    corpus: Corpus,
    register: int,
    *,
    steps: int,
    ahead: int = 4,
    share: float = 0.3,
    batch_size: int = 1,
    length: int = 64,
    learning_rate: float = 5e-4,
    seed: int = 0,
) -> Iterator[Step]:
    """Fine-tune whatever of the model is trainable, and the register's vector, on windows of text.

    With ``share=0`` the same windows are read, in the same order, without registers: the control.

    Yields
    ------
    Step
        Its ``objective`` is the :class:`RegisterVector`.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    plain = corpus.batches(batch_size, length + 1, np.random.default_rng([seed, 1]))
    how = {"register": register, "ahead": ahead, "weight": share, "rng": np.random.default_rng([seed, 2])}
    optimiser = partial(torch.optim.AdamW, lr=learning_rate, weight_decay=0.0)
    rise = max(1, steps // 10)
    yield from train(
        model,
        WithRegisters(plain, **how),
        steps=steps,
        objective=RegisterVector(model, register),
        optimiser=optimiser,
        schedule=lambda step: min((step + 1) / rise, (steps - step) / (steps - rise + 1)),
        clip=1.0,
    )


@torch.no_grad()
def losses(model: Hooked, objective: RegisterVector, batches: Iterable[Batch], *, ahead: int) -> dict[str, list[float]]:
    """Mean cost in nats of the next token, and of a register for each offset, on plain batches.

    Returns
    -------
    dict
        ``next_token``: one number; ``registers``: one for each offset from 1; ``next_token_by_batch``: one for each
        batch, so that two trainings can be compared batch by batch.
    """
    found: list[list[float]] = []
    for plain in batches:
        of_tokens = cross_entropy(model(plain), plain.targets)
        row = [float(of_tokens.mean())]
        for d in range(1, ahead + 1):
            asked = torch.full_like(plain.tokens, d)
            batch = interleave_registers(plain, register=objective.register, ahead=asked, weight=0.5)
            at = batch.tokens == objective.register
            row.append(float(objective(model, batch)[at].mean()))
        found.append(row)
    mean = np.mean(found, axis=0).tolist()
    return {"next_token": mean[:1], "registers": mean[1:], "next_token_by_batch": [row[0] for row in found]}


@torch.no_grad()
def touch(model: Hooked, plain: Batch, register: int, ahead: int) -> float:
    """The largest difference that registers make to the logits of the tokens they stand among."""
    batch = interleave_registers(plain, register=register, ahead=torch.full_like(plain.tokens, ahead), weight=0.5)
    among = model(batch)[:, batch.tokens[0] != register]
    return float((among - model(plain)).abs().max())


def fine_tune(
    texts: str | os.PathLike[str],
    *,
    steps: int = 150,
    length: int = 64,
    ahead: int = 4,
    share: float = 0.3,
    rank: int = 8,
    model: str = "smollm2-135m",
    seed: int = 0,
    held_out: int = 8,
) -> dict[str, Any]:
    """Fine-tune a checkpoint with registers on a folder of texts, and say what came of it.

    Parameters
    ----------
    texts : path
        Of two texts or more; the last is held out.
    steps, length, ahead, rank, seed : int
        Of the training; ``length`` tokens are read, one sequence a step.
    share : float, default=0.3
        Of registers in the loss; at 0 there are none, which is the control.
    model : str
        For :func:`~nextlens.models.checkpoints.load`.
    held_out : int
        Sequences of the held-out text.

    Returns
    -------
    dict
        ``loss``: of training, means of tenths of the steps; ``before`` and ``after``: of :func:`losses`, on the text
        held out; ``trained``: how many numbers; ``plain_is_unchanged``: whether without adapters the logits are those
        of before, bit for bit; ``registers_touch``: of :func:`touch`; ``cpu_seconds_a_step`` and ``peak_memory_mb``,
        that of the process.

    Raises
    ------
    ImportError
        If ``peft`` is not installed.
    ValueError
        If there are fewer than two texts.
    """
    by_name = read_texts(Path(texts))
    if len(by_name) < 2:
        raise ValueError(f"texts={str(texts)!r} holds {len(by_name)} texts; it must hold one to train on and one apart")
    found = load(model)
    corpus, last = Corpus.from_texts(by_name, found.vocabulary), list(by_name)[-1]
    register = unused_token(corpus, found.n_tokens)
    apart = list(islice(corpus.named(last).batches(1, length + 1, np.random.default_rng(7)), held_out))
    with torch.no_grad():
        was = found(apart[0])
    adapted(found, rank=rank, seed=seed)
    before = losses(found, RegisterVector(found, register), apart, ahead=ahead)
    how = {"steps": steps, "ahead": ahead, "share": share, "length": length, "seed": seed}
    curve, started = [], time.process_time()
    for step in tuning_steps(found, corpus.without(last), register, **how):
        curve.append(step.loss)
    spent = (time.process_time() - started) / steps
    with without_adapters(found), torch.no_grad():
        unchanged = bool(torch.equal(found(apart[0]), was))
    weights = [*found.parameters(), *step.objective.parameters()]
    return {
        "loss": [float(part.mean()) for part in np.array_split(np.array(curve), min(10, steps))],
        "before": before,
        "after": losses(found, step.objective, apart, ahead=ahead),
        "trained": sum(weight.numel() for weight in weights if weight.requires_grad),
        "plain_is_unchanged": unchanged,
        "registers_touch": touch(found, apart[0], register, ahead),
        "cpu_seconds_a_step": spent,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **how,
        "held_out": last,
    }
