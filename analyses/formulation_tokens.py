"""What tokens do to the law of characters: a known chain of characters, byte pairs, and two ways to ask a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nextlens.analyses.formulation import stationary
from nextlens.models.merges import Merges
from nextlens.models.tokenizations import (
    Pushforward,
    TokenChain,
    canonical_next,
    canonical_rate,
    marginal,
    pieces,
    roundtrip_rate,
)

#: Characters, and the chain that they follow: 1.41863 bits a character.
CHARACTERS = "abc"
CHAIN = np.array([[0.1, 0.6, 0.3], [0.5, 0.1, 0.4], [0.3, 0.3, 0.4]])
MERGES = (0, 2, 4, 8, 16)


def tokenization_table(
    rng: np.random.Generator,
    *,
    merges: Sequence[int] = MERGES,
    characters: int = 60_000,
    texts: int = 15,
    length: int = 200,
    samples: int = 400,
    sampled: int = 40,
    prompts: int = 40,
    prompt: int = 30,
) -> dict[str, Any]:
    """Byte pairs trained on the chain's characters, a bigram of tokens counted, and the law of characters behind it.

    Returns
    -------
    dict
        ``rate``, bits a character of the chain itself; ``rows``, for each number of merges the bits a character of
        canonical tokens and of all tokenizations, the share of sampled token strings that encoding would not give,
        and the total variation from the truth of the next character: after canonical prompts, and by coverings.
    """
    law = stationary(CHAIN)
    rate = float(-(law @ (CHAIN * np.log2(CHAIN)).sum(1)))
    text = _said(law, characters, rng)
    tested = [_said(law, length, rng) for _ in range(texts)]
    asked = [_said(law, prompt, rng) for _ in range(prompts)]
    rows = []
    for n in merges:
        vocabulary = Merges.trained(text, n, CHARACTERS)
        chain = TokenChain.counted(vocabulary.encode(text), vocabulary.n_tokens)
        spelled = pieces(vocabulary)
        canonical = [-chain.log_prob(vocabulary.encode(one).tolist()) for one in tested]
        all_of_them = [-marginal(chain, spelled, one) for one in tested]
        if not all(few <= many + 1e-9 for few, many in zip(all_of_them, canonical, strict=True)):
            raise AssertionError("one tokenization is more probable than all of them")
        said = [_sampled(chain, sampled, rng) for _ in range(samples)]
        pushed = Pushforward(chain, spelled, CHARACTERS)
        truth = [CHAIN[CHARACTERS.index(one[-1])] for one in asked]
        boundary = [canonical_next(chain, vocabulary, spelled, one, CHARACTERS) for one in asked]
        exact = [np.exp(pushed.row(one)) for one in asked]
        scale = texts * length * np.log(2)
        rows.append(
            {
                "merges": n,
                "tokens": vocabulary.n_tokens,
                "canonical bits": float(sum(canonical) / scale),
                "marginal bits": float(sum(all_of_them) / scale),
                "not canonical": 1 - canonical_rate(vocabulary, said),
                "round trips": roundtrip_rate(vocabulary, tested),
                "canonical prompt": _apart(boundary, truth),
                "exact covering": _apart(exact, truth),
            }
        )
    return {"rate": rate, "rows": rows}


def table_said(found: Mapping[str, Any]) -> str:
    """The table, in lines."""
    lines = [
        f"a chain of characters of {found['rate']:.5f} bits; a bigram of byte-pair tokens counted on its text",
        "merges  tokens  bits canonical  bits marginal  not canonical  TV, canonical prompt  TV, exact covering",
    ]
    lines += [
        f"{row['merges']:6d}  {row['tokens']:6d}  {row['canonical bits']:14.5f}  {row['marginal bits']:13.5f}  "
        f"{row['not canonical']:13.4f}  {row['canonical prompt']:20.3f}  {row['exact covering']:18.3f}"
        for row in found["rows"]
    ]
    return "\n".join(lines)


def _apart(laws: Sequence[Float[np.ndarray, " character"]], truth: Sequence[Float[np.ndarray, " character"]]) -> float:
    return float(np.mean([0.5 * np.abs(one - other).sum() for one, other in zip(laws, truth, strict=True)]))


def _said(law: Float[np.ndarray, " state"], length: int, rng: np.random.Generator) -> str:
    first, after = law.cumsum(), CHAIN.cumsum(1)
    points = rng.random(length)
    states = [min(int(np.searchsorted(first, points[0])), 2)]
    for point in points[1:]:
        states.append(min(int(np.searchsorted(after[states[-1]], point)), 2))
    return "".join(CHARACTERS[one] for one in states)


def _sampled(chain: TokenChain, length: int, rng: np.random.Generator) -> Int[np.ndarray, " time"]:
    tokens = [int(rng.choice(chain.n_tokens, p=chain.opening))]
    for _ in range(length - 1):
        tokens.append(int(rng.choice(chain.n_tokens, p=chain.transition[tokens[-1]])))
    return np.array(tokens)
