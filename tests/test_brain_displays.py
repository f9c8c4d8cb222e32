"""Displays of scores on targets, layers, bands and the cortex: what they draw is what they were given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from nextlens.analyses.displays.layer_profile import LayerProfileDisplay
from nextlens.analyses.displays.partition import PartitionDisplay
from nextlens.analyses.displays.target_scores import TargetScoresDisplay


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_few_targets_stand_one_by_one_and_many_by_rank():
    rng = np.random.default_rng(0)
    few = TargetScoresDisplay(
        scores={"a": [0.5, 0.3], "b": [0.1, 0.2]}, null=[0.1, 0.2], ceiling=[0.9, np.nan], names=["LATL", "LIFG"]
    ).plot()
    assert [label.get_text() for label in few.ax_.get_xticklabels()] == ["LATL", "LIFG"]
    assert few.artists_["a"].get_ydata().tolist() == [0.5, 0.3]
    values = rng.random(40)
    many = TargetScoresDisplay(scores={"a": values}, null=np.full(40, 0.1)).plot()
    np.testing.assert_array_equal(many.artists_["a"].get_ydata(), np.sort(values)[::-1])
    assert "ceiling" not in many.artists_


def test_layers_have_a_panel_a_subject_and_ring_the_one_chosen():
    display = LayerProfileDisplay(
        sites=["blocks.0.resid_post", "blocks.1.resid_post"],
        scores={"one": [0.1, 0.2], "other": [0.3, 0.1]},
        baseline={"one": 0.12, "other": 0.15},
        intervals={"one": [[-0.1, 0.0], [0.0, 0.1]]},
        null={"one": 0.01},
        chosen={"other": "blocks.0.resid_post"},
    ).plot()
    assert [ax.get_title() for ax in display.axes_] == ["one", "other"]
    rings = [line for line in display.axes_[1].lines if line.get_markersize() == 8]
    assert [line.get_ydata().tolist() for line in rings] == [[0.3]]
    ends = display.axes_[0].collections[0].get_segments()
    np.testing.assert_allclose([segment[:, 1] for segment in ends], [[0.02, 0.12], [0.12, 0.22]])


def test_partitions_show_shares_and_what_is_lost():
    display = PartitionDisplay(
        bands=["rate", "vectors"], shares={"one": [0.1, 0.3]}, lost={"one": {"vectors": (0.2, 0.1, 0.3)}}
    ).plot()
    assert display.axes_[0].lines[0].get_xdata().tolist() == [0.1, 0.3]
    assert [0.1, 0.3] in [list(line.get_xdata()) for line in display.axes_[1].lines]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TargetScoresDisplay(scores={}, null=[0.1]), "at least one model"),
        (lambda: TargetScoresDisplay(scores={"a": [0.1]}, null=[0.1, 0.2]), "null has shape"),
        (lambda: TargetScoresDisplay(scores={"a": [np.nan]}, null=[0.1]), "finite"),
        (lambda: LayerProfileDisplay(sites=["embed"], scores={"a": [1, 2]}, baseline={"a": 0.0}), "sites asks for"),
        (lambda: PartitionDisplay(bands=["a"], shares={"s": [0.1]}, lost={"s": {"b": (0.0, 0.0, 0.0)}}), "'b'"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def white():
    rng = np.random.default_rng(0)
    return rng.random(10_242), rng.random(10_242)


@pytest.mark.parametrize("view", ["flat", "lateral", "medial"])
def test_white_noise_on_the_cortex_looks_like_white_noise(view, monkeypatch):
    """Nothing is smoothed, shifted or lost: as many colours on the page as in the numbers. No network is used."""
    pytest.importorskip("nilearn", reason="the extra nextlens[brain] is not installed")
    from nextlens.analyses.displays.cortex import CortexDisplay

    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    left, right = white()
    display = CortexDisplay(left=left, right=right, view=view, vmax=1.0).plot()
    assert display.colour_bar_.ax.get_ylabel() == "correlation r"
    assert display.n_shown_ == 2 * 10_242
    for ax in display.axes_:
        paint = ax.collections[0].get_facecolors()[:, :3]
        assert 5_000 < len(paint) < 20_481
        brightness = paint.mean(1)
        assert 0.1 < brightness.std() < 0.3
        assert abs(np.corrcoef(brightness[:-1], brightness[1:])[0, 1]) < 0.6


def test_vertices_without_a_number_or_above_the_threshold_show_the_ground():
    pytest.importorskip("nilearn", reason="the extra nextlens[brain] is not installed")
    from nextlens.analyses.displays.cortex import CortexDisplay

    left, right = white()
    left[:] = np.nan
    q = np.full(10_242, 0.2)
    q[:100] = 0.01
    display = CortexDisplay(left=left, right=right, q_right=q).plot()
    assert display.n_shown_ == 100
    for ax, least in zip(display.axes_, (1.0, 0.95), strict=True):
        paint = ax.collections[0].get_facecolors()[:, :3]
        grey = (np.ptp(paint, axis=1) < 1e-9).mean()
        assert grey >= least
    assert grey < 1.0


def test_targets_that_are_no_vertices_are_not_drawn_on_a_brain():
    from nextlens.analyses.displays.cortex import CortexDisplay

    with pytest.raises(ValueError, match="no place on it"):
        CortexDisplay(left=np.zeros(200), right=np.zeros(200))
    with pytest.raises(ValueError, match="view='top'"):
        CortexDisplay(left=np.zeros(10_242), right=np.zeros(10_242), view="top")
