"""An index of texts on disk, with the vocabulary and the names that make it readable: built, opened, asked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextlens.analyses.language_models import read_vocabulary, write_vocabulary
from nextlens.analyses.language_recipe import UNKNOWN, kind_of
from nextlens.analyses.results_folder import read_json
from nextlens.models.byte_pairs import read_tokenizer, train_byte_pairs
from nextlens.models.hooked import Hooked
from nextlens.models.induction.context_features import LawFeatures, ResidualFeatures
from nextlens.models.induction.exact import ExactInduction
from nextlens.models.induction.explanation import printable
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.index_files import LOCK, alone
from nextlens.models.induction.infinigram import END, InfiniGram
from nextlens.models.induction.suffix_array import SuffixArray
from nextlens.models.texts import read_texts
from nextlens.models.vocabulary import Bytes, Vocabulary
from nextlens.models.whole_files import write_whole
from nextlens.models.words import Words

#: In the folder: what documents are called, and which edition, a folder in it, is the index.
NAMES = "documents.json"
#: In an edition: the suffix array, and what tokens spell.
ARRAY, VOCABULARY = "array", "vocabulary.json"
EDITION = re.compile(r"\d{4,}")
OURS = re.compile(rf"{EDITION.pattern}|{re.escape(NAMES)}(\.partial)?|{re.escape(LOCK)}")
#: What of a model is compared unless a site is named.
LAWS = "laws"


@dataclass(frozen=True, eq=False)
class TextIndex:
    """Indexed texts.

    Parameters
    ----------
    array : SuffixArray
    vocabulary : Vocabulary
    names : tuple of str
        Of the documents.
    """

    array: SuffixArray
    vocabulary: Vocabulary
    names: tuple[str, ...]

    @classmethod
    def build(
        cls,
        texts: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        vocabulary: str = "bpe:4096",
        *,
        memory: int | None = None,
    ) -> TextIndex:
        """Index every text of a folder, at ``folder``; an index that is there stays whole until the new one is.

        The new one is an edition beside the old, and is the index from when the names are written, which name it.

        Parameters
        ----------
        texts : path
            See :func:`~nextlens.models.texts.read_texts`.
        folder : path
        vocabulary : str
            ``bytes``, ``words:N``, ``bpe:N`` trained on the texts, a ``tokenizer.json`` or a folder with one, or
            ``"smollm2-135m"``.
        memory : int, optional
            Bytes to sort in; see :meth:`~nextlens.models.induction.suffix_array.SuffixArray.build`. The texts are held
            beside them.

        Raises
        ------
        FileNotFoundError
            If there are no texts.
        ValueError
            If the vocabulary is none of these, or cannot spell a text, ``folder`` holds other things, or a text
            needs more than ``memory``.
        OSError
            If another process is writing there, or the files cannot be written.
        """
        _refuse_within(folder, texts)
        found = read_texts(texts)
        spelled = _vocabulary(vocabulary, found)
        with _edition(Path(folder)) as edition:
            documents = (_encoded(spelled, name, text) for name, text in found.items())
            array = SuffixArray.build(documents, vocabulary=spelled, memory=memory, path=edition / ARRAY)
            write_vocabulary(spelled, edition / VOCABULARY)
            _is_the_index(edition, list(found))
        return cls(array, spelled, tuple(found))

    @classmethod
    def add(
        cls, texts: str | os.PathLike[str], folder: str | os.PathLike[str], *, memory: int | None = None
    ) -> TextIndex:
        """The index at ``folder`` with the texts of another folder, spelled as it spells; nothing is sorted again.

        Whatever stops it, the index is as it was or has them all.

        Raises
        ------
        FileNotFoundError, ValueError, OSError
            As :meth:`build` and :meth:`open`; also if a text has the name of one that is in the index.
        """
        _refuse_within(folder, texts)
        found, place = read_texts(texts), Path(folder)
        cls.open(place)
        with _edition(place) as edition:
            before = cls.open(place)
            twice = sorted(set(found) & set(before.names))
            if twice:
                raise ValueError(
                    f"the index at {str(folder)!r} holds {twice[0]!r} already; give the new text another name"
                )
            shutil.copytree(before.array.folder.parent, edition, copy_function=_linked)
            documents = (_encoded(before.vocabulary, name, text) for name, text in found.items())
            array = SuffixArray.open(edition / ARRAY).add(documents, before.vocabulary, memory)
            names = (*before.names, *found)
            _is_the_index(edition, list(names))
        return cls(array, before.vocabulary, names)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> TextIndex:
        """What :meth:`build` made.

        Raises
        ------
        FileNotFoundError
            If there is no index.
        ValueError
            If a file is damaged, naming it, the vocabulary is not that of the index, or the names are not as many as
            its documents.
        """
        place = Path(folder)
        if not (place / NAMES).exists():
            raise FileNotFoundError(f"there is no index of texts at {str(folder)!r}; make one with nextlens gim build")
        said = read_json(place / NAMES)
        edition, names = said.get("edition"), said.get("names")
        if not isinstance(edition, str) or not EDITION.fullmatch(edition) or not isinstance(names, list):
            raise ValueError(f"{str(place / NAMES)!r} names no edition of an index; build it again in a new folder")
        if said.get("sha256") != _digest(edition, names):
            raise ValueError(f"{str(place / NAMES)!r} is damaged: its checksum is not that of what was written")
        vocabulary = read_vocabulary(place / edition / VOCABULARY)
        array = SuffixArray.open(place / edition / ARRAY, vocabulary)
        if len(names) != array.n_documents:
            raise ValueError(
                f"{str(place / NAMES)!r} holds {len(names)} names, and the index {array.n_documents} documents; "
                "build it again with nextlens gim build"
            )
        return cls(array, vocabulary, tuple(names))

    def encoded(self, text: str) -> Any:
        """The tokens of a prompt.

        Raises
        ------
        ValueError
            If it is empty, or not of the vocabulary's domain.
        """
        tokens = self.vocabulary.encode(self.vocabulary.masked(text) if isinstance(self.vocabulary, Words) else text)
        if not len(tokens):
            raise ValueError("the prompt is empty; give at least one token")
        return tokens

    def query(self, text: str, most: int = 10) -> dict[str, Any]:
        """The longest suffix of ``text`` in the index, how often it occurs, what follows, and where it stands.

        A word that the vocabulary does not have is like no other, and ends a match.
        """
        tokens = self.encoded(text)
        if isinstance(self.vocabulary, Words) and len(unknown := np.flatnonzero(tokens == self._unknown)):
            tokens = tokens[unknown[-1] + 1 :]
        match = InfiniGram(self.array).match(tokens)
        suffix = tokens[len(tokens) - match.length :]
        following = sorted(match.next_counts.items(), key=lambda one: (-one[1], one[0]))
        places = self.array.locate(suffix, most=most) if match.length else []
        spell = self.vocabulary.decode
        return {
            "suffix": spell(suffix),
            "length": match.length,
            "count": match.count,
            "next": [
                {"text": "" if t == END else spell([t]), "end": t == END, "count": n} for t, n in following[:most]
            ],
            "different": len(following),
            "places": [
                {
                    "document": self.names[one.document],
                    "offset": one.offset,
                    "before": spell(one.before),
                    "after": spell(one.after),
                }
                for one in places
            ],
        }

    @property
    def _unknown(self) -> int:
        return int(self.vocabulary.encode(UNKNOWN)[0])

    def gim(self, threshold: int, model: Hooked | None = None, site: str = LAWS) -> GIM:
        """The GIM with this corpus; a model, if there is one, says what is alike.

        Raises
        ------
        ValueError
            If the model has another vocabulary, or no such site.
        """
        fuzzy = None
        if model is not None:
            if getattr(model, "vocabulary", None) is not None:
                self.array.refuse_another(model.vocabulary)
            if site == LAWS:
                fuzzy = FuzzyInduction(LawFeatures(model), distance="jeffreys")
            else:
                fuzzy = FuzzyInduction(ResidualFeatures(model, site))
        return GIM(InfiniGram(self.array), ExactInduction(self.array.n_tokens), fuzzy, threshold=threshold)


def said(found: dict[str, Any]) -> str:
    """A query's answer for the terminal."""
    n, count = found["length"], found["count"]
    times = f"{count:,} time{'s' * (count != 1)}"
    if n:
        lines = [f"the last {n} token{'s' * (n != 1)}, {printable(found['suffix'])!s}, occur {times}; then"]
    else:
        lines = [f"the last token does not occur; of all {times}"]
    for one in found["next"]:
        text = printable(one["text"]) if one["text"].strip() else repr(one["text"])
        lines.append(f"  {one['count']:8,d}  {'(end of document)' if one['end'] else text}")
    if found["different"] > len(found["next"]):
        lines.append(f"            and {found['different'] - len(found['next']):,} others")
    for one in found["places"]:
        text = f"…{printable(one['before'])}[{printable(found['suffix'])}]{printable(one['after'])}…"
        lines.append(f"  {one['document']} at {one['offset']}: {text}")
    return "\n".join(lines)


def as_json(found: dict[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False)


@contextmanager
def _edition(place: Path) -> Iterator[Path]:
    """A new folder in ``place`` for this writer alone; on leaving, only the edition that the names name is left."""
    with alone(place, OURS):
        number = 1 + max((int(file.name) for file in place.iterdir() if EDITION.fullmatch(file.name)), default=0)
        try:
            yield place / f"{number:04}"
        finally:
            kept = read_json(place / NAMES).get("edition") if (place / NAMES).exists() else None
            for file in place.iterdir():
                if EDITION.fullmatch(file.name) and file.name != kept:
                    shutil.rmtree(file, ignore_errors=True)


def _refuse_within(folder: str | os.PathLike[str], texts: str | os.PathLike[str]) -> None:
    if Path(folder).resolve().is_relative_to(Path(texts).resolve()):
        raise ValueError(
            f"folder={str(folder)!r} is in {str(texts)!r}, where its files would be read as texts; give another"
        )


def _is_the_index(edition: Path, names: list[str]) -> None:
    said = {"edition": edition.name, "names": names, "sha256": _digest(edition.name, names)}
    write_whole(edition.parent / NAMES, json.dumps(said, ensure_ascii=False, indent=2).encode())


def _digest(edition: str, names: list[str]) -> str:
    return hashlib.sha256(json.dumps([edition, names]).encode()).hexdigest()


def _linked(old: str, new: str) -> None:
    """Files of an index are never written over, so editions can share them; copied where links cannot be made."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def _encoded(vocabulary: Vocabulary, name: str, text: str) -> Any:
    try:
        return vocabulary.encode(vocabulary.masked(text) if isinstance(vocabulary, Words) else text)
    except ValueError as error:
        raise ValueError(f"document {name!r}: {error}") from error


def _vocabulary(what: str, texts: dict[str, str]) -> Vocabulary:
    path = Path(what)
    if what != "bytes" and path.exists():
        return read_tokenizer(path)
    if what == "smollm2-135m":
        from nextlens.models import checkpoints

        return checkpoints.load(what).vocabulary
    kind, number = kind_of(what)
    if kind == "bytes":
        return Bytes()
    if kind == "words":
        return Words.of(texts.values(), number, UNKNOWN)
    try:
        return train_byte_pairs(texts.values(), number)
    except ValueError as error:
        raise ValueError(f"vocabulary={what!r}: {error}; ask for fewer, or for bytes") from error
