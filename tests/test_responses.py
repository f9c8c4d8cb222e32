"""Loaders: on small folders of the same layout; damaged, incomplete and missing files are named."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import xarray as xr

from nextlens.probes.responses import bids, lebel2023
from nextlens.probes.responses.alice2016 import CLOCK, load_alice
from nextlens.probes.responses.listening import Listening, from_arrays, volume_times
from nextlens.probes.responses.simulated import NOISE, PLANTED, TR, haemodynamic_response, simulate
from nextlens.probes.responses.textgrid import Interval, read_textgrid, spoken
from nextlens.probes.story_rows import label_rows

h5py = pytest.importorskip("h5py", reason="responses in HDF5 need h5py")

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "TextTier"
        name = "clicks 12"
        xmin = 0
        xmax = 3.5
        points: size = 1
        points [1]:
            number = 1.5
            mark = "x"
    item [2]:
        class = "IntervalTier"
        name = "word"
        xmin = 0
        xmax = 3.5
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 1e-1
            text = "sp"
        intervals [2]:
            xmin = 0.1
            xmax = 1.25
            text = "say ""hi"" 3"
        intervals [3]:
            xmin = 1.25
            xmax = 2
            text = "WORLD"
        intervals [4]:
            xmin = 2
            xmax = 3.5
            text = ""
"""
SHORT = "\n".join(
    [
        *('File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "3.5", "<exists>", "1"),
        *('"IntervalTier"', '"word"', "0", "3.5", "2", "0", "1", '"hello"', "1", "3.5", '"sp"', ""),
    ]
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_textgrids_in_long_form(tmp_path, encoding):
    (tmp_path / "a.TextGrid").write_bytes(LONG.encode(encoding))
    tiers = read_textgrid(tmp_path / "a.TextGrid")
    assert list(tiers) == ["word"]
    assert tiers["word"][1] == Interval(0.1, 1.25, 'say "hi" 3')
    assert [one.text for one in spoken(tiers["word"])] == ['say "hi" 3', "WORLD"]


def test_textgrids_in_short_form(tmp_path):
    (tmp_path / "a.TextGrid").write_text(SHORT)
    assert read_textgrid(tmp_path / "a.TextGrid") == {"word": [Interval(0, 1, "hello"), Interval(1, 3.5, "sp")]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LONG[: len(LONG) // 2], "ends too early"),
        ("", "ends too early"),
        ('"nothing" "of the kind"', "is no TextGrid"),
        (SHORT.replace("1\n3.5\n", "2\n1\n"), "from 2.0 s to 1.0 s"),
    ],
)
def test_damaged_textgrids_are_named(tmp_path, text, message):
    (tmp_path / "a.TextGrid").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_textgrid(tmp_path / "a.TextGrid")


def components(folder, *, rows=7, texts=7, stories=("one", "two"), **changes):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((rows, 4)).astype(np.float16) for name in stories}
    np.savez(folder / "uts01_pc200.npz", **arrays)
    said = ["a bb", "", "{cg} c", *["d"] * (texts - 3)]
    heard = {name: {"split": "test" if name == "two" else "train", "texts": said} for name in stories}
    (folder / "uts01_texts.json").write_text(json.dumps(heard | changes))
    return arrays


def test_components_and_their_words(tmp_path):
    arrays = components(tmp_path)
    found = lebel2023.load_components("UTS01", tmp_path)
    assert found.response.dtype == np.float32
    np.testing.assert_array_equal(found.response.values, np.concatenate([arrays["one"], arrays["two"]]))
    assert found.response.split.values.tolist() == ["train"] * 7 + ["test"] * 7
    assert found.texts()["two"] == ["a", "bb", "c", "d", "d", "d", "d"]
    assert found.words.volume.values[:7].tolist() == [0, 0, 2, 3, 4, 5, 6]
    some = found.of(["two"])
    assert some.stories == ["two"]
    assert set(some.words.story.values) == {"two"}
    with pytest.raises(ValueError, match=r"stories=\['three'\] must be among the 2 there"):
        found.of(["three"])


def test_components_that_do_not_belong_together_are_refused(tmp_path):
    components(tmp_path, texts=6)
    with pytest.raises(ValueError, match=r"story 'one' of UTS01 has shape \(7, 4\), and words for 6 TRs"):
        lebel2023.load_components("UTS01", tmp_path)
    components(tmp_path, three={"split": "train", "texts": []})
    with pytest.raises(ValueError, match="story 'three' has words but no responses"):
        lebel2023.load_components("UTS01", tmp_path)
    with pytest.raises(ValueError, match="subject='UTS09' is not one of"):
        lebel2023.load_components("UTS09", tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path):
    """Zeros where some of the numbers of an uncompressed file were."""
    raw = path.read_bytes()
    path.write_bytes(raw[:150] + bytes(30) + raw[180:])


@pytest.mark.parametrize(
    ("name", "damage", "what"),
    [
        ("uts01_pc200.npz", cut, "an archive of arrays"),
        ("uts01_pc200.npz", overwrite, "an archive of arrays"),
        ("uts01_pc200.npz", lambda path: path.write_bytes(b""), "an archive of arrays"),
        ("uts01_texts.json", cut, "the words of stories"),
        ("uts01_texts.json", lambda path: path.write_text("[1]"), "the words of stories"),
        ("uts01_texts.json", lambda path: path.write_text('{"one": {"texts": []}}'), "the words of stories"),
    ],
)
def test_damaged_components_are_named(tmp_path, name, damage, what):
    components(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}' cannot be read as {what}; is the download complete\?"):
        lebel2023.load_components("UTS01", tmp_path)


def test_pickles_are_not_opened(tmp_path):
    components(tmp_path)
    np.savez(tmp_path / "uts01_pc200.npz", one=np.array([{}], dtype=object), two=np.ones((7, 4)))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        lebel2023.load_components("UTS01", tmp_path)


def test_missing_folders_and_files_are_named_with_their_origin(tmp_path, monkeypatch):
    monkeypatch.delenv("NEXTLENS_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"give folder=, or let NEXTLENS_DATA name .* ds002322"):
        load_alice()
    monkeypatch.setenv("NEXTLENS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*lebel2023'; it should hold lebel2023"):
        lebel2023.load_components("UTS01")
    (tmp_path / "lebel2023").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there is no 'uts01_pc200.npz' in"):
        lebel2023.load_components("UTS01")
    components(tmp_path / "lebel2023")
    assert lebel2023.load_components("UTS01").stories == ["one", "two"]


def voxels(folder, stories=("one",), shape=(9, 5)):
    data, grids = folder / "derivative/preprocessed_data/UTS01", folder / "derivative/TextGrids"
    data.mkdir(parents=True, exist_ok=True)
    grids.mkdir(exist_ok=True)
    for name in stories:
        values = np.random.default_rng(0).standard_normal(shape)
        values[..., 2] = np.nan
        with h5py.File(data / f"{name}.hf5", "w") as file:
            file["data"] = values
        (grids / f"{name}.TextGrid").write_text(LONG)
    return data, grids, values


def test_voxels_and_word_onsets(tmp_path):
    _, _, values = voxels(tmp_path, ("one", "two"))
    found = lebel2023.load_voxels("UTS01", ["two", "one"], tmp_path)
    assert found.stories == ["two", "one"]
    np.testing.assert_array_equal(found.response.values[:9], values.astype(np.float32))
    assert found.response.volume.values[:3].tolist() == [10, 11, 12]
    assert found.response.time.values[0] == pytest.approx(10.5 * 2.0045 - 10)
    assert found.words.text.values[:2].tolist() == ['say "hi" 3', "world"]
    assert found.words.onset.values[:2].tolist() == [0.1, 1.25]
    assert found.words.volume.values[:2].tolist() == [5, 5]


def test_repeats_of_a_test_story_are_averaged(tmp_path):
    _, _, values = voxels(tmp_path, shape=(4, 9, 5))
    found = lebel2023.load_voxels("UTS01", ["one"], tmp_path)
    np.testing.assert_allclose(found.response.values, values.astype(np.float32).mean(0))


def test_single_repeats_are_those_that_were_averaged(tmp_path):
    data, _, values = voxels(tmp_path, ("one", "two", "three"), shape=(4, 9, 5))
    for name, repeats in (("one", values), ("two", values[:3]), ("three", None)):
        with h5py.File(data / f"{name}.hf5", "w") as file:
            file["data"] = values.mean(0)
            if repeats is not None:
                file[lebel2023.REPEATS] = repeats
    found = lebel2023.load_repeats("UTS01", ["one"], tmp_path)
    assert found.dims == ("repeat", "row", "target")
    np.testing.assert_array_equal(found.values, values.astype(np.float32))
    whole = lebel2023.load_voxels("UTS01", ["one"], tmp_path).response
    for label in ("story", "volume", "time"):
        np.testing.assert_array_equal(found[label], whole[label])
    with pytest.raises(ValueError, match="story 'two' has 3 repeats of 5 voxels and 'one' has 4 of 5"):
        lebel2023.load_repeats("UTS01", ["one", "two"], tmp_path)
    with pytest.raises(ValueError, match="story 'three' of UTS01 has no single repeats"):
        lebel2023.load_repeats("UTS01", ["three"], tmp_path)
    with pytest.raises(ValueError, match="stories is empty"):
        lebel2023.load_repeats("UTS01", [], tmp_path)
    (data / "one.hf5").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="cannot be read as HDF5"):
        lebel2023.load_repeats("UTS01", ["one"], tmp_path)


def test_damaged_voxel_files_are_named(tmp_path):
    data, grids, _ = voxels(tmp_path)
    load = lambda: lebel2023.load_voxels("UTS01", ["one"], tmp_path)  # noqa: E731
    whole = (data / "one.hf5").read_bytes()
    for cut in (0, 100, len(whole) // 2):
        (data / "one.hf5").write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"one.hf5' cannot be read as HDF5; is the download complete\?"):
            load()
    with h5py.File(data / "one.hf5", "w") as file:
        file["other"] = np.ones(3)
    with pytest.raises(ValueError, match=r"has no data set 'data', only \['other'\]"):
        load()
    with h5py.File(data / "one.hf5", "w") as file:
        file.create_group("data")
    with pytest.raises(ValueError, match=r"has no data set 'data', only \['data'\]"):
        load()
    with h5py.File(data / "one.hf5", "w") as file:
        file["data"] = np.array([b"a", b"b"])
    with pytest.raises(ValueError, match=r"one.hf5' cannot be read as HDF5"):
        load()
    with h5py.File(data / "one.hf5", "w") as file:
        file["data"] = np.ones(3)
    with pytest.raises(ValueError, match=r"has shape \(3,\)"):
        load()
    (data / "one.hf5").write_bytes(whole)
    (grids / "one.TextGrid").write_text(SHORT.replace('"word"', '"phone"'))
    with pytest.raises(ValueError, match=r"has no tier of words, only \['phone'\]"):
        load()
    voxels(tmp_path, ("two",), shape=(9, 6))
    (grids / "one.TextGrid").write_text(LONG)
    with pytest.raises(ValueError, match="story 'two' has 6 voxels and 'one' has 5"):
        lebel2023.load_voxels("UTS01", ["one", "two"], tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no 'three.hf5' in"):
        lebel2023.load_voxels("UTS01", ["three"], tmp_path)


def alice(folder, shape=(362, 6), header="Words\tWord Onset\tWord Offset"):
    (folder / "alice_data_shared/10mm").mkdir(parents=True, exist_ok=True)
    (folder / "ds002322/code").mkdir(parents=True, exist_ok=True)
    for name in ("s18", "s22"):
        np.savetxt(folder / f"alice_data_shared/10mm/{name}-timecourses.txt", np.random.default_rng(1).random(shape))
    rows = [header, "Alice\t20.5\t21.0", "did\t24.0\t24.2", "nt\t\t", "it\t24.5\t24.6", "’s\t\t", "end\t743.9\t743.95"]
    (folder / "ds002322/code/annotations.tsv").write_text("\r\n".join(rows) + "\r\n", encoding="utf-8")


def test_alice_is_on_the_clock_of_the_volumes_and_contractions_are_joined(tmp_path):
    alice(tmp_path)
    found = load_alice(tmp_path)
    assert found.response.sizes == {"listener": 2, "row": 362, "target": 6}
    assert found.words.text.values.tolist() == ["Alice", "didn't", "it's", "end"]
    np.testing.assert_allclose(found.words.onset, np.array([20.5, 24.0, 24.5, 743.9]) - CLOCK)
    assert found.words.volume.values.tolist() == [0, 2, 2, 361]
    assert found.response.time.values[:2].tolist() == [1.0, 3.0]


def test_other_shapes_of_alice_are_refused(tmp_path):
    alice(tmp_path, shape=(372, 6))
    with pytest.raises(ValueError, match=r"has shape \(372, 6\); it should be \(362, 6\)"):
        load_alice(tmp_path)
    alice(tmp_path)
    annotations = tmp_path / "ds002322/code/annotations.tsv"
    whole = annotations.read_text(encoding="utf-8")
    for damaged in (whole[: whole.index("24.0")], whole.replace("20.5", "early")):
        annotations.write_text(damaged, encoding="utf-8")
        with pytest.raises(ValueError, match=r"annotations.tsv' cannot be read as words with their times"):
            load_alice(tmp_path)
    alice(tmp_path, header="Words\tOnset\tOffset")
    with pytest.raises(ValueError, match="has no column 'Word O"):
        load_alice(tmp_path)
    np.savetxt(tmp_path / "alice_data_shared/10mm/s33-timecourses.txt", np.zeros((362, 6)))
    alice(tmp_path)
    with pytest.raises(ValueError, match="nothing but zeros"):
        load_alice(tmp_path)


def test_plain_arrays():
    found = from_arrays(np.ones((4, 2)), list("aabb"), ["x", "y"], ["a", "b"], np.array([2.5, 4.5]), tr=2, start=1.0)
    assert found.response.volume.values.tolist() == [0, 1, 0, 1]
    assert found.response.time.values.tolist() == [2.0, 4.0] * 2
    assert found.words.volume.values.tolist() == [0, 1]
    with pytest.raises(ValueError, match="onset of word 1 is not finite"):
        from_arrays(np.ones((2, 1)), list("aa"), ["x", "y"], ["a", "a"], np.array([0.0, np.nan]), tr=2)
    with pytest.raises(ValueError, match="tr=0"):
        from_arrays(np.ones((2, 1)), list("aa"), ["x"], ["a"], np.array([0.0]), tr=0)
    with pytest.raises(ValueError, match="hold 1, 2 and 1 words"):
        from_arrays(np.ones((2, 1)), list("aa"), ["x"], ["a", "a"], np.array([0.0]), tr=2)


def test_responses_and_words_must_belong_together():
    rows = label_rows(np.ones((3, 2)), list("aab"), column="target")
    words = xr.Dataset({"text": ("word", ["x"]), "story": ("word", ["c"]), "onset": ("word", [0.0])})
    with pytest.raises(ValueError, match="words are of 1 stories that have no rows, such as 'c'"):
        Listening(rows, words)
    with pytest.raises(ValueError, match="words have no variable 'text'"):
        Listening(rows, words.drop_vars("text"))
    with pytest.raises(ValueError, match="neither 'onset' nor 'volume'"):
        Listening(rows, words.drop_vars("onset"))
    with pytest.raises(ValueError, match=r"response has dims \('row', 'feature'\)"):
        Listening(rows.rename(target="feature"), words)


def test_a_fingerprint_is_of_every_response_label_and_word():
    def made(**changes):
        response = np.arange(2400.0).reshape(1200, 2)
        given = {"response": response, "story": ["a"] * 1200, "text": ["x", "y"], "onset": np.array([0.5, 1.0])}
        given |= changes
        texts = (given["text"], ["a", "a"], given["onset"])
        return from_arrays(given["response"], given["story"], *texts, tr=2.0, volume=given.get("volume")).fingerprint

    late = np.arange(2400.0).reshape(1200, 2)
    late[1199, 1] = 0.0
    several = [
        made(),
        made(response=late),
        made(text=["x", "z"]),
        made(onset=np.array([0.5, 1.25])),
        made(volume=np.arange(1, 1201)),
    ]
    assert made() == several[0]
    assert len(set(several)) == 5
    assert len(several[0]) == 16


def test_the_simulated_listener_is_what_it_says():
    made = simulate(np.random.default_rng(0), train=3, test=2, volumes=150, each=6, repeats=8)
    response = made.listening.response
    assert response.planted.values.tolist() == np.repeat(PLANTED, 6).tolist()
    tests = response.isel(row=response.split.values == "test")
    np.testing.assert_allclose(made.repeats.mean("repeat").values, tests.values)
    assert made.repeats.sizes["repeat"] == 8
    again = simulate(np.random.default_rng(0), train=3, test=2, volumes=150, each=6, repeats=8)
    assert response.identical(again.listening.response)
    noise = (made.repeats - made.repeats.mean("repeat")).values
    lag = np.mean([np.corrcoef(one[:149, k], one[1:150, k])[0, 1] for one in noise for k in range(24)])
    assert lag == pytest.approx(NOISE, abs=0.05)
    absent = made.repeats.isel(target=made.repeats.planted.values == "absent").values
    assert np.mean([np.corrcoef(absent[0, :, k], absent[1, :, k])[0, 1] for k in range(6)]) == pytest.approx(0, abs=0.1)


def test_recall_is_the_same_at_every_occurrence_in_a_story_and_new_in_the_next():
    """With next to no noise, the response some seconds after a motif is alike within a story, not across stories."""
    made = simulate(np.random.default_rng(1), train=4, test=1, volumes=300, each=40, signal=0.999, motifs=3)
    words, response = made.listening.words, made.listening.response
    recall = response.isel(target=response.planted.values == "recall")
    triples, found = {}, {}
    tokens, story = made.tokens, words.story.values
    for t in range(2, len(tokens)):
        if story[t - 2] == story[t]:
            triples.setdefault((story[t], tuple(tokens[t - 2 : t + 1].tolist())), []).append(t)
    for (name, _), places in triples.items():
        if len(places) >= 6:
            rows = [recall.values[(recall.story.values == name) & (recall.volume.values == words.volume.values[t] + 2)]
                    for t in places if words.volume.values[t] < 290]  # fmt: skip
            found.setdefault(name, []).append(np.corrcoef(np.concatenate(rows))[np.triu_indices(len(rows), 1)].mean())
    assert np.mean([np.max(values) for values in found.values()]) > 0.35


def test_the_haemodynamic_response_peaks_near_five_seconds():
    shape = haemodynamic_response(0.1)
    assert 4.5 < 0.1 * shape.argmax() < 5.5
    assert 13 < 0.1 * shape.argmin() < 17
    assert shape.sum() == pytest.approx(1)
    assert haemodynamic_response(TR).argmax() in (2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volumes": 20}, "volumes=20"),
        ({"signal": 1.0}, "signal=1.0 must be above 0 and below 1"),
        ({"repeats": 1}, "repeats=1"),
        ({"entries": 10}, "entries=10 must be at least 19"),
    ],
)
def test_impossible_listeners_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        simulate(np.random.default_rng(0), **change)


def scans(folder, trs=(2.0, 2.0), volumes=12, sidecar=True):
    nibabel = pytest.importorskip("nibabel", reason="BIDS folders need nilearn: pip install 'nextlens[brain]'")
    rng = np.random.default_rng(0)
    function = folder / "sub-01" / "func"
    function.mkdir(parents=True, exist_ok=True)
    values = []
    for run, tr in enumerate(trs, 1):
        data = rng.standard_normal((4, 4, 3, volumes)).astype(np.float32)
        image = nibabel.Nifti1Image(data, np.eye(4))
        image.header.set_zooms((1, 1, 1, tr))
        image.header.set_xyzt_units("mm", "sec")
        stem = function / f"sub-01_task-story_run-{run}"
        nibabel.save(image, f"{stem}_space-T1w_bold.nii.gz")
        if sidecar:
            (function / f"{stem.name}_space-T1w_bold.json").write_text(json.dumps({"RepetitionTime": tr}))
        stem.with_name(stem.name + "_events.tsv").write_text(
            "onset\tduration\tword\n0.5\t0.2\thello\n3.9\tn/a\tn/a\n4.1\t1\tyou\n"
        )
        values.append(data)
    mask = nibabel.Nifti1Image((np.arange(48).reshape(4, 4, 3) % 5 == 0).astype(np.uint8), np.eye(4))
    return values, mask


def masker_of(mask):
    maskers = pytest.importorskip("nilearn.maskers", reason="BIDS folders need nilearn: pip install 'nextlens[brain]'")
    return maskers.NiftiMasker(mask_img=mask, standardize=None)


@pytest.mark.parametrize("sidecar", [True, False])
def test_a_bids_folder_through_a_masker(tmp_path, sidecar):
    values, mask = scans(tmp_path, sidecar=sidecar)
    found = bids.load_bids(tmp_path, masker_of(mask), subject="01", task="story")
    inside = np.asarray(mask.dataobj).astype(bool)
    assert found.stories == ["story_run-1", "story_run-2"]
    np.testing.assert_allclose(found.response.values, np.concatenate([one[inside].T for one in values]), atol=1e-5)
    assert found.texts() == {"story_run-1": ["hello", "you"], "story_run-2": ["hello", "you"]}
    assert found.words.volume.values.tolist() == [0, 2] * 2
    np.testing.assert_allclose(found.response.time.values[:12], volume_times(np.arange(12), 2.0))


def test_wrong_bids_folders_are_named(tmp_path):
    _, mask = scans(tmp_path, trs=(2.0, 1.5))
    load = lambda **changes: bids.load_bids(tmp_path, masker_of(mask), **({"subject": "01", "task": "story"} | changes))  # noqa: E731
    with pytest.raises(ValueError, match=r"TRs differ: 2 s in run 'story_run-1', 1.5 s in 'story_run-2'"):
        load()
    with pytest.raises(FileNotFoundError, match="there is no 'sub-02_"):
        load(subject="02")
    with pytest.raises(FileNotFoundError, match="in space 'MNI'"):
        load(space="MNI")
    _, mask = scans(tmp_path)
    with pytest.raises(ValueError, match="'onset' and a column of words are needed"):
        load(word_column="token")
    function = tmp_path / "sub-01" / "func"
    (function / "sub-01_task-story_run-1_space-MNI_bold.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"run 'story_run-1' has several images.*say which space of \['MNI', 'T1w'\]"):
        load()
    (function / "sub-01_task-story_run-2_events.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="there are no events of"):
        load(space="T1w")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        bids.load_bids(tmp_path / "none", None, subject="01", task="story")


@pytest.mark.parametrize(
    ("suffix", "content", "said"),
    [
        (
            "events.tsv",
            b"onset\tword\nn/a\thello\n",
            r"run-2_events.tsv' cannot be read as words with onsets in seconds",
        ),
        ("events.tsv", b"onset\tduration\tword\n1.0\t0.2\n", r"run-2_events.tsv' holds no word in its column 'word'"),
        ("events.tsv", b"onset\tword\n1.0\tcaf\xe9\n", r"run-2_events.tsv' cannot be read as a table in UTF-8"),
        ("space-T1w_bold.json", b"{", r"run-2_space-T1w_bold.json' cannot be read as JSON"),
        ("space-T1w_bold.json", b'{"RepetitionTime": 0}', r"the TR of '.*run-2_.*' is 0 s, .*; it must be more"),
        (
            "space-T1w_bold.nii.gz",
            None,
            r"run-2_space-T1w_bold.nii.gz' cannot be read as an image that this masker takes",
        ),
    ],
)
def test_damaged_bids_files_are_named(tmp_path, suffix, content, said):
    _, mask = scans(tmp_path)
    path = tmp_path / "sub-01/func" / f"sub-01_task-story_run-2_{suffix}"
    cut(path) if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        bids.load_bids(tmp_path, masker_of(mask), subject="01", task="story")


def test_what_is_not_installed_is_said_with_its_command(tmp_path, monkeypatch):
    voxels(tmp_path)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"nilearn, which is not installed: pip install 'nextlens\[brain\]'"):
        bids.load_bids(tmp_path, None, subject="01", task="story")
    with pytest.raises(ImportError, match=r"need h5py: pip install 'nextlens\[brain\]'"):
        lebel2023.load_voxels("UTS01", ["one"], tmp_path)
