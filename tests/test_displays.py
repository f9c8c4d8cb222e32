"""Figures keep their numbers, refuse wrong ones by name, and leave matplotlib as they found it."""

from __future__ import annotations

import pickle
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from sklearn.decomposition import PCA
from sklearn.isotonic import isotonic_regression

from nextlens.analyses.displays import style
from nextlens.analyses.displays.emergence import EmergenceDisplay, count
from nextlens.analyses.displays.layers import LayersDisplay, short_site
from nextlens.analyses.displays.process_graph import ProcessDisplay
from nextlens.analyses.displays.simplex import CORNERS, FARTHEST, FEW, SimplexDisplay

TOKENS = np.array([1e3, 1e4, 1e5])


@pytest.fixture(autouse=True)
def closed():
    """No test leaves a figure open."""
    yield
    plt.close("all")


def beliefs(n: int, n_states: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(n_states, 0.5), n)


def read(truth: np.ndarray, noise: float, seed: int = 1) -> np.ndarray:
    """What a linear probe might say: near the truth, sums of one, some of it outside the simplex."""
    error = np.random.default_rng(seed).normal(0, noise, truth.shape)
    return truth + error - error.mean(axis=1, keepdims=True)


def mess3(a: float = 0.85, x: float = 0.05) -> np.ndarray:
    moves = np.full((3, 3), x) + (1 - 3 * x) * np.eye(3)
    emits = np.full((3, 3), (1 - a) / 2) + (a - (1 - a) / 2) * np.eye(3)
    return moves * emits[:, None, :]


def rrxor() -> np.ndarray:
    transition = np.zeros((2, 5, 5))
    for token, state, following, weight in (
        *((0, 0, 1, 0.5), (1, 0, 2, 0.5), (0, 1, 4, 0.5), (1, 1, 3, 0.5)),
        *((0, 2, 3, 0.5), (1, 2, 4, 0.5), (0, 4, 0, 1.0), (1, 3, 0, 1.0)),
    ):
        transition[token, state, following] = weight
    return transition


EVEN = np.array([[[0.5, 0.0], [0.0, 0.0]], [[0.0, 0.5], [1.0, 0.0]]])
GOLDEN_MEAN = np.array([[[0.5, 0.0], [1.0, 0.0]], [[0.0, 0.5], [0.0, 0.0]]])


known_process = pytest.mark.parametrize(
    "transition", [mess3(), rrxor(), EVEN, GOLDEN_MEAN], ids=["mess3", "rrxor", "even", "golden mean"]
)


def simplex_display(n: int = 200, n_states: int = 3) -> SimplexDisplay:
    truth = beliefs(n, n_states)
    return SimplexDisplay(truth=truth, guess=read(truth, 0.02), untrained=read(truth, 0.2), caption="held out, 5 folds")


def layers_display() -> LayersDisplay:
    return LayersDisplay(
        sites=["hook_embed", "blocks.0.hook_resid_mid", "ln_final.hook_normalized"],
        scores={"trained": [[0.70, 0.97, 0.99], [0.72, 0.99, 0.999]]},
        nulls={"untrained": [0.7, 0.8, 0.89], "shuffled": 0.0, "last token": 0.71, "next token": 0.72},
    )


def emergence_display(**changed) -> EmergenceDisplay:
    truth = beliefs(300)
    given = {
        "tokens": TOKENS,
        "loss_over_optimum": [[1.1, 1.01, 1.001], [1.2, 1.03, 1.002], [1.9, 1.02, 1.0015]],
        "mse": [0.1, 0.01, 0.001],
        "r2": [0.1, 0.9, 0.99],
        "snapshots": [(1e3, read(truth, 0.3)), (1e4, read(truth, 0.1)), (1e5, read(truth, 0.01))],
        "truth": truth,
    }
    return EmergenceDisplay(**given | changed)


def process_display(transition: np.ndarray) -> ProcessDisplay:
    return ProcessDisplay(transition=transition, name="process")


WHOLE_FIGURES = {
    "simplex": lambda: simplex_display().plot_row(),
    "cells": lambda: simplex_display(FEW + 1).plot_row(),
    "line": lambda: simplex_display(200, 2).plot_row(),
    "plane": lambda: simplex_display(200, 5).plot_row(),
    "layers": lambda: layers_display().plot(),
    "emergence": lambda: emergence_display().plot(),
    "mess3": lambda: process_display(mess3()).plot(),
    "rrxor": lambda: process_display(rrxor()).plot(),
    "even": lambda: process_display(EVEN).plot(),
    "golden mean": lambda: process_display(GOLDEN_MEAN).plot(),
}

whole_figure = pytest.mark.parametrize("draw", WHOLE_FIGURES.values(), ids=WHOLE_FIGURES)


def words(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def boxes(figure: Figure) -> list:
    """Outlines of every word that is drawn, in pixels."""
    figure.canvas.draw()
    return [text.get_window_extent() for text in words(figure)]


class TestEveryDisplay:
    @whole_figure
    def test_saves_as_png_pdf_and_svg_below_two_megabytes(self, draw, tmp_path):
        paths = style.save(draw().figure_, tmp_path / "figure")
        assert [path.suffix for path in paths] == [".png", ".pdf", ".svg"]
        assert all(1_000 < path.stat().st_size < 2_000_000 for path in paths)

    @whole_figure
    def test_leaves_matplotlibs_settings_alone(self, draw):
        with mpl.rc_context({"font.size": 13.0, "axes.linewidth": 3.0, "axes.spines.top": True}):
            before = dict(mpl.rcParams)
            draw()
            assert dict(mpl.rcParams) == before

    @whole_figure
    def test_has_no_text_below_seven_points_and_fits_a_page(self, draw):
        figure = draw().figure_
        figure.canvas.draw()
        assert min(text.get_fontsize() for text in words(figure)) >= 7.0
        assert figure.get_figwidth() in (pytest.approx(3.3, abs=0.3), pytest.approx(6.9))

    @pytest.mark.parametrize(
        "draw",
        [
            lambda ax: simplex_display().plot(ax=ax),
            lambda ax: layers_display().plot(ax=ax),
            lambda ax: process_display(mess3()).plot(ax=ax),
        ],
    )
    def test_draws_on_given_axes_opens_no_figure_and_returns_itself(self, draw):
        figure = Figure()
        ax = figure.subplots()
        display = draw(ax)
        assert display.ax_ is ax
        assert display.figure_ is figure
        assert figure.axes == [ax]
        assert plt.get_fignums() == []

    @whole_figure
    def test_figures_survive_pickling(self, draw):
        assert len(pickle.loads(pickle.dumps(draw().figure_)).axes) > 0

    def test_title_is_drawn_only_when_asked_for(self):
        assert layers_display().plot().ax_.get_title() == ""
        assert layers_display().plot(title="Mess3").ax_.get_title() == "Mess3"


class TestSimplex:
    def test_triangle_puts_a_belief_at_the_mean_of_the_corners_it_weighs(self):
        display = simplex_display()
        for which in ("truth", "guess", "untrained"):
            (points,) = display.plot(which=which).artists_
            np.testing.assert_allclose(points.get_offsets(), getattr(display, which) @ CORNERS)

    def test_every_panel_has_the_colours_of_the_truth(self):
        display = simplex_display().plot_row()
        exact, *others = [points.get_facecolors() for points in display.artists_]
        assert len(np.unique(exact, axis=0)) > 100
        assert all(np.array_equal(exact, colours) for colours in others)

    @pytest.mark.parametrize("n_states", [2, 3, 5])
    @pytest.mark.parametrize("n", [50, FEW + 1])
    def test_panels_share_one_window_that_holds_the_truth_and_all_but_the_farthest_readings(self, n, n_states):
        display = simplex_display(n, n_states).plot_row()
        assert len(display.axes_) == 3
        (limits,) = {(*ax.get_xlim(), *ax.get_ylim()) for ax in display.axes_}
        left, right, bottom, top = limits
        for which, allowed in (("truth", 0.0), ("guess", FARTHEST), ("untrained", FARTHEST)):
            x, y = display.frame.places(getattr(display, which)).T
            sides = [x <= left, x >= right, *([y <= bottom, y >= top] if n_states > 2 else [])]
            assert all(outside.mean() <= allowed for outside in sides)

    def test_one_far_reading_does_not_shrink_the_panels(self):
        truth = beliefs(FEW)
        far = truth.copy()
        far[0] = [50.0, -25.0, -24.0]
        windows = [SimplexDisplay(truth=truth, guess=guess).window for guess in (truth, far)]
        np.testing.assert_allclose(windows[1], windows[0], atol=0.05)

    def test_heaviest_points_are_drawn_last_and_largest(self):
        weights = np.random.default_rng(0).random(100)
        display = SimplexDisplay(truth=beliefs(100), weights=weights).plot()
        (points,) = display.artists_
        order = np.argsort(weights)
        np.testing.assert_allclose(points.get_offsets(), (display.truth @ CORNERS)[order])
        assert np.all(np.diff(points.get_sizes()) >= 0)
        assert points.get_sizes()[0] < points.get_sizes()[-1]

    def test_a_cell_of_an_image_has_the_weighted_mean_light_of_its_points(self):
        truth = np.tile(np.eye(3)[:2], (FEW, 1))
        weights = np.tile([3.0, 1.0], FEW)
        display = SimplexDisplay(truth=truth, guess=np.full_like(truth, 1 / 3), weights=weights)
        (image,) = display.plot(which="guess").artists_
        pixels = np.asarray(image.get_array())
        filled = pixels[pixels[..., 3] > 0]
        lamps = style.to_linear(np.array([to_rgb(colour) for colour in style.CORNER_COLOURS[:2]]))
        assert len(filled) == 1
        np.testing.assert_allclose(filled[0, :3], style.to_srgb(0.75 * lamps[0] + 0.25 * lamps[1]))

    def test_an_image_fills_exactly_the_cells_that_hold_points_where_they_are(self):
        truth = beliefs(FEW + 1)
        display = SimplexDisplay(truth=truth, guess=read(truth, 0.1)).plot(which="guess")
        (image,) = display.artists_
        left, right, bottom, top = image.get_extent()
        opacity = np.asarray(image.get_array())[..., 3]
        x, y = (display.guess @ CORNERS).T
        inside = (left <= x) & (x < right) & (bottom <= y) & (y < top)
        assert inside.mean() > 1 - 4 * FARTHEST
        x, y = x[inside], y[inside]
        rows = np.floor((y - bottom) / (top - bottom) * opacity.shape[0]).astype(int)
        columns = np.floor((x - left) / (right - left) * opacity.shape[1]).astype(int)
        expected = np.zeros(opacity.shape, dtype=bool)
        expected[rows, columns] = True
        np.testing.assert_array_equal(opacity > 0, expected)

    def test_two_states_give_bars_whose_heights_are_probabilities(self):
        display = simplex_display(500, 2).plot_row()
        for bars in display.artists_:
            assert sum(bar.get_height() for bar in bars) == pytest.approx(1.0)
        assert display.ax_.get_xlabel() == "belief in state 1"
        assert display.ax_.get_ylabel() == "probability"

    def test_more_states_are_drawn_on_the_principal_components_of_scikit_learn(self):
        display = simplex_display(400, 5)
        reference = PCA(2).fit(display.truth)
        for which in ("truth", "guess"):
            theirs = reference.transform(getattr(display, which))
            ours = display.frame.places(getattr(display, which))
            np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-9)
        assert f"{reference.explained_variance_ratio_[0]:.0%}" in display.frame.labels[0]

    def test_weighted_components_are_those_of_repeated_rows(self):
        truth, times = beliefs(60, 4), np.random.default_rng(2).integers(1, 5, 60)
        weighted = SimplexDisplay(truth=truth, weights=times)
        repeated = SimplexDisplay(truth=truth.repeat(times, axis=0))
        np.testing.assert_allclose(weighted.frame.axes, repeated.frame.axes, atol=1e-9)
        np.testing.assert_allclose(weighted.frame.origin, repeated.frame.origin)

    def test_vectors_that_are_no_probabilities_never_land_in_a_triangle(self):
        assert SimplexDisplay(truth=beliefs(50) + np.array([0.0, 0.9, 0.0])).frame.kind == "plane"
        assert SimplexDisplay(truth=2 * beliefs(50) - 1 / 3).frame.kind == "plane"
        assert SimplexDisplay(truth=beliefs(50)).frame.kind == "triangle"

    def test_only_a_figure_of_its_own_carries_the_caption(self):
        display = simplex_display()
        assert display.plot().figure_.get_supxlabel() == "held out, 5 folds"
        assert display.plot(Figure().subplots()).figure_.get_supxlabel() == ""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"truth": np.zeros(3)}, r"truth has shape \(3,\)"),
            ({"truth": np.zeros((0, 3))}, r"truth has shape \(0, 3\)"),
            ({"truth": np.ones((4, 1))}, "at least 2 states"),
            ({"truth": np.full((4, 5), 0.2)}, "truth holds the same belief in every row"),
            ({"guess": np.zeros((4, 3))}, r"guess has shape \(4, 3\); truth asks for \(5, 3\)"),
            ({"untrained": np.full((5, 3), np.nan)}, r"untrained\[0, 0\]=nan"),
            ({"weights": np.ones(4)}, r"weights has shape \(4,\); truth asks for \(5,\)"),
            ({"weights": [1, 1, -2, 1, 1]}, r"weights\[2\]=-2"),
            ({"weights": np.zeros(5)}, "not all 0"),
        ],
    )
    def test_refuses_by_name(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            SimplexDisplay(**{"truth": beliefs(5)} | arguments)

    def test_refuses_unknown_and_absent_panels(self):
        display = SimplexDisplay(truth=beliefs(5))
        with pytest.raises(ValueError, match=r"which='gess' is not one of .* did you mean 'guess'"):
            display.plot(which="gess")
        with pytest.raises(ValueError, match="which='guess', but this display was made without guess="):
            display.plot(which="guess")
        with pytest.raises(ValueError, match="axes has 2 entries; this display draws 1: truth"):
            display.plot_row(Figure().subplots(1, 2))


class TestLayers:
    def test_lines_are_means_over_seeds_in_the_order_of_sites(self):
        display = layers_display().plot()
        np.testing.assert_allclose(display.artists_["trained"].get_ydata(), [0.71, 0.98, 0.9945])
        np.testing.assert_allclose(display.artists_["untrained"].get_ydata(), [0.7, 0.8, 0.89])
        np.testing.assert_allclose(display.artists_["shuffled"].get_ydata(), 0.0)
        assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["embed", "0 mid", "final norm"]

    def test_bars_reach_from_the_lowest_to_the_highest_seed(self):
        display = layers_display().plot()
        (ranges,) = display.ax_.collections
        ends = [segment[:, 1] for segment in ranges.get_segments()]
        np.testing.assert_allclose(ends, [[0.70, 0.72], [0.97, 0.99], [0.99, 0.999]])

    def test_no_word_lies_over_another_when_curves_end_together(self):
        display = LayersDisplay(
            sites=[f"blocks.{k}.resid_post" for k in range(6)],
            scores={name: np.full(6, 0.9 + 0.001 * k) for k, name in enumerate(("one", "two", "three"))},
            nulls={"four": 0.902, "five": 0.5, "six": 0.501},
        ).plot()
        display.figure_.canvas.draw()
        names = [text for text in words(display.figure_) if text.get_text() in display.artists_]
        assert len(names) == 6
        outlines = [Text.get_window_extent(text) for text in names]
        assert not any(one.overlaps(other) for one, other in combinations(outlines, 2))

    @pytest.mark.parametrize(
        ("site", "label"),
        [
            ("hook_embed", "embed"),
            ("embed", "embed"),
            ("hook_pos_embed", "positions"),
            ("blocks.0.hook_resid_mid", "0 mid"),
            ("blocks.11.resid_post", "11 post"),
            ("blocks.2.attn.hook_z", "2 attn z"),
            ("ln_final.hook_normalized", "final norm"),
            ("all sites", "all sites"),
        ],
    )
    def test_site_names_are_short(self, site, label):
        assert short_site(site) == label

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"sites": []}, r"sites=\[\]"),
            ({"scores": {}}, r"scores of \[\]"),
            ({"scores": {"trained": [0.1, 0.2, 0.3]}}, r"scores\['trained'\] has shape \(1, 3\); sites asks for"),
            ({"scores": {"trained": [0.1, np.inf]}}, r"scores\['trained'\]\[1\]=inf"),
            ({"nulls": {"shuffled": np.nan}}, r"nulls\['shuffled'\]=nan"),
            ({"nulls": {"trained": 0.0}}, "'trained' names an entry of scores and one of nulls"),
        ],
    )
    def test_refuses_by_name(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            LayersDisplay(**{"sites": ["embed", "final"], "scores": {"trained": [0.5, 0.9]}} | arguments)


class TestEmergence:
    def test_curves_are_medians_over_seeds(self):
        display = emergence_display().plot_curves(Figure().subplots(2, 1))
        loss, mse, unexplained = (line.get_ydata() for line in display.artists_)
        np.testing.assert_allclose(loss, [0.2, 0.02, 0.0015])
        np.testing.assert_allclose(mse, [0.1, 0.01, 0.001])
        np.testing.assert_allclose(unexplained, [0.9, 0.1, 0.01])
        assert [ax.get_yscale() for ax in display.axes_] == ["log", "log"]

    def test_a_loss_below_the_optimum_stays_in_the_picture(self):
        display = emergence_display(loss_over_optimum=[1.1, 1.01, 0.999], r2=None).plot_curves(Figure().subplots(2, 1))
        upper, lower = display.axes_
        assert upper.get_yscale() == "linear"
        assert upper.get_ylim()[0] < -0.001
        assert lower.get_yscale() == "log"
        assert lower.get_ylabel() == "mean squared error"

    def test_whole_figure_has_two_curves_above_one_panel_per_snapshot(self):
        display = emergence_display().plot()
        assert len(display.axes_) == 5
        assert [ax.get_title() for ax in display.axes_[2:]] == ["1k tokens", "10k tokens", "100k tokens"]
        assert len(emergence_display(snapshots=[]).plot().axes_) == 2

    def test_snapshots_share_one_window_that_holds_every_point(self):
        display = emergence_display().plot_snapshots(Figure().subplots(1, 3))
        (limits,) = {(*ax.get_xlim(), *ax.get_ylim()) for ax in display.axes_}
        for points in display.artists_:
            x, y = points.get_offsets().T
            assert limits[0] < x.min()
            assert x.max() < limits[1]
            assert limits[2] < y.min()
            assert y.max() < limits[3]

    def test_a_run_of_one_step_is_seen(self):
        display = emergence_display(tokens=[640], loss_over_optimum=[1.1], mse=[0.1], r2=None).plot()
        display.figure_.canvas.draw()
        for line, ax in zip(display.artists_[:2], display.axes_[:2], strict=True):
            assert line.get_marker() == "o"
            assert ax.get_xlim()[0] < 640 < ax.get_xlim()[1]

    def test_counts_read_as_a_researcher_says_them(self):
        assert [count(n) for n in (1, 640, 999, 6_400, 915_200, 999_999, 3_187_200, 629_209_600, 2e9)] == [
            *("1", "640", "1k", "6.4k", "920k", "1M", "3.2M", "630M", "2G"),
        ]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"tokens": [1e3, 1e3, 1e4]}, r"tokens\[1\]=1000"),
            ({"tokens": [0.0, 1.0, 2.0]}, r"tokens\[0\]=0"),
            ({"mse": [0.1, 0.2]}, r"mse has shape \(1, 2\); tokens asks for \(1, 3\)"),
            ({"loss_over_optimum": [1.0, np.nan, 1.0]}, r"loss_over_optimum\[1\]=nan"),
            ({"r2": [0.1, 0.2, 1.2]}, "r2 reaches 1.2"),
            ({"truth": None}, "truth=None with 3 snapshots"),
            ({"snapshots": [(1e3, beliefs(7))]}, r"snapshots\[0\]\[1\] has shape \(7, 3\); truth asks for \(300, 3\)"),
            ({"snapshots": [(np.nan, beliefs(300))]}, r"snapshots\[0\]\[0\]=nan"),
        ],
    )
    def test_refuses_by_name(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            emergence_display(**arguments)

    def test_refuses_a_wrong_number_of_axes(self):
        with pytest.raises(ValueError, match="axes has 3 entries; there are 2 panels"):
            emergence_display().plot_curves(Figure().subplots(3, 1))
        with pytest.raises(ValueError, match="axes has 2 entries; there are 3 panels"):
            emergence_display().plot_snapshots(Figure().subplots(1, 2))


class TestProcess:
    @pytest.mark.parametrize(
        "transition", [mess3(), rrxor(), EVEN, GOLDEN_MEAN], ids=["mess3", "rrxor", "even", "golden"]
    )
    def test_one_arrow_per_joined_pair_and_one_line_per_token(self, transition):
        display = process_display(transition).plot()
        pairs = {tuple(pair) for pair in np.argwhere(transition.any(axis=0)).tolist()}
        assert set(display.artists_) == pairs
        drawn = [text.get_text() for text in words(display.figure_) if ": " in text.get_text()]
        assert sorted(drawn) == sorted(text for pair in pairs for _, text in display.labels(*pair))
        assert len(drawn) == np.count_nonzero(transition)

    @pytest.mark.parametrize(
        "transition", [mess3(), rrxor(), EVEN, GOLDEN_MEAN], ids=["mess3", "rrxor", "even", "golden"]
    )
    def test_no_word_lies_over_another(self, transition):
        figure = process_display(transition).plot().figure_
        shrunk = [box.padded(-1.0) for box in boxes(figure)]
        assert not any(one.overlaps(other) for one, other in combinations(shrunk, 2))

    @pytest.mark.parametrize(
        "transition", [mess3(), rrxor(), EVEN, GOLDEN_MEAN], ids=["mess3", "rrxor", "even", "golden"]
    )
    def test_every_word_lies_inside_the_figure(self, transition):
        figure = process_display(transition).plot().figure_
        for box in boxes(figure):
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.width
            assert box.y1 <= figure.bbox.height

    def test_labels_name_token_and_probability(self):
        display = ProcessDisplay(transition=mess3(), token_names="abc")
        assert display.labels(0, 0) == [(0, "a: .765"), (1, "b: .0675"), (2, "c: .0675")]
        assert display.labels(1, 0) == [(0, "a: .0425"), (1, "b: .00375"), (2, "c: .00375")]

    def test_there_and_back_never_share_a_line(self):
        display = process_display(np.full((1, 4, 4), 0.25))
        curves = {curve.ends: curve for curve in display.curves}
        for state, following in combinations(range(4), 2):
            there, back = (curves[ends].at(np.array([0.5])) for ends in ((state, following), (following, state)))
            assert np.linalg.norm(there - back) > 0.1

    def test_rrxor_states_that_are_joined_stand_nearer_than_in_the_order_given(self):
        display = process_display(rrxor())
        angles = 2 * np.pi * np.arange(5) / 5
        given = np.column_stack([np.cos(angles), np.sin(angles)])

        def length(places):
            return (display.joined * np.linalg.norm(places[:, None] - places, axis=-1)).sum()

        assert length(display.places) < length(given) - 0.1
        np.testing.assert_allclose(np.linalg.norm(display.places, axis=1), 1.0)

    @pytest.mark.parametrize("n_states", [1, 2, 6, 9])
    def test_draws_any_number_of_states(self, n_states):
        display = process_display(np.eye(n_states)[None, :, np.roll(np.arange(n_states), 1)]).plot()
        assert len(display.artists_) == n_states

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"transition": np.eye(2)}, r"transition has shape \(2, 2\)"),
            ({"transition": np.ones((2, 2, 3))}, r"transition has shape \(2, 2, 3\)"),
            ({"transition": np.full((1, 2, 2), np.nan)}, r"transition\[0, 0, 0\]=nan"),
            ({"transition": np.zeros((1, 2, 2))}, "zero everywhere"),
            ({"state_names": ["A"]}, r"state_names=\['A'\] has 1 entries; transition asks for 2"),
            ({"token_names": "abc"}, r"token_names=.* has 3 entries; transition asks for 2"),
        ],
    )
    def test_refuses_by_name(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ProcessDisplay(**{"transition": EVEN} | arguments)


class TestStyle:
    def test_the_same_figure_gives_the_same_bytes(self, tmp_path):
        first, second = (style.save(layers_display().plot().figure_, tmp_path / name) for name in ("first", "second"))
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]

    def test_save_refuses_other_formats_before_writing(self, tmp_path):
        with pytest.raises(ValueError, match="formats='jpg' is not one of"):
            style.save(Figure(), tmp_path / "figure", formats=("png", "jpg"))
        assert list(tmp_path.iterdir()) == []

    @given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(0.01, 0.3))
    def test_spread_labels_keep_their_order_and_their_distance(self, wanted, gap):
        places = style.spread(np.array(wanted), gap)[np.argsort(wanted, kind="stable")]
        assert np.all(np.diff(places) >= gap - 1e-9)

    @given(st.lists(st.floats(-1, 1), min_size=1, max_size=8), st.floats(0.01, 0.3))
    def test_spread_moves_labels_as_little_as_isotonic_regression(self, wanted, gap):
        ordered, steps = np.sort(wanted), gap * np.arange(len(wanted))
        expected = isotonic_regression(ordered - steps) + steps
        np.testing.assert_allclose(style.spread(ordered, gap), expected, atol=1e-9)

    @given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
    def test_light_and_its_code_are_inverse(self, channels):
        srgb = np.array([channels])
        np.testing.assert_allclose(style.to_srgb(style.to_linear(srgb)), srgb, atol=1e-6)

    def test_middle_grey_holds_a_fifth_of_the_light(self):
        assert style.to_linear(np.array([[0.5, 0.5, 0.5]]))[0, 0] == pytest.approx(0.21404, abs=1e-5)

    def test_pure_shares_give_pure_colours(self):
        pure = style.to_srgb(style.mix(np.eye(3), style.CORNER_COLOURS))
        np.testing.assert_allclose(pure, [to_rgb(colour) for colour in style.CORNER_COLOURS], atol=1e-9)

    @pytest.mark.parametrize("vision", ["any", "protanopia", "deuteranopia", "tritanopia"])
    def test_corner_colours_stay_apart_for_colour_blind_readers(self, vision):
        lamps = style.mix(np.eye(3), style.CORNER_COLOURS)
        seen = np.clip(lamps @ np.array(SEEN_BY[vision]).T, 0, 1)
        distances = [np.linalg.norm(one - other) for one, other in combinations(lab(seen), 2)]
        assert min(distances) > 50


#: Linear-light simulations of full dichromacy, Machado, Oliveira and Fernandes (2009), severity 1.0.
SEEN_BY = {
    "any": np.eye(3).tolist(),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(light: np.ndarray) -> np.ndarray:
    """CIELAB (white point D65) of linear-light sRGB."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = light @ np.array(to_xyz).T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1)


def test_interactive_mode_turned_on_while_a_display_draws_stays_on(monkeypatch):
    """A notebook's backend turns it on when its first figure is made; put back, later figures are not shown."""
    new_figure = style.new_figure

    def first_figure_of_a_notebook(width, height):
        mpl.rcParams["interactive"] = True
        return new_figure(width, height)

    monkeypatch.setitem(mpl.rcParams, "interactive", False)
    monkeypatch.setattr(style, "new_figure", first_figure_of_a_notebook)
    plt.close(simplex_display().plot().figure_)
    assert mpl.is_interactive()
