"""Text whose every query has one source that can answer it: the corpus, the context, or a likeness of meaning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least

CLASSES, SYNONYMS, VALUES, FILLERS, FRESH = 24, 4, 96, 200, 30
#: Where each kind of token begins: concepts, values, fillers, fillers that only test documents hold, the separator.
FIRST_VALUE = CLASSES * SYNONYMS
FIRST_FILLER = FIRST_VALUE + VALUES
FIRST_FRESH = FIRST_FILLER + FILLERS
SEPARATOR = FIRST_FRESH + FRESH
PHRASES, PHRASE, FACTS, HEAD, BLOCK = 24, 4, 24, 10, 16

#: What can answer each kind of query.
SOURCE_OF = {"override": "context", "synonym": "similar", "copy": "context", "fact": "corpus"}


@dataclass(frozen=True, eq=False)
class Queried:
    """A document, and which of its tokens are asked for.

    Parameters
    ----------
    tokens : Int[np.ndarray, "time"]
    position : Int[np.ndarray, "query"]
        The last token read; ``tokens[position + 1]`` is asked for.
    kind : tuple of str
        Of each query, a key of ``SOURCE_OF``.
    """

    tokens: Int[np.ndarray, " time"]
    position: Int[np.ndarray, " query"]
    kind: tuple[str, ...]

    @property
    def answer(self) -> Int[np.ndarray, " query"]:
        """The tokens asked for."""
        return self.tokens[self.position + 1]

    @property
    def source(self) -> tuple[str, ...]:
        """What can answer each query: ``"corpus"``, ``"context"`` or ``"similar"``."""
        return tuple(SOURCE_OF[kind] for kind in self.kind)


@dataclass(frozen=True, eq=False)
class SourcedText:
    """Phrases in synonyms, copied blocks and facts, written so that it is known what can answer each query.

    There are 24 concepts of 4 synonyms, 96 values, 200 fillers, 30 fillers that only test documents hold, and a
    separator before each document. A *phrase* is four concepts, each said by any of its synonyms, and then a
    value: one of the phrase's own four, the same throughout a document. A *fact* is ten fillers and their
    value. Between episodes stand 2 to 5 random fillers.

    Queries of test documents, by kind:

    - ``synonym``: a phrase said before, in other synonyms throughout: only a likeness of meaning leads there.
    - ``copy``: the second half of 16 fillers that were said before: only the context has them.
    - ``fact``: only the corpus has it.
    - ``override``: a fact said before with another value: corpus and context both match its ten tokens and
      no more, and the context is right.

    Parameters
    ----------
    phrase : Int[np.ndarray, "phrase concept"]
        Concepts, by number.
    phrase_value : Int[np.ndarray, "phrase choice"]
        Tokens; no two phrases share one.
    head : Int[np.ndarray, "fact filler"]
    fact_value : Int[np.ndarray, "fact"]

    Examples
    --------
    >>> text = SourcedText.drawn(np.random.default_rng(0))
    >>> document = text.test(1, np.random.default_rng(1))[0]
    >>> {kind: document.kind.count(kind) for kind in SOURCE_OF}
    {'override': 1, 'synonym': 4, 'copy': 8, 'fact': 1}
    """

    phrase: Int[np.ndarray, "phrase concept"]
    phrase_value: Int[np.ndarray, "phrase choice"]
    head: Int[np.ndarray, "fact filler"]
    fact_value: Int[np.ndarray, " fact"]

    n_tokens = SEPARATOR + 1

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> SourcedText:
        """A language at random: no two phrases are alike, nor do two heads begin alike."""
        number = rng.choice(CLASSES**PHRASE, PHRASES, replace=False)
        begins = rng.permutation(FILLERS)[:FACTS, None]
        return cls(
            np.stack(np.unravel_index(number, (CLASSES,) * PHRASE), 1),
            FIRST_VALUE + rng.permutation(VALUES).reshape(PHRASES, -1),
            FIRST_FILLER + np.hstack([begins, rng.integers(FILLERS, size=(FACTS, HEAD - 1))]),
            FIRST_VALUE + rng.integers(VALUES, size=FACTS),
        )

    def reference(self, n: int, rng: np.random.Generator, *, episodes: int = 12) -> list[Int[np.ndarray, " _"]]:
        """Documents of a corpus: three episodes in four are phrases, the rest facts.

        Raises
        ------
        ValueError
            If ``n`` or ``episodes`` is below 1.
        """
        at_least("n", n, 1)
        at_least("episodes", episodes, 1)
        documents = []
        for _ in range(n):
            chosen = self._choice(rng)
            parts = [np.array([SEPARATOR])]
            for _ in range(episodes):
                parts.append(_noise(rng))
                if rng.random() < 0.75:
                    phrase = int(rng.integers(PHRASES))
                    parts += [self._said(phrase, rng.integers(SYNONYMS, size=PHRASE)), chosen[phrase, None]]
                else:
                    fact = int(rng.integers(FACTS))
                    parts += [self.head[fact], self.fact_value[fact, None]]
            documents.append(np.concatenate([*parts, _noise(rng)]))
        return documents

    def test(self, n: int, rng: np.random.Generator) -> list[Queried]:
        """Documents with queries: four phrases, a block and a changed fact are told, then asked for in random order.

        Raises
        ------
        ValueError
            If ``n`` is below 1.
        """
        return [self._document(rng) for _ in range(at_least("n", n, 1))]

    def _document(self, rng: np.random.Generator) -> Queried:
        chosen, phrases = self._choice(rng), rng.choice(PHRASES, 4, replace=False).tolist()
        synonyms = rng.integers(SYNONYMS, size=(4, PHRASE))
        block = FIRST_FILLER + rng.integers(FILLERS, size=BLOCK)
        changed, told = rng.choice(FACTS, 2, replace=False)
        other = FIRST_VALUE + (self.fact_value[changed] - FIRST_VALUE + rng.integers(1, VALUES)) % VALUES
        before = FIRST_FRESH + rng.choice(FRESH, 3, replace=False)[:, None]

        first = [
            np.append(self._said(phrase, said), chosen[phrase]) for phrase, said in zip(phrases, synonyms, strict=True)
        ]
        first += [block, np.concatenate([before[0], self.head[changed], [other]])]
        asked = [
            ("synonym", np.append(self._said(phrase, _others(said, rng)), chosen[phrase]), [PHRASE])
            for phrase, said in zip(phrases, synonyms, strict=True)
        ]
        asked += [
            ("copy", block, list(range(BLOCK // 2, BLOCK))),
            ("override", np.concatenate([before[1], self.head[changed], [other]]), [1 + HEAD]),
            ("fact", np.concatenate([before[2], self.head[told], self.fact_value[told, None]]), [1 + HEAD]),
        ]
        parts, time, found = [np.array([SEPARATOR])], 1, []
        for kind, episode, answers in [("", first[i], []) for i in rng.permutation(len(first))] + [
            asked[i] for i in rng.permutation(len(asked))
        ]:
            noise = _noise(rng)
            found += [(time + len(noise) + at - 1, kind) for at in answers]
            parts += [noise, episode]
            time += len(noise) + len(episode)
        position, kind = zip(*found, strict=True)
        return Queried(np.concatenate([*parts, _noise(rng)]), np.array(position), kind)

    def _choice(self, rng: np.random.Generator) -> Int[np.ndarray, " phrase"]:
        """The value that a document has for each phrase."""
        return self.phrase_value[np.arange(PHRASES), rng.integers(self.phrase_value.shape[1], size=PHRASES)]

    def _said(self, phrase: int, synonyms: Int[np.ndarray, " concept"]) -> Int[np.ndarray, " concept"]:
        return SYNONYMS * self.phrase[phrase] + synonyms


def meanings(tokens: Int[np.ndarray, " time"], last: int = PHRASE) -> Float[np.ndarray, "time feature"]:
    """What an ideal matcher compares: the meanings of the last few tokens, one-hot, of unit length together.

    A concept means itself whichever synonym says it; every other token means itself. The cosine of two rows is the
    share of the ``last`` meanings that agree, place by place.

    Raises
    ------
    ValueError
        If ``last`` is below 1.
    """
    at_least("last", last, 1)
    meaning = np.where(tokens < FIRST_VALUE, tokens // SYNONYMS, tokens - FIRST_VALUE + CLASSES)
    n_meanings = SEPARATOR + 1 - FIRST_VALUE + CLASSES
    features = np.zeros((len(tokens), last, n_meanings))
    for back in range(min(last, len(tokens))):
        features[np.arange(back, len(tokens)), back, meaning[: len(tokens) - back]] = 1.0
    return features.reshape(len(tokens), -1) / np.sqrt(np.maximum(features.sum((1, 2)), 1))[:, None]


def _noise(rng: np.random.Generator) -> Int[np.ndarray, " filler"]:
    return FIRST_FILLER + rng.integers(FILLERS, size=rng.integers(2, 6))


def _others(synonyms: Int[np.ndarray, " concept"], rng: np.random.Generator) -> Int[np.ndarray, " concept"]:
    """For each concept a synonym other than the one given."""
    return (synonyms + rng.integers(1, SYNONYMS, size=len(synonyms))) % SYNONYMS
