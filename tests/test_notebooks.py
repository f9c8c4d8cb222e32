"""Notebooks: percent scripts that run at small size, with an executed twin that says the same."""

from __future__ import annotations

import ast
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import jupytext
import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
#: What makes a notebook small, in place of the sizes it has for a reader.
SMALL = {"STEPS": "100", "WIDTH": "16", "MPLBACKEND": "agg"}
#: Each notebook runs in a process of its own, forked from one that has spent the seconds these imports take.
PRELOADED = ["nextlens.models.transformer", "nextlens.analyses.belief_geometry"]

every_notebook = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def code(notebook) -> list[str]:
    """Sources of the code cells."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_tour_and_main_question_have_notebooks():
    assert {"00_tour", "01_belief_geometry"} <= {script.stem for script in SCRIPTS}


@every_notebook
def test_notebook_runs_at_small_size(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = f"import os, runpy; os.environ |= {SMALL}; runpy.run_path({str(script)!r}, run_name='__main__')"
    forked = get_context("forkserver")
    forked.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, forked) as process:
        process.submit(exec, run).result(timeout=600)


@every_notebook
def test_executed_twin_has_the_same_code(script):
    assert code(jupytext.read(script.with_suffix(".ipynb"))) == code(jupytext.read(script))


@every_notebook
def test_executed_twin_ran_from_top_to_bottom_and_shows_something(script):
    cells = [cell for cell in jupytext.read(script.with_suffix(".ipynb")).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert not [output.evalue for output in outputs if output.output_type == "error"]


@every_notebook
def test_notebook_defines_nothing(script):
    defined = [node.lineno for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, DEFINITIONS)]
    assert not defined, f"lines {defined} of {script.name} define something; it belongs in a room"


@every_notebook
def test_notebook_ends_by_saying_what_not_to_conclude(script):
    last = jupytext.read(script).cells[-1]
    assert last.cell_type == "markdown"
    assert "not conclude" in last.source.lower()


@every_notebook
def test_every_cell_that_draws_shows_its_picture_and_no_output_warns_or_names_a_folder(script):
    for cell in jupytext.read(script.with_suffix(".ipynb")).cells:
        if cell.cell_type != "code":
            continue
        if "Display(" in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source
        printed = "".join(output.get("text", "") for output in cell.outputs)
        assert "Warning" not in printed
        assert "site-packages" not in printed
