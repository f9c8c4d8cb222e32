"""``nextlens gim``: prediction by pointing, from the command line. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nextlens.analyses.answering import answer, running

FOLDER = click.argument("folder", type=click.Path(path_type=Path))
MEMORY = click.option("--memory", type=click.IntRange(1), metavar="MIB", help="Sort in so much memory, in shards.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


@click.group()
def gim() -> None:
    """Does pointing predict language? Matches in a corpus and in the context, and what is alike."""


@gim.command()
@click.argument("texts", type=click.Path(path_type=Path))
@FOLDER
@click.option(
    "--vocabulary", default="bpe:4096", show_default=True, help="bytes, words:N, bpe:N, a tokenizer.json, ..."
)
@MEMORY
def build(texts: Path, folder: Path, vocabulary: str, memory: int | None) -> None:
    """Index the texts of a folder (.txt, .txt.gz, .json) at FOLDER."""
    from nextlens.analyses.gim_index import TextIndex

    index = TextIndex.build(texts, folder, vocabulary, memory=memory and memory * 2**20)
    click.echo(
        f"{len(index.array):,} tokens of {len(index.names):,} documents indexed at {folder}; "
        f"{index.vocabulary.n_tokens:,} tokens in the vocabulary"
    )


@gim.command()
@click.argument("texts", type=click.Path(path_type=Path))
@FOLDER
@MEMORY
def add(texts: Path, folder: Path, memory: int | None) -> None:
    """Add the texts of a folder to the index at FOLDER; nothing is sorted again."""
    from nextlens.analyses.gim_index import TextIndex

    index = TextIndex.add(texts, folder, memory=memory and memory * 2**20)
    click.echo(f"the index at {folder} now holds {len(index.array):,} tokens of {len(index.names):,} documents")


@gim.command()
@FOLDER
def verify(folder: Path) -> None:
    """Compare every file of the index at FOLDER with its checksum."""
    from nextlens.analyses.gim_index import TextIndex

    index = TextIndex.open(folder)
    index.array.verify()
    click.echo(f"the index at {folder} is whole: {len(index.array):,} tokens of {len(index.names):,} documents")


@gim.command()
@FOLDER
@click.argument("prompt")
@click.option("--most", type=click.IntRange(1), default=10, show_default=True, help="Tokens and places listed.")
@JSON
def query(folder: Path, prompt: str, most: int, as_json: bool) -> None:
    """The longest suffix of PROMPT in the index, exactly counted: what follows it, and where it stands."""
    from nextlens.analyses import gim_index

    found = gim_index.TextIndex.open(folder).query(prompt, most)
    click.echo(gim_index.as_json(found) if as_json else gim_index.said(found))


@gim.command()
@FOLDER
@click.argument("prompt")
@click.option(
    "--threshold", type=click.IntRange(0), default=8, show_default=True, help="Shorter matches are not trusted."
)
@click.option("--checkpoint", help="A model that says what is alike; of the vocabulary of the index.")
@click.option("--site", default="laws", show_default=True, help="What of it is compared: its laws, or a site.")
@click.option("--most", type=click.IntRange(0), default=10, show_default=True, help="Places listed.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page, too.")
@JSON
def explain(
    folder: Path,
    prompt: str,
    threshold: int,
    checkpoint: str | None,
    site: str,
    most: int,
    html: Path | None,
    as_json: bool,
) -> None:
    """Who predicts the token after PROMPT, and from which places."""
    from nextlens.analyses.gim_index import TextIndex
    from nextlens.models.whole_files import write_whole

    if site != "laws" and checkpoint is None:
        raise click.UsageError(f"--site {site} is of a model; give --checkpoint")
    index, model = TextIndex.open(folder), None
    if checkpoint is not None:
        import torch

        from nextlens.models import checkpoints

        torch.set_num_threads(1)
        model = checkpoints.load(checkpoint)
    tokens = index.encoded(prompt)
    found = index.gim(threshold, model, site).explain(tokens, vocabulary=index.vocabulary, names=index.names, most=most)
    if html is not None:
        write_whole(html, found.to_html().encode())
    click.echo(found.to_json() if as_json else str(found))


@gim.command()
@click.argument("texts")
@click.option("--others", help="A folder of texts of another kind: the out-of-domain reference.")
@click.option("--tested", metavar="NAME,...", help="Documents to test on.  [default: six at random]")
@click.option("--validated", metavar="NAME,...", help="Documents to fit thresholds on.  [default: three at random]")
@click.option("--vocabulary", help="bpe:N, words:N or bytes.  [default: bpe:4096]")
@click.option("--checkpoint", help="A language model in place of a teacher trained here, such as smollm2-135m.")
@click.option("--context", type=int, help="Tokens before the first prediction of a stretch.  [default: 1024]")
@click.option("--every", type=int, help="One prediction every so many tokens.  [default: 8]")
@click.option("--each", type=int, help="Predictions in a stretch.  [default: 64]")
@click.option("--stretches", type=int, help="Of tested text.  [default: 48]")
@click.option("--validating", type=int, help="Stretches of validated text.  [default: 18]")
@click.option("--n-layers", type=int, help="Of the teacher.  [default: 3]")
@click.option("--n-heads", type=int, help="Of the teacher.  [default: 4]")
@click.option("--d-model", type=int, help="Of the teacher.  [default: 192]")
@click.option("--n-ctx", type=int, help="Of the teacher.  [default: 256]")
@click.option("--steps", type=int, help="Of its training.  [default: 800]")
@click.option("--batch-size", type=int, help="Sequences in a batch.  [default: 4]")
@click.option("--learning-rate", type=float, help="The largest.  [default: 0.002]")
@click.option("--matching-steps", type=int, help="Of distillation; 0 for no distilled matcher.  [default: 80]")
@click.option("--reach", type=int, help="Of the matching model; 0 for none.  [default: 32]")
@click.option("--order", type=int, help="Of the Kneser-Ney model.  [default: 5]")
@click.option("--datastore", type=int, help="Places of the kNN-LM; 0 for none.  [default: 60000]")
@click.option("--seed", type=int, help="[default: 0]")
@running
def evaluate(
    texts: str,
    out: Path | None,
    resume: bool,
    device: str,
    jobs: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Test the published claims about GIM on the texts of a folder.

    Exact, fuzzy and infini-gram matching, their back-off, a Kneser-Ney model, a kNN-LM and the teacher predict the
    same tokens; thresholds are fitted on other documents.
    """
    from nextlens.analyses.language_numbers import summary
    from nextlens.analyses.language_recipe import LanguageRecipe, named
    from nextlens.analyses.language_run import run

    chosen = {name: value for name, value in given.items() if value is not None}
    for name in ("tested", "validated"):
        if name in chosen:
            chosen[name] = tuple(part for part in chosen[name].split(",") if part)
    recipe = LanguageRecipe(texts, **chosen)
    names = [named(texts), *([Path(recipe.checkpoint).name] if recipe.checkpoint else [])]
    answer(recipe, run, summary, "gim", names, out=out, resume=resume, device=device, jobs=jobs, as_json=as_json)
