"""Praat's TextGrids: which word was said from when to when."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

#: What annotators write where nobody says a word.
PAUSES = frozenset({"", "sp", "sil", "sl", "{sl}", "<sil>", "{sp}", "{lg}", "{ns}", "{br}", "{cg}", "{ls}", "{ig}"})

#: A quoted text, in which a quote is doubled; a flag; a number that stands free.
_ITEM = re.compile(r'"(?:[^"]|"")*"|<[a-z]+>|(?<![\w\[.+-])[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w\].])')


class Interval(NamedTuple):
    """What one stretch of time is labelled, in seconds."""

    start: float
    end: float
    text: str


def read_textgrid(path: str | os.PathLike[str]) -> dict[str, list[Interval]]:
    """The interval tiers of a TextGrid, by name; tiers of points are left out. Long and short form, UTF-8 or UTF-16.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no TextGrid, ends too early, or an interval ends before it begins.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no TextGrid at {str(path)!r}")
    raw = Path(path).read_bytes()
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    items = iter(_ITEM.findall(text))
    try:
        if (_quoted(next(items)), _quoted(next(items))) != ("ooTextFile", "TextGrid"):
            raise ValueError(f"{str(path)!r} is no TextGrid: it does not begin as one")
        return _tiers(items, path)
    except StopIteration:
        raise ValueError(f"the TextGrid {str(path)!r} ends too early") from None


def spoken(intervals: list[Interval]) -> list[Interval]:
    """The intervals in which a word is said: pauses and noises are left out."""
    return [one for one in intervals if one.text.strip().lower() not in PAUSES]


def _tiers(items, path) -> dict[str, list[Interval]]:
    next(items), next(items)  # from when to when
    if next(items) != "<exists>":
        return {}
    tiers: dict[str, list[Interval]] = {}
    for _ in range(int(next(items))):
        kind, name = _quoted(next(items)), _quoted(next(items))
        next(items), next(items)
        count = int(next(items))
        if kind == "IntervalTier":
            tiers[name] = [_interval(items, name, path) for _ in range(count)]
        else:
            for _ in range(count):
                next(items), next(items)
    return tiers


def _interval(items, tier: str, path) -> Interval:
    start, end, text = float(next(items)), float(next(items)), _quoted(next(items))
    if end < start:
        raise ValueError(f"tier {tier!r} of {str(path)!r} has {text!r} from {start} s to {end} s; an end comes after")
    return Interval(start, end, text)


def _quoted(item: str) -> str:
    return item[1:-1].replace('""', '"') if item.startswith('"') else item
