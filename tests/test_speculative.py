"""Generation with provenance, and speculative decoding, whose law is enumerated draw by draw."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextlens.models.batch import Batch
from nextlens.models.induction.exact import ExactInduction
from nextlens.models.induction.generation import tempered, write
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.infinigram import InfiniGram
from nextlens.models.induction.speculative import Acceptance, Round, speculate
from nextlens.models.induction.suffix_array import SuffixArray
from nextlens.models.induction.votes import Matcher, Votes
from nextlens.models.processes import mess3
from nextlens.models.transformer import Transformer, TransformerConfig
from tests.reference_matchers import SlowSimilar

DOCUMENTS = [np.array([0, 1, 2, 0, 1, 1]), np.array([2, 2, 0, 1])]
PROMPT = np.array([2, 0, 1])


def drafts(threshold: int, floor: float = 0.0) -> GIM:
    similar = SlowSimilar(lambda tokens: np.eye(3)[tokens] + 0.2, 3)
    return GIM(
        InfiniGram(SuffixArray.build(DOCUMENTS, n_tokens=3)),
        ExactInduction(3),
        similar,
        threshold=threshold,
        floor=floor,
    )


def target() -> Transformer:
    model = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=8, n_ctx=12, seed=3))
    with torch.no_grad():
        model.unembed.W_U *= 8  # far from uniform
    return model


class Scripted(np.random.Generator):
    """Draws what it is told, then the first possible outcome; remembers what else there was."""

    def __init__(self, script):
        super().__init__(np.random.PCG64(0))
        self.script, self.path = list(script), []

    def choice(self, n, p):
        p = np.asarray(p)
        assert p.sum() == pytest.approx(1)
        possible = np.flatnonzero(p > 0).tolist()
        at = self.script[len(self.path)] if len(self.path) < len(self.script) else possible[0]
        self.path.append((at, p[at], [other for other in possible if other > at]))
        return at


class Once(Matcher):
    """A matcher that is asked once for each context, or a kernel so: enumeration comes by again and again."""

    def __init__(self, asked):
        self.asked, self.n_tokens, self.floor = asked, asked.n_tokens, getattr(asked, "floor", 0.0)
        self.known = {}

    def votes(self, tokens, positions=None):
        assert positions.tolist() == [len(tokens) - 1]
        return self._once(tokens.tobytes(), lambda: self.asked.votes(tokens, positions))

    def places(self, tokens):
        raise NotImplementedError

    def log_probs(self, batch):
        return self._once(batch.tokens.numpy().tobytes(), lambda: self.asked.log_probs(batch).detach())

    def _once(self, key, answer):
        if key not in self.known:
            self.known[key] = answer()
        return self.known[key]


def enumerated(run):
    """Every way that the draws can fall: what ``run(rng)`` gives, and its probability."""
    waiting = [[]]
    while waiting:
        script = waiting.pop()
        rng = Scripted(script)
        found = run(rng)
        yield found, float(np.prod([probability for _, probability, _ in rng.path]))
        for depth in range(len(script), len(rng.path)):
            before = [at for at, _, _ in rng.path[:depth]]
            waiting += [[*before, other] for other in rng.path[depth][2]]


def law_of(kernel, prompt, words, temperature: float = 1.0):
    """The probability of each word after ``prompt``, by the chain rule."""
    found = {}
    for word in words:
        said = kernel.log_probs(Batch.from_tokens([[*prompt, *word]]))[0, len(prompt) - 1 :].double().exp()
        laws = [tempered(law.numpy(), temperature) for law in said.detach()]
        found[word] = float(np.prod([law[token] for law, token in zip(laws, word, strict=True)]))
    return found


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize(("threshold", "floor"), [(1, 0.0), (2, 0.3)])
@pytest.mark.parametrize("kernel", [target(), mess3(0.6, 0.15)], ids=["transformer", "mess3"])
def test_what_comes_out_has_the_law_of_the_target_whatever_the_draft(kernel, threshold, floor, ahead):
    kernel, draft = Once(kernel), Once(drafts(threshold, floor))

    def run(rng):
        rounds = list(speculate(kernel, draft, PROMPT, length=3, rng=rng, ahead=ahead))
        return tuple(token for each in rounds for token in each.tokens)

    law = defaultdict(float)
    for word, probability in enumerated(run):
        law[word] += probability
    wanted = law_of(kernel, PROMPT, list(product(range(3), repeat=3)))
    assert sum(law.values()) == pytest.approx(1)
    for word, probability in wanted.items():
        assert law[word] == pytest.approx(probability, abs=1e-6)


def test_a_proposal_is_accepted_with_one_minus_the_total_variation():
    kernel, draft = target(), drafts(2, 0.1)
    accepted, overlaps = 0.0, set()
    for found, probability in enumerated(
        lambda rng: next(speculate(kernel, draft, PROMPT, length=2, rng=rng, ahead=1))
    ):
        assert found.proposed == 1
        accepted += probability * found.accepted
        overlaps.add(round(found.overlap[0], 9))
    q = 0.9 * draft.votes(PROMPT, np.array([2])).probabilities(3)[0] + 0.1 / 3
    p = kernel.log_probs(Batch.from_tokens([[*PROMPT, 0]]))[0, -1].detach().double().exp().numpy()
    assert accepted == pytest.approx(1 - np.abs(p - q).sum() / 2, abs=1e-6)
    assert overlaps == {round(np.minimum(p, q).sum(), 9)} or next(iter(overlaps)) == pytest.approx(accepted, abs=1e-6)


def test_a_draft_that_is_the_target_is_always_accepted():
    class Itself(SlowSimilar):
        def votes(self, tokens, positions=None):
            laws = process.log_probs(Batch.from_tokens([[*tokens, 0]]))[0].exp().numpy()
            return Votes.of_rows([(0, np.flatnonzero(laws[p]), laws[p][laws[p] > 0]) for p in positions])

    process = mess3(0.6, 0.15)
    rounds = list(speculate(process, Itself(None, 3), PROMPT, length=21, rng=np.random.default_rng(0), ahead=6))
    found = Acceptance.of(rounds)
    assert (found.rate, found.tokens_per_call) == (1, 7)
    assert found.expected == pytest.approx(1)


def test_greedy_speculation_is_the_greedy_text():
    kernel, wanted = target(), PROMPT.tolist()
    for _ in range(8):
        wanted.append(int(kernel.log_probs(Batch.from_tokens([[*wanted, 0]]))[0, -1].argmax()))
    rounds = list(speculate(kernel, drafts(1), PROMPT, length=8, rng=np.random.default_rng(1), temperature=0.0))
    assert [*PROMPT, *(token for each in rounds for token in each.tokens)] == wanted


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_exactly_as_many_tokens_are_written_as_asked(length):
    rounds = list(speculate(mess3(), drafts(1), PROMPT, length=length, rng=np.random.default_rng(2), ahead=3))
    assert sum(len(each.tokens) for each in rounds) == length


def test_acceptance_adds_up():
    rounds = [Round((1, 2, 0), 3, 2, (0.5, 0.75, 1.0)), Round((2,), 0, 0, ())]
    assert Acceptance.of(rounds) == Acceptance(2 / 3, 0.75, 2.0)
    assert Acceptance.of(rounds[1:]) == Acceptance(0.0, 0.0, 1.0)


def test_a_target_writes_to_the_end_of_its_context_and_no_further():
    target = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=4, n_ctx=8))
    draft, prompt = ExactInduction(3, floor=0.1), np.array([0, 1, 2])
    rounds = list(speculate(target, draft, prompt, length=6, rng=np.random.default_rng(0)))
    assert sum(len(one.tokens) for one in rounds) == 6
    with pytest.raises(ValueError, match=r"length=7 after .* makes the target read 9, and .* n_ctx=8"):
        next(speculate(target, draft, prompt, length=7, rng=np.random.default_rng(0)))


def test_an_infinite_temperature_is_refused():
    with pytest.raises(ValueError, match="temperature=inf must be finite"):
        tempered(np.array([0.5, 0.5]), np.inf)


def test_what_cannot_be_speculated_is_refused():
    with pytest.raises(ValueError, match="draft has n_tokens=3 and target 2"):
        next(speculate(mess3_of_two(), drafts(1), PROMPT, length=1, rng=np.random.default_rng(0)))
    with pytest.raises(ValueError, match="ahead=-1 must be at least 0"):
        next(speculate(mess3(), drafts(1), PROMPT, length=1, rng=np.random.default_rng(0), ahead=-1))


def mess3_of_two():
    return Transformer(TransformerConfig(n_tokens=2, n_layers=1, d_model=8, n_ctx=4))


# --- generation


@settings(max_examples=10)
@given(st.integers(0, 4), st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 1.0]))
def test_without_a_floor_every_token_is_proposed_by_a_place(threshold, seed, temperature):
    gim = drafts(threshold)
    for one in write(gim, PROMPT, length=4, rng=np.random.default_rng(seed), temperature=temperature):
        places, votes = one.places(), gim.votes(one.before, np.array([len(one.before) - 1]))
        assert len(places) > 0
        assert set(places.token.tolist()) == {one.token}
        assert (one.source, one.length) == (gim.places(one.before).source, votes.length[0])
        law = tempered(votes.probabilities(3)[0], temperature)
        assert one.probability == pytest.approx(law[one.token])
        assert one.explain().law[one.token] > 0


def test_what_was_written_is_read_before_the_next_is():
    written = list(write(drafts(2), PROMPT, length=5, rng=np.random.default_rng(0)))
    for earlier, later in pairwise(written):
        assert later.before.tolist() == [*earlier.before, earlier.token]


def test_writing_ends_after_the_token_that_stops_it():
    written = [one.token for one in write(drafts(2), PROMPT, length=50, rng=np.random.default_rng(0), stop=1)]
    assert written.count(1) == 1
    assert written[-1] == 1


def test_the_greedy_text_is_written_without_chance():
    one, other = (
        [w.token for w in write(drafts(2), PROMPT, length=9, rng=np.random.default_rng(seed), temperature=0.0)]
        for seed in (1, 2)
    )
    assert one == other


def test_laws_are_tempered_as_powers():
    law = np.array([0.5, 0.5, 0.0])
    np.testing.assert_allclose(tempered(law, 0.1), law)
    np.testing.assert_allclose(tempered(np.array([0.2, 0.8]), 2.0), np.sqrt([0.2, 0.8]) / np.sqrt([0.2, 0.8]).sum())
    with pytest.raises(ValueError, match=r"temperature=-1\.0 must be at least 0"):
        tempered(law, -1.0)
