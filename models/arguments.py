"""Refusals that name the argument, the value it had, and what it may be."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")

#: More choices than this are not listed whole; the nearest few are.
LISTED = 8


def one_of(name: str, value: T, choices: Collection[T], *, whole_list: str = "") -> T:
    """Return ``value`` if it is among ``choices``; otherwise refuse by name, offering the nearest.

    Parameters
    ----------
    name : str
        What the caller calls the argument.
    value : object
        What it was given.
    choices : collection
        What it may be.
    whole_list : str, default=""
        Where a reader finds every choice when there are too many to print, e.g. ``"model.sites"``.

    Raises
    ------
    ValueError
        If ``value`` is not one of ``choices``.

    Examples
    --------
    >>> one_of("site", "resid_pots", ["resid_pre", "resid_post"])
    Traceback (most recent call last):
    ...
    ValueError: site='resid_pots' is not one of 'resid_pre', 'resid_post'; did you mean 'resid_post'?
    """
    if value in choices:
        return value
    spelled = [str(choice) for choice in choices]
    short = len(spelled) <= LISTED
    listed = ", ".join(map(repr, choices)) if short else f"{len(spelled)} choices"
    near = get_close_matches(str(value), spelled, n=1 if short else 3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    where = f" (all are in {whole_list})" if whole_list and not short else ""
    raise ValueError(f"{name}={value!r} is not one of {listed}{where}{hint}")


def at_least(name: str, value: float | int, minimum: float | int) -> float | int:
    """Return ``value`` if it is ``minimum`` or more; otherwise refuse by name.

    Examples
    --------
    >>> at_least("length", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: length=0 must be at least 1
    """
    if not value >= minimum:
        raise ValueError(f"{name}={value!r} must be at least {minimum}")
    return value


def between(name: str, value: float | int, low: float | int, high: float | int) -> float | int:
    """Return ``value`` if it lies in ``[low, high]``; otherwise refuse by name.

    Examples
    --------
    >>> between("alpha", 1.2, 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: alpha=1.2 must lie between 0 and 1
    """
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r} must lie between {low} and {high}")
    return value
