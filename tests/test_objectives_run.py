from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from nextlens.analyses import next_latent, objectives_measures, objectives_recipe, star_graph, star_graph_training
from nextlens.analyses.displays import style
from nextlens.analyses.displays.plan import PlanDisplay
from nextlens.analyses.displays.staircase import StaircaseDisplay
from nextlens.analyses.objectives_cli import objectives
from nextlens.analyses.objectives_grid_run import GridRecipe
from nextlens.analyses.objectives_recipe import ObjectivesRecipe
from nextlens.analyses.objectives_run import run, summary
from nextlens.analyses.registers import register_horizon
from nextlens.analyses.star_graph import answered, plan_by_block, swapped_plan
from nextlens.analyses.star_graph_run import run as run_star
from nextlens.analyses.star_graph_run import summary as star_summary
from nextlens.analyses.star_graph_training import StarGraphRecipe
from nextlens.models import checkpoints
from nextlens.models.batch import Batch
from nextlens.models.tasks.star_graph import StarGraph
from nextlens.models.transformer import Transformer

TINY = ObjectivesRecipe(
    objectives=("next-token", "next-latent", "registers"),
    length=8,
    beyond=2,
    d_model=8,
    n_layers=1,
    n_heads=1,
    batch_size=8,
    ahead=2,
    steps=4,
    every=2,
    seeds=(1,),
)
STAR = StarGraphRecipe.of("registers", d_model=8, n_layers=1, n_heads=1, batch_size=4, steps=2, every=1, seeds=(3,))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(objectives_measures, "MEASURED", 32)
    monkeypatch.setattr(objectives_recipe, "FOLLOWED", 32)
    monkeypatch.setattr(next_latent, "WORDS", 32)
    monkeypatch.setattr(next_latent, "TEXTS", 1)
    monkeypatch.setattr(style, "save", partial(style.save, formats=("png",)))
    for module in (star_graph, star_graph_training):
        monkeypatch.setattr(module, "PROBED", 200)
    monkeypatch.setattr(star_graph_training, "SWAPPED", 8)
    monkeypatch.setattr(star_graph_training, "MEASURED", 32)
    monkeypatch.setattr(star_graph_training, "FOLLOWED", 16)


def test_a_run_writes_figures_numbers_and_heads_and_gone_on_with_gives_the_same(tmp_path, few, monkeypatch):
    numbers = run(TINY, tmp_path / "one", n_jobs=1)
    assert json.loads((tmp_path / "one" / "numbers.json").read_text()) == json.loads(json.dumps(numbers))
    for figure in ("spectrum", "future", "updater", "registers"):
        assert (tmp_path / "one" / f"{figure}.png").stat().st_size > 1000
    for name in TINY.objectives:
        assert len(numbers["kl_to_exact"][name]["by_seed"]) == 1
        assert numbers["training"]["steps"][name]["by_seed"] == [4]
    matched = numbers["at_matched_kl"]
    worst = max(max(numbers["kl_to_exact"][name]["by_seed"]) for name in TINY.objectives)
    assert max(matched["kl"]["by_seed"]) < 2 * worst
    assert len(numbers["registers"]["moved_by_position_alone"]["kl"]) == 2
    tokens = TINY.source.sample(32, TINY.length + 1, np.random.default_rng(4))
    for name, row in (("registers", "kl"), ("next-token", "kl, untrained register")):
        model = checkpoints.load(TINY.lesson(name, 1).path(tmp_path / "one"))
        away = register_horizon(model, TINY.source, tokens, 2).kl.values
        assert [numbers["registers"]["by_offset"][d][row]["mean"] for d in "12"] == pytest.approx(np.diag(away))
    said = summary(TINY, numbers, tmp_path)
    assert numbers["repeat"] in said
    (tmp_path / "one" / "numbers.json").unlink()
    monkeypatch.setattr("nextlens.analyses.objectives_run.draw", lambda *results: None)
    again = run(TINY, tmp_path / "one", resume=True, n_jobs=1)
    assert again["belief_r2"] == numbers["belief_r2"]
    assert again["bayesian_updater"] == numbers["bayesian_updater"]
    assert again["draft"] == numbers["draft"]


def test_the_command_of_a_recipe_makes_that_recipe(monkeypatch):
    made = []
    monkeypatch.setattr("nextlens.analyses.objectives_cli.answer", lambda recipe, *rest, **how: made.append(recipe))
    slow = ObjectivesRecipe(
        parameters={"alpha": 0.8512345678, "x": 0.05}, cpu_seconds=80, seeds=(5,), roll_out=2, positions="none"
    )
    wide = StarGraphRecipe.of("joint multi-token", n_arms=3, solved_at=0.9, seeds=(0, 4))
    for recipe in (TINY, slow, STAR, wide, ObjectivesRecipe(), StarGraphRecipe.of("next-token")):
        words = shlex.split(recipe.command)[2:]
        done = CliRunner().invoke(objectives, words)
        assert done.exit_code == 0, done.output
        assert made[-1] == recipe


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"objectives": ("registers",)}, "must name next-token, the control"),
        ({"objectives": ("next-token", "mtp")}, "objectives='mtp' is not one of"),
        ({"seeds": ()}, "must hold at least one seed"),
        ({"length": 9, "ahead": 9}, "length=9 must be at least 10"),
        ({"length": 9, "roll_out": 9}, "length=9 must be at least 10"),
        ({"positions": "absolute"}, "positions='absolute' is not one of"),
        ({"process": "mess"}, "alpha"),
    ],
)
def test_wrong_recipes_are_named(given, said):
    if "process" in given:
        assert ObjectivesRecipe(**given).source.n_states == 4
        return
    with pytest.raises(ValueError, match=said):
        ObjectivesRecipe(**given)


def test_whoever_looks_beyond_a_question_is_refused_before_any_training():
    with pytest.raises(ValueError, match="ahead=24 must lie between 1 and 23"):
        StarGraphRecipe.of("next-latent", ahead=24)
    with pytest.raises(ValueError, match="ahead=22 must lie between 1 and 21"):
        GridRecipe(ahead=22)


def test_a_star_run_shows_every_seed(tmp_path, few):
    numbers = run_star(STAR, tmp_path / "one", n_jobs=1)
    assert numbers["training"]["steps"] == [2]
    assert len(numbers["clever_hans"]["by_token"][0]) == 4
    assert set(numbers["plan"]["by_seed"]["3"]) == {"leaf", "=", "centre"}
    assert len(numbers["plan"]["by_seed"]["3"]["leaf"]["node 1"]) == 2
    swap = numbers["swap"]["by_seed"]["3"]
    assert np.shape(swap["control"]["says_other"]["answer"]) == (2, 3)
    said = star_summary(STAR, numbers, tmp_path)
    first = "/".join(f"{nodes[0]:.2f}" for nodes in swap["control"]["says_other"]["leaf"])
    assert f"from another star, other node 1 {first}" in said
    for figure in ("staircase", "plan", "swap"):
        assert (tmp_path / "one" / f"{figure}.png").stat().st_size > 1000
    assert numbers["repeat"] in said


def test_a_seed_that_has_solved_the_task_stops(tmp_path, few, monkeypatch):
    told = answered(Transformer(STAR.lesson(3).config), STAR.task.draw(16, np.random.default_rng(0)))
    monkeypatch.setattr(star_graph_training, "answered", lambda *given: type(told)(1.0, told.by_token, 1.0, 1.0))
    longer = StarGraphRecipe.of("registers", d_model=8, n_layers=1, n_heads=1, batch_size=4, steps=9, every=2)
    found = star_graph_training.train_and_measure(longer, 0, tmp_path)
    assert found.steps == 4


def test_a_node_is_read_where_it_lies_and_nowhere_else():
    task = StarGraph(layout="coupled")
    drawn = task.draw(600, np.random.default_rng(0))
    model = Transformer(STAR.lesson(0).config)
    with torch.no_grad():
        model.pos_embed.W_pos.zero_()
        model.embed.W_E.normal_(generator=torch.Generator().manual_seed(0))
    found = plan_by_block(model, drawn)
    assert found.accuracy.dims == ("place", "block", "node")
    assert float(found.accuracy.max()) < 0.5
    assert (float(found.guess), float(found.chance)) == (0.5, 0.1)
    shown = drawn.assign(path=drawn.path.copy(data=np.roll(drawn.path.values, 1, axis=1)))
    centre_read = plan_by_block(model, shown).accuracy.sel(place="centre", block=0, node=1)
    assert float(centre_read) == pytest.approx(1, abs=0.05), (
        "the centre stands there, and is node 1 of the shifted path"
    )


def test_a_staircase_has_a_line_for_each_seed_that_ends_when_it_does():
    display = StaircaseDisplay(seconds=[[1, 2, 3], [1, 2]], solved=[[0, 0.5, 1], [0, 0.4]], guess=0.5, names=["a", "b"])
    lines = display.plot().artists_
    assert lines["b"].get_xdata().tolist() == [1, 2]
    assert lines["guess of the arm"].get_ydata() == [0.5, 0.5]
    with pytest.raises(ValueError, match="1 names, 2 seconds and 2 solved"):
        StaircaseDisplay(seconds=[[1], [1]], solved=[[1], [1]], guess=0.5, names=["a"])
    with pytest.raises(ValueError, match="must be a finite number"):
        StaircaseDisplay(seconds=[[1]], solved=[[np.nan]], guess=0.5, names=["a"])


class HeldPlan:
    """Keeps the leaf at one place behind its only block, and says the way to whatever leaf it finds there."""

    device = torch.device("cpu")
    sites = ("hook_embed", "blocks.0.hook_resid_post")
    unembedding = torch.zeros(1, 13)

    def __init__(self, task: StarGraph, back: int) -> None:
        self.task, self.back, self.n_tokens = task, back, task.n_tokens
        self.edits: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
        self.seen: dict[str, torch.Tensor] = {}

    def _pass(self, site: str, value: torch.Tensor) -> torch.Tensor:
        value = self.edits.get(site, torch.clone)(value)
        self.seen[site] = value
        return value

    def log_probs(self, batch: Batch) -> torch.Tensor:
        tokens = self._pass("hook_embed", batch.tokens[..., None].float()).long()[..., 0]
        start = self.task.length - self.task.arm_length
        held = torch.zeros(*tokens.shape, 1)
        if tokens.shape[1] > start + self.back:
            held[:, start + self.back, 0] = tokens[:, start - 2].float()
        held = self._pass("blocks.0.hook_resid_post", held)
        law = torch.full((*tokens.shape, self.n_tokens), -20.0)
        for row, read in enumerate(batch.tokens.tolist()):
            edges = read[: start - 3]
            into = dict(zip(edges[1::2], edges[::2], strict=True))
            leaf = int(held[row, min(start + self.back, len(read) - 1), 0])
            way = [leaf]
            while way[0] in into and len(way) < self.task.arm_length:
                way.insert(0, into[way[0]])
            way = [read[start - 3], *way[1 : self.task.arm_length]]
            for said, node in enumerate(way[: len(read) - start + 1]):
                law[row, start - 1 + said, node] = 0.0
        return law.log_softmax(-1)

    __call__ = log_probs

    @contextmanager
    def watched(self, *sites: str) -> Iterator[dict[str, torch.Tensor]]:
        self.seen = {}
        yield self.seen

    @contextmanager
    def edited(self, site: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        self.edits = {site: edit}
        yield
        self.edits = {}


@pytest.mark.parametrize("place", ["leaf", "=", "centre"])
def test_a_plan_is_swapped_where_it_is_held_and_nowhere_else(place):
    task = StarGraph(layout="coupled")
    model = HeldPlan(task, star_graph.PLACES[place])
    found = swapped_plan(model, task.draw(40, np.random.default_rng(0)))
    assert found.usually.values.tolist() == [1, 1]
    behind = found.sel(block=1, donor="other leaf")
    for other in found.place.values:
        goes = other == place or (other == "all three") or (place == "centre" and other == "answer")
        assert float(behind.walks_to_other.sel(place=other)) == goes, other
        assert float(behind.walks_to_own.sel(place=other)) == (not goes), other
        assert behind.says_other.sel(place=other).values.tolist() == [goes] * 3
    assert found.walks_to_other.sel(block=0, donor="other leaf").values.tolist() == [1, 0, 0, 1, 0]
    assert float(found.walks_to_other.sel(donor="other star", block=1).max()) < 0.15
    assert float(found.walks_to_own.sel(donor="other star", block=1, place=place)) < 0.3


def test_a_plan_has_a_panel_for_each_place():
    rows = np.random.default_rng(0).random((2, 3, 2))
    how = {"names": ["node 1", "node 2"], "ylabel": "accuracy", "references": {"guess": 0.5, "chance": 0.1}}
    display = PlanDisplay(shares={"at the leaf": rows, "at “=”": rows}, **how).plot()
    assert [ax.get_title() for ax in display.axes_] == ["at the leaf", "at “=”"]
    assert display.axes_[0].lines[2].get_ydata().tolist() == rows[0, :, 0].tolist()
    both = {"shares": {"leaf": rows}, "controls": {"leaf": rows / 2}, "names": ["node 1", "node 2"], "ylabel": "said"}
    (ax,) = PlanDisplay(**both, control_name="of another").plot().axes_
    dashed = [line for line in ax.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    assert np.allclose([line.get_ydata() for line in dashed], rows.mean(0).T / 2)
    assert ax.get_legend_handles_labels()[1] == ["node 1", "node 2", "of another"]
    with pytest.raises(ValueError, match=r"controls are of \['centre'\]; they must be of the places \['leaf'\]"):
        PlanDisplay(**{**both, "controls": {"centre": rows}})
    with pytest.raises(ValueError, match="shares is empty"):
        PlanDisplay(shares={}, **how)
    with pytest.raises(ValueError, match=r"shares\['leaf'\] has shape"):
        PlanDisplay(shares={"leaf": rows}, names=["node 1"], ylabel="accuracy")
