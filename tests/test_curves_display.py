"""Curves keep their numbers, refuse wrong ones by name, and draw what they hold."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from nextlens.analyses.displays.curves import CurvesDisplay


@pytest.fixture(autouse=True)
def closed():
    """No test leaves a figure open."""
    yield
    plt.close("all")


def test_curves_are_drawn_where_they_are_with_their_bands_and_references():
    display = CurvesDisplay(
        along=[1, 2, 4],
        values={"model": [3.0, 2.0, 1.0]},
        intervals={"model": [[2.5, 1.5, 0.5], [3.5, 2.5, 1.5]]},
        references={"null": 4.0, "least": [0.1, 0.2, 0.3]},
        xscale="log",
    ).plot()
    np.testing.assert_array_equal(display.artists_["model"].get_xydata(), [[1, 3], [2, 2], [4, 1]])
    np.testing.assert_array_equal(display.artists_["least"].get_ydata(), [0.1, 0.2, 0.3])
    assert set(display.artists_["null"].get_ydata()) == {4.0}
    band = display.ax_.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.5, 3.5)
    assert {text.get_text() for text in display.ax_.texts} == {"model", "null", "least"}


def test_words_become_ticks_and_many_are_thinned():
    names = ["in", *map(str, range(29))]
    display = CurvesDisplay(along=names, values={"lens": np.arange(30.0)}).plot()
    shown = [tick.get_text() for tick in display.ax_.get_xticklabels()]
    assert shown == names[::4]
    assert display.ax_.get_xticks().tolist() == list(range(0, 30, 4))


def test_short_ranges_of_powers_are_written_as_numbers():
    display = CurvesDisplay(along=[1, 8], values={"rank": [20.0, 90.0]}, xscale="log", yscale="log").plot()
    display.figure_.draw_without_rendering()
    assert "50" in [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert "8" in [tick.get_text() for tick in display.ax_.get_xticklabels()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": {}}, r"values is empty"),
        ({"values": {"a": [1.0]}}, r"values\['a'\] has shape \(1,\); along asks for \(2,\)"),
        ({"values": {"a": [1.0, np.nan]}}, r"values\['a'\]\[1\]=nan must be a finite number"),
        ({"references": {"a": 1.0}}, r"'a' names a curve and a reference"),
        ({"intervals": {"b": [[0, 0], [1, 1]]}}, r"intervals\['b'\] belong to none of the curves \['a'\]"),
        ({"intervals": {"a": [[0], [1]]}}, r"intervals\['a'\] has shape \(2, 1\)"),
        ({"yscale": "sqrt"}, r"yscale='sqrt' is not one of 'linear', 'log'"),
        ({"along": []}, r"along has shape \(0,\)"),
    ],
)
def test_curves_refuse_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        CurvesDisplay(**{"along": [1.0, 2.0], "values": {"a": [1.0, 2.0]}} | changes)
