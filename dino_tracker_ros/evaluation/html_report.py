"""The report: one HTML file that needs nothing else, and its numbers as JSON and CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from dino_tracker_ros.evaluation.charts import (
    Axis,
    Series,
    bar_chart,
    count_axis,
    legend,
    line_chart,
    percent_axis,
    swatch,
)
from dino_tracker_ros.evaluation.markup import Content, Markup, element, joined
from dino_tracker_ros.evaluation.metrics import (
    LOST_DISTANCE,
    RIGHT_DISTANCE,
    TAP_VID_THRESHOLDS,
)
from dino_tracker_ros.evaluation.report_pictures import (
    LEGEND,
    clip_worst,
    pictured,
    side_by_side,
    strip,
    worst_of_all,
)
from dino_tracker_ros.evaluation.report_style import STYLE
from dino_tracker_ros.evaluation.results import (
    ClipResult,
    ResultError,
    load_results,
    result_folder,
)
from dino_tracker_ros.evaluation.scores import HEADLINES, METRICS, OCCLUSION_BINS, Metric, Score
from dino_tracker_ros.evaluation.summary import (
    Pooled,
    Summary,
    scores_csv,
    scores_json,
    summarize,
)
from dino_tracker_ros.tracking.settings import Settings, describe
from dino_tracker_ros.visualization.output import atomic_output

DASH = "–"

_BIG = ("delta_average", "average_jaccard", "occlusion_accuracy", "survival", "re_found", "pck")
_FEW_CLIPS = 12  # whose tables are shown unfolded
_FEW_FRAMES = 30  # of a calibration bin that says too little
_STRATEGY = {"strided": "all frames but a query's own", "first": "the frames after a query"}


def write_report(folder: Path) -> None:
    """Reads OUT/results and writes OUT/report.html, OUT/scores.json and OUT/scores.csv.

    What cannot be read is listed in the report and keeps nothing else from it.

    Raises:
        ResultError: there is no result at all.
        OutputError: a file cannot be written.
    """
    clips, failures = load_results(folder)
    if not clips and not failures:
        raise ResultError(f"'{folder / 'results'}' holds no results: evaluate a clip first")
    summary = summarize(clips, failures)
    for name, text in (
        ("report.html", report_html(summary, folder)),
        ("scores.json", scores_json(summary)),
        ("scores.csv", scores_csv(summary)),
    ):
        with atomic_output(folder / name, overwrite=True) as temporary:
            # Undecodable bytes of file names cannot be written otherwise.
            temporary.write_text(text, encoding="utf-8", errors="replace", newline="")


def report_html(summary: Summary, folder: Path) -> str:
    """The whole page; `folder` is only named in it."""
    colours = {name: index for index, name in enumerate(summary.methods)}
    sections = [
        ("scores", "Scores", _scores(summary, colours)),
        ("curves", "Curves", _curves(summary, colours)),
        ("live", "The live run", _live(summary)),
        ("failures", "Clips without a result", _failures(summary)),
        ("worst", "The worst tracks", _worst(summary)),
        ("clips", "Clip by clip", _clips(summary, folder)),
        ("metrics", "What the scores mean", _meanings(summary)),
        ("run", "How it was run", _run(summary)),
    ]
    shown = [(key, title, content) for key, title, content in sections if content]
    body = [
        _header(summary),
        element("nav", [element("a", title, href=f"#{key}") for key, title, _ in shown]),
        _cards(summary),
        [
            element("section", element("h2", title), content, id=key)
            for key, title, content in shown
        ],
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", "Point tracking: evaluation"),
        element("style", Markup(STYLE)),
    ]
    page = element("html", element("head", head), element("body", element("main", body)), lang="en")
    return f"<!doctype html>\n{page}\n"


# Head -----------------------------------------------------------------------------------------


def _header(summary: Summary) -> Markup:
    tracks = sum(len(clip.truth.queries) for clip in summary.clips)
    facts = [
        _many(len(summary.clips), "clip"),
        _many(tracks, "track"),
        _many(len(summary.methods), "method"),
        *(f"scored on {_STRATEGY[mode]}" for mode in sorted({c.mode for c in summary.clips})),
    ]
    failed: list[Content] = []
    if summary.failures:
        text = f"{_many(len(summary.failures), 'clip')} without a result"
        failed = [" · ", element("a", text, href="#failures", class_="alarm")]
    return element(
        "header",
        element("h1", "How well the points were tracked"),
        element("p", " · ".join(facts), failed, class_="quiet"),
    )


def _cards(summary: Summary) -> Content:
    """The tracker's main scores, and the best baseline's beside each."""
    if not summary.clips:
        return ()
    first, *others = summary.methods
    own = first.partition(",")[0]  # with other seeds or replayed, it is still the same tracker
    cards = []
    for metric in _named(_BIG):
        score = summary.pooled[first].scores.get(metric.name)
        if score is None:
            continue
        on = sum(metric.name in summary.scores.get((c.name, first), {}) for c in summary.clips)
        rivals = {
            name: found.value
            for name in others
            if not name.startswith(own)
            and (found := summary.pooled[name].scores.get(metric.name)) is not None
        }
        best = max(rivals, key=lambda name: rivals[name], default=None)
        cards.append(
            element(
                "li",
                element("span", _title(metric), class_="name"),
                element("b", _value(metric, score.value), element("small", metric.unit)),
                element("span", f"{_interval(metric, score)} · {_many(on, 'clip')}"),
                element("span", f"{best}: {_value(metric, rivals[best])}") if best else (),
            )
        )
    return [
        element("ul", cards, class_="cards"),
        element(
            "p", f"{first}, mean over the clips that support a score, with its 95 % interval.",
            class_="quiet",
        ),
    ]  # fmt: skip


# Tables ---------------------------------------------------------------------------------------


def _scores(summary: Summary, colours: Mapping[str, int]) -> Content:
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
    of_clips = _scroll("Scores of each clip", element("table", head, groups))
    return [
        element(
            "p",
            "Bold and underlined: the best method. Small: the 95 % interval, by bootstrap over "
            "the tracks. A dash: the ground truth does not support the score. ↑ more is better, "
            "↓ less.",
        ),
        [
            element("h3", "All clips: means over those that support a score"),
            _scroll(
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
            _scroll("Every metric", _transposed(summary, every, colours)),
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
            element("td", _number(seconds, 1)),
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
        lines.append(element("tr", element("th", _title(metric), unit, scope="row"), cells))
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
    return _value(metric, max(values) if metric.higher_is_better else min(values))


def _cell(metric: Metric, score: Score | None, best: str) -> Markup:
    if score is None or not math.isfinite(score.value):
        return element("td", DASH)
    shown = _value(metric, score.value)
    value: Content = element("strong", shown) if shown == best else shown
    return element("td", value, element("small", _interval(metric, score)))


def _column(metric: Metric) -> Markup:
    note = f"{metric.unit} {'↑' if metric.higher_is_better else '↓'}"
    name = element("abbr", _title(metric), title=metric.description)
    return element("th", name, element("small", note), scope="col")


# Charts ---------------------------------------------------------------------------------------


def _curves(summary: Summary, colours: Mapping[str, int]) -> Content:
    charts = [_thresholds, _survival, _occlusions, _calibration, _times]
    drawn = [chart(summary.pooled, colours) for chart in charts]
    found = [each for each in drawn if each]
    about = "All clips together; the bars are 95 % intervals."
    return [element("p", about), element("div", found, class_="charts")] if found else ()


def _thresholds(pooled: Mapping[str, Pooled], colours: Mapping[str, int]) -> Content:
    names = [f"delta_{threshold}" for threshold in TAP_VID_THRESHOLDS]
    series = []
    for method, each in pooled.items():
        found = [(x, each.scores[name]) for x, name in enumerate(names) if name in each.scores]
        series.append(_score_series(method, colours, found))
    ticks = [(float(x), str(threshold)) for x, threshold in enumerate(TAP_VID_THRESHOLDS)]
    return _chart(
        "Position",
        "Visible points closer to the truth than a threshold.",
        series,
        Axis("threshold, px at 256×256", -0.15, len(ticks) - 0.85, ticks),
        "points within it, %",
    )


def _survival(pooled: Mapping[str, Pooled], colours: Mapping[str, int]) -> Content:
    series = [Series(name, colours[name], each.survival) for name, each in pooled.items()]
    ticks = [(step / 4, f"{25 * step}") for step in range(5)]
    return _chart(
        "Survival",
        f"Tracks that have not been further than {LOST_DISTANCE:g} px (at 256×256) from their "
        "visible point.",
        series,
        Axis("share of the track's frames, %", 0.0, 1.0, ticks),
        "tracks alive, %",
        marked=False,
    )


def _occlusions(pooled: Mapping[str, Pooled], colours: Mapping[str, int]) -> Content:
    series = []
    for method, each in pooled.items():
        # Side by side, so that no interval hides another.
        shift = 0.07 * (colours[method] - (len(pooled) - 1) / 2)
        found = [
            (x + shift, each.by_occlusion[name]["average_jaccard"])
            for x, name in enumerate(OCCLUSION_BINS)
            if "average_jaccard" in each.by_occlusion.get(name, {})
        ]
        series.append(_score_series(method, colours, found))
    ticks = [(float(x), name.replace("-", "–")) for x, name in enumerate(OCCLUSION_BINS)]
    return _chart(
        "Occlusion",
        "AJ of the tracks by how long they are hidden at a stretch.",
        series,
        Axis("longest occlusion, frames", -0.4, len(ticks) - 0.6, ticks),
        "AJ, %",
    )


def _calibration(pooled: Mapping[str, Pooled], colours: Mapping[str, int]) -> Content:
    series = [
        Series(
            name,
            colours[name],
            [(b.mean_confidence, b.right) for b in each.calibration if b.count >= _FEW_FRAMES],
        )
        for name, each in pooled.items()
    ]
    ticks = [(step / 4, f"{25 * step}") for step in range(5)]
    return _chart(
        "Calibration",
        f"How often a point is visible and within {RIGHT_DISTANCE:g} px (at 256×256), by the "
        f"confidence stated; dashed: ideal. Bins of less than {_FEW_FRAMES} frames are left out.",
        series,
        Axis("confidence, %", 0.0, 1.0, ticks),
        "right, %",
        diagonal=True,
    )


def _times(pooled: Mapping[str, Pooled], colours: Mapping[str, int]) -> Content:
    stages = list(dict.fromkeys(stage for each in pooled.values() for stage in each.stages))
    rows = []
    for name, each in pooled.items():
        known = [each.stages.get(stage, 0.0) for stage in stages]
        rows.append((name, [*known, max(0.0, each.seconds - sum(known))]))
    names = [*(stage.replace("_", " ") for stage in stages), "other" if stages else "all"]
    highest = max((sum(lengths) for _, lengths in rows), default=0.0)
    if not highest:
        return ()
    about = "Mean seconds per clip of each method, by stage"
    chart = bar_chart(about, names, rows, count_axis("seconds", highest))
    return element(
        "figure", element("h3", "Time"), element("figcaption", "Mean seconds per clip."), chart,
        legend(names) if stages else (),
    )  # fmt: skip


def _score_series(
    method: str, colours: Mapping[str, int], found: Sequence[tuple[float, Score]]
) -> Series:
    return Series(
        method,
        colours[method],
        [(x, score.value) for x, score in found],
        [(score.low, score.high) for _, score in found],
    )


def _chart(
    title: str,
    caption: str,
    series: Sequence[Series],
    x: Axis,
    y_title: str,
    *,
    diagonal: bool = False,
    marked: bool = True,
) -> Content:
    values = [value for line in series for _, value in line.points]
    if not values:
        return ()
    y = percent_axis(y_title, [0.0] if diagonal else values)
    drawn = line_chart(f"{title}: {caption}", series, x, y, diagonal=diagonal, marked=marked)
    return element("figure", element("h3", title), element("figcaption", caption), drawn)


# Clips ----------------------------------------------------------------------------------------


def _live(summary: Summary) -> Content:
    runs = [(clip, method) for clip in summary.clips for method in clip.methods if method.live]
    if not runs:
        return ()
    names = list(dict.fromkeys(name for _, method in runs for name in method.live))
    heads = [element("th", name.replace("_", " "), scope="col") for name in names]
    head = element("thead", element("tr", element("th", "", scope="col"), heads))

    def line(title: Content, values: Mapping[str, float]) -> Markup:
        cells = [element("td", _measure(values.get(name, math.nan))) for name in names]
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
    each = _scroll("Live measures of each clip", element("table", head, element("tbody", lines)))
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
            _scroll("Live measures", element("table", head, element("tbody", means))),
        ]
        if several
        else (),
        _of_each_clip(summary, each) if several else each,
    ]


def _failures(summary: Summary) -> Content:
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
    return _scroll("Failures", element("table", element("tbody", lines)))


def _worst(summary: Summary) -> Content:
    worst = worst_of_all(summary.clips)
    if not worst:
        return ()
    clips = " of all clips" if len(summary.clips) > 1 else ""
    about = f"The {_many(len(worst), 'track')} of {summary.methods[0]} with the largest mean error"
    return [
        element("p", f"{about}{clips}. {LEGEND}"),
        [strip(clip, track, named=len(summary.clips) > 1) for clip, track in worst],
    ]


def _clips(summary: Summary, folder: Path) -> Content:
    shown = {(clip.name, track.index) for clip, track in worst_of_all(summary.clips)}
    with_pictures = pictured(summary.clips)
    parts = []
    for clip in summary.clips:
        truth = clip.truth
        facts = (
            f"{_many(len(truth.queries), 'track')}, {_many(truth.points.shape[1], 'frame')} of "
            f"{truth.width} × {truth.height} px"
        )
        pictures: Content = side_by_side(clip), _other_strips(clip, shown)
        if clip.name not in with_pictures:
            place = result_folder(folder, clip.name) / "pictures"
            pictures = element("p", "Its pictures are in ", element("code", str(place)), ".")
        parts.append(
            element(
                "details",
                element("summary", element("b", clip.name), f" – {facts}"),
                element("p", "From ", element("code", clip.source), "."),
                pictures,
                open=len(summary.clips) == 1,
            )
        )
    return parts


def _other_strips(clip: ClipResult, shown: set[tuple[str, int]]) -> Content:
    """Strips of the worst tracks that do not stand further up already."""
    rest = [track for track in clip_worst(clip) if (clip.name, track.index) not in shown]
    if not rest:
        return ()
    above = len(clip_worst(clip)) - len(rest)
    title = "Its worst tracks" if not above else f"Its worst tracks beside the {above} shown above"
    strips = [strip(clip, track, named=False) for track in rest]
    return [element("p", title, class_="subtitle"), strips]


# Notes ----------------------------------------------------------------------------------------


def _meanings(summary: Summary) -> Content:
    used = [m for m in METRICS if any(m.name in p.scores for p in summary.pooled.values())]
    return element(
        "dl",
        [
            (element("dt", _title(metric)), element("dd", metric.description, "."))
            for metric in used
        ],
    )


def _run(summary: Summary) -> Content:
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
        if len(found) > 1:
            texts = [
                element("div", value, element("small", ", ".join(clips)))
                for value, clips in found.items()
            ]
        lines.append(element("tr", element("th", name, scope="row"), element("td", texts)))
    return _scroll("Facts", element("table", element("tbody", lines), class_="facts"))


# Words and numbers ----------------------------------------------------------------------------


def _of_each_clip(summary: Summary, table: Markup) -> Content:
    """The table under its title; folded away where it is long."""
    if len(summary.clips) <= _FEW_CLIPS:
        return element("h3", "Each clip"), table
    title = element("summary", element("b", f"Each of the {len(summary.clips)} clips"))
    return element("details", title, table)


def _scroll(name: str, table: Markup) -> Markup:
    """A table that scrolls by itself where the page is too narrow for it."""
    return element("div", table, class_="scroll", role="region", aria_label=name, tabindex=0)


def _named(names: Sequence[str]) -> list[Metric]:
    return [metric for name in names for metric in METRICS if metric.name == name]


def _title(metric: Metric) -> Markup:
    name, _, low = metric.title.partition("_")
    return joined([name, element("sub", low)]) if low else joined(name)


def _value(metric: Metric, value: float) -> str:
    return _number(100 * value, 1) if metric.unit == "%" else _number(value, 2)


def _interval(metric: Metric, score: Score) -> str:
    return f"{_value(metric, score.low)}–{_value(metric, score.high)}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else DASH


def _measure(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else _number(value, 2)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
