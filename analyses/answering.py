"""What every verb does alike: options read, a question run, its answer printed, an interruption survived."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import click

Command = Callable[..., Any]

PARAMETERS = click.option(
    "--set", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of the process; may be repeated."
)
SEEDS = click.option(
    "--seeds", metavar="N | A,B,...", help="How many models, or which seeds (3, is seed 3).  [default: 4]"
)


@runtime_checkable
class Recipe(Protocol):
    """All that decides the numbers of a run, and the command line that repeats it."""

    @property
    def command(self) -> str: ...


def options(*several: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which help prints them."""
    return lambda command: reduce(lambda decorated, option: option(decorated), reversed(several), command)


#: Options that decide where and how a run goes on, and none of its numbers.
running = options(
    click.option(
        "--out", type=click.Path(path_type=Path), help="Results folder.  [default: under results/, by question]"
    ),
    click.option("--resume", is_flag=True, help="Go on with the unfinished run in the results folder."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ..."),
    click.option("--jobs", type=int, help="Models trained at once.  [default: one a processor]"),
    click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON instead of the summary."),
)


def answer(
    recipe: Recipe,
    run: Callable[..., Mapping[str, Any]],
    summary: Callable[[Any, Mapping[str, Any], Path], str],
    question: str,
    names: Sequence[str] = (),
    *,
    out: Path | None,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Run a question, in ``results/{question}-{names}`` unless told where, and print what came out.

    Raises
    ------
    ValueError, OSError
        As ``run``; or if the device cannot be used.
    click.ClickException
        If it is interrupted, with the command that goes on.
    """
    import json

    import torch

    torch.set_num_threads(1)
    refuse_absent(device)
    folder = out or Path("results") / "-".join([question, *names])
    try:
        numbers = run(recipe, folder, resume=resume, device=device, n_jobs=jobs, progress=sys.stderr.isatty())
    except KeyboardInterrupt:
        where = "" if out is None else f" --out {shlex.quote(str(out))}"
        on = "" if device == "cpu" else f" --device {device}"
        raise click.ClickException(f"interrupted; go on with: {recipe.command}{where}{on} --resume") from None
    click.echo(json.dumps(numbers, ensure_ascii=False) if as_json else summary(recipe, numbers, folder))


def parameters_of(texts: Sequence[str]) -> dict[str, float]:
    """``NAME=VALUE`` as names and numbers.

    Raises
    ------
    ValueError
        Naming the text that is not of that form.
    """
    return dict(_parameter(text) for text in texts)


def _parameter(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        return name, float(value if equals else "none given")
    except ValueError:
        raise ValueError(f"--set {text!r} must be NAME=VALUE with a number, such as --set x=0.05") from None


def seeds_of(text: str) -> tuple[int, ...]:
    """How many seeds (``4``), or which (``0,1,5``, and ``3,`` for one)."""
    try:
        return tuple(int(part) for part in text.split(",") if part) if "," in text else tuple(range(int(text)))
    except ValueError:
        raise ValueError(f"--seeds {text!r} must be how many (4), or which (0,1,5 or 3,)") from None


def numbers_of(option: str, text: str, kind: type[int] | type[float] = int) -> tuple[Any, ...]:
    """Numbers with commas between.

    Examples
    --------
    >>> numbers_of("--contexts", "10,20"), numbers_of("--epsilons", "0,.5", float)
    ((10, 20), (0.0, 0.5))
    """
    try:
        return tuple(kind(part) for part in text.split(",") if part)
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{option} {text!r} must be {what} with commas between, such as 1,2") from None


def refuse_absent(device: str) -> None:
    """Raise if nothing can be computed on ``device``.

    Raises
    ------
    ValueError
        Naming it and the reason.
    """
    import torch

    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(f"--device {device!r} cannot be used here: {reason}") from None
