"""Rules by which belief probes are scored: what is held out together, what weighs what, and the rivals."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.spatial.distance import pdist

from nextlens.analyses import prefix_rows
from nextlens.analyses.belief_geometry import RIVAL, UNWEIGHTED, belief_geometry
from nextlens.analyses.belief_protocols import Scorer, fold_labels, markov_beliefs
from nextlens.analyses.belief_training import BeliefRecipe
from nextlens.analyses.prefix_rows import Prefixes, listable, possible_words
from nextlens.analyses.sites import layers, side_by_side
from nextlens.models.processes import (
    Process,
    days_of_week,
    even,
    golden_mean,
    mess3,
    mixture,
    moon,
    rrxor,
    with_beginning_token,
    zero_one_random,
)
from nextlens.models.processes.mixed_states import every_word
from nextlens.models.recording import record
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.probes.belief import held_out
from nextlens.probes.ridge import r2
from nextlens.probes.truncated import truncated_least_squares

RRXOR = Prefixes.of(rrxor(), 9)


def words_of(prefixes: Prefixes) -> list[tuple[int, ...]]:
    tokens = prefixes.batch.tokens.numpy()
    return [tuple(tokens[b, : t + 1].tolist()) for b, t in zip(*np.nonzero(prefixes.first), strict=True)]


def features(prefixes: Prefixes, values: np.ndarray) -> xr.DataArray:
    coords = prefixes.beliefs.drop_vars("state", errors="ignore").coords
    return xr.DataArray(values, dims=("sample", "feature"), coords=coords)


# --- how many words there are


@pytest.mark.parametrize("process", [rrxor(), golden_mean(0.3), zero_one_random(), even()], ids=lambda p: p.name)
def test_possible_words_are_counted_without_listing_them(process, monkeypatch):
    monkeypatch.setattr(prefix_rows, "MOST_WORDS", 1)
    assert [possible_words(process, length) for length in (1, 4, 9)] == [
        len(every_word(process, length)[0]) for length in (1, 4, 9)
    ]


def test_words_of_a_process_whose_beliefs_never_close_are_bounded(monkeypatch):
    monkeypatch.setattr(prefix_rows, "MOST_WORDS", 1)
    assert possible_words(mess3(), 7) == 3**7


def test_a_process_that_forbids_much_is_listed_further():
    assert listable(rrxor(), 20)
    assert not listable(mess3(), 11)
    assert not listable(days_of_week(), 6)


# --- folds


def test_suffix_folds_keep_prefixes_with_the_same_three_last_tokens_together():
    words, labels = words_of(RRXOR), fold_labels(RRXOR, "suffix").values
    for word, label in list(zip(words, labels, strict=True))[::7]:
        together = {other for other, found in zip(words, labels, strict=True) if found == label}
        assert together == ({other for other in words if other[-3:] == word[-3:]} if len(word) >= 3 else {word})


def test_belief_folds_keep_prefixes_of_equal_belief_together():
    labels, beliefs = fold_labels(RRXOR, "belief").values, RRXOR.beliefs.values
    gap = np.abs(beliefs[:, None] - beliefs[None]).max(-1)
    np.testing.assert_array_equal(labels[:, None] == labels[None], gap < 1e-8)
    assert len(np.unique(labels)) == 35, "the spec's 36 mixed states less the root, which no prefix has"


@pytest.mark.parametrize("folds", ["prefix", "suffix", "belief"])
def test_what_must_stay_together_is_never_on_both_sides(folds):
    rng = np.random.default_rng(0)
    found = Scorer(RRXOR, folds=folds)(features(RRXOR, rng.normal(size=(len(RRXOR), 4))))
    labels = fold_labels(RRXOR, folds).values
    for label in np.unique(labels):
        assert len(np.unique(found.fold[labels == label])) == 1
    assert len(np.unique(found.fold)) == 5


def test_a_linear_code_is_found_at_belief_states_never_seen_and_names_of_states_are_not():
    """One-hot names tell belief states apart as well as can be; only folds by belief see that they place none."""
    rng, beliefs = np.random.default_rng(1), RRXOR.beliefs.values
    linear = beliefs @ rng.normal(size=(5, 40)) + 0.01 * rng.normal(size=(len(RRXOR), 40))
    labels = np.unique(fold_labels(RRXOR, "belief").values, return_inverse=True)[1]
    names = np.eye(labels.max() + 1)[labels]
    by = {folds: Scorer(RRXOR, folds=folds) for folds in ("prefix", "belief")}
    assert by["belief"](features(RRXOR, linear)).r2 > 0.99
    assert by["prefix"](features(RRXOR, names)).r2 > 0.97
    assert by["belief"](features(RRXOR, names)).r2 < 0.05


def test_prefix_folds_by_label_or_by_coordinate_are_equally_strict():
    X = np.random.default_rng(2).normal(size=(len(RRXOR), 3))
    labels = fold_labels(RRXOR, "prefix").values
    assert len(np.unique(labels)) == len(RRXOR)
    direct = held_out(X, RRXOR.beliefs.values, labels, weights=RRXOR.weights)
    assert Scorer(RRXOR)(features(RRXOR, X)).r2 == pytest.approx(direct.r2, abs=0.02)


def test_paper_protocol_holds_nothing_out_and_says_so():
    with pytest.raises(ValueError, match=r"folds='belief', but protocol='paper2024' holds nothing out"):
        Scorer(RRXOR, "paper2024", folds="belief")
    with pytest.raises(ValueError, match=r"folds='beleif' is not one of .*did you mean 'belief'"):
        Scorer(RRXOR, folds="beleif")
    sampled = Prefixes.of(rrxor(), 6, n_words=20)
    with pytest.raises(ValueError, match=r"protocol='paper2024' regresses on every word of 6 tokens.*too many"):
        Scorer(sampled, "paper2024")


def test_the_quantum_protocol_reads_all_layers_as_one_site_in_sample():
    model = Transformer(TransformerConfig(n_tokens=2, n_layers=2, d_model=8, d_mlp=8, n_ctx=6))
    prefixes = Prefixes.of(rrxor(), 6)
    found = belief_geometry(model, model.untrained(1), prefixes, protocol="quantum2025")
    assert found.scores.site.values.tolist() == ["all layers"]
    assert found.scores.attrs["in_sample"] is True
    assert layers(model) == [
        "blocks.0.hook_resid_pre",
        "blocks.0.hook_resid_post",
        "blocks.1.hook_resid_post",
        "ln_final.hook_normalized",
    ]
    X = side_by_side(record(model, prefixes.batch, layers(model), where=prefixes.first)).values
    fit = truncated_least_squares(X, prefixes.beliefs.values, prefixes.weights, n_splits=10, seed=0)
    assert found.r2() == pytest.approx(fit.r2)
    assert UNWEIGHTED not in found.scores.predictor.values
    with pytest.raises(ValueError, match=r"folds='suffix', but protocol='quantum2025' holds nothing out"):
        belief_geometry(model, model, prefixes, protocol="quantum2025", folds="suffix")


def test_folds_by_belief_need_as_many_belief_states_before_anything_is_trained():
    with pytest.raises(ValueError, match=r"'golden_mean' reaches 2 belief states within 10 tokens; 5 or more"):
        BeliefRecipe("golden_mean", folds="belief")


# --- weights


def test_unweighted_scores_are_those_of_equal_weights():
    model = Transformer(TransformerConfig(n_tokens=2, n_layers=1, d_model=8, d_mlp=8, n_ctx=6))
    prefixes = Prefixes.of(rrxor(), 6)
    found = belief_geometry(model, model.untrained(1), prefixes, sites=["hook_embed"])
    alike = belief_geometry(
        model,
        model.untrained(1),
        Prefixes(prefixes.process, prefixes.batch, prefixes.first, np.full(len(prefixes), 1 / len(prefixes)), True),
        sites=["hook_embed"],
    )
    assert found.r2(UNWEIGHTED) == pytest.approx(alike.r2())
    assert found.r2(UNWEIGHTED) != pytest.approx(found.r2(), abs=1e-3)


# --- rivals and nulls


@pytest.mark.parametrize("process", [mess3(), rrxor(), moon()], ids=lambda p: p.name)
def test_markov_beliefs_are_certain_of_the_last_three_tokens_once_read(process: Process):
    prefixes = Prefixes.of(process, 5)
    found = markov_beliefs(prefixes).values
    assert np.allclose(found.sum(1), 1)
    words = words_of(prefixes)
    long = [row for row, word in enumerate(words) if len(word) >= 3]
    assert np.allclose(found[long].max(1), 1)
    for row in long[::5]:
        same = [other for other in long if words[other][-3:] == words[row][-3:]]
        np.testing.assert_allclose(found[same], np.broadcast_to(found[row], (len(same), found.shape[1])), atol=1e-9)
    short = [row for row, word in enumerate(words) if len(word) < 3]
    assert (found[short].max(1) < 1 - 1e-9).any()


def test_there_is_no_rival_where_it_would_be_too_large_or_start_elsewhere():
    assert markov_beliefs(Prefixes.of(days_of_week(), 2)) is None
    assert markov_beliefs(Prefixes.of(with_beginning_token(golden_mean()), 4)) is None
    assert markov_beliefs(Prefixes.of(mixture([mess3(), mess3(0.6, 0.15)], [0.5, 0.5]), 3)) is not None


def test_a_site_that_holds_the_last_three_tokens_gives_the_rival_and_not_the_belief():
    remembered = markov_beliefs(RRXOR)
    score = Scorer(RRXOR)
    assert score(remembered, remembered).r2 > 0.999
    assert score(remembered).r2 < 0.5
    assert float(score.nulls(rrxor()).r2.sel(null="Markov-3 beliefs")) == pytest.approx(score(remembered).r2)


def test_the_rival_is_scored_at_every_site():
    model = Transformer(TransformerConfig(n_tokens=2, n_layers=1, d_model=8, d_mlp=8, n_ctx=6))
    found = belief_geometry(model, model.untrained(1), Prefixes.of(rrxor(), 6))
    assert RIVAL in found.scores.predictor.values
    assert np.isfinite(found.scores.r2.sel(predictor=RIVAL)).all()


# --- layers side by side


def test_sites_side_by_side_weigh_alike_whatever_their_scale():
    rng = np.random.default_rng(3)
    parts = {"one": rng.normal(size=(len(RRXOR), 3)), "two": rng.normal(size=(len(RRXOR), 5))}
    parts["two"] *= 1000.0
    recorded = xr.Dataset(
        {name: features(RRXOR, values).rename(feature=f"of {name}") for name, values in parts.items()}
    )
    joined = side_by_side(recorded, RRXOR.weights).values
    assert joined.shape == (len(RRXOR), 8)
    variance = RRXOR.weights @ (joined - RRXOR.weights @ joined) ** 2
    assert variance[:3].mean() == pytest.approx(1) == pytest.approx(variance[3:].mean())


def test_a_site_that_never_moves_is_kept_finite():
    recorded = xr.Dataset({"still": features(RRXOR, np.ones((len(RRXOR), 2)))})
    assert np.isfinite(side_by_side(recorded, RRXOR.weights).values).all()


# --- pairs


def test_pairwise_geometry_is_the_correlation_over_all_pairs():
    model = Transformer(TransformerConfig(n_tokens=2, n_layers=1, d_model=8, d_mlp=8, n_ctx=6))
    found = belief_geometry(model, model.untrained(1), Prefixes.of(rrxor(), 6), protocol="paper2024")
    pairs = found.pairwise(np.random.default_rng(0))
    counts = Prefixes.of(rrxor(), 6).extensions
    np.testing.assert_array_equal(found.weights, counts)
    repeated = np.repeat(np.arange(len(counts)), counts)
    for truth, values in {"belief": found.truth, "next-token law": found.next_token}.items():
        expected = np.corrcoef(pdist(values[repeated]), pdist(found.guess[repeated]))[0, 1] ** 2
        got = float(pairs.sel(metric="distance", truth=truth, predictor="probe"))
        assert got == pytest.approx(expected)
    assert pairs.attrs["in_sample"] is True


def test_pairs_of_drawn_rows_come_near_all_pairs():
    model = Transformer(TransformerConfig(n_tokens=2, n_layers=1, d_model=8, d_mlp=8, n_ctx=9))
    found = belief_geometry(model, model.untrained(1), RRXOR, sites=["blocks.0.resid_post"])
    drawn, every = (found.pairwise(np.random.default_rng(0), n_rows=n) for n in (400, 10**6))
    np.testing.assert_allclose(drawn, every, atol=0.1)
    assert drawn.attrs["pairs_of"] == 400
    assert every.attrs["pairs_of"] == len(RRXOR)


def test_r2_of_a_predictor_is_unchanged_by_the_scale_of_weights():
    rng = np.random.default_rng(4)
    truth, guess, weights = rng.normal(size=(20, 2)), rng.normal(size=(20, 2)), rng.random(20)
    assert r2(truth, guess, weights) == pytest.approx(r2(truth, guess, 1000 * weights))


def test_the_papers_shuffle_is_scored_against_the_true_beliefs():
    """Its error is about the variance of the beliefs, not that of the fit to permuted ones."""
    X = features(RRXOR, np.random.default_rng(5).normal(size=(len(RRXOR), 200)))
    score, truth = Scorer(RRXOR, "paper2024"), RRXOR.beliefs.values
    share = RRXOR.extensions / RRXOR.extensions.sum()
    variance = float((share @ (truth - share @ truth) ** 2).mean())
    assert score.shuffled(X).mse > variance
    assert score(X).mse < variance
