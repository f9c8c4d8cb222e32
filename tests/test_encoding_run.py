"""An encoding run from end to end: what was planted comes out, runs repeat to the bit, and what is wrong is named."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import xarray as xr
from joblib import effective_n_jobs

from nextlens.analyses import cli, encoding_cli
from nextlens.analyses.encoding import JOINT, RATE, WITHOUT, scored, scored_models
from nextlens.analyses.encoding_data import arrays_of, subjects_of
from nextlens.analyses.encoding_numbers import summary
from nextlens.analyses.encoding_recipe import EncodingRecipe
from nextlens.analyses.encoding_result import SCORES, EncodingResult
from nextlens.analyses.encoding_run import run
from nextlens.analyses.encoding_spaces import Reader, Spaces, beginnings, spaces_of
from nextlens.analyses.induction_brain_recipe import RecallRecipe
from nextlens.analyses.induction_brain_run import run as recall
from nextlens.analyses.results_folder import NUMBERS
from nextlens.models.transformer import Transformer
from nextlens.models.transformer_config import TransformerConfig
from nextlens.models.vocabulary import Bytes
from nextlens.probes.noise_ceilings import noise_ceiling
from nextlens.probes.responses.lebel2023 import load_repeats
from nextlens.probes.story_rows import rows_of_stories
from nextlens.probes.word_vectors import WordVectors

SMALL = {"subjects": ("0",), "draws": 60, "alphas": 6, "candidates": 2, "folds": 3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    return run(EncodingRecipe(**SMALL), place), place


def test_every_planted_response_is_recovered_and_the_absent_one_is_not(finished):
    models = finished[0]["subjects"]["0"]["models"]
    planted = {name: row["planted"] for name, row in models.items()}
    assert planted["vectors"]["embedding"] > 0.85
    assert planted["vectors"]["surprisal"] < 0.3
    assert planted["surprisal"]["surprisal"] > 0.75
    assert planted["surprisal"]["embedding"] < 0.15
    assert planted[JOINT]["embedding"] > 0.85
    assert planted[JOINT]["surprisal"] > 0.75
    for row in planted.values():
        assert abs(row["absent"]) < 0.15
    assert models[RATE]["mean_p"] > 0.05
    assert models[JOINT]["mean_p"] == models[JOINT]["least_p"]


def test_no_score_comes_without_its_null_its_control_and_its_ceiling(finished):
    for row in finished[0]["subjects"]["0"]["models"].values():
        assert np.isfinite([row["mean_r"], row["mean_null_95"], row["mean_p"], row["mean_control_r"]]).all()
        assert 0.5 < row["mean_ceiling"] <= 1.1
    said = summary(EncodingRecipe(**SMALL), finished[0], finished[1])
    assert "repeats of 4" in said
    assert "24 targets; p is never below 0.0164" in said
    assert "by construction" in said
    assert said.endswith("nextlens encode --subjects 0 --alphas 6 --folds 3 --candidates 2 --draws 60")


def test_bands_of_the_joint_fit_sum_to_its_score_and_leaving_one_out_costs_what_it_gave(finished):
    one = finished[0]["subjects"]["0"]
    joint = one["models"][JOINT]
    assert sum(share["r"] for share in joint["bands"].values()) == pytest.approx(joint["mean_r"], abs=1e-9)
    lost = {gap["other"]: gap for gap in one["differences"] if gap["one"] == JOINT}
    assert set(lost) == {f"{WITHOUT}vectors", f"{WITHOUT}surprisal"}
    for gap in lost.values():
        assert gap["verdict"] == "above"
        assert gap["interval_95"][0] < gap["difference"] < gap["interval_95"][1]


def test_the_result_carries_its_recipe_and_a_run_from_it_gives_the_same_bits(finished, tmp_path):
    first = EncodingResult.open(finished[1])
    assert first.recipe == EncodingRecipe(**SMALL)
    assert EncodingRecipe.from_json(json.loads(json.dumps(first.recipe.as_json()))) == first.recipe
    run(first.recipe, tmp_path)
    again = EncodingResult.open(tmp_path)
    for model, found in first.scores["0"].items():
        for name in ("r", "p", "q", "null_q95", "ceiling", "r_story"):
            np.testing.assert_array_equal(found[name].values, again.scores["0"][model][name].values)
    assert not first.compare(again, JOINT).values.any()
    assert {p.name for p in tmp_path.glob("*.png")} == {"scores.png", "partition.png"}


def test_runs_that_tested_other_stories_or_targets_are_not_compared(finished):
    first = EncodingResult.open(finished[1])
    one = first.scores["0"]["vectors"]
    others = {"stories": one.assign_coords(story=["story03", "story11"]), "targets": one.isel(target=slice(3))}
    for what, other in others.items():
        with pytest.raises(ValueError, match=what):
            first.compare(replace(first, scores={"0": {"vectors": other}}), "vectors")
    with pytest.raises(KeyError, match="nobody"):
        first.compare(first, "vectors", "nobody")


def test_a_damaged_or_missing_result_is_named(finished, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        EncodingResult.open(tmp_path)
    (tmp_path / NUMBERS).write_bytes((finished[1] / NUMBERS).read_bytes())
    (tmp_path / SCORES).write_bytes((finished[1] / SCORES).read_bytes()[:500])
    with pytest.raises(ValueError, match="damaged"):
        EncodingResult.open(tmp_path)


def small_model():
    config = TransformerConfig(n_tokens=256, n_ctx=512, d_model=8, d_mlp=16, n_layers=2, n_heads=2, seed=0)
    model = Transformer(config).eval()
    model.vocabulary = Bytes()
    return model


def test_layers_of_a_model_stand_beside_words_and_are_reduced_on_training_stories_only(tmp_path):
    recipe = EncodingRecipe(**SMALL, checkpoint="given", components=4, length=512, stride=448, stories=3)
    reader = Reader(recipe, tmp_path)
    reader.__dict__["model"] = small_model()
    (subject,) = subjects_of(recipe)
    spaces = spaces_of(subject, recipe, reader)
    assert spaces.sites == ("blocks.0.resid_post", "blocks.1.resid_post")
    assert recipe.wanted == ("vectors", "surprisal")
    site = spaces.sites[0]
    X = spaces.of(site)
    found = scored(subject, X, recipe, narrowed=site)
    spoiled = X.copy(data=np.where(np.isin(X.story.values, subject.tested)[:, None], 7.0, X.values))
    again = scored(subject, spoiled, recipe, narrowed=site)
    np.testing.assert_array_equal(found.alpha.values, again.alpha.values)
    np.testing.assert_array_equal(found.validation_r2.values, again.validation_r2.values)
    assert np.isfinite(found.r.values).all()


def arrays(path, **changes):
    rng = np.random.default_rng(0)
    story = np.repeat(["a", "b", "c", "d"], 50)
    onset = np.tile(np.arange(0.5, 99.5, 0.5), 4)
    given = {
        "response": rng.standard_normal((200, 5)).astype(np.float32),
        "story": story,
        "text": rng.choice(["one", "two", "three"], len(onset)),
        "word_story": np.repeat(["a", "b", "c", "d"], len(onset) // 4),
        "onset": onset,
        "tr": np.array(2.0),
    }
    np.savez(path, **(given | changes))
    return path


def test_the_site_that_joins_the_others_is_chosen_on_training_stories(monkeypatch):
    """Of two sites one is best on rows held out of training stories, the other on the tested ones."""
    recipe = EncodingRecipe(**SMALL)
    (subject,) = subjects_of(recipe)
    known = {"first": (0.9, 0.1), "second": (0.1, 0.9)}
    asked = []

    def instead(subject, X, recipe, *, narrowed="", banded=False):
        asked.append((narrowed, banded))
        validated, tested = known.get(narrowed, (0.0, 0.0))
        return xr.Dataset({"validation_r2": (("fold", "target"), [[validated]]), "mean_r": ((), tested)})

    monkeypatch.setattr("nextlens.analyses.encoding.scored", instead)
    monkeypatch.setattr(Spaces, "of", lambda self, *names: subject.heard.response)
    found = scored_models(subject, Spaces({}, subject, recipe, sites=("first", "second")), recipe)
    assert found.best_site == "first"
    joined = [narrowed for narrowed, banded in asked if banded]
    assert joined == ["first", "first", "first", ""]  # all, and without vectors, without surprisal, without the site
    assert f"{WITHOUT}first" in found.models
    assert f"{WITHOUT}second" not in found.models


@pytest.fixture
def few_vectors(monkeypatch):
    """Three words in place of the many of a package that need not be there."""
    vectors = WordVectors(["one", "two", "three"], np.eye(3, dtype=np.float32), "three")
    monkeypatch.setattr("nextlens.analyses.encoding_data.glove", lambda: vectors)


def test_dead_and_broken_targets_of_arrays_are_counted_and_scored_as_nothing(tmp_path, few_vectors):
    response = np.random.default_rng(1).standard_normal((200, 5)).astype(np.float32)
    response[3, 1], response[:, 2] = np.nan, 4.0
    path = arrays(tmp_path / "a.npz", response=response)
    recipe = EncodingRecipe(data="arrays", folder=str(path), draws=20, alphas=3, folds=2)
    numbers = run(recipe, tmp_path / "out")
    (one,) = numbers["subjects"].values()
    assert one["targets"] == {"kept": 3, "constant": 1, "not finite": 1}
    assert one["tested"] == ["d"]
    assert one["ceiling"] == "none: responses were measured once"
    assert one["models"]["vectors"]["mean_ceiling"] is None
    found = EncodingResult.open(tmp_path / "out").scores["arrays"]["vectors"]
    assert np.isnan(found.r.values[1:3]).all()
    assert "2 left out" in summary(recipe, numbers, tmp_path)


def test_the_beginning_of_a_story_has_a_response_that_only_onset_columns_take_up(tmp_path, few_vectors):
    rng = np.random.default_rng(2)
    profile = np.zeros((50, 5))
    profile[:8] = 3.0 * rng.standard_normal((8, 5))
    response = np.tile(profile, (4, 1)) + 0.3 * rng.standard_normal((200, 5))
    path = arrays(tmp_path / "a.npz", response=response.astype(np.float32))
    recipe = EncodingRecipe(data="arrays", folder=str(path), draws=20, alphas=4, folds=2)
    (subject,) = subjects_of(recipe)
    r = {
        onset: [
            float(scored(subject, spaces_of(subject, asked, None).of(*of), asked).r.mean()) for of in ((), ("vectors",))
        ]
        for onset, asked in ((onset, replace(recipe, onset=onset)) for onset in (0, 8))
    }
    assert max(r[0]) < 0.6  # word rate knows a little of it: what came before the first volume is 0
    assert min(r[8]) > 0.9
    columns = beginnings(subject.heard.response, 3)
    with pytest.raises(ValueError, match="onset=26 must be from 1 to 25: story 'a' has 50 volumes"):
        beginnings(subject.heard.response, 26)
    assert columns.shape == (200, 3)
    for _, rows in rows_of_stories(columns):
        part = columns.values[rows]
        np.testing.assert_array_equal(part.argmax(0), [0, 1, 2])
        np.testing.assert_allclose([part.mean(0), part.std(0)], [[0] * 3, [1] * 3], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onset": np.tile(np.arange(0.5, 99.5, 0.5), 4) + 40.0}, "outside the scan"),
        ({"word_story": np.repeat(["a", "b", "c", "e"], 198)}, "stories that have no rows"),
        ({"tr": np.array(0.0)}, "tr"),
        ({"story": np.repeat(["a", "b"], 50)}, "one label per row"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, few_vectors, changes, message):
    path = arrays(tmp_path / "a.npz", **changes)
    with pytest.raises(ValueError, match=message):
        run(EncodingRecipe(data="arrays", folder=str(path), draws=20, alphas=2), tmp_path / "out")
    assert not (tmp_path / "out" / NUMBERS).exists()


def test_files_that_hold_no_arrays_are_named(tmp_path):
    np.savez(tmp_path / "lacking.npz", response=np.zeros((3, 1)))
    with pytest.raises(ValueError, match="no array 'story'"):
        arrays_of(tmp_path / "lacking.npz")
    np.savez(tmp_path / "objects.npz", response=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"objects.npz"):
        arrays_of(tmp_path / "objects.npz")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match=r"cut.npz"):
        arrays_of(tmp_path / "cut.npz")
    with pytest.raises(FileNotFoundError, match="none"):
        arrays_of(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "fmri"}, "data='fmri'"),
        ({"spaces": ("words",)}, "spaces='words'"),
        ({"sites": ("embed",)}, "name its checkpoint"),
        ({"data": "bids", "folder": "x"}, "needs folder, task and subjects"),
        ({"data": "arrays"}, "npz"),
        ({"delays": (1, 1)}, "delays"),
        ({"least_alpha": 10.0, "largest_alpha": 1.0}, "in this order"),
        ({"null": "shuffled"}, "null='shuffled'"),
        ({"folds": 1}, "folds=1"),
    ],
)
def test_impossible_recipes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        EncodingRecipe(**options)


def test_a_command_gives_back_its_recipe(monkeypatch):
    recipe = EncodingRecipe(subjects=("0", "1"), spaces=("vectors",), shared=True, delays=(1, 2), seed=3)
    asked = []
    monkeypatch.setattr("nextlens.analyses.encoding_run.run", lambda recipe, folder, **_: asked.append(recipe) or {})
    monkeypatch.setattr("nextlens.analyses.encoding_numbers.summary", lambda *_: "")
    cli.main(recipe.command.split()[1:])
    assert asked == [recipe]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--spaces", "entropy", "--subjects", "0"], "language model"),
        (["--subjects", "first"], "seed"),
        (["--data", "lebel2023", "--folder", "nowhere"], "nowhere"),
        (["--subjects", "0", "--tested", "story99"], "story99"),
    ],
)
def test_what_a_user_gets_wrong_ends_in_one_sentence(arguments, message, tmp_path, capsys, few_vectors):
    with pytest.raises(SystemExit):
        cli.main(["encode", *arguments, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_a_ceiling_that_cannot_be_told_is_refused(tmp_path, few_vectors):
    path = arrays(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="cannot be told"):
        list(subjects_of(EncodingRecipe(data="arrays", folder=str(path), ceiling="repeats")))


@pytest.mark.parametrize("recipe", [EncodingRecipe(), RecallRecipe()])
def test_help_says_the_defaults_of_the_recipe_and_every_option_is_of_it(recipe):
    command = {EncodingRecipe: encoding_cli.encode, RecallRecipe: encoding_cli.recall}[type(recipe)]
    known = {one.name: one.default for one in fields(recipe)}
    running = {"states", "out", "resume", "device", "jobs", "as_json"}
    options = {option.name: option for option in command.params if option.name not in running}
    assert set(options) <= set(known)
    numbers = {"least_alpha", "largest_alpha", "alphas", "folds", "draws", "seed", "length", "stride"}
    for name in numbers | (set(options) & {"components", "blocks", "gap", "candidates", "words", "most", "copied"}):
        said = re.search(r"\[default: (.*)\]", options[name].help).group(1)
        assert float(said) == known[name], name


@pytest.mark.parametrize(
    ("start", "recipe", "inside"),
    [
        (run, EncodingRecipe(**SMALL), "encoding_run.scored_models"),
        (recall, RecallRecipe(subjects=("0",)), "induction_brain_run._of_subject"),
    ],
)
def test_targets_are_spread_over_as_many_processes_as_are_asked_for(start, recipe, inside, tmp_path, monkeypatch):
    asked = []

    def instead(*_):
        asked.append(effective_n_jobs(None))
        raise InterruptedError

    monkeypatch.setattr(f"nextlens.analyses.{inside}", instead)
    for number, jobs in enumerate((None, 3)):
        with pytest.raises(InterruptedError):
            start(recipe, tmp_path / str(number), n_jobs=jobs)
    assert asked == [1, 3]
    with pytest.raises(ValueError, match="jobs=0 must be at least 1"):
        start(recipe, tmp_path / "none", n_jobs=0)


def test_only_warnings_about_penalties_are_counted():
    from nextlens.analyses.encoding import edges_counted

    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        with edges_counted() as counted:
            warnings.warn("of 3 targets 2 chose the least penalty", stacklevel=1)
            warnings.warn("other", stacklevel=1)
    assert len(counted) == 1
    assert [str(one.message) for one in others] == ["other"]


def images(folder, volumes=48, space="_space-MNI152NLin6Asym"):
    """Three runs of four by four by three voxels, with a word every other second, and a mask of seven."""
    nibabel = pytest.importorskip("nibabel", reason="BIDS folders need nilearn: pip install 'nextlens[brain]'")
    rng = np.random.default_rng(0)
    function = folder / "sub-01" / "func"
    function.mkdir(parents=True)
    for number in (1, 2, 3):
        image = nibabel.Nifti1Image(
            rng.standard_normal((4, 4, 3, volumes)).astype(np.float32), np.diag([30.0, 30, 30, 1])
        )
        image.header.set_zooms((30, 30, 30, 2.0))
        image.header.set_xyzt_units("mm", "sec")
        stem = function / f"sub-01_task-story_run-{number}"
        nibabel.save(image, f"{stem}{space}_bold.nii.gz")
        said = [
            f"{2 * i + 0.5}\t0.2\t{rng.choice(['one', 'two', 'three'])}" for i in range(volumes) if rng.random() < 0.7
        ]
        stem.with_name(stem.name + "_events.tsv").write_text("onset\tduration\tword\n" + "\n".join(said) + "\n")
    mask = (np.arange(48).reshape(4, 4, 3) % 7 == 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(mask, np.diag([30.0, 30, 30, 1])), folder / "mask.nii.gz")
    return str(folder / "mask.nii.gz")


def test_a_bids_folder_goes_from_images_to_scores_on_a_cortex(tmp_path, few_vectors, monkeypatch):
    captions = []
    monkeypatch.setattr(
        "nextlens.analyses.displays.style.caption_beneath", lambda figure, text: captions.append(str(text))
    )
    mask = images(tmp_path / "bids")
    given = {"data": "bids", "folder": str(tmp_path / "bids"), "subjects": ("01",), "task": "story", "mask": mask}
    numbers = run(EncodingRecipe(**given, resampling="lanczos", draws=20, alphas=3, stories=1), tmp_path / "out")
    one = numbers["subjects"]["01"]
    assert one["targets"]["kept"] == 7
    assert one["tested"] == ["story_run-3"]
    assert one["stories"] == 2
    assert one["on_cortex"] == "volume"
    assert sum("no target has q < .05; p is never below 0.1" in said for said in captions) == 2  # nine shifts
    assert {path.name for path in (tmp_path / "out").glob("cortex-*.png")} == {
        "cortex-01-flat.png",
        "cortex-01-lateral.png",
    }
    (subject,) = subjects_of(EncodingRecipe(**given))
    assert subject.response is not None  # runs have levels of their own


def test_images_of_another_space_than_mni_are_not_drawn_on_its_cortex(tmp_path, few_vectors):
    for space, said in (("", "images that name no space"), ("_space-T1w", "images of space 'T1w'")):
        folder = tmp_path / f"bids{space}"
        mask = images(folder, space=space)
        (subject,) = subjects_of(
            EncodingRecipe(data="bids", folder=str(folder), subjects=("01",), task="story", mask=mask)
        )
        assert subject.cortex.startswith(said)


@pytest.fixture
def voxels(tmp_path):
    """Four stories of 50 volumes and three voxels; the last one was heard four times, and its last voxel is dead."""
    h5py = pytest.importorskip("h5py", reason="voxels need h5py: pip install 'nextlens[brain]'")
    data, grids = tmp_path / "derivative/preprocessed_data/UTS01", tmp_path / "derivative/TextGrids"
    data.mkdir(parents=True)
    grids.mkdir()
    repeats = np.random.default_rng(9).standard_normal((50, 3)) + np.random.default_rng(3).standard_normal((4, 50, 3))
    repeats[..., 2] = np.nan
    for number, name in enumerate(("a", "b", "c", "d")):
        with h5py.File(data / f"{name}.hf5", "w") as file:
            if name == "d":
                file["individual_repeats"] = repeats
            file["data"] = repeats.mean(0) if name == "d" else np.random.default_rng(number).standard_normal((50, 3))
        said = "\n".join(f'{i}.0\n{i + 1}.0\n"{["one", "two", "three"][i % 3]}"' for i in range(100))
        header = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n100\n<exists>\n1\n'
        header += '"IntervalTier"\n"word"\n0\n100\n100\n'
        (grids / f"{name}.TextGrid").write_text(header + said + "\n")
    return {"data": "voxels", "folder": str(tmp_path), "subjects": ("UTS01",), "draws": 20}


def test_voxels_that_were_heard_several_times_have_a_ceiling_and_others_say_why_not(voxels, few_vectors):
    (subject,) = subjects_of(EncodingRecipe(**voxels, tested=("d",)))
    repeats = load_repeats("UTS01", ["d"], voxels["folder"])
    by_hand = noise_ceiling("repeats", repeats.isel(target=[0, 1])).ceiling.values
    np.testing.assert_allclose(subject.ceiling.ceiling.values, [*by_hand, np.nan])
    assert np.isfinite(by_hand).any()
    (halves,) = subjects_of(EncodingRecipe(**voxels, tested=("d",), ceiling="split-half"))
    assert halves.ceiling.attrs["kind"] == "split-half"
    (subject,) = subjects_of(EncodingRecipe(**voxels, tested=("c",)))
    assert subject.ceiling == "none: story 'c' of UTS01 has no single repeats; no ceiling can be told from it"
    for kind, why in (("repeats", "has no single repeats"), ("inter-subject", "of each listener's own brain")):
        with pytest.raises(ValueError, match=f"ceiling='{kind}' cannot be told from data='voxels': .*{why}"):
            list(subjects_of(EncodingRecipe(**voxels, tested=("c",), ceiling=kind)))


def test_words_before_the_first_volume_that_was_kept_are_no_mistake_of_trimmed_voxels(voxels, few_vectors):
    recipe = EncodingRecipe(**voxels, tested=("d",), stories=2)
    (subject,) = subjects_of(recipe)
    assert subject.heard.stories == ["a", "b", "d"]
    assert subject.heard.words.volume.values.min() == 4
    X = spaces_of(subject, recipe, None).of("vectors")
    assert X.sizes == {"row": 150, "feature": 16}
    assert np.isfinite(scored(subject, X, recipe).r.values).tolist() == [True, True, False]
