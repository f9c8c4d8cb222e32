"""Figures of minimal generators: marks where the numbers are, and refusals by name."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from nextlens.analyses.displays.generators import GeneratorsDisplay, RivalCurvesDisplay

SCORES = {
    "mess3": {
        "transformer": {"generator": [0.98, 1.0], "Markov-3": [0.5, 0.7]},
        "GRU": {"generator": [0.9, 0.9], "Markov-3": [0.4, 0.2]},
    },
    "moon": {"GRU": {"generator": [0.8, 0.6], "Markov-3": [-3.0, -1.0]}},
}
WORDS = {"mess3": {"GRU": [0, 10, 100]}, "moon": {"GRU": [0, 10, 100]}}
ERRORS = {
    "mess3": {"GRU": {"generator": [[2.0, 1.0, 0.5], [4.0, 3.0, 1.0]], "Markov-3": [[1.0, 1.0, 0.9], [1.0, 0.8, 0.7]]}},
    "moon": {"GRU": {"generator": [[0.5, 0.4, 0.3]]}},
}


@pytest.fixture(autouse=True)
def closed():
    """No test leaves a figure open."""
    yield
    plt.close("all")


def test_marks_stand_at_the_mean_of_each_model_and_outside_the_axis_at_its_edge():
    display = GeneratorsDisplay(scores=SCORES).plot()
    heights = {target: marks.get_ydata().tolist() for target, marks in display.artists_.items()}
    np.testing.assert_allclose(heights["generator"], [0.99, 0.9, 0.7])
    np.testing.assert_allclose(heights["Markov-3"], [0.6, 0.3, display.ax_.get_ylim()[0]])
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["transformer", "GRU", "GRU"]
    assert {"mess3", "moon"} <= {text.get_text() for text in display.ax_.texts}
    places = display.artists_["generator"].get_xdata()
    assert places[2] - places[1] > places[1] - places[0]


def test_untrained_twins_are_open_marks_and_published_ranges_are_bars():
    untrained = {"moon": {"GRU": {"generator": [0.25], "Markov-3": [0.125]}}}
    published = {"Markov-3": {"mess3": (0.5, 0.88)}}
    ax = GeneratorsDisplay(scores=SCORES, untrained=untrained, published=published).plot().ax_
    opened = [line.get_ydata()[0] for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert sorted(opened) == [0.125, 0.25]
    assert [(round(bar.get_y(), 6), round(bar.get_height(), 6)) for bar in ax.patches] == [(0.5, 0.38)] * 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "generator",
        "Markov-3",
        "untrained",
        "published",
    ]


def test_it_draws_where_it_is_told():
    figure, ax = plt.subplots()
    display = GeneratorsDisplay(scores=SCORES, quantity="R²").plot(ax, legend=False, title="held out")
    assert display.figure_ is figure
    assert (ax.get_ylabel(), ax.get_title(loc="left"), ax.get_legend()) == ("R²", "held out", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": {}}, "scores is empty"),
        ({"scores": {"moon": {"GRU": {}}}}, "scores is empty"),
        ({"scores": {"moon": {"GRU": {"generator": [np.nan]}}}}, r"scores\['moon'\]\['GRU'\]\['generator'\]\[0\]=nan"),
        ({"scores": {"moon": {"GRU": {str(i): [0.5] for i in range(5)}}}}, "scores hold 5 targets; at most 4"),
        ({"untrained": {"moon": {"GRU": {"generator": [0.5]}}}}, r"\('moon', 'GRU'\) has targets \['generator'\]"),
        (
            {"untrained": {"moon": {"RNN": {"generator": [0.5], "Markov-3": [0.5]}}}},
            r"\('moon', 'RNN'\) .* a trained model",
        ),
    ],
)
def test_scores_that_cannot_be_drawn_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        GeneratorsDisplay(**({"scores": SCORES} | change))


def test_curves_are_relative_to_the_error_before_training():
    display = RivalCurvesDisplay(words=WORDS, errors=ERRORS).plot()
    line = display.artists_["mess3", "GRU", "generator"]
    np.testing.assert_allclose(line.get_xdata(), [10, 100])
    np.testing.assert_allclose(line.get_ydata(), [0.625, 0.25])
    np.testing.assert_allclose(display.artists_["moon", "GRU", "generator"].get_ydata(), [0.8, 0.6])
    assert [ax.get_title() for ax in display.axes_] == ["mess3", "moon"]
    colours = {target: display.artists_["mess3", "GRU", target].get_color() for target in ("generator", "Markov-3")}
    assert len(set(colours.values())) == 2
    assert display.artists_["moon", "GRU", "generator"].get_color() == colours["generator"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"errors": {}}, "errors is empty"),
        ({"words": {"mess3": {"GRU": [1, 10, 100]}, "moon": WORDS["moon"]}}, "must grow from 0"),
        ({"words": {"mess3": {"GRU": [0, 10, 10]}, "moon": WORDS["moon"]}}, "must grow from 0"),
        ({"words": {"mess3": {"GRU": [0, 10]}, "moon": WORDS["moon"]}}, r"\(2, 3\); words asks for \(2, 2\)"),
        ({"errors": {"moon": {"GRU": {"generator": [[0.0, 1.0, 1.0]]}}}}, "begins with 0; it must be above 0"),
    ],
)
def test_curves_that_cannot_be_drawn_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RivalCurvesDisplay(**({"words": WORDS, "errors": ERRORS} | change))


def test_one_axis_for_each_process():
    _, axes = plt.subplots(1, 3)
    with pytest.raises(ValueError, match="axes has 3 entries; there are 2 processes"):
        RivalCurvesDisplay(words=WORDS, errors=ERRORS).plot(axes)
