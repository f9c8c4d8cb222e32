"""What a model makes of each word of a story, as labelled features: surprisal, entropy, hidden and belief states.

Models are of one room and brains of another; here they meet. Every number is of a word, labelled as
:func:`~nextlens.probes.words_to_volumes.label_words` labels it, and causal: no later word can change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int

from nextlens.analyses.word_tokens import WordTokens, read_in_windows
from nextlens.models.batch import Batch
from nextlens.models.chunks import device_of
from nextlens.models.hooked import Hooked
from nextlens.models.kernel import Kernel
from nextlens.models.recording import Believer, record
from nextlens.models.vocabulary import Vocabulary
from nextlens.probes.words_to_volumes import label_words

#: Tokens read together, and from one window to the next.
LENGTH, STRIDE = 512, 384


def surprisal_and_entropy(
    kernel: Kernel,
    words: xr.Dataset,
    vocabulary: Vocabulary,
    *,
    beginning: int | None = None,
    length: int = LENGTH,
    stride: int = STRIDE,
    separator: str = " ",
) -> xr.DataArray:
    """How unexpected each word was, and how uncertain its beginning, in bits: dims (word, feature), two features.

    ``surprisal = -Σ log2 p(token | before)`` over the tokens of the word, and ``entropy = -Σ_y p(y) log2 p(y)`` of what
    follows the word before. Of the first token of a story, of which nothing has been read, the law is uniform, unless
    there is a ``beginning``.

    Parameters
    ----------
    kernel : Kernel
    words : Dataset
        Of a ``Listening``: every story is read from its beginning.
    vocabulary : Vocabulary
        The kernel's.
    beginning : int, optional
        A token read before each story, and before each window.
    length, stride : int
        Of the windows (:func:`~nextlens.analyses.word_tokens.windows`).
    separator : str, default=" "

    Raises
    ------
    ValueError
        If a word cannot be spelled, or the kernel forbids what was said (its surprisal would be infinite).
    """

    def read(tokens: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some 2"]:
        return _token_information(kernel, tokens, beginning)

    def of_story(aligned: WordTokens) -> Float[np.ndarray, "word 2"]:
        values = read_in_windows(aligned.tokens, read, length=length, stride=stride)
        return np.stack([aligned.joined(values[:, 0], "sum"), values[aligned.first, 1]], axis=1)

    values = _by_story(words, vocabulary, separator, of_story)
    if not np.isfinite(values).all():
        word = int((~np.isfinite(values)).any(1).argmax())
        raise ValueError(
            f"word {word}, {words.text.values[word].item()!r}, is impossible for this kernel; mix in a floor"
        )
    named = label_words(values, words, names=["surprisal", "entropy"])
    return named.assign_coords(band=("feature", ["surprisal", "entropy"])).assign_attrs(units="bit")


def hidden_states(
    model: Hooked,
    words: xr.Dataset,
    vocabulary: Vocabulary,
    sites: Sequence[str],
    *,
    how: str = "last",
    length: int = LENGTH,
    stride: int = STRIDE,
    separator: str = " ",
) -> dict[str, xr.DataArray]:
    """What passes through sites of a model as it reads each word, by site: dims (word, feature), float32.

    Parameters
    ----------
    model : Hooked
    words, vocabulary, length, stride, separator
        As for :func:`surprisal_and_entropy`.
    sites : sequence of str
        Full names or short ones. Sites with more than one axis after the position are laid flat.
    how : {"last", "mean", "sum"}
        Of the values at a word's tokens.

    Raises
    ------
    ValueError
        If a site does not exist or is not laid out by position, or a word cannot be spelled.
    """
    found: dict[str, list[np.ndarray]] = {site: [] for site in sites}
    for texts, _ in _stories(words):
        aligned = WordTokens.of(texts, vocabulary, separator=separator)
        widths: list[int] = []

        def read(tokens: Int[np.ndarray, " some"], widths: list[int] = widths) -> Float[np.ndarray, "some width"]:
            parts = _recorded(model, tokens, sites)
            widths[:] = [part.shape[1] for part in parts]
            return np.concatenate(parts, axis=1)

        values = aligned.joined(read_in_windows(aligned.tokens, read, length=length, stride=stride), how)
        for site, part in zip(sites, np.split(values, np.cumsum(widths)[:-1], axis=1), strict=True):
            found[site].append(part)
    order = _order(words)
    return {site: label_words(np.concatenate(parts)[order], words, band=site) for site, parts in found.items()}


def belief_states(
    process: Believer, words: xr.Dataset, vocabulary: Vocabulary, *, how: str = "last", separator: str = " "
) -> xr.DataArray:
    """What an ideal observer believes of the hidden state after each word: dims (word, feature).

    Parameters
    ----------
    process : Believer
        With ``beliefs(tokens)``; its observer starts anew at each story, and forgets nothing within one.
    words, vocabulary, separator
        As for :func:`surprisal_and_entropy`.
    how : {"last", "mean", "sum"}
    """

    def of_story(aligned: WordTokens) -> Float[np.ndarray, "word state"]:
        beliefs = np.asarray(process.beliefs(aligned.tokens[None]))[0]
        return aligned.joined(beliefs.astype(np.float64), how)

    return label_words(_by_story(words, vocabulary, separator, of_story), words, band="belief")


def _token_information(kernel: Kernel, tokens: np.ndarray, beginning: int | None) -> Float[np.ndarray, "some 2"]:
    """Surprisal of each token and entropy of the law before it, in bits."""
    before = [] if beginning is None else [beginning]
    batch = Batch.from_tokens([[*before, *tokens.tolist(), 0]])  # the last is only a target, and not looked at
    with torch.no_grad():
        laws = kernel.log_probs(batch.to(device_of(kernel, batch)))[0].cpu().double()
    uncertain = -torch.where(laws.isneginf(), 0.0, laws.exp() * laws).sum(1).numpy()
    start = 1 - len(before)  # the row that speaks of a token is the one before it
    said = -laws[: len(tokens) - start].gather(1, torch.from_numpy(tokens[start:])[:, None])[:, 0].numpy()
    known = np.stack([said, uncertain[: len(tokens) - start]], axis=1) / np.log(2.0)
    return np.concatenate([np.full((start, 2), np.log2(kernel.n_tokens)), known])


def _recorded(model: Hooked, tokens: np.ndarray, sites: Sequence[str]) -> list[np.ndarray]:
    batch = Batch.from_tokens([[*tokens.tolist(), 0]])  # the last is only a target
    found = record(model, batch, list(sites))
    for site in sites:
        if found[site].dims[:2] != ("sequence", "position"):
            raise ValueError(
                f"site={site!r} is laid out by {found[site].dims}; a feature of words needs one row a position"
            )
    return [np.asarray(found[site].values[0], dtype=np.float32).reshape(len(tokens), -1) for site in sites]


def _stories(words: xr.Dataset) -> list[tuple[list[str], np.ndarray]]:
    """The words of each story, in order, and where they stand among all."""
    story, text = words.story.values, words.text.values
    names, first = np.unique(story, return_index=True)
    places = [np.flatnonzero(story == name) for name in names[np.argsort(first)]]
    return [(text[at].tolist(), at) for at in places]


def _order(words: xr.Dataset) -> Int[np.ndarray, " word"]:
    """Where each word stands when the stories are put one after another."""
    return np.argsort(np.concatenate([at for _, at in _stories(words)]), kind="stable")


def _by_story(
    words: xr.Dataset, vocabulary: Vocabulary, separator: str, of_story: Callable[[WordTokens], Any]
) -> Float[np.ndarray, "word width"]:
    parts = [of_story(WordTokens.of(texts, vocabulary, separator=separator)) for texts, _ in _stories(words)]
    return np.concatenate(parts)[_order(words)]
