"""Deployment maps: identities of their rows, known answers on a chain, and definitions by listing every string."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextlens.models.batch import Batch
from nextlens.models.beam_search import beam_search
from nextlens.models.contexts import Conditioned, Truncated
from nextlens.models.deployment import Eta, Greedy, MinP, Nucleus, Tempered, TopK
from nextlens.models.mixtures import Interpolated, Mixture
from nextlens.models.processes import mess3
from nextlens.models.processes.process import Process
from nextlens.models.tilted import Tilted
from nextlens.models.transformer import Transformer, TransformerConfig

C3 = np.array([[0.1, 0.6, 0.3], [0.5, 0.15, 0.35], [0.25, 0.3, 0.45]])
SECOND = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4]])


def chain(rows: np.ndarray, initial: np.ndarray | None = None) -> Process:
    """The Markov chain of these rows, its states the last tokens."""
    transition = np.zeros((3, 3, 3))
    for token in range(3):
        transition[token, :, token] = rows[:, token]
    return Process(transition, initial=initial)


def rows_of(kernel) -> np.ndarray:
    """What a kernel of one token of memory says after each token."""
    return kernel.log_probs(Batch.from_tokens([[0, 0], [1, 0], [2, 0]]))[:, 0].double().exp().numpy()


def stationary(rows: np.ndarray) -> np.ndarray:
    system = np.vstack([rows.T - np.eye(len(rows)), np.ones(len(rows))])
    return np.linalg.lstsq(system, np.array([*np.zeros(len(rows)), 1.0]), rcond=None)[0]


def entropy(rows: np.ndarray) -> np.ndarray:
    return -(rows * np.log(np.where(rows > 0, rows, 1.0))).sum(-1)


def divergence(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    return (q * np.log(np.where(q > 0, q, 1.0) / np.where(q > 0, p, 1.0))).sum(-1)


@dataclass(frozen=True)
class Rows:
    """A kernel that says the same rows whatever it reads: one for each sequence of a batch."""

    rows: torch.Tensor

    @property
    def n_tokens(self) -> int:
        return self.rows.shape[-1]

    def log_probs(self, batch: Batch) -> torch.Tensor:
        return self.rows[: len(batch), None].expand(-1, batch.tokens.shape[1], -1)


@st.composite
def random_rows(draw) -> Rows:
    """Ten rows of twelve tokens, of any sharpness, some with tokens that are forbidden and some with ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = torch.from_numpy(rng.standard_normal((10, 12)) * rng.exponential(2, size=(10, 1)))
    scores[0, 3:] = -torch.inf
    scores[1, 2] = scores[1, 7] = scores[1].max()
    return Rows(scores.log_softmax(-1))


TEN = Batch.from_tokens([[0, 0]] * 10)
MAPS = {
    "top-k": lambda base: TopK(base, 5),
    "nucleus": lambda base: Nucleus(base, 0.9),
    "min-p": lambda base: MinP(base, 0.1),
    "eta": lambda base: Eta(base, 0.05),
    "greedy": Greedy,
}
every_truncation = pytest.mark.parametrize("name", MAPS)


# --- rows


@every_truncation
@given(base=random_rows())
def test_truncation_costs_what_its_mass_says(name, base):
    kernel = MAPS[name](base)
    p, q = (one.log_probs(TEN)[:, 0].exp().numpy() for one in (base, kernel))
    log_mass = kernel.log_mass(TEN)[:, 0].numpy()
    np.testing.assert_allclose(q.sum(-1), 1, atol=1e-12)
    np.testing.assert_allclose(divergence(q, p), -log_mass, atol=1e-12)
    np.testing.assert_allclose(0.5 * np.abs(p - q).sum(-1), 1 - np.exp(log_mass), atol=1e-12)
    assert ((q > 0) <= (p > 0)).all()


@given(base=random_rows())
def test_each_truncation_keeps_what_its_rule_says(base):
    p = base.rows.exp().numpy()
    for row, probabilities in enumerate(p):
        order = np.argsort(-probabilities, kind="stable")
        few = {name: set(np.flatnonzero(kept)) for name, kept in kept_by(base, row).items()}
        assert few["greedy"] == {order[0]}
        assert few["top-k"] == set(order[:5])
        mass = np.cumsum(probabilities[order])
        assert few["nucleus"] >= set(order[: int(np.searchsorted(mass, 0.9 - 1e-12)) + 1])
        assert len(few["nucleus"]) <= int(np.searchsorted(mass, 0.9 + 1e-12)) + 1
        assert few["min-p"] == set(np.flatnonzero(probabilities >= 0.1 * probabilities.max() * (1 - 1e-12)))
        threshold = min(0.05, np.sqrt(0.05) * np.exp(-entropy(probabilities)))
        assert few["eta"] == set(np.flatnonzero(probabilities > threshold)) | {order[0]}


def kept_by(base: Rows, row: int) -> dict[str, np.ndarray]:
    return {name: make(base).kept(base.rows)[row].numpy() for name, make in MAPS.items()}


@given(base=random_rows(), temperature=st.floats(0.2, 5))
def test_entropy_falls_with_inverse_temperature_as_the_variance_says(base, temperature):
    b, step = 1 / temperature, 1e-5
    above, below = (
        entropy(Tempered(base, 1 / (b + sign * step)).log_probs(TEN)[:, 0].exp().numpy()) for sign in (1, -1)
    )
    q, logs = Tempered(base, temperature).log_probs(TEN)[:, 0].exp().numpy(), base.rows.numpy()
    logs = np.where(q > 0, logs, 0.0)
    mean = (q * logs).sum(-1, keepdims=True)
    np.testing.assert_allclose(
        (above - below) / (2 * step), -b * (q * (logs - mean) ** 2).sum(-1), atol=1e-5 * (1 + (logs**2).max())
    )


@given(base=random_rows())
def test_temperature_one_is_the_base_and_a_low_one_is_greedy(base):
    torch.testing.assert_close(Tempered(base, 1.0).log_probs(TEN), base.log_probs(TEN))
    alone = [row for row in range(10) if row != 1]  # of the two equals of row 1 neither wins
    cold = Tempered(base, 1e-6).log_probs(TEN)[alone, 0]
    assert torch.equal(cold.argmax(-1), Greedy(base).log_probs(TEN)[alone, 0].argmax(-1))


def test_of_equals_the_lowest_is_said():
    base = Rows(torch.tensor([[0.2, 0.4, 0.4]]).log())
    assert Greedy(base).log_probs(Batch.from_tokens([[0, 0]])).exp()[0, 0].tolist() == [0, 1, 0]
    assert TopK(base, 2).kept(base.rows)[0].tolist() == [False, True, True]
    assert TopK(base, 1).kept(base.rows)[0].tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda base: Tempered(base, 0.5), (0.811616, 0.056817, 0.057014, 0.004064)),
        (lambda base: Tempered(base, 2.0), (1.067695, 0.026579, 0.026015, 0.013681)),
        (lambda base: TopK(base, 2), (0.667546, 0.212900, 0.192564, 0.116213)),
        (lambda base: Nucleus(base, 0.8), (0.823625, 0.080464, 0.085332, 0.032219)),
        (lambda base: MinP(base, 0.4), (0.823625, 0.080464, 0.085332, 0.032219)),
    ],
    ids=["T .5", "T 2", "top-k 2", "nucleus .8", "min-p .4"],
)
def test_rates_of_a_deployed_chain_are_under_its_own_stationary_law(make, expected):
    base = chain(C3)
    rows, before = rows_of(make(base)), stationary(C3)
    after = stationary(rows)
    found = (
        after @ entropy(rows),
        after @ divergence(rows, C3),
        before @ divergence(rows, C3),
        0.5 * np.abs(after - before).sum(),
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_greedy_chain_falls_into_two_parts():
    np.testing.assert_allclose(rows_of(Greedy(chain(C3))), [[0, 1, 0], [1, 0, 0], [0, 0, 1]])


# --- contexts


def test_a_chain_truncated_to_its_memory_is_itself():
    base, batch = chain(C3), Batch.from_tokens(list(itertools.product(range(3), repeat=5)))
    for k in (1, 2, 4, 9):
        torch.testing.assert_close(Truncated(base, k).log_probs(batch), base.log_probs(batch))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_truncated_rows_are_those_of_the_last_tokens_alone(k):
    base, words = mess3(), np.array(list(itertools.product(range(3), repeat=5)))
    rows = Truncated(base, k, windows_at_once=7).log_probs(Batch.from_tokens(np.pad(words, ((0, 0), (0, 1)))))
    for t in range(5):
        window = words[:, max(0, t - k + 1) : t + 1]
        alone = base.log_probs(Batch.from_tokens(np.pad(window, ((0, 0), (0, 1)))))[:, -1]
        torch.testing.assert_close(rows[:, t], alone)
    assert (rows[:, 4] - base.log_probs(Batch.from_tokens(np.pad(words, ((0, 0), (0, 1)))))[:, 4]).abs().max() > 1e-3


def test_positions_of_windows_begin_anew_or_are_kept():
    model = Transformer(TransformerConfig(n_tokens=3, n_layers=2, n_heads=2, d_model=16, d_mlp=24, n_ctx=8, seed=1))
    batch = Batch.from_tokens([[0, 1, 2, 0, 1, 1, 2]])
    anew, kept = (Truncated(model, 2, positions=how).log_probs(batch) for how in ("restart", "keep"))
    assert (anew - kept)[:, 2:].abs().max() > 1e-3
    torch.testing.assert_close(anew[:, :2], kept[:, :2])
    again = Batch.from_tokens([[1, 1, 2]])  # the window of positions 4 and 5
    torch.testing.assert_close(anew[:, 5], model.log_probs(again)[:, 1], atol=1e-6, rtol=0)
    moved = again.with_(positions=torch.tensor([[4, 5]]))
    torch.testing.assert_close(kept[:, 5], model.log_probs(moved)[:, 1], atol=1e-6, rtol=0)


def test_a_prompt_is_read_before_the_text():
    base, text = mess3(), [[2, 0, 1, 1]]
    prompted = Conditioned(base, (0, 1))
    whole = base.log_probs(Batch.from_tokens([[0, 1, 2, 0, 1, 1]]))
    torch.testing.assert_close(prompted.log_probs(Batch.from_tokens(text)), whole[:, 2:])
    torch.testing.assert_close(prompted.opening(), whole[0, 1])
    twice = Conditioned(Conditioned(base, (0,)), (1,))
    torch.testing.assert_close(twice.log_probs(Batch.from_tokens(text)), whole[:, 2:])


# --- mixtures


def test_a_mixture_of_strings_is_no_mixture_of_rows():
    kernels, word = (chain(C3), chain(SECOND)), [0, 1, 0, 2, 1, 0, 0]
    batch = Batch.from_tokens([word])

    def joint(kernel) -> float:
        return float(kernel.log_probs(batch).gather(-1, batch.targets[..., None]).sum().exp())

    mixed = Mixture(kernels, (0.5, 0.5))
    assert joint(mixed) == pytest.approx(0.000759, abs=5e-7)
    assert joint(mixed) == pytest.approx(0.5 * joint(kernels[0]) + 0.5 * joint(kernels[1]), abs=1e-15)
    assert joint(Interpolated(kernels, (0.5, 0.5))) == pytest.approx(0.001176, abs=5e-7)


@given(st.floats(0.05, 0.95))
def test_every_string_of_a_mixture_has_the_mixed_probability(weight):
    kernels = (chain(C3), mess3())
    batch = Batch.from_tokens(list(itertools.product(range(3), repeat=5)))
    one, other, mixed = (
        kernel.log_probs(batch).gather(-1, batch.targets[..., None])[..., 0].sum(-1).exp()
        for kernel in (*kernels, Mixture(kernels, (weight, 1 - weight)))
    )
    torch.testing.assert_close(mixed, weight * one + (1 - weight) * other, atol=1e-12, rtol=0)
    posterior = Mixture(kernels, (weight, 1 - weight)).posterior(batch)
    torch.testing.assert_close(posterior.sum(0), torch.ones_like(posterior[0]))
    torch.testing.assert_close(posterior[0, :, 0], torch.full_like(posterior[0, :, 0], weight))


def test_a_past_that_no_kernel_can_say_is_refused():
    one = Rows(torch.tensor([[0.0, 1.0, 0.0]]).log())
    with pytest.raises(ValueError, match=r"tokens\[0, : 2\] is impossible under every kernel"):
        Mixture((one, one), (0.5, 0.5)).log_probs(Batch.from_tokens([[0, 2, 1]]))
    assert Mixture((one, chain(C3)), (0.5, 0.5)).posterior(Batch.from_tokens([[0, 2, 1]]))[0, 0].tolist() == [0.5, 0.0]


# --- the tilted optimum


def tilt(strings: torch.Tensor) -> torch.Tensor:
    """No sum over tokens: how often a token is followed by the one above it, squared."""
    return ((strings[:, 1:] - strings[:, :-1]) == 1).double().sum(-1) ** 2 - 0.3 * (strings[:, 0] == 2)


STRINGS = np.array(list(itertools.product(range(3), repeat=5)))


def joints(kernel, opening: torch.Tensor) -> np.ndarray:
    batch = Batch.from_tokens(STRINGS)
    rows = kernel.log_probs(batch).gather(-1, batch.targets[..., None])[..., 0]
    return (opening[batch.tokens[:, 0]] + rows.sum(-1)).exp().numpy()


def test_the_tilted_kernel_is_the_optimum_of_reward_against_divergence():
    base, beta = chain(C3), 0.7
    opening, kernel = torch.from_numpy(stationary(C3)).log(), Tilted(base, tilt, beta, horizon=5)
    p, reward = joints(base, opening), tilt(torch.from_numpy(STRINGS)).numpy()
    optimum = p * np.exp(reward / beta)
    total = optimum.sum()
    assert kernel.value(opening) == pytest.approx(np.log(total), abs=1e-12)
    first = np.array([optimum[STRINGS[:, 0] == token].sum() for token in range(3)]) / total
    policy = joints(kernel, torch.from_numpy(first).log())
    np.testing.assert_allclose(policy, optimum / total, atol=1e-14)
    assert (policy * reward).sum() - beta * (policy * np.log(policy / p)).sum() == pytest.approx(
        beta * np.log(total), abs=1e-12
    )
    assert np.ptp(beta * np.log(policy / p) - reward) < 1e-12


def test_tilting_each_row_by_its_own_reward_is_another_policy():
    base, beta, price = chain(C3), 0.7, torch.tensor([1.0, 0.0, -0.5], dtype=torch.float64)
    kernel = Tilted(base, lambda strings: price[strings].sum(-1), beta, horizon=5)
    rows = kernel.log_probs(Batch.from_tokens(STRINGS))
    myopic = (base.log_probs(Batch.from_tokens(STRINGS)) + price / beta).log_softmax(-1)
    assert (rows[:, 0] - myopic[:, 0]).abs().max() > 0.01
    torch.testing.assert_close(rows[:, -1], myopic[:, -1])


def test_soft_value_of_mess3_is_the_known_one_and_linear_recursion_agrees():
    process, beta, price = mess3(0.85, 0.05), 0.8, np.array([1.0, 0.0, -0.5])
    kernel = Tilted(process, lambda strings: torch.from_numpy(price)[strings].sum(-1), beta, horizon=6)
    opening = process.next_token(process.initial[None])[0]
    assert np.exp(kernel.value(torch.from_numpy(np.log(opening)))) == pytest.approx(189.595259, abs=1e-5)
    step, ahead = np.einsum("x,xsr->sr", np.exp(price / beta), process.transition), [np.ones(3)]
    for _ in range(5):
        ahead.append(step @ ahead[-1])
    words = np.array(list(itertools.product(range(3), repeat=5)))
    rows = kernel.log_probs(Batch.from_tokens(np.pad(words, ((0, 0), (0, 1)))))
    beliefs = process.beliefs(words)
    for t in range(5):
        weights = np.einsum("x,bs,xsr,r->bx", np.exp(price / beta), beliefs[:, t], process.transition, ahead[4 - t])
        np.testing.assert_allclose(rows[:, t].exp().numpy(), weights / weights.sum(1, keepdims=True), atol=1e-12)


# --- temperature of tokens and of strings


def test_a_tempered_kernel_has_no_tempered_strings():
    base = chain(C3)
    words = np.array(list(itertools.product(range(3), repeat=6)))
    batch = Batch.from_tokens(words)
    opening = np.log(stationary(rows_of(Tempered(base, 0.5))))[words[:, 0]]

    def strings(kernel) -> np.ndarray:
        rows = kernel.log_probs(batch).gather(-1, batch.targets[..., None])[..., 0]
        return rows.sum(-1).numpy()

    by_token = np.exp(opening + strings(Tempered(base, 0.5)))
    by_string = np.exp(opening + 2 * strings(base))
    by_string /= by_string.sum()
    assert by_token.sum() == pytest.approx(1)
    assert 0.5 * np.abs(by_token - by_string).sum() == pytest.approx(0.1094, abs=5e-4)
    normalisers = (2 * base.log_probs(batch)).logsumexp(-1).sum(-1).exp().numpy()
    ratio = by_string / by_token / normalisers
    np.testing.assert_allclose(ratio, ratio[0])


# --- beams


def test_a_wide_beam_finds_every_string_in_order():
    base, prompt = mess3(), [0, 1]
    words = np.array(list(itertools.product(range(3), repeat=4)))
    batch = Batch.from_tokens(np.concatenate([np.tile(prompt, (81, 1)), words], axis=1))
    scores = base.log_probs(batch).gather(-1, batch.targets[..., None])[:, 1:, 0].sum(-1).numpy()
    found = beam_search(base, prompt, 4, width=81)
    order = np.argsort(-scores, kind="stable")
    np.testing.assert_allclose(found.log_probs.numpy(), scores[order], atol=1e-12)
    assert found.tokens[0].tolist() == words[order[0]].tolist()
    for width in (1, 2, 5):
        narrow = beam_search(base, prompt, 4, width=width)
        assert narrow.log_probs[0] <= found.log_probs[0] + 1e-12
        assert len(narrow.tokens) == width


def test_a_beam_of_one_is_greedy_and_a_wider_one_can_beat_it():
    rows = np.array([[0.0, 0.6, 0.4], [0.34, 0.33, 0.33], [0.0, 0.0, 1.0]])
    trap = chain(rows, initial=np.full(3, 1 / 3))
    greedy, wide = beam_search(trap, [0], 3, width=1), beam_search(trap, [0], 3, width=9)
    assert greedy.tokens[0, 0] == 1
    assert wide.tokens[0].tolist() == [2, 2, 2]
    assert wide.log_probs[0] == pytest.approx(np.log(0.4))
    assert greedy.log_probs[0] < wide.log_probs[0]
    assert not wide.log_probs.isneginf().any()


def test_an_ended_string_stays_and_costs_nothing_more():
    found = beam_search(chain(C3), [0], 4, width=81, end=2)
    ended = (found.tokens == 2).int().argmax(-1)
    for tokens, score, at in zip(found.tokens, found.log_probs, ended, strict=True):
        if (tokens == 2).any():
            assert (tokens[at:] == 2).all()
            path = [0, *tokens[: at + 1].tolist()]
            assert score.item() == pytest.approx(sum(np.log(C3[a, b]) for a, b in itertools.pairwise(path)))
    assert found.log_probs.exp().sum() == pytest.approx(1)
    assert len({tuple(row) for row in found.tokens.tolist()}) == len(found.tokens)


# --- refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda base: Tempered(base, 0.0),
            r"temperature=0\.0 must be above 0 and finite; the most probable token is Greedy",
        ),
        (lambda base: Tempered(base, float("nan")), "temperature=nan must be above 0"),
        (lambda base: TopK(base, 0), "k=0 must be at least 1"),
        (lambda base: Nucleus(base, 1.5), r"p=1\.5 must be above 0 and at most 1"),
        (lambda base: MinP(base, 0.0), r"share=0\.0 must be above 0"),
        (lambda base: Eta(base, 1.0), r"epsilon=1\.0 must be above 0 and below 1"),
        (lambda base: Truncated(base, 0), "k=0 must be at least 1"),
        (lambda base: Truncated(base, 2, positions="same"), "positions='same' is not one of 'restart', 'keep'"),
        (lambda base: Conditioned(base, ()), "prompt has shape|prompt are float"),
        (lambda base: Conditioned(base, (0, 3)), r"prompt hold 3; with n_tokens=3 they must lie in 0 \.\. 2"),
        (lambda base: Mixture((base,), (0.5, 0.5)), "1 kernels and 2 weights"),
        (lambda base: Mixture((base, base), (0.5, 0.6)), "must all be above 0 and add up to 1"),
        (lambda base: Mixture((base, Rows(torch.zeros(1, 2))), (0.5, 0.5)), r"vocabularies of \[3, 2\] tokens"),
        (lambda base: Tilted(base, tilt, 0.0, horizon=4), r"beta=0\.0 must be above 0"),
        (lambda base: Tilted(base, tilt, 1.0, horizon=20), "at most 1048576 are listed"),
        (lambda base: beam_search(base, [], 3, width=2), "prompt has shape|prompt are float"),
        (lambda base: beam_search(base, [0], 3, width=0), "width=0 must be at least 1"),
        (lambda base: beam_search(base, [0], 3, width=2, end=3), "end hold 3"),
    ],
)
def test_what_makes_no_kernel_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(chain(C3))


def test_batches_that_a_map_cannot_read_are_refused():
    batch = Batch.from_tokens([[0, 1, 2, 0]])
    masked = batch.with_(attend=torch.ones(1, 3, 3, dtype=torch.bool).tril())
    for kernel in (Truncated(chain(C3), 2), Conditioned(chain(C3), (0,)), Tilted(chain(C3), tilt, 1.0, horizon=5)):
        with pytest.raises(ValueError, match="attend"):
            kernel.log_probs(masked)
    with pytest.raises(ValueError, match="tokens have 3 positions; of strings of 3 at most 2 are read"):
        Tilted(chain(C3), tilt, 1.0, horizon=3).log_probs(batch)
    with pytest.raises(ValueError, match="it must give 81 finite numbers"):
        Tilted(chain(C3), lambda strings: strings[:3].double(), 1.0, horizon=4).log_probs(batch)
