"""Regret to the Bayes-optimal kernel: zero for itself, exact by enumeration, and what pointing can and cannot reach."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from nextlens.analyses.kernel_regret import expected_regret, kernel_regret
from nextlens.models.batch import Batch
from nextlens.models.induction.context_features import BeliefFeatures
from nextlens.models.induction.exact import ExactInduction
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.infinigram import InfiniGram
from nextlens.models.induction.kneser_ney import KneserNey
from nextlens.models.induction.suffix_array import SuffixArray
from nextlens.models.processes import even, mess3, rrxor


@pytest.mark.parametrize("process", [mess3(0.6, 0.15), rrxor(), even()], ids=["mess3", "rrxor", "even"])
def test_the_process_itself_has_no_regret(process):
    np.testing.assert_allclose(expected_regret(process, process, 5), 0, atol=1e-12)


def test_regret_is_the_expected_surprisal_beyond_the_entropy():
    process, other = mess3(0.6, 0.15), mess3(0.85, 0.05)
    found = expected_regret(other, process, 3).values
    by_hand = np.zeros(3)
    for word in product(range(3), repeat=4):
        batch = Batch.from_tokens([word])
        mine, theirs = (k.log_probs(batch)[0].numpy() for k in (process, other))
        probability = math.exp(process.log_likelihood(np.array([word])).sum())
        for t in range(3):
            by_hand[t] += probability * (mine[t, word[t + 1]] - theirs[t, word[t + 1]]) / math.log(2)
    np.testing.assert_allclose(found, by_hand, atol=1e-10)


def test_where_beliefs_are_few_the_ideal_matcher_reaches_the_optimum_and_exact_matching_does_not():
    process = rrxor()  # 36 recurrent and transient beliefs, which are told apart
    tokens = process.sample(12, 500, np.random.default_rng(0))
    belief = FuzzyInduction(BeliefFeatures(process), temperature=0.01)
    exact = ExactInduction(2)
    ideal, plain = (
        kernel_regret(GIM(threshold=700, floor=0.02, fuzzy=part), process, tokens).mean("sequence").values
        for part in (belief, exact)
    )
    late = slice(400, None)
    assert ideal[late].mean() < 0.06
    assert ideal[late].mean() < ideal[20:60].mean() / 3
    assert plain[late].mean() > 4 * ideal[late].mean()


def test_a_corpus_of_its_own_words_lets_a_gim_approach_the_process():
    process = even()
    rng = np.random.default_rng(1)
    tokens = process.sample(12, 60, rng)
    found = {}
    for n in (1, 100):
        corpus = InfiniGram(SuffixArray.build(list(process.sample(n, 300, rng)), n_tokens=2))
        gim = GIM(corpus, ExactInduction(2), FuzzyInduction(BeliefFeatures(process)), threshold=0, floor=0.02)
        found[n] = float(kernel_regret(gim, process, tokens).mean())
    assert found[100] < found[1]


def test_pointing_at_one_longest_match_is_worse_than_counting_many_short_ones():
    process = mess3(0.6, 0.15)
    rng = np.random.default_rng(2)
    corpus, tokens = list(process.sample(40, 500, rng)), process.sample(6, 80, rng)
    longest = GIM(InfiniGram(SuffixArray.build(corpus, n_tokens=3)), threshold=0, floor=0.02)
    counted = KneserNey(corpus, 3, order=4)
    assert kernel_regret(longest, process, tokens).mean() > 3 * kernel_regret(counted, process, tokens).mean()


def test_forbidding_what_can_come_is_infinitely_bad():
    regret = kernel_regret(ExactInduction(3), mess3(), np.array([[0, 0, 0]]))
    assert np.isfinite(regret[0, 0])
    assert np.isinf(regret[0, 2])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="kernel has n_tokens=2 and process 3"):
        kernel_regret(ExactInduction(2), mess3(), np.array([[0, 1]]))
    with pytest.raises(ValueError, match=r"length=20 has 3\*\*20 words"):
        expected_regret(mess3(), mess3(), 20)
