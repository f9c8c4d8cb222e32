"""Self-similarity of what models say: readings that lie are refused, parts add up, known memory gets its verdict."""

from __future__ import annotations

import json
import warnings
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

from nextlens.analyses import self_similarity as self_similarity_module
from nextlens.analyses import self_similarity_run
from nextlens.analyses.displays import style
from nextlens.analyses.displays.exponents import ExponentsDisplay
from nextlens.analyses.displays.scaling import ScalingDisplay
from nextlens.analyses.formulation import rows_of
from nextlens.analyses.results_folder import NUMBERS
from nextlens.analyses.self_similarity import by_context, exponents, scaling_curves, self_similarity
from nextlens.analyses.self_similarity_numbers import said_of, summary
from nextlens.analyses.self_similarity_reading import Scored, scored
from nextlens.analyses.self_similarity_recipe import SelfSimilarityRecipe
from nextlens.analyses.self_similarity_run import run
from nextlens.analyses.self_similarity_sources import domain, pointing, stretches
from nextlens.models.batch import Batch
from nextlens.models.contexts import Truncated
from nextlens.models.induction.infinigram import InfiniGram
from nextlens.models.induction.suffix_array import SuffixArray
from nextlens.models.processes import mess3
from nextlens.models.recording import surprisal
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.models.vocabulary import Bytes
from nextlens.probes import fractal
from nextlens.probes.measures import whiteness


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(autouse=True, scope="module")
def few_nulls():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(self_similarity_module, "NULLS", 2)
        patched.setattr(self_similarity_module, "DRAWS", 100)
        yield


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return mess3().sample(40, 261, np.random.default_rng(0))


def of(rows: np.ndarray) -> Scored:
    """Surprisal that no model said, with an entropy that explains none of it."""
    return Scored(rows, np.zeros_like(rows), "as given")


# --- reading


def test_surprisal_is_that_of_the_targets_and_entropy_that_of_the_rows(tokens):
    found, batch = scored(mess3(), tokens), Batch.from_tokens(tokens)
    np.testing.assert_allclose(found.surprisal, surprisal(mess3(), batch).values)
    rows = mess3().log_probs(batch).numpy()
    np.testing.assert_allclose(found.entropy, -(np.exp(rows) * rows).sum(-1) / np.log(2))
    loss = -np.take_along_axis(rows, tokens[:, 1:, None], 2).mean() / np.log(2)
    assert found.surprisal.mean() == pytest.approx(loss)


def test_targets_shifted_by_one_show_in_the_mean_and_not_in_the_exponent(tokens):
    rows = -mess3().log_probs(Batch.from_tokens(tokens)).numpy() / np.log(2)
    right = np.take_along_axis(rows, tokens[:, 1:, None], 2)[..., 0]
    repeated = np.take_along_axis(rows, tokens[:, :-1, None], 2)[..., 0]
    estimators = [fractal.local_whittle(fractal.pooled(one)).value for one in (right, repeated)]
    assert abs(estimators[0] - estimators[1]) < 0.08
    assert abs(right.mean() - repeated.mean()) > 0.1


@pytest.mark.parametrize("k", [1, 5, 400])
def test_windows_that_slide_by_one_are_the_truncated_kernel(tokens, k):
    found, slow = scored(mess3(), tokens[:5, :60], context=k), scored(Truncated(mess3(), k), tokens[:5, :60])
    np.testing.assert_allclose(found.surprisal, slow.surprisal)
    np.testing.assert_allclose(found.entropy, slow.entropy)


@pytest.mark.parametrize("stride", [5, 8])
def test_disjoint_windows_are_refused(tokens, stride):
    with pytest.raises(ValueError, match=r"stride=\d of context=8.*at most 4"):
        scored(mess3(), tokens, context=8, stride=stride)


@pytest.mark.parametrize("length", [2049, 2060, 75], ids=lambda length: f"{length} tokens")
def test_windows_that_move_further_are_warned_of_and_their_saw_is_taken_out(length):
    class Forgetful:
        """Says more of what it has read longer: surprisal falls along every window."""

        n_tokens = 2

        def log_probs(self, batch: Batch) -> torch.Tensor:
            sure = 0.5 + 0.45 * batch.positions.double() / 64
            return torch.stack([sure, 1 - sure], -1).log()

    zeros = np.zeros((30, length), dtype=np.int64)
    with pytest.warns(UserWarning, match="context|windows of 64 tokens moved by stride=32"):
        found = scored(Forgetful(), zeros, context=64, stride=32)
    assert np.ptp(found.surprisal[:, 64:]) < 1e-9
    alone = -np.log2(0.5 + 0.45 * np.arange(64) / 64)
    np.testing.assert_allclose(found.surprisal[:, :64], np.broadcast_to(alone, (30, 64)))
    with pytest.raises(ValueError, match="stride=64 of context=64"):
        scored(Forgetful(), zeros, context=64, stride=64)


def test_a_document_longer_than_the_model_reads_is_never_cut_in_silence(tokens):
    model = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=8, n_ctx=32))
    with pytest.raises(ValueError, match="260 positions are longer than the 32 tokens"):
        scored(model, tokens)
    assert scored(model, tokens[:3], context=32, stride=1).surprisal.shape == (3, 260)


def test_a_kernel_that_breaks_a_law_is_refused_by_the_law_and_the_place(tokens):
    class Broken:
        n_tokens = 3

        def __init__(self, value: float):
            self.value = value

        def log_probs(self, batch: Batch) -> torch.Tensor:
            rows = torch.full((*batch.tokens.shape, 3), 1 / 3, dtype=torch.float64).log()
            rows[2:, 7] = self.value
            return rows

    for value, law in ((float("nan"), "no row holds NaN"), (0.0, "rows sum to one")):
        with pytest.raises(ValueError, match=f"{law}, first at position 7 of document 2"):
            scored(Broken(value), tokens[:4])
        with pytest.raises(ValueError, match=f"{law}, first at position 7 of document 2"):
            rows_of(Broken(value), tokens[:4])


def test_a_kernel_that_looks_ahead_is_refused_at_the_first_place_where_it_does(tokens):
    class Peeping:
        """Of all documents but the first, from position 5 on, says a little more of what comes five later."""

        n_tokens = 3

        def log_probs(self, batch: Batch) -> torch.Tensor:
            rows = torch.full((*batch.tokens.shape, 3), 1 / 3, dtype=torch.float64)
            some = torch.arange(len(rows)) > 0
            for t in range(5, batch.tokens.shape[1] - 5):
                rows[some, t] = 0.3
                rows[some, t, batch.tokens[some, t + 5]] = 0.4
            return rows.log()

    for read in (scored, rows_of):
        with pytest.raises(ValueError, match="the future never changes the past, first at position 27 of document 1"):
            read(Peeping(), tokens[:4])


def test_forbidden_tokens_are_named_instead_of_an_infinite_exponent(tokens):
    never = InfiniGram(SuffixArray.build([[0, 0, 1, 0, 0, 1]], 3))
    with pytest.raises(ValueError, match=r"forbids token \d at position \d+ of document 0"):
        scored(never, tokens)


# --- whose memory


def test_an_exact_model_misses_nothing_and_a_bigram_misses_a_quarter():
    tokens = mess3().sample(60, 1001, np.random.default_rng(1))
    exact, bigram = (whiteness(scored(kernel, tokens).missed) for kernel in (mess3(), Truncated(mess3(), 1)))
    assert (np.abs(exact.autocorrelation[[0, 1, 4, 9]]) < 3.5 * exact.deviation[[0, 1, 4, 9]]).all()
    assert abs(exact.mean) < 4 * exact.mean_sd
    assert bigram.autocorrelation[0] == pytest.approx(0.25, abs=3.5 * bigram.deviation[0])
    assert bigram.p < 1e-6 < exact.p


def test_an_entropy_that_never_changes_is_refused_and_the_rest_is_not(tokens):
    found = scored(Truncated(mess3(), 1), tokens[:30, :258])  # a bigram of Mess3 is equally unsure after every token
    said = self_similarity(found, np.random.default_rng(2), series=["h", "z"], n_shuffles=333)
    assert "constant" in said.refused["h"]
    assert (said.verdict("h"), list(said.reports)) == ("refused", ["z"])


def test_exponents_stand_beside_shuffles_and_twins():
    rng = np.random.default_rng(3)
    rows = fractal.exponential_fractional((30, 512), 0.8, rng)
    data = exponents(rows, rng)
    whittle = data.sel(estimator="H, Whittle T^0.5")
    assert float(whittle.value) == pytest.approx(0.8, abs=0.06)
    assert float(whittle.shuffled) == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(whittle.phases, whittle.value, atol=1e-5)  # the same spectrum
    rescaled = data.sel(estimator="H, R/S")
    assert float(rescaled.shuffled) > 0.53  # what the published protocol reads of nothing
    there = data.value.notnull()
    assert (data.low <= data.value).where(there, True).all()


def test_surprisal_of_questions_is_below_its_null():
    rng = np.random.default_rng(4)
    found = self_similarity(of(fractal.questions((30, 256), rng)), rng, series=["z"], n_shuffles=333)
    assert found.verdict() == "below-null"
    assert found.data.series.values.tolist() == ["z"]


def test_parts_are_set_apart_in_pairs_and_the_published_reading_stands_beside():
    rng = np.random.default_rng(7)
    slow = fractal.fractional_gaussian_noise((30, 700), 0.85, rng)
    m = rng.standard_normal(slow.shape)
    found = self_similarity(Scored(slow + m, slow, "as given"), rng, n_shuffles=333)
    pooled = {name: fractal.pooled(x) for name, x in (("z", slow + m), ("m", m))}
    whittle = {
        name: fractal.local_whittle(x, n_frequencies=fractal.bandwidth(700, 0.5)).value for name, x in pooled.items()
    }
    value, (low, high) = found.apart["z - m"]
    assert value == pytest.approx(whittle["z"] - whittle["m"])
    assert 0 < low < value < high < found.apart["h - m"][0] + 0.2
    assert found.published.protocol.values == 700
    assert found.published.estimates["H"].value > found.published.null["H"].value + 0.1


def test_too_few_documents_are_refused(tokens):
    with pytest.raises(ValueError, match="number of documents"):
        self_similarity(scored(mess3(), tokens[:29]), np.random.default_rng(0))


def test_context_ablation_ends_with_the_whole_document(tokens):
    whole = scored(mess3(), tokens)
    data = by_context(mess3(), tokens, [1, 8], np.random.default_rng(5), skip=2, whole=whole, n_shuffles=333)
    assert data.context.values.tolist() == [1, 8, 0]
    assert data.attrs["strides"] == [1, 2]
    assert (np.diff(data["mean"].values) < 0).all()
    np.testing.assert_allclose(data["mean"][-1], whole.after(2).surprisal.mean())
    expected = fractal.local_whittle(
        fractal.pooled(whole.after(2).surprisal), n_frequencies=fractal.bandwidth(258, 0.5)
    )
    np.testing.assert_allclose(data["whittle"][-1], expected.value)
    np.testing.assert_allclose(data["less"], data["whittle"][-1] - data["whittle"])
    assert (data["less_low"] <= data["less"]).all()
    assert (data["less_low"][:-1] < data["less_high"][:-1]).all()


# --- texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    words = np.array(["the ", "a ", "cat ", "dog ", "sat ", "ran ", "on ", "under ", "mat. ", "tree. "])
    for name in ("a1", "a2", "a3", "b1", "b2"):
        (root / f"{name}.txt").write_text("".join(rng.choice(words, 1600)))
    return root


def test_a_domain_is_tested_on_texts_that_no_model_learns_from(folder):
    found = domain(f"cats={folder}", np.random.default_rng(0), learn=True)
    assert found.name == "cats"
    assert len(found.tested) == 2
    assert not set(found.tested) & set(found.reference)
    some = domain(f"{folder}/a*", np.random.default_rng(0), learn=False)
    assert (some.name, sorted(some.tested), some.reference) == ("a", ["a1", "a2", "a3"], {})
    with pytest.raises(ValueError, match="2 texts; 3 at least"):
        domain(f"{folder}/b*", np.random.default_rng(0), learn=True)
    with pytest.raises(FileNotFoundError, match="is called 'c\\*'"):
        domain(f"{folder}/c*", np.random.default_rng(0), learn=True)


def test_stretches_lie_in_their_texts_and_never_over_one_another():
    texts = {"long": "abcdefghij" * 30, "short": "klmnopqrst" * 4}
    found, names, n_bytes = stretches(texts, Bytes(), 12, 25, np.random.default_rng(0))
    assert found.shape == (12, 25)
    assert n_bytes == 12 * 24
    assert names.count("short") == 1  # it has room for one
    starts = {}
    for row, name in zip(found, names, strict=True):
        at = texts[name].find(Bytes().decode(row), starts.get(name, 0))
        assert at >= 0
        starts[name] = at + 1
    with pytest.raises(ValueError, match="hold 13 stretches of 25 tokens; 14"):
        stretches(texts, Bytes(), 14, 25, np.random.default_rng(0))


# --- runs

SMALL = {"documents": 30, "length": 256, "skip": 4, "shuffles": 333}


def test_a_run_on_texts_reads_every_model_and_goes_on_from_what_was_read(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save", partial(style.save, formats=("png",)))
    recipe = SelfSimilarityRecipe(
        (f"cats={folder}",), models=("kneser-ney",), contexts=(64,), vocabulary="bytes", order=2, **SMALL
    )
    numbers = run(recipe, tmp_path)
    assert json.loads((tmp_path / NUMBERS).read_text()) == json.loads(json.dumps(numbers))
    assert list(numbers["sources"]) == ["kneser-ney on cats"]
    for name in ("scaling", "exponents", "context"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
    assert SelfSimilarityRecipe.from_json(numbers["recipe"]) == recipe
    said = summary(recipe, numbers, tmp_path)
    assert "bits a byte" in said
    assert f"repeat     nextlens fractal 'cats={folder}'".replace("'", "") in said.replace("'", "")
    one = numbers["sources"]["kneser-ney on cats"]["0"]
    assert one["mean_bits"]["z"] == pytest.approx(one["bits_per_byte"], rel=0.01)  # a byte a token
    again = read_again(recipe, tmp_path, monkeypatch)
    for name, rows in (("z", again.surprisal), ("h", again.entropy), ("m", again.missed)):
        assert rows.shape == (30, 256)
        assert rows.mean() == one["mean_bits"][name]
    assert again.reading == one["reading"]


def read_again(recipe, place, monkeypatch) -> Scored:
    """What a run that goes on judges, having read nothing anew."""
    (place / NUMBERS).unlink()
    monkeypatch.setattr(self_similarity_run, "scored", None)
    monkeypatch.setattr(self_similarity_run, "by_context", lambda *given, **how: xr.Dataset(attrs={"strides": []}))
    monkeypatch.setattr(self_similarity_run, "self_similarity", lambda found, rng, **how: found)
    monkeypatch.setattr(self_similarity_run, "scaling_curves", lambda *given: {})
    monkeypatch.setattr(self_similarity_run, "sum_up", lambda recipe, found, *rest: {"found": found})
    monkeypatch.setattr(self_similarity_run, "draw", lambda *given: None)
    monkeypatch.setattr(self_similarity_run, "write_json", lambda *given: None)
    (found,) = run(recipe, place, resume=True)["found"].values()
    return found


def test_a_verdict_that_had_to_ask_about_rivals_says_how_many_pass():
    law, none = {"outcome": "power-law", "mistaken": 0.175}, {"outcome": "none", "mistaken": None}
    assert said_of([law]) == "power-law (two relaxation times pass in 18%)"
    assert said_of([none]) == "none"
    assert said_of([none | {"by_amplitude": "short-memory"}]) == "none; short-memory with trends removed by amplitude"
    assert said_of([law, none, law]) == "power-law 2/3, none 1/3"


def test_models_that_point_are_made_with_a_floor_and_do_not_index_what_it_is_fitted_on():
    reference = {"a": "the cat sat on the mat. " * 20, "b": "the dog sat on the mat. " * 20, "c": "a tree ran. " * 20}
    for kind in ("infini-gram", "gim"):
        made = pointing(kind, Bytes(), reference, None, threshold=3)
        assert 0 < made.floor < 1
        inside = made if kind == "infini-gram" else made.infinigram
        assert inside.match(Bytes().encode("the dog")).length == 7
        assert inside.match(Bytes().encode("a tree")).length < 6
    with pytest.raises(ValueError, match="kind='gym'"):
        pointing("gym", Bytes(), reference, None)


def test_a_recipe_refuses_what_cannot_be_judged():
    for changes, words in (
        ({"documents": 29}, "documents=29 must be at least 30"),
        ({"stride": 4}, "stride=4 moves windows"),
        ({"shuffles": 99}, "shuffles=99"),
        ({"ablated": "gim"}, "ablated='gim' is none of exact"),
        ({"vocabulary": "words:2"}, "bytes or bpe"),
        ({"models": ("gim", "gim")}, "each once"),
        ({"process": "mess"}, None),
        ({"process": "mess4x"}, "process='mess4x'"),
    ):
        if words is None:
            SelfSimilarityRecipe(**changes)
            continue
        with pytest.raises(ValueError, match=words.replace("(", r"\(")):
            SelfSimilarityRecipe(**changes)
    command = SelfSimilarityRecipe(("x=y z",), models=("gim",), contexts=(1, 4), seeds=(3,)).command
    assert command == "nextlens fractal 'x=y z' --model gim --contexts 1,4 --seeds 3,"


# --- displays


@pytest.fixture(scope="module")
def curves(tokens):
    found, rng = scored(mess3(), tokens[:30]), np.random.default_rng(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return scaling_curves(found, self_similarity(found, rng, n_shuffles=333), rng)


def test_a_scaling_figure_shows_the_points_that_it_was_given(curves):
    display = ScalingDisplay(curves=curves, names={"z": "surprisal"}).plot()
    np.testing.assert_array_equal(display.artists_["rescaled"]["z"].get_ydata(), curves["z"]["rescaled"])
    np.testing.assert_array_equal(display.artists_["whittle"]["m"].get_ydata(), curves["m"]["whittle"])
    assert [ax.get_ylabel() for ax in display.axes_] == ["R/S", "local slope", "H by local Whittle"]
    with pytest.raises(ValueError, match="lacks 'whittle'"):
        ScalingDisplay(curves={"z": {k: v for k, v in curves["z"].items() if k != "whittle"}})
    with pytest.raises(ValueError, match="nothing to draw"):
        ScalingDisplay(curves={})


def test_an_exponents_figure_holds_the_estimates():
    display = ExponentsDisplay(values={"one": {"z": (0.7, 0.6, 0.8, 0.5), "m": (0.5, 0.4, 0.6, 0.5)}}).plot()
    assert display.artists_["z"].get_xdata().tolist() == [0.7]
    with pytest.raises(ValueError, match="must be a finite number"):
        ExponentsDisplay(values={"one": {"z": (0.7, 0.6, float("nan"), 0.5)}})
    with pytest.raises(ValueError, match="asks for"):
        ExponentsDisplay(values={"one": {"z": (0.7, 0.6, 0.5)}})
