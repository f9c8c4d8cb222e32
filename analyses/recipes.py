"""What recipes of runs share: they are written as JSON, and come back from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

Made = TypeVar("Made")


class WrittenRecipe:
    """A frozen dataclass whose fields JSON can hold, lists and tuples being one.

    Whoever inherits says ``command``, the command line that repeats the run.
    """

    def as_json(self) -> dict[str, Any]:
        """All fields, as JSON holds them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.loads(json.dumps(values, default=dict))

    @classmethod
    def from_json(cls: type[Made], values: Mapping[str, Any]) -> Made:
        """The recipe written as ``values``.

        Raises
        ------
        ValueError
            If a field is unknown or out of range.
        """
        try:
            return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
        except TypeError as error:
            raise ValueError(f"the recipe does not fit this version: {error}") from error
