"""Prediction by pointing at a place: the longest match in a corpus, the longest in the context, the alike."""

from nextlens.models.induction.exact import ExactInduction
from nextlens.models.induction.infinigram import InfiniGram
from nextlens.models.induction.suffix_array import SuffixArray

__all__ = ["ExactInduction", "InfiniGram", "SuffixArray"]
