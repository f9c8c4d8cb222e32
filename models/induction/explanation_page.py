"""An explanation as HTML: one page that fetches nothing, or a fragment for a notebook. All text is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

#: Every rule begins with the class of the fragment, so that none reaches the notebook around it.
STYLE = """\
.nextlens-gim { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; color-scheme: light;
  max-width: 62rem; padding: .6rem; overflow-wrap: anywhere; }
.nextlens-gim p { margin: .4rem 0; }
.nextlens-gim table { border-collapse: collapse; margin: .5rem 0; font-size: .92rem; }
.nextlens-gim caption { text-align: left; color: #444; padding: .2rem 0; }
.nextlens-gim th, .nextlens-gim td { text-align: left; vertical-align: top; padding: .15rem .9rem .15rem 0;
  border-bottom: 1px solid #ddd; background: none; }
.nextlens-gim td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.nextlens-gim .text { white-space: pre-wrap; font-family: ui-monospace, monospace; }
.nextlens-gim mark { background: #cfe3f5; color: inherit; }
.nextlens-gim b { background: #ffd592; }
.nextlens-gim .around { color: #444; }
"""

FRAGMENT = """\
<section class="nextlens-gim"><style>{{ style }}</style>
<p class="text">…{{ found.context[-200:] }} <b>{{ first }}</b></p>
<p>{{ in_words }}</p>
<table><caption>Candidates{% if hidden_candidates %}, the first {{ candidates|length }} of
{{ found.candidates|length }}{% endif %}</caption>
<thead><tr><th scope="col">token</th><th scope="col">probability</th></tr></thead><tbody>
{% for one in candidates %}
<tr><td class="text">{{ one.text }}</td><td class="number">{{ "%.3f"|format(one.probability) }}</td></tr>
{% endfor %}
</tbody></table>
<table><caption>Each part by itself</caption>
<thead><tr><th scope="col">part</th><th scope="col">n</th><th scope="col">says</th><th scope="col">probability</th></tr>
</thead><tbody>
{% for name, one in found.others.items() %}
<tr><td>{{ name }}</td><td class="number">{{ one.n }}</td><td class="text">{{ one.text }}</td>
<td class="number">{{ "%.3f"|format(one.probability) }}</td></tr>
{% endfor %}
</tbody></table>
<table><caption>Places{% if hidden_places %}, the heaviest {{ found.passages|length }} of {{ found.places }}{% endif %};
the match is marked, what it proposes stands out</caption>
<thead><tr><th scope="col">share</th><th scope="col">document</th><th scope="col">offset</th>
<th scope="col">text</th></tr></thead><tbody>
{% for one in found.passages %}
<tr><td class="number">{{ "%.3f"|format(one.share) }}</td><td>{{ one.name }}</td>
<td class="number">{{ one.offset }}</td><td class="text"><span class="around">{{ one.before }}</span>
{%- if one.match %}<mark>{{ one.match }}</mark>{% endif %}<b>{{ one.proposed }}</b>
{{- "" }}<span class="around">{{ one.after }}</span></td></tr>
{% endfor %}
</tbody></table></section>
"""

PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Why this token</title></head><body>
{{ fragment }}
</body></html>
"""

#: Candidates shown.
MOST_CANDIDATES = 12


def fragment(found: Mapping[str, Any], in_words: str) -> str:
    """The explanation as a section; its style touches nothing else."""
    candidates = found["candidates"][:MOST_CANDIDATES]
    return (
        _environment()
        .from_string(FRAGMENT)
        .render(
            style=Markup(STYLE),
            found=found,
            in_words=in_words,
            candidates=candidates,
            first=candidates[0]["text"] if candidates else "",
            hidden_candidates=len(found["candidates"]) > len(candidates),
            hidden_places=found["places"] > len(found["passages"]),
        )
    )


def page(found: Mapping[str, Any], in_words: str) -> str:
    """A whole page. It fetches nothing, and its policy forbids to."""
    return _environment().from_string(PAGE).render(fragment=Markup(fragment(found, in_words)))


def _environment() -> Environment:
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
