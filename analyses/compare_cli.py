"""``nextlens compare``: kernels side by side, from the command line. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Any

import click

from nextlens.analyses.answering import answer, numbers_of, running, seeds_of


@click.command()
@click.argument("kernels", nargs=-1)
@click.option("--texts", help="A domain, a path or NAME=PATH, in place of a process.")
@click.option("--process", help="What is read where no texts are given.  [default: mess3]")
@click.option("--sequences", type=int, help="How many are read.  [default: 200]")
@click.option("--length", type=int, help="Positions of each that are measured.  [default: 32]")
@click.option("--skip", type=int, help="Positions left out at the start of each.  [default: 8]")
@click.option("--reference", type=int, help="Words of the process that counting kernels see.  [default: 400]")
@click.option("--passages", type=int, help="Of texts, on which influence and edits are sampled.  [default: 40]")
@click.option("--words", type=int, help="Tokens of the words that are all listed.  [default: 7]")
@click.option("--contexts", metavar="N,...", help="Tokens left of a context that is cut.  [default: 1,4,16]")
@click.option("--lags", metavar="N,...", help="How far back a token is replaced.  [default: 1,8,32]")
@click.option("--map", "maps", multiple=True, metavar="NAME=VALUE", help="What deployment does; may be repeated.")
@click.option("--n-layers", type=int, help="Of the transformer trained here.  [default: 2]")
@click.option("--n-heads", type=int, help="Of it.  [default: 1]")
@click.option("--d-model", type=int, help="Of it.  [default: 64]")
@click.option("--steps", type=int, help="Of its training.  [default: 1500]")
@click.option("--batch-size", type=int, help="Sequences in a batch.  [default: 64]")
@click.option("--learning-rate", type=float, help="The largest.  [default: 0.003]")
@click.option("--vocabulary", help="Of texts: bpe:N or bytes.  [default: bpe:1024]")
@click.option("--order", type=int, help="Of Kneser-Ney.  [default: 5]")
@click.option("--threshold", type=int, help="Of the GIM.  [default: 8]")
@click.option("--timed", type=int, help="Repeats of every timing.  [default: 5]")
@click.option("--seeds", metavar="N | A,B,...", help="How many seeds, or which (3, is seed 3).  [default: 0,]")
@running
def compare(
    kernels: tuple[str, ...],
    maps: tuple[str, ...],
    contexts: str | None,
    lags: str | None,
    seeds: str | None,
    out: Any,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """One table for any KERNELS: accuracy, calibration, memory, influence, cost, and what deployment does.

    Of a process: exact, bigram, markov:K, trained, gim, infini-gram, kneser-ney. Of texts: trained, gim, infini-gram,
    kneser-ney. Or a checkpoint, such as smollm2-135m. Each may be deployed: exact@temperature=2, trained@top-p=.9.
    """
    from nextlens.analyses.compare_numbers import summary
    from nextlens.analyses.compare_recipe import CompareRecipe
    from nextlens.analyses.compare_run import run
    from nextlens.analyses.language_recipe import named

    chosen = {name: value for name, value in given.items() if value is not None}
    if kernels:
        chosen["kernels"] = kernels
    elif "texts" in chosen:
        chosen["kernels"] = ("trained", "gim", "infini-gram", "kneser-ney")
    if maps:
        chosen["maps"] = maps
    for name, text in (("contexts", contexts), ("lags", lags)):
        if text is not None:
            chosen[name] = numbers_of(f"--{name}", text)
    if seeds is not None:
        chosen["seeds"] = seeds_of(seeds)
    recipe = CompareRecipe(**chosen)
    names = [named(recipe.texts.rpartition("=")[2].replace("*", "all")) if recipe.texts else recipe.process]
    answer(recipe, run, summary, "compare", names, out=out, resume=resume, device=device, jobs=jobs, as_json=as_json)


@click.command()
@click.option("--merges", default="0,2,4,8,16", show_default=True, help="How many pairs are joined.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def tokenizations(merges: str, seed: int, as_json: bool) -> None:
    """What do tokens do to the law of characters? A known chain, byte pairs, canonical prompts and exact coverings."""
    import json

    import numpy as np

    from nextlens.analyses.formulation_tokens import table_said, tokenization_table

    found = tokenization_table(np.random.default_rng(seed), merges=numbers_of("--merges", merges))
    click.echo(json.dumps(found) if as_json else table_said(found))
