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
@click.option("--pairs", type=int, help="Pairs of contexts for each transformer.  [default: 500]")
@click.option("--ahead", type=int, help="Tokens after the context that are compared.  [default: 2]")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Edit what nextlens belief trained there.")
@running
def edit(pairs: int | None, ahead: int | None, source: Path | None, **given: Any) -> None:
    """Does the model use the belief? Puts another in its place.

    What the model then predicts is compared with the exact law that must follow from the other belief.
    """
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
    """Is the belief spread over layers, or is that overfitting?

    All sites against one, in sample and on prefixes, endings and belief states never seen.
    """
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


@belief.command()
@click.option("--setting", "settings", multiple=True, metavar="X,ALPHA,HEADS", help="Mess3 and heads; may be repeated.")
@click.option("--steps", type=int, help="Training steps of each transformer.  [default: 2000]")
@click.option("--batch-size", type=int, help="Words in a batch.  [default: 128]")
@click.option("--learning-rate", type=float, help="The largest; cosine to 0.  [default: 0.005]")
@click.option("--n-ctx", type=int, help="Tokens of a word.  [default: 10]")
@click.option("--longest", type=int, help="Tokens of the longest prefix that is probed.  [default: 9]")
@SEEDS
@running
def constrained(settings: Sequence[str], seeds: str | None, **given: Any) -> None:
    """Does one attention layer add up a belief (r_1)?

    r_1 against the exact belief by site, and attention against zeta^n (arXiv:2502.01954).
    """
    from nextlens.analyses.constrained_numbers import summary
    from nextlens.analyses.constrained_recipe import ConstrainedRecipe, Setting
    from nextlens.analyses.constrained_run import run

    running_settings, chosen = _split(given)
    if settings:
        chosen["settings"] = tuple(Setting.of(text) for text in settings)
    recipe = ConstrainedRecipe(**({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    answer(recipe, run, summary, "belief-constrained", **running_settings)


@belief.command()
@click.option("--process", "processes", multiple=True, help="mess3, bloch_walk, frdn or moon; may be repeated.")
@click.option(
    "--architecture", "architectures", multiple=True, help="transformer, RNN, LSTM or GRU.  [default: transformer, GRU]"
)
@click.option("--steps", type=int, help="Training steps of each model.  [default: 1200 for bloch_walk, else 500]")
@click.option("--batch-size", type=int, help="Words in a batch.  [default: 128]")
@click.option("--learning-rate", type=float, help="The largest; cosine to 0.  [default: by architecture]")
@click.option("--words", help="Sampled words where prefixes are many, or all.  [default: 4000]")
@click.option("--order", type=int, help="Tokens that the classical rival remembers.  [default: 3]")
@SEEDS
@running
def generators(
    processes: Sequence[str], architectures: Sequence[str], words: str | None, seeds: str | None, **given: Any
) -> None:
    """Quantum and beyond: the generator, or a classical memory?

    Do activations look like the minimal generator, or like the beliefs of a Markov chain (arXiv:2507.07432)?
    """
    from nextlens.analyses.generators_numbers import summary
    from nextlens.analyses.generators_recipe import GeneratorsRecipe
    from nextlens.analyses.generators_run import run

    settings, chosen = _split(given)
    chosen |= {name: value for name, value in (("processes", processes), ("architectures", architectures)) if value}
    if words is not None:
        chosen["words"] = None if words == "all" else numbers_of("--words", words)[0]
    recipe = GeneratorsRecipe(**({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    answer(recipe, run, summary, "belief-generators", **settings)


@belief.command()
@click.option("--factors", help="small (36 tokens) or paper (432 tokens).  [default: small]")
@click.option("--steps", type=int, help="Training steps of each transformer without noise.")
@click.option("--batch-size", type=int, help="Words in a batch.  [default: 256]")
@click.option("--learning-rate", type=float, help="The largest; cosine to 0.")
@click.option("--epsilons", metavar="A,B,... | none", help="Noise under which two Mess3 are learnt.")
@click.option("--noise-steps", type=int, help="Training steps of each of those.  [default: 800]")
@click.option("--words", type=int, help="Sampled words that are measured.  [default: 2000]")
@SEEDS
@running
def factored(epsilons: str | None, seeds: str | None, **given: Any) -> None:
    """Are independent factors kept apart?

    In as many dimensions as they need, with and without noise (arXiv:2602.02385)?
    """
    from nextlens.analyses.factored_numbers import summary
    from nextlens.analyses.factored_recipe import FactoredRecipe
    from nextlens.analyses.factored_run import run

    settings, chosen = _split(given)
    if epsilons is not None:
        chosen["epsilons"] = () if epsilons == "none" else numbers_of("--epsilons", epsilons, float)
    recipe = FactoredRecipe(**({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    answer(recipe, run, summary, "belief-factored", [recipe.factors], **settings)


@belief.command()
@click.option("--source", "names", multiple=True, help="coin, golden_mean, coins, three_mess3, ...; may be repeated.")
@click.option("--steps", type=int, help="Training steps of each model.  [default: 1000]")
@click.option("--batch-size", type=int, help="Words in a batch.  [default: 64]")
@click.option("--learning-rate", type=float, help="The largest; cosine to 0.  [default: 0.003]")
@click.option("--words", type=int, help="Sampled words where not all are listed.  [default: 1500]")
@SEEDS
@running
def mixture(names: Sequence[str], seeds: str | None, **given: Any) -> None:
    """Which component of a mixture is speaking?

    In-context synchronisation: loss against exact floors, and the posterior of components (arXiv:2505.18373).
    """
    from nextlens.analyses.synchronisation_numbers import summary
    from nextlens.analyses.synchronisation_run import run
    from nextlens.analyses.synchronisation_training import SynchronisationRecipe

    settings, chosen = _split(given)
    chosen |= {"names": tuple(names)} if names else {}
    recipe = SynchronisationRecipe(**({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    answer(recipe, run, summary, "belief-mixture", **settings)


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
