"""The page of a report, as a template: plain HTML and CSS, no script, nothing fetched."""

from __future__ import annotations

#: Every rule begins with the class of the report, so that none reaches the notebook around it.
STYLE = """\
.nextlens-report { color: #1a1a1a; background: #fff; color-scheme: light; font: 16px/1.55 system-ui, sans-serif;
  max-width: 62rem; margin: 0 auto; padding: 1rem; box-sizing: border-box; overflow-wrap: anywhere; }
.nextlens-report *, .nextlens-report *::before { box-sizing: border-box; }
.nextlens-report h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; }
.nextlens-report h2 { font-size: 1.25rem; margin: 2.2rem 0 .4rem; border-top: 1px solid #bbb; padding-top: .8rem; }
.nextlens-report h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
.nextlens-report p, .nextlens-report li { max-width: 46rem; }
.nextlens-report a { color: #004b80; }
.nextlens-report a:focus-visible, .nextlens-report summary:focus-visible, .nextlens-report .scroll:focus-visible
  { outline: 3px solid #d55e00; outline-offset: 2px; }
.nextlens-report .skip { position: absolute; left: -100vw; }
.nextlens-report .skip:focus { position: static; }
.nextlens-report nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; list-style: none; }
.nextlens-report dl.head { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .8rem;
  margin: 1rem 0; }
.nextlens-report dl.head div { border: 1px solid #bbb; border-radius: 6px; padding: .5rem .8rem; }
.nextlens-report dl.head dt { font-size: .85rem; color: #444; margin: 0; }
.nextlens-report dl.head dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
.nextlens-report dl.head dd small { display: block; font-size: .8rem; font-weight: 400; color: #444; }
.nextlens-report .scroll { overflow-x: auto; max-width: 100%; }
.nextlens-report .tall { max-height: 26rem; overflow-y: auto; }
.nextlens-report table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; margin: .3rem 0; }
.nextlens-report caption { text-align: left; color: #444; padding: .2rem 0; }
.nextlens-report th, .nextlens-report td { text-align: left; padding: .2rem .9rem .2rem 0; vertical-align: top;
  border-bottom: 1px solid #ddd; background: none; }
.nextlens-report td.number, .nextlens-report th.number { text-align: right; white-space: nowrap; }
.nextlens-report th { font-weight: 600; }
.nextlens-report thead th { vertical-align: bottom; }
.nextlens-report tbody th { min-width: 8.5rem; }
.nextlens-report .figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
  gap: 1.2rem; }
.nextlens-report figure { margin: .5rem 0; }
.nextlens-report figure img { width: 100%; max-width: 32rem; height: auto; display: block; background: #fff; }
.nextlens-report figure.wide { grid-column: 1 / -1; }
.nextlens-report figure.wide img { max-width: none; min-width: 36rem; }
.nextlens-report figcaption { font-size: .88rem; color: #333; max-width: 46rem; }
.nextlens-report .note { font-size: .9rem; color: #333; }
.nextlens-report .text { white-space: pre-wrap; border: 1px solid #bbb; border-radius: 6px; padding: .8rem;
  font: .95rem/1.9 ui-monospace, monospace; user-select: text; }
.nextlens-report .key { display: flex; flex-wrap: wrap; gap: .3rem .8rem; padding: 0; list-style: none; }
.nextlens-report .key span { padding: .1rem .4rem; font-family: ui-monospace, monospace; }
.nextlens-report .u { outline: 1px dashed #777; }
.nextlens-report .s0 { background: #fff; } .nextlens-report .s1 { background: #fff3dc; }
.nextlens-report .s2 { background: #ffe6b8; } .nextlens-report .s3 { background: #ffd592; }
.nextlens-report .s4 { background: #ffc168; border-bottom: 1px solid #000; }
.nextlens-report .s5 { background: #fbaa3a; border-bottom: 2px solid #000; }
.nextlens-report .s6 { background: #ee9000; border-bottom: 3px solid #000; }
.nextlens-report .n::before { content: "\\21b5"; color: #444; }
@media print { .nextlens-report .tall { max-height: none; } }
"""

#: What surprisals share a shade, in bits: up to the first, up to the second, ...
SHADES = (1.0, 2.0, 4.0, 6.0, 9.0, 13.0)

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>html, body { margin: 0; background: #fff; }</style>
</head>
<body>
{{ fragment }}
</body>
</html>
"""

FRAGMENT = """\
{% macro table(rows, caption, columns=none) %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ caption }}">
<table><caption>{{ caption }}</caption>
{% if columns %}
<thead><tr>
{% for column in columns %}
<th scope="col"{% if not loop.first %} class="number"{% endif %}>{{ column }}</th>
{% endfor %}
</tr></thead>
{% endif %}
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row[0] }}</th>
{% for cell in row[1:] %}
<td{% if columns %} class="number"{% endif %}>{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro image(one) %}
<img src="data:image/png;base64,{{ one.data }}"
 width="{{ one.width }}" height="{{ one.height }}" alt="{{ one.alt }}">
{% endmacro %}
{% macro picture(one) %}
{% if one.wide %}
<figure class="wide">
<div class="scroll" tabindex="0" role="region" aria-label="Figure: {{ one.name }}">{{ image(one) }}</div>
{% else %}
<figure>{{ image(one) }}
{% endif %}
<figcaption>{{ one.caption }}</figcaption></figure>
{% endmacro %}
<style>{{ style }}</style>
<div class="nextlens-report">
<a class="skip" href="#nextlens-main">To the results</a>
<header>
<h1>{{ title }}</h1>
<p>Read on: {{ text_source }}.</p>
<dl class="head">
{% for name, value, beside in head %}
<div><dt>{{ name }}</dt><dd>{{ value }}<small>{{ beside }}</small></dd></div>
{% endfor %}
</dl>
<nav aria-label="Sections"><ul>
{% for section in sections %}
<li><a href="#nextlens-{{ section.id }}">{{ section.title }}</a></li>
{% endfor %}
</ul></nav>
</header>
<main id="nextlens-main" tabindex="-1">
{% for section in sections %}
<section aria-labelledby="nextlens-{{ section.id }}">
<h2 id="nextlens-{{ section.id }}">{{ section.title }}</h2>
{% for paragraph in section.paragraphs %}
<p>{{ paragraph }}</p>
{% endfor %}
{% if section.left_out %}
<p class="note"><strong>Left out:</strong> {{ section.left_out }}.</p>
{% endif %}
{% if section.points %}
<ul>
{% for point in section.points %}
<li>{{ point }}</li>
{% endfor %}
</ul>
{% endif %}
{% if section.pictures %}
<div class="figures">
{% for one in section.pictures %}
{{ picture(one) }}
{% endfor %}
</div>
{% endif %}
{% for one in section.tables %}
{{ table(one.rows, one.caption, one.columns) }}
{% endfor %}
{% if section.id == "surprisal" %}
<h3>The text, token by token</h3>
<p>The darker a token, the more surprising it was; from {{ shades[3] }} bits on it is underlined too. The number is
in its tooltip, and in the table beneath.
{% if hidden %}
The text goes on; this is its beginning.
{% endif %}
</p>
<ul class="key" aria-label="Shades, in bits">
{% for label in key %}
<li><span class="s{{ loop.index0 }}">{{ label }}</span></li>
{% endfor %}
<li><span class="u">not predicted</span></li>
</ul>
<div class="text scroll tall" tabindex="0" role="region" aria-label="The text, shaded by surprisal">
{%- for word in words -%}
<span class="{{ word.shade }}" title="{{ word.title }}">{{ word.text }}</span>
{%- endfor -%}
</div>
<details><summary>The same as a table</summary>
<div class="scroll tall" tabindex="0" role="region" aria-label="Surprisal of every token">
<table><caption>Surprisal of every token, in bits</caption>
<thead><tr><th scope="col">place</th><th scope="col">token</th><th scope="col" class="number">bits</th></tr></thead>
<tbody>
{% for word in words %}
{% if word.bits %}
<tr><td>{{ loop.index0 }}</td><td><code>{{ word.quoted }}</code></td><td class="number">{{ word.bits }}</td></tr>
{% endif %}
{% endfor %}
</tbody></table></div></details>
{% endif %}
{% if section.note %}
<p class="note">{{ section.note }}</p>
{% endif %}
</section>
{% endfor %}
</main>
</div>
"""
