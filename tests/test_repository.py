"""The repository itself: what it may hold, which way its rooms import, and whether its pages are true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "probes", "analyses")
MODULES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

LARGEST_FILE, LARGEST_DATA = 2_000_000, 100_000
DATA = {".npz", ".npy", ".gguf", ".hf5", ".h5", ".safetensors", ".pt"}
DRAWERS = {"utils", "util", "core", "common", "misc", "base", "helpers"}

every_module = pytest.mark.parametrize("module", MODULES, ids=str)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def tracked() -> list[Path]:
    """Files under version control that are still there."""
    if not (ROOT / ".git").exists():
        pytest.skip("this copy is not under version control")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def import_name(module: Path) -> str:
    parts = module.with_suffix("").parts
    return ".".join(("nextlens", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def targets(page: Path) -> list[str]:
    """What a page links to inside the repository: Markdown links, and images written in HTML."""
    text = page.read_text()
    found = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"""(?:src|href)=["']([^"']+)["']""", text)
    return [target.partition("#")[0] for target in found if not re.match(r"[a-z]+:|#", target)]


def python_of(page: Path) -> str:
    """The Python examples of a page, one after another, as a reader would run them."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE))


def test_no_file_is_large():
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked()}
    limits = {name: LARGEST_DATA if Path(name).suffix in DATA else LARGEST_FILE for name in sizes}
    assert not {name: size for name, size in sizes.items() if size > limits[name]}


def test_no_folder_is_a_drawer():
    folders = {folder for path in tracked() for folder in path.relative_to(ROOT).parts[:-1]}
    stems = {module.stem for module in MODULES}
    assert not (folders | stems) & DRAWERS


def test_constraints_pin_exact_releases_and_name_no_place():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in lines
    assert not [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)]


def test_version_is_the_same_on_every_page():
    citation, changes = (ROOT / "CITATION.cff").read_text(), (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^version: (\S+)$", citation, flags=re.MULTILINE) == [VERSION]
    assert re.findall(r"^## \[(\S+)\]", changes, flags=re.MULTILINE)[0] == VERSION


def test_imports_keep_their_contracts():
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@every_module
def test_module_says_what_it_is_for(module):
    assert ast.get_docstring(ast.parse((ROOT / module).read_text()))


@every_module
def test_page_of_the_room_names_the_module(module):
    if module.name != "__init__.py":
        assert (
            f"`{module.relative_to(module.parts[0]).as_posix()}`" in (ROOT / f"docs/{module.parts[0]}.md").read_text()
        )


@every_page
def test_links_of_the_page_lead_somewhere(page):
    assert not [target for target in targets(page) if not (page.parent / target).exists()]


@pytest.mark.parametrize("name", ["index", *ROOMS])
def test_examples_of_the_page_run(name):
    source = python_of(ROOT / f"docs/{name}.md")
    assert source
    exec(compile(source, f"docs/{name}.md", "exec"), {"__name__": name})


def test_readme_holds_what_the_demo_printed_and_no_placeholder():
    readme = (ROOT / "README.md").read_text()
    assert not re.search(r"\b(SUMMARY|TODO|TBD|FIXME|XXX)\b", readme)
    assert re.search(r"loss / optimum +1\.\d+ +\[", readme)
