"""Real brains: what is found in them, beside nulls and ceilings. Skipped, saying so, where the data are not."""

from __future__ import annotations

import os
import re
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline

from nextlens.probes.encoding import encode
from nextlens.probes.hemodynamics import Delays, PolynomialDetrend, ZScore
from nextlens.probes.noise_ceilings import noise_ceiling
from nextlens.probes.responses.alice2016 import REGIONS, TR, load_alice, published_rate
from nextlens.probes.responses.lebel2023 import TEST_STORIES, load_components
from nextlens.probes.responses.simulated import haemodynamic_response
from nextlens.probes.ridge_cv import RidgeCV
from nextlens.probes.story_folds import BlocksOfStory, HeldOutStories
from nextlens.probes.word_vectors import glove, word_rate
from nextlens.probes.words_to_volumes import Lanczos, SumOfWords, beside

NEAR = Path(__file__).parents[2] / "shared" / "data"


def folder(name):
    found = Path(os.environ.get("NEXTLENS_DATA", NEAR)) / name
    if not found.is_dir():
        pytest.skip("no data folder: set NEXTLENS_DATA (expects lebel2023/, alice2016/, standardebooks/)")
    return found


@lru_cache(maxsize=1)
def components(subject):
    return load_components(subject, folder("lebel2023"))


@pytest.fixture(scope="module")
def vectors():
    try:
        return glove()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def alice():
    return load_alice(folder("alice2016"))


@pytest.fixture(scope="module")
def listeners(alice):
    """Each listener detrended over the whole run and standardised, and their mean."""
    steps = make_pipeline(PolynomialDetrend(TR), ZScore())
    each = [steps.fit_transform(one.drop_vars("listener").astype(np.float64)).values for one in alice.response]
    whole = alice.response.copy(data=np.stack(each))
    return whole, whole.mean("listener")


def designed(alice, features, words_to_volumes=SumOfWords):
    return make_pipeline(words_to_volumes(alice.rows), ZScore(), Delays()).fit_transform(features)


def fitted(X, Y, **changes):
    given = {
        "model": RidgeCV(np.logspace(0, 7, 12), cv=BlocksOfStory(4)),
        "cv": BlocksOfStory(6),
        "rng": np.random.default_rng(0),
    }
    return encode(X, Y, **(given | changes))


def test_the_clock_of_alice_is_that_of_its_volumes(alice):
    """Word rate through our own response, at the beginning of each volume, is the authors'; ten volumes off, not."""
    fine = 0.1
    bins = np.round(alice.words.onset.values / fine).astype(int)
    impulses = np.bincount(bins, minlength=int(len(alice.rows) * TR / fine)).astype(float)
    ours = np.convolve(impulses, haemodynamic_response(fine))[:: int(TR / fine)][: len(alice.rows)]
    theirs = published_rate(folder("alice2016"))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95
    assert abs(np.corrcoef(ours[10:], theirs[:-10])[0, 1]) < 0.1


def test_ceilings_of_alice(listeners):
    whole, _ = listeners
    halves = noise_ceiling("split-half", whole, rng=np.random.default_rng(0))
    others = noise_ceiling("inter-subject", whole)
    np.testing.assert_allclose(halves.half_r, [0.63, 0.52, 0.77, 0.55, 0.51, 0.43], atol=0.02)
    np.testing.assert_allclose(others.ceiling, [0.29, 0.22, 0.41, 0.24, 0.22, 0.18], atol=0.01)
    assert halves.half_sd.max() > 0.03


@pytest.mark.filterwarnings("ignore:.*penalt:UserWarning")
def test_word_rate_in_six_regions(alice, listeners):
    """Parietal and premotor regions follow word rate beyond chance, anterior temporal ones do not."""
    _, mean = listeners
    found = fitted(designed(alice, word_rate(alice.words)), mean)
    assert found.attrs["n_kept"] == 6
    r = dict(zip(REGIONS, found.r.values, strict=True))
    assert min(r["LIPL"], r["LPreM"]) > 0.25
    assert max(r["LATL"], r["RATL"]) < 0.15
    assert (found.p.sel(target=["LIPL", "LPreM"]) < 0.05).all()
    assert float(found.least_p) == 1 / 324


@pytest.mark.filterwarnings("ignore:.*penalt:UserWarning")
def test_words_in_six_regions_beside_null_and_ceiling(alice, listeners, vectors):
    """GloVe and word rate against the mean of 27 listeners: about .55 .42 .54 .48 .42 .41, nulls below .2."""
    whole, mean = listeners
    X = designed(alice, beside([vectors.of(alice.words), word_rate(alice.words)]))
    ceiling = noise_ceiling("split-half", whole, rng=np.random.default_rng(0))
    found = fitted(X, mean, ceiling=ceiling)
    np.testing.assert_allclose(found.r, [0.556, 0.424, 0.543, 0.485, 0.425, 0.413], atol=0.04)
    assert (found.p == found.least_p).all()
    assert found.null_q95.max() < 0.29
    np.testing.assert_allclose(found.r / found.ceiling, [0.63, 0.51, 0.58, 0.58, 0.52, 0.54], atol=0.05)
    assert found.control_r.max() < 0.3
    strict = fitted(X, alice.response.mean("listener"), response=make_pipeline(PolynomialDetrend(TR), ZScore()))
    assert (strict.p < 0.01).all()
    assert float(found.mean_r) == pytest.approx(0.46, abs=0.02)
    assert float(strict.mean_r) == pytest.approx(0.38, abs=0.02)


def test_on_alice_time_alone_scores_under_shuffled_folds_and_not_under_blocks(alice, listeners):
    _, mean = listeners
    X = designed(alice, word_rate(alice.words), Lanczos)
    model = RidgeCV([1e3], cv=BlocksOfStory(4))
    with pytest.raises(ValueError, match="BlocksOfStory"):
        fitted(X, mean, model=model, cv=KFold(6, shuffle=True, random_state=0))
    shuffled = fitted(X, mean, model=model, cv=KFold(6, shuffle=True, random_state=0), allow_leakage=True)
    assert shuffled.control_r.sel(width=1).min() > 0.8
    assert shuffled.control_exceeds.all()
    assert fitted(X, mean, model=model).control_r.max() < 0.3


@pytest.mark.filterwarnings("ignore:.*penalt:UserWarning")
@pytest.mark.parametrize(("subject", "least"), [("UTS01", 0.098), ("UTS02", 0.144), ("UTS03", 0.172)])
def test_words_in_200_components_of_held_out_stories(subject, least, vectors):
    """GloVe and word rate reach the mean correlation known of them; word rate alone, tried on the last, does not."""
    heard = components(subject)
    for story in TEST_STORIES:
        part = heard.response.values[heard.response.story.values == story]
        np.testing.assert_allclose(part.std(0), 1, atol=0.01)
    steps = make_pipeline(SumOfWords(heard.rows), ZScore(), Delays())
    features = beside([vectors.of(heard.words), word_rate(heard.words)])
    given = {"cv": HeldOutStories(TEST_STORIES), "model": RidgeCV(np.logspace(0, 7, 12), cv=5)}
    found = fitted(steps.fit_transform(features), heard.response, **given)
    assert float(found.mean_r) >= least
    assert float(found.mean_p) == 1 / 1001
    assert float(found.mean_null_q95) < 0.02
    assert not found.control_r.values.any()
    if subject == "UTS03":
        alone = fitted(steps.fit_transform(word_rate(heard.words)), heard.response, **given)
        assert float(alone.mean_r) < 0.1
        assert (found.q < 0.05).sum() > 1.5 * (alone.q < 0.05).sum()


def test_no_transcript_is_in_the_repository():
    """No file under version control holds eight words in a row of a story that was told by others."""
    heard = components("UTS03")
    runs = {hash(tuple(words[i : i + 8])) for words in heard.texts().values() for i in range(len(words) - 7)}
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("this copy is not under version control")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    found = []
    for name in listed.split("\0"):
        if (
            name.endswith((".py", ".md", ".ipynb", ".txt", ".json", ".html", ".tsv", ".csv"))
            and (root / name).is_file()
        ):
            words = re.findall(r"[a-z']+", (root / name).read_text(encoding="utf-8").lower())
            found += [name for i in range(len(words) - 7) if hash(tuple(words[i : i + 8])) in runs]
    assert not found
