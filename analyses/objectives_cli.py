"""``nextlens objectives``: what other objectives make of a model. Nothing heavy is imported before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from nextlens.analyses.answering import PARAMETERS, answer, options, parameters_of, running, seeds_of

SEEDS = click.option(
    "--seeds", metavar="N | A,B,...", help="How many models, or which seeds (3, is seed 3).  [default: 3]"
)

#: Options of every training.
training = options(
    click.option("--cpu-seconds", type=float, help="Of training, for each model."),
    click.option("--steps", type=int, help="Stop after so many at the latest; then numbers repeat on one machine."),
    click.option("--batch-size", type=int, help="Sequences in a batch."),
    click.option("--learning-rate", type=float, help="Of AdamW, after a warm-up."),
    click.option("--n-layers", type=int, help="Blocks of the transformer."),
    click.option("--d-model", type=int, help="Width of the residual stream."),
    click.option("--n-heads", type=int, help="Heads in each block."),
)
NAMES = click.option(
    "--objectives",
    "names",
    metavar="A,B,...",
    help="next-token, multi-token, joint multi-token, next-latent, registers",
)
EVERY = click.option("--every", type=int, help="Steps between two looks.  [default: 50]")


@click.group()
def objectives() -> None:
    """What do other objectives than the next token make of a model?

    Next-latent prediction (NextLat), register tokens (MuToR) and multi-token heads, each beside next-token prediction.
    """


@objectives.command()
@click.option("--process", help="Hidden Markov process to train on.  [default: mess3, alpha=0.6, x=0.15]")
@PARAMETERS
@NAMES
@click.option("--length", type=int, help="Tokens read in training.  [default: 32]")
@click.option("--beyond", type=int, help="How many times as many the dynamics is rolled out over.  [default: 3]")
@click.option("--ahead", type=int, help="Tokens that registers and heads look ahead at most.  [default: 4]")
@click.option("--roll-out", type=int, help="Steps over which NextLat's dynamics is trained.  [default: 1]")
@click.option("--share", type=float, help="Of registers in the loss.  [default: 0.3]")
@click.option("--positions", help="rotary, learned, relative or none.  [default: rotary]")
@EVERY
@training
@SEEDS
@running
def hmm(
    process: str | None,
    parameters: Sequence[str],
    names: str | None,
    seeds: str | None,
    out: Any,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Is the final state a belief, and what do registers know of the future?

    Trains transformers on a hidden Markov process with each objective, for the same CPU seconds; measures effective
    rank, belief, equivalent histories, what can be read of tokens to come, NextLat's dynamics as a Bayesian updater
    and the predictions of registers.
    """
    from nextlens.analyses.objectives_recipe import ObjectivesRecipe
    from nextlens.analyses.objectives_run import run, summary

    chosen = {name: value for name, value in given.items() if value is not None}
    if process is not None or parameters:
        chosen |= {"process": process or "mess3", "parameters": parameters_of(parameters)}
    if names is not None:
        chosen["objectives"] = tuple(name.strip() for name in names.split(","))
    recipe = ObjectivesRecipe(**({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    answer(recipe, run, summary, "objectives-hmm", out=out, resume=resume, device=device, jobs=jobs, as_json=as_json)


@objectives.command("star-graph")
@click.option("--objective", default="next-latent", show_default=True, help="What each model is trained on.")
@click.option("--layout", help="edges, as published, or coupled: the ends of an edge share a position.")
@click.option("--n-arms", type=int, help="Arms of the star.  [default: 2]")
@click.option("--arm-length", type=int, help="Nodes of an arm, the centre included.  [default: 4]")
@click.option("--n-nodes", type=int, help="From which they are drawn.  [default: 10]")
@click.option("--ahead", type=int, help="Steps rolled out, or the largest offset of a register.")
@click.option("--fewest", type=int, help="The smallest offset of a register.  [default: 2]")
@click.option("--share", type=float, help="Of registers in the loss.  [default: 0.5]")
@click.option("--weight-decay", type=float, help="Of AdamW.  [default: 0.1]")
@click.option("--solved-at", type=float, help="Share of graphs solved at which a seed stops.  [default: 0.99]")
@EVERY
@training
@SEEDS
@running
def star_graph(
    objective: str,
    seeds: str | None,
    out: Any,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Does it plan its way through a star, and where in the model does the plan form?

    Trains transformers until they solve star graphs or their time runs out; shows what they say after true prefixes
    beside what they say by themselves, and reads the plan off the residual stream, block by block.
    """
    from nextlens.analyses.star_graph_run import run, summary
    from nextlens.analyses.star_graph_training import StarGraphRecipe

    chosen = {name: value for name, value in given.items() if value is not None}
    recipe = StarGraphRecipe.of(objective, **({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    names = ["star-graph", objective.replace(" ", "-")]
    running_how = {"out": out, "resume": resume, "device": device, "jobs": jobs, "as_json": as_json}
    answer(recipe, run, summary, "objectives", names, **running_how)


@objectives.command("street-grid")
@NAMES
@click.option("--height", type=int, help="Of the town, in crossings.  [default: 5]")
@click.option("--width", type=int, help="Of the town, in crossings.  [default: 5]")
@click.option("--one-way", type=float, help="Share of streets that are one-way.  [default: 0.3]")
@click.option("--wander", type=float, help="Share of moves made at random.  [default: 0.5]")
@click.option("--longest", type=int, help="Moves of a ride at most.  [default: 20]")
@click.option("--ahead", type=int, help="Steps rolled out, and tokens looked ahead at most.  [default: 4]")
@click.option("--share", type=float, help="Of registers in the loss.  [default: 0.3]")
@click.option("--weight-decay", type=float, help="Of AdamW.  [default: 0.01]")
@training
@SEEDS
@running
def street_grid(
    names: str | None,
    seeds: str | None,
    out: Any,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Does a model that drives through a town know the town?

    Trains transformers with each objective on rides through a grid of partly one-way streets; five measures of each in
    one table: next-token test, valid trajectories, sequence compression, effective latent rank, detour robustness.
    """
    from nextlens.analyses.objectives_grid_run import GridRecipe
    from nextlens.analyses.objectives_table import run, summary

    recipe = GridRecipe(**_chosen(names, seeds, given))
    running_how = {"out": out, "resume": resume, "device": device, "jobs": jobs, "as_json": as_json}
    answer(recipe, run, summary, "objectives-street-grid", **running_how)


@objectives.command()
@NAMES
@click.option("--n-numbers", type=int, help="That are given.  [default: 3]")
@click.option("--most", type=int, help="The largest number given.  [default: 12]")
@click.option("--lowest", type=int, help="Target.  [default: 1]")
@click.option("--highest", type=int, help="Target.  [default: 40]")
@click.option("--largest", type=int, help="Result on the way.  [default: 60]")
@click.option("--pauses", type=int, help="Tokens between question and answer.  [default: 4]")
@click.option("--ahead", type=int, help="Steps rolled out, and tokens looked ahead at most.  [default: 4]")
@click.option("--share", type=float, help="Of registers in the loss.  [default: 0.3]")
@click.option("--weight-decay", type=float, help="Of AdamW.  [default: 0.01]")
@training
@SEEDS
@running
def countdown(
    names: str | None,
    seeds: str | None,
    out: Any,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Does a model that writes sums down reach the number it is asked for?

    Trains transformers with each objective on Countdown: a target is to be made of some numbers by sums, differences,
    products and quotients; shares that reach it from numbers and for targets that training knew or never had, beside
    any sums that keep the rules.
    """
    from nextlens.analyses.objectives_countdown import CountdownRecipe
    from nextlens.analyses.objectives_table import run, summary

    recipe = CountdownRecipe(**_chosen(names, seeds, given))
    running_how = {"out": out, "resume": resume, "device": device, "jobs": jobs, "as_json": as_json}
    answer(recipe, run, summary, "objectives-countdown", **running_how)


def _chosen(names: str | None, seeds: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was said on the command line, as a recipe's fields."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if names is not None:
        chosen["objectives"] = tuple(name.strip() for name in names.split(","))
    return chosen if seeds is None else {"seeds": seeds_of(seeds), **chosen}
