"""Tasks: laws over sequences with known latents, and the predictor that no model can beat."""

from nextlens.models.tasks.induction import AssociativeRecall, InContextBigrams, RepeatedTokens, Task

__all__ = ["AssociativeRecall", "InContextBigrams", "RepeatedTokens", "Task"]
