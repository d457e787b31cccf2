"""How the report writes numbers."""

from __future__ import annotations

import math

from dino_tracker_ros.evaluation.markup import Markup, element, joined
from dino_tracker_ros.evaluation.scores import Metric, Score

DASH = "–"
"""Where there is no number."""


def metric_title(metric: Metric) -> Markup:
    name, _, low = metric.title.partition("_")
    return joined([name, element("sub", low)]) if low else joined(name)


def value_text(metric: Metric, value: float) -> str:
    return number_text(100 * value, 1) if metric.unit == "%" else number_text(value, 2)


def interval_text(metric: Metric, score: Score) -> str:
    return f"{value_text(metric, score.low)}–{value_text(metric, score.high)}"


def number_text(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else DASH


def measure_text(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else number_text(value, 2)


def many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
