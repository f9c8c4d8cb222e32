"""Distillation of a matcher: losses by hand, who learns and who does not, and what a head then finds."""

from __future__ import annotations

from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from nextlens.models.batch import Batch
from nextlens.models.induction.context_features import LawFeatures, ResidualFeatures
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.matching_model import MatchingConfig, MatchingModel
from nextlens.models.induction.residual_head import HeadConfig, ResidualHead
from nextlens.models.induction.retrieval import Retrieval, retrieval
from nextlens.models.objectives.matching import Matching, matching_losses
from nextlens.models.objectives.next_token import weighted_mean
from nextlens.models.processes import golden_mean, mess3
from nextlens.models.tasks.corpus import Corpus
from nextlens.models.tasks.sourced_text import SourcedText
from nextlens.models.training import train, warmup_cosine
from nextlens.models.transformer import Transformer, TransformerConfig

SITE = "blocks.0.resid_post"


def small(**changes) -> Transformer:
    return Transformer(
        TransformerConfig(**{"n_tokens": 3, "n_layers": 1, "n_heads": 1, "d_model": 8, "n_ctx": 8} | changes)
    )


def matching_model(**changes) -> MatchingModel:
    config = {"n_tokens": 3, "n_out": 4, "n_layers": 1, "n_heads": 1, "d_model": 8, "reach": 8}
    return MatchingModel(MatchingConfig(**config | changes))


def windows(seed: int = 0, n: int = 12) -> Batch:
    return Batch.from_tokens(mess3().sample(n, 9, np.random.default_rng(seed)))


# --- the losses


def test_losses_are_those_written_out_query_by_query():
    rng = np.random.default_rng(0)
    d, wanted = rng.random((4, 6)) * 5, rng.random((4, 6)) * 3
    found = matching_losses(torch.from_numpy(d), torch.from_numpy(wanted))
    for row in range(4):
        s = np.exp(-d[row]) / np.exp(-d[row]).sum()
        t = np.exp(-wanted[row]) / np.exp(-wanted[row]).sum()
        nearest = min(range(6), key=lambda j: wanted[row, j])
        assert found.nearest[row].item() == pytest.approx(-np.log(s[nearest]))
        assert found.reverse[row].item() == pytest.approx(sum(s[j] * np.log(s[j] / t[j]) for j in range(6)))
        assert found.forward[row].item() == pytest.approx(sum(t[j] * np.log(t[j] / s[j]) for j in range(6)))


def test_a_student_with_the_distances_of_its_teacher_has_no_divergence_from_it():
    d = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    found = matching_losses(d, d)
    torch.testing.assert_close(found.reverse, torch.zeros(3))
    torch.testing.assert_close(found.forward, torch.zeros(3))
    assert (found.nearest > 0).all()


@pytest.mark.parametrize(("reverse", "forward"), [(1.0, 0.0), (0.0, 2.0), (0.5, 1.0)])
def test_the_reduced_loss_is_the_mean_over_queries_of_the_weighted_losses(reverse, forward):
    model, batch, teacher = matching_model(), windows(), mess3()
    objective = Matching(teacher=teacher, queries=10, keys=20, reverse=reverse, forward=forward, temperature=0.3)
    found = objective(model, batch)
    assert found.shape == batch.tokens.shape
    asked = found.flatten().nonzero()[:, 0]
    assert len(asked) == 10
    drawn = np.random.default_rng([0, 0]).choice(96, 30, replace=False)
    assert sorted(asked.tolist()) == sorted(drawn[:10].tolist())
    features, laws = model(batch).flatten(0, 1).detach().double(), teacher.log_probs(batch).flatten(0, 1).exp()
    expected = []
    for q in drawn[:10]:
        d = torch.stack([1 - torch.cosine_similarity(features[q], features[k], dim=0) for k in drawn[10:]]) / 0.3
        far = torch.stack([((laws[q] - laws[k]) * (laws[q].log() - laws[k].log())).sum() / 2 for k in drawn[10:]])
        losses = matching_losses(d[None], far[None])
        expected.append(losses.nearest + reverse * losses.reverse + forward * losses.forward)
    loss = weighted_mean(found, batch.weights)
    assert loss.item() == pytest.approx(torch.cat(expected).mean().item(), rel=1e-4)


def test_queries_and_keys_are_drawn_anew_each_time_and_the_seed_decides_them():
    model, batch = matching_model(), windows()
    one, other, third = (Matching(teacher=mess3(), queries=10, keys=20, seed=seed) for seed in (0, 0, 1))
    first, again = one(model, batch), one(model, batch)
    assert not torch.equal(first != 0, again != 0)
    assert torch.equal(first, other(model, batch))
    assert not torch.equal(first != 0, third(model, batch) != 0)
    everything = Matching(teacher=mess3(), queries=40, keys=56)
    query, key = everything._draw(batch)
    assert sorted([*query.tolist(), *key.tolist()]) == list(range(96))


def test_positions_without_weight_are_neither_query_nor_key_and_heavy_queries_count_more():
    batch = windows()
    weights = torch.zeros(12, 8)
    weights[:, 3:] = 1.0
    weights[0, 3:] = 5.0
    batch = batch.with_(weights=weights)
    objective = Matching(teacher=mess3(), queries=20, keys=30)
    found = objective(matching_model(), batch)
    assert found[:, :3].abs().sum() == 0
    queries = found.nonzero(as_tuple=True)
    own = found[queries] / (weights.sum() / weights[queries].sum())
    mean = (own * weights[queries]).sum() / weights[queries].sum()
    assert weighted_mean(found, weights).item() == pytest.approx(mean.item(), rel=1e-5)
    short = batch.with_(weights=torch.zeros(12, 8).index_fill(0, torch.tensor([0]), 1.0))
    with pytest.raises(ValueError, match="8 positions of some weight, and queries=20 with keys=30 need 50"):
        objective(matching_model(), short)


# --- who learns


def test_only_the_head_gets_a_gradient():
    model, teacher = small(), small(seed=1)
    head = ResidualHead.for_model(model, SITE, 4)
    objective = Matching(head, teacher, queries=8, keys=16)
    weighted_mean(objective(model, windows()), windows().weights).backward()
    assert head.A.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in [*model.parameters(), *teacher.parameters()])
    assert [name for name, _ in objective.named_parameters()] == ["head.A"]
    assert set(objective.state_dict()) == {"head.A", "drawn"}


def test_a_model_that_teaches_its_own_head_stays_as_it_is_in_training():
    model = small()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    head = ResidualHead.for_model(model, SITE, 4)
    first = head.A.detach().clone()
    optimiser = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)
    batches = mess3().batches(12, 9, np.random.default_rng(0), tree=False)
    list(train(model, batches, steps=5, objective=Matching(head, queries=8, keys=16), optimiser=optimiser))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert (head.A - first).abs().max() > 1e-3


def test_a_matching_model_learns_every_weight_and_its_teacher_none():
    model, teacher = matching_model(), small()
    weighted_mean(Matching(teacher=teacher, queries=8, keys=16)(model, windows()), windows().weights).backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]
    assert all(weight.grad is None for weight in teacher.parameters())


def test_training_goes_on_exactly_from_where_it_stopped():
    def run(steps: int, resume=None):
        model = small()
        objective = Matching(ResidualHead.for_model(model, SITE, 4), mess3(), queries=8, keys=16)
        batches = mess3().batches(12, 9, np.random.default_rng(1), tree=False)
        return list(train(model, batches, steps=steps, objective=objective, resume=resume))[-1]

    whole, half = run(4), run(2)
    assert run(4, half.state()).loss == whole.loss
    assert half.loss != whole.loss


TEXT = SourcedText.drawn(np.random.default_rng(0))


@pytest.fixture(scope="module")
def model() -> Transformer:
    """A little language model of the text whose queries have known sources."""
    corpus = Corpus(TEXT.reference(1000, np.random.default_rng(1)), n_tokens=TEXT.n_tokens)
    model = small(n_tokens=TEXT.n_tokens, n_heads=2, d_model=32, n_ctx=24)
    batches = corpus.batches(24, 25, np.random.default_rng(2))
    schedule = warmup_cosine(400, warmup=20)
    for _ in train(model, batches, steps=400, optimiser=partial(torch.optim.Adam, lr=1.2e-2), schedule=schedule):
        pass
    return model.requires_grad_(False)


def distilled(model: Transformer, site: str) -> tuple[ResidualHead, Retrieval]:
    corpora = [Corpus(TEXT.reference(200, np.random.default_rng(seed)), n_tokens=TEXT.n_tokens) for seed in (3, 4)]
    batches, held_out = (corpus.batches(28, 25, np.random.default_rng(5)) for corpus in corpora)
    objective = Matching(ResidualHead.for_model(model, site, 16))
    for _ in train(model, batches, steps=50, objective=objective, optimiser=partial(torch.optim.AdamW, lr=1e-2)):
        pass
    return objective.head, Matching(objective.head, seed=6).scores(model, next(held_out))


def share_right(matcher: FuzzyInduction, kind: str) -> float:
    right = []
    for document in TEXT.test(12, np.random.default_rng(7)):
        said = matcher.votes(document.tokens, document.position).probabilities(TEXT.n_tokens).argmax(1)
        right += [said[i] == document.answer[i] for i in range(len(said)) if document.kind[i] == kind]
    return float(np.mean(right))


def test_a_head_behind_a_block_finds_more_than_one_on_the_embedding_and_knows_synonyms(model):
    head, found = distilled(model, SITE)
    at_embedding, found_there = distilled(model, "embed")
    assert found.recall_at_1 > found_there.recall_at_1 + 0.2
    assert found.recall_at_1 > 100 / found.keys
    assert found.rank_correlation > found_there.rank_correlation
    synonyms = share_right(FuzzyInduction(ResidualFeatures(model, head=head)), "synonym")
    assert synonyms > 0.9
    assert synonyms > share_right(FuzzyInduction(ResidualFeatures(model, head=at_embedding)), "synonym")


def test_laws_by_jeffreys_know_synonyms_and_by_the_true_jensen_shannon_divergence_do_not(model):
    laws = LawFeatures(model)
    assert share_right(FuzzyInduction(laws, distance="jeffreys"), "synonym") > 0.9
    assert share_right(FuzzyInduction(laws, distance="jensen-shannon"), "synonym") < 0.1


# --- what is refused, and what is left out loudly


def test_queries_that_a_teacher_makes_infinitely_far_are_left_out_loudly_or_refused():
    process = golden_mean()
    batch = Batch.from_tokens(process.sample(12, 9, np.random.default_rng(0)))
    model = matching_model(n_tokens=2)
    with pytest.raises(ValueError, match=r"none of 8 queries has a finite loss.* distance='jensen-shannon'"):
        Matching(teacher=process, queries=8, keys=60)(model, batch)
    easier = Matching(teacher=process, queries=8, keys=60, reverse=0.0, forward=1.0)
    loss = weighted_mean(easier(model, batch), batch.weights)
    loss.backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    bounded = Matching(teacher=process, queries=8, keys=60, distance="jensen-shannon")
    assert bounded(model, batch).isfinite().all()


class Sometimes:
    """A kernel that forbids token 0 after token 2, and nothing else."""

    n_tokens = 3

    def log_probs(self, batch):
        laws = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]])
        return laws[batch.tokens].log()


def test_some_queries_are_left_out_with_their_number_and_the_others_give_sound_gradients():
    batch = Batch.from_tokens([[0, 1] * 20, [1, 0] * 20, [0, 1, 2, *([0, 1] * 18), 0]])
    model = matching_model(reach=39)
    objective = Matching(teacher=Sometimes(), queries=116, keys=1 + 1, seed=1)
    objective.keys = 1
    with pytest.warns(UserWarning, match="1 of 116 queries have a loss that is not finite and are left out"):
        loss = objective(model, batch)
    weighted_mean(loss, batch.weights).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Matching(), "head and teacher are both None"),
        (lambda: Matching(teacher=mess3(), queries=0), "queries=0 must be at least 1"),
        (lambda: Matching(teacher=mess3(), keys=1), "keys=1 must be at least 2"),
        (lambda: Matching(teacher=mess3(), temperature=0.0), r"temperature=0\.0 must be finite and above 0"),
        (lambda: Matching(teacher=mess3(), distance="cosine"), "distance='cosine' is not one of"),
        (lambda: Matching(teacher=mess3(), distance="jensen-shannon", mass=0.9), r"mass=0\.9 goes with"),
        (lambda: Matching(teacher=mess3(), mass=1.5), r"mass=1\.5 must lie between 0 and 1"),
        (lambda: Matching(teacher=mess3(), queries=4, keys=4)(small(), windows()), "model is a Transformer and there"),
        (lambda: HeadConfig(SITE, 0), "width=0 must be at least 1"),
        (lambda: retrieval(np.zeros((2, 0)), np.zeros((2, 0))), r"student has shape \(2, 0\) and teacher \(2, 0\)"),
        (lambda: retrieval(np.full((2, 3), np.nan), np.zeros((2, 3))), "a distance is NaN"),
    ],
)
def test_what_cannot_teach_or_be_taught_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- what is found


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_is_the_mean_over_every_order_of_equal_keys(seed):
    rng = np.random.default_rng(seed)
    student, teacher = rng.integers(4, size=(3, 7)) * 1.0, rng.random((3, 7))
    ranks = []
    for s, t in zip(student, teacher, strict=True):
        tied = [j for j in range(7) if s[j] == s[t.argmin()]]
        nearer = int((s < s[t.argmin()]).sum())
        ranks.append([nearer + 1 + order.index(int(t.argmin())) for order in permutations(tied)])
    found = retrieval(student, teacher)
    assert found.recall_at_1 == pytest.approx(np.mean([np.mean([r <= 1 for r in row]) for row in ranks]))
    assert found.recall_at_5 == pytest.approx(np.mean([np.mean([r <= 5 for r in row]) for row in ranks]))
    assert found.reciprocal_rank == pytest.approx(np.mean([np.mean([1 / r for r in row]) for row in ranks]))
    varied = [(s, t) for s, t in zip(student, teacher, strict=True) if np.ptp(s) > 0]
    expected = np.mean([spearmanr(s, t).statistic for s, t in varied])
    assert found.rank_correlation == pytest.approx(expected)
    assert found.keys == 7


def test_a_student_that_cannot_tell_keys_apart_finds_what_chance_finds():
    found = retrieval(np.zeros((5, 10)), np.random.default_rng(0).random((5, 10)))
    assert (found.recall_at_1, found.recall_at_5) == (0.1, 0.5)
    assert np.isnan(found.rank_correlation)
