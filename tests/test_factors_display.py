"""The figure of factored representations keeps its numbers, and refuses wrong ones by name."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from nextlens.analyses.displays.factors import FactorsDisplay

GIVEN = {
    "steps": [1, 10, 100],
    "dimensions": [[30, 8, 6], [33, 9, 7], [31, 9, 8]],
    "levels": {"joint beliefs": 19, "factors' beliefs": 6},
    "shares": {"trained": [0.5, 0.9, 1.0], "joint beliefs": [0.4, 1.0]},
    "overlap": [[1.0, 0.002], [0.002, 1.0]],
    "factors": ["0 mess3", "1 bloch_walk"],
    "noise": {"exact channel": {0.2: [5, 7], 0.0: [4, 4]}},
    "noise_levels": {"joint": 8, "factors": 4},
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_every_panel_holds_the_numbers_it_was_given():
    before = dict(mpl.rcParams)
    display = FactorsDisplay(**GIVEN, caption="three seeds").plot(title="factors")
    assert dict(mpl.rcParams) == before
    assert list(display.axes_) == ["dimensions", "scree", "overlap", "noise"]
    np.testing.assert_array_equal(display.artists_["exact channel"].get_ydata(), [4, 6])
    np.testing.assert_allclose(display.artists_["exact channel"].get_xdata(), [0.0, 0.2], atol=0.01)
    median = [line for line in display.axes_["dimensions"].lines if line.get_linewidth() > 1][-1]
    np.testing.assert_array_equal(median.get_ydata(), [31, 9, 7])
    shares = [line.get_ydata() for line in display.axes_["scree"].lines]
    np.testing.assert_array_equal(shares[0], GIVEN["shares"]["trained"])
    np.testing.assert_allclose(10 ** display.artists_["overlap"].get_array(), GIVEN["overlap"])
    assert [text.get_text() for text in display.axes_["overlap"].texts] == ["1", "0.002", "0.002", "1"]


def test_without_noise_there_is_no_panel_of_it():
    display = FactorsDisplay(**{**GIVEN, "noise": None, "noise_levels": None}).plot()
    assert list(display.axes_) == ["dimensions", "scree", "overlap"]
    assert len(display.figure_.axes) == 3


def test_an_overlap_too_small_to_colour_is_written_as_such():
    display = FactorsDisplay(**{**GIVEN, "overlap": [[1.0, 0.0], [0.0, 1.0]]}).plot()
    assert display.axes_["overlap"].texts[1].get_text() == "< 0.0001"


WRONG = [
    ({"steps": [0, 1, 2]}, "steps=.* must be above 0 and grow"),
    ({"steps": [1, 2]}, "dimensions has shape .* steps asks for"),
    ({"dimensions": [1.0, np.nan, 2.0]}, r"dimensions\[1\]=nan must be a finite number"),
    ({"shares": {"trained": [0.5, 0.4]}}, r"shares\['trained'\] must grow"),
    ({"shares": {"trained": [0.5, 1.4]}}, "at most 1"),
    ({"overlap": [[1.0]]}, "overlap has shape"),
    ({"overlap": [[1.0, -0.1], [0.0, 1.0]]}, "overlap runs from -0.1 to 1; it is 0 to 1"),
    ({"noise": {"exact channel": {0.1: []}}}, r"noise\['exact channel'\]\[0.1\] has shape"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_wrong_numbers_are_refused_by_name(changed, message):
    with pytest.raises(ValueError, match=message):
        FactorsDisplay(**{**GIVEN, **changed})
