"""Prediction by pointing at a place: the longest match in a corpus, the longest in the context, the alike."""
