"""Does pointing predict language? Texts and models read, thresholds fitted, everything scored, in a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from nextlens.analyses.induction_language import by_length, by_source, scored
from nextlens.analyses.language_claims import FITTED, PUBLISHED, claims, gim_name
from nextlens.analyses.language_figures import draw
from nextlens.analyses.language_mixtures import (
    TEMPERATURES,
    Datastore,
    best_weight,
    mixed_scores,
    neighbour_votes,
)
from nextlens.analyses.language_model_answers import ModelAnswers, model_answers, read_before
from nextlens.analyses.language_models import MATCHING_MODEL, Matchers, distilled, read_texts_and_teacher, sites_of
from nextlens.analyses.language_numbers import sum_up
from nextlens.analyses.language_recipe import LanguageRecipe, Texts
from nextlens.analyses.language_stretches import Stretches, stretches_of
from nextlens.analyses.model_training import progress_bar, steps_done
from nextlens.analyses.results_folder import NUMBERS, begin, write_json
from nextlens.models.hooked import Hooked
from nextlens.models.induction.answers import Answers, silent
from nextlens.models.induction.exact import ExactInduction
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.infinigram import InfiniGram
from nextlens.models.induction.kneser_ney import KneserNey
from nextlens.models.induction.scores import Scores, best_floor, score_laws, score_votes
from nextlens.models.induction.suffix_array import SuffixArray
from nextlens.models.induction.threshold import ThresholdFit, choose_threshold
from nextlens.models.induction.votes import Votes
from nextlens.models.induction.window_features import WindowFeatures

#: The GIM without a corpus.
ALONE = "no corpus"
#: What is drawn anew for an interval of a threshold's score.
DRAWS = 1000


@dataclass
class Found:
    """All that a run has measured, by the name of the model.

    Attributes
    ----------
    scores, floors
        On tested text; floors were fitted on validated text.
    answers : dict of str to Answers
        Of the GIM of each reference, on tested text.
    fits : dict of str to ThresholdFit
    notes : dict
        What was chosen on validated text beside thresholds.
    seconds : dict of str to float
        CPU seconds of each stage.
    """

    scores: dict[str, Scores] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    answers: dict[str, Answers] = field(default_factory=dict)
    fits: dict[str, ThresholdFit] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the CPU seconds of what is done inside."""
        before = time.process_time()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.process_time() - before


@dataclass(frozen=True, eq=False)
class Read:
    """One split of the text, and what every part says there."""

    stretches: Stretches
    model: ModelAnswers
    context: Votes
    similar: dict[str, Votes]
    corpus: dict[str, Votes]
    n_tokens: int

    def answers(self, reference: str, similar: str) -> Answers:
        """Of the GIM with that corpus and that matcher."""
        corpus = silent(len(self.context)) if reference == ALONE else self.corpus[reference]
        return Answers(corpus, self.context, self.similar[similar])

    def score(self, votes: Votes) -> Scores:
        return score_votes(votes, self.stretches.targets, self.n_tokens)


def run(
    recipe: LanguageRecipe,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str = "cpu",
    n_jobs: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Test the published claims about GIM on texts.

    Writes ``accuracy``, ``by_length`` and ``thresholds`` as PNG, PDF and SVG, the teacher with its vocabulary, and
    ``numbers.json``.

    Parameters
    ----------
    recipe : LanguageRecipe
    folder : path
        Made if need be; results of a finished run of the same recipe in it are replaced.
    resume : bool, default=False
        Go on with the unfinished run in ``folder``: the teacher is trained on, what follows is done anew.
    device : str, default="cpu"
    n_jobs : int, optional
        Not used: there is one teacher.
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
        If ``folder`` holds what would be lost, or cannot be gone on with.
    """
    place = begin(folder, recipe.as_json(), resume=resume)
    found = Found()
    behind = [steps_done(place / "teacher" / "checkpoint.safetensors") if resume and not recipe.checkpoint else 0]
    with progress_bar(place, behind, recipe.steps, show=progress and not recipe.checkpoint) as report:
        tell = None if report is None else partial(report, 0)
        with found.timed("texts and teacher"):
            texts, model = read_texts_and_teacher(recipe, place, resume=resume, device=device, report=tell)
    with found.timed("distillation"):
        matchers = distilled(recipe, texts, model)
    with found.timed("indexes"):
        corpora = {
            name: InfiniGram(SuffixArray.build(one.documents, n_tokens=one.n_tokens))
            for name, one in texts.references.items()
            if name != "both"
        }
        if len(corpora) > 1:
            corpora["both"] = InfiniGram([one.indexes[0] for one in corpora.values()])
    validated, tested = (
        _read(recipe, split, n, model, matchers, corpora, found, seed)
        for split, n, seed in ((texts.validated, recipe.validating, 13), (texts.tested, recipe.stretches, 14))
    )
    _pointing(found, validated, tested, recipe)
    with found.timed("baselines"):
        _baselines(found, validated, tested, recipe, texts, model)
    data = scored(found.scores, tested.stretches, tested.n_tokens, found.floors)
    numbers = _numbers(recipe, texts, tested, model, matchers, found, data)
    draw(numbers, place)
    write_json(place / NUMBERS, numbers)
    return numbers


def _read(
    recipe: LanguageRecipe,
    corpus: Any,
    n: int,
    model: Hooked,
    matchers: Matchers,
    corpora: Mapping[str, InfiniGram],
    found: Found,
    seed: int,
) -> Read:
    stretches = stretches_of(
        corpus,
        n,
        context=recipe.context,
        every=recipe.every,
        each=recipe.each,
        rng=np.random.default_rng([recipe.seed, seed]),
    )
    with found.timed("language model"):
        said = model_answers(model, stretches, sites_of(model), heads=matchers.heads)
    similar = dict(said.similar)
    if matchers.model is not None:
        with found.timed(MATCHING_MODEL):
            fuzzy = FuzzyInduction(WindowFeatures(matchers.model), window=recipe.context)
            similar[MATCHING_MODEL] = stretches.votes(fuzzy)
    with found.timed("exact"):
        context = stretches.windowed_votes(ExactInduction(corpus.n_tokens))
    with found.timed("infini-gram"):
        counted = {name: stretches.windowed_votes(one) for name, one in corpora.items()}
    return Read(stretches, said, context, similar, counted, corpus.n_tokens)


def _pointing(found: Found, validated: Read, tested: Read, recipe: LanguageRecipe) -> None:
    """Every matcher by itself, and GIMs with every corpus; what is chosen is chosen on validated text."""
    accuracy = {name: float(validated.score(votes).expected.mean()) for name, votes in validated.similar.items()}
    best = max(accuracy, key=lambda name: accuracy[name])
    found.notes["fuzzy"] = {"chosen": best, "expected accuracy on validated text": accuracy}
    _pointer(found, "exact", validated.score(validated.context), tested.score(tested.context), tested.n_tokens)
    for name in (best, *(other for other in accuracy if other != best)):
        scores = [split.score(split.similar[name]) for split in (validated, tested)]
        _pointer(found, "fuzzy" if name == best else f"fuzzy, {name}", *scores, tested.n_tokens)
    for reference in [ALONE, *tested.corpus]:
        if reference != ALONE:
            scores = [split.score(split.corpus[reference]) for split in (validated, tested)]
            _pointer(found, f"infini-gram, {reference}", *scores, tested.n_tokens)
        there, here = (split.answers(reference, best) for split in (validated, tested))
        fit = found.fits[reference] = choose_threshold(
            there,
            validated.stretches.targets,
            validated.stretches.document_number,
            tested.n_tokens,
            rng=np.random.default_rng([recipe.seed, 15]),
            draws=DRAWS,
        )
        found.answers[reference] = here
        for threshold, value in ((FITTED, fit.threshold), (PUBLISHED, 8)):
            scores = [split.score(said.votes(value)) for split, said in ((validated, there), (tested, here))]
            _pointer(found, gim_name(reference, threshold), *scores, tested.n_tokens)


def _pointer(found: Found, name: str, validated: Scores, tested: Scores, n_tokens: int) -> None:
    found.scores[name], found.floors[name] = tested, best_floor(validated.probability, n_tokens)


def _baselines(
    found: Found, validated: Read, tested: Read, recipe: LanguageRecipe, texts: Texts, model: Hooked
) -> None:
    corpus = texts.references["in-domain"]
    counted = KneserNey(corpus.documents, corpus.n_tokens, recipe.order)
    found.scores[f"Kneser-Ney {recipe.order}-gram"] = _scores_of(counted, tested.stretches)
    found.scores["teacher"] = tested.model.scores
    if tested.model.laws is None:
        found.notes["mixtures"] = "none: laws of this many tokens are not kept"
        return
    others = {"teacher and GIM": tuple(_gim_votes(found, split, tested) for split in (validated, tested))}
    if recipe.datastore:
        store = Datastore.of(model, corpus, recipe.datastore, sites_of(model)[-1])
        near = [store.nearest(split.model.keys) for split in (validated, tested)]
        tried = {
            one: best_weight(
                validated.model.scores.probability, _probability(neighbour_votes(*near[0], one), validated)
            )[1]
            for one in TEMPERATURES
        }
        temperature = min(tried, key=lambda one: tried[one])
        others["kNN-LM"] = tuple(neighbour_votes(*one, temperature) for one in near)
        found.notes["kNN-LM"] = {"temperature": temperature, "places": len(store.keys)}
    for name, (there, here) in others.items():
        weight, _ = best_weight(validated.model.scores.probability, _probability(there, validated))
        found.notes.setdefault(name, {})["weight"] = weight
        found.scores[name] = mixed_scores(tested.model.laws, here, weight, tested.stretches.targets)


def _gim_votes(found: Found, split: Read, tested: Read) -> Votes:
    """What the GIM with all references says, at its fitted threshold."""
    reference = list(tested.corpus)[-1]
    return split.answers(reference, found.notes["fuzzy"]["chosen"]).votes(found.fits[reference].threshold)


def _probability(votes: Votes, split: Read) -> Float[np.ndarray, " prediction"]:
    return votes.probability_of(split.stretches.targets, split.n_tokens)


def _scores_of(counted: KneserNey, stretches: Stretches) -> Scores:
    """Stretch by stretch, so that few dense laws are held at a time."""
    parts = [
        score_laws(counted.laws(tokens[:-1], stretches.positions), tokens[stretches.positions + 1])
        for tokens in stretches.tokens
    ]
    return Scores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _numbers(
    recipe: LanguageRecipe,
    texts: Texts,
    tested: Read,
    model: Hooked,
    matchers: Matchers,
    found: Found,
    data: xr.Dataset,
) -> dict[str, Any]:
    rng = np.random.default_rng([recipe.seed, 16])
    lengths = {name: answers.length for name, answers in found.answers.items()}
    lengths["context"] = tested.context.length
    shown = list(tested.corpus)[-1]
    compared = ["exact", "fuzzy", f"infini-gram, {shown}", gim_name(shown), "teacher"]
    sources = {
        name: by_source(answers, found.fits[name].threshold, found.scores[gim_name(name)])
        for name, answers in found.answers.items()
    }
    tables = {
        "by length": by_length(data, lengths[shown], compared, rng),
        "by length, tie-inclusive": by_length(data, lengths[shown], compared, rng, "inclusive"),
    }
    return sum_up(
        recipe,
        texts,
        tested.stretches,
        data,
        found,
        sources=sources,
        tables=tables,
        lengths={name: (float(n.mean()), float((n >= 8).mean())) for name, n in lengths.items()},
        shown=shown,
        claims=claims(data, lengths, list(tested.corpus), rng),
        matchers=matchers.retrieval,
        read=read_before(model, tested.stretches),
        rng=rng,
    )
