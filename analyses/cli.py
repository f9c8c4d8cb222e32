"""``nextlens``: every question, one verb each. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from nextlens.analyses.addition_cli import addition, coupled_tasks
from nextlens.analyses.belief_cli import belief
from nextlens.analyses.checkpoint_cli import checkpoint
from nextlens.analyses.compare_cli import compare, tokenizations
from nextlens.analyses.encoding_cli import encode, recall
from nextlens.analyses.fractal_cli import downstream, fractal
from nextlens.analyses.gim_cli import gim
from nextlens.analyses.induction_cli import induction
from nextlens.analyses.objectives_cli import objectives
from nextlens.analyses.parity_cli import multiplication, parity, parity_phases


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="nextlens")
def nextlens() -> None:
    """What does next-token prediction build inside a model?"""


for question in (
    addition,
    belief,
    checkpoint,
    compare,
    coupled_tasks,
    downstream,
    encode,
    fractal,
    gim,
    induction,
    multiplication,
    objectives,
    parity,
    parity_phases,
    recall,
    tokenizations,
):
    nextlens.add_command(question)


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
