"""Fuzzy induction beside the published scheme, which encodes every window of the context again for every prediction.

    OMP_NUM_THREADS=1 python benchmarks/fuzzy_matching.py             # 2 layers of width 128, 2,351 words
    OMP_NUM_THREADS=1 python benchmarks/fuzzy_matching.py published   # the published size: 67 million weights

One thread, CPU seconds, in one run. The matching model has its first weights: what it has learned decides neither
time nor memory. Each prediction is of the published scheme timed alone, on some of them; ours on all. Votes are
compared where both were made.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nextlens.models.batch import Batch
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.matching_model import MatchingConfig, MatchingModel
from nextlens.models.induction.window_features import WindowFeatures

SIZES = {
    "small": MatchingConfig(n_tokens=2351, n_out=64, n_layers=2, n_heads=4, d_model=128, reach=16),
    "published": MatchingConfig(n_tokens=50257),
}
CONTEXT, EVERY, TEMPERATURE = 1024, 8, 0.1
#: How many times as fast teacher-forced evaluation shall be.
WANTED = 100


def text(n_tokens: int, length: int) -> np.ndarray:
    """Tokens as frequent as words are."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, n_tokens + 1)
    return rng.choice(n_tokens, length, p=frequency / frequency.sum())


@torch.no_grad()
def published(model: MatchingModel, context: np.ndarray) -> np.ndarray:
    """One prediction: all windows are encoded, the last is compared with the others, and similarities are added up."""
    k, tokens = model.config.n_ctx, torch.from_numpy(context)
    ends = range(1, len(tokens) + 1)
    short = [model(Batch.from_tokens(F.pad(tokens[None, :end], (0, 1))))[0, -1] for end in ends if end < k]
    windows = F.pad(tokens.unfold(0, k, 1), (0, 1)) if len(tokens) >= k else None
    whole = [model(Batch.from_tokens(part))[:, -1] for part in windows.split(64)] if windows is not None else []
    unit = F.normalize(torch.cat([torch.stack(short), *whole]) if short else torch.cat(whole), dim=-1)
    similarity = torch.exp(-(1 - unit[:-1] @ unit[-1]) / TEMPERATURE)
    counts = torch.zeros(model.n_tokens)
    counts.index_add_(0, tokens[1:], similarity)
    return (counts / counts.sum()).numpy()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    done = work()
    return done, time.process_time() - start


def compared(title: str, ours: float, n_ours: int, theirs: float, n_theirs: int, difference: float) -> None:
    one, other = 1000 * ours / n_ours, 1000 * theirs / n_theirs
    print(f"\n{title}")
    print(f"  nextlens            {one:12.3f} ms a prediction   ({n_ours} predictions, {ours:.2f} s)")
    print(f"  every window again  {other:12.3f} ms a prediction   ({n_theirs} predictions, {theirs:.2f} s)")
    verdict = "at least" if other / one >= WANTED else "below"
    print(f"  {other / one:.0f} times as fast ({verdict} {WANTED}); probabilities differ by {difference:.1e} at most")


def every_position(model: MatchingModel, tokens: np.ndarray, n_theirs: int) -> None:
    """One text, all of it: what follows each of its prefixes."""
    positions = np.linspace(0, len(tokens) - 1, 2 * n_theirs + 1).astype(int)[1::2]
    votes, ours = timed(lambda: FuzzyInduction(WindowFeatures(model)).votes(tokens))
    laws, theirs = timed(lambda: [published(model, tokens[: position + 1]) for position in positions])
    difference = np.abs(votes.take(positions).probabilities(model.n_tokens) - laws).max()
    compared(f"{len(tokens)} tokens, every position", ours, len(tokens), theirs, n_theirs, difference)


def windows_of_a_document(model: MatchingModel, tokens: np.ndarray, n_theirs: int) -> None:
    """One prediction a window of 1024 tokens, one every 8 tokens, each window by itself."""
    starts = np.arange(0, len(tokens) - CONTEXT + 1, EVERY)
    matcher, last = FuzzyInduction(WindowFeatures(model)), np.array([CONTEXT - 1])

    def each() -> np.ndarray:
        return np.concatenate(
            [matcher.votes(tokens[s : s + CONTEXT], last).probabilities(model.n_tokens) for s in starts]
        )

    laws, ours = timed(each)
    some = np.linspace(0, len(starts) - 1, n_theirs).astype(int)
    expected, theirs = timed(lambda: [published(model, tokens[s : s + CONTEXT]) for s in starts[some]])
    difference = np.abs(laws[some] - expected).max()
    title = f"{len(tokens)} tokens, contexts of {CONTEXT}, one every {EVERY} tokens, each read by itself"
    compared(title, ours, len(starts), theirs, n_theirs, difference)
    positions = starts + CONTEXT - 1
    together = FuzzyInduction(WindowFeatures(model), window=CONTEXT)
    votes, ours = timed(lambda: together.votes(tokens, positions))
    difference = np.abs(votes.take(some).probabilities(model.n_tokens) - expected).max()
    title = "the same in one pass, where the first windows of a context still see what stands before it"
    compared(title, ours, len(starts), theirs, n_theirs, difference)


def token_by_token(model: MatchingModel, tokens: np.ndarray, n_theirs: int) -> None:
    """Generation: one token more at a time."""
    reader = FuzzyInduction(WindowFeatures(model)).reader()
    votes, ours = timed(lambda: [reader.read(int(token)) for token in tokens])
    ends = np.linspace(CONTEXT // 2, len(tokens), n_theirs).astype(int)
    laws, theirs = timed(lambda: [published(model, tokens[:end]) for end in ends])
    said = np.concatenate([votes[end - 1].probabilities(model.n_tokens) for end in ends])
    compared(f"token by token to {len(tokens)}", ours, len(tokens), theirs, n_theirs, np.abs(said - laws).max())


def main(size: str = "small") -> None:
    config = SIZES[size]
    model = MatchingModel(config).requires_grad_(False)
    tokens = text(config.n_tokens, 4096)
    n_weights = sum(weight.numel() for weight in model.parameters())
    print(f"{size}: {n_weights:,} weights, windows of {config.n_ctx} tokens; {torch.get_num_threads()} thread")
    if size == "published":
        every_position(model, tokens[: CONTEXT // 4], 2)
    else:
        every_position(model, tokens[:CONTEXT], 8)
        windows_of_a_document(model, tokens, 8)
        token_by_token(model, tokens[:CONTEXT], 8)
    print(f"\npeak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:2])
