"""Kernels side by side as a job: made or loaded, read, measured in every way, drawn and written down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from nextlens.analyses.compare_figures import draw
from nextlens.analyses.compare_kernels import MAPS, Made
from nextlens.analyses.compare_numbers import sum_up
from nextlens.analyses.compare_recipe import CompareRecipe
from nextlens.analyses.formulation import accuracy, calibration, deployed, drift, rows_of
from nextlens.analyses.formulation_costs import cost, latency
from nextlens.analyses.formulation_edits import LEAST_WORDS, text_edits
from nextlens.analyses.formulation_memory import (
    exact_error,
    exact_influence,
    exact_memory,
    sampled_edits,
    sampled_influence,
    sampled_memory,
)
from nextlens.analyses.language_recipe import kind_of
from nextlens.analyses.model_training import Source, progress_bar, steps_done, training_steps
from nextlens.analyses.results_folder import NUMBERS, begin, write_json
from nextlens.analyses.self_similarity_sources import MADE_HERE, Domain, domain, stretches
from nextlens.models import checkpoints
from nextlens.models.byte_pairs import train_byte_pairs
from nextlens.models.kernel import Kernel
from nextlens.models.processes.information import excess_entropy
from nextlens.models.tasks.corpus import Corpus
from nextlens.models.vocabulary import Bytes, Vocabulary

#: Tokens that a kernel says by itself after each prompt, at most.
SAID = 16
#: Sequences of texts on which deployment is looked at.
DEPLOYED = 8
#: Positions at whose end the loss gap is measured, and tokens that influence is sampled on.
LAST, PAST = 4, 64


def run(
    recipe: CompareRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Lay kernels side by side: accuracy, calibration, memory, influence, cost, and what deployment does.

    Writes ``memory``, ``influence``, ``cost``, ``flops``, ``numbers.json``, and the transformer where one is trained.

    Parameters
    ----------
    recipe : CompareRecipe
    folder : path
        Made if need be; results of a finished run of the same recipe in it are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``: the transformer is trained on, what follows is done anew.
    device : str, default="cpu"
    n_jobs : int, optional
        Not used: kernels are read one after another.
    progress : bool, default=False

    Returns
    -------
    dict
        What is written as ``numbers.json``.

    Raises
    ------
    OSError
        If nothing can be written into ``folder``; before any work is done.
    ValueError
        If ``folder`` holds what would be lost, or cannot be gone on with; also as the measures do.
    """
    place = begin(folder, recipe.as_json(), resume=resume)
    one = _on_texts if recipe.texts else _on_a_process
    found = {
        seed: one(recipe, seed, partial(_trained, recipe, place, seed, resume, device, progress))
        for seed in recipe.seeds
    }
    numbers = sum_up(recipe, found)
    draw(numbers, place)
    write_json(place / NUMBERS, numbers)
    return numbers


def _trained(
    recipe: CompareRecipe, place: Path, seed: int, resume: bool, device: str, progress: bool, source: Source
) -> Kernel:
    training = recipe.training(source, seed)
    path = training.path(place)
    behind = [steps_done(path) if resume else 0]
    with progress_bar(place, behind, recipe.steps, show=progress) as report:
        tell = None if report is None else partial(report, 0)
        for _ in training_steps(training, path, {}, recipe=recipe.as_json(), resume=resume, device=device, report=tell):
            pass
    return checkpoints.load(path, device=device)


def _on_a_process(recipe: CompareRecipe, seed: int, train: Callable[[Source], Kernel]) -> dict[str, Any]:
    process, rng = recipe.made, np.random.default_rng([seed, 0])
    tokens = process.sample(recipe.sequences, recipe.skip + recipe.length + 1, rng)
    words = process.sample(recipe.reference, recipe.skip + recipe.length, rng)
    made = Made(process, None, words, lambda: train(process), recipe.order, recipe.threshold)
    rate = process.entropy_rate().value
    table: dict[str, Any] = {}
    for name in recipe.kernels:
        started = time.process_time()
        kernel = made.kernel(name)
        ready = time.process_time()
        rows = rows_of(kernel, tokens, truth=process, skip=recipe.skip)
        row = {**accuracy(rows, rate), **calibration(rows)}
        begun = min(8, recipe.length)
        prompts = tokens[: recipe.sequences // 2, :begun]
        row["drift"] = drift(kernel, prompts, min(SAID, recipe.skip + recipe.length - begun), rng)
        memory = exact_memory(kernel, process, recipe.words)
        influence = exact_influence(kernel, process, recipe.words, recipe.words)
        edits = sampled_edits(kernel, tokens[:, : recipe.words], 2, rng, process=process)
        table[name] = {
            "measures": {key: list(value) for key, value in row.items()},
            "memory": memory.gain.tolist(),
            "memory_total": memory.excess,
            "error_by_context": exact_error(kernel, process, recipe.words).tolist(),
            "influence_mean": influence.mean.tolist(),
            "influence_sup": influence.sup.tolist(),
            "edits": {key: value._asdict() for key, value in edits.items()},
            **_costs(recipe, kernel, tokens[0], range(1, recipe.words + 1)),
            "cpu_seconds": {"made": ready - started, "measured": time.process_time() - ready},
        }
    first = made.kernel(recipe.kernels[0])
    return {
        "truth": {"entropy rate": rate, "excess entropy": excess_entropy(process).value},
        "kernels": table,
        "deployed": deployed(first, _maps(recipe), tokens, rng, truth=process, skip=recipe.skip, said=_said(recipe)),
    }


def _on_texts(recipe: CompareRecipe, seed: int, train: Callable[[Source], Kernel]) -> dict[str, Any]:
    learn = any(name.partition("@")[0] in MADE_HERE for name in recipe.kernels)
    texts = domain(recipe.texts, np.random.default_rng([seed, 1]), learn=learn)
    kind, number = kind_of(recipe.vocabulary)
    own: Vocabulary | None = None
    if learn:
        own = Bytes() if kind == "bytes" else train_byte_pairs(texts.reference.values(), number)
    made = Made(None, own, texts.reference, lambda: train(_corpus(recipe, texts, own)), recipe.order, recipe.threshold)
    table: dict[str, Any] = {}
    first: tuple[Kernel, Int[np.ndarray, "sequence time"]] | None = None
    for name in recipe.kernels:
        started = time.process_time()
        kernel = made.kernel(name)
        base = made.kept[name.partition("@")[0]]
        spelled = own if name.partition("@")[0] in MADE_HERE else getattr(base, "vocabulary", None)
        if spelled is None:
            raise ValueError(f"kernel={name!r} says nothing of the texts that its tokens spell")
        ready = time.process_time()
        rng = np.random.default_rng([seed, 2])
        length = recipe.skip + recipe.length + 1
        tokens, _, _ = stretches(texts.tested, spelled, recipe.sequences, length, rng)
        rows = rows_of(kernel, tokens, skip=recipe.skip)
        n_bytes = sum(len(spelled.decode(one[recipe.skip + 1 :]).encode()) for one in tokens)
        row = {**accuracy(rows), **calibration(rows)}
        scale = rows.surprisal.size / n_bytes / np.log(2)
        row["bits per byte"] = (row["loss"].value * scale, row["loss"].error * scale)
        few = tokens[: recipe.passages]
        some = few[:, -min(PAST, length) :]
        lags = [lag for lag in recipe.lags if lag < some.shape[1]]
        contexts = [k for k in recipe.contexts if k < length - 1 - LAST]
        passages = [_passage(spelled, one) for one in few]
        lost = sampled_memory(kernel, few, contexts, last=LAST)
        last_bytes = sum(len(spelled.decode(one[-LAST:]).encode()) for one in few)
        table[name] = {
            "measures": {key: list(value) for key, value in row.items()},
            "memory": {k: list(more) for k, more in lost.more.items()},
            "last": {"loss": list(lost.whole), "bits": lost.whole.value * len(few) * LAST / last_bytes / np.log(2)},
            "influence": {
                lag: moved._asdict() for lag, moved in sampled_influence(kernel, some, lags, rng, others=1).items()
            },
            "edits": {
                family: one._asdict() for family, one in text_edits(kernel, spelled, passages, rng, within=20).items()
            },
            **_costs(recipe, kernel, tokens[0], contexts),
            "cpu_seconds": {"made": ready - started, "measured": time.process_time() - ready},
        }
        first = first or (kernel, tokens[:DEPLOYED])
    maps, rng = _maps(recipe), np.random.default_rng([seed, 3])
    there = deployed(first[0], maps, first[1], rng, skip=recipe.skip, said=_said(recipe))
    return {"truth": {}, "kernels": table, "deployed": there}


def _said(recipe: CompareRecipe) -> int:
    return min(SAID, recipe.length)


def _passage(spelled: Vocabulary, tokens: Int[np.ndarray, " time"]) -> str:
    """What the last ``PAST`` tokens spell; where those are few words, what more of them spell."""
    n = PAST
    while len(words := spelled.decode(tokens[-n:]).strip().split(" ")) < LEAST_WORDS and n < len(tokens):
        n *= 2
    return " ".join(words)


def _corpus(recipe: CompareRecipe, texts: Domain, vocabulary: Vocabulary) -> Corpus:
    corpus = Corpus.from_texts(texts.reference, vocabulary)
    return corpus.take(np.flatnonzero(corpus.lengths > recipe.skip + recipe.length).tolist())


def _maps(recipe: CompareRecipe) -> dict[str, Callable[[Kernel], Kernel]]:
    def deploy(how: str, number: str, kernel: Kernel) -> Kernel:
        return MAPS[how](kernel, float(number or 0))

    return {name: partial(deploy, name.partition("=")[0], name.partition("=")[2]) for name in recipe.maps}


def _costs(
    recipe: CompareRecipe, kernel: Kernel, tokens: Int[np.ndarray, " time"], contexts: Sequence[int]
) -> dict[str, Any]:
    whole = recipe.skip + recipe.length
    spent = cost(kernel, tokens, whole)
    lengths = sorted({max(2, whole // share) for share in (8, 4, 2, 1)})
    growth, median = latency(kernel, tokens, lengths, repeats=recipe.timed)
    return {
        "cost": {
            "length": whole,
            "flops_per_token": spent.per_token,
            "cache_bytes_per_token": None if spent.cache is None else spent.cache / whole,
            "seconds_per_token": float(median[-1] / whole),
            "lengths": lengths,
            "median_seconds": median.tolist(),
            "fit": [growth.constant, growth.linear, growth.quadratic],
            "slopes": growth.slopes.tolist(),
            "flops_by_context": {k: cost(kernel, tokens, k).flops for k in (*contexts, whole)},
        }
    }
