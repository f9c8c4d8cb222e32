"""``nextlens``: every question, one verb each. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="nextlens")
def nextlens() -> None:
    """What does next-token prediction build inside a model?"""


@nextlens.command()
@click.option("--process", default="mess3", show_default=True, help="Which hidden Markov process.")
@click.option("--set", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter of it; may be repeated.")
@click.option("--steps", type=int, help="Training steps of each transformer.  [default: 4000]")
@click.option("--batch-size", type=int, help="Words in a batch.  [default: 256]")
@click.option("--learning-rate", type=float, help="The largest; cosine to 0.  [default: 0.005; rrxor 0.001]")
@click.option("--warmup", type=int, help="Steps over which it rises.  [default: 100, or steps / 10]")
@click.option(
    "--seeds", metavar="N | A,B,...", help="How many transformers, or which seeds (3, is seed 3).  [default: 4]"
)
@click.option("--site", "sites", multiple=True, help="A site to probe; may be repeated.  [default: embedding, blocks]")
@click.option("--protocol", help="held-out, or paper2024: in sample, as published.  [default: held-out]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Results folder.  [default: results/belief-PROCESS-PARAMETERS]"
)
@click.option("--resume", is_flag=True, help="Go on with the unfinished run in the results folder.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--jobs", type=int, help="Transformers trained at once.  [default: one a processor]")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON instead of the summary.")
def belief(
    process: str,
    parameters: Sequence[str],
    seeds: str | None,
    sites: Sequence[str],
    out: Path | None,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Is the belief of an ideal observer linear in the residual stream?

    Trains transformers on a hidden Markov process, follows them, and probes them beside their nulls.
    Writes figures, checkpoints and numbers.json into the results folder.
    """
    import json

    import torch

    from nextlens.analyses.belief_numbers import summary
    from nextlens.analyses.belief_run import run
    from nextlens.analyses.belief_training import BeliefRecipe

    torch.set_num_threads(1)
    recipe = BeliefRecipe(
        process=process,
        parameters=dict(_parameter(text) for text in parameters),
        **{name: value for name, value in given.items() if value is not None},
        **({} if seeds is None else {"seeds": _seeds(seeds)}),
        **({"sites": tuple(sites)} if sites else {}),
    )
    _refuse_absent(device)
    folder = out or Path("results") / "-".join(["belief", process, *sorted(parameters)])
    try:
        numbers = run(recipe, folder, resume=resume, device=device, n_jobs=jobs, progress=sys.stderr.isatty())
    except KeyboardInterrupt:
        raise click.ClickException(f"interrupted; go on with: {_go_on(recipe.command, out, device)}") from None
    click.echo(json.dumps(numbers, ensure_ascii=False) if as_json else summary(recipe, numbers, folder))


def _parameter(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        return name, float(value if equals else "none given")
    except ValueError:
        raise ValueError(f"--set {text!r} must be NAME=VALUE with a number, such as --set x=0.05") from None


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part) if "," in text else tuple(range(int(text)))
    except ValueError:
        raise ValueError(f"--seeds {text!r} must be how many (4), or which (0,1,5 or 3,)") from None


def _go_on(command: str, out: Path | None, device: str) -> str:
    where = "" if out is None else f" --out {shlex.quote(str(out))}"
    on = "" if device == "cpu" else f" --device {device}"
    return f"{command}{where}{on} --resume"


def _refuse_absent(device: str) -> None:
    import torch

    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(f"--device {device!r} cannot be used here: {reason}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; what a user got wrong ends in one sentence, without a traceback."""
    try:
        nextlens.main(arguments, standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as refusal:
        refusal.show()
        sys.exit(refusal.exit_code)
    except (ValueError, OSError) as refusal:
        click.echo(f"Error: {refusal}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
