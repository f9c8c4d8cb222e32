"""``nextlens belief``: belief-state geometry from the command line. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from nextlens.analyses.answering import PARAMETERS, SEEDS, answer, numbers_of, options, parameters_of, running, seeds_of

TRAINED = (
    click.option("--process", help="Which hidden Markov process.  [default: mess3]"),
    PARAMETERS,
    click.option("--steps", type=int, help="Training steps of each transformer.  [default: 4000]"),
    click.option("--batch-size", type=int, help="Words in a batch.  [default: 256]"),
    click.option("--learning-rate", type=float, help="The largest; cosine to 0.  [default: 0.005; rrxor 0.001]"),
    click.option("--warmup", type=int, help="Steps over which it rises.  [default: 100, or steps / 10]"),
    SEEDS,
    click.option(
        "--site", "sites", multiple=True, help="A site to probe; may be repeated.  [default: embedding, blocks]"
    ),
)


@click.group(invoke_without_command=True)
@options(*TRAINED)
@click.option("--protocol", help="held-out; or in sample as published: paper2024, quantum2025.  [default: held-out]")
@click.option("--folds", help="What is held out together: prefix, suffix or belief.  [default: prefix]")
@running
@click.pass_context
def belief(context: click.Context, **given: Any) -> None:
    """Is the belief of an ideal observer linear in the residual stream?

    Trains transformers on a hidden Markov process, follows them, and probes them beside their nulls.
    Writes figures, checkpoints and numbers.json into the results folder. The questions that follow
    on from there are commands of their own, below.
    """
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return
    from nextlens.analyses.belief_numbers import summary
    from nextlens.analyses.belief_run import run

    recipe, settings = _trained(given)
    answer(recipe, run, summary, "belief", [recipe.process, *sorted(given["parameters"])], **settings)


@belief.command()
@options(*TRAINED)
@click.option("--pairs", type=int, help="Pairs of contexts for each transformer.  [default: 2000]")
@click.option("--ahead", type=int, help="Tokens after the context that are compared.  [default: 2]")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Edit what nextlens belief trained there.")
@running
def edit(pairs: int | None, ahead: int | None, source: Path | None, **given: Any) -> None:
    """Does the model use the belief? Puts another one in its place, and compares with the exact counterfactual."""
    from nextlens.analyses.edit_numbers import summary
    from nextlens.analyses.edit_recipe import EditRecipe
    from nextlens.analyses.edit_run import run

    chosen = {name: value for name, value in (("pairs", pairs), ("ahead", ahead)) if value is not None}
    trained, settings = _trained(given)
    if source is None:
        recipe = EditRecipe(trained, **chosen)
    else:
        _refuse_beside_source(given)
        recipe = EditRecipe.of_folder(source, **chosen)
    answer(recipe, run, summary, "belief-edit", [recipe.trained.process, *sorted(given["parameters"])], **settings)


@belief.command()
@click.option("--process", default="rrxor", show_default=True, help="Which hidden Markov process.")
@PARAMETERS
@click.option("--contexts", metavar="A,B,...", help="Tokens that the transformers read.  [default: 10,20]")
@click.option("--steps", type=int, help="Training steps of each transformer.  [default: 3000]")
@click.option("--batch-size", type=int, help="Words in a batch.  [default: 64]")
@click.option("--learning-rate", type=float, help="The largest; cosine to 0.  [default: 0.001; 0.005 if not rrxor]")
@SEEDS
@running
def layers(process: str, parameters: Sequence[str], contexts: str | None, seeds: str | None, **given: Any) -> None:
    """Is the belief spread over layers? All sites against one, in sample and on what was never seen."""
    from nextlens.analyses.layers_run import LayersRecipe, run, summary

    settings, chosen = _split(given)
    recipe = LayersRecipe(
        process=process,
        parameters=parameters_of(parameters),
        **({} if contexts is None else {"contexts": numbers_of("--contexts", contexts)}),
        **({} if seeds is None else {"seeds": seeds_of(seeds)}),
        **chosen,
    )
    answer(recipe, run, summary, "belief-layers", [process, *sorted(parameters)], **settings)


def _trained(given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The recipe that the shared options describe, and the settings of the run."""
    from nextlens.analyses.belief_training import BeliefRecipe

    settings, chosen = _split(given)
    parameters, seeds, sites = (chosen.pop(name, None) for name in ("parameters", "seeds", "sites"))
    recipe = BeliefRecipe(
        parameters=parameters_of(parameters or ()),
        **({} if seeds is None else {"seeds": seeds_of(seeds)}),
        **({"sites": tuple(sites)} if sites else {}),
        **chosen,
    )
    return recipe, settings


def _split(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the run, and what was said of the recipe."""
    ours = ("out", "resume", "device", "jobs", "as_json")
    settings = {name: given[name] for name in ours}
    return settings, {name: value for name, value in given.items() if name not in ours and value is not None}


def _refuse_options_before(context: click.Context) -> None:
    """What stands before the name of a question would be lost."""
    for name in context.params:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(p.opts[0] for p in context.command.params if p.name == name)
            raise click.UsageError(f"{option} must stand after {context.invoked_subcommand!r}", context)


def _refuse_beside_source(given: dict[str, Any]) -> None:
    """With ``--from`` the folder's recipe decides."""
    for name in ("process", "parameters", "steps", "batch_size", "learning_rate", "warmup", "seeds", "sites"):
        if given[name]:
            raise ValueError(f"--from takes the recipe of that folder; leave out {name}={given[name]!r}")
