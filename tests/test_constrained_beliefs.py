"""Beliefs by addition: the sum, its modes, what attention must do, and readings that tell it from the belief."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from nextlens.analyses.constrained_attention import attention_circuit, fitted_decay
from nextlens.analyses.constrained_beliefs import (
    FINAL,
    MID,
    POST,
    SITES,
    affine_control,
    at_least_tokens,
    constrained_geometry,
    principal,
    targets,
)
from nextlens.analyses.constrained_numbers import kernel_error, odd_share, summary
from nextlens.analyses.constrained_recipe import ConstrainedRecipe, Setting
from nextlens.analyses.constrained_run import run
from nextlens.analyses.prefix_rows import Prefixes
from nextlens.models.batch import Batch
from nextlens.models.hooked import canonical_site
from nextlens.models.processes import Process, coin, frdn, golden_mean, mess3, mixture, rrxor, with_beginning_token
from nextlens.models.processes.constrained import (
    attention_decay,
    constrained_beliefs,
    decay_modes,
    displacements,
    embedding_coefficients,
    heads_needed,
    value_coefficients,
)
from nextlens.models.recording import record
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.probes.belief import in_sample
from nextlens.probes.ridge import r2
from tests.process_strategies import bloch_walk, disguises, moon, processes

signed = pytest.mark.parametrize("process", [bloch_walk(), frdn(), moon()], ids=lambda process: process.name)


def says_all(process: Process) -> bool:
    return (process.stationary @ process.transition @ process.functional > 1e-6).all()


def the_sum(process: Process, word: np.ndarray) -> np.ndarray:
    """Equation 5, term by term, with a power of the chain for each."""
    p, chain = process.stationary, process.transition.sum(0)
    total = p.copy()
    for s, token in enumerate(word):
        joint = p @ process.transition[token]
        total += (joint / (joint @ process.functional) - p) @ np.linalg.matrix_power(chain, len(word) - 1 - s)
    return total


def agrees_with_the_sum(process: Process) -> None:
    words = np.random.default_rng(0).integers(process.n_tokens, size=(4, 7))
    found = constrained_beliefs(process, words)
    for b, word in enumerate(words):
        for t in range(len(word)):
            np.testing.assert_allclose(found[b, t], the_sum(process, word[: t + 1]), atol=1e-12)
    np.testing.assert_allclose(found @ process.functional, 1, atol=1e-9)


@given(processes())
def test_the_recursion_is_the_sum_over_tokens(process):
    assume(says_all(process))
    agrees_with_the_sum(process)


@signed
def test_the_recursion_is_the_sum_for_generalized_processes(process):
    agrees_with_the_sum(process)


@given(processes())
def test_after_one_token_it_is_the_belief(process):
    assume(says_all(process))
    each = np.arange(process.n_tokens)[:, None]
    np.testing.assert_allclose(
        constrained_beliefs(process, each), process.beliefs(each, process.stationary), atol=1e-12
    )


@given(disguises())
def test_it_turns_with_the_coordinates(pair):
    """Words have no coordinates, so what is said of the next token cannot depend on them."""
    process, disguised = pair
    assume(says_all(process))
    words = np.random.default_rng(0).integers(process.n_tokens, size=(3, 5))
    laws = [constrained_beliefs(one, words) @ (one.transition @ one.functional).T for one in (process, disguised)]
    np.testing.assert_allclose(*laws, atol=1e-7)


@given(processes(), st.integers(1, 4))
def test_on_average_over_words_it_is_the_stationary_law(process, length):
    assume(says_all(process))
    words = np.stack(np.meshgrid(*[np.arange(process.n_tokens)] * length, indexing="ij"), -1).reshape(-1, length)
    joint = np.broadcast_to(process.stationary, (len(words), process.n_states))
    for token in words.T:
        joint = (joint[:, None] @ process.transition[token])[:, 0]
    mean = joint.sum(1) @ constrained_beliefs(process, words)[:, -1]
    np.testing.assert_allclose(mean, process.stationary, atol=1e-10)


@pytest.mark.parametrize(
    ("x", "a", "ratio"),
    [(0.15, 0.6, 0.7091), (0.15, 0.2, 0.7484), (0.5, 0.6, 0.6250), (0.5, 0.2, 0.8333), (0.05, 0.85, 0.4758)],
)
def test_for_mess3_the_forms_differ_by_one_number(x, a, ratio):
    process = mess3(a, x)
    np.testing.assert_allclose(
        displacements(process, form="rows"), ratio * displacements(process), rtol=1e-4, atol=1e-12
    )


def test_where_tokens_agree_it_leaves_the_simplex():
    words = np.array(np.meshgrid(*[range(3)] * 8)).reshape(8, -1).T
    by_rows = constrained_beliefs(mess3(), words, form="rows")
    assert (by_rows.min().round(2), by_rows.max().round(2)) == (-0.26, 1.53)


def test_a_row_that_says_nothing_is_refused_by_its_state():
    with pytest.raises(ValueError, match=r"0/0 for 'rrxor': state 3 never says token 0; use form='bayes'"):
        constrained_beliefs(rrxor(), [[0, 1]], form="rows")
    assert np.isfinite(constrained_beliefs(rrxor(), [[0, 1]])).all()


def test_what_cannot_be_divided_is_refused_by_name():
    with pytest.raises(ValueError, match="'bloch_walk' has signed weights"):
        displacements(bloch_walk(), form="rows")
    with pytest.raises(ValueError, match="never says token 3 in the long run"):
        displacements(with_beginning_token(mess3()))
    with pytest.raises(ValueError, match=r"form='bayse' is not one of 'bayes', 'rows'; did you mean 'bayes'"):
        constrained_beliefs(mess3(), [[0]], form="bayse")
    with pytest.raises(ValueError, match=r"tokens\[0, 1\] is 3"):
        constrained_beliefs(mess3(), [[0, 3]])


@given(processes())
def test_displacements_are_sums_of_powers_of_the_modes(process):
    """``v A^n`` is a combination of the n-th powers of the modes, so it obeys their recurrence."""
    assume(says_all(process))
    chain = process.transition.sum(0)
    try:
        modes = decay_modes(process)
    except ValueError:
        assume(False)
    recurrence = np.poly(modes)[::-1] if len(modes) else np.ones(1)
    v = displacements(process)
    later = sum(c * v @ np.linalg.matrix_power(chain, n + 1) for n, c in enumerate(recurrence))
    np.testing.assert_allclose(later, 0, atol=1e-5)


@pytest.mark.parametrize("x", [0.05, 0.15, 0.5])
def test_mess3_has_one_mode(x):
    np.testing.assert_allclose(decay_modes(mess3(0.6, x)), [1 - 3 * x], atol=1e-9)
    assert attention_decay(mess3(0.6, x)) == pytest.approx(1 - 3 * x)


def test_a_mixture_never_forgets_which_part_it_is():
    process = mixture([mess3(0.6, 0.15), mess3(0.3, 0.15)], [0.5, 0.5])
    assert attention_decay(process) == pytest.approx(0.55)
    assert attention_decay(mixture([coin(0.2), coin(0.7)], [0.5, 0.5])) == pytest.approx(1)


def test_how_many_heads():
    assert [heads_needed(one) for one in (mess3(), mess3(0.6, 0.5), coin(0.3), golden_mean())] == [1, 2, 0, 2]
    assert heads_needed(frdn()) == 4  # a complex pair decays slowest, then a positive mode
    with pytest.raises(ValueError, match="turn as they decay"):
        attention_decay(frdn())


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.integers(3, 8))
def test_one_head_with_these_coefficients_makes_r_1(seed, zeta, n):
    """Attention that decays by zeta, whatever it gives to the token just read, and the two coefficients."""
    rng, process = np.random.default_rng(seed), mess3(0.6, (1 - zeta) / 3)
    pattern = np.zeros((n, n))
    for s in range(n):
        pattern[s, s] = rng.uniform(0.01, 1)
        pattern[s + 1 :, s] = rng.uniform(0.1, 1) * zeta ** np.arange(n - s - 1)
    words = rng.integers(3, size=(5, n))
    v = displacements(process)[words]
    by_value = value_coefficients(pattern, zeta)[:, None] * v[:, :-1]
    by_embedding = embedding_coefficients(pattern, zeta)[:, None] * v[:, :-1]
    made = process.stationary + by_embedding + pattern[:-1, :-1] @ by_value
    np.testing.assert_allclose(made, constrained_beliefs(process, words)[:, :-1], atol=1e-10)


def test_with_softmax_the_first_embeddings_have_the_wrong_sign():
    """Rows sum to 1 and every token is looked back at with .3: less than zeta = .55, more than zeta (1 - zeta)."""
    zeta, n = 0.55, 8
    pattern = np.tril(0.3 * zeta ** (np.subtract.outer(np.arange(n), np.arange(n)) - 1.0), -1)
    pattern += np.diag(1 - pattern.sum(1))
    signs = np.sign(embedding_coefficients(pattern, zeta))
    assert signs.tolist() == [-1, -1, 1, 1, 1, 1, 1]


def test_patterns_that_cannot_be_divided_by_are_refused():
    with pytest.raises(ValueError, match=r"pattern\[2, 1\] is 0; it must be above 0"):
        value_coefficients(np.eye(3) + np.eye(3, k=-1) * [[1], [1], [0]], 0.5)
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        embedding_coefficients(np.ones((2, 3)), 0.5)


#: What one tells of the other, x and alpha: every word of 8 tokens at each position, then the same times its
#: probability, then honestly, each prefix by its probability.
CONTROL = {
    (0.15, 0.6): (0.978, 0.993, 0.980),
    (0.15, 0.2): (0.978, 0.992, 0.978),
    (0.5, 0.6): (0.965, 0.988, 0.965),
    (0.5, 0.2): (0.985, 0.995, 0.985),
    (0.05, 0.85): (0.761, 0.900, 0.810),
}


@pytest.mark.parametrize(("x", "a"), CONTROL)
def test_the_control_without_a_model(x, a):
    prefixes = Prefixes.of(mess3(a, x), 8)
    by_weighting = affine_control(prefixes).r2.sel(direction="r_1 -> belief")
    sought = targets(prefixes)
    twice = in_sample(sought["r_1"].values, sought["belief"].values, weights=prefixes.weights * prefixes.extensions).r2
    found = (float(by_weighting.sel(weighting="word")), twice, float(by_weighting.sel(weighting="probability")))
    assert found == pytest.approx(CONTROL[x, a], abs=6e-4)


class Holder:
    """A hooked kernel that holds ``r_1`` after attention and the belief after that, in other coordinates."""

    sites = SITES
    unembedding = torch.zeros(8, 3)
    n_tokens = 3

    def __init__(self, process: Process, seed: int = 0, noise: float = 0.0):
        rng = np.random.default_rng(seed)
        self.process, self.noise, self.rng, self.code = process, noise, rng, rng.standard_normal((3, 8))

    def at(self, site: str, tokens: np.ndarray) -> Tensor:
        if site == "hook_embed":
            held = np.eye(3)[tokens]
        else:
            held = constrained_beliefs(self.process, tokens) if site == MID else self.process.beliefs(tokens)
        return torch.from_numpy(held @ self.code + self.noise * self.rng.standard_normal((*tokens.shape, 8)))

    def __call__(self, batch: Batch) -> Tensor:
        self.seen |= {name: self.at(canonical_site(name, SITES), batch.tokens.numpy()) for name in self.asked}
        return torch.zeros((*batch.tokens.shape, 3))

    log_probs = __call__

    @contextmanager
    def watched(self, *sites):
        self.asked, self.seen = sites, {}
        yield self.seen

    def edited(self, site, edit):
        raise ValueError("nothing reads what stands at a site")


PROCESS = mess3()
PREFIXES = Prefixes.of(PROCESS, 7)
HELD = constrained_geometry(Holder(PROCESS), Holder(PROCESS, noise=50.0), PREFIXES)


@pytest.mark.parametrize(
    ("site", "held", "other"), [(MID, "r_1", "belief"), (POST, "belief", "r_1"), (FINAL, "belief", "r_1")]
)
def test_a_site_that_holds_one_alone_is_told_from_one_that_holds_the_other(site, held, other):
    control = affine_control(at_least_tokens(PREFIXES)).r2.sel(weighting="probability")
    known = float(control.sel(direction=f"{held} -> {other}"))
    assert HELD.r2(site, held) > 0.9999
    assert HELD.r2(site, other) == pytest.approx(known, abs=0.02)
    assert HELD.r2(site, f"{other} beyond {held}") == pytest.approx(0, abs=0.05)
    assert HELD.r2(site, f"{held} beyond {other}") == pytest.approx(1 - known, abs=0.05)
    assert HELD.left(site, held) == pytest.approx(0, abs=1e-3)
    assert HELD.left(site, other) == pytest.approx(1, abs=0.1)
    explained = HELD.variance.r2.sel(site=site, model="probe")
    assert float(explained.sel(explained_by=held)) == pytest.approx(1)
    assert float(explained.sel(explained_by=other)) < 0.9
    assert float(explained.sel(explained_by="both")) == pytest.approx(1)
    assert float(HELD.paper2025.r2.sel(site=site, target=held, model="probe")) == pytest.approx(1)
    assert float(HELD.paper2025.variance.sel(site=site, model="probe")) == pytest.approx(1)


def test_the_nulls_score_nothing_where_there_is_nothing():
    null = HELD.scores.r2.sel(predictor=["untrained twin", "shuffle"], site=list(SITES[1:]))
    assert float(null.max()) < 0.05
    assert float(HELD.variance.r2.sel(model="untrained twin", site=list(SITES[1:])).max()) < 0.05
    assert HELD.scores.attrs["in_sample"] is False
    assert HELD.paper2025.attrs["in_sample"] is True


def test_readings_are_of_the_sites_they_are_named_for():
    rows = at_least_tokens(PREFIXES)
    assert r2(HELD.r_1, HELD.read_r_1, rows.weights) > 0.9999
    assert r2(HELD.belief, HELD.read_belief, rows.weights) > 0.9999
    with pytest.raises(ValueError, match=r"site='blocks\.1\.resid_mid' is not one of"):
        HELD.r2("blocks.1.resid_mid", "r_1")


def test_what_is_beyond_the_other_is_no_affine_function_of_it():
    sought = targets(PREFIXES)
    for one, other in (("r_1", "belief"), ("belief", "r_1")):
        beyond = sought[f"{one} beyond {other}"].values
        assert in_sample(sought[other].values, beyond, weights=PREFIXES.weights).r2 == pytest.approx(0, abs=1e-9)


def test_short_prefixes_are_left_out_and_lengths_stay_alike():
    rows = at_least_tokens(PREFIXES)
    assert len(rows) == len(rows.beliefs) == sum(3**n for n in range(3, 8))
    np.testing.assert_allclose(np.bincount(rows.position, weights=rows.weights)[2:], 1 / 5)
    with pytest.raises(ValueError, match="shortest=9 must lie between 1 and 7"):
        at_least_tokens(PREFIXES, 9)


def test_principal_components_hold_the_variance_they_say():
    X = np.random.default_rng(0).standard_normal((200, 5)) * [5, 3, 2, 1, 0.5]
    kept, share = principal(X)
    assert share == pytest.approx(np.sort(np.linalg.svd(X - X.mean(0))[1] ** 2)[::-1][:3].sum() / X.var(0).sum() / 200)
    np.testing.assert_allclose(kept.var(0).sum() / X.var(0).sum(), share)


LAYER = TransformerConfig(n_tokens=3, n_layers=1, n_heads=2, d_model=12, d_mlp=8, n_ctx=5, seed=3)


def test_what_is_read_after_attention_is_the_sum_of_what_is_read_alone():
    """The identity behind the circuit, for any weights: embedding, and each head's OV vectors by their attention."""
    from nextlens.analyses.constrained_attention import PATTERN, _probe_of_r_1, _read_alone

    model, prefixes = Transformer(LAYER), Prefixes.of(PROCESS, 5)
    probe = _probe_of_r_1(model, prefixes)
    embedded, through = _read_alone(model, 5, probe)
    batch = prefixes.batch[slice(0, 40)]
    found, words, place = record(model, batch, [MID, PATTERN]), batch.tokens.numpy(), np.arange(5)
    attended = np.einsum("bhds,hbsi->bdi", found[PATTERN].values, through[:, words, place])
    bias = model.blocks[0].attn.b_O.detach().numpy() @ probe.coef_.T
    summed = embedded[0, words, place] + attended + bias
    np.testing.assert_allclose(summed, found[MID].values @ probe.coef_.T, atol=1e-5)


def test_coefficients_of_a_layer_whose_weights_are_known():
    """Embeddings are v itself, one head looks at all alike and gives twice what it sees, the other minus once."""
    config = TransformerConfig(
        n_tokens=3, n_layers=1, n_heads=2, d_model=16, d_mlp=4, n_ctx=5, normalisation="none", positions="learned"
    )
    model, prefixes = Transformer(config), Prefixes.of(PROCESS, 5)
    attention, carried = model.blocks[0].attn, torch.zeros(16, 8)
    carried[:3, :3] = torch.eye(3)
    with torch.no_grad():
        model.embed.W_E.zero_()[:, :3] = torch.from_numpy(displacements(PROCESS)).float()
        model.pos_embed.W_pos[:, :3] = 0
        attention.W_Q.zero_()
        attention.W_V.copy_(torch.stack([2 * carried, -carried]))
        attention.W_O.copy_(torch.stack([carried.T, carried.T]))
    circuit = attention_circuit(model, prefixes)
    uniform = np.tril(np.ones((5, 5))) / np.arange(1, 6)[:, None]
    np.testing.assert_allclose(circuit.pattern.values, np.stack([uniform, uniform]), atol=1e-6)
    scale = circuit.embedding.values[0]
    np.testing.assert_allclose(circuit.value.values / scale, np.tile([[2.0], [-1.0]], 5), rtol=1e-3)
    np.testing.assert_allclose(circuit.kernel.values / scale, uniform + np.eye(5), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(circuit.decay.values, fitted_decay(uniform))
    np.testing.assert_allclose(circuit.share.values, 1, atol=1e-4)
    assert float(circuit.zeta) == pytest.approx(0.85)


@pytest.mark.parametrize("zeta", [0.55, -0.5, 0.85])
def test_a_decay_is_found_whatever_each_key_weighs(zeta):
    distance = np.subtract.outer(np.arange(7), np.arange(7)).clip(0)
    weights = np.tril(zeta**distance) * np.random.default_rng(0).uniform(0.2, 2, 7)
    np.fill_diagonal(weights, 9.0)  # the token just read does not count
    assert fitted_decay(weights) == pytest.approx(zeta)


def test_patterns_without_a_decay_are_refused():
    with pytest.raises(ValueError, match="weights of 2 positions; a decay needs 3"):
        fitted_decay(np.eye(2))
    with pytest.raises(ValueError, match="no decay to fit"):
        fitted_decay(np.eye(4))
    with pytest.raises(ValueError, match="model has n_layers=2"):
        attention_circuit(Transformer(TransformerConfig(n_tokens=3, n_layers=2, d_model=8, n_ctx=4)), PREFIXES)


def test_odd_distances_and_the_error_of_a_kernel():
    distance = np.subtract.outer(np.arange(6), np.arange(6))
    assert odd_share(np.where(distance % 2 == 1, 1.0, 0.0)) == 1
    assert odd_share(np.where(distance % 2 == 0, 1.0, 0.0)) == 0
    circuit = attention_circuit(Transformer(LAYER), Prefixes.of(PROCESS, 5))
    exact = circuit.assign(kernel=(("position", "looked_at"), np.tril(0.85 ** distance[:5, :5].clip(0))))
    assert kernel_error(exact) == pytest.approx(0, abs=1e-12)
    off = exact.kernel.values.copy()
    off[:, :2] += 7  # the first two keys do not count
    off[np.tril_indices(5)] += 0.1
    assert kernel_error(exact.assign(kernel=(("position", "looked_at"), off))) == pytest.approx(0.1)


def test_a_run_from_end_to_end(tmp_path):
    settings = (Setting(0.5, 0.6, 1), Setting(0.5, 0.6, 2))
    recipe = ConstrainedRecipe(settings, steps=4, batch_size=16, n_ctx=5, longest=4, seeds=(0, 3))
    numbers = run(recipe, tmp_path / "run", n_jobs=1)
    assert json.loads((tmp_path / "run" / "numbers.json").read_text()) == json.loads(json.dumps(numbers))
    assert {one.name for one in (tmp_path / "run").glob("*.png")} == {f"{one.name}.png" for one in settings}
    two = numbers["settings"]["x0.5-a0.6-2heads"]
    assert two["heads_needed"] == 2
    assert len(two["missed"]["by_seed"]) == len(two["attention"]["value"]) == 2
    assert two["r2"][MID]["r_1"]["probe"]["mean"] == pytest.approx(np.mean(two["r2"][MID]["r_1"]["probe"]["by_seed"]))
    low, high = two["attention"]["value"]
    assert low["mean"] <= high["mean"]
    explained = two["variance"][MID]["probe"]
    differences = np.subtract(explained["r_1"]["by_seed"], explained["belief"]["by_seed"])
    assert two["r_1_over_belief"][MID]["by_seed"] == pytest.approx(differences)
    said = summary(recipe, numbers, tmp_path)
    assert "x=0.5: 1 head misses" in said
    assert said.endswith(
        "nextlens belief constrained --setting 0.5,0.6,1 --setting 0.5,0.6,2 --steps 4 --batch-size 16 --n-ctx 5 "
        "--longest 4 --seeds 0,3"
    )
    with pytest.raises(ValueError, match="holds the results of a run with steps=4, not 5"):
        run(ConstrainedRecipe(settings, steps=5, batch_size=16, n_ctx=5, longest=4, seeds=(0, 3)), tmp_path / "run")


def test_recipes_say_what_is_wrong():
    assert ConstrainedRecipe().command == "nextlens belief constrained"
    assert ConstrainedRecipe(seeds=(3,)).command.endswith("--seeds 3,")
    assert len({training.name for training in ConstrainedRecipe().trainings()}) == 16
    for wrong, match in (
        ({"steps": 1}, "steps=1 must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\) must hold at least one seed, each once"),
        ({"settings": ()}, "settings=.* must hold at least one setting"),
        ({"longest": 3}, "longest=3 must be at least 4"),
        ({"n_ctx": 8}, "n_ctx=8 must be at least 9"),
        ({"n_ctx": 12, "longest": 12}, "longest=12 has too many words to list"),
    ):
        with pytest.raises(ValueError, match=match):
            ConstrainedRecipe(**wrong)
    for wrong, match in (((0.7, 0.6), "x=0.7"), ((1 / 3, 0.6), "at one third"), ((0.1, 0.6, 0), "heads=0")):
        with pytest.raises(ValueError, match=match):
            Setting(*wrong)
    for wrong in ("0.5,0.6", "0.5,0.6,1.5", "a,b,c"):
        with pytest.raises(ValueError, match=f"setting='{wrong}' must be X,ALPHA,HEADS"):
            Setting.of(wrong)
    assert [Setting.of(f"{one.x!r},{one.alpha!r},{one.heads}") for one in ConstrainedRecipe().settings] == list(
        ConstrainedRecipe().settings
    )


def test_a_site_is_named_only_where_seeds_agree():
    from nextlens.analyses.constrained_numbers import _holds
    from nextlens.analyses.intervals import interval

    assert _holds(interval([0.10, 0.11, 0.12])) == "r_1 (+0.110)"
    assert _holds(interval([-0.10, -0.11, -0.12])) == "belief (-0.110)"
    assert _holds(interval([0.3, -0.1, 0.2])) == "neither r_1 nor belief for sure (+0.133)"
    assert _holds(interval([0.3])).startswith("neither")
