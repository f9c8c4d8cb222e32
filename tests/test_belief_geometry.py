"""The rows of a belief probe, the least possible loss, and scores that are what they claim to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nextlens.analyses import prefix_rows
from nextlens.analyses.belief_geometry import (
    RIVAL,
    UNWEIGHTED,
    BeliefGeometry,
    belief_geometry,
    constant_mse,
    guesses,
    paper2024_mse,
)
from nextlens.analyses.prefix_rows import Prefixes, excess_loss
from nextlens.analyses.sites import probed_sites
from nextlens.models.batch import Batch
from nextlens.models.hooked import canonical_site
from nextlens.models.processes import Process, even, golden_mean, mess3, process_by_name, rrxor
from nextlens.models.processes.mixed_states import optimal_loss
from nextlens.models.recording import record
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.probes.samples import pair
from tests.process_strategies import processes

every_process = pytest.mark.parametrize("name", ["mess3", "rrxor", "zero_one_random", "even", "golden_mean"])
SMALL = TransformerConfig(n_tokens=3, n_layers=1, n_heads=2, d_model=16, d_mlp=16, n_ctx=5, seed=4)
MODEL = Transformer(SMALL)
TWIN = MODEL.untrained(seed=5)


class Stub:
    """A hooked kernel whose one site holds whatever it is told to hold; it predicts like ``process``."""

    sites = ("hook_embed", "blocks.0.hook_resid_post")
    unembedding = torch.zeros(16, 3)

    def __init__(self, process: Process, seed: int, *, noise: bool = False):
        self.process, self.noise = process, noise
        self.rng = np.random.default_rng(seed)
        self.into, self.offset = self.rng.normal(size=(process.n_states, 16)), self.rng.normal(size=16)
        self.kept: dict[str, Tensor] | None = None

    @property
    def n_tokens(self) -> int:
        return self.process.n_tokens

    def __call__(self, batch: Batch) -> Tensor:
        if self.kept is not None:
            self.kept |= dict.fromkeys(self.asked, torch.from_numpy(self.residual(batch.tokens.numpy())).float())
        return self.log_probs(batch)

    def residual(self, tokens: np.ndarray) -> np.ndarray:
        if self.noise:
            return self.rng.normal(size=(*tokens.shape, 16))
        return self.process.beliefs(tokens) @ self.into + self.offset

    def log_probs(self, batch: Batch) -> Tensor:
        return self.process.log_probs(batch)

    @contextmanager
    def watched(self, *sites: str) -> Iterator[dict[str, Tensor]]:
        for site in sites:
            canonical_site(site, self.sites)
        self.kept, self.asked = {}, sites
        yield self.kept
        self.kept = None

    def edited(self, site: str, edit: object) -> AbstractContextManager[None]:
        return nullcontext()


class Says:
    """A kernel that says the same law after every prefix."""

    def __init__(self, *law: float):
        self.law = torch.tensor(law, dtype=torch.float64)

    @property
    def n_tokens(self) -> int:
        return len(self.law)

    def log_probs(self, batch: Batch) -> Tensor:
        return self.law.log().expand(*batch.tokens.shape, -1)


def enumerated(process: Process, n_ctx: int) -> dict[tuple[int, ...], float]:
    """Every prefix of up to ``n_ctx`` tokens that can be said, with its probability, one matrix at a time."""
    found = {}
    for length in range(1, n_ctx + 1):
        for word in product(range(process.n_tokens), repeat=length):
            belief = process.initial
            for token in word:
                belief = belief @ process.transition[token]
            if belief @ process.functional > 1e-12:
                found[word] = float(belief @ process.functional)
    return found


def words_of(prefixes: Prefixes) -> list[tuple[int, ...]]:
    """What each row has read."""
    tokens = prefixes.batch.tokens.tolist()
    return [tuple(tokens[b][: t + 1]) for b, t in np.argwhere(prefixes.first).tolist()]


@pytest.fixture(scope="module")
def published() -> dict[str, BeliefGeometry]:
    """Nulls at the paper's sizes, beside a residual stream that is the belief."""
    found = {}
    for process in (mess3(), rrxor()):
        stub = Stub(process, seed=0)
        prefixes = Prefixes.of(process, 10)
        found[process.name] = belief_geometry(stub, Stub(process, 1, noise=True), prefixes, sites=[stub.sites[-1]])
    return found


# --- the rows


@every_process
def test_rows_are_every_possible_prefix_once(name):
    process = process_by_name(name)
    expected = enumerated(process, 5)
    words = words_of(Prefixes.of(process, 5))
    assert len(words) == len(set(words)) == len(expected)
    assert set(words) == set(expected)


def test_rrxor_has_1046_prefixes_of_up_to_ten_tokens():
    assert len(Prefixes.of(rrxor(), 10)) == 1046


@given(processes(max_tokens=3, max_states=3), st.integers(1, 4))
def test_weights_are_probabilities_of_prefixes_and_every_length_has_equal_mass(process, n_ctx):
    prefixes = Prefixes.of(process, n_ctx)
    expected = enumerated(process, n_ctx)
    np.testing.assert_allclose(prefixes.weights, [expected[word] / n_ctx for word in words_of(prefixes)], atol=1e-12)
    np.testing.assert_allclose(np.bincount(prefixes.position, prefixes.weights), 1 / n_ctx, atol=1e-12)
    assert prefixes.weights.sum() == pytest.approx(1.0, abs=1e-12)


@given(processes(max_tokens=3, max_states=3), st.integers(1, 5))
def test_beliefs_and_next_tokens_are_those_of_the_word_that_was_read(process, n_ctx):
    prefixes = Prefixes.of(process, n_ctx)
    for row, word in enumerate(words_of(prefixes)):
        belief = process.initial
        for token in word:
            belief = belief @ process.transition[token]
        belief = belief / (belief @ process.functional)
        law = [belief @ matrix @ process.functional for matrix in process.transition]
        np.testing.assert_allclose(prefixes.beliefs.values[row], belief, atol=1e-9)
        np.testing.assert_allclose(prefixes.next_token[row], law, atol=1e-9)


def test_weights_of_a_sample_are_how_often_a_prefix_occurred():
    prefixes = Prefixes.of(golden_mean(), 4, n_words=50, rng=np.random.default_rng(3))
    read = prefixes.batch.tokens.tolist()
    assert not prefixes.listed
    for word, weight in zip(words_of(prefixes), prefixes.weights, strict=True):
        occurred = sum(tuple(one[: len(word)]) == word for one in read)
        assert weight == pytest.approx(occurred / 50 / 4)


def test_weights_of_a_sample_tend_to_the_probabilities():
    process, n = mess3(), 200_000
    expected = enumerated(process, 3)
    prefixes = Prefixes.of(process, 3, n_words=n, rng=np.random.default_rng(0))
    truth = np.array([expected[word] for word in words_of(prefixes)])
    error = np.abs(3 * prefixes.weights - truth) / np.sqrt(truth * (1 - truth) / n)
    assert len(prefixes) == len(expected)
    assert error.max() < 4.5, "standard errors; count times probability would be off by hundreds"


def test_too_many_words_to_list_are_sampled(monkeypatch):
    assert Prefixes.of(mess3(), 4).listed
    monkeypatch.setattr(prefix_rows, "MOST_WORDS", 80)
    sampled = Prefixes.of(mess3(), 4)
    assert not sampled.listed
    assert len(sampled.batch) == 20_000


def test_extensions_count_the_words_that_begin_with_a_prefix():
    prefixes = Prefixes.of(rrxor(), 6)
    full = [word for word in enumerated(rrxor(), 6) if len(word) == 6]
    assert prefixes.extensions.tolist() == [
        sum(word[: len(prefix)] == prefix for word in full) for prefix in words_of(prefixes)
    ]


@pytest.mark.parametrize("n_words", [None, 40])
def test_activations_and_beliefs_carry_the_same_labels(n_words):
    prefixes = Prefixes.of(mess3(), 4, n_words=n_words)
    acts = record(MODEL, prefixes.batch, ["hook_embed"], where=prefixes.first, chunk=7)["hook_embed"]
    for label in ("sequence", "position", "token", "prefix"):
        np.testing.assert_array_equal(acts[label], prefixes.beliefs[label])
    np.testing.assert_array_equal(acts.token, [word[-1] for word in words_of(prefixes)])
    np.testing.assert_array_equal(acts.position, prefixes.position)
    assert len(np.unique(acts.prefix)) == len(acts) == len(prefixes)


@every_process
def test_what_the_process_says_after_each_prefix_is_its_next_token(name):
    process = process_by_name(name)
    prefixes = Prefixes.of(process, 6)
    np.testing.assert_allclose(np.exp(prefixes.log_probs(process)), prefixes.next_token, atol=1e-12)


def test_what_a_model_says_does_not_depend_on_the_chunk():
    prefixes = Prefixes.of(mess3(), 5)
    said = prefixes.log_probs(MODEL)
    np.testing.assert_allclose(prefixes.log_probs(MODEL, chunk=17), said, atol=1e-5)
    for row in (0, 100, len(prefixes) - 1):
        alone = MODEL.log_probs(Batch.from_tokens([[*words_of(prefixes)[row], 0]]))
        np.testing.assert_allclose(said[row], alone[0, -1].detach(), atol=1e-5)


@pytest.mark.parametrize(("change", "message"), [({"n_ctx": 0}, "n_ctx=0"), ({"n_words": 0}, "n_words=0")])
def test_prefixes_refuse_sizes_below_one(change, message):
    with pytest.raises(ValueError, match=message):
        Prefixes.of(mess3(), **{"n_ctx": 3, **change})


# --- the loss


@every_process
def test_the_process_itself_has_the_least_loss_there_is(name):
    process = process_by_name(name)
    found = excess_loss(process, Prefixes.of(process, 7))
    assert found.attrs["loss_over_optimum"] == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(found.excess, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.optimum, optimal_loss(process, 7), atol=1e-9)


@given(processes(max_tokens=3, max_states=3))
def test_no_kernel_does_better_than_the_process(process):
    prefixes = Prefixes.of(process, 4)
    uniform = Says(*np.full(process.n_tokens, 1 / process.n_tokens))
    found = excess_loss(uniform, prefixes)
    assert found.excess.min() >= -1e-12
    assert found.attrs["loss_over_optimum"] >= 1 - 1e-12
    np.testing.assert_allclose(found.loss, np.log(process.n_tokens), atol=1e-12)
    assert excess_loss(process, prefixes).attrs["loss_over_optimum"] == pytest.approx(1.0, abs=1e-9)


def test_loss_is_the_cross_entropy_over_every_word_by_its_probability():
    process = mess3()
    words = [word for word in enumerated(process, 5) if len(word) == 5]
    probability = np.array([enumerated(process, 5)[word] for word in words])
    batch = Batch.from_tokens(words)
    said = torch.gather(MODEL.log_probs(batch), 2, batch.targets[..., None])[..., 0].detach().double().numpy()
    found = excess_loss(MODEL, Prefixes.of(process, 4))
    np.testing.assert_allclose(found.loss, -probability @ said, atol=1e-6)
    assert found.attrs["loss_over_optimum"] > 1.01


def test_a_kernel_that_forbids_what_can_come_has_infinite_loss():
    found = excess_loss(Says(1.0, 0.0, 0.0), Prefixes.of(mess3(), 3))
    assert np.isposinf(found.loss).all()
    assert found.attrs["loss_over_optimum"] == np.inf


def test_a_process_without_surprise_leaves_no_ratio_but_one_or_infinity():
    cycle = Process(np.array([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]), name="cycle", initial=np.eye(2)[0])
    prefixes = Prefixes.of(cycle, 4)
    assert excess_loss(cycle, prefixes).attrs["loss_over_optimum"] == 1.0
    assert excess_loss(Says(0.5, 0.5), prefixes).attrs["loss_over_optimum"] == np.inf


def test_a_kernel_that_says_nan_is_refused():
    with pytest.raises(ValueError, match="the kernel says NaN after 39 of 39 prefixes"):
        excess_loss(Says(np.nan, 0.5, 0.5), Prefixes.of(mess3(), 3))


# --- the probe and its nulls


def test_a_residual_stream_that_holds_the_belief_is_read_and_noise_is_not(published):
    found = published["mess3"]
    assert found.r2() > 0.9999
    assert found.r2("untrained twin") <= 0.02
    assert found.r2("shuffle") <= 0.02
    np.testing.assert_allclose(found.guess, found.truth, atol=0.01)
    assert found.r2_by_position().min() > 0.9999
    assert found.scores.mse.sel(predictor="probe").item() == pytest.approx(
        float(found.scores.rmse.sel(predictor="probe").item() ** 2)
    )


def test_held_out_noise_scores_nothing_where_rows_are_few():
    stub = Stub(mess3(), 0, noise=True)
    found = belief_geometry(stub, stub, Prefixes.of(mess3(), 4), sites=["hook_embed"])
    assert found.r2() <= 0.02
    assert found.r2("shuffle") <= 0.02
    in_sample = belief_geometry(stub, stub, Prefixes.of(mess3(), 4), sites=["hook_embed"], protocol="paper2024")
    assert in_sample.r2() > 0.02, "the same noise looks like something in sample"


def test_columns_are_the_model_its_twin_and_shuffled_beliefs():
    prefixes = Prefixes.of(mess3(), 5)
    both, swapped = belief_geometry(MODEL, TWIN, prefixes), belief_geometry(TWIN, MODEL, prefixes)
    assert both.scores.predictor.values.tolist() == ["probe", "untrained twin", "shuffle", UNWEIGHTED, RIVAL]
    assert both.scores.site.values.tolist() == ["hook_embed", "blocks.0.hook_resid_post"] == probed_sites(MODEL)
    np.testing.assert_array_equal(both.scores.r2[:, :2], swapped.scores.r2[:, 1::-1])
    np.testing.assert_array_equal(both.untrained, swapped.guess)
    assert both.site == "blocks.0.hook_resid_post"
    assert both.r2() == both.scores.r2.sel(site=both.site, predictor="probe").item()
    assert both.scores.attrs["in_sample"] is False


def test_scores_are_those_of_the_predictions():
    prefixes = Prefixes.of(mess3(), 5)
    found = belief_geometry(MODEL, TWIN, prefixes)
    weights, truth = found.weights[:, None], found.truth
    mean = (weights * truth).sum(0)
    expected = 1 - (weights * (truth - found.guess) ** 2).sum() / (weights * (truth - mean) ** 2).sum()
    assert found.r2() == pytest.approx(expected)
    np.testing.assert_array_equal(guesses(MODEL, prefixes, found.site), found.guess)
    rows = found.position == 4
    near = (weights * (truth - found.guess) ** 2)[rows].sum()
    centred = truth[rows] - (weights[rows] * truth[rows]).sum(0) / weights[rows].sum()
    assert found.r2_by_position()[4] == pytest.approx(1 - near / (weights[rows] * centred**2).sum())


def test_short_and_full_site_names_mean_the_same():
    prefixes = Prefixes.of(mess3(), 4)
    short, full = (
        belief_geometry(MODEL, TWIN, prefixes, sites=[site])
        for site in ("blocks.0.resid_mid", "blocks.0.hook_resid_mid")
    )
    assert short.scores.equals(full.scores)


def test_paper2024_is_least_squares_over_every_word_and_position():
    process, n_ctx = mess3(), 5
    words = np.array([word for word in enumerated(process, n_ctx) if len(word) == n_ctx])
    batch = Batch.from_tokens(np.pad(words, ((0, 0), (0, 1))))
    X = record(MODEL, batch, ["blocks.0.resid_post"])["blocks.0.resid_post"].values.reshape(-1, 16).astype(float)
    Y = process.beliefs(words).reshape(-1, 3).round(5)
    assert len(Y) == 3**n_ctx * n_ctx
    design = np.c_[X, np.ones(len(X))]
    said = design @ np.linalg.lstsq(design, Y, rcond=None)[0]
    expected = ((Y - said) ** 2).mean()
    prefixes = Prefixes.of(process, n_ctx)
    found = belief_geometry(MODEL, TWIN, prefixes, protocol="paper2024")
    assert paper2024_mse(MODEL, prefixes, "blocks.0.resid_post").mse == pytest.approx(expected, rel=1e-5)
    assert found.scores.mse.sel(predictor="probe")[-1] == pytest.approx(expected, rel=1e-5)
    assert found.r2() == pytest.approx(1 - ((Y - said) ** 2).sum() / ((Y - Y.mean(0)) ** 2).sum(), rel=1e-5)
    assert found.scores.attrs["in_sample"] is True
    assert constant_mse(prefixes) == pytest.approx(((Y - Y.mean(0)) ** 2).mean(), rel=1e-4)


def test_paper2024_rounds_beliefs_to_five_decimals():
    prefixes = Prefixes.of(mess3(), 5)
    exact = Stub(mess3(), 0)
    rounding = ((prefixes.beliefs.values - prefixes.beliefs.values.round(5)) ** 2).mean()
    assert rounding / 2 < paper2024_mse(exact, prefixes, "hook_embed").mse < rounding


def test_constant_predictors_have_the_published_errors():
    assert constant_mse(Prefixes.of(mess3(), 10)) == pytest.approx(0.1112, abs=5e-5)
    assert constant_mse(Prefixes.of(rrxor(), 10)) == pytest.approx(0.0827, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "expected"), [("mess3", [0.828, 0.946, 0.990, 0.998]), ("rrxor", [0.149, 0.283, 0.462, 0.639])]
)
def test_what_the_last_tokens_tell_is_known(published, name, expected):
    nulls = published[name].nulls.r2
    found = [nulls.sel(null=f"last {k} token" + "s" * (k > 1)).item() for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(found, expected, atol=6e-4)


def test_what_the_next_token_tells_is_known(published):
    nulls = published["mess3"].nulls.r2
    assert nulls.sel(null="next-token law, exact").item() == pytest.approx(1.0, abs=1e-6)
    assert nulls.sel(null="its logarithm, exact").item() == pytest.approx(0.993, abs=6e-4)
    assert nulls.sel(null="its logarithm, model's own").item() == pytest.approx(0.993, abs=6e-4)


def test_means_given_the_last_tokens_are_cell_means():
    prefixes = Prefixes.of(mess3(), 5)
    nulls = belief_geometry(MODEL, TWIN, prefixes, sites=["hook_embed"]).nulls
    cells = np.array([hash(word[-2:]) for word in words_of(prefixes)])
    weights, truth = prefixes.weights, prefixes.beliefs.values
    left = sum(
        weights[rows] @ ((truth[rows] - weights[rows] @ truth[rows] / weights[rows].sum()) ** 2).sum(1)
        for rows in (cells == cell for cell in np.unique(cells))
    )
    spread = weights @ ((truth - weights @ truth) ** 2).sum(1)
    assert nulls.r2.sel(null="last 2 tokens").item() == pytest.approx(1 - left / spread, abs=1e-9)


def test_last_tokens_that_would_single_out_rows_are_no_null():
    nulls = belief_geometry(MODEL, TWIN, Prefixes.of(mess3(), 3), sites=["hook_embed"]).nulls
    assert [name for name in nulls.null.values if name.startswith("last")] == ["last 1 token"]


# --- refusals


def test_activations_that_are_not_finite_are_refused_by_site_and_position():
    broken = Transformer(SMALL)
    with torch.no_grad():
        broken.pos_embed.W_pos[3, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'hook_pos_embed' hold 81 NaN .* \(sequence 0, position 3\)"):
        belief_geometry(broken, TWIN, Prefixes.of(mess3(), 5), sites=["hook_pos_embed"])


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (["block.0.hook_resid_post"], "did you mean.*blocks.0.hook_resid_post"),
        ([], "at least one site"),
        (["embed", "hook_embed"], "each once"),
        (["blocks.0.attn.hook_pattern"], "one value for each pair of positions"),
    ],
)
def test_sites_that_cannot_be_probed_are_refused(sites, message):
    with pytest.raises(ValueError, match=message):
        belief_geometry(MODEL, TWIN, Prefixes.of(mess3(), 3), sites=sites)


def test_an_unknown_protocol_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"protocol='paper2025'.*did you mean 'paper2024'"):
        belief_geometry(MODEL, TWIN, Prefixes.of(mess3(), 3), protocol="paper2025")


def test_paper2024_is_refused_where_words_are_sampled():
    prefixes = Prefixes.of(mess3(), 3, n_words=100)
    with pytest.raises(ValueError, match="protocol='paper2024' regresses on every word of 3 tokens"):
        belief_geometry(MODEL, TWIN, prefixes, protocol="paper2024")


def test_an_even_process_is_read_from_its_beliefs_at_every_length():
    stub = Stub(even(), 0)
    prefixes = Prefixes.of(even(), 6)
    found = belief_geometry(stub, stub, prefixes, sites=["hook_embed"])
    assert np.isfinite(found.r2_by_position()).all()
    X, Y, _ = pair(record(stub, prefixes.batch, ["hook_embed"], where=prefixes.first)["hook_embed"], prefixes.beliefs)
    assert len(X) == len(Y) == len(prefixes)
