"""What a model makes of every word, read once and kept on disk: states at sites, surprisal and entropy in one pass."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from tqdm import tqdm

from nextlens.analyses.word_features import LENGTH, STRIDE
from nextlens.analyses.word_tokens import WordTokens, read_in_windows
from nextlens.models.arguments import one_of
from nextlens.models.batch import Batch
from nextlens.models.hooked import Hooked, canonical_site
from nextlens.models.recording import record
from nextlens.models.stored_recording import fingerprint
from nextlens.models.vocabulary import Vocabulary
from nextlens.models.whole_files import write_whole
from nextlens.probes.words_to_volumes import label_words

#: Tokens whose laws are held at a time.
LAWS = 128

#: The name under which surprisal and entropy are kept.
INFORMATION = "information"


@dataclass(frozen=True, eq=False)
class WordRecording:
    """States of the words of some stories, each read from its file when it is asked for.

    Attributes
    ----------
    words : Dataset
    sites : tuple of str
        Full names.
    folder : Path
    keys : dict of str to str
        What the files of each story are called.
    """

    words: xr.Dataset
    sites: tuple[str, ...]
    folder: Path
    keys: dict[str, str]

    def states(self, site: str) -> xr.DataArray:
        """The value at a word's last token, dims (word, feature), float32.

        Raises
        ------
        ValueError
            If the site was not recorded, or a file is damaged.
        """
        name = canonical_site(site, self.sites)
        return label_words(self._joined(name), self.words, band=site)

    def information(self) -> xr.DataArray:
        """Surprisal and entropy in bits, as of :func:`~nextlens.analyses.word_features.surprisal_and_entropy`."""
        named = label_words(self._joined(INFORMATION), self.words, names=["surprisal", "entropy"])
        return named.assign_coords(band=("feature", ["surprisal", "entropy"])).assign_attrs(units="bit")

    def _joined(self, name: str) -> Float[np.ndarray, "word width"]:
        story, parts, order = self.words.story.values, [], []
        for one, key in self.keys.items():
            at = np.flatnonzero(story == one)
            parts.append(_read(_path(self.folder, key, name), len(at)))
            order.append(at)
        whole = np.empty((len(story), parts[0].shape[1]), parts[0].dtype)
        whole[np.concatenate(order)] = np.concatenate(parts)
        return whole


def recorded_words(
    model: Hooked,
    words: xr.Dataset,
    vocabulary: Vocabulary,
    sites: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    length: int = LENGTH,
    stride: int = STRIDE,
    separator: str = " ",
    progress: bool = False,
) -> WordRecording:
    """Read every story once, unless its files are there: states at ``sites``, and what was unexpected.

    The same numbers as :func:`~nextlens.analyses.word_features.hidden_states` and ``surprisal_and_entropy`` give, in
    one pass: laws are what the unembedding makes of the last site. A file is named after the model's weights, the words
    and the windows, so listeners who heard one story share it; a run that was stopped goes on.

    Parameters
    ----------
    model, words, vocabulary, sites, length, stride, separator
        As for ``hidden_states``. Sites must be laid out by position.
    folder : path
        Made if need be.
    progress : bool, default=False

    Raises
    ------
    ValueError
        If a site does not exist or is not laid out by position, or a word cannot be spelled.
    OSError
        If nothing can be written into ``folder``.
    """
    names = tuple(canonical_site(site, model.sites) for site in sites)
    of_model = f"{fingerprint(model)} {length} {stride} {separator!r}"
    story, text = words.story.values, words.text.values
    stories, first = np.unique(story, return_index=True)
    keys = {}
    for name in tqdm(stories[np.argsort(first)].tolist(), desc="stories read", leave=False, disable=not progress):
        spoken = text[story == name].tolist()
        aligned = WordTokens.of(spoken, vocabulary, separator=separator)
        key = keys[name] = hashlib.sha256("\0".join([of_model, *spoken]).encode()).hexdigest()[:24]
        lacking = [site for site in names if not _path(Path(folder), key, site).is_file()]
        informed = _path(Path(folder), key, INFORMATION).is_file()
        if not lacking and informed:
            continue
        for part, values in _read_story(model, aligned, lacking, informed, length, stride).items():
            _write(_path(Path(folder), key, part), values)
    return WordRecording(words, names, Path(folder), keys)


def _read_story(
    model: Hooked, aligned: WordTokens, sites: list[str], informed: bool, length: int, stride: int
) -> dict[str, Float[np.ndarray, "word _"]]:
    """States and information of the words of one story."""
    last = model.sites[-1]
    asked = sites if informed else [*sites, *([] if last in sites else [last])]
    widths: list[int] = []

    def read(tokens: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some width"]:
        found = record(model, Batch.from_tokens([[*tokens.tolist(), 0]]), asked)  # the last is only a target
        for site in asked:
            one_of(f"the layout of {site}", found[site].dims[:2], [("sequence", "position")])
        parts = [np.asarray(found[site].values[0], np.float32).reshape(len(tokens), -1) for site in asked]
        widths[:] = [part.shape[1] for part in parts]
        before = [] if informed else [_information(model, parts[asked.index(last)], tokens)]
        return np.concatenate([*parts, *before], axis=1)

    values = read_in_windows(aligned.tokens, read, length=length, stride=stride)
    kept = dict(zip(asked, np.split(values, np.cumsum(widths), axis=1), strict=False))
    found = {site: aligned.joined(kept[site], "last") for site in sites}
    if not informed:
        bits = values[:, -2:]
        found[INFORMATION] = np.stack([aligned.joined(bits[:, 0], "sum"), bits[aligned.first, 1]], axis=1)
    return found


def _information(
    model: Hooked, states: Float[np.ndarray, "some width"], tokens: Int[np.ndarray, " some"]
) -> Float[np.ndarray, "some 2"]:
    """Surprisal of each token and entropy of the law before it, in bits; of the first the law is uniform."""
    found = np.full((len(tokens), 2), np.log2(model.n_tokens), np.float32)
    matrix = model.unembedding.detach()
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, LAWS):
            read = torch.from_numpy(states[start : min(start + LAWS, len(tokens) - 1)]).to(matrix)
            laws = (read @ matrix).float().log_softmax(-1)
            said = torch.from_numpy(tokens[start + 1 : start + 1 + len(read)]).to(laws.device)
            rows = found[start + 1 : start + 1 + len(read)]
            rows[:, 0] = -laws.gather(1, said[:, None])[:, 0].cpu().numpy() / np.log(2)
            rows[:, 1] = torch.special.entr(laws.exp()).sum(1).cpu().numpy() / np.log(2)
    return found


def _path(folder: Path, key: str, name: str) -> Path:
    return folder / f"{key}.{name}.npy"


def _write(path: Path, values: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    write_whole(path, content.getvalue())


def _read(path: Path, n_words: int) -> Float[np.ndarray, "word width"]:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}); delete it, and it is recorded anew") from error
    if len(values) != n_words:
        raise ValueError(f"{str(path)!r} has {len(values)} rows for {n_words} words; delete it")
    return values
