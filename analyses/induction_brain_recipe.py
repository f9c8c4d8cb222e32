"""All that decides the numbers of a run on recall in the brain: whose responses, which matchers, what they copy."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from nextlens.analyses.encoding_recipe import EncodingRecipe
from nextlens.analyses.recipes import WrittenRecipe, repeating
from nextlens.models.arguments import at_least, one_of

#: Matchers of moments, those that need a language model last.
MATCHERS = ("momentary", "exact", "embedding", "states", "distilled")
OF_A_MODEL = MATCHERS[3:]
VALUES = ("response", "stimulus")

#: Volumes that a match lies back at least, where it is not said.
GAPS = {"simulated": (8,)}
USUAL_GAPS = (80,)


@dataclass(frozen=True)
class RecallRecipe(WrittenRecipe):
    """All that decides the numbers of a run, the data in the folder included: JSON-able, compared by value.

    The first matcher, value and gap are the primary ones, fixed in advance; all others are exploratory.

    Parameters
    ----------
    data, folder, subjects, stories, shared, tested, checkpoint, length, stride, onset
        As of :class:`~nextlens.analyses.encoding_recipe.EncodingRecipe`.
    matchers : tuple of {"momentary", "exact", "embedding", "states", "distilled"}
        If empty, "exact", "embedding" and "momentary"; with a checkpoint "distilled" before and "states" after them.
    values : tuple of {"response", "stimulus"}, default=("response", "stimulus")
        What is copied: the response that followed the match, or the words.
    gaps : tuple of int
        Volumes that a match lies back at least; 80 if empty, of the simulated listener 8.
    words : int, default=20
        Whose vectors make the context of the "embedding" matcher.
    most : int, default=5
        Matches of a moment.
    site : str, default=""
        Of the checkpoint, for "states" and "distilled"; if empty, the residual stream after three fifths of the blocks.
    distillation : int, default=60
        Steps of the head.
    copied : int, default=50
        Responses copied, the first ones.
    delays : tuple of int, default=(1, 2, 3, 4)
    least_alpha, largest_alpha, alphas : float, float, int
    folds : int, default=4
        Of training stories.
    planted : tuple of float, default=(0.1, 0.2, 0.3)
        Strengths of an effect planted on the primary matches in the real responses, to know what would have been seen.
    draws : int, default=1000
    seed : int

    Raises
    ------
    ValueError
        If a value is out of range, or a matcher needs a checkpoint and there is none.
    """

    data: str = "simulated"
    folder: str = ""
    subjects: tuple[str, ...] = ()
    stories: int = 0
    shared: bool = False
    tested: tuple[str, ...] = ()
    checkpoint: str = ""
    length: int = 512
    stride: int = 384
    matchers: tuple[str, ...] = ()
    values: tuple[str, ...] = VALUES
    gaps: tuple[int, ...] = ()
    words: int = 20
    most: int = 5
    site: str = ""
    distillation: int = 60
    copied: int = 50
    delays: tuple[int, ...] = (1, 2, 3, 4)
    onset: int = 0
    least_alpha: float = 10.0
    largest_alpha: float = 1e6
    alphas: int = 6
    folds: int = 4
    planted: tuple[float, ...] = (0.1, 0.2, 0.3)
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        assert self.encoding is not None  # made here, so that what it refuses is refused
        for name, allowed in (("matchers", MATCHERS), ("values", VALUES)):
            for one in getattr(self, name):
                one_of(name, one, allowed)
        least = {"words": 1, "most": 1, "distillation": 1, "copied": 1}
        for name, minimum in least.items():
            at_least(name, getattr(self, name), minimum)
        if not self.values:
            raise ValueError("values is empty; at least one of 'response' and 'stimulus' is needed")
        for gap in self.lags:
            at_least("gaps", gap, 1)
        if min(self.delays) < 1:
            raise ValueError(f"delays={list(self.delays)!r} must be 1 or more: what came next is copied")
        for matcher in self.matchers:
            if matcher in OF_A_MODEL and not self.checkpoint:
                raise ValueError(f"matchers={matcher!r} is of a language model; name its checkpoint")
        if not all(np.isfinite(one) and one > 0 for one in self.planted):
            raise ValueError(f"planted={list(self.planted)!r} must be above 0 and finite")

    @property
    def encoding(self) -> EncodingRecipe:
        """The same data, as an encoding run has them."""
        shared = {one.name for one in fields(EncodingRecipe)} & {one.name for one in fields(type(self))}
        return EncodingRecipe(**{name: getattr(self, name) for name in sorted(shared)}, spaces=("vectors",))

    @property
    def lags(self) -> tuple[int, ...]:
        """The gaps, the primary one first."""
        return self.gaps or GAPS.get(self.data, USUAL_GAPS)

    @property
    def matching(self) -> tuple[str, ...]:
        """The matchers, the primary one first."""
        plain = ("exact", "embedding", "momentary")
        return self.matchers or (("distilled", *plain, "states") if self.checkpoint else plain)

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return repeating("nextlens recall", self, RecallRecipe)
