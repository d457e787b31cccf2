"""The report's charts, of all clips together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dino_tracker_ros.evaluation.metrics import (
    LOST_DISTANCE,
    RIGHT_DISTANCE,
    TAP_VID_THRESHOLDS,
)
from dino_tracker_ros.evaluation.report.charts import (
    Axis,
    Series,
    bar_chart,
    count_axis,
    legend,
    line_chart,
    percent_axis,
)
from dino_tracker_ros.evaluation.report.markup import Content, element
from dino_tracker_ros.evaluation.report.summary import Pooled, Summary
from dino_tracker_ros.evaluation.scores import OCCLUSION_BINS, Score

_FEW_FRAMES = 30  # of a calibration bin that says too little


def curves(summary: Summary, colours: Mapping[str, int]) -> Content:
    """All charts that the results support; `colours` of the methods."""
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
