"""CPU time of one training step of every objective, over that of a next-token step of the same model.

    OMP_NUM_THREADS=1 python benchmarks/objectives.py

A hidden Markov process, where registers stand behind every token, and star graphs, where they stand in the answer
alone; data and update included, objectives in turn, in one process with one thread; the best of many rounds each, so
that other work on the machine, which makes some rounds dearer, falls out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from nextlens.analyses.objectives_recipe import ObjectivesRecipe
from nextlens.analyses.objectives_training import OBJECTIVES, Lesson
from nextlens.analyses.star_graph_training import StarGraphRecipe
from nextlens.models.training import Step, train
from nextlens.models.transformer import Transformer

#: What a step may cost at most, in next-token steps, one step rolled out and a register behind every token.
BARS = {"next-latent": 1.35, "registers": 2.2}
ROUNDS = 20


def steps_of(lesson: Lesson) -> Iterator[Step]:
    return train(Transformer(lesson.config), lesson.batches(), objective=lesson.asked())


def compare(title: str, lessons: dict[str, Lesson], bars: dict[str, float]) -> None:
    running = {name: steps_of(lesson) for name, lesson in lessons.items()}
    best = dict.fromkeys(lessons, float("inf"))
    for steps in running.values():
        next(steps)
    for _ in range(ROUNDS):
        for name, steps in running.items():
            started = time.process_time()
            next(steps)
            best[name] = min(best[name], time.process_time() - started)
    print(title)
    for name, seconds in best.items():
        ratio = seconds / best["next-token"]
        bar = "" if name not in bars else f"   at most {bars[name]}: {'met' if ratio <= bars[name] else 'missed'}"
        print(f"  {name:18s} {1e3 * seconds:7.1f} ms   {ratio:5.2f} next-token steps{bar}")


def main() -> None:
    torch.set_num_threads(1)
    process = ObjectivesRecipe(objectives=OBJECTIVES)
    lessons = {name: process.lesson(name, 0) for name in OBJECTIVES}
    compare(f"{process.source!r}, {process.batch_size} words of {process.length} tokens", lessons, BARS)
    lessons = {name: StarGraphRecipe.of(name, layout="edges", batch_size=128, ahead=2).lesson(0) for name in OBJECTIVES}
    compare("star graphs as published, 128 of 24 tokens, answers of 4, 2 ahead", lessons, {})


if __name__ == "__main__":
    main()
