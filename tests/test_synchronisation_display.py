"""Displays of synchronisation draw the numbers they are given, and refuse those that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt

from nextlens.analyses.displays.synchronisation import (
    PlateauDisplay,
    PosteriorDisplay,
    SynchronisationDisplay,
    loss_grid,
)

FLOOR = [0.7, 0.6, 0.55]
LOSSES = {"transformer": [[0.65, 0.57], [0.63, 0.56]], "GRU": [[0.66, 0.58], [0.62, 0.59]]}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_losses_begin_where_one_token_was_read_and_the_floor_at_none():
    display = SynchronisationDisplay(floor=FLOOR, losses=LOSSES, rate=0.5).plot()
    assert display.artists_["floor"].get_xdata().tolist() == [0, 1, 2]
    assert display.artists_["floor"].get_ydata().tolist() == FLOOR
    drawn = [line.get_xydata().tolist() for line in display.artists_["GRU"]]
    assert drawn == [[[1, 0.66], [2, 0.58]], [[1, 0.62], [2, 0.59]]]
    assert display.artists_["rate"].get_ydata() == [0.5, 0.5]
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == [
        *("floor $h_l$", "rate $h$", "transformer", "GRU")
    ]


def test_the_grid_has_a_panel_a_source_and_names_each_curve_once():
    one = SynchronisationDisplay(floor=FLOOR, losses={"transformer": LOSSES["transformer"]}, rate=0.5)
    other = SynchronisationDisplay(floor=FLOOR, losses=LOSSES, rate=0.5)
    figure = loss_grid({"a_coin": one, "b": other, "c": one}, columns=2)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["a coin", "b", "c", ""]
    texts = [text.get_text() for ax in figure.axes if ax.get_legend() for text in ax.get_legend().get_texts()]
    assert texts == ["floor $h_l$", "rate $h$", "transformer", "GRU"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "tokens read", "tokens read", ""]


def test_a_full_grid_has_its_legend_outside():
    one = SynchronisationDisplay(floor=FLOOR, losses=LOSSES, rate=0.5)
    assert len(loss_grid({"a": one, "b": one}, columns=2).legends) == 1


def test_where_nothing_varies_no_point_is_drawn():
    display = PosteriorDisplay(
        read=[1, 2, 3],
        scores={"probe": [[np.nan, 0.5, 0.9], [np.nan, 0.7, 1.0]], "untrained twin": [[np.nan, 0.1, 0.2]]},
        uncertainty=[1.0, 0.8, 0.5],
    ).plot()
    assert display.artists_["probe"].get_xydata() == pytest.approx(np.array([[2, 0.6], [3, 0.95]]))
    assert display.artists_["untrained twin"].get_xdata().tolist() == [2, 3]
    bars = display.ax_.collections[0].get_segments()
    assert [bar[:, 1].tolist() for bar in bars] == [[0.5, 0.7], [0.9, 1.0]]
    assert display.artists_["still unknown, exact"].get_ydata().tolist() == [1.0, 0.8, 0.5]


def test_plateaus_are_drawn_on_logarithmic_axes_a_line_a_seed():
    display = PlateauDisplay(
        steps=[1, 10, 100], curves={"GRU": [[1, 0.5, 0.1], [1, 0.4, 0.2]]}, levels={"one token": 0.3}
    ).plot()
    assert (display.ax_.get_xscale(), display.ax_.get_yscale()) == ("log", "log")
    assert [line.get_ydata().tolist() for line in display.artists_["GRU"]] == [[1, 0.5, 0.1], [1, 0.4, 0.2]]
    assert display.artists_["one token"].get_ydata() == [0.3, 0.3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SynchronisationDisplay(floor=FLOOR, losses={}, rate=0.5), "losses must hold at least one"),
        (
            lambda: SynchronisationDisplay(floor=FLOOR, losses={"a": [1.0, 2.0, 3.0]}, rate=0.5),
            r"losses\['a'\] has shape \(1, 3\); floor asks for \(1, 2\)",
        ),
        (lambda: SynchronisationDisplay(floor=[np.nan], losses={"a": [1.0]}, rate=0.5), "floor.0.=nan"),
        (lambda: PosteriorDisplay(read=[1], scores={}), "scores must hold at least one"),
        (lambda: PosteriorDisplay(read=[1], scores={"a": [[np.inf]]}), "must be a finite number"),
        (lambda: PosteriorDisplay(read=[1, 2], scores={"a": [[1.0]]}), "read asks for"),
        (lambda: PlateauDisplay(steps=[1, 1], curves={"a": [[1.0, 1.0]]}), "at growing steps above 0"),
        (
            lambda: PlateauDisplay(steps=[1, 2], curves={"a": [[1.0, 0.0]]}),
            "on a log axis every number must be above 0",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
