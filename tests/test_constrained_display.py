"""The figure of constrained beliefs: what it draws is what it was given, beside what is predicted."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from nextlens.analyses.displays.constrained import CLOUDS, CURVES, FAINTEST, ConstrainedDisplay

N, ZETA = 6, 0.55
DISTANCE = np.subtract.outer(np.arange(N), np.arange(N))
POWERS = np.tril(float(ZETA) ** DISTANCE.clip(0))


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def display(**changes) -> ConstrainedDisplay:
    rng = np.random.default_rng(0)
    belief = rng.dirichlet(np.full(3, 0.5), 50)
    given = {
        "belief": belief,
        "r_1": 1.8 * belief - 0.8 / 3,  # outside the simplex, as r_1 is
        "read_belief": belief + 0.01,
        "read_r_1": 1.8 * belief - 0.25,
        "pattern": np.stack([POWERS * 0.3, POWERS * 0.2]),
        "kernel": POWERS,
        "decay": ZETA,
        "caption": "held out, 5 folds",
    }
    return ConstrainedDisplay(**(given | changes))


def test_all_panels_are_drawn_and_settings_return():
    before = dict(mpl.rcParams)
    drawn = display().plot_all(title="Mess3")
    assert dict(mpl.rcParams) == before
    assert list(drawn.artists_) == list(drawn.axes_) == [*CLOUDS, *CURVES]
    assert [ax.get_title(loc="left") for ax in drawn.axes_.values()] == [*CLOUDS.values(), *CURVES.values()]
    drawn.figure_.draw_without_rendering()


@pytest.mark.parametrize("which", [*CLOUDS, *CURVES])
def test_any_panel_alone_is_drawn_where_it_is_told(which):
    figure, ax = plt.subplots()
    drawn = display().plot(ax, which=which, title="here")
    assert drawn.ax_ is ax
    assert drawn.figure_ is figure
    assert ax.get_title() == "here"


def test_clouds_show_their_own_points_in_the_triangle():
    from nextlens.analyses.displays.simplex import CORNERS

    one = display()
    for name, beliefs in (("r_1", one.first.guess), ("read_r_1", one.first.untrained), ("belief", one.first.truth)):
        shown = np.asarray(one.plot(which=name).artists_[name].get_offsets())
        wanted = beliefs @ CORNERS
        np.testing.assert_allclose(shown[np.lexsort(shown.T)], wanted[np.lexsort(wanted.T)], atol=1e-12)
        (left, right), (low, high) = one.ax_.get_xlim(), one.ax_.get_ylim()
        assert left < wanted[:, 0].min() < wanted[:, 0].max() < right
        assert low < wanted[:, 1].min() < wanted[:, 1].max() < high


def test_attention_that_decays_by_zeta_lies_on_the_prediction():
    lines = display().plot(which="attention").artists_["attention"]
    predicted = lines["|ζ|ⁿ⁻¹"].get_xydata()
    np.testing.assert_allclose(predicted[:, 1], ZETA ** np.arange(N - 1))
    for head in ("head 0", "head 1"):
        np.testing.assert_allclose(lines[head].get_xydata(), predicted)


def test_the_mean_is_geometric_over_keys_that_reach_so_far():
    """Keys 0 and 1 fade by .5 and .125 at distance 2; only key 0 reaches distance 3."""
    pattern = np.array([[1, 0, 0, 0], [0.4, 0.6, 0, 0], [0.2, 0.4, 0.4, 0], [0.1, 0.05, 0.4, 0.45]])[None]
    lines = display(pattern=pattern, kernel=pattern[0]).plot(which="attention").artists_["attention"]
    np.testing.assert_allclose(lines["attention"].get_ydata(), [1, 0.25, 0.25])


def test_a_negative_decay_is_drawn_signed_in_the_kernel():
    signed = np.tril((-0.5) ** DISTANCE.clip(0))
    drawn = display(kernel=signed, decay=-0.5).plot(which="kernel").artists_["kernel"]
    np.testing.assert_allclose(drawn["ζⁿ"].get_ydata(), (-0.5) ** np.arange(N))
    np.testing.assert_allclose(drawn["model"].get_ydata(), (-0.5) ** np.arange(N))
    magnitude = display(decay=-0.5).plot(which="attention").artists_["attention"]["|ζ|ⁿ⁻¹"].get_ydata()
    np.testing.assert_allclose(magnitude, 0.5 ** np.arange(N - 1))


def test_what_is_too_faint_or_gone_is_left_out():
    faint = POWERS.copy()
    faint[3, 0] = faint[1, 0] * FAINTEST / 2
    faint[2, 1] = 0  # key 1 has nothing to be compared with
    lines = display(pattern=faint[None], decay=0.0).plot(which="attention").artists_["attention"]
    assert list(lines) == ["attention"]
    assert np.isfinite(lines["attention"].get_ydata()).all()
    lone = np.eye(N) + np.eye(N, k=-1)
    assert np.isnan(display(pattern=lone[None]).plot().artists_["attention"]["attention"].get_ydata()[1:]).all()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"kernel": np.ones((4, 4))}, r"kernel has shape \(4, 4\); pattern asks for \(6, 6\)"),
        ({"pattern": np.ones((6, 6))}, r"pattern has shape \(6, 6\); it must have axes \(head, position, looked_at\)"),
        ({"pattern": np.ones((1, 6, 5))}, r"pattern has shape \(1, 6, 5\)"),
        ({"pattern": -np.ones((1, 6, 6))}, "pattern reaches -1; attention is at least 0"),
        ({"pattern": np.ones((1, 2, 2)), "kernel": np.ones((2, 2))}, "2 positions; a decay needs at least 3"),
        ({"r_1": np.ones((4, 3))}, r"r_1 has shape \(4, 3\); belief asks for \(50, 3\)"),
        ({"decay": np.nan}, "decay=nan must be a finite number"),
    ],
)
def test_wrong_numbers_are_refused_by_name(wrong, match):
    with pytest.raises(ValueError, match=match):
        display(**wrong)


def test_an_unknown_panel_is_refused():
    with pytest.raises(ValueError, match=r"which='atention' is not one of .*; did you mean 'attention'"):
        display().plot(which="atention")
