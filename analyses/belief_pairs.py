"""Contexts in pairs: what one would have led to, had an observer of it believed what the other makes them believe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from nextlens.analyses.prefix_rows import Prefixes
from nextlens.models.arguments import at_least
from nextlens.models.processes.mixed_states import first_equal
from nextlens.probes.belief import folds_by_group

#: Beliefs, or laws, this close in every component are equal.
EQUAL = 1e-9


@dataclass(frozen=True, eq=False)
class Contexts:
    """Words of one length, each once, with their probabilities.

    Attributes
    ----------
    words : Int[np.ndarray, "word length"]
    probability : Float[np.ndarray, " word"]
        Sums to 1; if words were sampled, how often each occurred over all.
    beliefs : Float[np.ndarray, "word state"]
        The exact belief after each.
    laws : Float[np.ndarray, "word token"]
        The exact law of the token after each.
    """

    words: Int[np.ndarray, "word length"]
    probability: Float[np.ndarray, " word"]
    beliefs: Float[np.ndarray, "word state"]
    laws: Float[np.ndarray, "word token"]

    @classmethod
    def longest(cls, prefixes: Prefixes) -> Contexts:
        """The prefixes of ``n_ctx`` tokens."""
        last = prefixes.position == prefixes.n_ctx - 1
        words = prefixes.batch.tokens.cpu().numpy()[prefixes.first[:, -1]]
        weights = prefixes.weights[last]
        return cls(words, weights / weights.sum(), prefixes.beliefs.values[last], prefixes.next_token[last])

    def __len__(self) -> int:
        return len(self.words)

    @property
    def length(self) -> int:
        return self.words.shape[1]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Contexts, and for each the context whose belief is put in its place. Use :meth:`of` or :meth:`degenerate`.

    Attributes
    ----------
    prefixes : Prefixes
        Of which the longest are the contexts.
    contexts : Contexts
    source, target : Int[np.ndarray, " pair"]
        Rows of ``contexts``: the word that is read, and the one whose belief is put in its place.
    wrong : Int[np.ndarray, " pair"]
        A context drawn independently of both, for the control.
    fold : Int[np.ndarray, " word"]
        What edits a context is fitted on contexts of the other folds.
    """

    prefixes: Prefixes
    contexts: Contexts
    source: Int[np.ndarray, " pair"]
    target: Int[np.ndarray, " pair"]
    wrong: Int[np.ndarray, " pair"]
    fold: Int[np.ndarray, " word"]

    @classmethod
    def of(cls, prefixes: Prefixes, n_pairs: int, rng: np.random.Generator, *, n_folds: int = 5) -> Pairs:
        """Pairs of contexts drawn independently, each with its probability.

        Raises
        ------
        ValueError
            If ``n_pairs`` is below 1, ``n_folds`` below 2, or there are fewer contexts than folds.
        """
        contexts = Contexts.longest(prefixes)
        p = contexts.probability
        source, target, wrong = rng.choice(len(p), (3, int(at_least("n_pairs", n_pairs, 1))), p=p)
        return cls(prefixes, contexts, source, target, wrong, _folds(len(p), n_folds, rng))

    @staticmethod
    def any_degenerate(prefixes: Prefixes) -> bool:
        """Whether two contexts have equal next-token laws and different beliefs."""
        contexts = Contexts.longest(prefixes)
        return bool(_partnered(first_equal(contexts.laws, EQUAL), first_equal(contexts.beliefs, EQUAL)).any())

    @classmethod
    def degenerate(cls, prefixes: Prefixes, n_pairs: int, rng: np.random.Generator, *, n_folds: int = 5) -> Pairs:
        """Pairs of equal next-token law and different beliefs: an edit must leave the next law as it is.

        Sources are drawn by probability from the contexts that have such a partner, and targets by
        probability from the partners.

        Raises
        ------
        ValueError
            As :meth:`of`; and if no two contexts make such a pair.
        """
        contexts = Contexts.longest(prefixes)
        p = contexts.probability
        law, belief = first_equal(contexts.laws, EQUAL), first_equal(contexts.beliefs, EQUAL)
        partnered = _partnered(law, belief)
        if not partnered.any():
            raise ValueError(
                f"of the words of {contexts.length} tokens of {prefixes.process.name!r}, no two have equal "
                "next-token laws and different beliefs"
            )
        n_pairs = int(at_least("n_pairs", n_pairs, 1))
        source = rng.choice(len(p), n_pairs, p=p * partnered / (p @ partnered))
        weights = (p * (law == law[row]) * (belief != belief[row]) for row in source)
        target = np.array([rng.choice(len(p), p=weight / weight.sum()) for weight in weights])
        return cls(prefixes, contexts, source, target, rng.choice(len(p), n_pairs, p=p), _folds(len(p), n_folds, rng))

    def __len__(self) -> int:
        return len(self.source)

    def counterfactual(self, ahead: int) -> Float[np.ndarray, "pair word"]:
        """The exact law of the next ``ahead`` tokens from the target's belief: ``b* T_x1 ... T_xn w``.

        Words are in the order of counting, the last token changing fastest.
        """
        process = self.prefixes.process
        weight = self.contexts.beliefs[self.target][:, None]
        for _ in range(ahead):
            weight = np.einsum("pws,xsr->pwxr", weight, process.transition)
            weight = weight.reshape(len(self), -1, process.n_states)
        return np.maximum(weight @ process.functional, 0.0)


def _partnered(law: Int[np.ndarray, " word"], belief: Int[np.ndarray, " word"]) -> Bool[np.ndarray, " word"]:
    """Whether some context has the same law and another belief."""
    distinct = np.unique(np.stack([law, belief]), axis=1)[0]
    return np.bincount(distinct, minlength=len(law))[law] > 1


def _folds(n_contexts: int, n_folds: int, rng: np.random.Generator) -> Int[np.ndarray, " word"]:
    return folds_by_group(np.arange(n_contexts), int(at_least("n_folds", n_folds, 2)), rng)
