"""A listener who is made up: targets that follow words, or their surprisal, or what came last time, or nothing.

What a pipeline must find, and must not find, is known here; and a first run needs no data.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy.signal import lfilter
from scipy.stats import gamma

from nextlens.models.arguments import at_least
from nextlens.probes.responses.listening import Listening, volume_times

#: What the targets of a simulated listener follow; as many targets each.
PLANTED = ("embedding", "surprisal", "recall", "absent")

TR = 2.0
#: Words a second, at most and at least, as tempo wanders.
TEMPO = (1.5, 4.5)
#: Correlation of successive volumes of the noise.
NOISE = 0.5


class Simulated(NamedTuple):
    """A simulated data set, and what is known of it because it was made.

    Attributes
    ----------
    listening : Listening
        Responses averaged over repeats; ``planted`` along ``target`` says what each follows, ``split`` along ``row``
        whether a story is to be trained or tested on.
    repeats : DataArray
        Dims (repeat, row, target): the single repeats of the test stories.
    vectors : array of shape (n_words, width)
        A vector for every word of the lexicon.
    features : DataArray
        Dims (word, feature): the true surprisal of every word, in bits.
    lexicon : list of str
    tokens : array of shape (word,)
        The number in the lexicon of every word heard.
    """

    listening: Listening
    repeats: xr.DataArray
    vectors: Float[np.ndarray, "entry width"]
    features: xr.DataArray
    lexicon: list[str]
    tokens: Int[np.ndarray, " word"]


def simulate(
    rng: np.random.Generator,
    *,
    train: int = 10,
    test: int = 2,
    volumes: int = 200,
    each: int = 10,
    entries: int = 60,
    width: int = 8,
    motifs: int = 6,
    repeats: int = 4,
    signal: float = 0.7,
    start: float | int = 10,
) -> Simulated:
    """Stories of a Markov chain over a small lexicon, with motifs that come back, and what was made to respond.

    Each story is a chain of its own transition matrix's words, into which every motif, three words that are seldom
    together, is written several times. Targets, z-scored noise apart:

    * ``embedding``: a random direction of the word's vector;
    * ``surprisal``: ``-log2 p(word | word before)`` under the chain, which is known exactly;
    * ``recall``: when the third word of a motif ends, a value drawn anew for each motif *in each story*: no feature
      of words tells it, its earlier occurrence does;
    * ``absent``: nothing.

    Values of words last from onset to onset, are convolved with :func:`haemodynamic_response`, standardised, and mixed
    with noise of lag-one correlation :data:`NOISE`: ``signal`` is the share of variance of one repeat.

    Parameters
    ----------
    rng : numpy.random.Generator
    train, test : int
        Stories.
    volumes : int, default=200
        Of each story.
    each : int, default=10
        Targets of each kind in :data:`PLANTED`.
    entries, width : int
        Words of the lexicon, and the width of their vectors.
    motifs, repeats : int
        Motifs of a story; repeats of a test story.
    signal : float, default=0.7
    start : int, default=10
        Seconds of the scan before the first word.

    Raises
    ------
    ValueError
        If a number is too small for a story to be told.
    """
    for name, value, least in (("train", train, 1), ("test", test, 1), ("volumes", volumes, 60), ("each", each, 1)):
        at_least(name, value, least)
    at_least("entries", entries, 3 * at_least("motifs", motifs, 1) + 1)
    at_least("repeats", repeats, 2)
    if not 0 < signal < 1:
        raise ValueError(f"signal={signal!r} must be above 0 and below 1, a share of variance")
    vectors = rng.standard_normal((entries, width))
    chain = rng.dirichlet(np.full(entries, 0.15), size=entries) * 0.98 + 0.02 / entries
    directions = rng.standard_normal((width, each))
    names = [f"story{number:02d}" for number in range(train + test)]
    told = [_told(rng, chain, motifs, volumes * TR - 2 * start, start) for _ in names]
    clean = [_clean(rng, one, vectors @ directions, volumes, each) for one in told]
    single = [_heard(rng, one, signal, 1 if number < train else repeats) for number, one in enumerate(clean)]
    planted = np.repeat(PLANTED, each)
    rows = _rows(names, volumes, train)
    response = xr.DataArray(
        np.concatenate([one.mean(0) for one in single]),
        dims=("row", "target"),
        coords={**rows, "planted": ("target", planted)},
    )
    tests = np.flatnonzero(response.split.values == "test")
    again = xr.DataArray(
        np.concatenate(single[train:], axis=1),
        dims=("repeat", "row", "target"),
        coords={name: ("row", np.asarray(value[1])[tests]) for name, value in rows.items()}
        | {"planted": ("target", planted)},
    )
    lexicon = [f"word{number:03d}" for number in range(entries)]
    words = _words(names, told, lexicon)
    surprisal = np.concatenate([one.surprisal for one in told])[:, None]
    along = {name: ("word", words[name].values) for name in ("story", "onset", "volume")}
    features = xr.DataArray(surprisal, dims=("word", "feature"), coords=along | {"feature": ["surprisal"]})
    facts = {"name": "simulated listener", "origin": "made up", "licence": "none needed", "tr": str(TR)}
    tokens = np.concatenate([one.tokens for one in told])
    return Simulated(Listening(response, words, facts), again, vectors, features, lexicon, tokens)


def haemodynamic_response(tr: float, seconds: float = 32.0) -> Float[np.ndarray, " volume"]:
    """The usual double gamma at multiples of ``tr``: peak near 5 s, undershoot a sixth as high near 15 s; sums to 1.

    Friston et al., "Event-related fMRI: characterizing differential responses", NeuroImage 7, 1998.
    """
    t = np.arange(0.0, seconds, tr)
    shape = gamma.pdf(t, 6) - gamma.pdf(t, 16) / 6
    return shape / shape.sum()


class _Told(NamedTuple):
    tokens: np.ndarray
    onset: np.ndarray
    surprisal: np.ndarray
    motif: np.ndarray  # which motif ends with this word, or -1


def _told(rng: np.random.Generator, chain: np.ndarray, motifs: int, seconds: float | int, start: float | int) -> _Told:
    """A story: words of the chain with motifs written over, and when each begins."""
    tempo = np.exp(np.cumsum(rng.standard_normal(int(seconds * TEMPO[1]))) * 0.03)
    gaps = 1.0 / np.clip(tempo / np.median(tempo) * np.mean(TEMPO), *TEMPO)
    onset = start + np.concatenate([[0.0], np.cumsum(gaps)])
    onset = onset[onset < start + seconds]
    tokens = np.empty(len(onset), dtype=np.int64)
    tokens[0] = rng.integers(len(chain))
    steps = np.cumsum(chain, axis=1)
    for t, u in enumerate(rng.random(len(onset) - 1)):
        tokens[t + 1] = min(int(np.searchsorted(steps[tokens[t]], u)), len(chain) - 1)
    phrases = rng.permutation(len(chain))[: 3 * motifs].reshape(motifs, 3)
    ends = np.full(len(onset), -1)
    places = rng.permutation(np.arange(2, len(onset) - 1, 12))
    for number, place in enumerate(places):
        tokens[place - 2 : place + 1] = phrases[number % motifs]
        ends[place] = number % motifs
    likely = np.concatenate([[1.0 / len(chain)], chain[tokens[:-1], tokens[1:]]])
    return _Told(tokens, onset, -np.log2(likely), ends)


def _clean(rng: np.random.Generator, told: _Told, along: np.ndarray, volumes: int, each: int) -> np.ndarray:
    """The response without noise, standardised; nothing for the absent."""
    recalled = rng.standard_normal((told.motif.max() + 1, each))
    third = np.where(told.motif[:, None] >= 0, recalled[told.motif], 0.0)
    of_words = np.hstack([along[told.tokens], np.repeat(told.surprisal[:, None], each, axis=1), third])
    at = np.floor(told.onset / TR).astype(np.int64)
    summed = np.zeros((volumes, of_words.shape[1]))
    np.add.at(summed, at, of_words - of_words.mean(0))
    slow = lfilter(haemodynamic_response(TR), 1.0, summed, axis=0)
    return np.hstack([(slow - slow.mean(0)) / slow.std(0), np.zeros((volumes, each))])


def _heard(rng: np.random.Generator, clean: np.ndarray, signal: float, repeats: int) -> np.ndarray:
    """Repeats of one response, each with slow noise of its own."""
    white = rng.standard_normal((repeats, len(clean) + 20, clean.shape[1]))
    noise = lfilter([np.sqrt(1 - NOISE**2)], [1.0, -NOISE], white, axis=1)[:, 20:]
    return np.sqrt(signal) * clean + np.sqrt(1 - signal) * noise


def _rows(names: list[str], volumes: int, train: int) -> dict[str, tuple[str, np.ndarray]]:
    volume = np.tile(np.arange(volumes), len(names))
    split = np.repeat(["train"] * train + ["test"] * (len(names) - train), volumes)
    return {
        "story": ("row", np.repeat(names, volumes)),
        "volume": ("row", volume),
        "time": ("row", volume_times(volume, TR)),
        "split": ("row", split),
    }


def _words(names: list[str], told: list[_Told], lexicon: list[str]) -> xr.Dataset:
    onset = np.concatenate([one.onset for one in told])
    return xr.Dataset(
        {
            "text": ("word", np.array(lexicon)[np.concatenate([one.tokens for one in told])]),
            "story": ("word", np.repeat(names, [len(one.onset) for one in told])),
            "onset": ("word", onset),
            "volume": ("word", np.floor(onset / TR).astype(np.int64)),
        }
    )
