"""The models of a run on induction in language: a teacher, and the matchers that are distilled from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from nextlens.analyses.language_recipe import LanguageRecipe, Texts
from nextlens.analyses.model_training import training_steps
from nextlens.models import checkpoints
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked, canonical_site
from nextlens.models.induction.matching_model import MatchingConfig, MatchingModel
from nextlens.models.induction.residual_head import ResidualHead
from nextlens.models.induction.retrieval import Retrieval
from nextlens.models.objectives.matching import Matching
from nextlens.models.subwords import Subwords
from nextlens.models.tasks.corpus import Corpus
from nextlens.models.training import train, warmup_cosine
from nextlens.models.vocabulary import Bytes, Vocabulary
from nextlens.models.whole_files import write_whole
from nextlens.models.words import Words

#: Where the vocabulary is kept, so that a run that goes on need not train it again.
VOCABULARY = "vocabulary.json"
#: What is written for a vocabulary of bytes.
BYTES = b'{"vocabulary": "bytes"}\n'
#: Sites compared, at most, besides the last.
MOST_SITES = 6
#: Positions in a batch of distillation; queries and keys are drawn from them.
POSITIONS, QUERIES, KEYS = 1024, 128, 512
#: What the matching model is made of.
LAYERS, WIDTH, FEATURE, HEAD_FEATURE = 2, 128, 64, 32
#: The name of the published matcher, and how many more steps it is given than a head.
MATCHING_MODEL, LONGER = "matching model", 3


class HeadsTogether(nn.Module):
    """An objective: heads on many sites of one model, taught at once by its own laws; each batch is read once.

    Parameters
    ----------
    matchings : dict of str to Matching
        Each with a head, by name.
    """

    def __init__(self, matchings: dict[str, Matching]):
        super().__init__()
        self.names, self.each = list(matchings), nn.ModuleList(matchings.values())

    def forward(self, model: Hooked, batch: Batch) -> Float[Tensor, "batch time"]:
        """The sum of their losses at every position."""
        values, laws = self._read(model, batch)
        return sum(one.loss(one.head.of(value), laws, batch) for one, value in zip(self.each, values, strict=True))

    @torch.no_grad()
    def scores(self, model: Hooked, batch: Batch) -> dict[str, Retrieval]:
        """What each finds of what the model's laws find."""
        values, laws = self._read(model, batch)
        return {
            name: one.retrieval(one.head.of(value), laws, batch)
            for name, one, value in zip(self.names, self.each, values, strict=True)
        }

    @torch.no_grad()
    def _read(
        self, model: Hooked, batch: Batch
    ) -> tuple[list[Float[Tensor, "batch time _"]], Float[Tensor, "batch time token"]]:
        sites = [canonical_site(one.head.site, model.sites) for one in self.each]
        with model.watched(*sites) as seen:
            laws = model.log_probs(batch)
        return [seen[at] for at in sites], laws


class Matchers(NamedTuple):
    """What was distilled, and how well each finds what the teacher finds, on validated text.

    Attributes
    ----------
    heads : dict of str to ResidualHead
    model : MatchingModel, optional
    retrieval : dict
        Of each matcher: ``recall_at_1``, ``recall_at_5``, ``reciprocal_rank``, ``rank_correlation``, ``keys``.
    """

    heads: dict[str, ResidualHead]
    model: MatchingModel | None
    retrieval: dict[str, dict[str, float]]


def read_texts_and_teacher(
    recipe: LanguageRecipe,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    report: Callable[[int], None] | None = None,
) -> tuple[Texts, Hooked]:
    """The corpora, and the checkpoint, or a teacher that is trained on the in-domain reference.

    Raises
    ------
    ValueError
        If ``resume`` finds a checkpoint of another recipe, or the checkpoint has no vocabulary.
    """
    if recipe.checkpoint:
        model = checkpoints.load(recipe.checkpoint, device=device)
        if getattr(model, "vocabulary", None) is None:
            raise ValueError(f"checkpoint={recipe.checkpoint!r} says nothing of the texts that its tokens spell")
        return recipe.read(model.vocabulary), model
    kept = folder / VOCABULARY
    texts = recipe.read(read_vocabulary(kept) if resume and kept.exists() else None)
    write_vocabulary(texts.vocabulary, kept)
    training = recipe.training(texts.references["in-domain"])
    path = training.path(folder)
    for _ in training_steps(training, path, {}, recipe=recipe.as_json(), resume=resume, device=device, report=report):
        pass
    return texts, checkpoints.load(path, device=device)


def sites_of(model: Hooked) -> list[str]:
    """The residual stream after some blocks, evenly, the last among them, and what the unembedding reads."""
    blocks = [site for site in model.sites if site.endswith("hook_resid_post")]
    chosen = np.unique(np.linspace(0, len(blocks) - 1, min(MOST_SITES, len(blocks))).round().astype(int))
    return [*(blocks[i] for i in chosen), model.sites[-1]]


def distilled(recipe: LanguageRecipe, texts: Texts, model: Hooked) -> Matchers:
    """A head at every site, and the published matching model, each taught by ``model``, which stays as it is."""
    corpus = texts.references["in-domain"]
    if isinstance(model, nn.Module):
        model.requires_grad_(False)
    length = min(128, recipe.n_ctx)
    matchings = {
        f"head {site}": Matching(
            ResidualHead.for_model(model, site, HEAD_FEATURE, seed=recipe.seed),
            queries=QUERIES,
            keys=KEYS,
            seed=recipe.seed,
        )
        for site in (sites_of(model) if recipe.matching_steps else [])
    }
    found: dict[str, dict[str, float]] = {}
    if matchings:
        together = HeadsTogether(matchings)
        _teach(model, corpus, length, together, recipe.matching_steps, recipe.seed, learning_rate=3e-3)
        found = _retrieval(lambda batch: together.scores(model, batch), texts.validated, length, recipe.seed)
    heads = {name: one.head for name, one in matchings.items()}
    if not (recipe.matching_steps and recipe.reach):
        return Matchers(heads, None, found)
    student = MatchingModel(
        MatchingConfig(
            corpus.n_tokens, FEATURE, n_layers=LAYERS, n_heads=4, d_model=WIDTH, reach=recipe.reach, seed=recipe.seed
        )
    )
    objective = Matching(teacher=model, queries=QUERIES, keys=KEYS, seed=recipe.seed)
    steps = LONGER * recipe.matching_steps
    _teach(student, corpus, recipe.reach, objective, steps, recipe.seed, learning_rate=1e-3)
    found |= _retrieval(
        lambda batch: {MATCHING_MODEL: objective.scores(student, batch)}, texts.validated, recipe.reach, recipe.seed
    )
    return Matchers(heads, student, found)


def _teach(
    student: nn.Module | Hooked,
    corpus: Corpus,
    length: int,
    objective: nn.Module,
    steps: int,
    seed: int,
    *,
    learning_rate: float,
) -> None:
    batches = corpus.batches(-(-POSITIONS // length), length + 1, np.random.default_rng([seed, 11]))
    for _ in train(
        student,
        batches,
        steps=steps,
        objective=objective,
        optimiser=partial(torch.optim.AdamW, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1),
        schedule=warmup_cosine(steps, warmup=min(50, steps // 5), final=0.1),
        clip=1.0,
    ):
        pass


def _retrieval(
    scores: Callable[[Batch], dict[str, Retrieval]], corpus: Corpus, length: int, seed: int, batches: int = 8
) -> dict[str, dict[str, float]]:
    """Of each matcher, means over a few batches of text that no matcher was taught on."""
    stream = iter(corpus.batches(-(-POSITIONS // length), length + 1, np.random.default_rng([seed, 12])))
    rows = [scores(next(stream)) for _ in range(batches)]
    return {
        matcher: {name: float(np.mean([getattr(row[matcher], name) for row in rows])) for name in one._fields}
        for matcher, one in rows[0].items()
    }


def write_vocabulary(vocabulary: Vocabulary, path: Path) -> None:
    """Keep a vocabulary of ours."""
    if isinstance(vocabulary, Bytes):
        write_whole(path, BYTES)
    elif isinstance(vocabulary, Subwords | Words):
        vocabulary.save(path)


def read_vocabulary(path: Path) -> Vocabulary:
    """What :func:`write_vocabulary` kept.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it is neither a tokenizer nor a list of words.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no {str(path)!r}, which says what the tokens spell")
    if path.read_bytes() == BYTES:
        return Bytes()
    try:
        return Words.from_file(path)
    except ValueError:
        return Subwords.from_file(path)
