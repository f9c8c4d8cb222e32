"""Trainings that are done once: what one gave is kept beside its model, and found again when a run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nextlens.models import checkpoints
from nextlens.models.transformer import Transformer


def finished(
    path: Path,
    recipe: Mapping[str, Any],
    train: Callable[[], tuple[Transformer, dict[str, Any]]],
    *,
    resume: bool = False,
    device: str = "cpu",
) -> tuple[Transformer, dict[str, Any]]:
    """The model that ``train`` gives and what it notes: found at ``path`` if a run goes on, else made and kept there.

    Parameters
    ----------
    path : Path
        Of the checkpoint.
    recipe : mapping
        JSON-able: what must agree for a checkpoint to be taken.
    train : callable
        () -> a model and JSON-able notes; ``cpu``, its CPU seconds, is added to them.
    resume : bool, default=False
    device : str, default="cpu"

    Raises
    ------
    ValueError
        If ``resume`` finds a checkpoint of another recipe.
    """
    if resume and path.exists():
        made_by = checkpoints.recipe(path)["made_by"]
        if made_by["recipe"] != recipe:
            raise ValueError(f"resume: {str(path)!r} was made by another recipe; delete it, or choose another folder")
        return checkpoints.load(path, device=device), made_by["notes"]
    started = time.process_time()
    model, notes = train()
    notes = {**notes, "cpu": time.process_time() - started}
    checkpoints.save(path, model, made_by={"recipe": dict(recipe), "notes": notes})
    return model, notes
