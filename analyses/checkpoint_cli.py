"""``nextlens checkpoint``: a report on any checkpoint. Nothing heavy is imported before it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from nextlens.analyses.answering import PARAMETERS, parameters_of, refuse_absent


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--text",
    "text_file",
    type=click.Path(path_type=Path),
    help="A UTF-8 file to read, or token ids as .npy.  [default: a scene]",
)
@click.option("--process", help="The hidden Markov process it was trained on.  [default: as the checkpoint says]")
@PARAMETERS
@click.option("--out", type=click.Path(path_type=Path), help="Report folder.  [default: results/checkpoint-NAME]")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--tokens", "most_tokens", type=int, default=2048, show_default=True, help="Read no more than these.")
@click.option("--window", type=int, help="Tokens read at a time.  [default: the context, at most 512]")
@click.option("--stride", type=int, help="From one window to the next.  [default: half a window]")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON instead of the summary.")
def checkpoint(
    path: Path,
    text_file: Path | None,
    process: str | None,
    parameters: Sequence[str],
    out: Path | None,
    device: str,
    most_tokens: int,
    window: int | None,
    stride: int | None,
    as_json: bool,
) -> None:
    """What does a model know? A report on any checkpoint, from one text.

    PATH is a checkpoint of nextlens, a Hugging Face directory, a GGUF file or smollm2-135m. Writes one
    page (index.html) that needs no network, its figures and numbers.json.
    """
    import json

    import torch

    from nextlens.analyses.checkpoint import own_folder, report
    from nextlens.analyses.checkpoint_process import process_of
    from nextlens.analyses.checkpoint_reading import read_ids, read_text
    from nextlens.analyses.checkpoint_sections import summary
    from nextlens.models import checkpoints

    torch.set_num_threads(1)
    refuse_absent(device)
    reader = read_ids if text_file is not None and text_file.suffix == ".npy" else read_text
    text = None if text_file is None else reader(text_file)
    name = path.resolve().stem if path.is_file() else path.resolve().name
    folder = out or Path("results") / f"checkpoint-{name}"
    try:
        model = checkpoints.load(path, device=device)
    except ImportError as missing:
        raise click.ClickException(str(missing)) from missing
    own_folder(folder)
    found = report(
        model,
        text,
        process=process_of(path, process, parameters_of(parameters)),
        name=name,
        source=None if text_file is None else text_file.name,
        most_tokens=most_tokens,
        window=window,
        stride=stride,
        progress=sys.stderr.isatty(),
    )
    page = found.save(folder)
    click.echo(json.dumps(found.numbers, ensure_ascii=False) if as_json else summary(found.numbers, page))
