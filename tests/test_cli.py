"""The command line: quick to answer, plain about what is wrong, and safe to interrupt."""

from __future__ import annotations

import io
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from nextlens.analyses import belief_run
from nextlens.analyses.belief_training import checkpoint_of
from nextlens.analyses.cli import main
from nextlens.analyses.model_training import steps_done

NEXTLENS = [sys.executable, "-m", "nextlens.analyses.cli"]
HEAVY = ("torch", "matplotlib", "xarray", "sklearn", "scipy", "numpy", "transformer_lens")
#: Saves after every step, so that there is always something to interrupt and to go on from.
ALWAYS_SAVING = """
from nextlens.analyses import cli, model_training
model_training.SAVE_EVERY = 0.0
cli.main()
"""
STEPS = 150
SMALL = f"belief --process even --steps {STEPS} --batch-size 8 --seeds 1 --jobs 1".split()

needs_signals = pytest.mark.skipif(
    os.name != "posix" or signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    reason="Ctrl-C is sent as a signal, which the background of a shell ignores",
)


def said(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, and what was written to standard output and error, by the command in this process."""
    try:
        main([str(argument) for argument in arguments])
        code = 0
    except SystemExit as done:
        code = done.code
    return code, *capsys.readouterr()


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    """Until ``condition`` holds; the process, which leads a group, must not have ended before."""
    until = time.monotonic() + 240
    while not condition():
        assert running.poll() is None, running.communicate()
        if time.monotonic() > until:
            os.killpg(running.pid, signal.SIGKILL)
            pytest.fail("what was waited for did not come in 240 s")
        time.sleep(0.02)


def group_is_gone(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return True
    return False


def timeless(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name != "cpu_seconds_of_training"}


@pytest.fixture
def nothing_runs(monkeypatch):
    """A command that is refused has not begun to work."""

    def work(*_: object, **__: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(belief_run, "over_seeds", work)


# --- help


def test_help_is_quick_and_imports_nothing_heavy():
    code = f"""
import sys
from nextlens.analyses.cli import main
try:
    main(["--help"])
except SystemExit as done:
    assert not done.code
assert not set(sys.modules) & set({HEAVY!r}), set(sys.modules) & set({HEAVY!r})
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "belief" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["belief", "--help"]])
def test_help_and_version_end_well(arguments):
    done = subprocess.run([*NEXTLENS, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout
    assert not done.stderr


def test_help_names_every_option_of_the_recipe(capsys):
    _, told, _ = said("belief", "--help", capsys=capsys)
    for option in ("process", "set", "steps", "seeds", "site", "protocol", "out", "resume", "device", "jobs", "json"):
        assert f"--{option}" in told


# --- wrong input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--process", "mes3"], "process='mes3' is not one of"),
        (["--process", "mes3"], "did you mean 'mess3'"),
        (["--set", "alhpa=0.5"], "'alhpa' is not one of 'alpha', 'x'; did you mean 'alpha'?"),
        (["--set", "x"], "--set 'x' must be NAME=VALUE with a number"),
        (["--set", "x=much"], "--set 'x=much' must be NAME=VALUE with a number"),
        (["--set", "x=0.9"], "x=0.9 must lie between 0 and 0.5"),
        (["--set", "x=nan"], "x=nan must lie between 0 and 0.5"),
        (["--seeds", "a"], "--seeds 'a' must be how many (4), or which (0,1,5 or 3,)"),
        (["--seeds", ""], "--seeds '' must be how many"),
        (["--seeds", "1,b"], "--seeds '1,b' must be how many"),
        (["--seeds", "0"], "seeds=() must hold at least one seed"),
        (["--seeds", ","], "seeds=() must hold at least one seed"),
        (["--seeds", "3,3"], "seeds=(3, 3) must hold at least one seed, each once"),
        (["--protocol", "paper2042"], "'held-out', 'paper2024', 'quantum2025'; did you mean 'paper2024'?"),
        (["--site", "blocks.9.resid_post"], "site='blocks.9.resid_post' is not one of"),
        (["--site", "embed", "--site", "hook_embed"], "must name at least one site, each once"),
        (["--site", "blocks.0.attn.pattern"], "holds one value for each pair of positions"),
        (["--device", "abacus"], "--device 'abacus' cannot be used here"),
        (["--device", "meta"], "--device 'meta' cannot be used here"),
        (["--device", "cuda:99"], "--device 'cuda:99' cannot be used here"),
        (["--device", "mps:7"], "--device 'mps:7' cannot be used here"),
        (["--steps", "1"], "steps=1 must be at least 2"),
        (["--batch-size", "0"], "batch_size=0 must be at least 1"),
        (["--learning-rate", "nan"], "learning_rate=nan must be above 0"),
        (["--warmup", "-2"], "warmup=-2 must be at least 0"),
    ],
)
def test_wrong_input_ends_in_one_sentence(arguments, message, capsys, tmp_path, nothing_runs):
    code, out, err = said("belief", "--out", tmp_path / "results", *arguments, capsys=capsys)
    assert code == 2
    assert not out
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert len(err) < 400
    assert message in err
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_written_ends_in_one_sentence(capsys, tmp_path, nothing_runs):
    (tmp_path / "taken").write_text("mine")
    code, out, err = said("belief", "--out", tmp_path / "taken", capsys=capsys)
    assert (code, out) == (2, "")
    assert err == f"Error: cannot write results into '{tmp_path / 'taken'}': File exists\n"


@pytest.mark.parametrize("arguments", [["--steps", "many"], ["--stpes", "3"], ["extra"]])
def test_what_the_parser_refuses_ends_without_a_traceback(arguments, capsys):
    code, out, err = said("belief", *arguments, capsys=capsys)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("Error: ")


def test_an_unknown_question_is_refused(capsys):
    code, _, err = said("beleif", capsys=capsys)
    assert code == 2
    assert "beleif" in err


# --- interruption


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, Any]:
    """The numbers of the small run, as ``--json`` prints them."""
    folder, printed = tmp_path_factory.mktemp("uninterrupted"), io.StringIO()
    with redirect_stdout(printed):
        main([*SMALL, "--out", str(folder), "--json"])
    numbers = json.loads(printed.getvalue())
    assert json.loads((folder / "numbers.json").read_text()) == numbers
    return numbers


def test_json_on_standard_output_has_the_promised_keys(uninterrupted):
    assert {"loss_over_optimum", "r2_held_out", "r2_held_out_untrained", "mse_paper2024"} <= set(uninterrupted)


@needs_signals
def test_an_interrupted_run_says_how_to_go_on_and_goes_on_as_if_it_had_not_been(uninterrupted, tmp_path, capsys):
    folder = tmp_path / "my results"
    command = [sys.executable, "-c", ALWAYS_SAVING, *SMALL, "--out", str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        wait_for(lambda: (folder / "seed-0" / "checkpoint.safetensors").exists(), running)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=120)
    assert running.returncode == 1
    assert not out
    assert err.startswith("Error: interrupted; go on with: nextlens belief ")
    assert err.count("\n") == 1
    assert 0 < steps_done(checkpoint_of(folder, 0)) < STEPS
    assert not (folder / "numbers.json").exists()
    _, *arguments = shlex.split(err.partition("go on with: ")[2])
    assert arguments[-3:] == ["--out", str(folder), "--resume"]
    code, printed, complained = said(*arguments, "--json", capsys=capsys)
    assert (code, complained) == (0, "")
    assert timeless(json.loads(printed)) == timeless(uninterrupted)
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in left if name.startswith(".") or name.endswith(".partial")]


@needs_signals
def test_an_interruption_of_two_at_once_leaves_no_process_behind(tmp_path):
    arguments = ["--process", "even", "--steps", "30000", "--batch-size", "8", "--seeds", "2", "--jobs", "2"]
    command = [*NEXTLENS, "belief", *arguments, "--out", tmp_path]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        wait_for(lambda: len(list(tmp_path.glob("seed-*/step-31.safetensors"))) == 2, running)
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=120)
    assert running.returncode == 1
    assert not out
    assert f"--out {tmp_path} --resume\n" in err
    assert "Traceback" not in err
    until = time.monotonic() + 60
    while not group_is_gone(running.pid):
        assert time.monotonic() < until, "a process was left behind"
        time.sleep(0.1)
