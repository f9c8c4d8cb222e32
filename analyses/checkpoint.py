"""Any checkpoint, read on a text: all instruments at once, as numbers, figures and one page."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nextlens.analyses.belief_geometry import BeliefGeometry
from nextlens.analyses.checkpoint_beliefs import belief_section
from nextlens.analyses.checkpoint_figures import displays_of
from nextlens.analyses.checkpoint_heads import head_section
from nextlens.analyses.checkpoint_model import context_of, described
from nextlens.analyses.checkpoint_numbers import (
    lens_numbers,
    loss_numbers,
    probe_numbers,
    stream_numbers,
    surprisal_numbers,
)
from nextlens.analyses.checkpoint_page import fragment, page
from nextlens.analyses.checkpoint_pass import Pass, read_through, stream_sites
from nextlens.analyses.checkpoint_probes import frequent, probe_ahead
from nextlens.analyses.checkpoint_reading import Reading
from nextlens.analyses.checkpoint_words import Words, words_of
from nextlens.analyses.results_folder import NUMBERS, read_json, writable, write_json
from nextlens.models.arguments import at_least
from nextlens.models.hooked import Hooked
from nextlens.models.processes import Process
from nextlens.models.recording import surprisal
from nextlens.models.vocabulary import Vocabulary
from nextlens.probes.ngrams import unigram_laws

KIND = "nextlens checkpoint report"
PAGE = "index.html"
SAVED_AS = ("png", "pdf")

#: Windows are no longer than this, whatever the context of the model.
LONGEST_WINDOW = 512
#: Rows of activations kept for spectra and probes, rows of the lens, and sites that are probed.
MOST_KEPT, MOST_LENSED, MOST_PROBED = 2048, 512, 6


@dataclass(frozen=True, eq=False, repr=False)
class CheckpointReport:
    """What :func:`report` found. In a notebook it shows itself.

    Attributes
    ----------
    numbers : dict
        Every number, JSON-able, with units, intervals and nulls: what is written as ``numbers.json``.
    words : list of (str, float or None)
        What each token spells, and its surprisal in bits; None for a token that was not predicted.
    beliefs : BeliefGeometry, optional
        Of the belief probes, if a process was given.
    """

    numbers: dict[str, Any]
    words: list[tuple[str, float | None]]
    beliefs: BeliefGeometry | None = None

    def __repr__(self) -> str:
        bits = self.numbers["loss"]["bits_per_token"]["value"]
        return f"<CheckpointReport of {self.numbers['model']['name']}: {bits:.3f} bits per token>"

    @property
    def displays(self) -> dict[str, Any]:
        """The figures by name, not yet drawn."""
        return displays_of(self.numbers, self.beliefs)

    @cached_property
    def drawings(self) -> dict[str, bytes]:
        """The figures as PNG and PDF files, by the names they are saved under."""
        import matplotlib.pyplot as plt

        from nextlens.analyses.displays import style

        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, display in self.displays.items():
                figure = drawn(display)
                found |= {path.name: path.read_bytes() for path in style.save(figure, f"{folder}/{name}", SAVED_AS)}
                plt.close(figure)
        return found

    @property
    def pictures(self) -> dict[str, bytes]:
        """The figures as PNG files, by name."""
        return {name.removesuffix(".png"): file for name, file in self.drawings.items() if name.endswith(".png")}

    @property
    def html(self) -> str:
        """The page: one file that needs no other."""
        return page(self.numbers, self.words, self.pictures)

    def _repr_html_(self) -> str:
        return fragment(self.numbers, self.words, self.pictures)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the page, the figures as PNG and PDF, and ``numbers.json``; return the path of the page.

        Each file is written elsewhere and renamed, the page last: whenever the writer was killed, every file
        in ``folder`` is whole. Files of an earlier report are replaced.

        Raises
        ------
        OSError
            If nothing can be written into ``folder``.
        ValueError
            If ``folder`` holds the results of something else.
        """
        place = own_folder(folder)
        scratch = place / ".partial"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        for name, file in self.drawings.items():
            (scratch / name).write_bytes(file)
        write_json(scratch / NUMBERS, self.numbers)
        (scratch / PAGE).write_text(self.html, encoding="utf-8")
        for path in sorted(scratch.iterdir(), key=lambda path: (path.name == PAGE, path.name)):
            os.replace(path, place / path.name)
        scratch.rmdir()
        return place / PAGE


def drawn(display: Any) -> Any:
    """The figure of a display."""
    return (display.plot_row() if hasattr(display, "plot_row") else display.plot()).figure_


def own_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder, made if need be, unless it holds the results of something else.

    Raises
    ------
    OSError
        If nothing can be written into it.
    ValueError
        If it holds numbers that are not those of a report.
    """
    place = writable(folder)
    if (place / NUMBERS).exists() and read_json(place / NUMBERS).get("kind") != KIND:
        raise ValueError(f"{str(folder)!r} holds a {NUMBERS} of something else; choose another folder")
    return place


def report(
    model: Hooked,
    text: str | np.ndarray | None = None,
    *,
    vocabulary: Vocabulary | None = None,
    process: Process | None = None,
    name: str | None = None,
    source: str | None = None,
    most_tokens: int = 2048,
    window: int | None = None,
    stride: int | None = None,
    progress: bool = False,
) -> CheckpointReport:
    """Read a text with a model, and measure all that needs no training but that of linear probes.

    Loss, surprisal, the logit lens, spectra of the residual stream, scores of heads, probes for tokens ahead
    and, if the process is known, probes for beliefs. What a model cannot offer is left out, and says why.

    Parameters
    ----------
    model : Hooked
        Left as it was.
    text : str, or int array of shape (time,) or (sequence, time), optional
        If None: words sampled from ``process``; without one, a scene by Shakespeare that comes with nextlens.
    vocabulary : Vocabulary, optional
        What tokens spell: that of the model (``model.vocabulary``) if None, or letters for a process, or
        bytes for a model of 256 tokens.
    process : Process, optional
        What the model was trained on; adds the least possible loss and belief probes.
    name, source : str, optional
        What to call the model, and where the text is from.
    most_tokens : int, default=2048
        How much of the text is read, from its start.
    window : int, optional
        Tokens read at a time: the context of the model, or 512 if that is longer.
    stride : int, optional
        From one window to the next; half a window if None.
    progress : bool, default=False

    Raises
    ------
    ValueError
        If the text is too short, holds what the vocabulary does not, or the vocabulary or process is another
        model's; if a weight, or what the model says, is NaN.

    Examples
    --------
    >>> from nextlens.models.transformer import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_tokens=256, n_layers=1, d_model=8, n_ctx=32))
    >>> found = report(model, "to be or not to be, that is the question; " * 3)
    >>> found.numbers["text"]["predictions"], found.numbers["loss"]["nulls_bits_per_token"]["uniform law"]["value"]
    (125, 8.0)
    """
    started = time.process_time()
    at_least("most_tokens", most_tokens, 2)
    described_model = described(model, name)
    words = words_of(model, text, vocabulary=vocabulary, process=process, source=source, most_tokens=most_tokens)
    context = context_of(model)
    window = min(context or LONGEST_WINDOW, LONGEST_WINDOW) if window is None else window
    if context is not None and window > context:
        raise ValueError(f"window={window} must be at most {context}, the context of the model")
    reading = Reading(words.tokens, window, max(1, window // 2) if stride is None else stride)
    with _evaluating(model):
        numbers, one, geometry = _measured(model, words, reading, process, progress)
    numbers = {
        "kind": KIND,
        "nextlens": version("nextlens"),
        "model": described_model,
        "text": words.as_json() | _of_reading(reading),
        **numbers,
        "cost": {"cpu_seconds": time.process_time() - started, "peak_memory_bytes": peak_memory()},
    }
    return CheckpointReport(numbers, words.with_bits(reading, one.surprisal), geometry)


def _measured(
    model: Hooked, words: Words, reading: Reading, process: Process | None, progress: bool
) -> tuple[dict[str, Any], Pass, BeliefGeometry | None]:
    sites, classes = stream_sites(model), frequent(reading.said)
    unigrams = unigram_laws(reading.said, reading.block, model.n_tokens)
    asked = {"classes": classes, "unigrams": unigrams, "most_kept": MOST_KEPT, "progress": progress}
    one = read_through(model, reading, sites=sites, most_lensed=MOST_LENSED, **asked)
    twin = None
    if hasattr(model, "untrained") and sites:
        twin = read_through(model.untrained(), reading, sites=sites, most_lensed=0, **asked).stream
    optimum = None if process is None else ideal(process, reading)
    block = reading.block[one.kept]
    beliefs, geometry = belief_section(model, process, context_of(model))
    numbers = {
        "loss": loss_numbers(one, reading, model.n_tokens, words.bytes_of(reading), optimum),
        "surprisal": surprisal_numbers(one, reading, optimum),
        "lens": lens_numbers(one, reading, sites),
        "residual": stream_numbers(one.stream, block, twin),
        "heads": head_section(model, context_of(model), words.facts.get("beginning_token")),
        "ahead": _ahead(one, reading, classes, twin),
        "beliefs": beliefs,
    }
    return numbers, one, geometry


def ideal(process: Process, reading: Reading) -> np.ndarray | None:
    """Surprisal, row by row, for an observer who knows the process; None where windows hide what came before."""
    if len(reading.starts) > 1:
        return None
    batches = (part.batch for part in reading.windows(256))
    return np.concatenate([surprisal(process, batch).values.ravel() for batch in batches])


def _ahead(one: Pass, reading: Reading, classes: np.ndarray, twin: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
    sites = list(one.stream)
    if not sites:
        return {"left_out": "the model names no residual stream: no site ends with hook_resid_post"}
    chosen = [sites[i] for i in np.unique(np.linspace(0, len(sites) - 1, MOST_PROBED).round().astype(int))]
    try:
        scores = probe_ahead(
            {site: one.stream[site] for site in chosen},
            reading,
            one.kept,
            classes,
            law=one.law,
            twin=None if twin is None else {chosen[-1]: twin[chosen[-1]]},
        )
    except ValueError as error:
        return {"left_out": str(error)}
    return probe_numbers(scores, chosen)


def _of_reading(reading: Reading) -> dict[str, Any]:
    return {
        "predictions": len(reading),
        "sequences": len(reading.tokens),
        "window": reading.time,
        "stride": reading.stride,
        "windows": reading.n_windows(),
        "blocks": reading.n_blocks,
        "rows_of_a_block": len(reading) / reading.n_blocks,
    }


@contextmanager
def _evaluating(model: Hooked) -> Iterator[None]:
    """Dropout off, for a while."""
    training = isinstance(model, torch.nn.Module) and model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def peak_memory() -> int | None:
    """The most memory this process has held so far, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
