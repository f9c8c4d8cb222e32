"""Accuracies drawn: what stands where, and what is refused."""

from __future__ import annotations

import pytest
from matplotlib import pyplot as plt

from nextlens.analyses.displays.accuracies import AccuraciesDisplay

STRICT = {"one": (0.2, 0.1, 0.3), "other": (0.5, 0.4, 0.6)}
INCLUSIVE = {"one": (0.3, 0.2, 0.4), "other": (0.5, 0.4, 0.6)}


def test_every_model_has_a_full_and_a_hollow_mark_at_its_shares():
    display = AccuraciesDisplay(models=["one", "other"], strict=STRICT, inclusive=INCLUSIVE).plot()
    assert display.artists_["strict"].get_xdata() == pytest.approx([20, 50])
    assert display.artists_["tie-inclusive"].get_xdata() == pytest.approx([30, 50])
    assert display.artists_["tie-inclusive"].get_markerfacecolor() == "white"
    heights = dict(
        zip(display.ax_.get_yticks(), (text.get_text() for text in display.ax_.get_yticklabels()), strict=True)
    )
    assert heights == {1: "one", 0: "other"}
    plt.close(display.figure_)


def test_it_is_drawn_where_it_is_told():
    figure, ax = plt.subplots()
    assert AccuraciesDisplay(models=["one"], strict=STRICT, inclusive=INCLUSIVE).plot(ax, title="x").ax_ is ax
    plt.close(figure)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="models is empty"):
        AccuraciesDisplay(models=[], strict={}, inclusive={})
    with pytest.raises(ValueError, match="tie-inclusive accuracies lack 'other'"):
        AccuraciesDisplay(models=["one", "other"], strict=STRICT, inclusive={"one": (0.0, 0.0, 0.0)})
    with pytest.raises(ValueError, match=r"strict\[0, 1\]=nan must be a finite number"):
        AccuraciesDisplay(models=["one"], strict={"one": (0.1, float("nan"), 0.2)}, inclusive=INCLUSIVE)
    with pytest.raises(ValueError, match="give mean, low and high"):
        AccuraciesDisplay(models=["one"], strict={"one": (0.1, 0.2)}, inclusive={"one": (0.1, 0.2)})
