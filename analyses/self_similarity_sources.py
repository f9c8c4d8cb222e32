"""What self-similarity is asked of: texts by domain, models that read them, and series whose memory is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least, one_of
from nextlens.models.induction.context_features import LawFeatures
from nextlens.models.induction.exact import ExactInduction
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.infinigram import InfiniGram
from nextlens.models.induction.kneser_ney import KneserNey
from nextlens.models.induction.scores import best_floor
from nextlens.models.induction.suffix_array import SuffixArray
from nextlens.models.induction.votes import Matcher
from nextlens.models.kernel import Kernel
from nextlens.models.texts import read_texts
from nextlens.models.vocabulary import Vocabulary
from nextlens.probes import fractal

#: Models that are made here from the texts that are not tested; any other name is a checkpoint.
MADE_HERE = ("trained", "gim", "infini-gram", "kneser-ney")
#: Share of the documents of a domain that is tested.
TESTED = 0.3


class Domain(NamedTuple):
    """Texts of one kind: those tested, and those that models may learn from."""

    name: str
    tested: dict[str, str]
    reference: dict[str, str]


@dataclass(frozen=True, eq=False)
class Source:
    """Documents of tokens, and what reads them.

    Attributes
    ----------
    name : str
        "model on domain".
    kernel : Kernel
    tokens : Int[np.ndarray, "document time"]
    texts : tuple of str
        Which texts they are stretches of.
    n_bytes : int
        Of UTF-8 that all tokens but the first of each document spell; 0 where they spell nothing.
    """

    name: str
    kernel: Kernel
    tokens: Int[np.ndarray, "document time"]
    texts: tuple[str, ...] = ()
    n_bytes: int = 0


def domain(named: str, rng: np.random.Generator, *, learn: bool) -> Domain:
    """Texts of ``name=path``, or of a path: a file, a folder, or a pattern of names in a folder such as ``texts/a*``.

    Parameters
    ----------
    learn : bool
        Whether models are made from some of them; if not, all are tested.

    Raises
    ------
    FileNotFoundError
        If there are no such texts.
    ValueError
        If there are too few to learn from some.
    """
    name, equals, where = named.partition("=")
    if not equals:
        name, where = Path(named).name.split(".")[0].rstrip("*_-"), named
    place = Path(where)
    if "*" in place.name:
        texts = {key: text for key, text in read_texts(place.parent).items() if fnmatch(key, place.name)}
    else:
        texts = read_texts(place)
    if not texts:
        raise FileNotFoundError(f"no text in {str(place.parent)!r} is called {place.name!r}")
    if not learn:
        return Domain(name, texts, {})
    if len(texts) < 3:
        raise ValueError(
            f"{named!r} holds {len(texts)} texts; 3 at least are needed to learn from some and test others"
        )
    names = list(texts)
    drawn = rng.permutation(len(names))[: max(1, round(TESTED * len(names)))].tolist()
    tested = {names[i] for i in drawn}
    return Domain(
        name,
        {key: text for key, text in texts.items() if key in tested},
        {key: text for key, text in texts.items() if key not in tested},
    )


def stretches(
    texts: Mapping[str, str], vocabulary: Vocabulary, n: int, length: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "document time"], tuple[str, ...], int]:
    """``n`` stretches of ``length`` tokens, none over another, evenly over the texts; their texts and their bytes.

    Raises
    ------
    ValueError
        If the texts do not hold so many stretches.
    """
    encoded = {name: vocabulary.encode(text) for name, text in texts.items()}
    room = {name: len(tokens) // length for name, tokens in encoded.items()}
    if sum(room.values()) < n:
        raise ValueError(
            f"the texts hold {sum(room.values())} stretches of {length} tokens; {n} documents are asked for: take "
            "shorter or fewer ones, or more texts"
        )
    taken = dict.fromkeys(encoded, 0)
    while sum(taken.values()) < n:
        name = min((one for one in taken if taken[one] < room[one]), key=lambda one: taken[one])
        taken[name] += 1
    found, names = [], []
    for name, tokens in encoded.items():
        slack = np.sort(rng.integers(len(tokens) - taken[name] * length + 1, size=taken[name]))
        for i, start in enumerate(slack.tolist()):
            found.append(tokens[start + i * length : start + (i + 1) * length])
            names.append(name)
    n_bytes = sum(len(vocabulary.decode(one[1:]).encode()) for one in found)
    return np.stack(found), tuple(names), n_bytes


def pointing(
    kind: str,
    vocabulary: Vocabulary,
    reference: Mapping[str, str],
    model: Kernel | None,
    *,
    order: int = 5,
    threshold: int = 8,
) -> Kernel:
    """A model of counts, or one that points, made from texts.

    What points forbids most tokens, so it is mixed with a uniform floor, fitted on the last of the texts, which
    it does not index.

    Parameters
    ----------
    kind : {"kneser-ney", "infini-gram", "gim"}
    model : Kernel, optional
        Whose laws say what is alike; a GIM without it has no fuzzy part.
    """
    one_of("kind", kind, MADE_HERE[1:])
    documents = [vocabulary.encode(text) for text in reference.values()]
    if kind == "kneser-ney":
        return KneserNey(documents, vocabulary.n_tokens, order)
    apart, indexed = documents[-1][:2048], documents[:-1]
    at_least("texts to index", len(indexed), 1)
    infinigram = InfiniGram(SuffixArray.build(indexed, vocabulary=vocabulary))
    if kind == "infini-gram":
        return InfiniGram(infinigram.indexes, floor=fitted_floor(infinigram, apart))
    similar = None if model is None else FuzzyInduction(LawFeatures(model), distance="jeffreys")
    made = GIM(infinigram, ExactInduction(vocabulary.n_tokens), similar, threshold=threshold)
    return made.with_(floor=fitted_floor(made, apart[: 1 + len(apart) // 2]))


def fitted_floor(matcher: Matcher, tokens: Int[np.ndarray, " time"]) -> float:
    """The uniform floor under which text that was not indexed is most probable."""
    said = matcher.votes(tokens[:-1]).probabilities(matcher.n_tokens)
    return best_floor(said[np.arange(len(tokens) - 1), tokens[1:]], matcher.n_tokens)


#: Series of no model: the H that each has, and how so many documents of such a length are drawn.
KNOWN: dict[str, tuple[float, Callable[[tuple[int, int], np.random.Generator], Float[np.ndarray, "document time"]]]] = {
    "independent": (0.5, lambda shape, rng: rng.standard_exponential(shape)),
    "fractional noise, H .7": (0.7, lambda shape, rng: fractal.exponential_fractional(shape, 0.7, rng)),
    "fractional noise, H .9": (0.9, lambda shape, rng: fractal.exponential_fractional(shape, 0.9, rng)),
    "AR(1), .7": (0.5, lambda shape, rng: fractal.autoregressive(shape, 0.7, rng)),
    "AR(1), .95": (0.5, lambda shape, rng: fractal.autoregressive(shape, 0.95, rng)),
    "learning curve": (0.5, fractal.learning_curve),
    "levels by document": (0.5, fractal.offsets),
    "questions": (0.5, fractal.questions),
    "windows of 256 begun anew": (0.5, fractal.window_resets),
    "two relaxation times": (0.5, fractal.two_relaxations),
}
