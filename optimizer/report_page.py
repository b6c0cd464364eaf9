"""The page a report is poured into: its markup, escaped by default, and its style."""

from typing import Any

from jinja2 import Environment, StrictUndefined

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1d232b; --quiet: #5d6875; --line: #dfe3e8;
  --good: #0f8467; --warn: #a35a08; --bad: #b3372f; --tint: #eef6f3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161b; --card: #1a2027; --ink: #e6eaef; --quiet: #98a3b0; --line: #2c343e;
    --good: #45c3a1; --warn: #e0a04e; --bad: #ec7f77; --tint: #17302a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; overflow-wrap: anywhere;
}
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
header h1 { margin: 0; font-size: 26px; line-height: 1.2; font-weight: 650; }
header p { margin: 6px 0 0; color: var(--quiet); }
h2 { margin: 0 0 4px; font-size: 17px; font-weight: 650; }
h3 { margin: 20px 0 4px; font-size: 14px; font-weight: 600; }
section, details {
  margin-top: 20px; padding: 20px 22px; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px;
}
section > p.note, details > p.note { margin: 0 0 10px; color: var(--quiet); font-size: 13.5px; }
summary { cursor: pointer; font-weight: 600; }
.state {
  display: inline-block; margin-left: 10px; padding: 1px 10px; border-radius: 20px; vertical-align: 4px;
  font-size: 12.5px; font-weight: 500; color: var(--quiet); border: 1px solid var(--line);
}
.state.done { color: var(--good); } .state.failed { color: var(--bad); }
.headline { margin: 0; padding: 0; list-style: none; }
.headline li { margin: 0 0 7px; } .headline li:first-child { font-size: 18px; line-height: 1.45; }
.headline li:last-child { margin-bottom: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 550; color: var(--quiet); vertical-align: bottom; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); overflow-wrap: normal; }
tbody tr:last-child td { border-bottom: 0; }
td.text:first-child { min-width: 9em; max-width: 26em; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; }
th.number { white-space: normal; }
td.text { max-width: 40em; overflow-wrap: break-word; }
th:first-child, td:first-child { padding-left: 8px; }
tr.winner td { background: var(--tint); font-weight: 600; }
td .under { display: block; color: var(--quiet); font-size: 12px; font-weight: 400; }
td.alike { color: var(--warn); white-space: nowrap; } td.differs { color: var(--quiet); }
dl {
  display: grid; grid-template-columns: max-content 1fr; gap: 4px 22px; margin: 10px 0 0; font-size: 13.5px;
}
dt { color: var(--quiet); } dd { margin: 0; }
.figure { min-width: 0; overflow-x: auto; overflow-y: hidden; } .figure + .scroll { margin-top: 14px; }
/* Figures carry no colours of their own for text, so that they follow the page. */
.js-plotly-plot .plotly text { fill: var(--ink) !important; }
.js-plotly-plot .plotly [class*="tick"] text, .js-plotly-plot .plotly .cbaxis text {
  fill: var(--quiet) !important;
}
.js-plotly-plot .plotly .hoverlayer .hovertext path,
.js-plotly-plot .plotly .hoverlayer .axistext path {
  fill: var(--card) !important; stroke: var(--line) !important; fill-opacity: 1 !important;
}
@media print {
  :root {
    color-scheme: light; --page: #ffffff; --card: #ffffff; --ink: #111111; --quiet: #555555; --line: #cccccc;
    --good: #0f8467; --warn: #a35a08; --bad: #b3372f; --tint: #eef6f3;
  }
  main { max-width: none; padding: 0; }
  section, details { border: 0; padding: 0; margin-top: 26px; border-radius: 0; }
  .figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; } .modebar { display: none !important; }
}
@media (max-width: 640px) {
  section, details { padding: 16px 14px; } dl { grid-template-columns: 1fr; gap: 0; }
}
"""

# The policy forbids the page to load anything at all: even a mistake here could not reach the network.
_PAGE = """\
{%- macro table(grid) -%}
<div class="scroll"><table>
<thead><tr>{% for column in grid.head %}\
<th{% if column.number %} class="number"{% endif %}>{{ column.title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in grid.rows -%}
<tr{% if row.winner %} class="winner"{% endif %}>\
{% for cell in row.cells %}\
<td class="{{ cell.style or ('number' if grid.head[loop.index0].number else 'text') }}">\
{{ cell.text }}{% if cell.under %}<span class="under">{{ cell.under }}</span>{% endif %}</td>{% endfor %}</tr>
{% endfor -%}
</tbody></table></div>
{%- endmacro -%}
{%- macro body(part) -%}
{% if part.note %}<p class="note">{{ part.note }}</p>{% endif %}
{% if part.sentences %}<ul class="headline">{% for sentence in part.sentences %}<li>{{ sentence }}</li>
{% endfor %}</ul>{% endif %}
{% for block in part.blocks %}
{% if block.title %}<h3>{{ block.title }}</h3>{% endif %}
{% if block.figure %}<div class="figure">{{ block.figure }}</div>{% endif %}
{% if block.grid %}{{ table(block.grid) }}{% endif %}
{% endfor %}
{%- endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="mergeopt">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'">
<title>{{ title }}</title>
<style>{{ style }}</style>
{% if script %}<script>{{ script }}</script>{% endif %}
</head>
<body>
<main>
<header>
<h1>{{ title }}\
<span class="state{{ ' ' + state if state in ('done', 'failed') }}">{{ state }}</span></h1>
<p>{{ subtitle }}</p>
</header>
<section><ul class="headline">
{% for sentence in headline %}<li>{{ sentence }}</li>
{% endfor %}</ul></section>
{% for part in parts %}
{% if part.folded %}<details><summary>{{ part.title }}</summary>{{ body(part) }}</details>
{% else %}<section><h2>{{ part.title }}</h2>{{ body(part) }}</section>
{% endif %}
{% endfor %}
<details open><summary>Settings</summary>
<dl>
{% for name, value in settings.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}</dl></details>
</main>
</body>
</html>
"""

_TEMPLATE = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
    _PAGE
)


def page(**content: Any) -> str:
    """The page with its content filled in; every plain string is escaped, only `markupsafe.Markup` is not."""
    return _TEMPLATE.render(**content)
