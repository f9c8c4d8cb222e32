"""Does surprisal scale? Models made or loaded, texts or a process read, memory judged beside nulls, in a folder."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nextlens.analyses.language_recipe import kind_of
from nextlens.analyses.model_training import progress_bar, steps_done, training_steps
from nextlens.analyses.results_folder import NUMBERS, begin, write_json
from nextlens.analyses.self_similarity import (
    SelfSimilarity,
    by_context,
    estimators_for,
    scaling_curves,
    self_similarity,
)
from nextlens.analyses.self_similarity_figures import draw
from nextlens.analyses.self_similarity_numbers import sum_up
from nextlens.analyses.self_similarity_reading import Scored, scored
from nextlens.analyses.self_similarity_recipe import BIGRAM, EXACT, SelfSimilarityRecipe
from nextlens.analyses.self_similarity_sources import KNOWN, MADE_HERE, Domain, Source, domain, pointing, stretches
from nextlens.models import checkpoints
from nextlens.models.byte_pairs import train_byte_pairs
from nextlens.models.contexts import Truncated
from nextlens.models.kernel import Kernel
from nextlens.models.tasks.corpus import Corpus
from nextlens.models.vocabulary import Bytes, Vocabulary
from nextlens.models.whole_files import write_whole
from nextlens.probes import fractal
from nextlens.probes.fractal.report import DISAGREEMENT

#: In the folder of each source: z and h of every document, in bits.
SERIES_FILE = "surprisal-entropy.npy"


def run(
    recipe: SelfSimilarityRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Judge the memory of surprisal of every model on every domain; without texts, of a process and of known series.

    Writes ``scaling``, ``exponents``, ``context`` (where it was asked for), z and h of each source, and
    ``numbers.json``.

    Parameters
    ----------
    recipe : SelfSimilarityRecipe
    folder : path
        Made if need be; results of a finished run of the same recipe in it are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``: sources that were read are not read again.
    device : str, default="cpu"
    n_jobs : int, optional
        Not used: sources are read one after another.
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
        If ``folder`` holds what would be lost, or cannot be gone on with; also as the analyses do.
    """
    place = begin(folder, recipe.as_json(), resume=resume, far=_far)
    if not resume:
        for stale in place.glob(f"*/{SERIES_FILE}"):
            stale.unlink()
    found: dict[tuple[str, int], SelfSimilarity] = {}
    notes: dict[tuple[str, int], dict[str, Any]] = {}
    ablation: dict[tuple[str, int], xr.Dataset] = {}
    curves: dict[str, dict[str, Any]] = {}
    for seed in recipe.seeds:
        for source in _sources(recipe, place, seed, resume=resume, device=device, progress=progress):
            before = time.process_time()
            series = _read(recipe, source, place / f"{_slug(source.name)}-seed-{seed}")
            kept = series.after(recipe.skip)
            rng = np.random.default_rng([recipe.seeds.index(seed), seed, *map(ord, source.name)])
            key = (source.name, seed)
            texts = source.texts or None
            found[key] = self_similarity(kept, rng, n_shuffles=recipe.shuffles, smoothing=recipe.smoothing, texts=texts)
            if source.name not in curves:
                curves[source.name] = scaling_curves(kept, found[key], rng)
            if recipe.contexts and source.name.split(" on ")[0] == (recipe.ablated or recipe.read_by[0]):
                ablation[key] = by_context(
                    source.kernel,
                    source.tokens,
                    recipe.contexts,
                    rng,
                    skip=recipe.skip,
                    n_shuffles=recipe.shuffles,
                    whole=series if not recipe.context else None,
                    texts=texts,
                )
            bits = float(series.surprisal.sum())
            notes[key] = {
                "texts": sorted(set(source.texts)),
                "bits_per_byte": bits / source.n_bytes if source.n_bytes else None,
                "cpu_seconds": round(time.process_time() - before, 1),
            }
    known = {} if recipe.texts else _known(recipe)
    numbers = sum_up(recipe, found, notes, ablation, known, curves)
    draw(numbers, place)
    write_json(place / NUMBERS, numbers)
    return numbers


def _far(folder: Path) -> str:
    return f"{len(list(folder.glob(f'*/{SERIES_FILE}')))} sources read"


def _slug(name: str) -> str:
    return "".join(one if one.isalnum() or one in "-_." else "-" for one in name)


def _sources(
    recipe: SelfSimilarityRecipe, place: Path, seed: int, *, resume: bool, device: str, progress: bool
) -> Iterator[Source]:
    length = recipe.skip + recipe.length + 1
    if not recipe.texts:
        tokens = recipe.made.sample(recipe.documents, length, np.random.default_rng([seed, 0]))
        yield Source(f"{EXACT} on {recipe.process}", recipe.made, tokens)
        yield Source(f"{BIGRAM} on {recipe.process}", Truncated(recipe.made, 1), tokens)
        return
    loaded: dict[str, Kernel] = {}
    for i, named in enumerate(recipe.texts):
        one = domain(named, np.random.default_rng([seed, 1, i]), learn=recipe.learns)
        vocabulary = _vocabulary(recipe, one) if recipe.learns else None
        own = _trained(recipe, one, vocabulary, place, seed, resume, device, progress) if recipe.learns else None
        for name in recipe.models:
            if name in MADE_HERE:
                kernel, spelled = own, vocabulary
                if name != "trained":
                    kernel = pointing(
                        name, vocabulary, one.reference, own, order=recipe.order, threshold=recipe.threshold
                    )
            else:
                if name not in loaded:
                    loaded[name] = checkpoints.load(name, device=device)
                kernel = loaded[name]
                spelled = getattr(kernel, "vocabulary", None)
                if spelled is None:
                    raise ValueError(f"model={name!r} says nothing of the texts that its tokens spell")
            rng = np.random.default_rng([seed, 2, i])
            tokens, texts, n_bytes = stretches(one.tested, spelled, recipe.documents, length, rng)
            yield Source(f"{Path(name).name} on {one.name}", kernel, tokens, texts, n_bytes)


def _vocabulary(recipe: SelfSimilarityRecipe, one: Domain) -> Vocabulary:
    kind, number = kind_of(recipe.vocabulary)
    return Bytes() if kind == "bytes" else train_byte_pairs(one.reference.values(), number)


def _trained(
    recipe: SelfSimilarityRecipe,
    one: Domain,
    vocabulary: Vocabulary,
    place: Path,
    seed: int,
    resume: bool,
    device: str,
    progress: bool,
) -> Kernel | None:
    """The transformer, where it or the GIM, which takes what is alike from it, is asked for."""
    if not {"trained", "gim"} & set(recipe.models):
        return None
    corpus = Corpus.from_texts(one.reference, vocabulary)
    corpus = corpus.take(np.flatnonzero(corpus.lengths > recipe.skip + recipe.length).tolist())
    training = recipe.training(corpus, f"trained-on-{_slug(one.name)}", seed)
    path = training.path(place)
    behind = [steps_done(path) if resume else 0]
    with progress_bar(place, behind, recipe.steps, show=progress) as report:
        tell = None if report is None else partial(report, 0)
        steps = training_steps(training, path, {}, recipe=recipe.as_json(), resume=resume, device=device, report=tell)
        for _ in steps:
            pass
    return checkpoints.load(path, device=device)


def _read(recipe: SelfSimilarityRecipe, source: Source, place: Path) -> Scored:
    """z and h, read once and kept."""
    path = place / SERIES_FILE
    if path.exists():
        z, h = np.load(path, allow_pickle=False)
        return Scored(z, h, (place / "reading.txt").read_text())
    found = scored(source.kernel, source.tokens, context=recipe.context or None, stride=recipe.stride)
    write_whole(place / "reading.txt", found.reading.encode())
    content = io.BytesIO()
    np.save(content, np.stack([found.surprisal, found.entropy]))
    write_whole(path, content.getvalue())
    return found


def _known(recipe: SelfSimilarityRecipe) -> dict[str, list[dict[str, Any]]]:
    """What series of known memory are taken for, at the same number of documents and length."""
    table: dict[str, list[dict[str, Any]]] = {}
    for i, (name, (hurst, draw_one)) in enumerate(KNOWN.items()):
        for seed in recipe.seeds:
            rng = np.random.default_rng([seed, 3, i])
            rows = draw_one((recipe.documents, recipe.length), rng)
            position, amplitude = (
                fractal.gated_verdict(fractal.pooled(rows, detrend=by), rng, n_shuffles=recipe.shuffles)
                for by in ("position", "amplitude")
            )
            apart = abs(position.bands[1].estimate.value - amplitude.bands[1].estimate.value)
            found = amplitude if apart > DISAGREEMENT else position
            plain = estimators_for(recipe.length)["H, R/S"](rows - rows.mean(1, keepdims=True))
            table.setdefault(name, []).append(
                {
                    "H": hurst,
                    "verdict": found.outcome,
                    "whittle": found.bands[1].estimate.value,
                    "rescaled range": plain.value,
                }
            )
    return table
