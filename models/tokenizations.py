"""The law of strings behind a law of tokens: all tokenizations of a text, all coverings of a prompt.

A token kernel spreads the probability of a text over every token string that spells it, and a prompt ends inside a
token as often as between two. Encoding a text in its one canonical way, as every benchmark does, loses the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nextlens.models.arguments import at_least
from nextlens.models.batch import Batch, refuse_out_of_range
from nextlens.models.kernel import Kernel
from nextlens.models.vocabulary import Vocabulary

#: What a decoder puts where bytes are no character.
NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class Covered(NamedTuple):
    """Probability found in a search of bounded width, and whether nothing was left out.

    Attributes
    ----------
    log_prob : float
        In nats: a lower bound, exact if ``whole``.
    whole : bool
    """

    log_prob: float
    whole: bool


def roundtrip_rate(vocabulary: Vocabulary, texts: Iterable[str]) -> float:
    """Share of texts for which ``decode(encode(text)) == text``; a text that is refused does not come back.

    Raises
    ------
    ValueError
        If there is no text.
    """
    return _share([_comes_back(vocabulary, text) for text in texts], "texts")


def canonical_rate(vocabulary: Vocabulary, strings: Iterable[Any]) -> float:
    """Share of token strings for which ``encode(decode(w)) == w``: what a kernel samples, encoding need not give.

    Raises
    ------
    ValueError
        If there is no string.
    """
    return _share([_is_canonical(vocabulary, string) for string in strings], "strings")


def pieces(vocabulary: Vocabulary) -> tuple[str, ...]:
    """What each token spells by itself; empty for a token that spells no whole character, or none at all.

    Such tokens cannot stand in a text of ASCII, of which coverings are then complete.
    """
    known = getattr(vocabulary, "pieces", None)
    if known is not None:
        return tuple(known)
    spelled = (vocabulary.decode([token]) for token in range(vocabulary.n_tokens))
    return tuple("" if NO_CHARACTER in one else one for one in spelled)


@dataclass(frozen=True, eq=False)
class TokenChain:
    """A kernel that looks at one token: the law of the first, and of the next after each.

    Parameters
    ----------
    opening : Float[np.ndarray, " token"]
    transition : Float[np.ndarray, "token next"]

    Raises
    ------
    ValueError
        If a law does not sum to one, or holds a number below 0.
    """

    opening: Float[np.ndarray, " token"]
    transition: Float[np.ndarray, "token next"]

    def __post_init__(self) -> None:
        rows = np.vstack([self.opening, self.transition])
        if self.transition.shape != (len(self.opening),) * 2 or not (rows >= 0).all():
            raise ValueError("opening and transition must be laws of one vocabulary, nothing below 0")
        worst = int(np.abs(rows.sum(1) - 1).argmax())
        if not np.isclose(rows[worst].sum(), 1, atol=1e-9):
            which = "opening" if worst == 0 else f"transition[{worst - 1}]"
            raise ValueError(f"{which} sums to {rows[worst].sum():.6g}; a law sums to one")

    @classmethod
    def counted(cls, tokens: Any, n_tokens: int, *, added: float = 0.05) -> TokenChain:
        """Bigrams of one token string, each count raised by ``added``; the opening law is that of single tokens."""
        tokens = np.asarray(tokens)
        counts = np.full((n_tokens, n_tokens), added)
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1.0)
        first = np.bincount(tokens, minlength=n_tokens) + added
        return cls(first / first.sum(), counts / counts.sum(1, keepdims=True))

    @property
    def n_tokens(self) -> int:
        return len(self.opening)

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """In nats, float64."""
        refuse_out_of_range("tokens", batch.tokens, self.n_tokens, limit_name="n_tokens")
        return torch.from_numpy(self._logs[1]).to(batch.device)[batch.tokens]

    @cached_property
    def _logs(self) -> tuple[Float[np.ndarray, " token"], Float[np.ndarray, "token next"]]:
        with np.errstate(divide="ignore"):
            return np.log(self.opening), np.log(self.transition)

    def log_prob(self, tokens: Sequence[int]) -> float:
        """Of one token string, in nats."""
        first, after = self._logs
        return float(first[tokens[0]] + sum(after[one, other] for one, other in pairwise(tokens)))


@dataclass(frozen=True, eq=False)
class Pushforward:
    """The law of characters behind a :class:`TokenChain`: a kernel of characters, exact.

    Row t is ``P(next character c | s) = cover(s c) / cover(s)``, s being the first t + 1 characters.

    Parameters
    ----------
    chain : TokenChain
    spelled : tuple of str
        What each token spells, as :func:`pieces` gives it.
    characters : str
        What characters are called: character i is token i of this kernel.

    Raises
    ------
    ValueError
        If the base is no TokenChain, whose coverings can be summed; of others there is :func:`covered`, a bound.
    """

    chain: Kernel
    spelled: tuple[str, ...]
    characters: str

    def __post_init__(self) -> None:
        if not isinstance(self.chain, TokenChain):
            raise ValueError(
                f"the base is a {type(self.chain).__name__}: coverings of a kernel that remembers more than one token "
                "cannot be summed exactly; covered() bounds them from below"
            )

    @property
    def n_tokens(self) -> int:
        return len(self.characters)

    def log_probs(self, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """In nats, float64.

        Raises
        ------
        ValueError
            If a prompt cannot be spelled.
        """
        rows = [
            [self.row("".join(self.characters[i] for i in row[: t + 1])) for t in range(len(row))]
            for row in batch.tokens.tolist()
        ]
        return torch.tensor(rows, dtype=torch.float64, device=batch.device)

    def row(self, text: str) -> list[float]:
        """The law of the character after ``text``, in nats."""
        whole = cover(self.chain, self.spelled, text)
        if whole == -np.inf:
            raise ValueError(f"{text!r} cannot be spelled by these tokens")
        return [cover(self.chain, self.spelled, text + one) - whole for one in self.characters]


def marginal(chain: TokenChain, spelled: Sequence[str], text: str) -> float:
    """``log Σ p(w)`` over every token string w that spells ``text``, in nats: at least that of any one of them.

    ``α(e, v) = Σ_u α(e - |v|, u) p(v | u)`` where v spells the text up to e; summed over v at its end.
    """
    return _summed(chain, spelled, text, covering=False)


def cover(chain: TokenChain, spelled: Sequence[str], text: str) -> float:
    """``log P(the text begins so)``: all token strings whose last token begins inside ``text`` and reaches its end.

    In nats. What most tokenizers are asked instead, what follows the canonical tokens of a prompt, gives none of
    the mass of tokens that reach over its end.
    """
    return _summed(chain, spelled, text, covering=True)


def covered(
    kernel: Kernel, opening: Float[np.ndarray, " token"], spelled: Sequence[str], text: str, *, width: int
) -> Covered:
    """:func:`cover` of any kernel, from below: the ``width`` most probable beginnings are followed, the others dropped.

    Parameters
    ----------
    opening : Float[np.ndarray, " token"]
        The law of the first token, in nats, which no row says.
    width : int

    Raises
    ------
    ValueError
        If ``width`` is below 1, or the text is empty.
    """
    at_least("width", width, 1)
    at_least("characters of the text", len(text), 1)
    found, whole = [-np.inf], True
    beams: list[tuple[float, int, tuple[int, ...]]] = [(0.0, 0, ())]
    while beams:
        rows = _after(kernel, opening, [one for *_, one in beams])
        longer = []
        for (log_prob, start, said), row in zip(beams, rows, strict=True):
            for token, piece in enumerate(spelled):
                if not piece or row[token] == -np.inf or not _agrees(piece, text, start):
                    continue
                if start + len(piece) >= len(text):
                    found.append(log_prob + row[token])
                else:
                    longer.append((log_prob + float(row[token]), start + len(piece), (*said, token)))
        longer.sort(key=lambda one: (-one[0], one[2]))
        whole = whole and len(longer) <= width
        beams = longer[:width]
    return Covered(float(np.logaddexp.reduce(found)), whole)


def canonical_next(
    chain: TokenChain, vocabulary: Vocabulary, spelled: Sequence[str], text: str, characters: str
) -> Float[np.ndarray, " character"]:
    """The law of the next character as the canonical tokens of a prompt would have it: biased at its boundary.

    The mass of what follows the last canonical token, summed by first characters.
    """
    law = chain.transition[vocabulary.encode(text)[-1]]
    first = np.array([characters.find(piece[:1]) if piece else -1 for piece in spelled])
    summed = np.bincount(first[first >= 0], law[first >= 0], minlength=len(characters))
    return summed / summed.sum()


def _summed(chain: TokenChain, spelled: Sequence[str], text: str, *, covering: bool) -> float:
    """Forward sums over token strings by where they end and on which token, rescaled as they shrink."""
    at_least("characters of the text", len(text), 1)
    n = len(text)
    alpha, scale = np.zeros((n + 1, chain.n_tokens)), np.zeros(n + 1)
    logs = -np.inf
    for start in range(n):
        if start and not alpha[start].any():
            continue
        if start:
            size = alpha[start].sum()
            step, log_step = (alpha[start] / size) @ chain.transition, scale[start] + np.log(size)
        else:
            step, log_step = chain.opening, 0.0
        for token, piece in enumerate(spelled):
            if not piece or not step[token] or not _agrees(piece, text, start):
                continue
            end = start + len(piece)
            if end < n:
                if not alpha[end].any():
                    scale[end] = log_step
                alpha[end, token] += step[token] * np.exp(log_step - scale[end])
            elif end == n or covering:
                logs = np.logaddexp(logs, log_step + np.log(step[token]))
    return float(logs)


def _agrees(piece: str, text: str, start: int) -> bool:
    """Whether the piece spells what the text says from ``start`` on, as far as both reach."""
    rest = text[start : start + len(piece)]
    return piece[: len(rest)] == rest


@torch.no_grad()
def _after(
    kernel: Kernel, opening: Float[np.ndarray, " token"], strings: Sequence[tuple[int, ...]]
) -> list[Float[np.ndarray, " token"]]:
    """The law after each token string, in nats; strings of one length are read together."""
    rows: list[np.ndarray] = [opening] * len(strings)
    for length in sorted({len(one) for one in strings if one}):
        which = [i for i, one in enumerate(strings) if len(one) == length]
        batch = Batch.from_tokens(np.pad(np.array([strings[i] for i in which]), ((0, 0), (0, 1))))
        for i, law in zip(which, kernel.log_probs(batch)[:, -1].double().cpu().numpy(), strict=True):
            rows[i] = law
    return rows


def _comes_back(vocabulary: Vocabulary, text: str) -> bool:
    try:
        return vocabulary.decode(vocabulary.encode(text)) == text
    except ValueError:
        return False


def _is_canonical(vocabulary: Vocabulary, string: Any) -> bool:
    try:
        return vocabulary.encode(vocabulary.decode(string)).tolist() == [int(token) for token in string]
    except ValueError:
        return False


def _share(found: Sequence[bool], name: str) -> float:
    at_least(f"number of {name}", len(found), 1)
    return sum(found) / len(found)
