"""``nextlens parity`` and its kin: reinforcement after next tokens. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Any

import click

from nextlens.analyses.answering import answer, numbers_of, running, seeds_of


@click.command()
@click.option("--n-bits", type=int, help="Bits of which the parity is asked.  [default: 16]")
@click.option("--p-chain", type=float, help="Share of long answers before reinforcement.  [default: 0.25]")
@click.option("--sweep", help="Other shares, trained on next tokens alone.  [default: 0.3,0.4]")
@click.option("--n-layers", type=int, help="Blocks of each transformer.  [default: 2]")
@click.option("--d-model", type=int, help="Width of the residual stream.  [default: 64]")
@click.option("--n-heads", type=int, help="Heads in each layer.  [default: 4]")
@click.option("--d-mlp", type=int, help="Hidden units of each MLP.  [default: 128]")
@click.option("--steps", type=int, help="Steps of next-token training.  [default: 400]")
@click.option("--batch-size", type=int, help="Sequences in a batch.  [default: 128]")
@click.option("--learning-rate", type=float, help="The largest of next-token training.  [default: 0.002]")
@click.option("--early", type=int, help="Step from which reinforcement starts too early.  [default: 60]")
@click.option("--steps-policy", type=int, help="Steps of GRPO.  [default: 40]")
@click.option("--n-prompts", type=int, help="Prompts in a batch of GRPO.  [default: 32]")
@click.option("--group", type=int, help="Answers to each prompt.  [default: 8]")
@click.option("--rate-policy", type=float, help="Learning rate of GRPO and STaR.  [default: 0.0003]")
@click.option("--reward", help="What GRPO rewards: end or chain.  [default: end]")
@click.option("--rounds", type=int, help="Rounds of STaR.  [default: 5]")
@click.option("--n-samples", type=int, help="Answers sampled in a round.  [default: 1024]")
@click.option("--epochs", type=int, help="How often those kept are read.  [default: 4]")
@click.option("--hot", type=float, help="The temperature at which STaR fails.  [default: 3]")
@click.option("--seeds", metavar="N | A,B,...", help="How many models, or which seeds (3, is seed 3).  [default: 3]")
@running
def parity(
    seeds: str | None,
    sweep: str | None,
    out: Any,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Does reinforcement create a computation, or does it only decide to use one?

    Trains transformers on the parity of bits, of which a few answers go step by step; then reinforces them, by
    GRPO and STaR; and compares with the exact theory what they answer, what they hold and what has changed.
    """
    from nextlens.analyses.parity_numbers import summary
    from nextlens.analyses.parity_recipe import ParityRecipe
    from nextlens.analyses.parity_run import run

    chosen = {name: value for name, value in given.items() if value is not None}
    if sweep is not None:
        chosen["sweep"] = numbers_of("--sweep", sweep, float)
    recipe = ParityRecipe(**({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    names = [f"{recipe.n_bits}-bits"]
    answer(recipe, run, summary, "parity", names, out=out, resume=resume, device=device, jobs=jobs, as_json=as_json)


@click.command("parity-phases")
@click.option("--model", help="linear: the theory's chain of linear models; or transformer.  [default: linear]")
@click.option("--bits", help="Bits of which the parity is asked.  [default: 4,8,16,24]")
@click.option("--shares", help="Shares of long answers.  [default: 0,0.05,0.1,0.2,0.3,0.4,0.5]")
@click.option("--steps", type=int, help="Steps of next-token training.  [default: 600]")
@click.option("--batch-size", type=int, help="Sequences in a batch.  [default: 128]")
@click.option("--steps-policy", type=int, help="Steps of GRPO.  [default: 80]")
@click.option("--n-prompts", type=int, help="Prompts in a batch of GRPO.  [default: 32]")
@click.option("--group", type=int, help="Answers to each prompt.  [default: 8]")
@click.option("--seeds", metavar="N | A,B,...", help="How many models, or which seeds (3, is seed 3).  [default: 3]")
@running
def parity_phases(
    seeds: str | None,
    bits: str | None,
    shares: str | None,
    out: Any,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Where do next tokens teach a chain that is said, and where must reinforcement decide to say it?

    A map over the number of bits and the share of answers that go step by step, no share at all among them.
    """
    from nextlens.analyses.parity_phases import PhasesRecipe, run, summary

    chosen = {name: value for name, value in given.items() if value is not None}
    if bits is not None:
        chosen["bits"] = numbers_of("--bits", bits)
    if shares is not None:
        chosen["shares"] = numbers_of("--shares", shares, float)
    recipe = PhasesRecipe(**({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    names = [recipe.model]
    answer(
        recipe, run, summary, "parity-phases", names, out=out, resume=resume, device=device, jobs=jobs, as_json=as_json
    )


@click.command()
@click.option("--digits", type=int, help="Of the first number; the second has two.  [default: 2]")
@click.option("--p-chain", type=float, help="Share of answers over the partial products.  [default: 0.25]")
@click.option("--n-layers", type=int, help="Blocks of each transformer.  [default: 2]")
@click.option("--d-model", type=int, help="Width of the residual stream.  [default: 64]")
@click.option("--n-heads", type=int, help="Heads in each layer.  [default: 4]")
@click.option("--d-mlp", type=int, help="Hidden units of each MLP.  [default: 128]")
@click.option("--steps", type=int, help="Steps of next-token training.  [default: 1500]")
@click.option("--batch-size", type=int, help="Sequences in a batch.  [default: 128]")
@click.option("--learning-rate", type=float, help="The largest of next-token training.  [default: 0.003]")
@click.option("--steps-policy", type=int, help="Steps of GRPO.  [default: 40]")
@click.option("--n-prompts", type=int, help="Prompts in a batch of GRPO.  [default: 32]")
@click.option("--group", type=int, help="Answers to each prompt.  [default: 8]")
@click.option("--rate-policy", type=float, help="Learning rate of GRPO and STaR.  [default: 0.0003]")
@click.option("--reward", help="What GRPO rewards: end or chain.  [default: end]")
@click.option("--rounds", type=int, help="Rounds of STaR.  [default: 3]")
@click.option("--n-samples", type=int, help="Answers sampled in a round.  [default: 1024]")
@click.option("--epochs", type=int, help="How often those kept are read.  [default: 4]")
@click.option("--seeds", metavar="N | A,B,...", help="How many models, or which seeds (3, is seed 3).  [default: 3]")
@running
def multiplication(
    seeds: str | None, out: Any, resume: bool, device: str, jobs: int | None, as_json: bool, **given: Any
) -> None:
    """Does reinforcement decide to go step by step in multiplication too?

    Trains transformers on products, of which a few answers go over the partial products; then reinforces them, by
    GRPO and STaR, and compares what they answer.
    """
    from nextlens.analyses.multiplication_reinforcement import MultiplicationRecipe, run, summary

    chosen = {name: value for name, value in given.items() if value is not None}
    recipe = MultiplicationRecipe(**({} if seeds is None else {"seeds": seeds_of(seeds)}), **chosen)
    answer(recipe, run, summary, "multiplication", out=out, resume=resume, device=device, jobs=jobs, as_json=as_json)
