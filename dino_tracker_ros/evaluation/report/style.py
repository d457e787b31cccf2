"""The report's style sheet: light and dark, narrow and wide, screen and paper."""

# Colours of series that stay apart for the colour-blind (after Okabe & Ito 2008), darkened for a
# white page and brightened for a dark one.
_LIGHT = """
  --page: #ffffff; --card: #f6f7f8; --text: #1c1e21; --quiet: #5c636b; --hair: #dcdfe3;
  --link: #005c99; --alarm: #a32020;
  --s0: #0068a8; --s1: #c25400; --s2: #00805f; --s3: #a8467f; --s4: #806200; --s5: #2c86b8;
  --s6: #565b61; --s7: #6a3fa0;
"""
_DARK = """
  --page: #15181b; --card: #1e2226; --text: #e7e9eb; --quiet: #a2a9b0; --hair: #343a40;
  --link: #7cc4f5; --alarm: #ff9a8f;
  --s0: #56b4f5; --s1: #ff9150; --s2: #45d0a8; --s3: #f29fce; --s4: #e3c54a; --s5: #a5dcff;
  --s6: #b9bec4; --s7: #c6a3f2;
"""

STYLE = (
    f":root {{ color-scheme: light dark; {_LIGHT} }}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}\n"
    + "\n".join(
        f".s{index} {{ color: var(--s{index}) }}"  # marks, lines and labels take this colour
        for index in range(8)
    )
    + """
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em }
h2 { font-size: 1.3rem; margin: 3.2rem 0 .4rem; letter-spacing: -.005em }
h3 { font-size: 1rem; margin: 0 0 .2rem }
p { max-width: 68ch; margin: .3rem 0 .9rem }
header p { max-width: none }
.quiet, figcaption, small { color: var(--quiet) }
a { color: var(--link) }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 1rem 0 0; font-size: .92rem }
.alarm { color: var(--alarm) }

.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.2rem, 1fr));
  gap: .8rem; margin: 1.6rem 0 0; padding: 0; list-style: none }
.cards li { background: var(--card); border-radius: .6rem; padding: .9rem 1rem .8rem }
.cards b { display: block; font-size: 2.3rem; line-height: 1.15; font-weight: 600;
  font-variant-numeric: tabular-nums; letter-spacing: -.02em }
.cards b small { font-size: 1.1rem; font-weight: 400; letter-spacing: 0; margin-left: .12em }
.cards span { display: block; font-size: .84rem; color: var(--quiet); line-height: 1.4 }
.cards .name { color: var(--text); font-size: .95rem; font-weight: 600 }

.scroll { overflow-x: auto; margin: .6rem 0 1rem }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums;
  min-width: 100% }
th, td { padding: .38rem .65rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--hair); font-weight: 400 }
thead th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--quiet);
  white-space: nowrap }
th small, td small { display: block; font-size: .76rem; line-height: 1.35; font-weight: 400;
  white-space: nowrap }
tbody th, thead th:first-child, td.words { text-align: left }
tbody th { position: sticky; left: 0; background: var(--page); white-space: nowrap }
tbody th.group { font-weight: 600; padding-top: 1.1rem; position: static }
td strong { font-weight: 700; border-bottom: 2px solid var(--s0) }
td.words, .facts td { overflow-wrap: anywhere; white-space: normal; text-align: left }
.facts th { font-weight: 600; width: 16rem }
.subtitle { margin-top: 1.6rem; font-weight: 600 }
sub { font-size: .72em; line-height: 0 }
abbr { text-decoration: none }
.swatch { width: .85em; height: .85em; margin-right: .4em; vertical-align: -.06em }

.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr));
  gap: 2rem 3rem; margin-top: 1rem }
.charts figure { display: flex; flex-direction: column }
.charts .chart { margin-top: auto; padding-top: .4rem }
figure { margin: 0 }
figcaption { font-size: .88rem; line-height: 1.4; max-width: 60ch }
.chart { display: block; width: 100%; max-width: 34rem; height: auto; margin-top: .4rem }
.chart text { font-size: 12px; fill: var(--text) }
.chart .tick, .chart .value { font-size: 11px; fill: var(--quiet) }
.chart .label text { fill: currentColor; font-size: 11.5px }
.chart .grid { stroke: var(--hair) }
.chart .axis { stroke: var(--quiet) }
.chart .ideal { stroke: var(--quiet); stroke-dasharray: 4 4 }
.series polyline { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round }
.series circle, .series polygon { fill: currentColor; stroke: var(--page); stroke-width: 1 }
.series .spread { stroke: currentColor; stroke-width: 1.4; opacity: .55 }
.leader { fill: none; stroke: currentColor; opacity: .45 }
.bar { fill: currentColor; stroke: var(--page) }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; list-style: none; padding: 0;
  margin: .5rem 0 0; font-size: .85rem }
.key { display: inline-block; width: .75em; height: .75em; margin-right: .4em;
  background: currentColor; border-radius: 2px }

.strip { margin: 1.4rem 0 0; break-inside: avoid }
.strip figcaption { color: var(--text); max-width: none }
.strip ol { list-style: none; margin: .45rem 0 0; padding: 0; display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(7.6rem, 1fr)) }
.strip li { font-size: .78rem; line-height: 1.3; color: var(--quiet);
  font-variant-numeric: tabular-nums }
.strip li b { display: block; color: var(--text); font-size: .88rem; font-weight: 600;
  margin-top: .15rem }
img { display: block; width: 100%; height: auto; border-radius: .3rem }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr));
  gap: .4rem 1rem; margin: 1rem 0 0; break-inside: avoid }
details { border-bottom: 1px solid var(--hair); padding: .1rem 0 }
details[open] { padding-bottom: 1.6rem }
summary { cursor: pointer; padding: .5rem 0; overflow-wrap: anywhere }
summary b { font-weight: 600 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .92rem }
dt { font-weight: 600 } dd { margin: 0; max-width: 75ch }
code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere }

@media (max-width: 40rem) {
  main { padding: 1.4rem 1rem 3rem }
  h1 { font-size: 1.55rem }
  .cards { grid-template-columns: 1fr 1fr }
  .cards b { font-size: 1.9rem }
  .strip ol { grid-template-columns: repeat(auto-fill, minmax(6.3rem, 1fr)) }
  dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .6rem }
  tbody th { min-width: 7.6rem; white-space: normal }
}
@media print {
  @page { margin: 14mm }
  body { font-size: 10pt }
  main { max-width: none; padding: 0 }
  nav { display: none }
  h2 { break-after: avoid; margin-top: 1.6rem }
  table { font-size: 7.6pt } th, td { padding: .2rem .35rem }
  th small, td small { font-size: 6.2pt }
  tbody th { position: static }
  tr, figure, .cards li { break-inside: avoid }
  .scroll { overflow: visible }
  .charts { grid-template-columns: 1fr 1fr }
  .strip ol { grid-template-columns: repeat(8, 1fr) }
  .pair { grid-template-columns: 1fr 1fr }
  details::details-content { content-visibility: visible; display: block }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""
)
