"""The report's tables: scores, live measures, clips without a result, and how it was run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dino_tracker_ros.evaluation.report.charts import swatch
from dino_tracker_ros.evaluation.report.markup import Content, Markup, element
from dino_tracker_ros.evaluation.report.number_texts import (
    DASH,
    interval_text,
    measure_text,
    metric_title,
    number_text,
    value_text,
)
from dino_tracker_ros.evaluation.report.summary import Summary
from dino_tracker_ros.evaluation.scores import HEADLINES, METRICS, Metric, Score
from dino_tracker_ros.tracking.settings import Settings, describe

FEW = 12  # clips or values; more are folded away


def score_tables(summary: Summary, colours: Mapping[str, int]) -> Content:
    """Scores of all clips together, of each, and of all metrics; `colours` of the methods."""
    if not summary.clips:
        return ()
    metrics = [m for m in HEADLINES if any(m.name in p.scores for p in summary.pooled.values())]
    every = [m for m in METRICS if any(m.name in p.scores for p in summary.pooled.values())]
    head = element(
        "thead",
        element("tr", element("th", "", scope="col"), [_column(m) for m in metrics], _SECONDS),
    )
    groups = [
        _rows(
            clip.name,
            {m.name: (summary.scores[clip.name, m.name], m.seconds) for m in clip.methods},
            metrics,
            colours,
        )
        for clip in summary.clips
    ]
    pooled = {name: (each.scores, each.seconds) for name, each in summary.pooled.items()}
    several = len(summary.clips) > 1
    of_clips = _scrolling("Scores of each clip", element("table", head, groups))
    return [
        element(
            "p",
            "Bold and underlined: the best method. Small: the 95 % interval, by bootstrap over "
            "the tracks. A dash: the ground truth does not support the score. ↑ more is better, "
            "↓ less.",
        ),
        [
            element("h3", "All clips: means over those that support a score"),
            _scrolling(
                "Scores of all clips",
                element("table", head, _rows("", pooled, metrics, colours)),
            ),
        ]
        if several
        else (),
        _of_each_clip(summary, of_clips) if several else of_clips,
        element(
            "details",
            element("summary", element("b", "Every metric"), ", at each threshold too"),
            _scrolling("Every metric", _transposed(summary, every, colours)),
        ),
    ]


_SECONDS = element(
    "th", element("abbr", "seconds", title="mean wall-clock time per clip"),
    element("small", "s ↓"), scope="col",
)  # fmt: skip


def _rows(
    group: str,
    rows: Mapping[str, tuple[Mapping[str, Score], float]],
    metrics: Sequence[Metric],
    colours: Mapping[str, int],
) -> Markup:
    """Table rows of one clip, or of all of them."""
    best = {metric.name: _best(metric, [row[0] for row in rows.values()]) for metric in metrics}
    lines = [
        element(
            "tr",
            element("th", swatch(colours[name]), name, scope="row"),
            [_cell(metric, found.get(metric.name), best[metric.name]) for metric in metrics],
            element("td", number_text(seconds, 1)),
        )
        for name, (found, seconds) in rows.items()
    ]
    title = element("th", group, class_="group", scope="rowgroup", colspan=len(metrics) + 2)
    return element("tbody", element("tr", title) if group else (), lines)


def _transposed(
    summary: Summary, metrics: Sequence[Metric], colours: Mapping[str, int]
) -> Markup:
    """All clips' scores, a row for each metric and a column for each method."""
    names = summary.methods
    heads = [element("th", swatch(colours[name]), name, scope="col") for name in names]
    lines = []
    for metric in metrics:
        found = [summary.pooled[name].scores for name in names]
        best = _best(metric, found)
        cells = [_cell(metric, each.get(metric.name), best) for each in found]
        unit = f", {metric.unit}" if metric.unit else ""
        lines.append(element("tr", element("th", metric_title(metric), unit, scope="row"), cells))
    head = element("thead", element("tr", element("th", "", scope="col"), heads))
    return element("table", head, element("tbody", lines))


def _best(metric: Metric, rows: Sequence[Mapping[str, Score]]) -> str:
    """The best value as it is shown; empty where there is nothing to compare."""
    values = [
        row[metric.name].value
        for row in rows
        if metric.name in row and math.isfinite(row[metric.name].value)
    ]
    if len(values) < 2:
        return ""
    return value_text(metric, max(values) if metric.higher_is_better else min(values))


def _cell(metric: Metric, score: Score | None, best: str) -> Markup:
    if score is None or not math.isfinite(score.value):
        return element("td", DASH)
    shown = value_text(metric, score.value)
    value: Content = element("strong", shown) if shown == best else shown
    return element("td", value, element("small", interval_text(metric, score)))


def _column(metric: Metric) -> Markup:
    note = f"{metric.unit} {'↑' if metric.higher_is_better else '↓'}"
    name = element("abbr", metric_title(metric), title=metric.description)
    return element("th", name, element("small", note), scope="col")


def live_tables(summary: Summary) -> Content:
    """What replays measured; nothing where none was run."""
    runs = [(clip, method) for clip in summary.clips for method in clip.methods if method.live]
    if not runs:
        return ()
    names = list(dict.fromkeys(name for _, method in runs for name in method.live))
    heads = [element("th", name.replace("_", " "), scope="col") for name in names]
    head = element("thead", element("tr", element("th", "", scope="col"), heads))

    def line(title: Content, values: Mapping[str, float]) -> Markup:
        cells = [element("td", measure_text(values.get(name, math.nan))) for name in names]
        return element("tr", element("th", title, scope="row"), cells)

    means = []
    for name in dict.fromkeys(method.name for _, method in runs):
        own = [method.live for _, method in runs if method.name == name]
        found = {key: [live[key] for live in own if key in live] for key in names}
        mean = {key: math.fsum(values) / len(values) for key, values in found.items() if values}
        means.append(line(name, mean))
    lines = [
        line([clip.name, element("small", method.name)], method.live) for clip, method in runs
    ]
    each = _scrolling("Live measures of each clip", element("table", head, element("tbody", lines)))
    several = len(runs) > len(means)
    return [
        element(
            "p",
            "What only a replay to the running node has. Latency: seconds from an image to the "
            "first tracks that hold it. Lag: seconds from the last image to the last tracks. Lost "
            "frames never reached the node; dropped ones did.",
        ),
        [
            element("h3", "All clips: means"),
            _scrolling("Live measures", element("table", head, element("tbody", means))),
        ]
        if several
        else (),
        _of_each_clip(summary, each) if several else each,
    ]


def failure_table(summary: Summary) -> Content:
    """The clips without a result, each with its message."""
    if not summary.failures:
        return ()
    lines = [
        element(
            "tr",
            element("th", failure.name, scope="row"),
            element("td", failure.message, class_="words"),
        )
        for failure in summary.failures
    ]
    return _scrolling("Failures", element("table", element("tbody", lines)))


def run_tables(summary: Summary) -> Content:
    """Versions, weights, hardware and settings; where clips differ, each value with its clips."""
    if not summary.clips:
        return ()
    defaults = {info.name: info.value for info in describe(Settings())}
    settings = _agreed({clip.name: clip.settings for clip in summary.clips})
    changed = {
        name: values
        for name, values in settings.items()
        if any(value != str(defaults.get(name)) for value in values)
    }
    run = _agreed({clip.name: clip.run for clip in summary.clips})
    return [
        _facts(run),
        element("h3", "Settings that differ from the defaults"),
        _facts(changed) if changed else element("p", "None."),
        element(
            "details",
            element("summary", element("b", "All settings")),
            _facts(settings),
        ),
    ]


def _agreed(
    records: Mapping[str, Mapping[str, object]],
) -> dict[str, dict[str, list[str]]]:
    """By name: each value as text, and the clips that have it."""
    found: dict[str, dict[str, list[str]]] = {}
    for clip, record in records.items():
        for name, value in record.items():
            found.setdefault(name, {}).setdefault(str(value), []).append(clip)
    return found


def _facts(values: Mapping[str, Mapping[str, Sequence[str]]]) -> Markup:
    lines = []
    for name, found in values.items():
        texts: list[Content] = list(found)
        if len(found) > FEW:
            texts = [f"{len(found)} different values, listed in scores.json"]
        elif len(found) > 1:
            texts = [
                element("div", value, element("small", _short(clips)))
                for value, clips in found.items()
            ]
        lines.append(element("tr", element("th", name, scope="row"), element("td", texts)))
    return _scrolling("Facts", element("table", element("tbody", lines), class_="facts"))


def _short(clips: Sequence[str]) -> str:
    return ", ".join(clips) if len(clips) <= FEW else f"{len(clips)} clips"


def _of_each_clip(summary: Summary, table: Markup) -> Content:
    """The table under its title; folded away where it is long."""
    if len(summary.clips) <= FEW:
        return element("h3", "Each clip"), table
    title = element("summary", element("b", f"Each of the {len(summary.clips)} clips"))
    return element("details", title, table)


def _scrolling(name: str, table: Markup) -> Markup:
    """A table that scrolls by itself where the page is too narrow for it."""
    return element("div", table, class_="scroll", role="region", aria_label=name, tabindex=0)
