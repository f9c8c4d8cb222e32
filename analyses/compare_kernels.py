"""Kernels by name: made from a process or from texts, loaded from a checkpoint, deployed in some way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from nextlens.analyses.self_similarity_sources import MADE_HERE, fitted_floor, pointing
from nextlens.models import checkpoints
from nextlens.models.arguments import one_of
from nextlens.models.contexts import Truncated
from nextlens.models.deployment import Eta, Greedy, MinP, Nucleus, Tempered, TopK
from nextlens.models.induction.context_features import BeliefFeatures
from nextlens.models.induction.exact import ExactInduction
from nextlens.models.induction.fuzzy import FuzzyInduction
from nextlens.models.induction.gim import GIM
from nextlens.models.induction.infinigram import InfiniGram
from nextlens.models.induction.kneser_ney import KneserNey
from nextlens.models.induction.suffix_array import SuffixArray
from nextlens.models.kernel import Kernel
from nextlens.models.processes import Process, markov
from nextlens.models.vocabulary import Vocabulary

#: Deployment maps by name, each of one number; ``exact@top-p=.9``, say.
MAPS: dict[str, Callable[[Kernel, float], Kernel]] = {
    "temperature": Tempered,
    "top-k": lambda kernel, k: TopK(kernel, int(k)),
    "top-p": Nucleus,
    "min-p": MinP,
    "eta": Eta,
    "last": lambda kernel, k: Truncated(kernel, int(k)),
    "greedy": lambda kernel, _: Greedy(kernel),
}
#: Kernels of a process, besides ``markov:k`` and checkpoints.
OF_PROCESS = ("exact", "bigram", "trained", "gim", "infini-gram", "kneser-ney")


@dataclass
class Made:
    """What kernels are made from, and those that were.

    Parameters
    ----------
    process : Process, optional
    vocabulary : Vocabulary, optional
        Of the texts.
    reference : mapping of str to text, or documents of tokens
        What counting models and indexes see; nothing of it is tested.
    trained : callable
        That gives the transformer.
    order, threshold : int
        Of Kneser-Ney, and of the GIM.
    """

    process: Process | None
    vocabulary: Vocabulary | None
    reference: Mapping[str, str] | Int[np.ndarray, "document time"]
    trained: Callable[[], Kernel]
    order: int = 5
    threshold: int = 8
    kept: dict[str, Kernel] = field(default_factory=dict)

    def kernel(self, name: str) -> Kernel:
        """The kernel called ``base`` or ``base@map=number``.

        Raises
        ------
        ValueError
            If base or map is unknown.
        """
        base, *maps = name.split("@")
        if base not in self.kept:
            self.kept[base] = self.trained() if base == "trained" else self._base(base)
        made = self.kept[base]
        for one in maps:
            how, equals, number = one.partition("=")
            one_of("map", how, tuple(MAPS))
            if how != "greedy" and not equals:
                raise ValueError(f"{name!r}: {how} needs a number, such as {base}@{how}=2")
            made = MAPS[how](made, _number(name, number) if equals else 0.0)
        return made

    def _base(self, name: str) -> Kernel:
        if self.process is None:
            if name in MADE_HERE:
                own = self.kernel("trained") if name == "gim" else None
                return pointing(name, self.vocabulary, self.reference, own, order=self.order, threshold=self.threshold)
            return checkpoints.load(name)
        if name == "exact":
            return self.process
        if name == "bigram" or name.startswith("markov:"):
            return markov(self.process, 1 if name == "bigram" else int(_number(name, name.partition(":")[2])))
        if name in OF_PROCESS:
            return self._counted(name)
        return checkpoints.load(name)

    def _counted(self, name: str) -> Kernel:
        """Models of counts of the process's own words; what is alike for a GIM is the ideal observer's belief."""
        documents, n = list(self.reference), self.process.n_tokens
        if name == "kneser-ney":
            return KneserNey(documents, n, self.order)
        apart, index = documents[-1], SuffixArray.build(documents[:-1], n_tokens=n)
        infinigram = InfiniGram(index, n_tokens=n)
        if name == "infini-gram":
            return InfiniGram(index, n_tokens=n, floor=fitted_floor(infinigram, apart))
        similar = FuzzyInduction(BeliefFeatures(self.process), temperature=0.01)
        made = GIM(infinigram, ExactInduction(n), similar, threshold=self.threshold)
        return made.with_(floor=fitted_floor(made, apart))


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name!r}: {text!r} is no number") from None


def refuse_unknown(names: tuple[str, ...], *, of_process: bool) -> None:
    """Raise at the first name that is none of the kernels, a map of one, or, by its looks, a checkpoint.

    Raises
    ------
    ValueError
        Naming the nearest.
    """
    known = (*OF_PROCESS, "markov:2") if of_process else MADE_HERE
    for name in names:
        base, *maps = name.split("@")
        for one in maps:
            one_of("map", one.partition("=")[0], tuple(MAPS))
        path = any(mark in base for mark in "/.\\") or base.startswith("smollm2")
        if not path and not base.startswith("markov:"):
            one_of("kernel", base, known)
