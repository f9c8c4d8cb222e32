"""Fuzzy induction by whatever features: against its definition, token by token, and what others get wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config

from nextlens.models.batch import Batch
from nextlens.models.induction import fuzzy as module
from nextlens.models.induction.context_features import (
    BeliefFeatures,
    GivenFeatures,
    LawFeatures,
    ResidualFeatures,
    context_of,
)
from nextlens.models.induction.features import FeatureTable, reading
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.matching_model import MatchingConfig, MatchingModel
from nextlens.models.induction.residual_head import ResidualHead, site_values
from nextlens.models.induction.similarity import DISTANCES, Kind
from nextlens.models.induction.window_features import WindowFeatures
from nextlens.models.processes import golden_mean, mess3
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.transformer import Transformer, TransformerConfig
from tests.test_kernel_laws import foreign

N_TOKENS = 3
MODEL = Transformer(TransformerConfig(n_tokens=N_TOKENS, n_layers=2, n_heads=2, d_model=16, n_ctx=6, seed=1))
MATCHING = MatchingModel(MatchingConfig(n_tokens=N_TOKENS, n_out=5, n_layers=1, n_heads=2, d_model=16, reach=4, seed=2))
HEAD = ResidualHead.for_model(MODEL, "blocks.0.resid_post", 4, seed=3)
SITE = "blocks.1.resid_post"

#: A matcher of every kind.
MATCHERS = {
    "matching model": FuzzyInduction(WindowFeatures(MATCHING)),
    "residual stream": FuzzyInduction(ResidualFeatures(MODEL, SITE)),
    "head": FuzzyInduction(ResidualFeatures(MODEL, head=HEAD), temperature=0.5),
    "laws, Jeffreys": FuzzyInduction(LawFeatures(MODEL), distance="jeffreys"),
    "laws, Jensen-Shannon": FuzzyInduction(LawFeatures(MODEL), distance="jensen-shannon", temperature=0.2),
    "beliefs": FuzzyInduction(BeliefFeatures(mess3()), temperature=0.01),
    "window": FuzzyInduction(BeliefFeatures(mess3()), temperature=0.3, window=3),
    "given": FuzzyInduction(lambda tokens: np.eye(3)[tokens] + 0.1, n_tokens=N_TOKENS),
}
every_matcher = pytest.mark.parametrize("name", MATCHERS)


def likeness(name: str, one: np.ndarray, other: np.ndarray) -> float:
    """How alike two contexts are, each read alone: the definition."""
    matcher = MATCHERS[name]

    def said(tokens):
        with torch.no_grad():
            read = reading(tokens[None], torch.device("cpu"))
            if name == "matching model":
                return MATCHING(reading(tokens[None, -4:], torch.device("cpu")))[0, -1].double().numpy()
            if name in ("residual stream", "head"):
                with MODEL.watched("blocks.0.resid_post", SITE) as seen:
                    MODEL(read)
                found = seen[SITE] if name == "residual stream" else seen["blocks.0.resid_post"] @ HEAD.A.T
                return found[0, -1].double().numpy()
            if name in ("beliefs", "window"):
                return mess3().beliefs(tokens[None])[0, -1]
            return np.eye(3)[tokens[-1]] + 0.1 if name == "given" else MODEL.log_probs(read)[0, -1].double().numpy()

    a, b = said(one), said(other)
    if matcher.distance == "cosine":
        far = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    elif matcher.distance == "jeffreys":
        far = ((np.exp(a) * (a - b)).sum() + (np.exp(b) * (b - a)).sum()) / 2
    else:
        m = np.log((np.exp(a) + np.exp(b)) / 2)
        far = ((np.exp(a) * (a - m)).sum() + (np.exp(b) * (b - m)).sum()) / 2
    return math.exp(-far / matcher.temperature)


@every_matcher
def test_votes_are_sums_of_similarities_of_contexts_read_alone(name):
    tokens = np.random.default_rng(0).integers(N_TOKENS, size=6)
    votes = MATCHERS[name].votes(tokens)
    assert votes.length.tolist() == [0] * 6
    for position in range(6):
        expected = np.zeros(N_TOKENS)
        for i in range(0 if name != "window" else max(0, position - 2), position):
            expected[tokens[i + 1]] += likeness(name, tokens[: i + 1], tokens[: position + 1])
        token, weight = votes.row(position)
        assert token.tolist() == np.flatnonzero(expected).tolist()
        np.testing.assert_allclose(weight, expected[token], rtol=1e-5)


@every_matcher
def test_places_are_every_earlier_context_and_give_the_votes(name):
    matcher = MATCHERS[name]
    tokens = np.random.default_rng(5).integers(N_TOKENS, size=6)
    places, votes = matcher.places(tokens), matcher.votes(tokens, np.array([5]))
    assert (places.source, places.length) == ("similar", 0)
    assert places.offset.tolist() == ([4, 5] if name == "window" else [1, 2, 3, 4, 5])
    assert (places.document == -1).all()
    assert (places.token == tokens[places.offset]).all()
    for token, weight in zip(*votes.row(0), strict=True):
        assert places.weight[places.token == token].sum() == pytest.approx(weight, rel=1e-6)
    assert len(matcher.places(tokens[:1])) == 0


@every_matcher
def test_reading_token_by_token_gives_the_votes_of_reading_all_at_once(name):
    matcher = MATCHERS[name]
    tokens = np.random.default_rng(7).integers(N_TOKENS, size=15)
    together, reader = matcher.votes(tokens), matcher.reader()
    for position, token in enumerate(tokens.tolist()):
        one, whole = reader.read(token), together.take(np.array([position]))
        assert one.token.tolist() == whole.token.tolist()
        np.testing.assert_allclose(one.weight, whole.weight, rtol=1e-4)


@every_matcher
def test_some_positions_in_any_order_and_in_small_blocks_are_those_of_all(name, monkeypatch):
    matcher = MATCHERS[name]
    tokens = np.random.default_rng(6).integers(N_TOKENS, size=17)
    whole = matcher.votes(tokens)
    monkeypatch.setattr(module, "SIMILARITIES_AT_A_TIME", 40)
    rows = np.array([16, 0, 5, 5, 11])
    some, taken = matcher.votes(tokens, rows), whole.take(rows)
    assert some.token.tolist() == taken.token.tolist()
    assert some.first.tolist() == taken.first.tolist()
    np.testing.assert_allclose(some.weight, taken.weight, rtol=1e-4)
    assert len(matcher.votes(tokens, np.array([], np.int64))) == 0


# --- contexts that are longer than what the model reads


@pytest.mark.parametrize("overlap", [0, 3, 5])
def test_a_long_text_is_read_in_chunks_and_each_position_has_the_most_history(overlap):
    tokens = np.random.default_rng(0).integers(N_TOKENS, size=14)
    features = ResidualFeatures(MODEL, SITE, overlap=overlap)
    found, starts = features(tokens), range(0, 14, 6 - overlap)
    for t in range(14):
        first = next(start for start in starts if t < start + 6)
        alone = ResidualFeatures(MODEL, SITE)(tokens[first : t + 1])[-1]
        torch.testing.assert_close(found[t], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(features.last(tokens[: t + 1]), alone, atol=1e-5, rtol=1e-5)
    for time in (5, 6, 7, 9, 13):
        torch.testing.assert_close(features(tokens[:time]), found[:time], atol=1e-5, rtol=1e-5)


def test_the_context_of_a_model_is_found_wherever_it_says_it():
    assert context_of(MODEL) == 6
    gpt2 = GPT2Config(vocab_size=3, n_positions=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    assert context_of(foreign(gpt2, "GPT-2")) == 8
    assert context_of(Recurrent(RecurrentConfig(n_tokens=3))) is None
    assert context_of(mess3()) is None


def test_a_site_is_read_without_its_graph_and_no_further_than_it():
    batch, later = Batch.from_tokens([[0, 1, 2, 0]]), []
    hook = MODEL.blocks[1].register_forward_hook(lambda *_: later.append(1))
    try:
        values = site_values(MODEL, batch, "blocks.0.resid_post")
    finally:
        hook.remove()
    assert not values.requires_grad
    assert later == []
    with MODEL.watched("blocks.0.resid_post") as seen:
        MODEL(batch)
    torch.testing.assert_close(values, seen["blocks.0.resid_post"].detach())
    with pytest.raises(ValueError, match="a matcher reads one a position"):
        site_values(MODEL, batch, "blocks.0.attn.pattern")
    with pytest.raises(ValueError, match=r"did you mean .*resid_post"):
        ResidualFeatures(MODEL, "blocks.0.resid_pots")


# --- what published code gets wrong


def same_last_token(n_tokens: int = 10) -> FuzzyInduction:
    return FuzzyInduction(lambda tokens: np.eye(n_tokens)[tokens], n_tokens=n_tokens)


@pytest.mark.parametrize(("tokens", "answer"), [([9, 9, 9, 9], 9), ([1, 2, 2], 2), ([5, 5], 5)])
def test_the_last_token_itself_is_proposed(tokens, answer):
    law = same_last_token().votes(np.array(tokens), np.array([len(tokens) - 1])).probabilities(10)[0]
    assert law.argmax() == answer
    assert law[answer] > 0.9


def test_no_array_has_the_size_of_the_vocabulary():
    matcher = FuzzyInduction(lambda tokens: np.ones((len(tokens), 2)), n_tokens=2**40)
    votes = matcher.votes(np.array([2**39, 7, 2**39, 7]))
    assert votes.row(3)[0].tolist() == [7, 2**39]
    np.testing.assert_allclose(votes.row(3)[1], [2, 1])


def test_one_pass_reads_all_the_windows_of_a_text():
    read = []

    def features(tokens):
        read.append(len(tokens))
        return np.eye(10)[tokens]

    matcher = FuzzyInduction(features, n_tokens=10)
    tokens = np.arange(60) % 10
    matcher.votes(tokens)
    assert read == [60]
    matcher.votes(tokens, np.array([9, 29]))
    assert read == [60, 30]


def test_contexts_too_far_for_double_precision_still_have_a_law():
    angle = np.array([0.0, 1.0, 2.0, 2.9])
    matcher = FuzzyInduction(
        lambda tokens: np.stack([np.cos(angle), np.sin(angle)], 1)[: len(tokens)], n_tokens=4, temperature=1e-5
    )
    assert matcher.votes(np.arange(4)).probabilities(4)[3].round(6).tolist() == [0, 0, 0, 1]


def test_laws_that_forbid_each_other_have_no_vote_and_what_is_forbidden_by_both_is_no_matter():
    process = golden_mean()
    tokens = np.array([0, 1, 0, 0, 1])
    matcher = FuzzyInduction(LawFeatures(process), distance="jeffreys")
    for position, row in enumerate(matcher.votes(tokens).probabilities(2)):
        said = process.next_token(process.beliefs(tokens[None])[0])
        same = [i for i in range(position) if np.allclose(said[i], said[position])]
        expected = np.bincount(tokens[1:][same], minlength=2) / len(same) if same else np.full(2, 0.5)
        np.testing.assert_allclose(row, expected, atol=1e-9)


def test_by_the_beliefs_of_a_process_a_long_context_says_what_the_ideal_observer_says():
    process = mess3()
    tokens = process.sample(1, 4000, np.random.default_rng(0))[0]
    last = np.arange(3800, 4000, 4)
    law = FuzzyInduction(BeliefFeatures(process), temperature=1e-3).votes(tokens, last).probabilities(3)
    ideal = process.next_token(process.beliefs(tokens[None])[0])[last]
    context_free = np.bincount(tokens, minlength=3) / len(tokens)
    assert np.abs(law - ideal).mean() < 0.04
    assert np.abs(context_free - ideal).mean() > 0.1


def test_distances_are_computed_on_the_device_that_was_asked_for(monkeypatch):
    devices = []

    def distance(rows, columns):
        devices.append((rows.device.type, columns.device.type))
        return torch.zeros(len(rows), len(columns))

    monkeypatch.setitem(DISTANCES, "cosine", Kind(distance, 1.0))
    matcher = FuzzyInduction(lambda tokens: np.ones((len(tokens), 2)), n_tokens=3, device="meta")
    assert matcher.votes(np.array([0, 1, 2])).row(2)[1].tolist() == [1, 1]
    assert len(matcher.places(np.array([0, 1, 2]))) == 2
    assert devices == [("meta", "meta")] * 2


# --- refusals


def nan_at(row: int):
    def features(tokens):
        found = np.ones((len(tokens), 2))
        found[row:] = np.nan
        return found

    return features


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FuzzyInduction(np.eye(3).__getitem__), "n_tokens is None; features that are a function"),
        (lambda: FuzzyInduction(LawFeatures(MODEL), n_tokens=4), "n_tokens=4 and the 3 of the features differ"),
        (lambda: same_last_token(0), "n_tokens=0 must be at least 1"),
        (lambda: FuzzyInduction(LawFeatures(MODEL), distance="jsd"), "distance='jsd' is not one of"),
        (lambda: FuzzyInduction(LawFeatures(MODEL), temperature=0.0), r"temperature=0\.0 must be finite and above 0"),
        (lambda: FuzzyInduction(LawFeatures(MODEL), floor=2.0), "floor"),
        (lambda: same_last_token().votes(np.array([], np.int64)), "the number of tokens=0 must be at least 1"),
        (lambda: same_last_token().votes(np.array([3, 10])), r"tokens hold 10; with n_tokens=10 .* 0 \.\. 9"),
        (lambda: same_last_token().votes(np.array([3]), np.array([1])), "positions hold 1; with 1 tokens"),
        (lambda: FuzzyInduction(nan_at(2), n_tokens=3).votes(np.array([0, 1, 2])), "the feature of row 2 holds a NaN"),
        (
            lambda: FuzzyInduction(lambda tokens: np.ones(len(tokens)), n_tokens=3).votes(np.array([0, 1])),
            r"features\(tokens\) gave shape \(2,\) for 2 tokens",
        ),
        (lambda: LawFeatures(mess3(), overlap=1), "overlap=1 is of chunks, and without n_ctx there is one only"),
        (lambda: LawFeatures(MODEL, overlap=6), "overlap=6 must lie between 0 and 5"),
        (lambda: ResidualFeatures(MODEL), "site and head are both None"),
        (lambda: ResidualFeatures(MODEL, SITE, HEAD), "is not that of the head, 'blocks.0.resid_post'"),
        (lambda: FeatureTable().rows(), "the table is empty"),
    ],
)
def test_what_is_no_matcher_or_no_text_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_token_that_was_refused_counts_as_not_read():
    reader = FuzzyInduction(GivenFeatures(nan_at(2), 3)).reader()
    reader.read(0), reader.read(1)
    with pytest.raises(ValueError, match="tokens hold 3"):
        reader.read(3)
    with pytest.raises(ValueError, match="holds a NaN"):
        reader.read(1)
    assert reader._tokens == [0, 1]
    assert len(reader._features) == 2
