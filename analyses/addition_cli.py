"""``nextlens addition``: coupled positions from the command line. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Any

import click

from nextlens.analyses.answering import answer, numbers_of, running, seeds_of


@click.command()
@click.option("--digits", type=int, help="Of the longest operand in training.  [default: 10]")
@click.option("--n-positions", type=int, help="Ids of coupled positions.  [default: 48]")
@click.option("--lengths", help="Digits on which models are measured.  [default: 5,8,10,11,12,13,15,20,25,30,40]")
@click.option("--start", type=int, help="Of the ids where models are measured.  [default: 4]")
@click.option("--n-layers", type=int, help="Blocks of each transformer.  [default: 1]")
@click.option("--n-heads", type=int, help="Heads in each layer.  [default: 4]")
@click.option("--d-model", type=int, help="Width of the residual stream.  [default: 128]")
@click.option("--d-head", type=int, help="Width of a head.  [default: 32]")
@click.option("--d-mlp", type=int, help="Hidden units of each MLP.  [default: 192]")
@click.option(
    "--post-normalisation/--no-post-normalisation", default=None, help="Normalise what is added too.  [default: yes]"
)
@click.option("--steps", type=int, help="Steps with coupled positions.  [default: 600]")
@click.option("--steps-baseline", type=int, help="Steps of either baseline.  [default: 120]")
@click.option("--batch-size", type=int, help="Sums in a batch.  [default: 100]")
@click.option("--learning-rate", type=float, help="The largest; cosine to a tenth.  [default: 0.002]")
@click.option("--select", type=int, help="Digits at which the best weights are selected.  [default: the last weights]")
@click.option("--seeds", metavar="N | A,B,...", help="How many models, or which seeds (3, is seed 3).  [default: 3]")
@running
def addition(
    seeds: str | None,
    lengths: str | None,
    out: Any,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """How far does addition reach beyond the trained lengths, and what adds and carries?

    Trains transformers on sums with coupled positions, and without; measures them on longer sums; finds the heads
    that add and that carry, ablates them, and exchanges position ids.
    """
    from nextlens.analyses.addition_numbers import summary
    from nextlens.analyses.addition_recipe import AdditionRecipe
    from nextlens.analyses.addition_run import run

    chosen = {name: value for name, value in given.items() if value is not None}
    if lengths is not None:
        chosen["lengths"] = numbers_of("--lengths", lengths)
    recipe = AdditionRecipe(**({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    answer(recipe, run, summary, "addition", out=out, resume=resume, device=device, jobs=jobs, as_json=as_json)


@click.command("coupled-tasks")
@click.option("--tasks", help="three operands, copying, reversing, product, mines; with commas.  [default: all]")
@click.option("--n-layers", type=int, help="Blocks of each transformer.  [default: 2]")
@click.option("--n-heads", type=int, help="Heads in each layer.  [default: 4]")
@click.option("--d-model", type=int, help="Width of the residual stream.  [default: 64]")
@click.option("--d-head", type=int, help="Width of a head.  [default: 32]")
@click.option("--d-mlp", type=int, help="Hidden units of each MLP.  [default: 128]")
@click.option("--steps", type=int, help="Steps of each model.  [default: 400]")
@click.option("--batch-size", type=int, help="Sequences in a batch.  [default: 64]")
@click.option("--learning-rate", type=float, help="The largest; cosine to a tenth.  [default: 0.002]")
@click.option("--seeds", metavar="N | A,B,...", help="How many models, or which seeds (3, is seed 3).  [default: 1]")
@running
def coupled_tasks(
    seeds: str | None,
    tasks: str | None,
    out: Any,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Do coupled positions help beyond sums of two numbers?

    Sums of three, strings said again and backwards, products with two digits and fields of mines, each with coupled
    positions and with positions in a row, at the sizes trained on and beyond.
    """
    from nextlens.analyses.coupled_tasks import CoupledTasksRecipe, run, summary

    chosen = {name: value for name, value in given.items() if value is not None}
    if tasks is not None:
        chosen["tasks"] = tuple(name.strip() for name in tasks.split(",") if name.strip())
    recipe = CoupledTasksRecipe(**({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    answer(recipe, run, summary, "coupled-tasks", out=out, resume=resume, device=device, jobs=jobs, as_json=as_json)
