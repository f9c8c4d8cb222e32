"""``nextlens induction``: induction heads from the command line. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Any

import click

from nextlens.analyses.answering import SEEDS, answer, running, seeds_of


@click.command()
@click.option("--steps", type=int, help="Training steps of each transformer.  [default: 500]")
@click.option("--batch-size", type=int, help="Sequences in a batch.  [default: 64]")
@click.option("--learning-rate", type=float, help="The largest; cosine to 0.  [default: 0.01]")
@click.option("--n-tokens", type=int, help="Vocabulary of the task.  [default: 32]")
@click.option("--shortest", type=int, help="Tokens of the shortest block that repeats.  [default: 8]")
@click.option("--longest", type=int, help="Tokens of the longest.  [default: 32]")
@click.option("--n-ctx", type=int, help="Tokens read.  [default: 64]")
@click.option("--n-heads", type=int, help="Heads in each layer.  [default: 4]")
@click.option("--d-model", type=int, help="Width of the residual stream.  [default: 64]")
@click.option("--d-head", type=int, help="Width of a head.  [default: 16]")
@click.option("--positions", help="learned, rotary, relative or none.  [default: learned]")
@SEEDS
@running
def induction(
    seeds: str | None, out: Any, resume: bool, device: str, jobs: int | None, as_json: bool, **given: Any
) -> None:
    """When do induction heads form, and does the in-context gain need them?

    Trains attention-only transformers of two layers, and of one, on repeated random tokens; follows the phase
    change and the scores of every head, and ablates those found beside as many others.
    """
    from nextlens.analyses.induction_run import run, summary
    from nextlens.analyses.induction_training import InductionRecipe

    chosen = {name: value for name, value in given.items() if value is not None}
    recipe = InductionRecipe(**({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    answer(recipe, run, summary, "induction", out=out, resume=resume, device=device, jobs=jobs, as_json=as_json)
