"""Which process a checkpoint was trained on: named by the caller, or by the checkpoint itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nextlens.models import checkpoints
from nextlens.models.processes import Process
from nextlens.models.processes.zoo import process_by_name


def process_of(path: Path, name: str | None, parameters: Mapping[str, float]) -> Process | None:
    """The process called ``name``; if None, the one that the checkpoint's own account names, if it names one.

    Raises
    ------
    ValueError
        If there is no such process, or parameters are given without a name.
    """
    if name is not None:
        return process_by_name(name, **parameters)
    if parameters:
        raise ValueError(f"parameters {dict(parameters)} belong to no process; name it with --process")
    recipe = _recipe(path)
    if not isinstance(recipe.get("process"), str):
        return None
    return process_by_name(recipe["process"], **recipe.get("parameters", {}))


def _recipe(path: Path) -> dict[str, Any]:
    """The recipe that a checkpoint of ours was made by; empty if it says none, or is none of ours."""
    try:
        recipe = checkpoints.recipe(path)["made_by"].get("recipe", {})
    except (OSError, ValueError):
        return {}
    return recipe if isinstance(recipe, dict) else {}
