"""Recall in the brain: what was planted is found, and nothing else; no copy sees the future; verdicts hold."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.analyses import cli
from nextlens.analyses.encoding_data import subjects_of
from nextlens.analyses.encoding_spaces import Reader
from nextlens.analyses.induction_brain import (
    BASE,
    MATCHED,
    Configuration,
    copy_of,
    listener,
    moments,
    refuse_too_short,
    without_a_match,
    words_of,
)
from nextlens.analyses.induction_brain_matches import FEATURE, Distilled, Matching, distilled, last_words, rarity
from nextlens.analyses.induction_brain_numbers import gap_between, summary, verdict
from nextlens.analyses.induction_brain_recipe import RecallRecipe
from nextlens.analyses.induction_brain_run import MOMENTS, run
from nextlens.models.induction.residual_head import HeadConfig, ResidualHead
from nextlens.models.transformer import Transformer
from nextlens.models.transformer_config import TransformerConfig
from nextlens.models.vocabulary import Bytes
from nextlens.probes.recall import similar
from nextlens.probes.story_rows import label_rows
from nextlens.probes.words_to_volumes import label_words

SMALL = {"subjects": ("0",), "matchers": ("exact",), "values": ("response",), "draws": 30, "alphas": 4, "folds": 3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("recall")
    return run(RecallRecipe(**SMALL, planted=(0.3,)), place), place


def test_planted_recall_is_recovered_and_nothing_else_is(finished):
    (row,) = finished[0]["subjects"]["0"]["configurations"]
    assert row["planted"]["recall"] > 0.3
    for kind in ("embedding", "surprisal"):
        assert abs(row["planted"][kind]) < 0.03
    assert abs(row["planted"]["absent"]) < 0.12
    assert gap_between(row, MATCHED, "lagged")["interval_95"][0] > 0.05
    for control in ("lagged", "uniform", "permuted", "no match"):
        assert abs(row["r"][control] - row["r"][BASE]) < 0.05
    assert row["targets_using_it"][MATCHED] > 0.2


@pytest.mark.parametrize("value", ["response", "stimulus"])
def test_where_nothing_matched_is_what_a_copy_has_beside_what_it_copies(one, value):
    matches = Matching(one.subject, one.recipe, None, {}).of("embedding", 8)
    how = Configuration("embedding", value, 8)
    whole, bare = copy_of(one, matches, how), without_a_match(one, matches, how)
    assert bare.shape == (len(one.response), 4)
    same = np.abs(whole.values[:, :, None] - bare.values[:, None]).max(0) < 1e-5
    assert same.sum(0).tolist() == [1, 1, 1, 1]
    volume = one.response.volume.values
    assert (bare.values[(volume >= 1) & (volume < 8), 0] > 0).all()


def test_a_run_says_what_would_have_been_seen_and_where_it_helped(finished):
    numbers, place = finished
    one = numbers["subjects"]["0"]
    assert one["planted"][0]["interval_95"][0] > 0.1
    assert one["verdict"] == "replicated"
    (moments,) = json.loads((place / MOMENTS).read_text()).values()
    assert len(moments) == 5
    assert all(moment["words"] and moment["story"] in one["tested"] for moment in moments)
    assert moments[0]["gain"] >= moments[-1]["gain"] > 0
    assert any(moment["recalled"] for moment in moments)
    assert {path.name for path in place.glob("*.png")} == {"recall.png", "planted.png"}
    said = summary(RecallRecipe.from_json(numbers["recipe"]), numbers, place)
    assert "recall +0" in said
    assert "it is not known whether" in said


@pytest.fixture(scope="module")
def one():
    recipe = RecallRecipe(**SMALL)
    (subject,) = subjects_of(recipe.encoding)
    return listener(subject, recipe)


@pytest.mark.parametrize("matcher", ["exact", "embedding", "momentary"])
def test_no_match_changes_with_a_word_that_is_still_to_come(one, matcher):
    recipe, words = one.recipe, one.subject.heard.words
    story, volume = words.story.values[0], 120
    late = (words.story.values == story) & (words.volume.values > volume)
    text = np.where(late, words.text.values[0], words.text.values)
    heard = replace(one.subject.heard, words=words.assign(text=("word", text)))
    found = []
    for subject in (one.subject, replace(one.subject, heard=heard)):
        matching = Matching(subject, recipe, None, {})
        weights = np.ones(len(text)) if matcher == "embedding" else None
        if weights is not None:  # how rare a word is, is counted over whole training stories
            vectors = subject.vectors.of(subject.heard.words)
            context = last_words(vectors, subject.heard.words, subject.heard.rows, recipe.words, weights)
            matches = similar(context, gap=8)
        else:
            matches = matching.of(matcher, 8)
        rows = subject.heard.response
        early = (rows.story.values[matches.row] == story) & (rows.volume.values[matches.row] <= volume)
        found.append({(int(r), int(e)) for r, e in zip(matches.row[early], matches.earlier[early], strict=True)})
    assert found[0] == found[1]
    assert found[0]


def test_no_copy_sees_a_response_nearer_than_the_gap(one):
    matches = Matching(one.subject, one.recipe, None, {}).of("exact", 8)
    how = Configuration("exact", "response", 8)
    rows = one.response
    story, volume = rows.story.values[0], 100
    noise = np.random.default_rng(0).standard_normal(rows.shape)
    late = (rows.story.values == story) & (rows.volume.values > volume - 8)
    kept = (rows.story.values == story) & (rows.volume.values <= volume)
    response = rows.copy(data=np.where(late[:, None], noise, rows.values))
    changed = replace(one, subject=replace(one.subject, heard=replace(one.subject.heard, response=response)))
    copies = [copy_of(this, matches, how).values[kept] for this in (one, changed)]
    varying = copies[0].std(0) > 0
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(copies[0][:, varying].T, copies[1][:, varying].T, strict=True)]
    np.testing.assert_allclose(r, 1.0, atol=1e-9)  # z-scores of a story are of the whole story: up to scale


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=25)
@given(seeds, st.integers(1, 6))
def test_contexts_are_means_of_the_last_words_by_brute_force(seed, n):
    rng = np.random.default_rng(seed)
    rows = label_rows(np.zeros((14, 1)), ["b"] * 8 + ["a"] * 6)
    story = np.repeat(["a", "b"], [7, 9])
    volume = np.concatenate([np.sort(rng.integers(0, 6, 7)), np.sort(rng.integers(0, 8, 9))])
    words = xr.Dataset({"story": ("word", story), "volume": ("word", volume), "text": ("word", story)})
    values, weight = rng.standard_normal((16, 2)), rng.random(16) + 0.1
    features = xr.DataArray(values, dims=("word", "feature"))
    found = last_words(features, words, rows, n, weight)
    for row in range(14):
        mine = np.flatnonzero((story == rows.story.values[row]) & (volume <= rows.volume.values[row]))[-n:]
        wanted = np.average(values[mine], axis=0, weights=weight[mine]) if len(mine) else np.zeros(2)
        np.testing.assert_allclose(found.values[row], wanted, atol=1e-5)


def test_rare_words_weigh_more_and_only_training_words_are_counted():
    words = xr.Dataset({"text": ("word", np.array(["the"] * 50 + ["whale"] + ["new"] * 5))})
    found = rarity(words, np.arange(56) < 51)
    assert found[0] < found[50] < found[55] == 1.0


def test_a_distilled_head_finds_what_laws_find_better_than_an_untaught_one():
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((1500, 6))
    states = np.concatenate([hidden, 4 * rng.standard_normal((1500, 10))], axis=1).astype(np.float32)
    unembedding = torch.from_numpy(rng.standard_normal((6, 30)).astype(np.float32))
    found = distilled(states, hidden.astype(np.float32), unembedding, 150, np.random.default_rng(1), "embed")
    assert found.head.A.shape == (FEATURE, 16)
    assert found.after["rank_correlation"] > found.before["rank_correlation"] + 0.2
    assert found.after["reciprocal_rank"] > 1.5 * found.before["reciprocal_rank"]
    with pytest.raises(ValueError, match="too few to distil"):
        distilled(states[:100], hidden[:100].astype(np.float32), unembedding, 1, rng, "embed")


class Counting(Reader):
    """The state of a word is its number."""

    @property
    def model(self):
        return SimpleNamespace(sites=("first", "last"), unembedding=torch.eye(1))

    def read(self, words, sites=()):
        numbers = np.arange(words.sizes["word"], dtype=np.float32)[:, None]
        return SimpleNamespace(keys={"story": "key"}, states=lambda site: label_words(numbers, words))


def test_a_head_is_taught_by_words_of_training_stories_only(one, tmp_path, monkeypatch):
    taught = []

    def instead(states, read, unembedding, steps, rng, site):
        taught.append((states[:, 0].astype(int), read[:, 0].astype(int)))
        return Distilled(ResidualHead(HeadConfig(site, 1, 2, 0)), {}, {})

    monkeypatch.setattr("nextlens.analyses.induction_brain_matches.distilled", instead)
    recipe = replace(one.recipe, site="first", checkpoint="none")
    Matching(one.subject, recipe, Counting(recipe, tmp_path), {})._head()
    story = one.subject.heard.words.story.values
    for numbers in taught[0]:
        assert set(story[numbers]) == set(story) - set(one.subject.tested)


def test_matchers_of_a_model_read_it_up_to_the_end_of_each_volume(tmp_path):
    recipe = RecallRecipe(
        **{**SMALL, "matchers": ("distilled", "states")}, checkpoint="given", stories=3, distillation=2
    )
    model = Transformer(TransformerConfig(n_tokens=256, n_ctx=512, d_model=8, n_layers=1, n_heads=2, seed=0)).eval()
    model.vocabulary = Bytes()
    reader = Reader(recipe, tmp_path)
    reader.__dict__["model"] = model
    (subject,) = subjects_of(recipe.encoding)
    few = subject.heard.words.isel(word=np.flatnonzero(subject.heard.words.volume.values < 140))
    subject = replace(subject, heard=replace(subject.heard, words=few))
    matching = Matching(subject, recipe, reader, {})
    assert matching.site == "blocks.0.resid_post"
    contexts = {name: matching.context(name) for name in ("states", "distilled")}
    assert {name: one.shape[1] for name, one in contexts.items()} == {"states": 8, "distilled": FEATURE}
    words, rows = subject.heard.words, subject.heard.rows
    states = reader.read(words, (matching.site,)).states(matching.site).values
    row = 60
    last = np.flatnonzero(
        (words.story.values == rows.story.values[row]) & (words.volume.values <= rows.volume.values[row])
    )[-1]
    trained = ~np.isin(words.story.values, subject.tested)
    np.testing.assert_allclose(contexts["states"].values[row], (states - states[trained].mean(0))[last], atol=1e-4)
    assert len(matching.heads) == 1


@pytest.mark.parametrize(
    ("interval", "planted", "said"),
    [
        ((0.001, 0.03), [], "replicated"),
        ((0.001, 0.01), [], "smaller"),
        ((-0.01, 0.01), [(0.1, 0.2)], "not replicated"),
        ((-0.01, 0.01), [(-0.1, 0.2)], "not decidable"),
        ((-0.01, 0.03), [(0.1, 0.2)], "not decidable"),
        ((-0.03, -0.01), [(0.1, 0.2)], "not replicated"),
    ],
)
def test_verdicts(interval, planted, said):
    """The base scores .1, so that a gain of 20 % is .02."""
    row = {"r": {BASE: 0.1}, "differences": [{"one": MATCHED, "other": "lagged", "interval_95": interval}]}
    assert verdict(row, [{"interval_95": list(one)} for one in planted]) == said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matchers": ("fuzzy",)}, "matchers='fuzzy'"),
        ({"matchers": ("states",)}, "name its checkpoint"),
        ({"values": ("words",)}, "values='words'"),
        ({"gaps": (0,)}, "gaps=0"),
        ({"delays": (0, 1)}, "what came next"),
        ({"planted": (-0.1,)}, "planted"),
        ({"data": "fmri"}, "data='fmri'"),
        ({"values": ()}, "values is empty"),
    ],
)
def test_impossible_recipes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RecallRecipe(**options)


def test_a_command_gives_back_its_recipe(monkeypatch):
    recipe = RecallRecipe(subjects=("0", "1"), matchers=("exact",), gaps=(8, 30), planted=(0.2,), shared=True, seed=3)
    asked = []
    monkeypatch.setattr(
        "nextlens.analyses.induction_brain_run.run", lambda recipe, folder, **_: asked.append(recipe) or {}
    )
    monkeypatch.setattr("nextlens.analyses.induction_brain_numbers.summary", lambda *_: "")
    cli.main(recipe.command.split()[1:])
    assert asked == [recipe]


def test_words_of_a_moment_are_those_before_it(one):
    words = one.subject.heard.words
    story = words.story.values[0]
    mine = words.story.values == story
    wanted = words.text.values[mine & np.isin(words.volume.values, (46, 47, 48))]
    assert words_of(one.subject, story, 50) == " ".join(wanted.tolist())


def test_a_gain_is_smoothed_inside_its_story(one):
    """All is gained in the last volume of a story; nothing of it is in the first of the next."""
    rows = one.response.isel(target=[0])
    names = rows.story.values[np.r_[0, -1]]
    truth = xr.DataArray(
        np.zeros((60, 1)),
        dims=("row", "target"),
        coords={"story_of_row": ("row", np.repeat(names, 30)), "volume": ("row", np.tile(np.arange(30), 2))},
    )
    truth[29] = 1.0
    still = xr.Dataset({"prediction": truth * 0.0, "measured": truth, "state": ("target", ["kept"])})
    said = moments(
        one,
        Matching(one.subject, one.recipe, None, {}).of("exact", 8),
        {MATCHED: still.assign(prediction=truth), "lagged": still},
        most=6,
    )
    gains = {(moment["story"], moment["volume"]): moment["gain"] for moment in said}
    assert gains[names[0], 28] == pytest.approx(max(gains.values()))
    assert gains[names[0], 28] > 1
    assert all(gain < 0.1 for (story, _), gain in gains.items() if story == names[1])


@pytest.mark.parametrize(
    ("stories", "gap", "said"),
    [(1, 8, "holds one story of '0'; recall needs several"), (3, 199, "gaps=199 leaves nothing to recall")],
)
def test_where_nothing_can_be_recalled_is_said(one, stories, gap, said):
    heard = one.subject.heard
    subject = replace(one.subject, heard=heard.of(heard.stories[:stories]))
    refuse_too_short(one.subject, replace(one.recipe, gaps=(198,)))
    with pytest.raises(ValueError, match=said):
        refuse_too_short(subject, replace(one.recipe, gaps=(8, gap)))
