"""The formulation as running code: kernels measured beside closed forms, enumerations and each other."""

from __future__ import annotations

import importlib
import itertools
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from nextlens.analyses.cli import nextlens
from nextlens.analyses.compare_figures import cost as cost_figure
from nextlens.analyses.compare_figures import flops as flops_figure
from nextlens.analyses.compare_kernels import Made
from nextlens.analyses.compare_numbers import summary
from nextlens.analyses.compare_recipe import CompareRecipe
from nextlens.analyses.compare_run import run
from nextlens.analyses.displays import style
from nextlens.analyses.displays.costs import CostsDisplay
from nextlens.analyses.formulation import accuracy, calibration, deployed, deployed_rate, possible, rows_of, stationary
from nextlens.analyses.formulation_costs import cost, counted_flops, latency
from nextlens.analyses.formulation_edits import FAMILIES, text_edits
from nextlens.analyses.formulation_memory import (
    exact_error,
    exact_influence,
    exact_memory,
    laws_of_words,
    sampled_edits,
    sampled_influence,
    sampled_memory,
    word_probabilities,
)
from nextlens.analyses.results_folder import NUMBERS
from nextlens.models.batch import Batch
from nextlens.models.contexts import Truncated
from nextlens.models.deployment import Greedy, Nucleus, Tempered, TopK
from nextlens.models.induction.kneser_ney import KneserNey
from nextlens.models.processes import Process, golden_mean, leak, markov, mess3
from nextlens.models.processes.information import excess_entropy
from nextlens.models.recording import surprisal
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.models.vocabulary import Bytes
from nextlens.probes import measures

#: Of Mess3, pasts of 9 tokens (alpha .85, x .05).
GAINS = (0.305155, 0.064261, 0.019898, 0.004660, 0.001282, 0.000325, 0.000085)
INFLUENCE = (0.33791, 0.13547, 0.05707, 0.02334, 0.00963, 0.00399, 0.00170)
INFLUENCE_SUP = (0.54466, 0.33831, 0.29737, 0.22391, 0.18159, 0.13920, 0.11434)
C3 = np.array([[0.1, 0.6, 0.3], [0.5, 0.15, 0.35], [0.25, 0.3, 0.45]])


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return mess3().sample(60, 61, np.random.default_rng(0))


def chain(transition: np.ndarray) -> Process:
    """A Markov chain as a process whose state is the last token."""
    return Process(np.stack([transition * (np.arange(3) == x) for x in range(3)]), "chain")


# --- memory and influence


def test_gains_add_up_to_the_excess_entropy_of_mess3():
    found = exact_memory(mess3(), mess3(), 11)
    np.testing.assert_allclose(found.gain[: len(GAINS)], GAINS, atol=1.5e-6)
    assert found.excess == pytest.approx(0.395696, abs=1e-6)
    assert found.excess == pytest.approx(excess_entropy(mess3()).value, abs=2e-6)


def test_gains_of_a_short_past_are_block_entropies():
    weight = [word_probabilities(mess3(), n) for n in (4, 5)]
    blocks = [-(w * np.log(w)).sum() for w in weight]
    found = exact_memory(mess3(), mess3(), 4)
    assert found.excess == pytest.approx(blocks[0] - 4 * (blocks[1] - blocks[0]))


def test_a_markov_kernel_gains_nothing_beyond_its_order():
    found = exact_memory(markov(mess3(), 2), mess3(), 6)
    assert (np.abs(found.gain[2:]) < 1e-12).all()
    assert found.gain[1] > 0.03


def test_error_by_context_of_the_observer_is_its_gain_and_of_others_more():
    found = exact_error(mess3(), mess3(), 7)
    np.testing.assert_allclose(found[:-1], exact_memory(mess3(), mess3(), 7).gain[1:], atol=1e-12)
    assert found[-1] == pytest.approx(0, abs=1e-12)
    wrong = exact_error(Tempered(mess3(), 0.5), mess3(), 4)
    weight, laws = word_probabilities(mess3(), 4), laws_of_words(mess3(), 4)
    sharp = laws_of_words(Tempered(mess3(), 0.5), 4)
    assert wrong[-1] == pytest.approx(float(weight @ (np.exp(laws) * (laws - sharp)).sum(1)))
    assert np.isfinite(exact_error(Greedy(golden_mean()), golden_mean(), 4)).all()


def test_measures_name_what_they_cannot_read():
    tokens = mess3().sample(3, 5, np.random.default_rng(0))
    for wrong, words in (
        (lambda: possible(mess3(), np.array([[0, 7, 1]])), "7"),
        (lambda: exact_error(golden_mean(), mess3(), 3), "n_tokens=2 and the process 3"),
        (lambda: sampled_memory(mess3(), tokens, []), "number of contexts=0"),
        (lambda: sampled_edits(mess3(), tokens, 9, np.random.default_rng(0)), "tokens of a sequence=5"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()


def test_influence_on_mess3_is_as_enumerated():
    found = exact_influence(mess3(), mess3(), 9, 7)
    np.testing.assert_allclose(found.mean, INFLUENCE, atol=6e-6)
    np.testing.assert_allclose(found.sup, INFLUENCE_SUP, atol=6e-6)


def test_influence_skips_words_that_cannot_be_said():
    found = exact_influence(golden_mean(), golden_mean(), 4, 3)
    assert np.isfinite(found.mean).all()
    rows = laws_of_words(golden_mean(), 2)
    assert np.isnan(rows[3]).all()  # 1 1 is forbidden
    with pytest.raises(ValueError, match="at most 1048576 are listed"):
        exact_memory(mess3(), mess3(), 20)


def test_words_are_read_alike_by_a_process_and_by_its_kernel():
    class Plain:
        n_tokens = 3

        def log_probs(self, batch):
            return mess3().log_probs(batch)

    np.testing.assert_allclose(laws_of_words(mess3(), 4), laws_of_words(Plain(), 4), atol=1e-12)


def test_sampled_memory_and_influence_come_near_the_exact_ones():
    tokens = mess3().sample(3000, 14, np.random.default_rng(1))
    gaps = sampled_memory(mess3(), tokens, [1, 3], last=2).more
    assert gaps[1].value == pytest.approx(GAINS[1], abs=min(0.015, 4 * gaps[1].error))
    assert gaps[3].value == pytest.approx(GAINS[3], abs=min(0.006, 4 * gaps[3].error))
    for k, (gap, _) in sampled_memory(mess3(), tokens[:20], [1, 3], last=2).more.items():
        short, whole = (
            surprisal(one, Batch.from_tokens(tokens[:20])).values for one in (Truncated(mess3(), k), mess3())
        )
        assert gap == pytest.approx((short - whole)[:, -2:].mean() * np.log(2))
    moved = sampled_influence(mess3(), tokens[:, :9], [1, 3], np.random.default_rng(2))
    assert moved[1].mean == pytest.approx(INFLUENCE[0], abs=0.02)
    assert all(moved[k].worst <= INFLUENCE_SUP[k - 1] + 1e-5 for k in (1, 3))
    edits = sampled_edits(markov(mess3(), 1), tokens[:20, :9], 2, np.random.default_rng(3))
    assert edits["insertion"].worst == 0  # a bigram sees the last token only
    words = golden_mean().sample(20, 5, np.random.default_rng(3))
    kept = sampled_edits(golden_mean(), words, 2, np.random.default_rng(3), process=golden_mean())
    assert all(np.isfinite(one.mean) for one in kept.values())  # what 1 1 would come of is left out
    with pytest.raises(ValueError, match="positions before the last few"):
        sampled_memory(mess3(), tokens, [13], last=2)


# --- accuracy and calibration


@pytest.mark.parametrize(
    ("temperature", "loss", "entropy", "divergence"),
    [(0.5, 0.972395, 0.378924, 0.178937), (0.8, 0.807917, 0.669280, 0.014459), (2.0, 0.864651, 1.014272, 0.071194)],
)
def test_temperature_shows_in_the_mean_of_z_less_h(temperature, loss, entropy, divergence):
    kernel, weight = Tempered(mess3(), temperature), word_probabilities(mess3(), 9)
    truth, rows = laws_of_words(mess3(), 9), laws_of_words(kernel, 9)
    z, h = -(np.exp(truth) * rows).sum(1) @ weight, measures.entropy(rows) @ weight
    assert (z, h) == pytest.approx((loss, entropy), abs=2e-5)
    assert measures.divergence(truth, rows) @ weight == pytest.approx(divergence, abs=2e-5)


def test_an_exact_kernel_is_at_its_entropy_rate_and_a_bigram_above_it(tokens):
    rate = mess3().entropy_rate().value
    exact, bigram = (rows_of(kernel, tokens, truth=mess3(), skip=9) for kernel in (mess3(), Truncated(mess3(), 1)))
    said = accuracy(exact, rate)
    assert said["divergence"].value == pytest.approx(0, abs=1e-12)
    assert abs(said["excess"].value) < 4 * said["excess"].error
    other = accuracy(bigram, rate)
    assert other["divergence"].value == pytest.approx(sum(GAINS[1:2]), abs=0.006)  # h_1 - h
    assert other["divergence"].value == pytest.approx(other["loss"].value - said["loss"].value, abs=0.03)
    assert calibration(bigram)["z - h, lag 1"].value > 0.15 > abs(calibration(exact)["z - h, lag 1"].value)


def test_loss_is_that_of_cross_entropy_and_a_shift_of_targets_would_show():
    process = chain(C3)
    tokens = process.sample(200, 101, np.random.default_rng(4))
    loss = accuracy(rows_of(process, tokens))["loss"].value
    rows = process.log_probs(Batch.from_tokens(tokens))
    torch.testing.assert_close(
        torch.tensor(loss, dtype=torch.float64),
        torch.nn.functional.cross_entropy(rows.flatten(0, 1), torch.from_numpy(tokens[:, 1:]).flatten()),
    )
    assert loss == pytest.approx(0.995, abs=0.01)
    repeated = -np.take_along_axis(rows.numpy(), tokens[:, :-1, None], 2).mean()
    assert repeated == pytest.approx(1.605, abs=0.02)


def test_kernels_of_another_alphabet_are_refused(tokens):
    with pytest.raises(ValueError, match="n_tokens=3 and the truth 2"):
        rows_of(mess3(), tokens, truth=golden_mean())


# --- deployment


@pytest.mark.parametrize(
    ("made", "entropy", "apart", "wrong"),
    [
        (lambda p: Tempered(p, 0.5), 0.811616, 0.056817, 0.057014),
        (lambda p: Tempered(p, 2.0), 1.067695, 0.026579, 0.026015),
        (lambda p: TopK(p, 2), 0.667546, 0.212900, 0.192564),
        (lambda p: Nucleus(p, 0.8), 0.823625, 0.080464, 0.085332),
    ],
)
def test_rates_of_a_deployed_chain_are_under_its_own_law(made, entropy, apart, wrong):
    process = chain(C3)
    assert deployed_rate(process, process, made(process)) == pytest.approx((entropy, apart, wrong), abs=1e-6)


def test_a_greedy_chain_of_two_cycles_has_no_rate():
    process = chain(C3)
    with pytest.raises(ValueError, match="no one stationary law"):
        deployed_rate(process, process, Greedy(process))
    np.testing.assert_allclose(stationary(C3), [0.290581, 0.336673, 0.372745], atol=1e-6)


def test_truncation_moves_a_law_by_what_it_leaves_out(tokens):
    rng = np.random.default_rng(0)
    found = deployed(mess3(), {"top-k=2": lambda kernel: TopK(kernel, 2)}, tokens, rng, truth=mess3())["top-k=2"]
    kernel = TopK(mess3(), 2)
    mass = kernel.log_mass(Batch.from_tokens(tokens)).double()
    assert found["variation"].value == pytest.approx(float((1 - mass.exp()).mean()))
    assert found["divergence"].value == pytest.approx(float(-mass.mean()))
    assert (found["precision"].value, found["recall"].value) == pytest.approx((1.0, float(mass.exp().mean())))
    assert found["possible"].value == 1


def test_what_a_deployed_chain_says_is_measured_under_its_own_law():
    process = chain(C3)
    words = process.sample(300, 12, np.random.default_rng(0))
    maps = {"top-k=2": lambda kernel: TopK(kernel, 2)}
    found = deployed(process, maps, words, np.random.default_rng(1), truth=process, said=40)["top-k=2"]
    entropy, apart, wrong = deployed_rate(process, process, TopK(process, 2))
    assert found["own entropy"].value == pytest.approx(entropy, abs=4 * found["own entropy"].error)
    assert found["own divergence"].value == pytest.approx(apart, abs=4 * found["own divergence"].error)
    assert found["divergence"].value == pytest.approx(wrong, abs=4 * found["divergence"].error)
    assert abs(apart - wrong) > 8 * max(found["divergence"].error, found["own divergence"].error)


def test_a_law_that_says_what_cannot_come_loses_precision_and_its_strings():
    process = golden_mean()  # which never says 1 1
    pairs = np.array(list(itertools.product((0, 1), repeat=4)))
    assert possible(process, pairs).tolist() == ["11" not in "".join(map(str, word)) for word in pairs]
    assert not possible(process, np.ones((2, 5), dtype=np.int64)).any()
    words = process.sample(200, 12, np.random.default_rng(0))
    made = {"flat": lambda kernel: Tempered(kernel, 1e6), "plain": lambda kernel: Tempered(kernel, 1.0)}
    made["top-p"] = lambda kernel: Nucleus(kernel, 0.9)
    found = deployed(leak(process, 0.1), made, words, np.random.default_rng(1), truth=process, said=3)
    for one in ("precision", "possible"):
        assert found["flat"][one].value < found["plain"][one].value < found["top-p"][one].value == 1
    assert found["top-p"]["recall"].value == 1 == found["flat"]["recall"].value


# --- costs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gated": True, "activation": "gelu"},
        {"positions": "rotary", "n_heads": 4},
        {"positions": "relative"},
        {"d_mlp": 0, "d_head": 24},
    ],
    ids=["plain", "gated", "rotary", "relative", "attention only"],
)
def test_the_formula_counts_what_torch_counts(changes):
    model = Transformer(TransformerConfig(n_tokens=11, n_layers=2, d_model=16, n_ctx=24, **changes))
    tokens = np.random.default_rng(5).integers(11, size=25)
    assert cost(model, tokens, 24).flops == counted_flops(model, Batch.from_tokens(tokens[None]))
    assert cost(model, tokens, 12).cache == 2 * 2 * model.config.n_heads * model.config.d_head * 12 * 4
    assert cost(Tempered(model, 2.0), tokens, 12).flops == counted_flops(model, Batch.from_tokens(tokens[None, :13]))
    with pytest.raises(ValueError, match="number of tokens to read"):
        cost(Truncated(model, 4), tokens, 25)


def test_operations_that_torch_sees_in_part_are_not_counted(tokens):
    made = Made(mess3(), None, tokens, lambda: mess3(), threshold=3)
    gim = made.kernel("gim")
    assert counted_flops(gim, Batch.from_tokens(tokens[:1])) > 0
    assert cost(gim, tokens[0], 12)[:2] == (None, None)
    assert cost(made.kernel("exact"), tokens[0], 12) == (None, None, None)


def test_latency_is_a_fit_of_medians(tokens):
    growth, median = latency(mess3(), tokens[0], (10, 20, 40), repeats=3)
    assert median.shape == (3,)
    assert (median > 0).all()
    assert min(growth.constant, growth.linear, growth.quadratic) >= 0


# --- edits of text


def test_edits_of_text_change_only_the_prompt():
    text = "the cat sat on the mat and the dog sat on the cat while it ran to the tree and then the mat " * 4
    kernel = KneserNey([Bytes().encode(text)], 256, 5)
    found = text_edits(kernel, Bytes(), [text[:120].strip(), text[50:170].strip()], np.random.default_rng(6), said=4)
    assert set(found) == set(FAMILIES)
    assert all(one.worst >= one.mean >= abs(one.signed) for one in found.values())
    near = text_edits(kernel, Bytes(), [text[:120].strip()] * 3, np.random.default_rng(6), said=4, within=1)
    assert near["word deleted"].mean > 0  # an edit within its context
    prompt, after = text[:120].strip().rsplit(" ", 4)[0], " " + " ".join(text[:120].strip().split(" ")[-4:])
    by_hand = (_bits_of(kernel, prompt.rsplit(" ", 1)[0], after) - _bits_of(kernel, prompt, after)) / len(after)
    assert near["word deleted"].signed == pytest.approx(by_hand)
    words = ["a", "b", "c", "d"]
    assert [edit(words, 2) for edit in FAMILIES.values()] == ["a b  c d", "a b\nc d", "a b c c d", "a b d"]
    with pytest.raises(ValueError, match="words of a passage"):
        text_edits(kernel, Bytes(), ["too short"], np.random.default_rng(6))


def _bits_of(kernel: KneserNey, prompt: str, after: str) -> float:
    """Of each byte after all before it, one at a time."""
    said = Bytes().encode(prompt + after)
    rows = (kernel.log_probs(Batch.from_tokens(said[None, : t + 1]))[0, -1] for t in range(len(prompt), len(said)))
    return -sum(float(row[said[t]]) for t, row in zip(range(len(prompt), len(said)), rows, strict=True)) / np.log(2)


# --- the table


def test_kernels_are_made_by_name():
    words = mess3().sample(6, 40, np.random.default_rng(7))
    made = Made(mess3(), None, words, lambda: mess3(), order=2, threshold=3)
    batch = Batch.from_tokens(words[:2, :9])
    for name in ("exact", "bigram", "markov:2", "gim", "infini-gram", "kneser-ney", "trained"):
        rows = made.kernel(name).log_probs(batch)
        torch.testing.assert_close(rows.logsumexp(-1), torch.zeros(2, 8, dtype=torch.float64), atol=1e-9, rtol=0)
    assert made.kernel("exact@temperature=.5@top-k=2") == TopK(Tempered(made.kernel("exact"), 0.5), 2)
    assert isinstance(made.kernel("exact@greedy"), Greedy)
    for name, words in (
        ("exact@top-q=2", "did you mean"),
        ("exact@top-k", "needs a number"),
        ("exact@last=x", "no number"),
    ):
        with pytest.raises(ValueError, match=words):
            made.kernel(name)


def test_a_comparison_on_a_process_is_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save", lambda figure, stem: None)
    recipe = CompareRecipe(
        ("exact", "bigram", "trained"), sequences=12, length=12, skip=4, words=3, steps=4, batch_size=2, d_model=8
    )
    numbers = run(recipe, tmp_path)
    assert json.loads((tmp_path / NUMBERS).read_text()) == json.loads(json.dumps(numbers))
    assert CompareRecipe.from_json(numbers["recipe"]) == recipe
    found = numbers["seeds"][0]["kernels"]
    assert found["exact"]["measures"]["divergence"][0] == pytest.approx(0, abs=1e-12)
    assert found["bigram"]["cost"]["flops_per_token"] is None
    assert found["trained"]["cost"]["flops_per_token"] > 0
    said = summary(recipe, numbers, tmp_path)
    assert "KL rate to the process" in said
    assert said.endswith(recipe.command)
    right = cost_figure(numbers)
    assert list(right.values) == ["bigram", "trained"]  # what is exact has no error to draw
    assert right.values["bigram"][0, 1] == found["bigram"]["measures"]["divergence"][0]
    lost = flops_figure(numbers)
    model = Transformer(recipe.config(3, 0))
    tokens = np.zeros((1, 3), dtype=int)
    assert list(lost.values) == ["trained"]
    assert lost.words["trained"] == ["1", "2", "3"]
    assert lost.values["trained"][1].tolist() == [
        counted_flops(model, Batch.from_tokens(tokens)),
        found["trained"]["error_by_context"][1],
    ]


def test_kernels_that_forbid_what_comes_have_a_table_too(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save", lambda figure, stem: None)
    kernels = ("exact", "exact@top-k=2", "exact@greedy")
    recipe = CompareRecipe(kernels, sequences=12, length=12, skip=4, words=3, maps=("top-k=2", "eta=.0001"))
    numbers = run(recipe, tmp_path)
    found = numbers["seeds"][0]["kernels"]["exact@top-k=2"]
    assert found["measures"]["loss"][0] is None
    assert 0 < found["measures"]["never"][0] < found["measures"]["forbidden"][0] + 0.2
    assert found["measures"]["z - h"] == found["measures"]["z - h, lag 1"] == [None, None]
    assert 0 < found["memory_total"] < 100
    said = summary(recipe, numbers, tmp_path)
    assert "forbids what came, share" in said
    assert "nan" not in said


@pytest.mark.parametrize("name", ["golden_mean", "coin", "zero_one_random", "moon"])
def test_processes_without_surprise_or_with_words_of_rounding_have_a_table(name, tmp_path, monkeypatch):
    monkeypatch.setattr("nextlens.analyses.compare_run.draw", lambda numbers, place: None)
    recipe = CompareRecipe(("exact", "bigram"), process=name, sequences=6, length=8, skip=2, words=3, timed=3)
    numbers = run(recipe, tmp_path)
    assert numbers["seeds"][0]["kernels"]["exact"]["memory_total"] >= 0
    assert "nan" not in summary(recipe, numbers, tmp_path)


def test_equal_laws_say_the_same(tokens):
    maps = {"plain": lambda kernel: Tempered(kernel, 1.0), "all": lambda kernel: TopK(kernel, 3)}
    found = deployed(mess3(), maps, tokens, np.random.default_rng(0), truth=mess3(), said=5)
    assert found["plain"]["own entropy"] == found["all"]["own entropy"]


def test_a_figure_of_costs_refuses_what_a_logarithm_cannot_hold():
    display = CostsDisplay(values={"one": [(1.0, 0.5), (10.0, 0.1)]}, words={"one": ["a", "b"]}).plot()
    np.testing.assert_array_equal(display.artists_["one"].get_xydata(), [[1, 0.5], [10, 0.1]])
    assert {text.get_text() for text in display.ax_.texts} == {"a", "b"}
    plt.close("all")
    for wrong, words in (
        ({"values": {}}, "nothing to draw"),
        ({"values": {"one": [(0.0, 1.0)]}}, r"values\['one'\] holds 0; logarithmic axes begin above 0"),
        ({"values": {"one": [(1.0, float("nan"))]}}, "must be a finite number"),
        ({"values": {"one": [(1.0, 1.0)]}, "words": {"one": []}}, "are 0 for 1 points"),
    ):
        with pytest.raises(ValueError, match=words):
            CostsDisplay(**wrong)


def test_a_comparison_on_texts_counts_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save", lambda figure, stem: None)
    words, rng = (
        np.array(["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat.", "tree."]),
        np.random.default_rng(8),
    )
    (tmp_path / "texts").mkdir()
    for name in "abcd":
        (tmp_path / "texts" / f"{name}.txt").write_text(" ".join(rng.choice(words, 700)))
    recipe = CompareRecipe(
        ("kneser-ney", "kneser-ney@temperature=2"),
        texts=f"cats={tmp_path / 'texts'}",
        vocabulary="bytes",
        sequences=4,
        length=100,
        skip=20,
        contexts=(1, 8),
        lags=(1, 40),
        order=3,
    )
    numbers = run(recipe, tmp_path / "out")
    found = numbers["seeds"][0]["kernels"]["kneser-ney"]
    bits = found["measures"]["bits per byte"][0]
    assert bits == pytest.approx(found["measures"]["loss"][0] / np.log(2))  # a byte a token
    assert found["influence"]["40"]["mean"] == 0  # beyond three tokens nothing is seen
    assert found["memory"]["8"] == pytest.approx([0, 0], abs=1e-12)
    assert 0 < found["influence"]["1"]["error"] < found["influence"]["1"]["mean"]
    assert (
        numbers["seeds"][0]["kernels"]["kneser-ney@temperature=2"]["measures"]["z - h"][0]
        < found["measures"]["z - h"][0]
    )
    assert "bits a byte" in summary(recipe, numbers, tmp_path)


def test_a_recipe_names_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"kernel='exakt'.*did you mean 'exact'"):
        CompareRecipe(("exakt",))
    with pytest.raises(ValueError, match="map='top-q'"):
        CompareRecipe(("exact@top-q=1",))
    with pytest.raises(ValueError, match="must be below the 40 tokens read"):
        CompareRecipe(("kneser-ney",), texts="somewhere", lags=(64,))
    assert max(CompareRecipe(("kneser-ney",), texts="somewhere").contexts) == 16
    with pytest.raises(ValueError, match="the GIM of a process compares beliefs"):
        CompareRecipe(("exact", "gim@temperature=2"), process="even")
    assert CompareRecipe(("exact", "smollm2-135m"), maps=("last=2",)).command == (
        "nextlens compare exact smollm2-135m --map last=2"
    )


def test_every_definition_of_the_page_is_an_object_in_the_file_it_links_to():
    page = (Path(__file__).parents[1] / "docs/formulation.md").read_text()
    names = re.findall(r"\[`((?:models|probes|analyses)\.[A-Za-z_.]+)`\]\(\.\./([a-z_/]+)", page)
    assert len(names) > 30
    for name, path in names:
        module = "nextlens." + path.removesuffix("/__init__").replace("/", ".")
        found = importlib.import_module(module)
        for part in f"nextlens.{name}".removeprefix(module).split(".")[1:]:
            found = getattr(found, part)


def test_verbs_answer_without_data():
    said = CliRunner().invoke(nextlens, ["downstream"])
    assert said.exit_code == 0
    assert "published" in said.output
