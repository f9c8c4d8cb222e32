"""nextlens as its users meet it: built, installed, and imported beside a ``models`` package of their own."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import tomllib
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

import cloudpickle
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from nextlens.models.batch import Batch
from nextlens.models.processes.zoo import mess3
from nextlens.models.transformer import Transformer, TransformerConfig
from nextlens.probes.belief import BeliefProbe

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "probes", "analyses")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "results")

#: What a user might run first: a process, a transformer, and what the one costs the other.
FIRST_LINES = """
import numpy as np
from nextlens.models.batch import Batch
from nextlens.models.processes.zoo import mess3
from nextlens.models.recording import surprisal
from nextlens.models.transformer import Transformer, TransformerConfig

batch = Batch.from_tokens(mess3().sample(4, 6, np.random.default_rng(0)))
model = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=8, n_ctx=5))
"""


def modules_of_the_tree() -> set[str]:
    """Every file of the three rooms that must be installed, relative to the root."""
    sources = (path for room in ROOMS for kind in ("*.py", "py.typed") for path in (ROOT / room).rglob(kind))
    return {path.relative_to(ROOT).as_posix() for path in sources}


def run(*command: str | Path, cwd: Path, path: Collection[Path] = (), given: bytes | None = None) -> str:
    """Standard output of a command, or a failure that shows what it wrote. ``path`` becomes PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    done = subprocess.run(command, cwd=cwd, env=environment, input=given, capture_output=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode()


def printed_by(script: str, *options: str, cwd: Path, path: Collection[Path] = ()) -> list[str]:
    """The lines that a script prints."""
    return run(sys.executable, *options, "-c", textwrap.dedent(script), cwd=cwd, path=path).splitlines()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder, with packages of their own under the names of our rooms."""
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("whose = 'the user'\n")
    return tmp_path


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it, with nothing downloaded."""
    folder = tmp_path_factory.mktemp("distributions")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / "source", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Iterator[zipfile.ZipFile]:
    (file,) = distributions.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


@pytest.fixture(scope="module")
def unpacked(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``pip install`` of the wheel would lay down."""
    folder = tmp_path_factory.mktemp("unpacked")
    wheel.extractall(folder)
    return folder


def test_packages_listed_in_pyproject_are_the_folders_of_the_rooms():
    folders = {Path(module).parent.as_posix() for module in modules_of_the_tree()}
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == {f"nextlens.{f.replace('/', '.')}" for f in folders}


def test_wheel_holds_every_module_of_the_tree_and_nothing_else(wheel):
    installed = {name for name in wheel.namelist() if ".dist-info/" not in name and not name.endswith("/")}
    assert installed == {f"nextlens/{module}" for module in modules_of_the_tree()}


def test_every_room_says_that_it_is_typed(wheel):
    assert {f"nextlens/{room}/py.typed" for room in ROOMS} <= set(wheel.namelist())


def test_wheel_carries_licence_version_and_command(wheel):
    information = f"nextlens-{SETTINGS['project']['version']}.dist-info"
    assert b"nextlens = nextlens.analyses.cli:main" in wheel.read(f"{information}/entry_points.txt")
    assert wheel.read(f"{information}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_sdist_is_enough_to_build_the_wheel(distributions):
    (file,) = distributions.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert modules_of_the_tree() | {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_installed_wheel_is_imported_beside_a_models_package_of_the_users(unpacked, project):
    # Without `site`, the editable install's finder is not there: only the wheel's copy can be found.
    installed = (unpacked, Path(sysconfig.get_path("purelib")))
    script = """
        import models, nextlens.models.batch
        from nextlens.models.batch import Batch
        print(models.whose)
        print(nextlens.models.batch.__file__)
        print(Batch.from_tokens([[0, 1, 2]]).targets.tolist())
        from importlib.metadata import version
        print(version("nextlens"))
    """
    whose, file, targets, version = printed_by(script, "-S", cwd=project, path=installed)
    assert whose == "the user"
    assert Path(file) == unpacked / "nextlens/models/batch.py"
    assert targets == "[[1, 2]]"
    assert version == SETTINGS["project"]["version"]


def test_editable_install_is_imported_beside_a_models_package_of_the_users(project):
    script = """
        import models, probes, analyses
        import nextlens.models.batch, nextlens.probes.samples, nextlens.analyses.cli
        print(models.whose, probes.whose, analyses.whose, sep=", ")
        for ours in (nextlens.models.batch, nextlens.probes.samples, nextlens.analyses.cli):
            print(ours.__file__)
    """
    whose, *files = printed_by(script, cwd=project)
    assert whose == "the user, the user, the user"
    assert [Path(file) for file in files] == [
        ROOT / f for f in ("models/batch.py", "probes/samples.py", "analyses/cli.py")
    ]


def test_notebook_kernel_started_elsewhere_runs_a_process_and_a_transformer(project, monkeypatch):
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(project / "jupyter"))
    second = "import models\nprint(models.whose, dict(surprisal(model, batch).sizes))"
    cells = [nbformat.v4.new_code_cell(source) for source in (FIRST_LINES, second)]
    path = project / "first.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    executed = NotebookClient(
        nbformat.read(path, as_version=4), timeout=120, kernel_name="python3", resources={"metadata": {"path": project}}
    ).execute()
    (output,) = executed.cells[1].outputs
    assert output.text == "the user {'sequence': 4, 'position': 5}\n"


def test_spawned_process_reads_a_batch_with_a_process_and_a_transformer(project):
    script = """
        if __name__ == "__main__":
            from concurrent.futures import ProcessPoolExecutor
            from multiprocessing import get_context

            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                for kernel in (mess3(), model):
                    there = pool.submit(surprisal, kernel, batch).result()
                    np.testing.assert_array_equal(there, surprisal(kernel, batch))
            print("equal")
    """
    file = project / "question.py"
    file.write_text(FIRST_LINES + textwrap.dedent(script))
    assert run(sys.executable, file, cwd=project) == "equal\n"


def test_cloudpickle_carries_a_process_a_batch_a_transformer_and_a_probe_elsewhere(project):
    rng = np.random.default_rng(0)
    process, X = mess3(), rng.standard_normal((40, 3))
    batch = Batch.from_tokens(process.sample(4, 6, rng), tree=True)
    model = Transformer(TransformerConfig(n_tokens=3, n_layers=1, d_model=8, n_ctx=5))
    probe = BeliefProbe(cv=2).fit(X, X @ rng.standard_normal((3, 2)))
    script = """
        import sys, cloudpickle
        process, batch, model, probe, X = cloudpickle.loads(sys.stdin.buffer.read())
        answers = process.log_probs(batch).numpy(), model(batch).detach().numpy(), probe.predict(X)
        with open("answers", "wb") as file:
            cloudpickle.dump((process, batch.tree.node.numpy(), *answers), file)
    """
    parcel = cloudpickle.dumps((process, batch, model, probe, X))
    run(sys.executable, "-c", textwrap.dedent(script), cwd=project, given=parcel)
    returned, *answers = cloudpickle.loads((project / "answers").read_bytes())
    assert repr(returned) == repr(process)
    expected = (
        batch.tree.node.numpy(),
        process.log_probs(batch).numpy(),
        model(batch).detach().numpy(),
        probe.predict(X),
    )
    for there, here in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize("question", [["--help"], ["--version"], ["belief", "--help"]], ids=" ".join)
def test_command_answers_without_importing_anything_heavy(question, tmp_path):
    heavy = {"torch", "transformer_lens", "numpy", "scipy", "sklearn", "matplotlib", "xarray", "pandas", "joblib"}
    script = f"""
        import sys
        from nextlens.analyses.cli import main
        sys.argv = ["nextlens"]
        try:
            main({question!r})
        finally:
            print(sorted({heavy!r} & set(sys.modules)))
    """
    *answer, imported = printed_by(script, cwd=tmp_path)
    assert "nextlens" in answer[0]
    assert imported == "[]"


def test_command_is_installed_under_its_name():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="nextlens")
    assert command.load().__module__ == "nextlens.analyses.cli"
