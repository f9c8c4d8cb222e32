"""``nextlens fractal``: does surprisal scale? From the command line. Nothing heavy is imported before it runs."""

from __future__ import annotations

from typing import Any

import click

from nextlens.analyses.answering import answer, numbers_of, running, seeds_of


@click.command()
@click.argument("texts", nargs=-1)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="trained, gim, infini-gram, kneser-ney, or a checkpoint such as smollm2-135m; may be repeated.  "
    "[default: trained, gim]",
)
@click.option("--process", help="What is read where no texts are given.  [default: mess3]")
@click.option("--documents", type=int, help="Of each domain.  [default: 64]")
@click.option("--length", type=int, help="Positions of each that are judged.  [default: 1024]")
@click.option("--skip", type=int, help="Positions left out at the start of each.  [default: 100]")
@click.option("--context", type=int, help="Tokens seen before each; 0 for the whole document.  [default: 0]")
@click.option("--stride", type=int, help="How far windows move, where there is a context.  [default: 1]")
@click.option("--contexts", metavar="N,...", help="Ablation: also with so many tokens before each.")
@click.option("--ablated", help="The model it is done with.  [default: the first]")
@click.option("--vocabulary", help="Of models made here: bpe:N or bytes.  [default: bpe:2048]")
@click.option("--n-layers", type=int, help="Of the transformer trained here.  [default: 2]")
@click.option("--n-heads", type=int, help="Of it.  [default: 4]")
@click.option("--d-model", type=int, help="Of it.  [default: 128]")
@click.option("--steps", type=int, help="Of its training.  [default: 400]")
@click.option("--batch-size", type=int, help="Sequences in a batch.  [default: 2]")
@click.option("--learning-rate", type=float, help="The largest.  [default: 0.003]")
@click.option("--order", type=int, help="Of Kneser-Ney.  [default: 5]")
@click.option("--threshold", type=int, help="Of the GIM.  [default: 8]")
@click.option("--shuffles", type=int, help="Of each verdict.  [default: 399]")
@click.option("--smoothing", type=float, help="Of S, for surprisal of few values.  [default: 0]")
@click.option("--seeds", metavar="N | A,B,...", help="How many seeds, or which (3, is seed 3).  [default: 0,]")
@running
def fractal(
    texts: tuple[str, ...],
    models: tuple[str, ...],
    seeds: str | None,
    contexts: str | None,
    out: Any,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Does the surprisal of TEXTS scale, and whose memory is it?

    TEXTS are domains, each a path or NAME=PATH: a folder, a file, or a pattern of names in a folder. Without any, a
    process is read, and series whose memory is known. Each exponent stands beside its nulls, and none is
    concluded from: the verdict is.
    """
    from nextlens.analyses.language_recipe import named
    from nextlens.analyses.self_similarity_numbers import summary
    from nextlens.analyses.self_similarity_recipe import SelfSimilarityRecipe
    from nextlens.analyses.self_similarity_run import run

    chosen = {name: value for name, value in given.items() if value is not None}
    if models:
        chosen["models"] = models
    if seeds is not None:
        chosen["seeds"] = seeds_of(seeds)
    if contexts is not None:
        chosen["contexts"] = numbers_of("--contexts", contexts)
    recipe = SelfSimilarityRecipe(texts, **chosen)
    names = [named(one.rpartition("=")[2].replace("*", "all")) for one in texts] or [recipe.process]
    answer(recipe, run, summary, "fractal", names, out=out, resume=resume, device=device, jobs=jobs, as_json=as_json)


@click.command()
@click.argument("table", required=False, type=click.Path())
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of arrangements that are drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def downstream(table: str | None, seed: int, as_json: bool) -> None:
    """Do exponents say how well models score? TABLE is CSV: model, family, bpb, hurst, and scores.

    Bits per byte, its reciprocal and its logarithm, H, and their sum, as they fit and held out. Without a table, what
    was published.
    """
    import json

    import numpy as np

    from nextlens.analyses.fractal_downstream import predictors, published, read_table, said

    found = published() if table is None else predictors(read_table(table), np.random.default_rng(seed))
    click.echo(json.dumps(found, ensure_ascii=False) if as_json else said(found))
