"""Displays of heads: they draw the numbers they were given, and refuse what cannot be drawn."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from nextlens.analyses.displays import style
from nextlens.analyses.displays.ablation import AblationDisplay
from nextlens.analyses.displays.heads import HeadsDisplay
from nextlens.analyses.displays.phase_change import PhaseChangeDisplay

SCORES = {"prefix matching": [[0.1, 0.2], [0.9, 0.0]], "OV eigenvalues": [[-0.5, 0.2], [1.0, 0.3]]}
STEPS = np.arange(0, 50, 10)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def change(**changes) -> PhaseChangeDisplay:
    rows = np.linspace(3, 1, 5) + np.array([[0.0], [0.1], [0.3]])
    given = {"steps": STEPS, "early": {"two": rows + 1}, "late": {"two": rows}, "best": 0.5}
    return PhaseChangeDisplay(**{**given, **changes})


# --- maps


def test_a_map_holds_the_scores_with_layers_upwards():
    display = HeadsDisplay(scores=SCORES).plot(which="prefix matching")
    image = display.artists_["prefix matching"]
    np.testing.assert_array_equal(image.get_array(), SCORES["prefix matching"])
    assert image.origin == "lower"
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("head", "layer")


def test_scores_begin_at_chance_and_signed_ones_are_even_around_nought():
    display = HeadsDisplay(scores=SCORES, chance={"prefix matching": 0.05}).plot_grid()
    assert display.artists_["prefix matching"].norm.vmin == 0.05
    assert display.artists_["prefix matching"].norm.vmax == 0.9
    hardly = HeadsDisplay(scores={"copying": [[0.050, 0.052]]}, chance={"copying": 0.05}).plot()
    assert hardly.artists_["copying"].norm.vmax == pytest.approx(0.15)
    signed = display.artists_["OV eigenvalues"].norm
    assert (signed.vmin, signed.vcenter, signed.vmax) == (-1, 0, 1)
    assert "chance 0.05" in display.axes_[0].get_title()


def test_a_grid_has_one_map_a_score_and_marked_heads_are_framed_in_each():
    display = HeadsDisplay(scores=SCORES, marked=[(5, 0)], layers=[3, 5], caption="one").plot_grid(columns=1)
    assert len(display.axes_) == len(display.artists_) == 2
    for ax in display.axes_:
        (frame,) = ax.patches
        assert frame.get_xy() == (-0.5, 0.5)
        assert [label.get_text() for label in ax.get_yticklabels()] == ["3", "5"]
    assert [text.get_text() for text in display.figure_.texts] == ["one"] or display.figure_._supxlabel is not None


def test_many_layers_get_few_ticks_and_a_figure_that_fits_a_page():
    display = HeadsDisplay(scores={"copying": np.random.default_rng(0).random((30, 9))}).plot()
    assert len(display.ax_.get_yticks()) <= 10
    assert display.figure_.get_figheight() < 6
    assert display.figure_.get_figwidth() < style.DOUBLE_COLUMN


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": {}}, "scores is empty"),
        ({"scores": {"a": [[np.nan]]}}, r"scores\['a'\]\[0, 0\]=nan must be a finite number"),
        ({"scores": {"a": [0.1]}}, "must have axes"),
        ({"scores": {"a": [[0.1]], "b": [[0.1, 0.2]]}}, r"scores\['b'\] has shape \(1, 2\)"),
        ({"scores": {"a": [[1.5]]}}, "reaches 1.5; scores lie in -1"),
        ({"chance": {"copyng": 0.1}}, "chance='copyng' is not one of"),
        ({"marked": [(2, 0)]}, r"marked holds \(2, 0\)"),
        ({"marked": [(0, 2)]}, r"marked holds \(0, 2\)"),
        ({"layers": [0]}, "layers has 1 numbers; scores have 2 layers"),
    ],
)
def test_scores_that_make_no_map_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        HeadsDisplay(**{"scores": SCORES, **changes})


def test_a_score_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="which='OV' is not one of"):
        HeadsDisplay(scores=SCORES).plot(which="OV")


# --- the phase change


def test_thick_lines_are_medians_over_seeds_and_the_highest_heads():
    heads = np.array([[0, 0, 0.5, 0.5, 0.4], [0.1, 0.1, 0.1, 0.1, 0.9]])
    display = change(heads={"prefix matching": heads}).plot()
    np.testing.assert_allclose(display.artists_["two", "late"].get_ydata(), np.linspace(3, 1, 5) + 0.1)
    np.testing.assert_allclose(display.artists_["two", "early"].get_ydata(), np.linspace(3, 1, 5) + 1.1)
    np.testing.assert_allclose(display.artists_["prefix matching", "highest"].get_ydata(), heads.max(0))
    losses, scores = display.axes_
    assert "nats" in losses.get_ylabel()
    assert scores.get_xlabel() == "training steps"


def test_without_heads_there_is_one_panel_and_one_seed_is_one_line():
    display = change(early={"two": np.full(5, 2.0)}, late={"two": np.full(5, 1.0)}).plot()
    assert len(display.axes_) == 1
    assert len([line for line in display.axes_[0].lines if len(line.get_xdata()) == 5]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [0, 1, 1, 2, 3]}, "steps must hold two or more numbers, each above"),
        ({"steps": [0]}, "steps must hold two or more"),
        ({"late": {"one": np.ones((1, 5))}}, "must name the same models"),
        ({"late": {"two": np.ones((1, 4))}}, r"late\['two'\] has shape \(1, 4\); steps asks for \(1, 5\)"),
        ({"heads": {"a": np.full((1, 5), np.nan)}}, r"heads\['a'\]\[0, 0\]=nan"),
        ({"best": np.inf}, "best=inf must be a finite number"),
    ],
)
def test_curves_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        change(**changes)


# --- ablations


def test_bars_are_means_dots_are_seeds_and_only_claims_have_colour():
    display = AblationDisplay(removed={"found": [0.9, 1.1], "others": [0.0, 0.1]}, claimed=["found"]).plot()
    assert [bar.get_width() for bar in display.ax_.patches] == pytest.approx([1.0, 0.05])
    np.testing.assert_allclose(display.artists_["found"].get_offsets()[:, 0], [0.9, 1.1])
    claimed, control = (bar.get_facecolor()[:3] for bar in display.ax_.patches)
    assert claimed == to_rgba(style.OKABE_ITO[0])[:3]
    assert len(set(control)) == 1
    assert display.ax_.yaxis_inverted()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"removed": {}}, "removed is empty"),
        ({"removed": {"a": [np.nan]}}, r"removed\['a'\]\[0\]=nan"),
        ({"removed": {"a": []}}, "none empty"),
        ({"removed": {"a": [1.0]}, "claimed": ["b"]}, "claimed='b' is not one of 'a'"),
    ],
)
def test_ablations_that_cannot_be_drawn_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AblationDisplay(**arguments)
