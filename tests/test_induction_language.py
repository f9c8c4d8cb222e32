"""Induction in language, end to end on small texts, and each number against a slower way to it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr

from nextlens.analyses import language_models
from nextlens.analyses.induction_language import by_length, compared, rises_with_length, scored, summarised
from nextlens.analyses.language_claims import gim_name
from nextlens.analyses.language_mixtures import Datastore, best_weight, mixed_scores, neighbour_votes
from nextlens.analyses.language_model_answers import OWN_LAWS, model_answers, read_before
from nextlens.analyses.language_models import HeadsTogether
from nextlens.analyses.language_numbers import summary
from nextlens.analyses.language_recipe import LanguageRecipe
from nextlens.analyses.language_run import run
from nextlens.analyses.language_stretches import Stretches, stretches_of
from nextlens.analyses.results_folder import NUMBERS
from nextlens.models.batch import Batch
from nextlens.models.induction.context_features import ContextFeatures, LawFeatures, ResidualFeatures
from nextlens.models.induction.exact import ExactInduction
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.residual_head import ResidualHead
from nextlens.models.induction.scores import Scores
from nextlens.models.induction.votes import Votes
from nextlens.models.objectives.matching import Matching
from nextlens.models.tasks.corpus import Corpus
from nextlens.models.transformer import Transformer, TransformerConfig


def sentences(rng: np.random.Generator, n: int) -> str:
    """Words that repeat phrases, so that there is something to match."""
    words = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "and", "then", "saw", "it"]
    phrases = [" ".join(rng.choice(words, rng.integers(3, 7))) for _ in range(12)]
    return " ".join(phrases[i] for i in rng.integers(len(phrases), size=n))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    for kind, n in (("stories", 9), ("others", 3)):
        (root / kind).mkdir()
        for i in range(n):
            (root / kind / f"{i}.txt").write_text(sentences(rng, 90))
    return root


def recipe(folders, **changes) -> LanguageRecipe:
    small = {
        "vocabulary": "words:1",
        "context": 40,
        "every": 4,
        "each": 6,
        "stretches": 12,
        "validating": 6,
        "n_layers": 1,
        "n_heads": 2,
        "d_model": 16,
        "n_ctx": 24,
        "steps": 30,
        "batch_size": 8,
        "matching_steps": 3,
        "reach": 8,
        "order": 3,
        "datastore": 300,
    }
    return LanguageRecipe(str(folders / "stories"), str(folders / "others"), **{**small, **changes})


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    return run(recipe(folders), place), place


def test_a_run_writes_figures_and_numbers_that_say_how_to_repeat_it(finished, folders):
    numbers, place = finished
    assert json.loads((place / NUMBERS).read_text()) == json.loads(json.dumps(numbers))
    for name in ("accuracy", "by_length", "thresholds"):
        assert (place / f"{name}.png").stat().st_size > 5_000
    assert LanguageRecipe.from_json(numbers["recipe"]) == recipe(folders)
    assert numbers["repeat"].startswith("nextlens gim evaluate")
    assert numbers["predictions"]["number"] == 72


def test_every_model_is_scored_on_the_same_predictions_under_every_rule(finished):
    accuracy = finished[0]["accuracy"]
    wanted = {"exact", "fuzzy", "teacher", "kNN-LM", "teacher and GIM", "Kneser-Ney 3-gram", gim_name("no corpus")}
    wanted |= {
        name
        for reference in ("in-domain", "out-of-domain", "both")
        for name in (f"infini-gram, {reference}", gim_name(reference), gim_name(reference, "8"))
    }
    assert wanted <= set(accuracy)
    for row in accuracy.values():
        if not row["tied"]["mean"]:
            assert row["strict"]["mean"] == row["inclusive"]["mean"] == row["expected"]["mean"]
        assert row["expected"]["mean"] <= row["inclusive"]["mean"] + 1e-9
        assert row["strict"]["interval_95"][0] <= row["strict"]["mean"] <= row["strict"]["interval_95"][1]
        assert 0 < row["bits"]["mean"] < 20


def test_claims_are_tested_one_by_one_under_both_rules_and_both_thresholds(finished):
    claims, accuracy = finished[0]["claims"], finished[0]["accuracy"]
    assert {one["claim"] for one in claims} == {1, 2, 3, 4}
    assert {one["rule"] for one in claims} == {"strict", "inclusive"}
    assert {one["threshold"] for one in claims if one["claim"] in (3, 4)} == {"fitted", "8"}
    (one,) = [c for c in claims if c["what"] == "exact above infini-gram, out-of-domain" and c["rule"] == "strict"]
    gap = accuracy["exact"]["strict"]["mean"] - accuracy["infini-gram, out-of-domain"]["strict"]["mean"]
    assert one["difference"] == pytest.approx(gap)


def test_the_summary_names_every_model_and_claim(finished, folders):
    numbers, place = finished
    said = summary(recipe(folders), numbers, place)
    assert all(name in said for name in numbers["accuracy"])
    assert "exact above infini-gram, out-of-domain" in said


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(finished, folders, tmp_path, monkeypatch):
    from nextlens.analyses import language_run

    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    monkeypatch.setattr(language_run, "distilled", stop)
    with pytest.raises(Stopped):
        run(recipe(folders), tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(language_run, "draw", lambda *_: None)
    again = run(recipe(folders), tmp_path, resume=True)
    timeless = {"cpu_seconds"}
    assert {k: v for k, v in again.items() if k not in timeless} == {
        k: v for k, v in finished[0].items() if k not in timeless
    }


def test_documents_are_split_whole_and_named_ones_are_where_they_should_be(folders):
    texts = recipe(folders, tested=("0", "3"), validated=("1", "2")).read()
    assert (texts.tested.names, texts.validated.names) == (("0", "3"), ("1", "2"))
    assert set(texts.references["in-domain"].names) == set("45678")
    assert len(texts.references["both"]) == 8


def test_what_is_no_recipe_is_refused(folders):
    with pytest.raises(ValueError, match="vocabulary='bpe' must be bytes, bpe:N or words:N"):
        recipe(folders, vocabulary="bpe")
    with pytest.raises(ValueError, match="'1' is both tested and validated on"):
        recipe(folders, tested=("1",), validated=("1", "2"))
    with pytest.raises(ValueError, match="tested='9' is not one of"):
        recipe(folders, tested=("9",)).read()
    with pytest.raises(ValueError, match="stretches=1 must be at least 2"):
        recipe(folders, stretches=1)
    with pytest.raises(ValueError, match="reach=25 must be at most n_ctx=24"):
        recipe(folders, reach=25)
    assert recipe(folders, reach=25, matching_steps=0).reach == recipe(folders, reach=25, checkpoint="some").reach


# --- the parts


def test_stretches_do_not_overlap_and_are_even_over_documents():
    corpus = Corpus([np.arange(200) % 50, np.arange(100, 350) % 50, np.arange(30)], n_tokens=50)
    found = stretches_of(corpus, 9, context=20, every=5, each=3, rng=np.random.default_rng(0))
    assert [found.document.count(name) for name in ("0", "1", "2")] == [5, 4, 0]
    assert {len(tokens) for tokens in found.tokens} == {31}
    assert found.positions.tolist() == [19, 24, 29]
    assert found.targets.tolist() == [t for tokens in found.tokens for t in tokens[[20, 25, 30]]]
    starts = sorted((d, int(tokens[0])) for d, tokens in zip(found.document, found.tokens, strict=True))
    assert len(set(starts)) == 9
    with pytest.raises(ValueError, match="n=99 stretches of 31 tokens are more than the 14"):
        stretches_of(corpus, 99, context=20, every=5, each=3, rng=np.random.default_rng(0))


def test_one_pass_says_what_the_matchers_say_by_themselves():
    model = Transformer(TransformerConfig(n_tokens=7, n_layers=2, d_model=8, n_ctx=12, seed=2))
    corpus = Corpus([np.random.default_rng(1).integers(7, size=120)], n_tokens=7)
    stretches = stretches_of(corpus, 2, context=20, every=3, each=4, rng=np.random.default_rng(0))
    sites = ["blocks.0.hook_resid_post", "ln_final.hook_normalized"]
    said = model_answers(model, stretches, sites)
    for name, features, distance in (
        (f"raw {sites[0]}", ResidualFeatures(model, sites[0]), "cosine"),
        (OWN_LAWS, LawFeatures(model), "jeffreys"),
    ):
        alone = stretches.votes(FuzzyInduction(features, distance=distance, window=20))
        np.testing.assert_allclose(said.similar[name].probabilities(7), alone.probabilities(7), atol=1e-5)
    laws = [LawFeatures(model)(tokens[:-1])[stretches.positions].exp().numpy() for tokens in stretches.tokens]
    np.testing.assert_allclose(said.laws, np.concatenate(laws), atol=1e-6)


def test_a_prediction_is_made_from_its_context_and_no_more():
    tokens = np.random.default_rng(2).integers(3, size=(2, 30))
    (one,), (other,) = (
        stretches_of(Corpus([text], n_tokens=3), 1, context=20, every=3, each=4, rng=np.random.default_rng(0)).tokens
        for text in (tokens[0], np.append(tokens[1, :9], tokens[0, 9:]))
    )
    said = []
    for text in (one, other):
        stretches = Stretches((text,), 19 + 3 * np.arange(4), 20, ("a",))
        same_pair = FuzzyInduction(lambda t: np.eye(3)[t], n_tokens=3, window=stretches.context)
        said.append([stretches.windowed_votes(ExactInduction(3)), stretches.votes(same_pair)])
    for of_one, of_other in zip(*said, strict=True):
        np.testing.assert_allclose(of_one.probabilities(3)[3], of_other.probabilities(3)[3], atol=1e-12)
    whole = ExactInduction(3).votes(one[9:29], np.array([19]))
    assert (whole.length[0], whole.row(0)[0].tolist()) == (said[0][0].length[3], said[0][0].row(3)[0].tolist())
    assert (said[0][0].probabilities(3)[0] != said[1][0].probabilities(3)[0]).any()


@pytest.mark.parametrize("n_ctx", [None, 3, 8, 12, 40])
def test_what_the_model_reads_is_what_its_features_read(n_ctx):
    class Reads(ContextFeatures):
        def read(self, tokens):
            return torch.arange(1.0, tokens.shape[1] + 1).expand(len(tokens), -1)[..., None]

    model = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=4, n_ctx=n_ctx or 50))
    stretches = Stretches((np.arange(30) % 3,), 9 + 2 * np.arange(10), 10, ("a",))
    counted = Reads(3, n_ctx)(stretches.tokens[0][:-1])[stretches.positions]
    assert read_before(model, stretches) == (int(counted.min()), int(counted.max()))


def test_heads_taught_together_have_the_losses_that_they_have_alone():
    model = Transformer(TransformerConfig(n_tokens=5, n_layers=2, d_model=8, n_ctx=12, seed=3))
    batch = Batch.from_tokens(np.random.default_rng(0).integers(5, size=(4, 12)))
    both = [
        {
            site: Matching(ResidualHead.for_model(model, site, 4), queries=6, keys=20)
            for site in ("blocks.0.resid_post", "ln_final.normalized")
        }
        for _ in range(2)
    ]
    alone = sum(one(model, batch) for one in both[0].values())
    together = HeadsTogether(both[1])(model, batch)
    torch.testing.assert_close(together, alone)
    both[0], both[1] = ({name: Matching(one.head, queries=6, keys=20) for name, one in each.items()} for each in both)
    assert HeadsTogether(both[1]).scores(model, batch) == {
        name: one.scores(model, batch) for name, one in both[0].items()
    }
    together.sum().backward()
    assert all(one.head.A.grad.abs().sum() > 0 for one in both[1].values())


def made_up(seed: int = 0) -> tuple[xr.Dataset, np.ndarray]:
    rng = np.random.default_rng(seed)
    corpus = Corpus([rng.integers(9, size=400) for _ in range(3)], n_tokens=9)
    stretches = stretches_of(corpus, 12, context=10, every=2, each=5, rng=rng)
    n = len(stretches.targets)

    def scores(p: float) -> Scores:
        right = rng.random(n) < p
        return Scores(right, right | (rng.random(n) < 0.1), right * 0.9, rng.random(n) < 0.2, rng.random(n))

    return scored({"good": scores(0.8), "bad": scores(0.2)}, stretches, 9, {"good": 0.1}), rng.integers(0, 12, n)


def test_differences_are_paired_and_their_verdict_follows_the_interval():
    data, _ = made_up()
    found = compared(data, "good", "bad", "strict", np.random.default_rng(0))
    assert found["difference"] == pytest.approx(float((data.strict[0] - data.strict[1]).mean()))
    assert found["verdict"] == "above"
    assert compared(data, "bad", "good", "strict", np.random.default_rng(0))["verdict"] == "below"
    same = compared(data, "good", "good", "strict", np.random.default_rng(0))
    assert (same["interval_95"], same["verdict"]) == ([0, 0], "not told apart")
    assert found["interval_95_documents"] is not None


def test_summaries_are_means_and_infinite_bits_have_none():
    data, _ = made_up()
    found = summarised(data, np.random.default_rng(0), draws=50)
    assert found["good"]["strict"]["mean"] == pytest.approx(float(data.strict.sel(model="good").mean()))
    wide, narrow = (found["good"]["strict"][name] for name in ("interval_95_documents", "interval_95"))
    assert wide != narrow
    assert wide[0] <= found["good"]["strict"]["mean"] <= wide[1]
    alone = data.assign_coords(document=("prediction", ["a"] * data.sizes["prediction"]))
    assert summarised(alone, np.random.default_rng(0), draws=50)["good"]["strict"]["interval_95_documents"] is None
    data.bits[1, 3] = np.inf
    assert summarised(data, np.random.default_rng(0), draws=50)["bad"]["bits"] is None


def test_lengths_share_out_all_predictions():
    data, length = made_up()
    table = by_length(data, length, ["bad", "good"], np.random.default_rng(0), draws=50)
    assert int(table.predictions.sum()) == data.sizes["prediction"]
    whole = (table["mean"] * table.predictions).sum("length") / table.predictions.sum()
    np.testing.assert_allclose(whole, data.strict.sel(model=["bad", "good"]).mean("prediction"))


def test_a_rise_with_length_is_found_where_there_is_one():
    rng, stretch = np.random.default_rng(0), np.repeat(np.arange(60), 20)
    length = rng.integers(0, 16, 1200)
    right = (rng.random(1200) < 0.1 + 0.15 * np.log2(1 + length)) * 1.0
    rises = rises_with_length(right, length, stretch, rng)
    slope = np.polyfit(np.log2(1 + length), right, 1)[0]
    assert rises["difference"] == pytest.approx(slope)
    assert rises["verdict"] == "above"
    assert rises_with_length(right[rng.permutation(1200)], length, stretch, rng)["verdict"] == "not told apart"


def test_mixtures_are_weighed_by_what_they_cost():
    rng = np.random.default_rng(0)
    one, other = rng.dirichlet(np.ones(5), 40), rng.dirichlet(np.ones(5), 40)
    targets = np.array([rng.choice(5, p=0.3 * a + 0.7 * b) for a, b in zip(one, other, strict=True)])
    p, q = one[np.arange(40), targets], other[np.arange(40), targets]
    weight, cost = best_weight(p, q)
    scored_by = {
        w: mixed_scores(one, Votes.of_rows([(0, np.arange(5), law) for law in other]), w, targets)
        for w in (0.0, 0.3, 0.9, weight)
    }
    for w, found in scored_by.items():
        laws = (1 - w) * one + w * other
        np.testing.assert_allclose(found.probability, laws[np.arange(40), targets])
        np.testing.assert_array_equal(found.strict, laws.argmax(1) == targets)
        assert cost <= -np.log2(found.probability).mean() + 1e-12
    assert cost == pytest.approx(-np.log2(scored_by[weight].probability).mean())


def test_neighbours_are_the_nearest_and_vote_for_what_follows_them():
    model = Transformer(TransformerConfig(n_tokens=5, n_layers=1, d_model=8, n_ctx=16, seed=1))
    corpus = Corpus([np.random.default_rng(2).integers(5, size=60)], n_tokens=5)
    store = Datastore.of(model, corpus, 40, "ln_final.normalized")
    queries = np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32)
    distance, following = store.nearest(queries, 3)
    far = ((queries[:, None] - store.keys) ** 2).sum(-1)
    np.testing.assert_allclose(distance / distance[:, :1], np.sort(far)[:, :3] / np.sort(far)[:, :1], rtol=1e-3)
    np.testing.assert_array_equal(following, store.following[np.argsort(far)[:, :3]])
    laws = neighbour_votes(distance, following, 0.5).probabilities(5)
    near = np.exp(-distance / 0.5)
    wanted = np.stack([[w[f == y].sum() for y in range(5)] for w, f in zip(near, following, strict=True)])
    np.testing.assert_allclose(laws, wanted / wanted.sum(1, keepdims=True))


def test_what_is_near_one_query_does_not_depend_on_the_others():
    rng = np.random.default_rng(4)
    keys, queries = rng.normal(size=(30, 3)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    store = Datastore(keys, np.arange(30))
    whole, one = store.nearest(queries, 5)[0], store.nearest(queries[2:3], 5)[0]
    np.testing.assert_allclose(whole[2:3], one, rtol=1e-4)
    apart = ((keys[:, None] - keys) ** 2).sum(-1) + np.diag(np.full(30, np.inf))
    assert store.unit == pytest.approx(apart.min(1).mean(), rel=1e-3)
    assert Datastore(keys[:1], np.arange(1)).unit == Datastore(keys[[0, 0]], np.arange(2)).unit == 1


def test_vocabularies_are_kept_and_read_again(folders, tmp_path):
    for kind in ("words:1", "bytes", "bpe:260"):
        vocabulary = recipe(folders, vocabulary=kind).read().vocabulary
        language_models.write_vocabulary(vocabulary, tmp_path / f"{kind}.json")
        again = language_models.read_vocabulary(tmp_path / f"{kind}.json")
        assert again.encode("the cat").tolist() == vocabulary.encode("the cat").tolist()
