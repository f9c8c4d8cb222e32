"""Several models trained, saved and gone on with: what the questions share."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch

from nextlens.analyses import model_training
from nextlens.analyses.model_training import Training, for_seeds, notes_of, steps_done, train_all, training_steps
from nextlens.models import checkpoints
from nextlens.models.processes import FactoredProcess, bloch_walk, golden_mean, mess3
from nextlens.models.recurrent import RecurrentConfig
from nextlens.models.transformer import TransformerConfig

STEPS = 12
CONFIG = TransformerConfig(n_tokens=2, n_layers=1, d_model=8, d_mlp=8, n_ctx=4)
TRANSFORMER = Training("transformer", golden_mean(), CONFIG, STEPS, batch_size=4)
RECURRENT = Training("gru", golden_mean(), RecurrentConfig(n_tokens=2, n_layers=1, d_model=8), STEPS, 4, length=6)


class Interruption(Exception):
    """What stands for Ctrl-C."""


def equal(one, other) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("training", [TRANSFORMER, RECURRENT], ids=lambda training: training.name)
def test_a_training_interrupted_anywhere_ends_as_if_it_had_not_been(training, tmp_path):
    whole = train_all([training], tmp_path / "whole", n_jobs=1)[training.name]
    assert not equal(whole, training.model())
    path = training.path(tmp_path)

    def stop(done: int) -> None:
        if done == 7:
            raise Interruption

    with patch.object(model_training, "SAVE_EVERY", 0.0), pytest.raises(Interruption):
        list(training_steps(training, path, {}, report=stop))
    assert steps_done(path) == 7
    assert equal(train_all([training], tmp_path, resume=True, n_jobs=1)[training.name], whole)


def test_notes_are_saved_with_the_checkpoint_and_put_back(tmp_path):
    path, notes = TRANSFORMER.path(tmp_path), {"losses": []}
    for step in training_steps(TRANSFORMER, path, notes):
        notes["losses"].append(step.loss)
    assert notes_of(path) == notes
    assert len(notes["losses"]) == STEPS
    again = {"losses": []}
    assert not list(training_steps(TRANSFORMER, path, again, resume=True))
    assert again == notes


def test_models_trained_side_by_side_are_those_trained_alone(tmp_path):
    trainings = for_seeds(TRANSFORMER, (3, 5))
    assert [training.name for training in trainings] == ["transformer-seed-3", "transformer-seed-5"]
    together = train_all(trainings, tmp_path / "together", n_jobs=2)
    alone = train_all(trainings[1:], tmp_path / "alone", n_jobs=1)
    assert list(together) == [training.name for training in trainings]
    assert equal(together["transformer-seed-5"], alone["transformer-seed-5"])
    assert not equal(together["transformer-seed-3"], together["transformer-seed-5"])


def test_a_product_of_processes_is_trained_on_without_its_joint_tensor(tmp_path):
    product = FactoredProcess([mess3(), bloch_walk(1, 3)])
    training = Training("product", product, replace(CONFIG, n_tokens=12), 2, 4)
    with patch.object(FactoredProcess, "joint", side_effect=AssertionError, create=True):
        assert train_all([training], tmp_path, n_jobs=1)["product"].n_tokens == 12


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 13},
        {"learning_rate": 1e-4},
        {"process": golden_mean(0.4)},
        {"config": replace(CONFIG, seed=1)},
        {"config": replace(CONFIG, n_layers=2)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_another_training_is_not_gone_on_with(change, tmp_path):
    train_all([TRANSFORMER], tmp_path, n_jobs=1)
    with pytest.raises(ValueError, match=r"resume: '.*checkpoint.safetensors' was made by another recipe"):
        train_all([replace(TRANSFORMER, **change)], tmp_path, resume=True, n_jobs=1)


def test_without_resume_a_training_begins_anew(tmp_path):
    train_all([TRANSFORMER], tmp_path, n_jobs=1)
    other = replace(TRANSFORMER, config=replace(CONFIG, seed=9))
    assert checkpoints.recipe(TRANSFORMER.path(tmp_path))["made_by"]["seed"] == 0
    train_all([other], tmp_path, n_jobs=1)
    assert checkpoints.recipe(TRANSFORMER.path(tmp_path))["made_by"]["seed"] == 9


def test_one_bar_counts_the_steps_of_all_models(tmp_path, capsys):
    train_all([TRANSFORMER, RECURRENT], tmp_path, n_jobs=1, progress=True)
    told = capsys.readouterr()
    assert not told.out
    assert f"{2 * STEPS}/{2 * STEPS}" in told.err
    assert not (tmp_path / ".progress").exists()


def test_two_trainings_of_one_name_would_overwrite_each_other(tmp_path):
    with pytest.raises(ValueError, match=r"\['gru', 'gru'\].*each of its own name"):
        train_all([RECURRENT, RECURRENT], tmp_path)
    with pytest.raises(ValueError, match="at least one"):
        train_all([], tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"warmup": 12}, "warmup=12 must be below steps=12"),
        ({"learning_rate": 0.0}, r"learning_rate=0.0 must be above 0"),
        ({"learning_rate": np.nan}, r"learning_rate=nan must be above 0"),
        ({"process": mess3()}, r"config.n_tokens=2, and 'mess3' has 3"),
    ],
    ids=str,
)
def test_a_training_refuses_what_it_cannot_do_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TRANSFORMER, **change)


def test_a_recurrent_network_is_told_how_long_its_words_are():
    with pytest.raises(ValueError, match="length=None is the context of a transformer"):
        partial(replace, RECURRENT)(length=None)
