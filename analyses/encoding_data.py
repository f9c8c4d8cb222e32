"""Whose brain: every data set as the same few things, with what it cannot tell said in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import xarray as xr
from sklearn.pipeline import make_pipeline

from nextlens.analyses.encoding_recipe import EncodingRecipe
from nextlens.probes.hemodynamics import PolynomialDetrend, ZScore
from nextlens.probes.noise_ceilings import noise_ceiling
from nextlens.probes.responses.alice2016 import load_alice
from nextlens.probes.responses.bids import load_bids
from nextlens.probes.responses.lebel2023 import SUBJECTS, TEST_STORIES, TR, load_components, load_repeats, load_voxels
from nextlens.probes.responses.listening import Listening, from_arrays
from nextlens.probes.responses.simulated import simulate
from nextlens.probes.story_folds import BlocksOfStory, HeldOutStories
from nextlens.probes.word_vectors import WordVectors, glove

#: Seeds of the simulated listeners, where none is named.
SIMULATED = ("0", "1", "2")

#: Vertices of a hemisphere of fsaverage5; twice as many targets are taken for both hemispheres, left first.
VERTICES = 10_242


@dataclass(frozen=True, eq=False)
class Subject:
    """One listener, or the mean of several, ready to be predicted.

    Attributes
    ----------
    name : str
    heard : Listening
        ``response`` (row, target).
    cv, inner
        Which rows are held out; and how penalties are chosen among the others.
    vectors : WordVectors
    ceiling : Dataset, or str
        Or why there is none.
    response : transformer, optional
        What training and tested responses are treated by, each by themselves.
    information : DataArray, optional
        Surprisal that is known without a model.
    cortex : str
        "fsaverage5" or "volume"; or why scores cannot be drawn on a brain.
    masker : nilearn masker, optional
        Brings scores back into a volume.
    facts : dict
        ``outside="ignore"`` where runs were trimmed, so that words before their first volume are no mistake.
    """

    name: str
    heard: Listening
    cv: Any
    inner: Any
    vectors: WordVectors
    ceiling: xr.Dataset | str
    response: Any = None
    information: xr.DataArray | None = None
    cortex: str = "which voxel or vertex a target is, is not known"
    masker: Any = None
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def tested(self) -> list[str]:
        """The stories whose rows are scored."""
        return list(getattr(self.cv, "test", self.heard.stories))


def subjects_of(recipe: EncodingRecipe) -> Iterator[Subject]:
    """One subject at a time, so that one is in memory at a time.

    Raises
    ------
    FileNotFoundError, ImportError
        If data, a package that reads them, or GloVe is not there, saying what to do.
    ValueError
        If data are not what they should be, or a ceiling is asked for that they cannot tell.
    """
    return LOADERS[recipe.data](recipe)


def names_of(recipe: EncodingRecipe) -> tuple[str, ...]:
    """The subjects of a run."""
    usual = {"simulated": SIMULATED, "alice": ("mean of 27 listeners",), "lebel2023": SUBJECTS, "voxels": SUBJECTS}
    return recipe.subjects or usual.get(recipe.data, ("arrays",))


def arrays_of(path: str | Path) -> Listening:
    """A ``.npz`` of plain arrays: ``response`` (row, target), ``story`` one a row, ``text``, ``word_story``, ``onset``
    one a word, and ``tr``; ``start`` and ``volume`` if need be, as of
    :func:`~nextlens.probes.responses.listening.from_arrays`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If an array is lacking, or the file is damaged or holds objects.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    needed = ("response", "story", "text", "word_story", "onset", "tr")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            lacking = [name for name in needed if name not in archive.files]
            if lacking:
                raise ValueError(f"it has no array {lacking[0]!r}, only {archive.files}")
            found = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is no .npz of plain arrays: {error}") from error
    given = {"tr": float(found["tr"]), "start": float(found.get("start", 0.0)), "volume": found.get("volume")}
    texts = (found["text"].tolist(), found["word_story"].tolist(), found["onset"].astype(np.float64))
    return from_arrays(found["response"], found["story"].tolist(), *texts, **given)


def _simulated(recipe: EncodingRecipe) -> Iterator[Subject]:
    for name in names_of(recipe):
        if not name.isdigit():
            raise ValueError(f"subjects={name!r}: a simulated listener is named by its seed, a whole number")
        made = simulate(np.random.default_rng(int(name)), each=6)
        heard = made.listening
        tested = np.unique(heard.response.story.values[heard.response.split.values == "test"]).tolist()
        truth = made.features.assign_coords(band=("feature", ["surprisal"]))
        subject = _of_stories(recipe, name, heard, tested, WordVectors(made.lexicon, made.vectors, "vectors"))
        ceiling = _ceiling(recipe, made.repeats, "repeats")
        yield _changed(subject, ceiling=ceiling, information=truth, cortex="the listener is made up")


def _alice(recipe: EncodingRecipe) -> Iterator[Subject]:
    heard = load_alice(recipe.folder or None)
    tr, response = float(heard.facts["tr"]), heard.response.astype(np.float64)
    steps = make_pipeline(PolynomialDetrend(tr), ZScore())
    each = response.copy(data=np.stack([steps.fit_transform(one.drop_vars("listener")).values for one in response]))
    whole = {"auto": each, "run": each}.get(recipe.detrend, response)
    mean = whole.mean("listener")
    treated = {"folds": steps, "none": ZScore()}.get(recipe.detrend)
    yield Subject(
        names_of(recipe)[0],
        Listening(mean, heard.words, heard.facts),
        BlocksOfStory(recipe.blocks, gap=recipe.gap),
        BlocksOfStory(4, gap=recipe.gap),
        glove(),
        _ceiling(recipe, each, "split-half"),
        treated,
        cortex="regions of 10 mm whose centres are not in the files",
    )


def _components(recipe: EncodingRecipe) -> Iterator[Subject]:
    vectors = glove()
    loaded = {name: load_components(name, recipe.folder or None) for name in names_of(recipe)}
    common = set.intersection(*(set(heard.stories) for heard in loaded.values()))
    for name, heard in loaded.items():
        heard = heard.of([story for story in heard.stories if story in common]) if recipe.shared else heard
        subject = _of_stories(recipe, name, heard, list(TEST_STORIES), vectors)
        why = "test responses are means of repeats that are not there"
        yield _changed(
            subject,
            ceiling=_no_ceiling(recipe, why),
            cortex="principal components, whose maps are not in the files",
        )


def _voxels(recipe: EncodingRecipe) -> Iterator[Subject]:
    folder = Path(recipe.folder) if recipe.folder else None
    for name in names_of(recipe):
        tested = list(recipe.tested or TEST_STORIES)
        trained = [story for story in _stories_in(folder, name) if story not in tested][: recipe.stories or None]
        heard = load_voxels(name, [*trained, *tested], folder)
        subject = _of_stories(recipe, name, heard, tested, glove())
        yield _changed(
            subject,
            ceiling=_voxel_ceiling(recipe, name, tested, folder),
            cortex="voxels of one listener's own space, for which pycortex has the surfaces",
            facts={"outside": "ignore"},  # runs are trimmed, and words before the first volume still count
        )


def _bids(recipe: EncodingRecipe) -> Iterator[Subject]:
    masker = _masker(recipe)
    for name in recipe.subjects:
        heard = load_bids(recipe.folder, masker, subject=name, task=recipe.task, space=recipe.space or None)
        subject = _of_stories(recipe, name, heard, [], glove())
        space = heard.facts["space"]
        elsewhere = f"images of space {space!r}; those of MNI can be drawn" if space else "images that name no space"
        cortex = "volume" if space.startswith("MNI") else elsewhere
        yield _changed(subject, ceiling=_no_ceiling(recipe, "runs were heard once"), cortex=cortex, masker=masker)


def _arrays(recipe: EncodingRecipe) -> Iterator[Subject]:
    heard = arrays_of(recipe.folder)
    subject = _of_stories(recipe, names_of(recipe)[0], heard, [], glove())
    vertices = heard.response.sizes["target"] == 2 * VERTICES
    cortex = "fsaverage5" if vertices else subject.cortex
    yield _changed(subject, ceiling=_no_ceiling(recipe, "responses were measured once"), cortex=cortex)


LOADERS = {
    "simulated": _simulated,
    "alice": _alice,
    "lebel2023": _components,
    "voxels": _voxels,
    "bids": _bids,
    "arrays": _arrays,
}


def _of_stories(
    recipe: EncodingRecipe, name: str, heard: Listening, tested: list[str], vectors: WordVectors
) -> Subject:
    """Held-out stories, some of the others, drifts taken out; of a single story blocks are held out."""
    absent = [story for story in recipe.tested if story not in heard.stories]
    if absent:
        raise ValueError(
            f"tested={list(recipe.tested)!r} must be among the {len(heard.stories)} stories of {name!r}; "
            f"{absent!r} are not"
        )
    tested = list(recipe.tested) or tested or heard.stories[-1:]
    if len(heard.stories) == 1:
        cv, inner = BlocksOfStory(recipe.blocks, gap=recipe.gap), BlocksOfStory(4, gap=recipe.gap)
    else:
        trained = [story for story in sorted(heard.stories) if story not in tested][: recipe.stories or None]
        heard = heard.of([*trained, *tested])
        alone = len(trained) == 1
        cv, inner = (
            HeldOutStories(tested),
            BlocksOfStory(4, gap=recipe.gap) if alone else min(recipe.folds, len(trained)),
        )
    response, steps = heard.response, None
    if recipe.detrend in ("run", "folds") or (recipe.detrend, recipe.data) == ("auto", "bids"):
        steps = make_pipeline(PolynomialDetrend(float(heard.facts.get("tr", _tr(heard)))), ZScore())
    if (recipe.detrend, recipe.data) == ("auto", "arrays"):
        steps = ZScore()
    treated = None if recipe.detrend == "run" else steps
    if recipe.detrend == "run":
        response = steps.fit_transform(response)
    return Subject(
        name, Listening(response, heard.words, heard.facts), cv, inner, vectors, "none was asked for", treated
    )


def _changed(subject: Subject, **changes: Any) -> Subject:
    from dataclasses import replace

    return replace(subject, **changes)


def _ceiling(recipe: EncodingRecipe, several: xr.DataArray, usual: str) -> xr.Dataset | str:
    kind = usual if recipe.ceiling == "auto" else recipe.ceiling
    if kind == "none":
        return "none was asked for"
    return noise_ceiling(kind, several, rng=np.random.default_rng([recipe.seed, 1]))


def _voxel_ceiling(recipe: EncodingRecipe, name: str, tested: list[str], folder: Path | None) -> xr.Dataset | str:
    """From single repeats of the tested stories, if all have them."""
    if recipe.ceiling in ("none", "inter-subject"):
        return _no_ceiling(recipe, "voxels are of each listener's own brain")
    try:
        repeats = load_repeats(name, tested, folder)
    except ValueError as why:
        return _no_ceiling(recipe, str(why))
    dead = ~np.isfinite(repeats).all(("repeat", "row"))
    repeats = repeats.where(~dead, 0.0)  # a dead voxel has no ceiling, and is no reason to have none
    if recipe.detrend in ("run", "folds"):
        steps = make_pipeline(PolynomialDetrend(TR), ZScore())
        repeats = repeats.copy(data=np.stack([steps.fit_transform(one).values for one in repeats]))
    return _ceiling(recipe, repeats, "repeats")


def _no_ceiling(recipe: EncodingRecipe, why: str) -> str:
    if recipe.ceiling not in ("auto", "none"):
        raise ValueError(f"ceiling={recipe.ceiling!r} cannot be told from data={recipe.data!r}: {why}")
    return f"none: {why}"


def _tr(heard: Listening) -> float:
    time, volume = heard.response.time.values, heard.response.volume.values
    return float((time[1] - time[0]) / (volume[1] - volume[0]))


def _stories_in(folder: Path | None, subject: str) -> list[str]:
    from nextlens.probes.responses.folder import data_folder

    found = data_folder("ds003020", folder, "OpenNeuro ds003020") / "derivative" / "preprocessed_data" / subject
    stories = sorted(path.stem for path in found.glob("*.hf5"))
    if not stories:
        raise FileNotFoundError(f"there are no '*.hf5' in {str(found)!r}, from OpenNeuro ds003020")
    return stories


def _masker(recipe: EncodingRecipe) -> Any:
    try:
        from nilearn.maskers import NiftiLabelsMasker, NiftiMasker
    except ImportError as error:
        raise ImportError("a BIDS folder is read with nilearn: pip install 'nextlens[brain]'") from error
    if recipe.labels:
        return NiftiLabelsMasker(recipe.labels, standardize=None)
    return NiftiMasker(recipe.mask or None, standardize=None)
