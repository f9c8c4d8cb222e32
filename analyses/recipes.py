"""What recipes of runs share: they are written as JSON, and come back from it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, TypeVar

Made = TypeVar("Made")


def repeating(
    command: str,
    recipe: Any,
    usual: Any,
    *,
    without: Collection[str] = (),
    repeated: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The command line of a recipe: ``command``, and an option for every field in which it differs from ``usual``.

    Several values have commas between; a whole number alone has one behind it, since it may be a count. True and False
    are a flag and its ``no-``; a mapping is ``--set``.

    Parameters
    ----------
    command : str
        Program and command, with whatever it needs to be told first.
    recipe : dataclass
    usual : dataclass
        Or the class of the recipe, whose defaults it then is.
    without : collection of str
        Fields that ``command`` says.
    repeated : mapping of str to str
        Fields whose every value is an option of its own, and its name.
    """
    words = [command]
    for name in (one.name for one in fields(recipe)):
        value, option = getattr(recipe, name), name.replace("_", "-")
        if name in without or value == getattr(usual, name):
            continue
        if name in repeated:
            words += [f"--{repeated[name]} {shlex.quote(str(one))}" for one in value or ()]
        elif isinstance(value, Mapping):
            words += [f"--set {key}={float(one)!r}" for key, one in value.items()]
        elif isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words.append(f"--{option} {shlex.quote(_text(value))}")
    return " ".join(words)


def _text(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    alone = len(value) == 1 and isinstance(value[0], int)
    return ",".join(map(str, value)) + "," * alone or "none"


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
