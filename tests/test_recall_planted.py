"""What recall must find and must not: planted in one listener, and slow noise alone in another."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import uniform_filter1d
from sklearn.pipeline import make_pipeline

from nextlens.probes.banded_ridge import BandedRidgeCV
from nextlens.probes.encoding import encode
from nextlens.probes.hemodynamics import Delays, ZScore
from nextlens.probes.recall import copied, lagged_matches, similar
from nextlens.probes.responses.simulated import PLANTED, simulate
from nextlens.probes.story_folds import HeldOutStories
from nextlens.probes.story_rows import label_rows, row_labels
from nextlens.probes.word_vectors import WordVectors, word_rate
from nextlens.probes.words_to_volumes import SumOfWords, beside

pytestmark = pytest.mark.filterwarnings("ignore:.*penalt:UserWarning")

SHARES = np.array([[1.0, 0.0], [0.99, 0.01], [0.9, 0.1], [0.5, 0.5]])


def scores(base, added, Y, test):
    """r of each target with two bands, the second of which may be dropped."""
    X = xr.DataArray(
        np.concatenate([base.values, added.values], 1), dims=("row", "feature"), coords=row_labels(base).coords
    )
    bands = {"base": slice(0, base.shape[1]), "recall": slice(base.shape[1], X.shape[1])}
    model = BandedRidgeCV(bands, np.logspace(0, 5, 6), cv=4, candidates=SHARES, refinements=0)
    return encode(X, Y, model=model, cv=HeldOutStories(test), rng=np.random.default_rng(0), draws=20).r.values


def test_planted_recall_is_found_in_its_targets_and_only_there():
    made = simulate(np.random.default_rng(0), train=10, test=2, volumes=160, repeats=8, each=6)
    heard, Y = made.listening, made.listening.response
    vectors = WordVectors(made.lexicon, made.vectors, "planted").of(heard.words)
    surprisal = made.features.assign_coords(band=("feature", ["surprisal"]))
    brought = SumOfWords(heard.rows)
    base = make_pipeline(brought, ZScore(), Delays(range(7))).fit_transform(
        beside([vectors, word_rate(heard.words), surprisal])
    )
    said = brought.fit_transform(WordVectors(made.lexicon, np.eye(len(made.lexicon)), "words").of(heard.words))
    matches = similar(Delays((0, 1)).fit_transform(said), gap=8, most=3)
    recall = Y.planted.values == "recall"
    test = np.unique(Y.story.values[Y.split.values == "test"]).tolist()
    found = {
        name: scores(base, ZScore().fit_transform(copied(Y[:, recall], some)), Y, test)
        for name, some in (("matched", matches), ("lagged", lagged_matches(matches, np.random.default_rng(1))))
    }
    gain = {kind: (found["matched"] - found["lagged"])[Y.planted.values == kind].mean() for kind in PLANTED}
    assert gain["recall"] > 0.25
    assert found["lagged"][recall].mean() < 0.15
    for kind in ("embedding", "surprisal", "absent"):
        assert abs(gain[kind]) < 0.03


def slow_listener(seed, stories=14, volumes=200, targets=12, width=6, runs=2):
    """Slow topics and slow noise: neighbours are alike in words and in drift. Test stories are means of runs."""
    rng = np.random.default_rng(seed)
    story = np.repeat([f"s{i:02d}" for i in range(stories)], volumes)

    def topics():
        return uniform_filter1d(rng.standard_normal((volumes, width)), 40, axis=0)

    def scaled(part):
        return part / part.std()

    heard = np.concatenate([0.6 * rng.standard_normal((volumes, width)) + scaled(topics()) for _ in range(stories)])
    X = label_rows(heard, story)
    clean = Delays((1, 2, 3)).fit_transform(X).values @ rng.standard_normal((3 * width, targets))
    noise = []
    for number in range(stories):
        n = runs if number >= stories - 2 else 1
        drift = uniform_filter1d(rng.standard_normal((n, volumes, targets)), 24, axis=1)
        noise.append((0.7 * rng.standard_normal((n, volumes, targets)) + 1.5 * scaled(drift)).mean(0))
    Y = label_rows(scaled(clean) + np.concatenate(noise), story, column="target")
    return X, ZScore().fit_transform(Y), [f"s{stories - 2:02d}", f"s{stories - 1:02d}"]


@pytest.mark.parametrize("gap", [4, 30])
def test_slow_noise_alone_is_not_recall(gap):
    """At a short gap a copy helps a lot, though nothing is recalled; and one from as far back helps as much."""
    X, Y, test = slow_listener(1)
    base = make_pipeline(ZScore(), Delays((1, 2, 3))).fit_transform(X)
    context = X.copy(data=np.concatenate([np.cumsum(X.values[X.story.values == s], 0) for s in np.unique(X.story)]))
    context = X.copy(data=context.values - np.roll(context.values, 8, axis=0) * (X.volume.values >= 8)[:, None])
    matches = similar(context, gap=gap, most=1)
    none = scores(base, X[:, :1] * 0, Y, test).mean()
    matched, lagged = (
        scores(base, ZScore().fit_transform(copied(Y, some, (1,))), Y, test).mean()
        for some in (matches, lagged_matches(matches, np.random.default_rng(1)))
    )
    assert abs(matched - lagged) < 0.02
    if gap == 4:
        assert matched - none > 0.05
