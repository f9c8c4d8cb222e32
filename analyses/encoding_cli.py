"""``nextlens encode`` and ``nextlens recall``: brains. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from nextlens.analyses.answering import answer, numbers_of, options

#: Options that decide where and how a run goes on, and none of its numbers.
running = options(
    click.option("--states", type=click.Path(path_type=Path), help="Where a model's states of words are kept."),
    click.option(
        "--out", type=click.Path(path_type=Path), help="Results folder.  [default: under results/, by question]"
    ),
    click.option("--resume", is_flag=True, help="Go on with the unfinished run in the results folder."),
    click.option("--device", default="cpu", show_default=True, help="Of the checkpoint: cpu, cuda, cuda:1, ..."),
    click.option("--jobs", type=int, help="Processes over which targets are spread.  [default: 1]"),
    click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON instead of the summary."),
)

#: Options with several values, and what each is.
LISTS: dict[str, type] = dict.fromkeys(("subjects", "tested", "spaces", "sites", "matchers", "values"), str)
LISTS |= {"delays": int, "gaps": int, "planted": float}

whose = options(
    click.option("--data", help="simulated, alice, lebel2023, voxels, bids or arrays.  [default: simulated]"),
    click.option("--folder", help="Of the data; else where NEXTLENS_DATA points."),
    click.option("--subjects", metavar="NAME,...", help="All, if none is named; of simulated listeners seeds."),
    click.option("--stories", type=int, help="Training stories, the first by name.  [default: all]"),
    click.option("--shared", is_flag=True, default=None, help="Only stories that all subjects heard."),
    click.option("--tested", metavar="NAME,...", help="Stories held out.  [default: those of the data set]"),
)
model = options(
    click.option("--checkpoint", help="A language model, such as smollm2-135m."),
    click.option("--sites", metavar="SITE,...", help="Of it.  [default: eight, evenly]"),
    click.option("--length", type=int, help="Tokens read together.  [default: 512]"),
    click.option("--stride", type=int, help="From one window to the next.  [default: 384]"),
)


def scoring(least: str, largest: str, alphas: int, folds: int) -> Any:
    """How scores are made; the verbs differ in what is usual."""
    return options(
        click.option("--delays", metavar="N,...", help="Volumes.  [default: 1,2,3,4]"),
        click.option(
            "--onset", type=int, help="First volumes of a story with a column each, in every model.  [default: 0]"
        ),
        click.option("--least-alpha", type=float, help=f"The least penalty tried.  [default: {least}]"),
        click.option("--largest-alpha", type=float, help=f"The largest.  [default: {largest}]"),
        click.option("--alphas", type=int, help=f"How many.  [default: {alphas}]"),
        click.option("--folds", type=int, help=f"Of training stories.  [default: {folds}]"),
        click.option("--draws", type=int, help="Of the null.  [default: 1000]"),
        click.option("--seed", type=int, help="[default: 0]"),
    )


@click.command()
@whose
@click.option("--spaces", metavar="NAME,...", help="vectors, surprisal, entropy, shuffled vectors.")
@model
@click.option("--components", type=int, help="To which states are reduced.  [default: 128]")
@click.option("--resampling", help="sum or lanczos.  [default: sum]")
@scoring("1", "1e7", 12, 5)
@click.option("--detrend", help="auto, run, folds or none.  [default: auto]")
@click.option("--blocks", type=int, help="Of a single story.  [default: 6]")
@click.option("--gap", type=int, help="Volumes left out beside a block.  [default: 5]")
@click.option("--candidates", type=int, help="Shares of the bands tried.  [default: 10]")
@click.option("--null", help="rolling or 'block permutation'.  [default: rolling]")
@click.option("--ceiling", help="auto, repeats, inter-subject, split-half or none.  [default: auto]")
@click.option("--task", help="Of a BIDS folder.")
@click.option("--space", help="Of its images, where there are several.")
@click.option("--mask", help="An image of the brain, for BIDS.")
@click.option("--labels", help="An image of regions, for BIDS.")
@running
def encode(
    states: Path | None, out: Path | None, resume: bool, device: str, jobs: int | None, as_json: bool, **given: Any
) -> None:
    """How well do features of words predict a brain?

    Word rate, word vectors, surprisal, entropy and the layers of a language model against voxels, components or
    regions of held-out stories; every score beside its null, what time alone scores, and its ceiling. Without
    options the listener is made up, and no data are needed.
    """
    from nextlens.analyses.encoding_numbers import summary
    from nextlens.analyses.encoding_recipe import EncodingRecipe
    from nextlens.analyses.encoding_run import run

    recipe = EncodingRecipe(**chosen(given))
    running = {"out": out, "resume": resume, "device": device, "jobs": jobs, "as_json": as_json}
    answer(recipe, partial(run, states=states), summary, "encode", names_of_folder(recipe), **running)


@click.command()
@whose
@click.option("--matchers", metavar="NAME,...", help="exact, embedding, momentary, distilled, states.  [default: all]")
@click.option("--values", metavar="NAME,...", help="response, stimulus.  [default: both]")
@click.option("--gaps", metavar="N,...", help="Volumes a match lies back.  [default: 80; simulated 8]")
@click.option("--words", type=int, help="Of the context of 'embedding'.  [default: 20]")
@click.option("--most", type=int, help="Matches of a moment.  [default: 5]")
@click.option("--copied", type=int, help="Responses copied.  [default: 50]")
@click.option("--planted", metavar="X,...", help="Strengths of planted effects.  [default: .1,.2,.3]")
@click.option("--checkpoint", help="A language model, such as smollm2-135m.")
@click.option("--site", help="Of it.  [default: after three fifths of the blocks]")
@click.option("--distillation", type=int, help="Steps of the head.  [default: 60]")
@click.option("--length", type=int, help="Tokens read together.  [default: 512]")
@click.option("--stride", type=int, help="From one window to the next.  [default: 384]")
@scoring("10", "1e6", 6, 4)
@running
def recall(
    states: Path | None, out: Path | None, resume: bool, device: str, jobs: int | None, as_json: bool, **given: Any
) -> None:
    """Does what followed last time predict the next response?

    Earlier moments of the story that are like this one are copied, and stand beside word vectors as a band of their
    own, against copies of moments as far back, of any, and of another story. Without options the listener is made up.
    """
    from nextlens.analyses.induction_brain_numbers import summary
    from nextlens.analyses.induction_brain_recipe import RecallRecipe
    from nextlens.analyses.induction_brain_run import run

    recipe = RecallRecipe(**chosen(given))
    running = {"out": out, "resume": resume, "device": device, "jobs": jobs, "as_json": as_json}
    answer(recipe, partial(run, states=states), summary, "recall", names_of_folder(recipe), **running)


def chosen(given: dict[str, Any]) -> dict[str, Any]:
    """Options that were given, lists as tuples."""
    found = {name: value for name, value in given.items() if value is not None}
    for name, kind in LISTS.items():
        if name in found:
            text = found[name]
            whole = tuple(part for part in text.split(",") if part)
            found[name] = whole if kind is str else numbers_of(f"--{name}", text, kind)
    return found


def names_of_folder(recipe: Any) -> list[str]:
    """What a run's folder is called after its question."""
    return [recipe.data, *([Path(recipe.checkpoint).name] if recipe.checkpoint else [])]
