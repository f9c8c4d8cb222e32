"""A report as HTML: one page that needs no other file, or a fragment for a notebook."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from nextlens.analyses.checkpoint_captions import caption_of
from nextlens.analyses.checkpoint_sections import Section, head_of, sections_of
from nextlens.analyses.checkpoint_template import FRAGMENT, PAGE, SHADES, STYLE

#: Tokens shown one by one.
MOST_WORDS = 3000
#: Figures of a whole printed page; all others are of one column.
WIDE = {"beliefs"}

Words = Sequence[tuple[str, float | None]]


def page(numbers: Mapping[str, Any], words: Words, pictures: Mapping[str, bytes]) -> str:
    """The whole page. It fetches nothing: the pictures are in it, and its policy forbids the rest."""
    inside = Markup(fragment(numbers, words, pictures))
    return _environment().from_string(PAGE).render(title=title_of(numbers), fragment=inside)


def fragment(numbers: Mapping[str, Any], words: Words, pictures: Mapping[str, bytes]) -> str:
    """The page without what surrounds it; its style touches nothing else."""
    return (
        _environment()
        .from_string(FRAGMENT)
        .render(
            style=Markup(STYLE),
            title=title_of(numbers),
            text_source=numbers["text"]["source"],
            head=head_of(numbers),
            sections=[_with_pictures(section, numbers, pictures) for section in sections_of(numbers)],
            words=[_shaded(text, bits) for text, bits in words[:MOST_WORDS]],
            hidden=max(0, len(words) - MOST_WORDS),
            shades=[f"{shade:g}" for shade in SHADES],
            key=_key(),
        )
    )


def title_of(numbers: Mapping[str, Any]) -> str:
    """The headline."""
    return f"Checkpoint report: {numbers['model']['name']}"


def _environment() -> Environment:
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _with_pictures(section: Section, numbers: Mapping[str, Any], pictures: Mapping[str, bytes]) -> dict[str, Any]:
    drawn = [_picture(name, pictures[name], numbers) for name in section.figures if name in pictures]
    return {**vars(section), "pictures": drawn}


def _picture(name: str, png: bytes, numbers: Mapping[str, Any]) -> dict[str, Any]:
    width, height = struct.unpack(">II", png[16:24])
    caption, alt = caption_of(name, numbers)
    return {
        "name": name.replace("_", " "),
        "data": base64.b64encode(png).decode("ascii"),
        "width": width,
        "height": height,
        "alt": alt,
        "caption": caption,
        "wide": name in WIDE,
    }


def _shaded(text: str, bits: float | None) -> dict[str, str]:
    line = " n" if "\n" in text and bits is not None else ""
    if bits is None:
        shade, title = ("u", "not predicted: nothing was read before it") if text.strip() else ("", "")
        return {"text": text, "shade": shade, "title": title, "bits": "", "quoted": repr(text)}
    level = sum(bits > limit for limit in SHADES)
    return {
        "text": text,
        "shade": f"s{level}{line}",
        "title": f"{bits:.2f} bits",
        "bits": f"{bits:.2f}",
        "quoted": repr(text),
    }


def _key() -> list[str]:
    ends = [f"{shade:g}" for shade in SHADES]
    return [f"to {ends[0]}", *(f"{low}-{high}" for low, high in pairwise(ends)), f"over {ends[-1]}"]
