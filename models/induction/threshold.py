"""How long a match must be before it is trusted: chosen on held-out text, document by document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from nextlens.models.arguments import at_least, one_of
from nextlens.models.induction.answers import CONTEXT, CORPUS, SIMILAR, Answers, Threshold
from nextlens.models.induction.document_bootstrap import document_means, interval_95
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.scores import bits, score_votes

#: No threshold above this is tried unless asked for.
LONGEST_TRIED = 24
#: What may be made as good as possible: right under one of the rules for ties, or bits a token with a floor.
CRITERIA = ("expected", "strict", "inclusive", "bits")


@dataclass(frozen=True, eq=False)
class ThresholdFit:
    """A threshold, and how good each would have been.

    Parameters
    ----------
    threshold : Threshold
        The best on all documents; of equals the smallest.
    curve : xr.Dataset
        Over ``threshold`` (one number for both): ``score`` with ``low`` and ``high``, its 95 % interval over
        documents; ``difference`` from the threshold chosen, paired, with its own interval ``difference_low`` and
        ``difference_high``; ``similar``, the share of predictions that are left to what is alike.
    held_out : float
        The mean score of documents under the threshold that the others choose: what the choice gives on text
        that it has not seen.
    by_fold : tuple of Threshold
        What each fold would have chosen.
    """

    threshold: Threshold
    curve: xr.Dataset
    held_out: float
    by_fold: tuple[Threshold, ...]


def fit_threshold(
    gim: GIM,
    texts: Sequence[Int[np.ndarray, " _"]],
    *,
    positions: Sequence[Int[np.ndarray, " _"]] | None = None,
    documents: Sequence[int] | None = None,
    rng: np.random.Generator,
    **how: object,
) -> ThresholdFit:
    """The threshold that predicts ``texts`` best; its own count for nothing.

    Each part answers once; every threshold then only chooses among the answers.

    Parameters
    ----------
    gim : GIM
        Its corpus must not hold the texts.
    texts : sequence of Int[np.ndarray, "time"]
    positions : sequence of Int[np.ndarray, "row"], optional
        For each text the last tokens read: what follows them is predicted. All but the last token if None.
    documents : sequence of int, optional
        To which document each text belongs; each is one of its own if None.
    **how
        See :func:`choose_threshold`.

    Raises
    ------
    ValueError
        If there is no text, lengths differ, or as :func:`choose_threshold`.
    """
    if not len(texts):
        raise ValueError("texts is empty; a threshold is chosen on at least two documents")
    short = [number for number, text in enumerate(texts) if len(text) < 2]
    if short:
        raise ValueError(
            f"texts[{short[0]}] has {len(texts[short[0]])} token; a prediction needs one read and one to come"
        )
    asked = [np.arange(len(text) - 1) for text in texts] if positions is None else list(positions)
    owner = range(len(texts)) if documents is None else documents
    if not len(texts) == len(asked) == len(owner):
        raise ValueError(f"there are {len(texts)} texts, {len(asked)} positions and {len(owner)} documents")
    answers = Answers.joined([gim.answers(text[:-1], at) for text, at in zip(texts, asked, strict=True)])
    targets = np.concatenate([text[at + 1] for text, at in zip(texts, asked, strict=True)])
    rows = np.repeat(np.array(owner), [len(at) for at in asked])
    return choose_threshold(answers, targets, rows, gim.n_tokens, rng=rng, floor=gim.floor, **how)


def choose_threshold(
    answers: Answers,
    targets: Int[np.ndarray, " row"],
    documents: Int[np.ndarray, " row"],
    n_tokens: int,
    *,
    rng: np.random.Generator,
    thresholds: Sequence[int] | None = None,
    criterion: str = "expected",
    separate: bool = False,
    folds: int = 5,
    floor: float = 0.0,
    draws: int = 2000,
) -> ThresholdFit:
    """The threshold under which ``answers`` say best what came, cross-validated by document.

    Parameters
    ----------
    answers : Answers
    targets, documents : Int[np.ndarray, "row"]
        What came, and in which document.
    n_tokens : int
    thresholds : sequence of int, optional
        To try; from 0 to one above the longest match, at most ``LONGEST_TRIED``, if None.
    criterion : {"expected", "strict", "inclusive", "bits"}
        See :class:`~nextlens.models.induction.scores.Scores`; fewest ``bits`` need a ``floor`` above 0.
    separate : bool, default=False
        Choose one threshold for the corpus and one for the context.
    folds : int, default=5
        Into which the documents are dealt at random; fewer if there are fewer documents.

    Raises
    ------
    ValueError
        If a value is out of range, there are fewer than two documents, or what came would cost infinitely many bits.
    """
    one_of("criterion", criterion, CRITERIA)
    at_least("folds", folds, 2)
    named, member = np.unique(documents, return_inverse=True)
    if len(named) < 2:
        raise ValueError(f"documents name {len(named)} document; a threshold is cross-validated on at least two")
    if criterion == "bits" and floor == 0:
        raise ValueError("floor=0 makes what no part votes for cost infinitely many bits; give one above 0")
    if len(targets) and not 0 <= targets.min() <= targets.max() < n_tokens:
        worst = targets.min() if targets.min() < 0 else targets.max()
        raise ValueError(f"targets hold {worst}; with n_tokens={n_tokens} they must lie in 0 .. {n_tokens - 1}")
    if thresholds is not None and not len(thresholds):
        raise ValueError("thresholds is empty; give at least one to try")
    if thresholds is None:
        thresholds = range(min(int(answers.length.max()) + 1, LONGEST_TRIED) + 1)
    tried = np.unique([Threshold.of(int(one)).corpus for one in thresholds])
    gained, left = _by_threshold(answers, targets, n_tokens, tried, criterion, floor)

    sums = np.stack([[np.bincount(member, row) for row in part] for part in gained])
    threshold = _best(sums.sum(-1), tried, separate)
    fold = rng.permutation(len(named)) % min(folds, len(named))
    chosen = [_best(sums[:, :, fold != k].sum(-1), tried, separate) for k in range(fold.max() + 1)]
    won = sum(_total(sums[:, :, fold == k].sum(-1), tried, one) for k, one in enumerate(chosen))

    both = np.vstack([gained.sum(0), _rows_of(gained, tried, threshold)])
    drawn = document_means(both, documents, rng=rng, draws=draws)
    means, sign = both.mean(1), -1 if criterion == "bits" else 1
    low, high = interval_95(sign * drawn[:, :-1])
    under, over = interval_95(sign * (drawn[:, :-1] - drawn[:, -1:]))
    over_thresholds = {
        "score": sign * means[:-1],
        "low": low,
        "high": high,
        "difference": sign * (means[:-1] - means[-1]),
        "difference_low": under,
        "difference_high": over,
        "similar": left.mean(1),
    }
    curve = xr.Dataset(
        {name: ("threshold", values) for name, values in over_thresholds.items()},
        coords={"threshold": tried},
        attrs={"criterion": criterion, "documents": len(named), "predictions": len(targets), "draws": draws},
    )
    return ThresholdFit(threshold, curve, float(sign * won / len(targets)), tuple(chosen))


def _by_threshold(
    answers: Answers,
    targets: Int[np.ndarray, " row"],
    n_tokens: int,
    tried: Int[np.ndarray, " threshold"],
    criterion: str,
    floor: float,
) -> tuple[Float[np.ndarray, "exact threshold row"], Float[np.ndarray, "threshold row"]]:
    """What each row scores (0 where the other exact part has the longer match), and who is left to what is alike."""
    score = np.stack(
        [
            _score(score_votes(part, targets, n_tokens), criterion, floor, n_tokens)
            for part in (answers.corpus, answers.context, answers.similar)
        ]
    )
    exact, rows = answers.exact(), np.arange(len(targets))
    source = np.stack([answers.source(int(one)) for one in tried])
    at = score[source, rows]
    return np.stack([np.where(exact == part, at, 0.0) for part in (CORPUS, CONTEXT)]), (source == SIMILAR) * 1.0


def _score(found, criterion: str, floor: float, n_tokens: int) -> Float[np.ndarray, " row"]:
    if criterion == "bits":
        return -bits(found.probability, floor, n_tokens)
    return np.asarray(getattr(found, criterion), np.float64)


def _best(
    sums: Float[np.ndarray, "exact threshold"], tried: Int[np.ndarray, " threshold"], separate: bool
) -> Threshold:
    """Of equals, up to rounding, the smallest."""
    if not separate:
        return Threshold.of(int(tried[_first_best(sums.sum(0))]))
    return Threshold(*(int(tried[_first_best(row)]) for row in sums))


def _first_best(sums: Float[np.ndarray, " threshold"]) -> int:
    return int(np.argmax(sums >= sums.max() - 1e-9 * max(1.0, abs(sums.max()))))


def _total(
    sums: Float[np.ndarray, "exact threshold"], tried: Int[np.ndarray, " threshold"], threshold: Threshold
) -> float:
    return float(sum(row[np.searchsorted(tried, one)] for row, one in zip(sums, threshold, strict=True)))


def _rows_of(
    gained: Float[np.ndarray, "exact threshold row"], tried: Int[np.ndarray, " threshold"], threshold: Threshold
) -> Float[np.ndarray, " row"]:
    return sum(part[np.searchsorted(tried, one)] for part, one in zip(gained, threshold, strict=True))
