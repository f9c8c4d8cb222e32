"""Why a GIM predicts what it predicts: the places that it points at, what stands there, and how much each counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least, between
from nextlens.models.induction.answers import SOURCES, Answers, Threshold
from nextlens.models.induction.explanation_page import fragment, page
from nextlens.models.induction.token_ids import checked
from nextlens.models.induction.votes import Places
from nextlens.models.vocabulary import Vocabulary

#: Who predicts, in words.
IN_WORDS = {
    "corpus": "the longest match in the corpus",
    "context": "the longest match in the context",
    "similar": "all earlier contexts, by likeness",
}


@dataclass(frozen=True, eq=False)
class Passage:
    """One place that is pointed at, and what stands around it.

    Parameters
    ----------
    document : int
        -1 is the context itself.
    name : str
        Of the document.
    offset : int
        Of the proposed token in its document.
    before, match : Int[np.ndarray, "n"]
        Tokens before the proposed one: the match, and those before it. Of places that are alike nothing is matched.
    proposed : int
    after : Int[np.ndarray, "n"]
        Tokens after the proposed one.
    share : float
        Of all weight.
    """

    document: int
    name: str
    offset: int
    before: Int[np.ndarray, " b"]
    match: Int[np.ndarray, " m"]
    proposed: int
    after: Int[np.ndarray, " a"]
    share: float


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """One prediction: who makes it, from which places, and what the other parts would have said.

    ``str()`` is for the terminal; in Jupyter it shows itself as a table; ``to_json``, ``to_html`` and
    ``to_dataset`` are for others.

    Parameters
    ----------
    tokens : Int[np.ndarray, "time"]
        The context.
    threshold : Threshold
    answers : Answers
        One row: what each part said.
    places : Places
        Every place that has a part in the prediction; in a corpus, beyond 100,000 occurrences, one for each next token.
    passages : tuple of Passage
        Those that weigh most.
    n_tokens : int
    floor : float
    vocabulary : Vocabulary, optional
        Without one tokens are shown as numbers.
    """

    tokens: Int[np.ndarray, " time"]
    threshold: Threshold
    answers: Answers
    places: Places
    passages: tuple[Passage, ...]
    n_tokens: int
    floor: float
    vocabulary: Vocabulary | None = None

    @property
    def source(self) -> str:
        """Who predicts: ``"corpus"``, ``"context"`` or ``"similar"``."""
        return self.places.source

    @property
    def n_corpus(self) -> int:
        """How many tokens at the end of the context occur in the corpus; 0 without one."""
        return int(self.answers.corpus.length[0])

    @property
    def n_context(self) -> int:
        """How many tokens at the end of the context occur earlier in it."""
        return int(self.answers.context.length[0])

    @cached_property
    def law(self) -> Float[np.ndarray, " token"]:
        """The prediction, rebuilt from the places: their weights summed, over the sum, mixed with the floor."""
        weight = np.bincount(self.places.token, self.places.weight, minlength=self.n_tokens)
        law = weight / weight.sum() if weight.any() else np.full(self.n_tokens, 1 / self.n_tokens)
        return (1 - self.floor) * law + self.floor / self.n_tokens

    @property
    def candidates(self) -> Int[np.ndarray, " candidate"]:
        """The tokens that any place proposes, the most probable first; of equals the lowest."""
        return self._proposed[0]

    @property
    def probabilities(self) -> Float[np.ndarray, " candidate"]:
        """Those of :attr:`candidates`, with no dense law built."""
        return self._proposed[1]

    @cached_property
    def _proposed(self) -> tuple[Int[np.ndarray, " candidate"], Float[np.ndarray, " candidate"]]:
        token, which = np.unique(self.places.token, return_inverse=True)
        weight = np.bincount(which, self.places.weight, minlength=len(token)).astype(np.float64)
        law = (1 - self.floor) * weight / weight.sum() + self.floor / self.n_tokens if len(token) else weight
        order = np.argsort(-law, kind="stable")
        return token[order], law[order]

    def spelled(self, tokens: Iterable[SupportsIndex]) -> str:
        """What tokens spell; their numbers, without a vocabulary."""
        if self.vocabulary is None:
            return " ".join(str(int(token)) for token in tokens)
        return self.vocabulary.decode([int(token) for token in tokens])

    def others(self) -> dict[str, dict[str, Any]]:
        """What each part that voted says by itself: its ``n``, its likeliest ``token``, and how probable that is."""
        said = {}
        for source in SOURCES:
            votes = getattr(self.answers, source)
            token, weight = votes.row(0)
            if len(token):
                best = int(weight.argmax())
                probability = float(weight[best] / weight.sum())
                said[source] = {"n": int(votes.length[0]), "token": int(token[best]), "probability": probability}
        return said

    def to_dataset(self) -> xr.Dataset:
        """All places (dim ``place``) and all candidates (dim ``candidate``), and in ``attrs`` who predicts and why."""
        places = {name: ("place", getattr(self.places, name)) for name in ("document", "offset", "token", "weight")}
        return xr.Dataset(
            {**places, "probability": ("candidate", self.probabilities)},
            coords={"candidate": self.candidates},
            attrs={**self._numbers(), "document_of_the_context": -1},
        )

    def as_json(self) -> dict[str, Any]:
        """Numbers, candidates and passages, as plain values."""
        return {
            **self._numbers(),
            "context": self.spelled(self.tokens),
            "others": {name: {**one, "text": self.spelled([one["token"]])} for name, one in self.others().items()},
            "candidates": [
                {"token": int(token), "text": self.spelled([token]), "probability": float(probability)}
                for token, probability in zip(self.candidates, self.probabilities, strict=True)
            ],
            "passages": [
                {
                    "document": one.document,
                    "name": one.name,
                    "offset": one.offset,
                    "before": self.spelled(one.before),
                    "match": self.spelled(one.match),
                    "token": one.proposed,
                    "proposed": self.spelled([one.proposed]),
                    "after": self.spelled(one.after),
                    "share": one.share,
                }
                for one in self.passages
            ],
        }

    def to_json(self) -> str:
        """:meth:`as_json` as text."""
        return json.dumps(self.as_json(), ensure_ascii=False, allow_nan=False)

    def to_html(self) -> str:
        """A whole page that needs no other file and fetches nothing."""
        return page(self.as_json(), self.in_words)

    def _repr_html_(self) -> str:
        return fragment(self.as_json(), self.in_words)

    @property
    def in_words(self) -> str:
        """Who predicts and why, in one sentence."""
        if not len(self.places):
            return "Nothing speaks for any token: all are alike."
        unheard = self.source != "similar" and len(self.answers.short(self.threshold)) > 0
        rule = "nothing that is alike votes" if unheard else f"threshold {self.threshold}"
        held = f"n_corpus={self.n_corpus}, n_context={self.n_context}, {rule}"
        n = self.places.length
        match = "" if self.source == "similar" else f", {n} token{'s' * (n != 1)}"
        count = len(self.places) if self.source == "similar" else round(self.places.weight.sum())
        many = f"{count:,} place{'s' * (count != 1)}"
        if count > len(self.places):
            many += ", one named for each next token"
        return f"Predicted by {IN_WORDS[self.source]}{match}: {many} ({held})."

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        found = self.as_json()
        lines = [f"after     …{printable(found['context'])[-60:]}", self.in_words]
        for one in found["candidates"][:5]:
            lines.append(f"  {one['probability']:6.3f}  {printable(one['text'])}")
        if len(found["candidates"]) > 5:
            lines.append(f"          and {len(found['candidates']) - 5} more")
        for name, one in found["others"].items():
            if name != self.source:
                lines.append(
                    f"{name} alone: n={one['n']}, {printable(one['text'])!s} with probability {one['probability']:.3f}"
                )
        width = max((len(one["name"]) for one in found["passages"]), default=0)
        for one in found["passages"]:
            text = (
                f"{printable(one['before'])}[{printable(one['match'])}]" if one["match"] else printable(one["before"])
            )
            where = f"{one['name']:{width}s} at {one['offset']}"
            lines.append(f"  {one['share']:6.3f}  {where}: …{text} -> {printable(one['proposed'])}")
        if len(self.passages) < len(self.places):
            lines.append(f"          and {len(self.places) - len(self.passages):,} more places")
        return "\n".join(lines)

    def _numbers(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "n": self.places.length,
            "n_corpus": self.n_corpus,
            "n_context": self.n_context,
            "threshold_corpus": self.threshold.corpus,
            "threshold_context": self.threshold.context,
            "floor": float(self.floor),
            "n_tokens": self.n_tokens,
            "places": len(self.places),
        }


def explain(
    gim: Any,
    tokens: Int[np.ndarray, " time"],
    position: int | None = None,
    *,
    vocabulary: Vocabulary | None = None,
    names: Sequence[str] | None = None,
    most: int = 10,
    around: int = 8,
) -> Explanation:
    """Who predicts what follows ``tokens[: position + 1]``, and from which places.

    Parameters
    ----------
    gim : GIM
    tokens : Int[np.ndarray, "time"]
    position : int, optional
        The last token read; that of ``tokens`` if None.
    vocabulary : Vocabulary, optional
        What tokens spell.
    names : sequence of str, optional
        Of the documents of the corpus.
    most : int, default=10
        Of how many places the text is kept; the heaviest.
    around : int, default=8
        How many tokens of it before the match, and after the proposed token.

    Raises
    ------
    ValueError
        If there is no such position, a token is none, a number is negative, or there are fewer names than documents.

    Examples
    --------
    >>> from nextlens.models.induction.exact import ExactInduction
    >>> from nextlens.models.induction.gim import GIM
    >>> print(explain(GIM(exact=ExactInduction(9), threshold=1), np.array([5, 6, 7, 5, 6])))
    after     …5 6 7 5 6
    Predicted by the longest match in the context, 2 tokens: 1 place (n_corpus=0, n_context=2, threshold 1).
       1.000  7
       1.000  context at 2: …[5 6] -> 7
    """
    last = len(tokens) - 1 if position is None else int(between("position", position, 0, len(tokens) - 1))
    at_least("most", most, 0)
    at_least("around", around, 0)
    read = checked("tokens", tokens[: last + 1], gim.n_tokens)
    answers = gim.answers(read, np.array([last]))
    places = gim.places_of(SOURCES[int(answers.source(gim.threshold)[0])], read)
    n_documents = sum(index.n_documents for index in _indexes(gim))
    if names is not None and len(names) < n_documents:
        raise ValueError(f"names has {len(names)}, and the corpus {n_documents} documents; give one for each")
    document, name = _texts(gim, read), _names(names)
    total = places.weight.sum()
    heaviest = places.heaviest(most)
    passages = []
    for d, offset, token, weight in zip(
        heaviest.document.tolist(), heaviest.offset.tolist(), heaviest.token.tolist(), heaviest.weight, strict=True
    ):
        text, start = document(d), offset - places.length
        passages.append(
            Passage(
                d,
                name(d),
                offset,
                text[max(0, start - around) : start],
                text[start:offset],
                token,
                text[offset + 1 : offset + 1 + around],
                float(weight / total),
            )
        )
    return Explanation(read, gim.threshold, answers, places, tuple(passages), gim.n_tokens, gim.floor, vocabulary)


def printable(text: str) -> str:
    """``text`` on one line: what a terminal would not print as it is, line breaks included, is escaped.

    Examples
    --------
    >>> printable("to\\n\\x1b[31mred")
    'to\\\\n\\\\x1b[31mred'
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _indexes(gim: Any) -> tuple[Any, ...]:
    return getattr(gim.infinigram, "indexes", ())


def _texts(gim: Any, context: Int[np.ndarray, " time"]) -> Callable[[int], Int[np.ndarray, " time"]]:
    """From the number of a document to its tokens; -1 is the context."""

    def tokens_of(document: int) -> Int[np.ndarray, " time"]:
        at = document
        for index in _indexes(gim):
            if 0 <= at < index.n_documents:
                return index.document(at)
            at -= index.n_documents
        return context

    return tokens_of


def _names(names: Sequence[str] | None) -> Callable[[int], str]:
    def name_of(document: int) -> str:
        if document < 0:
            return "context"
        return f"document {document}" if names is None else names[document]

    return name_of
